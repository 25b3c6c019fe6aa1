//! Plans of training runs: from a file or built in, and what the command line changes of them.

use crate::config::typed;
use anyhow::{Context, Result, bail, ensure};
use kasmina::experiment::Plan;
use kasmina::rollout::Flags;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Bytes of a plan.
const PLAN_BYTES_MAX: u64 = 1 << 20;
/// Epochs of a run.
const EPOCHS_MAX: u64 = 1_000_000;

/// Which plans, and what is changed of them.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct PlanArgs {
    /// The plan (YAML or JSON), as --show-plan prints one; a key that is left out has its default.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Run this plan as well, on the same data from the same random seed, and put both side by side.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Epochs, instead of the plan's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=EPOCHS_MAX))]
    epochs: Option<u64>,
    /// Give the seeds a blueprint that harms, and see that it is culled and nothing of it is left.
    #[arg(long, conflicts_with = "compare")]
    bad_blueprint: bool,
    /// The grafting strategy, instead of the plan's: its name, or the file of a component (.wasm).
    #[arg(long, value_name = "NAME|FILE")]
    strategy: Option<String>,
    /// Turn features off: `chunks` (one seed, five stages), `strategies` (a plain ramp). Separate by commas.
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    without: Vec<String>,
}

impl PlanArgs {
    /// Whether the blueprint is the bad one.
    pub(super) fn is_bad(&self) -> bool {
        self.bad_blueprint
    }

    /// The component that is the grafting strategy, if it is one.
    pub(super) fn component(&self) -> Option<&Path> {
        let named = self.strategy.as_deref().map(Path::new)?;
        named.extension().is_some_and(|extension| extension == "wasm").then_some(named)
    }

    /// The plans, each with its name; the name of a single one is empty.
    pub(super) fn read(&self) -> Result<Vec<(String, Plan)>> {
        let first = self.plan.as_deref().map_or_else(|| Ok(Plan::digits()), read)?;
        let Some(second) = &self.compare else { return Ok(vec![(String::new(), self.changed(first)?)]) };
        let (a, b) = (self.changed(first)?, self.changed(read(second)?)?);
        let b = Plan { random_seed: a.random_seed, ..b };
        let [name_a, name_b] = names(self.plan.as_deref(), second);
        Ok(vec![(name_a, a), (name_b, b)])
    }

    fn changed(&self, mut plan: Plan) -> Result<Plan> {
        let mut flags = Flags::default();
        for name in &self.without {
            ensure!(
                matches!(name.as_str(), "chunks" | "strategies") && flags.turn_off(name),
                "--without {name}: give chunks or strategies"
            );
        }
        ensure!(
            flags.strategies || self.strategy.is_none(),
            "--without strategies gives every seed a plain ramp: leave --strategy out"
        );
        if let Some(strategy) = self.strategy.as_ref().filter(|_| self.component().is_none()) {
            plan.layer.strategy.clone_from(strategy);
            plan.tamiyo.strategy = None;
        }
        plan.layer = flags.configure(plan.layer);
        plan.tamiyo.strategy = flags.strategy(plan.tamiyo.strategy);
        if self.bad_blueprint {
            plan = plan.with_bad_blueprint();
        }
        plan.epochs = self.epochs.unwrap_or(plan.epochs);
        if plan.epochs == 0 || plan.epochs > EPOCHS_MAX {
            bail!("the plan has {} epochs: give 1 to {EPOCHS_MAX}", plan.epochs);
        }
        plan.check().context("the plan")?;
        Ok(plan)
    }
}

fn read(path: &Path) -> Result<Plan> {
    let named = || path.display().to_string();
    let size = std::fs::metadata(path).with_context(named)?.len();
    ensure!(size <= PLAN_BYTES_MAX, "{}: {size} bytes, a plan may have {PLAN_BYTES_MAX}", path.display());
    let text = std::fs::read_to_string(path).with_context(named)?;
    let value: Value = serde_saphyr::from_str(&text).with_context(named)?;
    if value.is_null() {
        return Ok(Plan::digits());
    }
    Ok(typed(path, value)?)
}

/// What two plans are called: their files, or A and B where these do not tell them apart.
fn names(first: Option<&Path>, second: &Path) -> [String; 2] {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let names = [first.map_or_else(|| "default".to_owned(), stem), stem(second)];
    let tells = names[0] != names[1] && names.iter().all(|name| (1..=12).contains(&name.chars().count()));
    if tells { names } else { ["A".to_owned(), "B".to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kasmina::lifecycle::Mode;

    const NONE: PlanArgs =
        PlanArgs { plan: None, compare: None, epochs: None, bad_blueprint: false, strategy: None, without: Vec::new() };

    #[test]
    fn the_command_line_changes_the_plan() {
        let args = PlanArgs { epochs: Some(7), strategy: Some("drift_controlled".into()), ..NONE };
        let changed = args.read().unwrap().remove(0).1;
        assert_eq!((changed.epochs, changed.layer.strategy.as_str()), (7, "drift_controlled"));
        let both = PlanArgs { without: vec!["strategies".into()], ..args.clone() };
        let why = "--without strategies gives every seed a plain ramp: leave --strategy out";
        assert_eq!(both.read().unwrap_err().to_string(), why);
        let without = PlanArgs { without: vec!["chunks".into(), "strategies".into()], ..NONE };
        let plan = without.read().unwrap().remove(0).1;
        assert_eq!((plan.layer.mode, plan.layer.seeds, plan.layer.strategy.as_str()), (Mode::Legacy, 1, "fixed_ramp"));
        let wrong = PlanArgs { without: vec!["gpu".into()], ..args };
        assert_eq!(wrong.read().unwrap_err().to_string(), "--without gpu: give chunks or strategies");
    }

    #[test]
    fn two_plans_have_names_that_tell_them_apart_and_one_random_seed() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        std::fs::write(&a, "random_seed: 5\n").unwrap();
        std::fs::write(&b, "layer: {strategy: grad_norm_gated}\n").unwrap();
        let plans = PlanArgs { plan: Some(a.clone()), compare: Some(b.clone()), ..NONE }.read().unwrap();
        let told: Vec<_> = plans.iter().map(|(name, plan)| (name.as_str(), plan.random_seed)).collect();
        assert_eq!(told, [("a", 5), ("b", 5)]);
        assert_eq!(names(None, &b), ["default", "b"]);
        assert_eq!(names(Some(&a), &a), ["A", "B"]);
    }

    #[test]
    fn a_plan_that_cannot_be_used_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.yaml");
        let why = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = PlanArgs { plan: Some(path.clone()), ..NONE }.read().unwrap_err();
            format!("{error:#}").replace(folder.path().to_str().unwrap(), "")
        };
        assert!(
            why("epochz: 3\n").starts_with("/plan.yaml: unknown key `epochz`; the nearest known key is `epochs`"),
            "{}",
            why("epochz: 3\n")
        );
        assert_eq!(why("epochs: 0\n"), "the plan has 0 epochs: give 1 to 1000000");
        assert!(why("hidden: 3\n").contains("4 seeds cannot tile a layer of width 3"), "{}", why("hidden: 3\n"));
        assert!(why("epochs: [1\n").starts_with("/plan.yaml: "));
    }
}

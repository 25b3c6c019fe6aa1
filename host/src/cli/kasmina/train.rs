//! `gavel kasmina train`: a network that is too small for its task, and a layer that grows inside it.
//!
//! The run itself is `kasmina::experiment`; here it is given its plan, its device, its governor and its Tamiyo, watched,
//! told and drawn. Two plans are compared on the same data from the same random seed, one after the other.

use super::super::Outcome;
use super::super::output::{line, note, print_json};
use super::plan::PlanArgs;
use super::plot;
use super::setting::{Components, DeviceArgs, SettingArgs};
use super::told::{Run, Told};
use super::watch::Watch;
use anyhow::{Context, Result, ensure};
use kasmina::blueprint::Record;
use kasmina::device::Preference;
use kasmina::digits::{self, Dataset};
use kasmina::experiment::{self, Plan};
use kasmina::govern::Governor;
use kasmina::layer::Library;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Grow a layer inside a network that is too small for its task, and see what it is worth.
///
/// The task is handwritten digits (scikit-learn's, built in). A small network is trained and frozen; then seeds are
/// germinated in it, trained apart, blended in, measured, and kept or taken out again. Every transition is judged and
/// recorded by a kernel. Exit code 1: the network came out worse, or a bad blueprint was not culled or left something
/// behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kasmina train
  gavel kasmina train --plot growth.svg --data ./growth
  gavel kasmina train --bad-blueprint
  gavel kasmina train --plan a.yaml --compare b.yaml --plot both.svg
  gavel kasmina train --strategy patient-ramp.wasm --tamiyo cautious-tamiyo.wasm
  gavel kasmina train --show-plan")]
pub(super) struct Args {
    #[command(flatten)]
    plans: PlanArgs,
    /// Print the plan as it would run, and stop.
    #[arg(long, conflicts_with = "compare")]
    show_plan: bool,
    /// Draw accuracy, blends and stages into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Save the grown layer into this file; `gavel kasmina inspect` shows it.
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    save: Option<PathBuf>,
    /// A component that commands, in Tamiyo's place (.wasm).
    #[arg(long, value_name = "FILE", conflicts_with = "bad_blueprint")]
    tamiyo: Option<PathBuf>,
    #[command(flatten)]
    setting: SettingArgs,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let (plans, file) = (args.plans.read()?, args.setting.file()?);
    let components = Components::load(&file, args.plans.component(), args.tamiyo.as_deref())?;
    if args.show_plan {
        return show_plan(&plans[0].1, &components);
    }
    ensure!(
        !args.plans.is_bad() || components.commander().is_none(),
        "--bad-blueprint is for the Tamiyo of the plan: give a configuration without kasmina.tamiyo"
    );
    let job = Job {
        plans,
        components,
        data: digits::load()?,
        preference: args.setting.device.preference()?,
        threads: args.setting.device.threads(),
        is_quiet: as_json,
        keeps_layer: args.save.is_some(),
    };
    // A device that is not there is found out before anything is trained.
    DeviceArgs::open(&job.preference, job.threads)?;
    let (name, sizes) = (job.data.name.clone(), sizes(&job.data));
    let (runs, ledger) = args.setting.governed(file, move |mut governor| job.run(&mut governor))?;
    if let (Some(path), Some(saved)) = (&args.save, &runs[0].saved) {
        std::fs::write(path, saved).with_context(|| format!("the layer cannot be saved in {}", path.display()))?;
    }
    let told = Told { data: name, sizes, runs, ledger, is_bad: args.plans.is_bad() };
    if let Some(path) = &args.plot {
        let drawn: Vec<_> = told.runs.iter().map(|run| run.watch.drawn.clone()).collect();
        plot::write(path, &format!("A network that grows: {}", told.data), &told.subtitle(), &drawn)?;
    }
    if as_json {
        print_json(&told.as_json()?)?;
    } else {
        told.print()?;
    }
    Ok(if told.is_good() { Outcome::Yes } else { Outcome::No })
}

fn show_plan(plan: &Plan, components: &Components) -> Result<Outcome> {
    let plan = components.strategy_of(plan, &mut Library::standard());
    // JSON is YAML too; here its numbers are shortest.
    line(&serde_json::to_string_pretty(&plan)?)?;
    if let Some(name) = components.commander() {
        note(&format!("the component `{name}` commands: what the plan says of tamiyo does nothing"));
    }
    Ok(Outcome::Yes)
}

fn sizes(data: &Dataset) -> [usize; 3] {
    [data.training.rows(), data.validation.rows(), data.held_out.rows()]
}

/// What is to be run.
struct Job {
    plans: Vec<(String, Plan)>,
    components: Components,
    data: Dataset,
    preference: Preference,
    threads: Option<usize>,
    is_quiet: bool,
    keeps_layer: bool,
}

impl Job {
    fn run(&self, governor: &mut dyn Governor) -> Result<Vec<Run>> {
        self.plans.iter().map(|(name, plan)| self.one(name, plan, governor)).collect()
    }

    fn one(&self, name: &str, plan: &Plan, governor: &mut dyn Governor) -> Result<Run> {
        let mut library = Library::standard();
        let plan = &self.components.strategy_of(plan, &mut library);
        let library = library.shared();
        let mut tamiyo = self.components.tamiyo_of(plan, &library);
        let mut watch = Watch::new(name, plan.epochs, self.is_quiet);
        let mut saved = None;
        let mut backend = || DeviceArgs::open(&self.preference, self.threads);
        let report =
            experiment::run(plan, &self.data, &mut backend, &library, &mut *tamiyo, governor, &mut |line, layer| {
                watch.see(line);
                if self.keeps_layer && line.epoch + 1 == plan.epochs {
                    saved = Some(layer.save());
                }
            });
        watch.end();
        let report = report.with_context(|| if name.is_empty() { "the run".to_owned() } else { name.to_owned() })?;
        watch.drawn.baseline = report.baseline_accuracy;
        Ok(Run { plan: plan.clone(), watch, report, blueprints: used(&library), saved })
    }
}

/// The blueprints that were used, with their records.
fn used(library: &Arc<Mutex<Library>>) -> Vec<(String, String, Record)> {
    let library = library.lock().unwrap_or_else(PoisonError::into_inner);
    let all = library.blueprints.all().filter(|(_, _, record)| record.used > 0);
    all.map(|(id, blueprint, record)| (blueprint.name.clone(), id.to_owned(), *record)).collect()
}

//! What came of a training run, in a table for people and in JSON for programs.

use super::super::output::{line, shown};
use super::watch::Watch;
use anyhow::Result;
use kasmina::blueprint::{Function, Record};
use kasmina::experiment::{Plan, Report, mcnemar};
use kasmina::state::Lifecycle;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One run, and what was seen of it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) report: Report,
    pub(super) watch: Watch,
    /// Name, id and record of each blueprint that was used.
    pub(super) blueprints: Vec<(String, String, Record)>,
    pub(super) saved: Option<Vec<u8>>,
}

/// All that a command has to tell.
#[derive(Debug)]
pub(super) struct Told {
    /// What the data are.
    pub(super) data: String,
    /// Images that train, that decide, and that are held out.
    pub(super) sizes: [usize; 3],
    /// One run, or two that are compared.
    pub(super) runs: Vec<Run>,
    /// Where the ledger is kept, if it is.
    pub(super) ledger: Option<PathBuf>,
    /// Whether the blueprint was the bad one.
    pub(super) is_bad: bool,
}

/// Characters of a blueprint's name and of a denial's reason in a table.
const NAME_CHARS: usize = 24;
const REASON_CHARS: usize = 90;

impl Told {
    /// Whether the runs came to what they should.
    pub(super) fn is_good(&self) -> bool {
        self.runs.iter().all(|run| {
            let Report { restored_bit_for_bit, culled, final_accuracy, baseline_accuracy, .. } = run.report;
            if self.is_bad { restored_bit_for_bit && culled > 0 } else { final_accuracy >= baseline_accuracy }
        })
    }

    /// What was run, in one line.
    pub(super) fn subtitle(&self) -> String {
        self.runs.iter().map(Run::what).collect::<Vec<_>>().join("   |   ")
    }

    pub(super) fn as_json(&self) -> Result<Value> {
        let runs: Vec<Value> = self.runs.iter().map(Run::as_json).collect::<Result<_>>()?;
        let [training, validation, held_out] = self.sizes;
        let mut told = json!({
            "data": {"name": self.data, "training": training, "validation": validation, "held_out": held_out},
            "runs": runs,
            "good": self.is_good(),
            "ledger": self.ledger,
        });
        if let [a, b] = &self.runs[..] {
            told["comparison"] = json!({
                "difference": b.report.final_accuracy - a.report.final_accuracy,
                "test": mcnemar(&a.report.right, &b.report.right),
            });
        }
        Ok(told)
    }

    pub(super) fn print(&self) -> Result<()> {
        let [training, validation, held_out] = self.sizes;
        let data = &self.data;
        line(&format!("{data}: {training} images train, {validation} decide, {held_out} are held out and only judge"))?;
        self.runs.iter().try_for_each(|run| run.print(self.is_bad))?;
        if let [a, b] = &self.runs[..] {
            print_comparison(a, b)?;
        }
        match &self.ledger {
            Some(ledger) => line(&format!("\non record in {0}: gavel verify {0}", ledger.display())),
            None => line("\nthe record of all this ends here; --data DIR keeps it, for gavel verify"),
        }
    }
}

impl Run {
    fn what(&self) -> String {
        let Plan { layer, hidden, .. } = &self.plan;
        let name =
            if self.watch.drawn.name.is_empty() { String::new() } else { format!("{}: ", self.watch.drawn.name) };
        let (seeds, strategy, backend) = (layer.seeds, &layer.strategy, self.report.device.backend);
        let seeds = if seeds == 1 { "1 seed".to_owned() } else { format!("{seeds} seeds") };
        format!("{name}{seeds} in {hidden} hidden units, {}, {strategy}, on {backend}", self.grown())
    }

    /// The functions that its seeds grew.
    fn grown(&self) -> String {
        let describe = |name: &str| {
            let found = self.plan.descriptions.iter().find(|blueprint| blueprint.name == name);
            match found.map(|blueprint| blueprint.function) {
                Some(Function::Adapter { rank }) if !name.contains(&rank.to_string()) => {
                    format!("{name} (adapter of rank {rank})")
                }
                _ => name.to_owned(),
            }
        };
        let names: Vec<String> = self.blueprints.iter().map(|(name, ..)| describe(name)).collect();
        if names.is_empty() { "no blueprint".to_owned() } else { names.join(" and ") }
    }

    fn as_json(&self) -> Result<Value> {
        let stages: BTreeMap<&str, usize> =
            self.watch.ended().into_iter().map(|(stage, count)| (stage.name(), count)).collect();
        let blueprints =
            self.blueprints.iter().map(|(name, id, record)| json!({"name": name, "id": id, "record": record}));
        Ok(json!({
            "name": self.watch.drawn.name,
            "plan": serde_json::to_value(&self.plan)?,
            "report": serde_json::to_value(&self.report)?,
            "seeds_through_all_stages": self.watch.whole_way(),
            "seeds_by_stage": stages,
            "transitions": {"allowed": self.watch.allowed, "denied": self.watch.denied},
            "blueprints": blueprints.collect::<Vec<_>>(),
        }))
    }

    fn print(&self, is_bad: bool) -> Result<()> {
        let Report { device, baseline_epochs, baseline_accuracy, final_accuracy, .. } = &self.report;
        line(&format!("\n{}", self.what()))?;
        line(&format!("  the network was frozen after {baseline_epochs} epochs; then {} more", self.plan.epochs))?;
        line(&format!("  device              {}, {}", shown(&device.name, 60), shown(&device.detail, 60)))?;
        line(&format!("  accuracy before     {:>6.1} %", 100.0 * baseline_accuracy))?;
        let points = 100.0 * (final_accuracy - baseline_accuracy);
        line(&format!("  accuracy after      {:>6.1} %   {points:+.1} points", 100.0 * final_accuracy))?;
        let (before, after) = (self.report.baseline_loss, self.report.final_loss);
        line(&format!("  loss                {before:>8.3} to {after:.3}"))?;
        self.print_seeds()?;
        if is_bad {
            let restored = self.report.restored_bit_for_bit;
            let told = if restored { "bit for bit: every logit and every weight" } else { "NO: something is left" };
            line(&format!("  restored            {told}"))?;
        }
        self.print_blueprints()
    }

    fn print_seeds(&self) -> Result<()> {
        let ended = self.watch.ended().into_iter().map(|(stage, count)| format!("{count} {stage}"));
        line(&format!("  seeds at the end    {}", ended.collect::<Vec<_>>().join(", ")))?;
        let whole: Vec<String> = self.watch.whole_way().iter().take(16).map(ToString::to_string).collect();
        let count = self.watch.whole_way().len();
        let listed = if whole.is_empty() { String::new() } else { format!(": {}", whole.join(", ")) };
        line(&format!("  through all stages  {count}{listed}"))?;
        let (culled, rolled_back) = (self.report.culled, self.report.rolled_back);
        line(&format!("  taken out           {culled} culled, {rolled_back} rolled back"))?;
        let denied: u64 = self.watch.denied.values().sum();
        line(&format!("  transitions         {} allowed, {denied} denied", self.watch.allowed))?;
        for (why, count) in &self.watch.denied {
            line(&format!("    {count:>6} × {}", shown(why, REASON_CHARS)))?;
        }
        Ok(())
    }

    fn print_blueprints(&self) -> Result<()> {
        line("  blueprint                  used  fossilised  culled  rolled back  mean gain")?;
        for (name, _, record) in &self.blueprints {
            let Record { used, fossilized, culled, rolled_back, mean_gain } = record;
            let (name, gain) = (shown(name, NAME_CHARS), format!("{mean_gain:+.4}"));
            line(&format!("    {name:<24} {used:>5} {fossilized:>11} {culled:>7} {rolled_back:>12} {gain:>10}"))?;
        }
        Ok(())
    }
}

/// A figure of a run, and how it is shown.
type Shown = (&'static str, fn(&Run) -> String);

fn print_comparison(a: &Run, b: &Run) -> Result<()> {
    let (name_a, name_b) = (&a.watch.drawn.name, &b.watch.drawn.name);
    let points = 100.0 * (b.report.final_accuracy - a.report.final_accuracy);
    line(&format!("\n{name_b} against {name_a}, on the same data: {points:+.1} points"))?;
    let rows: [Shown; 5] = [
        ("accuracy after", |run| format!("{:.1} %", 100.0 * run.report.final_accuracy)),
        ("loss after", |run| format!("{:.3}", run.report.final_loss)),
        ("fossilised", |run| run.report.fossilized.to_string()),
        ("culled", |run| run.report.culled.to_string()),
        ("first fossilised", |run| run.first_fossilized().map_or("never".to_owned(), |epoch| format!("epoch {epoch}"))),
    ];
    line(&format!("  {:<20} {name_a:>14} {name_b:>14}", ""))?;
    for (name, of) in rows {
        line(&format!("  {name:<20} {:>14} {:>14}", of(a), of(b)))?;
    }
    let test = mcnemar(&a.report.right, &b.report.right);
    line(&format!(
        "  {} images only {name_a} had right, {} only {name_b}; by chance at least as uneven: p = {:.3} (McNemar)",
        test.only_a, test.only_b, test.p_value
    ))
}

impl Run {
    fn first_fossilized(&self) -> Option<u64> {
        let lines = self.report.lines.iter();
        lines.filter(|line| line.stages.contains(&Lifecycle::Fossilized)).map(|line| line.epoch).next()
    }
}

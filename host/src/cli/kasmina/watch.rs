//! What is seen of a training run while it goes on: a progress line, and what is told and drawn afterwards.

use super::plot::Drawn;
use indicatif::{ProgressBar, ProgressStyle};
use kasmina::experiment::EpochLine;
use kasmina::govern::Ruling;
use kasmina::state::Lifecycle;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A run so far.
#[derive(Debug)]
pub(super) struct Watch {
    bar: ProgressBar,
    pub(super) drawn: Drawn,
    /// The stages that each seed was in; DORMANT is not counted.
    pub(super) visited: BTreeMap<usize, BTreeSet<Lifecycle>>,
    /// Transitions that were asked for and allowed.
    pub(super) allowed: u64,
    /// Transitions that were denied, by reason.
    pub(super) denied: BTreeMap<String, u64>,
}

/// Reasons of denials that are told apart; the others are counted together.
const REASONS_MAX: usize = 8;

/// What a seed goes through that ends as part of the network.
const WHOLE_WAY: [Lifecycle; 7] = [
    Lifecycle::Germinated,
    Lifecycle::Training,
    Lifecycle::Grafting,
    Lifecycle::Stabilization,
    Lifecycle::Evaluating,
    Lifecycle::FineTuning,
    Lifecycle::Fossilized,
];

impl Watch {
    /// Nothing seen yet. A hidden bar is for runs whose output a program reads.
    pub(super) fn new(name: &str, epochs: u64, hidden: bool) -> Self {
        let bar = if hidden { ProgressBar::hidden() } else { ProgressBar::new(epochs) };
        if let Ok(style) = ProgressStyle::with_template("{prefix}epoch {pos}/{len} {bar:24} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        if !name.is_empty() {
            bar.set_prefix(format!("{name}: "));
        }
        let drawn = Drawn { name: name.to_owned(), ..Drawn::default() };
        Self { bar, drawn, visited: BTreeMap::new(), allowed: 0, denied: BTreeMap::new() }
    }

    /// An epoch ended.
    pub(super) fn see(&mut self, line: &EpochLine) {
        for (seed, &stage) in line.stages.iter().enumerate().filter(|(_, stage)| **stage != Lifecycle::Dormant) {
            self.visited.entry(seed).or_default().insert(stage);
        }
        for (_, ruling) in &line.transitions {
            match ruling {
                Ruling::Allowed => self.allowed += 1,
                Ruling::Denied(why) => {
                    let known = self.denied.contains_key(why) || self.denied.len() < REASONS_MAX;
                    let why = if known { why.as_str() } else { "other reasons" };
                    *self.denied.entry(why.to_owned()).or_default() += 1;
                }
            }
        }
        self.drawn.accuracy.push(line.accuracy);
        self.drawn.alphas.push(line.alphas.clone());
        self.drawn.stages.push(line.stages.clone());
        self.bar.set_message(message(line));
        self.bar.inc(1);
    }

    /// The run is over.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// How many seeds are in each stage at the end; DORMANT ones too.
    pub(super) fn ended(&self) -> BTreeMap<Lifecycle, usize> {
        counts(self.drawn.stages.last().map_or(&[], Vec::as_slice))
    }

    /// Seeds that went through all stages of the way into the network.
    pub(super) fn whole_way(&self) -> Vec<usize> {
        let went = self.visited.iter().filter(|(_, stages)| WHOLE_WAY.iter().all(|stage| stages.contains(stage)));
        went.map(|(&seed, _)| seed).collect()
    }
}

fn counts(stages: &[Lifecycle]) -> BTreeMap<Lifecycle, usize> {
    let mut counts = BTreeMap::new();
    for &stage in stages {
        *counts.entry(stage).or_default() += 1;
    }
    counts
}

fn message(line: &EpochLine) -> String {
    let mut message = format!("loss {:.4}  accuracy {:.1} %", line.loss, 100.0 * line.accuracy);
    for (stage, count) in counts(&line.stages).into_iter().filter(|(stage, _)| *stage != Lifecycle::Dormant) {
        // Writing to a string cannot fail.
        let _ = write!(message, "  {count} {stage}");
    }
    message
}

//! The rules of the examples, computed natively in the layer's own types: what their components must answer.

use kasmina::govern::{Command, Order};
use kasmina::observe::{Gate, Observation};
use kasmina::state::Lifecycle;
use kasmina::strategy::{StrategyInput, StrategyStep};

/// `patient-ramp`, as it is configured.
#[derive(Clone, Copy)]
pub(crate) struct Ramp {
    pub(crate) drift_max: f64,
    pub(crate) gradient_min: f64,
    pub(crate) gradient_max: f64,
    pub(crate) pause_epochs: u32,
}

impl Default for Ramp {
    fn default() -> Self {
        Self { drift_max: 0.1, gradient_min: 0.05, gradient_max: 1.0, pause_epochs: 5 }
    }
}

impl Ramp {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "few drifts; alpha is an f32")]
    pub(crate) fn step(self, seed: &StrategyInput) -> StrategyStep {
        let gradient_is_calm = self.gradient_min <= seed.gradient_norm && seed.gradient_norm <= self.gradient_max;
        let begins = seed.alpha == 0.0;
        if seed.pause_left != 0 || seed.drifts.is_empty() || !(begins || gradient_is_calm) {
            return StrategyStep::HOLD;
        }
        let sum = seed.drifts.iter().fold(0.0, |sum, drift| sum + f64::from(*drift));
        let drift = sum / seed.drifts.len() as f64;
        let is_small = drift < self.drift_max;
        if !is_small {
            return StrategyStep { add: 0.0, pause: self.pause_epochs };
        }
        let pace = 2.0 * (1.0 - drift.max(0.0) / self.drift_max);
        StrategyStep::add(f64::min(pace / f64::from(seed.steps), 1.0) as f32)
    }
}

/// `cautious-tamiyo`, as it is configured.
pub(crate) struct Caution<'a> {
    pub(crate) blueprints: &'a [&'a str],
    pub(crate) every: u64,
    pub(crate) growing_max: usize,
    pub(crate) patience: u32,
    pub(crate) strategy: Option<&'a str>,
}

impl Caution<'_> {
    pub(crate) fn decide(&self, observed: &Observation) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut trained = 0;
        for seed in &observed.seeds {
            let patience_is_over = seed.stage == Lifecycle::Training && seed.epochs_in_state >= self.patience;
            let (order, reason) = match &seed.gate {
                Gate::Unstable { reason } => (Order::Rollback, format!("unstable: {reason}")),
                Gate::Failed { reason } => (Order::Cull, format!("failed: {reason}")),
                Gate::Open { to } => (Order::to(*to), "its gate is open".to_owned()),
                Gate::Shut { .. } if patience_is_over => {
                    (Order::Cancel, format!("it has not learned its chunk in {} epochs", seed.epochs_in_state))
                }
                Gate::Shut { .. } => continue,
            };
            trained += usize::from(order == Order::Train);
            if order != Order::Train || trained <= observed.training_slots_free {
                commands.push(command(observed, seed.seed, order, reason));
            }
        }
        if observed.epoch.is_multiple_of(self.every) && observed.seeds.len() < self.growing_max {
            commands.extend(observed.candidates.first().map(|seed| self.germinate(observed, *seed)));
        }
        commands
    }

    fn germinate(&self, observed: &Observation, seed: usize) -> Command {
        let turn = usize::try_from(observed.epoch / self.every % self.blueprints.len() as u64).unwrap();
        Command {
            blueprint: Some(self.blueprints[turn].to_owned()),
            strategy: self.strategy.map(str::to_owned),
            ..command(observed, seed, Order::Germinate, "its chunk varies most".to_owned())
        }
    }
}

fn command(observed: &Observation, seed: usize, order: Order, reason: String) -> Command {
    let word = serde_json::to_value(order).unwrap();
    let id = format!("cautious-tamiyo/{}/{seed}/{}", observed.epoch, word.as_str().unwrap());
    Command { id, seed, order, blueprint: None, blueprint_ir: None, strategy: None, reason }
}

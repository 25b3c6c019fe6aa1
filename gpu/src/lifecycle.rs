//! The lifecycle: which stage leads where, behind which gate, after how many epochs. Nothing here acts: the layer asks.
//!
//! The table, as in `specs` (Lifecycle, 11 states):
//!
//! | from | to | gate | epochs in the stage, at least |
//! |---|---|---|---|
//! | DORMANT | GERMINATED | a known blueprint | 0 |
//! | GERMINATED | TRAINING | a training slot is free | 0 |
//! | GERMINATED | CANCELLED | none | 0 |
//! | TRAINING | GRAFTING | denoising loss ≤ 0.01 | 100 |
//! | TRAINING | CULLED | timed out | 100 |
//! | TRAINING | CANCELLED | none | 100 |
//! | GRAFTING | STABILIZATION | ramp complete | 50 |
//! | STABILIZATION | EVALUATING | drift stable | 20 |
//! | EVALUATING | `FINE_TUNING` | delta > 0, stability ≥ 0.8 | 30 |
//! | EVALUATING | CULLED | delta < -0.05, error rate > 0.1, errors > 5, or timed out | 30 |
//! | `FINE_TUNING` | FOSSILIZED | improvement ≥ 1 %, stability ≥ 0.95 | 50 |
//! | `FINE_TUNING` | CULLED | timed out | 50 |
//! | CULLED, CANCELLED | DORMANT | the embargo is over | 5 |
//! | TRAINING to `FINE_TUNING` | `ROLLED_BACK` | none | none |
//!
//! A seed that signalled an instability in this epoch may not go onward in it; what brings it down stays open.
//!
//! The least number of epochs holds for every way out of a stage, a cull and a cancellation too; only a rollback skips
//! it. FOSSILIZED and `ROLLED_BACK` are terminal.
//!
//! [`Mode::Legacy`] knows five of these stages (DORMANT, GERMINATED, TRAINING, GRAFTING, FOSSILIZED) and one straight
//! way through them: GRAFTING leads to FOSSILIZED when the ramp is complete. It has no way back.

use crate::Error;
use crate::observe::{Evaluation, Gate};
use crate::state::Lifecycle;
use serde::{Deserialize, Serialize};

/// Which lifecycle a layer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All eleven stages; from [`crate::chunks::SEEDS_MIN`] seeds on.
    #[default]
    Full,
    /// One seed, five stages.
    Legacy,
}

/// All thresholds and minima. Epochs are whole epochs spent in the stage: with a minimum of 100 the command that leads out
/// of it can land at the end of the hundredth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// Least epochs in DORMANT.
    pub dormant_epochs_min: u32,
    /// Least epochs in GERMINATED.
    pub germinated_epochs_min: u32,
    /// Least epochs in TRAINING.
    pub training_epochs_min: u32,
    /// Least epochs in GRAFTING.
    pub grafting_epochs_min: u32,
    /// Least epochs in STABILIZATION.
    pub stabilization_epochs_min: u32,
    /// Least epochs in EVALUATING.
    pub evaluating_epochs_min: u32,
    /// Least epochs in `FINE_TUNING`.
    pub fine_tuning_epochs_min: u32,
    /// Least epochs in CULLED and CANCELLED.
    pub embargo_epochs: u32,
    /// Epochs in TRAINING after which it has timed out and may be culled.
    pub training_epochs_max: u32,
    /// Epochs in GRAFTING after which an incomplete ramp signals an instability.
    pub grafting_epochs_max: u32,
    /// Epochs in STABILIZATION after which a drift that is not stable signals an instability.
    pub stabilization_epochs_max: u32,
    /// Epochs in EVALUATING after which it has timed out and may be culled.
    pub evaluating_epochs_max: u32,
    /// Epochs in `FINE_TUNING` after which it has timed out and may be culled.
    pub fine_tuning_epochs_max: u32,
    /// TRAINING to GRAFTING: the greatest denoising loss.
    pub denoising_loss_max: f64,
    /// N: plain steps of a ramp.
    pub ramp_steps: u32,
    /// The greatest step of any strategy, in Nths of the ramp.
    pub ramp_step_max: f32,
    /// STABILIZATION to EVALUATING: how many epochs' drifts must be close together (all of them in STABILIZATION).
    pub drift_window: u32,
    /// STABILIZATION to EVALUATING: drift is stable when the greatest of those less the least is at most this.
    pub drift_spread_max: f32,
    /// EVALUATING to `FINE_TUNING`: the delta must be above this.
    pub delta_above: f64,
    /// EVALUATING to `FINE_TUNING`: the least stability.
    pub evaluating_stability_min: f64,
    /// EVALUATING to CULLED: a delta below this.
    pub delta_cull_below: f64,
    /// EVALUATING to CULLED: an error rate above this.
    pub error_rate_max: f64,
    /// EVALUATING to CULLED: more errors than this since germination.
    pub errors_max: u32,
    /// `FINE_TUNING` to FOSSILIZED: the least improvement of the task's loss, as a share.
    pub improvement_min: f64,
    /// `FINE_TUNING` to FOSSILIZED: the least stability.
    pub fine_tuning_stability_min: f64,
    /// How many epochs' losses a stability is of.
    pub stability_window: u32,
    /// Over how many epochs the alpha of a seed that contributes falls to 0 when it is culled: the cull lands with the
    /// last step. 1 takes it out in one step, at the boundary that ruled it.
    pub withdrawal_epochs: u32,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            dormant_epochs_min: 0,
            germinated_epochs_min: 0,
            training_epochs_min: 100,
            grafting_epochs_min: 50,
            stabilization_epochs_min: 20,
            evaluating_epochs_min: 30,
            fine_tuning_epochs_min: 50,
            embargo_epochs: 5,
            training_epochs_max: 1_000,
            grafting_epochs_max: 500,
            stabilization_epochs_max: 200,
            evaluating_epochs_max: 300,
            fine_tuning_epochs_max: 500,
            denoising_loss_max: 0.01,
            ramp_steps: 30,
            ramp_step_max: 3.0,
            drift_window: 5,
            drift_spread_max: 0.02,
            delta_above: 0.0,
            evaluating_stability_min: 0.8,
            delta_cull_below: -0.05,
            error_rate_max: 0.1,
            errors_max: 5,
            improvement_min: 0.01,
            fine_tuning_stability_min: 0.95,
            stability_window: 10,
            withdrawal_epochs: 10,
        }
    }
}

/// The longest drift and stability windows, for they are kept with every seed.
const WINDOW_MAX: u32 = 1_000;

/// The fewest losses that a stability can be told from.
const STABILITY_LOSSES_MIN: u32 = 3;

impl Gates {
    /// Check that the values can be used.
    ///
    /// # Errors
    /// Names the key that cannot.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key, value: String, problem: &str| Err(Error::Config { key, value, problem: problem.to_owned() });
        let windows = [
            ("gates.drift_window", self.drift_window),
            ("gates.stability_window", self.stability_window),
            ("gates.ramp_steps", self.ramp_steps),
            ("gates.withdrawal_epochs", self.withdrawal_epochs),
        ];
        if let Some((key, value)) = windows.into_iter().find(|(_, value)| !(1..=WINDOW_MAX).contains(value)) {
            return refuse(key, value.to_string(), "it must be from 1 to 1000");
        }
        if self.stability_window < STABILITY_LOSSES_MIN {
            let problem = "it must be from 3 to 1000: fewer losses say nothing of stability";
            return refuse("gates.stability_window", self.stability_window.to_string(), problem);
        }
        for (key, stage) in [
            ("gates.training_epochs_max", Lifecycle::Training),
            ("gates.grafting_epochs_max", Lifecycle::Grafting),
            ("gates.stabilization_epochs_max", Lifecycle::Stabilization),
            ("gates.evaluating_epochs_max", Lifecycle::Evaluating),
            ("gates.fine_tuning_epochs_max", Lifecycle::FineTuning),
        ] {
            let most = self.epochs_max(stage).unwrap_or(u32::MAX);
            if most < self.epochs_min(stage) {
                return refuse(key, most.to_string(), "it must not be below the least epochs of that stage");
            }
        }
        for (key, value) in self.thresholds() {
            if !value.is_finite() {
                return refuse(key, value.to_string(), "it must be finite");
            }
        }
        if self.ramp_step_max <= 0.0 {
            return refuse("gates.ramp_step_max", self.ramp_step_max.to_string(), "it must be above 0");
        }
        Ok(())
    }

    fn thresholds(&self) -> [(&'static str, f64); 10] {
        [
            ("gates.denoising_loss_max", self.denoising_loss_max),
            ("gates.ramp_step_max", f64::from(self.ramp_step_max)),
            ("gates.drift_spread_max", f64::from(self.drift_spread_max)),
            ("gates.delta_above", self.delta_above),
            ("gates.evaluating_stability_min", self.evaluating_stability_min),
            ("gates.delta_cull_below", self.delta_cull_below),
            ("gates.error_rate_max", self.error_rate_max),
            ("gates.improvement_min", self.improvement_min),
            ("gates.fine_tuning_stability_min", self.fine_tuning_stability_min),
            ("gates.errors_max", f64::from(self.errors_max)),
        ]
    }

    /// The least epochs in a stage before anything but a rollback leads out of it.
    #[must_use]
    pub fn epochs_min(&self, stage: Lifecycle) -> u32 {
        match stage {
            Lifecycle::Dormant => self.dormant_epochs_min,
            Lifecycle::Germinated => self.germinated_epochs_min,
            Lifecycle::Training => self.training_epochs_min,
            Lifecycle::Grafting => self.grafting_epochs_min,
            Lifecycle::Stabilization => self.stabilization_epochs_min,
            Lifecycle::Evaluating => self.evaluating_epochs_min,
            Lifecycle::FineTuning => self.fine_tuning_epochs_min,
            Lifecycle::Culled | Lifecycle::Cancelled => self.embargo_epochs,
            Lifecycle::Fossilized | Lifecycle::RolledBack => 0,
        }
    }

    /// After how many epochs in a stage it has timed out, where it can.
    #[must_use]
    pub fn epochs_max(&self, stage: Lifecycle) -> Option<u32> {
        match stage {
            Lifecycle::Training => Some(self.training_epochs_max),
            Lifecycle::Grafting => Some(self.grafting_epochs_max),
            Lifecycle::Stabilization => Some(self.stabilization_epochs_max),
            Lifecycle::Evaluating => Some(self.evaluating_epochs_max),
            Lifecycle::FineTuning => Some(self.fine_tuning_epochs_max),
            _ => None,
        }
    }
}

/// Where a stage leads.
#[must_use]
pub fn targets(mode: Mode, from: Lifecycle) -> &'static [Lifecycle] {
    use Lifecycle as L;
    match (mode, from) {
        (_, L::Dormant) => &[L::Germinated],
        (Mode::Full, L::Germinated) => &[L::Training, L::Cancelled],
        (Mode::Full, L::Training) => &[L::Grafting, L::Culled, L::Cancelled, L::RolledBack],
        (Mode::Full, L::Grafting) => &[L::Stabilization, L::RolledBack],
        (Mode::Full, L::Stabilization) => &[L::Evaluating, L::RolledBack],
        (Mode::Full, L::Evaluating) => &[L::FineTuning, L::Culled, L::RolledBack],
        (Mode::Full, L::FineTuning) => &[L::Fossilized, L::Culled, L::RolledBack],
        (Mode::Full, L::Culled | L::Cancelled) => &[L::Dormant],
        (Mode::Legacy, L::Germinated) => &[L::Training],
        (Mode::Legacy, L::Training) => &[L::Grafting],
        (Mode::Legacy, L::Grafting) => &[L::Fossilized],
        _ => &[],
    }
}

/// What the gates look at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts<'a> {
    /// The stage the seed is in.
    pub stage: Lifecycle,
    /// Whole epochs in it, the one that ends counted.
    pub epochs_in_state: u32,
    /// Whether a training slot is free.
    pub slot_free: bool,
    /// Progress of the ramp, in [0, 1].
    pub progress: f32,
    /// The last drifts measured in the stage, newest last.
    pub drifts: &'a [f32],
    /// Mean denoising loss of the last epoch in TRAINING.
    pub denoising_loss: Option<f64>,
    /// The evaluation in this stage.
    pub evaluation: Option<Evaluation>,
    /// Stability in [0, 1], see [`stability`].
    pub stability: f64,
    /// Errors since germination.
    pub errors: u32,
    /// What was unstable in this epoch.
    pub unstable: Option<&'a str>,
    /// Whether a cull was ruled and alpha is being brought down.
    pub withdrawing: bool,
}

/// Whether a seed may go to a stage now.
///
/// # Errors
/// Why it may not, in words.
pub fn check(mode: Mode, gates: &Gates, seed: &Facts<'_>, to: Lifecycle) -> Result<(), String> {
    let known = targets(mode, seed.stage);
    if !known.contains(&to) {
        let names: Vec<_> = known.iter().map(|stage| stage.name()).collect();
        let ways = if names.is_empty() { "nowhere".to_owned() } else { format!("to {} only", names.join(", ")) };
        return Err(format!("{} leads {ways}", seed.stage));
    }
    if to == Lifecycle::RolledBack {
        return Ok(());
    }
    if seed.withdrawing {
        return Err("it is being withdrawn, after which it is CULLED".to_owned());
    }
    let least = gates.epochs_min(seed.stage);
    if seed.epochs_in_state < least {
        return Err(format!("{} of at least {least} epochs in {} are over", seed.epochs_in_state, seed.stage));
    }
    match to {
        Lifecycle::Culled => failure(gates, seed).or_else(|| time_out(gates, seed)).map(drop).ok_or_else(|| {
            let most = gates.epochs_max(seed.stage).unwrap_or(u32::MAX);
            format!("it has not failed, and times out after {most} epochs")
        }),
        Lifecycle::Cancelled => Ok(()),
        _ => match seed.unstable {
            Some(what) => Err(format!("it is unstable in this epoch: {what}")),
            None => condition(gates, seed, to),
        },
    }
}

/// What a seed's gate says, for who decides. Where no rollback leads out of the stage, nothing asks for one.
#[must_use]
pub fn gate(mode: Mode, gates: &Gates, seed: &Facts<'_>) -> Gate {
    match signal(mode, gates, seed) {
        Gate::Unstable { reason } if !targets(mode, seed.stage).contains(&Lifecycle::RolledBack) => {
            Gate::Shut { waits_for: reason }
        }
        gate => gate,
    }
}

fn signal(mode: Mode, gates: &Gates, seed: &Facts<'_>) -> Gate {
    if let Some(reason) = seed.unstable {
        return Gate::Unstable { reason: reason.to_owned() };
    }
    let may = |to| check(mode, gates, seed, to);
    let fails = may(Lifecycle::Culled).is_ok();
    if let Some(reason) = failure(gates, seed).filter(|_| fails) {
        return Gate::Failed { reason };
    }
    let waits_for = match onward(mode, seed.stage).map(|to| (to, may(to))) {
        Some((to, Ok(()))) => return Gate::Open { to },
        Some((_, Err(reason))) => reason,
        None => "nothing: it is where it stays".to_owned(),
    };
    match time_out(gates, seed) {
        Some(reason) if fails => Gate::Failed { reason },
        // No cull leads out of these two; what does not come to an end there is put back.
        Some(reason) if matches!(seed.stage, Lifecycle::Grafting | Lifecycle::Stabilization) => {
            Gate::Unstable { reason: format!("{reason}; {waits_for}") }
        }
        _ => Gate::Shut { waits_for },
    }
}

/// The stage that a seed which thrives goes to next.
fn onward(mode: Mode, stage: Lifecycle) -> Option<Lifecycle> {
    targets(mode, stage).first().copied()
}

/// The condition of a step onward.
fn condition(gates: &Gates, seed: &Facts<'_>, to: Lifecycle) -> Result<(), String> {
    let need = |met: bool, text: String| if met { Ok(()) } else { Err(text) };
    match (seed.stage, to) {
        (_, Lifecycle::Training) => need(seed.slot_free, "no training slot is free".to_owned()),
        (Lifecycle::Training, Lifecycle::Grafting) => {
            let met = seed.denoising_loss.is_some_and(|loss| loss <= gates.denoising_loss_max);
            let found = seed.denoising_loss.map_or("not measured".to_owned(), |loss| format!("{loss:.6}"));
            need(met, format!("its denoising loss is {found}, at most {} is needed", gates.denoising_loss_max))
        }
        (Lifecycle::Grafting, _) => {
            need(seed.progress >= 1.0, format!("its ramp is at {:.3} and must be complete", seed.progress))
        }
        (Lifecycle::Stabilization, _) => drift_stable(gates, seed.drifts),
        (Lifecycle::Evaluating, _) => {
            let evaluation = seed.evaluation.ok_or("it has not been evaluated")?;
            need(
                evaluation.delta > gates.delta_above,
                format!("its delta is {:.6}, above {} is needed", evaluation.delta, gates.delta_above),
            )?;
            stable(seed, gates.evaluating_stability_min)
        }
        (Lifecycle::FineTuning, _) => {
            let evaluation = seed.evaluation.ok_or("it has not been evaluated in this stage")?;
            let (found, least) = (evaluation.improvement, gates.improvement_min);
            need(found >= least, format!("its improvement is {found:.6}, at least {least} is needed"))?;
            stable(seed, gates.fine_tuning_stability_min)
        }
        _ => Ok(()),
    }
}

fn stable(seed: &Facts<'_>, least: f64) -> Result<(), String> {
    if seed.stability >= least {
        return Ok(());
    }
    Err(format!("its stability is {:.4}, at least {least} is needed", seed.stability))
}

fn drift_stable(gates: &Gates, drifts: &[f32]) -> Result<(), String> {
    let window = gates.drift_window as usize;
    let Some(last) = drifts.len().checked_sub(window).map(|from| &drifts[from..]) else {
        return Err(format!("{} of {window} drifts are measured", drifts.len()));
    };
    if let Some(bad) = last.iter().find(|drift| !drift.is_finite()) {
        return Err(format!("one of its last {window} drifts is {bad}: every one must be finite"));
    }
    let spread = last.iter().copied().fold(f32::MIN, f32::max) - last.iter().copied().fold(f32::MAX, f32::min);
    if spread <= gates.drift_spread_max {
        return Ok(());
    }
    let most = gates.drift_spread_max;
    Err(format!("its last {window} drifts are {spread:.4} apart, at most {most} is stable"))
}

/// How a seed has failed, apart from taking too long. Only an evaluation can fail.
fn failure(gates: &Gates, seed: &Facts<'_>) -> Option<String> {
    if seed.stage != Lifecycle::Evaluating {
        return None;
    }
    if seed.errors > gates.errors_max {
        return Some(format!("{} errors, at most {} are allowed", seed.errors, gates.errors_max));
    }
    let Evaluation { delta, error_rate, .. } = seed.evaluation?;
    if error_rate > gates.error_rate_max {
        return Some(format!("its error rate is {error_rate:.4}, at most {} is allowed", gates.error_rate_max));
    }
    (delta < gates.delta_cull_below)
        .then(|| format!("its delta is {delta:.6}, below {} is a failure", gates.delta_cull_below))
}

fn time_out(gates: &Gates, seed: &Facts<'_>) -> Option<String> {
    let most = gates.epochs_max(seed.stage)?;
    (seed.epochs_in_state >= most)
        .then(|| format!("timed out: {} epochs in {}, at most {most}", seed.epochs_in_state, seed.stage))
}

/// How steady losses are, in [0, 1]: 1 less their standard deviation about their own straight line, as a share of the
/// magnitude of their mean. So a loss that falls or rises evenly is steady and one that jumps is not. Fewer than three
/// losses say nothing: 0.
#[must_use]
pub fn stability(losses: &[f64]) -> f64 {
    if losses.len() < STABILITY_LOSSES_MIN as usize {
        return 0.0;
    }
    #[allow(clippy::cast_precision_loss, reason = "a handful of epochs")]
    let count = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / count;
    let middle = (count - 1.0) / 2.0;
    let times = || (0_u32..).map(|at| f64::from(at) - middle);
    let along = times().zip(losses).map(|(t, loss)| t * (loss - mean)).sum::<f64>();
    let slope = along / times().take(losses.len()).map(|t| t * t).sum::<f64>();
    let about = times().zip(losses).map(|(t, loss)| (loss - mean - slope * t).powi(2)).sum::<f64>() / count;
    if about == 0.0 {
        return 1.0;
    }
    let share = about.sqrt() / mean.abs();
    if share.is_finite() { (1.0 - share).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests;

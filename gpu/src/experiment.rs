//! The demonstration: a host network that is frozen too small for its task, with a layer in its middle whose seeds make
//! up for it, or fail and are taken out again.
//!
//! The host network is trained by itself until its validation loss stops falling, then frozen. From then on, epoch by
//! epoch: the training rows pass through network and layer, the task trains the seeds that are blended in, and TRAINING
//! seeds learn to denoise the same activations; every EVALUATING or `FINE_TUNING` seed is measured on the validation
//! rows, with it and without it; Tamiyo sees the layer and orders; the governor rules; the epoch ends.
//!
//! The held-out rows are looked at in every epoch, but nothing is decided by them: neither when training stops nor what a
//! seed is worth, and the metric that goes to the layer is the validation rows'.

mod compare;
mod plan;

pub use compare::{Arm, Comparison, McNemar, compare, mcnemar};
pub use plan::{BAD_BLUEPRINT, Plan};

use crate::Error;
use crate::backend::{Backend, Device};
use crate::blueprint::Outcome;
use crate::digits::{Dataset, Split};
use crate::govern::{Governor, Ruling, Tamiyo, Transition};
use crate::karn::Karn;
use crate::layer::{Layer, Library};
use crate::network::{Network, Scores, add_noise, batches, gather, scores, slope};
use crate::observe::{Evaluation, TaskSignals};
use crate::report::{EpochReport, FieldReport, Landed, Rollback};
use crate::state::{Lifecycle, SeedState};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};

/// Epochs with the layer are numbered from here on where noise and order are drawn, so that they repeat none of the host
/// network's own training.
const BASELINE_EPOCHS_MAX: u64 = 1 << 32;

/// Makes a backend: a run needs two, one for the layer and one for its nursery.
pub type MakeBackend<'a> = &'a mut dyn FnMut() -> Result<Box<dyn Backend>, Error>;

/// Sees every epoch as it ends.
pub type Observer<'a> = &'a mut dyn FnMut(&EpochLine, &Layer);

/// One epoch of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochLine {
    /// Its number, from 0.
    pub epoch: u64,
    /// Mean loss over the training batches.
    pub loss: f64,
    /// Accuracy on the validation rows, which the layer is told.
    pub validation_accuracy: f64,
    /// Accuracy on the held-out rows.
    pub accuracy: f64,
    /// The blend of each seed after the epoch.
    pub alphas: Vec<f32>,
    /// The stage of each seed after the epoch.
    pub stages: Vec<Lifecycle>,
    /// The denoising loss of each seed in TRAINING.
    pub denoising_losses: Vec<Option<f64>>,
    /// What was measured of each seed.
    pub evaluations: Vec<Option<Evaluation>>,
    /// What was put to the governor, with its rulings.
    pub transitions: Vec<(Transition, Ruling)>,
    /// What landed.
    pub landed: Vec<Landed>,
    /// What was rolled back.
    pub rollbacks: Vec<Rollback>,
    /// Commands that the layer refused, with its reason; and what Tamiyo said if she could not decide.
    pub refused: Vec<String>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What the layer ran on.
    pub device: Device,
    /// How many epochs the host network was trained.
    pub baseline_epochs: u64,
    /// Held-out accuracy of the frozen host network.
    pub baseline_accuracy: f64,
    /// Held-out accuracy at the end.
    pub final_accuracy: f64,
    /// Held-out loss of the frozen host network.
    pub baseline_loss: f64,
    /// Held-out loss at the end.
    pub final_loss: f64,
    /// Seeds that became part of the network.
    pub fossilized: usize,
    /// Times that a seed was culled.
    pub culled: usize,
    /// Times that a seed was rolled back.
    pub rolled_back: usize,
    /// Whether, at the end, every held-out logit and every weight of the host network has the same bits as before the
    /// layer was there.
    pub restored_bit_for_bit: bool,
    /// For each held-out row whether it was right at the end.
    #[serde(skip)]
    pub right: Vec<bool>,
    /// What was reported of seeds that ended, in order.
    pub field_reports: Vec<FieldReport>,
    /// Every epoch.
    pub lines: Vec<EpochLine>,
}

/// Run a plan. `library` gets the plan's descriptions, and records of what became of the seeds. The same plan on the same
/// data and backend gives the same report, but for times.
///
/// # Errors
/// If plan or data cannot be used, or a device fails.
pub fn run(
    plan: &Plan,
    data: &Dataset,
    make: MakeBackend<'_>,
    library: &Arc<Mutex<Library>>,
    tamiyo: &mut dyn Tamiyo,
    governor: &mut dyn Governor,
    observer: Observer<'_>,
) -> Result<Report, Error> {
    plan.check()?;
    data.check()?;
    plan.describe(library)?;
    let mut network = Network::new(data.features, plan.hidden, data.classes, plan.random_seed);
    let baseline_epochs = network.train(data, &plan.network, plan.batch, plan.random_seed)?;
    let layer = Layer::new(plan.layer_config(), library.clone(), make()?, make()?)?;
    let mut run = Run::new(plan, data, network, layer);
    let before = run.judge(&run.held_out.clone())?;
    let bits = run.bits()?;
    let mut lines = Vec::new();
    for _ in 0..plan.epochs {
        let line = run.epoch(library, tamiyo, governor)?;
        observer(&line, &run.layer);
        lines.push(line);
    }
    let after = run.judge(&run.held_out.clone())?;
    let restored_bit_for_bit = run.bits()? == bits;
    let outcomes = |outcome| run.field_reports.iter().filter(|report| report.outcome == outcome).count();
    Ok(Report {
        device: run.layer.device(),
        baseline_epochs,
        baseline_accuracy: before.accuracy,
        final_accuracy: after.accuracy,
        baseline_loss: before.loss,
        final_loss: after.loss,
        fossilized: outcomes(Outcome::Fossilized),
        culled: outcomes(Outcome::Culled),
        rolled_back: outcomes(Outcome::RolledBack),
        restored_bit_for_bit,
        right: after.right,
        field_reports: run.field_reports,
        lines,
    })
}

/// A run under way. The host network is frozen, so the hidden activations of the validation and the held-out rows are
/// computed once.
struct Run<'a> {
    plan: &'a Plan,
    network: Network,
    layer: Layer,
    /// Features; the other two hold hidden activations.
    training: Split,
    validation: Split,
    held_out: Split,
    karn: Karn,
    field_reports: Vec<FieldReport>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, data: &Dataset, network: Network, layer: Layer) -> Self {
        let hidden = |split: &Split| Split { x: network.hidden(&split.x), labels: split.labels.clone() };
        let (validation, held_out) = (hidden(&data.validation), hidden(&data.held_out));
        let training = data.training.clone();
        let (karn, field_reports) = (Karn::default(), Vec::new());
        Self { plan, network, layer, training, validation, held_out, karn, field_reports }
    }

    fn epoch(
        &mut self,
        library: &Mutex<Library>,
        tamiyo: &mut dyn Tamiyo,
        governor: &mut dyn Governor,
    ) -> Result<EpochLine, Error> {
        let epoch = self.layer.epoch();
        let errors = self.errors();
        let (loss, batches) = self.train(epoch)?;
        let with = self.judge(&self.validation.clone())?;
        let evaluations = self.evaluate(&with, &errors, batches)?;
        let task = TaskSignals { loss, metric: with.accuracy };
        let (refused, denoising_losses) = self.order(task, tamiyo);
        let report = self.layer.end_epoch(task, governor)?;
        self.tell_karn(&report, library)?;
        Ok(EpochLine {
            epoch,
            loss,
            validation_accuracy: with.accuracy,
            accuracy: self.judge(&self.held_out.clone())?.accuracy,
            alphas: self.layer.alpha().to_vec(),
            stages: self.layer.state().iter().map(SeedState::lifecycle).collect(),
            denoising_losses,
            evaluations,
            transitions: report.transitions,
            landed: report.landed,
            rollbacks: report.rollbacks,
            refused,
        })
    }

    /// All batches of an epoch; the mean loss over them, and how many there were.
    fn train(&mut self, epoch: u64) -> Result<(f64, usize), Error> {
        let features = self.training.x.len() / self.training.rows();
        let all = batches(self.training.rows(), self.plan.batch, self.plan.random_seed, BASELINE_EPOCHS_MAX + epoch);
        let mut sum = 0.0;
        for (number, rows) in all.iter().enumerate() {
            let (mut x, labels) = gather(&self.training, rows, features);
            add_noise(&mut x, self.plan.network.noise, self.plan.random_seed, BASELINE_EPOCHS_MAX + epoch, number);
            let x = self.network.hidden(&x);
            let mut y = vec![0.0; x.len()];
            self.layer.forward(&x, rows.len(), &mut y)?;
            let logits = self.network.logits(&y);
            sum += scores(&logits, &labels).loss;
            if (0..self.layer.state().len()).any(|seed| self.layer.view().learns(seed)) {
                let dy = self.network.logits_back(&slope(&logits, &labels));
                let mut dx = vec![0.0; x.len()];
                self.layer.backward(&x, rows.len(), &dy, &mut dx)?;
                self.layer.step()?;
            }
            self.layer.nourish(&x, rows.len())?;
        }
        Ok((sum / count(all.len()), all.len()))
    }

    /// Measure every EVALUATING and `FINE_TUNING` seed on the validation rows: with it (`with`) and without it. Seeds that
    /// do harm can make up for one another, so that taking out one alone does harm too; what is about to become part of
    /// the network for good is therefore also measured with all that still learn taken out together, and the worse of
    /// both measures counts.
    fn evaluate(
        &mut self,
        with: &Scores,
        errors_before: &[i32],
        batches: usize,
    ) -> Result<Vec<Option<Evaluation>>, Error> {
        let errors = self.errors();
        let mut all = vec![None; errors.len()];
        let learning: Vec<usize> = (0..errors.len()).filter(|&seed| self.layer.view().learns(seed)).collect();
        let mut all_out = None;
        for (seed, place) in all.iter_mut().enumerate() {
            let stage = self.layer.state()[seed].lifecycle();
            if !matches!(stage, Lifecycle::Evaluating | Lifecycle::FineTuning) {
                continue;
            }
            let (mut delta, mut improvement) = gain(with, &self.judge_without(&[seed])?);
            if stage == Lifecycle::FineTuning && learning.len() > 1 {
                if all_out.is_none() {
                    all_out = Some(gain(with, &self.judge_without(&learning)?));
                }
                let together = all_out.unwrap_or((delta, improvement));
                (delta, improvement) = (delta.min(together.0), improvement.min(together.1));
            }
            let failed = usize::try_from(errors[seed] - errors_before[seed]).unwrap_or(0);
            // A batch passes twice, forward and backward.
            let error_rate = count(failed) / count(2 * batches);
            let evaluation = Evaluation { delta, improvement, error_rate };
            self.layer.evaluate(seed, evaluation)?;
            *place = Some(evaluation);
        }
        Ok(all)
    }

    /// Show Tamiyo the layer and pass on her orders. What is refused is told, not fatal.
    fn order(&mut self, task: TaskSignals, tamiyo: &mut dyn Tamiyo) -> (Vec<String>, Vec<Option<f64>>) {
        let seen = self.layer.observe(task);
        let mut denoising = vec![None; self.layer.state().len()];
        for seed in seen.seeds.iter().filter(|seed| seed.stage == Lifecycle::Training) {
            denoising[seed.seed] = seed.denoising_loss;
        }
        let mut refused = Vec::new();
        match tamiyo.decide(&seen) {
            Ok(commands) => {
                for command in commands {
                    if let Err(error) = self.layer.command(command) {
                        refused.push(error.to_string());
                    }
                }
            }
            Err(problem) => refused.push(format!("tamiyo could not decide: {problem}")),
        }
        (refused, denoising)
    }

    fn tell_karn(&mut self, report: &EpochReport, library: &Mutex<Library>) -> Result<(), Error> {
        let mut library = library.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("{}-{}", self.plan.layer.id, report.epoch);
        self.karn.take_epoch(&id, report, &mut library.blueprints)?;
        self.field_reports.extend(report.field_reports.iter().cloned());
        Ok(())
    }

    /// How the network with its layer fares on hidden activations.
    fn judge(&mut self, split: &Split) -> Result<Scores, Error> {
        Ok(scores(&self.logits(split)?, &split.labels))
    }

    /// How it fares on the validation rows with some seeds taken out.
    fn judge_without(&mut self, seeds: &[usize]) -> Result<Scores, Error> {
        let mut own = Vec::with_capacity(seeds.len());
        for &seed in seeds {
            own.push((seed, self.layer.set_alpha_for_trial(seed, 0.0)?));
        }
        let found = self.judge(&self.validation.clone());
        for (seed, alpha) in own {
            self.layer.set_alpha_for_trial(seed, alpha)?;
        }
        found
    }

    fn logits(&mut self, split: &Split) -> Result<Vec<f32>, Error> {
        let mut y = vec![0.0; split.x.len()];
        self.layer.infer(&split.x, split.rows(), &mut y)?;
        Ok(self.network.logits(&y))
    }

    /// The bits of every held-out logit and of every weight of the host network.
    fn bits(&mut self) -> Result<Vec<u32>, Error> {
        let logits = self.logits(&self.held_out.clone())?;
        Ok(logits.into_iter().chain(self.network.weights()).map(f32::to_bits).collect())
    }

    fn errors(&self) -> Vec<i32> {
        self.layer.state().iter().map(|state| state.errors).collect()
    }
}

/// What is gained with something against without it: accuracy, and the share by which the loss falls. From a loss of 0
/// nothing can be gained.
fn gain(with: &Scores, without: &Scores) -> (f64, f64) {
    let improvement = if without.loss > 0.0 { (without.loss - with.loss) / without.loss } else { 0.0 };
    (with.accuracy - without.accuracy, improvement)
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(length: usize) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests;

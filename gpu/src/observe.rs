//! What the layer tells of itself: seeds signal, they never act.

use crate::state::Lifecycle;
use crate::telemetry::SeedTelemetry;
use serde::{Deserialize, Serialize};

/// What the host network says of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskSignals {
    /// Mean loss of the task over the epoch's training batches.
    pub loss: f64,
    /// The task's metric on held-out data, for example accuracy; greater is better.
    pub metric: f64,
}

/// What was measured of one EVALUATING or `FINE_TUNING` seed: the network with it against the network without it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Evaluation {
    /// Metric with the seed less the metric with its alpha at 0, on data that it was not trained on.
    pub delta: f64,
    /// `(loss without - loss with) / loss without`.
    pub improvement: f64,
    /// Share of passes in which the seed's output was not finite.
    pub error_rate: f64,
}

/// Whether a seed could go on, as far as its gate says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "snake_case")]
pub enum Gate {
    /// It may go to this stage.
    Open {
        /// Where to.
        to: Lifecycle,
    },
    /// It has to wait.
    Shut {
        /// For what.
        waits_for: String,
    },
    /// It failed and may go to CULLED.
    Failed {
        /// Why.
        reason: String,
    },
    /// It is unstable and should be rolled back.
    Unstable {
        /// What was seen.
        reason: String,
    },
}

/// One seed as Tamiyo sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedView {
    /// Its number.
    pub seed: usize,
    /// Its stage.
    pub stage: Lifecycle,
    /// Epochs in it, the one that ends counted.
    pub epochs_in_state: u32,
    /// Id of its blueprint.
    pub blueprint_id: Option<String>,
    /// Its grafting strategy.
    pub strategy: Option<String>,
    /// Its blend.
    pub alpha: f32,
    /// What its gate says.
    pub gate: Gate,
    /// Its statistics in the last epoch.
    pub telemetry: SeedTelemetry,
    /// `√(Σ‖∇p‖² / number of tensors)` over its own weights in the last training batch.
    pub gradient_norm: f64,
    /// Mean denoising loss of the last epoch in TRAINING.
    pub denoising_loss: Option<f64>,
    /// Its last evaluation.
    pub evaluation: Option<Evaluation>,
    /// How steady the task's loss has been over the last epochs with the seed, in [0, 1].
    pub stability: f64,
    /// Errors since germination.
    pub errors: u32,
}

fn no_limit() -> usize {
    usize::MAX
}

/// A layer as Tamiyo sees it at the end of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Which layer.
    pub layer_id: String,
    /// The epoch that ends.
    pub epoch: u64,
    /// How the task fares.
    pub task: TaskSignals,
    /// How many seeds the layer has.
    pub seed_count: usize,
    /// How many columns it has; with the count of seeds this says how wide each chunk is.
    #[serde(default)]
    pub width: usize,
    /// How many weights a seed may have (the configuration's `seed_weights_max`).
    #[serde(default = "no_limit")]
    pub seed_weights_max: usize,
    /// How many weights seeds that germinate now may have together: the configuration's `weights_max`, less what the
    /// seeds have and waiting commands will take.
    #[serde(default = "no_limit")]
    pub weights_free: usize,
    /// Seeds that may begin TRAINING now.
    pub training_slots_free: usize,
    /// Dormant seeds, by the variance of their chunk, greatest first; as many as the configuration's
    /// `candidates_max`.
    pub candidates: Vec<usize>,
    /// All seeds that are neither DORMANT nor terminal, in ascending order.
    pub seeds: Vec<SeedView>,
}

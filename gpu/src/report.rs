//! What a layer reports: the field report of a seed that ended, which Karn learns from, and the report of an epoch.

use crate::blueprint::Outcome;
use crate::govern::{Ruling, Transition};
use crate::state::Lifecycle;
use serde::{Deserialize, Serialize};

/// How a seed fared with its blueprint, written when it ends (topic `innovation.field_reports`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldReport {
    /// Id of the blueprint.
    pub blueprint_id: String,
    /// The seed's number.
    pub seed_id: usize,
    /// The task's metric when the seed began to graft; where it never did, the same as `post_metric`, for it has
    /// changed nothing.
    pub pre_metric: f64,
    /// The task's metric when it ended; of a seed whose cull brings its alpha down, when the cull was ruled.
    pub post_metric: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// What it cost.
    pub eval: FieldEvaluation,
}

impl FieldReport {
    /// What the task gained.
    #[must_use]
    pub fn gain(&self) -> f64 {
        self.post_metric - self.pre_metric
    }
}

/// What a seed cost, as measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct FieldEvaluation {
    /// The longest forward pass of the layer while the seed contributed, in milliseconds of wall time. One pass computes
    /// all seeds, so none has a time of its own.
    pub max_latency_ms: f64,
    /// Host memory of the seed's weights, gradients and optimiser, the mean over its epochs since germination, in
    /// megabytes (10⁶ bytes).
    pub avg_memory_mb: f64,
    /// Variance of the seed's gradient norm over the training batches that reached it.
    pub gradient_norm_variance: f64,
}

/// What an epoch boundary did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EpochReport {
    /// The epoch that ended.
    pub epoch: u64,
    /// What was put to the governor at this boundary, by seed, with its rulings.
    pub transitions: Vec<(Transition, Ruling)>,
    /// What landed at this boundary. A cull of a seed that contributes is ruled first and lands when the seed's alpha
    /// has been brought down ([`crate::lifecycle::Gates::withdrawal_epochs`]).
    pub landed: Vec<Landed>,
    /// Accepted commands that were not put to the governor, because their gate had shut since, or the seed was rolled
    /// back.
    pub lapsed: Vec<Lapsed>,
    /// One for each seed that ended since the last boundary.
    pub field_reports: Vec<FieldReport>,
    /// Rollbacks since the last boundary, those at once and those at this boundary.
    pub rollbacks: Vec<Rollback>,
}

/// A change of stage that took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// Which seed.
    pub seed: usize,
    /// Where it was.
    pub from: Lifecycle,
    /// Where it is.
    pub to: Lifecycle,
}

/// A command that came to nothing before it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapsed {
    /// The command.
    pub command_id: String,
    /// Which seed.
    pub seed: usize,
    /// Where it should have gone.
    pub to: Lifecycle,
    /// Why it did not.
    pub reason: String,
}

/// A seed that was put back (topic `system.events.rollback`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// Which seed.
    pub seed: usize,
    /// The epoch in which it was put back.
    pub epoch: u64,
    /// Its stage before.
    pub from: Lifecycle,
    /// The number of the checkpoint that it was put back to.
    pub checkpoint: i32,
    /// Why.
    pub reason: String,
}

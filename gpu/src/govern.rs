//! Who commands and who permits. Tamiyo reads an [`Observation`] and answers with
//! [`Command`]s; the layer checks each against the seed's stage and gate; a [`Governor`] then allows or denies the
//! [`Transition`]; what is allowed lands at the epoch boundary. A denial changes nothing.

use crate::blueprint::Blueprint;
use crate::observe::Observation;
use crate::state::Lifecycle;
use serde::{Deserialize, Serialize};

/// What can be ordered of a seed. Each leads to one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Assign a blueprint: to GERMINATED.
    Germinate,
    /// Begin the training apart: to TRAINING.
    Train,
    /// Begin to blend in: to GRAFTING.
    Graft,
    /// Let the drift settle: to STABILIZATION.
    Stabilize,
    /// Measure the effect on the task: to EVALUATING.
    Evaluate,
    /// Keep and train on: to `FINE_TUNING`.
    FineTune,
    /// Keep for good: to FOSSILIZED.
    Fossilize,
    /// Take out as failed: to CULLED.
    Cull,
    /// Take out by will: to CANCELLED.
    Cancel,
    /// End of the embargo: to DORMANT.
    Release,
    /// Put back to the last checkpoint: to `ROLLED_BACK`.
    Rollback,
}

impl Order {
    /// The stage it leads to.
    #[must_use]
    pub fn target(self) -> Lifecycle {
        match self {
            Self::Germinate => Lifecycle::Germinated,
            Self::Train => Lifecycle::Training,
            Self::Graft => Lifecycle::Grafting,
            Self::Stabilize => Lifecycle::Stabilization,
            Self::Evaluate => Lifecycle::Evaluating,
            Self::FineTune => Lifecycle::FineTuning,
            Self::Fossilize => Lifecycle::Fossilized,
            Self::Cull => Lifecycle::Culled,
            Self::Cancel => Lifecycle::Cancelled,
            Self::Release => Lifecycle::Dormant,
            Self::Rollback => Lifecycle::RolledBack,
        }
    }

    /// The order that leads to a stage.
    #[must_use]
    pub fn to(stage: Lifecycle) -> Self {
        match stage {
            Lifecycle::Germinated => Self::Germinate,
            Lifecycle::Training => Self::Train,
            Lifecycle::Grafting => Self::Graft,
            Lifecycle::Stabilization => Self::Stabilize,
            Lifecycle::Evaluating => Self::Evaluate,
            Lifecycle::FineTuning => Self::FineTune,
            Lifecycle::Fossilized => Self::Fossilize,
            Lifecycle::Culled => Self::Cull,
            Lifecycle::Cancelled => Self::Cancel,
            Lifecycle::Dormant => Self::Release,
            Lifecycle::RolledBack => Self::Rollback,
        }
    }
}

/// One order for one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The commander's own name for it, of at most [`crate::layer::COMMAND_ID_BYTES_MAX`] bytes; the response carries it.
    pub id: String,
    /// Which seed.
    pub seed: usize,
    /// What to do.
    pub order: Order,
    /// For [`Order::Germinate`]: a registered blueprint's name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blueprint: Option<String>,
    /// For [`Order::Germinate`]: the description itself, which is registered when the command lands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blueprint_ir: Option<Blueprint>,
    /// For [`Order::Germinate`] and [`Order::Graft`]: a registered grafting strategy; the configuration's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Why, in words, at most [`crate::layer::REASON_BYTES_MAX`] bytes; it goes into the record.
    #[serde(default)]
    pub reason: String,
}

/// A change that is about to land: what a governor judges, and what is recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transition {
    /// The command that asks for it.
    pub command_id: String,
    /// Which layer.
    pub layer_id: String,
    /// Which seed.
    pub seed: usize,
    /// The epoch that ends.
    pub epoch: u64,
    /// Where the seed is.
    pub from: Lifecycle,
    /// Where it goes.
    pub to: Lifecycle,
    /// Id of its blueprint, where it has one.
    pub blueprint_id: Option<String>,
    /// Its grafting strategy.
    pub strategy: Option<String>,
    /// Its blend.
    pub alpha: f32,
    /// How many weights it has.
    pub weights: usize,
    /// Its last evaluation's score.
    pub evaluation_score: f32,
    /// Why, in the commander's words.
    pub reason: String,
}

/// What a governor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// The transition may land.
    Allowed,
    /// It must not; the text says why.
    Denied(String),
}

/// Who permits transitions. The host's asks its policies and records each.
pub trait Governor {
    /// Judge transitions, one ruling for each, in their order. All of one boundary come together, so that a host can
    /// judge them side by side. A missing ruling is a denial.
    fn judge(&mut self, transitions: &[Transition]) -> Vec<Ruling>;
}

/// Allows everything: for tests and measurements of the layer alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Governor for AllowAll {
    fn judge(&mut self, transitions: &[Transition]) -> Vec<Ruling> {
        vec![Ruling::Allowed; transitions.len()]
    }
}

/// Who commands. `tamiyo::Standard` is the one that comes with the crate; a host may put a component here.
pub trait Tamiyo {
    /// What to order, seen this.
    ///
    /// # Errors
    /// If it cannot say; nothing is ordered then, and the text goes to the operator.
    fn decide(&mut self, observation: &Observation) -> Result<Vec<Command>, String>;
}

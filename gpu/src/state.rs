//! The state tensor: what every seed is doing, eight integers a seed, in one flat buffer that goes to a device as it is.

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// The stages of a seed's life, numbered as the state tensor has them (`specs`: Lifecycle, 11 states).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(i32)]
pub enum Lifecycle {
    /// Nothing grows here.
    Dormant = 0,
    /// A blueprint was assigned; waits for a training slot.
    Germinated = 1,
    /// Trained apart, by denoising; does not touch the output.
    Training = 2,
    /// Blended in, alpha rising.
    Grafting = 3,
    /// Blended in; its drift must settle.
    Stabilization = 4,
    /// Its effect on the task is measured.
    Evaluating = 5,
    /// It helped; it is trained on.
    FineTuning = 6,
    /// Part of the network for good.
    Fossilized = 7,
    /// Taken out because it failed; an embargo runs.
    Culled = 8,
    /// Taken out by command; an embargo runs.
    Cancelled = 9,
    /// Put back to a checkpoint after an instability. Terminal.
    RolledBack = 10,
}

impl Lifecycle {
    /// All stages, by number.
    pub const ALL: [Self; 11] = [
        Self::Dormant,
        Self::Germinated,
        Self::Training,
        Self::Grafting,
        Self::Stabilization,
        Self::Evaluating,
        Self::FineTuning,
        Self::Fossilized,
        Self::Culled,
        Self::Cancelled,
        Self::RolledBack,
    ];

    /// The stage with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        usize::try_from(number).ok().and_then(|at| Self::ALL.get(at).copied())
    }

    /// Its number in the state tensor.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }

    /// Whether a seed of this stage contributes to the layer's output.
    #[must_use]
    pub fn contributes(self) -> bool {
        matches!(self, Self::Grafting | Self::Stabilization | Self::Evaluating | Self::FineTuning | Self::Fossilized)
    }

    /// Whether the task trains the weights of a seed of this stage.
    #[must_use]
    pub fn learns_from_task(self) -> bool {
        self.contributes() && self != Self::Fossilized
    }

    /// Whether nothing leads out of it.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Fossilized | Self::RolledBack)
    }

    /// Its name, as in the table of the specification: `FINE_TUNING`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dormant => "DORMANT",
            Self::Germinated => "GERMINATED",
            Self::Training => "TRAINING",
            Self::Grafting => "GRAFTING",
            Self::Stabilization => "STABILIZATION",
            Self::Evaluating => "EVALUATING",
            Self::FineTuning => "FINE_TUNING",
            Self::Fossilized => "FOSSILIZED",
            Self::Culled => "CULLED",
            Self::Cancelled => "CANCELLED",
            Self::RolledBack => "ROLLED_BACK",
        }
    }
}

impl std::fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One seed's row of the state tensor, in the widened form `[S,8]`; the first four columns are the short form `[S,4]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SeedState {
    lifecycle: i32,
    /// The blueprint's number in the layer's list ([`crate::backend::View::blueprints`]); -1: none.
    pub blueprint: i32,
    /// Epochs since the seed entered its stage.
    pub epochs_in_state: i32,
    /// The grafting strategy's number in its registry; -1: none.
    pub strategy: i32,
    parent: i32,
    /// The checkpoint to return to; -1: none.
    pub checkpoint: i32,
    /// The bits of the last evaluation's score, an f32.
    score_bits: i32,
    /// Errors since germination.
    pub errors: i32,
}

impl SeedState {
    /// A dormant seed.
    pub const DORMANT: Self = Self {
        lifecycle: 0,
        blueprint: -1,
        epochs_in_state: 0,
        strategy: -1,
        parent: 0,
        checkpoint: -1,
        score_bits: 0,
        errors: 0,
    };

    /// The stage.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle::from_number(self.lifecycle).unwrap_or(Lifecycle::Dormant)
    }

    /// The stage before this one.
    #[must_use]
    pub fn parent(&self) -> Lifecycle {
        Lifecycle::from_number(self.parent).unwrap_or(Lifecycle::Dormant)
    }

    /// Enter a stage: the epochs begin anew.
    pub fn enter(&mut self, stage: Lifecycle) {
        self.parent = self.lifecycle;
        self.lifecycle = stage.number();
        self.epochs_in_state = 0;
    }

    /// The last evaluation's score.
    #[must_use]
    pub fn evaluation_score(&self) -> f32 {
        f32::from_bits(self.score_bits.cast_unsigned())
    }

    /// Keep an evaluation's score.
    pub fn set_evaluation_score(&mut self, score: f32) {
        self.score_bits = score.to_bits().cast_signed();
    }

    /// The short form: lifecycle, blueprint, epochs, strategy.
    #[must_use]
    pub fn short(&self) -> [i32; 4] {
        [self.lifecycle, self.blueprint, self.epochs_in_state, self.strategy]
    }

    /// All eight numbers, in the order of the specification.
    #[must_use]
    pub fn row(&self) -> [i32; 8] {
        bytemuck::cast(*self)
    }

    /// A row read back. `None` if its lifecycle or parent is no stage.
    #[must_use]
    pub fn from_row(row: [i32; 8]) -> Option<Self> {
        let state: Self = bytemuck::cast(row);
        (Lifecycle::from_number(state.lifecycle).is_some() && Lifecycle::from_number(state.parent).is_some())
            .then_some(state)
    }
}

impl Default for SeedState {
    fn default() -> Self {
        Self::DORMANT
    }
}

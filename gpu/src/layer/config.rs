//! What a layer is made with: its shape, its lifecycle, and every limit.

use crate::Error;
use crate::chunks::{Chunks, SEEDS_MIN};
use crate::easing::Easing;
use crate::lifecycle::{Gates, Mode};
use crate::nursery::Denoising;
use serde::{Deserialize, Serialize};

/// A layer's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The layer's name; checkpoints carry it and fit no other.
    pub id: String,
    /// Columns (H).
    pub width: usize,
    /// Seeds (S): from [`SEEDS_MIN`] to `width`; exactly one in legacy mode.
    pub seeds: usize,
    /// Which lifecycle.
    pub mode: Mode,
    /// All thresholds and minima of the lifecycle.
    pub gates: Gates,
    /// N: how many rolling checkpoints are kept, one for each epoch.
    pub checkpoints_kept: usize,
    /// How many seeds may be in TRAINING at once.
    pub training_slots: usize,
    /// How many dormant seeds an observation names at most.
    pub candidates_max: usize,
    /// The grafting strategy of seeds whose command names none.
    pub strategy: String,
    /// How the progress of a ramp becomes alpha.
    pub easing: Easing,
    /// How TRAINING seeds are trained.
    pub denoising: Denoising,
    /// Where fresh weights and noise come from: the same number gives the same run.
    pub random_seed: u64,
    /// How many ids of commands are remembered, so that one that comes twice is done once.
    pub command_ids_kept: usize,
    /// How many different blueprints a layer can hold at once.
    pub blueprints_max: usize,
    /// How many weights one seed may have: an `mlp` on a chunk of c columns has 24·c² and more.
    pub seed_weights_max: usize,
    /// How many weights all seeds may have together. Gradients, moments and rolling checkpoints come on top of it.
    pub weights_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: "layer".to_owned(),
            width: 64,
            seeds: 16,
            mode: Mode::Full,
            gates: Gates::default(),
            checkpoints_kept: 5,
            training_slots: 4,
            candidates_max: 16,
            strategy: "fixed_ramp".to_owned(),
            easing: Easing::Linear,
            denoising: Denoising::default(),
            random_seed: 0,
            command_ids_kept: 4_096,
            blueprints_max: 256,
            seed_weights_max: 1 << 24,
            weights_max: 1 << 28,
        }
    }
}

/// The longest name of a layer.
const ID_BYTES_MAX: usize = 128;
/// The most that [`Config::checkpoints_kept`] may be: each holds all seeds that grow.
pub const CHECKPOINTS_KEPT_MAX: usize = 1_000;
/// The most that [`Config::command_ids_kept`] may be.
pub const COMMAND_IDS_KEPT_MAX: usize = 1 << 20;
/// The most that [`Config::blueprints_max`] may be.
pub const BLUEPRINTS_MAX: usize = 1 << 16;
/// The most that [`Config::candidates_max`] may be.
pub const CANDIDATES_MAX: usize = 1 << 20;

impl Config {
    /// A layer of one seed with the five stages of the legacy mode.
    #[must_use]
    pub fn legacy(id: &str, width: usize) -> Self {
        Self { id: id.to_owned(), width, seeds: 1, mode: Mode::Legacy, ..Self::default() }
    }

    /// Check that every value can be used, and tile the layer.
    ///
    /// # Errors
    /// Names the value that cannot.
    pub fn check(&self) -> Result<Chunks, Error> {
        let refuse = |key, value: String, problem: &str| Err(Error::Config { key, value, problem: problem.to_owned() });
        if self.id.is_empty() || self.id.len() > ID_BYTES_MAX {
            return refuse("id", self.id.clone(), "a layer's name has 1 to 128 bytes");
        }
        let least = if self.mode == Mode::Legacy { 1 } else { SEEDS_MIN };
        if self.mode == Mode::Legacy && self.seeds != 1 {
            return refuse("seeds", self.seeds.to_string(), "the legacy mode has one seed");
        }
        if self.seeds < least || self.seeds > self.width {
            return Err(Error::Tiling { width: self.width, seeds: self.seeds, least });
        }
        self.check_limits()?;
        self.gates.check()?;
        self.denoising.check(self.gates.denoising_loss_max)?;
        Chunks::new(self.width, self.seeds)
    }

    fn check_limits(&self) -> Result<(), Error> {
        for (key, value, least, most) in [
            ("checkpoints_kept", self.checkpoints_kept, 1, CHECKPOINTS_KEPT_MAX),
            ("training_slots", self.training_slots, 1, usize::MAX),
            ("candidates_max", self.candidates_max, 0, CANDIDATES_MAX),
            ("command_ids_kept", self.command_ids_kept, 1, COMMAND_IDS_KEPT_MAX),
            ("blueprints_max", self.blueprints_max, 1, BLUEPRINTS_MAX),
            ("seed_weights_max", self.seed_weights_max, 1, usize::MAX),
            ("weights_max", self.weights_max, 1, usize::MAX),
        ] {
            let problem = match value {
                _ if value < least => format!("it must be at least {least}"),
                _ if value > most => format!("it must be at most {most}"),
                _ => continue,
            };
            return Err(Error::Config { key, value: value.to_string(), problem });
        }
        Ok(())
    }
}

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
        }
    }
}

/// The longest name of a layer.
const ID_BYTES_MAX: usize = 128;

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
        for (key, value) in [
            ("checkpoints_kept", self.checkpoints_kept),
            ("training_slots", self.training_slots),
            ("command_ids_kept", self.command_ids_kept),
            ("blueprints_max", self.blueprints_max),
        ] {
            if value == 0 {
                return refuse(key, value.to_string(), "it must be at least 1");
            }
        }
        self.gates.check()?;
        self.denoising.check(self.gates.denoising_loss_max)?;
        Chunks::new(self.width, self.seeds)
    }
}

//! The layer: a row of seeds inside a host network, and the one place where they change.
//!
//! A training loop calls, batch by batch, [`Layer::forward`], [`Layer::backward`] and [`Layer::step`], with
//! [`Layer::nourish`] for the seeds that are trained apart; at the end of an epoch it shows [`Layer::observe`] to
//! Tamiyo, hands her commands to [`Layer::command`], and closes with [`Layer::end_epoch`].
//!
//! The truth is on the host, one array for each thing that a seed has; the backend holds a copy and is told what
//! changed before its next pass. So a call that fails leaves the layer as it was, and a lost device loses nothing.
//!
//! What always holds:
//! - Stages change at an epoch boundary only, all of one boundary in one call of the governor, save a
//!   [`Layer::rollback`], which is at once. What is denied, or not ruled on, leaves the seed as it was.
//! - Alpha moves in small steps: it begins GRAFTING at 0, grows by at most `ramp_step_max`/N of progress in an epoch,
//!   and falls to 0 over `withdrawal_epochs` when a seed that contributes is culled.
//!
//! # Continuity
//! The output is continuous across every transition: a seed enters GRAFTING with alpha 0, its alpha stays what it is
//! from there to FOSSILIZED, and TRAINING, GERMINATED, CANCELLED and DORMANT do not touch the output. A cull from
//! EVALUATING or `FINE_TUNING` would jump, for CULLED must not contribute either. So it is ruled at one boundary, where
//! a denial still leaves everything as it was, and then alpha is brought down; the seed becomes CULLED with the step
//! that reaches 0, from which epoch on its chunk is `y = x` bit for bit. Until then it stays in its stage, takes no
//! command but a rollback, and its gate is shut. A rollback is the one deliberate jump: it takes a seed that is broken
//! out of the output at once.

mod boundary;
mod commands;
mod config;
mod head;
mod landing;
mod observation;
mod passes;
mod save;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod trail;

pub use commands::{COMMAND_ID_BYTES_MAX, REASON_BYTES_MAX};
pub use config::{BLUEPRINTS_MAX, CANDIDATES_MAX, CHECKPOINTS_KEPT_MAX, COMMAND_IDS_KEPT_MAX, Config};
pub use head::Head;

use crate::Error;
use crate::backend::{Backend, Device, Gradients, View};
use crate::blueprint::{Blueprint, Function, Registry};
use crate::checkpoint::Ring;
use crate::chunks::Chunks;
use crate::lifecycle::Mode;
use crate::nursery::Nursery;
use crate::observe::TaskSignals;
use crate::report::{FieldReport, Lapsed, Rollback};
use crate::state::SeedState;
use crate::strategy::Strategies;
use crate::telemetry::Telemetry;
use commands::{Remembered, Waiting};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Changes, Store};

/// What layers share: the blueprints with their records, and the grafting strategies.
#[derive(Debug, Default)]
pub struct Library {
    /// All blueprints.
    pub blueprints: Registry,
    /// All grafting strategies.
    pub strategies: Strategies,
}

impl Library {
    /// The three kinds of blueprint under their own names (`adapter` with rank 16), and the four strategies of the
    /// specification.
    #[must_use]
    pub fn standard() -> Self {
        let mut blueprints = Registry::empty();
        for function in [Function::Adapter { rank: 16 }, Function::Mlp, Function::ResidualScale] {
            let added = blueprints.add(Blueprint::new(function.kind(), function));
            debug_assert!(added.is_ok(), "{added:?}");
        }
        Self { blueprints, strategies: Strategies::standard() }
    }

    /// To be shared between layers.
    #[must_use]
    pub fn shared(self) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(self))
    }
}

/// A morphogenetic layer.
pub struct Layer {
    config: Config,
    library: Arc<Mutex<Library>>,
    backend: Box<dyn Backend>,
    nursery: Nursery,
    store: Store,
    changes: Changes,
    epoch: u64,
    /// What the last boundary was told of the task.
    task: TaskSignals,
    running: Running,
    /// Accepted commands of this epoch, by seed.
    pending: Waiting,
    remembered: Remembered,
    ring: Ring,
    /// The alphas of seeds under trial.
    trials: BTreeMap<usize, f32>,
    /// For each seed, the longest pass while it contributed, in milliseconds.
    slowest_ms: Vec<f32>,
    /// For the next epoch's report.
    news: News,
}

/// What was measured in the running epoch, and buffers that passes use again.
#[derive(Debug, Default)]
struct Running {
    telemetry: Telemetry,
    /// Of the epoch before.
    last: Telemetry,
    pass: Telemetry,
    slowest_ms: f32,
    /// How many denoising steps this epoch has had.
    lesson: u64,
    gradients: Gradients,
    incoming: Gradients,
}

/// What happened between two boundaries.
#[derive(Debug, Default, Clone, PartialEq)]
struct News {
    rollbacks: Vec<Rollback>,
    field_reports: Vec<FieldReport>,
    lapsed: Vec<Lapsed>,
}

impl Layer {
    /// A layer of dormant seeds. It computes on `backend`; TRAINING seeds learn on `nursery`, a second backend of any
    /// kind, since they are a small layer of their own.
    ///
    /// # Errors
    /// If a value of the configuration cannot be used, or its strategy is not registered.
    pub fn new(
        config: Config,
        library: Arc<Mutex<Library>>,
        backend: Box<dyn Backend>,
        nursery: Box<dyn Backend>,
    ) -> Result<Self, Error> {
        let chunks = config.check()?;
        lock(&library).strategies.find(&config.strategy)?;
        let ring = Ring::new(config.checkpoints_kept);
        let remembered = Remembered::new(config.command_ids_kept);
        Ok(Self {
            library,
            backend,
            nursery: Nursery::new(config.denoising, config.random_seed, nursery),
            store: Store::new(chunks),
            changes: Changes::all(chunks.seeds()),
            epoch: 0,
            task: TaskSignals::default(),
            running: Running::default(),
            pending: Waiting::default(),
            remembered,
            ring,
            trials: BTreeMap::new(),
            slowest_ms: vec![0.0; chunks.seeds()],
            news: News::default(),
            config,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The library that it shares.
    #[must_use]
    pub fn library(&self) -> &Arc<Mutex<Library>> {
        &self.library
    }

    /// How many epochs have ended.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What it runs on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.backend.device()
    }

    /// The tiling.
    #[must_use]
    pub fn chunks(&self) -> Chunks {
        self.store.chunks
    }

    /// The state tensor, one row for each seed.
    #[must_use]
    pub fn state(&self) -> &[SeedState] {
        &self.store.state
    }

    /// The blend of each seed, in [0, 1]; a trial's where one is open.
    #[must_use]
    pub fn alpha(&self) -> &[f32] {
        &self.store.alpha
    }

    /// The weights of one seed; none without a blueprint, and none of a seed that is not there.
    #[must_use]
    pub fn weights(&self, seed: usize) -> &[f32] {
        self.store.weights.get(seed).map_or(&[], Vec::as_slice)
    }

    /// The layer as a backend sees it.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        self.store.view()
    }

    /// The statistics of every seed in the running epoch, or in the last one where it has had no pass yet.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        if self.running.telemetry.rows > 0 { &self.running.telemetry } else { &self.running.last }
    }

    fn check_seed(&self, seed: usize) -> Result<(), Error> {
        let last = self.store.chunks.seeds() - 1;
        if seed <= last { Ok(()) } else { Err(Error::NoSeed { layer: self.config.id.clone(), seed, last }) }
    }

    fn mode(&self) -> Mode {
        self.config.mode
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("config", &self.config)
            .field("device", &self.backend.device())
            .field("epoch", &self.epoch)
            .field("active", &self.store.active)
            .finish_non_exhaustive()
    }
}

/// A panic elsewhere does not make the library unusable: every change to it is one assignment.
fn lock(library: &Mutex<Library>) -> MutexGuard<'_, Library> {
    library.lock().unwrap_or_else(PoisonError::into_inner)
}

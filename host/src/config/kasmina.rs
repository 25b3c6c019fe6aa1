//! The keys of `kasmina` and of `events`: layers that this host serves, and what is told of them.

use crate::kasmina::component::{StrategyFile, TamiyoFile};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Layers of this host. Every limit is a key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KasminaFile {
    /// The kernel, by name, that judges transitions. Default: the first one.
    pub kernel: Option<String>,
    /// Grafting strategies that are components, beside the four of the crate. Default: none.
    pub strategies: Vec<StrategyFile>,
    /// A Tamiyo that is a component, for layers that name it. Default: none.
    pub tamiyo: Option<TamiyoFile>,
    /// Where layers run that do not say it themselves. Default `auto`.
    pub backend: BackendChoice,
    /// Threads of each layer on the CPU. Default: as many as the machine has.
    pub cpu_threads: Option<usize>,
    /// Layers at the same time. Default 16.
    pub layers_max: usize,
    /// Width of a layer. Default 65,536.
    pub width_max: usize,
    /// Seeds of a layer. Default 100,000.
    pub seeds_max: usize,
    /// Values that the weights of one layer may be; its own `weights_max` and `seed_weights_max` count where they are
    /// less. Default 67,108,864 (256 MiB).
    pub weights_max: usize,
    /// Dormant seeds that one observation of a layer may name. Default 16,384.
    pub candidates_max: usize,
    /// Rolling checkpoints of a layer. Default 64.
    pub checkpoints_kept_max: usize,
    /// Ids of commands that a layer itself remembers. Default 1,000,000.
    pub command_ids_max: usize,
    /// Different blueprints that one layer may hold at once. Default 4,096.
    pub layer_blueprints_max: usize,
    /// Rows of one pass. Default 65,536.
    pub rows_max: usize,
    /// Values of one pass: rows × width. Default 16,777,216 (64 MiB).
    pub values_max: usize,
    /// Bytes of a body with values or with a checkpoint. Default 256 MiB.
    pub body_bytes_max: usize,
    /// Bytes of all bodies with values that are in flight; a body more is answered 503. Default 1 GiB.
    pub bodies_bytes_max: usize,
    /// Jobs that wait for one layer; more are answered 503. Default 64.
    pub queue: usize,
    /// Seeds of one answer. Default 1,000.
    pub page_seeds_max: usize,
    /// Blueprints that are known. Default 1,024.
    pub blueprints_max: usize,
    /// Commands of one layer whose ids are remembered, so that one that comes again is not carried out again.
    /// Default 100,000.
    pub commands_remembered: usize,
    /// Transitions of one epoch boundary; more are denied, and can be asked for at the next. Default 4,096.
    pub transitions_max: usize,
    /// Time for the rulings of one boundary, in milliseconds; what is not ruled then is denied. Default 30,000.
    pub ruling_timeout_ms: u64,
    /// Time for a layer's last job when the host stops or the layer is removed, in milliseconds. Default 60,000.
    pub finish_timeout_ms: u64,
}

impl Default for KasminaFile {
    fn default() -> Self {
        Self {
            kernel: None,
            strategies: Vec::new(),
            tamiyo: None,
            backend: BackendChoice::default(),
            cpu_threads: None,
            layers_max: 16,
            width_max: 65_536,
            seeds_max: 100_000,
            weights_max: 1 << 26,
            candidates_max: 16_384,
            checkpoints_kept_max: 64,
            command_ids_max: 1_000_000,
            layer_blueprints_max: 4_096,
            rows_max: 65_536,
            values_max: 1 << 24,
            body_bytes_max: 256 << 20,
            bodies_bytes_max: 1 << 30,
            queue: 64,
            page_seeds_max: 1_000,
            blueprints_max: 1_024,
            commands_remembered: 100_000,
            transitions_max: 4_096,
            ruling_timeout_ms: 30_000,
            finish_timeout_ms: 60_000,
        }
    }
}

/// Where a layer runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// On a GPU where there is one, else on the CPU.
    #[default]
    Auto,
    /// On a GPU.
    Gpu,
    /// On the CPU.
    Cpu,
}

impl KasminaFile {
    /// Make the paths of components count from `folder`.
    pub(super) fn resolve_paths(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        self.strategies.iter_mut().for_each(|strategy| resolve(&mut strategy.component));
        self.tamiyo.iter_mut().for_each(|tamiyo| resolve(&mut tamiyo.component));
    }

    /// What must hold; `kernels` are the names that there are.
    pub(super) fn validate(&self, kernels: &[&str]) -> Result<(), String> {
        if let Some(kernel) = self.kernel.as_deref().filter(|kernel| !kernels.contains(kernel)) {
            return Err(format!("kasmina.kernel: there is no kernel `{kernel}`; there are: {}", kernels.join(", ")));
        }
        let at_least_one = [
            ("cpu_threads", self.cpu_threads.unwrap_or(1) as u64),
            ("layers_max", self.layers_max as u64),
            ("width_max", self.width_max as u64),
            ("seeds_max", self.seeds_max as u64),
            ("weights_max", self.weights_max as u64),
            ("candidates_max", self.candidates_max as u64),
            ("checkpoints_kept_max", self.checkpoints_kept_max as u64),
            ("command_ids_max", self.command_ids_max as u64),
            ("layer_blueprints_max", self.layer_blueprints_max as u64),
            ("rows_max", self.rows_max as u64),
            ("values_max", self.values_max as u64),
            ("body_bytes_max", self.body_bytes_max as u64),
            ("bodies_bytes_max", self.bodies_bytes_max as u64),
            ("queue", self.queue as u64),
            ("page_seeds_max", self.page_seeds_max as u64),
            ("blueprints_max", self.blueprints_max as u64),
            ("commands_remembered", self.commands_remembered as u64),
            ("transitions_max", self.transitions_max as u64),
            ("ruling_timeout_ms", self.ruling_timeout_ms),
            ("finish_timeout_ms", self.finish_timeout_ms),
        ];
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("kasmina.{name} is 0: give at least 1")),
            None => Ok(()),
        }
    }
}

/// What is kept of events, and for how many. Every limit is a key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsFile {
    /// Events that are kept for those who ask later. Default 10,000.
    pub history: usize,
    /// Bytes of these events. Default 64 MiB.
    pub history_bytes_max: usize,
    /// Subscribers at the same time. Default 64.
    pub subscribers_max: usize,
    /// Subscribers of one caller. Default 16.
    pub subscribers_per_caller_max: usize,
    /// A stream whose listener takes nothing for so long is ended, in milliseconds. Default 60,000.
    pub stream_stall_ms: u64,
    /// Events that a subscriber may lag behind; one that lags more is told how many it missed. Default 1,024.
    pub queue: usize,
    /// Data of more bytes is stored, and the event says where. Default 1 MiB.
    pub reference_above_bytes: usize,
    /// Bytes of all data that is stored so; the oldest goes. Default 1 GiB.
    pub payloads_bytes_max: u64,
    /// How long it is kept, in seconds. Default a day.
    pub payloads_age_s: u64,
}

impl Default for EventsFile {
    fn default() -> Self {
        Self {
            history: 10_000,
            history_bytes_max: 64 << 20,
            subscribers_max: 64,
            subscribers_per_caller_max: 16,
            stream_stall_ms: 60_000,
            queue: 1_024,
            reference_above_bytes: 1 << 20,
            payloads_bytes_max: 1 << 30,
            payloads_age_s: 86_400,
        }
    }
}

impl EventsFile {
    pub(super) fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("history", self.history as u64),
            ("history_bytes_max", self.history_bytes_max as u64),
            ("subscribers_max", self.subscribers_max as u64),
            ("subscribers_per_caller_max", self.subscribers_per_caller_max as u64),
            ("stream_stall_ms", self.stream_stall_ms),
            ("queue", self.queue as u64),
            ("reference_above_bytes", self.reference_above_bytes as u64),
            ("payloads_bytes_max", self.payloads_bytes_max),
            ("payloads_age_s", self.payloads_age_s),
        ];
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("events.{name} is 0: give at least 1")),
            None => Ok(()),
        }
    }
}

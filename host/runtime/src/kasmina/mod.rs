//! Components that take part in growing a Kasmina layer: grafting strategies and Tamiyos (`wit/kasmina/kasmina.wit`).
//!
//! They run in the sandbox of the policies and under the same rules: nothing is imported that their world does not offer,
//! every call has a fresh instance under a deadline and caps, and what goes wrong is a [`FailedClosed`] that names the
//! limit. Two things differ. They have no counters, so an answer depends on the call's parameter and the configuration
//! alone. And they are called synchronously: a layer lives on a thread of its own and waits for the answer anyway. The
//! calls need no async runtime, and may be made within one, where they block their thread for the deadline at most.
//!
//! This crate does not know the layer. The types here are those of the contract; whoever knows both turns one into the
//! other.

mod component;

pub use crate::bindings::strategy::gavel::kasmina::types::{
    Command, Evaluation, Gate, Lifecycle, Observation, Order, SeedTelemetry, SeedView, StrategyInput, StrategyStep,
    TaskSignals,
};

use crate::load::{Range, check_ranges};
use crate::world::{STRATEGY, TAMIYO, World};
use crate::{Error, FailedClosed, LogLine, Metadata, Sandbox, SandboxOptions};
use component::{Component, StrategyWorld, TamiyoWorld};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// The most epochs that a strategy may pause for.
pub const PAUSE_EPOCHS_MAX: u32 = 1_000;
/// Bytes of a command's id.
pub const COMMAND_ID_BYTES_MAX: usize = 128;

/// What one component may use in one call. Every field has a default and can be set in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall time, in milliseconds, instantiation included. Default 250, at most 10,000. It is meant for what hangs: a
    /// call that meets it makes a run depend on the machine's load.
    pub deadline_ms: u64,
    /// Linear memory, in bytes, over all memories of the component. Default 16 MiB. A Tamiyo needs room for what it is
    /// shown: some 400 bytes for each seed that is growing.
    pub max_memory_bytes: u64,
    /// Elements of any one table. Default 10,000.
    pub max_table_elements: u64,
    /// Commands in one answer of a Tamiyo. Default 1,024, at most 8,192.
    pub max_commands: u64,
    /// Bytes of text in one answer of a Tamiyo, over all commands. Default 128 KiB, at most 512 KiB.
    pub max_output_bytes: u64,
    /// Log lines kept of one call; more are dropped and counted. Default 64.
    pub max_log_lines: u64,
    /// Bytes of one log line; longer ones are shortened. Default 1,024.
    pub max_log_line_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline_ms: 250,
            max_memory_bytes: 16 << 20,
            max_table_elements: 10_000,
            max_commands: 1_024,
            max_output_bytes: 128 << 10,
            max_log_lines: 64,
            max_log_line_bytes: 1_024,
        }
    }
}

impl Limits {
    fn check(&self, world: &World, name: &str, options: &SandboxOptions) -> Result<(), Error> {
        let ranges: [Range; 7] = [
            ("deadline_ms", self.deadline_ms, 1, 10_000),
            ("max_memory_bytes", self.max_memory_bytes, 1, options.max_memory_bytes),
            ("max_table_elements", self.max_table_elements, 1, options.max_table_elements),
            ("max_commands", self.max_commands, 1, 8_192),
            ("max_output_bytes", self.max_output_bytes, 16, 512 << 10),
            ("max_log_lines", self.max_log_lines, 0, 10_000),
            ("max_log_line_bytes", self.max_log_line_bytes, 16, 64 << 10),
        ];
        check_ranges(world, name, &ranges)
    }

    /// The same as the limits of a policy, where they have the same.
    fn of_policy(&self) -> crate::Limits {
        crate::Limits {
            deadline_ms: self.deadline_ms,
            max_memory_bytes: self.max_memory_bytes,
            max_table_elements: self.max_table_elements,
            max_output_bytes: self.max_output_bytes,
            max_log_lines: self.max_log_lines,
            max_log_line_bytes: self.max_log_line_bytes,
            ..crate::Limits::default()
        }
    }
}

/// What a component is made of.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, for messages.
    pub name: String,
    /// The component.
    pub bytes: Vec<u8>,
    /// The operator's configuration for it; `Null` for none.
    pub config: Value,
    /// What it may use.
    pub limits: Limits,
}

impl Source {
    /// A component without configuration, under the default limits.
    #[must_use]
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes, config: Value::Null, limits: Limits::default() }
    }
}

/// What came of one call.
#[derive(Debug)]
pub struct Answer<T> {
    /// The answer, in its range, or why there is none.
    pub outcome: Result<T, FailedClosed>,
    /// What the component logged, up to the limits.
    pub logs: Vec<LogLine>,
    /// Lines beyond `max_log_lines`.
    pub logs_dropped: u64,
    /// Linear memory that the instance had at the end, in bytes.
    pub memory_bytes: u64,
    /// Wall time, from asking for an instance to the answer.
    pub elapsed: Duration,
}

impl<T> Answer<T> {
    /// The same, where what was answered must stand a check.
    fn checked(self, check: impl FnOnce(&T) -> Result<(), FailedClosed>) -> Self {
        let outcome = self.outcome.and_then(|answer| check(&answer).map(|()| answer));
        Self { outcome, ..self }
    }
}

/// A grafting strategy, compiled and linked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Strategy {
    component: Component<StrategyWorld>,
}

/// A Tamiyo, compiled and linked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tamiyo {
    component: Component<TamiyoWorld>,
}

impl Sandbox {
    /// Make a strategy ready: compile it (or take it from the cache), check limits, imports, exports and configuration,
    /// and ask it to describe itself. Takes 10 ms for a small Rust component, seconds for one that carries a language
    /// runtime and was not compiled before.
    ///
    /// # Errors
    /// Everything in [`Error`] but [`Error::Engine`].
    pub fn load_strategy(&self, source: Source) -> Result<Strategy, Error> {
        source.limits.check(&STRATEGY, &source.name, &self.inner.options)?;
        Ok(Strategy { component: Component::load(self, source)? })
    }

    /// Make a Tamiyo ready, as [`Sandbox::load_strategy`] does a strategy.
    ///
    /// # Errors
    /// As [`Sandbox::load_strategy`].
    pub fn load_tamiyo(&self, source: Source) -> Result<Tamiyo, Error> {
        source.limits.check(&TAMIYO, &source.name, &self.inner.options)?;
        Ok(Tamiyo { component: Component::load(self, source)? })
    }
}

impl Strategy {
    /// The name it was loaded under.
    #[must_use]
    pub fn name(&self) -> &str {
        self.component.name()
    }

    /// `sha256:` and the hex digest of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.component.digest()
    }

    /// What it says of itself.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        self.component.metadata()
    }

    /// One step for one seed. Never fails: what goes wrong is in [`Answer::outcome`]. An answer that comes is finite,
    /// adds 0 to 1, and pauses for [`PAUSE_EPOCHS_MAX`] at most.
    #[must_use]
    pub fn step(&self, input: &StrategyInput) -> Answer<StrategyStep> {
        self.component.call(async |world, store| world.call_step(store, input).await).checked(|step| check_step(*step))
    }
}

impl Tamiyo {
    /// The name it was loaded under.
    #[must_use]
    pub fn name(&self) -> &str {
        self.component.name()
    }

    /// `sha256:` and the hex digest of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.component.digest()
    }

    /// What it says of itself.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        self.component.metadata()
    }

    /// What it orders, seen this. Never fails: what goes wrong is in [`Answer::outcome`]. The commands that come are
    /// within `max_commands` and `max_output_bytes`; whether the layer can carry them out is the layer's to say.
    #[must_use]
    pub fn decide(&self, observation: &Observation) -> Answer<Vec<Command>> {
        let limits = self.component.limits();
        self.component
            .call(async |world, store| world.call_decide(store, observation).await)
            .checked(|commands| check_commands(commands, limits))
    }
}

fn check_step(step: StrategyStep) -> Result<(), FailedClosed> {
    // A comparison with NaN is false.
    if !(0.0..=1.0).contains(&step.add) {
        return Err(FailedClosed::Undecodable(format!("add is {}, it must lie in 0 to 1", step.add)));
    }
    if step.pause > PAUSE_EPOCHS_MAX {
        let why = format!("pause is {} epochs, at most {PAUSE_EPOCHS_MAX} are allowed", step.pause);
        return Err(FailedClosed::Undecodable(why));
    }
    Ok(())
}

fn check_commands(commands: &[Command], limits: &Limits) -> Result<(), FailedClosed> {
    let (found, limit) = (commands.len() as u64, limits.max_commands);
    if found > limit {
        return Err(FailedClosed::Commands { found, limit });
    }
    if commands.iter().map(text_bytes).sum::<u64>() > limits.max_output_bytes {
        return Err(FailedClosed::Output { limit: limits.max_output_bytes });
    }
    match commands.iter().find(|command| command.id.len() > COMMAND_ID_BYTES_MAX) {
        Some(command) => Err(FailedClosed::Undecodable(format!(
            "the id of a command for seed {} has {} bytes, at most {COMMAND_ID_BYTES_MAX} are allowed",
            command.seed,
            command.id.len()
        ))),
        None => Ok(()),
    }
}

fn text_bytes(command: &Command) -> u64 {
    let optional = [&command.blueprint, &command.blueprint_ir, &command.strategy];
    let optional = optional.into_iter().flatten().map(String::len).sum::<usize>();
    (command.id.len() + command.reason.len() + optional) as u64
}

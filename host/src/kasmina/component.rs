//! Grafting strategies and Tamiyos that are WebAssembly components, behind the layer's own traits.
//!
//! [`ComponentStrategy`] is a [`kasmina::strategy::Strategy`], [`ComponentTamiyo`] a [`kasmina::govern::Tamiyo`]: a layer
//! does not know that it asks a component. They close when a component fails: a strategy that traps, hangs or answers
//! what is out of range adds nothing, and a Tamiyo that does orders nothing and says why. What a component commands is
//! checked by the layer and judged by the governor as anybody's command is; nothing here permits anything.
//!
//! Layers share their strategies, so that one which meets its deadline again and again would hold up all of them: after
//! [`FAILURES_IN_A_ROW_MAX`] a strategy rests for [`REST_STEPS`] steps, in which alpha holds without its being asked.
//!
//! Two vocabularies meet here, and each is turned into the other field by field: the layer's (`kasmina`) and the
//! contract's (`wit/kasmina/kasmina.wit`, [`gavel_runtime::kasmina`]).

use super::convert;
use super::metrics::{ComponentLabels, LayerMetrics};
use crate::host::component_cache;
use crate::policies::package::PACKAGE_BYTES_MAX;
use anyhow::{Context, Result, ensure};
use gavel_runtime::kasmina as contract;
use gavel_runtime::{FailedClosed, Level, LogLine, Sandbox, SandboxOptions};
use kasmina::govern::{Command, Tamiyo};
use kasmina::observe::Observation;
use kasmina::strategy::{Strategy, StrategyInput, StrategyStep};
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Instances that the sandbox of a command has room for: one layer asks one component at a time.
const INSTANCES_MAX: u32 = 4;
/// Failures of a strategy in a row, after which it rests.
pub const FAILURES_IN_A_ROW_MAX: u32 = 4;
/// Steps for which it then is not asked.
pub const REST_STEPS: u32 = 64;
/// Characters of a strategy's name.
const NAME_CHARS_MAX: usize = 64;

/// One of `kasmina.strategies`: a grafting strategy that is a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrategyFile {
    /// The name by which layers and commands choose it. Default: what the component says of itself.
    #[serde(default)]
    pub name: Option<String>,
    /// The component's file.
    pub component: PathBuf,
    /// Its configuration, checked against the schema that it ships. Default: none.
    #[serde(default)]
    pub config: Value,
    /// What it may use.
    #[serde(default)]
    pub limits: contract::Limits,
}

/// `kasmina.tamiyo`: a Tamiyo that is a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TamiyoFile {
    /// The name by which layers choose it. Default: what the component says of itself.
    #[serde(default)]
    pub name: Option<String>,
    /// The component's file.
    pub component: PathBuf,
    /// Its configuration, checked against the schema that it ships. Default: none.
    #[serde(default)]
    pub config: Value,
    /// What it may use.
    #[serde(default)]
    pub limits: contract::Limits,
}

impl StrategyFile {
    /// The component at `path`, under the name that it gives itself, without configuration, under the default limits.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { name: None, component: path.into(), config: Value::Null, limits: contract::Limits::default() }
    }
}

impl TamiyoFile {
    /// The component at `path`, without configuration, under the default limits.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { name: None, component: path.into(), config: Value::Null, limits: contract::Limits::default() }
    }
}

/// The components of a configuration, ready.
#[derive(Debug, Default)]
pub struct Components {
    /// For the library that layers share.
    pub strategies: Vec<ComponentStrategy>,
    /// Who commands the layers that name it.
    pub tamiyo: Option<ComponentTamiyo>,
}

impl Components {
    /// Load them all. Blocks while they are compiled.
    ///
    /// # Errors
    /// As [`load_strategy`] and [`load_tamiyo`], or if two strategies have one name.
    pub fn load(sandbox: &Sandbox, strategies: &[StrategyFile], tamiyo: Option<&TamiyoFile>) -> Result<Self> {
        let mut loaded: Vec<ComponentStrategy> = Vec::with_capacity(strategies.len());
        for file in strategies {
            let strategy = load_strategy(sandbox, file).context("kasmina.strategies")?;
            let name = strategy.name();
            ensure!(loaded.iter().all(|other| other.name() != name), "kasmina.strategies: `{name}` is there twice");
            loaded.push(strategy);
        }
        let tamiyo = tamiyo.map(|file| load_tamiyo(sandbox, file).context("kasmina.tamiyo")).transpose()?;
        Ok(Self { strategies: loaded, tamiyo })
    }
}

/// A sandbox for a command that runs a layer and has none: small, with the user's cache of compiled components.
///
/// # Errors
/// If the machine cannot run the engine.
pub fn sandbox() -> Result<Sandbox> {
    let options = SandboxOptions {
        cache_dir: component_cache(),
        max_instances: INSTANCES_MAX,
        slow_lane_threads: 1,
        ..SandboxOptions::default()
    };
    Ok(Sandbox::new(options)?)
}

/// Make a strategy ready. Blocks while it is compiled: a moment, or seconds for one that carries a language's runtime
/// and was not compiled before.
///
/// # Errors
/// If the file cannot be read, is no component of world `gavel:kasmina/strategy`, refuses its configuration, or has a
/// name that cannot be one.
pub fn load_strategy(sandbox: &Sandbox, file: &StrategyFile) -> Result<ComponentStrategy> {
    let source = source(&file.component, &file.config, &file.limits)?;
    let component = sandbox.load_strategy(source)?;
    let name = name(&file.component, file.name.as_ref(), &component.metadata().name)?;
    Ok(ComponentStrategy { name, component, health: Arc::default(), pace: Pace::default() })
}

/// Make a Tamiyo ready, as [`load_strategy`] does a strategy.
///
/// # Errors
/// If the file cannot be read, is no component of world `gavel:kasmina/tamiyo`, refuses its configuration, or has a name
/// that cannot be one.
pub fn load_tamiyo(sandbox: &Sandbox, file: &TamiyoFile) -> Result<ComponentTamiyo> {
    let source = source(&file.component, &file.config, &file.limits)?;
    let component = sandbox.load_tamiyo(source)?;
    let name = name(&file.component, file.name.as_ref(), &component.metadata().name)?;
    Ok(ComponentTamiyo { name, component, health: Arc::default() })
}

/// What the operator calls a component, or else what it calls itself.
fn name(path: &Path, given: Option<&String>, own: &str) -> Result<String> {
    let name = given.map_or(own, String::as_str);
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    ensure!(
        plain && !name.is_empty() && name.len() <= NAME_CHARS_MAX,
        "{}: the name `{}`: use 1 to {NAME_CHARS_MAX} letters, digits, `.`, `_` or `-`",
        path.display(),
        printable(name)
    );
    Ok(name.to_owned())
}

fn source(path: &Path, config: &Value, limits: &contract::Limits) -> Result<contract::Source> {
    let size = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    ensure!(size <= PACKAGE_BYTES_MAX, "{}: {size} bytes, a component may have {PACKAGE_BYTES_MAX}", path.display());
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(contract::Source {
        config: config.clone(),
        limits: limits.clone(),
        ..contract::Source::new(path.display().to_string(), bytes)
    })
}

/// How a component has done since it was loaded. Shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Health {
    calls: Counter,
    failures: Counter,
    unasked: Counter,
    last_failure: Mutex<Option<String>>,
}

impl Health {
    /// One that counts where `/metrics` shows it.
    fn counted(metrics: &LayerMetrics, kind: &'static str, component: &str) -> Arc<Self> {
        let labels = ComponentLabels { kind, component: component.to_owned() };
        Arc::new(Self {
            calls: metrics.component_calls.get_or_create(&labels).clone(),
            failures: metrics.component_failures.get_or_create(&labels).clone(),
            unasked: metrics.component_unasked.get_or_create(&labels).clone(),
            last_failure: Mutex::default(),
        })
    }

    /// How often it was asked.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// How often it gave no usable answer.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.get()
    }

    /// How many steps it was not asked for, because it rested.
    #[must_use]
    pub fn unasked(&self) -> u64 {
        self.unasked.get()
    }

    /// Why it failed, the last time.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_unasked(&self) {
        self.unasked.inc();
    }

    /// Take note of a call. Whether its failure is to be logged: the 1st, 2nd, 4th, 8th and so on, because a component
    /// that fails does so for every seed in every epoch.
    fn note(&self, failure: Option<&str>) -> bool {
        self.calls.inc();
        let Some(why) = failure else { return false };
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        (self.failures.inc() + 1).is_power_of_two()
    }
}

/// A grafting strategy that is a component. Every step is one call of a fresh instance, on the layer's own thread.
#[derive(Debug, Clone)]
pub struct ComponentStrategy {
    name: String,
    component: contract::Strategy,
    health: Arc<Health>,
    pace: Pace,
}

/// Whether a strategy is asked.
#[derive(Debug, Clone, Default)]
struct Pace {
    failures_in_a_row: u32,
    rest_left: u32,
}

impl ComponentStrategy {
    /// The same, counted from now on where `/metrics` shows it.
    #[must_use]
    pub fn counted(self, metrics: &LayerMetrics) -> Self {
        Self { health: Health::counted(metrics, "strategy", &self.name), ..self }
    }

    /// `sha256:` and the hex digest of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.component.digest()
    }

    /// How it has done so far.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

impl ComponentStrategy {
    fn fail(&mut self, seed: usize, why: &str) {
        let strategy = &*self.name;
        if self.health.note(Some(why)) {
            let failures = self.health.failures();
            tracing::warn!(strategy, seed, failures, why, "the strategy gave no step, alpha holds");
        }
        self.pace.failures_in_a_row += 1;
        if self.pace.failures_in_a_row >= FAILURES_IN_A_ROW_MAX {
            self.pace = Pace { failures_in_a_row: 0, rest_left: REST_STEPS };
        }
    }
}

impl Strategy for ComponentStrategy {
    fn name(&self) -> &str {
        &self.name
    }

    /// What the component says; where it gives no usable answer, alpha holds.
    fn step(&mut self, seed: &StrategyInput) -> StrategyStep {
        if let Some(left) = self.pace.rest_left.checked_sub(1) {
            self.pace.rest_left = left;
            self.health.note_unasked();
            return StrategyStep::HOLD;
        }
        let answer = self.component.step(&convert::strategy_input(seed));
        pass_on(&self.name, &answer.logs);
        match answer.outcome {
            Ok(step) => {
                self.pace.failures_in_a_row = 0;
                self.health.note(None);
                StrategyStep { add: step.add, pause: step.pause }
            }
            Err(why) => {
                self.fail(seed.seed, &told(&why, &answer.logs));
                StrategyStep::HOLD
            }
        }
    }
}

/// A Tamiyo that is a component. Every decision is one call of a fresh instance, on the layer's own thread.
#[derive(Debug, Clone)]
pub struct ComponentTamiyo {
    name: String,
    component: contract::Tamiyo,
    health: Arc<Health>,
}

impl ComponentTamiyo {
    /// The same, counted from now on where `/metrics` shows it.
    #[must_use]
    pub fn counted(self, metrics: &LayerMetrics) -> Self {
        Self { health: Health::counted(metrics, "tamiyo", &self.name), ..self }
    }

    /// What the operator calls it, or else what it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `sha256:` and the hex digest of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.component.digest()
    }

    /// How it has done so far.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    fn commands(&self, observation: &Observation) -> Result<Vec<Command>, String> {
        let answer = self.component.decide(&convert::observation(observation)?);
        pass_on(self.name(), &answer.logs);
        let commands = answer.outcome.map_err(|why| told(&why, &answer.logs))?;
        commands.into_iter().map(|command| convert::command(command, self.name(), observation.epoch)).collect()
    }
}

impl Tamiyo for ComponentTamiyo {
    /// What the component orders, all of it or, where its answer is not usable, nothing.
    fn decide(&mut self, observation: &Observation) -> Result<Vec<Command>, String> {
        let commands = self.commands(observation).map_err(|why| format!("tamiyo {}: {why}", self.name()));
        if self.health.note(commands.as_ref().err().map(String::as_str)) {
            let (tamiyo, failures) = (self.name(), self.health.failures());
            let why = commands.as_ref().err().map_or("", String::as_str);
            tracing::warn!(tamiyo, failures, epoch = observation.epoch, why, "nothing is ordered");
        }
        commands
    }
}

/// Why, with the component's own last words where it has any.
fn told(why: &FailedClosed, logs: &[LogLine]) -> String {
    match logs.last() {
        Some(LogLine { level: Level::Error, message }) => format!("{why}; it said: {}", printable(message)),
        _ => why.to_string(),
    }
}

/// A guest's text goes to terminals and logs: without control characters, in one line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// What a component logged, to the operator's log.
fn pass_on(component: &str, logs: &[LogLine]) {
    for line in logs {
        let message = printable(&line.message);
        match line.level {
            Level::Error => tracing::error!(target: "kasmina", component, "{message}"),
            Level::Warn => tracing::warn!(target: "kasmina", component, "{message}"),
            Level::Info => tracing::info!(target: "kasmina", component, "{message}"),
            Level::Debug => tracing::debug!(target: "kasmina", component, "{message}"),
        }
    }
}

//! The keys of `bus`: the event bus of this host, its sockets and its plugins.
//!
//! The older daemon's `daemon.json` has `daemon`, `transports` and `plugins` at the top; they are taken as they stand
//! ([`super::shorthand`]); every key of that file means here what it said there.

use super::policies::SignaturesFile;
use crate::bus::nats::NatsFile;
use crate::plugins::Settings;
use gavel_bus::unix::{Mode, UnixOptions};
use gavel_bus::{Options, StoreLimits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel that is added for the bus where the configuration names none.
pub const BUS_KERNEL: &str = "bus";
/// The name of the state service in `plugins`.
pub const STATE_SERVICE: &str = "state_service";
/// The name of the agent service in `plugins`.
pub const AGENT_SERVICE: &str = "agent_service";
/// The name of the completion service in `plugins`.
pub const COMPLETION_SERVICE: &str = "completion_service";

/// The event bus of a host. Every limit is a key.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusFile {
    /// The kernel in whose ledger every change of state stands. Default: a kernel `bus` is added, which records these and
    /// allows nothing else.
    pub kernel: Option<String>,
    /// The kernel that plugins ask for tools. Default: the first of the configuration.
    pub tools_kernel: Option<String>,
    /// The bus itself.
    pub daemon: DaemonFile,
    /// How clients reach it.
    pub transports: TransportsFile,
    /// The bridge to other hosts. Default: there is none.
    pub nats: Option<NatsFile>,
    /// What each plugin, and each service of the host, is configured with, by name.
    pub plugins: BTreeMap<String, Value>,
}

/// The bus itself: the keys of the older daemon's `daemon`, and the limits it did not have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DaemonFile {
    /// Folders of plugins. Default: `plugins` in the data folder, if it is there.
    pub plugin_dirs: Vec<PathBuf>,
    /// How often the folders are looked at, in seconds; 0: at the start and when asked. Default 2.
    pub plugin_watch_interval: f64,
    /// Whose signatures on plugins count, and whether one is required. Default: signatures are optional.
    pub plugin_signatures: SignaturesFile,
    /// Events that `system:event_history` can look back. Default 1,000.
    pub max_event_history: usize,
    /// The most bytes of data that the history keeps of one event. Default 65,536.
    pub max_event_history_data_bytes: usize,
    /// Seconds that a handler has. Default 30.
    pub event_timeout: f64,
    /// Events that wait for one plugin at most. Default 10,000.
    pub event_queue_size: usize,
    /// Plugins that hear of events at the same time. Default 4.
    pub worker_threads: usize,
    /// Seconds that an event nobody waits for may be held back so that several are told at once. Default 0.1.
    pub batch_timeout: f64,
    /// What to log: `DEBUG`, `INFO`, `WARNING`, `ERROR`. Default: what `--log` or `GAVEL_LOG` say. Those win.
    pub log_level: Option<LogLevel>,
    /// Log every event. Default false.
    pub log_events: bool,
    /// How deep a chain of events may be, each made while the one before it was handled. Default 8.
    pub max_chain_depth: usize,
    /// Events a second that one plugin may emit or call. Default 10,000.
    pub max_plugin_events_per_second: f64,
    /// Failures in a row after which a plugin's circuit opens. Default 5.
    pub max_failures: u32,
    /// Seconds that a plugin rests after its first failure; doubled with each that follows. Default 0.1.
    pub backoff_first: f64,
    /// The longest rest, and how long an open circuit stays open, in seconds. Default 30.
    pub backoff_max: f64,
    /// Seconds that plugins have to shut down. Default 5.
    pub shutdown_grace: f64,
    /// Those who may watch events over HTTP at once. Default 64.
    pub max_tails: usize,
    /// Seconds that one of them may take nothing before another may have its place. Default 30.
    pub tail_stall: f64,
}

impl Default for DaemonFile {
    fn default() -> Self {
        Self {
            plugin_dirs: Vec::new(),
            plugin_watch_interval: 2.0,
            plugin_signatures: SignaturesFile::default(),
            max_event_history: 1_000,
            max_event_history_data_bytes: 64 << 10,
            event_timeout: 30.0,
            event_queue_size: 10_000,
            worker_threads: 4,
            batch_timeout: 0.1,
            log_level: None,
            log_events: false,
            max_chain_depth: 8,
            max_plugin_events_per_second: 10_000.0,
            max_failures: 5,
            backoff_first: 0.1,
            backoff_max: 30.0,
            shutdown_grace: 5.0,
            max_tails: 64,
            tail_stall: 30.0,
        }
    }
}

/// How much is logged, in the older daemon's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Everything a developer asks for.
    Debug,
    /// What an operator follows.
    Info,
    /// What is not as it should be.
    #[serde(alias = "WARN")]
    Warning,
    /// What failed.
    #[serde(alias = "CRITICAL")]
    Error,
}

impl LogLevel {
    /// The level of this name, in capitals or not.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(Value::from(name.to_ascii_uppercase())).ok()
    }

    /// The filter of the log that it means.
    #[must_use]
    pub fn filter(self) -> &'static str {
        match self {
            Self::Debug => "info,gavel=debug,gavel_bus=debug,policy=debug,plugin=debug",
            Self::Info => "warn,gavel=info,gavel_bus=info,policy=info,plugin=info",
            Self::Warning => "warn",
            Self::Error => "error",
        }
    }
}

/// How clients reach the bus.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportsFile {
    /// Unix sockets.
    pub unix: UnixFile,
}

/// The Unix sockets.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnixFile {
    /// Whether there are any. Default true.
    pub enabled: bool,
    /// Their folder. Default: `$XDG_RUNTIME_DIR/gavel`, or `sockets` in the data folder where that is not set.
    pub socket_dir: Option<PathBuf>,
    /// Which frames are taken: `true` or `compatibility`, `hybrid`, `false` or `pure`. Default true.
    #[serde(deserialize_with = "mode")]
    pub compatibility_mode: Mode,
    /// The longest line, in bytes. Default 1 MiB.
    pub max_line_bytes: usize,
    /// Connections at once, over all sockets. Default 4,096.
    pub max_connections: usize,
    /// Lines that wait to be written to one client. Default 1,024.
    pub max_lines_waiting: usize,
    /// Messages that are kept for an agent that is not connected. Default 1,000.
    pub max_undelivered: usize,
    /// Permissions of the sockets, in octal digits as a text. Default `"600"`.
    #[serde(deserialize_with = "octal")]
    pub permissions: u32,
}

impl Default for UnixFile {
    fn default() -> Self {
        let UnixOptions {
            mode, line_bytes_max, connections_max, lines_waiting_max, undelivered_max, permissions, ..
        } = UnixOptions::in_folder("");
        Self {
            enabled: true,
            socket_dir: None,
            compatibility_mode: mode,
            max_line_bytes: line_bytes_max,
            max_connections: connections_max,
            max_lines_waiting: lines_waiting_max,
            max_undelivered: undelivered_max,
            permissions,
        }
    }
}

/// `plugins.state_service`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateServiceFile {
    /// The folder of the state. Default: `bus` in the data folder.
    pub state_dir: Option<PathBuf>,
    /// Bytes of a namespace's or a key's name. Default 256.
    pub max_name_bytes: usize,
    /// Bytes of one value. Default 1 MiB.
    pub max_value_bytes: usize,
    /// Keys of one answer. Default 10,000.
    pub max_keys_listed: usize,
    /// Changes that wait to be written. Default 10,000.
    pub max_waiting: usize,
}

impl Default for StateServiceFile {
    fn default() -> Self {
        let StoreLimits { name_bytes_max, value_bytes_max, keys_listed_max, waiting_max } = StoreLimits::default();
        Self {
            state_dir: None,
            max_name_bytes: name_bytes_max,
            max_value_bytes: value_bytes_max,
            max_keys_listed: keys_listed_max,
            max_waiting: waiting_max,
        }
    }
}

impl StateServiceFile {
    /// As the store has them.
    #[must_use]
    pub fn limits(&self) -> StoreLimits {
        StoreLimits {
            name_bytes_max: self.max_name_bytes,
            value_bytes_max: self.max_value_bytes,
            keys_listed_max: self.max_keys_listed,
            waiting_max: self.max_waiting,
        }
    }
}

/// `plugins.agent_service`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentServiceFile {
    /// The folder of profiles, `NAME.json` or `NAME.yaml`. Default: none.
    pub profiles_dir: Option<PathBuf>,
    /// Identities of the older daemon, taken over at the start where the state does not have them. Default: none.
    pub identities_file: Option<PathBuf>,
}

/// Where completions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// Nowhere: each is answered with an error that says what to configure.
    #[default]
    None,
    /// The prompt is said back, for tests and demonstrations.
    Stub,
    /// An endpoint that speaks `OpenAI`'s `/v1/chat/completions`.
    OpenAi,
}

/// `plugins.completion_service`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompletionServiceFile {
    /// Where completions come from: `none`, `stub` or `openai`. Default `none`.
    pub provider: ProviderKind,
    /// The model that is asked where a prompt names none; `openai` needs it.
    pub model: Option<String>,
    /// Where the endpoint is, for example `https://api.openai.com/v1`; `openai` needs it.
    pub base_url: Option<String>,
    /// The variable of the environment that holds the endpoint's key. Default: no key is sent.
    pub api_key_env: Option<String>,
    /// The file that holds the endpoint's key.
    pub api_key_file: Option<PathBuf>,
    /// The longest answer of the endpoint, in bytes. Default 4 MiB.
    pub max_response_bytes: usize,
    /// Conversations that are kept, the last used ones. Default 1,000.
    pub max_sessions: usize,
    /// Bytes of one conversation. Default 1 MiB.
    pub max_session_bytes: usize,
    /// Seconds that the stub thinks. Default 0.
    pub stub_delay: f64,
    /// Every so-manieth request to the stub fails; 0: none. Default 0.
    pub stub_fail_every: u64,
    /// Seconds that a provider has for one answer. Default 300.
    pub timeout: f64,
    /// Prompts that are with the provider at once. Default 4.
    pub max_running: usize,
    /// Prompts that wait. Default 1,000.
    pub max_waiting: usize,
    /// Finished ones whose status is kept. Default 1,000.
    pub max_finished: usize,
}

impl Default for CompletionServiceFile {
    fn default() -> Self {
        Self {
            provider: ProviderKind::None,
            model: None,
            base_url: None,
            api_key_env: None,
            api_key_file: None,
            max_response_bytes: 4 << 20,
            max_sessions: 1_000,
            max_session_bytes: 1 << 20,
            stub_delay: 0.0,
            stub_fail_every: 0,
            timeout: 300.0,
            max_running: 4,
            max_waiting: 1_000,
            max_finished: 1_000,
        }
    }
}

impl CompletionServiceFile {
    fn validate(&self) -> Result<(), String> {
        let at = "plugins.completion_service";
        in_range(&format!("{at}.timeout"), self.timeout, 0.001, 86_400.0)?;
        in_range(&format!("{at}.stub_delay"), self.stub_delay, 0.0, 86_400.0)?;
        if self.max_running == 0 {
            return Err(format!("{at}.max_running is 0: no prompt could be answered"));
        }
        if self.api_key_env.is_some() && self.api_key_file.is_some() {
            return Err(format!("{at}: api_key_env and api_key_file name two keys: leave one out"));
        }
        let needed = [("base_url", self.base_url.is_some()), ("model", self.model.is_some())];
        match needed.iter().find(|(_, there)| self.provider == ProviderKind::OpenAi && !there) {
            Some((key, _)) => Err(format!("{at}.{key} is missing: the provider openai needs it")),
            None => Ok(()),
        }
    }
}

impl BusFile {
    /// The limits of the bus.
    #[must_use]
    pub fn options(&self) -> Options {
        let daemon = &self.daemon;
        Options {
            history_events_max: daemon.max_event_history,
            history_data_bytes_max: daemon.max_event_history_data_bytes,
            event_timeout: seconds(daemon.event_timeout),
            queue_events_max: daemon.event_queue_size,
            chain_depth_max: daemon.max_chain_depth,
            plugin_events_per_second: daemon.max_plugin_events_per_second,
            failures_max: daemon.max_failures,
            backoff_first: seconds(daemon.backoff_first),
            backoff_max: seconds(daemon.backoff_max),
            shutdown_grace: seconds(daemon.shutdown_grace),
            deliveries_max: daemon.worker_threads,
            batch_timeout: seconds(daemon.batch_timeout),
            log_events: daemon.log_events,
            ..Options::default()
        }
    }

    /// What a host is told about plugins. Its own services are none.
    #[must_use]
    pub fn plugin_settings(&self, data: Option<&Path>, component_bytes_max: u64) -> Settings {
        let daemon = &self.daemon;
        let default = || data.map(|data| data.join("plugins")).filter(|folder| folder.is_dir());
        let named = daemon.plugin_dirs.clone();
        let folders = if named.is_empty() { default().into_iter().collect() } else { named };
        Settings {
            folders,
            plugins: self.plugins.clone(),
            signatures: daemon.plugin_signatures.clone(),
            every: seconds(daemon.plugin_watch_interval),
            component_bytes_max,
        }
    }

    /// The same without what counts at once when the configuration is read again.
    #[must_use]
    pub fn without_plugins(&self) -> Self {
        let mut file = self.clone();
        file.plugins.retain(|name, _| [STATE_SERVICE, AGENT_SERVICE, COMPLETION_SERVICE].contains(&name.as_str()));
        file.daemon.plugin_dirs.clear();
        file.daemon.plugin_signatures = SignaturesFile::default();
        file
    }

    /// How the sockets in this folder are served.
    #[must_use]
    pub fn unix_options(&self, socket_dir: PathBuf) -> UnixOptions {
        let unix = &self.transports.unix;
        UnixOptions {
            socket_dir,
            mode: unix.compatibility_mode,
            line_bytes_max: unix.max_line_bytes,
            connections_max: unix.max_connections,
            lines_waiting_max: unix.max_lines_waiting,
            undelivered_max: unix.max_undelivered,
            permissions: unix.permissions,
            ..UnixOptions::in_folder("")
        }
    }

    /// What a service of the host is configured with.
    ///
    /// # Errors
    /// When its keys are not those of the service.
    pub fn service<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, String> {
        let Some(value) = self.plugins.get(name).filter(|value| !value.is_null()) else { return Ok(T::default()) };
        let at = PathBuf::from(format!("plugins.{name}"));
        super::typed(&at, value.clone()).map_err(|why| why.to_string())
    }

    /// Every limit in its range, every service's keys known, every kernel there.
    pub(super) fn validate(&self, kernels: &[&str]) -> Result<(), String> {
        for (key, kernel) in [("kernel", &self.kernel), ("tools_kernel", &self.tools_kernel)] {
            if let Some(kernel) = kernel.as_deref().filter(|kernel| !kernels.contains(kernel)) {
                return Err(format!("bus.{key}: there is no kernel `{kernel}`; there are {}", kernels.join(", ")));
            }
        }
        self.daemon.validate()?;
        self.transports.unix.validate()?;
        self.nats.as_ref().map_or(Ok(()), NatsFile::validate)?;
        self.service::<StateServiceFile>(STATE_SERVICE)?;
        self.service::<AgentServiceFile>(AGENT_SERVICE)?;
        self.service::<CompletionServiceFile>(COMPLETION_SERVICE)?.validate()
    }

    /// Paths of the file count from its folder.
    pub(super) fn resolve_paths(&mut self, folder: &Path) {
        self.daemon.plugin_dirs.iter_mut().for_each(|dir| *dir = folder.join(&*dir));
        self.transports.unix.socket_dir.iter_mut().for_each(|dir| *dir = folder.join(&*dir));
        self.nats.iter_mut().for_each(|nats| nats.resolve_paths(folder));
        let named = [
            (STATE_SERVICE, "state_dir"),
            (AGENT_SERVICE, "profiles_dir"),
            (AGENT_SERVICE, "identities_file"),
            (COMPLETION_SERVICE, "api_key_file"),
        ];
        for (service, key) in named {
            let path = self.plugins.get_mut(service).and_then(|config| config.get_mut(key));
            if let Some(Value::String(path)) = path {
                *path = folder.join(&*path).to_string_lossy().into_owned();
            }
        }
    }
}

impl DaemonFile {
    fn validate(&self) -> Result<(), String> {
        let hour = 3_600.0;
        let times = [
            ("event_timeout", self.event_timeout, 0.001, hour),
            ("batch_timeout", self.batch_timeout, 0.0, 60.0),
            ("plugin_watch_interval", self.plugin_watch_interval, 0.0, hour),
            ("backoff_first", self.backoff_first, 0.0, hour),
            ("backoff_max", self.backoff_max, 0.0, hour),
            ("shutdown_grace", self.shutdown_grace, 0.0, hour),
            ("tail_stall", self.tail_stall, 0.001, hour),
            ("max_plugin_events_per_second", self.max_plugin_events_per_second, 0.001, 1e9),
        ];
        for (key, value, least, most) in times {
            in_range(&format!("daemon.{key}"), value, least, most)?;
        }
        let counts = [
            ("event_queue_size", self.event_queue_size),
            ("worker_threads", self.worker_threads),
            ("max_chain_depth", self.max_chain_depth),
            ("max_failures", self.max_failures as usize),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("daemon.{key} is 0: no event could be handled")),
            None => Ok(()),
        }
    }
}

impl UnixFile {
    fn validate(&self) -> Result<(), String> {
        let counts = [
            ("max_line_bytes", self.max_line_bytes),
            ("max_connections", self.max_connections),
            ("max_lines_waiting", self.max_lines_waiting),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("transports.unix.{key} is 0: no client could be served")),
            None => Ok(()),
        }
    }
}

fn in_range(key: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    // A comparison with NaN is false.
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} is {value}, it must lie in {least} to {most}"))
}

/// A number of seconds, which was checked.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "true, false, \"compatibility\", \"hybrid\" or \"pure\"")]
    enum Either {
        Flag(bool),
        Named(Mode),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Flag(true) => Mode::Compatibility,
        Either::Flag(false) => Mode::Pure,
        Either::Named(mode) => mode,
    })
}

fn octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bits = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|bits| *bits <= 0o777);
    bits.ok_or_else(|| serde::de::Error::custom(format!("permissions {text:?} are no octal digits up to \"777\"")))
}

#[cfg(test)]
mod tests;

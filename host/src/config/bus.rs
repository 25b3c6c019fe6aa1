//! The keys of `bus`: the event bus of this host, its sockets and its plugins.
//!
//! The older daemon's `daemon.json` has `daemon`, `transports` and `plugins` at the top; they are taken as they stand
//! ([`super::shorthand`]); every key of that file means here what it said there.

mod services;

pub use services::{AgentServiceFile, CompletionServiceFile, ProviderKind, StateServiceFile};

use super::policies::SignaturesFile;
use crate::bus::nats::NatsFile;
use crate::plugins::Settings;
use gavel_bus::Options;
use gavel_bus::unix::{Mode, UnixOptions};
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

/// The host's own plugins that have nothing to configure in `plugins`.
const WITHOUT_KEYS: [&str; 4] = ["message_service", "system_service", "unix_transport", "nats_bridge"];
/// The host's own plugins, whether this host has them all or not.
pub const SERVICES: [&str; 7] = [
    STATE_SERVICE,
    AGENT_SERVICE,
    COMPLETION_SERVICE,
    WITHOUT_KEYS[0],
    WITHOUT_KEYS[1],
    WITHOUT_KEYS[2],
    WITHOUT_KEYS[3],
];

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
    /// Bytes of data of events that nobody waits for, waiting for one plugin at most. Default 64 MiB.
    pub max_event_queue_bytes: usize,
    /// Plugins that are told from their mailboxes at the same time. Default 4.
    pub worker_threads: usize,
    /// Seconds that a mailbox may collect events after a burst before its plugin is told; never of an event that the
    /// plugin answers. Default 0.1.
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
            max_event_queue_bytes: 64 << 20,
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
    /// Seconds that a client may take to read a line; one that reads no more is cut off. Default 30.
    pub write_timeout: f64,
    /// Messages that are kept for an agent that is not connected. Default 1,000.
    pub max_undelivered: usize,
    /// Bytes of messages that are kept for all agents that are not connected. Default 64 MiB.
    pub max_undelivered_bytes: usize,
    /// Permissions of the sockets, in octal digits as a text. Default `"600"`.
    #[serde(deserialize_with = "octal")]
    pub permissions: u32,
}

impl Default for UnixFile {
    fn default() -> Self {
        let UnixOptions {
            mode,
            line_bytes_max,
            connections_max,
            lines_waiting_max,
            write_timeout,
            undelivered_max,
            undelivered_bytes_max,
            permissions,
            ..
        } = UnixOptions::in_folder("");
        Self {
            enabled: true,
            socket_dir: None,
            compatibility_mode: mode,
            max_line_bytes: line_bytes_max,
            max_connections: connections_max,
            max_lines_waiting: lines_waiting_max,
            write_timeout: write_timeout.as_secs_f64(),
            max_undelivered: undelivered_max,
            max_undelivered_bytes: undelivered_bytes_max,
            permissions,
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
            queue_bytes_max: daemon.max_event_queue_bytes,
            chain_depth_max: daemon.max_chain_depth,
            plugin_events_per_second: daemon.max_plugin_events_per_second,
            failures_max: daemon.max_failures,
            backoff_first: seconds(daemon.backoff_first),
            backoff_max: seconds(daemon.backoff_max),
            shutdown_grace: seconds(daemon.shutdown_grace),
            deliveries_max: daemon.worker_threads,
            batch_timeout: seconds(daemon.batch_timeout),
            log_events: daemon.log_events,
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
            only: None,
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
            write_timeout: seconds(unix.write_timeout),
            undelivered_max: unix.max_undelivered,
            undelivered_bytes_max: unix.max_undelivered_bytes,
            permissions: unix.permissions,
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

    fn without_keys(&self, name: &str) -> Result<(), String> {
        match self.plugins.get(name) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Object(keys)) => match keys.keys().next() {
                None => Ok(()),
                Some(key) => Err(format!("plugins.{name}: unknown key `{key}`; {name} has no keys")),
            },
            Some(_) => Err(format!("plugins.{name} is no mapping; {name} has no keys, leave it out")),
        }
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
        WITHOUT_KEYS.iter().try_for_each(|name| self.without_keys(name))?;
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
        in_range("transports.unix.write_timeout", self.write_timeout, 0.001, 3_600.0)?;
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

//! The keys of the configuration file, their defaults and what must hold between them.

use super::approvals::ApprovalsFile;
use super::bus::{BUS_KERNEL, BusFile};
use super::checkpoints::CheckpointsFile;
use super::fleet::FleetFile;
use super::kasmina::{EventsFile, KasminaFile};
use super::life::{ArchiveFile, RecordRequests, RetentionFile};
use super::monitoring::MonitoringFile;
use super::operations::{AlertFile, OperationsFile};
use super::policies::{Quarantine, SignaturesFile, WatchFile};
use crate::claims::is_the_hosts;
use crate::policies::builtin;
use crate::policies::package::PACKAGE_BYTES_MAX;
use gavel_kernel::{Jurisdiction, Variant};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A whole configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where to serve. Default 127.0.0.1:8080. Port 0 takes a free port.
    #[serde(default = "loopback")]
    pub listen: SocketAddr,
    /// The folder of ledgers and workspace. Default: `gavel` in the user's data directory.
    #[serde(default)]
    pub data: Option<PathBuf>,
    /// The kernels. Default: those of `host/assets/default.yaml`.
    pub kernels: Vec<KernelFile>,
    /// Policies by the name that kernels refer to in `custom_rules`.
    #[serde(default)]
    pub policies: BTreeMap<String, PolicyFile>,
    /// Whose signatures on policies count.
    #[serde(default)]
    pub signatures: SignaturesFile,
    /// The tools of the host.
    #[serde(default)]
    pub tools: ToolsFile,
    /// Who may call. No keys: loopback only, and every caller has every role.
    #[serde(default)]
    pub auth: AuthFile,
    /// Serve TLS.
    #[serde(default)]
    pub tls: Option<TlsFile>,
    /// Who gets the checkpoints of the ledgers.
    #[serde(default)]
    pub checkpoints: CheckpointsFile,
    /// Whom to tell what befalls the host.
    #[serde(default)]
    pub alerts: Vec<AlertFile>,
    /// Bounds of the operator's plays.
    #[serde(default)]
    pub operations: OperationsFile,
    /// How long what a policy escalates may wait for a human, and how much.
    #[serde(default)]
    pub approvals: ApprovalsFile,
    /// How closely a kernel is watched that came after an incident.
    #[serde(default)]
    pub monitoring: MonitoringFile,
    /// Where sealed segments and evidence go. Default: they stay where they are.
    #[serde(default)]
    pub archive: Option<ArchiveFile>,
    /// How long things are kept.
    #[serde(default)]
    pub retention: RetentionFile,
    /// What is kept of events, and for how many.
    #[serde(default)]
    pub events: EventsFile,
    /// Serve layers. Default: none.
    #[serde(default)]
    pub kasmina: Option<KasminaFile>,
    /// Serve an event bus with plugins. Default: none.
    #[serde(default)]
    pub bus: Option<BusFile>,
    /// Kernels as processes, for `gavel fleet up`. Default: the eleven of the table.
    #[serde(default)]
    pub fleet: FleetFile,
    /// Limits of the server.
    #[serde(default)]
    pub limits: Limits,
    /// Kernels whose checkpoint key is lost, by id: they get a new one, and their ledgers say so for ever. Not a key of
    /// the file, since it is said once: `gavel serve --key-lost ID`.
    #[serde(skip)]
    pub lost_keys: Vec<String>,
    /// Where it was read from; `None` for the built-in default.
    #[serde(skip)]
    pub source: Option<Source>,
}

/// The file that a configuration was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// What stood in it.
    pub text: String,
}

/// One kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelFile {
    /// Its name: letters, digits, `.`, `_`, `-`; at most 64 of them.
    pub id: String,
    /// Default strict.
    #[serde(default = "strict")]
    pub variant: Variant,
    /// Its jurisdiction. Absent: nobody may do anything, except in a permissive kernel, where
    /// everybody may.
    #[serde(default)]
    pub policy: Option<Jurisdiction>,
    /// The longest intent that is not ambiguous, in characters. Default 4,096.
    #[serde(default = "intent_length")]
    pub max_intent_length: usize,
    /// Demand a permit for every tool call.
    #[serde(default)]
    pub permits: Option<PermitsFile>,
    /// Take components into service that change in a folder.
    #[serde(default)]
    pub watch: Option<WatchFile>,
    /// Record what policies were asked, so that decisions can be judged again. Default true;
    /// without, parameters appear in the ledger as digests only.
    #[serde(default)]
    pub record_requests: RecordRequests,
    /// Who may read its log as a tlog (`/checkpoint`, `/tile/…`). Default: who may read evidence.
    #[serde(default)]
    pub tlog: TlogAccess,
}

/// Who may read a kernel's log as a tlog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlogAccess {
    /// Operators and auditors.
    #[default]
    Restricted,
    /// Everybody, records and all: entries are served as they are.
    Public,
}

/// Permits of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermitsFile {
    /// Key id → secret as hex.
    pub keyring: BTreeMap<String, String>,
    /// The jurisdiction that permits must name. Default `default`.
    #[serde(default = "default_name")]
    pub jurisdiction: String,
}

/// One policy component.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyFile {
    /// `builtin:NAME`, `sha256:` and the digest of a component in the catalogue, or the path of a component. Default:
    /// the builtin of the policy's name.
    pub component: Option<String>,
    /// What the policy gets as its configuration.
    pub config: Value,
    /// What it may use.
    pub limits: gavel_runtime::Limits,
    /// When it is no longer asked because it keeps failing. Default: never.
    pub quarantine: Option<Quarantine>,
}

/// The tools of the host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolsFile {
    /// The folder that `read_file`, `write_file` and `search` see, and nothing else.
    /// Default: `workspace` in the data folder.
    pub workspace: Option<PathBuf>,
    /// Caps on what tools may take and return.
    pub limits: ToolLimits,
}

/// Caps on the tools.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolLimits {
    /// Wall time of one call, in milliseconds. Default 10,000.
    pub deadline_ms: u64,
    /// Bytes of one result as JSON. Default 1 MiB.
    pub max_result_bytes: usize,
    /// Bytes of a file that is read, written or searched. Default 1 MiB.
    pub max_file_bytes: u64,
    /// Files that one search looks into. Default 10,000.
    pub max_search_files: usize,
    /// Calls at the same time. Default 64.
    pub max_in_flight: usize,
}

impl Default for ToolLimits {
    fn default() -> Self {
        Self {
            deadline_ms: 10_000,
            max_result_bytes: 1 << 20,
            max_file_bytes: 1 << 20,
            max_search_files: 10_000,
            max_in_flight: 64,
        }
    }
}

/// Who may call.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthFile {
    /// One entry for each key.
    pub keys: Vec<KeyFile>,
}

/// One key, as `gavel key` prints it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Whose key it is; appears in the record.
    pub name: String,
    /// `sha256:` and the hex digest of the key. The key itself is nowhere kept.
    pub hash: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// The actor that an agent's key speaks for; required for the role `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The kernels it may reach. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Vec<String>>,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Submit requests as its actor.
    Agent,
    /// Halt, change policies, and see everything.
    Operator,
    /// See everything.
    Auditor,
}

/// Serve TLS with this certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    /// PEM file of the certificate chain.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// Limits of the server. Every one can be set under `limits`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request's body. Default 1 MiB.
    pub max_body_bytes: usize,
    /// Requests being served at the same time; more are answered 503. Default 1,024.
    pub max_in_flight: usize,
    /// Open connections; more wait to be accepted. Default 4,096.
    pub max_connections: usize,
    /// Requests per second and caller (key, or address where there are no keys); more are
    /// answered 429. Default 50,000.
    pub max_requests_per_second: u64,
    /// Callers that the rate limit tells apart. Default 10,000.
    pub max_rate_callers: usize,
    /// Requests in one batch; a longer one is answered 413. Default 256.
    pub max_batch_requests: usize,
    /// Requests of one batch that are judged at the same time, while there is room among
    /// `max_in_flight`. Default 32.
    pub max_batch_concurrency: usize,
    /// Time for the answer of one request, in milliseconds. Default 30,000.
    pub request_timeout_ms: u64,
    /// Time for the head of a request and for a TLS handshake, in milliseconds. Default 10,000.
    pub header_timeout_ms: u64,
    /// Time that requests in flight get when the server stops, in milliseconds. Default 30,000.
    pub shutdown_grace_ms: u64,
    /// Time for all policies of one decision, in milliseconds. Default 50.
    pub decision_deadline_ms: u64,
    /// Policy instances that may live at the same time. Default 256.
    pub max_policy_instances: u32,
    /// The most memory that any policy may be granted, in bytes. Default 256 MiB.
    pub max_policy_memory_bytes: u64,
    /// Kernels that one server serves. Default 64.
    pub max_kernels: usize,
    /// Incidents that are known at the same time, resolved ones too. Default 10,000.
    pub max_incidents: usize,
    /// Keys that the policies of one kernel may keep counters under. Default 100,000.
    pub max_counter_keys: usize,
    /// Records waiting for the disk; more are answered 503. Default 65,536.
    pub max_ledger_queue: usize,
    /// Bytes of one kernel's index that are kept in memory. Default 16 MiB.
    pub max_index_cache_bytes: usize,
    /// Records of one page that `/records` answers. Default 1,000.
    pub max_page_records: usize,
    /// Bytes of records after which a page ends. Default 8 MiB.
    pub max_page_bytes: usize,
    /// Bytes of a policy component. Default 64 MiB.
    pub max_component_bytes: u64,
    /// Bytes of all components in the catalogue. Default 4 GiB.
    pub max_catalogue_bytes: u64,
    /// Policies in one set. Default 64.
    pub max_policies: usize,
    /// Requests that a candidate in the shadow judges at the same time; more it is not shown.
    /// Default 64.
    pub max_shadow_in_flight: usize,
    /// Differences of one candidate that are kept on disk. Default 10,000.
    pub max_differences: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 1 << 20,
            max_in_flight: 1_024,
            max_connections: 4_096,
            max_requests_per_second: 50_000,
            max_rate_callers: 10_000,
            max_batch_requests: 256,
            max_batch_concurrency: 32,
            request_timeout_ms: 30_000,
            header_timeout_ms: 10_000,
            shutdown_grace_ms: 30_000,
            decision_deadline_ms: 50,
            max_policy_instances: 256,
            max_policy_memory_bytes: 256 << 20,
            max_kernels: 64,
            max_incidents: 10_000,
            max_counter_keys: 100_000,
            max_ledger_queue: 65_536,
            max_index_cache_bytes: 16 << 20,
            max_page_records: 1_000,
            max_page_bytes: 8 << 20,
            max_component_bytes: PACKAGE_BYTES_MAX,
            max_catalogue_bytes: 4 << 30,
            max_policies: 64,
            max_shadow_in_flight: 64,
            max_differences: 10_000,
        }
    }
}

impl File {
    /// These kernels, everything else by default.
    #[must_use]
    pub fn new(kernels: Vec<KernelFile>) -> Self {
        Self {
            listen: loopback(),
            data: None,
            kernels,
            policies: BTreeMap::new(),
            signatures: SignaturesFile::default(),
            tools: ToolsFile::default(),
            auth: AuthFile::default(),
            tls: None,
            alerts: Vec::new(),
            operations: OperationsFile::default(),
            approvals: ApprovalsFile::default(),
            archive: None,
            source: None,
            lost_keys: Vec::new(),
            checkpoints: CheckpointsFile::default(),
            retention: RetentionFile::default(),
            monitoring: MonitoringFile::default(),
            events: EventsFile::default(),
            kasmina: None,
            bus: None,
            fleet: FleetFile::default(),
            limits: Limits::default(),
        }
    }

    /// What must hold between the values.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.kernels.is_empty() {
            return Err("`kernels` is empty: at least one kernel is needed".into());
        }
        let mut ids = HashSet::new();
        for kernel in &self.kernels {
            check_id(&kernel.id)?;
            if !ids.insert(&kernel.id) {
                return Err(format!("kernel `{}` is there twice", kernel.id));
            }
            kernel.validate(&self.policies)?;
        }
        if self.kernels.len() > self.limits.max_kernels {
            let (count, limit) = (self.kernels.len(), self.limits.max_kernels);
            return Err(format!("{count} kernels, one server serves at most {limit} (limits.max_kernels)"));
        }
        for (name, policy) in &self.policies {
            policy.validate(name)?;
        }
        self.auth.keys.iter().try_for_each(|key| key.validate(&ids))?;
        self.auth.validate()?;
        self.checkpoints.validate()?;
        self.alerts.iter().try_for_each(AlertFile::validate)?;
        self.operations.validate()?;
        self.approvals.validate()?;
        self.monitoring.validate()?;
        self.archive.iter().try_for_each(ArchiveFile::validate)?;
        self.retention.validate(&ids)?;
        self.events.validate()?;
        let names: Vec<&str> = self.kernels.iter().map(|kernel| kernel.id.as_str()).collect();
        self.kasmina.iter().try_for_each(|kasmina| kasmina.validate(&names))?;
        self.bus.iter().try_for_each(|bus| bus.validate(&names))?;
        self.fleet.validate()?;
        self.limits.validate()
    }

    /// The kernel that records what the bus changes, where there is a bus and it names none.
    pub(super) fn add_bus_kernel(&mut self) {
        let Some(bus) = self.bus.as_mut().filter(|bus| bus.kernel.is_none()) else { return };
        if self.kernels.iter().all(|kernel| kernel.id != BUS_KERNEL) {
            self.kernels.push(crate::bus::own_kernel(BUS_KERNEL));
        }
        bus.kernel = Some(BUS_KERNEL.to_owned());
    }

    /// Make paths that count from the file's folder absolute or relative to the working directory.
    pub(super) fn resolve_paths(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        self.data.iter_mut().for_each(resolve);
        let watched = self.kernels.iter_mut().filter_map(|kernel| kernel.watch.as_mut());
        watched.for_each(|watch| resolve(&mut watch.folder));
        self.tools.workspace.iter_mut().for_each(resolve);
        self.kasmina.iter_mut().for_each(|kasmina| kasmina.resolve_paths(folder));
        self.bus.iter_mut().for_each(|bus| bus.resolve_paths(folder));
        self.fleet.resolve_paths(folder);
        if let Some(tls) = &mut self.tls {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
        }
        for component in self.policies.values_mut().filter_map(|policy| policy.component.as_mut()) {
            if !component.starts_with(builtin::PREFIX) && !component.starts_with(DIGEST_PREFIX) {
                *component = folder.join(&*component).to_string_lossy().into_owned();
            }
        }
    }
}

/// How a component is named that lies in the catalogue.
pub(crate) const DIGEST_PREFIX: &str = "sha256:";

impl KernelFile {
    /// A strict kernel in which nobody may do anything yet.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            variant: strict(),
            policy: None,
            max_intent_length: intent_length(),
            permits: None,
            watch: None,
            record_requests: RecordRequests::default(),
            tlog: TlogAccess::default(),
        }
    }

    pub(crate) fn validate(&self, policies: &BTreeMap<String, PolicyFile>) -> Result<(), String> {
        let rules = self.policy.iter().flat_map(|policy| &policy.custom_rules);
        for rule in rules {
            if !policies.contains_key(rule) && builtin::find(rule).is_none() {
                return Err(format!(
                    "kernel `{}`: custom rule `{rule}` is neither under `policies` ({}) nor built in ({})",
                    self.id,
                    policies.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
                    builtin::names().collect::<Vec<_>>().join(", "),
                ));
            }
        }
        let named: Vec<&String> = self.policy.iter().flat_map(|policy| &policy.custom_rules).collect();
        if let Some(twice) = named.iter().enumerate().find(|(at, rule)| named[..*at].contains(rule)) {
            return Err(format!("kernel `{}`: custom rule `{}` is there twice", self.id, twice.1));
        }
        if let Some(watch) = &self.watch {
            watch.validate(&self.id)?;
        }
        if self.max_intent_length > INTENT_LENGTH_MAX {
            return Err(format!(
                "kernel `{}`: max_intent_length {} is above {INTENT_LENGTH_MAX}",
                self.id, self.max_intent_length
            ));
        }
        Ok(())
    }
}

/// The largest `max_intent_length`, so that a judged intent fits a ledger record in any script.
const INTENT_LENGTH_MAX: usize = 8_192;

impl AuthFile {
    /// One key with two entries would be now the one, now the other.
    fn validate(&self) -> Result<(), String> {
        let mut holders = HashMap::new();
        for key in &self.keys {
            if let Some(other) = holders.insert(key.hash.to_ascii_lowercase(), &key.name) {
                return Err(format!("keys `{other}` and `{}` have the same hash: each holder needs a key", key.name));
            }
        }
        Ok(())
    }
}

impl KeyFile {
    fn validate(&self, kernels: &HashSet<&String>) -> Result<(), String> {
        let digest = self.hash.strip_prefix("sha256:").unwrap_or_default();
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!(
                "key `{}`: `hash` must be sha256: and 64 hex digits; `gavel key` makes one",
                self.name
            ));
        }
        if self.roles.is_empty() {
            return Err(format!("key `{}` has no roles (agent, operator, auditor)", self.name));
        }
        if self.roles.contains(&Role::Agent) && self.actor.is_none() {
            return Err(format!("key `{}` has the role agent but no `actor` that it speaks for", self.name));
        }
        let said = [Some(self.name.as_str()), self.actor.as_deref()];
        if let Some(name) = said.into_iter().flatten().find(|name| is_the_hosts(name)) {
            return Err(format!(
                "key `{}`: `{name}` is the host's to say (host, guardian, plugin:, client:, peer:, kernel:); name another",
                self.name
            ));
        }
        match self.kernels.iter().flatten().find(|id| !kernels.contains(id)) {
            Some(id) => Err(format!("key `{}`: there is no kernel `{id}`", self.name)),
            None => Ok(()),
        }
    }
}

impl Limits {
    fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("max_body_bytes", self.max_body_bytes as u64),
            ("max_in_flight", self.max_in_flight as u64),
            ("max_connections", self.max_connections as u64),
            ("max_requests_per_second", self.max_requests_per_second),
            ("max_rate_callers", self.max_rate_callers as u64),
            ("max_batch_requests", self.max_batch_requests as u64),
            ("max_batch_concurrency", self.max_batch_concurrency as u64),
            ("request_timeout_ms", self.request_timeout_ms),
            ("header_timeout_ms", self.header_timeout_ms),
            ("decision_deadline_ms", self.decision_deadline_ms),
            ("max_policy_instances", u64::from(self.max_policy_instances)),
            ("max_policy_memory_bytes", self.max_policy_memory_bytes),
            ("max_kernels", self.max_kernels as u64),
            ("max_counter_keys", self.max_counter_keys as u64),
            ("max_ledger_queue", self.max_ledger_queue as u64),
            ("max_index_cache_bytes", self.max_index_cache_bytes as u64),
            ("max_page_records", self.max_page_records as u64),
            ("max_page_bytes", self.max_page_bytes as u64),
            ("max_component_bytes", self.max_component_bytes),
            ("max_catalogue_bytes", self.max_catalogue_bytes),
            ("max_policies", self.max_policies as u64),
        ];
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((limit, _)) => Err(format!("limits.{limit} is 0: nothing could be served")),
            None => Ok(()),
        }
    }
}

/// A kernel's id names a folder and a part of URLs.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain && !id.is_empty() && id.len() <= 64 && !id.starts_with('.') {
        return Ok(());
    }
    Err(format!("kernel id `{id}`: use 1 to 64 letters, digits, `.`, `_` or `-`, not starting with a dot"))
}

fn strict() -> Variant {
    Variant::Strict
}

fn intent_length() -> usize {
    4_096
}

fn default_name() -> String {
    "default".into()
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

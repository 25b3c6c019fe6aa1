//! The event bus of this host: `gavel-bus` with the host's services, its state, its sockets, and a kernel behind it.
//!
//! What always holds:
//! - Every change of state is a request to a kernel, on its ledger before it is made ([`audit`]).
//! - Other hosts are heard after the services are there, and no more before they end ([`nats`]).
//! - The sockets are opened last and closed first: whoever is connected finds everything there.
//! - A plugin that cannot be taken is left out, and told; the host serves all the same.
//! - What a client asks of the host itself (to end, to load a plugin anew) goes through [`Wishes`]; the bus does nothing of
//!   it by itself.
//! - News of the host, as of Kasmina's layers, are events of the bus too; nobody can answer for the host ([`news`]).

mod audit;
mod metrics;
pub mod nats;
mod news;
mod profiles;
pub mod provider;
mod tail;
mod wishes;

pub use audit::{OfflineAudit, STATE_CHANGE, own_kernel};
pub use tail::Tail;
pub use wishes::{Shutdown, Wishes};

use crate::clock::Clock;
use crate::config::{
    AGENT_SERVICE, AgentServiceFile, BUS_KERNEL, BusFile, COMPLETION_SERVICE, CompletionServiceFile, SERVICES,
    STATE_SERVICE, StateServiceFile,
};
use crate::fleet::{Fleet, Slot};
use crate::metrics::Metrics;
use crate::plugins::admit::Admission;
use crate::plugins::shelf::Shelf;
use crate::plugins::{Parts as PluginParts, Plugins};
use anyhow::{Context, Result};
use audit::LedgerAudit;
use gavel_bus::services::{
    Agents, Completions, Imported, Messages, Profile, ProfileSource, State, StateGrants, System, import_identities,
};
use gavel_bus::unix::{Unix, UnixView};
use gavel_bus::{Bus, PluginState, Store};
use gavel_runtime::Sandbox;
use metrics::BusCollector;
use nats::{Bridge, NatsMonitor};
use profiles::Folder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tail::Tails;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// What a bus is made of.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The kernels of the host.
    pub fleet: &'a Fleet,
    /// The data folder; none: nothing is kept.
    pub data: Option<&'a Path>,
    /// The host's clock.
    pub clock: &'a Clock,
    /// Where plugins run.
    pub sandbox: &'a Sandbox,
    /// Bytes of a plugin's component.
    pub component_bytes_max: u64,
}

/// The bus of a host, served.
pub struct BusHost {
    bus: Bus,
    store: Store,
    wishes: Arc<Wishes>,
    bridge: tokio::sync::Mutex<Option<Bridge>>,
    nats: Option<NatsMonitor>,
    unix: tokio::sync::Mutex<Option<Unix>>,
    /// When all of it must have ended, if somebody said so.
    deadline: OnceLock<Instant>,
    view: Option<UnixView>,
    kernel: String,
    tails: Tails,
    socket_dir: Option<PathBuf>,
    tools: Arc<Slot>,
    plugins: Arc<Plugins>,
    watching: Mutex<Option<JoinHandle<()>>>,
    data: Option<PathBuf>,
    component_bytes_max: u64,
}

impl std::fmt::Debug for BusHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BusHost").field("socket_dir", &self.socket_dir).finish_non_exhaustive()
    }
}

impl BusHost {
    /// Open the bus of a configuration: its state, its services and its sockets.
    ///
    /// # Errors
    /// When a kernel is not there, the state cannot be opened, a service's file cannot be read, or a socket is taken.
    pub async fn open(file: &BusFile, parts: Parts<'_>) -> Result<Self> {
        let Parts { fleet, data, clock, component_bytes_max, .. } = parts;
        let named = |name: &str| fleet.find(name).with_context(|| format!("bus: there is no kernel `{name}`"));
        let kernel = file.kernel.as_deref().unwrap_or(BUS_KERNEL);
        let audited_by = named(kernel)?;
        let tools = match &file.tools_kernel {
            Some(name) => named(name)?,
            None => fleet.first(),
        };
        let store = open_store(file, data, audited_by, clock).await?;
        let agents: AgentServiceFile = file.service(AGENT_SERVICE).map_err(anyhow::Error::msg)?;
        take_over_identities(&agents, &store).await?;
        let now = clock.clone();
        let bus = Bus::new(file.options(), move || now.now_ms());
        let wishes = Arc::new(Wishes::default());
        let grants = StateGrants::default();
        register_services(file, &agents, (&bus, &store, &grants), &wishes)?;
        let admission = admission(file, parts)?;
        let found =
            PluginParts { admission, bus: bus.clone(), store: store.clone(), grants, kernel: Some(Arc::clone(&tools)) };
        let plugins = Plugins::open(found).await;
        wishes.plugins_are(&plugins);
        let bridge = Box::pin(open_bridge(file, data, &bus)).await?;
        // A host that keeps nothing is looked at, not served: a configuration can be checked while its host runs.
        let served = file.transports.unix.enabled && data.is_some();
        let socket_dir = served.then(|| socket_dir(file, data)).flatten();
        let unix = match &socket_dir {
            Some(dir) => Some(Unix::start(&bus, file.unix_options(dir.clone())).await?),
            None => None,
        };
        let nats = bridge.as_ref().map(Bridge::monitor);
        let view = unix.as_ref().map(Unix::view);
        let (kernel, tails) = (kernel.to_owned(), Tails::new(&file.daemon));
        let host = Self {
            bus,
            store,
            wishes,
            bridge: tokio::sync::Mutex::new(bridge),
            nats,
            unix: tokio::sync::Mutex::new(unix),
            deadline: OnceLock::new(),
            view,
            kernel,
            tails,
            socket_dir,
            tools,
            plugins,
            watching: Mutex::default(),
            data: data.map(Path::to_owned),
            component_bytes_max,
        };
        if data.is_some() {
            host.tell_unknown_plugins();
        }
        Ok(host)
    }

    /// Begin to watch the plugin folders.
    pub fn watch(&self) {
        *self.watching.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.plugins.watch());
    }

    /// Take the plugins of a configuration that was read again: their folders, their configuration, what they are granted.
    pub async fn reconfigure(&self, file: &BusFile) {
        self.plugins.reconfigure(file.plugin_settings(self.data.as_deref(), self.component_bytes_max)).await;
        self.tell_unknown_plugins();
    }

    /// The bus itself.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Its state.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What clients ask of the host.
    #[must_use]
    pub fn wishes(&self) -> &Arc<Wishes> {
        &self.wishes
    }

    /// Its plugins that are components.
    #[must_use]
    pub fn plugins(&self) -> &Arc<Plugins> {
        &self.plugins
    }

    /// The kernel that plugins ask for tools.
    #[must_use]
    pub fn tools_kernel(&self) -> &Arc<Slot> {
        &self.tools
    }

    /// The kernel in whose ledger every change of state stands; keys that are for other kernels do not reach the bus.
    #[must_use]
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Count the bus, its sockets and its bridge where the host counts.
    pub(crate) fn count_in(&self, metrics: &Metrics) {
        let collector = BusCollector::new(self.bus.clone(), self.store.clone(), self.view.clone(), self.nats.clone());
        metrics.collect(Box::new(collector));
    }

    /// The bus as an operator sees it: itself, its state, and its sockets if it has any.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut unix = self.view.as_ref().map(UnixView::status);
        if let Some(unix) = unix.as_mut().and_then(Value::as_object_mut) {
            // It stands beside it.
            unix.remove("bus");
        }
        let plugins = self.bus.plugins();
        let open = plugins.iter().any(|plugin| plugin.state == PluginState::CircuitOpen);
        json!({
            "status": if open { "degraded" } else { "healthy" },
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": self.kernel,
            "plugins": plugins.len(),
            "bus": self.bus.overview(),
            "state": self.store.counts(),
            "unix": unix,
            "nats": self.nats.as_ref().map(NatsMonitor::counts),
        })
    }

    /// All events from now on, for one listener.
    ///
    /// # Errors
    /// If there are as many listeners as there may be.
    pub fn tail(&self) -> Result<Tail, String> {
        self.tails.begin(&self.bus)
    }

    /// End all tails: those who listen would hold up the end.
    pub(crate) fn end_tails(&self) {
        self.tails.end();
    }

    /// What is counted of the bridge to other hosts, if there is one.
    #[must_use]
    pub fn nats(&self) -> Option<&NatsMonitor> {
        self.nats.as_ref()
    }

    /// Where the sockets are, if there are any.
    #[must_use]
    pub fn socket_dir(&self) -> Option<&Path> {
        self.socket_dir.as_deref()
    }

    /// Tell on the bus what is news on the host, until the news end.
    pub fn hear_news(&self, news: &crate::news::Bus) {
        news::tell(news, &self.bus);
    }

    /// Close the sockets, let what is under way end, and shut the plugins down, each within its grace.
    pub async fn finish(&self) {
        if let Some(watching) = self.watching.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watching.abort();
        }
        self.close_sockets().await;
        let mut bridge = self.bridge.lock().await.take();
        if let Some(bridge) = &mut bridge {
            self.in_time("the bridge to NATS", Box::pin(bridge.stop_receiving())).await;
        }
        self.in_time("plugins", self.bus.shutdown()).await;
        if let Some(bridge) = bridge {
            self.in_time("the bridge to NATS", Box::pin(bridge.stop())).await;
        }
    }

    /// All of it must have ended by then: what has not is cut off. The first one to say so counts; without, each part has
    /// the grace of the bus.
    pub fn end_by(&self, deadline: Instant) {
        let _ = self.deadline.set(deadline);
    }

    /// Take no more clients on the sockets, and end those there are. Whoever calls it while it is under way waits for it.
    pub async fn close_sockets(&self) {
        let mut unix = self.unix.lock().await;
        if let Some(unix) = unix.take() {
            self.in_time("connections of the sockets", unix.stop()).await;
        }
    }

    async fn in_time(&self, what: &str, ending: impl Future<Output = ()>) {
        let Some(deadline) = self.deadline.get() else { return ending.await };
        if timeout_at(*deadline, ending).await.is_err() {
            tracing::warn!("{what} did not end in the grace that the shutdown was asked for with: cut off");
        }
    }

    /// What the configuration says of plugins that nobody knows, one sentence for each.
    #[must_use]
    pub fn unknown_plugins(&self) -> Vec<String> {
        let mut known: BTreeSet<String> = SERVICES.iter().map(|name| (*name).to_owned()).collect();
        known.extend(self.bus.plugins().into_iter().map(|plugin| plugin.metadata.name));
        // One that is there and cannot be taken is told as such.
        known.extend(self.plugins.broken().into_keys());
        let settings = self.plugins.settings();
        let unknown = settings.plugins.keys().filter(|name| !known.contains(*name));
        unknown.map(|name| unknown_plugin(name, &known)).collect()
    }

    fn tell_unknown_plugins(&self) {
        for told in self.unknown_plugins() {
            tracing::warn!("{told}");
        }
    }
}

fn unknown_plugin(name: &str, known: &BTreeSet<String>) -> String {
    let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(name, known));
    let nearest = nearest.map(|nearest| format!("; the nearest that there is is `{nearest}`")).unwrap_or_default();
    format!("plugins.{name}: there is no such plugin or service, so it counts for nothing{nearest}")
}

/// The bridge to other hosts, if the configuration has one. It keeps what waits beside the other data; a host that keeps
/// nothing is looked at, not served, and reaches for nobody.
async fn open_bridge(file: &BusFile, data: Option<&Path>, bus: &Bus) -> Result<Option<Bridge>> {
    let (Some(nats), Some(data)) = (&file.nats, data) else { return Ok(None) };
    Ok(Some(Bridge::start(nats.clone(), bus, &data.join("bus")).await?))
}

/// The state of a bus, whose changes are on record with a kernel before they are made.
async fn open_store(file: &BusFile, data: Option<&Path>, kernel: Arc<Slot>, clock: &Clock) -> Result<Store> {
    let service: StateServiceFile = file.service(STATE_SERVICE).map_err(anyhow::Error::msg)?;
    // A host that keeps nothing is looked at: the state of the one that may be running is not its own.
    let path = data.map(|data| state_file(&service, data));
    if let Some(folder) = path.as_deref().and_then(Path::parent) {
        std::fs::create_dir_all(folder).with_context(|| format!("the state's folder {}", folder.display()))?;
    }
    let audit = Arc::new(LedgerAudit::new(kernel, clock.clone()));
    Ok(Store::open(path.as_deref(), service.limits(), audit).await?)
}

/// What stands between the plugin folders and the bus.
fn admission(file: &BusFile, parts: Parts<'_>) -> Result<Admission> {
    let shelf = match parts.data {
        Some(data) => Shelf::open(&data.join("bus").join("plugins"))?,
        None => Shelf::of_user(),
    };
    Ok(Admission::new(parts.sandbox.clone(), file.plugin_settings(parts.data, parts.component_bytes_max), shelf))
}

/// The identities of the older daemon, at the first start that names their file.
async fn take_over_identities(agents: &AgentServiceFile, store: &Store) -> Result<()> {
    let Some(file) = &agents.identities_file else { return Ok(()) };
    let imported = import_identities(store, file).await;
    match imported.map_err(|why| anyhow::anyhow!("plugins.agent_service.{why}"))? {
        Imported::Now { taken, known } => {
            tracing::info!(file = %file.display(), taken, known, "identities were taken over into the state");
        }
        Imported::Before => tracing::debug!(file = %file.display(), "its identities were taken over before"),
    }
    Ok(())
}

fn register_services(
    file: &BusFile,
    agents: &AgentServiceFile,
    (bus, store, grants): (&Bus, &Store, &StateGrants),
    wishes: &Arc<Wishes>,
) -> Result<()> {
    let completion: CompletionServiceFile = file.service(COMPLETION_SERVICE).map_err(anyhow::Error::msg)?;
    let (provider, limits) = provider::of(&completion)?;
    let profiles: Arc<dyn ProfileSource> = match &agents.profiles_dir {
        Some(folder) => Arc::new(Folder::open(folder)?),
        None => Arc::new(BTreeMap::<String, Profile>::new()),
    };
    bus.register(vec![
        State::registration(store, grants.clone()),
        Agents::with_profiles(store, profiles),
        Messages::registration(),
        Completions::registration(provider, limits),
        System::registration(bus, wishes.clone()),
    ])?;
    Ok(())
}

/// What is counted of a bus and its state, without sockets and bridges.
pub(crate) fn collector(bus: &Bus, store: &Store) -> Box<dyn prometheus_client::collector::Collector> {
    Box::new(BusCollector::new(bus.clone(), store.clone(), None, None))
}

/// Where the state of a configuration is, which the server opens and a migration writes.
#[must_use]
pub fn state_file(service: &StateServiceFile, data: &Path) -> PathBuf {
    let folder = service.state_dir.clone().unwrap_or_else(|| data.join("bus"));
    folder.join("state.redb")
}

/// Where the sockets of a configuration are: where it says, else in the user's runtime folder, else with the data.
#[must_use]
pub fn socket_dir(file: &BusFile, data: Option<&Path>) -> Option<PathBuf> {
    let named = file.transports.unix.socket_dir.clone();
    named.or_else(runtime_dir).or_else(|| data.map(|data| data.join("sockets")))
}

/// `$XDG_RUNTIME_DIR/gavel`: of this user alone, and gone when they log out.
#[must_use]
pub fn runtime_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(dir).join("gavel"))
}

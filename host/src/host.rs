//! A host: everything that a configuration means, made ready to serve.

use crate::approvals::tell::Ears;
use crate::archive_target::ObjectStore;
use crate::bus::{self, BusHost};
use crate::clock::Clock;
use crate::config::{BusFile, File, KasminaFile};
use crate::fleet::{Fleet, Means};
use crate::http::App;
use crate::http::auth::Keys;
use crate::kasmina::component::Components;
use crate::kasmina::tamiyo::Tamiyos;
use crate::kasmina::{Kasmina, Parts};
use crate::kernel::{Kernel, LEDGER};
use crate::metrics::Metrics;
use crate::news::Bus;
use crate::operations::Operations;
use crate::policies;
use crate::policies::admit::Admission;
use crate::policies::catalogue::Catalogue;
use crate::tools::Toolbox;
use anyhow::{Context, Result};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use etcetera::BaseStrategy;
use gavel_runtime::{Sandbox, SandboxOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The kernels of a configuration, open.
#[derive(Debug)]
pub struct Host {
    /// By the names that clients use; never empty.
    pub fleet: Arc<Fleet>,
    /// Where they count.
    pub metrics: Metrics,
    file: File,
    /// The plays of the operator; none without a data folder.
    operations: Option<Operations>,
    /// The layers; none without a section `kasmina`.
    kasmina: Option<Arc<Kasmina>>,
    /// The event bus; none without a section `bus`.
    bus: Option<Arc<BusHost>>,
    /// The eye on what must be alerted, and who tells of approvals.
    watching: Mutex<Vec<JoinHandle<()>>>,
}

/// How long a host that stops waits for alerts on their way, and for exports that go on.
const FINISH_GRACE: Duration = Duration::from_secs(5);

/// Where a host keeps its ledgers.
#[derive(Debug, Clone)]
pub enum Storage {
    /// In this data folder, durable.
    Folder(PathBuf),
    /// Nowhere: for offline batches.
    Volatile,
}

impl Host {
    /// Load the policies of `file` and open its kernels.
    ///
    /// # Errors
    /// When a policy cannot be loaded or a ledger cannot be opened.
    pub async fn open(file: File, storage: &Storage, clock: Clock) -> Result<Self> {
        let metrics = Metrics::default();
        let sandbox = Sandbox::new(sandbox_options(&file))?;
        let catalogue = match storage {
            Storage::Folder(data) => Catalogue::open(&catalogue_dir(data), file.limits.max_catalogue_bytes)?,
            Storage::Volatile => Catalogue::in_memory(),
        };
        let admission = Arc::new(Admission::new(&file, sandbox.clone(), catalogue));
        admission.deploy(policies::unused(&file, &admission)?, &[]).await?;
        let means =
            Means { admission, tools: toolbox(&file, storage)?, clock: clock.clone(), metrics: metrics.clone() };
        let fleet = Fleet::open(&file, storage, means).await?;
        let kasmina = layers(&file, storage, (&fleet, sandbox.clone()), &clock, &metrics).await?;
        let bus = Box::pin(event_bus(&file, storage, (&fleet, sandbox), &clock)).await?;
        if let Some(bus) = &bus {
            bus.count_in(&metrics);
        }
        if let (Some(bus), Some(kasmina)) = (&bus, &kasmina) {
            bus.hear_news(kasmina.news());
        }
        let operations = match storage {
            Storage::Folder(data) => {
                let operations = Operations::new(&file, data, clock);
                Some(match &file.archive {
                    Some(archive) => operations.archiving_to(Arc::new(ObjectStore::new(archive.clone()))),
                    None => operations,
                })
            }
            Storage::Volatile => None,
        };
        Ok(Self { fleet, metrics, file, operations, kasmina, bus, watching: Mutex::default() })
    }

    /// The kernels that answer, in the configuration's order; never empty.
    #[must_use]
    pub fn kernels(&self) -> Vec<Arc<Kernel>> {
        self.fleet.kernels()
    }

    /// Begin to watch the folders that the configuration names, and the kernels that came after an incident.
    pub fn watch(&self) {
        self.fleet.watch();
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.extend(self.operations.as_ref().map(|operations| operations.watch(Arc::clone(&self.fleet))));
        let ears = Ears {
            desk: Arc::clone(self.fleet.approvals()),
            fleet: Arc::clone(&self.fleet),
            operations: self.operations.clone(),
            bus: self.bus.clone(),
        };
        watching.push(tokio::spawn(ears.listen()));
        drop(watching);
        if let Some(bus) = &self.bus {
            bus.watch();
        }
    }

    /// Take the policies, the jurisdictions, the new kernels and the plugins of a configuration that was read again.
    /// Everything else in it counts from the next start.
    ///
    /// # Errors
    /// Which kernel's policies are not admitted, and why; those of the kernels before it are in
    /// service then.
    pub async fn reconfigure(&self, file: &File) -> Result<()> {
        let changed = [
            ("kasmina", self.file.kasmina != file.kasmina),
            ("events", self.file.events != file.events),
            ("approvals", self.file.approvals != file.approvals),
            (
                "bus",
                self.file.bus.as_ref().map(BusFile::without_plugins) != file.bus.as_ref().map(BusFile::without_plugins),
            ),
        ];
        for (section, _) in changed.iter().filter(|(_, changed)| *changed) {
            tracing::warn!(section, "this section of the configuration was changed: it counts from the next start");
        }
        if let (Some(bus), Some(section)) = (&self.bus, &file.bus) {
            bus.reconfigure(section).await;
        }
        self.fleet.reconfigure(file).await
    }

    /// The HTTP API of this host.
    #[must_use]
    pub fn app(&self) -> App {
        self.app_in_fleet(None)
    }

    /// The HTTP API of this host as a kernel of a fleet, whose parts show this token.
    #[must_use]
    pub(crate) fn app_in_fleet(&self, token: Option<&str>) -> App {
        let (keys, limits) = (Keys::new(&self.file.auth).with_token(token), self.file.limits.clone());
        let app = App::new(Arc::clone(&self.fleet), keys, limits, self.metrics.clone());
        let app = match &self.bus {
            Some(bus) => app.with_bus(Arc::clone(bus)),
            None => app,
        };
        let app = match &self.operations {
            Some(operations) => app.with_operations(operations.clone()),
            None => app,
        };
        match &self.kasmina {
            Some(kasmina) => app.with_kasmina(Arc::clone(kasmina)),
            None => app,
        }
    }

    /// The layers, where the configuration has a section for them.
    #[must_use]
    pub fn kasmina(&self) -> Option<&Arc<Kasmina>> {
        self.kasmina.as_ref()
    }

    /// The event bus, where the configuration has a section for it.
    #[must_use]
    pub fn bus(&self) -> Option<&Arc<BusHost>> {
        self.bus.as_ref()
    }

    /// Wait for every request that is still being carried to its end, then close the ledgers.
    pub async fn finish(&self) {
        let watching = std::mem::take(&mut *self.watching.lock().unwrap_or_else(PoisonError::into_inner));
        watching.iter().for_each(JoinHandle::abort);
        if let Some(operations) = &self.operations {
            operations.finish(FINISH_GRACE).await;
        }
        // Before the kernels: what is under way on it is to be recorded.
        if let Some(bus) = &self.bus {
            bus.finish().await;
        }
        // Before the kernels: what a layer has landed is to be recorded.
        if let Some(kasmina) = &self.kasmina {
            kasmina.finish().await;
        }
        self.fleet.finish().await;
    }

    /// The configuration it was made from.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// The layers of a configuration that has a section for them, with their bus.
async fn layers(
    file: &File,
    storage: &Storage,
    (fleet, sandbox): (&Fleet, Sandbox),
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Option<Arc<Kasmina>>> {
    let Some(limits) = &file.kasmina else { return Ok(None) };
    let data = match storage {
        Storage::Folder(data) => Some(data.as_path()),
        Storage::Volatile => None,
    };
    let bus = Bus::open(data.map(|data| data.join("events")).as_deref(), &file.events, clock.clone())?;
    let (mut tamiyos, clock, metrics) = (Tamiyos::default(), clock.clone(), metrics.kasmina.clone());
    let Components { strategies, tamiyo } = components(limits, sandbox).await?;
    if let Some(tamiyo) = tamiyo {
        let tamiyo = tamiyo.counted(&metrics);
        let name = tamiyo.name().to_owned();
        tamiyos.add(&name, move |_| Ok(Box::new(tamiyo.clone())));
    }
    let kasmina = Kasmina::open(limits, Parts { fleet, data, bus, tamiyos, strategies, clock, metrics }).await?;
    Ok(Some(Arc::new(kasmina)))
}

/// The event bus of a configuration that has a section for it.
async fn event_bus(
    file: &File,
    storage: &Storage,
    (fleet, sandbox): (&Fleet, Sandbox),
    clock: &Clock,
) -> Result<Option<Arc<BusHost>>> {
    let Some(section) = &file.bus else { return Ok(None) };
    let data = match storage {
        Storage::Folder(data) => Some(data.as_path()),
        Storage::Volatile => None,
    };
    let parts =
        bus::Parts { fleet, data, clock, sandbox: &sandbox, component_bytes_max: file.limits.max_component_bytes };
    Ok(Some(Arc::new(BusHost::open(section, parts).await?)))
}

/// The components that layers are led by. They are compiled away from the runtime's workers.
async fn components(limits: &KasminaFile, sandbox: Sandbox) -> Result<Components> {
    let (strategies, tamiyo) = (limits.strategies.clone(), limits.tamiyo.clone());
    tokio::task::spawn_blocking(move || Components::load(&sandbox, &strategies, tamiyo.as_ref())).await?
}

/// Where a kernel's things lie in a data folder.
#[must_use]
pub fn kernel_dir(data: &Path, kernel: &str) -> PathBuf {
    data.join("kernels").join(kernel)
}

/// Where the ledger of a kernel lies in a data folder.
#[must_use]
pub fn ledger_dir(data: &Path, kernel: &str) -> PathBuf {
    kernel_dir(data, kernel).join(LEDGER)
}

/// The folder of the ledger that a command line names: the ledger's own, or the kernel's around it.
#[must_use]
pub fn ledger_folder(named: &Path) -> PathBuf {
    let inner = named.join(LEDGER);
    if inner.is_dir() { inner } else { named.to_owned() }
}

/// Where the catalogue of policies lies in a data folder.
#[must_use]
pub fn catalogue_dir(data: &Path) -> PathBuf {
    data.join("policies")
}

/// The user's data folder for Gavel: `$XDG_DATA_HOME/gavel`, as a rule `~/.local/share/gavel`.
///
/// # Errors
/// When the user has no home directory; then `--data` must be given.
pub fn default_data_dir() -> Result<PathBuf> {
    let dirs = etcetera::choose_base_strategy().context("no home directory: give `--data DIR`")?;
    Ok(dirs.data_dir().join("gavel"))
}

/// Where compiled components are kept for this user; `None` without a home directory.
pub(crate) fn component_cache() -> Option<PathBuf> {
    user_cache().map(|cache| cache.join("components"))
}

/// The user's cache folder for Gavel; `None` without a home directory.
pub(crate) fn user_cache() -> Option<PathBuf> {
    etcetera::choose_base_strategy().ok().map(|dirs| dirs.cache_dir().join("gavel"))
}

/// How the sandbox of a process is set up by a configuration.
pub(crate) fn sandbox_options(file: &File) -> SandboxOptions {
    SandboxOptions {
        cache_dir: component_cache(),
        max_instances: file.limits.max_policy_instances,
        max_memory_bytes: file.limits.max_policy_memory_bytes,
        decision_deadline_ms: file.limits.decision_deadline_ms,
        ..SandboxOptions::default()
    }
}

/// The tools, with the workspace opened (made if it is not there).
fn toolbox(file: &File, storage: &Storage) -> Result<Toolbox> {
    let workspace = match (&file.tools.workspace, storage) {
        (Some(path), _) => path.clone(),
        (None, Storage::Folder(data)) => data.join("workspace"),
        (None, Storage::Volatile) => return Ok(Toolbox::new(None, file.tools.limits.clone())),
    };
    std::fs::create_dir_all(&workspace).with_context(|| format!("tools.workspace {}", workspace.display()))?;
    let dir = Dir::open_ambient_dir(&workspace, ambient_authority())
        .with_context(|| format!("tools.workspace {}", workspace.display()))?;
    Ok(Toolbox::new(Some(dir), file.tools.limits.clone()))
}

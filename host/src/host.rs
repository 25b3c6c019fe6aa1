//! A host: everything that a configuration means, made ready to serve.

use crate::clock::Clock;
use crate::config::File;
use crate::http::App;
use crate::http::auth::Keys;
use crate::kernel::{Kernel, LEDGER, Memory, Parts};
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::policies::admit::Admission;
use crate::policies::catalogue::Catalogue;
use crate::policies::change::{Change, Reason};
use crate::policies::life::Deployed;
use crate::policies::{self, watch};
use crate::tools::Toolbox;
use anyhow::{Context, Result};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use etcetera::BaseStrategy;
use gavel_runtime::{Sandbox, SandboxOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The kernels of a configuration, open.
#[derive(Debug)]
pub struct Host {
    /// In the configuration's order; never empty.
    pub kernels: Vec<Arc<Kernel>>,
    /// Where they count.
    pub metrics: Metrics,
    file: File,
    admission: Arc<Admission>,
    /// The plays of the operator; none without a data folder.
    operations: Option<Operations>,
    /// The folders that are watched.
    watching: Vec<JoinHandle<()>>,
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
        let admission = Arc::new(Admission::new(&file, sandbox, catalogue));
        admission.deploy(policies::unused(&file, &admission)?, &[]).await?;
        let tools = toolbox(&file, storage)?;
        let mut kernels = Vec::with_capacity(file.kernels.len());
        let mut warm: Vec<Arc<Deployed>> = Vec::with_capacity(file.kernels.len());
        for kernel in &file.kernels {
            // A policy of several kernels is compiled once.
            let known: Vec<&Deployed> = warm.iter().map(|deployed| &**deployed).collect();
            let document = policies::configured(&file, kernel, &admission)?;
            let deployed = Arc::new(admission.deploy(document, &known).await?.apart());
            let parts = Parts {
                policies: Arc::clone(&deployed),
                admission: Arc::clone(&admission),
                tools: tools.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                max_counter_keys: file.limits.max_counter_keys,
                max_ledger_queue: file.limits.max_ledger_queue,
            };
            warm.push(deployed);
            let dir = match storage {
                Storage::Folder(data) => Some(kernel_dir(data, &kernel.id)),
                Storage::Volatile => None,
            };
            let memory = dir.as_deref().map_or(Memory::Volatile, Memory::Durable);
            kernels.push(Kernel::open(kernel, memory, parts).await?);
        }
        let operations = match storage {
            Storage::Folder(data) => Some(Operations::new(&file, data, clock)),
            Storage::Volatile => None,
        };
        Ok(Self { kernels, metrics, file, admission, operations, watching: Vec::new() })
    }

    /// Begin to watch the folders that the configuration names, and what must be alerted.
    pub fn watch(&mut self) {
        self.watching.extend(self.operations.as_ref().map(|operations| operations.watch(self.kernels.clone())));
        for (kernel, file) in self.kernels.iter().zip(&self.file.kernels) {
            if let Some(watch) = &file.watch {
                self.watching.push(tokio::spawn(watch::watch(Arc::clone(kernel), watch.clone())));
            }
        }
    }

    /// Take the policies of a configuration that was read again. Everything else in it counts from
    /// the next start.
    ///
    /// # Errors
    /// Which kernel's policies are not admitted, and why; those of the kernels before it are in
    /// service then.
    pub async fn reconfigure(&self, file: &File) -> Result<()> {
        let reason = Reason { who: "configuration", why: "the configuration was read again" };
        for kernel in &self.kernels {
            let Some(found) = file.kernels.iter().find(|file| file.id == kernel.id()) else { continue };
            let document = policies::configured(file, found, &self.admission)?;
            if document.digest() != *kernel.policies().configured {
                let changed = kernel.change_policies(Change::Configure(document), reason).await;
                changed.with_context(|| format!("kernel {}", kernel.id()))?;
            }
        }
        Ok(())
    }

    /// The HTTP API of this host.
    #[must_use]
    pub fn app(&self) -> App {
        let keys = Keys::new(&self.file.auth);
        let app = App::new(self.kernels.clone(), keys, self.file.limits.clone(), self.metrics.clone());
        match &self.operations {
            Some(operations) => app.with_operations(operations.clone()),
            None => app,
        }
    }

    /// Wait for every request that is still being carried to its end, then close the ledgers.
    pub async fn finish(&self) {
        self.watching.iter().for_each(JoinHandle::abort);
        if let Some(operations) = &self.operations {
            operations.finish(FINISH_GRACE).await;
        }
        for kernel in &self.kernels {
            kernel.finish().await;
        }
    }

    /// The configuration it was made from.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
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
    etcetera::choose_base_strategy().ok().map(|dirs| dirs.cache_dir().join("gavel").join("components"))
}

fn sandbox_options(file: &File) -> SandboxOptions {
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

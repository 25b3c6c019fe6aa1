//! A host: everything that a configuration means, made ready to serve.

use crate::clock::Clock;
use crate::config::File;
use crate::http::App;
use crate::http::auth::Keys;
use crate::kernel::{Kernel, Memory, Parts};
use crate::metrics::Metrics;
use crate::policies;
use crate::tools::Toolbox;
use anyhow::{Context, Result};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use etcetera::BaseStrategy;
use gavel_runtime::{Sandbox, SandboxOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kernels of a configuration, open.
#[derive(Debug)]
pub struct Host {
    /// In the configuration's order; never empty.
    pub kernels: Vec<Arc<Kernel>>,
    /// Where they count.
    pub metrics: Metrics,
    file: File,
}

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
        let loaded = policies::load_all(&file, &sandbox).await?;
        let tools = toolbox(&file, storage)?;
        let mut kernels = Vec::with_capacity(file.kernels.len());
        for kernel in &file.kernels {
            let parts = Parts {
                policies: policies::set_of(kernel, &loaded),
                tools: tools.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                max_counter_keys: file.limits.max_counter_keys,
                max_ledger_queue: file.limits.max_ledger_queue,
            };
            kernels.push(match storage {
                Storage::Folder(data) => Kernel::open(kernel, Memory::Durable(&ledger_dir(data, &kernel.id)), parts)?,
                Storage::Volatile => Kernel::open(kernel, Memory::Volatile, parts)?,
            });
        }
        Ok(Self { kernels, metrics, file })
    }

    /// The HTTP API of this host.
    #[must_use]
    pub fn app(&self) -> App {
        App::new(self.kernels.clone(), Keys::new(&self.file.auth), self.file.limits.clone(), self.metrics.clone())
    }

    /// Wait for every request that is still being carried to its end, then close the ledgers.
    pub async fn finish(&self) {
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

/// Where the ledger of a kernel lies in a data folder.
#[must_use]
pub fn ledger_dir(data: &Path, kernel: &str) -> PathBuf {
    data.join("kernels").join(kernel).join("ledger")
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

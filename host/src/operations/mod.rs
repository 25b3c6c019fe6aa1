//! What an operator does with a running host: the plays of the playbook.
//!
//! Each play is one function here, one route of the API and one command; `docs/playbook.md` describes
//! them in the numbering of the seeds. What always holds: who did what, and why, is an event in the
//! ledger of the kernel that it was done to ([`event`]); a file that a play writes is whole, read back
//! and verified before it is named to anybody ([`mod@file`]); and nothing here makes a decision wait: what
//! reads a ledger does so on a blocking thread, beside the requests, and a few at a time.
//!
//! Told apart: the life of policies is in `policies`, how a process is watched by systemd in `service`.

pub mod alerts;
pub mod event;
pub mod file;
pub mod health;
mod incident;
pub mod integrity;
pub mod investigate;
mod preserve;
mod reading;
mod restart;
mod rotate;
mod watch;

pub use event::Operator;
pub use preserve::check_incident;

use crate::archive_target::{ArchiveTarget, LocalFolder};
use crate::clock::Clock;
use crate::config::{File, OperationsFile};
use crate::decide::Refused;
use crate::fleet::Fleet;
use alerts::{Alert, Alerts};
use anyhow::Context;
use health::Edges;
use integrity::Passes;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Everything that the plays need beside a kernel. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data: PathBuf,
    clock: Clock,
    limits: OperationsFile,
    alerts: Alerts,
    archive: Arc<dyn ArchiveTarget>,
    /// How far each kernel's ledger was verified.
    passes: Passes,
    /// What fails at this moment, so that only a change is alerted.
    edges: Edges,
    /// Plays that read a whole ledger.
    readers: Semaphore,
    /// Held while evidence is rotated.
    rotating: tokio::sync::Mutex<()>,
    /// What goes on after its play was answered.
    tasks: TaskTracker,
}

/// Why a play was not played, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The kernel is halted, or its ledger takes no record.
    #[error(transparent)]
    Kernel(#[from] Refused),
    /// Not in this state.
    #[error("{0}")]
    Conflict(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Something failed on the way.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// What a play comes to.
pub type Played<T> = Result<T, OperationError>;

impl Operations {
    /// The plays of the host that `file` configures, with its data in `data`.
    #[must_use]
    pub fn new(file: &File, data: &Path, clock: Clock) -> Self {
        let limits = file.operations.clone();
        // What a play names must mean the same to somebody elsewhere.
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        let inner = Inner {
            alerts: Alerts::start(&file.alerts, &limits, clock.clone()),
            archive: Arc::new(LocalFolder::new(data.join("archive"))),
            passes: Passes::default(),
            edges: Edges::default(),
            readers: Semaphore::new(limits.max_readers),
            rotating: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            data,
            clock,
            limits,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same, but what is rotated goes to `archive`. Only before anything else uses it.
    #[must_use]
    pub fn archiving_to(self, archive: Arc<dyn ArchiveTarget>) -> Self {
        let inner = Arc::into_inner(self.inner).map(|inner| Inner { archive, ..inner });
        Self { inner: Arc::new(inner.unwrap_or_else(|| unreachable!("nothing else uses it yet"))) }
    }

    /// Send an alert to the webhooks.
    pub(crate) fn alert(&self, alert: &Alert) {
        self.inner.alerts.send(alert);
    }

    /// Begin to look for what must be alerted.
    #[must_use]
    pub fn watch(&self, fleet: Arc<Fleet>) -> JoinHandle<()> {
        tokio::spawn(watch::watch(self.clone(), fleet))
    }

    /// Wait for what still goes on, and for the alerts that are on their way, but not for ever.
    pub async fn finish(&self, grace: Duration) {
        self.inner.tasks.close();
        let _ = tokio::time::timeout(grace, self.inner.tasks.wait()).await;
        self.inner.alerts.finish(grace).await;
    }

    /// Play to the end, whether or not somebody still waits for it.
    ///
    /// # Errors
    /// When it panicked.
    pub(crate) async fn carry<T: Send + 'static>(
        &self,
        play: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.inner.tasks.spawn(play).await.context("a play broke off")
    }

    /// Do something that reads a whole ledger: on a blocking thread, a few at a time.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let _slot = self.inner.readers.acquire().await?;
        tokio::task::spawn_blocking(read).await?
    }
}

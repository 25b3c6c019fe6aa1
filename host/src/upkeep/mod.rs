//! What a kernel does beside judging so that its ledger can live long: archiving, and retention.
//!
//! Each is a run: it is asked for by an operator, goes on while requests are judged, one at a time for each kernel, and
//! leaves events in the ledger. A run that is cut off anywhere has lost nothing, and the next one goes on where it was.
//!
//! It never touches what is not its kernel's, and in particular not `DATA/preserved`, where the sealed evidence of
//! incidents lies.

mod retention;
mod segments;

pub use retention::{Erased, RetentionReport};
pub use segments::{ArchiveReport, Archived, Removed};

use crate::archive::{Archive, ArchiveError};
use crate::config::{ArchiveFile, RetentionFile};
use crate::decide::Refused;
use crate::kernel::Kernel;
use gavel_kernel::json;
use gavel_ledger::{Draft, Kind};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The file in a kernel's folder that is a legal hold; its text says why.
pub const HOLD: &str = "hold";
/// Bytes of that text that are told.
const HOLD_BYTES_MAX: usize = 1_024;

/// What the configuration says about it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where sealed segments go.
    pub archive: Option<ArchiveFile>,
    /// How long things are kept.
    pub retention: RetentionFile,
}

/// Why a run did not begin, or did not come to its end. What it did until then is done, and recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// There is nowhere to put it.
    #[error("no archive is configured: set `archive.url`")]
    NoArchive,
    /// A kernel in memory has nothing to keep.
    #[error("kernel '{0}' keeps its ledger in memory only")]
    Volatile(String),
    /// Another run of this kernel goes on.
    #[error("{what} of kernel '{kernel}' goes on since {since_ms} ms: wait for its end")]
    Busy {
        /// What goes on.
        what: &'static str,
        /// The kernel.
        kernel: String,
        /// Since when.
        since_ms: u64,
    },
    /// Retention may not touch this kernel.
    #[error("kernel '{kernel}' is on hold: {why}; nothing is erased or removed until the hold is lifted")]
    Held {
        /// The kernel.
        kernel: String,
        /// Why, as the hold says.
        why: String,
    },
    /// The archive did not do it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The ledger or its blobs did not.
    #[error("{0}")]
    Ledger(String),
    /// It was not recorded, so it was not done.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The host stops.
    #[error("the host stops: what is left is done by the next run")]
    Stopping,
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Run {
    /// There was none since the host started.
    Never,
    /// It goes on.
    Running {
        /// Since when.
        since_ms: u64,
    },
    /// It came to its end.
    Done {
        /// When.
        at_ms: u64,
        /// What it did.
        report: Value,
    },
    /// It did not.
    Failed {
        /// When.
        at_ms: u64,
        /// Why.
        error: String,
    },
}

/// The two things that there are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Sealed segments go to the archive.
    Archive {
        /// And then from this disk.
        remove_local: bool,
    },
    /// What is too old goes.
    Retention {
        /// Only tell what would.
        dry_run: bool,
    },
}

impl Task {
    fn what(self) -> &'static str {
        match self {
            Self::Archive { .. } => "archiving",
            Self::Retention { .. } => "retention",
        }
    }
}

/// The upkeep of one kernel.
#[derive(Debug)]
pub(crate) struct Upkeep {
    settings: Settings,
    archive: watch::Sender<Run>,
    retention: watch::Sender<Run>,
    /// What goes on, and since when.
    busy: Mutex<Option<(&'static str, u64)>>,
    running: Mutex<Option<JoinHandle<()>>>,
    stopping: AtomicBool,
}

impl Upkeep {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            archive: watch::Sender::new(Run::Never),
            retention: watch::Sender::new(Run::Never),
            busy: Mutex::default(),
            running: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    fn state(&self, task: Task) -> &watch::Sender<Run> {
        match task {
            Task::Archive { .. } => &self.archive,
            Task::Retention { .. } => &self.retention,
        }
    }

    fn check_going_on(&self) -> Result<(), UpkeepError> {
        if self.stopping.load(Ordering::SeqCst) { Err(UpkeepError::Stopping) } else { Ok(()) }
    }

    /// Ends what goes on, at the next place where it can be left.
    pub(crate) async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            running.abort();
            // It was told to end: how it did says nothing new.
            let _ = running.await;
        }
    }
}

impl Kernel {
    /// Begin a run, and follow it. It goes on if nobody follows.
    ///
    /// # Errors
    /// [`UpkeepError`] if it cannot begin.
    pub fn begin_upkeep(self: &Arc<Self>, task: Task, who: &str) -> Result<watch::Receiver<Run>, UpkeepError> {
        if self.dir.is_none() {
            return Err(UpkeepError::Volatile(self.id.clone()));
        }
        if matches!(task, Task::Archive { .. }) && self.upkeep.settings.archive.is_none() {
            return Err(UpkeepError::NoArchive);
        }
        if let (Task::Retention { .. }, Some(dir)) = (task, &self.dir) {
            self.held(dir)?;
        }
        self.upkeep.check_going_on()?;
        let since_ms = self.clock.now_ms();
        let mut busy = self.upkeep.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((what, since_ms)) = *busy {
            return Err(UpkeepError::Busy { what, kernel: self.id.clone(), since_ms });
        }
        *busy = Some((task.what(), since_ms));
        drop(busy);
        let state = self.upkeep.state(task);
        state.send_replace(Run::Running { since_ms });
        let following = state.subscribe();
        let (kernel, who) = (Arc::clone(self), who.to_owned());
        let running = tokio::spawn(async move {
            // However it ends, the next one may begin.
            let _free = Free(&kernel.upkeep.busy);
            let ended = kernel.carry_out(task, &who).await;
            let at_ms = kernel.clock.now_ms();
            kernel.upkeep.state(task).send_replace(match ended {
                Ok(report) => Run::Done { at_ms, report },
                Err(why) => {
                    tracing::error!(kernel = kernel.id, %why, "{} did not come to its end", task.what());
                    Run::Failed { at_ms, error: why.to_string() }
                }
            });
        });
        *self.upkeep.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(following)
    }

    /// How the latest run of this kind stands.
    #[must_use]
    pub fn upkeep(&self, task: Task) -> Run {
        self.upkeep.state(task).borrow().clone()
    }

    async fn carry_out(self: &Arc<Self>, task: Task, who: &str) -> Result<Value, UpkeepError> {
        Ok(match task {
            Task::Archive { remove_local } => json!(segments::archive(self, remove_local, who).await?),
            Task::Retention { dry_run } => json!(retention::retain(self, dry_run, who).await?),
        })
    }

    /// The archive, if one is configured.
    ///
    /// # Errors
    /// [`UpkeepError::NoArchive`], or what its URL or its options lack.
    pub fn archive(&self) -> Result<Archive, UpkeepError> {
        let file = self.upkeep.settings.archive.as_ref().ok_or(UpkeepError::NoArchive)?;
        Ok(Archive::open(file)?)
    }

    /// Why nothing of this kernel may be erased or removed, if so.
    fn held(&self, dir: &Path) -> Result<(), UpkeepError> {
        let held = |why: String| Err(UpkeepError::Held { kernel: self.id.clone(), why });
        let configured =
            self.upkeep.settings.retention.hold.iter().find(|hold| hold.kernel == self.name || hold.kernel == self.id);
        if let Some(hold) = configured {
            return held(hold.why.clone());
        }
        // The file may lie with the kernel that was replaced: a hold is on the name, and on all who answered under it.
        let of_the_name = dir.parent().map(|kernels| kernels.join(&self.name).join(HOLD)).filter(|hold| hold.exists());
        match std::fs::read(of_the_name.unwrap_or_else(|| dir.join(HOLD))) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text[..text.len().min(HOLD_BYTES_MAX)]).trim().to_owned();
                held(if text.is_empty() { format!("the file `{HOLD}` is in its folder") } else { text })
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
            // Whether it is held cannot be known, so it is.
            Err(why) => held(format!("its file `{HOLD}` cannot be read: {why}")),
        }
    }

    /// An event in the ledger about upkeep. What is about to be erased or removed is recorded before it is.
    async fn record_upkeep(&self, event: &'static str, who: &str, what: Value) -> Result<u64, UpkeepError> {
        let mut meta = what;
        meta["event"] = json!(event);
        meta["who"] = json!(who);
        let ts_ms = self.clock.now_ms();
        let draft = Draft { kind: Kind::Event, ts_ms, meta: json::canonical(&meta), entry: None, closes: None };
        Ok(self.append(draft).await?.index)
    }
}

/// Frees the place of a run when it ends, by whatever way.
struct Free<'a>(&'a Mutex<Option<(&'static str, u64)>>);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Do something that waits for the disk where nobody else waits for it.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UpkeepError> + Send + 'static,
) -> Result<T, UpkeepError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|why| Err(UpkeepError::Ledger(why.to_string())))
}

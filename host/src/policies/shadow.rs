//! A candidate in the shadow: it sees real requests, decides nothing, and what it would have
//! decided otherwise is counted and kept.
//!
//! It runs beside the request, never before its answer: when too many evaluations are under way
//! the request is not shown to it, and that is counted too. Its counters are its own and begin
//! empty, so that a rate limit on trial does not eat the budget of the one that serves.

use super::life::Deployed;
use gavel_runtime::{Counters, Denial, Request, WindowedCounters};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Differences that are kept in memory, to be shown.
const RECENT_MAX: usize = 100;

/// What a shadow may use.
#[derive(Debug, Clone, Copy)]
pub struct ShadowLimits {
    /// Evaluations at the same time.
    pub max_in_flight: usize,
    /// Differences that are kept on disk.
    pub max_differences: u64,
    /// Keys that its policies may keep counters under.
    pub max_counter_keys: usize,
}

/// What a policy set said, as far as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision")]
pub enum Word {
    /// It let the request pass.
    #[serde(rename = "ALLOW")]
    Allow,
    /// It did not.
    #[serde(rename = "DENY")]
    Deny {
        /// The policy that decided.
        policy: String,
        /// Its reason.
        reason: String,
        /// Whether it asked for a human.
        escalated: bool,
    },
}

impl From<Option<&Denial>> for Word {
    fn from(denial: Option<&Denial>) -> Self {
        denial.map_or(Self::Allow, |denial| Self::Deny {
            policy: denial.policy.to_string(),
            reason: denial.reason.clone(),
            escalated: denial.escalated,
        })
    }
}

/// A request that the candidate would have decided otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The kernel's time of the request.
    pub ts_ms: u64,
    /// The request.
    pub request_id: String,
    /// Who asked.
    pub actor: String,
    /// The tool it asked for.
    pub tool: Option<String>,
    /// What was decided.
    pub serving: Word,
    /// What the candidate would have decided.
    pub candidate: Word,
}

/// What a shadow saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Requests that the candidate judged.
    pub seen: u64,
    /// Of those: the ones that it would have decided otherwise.
    pub differing: u64,
    /// Requests that it was not shown, because too many were under way.
    pub missed: u64,
    /// Differences on disk.
    pub kept: u64,
}

/// A candidate's view of the traffic.
#[derive(Debug)]
pub struct Shadow {
    slots: Arc<Semaphore>,
    counters: Arc<WindowedCounters>,
    max_differences: u64,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    tally: Tally,
    recent: VecDeque<Difference>,
    file: Option<File>,
}

impl Shadow {
    /// A shadow that keeps its differences in `file`, after those that are there already.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn new(limits: ShadowLimits, file: Option<&Path>) -> std::io::Result<Self> {
        let mut notes = Notes::default();
        if let Some(path) = file {
            notes.open(path)?;
        }
        Ok(Self {
            slots: Arc::new(Semaphore::new(limits.max_in_flight)),
            counters: Arc::new(WindowedCounters::new(limits.max_counter_keys)),
            max_differences: limits.max_differences,
            notes: Mutex::new(notes),
        })
    }

    /// One that sees nothing.
    #[must_use]
    pub fn idle() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(0)),
            counters: Arc::new(WindowedCounters::new(1)),
            max_differences: 0,
            notes: Mutex::default(),
        }
    }

    /// Have `candidate` judge a request that was decided with `serving`, beside it.
    pub fn show(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        candidate: &Arc<Deployed>,
        request: &Arc<Request>,
        serving: Word,
    ) {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.notes().tally.missed += 1;
            return;
        };
        let (shadow, candidate, request) = (Arc::clone(self), Arc::clone(candidate), Arc::clone(request));
        tasks.spawn(async move {
            let counters: Arc<dyn Counters> = Arc::clone(&shadow.counters) as _;
            let judged = candidate.set.judge(Arc::clone(&request), counters).await;
            drop(slot);
            shadow.compare(&request, serving, Word::from(judged.denial().as_ref()));
        });
    }

    fn compare(&self, request: &Request, serving: Word, candidate: Word) {
        let mut notes = self.notes();
        notes.tally.seen += 1;
        if serving == candidate {
            return;
        }
        notes.tally.differing += 1;
        let difference = Difference {
            ts_ms: request.now_ms,
            request_id: request.id.clone(),
            actor: request.actor.clone(),
            tool: request.tool_call.as_ref().map(|call| call.name.clone()),
            serving,
            candidate,
        };
        notes.keep(difference, self.max_differences);
    }

    /// What it saw until now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.notes().tally.clone()
    }

    /// The latest differences, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Difference> {
        self.notes().recent.iter().cloned().collect()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    fn open(&mut self, path: &Path) -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut whole = true;
        for line in BufReader::new(&file).split(b'\n') {
            let line = line?;
            // A line that a crash tore is not counted, and not shown.
            let read = serde_json::from_slice(&line);
            whole = read.is_ok();
            if let Ok(difference) = read {
                self.remember(difference);
                self.tally.kept += 1;
            }
        }
        if !whole {
            (&file).write_all(b"\n")?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn keep(&mut self, difference: Difference, max: u64) {
        if self.tally.kept < max
            && let Some(file) = &mut self.file
        {
            let mut line = serde_json::to_string(&difference).unwrap_or_default();
            line.push('\n');
            match file.write_all(line.as_bytes()) {
                Ok(()) => self.tally.kept += 1,
                Err(why) => {
                    tracing::error!(%why, "differences are no longer kept on disk");
                    self.file = None;
                }
            }
        }
        self.remember(difference);
    }

    fn remember(&mut self, difference: Difference) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(difference);
    }
}

/// Where the differences of a candidate lie in a kernel's folder.
#[must_use]
pub fn file_of(kernel_dir: &Path, candidate: &str) -> PathBuf {
    let hex = candidate.strip_prefix("sha256:").unwrap_or(candidate);
    kernel_dir.join("differences").join(format!("{hex}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ShadowLimits = ShadowLimits { max_in_flight: 4, max_differences: 2, max_counter_keys: 10 };

    fn request(id: &str) -> Arc<Request> {
        Arc::new(Request {
            id: id.into(),
            now_ms: 5,
            ts_ms: 4,
            actor: "agent".into(),
            intent: "look".into(),
            tool_call: None,
            params: "{}".into(),
            evidence: Vec::new(),
            constraints: None,
        })
    }

    fn denial() -> Word {
        Word::Deny { policy: "p".into(), reason: "no".into(), escalated: false }
    }

    async fn shown(shadow: &Arc<Shadow>, words: &[Word]) {
        // An empty set lets everything pass.
        let candidate = Arc::new(Deployed::empty());
        for (number, word) in words.iter().enumerate() {
            let tasks = TaskTracker::new();
            shadow.show(&tasks, &candidate, &request(&number.to_string()), word.clone());
            tasks.close();
            tasks.wait().await;
        }
    }

    #[tokio::test]
    async fn differences_are_counted_and_kept_across_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = file_of(folder.path(), "sha256:ab");
        let shadow = Arc::new(Shadow::new(LIMITS, Some(&path)).unwrap());
        shown(&shadow, &[Word::Allow, denial(), denial(), denial()]).await;
        assert_eq!(shadow.tally(), Tally { seen: 4, differing: 3, missed: 0, kept: 2 });
        assert_eq!(shadow.recent().len(), 3);
        let again = Shadow::new(LIMITS, Some(&path)).unwrap();
        assert_eq!((again.tally().kept, again.recent()), (2, shadow.recent()[..2].to_vec()));
        assert_eq!((&again.recent()[0].serving, &again.recent()[0].candidate), (&denial(), &Word::Allow));
    }

    #[tokio::test]
    async fn what_it_cannot_be_shown_is_counted() {
        let shadow = Arc::new(Shadow::idle());
        shown(&shadow, &[denial()]).await;
        assert_eq!(shadow.tally(), Tally { missed: 1, ..Tally::default() });
    }
}

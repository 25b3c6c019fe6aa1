//! The way from many callers to the one writer: bounded in number and in bytes, never blocking
//! those who push.
//!
//! A mutex around a vector, not a channel: the writer takes all that is pending in one step, which
//! is what makes a group commit, and a full queue is known at once. The lock is held for some tens
//! of nanoseconds.

use crate::draft::Draft;
use crate::error::AppendError;
use gavel_proof::note::CheckpointKey;
use gavel_proof::record::Kind;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Called once with the fate of an append.
pub(crate) type Done = Box<dyn FnOnce(Result<crate::Committed, AppendError>) + Send>;

/// An append on its way.
pub(crate) struct Job {
    pub(crate) draft: Draft,
    pub(crate) done: Done,
    /// For a key's record: the key that signs from then on.
    pub(crate) key: Option<KeyChange>,
}

/// Another key for the checkpoints.
pub(crate) struct KeyChange {
    pub(crate) key: CheckpointKey,
    /// The one before is lost, and cannot sign its successor.
    pub(crate) lost: bool,
}

/// Memory that a waiting append occupies beside its texts: it keeps empty texts from being free.
const JOB_BYTES: usize = 256;

impl Job {
    fn bytes(&self) -> usize {
        self.draft.bytes() + JOB_BYTES
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) jobs_max: usize,
    pub(crate) bytes_max: usize,
}

impl Limits {
    const NONE: Self = Self { jobs_max: usize::MAX, bytes_max: usize::MAX };
}

/// What the writer woke up for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Jobs were added to the batch.
    Jobs,
    /// Nothing came for as long as the writer was ready to wait.
    Idle,
    /// Nothing is left, and nothing will come.
    Closed,
}

pub(crate) struct Queue {
    limits: Limits,
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// The writer sleeps and must be woken.
    asleep: bool,
    closed: bool,
    poisoned: Option<String>,
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, waiting: Mutex::default(), came: Condvar::new() }
    }

    /// Hands a job to the writer; if it cannot be taken, its `done` is called here and now.
    pub(crate) fn push(&self, job: Job) {
        let mut waiting = self.lock();
        // What closes a decision is always admitted: its tool has run, and there are no more of these than open decisions.
        // And a halt, which ends what fills the queue.
        let exempt = job.draft.closes.is_some() || job.draft.kind == Kind::Halt;
        let limits = if exempt { &Limits::NONE } else { &self.limits };
        if let Some(error) = waiting.refuses(limits) {
            // Never under the lock: a callback may well append again.
            drop(waiting);
            (job.done)(Err(error));
            return;
        }
        waiting.bytes += job.bytes();
        waiting.jobs.push_back(job);
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.came.notify_one();
        }
    }

    /// Waits for jobs, at most for `patience`, and moves into `batch` at least one and not more
    /// than `bytes_max` of them.
    pub(crate) fn take(&self, batch: &mut Vec<Job>, bytes_max: usize, patience: Option<Duration>) -> Taken {
        let mut waiting = self.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return Taken::Closed;
            }
            waiting.asleep = true;
            let timed_out;
            (waiting, timed_out) = self.sleep(waiting, patience);
            waiting.asleep = false;
            if timed_out && waiting.jobs.is_empty() && !waiting.closed {
                return Taken::Idle;
            }
        }
        waiting.move_into(batch, bytes_max);
        Taken::Jobs
    }

    /// Puts back what found no room, before all that came later.
    pub(crate) fn put_back(&self, jobs: &mut Vec<Job>) {
        let mut waiting = self.lock();
        for job in jobs.drain(..).rev() {
            waiting.bytes += job.bytes();
            waiting.jobs.push_front(job);
        }
    }

    /// Moves what came meanwhile into `batch`, which stays within `bytes_max`. Waits for nothing.
    pub(crate) fn take_more(&self, batch: &mut Vec<Job>, bytes_max: usize) {
        let taken: usize = batch.iter().map(Job::bytes).sum();
        let mut waiting = self.lock();
        let fits = waiting.jobs.front().is_some_and(|job| taken + job.bytes() <= bytes_max);
        if fits {
            waiting.move_into(batch, bytes_max - taken);
        }
    }

    fn sleep<'a>(
        &self,
        waiting: MutexGuard<'a, Waiting>,
        patience: Option<Duration>,
    ) -> (MutexGuard<'a, Waiting>, bool) {
        match patience {
            None => (self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner), false),
            Some(patience) => {
                let (waiting, timeout) =
                    self.came.wait_timeout(waiting, patience).unwrap_or_else(PoisonError::into_inner);
                (waiting, timeout.timed_out())
            }
        }
    }

    /// No more jobs; those that wait are still served.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
    }

    /// From now on every push is refused with this reason; the first reason stays.
    pub(crate) fn poison(&self, why: &str) {
        self.lock().poisoned.get_or_insert_with(|| why.to_owned());
    }

    /// The jobs that wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().jobs.len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code between locking and unlocking can panic halfway through a change, so the content
        // is sound.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn refuses(&self, limits: &Limits) -> Option<AppendError> {
        if let Some(why) = &self.poisoned {
            Some(AppendError::Poisoned { why: why.clone() })
        } else if self.closed {
            Some(AppendError::Closed)
        } else if self.jobs.len() >= limits.jobs_max || self.bytes >= limits.bytes_max {
            Some(AppendError::Overloaded { queued: self.jobs.len(), bytes: self.bytes })
        } else {
            None
        }
    }

    fn move_into(&mut self, batch: &mut Vec<Job>, bytes_max: usize) {
        let mut bytes = 0;
        let fits = |job: &&Job| {
            bytes += job.bytes();
            bytes <= bytes_max
        };
        let count = self.jobs.iter().take_while(fits).count().max(1);
        let before = batch.len();
        batch.extend(self.jobs.drain(..count));
        self.bytes -= batch[before..].iter().map(Job::bytes).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, sync_channel};

    fn job(meta: &str) -> (Job, Receiver<Result<crate::Committed, AppendError>>) {
        let (sender, receiver) = sync_channel(1);
        let draft = Draft { kind: Kind::Event, ts_ms: 0, meta: meta.to_owned(), entry: None, closes: None };
        (Job { draft, done: Box::new(move |result| sender.send(result).unwrap()), key: None }, receiver)
    }

    #[test]
    fn bounds_number_and_bytes() {
        let queue = Queue::new(Limits { jobs_max: 2, bytes_max: 10_000 });
        for _ in 0..2 {
            queue.push(job("{}").0);
        }
        let (refused, answer) = job("{}");
        queue.push(refused);
        assert_eq!(answer.recv().unwrap(), Err(AppendError::Overloaded { queued: 2, bytes: 516 }));

        let (mut closing, unanswered) = job("{}");
        closing.draft.closes = Some(1);
        queue.push(closing);
        assert!(unanswered.try_recv().is_err(), "what closes a decision waits, however full it is");
        assert_eq!(queue.depth(), 3);

        let queue = Queue::new(Limits { jobs_max: 9, bytes_max: 300 });
        queue.push(job(&"x".repeat(100)).0);
        let (refused, answer) = job("{}");
        queue.push(refused);
        assert!(matches!(answer.recv().unwrap(), Err(AppendError::Overloaded { queued: 1, .. })));
    }

    #[test]
    fn batches_are_bounded_but_never_empty() {
        let queue = Queue::new(Limits { jobs_max: 9, bytes_max: 100_000 });
        for size in [5_000, 300, 300, 300] {
            queue.push(job(&"x".repeat(size)).0);
        }
        let mut sizes = Vec::new();
        queue.close();
        loop {
            let mut batch = Vec::new();
            if queue.take(&mut batch, 1_200, None) == Taken::Closed {
                break;
            }
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [1, 2, 1]);
        assert_eq!((queue.depth(), queue.lock().bytes), (0, 0));
    }

    #[test]
    fn the_first_poison_stays() {
        let queue = Queue::new(Limits { jobs_max: 9, bytes_max: 1_000 });
        queue.poison("disk");
        queue.poison("later");
        queue.close();
        let (refused, answer) = job("{}");
        queue.push(refused);
        assert_eq!(answer.recv().unwrap(), Err(AppendError::Poisoned { why: "disk".into() }));
    }
}

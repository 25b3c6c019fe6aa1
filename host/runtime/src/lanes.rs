//! Two lanes, so that a slow policy harms nobody else.
//!
//! An evaluation begins where the decision is being made: for the 10 to 30 µs that one normally
//! takes, a hand-over to another thread would cost as much again. A guest that is still running
//! at its second tick (after 0.5 to 1 ms) yields, and is moved to the *slow lane*: a few threads
//! of lower priority that run all such guests in turns, a tick at a time. The caller meanwhile
//! waits without holding a thread, and is answered at the deadline even if the slow lane is busy.
//!
//! A policy that was moved several times in a row begins in the slow lane from then on ([`Pace`]):
//! otherwise callers of a policy that never ends would take a millisecond of a good thread each
//! time. Now and then it is tried again where the decision is made.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;
use tokio::sync::oneshot;

/// Priority of the slow lane below the rest of the process. 5 leaves a slow thread a quarter of a
/// core that is otherwise saturated: a policy in Python still gets its few milliseconds.
const NICENESS: i32 = 5;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The threads on which evaluations go on that did not end within their first slice.
#[derive(Debug)]
pub(crate) struct SlowLane {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    stopped: bool,
}

impl SlowLane {
    /// Start `threads` threads.
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        for n in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("gavel-slow-{n}")).spawn(move || serve(&queue))?;
        }
        Ok(Self { queue })
    }

    /// Run the first slice of `future` here and now, unless its `pace` is known to be slow; the rest,
    /// if any, goes to the slow lane.
    ///
    /// The future must be one that is always ready to go on (guests yield but never wait).
    pub(crate) fn run<T, F>(&self, mut future: Pin<Box<F>>, until: Instant, pace: &Pace) -> Run<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        if pace.begins_here()
            && let Poll::Ready(done) = poll_once(future.as_mut())
        {
            pace.ended_here();
            return Run::Done(done);
        }
        pace.moved();
        let (answer, wait) = oneshot::channel();
        self.spawn(async move {
            // Nobody waits any more after the deadline: the answer is dropped.
            let _ = answer.send(future.await);
        });
        Run::Moved(Box::pin(async move { tokio::time::timeout_at(until.into(), wait).await.ok()?.ok() }))
    }

    /// Run all of `future` in the slow lane. It, too, must always be ready to go on.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.queue.push(Box::pin(future));
    }
}

/// Evaluations of a policy in a row that went to the slow lane, after which the next begin there.
const MOVED_MAX: u32 = 3;
/// Of those that begin in the slow lane, one in so many is tried outside it.
const TRIED_AGAIN: u32 = 64;

/// How a policy has done lately: evaluations in a row that were in the slow lane.
#[derive(Debug, Default)]
pub(crate) struct Pace(AtomicU32);

impl Pace {
    fn begins_here(&self) -> bool {
        let moved = self.0.load(Ordering::Relaxed);
        moved < MOVED_MAX || moved.is_multiple_of(TRIED_AGAIN)
    }

    fn ended_here(&self) {
        // Nearly always 0 already: then nothing is written that other threads read.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    fn moved(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What came of the first slice. Small, so that the usual way pays nothing for the other one.
pub(crate) enum Run<T> {
    /// The future has ended.
    Done(T),
    /// It goes on in the slow lane. `None` when it has not ended in time; it is then interrupted
    /// there, at its own deadline.
    Moved(Pin<Box<dyn Future<Output = Option<T>> + Send>>),
}

impl<T> Run<T> {
    /// The end of the future, waited for if need be.
    pub(crate) async fn ended(self) -> Option<T> {
        match self {
            Self::Done(done) => Some(done),
            Self::Moved(rest) => rest.await,
        }
    }
}

/// Let the other tasks of the lane have their turn.
pub(crate) async fn next_turn() {
    let mut passed = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut passed, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Drop for SlowLane {
    fn drop(&mut self) {
        self.queue.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.queue.filled.notify_all();
    }
}

impl Queue {
    fn push(&self, task: Task) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tasks.push_back(task);
        self.filled.notify_one();
    }

    /// The next task, or `None` when the lane is closed.
    fn pop(&self) -> Option<Task> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(task) = state.tasks.pop_front() {
                return Some(task);
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn poll_once<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn serve(queue: &Queue) {
    // Lowering one's own priority needs no privilege; where it is refused all the same, the lane
    // works as well, only less politely.
    let _ = rustix::process::nice(NICENESS);
    while let Some(mut task) = queue.pop() {
        if poll_once(task.as_mut()).is_pending() {
            queue.push(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_begins_in_the_slow_lane_and_is_tried_again() {
        let pace = Pace::default();
        for _ in 0..MOVED_MAX {
            assert!(pace.begins_here());
            pace.moved();
        }
        let mut here = 0;
        for _ in 0..10 * TRIED_AGAIN {
            here += u32::from(pace.begins_here());
            pace.moved();
        }
        assert_eq!(here, 10);
        pace.ended_here();
        assert!(pace.begins_here());
    }
}

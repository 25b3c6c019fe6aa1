//! Waiting for a future on a plain thread.
//!
//! The futures here are guests, which yield now and then but never wait for anything, and the wait for a free slot. So
//! nothing of an async runtime is needed, and nothing is asked of one: its timers and its workers may be busy, or there
//! may be none.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Run `future` on this thread. `None` if it has not ended by `until`; without that it is run to its end.
pub(crate) fn wait<T>(future: impl Future<Output = T>, until: Option<Instant>) -> Option<T> {
    // Within a tokio task its budget would count here, and once spent would never come back while the thread is held.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return Some(done);
        }
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(left) if left.is_zero() => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]
mod tests {
    use super::*;
    use tokio::sync::{Semaphore, oneshot};

    #[test]
    fn a_thread_waits_for_another() {
        let (sender, receiver) = oneshot::channel();
        let other = thread::spawn(move || sender.send(7).unwrap());
        assert_eq!(wait(receiver, None).unwrap(), Ok(7));
        other.join().unwrap();
    }

    #[test]
    fn what_does_not_end_is_given_up() {
        assert_eq!(wait(std::future::pending::<()>(), Some(Instant::now())), None);
        assert_eq!(wait(std::future::ready(1), Some(Instant::now())), Some(1), "what is ready is taken");
    }

    #[tokio::test]
    async fn a_task_that_has_used_its_budget_still_gets_what_is_free() {
        let slots = Semaphore::new(1);
        for _ in 0..10_000 {
            assert!(wait(slots.acquire(), None).unwrap().is_ok());
        }
    }
}

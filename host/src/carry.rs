//! Work that is carried to its end, whether or not somebody still waits for it.
//!
//! A caller that goes away drops the future of its request. Past its judgement a request must not
//! end there: its tool may be running and its outcome has to be recorded. A task of its own for
//! every request would ensure that, at the price of a hand-over between threads each time; here
//! the work runs where it is awaited, and becomes a task only when it is dropped unfinished.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Work in progress. `tasks` waits for it until it is done, awaited or not.
pub(crate) struct Carried<T: Send + 'static> {
    work: Option<Work<T>>,
}

/// The work panicked: a bug of ours. The panic's message is in the log of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Begin `work`, which runs when it is polled.
pub(crate) fn carry<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl Future<Output = T> + Send + 'static,
) -> Carried<T> {
    Carried { work: Some(Box::pin(tasks.track_future(work))) }
}

impl<T: Send + 'static> Future for Carried<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else { return Poll::Ready(Err(Panicked)) };
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        let done = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => Ok(done),
            Err(_) => Err(Panicked),
        };
        self.work = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for Carried<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_that_is_dropped_goes_on() {
        let tasks = TaskTracker::new();
        let (go, wait) = oneshot::channel::<()>();
        let done = Arc::new(AtomicBool::new(false));
        let mut carried = carry(&tasks, {
            let done = Arc::clone(&done);
            async move {
                drop(wait.await);
                done.store(true, Ordering::SeqCst);
            }
        });
        assert!(Pin::new(&mut carried).poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        drop(carried);
        drop(go);
        tasks.close();
        tasks.wait().await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_to_the_waiting() {
        let tasks = TaskTracker::new();
        assert_eq!(carry(&tasks, async { 5 }).await, Ok(5));
        assert_eq!(carry(&tasks, async { panic!("a bug") }).await, Err::<(), _>(Panicked));
        tasks.close();
        tasks.wait().await;
    }
}

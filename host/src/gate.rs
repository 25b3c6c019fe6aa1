//! The gate of a kernel: who is inside, and whether anybody may still enter.
//!
//! Both are one atomic word, so there is no moment at which somebody enters a kernel that was closed: whoever finds
//! the gate open is counted, and whoever closes it waits for exactly those. No lock, two atomic additions a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// The highest bit: closed. The others count who is inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A gate that is open until it is closed, for good.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    word: AtomicUsize,
    empty: Notify,
}

/// Being inside; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Gate {
    /// Go in, if the gate is open.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Pass> {
        let before = self.word.fetch_add(1, Ordering::AcqRel);
        let pass = Pass(Arc::clone(self));
        // One who finds it closed goes out again as everybody does.
        (before & CLOSED == 0).then_some(pass)
    }

    /// From now on nobody enters.
    pub(crate) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether it is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Wait until the gate is closed and nobody is inside.
    pub(crate) async fn emptied(&self) {
        loop {
            let left = self.empty.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.word.load(Ordering::Acquire) == CLOSED {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.0.word.fetch_sub(1, Ordering::AcqRel) == CLOSED + 1 {
            self.0.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_is_inside_is_waited_for_and_nobody_enters_any_more() {
        let gate = Arc::new(Gate::default());
        let passes: Vec<Pass> = (0..3).filter_map(|_| gate.enter()).collect();
        assert_eq!((passes.len(), gate.is_closed()), (3, false));
        gate.close();
        assert!(gate.enter().is_none() && gate.is_closed());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.emptied().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(passes);
        waiting.await.unwrap();
        gate.emptied().await;
    }

    #[test]
    fn nobody_slips_through_while_it_closes() {
        let gate = Arc::new(Gate::default());
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(pass) = gate.enter() {
                        inside.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(pass);
                    }
                });
            }
            scope.spawn(|| gate.close());
        });
        assert_eq!((gate.word.load(Ordering::SeqCst), inside.load(Ordering::SeqCst)), (CLOSED, 0));
    }
}

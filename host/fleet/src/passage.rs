//! Requests on their way to a component: sent, and not yet begun to be answered.
//!
//! A process that is asked to end answers what it has read, and closes connections on which it is asked nothing. A request
//! that is written to such a connection just then breaks off, and nobody knows whether it was acted upon. So no process is
//! asked to end while requests are on their way to it: first the door holds back new ones, then those before are waited for.
//! What is being answered holds nothing up: a stream may last for ever, and its end is its process's to find.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Requests on their way to one component.
#[derive(Debug, Default)]
pub(crate) struct OnTheirWay {
    count: AtomicUsize,
    none: Notify,
}

/// One request on its way; no longer once this is dropped.
#[derive(Debug)]
pub(crate) struct Passage(Arc<OnTheirWay>);

impl OnTheirWay {
    /// One more. Whoever takes it must look after that whether the component still takes requests.
    pub(crate) fn one(self: &Arc<Self>) -> Passage {
        self.count.fetch_add(1, Ordering::SeqCst);
        Passage(Arc::clone(self))
    }

    /// One more, unless there are as many as may be.
    pub(crate) fn one_of(self: &Arc<Self>, most: usize) -> Option<Passage> {
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        let passage = Passage(Arc::clone(self));
        (before < most).then_some(passage)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Completes when there is none.
    pub(crate) async fn none(&self) {
        loop {
            let mut told = std::pin::pin!(self.none.notified());
            // Before the look, so that what ends between the two is heard of.
            told.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            told.await;
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn nobody_is_waited_for_but_those_on_their_way() {
        let requests = Arc::new(OnTheirWay::default());
        requests.none().await;
        let (first, second) = (requests.one(), requests.one());
        let mut gone = Box::pin(requests.none());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(first);
        assert!(gone.as_mut().now_or_never().is_none());
        drop(second);
        gone.await;
        assert_eq!(requests.count(), 0);
    }

    #[test]
    fn there_are_no_more_than_may_be() {
        let requests = Arc::new(OnTheirWay::default());
        let kept = [requests.one_of(2), requests.one_of(2)];
        assert!(kept.iter().all(Option::is_some) && requests.one_of(2).is_none());
        assert_eq!(requests.count(), 2, "who was refused is not counted");
        drop(kept);
        assert!(requests.one_of(2).is_some());
    }
}

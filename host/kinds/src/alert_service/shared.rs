//! What the writing side tells those who wait: workers, the one who looks after steps, and health.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use tokio::sync::watch;

/// As of the last commit.
#[derive(Default)]
pub(super) struct Shared {
    counts: RwLock<Counts>,
    soonest: watch::Sender<Option<u64>>,
    bell: watch::Sender<u64>,
}

/// How many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) open: usize,
    pub(super) resolved: usize,
    /// Notifications on their way, by receiver.
    pub(super) waiting: BTreeMap<String, u64>,
}

impl Shared {
    pub(super) fn update(
        &self,
        (open, resolved): (usize, usize),
        waiting: &BTreeMap<String, u64>,
        soonest: Option<u64>,
        fresh: bool,
    ) {
        let counts = Counts { open, resolved, waiting: waiting.clone() };
        *self.counts.write().unwrap_or_else(PoisonError::into_inner) = counts;
        self.soonest.send_if_modified(|known| std::mem::replace(known, soonest) != soonest);
        if fresh {
            self.bell.send_modify(|rung| *rung += 1);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the next step is due.
    pub(super) fn soonest(&self) -> watch::Receiver<Option<u64>> {
        self.soonest.subscribe()
    }

    /// Rings when there are notifications that were not there before.
    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }
}

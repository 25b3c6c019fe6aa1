//! What must be remembered of the requests that were judged: which permits were used, and what the policies counted.
//!
//! It belongs to the name that clients use, not to the kernel that answers under it: a kernel that replaces another
//! goes on with the very same memory, so that a replacement lets no permit be used again and gives no rate limit a
//! new start. After a restart it is built again from the ledgers, the replaced kernels' first.

use crate::record;
use anyhow::Result;
use gavel_kernel::MemoryPermitUses;
use gavel_ledger::RecordView;
use gavel_runtime::{Counters, WindowedCounters};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long a permit's use matters after the permit ended: a clock may be set back by so much.
const CLOCK_SET_BACK_MS: u64 = 24 * 60 * 60 * 1000;

/// The memory of one name. Cheap to clone; all clones are the same memory.
#[derive(Clone)]
pub struct Remembered {
    permits: Arc<Mutex<MemoryPermitUses>>,
    counters: Arc<dyn Counters>,
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

impl Remembered {
    /// Nothing yet, with room for so many keys of counters.
    #[must_use]
    pub fn nothing(max_counter_keys: usize) -> Self {
        Self { permits: Arc::default(), counters: WindowedCounters::new(max_counter_keys).into() }
    }

    /// The permits that were used.
    pub(crate) fn permits(&self) -> MutexGuard<'_, MemoryPermitUses> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the policies counted.
    pub(crate) fn counters(&self) -> Arc<dyn Counters> {
        Arc::clone(&self.counters)
    }

    /// Remember what a record of a ledger tells, in the ledger's order.
    ///
    /// # Errors
    /// When there is no room for a permit's use: going on would let it be used again.
    pub(crate) fn recall(&self, record: &RecordView) -> Result<()> {
        if let Some(permit_use) = record::permit_use(record) {
            self.permits().restore(&permit_use)?;
        }
        for counted in record::counted(record) {
            let record::Counted { policy, key, added, window_ms } = counted;
            // Reading first: amounts are kept for the longest window that was ever asked for.
            self.counters.read(&policy, &key, window_ms, record.ts_ms());
            if let Some(amount) = added {
                self.counters.add(&policy, &key, amount, window_ms, record.ts_ms());
            }
        }
        Ok(())
    }
}

/// Until when it matters what a ledger tells; all in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Horizon {
    permits: u64,
    counted: u64,
    longest_window: u64,
}

impl Horizon {
    /// Look at a record.
    pub(crate) fn see(&mut self, record: &RecordView) {
        if let Some(used) = record::permit_use(record) {
            self.permits = self.permits.max(used.valid_until_ms).max(used.used_at_ms);
        }
        for counted in record::counted(record) {
            self.counted = self.counted.max(record.ts_ms());
            self.longest_window = self.longest_window.max(counted.window_ms);
        }
    }

    /// In milliseconds since 1970; 0 when nothing was told that is remembered.
    pub(crate) fn until_ms(self) -> u64 {
        let counted_ms = if self.counted == 0 { 0 } else { self.counted.saturating_add(self.longest_window) };
        match self.permits.max(counted_ms) {
            0 => 0,
            until_ms => until_ms.saturating_add(CLOCK_SET_BACK_MS),
        }
    }
}

//! The one clock. Everything that needs the time is given this, so that a recorded run and a test
//! can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// Where the time comes from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands where it is set: recorded scenarios, offline batches, tests.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `now_ms`.
    #[must_use]
    pub fn manual(now_ms: u64) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(now_ms)))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that may ask the machine for the time")]
    pub fn now_ms(&self) -> u64 {
        match self {
            // A machine whose clock stands before 1970 has no usable time: 0, not a panic.
            Self::System => std::time::SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Self::Manual(now_ms) => now_ms.load(Ordering::SeqCst),
        }
    }

    /// Set a manual clock; the machine's clock stays as it is.
    pub fn set(&self, to_ms: u64) {
        if let Self::Manual(now_ms) = self {
            now_ms.store(to_ms, Ordering::SeqCst);
        }
    }
}

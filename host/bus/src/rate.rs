//! A token bucket: so many a second, with a burst of one second's worth.

use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub(crate) fn new(per_second: f64) -> Self {
        Self { per_second, level: Mutex::new((per_second, Instant::now())) }
    }

    /// Take a token, if there is one.
    pub(crate) fn take(&self) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.saturating_duration_since(level.1).as_secs_f64() * self.per_second;
        *level = ((level.0 + earned).min(self.per_second), now);
        let enough = level.0 >= 1.0;
        if enough {
            level.0 -= 1.0;
        }
        enough
    }
}

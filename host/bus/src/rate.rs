//! A token bucket: so many a second, with a burst of one second's worth, and of one at least.

use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub(crate) fn new(per_second: f64) -> Self {
        let burst = per_second.max(1.0);
        Self { per_second, burst, level: Mutex::new((burst, Instant::now())) }
    }

    /// Take a token, if there is one.
    pub(crate) fn take(&self) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.saturating_duration_since(level.1).as_secs_f64() * self.per_second;
        *level = ((level.0 + earned).min(self.burst), now);
        let enough = level.0 >= 1.0;
        if enough {
            level.0 -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_below_one_a_second_still_lets_one_pass() {
        let bucket = Bucket::new(1e-6);
        assert!(bucket.take(), "the first has not to wait for eleven days");
        assert!(!bucket.take());
    }
}

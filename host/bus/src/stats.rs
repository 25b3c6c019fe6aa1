//! What is counted of one plugin.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counts, kept as a plugin is asked.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    starts: AtomicU64,
    events: AtomicU64,
    failures: AtomicU64,
    refusals: AtomicU64,
    turned_away: AtomicU64,
    /// Microseconds; two digits are enough. Made with the first event.
    times: Mutex<Option<Histogram<u64>>>,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Counts {
    /// Events that it was asked about.
    pub events: u64,
    /// Times that it broke or was too late.
    pub errors: u64,
    /// Times that it answered with an error of the request's.
    pub refusals: u64,
    /// Events that its full queue turned away.
    pub turned_away: u64,
    /// Times that it was made anew.
    pub restarts: u64,
    /// Half of its answers took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 95 of 100.
    pub p95_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
}

/// How long answers took, in classes: each counted once, in the first whose bound it does not exceed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Times {
    /// One for each bound, and a last one for what took longer.
    pub counts: Vec<u64>,
    /// The sum of all, in seconds.
    pub sum_seconds: f64,
}

impl Stats {
    pub(crate) fn asked(&self, took: Duration) {
        self.events.fetch_add(1, Ordering::Relaxed);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let times = times.get_or_insert_with(empty_histogram);
        times.saturating_record(u64::try_from(took.as_nanos() / 100).unwrap_or(u64::MAX));
    }

    pub(crate) fn started(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        #[allow(clippy::cast_precision_loss, reason = "times far below 2^52 units")]
        let ms =
            |quantile: f64| times.as_ref().map_or(0.0, |times| times.value_at_quantile(quantile) as f64 / 10_000.0);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            events: get(&self.events),
            errors: get(&self.failures),
            refusals: get(&self.refusals),
            turned_away: get(&self.turned_away),
            restarts: get(&self.starts).saturating_sub(1),
            p50_ms: ms(0.5),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
        }
    }
}

impl Stats {
    /// The times in classes with these upper bounds, in seconds and ascending; true to a hundredth, as they are kept.
    pub(crate) fn times(&self, bounds: &[f64]) -> Times {
        let mut told = Times { counts: vec![0; bounds.len() + 1], sum_seconds: 0.0 };
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in times.iter().flat_map(Histogram::iter_recorded) {
            #[allow(clippy::cast_precision_loss, reason = "times far below 2^52 units")]
            let seconds = kept.value_iterated_to() as f64 / 1e7;
            let count = kept.count_at_value();
            told.counts[bounds.partition_point(|bound| *bound < seconds)] += count;
            #[allow(clippy::cast_precision_loss, reason = "fewer events than 2^52")]
            let sum = seconds * count as f64;
            told.sum_seconds += sum;
        }
        told
    }
}

/// From 0.1 µs to 100 s, in units of 0.1 µs.
fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000, 2)
        .unwrap_or_else(|_| Histogram::new(2).expect("two digits are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_classes() {
        let stats = Stats::default();
        assert_eq!(stats.times(&[0.1]), Times { counts: vec![0, 0], sum_seconds: 0.0 });
        for ms in [1, 1, 20, 3_000] {
            stats.asked(Duration::from_millis(ms));
        }
        let times = stats.times(&[0.01, 0.1, 1.0]);
        assert_eq!(times.counts, [2, 1, 0, 1]);
        assert!((times.sum_seconds / 3.022 - 1.0).abs() < 0.01, "{times:?}");
    }
}

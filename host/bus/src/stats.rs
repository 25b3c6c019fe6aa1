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

/// From 0.1 µs to 100 s, in units of 0.1 µs.
fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000, 2)
        .unwrap_or_else(|_| Histogram::new(2).expect("two digits are allowed"))
}

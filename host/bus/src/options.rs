//! The limits of a bus, all of them named. Defaults are those of the older daemon where it had one.

use std::time::Duration;

/// What a bus may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How many events `system:event_history` can look back (`max_event_history`).
    pub history_events_max: usize,
    /// The most bytes of data that the history keeps of one event; a longer one is kept without it.
    pub history_data_bytes_max: usize,
    /// How long a handler has (`event_timeout`).
    pub event_timeout: Duration,
    /// How many events wait for one plugin at most (`event_queue_size`); one more is refused, and the sender is told.
    pub queue_events_max: usize,
    /// How deep a chain of events may be, each made while the one before it was handled.
    pub chain_depth_max: usize,
    /// Events a second that one plugin may emit or call, with a burst of one second's worth.
    pub plugin_events_per_second: f64,
    /// Failures in a row after which a plugin's circuit opens.
    pub failures_max: u32,
    /// How long a plugin rests after its first failure; doubled with each failure that follows.
    pub backoff_first: Duration,
    /// The longest it rests, and how long an open circuit stays open before one event tries it.
    pub backoff_max: Duration,
    /// How long a plugin has to shut down.
    pub shutdown_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_events_max: 1_000,
            history_data_bytes_max: 64 << 10,
            event_timeout: Duration::from_secs(30),
            queue_events_max: 10_000,
            chain_depth_max: 8,
            plugin_events_per_second: 10_000.0,
            failures_max: 5,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

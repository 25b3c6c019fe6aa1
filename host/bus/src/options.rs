//! The limits of a bus, all of them named. Defaults are those of the older daemon where it had one.

use std::time::Duration;

/// What a bus may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How many events `system:event_history` can look back (`max_event_history`).
    pub history_events_max: usize,
    /// The most bytes of data, in memory, that the history keeps of one event; a larger one is kept without them.
    pub history_data_bytes_max: usize,
    /// How long a handler has (`event_timeout`).
    pub event_timeout: Duration,
    /// How many events wait for one plugin at most (`event_queue_size`); one more is refused, and the sender is told.
    pub queue_events_max: usize,
    /// How many bytes of data wait for one plugin at most, in events that nobody waits for: one more event is refused,
    /// and the sender is told.
    pub queue_bytes_max: usize,
    /// How long a plugin's mailbox may collect events before the plugin is told (`batch_timeout`); 0: not at all.
    ///
    /// Only after a burst, which is when many came at once and all were told: then the plugin is told again when many
    /// have come, or when this time is up. What comes to a quiet mailbox is told at once, and so is, always, an event
    /// that the plugin owns. An answer never waits for this: what somebody waits for goes past the mailboxes.
    pub batch_timeout: Duration,
    /// How many plugins are told from their mailboxes at the same time (`worker_threads`). One that takes longer than a
    /// moment for an event makes place for the next, so that none waits for another that hangs.
    pub deliveries_max: usize,
    /// Whether every event is logged, at `info`, with its id, sender and correlation id (`log_events`).
    pub log_events: bool,
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
            queue_bytes_max: 64 << 20,
            batch_timeout: Duration::from_millis(100),
            deliveries_max: 4,
            log_events: false,
            chain_depth_max: 8,
            plugin_events_per_second: 10_000.0,
            failures_max: 5,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

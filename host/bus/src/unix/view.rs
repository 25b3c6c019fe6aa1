//! What an operator sees of the sockets: how many are connected, what waits, and who still uses commands.

use super::hub::Hub;
use super::{Mode, legacy};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A look at served sockets. Cheap to clone.
#[derive(Clone)]
pub struct UnixView(Arc<Hub>);

/// The counts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixCounts {
    /// Which frames are taken.
    pub mode: Mode,
    /// Connections that are open, over all sockets.
    pub connections: usize,
    /// Agents that are connected.
    pub agents: usize,
    /// Messages that wait for agents that are not.
    pub undelivered: usize,
    /// Messages that were dropped, because too many waited.
    pub dropped: u64,
    /// Events that watchers were too slow to see.
    pub watchers_missed: u64,
    /// Uses of each command of the older daemon, in every mode; `other` are commands that there never were.
    pub legacy: Vec<(&'static str, u64)>,
}

impl UnixView {
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        Self(Arc::clone(hub))
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> UnixCounts {
        self.0.counts()
    }

    /// What `transport:status` answers.
    #[must_use]
    pub fn status(&self) -> Value {
        self.0.status()
    }
}

/// What the hub counts without its lock.
#[derive(Debug)]
pub(super) struct Tally {
    connections: AtomicUsize,
    missed: AtomicU64,
    legacy: Vec<AtomicU64>,
}

/// One open connection, as long as it lives.
pub(super) struct Open<'a>(&'a Tally);

impl Default for Tally {
    fn default() -> Self {
        let legacy = legacy::names().map(|_| AtomicU64::new(0)).collect();
        Self { connections: AtomicUsize::new(0), missed: AtomicU64::new(0), legacy }
    }
}

impl Tally {
    pub(super) fn opened(&self) -> Open<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn count_missed(&self, missed: u64) {
        self.missed.fetch_add(missed, Ordering::Relaxed);
    }

    pub(super) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    pub(super) fn count_legacy(&self, command: &str) {
        self.legacy[legacy::place(command)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn legacy(&self) -> Vec<(&'static str, u64)> {
        legacy::names().zip(&self.legacy).map(|(name, uses)| (name, uses.load(Ordering::Relaxed))).collect()
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

//! One plugin as operators see it.

use crate::plugin::{Capabilities, Metadata};
use crate::slot::{PluginState, Slot};
use crate::stats::Counts;
use serde::Serialize;
use serde_json::{Value, json};

/// One plugin, for an operator.
#[derive(Debug, Clone, Serialize)]
pub struct PluginStatus {
    /// What it says of itself.
    pub metadata: Metadata,
    /// What it does and needs.
    pub capabilities: Capabilities,
    /// The digest of its code.
    pub digest: String,
    /// What it is doing.
    pub state: PluginState,
    /// Events that wait for it or are with it.
    pub queue_depth: usize,
    /// What it holds in memory; absent while it is at work.
    pub memory_bytes: Option<u64>,
    /// Why it failed last; empty if it never did.
    pub last_failure: String,
    /// What was counted of it.
    #[serde(flatten)]
    pub counts: Counts,
}

impl PluginStatus {
    /// As operators are told it.
    #[must_use]
    pub fn shown(&self) -> Value {
        json!({
            "version": self.metadata.version,
            "status": self.state,
            "namespaces": self.capabilities.event_namespaces,
            "description": self.metadata.description,
            "capabilities": self.capabilities,
            "digest": self.digest,
            "state": self.state,
            "priority": self.metadata.priority,
            "restarts": self.counts.restarts,
            "p50_ms": self.counts.p50_ms,
            "p95_ms": self.counts.p95_ms,
            "p99_ms": self.counts.p99_ms,
            "errors": self.counts.errors,
            "refusals": self.counts.refusals,
            "turned_away": self.counts.turned_away,
            "events": self.counts.events,
            "queue_depth": self.queue_depth,
            "memory_bytes": self.memory_bytes,
            "last_failure": self.last_failure,
        })
    }
}

/// How a plugin is now.
pub(crate) fn status(slot: &Slot) -> PluginStatus {
    PluginStatus {
        metadata: slot.registration.metadata.clone(),
        capabilities: slot.registration.capabilities.clone(),
        digest: slot.registration.digest.clone(),
        state: slot.state(),
        queue_depth: slot.depth(),
        memory_bytes: slot.memory_bytes(),
        last_failure: slot.last_failure(),
        counts: slot.stats.counts(),
    }
}

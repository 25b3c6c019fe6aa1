//! What each component of the fleet is doing, as clients and operators read it.

use crate::table::Tier;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// What a component is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It answers `/health`.
    Healthy,
    /// It is not started, and is not meant to be.
    NotStarted,
    /// It was started, and has not answered `/health` yet.
    Starting,
    /// An operator stopped it.
    Stopped,
    /// It does not answer `/health`, or answers that it is not well.
    Unhealthy,
    /// It could not be healed within its budget: it stays down until an operator resets it.
    Failed,
}

impl Status {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::NotStarted => "not_started",
            Self::Starting => "starting",
            Self::Stopped => "stopped",
            Self::Unhealthy => "unhealthy",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One line of the registry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its port; 0 before it has one.
    pub port: u16,
    /// Its tier.
    pub tier: Tier,
    /// Its process, if it is one of ours and runs.
    pub pid: Option<u32>,
    /// What it is doing.
    pub status: Status,
    /// Whether the fleet is down without it.
    pub required: bool,
    /// Where its health is asked; empty before it has a port.
    pub health_url: String,
    /// Where its metrics are; empty before it has a port.
    pub metrics_url: String,
    /// When it was last asked.
    #[serde(serialize_with = "maybe_text")]
    pub last_check: Option<Timestamp>,
    /// Checks that failed in a row.
    pub failures: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// Since when its status is what it is.
    #[serde(serialize_with = "text")]
    pub since: Timestamp,
    /// Why it is not well; empty when it is.
    pub detail: String,
}

impl Entry {
    /// Whether requests can be sent to it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.status, Status::Healthy | Status::Unhealthy | Status::Starting)
    }
}

/// A time as RFC 3339.
pub(crate) fn text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[allow(clippy::ref_option, reason = "serde gives a field so")]
fn maybe_text<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

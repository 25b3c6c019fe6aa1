//! What is written down: alerts, notifications on their way, silences.

use super::matching::{Matcher, Severity, Step, Traits};
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `counters`, and `routes` where operators put their own.
pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// Alerts by number.
pub(super) const ALERTS: TableDefinition<'_, u64, &str> = TableDefinition::new("alerts");
/// The last alert of a digest of what makes two alerts the same.
pub(super) const KEYS: TableDefinition<'_, &str, u64> = TableDefinition::new("keys");
/// Notifications on their way, by receiver and number.
pub(super) const PENDING: TableDefinition<'_, (&str, u64), &str> = TableDefinition::new("pending");
/// Silences by number.
pub(super) const SILENCES: TableDefinition<'_, u64, &str> = TableDefinition::new("silences");

/// Notifications that an alert remembers: the last so many.
const NOTIFICATIONS_MAX: usize = 50;

/// What must never be given twice.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    /// Random, so that the notifications of two stores differ.
    pub(super) store: String,
    pub(super) alert: u64,
    pub(super) notification: u64,
    pub(super) silence: u64,
}

/// How an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Open,
    Acknowledged,
    Resolved,
}

/// Who did something, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Act {
    pub(super) by: String,
    pub(super) at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// Something that people must know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Alert {
    pub(super) id: String,
    pub(super) status: Status,
    pub(super) severity: Severity,
    pub(super) source: String,
    pub(super) name: String,
    /// As it was said last.
    pub(super) message: String,
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dedupe_key: Option<String>,
    /// Who raised it first: who called, whatever `source` says.
    pub(super) by: String,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// How often it was raised.
    pub(super) count: u64,
    /// The route that was taken.
    pub(super) route: String,
    pub(super) steps: Vec<Step>,
    /// The next step.
    pub(super) step: usize,
    /// When that is taken.
    pub(super) due_ms: Option<u64>,
    /// Why it will be.
    pub(super) reason: Reason,
    /// The silence that keeps it from being told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) silence: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged: Option<Act>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resolved: Option<Act>,
    /// Who was told, or is to be.
    pub(super) told: BTreeSet<String>,
    pub(super) notifications: Vec<Told>,
    /// By which the same is known again.
    pub(super) digest: String,
}

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reason {
    Opened,
    Raised,
    Escalated,
    /// It was resolved, and came again.
    Reopened,
    Resolved,
}

/// A notification as its alert remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) receiver: String,
    pub(super) reason: Reason,
    pub(super) state: Delivery,
    pub(super) tries: u32,
    pub(super) at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// How a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Delivery {
    Pending,
    Delivered,
    GivenUp,
    /// Too many waited for its receiver.
    Dropped,
}

/// A notification on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) id: String,
    pub(super) alert: u64,
    /// What the receiver is sent, whole: each try sends the same.
    pub(super) body: String,
    pub(super) tries: u32,
    pub(super) next_ms: u64,
}

/// Alerts that nobody is to be told of for a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Silence {
    pub(super) id: String,
    #[serde(rename = "match")]
    pub(super) matcher: Matcher,
    pub(super) until_ms: u64,
    pub(super) by: String,
    pub(super) why: String,
    pub(super) created_ms: u64,
}

impl Alert {
    pub(super) fn traits(&self) -> Traits<'_> {
        Traits { severity: self.severity, source: &self.source, name: &self.name, labels: &self.labels }
    }

    pub(super) fn is_over(&self) -> bool {
        self.status == Status::Resolved
    }

    /// Remember a notification, and forget the oldest that is done where there are too many.
    pub(super) fn remember(&mut self, told: Told) {
        if self.notifications.len() >= NOTIFICATIONS_MAX {
            let done = self.notifications.iter().position(|told| told.state != Delivery::Pending);
            self.notifications.remove(done.unwrap_or(0));
        }
        self.notifications.push(told);
    }
}

/// The number in `a17` or `s3`.
pub(super) fn number(letter: char, id: &str) -> Option<u64> {
    let digits = id.strip_prefix(letter)?;
    let number = digits.parse().ok()?;
    // `a017` and `a+17` are not names of the same.
    (format!("{letter}{number}") == id).then_some(number)
}

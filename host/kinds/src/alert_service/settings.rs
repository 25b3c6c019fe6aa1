//! What an operator may set of an alert service.

use super::matching::{Route, Step, check_steps};
use crate::kind::{SettingsError, settings};
use crate::webhook::WebhookSettings;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The receiver that is always there.
pub(super) const LOG: &str = "log";

/// The settings of an alert service.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Who can be told, by name. `log` is always among them.
    pub(super) receivers: BTreeMap<String, Receiver>,
    /// Whom to tell of which alerts, until operators put others.
    pub(super) routes: Vec<Route>,
    /// Whom to tell of what no route matches.
    pub(super) default_route: Vec<Step>,
    /// So long after an alert was resolved, the same again opens that one again; later it is a new one.
    pub(super) dedupe_window_ms: u64,
    /// Alerts that are kept, the resolved ones included.
    pub(super) alerts_max: usize,
    /// Alerts that are not resolved.
    pub(super) open_max: usize,
    /// Of these, those of one sender that is no part of the fleet.
    pub(super) open_per_sender_max: usize,
    pub(super) silences_max: usize,
    pub(super) routes_max: usize,
    pub(super) receivers_max: usize,
    /// Notifications that wait for one receiver.
    pub(super) pending_max: u64,
    /// After so many tries a notification is given up.
    pub(super) tries_max: u32,
    /// The pause after the first try; doubled with each that follows.
    pub(super) pause_ms: u64,
    pub(super) pause_ms_max: u64,
    pub(super) message_bytes_max: usize,
    pub(super) labels_max: usize,
    pub(super) page_max: usize,
    /// Changes that wait to be written.
    pub(super) queue_max: usize,
    /// Bytes in them.
    pub(super) queue_bytes_max: usize,
}

/// Somebody who can be told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Receiver {
    /// The kernel's log.
    Log,
    /// A program that takes JSON.
    Webhook(WebhookSettings),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            receivers: BTreeMap::new(),
            routes: Vec::new(),
            default_route: vec![Step { receivers: vec![LOG.to_owned()], after_ms: 0 }],
            dedupe_window_ms: 300_000,
            alerts_max: 10_000,
            open_max: 5_000,
            open_per_sender_max: 500,
            silences_max: 200,
            routes_max: 100,
            receivers_max: 64,
            pending_max: 1_000,
            tries_max: 12,
            pause_ms: 1_000,
            pause_ms_max: 300_000,
            message_bytes_max: 8 << 10,
            labels_max: 32,
            page_max: 500,
            queue_max: 1_024,
            queue_bytes_max: 16 << 20,
        }
    }
}

impl Settings {
    /// Read and check them.
    pub(super) fn read(value: &Value) -> Result<Self, SettingsError> {
        let mut read: Self = settings(value)?;
        read.receivers.entry(LOG.to_owned()).or_insert(Receiver::Log);
        read.check().map_err(SettingsError)?;
        Ok(read)
    }

    fn check(&self) -> Result<(), String> {
        let (day_ms, message) = (24 * 3_600_000, self.message_bytes_max as u64);
        crate::ranges::check(&[
            ("dedupe_window_ms", self.dedupe_window_ms, 0, 30 * day_ms),
            ("alerts_max", self.alerts_max as u64, self.open_max as u64 + 1, 1_000_000),
            ("open_max", self.open_max as u64, 1, 100_000),
            ("open_per_sender_max", self.open_per_sender_max as u64, 1, self.open_max as u64),
            ("silences_max", self.silences_max as u64, 0, 10_000),
            ("routes_max", self.routes_max as u64, self.routes.len() as u64, 10_000),
            ("receivers_max", self.receivers_max as u64, self.receivers.len() as u64, 1_000),
            ("pending_max", self.pending_max, 1, 100_000),
            ("tries_max", self.tries_max.into(), 1, 1_000),
            ("pause_ms", self.pause_ms, 1, self.pause_ms_max),
            ("pause_ms_max", self.pause_ms_max, 1, day_ms),
            ("message_bytes_max", message, 1, 1 << 20),
            ("labels_max", self.labels_max as u64, 0, 256),
            ("page_max", self.page_max as u64, 1, 10_000),
            ("queue_max", self.queue_max as u64, 1, 100_000),
            ("queue_bytes_max", self.queue_bytes_max as u64, message, 1 << 30),
        ])?;
        for (name, receiver) in &self.receivers {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
                return Err(format!("receivers: the name {name:?} may have 1 to 64 letters, digits, and _ - . only"));
            }
            match receiver {
                Receiver::Log => {}
                Receiver::Webhook(webhook) => {
                    webhook.check().map_err(|why| format!("receivers.{name}.webhook.{why}"))?;
                }
            }
        }
        self.check_routes(&self.routes).map_err(|why| format!("routes.{why}"))?;
        check_steps(&self.default_route, |name| self.receivers.contains_key(name))
            .map_err(|why| format!("default_route.{why}"))
    }

    /// Whether these routes can be followed.
    pub(super) fn check_routes(&self, routes: &[Route]) -> Result<(), String> {
        if routes.len() > self.routes_max {
            return Err(format!("{} are more than {} (routes_max)", routes.len(), self.routes_max));
        }
        for (at, route) in routes.iter().enumerate() {
            if route.name.len() > 128 {
                return Err(format!("{at}.name: it has {} bytes, at most 128 are allowed", route.name.len()));
            }
            route.matcher.check().map_err(|why| format!("{at}.match: {why}"))?;
            check_steps(&route.steps, |name| self.receivers.contains_key(name)).map_err(|why| format!("{at}.{why}"))?;
        }
        Ok(())
    }

    /// Alerts that may be unresolved before somebody's is refused: the last tenth is for the fleet's own, so that nobody's
    /// flood keeps Guardian from telling people.
    pub(super) fn open_for(&self, of_the_fleet: bool) -> usize {
        let most = self.open_max;
        let kept = if of_the_fleet { 0 } else { most.div_ceil(10).min(most - 1) };
        most - kept
    }

    /// The pause after so many tries.
    pub(super) fn pause_ms(&self, tries: u32) -> u64 {
        let doubled = self.pause_ms.saturating_mul(1_u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX));
        doubled.min(self.pause_ms_max)
    }
}

//! The keys of the configuration file that are about operating a host: its checks, its evidence,
//! and whom to alert.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How bad it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// Good to know: something recovered.
    #[default]
    #[serde(alias = "info")]
    Info,
    /// Somebody should look.
    #[serde(alias = "warning")]
    Warning,
    /// Somebody must look now.
    #[serde(alias = "critical")]
    Critical,
}

/// A webhook that is told what befalls the host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertFile {
    /// Where alerts are posted, `http://` or `https://`.
    pub url: String,
    /// Alerts below this are not sent here. Default INFO: all are.
    #[serde(default)]
    pub severity_min: Severity,
    /// Headers of each request, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// With it, `Gavel-Signature: sha256=HEX` holds the HMAC-SHA256 of the body under this text.
    #[serde(default)]
    pub secret: Option<String>,
}

/// Bounds of the operator's plays. Every one can be set under `operations`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperationsFile {
    /// Time that an emergency halt grants to the export of the evidence before it; then the halt
    /// goes first. Default 10,000.
    pub halt_export_ms: u64,
    /// Without a decision for longer than this, `recent_activity` fails. Default 24.
    pub recent_activity_hours: u64,
    /// With less room in the data folder, `disk_space` fails. Default 512 MiB.
    pub min_free_bytes: u64,
    /// Bytes of a ledger that one health check verifies at most; it goes on where the last one
    /// stopped. Default 256 MiB.
    pub max_verify_bytes: u64,
    /// A longer ledger is verified from its beginning again after this time. Default 24.
    pub verify_again_hours: u64,
    /// How often the host looks for what must be alerted, in milliseconds. Default 1,000.
    pub watch_every_ms: u64,
    /// Errors and operators' events that one investigation lists, and names that it counts apart.
    /// Default 1,000.
    pub max_findings: usize,
    /// Plays that read a whole ledger at the same time; more wait. Default 2.
    pub max_readers: usize,
    /// Alerts that wait for one webhook; more are dropped, and that is logged. Default 1,000.
    pub max_alerts: usize,
    /// Tries of one alert, after which it is given up. Default 8.
    pub alert_tries: u32,
    /// Time for a webhook's answer, in milliseconds. Default 10,000.
    pub alert_timeout_ms: u64,
    /// Time before the second try, in milliseconds; it doubles with each. Default 500.
    pub alert_backoff_ms: u64,
}

impl Default for OperationsFile {
    fn default() -> Self {
        Self {
            halt_export_ms: 10_000,
            recent_activity_hours: 24,
            min_free_bytes: 512 << 20,
            max_verify_bytes: 256 << 20,
            verify_again_hours: 24,
            watch_every_ms: 1_000,
            max_findings: 1_000,
            max_readers: 2,
            max_alerts: 1_000,
            alert_tries: 8,
            alert_timeout_ms: 10_000,
            alert_backoff_ms: 500,
        }
    }
}

impl OperationsFile {
    /// The longest wait between two tries of an alert.
    const BACKOFF_MAX: Duration = Duration::from_mins(1);

    /// How long to wait before the try with this number, counted from 1 for the second.
    #[must_use]
    pub fn backoff(&self, tries_made: u32) -> Duration {
        let factor = 2_u64.saturating_pow(tries_made.saturating_sub(1));
        Duration::from_millis(self.alert_backoff_ms.saturating_mul(factor)).min(Self::BACKOFF_MAX)
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("max_verify_bytes", self.max_verify_bytes),
            ("watch_every_ms", self.watch_every_ms),
            ("max_findings", self.max_findings as u64),
            ("max_readers", self.max_readers as u64),
            ("max_alerts", self.max_alerts as u64),
            ("alert_tries", u64::from(self.alert_tries)),
            ("alert_timeout_ms", self.alert_timeout_ms),
        ];
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("operations.{name} is 0: give at least 1")),
            None => Ok(()),
        }
    }
}

impl AlertFile {
    pub(super) fn validate(&self) -> Result<(), String> {
        let url = reqwest::Url::parse(&self.url).map_err(|why| format!("alerts: url `{}`: {why}", self.url))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(format!("alerts: url `{}`: use http:// or https://", self.url));
        }
        for (name, value) in &self.headers {
            let named = reqwest::header::HeaderName::try_from(name).is_ok();
            if !named || reqwest::header::HeaderValue::try_from(value).is_err() {
                return Err(format!("alerts: header `{name}` of {} is not one that HTTP can carry", self.url));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_of_an_alert_come_ever_later_up_to_a_minute() {
        let file = OperationsFile::default();
        let waits: Vec<u128> = [1, 2, 3, 8, 60].map(|made| file.backoff(made).as_millis()).into();
        assert_eq!(waits, [500, 1_000, 2_000, 60_000, 60_000]);
    }
}

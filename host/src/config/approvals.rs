//! The keys of the configuration file that are about the approval queue.

use serde::Deserialize;

/// How long anything may wait for a human, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalsFile {
    /// Time from the request until its approval is void, approved or not, in milliseconds. Default 15 minutes.
    pub expiry_ms: u64,
    /// Approvals of one kernel that are neither used nor expired; a request that would be one more is only denied.
    /// Default 1,000.
    pub waiting_max: usize,
    /// Of those: approvals of one actor. Default 100.
    pub waiting_per_actor_max: usize,
    /// The longest time that a caller may wait for a word in one call, in milliseconds. Default 25,000.
    pub wait_ms_max: u64,
    /// Callers of one kernel that wait so at the same time; more are answered at once. Default 256.
    pub waiters_max: usize,
    /// Whether a key may approve what it asked for itself. Default no.
    pub self_approval: bool,
    /// With it, alerts hold links by which an approval is approved or rejected without a key. Default: none do.
    pub webhook_secret: Option<String>,
    /// Who decides by such a link, for the record: `webhook:NAME`. Default `webhook`.
    pub webhook_name: String,
    /// Where this server is reached from outside, for the links in alerts. Default: links are paths.
    pub public_url: Option<String>,
}

impl Default for ApprovalsFile {
    fn default() -> Self {
        Self {
            expiry_ms: 15 * 60 * 1000,
            waiting_max: 1_000,
            waiting_per_actor_max: 100,
            wait_ms_max: 25_000,
            waiters_max: 256,
            self_approval: false,
            webhook_secret: None,
            webhook_name: "webhook".into(),
            public_url: None,
        }
    }
}

/// A week: what was asked longer ago is not what is wanted now.
const EXPIRY_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// All of it is kept in memory.
const WAITING_MAX: usize = 100_000;
/// Five minutes.
const WAIT_MS_MAX: u64 = 300_000;
/// Bytes of a secret that cannot be guessed.
const SECRET_BYTES_MIN: usize = 32;

impl ApprovalsFile {
    pub(super) fn validate(&self) -> Result<(), String> {
        let within = [
            ("expiry_ms", self.expiry_ms, EXPIRY_MS_MAX),
            ("waiting_max", self.waiting_max as u64, WAITING_MAX as u64),
            ("waiting_per_actor_max", self.waiting_per_actor_max as u64, WAITING_MAX as u64),
            ("wait_ms_max", self.wait_ms_max, WAIT_MS_MAX),
            ("waiters_max", self.waiters_max as u64, WAITING_MAX as u64),
        ];
        if let Some((name, value, max)) = within.iter().find(|(_, value, max)| *value == 0 || value > max) {
            return Err(format!("approvals.{name} is {value}: give 1 to {max}"));
        }
        if let Some(bytes) = self.webhook_secret.as_ref().map(String::len).filter(|bytes| *bytes < SECRET_BYTES_MIN) {
            return Err(format!("approvals.webhook_secret has {bytes} bytes: give at least {SECRET_BYTES_MIN}"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=64).contains(&self.webhook_name.len()) || !self.webhook_name.bytes().all(plain) {
            let name = &self.webhook_name;
            return Err(format!("approvals.webhook_name `{name}`: use 1 to 64 letters, digits, `.`, `_` or `-`"));
        }
        if let Some(url) = &self.public_url {
            let parsed = reqwest::Url::parse(url).map_err(|why| format!("approvals.public_url `{url}`: {why}"))?;
            if !["http", "https"].contains(&parsed.scheme()) {
                return Err(format!("approvals.public_url `{url}`: use http:// or https://"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_told_with_the_range() {
        assert_eq!(ApprovalsFile::default().validate(), Ok(()));
        let told = |change: fn(&mut ApprovalsFile)| {
            let mut file = ApprovalsFile::default();
            change(&mut file);
            file.validate().unwrap_err()
        };
        assert_eq!(told(|file| file.expiry_ms = 0), "approvals.expiry_ms is 0: give 1 to 604800000");
        assert_eq!(told(|file| file.waiting_max = 100_001), "approvals.waiting_max is 100001: give 1 to 100000");
        let secret = told(|file| file.webhook_secret = Some("short".into()));
        assert_eq!(secret, "approvals.webhook_secret has 5 bytes: give at least 32");
        assert!(told(|file| file.webhook_name = "a b".into()).contains("`a b`"));
        assert!(told(|file| file.public_url = Some("ftp://x".into())).contains("http://"));
    }
}

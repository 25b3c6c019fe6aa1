//! The keys of `bus.nats`: where the server is, who this host is there, what goes out, what comes in, and every limit.
//!
//! Secrets are never in the configuration: it names files that only their owner may read.

use crate::signing::PublicKey;
use gavel_bus::Pattern;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Hosts that one host may listen to.
const PEERS_MAX: usize = 256;
/// The longest name of a host.
const NAME_BYTES_MAX: usize = 64;

/// The bridge to a NATS server with JetStream. Without it there is none.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsFile {
    /// The server, as `nats://HOST:PORT` or `tls://HOST:PORT`; several of one cluster are separated by commas.
    pub url: String,
    /// This host's name among its peers: lower-case letters, digits, `-` and `_`.
    pub host: String,
    /// Events that go out. Default: none.
    #[serde(default)]
    pub publish: Vec<Pattern>,
    /// Events that may come in. Default: none.
    #[serde(default)]
    pub accept: Vec<Pattern>,
    /// Whose events may come in, each with its key. Default: nobody's.
    #[serde(default)]
    pub peers: Vec<PeerFile>,
    /// The stream, made if there is none. Default `GAVEL`.
    #[serde(default = "stream")]
    pub stream: String,
    /// What all subjects begin with. Default `gavel.bus`.
    #[serde(default = "subject_prefix")]
    pub subject_prefix: String,
    /// What the names of this host's durable consumers begin with. Default `gavel`.
    #[serde(default = "consumer")]
    pub consumer: String,
    /// A file of NATS credentials (`.creds`).
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// Sign in under this name, with `password_file`.
    #[serde(default)]
    pub user: Option<String>,
    /// The file of the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The file of a token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A PEM file of the authorities that the server's certificate may be of. Default: the system's.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// The limits.
    #[serde(default)]
    pub limits: NatsLimits,
}

/// A host whose events may come in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerFile {
    /// Its name.
    pub name: String,
    /// Its public key: `ed25519:HEX`, as it stands in the file `bus/nats.pub` of its data folder.
    pub key: PublicKey,
}

/// The limits of the bridge.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsLimits {
    /// How long the stream keeps a message, in seconds, where this host makes the stream. Default 604,800: a week.
    pub stream_max_age_s: u64,
    /// Bytes that the stream keeps, where this host makes it; then the oldest goes. Default 1 GiB.
    pub stream_max_bytes: u64,
    /// How long the server knows a message's id again, in seconds, where this host makes the stream. Default 120.
    pub duplicate_window_s: u64,
    /// An event older than this is not handled, in seconds. Default 604,800: a week.
    pub max_event_age_s: u64,
    /// After so many seconds the server sends again what was not acknowledged. Default 60.
    pub ack_wait_s: u64,
    /// How often an event is tried whose handler breaks or is late; then it is given up. Default 5.
    pub max_attempts: u32,
    /// The pause before it is tried again, in milliseconds; doubled each time. Default 1,000.
    pub retry_first_ms: u64,
    /// The longest such pause. Default 60,000.
    pub retry_max_ms: u64,
    /// Bytes of one message. Default 1,000,000, below what a NATS server takes by default.
    pub max_message_bytes: usize,
    /// Messages that were sent and not acknowledged. Default 64.
    pub publish_window: usize,
    /// Messages of one peer that are here and not acknowledged. Default 256.
    pub receive_window: usize,
    /// How often an event, with all that it causes, may go from host to host. Default 3.
    pub max_hops: u32,
    /// Events that wait for the server; one more is not kept. Default 100,000.
    pub outbox_max_events: u64,
    /// Bytes of them. Default 256 MiB.
    pub outbox_max_bytes: u64,
    /// Events on their way to the outbox's file. Default 1,024.
    pub outbox_max_waiting: usize,
    /// How long a connection may take to be made, in milliseconds. Default 5,000.
    pub connect_timeout_ms: u64,
    /// How long the server may take to answer, in milliseconds. Default 10,000.
    pub answer_timeout_ms: u64,
    /// The pause before the bridge connects again, in milliseconds; doubled each time. Default 100.
    pub reconnect_first_ms: u64,
    /// The longest such pause. Default 10,000.
    pub reconnect_max_ms: u64,
}

impl Default for NatsLimits {
    fn default() -> Self {
        Self {
            stream_max_age_s: 7 * 86_400,
            stream_max_bytes: 1 << 30,
            duplicate_window_s: 120,
            max_event_age_s: 7 * 86_400,
            ack_wait_s: 60,
            max_attempts: 5,
            retry_first_ms: 1_000,
            retry_max_ms: 60_000,
            max_message_bytes: 1_000_000,
            publish_window: 64,
            receive_window: 256,
            max_hops: 3,
            outbox_max_events: 100_000,
            outbox_max_bytes: 256 << 20,
            outbox_max_waiting: 1_024,
            connect_timeout_ms: 5_000,
            answer_timeout_ms: 10_000,
            reconnect_first_ms: 100,
            reconnect_max_ms: 10_000,
        }
    }
}

fn stream() -> String {
    "GAVEL".to_owned()
}

fn subject_prefix() -> String {
    "gavel.bus".to_owned()
}

fn consumer() -> String {
    "gavel".to_owned()
}

impl NatsFile {
    /// Check what serde cannot.
    ///
    /// # Errors
    /// What is wrong, with the key.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_names()?;
        self.validate_server()?;
        if self.publish.is_empty() && self.accept.is_empty() {
            return Err("bus.nats: neither `publish` nor `accept` names an event, so nothing would go or come".into());
        }
        if self.accept.is_empty() != self.peers.is_empty() {
            return Err("bus.nats: `accept` and `peers` belong together: give both or none".into());
        }
        if self.peers.len() > PEERS_MAX {
            return Err(format!("bus.nats.peers: there are {}, at most {PEERS_MAX} are possible", self.peers.len()));
        }
        for (at, peer) in self.peers.iter().enumerate() {
            check_name(&format!("bus.nats.peers[{at}].name"), &peer.name)?;
            if peer.name == self.host {
                return Err(format!("bus.nats.peers[{at}].name is '{}', which is this host itself", peer.name));
            }
            if self.peers[..at].iter().any(|other| other.name == peer.name) {
                return Err(format!("bus.nats.peers[{at}].name is '{}' for the second time", peer.name));
            }
        }
        self.limits.validate()
    }

    fn validate_names(&self) -> Result<(), String> {
        check_name("bus.nats.host", &self.host)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        for (key, name) in [("stream", &self.stream), ("consumer", &self.consumer)] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
                return Err(format!(
                    "bus.nats.{key} is {name:?}: give 1 to {NAME_BYTES_MAX} letters, digits, `-` and `_`"
                ));
            }
        }
        let tokens = self.subject_prefix.split('.');
        if self.subject_prefix.len() > 128 || tokens.clone().any(|token| token.is_empty() || !token.chars().all(plain))
        {
            return Err(format!(
                "bus.nats.subject_prefix is {:?}: give words of letters, digits, `-` and `_`, with dots between",
                self.subject_prefix
            ));
        }
        Ok(())
    }

    fn validate_server(&self) -> Result<(), String> {
        for url in self.url.split(',') {
            let address = async_nats::ServerAddr::from_str(url.trim())
                .map_err(|why| format!("bus.nats.url: {url:?} is no nats://HOST:PORT or tls://HOST:PORT: {why}"))?;
            if address.has_user_pass() {
                return Err("bus.nats.url must have no name and password in it: use `user` and `password_file`".into());
            }
            if !matches!(address.scheme(), "nats" | "tls") {
                return Err(format!("bus.nats.url: {url:?} must begin with nats:// or tls://"));
            }
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err("bus.nats: `user` and `password_file` belong together".into());
        }
        let ways = [self.credentials_file.is_some(), self.user.is_some(), self.token_file.is_some()];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            return Err("bus.nats: give one of `credentials_file`, `user` and `token_file`".into());
        }
        Ok(())
    }

    /// Relative paths count from the folder of the configuration.
    pub fn resolve_paths(&mut self, folder: &Path) {
        let paths = [&mut self.credentials_file, &mut self.password_file, &mut self.token_file, &mut self.tls_ca];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }

    /// The subjects of all hosts' messages.
    pub(super) fn all_subjects(&self) -> String {
        format!("{}.>", self.subject_prefix)
    }

    /// The subjects of one host's messages.
    pub(super) fn subjects_of(&self, host: &str) -> String {
        format!("{}.{host}.>", self.subject_prefix)
    }

    /// The durable consumer of this host for one peer's messages.
    pub(super) fn consumer_of(&self, peer: &str) -> String {
        format!("{}-{}-from-{peer}", self.consumer, self.host)
    }
}

impl NatsLimits {
    fn validate(&self) -> Result<(), String> {
        const YEAR_S: u64 = 366 * 86_400;
        const HOUR_MS: u64 = 3_600_000;
        for (key, value, least, most) in [
            ("stream_max_age_s", self.stream_max_age_s, 1, YEAR_S),
            ("stream_max_bytes", self.stream_max_bytes, 1 << 16, 1 << 50),
            ("duplicate_window_s", self.duplicate_window_s, 1, self.stream_max_age_s),
            ("max_event_age_s", self.max_event_age_s, 1, YEAR_S),
            ("ack_wait_s", self.ack_wait_s, 1, 3_600),
            ("max_attempts", self.max_attempts.into(), 1, 1_000),
            ("retry_first_ms", self.retry_first_ms, 1, HOUR_MS),
            ("retry_max_ms", self.retry_max_ms, self.retry_first_ms, HOUR_MS),
            ("max_message_bytes", self.max_message_bytes as u64, 1_024, 64 << 20),
            ("publish_window", self.publish_window as u64, 1, 4_096),
            ("receive_window", self.receive_window as u64, 1, 65_536),
            ("max_hops", self.max_hops.into(), 1, 64),
            ("outbox_max_events", self.outbox_max_events, 1, 100_000_000),
            ("outbox_max_bytes", self.outbox_max_bytes, 1 << 10, 1 << 40),
            ("outbox_max_waiting", self.outbox_max_waiting as u64, 1, 1 << 20),
            ("connect_timeout_ms", self.connect_timeout_ms, 10, HOUR_MS),
            ("answer_timeout_ms", self.answer_timeout_ms, 10, HOUR_MS),
            ("reconnect_first_ms", self.reconnect_first_ms, 1, HOUR_MS),
            ("reconnect_max_ms", self.reconnect_max_ms, self.reconnect_first_ms, HOUR_MS),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("bus.nats.limits.{key} is {value}: give {least} to {most}"));
            }
        }
        Ok(())
    }

    pub(super) fn answer_timeout(&self) -> Duration {
        Duration::from_millis(self.answer_timeout_ms)
    }

    /// The pause before the next attempt to reach the server, after so many in vain.
    pub(super) fn reconnect_pause(&self, failures: u32) -> Duration {
        pause(self.reconnect_first_ms, self.reconnect_max_ms, failures)
    }

    /// The pause before an event is tried again, after so many attempts.
    pub(super) fn retry_pause(&self, failures: u32) -> Duration {
        pause(self.retry_first_ms, self.retry_max_ms, failures)
    }
}

fn pause(first_ms: u64, most_ms: u64, failures: u32) -> Duration {
    Duration::from_millis(first_ms.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(most_ms))
}

/// A host's name is one word of a subject, and part of a consumer's name.
fn check_name(key: &str, name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(legal) {
        return Err(format!("{key} is {name:?}: give 1 to {NAME_BYTES_MAX} lower-case letters, digits, `-` and `_`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const KEY: &str = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn with(change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let mut file = json!({
            "url": "nats://127.0.0.1:4222", "host": "a", "publish": ["notes:*"], "accept": ["notes:*"],
            "peers": [{"name": "b", "key": KEY}],
        });
        change(&mut file);
        serde_json::from_value::<NatsFile>(file).map_err(|why| why.to_string())?.validate()
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        with(|_| ()).unwrap();
        with(|file| file["url"] = json!("tls://one:4222, nats://two:4222")).unwrap();
        for (key, value, told) in [
            ("url", json!("http://x"), "nats://"),
            ("url", json!("nats://me:secret@x:4222"), "password_file"),
            ("host", json!("A.B"), "bus.nats.host"),
            ("host", json!("b"), "this host itself"),
            ("stream", json!("A.B"), "bus.nats.stream"),
            ("consumer", json!(""), "bus.nats.consumer"),
            ("subject_prefix", json!("gavel..bus"), "subject_prefix"),
            ("subject_prefix", json!("gavel.>"), "subject_prefix"),
            ("publish", json!(["no*tes:x"]), "star"),
            ("peers", json!([]), "belong together"),
            ("peers", json!([{"name": "c", "key": KEY}, {"name": "c", "key": KEY}]), "second time"),
            ("peers", json!([{"name": "c", "key": "rsa:1"}]), "no public key"),
            ("user", json!("me"), "password_file"),
            ("token", json!("t"), "unknown field"),
            ("limits", json!({"publish_window": 0}), "bus.nats.limits.publish_window is 0: give 1 to 4096"),
            ("limits", json!({"retry_max_ms": 1}), "retry_max_ms"),
            ("limits", json!({"windows": 1}), "unknown field"),
        ] {
            let why = with(|file| file[key] = value.clone()).unwrap_err();
            assert!(why.contains(told), "{key} {value}: {why}");
        }
        let nothing = with(|file| {
            for key in ["publish", "accept", "peers"] {
                file[key] = json!([]);
            }
        });
        assert!(nothing.unwrap_err().contains("nothing would go or come"));
    }

    #[test]
    fn a_pause_doubles_up_to_its_limit() {
        let limits = NatsLimits { reconnect_first_ms: 100, reconnect_max_ms: 350, ..NatsLimits::default() };
        let pauses: Vec<_> =
            [0, 1, 2, 3, 4, u32::MAX].map(|failures| limits.reconnect_pause(failures).as_millis()).into();
        assert_eq!(pauses, [100, 100, 200, 350, 350, 350]);
    }
}

//! A message between hosts: an event with where it comes from, as JSON, signed whole by the host that sends it.
//!
//! What is signed are the bytes themselves and the subject, so there is no second form that could differ. The headers
//! hold the signature and what the server and its tools want to see; nothing here believes them otherwise.
//!
//! Each host numbers what it sends without gaps: so a receiver knows the order, what it has had, and what it missed.

use crate::signing::{PublicKey, SIGNATURE_BYTES, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What stands before the subject and the message in what is signed.
const CONTEXT: &str = "gavel bus message v1\n";

/// Where the signature is.
pub(super) const SIGNATURE_HEADER: &str = "Gavel-Signature";
/// Which host sent it, for people and tools.
pub(super) const HOST_HEADER: &str = "Gavel-Host";

/// An event on its way from one host to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    /// The name of the host that sends it.
    pub(super) host: String,
    /// Which outbox numbered it: when that was made, in milliseconds since 1970.
    pub(super) epoch: u64,
    /// Its place among all that this host sent, from 1.
    pub(super) number: u64,
    /// The stream has acknowledged every message up to this number.
    pub(super) floor: u64,
    /// How often it, or what caused it, went from host to host, this time included.
    pub(super) hops: u32,
    /// Its id there.
    pub(super) event_id: String,
    /// Its name.
    pub(super) event_name: String,
    /// Who sent it there, as text.
    pub(super) sender: String,
    /// The exchange it belongs to.
    pub(super) correlation_id: String,
    /// Which client it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_id: Option<String>,
    /// When it was sent there, in milliseconds since 1970.
    pub(super) time_ms: u64,
    /// What it says.
    pub(super) data: Value,
}

/// Why a message is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it has no {SIGNATURE_HEADER} of {} hex digits", 2 * SIGNATURE_BYTES)]
    Unsigned,
    #[error("its signature is not of this message by the key of host '{0}'")]
    Forged(String),
    #[error("it is no message of a bus: {0}")]
    Unreadable(String),
    #[error("it is of host '{0}', but came under the name of '{1}'")]
    OtherHost(String, String),
    #[error("its subject is '{0}', but that of its event is '{1}'")]
    OtherSubject(String, String),
}

impl Envelope {
    /// The subject it goes under: `PREFIX.HOST.NAMESPACE.REST`, or without the last word for a name without a colon.
    pub(super) fn subject(&self, prefix: &str) -> String {
        match self.event_name.split_once(':') {
            Some((space, rest)) => format!("{prefix}.{}.{}.{}", self.host, word(space), word(rest)),
            None => format!("{prefix}.{}.{}", self.host, word(&self.event_name)),
        }
    }

    /// Its bytes and the signature over them, for the subject.
    pub(super) fn seal(&self, subject: &str, key: &SigningKey) -> Result<(Vec<u8>, String), serde_json::Error> {
        let bytes = serde_json::to_vec(self)?;
        let signature = key.sign_message(&signed_text(subject, &bytes));
        Ok((bytes, hex::encode(signature)))
    }

    /// Read a message that came under `subject`, and check that `peer`, whose key this is, sent it.
    pub(super) fn open(
        prefix: &str,
        subject: &str,
        bytes: &[u8],
        signature: Option<&str>,
        peer: &str,
        key: &PublicKey,
    ) -> Result<Self, Refusal> {
        let mut raw = [0; SIGNATURE_BYTES];
        let signature = signature.ok_or(Refusal::Unsigned)?;
        hex::decode_to_slice(signature, &mut raw).map_err(|_| Refusal::Unsigned)?;
        if !key.signed(&signed_text(subject, bytes), &raw) {
            return Err(Refusal::Forged(peer.to_owned()));
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(|why| Refusal::Unreadable(why.to_string()))?;
        if envelope.host != peer {
            return Err(Refusal::OtherHost(envelope.host, peer.to_owned()));
        }
        let its_own = envelope.subject(prefix);
        if its_own != subject {
            return Err(Refusal::OtherSubject(subject.to_owned(), its_own));
        }
        Ok(envelope)
    }
}

fn signed_text(subject: &str, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(CONTEXT.len() + subject.len() + 1 + bytes.len());
    text.extend_from_slice(CONTEXT.as_bytes());
    text.extend_from_slice(subject.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(bytes);
    text
}

/// A part of an event's name as one word of a subject. No two parts have the same word: what has a meaning in a subject
/// is written as `%` and two hex digits, and nothing at all as `%`, which no name has in it.
fn word(part: &str) -> String {
    use std::fmt::Write as _;
    let mut word = String::with_capacity(part.len());
    for c in part.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/') {
            word.push(c);
        } else {
            // Writing into a string cannot fail.
            let _ = write!(word, "%{:02X}", u32::from(c));
        }
    }
    if word.is_empty() { "%".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn envelope(name: &str) -> Envelope {
        Envelope {
            host: "a".to_owned(),
            epoch: 1,
            number: 7,
            floor: 3,
            hops: 1,
            event_id: "run-1".to_owned(),
            event_name: name.to_owned(),
            sender: "client:unix:0/1".to_owned(),
            correlation_id: "c\r\nd".to_owned(),
            client_id: None,
            time_ms: 1_000,
            data: json!({ "big": 1e300, "n": 12_345_678_901_234_567_890_u64 }),
        }
    }

    #[test]
    fn no_two_names_have_one_subject() {
        let names = ["a:b", "a", "a:b.c", "a.b:c", "a:b:c", "a:", ":a", ":", "a/b:c", "a:%2E", "a:."];
        let subjects: std::collections::BTreeSet<_> = names.iter().map(|name| envelope(name).subject("p")).collect();
        assert_eq!(subjects.len(), names.len(), "{subjects:?}");
        assert_eq!(envelope("notes:a.b:c").subject("gavel.bus"), "gavel.bus.a.notes.a%2Eb%3Ac");
        assert_eq!(envelope("x:").subject("p"), "p.a.x.%");
    }

    #[test]
    fn a_message_is_believed_as_it_was_signed_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let [key, other] = ["1", "2"].map(|name| SigningKey::create(&folder.path().join(name)).unwrap());
        let sent = envelope("notes:new");
        let subject = sent.subject("p");
        let (bytes, signature) = sent.seal(&subject, &key).unwrap();
        let open = |subject: &str, bytes: &[u8], signature: Option<&str>, peer: &str, key: &SigningKey| {
            Envelope::open("p", subject, bytes, signature, peer, &key.public())
        };
        assert_eq!(open(&subject, &bytes, Some(&signature), "a", &key).unwrap(), sent);
        assert_eq!(open(&subject, &bytes, None, "a", &key), Err(Refusal::Unsigned));
        assert_eq!(open(&subject, &bytes, Some("00"), "a", &key), Err(Refusal::Unsigned));
        assert_eq!(open(&subject, &bytes, Some(&signature), "a", &other), Err(Refusal::Forged("a".to_owned())));
        assert_eq!(open("p.a.notes.old", &bytes, Some(&signature), "a", &key), Err(Refusal::Forged("a".to_owned())));
        let mut changed = bytes.clone();
        changed[20] ^= 1;
        assert_eq!(open(&subject, &changed, Some(&signature), "a", &key), Err(Refusal::Forged("a".to_owned())));
        // Signed by the right key, but for another's place.
        let told = open(&subject, &bytes, Some(&signature), "b", &key).unwrap_err().to_string();
        assert_eq!(told, "it is of host 'a', but came under the name of 'b'");
        let (bytes, signature) = sent.seal("p.a.other", &key).unwrap();
        assert!(matches!(open("p.a.other", &bytes, Some(&signature), "a", &key), Err(Refusal::OtherSubject(..))));
    }
}

//! The register of keys: what everybody may know of them, in one file that is replaced whole with each change.
//!
//! ```text
//! {"format":"gavel-crypto-keys/1","keys":{NAME:{"created_ms":T,"created_by":WHO,"senders":[WHO,…],"versions":[VERSION,…]}},"reports":[REPORT,…]}
//! ```
//!
//! No private key is in it: those lie in `private/PUBLIC_KEY.pem`. A report is a change that the immutable log has not
//! confirmed yet.

use crate::fault::Fault;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const FORMAT: &str = "gavel-crypto-keys/1";

/// All keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    format: String,
    /// By name.
    pub(super) keys: BTreeMap<String, NamedKey>,
    /// Changes for the immutable log, oldest first.
    pub(super) reports: VecDeque<Report>,
}

/// One key with all its versions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedKey {
    pub(super) created_ms: u64,
    pub(super) created_by: String,
    /// Who may sign with it.
    pub(super) senders: BTreeSet<String>,
    /// The first has number 1.
    pub(super) versions: Vec<Version>,
}

/// One pair of keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    #[serde(with = "public_key")]
    pub(super) public_key: [u8; 32],
    pub(super) created_ms: u64,
    pub(super) created_by: String,
    /// When another took its place.
    pub(super) retired_ms: Option<u64>,
    pub(super) revoked: Option<Revocation>,
}

/// Why a version counts no longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    pub(super) at_ms: u64,
    pub(super) by: String,
    pub(super) why: String,
}

/// A change that the immutable log is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    /// Its idempotency key there.
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) data: Value,
}

impl Default for Register {
    fn default() -> Self {
        Self { format: FORMAT.to_owned(), keys: BTreeMap::new(), reports: VecDeque::new() }
    }
}

impl Register {
    /// Reads the file.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let register: Self = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
        if register.format == FORMAT {
            Ok(register)
        } else {
            Err(format!("its `format` is {:?}; this version reads {FORMAT:?}", register.format))
        }
    }

    /// The file.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec_pretty(self).map_err(|why| why.to_string())
    }

    /// The key of a name.
    pub(super) fn key(&self, name: &str) -> Result<&NamedKey, Fault> {
        self.keys.get(name).ok_or_else(|| absent(name))
    }

    /// The same, to change it.
    pub(super) fn key_mut(&mut self, name: &str) -> Result<&mut NamedKey, Fault> {
        self.keys.get_mut(name).ok_or_else(|| absent(name))
    }
}

fn absent(name: &str) -> Fault {
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Fault::absent(format!("there is no key `{shown}`"))
}

impl NamedKey {
    /// Number and version that sign now; none where the last one is revoked.
    pub(super) fn current(&self) -> Option<(usize, &Version)> {
        let last = self.versions.last().filter(|last| last.revoked.is_none())?;
        Some((self.versions.len(), last))
    }

    /// As an answer shows it; who may sign is for those who see everything.
    pub(super) fn told(&self, name: &str, with_senders: bool) -> Value {
        let versions = self.versions.iter().enumerate().map(|(at, version)| version.told(at + 1));
        let mut told = json!({
            "name": name,
            "algorithm": "ed25519",
            "created_ms": self.created_ms,
            "current": self.current().map(|(number, _)| number),
            "versions": versions.collect::<Vec<_>>(),
        });
        if with_senders {
            told["senders"] = json!(self.senders);
            told["created_by"] = json!(self.created_by);
        }
        told
    }
}

impl Version {
    /// `current`, `retired` or `revoked`.
    pub(super) fn state(&self) -> &'static str {
        match (&self.revoked, self.retired_ms) {
            (Some(_), _) => "revoked",
            (None, Some(_)) => "retired",
            (None, None) => "current",
        }
    }

    /// How its public key is written.
    pub(super) fn public_text(&self) -> String {
        public_text(&self.public_key)
    }

    fn told(&self, number: usize) -> Value {
        json!({
            "version": number,
            "state": self.state(),
            "public_key": self.public_text(),
            "public_pem": crate::private_key::public_pem(&self.public_key),
            "created_ms": self.created_ms,
            "retired_ms": self.retired_ms,
            "revoked_ms": self.revoked.as_ref().map(|revoked| revoked.at_ms),
            "revoked_why": self.revoked.as_ref().map(|revoked| &revoked.why),
        })
    }
}

/// How a public key is written.
pub(super) fn public_text(public: &[u8; 32]) -> String {
    format!("ed25519:{}", hex::encode(public))
}

/// A public key that is written so.
pub(super) fn public_of(text: &str) -> Result<[u8; 32], Fault> {
    let mut public = [0; 32];
    match text.strip_prefix("ed25519:").map(|digits| hex::decode_to_slice(digits, &mut public)) {
        Some(Ok(())) => Ok(public),
        _ => Err(Fault::not_accepted("public_key: it is written `ed25519:` and 64 hex digits")),
    }
}

/// A public key as the file writes it.
mod public_key {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(public: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::public_text(public))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        super::public_of(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

//! The KERNELS chain as a bundle shows it: entries with their hashes, each of which is computed anew.
//!
//! An exported entry is a flat object of 22 fields: its place (`ledger_seq`, `prev_hash`, `entry_hash`)
//! and the nineteen that are hashed. Those are written again as canonical JSON, so nothing that the
//! bundle says of itself is believed. An entry with any other field is refused: the hash would not
//! cover it, and a reader might believe it.

use crate::hash::{Hash, HexHash};
use crate::json::push_string;
use crate::record::{GENESIS_HASH, entry_hash};
use serde::Deserialize;

/// An entry as it is exported.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the KERNELS package, described in docs/formats/proof.md")]
pub struct Entry {
    pub ledger_seq: u64,
    pub prev_hash: String,
    pub entry_hash: String,
    pub ts_ms: u64,
    pub request_id: String,
    pub actor: String,
    pub intent: String,
    pub decision: String,
    pub state_from: String,
    pub state_to: String,
    pub tool_name: Option<String>,
    pub params_hash: Option<String>,
    pub evidence_hash: Option<String>,
    pub error: Option<String>,
    pub permit_digest: Option<String>,
    pub permit_verification: Option<String>,
    pub permit_denial_reasons: Option<Vec<String>>,
    pub proposal_hash: Option<String>,
    pub permit_nonce: Option<String>,
    pub permit_issuer: Option<String>,
    pub permit_subject: Option<String>,
    pub permit_max_executions: Option<u64>,
}

const DECISIONS: [&str; 3] = ["ALLOW", "DENY", "HALT"];
const STATES: [&str; 7] = ["BOOTING", "IDLE", "VALIDATING", "ARBITRATING", "EXECUTING", "AUDITING", "HALTED"];
const PERMITS: [&str; 2] = ["ALLOW", "DENY"];

impl Entry {
    /// Reads an entry.
    ///
    /// # Errors
    /// Says which field is missing, is one too many, or has no value that it may have.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entry: Self = serde_json::from_str(text).map_err(|why| why.to_string())?;
        let words = [
            ("decision", Some(&entry.decision), &DECISIONS[..]),
            ("state_from", Some(&entry.state_from), &STATES[..]),
            ("state_to", Some(&entry.state_to), &STATES[..]),
            ("permit_verification", entry.permit_verification.as_ref(), &PERMITS[..]),
        ];
        for (field, word, known) in words {
            if let Some(word) = word.filter(|word| !known.contains(&word.as_str())) {
                return Err(format!("`{field}` is {word:?}, which is none of {}", known.join(", ")));
            }
        }
        Ok(entry)
    }

    /// Its place in the chain; `data` is [`Entry::canonical`].
    #[must_use]
    pub fn link<'a>(&'a self, data: &'a str) -> Link<'a> {
        let Self { ledger_seq, prev_hash, entry_hash, request_id, .. } = self;
        Link { ledger_seq: *ledger_seq, prev_hash, entry_hash, data, request_id }
    }

    /// The canonical JSON that is hashed.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut out = String::with_capacity(768);
        // The keys in their sorted order.
        put(&mut out, "actor", Some(&self.actor));
        put(&mut out, "decision", Some(&self.decision));
        put(&mut out, "error", self.error.as_ref());
        put(&mut out, "evidence_hash", self.evidence_hash.as_ref());
        put(&mut out, "intent", Some(&self.intent));
        put(&mut out, "params_hash", self.params_hash.as_ref());
        let reasons = self.permit_denial_reasons.as_deref().map(list);
        put_raw(&mut out, "permit_denial_reasons", reasons.as_deref());
        put(&mut out, "permit_digest", self.permit_digest.as_ref());
        put(&mut out, "permit_issuer", self.permit_issuer.as_ref());
        let uses = self.permit_max_executions.map(|uses| uses.to_string());
        put_raw(&mut out, "permit_max_executions", uses.as_deref());
        put(&mut out, "permit_nonce", self.permit_nonce.as_ref());
        put(&mut out, "permit_subject", self.permit_subject.as_ref());
        put(&mut out, "permit_verification", self.permit_verification.as_ref());
        put(&mut out, "proposal_hash", self.proposal_hash.as_ref());
        put(&mut out, "request_id", Some(&self.request_id));
        put(&mut out, "state_from", Some(&self.state_from));
        put(&mut out, "state_to", Some(&self.state_to));
        put(&mut out, "tool_name", self.tool_name.as_ref());
        put_raw(&mut out, "ts_ms", Some(&self.ts_ms.to_string()));
        out.push('}');
        out
    }
}

fn put(out: &mut String, key: &str, value: Option<&String>) {
    let quoted = value.map(|text| {
        let mut quoted = String::with_capacity(text.len() + 2);
        push_string(&mut quoted, text);
        quoted
    });
    put_raw(out, key, quoted.as_deref());
}

fn put_raw(out: &mut String, key: &str, value: Option<&str>) {
    out.push(if out.is_empty() { '{' } else { ',' });
    push_string(out, key);
    out.push(':');
    out.push_str(value.unwrap_or("null"));
}

fn list(texts: &[String]) -> String {
    let mut out = String::from("[");
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_string(&mut out, text);
    }
    out.push(']');
    out
}

/// The first entry that does not fit, or what the bundle as a whole gets wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// An entry is missing, repeated or out of order.
    #[error("entry {found} (request {request_id:?}): expected ledger_seq {expected}")]
    Sequence {
        /// The place that should come.
        expected: u64,
        /// The place that the entry claims.
        found: u64,
        /// The entry's request.
        request_id: String,
    },
    /// An entry does not follow from the one before it.
    #[error("entry {ledger_seq} (request {request_id:?}): prev_hash is {found:?}, the entry before has {expected}")]
    PrevHash {
        /// The entry's place.
        ledger_seq: u64,
        /// The entry's request.
        request_id: String,
        /// The hash of the entry before.
        expected: String,
        /// What the entry says it is.
        found: String,
    },
    /// An entry's fields do not have its hash.
    #[error("entry {ledger_seq} (request {request_id:?}): entry_hash is {found:?}, its fields give {expected}")]
    EntryHash {
        /// The entry's place.
        ledger_seq: u64,
        /// The entry's request.
        request_id: String,
        /// The hash of its fields.
        expected: String,
        /// What the entry says it is.
        found: String,
    },
    /// The chain does not lead to the root.
    #[error("root_hash is {found:?}, the chain of {entries} entries ends at {expected}")]
    RootHash {
        /// The hash that the chain leads to.
        expected: String,
        /// The root claimed.
        found: String,
        /// How many entries there are.
        entries: u64,
    },
    /// There are more or fewer entries than claimed.
    #[error("entry_count is {found}, the chain has {expected} entries")]
    EntryCount {
        /// How many there are.
        expected: u64,
        /// How many were claimed.
        found: u64,
    },
}

/// One link: what is checked of an entry, whether a bundle shows it or a record carries it.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// Its place.
    pub ledger_seq: u64,
    /// What it says that the hash before is.
    pub prev_hash: &'a str,
    /// What it says that its own is.
    pub entry_hash: &'a str,
    /// The canonical data.
    pub data: &'a str,
    /// The request, for a message.
    pub request_id: &'a str,
}

/// A chain being followed.
///
/// Always holds: all links so far follow from the first and from each other.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The place and hash that the next link must follow; unknown before the first link of a part.
    next: Option<(u64, String)>,
    links: u64,
}

impl Chain {
    /// A chain from its very beginning.
    #[must_use]
    pub fn from_genesis() -> Self {
        Self { next: Some((0, GENESIS_HASH.to_owned())), links: 0 }
    }

    /// A chain that goes on after another one: its next link has this number and follows this hash.
    #[must_use]
    pub fn from_start(ledger_seq: u64, prev_hash: String) -> Self {
        Self { next: Some((ledger_seq, prev_hash)), links: 0 }
    }

    /// A part of a chain: its first link is believed about what went before it.
    #[must_use]
    pub fn from_anywhere() -> Self {
        Self { next: None, links: 0 }
    }

    /// Links so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.links
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links == 0
    }

    /// The hash of the last link; before the first, that which it must follow.
    #[must_use]
    pub fn head(&self) -> &str {
        self.next.as_ref().map_or(GENESIS_HASH, |(_, head)| head)
    }

    /// Steps over the next link, and gives its hash.
    ///
    /// # Errors
    /// [`ChainError`] when it does not follow, or does not have its hash.
    pub fn push(&mut self, link: Link<'_>) -> Result<Hash, ChainError> {
        let Link { ledger_seq, prev_hash, data, .. } = link;
        let request_id = || link.request_id.to_owned();
        if let Some((expected, head)) = &self.next {
            if ledger_seq != *expected {
                return Err(ChainError::Sequence { expected: *expected, found: ledger_seq, request_id: request_id() });
            }
            if prev_hash != head {
                let (expected, found) = (head.clone(), prev_hash.to_owned());
                return Err(ChainError::PrevHash { ledger_seq, request_id: request_id(), expected, found });
            }
        }
        let hash = entry_hash(prev_hash, data);
        let expected = HexHash::of(&hash).as_str().to_owned();
        if link.entry_hash != expected {
            let found = link.entry_hash.to_owned();
            return Err(ChainError::EntryHash { ledger_seq, request_id: request_id(), expected, found });
        }
        self.next = Some((ledger_seq.saturating_add(1), expected));
        self.links += 1;
        Ok(hash)
    }

    /// Holds the chain against what its bundle claims.
    ///
    /// # Errors
    /// [`ChainError`] when the root or, if given, the count is another.
    pub fn finish(&self, root_hash: &str, entry_count: Option<u64>) -> Result<(), ChainError> {
        let entries = self.links;
        // A part without a single entry says nothing of the chain.
        if self.next.is_some() && root_hash != self.head() {
            let (expected, found) = (self.head().to_owned(), root_hash.to_owned());
            return Err(ChainError::RootHash { expected, found, entries });
        }
        match entry_count {
            Some(found) if found != entries => Err(ChainError::EntryCount { expected: entries, found }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bundle that the KERNELS package wrote when it was recorded holds, and none does after a change.
    #[test]
    fn the_chains_that_the_package_wrote_hold() {
        let mut entries = 0;
        for file in ["decisions", "permits"] {
            let path = format!("{}/../../tests/data/kernels/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let scenario: serde_json::Value = serde_json::from_str(line).unwrap();
                let bundle = &scenario["evidence"];
                let mut chain = Chain::from_genesis();
                for entry in bundle["ledger_entries"].as_array().unwrap() {
                    let entry = Entry::parse(&entry.to_string()).unwrap();
                    chain.push(entry.link(&entry.canonical())).unwrap();
                    let changed = Entry { ts_ms: entry.ts_ms + 1, ..entry.clone() };
                    let why = Chain::from_anywhere().push(changed.link(&changed.canonical()));
                    assert!(matches!(why, Err(ChainError::EntryHash { .. })), "{why:?}");
                }
                chain.finish(bundle["root_hash"].as_str().unwrap(), None).unwrap();
                entries += chain.len();
            }
        }
        assert!(entries > 500, "{entries}");
    }

    #[test]
    fn an_entry_with_other_fields_is_refused() {
        for (text, expected) in [("5", "invalid type"), ("{}", "missing field"), ("{\"x\":1}", "unknown field `x`")] {
            let why = Entry::parse(text).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }
}

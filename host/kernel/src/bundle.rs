//! Evidence bundles, and proving that nobody touched them.
//!
//! A bundle is what a kernel exports: its entries and the hash of the last. To verify is to recompute: every hash from
//! its entry's own fields and the hash before, never from what the bundle says of itself. The error names the first
//! entry that does not fit. What it cannot see: entries cut off at the end together with a matching root; against that,
//! compare the root with one that you kept.
//!
//! [`ChainVerifier`] takes one entry at a time, so a file larger than memory can be checked as it streams.

use crate::{
    entry::{Entry, GENESIS_HASH, entry_hash},
    variant::Variant,
};
use serde::{Deserialize, Serialize};

/// What a kernel exports. Keys that it does not know are ignored when it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceBundle {
    /// The chain, oldest first.
    pub ledger_entries: Vec<Entry>,
    /// The hash of the last entry; of an empty chain, 64 zeros.
    pub root_hash: String,
    /// When it was exported, in Unix milliseconds.
    pub exported_at_ms: u64,
    /// Which kernel's it is.
    pub kernel_id: String,
    /// That kernel's kind.
    pub variant: Variant,
    /// How many entries there are. The seeds read it; the package does not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_count: Option<u64>,
}

/// Where a chain begins: at its genesis, or after entries that were archived elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainStart {
    /// The first entry's place.
    pub ledger_seq: u64,
    /// The hash of the entry before it, 64 lower-case hexadecimal digits.
    pub prev_hash: String,
}

/// What was proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// How many entries were recomputed.
    pub entries_verified: u64,
    /// The hash they lead to.
    pub root_hash: String,
}

/// The first thing in a chain that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// An entry is missing, repeated or out of order.
    #[error("entry {found} (request {request_id:?}): expected ledger_seq {expected}")]
    Sequence {
        /// The place that should come.
        expected: u64,
        /// The place the entry claims.
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
        /// The hash the chain leads to.
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

/// Verifies a bundle that begins at the genesis.
///
/// # Errors
/// [`ChainError`] names the first entry that does not fit, or what the bundle as a whole gets wrong.
pub fn verify_bundle(bundle: &EvidenceBundle) -> Result<Verification, ChainError> {
    verify_bundle_from(bundle, ChainStart::genesis())
}

/// Verifies a bundle that continues an archived chain; `start` must come from the archive, not from the bundle.
///
/// # Errors
/// As [`verify_bundle`].
pub fn verify_bundle_from(bundle: &EvidenceBundle, start: ChainStart) -> Result<Verification, ChainError> {
    let mut verifier = ChainVerifier::from_start(start);
    for entry in &bundle.ledger_entries {
        verifier.push(entry)?;
    }
    verifier.finish(&bundle.root_hash, bundle.entry_count)
}

impl EvidenceBundle {
    /// The bundle of `ledger_entries`, its root and count taken from them; an empty one has the genesis as root.
    #[must_use]
    pub fn new(
        kernel_id: impl Into<String>,
        variant: Variant,
        ledger_entries: Vec<Entry>,
        exported_at_ms: u64,
    ) -> Self {
        let root_hash = ledger_entries.last().map_or(GENESIS_HASH, |entry| &entry.entry_hash);
        Self {
            root_hash: root_hash.to_owned(),
            exported_at_ms,
            kernel_id: kernel_id.into(),
            variant,
            entry_count: Some(ledger_entries.len() as u64),
            ledger_entries,
        }
    }
}

impl ChainStart {
    /// The beginning of every chain.
    #[must_use]
    pub fn genesis() -> Self {
        Self { ledger_seq: 0, prev_hash: GENESIS_HASH.to_owned() }
    }
}

/// Verifies a chain entry by entry.
///
/// Always holds: all entries pushed so far follow from the start and from each other. After an error it stays where it
/// was before the bad entry.
#[derive(Debug, Clone)]
pub struct ChainVerifier {
    next: ChainStart,
    entries_verified: u64,
}

impl ChainVerifier {
    /// A verifier at the genesis.
    #[must_use]
    pub fn new() -> Self {
        Self::from_start(ChainStart::genesis())
    }

    /// A verifier for a chain that begins at `start`.
    #[must_use]
    pub fn from_start(start: ChainStart) -> Self {
        Self { next: start, entries_verified: 0 }
    }

    /// Verifies the next entry.
    ///
    /// # Errors
    /// [`ChainError`] when the entry does not follow, or does not have its hash.
    pub fn push(&mut self, entry: &Entry) -> Result<(), ChainError> {
        let ledger_seq = entry.ledger_seq;
        let request_id = || entry.data.request_id.clone();
        if ledger_seq != self.next.ledger_seq {
            let expected = self.next.ledger_seq;
            return Err(ChainError::Sequence { expected, found: ledger_seq, request_id: request_id() });
        }
        if entry.prev_hash != self.next.prev_hash {
            return Err(ChainError::PrevHash {
                ledger_seq,
                request_id: request_id(),
                expected: self.next.prev_hash.clone(),
                found: entry.prev_hash.clone(),
            });
        }
        let expected = hex::encode(entry_hash(&entry.prev_hash, &entry.data.canonical()));
        if entry.entry_hash != expected {
            let found = entry.entry_hash.clone();
            return Err(ChainError::EntryHash { ledger_seq, request_id: request_id(), expected, found });
        }
        self.next = ChainStart { ledger_seq: ledger_seq.saturating_add(1), prev_hash: expected };
        self.entries_verified += 1;
        Ok(())
    }

    /// What the next entry must follow; after the last one, where a continued chain begins.
    #[must_use]
    pub fn next_start(&self) -> &ChainStart {
        &self.next
    }

    /// Holds the chain against what its bundle claims.
    ///
    /// # Errors
    /// [`ChainError`] when the root or, if given, the count is another.
    pub fn finish(self, root_hash: &str, entry_count: Option<u64>) -> Result<Verification, ChainError> {
        let entries = self.entries_verified;
        let expected = self.next.prev_hash;
        if root_hash != expected {
            return Err(ChainError::RootHash { expected, found: root_hash.to_owned(), entries });
        }
        match entry_count {
            Some(found) if found != entries => Err(ChainError::EntryCount { expected: entries, found }),
            _ => Ok(Verification { entries_verified: entries, root_hash: expected }),
        }
    }
}

impl Default for ChainVerifier {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryData;
    use serde_json::json;

    fn bundle(length: u64) -> EvidenceBundle {
        let mut entries: Vec<Entry> = Vec::new();
        for ledger_seq in 0..length {
            let prev_hash = entries.last().map_or(GENESIS_HASH, |entry| entry.entry_hash.as_str());
            let data = EntryData::halt(format!("reason {ledger_seq}"), 1000 + ledger_seq);
            entries.push(data.seal(ledger_seq, prev_hash));
        }
        EvidenceBundle::new("kernel-1", Variant::Strict, entries, 2000)
    }

    fn check(damage: impl FnOnce(&mut EvidenceBundle), expected: &str) {
        let mut bundle = bundle(3);
        damage(&mut bundle);
        let error = verify_bundle(&bundle).expect_err("damaged").to_string();
        // Hashes are many and long; the first eight digits tell them apart.
        let digit = |c: char| c.is_ascii_hexdigit();
        let short: Vec<_> = error
            .split(' ')
            .map(|word| {
                let bare = word.trim_matches(|c| !digit(c));
                if bare.len() == 64 { word.replace(bare, &bare[..8]) } else { word.to_owned() }
            })
            .collect();
        assert_eq!(short.join(" "), expected);
    }

    #[test]
    fn an_intact_chain_is_verified() {
        let bundle = bundle(3);
        let verification = verify_bundle(&bundle).expect("intact");
        assert_eq!((verification.entries_verified, verification.root_hash), (3, bundle.root_hash));
    }

    #[test]
    fn an_empty_chain_has_the_genesis_as_root() {
        let empty = bundle(0);
        assert_eq!(empty.root_hash, GENESIS_HASH);
        assert_eq!(verify_bundle(&empty).map(|it| it.entries_verified), Ok(0));
    }

    #[test]
    fn damage_is_named() {
        check(
            |b| b.ledger_entries[1].data.intent.push('!'),
            "entry 1 (request \"HALT\"): entry_hash is \"75ac2bc2\", its fields give 0d594e4e",
        );
        check(|b| drop(b.ledger_entries.remove(1)), "entry 2 (request \"HALT\"): expected ledger_seq 1");
        check(
            |b| b.ledger_entries[2].prev_hash.clear(),
            "entry 2 (request \"HALT\"): prev_hash is \"\", the entry before has 75ac2bc2",
        );
        check(|b| drop(b.ledger_entries.pop()), "root_hash is \"cca69077\", the chain of 2 entries ends at 75ac2bc2");
        check(|b| b.entry_count = Some(4), "entry_count is 4, the chain has 3 entries");
    }

    #[test]
    fn a_continued_chain_needs_its_start() {
        let whole = bundle(3);
        let mut archive = ChainVerifier::new();
        archive.push(&whole.ledger_entries[0]).expect("intact");
        let rest = EvidenceBundle::new("k", Variant::Strict, whole.ledger_entries[1..].to_vec(), 1);
        assert!(matches!(verify_bundle(&rest), Err(ChainError::Sequence { expected: 0, found: 1, .. })));
        let verified = verify_bundle_from(&rest, archive.next_start().clone());
        assert_eq!(verified.map(|it| it.entries_verified), Ok(2));
    }

    #[test]
    fn bundles_are_read_with_and_without_a_count() {
        let bundle = bundle(1);
        let mut value = json!(bundle);
        assert_eq!(value["entry_count"], 1);
        value.as_object_mut().expect("object").remove("entry_count");
        let back: EvidenceBundle = serde_json::from_value(value).expect("as the package writes it");
        assert_eq!(back.entry_count, None);
        assert_eq!(back.ledger_entries, bundle.ledger_entries);
    }
}

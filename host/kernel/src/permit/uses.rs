//! How often each permit was used.
//!
//! The law must know, but keeps no state: it asks a [`PermitUses`]. [`MemoryPermitUses`] serves a kernel that rebuilds
//! it from its ledger at start. It is bounded, and errs to one side only: a use that it cannot remember is
//! answered as a replay, so a full memory denies permits and never lets one run twice.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// How many permits a [`MemoryPermitUses`] remembers unless told otherwise.
///
/// One takes some 120 bytes whatever its length, as only a hash of it is kept: a full memory is about 120 MB.
pub const PERMIT_USES_MAX: usize = 1_000_000;

/// How long a permit is remembered after it expired and was last shown: a clock may be set back by so much.
const REMEMBERED_AFTER_END_MS: u64 = 24 * 60 * 60 * 1000;

/// One use of a permit, as it is counted and kept in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermitUse {
    /// The permit's nonce. Nonce, issuer and subject together are what uses are counted by.
    pub nonce: String,
    /// Who issued the permit.
    pub issuer: String,
    /// Whom it is for.
    pub subject: String,
    /// The last moment it is valid, in Unix milliseconds.
    pub valid_until_ms: u64,
    /// When it was used, by the kernel's clock, in Unix milliseconds.
    pub used_at_ms: u64,
}

/// Counts the uses of permits.
pub trait PermitUses {
    /// Counts one use and returns how many there were before it; `u64::MAX` when it cannot be remembered, which
    /// denies the permit.
    fn count_use(&mut self, this_use: &PermitUse) -> u64;
}

/// A use from the ledger does not fit into the memory; going on would let its permit be used again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("permit memory is full at {max} permits, raise its limit")]
pub struct PermitUsesFull {
    /// The limit.
    pub max: usize,
}

/// Uses of permits, in memory.
///
/// Forgets a permit a day after it expired and was last shown: shown again, it is denied as expired anyway.
#[derive(Debug, Clone)]
pub struct MemoryPermitUses {
    max: usize,
    uses: BTreeMap<PermitKey, Uses>,
    /// Every key of `uses` with its end, soonest first.
    by_end: BTreeSet<(u64, PermitKey)>,
}

/// SHA-256 of nonce, issuer and subject: a key of fixed size for texts of any size.
type PermitKey = [u8; 32];

#[derive(Debug, Clone)]
struct Uses {
    count: u64,
    /// The later of the permit's expiry and its last use: one shown after it expired is remembered too.
    end_ms: u64,
}

impl MemoryPermitUses {
    /// A memory of at most `max` permits.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, uses: BTreeMap::new(), by_end: BTreeSet::new() }
    }

    /// Counts a use that the ledger has recorded. To be called in the ledger's order, before any judgement.
    ///
    /// # Errors
    /// [`PermitUsesFull`] when there is no room. The kernel must not start then.
    pub fn restore(&mut self, recorded: &PermitUse) -> Result<(), PermitUsesFull> {
        match self.count_use(recorded) {
            u64::MAX => Err(PermitUsesFull { max: self.max }),
            _ => Ok(()),
        }
    }

    /// How many permits are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.uses.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty()
    }

    fn forget_ended(&mut self, now_ms: u64) {
        let horizon_ms = now_ms.saturating_sub(REMEMBERED_AFTER_END_MS);
        while let Some(&(end_ms, key)) = self.by_end.first() {
            if end_ms >= horizon_ms {
                return;
            }
            self.by_end.pop_first();
            self.uses.remove(&key);
        }
    }

    fn count_again(&mut self, key: PermitKey, end_ms: u64) -> Option<u64> {
        let uses = self.uses.get_mut(&key)?;
        let before = uses.count;
        uses.count = before.saturating_add(1);
        // Two permits may share a nonce; the one valid longer decides how long it must be remembered.
        if end_ms > uses.end_ms {
            self.by_end.remove(&(uses.end_ms, key));
            self.by_end.insert((end_ms, key));
            uses.end_ms = end_ms;
        }
        Some(before)
    }
}

impl Default for MemoryPermitUses {
    fn default() -> Self {
        Self::new(PERMIT_USES_MAX)
    }
}

impl PermitUses for MemoryPermitUses {
    fn count_use(&mut self, this_use: &PermitUse) -> u64 {
        self.forget_ended(this_use.used_at_ms);
        let key = key_of(this_use);
        let end_ms = this_use.valid_until_ms.max(this_use.used_at_ms);
        if let Some(before) = self.count_again(key, end_ms) {
            return before;
        }
        if self.uses.len() >= self.max {
            return u64::MAX;
        }
        self.uses.insert(key, Uses { count: 1, end_ms });
        self.by_end.insert((end_ms, key));
        0
    }
}

fn key_of(this_use: &PermitUse) -> PermitKey {
    let mut hash = Sha256::new();
    for part in [&this_use.nonce, &this_use.issuer, &this_use.subject] {
        // The length first, so that no two triples run together into the same bytes.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = REMEMBERED_AFTER_END_MS;

    fn permit_use(nonce: &str, valid_until_ms: u64, used_at_ms: u64) -> PermitUse {
        PermitUse {
            nonce: nonce.into(),
            issuer: "operator".into(),
            subject: "agent".into(),
            valid_until_ms,
            used_at_ms,
        }
    }

    #[test]
    fn uses_are_counted_by_nonce_issuer_and_subject() {
        let mut uses = MemoryPermitUses::default();
        let first = permit_use("n", 100, 50);
        assert_eq!([uses.count_use(&first), uses.count_use(&first), uses.count_use(&first)], [0, 1, 2]);
        let shifted = PermitUse { nonce: "no".into(), issuer: "perator".into(), ..first.clone() };
        assert_eq!(uses.count_use(&shifted), 0);
        assert_eq!(uses.count_use(&PermitUse { subject: "other".into(), ..first }), 0);
        assert_eq!(uses.len(), 3);
    }

    #[test]
    fn a_full_memory_answers_replay() {
        let mut uses = MemoryPermitUses::new(1);
        assert_eq!(uses.count_use(&permit_use("a", 100, 50)), 0);
        assert_eq!(uses.count_use(&permit_use("b", 100, 50)), u64::MAX);
        assert_eq!(uses.count_use(&permit_use("a", 100, 50)), 1);
        let error = uses.restore(&permit_use("b", 100, 50)).expect_err("full");
        assert_eq!(error.to_string(), "permit memory is full at 1 permits, raise its limit");
    }

    #[test]
    fn a_permit_is_forgotten_a_day_after_it_expired() {
        let mut uses = MemoryPermitUses::new(1);
        uses.count_use(&permit_use("a", 100, 50));
        assert_eq!(uses.count_use(&permit_use("b", 2 * DAY_MS, 100 + DAY_MS)), u64::MAX);
        assert_eq!(uses.count_use(&permit_use("b", 2 * DAY_MS, 101 + DAY_MS)), 0);
        assert_eq!(uses.len(), 1);
    }

    /// Recorded in `dual-channel-1032`: a permit long expired, shown twice, is also a replay.
    #[test]
    fn a_permit_shown_after_it_expired_is_remembered() {
        let mut uses = MemoryPermitUses::default();
        assert_eq!(uses.count_use(&permit_use("a", 2, 9 * DAY_MS)), 0);
        assert_eq!(uses.count_use(&permit_use("a", 2, 9 * DAY_MS + 1)), 1);
        assert_eq!(uses.count_use(&permit_use("a", 2, 11 * DAY_MS)), 0);
    }

    #[test]
    fn a_longer_validity_is_remembered_longer() {
        let mut uses = MemoryPermitUses::default();
        uses.count_use(&permit_use("a", 100, 50));
        uses.count_use(&permit_use("a", 9 * DAY_MS, 60));
        assert_eq!(uses.count_use(&permit_use("a", 100, 5 * DAY_MS)), 2);
    }

    #[test]
    fn restoring_counts() {
        let mut uses = MemoryPermitUses::default();
        uses.restore(&permit_use("a", 100, 50)).expect("room");
        assert_eq!(uses.count_use(&permit_use("a", 100, 60)), 1);
    }
}

//! What the ledger is after a number of records, and the rules by which a record may follow.
//!
//! The writer steps through it as it appends, and the scan steps through it again as it reads:
//! whatever the one would not write, the other does not accept. It lives in the writer thread, so
//! its order is the order of the log, and `halted` turning true is the one moment at which a kernel
//! halts.

use crate::hash::{Hash, HexHash};
use crate::record::{Facts, Kind, PublicKey, entry_hash};
use crate::tree::Frontier;
use std::collections::BTreeSet;

/// Why a record may not stand where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// A halt stands before it.
    #[error("the ledger is halted: no decision and no second halt follow a halt")]
    Halted,
    /// An outcome for something that is not an open decision.
    #[error("record {decision_index} is not an open decision: it is no decision, or it is closed already")]
    NotOpen {
        /// The record that was to be closed.
        decision_index: u64,
    },
    /// The record breaks the form of its kind.
    #[error("not a record: {0}")]
    Form(&'static str),
}

/// Everything that the next record depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The tree over all records.
    pub tree: Frontier,
    /// The KERNELS chain.
    pub chain: Chain,
    /// Decisions without an entry that no outcome has closed. As many as tools are running.
    pub open: BTreeSet<u64>,
    /// Whether a halt is among the records.
    pub halted: bool,
    /// The public key that signs the checkpoints; `None` as long as nobody does.
    pub key: Option<PublicKey>,
    /// The latest `ts_ms` of any record.
    pub last_ts_ms: u64,
}

/// The end of the KERNELS chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its entries.
    pub len: u64,
    /// The `entry_hash` of the last one, zeros at first.
    pub head: Hash,
    /// `head` in hex, the form that is hashed and stored.
    pub head_hex: HexHash,
}

/// The next link of the chain.
#[derive(Debug)]
pub struct Link {
    /// Its number.
    pub ledger_seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// `hash` in hex.
    pub hash_hex: HexHash,
}

impl Chain {
    /// The link that `data` would become.
    #[must_use]
    pub fn link(&self, data: &str) -> Link {
        let hash = entry_hash(self.head_hex.as_str(), data);
        Link { ledger_seq: self.len, hash, hash_hex: HexHash::of(&hash) }
    }

    fn advance(&mut self, link: &Link) {
        debug_assert_eq!(link.ledger_seq, self.len);
        *self = Self { len: link.ledger_seq + 1, head: link.hash, head_hex: link.hash_hex };
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The chain whose last entry is number `len - 1` with this hash.
    #[must_use]
    pub fn chain_of(len: u64, head: Hash) -> Chain {
        Chain { len, head, head_hex: HexHash::of(&head) }
    }

    /// The state before the first record.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tree: Frontier::new(),
            chain: Self::chain_of(0, Hash::default()),
            open: BTreeSet::new(),
            halted: false,
            key: None,
            last_ts_ms: 0,
        }
    }

    /// The index of the next record, which is also the number of records so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.tree.size()
    }

    /// Whether a record may come next.
    ///
    /// # Errors
    /// [`Rule`]
    pub fn admit(&self, facts: &Facts) -> Result<(), Rule> {
        if (facts.kind == Some(Kind::Opened)) != (self.records() == 0) {
            return Err(Rule::Form("the first record, and no other, is `opened`"));
        }
        match (facts.kind, facts.closes) {
            (Some(Kind::Decision | Kind::Halt), _) if self.halted => Err(Rule::Halted),
            (Some(Kind::Outcome), Some(decision_index)) if !self.open.contains(&decision_index) => {
                Err(Rule::NotOpen { decision_index })
            }
            _ => Ok(()),
        }
    }

    /// Steps over a record that was admitted.
    pub fn advance(&mut self, facts: &Facts, leaf: Hash, link: Option<Link>) {
        debug_assert_eq!(facts.has_entry, link.is_some());
        match facts.kind {
            Some(Kind::Decision) if !facts.has_entry => {
                self.open.insert(self.records());
            }
            Some(Kind::Outcome) => {
                let closed = facts.closes.is_some_and(|index| self.open.remove(&index));
                debug_assert!(closed, "admitted without an open decision");
            }
            Some(Kind::Halt) => self.halted = true,
            Some(Kind::Key) => self.key = facts.key,
            _ => {}
        }
        self.last_ts_ms = self.last_ts_ms.max(facts.ts_ms);
        self.tree.push(leaf);
        if let Some(link) = link {
            self.chain.advance(&link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: Kind, has_entry: bool, closes: Option<u64>) -> Facts {
        Facts { kind: Some(kind), has_entry, closes, key: None, ts_ms: 5 }
    }

    fn step(state: &mut State, facts: Facts) -> Result<(), Rule> {
        state.admit(&facts)?;
        let link = facts.has_entry.then(|| state.chain.link("{}"));
        state.advance(&facts, [0; 32], link);
        Ok(())
    }

    #[test]
    fn a_halt_ends_decisions_but_not_outcomes() {
        let mut state = State::new();
        assert!(step(&mut state, facts(Kind::Decision, true, None)).is_err(), "nothing comes before `opened`");
        step(&mut state, facts(Kind::Opened, false, None)).unwrap();
        step(&mut state, facts(Kind::Decision, false, None)).unwrap();
        step(&mut state, facts(Kind::Halt, true, None)).unwrap();
        assert_eq!(step(&mut state, facts(Kind::Decision, true, None)), Err(Rule::Halted));
        assert_eq!(step(&mut state, facts(Kind::Halt, true, None)), Err(Rule::Halted));
        step(&mut state, facts(Kind::Outcome, true, Some(1))).unwrap();
        assert_eq!(step(&mut state, facts(Kind::Outcome, true, Some(1))), Err(Rule::NotOpen { decision_index: 1 }));
        step(&mut state, facts(Kind::Event, false, None)).unwrap();
        assert!(step(&mut state, facts(Kind::Opened, false, None)).is_err(), "`opened` comes once");
        assert_eq!((state.records(), state.chain.len), (5, 2));
    }
}

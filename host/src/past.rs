//! What a kernel must know of its past: the halt, the permits used, what its policies counted, and what it judges by.
//! All of it is a reading of the ledger, so that a crash opens no gate.
//!
//! A ledger of a hundred million records is not read at every start. The state after so many of them is kept beside the
//! ledger ([`Ledger::keep_state`]), at every segment and at a clean end, and only what followed is read. What is kept is
//! never the truth: where it is missing, or of another history, all records are read.

use crate::approvals::Book;
use crate::record;
use crate::remembered::Remembered;
use gavel_kernel::PermitUse;
use gavel_ledger::{Error, Ledger, RecordView, View};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The version of what is kept; another one is passed over.
const VERSION: u32 = 1;
/// Records after which what has ended is forgotten, while many are read.
const FORGET_EVERY: u64 = 8_192;
/// Parts of a window that are told apart, as the counters themselves do.
const PARTS: u64 = 128;
/// A permit is forgotten so long after its end, as the law forgets it.
const PERMIT_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// What follows from the first records of a ledger.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Past {
    version: u32,
    /// The records it follows from.
    #[serde(skip)]
    records: u64,
    last_ms: u64,
    typical_ms: u64,
    /// Uses of permits by nonce, issuer and subject: the last one, and how many.
    permits: BTreeMap<String, (PermitUse, u64)>,
    /// By policy and key.
    counters: BTreeMap<String, BTreeMap<String, Counted>>,
    halted: Option<String>,
    /// The `meta` of the last step in the life of the policies.
    line: Option<String>,
    /// What waits for a human, and what came of it. Absent where an older version kept it, which knew of none.
    #[serde(default)]
    approvals: Book,
}

/// A counter of a policy.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counted {
    longest_ms: u64,
    amounts: VecDeque<(u64, u64)>,
}

impl Counted {
    /// Amounts that are near to one another count as one, at the later time: so a counter counts no less.
    fn add(&mut self, at_ms: u64, amount: u64) {
        match self.amounts.back_mut() {
            Some((last_ms, sum)) if at_ms.saturating_sub(*last_ms) < self.longest_ms / PARTS => {
                (*last_ms, *sum) = ((*last_ms).max(at_ms), sum.saturating_add(amount));
            }
            _ => self.amounts.push_back((at_ms, amount)),
        }
    }
}

impl Past {
    /// What follows from all records of a ledger, of which `kept` were read before.
    pub(crate) fn of(view: &View, kept: Option<(u64, Vec<u8>)>, clock_ms: u64) -> Result<Self, Error> {
        let mut past = kept.and_then(Self::read).unwrap_or_default();
        past.go_on(view)?;
        past.forget_ended(clock_ms);
        Ok(past)
    }

    fn read((records, state): (u64, Vec<u8>)) -> Option<Self> {
        let read: Self = serde_json::from_slice(&state).ok()?;
        (read.version == VERSION).then_some(Self { records, ..read })
    }

    /// Goes on to the last record of `view`.
    pub(crate) fn go_on(&mut self, view: &View) -> Result<(), Error> {
        for record in view.records_between(self.records, view.records()) {
            self.take(&record?);
            // One by one: what was taken before an error must not be taken again.
            self.records += 1;
            if self.records.is_multiple_of(FORGET_EVERY) {
                self.forget_ended(u64::MAX);
            }
        }
        Ok(())
    }

    fn take(&mut self, record: &RecordView) {
        // The earlier of two neighbours: one record of a clock that was wrong for a moment forgets nothing.
        self.typical_ms = record.ts_ms().min(self.last_ms);
        self.last_ms = record.ts_ms();
        if let Some(this) = record::permit_use(record) {
            let key = serde_json::json!([this.nonce, this.issuer, this.subject]).to_string();
            let (last, count) = self.permits.entry(key).or_insert_with(|| (this.clone(), 0));
            *count += 1;
            last.valid_until_ms = last.valid_until_ms.max(this.valid_until_ms);
            last.used_at_ms = last.used_at_ms.max(this.used_at_ms);
        }
        for record::Counted { policy, key, added, window_ms } in record::counted(record) {
            let counter = self.counters.entry(policy).or_default().entry(key).or_default();
            counter.longest_ms = counter.longest_ms.max(window_ms);
            if let Some(amount) = added {
                counter.add(record.ts_ms(), amount);
            }
        }
        if let Some(reason) = record::halt_reason(record) {
            self.halted = Some(reason);
        }
        if record.known_kind() == Some(gavel_ledger::Kind::Event) && record::is_policy_change(record.meta()) {
            self.line = Some(record.meta().to_owned());
        }
        self.approvals.take(record);
    }

    /// Forgets what can no longer matter, so that what is kept stays as small as what is remembered. A record may bear a
    /// time that the clock never had; it is `clock_ms` at most.
    fn forget_ended(&mut self, clock_ms: u64) {
        let now_ms = self.typical_ms.min(clock_ms);
        self.approvals.forget_finished(now_ms);
        self.permits
            .retain(|_, (last, _)| last.valid_until_ms.max(last.used_at_ms).saturating_add(PERMIT_KEPT_MS) >= now_ms);
        for counters in self.counters.values_mut() {
            counters.retain(|_, counter| {
                let ended = |at: u64| at.saturating_add(counter.longest_ms) < now_ms;
                while counter.amounts.front().is_some_and(|(at, _)| ended(*at)) {
                    counter.amounts.pop_front();
                }
                !counter.amounts.is_empty()
            });
        }
        self.counters.retain(|_, counters| !counters.is_empty());
    }

    /// Keeps it beside the ledger.
    pub(crate) fn keep(&mut self, ledger: &Ledger, clock_ms: u64) -> Result<(), Error> {
        self.forget_ended(clock_ms);
        self.version = VERSION;
        let state = serde_json::to_vec(self).unwrap_or_default();
        ledger.keep_state(self.records, &state)
    }

    /// Why the kernel was halted, if it was.
    pub(crate) fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// The `meta` of the last step in the life of the policies.
    pub(crate) fn line(&self) -> Option<&str> {
        self.line.as_deref()
    }

    /// What waits for a human, and what came of it.
    pub(crate) fn approvals(&self) -> &Book {
        &self.approvals
    }

    /// Tells the memory of permits and the counters what they were told before.
    pub(crate) fn tell(&self, remembered: &Remembered) -> anyhow::Result<()> {
        let (mut uses, counters) = (remembered.permits(), remembered.counters());
        for (last, count) in self.permits.values() {
            for _ in 0..*count {
                uses.restore(last)?;
            }
        }
        for (policy, by_key) in &self.counters {
            for (key, counter) in by_key {
                let Some((last_ms, _)) = counter.amounts.back() else { continue };
                // Reading first: amounts are kept for the longest window that was ever asked for.
                counters.read(policy, key, counter.longest_ms, *last_ms);
                for (at_ms, amount) in &counter.amounts {
                    counters.add(policy, key, *amount, counter.longest_ms, *at_ms);
                }
            }
        }
        Ok(())
    }
}

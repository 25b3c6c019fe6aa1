//! Judging records: a law of its own for each kind of check, without I/O and without a clock.
//!
//! What is found depends on the records and their times alone, and not on how they came in pages: so whoever judges them
//! again, after a kill or with a changed set of controls, finds the same, and the same evidence has the same id. Only what
//! did *not* come is found by the clock: by the time until which a ledger is known to have been read to its end.

use super::control::{Check, Control, Follows, Fresh, Rate, Same};
use crate::following::Record;
use gavel_proof::hash::HexHash;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};

/// Records that a finding names.
const EVIDENCE_MAX: usize = 20;
/// Parts of a window that are counted apart: it slides by one of them.
const PARTS: u64 = 60;

/// A record as evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Evidence {
    pub(super) index: u64,
    pub(super) hash: String,
    pub(super) ts_ms: u64,
}

impl Evidence {
    fn of(record: &Record) -> Self {
        Self { index: record.index, hash: record.hash.clone(), ts_ms: record.ts_ms }
    }
}

/// That a control did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) message: String,
    pub(super) evidence: Vec<Evidence>,
    /// What tells it apart where there is no record to name.
    pub(super) mark: String,
}

impl Violation {
    /// Its id: of the control, the source and the evidence, and nothing else.
    pub(super) fn id(&self, control: &str, source: &str) -> String {
        let hashes: Vec<_> = self.evidence.iter().map(|record| (&record.index, &record.hash)).collect();
        let digest = Sha256::digest(json!([control, source, hashes, self.mark]).to_string());
        HexHash::of(&digest.into()).as_str().chars().take(32).collect()
    }
}

/// What a control remembers of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// Records that were judged.
    pub(super) judged: u64,
    /// Records that matched.
    pub(super) matched: u64,
    /// What could not be judged, for want of room or of what to compare.
    pub(super) not_judged: u64,
    /// Of a rate: matches and all, by parts of the window.
    parts: BTreeMap<u64, (u64, u64)>,
    recent: VecDeque<Evidence>,
    over: bool,
    /// Of what must be followed: what was not yet, by number.
    open: BTreeMap<u64, Open>,
    /// Of what must come again: the last, or since when it is waited for.
    last: Option<Evidence>,
    since_ms: Option<u64>,
    /// The finding that says that it did not come.
    stale: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    key: String,
    hash: String,
    ts_ms: u64,
}

/// What judging came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) violations: Vec<Violation>,
    /// Findings that are over by themselves, and why.
    pub(super) over: Vec<(String, String)>,
}

/// Judge the next record of a source.
pub(super) fn record(control: &Control, state: &mut State, record: &Record, pending_max: usize, judged: &mut Judged) {
    state.judged += 1;
    match &control.check {
        Check::Never(matcher) => {
            if matcher.matches(record) {
                state.matched += 1;
                let message = format!("record {} must not be: {}", record.index, described(record));
                judged.violations.push(Violation {
                    message,
                    evidence: vec![Evidence::of(record)],
                    mark: String::new(),
                });
            }
        }
        Check::Rate(rate) => state.rate(rate, record, judged),
        Check::Follows(follows) => state.follows(follows, record, pending_max, judged),
        Check::Fresh(fresh) => {
            if fresh.matches.matches(record) {
                state.matched += 1;
                state.last = Some(Evidence::of(record));
                if let Some(finding) = state.stale.take() {
                    judged.over.push((finding, format!("record {} came", record.index)));
                }
            }
        }
        Check::Chain(_) => {}
    }
}

/// Judge what did not come, of a source that was read to its end at `read_ms`. Whether anything is remembered anew.
pub(super) fn elapsed(control: &Control, source: &str, state: &mut State, read_ms: u64, judged: &mut Judged) -> bool {
    let before = judged.violations.len();
    match &control.check {
        Check::Follows(follows) => state.expire(follows, None, read_ms, judged),
        Check::Fresh(fresh) => {
            if state.since_ms.is_none() {
                state.since_ms = Some(read_ms);
                return true;
            }
            state.fresh(fresh, &control.id, source, read_ms, judged);
        }
        Check::Never(_) | Check::Rate(_) | Check::Chain(_) => {}
    }
    judged.violations.len() > before
}

impl State {
    fn rate(&mut self, rate: &Rate, record: &Record, judged: &mut Judged) {
        let matches = rate.matches.matches(record);
        if !matches && !rate.of.matches(record) {
            return;
        }
        let width = (rate.window_ms / PARTS).max(1);
        let part = record.ts_ms / width;
        let newest = self.parts.last_key_value().map_or(part, |(newest, _)| part.max(*newest));
        let oldest = (newest + 1).saturating_sub(PARTS);
        self.parts = self.parts.split_off(&oldest);
        if part >= oldest {
            let counted = self.parts.entry(part).or_default();
            *counted = (counted.0 + u64::from(matches), counted.1 + 1);
        }
        if matches {
            self.matched += 1;
            self.recent.push_back(Evidence::of(record));
        }
        while self.recent.len() > EVIDENCE_MAX || self.recent.front().is_some_and(|first| first.ts_ms / width < oldest)
        {
            self.recent.pop_front();
        }
        let (found, all) = self.parts.values().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        let too_many = rate.more_than.is_some_and(|most| found > most);
        let share = rate.more_than_percent.filter(|_| all >= rate.at_least.max(1));
        let too_much = share.is_some_and(|most| found.saturating_mul(100) > most.saturating_mul(all));
        let over = too_many || too_much;
        if over && !self.over {
            let message = format!("{found} of {all} records within {} ms match", rate.window_ms);
            let evidence = self.recent.iter().cloned().collect();
            judged.violations.push(Violation { message, evidence, mark: String::new() });
        }
        self.over = over;
    }

    fn follows(&mut self, follows: &Follows, record: &Record, pending_max: usize, judged: &mut Judged) {
        self.expire(follows, Some(record.index), record.ts_ms, judged);
        let key = match follows.same {
            Same::RequestId => &record.request_id,
            Same::Actor => &record.actor,
        };
        if follows.then.matches(record)
            && let Some(key) = key
        {
            self.open.retain(|_, open| open.key != *key);
        }
        if !follows.first.matches(record) {
            return;
        }
        self.matched += 1;
        match key {
            Some(key) if self.open.len() < pending_max => {
                let open = Open { key: key.clone(), hash: record.hash.clone(), ts_ms: record.ts_ms };
                self.open.insert(record.index, open);
            }
            _ => self.not_judged += 1,
        }
    }

    /// What was not followed in time, by the number of a record, or by a time until which all was read.
    fn expire(&mut self, follows: &Follows, index: Option<u64>, now_ms: u64, judged: &mut Judged) {
        let late = |number: u64, open: &Open| {
            let by_number =
                follows.within_records.zip(index).is_some_and(|(most, index)| index > number.saturating_add(most));
            by_number || follows.within_ms.is_some_and(|most| now_ms > open.ts_ms.saturating_add(most))
        };
        while let Some(first) = self.open.first_entry() {
            let number = *first.key();
            if !late(number, first.get()) {
                return;
            }
            let Open { key, hash, ts_ms } = first.remove();
            let message =
                format!("what must follow on record {number} ('{}') did not follow in time", key.escape_debug());
            let evidence = vec![Evidence { index: number, hash, ts_ms }];
            judged.violations.push(Violation { message, evidence, mark: String::new() });
        }
    }

    fn fresh(&mut self, fresh: &Fresh, control: &str, source: &str, read_ms: u64, judged: &mut Judged) {
        let base = self.last.as_ref().map_or(self.since_ms.unwrap_or(read_ms), |last| last.ts_ms);
        if self.stale.is_some() || read_ms <= base.saturating_add(fresh.every_ms) {
            return;
        }
        let what = self.last.as_ref().map_or_else(
            || "no such record has come".to_owned(),
            |last| format!("nothing has come since record {}", last.index),
        );
        let violation = Violation {
            message: format!("{what}, for more than {} ms", fresh.every_ms),
            evidence: self.last.iter().cloned().collect(),
            mark: "stale".to_owned(),
        };
        self.stale = Some(violation.id(control, source));
        judged.violations.push(violation);
    }
}

fn described(record: &Record) -> String {
    let said = [
        ("kind", Some(&record.kind)),
        ("actor", record.actor.as_ref()),
        ("tool", record.tool.as_ref()),
        ("decision", record.decision.as_ref()),
        ("policy", record.policy.as_ref()),
        ("reason", record.reason.as_ref()),
    ];
    let said = said.into_iter().filter_map(|(name, said)| {
        let short: String = said?.chars().take(200).collect();
        Some(format!("{name} '{}'", short.escape_debug()))
    });
    said.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

//! Play 3.2, the investigation of an anomaly: who did what in a stretch of time.
//!
//! The seeds' keys, and beside them what leads on: the busiest minutes, the first and the last entry,
//! and what operators did meanwhile. A tool is counted where it was asked for, also by a request that
//! was denied or whose tool failed, which its entry does not tell but its record does.

use super::event::{OperatorEvent, event_of};
use super::reading::records_between;
use super::{Operations, Played};
use crate::kernel::Kernel;
use anyhow::Context;
use gavel_ledger::{Error, RecordView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const MINUTE_MS: u64 = 60_000;
/// Minutes that are shown: the busiest.
const BUSIEST: usize = 5;
/// Where names are counted of which there are too many to count each.
const OTHERS: &str = "(others)";
/// Decisions whose tools are remembered until their outcomes come. More run at no time.
const OPEN_MAX: usize = 65_536;

/// A stretch of time, both ends included, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TimeRange {
    /// From here.
    pub start: u64,
    /// To here.
    pub end: u64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// Where was looked.
    pub time_range: TimeRange,
    /// Entries in it.
    pub entry_count: u64,
    /// Entries by who asked.
    pub by_actor: BTreeMap<String, u64>,
    /// Entries by the tool asked for; `none` where none was.
    pub by_tool: BTreeMap<String, u64>,
    /// Entries by decision.
    pub by_decision: BTreeMap<String, u64>,
    /// Denials and failures, oldest first, up to the limit.
    pub errors: Vec<Failure>,
    /// All of them.
    pub error_count: u64,
    /// How often each error came, up to the limit.
    pub by_error: BTreeMap<String, u64>,
    /// The minutes with the most entries.
    pub busiest_minutes: Vec<Minute>,
    /// The earliest entry.
    pub first: Option<Seen>,
    /// The latest entry.
    pub last: Option<Seen>,
    /// What operators did, up to the limit.
    pub operator_events: Vec<OperatorEvent>,
    /// Steps in the life of the policies.
    pub policy_changes: u64,
}

/// A denial or failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The request.
    pub request_id: String,
    /// Why.
    pub error: String,
    /// When.
    pub ts_ms: u64,
    /// Who asked.
    pub actor: String,
    /// For which tool; `none` if for none.
    pub tool: String,
}

/// A minute and its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Minute {
    /// Where it begins, in milliseconds since 1970.
    pub start_ms: u64,
    /// Entries in it.
    pub entries: u64,
}

/// An entry, briefly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its place in the chain.
    pub ledger_seq: u64,
    /// The request.
    pub request_id: String,
    /// Who asked.
    pub actor: String,
    /// When.
    pub ts_ms: u64,
}

impl Operations {
    /// Look into a stretch of time of a kernel.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn investigate(&self, kernel: &Arc<Kernel>, range: TimeRange) -> Played<Findings> {
        let (kernel, limit) = (Arc::clone(kernel), self.inner.limits.max_findings);
        let found = self.read(move || {
            let snapshot = kernel.ledger().snapshot();
            Ok(look(records_between(&kernel, &snapshot, range.start, range.end), range, limit)?)
        });
        Ok(found.await.context("the ledger cannot be read")?)
    }
}

/// Look at `records`, which must hold at least those of `range`; `limit` bounds every list.
///
/// # Errors
/// When a record cannot be read.
pub fn look(
    records: impl Iterator<Item = Result<RecordView, Error>>,
    range: TimeRange,
    limit: usize,
) -> Result<Findings, Error> {
    let mut looking = Looking::new(range, limit);
    for record in records {
        looking.record(&record?);
    }
    Ok(looking.finish())
}

struct Looking {
    found: Findings,
    limit: usize,
    minutes: HashMap<u64, u64>,
    /// Tools of decisions whose outcomes are still to come.
    open: HashMap<u64, String>,
}

/// What is read of an entry.
#[derive(Deserialize)]
struct Entry {
    ts_ms: u64,
    request_id: String,
    actor: String,
    decision: String,
    tool_name: Option<String>,
    error: Option<String>,
}

impl Looking {
    fn new(time_range: TimeRange, limit: usize) -> Self {
        let found = Findings {
            time_range,
            entry_count: 0,
            by_actor: BTreeMap::new(),
            by_tool: BTreeMap::new(),
            by_decision: BTreeMap::new(),
            errors: Vec::new(),
            error_count: 0,
            by_error: BTreeMap::new(),
            busiest_minutes: Vec::new(),
            first: None,
            last: None,
            operator_events: Vec::new(),
            policy_changes: 0,
        };
        Self { found, limit, minutes: HashMap::new(), open: HashMap::new() }
    }

    fn holds(&self, ts_ms: u64) -> bool {
        (self.found.time_range.start..=self.found.time_range.end).contains(&ts_ms)
    }

    fn record(&mut self, record: &RecordView) {
        let Some(view) = record.entry() else { return self.without_entry(record) };
        let tool = match record.closes() {
            Some(decision) => self.open.remove(&decision),
            None => None,
        };
        // An entry of a ledger that was verified reads back; what a later version wrote may not.
        let Ok(entry) = serde_json::from_str::<Entry>(view.data) else { return };
        if self.holds(entry.ts_ms) {
            let tool = entry.tool_name.clone().or(tool).or_else(|| tool_of(record)).unwrap_or_else(|| "none".into());
            self.entry(view.ledger_seq, entry, tool);
        }
    }

    fn without_entry(&mut self, record: &RecordView) {
        if record.kind() == "decision" && self.open.len() < OPEN_MAX {
            self.open.extend(tool_of(record).map(|tool| (record.index(), tool)));
        }
        if record.kind() != "event" || !self.holds(record.ts_ms()) {
            return;
        }
        if crate::record::is_policy_event(record.meta()) {
            self.found.policy_changes += 1;
        } else if self.found.operator_events.len() < self.limit {
            self.found.operator_events.extend(event_of(record));
        }
    }

    fn entry(&mut self, ledger_seq: u64, entry: Entry, tool: String) {
        let Entry { ts_ms, request_id, actor, decision, error, .. } = entry;
        self.found.entry_count += 1;
        count(&mut self.found.by_actor, &actor, self.limit);
        count(&mut self.found.by_tool, &tool, self.limit);
        count(&mut self.found.by_decision, &decision, self.limit);
        let minute = ts_ms - ts_ms % MINUTE_MS;
        *self.minutes.entry(minute).or_default() += 1;
        let seen = Seen { ledger_seq, request_id: request_id.clone(), actor: actor.clone(), ts_ms };
        self.found.first.get_or_insert_with(|| seen.clone());
        self.found.last = Some(seen);
        let Some(error) = error else { return };
        self.found.error_count += 1;
        count(&mut self.found.by_error, &error, self.limit);
        if self.found.errors.len() < self.limit {
            self.found.errors.push(Failure { request_id, error, ts_ms, actor, tool });
        }
    }

    fn finish(mut self) -> Findings {
        let mut minutes: Vec<_> = self.minutes.into_iter().collect();
        minutes.sort_by_key(|(start_ms, entries)| (std::cmp::Reverse(*entries), *start_ms));
        minutes.truncate(BUSIEST);
        let minutes = minutes.into_iter().map(|(start_ms, entries)| Minute { start_ms, entries });
        self.found.busiest_minutes = minutes.collect();
        self.found
    }
}

/// The tool that a decision's record names.
fn tool_of(record: &RecordView) -> Option<String> {
    let meta: Value = serde_json::from_str(record.meta()).ok()?;
    Some(meta.get("tool_name")?.as_str()?.to_owned())
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str, limit: usize) {
    let name = if counts.contains_key(name) || counts.len() < limit { name } else { OTHERS };
    *counts.entry(name.to_owned()).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_names_than_the_limit_are_counted_together() {
        let mut counts = BTreeMap::new();
        for name in ["a", "b", "c", "a", "d"] {
            count(&mut counts, name, 2);
        }
        assert_eq!(counts, BTreeMap::from([("a".into(), 2), ("b".into(), 1), (OTHERS.into(), 2)]));
    }
}

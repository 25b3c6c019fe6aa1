//! Finding records without an index: every record is read, and the newest that match are kept.

use super::query::{Page, PageLimits, Position, Query};
use gavel_ledger::{Error, RecordView};
use std::collections::BTreeMap;

/// Find records among `records`, newest first; memory is bounded by the limits of the page.
///
/// # Errors
/// When a record cannot be read.
pub fn scan(
    records: impl Iterator<Item = Result<RecordView, Error>>,
    query: &Query,
    limits: PageLimits,
) -> Result<Page, Error> {
    let mut kept: BTreeMap<Position, RecordView> = BTreeMap::new();
    let (mut bytes, mut seen, mut dropped) = (0, 0, false);
    for record in records {
        let record = record?;
        seen += 1;
        if !query.matches(&record) {
            continue;
        }
        bytes += record.as_str().len();
        kept.insert(Position::of(&record), record);
        while kept.len() > 1 && (kept.len() > limits.records || bytes > limits.bytes) {
            bytes -= kept.pop_first().map_or(0, |(_, oldest)| oldest.as_str().len());
            dropped = true;
        }
    }
    let next = kept.first_key_value().map(|(oldest, _)| *oldest).filter(|_| dropped);
    let records = kept.into_values().rev().collect();
    Ok(Page { records, next, indexed: seen, committed: seen })
}

//! How this module reads the ledger: the only file in it that does.

use gavel_ledger::tree::{Hash, leaf_hash};
use gavel_ledger::{Error, Ledger, RecordView};

/// The record at `index`, which must be committed.
pub(crate) fn record(ledger: &Ledger, index: u64) -> Result<RecordView, Error> {
    between(ledger, index, index + 1).next().unwrap_or_else(|| {
        unreachable!("record {index} was to be read of a ledger with {} records", ledger.snapshot().records)
    })
}

/// The records from `start` to before `end`, which must be committed.
pub(crate) fn between(ledger: &Ledger, start: u64, end: u64) -> impl Iterator<Item = Result<RecordView, Error>> {
    let skipped = usize::try_from(start).unwrap_or(usize::MAX);
    let count = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    ledger.records(&ledger.snapshot()).skip(skipped).take(count)
}

/// What tells ledgers apart: the leaf hash of their first record.
pub(crate) fn ledger_id(ledger: &Ledger) -> Result<Hash, Error> {
    Ok(leaf_hash(record(ledger, 0)?.as_str().as_bytes()))
}

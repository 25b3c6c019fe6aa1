//! How this module reads the ledger: the only file in it that does.

use gavel_ledger::tree::{Hash, leaf_hash};
use gavel_ledger::{Error, Ledger, RecordView, Records};

/// The record at `index`.
pub(crate) fn record(ledger: &Ledger, index: u64) -> Result<RecordView, Error> {
    ledger.view().record(index)
}

/// The records from `start` to before `end`, as far as they are committed.
pub(crate) fn between(ledger: &Ledger, start: u64, end: u64) -> Records {
    ledger.view().records_between(start, end)
}

/// What tells ledgers apart: the leaf hash of their first record.
pub(crate) fn ledger_id(ledger: &Ledger) -> Result<Hash, Error> {
    Ok(leaf_hash(record(ledger, 0)?.as_str().as_bytes()))
}

//! The ways in which plays read a ledger. All of them go through here, so that a reading can be
//! narrowed in one place once the ledger finds records without reading those before them.

use super::event::{OperatorEvent, event_of};
use crate::kernel::Kernel;
use gavel_ledger::{Error, RecordView, Snapshot};

/// The records of `kernel` from `start` on, up to `snapshot`.
pub(super) fn records_from(
    kernel: &Kernel,
    snapshot: &Snapshot,
    start: u64,
) -> impl Iterator<Item = Result<RecordView, Error>> {
    // An error ends the reading, so it is never among those that are skipped but for the last.
    kernel.ledger().records(snapshot).skip_while(move |record| record.as_ref().is_ok_and(|found| found.index() < start))
}

/// The records of `kernel` that may have been written between these times, both included. The clock
/// of a machine can be set back, so times are no order: this may yield others too, never fewer.
pub(super) fn records_between(
    kernel: &Kernel,
    snapshot: &Snapshot,
    _start_ms: u64,
    _end_ms: u64,
) -> impl Iterator<Item = Result<RecordView, Error>> {
    records_from(kernel, snapshot, 0)
}

/// The last event of this type.
pub(super) fn last_event(kernel: &Kernel, snapshot: &Snapshot, what: &str) -> Result<Option<OperatorEvent>, Error> {
    let mut last = None;
    for record in records_from(kernel, snapshot, 0) {
        last = event_of(&record?).filter(|event| event.what == what).or(last);
    }
    Ok(last)
}

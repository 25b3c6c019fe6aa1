//! The ways in which plays read a ledger. All of them go through here, so that a reading can be
//! narrowed in one place.

use super::event::{OperatorEvent, event_of};
use crate::kernel::Kernel;
use gavel_ledger::{Error, RecordView, Records, Snapshot};

/// Records that are read at a time by who goes back from the end.
const STEP_BACK: u64 = 4_096;

/// The records of `kernel` from `start` on, up to `snapshot`.
pub(super) fn records_from(kernel: &Kernel, snapshot: &Snapshot, start: u64) -> Records {
    kernel.ledger().view().records_between(start, snapshot.records)
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

/// The last event of this type, looked for from the end.
pub(super) fn last_event(kernel: &Kernel, snapshot: &Snapshot, what: &str) -> Result<Option<OperatorEvent>, Error> {
    let view = kernel.ledger().view();
    let mut end = snapshot.records;
    while end > 0 {
        let start = end.saturating_sub(STEP_BACK);
        let mut last = None;
        for record in view.records_between(start, end) {
            last = event_of(&record?).filter(|event| event.what == what).or(last);
        }
        if last.is_some() {
            return Ok(last);
        }
        end = start;
    }
    Ok(None)
}

//! The ways in which plays read a ledger. Where the index knows which records cannot be meant, they are not read; where
//! there is no index, all are.

use super::event::{OperatorEvent, event_of};
use crate::index::{PageLimits, Query};
use crate::kernel::Kernel;
use gavel_ledger::{Error, Kind, RecordView, Snapshot};

/// The records of `kernel` from `start` on, up to `snapshot`.
pub(super) fn records_from(
    kernel: &Kernel,
    snapshot: &Snapshot,
    start: u64,
) -> impl Iterator<Item = Result<RecordView, Error>> {
    kernel.ledger().view().records_between(start, snapshot.records)
}

/// The records of `kernel` that may have been written between these times, both included. The clock
/// of a machine can be set back, so times are no order: this may yield others too, never fewer.
pub(super) fn records_between(
    kernel: &Kernel,
    snapshot: &Snapshot,
    start_ms: u64,
    end_ms: u64,
) -> impl Iterator<Item = Result<RecordView, Error>> {
    let known = kernel.index.as_ref().and_then(|index| index.range(start_ms, end_ms).ok());
    let range = known.unwrap_or(0..snapshot.records);
    kernel.ledger().view().records_between(range.start, range.end.min(snapshot.records))
}

/// The last event of this type: by its place in the log, which the clock does not tell.
pub(super) fn last_event(kernel: &Kernel, snapshot: &Snapshot, what: &str) -> Result<Option<OperatorEvent>, Error> {
    let mut last: Option<(u64, OperatorEvent)> = None;
    let mut look = |record: &RecordView| {
        let later = last.as_ref().is_none_or(|(index, _)| *index < record.index());
        if let Some(event) = event_of(record).filter(|event| later && event.what == what) {
            last = Some((record.index(), event));
        }
    };
    if !each_event_by_index(kernel, snapshot, &mut look) {
        for record in records_from(kernel, snapshot, 0) {
            look(&record?);
        }
    }
    Ok(last.map(|(_, event)| event))
}

/// Look at the events alone, page by page; whether the index had them all.
fn each_event_by_index(kernel: &Kernel, snapshot: &Snapshot, look: &mut impl FnMut(&RecordView)) -> bool {
    let Some(index) = &kernel.index else { return false };
    let mut query = Query { kind: Some(Kind::Event.as_str().to_owned()), ..Query::default() };
    loop {
        let Ok(page) = index.find(&query, PAGE) else { return false };
        page.records.iter().filter(|record| record.index() < snapshot.records).for_each(&mut *look);
        match page.next {
            _ if page.indexed < snapshot.records => return false,
            Some(next) => query.cursor = Some(next),
            None => return true,
        }
    }
}

/// Events that are read at a time.
const PAGE: PageLimits = PageLimits { records: 256, bytes: 4 << 20 };

//! Reading a ledger upward, as whoever follows it does: from a record on, in the order of the log.
//!
//! No index is asked: the ledger itself knows its order, so this also answers where there is no index.

use super::PageLimits;
use crate::kernel::Kernel;
use anyhow::Result;
use gavel_ledger::{Error, RecordView, View};

/// Records as they stand in the log.
#[derive(Debug, Clone, Default)]
pub struct Upward {
    /// The records, each the next one of the one before.
    pub records: Vec<RecordView>,
    /// Where the next page begins.
    pub next: u64,
    /// Records that the ledger held when this was read.
    pub committed: u64,
}

impl Kernel {
    /// The records from `start` on. Where those are only in an archive, the page begins with the first that is here.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn upward(&self, start: u64, limits: PageLimits) -> Result<Upward> {
        Ok(upward(&self.ledger.view(), start, limits)?)
    }
}

/// The same of a ledger that is only read.
pub(crate) fn upward(view: &View, start: u64, limits: PageLimits) -> Result<Upward, Error> {
    match page(view, start, limits) {
        Err(Error::Remote { .. }) => {
            let first = view.first_here()?.records;
            page(view, first.max(start), limits)
        }
        read => read,
    }
}

fn page(view: &View, start: u64, limits: PageLimits) -> Result<Upward, Error> {
    let committed = view.records();
    let mut page = Upward { records: Vec::new(), next: start, committed };
    let mut bytes = 0;
    for record in view.records_between(start, committed) {
        let record = record?;
        bytes += record.as_str().len();
        page.next = record.index() + 1;
        page.records.push(record);
        if page.records.len() >= limits.records || bytes >= limits.bytes {
            break;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_ledger::{Draft, Identity, Kind, Ledger, Options};

    fn told(page: &Upward) -> (Vec<u64>, u64, u64) {
        (page.records.iter().map(RecordView::index).collect(), page.next, page.committed)
    }

    #[test]
    fn pages_follow_each_other_and_have_their_limits() {
        let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
        let ledger = Ledger::in_memory(Options::new(identity, 1)).unwrap();
        for _ in 0..4 {
            let draft = Draft { kind: Kind::Event, ts_ms: 2, meta: r#"{"n":1}"#.into(), entry: None, closes: None };
            ledger.append_wait(draft).unwrap();
        }
        let view = ledger.view();
        let all = PageLimits { records: 100, bytes: usize::MAX };
        assert_eq!(told(&upward(&view, 0, all).unwrap()), (vec![0, 1, 2, 3, 4], 5, 5));
        assert_eq!(told(&upward(&view, 3, all).unwrap()), (vec![3, 4], 5, 5));
        assert_eq!(told(&upward(&view, 1, PageLimits { records: 2, ..all }).unwrap()), (vec![1, 2], 3, 5));
        // At least one record, however few bytes there may be.
        assert_eq!(told(&upward(&view, 1, PageLimits { bytes: 1, ..all }).unwrap()), (vec![1], 2, 5));
        assert_eq!(told(&upward(&view, 5, all).unwrap()), (vec![], 5, 5));
        assert_eq!(told(&upward(&view, 9, all).unwrap()), (vec![], 9, 5));
    }
}

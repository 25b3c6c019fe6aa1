//! Finding records: which of them are about a request, an actor, a tool, a decision, a time.
//!
//! The index is derived from the ledger and never the truth: it says where to look, and what is shown is read
//! from the ledger and compared with what was asked. A thread follows the ledger ([`follow`]); nobody
//! who decides waits for it. Its file may be deleted at any time; one that is damaged, of another ledger or of
//! another version is set aside (`index.redb.aside`) and made anew.
//!
//! Without an index, a ledger is read from its first record on ([`scan`]), which finds the same.

mod facts;
mod follow;
mod query;
mod scan;
pub(crate) mod source;
mod store;
mod upward;

pub use facts::Facts;
pub use query::{Page, PageLimits, Position, Query};
pub use scan::scan;
pub use upward::Upward;
pub(crate) use upward::upward;

use crate::kernel::Kernel;
use anyhow::{Result, anyhow};
use follow::Follower;
use gavel_ledger::Ledger;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::{Term, Walked};

/// The file in a kernel's folder.
pub const FILE: &str = "index.redb";

/// How long a question waits until the index has what was committed when it was asked.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The index of a ledger, kept by a thread until it is closed or dropped.
pub struct Index {
    ledger: Arc<Ledger>,
    follower: Follower,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("indexed", &self.follower.indexed()).finish_non_exhaustive()
    }
}

impl Index {
    /// Begin to follow `ledger`; the file lies in `folder`. What is wrong with the file is told in the log and by the
    /// answers, never to whoever decides.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn open(folder: &Path, ledger: &Arc<Ledger>, cache_bytes: usize) -> std::io::Result<Self> {
        let follower = Follower::start(folder.join(FILE), Arc::clone(ledger), cache_bytes)?;
        Ok(Self { ledger: Arc::clone(ledger), follower })
    }

    /// Something was committed. Cheap.
    pub fn notify(&self) {
        self.follower.notify();
    }

    /// Records in the index.
    #[must_use]
    pub fn indexed(&self) -> u64 {
        self.follower.indexed()
    }

    /// Find records, newest first. Waits a little while until what is committed now is in the index.
    ///
    /// # Errors
    /// When there is no index, or the ledger cannot be read.
    pub fn find(&self, query: &Query, limits: PageLimits) -> Result<Page> {
        let committed = self.ledger.snapshot().records;
        let indexed = self.follower.wait_for(committed, CATCH_UP);
        let mut page = Page { indexed: indexed.min(committed), committed, ..Page::default() };
        let Some(bounds) = query.bounds() else { return Ok(page) };
        let mut bytes = 0;
        let mut misfit = None;
        let store = self.follower.store()?;
        let walked = store.walk(&Term::of_query(query), bounds, |at| {
            // What was committed after the question is left for the next one.
            if at.index >= committed {
                return Ok(true);
            }
            let record = source::record(&self.ledger, at.index)?;
            let facts = Facts::of(&record);
            if Position::of(&record) != at || !Term::of_query(query).iter().all(|term| is_of(*term, &facts)) {
                misfit = Some(at);
                return Ok(false);
            }
            if query.wants(&facts) {
                bytes += record.as_str().len();
                page.records.push(record);
            }
            Ok(page.records.len() < limits.records && bytes < limits.bytes)
        });
        if let Some(at) = misfit {
            self.follower.distrust(&format!("it has record {} at a place where the ledger has another", at.index));
            return Err(anyhow!("the index does not fit the ledger and is being rebuilt: ask again"));
        }
        page.next = match walked? {
            Walked::ToTheEnd => None,
            Walked::Until(at) => Some(at),
        };
        Ok(page)
    }

    /// A range of indices, as small as is known, that holds every committed record of these times.
    ///
    /// # Errors
    /// When there is no index.
    pub fn range(&self, from_ms: u64, to_ms: u64) -> Result<Range<u64>> {
        let committed = self.ledger.snapshot().records;
        let indexed = self.follower.wait_for(committed, CATCH_UP).min(committed);
        let found = self.follower.store()?.range(from_ms, to_ms)?;
        // Of what is not indexed nothing is known.
        let unknown = (indexed < committed).then_some(indexed..committed);
        Ok(match (found, unknown) {
            (Some(found), Some(unknown)) => found.start..unknown.end,
            (Some(found), None) => found.start..found.end.min(committed),
            (None, Some(unknown)) => unknown,
            (None, None) => 0..0,
        })
    }

    /// Stop following; what is indexed is made durable.
    pub fn close(&self) {
        self.follower.close();
    }
}

impl Kernel {
    /// Find records, newest first: by the index, or, in a kernel without a folder, by reading all.
    ///
    /// # Errors
    /// When there is no index, or the ledger cannot be read.
    pub fn find(&self, query: &Query, limits: PageLimits) -> Result<Page> {
        match &self.index {
            Some(index) => index.find(query, limits),
            None => self.find_by_reading(query, limits),
        }
    }

    /// The same for what must not miss a record: where the index is not up to date, or there is none, all are read.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn find_surely(&self, query: &Query, limits: PageLimits) -> Result<Page> {
        match self.find(query, limits) {
            Ok(page) if page.indexed == page.committed => Ok(page),
            _ => self.find_by_reading(query, limits),
        }
    }

    fn find_by_reading(&self, query: &Query, limits: PageLimits) -> Result<Page> {
        Ok(scan(self.ledger.records(&self.ledger.snapshot()), query, limits)?)
    }
}

fn is_of(term: Term, facts: &Facts) -> bool {
    Term::of_facts(facts).contains(&term)
}

#[cfg(test)]
mod tests;

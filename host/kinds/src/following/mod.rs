//! Following the ledgers of a fleet: those of governance, and the immutable log, each from its first record on.
//!
//! Whoever follows is a [`Sink`]: it is given pages in the order of each ledger and keeps, together with what it makes of
//! them, how far it has come. So a kill between two pages loses nothing and gives nothing twice. A [`Follower`] asks in the
//! background, seldom, and at once where a question waits for what is committed now. A source that does not answer
//! holds up nobody: it is told as being behind.
//!
//! Each page begins with the last record of the page before: where that is not what it was, or where the ledger has become
//! shorter, the history was rewritten, and the sink is told to begin anew.

mod fetching;
mod record;
mod rounds;
mod slices;
mod source;
#[cfg(test)]
pub(crate) mod trial;

pub(crate) use record::Record;
pub(crate) use rounds::{Follower, Pace, Seen};
pub(crate) use source::{Origin, Source};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far a ledger was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The next record.
    pub(crate) next: u64,
    /// The hash of the record before it, if there is one.
    pub(crate) hash: Option<String>,
    /// Records that were not there to be read, because they are only in an archive.
    #[serde(default)]
    pub(crate) missed: u64,
}

/// Some records of one ledger, in its order.
#[derive(Debug)]
pub(crate) struct Page {
    /// The name of the source.
    pub(crate) source: String,
    /// The records that follow on those before.
    pub(crate) records: Vec<Record>,
    /// How far the ledger is read with this page.
    pub(crate) position: Position,
    /// The history that was read before is not that of the ledger any more: how it is known. The page is then empty, its
    /// position is the beginning, and what was made of the source before does not count.
    pub(crate) rewritten: Option<String>,
}

/// A source that was read to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// When it was asked for the last time.
    pub(crate) read_ms: u64,
    /// Whether nothing can follow any more: its kernel was replaced.
    pub(crate) is_final: bool,
}

/// Sources that were read to their end.
pub(crate) type CaughtUp = BTreeMap<String, End>;

/// Who is given what was read. Its methods may block.
pub(crate) trait Sink: Send + Sync + 'static {
    /// How far a source was taken; the beginning if it never was.
    fn position(&self, source: &str) -> Position;

    /// Take the next page. If it fails, nothing of the page is taken.
    fn take(&self, page: &Page) -> anyhow::Result<()>;

    /// A round is over: what was taken is to be durable.
    fn settle(&self, caught_up: &CaughtUp) -> anyhow::Result<()>;
}

//! Reads a segment from its first byte and believes nothing: header, checksums, leaf indices, tree
//! roots, the chain, the rules of the log, and how the commit frames follow one another.
//!
//! Opening and verifying are the same scan; they differ in what they do when it stops early, which
//! `tail` judges. Whatever is well-formed but wrong (a root, a link of the chain) is damage at
//! once: no crash produces a valid checksum.

use crate::error::Error;
use crate::frame::{Commit, FORMAT_VERSION, HEADER_BYTES, Header, HeaderFault, Mark, SEGMENT};
use crate::frames::{Broken, Frame, Frames, read_exact_at};
use crate::storage::ReadAt;
use gavel_proof::record::{self, EntryView, Facts, Parts, RecordView};
use gavel_proof::state::{Link, State};
use gavel_proof::tree::leaf_hash;
use std::sync::Arc;

/// A record on its way past.
pub(crate) struct Passing<'a> {
    pub(crate) text: &'a str,
    pub(crate) parts: &'a Parts,
    pub(crate) facts: &'a Facts,
}

/// How far the log is extent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Records up to the last commit frame.
    pub(crate) size: u64,
    /// Entries of the chain among them.
    pub(crate) entries: u64,
    /// Offset just after the last commit frame.
    pub(crate) end: u64,
    /// Offset of the last commit frame.
    pub(crate) commit_at: u64,
    /// Offset of the first frame of the last batch.
    pub(crate) batch_start: u64,
    pub(crate) batches: u64,
}

/// What a scan found.
pub(crate) struct Scanned {
    /// After all records that could be read, committed or not.
    pub(crate) state: State,
    pub(crate) extent: Extent,
    /// Why it ended before the end, if it did. Nothing at or after `extent.end` counts then.
    pub(crate) broken: Option<Broken>,
    /// The record `opened`, unless not even that could be read.
    pub(crate) first: Option<RecordView>,
}

/// Scans the first `end` bytes of `source`, showing each record to `visit`.
pub(crate) fn scan(
    source: &Arc<dyn ReadAt>,
    place: &str,
    end: u64,
    mark: Option<&Mark>,
    visit: &mut dyn FnMut(&Passing<'_>),
) -> Result<Scanned, Error> {
    let header = read_header(&**source, place, end)?;
    let mut frames = Frames::new(Arc::clone(source), end);
    let extent = Extent { end: HEADER_BYTES as u64, ..Extent::default() };
    let mut found = Scanned { state: State::new(), extent, broken: None, first: None };
    loop {
        match frames.step().map_err(Error::io("read", place))? {
            Frame::Record { at, kind_code } => found.record(&header, at, kind_code, frames.payload(), visit)?,
            Frame::Commit { at, commit } => found.commit(at, frames.at(), &commit, mark)?,
            Frame::End => break,
            Frame::Broken(broken) => {
                found.broken = Some(broken);
                break;
            }
        }
    }
    if found.broken.is_none() && found.extent.end < end {
        let what = "the file ends before the commit frame of its last batch";
        found.broken = Some(Broken { at: end, what, cut_off: true });
    }
    found.check_mark(mark)?;
    Ok(found)
}

fn read_header(source: &dyn ReadAt, place: &str, end: u64) -> Result<Header, Error> {
    if end < HEADER_BYTES as u64 {
        return Err(Error::damaged(0, 0, format!("the file has {end} bytes, fewer than its header")));
    }
    let mut bytes = [0; HEADER_BYTES];
    read_exact_at(source, &mut bytes, 0).map_err(Error::io("read", place))?;
    let header = Header::decode(&bytes).map_err(|fault| match fault {
        HeaderFault::Damaged(what) => Error::damaged(0, 0, what),
        HeaderFault::Newer(found) => Error::Newer { segment: SEGMENT, found, supported: FORMAT_VERSION },
    })?;
    if (header.segment, header.first_index) == (SEGMENT, 0) {
        Ok(header)
    } else {
        Err(Error::damaged(0, 0, format!("this is segment {} from record {}", header.segment, header.first_index)))
    }
}

impl Scanned {
    fn record(
        &mut self,
        header: &Header,
        at: u64,
        kind_code: u8,
        payload: &[u8],
        visit: &mut dyn FnMut(&Passing<'_>),
    ) -> Result<(), Error> {
        let index = self.state.records();
        let damaged = |what: String| Error::damaged(at, index, what);
        let text = str::from_utf8(payload).map_err(|error| damaged(format!("the record is not text: {error}")))?;
        let parts = record::parse(text).map_err(|malformed| {
            damaged(format!("byte {} of the record should be {}", malformed.at, malformed.what))
        })?;
        if parts.index != index {
            return Err(damaged(format!("the record calls itself {}", parts.index)));
        }
        let facts = parts.facts(text);
        if facts.kind.is_some_and(|kind| kind.code() != kind_code) {
            return Err(damaged(format!("a frame of kind {kind_code} holds the kind `{}`", parts.kind(text))));
        }
        facts.check_form().and_then(|()| self.state.admit(&facts)).map_err(|rule| damaged(rule.to_string()))?;
        let link = parts.entry(text).map(|entry| self.link(&entry)).transpose().map_err(damaged)?;
        let leaf = leaf_hash(payload);
        if index == 0 {
            if leaf[..16] != header.ledger_id {
                return Err(damaged("the header belongs to another ledger than the first record".to_owned()));
            }
            self.first = Some(RecordView::from_parts(text, parts));
        }
        self.state.advance(&facts, leaf, link);
        visit(&Passing { text, parts: &parts, facts: &facts });
        Ok(())
    }

    fn link(&self, entry: &EntryView<'_>) -> Result<Link, String> {
        let chain = &self.state.chain;
        if entry.ledger_seq != chain.len {
            return Err(format!("the entry calls itself {} but is entry {}", entry.ledger_seq, chain.len));
        }
        let head = chain.head_hex.as_str();
        if entry.prev_hash != head {
            return Err(format!("prev_hash is {} but the chain ends in {head}", entry.prev_hash));
        }
        let link = chain.link(entry.data);
        let hash = link.hash_hex.as_str();
        if entry.entry_hash != hash {
            return Err(format!("entry_hash is {} but the entry hashes to {hash}", entry.entry_hash));
        }
        Ok(link)
    }

    fn commit(&mut self, at: u64, end: u64, commit: &Commit, mark: Option<&Mark>) -> Result<(), Error> {
        let Self { state, extent, .. } = self;
        let root = state.tree.root();
        let size = state.records();
        let checks = [
            (commit.size == size && size > extent.size, "size"),
            (commit.root == root, "root of the tree"),
            (commit.chain_head == state.chain.head, "head of the chain"),
            (commit.chain_len == state.chain.len, "length of the chain"),
            (commit.batch_start == extent.end, "start of the batch"),
            (commit.predecessor == extent.commit_at, "previous commit frame"),
        ];
        if let Some((_, what)) = checks.iter().find(|(holds, _)| !holds) {
            return Err(Error::damaged(
                at,
                size,
                format!("the commit frame states another {what} than the records before it have"),
            ));
        }
        if let Some(mark) = mark.filter(|mark| mark.size == size)
            && (mark.root, mark.end) != (root, end)
        {
            return Err(Error::RolledBack {
                acknowledged: size,
                what: "the log has other records up to there".to_owned(),
            });
        }
        let (previous_size, batches) = (extent.size, extent.batches + 1);
        *extent =
            Extent { size, entries: state.chain.len, end, commit_at: at, batch_start: commit.batch_start, batches };
        // A mark that falls between two commits belongs to another history.
        match mark {
            Some(mark) if previous_size < mark.size && mark.size < size => Err(Error::RolledBack {
                acknowledged: mark.size,
                what: format!("the log has no commit there, only one at {size}"),
            }),
            _ => Ok(()),
        }
    }

    /// A log that ends cleanly, but short of what was acknowledged, was cut back. (If it does not
    /// end cleanly, `tail` says so.)
    fn check_mark(&self, mark: Option<&Mark>) -> Result<(), Error> {
        match mark {
            Some(mark) if self.broken.is_none() && mark.size > self.extent.size => Err(Error::RolledBack {
                acknowledged: mark.size,
                what: format!("the log ends at byte {} after {} records", self.extent.end, self.extent.size),
            }),
            _ => Ok(()),
        }
    }
}

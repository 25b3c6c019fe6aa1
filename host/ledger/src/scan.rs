//! Reads a segment from its first byte and believes nothing but what it says the ledger was before it:
//! header, checksums, leaf indices, tree roots, the chain, the rules of the log, the checkpoints, and how
//! the commit frames follow one another. Whether the segment before ended in that state is checked by
//! whoever reads more than one.
//!
//! Opening and verifying are the same scan; they differ in what they do when it stops early, which
//! `tail` judges. Whatever is well-formed but wrong (a root, a link of the chain) is damage at
//! once: no crash produces a valid checksum.

use crate::error::Error;
use crate::frame::{Carry, Commit, FORMAT_1, FORMAT_VERSION, HEADER_BYTES, Header, HeaderFault, Mark};
use crate::frames::{Broken, Frame, Frames, read_exact_at};
use crate::identity::Identity;
use crate::storage::ReadAt;
use crate::store::Derived;
use gavel_proof::note::{Checkpoint, Note, VerifyingKey};
use gavel_proof::record::{self, EntryView, Facts, Kind, Parts, PublicKey, RecordView};
use gavel_proof::state::{Link, State};
use gavel_proof::tree::{Hash, leaf_hash};
use std::sync::Arc;

/// A record on its way past.
pub(crate) struct Passing<'a> {
    pub(crate) text: &'a str,
    pub(crate) parts: &'a Parts,
    pub(crate) facts: &'a Facts,
}

/// What to scan, and how.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) source: &'a Arc<dyn ReadAt>,
    pub(crate) place: &'a str,
    pub(crate) segment: u32,
    /// Bytes of the segment.
    pub(crate) end: u64,
    pub(crate) mark: Option<&'a Mark>,
    /// Records that a segment may hold.
    pub(crate) segment_records: u64,
    /// Whether each signature is checked, or that of the last checkpoint, which covers what is before it.
    pub(crate) each_signature: bool,
    /// Collect what the store wants.
    pub(crate) derive: bool,
    /// Remember the root over so many records.
    pub(crate) root_at: Option<u64>,
}

/// How far the segment is sound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Records of the ledger up to the last commit frame.
    pub(crate) size: u64,
    /// Entries of the chain among them.
    pub(crate) entries: u64,
    /// Offset just after the last commit frame.
    pub(crate) end: u64,
    /// Offset of the last commit frame.
    pub(crate) commit_at: u64,
    /// Offset of the first frame of the last batch.
    pub(crate) batch_start: u64,
    /// Batches of this segment.
    pub(crate) batches: u64,
}

/// What a scan found.
pub(crate) struct Scanned {
    segment: u32,
    pub(crate) header: Header,
    /// What the segment says of the ledger before it; absent in the first.
    pub(crate) carry: Option<Carry>,
    /// Whose ledger it is, unless not even that could be read.
    pub(crate) identity: Option<Identity>,
    /// After all records that could be read, committed or not.
    pub(crate) state: State,
    pub(crate) extent: Extent,
    /// Why it ended before the end, if it did. Nothing at or after `extent.end` counts then.
    pub(crate) broken: Option<Broken>,
    pub(crate) derived: Derived,
    /// The last checkpoint, and the keys that must have signed it.
    pub(crate) last_note: Option<Signed>,
    pub(crate) root_at: Option<Hash>,
    /// The key in force before the batch, unless the batch gives it up as lost.
    key_before: Option<PublicKey>,
}

/// A checkpoint whose text is right, and whose signatures are still to be checked.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    at: u64,
    size: u64,
    pub(crate) note: String,
    keys: Vec<PublicKey>,
}

/// Scans the first `task.end` bytes of a segment, showing each record to `visit`.
pub(crate) fn scan(task: Task<'_>, visit: &mut dyn FnMut(&Passing<'_>)) -> Result<Scanned, Error> {
    let mut found = Scanned::begin(task)?;
    let mut frames = Frames::new(Arc::clone(task.source), found.extent.end, task.end);
    loop {
        match frames.step().map_err(Error::io("read", task.place))? {
            Frame::Record { at, kind_code } => found.record(task, at, kind_code, frames.payload(), visit)?,
            Frame::Commit { at, commit } => found.commit(task, at, frames.at(), &commit, frames.note())?,
            Frame::End => break,
            Frame::Broken(broken) => {
                found.broken = Some(broken);
                break;
            }
        }
    }
    if found.broken.is_none() && found.extent.end < task.end {
        let what = "the file ends before the commit frame of its last batch";
        found.broken = Some(Broken { at: task.end, what, cut_off: true });
    }
    found.check_mark(found.mark(task))?;
    found.check_signatures(found.last_note.as_ref())?;
    Ok(found)
}

/// The header of a segment, and the carry behind it.
pub(crate) fn read_header(source: &dyn ReadAt, place: &str, segment: u32) -> Result<(Header, Option<Carry>), Error> {
    let damaged = |what: String| Error::damaged(segment, 0, 0, what);
    let length = source.log_bytes().map_err(Error::io("measure", place))?;
    if length < HEADER_BYTES as u64 {
        return Err(damaged(format!("the file has {length} bytes, fewer than its header")));
    }
    let mut bytes = [0; HEADER_BYTES];
    read_exact_at(source, &mut bytes, 0).map_err(Error::io("read", place))?;
    let header = Header::decode(&bytes).map_err(|fault| match fault {
        HeaderFault::Damaged(what) => damaged(what.to_owned()),
        HeaderFault::Newer(found) => Error::Newer { segment, found, supported: FORMAT_VERSION },
    })?;
    if header.segment != segment || (segment == 0) != (header.first_index == 0) {
        return Err(damaged(format!("this is segment {} from record {}", header.segment, header.first_index)));
    }
    if segment == 0 {
        return Ok((header, None));
    }
    if length < header.frames_at() {
        return Err(damaged(format!("the file has {length} bytes, fewer than what it says of the records before it")));
    }
    let mut bytes = vec![0; header.carry_bytes as usize];
    read_exact_at(source, &mut bytes, HEADER_BYTES as u64).map_err(Error::io("read", place))?;
    let carry = Carry::decode(&bytes).filter(|_| crc32fast::hash(&bytes) == header.carry_crc);
    match carry {
        Some(carry) if carry.state.records() == header.first_index => Ok((header, Some(carry))),
        Some(carry) => {
            Err(damaged(format!("it begins with record {}, after {}", header.first_index, carry.state.records())))
        }
        None => Err(Error::damaged(
            segment,
            HEADER_BYTES as u64,
            header.first_index,
            "what it says of the records before it is damaged",
        )),
    }
}

impl Scanned {
    fn begin(task: Task<'_>) -> Result<Self, Error> {
        let (header, carry) = read_header(&**task.source, task.place, task.segment)?;
        let state = carry.as_ref().map_or_else(State::new, |carry| carry.state.clone());
        let (size, entries) = (state.records(), state.chain.len);
        Ok(Self {
            segment: task.segment,
            header,
            identity: carry.as_ref().map(|carry| carry.identity.clone()),
            carry,
            key_before: state.key,
            state,
            extent: Extent { size, entries, end: header.frames_at(), ..Extent::default() },
            broken: None,
            derived: Derived::default(),
            last_note: None,
            root_at: None,
        })
    }

    /// The mark, if it is about this segment.
    fn mark<'a>(&self, task: Task<'a>) -> Option<&'a Mark> {
        task.mark.filter(|mark| mark.segment == self.segment)
    }

    fn record(
        &mut self,
        task: Task<'_>,
        at: u64,
        kind_code: u8,
        payload: &[u8],
        visit: &mut dyn FnMut(&Passing<'_>),
    ) -> Result<(), Error> {
        let index = self.state.records();
        let damaged = |what: String| Error::damaged(self.segment, at, index, what);
        // A segment of the first format had no end.
        if index - self.header.first_index >= task.segment_records && self.header.version > FORMAT_1 {
            return Err(damaged(format!("a segment has {} records, and this would be one more", task.segment_records)));
        }
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
            if leaf[..16] != self.header.ledger_id {
                return Err(damaged("the header belongs to another ledger than the first record".to_owned()));
            }
            self.identity = Some(recorded_identity(&RecordView::from_parts(text, parts))?);
        }
        if facts.kind == Some(Kind::Key) && gives_key_up(parts.meta(text)) {
            self.key_before = None;
        }
        self.state.advance(&facts, leaf, link);
        if task.root_at == Some(self.state.records()) {
            self.root_at = Some(self.state.tree.root());
        }
        if task.derive {
            self.derived.push(leaf, at);
        }
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

    fn commit(&mut self, task: Task<'_>, at: u64, end: u64, commit: &Commit, note: &[u8]) -> Result<(), Error> {
        let mark = self.mark(task);
        let Self { state, extent, segment, .. } = self;
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
            let what = format!("the commit frame states another {what} than the records before it have");
            // Which record of the batch it is, nobody can say: none of them can be trusted.
            return Err(Error::damaged(*segment, at, extent.size, what));
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
        let signed = self.checkpoint(at, size, root, note)?;
        // Where a key takes another's place, the old one must have said so.
        let changes_key = signed.as_ref().is_some_and(|signed| signed.keys.len() > 1);
        if task.each_signature || changes_key {
            self.check_signatures(signed.as_ref())?;
        }
        self.last_note = signed;
        self.key_before = self.state.key;
        // A mark that falls between two commits belongs to another history.
        match mark {
            Some(mark) if previous_size < mark.size && mark.size < size => Err(Error::RolledBack {
                acknowledged: mark.size,
                what: format!("the log has no commit there, only one at {size}"),
            }),
            _ => Ok(()),
        }
    }

    /// The checkpoint in a commit frame; there is one from the moment that a key is in force.
    fn checkpoint(&self, at: u64, size: u64, root: Hash, note: &[u8]) -> Result<Option<Signed>, Error> {
        let damaged = |what: &str| Err(Error::damaged(self.segment, at, size - 1, what));
        let Some(key) = self.state.key else {
            return if note.is_empty() { Ok(None) } else { damaged("a checkpoint stands before any key") };
        };
        let Some(identity) = &self.identity else { return damaged("the first record is missing") };
        let body = Checkpoint { origin: identity.origin(&self.header.ledger_id), size, root }.body();
        match str::from_utf8(note) {
            Ok(note) if note.strip_prefix(&body).is_some_and(|rest| rest.starts_with('\n')) => {
                let keys = [Some(key), self.key_before.filter(|before| *before != key)].into_iter().flatten().collect();
                Ok(Some(Signed { at, size, note: note.to_owned(), keys }))
            }
            _ => damaged("the checkpoint states another origin, size or root than the records before it have"),
        }
    }

    fn check_signatures(&self, signed: Option<&Signed>) -> Result<(), Error> {
        let (Some(signed), Some(identity)) = (signed, &self.identity) else { return Ok(()) };
        let name = identity.origin(&self.header.ledger_id);
        let checked = Note::parse(&signed.note)
            .and_then(|note| signed.keys.iter().try_for_each(|key| note.verify(&VerifyingKey::new(&name, key)?)));
        checked
            .map_err(|why| Error::damaged(self.segment, signed.at, signed.size - 1, format!("the checkpoint: {why}")))
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

/// Whether a key's record says that the key before it is lost, and so cannot sign its successor.
fn gives_key_up(meta: &str) -> bool {
    gavel_proof::json::member(meta, "lost") == Some("true")
}

/// Whose ledger this is.
fn recorded_identity(first: &RecordView) -> Result<Identity, Error> {
    Identity::of_meta(first.meta()).map_err(|why| {
        Error::damaged(0, HEADER_BYTES as u64, 0, format!("the first record does not say whose it is: {why}"))
    })
}

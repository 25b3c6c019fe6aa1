//! What a ledger holds at one moment, for reading: any record, any stretch of records, and proofs about
//! them. Cheap to make and to clone; it stays what it is while the ledger goes on.

use crate::error::Error;
use crate::frame::{LedgerId, RECORD_BYTES, RecordHead};
use crate::frames::{Frame, Frames, read_exact_at};
use crate::identity::Identity;
use crate::kept;
use crate::scan::read_header;
use crate::storage::{Form, ReadAt};
use crate::store::Store;
use gavel_proof::record::RecordView;
use gavel_proof::state::State;
use gavel_proof::tree::{self, Frontier, Hash, Nodes, RangeProof, leaf_hash};
use std::fmt;
use std::sync::Arc;

/// A ledger as it was at one moment.
#[derive(Clone)]
pub struct View {
    store: Arc<Store>,
    identity: Identity,
    ledger_id: LedgerId,
    records: u64,
    root: Hash,
}

impl fmt::Debug for View {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("View")
            .field("origin", &self.origin())
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl View {
    pub(crate) fn new(store: Arc<Store>, state: &State, identity: Identity, ledger_id: LedgerId) -> Self {
        Self { store, identity, ledger_id, records: state.records(), root: state.tree.root() }
    }

    pub(crate) fn at(&self, records: u64, root: Hash) -> Self {
        Self { records, root, ..self.clone() }
    }

    /// Whose ledger it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The name of the log in its checkpoints: `gavel/KERNEL_ID/LEDGER_ID`.
    #[must_use]
    pub fn origin(&self) -> String {
        self.identity.origin(&self.ledger_id)
    }

    /// The first half of the leaf hash of record 0.
    #[must_use]
    pub fn ledger_id(&self) -> [u8; 16] {
        self.ledger_id
    }

    /// Its records; the size of the tree.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The root over them.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Record `index`.
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] beyond the end, [`Error::Remote`] where the segment is only in an archive.
    pub fn record(&self, index: u64) -> Result<RecordView, Error> {
        self.check(index)?;
        locate(&self.store, index).map(|(_, _, record)| record)
    }

    /// The first checkpoint that states record `index`: the signed note of the batch in which it was committed; none
    /// where that batch was not signed.
    ///
    /// # Errors
    /// As for [`View::record`].
    pub fn checkpoint_after(&self, index: u64) -> Result<Option<String>, Error> {
        self.check(index)?;
        let place = self.store.reader().place();
        let mut frames = begin(&self.store, index, &place)?;
        loop {
            match frames.step().map_err(Error::io("read", &place))? {
                Frame::Record { .. } => {}
                Frame::Commit { .. } => {
                    let note = String::from_utf8_lossy(frames.note()).into_owned();
                    return Ok(Some(note).filter(|note| !note.is_empty()));
                }
                Frame::Broken(broken) => {
                    return Err(Error::damaged(self.store.segment_of(index), broken.at, index, broken.what));
                }
                Frame::End => {
                    let what = "the log should hold a commit frame after this record";
                    return Err(Error::damaged(self.store.segment_of(index), frames.at(), index, what));
                }
            }
        }
    }

    /// The records from `start` up to, not including, `end` or the last one; read in bounded memory, and while
    /// appends go on. Ends after the first error.
    #[must_use]
    pub fn records_between(&self, start: u64, end: u64) -> Records {
        let end = end.min(self.records);
        Records { store: Arc::clone(&self.store), frames: None, next_index: start, end_index: end, failed: false }
    }

    /// The proof that record `index` is in the tree of the first `size` records (RFC 6962, section 2.1.1).
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] where there is no such record or tree.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, Error> {
        self.check_size(size)?;
        if index >= size {
            return Err(Error::NoSuchRecord { index, records: size });
        }
        let leaf = self.store.node(0, index)?;
        let root = self.root_of(size)?;
        let proof = tree::inclusion(&*self.store, index, size)?;
        if tree::verify_inclusion(&leaf, index, size, &proof, &root).is_ok()
            && (size != self.records || root == self.root)
        {
            return Ok(proof);
        }
        // What was derived is not what it was: it is made again from the segment, and the proof with it.
        self.store.again(index)?;
        let proof = tree::inclusion(&*self.store, index, size)?;
        let leaf = self.store.node(0, index)?;
        match tree::verify_inclusion(&leaf, index, size, &proof, &self.root_of(size)?) {
            Ok(()) => Ok(proof),
            Err(why) => {
                Err(Error::damaged(self.store.segment_of(index), 0, index, format!("its proof does not hold: {why}")))
            }
        }
    }

    /// The proof that the first `old` records are a prefix of the first `new` (RFC 6962, section 2.1.2).
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] where there is no such tree.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, Error> {
        self.check_size(new)?;
        if old > new {
            return Err(Error::NoSuchRecord { index: old, records: new });
        }
        tree::consistency(&*self.store, old, new)
    }

    /// The proof that the records `start..end` stand there in the tree of the first `size`.
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] where the range is empty or there is no such range or tree.
    pub fn range(&self, start: u64, end: u64, size: u64) -> Result<RangeProof, Error> {
        self.check_size(size)?;
        if start >= end || end > size {
            return Err(Error::NoSuchRecord { index: end.max(1) - 1, records: size });
        }
        tree::range(&*self.store, start, end, size)
    }

    /// The root of the tree of the first `size` records.
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] where there are fewer.
    pub fn root_of(&self, size: u64) -> Result<Hash, Error> {
        self.check_size(size)?;
        tree::root(&*self.store, size)
    }

    /// The root of the complete subtree over the `2^level` records from `index * 2^level` on, as tiles show them.
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] where it is not complete.
    pub fn node(&self, level: u32, index: u64) -> Result<Hash, Error> {
        let end = index.checked_add(1).and_then(|end| end.checked_mul(1_u64.checked_shl(level)?));
        match end {
            Some(end) if end <= self.records => self.store.node(level, index),
            _ => Err(Error::NoSuchRecord { index: end.unwrap_or(u64::MAX) - 1, records: self.records }),
        }
    }

    /// Where what is here begins: the first record from which on every segment can be read, and what the ledger was before
    /// it. Segments that are only in an archive come before it.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn first_here(&self) -> Result<Begin, Error> {
        let (reader, newest) = (self.store.reader(), self.store.segment_of(self.records.max(1) - 1));
        let place = reader.place();
        let mut first = newest;
        while first > 0 {
            let form = reader.form(first - 1).map_err(Error::io("look for a segment of", &place))?;
            if !matches!(form, Form::Plain | Form::Compressed) {
                break;
            }
            first -= 1;
        }
        let source = self.store.segment(first)?;
        let (_, carry) = read_header(&*source, &place, first)?;
        let state = carry.map_or_else(State::new, |carry| carry.state);
        let chain_head = state.chain.head_hex.as_str().to_owned();
        Ok(Begin { records: state.records(), entries: state.chain.len, chain_head, tree: state.tree })
    }

    /// What the owner kept with [`Ledger::keep_state`](crate::Ledger::keep_state), if it belongs to this history.
    pub(crate) fn kept_state(&self) -> Option<(u64, Vec<u8>)> {
        let (size, root, state) = kept::read(&**self.store.reader(), &self.ledger_id)?;
        (size <= self.records && self.root_of(size).ok()? == root).then_some((size, state))
    }

    pub(crate) fn keep_state(&self, size: u64, state: &[u8]) -> Result<(), Error> {
        let root = self.root_of(size)?;
        let reader = self.store.reader();
        kept::write(&**reader, &self.ledger_id, size, &root, state)
            .map_err(Error::io("keep the state of", reader.place()))
    }

    fn check(&self, index: u64) -> Result<(), Error> {
        if index < self.records { Ok(()) } else { Err(Error::NoSuchRecord { index, records: self.records }) }
    }

    fn check_size(&self, size: u64) -> Result<(), Error> {
        if size <= self.records { Ok(()) } else { Err(Error::NoSuchRecord { index: size - 1, records: self.records }) }
    }
}

/// What a ledger was before a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// Records before it, which is its index.
    pub records: u64,
    /// Entries of the KERNELS chain among them.
    pub entries: u64,
    /// The hash of the last of them in hex, or 64 zeros.
    pub chain_head: String,
    /// The tree over them.
    pub tree: Frontier,
}

/// Records in a row, in order.
pub struct Records {
    store: Arc<Store>,
    frames: Option<(u32, Frames)>,
    next_index: u64,
    end_index: u64,
    failed: bool,
}

impl Records {
    fn read(&mut self) -> Result<Option<RecordView>, Error> {
        let place = self.store.reader().place();
        loop {
            let index = self.next_index;
            if index >= self.end_index {
                return Ok(None);
            }
            let segment = self.store.segment_of(index);
            let (_, frames) = match &mut self.frames {
                Some(frames) if frames.0 == segment => frames,
                frames => frames.insert((segment, begin(&self.store, index, &place)?)),
            };
            match frames.step().map_err(Error::io("read", &place))? {
                Frame::Commit { .. } => {}
                Frame::Record { at, .. } => {
                    let view = view_of(segment, index, at, frames.payload())?;
                    self.next_index += 1;
                    return Ok(Some(view));
                }
                Frame::Broken(broken) => return Err(Error::damaged(segment, broken.at, index, broken.what)),
                Frame::End => {
                    let what = format!("the log should hold {} records up to here", self.end_index);
                    return Err(Error::damaged(segment, frames.at(), index, what));
                }
            }
        }
    }
}

/// The frames of the segment of record `index`, from that record on.
fn begin(store: &Store, index: u64, place: &str) -> Result<Frames, Error> {
    let (source, at, _) = locate(store, index)?;
    let end = source.log_bytes().map_err(Error::io("measure", place))?;
    Ok(Frames::new(source, at, end))
}

/// Record `index`, its segment, and where its frame stands in it. That is derived, and no reason to call a record
/// damaged: where it is not there, it is looked for in the segment itself.
fn locate(store: &Store, index: u64) -> Result<(Arc<dyn ReadAt>, u64, RecordView), Error> {
    let found = read_where_it_should_be(store, index);
    if found.is_ok() {
        return found;
    }
    store.again(index)?;
    read_where_it_should_be(store, index)
}

fn read_where_it_should_be(store: &Store, index: u64) -> Result<(Arc<dyn ReadAt>, u64, RecordView), Error> {
    let place = store.reader().place();
    let (segment, source, at) = store.find(index)?;
    let damaged = |what: &str| Error::damaged(segment, at, index, what);
    let end = source.log_bytes().map_err(Error::io("measure", &place))?;
    if at > end.saturating_sub(RECORD_BYTES as u64) {
        return Err(damaged("the segment ends before the record"));
    }
    let mut head = [0; RECORD_BYTES];
    read_exact_at(&*source, &mut head, at).map_err(Error::io("read", &place))?;
    let head = RecordHead::decode(&head).map_err(damaged)?;
    let mut payload = vec![0; head.payload_bytes];
    read_exact_at(&*source, &mut payload, at + RECORD_BYTES as u64).map_err(Error::io("read", &place))?;
    if !head.matches(&payload) {
        return Err(damaged("the checksum of the record is wrong"));
    }
    let record = view_of(segment, index, at, &payload)?;
    if store.node(0, index)? != leaf_hash(&payload) {
        return Err(damaged("the record is another than the one in the tree"));
    }
    Ok((source, at, record))
}

fn view_of(segment: u32, index: u64, at: u64, payload: &[u8]) -> Result<RecordView, Error> {
    let damaged = |what: String| Error::damaged(segment, at, index, what);
    let text = str::from_utf8(payload).map_err(|error| damaged(format!("the record is not text: {error}")))?;
    let view = RecordView::parse(text.to_owned()).map_err(damaged)?;
    if view.index() == index { Ok(view) } else { Err(damaged(format!("the record calls itself {}", view.index()))) }
}

impl Iterator for Records {
    type Item = Result<RecordView, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read().transpose();
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}

//! Puts batches together: gives each record its index and its place in the chain, hashes it, and
//! frames it.
//!
//! This is where the order of the log is decided, record by record, under one lock. What precedes a
//! halt here precedes it for ever. The state runs ahead of the disk by the batches under way;
//! should one of them fail, the ledger is poisoned and the state with it.

use crate::draft::Draft;
use crate::error::AppendError;
use crate::frame::{self, Carry, Commit, Header, LedgerId, Mark};
use crate::identity::Identity;
use crate::ledger::{ChainPosition, Committed, Snapshot};
use crate::queue::{Done, Job, KeyChange};
use crate::recover::Ready;
use gavel_proof::note::{Checkpoint, CheckpointKey};
use gavel_proof::record::{self, EntryView, MAX_RECORD_BYTES};
use gavel_proof::state::State;
use gavel_proof::tree::{Hash, leaf_hash};

/// The end of the log, as far as batches were built.
pub(crate) struct Stage {
    state: State,
    place: Place,
    identity: Identity,
    ledger_id: LedgerId,
    segment_records: u64,
    /// Bytes of the segments before.
    bytes_before: u64,
    /// The key that signs checkpoints.
    key: Option<CheckpointKey>,
    /// Those that were in force before it within the batch, and sign it too.
    retired: Vec<CheckpointKey>,
}

/// Where the next batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    /// Where it begins; 0 if the segment is still to be created.
    pub(crate) end: u64,
    /// Where the last commit frame of the segment stands; 0 before the first.
    pub(crate) commit_at: u64,
}

/// A batch, complete in memory.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) segment: u32,
    /// Where it belongs in the segment; 0 if it is the beginning of a new one.
    pub(crate) offset: u64,
    /// Its frames; empty if every append in it was refused. Kept for its capacity, which
    /// `batch_bytes_max` bounds.
    pub(crate) bytes: Vec<u8>,
    /// The leaf of each record, and where its frame stands in the segment.
    pub(crate) leaves: Vec<(Hash, u64)>,
    /// It fills its segment.
    pub(crate) seals: bool,
    /// What the ledger is once the batch is part of it.
    pub(crate) after: Option<After>,
    /// The fate of each append, in order.
    fates: Vec<(Done, Result<Staged, AppendError>)>,
}

/// What the ledger is after a batch.
#[derive(Debug, Clone)]
pub(crate) struct After {
    pub(crate) snapshot: Snapshot,
    pub(crate) mark: Mark,
}

/// A record that is part of the batch: its index, and its place in the chain.
type Staged = (u64, Option<ChainPosition>);

impl Stage {
    pub(crate) fn new(ready: &Ready, segment_records: u64) -> Self {
        Self {
            state: ready.state.clone(),
            place: ready.place,
            identity: ready.recovered.identity.clone(),
            ledger_id: ready.ledger_id,
            segment_records,
            bytes_before: ready.bytes_before,
            key: ready.key.clone(),
            retired: Vec::new(),
        }
    }

    /// Makes `batch` anew from `jobs`, as many of them as the segment has room for; the others stay.
    pub(crate) fn build(&mut self, jobs: &mut Vec<Job>, batch: &mut Batch) {
        debug_assert!(batch.fates.is_empty(), "every fate of the batch before was told");
        batch.bytes.clear();
        batch.leaves.clear();
        if self.is_full() {
            self.roll();
        }
        (batch.segment, batch.offset) = (self.place.segment, self.place.end);
        if self.place.end == 0 {
            self.begin_segment(&mut batch.bytes);
        }
        let start = batch.bytes.len();
        let room = jobs.len().min(usize::try_from(self.room()).unwrap_or(usize::MAX));
        // One change of the key in a batch: its checkpoint is signed by both keys, and by no third.
        let fits = jobs[..room].iter().position(|job| job.key.is_some()).map_or(room, |at| at + 1);
        for Job { draft, done, key } in jobs.drain(..fits) {
            let fate = self.stage(&draft, key, batch);
            batch.fates.push((done, fate));
        }
        batch.after = if batch.leaves.is_empty() {
            batch.bytes.clear();
            None
        } else {
            Some(self.finish(&mut batch.bytes, start))
        };
        batch.seals = batch.after.is_some() && self.is_full();
    }

    fn first_index(&self) -> u64 {
        u64::from(self.place.segment) * self.segment_records
    }

    /// Records that the segment still takes.
    fn room(&self) -> u64 {
        self.segment_records - (self.state.records() - self.first_index())
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn roll(&mut self) {
        self.bytes_before += self.place.end;
        // 2^32 segments are 2^48 records, one a microsecond for nine years.
        self.place = Place { segment: self.place.segment + 1, end: 0, commit_at: 0 };
    }

    /// The header of a new segment, and what the ledger is before it.
    fn begin_segment(&self, bytes: &mut Vec<u8>) {
        let carry =
            Carry { state: self.state.clone(), identity: self.identity.clone(), bytes_before: self.bytes_before };
        let carry = carry.encode();
        let header = Header::later(self.place.segment, self.state.records(), self.ledger_id, &carry);
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&carry);
    }

    /// Appends the commit frame, and says what the ledger is after it. The batch's frames begin at `start` of `bytes`.
    fn finish(&mut self, bytes: &mut Vec<u8>, start: usize) -> After {
        let note = self.sign();
        let batch_start = self.place.end + start as u64;
        let commit = commit_of(&self.state, batch_start, self.place.commit_at, &note);
        self.place.commit_at = self.place.end + bytes.len() as u64;
        bytes.extend_from_slice(&commit.encode());
        bytes.extend_from_slice(note.as_bytes());
        self.place.end += bytes.len() as u64;
        let snapshot = snapshot_of(&self.state, self.bytes_before + self.place.end, note);
        let mark =
            Mark { size: snapshot.records, root: snapshot.root, end: self.place.end, segment: self.place.segment };
        After { snapshot, mark }
    }

    /// The signed checkpoint of the state; empty without a key.
    fn sign(&mut self) -> String {
        let Some(key) = &self.key else { return String::new() };
        let origin = self.identity.origin(&self.ledger_id);
        let checkpoint = Checkpoint { origin, size: self.state.records(), root: self.state.tree.root() };
        let keys: Vec<_> = std::iter::once(key).chain(&self.retired).collect();
        let note = checkpoint.sign(&keys);
        self.retired.clear();
        note
    }

    fn stage(&mut self, draft: &Draft, key: Option<KeyChange>, batch: &mut Batch) -> Result<Staged, AppendError> {
        let bytes = &mut batch.bytes;
        let facts = draft.facts();
        self.state.admit(&facts)?;
        let index = self.state.records();
        let link = draft.entry.as_deref().map(|data| self.state.chain.link(data));
        let entry = draft.entry.as_deref().zip(link.as_ref()).map(|(data, link)| EntryView {
            ledger_seq: link.ledger_seq,
            prev_hash: self.state.chain.head_hex.as_str(),
            entry_hash: link.hash_hex.as_str(),
            data,
        });
        let frame_at = bytes.len();
        let size = frame::push_record(bytes, draft.kind, |out| {
            record::push_record(out, index, draft.kind, draft.ts_ms, &draft.meta, entry);
        });
        if size > MAX_RECORD_BYTES {
            // Nothing has happened yet: the state only advances below.
            bytes.truncate(frame_at);
            return Err(AppendError::TooLarge { size, limit: MAX_RECORD_BYTES });
        }
        let leaf = leaf_hash(&bytes[frame_at + frame::RECORD_BYTES..]);
        batch.leaves.push((leaf, batch.offset + frame_at as u64));
        let position = link
            .as_ref()
            .map(|link| ChainPosition { ledger_seq: link.ledger_seq, entry_hash: link.hash_hex.as_str().to_owned() });
        self.state.advance(&facts, leaf, link);
        if let Some(KeyChange { key, lost }) = key {
            let old = self.key.replace(key);
            self.retired.extend(old.filter(|_| !lost));
        }
        Ok((index, position))
    }
}

impl Batch {
    /// Takes the fates out, final if the batch is committed, and all alike if the ledger stopped.
    pub(crate) fn fates(
        &mut self,
        poisoned: Option<String>,
    ) -> impl Iterator<Item = (Done, Result<Committed, AppendError>)> {
        let size = self.after.as_ref().map_or(0, |after| after.snapshot.records);
        self.fates.drain(..).map(move |(done, fate)| {
            let fate = match &poisoned {
                Some(why) => Err(AppendError::Poisoned { why: why.clone() }),
                None => fate.map(|(index, chain)| Committed { index, chain, size }),
            };
            (done, fate)
        })
    }
}

/// The commit frame that states `state`, before this note.
pub(crate) fn commit_of(state: &State, batch_start: u64, predecessor: u64, note: &str) -> Commit {
    Commit {
        size: state.records(),
        root: state.tree.root(),
        chain_head: state.chain.head,
        chain_len: state.chain.len,
        batch_start,
        predecessor,
        // Of some 200 bytes: an origin is bounded, and so are the keys that sign.
        note_bytes: u16::try_from(note.len()).unwrap_or(u16::MAX),
        note_crc: crc32fast::hash(note.as_bytes()),
    }
}

/// What a ledger with this state, committed up to `bytes`, shows of itself.
pub(crate) fn snapshot_of(state: &State, bytes: u64, note: String) -> Snapshot {
    Snapshot {
        records: state.records(),
        entries: state.chain.len,
        root: state.tree.root(),
        chain_head: state.chain.head_hex.as_str().to_owned(),
        bytes,
        halted: state.halted,
        open_decisions: state.open.len() as u64,
        oldest_open: state.open.first().copied(),
        last_ts_ms: state.last_ts_ms,
        checkpoint: (!note.is_empty()).then(|| note.into()),
        key: state.key,
        poisoned: None,
    }
}

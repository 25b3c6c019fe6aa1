//! Puts batches together: gives each record its index and its place in the chain, hashes it, and
//! frames it.
//!
//! This is where the order of the log is decided, record by record, under one lock. What precedes a
//! halt here precedes it for ever. The state runs ahead of the disk by the batches under way;
//! should one of them fail, the ledger is poisoned and the state with it.

use crate::draft::Draft;
use crate::error::AppendError;
use crate::frame::{self, Commit, Mark};
use crate::ledger::{ChainPosition, Committed, Snapshot};
use crate::queue::{Done, Job};
use gavel_proof::record::{self, EntryView, MAX_RECORD_BYTES};
use gavel_proof::state::State;
use gavel_proof::tree::leaf_hash;

/// The end of the log, as far as batches were built.
pub(crate) struct Stage {
    state: State,
    /// Where the next batch begins.
    end: u64,
    /// Where the last commit frame stands.
    commit_at: u64,
}

/// A batch, complete in memory.
#[derive(Default)]
pub(crate) struct Batch {
    /// Where it belongs in the log.
    pub(crate) offset: u64,
    /// Its frames; empty if every append in it was refused. Kept for its capacity, which
    /// `batch_bytes_max` bounds.
    pub(crate) bytes: Vec<u8>,
    /// Its records.
    pub(crate) records: u64,
    /// What the ledger is once the batch is part of it.
    pub(crate) after: Option<Snapshot>,
    /// The fate of each append, in order.
    fates: Vec<(Done, Result<Staged, AppendError>)>,
}

/// A record that is part of the batch: its index, and its place in the chain.
type Staged = (u64, Option<ChainPosition>);

impl Stage {
    pub(crate) fn new(state: State, end: u64, commit_at: u64) -> Self {
        Self { state, end, commit_at }
    }

    /// Makes `batch` anew from `jobs`.
    pub(crate) fn build(&mut self, jobs: &mut Vec<Job>, batch: &mut Batch) {
        debug_assert!(batch.fates.is_empty(), "every fate of the batch before was told");
        let first = self.state.records();
        batch.bytes.clear();
        batch.offset = self.end;
        for Job { draft, done } in jobs.drain(..) {
            let fate = self.stage(&draft, &mut batch.bytes);
            batch.fates.push((done, fate));
        }
        batch.records = self.state.records() - first;
        batch.after = (batch.records > 0).then(|| self.finish(&mut batch.bytes));
    }

    /// Appends the commit frame, and says what the ledger is after it.
    fn finish(&mut self, bytes: &mut Vec<u8>) -> Snapshot {
        let commit = commit_of(&self.state, self.end, self.commit_at);
        self.commit_at = self.end + bytes.len() as u64;
        bytes.extend_from_slice(&commit.encode());
        self.end += bytes.len() as u64;
        snapshot_of(&self.state, self.end)
    }

    fn stage(&mut self, draft: &Draft, bytes: &mut Vec<u8>) -> Result<Staged, AppendError> {
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
        let position = link
            .as_ref()
            .map(|link| ChainPosition { ledger_seq: link.ledger_seq, entry_hash: link.hash_hex.as_str().to_owned() });
        self.state.advance(&facts, leaf, link);
        Ok((index, position))
    }
}

impl Batch {
    /// Takes the fates out, final if the batch is committed, and all alike if the ledger stopped.
    pub(crate) fn fates(
        &mut self,
        poisoned: Option<String>,
    ) -> impl Iterator<Item = (Done, Result<Committed, AppendError>)> {
        let size = self.after.as_ref().map_or(0, |after| after.records);
        self.fates.drain(..).map(move |(done, fate)| {
            let fate = match &poisoned {
                Some(why) => Err(AppendError::Poisoned { why: why.clone() }),
                None => fate.map(|(index, chain)| Committed { index, chain, size }),
            };
            (done, fate)
        })
    }
}

/// The mark that vouches for a ledger up to `snapshot`.
pub(crate) fn mark_of(snapshot: &Snapshot) -> Mark {
    Mark { size: snapshot.records, root: snapshot.root, end: snapshot.bytes }
}

/// The commit frame that states `state`; its note is empty in this version.
pub(crate) fn commit_of(state: &State, batch_start: u64, predecessor: u64) -> Commit {
    Commit {
        size: state.records(),
        root: state.tree.root(),
        chain_head: state.chain.head,
        chain_len: state.chain.len,
        batch_start,
        predecessor,
        note_bytes: 0,
        note_crc: crc32fast::hash(&[]),
    }
}

/// What a ledger with this state, committed up to `bytes`, shows of itself.
pub(crate) fn snapshot_of(state: &State, bytes: u64) -> Snapshot {
    Snapshot {
        records: state.records(),
        entries: state.chain.len,
        root: state.tree.root(),
        chain_head: state.chain.head_hex.as_str().to_owned(),
        bytes,
        halted: state.halted,
        open_decisions: state.open.len() as u64,
        last_ts_ms: state.last_ts_ms,
        poisoned: None,
    }
}

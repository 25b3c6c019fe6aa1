//! Opening: finds out what the log holds, cuts a torn batch, and makes sure that what remains is on
//! the disk.
//!
//! Invariant on return: the log ends with a good commit frame, everything up to it is durable, and
//! the mark says so.

use crate::error::Error;
use crate::frame::{self, Header, Mark, SEGMENT};
use crate::frames::read_exact_at;
use crate::ledger::{Identity, OpenDecision, Options, Recovered};
use crate::scan::{Extent, Passing, Scanned, scan};
use crate::stage::commit_of;
use crate::storage::{ReadAt, Storage};
use crate::tail::{MarkFound, judge};
use gavel_proof::record::{self, Facts, Kind, RecordView};
use gavel_proof::state::State;
use gavel_proof::tree::leaf_hash;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A log ready to be appended to.
pub(crate) struct Ready {
    pub(crate) state: State,
    /// Where the next batch begins.
    pub(crate) end: u64,
    /// Where the last commit frame stands.
    pub(crate) commit_at: u64,
    pub(crate) source: Arc<dyn ReadAt>,
    pub(crate) recovered: Recovered,
}

/// Brings `storage` into a state from which it can be appended to, creating the log when there is
/// none.
pub(crate) fn recover(storage: &mut dyn Storage, options: &Options) -> Result<Ready, Error> {
    let place = storage.place();
    let mark = MarkFound::of(&storage.read_mark().map_err(Error::io("read the mark of", &place))?);
    let created = storage.log_bytes().map_err(Error::io("measure", &place))? == 0;
    if created {
        refuse_lost_log(mark)?;
        storage.create_log(&first_bytes(options)).map_err(Error::io("create", &place))?;
    }
    let source = storage.source().map_err(Error::io("open", &place))?;
    let length = source.log_bytes().map_err(Error::io("measure", &place))?;

    let mut seen = Seen::default();
    let mut found = scan(&source, &place, length, mark.good(), &mut |passing| seen.pass(passing, options.recall))?;
    if let Some(broken) = &found.broken {
        judge(&*source, &place, length, &found.extent, found.state.records(), broken, mark)?;
    }
    // Whose it is comes before any change to it.
    let identity = identity(&found, &place, &options.identity)?;
    let torn = found.broken.take();
    if torn.is_some() {
        cut(storage, &place, found.extent.end)?;
        seen = Seen::default();
        let end = found.extent.end;
        found = scan(&source, &place, end, mark.good(), &mut |passing| seen.pass(passing, options.recall))?;
        if let Some(broken) = &found.broken {
            let what = format!("{}; it was right when it was read a moment ago: suspect the disk", broken.what);
            return Err(Error::damaged(broken.at, found.state.records(), what));
        }
    }
    let extent = found.extent;
    make_durable(storage, &*source, &place, &extent, mark).map_err(Error::io("make durable", &place))?;
    write_mark(storage, &found.state, extent.end).map_err(Error::io("write the mark of", &place))?;

    let recovered = Recovered {
        created,
        identity,
        cut_bytes: length - extent.end,
        cut_reason: torn.map(|broken| format!("byte {}: {}", broken.at, broken.what)),
        records: extent.size,
        entries: extent.entries,
        halted: found.state.halted,
        recalled: seen.recalled.take(),
        open_decisions: seen.into_open_decisions(),
    };
    Ok(Ready { state: found.state, end: extent.end, commit_at: extent.commit_at, source, recovered })
}

/// A mark without a log: the log was removed.
fn refuse_lost_log(mark: MarkFound) -> Result<(), Error> {
    match mark {
        MarkFound::Absent => Ok(()),
        MarkFound::Good(mark) => Err(Error::RolledBack { acknowledged: mark.size, what: "there is no log".to_owned() }),
        MarkFound::Damaged => Err(Error::damaged(0, 0, "there is no log, but a damaged mark of one")),
    }
}

fn cut(storage: &mut dyn Storage, place: &str, end: u64) -> Result<(), Error> {
    storage.truncate_log(end).map_err(Error::io("cut the torn batch off", place))?;
    storage.sync_log().map_err(Error::io("sync", place))
}

/// Sees to it that the last batch is on the disk, not only in the page cache.
///
/// After an fsync that failed, Linux may keep the pages, call them clean, and let the next fsync
/// succeed. If the mark does not vouch for the last batch, its sync may have failed that way: it is
/// written again, which makes its pages dirty.
fn make_durable(
    storage: &mut dyn Storage,
    source: &dyn ReadAt,
    place: &str,
    extent: &Extent,
    mark: MarkFound,
) -> std::io::Result<()> {
    if mark.good().is_some_and(|mark| mark.size == extent.size) {
        return Ok(());
    }
    let length = usize::try_from(extent.end - extent.batch_start)
        .map_err(|_| std::io::Error::other(format!("the last batch of {place} does not fit into memory")))?;
    let mut batch = vec![0; length];
    read_exact_at(source, &mut batch, extent.batch_start)?;
    storage.write_log(extent.batch_start, &batch)?;
    storage.sync_log()
}

fn write_mark(storage: &mut dyn Storage, state: &State, end: u64) -> std::io::Result<()> {
    let mark = Mark { size: state.records(), root: state.tree.root(), end };
    storage.write_mark(&mark.encode())?;
    storage.sync_mark()
}

/// The content of the record `opened`.
#[derive(Deserialize)]
struct OpenedMeta {
    kernel_id: String,
    variant: String,
}

/// Whose ledger this is.
pub(crate) fn recorded_identity(first: &RecordView) -> Result<Identity, Error> {
    let meta: OpenedMeta = serde_json::from_str(first.meta()).map_err(|error| {
        Error::damaged(frame::HEADER_BYTES as u64, 0, format!("the first record does not say whose it is: {error}"))
    })?;
    Ok(Identity { kernel_id: meta.kernel_id, variant: meta.variant })
}

fn identity(found: &Scanned, place: &str, expected: &Identity) -> Result<Identity, Error> {
    let first = found.first.as_ref();
    let first = first.ok_or_else(|| Error::damaged(frame::HEADER_BYTES as u64, 0, "the first record is missing"))?;
    let identity = recorded_identity(first)?;
    if identity.kernel_id == expected.kernel_id {
        Ok(identity)
    } else {
        let (expected, found) = (expected.kernel_id.clone(), identity.kernel_id);
        Err(Error::Identity { place: place.to_owned(), expected, found })
    }
}

/// A new log: header, the record `opened`, commit frame.
fn first_bytes(options: &Options) -> Vec<u8> {
    let mut meta = format!("{{\"format\":{},\"kernel_id\":", frame::FORMAT_VERSION);
    gavel_proof::json::push_string(&mut meta, &options.identity.kernel_id);
    meta.push_str(",\"variant\":");
    gavel_proof::json::push_string(&mut meta, &options.identity.variant);
    meta.push('}');

    let mut batch = Vec::new();
    frame::push_record(&mut batch, Kind::Opened, |out| {
        record::push_record(out, 0, Kind::Opened, options.now_ms, &meta, None);
    });
    let leaf = leaf_hash(&batch[frame::RECORD_BYTES..]);
    let facts = Facts { kind: Some(Kind::Opened), has_entry: false, closes: None, ts_ms: options.now_ms };
    let mut state = State::new();
    state.advance(&facts, leaf, None);
    let batch_start = frame::HEADER_BYTES as u64;
    batch.extend_from_slice(&commit_of(&state, batch_start, 0).encode());

    // The id needs no randomness: it only has to tie later segments to this first record.
    let header = Header { segment: SEGMENT, first_index: 0, ledger_id: frame::array_at(&leaf, 0) };
    [header.encode().as_slice(), &batch].concat()
}

/// Collects, while the log goes past, the decisions that nothing closes, and the last event that
/// the owner wants to be told of.
#[derive(Default)]
struct Seen {
    open_by_index: BTreeMap<u64, RecordView>,
    recalled: Option<RecordView>,
}

impl Seen {
    fn pass(&mut self, passing: &Passing<'_>, recall: fn(&str) -> bool) {
        let record = || RecordView::from_parts(passing.text, *passing.parts);
        match (passing.facts.kind, passing.facts.closes) {
            (Some(Kind::Decision), _) if !passing.facts.has_entry => {
                self.open_by_index.insert(passing.parts.index, record());
            }
            (Some(Kind::Outcome), Some(closed)) => {
                self.open_by_index.remove(&closed);
            }
            (Some(Kind::Event), _) if recall(passing.parts.meta(passing.text)) => self.recalled = Some(record()),
            _ => {}
        }
    }

    fn into_open_decisions(self) -> Vec<OpenDecision> {
        self.open_by_index.into_iter().map(|(index, record)| OpenDecision { index, record }).collect()
    }
}

//! Opening: finds out what the log holds, cuts a torn batch, and makes sure that what remains is on
//! the disk. Only the newest segment is read: it begins with what the ledger is after those before it,
//! which were synced before it was created. Whether they still are what they were is for an audit to say.
//!
//! Invariant on return: the log ends with a good commit frame, everything up to it is durable, and
//! the mark says so.

use crate::error::Error;
use crate::frame::{self, Header, LedgerId, Mark};
use crate::frames::read_exact_at;
use crate::identity::Identity;
use crate::ledger::{OpenDecision, Options, Recovered};
use crate::scan::{Extent, Passing, Scanned, Task, scan};
use crate::stage::{Place, commit_of};
use crate::storage::{Form, ReadAt, Reader, Storage};
use crate::store::Store;
use crate::tail::{MarkFound, judge};
use crate::view::View;
use gavel_proof::note::CheckpointKey;
use gavel_proof::record::{self, Facts, Kind, RecordView};
use gavel_proof::state::State;
use gavel_proof::tree::{leaf_hash, root};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A log ready to be appended to.
pub(crate) struct Ready {
    pub(crate) state: State,
    pub(crate) place: Place,
    pub(crate) ledger_id: LedgerId,
    /// Bytes of the segments before the newest.
    pub(crate) bytes_before: u64,
    /// The key that signs, if it is at hand and in force.
    pub(crate) key: Option<CheckpointKey>,
    /// The last checkpoint.
    pub(crate) note: String,
    pub(crate) store: Arc<Store>,
    pub(crate) recovered: Recovered,
}

/// What was found of a log.
pub(crate) enum Opened {
    Ready(Box<Ready>),
    /// One segment of the first format, longer than a segment may be now.
    TooLong,
}

/// Brings `storage` into a state from which it can be appended to, creating the log when there is
/// none.
pub(crate) fn recover(storage: &mut dyn Storage, options: &Options) -> Result<Opened, Error> {
    let place = storage.place();
    let mark = MarkFound::of(&storage.read_mark().map_err(Error::io("read the mark of", &place))?);
    let newest = storage.newest_segment().map_err(Error::io("list", &place))?;
    if newest.is_none() {
        refuse_lost_log(mark)?;
        refuse_other_forms(&*storage.reader())?;
        storage.create_segment(0, &first_bytes(options)).map_err(Error::io("create", &place))?;
    }
    let (segment, reader) = (newest.unwrap_or(0), storage.reader());
    refuse_gaps(&*reader, segment, mark)?;
    let source = reader.open(segment).map_err(Error::io("open", &place))?;
    let length = source.log_bytes().map_err(Error::io("measure", &place))?;
    let task = Task {
        source: &source,
        place: &place,
        segment,
        end: length,
        mark: mark.good(),
        segment_records: options.segment_records,
        each_signature: false,
        derive: true,
        root_at: None,
    };
    let mut seen = Seen::default();
    let mut found = scan(task, &mut |passing| seen.pass(passing))?;
    if let Some(broken) = &found.broken {
        judge(&*source, &place, length, &found, broken, mark)?;
    }
    let torn = found.broken.take();
    if torn.is_some() {
        // Only what is committed counts, and the state must not know what a torn batch said.
        seen = Seen::default();
        found = scan(Task { end: found.extent.end, ..task }, &mut |passing| seen.pass(passing))?;
        if let Some(broken) = &found.broken {
            let what = format!("{}; it was right when it was read a moment ago: suspect the disk", broken.what);
            return Err(Error::damaged(segment, broken.at, found.state.records(), what));
        }
    }
    // Whose it is comes before any change to it.
    let identity = identity(&found, &place, &options.identity)?;
    let key = key_at_hand(&found.state, &place, options)?;
    let too_long = found.state.records() - found.header.first_index > options.segment_records;
    // The segments before must be those that this one begins after, as far as that is known without reading them.
    let before = if too_long {
        None
    } else {
        let store = store_of(&mut found, segment, options, reader)?;
        refuse_other_history(&store, segment, found.extent.size, mark)?;
        Some(Before::of(&found, segment, store, &identity, seen)?)
    };
    if torn.is_some() {
        cut(storage, &place, found.extent.end)?;
    }
    let Some(before) = before else { return Ok(Opened::TooLong) };
    let extent = found.extent;
    make_durable(storage, &*source, &place, &extent, mark).map_err(Error::io("make durable", &place))?;
    write_mark(storage, &found.state, segment, extent.end).map_err(Error::io("write the mark of", &place))?;
    let cut = torn.map(|broken| (length - extent.end, format!("byte {}: {}", broken.at, broken.what)));
    Ok(ready(found, segment, before, identity, key, newest.is_none(), cut))
}

/// A mark of an earlier segment must be of this history too. (One of the newest was compared as that was read.)
fn refuse_other_history(store: &Store, newest: u32, records: u64, mark: MarkFound) -> Result<(), Error> {
    match mark.good().filter(|mark| mark.segment < newest) {
        Some(mark) if mark.size > records || root(store, mark.size)? != mark.root => {
            Err(Error::RolledBack { acknowledged: mark.size, what: "the log has other records up to there".to_owned() })
        }
        _ => Ok(()),
    }
}

/// What proofs and readers use.
fn store_of(
    found: &mut Scanned,
    segment: u32,
    options: &Options,
    reader: Arc<dyn Reader>,
) -> Result<Arc<Store>, Error> {
    if found.header.first_index != u64::from(segment) * options.segment_records {
        return Err(Error::Options { name: "segment_records", what: "must be what the ledger was made with" });
    }
    let before = found.carry.as_ref().map(|carry| carry.state.tree.clone()).unwrap_or_default();
    let derived = std::mem::take(&mut found.derived);
    Store::new(reader, found.header.ledger_id, options.segment_records, &before, derived).map(Arc::new)
}

fn ready(
    found: Scanned,
    segment: u32,
    before: Before,
    identity: Identity,
    key: Option<CheckpointKey>,
    created: bool,
    cut: Option<(u64, String)>,
) -> Opened {
    let Scanned { header, carry, state, extent, last_note, .. } = found;
    let Before { store, kept, open_decisions } = before;
    let (cut_bytes, cut_reason) = cut.map_or((0, None), |(bytes, reason)| (bytes, Some(reason)));
    let recovered = Recovered {
        created,
        identity,
        cut_bytes,
        cut_reason,
        records: extent.size,
        entries: extent.entries,
        halted: state.halted,
        open_decisions,
        kept,
    };
    Opened::Ready(Box::new(Ready {
        place: Place { segment, end: extent.end, commit_at: extent.commit_at },
        ledger_id: header.ledger_id,
        bytes_before: carry.map_or(0, |carry| carry.bytes_before),
        key,
        note: last_note.map_or_else(String::new, |signed| signed.note),
        store,
        recovered,
        state,
    }))
}

/// What is known of the segments before the newest, found out before anything is changed.
struct Before {
    store: Arc<Store>,
    kept: Option<(u64, Vec<u8>)>,
    open_decisions: Vec<OpenDecision>,
}

impl Before {
    fn of(found: &Scanned, segment: u32, store: Arc<Store>, identity: &Identity, seen: Seen) -> Result<Self, Error> {
        let view = View::new(Arc::clone(&store), &found.state, identity.clone(), found.header.ledger_id);
        let open_decisions = seen.open_decisions(segment, &found.state, &view)?;
        Ok(Self { kept: view.kept_state(), store, open_decisions })
    }
}

/// A mark without a log: the log was removed.
fn refuse_lost_log(mark: MarkFound) -> Result<(), Error> {
    match mark {
        MarkFound::Absent => Ok(()),
        MarkFound::Good(mark) => Err(Error::RolledBack { acknowledged: mark.size, what: "there is no log".to_owned() }),
        MarkFound::Damaged => Err(Error::damaged(0, 0, 0, "there is no log, but a damaged mark of one")),
    }
}

/// Segments that are compressed or archived, and no newest one: it was removed, or not copied yet.
fn refuse_other_forms(reader: &dyn Reader) -> Result<(), Error> {
    let place = reader.place();
    let mut segment = 0;
    while reader.form(segment).map_err(Error::io("look for a segment of", &place))? != Form::Absent {
        segment += 1;
    }
    if segment == 0 { Ok(()) } else { Err(Error::Missing { place, segment }) }
}

/// Every segment must be somewhere, and none after the newest.
pub(crate) fn refuse_gaps(reader: &dyn Reader, newest: u32, mark: MarkFound) -> Result<(), Error> {
    let place = reader.place();
    let form = |segment| reader.form(segment).map_err(Error::io("look for a segment of", &place));
    if let Some(mark) = mark.good().filter(|mark| mark.segment > newest) {
        let what = format!("segment {}, which holds the last of them, is missing", mark.segment);
        return Err(Error::RolledBack { acknowledged: mark.size, what });
    }
    // A plain one may just have been created, while somebody else reads.
    let next = newest.saturating_add(1);
    if matches!(form(next)?, Form::Compressed | Form::Remote) {
        return Err(Error::Missing { place, segment: next.saturating_add(1) });
    }
    for segment in 0..newest {
        if form(segment)? == Form::Absent {
            return Err(Error::Missing { place, segment });
        }
    }
    Ok(())
}

/// The key that signs the checkpoints, of those at hand. A ledger whose key is lost is not written to before
/// that is said.
fn key_at_hand(state: &State, place: &str, options: &Options) -> Result<Option<CheckpointKey>, Error> {
    let Some(public) = state.key else { return Ok(None) };
    let key = options.keys.iter().find(|key| key.public() == public);
    if key.is_none() && (!options.key_is_lost || options.keys.is_empty()) {
        let expected = gavel_proof::hash::HexHash::of(&public).as_str().to_owned();
        return Err(Error::KeyMissing { place: place.to_owned(), expected });
    }
    Ok(key.cloned())
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

fn write_mark(storage: &mut dyn Storage, state: &State, segment: u32, end: u64) -> std::io::Result<()> {
    let mark = Mark { size: state.records(), root: state.tree.root(), end, segment };
    storage.write_mark(&mark.encode())?;
    storage.sync_mark()
}

fn identity(found: &Scanned, place: &str, expected: &Identity) -> Result<Identity, Error> {
    let missing = || Error::damaged(0, frame::HEADER_BYTES as u64, 0, "the first record is missing");
    let identity = found.identity.clone().ok_or_else(missing)?;
    if identity.kernel_id == expected.kernel_id {
        Ok(identity)
    } else {
        let (expected, found) = (expected.kernel_id.clone(), identity.kernel_id);
        Err(Error::Identity { place: place.to_owned(), expected, found })
    }
}

/// A new log: header, the record `opened`, commit frame.
fn first_bytes(options: &Options) -> Vec<u8> {
    let meta = options.identity.to_meta();
    let mut batch = Vec::new();
    frame::push_record(&mut batch, Kind::Opened, |out| {
        record::push_record(out, 0, Kind::Opened, options.now_ms, &meta, None);
    });
    let leaf = leaf_hash(&batch[frame::RECORD_BYTES..]);
    let mut state = State::new();
    state.advance(&Facts::of(Some(Kind::Opened), false, &meta, options.now_ms), leaf, None);
    // The id needs no randomness: it only has to tie later segments to this first record.
    let header = Header::first(frame::array_at(&leaf, 0));
    batch.extend_from_slice(&commit_of(&state, header.frames_at(), 0, "").encode());
    [header.encode().as_slice(), &batch].concat()
}

/// Collects the decisions of the newest segment that may be open.
#[derive(Default)]
struct Seen {
    decisions: BTreeMap<u64, RecordView>,
}

impl Seen {
    fn pass(&mut self, passing: &Passing<'_>) {
        match (passing.facts.kind, passing.facts.closes) {
            (Some(Kind::Decision), _) if !passing.facts.has_entry => {
                self.decisions.insert(passing.parts.index, RecordView::from_parts(passing.text, *passing.parts));
            }
            (Some(Kind::Outcome), Some(closed)) => {
                self.decisions.remove(&closed);
            }
            _ => {}
        }
    }

    /// The open ones, of which some may stand in segments before.
    fn open_decisions(mut self, segment: u32, state: &State, view: &View) -> Result<Vec<OpenDecision>, Error> {
        let mut open = Vec::new();
        for &index in &state.open {
            let record = match self.decisions.remove(&index) {
                Some(record) => record,
                None => view.record(index)?,
            };
            if record.known_kind() != Some(Kind::Decision) {
                let what = format!("it begins with record {index} as an open decision, which is none");
                return Err(Error::damaged(segment, frame::HEADER_BYTES as u64, state.records(), what));
            }
            open.push(OpenDecision { index, record });
        }
        Ok(open)
    }
}

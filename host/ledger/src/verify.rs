//! Reads a ledger and checks everything that it can prove of itself. Changes nothing, and needs no lock.
//!
//! Each segment begins with what the ledger was before it, so the segments are read side by side, each from
//! there, and then each beginning is compared with the end of the segment before.

use crate::SEGMENT_RECORDS;
use crate::error::Error;
use crate::file::FolderReader;
use crate::frame::{Carry, Header};
use crate::identity::Identity;
use crate::recover::refuse_gaps;
use crate::scan::{Scanned, Task, read_header, scan};
use crate::storage::Reader;
use crate::store::{Store, open_segment};
use crate::tail::{MarkFound, judge};
use crate::view::{Records, View};
use gavel_proof::hash::HexHash;
use gavel_proof::tree::Hash;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A ledger that is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Whose it is.
    pub identity: Identity,
    /// The name of the log in its checkpoints.
    pub origin: String,
    /// The segments that were read.
    pub segments: u32,
    /// Committed records, up to the last segment that was read.
    pub records: u64,
    /// Entries of the KERNELS chain among them.
    pub entries: u64,
    /// Commit frames that were read.
    pub batches: u64,
    /// Root of the tree.
    pub root: Hash,
    /// `entry_hash` of the last entry in hex, or 64 zeros.
    pub chain_head: String,
    /// Bytes up to the end of the last commit frame, all segments together.
    pub bytes: u64,
    /// Bytes after it: a batch that a crash tore, or that is being written right now. None of it
    /// was acknowledged.
    pub torn_bytes: u64,
    /// A halt is among the records.
    pub halted: bool,
    /// Decisions that nothing closed.
    pub open_decisions: u64,
    /// The latest `ts_ms` of any record.
    pub last_ts_ms: u64,
    /// Records that the mark vouches for; `None` if it is absent or damaged.
    pub acknowledged: Option<u64>,
    /// The key that signs the checkpoints, if one does.
    pub key: Option<[u8; 32]>,
    /// The last checkpoint, a signed note.
    pub checkpoint: Option<String>,
}

/// What to verify, and how.
#[derive(Default)]
pub struct Audit<'a> {
    /// The segments to read; all by default. The first of them is believed in what it says of those before.
    pub segments: Option<RangeInclusive<u32>>,
    /// A number of records and the root over them, from an earlier checkpoint: the ledger must have been just that.
    pub anchor: Option<(u64, Hash)>,
    /// Begin with the segment of the anchor, which vouches for what is before it.
    pub from_anchor: bool,
    /// The public key that must be in force at the end.
    pub key: Option<[u8; 32]>,
    /// Check the signature of every checkpoint. By default only the last of each segment is checked, which states all
    /// the records before it; the texts of all are compared with the records in any case.
    pub each_signature: bool,
    /// Segments read at a time; by default as many as there are processors.
    pub threads: Option<usize>,
    /// Told after each segment.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

/// How far an audit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Segments that were read.
    pub done: u32,
    /// Segments to read.
    pub total: u32,
}

/// Verifies the ledger in `dir`: headers, checksums, every leaf, the root in every commit frame,
/// every link of the chain, the rules of the log, the checkpoints, and the mark.
///
/// # Errors
/// Names the first byte and record that are not as they should be.
pub fn verify_dir(dir: &Path) -> Result<VerifyReport, Error> {
    audit_dir(dir, &Audit::default())
}

/// Verifies the ledger in `dir` as [`verify_dir`] does, and reads what was verified: every
/// committed record, from the first on, in bounded memory.
///
/// # Errors
/// As for [`verify_dir`].
#[expect(clippy::redundant_closure_for_method_calls, reason = "the method alone is not general enough in its lifetime")]
pub fn read_dir(dir: &Path) -> Result<(VerifyReport, Records), Error> {
    let (report, view) = audited(dir, &Audit::default(), |job, end| job.view(end))?;
    let records = view.records_between(0, view.records());
    Ok((report, records))
}

/// Verifies what `audit` asks for of the ledger in `dir`.
///
/// # Errors
/// As for [`verify_dir`]; [`Error::Anchor`] where the ledger is not one that grew from the anchor.
pub fn audit_dir(dir: &Path, audit: &Audit<'_>) -> Result<VerifyReport, Error> {
    audited(dir, audit, |_, _| Ok(())).map(|(report, ())| report)
}

impl View {
    /// The ledger in `dir`, for reading without owning it: verified from the newest segment's first byte on, not before.
    ///
    /// # Errors
    /// As for [`verify_dir`].
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method alone is not general enough in its lifetime"
    )]
    pub fn open(dir: &Path) -> Result<(VerifyReport, Self), Error> {
        let (_, newest, _) = FolderReader::open(dir)?;
        audited(dir, &Audit { segments: Some(newest..=newest), ..Audit::default() }, |job, end| job.view(end))
    }
}

fn audited<T>(
    dir: &Path,
    audit: &Audit<'_>,
    then: impl FnOnce(&Job<'_>, &Scanned) -> Result<T, Error>,
) -> Result<(VerifyReport, T), Error> {
    let (reader, newest, mark) = FolderReader::open(dir)?;
    let reader: Arc<dyn Reader> = Arc::new(reader);
    let mark = MarkFound::of(&mark);
    refuse_gaps(&*reader, newest, mark)?;
    let segment_records = segment_records(&*reader, newest)?;
    let range = audit.range(newest, segment_records);
    let job = Job { reader, mark, newest, segment_records, audit, range };
    let found = job.read_all()?;
    let Some(end) = found.last() else { return Err(Error::Absent { dir: dir.to_owned() }) };
    job.check_ends(&found, &end.scanned)?;
    let report = report(&found, &end.scanned, mark)?;
    Ok((report, then(&job, &end.scanned)?))
}

/// Records of a segment, as a segment after the first tells; a ledger of one segment need not know.
fn segment_records(reader: &dyn Reader, newest: u32) -> Result<u64, Error> {
    if newest == 0 {
        return Ok(SEGMENT_RECORDS);
    }
    // Any that can be read will do: which is the first damaged one, the audit will say.
    let mut told = records_of(reader, newest);
    for segment in 1..newest {
        if told.is_ok() {
            break;
        }
        told = records_of(reader, segment).or(told);
    }
    told
}

/// Records of a segment, as `segment` tells, which is not the first.
fn records_of(reader: &dyn Reader, segment: u32) -> Result<u64, Error> {
    let source = open_segment(reader, segment)?;
    let (header, _) = read_header(&*source, &reader.place(), segment)?;
    let records = header.first_index / u64::from(segment);
    if records.is_power_of_two() && records * u64::from(segment) == header.first_index {
        Ok(records)
    } else {
        let what = format!("segment {segment} cannot begin with record {}", header.first_index);
        Err(Error::damaged(segment, 0, header.first_index, what))
    }
}

impl Audit<'_> {
    fn range(&self, newest: u32, segment_records: u64) -> RangeInclusive<u32> {
        let anchored = self.anchor.filter(|_| self.from_anchor);
        let first = anchored.map_or(0, |(size, _)| segment_of(size, segment_records));
        let (from, to) = self.segments.clone().unwrap_or(first..=newest).into_inner();
        from.min(newest)..=to.min(newest)
    }
}

/// The segment that holds the last of `size` records.
fn segment_of(size: u64, segment_records: u64) -> u32 {
    u32::try_from(size.saturating_sub(1) / segment_records).unwrap_or(u32::MAX)
}

struct Job<'a> {
    reader: Arc<dyn Reader>,
    mark: MarkFound,
    newest: u32,
    segment_records: u64,
    audit: &'a Audit<'a>,
    range: RangeInclusive<u32>,
}

/// A segment that was read.
struct Segment {
    scanned: Scanned,
    torn_bytes: u64,
}

impl Job<'_> {
    /// Reads the segments side by side. Of several that are damaged the first is named: they are begun in order.
    fn read_all(&self) -> Result<Vec<Segment>, Error> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let total = last - first + 1;
        let next = AtomicU32::new(first);
        let found: Mutex<Vec<(u32, Result<Segment, Error>)>> = Mutex::default();
        let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            loop {
                let segment = next.fetch_add(1, Ordering::Relaxed);
                // One that comes before what is damaged is still to be read: it may be damaged too.
                let is_damaged_before = || lock().iter().any(|(other, read)| *other < segment && read.is_err());
                if segment > last || is_damaged_before() {
                    return;
                }
                let read = self.read(segment);
                lock().push((segment, read));
                let done = u32::try_from(lock().len()).unwrap_or(total);
                if let Some(progress) = self.audit.progress {
                    progress(Progress { done, total });
                }
            }
        };
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let threads = self.audit.threads.unwrap_or_else(processors).clamp(1, total as usize);
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(segment, _)| *segment);
        self.link(found)
    }

    /// Each segment must begin as the one before ended. Of all that is wrong the first is named.
    fn link(&self, found: Vec<(u32, Result<Segment, Error>)>) -> Result<Vec<Segment>, Error> {
        let mut linked: Vec<Segment> = Vec::new();
        for (segment, read) in found {
            let begin = match &read {
                Ok(read) => read.scanned.carry.clone().map(|carry| (read.scanned.header, carry)),
                // What is wrong in it may come from a wrong beginning.
                Err(_) => self.begin(segment),
            };
            if let (Some(before), Some((header, carry))) = (linked.last(), begin) {
                check_link(&before.scanned, &header, &carry)?;
            }
            linked.push(read?);
        }
        Ok(linked)
    }

    /// What a segment says of those before it, if that can be read.
    fn begin(&self, segment: u32) -> Option<(Header, Carry)> {
        let source = open_segment(&*self.reader, segment).ok()?;
        let (header, carry) = read_header(&*source, &self.reader.place(), segment).ok()?;
        Some((header, carry?))
    }

    fn read(&self, segment: u32) -> Result<Segment, Error> {
        let place = self.reader.place();
        let source = open_segment(&*self.reader, segment)?;
        let length = source.log_bytes().map_err(Error::io("measure", &place))?;
        let anchor =
            self.audit.anchor.filter(|(size, _)| segment_of(*size, self.segment_records).min(self.newest) == segment);
        let task = Task {
            source: &source,
            place: &place,
            segment,
            end: length,
            mark: self.mark.good(),
            segment_records: self.segment_records,
            each_signature: self.audit.each_signature,
            derive: segment == *self.range.end(),
            root_at: anchor.map(|(size, _)| size),
        };
        let mut scanned = scan(task, &mut |_| {})?;
        let broken = scanned.broken.take();
        if segment < self.newest {
            return self.sealed(scanned, broken);
        }
        if let Some(broken) = broken {
            judge(&*source, &place, length, &scanned, &broken, self.mark)?;
            // Only what is committed counts, so the state must not include the torn batch.
            scanned = scan(Task { end: scanned.extent.end, ..task }, &mut |_| {})?;
        }
        let torn_bytes = length - scanned.extent.end;
        Ok(Segment { scanned, torn_bytes })
    }

    /// A segment with another after it is whole.
    fn sealed(&self, scanned: Scanned, broken: Option<crate::frames::Broken>) -> Result<Segment, Error> {
        let segment = scanned.header.segment;
        if let Some(broken) = broken {
            let what = format!("{}; a later segment is here, so this one was whole", broken.what);
            return Err(Error::damaged(segment, broken.at, scanned.state.records(), what));
        }
        let expected = (u64::from(segment) + 1) * self.segment_records;
        if scanned.extent.size == expected {
            Ok(Segment { scanned, torn_bytes: 0 })
        } else {
            let what = format!(
                "the segment ends when the ledger has {} records, and a later one is here",
                scanned.extent.size
            );
            Err(Error::damaged(segment, scanned.extent.end, scanned.extent.size, what))
        }
    }

    /// What the ledger is at its end, against what is known of it from elsewhere.
    fn check_ends(&self, found: &[Segment], end: &Scanned) -> Result<(), Error> {
        if let Some((size, root)) = self.audit.anchor {
            let anchored = |what: String| Err(Error::Anchor { size, what });
            match found.iter().find_map(|segment| segment.scanned.root_at) {
                Some(found) if found == root => {}
                Some(_) => return anchored("the first records of this ledger have another root".to_owned()),
                None if size > end.extent.size => {
                    return anchored(format!("this ledger has {} records", end.extent.size));
                }
                None => return anchored("the segment that holds the last of them was not read".to_owned()),
            }
        }
        match self.audit.key {
            Some(key) if end.state.key != Some(key) => Err(Error::OtherKey {
                expected: hex(&key),
                found: end.state.key.map_or_else(|| "none".to_owned(), |key| hex(&key)),
            }),
            _ => Ok(()),
        }
    }

    /// The ledger up to `end`, for reading.
    fn view(&self, end: &Scanned) -> Result<View, Error> {
        let before = end.carry.as_ref().map(|carry| carry.state.tree.clone()).unwrap_or_default();
        // A ledger of the first format may have one segment of any length.
        let records = if self.newest == 0 {
            self.segment_records.max(end.extent.size.next_power_of_two())
        } else {
            self.segment_records
        };
        let store = Store::new(Arc::clone(&self.reader), end.header.ledger_id, records, &before, end.derived.clone())?;
        let identity = end.identity.clone().ok_or_else(first_is_missing)?;
        Ok(View::new(Arc::new(store), &end.state, identity, end.header.ledger_id))
    }
}

fn first_is_missing() -> Error {
    Error::damaged(0, 0, 0, "the first record is missing")
}

/// A segment begins as the one before ended.
fn check_link(before: &Scanned, header: &Header, carry: &Carry) -> Result<(), Error> {
    let (is, says) = (&before.state, &carry.state);
    let bytes = before.carry.as_ref().map_or(0, |carry| carry.bytes_before) + before.extent.end;
    let checks = [
        (before.header.ledger_id == header.ledger_id, "ledger"),
        (before.identity.as_ref() == Some(&carry.identity), "kernel"),
        (is.tree == says.tree, "root of the tree"),
        (is.chain == says.chain, "end of the chain"),
        (is.open == says.open, "set of open decisions"),
        ((is.halted, is.last_ts_ms) == (says.halted, says.last_ts_ms), "halt or time"),
        (is.key == says.key, "key"),
        (bytes == carry.bytes_before, "length"),
    ];
    match checks.iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, what)) => {
            let what = format!("it begins after another {what} than segment {} ends with", before.header.segment);
            Err(Error::damaged(header.segment, 0, header.first_index, what))
        }
    }
}

fn report(found: &[Segment], end: &Scanned, mark: MarkFound) -> Result<VerifyReport, Error> {
    let identity = end.identity.clone().ok_or_else(first_is_missing)?;
    let (state, extent) = (&end.state, &end.extent);
    Ok(VerifyReport {
        origin: identity.origin(&end.header.ledger_id),
        identity,
        segments: u32::try_from(found.len()).unwrap_or(u32::MAX),
        records: extent.size,
        entries: extent.entries,
        batches: found.iter().map(|segment| segment.scanned.extent.batches).sum(),
        root: state.tree.root(),
        chain_head: state.chain.head_hex.as_str().to_owned(),
        bytes: end.carry.as_ref().map_or(0, |carry| carry.bytes_before) + extent.end,
        torn_bytes: found.last().map_or(0, |segment| segment.torn_bytes),
        halted: state.halted,
        open_decisions: state.open.len() as u64,
        last_ts_ms: state.last_ts_ms,
        acknowledged: mark.good().map(|mark| mark.size),
        key: state.key,
        checkpoint: end.last_note.as_ref().map(|signed| signed.note.clone()),
    })
}

fn hex(key: &[u8; 32]) -> String {
    HexHash::of(key).as_str().to_owned()
}

//! The tampering matrix: every part of a ledger of several segments, changed in every way, by someone who knows the
//! format and has all the files, but no key. Each change is found, and the message names the first bad record.
//!
//! A row is a part and an operation on it; what must be said of it is in [`Part::expected`]. Where the change is in a
//! sealed segment, an audit must find it: opening reads only the newest. What no folder can show by itself, another
//! history signed with the same key or an older copy of everything, must be found by whoever kept a checkpoint.

use crate::*;
use gavel_ledger::note::{CheckpointKey, Note};
use gavel_ledger::tree::{self, Hash, leaf_hash};
use gavel_ledger::{Audit, audit_dir, remote_file, segment_file, verify_dir};
use std::collections::BTreeMap;
use std::fs;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::{Duration, Instant};

const SEGMENT: u64 = 8;
/// Records of the ledger: three full segments and a part of a fourth.
const RECORDS: u64 = 30;
/// Where the other history leaves this one.
const FORK: u64 = 13;
const SEGMENTS: u32 = 4;

const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 20;
const COMMIT_BYTES: usize = 128;

/// The files of a ledger by name, without the lock.
type Files = BTreeMap<String, Vec<u8>>;

/// What is tampered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header(u32),
    Carry(u32),
    Record(u64),
    /// The commit frame after the record, without its note.
    Commit(u64),
    /// The signed checkpoint in it.
    Note(u64),
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Flip,
    /// The same, and the checksums are made good.
    FlipAndSeal,
    Drop,
    Duplicate,
    /// Exchanged with the next part of the same kind.
    Reorder,
    /// The file ends in the middle of the part.
    Truncate,
    /// The part of another ledger stands there.
    Splice,
    /// The part of another history of this ledger stands there, signed with its key.
    Fork,
}

const OPERATIONS: [Operation; 8] = [
    Operation::Flip,
    Operation::FlipAndSeal,
    Operation::Drop,
    Operation::Duplicate,
    Operation::Reorder,
    Operation::Truncate,
    Operation::Splice,
    Operation::Fork,
];

fn key() -> CheckpointKey {
    CheckpointKey::from_seed(&[1; 32])
}

fn small(kernel_id: &str) -> Options {
    let identity = Identity { kernel_id: kernel_id.into(), variant: "strict".into() };
    Options { segment_records: SEGMENT, keys: vec![key()], ..Options::new(identity, 1_700_000_000_000) }
}

/// Appends up to `count` records to the ledger in `dir`, which differ by `salt`.
fn write(dir: &Path, kernel_id: &str, count: u64, salt: u64) {
    let (ledger, _) = Ledger::open(dir, small(kernel_id)).unwrap();
    for number in ledger.snapshot().records..count {
        ledger.append_wait(denial(number * 10 + salt)).unwrap();
    }
    ledger.close().unwrap();
}

fn read(dir: &Path) -> Files {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    // What is derived may still be on its way.
    let files = files.filter(|path| path.extension().is_none_or(|kind| kind != "new") && !path.ends_with("lock"));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// The files of a ledger at rest, with what is derived from its sealed segments.
fn read_all(dir: &Path) -> Files {
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        let files = read(dir);
        let named = |kind: &str| files.keys().filter(|name| name.ends_with(kind)).count();
        if named(".tree") + 1 == named(".log") {
            return files;
        }
        assert!(Instant::now() < until, "{:?}", files.keys());
        std::thread::yield_now();
    }
}

fn put(files: &Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The ledgers of the matrix.
struct World {
    /// The one that is tampered with.
    good: Files,
    /// The same, some records ago.
    older: Files,
    /// Another history of it from [`FORK`] on, and longer.
    fork: Files,
    /// That history when it was shorter, by more than a segment.
    middle_of_fork: Files,
    /// Another kernel's, of the same shape.
    other: Files,
    /// The checkpoint that an auditor kept of `good`.
    kept: (u64, Hash),
}

fn world() -> World {
    let written = |kernel_id: &str, steps: &[(u64, u64)]| {
        let dir = tempfile::tempdir().unwrap();
        for &(count, salt) in steps {
            write(dir.path(), kernel_id, count, salt);
        }
        read_all(dir.path())
    };
    let good = written("k-1", &[(FORK, 0), (RECORDS, 1)]);
    let report = verify_dir(put(&good).path()).unwrap();
    assert_eq!((report.records, report.segments), (RECORDS, SEGMENTS));
    World {
        good,
        older: written("k-1", &[(FORK, 0), (RECORDS - 3, 1)]),
        fork: written("k-1", &[(FORK, 0), (RECORDS + 1, 2)]),
        middle_of_fork: written("k-1", &[(FORK, 0), (2 * SEGMENT + 3, 2)]),
        other: written("k-2", &[(RECORDS, 0)]),
        kept: (report.records, report.root),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Where the frames of a segment's records begin.
fn frames_at(segment: &[u8]) -> usize {
    HEADER_BYTES + if segment[12..16] == [0; 4] { 0 } else { u32_at(segment, 40) }
}

/// The records and commit frames of a sound segment, in order; a commit with its note.
fn frames(segment: &[u8]) -> Vec<(bool, Range<usize>)> {
    let (mut at, mut frames) = (frames_at(segment), Vec::new());
    while at < segment.len() {
        let is_record = segment[at..].starts_with(b"GREC");
        let length = if is_record {
            RECORD_BYTES + u32_at(segment, at + 4)
        } else {
            COMMIT_BYTES + (u32_at(segment, at + 104) & 0xffff)
        };
        frames.push((is_record, at..at + length));
        at += length;
    }
    assert_eq!(at, segment.len());
    frames
}

impl Part {
    fn segment(self) -> u32 {
        match self {
            Self::Header(segment) | Self::Carry(segment) => segment,
            Self::Record(index) | Self::Commit(index) | Self::Note(index) => u32::try_from(index / SEGMENT).unwrap(),
        }
    }

    /// The part after it of the same kind.
    fn next(self) -> Self {
        match self {
            Self::Header(segment) => Self::Header(segment + 1),
            Self::Carry(segment) => Self::Carry(segment + 1),
            Self::Record(index) => Self::Record(index + 1),
            Self::Commit(index) => Self::Commit(index + 1),
            Self::Note(index) => Self::Note(index + 1),
        }
    }

    /// Its place in its segment, if it is there. Each record of these ledgers is a batch of its own.
    fn range(self, segment: &[u8]) -> Option<Range<usize>> {
        let nth = |is_record: bool, index: u64| {
            let mut found = frames(segment).into_iter().filter(|(kind, _)| *kind == is_record);
            found.nth(usize::try_from(index % SEGMENT).unwrap()).map(|(_, range)| range)
        };
        match self {
            Self::Header(_) => Some(0..HEADER_BYTES),
            Self::Carry(_) => Some(HEADER_BYTES..frames_at(segment)).filter(|range| !range.is_empty()),
            Self::Record(index) => nth(true, index),
            Self::Commit(index) => nth(false, index).map(|range| range.start..range.start + COMMIT_BYTES),
            Self::Note(index) => {
                nth(false, index).map(|range| range.start + COMMIT_BYTES..range.end).filter(|range| !range.is_empty())
            }
        }
    }

    /// The records that may be named: that of the part or, where something is missing or too much, the one after it.
    fn expected(self) -> RangeInclusive<u64> {
        match self {
            Self::Header(segment) | Self::Carry(segment) => 0..=u64::from(segment) * SEGMENT,
            Self::Record(index) | Self::Commit(index) | Self::Note(index) => index..=index + 1,
        }
    }
}

fn all_parts() -> Vec<Part> {
    let of_segments = (0..SEGMENTS).flat_map(|segment| [Part::Header(segment), Part::Carry(segment)]);
    let of_records = (0..RECORDS).flat_map(|index| [Part::Record(index), Part::Commit(index), Part::Note(index)]);
    of_segments.chain(of_records).collect()
}

/// Makes all checksums good, as someone does who knows the format.
fn seal(segment: &mut [u8]) {
    let crc = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
    let begin = frames_at(segment);
    for (is_record, range) in frames(segment) {
        let frame = &mut segment[range];
        let (content, content_crc_at, head_bytes) =
            if is_record { (RECORD_BYTES, 12, 16) } else { (COMMIT_BYTES, 108, 124) };
        let sum = crc(&frame[content..]);
        frame[content_crc_at..content_crc_at + 4].copy_from_slice(&sum);
        let sum = crc(&frame[..head_bytes]);
        frame[head_bytes..head_bytes + 4].copy_from_slice(&sum);
    }
    if begin > HEADER_BYTES {
        let sum = crc(&segment[HEADER_BYTES..begin]);
        segment[44..48].copy_from_slice(&sum);
    }
    let sum = crc(&segment[..60]);
    segment[60..64].copy_from_slice(&sum);
}

impl World {
    /// The files after the operation; `None` where there is nothing to do it to, or it changes nothing.
    fn tampered(&self, part: Part, operation: Operation) -> Option<Files> {
        let name = segment_file(part.segment());
        let bytes = &self.good[&name];
        let range = part.range(bytes)?;
        let (before, at, after) = (&bytes[..range.start], &bytes[range.clone()], &bytes[range.end..]);
        let taken = |from: &Files| {
            let other = from.get(&name)?;
            let range = part.range(other)?;
            Some([before, &other[range], after].concat())
        };
        let mut files = self.good.clone();
        let changed = match operation {
            Operation::Flip | Operation::FlipAndSeal => {
                let mut bytes = bytes.clone();
                // In a header the index of the first record, else what lies in the middle.
                bytes[if matches!(part, Part::Header(_)) { 16 } else { range.start + range.len() / 2 }] ^= 1;
                if operation == Operation::FlipAndSeal {
                    seal(&mut bytes);
                }
                bytes
            }
            Operation::Drop => [before, after].concat(),
            Operation::Duplicate => [before, at, at, after].concat(),
            Operation::Reorder => {
                let next = part.next();
                let other = segment_file(next.segment());
                let with = self.good.get(&other)?;
                let next = next.range(with)?;
                if other == name {
                    [before, &bytes[next.clone()], &bytes[range.end..next.start], at, &bytes[next.end..]].concat()
                } else {
                    files.insert(other, [&with[..next.start], at, &with[next.end..]].concat());
                    [before, &with[next], after].concat()
                }
            }
            Operation::Truncate => bytes[..range.start + range.len() / 2].to_vec(),
            Operation::Splice => taken(&self.other)?,
            Operation::Fork => taken(&self.fork)?,
        };
        files.insert(name, changed);
        (files != self.good).then_some(files)
    }
}

/// What an error names: the segment and the record, if it is about some.
fn named(error: &Error) -> Option<(u32, u64)> {
    match error {
        Error::Damaged { segment, index, .. } => Some((*segment, *index)),
        _ => None,
    }
}

#[test]
fn every_change_of_every_part_is_found_and_the_first_bad_record_is_named() {
    let world = world();
    let mut rows = 0;
    for part in all_parts() {
        for operation in OPERATIONS {
            let Some(files) = world.tampered(part, operation) else { continue };
            let row = format!("{operation:?} of {part:?}");
            rows += 1;
            let dir = put(&files);
            let audit = Audit { each_signature: true, ..Audit::default() };
            let error = audit_dir(dir.path(), &audit).expect_err(&row);
            match named(&error) {
                Some((segment, index)) => {
                    assert!(part.expected().contains(&index), "{row}: {error}");
                    assert!((part.segment()..=part.segment() + 1).contains(&segment), "{row}: {error}");
                }
                // The end of the newest segment is what the mark vouches for.
                None => assert!(matches!(error, Error::RolledBack { acknowledged: RECORDS, .. }), "{row}: {error}"),
            }
            check_opening(&world, &dir, part, &row);
        }
    }
    assert!(rows > 600, "{rows}");
}

/// A newest segment that is damaged does not open; a sealed one is not read, and what it holds is not believed.
fn check_opening(world: &World, dir: &tempfile::TempDir, part: Part, row: &str) {
    let before = read(dir.path());
    match Ledger::open(dir.path(), small("k-1")) {
        Err(_) => assert_eq!(read(dir.path()), before, "{row}: what is refused is not changed"),
        Ok((ledger, _)) => {
            // Of signatures the last one counts, which is over all records before it.
            assert!(part.segment() + 1 < SEGMENTS || matches!(part, Part::Note(_)), "{row}: opened");
            assert_eq!((ledger.snapshot().records, ledger.snapshot().root), world.kept, "{row}: another history");
            let view = ledger.view();
            for index in part.expected().filter(|index| *index < RECORDS) {
                // What is handed out is what was recorded, or nothing is.
                let Ok(record) = view.record(index) else { continue };
                assert!(
                    world.good.values().any(|file| contains(file, record.as_str().as_bytes())),
                    "{row}: {record:?}"
                );
            }
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn segments_that_are_missing_moved_or_of_another_ledger_are_named() {
    let world = world();
    let check = |row: &str, change: &dyn Fn(&mut Files), expected: &str| {
        let mut files = world.good.clone();
        change(&mut files);
        let dir = put(&files);
        let told = verify_dir(dir.path()).expect_err(row).to_string();
        assert!(told.contains(expected), "{row}: {told}");
    };
    for segment in 0..SEGMENTS {
        let name = segment_file(segment);
        let last = segment + 1 == SEGMENTS;
        let missing = format!(
            "segment {segment}{}",
            if last { ", which holds the last of them, is missing" } else { " is missing" }
        );
        check("drop", &|files| drop(files.remove(&name)), &missing);
        let this_is = format!("segment {segment}: byte 0: record 0: this is segment");
        let with = segment_file((segment + 1) % SEGMENTS);
        check("duplicate", &|files| drop(files.insert(name.clone(), files[&with].clone())), &this_is);
        let reorder = |files: &mut Files| {
            let (one, other) = (files[&name].clone(), files[&with].clone());
            files.extend([(name.clone(), other), (with.clone(), one)]);
        };
        check("reorder", &reorder, ": byte 0: record 0: this is segment");
        check(
            "truncate",
            &|files| files.get_mut(&name).unwrap().truncate(40),
            "the file has 40 bytes, fewer than its header",
        );
        check(
            "splice",
            &|files| drop(files.insert(name.clone(), world.other[&name].clone())),
            &format!("segment {}: ", segment.max(1)),
        );
        if !last {
            check(
                "remote",
                &|files| {
                    let stub = files.remove(&name).map(|_| b"{}".to_vec()).unwrap();
                    files.insert(remote_file(segment), stub);
                },
                &format!("segment {segment} is only in the archive"),
            );
        }
    }
    // The first segment that differs between the histories links to the last one before it; the next one does not.
    check(
        "fork",
        &|files| drop(files.insert(segment_file(1), world.fork[&segment_file(1)].clone())),
        "segment 2: byte 0: record 16: it begins after another root of the tree",
    );
    check(
        "roll back",
        &|files| drop(files.insert(segment_file(3), world.older[&segment_file(3)].clone())),
        "30 records were acknowledged, but the log ends",
    );
    check("a hole", &|files| drop(files.insert(segment_file(5), files[&segment_file(3)].clone())), "is missing");
}

#[test]
fn marks_that_lie_are_found_and_marks_that_are_lost_harm_nothing() {
    let world = world();
    let with = |mark: Option<&[u8]>| {
        let mut files = world.good.clone();
        files.remove("mark");
        files.extend(mark.map(|mark| ("mark".to_owned(), mark.to_vec())));
        put(&files)
    };
    let good = world.good["mark"].clone();
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    for lost in [None, Some(flipped.as_slice()), Some(&good[..10]), Some(&[]), Some(&world.older["mark"])] {
        let dir = with(lost);
        assert_eq!(verify_dir(dir.path()).unwrap().records, RECORDS);
        Ledger::open(dir.path(), small("k-1")).unwrap().0.close().unwrap();
        assert_eq!(fs::read(dir.path().join("mark")).unwrap(), good, "it is written anew");
    }
    let passed = "the log has other records up to there";
    for (lie, mark, expected) in [
        ("the mark of a longer history", &world.fork["mark"], "the log ends at byte"),
        ("the mark of another ledger", &world.other["mark"], passed),
        ("the mark of another history, segments ago", &world.middle_of_fork["mark"], passed),
    ] {
        let dir = with(Some(mark));
        let told = verify_dir(dir.path()).expect_err(lie);
        assert!(matches!(told, Error::RolledBack { .. }) && told.to_string().contains(expected), "{told}");
        let told = Ledger::open(dir.path(), small("k-1")).expect_err(lie);
        assert!(matches!(told, Error::RolledBack { .. }), "{told}");
    }
}

/// Someone who has all files can put back all of them, and whoever has the key can write another history. What a
/// checkpoint says that somebody kept, neither can change.
#[test]
fn another_history_is_found_by_whoever_kept_a_checkpoint() {
    let world = world();
    for (row, files, expected) in [
        ("rolled back", &world.older, "this ledger has 27 records"),
        ("fork", &world.fork, "the first records of this ledger have another root"),
        ("another ledger", &world.other, "the first records of this ledger have another root"),
    ] {
        let dir = put(files);
        verify_dir(dir.path()).expect(row);
        for from_anchor in [false, true] {
            let audit = Audit { anchor: Some(world.kept), from_anchor, ..Audit::default() };
            let error = audit_dir(dir.path(), &audit).expect_err(row);
            assert!(matches!(error, Error::Anchor { size: RECORDS, .. }), "{row}: {error}");
            assert!(error.to_string().contains(expected), "{row}: {error}");
        }
    }
    let dir = put(&world.good);
    audit_dir(dir.path(), &Audit { anchor: Some(world.kept), key: Some(key().public()), ..Audit::default() }).unwrap();
    // A history from the first record on is not signed by the key that the auditor knows.
    let stranger = Audit { key: Some(CheckpointKey::from_seed(&[9; 32]).public()), ..Audit::default() };
    assert!(matches!(audit_dir(dir.path(), &stranger), Err(Error::OtherKey { .. })));
}

/// What is derived is never evidence: however it is changed, proofs are those of the records.
#[test]
fn sidecars_that_lie_change_no_proof() {
    let world = world();
    let good = world.good["segment-000001.tree"].clone();
    let mut changes = vec![Vec::new(), good[..good.len() / 2].to_vec(), [good.as_slice(), b"x"].concat()];
    changes.push(world.other["segment-000001.tree"].clone());
    changes.push(world.fork["segment-000001.tree"].clone());
    changes.push(world.good["segment-000000.tree"].clone());
    // Every hash and every offset is another.
    changes.extend((8..good.len()).step_by(4).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    }));
    for (number, bytes) in changes.into_iter().enumerate() {
        let mut files = world.good.clone();
        files.insert("segment-000001.tree".to_owned(), bytes);
        let dir = put(&files);
        assert_eq!(verify_dir(dir.path()).unwrap().records, RECORDS);
        let (ledger, _) = Ledger::open(dir.path(), small("k-1")).unwrap();
        let view = ledger.view();
        let root = view.root();
        let note = ledger.snapshot().checkpoint.unwrap();
        assert_eq!(Note::parse(&note).unwrap().checkpoint().unwrap().root, root);
        for index in SEGMENT..2 * SEGMENT {
            let row = format!("change {number}, record {index}");
            let record = view.record(index).expect(&row);
            assert_eq!(record.index(), index, "{row}");
            let leaf = leaf_hash(record.as_str().as_bytes());
            let proof = view.inclusion(index, RECORDS).expect(&row);
            assert_eq!(tree::verify_inclusion(&leaf, index, RECORDS, &proof, &root), Ok(()), "{row}");
            let old_root = view.root_of(index).expect(&row);
            let proof = view.consistency(index, RECORDS).expect(&row);
            let verified = tree::verify_consistency((index, &old_root), (RECORDS, &root), &proof);
            assert_eq!(verified, Ok(()), "{row}");
            let proof = view.range(index, index + 1, RECORDS).expect(&row);
            assert_eq!(tree::verify_range(&[leaf], index, RECORDS, &proof, &root), Ok(()), "{row}");
        }
        ledger.close().unwrap();
    }
}

//! Every way of changing a ledger behind its back, exhaustively where it can be: what was
//! acknowledged is never lost in silence, a torn batch is cut, and a message names the first byte
//! that is wrong.

use crate::*;
use gavel_ledger::SECTOR_BYTES;
use gavel_ledger::tree::leaf_hash;

const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 20;
const COMMIT_BYTES: usize = 128;

/// A small ledger at rest, and what it was before its last batch of three records.
struct Sample {
    before: Image,
    records_before: u64,
    now: Image,
    records: u64,
}

fn sample() -> Sample {
    let storage = MemoryStorage::new();
    let (ledger, _) = open(&storage).unwrap();
    ledger.append_wait(denial(1)).unwrap();
    ledger.append_wait(intention(2)).unwrap();
    let gate = hold_the_writer(&ledger);
    // The gates are durable, and nothing else can be written while they are held.
    let before = storage.image();
    let fates = [denial(3), outcome(2), intention(4)].map(|draft| append(&ledger, draft));
    drop(gate);
    for fate in fates {
        fate.recv().unwrap().unwrap();
    }
    assert_eq!(ledger.stats().batches, 5);
    ledger.close().unwrap();
    Sample { before, records_before: 5, now: storage.image(), records: 8 }
}

/// Offset and length of each frame, the header first; reads a sound log only.
fn frames(log: &[u8]) -> Vec<(usize, usize)> {
    let mut frames = vec![(0, HEADER_BYTES)];
    let mut at = HEADER_BYTES;
    while at < log.len() {
        let is_record = log[at..].starts_with(b"GREC");
        let payload = u32::from_le_bytes(log[at + 4..at + 8].try_into().unwrap()) as usize;
        let length = if is_record { RECORD_BYTES + payload } else { COMMIT_BYTES };
        frames.push((at, length));
        at += length;
    }
    assert_eq!(at, log.len());
    frames
}

fn damage_at(result: Result<(Ledger, Recovered), Error>) -> (u64, u64, String) {
    match result {
        Err(Error::Damaged { byte, index, what, .. }) => (byte, index, what),
        other => panic!("expected damage, not {other:?}"),
    }
}

#[test]
fn a_batch_torn_at_any_byte_is_cut_if_nothing_vouches_for_it() {
    let Sample { before, records_before, now, records } = sample();
    for mark in [&before.mark, &Vec::new()] {
        for length in before.log.len()..=now.log.len() {
            let (ledger, recovered) = open_image(&now.log[..length], mark).unwrap();
            let whole = length == now.log.len();
            let expected = if whole { (records, 0) } else { (records_before, (length - before.log.len()) as u64) };
            assert_eq!((recovered.records, recovered.cut_bytes), expected, "cut at byte {length}");
            let open: Vec<u64> = recovered.open_decisions.iter().map(|open| open.index).collect();
            assert_eq!(open, if whole { [7] } else { [2] });
            // The next append lands where the torn batch was, and the whole reads back.
            ledger.append_wait(denial(9)).unwrap();
            assert_eq!(crate::records(&ledger).len() as u64, recovered.records + 1);
        }
    }
}

#[test]
fn a_batch_that_was_acknowledged_is_not_cut_however_it_ends() {
    let Sample { now, .. } = sample();
    for length in 0..now.log.len() {
        let error = open_image(&now.log[..length], &now.mark).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. } | Error::RolledBack { .. }), "cut at byte {length}: {error}");
    }
}

#[test]
fn no_log_is_shorter_than_its_first_batch() {
    let Sample { now, .. } = sample();
    let (first_commit, length) = frames(&now.log)[2];
    for end in 1..first_commit + length {
        damage_at(open_image(&now.log[..end], &[]));
    }
}

/// The promise, at its hardest in the last batch, which looks like a torn write: even without the
/// mark no flip is mistaken for one.
#[test]
fn every_flipped_bit_and_every_zeroed_byte_is_found_and_named() {
    let Sample { before, now, .. } = sample();
    let frames = frames(&now.log);
    for at in 0..now.log.len() {
        let (frame_at, _) = frames.iter().rfind(|(start, _)| *start <= at).unwrap();
        let changes = (0..8).map(|bit| now.log[at] ^ (1 << bit)).chain([0, 0xff]).filter(|&byte| byte != now.log[at]);
        for byte in changes {
            let mut log = now.log.clone();
            log[at] = byte;
            for mark in [&now.mark, &before.mark, &Vec::new()] {
                let (named, index, what) = damage_at(open_image(&log, mark));
                assert_eq!(named, *frame_at as u64, "byte {at} became {byte:#x}: {what}");
                assert!(index <= 8);
            }
        }
    }
}

#[test]
fn a_lost_sector_is_a_crash_in_the_last_batch_and_damage_elsewhere() {
    let Sample { before, records_before, now, .. } = sample();
    for sector in 0..now.log.len().div_ceil(SECTOR_BYTES) {
        let (start, end) = (sector * SECTOR_BYTES, ((sector + 1) * SECTOR_BYTES).min(now.log.len()));
        let mut log = now.log.clone();
        // Of the sector in which the last batch begins, the committed part was there before.
        let start = if start < before.log.len() && before.log.len() < end { before.log.len() } else { start };
        log[start..end].fill(0);
        damage_at(open_image(&log, &now.mark));
        if start < before.log.len() {
            damage_at(open_image(&log, &before.mark));
        } else {
            let (_ledger, recovered) = open_image(&log, &before.mark).unwrap();
            assert_eq!(recovered.records, records_before, "sector {sector}");
        }
    }
}

#[test]
fn a_valid_commit_after_a_hole_is_never_cut() {
    let Sample { before, now, .. } = sample();
    // The batch before the last is unreadable, as if its sectors had been lost, yet the last one is
    // there.
    let [.., (start, _), _] = frames(&before.log)[..] else { panic!("a record and its commit") };
    let mut log = now.log.clone();
    log[start..before.log.len()].fill(0);
    let (byte, index, what) = damage_at(open_image(&log, &[]));
    assert_eq!((byte, index), (start as u64, 4));
    assert!(what.contains("a valid commit of 8 records follows at byte"), "{what}");
}

#[test]
fn a_log_that_was_rolled_back_or_removed_is_refused() {
    let Sample { before, now, .. } = sample();
    for log in [before.log.clone(), Vec::new()] {
        let error = open_image(&log, &now.mark).unwrap_err();
        assert!(matches!(error, Error::RolledBack { acknowledged: 8, .. }), "{error}");
    }
    // Another history of the same length.
    let storage = MemoryStorage::new();
    let (ledger, _) = open(&storage).unwrap();
    for number in 20..27 {
        ledger.append_wait(denial(number)).unwrap();
    }
    ledger.close().unwrap();
    let error = open_image(&storage.image().log, &now.mark).unwrap_err();
    assert!(error.to_string().contains("the log has other records"), "{error}");
    // A history that passed by without a commit at that size.
    let storage = MemoryStorage::from_image(before);
    let (ledger, _) = open(&storage).unwrap();
    ledger.append_wait(denial(3)).unwrap();
    ledger.close().unwrap();
    let error = open_image(&now.log, &storage.image().mark).unwrap_err();
    assert!(error.to_string().contains("the log has no commit there"), "{error}");
}

#[test]
fn a_damaged_mark_harms_no_sound_log_and_excuses_no_torn_one() {
    let Sample { now, records, .. } = sample();
    for bit in 0..now.mark.len() * 8 {
        let mut mark = now.mark.clone();
        mark[bit / 8] ^= 1 << (bit % 8);
        let storage = MemoryStorage::from_image(Image { log: now.log.clone(), mark: mark.clone(), ..Image::default() });
        let (_ledger, recovered) = open(&storage).unwrap();
        assert_eq!((recovered.records, recovered.cut_bytes), (records, 0));
        assert_eq!(storage.image().mark, now.mark, "the mark is written anew");
        let (.., what) = damage_at(open_image(&now.log[..now.log.len() - 1], &mark));
        assert!(what.contains("the mark is damaged too"), "{what}");
    }
}

/// Puts another payload into a frame, checksums and all: what someone does who knows the format.
fn forge(log: &[u8], record: usize, change: impl Fn(String) -> String) -> Vec<u8> {
    let records: Vec<_> = frames(log).into_iter().skip(1).filter(|(at, _)| log[*at..].starts_with(b"GREC")).collect();
    let (at, length) = records[record];
    let payload = change(String::from_utf8(log[at + RECORD_BYTES..at + length].to_vec()).unwrap());
    let mut head = log[at..at + RECORD_BYTES].to_vec();
    head[4..8].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    head[12..16].copy_from_slice(&crc32fast::hash(payload.as_bytes()).to_le_bytes());
    let crc = crc32fast::hash(&head[..16]);
    head[16..].copy_from_slice(&crc.to_le_bytes());
    [&log[..at], &head, payload.as_bytes(), &log[at + length..]].concat()
}

#[test]
fn forged_records_with_good_checksums_are_found() {
    let Sample { now, .. } = sample();
    let replace = |from: &'static str, to: &'static str| {
        move |text: String| {
            assert!(text.contains(from), "{text}");
            text.replace(from, to)
        }
    };
    let check = |record: usize, change: &dyn Fn(String) -> String, index: u64, expected: &str| {
        let (_, named, what) = damage_at(open_image(&forge(&now.log, record, change), &[]));
        assert!(named == index && what.contains(expected), "record {named}: {what}");
    };
    // A change that only the tree can see is found at the commit frame behind it, and the batch's first record named.
    check(1, &replace("\"number\":1", "\"number\":7"), 1, "root of the tree");
    check(1, &replace("DENY", "DENI"), 1, "the entry hashes to");
    check(1, &replace("\"prev_hash\":\"0", "\"prev_hash\":\"1"), 1, "prev_hash is 1");
    check(1, &replace("\"ledger_seq\":0", "\"ledger_seq\":4"), 1, "the entry calls itself 4");
    check(2, &replace("\"index\":2", "\"index\":9"), 2, "the record calls itself 9");
    check(2, &replace("decision", "event"), 2, "a frame of kind 1 holds the kind `event`");
    check(6, &replace("\"decision_index\":2", "\"decision_index\":1"), 6, "record 1 is not an open decision");
    check(6, &replace("\"decision_index\"", "\"decision_other\""), 6, "must name the decision");
    check(5, &replace("{\"entry\"", "{ \"entry\""), 5, "byte 1 of the record");
    check(0, &replace("k-1", "k-2"), 0, "the header belongs to another ledger");
}

#[test]
fn frames_dropped_repeated_swapped_or_taken_from_elsewhere_are_found() {
    let Sample { now, .. } = sample();
    let frames = frames(&now.log);
    let pieces: Vec<&[u8]> = frames.iter().map(|&(at, length)| &now.log[at..at + length]).collect();
    let build =
        |order: &[usize]| -> Vec<u8> { order.iter().flat_map(|&piece| pieces[piece].iter().copied()).collect() };
    let all: Vec<usize> = (0..pieces.len()).collect();
    for at in 1..all.len() - 1 {
        let mut dropped = all.clone();
        dropped.remove(at);
        let mut repeated = all.clone();
        repeated.insert(at, at);
        let mut swapped = all.clone();
        swapped.swap(at, at + 1);
        for order in [dropped, repeated, swapped] {
            damage_at(open_image(&build(&order), &[]));
        }
    }
    let other = MemoryStorage::new();
    let identity = Identity { kernel_id: "k-9".into(), variant: "strict".into() };
    drop(Ledger::open_storage(Box::new(other.clone()), &Options::new(identity, 1)).unwrap());
    let header_of_another = [&other.image().log[..HEADER_BYTES], &now.log[HEADER_BYTES..]].concat();
    let (.., what) = damage_at(open_image(&header_of_another, &[]));
    assert!(what.contains("the header belongs to another ledger"), "{what}");
}

#[test]
fn kinds_of_a_later_version_stay_readable() {
    let storage = MemoryStorage::new();
    let (ledger, _) = open(&storage).unwrap();
    ledger.append_wait(draft(Kind::Event, "{}", None)).unwrap();
    ledger.close().unwrap();
    let log = with_kind_of_the_future(&storage.image().log);
    let (ledger, recovered) = open_image(&log, &[]).unwrap();
    assert_eq!(recovered.records, 2);
    assert_eq!((records(&ledger)[1].kind(), records(&ledger)[1].known_kind()), ("seed_transition", None));
}

/// Rewrites record 1, and the commit frame after it, as a later version might have.
fn with_kind_of_the_future(log: &[u8]) -> Vec<u8> {
    let mut log = forge(log, 1, |text| text.replace("event", "seed_transition"));
    let [.., (record_at, record_length), (commit_at, _)] = frames(&log)[..] else { panic!("two frames") };
    log[record_at + 8] = 77;
    let crc = crc32fast::hash(&log[record_at..record_at + 16]);
    log[record_at + 16..record_at + 20].copy_from_slice(&crc.to_le_bytes());
    let (first_at, first_length) = frames(&log)[1];
    let leaves = [(first_at, first_length), (record_at, record_length)]
        .map(|(at, length)| leaf_hash(&log[at + 20..at + length]));
    log[commit_at + 16..commit_at + 48].copy_from_slice(&gavel_ledger::tree::node_hash(&leaves[0], &leaves[1]));
    let crc = crc32fast::hash(&log[commit_at..commit_at + 124]);
    log[commit_at + 124..commit_at + 128].copy_from_slice(&crc.to_le_bytes());
    log
}

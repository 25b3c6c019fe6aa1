//! What lies on the disk: records, and a whole ledger.

use crate::Target;
use crate::proofs::naive_root;
use gavel_ledger::note::CheckpointKey;
use gavel_ledger::tree::leaf_hash;
use gavel_ledger::{Draft, GENESIS_HASH, Identity, Image, Kind, Ledger, MemoryStorage, Options, RecordView};
use gavel_proof::hash::HexHash;
use sha2::{Digest, Sha256};

/// Few, so that inputs have several segments and are short all the same.
const SEGMENT_RECORDS: u64 = 4;
const MARK_BYTES: usize = 64;
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 20;
const COMMIT_BYTES: usize = 128;

/// One record, as a leaf of the tree.
pub const RECORD: Target = Target {
    name: "record",
    seeds: records,
    words: &[
        "{\"entry\":",
        ",\"entry_hash\":\"",
        "\",\"index\":",
        ",\"kind\":\"",
        ",\"ledger_seq\":",
        ",\"meta\":",
        ",\"prev_hash\":\"",
        ",\"ts_ms\":",
        "}",
        "{}",
        "\\u0000",
        "\"decision_index\":",
        "decision",
        "outcome",
    ],
    run: record,
    cost: 1,
};

/// The segments of a log and its mark, opened. The first byte says whether their checksums are made good first, as
/// someone would who knows the format; then come the mark, and each segment behind its length in four bytes.
pub const LEDGER: Target =
    Target { name: "ledger", seeds: ledgers, words: &["GREC", "GAVELCMT", "GAVELLOG"], run: ledger, cost: 10 };

fn options() -> Options {
    let identity = Identity { kernel_id: "k-1".into(), variant: "strict".into() };
    let keys = vec![CheckpointKey::from_seed(&[1; 32])];
    Options { segment_records: SEGMENT_RECORDS, keys, ..Options::new(identity, 1_700_000_000_000) }
}

fn draft(kind: Kind, meta: &str, entry: Option<&str>, closes: Option<u64>) -> Draft {
    Draft { kind, ts_ms: 1_700_000_000_001, meta: meta.into(), entry: entry.map(str::to_owned), closes }
}

/// Some ledgers at rest, each with a record more than the one before, the last ones of three segments.
fn images() -> Vec<Image> {
    let storage = MemoryStorage::new();
    let (ledger, _) = Ledger::open_storage(Box::new(storage.clone()), &options()).unwrap();
    let mut images = vec![storage.image()];
    let steps = [
        vec![draft(Kind::Decision, r#"{"n":1}"#, Some(r#"{"decision":"DENY","request_id":"r-1"}"#), None)],
        vec![draft(Kind::Decision, r#"{"n":2}"#, None, None), draft(Kind::Event, "{}", None, None)],
        vec![draft(Kind::Outcome, r#"{"decision_index":3}"#, Some(r#"{"decision":"ALLOW"}"#), Some(3))],
        vec![draft(Kind::Decision, r#"{"n":3}"#, None, None), draft(Kind::Event, r#"{"n":4}"#, None, None)],
        vec![draft(Kind::Halt, "{}", Some(r#"{"decision":"HALT"}"#), None)],
    ];
    for drafts in steps {
        for draft in drafts {
            ledger.append_wait(draft).unwrap();
        }
        images.push(storage.image());
    }
    images
}

fn records() -> Vec<Vec<u8>> {
    let images = images();
    let storage = MemoryStorage::from_image(images[images.len() - 1].clone());
    let (ledger, _) = Ledger::open_storage(Box::new(storage), &options()).unwrap();
    let records = ledger.records(&ledger.snapshot()).map(|record| record.unwrap().as_str().as_bytes().to_vec());
    records.collect()
}

/// Written again from what was read, field by field.
fn record_text(record: &RecordView) -> String {
    let entry = record.entry();
    let open = entry.map(|entry| format!(r#""entry":{},"entry_hash":"{}","#, entry.data, entry.entry_hash));
    let seq = entry.map(|entry| format!(r#","ledger_seq":{}"#, entry.ledger_seq));
    let prev = entry.map(|entry| format!(r#","prev_hash":"{}""#, entry.prev_hash));
    let [open, seq, prev] = [open, seq, prev].map(Option::unwrap_or_default);
    let (index, kind, meta, ts_ms) = (record.index(), record.kind(), record.meta(), record.ts_ms());
    format!(r#"{{{open}"index":{index},"kind":"{kind}"{seq},"meta":{meta}{prev},"ts_ms":{ts_ms}}}"#)
}

fn record(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(record) = RecordView::parse(text.to_owned()) else { return };
    assert_eq!(record_text(&record), text, "a record has one writing");
    for part in [Some(record.meta()), record.entry().map(|entry| entry.data)].into_iter().flatten() {
        match serde_json::from_str::<serde_json::Value>(part) {
            Ok(value) => assert!(value.is_object(), "{part}"),
            Err(why) => assert!(why.to_string().contains("recursion"), "{why}: {part}"),
        }
    }
}

fn ledgers() -> Vec<Vec<u8>> {
    let images = images();
    let marks = images.iter().map(|image| image.mark.clone()).collect::<Vec<_>>();
    let mut inputs = Vec::new();
    for (number, image) in images.iter().enumerate() {
        for mark in [&marks[number], &marks[number.saturating_sub(1)], &vec![0; MARK_BYTES]] {
            for flag in [0, 1] {
                let mut input = [&[flag], mark.as_slice()].concat();
                for segment in image.sealed.iter().chain([&image.log]) {
                    input.extend(u32::try_from(segment.len()).unwrap().to_le_bytes());
                    input.extend(segment);
                }
                inputs.push(input);
            }
        }
    }
    inputs
}

/// The segments of an input; what is too short for its length is the last.
fn segments(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap().min(rest.len());
        segments.push(rest[..length].to_vec());
        input = &rest[length..];
    }
    // To a disk in memory, a segment without a byte is none.
    segments.retain(|segment| !segment.is_empty());
    segments
}

fn ledger(input: &[u8]) {
    let Some((&flag, rest)) = input.split_first() else { return };
    let Some((mark, rest)) = rest.split_at_checked(MARK_BYTES) else { return };
    let mut sealed = segments(rest);
    if flag % 2 == 1 {
        for segment in &mut sealed {
            seal(segment);
        }
    }
    let log = sealed.pop().unwrap_or_default();
    let storage = MemoryStorage::from_image(Image { sealed, log, mark: mark.to_vec() });
    let before = storage.image();
    let opened = Ledger::open_storage(Box::new(storage.clone()), &options());
    let Ok((ledger, recovered)) = opened else {
        assert_eq!(storage.image(), before, "what is refused is not changed");
        return;
    };
    check_opened(&ledger, &before);
    let after = storage.image();
    // A ledger without a key gets one as it is opened.
    if recovered.records == ledger.snapshot().records && !recovered.created {
        assert!(before.log.starts_with(&after.log), "nothing but a torn batch is taken away, nothing is changed");
    }
    assert_eq!(before.sealed, after.sealed[..before.sealed.len()], "what is sealed is not touched");
    goes_on(&ledger);
    drop(ledger);
    let again = Ledger::open_storage(Box::new(storage.clone()), &options());
    assert_eq!(again.expect("what was closed opens").1.cut_bytes, 0);
}

/// All that was acknowledged is there, whatever else was done to the files, and what is there holds together. Segments
/// before the newest are not read by opening: where they were changed, reading says so.
fn check_opened(ledger: &Ledger, before: &Image) {
    let snapshot = ledger.snapshot();
    let Ok(records) = ledger.records(&snapshot).collect::<Result<Vec<RecordView>, _>>() else {
        assert!(!before.sealed.is_empty(), "what was read when it was opened can be read again");
        return;
    };
    let leaves: Vec<_> = records.iter().map(|record| leaf_hash(record.as_str().as_bytes())).collect();
    assert_eq!(leaves.len() as u64, snapshot.records);
    if let Some((size, root)) = vouched(&before.mark) {
        assert!(leaves.len() as u64 >= size, "{} of {size} acknowledged records are left", leaves.len());
        assert_eq!(naive_root(&leaves[..usize::try_from(size).unwrap()]), root, "other records were acknowledged");
    }
    assert_eq!(naive_root(&leaves), snapshot.root);
    assert_eq!(chain_head(&records), snapshot.chain_head);
}

/// The root and size that a good mark states, read as the document describes it.
fn vouched(mark: &[u8]) -> Option<(u64, [u8; 32])> {
    let (body, crc) = mark.split_last_chunk::<4>()?;
    let good = mark.starts_with(b"GAVELMRK") && crc32fast::hash(body) == u32::from_le_bytes(*crc);
    let size = u64::from_le_bytes(*mark[8..].first_chunk()?);
    good.then_some((size, *mark[16..].first_chunk()?))
}

/// The KERNELS chain, word for word.
fn chain_head(records: &[RecordView]) -> String {
    let entries = records.iter().filter_map(RecordView::entry);
    entries.fold(GENESIS_HASH.to_owned(), |head, entry| {
        let hash = Sha256::digest(format!("{head}:{}", entry.data));
        HexHash::of(&hash.into()).as_str().to_owned()
    })
}

/// What opened can be appended to.
fn goes_on(ledger: &Ledger) {
    let records = ledger.snapshot().records;
    let committed = ledger.append_wait(draft(Kind::Event, "{}", None, None)).expect("an event can always be recorded");
    assert_eq!(committed.index, records);
    ledger.close().expect("a sound disk");
}

/// Make all checksums of a log good, as far as its frames can be followed.
fn seal(log: &mut [u8]) {
    fn checksum(bytes: &mut [u8], at: usize, of: std::ops::Range<usize>) {
        if let Some(hash) = bytes.get(of).map(crc32fast::hash)
            && let Some(place) = bytes.get_mut(at..at + 4)
        {
            place.copy_from_slice(&hash.to_le_bytes());
        }
    }
    let carry = |log: &[u8]| log.get(40..44).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()) as usize);
    let mut at = HEADER_BYTES + carry(log).min(log.len());
    checksum(log, 44, HEADER_BYTES..at);
    checksum(log, 60, 0..60);
    while at < log.len() {
        let frame = &mut log[at..];
        let number = |frame: &[u8], at: usize| {
            frame.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
        };
        if frame.starts_with(b"GREC") {
            let end = RECORD_BYTES + number(frame, 4) as usize;
            checksum(frame, 12, RECORD_BYTES..end);
            checksum(frame, 16, 0..16);
            at += end;
        } else if frame.starts_with(b"GAVELCMT") {
            let end = COMMIT_BYTES + (number(frame, 104) & 0xffff) as usize;
            checksum(frame, 108, COMMIT_BYTES..end);
            checksum(frame, 124, 0..124);
            at += end;
        } else {
            return;
        }
    }
}

//! Ledgers of every format version, as they were written then. They open for ever. Never change a
//! file in `tests/data`: a new version of the format adds one.

use crate::*;
use gavel_ledger::note::CheckpointKey;
use gavel_ledger::{segment_file, verify_dir};
use std::fs;
use std::path::{Path, PathBuf};

/// What the first version wrote.
const V1: &str = "v1";
const V1_ROOT: &str = "866cc3c1722edefacbd85b7b2746b579b92015dd41ebd67e1178a8b314b4703e";
const V1_CHAIN_HEAD: &str = "61cb213883bfad2afe23ef73e7b4ee15ed2e993566d4d7c4f27f3ebe4c8ac78d";

fn data(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version)
}

fn v1_drafts() -> Vec<Draft> {
    vec![denial(1), intention(2), draft(Kind::Event, r#"{"policy":"p-1"}"#, None), outcome(2), intention(3), halt()]
}

#[test]
fn version_1_opens() {
    let report = verify_dir(&data(V1)).unwrap();
    assert_eq!((report.records, report.entries, report.halted, report.open_decisions), (7, 3, true, 1));
    assert_eq!((hex::encode(report.root).as_str(), report.chain_head.as_str()), (V1_ROOT, V1_CHAIN_HEAD));
    assert_eq!(report.acknowledged, Some(7));

    // Opened in a copy, as opening writes the mark.
    let copy = tempfile::tempdir().unwrap();
    for name in ["segment-000000.log", "mark"] {
        fs::copy(data(V1).join(name), copy.path().join(name)).unwrap();
    }
    let (ledger, recovered) = Ledger::open(copy.path(), options()).unwrap();
    assert_eq!((recovered.cut_bytes, recovered.open_decisions[0].index), (0, 5));
    for (record, draft) in records(&ledger)[1..].iter().zip(v1_drafts()) {
        assert_eq!((record.known_kind(), record.meta()), (Some(draft.kind), draft.meta.as_str()));
        assert_eq!(record.entry().map(|entry| entry.data.to_owned()), draft.entry);
    }
}

/// What the second version wrote: segments of four records, two keys, checkpoints.
const V2: &str = "v2";

fn v2_options() -> Options {
    let keys = vec![CheckpointKey::from_seed(&[2; 32]), CheckpointKey::from_seed(&[1; 32])];
    Options { segment_records: 4, keys, ..options() }
}

fn v2_files() -> Vec<String> {
    (0..3).map(segment_file).chain(["mark".to_owned()]).collect()
}

#[test]
fn version_2_opens() {
    let report = verify_dir(&data(V2)).unwrap();
    assert_eq!((report.records, report.entries, report.halted, report.open_decisions), (9, 3, true, 1));
    assert_eq!((report.segments, report.acknowledged), (3, Some(9)));
    let copy = tempfile::tempdir().unwrap();
    for name in v2_files() {
        fs::copy(data(V2).join(&name), copy.path().join(name)).unwrap();
    }
    let (ledger, recovered) = Ledger::open(copy.path(), v2_options()).unwrap();
    assert_eq!((recovered.cut_bytes, recovered.open_decisions[0].index), (0, 7));
    ledger.append_wait(draft(Kind::Event, "{}", None)).unwrap();
    ledger.close().unwrap();
    assert_eq!(verify_dir(copy.path()).unwrap().records, 10);
}

#[test]
fn version_2_is_still_written_to_the_byte() {
    let root = tempfile::tempdir().unwrap();
    write_v2(root.path());
    for name in v2_files() {
        assert_eq!(fs::read(root.path().join(&name)).unwrap(), fs::read(data(V2).join(&name)).unwrap(), "{name}");
    }
}

#[test]
#[ignore = "writes the golden files; run once for each version of the format"]
fn write_golden_files() {
    assert!(!data(V2).exists(), "golden files are never rewritten");
    let root = tempfile::tempdir().unwrap();
    write_v2(root.path());
    fs::create_dir(data(V2)).unwrap();
    for name in v2_files() {
        fs::copy(root.path().join(&name), data(V2).join(name)).unwrap();
    }
}

fn write_v2(dir: &Path) {
    let first = CheckpointKey::from_seed(&[1; 32]);
    let (ledger, _) = Ledger::open(dir, Options { keys: vec![first], ..v2_options() }).unwrap();
    for (number, draft) in v2_drafts().into_iter().enumerate() {
        if number == 3 {
            ledger.rotate_key(CheckpointKey::from_seed(&[2; 32]), 1_700_000_000_002).unwrap();
        }
        ledger.append_wait(draft).unwrap();
    }
    ledger.close().unwrap();
}

/// As for the first version, but for the decisions' numbers, as a key stands before them.
fn v2_drafts() -> Vec<Draft> {
    vec![denial(1), intention(2), draft(Kind::Event, r#"{"policy":"p-1"}"#, None), outcome(3), intention(3), halt()]
}

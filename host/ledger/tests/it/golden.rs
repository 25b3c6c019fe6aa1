//! Ledgers of every format version, as they were written then. They open for ever. Never change a
//! file in `tests/data`: a new version of the format adds one.

use crate::*;
use gavel_ledger::verify_dir;
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

#[test]
fn version_1_is_still_written_to_the_byte() {
    let root = tempfile::tempdir().unwrap();
    write_v1(root.path());
    for name in ["segment-000000.log", "mark"] {
        assert_eq!(fs::read(root.path().join(name)).unwrap(), fs::read(data(V1).join(name)).unwrap(), "{name}");
    }
}

#[test]
#[ignore = "writes the golden files; run once for each version of the format"]
fn write_golden_files() {
    assert!(!data(V1).exists(), "golden files are never rewritten");
    write_v1(&data(V1));
    fs::remove_file(data(V1).join("lock")).unwrap();
}

fn write_v1(dir: &Path) {
    let (ledger, _) = Ledger::open(dir, options()).unwrap();
    for draft in v1_drafts() {
        ledger.append_wait(draft).unwrap();
    }
    ledger.close().unwrap();
}

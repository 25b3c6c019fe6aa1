//! Sealed segments: verified by themselves, compressed, gone and back. Segments are of eight records here.

use crate::*;
use gavel_ledger::note::{CheckpointKey, Note};
use gavel_ledger::{
    Form, SegmentReport, compress_segment, compressed_file, leave_segment, remote_file, sealed_segments, segment_file,
    verify_dir, verify_segment,
};
use std::fs;
use std::path::Path;

const SEGMENT: u64 = 8;

fn small() -> Options {
    Options { segment_records: SEGMENT, keys: vec![CheckpointKey::from_seed(&[1; 32])], ..options() }
}

/// A ledger of 30 records in `dir`, closed: three sealed segments and a newest one.
fn written(dir: &Path) -> Vec<RecordView> {
    let (ledger, _) = Ledger::open(dir, small()).unwrap();
    while ledger.snapshot().records < 30 {
        ledger.append_wait(denial(ledger.snapshot().records)).unwrap();
    }
    let written = records(&ledger);
    ledger.close().unwrap();
    written
}

fn forms(dir: &Path) -> Vec<Form> {
    sealed_segments(dir).unwrap().iter().map(|sealed| sealed.form).collect()
}

fn read(dir: &Path) -> Result<Vec<RecordView>, Error> {
    let (ledger, _) = Ledger::open(dir, small())?;
    ledger.records(&ledger.snapshot()).collect()
}

#[test]
fn each_segment_holds_by_itself_and_they_follow_one_another() {
    let root = tempfile::tempdir().unwrap();
    written(root.path());
    assert_eq!(forms(root.path()), [Form::Plain; 3]);
    let reports: Vec<SegmentReport> =
        (0..3).map(|segment| verify_segment(&root.path().join(segment_file(segment)), segment).unwrap()).collect();
    for (number, report) in (0..).zip(&reports) {
        assert_eq!((report.first_index, report.records), (number * SEGMENT, SEGMENT));
        let checkpoint = Note::parse(report.checkpoint.as_deref().unwrap()).unwrap().checkpoint().unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), ((number + 1) * SEGMENT, report.root));
    }
    for pair in reports.windows(2) {
        assert_eq!((pair[1].root_before, &pair[1].chain_head_before), (pair[0].root, &pair[0].chain_head));
        assert_eq!(pair[0].ledger_id, pair[1].ledger_id);
    }
    let wrong = verify_segment(&root.path().join(segment_file(1)), 2).unwrap_err().to_string();
    assert!(wrong.contains("this is segment 1"), "{wrong}");
}

#[test]
fn any_change_to_a_segment_is_found_in_the_segment_alone() {
    let root = tempfile::tempdir().unwrap();
    written(root.path());
    let path = root.path().join(segment_file(1));
    let good = fs::read(&path).unwrap();
    let scratch = root.path().join("scratch");
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&scratch, &bad).unwrap();
        assert!(verify_segment(&scratch, 1).is_err(), "byte {at}");
    }
    for length in [0, 63, good.len() / 2, good.len() - 1] {
        fs::write(&scratch, &good[..length]).unwrap();
        assert!(verify_segment(&scratch, 1).is_err(), "cut to {length}");
    }
}

#[test]
fn a_compressed_segment_reads_as_before() {
    let root = tempfile::tempdir().unwrap();
    let before = written(root.path());
    let report = verify_segment(&root.path().join(segment_file(0)), 0).unwrap();
    let plain = fs::read(root.path().join(segment_file(1))).unwrap();
    (0..2).for_each(|segment| compress_segment(root.path(), segment, 3).unwrap());
    assert_eq!(forms(root.path()), [Form::Compressed, Form::Compressed, Form::Plain]);
    assert_eq!(verify_segment(&root.path().join(compressed_file(0)), 0).unwrap(), report);
    assert_eq!(read(root.path()).unwrap(), before);
    assert_eq!(verify_dir(root.path()).unwrap().records, 30);

    // Killed before the plain one went, and while one was being written.
    fs::write(root.path().join(segment_file(1)), &plain).unwrap();
    fs::write(root.path().join(compressed_file(2)).with_extension("zst.new"), b"half").unwrap();
    assert_eq!(forms(root.path()), [Form::Compressed, Form::Plain, Form::Plain]);
    assert_eq!(read(root.path()).unwrap(), before);
    (1..3).for_each(|segment| compress_segment(root.path(), segment, 19).unwrap());
    assert_eq!((forms(root.path()), read(root.path()).unwrap()), (vec![Form::Compressed; 3], before));
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{left:?}");
}

#[test]
fn a_segment_that_left_is_named_and_back_it_reads_as_before() {
    let root = tempfile::tempdir().unwrap();
    let before = written(root.path());
    compress_segment(root.path(), 1, 3).unwrap();
    let packed = fs::read(root.path().join(compressed_file(1))).unwrap();
    let told = leave_segment(root.path(), 1, "segment-000001.archived").unwrap_err().to_string();
    assert!(told.contains("nothing says where"), "{told}");
    assert_eq!(forms(root.path())[1], Form::Compressed);

    let note = r#"{"url":"s3://bucket/k/l/segment-000001.log.zst"}"#;
    fs::write(root.path().join("segment-000001.archived"), note).unwrap();
    leave_segment(root.path(), 1, "segment-000001.archived").unwrap();
    leave_segment(root.path(), 1, "segment-000001.archived").unwrap();
    assert_eq!(forms(root.path()), [Form::Plain, Form::Remote, Form::Plain]);
    assert_eq!(fs::read_to_string(root.path().join(remote_file(1))).unwrap(), note);

    // The ledger opens and is appended to; only what is in that segment cannot be read.
    let (ledger, recovered) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!(recovered.records, 30);
    ledger.append_wait(denial(30)).unwrap();
    let view = ledger.view();
    assert_eq!(view.record(3).unwrap(), before[3]);
    let told = view.record(9).unwrap_err().to_string();
    assert!(told.contains("segment 1") && told.contains("gavel restore"), "{told}");
    assert!(told.contains("s3://bucket/k/l/segment-000001.log.zst"), "{told}");
    ledger.close().unwrap();
    drop(ledger);
    let told = verify_dir(root.path()).unwrap_err().to_string();
    assert!(told.contains("s3://bucket/k/l/segment-000001.log.zst"), "{told}");

    fs::write(root.path().join(compressed_file(1)), packed).unwrap();
    assert_eq!(read(root.path()).unwrap()[..30], before);
    verify_dir(root.path()).unwrap();
}

#[test]
fn a_compressed_segment_that_is_damaged_is_named() {
    let root = tempfile::tempdir().unwrap();
    written(root.path());
    compress_segment(root.path(), 0, 3).unwrap();
    let path = root.path().join(compressed_file(0));
    let good = fs::read(&path).unwrap();
    for length in [0, 9, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        assert!(verify_dir(root.path()).is_err(), "cut to {length}");
    }
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&path, bad).unwrap();
    let told = verify_dir(root.path()).unwrap_err().to_string();
    assert!(told.contains("segment-000000") || told.contains("segment 0"), "{told}");
    fs::write(&path, &good).unwrap();
    verify_dir(root.path()).unwrap();
}

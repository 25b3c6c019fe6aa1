//! A ledger of many segments: how they follow one another, what is proved across them, what is made again when it is
//! lost, and the keys that sign. Segments are of eight records here.

#![allow(clippy::cast_possible_truncation, reason = "ledgers of some records")]

use crate::*;
use gavel_ledger::note::{CheckpointKey, Note};
use gavel_ledger::tree::{self, leaf_hash};
use gavel_ledger::{Audit, Form, Storage, audit_dir, compressed_file, remote_file, segment_file, verify_dir};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

const SEGMENT: u64 = 8;

fn key(seed: u8) -> CheckpointKey {
    CheckpointKey::from_seed(&[seed; 32])
}

fn small() -> Options {
    Options { segment_records: SEGMENT, keys: vec![key(1)], ..options() }
}

/// A ledger in `dir` of so many records, closed.
fn written(dir: &Path, count: u64) -> Vec<RecordView> {
    let (ledger, recovered) = Ledger::open(dir, small()).unwrap();
    for number in recovered.records..count {
        if ledger.snapshot().records < count {
            ledger.append_wait(denial(number)).unwrap();
        }
    }
    let written = records(&ledger);
    ledger.close().unwrap();
    assert_eq!(written.len() as u64, count);
    written
}

#[test]
fn appends_cross_segments_and_are_read_back_from_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    let drafts: Vec<_> = (0..50).map(denial).collect();
    for fate in append_as_one_batch(&ledger, drafts) {
        fate.unwrap();
    }
    let all = records(&ledger);
    let view = ledger.view();
    for (index, record) in all.iter().enumerate() {
        assert_eq!(view.record(index as u64).unwrap(), *record);
        let from_here: Vec<_> =
            view.records_between(index as u64, index as u64 + 10).collect::<Result<_, _>>().unwrap();
        assert_eq!(from_here, all[index..all.len().min(index + 10)]);
    }
    assert!(matches!(view.record(all.len() as u64), Err(Error::NoSuchRecord { .. })));
    ledger.close().unwrap();
    drop(ledger);
    let (ledger, recovered) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!((recovered.records, records(&ledger)), (all.len() as u64, all.clone()));
    let report = verify_dir(root.path()).unwrap();
    assert_eq!((report.records, u64::from(report.segments)), (all.len() as u64, all.len() as u64 / SEGMENT + 1));
}

#[test]
fn proofs_hold_for_every_record_and_size() {
    let root = tempfile::tempdir().unwrap();
    written(root.path(), 21);
    // Once with what opening read and sealing wrote, once with all of it to be made again.
    for again in [false, true] {
        if again {
            (0..2).for_each(|segment| fs::remove_file(root.path().join(format!("segment-{segment:06}.tree"))).unwrap());
        }
        let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
        let view = ledger.view();
        let leaves: Vec<_> = records(&ledger).iter().map(|record| leaf_hash(record.as_str().as_bytes())).collect();
        assert_eq!(view.root_of(21).unwrap(), ledger.snapshot().root);
        for size in 1..=21 {
            let whole = view.root_of(size).unwrap();
            for index in 0..size {
                let proof = view.inclusion(index, size).unwrap();
                assert_eq!(tree::verify_inclusion(&leaves[index as usize], index, size, &proof, &whole), Ok(()));
                let old = (index, &view.root_of(index).unwrap());
                let proof = view.consistency(index, size).unwrap();
                assert_eq!(tree::verify_consistency(old, (size, &whole), &proof), Ok(()));
                let proof = view.range(index, size, size).unwrap();
                assert_eq!(
                    tree::verify_range(&leaves[index as usize..size as usize], index, size, &proof, &whole),
                    Ok(())
                );
            }
        }
        ledger.close().unwrap();
    }
}

#[test]
fn derived_data_that_lies_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    written(root.path(), 20);
    let path = root.path().join("segment-000000.tree");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    let first_leaf = bad.len() - 15 * 32;
    bad[first_leaf + 32] ^= 1;
    fs::write(&path, &bad).unwrap();
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    let view = ledger.view();
    let leaf = leaf_hash(view.record(0).unwrap().as_str().as_bytes());
    let proof = view.inclusion(0, 20).unwrap();
    assert_eq!(tree::verify_inclusion(&leaf, 0, 20, &proof, &view.root()), Ok(()));
    assert_eq!(fs::read(&path).unwrap(), good);
}

#[test]
fn a_record_may_stay_open_across_segments() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    let open = ledger.append_wait(intention(1)).unwrap().index;
    (0..20).for_each(|number| drop(ledger.append_wait(denial(number)).unwrap()));
    ledger.close().unwrap();
    drop(ledger);
    let (ledger, recovered) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!(recovered.open_decisions.iter().map(|open| open.index).collect::<Vec<_>>(), [open]);
    assert_eq!(recovered.open_decisions[0].record.meta(), r#"{"number":1}"#);
    ledger.append_wait(outcome(open)).unwrap();
    ledger.close().unwrap();
    assert_eq!(verify_dir(root.path()).unwrap().open_decisions, 0);
}

#[test]
fn a_halt_holds_in_later_segments() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    ledger.append_wait(halt()).unwrap();
    (0..20).for_each(|_| drop(ledger.append_wait(draft(Kind::Event, "{}", None)).unwrap()));
    ledger.close().unwrap();
    drop(ledger);
    let (ledger, recovered) = Ledger::open(root.path(), small()).unwrap();
    assert!(recovered.halted);
    assert_eq!(ledger.append_wait(denial(1)), Err(AppendError::Halted));
}

#[test]
fn every_checkpoint_is_signed_and_a_new_key_is_introduced_by_the_old_one() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    ledger.append_wait(denial(1)).unwrap();
    let origin = ledger.view().origin();
    let signed_by = |ledger: &Ledger, seed: u8| {
        let note = ledger.snapshot().checkpoint.unwrap();
        let note = Note::parse(&note).unwrap();
        let checkpoint = note.checkpoint().unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (ledger.snapshot().records, ledger.snapshot().root));
        note.verify(&key(seed).verifying(&origin)).is_ok()
    };
    assert!(signed_by(&ledger, 1));
    ledger.rotate_key(key(2), 5).unwrap();
    assert!(signed_by(&ledger, 1) && signed_by(&ledger, 2), "both sign the change");
    ledger.append_wait(denial(2)).unwrap();
    assert!(!signed_by(&ledger, 1) && signed_by(&ledger, 2));
    ledger.close().unwrap();
    drop(ledger);

    let audit = |seed| {
        audit_dir(root.path(), &Audit { key: Some(key(seed).public()), each_signature: true, ..Audit::default() })
    };
    assert_eq!(audit(2).unwrap().key, Some(key(2).public()));
    assert!(matches!(audit(1), Err(Error::OtherKey { .. })));

    let opened = Ledger::open(root.path(), small());
    assert!(matches!(opened, Err(Error::KeyMissing { .. })), "the key in force is not at hand");
    let lost = Options { key_is_lost: true, keys: vec![key(3)], ..small() };
    let (ledger, _) = Ledger::open(root.path(), lost).unwrap();
    ledger.append_wait(denial(3)).unwrap();
    assert!(signed_by(&ledger, 3));
    ledger.close().unwrap();
    assert_eq!(audit(3).unwrap().key, Some(key(3).public()));
}

#[test]
fn a_ledger_without_a_key_gets_one_when_it_is_opened_with_one() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(root.path(), Options { keys: Vec::new(), ..small() }).unwrap();
    ledger.append_wait(denial(1)).unwrap();
    assert_eq!(ledger.snapshot().checkpoint, None);
    ledger.close().unwrap();
    drop(ledger);
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!(records(&ledger)[2].kind(), "key");
    assert!(ledger.snapshot().checkpoint.is_some());
}

#[test]
fn a_long_ledger_of_the_first_format_is_cut_into_segments() {
    let root = tempfile::tempdir().unwrap();
    let large = Options { segment_records: 1 << 20, keys: Vec::new(), ..options() };
    let (ledger, _) = Ledger::open(root.path(), large.clone()).unwrap();
    for _ in 0..3 {
        for fate in append_as_one_batch(&ledger, (0..11).map(denial).collect()) {
            fate.unwrap();
        }
    }
    let open = ledger.append_wait(intention(4)).unwrap().index;
    let before = records(&ledger);
    ledger.close().unwrap();
    drop(ledger);
    let log = root.path().join(segment_file(0));
    // All that tells the formats apart in a first segment without notes is the number in the header.
    let mut bytes = fs::read(&log).unwrap();
    bytes[8] = 1;
    bytes[40..60].fill(0);
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&log, &bytes).unwrap();
    let old = verify_dir(root.path()).unwrap();

    let (ledger, recovered) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!(recovered.open_decisions[0].index, open);
    assert_eq!(records(&ledger)[..before.len()], before);
    assert_eq!(ledger.view().root_of(old.records).unwrap(), old.root);
    ledger.append_wait(outcome(open)).unwrap();
    ledger.close().unwrap();
    let new = verify_dir(root.path()).unwrap();
    assert_eq!(u64::from(new.segments), new.records.div_ceil(SEGMENT));
    assert_eq!(fs::read(root.path().join("segment-000000.v1")).unwrap(), bytes, "nothing is thrown away");
}

#[test]
fn compressed_segments_read_as_before_and_remote_ones_are_named() {
    let root = tempfile::tempdir().unwrap();
    let all = written(root.path(), 30);
    let (plain, compressed) = (root.path().join(segment_file(1)), root.path().join(compressed_file(1)));
    fs::write(&compressed, zstd::encode_all(fs::read(&plain).unwrap().as_slice(), 3).unwrap()).unwrap();
    fs::remove_file(&plain).unwrap();
    assert_eq!(verify_dir(root.path()).unwrap().records, 30);
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!(records(&ledger), all);
    ledger.close().unwrap();
    drop(ledger);

    fs::rename(&compressed, root.path().join(remote_file(1))).unwrap();
    assert!(matches!(verify_dir(root.path()), Err(Error::Remote { segment: 1, .. })));
    let (ledger, _) = Ledger::open(root.path(), small()).unwrap();
    assert!(ledger.view().inclusion(9, 30).is_ok(), "proofs need only what was derived");
    assert!(matches!(ledger.view().record(9), Err(Error::Remote { segment: 1, .. })));
    ledger.append_wait(denial(9)).unwrap();
    ledger.close().unwrap();
    drop(ledger);

    fs::remove_file(root.path().join(remote_file(1))).unwrap();
    assert!(matches!(Ledger::open(root.path(), small()), Err(Error::Missing { segment: 1, .. })));
}

#[test]
fn an_audit_is_anchored_to_an_earlier_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    written(root.path(), 13);
    let early = verify_dir(root.path()).unwrap();
    written(root.path(), 40);
    let audit =
        |anchor, from_anchor| audit_dir(root.path(), &Audit { anchor: Some(anchor), from_anchor, ..Audit::default() });
    let anchor = (early.records, early.root);
    assert_eq!(audit(anchor, false).unwrap().segments, 5);
    assert_eq!(audit(anchor, true).unwrap().segments, 4, "what the anchor vouches for is not read again");
    assert!(matches!(audit((early.records, [1; 32]), true), Err(Error::Anchor { size: 13, .. })));
    assert!(matches!(audit((41, early.root), false), Err(Error::Anchor { size: 41, .. })));
    let seen = Mutex::new(Vec::new());
    let progress = |progress: gavel_ledger::Progress| seen.lock().unwrap().push(progress.total);
    audit_dir(root.path(), &Audit { segments: Some(1..=2), progress: Some(&progress), ..Audit::default() }).unwrap();
    assert_eq!(*seen.lock().unwrap(), [2, 2]);
}

#[test]
fn a_state_is_kept_with_the_history_it_belongs_to() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ledger, recovered) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!(recovered.kept, None);
    (0..20).for_each(|number| drop(ledger.append_wait(denial(number)).unwrap()));
    ledger.keep_state(11, b"what was derived").unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let (ledger, recovered) = Ledger::open(root.path(), small()).unwrap();
    assert_eq!(recovered.kept, Some((11, b"what was derived".to_vec())));
    ledger.close().unwrap();
    written(other.path(), 20);
    fs::copy(root.path().join("state"), other.path().join("state")).unwrap();
    assert_eq!(Ledger::open(other.path(), small()).unwrap().1.kept, None, "of another history");
}

#[test]
fn segments_of_another_ledger_or_out_of_order_are_named() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written(root.path(), 30);
    let (ledger, _) = Ledger::open(other.path(), Options { now_ms: 9, ..small() }).unwrap();
    (0..30).for_each(|number| drop(ledger.append_wait(denial(number + 100)).unwrap()));
    ledger.close().unwrap();
    let path = |segment| root.path().join(segment_file(segment));
    let good = fs::read(path(1)).unwrap();

    fs::copy(other.path().join(segment_file(1)), path(1)).unwrap();
    let error = verify_dir(root.path()).unwrap_err().to_string();
    assert!(error.contains("segment 1: byte 0: record 8: it begins after another ledger than segment 0"), "{error}");
    fs::copy(path(2), path(1)).unwrap();
    let error = verify_dir(root.path()).unwrap_err().to_string();
    assert!(error.contains("segment 1: byte 0: record 0: this is segment 2 from record 16"), "{error}");
    fs::write(path(1), &good[..good.len() - 1]).unwrap();
    let error = verify_dir(root.path()).unwrap_err().to_string();
    assert!(error.contains("a later segment is here, so this one was whole"), "{error}");
    fs::remove_file(path(1)).unwrap();
    assert!(matches!(verify_dir(root.path()), Err(Error::Missing { segment: 1, .. })));
    fs::write(path(1), &good).unwrap();
    fs::remove_file(path(3)).unwrap();
    let error = Ledger::open(root.path(), small()).unwrap_err().to_string();
    assert!(error.contains("segment 3, which holds the last of them, is missing"), "{error}");
}

#[test]
fn a_segment_in_memory_is_one_too() {
    let storage = MemoryStorage::new();
    let (ledger, _) = Ledger::open_storage(Box::new(storage.clone()), &small()).unwrap();
    (0..30).for_each(|number| drop(ledger.append_wait(denial(number)).unwrap()));
    assert_eq!(records(&ledger).len(), 32);
    assert_eq!(storage.reader().form(3).unwrap(), Form::Plain);
    ledger.close().unwrap();
}

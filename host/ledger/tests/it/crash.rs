//! Crashes: of the process at any moment, of the power with any subset of the unsynced sectors
//! lost, of a disk whose sync fails. The oracle is always the same: every acknowledged record is
//! there, and the ledger opens.

use crate::*;
use gavel_ledger::{Fault, verify_dir};
use proptest::prelude::*;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};

/// A run up to a loss of power.
#[derive(Debug, Clone)]
struct Run {
    /// Records in each batch that is acknowledged.
    batches: Vec<u8>,
    /// Records in the batch that is not.
    last: u8,
    /// Bytes of filling in each record.
    filling: usize,
    /// How much of the last write arrives; all of it, but unsynced, if `None`.
    keep: Option<usize>,
    /// Which unsynced sectors survive, taken in turn.
    survivors: Vec<bool>,
}

fn run() -> impl Strategy<Value = Run> {
    let batches = prop::collection::vec(1..4u8, 0..4);
    let keep = prop::option::of(0..4_000usize);
    (batches, 1..5u8, 0..900usize, keep, prop::collection::vec(any::<bool>(), 1..24))
        .prop_map(|(batches, last, filling, keep, survivors)| Run { batches, last, filling, keep, survivors })
}

fn drafts(count: u8, filling: usize) -> Vec<Draft> {
    let meta = |number| format!(r#"{{"filling":"{}","number":{number}}}"#, "f".repeat(filling));
    (0..count).map(|number| draft(Kind::Event, &meta(number), None)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_loss_of_power_loses_nothing_acknowledged(run in run()) {
        let storage = MemoryStorage::new();
        let (ledger, _) = open(&storage).unwrap();
        for count in &run.batches {
            prop_assert!(append_as_one_batch(&ledger, drafts(*count, run.filling)).iter().all(Result::is_ok));
        }
        let acknowledged = records(&ledger);
        storage.fail(match run.keep {
            Some(keep) => Fault::Write { after: 2, keep, kind: ErrorKind::StorageFull },
            None => Fault::Sync { after: 2, kind: ErrorKind::Other },
        });
        prop_assert!(append_as_one_batch(&ledger, drafts(run.last, run.filling)).iter().all(Result::is_err));
        drop(ledger);

        let mut survivors = run.survivors.iter().cycle();
        let left = MemoryStorage::from_image(storage.power_loss(|_| *survivors.next().unwrap()));
        let (ledger, recovered) = open(&left).unwrap();
        let found = records(&ledger);
        prop_assert!(found.starts_with(&acknowledged));
        prop_assert!(found.len() as u64 >= acknowledged.len() as u64 + GATES, "the gates were acknowledged too");
        prop_assert_eq!(recovered.records, found.len() as u64);
        ledger.append_wait(denial(1)).unwrap();
        drop(ledger);
        prop_assert_eq!(open(&left).unwrap().1.cut_bytes, 0);
    }
}

/// A failed fsync leaves pages that look clean and are not on the disk. What opening then reports
/// must survive all the same.
#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_written_again() {
    let storage = MemoryStorage::new();
    let (ledger, _) = open(&storage).unwrap();
    ledger.append_wait(denial(1)).unwrap();
    storage.fail(Fault::Sync { after: 0, kind: ErrorKind::Other });
    assert!(matches!(ledger.append_wait(denial(2)), Err(AppendError::Poisoned { .. })));
    drop(ledger);

    let (_ledger, recovered) = open(&storage).unwrap();
    assert_eq!(recovered.records, 3, "an append that failed may be found all the same");
    let left = MemoryStorage::from_image(storage.power_loss(|_| false));
    assert_eq!(open(&left).unwrap().1.records, 3);
}

#[test]
fn open_decisions_are_reported_after_a_crash() {
    let storage = MemoryStorage::new();
    let (ledger, _) = open(&storage).unwrap();
    let indices = [1, 2, 3].map(|number| ledger.append_wait(intention(number)).unwrap().index);
    ledger.append_wait(outcome(indices[1])).unwrap();
    ledger.append_wait(denial(4)).unwrap();
    // Not closed: this is what a killed process leaves.
    let (ledger, recovered) = open(&MemoryStorage::from_image(storage.image())).unwrap();
    let open: Vec<_> =
        recovered.open_decisions.iter().map(|open| (open.index, open.record.meta().to_owned())).collect();
    assert_eq!(open, [(indices[0], intention(1).meta), (indices[2], intention(3).meta)]);
    assert_eq!(ledger.snapshot().open_decisions, 2);
    for decision in recovered.open_decisions {
        ledger.append_wait(outcome(decision.index)).unwrap();
    }
    assert_eq!(ledger.snapshot().open_decisions, 0);
}

#[test]
fn a_full_disk_is_survived() {
    for keep in [0, 1, 100, 511, 512, 513, 2_000, 5_000] {
        let storage = MemoryStorage::new();
        let (ledger, _) = open(&storage).unwrap();
        ledger.append_wait(denial(1)).unwrap();
        storage.fail(Fault::Write { after: 0, keep, kind: ErrorKind::StorageFull });
        let large = drafts(1, 3_000).remove(0);
        assert!(matches!(ledger.append_wait(large), Err(AppendError::Poisoned { .. })));
        drop(ledger);
        let (ledger, recovered) = open(&storage).unwrap();
        assert_eq!(recovered.cut_bytes > 0, (1..5_000).contains(&keep));
        assert!(ledger.append_wait(denial(3)).is_ok());
    }
}

const CHILD: &str = "GAVEL_LEDGER_TEST_DIR";

/// Not a test of its own: the process that the next test kills. Prints the index of each append
/// that was acknowledged.
#[test]
#[ignore = "run as a child process by the next test"]
fn child_that_appends_for_ever() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let (ledger, _) = Ledger::open(Path::new(&dir), options()).unwrap();
    println!("\nopened");
    for number in 0.. {
        let print = move |fate: Fate| println!("{} {number}", fate.unwrap().index);
        ledger.append(denial(number), print);
        if number % 7 == 0 {
            ledger.append_wait(denial(number)).unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    for until in [1, 20, 150, 333, 800] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_appends_for_ever", "--ignored", "--nocapture"])
            .env(CHILD, root.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.by_ref().find(|line| line == "opened").unwrap();
        let mut acknowledged: Vec<String> = lines.by_ref().take(until).collect();
        let message = Ledger::open(root.path(), options()).unwrap_err().to_string();
        assert!(message.contains(&format!("in use by process {}", child.id())), "{message}");
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(lines);

        verify_dir(root.path()).unwrap();
        let (ledger, _) = Ledger::open(root.path(), options()).unwrap();
        let records = records(&ledger);
        for line in &acknowledged {
            let Some((index, number)) = line.split_once(' ') else { continue };
            // The kill may have cut the last line short; the number would then be missing or wrong.
            if let (Ok(index), Ok(number), true) =
                (index.parse::<usize>(), number.parse::<u64>(), line != acknowledged.last().unwrap())
            {
                assert_eq!(records[index].meta(), denial(number).meta);
            }
        }
        assert!(acknowledged.len() >= until);
    }
}

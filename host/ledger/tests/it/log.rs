//! What the ledger does when nothing goes wrong, and how it refuses what it must not do.

use crate::*;
use gavel_ledger::tree::{Frontier, leaf_hash};
use gavel_ledger::{Fault, GENESIS_HASH, MAX_RECORD_BYTES, verify_dir};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::thread;

#[test]
fn everything_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("kernels/k-1/ledger");
    let (ledger, recovered) = Ledger::open(&dir, options()).unwrap();
    assert!(recovered.created && recovered.open_decisions.is_empty());
    let first = ledger.append_wait(denial(1)).unwrap();
    let waiting = ledger.append_wait(intention(2)).unwrap();
    let second = ledger.append_wait(outcome(waiting.index)).unwrap();
    assert_eq!((first.index, waiting.index, second.index, second.size), (1, 2, 3, 4));
    assert_eq!((waiting.chain, second.chain.as_ref().unwrap().ledger_seq), (None, 1));
    let before = ledger.snapshot();
    ledger.close().unwrap();
    assert_eq!(ledger.append_wait(denial(3)), Err(AppendError::Closed));

    let (ledger, recovered) = Ledger::open(&dir, options()).unwrap();
    assert_eq!((recovered.created, recovered.cut_bytes, recovered.records, recovered.entries), (false, 0, 4, 2));
    assert_eq!(ledger.snapshot(), before);
    let report = verify_dir(&dir).unwrap();
    assert_eq!((report.root, &report.chain_head, report.torn_bytes), (before.root, &before.chain_head, 0));
    assert_eq!((report.acknowledged, report.identity.kernel_id.as_str()), (Some(4), "k-1"));

    let records = records(&ledger);
    assert_eq!(records[0].meta(), r#"{"format":2,"kernel_id":"k-1","variant":"strict"}"#);
    let entry = records[1].entry().unwrap();
    assert_eq!((entry.ledger_seq, entry.prev_hash), (0, GENESIS_HASH));
    assert_eq!(entry.data, denial(1).entry.unwrap());
    assert_eq!(records[3].entry().unwrap().prev_hash, entry.entry_hash);
    assert_eq!(records[3].closes(), Some(2));
    let mut tree = Frontier::new();
    for record in &records {
        tree.push(leaf_hash(record.as_str().as_bytes()));
    }
    assert_eq!(tree.root(), before.root);
}

/// Checked against another implementation: `printf '%064d:{"decision":"DENY","request_id":"r-1"}' 0
/// | sha256sum`.
#[test]
fn the_chain_is_the_one_of_kernels() {
    let ledger = Ledger::in_memory(options()).unwrap();
    let position = ledger.append_wait(denial(1)).unwrap().chain.unwrap();
    assert_eq!(position.entry_hash, "ec6a9a86e5800638d2dff99f155c7f3d0555f9af5d15ac31e9891da43e2a6f20");
    assert_eq!(ledger.snapshot().chain_head, position.entry_hash);
}

#[test]
fn concurrent_appenders_share_batches_and_lose_nothing() {
    const THREADS: u64 = 8;
    const EACH: u64 = 2_000;
    let root = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(root.path(), options()).unwrap();
    let ledger = Arc::new(ledger);
    let work = |thread: u64| {
        let ledger = Arc::clone(&ledger);
        move || -> Vec<(u64, u64)> {
            let numbers = thread * EACH..(thread + 1) * EACH;
            let fates: Vec<_> = numbers.clone().map(|number| append(&ledger, denial(number))).collect();
            numbers.zip(fates).map(|(number, fate)| (fate.recv().unwrap().unwrap().index, number)).collect()
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|thread| thread::spawn(work(thread))).collect();
    let acknowledged: Vec<Vec<(u64, u64)>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();

    let records = records(&ledger);
    assert_eq!(records.len() as u64, 1 + THREADS * EACH);
    for of_one_thread in &acknowledged {
        assert!(of_one_thread.is_sorted(), "appends of one thread keep their order");
        for (index, number) in of_one_thread {
            assert_eq!(records[usize::try_from(*index).unwrap()].meta(), denial(*number).meta);
        }
    }
    let stats = ledger.stats();
    assert_eq!((stats.appended, stats.refused, stats.queue_depth), (THREADS * EACH, 0, 0));
    assert!(stats.batches < stats.appended / 4, "{stats:?}");
    ledger.close().unwrap();
    assert_eq!(verify_dir(root.path()).unwrap().entries, THREADS * EACH);
}

#[test]
fn callbacks_come_in_the_order_of_the_log() {
    let ledger = Ledger::in_memory(Options { batch_bytes_max: 2_000, ..options() }).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    for number in 0..5_000 {
        let told = Arc::clone(&told);
        ledger.append(denial(number), move |fate| told.lock().unwrap().push(fate.unwrap().index));
    }
    ledger.close().unwrap();
    assert!(told.lock().unwrap().iter().copied().eq(1..=5_000));
}

#[test]
fn records_can_be_read_while_others_are_appended() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(root.path(), options()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (0..300).for_each(|number| drop(ledger.append_wait(denial(number)).unwrap())));
        let mut seen = 0;
        while seen < 301 {
            let snapshot = ledger.snapshot();
            let records: Vec<_> = ledger.records(&snapshot).collect::<Result<_, _>>().unwrap();
            assert_eq!(records.len() as u64, snapshot.records, "neither more nor less than the snapshot");
            assert!(snapshot.records >= seen);
            seen = snapshot.records;
            assert!(verify_dir(root.path()).unwrap().records >= seen);
        }
    });
}

#[test]
fn a_halt_is_one_point_in_the_log() {
    let ledger = Ledger::in_memory(options()).unwrap();
    let open = ledger.append_wait(intention(1)).unwrap().index;
    let fates = append_as_one_batch(&ledger, vec![denial(2), halt(), denial(3), halt(), outcome(open), intention(4)]);
    let indices: Vec<_> = fates.iter().map(|fate| fate.as_ref().map(|committed| committed.index)).collect();
    let halted = Err(&AppendError::Halted);
    assert_eq!(indices, [Ok(4), Ok(5), halted, halted, Ok(6), halted]);
    assert!(ledger.snapshot().halted);
    assert_eq!((ledger.snapshot().records, ledger.stats().refused), (7, 3));
}

#[test]
fn after_a_halt_racing_decisions_stand_before_it_or_nowhere() {
    let ledger = Ledger::in_memory(options()).unwrap();
    let halted_at = thread::scope(|scope| {
        for thread in 0..4 {
            let ledger = &ledger;
            scope.spawn(move || while ledger.append_wait(denial(thread)).is_ok() {});
        }
        while ledger.snapshot().records < 100 {
            thread::yield_now();
        }
        ledger.append_wait(halt()).unwrap().index
    });
    assert_eq!(records(&ledger).last().unwrap().index(), halted_at);
}

#[test]
fn a_halted_ledger_stays_halted() {
    let storage = MemoryStorage::new();
    let (ledger, _) = open(&storage).unwrap();
    let open_decision = ledger.append_wait(intention(1)).unwrap().index;
    ledger.append_wait(halt()).unwrap();
    drop(ledger);
    let (ledger, recovered) = open(&storage).unwrap();
    assert!(recovered.halted);
    assert_eq!(ledger.append_wait(denial(2)), Err(AppendError::Halted));
    assert_eq!(recovered.open_decisions[0].index, open_decision);
    ledger.append_wait(outcome(open_decision)).unwrap();
    assert_eq!(ledger.append_wait(outcome(open_decision)), Err(AppendError::NotOpen { decision_index: open_decision }));
}

#[test]
fn a_ledger_opens_for_its_own_kernel_only() {
    let root = tempfile::tempdir().unwrap();
    drop(Ledger::open(root.path(), options()).unwrap());
    let other = |kernel_id: &str, variant: &str| {
        Ledger::open(root.path(), Options::new(Identity { kernel_id: kernel_id.into(), variant: variant.into() }, 0))
    };
    let message = other("k-2", "strict").unwrap_err().to_string();
    assert!(message.contains("the ledger of kernel `k-1`, not of `k-2`"), "{message}");
    assert!(matches!(other("", "strict"), Err(Error::Options { name: "identity.kernel_id", .. })));
    let (_ledger, recovered) = other("k-1", "permissive").unwrap();
    assert_eq!(recovered.identity.variant, "strict");
}

#[test]
fn names_that_are_not_ascii_survive() {
    let identity = Identity { kernel_id: "kärn-\u{1F600}\"\\\n".into(), variant: "\u{7f}".into() };
    let storage = MemoryStorage::new();
    let options = Options::new(identity.clone(), 0);
    drop(Ledger::open_storage(Box::new(storage.clone()), &options).unwrap());
    let (_ledger, recovered) = Ledger::open_storage(Box::new(storage), &options).unwrap();
    assert_eq!(recovered.identity, identity);
}

#[test]
fn the_largest_record_fits_and_one_byte_more_does_not() {
    let ledger = Ledger::in_memory(options()).unwrap();
    let sized = |bytes: usize| draft(Kind::Event, &format!(r#"{{"x":"{}"}}"#, "y".repeat(bytes)), None);
    ledger.append_wait(sized(0)).unwrap();
    // Both records have an index of one digit, so they differ only by the filling.
    let overhead = records(&ledger)[1].as_str().len();
    let largest = MAX_RECORD_BYTES - overhead;
    ledger.append_wait(sized(largest)).unwrap();
    assert_eq!(records(&ledger)[2].as_str().len(), MAX_RECORD_BYTES);
    let size = MAX_RECORD_BYTES + 1;
    assert_eq!(ledger.append_wait(sized(largest + 1)), Err(AppendError::TooLarge { size, limit: MAX_RECORD_BYTES }));
    assert_eq!(ledger.append_wait(denial(1)).unwrap().index, 3, "a refused record leaves no gap");
    assert_eq!(records(&ledger).len(), 4);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let ledger = Ledger::in_memory(Options { queue_max: 2, ..options() }).unwrap();
    let fates = append_as_one_batch(&ledger, vec![denial(1), denial(2), denial(3)]);
    assert!(fates[..2].iter().all(Result::is_ok));
    assert!(matches!(fates[2], Err(AppendError::Overloaded { queued: 2, .. })));
    ledger.append_wait(denial(4)).unwrap();
}

#[test]
fn an_io_error_is_final() {
    for fault in [
        Fault::Write { after: 1, keep: 100, kind: ErrorKind::StorageFull },
        Fault::Sync { after: 1, kind: ErrorKind::Other },
        Fault::Mark { kind: ErrorKind::Other },
    ] {
        let storage = MemoryStorage::new();
        let (ledger, _) = open(&storage).unwrap();
        storage.fail(fault);
        if !matches!(fault, Fault::Mark { .. }) {
            ledger.append_wait(denial(1)).unwrap();
        }
        let before = ledger.snapshot();
        let fates = [append(&ledger, denial(2)), append(&ledger, denial(3))].map(|fate| fate.recv().unwrap());
        for fate in fates.into_iter().chain([ledger.append_wait(denial(4))]) {
            let Err(AppendError::Poisoned { why }) = fate else { panic!("{fault:?}: {fate:?}") };
            assert!(why.contains("could not append to the log in memory"), "{why}");
        }
        let after = ledger.snapshot();
        assert_eq!((after.records, after.root), (before.records, before.root));
        assert!(after.poisoned.is_some());
        assert!(matches!(ledger.close(), Err(Error::Poisoned { .. })));
    }
}

#[test]
fn a_panicking_callback_harms_nobody_else() {
    let ledger = Ledger::in_memory(options()).unwrap();
    ledger.append(denial(1), |_| panic!("this panic is part of the test"));
    ledger.append_wait(denial(2)).unwrap();
    assert_eq!(ledger.stats().callback_panics, 1);
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    let root = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::open(root.path(), options()).unwrap().0);
    let (gone, is_gone) = sync_channel(1);
    let handle = Arc::clone(&ledger);
    let (gate, opened) = sync_channel::<()>(0);
    ledger.append(denial(1), move |_| {
        let _ = opened.recv();
        drop(handle);
        gone.send(()).unwrap();
    });
    drop(ledger);
    drop(gate);
    is_gone.recv().unwrap();
    assert_eq!(verify_dir(root.path()).unwrap().records, 2);
}

#[test]
fn a_ledger_is_read_beside_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), options()).unwrap();
    ledger.append_wait(denial(1)).unwrap();
    let (report, read) = gavel_ledger::read_dir(folder.path()).unwrap();
    ledger.append_wait(denial(2)).unwrap();
    let read: Vec<RecordView> = read.collect::<Result<_, _>>().unwrap();
    assert_eq!((report.records, read.as_slice()), (2, &records(&ledger)[..2]));
}

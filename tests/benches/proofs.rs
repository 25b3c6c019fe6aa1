//! What a proof costs: making one from a ledger on disk, and verifying one as an auditor does, signature and all.
//!
//! Reference in the same run: hashing 27 nodes, which is the path from a leaf to the root of a tree of 100 million; no
//! verifier can do less. Goals: produce at most 50 µs, verify with signature at most 100 µs.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod measure;

use gavel_ledger::{Draft, Identity, Kind, Ledger, Options, SyncMode};
use gavel_proof::Hash;
use gavel_proof::note::{Checkpoint, CheckpointKey, Note, VerifyingKey};
use gavel_proof::tree::{leaf_hash, node_hash, verify_inclusion};
use measure::{cpu_per_call, row};
use std::hint::black_box;

/// Records of the ledger that proofs are made from: four segments, three of them sealed.
const RECORDS: u64 = 200_000;
/// Leaves of the tree that the verified proof is of.
const LARGE: u64 = 100_000_000;

fn main() {
    let path = [[7; 32]; 27];
    let reference = cpu_per_call(110_000, || {
        black_box(path.iter().fold([1; 32], |node: Hash, sibling| node_hash(black_box(&node), sibling)));
    });
    row("reference: hash 27 nodes", reference, reference);
    produce(reference);
    verify(reference);
}

/// From a ledger on disk, at places all over it.
fn produce(reference: f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
    let options = Options { sync: SyncMode::None, ..Options::new(identity, 1) };
    let (ledger, _) = Ledger::open(folder.path(), options).expect("a new ledger");
    let meta = format!("{{\"text\":\"{}\"}}", "x".repeat(400));
    for number in 0..RECORDS {
        let draft = Draft { kind: Kind::Event, ts_ms: number, meta: meta.clone(), entry: None, closes: None };
        if number.is_multiple_of(10_000) {
            ledger.append_wait(draft).expect("appended");
        } else {
            ledger.append(draft, |done| drop(done.expect("appended")));
        }
    }
    let last = Draft { kind: Kind::Event, ts_ms: RECORDS, meta, entry: None, closes: None };
    ledger.append_wait(last).expect("appended");
    let view = ledger.view();
    let size = view.records();
    let mut index = 0;
    let micros = cpu_per_call(22_000, || {
        index = (index + 7_919_777) % size;
        black_box(view.inclusion(index, size).expect("a proof"));
    });
    let hashes = view.inclusion(0, size).expect("a proof").len();
    row(&format!("produce, {hashes} hashes of {size} records (goal 50 us)"), micros, reference);
}

/// A proof in a tree of 100 million leaves, its checkpoint and its signature.
fn verify(reference: f64) {
    let (record, index) = (vec![b'r'; 512], 61_803_398);
    let (hashes, root) = path_of(leaf_hash(&record), index);
    let signing = CheckpointKey::from_seed(&[1; 32]);
    let key: VerifyingKey = signing.verifying("gavel/k/0011223344556677");
    let checkpoint = Checkpoint { origin: key.name().to_owned(), size: LARGE, root };
    let note = checkpoint.sign(&[&signing]);
    let tree = cpu_per_call(22_000, || {
        let leaf = leaf_hash(black_box(&record));
        verify_inclusion(&leaf, index, LARGE, black_box(&hashes), &root).expect("it holds");
    });
    row(&format!("verify, {} hashes and the record's own", hashes.len()), tree, reference);
    let all = cpu_per_call(11_000, || {
        let note = Note::parse(black_box(&note)).expect("a note");
        note.verify(&key).expect("signed");
        let checkpoint = note.checkpoint().expect("a checkpoint");
        let leaf = leaf_hash(black_box(&record));
        verify_inclusion(&leaf, index, checkpoint.size, &hashes, &checkpoint.root).expect("it holds");
    });
    row("verify with the signature (goal 100 us)", all, reference);
}

/// A path from this leaf to a root, made up as it goes.
fn path_of(leaf: Hash, index: u64) -> (Vec<Hash>, Hash) {
    let (mut node, mut at, mut last, mut hashes) = (leaf, index, LARGE - 1, Vec::new());
    while last > 0 {
        let sibling = leaf_hash(&at.to_be_bytes());
        if at & 1 == 1 {
            node = node_hash(&sibling, &node);
            hashes.push(sibling);
        } else if at < last {
            node = node_hash(&node, &sibling);
            hashes.push(sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (hashes, node)
}

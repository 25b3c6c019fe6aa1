//! What the ledger costs, each figure beside its reference in the same run: appends beside raw writes with the same
//! syncs, an audit beside hashing alone, one append beside one bare sync, proofs beside the hashes in them.
//!
//! `cargo bench --bench ledger [-- RECORDS]`; 1,000,000 records of 512 bytes by default, some 700 bytes each on the disk.
//! It writes into `GAVEL_BENCH_DIR`, or the target folder.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops where it cannot go on")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]

use gavel_ledger::note::{CheckpointKey, Note};
use gavel_ledger::tree::{Frontier, leaf_hash, node_hash, verify_inclusion};
use gavel_ledger::{Audit, Draft, Identity, Kind, Ledger, Options, audit_dir};
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RECORD_BYTES: usize = 512;
const LONE: usize = 300;

fn main() {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let base =
        std::env::var_os("GAVEL_BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    hashing();
    lone_appends(dir.path());
    let ledger = dir.path().join("ledger");
    appends(&ledger, dir.path(), count);
    reopen(&ledger);
    audit(&ledger);
    proofs(&ledger);
    println!("resident memory now {} MiB, at most {} MiB", resident("VmRSS") >> 10, resident("VmHWM") >> 10);
}

fn options() -> Options {
    let identity = Identity { kernel_id: "bench".into(), variant: "strict".into() };
    Options { keys: vec![CheckpointKey::from_seed(&[7; 32])], ..Options::new(identity, 1) }
}

/// A denial whose record has about [`RECORD_BYTES`] bytes.
fn draft(number: u64) -> Draft {
    let entry = format!(
        "{{\"actor\":\"agent-007\",\"decision\":\"DENY\",\"intent\":\"{}\",\"request_id\":\"r-{number:012}\"}}",
        "x".repeat(190)
    );
    Draft { kind: Kind::Decision, ts_ms: number, meta: "{}".into(), entry: Some(entry), closes: None }
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn hashing() {
    let record = vec![b'x'; RECORD_BYTES];
    let mut tree = Frontier::new();
    let count = 500_000;
    let begin = Instant::now();
    for _ in 0..count {
        tree.push(leaf_hash(black_box(&record)));
    }
    black_box(tree.root());
    println!("hashing, leaf and node: {:.2} M records/s/core (goal 2)", per_second(count, begin.elapsed()) / 1e6);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// One append at a time, each beside a bare write and sync of as many bytes.
fn lone_appends(dir: &Path) {
    let (ledger, _) = Ledger::open(&dir.join("lone"), options()).unwrap();
    let raw = File::create(dir.join("raw")).unwrap();
    let (mut appends, mut bare, mut at) = (Vec::new(), Vec::new(), 0);
    for number in 0..LONE as u64 {
        let before = ledger.snapshot().bytes;
        let begin = Instant::now();
        ledger.append_wait(draft(number)).unwrap();
        appends.push(begin.elapsed());
        let bytes = vec![b'x'; usize::try_from(ledger.snapshot().bytes - before).unwrap()];
        let begin = Instant::now();
        raw.write_all_at(&bytes, at).unwrap();
        raw.sync_data().unwrap();
        bare.push(begin.elapsed());
        at += bytes.len() as u64;
    }
    let (append, bare) = (median(appends), median(bare));
    let more = append.as_secs_f64() * 1e6 - bare.as_secs_f64() * 1e6;
    println!(
        "one append alone: {:.0} us, bare write and fdatasync {:.0} us: {more:+.0} us (goal 100)",
        append.as_secs_f64() * 1e6,
        bare.as_secs_f64() * 1e6
    );
}

/// As many as the queue takes, then the same bytes in the same batches written raw.
fn appends(ledger_dir: &Path, dir: &Path, count: u64) {
    let (ledger, _) = Ledger::open(ledger_dir, options()).unwrap();
    let start = ledger.snapshot().bytes;
    let done = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    for number in 0..count {
        while number - done.load(Ordering::Relaxed) > 30_000 {
            std::thread::yield_now();
        }
        let done = Arc::clone(&done);
        ledger.append(draft(number), move |committed| {
            committed.unwrap();
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    while done.load(Ordering::Relaxed) < count {
        std::thread::yield_now();
    }
    let took = begin.elapsed();
    let (stats, bytes) = (ledger.stats(), ledger.snapshot().bytes - start);
    // Not closed: what opens it next finds it as a crash leaves it, but for the lock.
    std::mem::drop(ledger);
    let batch = usize::try_from(bytes / stats.batches).unwrap();
    let raw = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("raw")).unwrap();
    let block = vec![b'x'; batch];
    let begin = Instant::now();
    for number in 0..stats.batches {
        raw.write_all_at(&block, number * batch as u64).unwrap();
        raw.sync_data().unwrap();
    }
    let raw_took = begin.elapsed();
    std::fs::remove_file(dir.join("raw")).unwrap();
    println!(
        "durable appends: {count} records, {} bytes each, {:.0}/s in {} batches; the same batches raw in {:.2} of the time: {:.2} of raw (goal 0.8)",
        bytes / count,
        per_second(count, took),
        stats.batches,
        raw_took.as_secs_f64() / took.as_secs_f64(),
        raw_took.as_secs_f64() / took.as_secs_f64(),
    );
}

fn reopen(dir: &Path) {
    // As after a crash: no state is kept and the mark is old. What was derived is there, as it is written at each seal.
    let _ = std::fs::remove_file(dir.join("mark"));
    let begin = Instant::now();
    let (ledger, recovered) = Ledger::open(dir, options()).unwrap();
    println!("open, {} records: {:.0} ms (goal 1000 at 100 M)", recovered.records, begin.elapsed().as_secs_f64() * 1e3);
    ledger.close().unwrap();
}

fn audit(dir: &Path) {
    for (threads, each_signature) in [(1, false), (2, false), (1, true)] {
        let audit = Audit { threads: Some(threads), each_signature, ..Audit::default() };
        let begin = Instant::now();
        let report = audit_dir(dir, &audit).unwrap();
        let took = begin.elapsed();
        println!(
            "audit, {threads} threads, {}: {} records in {:.2} s, {:.2} M records/s (goal 1 a core), {} segments, {} checkpoints",
            if each_signature { "every signature" } else { "the last signature of each segment" },
            report.records,
            took.as_secs_f64(),
            per_second(report.records, took) / 1e6,
            report.segments,
            report.batches,
        );
    }
}

fn proofs(dir: &Path) {
    let (ledger, _) = Ledger::open(dir, options()).unwrap();
    let (view, snapshot) = (ledger.view(), ledger.snapshot());
    let note = snapshot.checkpoint.unwrap();
    let key = CheckpointKey::from_seed(&[7; 32]).verifying(&view.origin());
    let (rounds, mut hashes) = (2000_u64, 0);
    let (mut produce, mut verify) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let index = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % snapshot.records;
        let leaf = leaf_hash(view.record(index).unwrap().as_str().as_bytes());
        let begin = Instant::now();
        let proof = view.inclusion(index, snapshot.records).unwrap();
        produce += begin.elapsed();
        let begin = Instant::now();
        let note = Note::parse(&note).unwrap();
        note.verify(&key).unwrap();
        let checkpoint = note.checkpoint().unwrap();
        verify_inclusion(&leaf, index, checkpoint.size, &proof, &checkpoint.root).unwrap();
        verify += begin.elapsed();
        hashes += proof.len() as u64;
    }
    let us = |took: Duration| took.as_secs_f64() * 1e6 / rounds as f64;
    let begin = Instant::now();
    for _ in 0..hashes {
        black_box(node_hash(black_box(&[1; 32]), black_box(&[2; 32])));
    }
    let reference = us(begin.elapsed());
    println!(
        "inclusion proof: {} hashes, produced in {:.1} us (goal 50), verified with its signature in {:.1} us (goal 100); its hashes alone {reference:.1} us",
        hashes / rounds,
        us(produce),
        us(verify),
    );
}

fn resident(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

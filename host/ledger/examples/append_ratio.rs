//! What the ledger costs over the bare disk, as ratios from one run, on the file system of the
//! directory given (default: `.`).
//!
//! `cargo run --release -p gavel-ledger --example append_ratio -- DIR`
//!
//! Loaded: records of about 512 bytes, as many in flight as the queue takes, against the same bytes
//! written raw in as many writes and fdatasyncs. Alone: one append at a time, against one write and
//! fdatasync of the same size. The two sides of each comparison take turns, so that a noisy machine
//! disturbs both alike.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use gavel_ledger::{Draft, Identity, Kind, Ledger, Options, Stats, verify_dir};
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

const LOADED_RECORDS: u64 = 400_000;
const ALONE_RECORDS: usize = 2_000;
const ROUNDS: usize = 5;
/// Appends in flight, as from a busy host.
const IN_FLIGHT: usize = 4_096;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let root = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let root = tempfile::tempdir_in(root)?;
    let dir = root.path().join("ledger");
    let mut ratios = Vec::new();
    let mut audits = Vec::new();
    for round in 0..ROUNDS {
        let (ours, stats, record_bytes) = loaded(&dir)?;
        let raw = raw_writes(root.path(), stats.bytes / stats.batches, stats.batches)?.iter().sum::<Duration>();
        ratios.push(raw.as_secs_f64() / ours.as_secs_f64());
        let begin = Instant::now();
        let report = verify_dir(&dir)?;
        audits.push(per_second(report.records, begin.elapsed()));
        let rate = per_second(LOADED_RECORDS, ours);
        println!(
            "round {round}: {rate:.0} appends/s of {record_bytes} bytes, {} a batch",
            stats.appended / stats.batches
        );
        std::fs::remove_dir_all(&dir)?;
    }
    println!("loaded: {:.2} of the raw throughput (goal 0.8)", median(&mut ratios));
    println!("audit: {:.2} M records/s", median(&mut audits) / 1e6);

    let (ledger, raw) = alone(&dir, root.path())?;
    println!("alone: {ledger:.0} us an append, {raw:.0} us the bare write: {:.0} us more (goal 100)", ledger - raw);
    Ok(())
}

fn loaded(dir: &Path) -> Outcome<(Duration, Stats, u64)> {
    let (ledger, _) = Ledger::open(dir, options())?;
    let (free, slots) = sync_channel(IN_FLIGHT);
    for _ in 0..IN_FLIGHT {
        free.send(())?;
    }
    // Drafts are the host's work, done by many threads at once; here they are ready beforehand.
    let drafts: Vec<Draft> = (0..LOADED_RECORDS).map(draft).collect();
    let begin = Instant::now();
    for draft in drafts {
        slots.recv()?;
        let free = free.clone();
        ledger.append(draft, move |fate| {
            assert!(fate.is_ok(), "{fate:?}");
            let _ = free.send(());
        });
    }
    ledger.close()?;
    let (took, stats) = (begin.elapsed(), ledger.stats());
    Ok((took, stats, stats.bytes / LOADED_RECORDS))
}

fn alone(dir: &Path, root: &Path) -> Outcome<(f64, f64)> {
    let (ledger, _) = Ledger::open(dir, options())?;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for number in 0..ALONE_RECORDS / ROUNDS {
            let draft = draft((round * ALONE_RECORDS + number) as u64);
            let begin = Instant::now();
            ledger.append_wait(draft)?;
            ours.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        let bytes = ledger.stats().bytes / ledger.stats().batches;
        raw.extend(
            raw_writes(root, bytes, (ALONE_RECORDS / ROUNDS) as u64)?.iter().map(|took| took.as_secs_f64() * 1e6),
        );
    }
    Ok((median(&mut ours), median(&mut raw)))
}

/// The time of each write with its fdatasync.
fn raw_writes(root: &Path, bytes: u64, count: u64) -> Outcome<Vec<Duration>> {
    let path = root.join("raw");
    let file = File::create(&path)?;
    let block = vec![b'x'; usize::try_from(bytes)?];
    let mut took = Vec::new();
    for number in 0..count {
        let begin = Instant::now();
        file.write_all_at(&block, number * bytes)?;
        file.sync_data()?;
        took.push(begin.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(took)
}

fn options() -> Options {
    Options::new(Identity { kernel_id: "bench".into(), variant: "strict".into() }, 0)
}

fn draft(number: u64) -> Draft {
    let entry = format!(
        r#"{{"actor":"agent-7","decision":"DENY","intent":"{}","request_id":"r-{number:08}"}}"#,
        "i".repeat(110)
    );
    Draft { kind: Kind::Decision, ts_ms: number, meta: r#"{"latency_us":12}"#.into(), entry: Some(entry), closes: None }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

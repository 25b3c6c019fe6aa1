//! The long sweep of SIGKILLs: `cargo bench --bench kills -- 1000` (default: 50).
//!
//! A server is killed at a random moment, under load or while it starts, and the next one must know every receipt that
//! was ever handed out; again and again on the same ledger, and after every [`LEDGER_KILLS`] of them on a new one, so
//! that checking everything stays affordable. Each second ledger begins just before the end of a segment, which the
//! load then crosses. Every kill is followed by a check of the whole ledger from outside: each acknowledged record in
//! its place, and all that `gavel verify` checks. `GAVEL_TEST_SEED`, which is printed, chooses the moments; what the
//! server had done by then is the machine's, so a seed replays the sweep, not the bug.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use gavel_ledger::{Draft, Error, Identity, Kind, Ledger, Options, SyncMode, read_dir, verify_dir};
use gavel_tests::receipts::{Acknowledged, OUTCOME_UNKNOWN, killed_under_load};
use gavel_tests::{Config, Random, Site, gavel, path};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const KILLS: usize = 50;
/// Kills of one ledger. At some 30 receipts a kill, checking it all takes some ten milliseconds.
const LEDGER_KILLS: usize = 100;
/// Records of a full segment, and how many before its end the load begins.
const SEGMENT_RECORDS: u64 = 65_536;
const RECORDS_BEFORE_THE_END: u64 = 400;
/// One kill of so many hits a server that is still starting.
const WHILE_STARTING: u64 = 4;
/// The longest that such a server lives.
const STARTING_US_MAX: u64 = 40_000;

/// What a sweep came to.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    while_starting: usize,
    acknowledged: usize,
    unknown: usize,
    records: u64,
    torn: usize,
}

fn main() {
    let kills = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(KILLS);
    let mut random = Random::from_environment();
    let mut tally = Tally::default();
    let begin = Instant::now();
    let mut ledgers = 0;
    while tally.kills < kills {
        let some = LEDGER_KILLS.min(kills - tally.kills).min(kills.div_ceil(2));
        sweep(some, ledgers % 2 == 1, &mut random, &mut tally);
        ledgers += 1;
        println!("{} of {kills} kills after {:.0} s", tally.kills, begin.elapsed().as_secs_f64());
    }
    let Tally { kills, while_starting, acknowledged, unknown, records, torn } = tally;
    println!(
        "{kills} SIGKILLs on {ledgers} ledgers, {while_starting} of them while the server started: {acknowledged} \
         receipts, none lost; {records} records, {unknown} outcomes unknown, {torn} torn batches cut; {:.0} s",
        begin.elapsed().as_secs_f64()
    );
}

/// So many kills of one ledger.
fn sweep(kills: usize, at_the_end_of_a_segment: bool, random: &mut Random, tally: &mut Tally) {
    let site = Site::new(&Config::open());
    let folder = site.ledger("k");
    if at_the_end_of_a_segment {
        fill(&folder, SEGMENT_RECORDS - RECORDS_BEFORE_THE_END);
    }
    let mut acknowledged = Acknowledged::default();
    for round in 0..kills {
        if random.below(WHILE_STARTING) == 0 {
            let lives = Duration::from_micros(random.below(STARTING_US_MAX));
            site.command("127.0.0.1:0").run_and_kill_after(lives);
            tally.while_starting += 1;
        } else {
            acknowledged.add(&killed_under_load(site.serve(), round, random));
        }
        tally.torn += usize::from(check(&folder, &acknowledged) > 0);
    }
    // The last word has a server of its own, which closes what is open, and the command.
    let site = site.serve().stop();
    let _ = check(&folder, &acknowledged);
    let verified = gavel(["verify", "--json", path(&site.ledger("k"))]).code(0).json();
    let report = verify_dir(&folder).expect("the command says the same");
    assert_eq!(report.open_decisions, 0, "every decision is closed");
    tally.kills += kills;
    tally.acknowledged += acknowledged.count();
    tally.unknown += entries(&folder).1.iter().filter(|(_, entry)| entry["error"] == OUTCOME_UNKNOWN).count();
    tally.records += verified["records"].as_u64().expect("a count");
}

/// Everything acknowledged is in the ledger. Returns the bytes of a torn batch at its end.
fn check(folder: &Path, acknowledged: &Acknowledged) -> u64 {
    let (torn_bytes, entries) = entries(folder);
    acknowledged.check_entries(entries.iter().map(|(hash, entry)| (hash.as_str(), entry)));
    torn_bytes
}

/// Every entry of a ledger, after all of it was verified, and the bytes of a torn batch at its end.
fn entries(folder: &Path) -> (u64, Vec<(String, Value)>) {
    let (report, records) = match read_dir(folder) {
        // Killed before there was one.
        Err(Error::Absent { .. }) => return (0, Vec::new()),
        read => read.expect("the ledger holds"),
    };
    let records = records.map(|record| record.expect("it was verified"));
    let entries = records.filter_map(|record| {
        let entry = record.entry()?;
        Some((entry.entry_hash.to_owned(), serde_json::from_str(entry.data).expect("an entry is JSON")))
    });
    (report.torn_bytes, entries.collect())
}

/// A ledger that has almost a segment full of records.
fn fill(folder: &Path, records: u64) {
    let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
    let options = Options { sync: SyncMode::None, ..Options::new(identity, 1) };
    let (ledger, _) = Ledger::open(folder, options).expect("a new ledger");
    let draft = Draft { kind: Kind::Event, ts_ms: 1, meta: "{}".into(), entry: None, closes: None };
    while ledger.snapshot().records < records {
        for _ in 0..records - ledger.snapshot().records {
            ledger.append(draft.clone(), |_| {});
        }
        // Whatever waits is written before this one.
        let _ = ledger.append_wait(draft.clone());
    }
    ledger.close().expect("a sound disk");
}

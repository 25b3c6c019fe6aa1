//! What a change of policies costs under load, and how fast a ledger is judged again.
//!
//! 10,000 exchanges while callers ask without pause: none of them may fail, no record may mix two
//! sets, and the exchange itself (which is durable before it takes effect) has its distribution
//! printed beside one bare durable append of the same ledger at rest. Goals: p99 at most 5 ms, and
//! the callers' throughput beside their own without exchanges. Then the ledger that this left is
//! judged again: goal 20,000 decisions per second of CPU, beside a native parse of the same records.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod measure;

use gavel::clock::Clock;
use gavel::config;
use gavel::decide::Principal;
use gavel::host::{Host, Storage, catalogue_dir, ledger_dir};
use gavel::kernel::Kernel;
use gavel::policies::catalogue::Catalogue;
use gavel::policies::change::{Change, Reason};
use gavel::policies::document::Edit;
use gavel::policies::life::TrialMode;
use gavel::replay::{Bench, Past, rejudge};
use gavel_kernel::Request;
use measure::{cpu_of, percentile};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SWAPS: usize = 10_000;
const CALLERS: usize = 16;

const CONFIG: &str = r#"
kernels:
  - id: bench
    policy: {allowed_actors: [agent-001], allowed_tools: ["*"], custom_rules: [first, second]}
policies:
  first: {component: "builtin:business-hours", config: {from: "00:00", to: "24:00"}}
  second: {component: "builtin:business-hours", config: {from: "00:00", to: "24:00"}}
limits: {decision_deadline_ms: 2000}
"#;

const REASON: Reason<'_> = Reason { who: "bench", why: "" };

/// What callers did.
#[derive(Default)]
struct Asked {
    answers: AtomicU64,
    failures: AtomicU64,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    runtime.block_on(swap(&data));
    runtime.block_on(replay(&data));
}

async fn swap(data: &Path) {
    let mut text = CONFIG.to_owned();
    // A busy machine is no failure of the exchange.
    text = text.replace("to: \"24:00\"}}", "to: \"24:00\"}, limits: {deadline_ms: 1000}}");
    let file = config::parse(Path::new("(bench)"), &text).expect("a configuration");
    let host = Host::open(file, &Storage::Folder(data.to_owned()), Clock::System).await.expect("a host");
    let kernel = &host.kernels()[0];
    let closed = |name: &str| Edit {
        name: name.into(),
        config: Some(
            json!({"from": "00:00", "to": "24:00", "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}),
        ),
        ..Edit::default()
    };
    let edits = vec![closed("first"), closed("second")];
    change(kernel, Change::Stage { edits, order: None, mode: TrialMode::Staged }).await;
    change(kernel, Change::Promote { expected: None }).await;
    let mut alone = Vec::new();
    for _ in 0..500 {
        let started = Instant::now();
        change(kernel, Change::RollBack).await;
        alone.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let calm = load(kernel, async { tokio::time::sleep(Duration::from_secs(3)).await }).await;
    let mut exchanges = Vec::with_capacity(SWAPS);
    let busy = load(kernel, async {
        for _ in 0..SWAPS {
            let started = Instant::now();
            change(kernel, Change::RollBack).await;
            exchanges.push(started.elapsed().as_secs_f64() * 1e3);
        }
    })
    .await;
    host.finish().await;
    let (answers, mixed) = examine(&ledger_dir(data, "bench"));
    println!(
        "{SWAPS} exchanges under load, {answers} decisions: {} failures, {mixed} mixed (goal 0, 0)",
        busy.1 + calm.1
    );
    let alone_p50 = percentile(&mut alone, 0.5);
    println!("{:<52} {alone_p50:>10.3} ms", "reference: an exchange at rest (a durable append), p50");
    let alone_p99 = percentile(&mut alone, 0.99);
    println!("{:<52} {alone_p99:>10.3} ms", "reference: the same, p99");
    for (what, part) in [("p50", 0.5), ("p99 (goal 5 ms)", 0.99), ("max", 1.0)] {
        let value = percentile(&mut exchanges, part);
        println!("{:<52} {value:>10.3} ms  {:>6.2} x", format!("an exchange under load, {what}"), value / alone_p50);
    }
    println!(
        "{:<52} {:>10.0} /s  {:>6.2} x of {:.0} /s without",
        "decisions per second meanwhile",
        busy.0,
        busy.0 / calm.0,
        calm.0
    );
}

async fn change(kernel: &Arc<Kernel>, change: Change) {
    kernel.change_policies(change, REASON).await.expect("a change");
}

/// Decisions per second while `work` runs, and how many failed.
async fn load(kernel: &Arc<Kernel>, work: impl Future<Output = ()>) -> (f64, u64) {
    let (asked, done) = (Arc::new(Asked::default()), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(ask(Arc::clone(kernel), caller, Arc::clone(&asked), Arc::clone(&done))))
        .collect();
    let started = Instant::now();
    work.await;
    done.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("a caller");
    }
    let answers = u32::try_from(asked.answers.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
    (f64::from(answers) / started.elapsed().as_secs_f64(), asked.failures.load(Ordering::SeqCst))
}

async fn ask(kernel: Arc<Kernel>, caller: usize, asked: Arc<Asked>, done: Arc<AtomicBool>) {
    let mut number = 0_u64;
    while !done.load(Ordering::SeqCst) {
        number += 1;
        let body = json!({
            "request_id": format!("{caller}-{number}"),
            "actor": "agent-001",
            "intent": "Read the quarterly report and summarise it for the board",
            "tool_call": {"name": "read_file", "params": {"path": "reports/2025/q1.md"}},
        });
        let request = Request::from_value(body, 0).expect("a request");
        let receipt = kernel.decide(request, Principal::unbound("bench")).await;
        let failed = !receipt.is_ok_and(|receipt| receipt.error.is_none());
        asked.answers.fetch_add(1, Ordering::SeqCst);
        asked.failures.fetch_add(u64::from(failed), Ordering::SeqCst);
    }
}

/// Decisions in the ledger, and how many name a set that did not serve, or not both policies.
fn examine(ledger: &Path) -> (u64, u64) {
    let (_, records) = gavel_ledger::read_dir(ledger).expect("a sound ledger");
    let (mut decisions, mut mixed, mut sets) = (0, 0, Vec::<Value>::new());
    for record in records {
        let record = record.expect("a record");
        let meta: Value = serde_json::from_str(record.meta()).expect("JSON");
        match record.kind() {
            "event" => sets.push(meta["new_set"].clone()),
            "decision" => {
                decisions += 1;
                let whole = meta["policies"].as_array().is_some_and(|policies| policies.len() == 2);
                mixed += u64::from(!whole || !sets.contains(&meta["policy_set"]));
                sets.truncate(8);
            }
            _ => {}
        }
    }
    (decisions, mixed)
}

async fn replay(data: &Path) {
    let (_, records) = gavel_ledger::read_dir(&ledger_dir(data, "bench")).expect("a sound ledger");
    let before = cpu_of(std::process::id());
    let parsed = records
        .filter(|record| record.as_ref().is_ok_and(|record| serde_json::from_str::<Value>(record.meta()).is_ok()));
    let parsed = u32::try_from(parsed.count()).unwrap_or(u32::MAX);
    let parse = cpu_of(std::process::id()).saturating_sub(before).as_secs_f64() * 1e6 / f64::from(parsed);
    let (_, records) = gavel_ledger::read_dir(&ledger_dir(data, "bench")).expect("a sound ledger");
    let mut bench = Bench::new(Catalogue::read_only(&catalogue_dir(data)), None).expect("a sandbox");
    let before = cpu_of(std::process::id());
    let report = rejudge(Past::new(records, &ledger_dir(data, "bench")), &mut bench, |_| {}).await.expect("a report");
    let cpu = cpu_of(std::process::id()).saturating_sub(before);
    assert_eq!((report.differing, report.same), (0, report.judged), "{:?}", report.differences.first());
    let judged = f64::from(u32::try_from(report.judged).unwrap_or(u32::MAX));
    let each = cpu.as_secs_f64() * 1e6 / judged;
    println!("{:<52} {parse:>10.2} us", "reference: reading and parsing a record");
    println!(
        "{:<52} {each:>10.2} us  {:>6.2} x  = {:.0} decisions/s/core (goal 20,000), two policies each",
        format!("rejudge, CPU for each of {judged} decisions"),
        each / parse,
        1e6 / each
    );
}

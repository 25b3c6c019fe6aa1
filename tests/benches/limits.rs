//! What a policy that misbehaves costs everybody else, and what a new one costs before it is ready.
//!
//! References in the same run: for stopping loops, how late this machine wakes a thread that sleeps
//! as long; for the others' throughput, the same callers without loops; for loading, the digest of
//! the component. Goals: a loop is stopped within its deadline + 2 ms; a memory bomb adds at most
//! 64 MiB; two callers that loop for ever leave the others half of their throughput and a p99 of at
//! most 10 ms; a component of 16 KB is ready within 60 ms, a precompiled one within 1 ms.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod measure;

use gavel::policies::builtin;
use gavel_runtime::{
    Counters, FailedClosed, Limits, Policy, PolicySource, Sandbox, SandboxOptions, Verdict, WindowedCounters,
};
use measure::{cpu_of, percentile, request, row};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_millis(10);
const LOOPS: usize = 200;
const TURNS: usize = 11;
const TURN: Duration = Duration::from_millis(300);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        // First, because the most that the process ever had resident is what is looked at.
        memory_bomb().await;
        loops_are_stopped().await;
        loops_leave_room().await;
        loading().await;
    });
}

fn hostile() -> Vec<u8> {
    std::fs::read(gavel_tests::repository().join("tests/data/guests/hostile.wasm")).expect("the hostile guest")
}

async fn load(sandbox: &Sandbox, deed: Value, deadline: Duration) -> Policy {
    let deadline_ms = u64::try_from(deadline.as_millis()).expect("a deadline");
    let limits = Limits { deadline_ms, ..Limits::default() };
    let source = PolicySource { config: deed, limits, ..PolicySource::new("hostile", hostile()) };
    sandbox.load(source).await.expect("it loads")
}

fn sandbox() -> Sandbox {
    Sandbox::new(SandboxOptions { decision_deadline_ms: 5_000, ..SandboxOptions::default() }).expect("a sandbox")
}

async fn ask(policy: &Policy, counters: &Arc<dyn Counters>) -> Result<Verdict, FailedClosed> {
    policy.evaluate(Arc::new(request()), Arc::clone(counters), Duration::from_secs(5)).await.verdict
}

fn counters() -> Arc<dyn Counters> {
    WindowedCounters::new(100).into()
}

/// The most that the process ever had resident, in MiB.
fn resident_max() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line VmHWM");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1_024.0
}

async fn memory_bomb() {
    let (sandbox, counters) = (sandbox(), counters());
    let bomb = load(&sandbox, json!({"do": "allocate"}), Duration::from_secs(5)).await;
    let before = resident_max();
    for _ in 0..100 {
        assert!(matches!(ask(&bomb, &counters).await, Err(FailedClosed::Memory { .. })));
    }
    println!("{:<52} {:>10.1} MiB (goal 64 MiB)", "100 memory bombs: resident memory added", resident_max() - before);
}

async fn loops_are_stopped() {
    let (sandbox, counters) = (sandbox(), counters());
    let endless = load(&sandbox, json!({"do": "loop"}), DEADLINE).await;
    let (mut late, mut jitter) = (Vec::new(), Vec::new());
    for _ in 0..LOOPS {
        let started = Instant::now();
        std::thread::sleep(DEADLINE);
        jitter.push(started.elapsed().saturating_sub(DEADLINE).as_secs_f64() * 1e6);
        let started = Instant::now();
        assert!(matches!(ask(&endless, &counters).await, Err(FailedClosed::Deadline { .. })));
        late.push(started.elapsed().saturating_sub(DEADLINE).as_secs_f64() * 1e6);
    }
    for (part, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "max")] {
        let reference = percentile(&mut jitter, part);
        row(&format!("reference: a sleeping thread wakes late, {name}"), reference, reference);
        row(&format!("a loop ends after its deadline, {name} (goal 2 ms)"), percentile(&mut late, part), reference);
    }
}

/// Two callers that only ask an honest policy, beside two that ask one that never ends, or none.
/// In short turns, each compared with the one before it, because a busy machine is not as fast all
/// the time.
async fn loops_leave_room() {
    let (sandbox, counters) = (sandbox(), counters());
    let honest = load(&sandbox, json!({"do": "allow"}), Duration::from_secs(1)).await;
    let endless = load(&sandbox, json!({"do": "loop"}), DEADLINE).await;
    let (mut parts, mut alone, mut slowest, mut slowest_alone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (without, p99_alone) = throughput(&honest, None, &counters).await;
        let (beside, p99) = throughput(&honest, Some(&endless), &counters).await;
        parts.push(beside / without * 100.0);
        alone.push(without);
        slowest.push(p99);
        slowest_alone.push(p99_alone);
    }
    let middle = |values: &mut [f64]| percentile(values, 0.5);
    println!("{:<52} {:>10.0} /s", "reference: two honest callers alone", middle(&mut alone));
    println!("{:<52} {:>10.0} %  (goal 50 %)", "left of it beside two loops, median", middle(&mut parts));
    println!("{:<52} {:>10.2} ms", "reference: p99 alone", middle(&mut slowest_alone));
    println!("{:<52} {:>10.2} ms (goal 10 ms)", "p99 beside two loops", middle(&mut slowest));
}

/// Honest decisions in a second, and the p99 of their wall time in milliseconds.
async fn throughput(honest: &Policy, endless: Option<&Policy>, counters: &Arc<dyn Counters>) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let loops: Vec<_> = endless.into_iter().flat_map(|endless| [endless.clone(), endless.clone()]).collect();
    let loops = loops.into_iter().map(|endless| {
        let (stop, counters) = (Arc::clone(&stop), Arc::clone(counters));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert!(ask(&endless, &counters).await.is_err());
            }
        })
    });
    let loops: Vec<_> = loops.collect();
    let started = Instant::now();
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (honest, counters) = (honest.clone(), Arc::clone(counters));
            tokio::spawn(async move {
                let mut each = Vec::new();
                while started.elapsed() < TURN {
                    let asked = Instant::now();
                    assert_eq!(ask(&honest, &counters).await, Ok(Verdict::Allow));
                    each.push(asked.elapsed().as_secs_f64() * 1e3);
                    tokio::task::yield_now().await;
                }
                each
            })
        })
        .collect();
    let mut each = Vec::new();
    for caller in callers {
        each.extend(caller.await.expect("a caller"));
    }
    let took = started.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for ended in loops {
        ended.await.expect("a loop");
    }
    (f64::from(u32::try_from(each.len()).expect("fewer than 2^32 calls")) / took, percentile(&mut each, 0.99))
}

async fn loading() {
    let bytes = builtin::find("business-hours").expect("a builtin policy").to_vec();
    let kilobytes = bytes.len() / 1_000;
    let mut digest = time(100, || _ = black_box(Sha256::digest(black_box(&bytes))));
    let reference = percentile(&mut digest, 0.5);
    row(&format!("reference: digest of a component of {kilobytes} KB"), reference, reference);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cached = SandboxOptions { cache_dir: Some(folder.path().join("cache")), ..SandboxOptions::default() };
    for (label, options, rounds) in
        [("compiled (goal 60 ms for 16 KB)", SandboxOptions::default(), 15), ("precompiled (goal 1 ms)", cached, 200)]
    {
        let sandbox = Sandbox::new(options).expect("a sandbox");
        let (mut each, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let source = PolicySource::new("business-hours", bytes.clone());
            let (spent, started) = (cpu_of(std::process::id()), Instant::now());
            drop(black_box(sandbox.load(source).await.expect("it loads")));
            each.push(started.elapsed().as_secs_f64() * 1e6);
            cpu.push(cpu_of(std::process::id()).saturating_sub(spent).as_secs_f64() * 1e6);
        }
        row(&format!("upload to ready, {label}, CPU"), percentile(&mut cpu, 0.5), reference);
        row(&format!("upload to ready, {label}, wall"), percentile(&mut each, 0.5), reference);
    }
}

/// Microseconds of wall time, each time.
fn time(rounds: usize, mut work: impl FnMut()) -> Vec<f64> {
    let each = (0..rounds).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64() * 1e6
    });
    each.collect()
}

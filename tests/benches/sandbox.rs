//! What a sandboxed judgement costs: fresh and warm instances of a real policy, and ready ones.
//!
//! Reference in the same run: the same rule as a native function that parses the same
//! configuration. Goals: warm call at most 1 µs (p50), fresh instance at most 15 µs of CPU, and at
//! most 4 µs (p50) seen by the caller when it was made ahead.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod measure;

use gavel::policies::builtin;
use gavel_runtime::{
    Counters, Isolation, Limits, Policy, PolicySource, Request, Sandbox, SandboxOptions, Verdict, WindowedCounters,
};
use measure::{cpu_of, cpu_per_call, percentile, request, row};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The rule of `business-hours`, as a native program would have it.
fn native(config: &str, request: &Request) -> bool {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    let hour = |name: &str| config[name].as_str().and_then(|text| text.split(':').next()?.parse::<u64>().ok());
    let now = request.now_ms / 3_600_000 % 24;
    hour("from").is_some_and(|from| from <= now) && hour("to").is_some_and(|to| now < to)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sandbox = Sandbox::new(SandboxOptions::default()).expect("a sandbox");
    let load = |name: &str, config: Value, isolation: Isolation, instances_ahead: u64| -> Policy {
        let bytes = builtin::find(name).expect("a builtin policy").to_vec();
        // Time enough for a machine that also does other work: what is late here is not wrong.
        let limits = Limits { isolation, instances_ahead, deadline_ms: 50, ..Limits::default() };
        runtime
            .block_on(sandbox.load(PolicySource { config, limits, ..PolicySource::new(name, bytes) }))
            .expect("it loads")
    };
    let counters: Arc<dyn Counters> = WindowedCounters::new(1_000).into();
    let hours = json!({"from": "09:00", "to": "17:00"});
    let text = hours.to_string();
    let asked = Arc::new(request());
    let reference = cpu_per_call(200_000, || _ = black_box(native(black_box(&text), &asked)));
    row("reference: the rule as a native function", reference, reference);
    let paths =
        json!({"rules": [{"tools": ["read_file"], "params": ["path"], "allow": ["reports/**"], "deny": ["**/.*"]}]});
    let cases = [
        ("business-hours, default", "business-hours", Value::Null),
        ("business-hours", "business-hours", hours),
        ("path-allow-list", "path-allow-list", paths),
    ];
    for (label, name, config) in cases {
        for (isolation, goal) in [(Isolation::Fresh, "goal 15 us CPU"), (Isolation::Warm, "goal 1 us p50")] {
            let policy = load(name, config.clone(), isolation, 0);
            let label = format!("{label}, {isolation:?}");
            let (cpu, mut each) = runtime.block_on(measure(&policy, &asked, &counters));
            row(&format!("{label}, CPU ({goal})"), cpu, reference);
            row(&format!("{label}, wall p50"), percentile(&mut each, 0.5), reference);
            row(&format!("{label}, wall p99"), percentile(&mut each, 0.99), reference);
        }
        let policy = load(name, config, Isolation::Fresh, AHEAD);
        let mut each = runtime.block_on(measure_ready(&policy, &asked, &counters));
        row(&format!("{label}, made ahead, wall p50 (goal 4 us)"), percentile(&mut each, 0.5), reference);
        row(&format!("{label}, made ahead, wall p99"), percentile(&mut each, 0.99), reference);
    }
}

/// Instances in the stock.
const AHEAD: u64 = 16;

/// The wall time of calls that find an instance ready: a quarter of the stock at a time, so that
/// its refilling, on a thread of low priority, does not run meanwhile.
async fn measure_ready(policy: &Policy, asked: &Arc<Request>, counters: &Arc<dyn Counters>) -> Vec<f64> {
    let mut each = Vec::new();
    while each.len() < 4_000 {
        while policy.instances_ready() as u64 <= 3 * AHEAD / 4 {
            std::thread::sleep(Duration::from_micros(100));
            // A stock is topped up when half of it was used; one call more, and it may be due.
            if policy.instances_ready() as u64 <= 3 * AHEAD / 4 {
                _ = policy.evaluate(Arc::clone(asked), Arc::clone(counters), Duration::from_secs(1)).await;
            }
        }
        for _ in 0..AHEAD / 4 {
            let started = Instant::now();
            let evaluation = policy.evaluate(Arc::clone(asked), Arc::clone(counters), Duration::from_secs(1)).await;
            each.push(started.elapsed().as_secs_f64() * 1e6);
            assert_eq!(evaluation.verdict, Ok(Verdict::Allow));
        }
    }
    each
}

/// Microseconds of CPU for a call, and the wall time of each.
async fn measure(policy: &Policy, asked: &Arc<Request>, counters: &Arc<dyn Counters>) -> (f64, Vec<f64>) {
    const CALLS: u32 = 40_000;
    let before = cpu_of(std::process::id());
    let mut each = Vec::new();
    for _ in 0..CALLS {
        let started = Instant::now();
        let evaluation = policy.evaluate(Arc::clone(asked), Arc::clone(counters), Duration::from_secs(1)).await;
        each.push(started.elapsed().as_secs_f64() * 1e6);
        assert_eq!(evaluation.verdict, Ok(Verdict::Allow));
    }
    let cpu = cpu_of(std::process::id()).saturating_sub(before);
    (cpu.as_secs_f64() * 1e6 / f64::from(CALLS), each)
}

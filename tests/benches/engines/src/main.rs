//! What Cedar and Rego cost as sandboxed components, fresh and warm, beside the same engines natively, in one run.
//!
//! Three policies of each: a small one, and the same among so many others that the text has 8 and 50 KB. The native
//! engine has parsed its policies before, as a program of its own would; how long the parsing takes is shown too,
//! because a fresh instance parses for every decision. All are asked the same question, and must allow it.

mod cases;
#[path = "../../measure/mod.rs"]
mod measure;

use cases::Case;
use gavel_runtime::{
    Counters, Isolation, Limits, Policy, PolicySource, Request, Sandbox, SandboxOptions, ToolCall, Verdict,
    WindowedCounters,
};
use measure::{cpu_of, cpu_per_call, percentile, row};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time that one row may take.
const ROW: Duration = Duration::from_secs(2);

fn request() -> Request {
    Request {
        id: "req-000123".into(),
        now_ms: 1_705_320_000_000,
        ts_ms: 1_705_320_000_000,
        actor: "agent-001".into(),
        intent: "Read the quarterly report and summarise it for the board".into(),
        tool_call: Some(ToolCall { name: "read_file".into(), params: r#"{"path":"reports/2025/q1.md"}"#.into() }),
        params: "{}".into(),
        evidence: Vec::new(),
        constraints: None,
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // Parsing 50 KB of policies takes longer than a decision may by default.
    let cache = std::env::temp_dir().join(format!("gavel-engines-bench-{}", std::process::id()));
    let options =
        SandboxOptions { decision_deadline_ms: 2_000, cache_dir: Some(cache.clone()), ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let counters: Arc<dyn Counters> = WindowedCounters::new(1_000).into();
    let asked = Arc::new(request());
    for bytes in [0, 8 << 10, 50 << 10] {
        for case in [cases::cedar(bytes), cases::rego(bytes)] {
            println!("{}, {} bytes of policies", case.engine, case.policy_bytes);
            let reference = natively(&case);
            for isolation in [Isolation::Fresh, Isolation::Warm] {
                let policy = runtime.block_on(sandbox.load(source(&case, isolation))).expect("it loads");
                let (cpu, mut each) = runtime.block_on(sandboxed(&policy, &asked, &counters));
                row(&format!("  component, {isolation:?}, CPU"), cpu, reference);
                row(&format!("  component, {isolation:?}, wall p50"), percentile(&mut each, 0.5), reference);
                row(&format!("  component, {isolation:?}, wall p99"), percentile(&mut each, 0.99), reference);
            }
            println!("  memory that a decision needs: {} KiB", memory_kib(&runtime, &sandbox, &case, &asked));
        }
    }
    std::fs::remove_dir_all(cache).expect("the cache is this program's own");
}

/// Print what the engine takes natively, and return what one evaluation takes.
fn natively(case: &Case) -> f64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 11 to 20,000")]
    let calls = |once: f64| (ROW.as_secs_f64() * 1e6 / once).clamp(11.0, 20_000.0) as u32;
    let evaluate = &case.evaluate;
    let once = cpu_per_call(11, || assert!(evaluate()));
    let evaluation = cpu_per_call(calls(once), || assert!(evaluate()));
    row("  native, evaluation (reference)", evaluation, evaluation);
    let once = cpu_per_call(11, &case.parse);
    row("  native, parsing", cpu_per_call(calls(once), &case.parse), evaluation);
    evaluation
}

fn source(case: &Case, isolation: Isolation) -> PolicySource {
    let limits = Limits { isolation, deadline_ms: 2_000, max_memory_bytes: 64 << 20, ..Limits::default() };
    PolicySource { config: case.config.clone(), limits, ..PolicySource::new(case.engine, case.component.to_vec()) }
}

/// Microseconds of CPU for a call, and the wall time of each, of as many as fit in [`ROW`]. The first is not counted.
async fn sandboxed(policy: &Policy, asked: &Arc<Request>, counters: &Arc<dyn Counters>) -> (f64, Vec<f64>) {
    let call = async || {
        let started = Instant::now();
        let evaluation = policy.evaluate(Arc::clone(asked), Arc::clone(counters), Duration::from_secs(2)).await;
        assert_eq!(evaluation.verdict, Ok(Verdict::Allow));
        started.elapsed()
    };
    call().await;
    let (before, began) = (cpu_of(std::process::id()), Instant::now());
    let mut each = Vec::new();
    while began.elapsed() < ROW {
        each.push(call().await.as_secs_f64() * 1e6);
    }
    let cpu = cpu_of(std::process::id()).saturating_sub(before);
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let calls = each.len() as f64;
    (cpu.as_secs_f64() * 1e6 / calls, each)
}

/// The smallest `max_memory_bytes` under which a decision succeeds, to 64 KiB, in KiB.
fn memory_kib(runtime: &tokio::runtime::Runtime, sandbox: &Sandbox, case: &Case, asked: &Arc<Request>) -> u64 {
    const PAGE: u64 = 64 << 10;
    let counters: Arc<dyn Counters> = WindowedCounters::new(1_000).into();
    let enough = |pages: u64| {
        let mut source = source(case, Isolation::Fresh);
        source.limits.max_memory_bytes = pages * PAGE;
        runtime.block_on(async {
            let Ok(policy) = sandbox.load(source).await else { return false };
            let answer = policy.evaluate(Arc::clone(asked), Arc::clone(&counters), Duration::from_secs(2)).await;
            answer.verdict == Ok(Verdict::Allow)
        })
    };
    let (mut too_few, mut pages) = (0, 1_024);
    while too_few + 1 < pages {
        let between = u64::midpoint(too_few, pages);
        if enough(between) { pages = between } else { too_few = between }
    }
    pages * PAGE / 1_024
}

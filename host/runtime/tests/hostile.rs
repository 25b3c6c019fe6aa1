//! Components that do what no policy should, and what the sandbox makes of it: every one is a
//! denial that names the limit, and the sandbox serves the next decision as if nothing had been.
//!
//! The guest is `tests/guests/hostile`, built by `guest-policies/build`; its configuration says
//! what it does. What no compiler would emit is made from its bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

use gavel_runtime::{
    Counters, Error, Evaluation, FailedClosed, Isolation, Limits, Policy, PolicySet, PolicySource, Request, Sandbox,
    SandboxOptions, ToolCall, Verdict, WindowedCounters,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const HOSTILE: &[u8] = include_bytes!("../../../tests/data/guests/hostile.wasm");

fn sandbox() -> Sandbox {
    Sandbox::new(SandboxOptions { max_instances: 64, decision_deadline_ms: 10_000, ..SandboxOptions::default() })
        .unwrap()
}

/// The default limits, with so much time that only what really hangs meets its deadline, however
/// busy the machine that runs the tests.
fn patient() -> Limits {
    Limits { deadline_ms: 5_000, ..Limits::default() }
}

fn request() -> Arc<Request> {
    Arc::new(Request {
        id: "r-1".into(),
        now_ms: 1_700_000_000_000,
        ts_ms: 5,
        actor: "agent-7".into(),
        intent: "read \"the\" notes\n中😀".into(),
        tool_call: Some(ToolCall { name: "read_file".into(), params: r#"{"path":"a"}"#.into() }),
        params: r#"{"n":123456789012345678901234567890}"#.into(),
        evidence: vec!["e1".into(), String::new()],
        constraints: None,
    })
}

fn counters() -> Arc<dyn Counters> {
    WindowedCounters::new(100).into()
}

async fn load(sandbox: &Sandbox, config: Value, limits: Limits) -> Policy {
    let source = PolicySource { config, limits, ..PolicySource::new("hostile", HOSTILE.to_vec()) };
    sandbox.load(source).await.unwrap()
}

async fn ask(policy: &Policy) -> Evaluation {
    policy.evaluate(request(), counters(), Duration::from_secs(5)).await
}

/// What the guest makes of `config` under `limits`; afterwards an honest one still works.
async fn told_by(config: Value, limits: Limits) -> Evaluation {
    let sandbox = sandbox();
    let evaluation = ask(&load(&sandbox, config, limits).await).await;
    let honest = ask(&load(&sandbox, json!({"do": "allow"}), patient()).await).await;
    assert_eq!(honest.verdict, Ok(Verdict::Allow), "the sandbox goes on");
    evaluation
}

async fn failure(config: Value, limits: Limits) -> String {
    told_by(config, limits).await.verdict.unwrap_err().to_string()
}

#[tokio::test]
async fn the_four_verdicts_arrive_as_given() {
    let verdict = |config| async { told_by(config, patient()).await.verdict };
    assert_eq!(verdict(json!({"do": "allow"})).await, Ok(Verdict::Allow));
    assert_eq!(verdict(json!({"do": "abstain"})).await, Ok(Verdict::Abstain));
    assert_eq!(verdict(json!({"do": "deny", "reason": "no: 中"})).await, Ok(Verdict::Deny("no: 中".into())));
    assert_eq!(verdict(json!({"do": "escalate", "reason": "?"})).await, Ok(Verdict::Escalate("?".into())));
}

#[tokio::test]
async fn every_field_of_a_request_arrives() {
    let Ok(Verdict::Deny(text)) = told_by(json!({"do": "echo"}), patient()).await.verdict else { panic!("no echo") };
    for field in [
        "id=\"r-1\"",
        "now_ms=1700000000000",
        "ts_ms=5",
        "actor=\"agent-7\"",
        "intent=\"read \\\"the\\\" notes\\n中😀\"",
        "tool=\"read_file\"",
        "tool_params=\"{\\\"path\\\":\\\"a\\\"}\"",
        "123456789012345678901234567890",
        "e1",
    ] {
        assert!(text.contains(field), "{field} is not in {text}");
    }
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_deadline() {
    let sandbox = sandbox();
    let policy = load(&sandbox, json!({"do": "loop"}), Limits { deadline_ms: 20, ..patient() }).await;
    let started = Instant::now();
    let evaluation = ask(&policy).await;
    assert_eq!(evaluation.verdict, Err(FailedClosed::Deadline { limit_ms: 20 }));
    assert!(started.elapsed() >= Duration::from_millis(20));
    let text = evaluation.verdict.unwrap_err().to_string();
    assert_eq!(text, "deadline of 20 ms exceeded (deadline_ms)");
}

#[tokio::test]
async fn a_memory_bomb_stops_at_its_cap() {
    let told = failure(json!({"do": "allocate"}), patient()).await;
    assert!(told.starts_with("memory limit of 16777216 bytes reached, "), "{told}");
    assert!(told.ends_with(" bytes asked (max_memory_bytes)"), "{told}");
}

#[tokio::test]
async fn a_stack_overflow_is_told_as_one() {
    assert_eq!(
        failure(json!({"do": "recurse"}), patient()).await,
        "stack overflow, the limit is 524288 bytes (max_stack_bytes)"
    );
    let in_memory = failure(json!({"do": "recurse-in-memory"}), patient()).await;
    assert!(in_memory.starts_with("trap: "), "{in_memory}");
}

#[tokio::test]
async fn a_trap_and_a_panic_deny_and_the_panic_is_quoted() {
    assert!(failure(json!({"do": "trap"}), patient()).await.contains("unreachable"));
    let panicked = told_by(json!({"do": "panic"}), patient()).await;
    assert!(matches!(panicked.verdict, Err(FailedClosed::Trap(_))));
    assert!(panicked.logs.iter().any(|line| line.message.contains("the guest's own words")), "{:?}", panicked.logs);
}

#[tokio::test]
async fn ten_thousand_log_lines_are_capped_and_counted() {
    let limits = Limits { max_log_lines: 7, max_log_line_bytes: 16, ..patient() };
    let flood = told_by(json!({"do": "log", "lines": 10_000}), limits.clone()).await;
    assert_eq!(flood.verdict, Ok(Verdict::Allow));
    assert_eq!((flood.logs.len(), flood.logs_dropped), (7, 9_993));
    let long = told_by(json!({"do": "long-line"}), limits).await;
    assert_eq!(long.verdict, Ok(Verdict::Allow));
    assert_eq!(long.logs[0].message, "x".repeat(16));
}

#[tokio::test]
async fn an_answer_of_a_hundred_megabytes_is_not_copied() {
    let limits = Limits { max_memory_bytes: 200 << 20, ..patient() };
    let told = failure(json!({"do": "answer", "bytes": 100 << 20}), limits).await;
    assert_eq!(told, "output larger than 4096 bytes (max_output_bytes)");
}

#[tokio::test]
async fn an_answer_a_little_too_long_denies_as_well() {
    assert!(told_by(json!({"do": "answer", "bytes": 4_096}), patient()).await.verdict.is_ok());
    let told = failure(json!({"do": "answer", "bytes": 4_097}), patient()).await;
    assert_eq!(told, "output larger than 4096 bytes (max_output_bytes)");
}

#[tokio::test]
async fn answers_that_do_not_decode_deny() {
    for deed in ["lie", "not-utf8"] {
        let told = failure(json!({"do": deed}), patient()).await;
        assert!(told.starts_with("undecodable answer: "), "{deed}: {told}");
    }
}

/// The guest's own table of function pointers is larger than this.
#[tokio::test]
async fn a_table_stops_at_its_cap() {
    let limits = Limits { max_table_elements: 2, ..patient() };
    let source = PolicySource { limits, config: json!({"do": "allow"}), ..PolicySource::new("p", HOSTILE.to_vec()) };
    let told = sandbox().load(source).await.unwrap_err().to_string();
    assert!(told.starts_with("policy p: describe failed: table limit of 2 elements reached, "), "{told}");
}

#[tokio::test]
async fn counters_answer_are_recorded_and_capped() {
    let sandbox = sandbox();
    let config = json!({"do": "count", "key": "k", "amount": 2, "window_ms": 60_000, "max": 3});
    let policy = load(&sandbox, config, patient()).await;
    let shared = counters();
    let ask = || policy.evaluate(request(), Arc::clone(&shared), Duration::from_secs(5));
    let first = ask().await;
    assert_eq!(first.verdict, Ok(Verdict::Allow));
    assert_eq!((first.counters.len(), first.counters[0].answer), (1, 2));
    assert_eq!(ask().await.verdict, Ok(Verdict::Deny("4 is more than 3".into())));
    let none = Limits { max_counter_calls: 0, ..patient() };
    let told = failure(json!({"do": "count", "key": "k", "amount": 2, "window_ms": 60_000, "max": 3}), none).await;
    assert_eq!(told, "more than 0 counter calls (max_counter_calls)");
}

#[tokio::test]
async fn fresh_instances_forget_and_warm_ones_may_not() {
    let sandbox = sandbox();
    let calls = |policy: Policy| async move {
        let mut told = Vec::new();
        for _ in 0..3 {
            let Ok(Verdict::Deny(text)) = ask(&policy).await.verdict else { panic!("no answer") };
            told.push(text);
        }
        told
    };
    let fresh = calls(load(&sandbox, json!({"do": "remember"}), patient()).await).await;
    assert_eq!(fresh, ["call 1 of this instance"; 3]);
    let warm = Limits { isolation: Isolation::Warm, ..patient() };
    let kept = calls(load(&sandbox, json!({"do": "remember"}), warm).await).await;
    assert_eq!(kept, ["call 1 of this instance", "call 2 of this instance", "call 3 of this instance"]);
}

#[tokio::test]
async fn a_warm_instance_that_fails_is_thrown_away() {
    let warm = Limits { isolation: Isolation::Warm, deadline_ms: 5, ..patient() };
    let policy = load(&sandbox(), json!({"do": "loop"}), warm).await;
    for _ in 0..3 {
        assert!(matches!(ask(&policy).await.verdict, Err(FailedClosed::Deadline { .. })));
    }
}

#[tokio::test]
async fn a_set_asks_in_order_and_stops_at_the_first_denial() {
    let sandbox = sandbox();
    let allow = load(&sandbox, json!({"do": "allow"}), patient()).await;
    let deny = load(&sandbox, json!({"do": "deny", "reason": "no"}), patient()).await;
    let judged = PolicySet::new(vec![allow.clone(), deny.clone(), allow.clone()]).judge(request(), counters()).await;
    assert_eq!(judged.evaluations.len(), 2);
    assert_eq!(judged.denial().unwrap().reason, "no");
    let digest = |policies: Vec<Policy>| PolicySet::new(policies).digest().to_string();
    assert_ne!(digest(vec![allow.clone(), deny.clone()]), digest(vec![deny, allow]));
}

#[tokio::test]
async fn the_decisions_deadline_bounds_all_its_policies() {
    let sandbox = Sandbox::new(SandboxOptions { decision_deadline_ms: 30, ..SandboxOptions::default() }).unwrap();
    // Each policy is within its own deadline; together they are not.
    let slow = json!({"do": "spin", "iterations": 4_000_000});
    let limits = Limits { deadline_ms: 30, ..patient() };
    let slow = load(&sandbox, slow, limits).await;
    let judged = PolicySet::new(vec![slow; 40]).judge(request(), counters()).await;
    let denial = judged.denial().expect("40 slow policies do not fit into 30 ms");
    assert!(denial.reason.contains("deadline of 30 ms"), "{}", denial.reason);
}

/// The sandbox is fair: endless loops at the same time do not keep an honest policy from answering.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_do_not_keep_others_from_answering() {
    let sandbox = sandbox();
    let endless = load(&sandbox, json!({"do": "loop"}), Limits { deadline_ms: 50, ..Limits::default() }).await;
    let honest = load(&sandbox, json!({"do": "allow"}), patient()).await;
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let endless = endless.clone();
            tokio::spawn(async move { ask(&endless).await.verdict })
        })
        .collect();
    let mut answered = 0;
    while loops.iter().any(|running| !running.is_finished()) {
        assert_eq!(ask(&honest).await.verdict, Ok(Verdict::Allow));
        answered += 1;
    }
    assert!(answered > 20, "only {answered} honest decisions while four loops ran for 50 ms");
    for ended in loops {
        assert_eq!(ended.await.unwrap(), Err(FailedClosed::Deadline { limit_ms: 50 }));
    }
}

#[tokio::test]
async fn what_is_no_component_of_the_world_is_refused() {
    let sandbox = sandbox();
    let refused = |bytes: Vec<u8>| {
        let sandbox = sandbox.clone();
        async move { sandbox.load(PolicySource::new("p", bytes)).await.unwrap_err() }
    };
    let half = refused(HOSTILE[..HOSTILE.len() / 2].to_vec()).await;
    assert!(matches!(half, Error::NotAComponent { .. }), "{half}");
    assert!(matches!(refused(Vec::new()).await, Error::NotAComponent { bytes: 0, .. }));
    assert!(matches!(refused(b"\0asm\x01\0\0\0".to_vec()).await, Error::NotAComponent { .. }), "a core module");
    let import = refused(renamed(b"gavel:policy/log@0.1.0", b"wasip:clockz/now@0.2.0")).await;
    assert!(
        import
            .to_string()
            .contains("imports wasip:clockz/now@0.2.0, which world gavel:policy/policy@0.1.0 does not offer"),
        "{import}"
    );
    let export = refused(renamed(b"describe", b"descrybe")).await;
    assert!(matches!(export, Error::WrongWorld { .. }), "{export}");
}

/// The hostile guest with one name replaced by another of the same length.
fn renamed(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "a name's length stands before it");
    let mut bytes = HOSTILE.to_vec();
    for at in 0..bytes.len() - from.len() {
        if &bytes[at..at + from.len()] == from {
            bytes[at..at + from.len()].copy_from_slice(to);
        }
    }
    bytes
}

#[tokio::test]
async fn a_configuration_is_checked_when_it_is_loaded() {
    let told = |config: Value| async {
        let source = PolicySource { config, ..PolicySource::new("p", HOSTILE.to_vec()) };
        sandbox().load(source).await.map(drop).unwrap_err().to_string()
    };
    assert_eq!(told(Value::Null).await, "policy p: configuration: null is not of type \"object\"");
    assert_eq!(told(json!(["loop"])).await, "policy p: configuration: [\"loop\"] is not of type \"object\"");
}

#[tokio::test]
async fn limits_out_of_range_are_refused_by_name() {
    let limits = Limits { max_memory_bytes: 1 << 40, ..patient() };
    let source = PolicySource { limits, config: json!({"do": "allow"}), ..PolicySource::new("p", HOSTILE.to_vec()) };
    let told = sandbox().load(source).await.unwrap_err().to_string();
    assert_eq!(told, "policy p: limit max_memory_bytes is 1099511627776, the sandbox allows 1 to 268435456");
}

#[tokio::test]
async fn compiled_components_are_cached_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let sandbox = || {
        Sandbox::new(SandboxOptions {
            cache_dir: Some(cache.clone()),
            decision_deadline_ms: 10_000,
            ..SandboxOptions::default()
        })
        .unwrap()
    };
    let works =
        |sandbox: Sandbox| async move { ask(&load(&sandbox, json!({"do": "allow"}), patient()).await).await.verdict };
    assert_eq!(works(sandbox()).await, Ok(Verdict::Allow));
    let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let compiled = std::fs::read(&file).unwrap();
    assert_eq!(works(sandbox()).await, Ok(Verdict::Allow), "from the cache");
    // A damaged or cut file is not run: it is compiled again and replaced.
    for damaged in [compiled[..compiled.len() / 2].to_vec(), compiled.iter().map(|byte| byte ^ 1).collect()] {
        std::fs::write(&file, damaged).unwrap();
        assert_eq!(works(sandbox()).await, Ok(Verdict::Allow));
        assert_eq!(std::fs::read(&file).unwrap(), compiled);
    }
}

/// Somebody who may write the folder after all cannot make one component run as another, nor lead
/// the host elsewhere.
#[tokio::test]
async fn a_cache_entry_is_good_for_its_own_name_only() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let options = SandboxOptions { cache_dir: Some(cache.clone()), decision_deadline_ms: 10_000, ..Default::default() };
    let entries = || {
        let files = std::fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path());
        files.collect::<std::collections::BTreeSet<_>>()
    };
    let load_it = |bytes: Vec<u8>| {
        let sandbox = Sandbox::new(options.clone()).unwrap();
        async move {
            let source =
                PolicySource { config: json!({"do": "allow"}), limits: patient(), ..PolicySource::new("p", bytes) };
            ask(&sandbox.load(source).await.unwrap()).await.verdict
        }
    };
    assert_eq!(load_it(HOSTILE.to_vec()).await, Ok(Verdict::Allow));
    let honest = entries().first().unwrap().clone();
    let compiled = std::fs::read(&honest).unwrap();
    // The same component but for a word: another digest, hence another entry.
    let other = renamed(b"there is no deed", b"there is no need");
    assert_eq!(load_it(other.clone()).await, Ok(Verdict::Allow));
    let of_other = entries().into_iter().find(|file| *file != honest).unwrap();
    let right = std::fs::read(&of_other).unwrap();
    assert_ne!(right, compiled);
    std::fs::write(&of_other, &compiled).unwrap();
    assert_eq!(load_it(other).await, Ok(Verdict::Allow));
    assert_eq!(std::fs::read(&of_other).unwrap(), right, "compiled anew, and replaced");
    std::fs::set_permissions(&honest, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(load_it(HOSTILE.to_vec()).await, Ok(Verdict::Allow));
    assert_eq!(std::fs::metadata(&honest).unwrap().permissions().mode() & 0o777, 0o600, "replaced by a private one");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&honest, &elsewhere).unwrap();
    symlink(&elsewhere, &honest).unwrap();
    assert_eq!(load_it(HOSTILE.to_vec()).await, Ok(Verdict::Allow));
    assert!(std::fs::symlink_metadata(&honest).unwrap().is_file(), "a link is not followed, but replaced");
}

#[tokio::test]
async fn a_cache_that_others_may_write_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let sandbox = Sandbox::new(SandboxOptions {
        cache_dir: Some(folder.path().to_owned()),
        decision_deadline_ms: 10_000,
        ..SandboxOptions::default()
    })
    .unwrap();
    load(&sandbox, json!({"do": "allow"}), patient()).await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

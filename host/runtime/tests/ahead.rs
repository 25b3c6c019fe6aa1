//! Instances made ahead: each is used once, under the limits of its own call, and what lies ready
//! for one policy takes nothing that another needs.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

mod hostile_guest;

use gavel_runtime::{FailedClosed, Isolation, Limits, Policy, PolicySource, Sandbox, SandboxOptions, Verdict};
use hostile_guest::{HOSTILE, ask, load, options, patient, request, sandbox};
use serde_json::json;
use std::time::{Duration, Instant};

fn ahead(instances_ahead: u64) -> Limits {
    Limits { instances_ahead, ..patient() }
}

/// Wait until at least so many instances lie ready.
async fn until_ready(policy: &Policy, count: usize) {
    let given_up = Instant::now() + Duration::from_secs(30);
    while policy.instances_ready() < count {
        assert!(Instant::now() < given_up, "{} ready, not {count}", policy.instances_ready());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn each_is_used_once_and_replaced() {
    let policy = load(&sandbox(), json!({"do": "remember"}), ahead(4)).await;
    until_ready(&policy, 4).await;
    for round in 0..8 {
        let told = ask(&policy).await.verdict;
        assert_eq!(told, Ok(Verdict::Deny("call 1 of this instance".into())), "round {round}");
        if round == 0 {
            assert_eq!(policy.instances_ready(), 3, "the first was taken from the stock");
        }
    }
    // A stock is filled again when half of it was used: at rest one of four may be missing, never two.
    until_ready(&policy, 3).await;
    assert!(policy.instances_ready() <= 4, "{} ready", policy.instances_ready());
}

#[tokio::test]
async fn its_limits_count_from_its_use() {
    let policy = load(&sandbox(), json!({"do": "loop"}), Limits { deadline_ms: 30, ..ahead(2) }).await;
    until_ready(&policy, 2).await;
    // Longer than the deadline: an instance that waited is as good as a new one.
    tokio::time::sleep(Duration::from_millis(60)).await;
    let started = Instant::now();
    assert_eq!(ask(&policy).await.verdict, Err(FailedClosed::Deadline { limit_ms: 30 }));
    assert!(started.elapsed() >= Duration::from_millis(30), "{:?}", started.elapsed());
    let greedy = load(&sandbox(), json!({"do": "allocate"}), ahead(2)).await;
    until_ready(&greedy, 2).await;
    assert!(matches!(ask(&greedy).await.verdict, Err(FailedClosed::Memory { limit: 16_777_216, .. })));
}

#[tokio::test]
async fn an_empty_stock_delays_nobody() {
    let policy = load(&sandbox(), json!({"do": "allow"}), ahead(2)).await;
    until_ready(&policy, 2).await;
    let asked: Vec<_> = (0..40)
        .map(|_| {
            let policy = policy.clone();
            tokio::spawn(async move { ask(&policy).await.verdict })
        })
        .collect();
    for verdict in asked {
        assert_eq!(verdict.await.unwrap(), Ok(Verdict::Allow));
    }
}

#[tokio::test]
async fn a_stock_leaves_room_for_the_others() {
    let sandbox = Sandbox::new(SandboxOptions { max_instances: 8, ..options() }).unwrap();
    let mut stocked = Vec::new();
    for _ in 0..4 {
        stocked.push(load(&sandbox, json!({"do": "allow"}), ahead(2)).await);
    }
    // Four stocks of two would take all eight slots; no more than half may lie idle.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let ready: usize = stocked.iter().map(Policy::instances_ready).sum();
    assert!(ready <= 4, "{ready} of 8 slots lie ready");
    let endless = load(&sandbox, json!({"do": "loop"}), Limits { deadline_ms: 300, ..patient() }).await;
    let loops: Vec<_> = (0..3)
        .map(|_| {
            let endless = endless.clone();
            tokio::spawn(async move { ask(&endless).await.verdict })
        })
        .collect();
    tokio::task::yield_now().await;
    let honest = load(&sandbox, json!({"do": "allow"}), patient()).await;
    assert_eq!(ask(&honest).await.verdict, Ok(Verdict::Allow));
    for ended in loops {
        assert_eq!(ended.await.unwrap(), Err(FailedClosed::Deadline { limit_ms: 300 }));
    }
}

/// Kept instances hold slots, too: policies that keep more than there are would else be denied.
#[tokio::test]
async fn warm_instances_leave_room_for_the_others() {
    let sandbox = Sandbox::new(SandboxOptions { max_instances: 4, ..options() }).unwrap();
    let warm = Limits { isolation: Isolation::Warm, ..patient() };
    let mut policies = Vec::new();
    for _ in 0..6 {
        let policy = load(&sandbox, json!({"do": "allow"}), warm.clone()).await;
        assert_eq!(ask(&policy).await.verdict, Ok(Verdict::Allow));
        policies.push(policy);
    }
    for policy in &policies {
        assert_eq!(ask(policy).await.verdict, Ok(Verdict::Allow));
    }
}

#[tokio::test]
async fn a_dropped_policy_drops_its_stock() {
    let sandbox = Sandbox::new(SandboxOptions { max_instances: 8, ..options() }).unwrap();
    let first = load(&sandbox, json!({"do": "allow"}), ahead(2)).await;
    let second = load(&sandbox, json!({"do": "allow"}), ahead(2)).await;
    until_ready(&first, 2).await;
    until_ready(&second, 2).await;
    drop((first, second));
    // All four permits for idle instances are back, or these would not be ready.
    let next = [
        load(&sandbox, json!({"do": "allow"}), ahead(2)).await,
        load(&sandbox, json!({"do": "allow"}), ahead(2)).await,
    ];
    until_ready(&next[0], 2).await;
    until_ready(&next[1], 2).await;
}

#[tokio::test]
async fn more_than_a_quarter_of_all_slots_and_warm_ones_are_refused() {
    let told = |limits: Limits| async {
        let source = PolicySource { limits, config: json!({}), ..PolicySource::new("p", HOSTILE.to_vec()) };
        sandbox().load(source).await.map(drop).unwrap_err().to_string()
    };
    assert_eq!(told(ahead(17)).await, "policy p: limit instances_ahead is 17, the sandbox allows 0 to 16");
    assert_eq!(
        told(Limits { isolation: Isolation::Warm, ..ahead(1) }).await,
        "policy p: limit instances_ahead with isolation warm is 1, the sandbox allows 0 to 0"
    );
}

#[tokio::test]
async fn all_slots_taken_is_told_as_such() {
    let sandbox = Sandbox::new(SandboxOptions { max_instances: 1, ..options() }).unwrap();
    let endless = load(&sandbox, json!({"do": "loop"}), Limits { deadline_ms: 2_000, ..patient() }).await;
    let honest = load(&sandbox, json!({"do": "allow"}), Limits { deadline_ms: 50, ..patient() }).await;
    let running = tokio::spawn(async move { ask(&endless).await.verdict });
    tokio::task::yield_now().await;
    let counters = hostile_guest::counters();
    let told = honest.evaluate(request(), counters, Duration::from_secs(5)).await.verdict.unwrap_err().to_string();
    assert_eq!(told, "no instance to be had: all instance slots are taken (max_instances)");
    assert_eq!(running.await.unwrap(), Err(FailedClosed::Deadline { limit_ms: 2_000 }));
    assert_eq!(ask(&honest).await.verdict, Ok(Verdict::Allow));
}

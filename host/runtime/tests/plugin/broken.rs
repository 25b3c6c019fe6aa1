//! Plugins that break: every failure names its limit, ends that instance, and nobody else notices.

use super::given::{Host, answer, described, event, instance, load, patient, sandbox, source};
use gavel_runtime::plugin::{Component, Instance, Limits};
use gavel_runtime::{FailedClosed, Policy, PolicySource, Request, Sandbox, Verdict, WindowedCounters};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const HOSTILE: &[u8] = include_bytes!("../../../../tests/data/guests/hostile.wasm");

/// A policy that allows, in the same sandbox.
async fn policy(sandbox: &Sandbox) -> Policy {
    let limits = gavel_runtime::Limits { deadline_ms: 10_000, ..gavel_runtime::Limits::default() };
    let config = json!({"do": "allow"});
    sandbox.load(PolicySource { config, limits, ..PolicySource::new("h", HOSTILE.to_vec()) }).await.unwrap()
}

async fn verdict(policy: &Policy) -> Result<Verdict, FailedClosed> {
    let request = Request {
        id: "r".into(),
        now_ms: 0,
        ts_ms: 0,
        actor: "a".into(),
        intent: "i".into(),
        tool_call: None,
        params: "{}".into(),
        evidence: Vec::new(),
        constraints: None,
    };
    let counters = WindowedCounters::new(1).into();
    policy.evaluate(Arc::new(request), counters, Duration::from_secs(10)).await.verdict
}

async fn made(component: &Component) -> Instance {
    component.instantiate(Host::new()).await.unwrap()
}

/// What is told of an event that breaks the instance; then the component, another instance of it and the policies are
/// seen to be as they were.
async fn told(deed: &str, data: &str, limits: Limits) -> String {
    let sandbox = sandbox();
    let policy = policy(&sandbox).await;
    let component = load(&sandbox, limits);
    let (mut broken, mut other) = (made(&component).await, made(&component).await);
    assert_eq!(answer(&mut other, "count", "{}").await, Ok(Some("1".into())));
    let why = broken.handle_event(&event(deed, data)).await.unwrap_err();
    assert_eq!(broken.handle_event(&event("return", "{}")).await, Err(FailedClosed::Spent), "{deed}");
    assert_eq!(broken.shutdown().await, Err(FailedClosed::Spent), "{deed}");
    assert_eq!(answer(&mut other, "count", "{}").await, Ok(Some("2".into())), "another has its memory yet");
    assert_eq!(answer(&mut made(&component).await, "count", "{}").await, Ok(Some("1".into())), "the next is new");
    assert_eq!(verdict(&policy).await, Ok(Verdict::Allow));
    why.to_string()
}

#[tokio::test]
async fn traps_and_panics_are_told_with_the_plugins_own_words() {
    assert_eq!(told("trap", "{}", patient()).await, "trap: wasm `unreachable` instruction executed");
    let panicked = told("panic", "{}", patient()).await;
    assert!(panicked.starts_with("trap: wasm `unreachable` instruction executed; the guest said: "), "{panicked}");
    assert!(panicked.ends_with("the plugin's own words"), "{panicked}");
    let deep = told("recurse", "{}", patient()).await;
    assert_eq!(deep, "stack overflow, the limit is 524288 bytes (max_stack_bytes)");
}

#[tokio::test]
async fn an_endless_loop_ends_at_the_deadline() {
    let told = told("loop", "{}", Limits { deadline_ms: 50, ..patient() }).await;
    assert_eq!(told, "deadline of 50 ms exceeded (deadline_ms)");
}

#[tokio::test]
async fn memory_ends_at_its_cap() {
    let bomb = told("allocate", "{}", patient()).await;
    assert!(bomb.starts_with("memory limit of 33554432 bytes reached, "), "{bomb}");
    assert!(bomb.contains(" bytes asked (max_memory_bytes)"), "{bomb}");
}

#[tokio::test]
async fn answers_that_are_too_long_or_no_text_are_not_passed_on() {
    let limits = Limits { max_output_bytes: 1_000, ..patient() };
    let too_long = "output larger than 1000 bytes (max_output_bytes)";
    assert_eq!(told("answer", "1001", limits.clone()).await, too_long);
    assert_eq!(told("refuse-at-length", "1001", limits.clone()).await, too_long);
    let (mut within, _host) = instance(limits.clone()).await;
    assert_eq!(answer(&mut within, "answer", "1000").await.unwrap().unwrap().len(), 1_000);
    let replaced = within.pre_event(&event("replace-with", "1001")).await;
    assert_eq!(replaced, Err(FailedClosed::Output { limit: 1_000 }));
    // More than any answer may be is not even copied out of the plugin's memory.
    assert_eq!(told("answer", "20000000", limits).await, too_long);
    let no_text = told("not-utf8", "{}", patient()).await;
    assert!(no_text.starts_with("undecodable answer: "), "{no_text}");
}

#[tokio::test]
async fn every_way_to_ask_can_break_it() {
    let component = load(&sandbox(), patient());
    let trapped = |why: FailedClosed| why.as_label() == "trap";
    assert!(trapped(made(&component).await.pre_event(&event("trap-before", "{}")).await.unwrap_err()));
    assert!(trapped(made(&component).await.hear_event(&event("trap", "{}")).await.unwrap_err()));
    let started = |word: &'static str| async move {
        let sandbox = sandbox();
        let limits = Limits { deadline_ms: 1, ..patient() };
        let component = sandbox.load_plugin(source(json!({ "do": word }), limits), &described(&sandbox)).unwrap();
        made(&component).await.startup().await.unwrap_err()
    };
    assert!(trapped(started("startup-traps").await));
    assert_eq!(started("startup-loops").await, FailedClosed::Deadline { limit_ms: 2_000 }, "it has 2 s at least");
}

#[tokio::test]
async fn what_a_plugin_has_from_the_start_counts_too() {
    let sandbox = sandbox();
    let small = load(&sandbox, Limits { max_memory_bytes: 1_000, ..patient() });
    let told = small.instantiate(Host::new()).await.unwrap_err().to_string();
    assert!(told.starts_with("memory limit of 1000 bytes reached, "), "{told}");
    let narrow = load(&sandbox, Limits { max_table_elements: 1, ..patient() });
    let told = narrow.instantiate(Host::new()).await.unwrap_err().to_string();
    assert!(told.starts_with("table limit of 1 elements reached, "), "{told}");
}

#[tokio::test]
async fn a_call_that_is_given_up_half_way_ends_the_instance() {
    let component = load(&sandbox(), patient());
    let host = Host::with_calls_of(None);
    let mut waiting = component.instantiate(Arc::clone(&host) as _).await.unwrap();
    let call = event("call", "{}");
    tokio::select! {
        answer = waiting.handle_event(&call) => panic!("its host never answers, and yet: {answer:?}"),
        () = host.called.notified() => {}
    }
    assert_eq!(waiting.handle_event(&event("return", "{}")).await, Err(FailedClosed::Spent));
    drop(waiting);
    assert_eq!(answer(&mut made(&component).await, "count", "{}").await, Ok(Some("1".into())));
}

/// The sandbox has two slots for policies; plugins take none of them.
#[tokio::test]
async fn plugins_that_live_leave_the_policies_their_slots() {
    let sandbox = sandbox();
    let component = load(&sandbox, patient());
    let mut living = Vec::new();
    for _ in 0..8 {
        living.push(made(&component).await);
    }
    assert_eq!(verdict(&policy(&sandbox).await).await, Ok(Verdict::Allow));
    for instance in &mut living {
        assert_eq!(answer(instance, "count", "{}").await, Ok(Some("1".into())));
    }
}

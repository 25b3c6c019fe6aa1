//! World `plugin` with a real component: what an instance is told and answers, what it remembers, what it may ask for.
//!
//! The plugin is `tests/guests/plugin`, built by `guest-policies/build`: it does what an event's name says. What it does
//! that no plugin should is in [`broken`], what is no plugin in [`refused`].

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

mod broken;
mod given;
mod refused;

use gavel_runtime::plugin::{Before, Capabilities, Described, Level, Limits, Refusal};
use gavel_runtime::{FailedClosed, Sandbox, SandboxOptions};
use given::{Host, PLUGIN, answer, described, event, instance, load, patient, sandbox, source};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_plugin_says_what_it_is_and_is_granted_nothing_meanwhile() {
    let described = described(&sandbox());
    let metadata = &described.metadata;
    assert_eq!((metadata.name.as_str(), metadata.version.as_str(), metadata.priority), ("test-plugin", "0.1.0", 7));
    assert_eq!(metadata.author, "FORBIDDEN", "what `bus.emit` told it while it described itself");
    assert_eq!(metadata.config_schema.as_deref(), Some(r#"{"type": ["object", "null"]}"#));
    let list = |item: &str| vec![item.to_owned()];
    let capabilities = Capabilities {
        event_namespaces: list("test"),
        commands: list("extra:command"),
        provides_services: list("testing"),
        subscribes: list("*:heard"),
        before: list("test:*"),
        after: list("test:*"),
        emits: list("other:*"),
        state: list("shared"),
        tools: list("read_file"),
        memory_bytes: 1 << 20,
        deadline_ms: 500,
    };
    assert_eq!(described.capabilities, capabilities);
    let kept: Described = serde_json::from_str(&serde_json::to_string(&described).unwrap()).unwrap();
    assert_eq!(kept, described, "what is kept on disk is the same");
}

#[tokio::test]
async fn an_event_arrives_as_it_is_and_is_answered() {
    let (mut instance, _host) = instance(patient()).await;
    assert_eq!(instance.startup().await, Ok(Ok(())));
    let echoed = answer(&mut instance, "echo", "{\"a\":\n1}").await;
    let all = "e-1\ntest:echo\n{\"a\":\n1}\nclient:unix:1000/17\n1700000000000\nc-1\n中😀";
    assert_eq!(echoed, Ok(Some(all.into())));
    assert_eq!(answer(&mut instance, "return", "{\"a\":1}").await, Ok(Some("{\"a\":1}".into())));
    assert_eq!(answer(&mut instance, "config", "{}").await, Ok(Some("{\"n\":1}".into())));
    assert_eq!(answer(&mut instance, "none", "{}").await, Ok(None));
    assert_eq!(
        answer(&mut instance, "not-json", "{}").await,
        Ok(Some("this is no JSON".into())),
        "the caller reads it"
    );
    let refusal = Refusal { message: "it was told to refuse".into(), code: Some("NO".into()) };
    assert_eq!(answer(&mut instance, "refuse", "{}").await, Err(refusal));
    let unknown = Refusal { message: "there is no deed 'other'".into(), code: None };
    assert_eq!(answer(&mut instance, "other", "{}").await, Err(unknown));
    assert_eq!(instance.shutdown().await, Ok(Ok(())));
}

#[tokio::test]
async fn it_sees_events_before_and_after_and_hears_of_others() {
    let (mut instance, host) = instance(patient()).await;
    let before = |deed: &'static str| event(deed, "{}");
    assert_eq!(instance.pre_event(&before("return")).await, Ok(Before::Pass));
    assert_eq!(instance.pre_event(&before("replace")).await, Ok(Before::Replace("{}".into())));
    assert_eq!(instance.pre_event(&before("cancel")).await, Ok(Before::Cancel("not now".into())));
    assert_eq!(instance.hear_event(&before("news")).await, Ok(Ok(())));
    assert_eq!(instance.post_event(&before("return"), "{\"b\":2}").await, Ok(Ok(())));
    let lines = [(Level::Info, "heard test:news".into()), (Level::Debug, "after test:return: {\"b\":2}".into())];
    assert_eq!(host.take_lines(), lines);
    let unheard = Refusal { message: "it does not want to hear".into(), code: None };
    assert_eq!(instance.hear_event(&before("refuse")).await, Ok(Err(unheard)));
    let unseen = Refusal { message: "it does not want to see".into(), code: Some("BLIND".into()) };
    assert_eq!(instance.post_event(&before("refuse"), "{}").await, Ok(Err(unseen)));
}

#[tokio::test]
async fn what_it_asks_for_reaches_its_host_and_what_is_refused_reaches_it() {
    let (mut instance, host) = instance(patient()).await;
    assert_eq!(answer(&mut instance, "emit", "{\"n\":1}").await, Ok(Some("event-1".into())));
    assert_eq!(answer(&mut instance, "call", "{\"n\":2}").await, Ok(Some("{\"n\":2}".into())));
    let nobody = Refusal { message: "nobody answers that".into(), code: Some("NO_HANDLER".into()) };
    assert_eq!(answer(&mut instance, "call", "deny").await, Err(nobody));
    let denied = Refusal { message: "policy p: no".into(), code: Some("DENIED".into()) };
    assert_eq!(answer(&mut instance, "tool", "{\"path\":\"a\"}").await, Err(denied));
    let asked = [
        "emit other:told {\"n\":1}",
        "call other:asked {\"n\":2}",
        "call other:asked deny",
        "tool read_file {\"path\":\"a\"} to see what is there",
    ];
    assert_eq!(host.take_asked(), asked);
}

#[tokio::test]
async fn its_state_is_the_hosts() {
    let (mut instance, host) = instance(patient()).await;
    assert_eq!(answer(&mut instance, "get", "key").await, Ok(Some("null".into())));
    assert_eq!(answer(&mut instance, "set", "[1]").await, Ok(Some("{}".into())));
    assert_eq!(answer(&mut instance, "get", "key").await, Ok(Some("[1]".into())));
    assert_eq!(answer(&mut instance, "keys", "k*").await, Ok(Some("shared/key".into())));
    assert_eq!(host.take_asked(), ["keys shared k*"]);
    assert_eq!(answer(&mut instance, "delete", "key").await, Ok(Some("true".into())));
    assert_eq!(answer(&mut instance, "delete", "key").await, Ok(Some("false".into())));
}

#[tokio::test]
async fn an_instance_remembers_and_another_knows_nothing_of_it() {
    let component = load(&sandbox(), patient());
    let mut first = component.instantiate(Host::new()).await.unwrap();
    let mut second = component.instantiate(Host::new()).await.unwrap();
    for count in 1..=3 {
        assert_eq!(answer(&mut first, "count", "{}").await, Ok(Some(count.to_string())));
    }
    assert_eq!(answer(&mut second, "count", "{}").await, Ok(Some("1".into())));
    let before = first.memory_bytes();
    assert!(before > 0 && before == second.memory_bytes(), "{before}");
    assert_eq!(answer(&mut first, "hold", "4000000").await, Ok(Some("{}".into())));
    assert!(first.memory_bytes() >= before + 4_000_000, "{} after {before}", first.memory_bytes());
    assert_eq!(second.memory_bytes(), before, "only the first has grown");
}

#[tokio::test]
async fn its_own_reasons_not_to_start_or_end_are_told() {
    let sandbox = sandbox();
    let described = described(&sandbox);
    let load = |word: &str| sandbox.load_plugin(source(json!({ "do": word }), patient()), &described).unwrap();
    let mut unwilling = load("startup-fails").instantiate(Host::new()).await.unwrap();
    assert_eq!(unwilling.startup().await, Ok(Err("it was told not to start".into())));
    let mut restless = load("shutdown-fails").instantiate(Host::new()).await.unwrap();
    assert_eq!(restless.startup().await, Ok(Ok(())));
    assert_eq!(restless.shutdown().await, Ok(Err("it was told not to end".into())));
}

#[tokio::test]
async fn log_lines_are_capped_for_each_call_and_the_rest_is_counted() {
    let limits = Limits { max_log_lines: 7, max_log_line_bytes: 16, ..patient() };
    let (mut instance, host) = instance(limits).await;
    for _ in 0..2 {
        assert_eq!(answer(&mut instance, "log", "10000").await, Ok(Some("{}".into())));
        let lines = host.take_lines();
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[6], (Level::Info, "line 6".into()));
        let dropped = "9993 more lines dropped, the limit is 7 (max_log_lines)";
        assert_eq!(lines[7], (Level::Warn, dropped.into()));
    }
    assert_eq!(answer(&mut instance, "long-line", "1000000").await, Ok(Some("{}".into())));
    assert_eq!(host.take_lines(), [(Level::Warn, "x".repeat(16))]);
}

#[tokio::test]
async fn what_it_hands_over_is_capped_before_its_host_sees_it() {
    let limits = Limits { max_output_bytes: 200, ..patient() };
    let (mut instance, host) = instance(limits).await;
    let long = "x".repeat(195);
    let told = "205 bytes handed over at once, the limit is 200 bytes (max_output_bytes)";
    let refusal = Refusal { message: told.into(), code: Some("TOO_LARGE".into()) };
    assert_eq!(answer(&mut instance, "emit", &long).await, Err(refusal));
    for deed in ["call", "set", "get", "delete", "keys", "tool"] {
        let refusal = answer(&mut instance, deed, &long).await.unwrap_err();
        assert_eq!(refusal.code.as_deref(), Some("TOO_LARGE"), "{deed}: {}", refusal.message);
    }
    assert_eq!(host.take_asked(), [""; 0]);
    assert!(host.state.lock().unwrap().is_empty());
    assert_eq!(answer(&mut instance, "emit", "{}").await, Ok(Some("event-1".into())));
}

#[tokio::test]
async fn time_that_its_host_takes_is_not_its_own() {
    let limits = Limits { deadline_ms: 100, ..patient() };
    let component = load(&sandbox(), limits);
    let slow = Host::with_calls_of(Some(Duration::from_millis(400)));
    let mut patient = component.instantiate(Arc::clone(&slow) as _).await.unwrap();
    assert_eq!(answer(&mut patient, "call", "{}").await, Ok(Some("{}".into())));
    let looping = patient.handle_event(&event("call-and-loop", "{}")).await;
    assert_eq!(looping, Err(FailedClosed::Deadline { limit_ms: 100 }), "what follows the wait is");
}

/// One thread: an endless loop and an honest plugin take turns on it.
#[tokio::test]
async fn a_plugin_that_works_for_long_lets_others_have_turns() {
    let sandbox = sandbox();
    let endless = load(&sandbox, Limits { deadline_ms: 300, ..patient() });
    let mut endless = endless.instantiate(Host::new()).await.unwrap();
    let mut honest = load(&sandbox, patient()).instantiate(Host::new()).await.unwrap();
    let looping = tokio::spawn(async move { endless.handle_event(&event("loop", "{}")).await });
    let mut answered = 0;
    while !looping.is_finished() {
        assert_eq!(answer(&mut honest, "return", "{}").await, Ok(Some("{}".into())));
        answered += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(looping.await.unwrap(), Err(FailedClosed::Deadline { limit_ms: 300 }));
    assert!(answered > 20, "only {answered} answers while a loop ran for 300 ms");
}

#[tokio::test]
async fn compiled_plugins_are_kept_on_disk() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let inodes = || -> Vec<u64> {
        std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().metadata().unwrap().ino()).collect()
    };
    let again =
        || Sandbox::new(SandboxOptions { cache_dir: Some(cache.clone()), ..SandboxOptions::default() }).unwrap();
    let described = described(&again());
    let kept = inodes();
    assert_eq!(kept.len(), 1);
    let component = again().load_plugin(source(Value::Null, patient()), &described).unwrap();
    let mut instance = component.instantiate(Host::new()).await.unwrap();
    assert_eq!(answer(&mut instance, "config", "{}").await, Ok(Some("null".into())));
    assert_eq!(inodes(), kept, "nothing was compiled a second time");
    assert_eq!(component.digest(), format!("sha256:{}", hex::encode(<sha2::Sha256 as sha2::Digest>::digest(PLUGIN))));
}

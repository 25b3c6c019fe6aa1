//! How a plugin lives: nothing of it exists before its first event, and its failures are its own.

use crate::guest::{Deed, Guest};
use crate::stage::{Stage, test_plugin};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn a_plugin_begins_with_its_first_event_and_lives_on() {
    let stage = Stage::new(&json!({}));
    stage.put("test", &test_plugin());
    let (_server, mut client) = stage.serve();
    let told = client.plugin("test-plugin");
    assert_eq!(told["capabilities"]["event_namespaces"], json!(["test"]));
    assert!(told["digest"].as_str().unwrap().starts_with("sha256:"), "{told}");
    let idle = client.status("test-plugin");
    assert_eq!((&idle["state"], &idle["memory_bytes"]), (&json!("idle"), &json!(0)));
    for n in 1..=3 {
        assert_eq!(client.ask("test:count", json!({}))["result"], json!(n), "one instance for all");
    }
    assert_eq!(client.ask("test:return", json!({"x": [1, "ä"]}))["x"], json!([1, "ä"]));
    // What it holds is not known while it is at work, and it sees answers after they were given.
    let ready = client.until("system:plugin_status", &json!({}), |told| {
        told["plugins"]["test-plugin"]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0)
    });
    assert_eq!(ready["plugins"]["test-plugin"]["state"], json!("ready"));
    let (code, error) = client.refused("test:refuse", json!({}));
    assert_eq!((code.as_str(), error.as_str()), ("NO", "it was told to refuse"));
    assert_eq!(client.refused("test:none", json!({})).0, "NO_HANDLER");
    assert_eq!(client.ask("test:count", json!({}))["result"], json!(4), "a refusal is no failure");
}

#[test]
fn what_breaks_is_answered_for_and_made_anew() {
    let stage = Stage::new(&json!({}));
    stage.put("test", &test_plugin());
    stage.put(
        "other",
        &Guest { deed: Deed::Answer(r#"{"well":true}"#), ..Guest::named("other", &["fine"]) }.component(),
    );
    let (_server, mut client) = stage.serve();
    let mut neighbour = stage.client();
    for (deed, why) in [
        ("trap", "unreachable"),
        ("loop", "deadline"),
        ("allocate", "memory"),
        ("recurse", "stack"),
        ("not-json", "is no JSON"),
        ("not-utf8", ""),
    ] {
        client.until_well("test:count", &json!({}));
        let (code, error) = client.refused(&format!("test:{deed}"), json!({}));
        assert_eq!(code, "PLUGIN_FAILED", "{deed}: {error}");
        assert!(error.contains("test-plugin") && error.contains(why), "{deed}: {error}");
        assert_eq!(neighbour.ask("fine:thing", json!({}))["well"], json!(true), "{deed}");
        let again = client.until_well("test:count", &json!({}));
        assert_eq!(again["result"], json!(1), "after {deed} it is another instance");
    }
    let status = client.status("test-plugin");
    assert!(status["restarts"].as_u64().unwrap() >= 6, "{status}");
}

#[test]
fn plugins_that_call_each_other_are_answered() {
    let stage = Stage::new(&json!({"ping": {"grants": {"emits": ["*"]}}, "pong": {"grants": {"emits": ["*"]}}}));
    for (name, spaces, other) in [("ping", ["ping"], "pong:go"), ("pong", ["pong"], "ping:go")] {
        let told = if name == "ping" { "pong:told" } else { "ping:told" };
        let guest = Guest {
            emits: &["*"],
            deed: Deed::Call(other),
            other: Some(("told", Deed::Emit(told))),
            ..Guest::named(name, &spaces)
        };
        stage.put(name, &guest.component());
    }
    let (_server, mut client) = stage.serve();
    let (code, error) = client.refused("ping:go", json!({}));
    assert_eq!(code, "FORBIDDEN");
    assert!(error.contains("in a circle"), "{error}");
    // One tells the other, which tells the first: the chain is cut where it is too deep.
    assert!(client.ask("ping:told", json!({})).get("error").is_none());
    let sum = |told: &Value, what: &str| {
        ["ping", "pong"].map(|name| told["plugins"][name][what].as_u64().unwrap()).iter().sum::<u64>()
    };
    client.until("system:plugin_status", &json!({}), |told| {
        sum(told, "events") >= 2 + 9 && sum(told, "queue_depth") == 0
    });
    let query = json!({"event_patterns": ["*:told"], "limit": 1_000});
    let events = client.ask("system:event_history", query)["events"].as_array().unwrap().clone();
    assert_eq!(events.len(), 9, "the client's, and eight in its chain: {events:?}");
}

#[test]
fn a_host_that_knows_its_plugins_compiles_nothing_to_begin() {
    fn compiled(cache: &Path) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        count(&cache.join("gavel/components"))
    }
    let stage = Stage::new(&json!({}));
    stage.put("test", &test_plugin());
    let serve = |cache: &str| {
        let cache = stage.site.path().join(cache);
        let command = stage.site.command("127.0.0.1:0").env("XDG_CACHE_HOME", &cache);
        (gavel_tests::Server::spawn(command, stage.site.clone()), cache)
    };
    let (server, cache) = serve("first");
    stage.client().plugin("test-plugin");
    assert!(compiled(&cache) > 0, "it was compiled to be asked what it is");
    let _ = server.stop();
    // A cache of compiled components that is new shows what is compiled from here on.
    let (_server, cache) = serve("second");
    let mut client = stage.client();
    assert_eq!(client.plugin("test-plugin")["capabilities"]["commands"], json!(["extra:command"]));
    assert_eq!(compiled(&cache), 0, "nothing was compiled");
    assert_eq!(client.ask("test:count", json!({}))["result"], json!(1));
    assert!(compiled(&cache) > 0, "its first event has come");
}

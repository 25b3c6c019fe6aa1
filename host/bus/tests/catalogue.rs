//! The event catalogue, line by line: what each event answers, to the last key, and with which code it refuses.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

mod served;

use gavel_bus::unix::Mode;
use gavel_bus::*;
use serde_json::{Value, json};
use served::{ask, check, fits, refusal, serve, serve_with, until};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn state() {
    let served = serve(Mode::Compatibility).await;
    let set = json!({ "status": "set" });
    let bad = || refusal("INVALID_PARAMETERS");
    let value = |namespace: &str, value: Value, found: bool| json!({ "namespace": namespace, "key": "k", "value": value, "found": found });
    check(
        &served,
        vec![
            ("state:get", json!({ "key": "k" }), value("global", json!(null), false)),
            ("state:set", json!({ "key": "k", "value": { "a": [1] }, "unknown": true }), set.clone()),
            ("state:get", json!({ "key": "k" }), value("global", json!({ "a": [1] }), true)),
            ("state:get", json!({ "namespace": "other", "key": "k" }), value("other", json!(null), false)),
            ("state:set", json!({ "namespace": "other", "key": "k", "value": null }), set.clone()),
            ("state:get", json!({ "namespace": "other", "key": "k" }), value("other", json!(null), true)),
            ("state:set", json!({ "key": "k" }), bad()),
            ("state:set", json!({ "value": 1 }), bad()),
            ("state:set", json!(["global", "k", 1]), bad()),
            (
                "state:set",
                json!({ "namespace": "plugin/agent_service:agents", "key": "k", "value": 1 }),
                refusal("FORBIDDEN"),
            ),
            ("state:get", json!({ "namespace": "plugin/agent_service:identities", "key": "k" }), refusal("FORBIDDEN")),
            ("state:list", json!({}), json!({ "namespace": "global", "keys": ["k"], "count": 1, "more": false })),
            (
                "state:list",
                json!({ "pattern": "x*" }),
                json!({ "namespace": "global", "keys": [], "count": 0, "more": false }),
            ),
            (
                "state:load",
                json!({}),
                json!({ "status": "loaded", "message": "*", "state_keys": ["k"], "more": false }),
            ),
            ("state:delete", json!({ "key": "k" }), json!({ "status": "deleted" })),
            ("state:delete", json!({ "key": "k" }), json!({ "status": "not_found" })),
            ("state:clear", json!({ "namespace": "other" }), bad()),
            ("state:clear", json!({ "confirm": true }), bad()),
            (
                "state:clear",
                json!({ "namespace": "other", "confirm": true }),
                json!({ "status": "cleared", "cleared": 1 }),
            ),
        ],
    )
    .await;
    let query = Query { limit: 10, patterns: vec![Pattern::parse("state:changed").unwrap()], ..Query::default() };
    let told: Vec<_> = served.bus.history(&query).0.iter().map(|event| event.data.clone()).collect();
    assert_eq!(
        told,
        [
            json!({ "namespace": "global", "key": "k", "value": { "a": [1] }, "change": "set" }),
            json!({ "namespace": "other", "key": "k", "value": null, "change": "set" }),
            json!({ "namespace": "global", "key": "k", "change": "delete" }),
            json!({ "namespace": "global", "key": "k", "change": "delete" }),
            json!({ "namespace": "other", "change": "clear" }),
        ]
    );
}

#[tokio::test]
async fn system() {
    let served = serve(Mode::Compatibility).await;
    let all = |about: Value| {
        let names = ["agent_service", "completion_service", "message_service", "state_service", "system_service"];
        let names = names.into_iter().chain(["unix_transport"]);
        json!(names.map(|name| (name.to_owned(), about.clone())).collect::<serde_json::Map<_, _>>())
    };
    let health =
        |about: Value| json!({ "status": "healthy", "uptime": "*", "version": "1.2.3", "plugins": all(about) });
    let short = json!({ "version": "*", "status": "*", "namespaces": "*" });
    let full = json!({
        "version": "*", "status": "*", "namespaces": "*", "description": "*", "capabilities": "*", "state": "*",
        "priority": 0, "restarts": 0, "p50_ms": "*", "p95_ms": "*", "p99_ms": "*", "errors": 0, "events": "*",
        "digest": "native", "refusals": 0, "turned_away": 0, "queue_depth": "*", "memory_bytes": "*", "last_failure": "",
    });
    let known = json!({ "version": "*", "description": "*", "capabilities": "*" });
    let commands = json!({ "total": 26, "commands": "*" });
    let cleaned = |what: &str| json!({ "status": "cleaned", "cleanup_type": what, "details": "*" });
    let ending = |grace: f64| json!({ "status": "shutting_down", "reason": "", "grace_period": grace });
    check(
        &served,
        vec![
            ("system:health", json!(null), health(short)),
            ("system:plugin_status", json!({}), health(full)),
            ("system:plugins", json!({}), json!({ "plugins": all(known), "broken": {} })),
            ("system:cleanup", json!({}), cleaned("all")),
            ("system:cleanup", json!({ "cleanup_type": "logs" }), cleaned("logs")),
            ("system:cleanup", json!({ "cleanup_type": "disks" }), refusal("INVALID_PARAMETERS")),
            ("system:reload_module", json!({ "plugin": "mine" }), json!({ "status": "reloaded", "module": "mine" })),
            ("system:reload_module", json!({ "plugin": "other" }), json!({ "error": "no folder of 'other'" })),
            ("system:shutdown", json!({}), ending(5.0)),
            ("system:shutdown", json!({ "grace_period": -1 }), ending(0.0)),
            ("system:shutdown", json!({ "reason": "no" }), json!({ "error": "not now" })),
            ("system:commands", json!({}), commands),
            ("system:processes", json!({}), json!({ "total": 0, "processes": [] })),
            ("system:nothing", json!({}), refusal("NO_HANDLER")),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_history_is_filtered() {
    let served = serve(Mode::Compatibility).await;
    for (second, event, client) in [(10, "state:list", "ann"), (20, "agent:list", "bob"), (30, "state:get", "ann")] {
        served.now.store(second * 1_000, Ordering::SeqCst);
        let data = json!({ "key": "k" });
        let draft = Draft { client_id: Some(client.to_owned()), ..Draft::new(event, data) };
        served.bus.dispatch(Sender::Client("unix:7/1".into()), draft).await.unwrap();
    }
    for (asked, names) in [
        (json!({}), json!(["state:get", "agent:list", "state:list"])),
        (json!({ "limit": 1 }), json!(["state:get"])),
        (json!({ "limit": 1, "reverse": false }), json!(["state:list"])),
        (json!({ "event_patterns": ["state:*"] }), json!(["state:get", "state:list"])),
        (json!({ "event_patterns": "*:list", "client_id": "ann" }), json!(["state:list"])),
        (json!({ "client_id": "bob" }), json!(["agent:list"])),
        (json!({ "since": 20 }), json!(["state:get", "agent:list"])),
        (json!({ "since": 10.5, "until": 20 }), json!(["agent:list"])),
    ] {
        // What was asked before is an event too; it came after the three.
        let mut data = asked.clone();
        let until = data.get("until").cloned().unwrap_or(json!(30));
        data["until"] = until;
        served.now.store(40_000, Ordering::SeqCst);
        let answer = ask(&served, "system:event_history", data).await;
        let found: Vec<_> =
            answer["events"].as_array().unwrap().iter().map(|event| event["event_name"].clone()).collect();
        assert_eq!(json!(found), names, "{asked}");
        assert_eq!(answer["count"], found.len());
        let defaults = json!({ "limit": "*", "event_patterns": "*", "client_id": "*", "since": "*", "until": "*", "reverse": "*" });
        assert!(fits(&defaults, &answer["query"]), "{answer}");
        assert!(answer["total_events"].as_u64().unwrap() >= 3);
    }
    let one = ask(&served, "system:event_history", json!({ "limit": 1, "since": 30, "until": 30 })).await;
    let event = json!({
        "timestamp": 30.0, "event_name": "state:get", "data": { "key": "k" }, "client_id": "ann",
        "sender": "client:unix:7/1", "correlation_id": "*", "event_id": "*",
    });
    assert!(fits(&event, &one["events"][0]), "{one}");
    for bad in [json!({ "limit": 10_001 }), json!({ "event_patterns": ["a*b"] }), json!({ "limit": -1 })] {
        let answer = ask(&served, "system:event_history", bad).await;
        assert!(fits(&refusal("INVALID_PARAMETERS"), &answer), "{answer}");
    }
}

#[tokio::test]
async fn completions() {
    let served = serve(Mode::Compatibility).await;
    served.go.add_permits(3);
    let completed = json!({
        "status": "completed", "request_id": "*", "response": "hi", "session_id": "s1", "model": "echo-1",
        "usage": { "total_tokens": 7 }, "duration_ms": "*",
    });
    let ready = |waiting: u64, running: u64, finished: u64| json!({ "status": "ready", "provider": "echo", "running": running, "waiting": waiting, "finished": finished });
    check(
        &served,
        vec![
            ("completion:request", json!({ "prompt": "hi" }), completed),
            (
                "completion:request",
                json!({ "prompt": "fail" }),
                json!({ "error": "as it was told", "code": "OVERLOADED" }),
            ),
            ("completion:request", json!({ "prompt": "panic" }), refusal("PROVIDER_ERROR")),
            ("completion:request", json!({ "prompt": "" }), refusal("INVALID_PARAMETERS")),
            ("completion:status", json!({ "request_id": "req_0" }), refusal("NOT_FOUND")),
            ("completion:cancel", json!({ "request_id": "req_0" }), refusal("NOT_FOUND")),
            ("completion:cancel", json!({}), refusal("INVALID_PARAMETERS")),
            ("completion:status", json!({}), ready(0, 0, 3)),
        ],
    )
    .await;
    // Four run at once; of six, two wait.
    let mut ids = Vec::new();
    for position in [0, 0, 0, 0, 1, 2] {
        let begun = ask(&served, "completion:async", json!({ "prompt": "later" })).await;
        let expected = json!({ "request_id": "*", "status": "processing", "queue_position": position });
        assert!(fits(&expected, &begun), "{begun}");
        ids.push(begun["request_id"].clone());
    }
    let id = |at: usize| json!({ "request_id": ids[at] });
    let status = |at: usize, status: &str, result: Value| json!({ "request_id": ids[at], "status": status, "client_id": "c1", "result": result });
    let ended =
        |at: usize, status: &str, now: bool| json!({ "request_id": ids[at], "status": status, "cancelled": now });
    let cancelled = json!({ "error": "it was cancelled", "code": "CANCELLED" });
    check(
        &served,
        vec![
            ("completion:status", json!({}), ready(2, 4, 3)),
            ("completion:status", id(5), status(5, "processing", json!(null))),
            ("completion:cancel", id(5), ended(5, "cancelled", true)),
            ("completion:cancel", id(5), ended(5, "finished", false)),
            ("completion:status", id(5), status(5, "cancelled", cancelled.clone())),
            ("completion:status", json!({}), ready(1, 4, 4)),
        ],
    )
    .await;
    served.go.add_permits(5);
    until("all have ended", async || ask(&served, "completion:status", json!({})).await["finished"] == 9).await;
    let patterns = ["completion:error", "completion:result", "completion:started"];
    let told = patterns.map(|name| {
        let query = Query { limit: 100, patterns: vec![Pattern::parse(name).unwrap()], ..Query::default() };
        served.bus.history(&query).0
    });
    assert_eq!(
        told.each_ref().map(Vec::len),
        [3, 6, 8],
        "errors, results, and begun; one was cancelled before it began"
    );
    let news = json!({ "request_id": ids[5], "client_id": "c1", "provider": "echo", "result": cancelled });
    assert_eq!(told[0].last().unwrap().data, news);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended_and_nobody_works_on_for_it() {
    let options = Options { event_timeout: Duration::from_millis(300), ..Options::default() };
    let served = serve_with(Mode::Compatibility, options).await;
    let late = ask(&served, "completion:request", json!({ "prompt": "hi" })).await;
    assert!(fits(&refusal("TIMEOUT"), &late) && late["error"].as_str().unwrap().contains("completion:async"), "{late}");
    let none = json!({ "status": "ready", "provider": "echo", "running": 0, "waiting": 0, "finished": 1 });
    assert_eq!(ask(&served, "completion:status", json!({})).await, none);
    let query = Query { limit: 9, patterns: vec![Pattern::parse("completion:error").unwrap()], ..Query::default() };
    assert_eq!(served.bus.history(&query).0[0].data["result"]["code"], "TIMEOUT");
}

#[tokio::test]
async fn messages() {
    let served = serve(Mode::Compatibility).await;
    let stats = |subscriptions: u64, published: u64, delivered: u64| json!({ "agents": 1, "subscriptions": subscriptions, "published": published, "delivered": delivered, "failed": 0 });
    let subscribed = |wanted: Value, all: Value| {
        let subscription = json!({ "agent_id": "bob", "event_types": all, "subscribed_to": wanted, "all_subscriptions": all, "status": "active" });
        json!({ "status": "subscribed", "subscription": subscription, "message_bus": stats(all.as_array().unwrap().len() as u64, 0, 0) })
    };
    let published = |event: &str, to: Value, count: u64, sums: (u64, u64)| {
        json!({
            "status": "published", "event": event, "delivered": to, "queued": to, "failed": [], "total_recipients": count,
            "message_bus_stats": stats(2, sums.0, sums.1),
        })
    };
    let bob = json!(["bob"]);
    check(
        &served,
        vec![
            (
                "message:subscribe",
                json!({ "agent_id": "bob", "event_types": ["a"] }),
                subscribed(json!(["a"]), json!(["a"])),
            ),
            (
                "message:subscribe",
                json!({ "agent_id": "bob", "topic": "t:*" }),
                subscribed(json!(["t:*"]), json!(["a", "t:*"])),
            ),
            ("message:subscribe", json!({ "agent_id": "bob" }), refusal("INVALID_PARAMETERS")),
            ("message:subscribe", json!({ "agent_id": "bob", "topics": ["a*b"] }), refusal("INVALID_PARAMETERS")),
            ("message:subscriptions", json!({}), json!({ "subscriptions": { "bob": ["a", "t:*"] } })),
            (
                "message:publish",
                json!({ "agent_id": "ann", "event_type": "a", "message": 1 }),
                published("a", bob.clone(), 1, (1, 1)),
            ),
            (
                "message:publish",
                json!({ "from_agent": "ann", "topics": ["t:x", "a"], "payload": {} }),
                published("t:x,a", bob.clone(), 1, (2, 2)),
            ),
            ("message:publish", json!({ "agent_id": "bob", "topic": "a" }), published("a", json!([]), 0, (3, 2))),
            (
                "message:publish",
                json!({ "agent_id": "ann", "event_type": "DIRECT_MESSAGE", "message": { "to": "eve" } }),
                published("DIRECT_MESSAGE", json!(["eve"]), 1, (4, 3)),
            ),
            (
                "message:publish",
                json!({ "agent_id": "ann", "event_type": "DIRECT_MESSAGE", "message": {} }),
                refusal("INVALID_PARAMETERS"),
            ),
            ("message:publish", json!({ "agent_id": "ann" }), refusal("INVALID_PARAMETERS")),
            ("message:stats", json!({}), json!({ "message_bus": stats(2, 4, 3) })),
            (
                "message:unsubscribe",
                json!({ "agent_id": "bob", "event_types": "a" }),
                json!({ "status": "unsubscribed", "agent_id": "bob", "removed": 1 }),
            ),
            (
                "message:unsubscribe",
                json!({ "agent_id": "bob" }),
                json!({ "status": "unsubscribed", "agent_id": "bob", "removed": 1 }),
            ),
            ("message:subscriptions", json!({}), json!({ "subscriptions": {} })),
        ],
    )
    .await;
}

#[tokio::test]
async fn transport() {
    let served = serve(Mode::Hybrid).await;
    let mut ann = served.client("agents").await;
    ann.say(r#"{"event":"transport:connection","data":{"action":"connect","agent_id":"ann"},"correlation_id":"c"}"#)
        .await;
    assert_eq!(
        ann.hear().await,
        json!({ "status": "connected", "agent_id": "ann", "action": "connect", "correlation_id": "c" })
    );
    let status = json!({
        "sockets": "*", "mode": "hybrid", "connected": ["ann"], "waiting": { "bob": 1 }, "dropped": 0, "legacy_uses": [],
        "connections": 1, "undelivered": 1, "bus": "*",
    });
    check(
        &served,
        vec![
            (
                "transport:send",
                json!({ "to": "ann", "type": "T", "from": "the pope", "message": { "id": "mine", "a": 1 } }),
                json!({ "to": "ann", "status": "delivered" }),
            ),
            ("transport:send", json!({ "to": "bob", "message": "hi" }), json!({ "to": "bob", "status": "queued" })),
            ("transport:send", json!({ "message": "hi" }), refusal("INVALID_PARAMETERS")),
            (
                "transport:broadcast",
                json!({ "message": "all" }),
                json!({ "status": "sent", "count": 1, "to": ["ann"] }),
            ),
            ("transport:connection", json!({ "action": "dance", "agent_id": "ann" }), refusal("INVALID_PARAMETERS")),
            ("transport:connection", json!({}), refusal("INVALID_PARAMETERS")),
            ("transport:status", json!({}), status),
        ],
    )
    .await;
    let me = "client:unix:7/1";
    let at = "1970-01-01T12:30:00Z";
    let push = json!({ "id": "*", "type": "T", "from": me, "sender": me, "timestamp": at, "a": 1 });
    let pushed = ann.hear().await;
    assert!(fits(&push, &pushed) && pushed["id"] != "mine", "{pushed}");
    let push = json!({ "id": "*", "type": "BROADCAST", "from": me, "sender": me, "timestamp": at, "message": "all" });
    let pushed = ann.hear().await;
    assert!(fits(&push, &pushed), "{pushed}");
}

/// All that services and sockets answer.
fn owned() -> BTreeSet<&'static str> {
    let services = services::EVENTS.iter().flat_map(|(_, events)| events.iter());
    services.chain(&unix::EVENTS).copied().collect()
}

#[tokio::test]
async fn every_event_of_the_lists_has_its_owner() {
    let served = serve(Mode::Compatibility).await;
    for (service, events) in services::EVENTS.into_iter().chain([("unix_transport", &unix::EVENTS[..])]) {
        for event in events {
            assert_eq!(served.bus.owner(event).as_deref(), Some(service), "{event}");
            // Asked with what no event takes, each says so; none says that it does not know the event.
            let answer = ask(&served, event, json!([])).await;
            assert_ne!(answer["code"], "NO_HANDLER", "{event}");
        }
    }
    assert!(services::NEWS.iter().all(|news| !owned().contains(news)));
}

#[test]
fn the_document_lists_every_event_and_no_other() {
    let document = include_str!("../../../docs/events.md");
    // A row of a table of events begins with the event.
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name));
    let listed: BTreeSet<&str> = rows.filter(|name| name.contains(':')).collect();
    let known: BTreeSet<&str> = owned().into_iter().chain(services::NEWS).collect();
    assert_eq!(listed, known);
}

#[tokio::test]
async fn nobody_else_tells_what_a_service_did() {
    let served = serve(Mode::Compatibility).await;
    for name in gavel_bus::services::NEWS {
        for sender in [Sender::Client("unix:7/1".into()), Sender::Peer("far".into()), Sender::Plugin("eve".into())] {
            let forged = Draft::new(name, json!({ "request_id": "r", "result": { "response": "lies" } }));
            let why = served.bus.emit(sender.clone(), forged.clone()).await.unwrap_err();
            assert_eq!(why.code(), Some("FORBIDDEN"), "{name} of {sender}: {why}");
            assert!(why.to_string().ends_with("only the host's services say that"), "{why}");
            assert!(served.bus.dispatch(sender, forged).await.is_err());
        }
    }
    assert_eq!(served.bus.events_total(), 0, "nobody heard of it");
}

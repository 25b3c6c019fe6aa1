//! The older daemon's commands, line by line: what each answers, to the last key, and with which code it refuses.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

mod served;

use gavel_bus::unix::Mode;
use serde_json::{Value, json};
use served::{Client, Served, fits, serve};

const AT: &str = "1970-01-01T12:30:00Z";

/// One command on a connection of its own, which the server closes.
async fn command(served: &Served, command: &str, parameters: Value) -> Value {
    let mut client = served.client("admin").await;
    let frame = json!({
        "command": command, "version": "2.0", "parameters": parameters, "metadata": { "any": 1 }, "unknown": true,
    });
    client.say(&frame.to_string()).await;
    let reply = client.hear().await;
    assert_eq!(client.rest().await, "", "{command}: the server closes after one reply");
    reply
}

/// What a row expects.
enum Told {
    Result(Value),
    Code(&'static str),
}
use Told::{Code, Result};

async fn told(served: &Served, rows: Vec<(&str, Value, Told)>) {
    for (name, parameters, told) in rows {
        let reply = command(served, name, parameters.clone()).await;
        let metadata = json!({ "timestamp": AT });
        let expected = match told {
            Result(result) => json!({ "status": "success", "command": name, "metadata": metadata, "result": result }),
            Code(code) => json!({
                "status": "error", "command": name, "metadata": metadata, "result": null,
                "error": { "code": code, "message": "*", "timestamp": AT, "details": "*" },
            }),
        };
        assert!(fits(&expected, &reply), "{name} {parameters}\n     gave {reply}\n expected {expected}");
    }
}

async fn connected(served: &Served, agent: &str) -> Client {
    let mut client = served.client("messaging").await;
    client
        .say(
            &json!({ "command": "AGENT_CONNECTION", "parameters": { "action": "connect", "agent_id": agent } })
                .to_string(),
        )
        .await;
    let reply = client.hear().await;
    let result = json!({ "status": "connected", "agent_id": agent, "action": "connect" });
    let expected = json!({ "status": "success", "command": "AGENT_CONNECTION", "metadata": { "timestamp": AT }, "result": result });
    assert_eq!(reply, expected);
    client
}

#[tokio::test]
async fn of_the_system() {
    let served = serve(Mode::Compatibility).await;
    told(
        &served,
        vec![
            ("HEALTH_CHECK", json!({}), Result(json!({ "status": "healthy", "uptime": "*", "managers": "*" }))),
            (
                "CLEANUP",
                json!({ "cleanup_type": "all" }),
                Result(json!({ "status": "cleaned", "cleanup_type": "all", "details": "*" })),
            ),
            ("CLEANUP", json!({ "cleanup_type": "disks" }), Code("INVALID_PARAMETERS")),
            (
                "RELOAD_MODULE",
                json!({ "module_name": "mine" }),
                Result(json!({ "status": "reloaded", "module": "mine" })),
            ),
            ("RELOAD_MODULE", json!({}), Code("INVALID_PARAMETERS")),
            ("SHUTDOWN", json!({}), Result(json!({ "status": "shutting_down", "reason": "", "grace_period": 5.0 }))),
            ("GET_COMMANDS", json!({}), Result(json!({ "total": 26, "commands": "*" }))),
            ("HELP", json!({}), Result(json!({ "total": 26, "commands": "*" }))),
            ("GET_PROCESSES", json!({}), Result(json!({ "total": 0, "processes": [] }))),
            ("MESSAGE_BUS_STATS", json!({}), Result(json!({ "message_bus": "*" }))),
            ("NOTHING", json!({}), Code("UNKNOWN_COMMAND")),
            ("HEALTH_CHECK", json!([]), Code("INVALID_PARAMETERS")),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_agents_and_their_values() {
    let served = serve(Mode::Compatibility).await;
    let ann = json!({ "role": "hand", "status": "active", "capabilities": ["dig"] });
    let routed = json!({
        "routing": {
            "status": "routed", "agent_id": "ann", "agent_info": ann, "score": 1,
            "assigned_agent": { "id": "ann", "role": "hand", "capabilities": ["dig"], "match_score": 1, "status": "active" },
        },
        "task": { "description": "hole", "context": "deep", "required_capabilities": ["dig"] },
        "delivery": { "status": "direct", "message": "queued" },
    });
    let nobody = |status: &str| json!({ "status": status, "reason": "*", "task": "t", "required_capabilities": ["fly"], "suitable_agents": "*", "agents": 1 });
    let agent = json!({
        "id": "w", "role": "worker", "status": "active", "capabilities": ["dig"], "profile": "worker", "process_id": "*", "task": "dig",
    });
    let spawned = json!({ "agent_id": "w", "status": "spawned", "process_id": "*", "agent": agent, "selection": { "profile": "worker", "by": "name" } });
    let kv = |value: Value, found: bool| json!({ "key": "k", "value": value, "found": found });
    let at = |value: Value| json!({ "agent_id": "ann", "key": "k", "value": value });
    told(
        &served,
        vec![
            ("GET_AGENTS", json!({}), Result(json!({ "agents": {} }))),
            (
                "REGISTER_AGENT",
                json!({ "agent_id": "ann", "role": "hand", "capabilities": ["dig"] }),
                Result(json!({ "status": "registered", "agent_id": "ann", "role": "hand", "capabilities": ["dig"] })),
            ),
            ("REGISTER_AGENT", json!({}), Code("INVALID_PARAMETERS")),
            ("GET_AGENTS", json!({}), Result(json!({ "agents": { "ann": ann } }))),
            (
                "ROUTE_TASK",
                json!({ "task": "hole", "context": "deep", "required_capabilities": ["dig"] }),
                Result(routed),
            ),
            (
                "ROUTE_TASK",
                json!({ "task": "t", "required_capabilities": ["fly"] }),
                Result(nobody("no_suitable_agent")),
            ),
            ("ROUTE_TASK", json!({}), Code("INVALID_PARAMETERS")),
            ("SPAWN_AGENT", json!({ "profile_name": "worker", "task": "dig", "agent_id": "w" }), Result(spawned)),
            ("SPAWN_AGENT", json!({ "profile_name": "king", "task": "rule" }), Code("SPAWN_FAILED")),
            ("SPAWN_AGENT", json!({ "task": "rule" }), Code("INVALID_PARAMETERS")),
            ("GET_AGENT_KV", json!({ "agent_id": "ann", "key": "k" }), Result(kv(json!(null), false))),
            ("SET_AGENT_KV", at(json!({ "a": 1 })), Result(json!({ "key": "k", "status": "set" }))),
            ("GET_AGENT_KV", json!({ "agent_id": "ann", "key": "k" }), Result(kv(json!({ "a": 1 }), true))),
            ("SET_AGENT_KV", at(json!(null)), Result(json!({ "key": "k", "status": "set" }))),
            ("GET_AGENT_KV", json!({ "agent_id": "ann", "key": "k" }), Result(kv(json!(null), true))),
            ("GET_AGENT_KV", json!({ "agent_id": "bob", "key": "k" }), Result(kv(json!(null), false))),
            ("SET_AGENT_KV", json!({ "agent_id": "ann", "key": "k" }), Code("INVALID_PARAMETERS")),
            (
                "LOAD_STATE",
                json!({}),
                Result(json!({ "status": "loaded", "message": "*", "state_keys": [], "more": false })),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_identities() {
    let served = serve(Mode::Compatibility).await;
    let ann = json!({ "agent_id": "ann", "role": "hand", "created_at": AT });
    let mut boss = ann.clone();
    boss["role"] = json!("boss");
    boss["updated_at"] = json!(AT);
    let changes = json!({ "role": { "before": "hand", "after": "boss" } });
    let id = || json!({ "agent_id": "ann" });
    told(
        &served,
        vec![
            (
                "CREATE_IDENTITY",
                json!({ "agent_id": "ann", "role": "hand" }),
                Result(json!({ "status": "created", "created": true, "identity": ann })),
            ),
            ("CREATE_IDENTITY", id(), Code("IDENTITY_EXISTS")),
            ("CREATE_IDENTITY", json!({}), Code("INVALID_PARAMETERS")),
            (
                "UPDATE_IDENTITY",
                json!({ "agent_id": "ann", "updates": { "role": "boss" } }),
                Result(json!({ "status": "updated", "updated": true, "changes": changes, "identity": boss })),
            ),
            ("GET_IDENTITY", id(), Result(json!({ "identity": boss }))),
            ("LIST_IDENTITIES", json!({}), Result(json!({ "items": [boss], "total": 1, "metadata": "*" }))),
            (
                "REMOVE_IDENTITY",
                id(),
                Result(json!({ "status": "removed", "agent_id": "ann", "deleted": true, "identity": boss })),
            ),
            ("GET_IDENTITY", id(), Code("IDENTITY_NOT_FOUND")),
            ("UPDATE_IDENTITY", id(), Code("IDENTITY_NOT_FOUND")),
            ("REMOVE_IDENTITY", id(), Code("IDENTITY_NOT_FOUND")),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_messages() {
    let served = serve(Mode::Compatibility).await;
    for agent in ["ann", "bob"] {
        command(&served, "REGISTER_AGENT", json!({ "agent_id": agent, "role": "r" })).await;
    }
    let mut bob = connected(&served, "bob").await;
    let stats = |published: u64| json!({ "agents": 1, "subscriptions": 1, "published": published, "delivered": published, "failed": 0 });
    let delivery = json!({ "status": "published", "delivered": ["bob"], "queued": [], "failed": [], "total": 1 });
    let published = json!({
        "status": "published", "event": { "type": "news", "from": "ann", "payload_size": 10 }, "delivery": delivery,
        "message_bus_stats": stats(1), "delivered": ["bob"], "queued": [], "failed": [], "total_recipients": 1,
    });
    let subscription = json!({ "agent_id": "bob", "event_types": ["news"], "subscribed_to": ["news"], "all_subscriptions": ["news"], "status": "active" });
    let sent = |delivery: Value| {
        let mut sent = json!({ "from": "ann" });
        sent.as_object_mut().unwrap().extend(delivery.as_object().unwrap().clone());
        sent
    };
    told(
        &served,
        vec![
            ("SUBSCRIBE", json!({ "agent_id": "ann", "event_types": ["news"] }), Code("AGENT_NOT_CONNECTED")),
            ("SUBSCRIBE", json!({ "agent_id": "bob", "event_types": ["news"] }), Result(json!({ "status": "subscribed", "subscription": subscription, "message_bus": stats(0) }))),
            ("PUBLISH", json!({ "from_agent": "ann", "event_type": "news", "payload": { "text": 1 } }), Result(published)),
            ("PUBLISH", json!({ "from_agent": "ann" }), Code("INVALID_PARAMETERS")),
            ("SEND_MESSAGE", json!({ "from_agent": "ann", "to_agent": "bob", "content": "hi", "metadata": { "p": 1 } }), Result(sent(json!({ "status": "delivered", "delivery": "direct", "to": "bob", "type": "MESSAGE" })))),
            ("SEND_MESSAGE", json!({ "from_agent": "ann", "event_types": ["news"], "content": "hot" }), Result(sent(json!({ "status": "published", "delivery": "event_bus", "event_types": ["news"], "total_delivered": 1, "details": "*" })))),
            ("SEND_MESSAGE", json!({ "from_agent": "ann", "content": "all" }), Result(sent(json!({ "status": "sent", "delivery": "broadcast", "type": "MESSAGE", "count": 1, "to": ["bob"], "failed": [] })))),
            ("SEND_MESSAGE", json!({ "from_agent": "eve", "content": "all" }), Code("SENDER_NOT_FOUND")),
            ("SEND_MESSAGE", json!({ "from_agent": "ann", "to_agent": "eve", "content": "x" }), Code("RECIPIENT_NOT_FOUND")),
        ],
    )
    .await;
    for expected in [
        json!({ "type": "news", "text": 1 }),
        json!({ "type": "MESSAGE", "content": "hi", "p": 1 }),
        json!({ "type": "news", "content": "hot" }),
        json!({ "type": "MESSAGE", "content": "all" }),
    ] {
        let mut whole = json!({ "id": "*", "from": "ann", "sender": "*", "timestamp": AT });
        whole.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        let pushed = bob.hear().await;
        assert!(fits(&whole, &pushed), "{pushed}");
        assert!(pushed["sender"].as_str().unwrap().starts_with("client:unix:"), "{pushed}");
    }
    told(
        &served,
        vec![
            (
                "AGENT_CONNECTION",
                json!({ "agent_id": "bob", "action": "disconnect" }),
                Result(json!({ "status": "disconnected", "agent_id": "bob", "action": "disconnect" })),
            ),
            ("AGENT_CONNECTION", json!({ "agent_id": "bob", "action": "dance" }), Code("INVALID_PARAMETERS")),
            ("SUBSCRIBE", json!({ "agent_id": "bob", "event_types": ["news"] }), Code("AGENT_NOT_CONNECTED")),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_completions_and_events() {
    let served = serve(Mode::Compatibility).await;
    let mut ann = connected(&served, "ann").await;
    let processing =
        |position: u64| Result(json!({ "request_id": "*", "status": "processing", "queue_position": position }));
    told(
        &served,
        vec![
            ("COMPLETION", json!({ "prompt": "hi", "client_id": "ann" }), processing(0)),
            ("COMPLETION", json!({}), Code("INVALID_PARAMETERS")),
        ],
    )
    .await;
    served.go.add_permits(1);
    let result = json!({ "response": "hi", "session_id": "s1", "model": "echo-1", "usage": { "total_tokens": 7 }, "duration_ms": "*" });
    let push = json!({
        "id": "*", "type": "COMPLETION_RESULT", "from": null, "timestamp": AT, "request_id": "*", "client_id": "ann",
        "to": "ann", "result": result,
    });
    let pushed = ann.hear().await;
    assert!(fits(&push, &pushed), "{pushed}");
    // One that is cancelled is told too.
    let begun = command(&served, "COMPLETION", json!({ "prompt": "hi", "client_id": "ann" })).await;
    let cancel = json!({ "event": "completion:cancel", "data": { "request_id": begun["result"]["request_id"] } });
    let ended = command(&served, "EVENT", cancel).await;
    assert!(
        fits(
            &json!({ "status": "success", "id": "*", "result": { "request_id": "*", "status": "cancelled", "cancelled": true } }),
            &ended
        ),
        "{ended}"
    );
    assert_eq!(ann.hear().await["result"], json!({ "error": "it was cancelled", "code": "CANCELLED" }));
    let listed = command(&served, "EVENT", json!({ "event": "state:list", "data": {}, "correlation_id": "c" })).await;
    assert_eq!(
        listed,
        json!({ "status": "success", "id": "c", "result": { "namespace": "global", "keys": [], "count": 0, "more": false } })
    );
    let none = command(&served, "EVENT", json!({ "event": "no:body", "correlation_id": "c" })).await;
    assert!(
        fits(
            &json!({ "status": "error", "id": "c", "result": null, "error": { "error": "*", "code": "NO_HANDLER" } }),
            &none
        ),
        "{none}"
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_in_its_own_kind() {
    let served = serve(Mode::Compatibility).await;
    let event = json!({ "error": "*", "code": "INVALID_JSON" });
    let older = json!({ "status": "error", "error": { "code": "INVALID_JSON", "message": "*" } });
    for (socket, line, expected) in [
        ("events", "{", &event),
        ("control", "{", &older),
        ("state", r#"{"event": "#, &event),
        ("events", r#"{"command": "#, &older),
    ] {
        let mut client = served.client(socket).await;
        client.say(line).await;
        let answer = client.hear().await;
        assert!(fits(expected, &answer), "{socket} {line}: {answer}");
        assert!(answer.to_string().contains("Invalid JSON: "), "{answer}");
    }
    for (frame, code) in [(json!({ "command": 7 }), "INVALID_COMMAND"), (json!({ "command": "" }), "INVALID_COMMAND")] {
        let mut client = served.client("daemon").await;
        client.say(&frame.to_string()).await;
        let answer = client.hear().await;
        assert_eq!((&answer["command"], &answer["error"]["code"]), (&json!(""), &json!(code)));
    }
}

#[tokio::test]
async fn switched_off_each_names_the_event_to_use_instead() {
    let served = serve(Mode::Pure).await;
    let table = include_str!("../../../docs/events.md");
    let rows = table.lines().filter_map(|line| {
        let (command, rest) = line.strip_prefix("| `")?.split_once("` | `")?;
        let event = rest.split_once('`')?.0;
        (!command.contains(':')).then_some((command, event))
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 25, "every command but EVENT");
    for (name, event) in rows {
        let parameters = json!({
            "agent_id": "a", "key": "k", "value": 1, "task": "t", "prompt": "p", "event_type": "e", "action": "connect",
            "module_name": "m",
        });
        let refused = command(&served, name, parameters).await;
        assert_eq!(refused["error"]["code"], "LEGACY_DISABLED", "{name}");
        assert_eq!(refused["error"]["details"]["event"], event, "{name}");
    }
}

#[tokio::test]
async fn the_event_that_is_named_instead_of_a_command_connects_an_agent() {
    let served = serve(Mode::Pure).await;
    let refused = command(&served, "AGENT_CONNECTION", json!({})).await;
    assert_eq!(refused["error"]["code"], "LEGACY_DISABLED", "whatever else is wrong with it");
    let mut ann = served.client("events").await;
    let connect = json!({ "event": "agent:connection", "data": { "agent_id": "ann", "action": "connect" } });
    ann.say(&connect.to_string()).await;
    assert_eq!(ann.hear().await["status"], "connected");
    let sent = served::ask(&served, "transport:send", json!({ "to": "ann", "message": { "text": "hi" } })).await;
    assert_eq!(sent["status"], "delivered");
    assert_eq!(ann.hear().await["text"], "hi");
    ann.say(&json!({ "event": "no:body" }).to_string()).await;
    let none = ann.hear().await;
    assert_eq!((&none["code"], none["correlation_id"].is_string()), (&json!("NO_HANDLER"), true), "{none}");
}

#[tokio::test]
async fn only_an_agents_connection_stays_open_after_a_command() {
    let served = serve(Mode::Compatibility).await;
    let mut ann = connected(&served, "ann").await;
    for frame in [r#"{"command":"HEALTH_CHECK"}"#, r#"{"command":"NOTHING"}"#, r#"{"command": "#] {
        ann.say(frame).await;
        assert!(ann.hear().await["status"].is_string(), "{frame}");
    }
    served::ask(&served, "transport:send", json!({ "to": "ann", "message": { "text": "hi" } })).await;
    assert_eq!(ann.hear().await["text"], "hi");
    let mut other = served.client("control").await;
    other.say(r#"{"command": "#).await;
    assert_eq!(other.hear().await["error"]["code"], "INVALID_JSON");
    assert_eq!(other.rest().await, "");
    let wrapped = command(&served, "EVENT", json!({ "event": "no:body" })).await;
    assert!(wrapped["id"].is_string(), "{wrapped}");
}

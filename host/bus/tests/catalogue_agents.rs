//! The event catalogue's agents, line by line: who is there, who gets a task, who is spawned, and what is known of them.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

mod served;

use gavel_bus::unix::Mode;
use gavel_bus::{Pattern, Query};
use serde_json::{Value, json};
use served::{ask, check, refusal, serve, until};

#[tokio::test]
async fn agents() {
    let served = serve(Mode::Compatibility).await;
    let digger = |role: &str| json!({ "role": role, "status": "active", "capabilities": ["dig", "haul"] });
    let nobody = |status: &str, suitable: Value, agents: usize| {
        json!({
            "status": status, "reason": "*", "task": "hole", "required_capabilities": "*",
            "suitable_agents": suitable, "agents": agents,
        })
    };
    let routed = |id: &str, info: Value, score: u64| {
        json!({
            "status": "routed", "agent_id": id, "agent_info": info, "score": score, "task": "hole", "context": "*",
            "required_capabilities": "*", "delivery": "direct", "delivery_status": "queued",
        })
    };
    let dig = json!({ "task": "hole", "required_capabilities": ["dig"] });
    let registered = |id: &str, role: &str| json!({ "status": "registered", "agent_id": id, "role": role, "capabilities": ["dig", "haul"] });
    let register = |id: &str, role: &str| json!({ "agent_id": id, "role": role, "capabilities": ["dig", "haul"] });
    check(
        &served,
        vec![
            ("agent:route_task", dig.clone(), nobody("no_suitable_agent", json!([]), 0)),
            ("agent:register", register("bob", "boss"), registered("bob", "boss")),
            ("agent:register", register("ann", "hand"), registered("ann", "hand")),
            ("agent:register", json!({ "agent_id": "" }), refusal("INVALID_PARAMETERS")),
            ("agent:register", json!({}), refusal("INVALID_PARAMETERS")),
            (
                "agent:list",
                json!({}),
                json!({ "count": 2, "agents": { "ann": digger("hand"), "bob": digger("boss") } }),
            ),
            ("agent:list", json!({ "status": "stopped" }), json!({ "count": 0, "agents": {} })),
            // Equals: the first by name. A role that matches counts ten.
            ("agent:route_task", dig.clone(), routed("ann", digger("hand"), 2)),
            (
                "agent:route_task",
                json!({ "task": "hole", "preferred_role": "boss" }),
                routed("bob", digger("boss"), 10),
            ),
            ("agent:route_task", json!({ "task": "hole", "prefer_agent_id": "bob" }), routed("bob", digger("boss"), 2)),
            (
                "agent:route_task",
                json!({ "task": "hole", "required_capabilities": ["fly"] }),
                nobody("no_suitable_agent", json!([]), 2),
            ),
            ("agent:unregister", json!({ "agent_id": "ann" }), json!({ "status": "unregistered", "agent_id": "ann" })),
            ("agent:unregister", json!({ "agent_id": "ann" }), refusal("AGENT_NOT_FOUND")),
            ("agent:restart", json!({ "agent_id": "bob" }), refusal("INVALID_PARAMETERS")),
            ("agent:terminate", json!({ "agent_id": "bob" }), json!({ "status": "terminated", "agent_id": "bob" })),
            ("agent:terminate", json!({ "agent_id": "bob" }), refusal("AGENT_NOT_FOUND")),
        ],
    )
    .await;
}

#[tokio::test]
async fn agents_are_spawned_and_end() {
    let served = serve(Mode::Compatibility).await;
    let agent = |status: &str| {
        json!({
            "id": "w", "role": "worker", "status": status, "capabilities": ["dig"], "profile": "worker",
            "process_id": "*", "task": "dig", "context": "deep",
        })
    };
    let spawned = |by: Value| json!({ "agent_id": "w", "status": "spawned", "process_id": "*", "agent": agent("active"), "selection": by });
    let spawn = |key: &str, value: &str| json!({ key: value, "agent_id": "w", "task": "dig", "context": "deep" });
    let by_name = json!({ "profile": "worker", "by": "name" });
    let worker = json!({
        "role": "worker", "capabilities": ["dig"], "system_prompt": "You dig.", "prompt": "Do {task}", "model": "echo-2",
    });
    check(
        &served,
        vec![
            (
                "agent:profiles",
                json!({}),
                json!({ "count": 1, "profiles": { "worker": worker }, "errors": { "bad": "bad.json: `role`: it is a number" } }),
            ),
            ("agent:spawn", json!({ "task": "x" }), refusal("INVALID_PARAMETERS")),
            ("agent:spawn", spawn("profile_name", "king"), refusal("SPAWN_FAILED")),
            ("agent:spawn", spawn("profile_name", "bad"), json!({ "error": "profile 'bad' cannot be used: bad.json: `role`: it is a number", "code": "SPAWN_FAILED" })),
            ("agent:spawn", spawn("profile_name", "worker"), spawned(by_name)),
            ("agent:spawn", spawn("profile_name", "worker"), refusal("SPAWN_FAILED")),
            ("system:processes", json!({}), json!({ "total": 1, "processes": [{ "process_id": "*", "agent_id": "w", "type": "completion", "status": "active" }] })),
            ("agent:restart", json!({ "agent_id": "w" }), json!({ "agent_id": "w", "status": "restarted", "process_id": "*", "agent": agent("active") })),
        ],
    )
    .await;
    served.go.add_permits(1);
    until("its work is done", async || {
        ask(&served, "agent:list", json!({ "status": "completed" })).await["count"] == 1
    })
    .await;
    let result = served.bus.history(&Query {
        limit: 1,
        patterns: vec![Pattern::parse("completion:result").unwrap()],
        ..Query::default()
    });
    let result = &result.0[0].data["result"];
    assert_eq!((&result["response"], &result["model"]), (&json!("Do dig\n\nContext:\ndeep"), &json!("echo-2")));
    let busy = json!({
        "status": "no_available_agent", "reason": "*", "task": "x", "required_capabilities": ["dig"],
        "suitable_agents": ["w"], "agents": 1,
    });
    check(
        &served,
        vec![
            ("agent:route_task", json!({ "task": "x", "required_capabilities": ["dig"] }), busy),
            ("agent:terminate", json!({ "agent_id": "w" }), json!({ "status": "terminated", "agent_id": "w" })),
            (
                "agent:spawn",
                spawn("role", "worker"),
                spawned(json!({ "profile": "worker", "by": "score", "score": 10 })),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn identities() {
    let served = serve(Mode::Compatibility).await;
    let at = "1970-01-01T12:30:00Z";
    let ann = |name: &str| json!({ "agent_id": "ann", "display_name": name, "role": "hand", "created_at": at });
    let mut anne = ann("Anne");
    anne["updated_at"] = json!(at);
    let listed = |items: Value, role: Value| {
        let metadata = json!({ "more": false, "filtered": !role.is_null(), "filter_role": role, "sort": "agent_id", "order": "asc" });
        json!({ "total": items.as_array().unwrap().len(), "items": items, "metadata": metadata })
    };
    let create = json!({ "agent_id": "ann", "display_name": "Ann", "role": "hand" });
    let changed = json!({ "display_name": { "before": "Ann", "after": "Anne" } });
    check(
        &served,
        vec![
            (
                "agent:create_identity",
                create.clone(),
                json!({ "status": "created", "created": true, "identity": ann("Ann") }),
            ),
            ("agent:create_identity", create, refusal("IDENTITY_EXISTS")),
            ("agent:create_identity", json!({ "agent_id": "" }), refusal("INVALID_PARAMETERS")),
            ("agent:get_identity", json!({ "agent_id": "ann" }), json!({ "identity": ann("Ann") })),
            ("agent:get_identity", json!({ "agent_id": "bob" }), refusal("IDENTITY_NOT_FOUND")),
            (
                "agent:update_identity",
                json!({ "agent_id": "ann", "updates": { "display_name": "Anne", "role": "hand", "agent_id": "ann" } }),
                json!({ "status": "updated", "updated": true, "changes": changed, "identity": anne }),
            ),
            (
                "agent:update_identity",
                json!({ "agent_id": "ann", "updates": { "created_at": 1 } }),
                refusal("INVALID_PARAMETERS"),
            ),
            ("agent:update_identity", json!({ "agent_id": "ann", "updates": [] }), refusal("INVALID_PARAMETERS")),
            ("agent:update_identity", json!({ "agent_id": "bob", "updates": {} }), refusal("IDENTITY_NOT_FOUND")),
            ("agent:identities", json!({}), listed(json!([anne]), json!(null))),
            ("agent:list_identities", json!({ "filter_role": "boss" }), listed(json!([]), json!("boss"))),
            (
                "agent:remove_identity",
                json!({ "agent_id": "ann" }),
                json!({ "status": "removed", "agent_id": "ann", "identity": anne, "deleted": true }),
            ),
            ("agent:delete_identity", json!({ "agent_id": "ann" }), refusal("IDENTITY_NOT_FOUND")),
        ],
    )
    .await;
}

#[tokio::test]
async fn letters_and_states_of_agents() {
    let served = serve(Mode::Compatibility).await;
    for agent in ["ann", "bob"] {
        ask(&served, "agent:register", json!({ "agent_id": agent })).await;
    }
    let direct =
        json!({ "status": "queued", "delivery": "direct", "from": "ann", "to": "bob", "type": "DIRECT_MESSAGE" });
    let event_bus = json!({
        "status": "published", "delivery": "event_bus", "from": "ann", "event_types": ["news"], "total_delivered": 0,
        "details": { "delivered": [], "failed": [] },
    });
    let everybody = |kind: &str| json!({ "status": "sent", "delivery": "broadcast", "from": "ann", "type": kind, "count": 1, "to": ["bob"], "failed": [] });
    let state = |values: Value| json!({ "agent_id": "ann", "state": values, "more": false });
    let updated = |keys: Value| json!({ "agent_id": "ann", "status": "updated", "keys": keys });
    check(
        &served,
        vec![
            ("agent:send_message", json!({ "from_agent": "ann", "to": "bob", "message": "hi" }), direct),
            ("agent:send_message", json!({ "from": "eve", "to": "bob" }), refusal("SENDER_NOT_FOUND")),
            ("agent:send_message", json!({ "from": "ann", "to_agent": "eve" }), refusal("RECIPIENT_NOT_FOUND")),
            ("agent:send_message", json!({ "from": "ann", "event_types": ["news"], "content": "hot" }), event_bus),
            ("agent:send_message", json!({ "from": "ann", "content": "all" }), everybody("MESSAGE")),
            ("agent:broadcast", json!({ "from": "ann", "message": "all" }), everybody("BROADCAST")),
            ("agent:get_state", json!({ "agent_id": "ann" }), state(json!({}))),
            ("agent:update_state", json!({ "agent_id": "ann", "key": "a", "value": null }), updated(json!(["a"]))),
            (
                "agent:update_state",
                json!({ "agent_id": "ann", "state": { "b": 1, "c": 2 } }),
                updated(json!(["b", "c"])),
            ),
            ("agent:update_state", json!({ "agent_id": "ann" }), refusal("INVALID_PARAMETERS")),
            ("agent:get_state", json!({ "agent_id": "ann" }), state(json!({ "a": null, "b": 1, "c": 2 }))),
            ("agent:get_state", json!({ "agent_id": "ann", "key": "b" }), state(json!({ "b": 1 }))),
            (
                "agent:connection",
                json!({ "agent_id": "eve", "action": "connect" }),
                json!({ "status": "connected", "agent_id": "eve", "action": "connect" }),
            ),
            (
                "agent:connection",
                json!({ "agent_id": "eve", "action": "disconnect" }),
                json!({ "status": "disconnected", "agent_id": "eve", "action": "disconnect" }),
            ),
            ("agent:connection", json!({ "agent_id": "eve", "action": "dance" }), refusal("INVALID_PARAMETERS")),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_many_at_once_each_is_told_what_became_of_it() {
    let served = serve(Mode::Compatibility).await;
    let all = async |event: &str, data: fn(usize) -> Value| {
        let asked = (0..10).map(|number| ask(&served, event, data(number)));
        futures_util::future::join_all(asked).await
    };
    let count = |answers: &[Value], status: &str| answers.iter().filter(|answer| answer["status"] == status).count();
    let made = all("agent:create_identity", |number| json!({ "agent_id": "ann", "by": number })).await;
    assert_eq!(count(&made, "created"), 1, "{made:?}");
    let updated = all("agent:update_identity", |number| json!({ "agent_id": "ann", format!("key{number}"): 1 })).await;
    assert_eq!(count(&updated, "updated"), 10, "{updated:?}");
    let kept = ask(&served, "agent:get_identity", json!({ "agent_id": "ann" })).await;
    assert!((0..10).all(|number| kept["identity"][format!("key{number}")] == 1), "{kept}");
    let removed = all("agent:remove_identity", |_| json!({ "agent_id": "ann" })).await;
    assert_eq!(count(&removed, "removed"), 1, "{removed:?}");
    let spawned = all("agent:spawn", |_| json!({ "profile_name": "worker", "task": "dig", "agent_id": "w" })).await;
    assert_eq!(count(&spawned, "spawned"), 1, "{spawned:?}");
    assert!(spawned.iter().all(|answer| answer["status"] == "spawned" || answer["code"] == "SPAWN_FAILED"));
    let under_way = ask(&served, "completion:status", json!({})).await;
    assert_eq!(under_way["running"], 1, "{under_way}");
    // What failed left its place free.
    ask(&served, "agent:terminate", json!({ "agent_id": "w" })).await;
    let again = ask(&served, "agent:spawn", json!({ "profile_name": "worker", "task": "dig", "agent_id": "w" })).await;
    assert_eq!(again["status"], "spawned", "{again}");
}

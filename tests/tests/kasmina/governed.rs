//! What the kernel has to say: records, denials, halts.

use crate::{Layers, config, definition, graft, policy, rows, with_kernel};
use gavel_tests::{Config, Key, Server, gavel, path};
use serde_json::{Value, json};

/// The records of the first kernel, oldest first, when the index has them all.
fn records(server: &Server, query: &str) -> Vec<Value> {
    let page = format!("/records?limit=1000&{query}");
    server.wait_for(&page, |told| told["complete"] == true);
    let mut records = server.get(&page).expect(200)["records"].as_array().unwrap().clone();
    records.reverse();
    records
}

#[test]
fn every_transition_is_a_request_on_record_before_and_after() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    for seed in 0..3 {
        server.command("a", seed, "germinate", &json!({"blueprint_id": "adapter", "reason": "to see"}));
    }
    let boundary = server.epoch("a");
    assert_eq!(boundary["transitions"].as_array().unwrap().len(), 3);
    assert_eq!(server.stages("a"), ["GERMINATED", "GERMINATED", "GERMINATED", "DORMANT"]);
    let found = records(&server, "request_id=kasmina.a.0.1.germinate");
    let kinds: Vec<_> = found.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["decision", "outcome"], "{found:?}");
    let params = &found[0]["meta"]["asked"]["tool_params"];
    assert_eq!((&params["seed"], &params["from"], &params["to"]), (&json!(1), &json!("DORMANT"), &json!("GERMINATED")));
    assert_eq!(params["reason"], "to see");
    let entry = &found[1]["entry"];
    assert_eq!((&entry["actor"], &entry["decision"]), (&json!("tamiyo"), &json!("ALLOW")));
    let made = records(&server, "kind=event");
    assert!(made.iter().any(|record| record["meta"]["type"] == "LAYER_CREATED"), "{made:?}");
    let counted =
        server.metrics().get(r#"gavel_kasmina_transitions_total{layer="a",to="GERMINATED",ruling="allowed"}"#);
    assert_eq!(counted, 3.0);
    let site = server.stop();
    let verified = gavel(["verify", path(&site.ledger("kasmina"))]).code(0);
    assert!(verified.stdout.contains("entries"), "{}", verified.stdout);
}

#[test]
fn a_policy_that_denies_leaves_the_seed_as_it_was() {
    let schema = json!({"type": "object", "properties": {"to": {"enum": ["GERMINATED", "CANCELLED"]}}});
    let rule = json!({
        "config": {"tools": {"kasmina.transition": schema}},
        "limits": {"deadline_ms": 5000},
    });
    let kernel = json!({"id": "kasmina", "policy": policy(&["parameter-schema"])});
    let limits = json!({"decision_deadline_ms": 10000});
    let config = with_kernel(kernel).policy("parameter-schema", rule).with("limits", limits);
    let server = Server::start(&config);
    server.create(&definition("a"));
    server.command("a", 0, "germinate", &json!({"blueprint_id": "adapter"}));
    assert_eq!(server.epoch("a")["transitions"][0]["allowed"], true);
    let before = server.seed("a", 0);
    server.command("a", 0, "train", &json!({}));
    let boundary = server.epoch("a");
    let denied = boundary["transitions"][0]["denied"].as_str().unwrap();
    assert!(denied.starts_with("Policy denied: parameter-schema: "), "{denied}");
    let after = server.seed("a", 0);
    assert_eq!((&after["stage"], &after["weights"]), (&before["stage"], &before["weights"]));
    let found = records(&server, "request_id=kasmina.a.1.0.train");
    assert_eq!(found[0]["entry"]["decision"], "DENY");
    assert_eq!(found[0]["entry"]["error"], denied);
    server.command("a", 0, "cancel", &json!({}));
    assert_eq!(server.epoch("a")["transitions"][0]["allowed"], true, "the next boundary asks anew");
}

#[test]
fn whoever_is_not_allowed_by_the_law_changes_nothing() {
    let kernel = json!({"id": "kasmina", "policy": {"allowed_actors": ["tamiyo"], "allowed_tools": ["echo"]}});
    let server = Server::start(&with_kernel(kernel));
    server.create(&definition("a"));
    server.command("a", 0, "germinate", &json!({"blueprint_id": "adapter"}));
    let boundary = server.epoch("a");
    let denied = boundary["transitions"][0]["denied"].as_str().unwrap();
    assert_eq!(denied, "Jurisdiction denied: Tool 'kasmina.transition' is not in allowed tools");
    assert_eq!(server.stages("a")[0], "DORMANT");
}

#[test]
fn nobody_else_can_call_the_tool() {
    let server = Server::start(&Config::open().with("kasmina", json!({"backend": "cpu"})));
    server.create(&definition("a"));
    let params = json!({"layer_id": "a", "seed": 0, "from": "DORMANT", "to": "GERMINATED"});
    for tool in ["kasmina.transition", "kasmina.restore", "kasmina.rollout"] {
        let request = gavel_tests::call("r1", tool, params.clone());
        let why = format!("Jurisdiction denied: Tool '{tool}' is the host's own, and no caller can call it");
        assert_eq!(server.submit(&request)["error"], why);
        let decided = server.post("/decide", &request).expect(200);
        assert_eq!((&decided["decision"], &decided["error"]), (&json!("DENY"), &json!(why)), "nor have it decided");
    }
    server.epoch("a");
    assert_eq!(server.stages("a")[0], "DORMANT");
}

#[test]
fn a_halted_kernel_denies_all() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    graft(&server, "a");
    server.command("a", 1, "germinate", &json!({"blueprint_id": "adapter"}));
    server.forward("a", "", &rows(8));
    let _ = server.post("/halt", &json!({"reason": "enough"})).expect(200);
    let before = server.stages("a");
    let measured = server.seed("a", 0)["telemetry"].clone();
    server.command("a", 0, "rollback", &json!({"reason": "by hand"}));
    let _ = server.send("POST", "/kasmina/layers/a/checkpoint", &[], Some(&server.saved("a"))).error(409);
    assert_eq!(server.seed("a", 0)["telemetry"], measured, "a denial keeps what the epoch measured");
    let boundary = server.epoch("a");
    assert_eq!(boundary["transitions"][0]["denied"], "kernel 'kasmina' is halted: enough");
    assert_eq!(server.get("/kasmina/layers/a/telemetry").expect(200)["rows"], 8);
    server.command("a", 0, "rollback", &json!({"reason": "by hand"}));
    assert_eq!(server.stages("a"), before);
    let responses = server.events("control.kasmina.responses");
    let error = responses.last().unwrap()["data"]["error"].as_str().unwrap();
    assert_eq!(error, "denied: kernel 'kasmina' is halted: enough");
    let restored = server.send("POST", "/kasmina/layers/a/checkpoint", &[], Some(&server.saved("a")));
    assert_eq!(restored.error(409), "denied: kernel 'kasmina' is halted: enough");
    assert_eq!(server.forward("a", "", &rows(2)).len(), 32, "it computes on");
}

#[test]
fn a_rollback_is_judged_at_once_and_puts_the_seed_back() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    graft(&server, "a");
    server.command("a", 0, "rollback", &json!({"reason": "by hand"}));
    assert_eq!(server.stages("a")[0], "ROLLED_BACK", "{:?}", server.events("control.kasmina.responses").last());
    let told = server.events("system.events.rollback");
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["data"]["seed"], &told[0]["data"]["allowed"]), (&json!(0), &json!(true)));
    let boundary = server.epoch("a");
    assert_eq!(boundary["field_reports"][0]["outcome"], "ROLLED_BACK");
    assert_eq!(server.events("system.events.rollback").len(), 1, "told once");
    assert_eq!(server.events("innovation.field_reports").len(), 1);
    let blueprints = server.get("/kasmina/blueprints").expect(200)["blueprints"].clone();
    let adapter = blueprints.as_array().unwrap().iter().find(|one| one["blueprint"]["name"] == "adapter").unwrap();
    let record = (&adapter["record"]["used"], &adapter["record"]["rolled_back"]);
    assert_eq!(record, (&json!(1), &json!(1)), "karn took the report, once");
    let x = rows(2);
    assert_eq!(server.forward("a", "", &x), x);
}

#[test]
fn a_boundary_that_cannot_be_saved_is_undone_and_recorded_as_failed() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    server.epoch("a");
    let boundary = server.site().data().join("kasmina/layers/a/boundary");
    std::fs::remove_file(&boundary).unwrap();
    std::fs::create_dir_all(boundary.join("in the way")).unwrap();
    server.command("a", 0, "germinate", &json!({"blueprint_id": "adapter"}));
    let before = server.saved("a");
    let answer = server.post("/kasmina/layers/a/epoch", &json!({"loss": 0.5, "metric": 0.7}));
    assert!(answer.error(503).starts_with("layer 'a' could not be kept, and is as it was before"));
    assert!(server.saved("a") == before, "bit for bit");
    let found = records(&server, "request_id=kasmina.a.1.0.germinate");
    let outcome = &found.last().unwrap()["entry"];
    assert_eq!(outcome["decision"], "DENY");
    let error = outcome["error"].as_str().unwrap();
    assert!(error.starts_with("Tool execution failed: it did not land: the layer could not be saved"), "{error}");
    std::fs::remove_dir_all(&boundary).unwrap();
    assert_eq!(server.epoch("a")["transitions"][0]["allowed"], true, "the command still waits");
    assert_eq!(server.stages("a")[0], "GERMINATED");
}

#[test]
fn more_transitions_than_a_boundary_may_have_wait_for_the_next() {
    let config = config().with("kasmina", json!({"backend": "cpu", "transitions_max": 2}));
    let server = Server::start(&config);
    server.create(&definition("a"));
    for seed in 0..3 {
        server.command("a", seed, "germinate", &json!({"blueprint_id": "adapter"}));
    }
    let boundary = server.epoch("a");
    let denied: Vec<_> = boundary["transitions"].as_array().unwrap().iter().map(|one| &one["denied"]).collect();
    let why = "more than 2 transitions at one boundary (kasmina.transitions_max)";
    assert_eq!(denied, [&Value::Null, &Value::Null, &json!(why)]);
}

#[test]
fn every_role_has_its_routes() {
    let agent = Key::make("agent-key", &["--role", "agent", "--actor", "host-network"]);
    let operator = Key::make("operator-key", &["--role", "operator"]);
    let auditor = Key::make("auditor-key", &["--role", "auditor"]);
    let server = Server::start(&config().keys(&[&agent, &operator, &auditor]));
    let status = |key: Option<&Key>, method: &str, path: &str, body: &Value| {
        let header = key.map(Key::header);
        let headers: Vec<_> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = (method == "POST").then(|| body.to_string());
        server.send(method, path, &headers, body.as_ref().map(String::as_bytes)).status
    };
    let one_row = json!({"x": vec![vec![0.5; 16]]});
    for (method, path, body, expected) in [
        ("POST", "/kasmina/layers", definition("a"), [401, 403, 201, 403]),
        ("GET", "/kasmina/layers", json!({}), [401, 403, 200, 200]),
        ("GET", "/kasmina/layers/a/seeds/0", json!({}), [401, 403, 200, 200]),
        ("POST", "/kasmina/layers/a/forward", one_row, [401, 200, 200, 403]),
        ("POST", "/kasmina/layers/a/epoch", json!({"loss": 0.5, "metric": 0.5}), [401, 403, 200, 403]),
        ("GET", "/kasmina/layers/a/telemetry", json!({}), [401, 403, 200, 200]),
        ("GET", "/kasmina/events", json!({}), [401, 403, 200, 200]),
        ("GET", "/kasmina/strategies", json!({}), [401, 403, 200, 200]),
    ] {
        let keys = [None, Some(&agent), Some(&operator), Some(&auditor)];
        assert_eq!(keys.map(|key| status(key, method, path, &body)), expected, "{method} {path}");
    }
    let command =
        json!({"event_id": "e1", "data": {"target_seed_id": 0, "command": "germinate", "blueprint_id": "mlp"}});
    assert_eq!(status(Some(&operator), "POST", "/kasmina/layers/a/commands", &command), 202);
    let (name, value) = operator.header();
    let told =
        server.send("GET", "/kasmina/events?topic=control.kasmina.commands", &[(name, &value)], None).expect(200);
    assert_eq!(told["events"][0]["envelope"]["sender_id"], "operator-key", "the sender is the key, not the payload");
}

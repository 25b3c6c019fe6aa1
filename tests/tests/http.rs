//! The HTTP API: every route, its shape, and its errors.
//!
//! What belongs here: what a client sees of a route whoever calls it. Who may call is in `auth.rs`,
//! how much in `limits.rs`, what cannot be read in `bad_input.rs`, and what a request does in
//! `governed.rs`.
#![allow(clippy::needless_raw_string_hashes, reason = "expect_test writes them so")]

use expect_test::{Expect, expect};
use gavel_tests::{Config, Server, call, intent, redacted};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn check(server: &Server, value: &Value, expected: &Expect) {
    expected.assert_eq(&redacted(value, &[(env!("CARGO_PKG_VERSION"), "<version>"), (&server.url, "<url>")]));
}

fn two_kernels() -> Config {
    Config::of(json!([Config::open_kernel("k"), Config::open_kernel("other")]))
}

/// Every route; with a star those that are there for each kernel too, below `/kernels/{id}`. Those of layers are in
/// `kasmina/main.rs`, those of the event bus in `bus_cli.rs`, those of approvals in `approvals.rs`.
#[test]
fn the_routes_are_these() {
    let of = |(method, path): &(&str, &str)| format!("{path} {}", method.to_uppercase());
    let elsewhere = |path: &str| ["/kasmina/", "/bus/", "/approvals"].iter().any(|other| path.contains(other));
    let here = gavel::http::ROUTES.iter().filter(|(_, path)| !elsewhere(path));
    let routes: BTreeSet<String> = here.map(of).collect();
    let of_each = |route: &str| routes.contains(&format!("/kernels/{{id}}{route}"));
    let listed =
        routes.iter().filter(|route| !route.strip_prefix("/kernels/{id}").is_some_and(|of| routes.contains(of)));
    let shown: Vec<String> = listed.map(|route| format!("{route}{}", if of_each(route) { " *" } else { "" })).collect();
    expect![[r#"
        / GET
        /archive GET *
        /archive POST *
        /checkpoint GET *
        /checkpoint/key GET *
        /checkpoint/rotate POST *
        /consistency GET *
        /decide POST *
        /evidence GET *
        /evidence/preserve POST *
        /evidence/rotate POST *
        /halt POST *
        /halt/emergency POST *
        /health GET *
        /health/check GET *
        /incidents GET
        /incidents POST
        /incidents/{incident}/resolve POST
        /investigate GET *
        /kernels GET
        /kernels POST
        /kernels/{id} GET
        /livez GET
        /metrics GET
        /openapi.json GET
        /policies GET *
        /policies/components POST *
        /policies/differences GET *
        /policies/discard POST *
        /policies/history GET *
        /policies/promote POST *
        /policies/release POST *
        /policies/rollback POST *
        /policies/stage POST *
        /policies/try POST *
        /policy GET *
        /policy POST *
        /prove GET *
        /prove/{request_id} GET *
        /readyz GET
        /records GET *
        /records/{index} GET *
        /recover POST *
        /replace POST *
        /restart POST
        /retention GET *
        /retention POST *
        /rollback POST *
        /status GET *
        /submit POST *
        /submit/batch POST *
        /tile/entries/{path} GET *
        /tile/{level}/{path} GET *
        /verify.html GET"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn openapi_describes_exactly_the_routes() {
    let server = Server::start(&Config::open());
    let answer = server.get("/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.expect(200);
    let methods = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
    let documented: BTreeSet<(&str, &str)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().expect("an object").keys().map(move |key| (key.as_str(), path.as_str()))
        })
        .filter(|(method, _)| methods.contains(method))
        .collect();
    assert_eq!(documented, gavel::http::ROUTES.iter().copied().collect());
}

#[test]
fn every_route_is_served() {
    let server = Server::start(&two_kernels());
    for (method, path) in gavel::http::ROUTES.iter().filter(|(_, path)| !path.contains("/halt")) {
        let path = path.replace("{id}", "other").replace("{index}", "0").replace("{level}", "0");
        let path = path.replace("{path}", "000.p/1").replace("{request_id}", "r1");
        let path = path.replace("{layer}", "a").replace("{seed}", "0").replace("{digest}", "0");
        let body = if path.ends_with("/batch") { json!({"requests": [intent("r1")]}) } else { intent("r1") };
        let body = (*method == "post").then(|| body.to_string().into_bytes());
        let answer = server.send(&method.to_uppercase(), &path, &[], body.as_deref());
        // These routes want other bodies, or a candidate that is not there.
        let others = [
            "/policies",
            "/policy",
            "/recover",
            "/replace",
            "/rollback",
            "/incidents",
            "/evidence/",
            "/restart",
            "/archive",
            "/retention",
            "/checkpoint/rotate",
            // This server has neither layers nor an event bus.
            "/kasmina/",
            "/bus/",
        ];
        let other = others.iter().any(|other| path.contains(other)) || (*method, path.as_str()) == ("post", "/kernels");
        // Those of proofs want to know of what; nothing waits here.
        let known: &[u16] = match path.rsplit('/').next() {
            _ if path.contains("/approvals/") => &[400, 404],
            _ if other => &[200, 400, 409, 422],
            Some("prove" | "consistency") => &[400],
            _ => &[200],
        };
        assert!(known.contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    }
}

#[test]
fn shape_of_name_health_and_kernels() {
    let server = Server::start(&two_kernels());
    check(
        &server,
        &server.get("/").expect(200),
        &expect![[r#"
        {
          "kernel_id": "k",
          "name": "gavel",
          "version": "<version>"
        }"#]],
    );
    check(
        &server,
        &server.get("/health").expect(200),
        &expect![[r#"
        {
          "kernel_state": "IDLE",
          "status": "healthy"
        }"#]],
    );
    check(
        &server,
        &server.get("/kernels").expect(200),
        &expect![[r#"
        {
          "kernels": [
            {
              "kernel_id": "k",
              "name": "k",
              "predecessors": [],
              "state": "IDLE",
              "variant": "strict"
            },
            {
              "kernel_id": "other",
              "name": "other",
              "predecessors": [],
              "state": "IDLE",
              "variant": "strict"
            }
          ]
        }"#]],
    );
    check(
        &server,
        &server.get("/livez").expect(200),
        &expect![[r#"
        {
          "status": "alive"
        }"#]],
    );
    check(
        &server,
        &server.get("/readyz").expect(200),
        &expect![[r#"
        {
          "status": "ready"
        }"#]],
    );
}

#[test]
fn shape_of_status() {
    let server = Server::start(&two_kernels());
    let _ = server.submit(&intent("r1"));
    let mut status = server.get("/status").expect(200);
    assert!(status["ledger"]["bytes"].take().as_u64() > Some(0));
    check(
        &server,
        &status,
        &expect![[r#"
        {
          "enhanced_monitoring_until_ms": null,
          "halt_reason": null,
          "kernel_id": "k",
          "ledger": {
            "bytes": null,
            "entries": 1,
            "error": null,
            "last_record_ms": "<ms>",
            "records": 3,
            "root_hash": "<hash>",
            "tree_root": "<hash>"
          },
          "monitoring": null,
          "name": "k",
          "policy_set": "sha256:<hash>",
          "requests": {
            "arbitrating": 0,
            "auditing": 0,
            "executing": 0,
            "validating": 0
          },
          "started_at_ms": "<ms>",
          "state": "IDLE",
          "tools": [
            "echo",
            "add",
            "read_file",
            "write_file",
            "search"
          ],
          "variant": "strict"
        }"#]],
    );
}

#[test]
fn shape_of_the_policy() {
    let mut kernel = Config::ruled_kernel("k", &["business-hours"]);
    kernel["policy"]["max_intent_length"] = json!(99);
    let config = Config::of(json!([kernel])).policy("business-hours", json!({"config": {"from": "08:00"}}));
    let server = Server::start(&config);
    let mut policy = server.get("/policy").expect(200);
    assert!(policy["policies"][0]["bytes"].take().as_u64() > Some(0));
    assert!(policy["policies"][0]["component"]["version"].take().is_string());
    check(
        &server,
        &policy,
        &expect![[r#"
        {
          "allow_intent_only": false,
          "allowed_actors": [
            "*"
          ],
          "allowed_tools": [
            "*"
          ],
          "custom_rules": [
            "business-hours"
          ],
          "max_intent_length": 99,
          "max_param_bytes": 65536,
          "policies": [
            {
              "bytes": null,
              "component": {
                "description": "Lets requests pass during business hours only.",
                "name": "business-hours",
                "version": null
              },
              "config": {
                "from": "08:00"
              },
              "digest": "sha256:<hash>",
              "limits": {
                "deadline_ms": 10,
                "instances_ahead": 0,
                "isolation": "fresh",
                "max_counter_calls": 64,
                "max_log_line_bytes": 1024,
                "max_log_lines": 64,
                "max_memory_bytes": 16777216,
                "max_output_bytes": 4096,
                "max_table_elements": 10000
              },
              "name": "business-hours"
            }
          ],
          "policy_set": "sha256:<hash>",
          "require_tool_call": false,
          "required_fields": [
            "request_id",
            "actor",
            "intent"
          ],
          "variant": "strict"
        }"#]],
    );
}

#[test]
fn shape_of_receipts_that_accept() {
    let server = Server::start(&Config::open());
    check(
        &server,
        &server.submit(&call("r1", "add", json!({"a": 2, "b": 40}))),
        &expect![[r#"
        {
          "decision": "ALLOW",
          "error": null,
          "evidence_hash": "<hash>",
          "request_id": "r1",
          "result": 42,
          "state_from": "IDLE",
          "state_to": "IDLE",
          "status": "ACCEPTED",
          "tool_result": 42,
          "ts_ms": "<ms>"
        }"#]],
    );
    check(
        &server,
        &server.submit(&intent("r4")),
        &expect![[r#"
        {
          "decision": "ALLOW",
          "error": null,
          "evidence_hash": "<hash>",
          "request_id": "r4",
          "result": null,
          "state_from": "IDLE",
          "state_to": "IDLE",
          "status": "ACCEPTED",
          "tool_result": null,
          "ts_ms": "<ms>"
        }"#]],
    );
}

#[test]
fn shape_of_receipts_that_refuse() {
    let server = Server::start(&Config::open());
    let denied = json!({"request_id": "r2", "actor": "", "intent": "x"});
    check(
        &server,
        &server.submit(&denied),
        &expect![[r#"
        {
          "decision": "DENY",
          "error": "Validation failed: actor is required",
          "evidence_hash": "<hash>",
          "request_id": "r2",
          "result": null,
          "state_from": "IDLE",
          "state_to": "IDLE",
          "status": "REJECTED",
          "tool_result": null,
          "ts_ms": "<ms>"
        }"#]],
    );
    check(
        &server,
        &server.submit(&call("r3", "echo", json!({}))),
        &expect![[r#"
        {
          "decision": "DENY",
          "error": "Tool execution failed: parameter 'text' is missing",
          "evidence_hash": "<hash>",
          "request_id": "r3",
          "result": null,
          "state_from": "IDLE",
          "state_to": "IDLE",
          "status": "FAILED",
          "tool_result": null,
          "ts_ms": "<ms>"
        }"#]],
    );
}

#[test]
fn shape_of_the_evidence() {
    let server = Server::start(&Config::open());
    let receipt = server.submit(&call("r1", "echo", json!({"text": "x"})));
    let answer = server.get("/evidence");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let bundle = answer.expect(200);
    assert_eq!(bundle["root_hash"], receipt["evidence_hash"]);
    check(
        &server,
        &bundle,
        &expect![[r#"
        {
          "entry_count": 1,
          "exported_at_ms": "<ms>",
          "kernel_id": "k",
          "ledger_entries": [
            {
              "actor": "agent-001",
              "decision": "ALLOW",
              "entry_hash": "<hash>",
              "error": null,
              "evidence_hash": null,
              "intent": "Look around",
              "ledger_seq": 0,
              "params_hash": null,
              "permit_denial_reasons": null,
              "permit_digest": null,
              "permit_issuer": null,
              "permit_max_executions": null,
              "permit_nonce": null,
              "permit_subject": null,
              "permit_verification": null,
              "prev_hash": "0000000000000000000000000000000000000000000000000000000000000000",
              "proposal_hash": null,
              "request_id": "r1",
              "state_from": "IDLE",
              "state_to": "IDLE",
              "tool_name": "echo",
              "ts_ms": "<ms>"
            }
          ],
          "root_hash": "<hash>",
          "variant": "strict"
        }"#]],
    );
}

#[test]
fn kernels_are_apart() {
    let server = Server::start(&two_kernels());
    for (path, count) in [("/submit", 2), ("/kernels/other/submit", 3)] {
        for number in 0..count {
            let receipt = server.post(path, &intent(&format!("{path}{number}"))).expect(200);
            assert_eq!(receipt["decision"], "ALLOW");
        }
    }
    let entries = |path: &str| server.get(path).expect(200)["entry_count"].clone();
    assert_eq!(entries("/evidence"), 2);
    assert_eq!(entries("/kernels/k/evidence"), 2);
    assert_eq!(entries("/kernels/other/evidence"), 3);
    assert_eq!(server.get("/kernels/other").expect(200)["kernel_id"], "other");
    assert_eq!(server.get("/kernels/other/status").expect(200)["kernel_id"], "other");
    assert_eq!(server.get("/kernels/nobody/status").error(404), "there is no kernel 'nobody'");
    assert_eq!(server.post("/kernels/nobody/submit", &intent("r")).error(404), "there is no kernel 'nobody'");
}

#[test]
fn errors_have_one_shape() {
    let server = Server::start(&Config::open());
    for path in ["/nothing", "/kernels/k/nothing", "/submit/", "/kernels/k/", "/kernels/", "//", "/Submit"] {
        assert_eq!(server.get(path).error(404), "Not found", "{path}");
    }
    for (method, path) in [("GET", "/submit"), ("DELETE", "/evidence"), ("PUT", "/kernels/k/halt"), ("POST", "/")] {
        let answer = server.send(method, path, &[], None);
        assert_eq!(answer.error(405), "Method not allowed", "{method} {path}");
        assert!(answer.header("allow").is_some(), "{method} {path}: {:?}", answer.headers);
    }
    let missing = |body: Value| server.post("/submit", &body).error(400);
    assert_eq!(missing(json!({"request_id": "r", "intent": "i"})), "Missing field: 'actor'");
    assert_eq!(missing(json!({"actor": "a", "intent": "i"})), "Missing field: 'request_id'");
    assert_eq!(missing(json!({"request_id": "r", "actor": "a"})), "Missing field: 'intent'");
    assert_eq!(server.entries(), 0, "what could not be read left no record");
}

#[test]
fn a_halted_kernel_stays_halted() {
    let server = Server::start(&two_kernels());
    let _ = server.submit(&intent("r1"));
    let halted = server.post("/halt", &json!({"reason": "it sends money"})).expect(200);
    check(
        &server,
        &halted,
        &expect![[r#"
        {
          "evidence_hash": "<hash>",
          "kernel_id": "k",
          "kernel_state": "HALTED",
          "reason": "it sends money",
          "status": "halted",
          "ts_ms": "<ms>"
        }"#]],
    );
    check_halted(&server);
    let site = server.site().clone();
    drop(server);
    check_halted(&site.serve());
}

fn check_halted(server: &Server) {
    for path in ["/submit", "/decide", "/halt", "/kernels/k/submit"] {
        let answer = server.post(path, &intent("r2"));
        assert_eq!(answer.error(409), "kernel 'k' is halted: it sends money", "{path}");
        assert_eq!(answer.json()["kernel_state"], "HALTED");
    }
    let health = server.get("/health").expect(503);
    assert_eq!(health, json!({"status": "halted", "kernel_state": "HALTED"}));
    let status = server.get("/status").expect(200);
    assert_eq!((&status["state"], &status["halt_reason"]), (&json!("HALTED"), &json!("it sends money")));
    let bundle = server.evidence();
    let last = bundle["ledger_entries"].as_array().and_then(|entries| entries.last()).expect("an entry");
    assert_eq!(last["request_id"], "HALT");
    assert_eq!((&last["actor"], &last["intent"]), (&json!("SYSTEM"), &json!("it sends money")));
    assert_eq!((&last["decision"], &last["state_to"]), (&json!("HALT"), &json!("HALTED")));
    assert_eq!(bundle["entry_count"], 2);
    // The other kernel does not care.
    assert_eq!(server.decide("other", &intent("r3"))["decision"], "ALLOW");
    assert_eq!(server.get("/readyz").status, 200, "a server with a halted kernel takes traffic for the others");
}

#[test]
fn a_halt_needs_no_body() {
    for body in ["", "{}", "{\"reason\": null}"] {
        let server = Server::start(&Config::open());
        let halted = server.post_bytes("/halt", body.as_bytes()).expect(200);
        assert_eq!((&halted["status"], &halted["kernel_state"]), (&json!("halted"), &json!("HALTED")), "{body}");
        assert_eq!(halted["reason"], "halted by operator");
    }
}

#[test]
fn metrics_are_well_formed_and_move() {
    let server = Server::start(&two_kernels());
    let before = server.metrics();
    let _ = server.submit(&call("r1", "echo", json!({"text": "x"})));
    let _ = server.submit(&call("r2", "nothing", json!({})));
    let _ = server.submit(&json!({"request_id": "", "actor": "a", "intent": "i"}));
    let _ = server.post_bytes("/submit", b"{").error(400);
    let _ = server.post("/kernels/other/halt", &json!({})).expect(200);
    let after = server.metrics();
    for (name, moved) in [
        (r#"gavel_decisions_total{kernel="k",decision="ALLOW",stage="none"}"#, 1.0),
        (r#"gavel_decisions_total{kernel="k",decision="DENY",stage="execution"}"#, 1.0),
        (r#"gavel_decisions_total{kernel="k",decision="DENY",stage="validation"}"#, 1.0),
        (r#"gavel_decisions_total{kernel="other",decision="HALT",stage="none"}"#, 1.0),
        (r#"gavel_tool_calls_total{tool="echo",outcome="ok"}"#, 1.0),
        ("gavel_unreadable_bodies_total", 1.0),
        (r#"gavel_http_requests_total{route="/submit",status="200"}"#, 3.0),
        (r#"gavel_http_requests_total{route="/submit",status="400"}"#, 1.0),
        (r#"gavel_decision_seconds_count{kernel="k"}"#, 3.0),
        (r#"gavel_ledger_records{kernel="k"}"#, 4.0),
        (r#"gavel_kernel_accepting{kernel="other"}"#, -1.0),
        (r#"gavel_kernel_accepting{kernel="k"}"#, 0.0),
        (r#"gavel_ledger_poisoned{kernel="k"}"#, 0.0),
    ] {
        let names: Vec<&str> = after.names().collect();
        assert!((after.get(name) - before.get(name) - moved).abs() < 1e-9, "{name} of {names:#?}");
    }
    // The scrape itself is being served.
    assert!((after.get("gavel_http_in_flight") - 1.0).abs() < 1e-9);
}

#[test]
fn label_values_that_callers_choose_do_not_make_metrics_grow() {
    let server = Server::start(&Config::open());
    for number in 0..20 {
        let _ = server.get(&format!("/nothing-{number}"));
        let _ = server.get(&format!("/kernels/nobody-{number}/status"));
        let _ = server.submit(&call("r", &format!("tool-{number}"), json!({})));
    }
    let metrics = server.metrics();
    let grown: Vec<&str> = metrics.names().filter(|name| name.contains("-1")).collect();
    assert!(grown.is_empty(), "{grown:?}");
    assert!((metrics.get(r#"gavel_http_requests_total{route="none",status="404"}"#) - 20.0).abs() < 1e-9);
}

#[test]
fn a_connection_is_kept_and_answers_come_in_order() {
    let server = Server::start(&Config::open());
    let mut connection = server.connect();
    let body = intent("r1").to_string();
    let mut pipelined = connection.head("POST", "/submit", &[], Some(body.len()));
    pipelined.extend_from_slice(body.as_bytes());
    pipelined.extend_from_slice(&connection.head("GET", "/nothing", &[], None));
    pipelined.extend_from_slice(&connection.head("HEAD", "/health", &[], None));
    connection.send(&pipelined).unwrap();
    assert_eq!(connection.answer().unwrap().expect(200)["request_id"], "r1");
    assert_eq!(connection.answer().unwrap().error(404), "Not found");
}

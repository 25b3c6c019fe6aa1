//! Judging recorded decisions again.
//!
//! What belongs here: that the policies of a record give the words of the record, that a difference
//! is found, and what another policy would have changed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

use gavel_tests::{Config, Server, Site, call, file, gavel, intent, path, repository};
use serde_json::{Value, json};

fn hostile() -> String {
    path(&repository().join("tests/data/guests/hostile.wasm")).to_owned()
}

fn guest(config: Value) -> Value {
    json!({"component": hostile(), "config": config, "limits": {"deadline_ms": 5_000}})
}

/// One kernel judged by `policies`.
fn ruled(policies: &[(&str, Value)]) -> Config {
    let names: Vec<&str> = policies.iter().map(|(name, _)| *name).collect();
    let mut config = Config::of(json!([Config::ruled_kernel("k", &names)]));
    for (name, policy) in policies {
        config = config.policy(name, policy.clone());
    }
    config.with("limits", json!({"decision_deadline_ms": 10_000}))
}

fn rejudged(site: &Site, code: i32) -> Value {
    gavel(["replay", "--json", "--rejudge", path(&site.ledger("k"))]).code(code).json()
}

fn decide(server: &Server, request: &Value) -> bool {
    server.submit(request)["decision"] == "ALLOW"
}

#[test]
fn a_ledger_is_judged_again_with_the_policies_of_each_record() {
    let count = json!({"do": "count", "key": "calls", "amount": 1, "window_ms": 3_600_000, "max": 5});
    let server = Server::start(&ruled(&[("rate", guest(count)), ("gate", guest(json!({"do": "allow"})))]));
    let said: Vec<bool> = (0..8).map(|n| decide(&server, &intent(&format!("r-{n}")))).collect();
    assert_eq!(said, [true, true, true, true, true, false, false, false]);
    // Other policies, a tool that runs, texts of every kind.
    let edits = json!({"edits": [{"name": "rate", "remove": true}, {"name": "gate", "config": {"do": "echo"}}]});
    drop(server.post("/policies/stage", &edits).expect(200));
    drop(server.post("/policies/promote", &json!({})).expect(200));
    let mut request = call("näme \"quoted\"", "echo", json!({"text": "ü\u{7f}\n", "n": 1.50, "deep": [{"a": null}]}));
    request["evidence"] = json!(["ticket:1", "z"]);
    request["params"] = json!({"x": 10_000_000_000_000_000_000_000_u128.to_string()});
    request["constraints"] = json!({"dry": true});
    assert!(!decide(&server, &request), "the guest denies with all that it was asked");
    drop(server.post("/policies/rollback", &json!({})).expect(200));
    let mut early = intent("early");
    early["actor"] = json!("");
    assert!(!decide(&server, &early));
    let site = server.stop();
    let report = rejudged(&site, 0);
    assert_eq!((&report["decisions"], &report["judged"], &report["same"]), (&json!(10), &json!(9), &json!(9)));
    assert_eq!(report["skipped"], json!({"denied before any policy was asked": 1}));
    assert_eq!(report["differences"], json!([]));
}

#[test]
fn a_tool_that_ran_and_a_server_that_runs_on_are_no_obstacle() {
    let server = Server::start(&ruled(&[("gate", guest(json!({"do": "allow"})))]));
    assert!(decide(&server, &call("r", "echo", json!({"text": "x"}))));
    assert!(decide(&server, &call("f", "add", json!({"a": 1, "b": 2}))));
    let report = rejudged(server.site(), 0);
    assert_eq!((&report["judged"], &report["same"]), (&json!(2), &json!(2)));
}

#[test]
fn a_policy_that_remembers_is_found_out() {
    let mut remembering = guest(json!({"do": "remember"}));
    remembering["limits"]["isolation"] = json!("warm");
    let server = Server::start(&ruled(&[("gate", remembering)]));
    let mut connection = server.connect();
    for n in 0..3 {
        let body = intent(&format!("r-{n}")).to_string();
        drop(connection.request("POST", "/submit", &[], Some(body.as_bytes())).expect("an answer").expect(200));
    }
    let report = rejudged(&server.stop(), 1);
    assert!(report["differing"].as_u64().unwrap() >= 2, "{report}");
    let difference = &report["differences"][0];
    assert_ne!(difference["recorded"], difference["now"]);
}

#[test]
fn a_candidate_tells_what_it_would_have_changed() {
    let server = Server::start(&ruled(&[("gate", guest(json!({"do": "allow"})))]));
    for n in 0..6 {
        assert!(decide(&server, &call(&format!("r-{n}"), "echo", json!({"text": "x"}))));
    }
    let site = server.stop();
    let ledger = site.ledger("k");
    let (_guard, config) = file(json!({"do": "deny", "reason": "not today"}).to_string());
    let hostile = hostile();
    let with = ["replay", "--json", path(&ledger), "--with", &hostile, "--config", path(&config), "--name"];
    let replaced = gavel(with.iter().copied().chain(["gate"])).code(0).json();
    assert_eq!((&replaced["judged"], &replaced["differing"]), (&json!(6), &json!(6)));
    assert_eq!(replaced["differences"][0]["recorded"], json!({"decision": "ALLOW"}));
    assert!(replaced["differences"][0]["now"]["reason"].as_str().unwrap().contains("not today"));

    // Its counters see the traffic as it came.
    let (_guard, config) =
        file(json!({"do": "count", "key": "k", "amount": 1, "window_ms": 3_600_000, "max": 4}).to_string());
    let with = ["replay", path(&ledger), "--with", &hostile, "--config", path(&config), "--name", "new-rate"];
    let told = gavel(with).code(0).stdout;
    assert!(told.contains("2  would be decided otherwise") && told.contains("2  ALLOW becomes DENY"), "{told}");

    // A whole configuration.
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("gavel.yaml");
    std::fs::write(&other, Config::of(json!([Config::ruled_kernel("k", &[])])).to_bytes()).unwrap();
    let whole = gavel(["replay", "--json", path(&ledger), "--with", path(&other)]).code(0).json();
    assert_eq!((&whole["judged"], &whole["differing"]), (&json!(6), &json!(0)));
}

#[test]
fn what_was_not_recorded_is_counted_and_what_is_missing_is_named() {
    let mut kernel = Config::ruled_kernel("k", &["gate"]);
    kernel["record_requests"] = json!(false);
    let config = Config::of(json!([kernel])).policy("gate", guest(json!({"do": "allow"})));
    let server = Server::start(&config.with("limits", json!({"decision_deadline_ms": 10_000})));
    assert!(decide(&server, &call("secret", "echo", json!({"text": "hidden"}))));
    let site = server.stop();
    let (_, records) = gavel_ledger::read_dir(&site.ledger("k")).unwrap();
    assert!(records.map(Result::unwrap).all(|record| !record.as_str().contains("hidden")));
    let report = rejudged(&site, 0);
    assert_eq!(report["skipped"], json!({"what was asked is not recorded": 1}));

    let server = Server::start(&ruled(&[("gate", guest(json!({"do": "allow"})))]));
    assert!(decide(&server, &intent("r")));
    let site = server.stop();
    std::fs::remove_dir_all(site.data().join("policies")).unwrap();
    let told = gavel(["replay", "--rejudge", path(&site.ledger("k"))]).code(2).stderr;
    assert!(told.contains("policy set sha256:") && told.contains("is not in the catalogue"), "{told}");
    let told = gavel(["replay", path(&site.ledger("k"))]).code(2).stderr;
    assert!(told.contains("--rejudge"), "{told}");
}

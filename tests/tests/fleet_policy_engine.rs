//! The kernel kind `policy_engine`, as its own process: versions, swaps, evaluations that decide nothing.
//!
//! Here belongs what an operator relies on: a version is what was brought, a swap loses no evaluation and survives a kill,
//! and what is handed to governance decides there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gavel_tests::{Config, Connection, PATIENCE, Server, Site, call, repository};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// Machines that run many tests are slow; no policy here is to be late.
const PATIENT_MS: u64 = 20_000;

fn config() -> Config {
    let kernels = json!({"governance": {"needs": []}, "policy_engine": {"needs": []}});
    Config::open()
        .with("fleet", json!({"kernels": kernels}))
        .with("limits", json!({"decision_deadline_ms": PATIENT_MS}))
}

/// The configuration of `path-allow-list` in which `read_file` may read below this folder only.
fn only(folder: &str) -> Value {
    json!({"root": "/w", "rules": [{"tools": ["read_file"], "params": ["path"], "allow": [format!("{folder}/**")]}]})
}

fn limits() -> Value {
    json!({"deadline_ms": PATIENT_MS})
}

fn component() -> Vec<u8> {
    std::fs::read(repository().join("guest-policies/built/path-allow-list.wasm")).unwrap()
}

/// A call that version 1 allows and version 2 denies.
fn reading(id: &str) -> Value {
    call(id, "read_file", json!({"path": "src/main.rs"}))
}

/// As a part of a query.
fn encoded(value: &Value) -> String {
    let parts: Vec<String> = value.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    parts.concat()
}

/// Version 1, as bytes, and version 2, by name.
fn bring_two(server: &Server, base: &str) {
    let query = format!("config={}&limits={}&why=first", encoded(&only("src")), encoded(&limits()));
    let path = format!("{base}/policies/paths?{query}");
    let first = server.send("POST", &path, &[("content-type", "application/wasm")], Some(&component())).expect(200);
    assert_eq!(
        (&first["version"], &first["active"], &first["new"]),
        (&json!(1), &json!(true), &json!(true)),
        "{first}"
    );
    let named = json!({"component": first["component"], "config": only("docs"), "limits": limits(), "why": "other"});
    let second = server.post(&format!("{base}/policies/paths"), &named).expect(200);
    assert_eq!((&second["version"], &second["active"]), (&json!(2), &json!(false)), "{second}");
    assert!(first["component"] == second["component"] && first["digest"] != second["digest"], "{first} {second}");
}

fn evaluated(server: &Server, body: &Value) -> Value {
    server.post("/evaluate", body).expect(200)
}

#[test]
fn versions_are_brought_asked_swapped_and_taken_back() {
    let server = Site::new(&config()).run_kernel("policy_engine");
    bring_two(&server, "");
    let again = json!({"component": "builtin:path-allow-list", "config": only("src"), "limits": limits()});
    let again = server.post("/policies/paths", &again).expect(200);
    assert_eq!((&again["version"], &again["new"]), (&json!(1), &json!(false)), "the same is no new version: {again}");

    let told = evaluated(&server, &json!({"policy": "paths", "request": reading("r1")}));
    let judged = &told["judged"][0];
    assert_eq!((&told["verdict"], &told["recorded"], &judged["version"]), (&json!("allow"), &json!(false), &json!(1)));
    assert!(judged["elapsed_us"].is_u64() && judged["memory_bytes"].as_u64() > Some(0), "{told}");
    let told = evaluated(&server, &json!({"policy": "paths", "version": 2, "request": reading("r2")}));
    assert_eq!((&told["verdict"], &told["decided_by"]), (&json!("deny"), &json!("paths")), "{told}");
    assert!(told["reason"].as_str().unwrap().contains("fits no allowed pattern"), "{told}");

    let swapped = server.post("/policies/paths/swap", &json!({"version": 2, "expected": 1, "why": "stricter"}));
    let swapped = swapped.expect(200);
    assert_eq!(
        (&swapped["version"], &swapped["changed"], &swapped["rollback_to"]),
        (&json!(2), &json!(true), &json!(1))
    );
    assert_eq!(evaluated(&server, &json!({"policies": ["paths"], "request": reading("r3")}))["verdict"], "deny");
    let stale = server.post("/policies/paths/swap", &json!({"version": 1, "expected": 1})).error(409);
    assert!(stale.contains("version 2 is active, not 1"), "{stale}");
    let back = server.post("/policies/paths/rollback", &json!({"why": "too strict"})).expect(200);
    assert_eq!((&back["version"], &back["rollback_to"]), (&json!(1), &Value::Null), "{back}");
    let nothing = server.post("/policies/paths/rollback", &json!({})).error(409);
    assert!(nothing.contains("nothing judged before version 1"), "{nothing}");

    let policy = server.get("/policies/paths").expect(200);
    let steps: Vec<_> =
        policy["steps"].as_array().unwrap().iter().map(|step| step["action"].as_str().unwrap()).collect();
    assert_eq!(steps, ["added", "added", "swapped", "rolled_back"], "{policy}");
    assert_eq!((&policy["steps"][2]["why"], &policy["steps"][2]["who"]), (&json!("stricter"), &json!("anyone")));
    let by_digest = json!({"digest": policy["all"][1]["digest"]});
    assert_eq!(server.post("/policies/paths/swap", &by_digest).expect(200)["version"], 2);
    assert_eq!(server.get("/policies").expect(200)["policies"][0]["version"], 2);
    let counted = server.get("/metrics").text();
    assert!(counted.contains(r#"gavel_policy_engine_evaluations_total{policy="paths",verdict="deny"} 2"#), "{counted}");
}

#[test]
fn batches_and_comparisons_judge_in_order() {
    let server = Site::new(&config()).run_kernel("policy_engine");
    bring_two(&server, "");
    let other = call("o", "read_file", json!({"path": "docs/a.md"}));
    let neither = call("n", "list_files", json!({}));
    let requests = json!([reading("r"), other, neither]);
    let batch = server.post("/evaluate/batch", &json!({"policy": "paths", "requests": requests})).expect(200);
    let verdicts: Vec<_> = batch["results"].as_array().unwrap().iter().map(|told| told["verdict"].clone()).collect();
    assert_eq!(verdicts, ["allow", "deny", "allow"], "{batch}");
    let compared = json!({"policy": "paths", "to": 2, "requests": requests});
    let compared = server.post("/compare", &compared).expect(200);
    assert_eq!((&compared["compared"], &compared["same"]), (&json!(3), &json!(1)), "{compared}");
    let differs = &compared["differences"][0];
    assert_eq!((&differs["request_id"], &differs["verdict_differs"]), (&json!("r"), &json!(true)), "{compared}");
    assert_eq!((&differs["from"]["verdict"], &differs["to"]["verdict"]), (&json!("allow"), &json!("deny")));

    let rate = json!({"rules": [{"tools": ["*"], "limit": 1, "window_ms": 60_000, "per": ["kernel"]}]});
    let upload = json!({"component": "builtin:rate-limit", "config": rate, "limits": limits()});
    assert_eq!(server.post("/policies/rate", &upload).expect(200)["version"], 1);
    let mut batch = json!({"policy": "rate", "requests": [neither, neither]});
    let apart = server.post("/evaluate/batch", &batch).expect(200);
    assert_eq!(apart["results"][1]["verdict"], "allow", "each has counters of its own: {apart}");
    batch["shared_counters"] = json!(true);
    let together = server.post("/evaluate/batch", &batch).expect(200);
    assert_eq!(together["results"][1]["verdict"], "deny", "the second counts the first: {together}");
}

#[test]
fn what_is_not_accepted_is_told() {
    let required = json!({"required": true, "keys": {"team": format!("ed25519:58{}", "66".repeat(31))}});
    let server = Site::new(&config().with("signatures", required)).run_kernel("policy_engine");
    let refused = |path: &str, body: Value| server.post(path, &body).error(422);
    let unsigned = std::fs::read(repository().join("tests/data/guests/hostile.wasm")).unwrap();
    let why = server.send("POST", "/policies/p", &[], Some(&unsigned)).error(422);
    assert!(why.contains("signatures are required and it is not signed"), "{why}");
    assert!(refused("/policies/p", json!({"component": "/etc/passwd"})).contains("must be builtin:NAME"));
    assert!(refused("/policies/p", json!({"component": "builtin:none"})).contains("no builtin policy is named none"));
    let warm = json!({"component": "builtin:path-allow-list", "config": only("src"), "limits": {"isolation": "warm"}});
    assert!(refused("/policies/p", warm).contains("fresh instance"));
    let slow = json!({"component": "builtin:path-allow-list", "limits": {"deadline_ms": PATIENT_MS + 1}});
    assert!(refused("/policies/p", slow).contains("the sandbox allows 1 to"));
    let config = json!({"component": "builtin:path-allow-list", "config": {"roots": 1}});
    assert!(refused("/policies/p", config).contains("configuration"), "its schema is asked");
    assert_eq!(server.get("/policies").expect(200)["policies"], json!([]), "nothing of it was kept");
    let absent = server.post("/evaluate", &json!({"policy": "p", "request": reading("r")})).error(404);
    assert!(absent.contains("there is no policy `p`"), "{absent}");
    bring_two(&server, "");
    assert!(refused("/evaluate", json!({"policy": "paths", "request": {}})).contains("request_id"));
    assert!(refused("/evaluate", json!({"request": reading("r")})).contains("give `policy`"));
    let absent = server.post("/policies/paths/swap", &json!({"version": 3})).error(404);
    assert!(absent.contains("it has 1 to 2"), "{absent}");
    let alone = server.post("/policies/paths/deploy", &json!({"kernel": "k"})).error(503);
    assert!(alone.contains("this kernel runs alone"), "{alone}");
}

/// Ask on one connection until told to stop; every answer must be there, and be of the version that it names.
fn ask_all_the_time(server: &Server, stop: &AtomicBool, asked: &AtomicU64) {
    let mut connection = server.connect();
    let body = json!({"policy": "paths", "request": reading("r")}).to_string();
    while !stop.load(Ordering::Relaxed) {
        let answer = connection.request("POST", "/evaluate", &[], Some(body.as_bytes())).unwrap().expect(200);
        let expected = if answer["judged"][0]["version"] == 1 { "allow" } else { "deny" };
        assert_eq!((&answer["verdict"], &answer["judged"][0]["failed"]), (&json!(expected), &json!(false)), "{answer}");
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

/// Stops those who ask, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn swaps_under_evaluation_lose_none() {
    let server = Site::new(&config()).run_kernel("policy_engine");
    bring_two(&server, "");
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| ask_all_the_time(&server, &stop, &asked));
        }
        let _stop = Stop(&stop);
        for round in 0..40u64 {
            let to = 2 - round % 2;
            let swapped = server.post("/policies/paths/swap", &json!({"version": to, "why": "again"})).expect(200);
            assert_eq!(swapped["version"], to);
            wait_for(&asked, asked.load(Ordering::Relaxed) + 3);
        }
    });
    assert!(asked.into_inner() >= 120);
}

fn wait_for(counted: &AtomicU64, wanted: u64) {
    let until = Instant::now() + PATIENCE;
    while counted.load(Ordering::Relaxed) < wanted {
        assert!(Instant::now() < until, "not {wanted} within {PATIENCE:?}");
        thread::yield_now();
    }
}

/// Swap back and forth on one connection until it breaks off; gives how many were acknowledged.
fn swap_until_killed(mut connection: Connection, acknowledged: &AtomicU64) {
    for round in 0u64.. {
        let body = json!({"version": 2 - round % 2, "why": round.to_string()}).to_string();
        match connection.request("POST", "/policies/paths/swap", &[], Some(body.as_bytes())) {
            Ok(answer) => drop(answer.expect(200)),
            Err(_) => return,
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill_in_the_middle_of_swaps() {
    let site = Site::new(&config());
    let mut server = site.run_kernel("policy_engine");
    bring_two(&server, "");
    for _ in 0..3 {
        let before = server.get("/policies/paths").expect(200)["steps"].as_array().unwrap().len() as u64;
        assert_eq!(server.post("/policies/paths/swap", &json!({"version": 1})).expect(200)["version"], 1);
        let before = before.max(server.get("/policies/paths").expect(200)["steps"].as_array().unwrap().len() as u64);
        let acknowledged = AtomicU64::new(0);
        thread::scope(|scope| {
            let connection = server.connect();
            scope.spawn(|| swap_until_killed(connection, &acknowledged));
            wait_for(&acknowledged, 5);
            server.kill();
        });
        server = site.run_kernel("policy_engine");
        let policy = server.get("/policies/paths").expect(200);
        let steps = policy["steps"].as_array().unwrap();
        let done = steps.len() as u64 - before;
        let acknowledged = acknowledged.into_inner();
        assert!(done == acknowledged || done == acknowledged + 1, "{done} on disk, {acknowledged} acknowledged");
        assert_eq!(policy["version"], steps.last().unwrap()["version"], "{policy}");
        let told = evaluated(&server, &json!({"policy": "paths", "request": reading("r")}));
        let expected = if policy["version"] == 1 { "allow" } else { "deny" };
        assert_eq!(told["verdict"], expected, "{told}");
    }
    let second = site.kernel_command("policy_engine").run_unless("serving").stderr;
    assert!(second.contains("is held by another policy engine"), "{second}");
}

/// A fleet of the kernel that decides and of the policy engine, whatever other kinds there are.
fn fleet() -> Config {
    let others = [
        "message_bus",
        "immutable_log",
        "crypto_kernel",
        "trust_framework",
        "compliance_monitor",
        "audit_trail",
        "telemetry_service",
        "metrics_aggregator",
        "alert_service",
    ];
    let mut kernels: serde_json::Map<String, Value> =
        others.iter().map(|name| ((*name).to_owned(), json!({"enabled": false}))).collect();
    kernels.insert("policy_engine".into(), json!({"needs": []}));
    kernels.insert("governance".into(), json!({"needs": []}));
    let section = json!({"start_timeout_ms": 60_000, "kernels": kernels});
    Config::open().with("fleet", section).with("limits", json!({"decision_deadline_ms": PATIENT_MS}))
}

#[test]
fn a_version_that_is_deployed_decides_in_governance() {
    let server = Site::new(&fleet()).fleet_up();
    bring_two(&server, "/policy_engine");
    let stop = AtomicBool::new(false);
    let decided = AtomicU64::new(0);
    let decide = |id: &str| server.decide("k", &reading(id))["decision"].clone();
    assert_eq!(decide("before"), "ALLOW");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = decided.fetch_add(1, Ordering::Relaxed);
                decide(&format!("during-{number}"));
            }
        });
        let _stop = Stop(&stop);
        wait_for(&decided, 3);
        let deploy = json!({"kernel": "k", "version": 2, "why": "it has proved itself"});
        let deployed = server.post("/policy_engine/policies/paths/deploy", &deploy).expect(200);
        assert_eq!((&deployed["kernel"], &deployed["history_problem"]), (&json!("k"), &Value::Null), "{deployed}");
        wait_for(&decided, decided.load(Ordering::Relaxed) + 3);
    });
    assert_ne!(decide("after"), "ALLOW");
    let serving = &server.get("/kernels/k/policies").expect(200)["serving"];
    let policy = server.get("/policy_engine/policies/paths").expect(200);
    let last = policy["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["action"], &last["version"]), (&json!("deployed"), &json!(2)), "{policy}");
    assert_eq!(last["deployed"], json!({"kernel": "k", "set": serving["set"]}), "{serving}");
    let history = server.get("/kernels/k/policies/history").expect(200);
    assert!(history.to_string().contains("version 2 of the policy engine"), "{history}");
    let unknown = server.post("/policy_engine/policies/paths/deploy", &json!({"kernel": "none"})).error(404);
    assert!(unknown.contains("nothing was changed"), "{unknown}");
}

//! The operator's playbook: each play as the seeds' verification list has it.
//!
//! What belongs here: a play by its command or its route, on a real server, and what it leaves behind:
//! files, events in the ledger, alerts. The commands that `docs/playbook.md` shows are run by
//! `readme.rs`; being a service of systemd is in `service.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

use gavel_tests::{
    Config, Gavel, Key, Output, PATIENCE, Server, Site, Webhook, call, gavel, gavel_path, intent, path, repository,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Run a command against a server.
fn ask(server: &Server, args: &[&str]) -> Output {
    Gavel::new(args).env("GAVEL_URL", &server.url).run()
}

/// The last event of this type that the ledger holds.
fn event(server: &Server, what: &str) -> Value {
    let events = server.get("/investigate").expect(200)["operator_events"].clone();
    let found = events.as_array().unwrap().iter().rfind(|event| event["type"] == what);
    found.unwrap_or_else(|| panic!("no event {what}: {events:#}")).clone()
}

fn file_of(told: &Value) -> PathBuf {
    PathBuf::from(told.as_str().unwrap_or_else(|| panic!("no path: {told}")))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn digest(path: &Path) -> String {
    hex(&Sha256::digest(fs::read(path).unwrap()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// `gavel verify` says that the file holds; what it says.
fn verified(file: &Path) -> Value {
    gavel(["verify", "--json", path(file)]).code(0).json()
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}

/// Two requests that are allowed and one that is denied.
fn work(server: &Server) {
    assert_eq!(server.submit(&call("r1", "echo", json!({"text": "a"})))["decision"], "ALLOW");
    assert_eq!(server.submit(&intent("r2"))["decision"], "ALLOW");
    assert_eq!(server.submit(&json!({"request_id": "r3", "actor": "agent-002", "intent": ""}))["decision"], "DENY");
}

// --- 2.1 ---

#[test]
fn play_2_1_a_deployment_is_written_served_and_passes_its_smoke_test() {
    assert!(gavel(["info"]).code(0).stdout.contains(env!("CARGO_PKG_VERSION")), "info shows the version");
    let site = Site::new(&Config::open());
    let folder = site.path().join("deployment");
    let init = ["init", path(&folder), "--tool", "echo", "--actor", "agent-001", "--actor", "agent-002"];
    assert!(gavel(init).code(0).stdout.contains("gavel smoke --config"));
    let config = folder.join("gavel.yaml");
    let _ = gavel(["validate", "--config", path(&config)]).code(0);
    let smoke = gavel(["smoke", "--json", "--config", path(&config)]).code(0).json();
    assert_eq!((&smoke["passed"], smoke["steps"].as_array().unwrap().len()), (&json!(true), 6), "{smoke:#}");
    for name in ["operator", "agent-001", "agent-002"] {
        assert_eq!(mode(&folder.join(format!("keys/{name}.key"))), 0o600, "{name}");
    }

    // Served as written, with its keys.
    let key = |name: &str| fs::read_to_string(folder.join(format!("keys/{name}.key"))).unwrap().trim().to_owned();
    let serve = Gavel::new(["serve", "--config", path(&config), "--listen", "127.0.0.1:0"]);
    let server = Server::spawn(serve, site);
    let smoke = |agent: &str| {
        let smoke = Gavel::new(["smoke", "--server", "--json"]).env("GAVEL_URL", &server.url);
        smoke.env("GAVEL_KEY", key("operator")).env("GAVEL_AGENT_KEY", key(agent)).run()
    };
    let told = smoke("agent-001").code(0).json();
    assert_eq!(told["steps"][5], json!({"name": "state", "passed": true, "detail": "IDLE"}));
    // The second agent's key does not speak for the first actor of the list.
    let told = smoke("agent-002").code(1).json();
    assert_eq!((&told["passed"], &told["steps"][2]["passed"]), (&json!(false), &json!(false)), "{told:#}");

    let before = fs::read(&config).unwrap();
    assert!(gavel(init).code(2).stderr.contains("is there already: nothing was written"));
    assert_eq!(fs::read(&config).unwrap(), before);
}

#[test]
fn play_2_1_the_smoke_test_of_itself_needs_nothing_and_finds_a_halted_kernel() {
    let told = gavel(["smoke"]).code(0).stdout;
    assert!(told.contains("smoke test passed"), "{told}");
    let server = Server::start(&Config::open());
    let _ = ask(&server, &["smoke", "--server"]).code(0);
    drop(server.post("/halt", &json!({"reason": "a test"})).expect(200));
    let told = ask(&server, &["smoke", "--server", "--json"]).code(1).json();
    let failed = told["steps"].as_array().unwrap().iter().filter(|step| step["passed"] == false);
    let failed: Vec<&str> = failed.map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(failed, ["health", "allowed", "denied", "state"], "{told:#}");
}

// --- 2.2 ---

#[test]
fn play_2_2_a_restart_keeps_the_evidence() {
    let site = Site::new(&Config::of(json!([Config::open_kernel("k"), Config::open_kernel("other")])));
    let server = site.serve();
    work(&server);
    let before = server.get("/status").expect(200);
    let restarted = ask(&server, &["restart", "--json", "--why", "an update"]).code(0).json();
    let after = server.get("/status").expect(200);
    assert_ne!(before["started_at_ms"], after["started_at_ms"]);
    assert_eq!((&before["ledger"]["root_hash"], &after["state"]), (&after["ledger"]["root_hash"], &json!("IDLE")));
    assert_eq!(server.get("/health").expect(200)["status"], "healthy");
    assert_eq!(restarted["health"].as_array().unwrap().len(), 2);
    let kept = file_of(&restarted["evidence"][0]["path"]);
    assert_eq!(verified(&kept)["entries"], 3);
    let event = event(&server, "RESTART");
    assert_eq!((&event["who"], &event["why"]), (&json!("anyone"), &json!("an update")));
    // The same process, which obeys as before.
    assert_eq!(server.submit(&intent("r4"))["decision"], "ALLOW");
    let site = server.stop();
    assert_eq!(verified(&site.ledger("k"))["entries"], 4);
}

#[test]
fn play_2_2_without_its_evidence_nothing_is_restarted() {
    let server = Server::start(&Config::open());
    let before = server.get("/status").expect(200);
    let backup = server.site().data().join("backup");
    fs::remove_dir_all(&backup).unwrap();
    fs::write(backup, "in the way").unwrap();
    let refused = ask(&server, &["restart"]).code(2);
    assert!(refused.stderr.contains("backup"), "{}", refused.stderr);
    assert_eq!(server.get("/status").expect(200)["started_at_ms"], before["started_at_ms"]);
    fs::remove_file(server.site().data().join("backup")).unwrap();
    let prepared = server.post("/restart", &json!({"prepare_only": true})).expect(200);
    assert_eq!(prepared["status"], "prepared");
    assert_eq!(server.get("/status").expect(200)["started_at_ms"], before["started_at_ms"]);
}

#[test]
fn play_2_2_a_restart_takes_an_update_and_keeps_the_port() {
    let site = Site::new(&Config::open());
    let program = site.path().join("gavel-now");
    std::os::unix::fs::symlink(gavel_path(), &program).unwrap();
    let serve = "exec ./gavel-now serve --listen 127.0.0.1:0 --config gavel.yaml --data data";
    let server = Server::spawn(Gavel::shell(serve, site.path()), site.clone());
    work(&server);
    // The update: the link leads to another program, which leaves a trace and serves as the first did.
    let update = site.path().join("gavel-next");
    let script = format!("#!/bin/sh\necho $$ > updated\nexec {} \"$@\"\n", path(gavel_path()));
    fs::write(&update, script).unwrap();
    fs::set_permissions(&update, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink(&update, &program).unwrap();
    let _ = ask(&server, &["restart", "--why", "an update"]).code(0);
    assert_eq!(fs::read_to_string(site.path().join("updated")).unwrap().trim(), server.pid().to_string());
    assert_eq!(server.entries(), 3);
}

#[test]
fn play_2_2_a_server_that_is_told_to_stop_while_it_restarts_stops() {
    let server = Server::start(&Config::open());
    // A request whose body is still to come is in flight.
    let mut holding = server.connect();
    let body = intent("r1").to_string();
    let head = holding.head("POST", "/submit", &[("content-type", "application/json")], Some(body.len()));
    holding.send(&head).unwrap();
    let until = Instant::now() + PATIENCE;
    while server.metrics().get("gavel_http_in_flight") < 2.0 {
        assert!(Instant::now() < until, "the request is never in flight");
    }
    drop(server.post("/restart", &json!({})).expect(200));
    server.wait_for_log("restarting: finishing what is in flight");
    server.ask_to_stop();
    server.wait_for_log("stopping: finishing what is in flight");
    holding.send(body.as_bytes()).unwrap();
    assert_eq!(holding.answer().unwrap().expect(200)["decision"], "ALLOW", "what is in flight is finished");
    assert_eq!(verified(&server.stop().ledger("k"))["entries"], 1);
}

// --- 3.1 ---

#[test]
fn play_3_1_a_healthy_kernel_passes_every_check() {
    let server = Server::start(&Config::open());
    let report = ask(&server, &["health", "--json"]).code(0).json();
    assert!(!report["checks"].to_string().contains("recent_activity"), "nothing was decided: {report:#}");
    work(&server);
    let report = ask(&server, &["health", "--json"]).code(0).json();
    assert_eq!((&report["all_passed"], &report["kernel_id"]), (&json!(true), &json!("k")));
    let integrity = check(&report, "audit_integrity");
    assert_eq!((&integrity["errors"], &integrity["complete"]), (&json!([]), &json!(true)), "{integrity}");
    assert_eq!((&integrity["verified_records"], &integrity["signed"]), (&integrity["records"], &json!(true)));
    let seen = check(&report, "decision_distribution");
    assert_eq!([&seen["allow"], &seen["deny"], &seen["ratio"]], [&json!(2), &json!(1), &json!(2.0)]);
    assert_eq!(check(&report, "kernel_state")["value"], "IDLE");
    assert_eq!(check(&report, "recent_activity")["passed"], true);
    assert!(ask(&server, &["health"]).code(0).stdout.starts_with("kernel k is well"));
    let all = ask(&server, &["health", "--all", "--json"]).code(0).json();
    assert_eq!((&all["all_passed"], &all["kernels"][0]["kernel_id"]), (&json!(true), &json!("k")));
    drop(server.post("/halt", &json!({})).expect(200));
    let report = ask(&server, &["health", "--json"]).code(0).json();
    assert_eq!(check(&report, "kernel_state")["value"], "HALTED", "as the seeds have it, that is a good state");
}

#[test]
fn play_3_1_a_long_ledger_is_verified_piece_by_piece() {
    let server = Server::start(&Config::open().with("operations", json!({"max_verify_bytes": 1_000})));
    for number in 0..20 {
        drop(server.submit(&intent(&format!("r{number}"))));
    }
    let mut verified = 0;
    let mut looks = 0;
    while server.get("/status").expect(200)["ledger"]["records"] != json!(verified) {
        let report = server.get("/health/check").expect(200);
        let integrity = check(&report, "audit_integrity");
        assert_eq!(integrity["passed"], true, "{integrity}");
        let now = integrity["verified_records"].as_u64().unwrap();
        assert!(now > verified, "each look goes on: {integrity}");
        (verified, looks) = (now, looks + 1);
    }
    assert!(looks > 3, "{looks}");
    let report = server.get("/health/check").expect(200);
    assert_eq!(check(&report, "audit_integrity")["complete"], true);
    assert_eq!(check(&report, "decision_distribution")["allow"], 20);
}

#[test]
fn play_3_1_what_is_not_well_fails_and_is_alerted_once() {
    let webhook = Webhook::start(&[]);
    let config = Config::open()
        .with("alerts", json!([{"url": webhook.url()}]))
        .with("operations", json!({"min_free_bytes": u64::MAX, "recent_activity_hours": 0}));
    let server = Server::start(&config);
    work(&server);
    for _ in 0..3 {
        let report = ask(&server, &["health", "--json"]).code(1).json();
        assert_eq!((&report["all_passed"], &check(&report, "disk_space")["passed"]), (&json!(false), &json!(false)));
        assert_eq!(check(&report, "recent_activity")["passed"], false);
    }
    // A flipped byte on the disk, beneath a server that runs.
    let log = server.site().ledger("k").join("segment-000000.log");
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&log, bytes).unwrap();
    let report = server.get("/health/check").expect(200);
    let integrity = check(&report, "audit_integrity");
    assert!(integrity["errors"][0].as_str().unwrap().contains("record "), "{integrity}");
    let mut alerts: Vec<String> = webhook.wait_for(3).iter().map(|alert| alert.json()["message"].to_string()).collect();
    alerts.sort();
    assert_eq!(alerts.len(), 3, "each once: {alerts:?}");
    for (alert, name) in alerts.iter().zip(["audit_integrity", "disk_space", "recent_activity"]) {
        assert!(alert.contains(name), "{alert}");
    }
}

#[test]
fn play_3_1_a_ledger_that_takes_no_more_records_is_alerted() {
    let webhook = Webhook::start(&[]);
    let config = Config::open()
        .with("alerts", json!([{"url": webhook.url()}]))
        .with("operations", json!({"watch_every_ms": 10, "min_free_bytes": 0}));
    let site = Site::new(&config);
    // A real I/O error on the real disk: no file of this process may grow beyond half a MiB.
    let serve = "trap '' XFSZ; ulimit -f 1024; exec gavel serve --listen 127.0.0.1:0 --config gavel.yaml --data data";
    let server = Server::spawn(Gavel::shell(serve, site.path()), site);
    let mut large = intent("r");
    large["intent"] = json!("x".repeat(4_000));
    let answers = (0..10_000).map(|_| server.post("/submit", &large).status);
    assert!(answers.into_iter().any(|status| status == 503), "the ledger never fails");
    let alert = webhook.wait_for(1)[0].json();
    assert_eq!([&alert["severity"], &alert["event"]], [&json!("CRITICAL"), &json!("LEDGER_POISONED")], "{alert}");
    let report = ask(&server, &["health", "--json"]).code(1).json();
    assert_eq!(check(&report, "ledger_accepts")["passed"], false);
    assert_eq!(check(&report, "audit_integrity")["passed"], true, "what was acknowledged holds: {report:#}");
    // It cannot be halted in its ledger, which somebody must know.
    assert_eq!(server.post("/halt/emergency", &json!({"reason": "now"})).status, 503);
    let alert = webhook.wait_for(2)[1].json();
    assert!(alert["message"].as_str().unwrap().contains("COULD NOT BE HALTED"), "{alert}");
}

#[test]
fn play_3_1_a_policy_in_quarantine_is_alerted_and_its_release_too() {
    let webhook = Webhook::start(&[]);
    let hostile = repository().join("tests/data/guests/hostile.wasm");
    let gate = json!({"component": path(&hostile), "config": {"do": "trap"}, "limits": {"deadline_ms": 5_000},
        "quarantine": {"failures": 2, "within_ms": 600_000}});
    let config = Config::of(json!([Config::ruled_kernel("k", &["gate"])]))
        .policy("gate", gate)
        .with("limits", json!({"decision_deadline_ms": 10_000}))
        .with("alerts", json!([{"url": webhook.url(), "severity_min": "INFO"}]))
        .with("operations", json!({"watch_every_ms": 10, "min_free_bytes": 0}));
    let server = Server::start(&config);
    drop((server.submit(&intent("r1")), server.submit(&intent("r2"))));
    let alert = webhook.wait_for(1)[0].json();
    assert_eq!([&alert["severity"], &alert["event"]], [&json!("CRITICAL"), &json!("POLICY_QUARANTINED")]);
    let report = ask(&server, &["health", "--json"]).code(1).json();
    assert_eq!(check(&report, "policies_in_service")["quarantined"], json!(["gate"]));
    drop(server.post("/policies/release", &json!({"policy": "gate"})).expect(200));
    let alert = webhook.wait_for(2)[1].json();
    assert_eq!([&alert["severity"], &alert["event"]], [&json!("INFO"), &json!("RECOVERED")], "{alert}");
}

// --- 3.2 ---

#[test]
fn play_3_2_an_investigation_tells_who_did_what() {
    let server = Server::start(&Config::open());
    let start = server.get("/status").expect(200)["started_at_ms"].as_u64().unwrap();
    work(&server);
    assert_eq!(server.submit(&call("r4", "no_such_tool", json!({})))["decision"], "DENY");
    let found = ask(&server, &["investigate", "--json"]).code(0).json();
    assert_eq!(found["entry_count"], 4);
    assert_eq!(found["by_actor"], json!({"agent-001": 3, "agent-002": 1}));
    assert_eq!(found["by_tool"], json!({"echo": 1, "no_such_tool": 1, "none": 2}));
    assert_eq!(found["by_decision"], json!({"ALLOW": 2, "DENY": 2}));
    let errors: Vec<&Value> = found["errors"].as_array().unwrap().iter().map(|error| &error["request_id"]).collect();
    assert_eq!((errors, &found["error_count"]), (vec![&json!("r3"), &json!("r4")], &json!(2)));
    let (first, last) = (&found["first"]["request_id"], &found["last"]["request_id"]);
    assert_eq!(
        (first, last, found["busiest_minutes"][0]["entries"].as_u64() > Some(0)),
        (&json!("r1"), &json!("r4"), true)
    );
    assert!(ask(&server, &["investigate"]).code(0).stdout.contains("no_such_tool"));

    let before = server.get(&format!("/investigate?from=0&to={}", start - 1)).expect(200);
    assert_eq!((&before["entry_count"], &before["time_range"]["start"]), (&json!(0), &json!(0)));
    let exact = server.get(&format!("/investigate?from={}&to={}", found["last"]["ts_ms"], found["last"]["ts_ms"]));
    assert!(exact.expect(200)["entry_count"].as_u64() >= Some(1), "both ends are included");
    let year = ["investigate", "--json", "--from", "2001-01-01T00:00:00Z", "--to", "2002-01-01T00:00:00+01:00"];
    assert_eq!(ask(&server, &year).code(0).json()["entry_count"], 0);
    for query in ["from=5&to=4", "from=yesterday", "since=4"] {
        assert!(!server.get(&format!("/investigate?{query}")).error(400).is_empty());
    }
    let _ = ask(&server, &["investigate", "--from", "yesterday"]).code(2);

    // The same from the folder, when there is no server any more.
    let site = server.stop();
    let offline = gavel(["investigate", "--json", "--ledger", path(&site.ledger("k"))]).code(0).json();
    assert_eq!((&offline["by_actor"], &offline["errors"]), (&found["by_actor"], &found["errors"]));
}

#[test]
fn play_3_2_lists_are_capped_and_counts_are_not() {
    let server = Server::start(&Config::open().with("operations", json!({"max_findings": 2})));
    for number in 0..5 {
        let request = json!({"request_id": format!("r{number}"), "actor": format!("a{number}"), "intent": ""});
        assert_eq!(server.submit(&request)["decision"], "DENY");
    }
    let found = server.get("/investigate").expect(200);
    assert_eq!((found["errors"].as_array().unwrap().len(), &found["error_count"]), (2, &json!(5)));
    assert_eq!(found["by_actor"], json!({"a0": 1, "a1": 1, "(others)": 3}));
}

// --- 4.1 ---

#[test]
fn play_4_1_an_emergency_halt_exports_halts_records_and_alerts() {
    let webhook = Webhook::start(&[500, 503]);
    let alerts = json!([{"url": webhook.url(), "secret": "s3cret", "headers": {"x-team": "on-call"}},
        {"url": "http://127.0.0.1:1/nobody", "severity_min": "CRITICAL"}]);
    let config =
        Config::open().with("alerts", alerts).with("operations", json!({"alert_backoff_ms": 1, "min_free_bytes": 0}));
    let server = Server::start(&config);
    work(&server);
    let halt = ["halt", "--emergency", "--json", "--reason", "agent-007 runs wild", "--incident", "INC-1"];
    let halted = ask(&server, &halt).code(0).json();
    assert_eq!([&halted["kernel_state"], &halted["incident_id"]], [&json!("HALTED"), &json!("INC-1")]);
    assert_eq!(server.get("/status").expect(200)["state"], "HALTED");
    let evidence = file_of(&halted["evidence"]["path"]);
    assert!(path(&evidence).contains("incident/pre_halt_k_"), "{evidence:?}");
    assert_eq!(verified(&evidence)["entries"], 3, "from before the halt");
    assert_eq!(halted["evidence"]["sha256"], digest(&evidence));

    let event = event(&server, "EMERGENCY_HALT");
    assert_eq!((&event["index"], &event["why"]), (&halted["incident_index"], &json!("agent-007 runs wild")));
    let details = &event["details"];
    assert_eq!([&details["pre_halt"]["state"], &details["post_state"]], [&json!("IDLE"), &json!("HALTED")]);

    // The third try is taken; all three are the same alert.
    let alerts = webhook.wait_for(3);
    let told = alerts[2].json();
    assert_eq!([&told["severity"], &told["kernel_id"]], [&json!("CRITICAL"), &json!("k")]);
    assert_eq!(told["message"], "Kernel k halted: agent-007 runs wild");
    assert!(alerts.iter().all(|alert| alert.body == alerts[0].body));
    assert_eq!(alerts[2].header("x-team"), Some("on-call"));
    let signed = hmac_sha256(b"s3cret", &alerts[2].body);
    assert_eq!(alerts[2].header("gavel-signature"), Some(format!("sha256={signed}").as_str()));

    assert!(ask(&server, &halt).code(2).stderr.contains("409"));
    assert_eq!(server.post("/submit", &intent("r9")).status, 409);
    let site = server.stop();
    assert_eq!(verified(&site.ledger("k"))["entries"], 4, "the events of the incident follow the halt");
}

/// As RFC 2104 has it, for a key shorter than a block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> String {
    let pad = |byte: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ byte).collect() };
    let inner: [u8; 32] = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize().into();
    hex(&Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize())
}

#[test]
fn play_4_1_a_server_that_is_overrun_can_still_be_halted() {
    let server =
        Server::start(&Config::open().with("limits", json!({"max_in_flight": 1, "request_timeout_ms": 600_000})));
    // A request whose body never ends holds the only place; one that comes while the look at it holds it is refused.
    let until = Instant::now() + PATIENCE;
    let holding = loop {
        let mut holding = server.connect();
        let head = holding.head("POST", "/submit", &[], Some(1_000));
        holding.send(&head).unwrap();
        if (0..100).any(|_| server.get("/status").status == 503) {
            break holding;
        }
        assert!(Instant::now() < until, "the place is never taken");
    };
    let halted = server.post("/halt/emergency", &json!({"reason": "overrun"})).expect(200);
    assert_eq!(halted["kernel_state"], "HALTED");
    drop(holding);
}

#[test]
fn play_4_1_a_halt_does_not_wait_for_evidence_that_cannot_be_had() {
    let server = Server::start(&Config::open());
    work(&server);
    fs::write(server.site().data().join("incident"), "in the way").unwrap();
    let halted = server.post("/halt/emergency", &json!({"reason": "now"})).expect(200);
    assert_eq!((&halted["kernel_state"], &halted["evidence"]), (&json!("HALTED"), &Value::Null));
    let why = halted["pre_halt"]["evidence_export_error"].as_str().unwrap();
    assert!(why.contains("was not exported"), "{why}");
    assert_eq!(event(&server, "EMERGENCY_HALT")["details"]["pre_halt"]["evidence_export_error"], why);
}

#[test]
fn play_4_1_evidence_that_takes_too_long_is_finished_after_the_halt() {
    let server = Server::start(&Config::open().with("operations", json!({"halt_export_ms": 0})));
    work(&server);
    let halted = server.post("/halt/emergency", &json!({"incident_id": "slow"})).expect(200);
    assert_eq!(halted["kernel_state"], "HALTED");
    let file = if halted["evidence"].is_null() {
        assert!(halted["pre_halt"]["evidence_export_error"].as_str().unwrap().contains("halt_export_ms"));
        server.wait_for("/investigate", |found| found["operator_events"].to_string().contains("EVIDENCE_EXPORTED"));
        let event = event(&server, "EVIDENCE_EXPORTED");
        assert_eq!(event["details"]["incident_id"], "slow");
        file_of(&event["details"]["evidence"]["path"])
    } else {
        file_of(&halted["evidence"]["path"])
    };
    assert!(verified(&file)["entries"].as_u64() >= Some(3));
}

// --- 4.2 ---

#[test]
fn play_4_2_preserved_evidence_is_sealed_and_its_digest_holds() {
    let server = Server::start(&Config::open());
    work(&server);
    let kept = ask(&server, &["preserve", "INC-2026-001", "--why", "security asks", "--json"]).code(0).json();
    let file = file_of(&kept["path"]);
    assert!(path(&file).contains("preserved/INC-2026-001_"), "{file:?}");
    assert_eq!((mode(&file), &kept["sha256"]), (0o400, &json!(digest(&file))));
    let beside = PathBuf::from(format!("{}.sha256", path(&file)));
    let name = file.file_name().unwrap().to_str().unwrap();
    assert_eq!(fs::read_to_string(&beside).unwrap(), format!("{}  {name}\n", digest(&file)));
    assert_eq!(mode(&beside), 0o400);
    assert_eq!(verified(&file)["root_hash"], kept["root_hash"]);
    let event = event(&server, "EVIDENCE_PRESERVED");
    assert_eq!((&event["index"], &event["why"]), (&kept["event_index"], &json!("security asks")));
    for key in ["sha256", "entry_count", "root_hash", "integrity_hash"] {
        assert_eq!(event["details"][key], kept[key], "{key}");
    }
    assert_eq!(event["details"]["filename"], kept["path"]);

    for id in ["../../etc/passwd", "a/b", "", ".hidden", "a b"] {
        let refused = server.post("/evidence/preserve", &json!({"incident_id": id})).error(422);
        assert!(refused.contains("letters, digits"), "{refused}");
    }
    // Also what a halted kernel did can be preserved, and twice.
    drop(server.post("/halt", &json!({})).expect(200));
    let again = server.post("/evidence/preserve", &json!({"incident_id": "INC-2026-001"})).expect(200);
    assert_eq!((&again["entry_count"], again["path"] != kept["path"]), (&json!(4), true));
}

// --- 5.2 ---

#[test]
fn play_5_2_rotations_are_one_chain() {
    let site = Site::new(&Config::open());
    let server = site.serve();
    assert!(ask(&server, &["rotate"]).code(1).stdout.contains("nothing to rotate"));
    work(&server);
    let first = ask(&server, &["rotate", "--json", "--why", "weekly"]).code(0).json();
    assert_eq!((&first["entry_count"], &first["first_ledger_seq"]), (&json!(3), &json!(0)));
    assert!(server.post("/evidence/rotate", &json!({})).error(409).contains("nothing to rotate"));
    // The next process knows where the last rotation ended.
    drop(server.stop());
    let server = site.serve();
    drop((server.submit(&intent("r4")), server.submit(&intent("r5"))));
    let second = server.post("/evidence/rotate", &json!({})).expect(200);
    assert_eq!([&second["entry_count"], &second["first_ledger_seq"]], [&json!(2), &json!(3)]);
    assert_eq!((&second["prev_hash"], &second["root_hash"]), (&first["root_hash"], &server.evidence()["root_hash"]));
    assert_eq!(verified(&file_of(&second["path"]))["follows"], first["root_hash"], "it says that it is not the whole");
    for rotated in [&first, &second] {
        let file = file_of(&rotated["archive_path"]);
        assert_eq!(
            (digest(&file), verified(&file)["entries"].clone()),
            (rotated["sha256"].as_str().unwrap().to_owned(), rotated["entry_count"].clone())
        );
    }
    let event = event(&server, "EVIDENCE_ROTATED");
    assert_eq!(event["index"], second["event_index"]);
    for key in ["entry_count", "root_hash", "archive_path"] {
        assert_eq!(event["details"][key], second[key], "{key}");
    }
    // The chain goes on, and what is in the archive is still here.
    drop(server.submit(&intent("r6")));
    assert_eq!(server.entries(), 6);
    assert_eq!(verified(&server.stop().ledger("k"))["entries"], 6);
}

// --- who may ---

#[test]
fn plays_are_for_operators_and_name_them() {
    let agent = Key::make("agent-key", &["--role", "agent", "--actor", "agent-001"]);
    let operator = Key::make("on-call", &["--role", "operator"]);
    let auditor = Key::make("auditor-key", &["--role", "auditor"]);
    let elsewhere = Key::make("elsewhere", &["--role", "operator", "--kernel", "other"]);
    let kernels = json!([Config::open_kernel("k"), Config::open_kernel("other")]);
    let server = Server::start(&Config::of(kernels).keys(&[&agent, &operator, &auditor, &elsewhere]));
    let send = |key: Option<&Key>, method: &str, path: &str, body: Option<&Value>| {
        let header = key.map(Key::header);
        let headers: Vec<(&str, &str)> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
        server.send(method, path, &headers, body.map(Value::to_string).as_ref().map(String::as_bytes))
    };
    drop(send(Some(&agent), "POST", "/submit", Some(&intent("r1"))).expect(200));
    let preserve = json!({"incident_id": "i"});
    let (halt, none) = (json!({"reason": "enough"}), json!({}));
    let plays = [
        ("GET", "/health/check", None, 200),
        ("GET", "/investigate", None, 200),
        ("POST", "/evidence/preserve", Some(&preserve), 200),
        ("POST", "/evidence/rotate", Some(&none), 200),
        ("POST", "/halt/emergency", Some(&halt), 200),
    ];
    for (method, path, body, wanted) in plays {
        let told = [None, Some(&agent), Some(&auditor), Some(&elsewhere), Some(&operator)]
            .map(|key| send(key, method, path, body).status);
        assert_eq!(told, [401, 403, 403, 403, wanted], "{path}");
    }
    let restart = json!({"prepare_only": true});
    let told = [&agent, &elsewhere, &operator].map(|key| send(Some(key), "POST", "/restart", Some(&restart)).status);
    assert_eq!(told, [403, 403, 200], "a restart is of every kernel");
    let events = send(Some(&operator), "GET", "/investigate", None).expect(200)["operator_events"].clone();
    let who: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["who"].as_str().unwrap()).collect();
    assert_eq!(who, ["on-call"; 4], "{events:#}");
}

#[test]
fn a_configuration_of_alerts_that_cannot_be_is_refused() {
    for (alerts, told) in [
        (json!([{"url": "ftp://x"}]), "use http:// or https://"),
        (json!([{"url": "not a url"}]), "alerts: url"),
        (json!([{"url": "http://x", "headers": {"a b": "c"}}]), "not one that HTTP can carry"),
        (json!([{"url": "http://x", "severty_min": "INFO"}]), "severity_min"),
    ] {
        let refused = Site::new(&Config::open().with("alerts", alerts)).refused();
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
    }
    let refused = Site::new(&Config::open().with("operations", json!({"max_readers": 0}))).refused();
    assert!(refused.stderr.contains("operations.max_readers is 0"), "{}", refused.stderr);
}

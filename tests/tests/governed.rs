//! A governed request from end to end: judged, recorded, executed, recorded, answered.
//!
//! What belongs here: what a request does in the host, its tools and its ledger, while nothing
//! breaks. What must survive a crash is in `crash.rs`, what policies say in `policies.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

use gavel_kernel::Keyring;
use gavel_ledger::RecordView;
use gavel_tests::{Config, Server, Site, call, intent};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::thread;

/// The records of a kernel that nobody serves any more.
fn records(site: &Site) -> Vec<RecordView> {
    let (_, records) = gavel_ledger::read_dir(&site.ledger("k")).expect("a sound ledger");
    let records: Result<Vec<_>, _> = records.collect();
    records.expect("every record can be read")
}

/// The error of a receipt, and that its status is this.
fn error(receipt: &Value, status: &str) -> String {
    assert_eq!(receipt["status"], status, "{receipt}");
    receipt["error"].as_str().expect("an error").to_owned()
}

#[test]
fn decide_judges_and_records_but_runs_nothing() {
    let server = Server::start(&Config::open());
    let request = call("r1", "write_file", json!({"path": "a.txt", "content": "x"}));
    let decided = server.decide("k", &request);
    assert_eq!((&decided["decision"], &decided["status"]), (&json!("ALLOW"), &json!("ACCEPTED")));
    assert_eq!((&decided["result"], &decided["tool_result"]), (&Value::Null, &Value::Null));
    assert!(!server.site().workspace().join("a.txt").exists());
    let entry = server.evidence()["ledger_entries"][0].clone();
    assert_eq!((&entry["tool_name"], &entry["entry_hash"]), (&json!("write_file"), &decided["evidence_hash"]));
    // Whether a tool is registered is a question of running it: to judge, it need not be.
    assert_eq!(server.decide("k", &call("r2", "transfer_money", json!({})))["decision"], "ALLOW");

    let submitted = server.submit(&request);
    assert_eq!(submitted["result"], json!({"path": "a.txt", "bytes": 1}));
    assert_eq!(fs::read_to_string(server.site().workspace().join("a.txt")).unwrap(), "x");
}

#[test]
fn the_decision_stands_in_the_ledger_before_the_outcome() {
    let server = Server::start(&Config::open());
    let _ = server.submit(&call("r1", "echo", json!({"text": "hello"})));
    let _ = server.submit(&call("r2", "read_file", json!({"path": "nothing"})));
    let _ = server.submit(&intent("r3"));
    let _ = server.decide("k", &call("r4", "echo", json!({"text": "hello"})));
    let entries = server.entries();
    let records = records(&server.stop());
    let kinds: Vec<&str> = records.iter().map(RecordView::kind).collect();
    assert_eq!(kinds, ["opened", "key", "decision", "outcome", "decision", "outcome", "decision", "decision"]);
    assert_eq!(entries, 4, "an open decision is no entry, its outcome is");
    let meta: Value = serde_json::from_str(records[2].meta()).unwrap();
    assert!(records[2].entry().is_none());
    assert_eq!(meta["request"], json!({"request_id": "r1", "actor": "agent-001", "intent": "Look around"}));
    assert_eq!(
        (&meta["tool_name"], &meta["mode"], &meta["caller"]),
        (&json!("echo"), &json!("submit"), &json!("anyone"))
    );
    assert_eq!(records[3].closes(), Some(2));
    assert_eq!(records[5].closes(), Some(4));
    let failed: Value = serde_json::from_str(records[5].entry().unwrap().data).unwrap();
    assert_eq!((&failed["decision"], &failed["request_id"]), (&json!("DENY"), &json!("r2")));
}

#[test]
fn a_tool_that_fails_or_is_not_there_is_reported_and_recorded() {
    let server = Server::start(&Config::open());
    for (tool, params, expected) in [
        ("read_file", json!({"path": "nothing"}), "Tool execution failed: 'nothing' cannot be read: "),
        ("add", json!({"a": 1, "b": "x"}), "Tool execution failed: parameters 'a' and 'b' must both be numbers"),
        ("search", json!({"query": ""}), "Tool execution failed: parameter 'query' is empty"),
        ("transfer_money", json!({}), "Tool execution failed: Tool 'transfer_money' is not registered"),
    ] {
        let receipt = server.submit(&call(tool, tool, params));
        assert!(error(&receipt, "FAILED").starts_with(expected), "{receipt}");
        assert_eq!((&receipt["decision"], &receipt["result"]), (&json!("DENY"), &Value::Null));
    }
    let bundle = server.evidence();
    for entry in bundle["ledger_entries"].as_array().unwrap() {
        assert_eq!(entry["decision"], "DENY");
        assert!(entry["error"].as_str().unwrap().starts_with("Tool execution failed: "));
        assert_eq!((&entry["tool_name"], &entry["params_hash"]), (&Value::Null, &Value::Null));
    }
}

#[test]
fn numbers_are_exact_at_any_size() {
    let server = Server::start(&Config::open());
    let nines = "9".repeat(300);
    let body = format!(
        r#"{{"request_id": "r1", "actor": "a", "intent": "i", "tool_call": {{"name": "add", "params": {{"a": {nines}, "b": 1}}}}}}"#
    );
    let answer = server.post_bytes("/submit", body.as_bytes());
    assert!(answer.text().contains(&format!("\"result\":1{}", "0".repeat(300))), "{}", answer.text());
}

#[test]
fn nothing_outside_the_workspace_is_reached() {
    let server = Server::start(&Config::open());
    let site = server.site();
    let workspace = site.workspace();
    fs::write(site.path().join("secret.txt"), "the secret").unwrap();
    symlink("../../secret.txt", workspace.join("link")).unwrap();
    symlink("../..", workspace.join("up")).unwrap();
    symlink(site.path().join("secret.txt"), workspace.join("absolute")).unwrap();
    let secret = site.path().join("secret.txt");
    let paths =
        ["../../secret.txt", "link", "absolute", "up/secret.txt", "a/../../../secret.txt", "./../../secret.txt"];
    for path in paths.into_iter().chain([secret.to_str().unwrap(), "/etc/hostname", "/proc/self/environ", ""]) {
        for (tool, params) in [
            ("read_file", json!({"path": path})),
            ("search", json!({"path": path, "query": "secret"})),
            ("write_file", json!({"path": format!("{path}/x"), "content": "escaped"})),
        ] {
            let receipt = server.submit(&call("r", tool, params));
            assert_eq!(receipt["status"], "FAILED", "{tool} {path:?}: {receipt}");
            assert!(!receipt.to_string().contains("the secret"), "{tool} {path:?}: {receipt}");
        }
    }
    // A link is replaced by what is written over it, never followed.
    for path in ["link", "absolute", "../../secret.txt"] {
        let _ = server.submit(&call("w", "write_file", json!({"path": path, "content": "escaped"})));
    }
    let found = server.submit(&call("s", "search", json!({"query": "the secret"})));
    assert_eq!(found["result"]["matches"], json!([]), "{found}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the secret");
    let names: BTreeSet<_> = fs::read_dir(site.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, BTreeSet::from(["data".into(), "gavel.yaml".into(), "secret.txt".into()]));
}

#[test]
fn results_and_files_are_capped() {
    let limits = json!({"limits": {"max_result_bytes": 100, "max_file_bytes": 200, "max_search_files": 2}});
    let server = Server::start(&Config::open().with("tools", limits));
    let workspace = server.site().workspace();
    for name in ["a", "b", "c"] {
        fs::write(workspace.join(name), "needle\n").unwrap();
    }
    fs::write(workspace.join("middle"), "x".repeat(150)).unwrap();
    fs::write(workspace.join("big"), "x".repeat(201)).unwrap();
    let failed = |tool: &str, params: Value| error(&server.submit(&call("r", tool, params)), "FAILED");
    assert_eq!(
        failed("echo", json!({"text": "x".repeat(99)})),
        "Tool execution failed: the result of tool 'echo' is larger than 100 bytes (tools.limits.max_result_bytes)"
    );
    assert!(failed("read_file", json!({"path": "middle"})).ends_with("(tools.limits.max_result_bytes)"));
    assert!(failed("read_file", json!({"path": "big"})).ends_with("(tools.limits.max_file_bytes)"));
    let write = json!({"path": "new", "content": "x".repeat(201)});
    assert!(failed("write_file", write).ends_with("(tools.limits.max_file_bytes)"));
    assert!(!workspace.join("new").exists());
    assert_eq!(server.submit(&call("e", "echo", json!({"text": "x".repeat(98)})))["status"], "ACCEPTED");
    let found = server.submit(&call("s", "search", json!({"query": "needle", "max_results": 1})));
    assert_eq!(
        (&found["result"]["truncated"], found["result"]["matches"].as_array().unwrap().len()),
        (&json!(true), 1)
    );
}

/// A workspace in which a search for what is nowhere takes a while: sparse files, no disk space.
fn fill_with_work(server: &Server) {
    let workspace = server.site().workspace();
    for number in 0..300 {
        fs::File::create(workspace.join(format!("{number:04}"))).unwrap().set_len(1 << 20).unwrap();
    }
}

#[test]
fn a_slow_tool_is_cut_off_and_others_go_on() {
    let server = Server::start(&Config::open().with("tools", json!({"limits": {"deadline_ms": 50}})));
    fill_with_work(&server);
    thread::scope(|threads| {
        let slow = threads.spawn(|| server.submit(&call("slow", "search", json!({"query": "nowhere"}))));
        assert_eq!(server.submit(&call("quick", "echo", json!({"text": "x"})))["result"], "x");
        let error = error(&slow.join().unwrap(), "FAILED");
        assert!(error.ends_with("took longer than 50 ms (tools.limits.deadline_ms)"), "{error}");
    });
}

#[test]
fn a_request_is_carried_to_its_end_though_its_caller_goes_away() {
    let server = Server::start(&Config::open());
    fill_with_work(&server);
    let body = call("abandoned", "search", json!({"query": "nowhere"})).to_string();
    let mut caller = server.connect();
    let mut request = caller.head("POST", "/submit", &[], Some(body.len()));
    request.extend_from_slice(body.as_bytes());
    caller.send(&request).unwrap();
    server.wait_for_status(|status| status["requests"]["executing"] == 1);
    drop(caller);
    server.wait_for_status(|status| status["ledger"]["entries"] == 1);
    let entry = server.evidence()["ledger_entries"][0].clone();
    assert_eq!((&entry["request_id"], &entry["decision"]), (&json!("abandoned"), &json!("ALLOW")));
    let in_flight = server.metrics().get("gavel_http_in_flight");
    assert!((in_flight - 1.0).abs() < 1e-9, "only the scrape itself is in flight, not {in_flight}");
}

#[test]
fn parallel_submitters_make_one_chain() {
    const SUBMITTERS: usize = 64;
    const EACH: usize = 8;
    let server = Server::start(&Config::open());
    let receipts: Vec<Value> = thread::scope(|threads| {
        let submit = |submitter: usize| {
            let mut connection = server.connect();
            let mut receipts = Vec::new();
            for number in 0..EACH {
                let id = format!("{submitter}-{number}");
                let request = match number % 3 {
                    0 => intent(&id),
                    1 => call(&id, "add", json!({"a": submitter, "b": number})),
                    _ => json!({"request_id": id, "actor": "", "intent": "denied"}),
                };
                let body = request.to_string();
                let receipt = connection.request("POST", "/submit", &[], Some(body.as_bytes())).unwrap().expect(200);
                assert_eq!(receipt["request_id"], id.as_str());
                if number % 3 == 1 {
                    assert_eq!(receipt["result"], submitter + number);
                }
                receipts.push(receipt);
            }
            receipts
        };
        let running: Vec<_> = (0..SUBMITTERS).map(|submitter| threads.spawn(move || submit(submitter))).collect();
        // A bundle that is taken in the middle is whole in itself.
        check_bundle(&server.evidence());
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let hash_of = |receipt: &Value| receipt["evidence_hash"].as_str().unwrap().to_owned();
    let hashes: BTreeSet<String> = receipts.iter().map(hash_of).collect();
    assert_eq!(hashes.len(), SUBMITTERS * EACH);
    let bundle = server.evidence();
    check_bundle(&bundle);
    let recorded: BTreeMap<&str, &Value> = bundle["ledger_entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["entry_hash"].as_str().unwrap(), &entry["request_id"]))
        .collect();
    assert_eq!(recorded.len(), SUBMITTERS * EACH);
    for receipt in &receipts {
        assert_eq!(recorded[hash_of(receipt).as_str()], &receipt["request_id"]);
    }
    let verified = gavel_ledger::verify_dir(&server.stop().ledger("k")).unwrap();
    assert_eq!((verified.entries, verified.open_decisions), ((SUBMITTERS * EACH) as u64, 0));
}

#[test]
fn a_record_says_what_each_policy_said_and_how_it_was_kept() {
    let kernel = Config::ruled_kernel("k", &["hours", "business-hours"]);
    let limits = json!({"deadline_ms": 5_000});
    let always = json!({"from": "00:00", "to": "24:00"});
    let mut warm = json!({"component": "builtin:business-hours", "config": always, "limits": limits});
    let fresh = warm.clone();
    warm["limits"]["isolation"] = json!("warm");
    let config = Config::of(json!([kernel])).policy("hours", warm).policy("business-hours", fresh);
    let server = Server::start(&config.with("limits", json!({"decision_deadline_ms": 10_000})));
    assert_eq!(server.submit(&intent("r-1"))["decision"], "ALLOW");
    let digest = server.get("/policy").expect(200)["policy_set"].clone();
    let records = records(&server.stop());
    let meta: Value = serde_json::from_str(records.last().expect("a record").meta()).unwrap();
    assert_eq!(meta["policy_set"], digest);
    let said = json!([
        {"name": "hours", "verdict": "allow", "isolation": "warm"},
        {"name": "business-hours", "verdict": "allow"},
    ]);
    assert_eq!(meta["policies"], said);
}

fn check_bundle(bundle: &Value) {
    let bundle = serde_json::from_value(bundle.clone()).expect("a bundle");
    gavel_kernel::verify_bundle(&bundle).expect("the bundle holds");
}

const SECRET: &str = "00112233445566778899aabbccddeeff";

fn with_permits() -> Config {
    let mut kernel = Config::open_kernel("k");
    kernel["permits"] = json!({"keyring": {"key-1": SECRET}});
    Config::of(json!([kernel]))
}

/// A permit for `echo`, signed, with some fields set otherwise.
fn permit(other: &Value) -> Map<String, Value> {
    let mut permit = json!({
        "issuer": "operator", "subject": "agent-001", "jurisdiction": "default", "action": "echo", "params": {},
        "constraints": {}, "max_executions": 1, "valid_from_ms": 0, "valid_until_ms": 9_000_000_000_000_u64,
        "proposal_hash": "", "nonce": "nonce-1",
    });
    for (name, value) in other.as_object().expect("fields") {
        permit[name] = value.clone();
    }
    let keyring = Keyring::from_hex([("key-1", SECRET)]).expect("a keyring");
    keyring.sign("key-1", permit.as_object().expect("an object").clone()).expect("the key is there")
}

fn echo_with(permit: &Map<String, Value>) -> Value {
    let mut request = call("r1", "echo", json!({"text": "x"}));
    request["permit"] = json!(permit);
    request
}

#[test]
fn a_kernel_with_a_keyring_wants_permits() {
    let server = Server::start(&with_permits());
    let denied = |request: &Value| error(&server.submit(request), "REJECTED");
    assert_eq!(denied(&call("r1", "echo", json!({"text": "x"}))), "MISSING_PERMIT");
    assert_eq!(server.submit(&intent("r2"))["decision"], "ALLOW", "without a tool call there is nothing to permit");
    let accepted = server.submit(&echo_with(&permit(&json!({}))));
    assert_eq!(accepted["result"], "x", "{accepted}");
    let mut forged = permit(&json!({"nonce": "n2"}));
    forged.insert("max_executions".into(), json!(1_000));
    assert_eq!(denied(&echo_with(&forged)), "Permit verification failed: SIGNATURE_INVALID");
    let other = permit(&json!({"nonce": "n3", "action": "write_file", "valid_until_ms": 1}));
    assert_eq!(denied(&echo_with(&other)), "Permit verification failed: EXPIRED, ACTION_MISMATCH");
    let entries = server.evidence()["ledger_entries"].clone();
    assert_eq!(entries[0]["permit_denial_reasons"], json!(["MISSING_PERMIT"]));
    assert_eq!((&entries[2]["permit_verification"], &entries[2]["permit_nonce"]), (&json!("ALLOW"), &json!("nonce-1")));
    assert_eq!(entries[3]["permit_verification"], "DENY");
}

#[test]
fn a_used_permit_stays_used_after_a_restart() {
    let site = Site::new(&with_permits());
    let replayed = "Permit verification failed: REPLAY_DETECTED";
    let (once, twice) = (permit(&json!({})), permit(&json!({"nonce": "nonce-2", "max_executions": 2})));
    let server = site.serve();
    assert_eq!(server.submit(&echo_with(&once))["status"], "ACCEPTED");
    assert_eq!(error(&server.submit(&echo_with(&once)), "REJECTED"), replayed);
    assert_eq!(server.submit(&echo_with(&twice))["status"], "ACCEPTED");
    server.kill();
    let server = site.serve();
    assert_eq!(error(&server.submit(&echo_with(&once)), "REJECTED"), replayed);
    assert_eq!(server.submit(&echo_with(&twice))["status"], "ACCEPTED");
    let _ = server.stop();
    let server = site.serve();
    assert_eq!(error(&server.submit(&echo_with(&twice)), "REJECTED"), replayed);
}

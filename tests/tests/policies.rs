//! Policies as a server applies them: the standard ones, and one that misbehaves.
//!
//! What belongs here: that a policy's word reaches the caller, and that a policy without a usable
//! word denies, with the limit named, and disturbs nobody else. What the sandbox does in detail is
//! tested in `gavel-runtime`, what a standard policy means in its own crate.

use gavel_tests::{Config, Server, Site, call, gavel, in_time, intent, repository};
use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

/// One kernel that `policy` judges, with time enough for a build without optimisation on a busy
/// machine, unless `entry` has limits of its own.
fn ruled(policy: &str, entry: Value) -> Config {
    patient(Config::of(json!([Config::ruled_kernel("k", &[policy])]))).policy(policy, unhurried(entry))
}

/// Time for decisions of policies that are [`unhurried`].
fn patient(config: Config) -> Config {
    config.with("limits", json!({"decision_deadline_ms": 10_000}))
}

fn unhurried(mut entry: Value) -> Value {
    if entry["limits"].is_null() {
        entry["limits"] = json!({"deadline_ms": 5_000});
    }
    entry
}

/// The entry of the guest that misbehaves as it is told.
fn hostile(deed: &Value) -> Value {
    let component = repository().join("tests/data/guests/hostile.wasm");
    json!({"component": component, "config": deed})
}

/// The entry of a guest that never ends, with the deadline that a policy has by default.
fn endless() -> Value {
    let mut entry = hostile(&json!({"do": "loop"}));
    entry["limits"] = json!({"deadline_ms": 10});
    entry
}

/// A server whose one kernel is judged by the guest that misbehaves, in its own time.
fn patient_server(deed: &Value) -> Server {
    Server::start(&ruled("mine", hostile(deed)))
}

/// The error of a receipt, empty where it allows.
fn word(receipt: &Value) -> &str {
    let error = receipt["error"].as_str().unwrap_or_default();
    assert_eq!(receipt["decision"], if error.is_empty() { "ALLOW" } else { "DENY" }, "{receipt}");
    error
}

/// `HH:MM` so many minutes from a time, by the clock of the server.
fn clock(now_ms: u64, minutes: u64) -> String {
    let minute = (now_ms / 60_000 + minutes) % 1_440;
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

#[test]
fn business_hours_go_by_the_kernels_clock() {
    let now_ms = Server::start(&Config::open()).submit(&intent("r"))["ts_ms"].as_u64().unwrap();
    let hours = |from: u64, to: u64| {
        let config = json!({"from": clock(now_ms, from), "to": clock(now_ms, to)});
        Server::start(&ruled("business-hours", json!({"config": config})))
    };
    // The time that a caller claims does not count.
    let mut late = intent("late");
    late["ts_ms"] = json!(now_ms + 7 * 3_600_000);
    assert_eq!(word(&hours(1_440 - 60, 120).submit(&late)), "");
    let receipt = hours(360, 540).submit(&late);
    assert!(word(&receipt).starts_with("Policy denied: business-hours: Outside business hours ("), "{receipt}");
}

#[test]
fn business_hours_as_documented() {
    let config = json!({
        "tools": ["deploy_*"], "from": "08:30", "to": "16:00", "days": ["mon", "tue", "wed", "thu"],
        "holidays": ["2026-06-04"], "utc_offset_minutes": 120,
    });
    let site = Site::new(&ruled("business-hours", json!({"config": config})));
    let request = |tool: Option<&str>, ts_ms: u64| {
        let mut request = tool.map_or_else(|| intent("r"), |tool| call("r", tool, json!({})));
        request["ts_ms"] = json!(ts_ms);
        request
    };
    // 2026-06-03T07:00:00Z, a Wednesday.
    let wednesday = 1_780_470_000_000;
    let denied =
        "Policy denied: business-hours: Outside business hours (08:30-16:00 UTC+02:00, mon tue wed thu): it is";
    let cases = [
        (request(Some("deploy_web"), wednesday), String::new()),
        (request(Some("deploy_web"), wednesday + 7 * 3_600_000), format!("{denied} wed 16:00")),
        (request(Some("deploy_web"), wednesday + 24 * 3_600_000), format!("{denied} thu 09:00, a holiday")),
        (request(Some("read_file"), wednesday + 7 * 3_600_000), String::new()),
        (request(None, wednesday + 7 * 3_600_000), String::new()),
    ];
    let requests = site.path().join("requests.jsonl");
    let lines: Vec<String> = cases.iter().map(|(request, _)| request.to_string()).collect();
    fs::write(&requests, lines.join("\n")).unwrap();
    let (config, requests) = (site.config(), requests.display().to_string());
    let args = ["decide", "--clock", "request", "--config", config.to_str().unwrap(), "--requests", &requests];
    let receipts = gavel(args).code(0).json_lines();
    for (receipt, (request, expected)) in receipts.iter().zip(&cases) {
        assert_eq!(word(receipt), expected, "{request}");
    }
    assert_eq!(receipts.len(), cases.len());
}

#[test]
fn path_allow_list_as_documented() {
    let config = json!({
        "root": "/workspace",
        "rules": [{
            "tools": ["read_file", "write_*"], "params": ["path"],
            "allow": ["src/**", "docs/*.md", "/tmp/gavel/**"], "deny": ["**/.env", "**/*.pem", "src/generated/**"],
        }],
    });
    let server = Server::start(&ruled("path-allow-list", json!({"config": config})));
    for (tool, params, reason) in [
        ("read_file", json!({"path": "src/main.rs"}), ""),
        ("read_file", json!({"path": "/workspace/docs/README.md"}), ""),
        ("write_file", json!({"path": ["src/a.rs", "src/b.rs"]}), ""),
        (
            "read_file",
            json!({"path": "src/.ENV"}),
            "path 'src/.ENV' in parameter 'path' of tool 'read_file' fits the denied pattern '**/.env'",
        ),
        (
            "read_file",
            json!({"path": "x/../../etc/passwd"}),
            "path 'x/../../etc/passwd' in parameter 'path' of tool 'read_file' leaves the workspace",
        ),
        (
            "read_file",
            json!({"path": "/etc/passwd"}),
            "path '/etc/passwd' in parameter 'path' of tool 'read_file' fits no allowed pattern",
        ),
        ("read_file", json!({"path": 7}), "parameter 'path' of tool 'read_file' is a number, not a path"),
        ("read_file", json!({}), "tool 'read_file' is called without its parameter 'path'"),
        ("list_users", json!({}), ""),
    ] {
        let receipt = server.decide("k", &call("r", tool, params.clone()));
        let expected =
            if reason.is_empty() { String::new() } else { format!("Policy denied: path-allow-list: {reason}") };
        assert_eq!(word(&receipt), expected, "{tool} {params}");
    }
}

#[test]
fn the_default_configuration_keeps_secrets() {
    let site = Site::new(&Config::text(""));
    let server = site.serve();
    assert!(server.announcement.contains("policies: path-allow-list"), "{}", server.announcement);
    fs::write(site.workspace().join("notes.txt"), "hello").unwrap();
    let read = |path: &str| in_time(|| server.submit(&call("r", "read_file", json!({"path": path}))));
    assert_eq!(read("notes.txt")["result"], "hello");
    for path in [".env", "a/.git/config", "server.key", "my-secrets.txt", "id_rsa", "/etc/passwd", "../x"] {
        let receipt = read(path);
        assert!(word(&receipt).starts_with("Policy denied: path-allow-list: "), "{path}: {receipt}");
    }
    let receipt = server.submit(&call("r", "transfer_money", json!({})));
    assert_eq!(word(&receipt), "Jurisdiction denied: Tool 'transfer_money' is not in allowed tools");
}

#[test]
fn a_policys_word_is_taken_in_order() {
    let kernel = Config::ruled_kernel("k", &["first", "second"]);
    let server = |first: Value, second: Value| {
        let config = patient(Config::of(json!([kernel]))).policy("first", unhurried(hostile(&first)));
        Server::start(&config.policy("second", unhurried(hostile(&second))))
    };
    let (allow, abstain) = (json!({"do": "allow"}), json!({"do": "abstain"}));
    let deny = |reason: &str| json!({"do": "deny", "reason": reason});
    for (first, second, expected) in [
        (allow.clone(), abstain.clone(), ""),
        (abstain.clone(), abstain.clone(), ""),
        (deny("one"), deny("two"), "Policy denied: first: one"),
        (allow.clone(), deny("two"), "Policy denied: second: two"),
        (json!({"do": "trap"}), allow, "Policy denied: first: failed closed: trap: "),
    ] {
        let receipt = server(first, second).submit(&intent("r"));
        let said = word(&receipt);
        assert!(if expected.is_empty() { said.is_empty() } else { said.starts_with(expected) }, "{receipt}");
    }
    // What a policy escalates is denied until a human approves it, and another policy's denial counts more.
    let ask = json!({"do": "escalate", "reason": "ask"});
    let receipt = server(ask.clone(), abstain).submit(&intent("r"));
    assert_eq!((word(&receipt), &receipt["approval"]["state"]), ("Policy denied: first: ask", &json!("waiting")));
    let receipt = server(ask, deny("two")).submit(&intent("r"));
    assert_eq!((word(&receipt), &receipt["approval"]), ("Policy denied: second: two", &Value::Null));
}

#[test]
fn what_a_policy_is_told_is_what_was_asked() {
    let server = Server::start(&ruled("mirror", hostile(&json!({"do": "echo"}))));
    let mut request = call("r-1", "echo", json!({"text": "é", "n": 1.0}));
    request["evidence"] = json!(["a", "b"]);
    let receipt = server.submit(&request);
    for field in ["id=\"r-1\"", "actor=\"agent-001\"", "intent=\"Look around\"", r#"{"n":1.0,"text":"\u00e9"}"#] {
        let told = word(&receipt).replace("\\\"", "\"").replace("\\\\", "\\");
        assert!(told.contains(field), "{field}: {told}");
    }
}

#[test]
fn a_policy_without_a_usable_word_denies() {
    for (deed, expected) in [
        (json!({"do": "allocate"}), "memory limit of 16777216 bytes reached, "),
        (json!({"do": "recurse"}), "stack overflow, the limit is 524288 bytes (max_stack_bytes)"),
        (json!({"do": "recurse-in-memory"}), "trap: "),
        (json!({"do": "trap"}), "trap: "),
        (json!({"do": "panic"}), "trap: "),
        (json!({"do": "answer", "bytes": 5_000}), "output larger than 4096 bytes (max_output_bytes)"),
        (json!({"do": "answer", "bytes": 10_000_000}), "output larger than 4096 bytes (max_output_bytes)"),
        (json!({"do": "not-utf8"}), "undecodable answer: "),
    ] {
        let server = patient_server(&deed);
        let request = call("r", "write_file", json!({"path": "a", "content": "x"}));
        let receipt = server.submit(&request);
        let said = word(&receipt);
        assert!(said.starts_with(&format!("Policy denied: mine: failed closed: {expected}")), "{deed}: {said}");
        if expected.ends_with(')') {
            assert_eq!(said, format!("Policy denied: mine: failed closed: {expected}"), "{deed}");
        }
        assert!(!server.site().workspace().join("a").exists(), "{deed}: nothing ran");
        let entry = server.evidence()["ledger_entries"][0].clone();
        assert_eq!((&entry["decision"], &entry["error"]), (&json!("DENY"), &receipt["error"]));
        let samples = server.metrics();
        assert!((samples.sum("gavel_policy_evaluations_total{policy=\"mine\"") - 1.0).abs() < 1e-9);
    }
}

#[test]
fn a_policy_that_takes_too_long_denies() {
    let server = Server::start(&ruled("mine", endless()));
    let receipt = server.submit(&intent("r"));
    assert_eq!(word(&receipt), "Policy denied: mine: failed closed: deadline of 10 ms exceeded (deadline_ms)");
}

#[test]
fn a_policys_broken_configuration_denies() {
    let server = Server::start(&ruled("mine", hostile(&json!({"do": "dance"}))));
    let receipt = server.submit(&intent("r"));
    assert_eq!(word(&receipt), "Policy denied: mine: the policy's configuration is broken: there is no deed 'dance'");
}

#[test]
fn a_policys_log_is_capped_and_cannot_forge_lines() {
    let server = patient_server(&json!({"do": "log"}));
    assert_eq!(word(&server.submit(&intent("r"))), "");
    let (_, log) = server.terminate();
    let lines = log.lines().filter(|line| line.contains("line ")).count();
    assert!((64..=66).contains(&lines), "{lines} lines of 10000");
    let server = patient_server(&json!({"do": "long-line"}));
    assert_eq!(word(&server.submit(&intent("r"))), "");
    let (_, log) = server.terminate();
    assert!(log.len() < 10_000, "{} bytes of log", log.len());
}

#[test]
fn counters_are_kept_from_request_to_request() {
    let deed = json!({"do": "count", "key": "sent", "amount": 1, "window_ms": 3_600_000, "max": 3});
    let server = patient_server(&deed);
    let words: Vec<String> = (0..5).map(|_| word(&server.submit(&intent("r"))).to_owned()).collect();
    assert_eq!(words[..3], ["", "", ""]);
    assert_eq!(words[3..], ["Policy denied: mine: 4 is more than 3", "Policy denied: mine: 5 is more than 3"]);
    let server = patient_server(&json!({"do": "remember"}));
    for _ in 0..3 {
        let receipt = server.submit(&intent("r"));
        assert_eq!(word(&receipt), "Policy denied: mine: call 1 of this instance");
    }
}

/// Says that it is over when it goes, also by a panic: who waits for that must not wait for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn endless_policies_do_not_stop_the_others() {
    let mut kernels = [Config::ruled_kernel("k", &["calm"]), Config::ruled_kernel("endless", &["endless"])];
    kernels[0]["policy"]["allowed_actors"] = json!(["agent-001"]);
    let config = patient(Config::of(json!(kernels)))
        .policy("calm", unhurried(hostile(&json!({"do": "allow"}))))
        .policy("endless", endless());
    let server = Server::start(&config);
    let done = AtomicBool::new(false);
    let slowest = thread::scope(|threads| {
        let _stop = Stop(&done);
        let (looped, loops) = sync_channel(1_000);
        for _ in 0..2 {
            let (server, done, looped) = (&server, &done, looped.clone());
            threads.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let receipt = server.decide("endless", &intent("r"));
                    assert!(word(&receipt).contains("failed closed: deadline of 10 ms"), "{receipt}");
                    // Once enough were counted nobody listens any more.
                    let _ = looped.try_send(());
                }
            });
        }
        drop(looped);
        assert_eq!(loops.iter().take(4).count(), 4, "the endless ones are at it");
        let took = |number: usize| {
            let started = Instant::now();
            let receipt = server.submit(&call(&format!("r{number}"), "echo", json!({"text": number})));
            assert_eq!(receipt["result"], number, "{receipt}");
            started.elapsed()
        };
        (0..100).map(took).max().expect("a hundred")
    });
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

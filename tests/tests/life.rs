//! The life of a policy set: upload, trial, promotion, roll back, quarantine, folder, restart.
//!
//! What belongs here: that a change reaches decisions, exactly once and all at once, that it is
//! recorded, that it survives a restart, and that a bad candidate changes nothing. What a candidate
//! is refused for is in `candidates.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

use gavel_tests::{Config, Key, Server, Site, intent, repository};
use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const PATIENT: u64 = 5_000;

/// A kernel whose one policy `gate` lets everything pass.
fn open_gate() -> Config {
    let kernel = Config::ruled_kernel("k", &["gate"]);
    Config::of(json!([kernel]))
        .policy("gate", json!({"component": hostile(), "config": {"do": "allow"}, "limits": limits()}))
        .with("limits", json!({"decision_deadline_ms": 10_000}))
}

/// The guest that does as it is told: `{"do": "allow"}`, `{"do": "deny", "reason": "…"}`, `{"do": "trap"}`.
fn hostile() -> String {
    repository().join("tests/data/guests/hostile.wasm").to_str().unwrap().to_owned()
}

fn limits() -> Value {
    json!({"deadline_ms": PATIENT})
}

fn deny(text: &str) -> Value {
    json!({"name": "gate", "config": {"do": "deny", "reason": text}})
}

fn stage(server: &Server, edit: Value, mode: Value) -> Value {
    server.post("/policies/stage", &json!({"edits": [edit], "mode": mode, "why": "a test"})).expect(200)
}

fn change(server: &Server, path: &str, body: Value) {
    drop(server.post(path, &body).expect(200));
}

fn word(server: &Server, id: &str) -> String {
    server.submit(&intent(id))["error"].as_str().unwrap_or_default().to_owned()
}

fn actions(server: &Server) -> Vec<String> {
    let steps = server.get("/policies/history").expect(200)["steps"].clone();
    steps.as_array().unwrap().iter().map(|step| step["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_candidate_watches_then_decides_a_share_then_all_and_is_taken_back() {
    let server = Server::start(&open_gate());
    let first = server.get("/policies").expect(200)["serving"]["set"].clone();
    let staged = stage(&server, deny("closed"), json!("shadow"));
    let candidate = staged["candidate"]["set"].clone();
    assert_ne!(candidate, first);
    for n in 0..20 {
        assert_eq!(word(&server, &format!("shadow-{n}")), "");
    }
    server.wait_for("/policies/differences", |told| told["tally"]["seen"] == 20);
    let told = server.get("/policies/differences").expect(200);
    assert_eq!((&told["tally"]["differing"], &told["tally"]["kept"]), (&json!(20), &json!(20)));
    let difference = &told["differences"][0];
    assert_eq!(difference["serving"], json!({"decision": "ALLOW"}));
    assert_eq!(
        difference["candidate"],
        json!({"decision": "DENY", "policy": "gate", "reason": "closed", "escalated": false})
    );

    change(&server, "/policies/try", json!({"mode": {"canary": 30}, "why": "looks right"}));
    let denied: Vec<bool> = (0..200).map(|n| !word(&server, &format!("canary-{n}")).is_empty()).collect();
    let share = denied.iter().filter(|denied| **denied).count();
    assert!((30..=90).contains(&share), "{share} of 200 at 30 %");
    for (n, denied) in denied.iter().enumerate() {
        assert_eq!(!word(&server, &format!("canary-{n}")).is_empty(), *denied, "a request keeps its side");
    }

    let promoted = server.post("/policies/promote", &json!({"candidate": candidate, "why": "go"})).expect(200);
    assert_eq!((&promoted["serving"]["set"], &promoted["previous"]["set"]), (&candidate, &first));
    assert!(word(&server, "r").contains("closed"));
    change(&server, "/policies/rollback", json!({"why": "no"}));
    assert_eq!(word(&server, "r"), "");
    assert_eq!(server.get("/policy").expect(200)["policy_set"], first);
    assert_eq!(actions(&server), ["configured", "shadow", "canary", "promoted", "rolled_back"]);
    let steps = server.get("/policies/history").expect(200)["steps"].clone();
    let step = &steps[3];
    assert_eq!((&step["old_set"], &step["new_set"]), (&first, &candidate));
    assert_eq!((&step["who"], &step["why"]), (&json!("anyone"), &json!("go")));
    assert!(step["policies"][0]["component"].as_str().unwrap().starts_with("sha256:"));
    let metrics = server.metrics();
    assert!((metrics.get("gavel_policy_changes_total{kernel=\"k\",action=\"promoted\"}") - 1.0).abs() < 0.1);
}

#[test]
fn what_was_promoted_serves_after_a_restart_until_the_configuration_changes() {
    let server = Server::start(&open_gate());
    stage(&server, deny("closed"), json!("staged"));
    let serving = server.post("/policies/promote", &json!({})).expect(200)["serving"]["set"].clone();
    stage(&server, deny("other"), json!("shadow"));
    let site = server.stop();
    let server = site.serve();
    let told = server.get("/policies").expect(200);
    assert_eq!((&told["serving"]["set"], &told["candidate"]["trial"]), (&serving, &json!("shadow")));
    assert!(word(&server, "r").contains("closed"));
    change(&server, "/policies/rollback", json!({}));
    assert_eq!(word(&server, "r"), "");
    change(&server, "/policies/rollback", json!({}));

    // Killed, not stopped: the ledger alone knows.
    let site = server.site().clone();
    server.kill();
    let server = site.serve();
    assert_eq!(server.get("/policies").expect(200)["serving"]["set"], serving);
    let site = server.stop();
    let config = json!({"component": hostile(), "config": {"do": "deny", "reason": "configured"}, "limits": limits()});
    site.configure(&open_gate().policy("gate", config));
    let server = site.serve();
    assert!(word(&server, "r").contains("configured"));
    assert_eq!(actions(&server).last().unwrap(), "configured");
}

#[test]
fn the_configuration_is_read_again_on_sighup() {
    let server = Server::start(&open_gate());
    let gate =
        |text: &str| json!({"component": hostile(), "config": {"do": "deny", "reason": text}, "limits": limits()});
    server.site().configure(&open_gate().policy("gate", gate("new")));
    server.hang_up();
    server.wait_for_log("the policies of the configuration are in service");
    assert!(word(&server, "r").contains("new"));
    server.site().configure(&Config::text("kernels: 7"));
    server.hang_up();
    server.wait_for_log("the configuration is not taken");
    assert!(word(&server, "r").contains("new"));
}

#[test]
fn a_folder_is_watched_and_a_broken_file_in_it_changes_nothing() {
    let site = Site::new(&Config::open());
    let folder = site.path().join("policies");
    fs::create_dir(&folder).unwrap();
    let mut kernel = Config::ruled_kernel("k", &[]);
    kernel["watch"] = json!({"folder": "policies", "every_ms": 20});
    site.configure(&Config::of(json!([kernel])).with("limits", json!({"decision_deadline_ms": 10_000})));
    let server = site.serve();
    assert_eq!(word(&server, "r"), "");
    let beside = json!({"config": {"do": "deny", "reason": "from the folder"}, "limits": limits()});
    fs::write(folder.join("gate.yaml"), beside.to_string()).unwrap();
    fs::copy(hostile(), folder.join("gate.wasm")).unwrap();
    server.wait_for("/policies", |told| told["serving"]["policies"][0]["name"] == "gate");
    assert!(word(&server, "r").contains("from the folder"));
    fs::write(folder.join("gate.wasm"), "not a component").unwrap();
    server
        .wait_for("/policies/history", |told| told["steps"].as_array().unwrap().last().unwrap()["action"] == "refused");
    assert!(word(&server, "r").contains("from the folder"));
    let steps = server.get("/policies/history").expect(200)["steps"].clone();
    let refused = steps.as_array().unwrap().last().unwrap().clone();
    assert_eq!((&refused["who"], &refused["policy"]), (&json!("watch"), &json!("gate")));
    assert!(refused["why"].as_str().unwrap().contains("policy gate"), "{refused}");
    // The same component, whole again, is what serves: nothing is to be done.
    let before = actions(&server).len();
    fs::copy(hostile(), folder.join("gate.wasm")).unwrap();
    let beside = json!({"config": {"do": "deny", "reason": "second"}, "limits": limits()});
    fs::write(folder.join("gate.yaml"), beside.to_string()).unwrap();
    server.wait_for("/policies", |told| told["serving"]["policies"][0]["config"]["reason"] == "second");
    assert_eq!(actions(&server)[before..], ["staged", "promoted"]);
}

#[test]
fn a_policy_that_keeps_failing_is_quarantined_told_of_and_released() {
    let trap = json!({"component": hostile(), "config": {"do": "trap"}, "limits": limits(),
        "quarantine": {"failures": 3, "within_ms": 600_000}});
    let server = Server::start(&open_gate().policy("gate", trap));
    for n in 0..3 {
        assert!(word(&server, &format!("r-{n}")).contains("failed closed: trap"));
    }
    let denied = word(&server, "r-4");
    assert!(denied.contains("policy 'gate'") || denied.contains("gate"), "{denied}");
    assert!(denied.contains("failed closed: in quarantine after 3 failures within 600000 ms"), "{denied}");
    let health = server.get("/policies").expect(200)["serving"]["policies"][0]["health"].clone();
    assert_eq!((&health["calls"], &health["traps"]), (&json!(3), &json!(3)), "it is not asked any more");
    assert!(health["quarantined"]["why"].as_str().unwrap().contains("3 failures"));
    let gauge = "gavel_policy_quarantined{kernel=\"k\",policy=\"gate\"}";
    assert!((server.metrics().get(gauge) - 1.0).abs() < 0.1);
    server.wait_for_log("policy in quarantine");
    change(&server, "/policies/release", json!({"policy": "gate", "why": "fixed"}));
    assert!(server.metrics().get(gauge).abs() < 0.1);
    assert!(word(&server, "r-5").contains("failed closed: trap"), "it is asked again");
    assert!(server.post("/policies/release", &json!({"policy": "gate"})).error(409).contains("not in quarantine"));
    assert_eq!(actions(&server), ["configured", "quarantined", "released"]);
}

#[test]
fn a_failing_candidate_does_not_touch_the_one_that_serves() {
    let server = Server::start(&open_gate());
    let edit = json!({"name": "gate", "config": {"do": "trap"}, "quarantine": {"failures": 2, "within_ms": 600_000}});
    stage(&server, edit, json!("shadow"));
    for n in 0..10 {
        assert_eq!(word(&server, &format!("r-{n}")), "");
    }
    server.wait_for("/policies/differences", |told| told["tally"]["differing"] == 10);
    let told = server.get("/policies").expect(200);
    assert_eq!(told["serving"]["policies"][0]["health"]["quarantined"], Value::Null);
    assert_eq!(told["serving"]["policies"][0]["health"]["failures"], 0);
}

/// Every decision's record names the set that its policies' words came from: none is mixed.
#[test]
fn swaps_under_load_lose_nothing_and_mix_nothing() {
    let kernel = Config::ruled_kernel("k", &["one", "two"]);
    let pass = json!({"component": hostile(), "config": {"do": "allow"}, "limits": limits()});
    let config = Config::of(json!([kernel])).policy("one", pass.clone()).policy("two", pass);
    let server = Server::start(&config.with("limits", json!({"decision_deadline_ms": 20_000})));
    let a = server.get("/policies").expect(200)["serving"]["set"].clone();
    let edit = |name: &str, config: Value| json!({"name": name, "config": config});
    let (one, two) = (edit("one", json!({"do": "abstain"})), edit("two", json!({"do": "deny", "reason": "b"})));
    let edits = json!({"edits": [one, two]});
    change(&server, "/policies/stage", edits);
    let b = server.post("/policies/promote", &json!({})).expect(200)["serving"]["set"].clone();
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for worker in 0..4 {
            let (server, done, asked) = (&server, &done, &asked);
            scope.spawn(move || {
                let mut n = 0;
                while !done.load(Ordering::SeqCst) {
                    let receipt = server.submit(&intent(&format!("w{worker}-{n}")));
                    assert!(!receipt["error"].as_str().unwrap_or_default().contains("failed closed"), "{receipt}");
                    n += 1;
                }
                asked.fetch_add(n, Ordering::SeqCst);
            });
        }
        for _ in 0..300 {
            change(&server, "/policies/rollback", json!({}));
        }
        done.store(true, Ordering::SeqCst);
    });
    let site = server.stop();
    let (_, records) = gavel_ledger::read_dir(&site.ledger("k")).unwrap();
    let mut sides = [0_u64; 2];
    for record in records.map(Result::unwrap).filter(|record| record.kind() == "decision") {
        let meta: Value = serde_json::from_str(record.meta()).unwrap();
        let said: Vec<&str> =
            meta["policies"].as_array().unwrap().iter().map(|p| p["verdict"].as_str().unwrap()).collect();
        let denied = said[1] == "deny";
        assert_eq!(said, if denied { ["abstain", "deny"] } else { ["allow", "allow"] });
        assert_eq!(meta["policy_set"], if denied { b.clone() } else { a.clone() }, "{meta}");
        sides[usize::from(denied)] += 1;
    }
    assert_eq!(sides[0] + sides[1], asked.load(Ordering::SeqCst));
    assert!(sides[0] > 0 && sides[1] > 0, "{sides:?}");
}

#[test]
fn only_operators_change_and_only_operators_and_auditors_look() {
    let operator = Key::make("ops", &["--role", "operator"]);
    let auditor = Key::make("aud", &["--role", "auditor"]);
    let agent = Key::make("agt", &["--role", "agent", "--actor", "agent-001"]);
    let server = Server::start(&open_gate().keys(&[&operator, &auditor, &agent]));
    let send = |method: &str, path: &str, key: &Key, body: &Value| {
        let (name, value) = key.header();
        let body = (method == "POST").then(|| body.to_string().into_bytes());
        server.send(method, path, &[(name, &value)], body.as_deref()).status
    };
    let edit = json!({"edits": [deny("closed")]});
    for (key, look, change) in [(&operator, 200, 200), (&auditor, 200, 403), (&agent, 403, 403)] {
        assert_eq!(send("GET", "/policies", key, &Value::Null), look);
        assert_eq!(send("GET", "/policies/history", key, &Value::Null), look);
        assert_eq!(send("POST", "/policies/stage", key, &edit), change);
        assert_eq!(send("POST", "/policies/components", key, &edit), if change == 200 { 422 } else { 403 });
    }
    let (name, value) = operator.header();
    let steps = server.send("GET", "/policies/history", &[(name, &value)], None).expect(200)["steps"].clone();
    assert_eq!(steps.as_array().unwrap().last().unwrap()["who"], "ops");
}

#[test]
fn a_halted_kernel_changes_nothing() {
    let server = Server::start(&open_gate());
    change(&server, "/halt", json!({"reason": "enough"}));
    assert!(server.post("/policies/stage", &json!({"edits": [deny("x")]})).error(409).contains("halted"));
    assert!(server.post("/policies/rollback", &json!({})).error(409).contains("halted"));
    assert_eq!(actions(&server), ["configured"]);
}

#[test]
fn what_policies_counted_outlives_a_crash() {
    let count = json!({"do": "count", "key": "calls", "amount": 1, "window_ms": 3_600_000, "max": 3});
    let gate = json!({"component": hostile(), "config": count, "limits": limits()});
    let server = Server::start(&open_gate().policy("gate", gate));
    for n in 0..2 {
        assert_eq!(word(&server, &format!("r-{n}")), "");
    }
    let site = server.site().clone();
    server.kill();
    let server = site.serve();
    assert_eq!(word(&server, "r-3"), "");
    assert!(word(&server, "r-4").contains("4 is more than 3"));
}

#[test]
fn a_quarantine_does_not_change_what_serves_after_a_restart() {
    let server = Server::start(&open_gate());
    let edit = json!({"name": "gate", "config": {"do": "trap"}, "quarantine": {"failures": 2, "within_ms": 600_000}});
    stage(&server, edit, json!("staged"));
    let serving = server.post("/policies/promote", &json!({})).expect(200)["serving"]["set"].clone();
    for n in 0..3 {
        assert!(word(&server, &format!("r-{n}")).contains("failed closed"));
    }
    assert_eq!(actions(&server).last().unwrap(), "quarantined");
    let gauge = "gavel_policy_quarantined{kernel=\"k\",policy=\"gate\"}";
    assert!((server.metrics().get(gauge) - 1.0).abs() < 0.1);
    let site = server.stop();
    let server = site.serve();
    assert_eq!(server.get("/policies").expect(200)["serving"]["set"], serving);
    assert!(word(&server, "r").contains("failed closed: trap"), "a restart asks it again");
}

#[test]
fn a_roll_back_ends_the_alarm_of_a_quarantine() {
    let server = Server::start(&open_gate());
    let edit = json!({"name": "gate", "config": {"do": "trap"}, "quarantine": {"failures": 1, "within_ms": 600_000}});
    stage(&server, edit, json!("staged"));
    change(&server, "/policies/promote", json!({}));
    assert!(word(&server, "r-1").contains("failed closed"));
    let gauge = "gavel_policy_quarantined{kernel=\"k\",policy=\"gate\"}";
    assert!((server.metrics().get(gauge) - 1.0).abs() < 0.1);
    change(&server, "/policies/rollback", json!({}));
    assert_eq!(word(&server, "r-2"), "");
    assert!(server.metrics().get(gauge).abs() < 0.1);
}

#[test]
fn what_was_taken_back_does_not_come_again_from_the_folder() {
    let site = Site::new(&Config::open());
    let folder = site.path().join("policies");
    fs::create_dir(&folder).unwrap();
    let mut kernel = Config::ruled_kernel("k", &[]);
    kernel["watch"] = json!({"folder": "policies", "every_ms": 20});
    site.configure(&Config::of(json!([kernel])).with("limits", json!({"decision_deadline_ms": 10_000})));
    let server = site.serve();
    let beside = |reason: &str| json!({"config": {"do": "deny", "reason": reason}, "limits": limits()}).to_string();
    fs::write(folder.join("gate.yaml"), beside("first")).unwrap();
    fs::copy(hostile(), folder.join("gate.wasm")).unwrap();
    server.wait_for("/policies", |told| told["serving"]["policies"][0]["name"] == "gate");
    change(&server, "/policies/rollback", json!({}));
    let steps = actions(&server).len();
    let server = server.stop().serve();
    // Another policy in the folder shows that it is looked at.
    fs::write(folder.join("other.yaml"), beside("other")).unwrap();
    fs::copy(hostile(), folder.join("other.wasm")).unwrap();
    server.wait_for("/policies", |told| told["serving"]["policies"][0]["name"] == "other");
    assert_eq!(actions(&server)[steps..], ["staged", "promoted"]);
}

#[test]
fn kernels_that_share_a_policy_do_not_share_its_health() {
    let trap = json!({"component": hostile(), "config": {"do": "trap"}, "limits": limits(),
        "quarantine": {"failures": 2, "within_ms": 600_000}});
    let kernels = json!([Config::ruled_kernel("a", &["gate"]), Config::ruled_kernel("b", &["gate"])]);
    let config = Config::of(kernels).policy("gate", trap).with("limits", json!({"decision_deadline_ms": 10_000}));
    let server = Server::start(&config);
    for n in 0..3 {
        drop(server.decide("a", &intent(&format!("r-{n}"))));
    }
    let quarantined = |id: &str| {
        let told = server.get(&format!("/kernels/{id}/policies")).expect(200);
        !told["serving"]["policies"][0]["health"]["quarantined"].is_null()
    };
    assert_eq!((quarantined("a"), quarantined("b")), (true, false));
}

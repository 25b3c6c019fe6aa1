//! The operator's plays that put another kernel, or another policy, in the place of what serves.
//!
//! What belongs here: roll back, policy update, recovery after an incident, adding a kernel, and who may do it. The
//! replacement itself, under load and under SIGKILL, is in `kernels.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

mod replaced;

use gavel_tests::{Config, Key, Server, Site, call, gavel, intent, path};
use replaced::{counting, error, events, replace, serving, settled};
use serde_json::{Value, json};
use std::fs;

/// Every ledger in the data folder.
fn ledgers(site: &Site) -> Vec<String> {
    let folders = fs::read_dir(site.data().join("kernels")).unwrap();
    let mut names: Vec<String> = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn only(actor: &str) -> Value {
    json!({"allowed_actors": [actor], "allowed_tools": ["*"]})
}

const DENIED: &str = "Jurisdiction denied: Actor 'agent-001' is not in allowed actors";

#[test]
fn a_roll_back_puts_the_definition_before_into_a_new_kernel() {
    let server = Server::start(&Config::open());
    let why = server.post("/kernels/k/rollback", &json!({})).error(409);
    assert!(why.contains("nothing to roll kernel 'k' back to"), "{why}");
    drop(replace(&server, &json!({"policy": only("other"), "why": "a mistake"})));
    assert_eq!(error(&server, &intent("r")), DENIED);
    let told = server.post("/kernels/k/rollback", &json!({"why": "too strict"})).expect(200);
    assert_eq!((&told["action"], &told["kernel_id"]), (&json!("rolls_back"), &json!("k-3")));
    assert_eq!(error(&server, &intent("r")), "");
    let server = server.stop().serve();
    assert_eq!((serving(&server).as_str(), error(&server, &intent("r")).as_str()), ("k-3", ""));
    drop(server.post("/kernels/k/rollback", &json!({})).expect(200));
    assert_eq!(error(&server, &intent("r")), DENIED, "twice is back where it was");
    drop(settled(&server));
    assert_eq!(ledgers(server.site()), ["k", "k-2", "k-3", "k-4"], "no ledger is used again");
    let first = &events(server.site(), "k-3", "kernel")[0];
    assert_eq!((&first["action"], &first["why"]), (&json!("rolls_back"), &json!("too strict")));
}

#[test]
fn a_full_roll_back_puts_the_configuration_file_back_too() {
    let good = Config::of(json!([Config::open_kernel("k")]));
    let site = Site::new(&good);
    let server = site.serve();
    let text = fs::read(site.config()).unwrap();
    let mut bad = Config::open_kernel("k");
    bad["policy"] = only("other");
    site.configure(&Config::of(json!([bad])));
    let config = site.config();
    let args = ["kernel", "replace", "k", "--config", path(&config), "--why", "edited", "--url", &server.url];
    let told = gavel(args).code(0).stdout;
    assert!(told.starts_with("k is served by kernel k-2, IDLE"), "{told}");
    assert_eq!(error(&server, &intent("r")), DENIED);
    let told = gavel(["kernel", "rollback", "k", "--full", "--json", "--url", &server.url]).code(0).json();
    assert_eq!(told["action"], "rolls_back");
    assert_eq!(fs::read(site.config()).unwrap(), text, "the file is as it was");
    assert_eq!(error(&server, &intent("r")), "");
    let server = server.stop().serve();
    assert_eq!((serving(&server).as_str(), error(&server, &intent("r")).as_str()), ("k-3", ""));
}

#[test]
fn a_quick_roll_back_outlives_a_restart_with_the_configuration_that_was_rolled_back_from() {
    let site = Site::new(&Config::open());
    let server = site.serve();
    let mut bad = Config::open_kernel("k");
    bad["policy"] = only("other");
    site.configure(&Config::of(json!([bad])));
    let config = site.config();
    let _ = gavel(["kernel", "replace", "k", "--config", path(&config), "--url", &server.url]).code(0);
    drop(server.post("/rollback", &json!({})).expect(200));
    let server = server.stop().serve();
    assert_eq!(error(&server, &intent("r")), "", "whoever rolled back has decided later than whoever edited");
    bad = Config::open_kernel("k");
    bad["policy"] = only("a third");
    site.configure(&Config::of(json!([bad])));
    let server = server.stop().serve();
    assert_eq!(error(&server, &intent("r")), DENIED, "an edit after that wins");
    assert_eq!(serving(&server), "k-3");
}

#[test]
fn a_policy_update_is_checked_recorded_and_outlives_a_restart_until_the_configuration_is_edited() {
    let site = Site::new(&Config::open());
    let server = site.serve();
    for (policy, told) in [
        (json!({"allowed_actor": ["x"]}), "`allowed_actors`"),
        (json!({"allowed_actors": 5}), "allowed_actors"),
        (json!({"custom_rules": ["nope"]}), "nope"),
        (json!([]), "object"),
    ] {
        let why = server.post("/kernels/k/policy", &json!({"policy": policy})).error(422);
        assert!(why.contains(told), "{why}");
    }
    assert_eq!(error(&server, &intent("r")), "", "nothing was changed");
    let told = server.post("/policy", &json!({"policy": only("other"), "why": "tighten"})).expect(200);
    assert_eq!((&told["serves"], &told["kernel_id"]), (&json!(true), &json!("k")), "the same kernel judges on");
    assert_eq!(error(&server, &intent("r")), DENIED);
    let kept = fs::read(site.data().join("backup").join(told["backup"].as_str().unwrap())).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept["policy"]["allowed_actors"], json!(["*"]));
    let event = events(&site, "k", "policies").pop().unwrap();
    assert_eq!(
        (&event["action"], &event["who"], &event["why"]),
        (&json!("jurisdiction"), &json!("anyone"), &json!("tighten"))
    );
    assert_eq!(event["old_policy"]["allowed_actors"], json!(["*"]));
    assert_eq!(event["new_policy"]["allowed_actors"], json!(["other"]));
    server.kill();
    let server = site.serve();
    assert_eq!(error(&server, &intent("r")), DENIED, "it survives a crash");
    drop(replace(&server, &json!({})));
    assert_eq!(error(&server, &intent("r")), DENIED, "and a replacement by the same");
    drop(server.post("/rollback", &json!({})).expect(200));
    assert_eq!(error(&server, &intent("r")), "", "a roll back takes it back");
    drop(server.post("/policy", &json!({"policy": only("other")})).expect(200));
    let mut edited = Config::open_kernel("k");
    edited["policy"] = only("agent-001");
    site.configure(&Config::of(json!([edited])));
    server.hang_up();
    server.wait_for("/policy", |policy| policy["allowed_actors"] == json!(["agent-001"]));
    assert_eq!(error(&server, &intent("r")), "", "an edited configuration wins");
    let server = server.stop().serve();
    assert_eq!(error(&server, &intent("r")), "");
}

#[test]
fn a_policy_update_keeps_the_rules_that_it_does_not_name() {
    let server = Server::start(&counting(1));
    let update = |policy: Value| drop(server.post("/policy", &json!({"policy": policy})).expect(200));
    update(json!({"allowed_actors": ["*"]}));
    assert_eq!(error(&server, &intent("r1")), "");
    assert!(error(&server, &intent("r2")).contains("2 is more than 1"));
    update(json!({"allowed_actors": ["*"], "custom_rules": []}));
    assert_eq!(error(&server, &intent("r3")), "", "an empty list removes them");
    update(json!({"allowed_actors": ["*"], "custom_rules": ["gate"]}));
    assert!(error(&server, &intent("r4")).contains("is more than 1"), "the counter went on");
    let why = server.post("/halt", &json!({"reason": "enough"})).expect(200)["reason"].clone();
    assert_eq!(why, "enough");
    assert!(server.post("/policy", &json!({"policy": {}})).error(409).contains("halted"));
}

#[test]
fn after_an_incident_a_new_kernel_is_tried_and_then_watched_closely() {
    let monitoring = json!({"every_ms": 20, "min_decisions": 4, "max_denied_percent": 40});
    let server = Server::start(&Config::open().with("monitoring", monitoring));
    let opened = gavel(["incident", "open", "--kernel", "k", "--reason", "odd", "--json", "--url", &server.url]);
    let incident = opened.code(0).json()["incident_id"].as_str().unwrap().to_owned();
    let recover = |server: &Server, id: &str| server.post("/kernels/k/recover", &json!({"incident": id}));
    assert!(recover(&server, "../../etc").error(422).contains("there is no incident"));
    assert!(recover(&server, &incident).error(409).contains("is not resolved"));
    drop(server.post("/kernels/k/halt", &json!({"reason": "runaway"})).expect(200));
    let why = server.post("/kernels/k/replace", &json!({})).error(409);
    assert!(why.contains(&format!("incident {incident}, which is open")), "{why}");
    let why = "the key of agent-007 was stolen; it is revoked";
    let _ = gavel(["incident", "resolve", &incident, "--why", why, "--url", &server.url]).code(0);
    assert!(
        server.post(&format!("/incidents/{incident}/resolve"), &json!({"why": "again"})).error(409).contains("already")
    );
    let server = server.stop().serve();
    assert_eq!(server.get("/health").status, 503, "halted for ever");
    let updates = server.site().path().join("updates.yaml");
    fs::write(&updates, "allowed_tools: [echo]\n").unwrap();
    let args = ["recover", "k", "--incident", &incident, "--policy", path(&updates), "--url", &server.url];
    let told = gavel(args).code(0).stdout;
    assert!(told.starts_with("k is served by kernel k-2, IDLE") && told.contains("watched closely until"), "{told}");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/policy").expect(200)["allowed_tools"], json!(["echo"]));
    assert_eq!(server.get("/policy").expect(200)["allowed_actors"], json!(["*"]), "what is not named stays");
    assert!(recover(&server, &incident).error(409).contains("already"));
    let listed = server.get("/incidents").expect(200)["incidents"][0].clone();
    assert_eq!((&listed["status"], &listed["recovered_by"]), (&json!("RESOLVED"), &json!("k-2")));
    for number in 0..6 {
        drop(server.submit(&call(&number.to_string(), "add", json!({}))));
    }
    server.wait_for_status(|status| status["monitoring"]["alarm"].as_str().is_some_and(|why| why.contains("denials")));
    assert!((server.metrics().get("gavel_monitoring_alarm{kernel=\"k\"}") - 1.0).abs() < 0.1);
    let server = server.stop().serve();
    assert!(server.get("/status").expect(200)["enhanced_monitoring_until_ms"].is_u64(), "a restart does not end it");
    let told: Vec<Value> = ["k", "k-2"].iter().flat_map(|id| events(server.site(), id, "incident")).collect();
    assert_eq!(told.iter().map(|event| &event["action"]).collect::<Vec<_>>(), ["opened", "resolved"]);
    let first = &events(server.site(), "k-2", "kernel")[0];
    assert_eq!((&first["action"], &first["replaces"]["kernel_id"]), (&json!("recovers"), &json!("k")));
}

#[test]
fn a_kernel_is_added_serves_and_is_there_after_a_restart() {
    let config = Config::open().with("limits", json!({"max_kernels": 3}));
    let server = Server::start(&config);
    drop(server.post("/policy", &json!({"policy": only("agent-001")})).expect(200));
    let told = gavel(["kernel", "add", "k-002", "--like", "k", "--why", "more", "--url", &server.url]).code(0).stdout;
    assert!(told.starts_with("k-002 is served by kernel k-002, IDLE"), "{told}");
    let submit = |server: &Server, actor: &str| {
        let request = json!({"request_id": "r", "actor": actor, "intent": "Look around"});
        server.post("/kernels/k-002/submit", &request).expect(200)["decision"].clone()
    };
    assert_eq!(submit(&server, "agent-001"), "ALLOW");
    assert_eq!(submit(&server, "another"), "DENY", "the policy in force is shared");
    assert_eq!(server.get("/kernels/k-002/health").status, 200);
    for (body, status, told) in [
        (json!({"name": "k-002"}), 409, "already"),
        (json!({"name": "a/b"}), 422, "a/b"),
        (json!({"name": "x", "like": "nobody"}), 404, "nobody"),
        (json!({}), 400, "name"),
    ] {
        let why = server.post("/kernels", &body).error(status);
        assert!(why.contains(told), "{why}");
    }
    drop(server.post("/kernels", &json!({"name": "third", "policy": only("x")})).expect(200));
    assert!(server.post("/kernels", &json!({"name": "fourth"})).error(409).contains("max_kernels"));
    let server = server.stop().serve();
    let listed = gavel(["kernel", "list", "--json", "--url", &server.url]).code(0).json();
    let names: Vec<&Value> = listed["kernels"].as_array().unwrap().iter().map(|kernel| &kernel["name"]).collect();
    assert_eq!(names, ["k", "k-002", "third"]);
    assert_eq!(submit(&server, "agent-001"), "ALLOW");
    let first = &events(server.site(), "k-002", "kernel")[0];
    assert_eq!((&first["action"], &first["why"]), (&json!("added"), &json!("more")));
}

#[test]
fn a_kernel_that_an_edited_configuration_declares_is_added_without_a_restart() {
    let site = Site::new(&Config::open());
    let server = site.serve();
    site.configure(&Config::of(json!([Config::open_kernel("k"), Config::open_kernel("new")])));
    server.hang_up();
    server.wait_for("/kernels", |told| told["kernels"].as_array().unwrap().len() == 2);
    assert_eq!(server.decide("new", &intent("r"))["decision"], "ALLOW");
    let server = server.stop().serve();
    assert_eq!(server.decide("new", &intent("r"))["decision"], "ALLOW");
}

#[test]
fn only_operators_change_kernels() {
    let operator = Key::make("ops", &["--role", "operator"]);
    let auditor = Key::make("aud", &["--role", "auditor"]);
    let agent = Key::make("agt", &["--role", "agent", "--actor", "agent-001"]);
    let elsewhere = Key::make("else", &["--role", "operator", "--kernel", "other"]);
    let config = Config::of(json!([Config::open_kernel("k"), Config::open_kernel("other")]));
    let server = Server::start(&config.keys(&[&operator, &auditor, &agent, &elsewhere]));
    let send = |key: &Key, path: &str, body: &Value| {
        let (name, value) = key.header();
        server.send("POST", path, &[(name, &value)], Some(body.to_string().as_bytes())).status
    };
    let bodies = [
        ("/kernels/k/replace", json!({})),
        ("/replace", json!({})),
        ("/kernels/k/policy", json!({"policy": only("agent-001")})),
        ("/kernels/k/rollback", json!({})),
        ("/kernels/k/recover", json!({"incident": "x"})),
        ("/kernels", json!({"name": "new"})),
        ("/incidents", json!({"reason": "x"})),
    ];
    for (route, body) in &bodies {
        for key in [&auditor, &agent, &elsewhere] {
            assert_eq!(send(key, route, body), 403, "{route}");
        }
    }
    let done: Vec<u16> = bodies.iter().map(|(route, body)| send(&operator, route, body)).collect();
    assert_eq!(done, [200, 200, 200, 200, 422, 200, 200]);
    let (name, value) = agent.header();
    assert_eq!(server.send("GET", "/incidents", &[(name, &value)], None).status, 403);
    let first = &events(server.site(), "k-2", "kernel")[0];
    assert_eq!(first["who"], "ops");
}

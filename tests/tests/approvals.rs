//! The approval queue, with the real binary: what a policy escalates waits, a human decides, the request passes once.
//!
//! Here belongs the way of an approval from the escalation to its use, what voids it, and what a kill at any moment leaves.
//! The queue by itself is tested in the crate; that nobody but an operator decides is here, not in `auth.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use gavel_tests::{Config, Key, PATIENCE, Response, Server, Webhook, call, gavel, in_time, intent, path};
use serde_json::{Value, json};
use std::time::Instant;

/// The policy that asks a human for every call of `echo` that two people did not vouch for.
fn two_people() -> Value {
    json!({"component": "builtin:two-person", "config": {
        "rules": [{"tools": ["echo"], "approvals": 2, "approvers": ["human:alice", "human:bob"]}],
    }, "limits": {"deadline_ms": 10_000}})
}

fn config() -> Config {
    let limits = json!({"decision_deadline_ms": 20_000, "request_timeout_ms": 60_000});
    Config::of(json!([Config::ruled_kernel("k", &["two"])])).policy("two", two_people()).with("limits", limits)
}

fn ask(id: &str) -> Value {
    call(id, "echo", json!({"text": "pay 900"}))
}

/// Have it wait; its id.
fn waiting(server: &Server, request: &Value) -> String {
    let receipt = in_time(|| server.submit(request));
    assert_eq!(receipt["approval"]["state"], "waiting", "{receipt}");
    assert_eq!(receipt["decision"], "DENY", "{receipt}");
    receipt["approval"]["id"].as_str().unwrap().to_owned()
}

fn approve(server: &Server, id: &str) -> Value {
    server.post(&format!("/approvals/{id}/approve"), &json!({"reason": "seen"})).expect(200)
}

fn state(server: &Server, id: &str) -> String {
    server.get(&format!("/approvals/{id}")).expect(200)["state"].as_str().unwrap().to_owned()
}

fn send(server: &Server, key: &Key, method: &str, path: &str, body: Option<&Value>) -> Response {
    let (name, value) = key.header();
    let body = body.map(|body| body.to_string().into_bytes());
    server.send(method, path, &[(name, value.as_str())], body.as_deref())
}

#[test]
fn the_routes_are_these() {
    let routes = gavel::http::ROUTES.iter().filter(|(_, path)| path.contains("/approvals"));
    let (below, at_the_top): (Vec<_>, Vec<_>) = routes.partition(|(_, path)| path.starts_with("/kernels/{id}"));
    let expected = [
        ("get", "/approvals"),
        ("get", "/approvals/{approval}"),
        ("post", "/approvals/{approval}/approve"),
        ("post", "/approvals/{approval}/reject"),
        ("post", "/approvals/{approval}/decide"),
    ];
    assert_eq!(at_the_top.into_iter().copied().collect::<Vec<_>>(), expected);
    let below: Vec<_> =
        below.into_iter().map(|(method, path)| (*method, path.replacen("/kernels/{id}", "", 1))).collect();
    assert_eq!(below, expected.map(|(method, path)| (method, path.to_owned())));
}

#[test]
fn what_is_approved_passes_once() {
    let server = Server::start(&config());
    let id = waiting(&server, &ask("r-1"));
    assert_eq!(waiting(&server, &ask("r-2")), id, "the same request waits once");
    let shown = server.get(&format!("/approvals/{id}")).expect(200);
    assert_eq!(shown["request"]["tool_call"], json!({"name": "echo", "params": {"text": "pay 900"}}));
    assert_eq!(
        (&shown["state"], &shown["void"], &shown["actor"]),
        (&json!("waiting"), &json!(false), &json!("agent-001"))
    );
    assert!(shown["reasons"][0]["reason"].as_str().unwrap().contains("needs the approvals of 2 people"), "{shown}");
    let listed = server.get("/kernels/k/approvals?state=waiting&tool=echo&actor=agent-001").expect(200);
    assert_eq!((&listed["approvals"][0]["id"], &listed["waiting"]), (&json!(id), &json!(1)));
    let approved = approve(&server, &id);
    assert_eq!((&approved["state"], &approved["word"]["reason"]), (&json!("approved"), &json!("seen")));
    let receipt = in_time(|| server.submit(&ask("r-3")));
    assert_eq!((&receipt["decision"], &receipt["tool_result"]), (&json!("ALLOW"), &json!("pay 900")), "{receipt}");
    assert_eq!(
        receipt["approval"],
        json!({
            "id": id, "state": "used", "expires_ms": approved["expires_ms"], "by": "anyone", "reason": "seen",
        })
    );
    let used = server.get(&format!("/approvals/{id}")).expect(200);
    let record = server.get(&format!("/records/{}", used["used"]["record"])).expect(200);
    assert_eq!(record["meta"]["approval"]["by"], "anyone", "the decision says by whom: {record}");
    assert_ne!(waiting(&server, &ask("r-4")), id, "it is used");
    // It cannot be decided twice.
    let again = server.post(&format!("/approvals/{id}/reject"), &json!({}));
    assert!(again.error(409).contains("it is used by anyone"), "{}", again.text());
    let metrics = server.metrics();
    let counted = |outcome: &str| {
        metrics.get(&format!("gavel_approvals_total{{kernel=\"k\",outcome=\"{outcome}\"}}")).to_string()
    };
    assert_eq!([counted("wanted"), counted("approved"), counted("used")], ["2", "1", "1"]);
    assert!((metrics.get("gavel_approvals_waiting{kernel=\"k\"}") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn any_change_of_the_request_needs_a_word_of_its_own() {
    let server = Server::start(&config());
    let mut others = vec![call("r", "echo", json!({"text": "pay 901"}))];
    for (field, value) in [
        ("actor", json!("agent-002")),
        ("intent", json!("Look away")),
        ("params", json!({"x": 1})),
        ("evidence", json!(["approved-by:human:alice"])),
    ] {
        let mut other = ask("r");
        other[field] = value;
        others.push(other);
    }
    let id = waiting(&server, &ask("r"));
    let _ = approve(&server, &id);
    for other in &others {
        assert_ne!(waiting(&server, other), id, "{other}");
    }
    let receipt = in_time(|| server.submit(&ask("another-id")));
    assert_eq!(receipt["approval"]["id"], json!(id), "{receipt}");
}

#[test]
fn another_set_of_policies_or_another_jurisdiction_voids_it() {
    let server = Server::start(&config());
    let (approved, unseen) = (waiting(&server, &ask("r")), waiting(&server, &call("r", "echo", json!({"text": "x"}))));
    let _ = approve(&server, &approved);
    let mut jurisdiction = Config::ruled_kernel("k", &["two"])["policy"].clone();
    jurisdiction["max_intent_length"] = json!(1_000);
    let _ = server.post("/policy", &json!({"policy": jurisdiction, "why": "shorter"})).expect(200);
    let shown = server.get(&format!("/approvals/{approved}")).expect(200);
    assert_eq!((&shown["state"], &shown["void"]), (&json!("approved"), &json!(true)));
    assert_ne!(waiting(&server, &ask("r")), approved);
    let refused = server.post(&format!("/approvals/{unseen}/approve"), &json!({}));
    assert!(refused.error(409).contains("is void: the policies changed"), "{}", refused.text());
    let _ = server.post(&format!("/approvals/{unseen}/reject"), &json!({})).expect(200);
    // The set too.
    let current = waiting(&server, &ask("r"));
    let _ = approve(&server, &current);
    let mut edited = two_people()["config"].clone();
    edited["rules"][0]["approvals"] = json!(1);
    let _ = server
        .post("/policies/stage", &json!({"edits": [{"name": "two", "config": edited}], "why": "one will do"}))
        .expect(200);
    let _ = server.post("/policies/promote", &json!({"why": "one will do"})).expect(200);
    assert_ne!(waiting(&server, &ask("r")), current);
}

#[test]
fn what_is_rejected_is_not_asked_again_and_what_expires_is() {
    let server = Server::start(&config());
    let id = waiting(&server, &ask("r"));
    let _ = server.post(&format!("/approvals/{id}/reject"), &json!({"reason": "nobody ordered this"})).expect(200);
    let receipt = in_time(|| server.submit(&ask("r-2")));
    assert_eq!(receipt["decision"], "DENY");
    let note = &receipt["approval"];
    assert_eq!((&note["state"], &note["reason"]), (&json!("rejected"), &json!("nobody ordered this")));
    let server = Server::start(&config().with("approvals", json!({"expiry_ms": 1})));
    let id = waiting(&server, &ask("r"));
    server.wait_for(&format!("/approvals/{id}"), |shown| shown["state"] == "expired");
    assert!(server.post(&format!("/approvals/{id}/approve"), &json!({})).error(409).contains("it is expired"));
    assert_ne!(waiting(&server, &ask("r")), id);
}

#[test]
fn of_requests_that_come_at_once_one_passes() {
    let server = Server::start(&config());
    let id = waiting(&server, &ask("r"));
    let _ = approve(&server, &id);
    let receipts: Vec<Value> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|n| (n, &server)).collect();
        let sent = all.into_iter().map(|(n, server)| scope.spawn(move || server.submit(&ask(&format!("r-{n}")))));
        sent.collect::<Vec<_>>().into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    let allowed: Vec<&Value> = receipts.iter().filter(|receipt| receipt["decision"] == "ALLOW").collect();
    assert_eq!(allowed.len(), 1, "{receipts:?}");
    assert_eq!(allowed[0]["approval"]["id"], json!(id));
}

#[test]
fn a_kill_loses_no_approval_and_spends_none_twice() {
    let server = Server::start(&config());
    let id = waiting(&server, &ask("r"));
    let server = restarted(server);
    assert_eq!(state(&server, &id), "waiting");
    assert_eq!(waiting(&server, &ask("r")), id);
    let _ = approve(&server, &id);
    let server = restarted(server);
    assert_eq!(state(&server, &id), "approved");
    let receipt = in_time(|| server.submit(&ask("r")));
    assert_eq!((&receipt["decision"], &receipt["approval"]["id"]), (&json!("ALLOW"), &json!(id)), "{receipt}");
    let server = restarted(server);
    assert_eq!(state(&server, &id), "used");
    let next = waiting(&server, &ask("r"));
    assert_ne!(next, id);
    let _ = server.post(&format!("/approvals/{next}/reject"), &json!({})).expect(200);
    let server = restarted(server);
    assert_eq!(state(&server, &next), "rejected");
    // What is kept at a clean end says the same.
    let site = server.stop();
    let server = site.serve();
    assert_eq!([state(&server, &id), state(&server, &next)], ["used", "rejected"]);
    assert!(matches!(in_time(|| server.submit(&ask("r")))["approval"]["id"].as_str(), Some(found) if found == next));
    let site = server.stop();
    let ledger = site.ledger("k");
    let _ = gavel(["verify", path(&ledger)]).code(0);
    let told = gavel(["replay", "--rejudge", "--json", path(&ledger)]).code(0).json();
    assert_eq!((&told["differing"], &told["skipped"]), (&json!(0), &json!({})), "{told}");
    assert_eq!(told["judged"], told["decisions"]);
}

/// The same server after a SIGKILL.
fn restarted(server: Server) -> Server {
    let site = server.site().clone();
    server.kill();
    site.serve()
}

#[test]
fn an_approval_is_spent_before_its_tool_runs() {
    let rules = json!({"rules": [{"tools": ["search"], "approvals": 2, "approvers": ["human:alice", "human:bob"]}]});
    let mut two = two_people();
    two["config"] = rules;
    let server = Server::start(&config().policy("two", two));
    for number in 0..300 {
        let file = std::fs::File::create(server.site().workspace().join(format!("{number}"))).unwrap();
        file.set_len(1 << 20).unwrap();
    }
    let search = call("r", "search", json!({"query": "nowhere"}));
    let id = waiting(&server, &search);
    let _ = approve(&server, &id);
    let body = search.to_string();
    let mut connection = server.connect();
    let mut request = connection.head("POST", "/submit", &[], Some(body.len()));
    request.extend_from_slice(body.as_bytes());
    connection.send(&request).unwrap();
    server.wait_for_status(|status| status["requests"]["executing"] == 1);
    let server = restarted(server);
    assert_eq!(state(&server, &id), "used", "its tool may have run");
    assert_ne!(waiting(&server, &search), id);
}

#[test]
fn a_kill_amid_a_crowd_spends_an_approval_at_most_once() {
    let mut server = Server::start(&config());
    for round in 0..3 {
        let request = |id: &str| call(id, "echo", json!({"text": format!("round {round}")}));
        let id = waiting(&server, &request("r"));
        let _ = approve(&server, &id);
        let pid = server.pid();
        std::thread::scope(|scope| {
            for n in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    let body = request(&format!("r-{n}")).to_string();
                    // It may be killed while it answers.
                    let _ = server.connect().request("POST", "/submit", &[], Some(body.as_bytes()));
                });
            }
            scope.spawn(move || kill(pid));
        });
        server = restarted(server);
        let records = server.get("/records?limit=1000&kind=decision").expect(200);
        let used = records["records"].as_array().unwrap().iter().filter(|record| {
            let approval = &record["meta"]["approval"];
            approval["id"] == json!(id) && approval["state"] == "used"
        });
        let used = used.count();
        assert!(used <= 1, "{used} decisions used {id}");
        assert_eq!(state(&server, &id), if used == 1 { "used" } else { "approved" });
    }
}

fn kill(pid: u32) {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn four_eyes_see_it_and_an_agent_its_own_only() {
    let agent = Key::make("agent-key", &["--role", "agent", "--role", "operator", "--actor", "agent-001"]);
    let plain = Key::make("plain-key", &["--role", "agent", "--actor", "agent-002"]);
    let operator = Key::make("operator-key", &["--role", "operator"]);
    let auditor = Key::make("auditor-key", &["--role", "auditor"]);
    let server = Server::start(&config().keys(&[&agent, &plain, &operator, &auditor]));
    let submit =
        |key: &Key, request: &Value| in_time(|| send(&server, key, "POST", "/submit", Some(request)).expect(200));
    let receipt = submit(&agent, &ask("r"));
    let id = receipt["approval"]["id"].as_str().unwrap().to_owned();
    let path = format!("/approvals/{id}");
    let (approve, reject) = (format!("{path}/approve"), format!("{path}/reject"));
    let own = send(&server, &agent, "POST", &approve, Some(&json!({})));
    assert!(own.error(403).contains("another must approve it (approvals.self_approval)"), "{}", own.text());
    for (key, seen, said) in [(&plain, 404, 403), (&auditor, 200, 403)] {
        assert_eq!(send(&server, key, "GET", &path, None).status, seen);
        assert_eq!(send(&server, key, "POST", &approve, None).status, said);
        assert_eq!(send(&server, key, "POST", &reject, None).status, said);
    }
    assert_eq!(server.get("/approvals").status, 401);
    let mut other = ask("r-2");
    other["actor"] = json!("agent-002");
    let _ = submit(&plain, &other);
    let count = |key: &Key| send(&server, key, "GET", "/approvals", None).expect(200)["waiting"].clone();
    assert_eq!([count(&plain), count(&auditor), count(&operator)], [json!(1), json!(2), json!(2)]);
    assert_eq!(send(&server, &plain, "GET", "/approvals?actor=agent-001", None).status, 403);
    let approved = send(&server, &operator, "POST", &approve, None).expect(200);
    assert_eq!((&approved["word"]["by"], &approved["caller"]), (&json!("operator-key"), &json!("agent-key")));
    assert_eq!(submit(&agent, &ask("r-3"))["approval"]["by"], "operator-key");
}

#[test]
fn a_key_may_approve_its_own_where_that_is_configured() {
    let key = Key::make("only-key", &["--role", "agent", "--role", "operator", "--actor", "agent-001"]);
    let server = Server::start(&config().keys(&[&key]).with("approvals", json!({"self_approval": true})));
    let submit = |id: &str| in_time(|| send(&server, &key, "POST", "/submit", Some(&ask(id))).expect(200));
    let id = submit("r")["approval"]["id"].as_str().unwrap().to_owned();
    let _ = send(&server, &key, "POST", &format!("/approvals/{id}/approve"), None).expect(200);
    assert_eq!(submit("r-2")["decision"], "ALLOW");
}

#[test]
fn an_alert_asks_and_its_link_decides_once() {
    let hook = Webhook::start(&[]);
    let approvals = json!({"webhook_secret": "a secret of at least 32 characters", "webhook_name": "chat"});
    let server = Server::start(&config().with("approvals", approvals).with("alerts", json!([{"url": hook.url()}])));
    let id = waiting(&server, &ask("r"));
    let asked = serde_json::from_slice::<Value>(&hook.wait_for(1)[0].body).unwrap();
    let details = &asked["details"];
    assert_eq!(
        (&asked["event"], &details["id"], &details["tool"]),
        (&json!("APPROVAL_WANTED"), &json!(id), &json!("echo"))
    );
    assert!(!asked.to_string().contains("pay 900"), "arguments are not sent: {asked}");
    let link = details["links"]["approve"].as_str().unwrap();
    let post = |link: &str| server.send("POST", link, &[], None);
    assert_eq!(server.get(link).status, 405, "what previews links decides nothing");
    assert_eq!(post(&link.replace("decision=approve", "decision=reject")).status, 403);
    assert_eq!(post(&link.replace("expires_ms=1", "expires_ms=2")).status, 403);
    let (start, token) = link.split_once("token=").unwrap();
    assert_eq!(post(&format!("{start}token={}", token.chars().rev().collect::<String>())).status, 403);
    assert_eq!(post(link).expect(200)["word"]["by"], "webhook:chat");
    assert_eq!(post(link).status, 409, "once");
    let told = serde_json::from_slice::<Value>(&hook.wait_for(2)[1].body).unwrap();
    assert_eq!((&told["event"], &told["details"]["by"]), (&json!("APPROVAL_DECIDED"), &json!("webhook:chat")));
    assert_eq!(in_time(|| server.submit(&ask("r")))["decision"], "ALLOW");
    let without = Server::start(&config());
    let id = waiting(&without, &ask("r"));
    let link = format!("/approvals/{id}/decide?decision=approve&expires_ms=9999999999999&token=00");
    assert_eq!(without.send("POST", &link, &[], None).status, 403, "no secret, no links");
}

#[test]
fn the_bus_hears_of_it() {
    let server = Server::start(&config().with("bus", json!({"transports": {"unix": {"enabled": false}}})));
    let id = waiting(&server, &ask("r"));
    let _ = approve(&server, &id);
    let _ = in_time(|| server.submit(&ask("r")));
    server.wait_for("/bus/history?pattern=approval:*", |told| {
        let told = told.to_string();
        ["wanted", "approved", "used"].iter().all(|what| told.contains(&format!("approval:{what}")))
            && told.contains(&id)
    });
}

#[test]
fn whoever_waits_for_the_word_hears_it() {
    let server = Server::start(&config());
    let id = waiting(&server, &ask("r"));
    let heard = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let begun = Instant::now();
            loop {
                let shown = server.get(&format!("/approvals/{id}?wait_ms=20000")).expect(200);
                if shown["state"] != "waiting" {
                    return shown;
                }
                assert!(begun.elapsed() < PATIENCE, "no word came: {shown}");
            }
        });
        let _ = approve(&server, &id);
        waits.join().unwrap()
    });
    assert_eq!(heard["state"], "approved");
}

#[test]
fn the_command_line_shows_and_decides() {
    let server = Server::start(&config());
    let url = server.url.clone();
    let run = |args: &[&str]| gavel(["approvals"].iter().chain(args).copied().chain(["--url", &url]));
    assert!(run(&["list"]).code(0).stdout.contains("nothing waits for an approval"));
    let id = waiting(&server, &ask("r"));
    let listed = run(&["list", "--tool", "echo"]).code(0).stdout;
    assert!(listed.contains(&id) && listed.contains("agent-001") && listed.contains("intent: Look around"), "{listed}");
    let shown = run(&["show", &id]).code(0).stdout;
    assert!(shown.contains(r#"arguments: {"text":"pay 900"}"#), "{shown}");
    let approved = run(&["approve", &id, "--reason", "seen", "--json"]).code(0).json();
    assert_eq!((&approved["state"], &approved["word"]["by"]), (&json!("approved"), &json!("anyone")));
    assert!(run(&["reject", &id]).code(2).stderr.contains("409"));
    assert!(run(&["show", "../x"]).code(2).stderr.contains("is no approval"));
    let args =
        ["submit", "--actor", "agent-001", "--intent", "Look around", "--tool", "echo", "--url", &url, "--params"];
    let told = gavel(args.iter().copied().chain([r#"{"text": "pay 900"}"#])).code(0).stdout;
    assert!(told.contains(&format!("approval  {id} used by anyone seen")), "{told}");
    let listed = run(&["list", "--state", "used", "--json"]).code(0).json();
    assert_eq!(listed["approvals"][0]["id"], json!(id));
}

#[test]
fn a_full_queue_denies_and_says_so() {
    let server = Server::start(&config().with("approvals", json!({"waiting_max": 1})));
    let _ = waiting(&server, &ask("r"));
    let receipt = in_time(|| server.submit(&call("r-2", "echo", json!({"text": "other"}))));
    let note = json!({"state": "refused", "reason": "too many approvals wait already (approvals.waiting_max)"});
    assert_eq!((&receipt["decision"], &receipt["approval"]), (&json!("DENY"), &note), "{receipt}");
    // A request that no policy escalates has nothing to do with it.
    assert_eq!(in_time(|| server.submit(&intent("r-3"))).get("approval"), None);
}

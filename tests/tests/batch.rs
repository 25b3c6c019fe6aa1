//! Several requests in one.
//!
//! What belongs here: `POST /submit/batch` and what sets it apart from `/submit`. What becomes of a single request is in
//! `governed.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

use gavel_tests::{Config, Key, Server, call, intent};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

fn batch(server: &Server, requests: &[Value]) -> Vec<Value> {
    let answer = server.post("/submit/batch", &json!({"requests": requests})).expect(200);
    answer["results"].as_array().expect("results").clone()
}

fn sum(n: usize) -> Value {
    call(&format!("r{n}"), "add", json!({"a": n, "b": n}))
}

#[test]
fn answers_come_in_the_order_of_the_requests_and_each_is_recorded() {
    let server = Server::start(&Config::open());
    let requests: Vec<Value> = (0..100).map(sum).collect();
    let results = batch(&server, &requests);
    assert_eq!(results.len(), 100);
    for (n, result) in results.iter().enumerate() {
        let receipt = &result["receipt"];
        assert_eq!((&receipt["request_id"], &receipt["decision"]), (&json!(format!("r{n}")), &json!("ALLOW")));
        assert_eq!((&receipt["tool_result"], &receipt["result"]), (&json!(2 * n), &json!(2 * n)));
    }
    let evidence = server.evidence();
    let mut recorded: Vec<&str> = evidence["ledger_entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["request_id"].as_str().unwrap())
        .collect();
    let mut sent: Vec<String> = (0..100).map(|n| format!("r{n}")).collect();
    recorded.sort_unstable();
    sent.sort_unstable();
    assert_eq!(recorded, sent);
    assert!(batch(&server, &[]).is_empty());
}

#[test]
fn one_that_is_refused_is_refused_alone() {
    let server = Server::start(&Config::open());
    let mut long = intent("long");
    long["actor"] = json!("x".repeat(2_000));
    let results =
        batch(&server, &[intent("r1"), json!({"actor": "a"}), json!(5), long, call("r2", "no-such-tool", json!({}))]);
    assert_eq!(results[0]["receipt"]["status"], "ACCEPTED");
    assert_eq!(results[1], json!({"status": 400, "error": "Missing field: 'request_id'"}));
    assert_eq!(results[2], json!({"status": 400, "error": "request must be a JSON object, not a number"}));
    assert_eq!(results[3]["status"], 413);
    assert_eq!(results[4]["receipt"]["status"], "FAILED");
    assert_eq!(server.entries(), 2, "what cannot be read leaves no record");
    assert!(server.metrics().get("gavel_unreadable_bodies_total") >= 3.0);
}

#[test]
fn what_is_no_batch_is_refused_whole() {
    let server = Server::start(&Config::open().with("limits", json!({"max_batch_requests": 3})));
    for body in [json!([intent("r1")]), intent("r1"), json!({"requests": 5}), json!(null)] {
        let told = server.post("/submit/batch", &body).error(400);
        assert_eq!(told, "the body must be an object whose `requests` is a list of requests", "{body}");
    }
    assert!(server.post_bytes("/submit/batch", b"{").error(400).starts_with("the body is not a JSON batch"));
    let four = json!({"requests": (0..4).map(sum).collect::<Vec<_>>()});
    let told = server.post("/submit/batch", &four).error(413);
    assert_eq!(told, "the batch holds 4 requests, at most 3 (limits.max_batch_requests)");
    assert_eq!(server.entries(), 0, "nothing of it was judged");
}

#[test]
fn a_halted_kernel_judges_none() {
    let server = Server::start(&Config::of(json!([Config::open_kernel("k"), Config::open_kernel("other")])));
    let _ = server.post("/kernels/other/halt", &json!({"reason": "drill"})).expect(200);
    let answer = server.post("/kernels/other/submit/batch", &json!({"requests": [intent("r1")]})).expect(200);
    let told = json!({"status": 409, "error": "kernel 'other' is halted: drill", "kernel_state": "HALTED"});
    assert_eq!(answer["results"], json!([told]));
    assert_eq!(batch(&server, &[intent("r1")])[0]["receipt"]["status"], "ACCEPTED", "the other one goes on");
}

#[test]
fn each_counts_against_the_rate() {
    let server = Server::start(&Config::open().with("limits", json!({"max_requests_per_second": 5})));
    let six = json!({"requests": (0..6).map(sum).collect::<Vec<_>>()});
    let mut connection = server.connect();
    let bytes = six.to_string().into_bytes();
    let mut send = || connection.request("POST", "/submit/batch", &[], Some(&bytes)).unwrap();
    // A second's worth is all that any batch costs: otherwise this one could never be sent.
    assert_eq!(send().expect(200)["results"].as_array().unwrap().len(), 6);
    let answers: Vec<_> = (0..20).map(|_| send()).collect();
    let refused = answers.iter().find(|answer| answer.status != 200).expect("120 requests are above 5 per second");
    assert_eq!(refused.error(429), "more than 5 requests per second (limits.max_requests_per_second)");
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn where_there_is_no_room_they_are_judged_one_after_the_other() {
    for limits in [json!({"max_in_flight": 1}), json!({"max_batch_concurrency": 1})] {
        let server = Server::start(&Config::open().with("limits", limits));
        let results = batch(&server, &(0..20).map(sum).collect::<Vec<_>>());
        assert!(results.iter().all(|result| result["receipt"]["status"] == "ACCEPTED"), "{results:?}");
        assert_eq!(batch(&server, &[intent("again")]).len(), 1, "every place was given back");
    }
}

#[test]
fn a_key_speaks_for_its_actor_in_each() {
    let agent = Key::make("a", &["--role", "agent", "--actor", "agent-001"]);
    let auditor = Key::make("b", &["--role", "auditor"]);
    let server = Server::start(&Config::open().keys(&[&agent, &auditor]));
    let mut other = intent("r2");
    other["actor"] = json!("agent-002");
    let body = json!({"requests": [intent("r1"), other]}).to_string();
    let send = |key: &Key| {
        let (name, value) = key.header();
        server.send("POST", "/submit/batch", &[(name, &value)], Some(body.as_bytes()))
    };
    let results = send(&agent).expect(200)["results"].clone();
    assert_eq!(results[0]["receipt"]["decision"], "ALLOW");
    assert_eq!(results[1]["receipt"]["decision"], "DENY");
    assert!(send(&auditor).error(403).contains("has not the role agent"));
    assert_eq!(server.post_bytes("/submit/batch", body.as_bytes()).status, 401);
}

/// With room for one record only, appends are turned away before a tool ran and after: the one may be sent again, the
/// other must not.
#[test]
fn what_may_be_sent_again_was_not_judged_and_what_may_have_run_is_in_the_evidence() {
    let server = Server::start(&Config::open().with("limits", json!({"max_ledger_queue": 1})));
    let (mut judged, mut undone) = (BTreeSet::new(), BTreeSet::new());
    let until = Instant::now() + gavel_tests::PATIENCE;
    for round in 0.. {
        let id = |n: usize| format!("{round}-{n}");
        let requests: Vec<Value> = (0..100).map(|n| call(&id(n), "add", json!({"a": n, "b": n}))).collect();
        for (n, result) in batch(&server, &requests).iter().enumerate() {
            match result["status"].as_u64() {
                None | Some(500) => judged.insert(id(n)),
                Some(503) => {
                    assert_eq!(result["retry_after_s"], 1, "{result}");
                    undone.insert(id(n))
                }
                _ => panic!("{result}"),
            };
        }
        if !judged.is_empty() && !undone.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "no record was turned away");
    }
    // Decisions whose outcome could not be recorded are closed at the next start.
    let evidence = server.stop().serve().evidence();
    let entries = evidence["ledger_entries"].as_array().unwrap();
    let recorded: BTreeSet<String> =
        entries.iter().map(|entry| entry["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(recorded, judged);
    assert!(recorded.is_disjoint(&undone));
}

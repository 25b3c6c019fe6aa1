//! Finding records: the index, its routes, and `gavel find`.
//!
//! What belongs here: that every record is found by what it says, newest first and page by page, over HTTP and offline;
//! that the index is never the truth, so that losing, damaging or exchanging its file changes no answer. Who may read
//! is in `auth.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use gavel_tests::{Config, Gavel, Server, Site, call, gavel, intent, path};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// A few requests of every kind: decided, run, denied, failed; and a halt of the other kernel.
fn filled() -> Server {
    let server = Server::start(&Config::of(json!([Config::open_kernel("k"), Config::open_kernel("other")])));
    for number in 0..4 {
        let _ = server.submit(&intent(&format!("intent-{number}")));
    }
    let _ = server.submit(&call("ran", "echo", json!({"text": "x"})));
    let _ = server.submit(&call("failed", "read_file", json!({"path": "not there"})));
    let _ = server.submit(&call("unknown", "rm", json!({})));
    let mut other = intent("from another/actor ü?&#");
    other["actor"] = json!("agent ü");
    let _ = server.submit(&other);
    let mut early = intent("ambiguous");
    early["intent"] = json!("");
    let _ = server.submit(&early);
    server
}

fn found(server: &Server, question: &str) -> Vec<u64> {
    let page = server.get(&format!("/records?{question}")).expect(200);
    assert_eq!((&page["complete"], &page["indexed"]), (&json!(true), &page["committed"]), "{page}");
    indices(&page)
}

fn indices(page: &Value) -> Vec<u64> {
    page["records"].as_array().unwrap().iter().map(|record| record["index"].as_u64().unwrap()).collect()
}

/// The same question to the command line, of the server and of the folder.
fn check_found(server: &Server, question: &str, args: &[&str], expected: &[u64]) {
    assert_eq!(found(server, question), expected, "{question}");
    let code = i32::from(expected.is_empty());
    let remote = ["find", "--json", "--url", &server.url];
    let told = gavel(remote.iter().chain(args)).code(code).json();
    assert_eq!(indices(&told), expected, "{args:?}");
    let ledger = server.site().ledger("k");
    let offline = ["find", "--json", "--ledger", path(&ledger)];
    assert_eq!(gavel(offline.iter().chain(args)).code(code).json(), told, "{args:?}");
}

#[test]
fn records_are_found_by_what_they_say() {
    let server = filled();
    // 0 is the opening record, 1 the key, 2 to 5 the intents, 6 and 7 the tool that ran, 8 and 9 the one that failed.
    check_found(&server, "request_id=intent-2", &["intent-2"], &[4]);
    check_found(&server, "request_id=ran", &["ran"], &[7, 6]);
    check_found(&server, "request_id=failed", &["failed"], &[9, 8]);
    check_found(&server, "request_id=unknown", &["unknown"], &[10]);
    check_found(&server, "request_id=nobody", &["nobody"], &[]);
    check_found(&server, "request_id=intent", &["intent"], &[]);
    let special = "from another/actor ü?&#";
    check_found(&server, "request_id=from%20another/actor%20%C3%BC%3F%26%23", &[special], &[11]);
    check_found(&server, "actor=agent%20%C3%BC", &["--actor", "agent ü"], &[11]);
    check_found(&server, "tool=echo", &["--tool", "echo"], &[7, 6]);
    check_found(&server, "tool=rm", &["--tool", "rm"], &[10]);
    check_found(&server, "decision=DENY", &["--decision", "deny"], &[12, 10, 9]);
    check_found(&server, "decision=allow&tool=read_file", &["--decision", "ALLOW", "--tool", "read_file"], &[8]);
    check_found(&server, "decision=HALT", &["--decision", "HALT"], &[]);
    check_found(
        &server,
        "actor=agent-001&decision=DENY&request_id=failed",
        &["failed", "--actor", "agent-001", "--decision", "deny"],
        &[9],
    );
    check_found(&server, "", &[], &[12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    let _ = server.post("/halt", &json!({"reason": "enough"})).expect(200);
    check_found(&server, "decision=HALT", &["--decision", "HALT"], &[13]);
    check_found(&server, "kind=key", &["--kind", "key"], &[1]);
    check_found(&server, "kind=halt", &["--kind", "halt"], &[13]);
    check_found(&server, "kind=outcome&decision=allow", &["--kind", "outcome", "--decision", "allow"], &[7]);
    check_found(&server, "actor=SYSTEM", &["--actor", "SYSTEM"], &[13]);
}

#[test]
fn times_bound_what_is_found() {
    let server = filled();
    let time_of = |index: u64| server.get(&format!("/records/{index}")).expect(200)["ts_ms"].as_u64().unwrap();
    let (third, tenth) = (time_of(3), time_of(10));
    let between = found(&server, &format!("from={third}&to={tenth}"));
    let expected: Vec<u64> = (0..13).rev().filter(|index| (third..=tenth).contains(&time_of(*index))).collect();
    assert_eq!(between, expected);
    assert!(between.contains(&3) && between.contains(&10));
    assert!(found(&server, "from=2999-01-01T00:00:00Z").is_empty());
    assert!(found(&server, "to=2001-01-01T00:00:00Z").is_empty());
    assert!(found(&server, "from=9&to=8").is_empty());
}

#[test]
fn pages_are_whole_and_in_order() {
    let server = Server::start(&Config::open().with("limits", json!({"max_page_records": 5})));
    for number in 0..17 {
        let _ = server.submit(&intent(&format!("r-{number}")));
    }
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = server.get(&format!("/records?limit=7&decision=allow{cursor}")).expect(200);
        let records = indices(&page);
        assert!(records.len() <= 5, "{}", records.len());
        seen.extend(records);
        // What comes later is not in between.
        let _ = server.submit(&intent("late"));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, (2..=18).rev().collect::<Vec<u64>>());
    // The command line asks for pages until it has what it wants.
    let all = Gavel::new(["find", "--json", "--limit", "12"]).env("GAVEL_URL", &server.url).run().code(0).json();
    assert_eq!(indices(&all).len(), 12);
    let rest = ["find", "--json", "--cursor", all["next_cursor"].as_str().unwrap()];
    let rest = Gavel::new(rest).env("GAVEL_URL", &server.url).run().code(0).json();
    assert_eq!(indices(&rest)[0] + 1, *indices(&all).last().unwrap());
    assert_eq!(rest["next_cursor"], json!(null));
    let text = Gavel::new(["find", "r-7", "--limit", "5"]).env("GAVEL_URL", &server.url).run().code(0).stdout;
    assert!(text.contains("record 9  decision  ALLOW  r-7  agent-001  -"), "{text}");
}

#[test]
fn a_record_is_answered_byte_for_byte() {
    let server = filled();
    let (_, records) = gavel_ledger::read_dir(&server.site().ledger("k")).unwrap();
    let mut connection = server.connect();
    for record in records.map(Result::unwrap) {
        let route = format!("/kernels/k/records/{}", record.index());
        let answer = connection.request("GET", &route, &[], None).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, record.as_str()));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(server.get("/records/13").error(404), "there is no record 13: the ledger has 13, from 0 on");
    assert_eq!(server.get("/kernels/other/records/2").error(404), "there is no record 2: the ledger has 2, from 0 on");
    assert!(server.get("/records/x").error(400).contains('x'));
    assert!(server.get("/records/-1").error(400).contains("-1"));
}

#[test]
fn questions_that_cannot_be_read_are_named() {
    let server = Server::start(&Config::open());
    for (question, told) in [
        ("decision=maybe", "`maybe` is no decision: give ALLOW, DENY or HALT"),
        ("from=yesterday", "`yesterday` is no time"),
        ("to=-1", "`-1` is no time"),
        ("limit=0", "limit=0: a page has 1 to 1000 records"),
        ("limit=x", "limit"),
        ("cursor=1", "`1` is no cursor: give the `next_cursor` of the page before"),
        ("id=r", "unknown field `id`"),
        ("actor=a&actor=b", "duplicate field `actor`"),
    ] {
        let error = server.get(&format!("/records?{question}")).error(400);
        assert!(error.contains(told), "{question}: {error}");
    }
    let told = gavel(["find", "--decision", "maybe"]).code(2).stderr;
    assert!(told.contains("`maybe` is no decision"), "{told}");
    let told = gavel(["find", "r", "--ledger", "/nowhere"]).code(2).stderr;
    assert!(told.contains("/nowhere: no such folder"), "{told}");
}

#[test]
fn the_log_is_followed_upward() {
    let server = filled();
    let (mut next, mut seen) = (0, Vec::new());
    loop {
        let page = server.get(&format!("/kernels/k/records?from_index={next}&limit=4")).expect(200);
        seen.extend(indices(&page));
        next = page["next_index"].as_u64().unwrap();
        assert_eq!((&page["next_cursor"], &page["committed"]), (&json!(null), &json!(13)));
        if next == 13 {
            break;
        }
    }
    assert_eq!(seen, (0..13).collect::<Vec<u64>>());
    let end = server.get("/records?from_index=13").expect(200);
    assert_eq!((indices(&end), &end["next_index"]), (Vec::new(), &json!(13)));
    let _ = server.submit(&intent("later"));
    assert_eq!(indices(&server.get("/records?from_index=13").expect(200)), [13]);
    let told = server.get("/records?from_index=1&actor=a").error(400);
    assert_eq!(told, "from_index reads the log as it stands: it goes with `limit` and nothing else");
    assert!(server.get("/records?from_index=-1").error(400).contains("from_index"));
}

fn index_file(site: &Site) -> PathBuf {
    site.data().join("kernels/k/index.redb")
}

#[test]
fn losing_the_index_changes_no_answer() {
    let server = filled();
    let ask = |server: &Server| server.get("/records?limit=100").expect(200);
    let before = ask(&server);
    let site = server.stop();
    fs::remove_file(index_file(&site)).unwrap();
    let server = site.serve();
    assert_eq!(ask(&server), before);
    // A killed server leaves whatever it leaves; the next one goes on or begins anew.
    let _ = server.submit(&intent("after"));
    server.kill();
    let server = site.serve();
    assert_eq!(found(&server, "request_id=after"), [13]);
    assert_eq!(found(&server, "").len(), 14);
}

#[test]
fn without_an_index_all_else_goes_on() {
    let site = Site::new(&Config::open());
    // A folder stands where the index and what is set aside should be.
    fs::create_dir_all(index_file(&site).join("x")).unwrap();
    fs::create_dir_all(index_file(&site).with_extension("redb.aside").join("x")).unwrap();
    let server = site.serve();
    server.wait_for_log("there is no index until the next start");
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
    let told = server.get("/records").error(503);
    assert_eq!(told, "the records cannot be read now; the server's log says why");
    // Single records, and what must be found for a proof, are read from the ledger itself.
    assert_eq!(server.get("/records/2").expect(200)["kind"], "decision");
    let proof = server.get("/prove?request_id=r").expect(200);
    assert_eq!(proof["proofs"][0]["record"]["index"], 2);
    let ledger = site.ledger("k");
    assert_eq!(indices(&gavel(["find", "r", "--json", "--ledger", path(&ledger)]).code(0).json()), [2]);
}

#[test]
fn a_file_that_is_no_index_of_this_ledger_is_set_aside() {
    let server = filled();
    let before = server.get("/records").expect(200);
    let site = server.stop();
    let good = fs::read(index_file(&site)).unwrap();
    let foreign = fs::read(site.data().join("kernels/other/index.redb")).unwrap();
    for (what, bytes) in [
        ("foreign", foreign),
        ("no database", b"this is no database".repeat(1_000)),
        ("cut short", good[..good.len() / 2].to_vec()),
        ("zeros", vec![0; good.len()]),
    ] {
        fs::write(index_file(&site), &bytes).unwrap();
        let server = site.serve();
        assert_eq!(server.get("/records").expect(200), before, "{what}");
        server.wait_for_log("the index is set aside and made anew; the ledger is not affected");
        let aside = fs::read(index_file(&site).with_extension("redb.aside")).unwrap();
        assert!(aside == bytes || what == "foreign", "{what}: what is set aside is as it was found");
        drop(server.stop());
    }
}

//! What survives: processes killed, stopped, started twice, and ledgers damaged.
//!
//! What belongs here: everything about the moment at which a server ends, and what the next one
//! finds. Each test ends real processes with real signals.

use gavel_tests::receipts::{Acknowledged, Fate, OUTCOME_UNKNOWN, killed_under_load, under_load};
use gavel_tests::{Config, Connection, Random, Server, Site, call, gavel, intent};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `gavel verify` of the ledger folder and of the exported bundle.
fn verify(server: &Server) {
    let bundle = server.site().path().join("evidence.json");
    let exported = gavel(["evidence", "--url", &server.url, "--out", text(&bundle)]).code(0);
    assert!(exported.stdout.contains("verified"), "{}", exported.stdout);
    let _ = gavel(["verify", text(&bundle)]).code(0);
    let folder = gavel(["verify", "--json", text(&server.site().ledger("k"))]).code(0).json();
    assert_eq!(folder["verified"], true);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have UTF-8 names")
}

#[test]
fn no_acknowledged_record_is_lost_in_100_kills() {
    const KILLS: usize = 100;
    let mut random = Random::from_environment();
    let site = Site::new(&Config::open());
    let mut acknowledged = Acknowledged::default();
    let mut unknown = 0;
    for round in 0..KILLS {
        let fates = killed_under_load(site.serve(), round, &mut random);
        acknowledged.add(&fates);
        let server = site.serve();
        let bundle = server.evidence();
        acknowledged.check(&bundle);
        unknown = closed_as_unknown(&bundle);
        if round % 25 == 24 {
            verify(&server);
        }
        server.kill();
    }
    assert!(acknowledged.count() > 10 * KILLS, "there was load: {}", acknowledged.count());
    let verified = gavel_ledger::verify_dir(&site.ledger("k")).expect("the ledger holds");
    assert_eq!(verified.open_decisions, 0, "every decision is closed");
    println!("{KILLS} kills, {} acknowledged records, {unknown} outcomes unknown", acknowledged.count());
}

/// How many entries say that their outcome is not known; each must be a denial of a tool call.
fn closed_as_unknown(bundle: &Value) -> usize {
    let entries = bundle["ledger_entries"].as_array().expect("entries").iter();
    entries
        .filter(|entry| entry["error"] == OUTCOME_UNKNOWN)
        .inspect(|entry| assert_eq!(entry["decision"], "DENY"))
        .count()
}

/// Submit a search that takes a while, and wait until it runs.
fn with_a_tool_running(server: &Server) -> Connection {
    let workspace = server.site().workspace();
    for number in 0..300 {
        let file = fs::File::create(workspace.join(format!("{number}"))).expect("a file");
        file.set_len(1 << 20).expect("a sparse file");
    }
    let body = call("running", "search", json!({"query": "nowhere"})).to_string();
    let mut connection = server.connect();
    let mut request = connection.head("POST", "/submit", &[], Some(body.len()));
    request.extend_from_slice(body.as_bytes());
    connection.send(&request).expect("the server listens");
    server.wait_for_status(|status| status["requests"]["executing"] == 1);
    connection
}

#[test]
fn a_tool_that_was_running_is_recorded_as_unknown() {
    let server = Server::start(&Config::open());
    let site = server.site().clone();
    let mut caller = with_a_tool_running(&server);
    server.kill();
    assert!(caller.answer().is_err(), "nobody answered");
    let before = gavel_ledger::verify_dir(&site.ledger("k")).unwrap();
    assert_eq!((before.entries, before.open_decisions), (0, 1), "the decision was durable before its tool ran");
    let server = site.serve();
    server.wait_for_log("closed a decision whose outcome is unknown");
    let entry = server.evidence()["ledger_entries"][0].clone();
    assert_eq!((&entry["request_id"], &entry["actor"]), (&json!("running"), &json!("agent-001")));
    assert_eq!((&entry["decision"], &entry["error"]), (&json!("DENY"), &json!(OUTCOME_UNKNOWN)));
    verify(&server);
    server.kill();
    let server = site.serve();
    assert_eq!(server.entries(), 1, "it is closed once");
}

#[test]
fn a_stop_finishes_what_is_in_flight() {
    let server = Server::start(&Config::open());
    let site = server.site().clone();
    let mut caller = with_a_tool_running(&server);
    server.ask_to_stop();
    server.wait_for_log("stopping: finishing what is in flight");
    assert_eq!(caller.answer().unwrap().expect(200)["status"], "ACCEPTED");
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("stopped; every acknowledged record is on disk"), "{log}");
    let verified = gavel_ledger::verify_dir(&site.ledger("k")).unwrap();
    assert_eq!((verified.entries, verified.open_decisions, verified.torn_bytes), (1, 0, 0));
}

#[test]
fn a_stop_under_load_answers_or_refuses() {
    for round in 0..5 {
        let server = Server::start(&Config::open());
        let site = server.site().clone();
        let mut stopped = None;
        let fates = under_load(server, 16, round, |server, fates| {
            let seen = fates.iter().take(200).collect();
            stopped = Some(server.terminate());
            seen
        });
        let (status, log) = stopped.expect("it was stopped");
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("stopped; every acknowledged record is on disk"), "{log}");
        let verified = gavel_ledger::verify_dir(&site.ledger("k")).unwrap();
        assert_eq!((verified.open_decisions, verified.torn_bytes), (0, 0));
        let bundle = site.serve().evidence();
        let mut acknowledged = Acknowledged::default();
        acknowledged.add(&fates);
        acknowledged.check(&bundle);
        assert_eq!(closed_as_unknown(&bundle), 0);
        // Who got no answer was not served either: the request can be sent again.
        let entries = bundle["ledger_entries"].as_array().unwrap();
        let recorded: BTreeSet<&str> = entries.iter().filter_map(|entry| entry["request_id"].as_str()).collect();
        for fate in &fates {
            if let Fate::Unanswered { id } = fate {
                assert!(!recorded.contains(id.as_str()), "{id} was served but not answered");
            }
        }
    }
}

#[test]
fn a_stop_does_not_wait_for_idle_connections() {
    let server = Server::start(&Config::open());
    let silent = server.connect();
    let mut idle = server.connect();
    assert_eq!(idle.request("GET", "/health", &[], None).unwrap().status, 200);
    let started = Instant::now();
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}\n{log}", started.elapsed());
    drop((silent, idle));
}

#[test]
fn a_stop_waits_no_longer_than_its_grace() {
    let limits = json!({"shutdown_grace_ms": 200});
    let server = Server::start(&Config::open().with("limits", limits));
    let mut stuck = server.connect();
    let head = stuck.head("POST", "/submit", &[("expect", "100-continue")], Some(1_000));
    stuck.send(&head).unwrap();
    assert_eq!(stuck.answer().unwrap().status, 100);
    let started = Instant::now();
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(log.contains("connections were still open when the grace ended"), "{log}");
}

#[test]
fn a_halt_survives_a_kill() {
    let server = Server::start(&Config::open());
    let site = server.site().clone();
    let _ = server.post("/halt", &json!({"reason": "enough"})).expect(200);
    server.kill();
    let server = site.serve();
    assert_eq!(server.post("/submit", &intent("r")).error(409), "kernel 'k' is halted: enough");
    assert!(server.announcement.contains("kernel k  strict, HALTED"), "{}", server.announcement);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start(&Config::open());
    let refused = server.site().refused();
    let expected = format!("is in use by process {}: stop it, or let it serve this kernel", server.pid());
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW", "the first one is not disturbed");
    let taken = server.site().command(&server.address.to_string()).run().code(2);
    assert!(taken.stderr.contains(&format!("cannot listen on {}", server.address)), "{}", taken.stderr);
}

/// A site whose kernel has decided something and is served no more, and its log file.
fn with_a_ledger() -> (Site, PathBuf) {
    let server = Server::start(&Config::open());
    for number in 0..50 {
        let _ = server.submit(&call(&format!("r{number}"), "echo", json!({"text": "x"})));
    }
    let site = server.site().clone();
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    let log = site.ledger("k").join("segment-000000.log");
    (site, log)
}

#[test]
fn a_damaged_ledger_does_not_open_and_says_where() {
    let (site, log) = with_a_ledger();
    let good = fs::read(&log).unwrap();
    for part in 1..20 {
        let at = good.len() * part / 20;
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        fs::write(&log, &bad).unwrap();
        let told = site.refused().stderr;
        assert!(told.starts_with("gavel: kernel k: segment 0: byte "), "byte {at}: {told}");
        let byte = told.split("byte ").nth(1).and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        assert!(byte.is_some_and(|byte| byte <= at && at - byte < 4_096), "byte {at}: {told}");
        assert_eq!(fs::read(&log).unwrap(), bad, "nothing was changed");
        let verified = gavel(["verify", text(&site.ledger("k"))]).code(1);
        assert!(verified.stdout.contains("NOT VERIFIED: segment 0: byte "), "{}", verified.stdout);
    }
    fs::write(&log, &good).unwrap();
    assert_eq!(site.serve().entries(), 50);
}

#[test]
fn a_ledger_that_lost_acknowledged_records_does_not_open() {
    let (site, log) = with_a_ledger();
    let good = fs::read(&log).unwrap();
    for length in [good.len() - 1, good.len() / 2, 100, 0] {
        fs::write(&log, &good[..length]).unwrap();
        let told = site.refused().stderr;
        assert!(told.starts_with("gavel: kernel k: "), "{told}");
        assert_eq!(fs::read(&log).unwrap().len(), length, "nothing was changed");
        let _ = gavel(["verify", text(&site.ledger("k"))]).code(1);
    }
    fs::remove_file(&log).unwrap();
    let told = site.refused().stderr;
    assert!(told.starts_with("gavel: kernel k: "), "{told}");
}

#[test]
fn a_torn_batch_at_the_end_is_cut() {
    let (site, log) = with_a_ledger();
    // As a loss of power leaves it: the mark is a little older than the log, and the last batch,
    // which holds an outcome, is not whole.
    let mark = log.with_file_name("mark");
    let older = fs::read(&mark).unwrap();
    let server = site.serve();
    let _ = server.submit(&call("last", "echo", json!({"text": "x"})));
    let (status, _) = server.terminate();
    assert!(status.success());
    let whole = fs::read(&log).unwrap();
    for missing in [1, 8, 50, 200] {
        fs::write(&log, &whole[..whole.len() - missing]).unwrap();
        fs::write(&mark, &older).unwrap();
        let server = site.serve();
        let bundle = server.evidence();
        let last = &bundle["ledger_entries"][50];
        assert_eq!((&last["request_id"], &last["error"]), (&json!("last"), &json!(OUTCOME_UNKNOWN)), "{missing}");
        assert_eq!(bundle["entry_count"], 51);
        server.kill();
    }
    // What no crash leaves is damage, also at the end.
    fs::write(&log, [whole.as_slice(), &b"\xff".repeat(5_000)].concat()).unwrap();
    fs::write(&mark, &older).unwrap();
    assert!(site.refused().stderr.starts_with("gavel: kernel k: segment 0: byte "));
}

#[test]
fn a_ledger_of_another_kernel_is_refused() {
    let (site, log) = with_a_ledger();
    let other = site.ledger("other");
    fs::create_dir_all(&other).unwrap();
    for file in fs::read_dir(log.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    site.configure(&Config::of(json!([Config::open_kernel("other")])));
    let told = site.refused().stderr;
    assert!(told.contains("is the ledger of kernel `k`, not of `other`"), "{told}");
}

//! Kernels are replaced, not restarted: under load, under SIGKILL, with what must not be forgotten.
//!
//! What belongs here: what clients and auditors see when another kernel answers under a name. The plays that lead
//! there are in `kernel_plays.rs`, policy sets in `life.rs`, single kernels in `governed.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

mod replaced;

use gavel_kernel::Keyring;
use gavel_tests::{Config, Connection, Random, Server, Site, call, gavel, intent, path};
use replaced::{counting, error, events, hostile, replace, serving, settled};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SECRET: &str = "00112233445566778899aabbccddeeff";

/// Every entry of a ledger: hash and request. The ledger is verified.
fn entries(site: &Site, kernel: &str) -> BTreeMap<String, String> {
    let (_, records) = gavel_ledger::read_dir(&site.ledger(kernel)).unwrap();
    let mut found = BTreeMap::new();
    for record in records.map(Result::unwrap) {
        if let Some(entry) = record.entry() {
            let data: Value = serde_json::from_str(entry.data).unwrap();
            let id = data["request_id"].as_str().unwrap().to_owned();
            assert_eq!(found.insert(entry.entry_hash.to_owned(), id), None);
        }
    }
    found
}

/// Every ledger in the data folder.
fn ledgers(site: &Site) -> Vec<String> {
    let folders = fs::read_dir(site.data().join("kernels")).unwrap();
    let mut names: Vec<String> = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Submit until told to stop or the server is gone; the evidence hash and id of each receipt.
fn submit_until(address: SocketAddr, name: &str, stop: &AtomicBool, must_answer: bool) -> Vec<(String, String)> {
    let mut receipts = Vec::new();
    let Ok(mut connection) = Connection::open(address) else { return receipts };
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let id = format!("{name}-{number}");
        let request = if number % 2 == 0 { intent(&id) } else { call(&id, "echo", json!({"text": id})) };
        match connection.request("POST", "/kernels/k/submit", &[], Some(request.to_string().as_bytes())) {
            Ok(answer) => {
                let receipt = answer.expect(200);
                assert_eq!((&receipt["request_id"], &receipt["decision"]), (&json!(id), &json!("ALLOW")), "{receipt}");
                receipts.push((receipt["evidence_hash"].as_str().unwrap().to_owned(), id));
            }
            Err(why) => {
                assert!(!must_answer, "{id}: {why}");
                break;
            }
        }
    }
    receipts
}

#[test]
fn no_request_fails_while_kernels_are_replaced_and_each_is_in_one_ledger() {
    const REPLACEMENTS: usize = 5;
    let server = Server::start(&counting(1_000_000));
    let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let receipts: Vec<(String, String)> = thread::scope(|scope| {
        let (address, stop, seen) = (server.address, &stop, &seen);
        let clients: Vec<_> = (0..8)
            .map(|client| {
                scope.spawn(move || {
                    let receipts = submit_until(address, &format!("c{client}"), stop, true);
                    seen.fetch_add(receipts.len() as u64, Ordering::SeqCst);
                    receipts
                })
            })
            .collect();
        for number in 0..REPLACEMENTS {
            // Traffic has come to the one that is there.
            server.wait_for("/kernels/k/status", |status| status["ledger"]["entries"].as_u64() > Some(10));
            let told = replace(&server, &json!({"why": format!("number {number}")}));
            assert_eq!(told["kernel_id"], format!("k-{}", number + 2), "{told}");
        }
        server.wait_for("/kernels/k/status", |status| status["ledger"]["entries"].as_u64() > Some(10));
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let before = settled(&server);
    assert_eq!(before.len(), REPLACEMENTS);
    let site = server.stop();
    let names = ledgers(&site);
    assert_eq!(names, ["k", "k-2", "k-3", "k-4", "k-5", "k-6"]);
    let ledgers: Vec<BTreeMap<String, String>> = names.iter().map(|name| entries(&site, name)).collect();
    let mut smoke = 0;
    for ledger in &ledgers {
        smoke += ledger.values().filter(|id| id.starts_with("SMOKE-")).count();
    }
    assert_eq!(smoke, REPLACEMENTS);
    for (hash, id) in &receipts {
        let found = ledgers.iter().filter(|ledger| ledger.get(hash) == Some(id)).count();
        assert_eq!(found, 1, "{id} is in {found} ledgers");
    }
    assert_eq!(ledgers.iter().map(BTreeMap::len).sum::<usize>(), receipts.len() + smoke);
    assert!(ledgers.iter().all(|ledger| ledger.len() > 10), "each of them served");
    walk_the_succession(&site, &names);
    for (before, name) in before.iter().zip(&names) {
        let archive = site.data().join("archive").join(before["archive"].as_str().unwrap());
        let told = gavel(["verify", path(&archive)]).code(0);
        assert!(told.stdout.contains("verified"), "{name}: {}", told.stdout);
    }
}

/// As an auditor does: from the first ledger to the last, by what they say of each other.
fn walk_the_succession(site: &Site, names: &[String]) {
    for pair in names.windows(2) {
        let (old, new) = (&pair[0], &pair[1]);
        let report = gavel_ledger::verify_dir(&site.ledger(old)).unwrap();
        let (_, records) = gavel_ledger::read_dir(&site.ledger(old)).unwrap();
        let last: Value = serde_json::from_str(records.map(Result::unwrap).last().unwrap().meta()).unwrap();
        assert_eq!((&last["action"], &last["replaced_by"]), (&json!("replaced_by"), &json!(new)));
        let told = events(site, new, "kernel");
        let replaces = &told[0]["replaces"];
        assert_eq!((&told[0]["action"], &replaces["kernel_id"]), (&json!("replaces"), &json!(old)));
        let until = usize::try_from(replaces["entries"].as_u64().unwrap()).unwrap();
        let (_, records) = gavel_ledger::read_dir(&site.ledger(old)).unwrap();
        let hashes: Vec<String> =
            records.map(Result::unwrap).filter_map(|record| Some(record.entry()?.entry_hash.to_owned())).collect();
        if until > 0 {
            assert_eq!(replaces["root_hash"], hashes[until - 1], "the chain that was verified is a beginning");
        }
        let retired = told.iter().find(|event| event["action"] == "predecessor_retired").unwrap();
        assert_eq!(retired["predecessor"]["root_hash"], report.chain_head);
        assert_eq!(retired["predecessor"]["records"], report.records);
    }
}

/// A permit for `echo` that may be used once.
fn permit(nonce: &str) -> Map<String, Value> {
    let permit = json!({
        "issuer": "operator", "subject": "agent-001", "jurisdiction": "default", "action": "echo", "params": {},
        "constraints": {}, "max_executions": 1, "valid_from_ms": 0, "valid_until_ms": 9_000_000_000_000_u64,
        "proposal_hash": "", "nonce": nonce,
    });
    Keyring::from_hex([("key-1", SECRET)]).unwrap().sign("key-1", permit.as_object().unwrap().clone()).unwrap()
}

#[test]
fn permits_stay_used_and_counters_go_on_through_replacements_and_crashes() {
    let mut kernel = Config::ruled_kernel("k", &["gate"]);
    kernel["permits"] = json!({"keyring": {"key-1": SECRET}});
    let count = json!({"do": "count", "key": "calls", "amount": 1, "window_ms": 36_000_000, "max": 5});
    let gate = json!({"component": hostile(), "config": count, "limits": {"deadline_ms": 30_000}});
    let config =
        Config::of(json!([kernel])).policy("gate", gate).with("limits", json!({"decision_deadline_ms": 60_000}));
    let server = Server::start(&config);
    let with = |nonce: &str| {
        let mut request = call("r", "echo", json!({"text": "x"}));
        request["permit"] = json!(permit(nonce));
        request
    };
    let replayed = "Permit verification failed: REPLAY_DETECTED";
    assert_eq!(error(&server, &with("a")), "");
    drop(replace(&server, &json!({})));
    assert_eq!(error(&server, &with("a")), replayed, "in the new kernel");
    assert_eq!(error(&server, &with("b")), "");
    drop(replace(&server, &json!({})));
    let site = server.site().clone();
    drop(settled(&server));
    server.kill();
    let server = site.serve();
    assert_eq!(serving(&server), "k-3");
    for used in ["a", "b"] {
        assert_eq!(error(&server, &with(used)), replayed, "after a crash, from two ledgers back");
    }
    for number in 3..=5 {
        assert_eq!(error(&server, &with(&number.to_string())), "", "call {number}");
    }
    assert!(error(&server, &with("more")).contains("6 is more than 5"), "smoke tests did not count, calls did");
}

#[test]
fn a_permit_stays_used_though_a_kernel_in_between_asked_for_none() {
    let mut kernel = Config::open_kernel("k");
    kernel["permits"] = json!({"keyring": {"key-1": SECRET}});
    let server = Server::start(&Config::of(json!([kernel])));
    let mut request = call("r", "echo", json!({"text": "x"}));
    request["permit"] = json!(permit("a"));
    assert_eq!(error(&server, &request), "");
    let site = server.stop();
    site.configure(&Config::open());
    let server = site.serve();
    assert_eq!(error(&server, &call("r2", "echo", json!({"text": "x"}))), "", "no permit is asked for");
    drop(replace(&server, &json!({"definition": {"kernel": kernel}})));
    assert_eq!(error(&server, &request), "Permit verification failed: REPLAY_DETECTED");
}

#[test]
fn a_crash_at_any_moment_of_a_replacement_loses_nothing() {
    const ROUNDS: usize = 10;
    let mut random = Random::from_environment();
    let site = Site::new(&Config::open());
    let mut acknowledged: Vec<(String, String)> = Vec::new();
    let (mut replaced, mut ever) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let server = site.serve();
        let spin = Duration::from_micros(random.below(150_000));
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let receipts: Vec<(String, String)> = thread::scope(|scope| {
            let (address, stop, answered) = (server.address, &stop, &answered);
            let clients: Vec<_> = (0..4)
                .map(|client| scope.spawn(move || submit_until(address, &format!("{round}-{client}"), stop, false)))
                .collect();
            scope.spawn(move || {
                let Ok(mut connection) = Connection::open(address) else { return };
                // One after the other, until the server is gone.
                while let Ok(answer) = connection.request("POST", "/kernels/k/replace", &[], Some(b"{}")) {
                    drop(answer.expect(200));
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
            server.wait_for("/kernels/k/status", |status| {
                status["ledger"]["entries"].as_u64() > Some(0) && answered.load(Ordering::SeqCst) >= round as u64 % 3
            });
            let from = Instant::now();
            while from.elapsed() < spin {
                std::hint::spin_loop();
            }
            server.kill();
            stop.store(true, Ordering::SeqCst);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        acknowledged.extend(receipts);
        let server = site.serve();
        assert_eq!(error(&server, &intent(&format!("after-{round}"))), "");
        replaced.insert(serving(&server));
        let before = settled(&server);
        assert!(before.iter().all(|before| before["archive"].is_string()), "{before:?}");
        ever.extend(before.iter().map(|before| before["kernel_id"].as_str().unwrap().to_owned()));
        ever.insert(serving(&server));
        server.kill();
    }
    // A crash may also leave the folder of a kernel that never served.
    let ledgers: Vec<BTreeMap<String, String>> = ever.iter().map(|name| entries(&site, name)).collect();
    for (hash, id) in &acknowledged {
        let found = ledgers.iter().filter(|ledger| ledger.get(hash) == Some(id)).count();
        assert_eq!(found, 1, "{id} is in {found} ledgers");
    }
    assert!(acknowledged.len() > ROUNDS, "there was load: {}", acknowledged.len());
    assert!(replaced.len() > 1, "replacements happened: {replaced:?}");
    println!("{} acknowledged, {} ledgers, served last by {replaced:?}", acknowledged.len(), ledgers.len());
}

#[test]
fn what_was_promoted_goes_with_a_replacement_by_the_same() {
    let server = Server::start(&counting(100));
    let deny = json!({"name": "gate", "config": {"do": "deny", "reason": "closed"}});
    drop(server.post("/policies/stage", &json!({"edits": [deny]})).expect(200));
    let set = server.post("/policies/promote", &json!({})).expect(200)["serving"]["set"].clone();
    drop(replace(&server, &json!({})));
    assert!(error(&server, &intent("r")).contains("closed"));
    let server = server.stop().serve();
    let told = server.get("/policies").expect(200);
    assert_eq!((&told["kernel_id"], &told["serving"]["set"]), (&json!("k-2"), &set));
    drop(server.post("/policies/rollback", &json!({})).expect(200));
    assert_eq!(error(&server, &intent("r")), "", "and so does the way back");
}

#[test]
fn a_replacement_that_is_not_accepted_changes_nothing() {
    let server = Server::start(&counting(100));
    let definition = |component: &str, config: Value| {
        let kernel = Config::ruled_kernel("k", &["gate"]);
        json!({"definition": {"kernel": kernel, "policies": {"gate": {"component": component, "config": config}}}})
    };
    for (body, status, told) in [
        (definition(&hostile(), json!({"do": "allow"})), 422, "is a path"),
        (definition(&format!("sha256:{}", "0".repeat(64)), json!({})), 422, "not in the catalogue"),
        (json!({"policy": {"custom_rules": ["nope"]}}), 422, "nope"),
        (json!({"id": "../x"}), 422, "../x"),
        (json!({"id": "k"}), 409, "never used again"),
        (json!({"policy": {}, "definition": {"kernel": {"id": "k"}}}), 400, "not both"),
        (json!({"polisy": {}}), 400, "polisy"),
    ] {
        let why = server.post("/kernels/k/replace", &body).error(status);
        assert!(why.contains(told), "{why}");
    }
    assert!(server.post("/kernels/nobody/replace", &json!({})).error(404).contains("nobody"));
    let trap = json!({"edits": [{"name": "gate", "config": {"do": "trap"}}]});
    drop(server.post("/policies/stage", &trap).expect(200));
    drop(server.post("/policies/promote", &json!({})).expect(200));
    let why = server.post("/kernels/k/replace", &json!({})).error(422);
    assert!(why.contains("policy gate fails its smoke test: trap"), "{why}");
    assert_eq!(serving(&server), "k");
    drop(server.post("/policies/rollback", &json!({})).expect(200));
    assert_eq!(replace(&server, &json!({}))["kernel_id"], "k-3", "the id of one that never served is not used again");
    assert_eq!(error(&server, &intent("r")), "");
}

#[test]
fn a_halt_during_replacements_halts_what_answers() {
    let server = Server::start(&Config::open());
    let address = server.address;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut connection = Connection::open(address).unwrap();
            // Until one of them finds the kernel halted, or replaces a halted one.
            for _ in 0..3 {
                let answer = connection.request("POST", "/kernels/k/replace", &[], Some(b"{}")).unwrap();
                assert!([200, 409].contains(&answer.status), "{}", answer.text());
            }
        });
        server.wait_for("/kernels/k/status", |status| status["kernel_id"] != "k");
        let incident = server.post("/incidents", &json!({"reason": "stop"})).expect(200);
        assert_eq!(incident["status"], "OPEN");
        drop(server.post("/kernels/k/halt", &json!({"reason": "stop"})).expect(200));
        let status = server.get("/kernels/k/status").expect(200);
        assert_eq!(status["state"], "HALTED", "{status}");
    });
    assert_eq!(server.get("/kernels/k/status").expect(200)["state"], "HALTED");
    assert!(server.post("/kernels/k/submit", &intent("r")).error(409).contains("halted"));
}

#[test]
fn a_manifest_that_cannot_be_read_stops_the_start_and_is_left_as_it_is() {
    let server = Server::start(&Config::open());
    drop(replace(&server, &json!({})));
    drop(settled(&server));
    let site = server.stop();
    let manifest = site.data().join("kernels.json");
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    let told = site.refused().stderr;
    assert!(told.contains("kernels.json") && told.contains("restore it"), "{told}");
    assert_eq!(fs::read(&manifest).unwrap(), whole[..whole.len() / 2]);
    fs::write(&manifest, &whole).unwrap();
    let server = site.serve();
    assert_eq!(serving(&server), "k-2");
    let kept: &Path = &site.data().join("archive");
    assert_eq!(fs::read_dir(kept).unwrap().count(), 1);
}

#[test]
fn the_ledger_of_a_replaced_kernel_is_still_read_to_its_end() {
    let server = Server::start(&Config::open());
    for number in 0..5 {
        assert_eq!(server.submit(&intent(&format!("r-{number}")))["decision"], "ALLOW");
    }
    let before = server.get("/kernels/k/records?from_index=0&limit=1000").expect(200);
    drop(replace(&server, &json!({"why": "weekly"})));
    let end = settled(&server)[0]["records"].as_u64().unwrap();
    assert!(end > before["committed"].as_u64().unwrap(), "how it ended is on record too");
    let server = server.stop().serve();
    let read = |path: &str| server.get(path).expect(200);
    assert_eq!(read("/kernels/k/records?from_index=0")["kernel_id"], "k-2", "the name is the next one's");

    let (mut records, mut next) = (Vec::new(), 0);
    while next < end {
        let page = read(&format!("/kernels/k/records?from_index={next}&limit=3&of=k"));
        assert_eq!((&page["kernel_id"], page["committed"].as_u64()), (&json!("k"), Some(end)));
        records.extend(page["records"].as_array().unwrap().clone());
        next = page["next_index"].as_u64().unwrap();
    }
    let known = before["records"].as_array().unwrap();
    assert_eq!((records.len() as u64, &records[..known.len()]), (end, &known[..]));
    assert_eq!(read("/kernels/k/records/2?of=k"), records[2]);
    let refused = |path: &str, code: u16, why: &str| {
        let told = server.get(path).error(code);
        assert!(told.contains(why), "{path}: {told}");
    };
    refused("/kernels/k/records/9999?of=k", 404, &format!("there is no record 9999: the ledger has {end}"));
    refused("/kernels/k/records?of=k", 400, "read it upward, with from_index");
    refused("/kernels/k/records?from_index=0&of=nobody", 404, "'nobody': there is no ledger of a kernel of this id");
    let proof = read("/kernels/k/prove?request_id=r-1&of=k");
    assert_eq!((&proof["kernel_id"], &proof["request_id"]), (&json!("k"), &json!("r-1")));
    refused("/kernels/k/prove?request_id=r-1", 404, "r-1");
    refused("/kernels/k/records?from_index=0&of=..%2Fk", 404, "no ledger of a kernel");

    // One whose id is no name is found by its id alone.
    drop(replace(&server, &json!({"why": "again"})));
    drop(settled(&server));
    assert_eq!(read("/kernels/k-2/records?from_index=0")["kernel_id"], "k-2");
    assert_eq!(read("/kernels/k-3/records?from_index=0&of=k-3")["kernel_id"], "k-3");
    refused("/kernels/k-4/records?from_index=0", 404, "k-4");
}

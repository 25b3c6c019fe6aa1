//! A fleet under fire: kernels killed, hung, moved and restarted under load, ports and folders that are another's, a full
//! disk, a main process that is killed.
//!
//! What belongs here: what a fleet does when something goes wrong, with real processes and real signals. Who may ask for
//! what, and how requests pass through the main API, is in `fleet_door.rs`. The kernels are the ones that decide, whose
//! receipts can be held against their ledgers; what holds for them holds for every kind, for it is the fleet that does it.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

use gavel_tests::fleet::{Load, config, failed, free_ports, governance, lives, pid_of, second, send, until};
use gavel_tests::receipts::{Acknowledged, Fate};
use gavel_tests::{Connection, Server, Site, Volume, call, intent};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A fleet of one kernel, with these settings.
fn alone(settings: Value) -> Site {
    Site::new(&config(json!({"governance": governance()}), settings))
}

/// A fleet of two, with these settings.
fn two(settings: Value) -> Site {
    Site::new(&config(json!({"governance": governance(), "second": second()}), settings))
}

/// Every receipt must have its record in this ledger.
fn check(ledger: &Path, fates: &[Fate]) -> usize {
    let mut acknowledged = Acknowledged::default();
    acknowledged.add(fates);
    let (_, records) = gavel_ledger::read_dir(ledger).expect("the ledger holds");
    let entries: Vec<(String, Value)> = records
        .filter_map(|record| {
            let record = record.expect("it was verified");
            let entry = record.entry()?;
            Some((entry.entry_hash.to_owned(), serde_json::from_str(entry.data).expect("an entry is JSON")))
        })
        .collect();
    acknowledged.check_entries(entries.iter().map(|(hash, entry)| (hash.as_str(), entry)));
    acknowledged.count()
}

/// A process of somebody else that listens on a port; on 0, on any.
struct Foreign {
    process: Child,
    port: u16,
}

impl Foreign {
    fn on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let port = listener.local_addr().unwrap().port();
        let process = Command::new("sleep").arg("600").stdin(Stdio::from(OwnedFd::from(listener))).spawn().unwrap();
        Self { process, port }
    }

    /// It holds its port as before.
    fn check_unharmed(&mut self) {
        assert_eq!(self.process.try_wait().unwrap(), None, "nobody signalled it");
        assert!(TcpListener::bind(("127.0.0.1", self.port)).is_err());
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Within this a kernel that was killed is well again, also in a debug build on a busy machine. No measure of how fast it is.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// Kill a kernel, and wait until another process is well in its place; gives its line.
fn killed_and_back(server: &Server, name: &str) -> Value {
    let pid = server.signal_kernel(name, Signal::KILL);
    let killed = Instant::now();
    let entry = server.wait_for_successor(name, pid);
    let took = killed.elapsed();
    assert!(took < BACK_WITHIN, "`{name}` was killed, and well again only after {took:?}: {entry}");
    entry
}

#[test]
fn a_kernel_killed_under_load_costs_no_other_a_request() {
    let site = two(json!({"restarts_max": 10, "backoff_first_ms": 1}));
    let server = site.fleet();
    let (killed, other) = (Load::on(server.address, "", 4, "killed"), Load::on(server.address, "/second", 4, "other"));
    for _ in 0..3 {
        killed.wait_for(20);
        other.wait_for(20);
        let before = server.kernel("governance");
        let after = killed_and_back(&server, "governance");
        assert_eq!(after["port"], before["port"]);
    }
    killed.wait_for(20);
    other.wait_for(20);
    let (killed, other) = (killed.stop(), other.stop());
    assert!(failed(&other).is_empty(), "{:?}", failed(&other));
    // Whoever was not answered was told so: each of the submitters had at most one request in flight at each kill.
    assert!(failed(&killed).len() <= 3 * 4, "{:?}", failed(&killed));
    let history = server.wait_for_healings("governance", 3);
    assert_eq!(
        (&history["total"], &history["history"][0]["issue"]),
        (&json!(3), &json!("process_crashed")),
        "{history}"
    );
    let site = server.stop();
    assert!(check(&site.ledger("k"), &killed) >= 80);
    assert!(check(&site.data().join("fleet/second/kernels/k/ledger"), &other) >= 80);
}

/// A kernel that keeps what is posted to it, and the words of its routes.
struct Keeper {
    kernel: &'static str,
    post: &'static str,
    what: &'static str,
    get: &'static str,
    list: &'static str,
    place: &'static str,
}

const KEEPERS: [Keeper; 2] = [
    Keeper {
        kernel: "message_bus",
        post: "/message_bus/topics/fire/messages",
        what: "event",
        get: "/message_bus/topics/fire/messages",
        list: "messages",
        place: "offset",
    },
    Keeper {
        kernel: "immutable_log",
        post: "/immutable_log/append",
        what: "kind",
        get: "/immutable_log/entries",
        list: "entries",
        place: "index",
    },
];

/// Post one after the other, whatever comes back, until told to stop; gives what was acknowledged, with its place.
fn append(server: &Server, keeper: &Keeper, stop: &AtomicBool, done: &AtomicUsize) -> Vec<(u64, u64)> {
    let Keeper { post, what, place, .. } = keeper;
    let (mut acknowledged, mut connection) = (Vec::new(), None);
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let body = json!({*what: "note", "data": number}).to_string();
        let mut open: Connection = connection.take().unwrap_or_else(|| server.connect());
        let json = [("content-type", "application/json")];
        // One that broke off may be there or not; nobody was promised anything.
        let Ok(answer) = open.request("POST", post, &json, Some(body.as_bytes())) else { continue };
        if answer.status == 200 {
            acknowledged.push((answer.json()[*place].as_u64().expect("where it is"), number));
            done.fetch_add(1, Ordering::SeqCst);
        } else {
            assert!([502, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
        }
        connection = Some(open);
    }
    acknowledged
}

/// Everything that it keeps, by its place.
fn all(server: &Server, keeper: &Keeper) -> BTreeMap<u64, Value> {
    let Keeper { get, list, place, .. } = keeper;
    let mut all = BTreeMap::new();
    loop {
        let from = all.last_key_value().map_or(0, |(last, _)| last + 1);
        let page = server.get(&format!("{get}?from={from}&limit=100")).expect(200);
        let rows = page[*list].as_array().expect("a page has rows");
        if rows.is_empty() {
            return all;
        }
        all.extend(rows.iter().map(|row| (row[*place].as_u64().expect("a place"), row["data"].clone())));
    }
}

#[test]
fn what_the_bus_and_the_log_acknowledged_outlives_their_kills() {
    let kernels = json!({"message_bus": {"needs": []}, "immutable_log": {"needs": []}});
    let server = Site::new(&config(kernels, json!({"restarts_max": 10, "backoff_first_ms": 1}))).fleet();
    for keeper in &KEEPERS {
        let kernel = keeper.kernel;
        let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        let acknowledged: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let one = || append(&server, keeper, &stop, &done);
            let writers: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            for _ in 0..3 {
                let wanted = done.load(Ordering::SeqCst) + 20;
                until("writes are acknowledged", || done.load(Ordering::SeqCst) >= wanted);
                let _ = killed_and_back(&server, kernel);
            }
            let wanted = done.load(Ordering::SeqCst) + 20;
            until("writes are acknowledged", || done.load(Ordering::SeqCst) >= wanted);
            stop.store(true, Ordering::SeqCst);
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer does not panic")).collect()
        });
        let kept = all(&server, keeper);
        let lost: Vec<_> = acknowledged.iter().filter(|(at, number)| kept.get(at) != Some(&json!(number))).collect();
        assert!(lost.is_empty(), "{kernel} lost {lost:?} of {}", acknowledged.len());
        let places: BTreeSet<u64> = acknowledged.iter().map(|(at, _)| *at).collect();
        assert_eq!(places.len(), acknowledged.len(), "{kernel} gave no place twice");
        assert!(acknowledged.len() >= 80, "{}", acknowledged.len());
    }
}

#[test]
fn a_kernel_moves_and_restarts_under_load_without_a_failed_request() {
    let first = free_ports();
    let site = alone(json!({"first_port": first}));
    let server = site.fleet();
    let load = Load::on(server.address, "", 8, "moved");
    let mut ports = vec![server.kernel("governance")["port"].as_u64().unwrap()];
    for round in 0..6 {
        load.wait_for(30);
        let pid = pid_of(&server.kernel("governance"));
        let told = if round % 2 == 0 {
            server.heal(json!({"component_name": "governance", "action": "rebind_port"})).expect(200)
        } else {
            server.post("/fleet/governance/restart", &json!({})).expect(200)
        };
        assert_eq!(told["success"], true, "{told}");
        let after = server.kernel("governance");
        assert!(pid_of(&after) != pid && !lives(pid), "{after}");
        ports.push(after["port"].as_u64().unwrap());
    }
    load.wait_for(30);
    let fates = load.stop();
    assert!(failed(&fates).is_empty(), "{:?}", failed(&fates));
    let of_the_tier = u64::from(first) + 10..u64::from(first) + 20;
    assert!(ports.iter().all(|port| of_the_tier.contains(port)), "{ports:?}");
    assert!(ports.chunks(2).all(|pair| pair.len() < 2 || pair[0] != pair[1]), "each rebind moved it: {ports:?}");
    let now = ports[6];
    for old in ports.iter().filter(|port| **port != now).collect::<BTreeSet<_>>() {
        let port = u16::try_from(*old).unwrap();
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "nobody listens on a port that was left: {port}");
    }
    assert!(check(&server.stop().ledger("k"), &fates) >= 210);
}

#[test]
fn a_fleet_without_ranges_rebinds_to_any_free_port() {
    let server = alone(json!({})).fleet();
    let before = server.kernel("governance");
    let told = server.heal(json!({"component_name": "governance", "action": "rebind_port"})).expect(200);
    assert_eq!(told["success"], true, "{told}");
    let after = server.kernel("governance");
    assert_ne!(after["port"], before["port"]);
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
}

#[test]
fn a_port_that_is_anothers_is_left_to_it() {
    let mut foreign = Foreign::on(0);
    let site = Site::new(&config(json!({"governance": {"needs": [], "port": foreign.port}}), json!({})));
    let server = site.fleet();
    let entry = server.wait_for_kernel("governance", |entry| entry["status"] == "healthy");
    assert_ne!(entry["port"], foreign.port);
    let history = server.wait_for_healings("governance", 1).to_string();
    let holder = format!("port {} is held by process {} (sleep)", foreign.port, foreign.process.id());
    assert!(history.contains(&holder) && history.contains("it is left alone"), "{history}");
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
    foreign.check_unharmed();
}

#[test]
fn a_port_is_only_taken_by_another_after_it_was_given_back() {
    let server = alone(json!({})).fleet();
    let port = u16::try_from(server.kernel("governance")["port"].as_u64().unwrap()).unwrap();
    let pid = server.signal_kernel("governance", Signal::KILL);
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "the fleet holds the port of a kernel that was killed");
    assert_eq!(server.wait_for_successor("governance", pid)["port"], port);

    let stopped = server.post("/fleet/governance/stop", &json!({})).expect(200);
    assert_eq!(stopped["success"], true, "{stopped}");
    let down = server.post("/submit", &intent("r"));
    assert_eq!(down.expect(503)["kernel"], "governance");
    assert!(down.error(503).contains("an operator stopped it"), "{}", down.text());
    let mut foreign = Foreign::on(port);
    let restarted = server.post("/fleet/governance/restart", &json!({})).expect(200);
    let holder = format!("port {port} is held by process {} (sleep)", foreign.process.id());
    assert!(restarted["success"] == false && restarted.to_string().contains(&holder), "{restarted}");
    let entry = server.wait_for_kernel("governance", |entry| entry["status"] == "healthy");
    assert_ne!(entry["port"], port);
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
    foreign.check_unharmed();
}

#[test]
fn a_killed_fleet_leaves_nothing_running_and_the_next_one_starts() {
    let site = two(json!({}));
    let server = site.fleet();
    let pids = ["governance", "second"].map(|name| pid_of(&server.kernel(name)));
    let receipt = server.submit(&call("before", "echo", json!({"text": "x"})));
    server.kill();
    // At once: the one before may still be ending.
    let server = site.fleet();
    assert!(pids.iter().all(|pid| !lives(*pid)), "who ends with its fleet has ended: {pids:?}");
    assert_eq!(server.evidence()["ledger_entries"][0]["entry_hash"], receipt["evidence_hash"]);
    let pids = ["governance", "second"].map(|name| pid_of(&server.kernel(name)));
    server.kill();
    until("no kernel is left", || pids.iter().all(|pid| !lives(*pid)));
}

#[test]
fn a_kernel_that_outlived_its_fleet_is_ended_by_the_next() {
    let (port, grace) = (free_ports(), 200);
    let site = Site::new(&config(json!({"governance": {"needs": [], "port": port}}), json!({"stop_grace_ms": grace})));
    let server = site.fleet();
    // A process that is stopped hears of the end of its fleet when it goes on, and not before.
    let pid = server.signal_kernel("governance", Signal::STOP);
    server.kill();
    assert!(lives(pid));
    let server = site.fleet();
    assert!(!lives(pid));
    server.wait_for_log("an earlier fleet left this process: it is ended");
    let entry = server.kernel("governance");
    assert_eq!((&entry["status"], &entry["port"]), (&json!("healthy"), &json!(port)), "{entry}");
}

#[test]
fn a_second_fleet_on_the_same_data_is_refused() {
    let server = alone(json!({})).fleet();
    let refused = server.site().fleet_command().run_unless("fleet on").code(2);
    let expected = format!("is the data of a fleet that runs already (process {})", server.pid());
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW", "the first one is not disturbed");
}

#[test]
fn a_kernel_that_cannot_start_is_given_up_and_starts_when_it_is_mended() {
    let site = two(json!({"restarts_max": 3, "backoff_first_ms": 10, "backoff_max_ms": 20, "check_every_ms": 20}));
    let folder = site.data().join("fleet/second");
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let server = site.fleet();
    let entry = server.wait_for_kernel("second", |entry| entry["status"] == "failed");
    assert!(entry["detail"].as_str().unwrap().contains("given up after 3 restarts"), "{entry}");
    assert_eq!((&entry["pid"], &entry["restarts"]), (&Value::Null, &json!(3)), "{entry}");
    // Checks go on all the while; none of them may start it again.
    let checked = server.kernel("governance")["last_check"].clone();
    server.wait_for_kernel("governance", |entry| entry["last_check"] != checked);
    let log = server.get("/fleet/second/logs").expect(200);
    let starts =
        log["lines"].as_array().unwrap().iter().filter(|line| line.as_str().unwrap().contains("cannot be made"));
    assert_eq!(starts.count(), 4, "once, and three times again: {log}");
    let down = server.get("/second/health");
    assert!(down.error(503).contains("kernel 'second' is down: given up"), "{}", down.text());
    assert_eq!(server.get("/health").expect(200)["status"], "degraded");
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW", "the other one is well");

    std::fs::remove_file(&folder).unwrap();
    let reset = server.post("/kernel-ports/reset-failures/second", &json!({})).expect(200);
    assert_eq!(reset["entry"]["status"], "healthy", "{reset}");
    assert_eq!(server.get("/second/health").status, 200);
    assert_eq!(server.get("/health").expect(200)["status"], "healthy");
}

#[test]
fn a_hung_kernel_is_found_and_healed_and_only_once() {
    // A check may take long on a busy machine; only one that hangs takes that long twice in a row.
    let settings = json!({"check_every_ms": 100, "check_timeout_ms": 5_000, "failures_max": 2, "stop_grace_ms": 500});
    let server = two(settings).fleet();
    let pid = server.signal_kernel("governance", Signal::STOP);
    assert_eq!(server.get("/second/health").status, 200, "the others go on");
    let entry = server.wait_for_successor("governance", pid);
    assert!(!lives(pid), "{entry}");
    let history = server.wait_for_healings("governance", 1);
    let healed = &history["history"][0];
    assert_eq!((&history["total"], &healed["issue"]), (&json!(1), &json!("connection_timeout")), "{history}");
    let played = json!(["diagnose_network", "clear_port", "restart_component"]);
    assert_eq!((&healed["playbooks_executed"], &healed["overall_success"]), (&played, &json!(true)));
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
}

#[test]
fn a_healing_is_of_a_known_kernel_and_one_at_a_time() {
    let server = alone(json!({"stop_grace_ms": 2_000})).fleet();
    let unknown = server.heal(json!({"component_name": "nobody"}));
    assert_eq!(unknown.expect(404)["detail"], "Component 'nobody' not found");
    assert_eq!(server.heal(json!({"issue_type": "process_crashed"})).status, 422);
    assert_eq!(server.heal(json!({"component_name": "governance", "action": "dance"})).status, 422);
    // One that is stopped does not hear TERM, so its restart lasts as long as its grace.
    let pid = server.signal_kernel("governance", Signal::STOP);
    let order = json!({"component_name": "governance", "action": "restart_component"}).to_string();
    let mut first = server.connect();
    let mut bytes = first.head("POST", "/network-healer/heal", &[], Some(order.len()));
    bytes.extend_from_slice(order.as_bytes());
    first.send(&bytes).unwrap();
    server.wait_for("/network-healer/active", |told| told["active"] == json!(["governance"]));
    let refused = server.heal(json!({"component_name": "governance"}));
    assert_eq!(refused.expect(409)["detail"], "component 'governance' is being healed, started or stopped already");
    assert_eq!(first.answer().unwrap().expect(200)["success"], true);
    assert!(!lives(pid));
}

#[test]
#[allow(clippy::print_stderr, reason = "what was not tested must be seen")]
fn a_full_disk_of_the_fleet_is_told_and_stops_no_kernel() {
    let volume = match Volume::in_memory(1 << 20) {
        Ok(volume) => volume,
        Err(why) => return eprintln!("NOT TESTED: a full disk, because this machine gives no such file system: {why}"),
    };
    // Somebody must be there who would take what is recorded, else nothing is.
    let kernels = json!({"governance": governance(), "alert_service": {"url": "http://127.0.0.1:1"}});
    let site = Site::new(&config(kernels, json!({"restarts_max": 10, "backoff_first_ms": 1})));
    std::fs::create_dir_all(site.data()).unwrap();
    std::os::unix::fs::symlink(volume.path(), site.data().join("fleet")).unwrap();
    let server = site.fleet();
    // The log ends with a page, so that its next line needs room.
    let mut log = std::fs::OpenOptions::new().append(true).open(site.data().join("fleet/logs/governance.log")).unwrap();
    let rest = 4_096 - log.metadata().unwrap().len() % 4_096;
    log.write_all(&vec![b'\n'; usize::try_from(rest).unwrap()]).unwrap();
    volume.fill(0);
    let pid = server.signal_kernel("governance", Signal::KILL);
    let entry = server.wait_for_successor("governance", pid);
    server.wait_for_log("what was done could not be recorded: No space left on device");
    server.wait_for_log("cannot be written, so lines are lost: No space left on device");
    assert_eq!(server.submit(&intent("full"))["decision"], "ALLOW");
    assert_eq!(server.wait_for_healings("governance", 1)["total"], 1);

    volume.free();
    send(pid_of(&entry), Signal::KILL);
    let _ = server.wait_for_successor("governance", pid_of(&entry));
    server.wait_for_log("its log is written again");
    assert_eq!(server.submit(&intent("free"))["decision"], "ALLOW");
}

#[test]
#[allow(clippy::print_stderr, reason = "what was not tested must be seen")]
fn who_cannot_write_is_restarted_when_there_is_room_and_not_before() {
    let volume = match Volume::in_memory(64 << 20) {
        Ok(volume) => volume,
        Err(why) => return eprintln!("NOT TESTED: a full disk, because this machine gives no such file system: {why}"),
    };
    let settings = json!({
        "check_every_ms": 20, "check_timeout_ms": 10_000, "failures_max": 2, "restarts_max": 2, "backoff_first_ms": 1,
        "disk_free_bytes_min": 8 << 20,
    });
    let kernels = json!({"governance": governance(), "immutable_log": {}, "message_bus": {}, "telemetry_service": {}});
    let site = Site::new(&config(kernels, settings));
    site.keep_data_on(&volume);
    let server = site.fleet();
    let publish =
        |text: &str| server.post("/message_bus/topics/t/messages", &json!({"event": "e", "data": text.repeat(1_000)}));
    assert_eq!((server.submit(&intent("before"))["decision"].as_str(), publish("before").status), (Some("ALLOW"), 200));
    let before = server.kernel("governance");
    volume.fill(0);
    until("the ledger feels it", || server.post("/submit", &intent("full")).status == 503);
    until("the topics feel it", || publish("full").status >= 500);
    for name in ["governance", "message_bus"] {
        let waits = |entry: &Value| entry["detail"].as_str().unwrap().contains("it is restarted when there is room");
        let entry = server.wait_for_kernel(name, |entry| waits(entry) && entry["failures"].as_u64() > Some(10));
        assert_eq!((&entry["status"], &entry["restarts"]), (&json!("unhealthy"), &json!(0)), "{entry}");
        assert!(entry["detail"].as_str().unwrap().contains("KiB left, less than 8192 KiB"), "{entry}");
    }
    assert_eq!(server.kernel("governance")["pid"], before["pid"]);
    let advice = server.get("/network-healer/recommendations/governance").expect(200).to_string();
    assert!(advice.contains("make room first"), "{advice}");
    assert!(server.entries() >= 1, "what it has is still shown");
    assert_eq!(server.kernel("telemetry_service")["status"], "healthy", "who writes nothing is well");

    volume.free();
    let after = server.wait_for_successor("governance", pid_of(&before));
    assert_eq!(after["restarts"], 1, "{after}");
    server.wait_for_kernel("message_bus", |entry| entry["status"] == "healthy");
    assert_eq!((server.submit(&intent("after"))["decision"].as_str(), publish("after").status), (Some("ALLOW"), 200));

    // One that ends meanwhile is started, or given up if it cannot come up without room; with room it is back by itself.
    volume.fill(0);
    until("the ledger feels it", || server.post("/submit", &intent("full")).status == 503);
    server.wait_for_kernel("governance", |entry| entry["detail"].as_str().unwrap().contains("when there is room"));
    let pid = server.signal_kernel("governance", Signal::KILL);
    server.wait_for_kernel("governance", |entry| entry["status"] != "healthy" && entry["pid"] != json!(pid));
    assert!(server.get("/governance/livez").status > 0, "nobody is kept waiting");
    volume.free();
    let _ = server.wait_for_successor("governance", pid);
    assert_eq!(server.submit(&intent("back"))["decision"], "ALLOW");

    // A fleet that is started on a full disk comes up with what can, and with the rest once there is room.
    let site = server.stop();
    volume.fill(0);
    let server = site.fleet();
    volume.free();
    for name in ["message_bus", "immutable_log", "governance", "telemetry_service"] {
        server.wait_for_kernel(name, |entry| entry["status"] == "healthy");
    }
    assert_eq!(server.submit(&intent("again"))["decision"], "ALLOW");
}

#[test]
fn requests_wait_for_a_kernel_that_is_being_started_again() {
    let server = alone(json!({})).fleet();
    let pid = server.signal_kernel("governance", Signal::KILL);
    until("it is dead", || !lives(pid));
    // Sent while there is no process; the socket is there, and the fleet holds what it has not sent.
    let mut waiting: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    for (number, connection) in waiting.iter_mut().enumerate() {
        let body = intent(&format!("waits-{number}")).to_string();
        let mut bytes = connection.head("POST", "/submit", &[], Some(body.len()));
        bytes.extend_from_slice(body.as_bytes());
        connection.send(&bytes).unwrap();
    }
    let answers: Vec<_> = waiting.iter_mut().map(|connection| connection.answer().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(server.entries(), 20);
}

#[test]
fn a_fleet_stops_its_kernels_in_order_and_says_so() {
    let server: Server = two(json!({})).fleet();
    let pids = ["governance", "second"].map(|name| pid_of(&server.kernel(name)));
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains("stopped; what every kernel acknowledged is on disk"), "{log}");
    assert!(pids.iter().all(|pid| !lives(*pid)));
}

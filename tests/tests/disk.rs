//! Disks that fail under the real binary: full ones, ones that fail to sync, files that may not grow.
//!
//! What belongs here: every way in which the machine can refuse to keep what the ledger writes, done to a server under
//! load. The oracle is the same for all: whoever got a receipt finds its record after the next start; nobody else was
//! told that anything was allowed; and what the server says about itself meanwhile is true. Small file systems need the
//! right to mount in a namespace of one's own. Where a machine refuses that, the test says `NOT TESTED` and why; the
//! limit on the size of files needs no right and is tested everywhere.

use gavel_tests::receipts::{Acknowledged, Fate, OUTCOME_UNKNOWN, of_all_kinds, until_refused};
use gavel_tests::{Config, Server, Site, Volume, call, gavel, intent, path};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;

const REFUSED: &str = "the decision could not be recorded, so nothing was done";
const UNRECORDED: &str = "the tool 'echo' was run, but its outcome could not be recorded: \
    do not send the request again before you know what it did";

/// What callers were told up to the failure and beyond.
#[derive(Default)]
struct Told {
    acknowledged: Acknowledged,
    /// Requests whose tool was run, to whom it was said that there is no record of what came of it.
    unrecorded: Vec<String>,
}

impl Told {
    fn add(&mut self, fates: &[Fate]) {
        self.acknowledged.add(fates);
        for fate in fates {
            match fate {
                Fate::Acknowledged { .. } => {}
                Fate::Refused { error } => assert_eq!(error, REFUSED),
                Fate::Unrecorded { id, error } => {
                    assert_eq!(error, UNRECORDED);
                    self.unrecorded.push(id.clone());
                }
                Fate::Unanswered { id } => panic!("{id} was not answered, though the server is there"),
            }
        }
    }

    /// What the next server must know.
    fn check(&self, bundle: &Value) {
        self.acknowledged.check(bundle);
        let entries = bundle["ledger_entries"].as_array().expect("entries");
        let entries: BTreeMap<&str, &Value> =
            entries.iter().filter_map(|entry| Some((entry["request_id"].as_str()?, entry))).collect();
        for id in &self.unrecorded {
            let entry = entries.get(id.as_str()).unwrap_or_else(|| panic!("{id} ran, and there is no trace of it"));
            // The outcome that could not be recorded for certain may be there all the same.
            let unknown = entry["decision"] == "DENY" && entry["error"] == OUTCOME_UNKNOWN;
            assert!(unknown || entry["decision"] == "ALLOW", "{entry}");
        }
    }
}

/// A server that has served, and what it told.
fn served(server: &Server) -> Told {
    let mut told = Told::default();
    let mut connection = server.connect();
    let fates = (0..30).map(|number| {
        let id = format!("before-{number}");
        let request = of_all_kinds(number, &id);
        Fate::of(&mut connection, id, &request)
    });
    told.add(&fates.collect::<Vec<_>>());
    assert_eq!(told.acknowledged.count(), 30);
    told
}

/// Load until the disk fails, then all that a server must say and do while it takes no records.
fn drive_into_the_failure(server: &Server, told: &mut Told, failure: &str) {
    told.add(&until_refused(server, 4, "until"));

    let runs = server.metrics().sum("gavel_tool_calls_total");
    let mut connection = server.connect();
    for number in 0..12 {
        let id = format!("after-{number}");
        let fate = Fate::of(&mut connection, id.clone(), &of_all_kinds(number, &id));
        assert!(matches!(&fate, Fate::Refused { error } if error == REFUSED), "{fate:?}");
    }
    assert_eq!(server.post("/halt", &json!({"reason": "disk"})).error(503), REFUSED);
    let metrics = server.metrics();
    assert_eq!(metrics.sum("gavel_tool_calls_total").to_bits(), runs.to_bits(), "no tool runs without a record");
    assert_eq!(metrics.get(r#"gavel_ledger_poisoned{kernel="k"}"#).to_bits(), 1f64.to_bits());

    let health = server.get("/health").expect(503);
    assert_eq!(health["status"], "unhealthy");
    assert!(server.get("/readyz").error(503).contains("the ledger of kernel 'k' takes no records"));
    assert_eq!(server.get("/livez").status, 200);
    let error = server.get("/status").expect(200)["ledger"]["error"].as_str().expect("why").to_owned();
    assert!(error.starts_with("could not append to ") && error.contains(failure), "{error}");
    server.wait_for_log(failure);

    // What was recorded can be read and holds.
    told.acknowledged.check(&server.evidence());
    let folder = gavel(["verify", "--json", path(&server.site().ledger("k"))]).code(0).json();
    assert_eq!(folder["verified"], true);
}

/// After the disk is well again: a new server knows everything and goes on.
fn goes_on(site: &Site, told: &Told) {
    let server = site.serve();
    told.check(&server.evidence());
    assert_eq!(server.get("/health").expect(200)["status"], "healthy");
    for number in 0..30 {
        let id = format!("again-{number}");
        assert!(server.submit(&of_all_kinds(number, &id))["evidence_hash"].is_string());
    }
    let site = server.stop();
    let folder = gavel(["verify", "--json", path(&site.ledger("k"))]).code(0).json();
    assert_eq!(folder["verified"], true);
    let report = gavel_ledger::verify_dir(&site.ledger("k")).expect("the command says the same");
    assert_eq!((report.open_decisions, report.torn_bytes), (0, 0));
}

/// Ends a server whose ledger failed: it says so, and does not hang.
fn ends(server: Server) {
    let (_, log) = server.terminate();
    assert!(log.contains("the ledger was not closed cleanly"), "{log}");
}

/// A volume, or the news that this machine gives none.
#[allow(clippy::print_stderr, reason = "what was not tested must be seen")]
fn available(volume: io::Result<Volume>, what: &str) -> Option<Volume> {
    match volume {
        Ok(volume) => Some(volume),
        Err(why) => {
            eprintln!("NOT TESTED: {what}, because this machine gives no such file system: {why}");
            None
        }
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let Some(volume) = available(Volume::in_memory(4 << 20), "a full disk") else { return };
    let site = Site::new(&Config::open());
    site.keep_data_on(&volume);
    for left in [0, 4 << 10, 24 << 10] {
        let name = format!("left-{left}");
        site.configure(&Config::of(json!([Config::open_kernel("k")])));
        fs::remove_dir_all(site.data().join("kernels")).ok();
        let server = site.serve();
        let mut told = served(&server);
        volume.fill(left);
        drive_into_the_failure(&server, &mut told, "No space left on device");
        ends(server);

        // While there is no room it either comes up, and refuses, or does not, and says why; nothing is lost either way.
        let started = site.command("127.0.0.1:0").run_unless("serves http");
        if !started.stdout.contains("serves http") {
            assert_eq!(started.code, Some(2), "{name}: {}", started.stderr);
            assert!(started.stderr.contains("No space left on device"), "{name}: {}", started.stderr);
        }
        volume.free();
        goes_on(&site, &told);
    }
}

#[test]
fn room_that_comes_back_does_not_mend_what_failed() {
    let Some(volume) = available(Volume::in_memory(4 << 20), "room that comes back") else { return };
    let site = Site::new(&Config::open());
    site.keep_data_on(&volume);
    let server = site.serve();
    let mut told = served(&server);
    volume.fill(0);
    told.add(&until_refused(&server, 4, "until"));
    volume.free();
    // Nothing is retried: what the failed write left behind is only known after the ledger was read again.
    assert_eq!(server.post("/submit", &intent("later")).error(503), REFUSED);
    assert_eq!(server.get("/health").status, 503);
    ends(server);
    goes_on(&site, &told);
}

#[test]
fn a_failed_sync_refuses_and_loses_nothing() {
    let Some(mut volume) = available(Volume::on_thin_device(6 << 20), "a device that fails to sync") else { return };
    let site = Site::new(&Config::open());
    site.keep_data_on(&volume);
    let server = site.serve();
    let mut told = served(&server);
    volume.fill(64 << 10);
    drive_into_the_failure(&server, &mut told, "error");
    let error = server.get("/status").expect(200)["ledger"]["error"].as_str().expect("why").to_owned();
    assert!(["Input/output error", "No space left", "Read-only"].iter().any(|known| error.contains(known)), "{error}");
    ends(server);
    volume.free();
    volume.repair();
    goes_on(&site, &told);
}

#[test]
fn a_file_that_may_not_grow_refuses_and_loses_nothing() {
    let site = Site::new(&Config::open());
    let mut bytes = 0;
    for room in [0, 1, 63, 500, 4_096, 20_000] {
        fs::remove_dir_all(site.data()).ok();
        let server = site.serve_with_a_quota();
        let mut told = served(&server);
        let log = site.ledger("k").join("segment-000000.log");
        bytes = fs::metadata(&log).expect("a log").len() + room;
        server.let_files_grow(bytes);
        drive_into_the_failure(&server, &mut told, "File too large");
        assert!(fs::metadata(&log).expect("a log").len() <= bytes);
        ends(server);
        goes_on(&site, &told);
    }
    assert!(bytes > 0);
}

#[test]
fn a_tool_that_ran_is_not_said_to_have_done_nothing() {
    let site = Site::new(&Config::open());
    let server = site.serve_with_a_quota();
    let mut told = served(&server);
    let log = site.ledger("k").join("segment-000000.log");
    let log_bytes = || fs::metadata(&log).expect("a log").len();
    let before = log_bytes();
    let _ = server.submit(&call("measure", "echo", json!({"text": "x"})));
    let one_request = log_bytes() - before;
    // Room for the decision, not for the outcome: the one is about as long as the other.
    server.let_files_grow(log_bytes() + one_request * 3 / 4);
    let id = "measured".to_owned();
    let fate = Fate::of(&mut server.connect(), id.clone(), &call(&id, "echo", json!({"text": "x"})));
    assert!(matches!(&fate, Fate::Unrecorded { error, .. } if error == UNRECORDED), "{fate:?}");
    told.add(&[fate]);
    ends(server);
    goes_on(&site, &told);
    assert_eq!(told.unrecorded, ["measured"]);
}

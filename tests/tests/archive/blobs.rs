//! What policies were asked, in blobs: read through by those who judge again, and erased without breaking a proof.

use gavel_ledger::{BlobState, Blobs};
use gavel_tests::{Config, Server, Site, call, gavel, path, repository};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

const DAY_MS: u64 = 86_400_000;

/// One kernel that keeps what was asked as `record` says, with a policy that allows.
fn config(record: Value) -> Config {
    let mut kernel = Config::ruled_kernel("k", &["gate"]);
    kernel["record_requests"] = record;
    let component = path(&repository().join("tests/data/guests/hostile.wasm")).to_owned();
    let gate = json!({"component": component, "config": {"do": "allow"}, "limits": {"deadline_ms": 5_000}});
    let config = Config::of(json!([kernel])).policy("gate", gate);
    config.with("limits", json!({"decision_deadline_ms": 10_000}))
}

fn echo(id: &str, text: &str) -> Value {
    call(id, "echo", json!({"text": text}))
}

fn rejudged(site: &Site) -> Value {
    gavel(["replay", "--json", "--rejudge", path(&site.ledger("k"))]).code(0).json()
}

fn texts(site: &Site) -> Vec<String> {
    let (_, records) = gavel_ledger::read_dir(&site.ledger("k")).unwrap();
    records.map(|record| record.unwrap().as_str().to_owned()).collect()
}

/// The files of all blobs, in the order of their names.
fn files(site: &Site) -> Vec<PathBuf> {
    let blobs = Blobs::of_ledger(&site.ledger("k"));
    let ids = blobs.entries().unwrap().map(|entry| entry.unwrap().id.to_string());
    let mut files: Vec<_> = ids.map(|id| site.ledger("k").join("blobs").join(&id[..2]).join(id)).collect();
    files.sort();
    files
}

/// Make a blob so many days older.
fn age(file: &PathBuf, days: u64) {
    let mut bytes = fs::read(file).unwrap();
    let stored_ms = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) - days * DAY_MS;
    bytes[24..32].copy_from_slice(&stored_ms.to_le_bytes());
    let checksum = crc32(&bytes[..76]);
    bytes[76..80].copy_from_slice(&checksum.to_le_bytes());
    fs::write(file, bytes).unwrap();
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (0..8).fold(crc, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 });
    !bytes.iter().fold(!0, |crc, byte| step(crc ^ u32::from(*byte)))
}

#[test]
fn what_is_large_lies_in_a_blob_and_is_judged_again() {
    let server = Server::start(&config(json!({"inline_max_bytes": 500})));
    assert_eq!(server.submit(&echo("small", "tiny words"))["decision"], "ALLOW");
    let large = "large words ".repeat(10_000);
    assert_eq!(server.submit(&echo("large", &large))["decision"], "ALLOW");
    let site = server.stop();
    let records = texts(&site);
    assert!(records.iter().any(|record| record.contains("tiny words")));
    assert!(!records.iter().any(|record| record.contains("large words")));
    let files = files(&site);
    assert_eq!(files.len(), 1);
    let name = files[0].file_name().unwrap().to_str().unwrap();
    let naming = format!("\"asked_blob\":{{\"bytes\":120042,\"sha256\":\"{name}\"}}");
    let naming = naming.split_once("120042").unwrap();
    assert!(records.iter().any(|record| record.contains(naming.0) && record.contains(naming.1)), "{records:#?}");
    let report = rejudged(&site);
    assert_eq!((&report["judged"], &report["same"]), (&json!(2), &json!(2)), "{report}");

    // Missing and damaged are not the same, and neither is a difference.
    let whole = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &whole[..whole.len() - 1]).unwrap();
    assert_eq!(rejudged(&site)["skipped"], json!({"the blob with what was asked is damaged": 1}));
    fs::remove_file(&files[0]).unwrap();
    assert_eq!(rejudged(&site)["skipped"], json!({"the blob with what was asked is missing": 1}));
    drop(gavel(["verify", path(&site.ledger("k"))]).code(0));
}

#[test]
fn everything_can_be_made_erasable() {
    let server = Server::start(&config(json!({"erasable": true})));
    for n in 0..3 {
        assert_eq!(server.submit(&echo(&format!("r-{n}"), "personal words"))["decision"], "ALLOW");
    }
    let site = server.stop();
    assert!(!texts(&site).iter().any(|record| record.contains("personal words")));
    assert_eq!(files(&site).len(), 3);
    assert_eq!(rejudged(&site)["same"], json!(3));
}

#[test]
fn what_cannot_be_stored_is_not_done() {
    let server = Server::start(&config(json!({"erasable": true})));
    fs::write(server.site().ledger("k").join("blobs"), "a file where a folder should be").unwrap();
    let told = server.post("/submit", &echo("r", "words")).error(503);
    assert!(told.contains("so nothing was done"), "{told}");
    assert_eq!(server.entries(), 0);
    fs::remove_file(server.site().ledger("k").join("blobs")).unwrap();
    assert_eq!(server.submit(&echo("r", "words"))["decision"], "ALLOW");
}

#[test]
fn retention_erases_what_is_old_and_every_proof_holds() {
    let config = config(json!({"erasable": true})).with("retention", json!({"blobs_days": 30}));
    let server = Server::start(&config);
    for n in 0..4 {
        drop(server.submit(&echo(&format!("r-{n}"), "personal words")));
    }
    let site = server.stop();
    let files = files(&site);
    files.iter().take(3).for_each(|file| age(file, 31));
    age(&files[3], 29);

    let server = site.serve();
    let would = server.post("/retention", &json!({"dry_run": true})).expect(200)["report"].clone();
    assert_eq!((&would["blobs"]["count"], &would["blobs_kept"], &would["events"]), (&json!(3), &json!(1), &json!([])));
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() > 80), "nothing was done");

    let args = ["retention", "--json", "--url", &server.url];
    let report = gavel(args).code(0).json();
    assert_eq!((&report["blobs"]["count"], &report["blobs_kept"]), (&json!(3), &json!(1)), "{report}");
    let event = report["events"][0].as_u64().unwrap();
    assert_eq!(server.get("/retention").expect(200)["report"], report);
    let again = gavel(args).code(0).json();
    assert_eq!((&again["blobs"]["count"], &again["events"]), (&json!(0), &json!([])), "once is enough");

    let site = server.stop();
    for file in &files[..3] {
        let left = fs::read(file).unwrap();
        assert!(left.len() == 80 && !String::from_utf8_lossy(&left).contains("personal"));
    }
    let records = texts(&site);
    let ordered = &records[usize::try_from(event).unwrap()];
    assert!(ordered.contains("\"action\":\"erase_blobs\"") && ordered.contains("\"who\":\"anyone\""), "{ordered}");
    for file in &files[..3] {
        assert!(ordered.contains(file.file_name().unwrap().to_str().unwrap()), "{ordered}");
    }
    let report = rejudged(&site);
    assert_eq!(report["same"], json!(1));
    assert_eq!(report["skipped"], json!({"erased: what was asked is gone on purpose": 3}));
    drop(gavel(["verify", path(&site.ledger("k"))]).code(0));
}

#[test]
fn a_hold_stops_retention_until_it_is_lifted() {
    let retention = json!({"blobs_days": 1, "hold": [{"kernel": "k", "why": "case 7 is open"}]});
    let server = Server::start(&config(json!({"erasable": true})).with("retention", retention));
    drop(server.submit(&echo("r", "words")));
    let told = server.post("/retention", &json!({})).error(409);
    assert!(told.contains("kernel 'k' is on hold: case 7 is open"), "{told}");

    let site = server.stop();
    site.configure(&config(json!({"erasable": true})).with("retention", json!({"blobs_days": 1})));
    let files = files(&site);
    age(&files[0], 2);
    let hold = site.data().join("kernels/k/hold");
    fs::write(&hold, "a letter of the court\n").unwrap();
    let server = site.serve();
    let told = gavel(["retention", "--url", &server.url]).code(2).stderr;
    assert!(told.contains("a letter of the court"), "{told}");
    let state = |site: &Site| Blobs::of_ledger(&site.ledger("k")).entries().unwrap().next().unwrap().unwrap().state;
    assert_eq!(state(&site), BlobState::Whole);
    fs::remove_file(&hold).unwrap();
    let told = gavel(["retention", "--url", &server.url]).code(0).stdout;
    assert!(told.contains("blobs: 1 erased"), "{told}");
    assert_eq!(state(&site), BlobState::Erased);
}

#[test]
fn what_the_configuration_may_not_say_is_named() {
    let refused = |config: Config| {
        let site = Site::new(&config);
        gavel(["validate", "--config", path(&site.config())]).code(1).stdout
    };
    let told = refused(config(json!({"inline_max": 5})));
    assert!(told.contains("inline_max_bytes"), "{told}");
    for (key, value, expected) in [
        ("retention", json!({"blobs_days": 0}), "blobs_days"),
        ("retention", json!({"hold": [{"kernel": "x", "why": "y"}]}), "there is no kernel `x`"),
        ("archive", json!({"url": "ftp://x"}), "names no archive"),
        ("archive", json!({"url": "s3://b", "options": {"aws_endpont": "x"}}), "option `aws_endpont`"),
        ("archive", json!({"url": "file:///x", "limits": {"part_bytes": 5}}), "part_bytes"),
    ] {
        let told = refused(Config::open().with(key, value));
        assert!(told.contains(expected), "{key}: {told}");
    }
}

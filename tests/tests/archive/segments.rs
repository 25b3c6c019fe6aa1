//! Sealed segments: into the archive, off this disk, back again, and everything that can be wrong with them there.

use crate::s3::{ACCESS_KEY, S3, SECRET_KEY};
use gavel_ledger::note::CheckpointKey;
use gavel_ledger::{
    Draft, Identity, Kind, Ledger, Options, SEGMENT_RECORDS, compressed_file, remote_file, segment_file,
};
use gavel_tests::{Config, Gavel, Output, Server, Site, gavel, intent, path};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use tempfile::TempDir;

/// Sealed segments of the ledger that these tests begin with, and the records after them.
const SEALED: u64 = 2;
const AFTER: u64 = 20;

/// The folder of a kernel `k` whose ledger has sealed segments: made once, copied for each test.
fn grown() -> &'static Path {
    static GROWN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, kernel) = GROWN.get_or_init(|| {
        let site = Server::start(&Config::open()).stop();
        let kernel = site.data().join("kernels/k");
        let der = PrivatePkcs8KeyDer::from_pem_file(kernel.join("checkpoint.key")).unwrap();
        let seed: &[u8; 32] = der.secret_pkcs8_der().last_chunk().unwrap();
        let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
        let options = Options { keys: vec![CheckpointKey::from_seed(seed)], ..Options::new(identity, 1) };
        fill(&Ledger::open(&kernel.join("ledger"), options).unwrap().0, SEALED * SEGMENT_RECORDS + AFTER);
        let kept = tempfile::tempdir().unwrap();
        let folder = kept.path().join("k");
        copy(&kernel, &folder);
        (kept, folder)
    });
    kernel
}

fn fill(ledger: &Ledger, records: u64) {
    while ledger.snapshot().records < records {
        let wanted = (records - ledger.snapshot().records).min(10_000);
        let (sender, receiver) = sync_channel(1);
        for number in 0..wanted {
            let draft =
                Draft { kind: Kind::Event, ts_ms: 1, meta: format!("{{\"n\":{number}}}"), entry: None, closes: None };
            let last = (number + 1 == wanted).then(|| sender.clone());
            ledger.append(draft, move |fate| {
                fate.unwrap();
                if let Some(sender) = last {
                    sender.send(()).unwrap();
                }
            });
        }
        receiver.recv().unwrap();
    }
    ledger.close().unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A site with that ledger, its archive as `archive` says.
fn site(archive: Value) -> Site {
    let site = Site::new(&Config::open().with("archive", archive));
    copy(grown(), &site.data().join("kernels/k"));
    site
}

/// The same with an archive in a folder of the site.
fn site_with_folder() -> (Site, PathBuf) {
    let scratch = Site::new(&Config::open());
    let folder = scratch.path().join("archive");
    scratch.configure(&Config::open().with("archive", json!({"url": format!("file://{}", folder.display())})));
    copy(grown(), &scratch.data().join("kernels/k"));
    (scratch, folder)
}

fn archived(server: &Server, args: &[&str]) -> Value {
    gavel(["archive", "--json", "--url", &server.url].iter().chain(args)).code(0).json()
}

fn restore(folder: &Path, into: &Path, args: &[&str]) -> Output {
    let url = format!("file://{}", folder.display());
    gavel(["restore", "--json", "--from", &url, "--kernel", "k", "--into", path(into)].iter().chain(args))
}

fn verified(ledger: &Path) -> Value {
    gavel(["verify", "--json", path(ledger)]).code(0).json()
}

/// The one folder of a ledger in an archive.
fn ledger_in(folder: &Path) -> PathBuf {
    let mut ledgers = fs::read_dir(folder.join("k")).unwrap();
    let ledger = ledgers.next().unwrap().unwrap().path();
    assert!(ledgers.next().is_none());
    ledger
}

/// An archive that was filled, in a folder of its own.
fn filled() -> (Site, PathBuf) {
    let (site, folder) = site_with_folder();
    let server = site.serve();
    archived(&server, &[]);
    drop(server.stop());
    (site, folder)
}

#[test]
fn a_ledger_goes_to_the_archive_and_comes_back_from_it() {
    let s3 = S3::start();
    let site = site(s3.archive("prod"));
    let server = site.serve();
    let report = archived(&server, &[]);
    assert_eq!((&report["sealed"], report["archived"].as_array().unwrap().len()), (&json!(2), 2), "{report}");
    assert_eq!(s3.names().len(), 6, "a segment and a manifest, twice, and a copy of the rest: {:?}", s3.names());
    let writes = s3.writes();
    let again = archived(&server, &[]);
    assert!(again["archived"].as_array().unwrap().iter().all(|segment| segment["existed"] == json!(true)), "{again}");
    assert_eq!((s3.writes(), &again["events"]), (writes, &json!([])), "there is nothing left to do");
    assert_eq!(server.submit(&intent("r-1"))["decision"], "ALLOW");
    let more = archived(&server, &[])["tail"]["records"].as_u64().unwrap();
    assert_eq!(s3.names().len(), 6, "the copy before it is gone: {:?}", s3.names());
    assert_eq!(server.submit(&intent("lost"))["decision"], "ALLOW");

    // The disk is lost; what was archived comes back.
    let ledger = server.stop().ledger("k");
    let before = verified(&ledger);
    fs::remove_dir_all(&ledger).unwrap();
    let mut args = vec!["restore".to_owned(), "--json".to_owned()];
    let into = path(&ledger).to_owned();
    args.extend(["--from", "s3://evidence/prod", "--kernel", "k", "--into", &into].map(str::to_owned));
    let options = s3.options().into_iter().filter(|(name, _)| !name.contains("key"));
    args.extend(options.flat_map(|(name, value)| ["--option".to_owned(), format!("{name}={value}")]));
    let with_keys = |args: &[String]| {
        Gavel::new(args).env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY).run()
    };
    let restored = with_keys(&args).code(0).json();
    assert_eq!((&restored["segments"], &restored["tail"]), (&json!(2), &json!(true)));
    assert_eq!(restored["records"], json!(SEALED * SEGMENT_RECORDS + more));
    let after = verified(&ledger);
    assert_eq!(after["tree_root"], restored["root"]);
    assert_ne!(after["tree_root"], before["tree_root"], "what came after the last run is not in it");
    let told = with_keys(&args).code(2).stderr;
    assert!(told.contains("is not empty: nothing is overwritten"), "{told}");

    // And goes on.
    let server = site.serve();
    assert_eq!(server.submit(&intent("r-2"))["decision"], "ALLOW");
    assert_eq!(server.entries(), 2);
    let gone_on = verified(&server.stop().ledger("k"));
    assert!(gone_on["records"].as_u64().unwrap() > SEALED * SEGMENT_RECORDS + more);
}

#[test]
fn segments_leave_the_disk_and_come_back_one_by_one() {
    let (site, folder) = site_with_folder();
    let ledger = site.ledger("k");
    let server = site.serve();
    let report = archived(&server, &["--remove-local"]);
    assert_eq!(report["removed"].as_array().unwrap().len(), 2, "{report}");
    for segment in 0..2 {
        assert!(ledger.join(remote_file(segment)).exists());
        assert!(!ledger.join(segment_file(segment)).exists() && !ledger.join(compressed_file(segment)).exists());
    }
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
    drop(server.stop());
    // A start needs none of them.
    let server = site.serve();
    assert_eq!(server.entries(), 1);
    drop(server.stop());

    let told = gavel(["verify", path(&ledger)]).code(1).stdout;
    assert!(told.contains("segment 0 is only in the archive"), "{told}");
    let command = told.split('`').nth(1).unwrap_or_else(|| panic!("no command: {told}"));
    drop(Gavel::shell(command, site.path()).run().code(0));
    assert!(ledger.join(compressed_file(0)).exists() && !ledger.join(remote_file(0)).exists());
    let told = restore(&folder, &ledger, &["--segment", "0"]).code(2).stderr;
    assert!(told.contains("is in") && told.contains("nothing was overwritten"), "{told}");
    let told = restore(&folder, &ledger, &["--segment", "7"]).code(2).stderr;
    assert!(told.contains("segment 7") && told.contains("never left"), "{told}");
    drop(restore(&folder, &ledger, &["--segment", "1"]).code(0));
    verified(&ledger);

    // What left and what is recorded of it agree.
    let (_, records) = gavel_ledger::read_dir(&ledger).unwrap();
    let events: Vec<String> = records
        .map(|record| record.unwrap().as_str().to_owned())
        .filter(|record| record.contains("\"event\":\"archive\""))
        .collect();
    assert_eq!(events.len(), 2, "{events:#?}");
    assert!(events[0].contains("\"action\":\"archived\"") && events[1].contains("\"action\":\"remove_local\""));
}

#[test]
fn an_archive_that_is_not_as_it_was_is_not_restored() {
    let (_site, folder) = filled();
    let ledger = ledger_in(&folder);
    let object = |segment: u32| ledger.join(compressed_file(segment));
    let manifest = |segment: u32| ledger.join(format!("segment-{segment:06}.json"));
    let scratch = tempfile::tempdir().unwrap();
    let into = scratch.path().join("restored");
    let refused = |expected: &[&str]| {
        let told = restore(&folder, &into, &[]).code(2).stderr;
        assert!(expected.iter().all(|text| told.contains(text)), "{expected:?}: {told}");
        assert!(!into.exists(), "nothing is left behind");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "not even beside");
    };
    let good = fs::read(object(1)).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(object(1), &bad).unwrap();
    refused(&["segment 1", "segment-000001.log.zst", "its manifest says"]);
    fs::write(object(1), &good[..good.len() - 100]).unwrap();
    refused(&["segment 1", &format!("it has {} bytes", good.len() - 100)]);
    fs::remove_file(object(1)).unwrap();
    refused(&["segment 1 is missing", "segment-000001.log.zst is not in the archive"]);
    // Another segment in its place, with a manifest that fits it.
    fs::copy(object(0), object(1)).unwrap();
    let described = fs::read_to_string(manifest(0)).unwrap();
    let own = fs::read(manifest(1)).unwrap();
    fs::write(manifest(1), &described).unwrap();
    refused(&["it is the manifest of segment 0"]);
    fs::write(manifest(1), described.replace("\"segment\": 0,", "\"segment\": 1,")).unwrap();
    refused(&["segment 1", "this is segment 0"]);
    fs::write(object(1), &good).unwrap();
    fs::write(manifest(1), String::from_utf8(own.clone()).unwrap().replace("\"records\": 65536", "\"records\": 65535"))
        .unwrap();
    refused(&["segment 1", "says records 65535, the segment has 65536"]);
    fs::write(manifest(1), b"{}").unwrap();
    refused(&["segment-000001.json", "is no manifest"]);
    fs::write(manifest(1), &own).unwrap();
    fs::remove_file(manifest(0)).unwrap();
    refused(&["the manifest of segment 0 is missing, though segment 2 is there"]);
    fs::remove_file(manifest(1)).unwrap();
    refused(&["the manifest of segment 0, 1 is missing"]);
}

#[test]
fn another_ledgers_segments_are_not_taken_for_this_ones() {
    let (_site, folder) = filled();
    let mine = ledger_in(&folder);
    // A ledger of the same kernel, with another beginning.
    let other_dir = tempfile::tempdir().unwrap();
    let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
    fill(&Ledger::open(other_dir.path(), Options::new(identity, 77)).unwrap().0, 2 * SEGMENT_RECORDS + 1);
    gavel_ledger::compress_segment(other_dir.path(), 1, 3).unwrap();
    let theirs = gavel_ledger::verify_segment(&other_dir.path().join(compressed_file(1)), 1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let archive = gavel::archive::Archive::at(&format!("file://{}", folder.display()), []).unwrap();
    runtime.block_on(archive.put_segment(other_dir.path(), &theirs)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let into = scratch.path().join("restored");
    // Two ledgers: which one is to be said.
    let told = restore(&folder, &into, &[]).code(2).stderr;
    assert!(told.contains("holds 2 ledgers of kernel 'k'"), "{told}");
    let my_id = mine.file_name().unwrap().to_str().unwrap().to_owned();
    drop(restore(&folder, &into, &["--ledger", &my_id]).code(0));
    fs::remove_dir_all(&into).unwrap();

    // Theirs in my place, its manifest made to say that it is mine.
    let their_folder = folder.join("k").join(hex_of(&theirs.ledger_id));
    fs::copy(their_folder.join(compressed_file(1)), mine.join(compressed_file(1))).unwrap();
    let described = fs::read_to_string(their_folder.join("segment-000001.json")).unwrap();
    fs::write(mine.join("segment-000001.json"), described.replace(&hex_of(&theirs.ledger_id), &my_id)).unwrap();
    let told = restore(&folder, &into, &["--ledger", &my_id]).code(2).stderr;
    assert!(told.contains("segment 1") && told.contains("says ledger_id") && !into.exists(), "{told}");
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[test]
fn a_store_that_fails_midway_loses_nothing_and_the_next_run_goes_on() {
    let s3 = S3::start();
    let site = site(s3.archive("prod"));
    let server = site.serve();
    // The first segment arrives, its manifest does not.
    s3.fail_after(1);
    let told = gavel(["archive", "--url", &server.url]).code(2).stderr;
    assert!(told.contains("cannot write s3://evidence/prod/k/") && told.contains("segment-000000.json"), "{told}");
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW", "it serves on");
    verified(&site.ledger("k"));
    s3.recover();
    let report = archived(&server, &[]);
    assert_eq!(report["archived"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(s3.names().len(), 6);
    // Down altogether, with segments that should leave: they stay.
    drop(s3);
    let told = gavel(["archive", "--remove-local", "--url", &server.url]).code(2).stderr;
    assert!(told.contains("cannot look for s3://evidence/prod/k/"), "{told}");
    verified(&server.stop().ledger("k"));
}

#[test]
fn other_bytes_in_the_archive_are_a_conflict_and_the_same_ones_are_taken_up() {
    let (site, folder) = filled();
    let ledger = ledger_in(&folder);
    let notes = |site: &Site| {
        for segment in 0..2 {
            fs::remove_file(site.ledger("k").join(gavel::archive::archived_file(segment))).unwrap();
        }
    };
    // Only the object arrived, compressed by another program.
    notes(&site);
    fs::remove_file(ledger.join("segment-000001.json")).unwrap();
    let other_form = repacked(&ledger.join(compressed_file(1)));
    fs::write(ledger.join(compressed_file(1)), &other_form).unwrap();
    let server = site.serve();
    archived(&server, &[]);
    assert_eq!(fs::read(ledger.join(compressed_file(1))).unwrap(), other_form, "taken as it is");
    drop(server.stop());

    notes(&site);
    fs::write(ledger.join(compressed_file(1)), b"something else").unwrap();
    let server = site.serve();
    let told = gavel(["archive", "--url", &server.url]).code(2).stderr;
    assert!(told.contains("segment-000001.log.zst exists with other bytes") && told.contains("sha256"), "{told}");
    assert_eq!(fs::read(ledger.join(compressed_file(1))).unwrap(), b"something else", "nothing was overwritten");
    verified(&server.stop().ledger("k"));
}

/// The same content as another compressor would write it: in raw blocks.
fn repacked(packed: &Path) -> Vec<u8> {
    let plain = unpacked(packed);
    let mut raw = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    let mut blocks = plain.chunks(1 << 16).peekable();
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let head = last | u32::try_from(block.len()).unwrap() << 3;
        raw.extend_from_slice(&head.to_le_bytes()[..3]);
        raw.extend_from_slice(block);
    }
    raw
}

fn unpacked(packed: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut plain = Vec::new();
    gavel::archive::unpacked(fs::File::open(packed).unwrap()).unwrap().read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn two_runs_at_once_and_two_restores_into_one_folder() {
    let s3 = S3::start();
    let site = site(s3.archive("prod"));
    let server = site.serve();
    s3.hold();
    let first = server.post("/archive", &json!({}));
    assert_eq!(first.expect(202)["state"], "running");
    let told = server.post("/archive", &json!({})).error(409);
    assert!(told.contains("archiving of kernel 'k' goes on since"), "{told}");
    let told = server.post("/retention", &json!({})).error(409);
    assert!(told.contains("archiving of kernel 'k' goes on"), "{told}");
    s3.release();
    server.wait_for("/archive", |run| run["state"] == "done");
    drop(server.stop());

    let (_site, folder) = filled();
    let scratch = tempfile::tempdir().unwrap();
    let into = scratch.path().join("restored");
    let codes = std::thread::scope(|scope| {
        let runs = [(); 2].map(|()| scope.spawn(|| restore(&folder, &into, &[])));
        runs.map(|run| run.join().unwrap()).map(|output| output.code)
    });
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert!(codes == [Some(0), Some(2)] || codes == [Some(2), Some(0)], "{codes:?}");
    verified(&into);
}

#[test]
fn retention_keeps_the_latest_segments_here() {
    let (site, folder) = site_with_folder();
    let retention = json!({"local_segments": 1});
    site.configure(&Config::open().with("retention", retention.clone()));
    let server = site.serve();
    let report = server.post("/retention", &json!({})).expect(200)["report"].clone();
    assert_eq!((&report["not_archived"], &report["segments"]), (&json!([0]), &json!([])), "there is no archive");
    let site = server.stop();
    let url = format!("file://{}", folder.display());
    site.configure(&Config::open().with("retention", retention).with("archive", json!({"url": url})));
    let server = site.serve();
    archived(&server, &[]);
    let would = gavel(["retention", "--dry-run", "--json", "--url", &server.url]).code(0).json();
    assert_eq!((&would["segments"][0]["segment"], &would["events"]), (&json!(0), &json!([])), "{would}");
    assert!(site.ledger("k").join(compressed_file(0)).exists());
    // What the archive has lost is not given away.
    let object = ledger_in(&folder).join(compressed_file(0));
    let good = fs::read(&object).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 1;
    fs::write(&object, bad).unwrap();
    let told = gavel(["retention", "--url", &server.url]).code(2).stderr;
    assert!(told.contains("its manifest says") && site.ledger("k").join(compressed_file(0)).exists(), "{told}");
    fs::write(&object, good).unwrap();
    let report = gavel(["retention", "--json", "--url", &server.url]).code(0).json();
    assert_eq!(report["segments"].as_array().unwrap().len(), 1, "{report}");
    assert!(site.ledger("k").join(remote_file(0)).exists() && site.ledger("k").join(compressed_file(1)).exists());
}

#[test]
fn an_archived_ledger_is_verified_where_it_is() {
    let (site, folder) = filled();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let archive = gavel::archive::Archive::at(&format!("file://{}", folder.display()), []).unwrap();
    let mut seen = Vec::new();
    let verify = gavel::archive::verify_remote(&archive, "k", None, None, |done, count| seen.push((done, count)));
    let found = runtime.block_on(verify).unwrap();
    assert_eq!((found.segments, found.tail, found.signed), (2, true, false));
    assert!(found.records > SEALED * SEGMENT_RECORDS + AFTER);
    assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
    // By the kernel's key, and by another.
    let der = PrivatePkcs8KeyDer::from_pem_file(site.data().join("kernels/k/checkpoint.key")).unwrap();
    let origin = found.checkpoint.as_deref().unwrap().lines().next().unwrap();
    let secret = der.secret_pkcs8_der().last_chunk().unwrap();
    let key = CheckpointKey::from_seed(secret).verifying(origin);
    let signed = gavel::archive::verify_remote(&archive, "k", Some(&found.ledger_id), Some(&key), |_, _| {});
    assert!(runtime.block_on(signed).unwrap().signed);
    let scratch = tempfile::tempdir().unwrap();
    drop(restore(&folder, &scratch.path().join("good"), &["--key", &key.to_string()]).code(0));
    let other = CheckpointKey::from_seed(&[9; 32]).verifying(origin).to_string();
    let told = restore(&folder, &scratch.path().join("bad"), &["--key", &other]).code(2).stderr;
    assert!(told.contains("its last checkpoint") && !scratch.path().join("bad").exists(), "{told}");
    let told = runtime.block_on(gavel::archive::verify_remote(&archive, "nobody", None, None, |_, _| {}));
    assert!(told.unwrap_err().to_string().contains("holds nothing of kernel 'nobody'"));
}

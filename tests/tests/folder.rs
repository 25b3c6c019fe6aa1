//! Whose folder it is: two processes on one folder, and a folder whose records are later than the clock.
//!
//! What belongs here: what a server must see before it touches a data folder. Whatever it refuses it names precisely, and
//! what it found stays as it was, to the byte.

use gavel_ledger::{Draft, Identity, Kind, Ledger, Options};
use gavel_tests::{Config, Server, Site, gavel, intent, path};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("a file"));
        }
    }
    found
}

#[test]
fn who_comes_second_is_named_the_first_and_touches_nothing() {
    let server = Server::start(&Config::open());
    let _ = server.submit(&intent("r"));
    let site = server.site();
    // By its own path and by another one to the same folder.
    let (_alias, by_another_path) = {
        let folder = tempfile_link(&site.data());
        let path = folder.1.clone();
        (folder, path)
    };
    let before = files(&site.data());
    let commands = || {
        [path(&site.data()), path(&by_another_path)]
            .map(|data| gavel(["serve", "--listen", "127.0.0.1:0", "--config", path(&site.config()), "--data", data]))
    };
    for refused in commands() {
        let refused = refused.code(2);
        let expected = format!("is in use by process {}: stop it, or let it serve this kernel", server.pid());
        assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    }
    assert_eq!(files(&site.data()), before, "nothing was touched");
    assert_eq!(server.submit(&intent("r2"))["decision"], "ALLOW", "the first one is not disturbed");
}

/// A symbolic link to a folder, in a folder of its own.
fn tempfile_link(to: &Path) -> (Site, PathBuf) {
    let site = Site::new(&Config::open());
    let link = site.path().join("alias");
    std::os::unix::fs::symlink(to, &link).expect("a link");
    (site, link)
}

#[test]
fn of_servers_that_start_at_once_one_has_the_folder() {
    let site = Site::new(&Config::open());
    for _ in 0..3 {
        let ended: Vec<_> = thread::scope(|scope| {
            let start = || site.command("127.0.0.1:0").run_unless("serves http");
            let started: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            started.into_iter().map(|started| started.join().expect("it ended")).collect()
        });
        let (served, refused): (Vec<_>, Vec<_>) = ended.iter().partition(|end| end.stdout.contains("serves http"));
        assert!(!served.is_empty(), "somebody serves: {ended:?}");
        for end in refused {
            assert!(end.stderr.contains("is in use by process "), "{}", end.stderr);
        }
        gavel_ledger::verify_dir(&site.ledger("k")).expect("the ledger holds");
    }
}

#[test]
fn a_clock_behind_the_last_record_is_named_and_nothing_is_overwritten() {
    const LATER_MS: u64 = 4_102_444_800_000; // 2100-01-01
    let site = Site::new(&Config::open());
    let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
    let (ledger, _) = Ledger::open(&site.ledger("k"), Options::new(identity, LATER_MS)).expect("a new ledger");
    let draft = Draft { kind: Kind::Event, ts_ms: LATER_MS, meta: "{}".into(), entry: None, closes: None };
    let last = ledger.append_wait(draft).expect("appended");
    ledger.close().expect("closed");
    drop(ledger);
    let log = site.ledger("k").join("segment-000000.log");
    let before = fs::read(&log).expect("a log");

    let server = site.serve();
    server.wait_for_log("the clock was set back");
    assert!(server.log().contains("2100-01-01T00:00:00Z"), "{}", server.log());
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
    let site = server.stop();
    assert!(fs::read(&log).expect("a log").starts_with(&before), "what was recorded stays");
    let report = gavel_ledger::verify_dir(&site.ledger("k")).expect("the order is that of the records");
    assert!(report.records > last.size && report.last_ts_ms == LATER_MS);
}

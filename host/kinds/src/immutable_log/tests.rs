//! The log through its routes, and after it was dropped without a clean end.

use super::entry::Entry;
use super::log::Log;
use super::{KIND, health, settings};
use crate::Peers;
use crate::trial::{Hands, NOW_MS, Trial, seed};
use futures_util::future::join_all;
use gavel_ledger::{Audit, Draft, Fault as DiskFault, Identity, Kind, Ledger, MemoryStorage, Options, audit_dir};
use gavel_proof::note::{Note, VerifyingKey};
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::task::{Context, Waker};

const AGENT: &str = "agent-7 agent";
const OPERATOR: &str = "ops operator";

async fn open(folder: &std::path::Path) -> Trial {
    Trial::alone(&KIND, folder, Value::Null).await.unwrap()
}

/// What an auditor with the published key finds in a file.
fn verify(file: &str, key: &str) -> gavel_proof::report::Report {
    let mut verifier = Verifier::new(Some(key.parse::<TrustedKey>().unwrap()));
    verifier.push(file.as_bytes());
    verifier.finish()
}

#[tokio::test]
async fn an_entry_is_appended_read_and_proved() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let entry = json!({"kind": "note", "data": {"text": "grün", "number": 1.5}});
    let (status, told) = log.post(AGENT, "/append", &entry).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!((told["index"].as_u64(), told["by"].as_str()), (Some(2), Some("agent-7")));
    assert_eq!((told["ts_ms"].as_u64(), told["repeated"].as_bool()), (Some(NOW_MS), Some(false)));

    let (_, read) = log.get(AGENT, "/entries/2").await;
    assert_eq!((&read["data"], &read["kind"]), (&entry["data"], &entry["kind"]));
    assert_eq!(read["leaf_hash"], told["leaf_hash"]);
    assert!(read["record"].as_str().unwrap().starts_with(r#"{"index":2,"kind":"event""#), "{read}");

    let (_, key) = log.text("a auditor", "GET /checkpoint/key", "").await;
    let (_, file) = log.text(AGENT, "GET /prove/2", "").await;
    let report = verify(&file, &key);
    assert!(report.holds, "{:?}", report.error);
    assert_eq!(report.tree_root.as_deref(), told["root"].as_str());
    let forged = file.replace(r#"\"number\":1.5"#, r#"\"number\":1.6"#).replace(r#""number":1.5"#, r#""number":1.6"#);
    assert_ne!(forged, file);
    assert!(!verify(&forged, &key).holds);

    let (_, note) = log.text(AGENT, "GET /checkpoint", "").await;
    let note = Note::parse(&note).unwrap();
    note.verify(&key.trim().parse::<VerifyingKey>().unwrap()).unwrap();
    assert_eq!(hex::encode(note.checkpoint().unwrap().root), told["root"].as_str().unwrap());
}

#[tokio::test]
async fn a_checkpoint_that_was_kept_is_a_beginning_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    for number in 0..5 {
        log.post(AGENT, "/append", &json!({"kind": "note", "data": number})).await;
    }
    let (_, key) = log.text(AGENT, "GET /checkpoint/key", "").await;
    for path in ["/consistency?from=3", "/consistency?from=4&to=6", "/consistency?from=7&to=7"] {
        let (status, file) = log.text(AGENT, &format!("GET {path}"), "").await;
        assert_eq!(status, 200, "{path}: {file}");
        let report = verify(&file, &key);
        assert!(report.holds, "{path}: {:?}", report.error);
    }
    for (path, why) in [
        ("/consistency?from=8", "at most 7"),
        ("/consistency?from=0", "at least 1"),
        ("/consistency?from=1", "no checkpoint states exactly 1 records"),
    ] {
        let (status, told) = log.get(AGENT, path).await;
        assert_eq!(status, 422, "{path}");
        assert!(told["error"].as_str().unwrap().contains(why), "{path}: {told}");
    }
    assert_eq!(log.get(AGENT, "/consistency").await.0, 400);
}

#[tokio::test]
async fn a_key_stands_for_one_entry_also_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let entry = json!({"kind": "note", "data": {"a": 1}, "key": "k-1"});
    let log = open(folder.path()).await;
    let (_, first) = log.post(AGENT, "/append", &entry).await;
    log.post(AGENT, "/append", &json!({"kind": "note", "data": 2})).await;
    // Without a clean end.
    drop(log);
    for ended in [false, true] {
        let log = open(folder.path()).await;
        let (status, again) = log.post(AGENT, "/append", &entry).await;
        assert_eq!(status, 200, "{again}");
        assert_eq!((&again["index"], &again["leaf_hash"]), (&first["index"], &first["leaf_hash"]));
        assert_eq!((again["repeated"].as_bool(), again["size"].as_u64()), (Some(true), Some(4)));
        let (status, told) = log.post(AGENT, "/append", &json!({"kind": "note", "data": {"a": 2}, "key": "k-1"})).await;
        assert_eq!(status, 409, "{told}");
        assert!(told["error"].as_str().unwrap().contains("was used for entry 2"), "{told}");
        if ended { log.end().await } else { drop(log) }
    }
    // From what the clean end kept, and for its sender only.
    let log = open(folder.path()).await;
    assert_eq!(log.post(AGENT, "/append", &entry).await.1["index"], 2);
    assert_eq!(log.post("other agent", "/append", &entry).await.1["index"], 4);
}

#[tokio::test]
async fn many_at_once_with_one_key_are_one_entry() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let bodies: Vec<_> = (0..200)
        .map(|number| match number % 2 {
            0 => json!({"kind": "note", "data": "the same", "key": "one"}),
            _ => json!({"kind": "note", "data": number}),
        })
        .collect();
    let told = join_all(bodies.iter().map(|body| log.post(AGENT, "/append", body))).await;
    let mut indices = BTreeSet::new();
    let mut new = 0;
    for (status, told) in &told {
        assert_eq!(*status, 200, "{told}");
        indices.insert(told["index"].as_u64().unwrap());
        new += usize::from(told["repeated"] == false);
    }
    assert_eq!((indices.len(), new), (101, 101));
    let (_, metrics) = log.text(OPERATOR, "GET /metrics", "").await;
    let sample = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(sample("gavel_immutable_log_records "), 103);
    assert_eq!(sample("gavel_immutable_log_appends_total{result=\"repeated\"}"), 99);
}

#[tokio::test]
async fn appends_that_wait_share_a_sync() {
    let folder = tempfile::tempdir().unwrap();
    let seed = seed(&KIND, folder.path(), Value::Null, &Hands::at(NOW_MS), Peers::none(KIND.name));
    let log = Arc::new(Log::open(&seed, settings::read(&Value::Null).unwrap()).unwrap());
    let before = log.ledger.stats();
    // The disk is slow: whoever is told of the first append does not go on before all others wait.
    let (go_on, wait) = sync_channel::<()>(1);
    let first = Draft { kind: Kind::Event, ts_ms: NOW_MS, meta: "{}".to_owned(), entry: None, closes: None };
    log.ledger.append(first, move |_| wait.recv().unwrap());
    let entries: Vec<_> = (0..200)
        .map(|number| Entry::read(format!(r#"{{"kind":"note","data":{number}}}"#).as_bytes()).unwrap())
        .collect();
    let mut all = pin!(join_all(entries.iter().map(|entry| log.append("agent-7", entry))));
    assert!(all.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    go_on.send(()).unwrap();
    for appended in all.await {
        assert!(!appended.unwrap().repeated);
    }
    let after = log.ledger.stats();
    assert_eq!(after.appended - before.appended, 201);
    // The first, what was taken up while it was written, and the rest.
    assert!(after.syncs - before.syncs < 20, "{before:?} {after:?}");
}

#[tokio::test]
async fn an_error_of_the_disk_stops_the_log_until_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let seed = seed(&KIND, folder.path(), Value::Null, &Hands::at(NOW_MS), Peers::none(KIND.name));
    let over = |disk: MemoryStorage| {
        let identity = Identity { kernel_id: KIND.name.to_owned(), variant: "test".to_owned() };
        let (ledger, recovered) = Ledger::open_storage(Box::new(disk), &Options::new(identity, NOW_MS)).unwrap();
        Arc::new(Log::of(&seed, settings::read(&Value::Null).unwrap(), ledger, recovered.kept).unwrap())
    };
    let entry = |key: &str| Entry::read(format!(r#"{{"kind":"note","data":1,"key":"{key}"}}"#).as_bytes()).unwrap();
    let disk = MemoryStorage::new();
    let log = over(disk.clone());
    log.append("a", &entry("one")).await.unwrap();
    assert!(health(&log).is_ok());
    disk.fail(DiskFault::Sync { after: 0, kind: std::io::ErrorKind::Other });
    for _ in 0..2 {
        let fault = log.append("a", &entry("two")).await.unwrap_err();
        assert_eq!(fault.status.as_u16(), 500, "{fault}");
        assert!(health(&log).unwrap_err().contains("started again"));
    }
    // What was not acknowledged is not there, what was is.
    let log = over(MemoryStorage::from_image(disk.power_loss(|_| false)));
    assert!(log.append("a", &entry("one")).await.unwrap().repeated);
    assert!(!log.append("a", &entry("two")).await.unwrap().repeated);
    assert!(health(&log).is_ok());
}

#[tokio::test]
async fn entries_come_in_pages_and_by_kind() {
    let folder = tempfile::tempdir().unwrap();
    let log = Trial::alone(&KIND, folder.path(), json!({"page_scan_max": 4})).await.unwrap();
    for number in 0..9 {
        let kind = if number % 3 == 0 { "third" } else { "other" };
        log.post(AGENT, "/append", &json!({"kind": kind, "data": number})).await;
    }
    let (mut from, mut found) = (0, Vec::new());
    while from < 11 {
        let (status, page) = log.get(OPERATOR, &format!("/entries?from={from}&limit=2&kind=third")).await;
        assert_eq!((status, page["size"].as_u64()), (200, Some(11)), "{page}");
        found.extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["data"].as_u64().unwrap()));
        let next = page["next"].as_u64().unwrap();
        assert!(next > from, "{page}");
        from = next;
    }
    assert_eq!(found, [0, 3, 6]);
    let (_, page) = log.get(OPERATOR, "/entries").await;
    assert_eq!(
        (page["entries"][0]["kind"].as_str(), page["entries"][1]["kind"].as_str()),
        (Some("opened"), Some("key"))
    );
    let other = tempfile::tempdir().unwrap();
    let few = Trial::alone(&KIND, other.path(), json!({"page_entries_max": 1})).await.unwrap();
    let (status, page) = few.get(OPERATOR, "/entries?limit=1001").await;
    assert_eq!((status, page["next"].as_u64(), page["size"].as_u64()), (200, Some(1), Some(2)), "{page}");
    let (_, past) = log.get(OPERATOR, "/entries?from=500").await;
    assert_eq!((past["entries"].as_array().unwrap().len(), past["next"].as_u64()), (0, Some(11)));
    for path in ["/entries?limit=0", "/entries?kind=a%20b"] {
        assert_eq!(log.get(OPERATOR, path).await.0, 422, "{path}");
    }
    assert_eq!(log.get(OPERATOR, "/entries?limit=x").await.0, 400);
}

#[tokio::test]
async fn an_agent_sees_its_own_entries_only() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    log.post(AGENT, "/append", &json!({"kind": "note", "data": 1})).await;
    for path in ["/entries/2", "/prove/2"] {
        assert_eq!(log.get(AGENT, path).await.0, 200, "{path}");
        assert_eq!(log.get("a auditor", path).await.0, 200, "{path}");
        assert_eq!(log.get("other agent", path).await.0, 403, "{path}");
        assert_eq!(log.get("", path).await.0, 401, "{path}");
    }
    for path in ["/entries/0", "/prove/1"] {
        assert_eq!(log.get(AGENT, path).await.0, 403, "{path}");
    }
    for path in ["/entries/3", "/prove/3", "/entries/x", "/prove/-1"] {
        assert_eq!(log.get(AGENT, path).await.0, 404, "{path}");
    }
    assert_eq!(log.get(AGENT, "/entries").await.0, 403);
    assert_eq!(log.post("a auditor", "/append", &json!({"kind": "note", "data": 1})).await.0, 403);
}

#[tokio::test]
async fn what_cannot_be_a_record_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let large = "x".repeat(70_000);
    let (status, told) = log.post(AGENT, "/append", &json!({"kind": "note", "data": large, "key": "k"})).await;
    assert_eq!(status, 413, "{told}");
    assert_eq!(log.post(AGENT, "/append", &json!({"kind": "key", "data": 1})).await.0, 422);
    assert_eq!(log.text(AGENT, "POST /append", "{").await.0, 400);
    // The key was given up with the refusal.
    let (status, told) = log.post(AGENT, "/append", &json!({"kind": "note", "data": 1, "key": "k"})).await;
    assert_eq!((status, told["index"].as_u64()), (200, Some(2)), "{told}");
}

#[tokio::test]
async fn the_folder_verifies_and_its_key_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    log.post(AGENT, "/append", &json!({"kind": "note", "data": 1})).await;
    let (_, file) = log.text(AGENT, "GET /prove/2", "").await;
    drop(log);
    let audit = || {
        let audit = Audit {
            segments: None,
            anchor: None,
            from_anchor: false,
            key: None,
            each_signature: true,
            threads: Some(1),
            progress: None,
        };
        audit_dir(&folder.path().join("ledger"), &audit).unwrap()
    };
    assert_eq!((audit().records, audit().identity.kernel_id.as_str()), (3, "immutable_log"));

    std::fs::remove_file(folder.path().join("checkpoint.key")).unwrap();
    let Err(why) = Trial::alone(&KIND, folder.path(), Value::Null).await else { panic!("opened without its key") };
    assert!(format!("{why:#}").contains("checkpoint_key_is_lost"), "{why:#}");
    let lost = json!({"checkpoint_key_is_lost": true});
    let log = Trial::alone(&KIND, folder.path(), lost).await.unwrap();
    let (_, key) = log.text(AGENT, "GET /checkpoint/key", "").await;
    let (_, again) = log.text(AGENT, "GET /prove/2", "").await;
    assert!(verify(&again, &key).holds, "{:?}", verify(&again, &key).error);
    assert!(!verify(&file, &key).holds, "the old checkpoint is of the old key");
}

#[tokio::test]
async fn it_says_how_it_is_and_what_it_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let (status, health) = log.get("", "/health").await;
    assert_eq!((status, health["size"].as_u64()), (200, Some(2)), "{health}");
    let document = log.check_document().await;
    assert!(document["paths"]["/prove/{index}"]["get"].is_object());
}

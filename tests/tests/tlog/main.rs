//! The log as others read it: C2SP tiles and checkpoints, witnesses and webhooks.
//!
//! What belongs here: what a client, a witness or a webhook of the specifications sees, checked with code that shares
//! nothing with Gavel ([`client`], [`witness`]).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

mod client;
mod proofs;
mod witness;

use client::{Checkpoint, Key, Log, leaf, root, tile_path, unbundled};
use ed25519_dalek::Signature;
use flate2::read::GzDecoder;
use gavel_tests::{Config, Server, Site, intent};
use serde_json::{Value, json};
use std::io::Read;
use witness::{NOW_S, Witness};

fn vkey(server: &Server) -> Key {
    Key::read(server.get("/prove?index=0").expect(200)["key"].as_str().unwrap())
}

fn log(server: &Server) -> Log<'_> {
    Log { server, prefix: "", key: vkey(server) }
}

/// So many more records, as fast as one connection takes them.
fn grow(server: &Server, records: usize) {
    let mut connection = server.connect();
    for number in 0..records {
        let body = intent(&format!("r-{number}")).to_string();
        let _ = connection.request("POST", "/submit", &[], Some(body.as_bytes())).unwrap().expect(200);
    }
}

/// Walk the whole log and hold every part of it against every other.
fn audit(log: &Log<'_>) -> (Checkpoint, Vec<client::Hash>) {
    let checkpoint = log.checkpoint();
    let size = checkpoint.size;
    let leaves = log.level(0, size);
    assert_eq!(root(&leaves), checkpoint.root, "the tiles are of the tree that was signed");
    let entries = log.entries(size);
    assert_eq!(entries.iter().map(|entry| leaf(entry)).collect::<Vec<_>>(), leaves, "the entries are its leaves");
    for level in 1..=2 {
        let below = log.level(level - 1, size);
        let full = below.chunks_exact(256).map(root).collect::<Vec<_>>();
        assert_eq!(log.level(level, size), full, "a hash of level {level} is the root of a full tile below");
    }
    (checkpoint, leaves)
}

#[test]
fn a_client_of_the_specification_reads_the_log() {
    let server = Server::start(&Config::open());
    let log = log(&server);
    let (first, _) = audit(&log);
    assert!(first.size >= 1, "{first:?}");
    grow(&server, 20);
    let (second, leaves) = audit(&log);
    assert_eq!((second.size - first.size, &second.origin), (20, &first.origin));
    assert_eq!(root(&leaves[..usize::try_from(first.size).unwrap()]), first.root, "the first tree is its beginning");
    // Past a full tile, and past two.
    grow(&server, 560);
    let (third, leaves) = audit(&log);
    assert_eq!(third.size - second.size, 560);
    assert_eq!(root(&leaves[..usize::try_from(second.size).unwrap()]), second.root);
    // Partial tiles of earlier checkpoints are still there.
    for checkpoint in [first, second] {
        assert_eq!(root(&log.level(0, checkpoint.size)), checkpoint.root);
    }
    // The entries are the records.
    let entry = &log.entries(third.size)[20];
    assert_eq!(server.get("/records/20").body, *entry);
}

#[test]
fn the_log_outlives_a_restart_and_kernels_have_logs_of_their_own() {
    let kernels = json!([Config::open_kernel("k"), Config::open_kernel("other")]);
    let server = Server::start(&Config::of(kernels));
    grow(&server, 5);
    let before = log(&server).checkpoint();
    let other = Key::read(server.get("/kernels/other/prove?index=0").expect(200)["key"].as_str().unwrap());
    assert_ne!(other.name, before.origin);
    assert!(other.name.starts_with("gavel/other/"), "{}", other.name);
    let _ = audit(&Log { server: &server, prefix: "/kernels/other", key: other });
    let site = server.stop();
    let server = site.serve();
    let log = log(&server);
    let (after, leaves) = audit(&log);
    assert_eq!(after.origin, before.origin);
    assert_eq!(root(&leaves[..usize::try_from(before.size).unwrap()]), before.root);
}

#[test]
fn what_is_not_in_the_tree_is_not_served() {
    let server = Server::start(&Config::open());
    grow(&server, 3);
    let size = log(&server).checkpoint().size;
    let past = tile_path(0, size + 1);
    for path in [
        format!("/tile/0/{past}"),
        format!("/tile/entries/{past}"),
        "/tile/0/000".into(),
        "/tile/entries/000".into(),
        "/tile/1/000.p/1".into(),
        "/tile/0/001.p/1".into(),
        "/tile/64/000.p/1".into(),
        "/tile/00/000.p/1".into(),
        "/tile/-1/000.p/1".into(),
        "/tile/63/000.p/1".into(),
        "/tile/0/000.p/0".into(),
        "/tile/0/000.p/256".into(),
        "/tile/0/0.p/1".into(),
        "/tile/0/x000/000.p/1".into(),
        "/tile/0/x018/x446/x744/x073/x709/x551/615".into(),
        "/tile/63/x018/x446/x744/x073/x709/x551/615.p/255".into(),
        "/tile/0/x999/x999/x999/x999/x999/x999/x999/999".into(),
        "/tile/data/000.p/1".into(),
        "/tile/0/".into(),
        "/tile/0".into(),
        "/tile/entries/../entries/000.p/1".into(),
    ] {
        assert!(!server.get(&path).error(404).is_empty(), "{path}");
    }
    assert_eq!(server.get("/tile/0/000.p/1").status, 200);
}

#[test]
fn bundles_are_zipped_for_who_accepts_it() {
    let server = Server::start(&Config::open());
    grow(&server, 50);
    let path = format!("/tile/entries/{}", tile_path(0, 50));
    let plain = server.get(&path);
    let zipped = server.send("GET", &path, &[("accept-encoding", "br, gzip")], None);
    assert_eq!((plain.header("content-encoding"), zipped.header("content-encoding")), (None, Some("gzip")));
    assert!(zipped.body.len() * 2 < plain.body.len(), "{} of {}", zipped.body.len(), plain.body.len());
    let mut unzipped = Vec::new();
    let _ = GzDecoder::new(zipped.body.as_slice()).read_to_end(&mut unzipped).unwrap();
    assert_eq!(unbundled(&unzipped), unbundled(&plain.body));
}

#[test]
fn a_public_log_is_for_everybody_and_the_rest_is_not() {
    let auditor = gavel_tests::Key::make("auditor", &["--role", "auditor"]);
    let agent = gavel_tests::Key::make("agent", &["--role", "agent", "--actor", "agent-001"]);
    let mut open = Config::open_kernel("open");
    open["tlog"] = json!("public");
    let kernels = json!([open, Config::open_kernel("closed")]);
    let server = Server::start(&Config::of(kernels).keys(&[&auditor, &agent]));
    let statuses = |path: &str| {
        [None, Some(&agent), Some(&auditor)].map(|key| {
            let header = key.map(gavel_tests::Key::header);
            let headers: Vec<(&str, &str)> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
            server.send("GET", path, &headers, None).status
        })
    };
    for path in ["/checkpoint", "/tile/0/000.p/1", "/tile/entries/000.p/1"] {
        assert_eq!(statuses(path), [200; 3], "{path}");
        assert_eq!(statuses(&format!("/kernels/open{path}")), [200; 3], "{path}");
        assert_eq!(statuses(&format!("/kernels/closed{path}")), [401, 403, 200], "{path}");
    }
    for path in ["/evidence", "/records", "/records/0", "/prove?index=0"] {
        assert_eq!(statuses(path), [401, 403, 200], "{path}");
    }
    let tile = server.get("/tile/0/000.p/1");
    assert_eq!(tile.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(statuses("/kernels/nobody/checkpoint"), [401, 403, 404]);
}

const COSIGNED: &str = "/checkpoint?cosigned=true";

/// A kernel whose checkpoints go to these, every second.
fn pushing(targets: &[Value]) -> Config {
    Config::open().with("checkpoints", json!({"every_s": 1, "push": targets}))
}

fn as_witness(witness: &Witness) -> Value {
    json!({"kind": "witness", "url": format!("http://{}/w/", witness.address), "key": witness.vkey()})
}

fn pushes(server: &Server, witness: &Witness, outcome: &str) -> f64 {
    let labels = format!(r#"kernel="k",target="{}",outcome="{outcome}""#, witness.address);
    server.metrics().get(&format!("gavel_checkpoint_pushes_total{{{labels}}}"))
}

/// Wait until a checkpoint of at least `size` records has cosignatures of all these; the note.
fn cosigned(server: &Server, path: &str, size: u64, witnesses: &[&Witness]) -> String {
    let until = std::time::Instant::now() + gavel_tests::PATIENCE;
    loop {
        let answer = server.get(path);
        let text = answer.text();
        let by_all = |note: &str| witnesses.iter().all(|witness| witness.key.signature(note).is_some());
        if answer.status == 200 && Checkpoint::read(&text).size >= size && by_all(&text) {
            for witness in witnesses {
                check_cosignature(witness, &text);
            }
            return text;
        }
        assert!(std::time::Instant::now() < until, "{text}");
        std::thread::yield_now();
    }
}

fn check_cosignature(witness: &Witness, note: &str) {
    let signature = witness.key.signature(note).unwrap_or_else(|| panic!("not cosigned: {note}"));
    let (time, signature) = signature.split_at(8);
    assert_eq!(time, NOW_S.to_be_bytes());
    let text = &note[..=note.rfind("\n\n").unwrap()];
    let message = format!("cosignature/v1\ntime {NOW_S}\n{text}");
    let signature = Signature::from_slice(signature).unwrap();
    witness.key.public.verify_strict(message.as_bytes(), &signature).unwrap();
}

#[test]
fn witnesses_cosign_what_grows() {
    let (first, second) = (Witness::start("witness.test/1", 1), Witness::start("witness.test/2", 2));
    let server = Server::start(&pushing(&[as_witness(&first), as_witness(&second)]));
    let log = log(&server);
    // As long as the witness does not know the log, it says so, and is asked again.
    first.wait_for(|seen| seen.answers.contains(&404));
    assert!(server.get("/checkpoint?cosigned=true").error(404).contains("none was signed"), "nobody cosigned yet");
    for witness in [&first, &second] {
        witness.with(|seen| seen.log = Some(log.key.clone()));
    }
    let mut grown = log.checkpoint().size;
    for growth in [0, 3, 300] {
        grow(&server, growth);
        grown += growth as u64;
        for witness in [&first, &second] {
            witness.wait_for(|seen| seen.last.as_ref().is_some_and(|last| last.size >= grown));
        }
        let note = cosigned(&server, COSIGNED, grown, &[&first, &second]);
        assert!(log.key.verified(&note).is_some(), "the ledger's own signature is there too");
        assert!(!note.contains("somebody.else"), "what is not verified is not kept: {note}");
    }
    // With nothing new, the latest checkpoint is the cosigned one.
    let _ = cosigned(&server, "/checkpoint", grown, &[&first, &second]);
    assert!(pushes(&server, &first, "ok") >= 1.0 && pushes(&server, &first, "refused") >= 1.0);
    assert!(pushes(&server, &first, "forked") < 1.0);

    // The next server knows nothing of what the witness saw: it is told, by 409.
    let site = server.stop();
    let conflicts = first.with(|seen| seen.answers.iter().filter(|status| **status == 409).count());
    let server = site.serve();
    grow(&server, 1);
    first.wait_for(|seen| seen.last.as_ref().is_some_and(|last| last.size > grown));
    assert!(first.with(|seen| seen.answers.iter().filter(|status| **status == 409).count()) > conflicts);
    let _ = cosigned(&server, COSIGNED, grown + 1, &[&first]);
}

#[test]
fn a_witness_that_saw_another_history_is_an_alarm() {
    let witness = Witness::start("witness.test/1", 1);
    let server = Server::start(&pushing(&[as_witness(&witness)]));
    witness.with(|seen| seen.log = Some(vkey(&server)));
    grow(&server, 5);
    let size = || log(&server).checkpoint().size;
    let first = size();
    witness.wait_for(|seen| seen.last.as_ref().is_some_and(|last| last.size == first));
    let last = witness.with(|seen| seen.last.clone()).unwrap();
    let cosigned = || witness.with(|seen| seen.answers.iter().filter(|status| **status == 200).count());
    let before = cosigned();
    // It saw more than there is, another tree of the size that the ledger comes to, another beginning.
    for (seen_size, told) in [
        (size() + 50, "the ledger was put back to an older state"),
        (size() + 3, "this ledger's history is not the one that it saw"),
        (3, "this ledger's history is not an extension of the one that it saw"),
    ] {
        witness.with(|seen| seen.last = Some(Checkpoint { size: seen_size, root: [7; 32], ..last.clone() }));
        grow(&server, 1);
        server.wait_for_log(told);
        // Nobody who decides is held up by that.
        assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
    }
    assert!(pushes(&server, &witness, "forked") >= 3.0);
    assert_eq!(cosigned(), before, "it cosigned none of that");
}

#[test]
fn a_forged_cosignature_is_not_kept() {
    let witness = Witness::start("witness.test/1", 1);
    witness.with(|seen| seen.forges = true);
    let server = Server::start(&pushing(&[as_witness(&witness)]));
    witness.with(|seen| seen.log = Some(vkey(&server)));
    server.wait_for_log("its cosignature does not hold");
    assert_eq!(server.get("/checkpoint?cosigned=true").status, 404);
}

#[test]
fn a_webhook_gets_the_signed_note_again_until_it_takes_it() {
    let hook = Witness::start("unused", 1);
    hook.with(|seen| seen.refusals = 2);
    let server = Server::start(&pushing(&[json!({"kind": "webhook", "url": format!("http://{}/hook", hook.address)})]));
    hook.wait_for(|seen| seen.hooked.len() >= 3);
    let key = vkey(&server);
    hook.with(|seen| assert!(seen.hooked.iter().all(|note| key.verified(note).is_some()), "{:?}", seen.hooked));
    grow(&server, 2);
    let latest = log(&server).checkpoint();
    hook.wait_for(|seen| seen.hooked.last().is_some_and(|note| Checkpoint::read(note) == latest));
}

#[test]
fn a_target_that_never_answers_holds_up_nobody() {
    let silent = Witness::start("unused", 1);
    let targets = [
        json!({"kind": "webhook", "url": format!("http://{}/silent", silent.address)}),
        json!({"kind": "webhook", "url": "http://127.0.0.1:9/nobody-listens"}),
    ];
    let server = Server::start(&pushing(&targets));
    grow(&server, 10);
    server.wait_for_log("a checkpoint was not taken");
    let _ = server.stop();
}

#[test]
fn targets_that_cannot_be_meant_are_refused() {
    let log_key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    for (target, told) in [
        (json!({"kind": "witness", "url": "http://w"}), "checkpoints.push[0]: a witness needs its `key`"),
        (
            json!({"kind": "witness", "url": "http://w", "key": log_key}),
            "its type is not that of a witness's Ed25519 key",
        ),
        (json!({"kind": "webhook", "url": "http://w", "key": log_key}), "`key` is only for `kind: witness`"),
        (json!({"kind": "webhook", "url": "file:///etc"}), "`url` must begin with http:// or https://"),
        (json!({"kind": "webhook", "url": "nowhere"}), "`url` is no URL"),
        (json!({"kind": "pigeon", "url": "http://w"}), "pigeon"),
    ] {
        let refused = Site::new(&pushing(std::slice::from_ref(&target))).refused().stderr;
        assert!(refused.contains(told), "{target}: {refused}");
    }
    let config = Config::open().with("checkpoints", json!({"every_s": 0}));
    assert!(Site::new(&config).refused().stderr.contains("checkpoints.every_s is 0"));
}

//! Proof files, over HTTP and from the command line, verified by hand and by `gavel verify`.

use crate::client::{Checkpoint, Hash, Key, Log, leaf, node, root};
use crate::{grow, log, vkey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_ledger::note::CheckpointKey;
use gavel_ledger::{Draft, Identity, Kind, Ledger, Options};
use gavel_tests::{Config, Gavel, Output, Server, call, gavel, intent, path};
use serde_json::{Value, json};
use std::fs;

/// A tlog-proof: the index, the hashes, the checkpoint's note.
fn read_proof(text: &str) -> (u64, Vec<Hash>, String) {
    let (head, note) = text.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("c2sp.org/tlog-proof@v1"));
    let index = lines.next().unwrap().strip_prefix("index ").unwrap().parse().unwrap();
    let hashes = lines.map(|line| STANDARD.decode(line).unwrap().try_into().unwrap()).collect();
    (index, hashes, note.to_owned())
}

/// RFC 9162, section 2.1.3.2.
fn is_included(entry: &[u8], index: u64, hashes: &[Hash], checkpoint: &Checkpoint) -> bool {
    let (mut fnode, mut snode, mut found) = (index, checkpoint.size - 1, leaf(entry));
    for hash in hashes {
        if snode == 0 {
            return false;
        }
        if fnode & 1 == 1 || fnode == snode {
            found = node(hash, &found);
            while fnode & 1 == 0 && fnode != 0 {
                (fnode, snode) = (fnode >> 1, snode >> 1);
            }
        } else {
            found = node(&found, hash);
        }
        (fnode, snode) = (fnode >> 1, snode >> 1);
    }
    snode == 0 && found == checkpoint.root
}

/// The text of each record in a proof file, byte for byte.
fn record_texts(file: &str) -> Vec<&str> {
    let records = file.split("{\"record\":").skip(1);
    records.map(|rest| rest.split_once(",\"proof\":").unwrap().0).collect()
}

/// Check every proof of a file by hand; the indices of its records.
fn check_file(file: &str, key: &Key) -> Vec<u64> {
    let value: Value = serde_json::from_str(file).unwrap();
    assert_eq!(value["format"], "gavel-proof/1");
    let texts = record_texts(file);
    let proofs = value["proofs"].as_array().unwrap();
    proofs
        .iter()
        .zip(texts)
        .map(|(proved, text)| {
            let (index, hashes, note) = read_proof(proved["proof"].as_str().unwrap());
            let checkpoint = Checkpoint::read(key.verified(&note).expect("signed by the log's key"));
            assert_eq!(proved["record"]["index"], index);
            assert!(is_included(text.as_bytes(), index, &hashes, &checkpoint), "record {index}");
            index
        })
        .collect()
}

#[test]
fn a_request_is_proved_in_one_file() {
    let server = Server::start(&Config::open());
    let key = vkey(&server);
    grow(&server, 270);
    let _ = server.submit(&call("the/one ü", "echo", json!({"text": "x"})));
    grow(&server, 30);
    let asked = server.get("/prove?request_id=the%2Fone%20%C3%BC").text();
    let indices = check_file(&asked, &key);
    assert_eq!(indices.len(), 2, "its decision and its outcome");
    assert_eq!(server.get("/kernels/k/prove/the%2Fone%20%C3%BC").text(), asked);
    let value: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!((&value["request_id"], &value["kernel_id"]), (&json!("the/one ü"), &json!("k")));
    for index in [0, 1, 255, 256, 257, indices[0]] {
        let file = server.get(&format!("/prove?index={index}")).text();
        assert_eq!(check_file(&file, &key), [index]);
    }
}

#[test]
fn what_cannot_be_proved_is_said() {
    let server = Server::start(&Config::open());
    let records = log(&server).checkpoint().size;
    let told = server.get(&format!("/prove?index={records}")).error(404);
    assert_eq!(told, format!("there is no record {records}: the ledger has {records}, from 0 on"));
    assert_eq!(server.get("/prove?request_id=nobody").error(404), "there is no record of request 'nobody'");
    let which = "say what to prove: `request_id` or `index`, one of them";
    assert_eq!(server.get("/prove").error(400), which);
    assert_eq!(server.get("/prove?request_id=r&index=1").error(400), which);
    assert!(server.get("/prove?index=x").error(400).contains("index"));
    for old in [0, records + 1] {
        let told = server.get(&format!("/consistency?old={old}")).error(422);
        assert!(told.contains(&format!("the ledger has {records} records")), "{told}");
    }
    let mut connection = server.connect();
    for _ in 0..1_001 {
        let body = intent("again").to_string();
        let _ = connection.request("POST", "/submit", &[], Some(body.as_bytes())).unwrap().expect(200);
    }
    let told = server.get("/prove?request_id=again").error(422);
    assert!(told.starts_with("request 'again' has more than 1000 records"), "{told}");
    assert_eq!(check_file(&server.get(&format!("/prove?index={records}")).text(), &vkey(&server)), [records]);
}

fn prove(args: &[&str], server: &Server) -> Output {
    Gavel::new(["prove", "--json"].iter().chain(args)).env("GAVEL_URL", &server.url).run()
}

#[test]
fn the_command_line_writes_a_file_that_stands_for_itself() {
    let server = Server::start(&Config::open());
    let key = vkey(&server);
    let vkey = server.get("/prove?index=0").expect(200)["key"].as_str().unwrap().to_owned();
    let _ = server.submit(&call("r", "echo", json!({"text": "x"})));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("proof.json");
    let told = prove(&["r", "--out", path(&out)], &server).code(0).json();
    assert_eq!((&told["file"], &told["holds"]), (&json!(out), &json!(true)));
    let online = fs::read_to_string(&out).unwrap();
    assert_eq!(check_file(&online, &key).len(), 2);
    // The same from the folder, while the server runs and after.
    let ledger = server.site().ledger("k");
    let offline = prove(&["r", "--ledger", path(&ledger), "--out", "-"], &server).code(0).stdout;
    assert_eq!(offline, online);
    let site = server.stop();
    let single = gavel(["prove", "#1", "--from-ledger", path(&site.ledger("k")), "--out", "-"]).code(0).stdout;
    assert_eq!(check_file(&single, &key), [1]);

    // Its reader needs nothing but the file and the key.
    assert_eq!(gavel(["verify", path(&out), "--key", &vkey]).code(0).code, Some(0));
    let other = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    assert_ne!(gavel(["verify", path(&out), "--key", other]).code, Some(0));
    fs::write(&out, online.replace("agent-001", "agent-002")).unwrap();
    let told = gavel(["verify", path(&out), "--key", &vkey]).code(1);
    assert!(told.stdout.contains("record"), "{}", told.stdout);
}

#[test]
fn growth_is_proved_from_a_checkpoint_that_was_kept() {
    let server = Server::start(&Config::open());
    let vkey = server.get("/prove?index=0").expect(200)["key"].as_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let (kept, out) = (folder.path().join("kept"), folder.path().join("growth.json"));
    grow(&server, 5);
    fs::write(&kept, server.get("/checkpoint").text()).unwrap();
    let size = log(&server).checkpoint().size;
    for growth in [0, 1, 300] {
        grow(&server, growth);
        let told = prove(&["--consistency", path(&kept), "--out", path(&out)], &server).code(0).json();
        assert_eq!(told["tree_size"], log(&server).checkpoint().size);
        assert_eq!(gavel(["verify", path(&out), "--key", &vkey]).code(0).code, Some(0));
    }
    let file: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(file["old"], fs::read_to_string(&kept).unwrap(), "the very checkpoint that was kept");
    let ledger = server.site().ledger("k");
    let offline = ["--consistency", path(&kept), "--ledger", path(&ledger), "--out", "-"];
    let offline: Value = serde_json::from_str(&prove(&offline, &server).code(0).stdout).unwrap();
    assert_eq!(offline, file);

    // A checkpoint of another history of this log.
    let changed = fs::read_to_string(&kept).unwrap();
    let (head, tail) = changed.split_once(&format!("\n{size}\n")).unwrap();
    let other_root = STANDARD.encode(root(&[[1; 32], [2; 32]]));
    let (_, tail) = tail.split_once('\n').unwrap();
    fs::write(&kept, format!("{head}\n{size}\n{other_root}\n{tail}")).unwrap();
    fs::remove_file(&out).unwrap();
    let told = prove(&["--consistency", path(&kept), "--out", path(&out)], &server).code(1).json();
    assert!(told["error"].as_str().unwrap().contains("does not begin with"), "{told}");
    assert!(!out.exists(), "what does not hold is not written");
    fs::write(&kept, "no checkpoint").unwrap();
    let told = prove(&["--consistency", path(&kept)], &server).code(2).stderr;
    assert!(told.contains("no signed note"), "{told}");
}

#[test]
fn a_copy_of_the_log_is_audited_without_asking_who_runs_it() {
    // What a monitor does: it holds the checkpoint of a proof file against the tiles.
    let server = Server::start(&Config::open());
    grow(&server, 10);
    let key = vkey(&server);
    let file = server.get("/prove?index=3").expect(200);
    let (_, _, note) = read_proof(file["proofs"][0]["proof"].as_str().unwrap());
    let checkpoint = Checkpoint::read(key.verified(&note).unwrap());
    grow(&server, 10);
    let log = Log { server: &server, prefix: "", key };
    assert_eq!(root(&log.level(0, checkpoint.size)), checkpoint.root);
}

#[test]
fn whoever_trusts_an_old_key_is_led_to_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let keys = [1, 2, 3].map(|seed| CheckpointKey::from_seed(&[seed; 32]));
    let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
    let options = Options { keys: keys[..1].to_vec(), ..Options::new(identity, 1) };
    let (open, _) = Ledger::open(&ledger, options).unwrap();
    let event = || Draft { kind: Kind::Event, ts_ms: 2, meta: "{}".into(), entry: None, closes: None };
    let kept = open.snapshot().checkpoint.unwrap();
    for key in &keys[1..] {
        let _ = open.append_wait(event()).unwrap();
        let _ = open.rotate_key(key.clone(), 3).unwrap();
    }
    let last = open.append_wait(event()).unwrap().index;
    let origin = open.view().origin();
    open.close().unwrap();

    let [proof, old, growth] = ["proof", "old", "growth"].map(|name| folder.path().join(name));
    let record = format!("#{last}");
    let _ = gavel(["prove", &record, "--ledger", path(&ledger), "--out", path(&proof)]).code(0);
    fs::write(&old, &*kept).unwrap();
    let _ = gavel(["prove", "--consistency", path(&old), "--ledger", path(&ledger), "--out", path(&growth)]).code(0);
    let value: Value = serde_json::from_str(&fs::read_to_string(&proof).unwrap()).unwrap();
    assert_eq!(value["rotations"].as_array().unwrap().len(), 2);
    assert_eq!(value["key"], keys[2].verifying(&origin).to_string());
    for key in &keys {
        let vkey = key.verifying(&origin).to_string();
        for file in [&proof, &growth] {
            let told = gavel(["verify", path(file), "--key", &vkey]);
            assert_eq!(told.code, Some(0), "{}: {}", told.stdout, told.stderr);
        }
    }
    let stranger = CheckpointKey::from_seed(&[4; 32]).verifying(&origin).to_string();
    assert_eq!(gavel(["verify", path(&proof), "--key", &stranger]).code, Some(1));
    // Without the records that lead to it, the new key is a stranger too.
    let text = fs::read_to_string(&proof).unwrap();
    let (before, _) = text.split_once("\"rotations\":[").unwrap();
    fs::write(&proof, format!("{before}\"rotations\":[]}}\n")).unwrap();
    let first = keys[0].verifying(&origin).to_string();
    assert_eq!(gavel(["verify", path(&proof), "--key", &first]).code, Some(1));
}

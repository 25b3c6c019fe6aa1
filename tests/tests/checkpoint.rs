//! The signed checkpoint and its key, from the command line: kept, rotated, lost; and ledgers audited in part, or from a
//! checkpoint that somebody kept.
//!
//! What belongs here: what an operator does with the key, and what an auditor does with what was kept. The tiles and
//! witnesses are in `tlog`, bundles in `cli` and `verifier`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use expect_test::expect;
use gavel_tests::{Config, Gavel, Server, gavel, intent, path, redacted};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn served() -> Server {
    let server = Server::start(&Config::of(json!([Config::open_kernel("k")])));
    submit(&server, "first");
    server
}

fn submit(server: &Server, id: &str) {
    assert_eq!(server.submit(&intent(id))["status"], "ACCEPTED");
}

/// What `gavel checkpoint` prints.
fn checkpoint(server: &Server, more: &[&str]) -> String {
    let args = ["checkpoint", "--url", &server.url];
    gavel(args.iter().chain(more)).code(0).stdout
}

#[test]
fn who_trusts_the_old_key_is_led_to_the_new_one() {
    let server = served();
    let folder = tempfile::tempdir().unwrap();
    let (old, new, other) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("other"));
    fs::write(&old, checkpoint(&server, &["--show-key"])).unwrap();
    let rotated = checkpoint(&server, &["--rotate", "--why", "yearly"]);
    fs::write(&new, checkpoint(&server, &["--show-key"])).unwrap();
    assert_ne!(fs::read(&old).unwrap(), fs::read(&new).unwrap());
    assert!(rotated.contains(fs::read_to_string(&new).unwrap().trim()), "{rotated}");
    submit(&server, "second");
    fs::write(&other, checkpoint(&served(), &["--show-key"])).unwrap();

    let (whole, proof) = (folder.path().join("whole.json.zst"), folder.path().join("proof.json"));
    let _ = gavel(["evidence", "--url", &server.url, "--records", "--out", path(&whole)]).code(0);
    let _ = gavel(["prove", "--url", &server.url, "second", "--out", path(&proof)]).code(0);
    for file in [&whole, &proof] {
        for key in [&old, &new] {
            let _ = gavel(["verify", path(file), "--key", path(key)]).code(0);
        }
        let told = gavel(["verify", path(file), "--key", path(&other)]).code(1).stdout;
        assert!(told.contains("NOT VERIFIED"), "{told}");
    }

    let key = server.site().data().join("kernels/k/checkpoint.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let site = server.stop();
    let ledger = site.ledger("k");
    let audited = gavel(["verify", "--json", path(&ledger), "--every-signature", "--key", path(&new)]).code(0).json();
    assert_eq!(audited["segments"], 1);
    let told = gavel(["verify", path(&ledger), "--key", path(&old)]).code(1).stdout;
    assert!(told.contains("the key in force is"), "{told}");
    let again = site.serve();
    submit(&again, "after a restart with the new key");
}

#[test]
fn a_checkpoint_that_was_kept_catches_a_ledger_that_was_rolled_back() {
    let server = served();
    let folder = tempfile::tempdir().unwrap();
    let (early, late, foreign) =
        (folder.path().join("early"), folder.path().join("late"), folder.path().join("foreign"));
    fs::write(&early, checkpoint(&server, &[])).unwrap();
    let site = server.stop();
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in ["segment-000000.log", "mark"] {
        fs::copy(site.ledger("k").join(file), copy.join(file)).unwrap();
    }
    let server = site.serve();
    submit(&server, "second");
    fs::write(&late, checkpoint(&server, &[])).unwrap();
    fs::write(&foreign, checkpoint(&served(), &[])).unwrap();
    let ledger = server.site().ledger("k");
    let anchored = gavel(["verify", "--json", path(&ledger), "--anchor", path(&early), "--from-anchor"]).code(0).json();
    assert!(anchored["anchored_at"].as_u64() < anchored["records"].as_u64(), "{anchored}");
    let _ = gavel(["verify", path(&ledger), "--segments", "0"]).code(0);

    let told = gavel(["verify", path(&copy), "--anchor", path(&late)]).code(1).stdout;
    assert!(told.contains("the ledger was rolled back"), "{told}");
    let told = gavel(["verify", path(&ledger), "--anchor", path(&foreign)]).code(1).stdout;
    assert!(told.contains("another log") || told.contains("another root"), "{told}");
    let _ = gavel(["verify", path(&ledger), "--segments", "4-2"]).code(2);
}

#[test]
fn a_kernel_whose_key_is_lost_serves_only_when_that_is_said() {
    let site = served().stop();
    fs::remove_file(site.data().join("kernels/k/checkpoint.key")).unwrap();
    let told = site.refused();
    assert!(told.stderr.contains("is not at hand") && told.stderr.contains("--key-lost"), "{}", told.stderr);
    let (config, data) = (site.config(), site.data());
    let lost =
        ["serve", "--config", path(&config), "--data", path(&data), "--listen", "127.0.0.1:0", "--key-lost", "k"];
    let server = Server::spawn(Gavel::new(lost), site);
    submit(&server, "signed by a new key");
    let site = server.stop();
    let told = gavel(["verify", "--json", path(&site.ledger("k")), "--every-signature"]).code(0).json();
    assert_eq!(told["verified"], true);
    submit(&site.serve(), "and so it stays");
}

#[test]
fn a_ledgers_folder_is_verified_while_it_is_served_and_after() {
    let server = served();
    let site = server.site().clone();
    let folder = site.ledger("k");
    let while_serving = gavel(["verify", "--json", path(&folder)]).code(0).json();
    // The opening record, the key, the decision.
    assert_eq!((&while_serving["entries"], &while_serving["records"]), (&json!(1), &json!(3)));
    drop(server.stop());
    let verified = gavel(["verify", path(folder.parent().unwrap())]).code(0).stdout;
    assert!(verified.contains("verified") && verified.contains("tree root"), "{verified}");
    let told = gavel(["verify", "--json", path(&folder)]).code(0).json();
    let (origin, key) = (told["origin"].as_str().unwrap(), told["signed_by"].as_str().unwrap());
    assert!(origin.starts_with("gavel/k/") && key.starts_with("ed25519:"), "{told}");
    let also = [(origin, "<origin>"), (key, "<key>")];
    expect![[r#"
        {
          "entries": 1,
          "kernel_id": "k",
          "origin": "<origin>",
          "records": 3,
          "root_hash": "<hash>",
          "segments": 1,
          "signed_by": "<key>",
          "torn_bytes": 0,
          "tree_root": "<hash>",
          "verified": true
        }"#]]
    .assert_eq(&redacted(&told, &also));
}

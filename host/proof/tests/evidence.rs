//! Bundles and proof files: what holds, and for everything that can be wrong with one, what is said.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log;

use gavel_proof::note::CheckpointKey;
use gavel_proof::proof_file::ProofFile;
use gavel_proof::report::{Outcome, Report};
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use log::{Log, key, second_key};
use serde_json::{Value, json};

fn verify(text: &str, trusted: Option<&str>) -> Report {
    let mut verifier = Verifier::new(trusted.map(|key| key.parse::<TrustedKey>().unwrap()));
    for piece in text.as_bytes().chunks(97) {
        verifier.push(piece);
    }
    verifier.finish()
}

/// The fault that is found.
fn told(text: &str, trusted: Option<&str>) -> String {
    let report = verify(text, trusted);
    assert!(!report.holds, "it holds: {text}");
    assert_eq!(report.checks.iter().filter(|check| check.outcome == Outcome::Fails).count(), 1);
    report.error.unwrap()
}

fn check(bundle: &Value, expected: &str) {
    let told = told(&bundle.to_string(), None);
    assert!(told.contains(expected), "{told}\nshould say\n{expected}");
}

fn names(report: &Report, outcome: Outcome) -> Vec<&str> {
    report.checks.iter().filter(|check| check.outcome == outcome).map(|check| check.name).collect()
}

#[test]
fn a_whole_bundle_holds_with_and_without_a_key() {
    let log = Log::example();
    let vkey = log.vkey(&key()).to_string();
    let raw = format!("ed25519:{}", hex::encode(key().public()));
    let all = ["form", "chain", "records", "agreement", "log", "tree", "signature"];
    let bundle = log.whole();
    for text in [bundle.to_string(), serde_json::to_string_pretty(&bundle).unwrap()] {
        let own = verify(&text, None);
        assert_eq!(own.error, None);
        assert_eq!(names(&own, Outcome::Holds), all);
        assert_eq!(names(&own, Outcome::NotCovered), ["key", "rest"]);
        for key in [&vkey, &raw] {
            let given = verify(&text, Some(key));
            assert_eq!(given.error, None);
            assert_eq!(names(&given, Outcome::Holds), [&all[..], &["key"]].concat());
        }
    }
    let report = verify(&bundle.to_string(), None);
    assert_eq!((report.entries, report.records, report.tree_size), (6, Some((0, 9)), Some(10)));
    assert_eq!(report.rows[1].tool_name.as_deref(), Some("add"));
}

#[test]
fn every_part_of_a_log_holds_and_says_what_it_leaves_open() {
    let log = Log::example();
    let vkey = log.vkey(&key()).to_string();
    for size in 1..=log.size() {
        for start in 0..size {
            for end in start + 1..=size {
                let report = verify(&log.bundle(start, end, size).to_string(), Some(&vkey));
                assert_eq!(report.error, None, "{start}..{end} of {size}");
                let open = report.checks.iter().filter(|check| check.name == "rest").count();
                let entries = usize::from(report.first_entry.is_some());
                assert_eq!(
                    open,
                    1 + entries + usize::from(start > 0) + usize::from(end < size),
                    "{start}..{end} of {size}"
                );
            }
        }
    }
}

#[test]
fn a_bundle_of_the_kernels_package_holds_and_says_what_is_missing() {
    let mut bundle = Log::example().whole();
    for key in ["records", "checkpoint", "key", "rotations", "before", "after", "first_index"] {
        bundle.as_object_mut().unwrap().remove(key);
    }
    let report = verify(&bundle.to_string(), None);
    assert_eq!(report.error, None);
    assert!(report.not_covered_details().any(|detail| detail.contains("not who wrote it")), "{report:?}");
    let raw = format!("ed25519:{}", hex::encode(key().public()));
    assert!(told(&bundle.to_string(), Some(&raw)).starts_with("nothing here is signed: the bundle has no records"));
}

#[test]
fn a_bundle_that_continues_another_or_was_preserved_holds() {
    let whole = Log::example().whole();
    let list = |name: &str| whole[name].as_array().unwrap();
    let (rest, before) = (&list("ledger_entries")[2..], &list("ledger_entries")[1]["entry_hash"]);
    let text = |seq: u64, prev_hash: &Value| {
        let (rest, root) = (json!(rest), &whole["root_hash"]);
        let continues = json!({"ledger_seq": seq, "prev_hash": prev_hash});
        format!(r#"{{"continues":{continues},"ledger_entries":{rest},"root_hash":{root},"entry_count":4}}"#)
    };
    let report = verify(&text(2, before), None);
    assert_eq!((report.error, report.entries, report.first_entry), (None, 4, Some(2)));
    assert_eq!(report.follows.as_deref(), before.as_str());
    assert!(told(&text(1, before), None).contains("expected ledger_seq 1"));
    assert!(told(&text(2, &json!("0".repeat(64))), None).contains("prev_hash is"));
    let late = format!(r#"{{"ledger_entries":[],"continues":{{"ledger_seq":0,"prev_hash":{before}}}}}"#);
    assert!(told(&late, None).contains("must come before"));

    let preserved = |more: &str| format!(r#"{{"kernel_id":"x","evidence":{whole},"integrity_hash":"h"{more}}}"#);
    let report = verify(&preserved(""), None);
    assert_eq!((report.error, report.entries, report.kernel_id.as_str()), (None, 6, "k-1"));
    assert!(told(&preserved(",\"records\":[]"), None).contains("stands behind the bundle"));
    assert!(told(&preserved(",\"evidence\":{}"), None).contains("two bundles"));
}

/// Changes the text of record `index` of a bundle.
fn with_record(log: &Log, index: usize, from: &str, to: &str) -> Value {
    let mut bundle = log.whole();
    let text = log.records[index].replace(from, to);
    assert_ne!(text, log.records[index], "{from}");
    bundle["records"][index] = serde_json::from_str(&text).unwrap();
    bundle
}

#[test]
fn tampering_is_named_with_the_first_bad_record() {
    let log = Log::example();
    let change = |change: &dyn Fn(&mut Value)| {
        let mut bundle = log.whole();
        change(&mut bundle);
        bundle
    };
    // A text within an entry; one beside it, which only the tree covers; and one of each other field.
    check(
        &with_record(&log, 5, "\"error\":\"no\"", "\"error\":\"ok\""),
        "record 5 (request \"r2\"): entry 2 (request \"r2\"): entry_hash",
    );
    let said = "records 0 to 9 are not those that the checkpoint signs: the proof leads to another root";
    check(&with_record(&log, 3, "\"intent\":\"add\"", "\"intent\":\"sub\""), said);
    check(&with_record(&log, 6, "policy", "police"), said);
    check(
        &with_record(&log, 4, "\"decision_index\":3", "\"decision_index\":2"),
        "record 4 (request \"r1\"): record 2 is not an open decision",
    );
    check(
        &with_record(&log, 4, "\"index\":4", "\"index\":5"),
        "record 5 (request \"r1\"): expected record 4: one is missing",
    );
    check(&with_record(&log, 6, "\"meta\":{", "\"meta\":[],\"x\":{"), "record 6: byte");
    check(
        &change(&|it| drop(it["records"].as_array_mut().unwrap().remove(6))),
        "record 7 (request \"r3 ä🔑\"): expected record 6",
    );
    check(
        &change(&|it| it["records"].as_array_mut().unwrap().swap(6, 7)),
        "record 7 (request \"r3 ä🔑\"): expected record 6",
    );
    let doubled = change(&|it| {
        let again = it["records"][2].clone();
        it["records"].as_array_mut().unwrap().insert(3, again);
    });
    check(&doubled, "record 2 (request \"r0\"): expected record 3");
    check(&change(&|it| drop(it["records"].as_array_mut().unwrap().pop())), "entry 5: no record carries it");
    let shortened = change(&|it| {
        it["records"].as_array_mut().unwrap().pop();
        it["ledger_entries"].as_array_mut().unwrap().pop();
        it["entry_count"] = json!(5);
        it["root_hash"] = it["ledger_entries"][4]["entry_hash"].clone();
    });
    check(
        &shortened,
        "records 0 to 8 are not those that the checkpoint signs: the proof has 0 hashes, fewer than the 1",
    );
    check(&change(&|it| it["ledger_entries"][2]["intent"] = json!("x")), "entry 2 (request \"r2\"): entry_hash is");
    check(
        &change(&|it| it["kernel_id"] = json!("k-2")),
        "record 0: it opens the ledger of kernel k-1, but the bundle says that it is of k-2",
    );
    check(&change(&|it| it["first_index"] = json!(1)), "record 0: expected record 1");
}

#[test]
fn another_chain_over_the_same_requests_is_told_apart() {
    let (log, mut other) = (Log::example(), Log::opened("k-1"));
    other.request("r0", "ALLOW");
    other.tool("r1");
    other.request("r2", "ALLOW");
    let (mut bundle, other) = (log.bundle(0, 6, 6), other.bundle(0, 6, 6));
    for key in ["ledger_entries", "root_hash"] {
        bundle[key] = other[key].clone();
    }
    check(&bundle, "entry 2 (request \"r2\"): it is not the entry of its record");
}

#[test]
fn proofs_and_checkpoints_that_do_not_belong_are_named() {
    let (log, mut other) = (Log::example(), Log::opened("k-2"));
    other.request("r0", "ALLOW");
    let hash = json!("00".repeat(32));
    let change = |change: &dyn Fn(&mut Value)| {
        let mut bundle = log.bundle(2, 7, 9);
        change(&mut bundle);
        bundle
    };
    check(
        &change(&|it| it["after"].as_array_mut().unwrap().push(hash.clone())),
        "the proof has 4 hashes, more than the 3",
    );
    check(&change(&|it| drop(it["before"].as_array_mut().unwrap().pop())), "the proof has 2 hashes, fewer than the 3");
    check(&change(&|it| it["before"][0] = hash.clone()), "leads to another root");
    check(&change(&|it| it["before"][0] = json!("zz")), "`before`: a hash is 64 hex digits");
    check(
        &change(&|it| it["checkpoint"] = json!(log.checkpoint(6, &[&key()]))),
        "is about leaf 6, but the tree has 6 leaves",
    );
    check(
        &change(&|it| it["checkpoint"] = json!(other.checkpoint(3, &[&key()]))),
        "the checkpoint is that of another log: it is of gavel/k-2/",
    );
    check(&change(&|it| it["checkpoint"] = json!("x")), "the checkpoint: no signed note");
    check(&change(&|it| it["key"] = json!("x")), "`key`: no verifier key");
    check(&change(&|it| it["key"] = json!(other.vkey(&key()).to_string())), "is that of another log");
    check(
        &change(&|it| it["key"] = json!(log.vkey(&second_key()).to_string())),
        "the checkpoint: not signed by gavel/k-1/",
    );
    let forged = log.checkpoint(9, &[&key()]).replace("\n9\n", "\n10\n");
    check(&change(&|it| it["checkpoint"] = json!(forged)), "does not belong to this text");
    let mut twin = Log::opened("k-1");
    twin.records[0] = twin.records[0].replace("strict", "flexible");
    let mut bundle = log.whole();
    bundle["checkpoint"] = json!(twin.checkpoint(2, &[&key()]));
    check(&bundle, "but record 0 is that of the ledger");
}

#[test]
fn a_key_that_did_not_sign_is_refused_and_rotations_lead_to_one_that_did() {
    let mut log = Log::example();
    let old = log.vkey(&key()).to_string();
    let stranger = log.vkey(&CheckpointKey::from_seed(&[9; 32])).to_string();
    let said = told(&log.whole().to_string(), Some(&stranger));
    assert!(said.starts_with("the checkpoint is not signed by the key that you gave (gavel/k-1/"), "{said}");
    let elsewhere = Log::opened("k-2").vkey(&key()).to_string();
    let said = told(&log.whole().to_string(), Some(&elsewhere));
    assert!(said.contains("the key that you gave is that of gavel/k-2/"), "{said}");

    let new = log.vkey(&second_key());
    let index = log.named_key(&second_key());
    let rotation = log.proved(index, log.size(), &key());
    log.event();
    let mut bundle = log.whole();
    bundle["checkpoint"] = json!(log.checkpoint(log.size(), &[&second_key()]));
    bundle["key"] = json!(new.to_string());
    assert!(told(&bundle.to_string(), Some(&old)).contains("do not lead from it to the key that did sign"));
    let with = |rotation: String| {
        let mut bundle = bundle.clone();
        bundle["rotations"] = json!([serde_json::from_str::<Value>(&rotation).unwrap()]);
        bundle.to_string()
    };
    let report = verify(&with(rotation.to_json()), Some(&old));
    assert_eq!(report.error, None);
    assert_eq!(report.checks.iter().find(|check| check.name == "key").unwrap().outcome, Outcome::Holds);
    assert_eq!(verify(&with(rotation.to_json()), Some(&new.to_string())).error, None, "the new key needs no rotation");
    let forged = rotation.to_json().replace(&hex::encode(second_key().public()), &hex::encode(key().public()));
    assert!(told(&with(forged), Some(&old)).contains("rotation 1 of the key: the proof leads to another root"));
    // Signed by the new key only: anyone could have done that.
    let unsigned = log.proved(index, index + 1, &second_key()).to_json();
    assert!(told(&with(unsigned), Some(&old)).contains("do not lead from it"));
    let event = log.proved(6, log.size(), &key()).to_json();
    assert!(told(&with(event), Some(&old)).contains("rotation 1 of the key: record 6 is of kind \"event\""));
}

#[test]
fn what_is_no_bundle_says_so() {
    let whole = Log::example().whole().to_string();
    for text in ["", "[]", "{}", "{\"ledger_entries\": 5}", "{\"ledger_entries\": []}", "\u{feff}{}", "{\"format\":1}"]
    {
        assert!(told(text, None).starts_with("not a"), "{text}");
    }
    for end in (1..whole.len()).step_by(211) {
        let said = told(&whole[..end], None);
        assert!(said.contains("but the file ends there"), "{said}");
    }
    let twice = whole.replacen('{', "{\"root_hash\":\"x\",", 1);
    assert!(told(&twice, None).contains("`root_hash` stands there twice"));
    let foreign = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{}}"#;
    assert_eq!(told(foreign, None), "not an evidence bundle: `ledger_entries` is missing");
    let foreign = r#"{"ledger_entries":[{"id":7}]}"#;
    assert!(told(foreign, None).starts_with("not an evidence bundle: entry 0 of `ledger_entries`: unknown field `id`"));
}

fn changed(change: impl FnOnce(&mut ProofFile)) -> String {
    let mut file = Log::example().proof_file();
    change(&mut file);
    file.to_json()
}

#[test]
fn a_proof_file_holds_and_needs_nothing_else() {
    let log = Log::example();
    let vkey = log.vkey(&key()).to_string();
    let text = changed(|_| {});
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&text).unwrap()).unwrap();
    for text in [&text, &pretty] {
        let report = verify(text, Some(&vkey));
        assert_eq!(report.error, None);
        assert_eq!(names(&report, Outcome::Holds), ["form", "records", "log", "tree", "signature", "key"]);
        assert!(report.checks[1].detail.contains("record 4: outcome, ALLOW for request \"r1\""), "{report:?}");
    }
    assert_eq!(names(&verify(&text, None), Outcome::NotCovered), ["key", "rest"]);
    assert_eq!(names(&verify(&changed(|file| file.key = None), None), Outcome::NotCovered), ["signature", "rest"]);
}

#[test]
fn what_is_wrong_with_a_proof_file_is_named() {
    let log = Log::example();
    let mut other = Log::opened("k-2");
    other.request("r1", "ALLOW");
    let told = |text: String| told(&text, None);
    for (text, expected) in [
        (
            changed(|file| file.proofs[1].proof.hashes.push([0; 32])),
            "record 4 (request \"r1\") is not proved: the proof has 5 hashes, more than the 4",
        ),
        (changed(|file| _ = file.proofs[1].proof.hashes.pop()), "the proof has 3 hashes, fewer than the 4"),
        (changed(|file| file.proofs[1].proof.hashes[0] = [0; 32]), "is not proved: the proof leads to another root"),
        (
            changed(|file| file.proofs[0].proof.index = 4),
            "record 3 (request \"r1\") is not proved: its proof is that of record 4",
        ),
        (
            changed(|file| file.proofs[1].proof.checkpoint = log.checkpoint(3, &[&key()])),
            "the proof is about leaf 4, but the tree has 3 leaves",
        ),
        (
            changed(|file| file.proofs[1].proof.checkpoint = other.checkpoint(3, &[&key()])),
            "the checkpoint is that of another log: it is of gavel/k-2/",
        ),
        (changed(|file| file.key = Some(log.vkey(&second_key()))), "the checkpoint: not signed by"),
        (
            changed(|file| file.request_id = Some("r9".into())),
            "record 3 (request \"r1\"): the file says that it is about request \"r9\"",
        ),
        (changed(|file| file.proofs[0] = log.proved(2, 10, &key())), "the file says that it is about request \"r1\""),
        (changed(|file| file.kernel_id = "k-9".into()), "but the evidence is of kernel k-9"),
        (changed(|file| file.proofs.clear()), "not a proof file: it has no proofs"),
        (
            changed(|_| {}).replace("gavel-proof/1", "gavel-proof/2"),
            "not a proof file: its `format` is \"gavel-proof/2\"",
        ),
        (
            changed(|_| {}).replace("tlog-proof@v1", "tlog-proof@v2"),
            "not a proof file: proof 1 of `proofs`: no tlog-proof",
        ),
        (changed(|_| {}).replace("\\nindex 3", "\\nindex 03"), "it has no line `index NUMBER`"),
        (
            changed(|_| {}).replace("\"entry_hash\":\"", "\"entry_hash\":\"0"),
            "not a proof file: proof 2 of `proofs`: byte",
        ),
    ] {
        let said = told(text);
        assert!(said.contains(expected), "{said}\nshould say\n{expected}");
    }
    let stranger = log.vkey(&CheckpointKey::from_seed(&[9; 32])).to_string();
    assert!(self::told(&changed(|_| {}), Some(&stranger)).contains("is not signed by the key that you gave"));
}

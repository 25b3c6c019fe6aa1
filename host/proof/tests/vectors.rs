//! The vectors for other implementers, in `docs/formats/vectors`: that they are what this crate makes, and that it
//! says of each what the vector says.
//!
//! `cargo test -p gavel-proof --test vectors -- --ignored` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log;

use gavel_proof::Hash;
use gavel_proof::hash::HexHash;
use gavel_proof::note::{CheckpointKey, Note, VerifyingKey};
use gavel_proof::tree::{self, RangeProof, leaf_hash};
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use log::{Leaves, Log, key, second_key};
use serde_json::{Value, json};
use std::path::PathBuf;

fn folder() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/vectors").into()
}

#[test]
fn are_what_this_crate_makes() {
    for (name, text) in files() {
        let written = std::fs::read_to_string(folder().join(name)).unwrap_or_default();
        assert!(written == text, "{name} is another: see the head of this file, and read what changed");
    }
}

#[test]
#[ignore = "writes the vectors anew"]
fn write() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, text) in files() {
        std::fs::write(folder().join(name), text).unwrap();
    }
}

fn files() -> Vec<(&'static str, String)> {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap() + "\n";
    vec![
        ("tree.json", pretty(&trees())),
        ("notes.json", pretty(&notes())),
        ("bundle.json", bundle(&Log::example().whole())),
        ("part.json", bundle(&Log::example().bundle(2, 7, 9))),
        ("rotated.json", bundle(&rotated().0)),
        ("proof.json", Log::example().proof_file().to_json()),
        ("evidence.json", pretty(&evidence())),
    ]
}

/// One record or entry on each line, so that a person can read it.
fn bundle(bundle: &Value) -> String {
    let mut out = String::from("{");
    for (at, (name, value)) in bundle.as_object().unwrap().iter().enumerate() {
        out.push_str(if at == 0 { "\n" } else { ",\n" });
        match value.as_array() {
            Some(list) if !list.is_empty() => {
                let list: Vec<_> = list.iter().map(Value::to_string).collect();
                out.extend(["\"", name, "\": [\n", &list.join(",\n"), "\n]"]);
            }
            _ => out.extend(["\"", name, "\": ", &value.to_string()]),
        }
    }
    ascii(&(out + "\n}\n"))
}

/// Canonical JSON is ASCII, and `serde_json` does not escape.
fn ascii(text: &str) -> String {
    let escape = |character: char| match character {
        _ if character.is_ascii() => character.to_string(),
        _ => {
            character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat()
        }
    };
    text.chars().map(escape).collect()
}

// --- trees ---

fn hex(hash: &Hash) -> String {
    HexHash::of(hash).as_str().to_owned()
}

fn hexes(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(hex).collect()
}

fn unhex(value: &Value) -> Hash {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

fn unhexes(value: &Value) -> Vec<Hash> {
    value.as_array().unwrap().iter().map(unhex).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// Leaf `n` is the text `leaf n`, beside the first, which is empty.
fn data(size: u64) -> Vec<String> {
    (0..size).map(|leaf| if leaf == 0 { String::new() } else { format!("leaf {leaf}") }).collect()
}

fn trees() -> Value {
    let data = data(20);
    let leaves = Leaves(data.iter().map(|text| leaf_hash(text.as_bytes())).collect());
    let root = |size: u64| {
        let Ok(root) = tree::root(&leaves, size);
        root
    };
    let (mut inclusion, mut consistency, mut range) = (vec![], vec![], vec![]);
    for size in [1, 2, 3, 7, 8, 13, 20] {
        for index in [0, size / 2, size - 1] {
            let Ok(proof) = tree::inclusion(&leaves, index, size);
            let leaf = &leaves.0[usize::try_from(index).unwrap()];
            inclusion.push(json!({"leaf_hash": hex(leaf), "index": index, "size": size, "root": hex(&root(size)), "proof": hexes(&proof)}));
        }
        for old in [0, 1, size / 2, size - 1, size] {
            let Ok(proof) = tree::consistency(&leaves, old, size);
            consistency.push(json!({"old_size": old, "old_root": hex(&root(old)), "new_size": size, "new_root": hex(&root(size)), "proof": hexes(&proof)}));
        }
        for (start, end) in [(0, size), (size / 3, size / 3 + 1), (size / 2, size)] {
            let Ok(proof) = tree::range(&leaves, start, end, size);
            range.push(json!({"start": start, "end": end, "size": size, "root": hex(&root(size)), "before": hexes(&proof.before), "after": hexes(&proof.after)}));
        }
    }
    let roots: Vec<_> = (0..=20).map(|size| json!({"size": size, "root": hex(&root(size))})).collect();
    json!({
        "about": "RFC 6962 with SHA-256. Leaf n is data[n]. A proof is in the order of RFC 6962; range proofs as in docs/formats/proof.md.",
        "data": data, "roots": roots, "inclusion": inclusion, "consistency": consistency, "range": range,
        "bad_inclusion": bad_inclusion(&inclusion[10]),
    })
}

/// One good proof, spoilt.
fn bad_inclusion(good: &Value) -> Vec<Value> {
    let spoilt = |reason: &str, spoil: &dyn Fn(&mut Value)| {
        let mut proof = good.clone();
        spoil(&mut proof);
        proof["reason"] = json!(reason);
        proof
    };
    let zeros = json!("00".repeat(32));
    vec![
        spoilt("a hash too many", &|it| it["proof"].as_array_mut().unwrap().push(zeros.clone())),
        spoilt("a hash too few", &|it| drop(it["proof"].as_array_mut().unwrap().pop())),
        spoilt("another hash", &|it| it["proof"][0] = zeros.clone()),
        spoilt("two hashes swapped", &|it| it["proof"].as_array_mut().unwrap().swap(0, 1)),
        spoilt("another index", &|it| it["index"] = json!(number(&it["index"]) ^ 1)),
        spoilt("an index beyond the tree", &|it| it["index"] = it["size"].clone()),
        spoilt("another leaf", &|it| it["leaf_hash"] = zeros.clone()),
        spoilt("another root", &|it| it["root"] = zeros.clone()),
    ]
}

#[test]
fn the_proofs_of_the_trees_hold_and_the_bad_ones_do_not() {
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(folder().join("tree.json")).unwrap()).unwrap();
    let leaves: Vec<Hash> =
        vectors["data"].as_array().unwrap().iter().map(|text| leaf_hash(text.as_str().unwrap().as_bytes())).collect();
    let list = |name: &str| vectors[name].as_array().unwrap();
    let inclusion = |it: &Value| {
        let (leaf, index, size) = (unhex(&it["leaf_hash"]), number(&it["index"]), number(&it["size"]));
        tree::verify_inclusion(&leaf, index, size, &unhexes(&it["proof"]), &unhex(&it["root"]))
    };
    for it in list("inclusion") {
        assert_eq!(inclusion(it), Ok(()), "{it}");
    }
    for it in list("bad_inclusion") {
        assert!(inclusion(it).is_err(), "{it}");
    }
    for it in list("consistency") {
        let old = (number(&it["old_size"]), &unhex(&it["old_root"]));
        let new = (number(&it["new_size"]), &unhex(&it["new_root"]));
        assert_eq!(tree::verify_consistency(old, new, &unhexes(&it["proof"])), Ok(()), "{it}");
    }
    for it in list("range") {
        let (start, end) = (number(&it["start"]), number(&it["end"]));
        let within = &leaves[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        let proof = RangeProof { before: unhexes(&it["before"]), after: unhexes(&it["after"]) };
        let verified = tree::verify_range(within, start, number(&it["size"]), &proof, &unhex(&it["root"]));
        assert_eq!(verified, Ok(()), "{it}");
    }
}

// --- notes ---

fn notes() -> Value {
    let log = Log::example();
    let (one, two) = (key(), second_key());
    let named = |key: &CheckpointKey, seed: u8| json!({"seed": hex(&[seed; 32]), "public": hex(&key.public()), "name": log.origin(), "vkey": log.vkey(key).to_string()});
    let note = |keys: &[&CheckpointKey]| log.checkpoint(log.size(), keys);
    let vkey = log.vkey(&one).to_string();
    let bad = |reason: &str, note: String, vkey: String| json!({"reason": reason, "note": note, "vkey": vkey});
    json!({
        "about": "C2SP signed-note and tlog-checkpoint. `seed` is the private key of RFC 8032.",
        "keys": [named(&one, 1), named(&two, 2)],
        "good": [{"note": note(&[&one]), "vkeys": [vkey]}, {"note": note(&[&one, &two]), "vkeys": [vkey, log.vkey(&two).to_string()]}],
        "bad": [
            bad("signed by another key", note(&[&two]), vkey.clone()),
            bad("the size was changed", note(&[&one]).replace("\n10\n", "\n11\n"), vkey.clone()),
            bad("the key has another name", note(&[&one]), one.verifying("gavel/k-1/0").to_string()),
            bad("no empty line", note(&[&one]).replace("\n\n", "\n"), vkey.clone()),
            bad("no newline at the end", note(&[&one]).trim_end().to_owned(), vkey.clone()),
            bad("the id is not that of the key", note(&[&one]), vkey.replacen('+', "+0", 1)),
        ],
    })
}

#[test]
fn the_notes_verify_and_the_bad_ones_do_not() {
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(folder().join("notes.json")).unwrap()).unwrap();
    let verify = |note: &Value, vkey: &Value| {
        let key: VerifyingKey = vkey.as_str().unwrap().parse()?;
        Note::parse(note.as_str().unwrap())?.verify(&key)
    };
    for it in vectors["good"].as_array().unwrap() {
        for vkey in it["vkeys"].as_array().unwrap() {
            assert_eq!(verify(&it["note"], vkey), Ok(()), "{it}");
        }
    }
    for it in vectors["bad"].as_array().unwrap() {
        assert!(verify(&it["note"], &it["vkey"]).is_err(), "{it}");
    }
}

// --- bundles and proof files ---

/// A bundle signed by a second key, and the first key.
fn rotated() -> (Value, String) {
    let mut log = Log::example();
    let old = log.vkey(&key()).to_string();
    let new = log.vkey(&second_key());
    let index = log.named_key(&second_key());
    let rotation = log.proved(index, log.size(), &key()).to_json();
    log.event();
    let mut bundle = log.whole();
    bundle["checkpoint"] = json!(log.checkpoint(log.size(), &[&second_key()]));
    bundle["key"] = json!(new.to_string());
    bundle["rotations"] = json!([serde_json::from_str::<Value>(&rotation).unwrap()]);
    (bundle, old)
}

/// What a verifier should say of each file: the four beside this one, and those spoilt.
fn evidence() -> Value {
    let log = Log::example();
    let (vkey, first) = (log.vkey(&key()).to_string(), rotated().1);
    let good = [("bundle.json", &vkey), ("part.json", &vkey), ("rotated.json", &first), ("proof.json", &vkey)];
    let good = good.map(|(file, key)| json!({"file": file, "key": key, "holds": true}));
    let all = [good.to_vec(), tampered(&log), foreign(&log), bad_proof_files(&log)];
    Value::Array(all.concat())
}

fn bad(reason: &str, message: &str, content: &str, key: &str) -> Value {
    json!({"reason": reason, "message": message, "content": content, "key": key, "holds": false})
}

fn changed(log: &Log, change: impl FnOnce(&mut Value)) -> String {
    let mut whole = log.whole();
    change(&mut whole);
    bundle(&whole)
}

/// Bundles that someone changed.
fn tampered(log: &Log) -> Vec<Value> {
    let records = |change: fn(&mut Vec<Value>)| changed(log, |it| change(it["records"].as_array_mut().unwrap()));
    let entry = changed(log, |it| it["ledger_entries"][2]["intent"] = json!("x"));
    let cut = changed(log, |it| {
        it["records"].as_array_mut().unwrap().pop();
        it["ledger_entries"].as_array_mut().unwrap().pop();
        it["entry_count"] = json!(5);
        it["root_hash"] = it["ledger_entries"][4]["entry_hash"].clone();
    });
    let text = records(|it| it[5]["entry"]["error"] = json!("x"));
    let beside = records(|it| it[6]["meta"] = json!({}));
    let removed = records(|it| drop(it.remove(6)));
    let swapped = records(|it| it.swap(6, 7));
    vec![
        bad("a text of an entry was changed", "entry 2", &entry, ""),
        bad("a text of a record was changed", "record 5", &text, ""),
        bad("a record was changed beside its entry", "records 0 to 9", &beside, ""),
        bad("a record was taken out", "record 7", &removed, ""),
        bad("two records were swapped", "record 7", &swapped, ""),
        bad("the last record and its entry were cut off", "records 0 to 8", &cut, ""),
    ]
}

/// Bundles with parts that are not theirs, and what is no bundle.
fn foreign(log: &Log) -> Vec<Value> {
    let stranger = log.vkey(&CheckpointKey::from_seed(&[9; 32])).to_string();
    let mut other = Log::opened("k-2");
    other.request("r1", "ALLOW");
    let surplus = changed(log, |it| it["after"] = json!(["00".repeat(32)]));
    let smaller = changed(log, |it| it["checkpoint"] = json!(log.checkpoint(9, &[&key()])));
    let elsewhere = changed(log, |it| it["checkpoint"] = json!(other.checkpoint(3, &[&key()])));
    let whole = changed(log, |_| {});
    let other_key = "not signed by the key that you gave";
    vec![
        bad("a hash too many beside the records", "more than", &surplus, ""),
        bad("the checkpoint of a smaller tree", "the tree has 9 leaves", &smaller, ""),
        bad("the checkpoint of another log", "another log", &elsewhere, ""),
        bad("signed by another key than the one given", other_key, &whole, &stranger),
        bad("the bundle breaks off", "the file ends there", &whole[..2000], ""),
        bad("another file altogether", "not an evidence bundle", "{\"a\":1}", ""),
    ]
}

fn bad_proof_files(log: &Log) -> Vec<Value> {
    let (vkey, whole) = (log.vkey(&key()).to_string(), log.proof_file());
    let stranger = log.vkey(&CheckpointKey::from_seed(&[9; 32])).to_string();
    let (mut surplus, mut moved) = (whole.clone(), whole.clone());
    surplus.proofs[0].proof.hashes.push([0; 32]);
    moved.proofs[0].proof.index = 4;
    let other_key = "not signed by the key that you gave";
    vec![
        bad("a proof file with a hash too many", "more than", &surplus.to_json(), &vkey),
        bad("a proof file whose proof is of another record", "that of record 4", &moved.to_json(), &vkey),
        bad("a proof file of another key", other_key, &whole.to_json(), &stranger),
    ]
}

#[test]
fn the_evidence_holds_or_fails_for_the_reason_given() {
    let vectors: Value =
        serde_json::from_str(&std::fs::read_to_string(folder().join("evidence.json")).unwrap()).unwrap();
    for it in vectors.as_array().unwrap() {
        let content = match it["file"].as_str() {
            Some(file) => std::fs::read_to_string(folder().join(file)).unwrap(),
            None => it["content"].as_str().unwrap().to_owned(),
        };
        let key = it["key"].as_str().unwrap();
        let trusted = (!key.is_empty()).then(|| key.parse::<TrustedKey>().unwrap());
        let mut verifier = Verifier::new(trusted);
        verifier.push(content.as_bytes());
        let report = verifier.finish();
        assert_eq!(report.holds, it["holds"] == true, "{it}: {:?}", report.error);
        let message = it["message"].as_str().unwrap_or_default();
        assert!(report.error.as_deref().unwrap_or_default().contains(message), "{it}: {:?}", report.error);
    }
}

//! What an auditor drops into a verifier: bundles, files of proofs, files of consistency.
//!
//! The seeds are the vectors for other implementers, all of one signer. Whatever holds with that signer's key must be
//! made of their records and entries: there is no way to say something else in its name.

use crate::Target;
use gavel_proof::proof_file::TlogProof;
use gavel_proof::report::Report;
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// Evidence of any kind, as it streams by.
pub const EVIDENCE: Target = Target {
    name: "evidence",
    seeds: files,
    words: &[
        "\"ledger_entries\":[",
        "\"records\":[",
        "\"rotations\":[",
        "\"proofs\":[",
        "\"evidence\":{",
        "\"key\":",
        "\"checkpoint\":",
        "\"before\":[",
        "\"after\":[",
        "\"first_index\":",
        "\"format\":\"gavel-proof/1\"",
        "null",
        ",",
        "{",
        "}",
        "[",
        "]",
        "\\n",
    ],
    run: evidence,
    cost: 20,
};

/// The text of one proof (C2SP tlog-proof).
pub const TLOG_PROOF: Target = Target {
    name: "tlog_proof",
    seeds: proofs,
    words: &["c2sp.org/tlog-proof@v1\n", "index ", "extra ", "\n\n", "\n", "=", "\u{2014} "],
    run: tlog_proof,
    cost: 2,
};

const VECTORS: [&str; 4] = [
    include_str!("../../../docs/formats/vectors/bundle.json"),
    include_str!("../../../docs/formats/vectors/part.json"),
    include_str!("../../../docs/formats/vectors/rotated.json"),
    include_str!("../../../docs/formats/vectors/proof.json"),
];

/// Each file is a case: what the verifier is given, and what it must say.
const CASES: &str = include_str!("../../../docs/formats/vectors/evidence.json");

fn files() -> Vec<Vec<u8>> {
    let cases: Value = serde_json::from_str(CASES).unwrap();
    let cases = cases.as_array().unwrap().iter().map(|case| match &case["file"] {
        Value::String(text) => text.clone().into_bytes(),
        file => file.to_string().into_bytes(),
    });
    VECTORS.iter().map(|text| text.as_bytes().to_vec()).chain(cases).collect()
}

fn proofs() -> Vec<Vec<u8>> {
    let file: Value = serde_json::from_str(VECTORS[3]).unwrap();
    let proofs = file["proofs"].as_array().unwrap().iter();
    proofs.map(|proved| proved["proof"].as_str().unwrap().as_bytes().to_vec()).collect()
}

/// What the signer said, and whose key it is.
struct Known {
    key: TrustedKey,
    records: BTreeSet<String>,
    entries: BTreeSet<String>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let files = VECTORS.map(|text| serde_json::from_str::<Value>(text).unwrap());
        let named: TrustedKey = files[0]["key"].as_str().unwrap().parse().unwrap();
        let texts = |find: fn(&Value) -> Vec<String>| files.iter().flat_map(find).collect();
        Known { key: TrustedKey::Raw(named.public()), records: texts(records), entries: texts(entries) }
    })
}

/// All records of a file, those that are proved among them.
fn records(file: &Value) -> Vec<String> {
    let list = |name: &str| file[name].as_array().cloned().unwrap_or_default();
    let proved = ["proofs", "rotations"].into_iter().flat_map(list).map(|proved| proved["record"].clone());
    list("records").into_iter().chain(proved).map(|record| record.to_string()).collect()
}

fn entries(file: &Value) -> Vec<String> {
    let entries = file["ledger_entries"].as_array().cloned().unwrap_or_default();
    entries.iter().map(Value::to_string).collect()
}

fn verified(input: &[u8], piece_bytes: usize) -> Report {
    let mut verifier = Verifier::new(Some(known().key.clone()));
    for piece in input.chunks(piece_bytes) {
        if !verifier.push(piece) {
            break;
        }
    }
    verifier.finish()
}

fn evidence(input: &[u8]) {
    let report = verified(input, usize::MAX);
    assert_eq!(verified(input, 61), report, "it does not matter in which pieces it comes");
    if !report.holds {
        assert!(report.error.is_some_and(|error| error.len() > 5), "a fault is named");
        return;
    }
    let file: Value = serde_json::from_slice(input).expect("what holds is JSON");
    if report.signed_by.is_some() {
        for file in [&file, &file["evidence"]] {
            for record in records(file) {
                assert!(known().records.contains(&record), "never signed: {record}");
            }
            for entry in entries(file) {
                assert!(known().entries.contains(&entry), "never signed: {entry}");
            }
        }
    }
}

fn tlog_proof(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(proof) = text.parse::<TlogProof>() {
        assert_eq!(proof.to_string(), text, "a proof has one writing");
    }
}

//! A small log, made by hand: what the tests of bundles, proof files and vectors are about.

#![allow(dead_code, reason = "each test uses what it needs")]

use gavel_proof::Hash;
use gavel_proof::chain::Entry;
use gavel_proof::hash::HexHash;
use gavel_proof::note::{Checkpoint, CheckpointKey, VerifyingKey};
use gavel_proof::proof_file::{ProofFile, Proved, TlogProof};
use gavel_proof::record::{EntryView, GENESIS_HASH, Kind, RecordView, entry_hash, push_record};
use gavel_proof::tree::{self, Nodes, leaf_hash, node_hash};
use serde_json::{Value, json};
use std::convert::Infallible;

/// The leaves of a tree, all of them.
pub(crate) struct Leaves(pub(crate) Vec<Hash>);

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
        if level == 0 {
            return Ok(self.0[usize::try_from(index).unwrap()]);
        }
        Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?))
    }
}

/// The first key of every log here.
pub(crate) fn key() -> CheckpointKey {
    CheckpointKey::from_seed(&[1; 32])
}

/// The key that replaces it.
pub(crate) fn second_key() -> CheckpointKey {
    CheckpointKey::from_seed(&[2; 32])
}

/// A log.
pub(crate) struct Log {
    pub(crate) kernel_id: &'static str,
    pub(crate) records: Vec<String>,
    entries: Vec<Entry>,
}

impl Log {
    /// With its first record and the one that names its key.
    pub(crate) fn opened(kernel_id: &'static str) -> Self {
        let mut log = Self { kernel_id, records: Vec::new(), entries: Vec::new() };
        log.push(Kind::Opened, &json!({"format": 1, "kernel_id": kernel_id, "variant": "strict"}), None);
        log.named_key(&key());
        log
    }

    /// With six requests, of which one ran a tool, one was denied, and the last is a halt.
    pub(crate) fn example() -> Self {
        let mut log = Self::opened("k-1");
        log.request("r0", "ALLOW");
        log.tool("r1");
        log.request("r2", "DENY");
        log.event();
        log.request("r3 \u{e4}\u{1f511}", "ALLOW");
        log.request("r4", "ALLOW");
        log.push(Kind::Halt, &json!({}), Some(entry("HALT", "HALT")));
        log
    }

    fn push(&mut self, kind: Kind, meta: &Value, entry: Option<Entry>) -> u64 {
        let index = self.records.len() as u64;
        let entry = entry.map(|entry| self.chained(entry));
        let data = entry.as_ref().map(Entry::canonical);
        let view = entry.as_ref().zip(data.as_deref()).map(|(entry, data)| EntryView {
            ledger_seq: entry.ledger_seq,
            prev_hash: &entry.prev_hash,
            entry_hash: &entry.entry_hash,
            data,
        });
        let mut text = Vec::new();
        push_record(&mut text, index, kind, 1000 + index, &meta.to_string(), view);
        self.records.push(String::from_utf8(text).unwrap());
        self.entries.extend(entry);
        index
    }

    fn chained(&self, mut entry: Entry) -> Entry {
        entry.ledger_seq = self.entries.len() as u64;
        entry.prev_hash = self.entries.last().map_or(GENESIS_HASH.to_owned(), |last| last.entry_hash.clone());
        let hash = entry_hash(&entry.prev_hash, &entry.canonical());
        HexHash::of(&hash).as_str().clone_into(&mut entry.entry_hash);
        entry
    }

    /// A request that is decided at once.
    pub(crate) fn request(&mut self, request_id: &str, decision: &str) -> u64 {
        self.push(Kind::Decision, &json!({"caller": "agent"}), Some(entry(request_id, decision)))
    }

    /// A request that runs a tool: a decision, and its outcome.
    pub(crate) fn tool(&mut self, request_id: &str) -> u64 {
        let asked = json!({"request": {"actor": "agent-7", "intent": "add", "request_id": request_id}});
        let decision = self.push(Kind::Decision, &asked, None);
        let done = Entry { tool_name: Some("add".into()), ..entry(request_id, "ALLOW") };
        self.push(Kind::Outcome, &json!({"decision_index": decision}), Some(done))
    }

    pub(crate) fn event(&mut self) -> u64 {
        self.push(Kind::Event, &json!({"what": "policy"}), None)
    }

    /// The record that puts a key in force, and replaces the one before.
    pub(crate) fn named_key(&mut self, key: &CheckpointKey) -> u64 {
        self.push(Kind::Key, &json!({"key": HexHash::of(&key.public()).as_str()}), None)
    }

    pub(crate) fn origin(&self) -> String {
        let first = leaf_hash(self.records[0].as_bytes());
        format!("gavel/{}/{}", self.kernel_id, &HexHash::of(&first).as_str()[..16])
    }

    pub(crate) fn vkey(&self, key: &CheckpointKey) -> VerifyingKey {
        key.verifying(&self.origin())
    }

    pub(crate) fn leaves(&self) -> Leaves {
        Leaves(self.records.iter().map(|record| leaf_hash(record.as_bytes())).collect())
    }

    pub(crate) fn size(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn checkpoint(&self, size: u64, keys: &[&CheckpointKey]) -> String {
        let Ok(root) = tree::root(&self.leaves(), size);
        Checkpoint { origin: self.origin(), size, root }.sign(keys)
    }

    pub(crate) fn proved(&self, index: u64, size: u64, key: &CheckpointKey) -> Proved {
        let Ok(hashes) = tree::inclusion(&self.leaves(), index, size);
        let checkpoint = self.checkpoint(size, &[key]);
        let record = RecordView::parse(self.records[usize::try_from(index).unwrap()].clone()).unwrap();
        Proved { record, proof: TlogProof { extra: None, index, hashes, checkpoint } }
    }

    /// The proof file of the request that ran a tool.
    pub(crate) fn proof_file(&self) -> ProofFile {
        let proofs = vec![self.proved(3, self.size(), &key()), self.proved(4, self.size(), &key())];
        ProofFile {
            kernel_id: self.kernel_id.into(),
            request_id: Some("r1".into()),
            key: Some(self.vkey(&key())),
            proofs,
            rotations: vec![],
        }
    }

    /// The bundle of the records `start..end`, with the checkpoint of `size`.
    pub(crate) fn bundle(&self, start: u64, end: u64, size: u64) -> Value {
        let Ok(sides) = tree::range(&self.leaves(), start, end, size);
        let hex = |hashes: &[Hash]| hashes.iter().map(|hash| HexHash::of(hash).as_str().to_owned()).collect::<Vec<_>>();
        let within = &self.records[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        let entries: Vec<Value> = within
            .iter()
            .filter_map(|record| {
                let record = RecordView::parse(record.clone()).unwrap();
                let seq = record.entry()?.ledger_seq;
                Some(exported(&self.entries[usize::try_from(seq).unwrap()]))
            })
            .collect();
        let root_hash = entries.last().map_or(json!(GENESIS_HASH), |entry| entry["entry_hash"].clone());
        let mut bundle = json!({
            "first_index": start, "before": hex(&sides.before), "entry_count": entries.len(),
            "ledger_entries": entries, "root_hash": root_hash, "exported_at_ms": 5, "kernel_id": self.kernel_id,
            "variant": "strict", "after": hex(&sides.after),
            "records": within.iter().map(|text| serde_json::from_str(text).unwrap()).collect::<Vec<Value>>(),
            "checkpoint": self.checkpoint(size, &[&key()]), "key": self.vkey(&key()).to_string(), "rotations": [],
        });
        if let Some(first) = entries.first().filter(|entry| entry["ledger_seq"] != 0) {
            bundle["continues"] = json!({"ledger_seq": first["ledger_seq"], "prev_hash": first["prev_hash"]});
        }
        bundle
    }

    pub(crate) fn whole(&self) -> Value {
        self.bundle(0, self.size(), self.size())
    }
}

fn entry(request_id: &str, decision: &str) -> Entry {
    let text = json!({
        "ledger_seq": 0, "prev_hash": "", "entry_hash": "", "ts_ms": 1000, "request_id": request_id,
        "actor": "agent-7", "intent": "say \"hello\"", "decision": decision, "state_from": "IDLE",
        "state_to": if decision == "HALT" { "HALTED" } else { "IDLE" },
        "error": if decision == "DENY" { json!("no") } else { json!(null) },
    });
    Entry::parse(&text.to_string()).unwrap()
}

/// An entry in the form of a bundle.
pub(crate) fn exported(entry: &Entry) -> Value {
    let mut data: Value = serde_json::from_str(&entry.canonical()).unwrap();
    data["ledger_seq"] = json!(entry.ledger_seq);
    data["prev_hash"] = json!(entry.prev_hash);
    data["entry_hash"] = json!(entry.entry_hash);
    data
}

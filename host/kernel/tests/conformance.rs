//! Replays the recorded runs of the KERNELS package and compares every receipt, entry and bundle.
//!
//! What belongs here: only comparison with `tests/data/kernels`. The two tools and the loop stand in for the host.

use gavel_kernel::{
    bundle::{ChainError, EvidenceBundle, verify_bundle},
    entry::{Entry, EntryData, GENESIS_HASH},
    json,
    judge::{Judgement, Law, Verdict, judge, tool_failure, unregistered_tool},
    jurisdiction::Jurisdiction,
    permit::{Keyring, MemoryPermitUses},
    receipt::{Receipt, Status},
    request::{Request, ToolCall},
    variant::Variant,
};
use serde_json::{Value, from_value};
use std::{fs, path::Path};

fn scenarios(file: &str) -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/kernels");
    let text = fs::read_to_string(Path::new(folder).join(file)).expect("recorded data");
    text.lines().map(|line| json::parse(line.as_bytes()).expect("JSON")).collect()
}

fn field<T: serde::de::DeserializeOwned>(value: &Value, name: &str) -> T {
    from_value(value[name].clone()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn law_of(scenario: &Value) -> Law {
    let variant: Variant = field(scenario, "variant");
    let policy: Jurisdiction = field(scenario, "policy");
    let keyring = scenario.get("keyring").map(|keys| {
        let keys = keys.as_object().expect("key ids to secrets");
        Keyring::from_hex(keys.iter().map(|(id, hex)| (id, hex.as_str().expect("hex")))).expect("valid keys")
    });
    Law { max_intent_length: field(&scenario["config"], "max_intent_length"), keyring, ..Law::new(variant, policy) }
}

fn run_tool(call: &ToolCall) -> Result<Value, String> {
    let integer = |name: &str| call.params[name].as_i64().ok_or_else(|| tool_failure("not an integer"));
    match call.name.as_str() {
        "echo" => Ok(call.params["text"].clone()),
        "add" => Ok((integer("a")? + integer("b")?).into()),
        name => Err(unregistered_tool(name)),
    }
}

/// A kernel in miniature: judges, runs the tool, chains the entries.
struct Kernel {
    law: Law,
    uses: MemoryPermitUses,
    entries: Vec<Entry>,
}

impl Kernel {
    fn submit(&mut self, request: &Request, now_ms: u64) -> Receipt {
        let Judgement { verdict, permit, .. } = judge(&self.law, request, now_ms, &mut self.uses);
        let permit = permit.as_ref();
        if let Verdict::Denied { error, .. } = verdict {
            let data = EntryData::denied(request, now_ms, error, permit);
            return self.record(data, Status::Rejected, None);
        }
        match request.tool_call().map(run_tool).transpose() {
            Ok(result) => self.record(EntryData::allowed(request, now_ms, permit), Status::Accepted, result),
            Err(error) => self.record(EntryData::failed(request, now_ms, error), Status::Failed, None),
        }
    }

    fn record(&mut self, data: EntryData, status: Status, result: Option<Value>) -> Receipt {
        let prev_hash = self.entries.last().map_or(GENESIS_HASH, |entry| &entry.entry_hash);
        let entry = data.seal(self.entries.len() as u64, prev_hash);
        let receipt = Receipt::for_entry(&entry, status, result);
        self.entries.push(entry);
        receipt
    }

    fn step(&mut self, step: &Value) -> Receipt {
        let clock_ms: u64 = field(step, "clock_ms");
        if let Some(reason) = step.get("halt") {
            let data = EntryData::halt(reason.as_str().expect("a reason"), clock_ms);
            return self.record(data, Status::Accepted, None);
        }
        let mut body = step["request"].clone();
        if let Some(permit) = step.get("permit") {
            body["permit"] = permit.clone();
        }
        let request = Request::from_value(body, clock_ms).expect("a recorded request");
        self.submit(&request, clock_ms)
    }
}

/// Replays one scenario and returns how many steps it had.
fn replay(scenario: &Value) -> usize {
    let name = &scenario["name"];
    let mut kernel = Kernel { law: law_of(scenario), uses: MemoryPermitUses::default(), entries: Vec::new() };
    let steps = scenario["steps"].as_array().expect("steps");
    for (index, step) in steps.iter().enumerate() {
        let receipt = serde_json::to_value(kernel.step(step)).expect("JSON");
        assert_eq!(receipt, step["receipt"], "{name} step {index}");
    }
    let exported_at_ms = steps.last().map_or(0, |step| field::<u64>(step, "clock_ms")) + 1;
    let kernel_id: String = field(scenario, "kernel_id");
    let mut bundle = EvidenceBundle::new(kernel_id, kernel.law.variant, kernel.entries, exported_at_ms);
    bundle.entry_count = None;
    let bundle = serde_json::to_value(&bundle).expect("JSON");
    assert_eq!(bundle, scenario["evidence"], "{name}");
    steps.len()
}

fn replay_all(file: &str) -> (usize, usize) {
    let scenarios = scenarios(file);
    (scenarios.len(), scenarios.iter().map(replay).sum())
}

#[test]
fn decisions_are_the_recorded_ones() {
    assert_eq!(replay_all("decisions.jsonl"), (120, 2245));
}

#[test]
fn permits_are_the_recorded_ones() {
    assert_eq!(replay_all("permits.jsonl"), (40, 698));
}

#[test]
fn recorded_bundles_verify() {
    for scenario in scenarios("decisions.jsonl").iter().chain(&scenarios("permits.jsonl")) {
        let bundle: EvidenceBundle = field(scenario, "evidence");
        let verification = verify_bundle(&bundle).unwrap_or_else(|error| panic!("{}: {error}", scenario["name"]));
        assert_eq!(verification.entries_verified, bundle.ledger_entries.len() as u64);
        assert_eq!(verification.root_hash, bundle.root_hash);
    }
}

/// A change to any hashed or chaining field of any entry must be found, at that entry.
#[test]
fn any_damage_to_a_recorded_entry_is_found() {
    let scenario = &scenarios("permits.jsonl")[0];
    let intact = &scenario["evidence"];
    let entries = intact["ledger_entries"].as_array().expect("entries");
    for (index, entry) in entries.iter().enumerate() {
        for (key, value) in entry.as_object().expect("object") {
            let Some(damaged_value) = damaged(key, value) else {
                continue;
            };
            let mut evidence = intact.clone();
            evidence["ledger_entries"][index][key] = damaged_value;
            let bundle: EvidenceBundle = from_value(evidence).expect("still a bundle");
            let error = verify_bundle(&bundle).expect_err(key);
            assert_eq!(place(&error), Some(bundle.ledger_entries[index].ledger_seq), "{key}: {error}");
        }
    }
}

fn damaged(key: &str, value: &Value) -> Option<Value> {
    match (key, value) {
        ("state_from" | "state_to", _) => Some("AUDITING".into()),
        ("decision" | "permit_verification", word) => Some(if word == "ALLOW" { "DENY" } else { "ALLOW" }.into()),
        ("permit_denial_reasons", _) => Some(Value::Array(vec!["X".into()])),
        ("permit_max_executions", _) => Some(99.into()),
        (_, Value::Number(number)) => Some((number.as_u64()? + 1).into()),
        (_, Value::String(text)) => Some(format!("{text}x").into()),
        (_, Value::Null) => Some("x".into()),
        _ => None,
    }
}

fn place(error: &ChainError) -> Option<u64> {
    match error {
        ChainError::Sequence { found, .. } => Some(*found),
        ChainError::PrevHash { ledger_seq, .. } | ChainError::EntryHash { ledger_seq, .. } => Some(*ledger_seq),
        _ => None,
    }
}

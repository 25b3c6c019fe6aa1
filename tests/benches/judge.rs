//! What the law costs: judging a typical request, beside parsing its body.
//!
//! Reference in the same run: `serde_json` parsing the same bytes into a `Value`, the least that
//! any server must do. Goal: `judge` at most 2 µs.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod measure;

use gavel_kernel::{EntryData, GENESIS_HASH, Jurisdiction, Law, MemoryPermitUses, Request, Variant, json, judge};
use measure::{cpu_per_call, row};
use std::hint::black_box;

const BODY: &[u8] = br#"{"request_id": "req-000123", "ts_ms": 1705171200000, "actor": "agent-001",
    "intent": "Read the quarterly report and summarise it for the board",
    "tool_call": {"name": "read_file", "params": {"path": "reports/2025/q1.md", "max_bytes": 65536}},
    "params": {"constraints": {"scope": "reports", "non_goals": ["writing"], "success_criteria": ["a summary"]}},
    "evidence": ["ticket-4711"]}"#;

fn main() {
    let jurisdiction = Jurisdiction {
        allowed_actors: vec!["agent-001".into(), "agent-002".into()],
        allowed_tools: vec!["search".into(), "read_file".into()],
        ..Jurisdiction::default()
    };
    let law = Law::new(Variant::DualChannel, jurisdiction);
    let now_ms = 1_705_171_200_500;
    let mut uses = MemoryPermitUses::default();
    let value = json::parse(BODY).expect("the body is JSON");
    let request = Request::from_value(value.clone(), now_ms).expect("the body is a request");
    assert_eq!(judge(&law, &request, now_ms, &mut uses).verdict, gavel_kernel::Verdict::Cleared);

    let reference =
        cpu_per_call(200_000, || drop(black_box(serde_json::from_slice::<serde_json::Value>(black_box(BODY)))));
    row("reference: serde_json parses the body", reference, reference);
    row("parse strictly", cpu_per_call(200_000, || drop(black_box(json::parse(black_box(BODY))))), reference);
    row(
        "judge (goal 2 us)",
        cpu_per_call(200_000, || drop(black_box(judge(&law, &request, now_ms, &mut uses)))),
        reference,
    );
    let entry =
        cpu_per_call(100_000, || drop(black_box(EntryData::allowed(&request, now_ms, None).seal(0, GENESIS_HASH))));
    row("entry: canonical JSON and two hashes", entry, reference);
}

//! What callers send: JSON, and requests made of it.

use crate::Target;
use gavel_kernel::json::{canonical, parse};
use gavel_kernel::{EntryData, Jurisdiction, Law, MemoryPermitUses, Request, Variant, Verdict, judge};
use serde_json::Value;

const NOW_MS: u64 = 1_700_000_000_000;

const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\ud83d\\ude00",
    "null",
    "true",
    "1e-400",
    "1E400",
    "-0",
    "0.1",
    "\"request_id\":",
    "\"params\":",
    "\"ts_ms\":",
    "\u{1F600}",
    "\u{7f}",
    "$serde_json::private::Number",
];

/// The strict reader and the canonical writer.
pub const JSON: Target = Target { name: "json", seeds, words: WORDS, run: json, cost: 1 };

/// A request, judged and written into an entry.
pub const REQUEST: Target = Target { name: "request", seeds, words: WORDS, run: request, cost: 2 };

fn seeds() -> Vec<Vec<u8>> {
    let deep = format!("{}1{}", "[".repeat(119), "]".repeat(119));
    [
        r#"{"request_id":"r-1","actor":"agent-001","intent":"Look around","ts_ms":1700000000000}"#,
        r#"{"request_id":"r-2","actor":"a","intent":"Call","tool_call":{"name":"echo","params":{"text":"x","n":[1,2.5,-0.0]}}}"#,
        r#"{"request_id":7,"actor":null,"intent":{"a":[]},"params":{"k":"v"},"evidence":["a","b"],"constraints":{"k":"v"}}"#,
        r#"{"request_id":"r","actor":"a","intent":"i","permit":{"permit_id":"p","signature":"00","max_executions":1}}"#,
        r#"[0,-1,1.5,1e22,123456789012345678901234567890,0.1e-7,"\u0000\u001f\ud83d\ude00\\\"/",{},[],null,true,false]"#,
        r#" { "b" : 1 , "a" : { "z" : "\u00e4" } , "a" : 2 } "#,
        &deep,
    ]
    .iter()
    .map(|seed| seed.as_bytes().to_vec())
    .collect()
}

fn json(input: &[u8]) {
    let Ok(value) = parse(input) else { return };
    let text = canonical(&value);
    assert!(text.is_ascii(), "what is hashed is ASCII: {text}");
    let again = parse(text.as_bytes()).expect("what was written can be read");
    assert_eq!(canonical(&again), text, "written again it is the same");
    // Another reader sees the same value: it agrees with the text, so nothing was read that was not there.
    let other: Value = serde_json::from_slice(input).expect("the strict reader accepts less than others");
    assert_eq!(canonical(&other), text);
    if value.is_object() {
        gavel_proof::json::check_object(&text).expect("what the kernel writes can stand in a record");
    }
}

fn request(input: &[u8]) {
    let Ok(request) = parse(input).map_err(|_| ()).and_then(|value| Request::from_value(value, NOW_MS).map_err(|_| ()))
    else {
        return;
    };
    let jurisdiction = Jurisdiction::permissive();
    for variant in [Variant::Strict, Variant::Permissive] {
        let law = Law::new(variant, jurisdiction.clone());
        let judged = || judge(&law, &request, NOW_MS, &mut MemoryPermitUses::default());
        let judgement = judged();
        assert_eq!(judgement, judged(), "the law says the same twice");
        let entry = match judgement.verdict {
            Verdict::Denied { error, .. } => EntryData::denied(&request, NOW_MS, error, judgement.permit.as_ref()),
            Verdict::Cleared => EntryData::allowed(&request, NOW_MS, judgement.permit.as_ref()),
        };
        let text = entry.canonical();
        gavel_proof::json::check_object(&text).expect("an entry can stand in a record");
        let read = parse(text.as_bytes()).expect("an entry is JSON");
        assert_eq!(canonical(&read), text, "an entry is canonical");
        assert_eq!(read["request_id"], request.request_id());
    }
}

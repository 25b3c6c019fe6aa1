//! Entries by hand. What each way of ending records is held against the recordings in `tests/conformance.rs`.

use super::*;
use crate::json::{canonical, sha256_hex};
use serde_json::{Value, json};

const NOW_MS: u64 = 1_705_171_200_000;

fn request(extra: &Value) -> Request {
    let mut body = json!({"request_id": "r\u{1}", "actor": "Ågent", "intent": "\"😀\""});
    for (key, value) in extra.as_object().expect("object") {
        body[key] = value.clone();
    }
    Request::from_value(body, NOW_MS).expect("a request")
}

fn findings(verification: PermitVerification, reasons: &[&str]) -> PermitFindings {
    PermitFindings {
        verification,
        reasons: reasons.iter().map(ToString::to_string).collect(),
        digest: Some("d".into()),
        proposal_hash: Some("p".into()),
        nonce: Some("n".into()),
        issuer: Some("i".into()),
        subject: Some("s".into()),
        max_executions: Some(2),
    }
}

/// The fast writer against the general one: an entry without its three chain fields is its data.
fn check_canonical(data: &EntryData) {
    let mut value = json!(data.clone().seal(0, GENESIS_HASH));
    let fields = value.as_object_mut().expect("object");
    for chain_field in ["ledger_seq", "prev_hash", "entry_hash"] {
        fields.remove(chain_field);
    }
    assert_eq!(fields.len(), 19);
    assert_eq!(data.canonical(), canonical(&value));
}

#[test]
fn the_fast_writer_agrees_with_the_general_one() {
    let full = request(&json!({
        "tool_call": {"name": "文"}, "params": {"a": 1.50}, "evidence": ["e", "é"],
    }));
    let allow = findings(PermitVerification::Allow, &[]);
    let deny = findings(PermitVerification::Deny, &["EXPIRED", "FORBIDDEN_PARAM_DETECTED:é"]);
    check_canonical(&EntryData::allowed(&full, NOW_MS, Some(&allow)));
    check_canonical(&EntryData::denied(&full, NOW_MS, "é\n", Some(&deny)));
    check_canonical(&EntryData::failed(&full, NOW_MS, "x"));
    check_canonical(&EntryData::halt("operator stop", 0));
}

#[test]
fn empty_params_and_evidence_have_no_hash() {
    for (extra, params, evidence) in [
        (json!({}), None, None),
        (json!({"params": {}, "evidence": ""}), None, None),
        (json!({"evidence": []}), None, None),
        (json!({"params": {"a": 1.50}, "evidence": " "}), Some(r#"{"a":1.5}"#), Some(r#"{"evidence":" "}"#)),
        (json!({"evidence": ["a", "é"]}), None, Some(r#"{"evidence":["a","\u00e9"]}"#)),
    ] {
        let data = EntryData::allowed(&request(&extra), NOW_MS, None);
        let hash = |text: &str| sha256_hex(text.as_bytes());
        assert_eq!(data.params_hash, params.map(hash), "{extra}");
        assert_eq!(data.evidence_hash, evidence.map(hash), "{extra}");
    }
}

#[test]
fn a_denial_shows_the_permit_only_if_it_was_the_reason() {
    let request = request(&json!({"tool_call": {"name": "echo"}, "params": {"a": 1}}));
    let allow = findings(PermitVerification::Allow, &[]);
    let data = EntryData::denied(&request, NOW_MS, "Jurisdiction denied: x", Some(&allow));
    assert_eq!(data, EntryData::denied(&request, NOW_MS, "Jurisdiction denied: x", None));
    assert_eq!((data.tool_name, data.params_hash, data.permit_digest), (None, None, None));
    let deny = findings(PermitVerification::Deny, &["EXPIRED"]);
    let data = EntryData::denied(&request, NOW_MS, "Permit verification failed: EXPIRED", Some(&deny));
    assert_eq!(data.permit_denial_reasons.as_deref(), Some(&["EXPIRED".to_owned()][..]));
    assert_eq!((data.permit_digest.as_deref(), data.permit_nonce), (Some("d"), None));
}

#[test]
fn the_export_has_every_key_in_order() {
    let entry = EntryData::halt("operator stop", 7).seal(3, GENESIS_HASH);
    let text = serde_json::to_string(&entry).expect("JSON");
    let start = format!(
        "{{\"ledger_seq\":3,\"prev_hash\":\"{GENESIS_HASH}\",\"entry_hash\":\"{}\",\"ts_ms\":7,\
         \"request_id\":\"HALT\",\"actor\":\"SYSTEM\",\"intent\":\"operator stop\",\"decision\":\"HALT\",\
         \"state_from\":\"IDLE\",\"state_to\":\"HALTED\",\"tool_name\":null,",
        entry.entry_hash
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(text.ends_with("\"permit_subject\":null,\"permit_max_executions\":null}"), "{text}");
    assert_eq!(serde_json::from_str::<Entry>(&text).expect("reads back"), entry);
}

#[test]
fn an_entry_with_an_unknown_key_is_refused() {
    let mut value = json!(EntryData::halt("x", 7).seal(0, GENESIS_HASH));
    value["approved_by"] = "ops".into();
    let error = serde_json::from_value::<Entry>(value).expect_err("refused").to_string();
    assert!(error.starts_with("unknown field `approved_by`"), "{error}");
}

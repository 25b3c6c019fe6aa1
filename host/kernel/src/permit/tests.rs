//! The permit stage by table. The recordings cover the package's reasons; here stand ours and the malformed ones.

use super::*;
use serde_json::json;

const NOW_MS: u64 = 1_705_171_200_000;

/// What a row of a table does to the sound case.
type Change<T> = fn(&mut T);

struct Case {
    body: Value,
    permit: Value,
    jurisdiction: Jurisdiction,
    now_ms: u64,
    uses: MemoryPermitUses,
}

impl Case {
    fn new() -> Self {
        let permit = json!({
            "issuer": "operator", "subject": "agent", "jurisdiction": "default", "action": "transfer",
            "params": {}, "constraints": {}, "max_executions": 1, "valid_from_ms": NOW_MS - 1000,
            "valid_until_ms": NOW_MS + 1000, "evidence_hash": "", "proposal_hash": "p", "nonce": "n",
        });
        let body = json!({
            "request_id": "r", "actor": "agent", "intent": "Pay",
            "tool_call": {"name": "transfer", "params": {"amount": 5, "to": "bob"}},
        });
        let jurisdiction = Jurisdiction::permissive();
        Self { body, permit, jurisdiction, now_ms: NOW_MS, uses: MemoryPermitUses::default() }
    }

    /// Signs the permit, lets `tamper` change the result, and verifies.
    fn verify_tampered(&mut self, tamper: impl FnOnce(&mut Value)) -> (PermitFindings, Option<PermitUse>) {
        let keyring = Keyring::from_hex([("key-1", "00112233")]).expect("valid");
        let fields = self.permit.as_object().expect("object").clone();
        let mut permit = Value::Object(keyring.sign("key-1", fields).expect("a known key"));
        tamper(&mut permit);
        self.body["permit"] = permit;
        let request = Request::from_value(self.body.clone(), self.now_ms).expect("a request");
        let check = PermitCheck {
            keyring: &keyring,
            jurisdiction: &self.jurisdiction,
            permit_jurisdiction: "default",
            request: &request,
            call: request.tool_call().expect("a tool call"),
            now_ms: self.now_ms,
        };
        check.verify(&mut self.uses)
    }

    fn reasons(&mut self) -> Vec<String> {
        self.verify_tampered(|_| {}).0.reasons
    }
}

#[test]
fn a_sound_permit_is_allowed_and_counted() {
    let (findings, counted) = Case::new().verify_tampered(|_| {});
    assert!(findings.is_allowed() && findings.error().is_none(), "{findings:?}");
    assert_eq!(findings.max_executions, Some(1));
    assert_eq!(counted.map(|it| (it.nonce, it.used_at_ms)), Some(("n".to_owned(), NOW_MS)));
}

#[test]
fn scope_is_checked() {
    let cases: [(Change<Case>, &[&str]); 12] = [
        (|case| case.now_ms = NOW_MS - 1000, &[]),
        (|case| case.now_ms = NOW_MS - 1001, &["NOT_YET_VALID"]),
        (|case| case.now_ms = NOW_MS + 1000, &[]),
        (|case| case.now_ms = NOW_MS + 1001, &["EXPIRED"]),
        (|case| case.permit["jurisdiction"] = "other".into(), &["JURISDICTION_MISMATCH"]),
        (|case| case.permit["action"] = "echo".into(), &["ACTION_MISMATCH"]),
        (|case| case.jurisdiction.allowed_tools.clear(), &["ACTION_NOT_ALLOWED"]),
        (|case| case.permit["subject"] = "other".into(), &["SUBJECT_MISMATCH"]),
        (|case| case.permit["max_executions"] = 0.into(), &["REPLAY_DETECTED"]),
        (
            |case| case.permit["constraints"] = json!({"forbidden_params": ["a", "to", "amount"]}),
            &["FORBIDDEN_PARAM_DETECTED:to", "FORBIDDEN_PARAM_DETECTED:amount"],
        ),
        (
            |case| case.permit["constraints"] = json!({"forbidden_params": ["to", 1]}),
            &["FORBIDDEN_PARAM_DETECTED:to", "CONSTRAINT_MALFORMED_FORBIDDEN_PARAMS"],
        ),
        (
            |case| case.permit["constraints"] = json!({"forbidden_params": "to"}),
            &["CONSTRAINT_MALFORMED_FORBIDDEN_PARAMS"],
        ),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let mut case = Case::new();
        change(&mut case);
        assert_eq!(case.reasons(), expected, "case {index}");
    }
}

#[test]
fn params_are_compared_with_both_the_requests_and_the_tools() {
    for (permitted, asked, matches) in [
        (json!({}), json!(null), true),
        (json!({"only": 1}), json!(null), true),
        (json!({"amount": 5, "to": "bob"}), json!(null), true),
        (json!({"amount": 5, "to": "eve"}), json!(null), false),
        (json!({"amount": 5}), json!(null), false),
        (json!({"amount": 5.0, "to": "bob"}), json!(null), false),
        (json!({"x": 1.5}), json!({"x": 1.5}), true),
        (json!({"x": 1.5, "y": 2}), json!({"x": 1.5}), true),
        (json!({}), json!({"x": 1}), false),
        (json!({"x": true}), json!({"x": 1}), false),
        (json!({"amount": 5, "to": "bob"}), json!({"to": "eve"}), false),
    ] {
        let mut case = Case::new();
        case.permit["params"] = permitted.clone();
        case.body["params"] = asked.clone();
        let expected: &[&str] = if matches { &[] } else { &["PARAMS_MISMATCH"] };
        assert_eq!(case.reasons(), expected, "{permitted} {asked}");
    }
}

#[test]
fn cryptographic_reasons_end_the_check_and_count_nothing() {
    let cases: [(Change<Value>, &str); 6] = [
        (|permit| permit["key_id"] = "key-2".into(), "UNKNOWN_KEY_ID"),
        (|permit| permit["nonce"] = "fresh".into(), "SIGNATURE_INVALID"),
        (|permit| permit["extra"] = 1.into(), "SIGNATURE_INVALID"),
        (|permit| permit["signature"] = "".into(), "SIGNATURE_INVALID"),
        (|permit| permit["permit_id"] = "0".into(), "SIGNATURE_INVALID"),
        (sign_with_another_id, "PERMIT_ID_MISMATCH"),
    ];
    for (tamper, expected) in cases {
        let mut case = Case::new();
        case.permit["subject"] = "other".into();
        let (findings, counted) = case.verify_tampered(tamper);
        assert_eq!(findings.reasons, [expected]);
        assert!(counted.is_none() && case.uses.is_empty());
    }
}

/// What only a holder of the key can make: a signature over an id that is not the permit's.
fn sign_with_another_id(permit: &mut Value) {
    let keyring = Keyring::from_hex([("key-1", "00112233")]).expect("valid");
    permit["permit_id"] = "0".repeat(64).into();
    let signed = signed_text(permit.as_object().expect("object"));
    let hmac = hmac_hex(&keyring, &signed);
    permit["signature"] = hmac.into();
}

fn hmac_hex(keyring: &Keyring, text: &str) -> String {
    keyring.key("key-1").expect("present").signature(text)
}

#[test]
fn malformed_permits_are_denied_by_field() {
    let cases: [(Change<Value>, &[&str]); 8] = [
        (|permit| *permit = "text".into(), &["PERMIT_MALFORMED"]),
        (|permit| *permit = json!([]), &["PERMIT_MALFORMED"]),
        (|permit| permit["params"] = json!([]), &["PERMIT_MALFORMED:params"]),
        (|permit| permit["max_executions"] = json!(1.5), &["PERMIT_MALFORMED:max_executions"]),
        (|permit| permit["max_executions"] = json!(-1), &["PERMIT_MALFORMED:max_executions"]),
        (|permit| permit["constraints"] = json!(1), &["PERMIT_MALFORMED:constraints"]),
        (|permit| permit["proposal_hash"] = json!(1), &["PERMIT_MALFORMED:proposal_hash"]),
        (
            |permit| {
                permit["nonce"] = json!(null);
                permit["key_id"] = json!(7);
            },
            &["PERMIT_MALFORMED:nonce", "PERMIT_MALFORMED:key_id"],
        ),
    ];
    for (tamper, expected) in cases {
        let (findings, counted) = Case::new().verify_tampered(tamper);
        assert_eq!(findings.reasons, expected);
        assert!(counted.is_none() && !findings.is_allowed());
    }
}

#[test]
fn an_empty_permit_names_every_field_it_lacks() {
    let (findings, _) = Case::new().verify_tampered(|permit| *permit = json!({}));
    assert_eq!(findings.reasons.len(), 12);
    assert_eq!(findings.digest, None);
}

#[test]
fn no_permit_is_missing() {
    let (findings, counted) = Case::new().verify_tampered(|permit| *permit = Value::Null);
    assert_eq!(findings.error().as_deref(), Some("MISSING_PERMIT"));
    assert_eq!((findings.digest, counted), (None, None));
}

#[test]
fn a_use_is_counted_even_when_another_reason_denies() {
    let mut case = Case::new();
    case.body["actor"] = "other".into();
    assert_eq!(case.reasons(), ["SUBJECT_MISMATCH"]);
    case.body["actor"] = "agent".into();
    let (findings, _) = case.verify_tampered(|_| {});
    assert_eq!(findings.error().as_deref(), Some("Permit verification failed: REPLAY_DETECTED"));
}

#[test]
fn a_full_memory_denies_and_counts_nothing() {
    let mut case = Case::new();
    case.uses = MemoryPermitUses::new(0);
    case.permit["max_executions"] = u64::MAX.into();
    let (findings, counted) = case.verify_tampered(|_| {});
    assert_eq!((findings.reasons, counted), (vec!["REPLAY_DETECTED".to_owned()], None));
}

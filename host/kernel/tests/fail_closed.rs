//! Nothing that a stranger can send makes the law panic or lets through what is not allowed.
//!
//! What belongs here: properties of `Request::from_value` and `judge` over arbitrary JSON.

use gavel_kernel::{
    entry::{EntryData, GENESIS_HASH},
    judge::{Law, Verdict, judge},
    jurisdiction::Jurisdiction,
    permit::{Keyring, MemoryPermitUses},
    request::Request,
    variant::Variant,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const NOW_MS: u64 = 1_705_171_200_000;

/// Names that mean something to the law, so that random objects come near to it.
const FIELDS: [&str; 24] = [
    "request_id",
    "ts_ms",
    "actor",
    "intent",
    "tool_call",
    "name",
    "params",
    "evidence",
    "constraints",
    "permit",
    "permit_id",
    "issuer",
    "subject",
    "jurisdiction",
    "action",
    "max_executions",
    "valid_from_ms",
    "valid_until_ms",
    "nonce",
    "signature",
    "key_id",
    "forbidden_params",
    "scope",
    "text",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(agent|echo|key-1|default| |)".prop_map(Value::String),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 48, 8, |inner| {
        let key = prop_oneof![prop::sample::select(&FIELDS[..]).prop_map(str::to_owned), any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(key, inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A sound request in which some fields are replaced or added.
fn request() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(&FIELDS[..10]);
    let changes = prop::collection::vec((field, value()), 0..4);
    changes.prop_map(|changes| {
        let mut body = json!({
            "request_id": "r", "actor": "agent", "intent": "Echo", "evidence": "e",
            "tool_call": {"name": "echo", "params": {"text": "x"}},
            "params": {"constraints": {"scope": "s", "non_goals": [], "success_criteria": "c"}},
        });
        for (field, value) in changes {
            body[field] = value;
        }
        body
    })
}

fn law(variant: Variant, with_keyring: bool) -> Law {
    let policy = Jurisdiction {
        allowed_actors: vec!["agent".into()],
        allowed_tools: vec!["echo".into()],
        ..Jurisdiction::default()
    };
    let keyring = with_keyring.then(|| Keyring::from_hex([("key-1", "0011")]).expect("valid"));
    Law { keyring, ..Law::new(variant, policy) }
}

/// Judges under `law` and asserts what must hold of anything that is cleared.
fn check(law: &Law, body: &Value) {
    let Ok(request) = Request::from_value(body.clone(), NOW_MS) else {
        return;
    };
    let judgement = judge(law, &request, NOW_MS, &mut MemoryPermitUses::new(4));
    let permit = judgement.permit.as_ref();
    let data = match judgement.verdict {
        Verdict::Denied { error, .. } => EntryData::denied(&request, NOW_MS, error, permit),
        Verdict::Cleared => {
            assert_eq!(body["actor"], "agent");
            assert!(request.type_violations().is_empty() && request.ts_ms() >= 0);
            if let Some(call) = request.tool_call() {
                assert_eq!(call.name, "echo");
                assert!(law.keyring.is_none(), "nobody could sign this permit");
            }
            EntryData::allowed(&request, NOW_MS, permit)
        }
    };
    assert!(data.seal(0, GENESIS_HASH).data.canonical().is_ascii());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn changed_requests_are_judged(body in request(), variant in prop::sample::select(&Variant::ALL[..]), keyed: bool) {
        check(&law(variant, keyed), &body);
    }

    #[test]
    fn arbitrary_json_is_judged(body in value(), variant in prop::sample::select(&Variant::ALL[..])) {
        check(&law(variant, false), &body);
    }

    #[test]
    fn any_change_to_a_signed_permit_denies(field in prop::sample::select(&FIELDS[..]), value in value()) {
        let mut law = law(Variant::Strict, true);
        law.jurisdiction.allowed_tools = vec!["*".into()];
        let signed = signed_permit(law.keyring.as_ref().expect("a keyring"));
        let mut permit = signed.clone();
        permit.insert(field.to_owned(), value);
        let body = json!({
            "request_id": "r", "actor": "agent", "intent": "Echo", "permit": permit,
            "tool_call": {"name": "echo", "params": {"text": "x"}},
        });
        let request = Request::from_value(body, NOW_MS).expect("a request");
        let judgement = judge(&law, &request, NOW_MS, &mut MemoryPermitUses::default());
        prop_assert_eq!(judgement.verdict == Verdict::Cleared, permit == signed);
    }
}

fn signed_permit(keyring: &Keyring) -> Map<String, Value> {
    let permit = json!({
        "issuer": "operator", "subject": "agent", "jurisdiction": "default", "action": "echo", "params": {"text": "x"},
        "constraints": {}, "max_executions": 1, "valid_from_ms": NOW_MS, "valid_until_ms": NOW_MS, "nonce": "n",
        "evidence_hash": "", "proposal_hash": "p",
    });
    keyring.sign("key-1", permit.as_object().expect("object").clone()).expect("a known key")
}

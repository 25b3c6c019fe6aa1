//! The stages by table. The recordings cover what the package does; here stands what they do not reach.

use super::*;
use crate::permit::MemoryPermitUses;
use serde_json::json;

const NOW_MS: u64 = 1_705_171_200_000;

fn judged(law: &Law, changes: &Value) -> Judgement {
    let mut body = json!({"request_id": "r", "actor": "agent", "intent": "Say hello"});
    for (key, value) in changes.as_object().expect("object") {
        body[key] = value.clone();
    }
    let request = Request::from_value(body, NOW_MS).expect("a request");
    judge(law, &request, NOW_MS, &mut MemoryPermitUses::default())
}

/// Judges a sound request with `changes`; an empty `expected` means cleared.
fn check(law: &Law, changes: &Value, expected: &str) {
    let error = match judged(law, changes).verdict {
        Verdict::Cleared => String::new(),
        Verdict::Denied { error, .. } => error,
    };
    assert_eq!(error, expected, "{changes}");
}

fn law(variant: Variant) -> Law {
    Law::new(variant, Jurisdiction::permissive())
}

#[test]
fn validation_lists_all_in_order() {
    let law = law(Variant::Strict);
    for (changes, expected) in [
        (json!({}), ""),
        (json!({"request_id": " ", "actor": ""}), "request_id is required; actor is required"),
        (json!({"ts_ms": -1}), "ts_ms must be non-negative"),
        (json!({"tool_call": {}}), "tool_call.name is required"),
        (json!({"tool_call": {"name": null}}), "tool_call.name is required"),
        (json!({"tool_call": {"name": 1}}), "tool_call.name must be a string"),
        (json!({"constraints": {}, "params": {"constraints": 1}}), "constraints and params.constraints differ"),
        (
            json!({
                "request_id": 1, "ts_ms": 1.5, "actor": true, "intent": {}, "tool_call": {"params": 1}, "params": 1,
                "evidence": 1,
            }),
            "request_id must be a string; ts_ms must be an integer; actor must be a string; intent must be a string; \
             tool_call.name is required; tool_call.params must be a dictionary; params must be a dictionary; \
             evidence must be a string or a list of strings",
        ),
    ] {
        let heading = if expected.is_empty() { "" } else { "Validation failed: " };
        check(&law, &changes, &format!("{heading}{expected}"));
    }
}

#[test]
fn a_blank_tool_name_is_ambiguous_unless_permissive() {
    let call = json!({"tool_call": {"name": " "}});
    check(&law(Variant::Strict), &call, "Ambiguity detected: Tool call with empty name is ambiguous");
    check(&law(Variant::Permissive), &call, "Jurisdiction denied: Tool call name is empty");
}

#[test]
fn the_intent_limit_counts_characters_and_is_fixed_when_permissive() {
    let intent = |length: usize| json!({"intent": "é".repeat(length)});
    let mut strict = law(Variant::Strict);
    strict.max_intent_length = 3;
    check(&strict, &intent(3), "");
    check(&strict, &intent(4), "Ambiguity detected: Intent exceeds maximum length of 3");
    let mut permissive = law(Variant::Permissive);
    permissive.max_intent_length = 3;
    permissive.jurisdiction.max_intent_length = 10_000;
    check(&permissive, &intent(8192), "");
    check(&permissive, &intent(8193), "Ambiguity detected: Intent exceeds maximum length of 8192");
}

#[test]
fn jurisdiction_lists_all_in_order() {
    let mut law = law(Variant::Permissive);
    law.jurisdiction = Jurisdiction {
        required_fields: ["params", "evidence", "actor", "evidence"].map(str::to_owned).to_vec(),
        max_param_bytes: 1,
        max_intent_length: 5,
        ..Jurisdiction::default()
    };
    check(
        &law,
        &json!({"tool_call": {"name": "x"}, "params": {}}),
        "Jurisdiction denied: Required field 'evidence' is missing or empty; Required field 'params' is missing or \
         empty; Actor 'agent' is not in allowed actors; Tool 'x' is not in allowed tools; Params size (2 bytes) \
         exceeds maximum (1 bytes); Intent length (9) exceeds maximum (5)",
    );
}

#[test]
fn required_fields_may_be_any_field() {
    for (field, empty, full) in [
        ("ts_ms", json!({"intent": ""}), json!({"ts_ms": 0})),
        ("tool_call", json!({}), json!({"tool_call": {"name": "t"}})),
        ("params", json!({"params": {}}), json!({"params": {"a": null}})),
        ("evidence", json!({"evidence": [" "]}), json!({"evidence": ["", "e"]})),
        ("constraints", json!({"constraints": {}}), json!({"constraints": 0})),
        ("permit", json!({"permit": " "}), json!({"permit": {"a": 1}})),
    ] {
        let mut law = law(Variant::Strict);
        law.jurisdiction.required_fields = vec![field.to_owned()];
        check(&law, &full, "");
        assert_ne!(judged(&law, &empty).verdict, Verdict::Cleared, "{field}");
    }
}

#[test]
fn an_unknown_required_field_denies_everything() {
    let mut law = law(Variant::Strict);
    law.jurisdiction.required_fields = vec!["ticket".to_owned()];
    check(&law, &json!({"ticket": "T-1"}), "Jurisdiction denied: Required field 'ticket' is missing or empty");
}

#[test]
fn only_require_tool_call_requires_one() {
    let mut law = law(Variant::Strict);
    law.jurisdiction.allow_intent_only = false;
    check(&law, &json!({}), "");
    law.jurisdiction.require_tool_call = true;
    law.jurisdiction.allow_intent_only = true;
    check(&law, &json!({}), "Jurisdiction denied: Tool call is required");
    check(&law, &json!({"tool_call": {"name": "x"}}), "");
}

#[test]
fn evidence_first_wants_evidence() {
    let law = law(Variant::EvidenceFirst);
    for (changes, expected) in [
        (json!({}), "Evidence field is required for this kernel variant"),
        (json!({"evidence": null}), "Evidence field is required for this kernel variant"),
        (json!({"evidence": " \n"}), "Evidence field cannot be empty"),
        (json!({"evidence": []}), "Evidence field cannot be empty"),
        (json!({"evidence": ["", " "]}), "Evidence field cannot be empty"),
    ] {
        check(&law, &changes, &format!("Variant requirements not met: {expected}"));
    }
    check(&law, &json!({"evidence": ["evidence-001"]}), "");
}

#[test]
fn dual_channel_wants_constraints_in_either_place() {
    let law = law(Variant::DualChannel);
    for (constraints, expected) in [
        (json!(null), "Constraints dict is required in params"),
        (json!([]), "Constraints must be a dictionary"),
        (json!({}), "Missing required constraint keys: non_goals, scope, success_criteria"),
        (
            json!({"scope": null, "success_criteria": "\t"}),
            "Missing required constraint keys: non_goals; Constraint 'scope' cannot be empty; \
             Constraint 'success_criteria' cannot be empty",
        ),
    ] {
        let expected = format!("Variant requirements not met: {expected}");
        check(&law, &json!({"constraints": constraints}), &expected);
        check(&law, &json!({"params": {"constraints": constraints}}), &expected);
    }
    check(&law, &json!({"constraints": {"scope": "s", "non_goals": [], "success_criteria": 1}}), "");
}

#[test]
fn permits_are_asked_for_only_with_a_keyring_and_a_tool() {
    let mut law = law(Variant::Strict);
    let call = json!({"tool_call": {"name": "echo"}});
    assert_eq!(judged(&law, &call).permit, None);
    law.keyring = Some(Keyring::default());
    check(&law, &json!({}), "");
    check(&law, &call, "MISSING_PERMIT");
    let judgement = judged(&law, &call);
    assert!(matches!(judgement.verdict, Verdict::Denied { stage: Stage::Permit, .. }));
    assert!(judgement.permit.is_some_and(|permit| !permit.is_allowed()));
}

#[test]
fn later_denials_are_worded() {
    assert_eq!(policy_denial("hours", "too late"), "Policy denied: hours: too late");
    assert_eq!(unregistered_tool("x"), "Tool execution failed: Tool 'x' is not registered");
    assert_eq!(Stage::Execution.to_string(), "execution");
    assert_eq!(json!(Stage::Execution), Stage::Execution.as_str());
}

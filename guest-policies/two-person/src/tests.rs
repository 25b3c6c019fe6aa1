//! Tests of the whole judgement, on the machine itself: configuration text and request in, verdict out.

use gavel_policy::counting::MemoryCounters;
use gavel_policy::read_configuration;
use gavel_policy_testing::{ask, block, request, run_shipped, said};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const README: &str = include_str!("../README.md");

fn judge_text(config: &str, request: &Request, _: &mut MemoryCounters) -> Verdict {
    match read_configuration(config, Config::read) {
        Ok(config) => judge(&config, request),
        Err(broken) => broken.into(),
    }
}

fn verdict(config: &str, json: &Value) -> Verdict {
    ask(config, &request(json), &judge_text, &mut MemoryCounters::default())
}

fn with(rule: &str) -> String {
    format!(r#"{{"rules":[{{"tools":["pay"],"approvers":["human:*"]{rule}}}]}}"#)
}

fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Deny(reason) | Verdict::Escalate(reason) => reason,
        other => panic!("no reason: {other:?}"),
    }
}

#[test]
fn the_shipped_tests() {
    assert_eq!(run_shipped(include_str!("../tests.yaml"), &judge_text), 13);
}

#[test]
fn the_example_of_the_readme() {
    let config = block(README, "json");
    let (tool, params) = README
        .lines()
        .find_map(|line| line.strip_suffix("` by `agent:treasury`:"))
        .and_then(|call| call.trim_start_matches('`').split_once(' '))
        .expect("the call");
    let params: Value = serde_json::from_str(params).expect(params);
    let mut rows = 0;
    for row in README.lines().filter_map(|line| line.strip_prefix("| `approved-by")) {
        let (evidence, expected) = row.trim_end_matches(" |").split_once("` | ").expect(row);
        let evidence: Vec<_> = evidence
            .split("` `approved-by")
            .map(|rest| format!("approved-by{}", rest.trim_start_matches("approved-by")))
            .collect();
        let request = json!({
            "actor": "agent:treasury", "tool_call": {"name": tool, "params": params}, "evidence": evidence,
        });
        assert_eq!(said(&verdict(config, &request)), expected, "{row}");
        rows += 1;
    }
    assert_eq!(rows, 5);
}

#[test]
fn configurations_that_are_refused() {
    for (config, expected) in [
        ("null".into(), "expected an object, not null"),
        (r#"{"rules":[]}"#.into(), "`rules`: the list is empty, so it guards nothing"),
        (with(r#","approvals":0"#), "`rules[0].approvals`: 0 is not within 1 to 16"),
        (with(r#","approvals":17"#), "`rules[0].approvals`: 17 is not within 1 to 16"),
        (with(r#","entry":"approved""#), "`rules[0].entry`: 'approved': `{approver}` is missing"),
        (with(r#","on_self":"allow""#), "`rules[0].on_self`: 'allow' is not one of ignore deny"),
        (with(r#","prefix":"ok:""#), {
            "`rules[0]`: unknown setting `prefix`, not one of tools approvals approvers entry on_missing on_self"
        }),
        (with("").replace("human:*", "human:jörg"), {
            "`rules[0].approvers[0]`: 'human:jörg': approvers' names are visible ASCII without spaces"
        }),
    ] {
        let verdict = verdict(&config, &json!({}));
        assert_eq!(reason(&verdict), format!("the policy's configuration is broken: {expected}"));
    }
    assert_eq!(verdict(&with(r#","approvals":16"#), &json!({})), Verdict::Abstain, "a pattern may be of any number");
}

#[test]
fn all_rules_must_agree() {
    let config = json!({"rules": [
        {"tools": ["*"], "approvers": ["human:*"], "approvals": 1},
        {"tools": ["pay"], "approvers": ["human:boss"], "approvals": 1, "on_missing": "deny"},
    ]})
    .to_string();
    let ask =
        |tool: &str, evidence: &[&str]| verdict(&config, &json!({"tool_call": {"name": tool}, "evidence": evidence}));
    assert_eq!(ask("pay", &["approved-by:human:boss"]), Verdict::Allow);
    assert_eq!(ask("read", &["approved-by:human:alice"]), Verdict::Allow);
    assert!(matches!(ask("read", &[]), Verdict::Escalate(_)));
    assert!(matches!(ask("pay", &["approved-by:human:alice"]), Verdict::Deny(_)));
    assert!(matches!(ask("pay", &[]), Verdict::Deny(_)), "a denial counts more than an escalation before it");
}

#[test]
fn an_approval_is_bound_to_parameters_and_to_nothing_less() {
    let config = with(r#","approvals":1,"entry":"ok {/amount}: {approver}""#);
    let ask = |params: Value, evidence: &str| {
        verdict(&config, &json!({"tool_call": {"name": "pay", "params": params}, "evidence": [evidence]}))
    };
    assert_eq!(ask(json!({"amount": 5}), "ok 5: human:alice"), Verdict::Allow);
    assert_eq!(ask(json!({"amount": "5"}), "ok 5: human:alice"), Verdict::Allow);
    assert!(matches!(ask(json!({"amount": 50}), "ok 5: human:alice"), Verdict::Escalate(_)));
    for (params, why) in [
        (json!({}), "tool 'pay' cannot be approved: its parameter '/amount' is missing"),
        (json!({"amount": [5]}), "tool 'pay' cannot be approved: its parameter '/amount' is a list"),
        (json!({"amount": "5: human:bob"}), {
            "tool 'pay' cannot be approved: '5: human:bob' contains ' ', which separates the parts of an approval"
        }),
    ] {
        assert_eq!(ask(params, "ok 5: human:alice"), Verdict::Deny(why.into()));
    }
}

#[test]
fn what_a_caller_writes_makes_short_reasons() {
    let long = "x\n".repeat(3_000);
    let evidence: Vec<_> = (0..500).map(|n| format!("approved-by:{n}{long}")).collect();
    let config = with(r#","on_self":"deny""#).replace("\"pay\"", "\"*\"");
    let verdict = verdict(&config, &json!({"actor": long, "tool_call": {"name": long}, "evidence": evidence}));
    assert!(matches!(&verdict, Verdict::Escalate(why) if why.len() < 1_400), "{verdict:?}");
}

proptest! {
    /// It passes just when so many different people approved, however the entries are ordered and spelt.
    #[test]
    fn people_are_counted_once(
        picks in prop::collection::vec((0_usize..5, any::<bool>(), 0_usize..3), 0..12),
        approvals in 1_usize..4,
    ) {
        let people = ["alice", "bob", "carol", "agent:test", "eve"];
        let spell = |(person, upper, spaces): &(usize, bool, usize)| {
            let prefix = if people[*person].contains(':') { "" } else { "human:" };
            let name = format!("{prefix}{}", people[*person]);
            let name = if *upper { name.to_ascii_uppercase() } else { name };
            format!("approved-by:{}{name}{}", " ".repeat(*spaces), " ".repeat(*spaces))
        };
        let config = json!({"rules": [{
            "tools": ["pay"], "approvals": approvals, "approvers": ["human:alice", "human:bob", "human:c*", "agent:test"],
        }]});
        let evidence: Vec<_> = picks.iter().map(spell).collect();
        let verdict = verdict(&config.to_string(), &json!({"tool_call": {"name": "pay"}, "evidence": evidence}));
        let mut counted: Vec<_> = picks.iter().map(|(person, ..)| *person).filter(|person| *person < 3).collect();
        counted.sort_unstable();
        counted.dedup();
        prop_assert_eq!(verdict == Verdict::Allow, counted.len() >= approvals, "{:?}", evidence);
    }
}

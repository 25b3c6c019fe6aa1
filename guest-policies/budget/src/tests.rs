//! Tests of the whole judgement, on the machine itself: configuration text and requests in, verdicts out.

use gavel_policy::counting::MemoryCounters;
use gavel_policy::{ToolCall, read_configuration};
use gavel_policy_testing::{ask, block, request, run_shipped, said};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const README: &str = include_str!("../README.md");
const DAY_MS: u64 = 86_400_000;

fn judge_text(config: &str, request: &Request, counters: &mut MemoryCounters) -> Verdict {
    match read_configuration(config, Config::read) {
        Ok(config) => judge(&config, request, counters),
        Err(broken) => broken.into(),
    }
}

/// Parameters are text here, so that a test can write what no JSON library would.
fn call(at_ms: u64, tool: &str, params: &str) -> Request {
    let call = ToolCall { name: tool.into(), params: params.into() };
    Request { tool_call: Some(call), ..request(&json!({"now_ms": at_ms, "actor": "agent:payables"})) }
}

fn rule(other: &Value) -> Value {
    let mut rule = json!({"tools": ["pay"], "amount": ["/amount"], "limit": 100, "window_ms": 1_000});
    for (name, value) in other.as_object().expect("settings") {
        rule[name] = value.clone();
    }
    json!({"rules": [rule]})
}

fn add_rule(config: &mut Value, other: &Value) {
    config["rules"].as_array_mut().expect("rules").push(rule(other)["rules"][0].clone());
}

fn one(config: &Value, params: &str) -> Verdict {
    ask(&config.to_string(), &call(0, "pay", params), &judge_text, &mut MemoryCounters::default())
}

fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Deny(reason) => reason,
        other => panic!("not a denial: {other:?}"),
    }
}

#[test]
fn the_shipped_tests() {
    assert_eq!(run_shipped(include_str!("../tests.yaml"), &judge_text), 14);
}

#[test]
fn the_example_of_the_readme() {
    let config = block(README, "json");
    let mut counters = MemoryCounters::default();
    let mut rows = 0;
    for line in README.lines().filter_map(|line| line.strip_prefix("| `")) {
        let Some((tool, rest)) = line.split_once(" {") else { continue };
        let (params, expected) = rest.split_once("` | ").expect(line);
        let verdict = ask(config, &call(rows * 5, tool, &format!("{{{params}")), &judge_text, &mut counters);
        assert_eq!(said(&verdict), expected.trim_end_matches(" |").split(": no rule").next().expect(line), "{line}");
        rows += 1;
    }
    assert_eq!(rows, 9);
    let verdict = ask(config, &call(2 * DAY_MS, "pay_invoice", r#"{"amount":250}"#), &judge_text, &mut counters);
    let Verdict::Escalate(why) = verdict else { panic!("{verdict:?}") };
    assert!(README.contains(&format!("is an escalation: `{why}`")), "{why}");
}

#[test]
fn configurations_that_are_refused() {
    for (other, expected) in [
        (json!({"limit": 0}), ".limit`: it is zero, so nothing could be spent"),
        (json!({"limit": -1}), ".limit`: '-1' is negative"),
        (json!({"limit": "1e3"}), ".limit`: '1e3' is written with an exponent; write all its digits"),
        (json!({"limit": 1.005}), ".limit`: '1.005' has more than 2 digits after the point"),
        (json!({"limit": true}), ".limit`: expected an amount, not true or false"),
        (json!({"limit": "1000000000000000000"}), "is more than 9999999999999999.99, the largest amount"),
        (json!({"scale": 13}), ".scale`: 13 is not within 0 to 12"),
        (json!({"scale": 0, "limit": "1.5"}), "has more than 0 digits after the point"),
        (json!({"per_call_max": 101}), "`per_call_max` is more than `limit`, so it bounds nothing"),
        (json!({"per_call_max": 10, "escalate_above": 10}), "`escalate_above` is not less than"),
        (json!({"on_missing": "ignore"}), ".on_missing`: 'ignore' is not one of deny allow escalate"),
        (json!({"amount": []}), ".amount`: the list is empty, so it guards nothing"),
        (json!({"amount": ["/a~b"]}), "`~` is written `~0`"),
        (json!({"windows_ms": 5}), "unknown setting `windows_ms`"),
    ] {
        let verdict = one(&rule(&other), r#"{"amount":1}"#);
        assert!(reason(&verdict).starts_with("the policy's configuration is broken: `rules[0]"), "{verdict:?}");
        assert!(reason(&verdict).contains(expected), "{verdict:?}");
    }
    let same = rule(&json!({}))["rules"][0].clone();
    let twice = json!({"rules": [same.clone(), same]});
    assert!(reason(&one(&twice, "{}")).ends_with("`rules[1]` counts the same as `rules[0]`; keep one of them"));
}

#[test]
fn amounts_that_are_denied_whatever_is_missing() {
    let config = rule(&json!({"amount": ["/missing", "/amount", "/items/*/price"], "on_missing": "allow"}));
    for (params, why) in [
        (r#"{"amount":"5 "}"#, "its parameter 'amount' is not a decimal number like 12.50"),
        (r#"{"amount":null}"#, "its parameter 'amount' is null, not an amount"),
        (r#"{"amount":{"amount":1}}"#, "its parameter 'amount' is an object, not an amount"),
        (r#"{"amount":-0}"#, "its parameter 'amount' is negative"),
        (r#"{"amount":1E2}"#, "its parameter 'amount' is written with an exponent; write all its digits"),
        (r#"{"amount":1,"amount":-1}"#, "its parameter 'amount' is negative"),
        (r#"{"items":[{"price":1},{"price":true}]}"#, "its parameter '/items/1/price' is true or false, not an amount"),
        (r#"{"items":[3]}"#, "its parameter '/items/0' is a number, and no amount can be in it"),
        (
            r#"{"amount":9999999999999999.99,"items":[{"price":0.01}]}"#,
            "its parameter '/items/0/price' makes the sum more than the largest amount",
        ),
    ] {
        assert_eq!(reason(&one(&config, params)), format!("tool 'pay': {why}"), "{params}");
    }
    assert!(reason(&one(&config, "[")).starts_with("the parameters of tool 'pay' cannot be read: not JSON"));
}

#[test]
fn what_may_be_missing() {
    let config = |on_missing: &str| rule(&json!({"amount": ["/amount", "/tip"], "on_missing": on_missing}));
    assert_eq!(one(&config("allow"), r#"{"amount":5}"#), Verdict::Allow);
    assert_eq!(one(&config("allow"), "{}"), Verdict::Abstain);
    assert!(reason(&one(&config("deny"), r#"{"amount":5}"#)).ends_with("in its parameter 'tip'"));
    assert!(matches!(one(&config("escalate"), r#"{"tip":5}"#), Verdict::Escalate(why) if why.ends_with("'amount'")));
    // A denial of any rule comes before an escalation of another.
    let mut both = config("escalate");
    add_rule(&mut both, &json!({"limit": 1}));
    assert!(reason(&one(&both, r#"{"amount":5}"#)).contains("the whole budget is 1.00"));
}

#[test]
fn nothing_is_spent_unless_every_rule_has_room() {
    let mut config = rule(&json!({}));
    add_rule(&mut config, &json!({"limit": 10, "per": ["kernel"]}));
    let config = config.to_string();
    let mut counters = MemoryCounters::default();
    let mut pay = |params: &str| ask(&config, &call(0, "pay", params), &judge_text, &mut counters);
    assert_eq!(pay(r#"{"amount":10}"#), Verdict::Allow);
    for _ in 0..20 {
        assert!(reason(&pay(r#"{"amount":5}"#)).contains("0.00 of 10.00 are left: 10.00 were spent in this kernel"));
    }
    let wider = config.replace("\"limit\":10,", "\"limit\":100,");
    let verdict = ask(&wider, &call(0, "pay", r#"{"amount":90}"#), &judge_text, &mut counters);
    assert_eq!(verdict, Verdict::Allow, "neither count holds more than the 10 that passed");
}

#[test]
fn as_many_rules_as_are_taken_stay_within_the_hosts_calls() {
    let one = rule(&json!({}))["rules"][0].clone();
    let rules: Vec<_> = (1..=24)
        .map(|n| {
            let mut rule = one.clone();
            rule["window_ms"] = json!(n);
            rule["limit"] = json!(if n == 24 { 50 } else { 500 });
            rule
        })
        .collect();
    let config = json!({ "rules": rules }).to_string();
    let mut counters = MemoryCounters::default();
    let mut pay = || ask(&config, &call(0, "pay", r#"{"amount":40}"#), &judge_text, &mut counters);
    assert_eq!(pay(), Verdict::Allow);
    assert!(reason(&pay()).contains("10.00 of 50.00 are left"));
}

/// Counters to which another decision adds between every two of our calls.
struct Contended(MemoryCounters);

impl Counters for Contended {
    fn read(&mut self, key: &str, window_ms: u64) -> u64 {
        let sum = self.0.read(key, window_ms);
        self.0.add(key, 1, window_ms);
        sum
    }

    fn add(&mut self, key: &str, amount: u64, window_ms: u64) -> u64 {
        self.0.add(key, amount, window_ms)
    }
}

#[test]
fn what_others_spend_meanwhile_counts() {
    let config = read_configuration(&rule(&json!({})).to_string(), Config::read).expect("a configuration");
    let judge = |amount: &str| {
        let request = call(0, "pay", &format!(r#"{{"amount":{amount}}}"#));
        judge(&config, &request, &mut Contended(MemoryCounters::default()))
    };
    assert_eq!(judge("99.99"), Verdict::Allow);
    let verdict = judge("100.00");
    assert_eq!(
        reason(&verdict),
        "tool 'pay' asks for 100.00, and others spent what was left at the same time; try again"
    );
}

#[test]
fn hostile_names_make_short_reasons() {
    let config = r#"{"rules":[{"tools":["*"],"amount":["/*/*"],"limit":1,"window_ms":5,"per":["actor","tool"]}]}"#;
    let long = "x\n".repeat(2_000);
    let params = json!({ long.as_str(): { long.as_str(): long.as_str() } }).to_string();
    let verdict = ask(config, &call(0, &long, &params), &judge_text, &mut MemoryCounters::default());
    assert!(reason(&verdict).len() < 600);
}

proptest! {
    /// Whatever is asked for and when: no window holds more than the limit, and what fits passes.
    #[test]
    fn no_window_holds_more_than_the_limit(
        mut calls in prop::collection::vec((0_u64..5_000, 0_u64..6_000), 1..40),
        limit in 1_u64..10_000,
        window_ms in 1_u64..2_000,
    ) {
        calls.sort_unstable();
        let cents = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
        let config = rule(&json!({"limit": cents(limit), "window_ms": window_ms})).to_string();
        let mut counters = MemoryCounters::default();
        let mut passed: Vec<(u64, u64)> = Vec::new();
        for (at, amount) in calls {
            let params = json!({"amount": cents(amount)}).to_string();
            let verdict = ask(&config, &call(at, "pay", &params), &judge_text, &mut counters);
            let recent = passed.iter().filter(|(time, _)| *time + window_ms > at);
            let spent: u64 = recent.map(|(_, amount)| amount).sum();
            prop_assert_eq!(verdict == Verdict::Allow, spent + amount <= limit, "{:?} after {}", verdict, spent);
            if verdict == Verdict::Allow {
                passed.push((at, amount));
            }
        }
    }
}

//! Tests of the whole judgement, on the machine itself: configuration text and requests in, verdicts out.

use std::collections::VecDeque;

use gavel_policy::counting::MemoryCounters;
use gavel_policy::read_configuration;
use gavel_policy_testing::{ask, block, request, run_shipped, said};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const README: &str = include_str!("../README.md");

fn judge_text(config: &str, request: &Request, counters: &mut MemoryCounters) -> Verdict {
    match read_configuration(config, Config::read) {
        Ok(config) => judge(&config, request, counters),
        Err(broken) => broken.into(),
    }
}

fn call(at_ms: u64, tool: &str) -> Request {
    request(&json!({"now_ms": at_ms, "tool_call": {"name": tool}, "evidence": ["session:1"]}))
}

/// The verdicts on calls of these tools at these times, in one session.
fn verdicts(config: &Value, calls: &[(u64, &str)]) -> Vec<Verdict> {
    let mut counters = MemoryCounters::default();
    let mut ask = |at, tool| ask(&config.to_string(), &call(at, tool), &judge_text, &mut counters);
    calls.iter().map(|(at, tool)| ask(*at, tool)).collect()
}

fn passed(verdicts: &[Verdict]) -> String {
    verdicts
        .iter()
        .map(|verdict| if matches!(verdict, Verdict::Allow | Verdict::Abstain) { '+' } else { '-' })
        .collect()
}

fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Deny(reason) | Verdict::Escalate(reason) => reason,
        other => panic!("no reason: {other:?}"),
    }
}

#[test]
fn the_shipped_tests() {
    assert_eq!(run_shipped(include_str!("../tests.yaml"), &judge_text), 9);
}

#[test]
fn the_example_of_the_readme() {
    let config = block(README, "json");
    let mut counters = MemoryCounters::default();
    let mut rows = 0;
    for row in README.lines().filter_map(|line| line.strip_prefix("| 10:")) {
        let mut cells = row.trim_end_matches(" |").splitn(3, " | ");
        let mut next = || cells.next().expect(row);
        let (minute, call, expected) = (next(), next(), next());
        let mut quoted = call.split('`').skip(1).step_by(2);
        let request = request(&json!({
            "now": format!("2026-01-05T10:{minute}:00Z"), "actor": "agent:support",
            "tool_call": {"name": quoted.next()}, "evidence": quoted.collect::<Vec<_>>(),
        }));
        assert_eq!(said(&ask(config, &request, &judge_text, &mut counters)), expected, "{row}");
        rows += 1;
    }
    assert_eq!(rows, 10);
}

#[test]
fn configurations_that_are_refused() {
    let rule = |text: &str| format!(r#"{{"rules":[{{"tools":["b"],"within_ms":9{text}}}]}}"#);
    for (config, expected) in [
        ("null".into(), "expected an object, not null"),
        (rule(""), "`rules[0]`: exactly one of `after` and `never_after` is needed"),
        (
            rule(r#","after":["a"],"never_after":["c"]"#),
            "`rules[0]`: exactly one of `after` and `never_after` is needed",
        ),
        (rule(r#","after":[]"#), "`rules[0].after`: the list is empty, so it guards nothing"),
        (rule(r#","never_after":["a"],"at_most":1"#), "`rules[0]`: `at_most` belongs to `after`, not to `never_after`"),
        (rule(r#","after":["a"],"at_most":0"#), "`rules[0].at_most`: 0 is not within 1 to 1000000"),
        (rule(r#","after":["a"],"per":["tool"]"#), {
            "`rules[0].per`: 'tool' cannot be here: a rule is about more than one tool"
        }),
        (rule(r#","after":["a"],"otherwise":"allow""#), "`rules[0].otherwise`: 'allow' is not one of deny escalate"),
        (rule(r#","after":["a"]},{"tools":["b"],"within_ms":9,"after":["a"],"at_most":2"#), {
            "`rules[1]` is about the same as `rules[0]`; keep one of them"
        }),
    ] {
        let verdict = judge_text(&config, &call(0, "x"), &mut MemoryCounters::default());
        assert_eq!(reason(&verdict), format!("the policy's configuration is broken: {expected}"));
    }
    let two = rule(r#","after":["a"]},{"tools":["b"],"within_ms":9,"never_after":["a"]"#);
    assert_eq!(judge_text(&two, &call(0, "x"), &mut MemoryCounters::default()), Verdict::Abstain);
}

fn once(other: &Value) -> Value {
    let mut rule = json!({"tools": ["b"], "after": ["a"], "within_ms": 1_000, "at_most": 1});
    for (name, value) in other.as_object().expect("settings") {
        rule[name] = value.clone();
    }
    json!({ "rules": [rule] })
}

#[test]
fn a_use_of_an_earlier_call_that_has_left_does_not_count_against_a_new_one() {
    // The use at 900 is in the window still, the call that it used is not.
    assert_eq!(
        passed(&verdicts(&once(&json!({})), &[(0, "a"), (900, "b"), (1_100, "a"), (1_200, "b"), (1_300, "b")])),
        "++++-"
    );
    // Both approvals are used, and the second is not good for another when the first has left.
    assert_eq!(
        passed(&verdicts(&once(&json!({})), &[(0, "a"), (500, "a"), (600, "b"), (700, "b"), (1_100, "b")])),
        "++++-"
    );
}

#[test]
fn what_is_denied_is_not_remembered() {
    let chain = json!({"rules": [
        {"tools": ["b"], "after": ["a"], "within_ms": 1_000},
        {"tools": ["c"], "after": ["b"], "within_ms": 1_000},
    ]});
    assert_eq!(passed(&verdicts(&chain, &[(0, "b"), (1, "c"), (2, "a"), (3, "c"), (4, "b"), (5, "c")])), "--+-++");
}

#[test]
fn what_escalates_taints_but_permits_nothing() {
    let rules = json!({"rules": [
        {"tools": ["a"], "after": ["login"], "within_ms": 1_000, "otherwise": "escalate"},
        {"tools": ["b"], "after": ["a"], "within_ms": 1_000},
        {"tools": ["c"], "never_after": ["a"], "within_ms": 1_000},
    ]});
    let verdicts = verdicts(&rules, &[(0, "c"), (1, "a"), (2, "b"), (3, "c")]);
    assert!(matches!(verdicts[1], Verdict::Escalate(_)));
    assert_eq!(passed(&verdicts), "+---");
    assert!(reason(&verdicts[3]).contains("may not be called after a"));
}

#[test]
fn a_use_is_taken_only_when_every_rule_lets_the_call_pass() {
    let mut rules = once(&json!({}));
    rules["rules"].as_array_mut().expect("rules").push(json!({"tools": ["b"], "after": ["c"], "within_ms": 1_000}));
    assert_eq!(passed(&verdicts(&rules, &[(0, "a"), (1, "b"), (2, "b"), (3, "c"), (4, "b"), (5, "b")])), "+--++-");
}

#[test]
fn a_tool_may_taint_itself() {
    let rule = json!({"rules": [{"tools": ["*"], "never_after": ["read_*"], "within_ms": 1_000}]});
    assert_eq!(passed(&verdicts(&rule, &[(0, "send"), (1, "read_x"), (2, "read_x"), (3, "send")])), "++--");
}

#[test]
fn four_rules_with_at_most_stay_within_the_hosts_calls() {
    let mut rules = Vec::new();
    for n in 0..4 {
        rules.push(once(&json!({"within_ms": 100_000 + n}))["rules"][0].clone());
    }
    let mut calls: Vec<_> = (0..40).map(|n| (n * 10_007, if n % 2 == 0 { "a" } else { "b" })).collect();
    calls.push((400_300, "b"));
    let verdicts = verdicts(&json!({ "rules": rules }), &calls);
    assert_eq!(passed(&verdicts), format!("{}-", "+".repeat(40)));
}

/// Counters to which another decision adds between every two of our calls.
struct Contended(MemoryCounters);

impl Counters for Contended {
    fn read(&mut self, key: &str, window_ms: u64) -> u64 {
        let sum = self.0.read(key, window_ms);
        if key.starts_with("used") {
            self.0.add(key, 1, window_ms);
        }
        sum
    }

    fn add(&mut self, key: &str, amount: u64, window_ms: u64) -> u64 {
        self.0.add(key, amount, window_ms)
    }
}

#[test]
fn what_others_use_meanwhile_counts() {
    let config = read_configuration(&once(&json!({})).to_string(), Config::read).expect("a configuration");
    let mut counters = Contended(MemoryCounters::default());
    assert_eq!(judge(&config, &call(0, "a"), &mut counters), Verdict::Abstain);
    assert!(reason(&judge(&config, &call(0, "b"), &mut counters)).ends_with("is used up"));
}

#[test]
fn hostile_names_make_short_reasons_and_keys_of_their_own() {
    let config = json!({"rules": [{"tools": ["*"], "after": ["a*"], "within_ms": 1_000}]}).to_string();
    let mut counters = MemoryCounters::default();
    let mut ask = |session: &str, tool: &str| {
        let evidence = format!("session:{}{session}", "|\n".repeat(3_000));
        let request = request(&json!({"tool_call": {"name": tool}, "evidence": [evidence]}));
        ask(&config, &request, &judge_text, &mut counters)
    };
    assert_eq!(ask("1", "a"), Verdict::Abstain);
    assert_eq!(ask("1", "b"), Verdict::Allow);
    let verdict = ask("2", &"b\n".repeat(3_000));
    assert!(reason(&verdict).len() < 1_000, "{verdict:?}");
}

proptest! {
    /// The calls that passed can be shared out among the earlier ones; and a call before which nothing was used passes.
    #[test]
    fn no_earlier_call_is_good_for_more_than_its_number(
        mut calls in prop::collection::vec((0_u64..6_000, any::<bool>()), 1..60),
        at_most in 1_usize..4,
        within_ms in 1_u64..2_000,
    ) {
        calls.sort_by_key(|(at, _)| *at);
        let config = once(&json!({"at_most": at_most, "within_ms": within_ms}));
        let named: Vec<_> = calls.iter().map(|(at, guarded)| (*at, if *guarded { "b" } else { "a" })).collect();
        let verdicts = verdicts(&config, &named);
        // Earlier calls and what they are still good for, oldest first. Giving out the oldest is never worse: it is
        // the first to leave.
        let mut good: VecDeque<(u64, usize)> = VecDeque::new();
        let mut last_use = None;
        for ((at, guarded), verdict) in calls.iter().zip(&verdicts) {
            good.retain(|(time, left)| *time + within_ms > *at && *left > 0);
            if !guarded {
                good.push_back((*at, at_most));
            } else if *verdict == Verdict::Allow {
                let oldest = good.front_mut();
                prop_assert!(oldest.is_some(), "a call at {} had nothing to use", at);
                oldest.expect("there is one").1 -= 1;
                last_use = Some(*at);
            } else {
                let unused = last_use.is_none_or(|time| time + within_ms <= *at);
                prop_assert!(good.is_empty() || !unused, "a call at {} was denied though nothing was used", at);
            }
        }
    }
}

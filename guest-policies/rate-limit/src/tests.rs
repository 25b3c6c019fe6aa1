//! Tests of the whole judgement, on the machine itself: configuration text and requests in, verdicts out.

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

/// The verdicts on calls of `search_web` at these times.
fn verdicts(config: &Value, times_ms: &[u64]) -> Vec<Verdict> {
    let mut counters = MemoryCounters::default();
    let call = |at: &u64| {
        let request = request(&json!({"now_ms": at, "tool_call": {"name": "search_web"}}));
        ask(&config.to_string(), &request, &judge_text, &mut counters)
    };
    times_ms.iter().map(call).collect()
}

fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Deny(reason) => reason,
        other => panic!("not a denial: {other:?}"),
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
    for row in README.lines().filter_map(|line| line.strip_prefix("| 10:0")) {
        let mut cells = row.trim_end_matches(" |").splitn(3, " | ");
        let mut next = || cells.next().expect(row);
        let (time, call, expected) = (next(), next(), next());
        let tool = call.split('`').nth(1).expect(row);
        let evidence = if call.ends_with("without evidence") { json!([]) } else { json!(["session:8d1f"]) };
        let request = request(&json!({
            "now": format!("2026-01-05T10:0{time}Z"), "actor": "agent:research", "tool_call": {"name": tool},
            "evidence": evidence,
        }));
        let verdict = ask(config, &request, &judge_text, &mut counters);
        assert_eq!(said(&verdict), expected.split(": no rule").next().expect(row), "{row}");
        rows += 1;
    }
    assert_eq!(rows, 7);
}

#[test]
fn configurations_that_are_refused() {
    for (config, expected) in [
        (json!(null), "expected an object, not null"),
        (json!({}), "setting `rules` is missing"),
        (json!({"rules": [{}]}), "`rules[0]`: setting `limit` is missing"),
        (json!({"rules": [{"limit": 1}]}), "`rules[0]`: setting `window_ms` is missing"),
        (json!({"rules": [{"limit": 0, "window_ms": 1}]}), "`rules[0].limit`: 0 is not within 1 to 1000000000000"),
        (json!({"rules": [{"limit": 1, "window_ms": -5}]}), "`rules[0].window_ms`: -5 is not within 1 to 31622400000"),
        (
            json!({"rules": [{"limit": 1, "window_ms": 1, "per": ["ip"]}]}),
            "`rules[0].per[0]`: 'ip' is not one of actor tool session kernel",
        ),
        (
            json!({"rules": [{"limit": 1, "window_ms": 1, "tools": []}]}),
            "`rules[0].tools`: the list is empty, so it guards nothing",
        ),
        (
            json!({"rules": [{"limit": 1, "window_ms": 1}, {"limit": 2, "window_ms": 2}, {"limit": 3, "window_ms": 1}]}),
            "`rules[2]` counts the same as `rules[0]`; keep one of them",
        ),
        (
            json!({"rules": [{"limit": 1, "window_ms": 1}], "count": "denied"}),
            "`count`: 'denied' is not one of attempts passed",
        ),
        (json!({"rules": [{"limit": 1, "window_ms": 1}], "session_prefix": ""}), {
            "`session_prefix`: it is empty, so any evidence would be a session"
        }),
    ] {
        let verdict = judge_text(&config.to_string(), &request(&json!({})), &mut MemoryCounters::default());
        assert_eq!(reason(&verdict), format!("the policy's configuration is broken: {expected}"));
    }
    let rules: Vec<_> = (1..=25).map(|ms| json!({"limit": 1, "window_ms": ms})).collect();
    let verdict =
        judge_text(&json!({ "rules": rules }).to_string(), &request(&json!({})), &mut MemoryCounters::default());
    assert!(reason(&verdict).ends_with("`rules`: the list has 25 items, more than 24"));
}

#[test]
fn as_many_rules_as_are_taken_stay_within_the_hosts_calls() {
    let rules: Vec<_> =
        (1..=24).map(|n| json!({"limit": if n < 24 { 9 } else { 1 }, "window_ms": n * 1_000})).collect();
    for count in ["attempts", "passed"] {
        let verdicts = verdicts(&json!({"rules": rules, "count": count}), &[0, 1, 2]);
        assert_eq!(verdicts[0], Verdict::Allow);
        assert!(reason(&verdicts[2]).contains("in the last 24 s"), "{count}");
    }
}

#[test]
fn hostile_names_make_short_reasons_and_keys_of_their_own() {
    let config = json!({"rules": [{"limit": 1, "window_ms": 1_000, "per": ["actor", "tool", "session"]}]}).to_string();
    let mut counters = MemoryCounters::default();
    let mut first = |actor: String| {
        let request = request(&json!({
            "actor": actor, "tool_call": {"name": "x\n".repeat(2_000)}, "evidence": [format!("session:{}", "|".repeat(3_000))],
        }));
        let passed = ask(&config, &request, &judge_text, &mut counters) == Verdict::Allow;
        let again = ask(&config, &request, &judge_text, &mut counters);
        assert!(reason(&again).len() < 1_200, "{}", reason(&again));
        passed
    };
    // They differ only after what would fit a key.
    assert!(first(format!("{}1", "a".repeat(4_000))));
    assert!(first(format!("{}2", "a".repeat(4_000))));
    assert_eq!(counters.keys().count(), 2);
}

#[test]
fn a_limit_may_change_and_rules_may_move_without_losing_the_count() {
    let mut counters = MemoryCounters::default();
    let request = request(&json!({"tool_call": {"name": "search_web"}}));
    let rule = |limit: u64| json!({"limit": limit, "window_ms": 1_000, "tools": ["search_*"]});
    let other = json!({"limit": 9, "window_ms": 5});
    let before = json!({"rules": [rule(2)]}).to_string();
    let after = json!({"rules": [other, rule(1)]}).to_string();
    assert_eq!(judge_text(&before, &request, &mut counters), Verdict::Allow);
    assert!(reason(&judge_text(&after, &request, &mut counters)).contains("call 2 of search_*"));
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
fn what_others_add_meanwhile_counts() {
    let config = r#"{"rules":[{"limit":1,"window_ms":1000}],"count":"passed"}"#;
    let config = read_configuration(config, Config::read).expect("a configuration");
    let verdict = judge(&config, &request(&json!({})), &mut Contended(MemoryCounters::default()));
    assert!(reason(&verdict).contains("request 2 by actor"));
}

proptest! {
    /// Whatever the times, no window holds more passed calls than the limit, and a call that found room passed.
    #[test]
    fn no_window_holds_more_than_the_limit(
        mut times in prop::collection::vec(0_u64..5_000, 1..60),
        limit in 1_usize..5,
        window_ms in 1_u64..2_000,
        attempts: bool,
    ) {
        times.sort_unstable();
        let count = if attempts { "attempts" } else { "passed" };
        let config = json!({"rules": [{"limit": limit, "window_ms": window_ms}], "count": count});
        let verdicts = verdicts(&config, &times);
        let mut passed: Vec<u64> = Vec::new();
        for (index, (at, verdict)) in times.iter().zip(&verdicts).enumerate() {
            let recent = |times: &[u64]| times.iter().filter(|time| *time + window_ms > *at).count();
            let counted = if attempts { recent(&times[..index]) } else { recent(&passed) };
            prop_assert_eq!(*verdict == Verdict::Allow, counted < limit);
            if *verdict == Verdict::Allow {
                passed.push(*at);
                prop_assert!(recent(&passed) <= limit);
            }
        }
    }
}

//! Suites run on the guest that misbehaves as it is told.

use super::*;
use gavel_runtime::{Limits, SandboxOptions};
use std::path::Path;

const HOSTILE: &[u8] = include_bytes!("../../../../tests/data/guests/hostile.wasm");

/// Run a suite whose policy has so much time.
async fn told(text: &str, deadline_ms: u64) -> Report {
    let options = SandboxOptions { max_instances: 8, decision_deadline_ms: 60_000, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).unwrap();
    let limits = Limits { deadline_ms, ..Limits::default() };
    let source = PolicySource { limits, ..PolicySource::new("hostile", HOSTILE.to_vec()) };
    let suite = Suite::from_text(Path::new("tests.yaml"), text).unwrap();
    run(&suite, &sandbox, &source).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_is_apart_and_its_steps_are_not() {
    let report = told(
        r#"
config: {do: count, key: k, amount: 1, window_ms: 60000, max: 1}
cases:
  - {name: one, expect: allow}
  - name: two
    steps:
      - {expect: allow}
      - {expect: deny, reason: 2 is more than 1}
      - {request: {now: 2026-01-05T10:02:00Z}, expect: allow}
  - {name: again one, expect: allow}
  - {name: in a fresh instance, config: {do: remember}, expect: deny, reason: call 1 of}
"#,
        30_000,
    )
    .await;
    assert_eq!((report.passed, report.failed), (4, 0), "{report:#?}");
    assert_eq!(report.cases[1].steps.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_case_says_what_came_instead() {
    let report = told(
        r#"
config: {do: panic}
cases:
  - {name: panics, expect: allow}
  - {name: panics as it should, expect: trap}
  - {name: another reason, config: {do: deny, reason: because}, expect: deny, reason: for fun}
  - {name: no such configuration, config: 5, expect: allow}
  - {name: stops, steps: [{expect: allow}, {expect: trap}]}
"#,
        30_000,
    )
    .await;
    assert_eq!((report.passed, report.failed), (1, 4), "{report:#?}");
    let panicked = &report.cases[0].steps[0];
    assert_eq!(
        (panicked.expected, panicked.answer.verdict, panicked.answer.failed),
        (Expectation::Allow, "trap", true)
    );
    let words = panicked.answer.logs.last().unwrap();
    assert!(words.level == "error" && words.message.contains("the guest's own words"), "{words:?}");
    assert_eq!(report.cases[2].steps[0].answer.reason.as_deref(), Some("because"));
    assert!(report.cases[3].problem.as_ref().unwrap().contains("configuration"), "{:?}", report.cases[3]);
    assert_eq!(report.cases[4].steps.len(), 1, "after a step that failed nothing means anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_case_is_run_once_more_unless_that_was_expected() {
    let report =
        told("config: {do: loop}\ncases: [{name: late, expect: allow}, {name: so be it, expect: deadline}]", 5).await;
    let [late, expected] = &report.cases[..] else { panic!("{report:#?}") };
    assert!(late.retried && !late.passed && late.steps[0].answer.verdict == "deadline", "{late:#?}");
    assert!(expected.passed && !expected.retried, "{expected:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_tells_what_was_never_said() {
    let report = told(
        r#"
cases:
  - {name: a, config: {do: deny, reason: tool 'x' deletes}, expect: deny}
  - {name: b, config: {do: escalate, reason: who knows}, expect: escalate}
  - {name: c, config: {do: trap}, expect: trap}
"#,
        30_000,
    )
    .await;
    let coverage = report.coverage(&["tool '*' deletes".into(), "never".into()]);
    assert_eq!(coverage.verdicts, [("allow", 0), ("deny", 1), ("abstain", 0), ("escalate", 1), ("trap", 1)]);
    assert_eq!(coverage.reasons, [("tool '*' deletes".into(), 1), ("never".into(), 0)]);
    assert_eq!(coverage.unlisted, ["who knows"]);
    assert!(report.coverage(&[]).unlisted.is_empty(), "nothing is listed, so nothing is missing from the list");
}

#[test]
fn patterns() {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "", true),
        ("a*", "ab", true),
        ("*b", "ab", true),
        ("a*b", "ab", true),
        ("a*b", "a", false),
        ("ab*ba", "aba", false),
        ("a*b*c", "axxbyyc", true),
        ("a*b*c", "acb", false),
        ("a**c", "abc", true),
        ("tool '*' needs *", "tool 'é' needs more", true),
    ] {
        assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
    }
}

//! Runs the tests that a policy ships (`tests.yaml`) on the machine itself, against [`MemoryCounters`].
//!
//! The host runs the same file in the real sandbox before it lets a component judge. Here it runs at every `cargo
//! test`, without a component, and faster than one can be built. Each case begins with empty counters; the steps of one
//! case share them. What only a sandbox can do (deadlines, traps) is not expected in these files.

use gavel_policy::counting::MemoryCounters;
use gavel_policy::{Request, ToolCall, Verdict};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A policy's judgement of one request under a configuration, given as JSON text.
pub type Judge<'j> = &'j dyn Fn(&str, &Request, &mut MemoryCounters) -> Verdict;

/// Counter calls that the host grants to one evaluation by default.
const COUNTER_CALLS_MAX: u64 = 64;
/// Bytes of a verdict's text that the host takes by default.
const REASON_BYTES_MAX: usize = 4_096;
/// 2026-01-05T10:00:00Z, a Monday: when a request without a time is judged.
const NOW_MS: u64 = 1_767_607_200_000;

/// Run every case of a `tests.yaml` and return how many there were.
///
/// # Panics
///
/// When the file is not one, or a verdict is not the expected one; the message names the case.
pub fn run_shipped(yaml: &str, judge: Judge<'_>) -> usize {
    let file: File = serde_saphyr::from_str(yaml).expect("tests.yaml");
    assert!(!file.cases.is_empty(), "tests.yaml has no cases");
    for case in &file.cases {
        let config = case.config.as_ref().or(file.config.as_ref()).unwrap_or(&Value::Null).to_string();
        let mut counters = MemoryCounters::default();
        let only = case.request.clone().zip(case.expect.clone());
        let only = only.map(|(request, expect)| Step { request, expect, reason: case.reason.clone() });
        let steps = if case.steps.is_empty() { Vec::from_iter(only) } else { case.steps.clone() };
        assert!(!steps.is_empty(), "{}: neither steps nor a request and what to expect", case.name);
        for (index, step) in steps.iter().enumerate() {
            check(&format!("{}, step {}", case.name, index + 1), &config, step, judge, &mut counters);
        }
    }
    file.cases.len()
}

fn check(name: &str, config: &str, step: &Step, judge: Judge<'_>, counters: &mut MemoryCounters) {
    let verdict = ask(config, &step.request.build(), judge, counters);
    let (word, reason) = words(&verdict);
    assert_eq!(word, step.expect, "{name}: {reason}");
    if let Some(expected) = &step.reason {
        assert!(reason.contains(expected), "{name}: the reason is\n{reason}\nwithout\n{expected}");
    }
}

/// Ask for one verdict within the host's limits: at the request's time, few counter calls, a short reason.
///
/// # Panics
///
/// When a limit is passed.
pub fn ask(config: &str, request: &Request, judge: Judge<'_>, counters: &mut MemoryCounters) -> Verdict {
    counters.now_ms = request.now_ms;
    counters.calls = 0;
    let verdict = judge(config, request, counters);
    assert!(counters.calls <= COUNTER_CALLS_MAX, "{} counter calls for one verdict", counters.calls);
    assert!(words(&verdict).1.len() <= REASON_BYTES_MAX, "a reason of {} bytes", words(&verdict).1.len());
    verdict
}

/// A request as `tests.yaml` writes it, from JSON; what is not said has the format's defaults.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn request(json: &Value) -> Request {
    serde_json::from_value::<RequestText>(json.clone()).expect("a request").build()
}

/// The first block of a README in the given language.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn block<'r>(readme: &'r str, language: &str) -> &'r str {
    let begin = format!("```{language}\n");
    readme.split(&begin).nth(1).and_then(|rest| rest.split("```").next()).expect("a block in that language")
}

/// A verdict as a README's table says it: the word, and the reason if it has one.
#[must_use]
pub fn said(verdict: &Verdict) -> String {
    match words(verdict) {
        (word, "") => word.into(),
        (word, reason) => format!("{word}: `{reason}`"),
    }
}

fn words(verdict: &Verdict) -> (&'static str, &str) {
    match verdict {
        Verdict::Allow => ("allow", ""),
        Verdict::Abstain => ("abstain", ""),
        Verdict::Deny(reason) => ("deny", reason),
        Verdict::Escalate(reason) => ("escalate", reason),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    config: Option<Value>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    config: Option<Value>,
    request: Option<RequestText>,
    expect: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    request: RequestText,
    expect: String,
    reason: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RequestText {
    now: Option<String>,
    now_ms: Option<u64>,
    id: Option<String>,
    actor: Option<String>,
    intent: Option<String>,
    tool_call: Option<ToolCallText>,
    params: Map<String, Value>,
    evidence: Vec<String>,
    constraints: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCallText {
    name: String,
    #[serde(default)]
    params: Map<String, Value>,
}

impl RequestText {
    fn build(&self) -> Request {
        let now_ms = self.now_ms.or(self.now.as_deref().map(utc_ms)).unwrap_or(NOW_MS);
        let text = |text: &Option<String>, default: &str| text.as_deref().unwrap_or(default).to_owned();
        let object = |object: &Map<String, Value>| Value::Object(object.clone()).to_string();
        Request {
            id: text(&self.id, "test"),
            now_ms,
            ts_ms: now_ms,
            actor: text(&self.actor, "agent:test"),
            intent: text(&self.intent, "test"),
            tool_call: self
                .tool_call
                .as_ref()
                .map(|call| ToolCall { name: call.name.clone(), params: object(&call.params) }),
            params: object(&self.params),
            evidence: self.evidence.clone(),
            constraints: self.constraints.as_ref().map(Value::to_string),
        }
    }
}

/// The time that `2026-01-05T10:00:00Z`, perhaps with milliseconds, names, from 1970 on.
fn utc_ms(text: &str) -> u64 {
    let (date, time) = text.strip_suffix('Z').and_then(|text| text.split_once('T')).expect(text);
    let numbers = |text: &str, separator| -> Vec<u64> {
        text.split(separator).map(|number| number.parse().expect("a number in a time")).collect()
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let fraction_ms: u64 = format!("{fraction:0<3}").parse().expect("a fraction of a second");
    let ([year, month, day], [hour, minute, second]) = (&numbers(date, '-')[..], &numbers(time, ':')[..]) else {
        panic!("not a time: {text}");
    };
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = 28 + u64::from(leap(*year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = (1970..*year).map(|year| 365 + u64::from(leap(year))).sum::<u64>()
        + (1..*month).zip(months).map(|(_, days)| days).sum::<u64>()
        + day
        - 1;
    (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + fraction_ms
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(utc_ms("1970-01-01T00:00:00Z"), 0);
        assert_eq!(utc_ms("2026-01-05T10:00:00Z"), NOW_MS);
        assert_eq!(utc_ms("2024-02-29T23:59:59.5Z"), 1_709_251_199_500);
        assert_eq!(utc_ms("2024-03-01T00:00:00Z"), 1_709_251_200_000);
    }

    #[test]
    fn a_case_that_fails_fails() {
        let judge: Judge = &|_, request, _| match &request.tool_call {
            Some(call) => Verdict::Deny(format!("tool '{}'", call.name)),
            None => Verdict::Allow,
        };
        let run = |yaml: &str| std::panic::catch_unwind(AssertUnwindSafe(|| run_shipped(yaml, judge)));
        let good = "cases: [{name: a, request: {tool_call: {name: x}}, expect: deny, reason: tool 'x'}]";
        assert_eq!(run(good).expect("runs"), 1);
        for bad in [
            &good.replace("deny", "allow"),
            &good.replace("tool 'x'", "tool 'y'"),
            &good.replace("expect", "expects"),
            "cases: []",
            "cases: [{name: a}]",
            "cases: [{name: a, steps: [{request: {}, expect: allow}, {request: {}, expect: deny}]}]",
        ] {
            assert!(run(bad).is_err(), "{bad}");
        }
    }
}

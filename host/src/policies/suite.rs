//! The tests that a policy ships, `tests.yaml`: requests and the verdicts that they must get.
//!
//! One shape in YAML, as authors write it, and in JSON, as a package carries it. Unknown keys are errors, and so is a case
//! that expects nothing: a suite that was read can be run. Running it is [`super::cases`]'s.

use crate::clock::parse_time;
use crate::config::{self, ConfigError};
use gavel_kernel::{Request, json};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::path::Path;

/// Bytes of a suite.
pub const SUITE_BYTES_MAX: usize = 4 << 20;
/// Cases of a suite, and steps of a case.
pub const CASES_MAX: usize = 10_000;
/// 2026-01-05T10:00:00Z, a Monday: when a request is judged that says no time.
pub const NOW_MS: u64 = 1_767_607_200_000;

/// The tests of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The policy's configuration in every case that has none of its own.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub config: Value,
    /// The cases, each apart from the others.
    pub cases: Vec<Case>,
}

/// A test: one request, or several in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The policy's configuration, instead of the suite's. `null` is one, too.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    config: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<TestRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expect: Option<Expectation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<Step>>,
}

/// A request and what must come of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is asked.
    #[serde(default)]
    pub request: TestRequest,
    /// What must be answered.
    pub expect: Expectation,
    /// Text that the reason must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A request as a test writes it: everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestRequest {
    /// Default `test`.
    #[serde(alias = "request_id", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Default `agent:test`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Default `test`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// The kernel's clock, as RFC 3339 writes it. Default 2026-01-05T10:00:00Z, a Monday.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// The same in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<u64>,
    /// The time that the caller claims. Default: the kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ts_ms: Option<u64>,
    /// Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<TestCall>,
    /// Default `{}`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Value>,
}

/// A tool call as a test writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCall {
    /// The tool's name.
    pub name: String,
    /// Default `{}`.
    #[serde(default)]
    pub params: Map<String, Value>,
}

/// What must come of a request: a verdict, or the limit or fault by which the policy must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "verdicts, and failures by the names that the sandbox gives them")]
pub enum Expectation {
    Allow,
    Deny,
    Abstain,
    Escalate,
    Deadline,
    Memory,
    Table,
    Stack,
    Output,
    CounterCalls,
    CounterKey,
    Instances,
    Trap,
    Undecodable,
}

impl Suite {
    /// Read a suite from YAML or JSON text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], which says what is wrong and where.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let malformed = |why: String| ConfigError::Malformed { path: path.to_owned(), why };
        if text.len() > SUITE_BYTES_MAX {
            return Err(malformed(format!("{} bytes, a file of tests may have {SUITE_BYTES_MAX}", text.len())));
        }
        Self::from_value(path, value_of(text).map_err(malformed)?)
    }

    /// Take a suite from a value; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], which says what is wrong and where.
    pub fn from_value(path: &Path, value: Value) -> Result<Self, ConfigError> {
        let suite: Self = config::typed(path, value)?;
        suite.validate().map_err(|why| ConfigError::Invalid { path: path.to_owned(), why })?;
        Ok(suite)
    }

    fn validate(&self) -> Result<(), String> {
        if self.cases.is_empty() {
            return Err("`cases` is empty: a suite without tests shows nothing".into());
        }
        if self.cases.len() > CASES_MAX {
            return Err(format!("{} cases, a suite may have {CASES_MAX}", self.cases.len()));
        }
        self.cases.iter().try_for_each(|case| case.validate().map_err(|why| format!("case `{}`: {why}", case.name)))
    }
}

impl Case {
    /// Its steps, in order; at least one.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        match (&self.steps, self.expect) {
            (Some(steps), _) => steps.clone(),
            (None, Some(expect)) => {
                vec![Step { request: self.request.clone().unwrap_or_default(), expect, reason: self.reason.clone() }]
            }
            (None, None) => Vec::new(),
        }
    }

    /// The policy's configuration in this case of `suite`.
    #[must_use]
    pub fn config<'a>(&'a self, suite: &'a Suite) -> &'a Value {
        self.config.as_ref().unwrap_or(&suite.config)
    }

    fn validate(&self) -> Result<(), String> {
        let single = self.request.is_some() || self.expect.is_some() || self.reason.is_some();
        match (&self.steps, self.expect) {
            (Some(_), _) if single => {
                return Err("`steps` stands beside `request`, `expect` or `reason`: put them into a step".into());
            }
            (Some(steps), _) if steps.is_empty() || steps.len() > CASES_MAX => {
                return Err(format!("{} steps: a case has 1 to {CASES_MAX}", steps.len()));
            }
            (None, None) => return Err("`expect` is missing: what must come of the request".into()),
            _ => {}
        }
        self.steps().iter().try_for_each(|step| step.request.read().map(drop))
    }
}

impl TestRequest {
    /// The request as the kernel would hand it to a policy.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self) -> Result<gavel_runtime::Request, String> {
        let now_ms = match (&self.now, self.now_ms) {
            (Some(_), Some(_)) => return Err("`now` stands beside `now_ms`: give one of them".into()),
            (Some(now), None) => parse_time(now)?,
            (None, now_ms) => now_ms.unwrap_or(NOW_MS),
        };
        let text = |text: &Option<String>, default: &str| text.as_deref().unwrap_or(default).to_owned();
        let mut request = serde_json::json!({
            "request_id": text(&self.id, "test"),
            "actor": text(&self.actor, "agent:test"),
            "intent": text(&self.intent, "test"),
            "ts_ms": self.ts_ms.unwrap_or(now_ms),
            "evidence": self.evidence,
            "params": self.params,
        });
        if let Some(call) = &self.tool_call {
            request["tool_call"] = serde_json::json!({"name": call.name, "params": call.params});
        }
        if let Some(constraints) = &self.constraints {
            request["constraints"] = constraints.clone();
        }
        // By the kernel's own reader, so that a test's request is what a real one would be.
        let value = json::parse(request.to_string().as_bytes()).map_err(|why| format!("the request: {why}"))?;
        let request = Request::from_value(value, now_ms).map_err(|why| format!("the request: {why}"))?;
        Ok(crate::record::guest_request(&request, now_ms))
    }
}

impl Expectation {
    /// As a suite writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Abstain => "abstain",
            Self::Escalate => "escalate",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Table => "table",
            Self::Stack => "stack",
            Self::Output => "output",
            Self::CounterCalls => "counter_calls",
            Self::CounterKey => "counter_key",
            Self::Instances => "instances",
            Self::Trap => "trap",
            Self::Undecodable => "undecodable",
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The value of a text in JSON or YAML. What is JSON is read as such: in YAML, an integer beyond 64 bits is a float.
pub(crate) fn value_of(text: &str) -> Result<Value, String> {
    json::parse(text.as_bytes()).or_else(|_| serde_saphyr::from_str(text).map_err(|why| why.to_string()))
}

/// A value that is there, `null` included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Suite, String> {
        Suite::from_text(Path::new("tests.yaml"), text).map_err(|why| why.to_string())
    }

    /// The example of the documentation.
    const TEXT: &str = r#"
config: {tools: [delete_*]}
cases:
  - name: denies a delete
    config: null
    request:
      now: 2026-01-05T11:00:00Z
      id: r1
      actor: agent:ops
      intent: clean up
      tool_call: {name: delete_file, params: {path: /tmp/x, n: 1.50}}
      params: {}
      evidence: ["ticket:1"]
      constraints: {dry_run: true}
    expect: deny
    reason: deletes
  - name: the third call in a minute is too many
    steps:
      - {request: {}, expect: allow}
      - {request: {now_ms: 5}, expect: counter_calls, reason: rate}
"#;

    #[test]
    fn yaml_and_json_mean_the_same() {
        let suite = read(TEXT).unwrap();
        let text = serde_json::to_string(&suite).unwrap();
        assert_eq!(read(&text).unwrap(), suite);
        assert_eq!(suite.cases[0].config(&suite), &Value::Null, "null is a configuration");
        assert_eq!(suite.cases[1].config(&suite), &json!({"tools": ["delete_*"]}));
        let steps = suite.cases[1].steps();
        assert_eq!((steps.len(), steps[1].expect), (2, Expectation::CounterCalls));
    }

    #[test]
    fn a_request_is_what_the_kernel_would_hand_over() {
        let suite = read(TEXT).unwrap();
        let full = suite.cases[0].steps()[0].request.read().unwrap();
        let call = full.tool_call.unwrap();
        assert_eq!(call.params, r#"{"n":1.5,"path":"/tmp/x"}"#);
        assert_eq!((full.now_ms, full.ts_ms), (NOW_MS + 3_600_000, NOW_MS + 3_600_000));
        assert_eq!(
            (full.evidence, full.constraints.as_deref()),
            (vec!["ticket:1".into()], Some(r#"{"dry_run":true}"#))
        );
        let empty = TestRequest::default().read().unwrap();
        assert_eq!((&*empty.id, &*empty.actor, &*empty.intent), ("test", "agent:test", "test"));
        assert_eq!((empty.now_ms, empty.tool_call, &*empty.params), (NOW_MS, None, "{}"));
        assert!(empty.evidence.is_empty() && empty.constraints.is_none());
        assert_eq!(parse_time("2026-01-05T10:00:00Z"), Ok(NOW_MS));
    }

    #[test]
    fn integers_of_any_size_stay_exact_in_json() {
        let number = "123456789012345678901234567890";
        let text =
            format!(r#"{{"cases": [{{"name": "a", "expect": "allow", "request": {{"params": {{"n": {number}}}}}}}]}}"#);
        let request = read(&text).unwrap().cases[0].steps()[0].request.read().unwrap();
        assert_eq!(request.params, format!(r#"{{"n":{number}}}"#));
    }

    #[test]
    fn the_documentations_examples_are_read() {
        let document = include_str!("../../../docs/policies.md");
        let mut blocks = document.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let manifest = crate::policies::manifest::Manifest::from_yaml(Path::new("policy.yaml"), blocks.next().unwrap());
        assert_eq!(manifest.unwrap().needs.max_table_elements, Some(20_000));
        let suite = read(blocks.next().unwrap()).unwrap();
        assert_eq!((suite.cases.len(), suite.cases[1].steps().len()), (2, 3));
    }

    #[test]
    fn what_is_wrong_in_a_suite_is_said() {
        for (text, why) in [
            ("cases: []", "tests.yaml: `cases` is empty"),
            ("case: []", "unknown key `case`; the nearest known key is `cases`"),
            ("cases: [{name: a}]", "case `a`: `expect` is missing"),
            ("cases: [{name: a, expect: maybe}]", "cases[0].expect: unknown variant `maybe`"),
            ("cases: [{name: a, expect: allow, requst: {}}]", "unknown key `requst` in cases[0]"),
            ("cases: [{name: a, expect: allow, request: {tool: x}}]", "unknown key `tool` in cases[0].request"),
            ("cases: [{name: a, steps: []}]", "case `a`: 0 steps"),
            ("cases: [{name: a, expect: deny, steps: [{expect: allow}]}]", "case `a`: `steps` stands beside"),
            ("cases: [{name: a, expect: deny, request: {now: noon}}]", "case `a`: `noon` is no time"),
            ("cases: [{name: a, expect: deny, request: {now: noon, now_ms: 1}}]", "`now` stands beside `now_ms`"),
            ("- a", "tests.yaml: "),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}

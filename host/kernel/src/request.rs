//! What an agent asks for, as it asked.
//!
//! Reading a request refuses almost nothing: a field of the wrong type is kept as a [`TypeViolation`] and denied by
//! [`judge`](crate::judge()), because a denial leaves a record and a refusal does not. Only a body in which there is
//! nobody to blame (no object, or without `request_id`, `actor` or `intent`) is an error here.
//! Keys that are not listed in the specification are ignored; existing clients send some. `null` means absent.

use crate::json;
use serde_json::{Map, Value};
use std::fmt;

/// One request for a decision.
///
/// Always holds: the accessors give what was sent, or nothing where its type was wrong; then
/// [`type_violations`](Self::type_violations) is not empty.
#[derive(Debug, Clone)]
pub struct Request {
    id: String,
    ts_ms: i64,
    actor: String,
    intent: String,
    tool_call: Option<ToolCall>,
    params: Option<Map<String, Value>>,
    evidence: Option<Evidence>,
    permit: Option<Value>,
    constraints_differ: bool,
    type_violations: Vec<TypeViolation>,
}

/// The tool that a request wants run.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The tool's name; empty when none was sent.
    pub name: String,
    /// What the tool is given. Not to be confused with the request's own `params`, which the tool never sees.
    pub params: Map<String, Value>,
}

/// What a request brings along to justify itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// One piece.
    Text(String),
    /// Several.
    List(Vec<String>),
}

/// A field that has the wrong type, worded as the validation stage says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeViolation {
    /// The field: `tool_call.name`.
    pub field: &'static str,
    /// What it should be: `a string`.
    pub expected: &'static str,
}

/// Why a body is no request at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A required key is absent. The wording is that of the package's HTTP server.
    #[error("Missing field: '{0}'")]
    MissingField(&'static str),
    /// The body is JSON, but no object.
    #[error("request must be a JSON object, not {0}")]
    NotAnObject(&'static str),
}

impl Request {
    /// Reads a request from its JSON; where it carries no `ts_ms`, it gets `default_ts_ms` (Unix milliseconds).
    ///
    /// The value should come from [`json::parse`], which bounds its depth and refuses numbers without a canonical form.
    ///
    /// # Errors
    /// [`RequestError`] when the value is no object, or has no `request_id`, `actor` or `intent`.
    pub fn from_value(value: Value, default_ts_ms: u64) -> Result<Self, RequestError> {
        let Value::Object(fields) = value else {
            return Err(RequestError::NotAnObject(json::kind(&value)));
        };
        let mut reader = Reader { fields, violations: Vec::new() };
        let [id, actor, intent] = reader.required_texts()?;
        let ts_ms = reader.timestamp(default_ts_ms);
        let tool_call = reader.tool_call();
        let params = reader.take("params");
        let params = reader.object("params", params);
        let (params, constraints_differ) = reader.fold_constraints(params);
        let evidence = reader.evidence();
        let permit = reader.take("permit");
        Ok(Self {
            id,
            ts_ms,
            actor,
            intent,
            tool_call,
            params,
            evidence,
            permit,
            constraints_differ,
            type_violations: reader.violations,
        })
    }

    /// The caller's name for this request; the canonical JSON of what was sent if that was no string.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.id
    }

    /// When the caller says it asked, in Unix milliseconds; beyond 64 bits, the nearest that fits.
    ///
    /// Only its sign is judged, and it is never recorded: the chain has the kernel's clock.
    #[must_use]
    pub fn ts_ms(&self) -> i64 {
        self.ts_ms
    }

    /// Who asks; the canonical JSON of what was sent if that was no string.
    #[must_use]
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// What for; the canonical JSON of what was sent if that was no string.
    #[must_use]
    pub fn intent(&self) -> &str {
        &self.intent
    }

    /// The tool to run, if any.
    #[must_use]
    pub fn tool_call(&self) -> Option<&ToolCall> {
        self.tool_call.as_ref()
    }

    /// The request's own params, `constraints` folded in.
    #[must_use]
    pub fn params(&self) -> Option<&Map<String, Value>> {
        self.params.as_ref()
    }

    /// The evidence that came with the request.
    #[must_use]
    pub fn evidence(&self) -> Option<&Evidence> {
        self.evidence.as_ref()
    }

    /// The constraints, whether sent at the top level or in `params`; of any type, but not null.
    #[must_use]
    pub fn constraints(&self) -> Option<&Value> {
        self.params.as_ref()?.get("constraints").filter(|value| !value.is_null())
    }

    /// The permit, unread and of any type; [`judge`](crate::judge::judge) reads it.
    #[must_use]
    pub fn permit(&self) -> Option<&Value> {
        self.permit.as_ref()
    }

    /// The fields that have the wrong type. Such a request is always denied.
    #[must_use]
    pub fn type_violations(&self) -> &[TypeViolation] {
        &self.type_violations
    }

    /// Whether `constraints` and `params.constraints` were both sent and are not the same.
    #[must_use]
    pub fn constraints_differ(&self) -> bool {
        self.constraints_differ
    }

    /// SHA-256 hex of the canonical `params`; nothing when there are none.
    pub(crate) fn params_hash(&self) -> Option<String> {
        let params = self.params.as_ref().filter(|params| !params.is_empty())?;
        Some(json::sha256_hex(json::canonical_object(params).as_bytes()))
    }

    /// SHA-256 hex of the canonical `{"evidence": E}`; nothing when there is none or it is empty.
    pub(crate) fn evidence_hash(&self) -> Option<String> {
        let evidence = self.evidence.as_ref().filter(|evidence| !evidence.is_empty())?;
        let mut text = String::from("{\"evidence\":");
        evidence.write_canonical(&mut text);
        text.push('}');
        Some(json::sha256_hex(text.as_bytes()))
    }
}

impl Evidence {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
        }
    }

    fn write_canonical(&self, out: &mut String) {
        match self {
            Self::Text(text) => json::write_canonical_string(text, out),
            Self::List(list) => json::write_canonical_strings(list, out),
        }
    }
}

impl fmt::Display for TypeViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.field, self.expected)
    }
}

/// Takes a request's fields one by one and notes those of the wrong type.
struct Reader {
    fields: Map<String, Value>,
    violations: Vec<TypeViolation>,
}

impl Reader {
    fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field).filter(|value| !value.is_null())
    }

    fn violation(&mut self, field: &'static str, expected: &'static str) {
        self.violations.push(TypeViolation { field, expected });
    }

    fn required_texts(&mut self) -> Result<[String; 3], RequestError> {
        let mut required = |field: &'static str| match self.fields.remove(field) {
            None => Err(RequestError::MissingField(field)),
            Some(Value::String(text)) => Ok(text),
            Some(other) => {
                self.violations.push(TypeViolation { field, expected: "a string" });
                Ok(json::canonical(&other))
            }
        };
        Ok([required("request_id")?, required("actor")?, required("intent")?])
    }

    fn timestamp(&mut self, default_ts_ms: u64) -> i64 {
        match self.take("ts_ms") {
            None => i64::try_from(default_ts_ms).unwrap_or(i64::MAX),
            Some(Value::Number(number)) if json::is_integer(&number) => {
                let saturated = if number.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
                number.as_i64().unwrap_or(saturated)
            }
            Some(_) => {
                self.violation("ts_ms", "an integer");
                0
            }
        }
    }

    fn tool_call(&mut self) -> Option<ToolCall> {
        let value = self.take("tool_call");
        let mut call = self.object("tool_call", value)?;
        let name = match call.remove("name") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(name)) => name,
            Some(_) => {
                self.violation("tool_call.name", "a string");
                String::new()
            }
        };
        let params = call.remove("params").filter(|params| !params.is_null());
        let params = self.object("tool_call.params", params).unwrap_or_default();
        Some(ToolCall { name, params })
    }

    fn object(&mut self, field: &'static str, value: Option<Value>) -> Option<Map<String, Value>> {
        let Value::Object(object) = value? else {
            self.violation(field, "a dictionary");
            return None;
        };
        Some(object)
    }

    /// Puts the top-level `constraints` where the package has them, and says whether two contradict each other.
    fn fold_constraints(&mut self, params: Option<Map<String, Value>>) -> (Option<Map<String, Value>>, bool) {
        let Some(constraints) = self.take("constraints") else {
            return (params, false);
        };
        let mut params = params.unwrap_or_default();
        match params.get("constraints") {
            None | Some(Value::Null) => {
                params.insert("constraints".to_owned(), constraints);
                (Some(params), false)
            }
            Some(present) => {
                let differ = !json::same(present, &constraints);
                (Some(params), differ)
            }
        }
    }

    fn evidence(&mut self) -> Option<Evidence> {
        let evidence = match self.take("evidence")? {
            Value::String(text) => Some(Evidence::Text(text)),
            Value::Array(items) => texts(items).map(Evidence::List),
            _ => None,
        };
        if evidence.is_none() {
            self.violation("evidence", "a string or a list of strings");
        }
        evidence
    }
}

fn texts(items: Vec<Value>) -> Option<Vec<String>> {
    let text = |item| match item {
        Value::String(text) => Some(text),
        _ => None,
    };
    items.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW_MS: u64 = 1_705_171_200_000;

    fn read(extra: &Value) -> Request {
        let mut body = json!({"request_id": "r", "actor": "a", "intent": "i"});
        for (key, value) in extra.as_object().expect("object") {
            body[key] = value.clone();
        }
        Request::from_value(body, NOW_MS).expect("a request")
    }

    fn violations(extra: &Value) -> Vec<String> {
        read(extra).type_violations().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn refusals() {
        for (body, expected) in [
            (json!([]), "request must be a JSON object, not an array"),
            (json!({}), "Missing field: 'request_id'"),
            (json!({"request_id": "r"}), "Missing field: 'actor'"),
            (json!({"request_id": "r", "actor": "a"}), "Missing field: 'intent'"),
        ] {
            let error = Request::from_value(body, NOW_MS).expect_err("refused");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn wrong_types_are_noted_for_judgement() {
        for (extra, expected) in [
            (json!({"request_id": 5}), "request_id must be a string"),
            (json!({"actor": null}), "actor must be a string"),
            (json!({"intent": ["x"]}), "intent must be a string"),
            (json!({"ts_ms": true}), "ts_ms must be an integer"),
            (json!({"ts_ms": 1.0}), "ts_ms must be an integer"),
            (json!({"ts_ms": "1"}), "ts_ms must be an integer"),
            (json!({"tool_call": "x"}), "tool_call must be a dictionary"),
            (json!({"tool_call": {"name": 1}}), "tool_call.name must be a string"),
            (json!({"tool_call": {"name": "t", "params": []}}), "tool_call.params must be a dictionary"),
            (json!({"params": 1}), "params must be a dictionary"),
            (json!({"evidence": 1}), "evidence must be a string or a list of strings"),
            (json!({"evidence": ["a", 1]}), "evidence must be a string or a list of strings"),
        ] {
            assert_eq!(violations(&extra), [expected], "{extra}");
        }
    }

    #[test]
    fn a_wrong_typed_identity_is_recorded_as_its_json() {
        let request = read(&json!({"request_id": 5, "actor": {"b": 1.5, "a": "é"}, "intent": null}));
        assert_eq!(request.request_id(), "5");
        assert_eq!(request.actor(), r#"{"a":"\u00e9","b":1.5}"#);
        assert_eq!(request.intent(), "null");
    }

    #[test]
    fn null_is_absent() {
        let request = read(&json!({
            "ts_ms": null, "tool_call": null, "params": null, "evidence": null, "constraints": null, "permit": null,
        }));
        assert_eq!(request.ts_ms(), 1_705_171_200_000);
        assert!(request.type_violations().is_empty() && request.tool_call().is_none());
        assert!(request.params().is_none() && request.evidence().is_none());
        assert!(request.constraints().is_none() && request.permit().is_none());
    }

    #[test]
    fn timestamps_beyond_64_bits_keep_their_sign() {
        for (text, ts_ms) in [("9".repeat(30), i64::MAX), (format!("-{}", "9".repeat(30)), i64::MIN), ("-0".into(), 0)]
        {
            let number: serde_json::Number = text.parse().expect("number");
            assert_eq!(read(&json!({"ts_ms": number})).ts_ms(), ts_ms, "{text}");
        }
    }

    #[test]
    fn constraints_have_two_places() {
        let top = read(&json!({"constraints": {"scope": "x"}}));
        let inside = read(&json!({"params": {"constraints": {"scope": "x"}}}));
        let both = read(&json!({"constraints": {"scope": "x"}, "params": {"constraints": {"scope": "x"}}}));
        assert_eq!(top.params(), inside.params());
        assert_eq!(top.constraints(), Some(&json!({"scope": "x"})));
        assert!(!both.constraints_differ());
        let torn = read(&json!({"constraints": {"scope": "x"}, "params": {"constraints": {"scope": "y"}}}));
        assert!(torn.constraints_differ());
    }

    #[test]
    fn unknown_keys_are_ignored() {
        assert!(violations(&json!({"trace_id": 1, "metadata": {"x": []}})).is_empty());
    }
}

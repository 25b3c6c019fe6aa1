//! From a rule's result to a verdict, by the conventions that Rego policies follow.
//!
//! | result | verdict |
//! |---|---|
//! | `true`, `false` | allow, deny |
//! | `"allow"`, `"deny"`, `"abstain"`, `"escalate"` | that |
//! | a set or list, of a rule named `deny`, `deny_*`, `violation`, `violation_*` | deny with its messages; empty: allow |
//! | an object: a decision, or a whole package with rules of the names below | see [`object`] |
//! | undefined, anything else | deny |

use gavel_engine_input::bounded;
use gavel_policy::Verdict;
use regorus::{QueryResults, Value};

/// The verdict of a query's results.
pub(crate) fn of(query: &str, results: QueryResults) -> Verdict {
    let mut values =
        results.result.into_iter().flat_map(|result| result.expressions).map(|expression| expression.value);
    let (first, second) = (values.next(), values.next());
    let verdict = match (first, second) {
        (None | Some(Value::Undefined), None) => Verdict::Deny(format!("{query} is undefined for this request")),
        (Some(value), None) => of_value(query, &value),
        _ => Verdict::Deny(format!("{query} has more than one result")),
    };
    match verdict {
        Verdict::Deny(reason) => Verdict::Deny(bounded(reason)),
        Verdict::Escalate(reason) => Verdict::Escalate(bounded(reason)),
        other => other,
    }
}

fn of_value(query: &str, value: &Value) -> Verdict {
    let rule = query.rsplit('.').next().unwrap_or_default();
    match value {
        Value::Bool(true) if is_denial(rule) => Verdict::Deny(format!("{query} is true")),
        Value::Bool(false) if is_denial(rule) => Verdict::Allow,
        Value::Bool(true) => Verdict::Allow,
        Value::Bool(false) => Verdict::Deny(format!("{query} is false")),
        Value::String(word) => of_word(query, word, None),
        Value::Set(_) | Value::Array(_) if is_denial(rule) => match messages(value) {
            Some(reason) => Verdict::Deny(reason),
            None => Verdict::Allow,
        },
        Value::Object(_) => object(query, value),
        other => unexpected(query, other),
    }
}

/// A decision with more than a word to it.
///
/// - `deny`, `violation`: true, or not empty, denies; `escalate` likewise escalates. These three come first.
/// - `verdict`, `decision`, `result`: one of the four words. `allow`, `allowed`: true or false.
/// - `reason`, `reasons`, `message`, `msg`: what is told.
///
/// All that is there must agree to let the request pass, and at least one must be there.
fn object(query: &str, value: &Value) -> Verdict {
    let reason = ["reason", "reasons", "message", "msg"].iter().find_map(|name| field(value, name).and_then(messages));
    let mut known = false;
    for (name, verdict) in [
        ("deny", Verdict::Deny as fn(String) -> Verdict),
        ("violation", Verdict::Deny),
        ("escalate", Verdict::Escalate),
    ] {
        let Some(found) = field(value, name) else { continue };
        known = true;
        match (found, messages(found)) {
            (Value::Bool(true), _) => return verdict(reason.unwrap_or_else(|| format!("{query}.{name} is true"))),
            (Value::Bool(false), _) | (Value::Set(_) | Value::Array(_), None) => {}
            (Value::Set(_) | Value::Array(_), Some(messages)) => return verdict(messages),
            (other, _) => return unexpected(&format!("{query}.{name}"), other),
        }
    }
    let mut passes = None;
    for name in ["verdict", "decision", "result"] {
        match field(value, name) {
            None => {}
            Some(Value::String(word)) => match of_word(&format!("{query}.{name}"), word, reason.as_deref()) {
                pass @ (Verdict::Allow | Verdict::Abstain) => passes = Some(pass),
                stop => return stop,
            },
            Some(other) => return unexpected(&format!("{query}.{name}"), other),
        }
    }
    for name in ["allow", "allowed"] {
        match field(value, name) {
            None => {}
            Some(Value::Bool(true)) => passes = passes.or(Some(Verdict::Allow)),
            Some(Value::Bool(false)) => {
                return Verdict::Deny(reason.unwrap_or_else(|| format!("{query}.{name} is false")));
            }
            Some(other) => return unexpected(&format!("{query}.{name}"), other),
        }
    }
    match passes {
        Some(passes) => passes,
        None if known => Verdict::Allow,
        None => Verdict::Deny(format!("{query} is an object without a decision (verdict, allow, deny)")),
    }
}

fn of_word(query: &str, word: &str, reason: Option<&str>) -> Verdict {
    let reason = || reason.map_or_else(|| format!("{query} is '{word}'"), str::to_owned);
    match word {
        "allow" => Verdict::Allow,
        "abstain" => Verdict::Abstain,
        "deny" => Verdict::Deny(reason()),
        "escalate" => Verdict::Escalate(reason()),
        _ => Verdict::Deny(format!("{query} is '{word}', not one of allow deny abstain escalate")),
    }
}

/// Conftest's and Gatekeeper's names of rules that say what is wrong.
fn is_denial(rule: &str) -> bool {
    ["deny", "violation"]
        .iter()
        .any(|name| rule.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
}

/// What a value tells, in one line: a text, or the texts of a set or list, sorted as Rego sorts. Nothing when empty.
fn messages(value: &Value) -> Option<String> {
    let texts: Vec<String> = match value {
        Value::String(text) => vec![text.to_string()],
        Value::Set(items) => items.iter().map(message).collect(),
        Value::Array(items) => items.iter().map(message).collect(),
        _ => Vec::new(),
    };
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn message(item: &Value) -> String {
    let text = ["msg", "message", "reason"].iter().find_map(|name| field(item, name)).unwrap_or(item);
    text.as_string().map_or_else(|_| text.to_string(), ToString::to_string)
}

fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let found = value.as_object().ok()?.get(&name.into())?;
    (*found != Value::Undefined).then_some(found)
}

fn unexpected(query: &str, value: &Value) -> Verdict {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Set(_) => "a set",
        Value::Object(_) => "an object",
        Value::Undefined => "undefined",
    };
    Verdict::Deny(format!("{query} is {kind}, which is no decision"))
}

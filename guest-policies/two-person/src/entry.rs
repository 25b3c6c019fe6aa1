//! How an approval is written in evidence: a template, in which the request's own values bind it to this request.
//!
//! `approved-by:{approver}:{request_id}` becomes, for the request `r-17`, whatever begins with `approved-by:` and ends
//! with `:r-17`; what lies between is the approver. Two requests, or two approvers, never share an entry: a value that
//! contains a separator beside it is refused, so a filled template can be taken apart in one way only.

use gavel_policy::Request;
use gavel_policy::json::{Json, Wrong};
use gavel_policy::pointer::{Found, Pointer};
use gavel_policy::text::shown;

/// Texts and values by turns, the first a text; the approver is one of the values, once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    before: Vec<Part>,
    after: Vec<Part>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Value),
}

/// What of a request an approval is bound to.
#[derive(Debug, PartialEq, Eq)]
enum Value {
    RequestId,
    Actor,
    Tool,
    /// A parameter of the tool call: a text, a number, true or false.
    Param(Pointer),
}

impl Entry {
    pub(crate) const DEFAULT: &str = "approved-by:{approver}";

    pub(crate) fn new(template: &str) -> Result<Self, Wrong> {
        let mut parts = Vec::new();
        let mut approver_at = None;
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('{') {
            if text.is_empty() {
                return Err(wrong(template, "a text stands before each `{...}`, to keep it apart from what is before"));
            }
            let Some((name, after)) = after.split_once('}') else { return Err(wrong(template, "a `{` has no `}`")) };
            parts.push(Part::Text(plain(template, text)?));
            match name {
                "approver" if approver_at.replace(parts.len()).is_some() => {
                    return Err(wrong(template, "`{approver}` stands there once"));
                }
                "approver" => {}
                name => parts.push(Part::Value(Value::new(template, name)?)),
            }
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(plain(template, rest)?));
        }
        let Some(at) = approver_at else { return Err(wrong(template, "`{approver}` is missing")) };
        let after = parts.split_off(at);
        Ok(Self { before: parts, after })
    }

    /// The entry for one request. An error is why none can approve it, the end of a sentence that begins with the tool.
    pub(crate) fn of(&self, request: &Request, params: &Json) -> Result<Bound, String> {
        // The approver stands between the two, so each value has a text before it, and after it unless it is the last.
        Ok(Bound { before: fill(&self.before, request, params)?, after: fill(&self.after, request, params)? })
    }
}

/// What stands before and after the approver in the approvals of one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    before: String,
    after: String,
}

impl Bound {
    /// The approver that an entry of evidence names, as it is written there; none if it is no approval of this request.
    pub(crate) fn approver<'e>(&self, entry: &'e str) -> Option<&'e str> {
        entry.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())
    }

    /// The entry, as a reason asks for it.
    pub(crate) fn describe(&self) -> String {
        shown(&format!("{}...{}", self.before, self.after))
    }
}

fn fill(parts: &[Part], request: &Request, params: &Json) -> Result<String, String> {
    let mut filled = String::new();
    for (index, part) in parts.iter().enumerate() {
        let value = match part {
            Part::Text(text) => {
                filled.push_str(text);
                continue;
            }
            Part::Value(value) => value.of(request, params)?,
        };
        let follows = match parts.get(index + 1) {
            Some(Part::Text(text)) => text.chars().next(),
            _ => None,
        };
        if let Some(separator) =
            [filled.chars().next_back(), follows].into_iter().flatten().find(|c| value.contains(*c))
        {
            return Err(format!(
                "cannot be approved: '{}' contains '{separator}', which separates the parts of an approval",
                shown(&value)
            ));
        }
        filled.push_str(&value);
    }
    Ok(filled)
}

impl Value {
    fn new(template: &str, name: &str) -> Result<Self, Wrong> {
        match name {
            "request_id" => Ok(Self::RequestId),
            "actor" => Ok(Self::Actor),
            "tool" => Ok(Self::Tool),
            pointer if pointer.starts_with('/') && !pointer.split('/').any(|segment| segment == "*") => {
                Ok(Self::Param(Pointer::new(pointer)?))
            }
            _ => Err(wrong(template, "known are {approver} {request_id} {actor} {tool}, and pointers like {/amount}")),
        }
    }

    fn of(&self, request: &Request, params: &Json) -> Result<String, String> {
        let pointer = match self {
            Self::RequestId => return Ok(request.id.clone()),
            Self::Actor => return Ok(request.actor.clone()),
            Self::Tool => return Ok(request.tool_call.as_ref().map_or_else(String::new, |call| call.name.clone())),
            Self::Param(pointer) => pointer,
        };
        let name = shown(pointer.as_str());
        match &pointer.find(params)[..] {
            [place] => match place.found {
                Found::Value(Json::Text(text)) => Ok(text.to_string()),
                Found::Value(Json::Number(digits)) => Ok((*digits).to_owned()),
                Found::Value(Json::Bool(is)) => Ok(is.to_string()),
                Found::Value(other) => Err(format!("cannot be approved: its parameter '{name}' is {}", other.kind())),
                Found::Missing | Found::NoParts(_) => {
                    Err(format!("cannot be approved: its parameter '{name}' is missing"))
                }
            },
            _ => Err(format!("cannot be approved: its parameter '{name}' comes twice")),
        }
    }
}

fn plain(template: &str, text: &str) -> Result<String, Wrong> {
    if text.contains('}') { Err(wrong(template, "a `}` has no `{`")) } else { Ok(text.to_owned()) }
}

fn wrong(template: &str, why: &str) -> Wrong {
    Wrong::new(format!("'{template}': {why}"))
}

#[cfg(test)]
mod tests {
    use gavel_policy_testing::request;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry(template: &str) -> Result<Entry, String> {
        Entry::new(template).map_err(|wrong| wrong.to_string())
    }

    fn bound(template: &str, params: &str) -> Result<Bound, String> {
        let request = request(&json!({"id": "r-1", "actor": "agent:ops", "tool_call": {"name": "pay"}}));
        entry(template).expect(template).of(&request, &Json::parse(params).expect(params))
    }

    #[test]
    fn the_approver_lies_between() {
        let approver = |template: &str, entry: &str| {
            bound(template, r#"{"amount":12.50,"to":"x","b":true}"#).expect(template).approver(entry).map(str::to_owned)
        };
        for (template, entry, expected) in [
            ("approved-by:{approver}", "approved-by:human:alice", Some("human:alice")),
            ("approved-by:{approver}", "Approved-by:human:alice", None),
            ("approved-by:{approver}", "approved-by:", Some("")),
            ("approved-by:{approver}:{request_id}", "approved-by:human:alice:r-1", Some("human:alice")),
            ("approved-by:{approver}:{request_id}", "approved-by:human:alice:r-12", None),
            ("approved-by:{approver}:{request_id}", "approved-by:r-1", None),
            ("ok {tool} of {/amount} to {/to}: {approver}", "ok pay of 12.50 to x: alice", Some("alice")),
            ("ok {tool} of {/amount} to {/to}: {approver}", "ok pay of 12.5 to x: alice", None),
            ("ok {/b}|{approver}|{actor}.", "ok true|alice|agent:ops.", Some("alice")),
        ] {
            assert_eq!(approver(template, entry).as_deref(), expected, "{template} {entry}");
        }
    }

    #[test]
    fn templates_that_are_refused() {
        for (template, why) in [
            ("approved", "`{approver}` is missing"),
            ("by {approver} and {approver}", "`{approver}` stands there once"),
            ("{approver}", "a text stands before each `{...}`, to keep it apart from what is before"),
            ("by {approver}{request_id}", "a text stands before each `{...}`, to keep it apart from what is before"),
            ("by {approver", "a `{` has no `}`"),
            ("by} {approver}", "a `}` has no `{`"),
            ("by {approver}}", "a `}` has no `{`"),
            ("by {approver} {id}", "known are {approver} {request_id} {actor} {tool}, and pointers like {/amount}"),
            ("by {approver} {/a/*}", "known are {approver} {request_id} {actor} {tool}, and pointers like {/amount}"),
        ] {
            assert_eq!(entry(template).expect_err(template), format!("'{template}': {why}"));
        }
    }

    #[test]
    fn requests_that_cannot_be_bound() {
        for (template, why) in [
            ("by:{approver}:{actor}", "'agent:ops' contains ':', which separates the parts of an approval"),
            ("by:{actor}.{approver}", "'agent:ops' contains ':', which separates the parts of an approval"),
            ("by {/no}.{approver}", "its parameter '/no' is missing"),
            ("by {/list}.{approver}", "its parameter '/list' is a list"),
            ("by {/null}.{approver}", "its parameter '/null' is null"),
            ("by {/twice}.{approver}", "its parameter '/twice' comes twice"),
        ] {
            let params = r#"{"list":[1],"null":null,"twice":1,"twice":2}"#;
            assert_eq!(bound(template, params).expect_err(template), format!("cannot be approved: {why}"));
        }
    }

    proptest! {
        /// Requests that differ in a value that approvals are bound to share no approval of one approver.
        #[test]
        fn approvals_are_of_one_request(
            one in ("[ab:.]{1,3}", "[ab:.]{1,3}"),
            other in ("[ab:.]{1,3}", "[ab:.]{1,3}"),
            approver in "[ab]{1,3}",
        ) {
            let entry = entry("by:{request_id}:{approver}.{/to}").expect("a template");
            let bound = |(id, to): &(String, String)| {
                let params = json!({"to": to}).to_string();
                entry.of(&request(&json!({"id": id})), &Json::parse(&params).expect("params"))
            };
            if let (Ok(first), Ok(second)) = (bound(&one), bound(&other)) {
                let text = format!("{}{approver}{}", first.before, first.after);
                prop_assert_eq!(first.approver(&text), Some(approver.as_str()));
                prop_assert_eq!(second.approver(&text) == Some(approver.as_str()), one == other);
            }
        }
    }
}

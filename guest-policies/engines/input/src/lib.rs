//! What the policy engines have in common: a request as one JSON document, pointers into it, the tools it is about.
//!
//! The document has the contract's names. What the request does not have is absent, never `null`:
//!
//! ```json
//! {"id": "r1", "now_ms": 1767607200000, "ts_ms": 1767607200000, "actor": "agent:ops", "intent": "clean up",
//!  "tool_call": {"name": "delete_file", "params": {"path": "/tmp/x"}},
//!  "params": {}, "evidence": ["ticket:1"], "constraints": {"dry_run": true}}
//! ```
//!
//! Always: the document borrows from one request and is gone with it, so that an engine that is kept from one decision
//! to the next keeps nothing of a request.

use gavel_policy::Request;
use gavel_policy::glob::NamePattern;
use gavel_policy::json::{Json, Wrong};

/// The bytes of a reason, at most: well below the host's default limit of 4,096, beyond which a verdict is a failure.
pub const REASON_BYTES_MAX: usize = 2_000;

/// A request's two times as JSON writes them; a [`document`] borrows them.
#[derive(Debug)]
pub struct Times {
    now_ms: String,
    ts_ms: String,
}

impl Times {
    /// The times of a request.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        Self { now_ms: request.now_ms.to_string(), ts_ms: request.ts_ms.to_string() }
    }
}

/// The request as one JSON object.
///
/// # Errors
///
/// When one of its JSON texts is none, or is nested too deep to be judged.
pub fn document<'r>(request: &'r Request, times: &'r Times) -> Result<Json<'r>, Wrong> {
    let text = |text: &'r str| Json::Text(text.into());
    let mut fields = vec![
        ("id".into(), text(&request.id)),
        ("now_ms".into(), Json::Number(&times.now_ms)),
        ("ts_ms".into(), Json::Number(&times.ts_ms)),
        ("actor".into(), text(&request.actor)),
        ("intent".into(), text(&request.intent)),
    ];
    if let Some(call) = &request.tool_call {
        let call = vec![("name".into(), text(&call.name)), ("params".into(), Json::parse(&call.params)?)];
        fields.push(("tool_call".into(), Json::Object(call)));
    }
    fields.push(("params".into(), Json::parse(&request.params)?));
    fields.push(("evidence".into(), Json::List(request.evidence.iter().map(|entry| text(entry)).collect())));
    if let Some(constraints) = &request.constraints {
        fields.push(("constraints".into(), Json::parse(constraints)?));
    }
    Ok(Json::Object(fields))
}

/// A JSON pointer (RFC 6901): `/tool_call/params/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Read a pointer.
    ///
    /// # Errors
    ///
    /// When the text is none.
    pub fn new(text: &str) -> Result<Self, Wrong> {
        let refused = |why: &str| Wrong::new(format!("'{text}' is no JSON pointer: {why}"));
        let path = text.strip_prefix('/').ok_or_else(|| refused("it begins with `/`"))?;
        let mut names = Vec::new();
        for name in path.split('/') {
            let mut rest = name.split('~').skip(1);
            if rest.any(|after| !after.starts_with(['0', '1'])) {
                return Err(refused("`~` stands before 0 or 1 only"));
            }
            names.push(name.replace("~1", "/").replace("~0", "~"));
        }
        Ok(Self(names))
    }

    /// Read one out of settings.
    ///
    /// # Errors
    ///
    /// As [`Pointer::new`], and when the setting is no text.
    pub fn read(setting: &Json) -> Result<Self, Wrong> {
        Self::new(setting.text()?)
    }

    /// What it points at, if it is there.
    #[must_use]
    pub fn find<'j, 't>(&self, document: &'j Json<'t>) -> Option<&'j Json<'t>> {
        self.0.iter().try_fold(document, |value, name| match value {
            Json::Object(fields) => fields.iter().find(|(is, _)| is == name).map(|(_, value)| value),
            Json::List(items) => items.get(index(name)?),
            _ => None,
        })
    }
}

impl core::fmt::Display for Pointer {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|name| write!(out, "/{}", name.replace('~', "~0").replace('/', "~1")))
    }
}

/// Digits without a leading zero, as the RFC has it: one place has one name.
fn index(name: &str) -> Option<usize> {
    let plain = name.bytes().all(|digit| digit.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    plain.then(|| name.parse().ok()).flatten()
}

/// The requests that an engine is asked about.
#[derive(Debug, PartialEq, Eq)]
pub struct Tools(Option<Vec<NamePattern>>);

impl Tools {
    /// Every request, also one without a tool call.
    pub const ALL: Self = Self(None);

    /// Read the patterns out of settings.
    ///
    /// # Errors
    ///
    /// When they are no list of patterns, or an empty one.
    pub fn read(setting: &Json) -> Result<Self, Wrong> {
        let patterns = setting.list(|pattern| Ok(NamePattern::new(pattern.text()?)?))?;
        if patterns.is_empty() {
            return Err(Wrong::new("is about no tool; leave it out for every request"));
        }
        Ok(Self(Some(patterns)))
    }

    /// Is this request one of them?
    #[must_use]
    pub fn are_asked(&self, request: &Request) -> bool {
        let Some(patterns) = &self.0 else { return true };
        let name = request.tool_call.as_ref().map(|call| &call.name);
        name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
    }
}

/// A reason that is not longer than [`REASON_BYTES_MAX`]: policies and errors may quote a request of any length.
#[must_use]
pub fn bounded(mut reason: String) -> String {
    const ELLIPSIS: &str = "…";
    if reason.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX - ELLIPSIS.len()).rev().find(|at| reason.is_char_boundary(*at));
        reason.truncate(end.unwrap_or_default());
        reason.push_str(ELLIPSIS);
    }
    reason
}

#[cfg(test)]
mod tests;

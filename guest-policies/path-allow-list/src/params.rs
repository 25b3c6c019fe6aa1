//! Finds the paths in a tool call's parameters: texts, and lists of texts, where a pointer leads.

use gavel_policy::json::Json;
use gavel_policy::pointer::{self, Pointer};

/// What a pointer led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'j> {
    Text(&'j str),
    /// There is no such parameter, or it is an empty list.
    Missing,
    /// Something that is no text, or on the way there something that has no parts; in words.
    Other(&'static str),
}

/// Everything that a pointer leads to, each with its own place. Never empty.
pub(crate) fn find<'j>(pointer: &Pointer, params: &'j Json) -> Vec<(String, Found<'j>)> {
    let mut found = Vec::new();
    for place in pointer.find(params) {
        match place.found {
            pointer::Found::Value(value) => destination(value, place.at, &mut found),
            pointer::Found::Missing => found.push((place.at, Found::Missing)),
            pointer::Found::NoParts(kind) => found.push((place.at, Found::Other(kind))),
        }
    }
    found
}

/// The value at the end of a pointer: a path, or a list of paths. Lists in lists are no lists of paths.
fn destination<'j>(value: &'j Json, at: String, found: &mut Vec<(String, Found<'j>)>) {
    match value {
        Json::List(items) if items.is_empty() => found.push((at, Found::Missing)),
        Json::List(items) => {
            found.extend(items.iter().enumerate().map(|(index, item)| (format!("{at}/{index}"), text(item))));
        }
        other => found.push((at, text(other))),
    }
}

fn text<'j>(value: &'j Json) -> Found<'j> {
    match value {
        Json::Text(text) => Found::Text(text),
        other => Found::Other(other.kind()),
    }
}

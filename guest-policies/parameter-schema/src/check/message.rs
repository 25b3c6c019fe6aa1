//! What a message says of a value: its type and length, not its text. Numbers, and short texts that should have been
//! one of a few, are no secret worth hiding from who wrote them.

use gavel_policy::json::Json;

/// Names and patterns are shown up to this length, and lengths in messages stay below the host's limit.
const SHOWN_CHARS_MAX: usize = 60;
/// Longer numbers are told by their length.
const DIGITS_SHOWN_MAX: usize = 24;
/// A text that should have been one of a few is shown up to this length.
const CHOICE_CHARS_MAX: usize = 24;

/// The type of a value, as schemas name it.
pub(super) fn found_kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::Text(_) => "string",
        Json::List(_) => "array",
        Json::Object(_) => "object",
    }
}

/// A value that should have been another: the value itself if it is short.
pub(super) fn found(value: &Json) -> String {
    match value {
        Json::Number(digits) => found_bound(digits),
        Json::Bool(is) => is.to_string(),
        Json::Text(text) if text.chars().nth(CHOICE_CHARS_MAX).is_none() => format!("'{}'", shown(text)),
        Json::Text(text) => format!("a string of {}", length(text)),
        Json::List(items) => format!("an array of {}", count(items.len(), "item")),
        Json::Object(fields) => format!("an object of {}", count(fields.len(), "property")),
        Json::Null => "null".into(),
    }
}

pub(super) fn found_bound(digits: &str) -> String {
    if digits.len() <= DIGITS_SHOWN_MAX { digits.into() } else { format!("a number of {} digits", digits.len()) }
}

pub(super) fn length(text: &str) -> String {
    count(text.chars().count(), "character")
}

pub(super) fn count(count: usize, what: &str) -> String {
    match (count, what) {
        (1, what) => format!("1 {what}"),
        (count, "property") => format!("{count} properties"),
        (count, what) => format!("{count} {what}s"),
    }
}

/// A text of somebody else's in a message: on one line, and not too long.
pub(crate) fn shown(text: &str) -> String {
    let mut line = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == SHOWN_CHARS_MAX {
            line.push('…');
            break;
        }
        match character {
            '\'' | '"' | '\\' => line.push(character),
            other => line.extend(other.escape_debug()),
        }
    }
    line
}

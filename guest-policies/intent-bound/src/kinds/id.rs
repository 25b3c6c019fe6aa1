//! Identifiers, codes and passwords: to the letter.
//!
//! A short number or a plain word would be found by accident (`5` in `5 hours`), so it counts only where the intent
//! marks it as what it is: between quotation marks, after `#`, or after a label (`id 5`).

use crate::intent::{Intent, is_quoted, same_word, words};

/// An all-digit value of so many digits is not taken for an accident.
const DISTINCT_DIGITS_MIN: usize = 5;

/// Words after which a prompt gives an identifier. An operator adds his own by `labels`.
const LABELS: [&str; 5] = ["id", "no", "nr", "number", "code"];

pub(super) fn has_ground(value: &str, labels: &[String], intent: &Intent) -> bool {
    if value != value.trim() {
        return false; // between two quotations there are quotation marks on both sides too
    }
    let distinct = is_distinct(value);
    if intent.whole(value).any(|place| distinct || is_quoted(place) || is_labelled(place.0, labels)) {
        return true;
    }
    // `#5`, where `#` belongs to the text around.
    let numbered = format!("#{value}");
    intent.whole(&numbered).next().is_some()
}

/// Digits together with something else, or many digits.
fn is_distinct(value: &str) -> bool {
    let digits = value.chars().filter(char::is_ascii_digit).count();
    let others = value.chars().filter(|character| character.is_alphabetic()).count();
    digits > 0 && (others > 0 && value.chars().count() >= 3 || digits >= DISTINCT_DIGITS_MIN)
}

/// Does the text before an identifier end with a label?
fn is_labelled(before: &str, labels: &[String]) -> bool {
    let before = before.trim_end_matches([' ', ':', '.', '=', '"', '\'', '`']);
    let last = before.rsplit(char::is_whitespace).next().unwrap_or_default();
    let Some(last) = words(last).last() else { return false };
    LABELS.iter().copied().chain(labels.iter().map(String::as_str)).any(|label| same_word(label, last))
}

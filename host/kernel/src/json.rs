//! JSON as the law needs it: read strictly, written canonically, hashed.
//!
//! Two writings exist and must not be confused. [`canonical`] escapes everything beyond ASCII and feeds the evidence
//! chain; the permit form (crate-private) leaves it as it is and feeds permit signatures. Both are what Python's
//! `json.dumps` with sorted keys and compact separators gives.
//!
//! Values must come from [`parse`] to be canonical: it alone refuses what could not be written back.

mod canonical;
mod parse;

pub use canonical::{canonical, write_canonical};
pub(crate) use canonical::{
    canonical_length, canonical_object, write_canonical_string, write_canonical_strings, write_permit_form,
};
pub use parse::{DEPTH_MAX, JsonError, JsonProblem, parse};

use serde_json::{Number, Value};
use sha2::{Digest, Sha256};

/// The SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Whether the number is written as an integer: no fraction, no exponent. `1.0` is none.
pub(crate) fn is_integer(number: &Number) -> bool {
    !number.as_str().contains(['.', 'e', 'E'])
}

/// What `value` is, for messages: `an array`.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Whether two values have the same canonical text.
///
/// `serde_json`'s own equality compares the text of numbers as written, so `1.5` and `1.50` would differ.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(l), Value::Number(r)) => l.as_str() == r.as_str() || canonical(left) == canonical(right),
        (Value::Array(l), Value::Array(r)) => l.len() == r.len() && l.iter().zip(r).all(|(l, r)| same(l, r)),
        (Value::Object(l), Value::Object(r)) => {
            l.len() == r.len() && l.iter().zip(r).all(|((l_key, l), (r_key, r))| l_key == r_key && same(l, r))
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Value {
        parse(text.as_bytes()).expect("valid JSON")
    }

    #[test]
    fn hash_is_lower_case_hex() {
        assert_eq!(sha256_hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn sameness_is_that_of_the_canonical_text() {
        assert!(same(&read(r#"{"b": [1.50], "a": -0}"#), &read(r#"{"a": 0, "b": [15e-1]}"#)));
        for (left, right) in [("1", "1.0"), ("1", "true"), ("[]", "{}"), ("0.0", "-0.0"), ("[1]", "[1,1]")] {
            assert!(!same(&read(left), &read(right)), "{left} {right}");
        }
        assert!(!same(&json!({"a": 1}), &json!({"b": 1})));
    }

    #[test]
    fn integers_are_written_without_fraction_or_exponent() {
        for (text, integer) in [("0", true), ("-12", true), ("1.0", false), ("1e3", false), ("1E3", false)] {
            assert_eq!(is_integer(&text.parse().expect("number")), integer, "{text}");
        }
    }
}

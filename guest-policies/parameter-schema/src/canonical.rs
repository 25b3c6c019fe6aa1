//! One text for all values that are equal: `1.0` and `1`, `{"a":1,"b":2}` and `{"b":2,"a":1}`.
//!
//! It makes comparing, and finding doubles by sorting, a matter of texts. It calls itself for what is nested, at most
//! as deep as the SDK's reader lets a value be.

use gavel_policy::json::Json;

use crate::decimal::Decimal;

pub(crate) fn canonical(value: &Json) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push('n'),
        Json::Bool(is) => out.push(if *is { 't' } else { 'f' }),
        Json::Number(digits) => Decimal::new(digits).canonical(out),
        Json::Text(text) => write_text(text, out),
        Json::List(items) => {
            out.push('[');
            for item in items {
                write(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Json::Object(fields) => {
            let order = sorted(fields.iter().map(|(name, _)| &**name));
            out.push('{');
            for (name, index) in order {
                write_text(name, out);
                write(&fields[index].1, out);
            }
            out.push('}');
        }
    }
}

/// Texts in order, equal ones in that of their places, with their places.
pub(crate) fn sorted<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<(&'t str, usize)> {
    let mut all: Vec<(&str, usize)> = texts.zip(0..).collect();
    all.sort_unstable();
    all
}

/// With its length before it, so that it needs no escapes.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(&text.len().to_string());
    out.push(':');
    out.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_text_and_others_another() {
        let of = |text: &str| canonical(&Json::parse(text).expect(text));
        for (left, right) in [("1", "1.0"), (r#"{"a":1,"b":[2]}"#, r#"{"b":[2.0],"a":1e0}"#), (r#""a""#, r#""\u0061""#)]
        {
            assert_eq!(of(left), of(right));
        }
        for (left, right) in [
            ("1", r#""1""#),
            ("0", "false"),
            ("[1,2]", "[2,1]"),
            (r#"["a","b"]"#, r#"["a\",\"b"]"#),
            ("{}", "[]"),
            ("null", "0"),
            ("1", "-1"),
        ] {
            assert_ne!(of(left), of(right));
        }
    }
}

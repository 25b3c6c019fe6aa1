//! The canonical text of a JSON value: what Python's `json.dumps(sort_keys=True, separators=(",", ":"))` writes.
//!
//! Always holds: equal values give equal bytes, and the text is ASCII. This is on the hot path of every request, so
//! runs of plain characters are copied whole and integers are copied from their text.
//! DEL is escaped, `\u007f`; the permit form leaves it literal. That is what Python does and what the recorded hashes
//! demand.
//! A number beyond the floats (`1E400`, which [`parse`](super::parse) refuses) is written `Infinity`, as Python does.

use serde_json::{Map, Number, Value};

/// The canonical text of `value`.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut out = String::with_capacity(128);
    write_canonical(value, &mut out);
    out
}

/// Appends the canonical text of `value` to `out`.
pub fn write_canonical(value: &Value, out: &mut String) {
    write_value::<true>(value, out);
}

/// The canonical text of an object that is not wrapped in a [`Value`].
pub(crate) fn canonical_object(members: &Map<String, Value>) -> String {
    let mut out = String::with_capacity(128);
    write_object::<true>(members.iter(), &mut out);
    out
}

/// How many bytes the canonical text of an object has.
pub(crate) fn canonical_length(members: &Map<String, Value>) -> usize {
    canonical_object(members).len()
}

/// Appends the canonical text of a string, quotes included.
pub(crate) fn write_canonical_string(text: &str, out: &mut String) {
    write_string::<true>(text, out);
}

/// Appends the canonical text of a list of strings.
pub(crate) fn write_canonical_strings(list: &[String], out: &mut String) {
    write_list(list, out, |text, out| write_string::<true>(text, out));
}

/// Appends the form that permits are signed in, which leaves characters beyond ASCII unescaped.
pub(crate) fn write_permit_form<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut String) {
    write_object::<false>(members, out);
}

fn write_value<const ASCII: bool>(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string::<ASCII>(text, out),
        Value::Array(items) => write_list(items, out, write_value::<ASCII>),
        Value::Object(members) => write_object::<ASCII>(members.iter(), out),
    }
}

fn write_list<T>(items: &[T], out: &mut String, write: impl Fn(&T, &mut String)) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(']');
}

/// Relies on `serde_json::Map` being a `BTreeMap`: the order of UTF-8 bytes is the order of code points.
/// A test below fails if any crate switches on `preserve_order`.
fn write_object<'a, const ASCII: bool>(members: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut String) {
    out.push('{');
    for (index, (key, value)) in members.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string::<ASCII>(key, out);
        out.push(':');
        write_value::<ASCII>(value, out);
    }
    out.push('}');
}

fn write_string<const ASCII: bool>(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    while let Some(end) = rest.bytes().position(needs_escape::<ASCII>) {
        // Every byte that needs an escape is ASCII or starts a character, so `end` is on a boundary.
        let (plain, special) = rest.split_at(end);
        out.push_str(plain);
        let mut characters = special.chars();
        if let Some(character) = characters.next() {
            write_escape(character, out);
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

fn needs_escape<const ASCII: bool>(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || (ASCII && byte >= 0x7f)
}

fn write_escape(character: char, out: &mut String) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        _ => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write_unit(*unit, out);
            }
        }
    }
}

fn write_unit(unit: u16, out: &mut String) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(DIGITS[usize::from(unit >> shift) & 0xf]);
    }
}

fn write_number(number: &Number, out: &mut String) {
    let text = number.as_str();
    if !super::is_integer(number) {
        // A `Number` always holds the text of a number, so this cannot fail; NaN would show if it did.
        write_float(text.parse().unwrap_or(f64::NAN), out);
    } else if text == "-0" {
        out.push('0');
    } else {
        out.push_str(text);
    }
}

/// Python's `repr(float)`: the shortest digits that read back, in exponent form outside 1e-4 to 1e16.
fn write_float(value: f64, out: &mut String) {
    if !value.is_finite() {
        out.push_str(match value {
            f64::INFINITY => "Infinity",
            f64::NEG_INFINITY => "-Infinity",
            _ => "NaN",
        });
        return;
    }
    let scientific = shortest(value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    if unsigned.len() < mantissa.len() {
        out.push('-');
    }
    if (-4..16).contains(&exponent) {
        write_positional(unsigned, exponent, out);
    } else {
        out.push_str(unsigned);
        out.push_str(if exponent < 0 { "e-" } else { "e+" });
        if exponent.abs() < 10 {
            out.push('0');
        }
        out.push_str(&exponent.abs().to_string());
    }
}

/// The shortest digits that read back, `-1.25e-7`; of two equally near, the even ones, as in Python.
///
/// Rust's `{:e}` finds the length but rounds such a tie up: it ends 1836532160090451.25 with a 3, Python with a 2. Rounding to a given length Rust does to even, so asking again with the length repairs it. The result need not
/// read back where the floats' spacing changes, at a power of two; there the first answer stands.
fn shortest(value: f64) -> String {
    /// A shorter text is no tie: between it and its neighbour of equal length there are floats.
    const TIE_DIGITS_MIN: usize = 15;
    let shortest = format!("{value:e}");
    let mantissa = shortest.bytes().take_while(|&byte| byte != b'e');
    let digits = mantissa.filter(u8::is_ascii_digit).count();
    if digits < TIE_DIGITS_MIN {
        return shortest;
    }
    let even = format!("{value:.*e}", digits - 1);
    if even.parse() == Ok(value) { even } else { shortest }
}

/// Writes `d.ddd` times ten to the `exponent`, always with a point and a digit after it.
fn write_positional(mantissa: &str, exponent: i32, out: &mut String) {
    let mut digits = mantissa.bytes().filter(u8::is_ascii_digit).map(char::from);
    if exponent < 0 {
        out.push_str("0.");
        out.extend((1..-exponent).map(|_| '0'));
        out.extend(digits);
        return;
    }
    for _ in 0..=exponent {
        out.push(digits.next().unwrap_or('0'));
    }
    out.push('.');
    out.push(digits.next().unwrap_or('0'));
    out.extend(digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(input: &str, expected: &str) {
        let value: Value = serde_json::from_str(input).expect("valid JSON");
        assert_eq!(canonical(&value), expected, "{input}");
    }

    #[test]
    fn numbers() {
        for (input, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("1.0", "1.0"),
            ("1E5", "100000.0"),
            ("1e15", "1000000000000000.0"),
            ("123456789012345680.0", "1.2345678901234568e+17"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("1e16", "1e+16"),
            ("0.0001", "0.0001"),
            ("0.00012345", "0.00012345"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("-12.5", "-12.5"),
            ("-1836532160090451.25", "-1836532160090451.2"),
            ("1836532160090451.75", "1836532160090451.8"),
            ("5.6843418860808015e-14", "5.684341886080802e-14"),
            ("9007199254740993e0", "9007199254740992.0"),
            ("1e-400", "0.0"),
        ] {
            check(input, expected);
        }
    }

    #[test]
    fn strings() {
        for (input, expected) in [
            (r#""plain /""#, r#""plain /""#),
            (r#""\"\\\n\r\t\b\f""#, r#""\"\\\n\r\t\b\f""#),
            (r#""\u0001\u001f\u007f""#, r#""\u0001\u001f\u007f""#),
            (r#""é文😀!""#, r#""\u00e9\u6587\ud83d\ude00!""#),
        ] {
            check(input, expected);
        }
    }

    #[test]
    fn keys_are_sorted_by_code_point() {
        check(
            "{\"\u{ff21}\":1,\"\u{1f600}\":2,\"b\":{\"z\":[],\"a\":{}}}",
            r#"{"b":{"a":{},"z":[]},"\uff21":1,"\ud83d\ude00":2}"#,
        );
    }

    #[test]
    fn permit_form_escapes_only_what_json_demands() {
        let permit = json!({"é": "文\u{7f}\n\"\u{1}", "a": [1.5, null, true]});
        let mut out = String::new();
        write_permit_form(permit.as_object().expect("object").iter(), &mut out);
        assert_eq!(out, "{\"a\":[1.5,null,true],\"é\":\"文\u{7f}\\n\\\"\\u0001\"}");
    }

    #[test]
    fn beyond_the_floats_is_written_as_python_does() {
        check("[1E400,-1e400]", "[Infinity,-Infinity]");
    }
}

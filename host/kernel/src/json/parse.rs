//! A strict JSON reader for what strangers send.
//!
//! Why not `serde_json::from_slice`: with exact numbers switched on, it reads the object
//! `{"$serde_json::private::Number": "5"}` as the number 5, so that what is judged would not be what was sent; and it
//! accepts `1E400`, which has no canonical form. This reader refuses both, and says where.
//!
//! Accepts exactly RFC 8259 in UTF-8, nested at most [`DEPTH_MAX`] deep. Of equal keys the last counts, as in Python.
//! An error quotes a few characters at most, however large the input.

use serde_json::{Map, Number, Value};

/// The deepest nesting of arrays and objects that is read.
///
/// `serde_json` itself stops at 128. What is accepted here is stored inside other documents (a receipt, a record, a
/// bundle) and must still be readable there, hence the room of eight.
pub const DEPTH_MAX: usize = 120;

/// Keys that `serde_json` gives a meaning of its own; see the module's head.
const RESERVED_PREFIX: &str = "$serde_json::private::";

/// How much of a refused number an error quotes, in bytes.
const QUOTE_BYTES_MAX: usize = 24;

/// Why a text is not acceptable JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line} column {column}")]
pub struct JsonError {
    /// What is wrong.
    pub problem: JsonProblem,
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
}

/// What is wrong with a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonProblem {
    /// The bytes are not UTF-8.
    #[error("invalid utf-8")]
    NotUtf8,
    /// The text stops too early.
    #[error("unexpected end of input, expected {expected}")]
    UnexpectedEnd {
        /// What could have followed.
        expected: &'static str,
    },
    /// A character that cannot stand here.
    #[error("unexpected {found:?}, expected {expected}")]
    Unexpected {
        /// The character.
        found: char,
        /// What could have stood here.
        expected: &'static str,
    },
    /// A UTF-16 surrogate escape without its partner: no character.
    #[error("unpaired surrogate \\u{unit:04x}")]
    UnpairedSurrogate {
        /// The escape's value.
        unit: u16,
    },
    /// A float too large for 64 bits.
    #[error("number {text} is beyond the range of a 64-bit float")]
    NumberNotFinite {
        /// The number's beginning.
        text: String,
    },
    /// Arrays and objects nested too deep.
    #[error("nesting deeper than {DEPTH_MAX}")]
    TooDeep,
    /// A key that the JSON library gives a meaning of its own.
    #[error("object key with reserved prefix {RESERVED_PREFIX}")]
    ReservedKey,
}

/// Reads one JSON value that fills `bytes` but for white space.
///
/// # Errors
/// A [`JsonError`] names the first thing that is not acceptable, and its place.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let read = || {
        let text = std::str::from_utf8(bytes).map_err(|error| (error.valid_up_to(), JsonProblem::NotUtf8))?;
        let mut reader = Reader { text, bytes, at: 0, depth: 0 };
        reader.document().map_err(|problem| (reader.at, problem))
    };
    read().map_err(|(at, problem)| locate(bytes, at, problem))
}

fn locate(bytes: &[u8], at: usize, problem: JsonProblem) -> JsonError {
    let before = &bytes[..at.min(bytes.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    JsonError { problem, line: before.split(|&byte| byte == b'\n').count(), column: before.len() - line_start + 1 }
}

/// Always holds: `at` is on a character boundary of `text`, and on the culprit when an error is returned.
struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Value, JsonProblem> {
        let value = self.value()?;
        match self.peek_token() {
            None => Ok(value),
            Some(_) => Err(self.unexpected("end of input")),
        }
    }

    fn value(&mut self) -> Result<Value, JsonProblem> {
        match self.peek_token() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Value, JsonProblem>) -> Result<Value, JsonProblem> {
        if self.depth == DEPTH_MAX {
            return Err(JsonProblem::TooDeep);
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, JsonProblem> {
        let mut members = Map::new();
        if self.skip_token(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            if self.peek_token() != Some(b'"') {
                return Err(self.unexpected("a string as key"));
            }
            let key_at = self.at;
            let key = self.string()?;
            if key.starts_with(RESERVED_PREFIX) {
                self.at = key_at;
                return Err(JsonProblem::ReservedKey);
            }
            if !self.skip_token(b':') {
                return Err(self.unexpected("a colon"));
            }
            members.insert(key, self.value()?);
            if self.skip_token(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.skip_token(b',') {
                return Err(self.unexpected("a comma or the object's end"));
            }
        }
    }

    fn array(&mut self) -> Result<Value, JsonProblem> {
        let mut items = Vec::new();
        if self.skip_token(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.skip_token(b']') {
                return Ok(Value::Array(items));
            }
            if !self.skip_token(b',') {
                return Err(self.unexpected("a comma or the array's end"));
            }
        }
    }

    fn word(&mut self, word: &'static str, value: Value) -> Result<Value, JsonProblem> {
        for expected in word.bytes() {
            if !self.skip(expected) {
                return Err(self.unexpected(word));
            }
        }
        Ok(value)
    }

    /// Reads a number and keeps its text.
    fn number(&mut self) -> Result<Number, JsonProblem> {
        let start = self.at;
        self.skip(b'-');
        if !self.skip(b'0') {
            self.digits()?;
        }
        let integer_end = self.at;
        if self.skip(b'.') {
            self.digits()?;
        }
        if self.skip(b'e') || self.skip(b'E') {
            let _sign = self.skip(b'+') || self.skip(b'-');
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let is_float = self.at > integer_end;
        // Both readings accept every text of this grammar; if ever not, the number is refused.
        match text.parse::<Number>() {
            Ok(number) if !is_float || text.parse().is_ok_and(f64::is_finite) => Ok(number),
            _ => {
                self.at = start;
                let text = text[..text.len().min(QUOTE_BYTES_MAX)].to_owned();
                Err(JsonProblem::NumberNotFinite { text })
            }
        }
    }

    fn digits(&mut self) -> Result<(), JsonProblem> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<String, JsonProblem> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            let special = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
            let run = self.bytes[start..].iter().position(special);
            self.at = run.map_or(self.bytes.len(), |run| start + run);
            out.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                _ => return Err(self.unexpected("a closing quote")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonProblem> {
        let backslash_at = self.at;
        self.at += 1;
        let character = match self.peek() {
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape(backslash_at);
            }
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            _ => return Err(self.unexpected("an escape")),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode_escape(&mut self, backslash_at: usize) -> Result<char, JsonProblem> {
        let unit = self.hex_unit()?;
        let mut units = [unit, 0];
        let mut length = 1;
        if (0xd800..0xdc00).contains(&unit) && self.bytes[self.at..].starts_with(b"\\u") {
            self.at += 2;
            units[1] = self.hex_unit()?;
            length = 2;
        }
        let mut decoded = char::decode_utf16(units.into_iter().take(length));
        let Some(Ok(character)) = decoded.next() else {
            self.at = backslash_at;
            return Err(JsonProblem::UnpairedSurrogate { unit });
        };
        Ok(character)
    }

    fn hex_unit(&mut self) -> Result<u16, JsonProblem> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit.and_then(|digit| u16::try_from(digit).ok()) else {
                return Err(self.unexpected("a hexadecimal digit"));
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// The next byte that is not white space, which is skipped.
    fn peek_token(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        self.peek()
    }

    fn skip_token(&mut self, byte: u8) -> bool {
        self.peek_token();
        self.skip(byte)
    }

    fn unexpected(&self, expected: &'static str) -> JsonProblem {
        match self.text[self.at..].chars().next() {
            Some(found) => JsonProblem::Unexpected { found, expected },
            None => JsonProblem::UnexpectedEnd { expected },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expected: &str) {
        let error = parse(input).expect_err("refused");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn refusals_say_what_and_where() {
        for (input, expected) in [
            ("", "unexpected end of input, expected a value at line 1 column 1"),
            ("{\"a\":\n 1} x", "unexpected 'x', expected end of input at line 2 column 5"),
            ("[1,]", "unexpected ']', expected a value at line 1 column 4"),
            ("{1:2}", "unexpected '1', expected a string as key at line 1 column 2"),
            ("{\"a\" 2}", "unexpected '2', expected a colon at line 1 column 6"),
            ("[1 é", "unexpected 'é', expected a comma or the array's end at line 1 column 4"),
            ("01", "unexpected '1', expected end of input at line 1 column 2"),
            ("1.", "unexpected end of input, expected a digit at line 1 column 3"),
            ("-x", "unexpected 'x', expected a digit at line 1 column 2"),
            ("NaN", "unexpected 'N', expected a value at line 1 column 1"),
            ("nul", "unexpected end of input, expected null at line 1 column 4"),
            ("\"a\nb\"", "unexpected '\\n', expected a closing quote at line 1 column 3"),
        ] {
            check(input.as_bytes(), expected);
        }
    }

    #[test]
    fn refusals_inside_strings_and_numbers_say_where() {
        for (input, expected) in [
            (r#""\x""#, "unexpected 'x', expected an escape at line 1 column 3"),
            (r#""\u00g0""#, "unexpected 'g', expected a hexadecimal digit at line 1 column 6"),
            (r#""\ud800""#, "unpaired surrogate \\ud800 at line 1 column 2"),
            (r#""a\udc00""#, "unpaired surrogate \\udc00 at line 1 column 3"),
            (r#""\ud800\ud800""#, "unpaired surrogate \\ud800 at line 1 column 2"),
            ("[-1E400]", "number -1E400 is beyond the range of a 64-bit float at line 1 column 2"),
            (
                r#"{"x":{"\u0024serde_json::private::Number":"5"}}"#,
                "object key with reserved prefix $serde_json::private:: at line 1 column 7",
            ),
        ] {
            check(input.as_bytes(), expected);
        }
        check(b"[\"\xff\"]", "invalid utf-8 at line 1 column 3");
    }

    #[test]
    fn depth_is_bounded() {
        let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let deepest = parse(nest(DEPTH_MAX).as_bytes()).expect("as deep as allowed");
        assert!(serde_json::from_str::<Value>(&format!("[[[[[[[{deepest}]]]]]]]")).is_ok());
        check(nest(DEPTH_MAX + 1).as_bytes(), "nesting deeper than 120 at line 1 column 121");
        check("[".repeat(1_000_000).as_bytes(), "nesting deeper than 120 at line 1 column 121");
    }

    #[test]
    fn a_large_number_is_not_echoed() {
        let error = parse(format!("{}.0", "9".repeat(1_000_000)).as_bytes()).expect_err("refused");
        assert!(error.to_string().len() < 100);
    }

    #[test]
    fn agrees_with_serde_json_on_what_both_accept() {
        for text in [
            " {\"a\" : [ 1 , -2.50e+3 , true,false , null ] , \"\" : {} , \"a\\u00e9\" : \"\\ud83d\\ude00\\/\" }\n",
            "\"é\\\"\\\\\\b\\f\\n\\r\\t\"",
            "-0",
            "123456789012345678901234567890",
            "[]",
        ] {
            let expected: Value = serde_json::from_str(text).expect("valid JSON");
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        assert_eq!(parse(br#"{"a":1,"a":2}"#), Ok(serde_json::json!({"a": 2})));
    }
}

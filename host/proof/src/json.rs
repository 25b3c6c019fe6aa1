//! Just enough JSON to put a record together and to take it apart without changing a byte.
//!
//! A record embeds texts that its callers wrote: were `{},"prev_hash":"…` accepted as a `meta`, a
//! caller could forge the fields that the ledger owns. So each text is scanned at both ends, when
//! it is appended and when it is read: exactly one object, ASCII, no white space between tokens, at
//! most [`DEPTH_MAX`] deep. Whether keys are sorted and numbers canonical is the business of
//! whoever wrote the text (the kernel crate); nothing here depends on it.
//!
//! It is a scanner of its own because the raw text must come back verbatim for hashing, and because
//! a full audit has about a microsecond for each record, most of which belongs to SHA-256.

use crate::hash::HEX_DIGITS;

/// The deepest nesting of objects and arrays in a text.
pub const DEPTH_MAX: usize = 128;

/// What is wrong with a text, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The byte.
    pub at: usize,
    /// What should be there.
    pub what: &'static str,
}

type Scanned = Result<(), Malformed>;

/// Checks that `text` is exactly one object.
///
/// # Errors
/// The first byte that is not as it should be.
pub fn check_object(text: &str) -> Scanned {
    let mut scanner = Scanner::new(text);
    scanner.object()?;
    scanner.end()
}

/// The raw text of the value under `key` at the top of `object`, which must have passed
/// [`check_object`].
#[must_use]
pub fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let mut scanner = Scanner::new(object);
    scanner.literal("{").ok()?;
    while !scanner.take("}") {
        let name_at = scanner.at;
        scanner.string().ok()?;
        let name = object.get(name_at + 1..scanner.at - 1)?;
        scanner.literal(":").ok()?;
        let value_at = scanner.at;
        scanner.value(1).ok()?;
        if name == key {
            return object.get(value_at..scanner.at);
        }
        scanner.take(",");
    }
    None
}

/// The raw texts of the elements of the list `text`; `None` if it is no list without white space.
#[must_use]
pub fn elements(text: &str) -> Option<Vec<&str>> {
    let mut scanner = Scanner::new(text);
    let mut found = Vec::new();
    scanner.literal("[").ok()?;
    if !scanner.take("]") {
        loop {
            let start = scanner.at;
            scanner.value(1).ok()?;
            found.push(text.get(start..scanner.at)?);
            if !scanner.take(",") {
                scanner.literal("]").ok()?;
                break;
            }
        }
    }
    scanner.end().ok()?;
    Some(found)
}

/// A canonical unsigned integer: digits only, no leading zero.
#[must_use]
pub fn parse_u64(text: &str) -> Option<u64> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if canonical { text.parse().ok() } else { None }
}

/// Appends `text` as a canonical JSON string: all that is not ASCII, or is a control character,
/// escaped.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{20}'..='\u{7e}' => out.push(character),
            _ => push_escaped(out, character),
        }
    }
    out.push('"');
}

pub(crate) fn push_escaped(out: &mut String, character: char) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for unit in character.encode_utf16(&mut [0; 2]) {
        out.push_str("\\u");
        for shift in [12, 8, 4, 0] {
            out.push(DIGITS[usize::from(*unit >> shift) & 0xf].into());
        }
    }
}

/// Walks over a text; the record reader drives it through the parts of a record.
pub struct Scanner<'a> {
    bytes: &'a [u8],
    /// The next byte.
    pub at: usize,
}

impl<'a> Scanner<'a> {
    /// At the first byte of `text`.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0 }
    }

    /// Steps over `expected` if it comes next.
    #[inline]
    pub fn take(&mut self, expected: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(expected.as_bytes());
        if found {
            self.at += expected.len();
        }
        found
    }

    /// Steps over `expected`, which must come next.
    ///
    /// # Errors
    /// The byte where it is not so.
    pub fn literal(&mut self, expected: &'static str) -> Scanned {
        if self.take(expected) { Ok(()) } else { self.fail(expected) }
    }

    /// Steps over a digest of 64 hex digits in lower case.
    ///
    /// # Errors
    /// The byte where it is not so.
    pub fn hex_digest(&mut self) -> Scanned {
        let is_digit = |byte: u8| byte.is_ascii_digit() | matches!(byte, b'a'..=b'f');
        match self.bytes[self.at..].first_chunk::<HEX_DIGITS>() {
            Some(digits) if digits.iter().fold(true, |all, &byte| all & is_digit(byte)) => {
                self.at += HEX_DIGITS;
                Ok(())
            }
            _ => self.fail("64 hex digits in lower case"),
        }
    }

    /// Steps over the bytes that satisfy `belongs`.
    #[inline]
    pub fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) {
        let rest = &self.bytes[self.at..];
        self.at += rest.iter().position(|&byte| !belongs(byte)).unwrap_or(rest.len());
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// The byte where it is not so.
    pub fn end(&self) -> Scanned {
        if self.at == self.bytes.len() { Ok(()) } else { self.fail("the end of the text") }
    }

    /// Steps over one object.
    ///
    /// # Errors
    /// The byte where it is not so.
    pub fn object(&mut self) -> Scanned {
        if self.peek() == Some(b'{') { self.value(0) } else { self.fail("an object") }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, what })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn value(&mut self, depth: usize) -> Scanned {
        if depth >= DEPTH_MAX {
            return self.fail("nesting of at most 128 levels");
        }
        match self.peek() {
            Some(b'{') => self.members(depth),
            Some(b'[') => self.elements(depth),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.fail("a value"),
        }
    }

    fn members(&mut self, depth: usize) -> Scanned {
        self.literal("{")?;
        if self.take("}") {
            return Ok(());
        }
        loop {
            self.string()?;
            self.literal(":")?;
            self.value(depth + 1)?;
            if !self.take(",") {
                return self.literal("}");
            }
        }
    }

    fn elements(&mut self, depth: usize) -> Scanned {
        self.literal("[")?;
        if self.take("]") {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            if !self.take(",") {
                return self.literal("]");
            }
        }
    }

    fn string(&mut self) -> Scanned {
        self.literal("\"")?;
        loop {
            self.skip_plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                _ => return self.fail("an ASCII string without control characters, closed by a quote"),
            }
        }
    }

    /// Steps over what may stand in a string as it is. Most of a record is that, so it goes by
    /// blocks, in which the compiler tests all bytes at once because nothing ends the test early.
    fn skip_plain(&mut self) {
        let is_plain = |byte: u8| matches!(byte, 0x20..=0x7f) && byte != b'"' && byte != b'\\';
        let blocks = self.bytes[self.at..].chunks_exact(16);
        let plain = blocks.take_while(|block| block.iter().fold(true, |all, &byte| all & is_plain(byte)));
        self.at += plain.count() * 16;
        self.skip_while(is_plain);
    }

    fn escape(&mut self) -> Scanned {
        self.literal("\\")?;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') if self.hex_digits_follow() => self.at += 5,
            _ => return self.fail("an escape"),
        }
        Ok(())
    }

    fn hex_digits_follow(&self) -> bool {
        self.bytes.get(self.at + 1..self.at + 5).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    }

    fn number(&mut self) -> Scanned {
        self.take("-");
        if !self.take("0") {
            self.digits()?;
        }
        if self.take(".") {
            self.digits()?;
        }
        if self.take("e") || self.take("E") {
            let _signed = self.take("+") || self.take("-");
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Scanned {
        let start = self.at;
        self.skip_while(|byte| byte.is_ascii_digit());
        if self.at > start { Ok(()) } else { self.fail("a digit") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_one_object_and_nothing_else() {
        for text in ["{}", r#"{"a":[1,-0.5e+3,true,false,null,"\u00e4\n\"",{"b":[]}]}"#, "{\"del\":\"\u{7f}\"}"] {
            assert_eq!(check_object(text), Ok(()), "{text}");
        }
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for text in [
            "",
            "[]",
            "{",
            "{}{}",
            "{} ",
            r#"{"a": 1}"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":"ä"}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12"}"#,
            r"{a:1}",
            r#"{},"prev_hash":"x","z":{}"#,
            &nested,
        ] {
            assert!(check_object(text).is_err(), "{text}");
        }
    }

    #[test]
    fn finds_members_at_the_top_only() {
        let text = r#"{"a":{"decision_index":1},"decision_index":27,"z":"decision_index"}"#;
        assert_eq!(member(text, "decision_index"), Some("27"));
        assert_eq!(member(text, "a"), Some(r#"{"decision_index":1}"#));
        assert_eq!(member(text, "b"), None);
        assert_eq!(member("{}", "b"), None);
    }

    #[test]
    fn lists_are_taken_apart() {
        assert_eq!(elements("[]"), Some(vec![]));
        assert_eq!(elements(r#"[1,"],",[2,3],{"a":[]}]"#), Some(vec!["1", r#""],""#, "[2,3]", r#"{"a":[]}"#]));
        for text in ["", "{}", "[", "[1,]", "[1 ]", "[1]]"] {
            assert_eq!(elements(text), None, "{text}");
        }
    }

    #[test]
    fn integers_are_canonical() {
        assert_eq!(parse_u64("18446744073709551615"), Some(u64::MAX));
        for text in ["", "00", "07", "+7", "-1", "1.0", "18446744073709551616"] {
            assert_eq!(parse_u64(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn strings_read_back(text in any::<String>()) {
            let mut quoted = String::new();
            push_string(&mut quoted, &text);
            prop_assert!(quoted.is_ascii());
            prop_assert_eq!(check_object(&format!("{{\"k\":{quoted}}}")), Ok(()));
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }

        #[test]
        fn what_it_accepts_is_json(text in r#"[{}\[\]",:0-9a-z\\.-]{0,24}"#) {
            if check_object(&text).is_ok() {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
            }
        }
    }
}

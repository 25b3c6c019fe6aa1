//! From text to values: one pass, recursive, with a bound on the depth.

use std::borrow::Cow;

use super::{DEPTH_MAX, Json, Wrong};

pub(super) fn parse(text: &str) -> Result<Json<'_>, Wrong> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at < text.len() { Err(parser.error("the end")) } else { Ok(value) }
}

struct Parser<'t> {
    text: &'t str,
    /// Always at the beginning of a character.
    at: usize,
}

impl<'t> Parser<'t> {
    fn value(&mut self, depth: usize) -> Result<Json<'t>, Wrong> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            _ => Err(self.error("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'t>, Wrong> {
        let depth = self.deeper(depth)?;
        let mut fields = Vec::new();
        if self.next_is(b'}') {
            return Ok(Json::Object(fields));
        }
        loop {
            self.skip_space();
            let name = self.string()?;
            if !self.next_is(b':') {
                return Err(self.error("`:`"));
            }
            fields.push((name, self.value(depth)?));
            if self.next_is(b'}') {
                return Ok(Json::Object(fields));
            }
            if !self.next_is(b',') {
                return Err(self.error("`,` or `}`"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json<'t>, Wrong> {
        let depth = self.deeper(depth)?;
        let mut items = Vec::new();
        if self.next_is(b']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            if self.next_is(b']') {
                return Ok(Json::List(items));
            }
            if !self.next_is(b',') {
                return Err(self.error("`,` or `]`"));
            }
        }
    }

    /// Over the bracket, one level down.
    fn deeper(&mut self, depth: usize) -> Result<usize, Wrong> {
        if depth == DEPTH_MAX {
            return Err(Wrong::new(format!("the JSON is nested deeper than {DEPTH_MAX}")));
        }
        self.at += 1;
        Ok(depth + 1)
    }

    fn string(&mut self) -> Result<Cow<'t, str>, Wrong> {
        if self.peek() != Some(b'"') {
            return Err(self.error("a text"));
        }
        self.at += 1;
        let plain = self.plain()?;
        if self.next_byte_is(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut unescaped = plain.to_owned();
        while !self.next_byte_is(b'"') {
            self.at += 1; // the backslash, where `plain` stopped
            unescaped.push(self.escape()?);
            unescaped.push_str(self.plain()?);
        }
        Ok(Cow::Owned(unescaped))
    }

    /// What comes before the next quote or backslash. Both are ASCII, so the cut is between characters.
    fn plain(&mut self) -> Result<&'t str, Wrong> {
        let rest = &self.text[self.at..];
        match rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ') {
            Some(end) if rest.as_bytes()[end] >= b' ' => {
                self.at += end;
                Ok(&rest[..end])
            }
            other => {
                self.at += other.unwrap_or(rest.len());
                Err(self.error("`\"`"))
            }
        }
    }

    /// The character that an escape stands for, after its backslash.
    fn escape(&mut self) -> Result<char, Wrong> {
        let character = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.error("an escape")),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, Wrong> {
        let unit = self.code_unit()?;
        let code = match unit {
            0xD800..=0xDBFF if self.next_byte_is(b'\\') => match self.code_unit()? {
                low @ 0xDC00..=0xDFFF => 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00),
                _ => unit,
            },
            _ => unit,
        };
        char::from_u32(code).ok_or_else(|| self.error("the other half of a surrogate pair"))
    }

    /// `u` and four hexadecimal digits.
    fn code_unit(&mut self) -> Result<u32, Wrong> {
        let digits = self.text.as_bytes().get(self.at..self.at + 5).and_then(|escape| escape.strip_prefix(b"u"));
        let unit = digits.and_then(|digits| {
            digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
        });
        match unit {
            Some(unit) => {
                self.at += 5;
                Ok(unit)
            }
            None => Err(self.error("an escape")),
        }
    }

    fn number(&mut self) -> Result<Json<'t>, Wrong> {
        let start = self.at;
        self.next_byte_is(b'-');
        if !self.next_byte_is(b'0') {
            self.digits()?;
        }
        if self.next_byte_is(b'.') {
            self.digits()?;
        }
        if self.next_byte_is(b'e') || self.next_byte_is(b'E') {
            if !self.next_byte_is(b'+') {
                self.next_byte_is(b'-');
            }
            self.digits()?;
        }
        Ok(Json::Number(&self.text[start..self.at]))
    }

    fn digits(&mut self) -> Result<(), Wrong> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("a digit")) } else { Ok(()) }
    }

    fn word(&mut self, word: &str, value: Json<'t>) -> Result<Json<'t>, Wrong> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn next_is(&mut self, byte: u8) -> bool {
        self.skip_space();
        self.next_byte_is(byte)
    }

    fn next_byte_is(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, expected: &str) -> Wrong {
        Wrong::new(format!("not JSON: expected {expected} at byte {}", self.at))
    }
}

//! Every text of a JSON text, in order, with its place, without keeping any of it.
//!
//! Why not [`gavel_policy::json`], which makes values: half a million small items are 1 MiB of text and ten times that
//! as values, more memory than a policy has. Here the memory is the deepest path and the longest text with escapes.
//! Names that come twice are told twice. The tests compare what is told with another parser.

use std::borrow::Cow;

/// The deepest nesting that is read; that of [`gavel_policy::json`].
const DEPTH_MAX: usize = gavel_policy::json::DEPTH_MAX;

/// One step of the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment<'t> {
    Key(Cow<'t, str>),
    Index(usize),
}

impl Segment<'_> {
    pub(crate) fn word(&self) -> Cow<'_, str> {
        match self {
            Segment::Key(key) => Cow::Borrowed(key),
            Segment::Index(index) => Cow::Owned(index.to_string()),
        }
    }
}

/// What was come across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'e> {
    /// The name of a field of the object at the path.
    Key(&'e str),
    /// A text at the path, without its escapes.
    Text(&'e str),
    /// A number at the path, as written.
    Number(&'e str),
}

/// The text is not JSON, or nested too deep: where it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJson {
    pub(crate) at_byte: usize,
}

/// Tell `visit` of every key, text and number. What comes before a fault is told too.
pub(crate) fn walk<'t>(text: &'t str, visit: &mut dyn FnMut(&[Segment<'t>], Event<'_>)) -> Result<(), NotJson> {
    let mut walker = Walker { text, at: 0, path: Vec::new() };
    match walker.run(visit) {
        Some(()) => Ok(()),
        None => Err(NotJson { at_byte: walker.at }),
    }
}

struct Walker<'t> {
    text: &'t str,
    /// Always at the beginning of a character.
    at: usize,
    /// One segment for each container that is open: the key or index of its part at hand.
    path: Vec<Segment<'t>>,
}

impl<'t> Walker<'t> {
    /// `None` as soon as the text is not JSON.
    fn run(&mut self, visit: &mut dyn FnMut(&[Segment<'t>], Event<'_>)) -> Option<()> {
        loop {
            // A value is due. An opened container that is not empty has its first value due next.
            if self.value(visit)? {
                continue;
            }
            // A value is over: on to the next one, out of every container that ends here.
            loop {
                self.skip_space();
                let Some(last) = self.path.last_mut() else {
                    return (self.at == self.text.len()).then_some(());
                };
                let (is_object, byte) = (matches!(last, Segment::Key(_)), self.text.as_bytes().get(self.at).copied()?);
                self.at += 1;
                match (byte, last) {
                    (b',', Segment::Index(index)) => {
                        *index += 1;
                        break;
                    }
                    (b',', Segment::Key(_)) => {
                        self.path.pop();
                        self.key(visit)?;
                        break;
                    }
                    (b'}', _) if is_object => self.path.pop(),
                    (b']', _) if !is_object => self.path.pop(),
                    _ => return None,
                };
            }
        }
    }

    /// Read a value, or only the beginning of a container that is not empty; then true.
    fn value(&mut self, visit: &mut dyn FnMut(&[Segment<'t>], Event<'_>)) -> Option<bool> {
        self.skip_space();
        match self.peek()? {
            b'{' => {
                self.open()?;
                if self.next_is(b'}') {
                    return Some(false);
                }
                self.key(visit)?;
                return Some(true);
            }
            b'[' => {
                self.open()?;
                if self.next_is(b']') {
                    return Some(false);
                }
                self.path.push(Segment::Index(0));
                return Some(true);
            }
            b'"' => {
                let text = self.string()?;
                visit(&self.path, Event::Text(&text));
            }
            b'-' | b'0'..=b'9' => {
                let rest = &self.text[self.at..];
                let is_part = |byte: u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let end = rest.bytes().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                self.at += end;
                visit(&self.path, Event::Number(&rest[..end]));
            }
            b't' => self.word("true")?,
            b'f' => self.word("false")?,
            b'n' => self.word("null")?,
            _ => return None,
        }
        Some(false)
    }

    fn open(&mut self) -> Option<()> {
        self.at += 1;
        (self.path.len() < DEPTH_MAX).then_some(())
    }

    /// A name and its colon; the name becomes the last segment.
    fn key(&mut self, visit: &mut dyn FnMut(&[Segment<'t>], Event<'_>)) -> Option<()> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return None;
        }
        let key = self.string()?;
        visit(&self.path, Event::Key(&key));
        self.path.push(Segment::Key(key));
        self.next_is(b':').then_some(())
    }

    fn string(&mut self) -> Option<Cow<'t, str>> {
        self.at += 1;
        let plain = self.plain()?;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Some(Cow::Borrowed(plain));
        }
        let mut unescaped = plain.to_owned();
        while self.peek() == Some(b'\\') {
            self.at += 1;
            unescaped.push(self.escape()?);
            unescaped.push_str(self.plain()?);
        }
        self.at += 1;
        Some(Cow::Owned(unescaped))
    }

    /// What comes before the next quote or backslash. Both are ASCII, so the cut is between characters.
    fn plain(&mut self) -> Option<&'t str> {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ');
        self.at += end.unwrap_or(rest.len());
        end.filter(|end| rest.as_bytes()[*end] >= b' ').map(|end| &rest[..end])
    }

    /// The character that an escape stands for, after its backslash. Half a surrogate pair is the replacement
    /// character: a text is looked through, not passed on.
    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.code_unit()?;
                let low = (0xD800..0xDC00).contains(&unit).then(|| self.low_surrogate()).flatten();
                let code = low.map_or(unit, |low| 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return None,
        })
    }

    fn low_surrogate(&mut self) -> Option<u32> {
        let before = self.at;
        let rest = &self.text.as_bytes()[self.at..];
        if rest.starts_with(b"\\u") {
            self.at += 2;
            if let Some(low @ 0xDC00..0xE000) = self.code_unit() {
                return Some(low);
            }
        }
        self.at = before;
        None
    }

    fn code_unit(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        let unit = digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))?;
        self.at += 4;
        Some(unit)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if is { word.len() } else { 0 };
        is.then_some(())
    }

    fn next_is(&mut self, byte: u8) -> bool {
        self.skip_space();
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn told(text: &str) -> (Vec<String>, Result<(), NotJson>) {
        let mut told = Vec::new();
        let outcome = walk(text, &mut |path, event| {
            let at: String = path
                .iter()
                .map(|segment| match segment {
                    Segment::Key(key) => format!("/{key}"),
                    Segment::Index(index) => format!("/{index}"),
                })
                .collect();
            told.push(format!("{at} {event:?}"));
        });
        (told, outcome)
    }

    fn expected(value: &Value, at: &str, told: &mut Vec<String>) {
        match value {
            Value::String(text) => told.push(format!("{at} {:?}", Event::Text(text))),
            Value::Number(number) => told.push(format!("{at} {:?}", Event::Number(&number.to_string()))),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| expected(item, &format!("{at}/{index}"), told));
            }
            Value::Object(fields) => {
                for (key, field) in fields {
                    told.push(format!("{at} {:?}", Event::Key(key)));
                    expected(field, &format!("{at}/{key}"), told);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// As the kernel writes it.
    fn escaped(text: &str) -> String {
        let mut ascii = String::new();
        for character in text.chars() {
            if character.is_ascii() {
                ascii.push(character);
            } else {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    ascii.extend(["\\u", &format!("{unit:04x}")]);
                }
            }
        }
        ascii
    }

    proptest! {
        #[test]
        fn tells_what_another_parser_reads(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }
                .expect("JSON");
            let mut wanted = Vec::new();
            expected(&value, "", &mut wanted);
            prop_assert_eq!(told(&text), (wanted.clone(), Ok(())));
            prop_assert_eq!(told(&escaped(&text)), (wanted, Ok(())));
        }

        #[test]
        fn takes_every_text_that_another_parser_takes(text in "[\\[\\]{},:\"a0 tru\\\\-]{0,12}") {
            if serde_json::from_str::<Value>(&text).is_ok() {
                prop_assert_eq!(told(&text).1, Ok(()));
            }
        }
    }

    #[test]
    fn faults_are_told_with_their_place_and_what_came_before() {
        for (text, at_byte) in [("", 0), ("{", 1), (r#"{"a"}"#, 4), ("[1,]", 3), ("[1}", 3), ("1 2", 2), ("nul", 0)] {
            assert_eq!(told(text).1, Err(NotJson { at_byte }), "{text}");
        }
        assert_eq!(told(r#"["a", oops"#).0, [r#"/0 Text("a")"#]);
        assert_eq!(told(r#""\ud83d\ude00 \ud83d""#).0, ["\u{20}Text(\"😀 \u{fffd}\")"]);
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(told(&nested(DEPTH_MAX)).1, Ok(()));
        assert!(told(&nested(DEPTH_MAX + 1)).1.is_err());
    }
}

//! Reads a JSON object of any length piece by piece, and hands on the members of it, or the elements of
//! its long lists, one at a time.
//!
//! A bundle may hold millions of records; whoever verifies it holds one of them. The pieces may be cut
//! anywhere, even within a character. White space between tokens is dropped and what is not ASCII is
//! escaped as canonical JSON has it, so a file that some tool has pretty-printed gives the texts that
//! were hashed. Here only the outer form is checked: that each text is JSON is for its reader to find.
//!
//! Always holds: at most [`ITEM_BYTES_MAX`] bytes of one text are kept.

use crate::json;

/// The longest member, or element of a list, in bytes without white space.
pub(crate) const ITEM_BYTES_MAX: usize = 4 << 20;

/// The longest name of a member.
const KEY_BYTES_MAX: usize = 256;

/// A part of the object, complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A member that is not one of the lists.
    Member {
        /// Its name.
        key: &'a str,
        /// Its text, without white space.
        value: &'a str,
    },
    /// A list begins; its elements follow.
    List {
        /// Which.
        key: &'a str,
    },
    /// The object that is the member of this name begins: what follows are its members.
    Enter {
        /// Its name.
        key: &'a str,
    },
    /// That object ends: what follows are members of the outer one again.
    Leave,
    /// An element of a list.
    Element {
        /// Of which list.
        key: &'a str,
        /// Its text, without white space.
        value: &'a str,
    },
}

/// What is wrong with the outer form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} should be {wanted}")]
pub(crate) struct Misplaced {
    /// Which byte of the file, from 0.
    pub(crate) at: u64,
    /// What should be there.
    pub(crate) wanted: String,
}

/// Where the reader stands between two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    KeyOrEnd,
    Key,
    Colon,
    Value,
    CommaOrEnd,
    ElementOrEnd,
    Element,
    ElementComma,
    End,
}

/// A text being collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Begun by a quote.
    Text,
    /// Begun by a bracket; so many are open.
    Nested(u32),
    /// A number or a word: ends before what is no part of it.
    Word,
}

/// The reader.
#[derive(Debug)]
pub(crate) struct Items {
    lists: &'static [&'static str],
    /// The member whose members are read as if they stood at the top.
    within: &'static str,
    entered: bool,
    place: Place,
    shape: Option<Shape>,
    in_string: bool,
    escaped: bool,
    key: String,
    text: Vec<u8>,
    at: u64,
    elements: u64,
}

impl Items {
    /// A reader that hands on the elements of the members named in `lists` one by one, and the members
    /// of the object `within` as those at the top.
    #[must_use]
    pub(crate) fn new(lists: &'static [&'static str], within: &'static str) -> Self {
        Self {
            lists,
            within,
            entered: false,
            place: Place::Start,
            shape: None,
            in_string: false,
            escaped: false,
            key: String::new(),
            text: Vec::new(),
            at: 0,
            elements: 0,
        }
    }

    /// Takes the next piece, and calls `take` with each item that it completes.
    ///
    /// # Errors
    /// The first byte that is out of place, or what `take` did not accept.
    pub(crate) fn push<E: From<Misplaced>>(
        &mut self,
        mut piece: &[u8],
        take: &mut impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(&byte) = piece.first() {
            let collecting = self.shape;
            let used = match collecting {
                None => usize::from(self.step(byte, take)?),
                Some(shape) => self.collect(shape, piece),
            };
            self.at += used as u64;
            piece = &piece[used..];
            if self.text.len() > ITEM_BYTES_MAX {
                return Err(self.misplaced(&format!("within a text of at most {ITEM_BYTES_MAX} bytes")).into());
            }
            if collecting.is_some() && self.shape.is_none() {
                self.complete(take)?;
            }
        }
        Ok(())
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// Where the text breaks off.
    pub(crate) fn finish(&self) -> Result<(), Misplaced> {
        let wanted = match self.place {
            Place::End => return Ok(()),
            Place::Start => "the beginning of a JSON object, but the file is empty".to_owned(),
            Place::ElementOrEnd | Place::Element | Place::ElementComma => {
                let (elements, key) = (self.elements, &self.key);
                format!("the rest of `{key}`, but the file ends there, after {elements} whole elements")
            }
            _ if self.key.is_empty() => "the rest of the object, but the file ends there".to_owned(),
            _ => format!("the rest of the object, but the file ends there, after or within `{}`", self.key),
        };
        Err(Misplaced { at: self.at, wanted })
    }

    /// One byte between texts. Whether it is used up: the first byte of a text is not.
    fn step<E: From<Misplaced>>(
        &mut self,
        byte: u8,
        take: &mut impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        if byte.is_ascii_whitespace() {
            return Ok(true);
        }
        self.place = match (self.place, byte) {
            (Place::Start, b'{') => Place::KeyOrEnd,
            (Place::KeyOrEnd | Place::CommaOrEnd, b'}') if self.entered => {
                self.entered = false;
                take(Item::Leave)?;
                Place::CommaOrEnd
            }
            (Place::KeyOrEnd | Place::CommaOrEnd, b'}') => Place::End,
            (Place::Value, b'{') if self.key == self.within && !self.entered => {
                self.entered = true;
                take(Item::Enter { key: &self.key })?;
                Place::KeyOrEnd
            }
            (Place::KeyOrEnd | Place::Key, b'"') => {
                self.key.clear();
                return Ok(self.begin(Place::Key, Shape::Text));
            }
            (Place::Colon, b':') => Place::Value,
            (Place::Value, b'[') if self.lists.contains(&self.key.as_str()) => {
                self.elements = 0;
                take(Item::List { key: &self.key })?;
                Place::ElementOrEnd
            }
            (Place::Value, _) if self.lists.contains(&self.key.as_str()) => {
                return Err(self.misplaced(&format!("the beginning of `{}`, which is a list", self.key)).into());
            }
            (Place::CommaOrEnd, b',') => Place::Key,
            (Place::ElementOrEnd | Place::ElementComma, b']') => Place::CommaOrEnd,
            (Place::ElementComma, b',') => Place::Element,
            (Place::Value, _) => return self.value(Place::Value, byte).map_err(E::from),
            (Place::ElementOrEnd | Place::Element, _) => return self.value(Place::Element, byte).map_err(E::from),
            (place, _) => return Err(self.misplaced(wanted(place)).into()),
        };
        Ok(true)
    }

    fn value(&mut self, place: Place, first: u8) -> Result<bool, Misplaced> {
        match first {
            b'"' => Ok(self.begin(place, Shape::Text)),
            b'{' | b'[' => Ok(self.begin(place, Shape::Nested(0))),
            b'-' | b'0'..=b'9' | b'a'..=b'z' => Ok(self.begin(place, Shape::Word)),
            _ => Err(self.misplaced("a value")),
        }
    }

    fn begin(&mut self, place: Place, shape: Shape) -> bool {
        self.place = place;
        self.shape = Some(shape);
        self.text.clear();
        false
    }

    /// Takes what belongs to the text from the front of `piece`; `shape` is gone when it is whole.
    fn collect(&mut self, shape: Shape, piece: &[u8]) -> usize {
        if self.in_string {
            return self.collect_string(shape, piece);
        }
        let byte = piece[0];
        match (shape, byte) {
            (Shape::Word, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') => {
                self.shape = None;
                return 0;
            }
            (_, b'"') => self.in_string = true,
            (Shape::Nested(_), b' ' | b'\t' | b'\r' | b'\n') => return 1,
            (Shape::Nested(open), b'{' | b'[') => self.shape = Some(Shape::Nested(open + 1)),
            (Shape::Nested(open), b'}' | b']') => self.shape = (open > 1).then(|| Shape::Nested(open - 1)),
            _ => {}
        }
        self.text.push(byte);
        1
    }

    fn collect_string(&mut self, shape: Shape, piece: &[u8]) -> usize {
        if self.escaped {
            self.escaped = false;
            self.text.push(piece[0]);
            return 1;
        }
        let ends = |byte: &u8| matches!(byte, b'"' | b'\\');
        // Not all at once: a string without end must meet the limit.
        let plain = piece.iter().take(ITEM_BYTES_MAX).position(ends);
        let Some(plain) = plain else {
            let used = piece.len().min(ITEM_BYTES_MAX);
            self.text.extend_from_slice(&piece[..used]);
            return used;
        };
        self.text.extend_from_slice(&piece[..=plain]);
        if piece[plain] == b'\\' {
            self.escaped = true;
        } else {
            self.in_string = false;
            self.shape = Some(shape).filter(|shape| *shape != Shape::Text);
        }
        plain + 1
    }

    /// A text is whole: hand it on, or remember it as the name of what follows.
    fn complete<E: From<Misplaced>>(&mut self, take: &mut impl FnMut(Item<'_>) -> Result<(), E>) -> Result<(), E> {
        let text = std::mem::take(&mut self.text);
        let text = String::from_utf8(text).map_err(|_| self.misplaced("preceded by a text that is UTF-8"))?;
        let value = escape(text);
        self.place = match self.place {
            Place::Key => {
                let named = serde_json::from_str::<String>(&value).ok();
                let named = named.filter(|key| key.len() <= KEY_BYTES_MAX);
                self.key = named.ok_or_else(|| self.misplaced("preceded by a name of at most 256 bytes"))?;
                Place::Colon
            }
            Place::Value => {
                take(Item::Member { key: &self.key, value: &value })?;
                Place::CommaOrEnd
            }
            _ => {
                take(Item::Element { key: &self.key, value: &value })?;
                self.elements += 1;
                Place::ElementComma
            }
        };
        // Its memory serves the next text.
        self.text = value.into_bytes();
        Ok(())
    }

    fn misplaced(&self, wanted: &str) -> Misplaced {
        Misplaced { at: self.at, wanted: wanted.to_owned() }
    }
}

fn wanted(place: Place) -> &'static str {
    match place {
        Place::Start => "`{`: the file is no JSON object",
        Place::KeyOrEnd => "the name of a member, or `}`",
        Place::Key => "the name of a member",
        Place::Colon => "`:`",
        Place::CommaOrEnd => "`,` or `}`",
        Place::ElementComma => "`,` or `]`",
        Place::End => "the end of the file",
        Place::Value | Place::ElementOrEnd | Place::Element => "a value",
    }
}

/// What is not ASCII, as canonical JSON writes it.
fn escape(text: String) -> String {
    if text.bytes().all(|byte| byte < 0x7f) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() * 2);
    for character in text.chars() {
        if character < '\u{7f}' {
            escaped.push(character);
        } else {
            json::push_escaped(&mut escaped, character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Refused(String);

    impl From<Misplaced> for Refused {
        fn from(why: Misplaced) -> Self {
            Self(why.to_string())
        }
    }

    /// What is read of `text` when it comes in pieces of `size` bytes.
    fn read(text: &[u8], size: usize) -> Result<Vec<String>, String> {
        let mut items = Items::new(&["l", "m"], "w");
        let mut seen = Vec::new();
        let mut take = |item: Item<'_>| {
            seen.push(match item {
                Item::Member { key, value } => format!("{key}={value}"),
                Item::List { key } => format!("{key}:"),
                Item::Element { key, value } => format!("{key}+{value}"),
                Item::Enter { key } => format!("{key}>"),
                Item::Leave => "<".to_owned(),
            });
            Ok::<(), Refused>(())
        };
        for piece in text.chunks(size) {
            items.push(piece, &mut take).map_err(|why| why.0)?;
        }
        items.finish().map_err(|why| why.to_string())?;
        Ok(seen)
    }

    #[test]
    fn items_come_one_by_one_however_the_file_is_cut() {
        let text = " { \"a\" : 1.5e3 , \"l\" : [ ] , \"b\": {\"c\" : [1, \"x \\\" ]\"]},\n\t\"m\":[{\"ä\": \"\u{1f511} \"},-1,true],\"d\":\"\" } \n";
        let expected = [
            "a=1.5e3",
            "l:",
            "b={\"c\":[1,\"x \\\" ]\"]}",
            "m:",
            "m+{\"\\u00e4\":\"\\ud83d\\udd11 \"}",
            "m+-1",
            "m+true",
            "d=\"\"",
        ];
        for size in 1..text.len() {
            assert_eq!(read(text.as_bytes(), size).unwrap(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn an_object_within_is_read_as_the_one_around_it() {
        let text = br#"{"a":1,"w":{"l":[2],"w":{"b":3}},"c":{}}"#;
        assert_eq!(read(text, 5).unwrap(), ["a=1", "w>", "l:", "l+2", r#"w={"b":3}"#, "<", "c={}"]);
        assert_eq!(
            read(b"{\"w\":{}", 2).unwrap_err(),
            "byte 7 should be the rest of the object, but the file ends there, after or within `w`"
        );
    }

    #[test]
    fn the_first_byte_out_of_place_is_named() {
        for (text, expected) in [
            ("", "byte 0 should be the beginning of a JSON object, but the file is empty"),
            ("x", "byte 0 should be `{`: the file is no JSON object"),
            ("[]", "byte 0 should be `{`: the file is no JSON object"),
            ("\u{feff}{}", "byte 0 should be `{`: the file is no JSON object"),
            ("{}{}", "byte 2 should be the end of the file"),
            ("{\"a\":1,}", "byte 7 should be the name of a member"),
            ("{\"a\" 1}", "byte 5 should be `:`"),
            ("{\"a\":}", "byte 5 should be a value"),
            ("{\"a\":1 2}", "byte 7 should be `,` or `}`"),
            ("{\"l\":5}", "byte 5 should be the beginning of `l`, which is a list"),
            ("{\"l\":[1 2]}", "byte 8 should be `,` or `]`"),
            ("{\"l\":[1,]}", "byte 8 should be a value"),
            ("{\"l\":[1,2", "byte 9 should be the rest of `l`, but the file ends there, after 1 whole elements"),
            ("{\"a\":\"x", "byte 7 should be the rest of the object, but the file ends there, after or within `a`"),
            ("{", "byte 1 should be the rest of the object, but the file ends there"),
        ] {
            assert_eq!(read(text.as_bytes(), 3).unwrap_err(), expected, "{text}");
        }
        assert_eq!(read(b"{\"a\":\"\xff\"}", 2).unwrap_err(), "byte 8 should be preceded by a text that is UTF-8");
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_kept() {
        let mut items = Items::new(&[], "");
        let mut take = |_: Item<'_>| Ok::<(), Misplaced>(());
        items.push(b"{\"a\":\"", &mut take).unwrap();
        let piece = vec![b'x'; 1 << 20];
        let why = (0..100).find_map(|_| items.push(&piece, &mut take).err()).expect("a limit");
        assert!(why.wanted.contains("at most 4194304 bytes"), "{why}");
        assert!(items.text.capacity() < 16 << 20);
    }

    proptest! {
        #[test]
        fn never_panics_and_cuts_make_no_difference(text in r#"[{}\[\]",:0-9almä\\ ]{0,32}"#, size in 1_usize..8) {
            let (whole, cut) = (read(text.as_bytes(), 64), read(text.as_bytes(), size));
            prop_assert_eq!(whole, cut);
        }

        #[test]
        fn every_object_is_read(keys in prop::collection::btree_map("[a-z]{1,6}", any::<Option<i64>>(), 0..8)) {
            let text = serde_json::to_string_pretty(&keys).unwrap();
            let keys = keys.iter().filter(|(key, _)| !["l", "m"].contains(&key.as_str()));
            let expected: Vec<String> = keys.map(|(key, value)| format!("{key}={}", serde_json::json!(value))).collect();
            if !text.contains("\"l\"") && !text.contains("\"m\"") {
                prop_assert_eq!(read(text.as_bytes(), 7).unwrap(), expected);
            }
        }
    }
}

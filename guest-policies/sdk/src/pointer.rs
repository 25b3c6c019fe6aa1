//! Finds values in a tool call's parameters.

use crate::json::{Json, Wrong};

/// Which parameters: a JSON pointer (RFC 6901) in which a segment `*` stands for every name or index. A name without
/// `/` before it is short for the pointer to that parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Every,
    Named(String),
}

impl Pointer {
    /// Read a pointer.
    ///
    /// # Errors
    ///
    /// When it is empty, or its escapes are none.
    pub fn new(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("a parameter's name is empty"));
        }
        let Some(pointer) = text.strip_prefix('/') else {
            let only = if text == "*" { Segment::Every } else { Segment::Named(text.to_owned()) };
            return Ok(Self { text: text.to_owned(), segments: vec![only] });
        };
        let segments: Option<_> = pointer.split('/').map(segment).collect();
        segments.map(|segments| Self { text: text.to_owned(), segments }).ok_or_else(|| {
            Wrong::new(format!("pointer `{text}`: `~` is written `~0` in a JSON pointer, and `/` in a name `~1`"))
        })
    }

    /// Everything that it leads to, each with its own place. Never empty.
    #[must_use]
    pub fn find<'j, 't>(&self, params: &'j Json<'t>) -> Vec<Place<'j, 't>> {
        let mut places = Vec::new();
        walk(params, &self.segments, String::new(), &mut places);
        places
    }

    /// The pointer as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A place among the parameters.
#[derive(Debug, PartialEq, Eq)]
pub struct Place<'j, 't> {
    /// Where: names and indices, each after a `/`.
    pub at: String,
    /// What is there.
    pub found: Found<'j, 't>,
}

impl Place<'_, '_> {
    /// The place as people say it: a parameter by its name, a deeper place as [`Place::at`].
    #[must_use]
    pub fn name(&self) -> &str {
        name_of_place(&self.at)
    }
}

/// [`Place::name`] of a place that a policy made itself, by going on from another.
#[must_use]
pub fn name_of_place(at: &str) -> &str {
    match at.strip_prefix('/') {
        Some(name) if !name.is_empty() && !name.contains('/') => name,
        _ => at,
    }
}

/// What a pointer led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'j, 't> {
    /// This value.
    Value(&'j Json<'t>),
    /// Nothing: there is no such parameter, or no item of a list.
    Missing,
    /// Nothing: something on the way there has no parts; in words.
    NoParts(&'static str),
}

fn segment(text: &str) -> Option<Segment> {
    if text == "*" {
        return Some(Segment::Every);
    }
    let mut name = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        name.push(match character {
            '~' => match characters.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(Segment::Named(name))
}

fn walk<'j, 't>(value: &'j Json<'t>, pointer: &[Segment], at: String, places: &mut Vec<Place<'j, 't>>) {
    let Some((segment, rest)) = pointer.split_first() else {
        return places.push(Place { at, found: Found::Value(value) });
    };
    let before = places.len();
    match value {
        // A name that comes twice is found twice: whichever of the two the tool takes, it was judged.
        Json::Object(fields) => {
            for (name, part) in fields.iter().filter(|(name, _)| segment.is(name)) {
                walk(part, rest, format!("{at}/{name}"), places);
            }
        }
        Json::List(items) => {
            for (index, part) in items.iter().enumerate() {
                let index = index.to_string();
                if segment.is(&index) {
                    walk(part, rest, format!("{at}/{index}"), places);
                }
            }
        }
        other => return places.push(Place { at, found: Found::NoParts(other.kind()) }),
    }
    if places.len() == before {
        let name = match segment {
            Segment::Every => "*",
            Segment::Named(name) => name,
        };
        places.push(Place { at: format!("{at}/{name}"), found: Found::Missing });
    }
}

impl Segment {
    fn is(&self, part: &str) -> bool {
        match self {
            Segment::Every => true,
            Segment::Named(name) => name == part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pointer: &str, params: &str) -> Vec<String> {
        let params = Json::parse(params).expect(params);
        let places = Pointer::new(pointer).expect(pointer).find(&params);
        let line = |place: &Place| match &place.found {
            Found::Value(Json::Number(digits)) => format!("{} = {digits}", place.name()),
            Found::Value(other) => format!("{} is {}", place.name(), other.kind()),
            Found::Missing => format!("{} is missing", place.name()),
            Found::NoParts(kind) => format!("{} is {kind} without parts", place.name()),
        };
        places.iter().map(line).collect()
    }

    #[test]
    fn places() {
        let params = r#"{"a":1,"b":{"c":2,"d~/":3},"list":[{"p":4},{"p":5},{}],"none":[],"*":6,"a":7}"#;
        for (pointer, expected) in [
            ("a", &["a = 1", "a = 7"][..]),
            ("/a", &["a = 1", "a = 7"]),
            ("/b/c", &["/b/c = 2"]),
            ("/b/d~0~1", &["/b/d~/ = 3"]),
            ("b/c", &["/b/c is missing"]),
            ("/b", &["b is an object"]),
            ("/b/*", &["/b/c = 2", "/b/d~/ = 3"]),
            ("/list/1/p", &["/list/1/p = 5"]),
            ("/list/01/p", &["/list/01 is missing"]),
            ("/list/*/p", &["/list/0/p = 4", "/list/1/p = 5", "/list/2/p is missing"]),
            ("/none/*", &["/none/* is missing"]),
            ("/none/*/p", &["/none/* is missing"]),
            ("/a/b", &["a is a number without parts", "a is a number without parts"]),
            ("/", &["/ is missing"]),
            ("zz", &["zz is missing"]),
        ] {
            // `b/c` is the name of one parameter, and its place reads like a pointer.
            assert_eq!(find(pointer, params), expected, "{pointer}");
        }
        assert_eq!(find("*", r#"{"a":1,"b":[2]}"#), ["a = 1", "b is a list"]);
        assert_eq!(find("a", "7"), [" is a number without parts"]);
    }

    #[test]
    fn texts_that_are_no_pointers() {
        for text in ["", "/a~", "/a~2"] {
            assert!(Pointer::new(text).is_err(), "{text}");
        }
    }
}

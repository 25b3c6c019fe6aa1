//! Finds the paths in a tool call's parameters.

use gavel_policy::json::{Json, Wrong};

/// Which parameters: a JSON pointer (RFC 6901) in which a segment `*` stands for every name or index. A name without
/// `/` before it is short for the pointer to that parameter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<Segment>);

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Every,
    Named(String),
}

impl Pointer {
    pub(crate) fn new(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("a parameter's name is empty"));
        }
        let Some(pointer) = text.strip_prefix('/') else {
            return Ok(Self(vec![if text == "*" { Segment::Every } else { Segment::Named(text.to_owned()) }]));
        };
        let segments: Option<_> = pointer.split('/').map(segment).collect();
        segments.map(Self).ok_or_else(|| {
            Wrong::new(format!("pointer `{text}`: `~` is written `~0` in a JSON pointer, and `/` in a name `~1`"))
        })
    }

    /// Everything that it leads to, each with its own place. Never empty.
    pub(crate) fn find<'j>(&self, params: &'j Json) -> Vec<(String, Found<'j>)> {
        let mut found = Vec::new();
        walk(params, &self.0, String::new(), &mut found);
        // A parameter is called by its name, as people do; a deeper place by its pointer.
        for (at, _) in &mut found {
            if at.rfind('/') == Some(0) {
                at.remove(0);
            }
        }
        found
    }
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

/// What a pointer led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'j> {
    Text(&'j str),
    /// There is no such parameter, or it is an empty list.
    Missing,
    /// Something that is no text, or on the way there something that has no parts; in words.
    Other(&'static str),
}

fn walk<'j>(value: &'j Json, pointer: &[Segment], at: String, found: &mut Vec<(String, Found<'j>)>) {
    let Some((segment, rest)) = pointer.split_first() else { return destination(value, at, found) };
    let before = found.len();
    match value {
        // A name that comes twice is judged twice: whichever of the two the tool takes, it was judged.
        Json::Object(fields) => {
            for (name, part) in fields.iter().filter(|(name, _)| segment.is(name)) {
                walk(part, rest, format!("{at}/{name}"), found);
            }
        }
        Json::List(items) => {
            for (index, part) in items.iter().enumerate() {
                let index = index.to_string();
                if segment.is(&index) {
                    walk(part, rest, format!("{at}/{index}"), found);
                }
            }
        }
        other => return found.push((at, Found::Other(other.kind()))),
    }
    if found.len() == before {
        let name = match segment {
            Segment::Every => "*",
            Segment::Named(name) => name,
        };
        found.push((format!("{at}/{name}"), Found::Missing));
    }
}

/// The value at the end of a pointer: a path, or a list of paths. Lists in lists are no lists of paths.
fn destination<'j>(value: &'j Json, at: String, found: &mut Vec<(String, Found<'j>)>) {
    match value {
        Json::List(items) if items.is_empty() => found.push((at, Found::Missing)),
        Json::List(items) => {
            found.extend(items.iter().enumerate().map(|(index, item)| (format!("{at}/{index}"), text(item))));
        }
        other => found.push((at, text(other))),
    }
}

fn text<'j>(value: &'j Json) -> Found<'j> {
    match value {
        Json::Text(text) => Found::Text(text),
        other => Found::Other(other.kind()),
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

//! The values in a tool call's parameters, each with its place.

use core::fmt::Write;

use gavel_policy::json::{Json, Wrong};

/// Which parameters: a JSON pointer (RFC 6901) in which a segment `*` stands for every name or index. A name without
/// `/` before it is short for the pointer to that parameter, and `*` alone for every parameter.
#[derive(Debug)]
pub(crate) struct Place {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    Every,
    Named(String),
}

/// One step on the way to a value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'j> {
    Name(&'j str),
    Index(usize),
}

/// What is at a place.
#[derive(Debug)]
pub(crate) enum Found<'j> {
    /// A text, or a number, `true` or `false` as it was written.
    Value(&'j str),
    /// An object; its own values follow. A tool may read the names in it, so it counts even when it is empty.
    Object,
    /// The name of a value in an object.
    Name(&'j str),
}

impl Place {
    pub(crate) fn new(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("a parameter's name is empty"));
        }
        let segments = match text.strip_prefix('/') {
            None => vec![if text == "*" { Segment::Every } else { Segment::Named(text.to_owned()) }],
            Some(pointer) => pointer.split('/').map(segment).collect::<Option<_>>().ok_or_else(|| {
                Wrong::new(format!("pointer `{text}`: `~` is written `~0` in a JSON pointer, and `/` in a name `~1`"))
            })?,
        };
        Ok(Self { text: text.to_owned(), segments })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Is the place at `path` this one or within it? Then the rest of the way.
    pub(crate) fn covers<'p, 'j>(&self, path: &'p [Step<'j>]) -> Option<&'p [Step<'j>]> {
        let (head, rest) = path.split_at_checked(self.segments.len())?;
        self.segments.iter().zip(head).all(|(segment, step)| segment.is(*step)).then_some(rest)
    }
}

impl Segment {
    fn is(&self, step: Step) -> bool {
        match (self, step) {
            (Segment::Every, _) => true,
            (Segment::Named(name), Step::Name(is)) => name == is,
            (Segment::Named(name), Step::Index(is)) => name.parse() == Ok(is),
        }
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

/// Visit every value. `null` and empty lists are no values: they give the tool nothing. A name that comes twice in an
/// object is visited twice: whichever of the two the tool takes, it was judged.
pub(crate) fn walk<'j>(params: &'j Json, visit: &mut impl FnMut(&[Step<'j>], Found<'j>)) {
    walk_from(params, &mut Vec::new(), visit);
}

fn walk_from<'j>(value: &'j Json, path: &mut Vec<Step<'j>>, visit: &mut impl FnMut(&[Step<'j>], Found<'j>)) {
    match value {
        Json::Null => {}
        Json::Bool(is) => visit(path, Found::Value(if *is { "true" } else { "false" })),
        Json::Number(digits) => visit(path, Found::Value(digits)),
        Json::Text(text) => visit(path, Found::Value(text)),
        Json::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Index(index));
                walk_from(item, path, visit);
                path.pop();
            }
        }
        Json::Object(fields) => {
            if !path.is_empty() {
                visit(path, Found::Object);
                for (name, _) in fields {
                    visit(path, Found::Name(name));
                }
            }
            for (name, part) in fields {
                path.push(Step::Name(name));
                walk_from(part, path, visit);
                path.pop();
            }
        }
    }
}

/// A parameter by its name, as people call it; a deeper place by its pointer. Indices are left out: a list's values
/// are told apart by what they are.
pub(crate) fn pointer(path: &[Step]) -> String {
    let names = path.iter().filter_map(|step| match step {
        Step::Name(name) => Some(*name),
        Step::Index(_) => None,
    });
    let mut text = names.fold(String::new(), |mut text, name| {
        // Writing to a String cannot fail.
        let _ = write!(text, "/{name}");
        text
    });
    if text.rfind('/') == Some(0) {
        text.remove(0);
    }
    text
}

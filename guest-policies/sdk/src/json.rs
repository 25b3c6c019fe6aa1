//! JSON, read strictly (RFC 8259) and without ceremony: configurations, and the parameters of tool calls.
//!
//! Why not `serde_json`, which an author may use as well: it makes a policy larger by 25 KB (`business-hours`: 86
//! instead of 62), to be compiled at each load, and its errors say less. Here an error names its place:
//! `` `rules[0].tools[1]`: expected a text, not a number ``. The tests compare the two parsers.
//!
//! What is read borrows from the text where it can. Names of an object keep their order, and a name that comes twice
//! is there twice: who reads an object by [`Json::object`] refuses that, who walks one must judge both.

mod fields;
mod parser;

use core::fmt;
use std::borrow::Cow;

pub use fields::Fields;

/// The deepest nesting that is read. Recursion is the caller's text deciding over our stack, which is small.
pub const DEPTH_MAX: usize = 64;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json<'t> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// As it was written, so that no digit is lost.
    Number(&'t str),
    /// A text, without its escapes.
    Text(Cow<'t, str>),
    /// A list.
    List(Vec<Json<'t>>),
    /// An object: names and values in the order of the text.
    Object(Vec<(Cow<'t, str>, Json<'t>)>),
}

impl<'t> Json<'t> {
    /// Read a whole text as one value.
    ///
    /// # Errors
    ///
    /// When the text is not JSON, or nested deeper than [`DEPTH_MAX`].
    pub fn parse(text: &'t str) -> Result<Self, Wrong> {
        parser::parse(text)
    }

    /// The text that this must be.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn text(&self) -> Result<&str, Wrong> {
        match self {
            Json::Text(text) => Ok(text),
            other => Err(other.is_not("a text")),
        }
    }

    /// The integer that this must be.
    ///
    /// # Errors
    ///
    /// When it is something else, has a fraction or an exponent, or does not fit 64 bits.
    pub fn integer(&self) -> Result<i64, Wrong> {
        match self {
            Json::Number(digits) => {
                digits.parse().map_err(|_| Wrong::new(format!("expected an integer, not {digits}")))
            }
            other => Err(other.is_not("an integer")),
        }
    }

    /// The list that this must be, each item read by `read`.
    ///
    /// # Errors
    ///
    /// When it is something else, or when `read` refuses an item.
    pub fn list<T>(&self, mut read: impl FnMut(&Json<'t>) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
        let Json::List(items) = self else { return Err(self.is_not("a list")) };
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            list.push(read(item).map_err(|wrong| wrong.in_item(index))?);
        }
        Ok(list)
    }

    /// The object that this must be, with no name but the known ones, and none twice.
    ///
    /// # Errors
    ///
    /// When it is something else, or has another name, so that a misspelt setting is an error and not silence.
    pub fn object<'j>(&'j self, known: &[&str]) -> Result<Fields<'j, 't>, Wrong> {
        match self {
            Json::Object(fields) => Fields::new(fields, known),
            other => Err(other.is_not("an object")),
        }
    }

    /// What it is, in words for a message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) => "a number",
            Json::Text(_) => "a text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    fn is_not(&self, expected: &str) -> Wrong {
        Wrong::new(format!("expected {expected}, not {}", self.kind()))
    }
}

/// What is wrong with a text or a value, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    at: String,
    why: String,
}

impl Wrong {
    /// Something is wrong with the value at hand.
    pub fn new(why: impl Into<String>) -> Self {
        Self { at: String::new(), why: why.into() }
    }

    /// The value at hand is this field of an object.
    #[cold]
    #[inline(never)]
    fn in_field(mut self, name: &str) -> Self {
        self.at.insert_str(0, &format!(".{name}"));
        self
    }

    /// The value at hand is this item of a list.
    #[cold]
    #[inline(never)]
    fn in_item(mut self, index: usize) -> Self {
        self.at.insert_str(0, &format!("[{index}]"));
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at.strip_prefix('.').unwrap_or(&self.at) {
            "" => out.write_str(&self.why),
            at => write!(out, "`{at}`: {}", self.why),
        }
    }
}

impl std::error::Error for Wrong {}

impl From<crate::glob::PatternError> for Wrong {
    fn from(error: crate::glob::PatternError) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests;

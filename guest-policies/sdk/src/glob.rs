//! Patterns for names and paths, small enough to be read, and linear in space, `pattern × text` in time at worst.
//!
//! | in a pattern | stands for |
//! |---|---|
//! | `*` | any characters, also none; in a path none of them is `/` |
//! | `?` | one character; in a path not `/` |
//! | `**` alone between slashes, paths only | any segments, also none: `a/**` is `a` and all below it |
//! | `\*` `\?` `\[` `\]` `\{` `\}` `\!` `\\` | the character itself |
//!
//! Other shells know `[abc]`, `{a,b}` and `!not` too. Here they are errors rather than plain characters: a pattern that
//! its author meant otherwise must not silently match something else.

use core::fmt;

/// A pattern for names, as of tools. A name has no parts: `*` matches any characters in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// Read a pattern.
    ///
    /// # Errors
    ///
    /// When it has a part that is not supported.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// Does the whole name fit?
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        fits(&self.0, name, Case::Kept)
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A pattern for paths, taken apart at `/`. It begins with `/` if and only if it is for absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    absolute: bool,
    segments: Vec<String>,
}

impl PathPattern {
    /// Read a pattern.
    ///
    /// # Errors
    ///
    /// When it has a part that is not supported, or `..`, or `**` beside other characters.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        check(text)?;
        let mut segments = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => return Err(PatternError::new(text, "`..` has no place in a pattern")),
                _ if segment != "**" && segment.contains("**") => {
                    return Err(PatternError::new(text, "`**` stands alone between slashes"));
                }
                _ => segments.push(segment.to_owned()),
            }
        }
        Ok(Self { absolute: text.starts_with('/'), segments, text: text.to_owned() })
    }

    /// Do these segments of a path fit? Whether the path and the pattern are absolute is the caller's to compare.
    #[must_use]
    pub fn matches(&self, segments: &[&str], case: Case) -> bool {
        let (mut pattern, mut path) = (&self.segments[..], segments);
        // The pattern after the last `**`, and the path from which it is tried next. Going back to the last one only is
        // enough: whatever an earlier one could take, the last can take too. So the work is at most pattern × path.
        let mut retry = None;
        loop {
            match (pattern, path) {
                ([first, pattern_rest @ ..], _) if first == "**" => {
                    retry = Some((pattern_rest, path));
                    pattern = pattern_rest;
                    continue;
                }
                ([first, pattern_rest @ ..], [name, path_rest @ ..]) if fits(first, name, case) => {
                    (pattern, path) = (pattern_rest, path_rest);
                    continue;
                }
                ([], []) => return true,
                _ => {}
            }
            let Some((after, [_, from @ ..])) = retry else { return false };
            retry = Some((after, from));
            (pattern, path) = (after, from);
        }
    }

    /// Is it for absolute paths?
    #[must_use]
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// Does it begin with `**`?
    #[must_use]
    pub fn is_anywhere(&self) -> bool {
        self.segments.first().is_some_and(|first| first == "**")
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether letters that differ in case only are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// They differ.
    Kept,
    /// They are the same if they are ASCII letters, or the two other characters that file systems which ignore case
    /// take for ASCII letters: U+017F (long s) and U+212A (Kelvin sign).
    Ignored,
}

impl Case {
    fn of(self, character: char) -> char {
        match (self, character) {
            (Case::Kept, _) => character,
            (Case::Ignored, '\u{17f}') => 's',
            (Case::Ignored, '\u{212a}') => 'k',
            (Case::Ignored, _) => character.to_ascii_lowercase(),
        }
    }
}

/// One step of a pattern.
#[derive(Clone, Copy)]
enum Token {
    Any,
    One,
    Exactly(char),
}

/// The first token of a checked pattern, and the rest.
fn token(pattern: &str) -> Option<(Token, &str)> {
    let mut characters = pattern.chars();
    let token = match characters.next()? {
        '*' => Token::Any,
        '?' => Token::One,
        '\\' => Token::Exactly(characters.next()?),
        other => Token::Exactly(other),
    };
    Some((token, characters.as_str()))
}

/// Does all of `text` fit a checked pattern without parts? As in [`PathPattern::matches`], only the last `*` is retried.
fn fits(pattern: &str, text: &str, case: Case) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut retry: Option<(&str, &str)> = None;
    loop {
        let mut characters = text.chars();
        let accepted = match (token(pattern), characters.next()) {
            (Some((Token::Any, rest)), _) => {
                retry = Some((rest, text));
                pattern = rest;
                continue;
            }
            (Some((Token::One, rest)), Some(_)) => Some(rest),
            (Some((Token::Exactly(wanted), rest)), Some(is)) if case.of(wanted) == case.of(is) => Some(rest),
            (None, None) => return true,
            _ => None,
        };
        if let Some(rest) = accepted {
            (pattern, text) = (rest, characters.as_str());
            continue;
        }
        let Some((after, from)) = retry else { return false };
        let mut characters = from.chars();
        if characters.next().is_none() {
            return false;
        }
        retry = Some((after, characters.as_str()));
        (pattern, text) = (after, characters.as_str());
    }
}

/// Refuse what other pattern languages would read otherwise.
fn check(pattern: &str) -> Result<(), PatternError> {
    if pattern.is_empty() {
        return Err(PatternError::new(pattern, "it is empty"));
    }
    let mut characters = pattern.chars();
    if pattern.starts_with('!') {
        return Err(PatternError::new(pattern, "a leading `!` is not supported; write `\\!` for the character"));
    }
    while let Some(character) = characters.next() {
        match character {
            '[' | ']' | '{' | '}' => {
                return Err(PatternError::new(pattern, "`[…]` and `{…}` are not supported; write two patterns"));
            }
            '\\' if !characters.next().is_some_and(|next| r"*?[]{}!\".contains(next)) => {
                return Err(PatternError::new(pattern, r"`\` stands before one of `*?[]{}!\` only"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A pattern that is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError(String);

impl PatternError {
    fn new(pattern: &str, why: &str) -> Self {
        Self(format!("pattern `{pattern}`: {why}"))
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
#[path = "glob_tests.rs"]
mod tests;

//! Settings that many policies have, read alike: lists that guard something, tools, windows, words.
//!
//! For [`crate::json::Fields::get`] and [`crate::json::Fields::require`], which add the setting's name to an error.

use core::ops::RangeInclusive;

use crate::counting::WINDOW_MS_MAX;
use crate::glob::NamePattern;
use crate::json::{Json, Wrong};

/// A list with at least one item and at most `most`.
///
/// # Errors
///
/// When it has none (it would guard nothing and look as if it did) or too many, or when `read` refuses an item.
pub fn items<'t, T>(
    list: &Json<'t>,
    most: usize,
    read: impl FnMut(&Json<'t>) -> Result<T, Wrong>,
) -> Result<Vec<T>, Wrong> {
    let items = list.list(read)?;
    match items.len() {
        length if (1..=most).contains(&length) => Ok(items),
        length => Err(wrong_length(length, most)),
    }
}

#[cold]
#[inline(never)]
fn wrong_length(length: usize, most: usize) -> Wrong {
    match length {
        0 => Wrong::new("the list is empty, so it guards nothing"),
        _ => Wrong::new(format!("the list has {length} items, more than {most}")),
    }
}

/// Patterns of names, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePatterns(Vec<NamePattern>);

impl NamePatterns {
    /// Read a list of patterns.
    ///
    /// # Errors
    ///
    /// When it is empty, or one of them is no pattern.
    #[inline(never)] // it is large, and policies read several lists of patterns
    pub fn read(patterns: &Json) -> Result<Self, Wrong> {
        items(patterns, usize::MAX, |pattern| Ok(NamePattern::new(pattern.text()?)?)).map(Self)
    }

    /// Does the whole name fit one of them?
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// The patterns as they were written.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(NamePattern::as_str)
    }

    /// The patterns as a reason shows them: `send_*, post_*`.
    #[must_use]
    pub fn joined(&self) -> String {
        self.texts().collect::<Vec<_>>().join(", ")
    }
}

/// An integer within a range.
///
/// # Errors
///
/// When it is something else.
pub fn integer_within(number: &Json, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let integer = number.integer()?;
    match u64::try_from(integer) {
        Ok(integer) if range.contains(&integer) => Ok(integer),
        _ => Err(Wrong::new(format!("{integer} is not within {} to {}", range.start(), range.end()))),
    }
}

/// A length of time to count over, in milliseconds.
///
/// # Errors
///
/// When it is not an integer from 1 to [`WINDOW_MS_MAX`].
pub fn window_ms(number: &Json) -> Result<u64, Wrong> {
    integer_within(number, 1..=WINDOW_MS_MAX)
}

/// One of the words in `choices`, as what stands beside it.
///
/// # Errors
///
/// When it is something else.
pub fn choice<T: Copy>(word: &Json, choices: &[(&str, T)]) -> Result<T, Wrong> {
    let word = word.text()?;
    let found = choices.iter().find(|(known, _)| *known == word);
    found.map(|(_, is)| *is).ok_or_else(|| no_choice(word, &mut choices.iter().map(|(known, _)| *known)))
}

#[cold]
#[inline(never)]
fn no_choice(word: &str, known: &mut dyn Iterator<Item = &str>) -> Wrong {
    let mut why = format!("'{word}' is not one of");
    for known in known {
        why.push(' ');
        why.push_str(known);
    }
    Wrong::new(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, read: impl FnOnce(&Json) -> Result<T, Wrong>) -> Result<T, String> {
        Json::parse(text).and_then(|json| read(&json)).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn patterns_of_names() {
        let patterns = read(r#"["send_*","post"]"#, NamePatterns::read).expect("patterns");
        assert!(patterns.matches("send_mail") && patterns.matches("post") && !patterns.matches("posts"));
        assert_eq!(patterns.joined(), "send_*, post");
        assert_eq!(read("[]", NamePatterns::read).expect_err("none"), "the list is empty, so it guards nothing");
        assert!(read(r#"["{a,b}"]"#, NamePatterns::read).expect_err("braces").starts_with("`[0]`: pattern `{a,b}`"));
    }

    #[test]
    fn numbers_and_words() {
        assert_eq!(read("7", |n| integer_within(n, 1..=7)), Ok(7));
        assert_eq!(read("8", |n| integer_within(n, 1..=7)), Err("8 is not within 1 to 7".into()));
        assert_eq!(read("-1", window_ms), Err("-1 is not within 1 to 31622400000".into()));
        assert_eq!(read("0", window_ms), Err("0 is not within 1 to 31622400000".into()));
        assert_eq!(read("1.5", window_ms), Err("expected an integer, not 1.5".into()));
        let choices = [("deny", 1), ("allow", 2)];
        assert_eq!(read(r#""allow""#, |word| choice(word, &choices)), Ok(2));
        assert_eq!(read(r#""Allow""#, |word| choice(word, &choices)), Err("'Allow' is not one of deny allow".into()));
        assert_eq!(
            read("[1,2,3]", |list| items(list, 2, Json::integer)),
            Err("the list has 3 items, more than 2".into())
        );
    }
}

//! Does the intent ask for an act? Words that the operator gives, such as `delete`, found in the intent as words.
//!
//! A word within two words after a negation does not count: `do not delete` asks for no deletion, while
//! `do not forget to delete` does. The negations are English ones; in doubt a human is asked, nothing worse.

use gavel_policy::glob::NamePattern;
use gavel_policy::json::Wrong;

use crate::intent::folded;

/// One or more words in a row. `*` in a word stands for any characters: `delet*`.
#[derive(Debug)]
pub(crate) struct Phrase {
    text: String,
    words: Vec<NamePattern>,
}

/// A negation this many words before the phrase turns it around.
const NEGATION_REACH_WORDS: usize = 2;

const NEGATIONS: [&str; 14] = [
    "not",
    "never",
    "without",
    "no",
    "nor",
    "neither",
    "cannot",
    "don't",
    "doesn't",
    "didn't",
    "can't",
    "won't",
    "mustn't",
    "shouldn't",
];

impl Phrase {
    pub(crate) fn new(text: &str) -> Result<Self, Wrong> {
        // As the intent's words are parted, so that `e-mail` is found.
        let words = text.split(|mark: char| mark.is_whitespace() || mark == '-').filter(|word| !word.is_empty());
        let words: Vec<NamePattern> = words.map(|word| NamePattern::new(&folded(word))).collect::<Result<_, _>>()?;
        if words.is_empty() {
            return Err(Wrong::new("a phrase has no words"));
        }
        Ok(Self { text: text.to_owned(), words })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Do these words of an intent ask for it?
    pub(crate) fn is_asked_in(&self, said: &[String]) -> bool {
        said.windows(self.words.len()).enumerate().any(|(at, window)| {
            let before = &said[at.saturating_sub(NEGATION_REACH_WORDS)..at];
            self.words.iter().zip(window).all(|(pattern, word)| pattern.matches(word))
                && !before.iter().any(|word| NEGATIONS.contains(&word.as_str()))
        })
    }
}

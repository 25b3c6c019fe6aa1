//! Names, titles and postal addresses: words.
//!
//! Case, spaces and the marks around words do not count; the words do, whole. A value of few letters, or of words that
//! any sentence has, would be found by accident: it must stand between quotation marks in the intent.

use crate::intent::{Intent, cleaned, is_quoted, is_word_character, same_word, words};

/// Bytes of letters and digits from which on a value is not taken for an accident. A letter of Chinese has three.
const SIGNIFICANT_BYTES_MIN: usize = 3;

/// Words that stand in prompts whatever they are about.
const COMMON_WORDS: [&str; 64] = [
    "about", "above", "after", "all", "also", "and", "any", "are", "before", "both", "but", "can", "could", "did",
    "does", "each", "every", "everyone", "for", "from", "give", "has", "have", "her", "here", "him", "his", "how",
    "into", "its", "just", "let", "make", "mine", "more", "most", "not", "now", "off", "one", "only", "other", "our",
    "out", "please", "same", "she", "should", "some", "than", "that", "the", "their", "them", "then", "they", "this",
    "was", "what", "when", "which", "will", "with", "you",
];

/// Do the value's words stand in the intent in a row?
pub(super) fn has_ground(value: &str, optional: &[String], intent: &Intent) -> bool {
    let value = &*cleaned(value.trim());
    if intent.whole(value).any(is_quoted) {
        return true;
    }
    let wanted = wanted(value, optional);
    if !are_significant(&wanted) {
        return false;
    }
    if has_unusual_marks(value) {
        return intent.whole(value).next().is_some();
    }
    let said: Vec<&str> = words(intent.text()).collect();
    said.windows(wanted.len()).any(|window| window.iter().zip(&wanted).all(|(one, other)| same_word(one, other)))
}

/// Does each of the value's words stand somewhere in the intent?
pub(super) fn words_have_ground(value: &str, optional: &[String], intent: &Intent) -> bool {
    let value = &*cleaned(value.trim());
    let mut wanted = wanted(value, optional);
    wanted.retain(|word| !is_common(word));
    are_significant(&wanted)
        && !has_unusual_marks(value)
        && wanted.iter().all(|word| words(intent.text()).any(|said| same_word(said, word)))
}

/// The words that need a ground.
fn wanted<'v>(value: &'v str, optional: &[String]) -> Vec<&'v str> {
    words(value).filter(|word| !optional.iter().any(|needless| same_word(needless, word))).collect()
}

/// Would these words hardly be found by accident?
pub(super) fn are_significant(words: &[&str]) -> bool {
    let letters = words.iter().flat_map(|word| word.chars()).filter(|character| character.is_alphanumeric());
    letters.map(char::len_utf8).sum::<usize>() >= SIGNIFICANT_BYTES_MIN && !words.iter().all(|word| is_common(word))
}

fn is_common(word: &str) -> bool {
    COMMON_WORDS.iter().any(|common| same_word(common, word))
}

/// Marks that a tool might take for more than punctuation: `*`, `/`, `<`, `$`. Then the intent must have them too.
fn has_unusual_marks(value: &str) -> bool {
    value.chars().any(|character| !is_word_character(character) && !" -,;!?\"()'.:#@&…".contains(character))
}

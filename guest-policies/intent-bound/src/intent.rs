//! The user's prompt as the kinds of values look at it: cleaned of what only typesetting puts there, and its words.
//!
//! Words are compared letter by letter without regard to case, and nothing else: an accent or another alphabet's
//! letter that looks the same makes another word. So a value can only be taken for what the user wrote if it is that.

use std::borrow::Cow;

/// The user's prompt.
#[derive(Debug)]
pub(crate) struct Intent<'r> {
    text: Cow<'r, str>,
    /// The kernel's clock, for `today` and `tomorrow`.
    now_ms: u64,
}

impl<'r> Intent<'r> {
    pub(crate) fn new(text: &'r str, now_ms: u64) -> Self {
        Self { text: cleaned(text), now_ms }
    }

    /// The prompt, [`cleaned`].
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The prompt's words in small letters.
    pub(crate) fn words(&self) -> Vec<String> {
        words(&self.text).map(folded).collect()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The pieces of the prompt between spaces, quotes and brackets, without the punctuation at their ends.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &str> {
        chunks(&self.text)
    }

    /// Where `value` stands in the prompt as a whole, in the same letters: not as a part of a longer name, address or
    /// number. Given back are the texts before and after it.
    pub(crate) fn whole<'i>(&'i self, value: &'i str) -> impl Iterator<Item = (&'i str, &'i str)> {
        whole(&self.text, value)
    }
}

/// Quotation marks, dashes and spaces in their plain forms, and characters that are not seen left out: what word
/// processors and telephones make of a text while it is typed.
pub(crate) fn cleaned(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let plain = |character| match character {
        '\u{2018}'..='\u{201b}' | '\u{2032}' => '\'',
        '\u{201c}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{2033}' => '"',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        _ if character.is_whitespace() && character != '\n' => ' ',
        other => other,
    };
    Cow::Owned(text.chars().filter(|character| !is_invisible(*character)).map(plain).collect())
}

/// A character that is not seen, or that changes how its neighbours are seen: zero-width and soft-hyphen characters,
/// directions of writing, variation selectors, tags.
pub(crate) fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A letter, a digit, or a mark above or below one.
pub(crate) fn is_word_character(character: char) -> bool {
    character.is_alphanumeric()
        || matches!(character, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{20d0}'..='\u{20ff}')
}

/// Ends a word wherever it stands; any other mark joins the letters on its two sides: `a.b` is one word, `a-b` two.
fn splits(character: char) -> bool {
    character.is_whitespace() || character.is_control() || "-,;!?\"()[]{}<>|…".contains(character)
}

/// The words of a cleaned text. `Sarah's` is the word `Sarah`; an address or a file name is one word, so that a part
/// of it is never taken for a word of its own.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let start = rest.find(is_word_character)?;
        let word = &rest[start..];
        let mut marks = word.char_indices().filter(|(_, character)| !is_word_character(*character));
        let end = marks.find_map(|(at, mark)| {
            let after = word[at + mark.len_utf8()..].chars().next();
            (splits(mark) || !after.is_some_and(is_word_character)).then_some(at)
        });
        let (word, after) = word.split_at(end.unwrap_or(word.len()));
        rest = after;
        Some(word.strip_suffix("'s").or_else(|| word.strip_suffix("'S")).unwrap_or(word))
    })
}

/// The same word, whatever the case of its letters?
pub(crate) fn same_word(one: &str, other: &str) -> bool {
    one.chars().map(lower).eq(other.chars().map(lower))
}

/// The word in small letters.
pub(crate) fn folded(word: &str) -> String {
    word.chars().map(lower).collect()
}

/// A letter's small form, in the Latin, Greek and Cyrillic alphabets; elsewhere the letter itself. A letter beyond ASCII
/// never becomes an ASCII one, as the Kelvin sign would. Why not the standard library's: its table is 11 KB, a sixth
/// of the memory that a guest begins with.
pub(crate) fn lower(letter: char) -> char {
    let after = |distance: u32| char::from_u32(u32::from(letter) + distance).unwrap_or(letter);
    let is_even = u32::from(letter) % 2 == 0;
    match letter {
        'A'..='Z' | 'À'..='Ö' | 'Ø'..='Þ' | 'Α'..='Ρ' | 'Σ'..='Ω' | 'А'..='Я' => after(32),
        'Ѐ'..='Џ' => after(80),
        '\u{100}'..='\u{12f}' | '\u{132}'..='\u{137}' | '\u{14a}'..='\u{177}' if is_even => after(1),
        '\u{139}'..='\u{148}' | '\u{179}'..='\u{17e}' if !is_even => after(1),
        other => other,
    }
}

/// See [`Intent::chunks`].
pub(crate) fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let between = |character: char| character.is_whitespace() || "\"<>()[]{}|`;".contains(character);
    let at_an_end = |character: char| ".,:;!?'*…".contains(character);
    let trimmed = text.split(between).map(move |chunk| chunk.trim_matches(at_an_end));
    trimmed.map(|chunk| chunk.strip_suffix("'s").unwrap_or(chunk)).filter(|chunk| !chunk.is_empty())
}

/// See [`Intent::whole`].
pub(crate) fn whole<'i>(text: &'i str, value: &'i str) -> impl Iterator<Item = (&'i str, &'i str)> {
    let parts = text.match_indices(value).filter(|(_, found)| !found.is_empty());
    parts
        .map(|(at, found)| (&text[..at], &text[at + found.len()..]))
        .filter(|(before, after)| !before.chars().next_back().is_some_and(is_glue) && !continues(after))
}

/// Joins what stands on its two sides into one name, path or number.
fn is_glue(character: char) -> bool {
    is_word_character(character) || "_.@/\\:+=&%#~$-".contains(character)
}

/// Does the name, path or number go on? A full stop or a colon that ends a sentence is no part of it.
fn continues(after: &str) -> bool {
    let mut characters = after.chars();
    match characters.next() {
        Some('.' | ':') => characters.next().is_some_and(is_glue),
        Some(next) => is_glue(next),
        None => false,
    }
}

/// Is a place between quotation marks, given the texts before and after it?
pub(crate) fn is_quoted((before, after): (&str, &str)) -> bool {
    ['\'', '"', '`'].iter().any(|quote| before.ends_with(*quote) && after.starts_with(*quote))
}

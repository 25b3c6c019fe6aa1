//! A text as it reads to whoever receives it: without characters that cannot be seen, and with the ASCII letters,
//! digits, spaces and hyphens that others are only another drawing of.
//!
//! So `４１１１` and `4<zero width space>111` are looked at as `4111`. Letters of other alphabets that merely look alike
//! (Cyrillic `а`) stay what they are: a tool that is given them has no use for the value either.

use std::borrow::Cow;

pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if let Some(character) = if character.is_ascii() { Some(character) } else { folded(character) } {
            plain.push(character);
        }
    }
    Cow::Owned(plain)
}

/// `None` is for what cannot be seen.
#[allow(clippy::match_same_arms, reason = "two lines of one list")]
fn folded(character: char) -> Option<char> {
    let code = character as u32;
    Some(match code {
        // Soft hyphen, joiners, marks of direction, variation selectors, byte order mark, tags.
        0xAD | 0x34F | 0x61C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x200B..=0x200F => return None,
        0x202A..=0x202E | 0x2060..=0x206F | 0xFE00..=0xFE0F | 0xFEFF | 0xE0000..=0xE001F | 0xE007F..=0xE0FFF => {
            return None;
        }
        // Tags repeat ASCII invisibly: programs, and models, read them.
        0xE0020..=0xE007E => ascii(code - 0xE0000),
        0xA0 | 0x1680 | 0x2000..=0x200A | 0x202F | 0x205F | 0x3000 => ' ',
        0x2010..=0x2015 | 0x2212 | 0xFE58 | 0xFE63 => '-',
        0xFF01..=0xFF5E => ascii(code - 0xFEE0),
        // Digits of Arabic, Persian and Devanagari.
        0x660..=0x669 => digit(code - 0x660),
        0x6F0..=0x6F9 => digit(code - 0x6F0),
        0x966..=0x96F => digit(code - 0x966),
        // Mathematical letters, thirteen alphabets of A-Z a-z, and digits, five times 0-9.
        0x1D400..=0x1D6A3 => letter((code - 0x1D400) % 52),
        0x1D7CE..=0x1D7FF => digit((code - 0x1D7CE) % 10),
        _ => character,
    })
}

fn digit(value: u32) -> char {
    ascii(0x30 + value)
}

fn letter(index: u32) -> char {
    ascii(if index < 26 { 0x41 + index } else { 0x61 + index - 26 })
}

fn ascii(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_gone_and_other_drawings_are_ascii() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("4\u{200b}1\u{2060}1\u{feff}1\u{ad}", "4111"),
            ("４１１１－１１１１＠ｘ", "4111-1111@x"),
            ("٤١ ۴۱ ४१", "41 41 41"),
            ("𝟒𝟏 𝟺𝟷 𝐀𝐙𝐚𝐳 𝚊", "41 41 AZaz a"),
            ("a\u{a0}b\u{2011}c\u{2212}d", "a b-c-d"),
            ("\u{e0041}\u{e007a}\u{e0001}", "Az"),
            ("Grüße, 世界 😀", "Grüße, 世界 😀"),
        ] {
            assert_eq!(plain(text), wanted, "{text:?}");
        }
    }
}

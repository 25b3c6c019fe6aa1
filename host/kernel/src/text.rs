//! What counts as blank, and how long a text is.
//!
//! Both must agree with the Python package, or a request would be judged differently here: Python's `str.strip`
//! also strips the four separators U+001C to U+001F, which Unicode's `White_Space` property leaves out, and its `len`
//! counts code points.

/// Whether `text` is empty or only white space, as Python's `not text.strip()` says.
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

/// The length of `text` in characters when it exceeds `max`, else nothing.
pub(crate) fn length_over(text: &str, max: usize) -> Option<usize> {
    // A text never has more characters than bytes, so most are settled without counting.
    if text.len() <= max {
        return None;
    }
    Some(text.chars().count()).filter(|&length| length > max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_is_what_python_strips() {
        for text in ["", " ", "\n\t\r", "\u{1c}\u{1f}", "\u{85}\u{a0}\u{2028}\u{3000}"] {
            assert!(is_blank(text), "{text:?}");
        }
        for text in ["x", " x ", "\0", "\u{200b}", "\u{180e}", "\u{7f}"] {
            assert!(!is_blank(text), "{text:?}");
        }
    }

    #[test]
    fn length_counts_characters() {
        assert_eq!(length_over("ééé", 3), None);
        assert_eq!(length_over("éééé", 3), Some(4));
        assert_eq!(length_over("", 0), None);
    }
}

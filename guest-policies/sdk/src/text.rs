//! What reasons show: texts of a caller, and lengths of time.

use core::fmt;

/// Characters that are shown of each end of a long text.
const SHOWN_HALF: usize = 60;

/// A text of the caller's as a reason shows it: on one line, its control characters escaped, its middle left out when
/// it is long. So a reason stays readable, and within the host's limit, whatever the caller wrote.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut line = String::new();
    let mut push = |part: &str| {
        for character in part.chars() {
            match character {
                '\'' | '"' => line.push(character),
                other => line.extend(other.escape_debug()),
            }
        }
    };
    match (text.char_indices().nth(SHOWN_HALF), text.char_indices().nth_back(SHOWN_HALF - 1)) {
        (Some((head, _)), Some((tail, _))) if head < tail => {
            push(&text[..head]);
            push("…");
            push(&text[tail..]);
        }
        _ => push(text),
    }
    line
}

/// Milliseconds as people say them: `1 h 30 min`. Exact; nothing is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 5] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
        let mut rest = self.0;
        if rest == 0 {
            return out.write_str("0 ms");
        }
        for (unit, name) in UNITS {
            let count = rest / unit;
            rest %= unit;
            if count > 0 {
                write!(out, "{count} {name}")?;
                if rest > 0 {
                    out.write_str(" ")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shown_on_one_short_line() {
        assert_eq!(shown("it's \"é\" 😀"), "it's \"é\" 😀");
        assert_eq!(shown("a\nb\0c\\"), r"a\nb\0c\\");
        assert_eq!(shown(&"é".repeat(120)), "é".repeat(120));
        assert_eq!(shown(&"é".repeat(121)), format!("{}…{}", "é".repeat(60), "é".repeat(60)));
        assert_eq!(shown(""), "");
    }

    #[test]
    fn lengths_of_time() {
        for (ms, expected) in [
            (0, "0 ms"),
            (1, "1 ms"),
            (1_000, "1 s"),
            (60_000, "1 min"),
            (90_500, "1 min 30 s 500 ms"),
            (3_600_000, "1 h"),
            (5_400_000, "1 h 30 min"),
            (86_400_000, "1 d"),
            (90_000_000, "1 d 1 h"),
            (u64::MAX, "213503982334 d 14 h 25 min 51 s 615 ms"),
        ] {
            assert_eq!(Milliseconds(ms).to_string(), expected);
        }
    }
}

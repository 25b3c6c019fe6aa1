//! Keys of counters: two things that differ never share one, and none is longer than the host takes.
//!
//! A counter that two callers share lets one of them spend what the other was given, so a key is never cut. Its parts
//! are escaped, which keeps them apart whatever they contain; a key that is too long is replaced by its SHA-256, which
//! nobody can make collide. Short keys stay readable in the record of a decision.

use crate::sha256;

/// Bytes of a key that the host takes.
pub const KEY_BYTES_MAX: usize = 256;

/// A key in the making: parts in an order that the policy's code fixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key that begins with `label`, a word of the policy's own.
    #[must_use]
    pub fn new(label: &'static str) -> Self {
        Self(label.to_owned())
    }

    /// The same key, of this one `value` among those that differ in the part called `label`, a word of the policy's own.
    #[must_use]
    pub fn part(mut self, label: &'static str, value: &str) -> Self {
        self.0.push('|');
        self.0.push_str(label);
        self.0.push('=');
        for character in value.chars() {
            if matches!(character, '|' | '\\') {
                self.0.push('\\');
            }
            self.0.push(character);
        }
        self
    }

    /// [`Key::part`] for each value of a list; lists that differ stay apart, also in where one value ends.
    #[must_use]
    pub fn parts<'v>(self, label: &'static str, values: impl IntoIterator<Item = &'v str>) -> Self {
        values.into_iter().fold(self, |key, value| key.part(label, value))
    }

    /// The key as a counter takes it.
    #[must_use]
    pub fn finish(self) -> String {
        if self.0.len() <= KEY_BYTES_MAX {
            return self.0;
        }
        // No plain key looks like this: after the label of each comes `|`.
        format!("sha256:{}", sha256::hex(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(parts: &[String]) -> String {
        parts.iter().fold(Key::new("calls"), |key, part| key.part("p", part)).finish()
    }

    #[test]
    fn short_keys_can_be_read() {
        assert_eq!(Key::new("calls").part("actor", "agent:ops").part("tool", "a|b\\").finish(), {
            r"calls|actor=agent:ops|tool=a\|b\\"
        });
        assert_eq!(Key::new("calls").parts("tool", ["a", "b"]).finish(), "calls|tool=a|tool=b");
    }

    #[test]
    fn long_keys_are_hashed_and_never_cut() {
        let longest = "x".repeat(KEY_BYTES_MAX - "calls|p=".len());
        assert_eq!(key(std::slice::from_ref(&longest)), format!("calls|p={longest}"));
        let longer = key(&[format!("{longest}x")]);
        assert_eq!(longer.len(), "sha256:".len() + 64);
        assert_ne!(longer, key(&[format!("{longest}y")]));
    }

    proptest! {
        #[test]
        fn parts_that_differ_make_keys_that_differ(
            one in prop::collection::vec(r"[ab|=p\\]{0,4}", 0..4),
            other in prop::collection::vec(r"[ab|=p\\]{0,4}", 0..4),
        ) {
            prop_assert_eq!(one == other, key(&one) == key(&other));
        }

        #[test]
        fn no_key_is_too_long(parts in prop::collection::vec(".{0,400}", 0..4)) {
            prop_assert!(key(&parts).len() <= KEY_BYTES_MAX);
        }
    }
}

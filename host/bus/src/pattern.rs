//! Patterns of event names: `state:set` itself, `state:*` all of a namespace, `*:error` one name in all, `*` everything.

use serde::{Deserialize, Serialize};

/// A pattern with at most one star in each half of a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Read a pattern.
    ///
    /// # Errors
    /// If a star stands beside other characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let halves = || text.splitn(2, ':');
        let sound = !text.is_empty() && halves().all(|half| half == "*" || !half.contains('*'));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("pattern {text:?}: a star stands for a whole half of a name, as in `ns:*`, `*:error`, `*`"))
        }
    }

    /// Whether a name is of this pattern. `*` alone is every name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((space, rest)) = self.0.split_once(':') else { return self.0 == "*" || self.0 == name };
        let Some((its_space, its_rest)) = name.split_once(':') else { return false };
        (space == "*" || space == its_space) && (rest == "*" || rest == its_rest)
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// Whether one of them matches.
#[must_use]
pub fn any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_a_whole_half() {
        for (pattern, fits, fits_not) in [
            ("state:set", &["state:set"][..], &["state:get", "state", "state:set:x"][..]),
            ("state:*", &["state:set", "state:a:b"], &["stated:set", "state"]),
            ("*:error", &["completion:error"], &["completion:errors", "error"]),
            ("*", &["a", "a:b"], &[]),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            assert!(fits.iter().all(|name| pattern.matches(name)), "{pattern:?}");
            assert!(!fits_not.iter().any(|name| pattern.matches(name)), "{pattern:?}");
        }
        assert!(Pattern::parse("st*:set").is_err() && Pattern::parse("").is_err() && Pattern::parse("**").is_err());
    }
}

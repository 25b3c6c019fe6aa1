//! Who is who: names of approvers and of the actor, compared so that one person cannot pass for two.
//!
//! An approver's name is plain: visible ASCII without spaces, and its letters' case does not matter. So no invisible
//! character, no look-alike and no other spelling makes a second person of one. An actor's name may be anything; where
//! it is not plain, whatever it could be read as is the same person ([`is_perhaps`]).

use gavel_policy::glob::NamePattern;
use gavel_policy::json::Wrong;

/// What separates the parts of a name: the approver `human:alice` is Alice among the humans.
const PART: char = ':';

/// The name of an approver, plain and in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Approver(String);

impl Approver {
    /// The name that an approval gives, spaces around it left out; none if it is not plain, or a part of it is empty.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let name = text.trim();
        let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
        let is_whole = name.split(PART).all(|part| !part.is_empty());
        (is_plain && is_whole).then(|| Self(name.to_ascii_lowercase()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Could an actor of this name be this approver? Spaces and case do not tell them apart, and a character beyond ASCII
    /// may stand for any others.
    pub(crate) fn is_perhaps(&self, actor: &str) -> bool {
        let mut pattern = String::new();
        for character in actor.chars() {
            match character.to_ascii_lowercase() {
                other if !other.is_ascii() => pattern.push('*'),
                other if !other.is_ascii_graphic() => {}
                other => {
                    if r"*?[]{}!\".contains(other) {
                        pattern.push('\\');
                    }
                    pattern.push(other);
                }
            }
        }
        // An actor without a visible name could be anybody; so could one that makes no pattern, and there is none.
        NamePattern::new(&pattern).map_or(true, |pattern| pattern.matches(&self.0))
    }
}

/// A pattern of approvers. `*` and `?` stop at `:`, so that `human:*` is one human and not `human:alice:and-more`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApproverPattern {
    text: String,
    parts: Vec<NamePattern>,
}

impl ApproverPattern {
    pub(crate) fn new(text: &str) -> Result<Self, Wrong> {
        let text = text.to_ascii_lowercase();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Wrong::new(format!("'{text}': approvers' names are visible ASCII without spaces")));
        }
        let parts = text.split(PART).map(NamePattern::new).collect::<Result<_, _>>()?;
        Ok(Self { text, parts })
    }

    pub(crate) fn matches(&self, approver: &Approver) -> bool {
        let names: Vec<&str> = approver.0.split(PART).collect();
        names.len() == self.parts.len() && self.parts.iter().zip(names).all(|(part, name)| part.matches(name))
    }

    /// Is there one name only that fits?
    pub(crate) fn is_one_name(&self) -> bool {
        !self.text.contains(['*', '?', '\\'])
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approver(text: &str) -> Approver {
        Approver::new(text).expect(text)
    }

    #[test]
    fn names_of_approvers_are_plain() {
        assert_eq!(approver(" Human:Alice\t").as_str(), "human:alice");
        for text in
            ["", " ", "human:", ":alice", "a::b", "human: alice", "al\u{200b}ice", "аlice", "alice\u{301}", "a\0"]
        {
            assert_eq!(Approver::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn patterns_stop_at_colons() {
        for (pattern, name, expected) in [
            ("human:*", "human:alice", true),
            ("Human:A*", "hUMAN:alice", true),
            ("human:*", "human:alice:r-1", false),
            ("human:*", "human", false),
            ("*", "alice", true),
            ("*", "human:alice", false),
            ("human:al?ce", "human:alice", true),
        ] {
            assert_eq!(
                ApproverPattern::new(pattern).expect(pattern).matches(&approver(name)),
                expected,
                "{pattern} {name}"
            );
        }
        for pattern in ["", "human:", "human: alice", "jörg", "{a,b}"] {
            assert!(ApproverPattern::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_actor_is_not_another_person_by_another_spelling() {
        for actor in [
            "alice",
            "ALICE",
            " alice ",
            "ali\tce",
            "alice\u{200b}",
            "\u{feff}alice",
            "аlice",
            "alicе",
            "ａｌｉｃｅ",
            "al\u{ed}ce",
            "ali\u{0}ce",
            "",
            " ",
            "\u{200b}",
            "агент",
        ] {
            assert!(approver("alice").is_perhaps(actor), "{actor:?}");
        }
        for actor in ["bob", "agent:alice", "alice2", "alic", "bоb", "агент:alice", "*", "al*ce", "[alice]"] {
            assert!(!approver("alice").is_perhaps(actor), "{actor:?}");
        }
        assert!(approver("a*b!").is_perhaps("A*b!"));
    }
}

//! Tests of the patterns: a table, an oracle that is too simple to be wrong, and patterns made to be slow.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn name(pattern: &str) -> NamePattern {
    NamePattern::new(pattern).expect(pattern)
}

fn path(pattern: &str) -> PathPattern {
    PathPattern::new(pattern).expect(pattern)
}

fn matches_path(pattern: &str, text: &str) -> bool {
    let segments: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
    path(pattern).matches(&segments, Case::Kept)
}

#[test]
fn names() {
    for (pattern, text, expected) in [
        ("read_file", "read_file", true),
        ("read_file", "read_files", false),
        ("read_*", "read_", true),
        ("*_file", "read_file", true),
        ("*", "fs/read", true),
        ("*", "", true),
        ("?", "", false),
        ("?", "é", true),
        ("a*b*c", "axxbxxbxxc", true),
        ("a*b*c", "axxbxxbxx", false),
        ("**", "anything", true),
        (r"\*", "*", true),
        (r"\*", "x", false),
        (r"a\\b", r"a\b", true),
        ("Read", "read", false),
    ] {
        assert_eq!(name(pattern).matches(text), expected, "{pattern} {text}");
    }
}

#[test]
fn paths() {
    for (pattern, text, expected) in [
        ("src/*.rs", "src/main.rs", true),
        ("src/*.rs", "src/bin/main.rs", false),
        ("src/**", "src", true),
        ("src/**", "src/a/b", true),
        ("src/**", "srcs/a", false),
        ("src/**/*.rs", "src/main.rs", true),
        ("src/**/*.rs", "src/a/b/main.rs", true),
        ("src/**/*.rs", "src/a/b/main.c", false),
        ("**/.env", ".env", true),
        ("**/.env", "a/b/.env", true),
        ("**/.env", "a/.env/b", false),
        ("**/a/**/b/**", "x/a/y/b", true),
        ("**/a/**/b/**", "x/b/y/a", false),
        ("**", "", true),
        (".", "", true),
        ("./a//b/", "a/b", true),
        ("*", "", false),
        ("?/?", "a/b", true),
        ("???", "a/b", false),
    ] {
        assert_eq!(matches_path(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn case_is_ignored_only_where_asked() {
    let pattern = path("**/.ssh/k*");
    assert!(!pattern.matches(&[".SSH", "Key"], Case::Kept));
    assert!(pattern.matches(&[".SSH", "Key"], Case::Ignored));
    assert!(pattern.matches(&[".\u{17f}\u{17f}h", "\u{212a}ey"], Case::Ignored));
}

#[test]
fn refused_patterns() {
    for (pattern, why) in [
        ("", "it is empty"),
        ("a[bc]", "`[…]` and `{…}` are not supported; write two patterns"),
        ("*.{rs,c}", "`[…]` and `{…}` are not supported; write two patterns"),
        ("!secret", "a leading `!` is not supported; write `\\!` for the character"),
        (r"dir\file", r"`\` stands before one of `*?[]{}!\` only"),
        ("end\\", r"`\` stands before one of `*?[]{}!\` only"),
        ("../x", "`..` has no place in a pattern"),
        ("a**", "`**` stands alone between slashes"),
        ("a/***/b", "`**` stands alone between slashes"),
    ] {
        let error = PathPattern::new(pattern).expect_err(pattern);
        assert_eq!(error.to_string(), format!("pattern `{pattern}`: {why}"));
    }
}

#[test]
fn patterns_made_to_be_slow_are_not() {
    let started = Instant::now();
    assert!(!name(&format!("{}b", "a*".repeat(200))).matches(&"a".repeat(4_000)));
    assert!(!name(&format!("{}b", "*a".repeat(200))).matches(&"a".repeat(4_000)));
    let deep = vec!["a"; 2_000];
    assert!(!path(&format!("{}b", "**/a/".repeat(50))).matches(&deep, Case::Kept));
    assert!(!path(&format!("{}b", "**/*a*/".repeat(50))).matches(&deep, Case::Ignored));
    // Measured: some 20 ms unoptimised. Exponential work would not end at all.
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// The definition, written down without regard to time.
fn oracle(pattern: &[Token], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([Token::Any, rest @ ..], _) => oracle(rest, text) || (!text.is_empty() && oracle(pattern, &text[1..])),
        ([Token::One, rest @ ..], [_, others @ ..]) => oracle(rest, others),
        ([Token::Exactly(wanted), rest @ ..], [is, others @ ..]) => wanted == is && oracle(rest, others),
        _ => false,
    }
}

fn path_oracle(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => path_oracle(rest, path) || (!path.is_empty() && path_oracle(pattern, &path[1..])),
        ([first, rest @ ..], [segment, others @ ..]) => fits(first, segment, Case::Kept) && path_oracle(rest, others),
        _ => false,
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut rest = pattern;
    core::iter::from_fn(|| token(rest).map(|(token, left)| (rest = left, token).1)).collect()
}

proptest! {
    #[test]
    fn names_match_as_defined(pattern in r"([ab*?]|\\[*?]){1,10}", text in "[abé*?]{0,10}") {
        let characters: Vec<char> = text.chars().collect();
        prop_assert_eq!(name(&pattern).matches(&text), oracle(&tokens(&pattern), &characters));
    }

    #[test]
    fn paths_match_as_defined(
        pattern in prop::collection::vec(prop_oneof![Just("**"), Just("a"), Just("*"), Just("a*")], 1..6),
        text in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab")], 0..6),
    ) {
        prop_assert_eq!(matches_path(&pattern.join("/"), &text.join("/")), path_oracle(&pattern, &text));
    }

    #[test]
    fn an_escaped_text_matches_itself_only(text in ".{1,20}", other in ".{1,20}") {
        let mut escaped = String::new();
        for character in text.chars() {
            if r"*?[]{}!\".contains(character) { escaped.push('\\'); }
            escaped.push(character);
        }
        prop_assert!(name(&escaped).matches(&text));
        prop_assert_eq!(name(&escaped).matches(&other), text == other);
    }

    #[test]
    fn no_text_makes_a_pattern_panic(pattern in ".{0,30}", text in ".{0,30}") {
        let _ = NamePattern::new(&pattern).map(|pattern| pattern.matches(&text));
        let segments: Vec<_> = text.split('/').collect();
        let _ = PathPattern::new(&pattern).map(|pattern| pattern.matches(&segments, Case::Ignored));
    }
}

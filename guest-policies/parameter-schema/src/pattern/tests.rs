//! Patterns: what they match, what is refused, and that a simple matcher which goes back finds the same.

use proptest::prelude::*;

use super::*;

fn is_in(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).unwrap_or_else(|why| panic!("{pattern} {why}")).is_in(text)
}

#[test]
fn what_matches() {
    for (pattern, fits, others) in [
        ("", &["", "x"][..], &[][..]),
        ("a", &["a", "xax"], &["", "x", "A"]),
        ("^a+$", &["a", "aaa"], &["", "ab", "ba", "a\n"]),
        ("^a|b$", &["ax", "xb"], &["xa", "bx"]),
        ("^(a|b|cd)$", &["a", "b", "cd"], &["c", "ad", "acd", ""]),
        ("^(?:ab|a)(c|bcd)$", &["abc", "ac", "abcd", "abbcd"], &["ab", "abcdx"]),
        ("^[a-z0-9_-]{2,4}$", &["ab", "a-_9"], &["a", "abcde", "AB", "a b"]),
        ("^[^0-9]*$", &["", "abc\n"], &["a1"]),
        (r"^\d{3}-\d{4}$", &["555-0123"], &["5550123", "555-012", "٥55-0123"]),
        (r"^\w+\s\W$", &["ab !", "a_1\t?"], &["ab!", "é !"]),
        (r"^[\w.]+@[\d]+$", &["a.b@1"], &["a-b@1"]),
        (r"^\S\D$", &["ab"], &[" b", "a1"]),
        (r"^\x41\u00e9\.\/\-$", &["Aé./-"], &["Aéx/-"]),
        ("^.$", &["é", "😀", " "], &["", "\n", "ab"]),
        ("^a?b*c+?d{2}$", &["cdd", "abbccdd"], &["cd", "aacdd"]),
        ("^a{0}b{2,}$", &["bb", "bbbb"], &["b", "abb"]),
        ("^(a{2}){2}$", &["aaaa"], &["aaa", "aaaaa"]),
        ("^((a|b)*c)?$", &["", "c", "abac"], &["ab", "cc"]),
        ("^(a*)*$", &["", "aaa"], &["b"]),
        ("^(|a)+$", &["", "aa"], &["b"]),
        ("()", &["", "x"], &[]),
        ("^[]]?", &[], &[]),
    ] {
        if pattern == "^[]]?" {
            // An empty set, and a bare bracket.
            assert!(Pattern::new(pattern).is_err());
            continue;
        }
        for text in fits {
            assert!(is_in(pattern, text), "{pattern} in {text:?}");
        }
        for text in others {
            assert!(!is_in(pattern, text), "{pattern} in {text:?}");
        }
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    for (pattern, why) in [
        ("(", "without its `)`"),
        (")", "without its `(`"),
        ("[a", "without its `]`"),
        ("[b-a]", "comes before its beginning"),
        (r"[a-\d]", "ends with a set"),
        (r"[\D]", "in a set"),
        ("[[a]", "bare `[` in a set"),
        ("a**", "repeats a repetition"),
        ("*a", "after nothing"),
        ("^*", "repeats `^`"),
        ("a{", "without counts"),
        ("a{x}", "without counts"),
        ("a{1001}", "without counts up to 1000"),
        ("a{3,2}", "the smaller"),
        ("a}", "bare `}`"),
        ("(?=a)", "look-around"),
        ("(?<n>a)", "look-around and names"),
        (r"(a)\1", r"`\1`"),
        (r"\ba", r"`\b`"),
        (r"\p{L}", r"`\p`"),
        (r"\u12", "hexadecimal"),
        (r"\ud800", "hexadecimal digits of a character"),
        ("a\\", "ends with a backslash"),
        ("(a{1000}){1000}", "more than 2000 states"),
        ("a{1000}b{1000}c{1000}", "more than 2000 states"),
    ] {
        let refused = Pattern::new(pattern).expect_err(pattern);
        assert!(refused.contains(why), "{pattern} {refused}");
    }
    let nested = format!("{}a{}", "(".repeat(17), ")".repeat(17));
    assert!(Pattern::new(&nested).expect_err("too deep").contains("nested deeper than 16"));
}

/// What makes matchers that go back take years.
#[test]
fn time_is_linear() {
    let started = std::time::Instant::now();
    for pattern in ["^(a+)+$", "^(a|aa)+$", "^(a|a?)+$", "(x+x+)+y", "^(([a-z])+.)+[A-Z]([a-z])+$"] {
        assert!(!is_in(pattern, &format!("{}!", "a".repeat(20_000))), "{pattern}");
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

/// A pattern as a tree, to be written and to be matched by going back.
#[derive(Debug, Clone)]
enum Tree {
    Character(char),
    Any,
    Both(Box<Tree>, Box<Tree>),
    Either(Box<Tree>, Box<Tree>),
    Repeat(Box<Tree>, usize, Option<usize>),
}

impl Tree {
    fn written(&self) -> String {
        match self {
            Tree::Character(character) => character.to_string(),
            Tree::Any => "[ab]".into(),
            Tree::Both(left, right) => left.written() + &right.written(),
            Tree::Either(left, right) => format!("({}|{})", left.written(), right.written()),
            Tree::Repeat(inner, least, None) => format!("({}){{{least},}}", inner.written()),
            Tree::Repeat(inner, least, Some(most)) => format!("(?:{}){{{least},{most}}}", inner.written()),
        }
    }

    /// Every length of a match at the beginning of the text.
    fn lengths(&self, text: &str) -> std::collections::BTreeSet<usize> {
        match self {
            Tree::Character(wanted) => text.starts_with(*wanted).then_some(1).into_iter().collect(),
            Tree::Any => text.starts_with(['a', 'b']).then_some(1).into_iter().collect(),
            Tree::Both(left, right) => left
                .lengths(text)
                .into_iter()
                .flat_map(|at| right.lengths(&text[at..]).into_iter().map(move |end| at + end))
                .collect(),
            Tree::Either(left, right) => left.lengths(text).union(&right.lengths(text)).copied().collect(),
            Tree::Repeat(inner, least, most) => {
                let mut all = std::collections::BTreeSet::new();
                let mut now = std::collections::BTreeSet::from([0]);
                for times in 0..=most.unwrap_or(text.len() + least) {
                    if times >= *least {
                        all.extend(&now);
                    }
                    now = now
                        .iter()
                        .flat_map(|at| inner.lengths(&text[*at..]).into_iter().map(move |end| at + end))
                        .collect();
                }
                all
            }
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![Just(Tree::Character('a')), Just(Tree::Character('b')), Just(Tree::Any)];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| Tree::Both(left.into(), right.into())),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| Tree::Either(left.into(), right.into())),
            (inner, 0_usize..3, prop::option::of(0_usize..3)).prop_map(|(inner, least, more)| Tree::Repeat(
                inner.into(),
                least,
                more.map(|more| least + more)
            )),
        ]
    })
}

proptest! {
    #[test]
    fn another_matcher_finds_the_same(tree in tree(), text in "[abc]{0,7}") {
        let anchored = tree.lengths(&text).contains(&text.len());
        prop_assert_eq!(is_in(&format!("^(?:{})$", tree.written()), &text), anchored, "{}", tree.written());
        let anywhere = (0..=text.len()).any(|at| !tree.lengths(&text[at..]).is_empty());
        prop_assert_eq!(is_in(&tree.written(), &text), anywhere, "{}", tree.written());
    }

    #[test]
    fn any_pattern_is_read_or_refused(pattern in "[ab(){}|*+?.^$\\[\\]\\\\0-9,dDwx-]{0,16}", text in "[ab0]{0,8}") {
        if let Ok(pattern) = Pattern::new(&pattern) {
            pattern.is_in(&text);
        }
    }
}

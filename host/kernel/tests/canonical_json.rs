//! Canonical JSON held against Python's, and against its own laws.
//!
//! What belongs here: what is read by `json::parse` and written by `json::canonical`, for recorded and random inputs.

use gavel_kernel::json::{canonical, parse};
use proptest::prelude::*;
use serde_json::{Map, Number, Value};
use std::fs;

#[test]
fn canonical_text_is_cpythons() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/canonical-json.jsonl");
    let recorded = fs::read_to_string(file).expect("recorded data");
    let mut pairs = 0;
    for line in recorded.lines() {
        let line = parse(line.as_bytes()).expect("JSON");
        let text = |key: &str| line[key].as_str().expect("text").to_owned();
        let (input, expected) = (text("input"), text("canonical"));
        let value = parse(input.as_bytes()).unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(canonical(&value), expected, "{input}");
        assert_eq!(serde_json::from_str::<Value>(&input).ok(), Some(value), "{input}");
        pairs += 1;
    }
    assert!(pairs >= 1500, "{pairs} pairs");
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<i64>().prop_map(Number::from),
        "-?[1-9][0-9]{0,300}".prop_map(|text| text.parse().expect("an integer")),
        any::<f64>().prop_filter_map("finite", Number::from_f64),
        "-?[0-9]\\.[0-9]{1,25}[eE][+-]?[0-9]{1,2}".prop_map(|text| text.parse().expect("a float")),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number().prop_map(Value::Number),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let members = prop::collection::vec((any::<String>(), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Value::Array),
            members.prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Asserts that every object's keys come in the order of their code points.
fn assert_sorted(value: &Value) {
    match value {
        Value::Array(items) => items.iter().for_each(assert_sorted),
        Value::Object(members) => {
            let keys: Vec<_> = members.keys().map(|key| key.chars().collect::<Vec<_>>()).collect();
            assert!(keys.is_sorted(), "{keys:?}");
            members.values().for_each(assert_sorted);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn canonical_text_is_a_fixpoint_in_ascii(value in value()) {
        let text = canonical(&value);
        prop_assert!(text.is_ascii(), "{}", text);
        let again = parse(text.as_bytes()).expect("canonical text is JSON");
        assert_sorted(&again);
        prop_assert_eq!(canonical(&again), text);
    }

    #[test]
    fn spelling_does_not_matter(value in value()) {
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        let read = parse(pretty.as_bytes()).expect("JSON");
        prop_assert_eq!(canonical(&read), canonical(&value));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn it_accepts_nothing_that_serde_json_refuses(text in "[\\[\\]{},:\"\\\\u0-9a-f.eE+ntrl -]{0,24}") {
        if let Ok(value) = parse(text.as_bytes()) {
            prop_assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(value));
        }
    }

    #[test]
    fn a_cut_text_is_refused(value in value(), cut in any::<prop::sample::Index>()) {
        let text = canonical(&Value::Array(vec![value]));
        prop_assert!(parse(&text.as_bytes()[..cut.index(text.len())]).is_err());
    }
}

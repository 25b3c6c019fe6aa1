//! Tests of the reader, most of them by comparison with `serde_json`.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The same value as `serde_json` has it. Of a name that comes twice it keeps the last.
fn as_serde(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(is) => Value::Bool(*is),
        Json::Number(digits) => serde_json::from_str(digits).expect("a number"),
        Json::Text(text) => Value::String(text.to_string()),
        Json::List(items) => items.iter().map(as_serde).collect(),
        Json::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.to_string(), as_serde(value))).collect())
        }
    }
}

fn check(text: &str) {
    match (Json::parse(text), serde_json::from_str::<Value>(text)) {
        (Ok(ours), Ok(theirs)) => assert_eq!(as_serde(&ours), theirs, "{text}"),
        (Err(_), Err(_)) => {}
        // A float that is too large is an error there and a text of digits here.
        (Ok(_), Err(error)) if error.to_string().starts_with("number out of range") => {}
        (ours, theirs) => panic!("{text}: {ours:?} but {theirs:?}"),
    }
}

#[test]
fn the_same_texts_are_json() {
    for text in [
        "",
        " ",
        "null",
        "nul",
        "nulll",
        " true ",
        "falsé",
        "0",
        "-0",
        "01",
        "-",
        "1.",
        ".5",
        "1.5e3",
        "1e+",
        "1E-2",
        "+1",
        "0x1",
        "123456789012345678901234567890",
        "\"\"",
        "\"a\\\"b\\\\c\\/d\\b\\f\\n\\r\\te\"",
        "\"\\u00e9\\ud83d\\ude00é😀\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\u0041\"",
        "\"\\ud83d\\n\"",
        "\"\\u12\"",
        "\"\\u+123\"",
        "\"\\x\"",
        "\"a",
        "\"a\\",
        "\"\\u00",
        "\"\t\"",
        "\"\u{7f}\"",
        "[]",
        "[ ]",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,[2,[3]]]",
        "{}",
        "{ }",
        "{\"a\":1,}",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":{\"b\":[null,true]}}",
        "[1]]",
        "{} x",
        "\u{feff}1",
        "\u{a0}1",
        "[1}",
        "{\"a\":1]",
    ] {
        check(text);
    }
}

#[test]
fn nesting_has_a_bound() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Json::parse(&nested(DEPTH_MAX)).is_ok());
    for depth in [DEPTH_MAX + 1, 1_000_000] {
        let error = Json::parse(&nested(depth)).expect_err("too deep");
        assert_eq!(error.to_string(), "the JSON is nested deeper than 64");
    }
}

#[test]
fn names_that_come_twice_are_kept_and_refused_as_settings() {
    let json = Json::parse(r#"{"a":1,"a":2}"#).expect("JSON");
    assert!(matches!(&json, Json::Object(fields) if fields.len() == 2));
    assert_eq!(json.object(&["a"]).expect_err("twice").to_string(), "setting `a` comes twice");
}

#[test]
fn errors_name_their_place() {
    let read = |text: &str| {
        let json = Json::parse(text)?;
        let fields = json.object(&["rules", "limit"])?;
        let limit = fields.get("limit", Json::integer)?;
        let rules = fields.require("rules", |rules| {
            rules.list(|rule| {
                rule.object(&["tools"])?.require("tools", |tools| tools.list(|tool| tool.text().map(str::len)))
            })
        })?;
        Ok::<_, Wrong>((limit, rules))
    };
    assert_eq!(read(r#"{"rules":[{"tools":["abc"]}],"limit":-7}"#), Ok((Some(-7), vec![vec![3]])));
    for (text, expected) in [
        ("7", "expected an object, not a number"),
        ("{", "not JSON: expected a text at byte 1"),
        ("{}", "setting `rules` is missing"),
        (r#"{"rule":[]}"#, "unknown setting `rule`, not one of rules limit"),
        (r#"{"rules":{}}"#, "`rules`: expected a list, not an object"),
        (r#"{"rules":[{"tools":["a"]},{"tools":["a",1]}]}"#, "`rules[1].tools[1]`: expected a text, not a number"),
        (r#"{"rules":[{}]}"#, "`rules[0]`: setting `tools` is missing"),
        (r#"{"rules":[],"limit":1.5}"#, "`limit`: expected an integer, not 1.5"),
        (r#"{"rules":[],"limit":9223372036854775808}"#, "`limit`: expected an integer, not 9223372036854775808"),
        (r#"{"rules":[],"limit":null}"#, "`limit`: expected an integer, not null"),
    ] {
        assert_eq!(read(text).expect_err(text).to_string(), expected, "{text}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_writes_is_read_back(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.expect("writes");
        prop_assert_eq!(as_serde(&Json::parse(&text).expect("reads")), value);
    }

    #[test]
    fn broken_json_is_refused_alike(value in any_json(), at in any::<prop::sample::Index>(), with in r#"[\[\]{}:,"\\u0-9eE.a-f \n-]{0,3}"#) {
        let mut text: Vec<char> = value.to_string().chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        check(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_is_refused_alike(text in r#"[\[\]{}:,"\\/u0-9eEnulltrfase.+ \n-]{0,12}"#) {
        check(&text);
    }
}

//! Tests of the whole judgement, on the machine itself: configuration text and tool call in, verdict out. The keywords
//! have their tests beside them ([`crate::check`]).

use gavel_policy::{ToolCall, read_configuration};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const README: &str = include_str!("../README.md");
const SCHEMA: &str = include_str!("../config.schema.json");

fn config(config: &serde_json::Value) -> Result<Config, String> {
    read_configuration(&config.to_string(), Config::read).map_err(|broken| broken.to_string())
}

fn verdict(settings: &serde_json::Value, tool: &str, params: &str) -> Verdict {
    let tool_call = Some(ToolCall { name: tool.into(), params: params.into() });
    judge(&config(settings).expect("a configuration"), &request(tool_call))
}

fn request(tool_call: Option<ToolCall>) -> Request {
    Request {
        id: "r-1".into(),
        now_ms: 0,
        ts_ms: 0,
        actor: "agent-001".into(),
        intent: "transfer".into(),
        tool_call,
        params: "{}".into(),
        evidence: Vec::new(),
        constraints: None,
    }
}

fn example() -> serde_json::Value {
    let example = README.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    serde_json::from_str(example).expect(example)
}

#[test]
fn the_verdicts_of_the_readme() {
    let mut rows = 0;
    for line in README.lines().filter_map(|line| line.strip_prefix("| `")) {
        let Some((call, expected)) = line.split_once("` | ") else { continue };
        let Some((tool, params)) = call.split_once(" {") else { continue };
        let expected = expected.trim_end_matches(" |");
        match verdict(&example(), tool, &format!("{{{params}")) {
            Verdict::Deny(reason) => assert_eq!(expected, format!("deny: `{reason}`")),
            other => assert!(other == Verdict::Allow && expected == "allow", "{line}"),
        }
        rows += 1;
    }
    assert_eq!(rows, 10);
}

#[test]
fn tools_without_a_schema() {
    for (unlisted, expected) in [
        (json!("abstain"), Verdict::Abstain),
        (json!("allow"), Verdict::Allow),
        (json!("deny"), Verdict::Deny("tool 'other' has no schema".into())),
    ] {
        let settings = json!({"tools": {"x*": true}, "unlisted": unlisted});
        assert_eq!(verdict(&settings, "other", "{}"), expected);
        assert_eq!(judge(&config(&settings).expect("a configuration"), &request(None)), Verdict::Abstain);
    }
    assert_eq!(verdict(&json!({"tools": {"x*": true}}), "other", "{}"), Verdict::Abstain);
}

#[test]
fn every_schema_whose_pattern_fits_must_fit() {
    let settings = json!({"tools": {"x*": {"required": ["a"]}, "*y": {"required": ["b"]}}});
    assert_eq!(verdict(&settings, "xy", r#"{"a":1,"b":2}"#), Verdict::Allow);
    assert_eq!(verdict(&settings, "x", r#"{"a":1}"#), Verdict::Allow);
    for params in [r#"{"a":1}"#, r#"{"b":1}"#] {
        assert!(matches!(verdict(&settings, "xy", params), Verdict::Deny(_)), "{params}");
    }
}

#[test]
fn a_name_that_comes_twice_is_judged_twice() {
    let settings = json!({"tools": {"x": {"properties": {"a": {"type": "string"}}}}});
    for params in [r#"{"a":"s","a":1}"#, r#"{"a":1,"a":"s"}"#] {
        assert!(matches!(verdict(&settings, "x", params), Verdict::Deny(_)), "{params}");
    }
}

#[test]
fn configurations_that_are_refused_say_where_and_what() {
    let tool = |schema: serde_json::Value| json!({"tools": {"x": schema}});
    for (settings, why) in [
        (json!(null), "expected an object, not null"),
        (json!({}), "setting `tools` is missing"),
        (json!({"tools": {}}), "it names no tool"),
        (json!({"tools": {"x[a]": true}}), "pattern `x[a]`"),
        (json!({"tools": {"x": true}, "unlisted": "ignore"}), "'ignore' is none of abstain, allow, deny"),
        (tool(json!(1)), "`tools.x`: the schema is refused at '': a schema is an object, true or false, not a number"),
        (
            tool(json!({"properties": {"a/b": {"minimun": 1}}})),
            "at '/properties/a~1b/minimun': the keyword `minimun` is not supported",
        ),
        (tool(json!({"if": true})), "the keyword `if` is not supported"),
        (tool(json!({"type": "text"})), "at '/type': there is no type 'text'"),
        (tool(json!({"type": []})), "at '/type': expected the name of a type"),
        (tool(json!({"enum": []})), "no value would fit an empty list"),
        (tool(json!({"anyOf": []})), "the list of schemas is empty"),
        (tool(json!({"anyOf": [true, {"x": 1}]})), "at '/anyOf/1/x'"),
        (tool(json!({"minLength": -1})), "at '/minLength': -1 is no count"),
        (tool(json!({"minLength": 1.5})), "1.5 is no count"),
        (tool(json!({"minLength": "1"})), "expected a count, not a text"),
        (tool(json!({"multipleOf": 0})), "0 is not a positive number of at most 18 digits"),
        (tool(json!({"maximum": "1"})), "expected a number, not a text"),
        (tool(json!({"pattern": "(a"})), "the pattern `(a` has a `(` without its `)`"),
        (tool(json!({"patternProperties": {"*": true}})), "at '/patternProperties/*': the pattern `*`"),
        (tool(json!({"format": "hostname"})), "the format 'hostname' is not supported"),
        (tool(json!({"uniqueItems": 1})), "expected true or false, not a number"),
        (tool(json!({"required": "a"})), "expected a list, not a text"),
        (tool(json!({"required": [1]})), "expected a text, not a number"),
        (tool(json!({"properties": []})), "expected an object, not a list"),
        (tool(json!({"$ref": "#/$defs/a"})), "there is no 'a' in the schema's `$defs`"),
        (tool(json!({"$ref": "other.json"})), "'other.json' is neither `#` nor `#/$defs/NAME`"),
        (tool(json!({"items": {"$defs": {}}})), "`$defs` stands at the root of the schema only"),
        (tool(json!({"$ref": "#"})), "at '/$ref': leads back to itself"),
        (
            tool(json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}})),
            "leads back to itself",
        ),
        (tool(json!({"$defs": {"unused": {"type": "nul"}}})), "at '/$defs/unused/type'"),
        (tool(json!({"anyOf": vec![true; 10_001]})), "more than 10000 subschemas"),
    ] {
        let refused = config(&settings).expect_err(why);
        assert!(refused.contains(why), "{refused}");
    }
    let twice =
        read_configuration(r#"{"tools":{"x":{"type":"null","type":"array"}}}"#, Config::read).expect_err("twice");
    assert!(twice.to_string().contains("`type` comes twice"), "{twice}");
}

#[test]
fn the_schema_and_the_reader_know_the_same_keywords() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("JSON");
    let keywords = schema["$defs"]["schema"]["properties"].as_object().expect("keywords");
    for keyword in keywords.keys() {
        let refused = config(&json!({"tools": {"x": {keyword: 0}}})).err().unwrap_or_default();
        assert!(!refused.contains("is not supported; the README"), "{refused}");
        assert!(README.contains(&format!("`{keyword}`")), "{keyword}");
    }
    assert_eq!(keywords.len(), 38);
}

/// This policy judges its own configuration by its own schema, as far as that is in the subset.
#[test]
fn the_example_fits_the_configuration_schema() {
    let mut schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("JSON");
    schema["properties"]["tools"].as_object_mut().expect("an object").remove("propertyNames");
    let itself = json!({"tools": {"configure": schema}});
    assert_eq!(verdict(&itself, "configure", &example().to_string()), Verdict::Allow);
    let wrong = json!({"tools": {"x": {"properties": {"a": {"minimun": 1}}}}});
    let Verdict::Deny(reason) = verdict(&itself, "configure", &wrong.to_string()) else { panic!("{wrong}") };
    assert!(reason.contains("'/tools/x/properties/a/minimun'"), "{reason}");
}

proptest! {
    #[test]
    fn any_schema_is_read_or_refused_and_any_value_judged(
        keyword in "(type|enum|const|minLength|pattern|items|properties|required|anyOf|not|multipleOf|\\$ref)",
        argument in "(1|\"a\"|\"integer\"|\\[\"a\"\\]|\\[true\\]|\\{\"a\":\\{\"type\":\"null\"\\}\\}|\"#\"|0\\.5|true)",
        value in "(1|0\\.5|\"a\"|null|\\[1,1\\]|\\{\"a\":1\\})",
    ) {
        let settings = format!(r#"{{"tools":{{"x":{{"properties":{{"v":{{"{keyword}":{argument}}}}}}}}}}}"#);
        if let Ok(config) = read_configuration(&settings, Config::read) {
            let call = ToolCall { name: "x".into(), params: format!(r#"{{"v":{value}}}"#) };
            prop_assert_ne!(judge(&config, &request(Some(call))), Verdict::Abstain);
        }
    }
}

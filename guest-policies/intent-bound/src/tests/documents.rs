//! What the documents say is what is so: the README's example and tables, the schema, the shipped tests.

use serde_json::{Value, json};

use super::{NOW_MS, config, request, yaml};
use crate::{Verdict, judge};

const README: &str = include_str!("../../README.md");
const SCHEMA: &str = include_str!("../../config.schema.json");
const SHIPPED: &str = include_str!("../../tests.yaml");

fn block(language: &str) -> &str {
    let rest = README.split(&format!("```{language}\n")).nth(1).expect(language);
    rest.split("```").next().expect("an end")
}

#[test]
fn the_verdicts_of_the_readme() {
    let config = config(&yaml(block("yaml")));
    let prompt =
        README.split("The user's prompt: *\"").nth(1).and_then(|rest| rest.split("\"*").next()).expect("a prompt");
    let prompt = prompt.replace('\n', " ");
    let mut rows = 0;
    for line in README.lines().filter_map(|line| line.strip_prefix("| `")) {
        let Some((call, expected)) = line.split_once("` | ") else { continue };
        let Some((tool, params)) = call.split_once(" {") else { continue };
        let expected = expected.trim_end_matches(" |");
        match judge(&config, &request(&prompt, tool, &format!("{{{params}"))) {
            Verdict::Deny(reason) => assert_eq!(expected, format!("deny: `{reason}`"), "{line}"),
            Verdict::Escalate(reason) => assert_eq!(expected, format!("escalate: `{reason}`"), "{line}"),
            Verdict::Allow => assert_eq!(expected, "allow", "{line}"),
            Verdict::Abstain => assert!(expected.starts_with("abstain"), "{line}"),
        }
        rows += 1;
    }
    assert_eq!(rows, 13);
}

#[test]
fn the_schema_knows_every_kind_and_the_readme_explains_each() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    for kind in schema["$defs"]["kind"]["enum"].as_array().expect("kinds") {
        let kind = kind.as_str().expect("a kind");
        assert!(README.contains(&format!("\n| `{kind}` |")), "{kind}");
        let rules = json!([{"tools": ["t"], "params": {"p": {"kind": kind, "allow": ["x"]}}}]);
        let _ = config(&json!({ "rules": rules }));
    }
    for setting in schema["$defs"]["param"]["properties"].as_object().expect("settings").keys() {
        assert!(README.contains(&format!("\n| `{setting}` |")), "{setting}");
    }
}

#[test]
fn the_shipped_tests_pass() {
    let shipped = yaml(SHIPPED);
    let cases = shipped["cases"].as_array().expect("cases");
    for case in cases {
        let settings = if case["config"].is_null() { &shipped["config"] } else { &case["config"] };
        let asked = &case["request"];
        let intent = asked["intent"].as_str().unwrap_or("test");
        let mut request = request(intent, asked["tool_call"]["name"].as_str().unwrap_or_default(), "{}");
        request.now_ms = asked["now_ms"].as_u64().unwrap_or(NOW_MS);
        match &mut request.tool_call {
            Some(call) if !asked["tool_call"].is_null() => call.params = asked["tool_call"]["params"].to_string(),
            call => *call = None,
        }
        let (verdict, reason) = match judge(&config(settings), &request) {
            Verdict::Allow => ("allow", String::new()),
            Verdict::Abstain => ("abstain", String::new()),
            Verdict::Escalate(why) => ("escalate", why),
            Verdict::Deny(why) => ("deny", why),
        };
        assert_eq!(case["expect"], verdict, "{}: {reason}", case["name"]);
        assert!(reason.contains(case["reason"].as_str().unwrap_or_default()), "{}: {reason}", case["name"]);
    }
    assert!(cases.len() >= 12);
}

//! Tests of the whole judgement, on the machine itself: configuration text and request in, verdict and notes out.

use gavel_policy::{ToolCall, read_configuration};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const README: &str = include_str!("../README.md");
const SCHEMA: &str = include_str!("../config.schema.json");

/// A password that has nothing in common with any word of a message.
const VALUE: &str = "k9#fLq2!vX";

fn config(config: &serde_json::Value) -> Config {
    read_configuration(&config.to_string(), Config::read).expect("a configuration")
}

fn request(tool: &str, params: &str) -> Request {
    Request {
        id: "r-1".into(),
        now_ms: 0,
        ts_ms: 0,
        actor: "agent-001".into(),
        intent: format!("log in with password={VALUE}"),
        tool_call: Some(ToolCall { name: tool.into(), params: params.into() }),
        params: json!({ "secret": VALUE }).to_string(),
        evidence: Vec::new(),
        constraints: None,
    }
}

/// The verdict, and the lines for the log.
fn verdict(settings: &serde_json::Value, tool: &str, params: &str) -> (Verdict, Vec<String>) {
    let mut notes = Vec::new();
    let verdict = judge(&config(settings), &request(tool, params), &mut |line| notes.push(line.to_owned()));
    (verdict, notes)
}

fn reason(params: &serde_json::Value) -> String {
    match verdict(&serde_json::Value::Null, "post", &params.to_string()).0 {
        Verdict::Deny(reason) | Verdict::Escalate(reason) => reason,
        other => panic!("{params}: {other:?}"),
    }
}

#[test]
fn the_verdicts_of_the_readme() {
    let example = README.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let example = serde_json::from_str(example).expect(example);
    let mut rows = 0;
    for line in README.lines().filter_map(|line| line.strip_prefix("| `")) {
        let Some((call, expected)) = line.split_once("` | ") else { continue };
        let Some((tool, params)) = call.split_once(" {") else { continue };
        let expected = expected.trim_end_matches(" |");
        match verdict(&example, tool, &format!("{{{params}")).0 {
            Verdict::Deny(reason) => assert_eq!(expected, format!("deny: `{reason}`")),
            Verdict::Escalate(reason) => assert_eq!(expected, format!("escalate: `{reason}`")),
            other => assert!(other == Verdict::Abstain && expected == "abstain", "{line}"),
        }
        rows += 1;
    }
    assert_eq!(rows, 8);
}

#[test]
fn the_schema_and_the_reader_know_the_same_kinds() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut in_schema: Vec<&str> =
        schema["$defs"]["kind"]["enum"].as_array().expect("kinds").iter().filter_map(|kind| kind.as_str()).collect();
    let mut known: Vec<&str> = kind::ABOUT.iter().map(|about| about.name).collect();
    known.extend(["secrets", "personal"]);
    in_schema.sort_unstable();
    known.sort_unstable();
    assert_eq!(in_schema, known);
    assert!(known.iter().all(|name| README.contains(&format!("`{name}`"))));
}

#[test]
fn configurations_that_are_refused_say_what_is_wrong() {
    for (settings, why) in [
        (json!({"kind": {}}), "unknown setting `kind`"),
        (json!({"kinds": {"passport": "deny"}}), "there is no kind 'passport'"),
        (json!({"kinds": {"email": "block"}}), "'block' is none of deny, escalate, allow, off"),
        (json!({"on_too_large": "allow"}), "what was not looked at never passes"),
        (json!({"max_scan_bytes": 5}), "5 is not between 1024 and 67108864"),
        (json!({"exceptions": [{"kinds": ["email"]}]}), "an exception needs `tools`, `params` or `values`"),
        (json!({"exceptions": [{"params": ["to"]}]}), "'to' is not a path of a parameter"),
        (json!({"rules": [{"tools": [], "kinds": {}}]}), "`rules[0].tools`: the list is empty"),
        (json!({"also_scan": ["evidence"]}), "'evidence' is neither request_params nor intent"),
        (json!({"decode": 1}), "expected true or false, not a number"),
        (json!([]), "expected an object, not a list"),
    ] {
        let refused = read_configuration(&settings.to_string(), Config::read).expect_err(why).to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn places_are_named() {
    for (params, place) in [
        (
            json!({"a": {"b/c": ["x", format!("password={VALUE}")]}}),
            "parameter '/a/b~1c/1' of tool 'post' holds a credential",
        ),
        (json!({"a": {format!("token={VALUE}7"): 1}}), "a key in parameter '/a' of tool 'post' holds a credential"),
        (json!({format!("token={VALUE}7"): 1}), "the name of a parameter of tool 'post' holds a credential"),
        (
            json!({"a": json!({"b": [{"token": VALUE}]}).to_string()}),
            "parameter '/a' of tool 'post', as JSON at '/b/0/token',",
        ),
        (json!({"url": "https://x.net/?q=pass%77ord%3Dk9%23fLq2%21vX"}), "(credential-assignment), in percent signs"),
        (json!({"x": "70617373776f72643d6b3923664c7132217658"}), "(credential-assignment), in hexadecimal"),
        (
            json!({"x": "eyJ0b2tlbiI6ICJrOSNmTHEyIXZYIn0="}),
            "parameter '/x' of tool 'post', as JSON at '/token', holds a credential (credential-assignment), in base64",
        ),
    ] {
        let reason = reason(&params);
        assert!(reason.contains(place), "{reason}");
    }
    let all: serde_json::Map<String, serde_json::Value> =
        (0..9).map(|index| (format!("p{index}"), json!(format!("password={VALUE}")))).collect();
    assert!(reason(&json!(all)).ends_with("; and 4 more"));
}

#[test]
fn a_denial_goes_before_an_escalation_and_a_note_before_nothing() {
    let settings = json!({"kinds": {"email": "allow", "iban": "escalate"}});
    let params = json!({"a": "DE89370400440532013000", "b": "bob@example.com"}).to_string();
    let (escalated, notes) = verdict(&settings, "post", &params);
    assert_eq!(escalated, Verdict::Escalate("parameter '/a' of tool 'post' holds an IBAN (iban)".into()));
    assert_eq!(notes, ["parameter '/b' of tool 'post' holds an e-mail address (email)"]);
    let params = json!({"a": "DE89370400440532013000", "b": format!("password={VALUE}")}).to_string();
    assert!(matches!(verdict(&settings, "post", &params).0, Verdict::Deny(reason) if !reason.contains("IBAN")));
}

#[test]
fn other_texts_are_looked_through_where_it_is_asked_for() {
    for (settings, expected) in [
        (json!({}), None),
        (json!({"also_scan": ["intent"]}), Some("the intent holds a credential (credential-assignment)")),
        (
            json!({"also_scan": ["request_params"]}),
            Some("request parameter '/secret' holds a credential (credential-assignment)"),
        ),
    ] {
        let expected = expected.map_or(Verdict::Abstain, |reason| Verdict::Deny(reason.into()));
        assert_eq!(verdict(&settings, "post", "{}").0, expected);
    }
}

#[test]
fn what_cannot_be_looked_through_never_passes() {
    assert_eq!(
        verdict(&json!(null), "post", "{").0,
        Verdict::Deny(
            "the tool's parameters cannot be looked through: at byte 1 they are not JSON, or nested deeper than 64"
                .into()
        )
    );
    let large = json!({"a": "a b c ".repeat(400), "b": "DE89370400440532013000"}).to_string();
    let why = "there is more to look through than 1024 bytes (max_scan_bytes)";
    for (action, expected) in [("deny", Verdict::Deny(why.into())), ("escalate", Verdict::Escalate(why.into()))] {
        assert_eq!(verdict(&json!({"max_scan_bytes": 1024, "on_too_large": action}), "post", &large).0, expected);
    }
    // What was found before counts as well.
    let large = json!({"a": "DE89370400440532013000", "b": "a b c ".repeat(400)}).to_string();
    let (both, _) = verdict(&json!({"max_scan_bytes": 1024, "on_too_large": "escalate"}), "post", &large);
    assert_eq!(both, Verdict::Escalate(format!("parameter '/a' of tool 'post' holds an IBAN (iban); {why}")));
}

#[test]
fn evasions() {
    for text in [
        "４１１１ １１１１ １１１１ １１１１",
        "4111\u{200b}1111\u{200b}1111\u{200b}1111",
        "4111\u{a0}1111\u{2009}1111\u{3000}1111",
        "4111\u{2011}1111\u{2212}1111\u{2013}1111",
        "٤١١١١١١١١١١١١١١١",
        "NDExMTExMTExMTExMTExMQ==",
        "34313131313131313131313131313131",
        "%34%31%31%31111111111111",
        "[\"\\u0034111111111111111\"]",
    ] {
        assert!(reason(&json!({ "x": text })).contains("credit-card"), "{text}");
    }
}

/// The words that every reason may have, whatever the value.
fn shares_four_characters(line: &str, value: &str) -> Option<String> {
    let characters: Vec<char> = value.to_lowercase().chars().collect();
    let line = line.to_lowercase();
    characters.windows(4).map(|window| window.iter().collect::<String>()).find(|part| line.contains(part.as_str()))
}

/// Everything that a request's words can put into a line: keys, names of tools, and the text within.
fn lines_about(secret: &str) -> Vec<String> {
    let nested = json!({ secret: { "token": secret } }).to_string();
    let everything = json!({
        "token": secret,
        secret: secret,
        "list": [format!("password={secret}"), { format!("x {secret}"): [format!("token={secret}")] }],
        format!("password={secret}"): "x",
        "json": nested,
    });
    let all_allowed = json!({"kinds": {"secrets": "allow", "personal": "allow"}});
    let mut lines = Vec::new();
    for settings in [json!(null), all_allowed] {
        for tool in ["post", secret] {
            let (verdict, notes) = verdict(&settings, tool, &everything.to_string());
            lines.extend(notes);
            match verdict {
                Verdict::Deny(reason) | Verdict::Escalate(reason) => lines.push(reason),
                Verdict::Allow | Verdict::Abstain => {}
            }
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The promise of this policy.
    #[test]
    fn no_line_holds_four_characters_of_a_value(secret in "[b-df-hj-np-tv-z0-9#!&]{16,40}") {
        let secret = format!("q7#Z{secret}");
        let lines = lines_about(&secret);
        prop_assert!(lines.len() >= 2, "{lines:?}");
        for line in lines {
            prop_assert_eq!(shares_four_characters(&line, &secret), None, "{}", line);
            prop_assert!(line.len() <= 4_096);
        }
    }

    #[test]
    fn any_parameters_are_judged(key in "\\PC{0,20}", text in "\\PC{0,60}") {
        verdict(&json!({"kinds": {"personal": "deny"}}), "post", &json!({ key: text }).to_string());
    }
}

#[test]
fn values_of_a_form_never_show_either() {
    let token = ["ghp_", "q7Zr2Kd9Xw4Tn8Lc3Vb6Mf1Hs5Jg0PyAeUiO"].concat();
    for value in
        [&*token, "4111111111111111", "DE89370400440532013000", "bob.q7zr@xw4tn8.org", "+491711234567", "10.11.12.13"]
    {
        for line in lines_about(value) {
            assert_eq!(shares_four_characters(&line, value), None, "{line}");
        }
    }
}

/// The time that this thread has had of a processor, which other programs do not add to.
fn cpu_ns() -> u64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    statistics.split(' ').next().and_then(|time| time.parse().ok()).expect("nanoseconds")
}

/// The time for 1 MiB of parameters, of several make. `cargo test --release -- --ignored --nocapture` prints it.
#[test]
#[ignore = "measures; run it alone, in release"]
fn one_mebibyte_of_parameters() {
    let prose =
        "The quick brown fox jumps over the lazy dog, and so on until 12:30 on 2026-01-05; see https://x.net/a?b=1. ";
    let fill = |unit: &str| unit.repeat((1 << 20) / unit.len());
    let small: Vec<String> = (0..90_000).map(|index| format!("item{index}")).collect();
    let texts = [
        ("prose", json!({ "x": fill(prose) })),
        ("base64 of a picture", json!({ "x": fill("iVBORw0KGgoAAAANSUhEUgAAAAUA") })),
        ("base64 of text", json!({ "x": fill("VGhlIHF1aWNrIGJyb3duIGZveCBqdW1w") })),
        ("small items", json!({ "x": small })),
        ("JSON in a text", json!({ "x": serde_json::to_string(&small).expect("JSON") })),
        ("numbers", json!({ "x": fill("1234 5678 ") })),
        ("signs", json!({ "x": fill("token=") })),
        ("prefixes", json!({ "x": fill("sk-proj-") })),
        ("mail", json!({ "x": fill("a@b.co ") })),
    ];
    for (settings, which) in [(json!(null), "default"), (json!({"kinds": {"personal": "allow"}}), "all kinds")] {
        for (name, params) in &texts {
            let (config, request) = (config(&settings), request("post", &params.to_string()));
            let mut best = u64::MAX;
            let mut outcome = String::new();
            for _ in 0..20 {
                let started = cpu_ns();
                outcome = format!("{:?}", judge(&config, &request, &mut |_| ()));
                best = best.min(cpu_ns() - started);
            }
            eprintln!("{which}, {name}: {} us {}", best / 1_000, outcome.chars().take(60).collect::<String>());
        }
    }
}

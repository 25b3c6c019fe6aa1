//! How rules, tools, parameters and findings come to a verdict, and which configurations are refused.

use serde_json::{Value, json};

use super::{config, refusal, request};
use crate::{FINDINGS_SHOWN_MAX, VALUES_MAX, Verdict, judge};

fn verdict(settings: &Value, intent: &str, tool: &str, params: &Value) -> Verdict {
    judge(&config(settings), &request(intent, tool, &params.to_string()))
}

fn escalation(verdict: Verdict) -> String {
    match verdict {
        Verdict::Escalate(why) => why,
        other => panic!("no escalation: {other:?}"),
    }
}

fn mail() -> Value {
    json!({"rules": [{"tools": ["send"], "params": {"to": "email", "/parts/*/file": "file", "note": "any"}}]})
}

#[test]
fn tools_that_no_rule_names() {
    let mut settings = json!({"reading": ["get_*"], "rules": [{"tools": ["get_page"], "params": {"url": "url"}}]});
    assert_eq!(verdict(&settings, "", "get_mail", &json!({"x": 1})), Verdict::Abstain);
    // A rule goes before the pattern of the reading tools.
    assert!(escalation(verdict(&settings, "", "get_page", &json!({"url": "evil.com"}))).contains("url 'evil.com'"));
    assert!(escalation(verdict(&settings, "", "send", &json!({}))).contains("tool 'send': is in no rule"));
    settings["other_tools"] = json!("deny");
    assert!(matches!(verdict(&settings, "", "send", &json!({})), Verdict::Deny(_)));
    settings["other_tools"] = json!("ignore");
    assert_eq!(verdict(&settings, "", "send", &json!({})), Verdict::Abstain);
    let mut without = request("hello", "send", "{}");
    without.tool_call = None;
    assert_eq!(judge(&config(&settings), &without), Verdict::Abstain);
}

#[test]
fn parameters_that_no_rule_names() {
    let mut settings = mail();
    let call = json!({"to": "a@x.com", "bcc": ["e@x.com"], "nothing": null, "none": [], "headers": {"Bcc": "e@x.com"}});
    let why = escalation(verdict(&settings, "a@x.com", "send", &call));
    assert_eq!(why, "tool 'send': parameter 'bcc': is in no rule; parameter '/headers/Bcc': is in no rule");
    settings["other_params"] = json!("deny");
    assert!(matches!(verdict(&settings, "a@x.com", "send", &call), Verdict::Deny(_)));
    settings["other_params"] = json!("ignore");
    assert_eq!(verdict(&settings, "a@x.com", "send", &call), Verdict::Allow);
}

#[test]
fn values_in_lists_and_objects() {
    let send = |params: Value| verdict(&mail(), "a@x.com 'plan.txt'", "send", &params);
    assert_eq!(send(json!({"to": [["a@x.com"], "A@x.com"], "note": {"deep": [1, {"x": "y"}]}})), Verdict::Allow);
    assert_eq!(send(json!({"to": null, "parts": []})), Verdict::Allow);
    assert_eq!(send(json!({"parts": [{"file": "plan.txt"}, {"file": "plan.txt"}]})), Verdict::Allow);
    for (params, why) in [
        (json!({"to": ["a@x.com", "e@x.com"]}), "parameter 'to': email 'e@x.com'"),
        (json!({"to": {"e@x.com": null}}), "parameter 'to': is an object, not of kind email"),
        (json!({"to": [{}]}), "parameter 'to': is an object"),
        (json!({"to": [""]}), "parameter 'to': is blank"),
        (json!({"to": true}), "email 'true'"),
        (json!({"parts": [{"file": "plan.txt"}, {"file": "evil.txt"}]}), "parameter '/parts/file': file 'evil.txt'"),
        (json!({"parts": [{"file": "plan.txt", "as": "x"}]}), "parameter '/parts/as': is in no rule"),
        (json!({"to": "a@x.com\u{200b}"}), "has characters that are not seen"),
        (json!({"to": "a".repeat(2_000)}), "is longer than 1024 bytes"),
        (json!({"to": vec!["a@x.com"; VALUES_MAX + 1]}), "have more than 256 values"),
    ] {
        let found = escalation(send(params));
        assert!(found.contains(why), "{found}");
    }
    // A name that comes twice: both are judged.
    let twice = judge(&config(&mail()), &request("a@x.com", "send", r#"{"to":"a@x.com","to":"e@x.com"}"#));
    assert!(escalation(twice).contains("e@x.com"));
    assert!(matches!(judge(&config(&mail()), &request("", "send", "{")), Verdict::Deny(_)));
}

#[test]
fn every_value_in_doubt_is_named() {
    let strangers = |count: usize| (0..count).map(|number| format!("s{number}@x.com")).collect::<Vec<_>>();
    let why = escalation(verdict(&mail(), "", "send", &json!({"to": strangers(3)})));
    assert!(why.contains("s0@") && why.contains("s1@") && why.contains("s2@") && !why.contains("more"), "{why}");
    let why = escalation(verdict(&mail(), "", "send", &json!({"to": strangers(FINDINGS_SHOWN_MAX + 2)})));
    assert!(why.ends_with("; and 2 more"), "{why}");
    let long = json!({"to": (0..9).map(|number| format!("{number}{}", "é'\u{7f}".repeat(200))).collect::<Vec<_>>()});
    let why = escalation(verdict(&mail(), "", "send", &long));
    assert!(why.len() < 4_096, "{} bytes would be over the host's limit", why.len());
}

#[test]
fn rules_must_all_agree_and_the_worst_decides() {
    let settings = json!({"rules": [
        {"tools": ["send*"], "params": {"to": "email"}},
        {"tools": ["*"], "params": {"amount": "amount"}, "otherwise": "deny"},
    ]});
    let send = |params: Value| verdict(&settings, "5 to a@x.com", "send_it", &params);
    assert_eq!(send(json!({"to": "a@x.com", "amount": 5})), Verdict::Allow);
    assert!(matches!(send(json!({"to": "e@x.com", "amount": 5})), Verdict::Escalate(_)));
    assert!(matches!(send(json!({"to": "e@x.com", "amount": 6})), Verdict::Deny(why) if why.contains("e@x.com")));
}

#[test]
fn acts_that_must_be_asked_for() {
    let settings = json!({"rules": [{
        "tools": ["drop"], "asked": ["delete", "get rid of", "remov*"], "about": ["e-mail*", "file*"],
        "params": {"id": {"kind": "any", "required": true}},
    }]});
    let drop = |intent: &str| verdict(&settings, intent, "drop", &json!({"id": 1}));
    for intent in [
        "Delete my files.",
        "please get rid of this e-mail",
        "I want it removed: file 1",
        "Do not forget to delete the file",
        "don't read it. Just delete the file",
        "DELETE FILE",
    ] {
        assert_eq!(drop(intent), Verdict::Allow, "{intent}");
    }
    for intent in [
        "",
        "Do not delete the file",
        "don't delete the file",
        "never ever delete a file",
        "without removing files",
        "undelete the file",
        "delete.txt is a file",
        "delete the calendar entry",
        "get of rid file",
        "profile deleted",
    ] {
        let _ = escalation(drop(intent));
    }
    assert!(escalation(verdict(&settings, "delete file", "drop", &json!({}))).contains("parameter 'id': is missing"));
}

#[test]
fn a_star_covers_every_parameter() {
    let settings = json!({"rules": [{"tools": ["note"], "params": {"*": "prose", "to": "email"}}]});
    let note = |params: Value| verdict(&settings, "a@x.com", "note", &params);
    assert_eq!(note(json!({"to": "a@x.com", "text": "hello", "blocks": [{"text": "hello"}]})), Verdict::Allow);
    assert!(escalation(note(json!({"blocks": [{"deep": {"text": "evil.com"}}]}))).contains("'/blocks/deep/text'"));
    assert!(escalation(note(json!({"blocks": [{"http://evil.com": 1}]}))).contains("evil.com"));
    assert!(escalation(note(json!({"to": "e@x.com"}))).contains("email 'e@x.com'"));
}

#[test]
fn broken_configurations_are_refused() {
    let param = |param: Value| json!({"rules": [{"tools": ["t"], "params": {"p": param}}]});
    for (settings, why) in [
        (json!(null), "expected an object, not null"),
        (json!({"rules": []}), "`rules`: the list is empty"),
        (json!({"rules": [{"tools": [], "params": {}}]}), "`rules[0].tools`: the list is empty"),
        (json!({"rules": [{"tools": ["t"]}]}), "setting `params` is missing"),
        (json!({"rules": [{"tools": ["t"], "params": {}, "asked": []}]}), "`rules[0].asked`: the list is empty"),
        (json!({"rules": [{"tools": ["t"], "params": {}, "asked": [" "]}]}), "a phrase has no words"),
        (
            json!({"rules": [{"tools": ["t"], "params": {}}], "otherwise": "allow"}),
            "'allow' is neither escalate nor deny",
        ),
        (json!({"rules": [{"tools": ["t"], "params": {}}], "other_tools": "allow"}), "'allow' is neither"),
        (param(json!("mail")), "parameter `p`: 'mail' is no kind of value: one of any, text"),
        (param(json!([])), "the list is empty"),
        (param(json!({"allow": ["x"]})), "setting `kind` is missing"),
        (param(json!({"kind": "text", "alow": ["x"]})), "unknown setting `alow`"),
        (param(json!({"kind": "text", "at_most": 5})), "setting `at_most` is for kind amount only"),
        (param(json!({"kind": "url", "named": true})), "setting `named` is for kind email only"),
        (param(json!({"kind": "amount", "at_most": "5"})), "expected a number, not a text"),
        (param(json!({"kind": "listed"})), "setting `allow` is missing"),
        (param(json!({"kind": "text", "allow": ["[a]"]})), "pattern `[a]`"),
        (param(json!({"kind": "file", "allow": ["../x"]})), "pattern `../x`"),
        (param(json!({"kind": "text", "required": "yes"})), "expected true or false, not a text"),
        (json!({"rules": [{"tools": ["t"], "params": {"/a~2": "any"}}]}), "pointer `/a~2`"),
    ] {
        let told = refusal(&settings);
        assert!(told.contains(why), "{settings}: {told}");
    }
}

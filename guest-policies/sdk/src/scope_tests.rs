//! Tests of whose count a request's is.

use super::*;
use crate::ToolCall;

fn request(actor: &str, tool: Option<&str>, evidence: &[&str]) -> Request {
    Request {
        id: "r-1".into(),
        now_ms: 0,
        ts_ms: 0,
        actor: actor.into(),
        intent: "test".into(),
        tool_call: tool.map(|name| ToolCall { name: name.into(), params: "{}".into() }),
        params: "{}".into(),
        evidence: evidence.iter().map(|&entry| entry.into()).collect(),
        constraints: None,
    }
}

fn scope(text: &str) -> Result<Scope, String> {
    Json::parse(text).and_then(|json| Scope::read(&json)).map_err(|wrong| wrong.to_string())
}

#[test]
fn words_are_read_and_written() {
    for words in [&["actor"][..], &["tool"], &["session"], &["actor", "tool", "session"], &["kernel"]] {
        let text = serde_json::to_string(words).expect("writes");
        assert_eq!(scope(&text).expect(&text).words(), words);
    }
    for (text, expected) in [
        ("[]", "the list is empty; one count for the whole kernel is [\"kernel\"]"),
        (r#"["actor","actor"]"#, "`[1]`: 'actor' comes twice"),
        (r#"["kernel","actor"]"#, "'kernel' is one count of all, so nothing stands beside it"),
        (r#"["user"]"#, "`[0]`: 'user' is not one of actor tool session kernel"),
        (r#""actor""#, "expected a list, not a text"),
    ] {
        assert_eq!(scope(text).expect_err(text), expected);
    }
}

#[test]
fn keys_differ_in_the_parts_of_the_scope_only() {
    let requests = [("a", Some("x"), "1"), ("a", Some("x"), "2"), ("a", Some("y"), "1"), ("b", Some("x"), "1")];
    let count = |words: &str| {
        let scope = scope(words).expect(words);
        let keys = requests.map(|(actor, tool, session)| {
            scope.key(Key::new("calls"), &request(actor, tool, &[]), Some(session)).finish()
        });
        keys.into_iter().collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(count(r#"["kernel"]"#), 1);
    for part in ["actor", "tool", "session"] {
        assert_eq!(count(&format!(r#"["{part}"]"#)), 2, "{part}");
    }
    assert_eq!(count(r#"["actor","tool","session"]"#), 4);
}

#[test]
fn an_actor_cannot_pass_for_another_by_its_name() {
    let scope = scope(r#"["actor","tool","session"]"#).expect("a scope");
    let key = |actor, tool, session| scope.key(Key::new("calls"), &request(actor, tool, &[]), session).finish();
    assert_ne!(key("a|in-tool=x", None, None), key("a", Some("x"), None));
    assert_ne!(key("a", Some("x"), Some("1")), key("a|in-tool=x|session=1", None, None));
    assert_ne!(key("a", None, Some("1")), key("a", None, None));
}

#[test]
fn whose_count_it_is_in_words() {
    let all = scope(r#"["actor","tool","session"]"#).expect("a scope");
    let with = request("agent:ops", Some("search"), &[]);
    assert_eq!(all.describe(&with, Some("8\n")), r"by actor 'agent:ops' with tool 'search' in session '8\n'");
    let without = request("agent:ops", None, &[]);
    assert_eq!(all.describe(&without, None), "by actor 'agent:ops' without a tool without a session");
    assert_eq!(scope(r#"["kernel"]"#).expect("a scope").describe(&with, None), "in this kernel");
}

#[test]
fn the_session_is_the_one_that_the_evidence_names() {
    let prefix = SessionPrefix::default();
    let session = |evidence: &[&str]| {
        prefix.session(&request("a", None, evidence)).map(str::to_owned).map_err(|none| none.to_string())
    };
    assert_eq!(session(&["ticket:1", "session:8d1f"]), Ok("8d1f".into()));
    assert_eq!(session(&["session:1", "session:", "session:1"]), Ok("1".into()));
    let missing = "the evidence names no session: an entry 'session:...' is needed";
    for evidence in [&[][..], &["session:"], &["Session:1"], &["my session:1"], &[" session:1"]] {
        assert_eq!(session(evidence).expect_err("none"), missing, "{evidence:?}");
    }
    let several = "the evidence names several sessions: one entry 'session:...' is needed";
    assert_eq!(session(&["session:1", "session:2"]).expect_err("two"), several);
    assert_eq!(session(&["session:1", "session:1 "]).expect_err("two"), several);
    let run = Json::parse(r#""run=""#).and_then(|json| SessionPrefix::read(&json)).expect("a prefix");
    assert_eq!(run.session(&request("a", None, &["session:1", "run=7"])), Ok("7"));
    assert!(Json::parse(r#""""#).and_then(|json| SessionPrefix::read(&json)).is_err());
}

#[test]
fn requests_without_a_session_may_share_but_none_may_choose() {
    let prefix = SessionPrefix::default();
    let by_session = scope(r#"["session"]"#).expect("a scope");
    let session = |scope, on_missing, evidence: &[&str]| {
        prefix.session_in(scope, on_missing, &request("a", None, evidence)).map(|session| session.map(str::to_owned))
    };
    for on_missing in [OnMissingSession::Deny, OnMissingSession::Share] {
        assert_eq!(session(by_session, on_missing, &["session:1"]), Ok(Some("1".into())));
        assert!(session(by_session, on_missing, &["session:1", "session:2"]).is_err());
        let by_actor = scope(r#"["actor"]"#).expect("a scope");
        assert_eq!(session(by_actor, on_missing, &["session:1", "session:2"]), Ok(None));
    }
    assert!(session(by_session, OnMissingSession::Deny, &[]).is_err());
    assert_eq!(session(by_session, OnMissingSession::Share, &[]), Ok(None));
    let word = |text: &str| Json::parse(text).and_then(|json| OnMissingSession::read(&json));
    assert_eq!(word(r#""share""#), Ok(OnMissingSession::Share));
    assert!(word(r#""allow""#).is_err());
}

//! Tests of the document, the pointers, and the bound of reasons.

use gavel_policy::ToolCall;

use super::*;

fn request() -> Request {
    Request {
        id: "r1".into(),
        now_ms: u64::MAX,
        ts_ms: 7,
        actor: "agent:ops".into(),
        intent: "clean up".into(),
        tool_call: Some(ToolCall { name: "delete_file".into(), params: r#"{"a/b":[{"c":1}],"~":2}"#.into() }),
        params: r#"{"x":null}"#.into(),
        evidence: vec!["ticket:1".into()],
        constraints: None,
    }
}

#[test]
fn a_request_is_found_in_its_document() {
    let request = request();
    let times = Times::of(&request);
    let document = document(&request, &times).expect("a document");
    for (pointer, expected) in [
        ("/actor", Some(Json::Text("agent:ops".into()))),
        ("/now_ms", Some(Json::Number("18446744073709551615"))),
        ("/tool_call/name", Some(Json::Text("delete_file".into()))),
        ("/tool_call/params/a~1b/0/c", Some(Json::Number("1"))),
        ("/tool_call/params/~0", Some(Json::Number("2"))),
        ("/tool_call/params/a~1b/00/c", None),
        ("/tool_call/params/a~1b/+0/c", None),
        ("/tool_call/params/a~1b/1/c", None),
        ("/evidence/0", Some(Json::Text("ticket:1".into()))),
        ("/params/x", Some(Json::Null)),
        ("/constraints", None),
        ("/actor/0", None),
        ("/", None),
    ] {
        let read = Pointer::new(pointer).expect(pointer);
        assert_eq!(read.find(&document).cloned(), expected, "{pointer}");
        assert_eq!(read.to_string(), pointer);
    }
}

#[test]
fn what_the_request_lacks_is_absent() {
    let request = Request { tool_call: None, ..request() };
    let times = Times::of(&request);
    let Json::Object(fields) = document(&request, &times).expect("a document") else { panic!("no object") };
    let names: Vec<_> = fields.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["id", "now_ms", "ts_ms", "actor", "intent", "params", "evidence"]);
}

#[test]
fn what_is_too_deep_is_refused() {
    let request = Request { params: "[".repeat(100) + &"]".repeat(100), ..request() };
    let times = Times::of(&request);
    assert_eq!(document(&request, &times).expect_err("deep").to_string(), "the JSON is nested deeper than 64");
}

#[test]
fn pointers_that_are_none_are_refused() {
    for text in ["", "actor", "/a~", "/a~2", "#/a"] {
        assert!(Pointer::new(text).is_err(), "{text}");
    }
}

#[test]
fn tools_are_asked_by_their_patterns() {
    let patterns = Json::parse(r#"["read_*", "delete_file"]"#).expect("JSON");
    let tools = Tools::read(&patterns).expect("patterns");
    assert!(tools.are_asked(&request()));
    assert!(!tools.are_asked(&Request { tool_call: None, ..request() }));
    assert!(Tools::ALL.are_asked(&Request { tool_call: None, ..request() }));
    assert!(Tools::read(&Json::List(Vec::new())).is_err());
}

#[test]
fn reasons_have_a_bound() {
    assert_eq!(bounded("short".into()), "short");
    for unit in ["x", "é", "漢", "😀"] {
        let long = bounded(unit.repeat(3_000));
        assert!(long.len() <= REASON_BYTES_MAX && long.len() > REASON_BYTES_MAX - 8 && long.ends_with('…'), "{unit}");
    }
}

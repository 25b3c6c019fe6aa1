//! Tests of the whole policy on this machine: a real policy file, the mapping, and what must deny.

use gavel_policy::{ToolCall, read_configuration};

use super::*;

/// 2026-01-05T10:00:00Z.
const MONDAY_MS: u64 = 1_767_607_200_000;

fn request(tool: &str, params: &str) -> Request {
    Request {
        id: "r1".into(),
        now_ms: MONDAY_MS,
        ts_ms: 7,
        actor: "agent:ops".into(),
        intent: "clean up".into(),
        tool_call: Some(ToolCall { name: tool.into(), params: params.into() }),
        params: r#"{"x":1}"#.into(),
        evidence: vec!["ticket:12".into(), "ticket:12".into()],
        constraints: Some(r#"{"dry_run":true}"#.into()),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn engine(config: &str) -> Engine {
    read_configuration(config, Engine::read).expect(config)
}

/// Policies alone, without schema, entities and mapping.
fn policies(text: &str) -> Engine {
    engine(&format!(r#"{{"policies":{}}}"#, quoted(text)))
}

/// The verdict where everything is permitted when this holds.
fn when(condition: &str, request: &Request) -> Verdict {
    judge(&policies(&format!("permit (principal, action, resource) when {{ {condition} }};")), request)
}

fn denied(engine: &Engine, request: &Request) -> String {
    match judge(engine, request) {
        Verdict::Deny(reason) => reason,
        other => panic!("not denied: {other:?}"),
    }
}

/// The documents' policies, schema and entities as their authors wrote them; only the mapping is ours.
fn documents() -> Engine {
    let config = format!(
        r#"{{"policies":{{"documents.cedar":{}}},"schema":{},"entities":{},
            "links":[{{"template_id":"shared-with","link_id":"carol-q1",
                       "args":{{"?principal":"Docs::User::\"carol\"","?resource":"Docs::Folder::\"q1\""}}}}],
            "mapping":{{"principal":{{"type":"Docs::User","strip":"user:"}},"action":{{"type":"Docs::Action"}},
                "resource":{{"type":"Docs::Document","id":"/tool_call/params/document"}},
                "context":{{"source_ip":{{"from":"/params/ip","as":"ip"}},"evidence":"/evidence",
                            "now":{{"from":"/now_ms","as":"datetime"}}}},
                "tools":{{"read_document":{{"action":"view"}},"write_document":{{"action":"edit"}},
                          "delete_document":{{"action":"delete"}}}}}}}}"#,
        quoted(include_str!("../examples/documents.cedar")),
        quoted(include_str!("../examples/documents.cedarschema")),
        include_str!("../examples/documents.entities.json")
    );
    engine(&config)
}

fn ask(engine: &Engine, user: &str, tool: &str, document: &str) -> Verdict {
    let request = request(tool, &format!(r#"{{"document":"{document}"}}"#));
    judge(engine, &Request { actor: format!("user:{user}"), ..request })
}

fn deny(reason: &str) -> Verdict {
    Verdict::Deny(reason.into())
}

#[test]
fn policies_with_schema_entities_and_templates_run_unchanged() {
    let engine = documents();
    for (user, tool, document, expected) in [
        ("alice", "write_document", "plan", Verdict::Allow),
        ("bob", "read_document", "plan", Verdict::Allow),
        ("carol", "write_document", "plan", Verdict::Allow),
        (
            "bob",
            "write_document",
            "plan",
            deny(r#"no Cedar policy permits Docs::Action::"edit" on Docs::Document::"plan" by Docs::User::"bob""#),
        ),
        (
            "mallory",
            "read_document",
            "plan",
            deny("forbidden by Cedar policy 'blocked-users': the owner has blocked this user"),
        ),
        (
            "mallory",
            "read_document",
            "salaries",
            deny(
                "forbidden by Cedar policies 'blocked-users': the owner has blocked this user; \
                 'outside-the-office': confidential documents are seen from the office only",
            ),
        ),
        (
            "alice",
            "delete_document",
            "plan",
            Verdict::Escalate(
                "a human must decide, by Cedar policy 'deletes-need-a-human': what is deleted is gone".into(),
            ),
        ),
        // A human cannot permit what no policy permits.
        (
            "bob",
            "delete_document",
            "plan",
            deny(r#"no Cedar policy permits Docs::Action::"delete" on Docs::Document::"plan" by Docs::User::"bob""#),
        ),
        // Nor what another policy forbids.
        (
            "mallory",
            "delete_document",
            "plan",
            deny("forbidden by Cedar policy 'blocked-users': the owner has blocked this user"),
        ),
    ] {
        assert_eq!(ask(&engine, user, tool, document), expected, "{user} {tool} {document}");
    }
    let office = |ip: &str| Request {
        actor: "user:alice".into(),
        params: format!(r#"{{"ip":{ip}}}"#),
        ..request("read_document", r#"{"document":"salaries"}"#)
    };
    assert_eq!(judge(&engine, &office(r#""10.1.2.3""#)), Verdict::Allow);
    assert!(denied(&engine, &office(r#""10.2.2.3""#)).contains("outside-the-office"));
    assert!(denied(&engine, &office(r#""office""#)).starts_with("the request cannot be put to Cedar: "));
    assert!(denied(&engine, &office("7")).contains("/params/ip, its context's 'source_ip': expected a text"));
}

#[test]
fn a_request_that_cannot_be_mapped_is_denied() {
    let engine = documents();
    let asked = request("read_document", r#"{"document":"plan"}"#);
    let reason = denied(&engine, &asked);
    assert_eq!(reason, "the request cannot be put to Cedar: /actor, its principal, does not begin with 'user:'");
    let user = |tool: &str, params: &str| Request { actor: "user:bob".into(), ..request(tool, params) };
    for (request, expected) in [
        (user("read_document", "{}"), "it has no /tool_call/params/document, its resource"),
        (user("read_document", r#"{"document":["plan"]}"#), "its resource, is a list, not a text"),
        (user("shred", r#"{"document":"plan"}"#), "it does not fit the schema"),
        (Request { now_ms: u64::MAX, ..user("read_document", r#"{"document":"plan"}"#) }, "is no time"),
        (Request { params: "[".repeat(99), ..user("read_document", "{}") }, "nested deeper"),
    ] {
        let reason = denied(&engine, &request);
        assert!(reason.starts_with("the request cannot be put to Cedar: ") && reason.contains(expected), "{reason}");
    }
}

#[test]
fn the_contract_is_the_context() {
    let params = r#"{"n":7,"f":0.5,"e":1.23456,"big":9223372036854775808,"z":null,"l":[1,1,null],"o":{"b":true}}"#;
    for condition in [
        r#"principal == Agent::"agent:ops" && action == Action::"t" && resource == Tool::"t""#,
        r#"context.id == "r1" && context.intent == "clean up" && context.tool == "t""#,
        "context.now_ms == 1767607200000 && context.ts_ms == 7",
        r#"context.now == datetime("2026-01-05T10:00:00Z")"#,
        "context.params.n == 7 && context.request_params.x == 1",
        r#"context.params.f == decimal("0.5")"#,
        r#"context.params.e == "1.23456" && context.params.big == "9223372036854775808""#,
        "!(context.params has z) && context.params.l == [1]",
        "context.params.o.b && context.constraints.dry_run",
        r#"context.evidence == ["ticket:12"]"#,
        "!(context has actor)",
    ] {
        assert_eq!(when(condition, &request("t", params)), Verdict::Allow, "{condition}");
    }
}

#[test]
fn a_request_without_a_tool_call_is_an_intent() {
    let intent = Request { tool_call: None, constraints: None, ..request("t", "{}") };
    let condition = r#"action == Action::"intent" && resource == Intent::"intent" && context.params == {}
        && !(context has tool) && !(context has constraints)"#;
    assert_eq!(when(condition, &intent), Verdict::Allow);
    // A tool of that name is not taken for one.
    let reason = denied(&policies("permit (principal, action, resource);"), &request("intent", "{}"));
    assert!(reason.contains("its tool is named 'intent': give it an action in `mapping.tools`"), "{reason}");
}

#[test]
fn a_parameter_is_never_more_than_a_value() {
    let entity = r#"{"owner":{"__entity":{"type":"Agent","id":"agent:ops"}}}"#;
    assert!(matches!(when("context.params.owner == principal", &request("t", entity)), Verdict::Deny(_)));
    assert_eq!(when(r#"context.params.owner["__entity"]["id"] == "agent:ops""#, &request("t", entity)), Verdict::Allow);
    let extension = r#"{"ip":{"__extn":{"fn":"ip","arg":"10.0.0.1"}}}"#;
    let Verdict::Deny(reason) = when("context.params.ip.isLoopback() || true", &request("t", extension)) else {
        panic!("allowed")
    };
    assert!(reason.starts_with("Cedar policy 'policy0' failed: "), "{reason}");
    // Whatever an id holds, it is one id.
    let odd = Request { actor: "a\" || true || \"".into(), ..request("t", "{}") };
    assert!(matches!(when(r#"principal == Agent::"agent:ops""#, &odd), Verdict::Deny(_)));
}

#[test]
fn an_error_denies_even_where_cedar_permits() {
    let engine = policies(
        r#"permit (principal, action, resource);
           @id("limit") forbid (principal, action, resource) when { context.params.amount > 100 };"#,
    );
    assert_eq!(judge(&engine, &request("pay", r#"{"amount":100}"#)), Verdict::Allow);
    assert_eq!(denied(&engine, &request("pay", r#"{"amount":101}"#)), "forbidden by Cedar policy 'limit'");
    for params in ["{}", r#"{"amount":100.5}"#, r#"{"amount":"1"}"#, r#"{"amount":99999999999999999999}"#] {
        let reason = denied(&engine, &request("pay", params));
        assert!(reason.starts_with("Cedar policy 'limit' failed: "), "{params}: {reason}");
    }
}

#[test]
fn policies_are_named_by_their_id_or_number() {
    let engine = engine(
        r#"{"policies":{"b":"forbid (principal, action, resource);","a":"permit (principal, action, resource); forbid (principal, action, resource);"}}"#,
    );
    assert_eq!(denied(&engine, &request("t", "{}")), "forbidden by Cedar policies 'a#policy1'; 'b#policy0'");
}

#[test]
fn nothing_of_a_request_is_left_for_the_next() {
    let engine = documents();
    let before = format!("{:?}", engine.entities);
    let first = ask(&engine, "bob", "read_document", "plan");
    ask(&engine, "nobody-knows", "delete_document", "unheard-of");
    assert_eq!(ask(&engine, "bob", "read_document", "plan"), first);
    assert_eq!(format!("{:?}", engine.entities), before);
}

#[test]
fn only_tools_it_is_about_are_judged() {
    let engine = engine(r#"{"policies":"","tools":["write_*"]}"#);
    assert!(matches!(judge(&engine, &request("write_file", "{}")), Verdict::Deny(_)));
    assert_eq!(judge(&engine, &request("read_file", "{}")), Verdict::Abstain);
    assert_eq!(judge(&engine, &Request { tool_call: None, ..request("t", "{}") }), Verdict::Abstain);
}

#[test]
fn long_reasons_are_shortened() {
    let long = Request { actor: "é".repeat(5_000), ..request("t", "{}") };
    assert!(denied(&policies(""), &long).len() <= gavel_engine_input::REASON_BYTES_MAX);
}

#[test]
fn configurations_that_cannot_be_meant_are_refused() {
    let schema = r#""schema":"entity Agent; entity Tool; action t appliesTo { principal: Agent, resource: Tool };""#;
    let unfit = format!(r#"{{"policies":"permit (principal, action == Action::\"u\", resource);",{schema}}}"#);
    let stranger = format!(
        r#"{{"policies":"",{schema},"entities":[{{"uid":{{"type":"X","id":"x"}},"attrs":{{}},"parents":[]}}]}}"#
    );
    for (config, expected) in [
        ("null", "expected an object, not null"),
        ("{}", "setting `policies` is missing"),
        (r#"{"policies":7}"#, "`policies`: expected a text, not a number"),
        (r#"{"policies":"permit (principal, action, resource);\npermit principal"}"#, "`policies`: line 2, column 8: "),
        (r#"{"policies":{"a.cedar":"permit"}}"#, "`policies`: 'a.cedar': line 1, column "),
        (r#"{"policies":"@verdict(\"ask\") forbid (principal, action, resource);"}"#, "@verdict is \"escalate\""),
        (r#"{"policies":"@verdict(\"escalate\") permit (principal, action, resource);"}"#, "on a `forbid`"),
        (r#"{"policies":"","schema":"entity"}"#, "`schema`: line 1, column "),
        (r#"{"policies":"","schema":{"x":7}}"#, "`schema`: "),
        (&unfit, "the policies do not fit the schema"),
        (&stranger, "`entities`: "),
        (r#"{"policies":"","links":[{"template_id":"t","link_id":"l","args":{}}]}"#, "there is no template 't'"),
        (r#"{"policies":"","mapping":{"principal":{"type":"no type"}}}"#, "'no type' is not a type"),
        (r#"{"policies":"","mapping":{"resource":{"type":"T","id":"path"}}}"#, "'path' is no JSON pointer"),
        (r#"{"policies":"","mapping":{"tools":{"t":{"resource":{"type":"T"}}}}}"#, "setting `id` is missing"),
        (r#"{"policies":"","mapping":{"context":{"a":{"from":"/id","as":"float"}}}}"#, "'float' is not one of"),
        (r#"{"policies":"","mapping":{"context":{"a":{"from":"/id","as":"entity"}}}}"#, "needs its `type`"),
        (r#"{"policies":"","tools":[]}"#, "`tools`: is about no tool"),
        (r#"{"policies":"","rules":[]}"#, "unknown setting `rules`"),
    ] {
        let refused = read_configuration(config, Engine::read).expect_err(config).to_string();
        assert!(refused.contains(expected), "{config}: {refused}");
    }
}

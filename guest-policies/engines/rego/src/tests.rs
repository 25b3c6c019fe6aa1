//! Tests of the whole policy on this machine: real policy files, every kind of result, and what must deny.

use gavel_policy::json::{Json, Wrong};
use gavel_policy::{ToolCall, read_configuration};

use super::*;

/// 2026-01-05T10:00:00Z, a Monday.
const MONDAY_MS: u64 = 1_767_607_200_000;

fn request(tool: &str, params: &str) -> Request {
    Request {
        id: "r1".into(),
        now_ms: MONDAY_MS,
        ts_ms: 7,
        actor: "agent:ops".into(),
        intent: "clean up".into(),
        tool_call: Some(ToolCall { name: tool.into(), params: params.into() }),
        params: r#"{"source_ip":"10.1.2.3"}"#.into(),
        evidence: vec!["ticket:12".into()],
        constraints: None,
    }
}

fn engine(config: &str) -> Engine {
    read_configuration(config, Engine::read).expect(config)
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\t', "\\t").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// One module, and the rule that decides.
fn module(text: &str, query: &str) -> Engine {
    engine(&format!(r#"{{"modules":{{"a.rego":{}}},"query":"{query}"}}"#, quoted(text)))
}

fn verdict(engine: &Engine, request: &Request) -> Verdict {
    judge(engine, request).0
}

fn denied(engine: &Engine, request: &Request) -> String {
    match verdict(engine, request) {
        Verdict::Deny(reason) => reason,
        other => panic!("not denied: {other:?}"),
    }
}

/// What `data.a.x` means as a verdict.
fn result(rule: &str) -> Verdict {
    verdict(&module(&format!("package a\n{rule}"), "data.a.x"), &request("t", "{}"))
}

fn deny(reason: &str) -> Verdict {
    Verdict::Deny(reason.into())
}

#[test]
fn every_kind_of_result_has_its_verdict() {
    for (rule, expected) in [
        ("x := true", Verdict::Allow),
        ("x := false", deny("data.a.x is false")),
        ("x if false", deny("data.a.x is undefined for this request")),
        ("y := true", deny("data.a.x is undefined for this request")),
        (r#"x := "allow""#, Verdict::Allow),
        (r#"x := "abstain""#, Verdict::Abstain),
        (r#"x := "deny""#, deny("data.a.x is 'deny'")),
        (r#"x := "escalate""#, Verdict::Escalate("data.a.x is 'escalate'".into())),
        (r#"x := "ALLOW""#, deny("data.a.x is 'ALLOW', not one of allow deny abstain escalate")),
        ("x := null", deny("data.a.x is null, which is no decision")),
        ("x := 1", deny("data.a.x is a number, which is no decision")),
        ("x := []", deny("data.a.x is a list, which is no decision")),
        (r#"x contains "m""#, deny("data.a.x is a set, which is no decision")),
        ("x := {}", deny("data.a.x is an object without a decision (verdict, allow, deny)")),
        (r#"x := {"allow": true}"#, Verdict::Allow),
        (r#"x := {"allow": false, "reason": "no"}"#, deny("no")),
        (r#"x := {"allow": "yes"}"#, deny("data.a.x.allow is a text, which is no decision")),
        (r#"x := {"allow": null}"#, deny("data.a.x.allow is null, which is no decision")),
        (r#"x := {"decision": "abstain"}"#, Verdict::Abstain),
        (r#"x := {"decision": "escalate", "reasons": ["b", "a"]}"#, Verdict::Escalate("b; a".into())),
        (r#"x := {"decision": true}"#, deny("data.a.x.decision is true or false, which is no decision")),
        (r#"x := {"allow": true, "decision": "deny"}"#, deny("data.a.x.decision is 'deny'")),
        (r#"x := {"allow": true, "deny": {"b", "a"}}"#, deny("a; b")),
        (r#"x := {"allow": true, "deny": []}"#, Verdict::Allow),
        (r#"x := {"deny": true, "message": "no"}"#, deny("no")),
        (r#"x := {"deny": "no"}"#, deny("data.a.x.deny is a text, which is no decision")),
        (r#"x := {"escalate": ["ask"], "allow": true}"#, Verdict::Escalate("ask".into())),
        (r#"x := {"escalate": ["ask"], "violation": [{"msg": "no"}]}"#, deny("no")),
    ] {
        assert_eq!(result(rule), expected, "{rule}");
    }
}

#[test]
fn a_denial_of_conftest_or_gatekeeper_is_one() {
    for (rule, query, expected) in [
        (r#"deny contains "a""#, "data.p.deny", deny("a")),
        (r#"deny_late contains "a""#, "data.p.deny_late", deny("a")),
        (r#"violation contains {"msg": "a", "details": {}}"#, "data.p.violation", deny("a")),
        ("violation contains {\"x\": 1}", "data.p.violation", deny(r#"{"x":1}"#)),
        ("deny contains 1 if false", "data.p.deny", Verdict::Allow),
        ("deny := true", "data.p.deny", deny("data.p.deny is true")),
        ("deny := false", "data.p.deny", Verdict::Allow),
        (r#"deny contains "a""#, "data.p", deny("a")),
        (r#"deny contains "a" if false"#, "data.p", Verdict::Allow),
        ("denyx contains 1 if false", "data.p.denyx", deny("data.p.denyx is a set, which is no decision")),
    ] {
        let engine = module(&format!("package p\n{rule}"), query);
        assert_eq!(verdict(&engine, &request("t", "{}")), expected, "{rule}");
    }
}

#[test]
fn roles_as_opa_has_them_run_unchanged() {
    let config = format!(
        r#"{{"modules":{{"rbac.rego":{}}},"query":"data.app.rbac.allow",
            "input":{{"user":"/actor","action":"/tool_call/name","type":"/tool_call/params/type"}},
            "data":{{"user_roles":{{"agent:alice":["admin"],"agent:bob":["employee","billing"]}},
                    "role_grants":{{"employee":[{{"action":"read","type":"dog"}}],
                                    "billing":[{{"action":"update","type":"finance"}}]}}}}}}"#,
        quoted(include_str!("../examples/rbac.rego"))
    );
    let engine = engine(&config);
    let asked = |actor: &str, action: &str, kind: &str| {
        let request = request(action, &format!(r#"{{"type":"{kind}"}}"#));
        verdict(&engine, &Request { actor: actor.into(), ..request })
    };
    let no = deny("data.app.rbac.allow is false");
    assert_eq!(asked("agent:alice", "delete", "server"), Verdict::Allow);
    assert_eq!(asked("agent:bob", "read", "dog"), Verdict::Allow);
    assert_eq!(asked("agent:bob", "update", "finance"), Verdict::Allow);
    assert_eq!(asked("agent:bob", "update", "dog"), no);
    assert_eq!(asked("agent:eve", "read", "dog"), no);
}

#[test]
fn a_file_of_many_rules_says_all_that_is_wrong() {
    let engine = module(include_str!("../examples/deploys.rego"), "data.deploys.deny");
    let good = request("deploy", r#"{"image":"registry.example.com/web:1","stage":"production"}"#);
    assert_eq!(verdict(&engine, &good), Verdict::Allow);
    // 17:00 in Berlin.
    let late = Request { now_ms: MONDAY_MS + 6 * 3_600_000, ..good.clone() };
    assert_eq!(denied(&engine, &late), "it is 17 o'clock in Berlin: no deployments after 16");
    let outside = Request { params: r#"{"source_ip":"10.2.0.1"}"#.into(), ..good.clone() };
    assert_eq!(denied(&engine, &outside), "only the office deploys to production");
    let bad = Request { evidence: vec!["ticket:x".into()], ..request("deploy", r#"{"image":"evil/web"}"#) };
    assert_eq!(denied(&engine, &bad), "deployments need a ticket; image evil/web is not from our registry");
}

#[test]
fn policies_of_before_rego_1_run_unchanged() {
    let config = format!(
        r#"{{"rego_v0":true,"modules":{{"legacy.rego":{}}},"query":"data.authz.violation","data":{{"owners":["agent:ops"]}},
            "input":{{"user":"/actor","method":{{"$value":"GET"}}}}}}"#,
        quoted(include_str!("../examples/legacy.rego"))
    );
    let engine = engine(&config);
    assert_eq!(verdict(&engine, &request("t", "{}")), Verdict::Allow);
    let other = Request { actor: "agent:eve".into(), ..request("t", "{}") };
    assert_eq!(denied(&engine, &other), "agent:eve may not GET");
}

#[test]
fn the_request_is_the_input() {
    for condition in [
        r#"input.id == "r1""#,
        "input.actor == input.request.actor",
        "input.now_ms == 1767607200000",
        "input.request.ts_ms == 7",
        r#"input.tool_call.name == "t""#,
        "input.tool_call.params.n == 18446744073709551617",
        "input.tool_call.params.n != 18446744073709551618",
        "input.tool_call.params.f == 0.5",
        "is_null(input.tool_call.params.z)",
        r#"input.params.source_ip == "10.1.2.3""#,
        r#"input.evidence == ["ticket:12"]"#,
        "not input.constraints",
    ] {
        let engine = module(&format!("package a\nallow if {{ {condition} }}"), "data.a.allow");
        let request = request("t", r#"{"n":18446744073709551617,"f":0.5,"z":null}"#);
        assert_eq!(verdict(&engine, &request), Verdict::Allow, "{condition}");
    }
}

#[test]
fn an_input_of_its_own_shape_lacks_what_the_request_lacks() {
    let engine = engine(
        r#"{"modules":{"a.rego":"package a\nx := {\"allow\": false, \"reason\": json.marshal(input)}"},"query":"data.a.x",
            "input":{"attributes":{"request":{"http":{"method":{"$value":"GET"},"path":"/tool_call/params/path"}}},
                     "none":"/tool_call/params/none"}}"#,
    );
    let reason = denied(&engine, &request("t", r#"{"path":"/x"}"#));
    assert_eq!(reason, r#"{"attributes":{"request":{"http":{"method":"GET","path":"/x"}}}}"#);
}

#[test]
fn functions_answer_from_the_request_or_not_at_all() {
    for (condition, expected) in [
        ("time.now_ns() == 1767607200000000000", true),
        (r#"time.weekday(time.now_ns()) == "Monday""#, true),
        (r#"net.cidr_contains("10.0.0.0/8", "10.255.0.1")"#, true),
        (r#"net.cidr_contains("10.0.0.0/8", "11.0.0.1")"#, false),
        (r#"net.cidr_contains("10.0.0.0/8", "10.0.0.0/7")"#, false),
        (r#"net.cidr_contains("0.0.0.0/0", "::1")"#, false),
        (r#"net.cidr_contains("2001:db8::/32", "2001:db8:1::/48")"#, true),
        (r#"not net.cidr_contains("10.0.0.0/33", "10.0.0.1")"#, true),
        (r#"net.cidr_is_valid("10.0.0.0/8")"#, true),
        (r#"net.cidr_is_valid("10.0.0.0/+8")"#, false),
        (r#"regex.match(`^\p{Greek}\w+$`, "Ωmega")"#, true),
        (r#"glob.match("*.example.com", ["."], "a.example.com")"#, true),
        (r#"yaml.unmarshal("a: [1]").a[0] == 1"#, true),
        (r#"semver.compare("1.2.0", "1.10.0") == -1"#, true),
        (r#"base64.encode("a") == "YQ==""#, true),
    ] {
        let engine = module(&format!("package a\nallow if {{ {condition} }}"), "data.a.allow");
        assert_eq!(verdict(&engine, &request("t", "{}")) == Verdict::Allow, expected, "{condition}");
    }
    for absent in ["http.send({})", "rand.intn(\"a\", 2)", "uuid.rfc4122(\"a\")", "opa.runtime()"] {
        let engine = module(&format!("package a\nallow if {{ {absent} }}"), "data.a.allow");
        let reason = denied(&engine, &request("t", "{}"));
        let name = absent.split('(').next().expect("a name");
        assert!(reason.starts_with("Rego failed: ") && reason.contains(name), "{reason}");
    }
}

#[test]
fn a_builtin_that_fails_is_undefined_or_denies() {
    let text = r"package a\nallow if not to_number(input.intent)";
    let lenient = engine(&format!(r#"{{"modules":{{"a":"{text}"}},"query":"data.a.allow"}}"#));
    assert_eq!(verdict(&lenient, &request("t", "{}")), Verdict::Allow);
    let strict =
        engine(&format!(r#"{{"modules":{{"a":"{text}"}},"query":"data.a.allow","strict_builtin_errors":true}}"#));
    let reason = denied(&strict, &request("t", "{}"));
    assert!(reason.starts_with("Rego failed: "), "{reason}");
}

#[test]
fn what_a_policy_prints_is_told() {
    let engine = module("package a\nallow if { print(\"saw\", input.actor) }", "data.a.allow");
    let (verdict, printed) = judge(&engine, &request("t", "{}"));
    assert_eq!(verdict, Verdict::Allow);
    assert!(printed.len() == 1 && printed[0].contains("saw agent:ops"), "{printed:?}");
    assert_eq!(judge(&engine, &request("t", "{}")).1.len(), 1, "of one request only");
}

#[test]
fn nothing_of_a_request_is_left_for_the_next() {
    let engine =
        module("package a\nx := {\"allow\": false, \"reason\": json.marshal([input, time.now_ns()])}", "data.a.x");
    let first = denied(&engine, &request("t", "{}"));
    let other = Request {
        id: "r2".into(),
        now_ms: 1,
        tool_call: None,
        params: "{}".into(),
        evidence: Vec::new(),
        ..request("t", "{}")
    };
    let alone = denied(
        &module("package a\nx := {\"allow\": false, \"reason\": json.marshal([input, time.now_ns()])}", "data.a.x"),
        &other,
    );
    assert_eq!(denied(&engine, &other), alone);
    assert_eq!(denied(&engine, &request("t", "{}")), first);
    assert!(!format!("{:?}", engine.interpreter.get_data()).contains("r2"));
}

#[test]
fn only_tools_it_is_about_are_judged() {
    let engine = engine(r#"{"modules":{"a":"package a\nx := true"},"query":"data.a.x","tools":["write_*"]}"#);
    assert_eq!(verdict(&engine, &request("write_file", "{}")), Verdict::Allow);
    assert_eq!(verdict(&engine, &request("read_file", "{}")), Verdict::Abstain);
    assert_eq!(verdict(&engine, &Request { tool_call: None, ..request("t", "{}") }), Verdict::Abstain);
}

#[test]
fn long_reasons_are_shortened() {
    let engine = module("package a\nx := {\"allow\": false, \"reason\": input.intent}", "data.a.x");
    let long = Request { intent: "é".repeat(5_000), ..request("t", "{}") };
    assert!(denied(&engine, &long).len() <= gavel_engine_input::REASON_BYTES_MAX);
}

#[test]
fn configurations_that_cannot_be_meant_are_refused() {
    for (config, expected) in [
        ("null", "expected an object, not null"),
        ("{}", "setting `modules` is missing"),
        (r#"{"modules":{}}"#, "`modules`: there is no module"),
        (r#"{"modules":"package a"}"#, "`modules`: expected an object, not a text"),
        (r#"{"modules":{"a.rego":7}}"#, "`modules`: 'a.rego': expected a text, not a number"),
        (r#"{"modules":{"a.rego":"package a\nallow if {"}}"#, "a.rego:2:"),
        (r#"{"modules":{"a.rego":"package a\nallow { true }"}}"#, "a.rego:2:"),
        (r#"{"modules":{"a.rego":"package a"},"data":[]}"#, "`data`: expected an object, not a list"),
        (r#"{"modules":{"a.rego":"package a"},"query":"true"}"#, "`query`: 'true' is not the path"),
        (r#"{"modules":{"a.rego":"package a"},"query":"data.a; true"}"#, "`query`: 'data.a; true' is not the path"),
        (r#"{"modules":{"a.rego":"package a"},"input":"gavel"}"#, "`input`: expected an object, not a text"),
        (r#"{"modules":{"a.rego":"package a"},"input":{"user":"actor"}}"#, "'user': 'actor' is no JSON pointer"),
        (r#"{"modules":{"a.rego":"package a"},"input":{"user":7}}"#, "'user': expected a pointer"),
        (r#"{"modules":{"a.rego":"package a"},"rego_v0":1}"#, "`rego_v0`: expected true or false, not a number"),
        (r#"{"modules":{"a.rego":"package a"},"tools":[]}"#, "`tools`: is about no tool"),
        (r#"{"modules":{"a.rego":"package a"},"rules":[]}"#, "unknown setting `rules`"),
    ] {
        let refused = read_configuration(config, Engine::read).expect_err(config);
        assert!(refused.to_string().contains(expected), "{config}: {refused}");
    }
}

#[test]
fn the_schema_of_the_configuration_knows_its_settings() {
    let schema = Json::parse(include_str!("../config.schema.json")).expect("JSON");
    let properties = gavel_engine_input::Pointer::new("/properties").expect("a pointer");
    let Some(Json::Object(properties)) = properties.find(&schema) else { panic!("no properties") };
    for (name, _) in properties {
        let config = format!(r#"{{"{name}":null}}"#);
        let refused = read_configuration(&config, Engine::read).expect_err("null").to_string();
        assert!(!refused.contains("unknown setting"), "{refused}");
    }
    assert!(matches!(schema.object(&[]), Err(Wrong { .. })));
}

//! The policies that are measured: for each engine one that decides, among as many others as make up the bytes wanted.

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityId, EntityTypeName, EntityUid, PolicySet, RestrictedExpression,
};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A policy, as component and natively.
pub(crate) struct Case {
    pub(crate) engine: &'static str,
    pub(crate) component: &'static [u8],
    pub(crate) config: Value,
    pub(crate) policy_bytes: usize,
    /// Parse the policies, as a program does once.
    pub(crate) parse: Box<dyn Fn()>,
    /// Decide; true for a permission.
    pub(crate) evaluate: Box<dyn Fn() -> bool>,
}

pub(crate) fn cedar(bytes: usize) -> Case {
    let mut text = String::from(
        r#"permit (principal == Agent::"agent-001", action == Action::"read_file", resource)
when { context.params.path like "reports/*" };
"#,
    );
    for index in 0.. {
        if text.len() >= bytes {
            break;
        }
        let _ = writeln!(
            text,
            r#"@id("rule-{index}")
forbid (principal, action == Action::"tool_{index}", resource)
unless {{ context has constraints && context.params.amount < {index} && context.intent like "*board*" }};"#
        );
    }
    let (policies, parsed) = (text.parse::<PolicySet>().expect("Cedar"), text.clone());
    // Types are parsed once, ids are not parsed at all, as in the component.
    let [agent, action, tool] = ["Agent", "Action", "Tool"].map(|name| name.parse::<EntityTypeName>().expect("a type"));
    let uid = |name: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id));
    Case {
        engine: "cedar",
        component: include_bytes!("../../../../guest-policies/built/cedar.wasm"),
        config: json!({"policies": text, "mapping": {"context": {"params": "/tool_call/params"}}}),
        policy_bytes: text.len(),
        parse: Box::new(move || _ = std::hint::black_box(parsed.parse::<PolicySet>().expect("Cedar"))),
        evaluate: Box::new(move || {
            let path = RestrictedExpression::new_string("reports/2025/q1.md".into());
            let params = RestrictedExpression::new_record([("path".into(), path)]).expect("a record");
            let context = Context::from_pairs([("params".into(), params)]).expect("a context");
            let (who, what, on) = (uid(&agent, "agent-001"), uid(&action, "read_file"), uid(&tool, "read_file"));
            let request = cedar_policy::Request::new(who, what, on, context, None);
            let response = Authorizer::new().is_authorized(&request.expect("a request"), &policies, &Entities::empty());
            response.decision() == Decision::Allow
        }),
    }
}

pub(crate) fn rego(bytes: usize) -> Case {
    let mut text = String::from(
        r#"package authz

default allow := false

allow if {
	input.actor == "agent-001"
	input.tool_call.name == "read_file"
	startswith(input.tool_call.params.path, "reports/")
}
"#,
    );
    for index in 0.. {
        if text.len() >= bytes {
            break;
        }
        let _ = writeln!(
            text,
            r#"
allow if {{
	input.tool_call.name == "tool_{index}"
	input.tool_call.params.amount < {index}
	contains(input.intent, "board")
}}"#
        );
    }
    let parse = |text: &str| {
        let mut engine = regorus::Engine::new();
        engine.add_policy("authz.rego".into(), text.to_owned()).expect("Rego");
        engine
    };
    let (mut engine, parsed) = (parse(&text), text.clone());
    let query = "data.authz.allow".to_owned();
    // Analyses the policy, so that it is not done for each decision.
    engine.eval_query("true".into(), false).expect("it evaluates");
    let input = r#"{"actor":"agent-001","intent":"Read the quarterly report and summarise it for the board",
        "tool_call":{"name":"read_file","params":{"path":"reports/2025/q1.md"}}}"#;
    Case {
        engine: "rego",
        component: include_bytes!("../../../../guest-policies/built/rego.wasm"),
        config: json!({"modules": {"authz.rego": text}, "query": query}),
        policy_bytes: text.len(),
        parse: Box::new(move || {
            parse(&parsed).eval_query("true".into(), false).expect("it evaluates");
        }),
        evaluate: Box::new(move || {
            let mut engine = engine.clone();
            engine.set_input(regorus::Value::from_json_str(input).expect("JSON"));
            let result = engine.eval_query(query.clone(), false).expect("it evaluates");
            result.result[0].expressions[0].value == regorus::Value::from(true)
        }),
    }
}

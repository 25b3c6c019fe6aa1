//! Tests of the whole judgement, on the machine itself: configuration text and tool call in, verdict out.

use gavel_policy::{ToolCall, read_configuration};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn verdict(config: &serde_json::Value, tool: &str, params: &str) -> Verdict {
    let config = read_configuration(&config.to_string(), Config::read).expect("a configuration");
    judge(&config, &request(Some(ToolCall { name: tool.into(), params: params.into() })))
}

fn request(tool_call: Option<ToolCall>) -> Request {
    Request {
        id: "r-1".into(),
        now_ms: 0,
        ts_ms: 0,
        actor: "agent-001".into(),
        intent: "read a file".into(),
        tool_call,
        params: r#"{"path":"src/main.rs"}"#.into(),
        evidence: Vec::new(),
        constraints: None,
    }
}

const README: &str = include_str!("../README.md");

/// The example of the README.
fn workspace() -> serde_json::Value {
    let example = README.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    serde_json::from_str(example).expect(example)
}

#[test]
fn the_verdicts_of_the_readme() {
    let mut rows = 0;
    for line in README.lines().filter_map(|line| line.strip_prefix("| `")) {
        let Some((call, expected)) = line.split_once("` | ") else { continue };
        let Some((tool, params)) = call.split_once(' ') else { continue };
        let expected = expected.trim_end_matches(" |");
        match verdict(&workspace(), tool, params) {
            Verdict::Deny(reason) => assert_eq!(expected, format!("deny: `{reason}`")),
            Verdict::Allow => assert_eq!(expected, "allow"),
            other => assert!(other == Verdict::Abstain && expected.starts_with("abstain"), "{line}"),
        }
        rows += 1;
    }
    assert_eq!(rows, 9);
}

fn of_path(path: &str) -> Verdict {
    verdict(&workspace(), "read_file", &json!({ "path": path }).to_string())
}

fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Deny(reason) => reason,
        other => panic!("not a denial: {other:?}"),
    }
}

#[test]
fn allowed_paths() {
    for path in [
        "src/main.rs",
        "src",
        "src/",
        "./src//a/../main.rs",
        "docs/../src/main.rs",
        "docs/README.md",
        "/workspace/src/main.rs",
        "/workspace/../workspace/src/x",
        "/tmp/gavel/x",
        "src/ünï",
        "src/..hidden",
        "src/12:30.log",
        "src/%2e%2e/x",
    ] {
        assert_eq!(of_path(path), Verdict::Allow, "{path}");
    }
}

#[test]
fn refused_paths() {
    for (path, why) in [
        ("", "is empty"),
        ("docs/a/b.md", "fits no allowed pattern"),
        ("Src/main.rs", "fits no allowed pattern"),
        ("srcs/main.rs", "fits no allowed pattern"),
        (".", "fits no allowed pattern"),
        ("/workspace", "fits no allowed pattern"),
        ("/workspaces/src/main.rs", "fits no allowed pattern"),
        ("/src/main.rs", "fits no allowed pattern"),
        ("tmp/gavel/x", "fits no allowed pattern"),
        ("/tmp/gavel/../x", "fits no allowed pattern"),
        ("src/.env", "fits the denied pattern '**/.env'"),
        ("src/a/.ENV", "fits the denied pattern '**/.env'"),
        ("/tmp/gavel/.env", "fits the denied pattern '**/.env'"),
        ("/etc/.env", "fits the denied pattern '**/.env'"),
        ("src/tls.pem", "fits the denied pattern '**/*.pem'"),
        ("/workspace/src/generated", "fits the denied pattern 'src/generated/**'"),
        ("src/x/../generated/y", "fits the denied pattern 'src/generated/**'"),
        ("..", "leaves the workspace"),
        ("x/../../etc/passwd", "leaves the workspace"),
        ("src/../../workspace/src/main.rs", "leaves the workspace"),
        ("/../etc/passwd", "goes above the root of the file system"),
        ("src/~/x/../../../~root/x", "begins with `~`, which many tools expand to a home folder"),
        ("~/src/x", "begins with `~`, which many tools expand to a home folder"),
        ("C:/src/x", "begins with a drive or a scheme"),
        ("C:/../src/x", "begins with a drive or a scheme"),
        ("~/../src/x", "begins with `~`, which many tools expand to a home folder"),
        ("src/../~root/x", "begins with `~`, which many tools expand to a home folder"),
        ("file:///etc/passwd", "begins with a drive or a scheme"),
        ("src/../file:/x", "begins with a drive or a scheme"),
    ] {
        let expected = format!("path '{path}' in parameter 'path' of tool 'read_file' {why}");
        assert_eq!(reason(of_path(path)), expected);
    }
}

#[test]
fn reasons_show_what_came_in_one_short_line() {
    assert_eq!(
        reason(of_path("src/a\0b")),
        r"path 'src/a\0b' in parameter 'path' of tool 'read_file' has a control character"
    );
    assert_eq!(
        reason(of_path("src\\..\\..\\x")),
        r"path 'src\\..\\..\\x' in parameter 'path' of tool 'read_file' has a backslash, which is a separator to some systems and a letter to others"
    );
    let long = reason(of_path(&format!("src/{}", "é".repeat(4_000))));
    let shown = format!("src/{}…{}", "é".repeat(56), "é".repeat(60));
    assert_eq!(long, format!("path '{shown}' in parameter 'path' of tool 'read_file' is longer than 4096 bytes"));
    let tool = "write_\n".repeat(1_000);
    assert!(reason(verdict(&workspace(), &tool, "{}")).len() < 300);
}

#[test]
fn what_it_is_not_about() {
    assert_eq!(verdict(&workspace(), "list_users", r#"{"path":"/etc/passwd"}"#), Verdict::Abstain);
    let config = read_configuration(&workspace().to_string(), Config::read).expect("a configuration");
    assert_eq!(judge(&config, &request(None)), Verdict::Abstain);
}

#[test]
fn parameters_that_are_no_paths() {
    let of = |params: &str| reason(verdict(&workspace(), "write_x", params));
    assert_eq!(of("{}"), "tool 'write_x' is called without its parameter 'path'");
    assert_eq!(of(r#"{"path":[]}"#), "tool 'write_x' is called without its parameter 'path'");
    for (value, is) in
        [("null", "null"), ("7", "a number"), ("true", "true or false"), (r#"{"x":"src/a"}"#, "an object")]
    {
        assert_eq!(
            of(&format!(r#"{{"path":{value}}}"#)),
            format!("parameter 'path' of tool 'write_x' is {is}, not a path")
        );
    }
    assert_eq!(of(r#"{"path":["src/a",7]}"#), "parameter '/path/1' of tool 'write_x' is a number, not a path");
    assert_eq!(of(r#"{"path":["src/a",["src/b"]]}"#), "parameter '/path/1' of tool 'write_x' is a list, not a path");
    assert_eq!(
        of(r#"{"path":["src/a","b"]}"#),
        "path 'b' in parameter '/path/1' of tool 'write_x' fits no allowed pattern"
    );
    assert_eq!(verdict(&workspace(), "write_x", r#"{"path":["src/a","src/b"]}"#), Verdict::Allow);
    assert_eq!(
        of(r#"{"path":"src/a","path":"b"}"#),
        "path 'b' in parameter 'path' of tool 'write_x' fits no allowed pattern"
    );
    assert!(of("{").starts_with("the parameters of tool 'write_x' cannot be read: not JSON"));
    let deep = format!(r#"{{"path":"src/a","x":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    assert_eq!(of(&deep), "the parameters of tool 'write_x' cannot be read: the JSON is nested deeper than 64");
    assert_eq!(of("[]"), "tool 'write_x' is called without its parameter '/path'".replace('/', ""));
    assert_eq!(of("7"), "parameter '' of tool 'write_x' is a number, not a path");
}

#[test]
fn pointers() {
    let with = |pointer: &str, params: &str| {
        let config = json!({ "rules": [{ "tools": ["t"], "params": [pointer], "allow": ["ok/**"] }] });
        verdict(&config, "t", params)
    };
    for (pointer, params) in [
        ("/files/0/path", r#"{"files":[{"path":"ok/a"},{"path":"no"}]}"#),
        ("/files/*/path", r#"{"files":[{"path":"ok/a"},{"path":["ok/b"]}]}"#),
        ("/files/*/path", r#"{"files":{"x":{"path":"ok/a"}}}"#),
        ("*", r#"{"a":"ok/a","b":["ok/b"]}"#),
        ("a/b", r#"{"a/b":"ok/a"}"#),
        ("/a~1b/~0", r#"{"a/b":{"~":"ok/a"}}"#),
        ("/", r#"{"":"ok/a"}"#),
    ] {
        assert_eq!(with(pointer, params), Verdict::Allow, "{pointer} {params}");
    }
    for (pointer, params, why) in [
        (
            "/files/*/path",
            r#"{"files":[{"path":"ok/a"},{"name":"x"}]}"#,
            "tool 't' is called without its parameter '/files/1/path'",
        ),
        ("/files/*/path", r#"{"files":[]}"#, "tool 't' is called without its parameter '/files/*'"),
        ("/files/*/path", r#"{"files":"ok/a"}"#, "parameter 'files' of tool 't' is a text, not a path"),
        (
            "/files/*/path",
            r#"{"files":[{"path":"no"}]}"#,
            "path 'no' in parameter '/files/0/path' of tool 't' fits no allowed pattern",
        ),
        ("/files/2", r#"{"files":["ok/a"]}"#, "tool 't' is called without its parameter '/files/2'"),
        ("*", r#"{"a":"ok/a","b":1}"#, "parameter 'b' of tool 't' is a number, not a path"),
        ("*", "{}", "tool 't' is called without its parameter '*'"),
    ] {
        assert_eq!(reason(with(pointer, params)), why, "{pointer} {params}");
    }
}

#[test]
fn a_missing_parameter_may_be_allowed() {
    let config =
        json!({ "rules": [{ "tools": ["t"], "params": ["from", "to"], "allow": ["ok/**"], "on_missing": "allow" }] });
    assert_eq!(verdict(&config, "t", "{}"), Verdict::Abstain);
    assert_eq!(verdict(&config, "t", r#"{"to":"ok/a"}"#), Verdict::Allow);
    assert!(reason(verdict(&config, "t", r#"{"to":"no"}"#)).contains("fits no allowed pattern"));
    // On the way to a path, something else than an object is not a path that is missing.
    let deep =
        json!({ "rules": [{ "tools": ["t"], "params": ["/to/path"], "allow": ["ok/**"], "on_missing": "allow" }] });
    assert!(reason(verdict(&deep, "t", r#"{"to":"/etc/passwd"}"#)).ends_with("is a text, not a path"));
}

#[test]
fn every_rule_about_the_tool_must_agree() {
    let config = json!({ "rules": [
        { "tools": ["*"], "params": ["path"], "allow": ["**"], "deny": ["**/.git/**"] },
        { "tools": ["write_*"], "params": ["path"], "allow": ["out/**"] },
    ]});
    let of = |tool: &str, path: &str| verdict(&config, tool, &json!({ "path": path }).to_string()) == Verdict::Allow;
    assert!(of("read", "src/a") && of("write_x", "out/a"));
    assert!(!of("write_x", "src/a") && !of("read", ".git/config") && !of("write_x", "out/.git"));
    assert!(!of("fs/read", "/etc/passwd"), "`**` allows the workspace, not the machine");
}

#[test]
fn broken_configurations_say_what_is_broken() {
    for (text, expected) in [
        ("null", "expected an object, not null"),
        ("{}", "setting `rules` is missing"),
        (r#"{"rules":[]}"#, "`rules`: the list is empty, so it guards nothing"),
        (
            r#"{"rules":[{"tools":[],"params":["p"],"allow":[]}]}"#,
            "`rules[0].tools`: the list is empty, so it guards nothing",
        ),
        (
            r#"{"rules":[{"tools":["t"],"params":[],"allow":[]}]}"#,
            "`rules[0].params`: the list is empty, so it guards nothing",
        ),
        (r#"{"rules":[{"tools":["t"],"params":["p"]}]}"#, "`rules[0]`: setting `allow` is missing"),
        (
            r#"{"rules":[{"tools":["t"],"params":["/~x"],"allow":[]}]}"#,
            "`rules[0].params[0]`: pointer `/~x`: `~` is written `~0` in a JSON pointer, and `/` in a name `~1`",
        ),
        (
            r#"{"rules":[{"tools":["t"],"params":["p"],"allow":["a**"]}]}"#,
            "`rules[0].allow[0]`: pattern `a**`: `**` stands alone between slashes",
        ),
        (
            r#"{"rules":[{"tools":["t"],"params":["p"],"allow":[],"denied":[]}]}"#,
            "`rules[0]`: unknown setting `denied`, not one of tools params allow deny on_missing",
        ),
        (
            r#"{"rules":[{"tools":["t"],"params":["p"],"allow":[],"on_missing":"ask"}]}"#,
            "`rules[0].on_missing`: 'ask' is neither deny nor allow",
        ),
        (r#"{"root":"work","rules":[]}"#, "`root`: 'work' is not absolute"),
        (r#"{"root":"/..","rules":[]}"#, "`root`: '/..' goes above the root of the file system"),
    ] {
        let error = read_configuration(text, Config::read).expect_err(text).to_string();
        assert_eq!(error, format!("the policy's configuration is broken: {expected}"), "{text}");
    }
}

#[test]
fn the_schema_knows_the_settings() {
    let schema: serde_json::Value =
        serde_json::from_str(&PathAllowList::describe().config_schema.expect("one")).expect("JSON");
    let rule = &schema["$defs"]["rule"];
    for (object, text, at) in [(&schema, r#"{"?":0}"#, ""), (rule, r#"{"rules":[{"?":0}]}"#, "`rules[0]`: ")] {
        assert_eq!(object["additionalProperties"], false);
        let error = read_configuration(text, Config::read).expect_err(text).to_string();
        let (_, known) = error.split_once(&format!("{at}unknown setting `?`, not one of ")).expect(&error);
        let mut known: Vec<_> = known.split(' ').collect();
        known.sort_unstable();
        let mut properties: Vec<_> = object["properties"].as_object().expect("an object").keys().collect();
        properties.sort_unstable();
        assert_eq!(known, properties);
    }
}

/// What a path leads to, by a file system without links: the definition, one step at a time.
fn resolve(path: &str) -> Option<Vec<&str>> {
    let mut at = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(at.pop()?),
            name => at.push(name),
        }
    }
    Some(at)
}

proptest! {
    #[test]
    fn an_allowed_path_stays_where_it_is_allowed(path in r"(\.\.?|src|a|\.env|/|//|~|C:|\\|\x00){0,12}") {
        if of_path(&path) == Verdict::Allow && !path.starts_with('/') {
            let at = resolve(&path).expect("within the workspace");
            prop_assert_eq!(at[0], "src");
            prop_assert!(!at.contains(&".env") || at.last() != Some(&".env"));
            prop_assert!(!path.contains('\0') && !path.contains('\\'));
        }
    }

    #[test]
    fn no_input_makes_it_panic(tool in ".{0,20}", path in ".{0,200}", params in r#"[\[\]{}:,"a-z/*0-9]{0,30}"#) {
        let config = json!({ "rules": [{ "tools": ["*"], "params": ["*", "/a/*/b"], "allow": ["**"], "deny": ["**/x*/**"] }] });
        verdict(&config, &tool, &params);
        verdict(&config, &tool, &json!({ "a": path }).to_string());
    }
}

//! Files that are not what they should be: configurations, requests, bundles, recordings.
//!
//! What belongs here: every file that the command line reads, malformed, huge, deeply nested,
//! wrong-typed or not UTF-8. The command says what is wrong and where, with exit code 2 where it
//! could not be done and 1 where the answer is no; it never panics.

use gavel_tests::{Config, Output, Site, file, gavel, repository};
use serde_json::{Value, json};
use std::fs;

/// What `serve` says to a configuration that it does not take.
fn told(config: impl Into<Vec<u8>>) -> String {
    let site = Site::new(&Config::text(config));
    let output = site.refused();
    assert_eq!(output.stdout, "", "nothing is served");
    let file = site.config().display().to_string();
    check_calm(&output);
    output.stderr.replace(&file, "FILE")
}

fn check_calm(output: &Output) {
    assert!(!output.stderr.contains("panicked") && !output.stdout.contains("panicked"), "{}", output.stderr);
    assert!(output.stderr.len() < 20_000, "{} bytes of complaint", output.stderr.len());
}

#[test]
fn what_is_no_yaml_is_named_with_its_place() {
    for (text, expected) in [
        ("kernels: [", "FILE: "),
        ("a: b: c", "FILE: "),
        ("\tkernels: []", "FILE: "),
        ("kernels:\n  - id: k\n policy: {}\n", "FILE: "),
        ("- a\n- b\n", "FILE: a configuration is a mapping of keys to values"),
        ("just text", "FILE: a configuration is a mapping of keys to values"),
        ("42", "FILE: a configuration is a mapping of keys to values"),
        ("kernels: *nobody", "FILE: "),
        ("kernels: []\nkernels: []\n", "FILE: "),
    ] {
        let told = told(text);
        assert!(told.contains(expected) && told.len() > 20, "{text:?}: {told}");
    }
}

#[test]
fn bytes_that_are_no_text_are_named() {
    assert!(told(b"kernels: \"\xff\xfe\"".as_slice()).contains("FILE: invalid utf-8"));
    assert!(told(vec![0; 100]).starts_with("gavel: FILE: "));
    assert!(told(vec![b'#'; 5 << 20]).contains("FILE: 5242880 bytes, a configuration may have 4194304"));
    let missing = gavel(["serve", "--config", "/nowhere/gavel.yaml"]).code(2);
    assert!(missing.stderr.contains("/nowhere/gavel.yaml: No such file"), "{}", missing.stderr);
    let folder = gavel(["serve", "--config", "/"]).code(2);
    assert!(folder.stderr.contains("/: "), "{}", folder.stderr);
}

#[test]
fn bombs_do_not_go_off() {
    let aliases: Vec<String> =
        (1..30).map(|n| format!("a{n}: &a{n} [{}]", format!("*a{},", n - 1).repeat(9))).collect();
    let bomb = format!("a0: &a0 [lol]\n{}\n", aliases.join("\n"));
    for text in [bomb, "[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000)] {
        let told = told(text.clone());
        assert!(told.starts_with("gavel: FILE: "), "{text:.50}: {told:.500}");
    }
    let nested: Vec<String> = (0..5_000).map(|depth| format!("{}a:\n", " ".repeat(depth % 700))).collect();
    assert!(told(nested.concat()).starts_with("gavel: FILE: "));
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    for (text, key, nearest) in [
        ("listn: 1", "listn", "listen"),
        ("kernels: [{id: k, polcy: {}}]", "polcy", "policy"),
        ("kernels: [{id: k, policy: {allowed_actor: []}}]", "allowed_actor", "allowed_actors"),
        ("allowed_actors: []\nmax_intent_lenght: 5", "max_intent_lenght", ""),
        ("limits: {max_body: 5}", "max_body", "max_body_bytes"),
        ("auth: {keys: [{name: a, hash: b, role: [agent]}]}", "role", "roles"),
        ("tls: {cert: a, key: b}", "cert", "key"),
        ("policies: {business-hours: {limits: {deadline: 5}}}", "deadline", "deadline_ms"),
        ("tools: {workspce: x}", "workspce", "workspace"),
    ] {
        let told = told(text);
        assert!(told.contains(&format!("FILE: unknown key `{key}`")), "{text}: {told}");
        assert!(told.contains(&format!("the nearest known key is `{nearest}")), "{text}: {told}");
    }
}

#[test]
fn wrong_types_and_contradictions_name_their_key() {
    for (text, expected) in [
        ("listen: 5", "listen"),
        ("listen: nowhere", "listen"),
        ("kernels: 5", "kernels"),
        ("kernels: [{id: [1]}]", "kernels[0].id"),
        ("kernels: [{id: k, policy: {allowed_actors: everyone}}]", "kernels[0].policy.allowed_actors"),
        ("kernels: [{id: k, policy: {max_param_bytes: -1}}]", "kernels[0].policy.max_param_bytes"),
        ("kernels: [{id: k, variant: lenient}]", "kernels[0].variant"),
        ("kernels: [{id: k}, {id: k}]", "kernel `k` is there twice"),
        ("kernels: [{id: ../k}]", "kernel id `../k`"),
        ("kernels: [{id: ''}]", "kernel id ``"),
        ("kernels: []", "at least one kernel"),
        ("kernels: [{id: k, max_intent_length: 99999}]", "max_intent_length 99999 is above 8192"),
        ("kernels: [{id: k, permits: {keyring: {a: xyz}}}]", "permits.keyring"),
        ("kernels: [{id: k, permits: {keyring: {a: ''}}}]", "secret is empty"),
        ("limits: {max_body_bytes: 1.5}", "limits.max_body_bytes"),
        ("limits: {max_body_bytes: 99999999999999999999999}", "limits.max_body_bytes"),
        ("limits: {max_in_flight: 0}", "limits.max_in_flight is 0: nothing could be served"),
        ("allowed_actors: [a]\nkernels: [{id: k}]", "`allowed_actors` stands at the top beside `kernels`"),
        ("auth: {keys: [{name: a, hash: 'sha256:00', roles: [agent], actor: x}]}", "key `a`: `hash` must be sha256:"),
    ] {
        let told = told(text);
        assert!(told.starts_with("gavel: FILE: ") || told.contains("kernel k: permits"), "{text}: {told}");
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn keys_must_be_able_to_do_something() {
    let key = |rest: &str| format!("auth: {{keys: [{{name: a, hash: 'sha256:{}', {rest}}}]}}", "0".repeat(64));
    for (text, expected) in [
        (key("roles: []"), "key `a` has no roles"),
        (key("roles: [agent]"), "key `a` has the role agent but no `actor`"),
        (key("roles: [king]"), "unknown variant `king`"),
        (key("roles: [auditor], kernels: [nobody]"), "key `a`: there is no kernel `nobody`"),
    ] {
        let told = told(text.clone());
        assert!(told.contains(expected), "{text}: {told}");
    }
    let twice = ["a", "b"].map(|name| format!("{{name: {name}, hash: 'sha256:{}', roles: [auditor]}}", "0".repeat(64)));
    let told = told(format!("auth: {{keys: [{}]}}", twice.join(", ")));
    assert!(told.contains("keys `a` and `b` have the same hash"), "{told}");
}

#[test]
fn components_that_are_none_are_named() {
    let kernel = "kernels: [{id: k, policy: {custom_rules: [mine]}}]\n";
    let with = |policy: &str| format!("{kernel}policies: {{mine: {policy}}}\n");
    for (text, expected) in [
        (kernel.to_owned(), "custom rule `mine` is neither under `policies` () nor built in"),
        (with("{}"), "no builtin policy is named `mine`"),
        (with("{component: 'builtin:nothing'}"), "no builtin policy is named `nothing`"),
        (with("{component: nowhere.wasm}"), "nowhere.wasm"),
        (with("{component: /}"), "policy mine: /"),
        (with("{component: gavel.yaml}"), "policy mine: "),
    ] {
        let told = told(text.clone());
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn component_files_that_do_not_load_are_refused() {
    let good = fs::read(repository().join("tests/data/guests/hostile.wasm")).unwrap();
    let mut flipped = good.clone();
    for byte in &mut flipped[good.len() / 2..][..64] {
        *byte ^= 0xff;
    }
    let core_module = b"\0asm\x01\0\0\0".to_vec();
    let empty_component = b"\0asm\x0d\0\x01\0".to_vec();
    let config = "kernels: [{id: k, policy: {custom_rules: [mine]}}]\npolicies: {mine: {component: mine.wasm}}\n";
    for (name, bytes, expected) in [
        ("empty", Vec::new(), "policy mine: not WebAssembly: the 0 bytes"),
        ("garbage", b"garbage".repeat(1000), "policy mine: not WebAssembly: the 7000 bytes"),
        ("truncated", good[..good.len() / 2].to_vec(), "policy mine: truncated"),
        ("damaged", flipped, "policy mine: "),
        ("a core module", core_module, "policy mine: a core WebAssembly module, not a component"),
        ("an empty component", empty_component, "policy mine: does not implement world gavel:policy/policy@0.1.0"),
    ] {
        let site = Site::new(&Config::text(config));
        fs::write(site.path().join("mine.wasm"), bytes).unwrap();
        let output = site.refused();
        check_calm(&output);
        assert!(output.stderr.contains(expected), "{name}: {}", output.stderr);
        let checked = gavel(["validate".as_ref(), "--config".as_ref(), site.config().as_os_str()]).code(1);
        assert!(checked.stdout.contains(expected), "{name}: {}", checked.stdout);
    }
}

#[test]
fn a_configuration_against_a_policys_schema_is_refused_at_start() {
    for (policy, config, expected) in [
        ("path-allow-list", json!({"rules": []}), "policy path-allow-list: configuration at /rules"),
        ("path-allow-list", json!({"rules": [{"tools": ["x"], "params": ["p"]}]}), "configuration at /rules/0"),
        ("business-hours", json!({"from": 9}), "policy business-hours: configuration at /from"),
        ("business-hours", json!({"form": "09:00"}), "policy business-hours: configuration"),
    ] {
        let kernel = Config::ruled_kernel("k", &[policy]);
        let site = Site::new(&Config::of(json!([kernel])).policy(policy, json!({"config": config})));
        let output = site.refused();
        check_calm(&output);
        assert!(output.stderr.contains(expected), "{config}: {}", output.stderr);
    }
    let limits = json!({"limits": {"max_memory_bytes": 1_u64 << 40}});
    let kernel = Config::ruled_kernel("k", &["business-hours"]);
    let site = Site::new(&Config::of(json!([kernel])).policy("business-hours", limits));
    let told = site.refused().stderr;
    assert!(told.contains("policy business-hours: limit max_memory_bytes is 1099511627776"), "{told}");
}

#[test]
fn lines_that_are_no_requests_do_not_stop_a_batch() {
    let good = r#"{"request_id": "r", "actor": "a", "intent": "i"}"#;
    let lines: Vec<Vec<u8>> = vec![
        good.into(),
        b"{".to_vec(),
        b"[]".to_vec(),
        b"null".to_vec(),
        b"{}".to_vec(),
        b"{\"request\": 5}".to_vec(),
        b"{\"request\": {\"request_id\": \"r\"}}".to_vec(),
        b"\xff\xfe".to_vec(),
        b"[".repeat(200_000),
        br#"{"request_id": "\ud800", "actor": "a", "intent": "i"}"#.to_vec(),
        br#"{"request_id": {"$serde_json::private::Number": "1"}, "actor": "a", "intent": "i"}"#.to_vec(),
        b"   ".to_vec(),
        good.replace('r', "R").replace("Request_id", "request_id").replace("actoR", "actor").into(),
    ];
    let (_folder, path) = file(lines.join(&b'\n'));
    let output = gavel(["decide".as_ref(), "--requests".as_ref(), path.as_os_str()]).code(1);
    check_calm(&output);
    let answers = output.json_lines();
    assert_eq!(answers.len(), 12, "white space is no line");
    assert_eq!((&answers[0]["request_id"], &answers[11]["request_id"]), (&json!("r"), &json!("R")));
    for (number, answer) in answers[1..11].iter().enumerate() {
        assert_eq!(answer["line"], number + 2, "{answer}");
        assert!(answer["error"].as_str().is_some_and(|why| why.len() > 5), "{answer}");
    }
    assert!(output.stderr.contains("2 judged, 10 unreadable"), "{}", output.stderr);
}

#[test]
fn requests_that_cannot_be_opened_are_named() {
    let missing = gavel(["decide", "--requests", "/nowhere/requests.jsonl"]).code(2);
    assert!(missing.stderr.contains("/nowhere/requests.jsonl: No such file"), "{}", missing.stderr);
    let folder = gavel(["decide", "--requests", "/"]).code(2);
    assert!(folder.stderr.contains("/: "), "{}", folder.stderr);
    let (_folder, empty) = file("");
    let output = gavel(["decide".as_ref(), "--requests".as_ref(), empty.as_os_str()]).code(0);
    assert!(output.stderr.contains("0 judged, 0 unreadable"), "{}", output.stderr);
}

#[test]
fn a_request_is_not_read_into_memory_without_end() {
    let long = format!("{{\"request_id\": \"{}\"}}\n", "x".repeat(17 << 20));
    let (_folder, path) = file(long);
    let output = gavel(["decide".as_ref(), "--requests".as_ref(), path.as_os_str()]).code(1);
    check_calm(&output);
    assert!(output.json_lines().iter().all(|answer| answer["error"].is_string()));
}

#[test]
fn what_is_no_bundle_is_not_verified() {
    let hash = "0".repeat(64);
    let bundle = |entries: Value, root: Value| json!({"ledger_entries": entries, "root_hash": root}).to_string();
    let deep = format!("{{\"ledger_entries\": {}", "[".repeat(200_000));
    for (content, expected) in [
        (String::new(), "not an evidence bundle"),
        ("{".into(), "not an evidence bundle"),
        ("[]".into(), "not an evidence bundle"),
        ("null".into(), "not an evidence bundle"),
        ("{}".into(), "`ledger_entries` is missing"),
        (json!({"ledger_entries": []}).to_string(), "`root_hash` is missing"),
        (bundle(json!(5), json!(hash)), "not an evidence bundle"),
        (bundle(json!([5]), json!(hash)), "not an evidence bundle"),
        (bundle(json!([{}]), json!(hash)), "not an evidence bundle"),
        (bundle(json!([]), json!(5)), "not an evidence bundle"),
        (bundle(json!([]), json!("0")), "root_hash"),
        (bundle(json!([]), json!(hash)) + "{}", "not an evidence bundle"),
        (deep, "not an evidence bundle"),
        ("x".repeat(5 << 20), "not an evidence bundle"),
    ] {
        let (_folder, path) = file(&content);
        let output = gavel(["verify".as_ref(), path.as_os_str()]).code(1);
        check_calm(&output);
        assert!(output.stdout.contains("NOT VERIFIED: ") && output.stdout.contains(expected), "{}", output.stdout);
    }
    let (_folder, path) = file(b"{\"ledger_entries\": \"\xff\"}");
    let _ = gavel(["verify".as_ref(), path.as_os_str()]).code(1);
    let missing = gavel(["verify", "/nowhere"]).code(2);
    assert!(missing.stderr.contains("/nowhere: no such file or folder"), "{}", missing.stderr);
    let (folder, _) = file("no ledger");
    let output = gavel(["verify".as_ref(), folder.path().as_os_str()]).code(1);
    assert!(output.stdout.contains("NOT VERIFIED: no ledger in"), "{}", output.stdout);
}

#[test]
fn what_is_no_recording_is_named_with_its_line() {
    for content in ["{", "[]", "5", "{}", "{\"name\": \"x\"}", &"[".repeat(200_000)] {
        let (_folder, path) = file(format!("\n{content}\n"));
        let output = gavel(["conformance".as_ref(), path.as_os_str()]).code(2);
        check_calm(&output);
        assert!(output.stderr.contains("line 2"), "{content:.20}: {}", output.stderr);
    }
    let (_folder, path) = file(b"\xff\xfe\n");
    let output = gavel(["conformance".as_ref(), path.as_os_str()]).code(2);
    assert!(output.stderr.contains("line 1"), "{}", output.stderr);
    let missing = gavel(["conformance", "/nowhere.jsonl"]).code(2);
    assert!(missing.stderr.contains("/nowhere.jsonl: No such file"), "{}", missing.stderr);
}

#[test]
fn request_files_are_checked() {
    for (content, expected) in [
        (b"".as_slice(), "unexpected end of input"),
        (b"{", "unexpected end of input"),
        (b"\xff", "invalid utf-8"),
        (b"[]", "request must be a JSON object, not an array"),
        (br#"{"request_id": "r"}"#, "Missing field: 'actor'"),
        (br#"{"request_id": "r", "actor": 5, "intent": "i"}"#, "Validation failed: actor must be a string"),
    ] {
        let (_folder, path) = file(content);
        let output = gavel(["validate".as_ref(), "--request".as_ref(), path.as_os_str()]).code(1);
        check_calm(&output);
        let told = output.stdout;
        assert!(told.starts_with(path.to_str().unwrap()) && told.contains(expected), "{told}");
    }
}

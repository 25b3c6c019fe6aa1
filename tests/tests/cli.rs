//! The command line: every command, what it prints, and its exit code.
//!
//! What belongs here: commands as a person or a script runs them. Files that are not what they
//! should be are in `bad_files.rs`; the commands that the README shows are run by `readme.rs`.
#![allow(clippy::needless_raw_string_hashes, reason = "expect_test writes them so")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use expect_test::{Expect, expect};
use gavel_tests::{Config, Gavel, Server, Site, call, file, gavel, in_time, intent, path, redacted, repository};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn check(text: &str, also: &[(&str, &str)], expected: &Expect) {
    expected.assert_eq(&also.iter().fold(text.to_owned(), |text, (found, shown)| text.replace(found, shown)));
}

#[test]
fn every_command_has_help_with_an_example() {
    let help = gavel(["--help"]).code(0).stdout;
    let commands: BTreeSet<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = [
        "approvals",
        "archive",
        "bus",
        "checkpoint",
        "conformance",
        "decide",
        "demo",
        "doctor",
        "evidence",
        "find",
        "fleet",
        "halt",
        "heal",
        "health",
        "help",
        "incident",
        "info",
        "init",
        "investigate",
        "kasmina",
        "kernel",
        "key",
        "migrate",
        "plugin",
        "policy",
        "preserve",
        "prove",
        "recover",
        "replay",
        "restart",
        "rotate",
        "restore",
        "retention",
        "serve",
        "smoke",
        "submit",
        "validate",
        "verify",
    ];
    assert_eq!(commands, BTreeSet::from(expected));
    for command in commands.into_iter().filter(|command| *command != "help") {
        let help = gavel([command, "--help"]).code(0).stdout;
        let examples = help.split("Example").nth(1).unwrap_or_else(|| panic!("{command} has no example: {help}"));
        assert!(examples.contains(&format!("gavel {command}")), "{help}");
        assert!(help.contains(&format!("Usage: gavel {command}")) && help.contains("--json"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command}: a line is too long");
    }
    let _ = gavel(["dance"]).code(2);
    let _ = gavel(["serve", "--lisen", "x"]).code(2);
}

#[test]
fn serve_without_configuration_says_what_to_try() {
    let home = tempfile::tempdir().unwrap();
    let command = Gavel::new(["serve", "--listen", "127.0.0.1:0"])
        .env("HOME", home.path())
        .env("XDG_DATA_HOME", home.path().join("data"));
    let server = Server::spawn(command, Site::new(&Config::text("")));
    let shown =
        [(server.url.as_str(), "<url>"), (path(home.path()), "<home>"), (env!("CARGO_PKG_VERSION"), "<version>")];
    check(
        &server.announcement,
        &shown,
        &expect![[r#"
        gavel <version> serves <url>  (data in <home>/data/gavel)
          kernel default  strict, IDLE, policies: path-allow-list
          no keys are configured: loopback only, and every caller has every role
        try:
          curl -s <url>/submit -d '{"request_id": "r1", "actor": "agent-001", "intent": "Say hello", "tool_call": {"name": "echo", "params": {"text": "hello"}}}'
    "#]],
    );
    assert!(home.path().join("data/gavel/kernels/default/ledger/segment-000000.log").is_file());
    let line = server.announcement.lines().last().unwrap();
    let run = |line: &str| Command::new("sh").args(["-c", line]).output().expect("there is a shell");
    if !run("command -v curl").status.success() {
        return; // There is no curl on this machine.
    }
    let receipt = in_time(|| serde_json::from_slice::<Value>(&run(line).stdout).expect("curl prints the receipt"));
    assert_eq!((&receipt["decision"], &receipt["result"]), (&json!("ALLOW"), &json!("hello")), "{receipt}");
}

#[test]
fn serve_announces_itself_as_json() {
    let site = Site::new(&Config::open());
    let (config, data) = (site.config(), site.data());
    let args = ["serve", "--json", "--listen", "127.0.0.1:0", "--config", path(&config), "--data", path(&data)];
    let server = Server::spawn(Gavel::new(args), site);
    let announced: Value = serde_json::from_str(&server.announcement).unwrap();
    assert_eq!(announced, json!({"url": server.url, "data": path(&data), "kernels": ["k"]}));
    let (_, log) = server.terminate();
    let lines: Result<Vec<Value>, _> = log.lines().map(serde_json::from_str).collect();
    assert!(!lines.expect("its log is JSON lines too").is_empty());
}

#[test]
fn the_command_line_wins_over_the_file() {
    let elsewhere = tempfile::tempdir().unwrap();
    let config = Config::open().with("listen", json!("127.0.0.1:1")).with("data", json!(elsewhere.path().join("d")));
    let server = Server::start(&config);
    assert_ne!(server.address.port(), 1);
    assert!(server.site().data().join("kernels/k").is_dir() && !elsewhere.path().join("d").exists());
    drop(server);
    let site = Site::new(&config.with("listen", json!("127.0.0.1:0")));
    let server = Server::spawn(Gavel::new(["serve", "--config", path(&site.config())]), site);
    assert!(elsewhere.path().join("d/kernels/k").is_dir());
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn the_kernels_packages_policy_file_is_served_as_it_stands() {
    let text = "allowed_actors:\n  - agent-001\nallowed_tools:\n  - read_file\nrequire_tool_call: true\nmax_intent_length: 20\n";
    let server = Server::start(&Config::text(text));
    let error = |request: &Value| server.submit(request)["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(error(&intent("r")), "Jurisdiction denied: Tool call is required");
    assert_eq!(error(&call("r", "echo", json!({}))), "Jurisdiction denied: Tool 'echo' is not in allowed tools");
    assert_eq!(server.get("/").expect(200)["kernel_id"], "default");
}

#[test]
fn submit_prints_a_receipt() {
    let server = Server::start(&Config::open());
    let submit = |args: &[&str]| Gavel::new(["submit"].iter().chain(args)).env("GAVEL_URL", &server.url);
    let accepted =
        submit(&["--actor", "a", "--intent", "x", "--tool", "add", "--params", r#"{"a": 1, "b": 2}"#, "--id", "r1"]);
    let accepted = accepted.run().code(0);
    let hash = server.evidence()["root_hash"].as_str().unwrap().to_owned();
    check(
        &accepted.stdout,
        &[(&hash, "<hash>")],
        &expect![[r#"
        ALLOW ACCEPTED  r1
          result    3
          evidence  <hash>
    "#]],
    );
    let denied = submit(&["--actor", "", "--intent", "x", "--id", "r\u{1b}[2J2"]).run().code(1);
    let hash = server.evidence()["root_hash"].as_str().unwrap().to_owned();
    check(
        &denied.stdout,
        &[(&hash, "<hash>")],
        &expect![[r#"
        DENY REJECTED  r·[2J2
          reason    Validation failed: actor is required
          evidence  <hash>
    "#]],
    );
    let decided = submit(&["--json", "--decide", "--actor", "a", "--intent", "x", "--id", "r3"]).run().code(0).json();
    check(
        &redacted(&decided, &[]),
        &[],
        &expect![[r#"
        {
          "decision": "ALLOW",
          "error": null,
          "evidence_hash": "<hash>",
          "request_id": "r3",
          "result": null,
          "state_from": "IDLE",
          "state_to": "IDLE",
          "status": "ACCEPTED",
          "tool_result": null,
          "ts_ms": "<ms>"
        }"#]],
    );
    let from_input = submit(&["--json", "-"]).stdin(intent("r4").to_string()).run().code(0).json();
    assert_eq!(from_input["request_id"], "r4");
    let (_folder, request) = file(intent("r5").to_string());
    assert_eq!(submit(&["--json", path(&request)]).run().code(0).json()["request_id"], "r5");
    let made_up = submit(&["--json", "--actor", "a", "--intent", "x"]).run().code(0).json();
    assert!(made_up["request_id"].as_str().unwrap().starts_with("cli-"), "{made_up}");
}

#[test]
fn what_cannot_be_submitted_is_said() {
    let server = Server::start(&Config::open());
    let told = |args: &[&str]| gavel(["submit", "--url", &server.url].iter().chain(args)).code(2).stderr;
    let request = ["--actor", "a", "--intent", "x"];
    assert!(told(&["/nowhere.json"]).contains("/nowhere.json: No such file"));
    assert!(
        told(&[&request[..], &["--kernel", "nobody"]].concat())
            .contains("the server answered 404: there is no kernel 'nobody'")
    );
    assert!(told(&[&request[..], &["--tool", "t", "--params", "{"]].concat()).contains("--params is not JSON"));
    let (_folder, garbage) = file("garbage");
    assert!(told(&[path(&garbage)]).contains("the server answered 400: the body is not a JSON request"));
    let nobody = gavel(["submit", "--url", "http://127.0.0.1:1", "--actor", "a", "--intent", "x"]).code(2);
    assert!(nobody.stderr.contains("no answer from http://127.0.0.1:1/submit"), "{}", nobody.stderr);
    let as_json = gavel(["--json", "submit", "--url", "http://127.0.0.1:1", "--actor", "a", "--intent", "x"]).code(2);
    let told: Value = serde_json::from_str(&as_json.stderr).expect("errors are JSON too");
    assert!(told["error"].is_string(), "{told}");
}

/// Requests as a batch: with and without labels, one that cannot be read.
const BATCH: &str = r#"{"request": {"request_id": "r1", "ts_ms": 1000, "actor": "a", "intent": "i"}, "expect": "benign", "n": 1}
{"request_id": "r2", "ts_ms": 3000, "actor": "a", "intent": "i"}

{"request": {"request_id": "r3", "ts_ms": 2000, "actor": "", "intent": "i"}, "expect": "attack", "n": 2}
"#;

#[test]
fn decide_judges_a_batch_in_order() {
    let site = Site::new(&Config::open());
    let (_folder, requests) = file(BATCH);
    let decide = |args: &[&str]| {
        gavel(["decide", "--config", path(&site.config()), "--requests", path(&requests)].iter().chain(args))
    };
    let output = decide(&["--clock", "request"]).code(0);
    let receipts = output.json_lines();
    let ids: Vec<&Value> = receipts.iter().map(|receipt| &receipt["request_id"]).collect();
    assert_eq!(ids, ["r1", "r2", "r3"]);
    let times: Vec<&Value> = receipts.iter().map(|receipt| &receipt["ts_ms"]).collect();
    assert_eq!(times, [1000, 3000, 2000], "the kernel's clock is the request's");
    assert_eq!((&receipts[0]["expect"], &receipts[0]["n"]), (&json!("benign"), &json!(1)));
    assert!(receipts[1].get("expect").is_none());
    assert_eq!(receipts[2]["error"], "Validation failed: actor is required");
    check(
        &output.stderr,
        &[],
        &expect![[r#"
        3 judged, 0 unreadable
                2  ALLOW
                1  DENY
        by reason:
                1  Validation failed: actor is required
        by label:
          expect=attack                DENY 1
          expect=benign                ALLOW 1
          n=1                          ALLOW 1
          n=2                          DENY 1
    "#]],
    );
    let now = decide(&[]).code(0).json_lines();
    assert!(now[0]["ts_ms"].as_u64() > Some(1_600_000_000_000), "by default the kernel's clock is the machine's");
    assert!(!site.data().exists(), "without --data nothing is kept");
    let kept = site.path().join("kept");
    let _ = decide(&["--data", path(&kept)]).code(0);
    let verified = gavel(["verify", "--json", path(&kept.join("kernels/k/ledger"))]).code(0).json();
    assert_eq!(verified["entries"], 3);
    let unknown = decide(&["--kernel", "nobody"]).code(2);
    assert!(unknown.stderr.contains("there is no kernel 'nobody'"), "{}", unknown.stderr);
}

#[test]
fn decide_reads_standard_input_and_goes_on_after_an_unreadable_line() {
    let batch = format!("{{\n{BATCH}");
    let output = Gavel::new(["decide", "--requests", "-"]).stdin(batch).run().code(1);
    let answers = output.json_lines();
    assert_eq!((answers.len(), &answers[0]["line"]), (4, &json!(1)));
    assert!(answers[0]["error"].as_str().unwrap().contains("unexpected end of input"), "{}", answers[0]);
    assert!(output.stderr.contains("3 judged, 1 unreadable"), "{}", output.stderr);
}

#[test]
fn decide_runs_nothing() {
    let site = Site::new(&Config::open());
    let (config, data) = (site.config(), site.data());
    let request = call("r", "write_file", json!({"path": "a.txt", "content": "x"}));
    let args = ["decide", "--config", path(&config), "--requests", "-", "--data", path(&data)];
    let output = Gavel::new(args).stdin(request.to_string()).run().code(0);
    assert_eq!(output.json_lines()[0]["decision"], "ALLOW");
    assert!(!site.workspace().join("a.txt").exists());
}

#[test]
fn info_tells_of_the_build_and_of_a_server() {
    let home = tempfile::tempdir().unwrap();
    let info = |args: &[&str]| Gavel::new(["info"].iter().chain(args)).env("XDG_DATA_HOME", home.path()).run().code(0);
    let version = format!("version            {}", env!("CARGO_PKG_VERSION"));
    let shown = [(path(home.path()), "<home>"), (version.as_str(), "version            <version>")];
    check(
        &info(&[]).stdout,
        &shown,
        &expect![[r#"
        builtin_policies   budget, business-hours, cedar, intent-bound, parameter-schema, path-allow-list, rate-limit, rego, sensitive-data, sequence, two-person
        contract           gavel:policy@0.1.0
        data_dir           <home>/gavel
        name               gavel
        tools              echo, add, read_file, write_file, search
        variants           strict, permissive, evidence-first, dual-channel
        version            <version>
    "#]],
    );
    let build = info(&["--json"]).json();
    assert_eq!((&build["name"], &build["version"]), (&json!("gavel"), &json!(env!("CARGO_PKG_VERSION"))));
    let server = Server::start(&Config::open());
    let status = info(&["--json", "--server", "--url", &server.url]).json();
    assert_eq!((&status["kernel_id"], &status["state"]), (&json!("k"), &json!("IDLE")));
    let readable = info(&["--server", "--url", &server.url]).stdout;
    assert!(readable.contains("kernel_id          k\n") && readable.contains("  entries            0\n"), "{readable}");
}

#[test]
fn validate_checks_configurations_and_requests() {
    let site = Site::new(&Config::of(json!([Config::ruled_kernel("k", &["business-hours"])])));
    let valid = gavel(["validate", "--config", path(&site.config())]).code(0);
    check(
        &valid.stdout,
        &[(path(&site.config()), "<file>")],
        &expect![[r#"
        <file>: valid, 1 kernels with 1 custom rules
    "#]],
    );
    assert!(!site.data().exists(), "checking serves nothing");
    site.configure(&Config::text("kernels: [{id: k, polcy: {}}]"));
    let invalid = gavel(["validate", "--json", "--config", path(&site.config())]).code(1).json();
    assert_eq!(invalid["valid"], false);
    assert!(invalid["message"].as_str().unwrap().contains("unknown key `polcy` in kernels[0]"), "{invalid}");
    let (_folder, request) = file(intent("r").to_string());
    let valid = gavel(["validate", "--json", "--request", path(&request)]).code(0).json();
    assert_eq!(valid["valid"], true);
    let _ = gavel(["validate"]).code(2);
}

/// A server that has decided something, and its bundle in a file.
fn with_a_bundle() -> (Server, PathBuf) {
    let server = Server::start(&Config::open());
    for number in 0..5 {
        let _ = server.submit(&call(&format!("r{number}"), "echo", json!({"text": "x"})));
    }
    let bundle = server.site().path().join("evidence.json");
    let _ = gavel(["evidence", "--url", &server.url, "--out", path(&bundle)]).code(0);
    (server, bundle)
}

#[test]
fn evidence_is_exported_and_verified() {
    let (server, bundle) = with_a_bundle();
    let root = server.evidence()["root_hash"].as_str().unwrap().to_owned();
    let shown = [(path(&bundle), "<file>"), (root.as_str(), "<hash>")];
    let exported = gavel(["evidence", "--url", &server.url, "--out", path(&bundle)]).code(0);
    check(
        &exported.stdout,
        &shown,
        &expect![[r#"
        <file>: 5 entries of kernel k, verified
          root hash  <hash>
    "#]],
    );
    check(
        &gavel(["verify", path(&bundle)]).code(0).stdout,
        &shown,
        &expect![[r#"
        <file>: verified
          entries    5
          kernel id  k
          root hash  <hash>
          not covered: the bundle has no records: it proves that its entries are one chain, not who wrote it, and not that none was cut off at the end
    "#]],
    );
    let mut as_json = gavel(["verify", "--json", path(&bundle)]).code(0).json();
    assert_eq!(as_json["checks"].take()[1]["name"], "chain");
    check(
        &redacted(&as_json, &[]),
        &[],
        &expect![[r#"
        {
          "checks": null,
          "entries": 5,
          "kernel_id": "k",
          "root_hash": "<hash>",
          "subject": "bundle",
          "verified": true
        }"#]],
    );
    let as_json = gavel(["evidence", "--json", "--url", &server.url, "--out", path(&bundle)]).code(0).json();
    assert_eq!((&as_json["entry_count"], &as_json["root_hash"]), (&json!(5), &json!(root)));
    let streamed = gavel(["evidence", "--url", &server.url, "--out", "-"]).code(0).json();
    assert_eq!(streamed["root_hash"], root);
    let names: BTreeSet<_> =
        fs::read_dir(server.site().path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(
        names,
        BTreeSet::from(["data".into(), "evidence.json".into(), "gavel.yaml".into()]),
        "nothing half-written"
    );
}

#[test]
fn verify_names_the_first_bad_entry() {
    let (_server, path_of_bundle) = with_a_bundle();
    let good: Value = serde_json::from_slice(&fs::read(&path_of_bundle).unwrap()).unwrap();
    let told = |change: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(&path_of_bundle, bad.to_string()).unwrap();
        let as_json = gavel(["verify", "--json", path(&path_of_bundle)]).code(1).json();
        assert_eq!(as_json["verified"], false);
        let output = gavel(["verify", path(&path_of_bundle)]).code(1);
        output.stdout.split_once("NOT VERIFIED: ").expect("says so").1.to_owned()
    };
    let intent = told(&|bundle| bundle["ledger_entries"][2]["intent"] = json!("another"));
    assert!(intent.starts_with("entry 2 (request \"r2\"): entry_hash is"), "{intent}");
    let decision = told(&|bundle| bundle["ledger_entries"][0]["decision"] = json!("DENY"));
    assert!(decision.starts_with("entry 0 (request \"r0\")"), "{decision}");
    let removed = told(&|bundle| drop(bundle["ledger_entries"].as_array_mut().unwrap().remove(3)));
    assert!(removed.starts_with("entry 4 (request \"r4\"): expected ledger_seq 3"), "{removed}");
    let swapped = told(&|bundle| bundle["ledger_entries"].as_array_mut().unwrap().swap(1, 2));
    assert!(swapped.starts_with("entry 2 (request \"r2\"): expected ledger_seq 1"), "{swapped}");
    let cut = told(&|bundle| drop(bundle["ledger_entries"].as_array_mut().unwrap().pop()));
    assert!(cut.starts_with("root_hash is"), "{cut}");
    let root = told(&|bundle| bundle["root_hash"] = json!("0".repeat(64)));
    assert!(root.starts_with("root_hash is"), "{root}");
    let count = told(&|bundle| bundle["entry_count"] = json!(6));
    assert!(count.starts_with("entry_count is 6, the chain has 5 entries"), "{count}");
}

#[test]
fn halt_halts_the_kernel_that_is_meant() {
    let kernels = json!([Config::open_kernel("k"), Config::open_kernel("other")]);
    let server = Server::start(&Config::of(kernels));
    let halt = |args: &[&str]| gavel(["halt", "--url", &server.url, "--reason", "enough"].iter().chain(args));
    let halted = halt(&["--kernel", "other"]).code(0);
    assert!(halted.stdout.starts_with("kernel other is halted\n  evidence  "), "{}", halted.stdout);
    assert_eq!(server.get("/status").expect(200)["state"], "IDLE");
    let again = halt(&["--kernel", "other"]).code(2);
    assert!(again.stderr.contains("the server answered 409: kernel 'other' is halted: enough"), "{}", again.stderr);
    assert_eq!(halt(&["--json"]).code(0).json()["kernel_state"], "HALTED");
    let _ = gavel(["halt", "--url", &server.url]).code(2);
}

#[test]
fn key_makes_a_key_and_its_entry() {
    let made = gavel(["key", "--name", "a", "--role", "agent", "--actor", "x"]).code(0);
    let lines: Vec<&str> = made.stdout.lines().collect();
    assert!(
        lines[0].starts_with("gavel_") && lines[1].starts_with("  - {\"name\":\"a\",\"hash\":\"sha256:"),
        "{lines:?}"
    );
    // The entry is YAML that can be pasted as it is.
    let site = Site::new(&Config::text(format!("kernels: [{{id: k}}]\nauth:\n  keys:\n{}\n", lines[1])));
    let _ = gavel(["validate", "--config", path(&site.config())]).code(0);
    let other =
        gavel(["key", "--json", "--name", "a", "--role", "operator", "--role", "auditor", "--kernel", "k"]).code(0);
    let other = other.json();
    assert_ne!(other["key"], lines[0]);
    assert_eq!(other["configuration"]["roles"], json!(["operator", "auditor"]));
    assert_eq!(other["configuration"]["kernels"], json!(["k"]));
    assert!(gavel(["key", "--name", "a", "--role", "agent"]).code(2).stderr.contains("needs --actor"));
    let _ = gavel(["key", "--name", "a", "--role", "king"]).code(2);
}

#[test]
fn the_recorded_scenarios_show_no_difference() {
    let recorded = ["tests/data/kernels/decisions.jsonl", "tests/data/kernels/permits.jsonl"];
    let output = gavel(["conformance"].into_iter().chain(recorded)).code(0);
    assert_eq!(output.stdout.lines().last(), Some("160 scenarios, 2943 steps, 0 differences"));
    let as_json = gavel(["conformance", "--json"].into_iter().chain(recorded)).code(0).json();
    assert_eq!(as_json, json!({"scenarios": 160, "steps": 2943, "differences": 0, "first": null}));
}

#[test]
fn a_difference_is_shown_readably() {
    let recorded = fs::read_to_string(repository().join("tests/data/kernels/decisions.jsonl")).unwrap();
    let mut scenario: Value = serde_json::from_str(recorded.lines().next().unwrap()).unwrap();
    scenario["steps"][1]["receipt"]["decision"] = json!("MAYBE");
    scenario["evidence"]["root_hash"] = json!("0");
    let (_folder, changed) = file(scenario.to_string());
    let output = gavel(["conformance", path(&changed)]).code(1);
    let name = scenario["name"].as_str().unwrap();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], format!("scenario {name}, step 1, receipt.decision"));
    assert_eq!(lines[1], "  recorded  \"MAYBE\"");
    assert!(lines[2].starts_with("  ours      \""), "{lines:?}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("1 scenarios, ") && last.ends_with(" steps, 2 differences"), "{last}");
    let as_json = gavel(["conformance", "--json", path(&changed)]).code(1).json();
    assert_eq!((&as_json["differences"], as_json["first"].is_string()), (&json!(2), true));
}

/// The figures of `gavel demo SCENARIO --json`, without what differs from run to run.
fn demo_figures(scenario: &str) -> serde_json::Value {
    let mut figures = in_time(|| gavel(["demo", scenario, "--json"]).code(0).json());
    for suite in ["workspace", "banking"] {
        let reasons = figures[suite]["reasons"].take();
        assert!(reasons.as_array().unwrap().iter().all(|reason| reason["reason"].is_string()), "{reasons}");
        let figures = figures[suite].as_object_mut().unwrap();
        assert!(figures["evidence"]["root_hash"].is_string() && figures["evidence"]["verified"] == true);
        let entries = figures.remove("evidence").unwrap()["entries"].clone();
        let calls = ["benign_calls", "attack_calls"].map(|of| figures[of].as_u64().unwrap());
        assert_eq!(entries.as_u64().unwrap(), calls.iter().sum::<u64>());
        figures.remove("reasons");
    }
    figures
}

#[test]
fn demo_shows_figures_and_verified_evidence() {
    let bundles = tempfile::tempdir().unwrap();
    let told = in_time(|| gavel(["demo", "--evidence", path(bundles.path())]).code(0));
    for part in ["workspace", "banking", "attack sessions", "stopped before doing harm", "entries, verified; root "] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    assert!(told.stdout.contains("for example send_money {"), "{}", told.stdout);
    for (suite, entries) in [("workspace", 484), ("banking", 225)] {
        let verified = gavel(["verify", "--json", path(&bundles.path().join(format!("{suite}.json")))]).code(0).json();
        assert_eq!(verified["entries"], entries);
    }
    check(
        &redacted(&demo_figures("agentdojo"), &[]),
        &[],
        &expect![[r#"
        {
          "banking": {
            "attack_calls": 192,
            "attack_calls_allowed": 16,
            "attack_calls_denied": 0,
            "attack_calls_escalated": 176,
            "attack_sessions": 144,
            "attack_sessions_stopped": 144,
            "benign_allowed": 30,
            "benign_calls": 33,
            "benign_denied": 0,
            "benign_escalated": 3
          },
          "workspace": {
            "attack_calls": 400,
            "attack_calls_allowed": 122,
            "attack_calls_denied": 0,
            "attack_calls_escalated": 278,
            "attack_sessions": 240,
            "attack_sessions_stopped": 238,
            "benign_allowed": 77,
            "benign_calls": 84,
            "benign_denied": 0,
            "benign_escalated": 7
          }
        }"#]],
    );
}

#[test]
fn demo_of_least_privilege() {
    let figures = demo_figures("least-privilege");
    for (suite, stopped, allowed, denied) in [("banking", 144, 21, 12), ("workspace", 240, 70, 14)] {
        let told = ["attack_sessions_stopped", "benign_allowed", "benign_denied", "benign_escalated"];
        assert_eq!(told.map(|name| figures[suite][name].as_u64().unwrap()), [stopped, allowed, denied, 0], "{suite}");
    }
}

#[test]
fn the_configurations_of_the_demo_are_valid() {
    for scenario in ["agentdojo", "least-privilege"] {
        let (_folder, config) = file(gavel(["demo", scenario, "--show-config"]).code(0).stdout);
        let _ = gavel(["validate", "--config", path(&config)]).code(0);
    }
}

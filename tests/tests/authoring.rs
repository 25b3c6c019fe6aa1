//! Authoring: a policy written, built, tested, looked at, measured and signed by `gavel policy`.
//!
//! What belongs here: the commands as an author runs them, and what they say of input that is not what it should be. The
//! component is the guest that misbehaves as it is told; a project's build command copies it, so no compiler is needed.
//! That the projects which `new` writes build and pass their tests is shown elsewhere, language by language.

use gavel_tests::{Gavel, Output, gavel, in_time, path, repository};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const LANGUAGES: [&str; 6] = ["rust", "c", "cpp", "js", "python", "go"];

/// A manifest that fits the guest; patient, because the machine that runs the tests may be busy.
const MANIFEST: &str = "name: hostile\nversion: 0.1.0\ndescription: Misbehaves as it is told.\nlanguage: rust\n\
    build: ./build\ncomponent: out/hostile.wasm\ntests: tests.yaml\nneeds: {deadline_ms: 5000}\n\
    reasons: [\"tool '*' deletes\", \"never said\"]\n";

const TESTS: &str = r#"
config: {do: deny, reason: tool 'rm' deletes}
cases:
  - {name: denies, request: {tool_call: {name: rm}}, expect: deny, reason: deletes}
  - {name: allows, config: {do: allow}, expect: allow}
  - name: counts
    config: {do: count, key: k, amount: 1, window_ms: 60000, max: 1}
    steps: [{expect: allow}, {expect: deny}, {request: {now: 2026-01-05T10:02:00Z}, expect: allow}]
"#;

fn hostile() -> PathBuf {
    repository().join("tests/data/guests/hostile.wasm")
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("written");
    path
}

/// A project whose build command is this shell script.
fn project_with(build: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "policy.yaml", MANIFEST);
    write(folder.path(), "tests.yaml", TESTS);
    let script = write(folder.path(), "build", format!("#!/bin/sh\nset -eu\n{build}\n"));
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// A project whose build command copies the guest.
fn project() -> TempDir {
    project_with(&format!("test -x \"$GAVEL\"\nmkdir -p out\ncp {} out/hostile.wasm\necho built", path(&hostile())))
}

/// The same, built.
fn built() -> TempDir {
    let project = project();
    let _ = policy(&["build", path(project.path())]).code(0);
    project
}

fn component(project: &TempDir) -> PathBuf {
    project.path().join("out/hostile.wasm")
}

fn policy(args: &[&str]) -> Output {
    gavel(["policy"].iter().chain(args))
}

/// What a command says that could not be carried out.
fn refused(args: &[&str]) -> String {
    policy(args).code(2).stderr
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands = ["new", "build", "componentize", "test", "run", "inspect", "bench", "key", "sign"];
    let help = policy(&["--help"]).code(0).stdout;
    for command in commands {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let help = policy(&[command, "--help"]).code(0).stdout;
        let examples = help.split("Example").nth(1).unwrap_or_else(|| panic!("{command} has no example: {help}"));
        assert!(examples.contains(&format!("gavel policy {command}")), "{help}");
        assert!(help.contains(&format!("Usage: gavel policy {command}")) && help.contains("--json"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command}: a line is too long");
    }
}

// --- new ---

#[test]
fn new_writes_a_complete_project_in_each_language() {
    let folder = tempfile::tempdir().unwrap();
    for language in LANGUAGES {
        let dir = folder.path().join(language);
        let made = policy(&["new", "no-big-deletes", "--lang", language, "--dir", path(&dir), "--json"]).code(0).json();
        let files: Vec<&str> = made["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
        for wanted in ["policy.yaml", "tests.yaml", "build", "wit/policy.wit", "README.md"] {
            assert!(files.contains(&wanted), "{language}: {wanted} of {files:?}");
        }
        for file in &files {
            let text = fs::read_to_string(dir.join(file)).unwrap();
            for old in ["guarded-tools", "guarded_tools", "GuardedTools"] {
                assert!(!text.contains(old) && !file.contains(old), "{language}: {file} says {old}");
            }
            let bits = fs::metadata(dir.join(file)).unwrap().permissions().mode();
            assert_eq!(bits & 0o100 != 0, text.starts_with("#!"), "{language}: {file} has mode {bits:o}");
        }
        let manifest = fs::read_to_string(dir.join("policy.yaml")).unwrap();
        assert!(manifest.contains("name: no-big-deletes") && manifest.contains(&format!("language: {language}")));
        // Complete means: what it holds is read; only building is left.
        let told = refused(&["test", path(&dir)]);
        assert!(told.contains("the project is not built; build it with `gavel policy build"), "{language}: {told}");
    }
}

/// What `new` writes is what is kept under version control, neither more nor less.
#[test]
fn new_writes_every_file_of_the_example() {
    let folder = tempfile::tempdir().unwrap();
    for language in LANGUAGES {
        let dir = folder.path().join(language);
        let made = policy(&["new", "guarded-tools", "--lang", language, "--dir", path(&dir), "--json"]).code(0).json();
        let mut written: Vec<String> = serde_json::from_value(made["files"].clone()).unwrap();
        let example = repository().join("guest-examples").join(language);
        let git = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let kept = std::process::Command::new("git").args(git).current_dir(&example).output().unwrap();
        let mut kept: Vec<String> =
            String::from_utf8(kept.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect();
        written.sort();
        kept.sort();
        assert_eq!(written, kept, "{language}: list its files in host/src/policies/templates.rs");
        for file in &written {
            let [new, old] = [dir.join(file), example.join(file)].map(|file| (fs::read(&file).unwrap(), file));
            assert!(new.0 == old.0, "{language}: {file} differs");
            let [new, old] = [new.1, old.1].map(|file| fs::metadata(file).unwrap().permissions().mode() & 0o100);
            assert_eq!(new, old, "{language}: {file} is a program or is not");
        }
    }
}

#[test]
fn new_says_what_to_do_next() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("p");
    let told = policy(&["new", "no-deletes", "--lang", "rust", "--dir", path(&dir)]).code(0).stdout;
    let next = format!("next:\n  cd {}\n  gavel policy build\n  gavel policy test\n", dir.display());
    assert!(told.ends_with(&next), "{told}");
    // By default the folder has the policy's name.
    let line = format!("gavel policy new no-deletes --lang c && test -x {}/no-deletes/build", folder.path().display());
    let _ = Gavel::shell(&line, folder.path()).run().code(0);
}

#[test]
fn new_writes_over_nothing_and_takes_no_odd_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "mine.txt", "mine");
    let told = refused(&["new", "no-deletes", "--lang", "rust", "--dir", path(folder.path())]);
    assert!(told.contains("the folder is not empty; name another one with --dir DIR"), "{told}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    for name in ["No-Deletes", "no_deletes", "../escape", "a/b", "-x", "", "2fa"] {
        let told = refused(&["new", "--lang", "rust", "--dir", path(&folder.path().join("new")), "--", name]);
        assert!(told.contains("is no name of a policy: use 1 to 64 lower-case letters"), "{name}: {told}");
    }
    assert!(!folder.path().join("new").exists());
    let told = refused(&["new", "x", "--lang", "cobol"]);
    assert!(told.contains("[possible values: rust, c, cpp, js, python, go]"), "{told}");
}

// --- build ---

#[test]
fn build_makes_a_package_of_what_the_build_command_made() {
    let project = project();
    let told = policy(&["build", path(project.path()), "--json"]).code(0);
    assert!(told.stderr.contains("\nbuilt\n"), "the build's own output is passed on: {}", told.stderr);
    let built = told.json();
    assert_eq!((&built["name"], &built["version"], &built["tests"]), (&json!("hostile"), &json!("0.1.0"), &json!(3)));
    assert_eq!(built["exports"], json!(["evaluate", "describe"]));
    assert!(built["imports"].as_array().unwrap().contains(&json!("gavel:policy/counters@0.1.0")), "{built}");
    let about = policy(&["inspect", path(&component(&project)), "--json"]).code(0).json();
    assert_eq!((&about["digest"], &about["bytes"]), (&built["digest"], &built["bytes"]));
    assert_eq!(about["manifest"]["needs"], json!({"deadline_ms": 5000}));
    assert_eq!(about["tests"], 3);
    // Building again gives the same bytes, and the package alone is tested like the project.
    let again = policy(&["build", path(project.path()), "--json"]).code(0).json();
    assert_eq!(again["digest"], built["digest"]);
    let text = policy(&["build", path(project.path())]).code(0).stdout;
    assert!(text.starts_with("hostile 0.1.0 (rust)  in ") && text.contains("imports  gavel:policy/"), "{text}");
    let _ = policy(&["test", path(&component(&project))]).code(0);
}

#[test]
fn a_build_that_fails_says_why() {
    let missing = project_with("echo 'the C compiler is missing; to install it, run: apt install clang' >&2\nexit 3");
    let told = policy(&["--json", "build", path(missing.path())]).code(2).stderr;
    let told: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let why = told["error"].as_str().unwrap();
    assert!(why.starts_with("hostile: tools are missing that build a policy in rust:"), "{why}");
    assert!(why.contains("to install it, run: apt install clang"), "{why}");
    for (build, why) in [
        ("echo 'main.c:3: error' >&2; exit 7", "`./build` failed with exit code 7; its last words:\n  main.c:3: error"),
        ("true", "`./build` ended well but did not make it: `component` in policy.yaml must name what the build makes"),
        ("mkdir -p out; echo text > out/hostile.wasm", "not WebAssembly: the 5 bytes do not begin with \\0asm"),
        (
            "mkdir -p out; printf '\\0asm\\1\\0\\0\\0' > out/hostile.wasm",
            "a core WebAssembly module, not a component: make one of it with `gavel policy componentize FILE`",
        ),
    ] {
        let told = refused(&["build", path(project_with(build).path())]);
        assert!(told.contains(why), "{build}: {told}");
    }
}

#[test]
fn a_project_that_is_not_what_it_says_is_not_built() {
    let folder = tempfile::tempdir().unwrap();
    let told = refused(&["build", path(folder.path())]);
    assert!(told.contains("no policy project, there is no policy.yaml; write one with `gavel policy new"), "{told}");
    for (manifest, tests, why) in [
        (
            MANIFEST.replace("needs:", "neds:"),
            TESTS,
            "policy.yaml: unknown key `neds`; the nearest known key is `needs`",
        ),
        (MANIFEST.replace("{deadline_ms: 5000}", "{files: 1}"), TESTS, "policy.yaml: unknown key `files` in needs"),
        (MANIFEST.replace("tests.yaml", "test.yaml"), TESTS, "test.yaml: No such file"),
        (MANIFEST.replace("0.1.0", "0.2.0"), TESTS, "policy.yaml says version `0.2.0`, describe() says `0.1.0`"),
        (MANIFEST.replace("name: hostile", "name: gentle"), TESTS, "policy.yaml says name `gentle`, describe() says"),
        (MANIFEST.to_owned(), "cases: [{name: a, expect: perhaps}]", "tests.yaml: cases[0].expect: unknown variant"),
        (MANIFEST.to_owned(), "cases: []", "tests.yaml: `cases` is empty"),
    ] {
        let project = project();
        write(project.path(), "policy.yaml", manifest);
        write(project.path(), "tests.yaml", tests);
        let told = refused(&["build", path(project.path())]);
        assert!(told.contains(why), "{why}: {told}");
        // What lies there then is the build's own: never a package that was not loaded.
        let made = component(&project);
        assert!(!made.exists() || fs::read(made).unwrap() == fs::read(hostile()).unwrap(), "{why}");
    }
}

#[test]
fn componentize_takes_core_modules_only() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.wasm");
    let componentize = |core: &Path| refused(&["componentize", path(core), "-o", path(&out)]);
    let told = componentize(&hostile());
    assert!(told.contains("hostile.wasm: ") && told.contains("component"), "{told}");
    let told = componentize(&write(folder.path(), "empty.wasm", b"\0asm\x01\0\0\0"));
    assert!(told.contains("empty.wasm: the module exports no memory"), "{told}");
    assert!(componentize(&write(folder.path(), "text.wasm", "text")).contains("text.wasm: "));
    assert!(componentize(Path::new("/nowhere.wasm")).contains("/nowhere.wasm: No such file"));
    assert!(!out.exists());
}

// --- test ---

#[test]
fn test_reports_cases_verdicts_and_reasons() {
    let project = built();
    let report = policy(&["test", path(project.path()), "--json"]).code(0).json();
    assert_eq!((&report["passed"], &report["failed"]), (&json!(3), &json!(0)), "{report}");
    let coverage = &report["coverage"];
    assert_eq!(coverage["verdicts"], json!({"allow": 3, "deny": 2, "abstain": 0, "escalate": 0}));
    let reasons = json!([{"reason": "tool '*' deletes", "answers": 1}, {"reason": "never said", "answers": 0}]);
    assert_eq!(coverage["reasons"], reasons);
    assert_eq!(coverage["unlisted"], json!(["2 is more than 1"]));
    let text = policy(&["test", path(project.path())]).code(0).stdout;
    for line in
        ["  ok    denies  ", "3 passed, 0 failed: all passed (", "reasons: 1 of 2 reached", "  never: never said"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn a_failing_test_shows_what_was_answered_and_the_guests_own_words() {
    let tests = r#"
cases:
  - {name: panics, config: {do: panic}, expect: allow}
  - {name: says otherwise, config: {do: deny, reason: "because\u001b[31m"}, expect: deny, reason: for fun}
  - {name: takes no list, config: [], expect: allow}
  - {name: second, config: {do: count, key: k, amount: 1, window_ms: 9, max: 1}, steps: [{expect: allow}, {expect: allow}]}
  - {name: is wrong on purpose, config: {do: panic}, expect: trap}
"#;
    let project = built();
    write(project.path(), "other.yaml", tests);
    let told =
        policy(&["test", path(project.path()), "--tests", path(&project.path().join("other.yaml"))]).code(1).stdout;
    for line in [
        "  FAIL  panics  ",
        "          expected  allow\n          got       trap: ",
        "          error  ",
        "the guest's own words",
        "          expected  deny, the reason containing: for fun\n          got       deny: because·[31m",
        "[] is not of type \"object\"",
        "          expected (step 2)  allow\n          got (step 2)       deny: 2 is more than 1",
        "  ok    is wrong on purpose  ",
        "1 passed, 4 failed: NOT PASSED (",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

#[test]
fn every_limit_can_be_expected() {
    let tests = r#"
cases:
  - {name: memory, config: {do: allocate}, expect: memory, reason: max_memory_bytes}
  - {name: stack, config: {do: recurse}, expect: stack}
  - {name: output, config: {do: answer, bytes: 5000}, expect: output}
  - {name: trap, config: {do: trap}, expect: trap}
  - {name: undecodable, config: {do: not-utf8}, expect: undecodable}
  - {name: deadline, config: {do: loop}, expect: deadline}
"#;
    let project = built();
    let tests = write(project.path(), "limits.yaml", tests);
    let manifest = MANIFEST.replace("5000", "1500");
    write(project.path(), "policy.yaml", manifest);
    let report = policy(&["test", path(project.path()), "--tests", path(&tests), "--json"]).code(0).json();
    assert_eq!(report["passed"], 6, "{report}");
    let retried = report["cases"].as_array().unwrap().iter().any(|case| case["retried"] == true);
    assert!(!retried, "a deadline that is expected is no noise: {report}");
}

#[test]
fn what_cannot_be_tested_is_said() {
    let none = refused(&["test", path(&hostile())]);
    assert!(
        none.contains("it ships no tests; name them in `tests` of its policy.yaml, or give --tests FILE"),
        "{none}"
    );
    let builtin = refused(&["test", "builtin:nothing"]);
    assert!(builtin.contains("there is no such builtin (there are: budget, business-hours, "), "{builtin}");
    assert!(refused(&["test", "/nowhere.wasm"]).contains("/nowhere.wasm: No such file"));
}

// --- run ---

#[test]
fn run_asks_about_one_request() {
    let run = |request: &str, more: &[&str]| {
        in_time(|| {
            let args = ["policy", "run", "builtin:business-hours", "--request", "-"];
            Gavel::new(args.iter().chain(more)).stdin(request).run()
        })
    };
    let open = run("", &[]).code(0);
    assert!(open.stdout.starts_with("allow\n"), "{}", open.stdout);
    let late = run("{now: 2026-01-05T20:00:00Z}", &["--json"]).code(1).json();
    assert_eq!((&late["verdict"], &late["reason"]), (&json!("deny"), &json!("Outside business hours")));
    let moved = run("{now: 2026-01-05T20:00:00Z}", &["--now", "2026-01-05T10:00:00Z", "--json"]).code(0).json();
    assert_eq!((&moved["verdict"], &moved["failed"]), (&json!("allow"), &json!(false)), "{moved}");
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "config.yaml", "from: '20:00'\nto: '21:00'\n");
    let _ = run("{\"now\": \"2026-01-05T20:00:00Z\"}", &["--config", path(&config)]).code(0);
    for (request, why) in [
        ("{tool: x}", "-: unknown key `tool`; the nearest known key is `now`"),
        ("{now: soon}", "-: `soon` is no time: write it as 2026-01-05T10:00:00Z"),
        ("[", "-: "),
    ] {
        let told = run(request, &[]).code(2).stderr;
        assert!(told.contains(why), "{request}: {told}");
    }
    write(folder.path(), "config.yaml", "from: noon\n");
    let told = run("", &["--config", path(&config)]).code(2).stderr;
    assert!(told.contains("policy business-hours: configuration at /from: ") && told.contains("--config"), "{told}");
}

#[test]
fn run_shows_what_the_guest_logged() {
    let project = built();
    let config = write(project.path(), "config.json", r#"{"do": "panic"}"#);
    let request = write(project.path(), "request.json", "{}");
    let run = ["run", path(project.path()), "--request", path(&request), "--config", path(&config)];
    let told = policy(&run).code(1).stdout;
    assert!(told.starts_with("trap  trap: ") && told.contains("the guest's own words"), "{told}");
    write(project.path(), "config.json", r#"{"do": "log", "lines": 100}"#);
    let told = policy(&run).code(0).stdout;
    assert!(told.contains("(40 earlier lines are not shown)") && told.contains("line 63\n"), "{told}");
    assert!(told.contains("(36 more lines were dropped, max_log_lines)"), "{told}");
}

// --- inspect, and files that are no policies ---

#[test]
fn inspect_shows_what_a_policy_is() {
    let about = policy(&["inspect", "builtin:business-hours", "--json"]).code(0).json();
    assert_eq!(
        (&about["name"], &about["loads"], &about["why_not"]),
        (&json!("business-hours"), &json!(true), &Value::Null)
    );
    assert_eq!(about["exports"], json!(["evaluate", "describe"]));
    assert!(about["config_schema"]["properties"]["holidays"].is_object(), "{about}");
    assert!(about["digest"].as_str().unwrap().starts_with("sha256:") && about["signatures"] == json!([]), "{about}");
    let text = policy(&["inspect", "builtin:business-hours"]).code(0).stdout;
    for line in
        ["builtin:business-hours\n", "  name         business-hours\n", "  signed       none\n", "  loads        yes\n"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
}

/// The guest with one name replaced by another of the same length.
fn renamed(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "a name's length stands before it");
    let mut bytes = fs::read(hostile()).expect("the guest is built");
    for at in 0..bytes.len() - from.len() {
        if &bytes[at..at + from.len()] == from.as_bytes() {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}

#[test]
fn what_does_not_load_says_what_would_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    for (what, bytes, why) in [
        (
            "another version",
            renamed("gavel:policy/log@0.1.0", "gavel:policy/log@0.2.0"),
            "is built against gavel:policy@0.2.0, this sandbox speaks gavel:policy@0.1.0: build it against that contract",
        ),
        ("another system", renamed("gavel:policy/log@0.1.0", "wasi:random/seed@0.2.6"), "a policy has no WASI"),
        (
            "another world",
            renamed("evaluate", "evaluata"),
            "does not implement world gavel:policy/policy@0.1.0: it exports",
        ),
    ] {
        let file = write(folder.path(), "p.wasm", bytes);
        let about = policy(&["inspect", path(&file), "--json"]).code(1).json();
        let told = about["why_not"].as_str().unwrap();
        assert!(told.contains(why), "{what}: {told}");
        let text = policy(&["inspect", path(&file)]).code(1).stdout;
        assert!(text.contains("loads        NO: ") && text.contains(why), "{what}: {text}");
        let request = write(folder.path(), "r.json", "{}");
        let told = refused(&["run", path(&file), "--request", path(&request)]);
        assert!(told.contains(why), "{what}: {told}");
    }
}

#[test]
fn what_is_no_package_says_what_would_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let signed = {
        let project = built();
        let key = project.path().join("key.pem");
        let _ = policy(&["key", "--out", path(&key)]).code(0);
        let _ = policy(&["sign", path(&component(&project)), "--key", path(&key)]).code(0);
        fs::read(component(&project)).unwrap()
    };
    let late = [&signed[..], b"\0\x05\x04late"].concat();
    for (what, bytes, why) in [
        ("empty", Vec::new(), "not WebAssembly: the 0 bytes do not begin with \\0asm"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "make one of it with `gavel policy componentize FILE`"),
        ("half a file", signed[..signed.len() - 5].to_vec(), "truncated: the section at byte "),
        ("unsigned content", late, "a section `late` at byte "),
    ] {
        let file = write(folder.path(), "p.wasm", bytes);
        for command in ["inspect", "test", "bench"] {
            let told = refused(&[command, path(&file)]);
            assert!(told.contains(why), "{what}: {command}: {told}");
        }
    }
}

// --- sign ---

#[test]
fn a_signature_is_added_and_the_digest_stays() {
    let project = built();
    let file = component(&project);
    let before = policy(&["inspect", path(&file), "--json"]).code(0).json();
    let key = |name: &str| {
        let file = project.path().join(name);
        let made = policy(&["key", "--out", path(&file), "--json"]).code(0).json();
        (file, made["key"].as_str().unwrap().to_owned())
    };
    let ((mine, public), (_, other)) = (key("mine.pem"), key("other.pem"));
    assert_eq!(fs::metadata(&mine).unwrap().permissions().mode() & 0o777, 0o600);
    let unsigned = policy(&["inspect", path(&file), "--key", &public]).code(1).stdout;
    assert!(
        unsigned.contains("NO: it is not signed: sign it with `gavel policy sign FILE --key KEYFILE`"),
        "{unsigned}"
    );
    let signed = policy(&["sign", path(&file), "--key", path(&mine), "--json"]).code(0).json();
    assert_eq!((&signed["digest"], &signed["key"]), (&before["digest"], &json!(public)));
    let again = policy(&["sign", path(&file), "--key", path(&mine), "--json"]).code(0).json();
    assert_eq!(again["signatures"], 1, "in the place of the first");
    let about = policy(&["inspect", path(&file), "--key", &other, "--key", &public, "--json"]).code(0).json();
    assert_eq!(about["signatures"], json!([{"key": public, "valid": true}]));
    assert_eq!((&about["digest"], &about["tests"]), (&before["digest"], &json!(3)));
    let strange = policy(&["inspect", path(&file), "--key", &other]).code(1).stdout;
    assert!(strange.contains(&format!("NO: it is signed by {public}, by none of the given keys")), "{strange}");
    let _ = policy(&["test", path(&file)]).code(0);
}

#[test]
fn a_signature_of_another_content_does_not_hold() {
    let project = built();
    let (file, key) = (component(&project), project.path().join("key.pem"));
    let public = policy(&["key", "--out", path(&key), "--json"]).code(0).json()["key"].as_str().unwrap().to_owned();
    let _ = policy(&["sign", path(&file), "--key", path(&key)]).code(0);
    let mut bytes = fs::read(&file).unwrap();
    let word = b"Misbehaves";
    let at = bytes.windows(word.len()).rposition(|bytes| bytes == word).unwrap();
    bytes[at] = b'D';
    fs::write(&file, bytes).unwrap();
    let told = policy(&["inspect", path(&file), "--key", &public]).code(1).stdout;
    assert!(told.contains("NOT VALID: it is of another content"), "{told}");
    assert!(told.contains("the file was changed after it was signed, sign it again"), "{told}");
}

#[test]
fn keys_are_private_and_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let (key, text) = (folder.path().join("key.pem"), write(folder.path(), "text.pem", "no key"));
    let made = policy(&["key", "--out", path(&key)]).code(0);
    assert!(made.stdout.starts_with("signatures: {keys: {key: \"ed25519:"), "{}", made.stdout);
    assert!(refused(&["key", "--out", path(&key)]).contains("key.pem: File exists"));
    let sign = |key: &Path| refused(&["sign", path(&hostile()), "--key", path(key)]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(sign(&key).contains("others may read this private key (mode 640): make it yours alone with `chmod 600 "));
    fs::set_permissions(&text, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(sign(&text).contains("text.pem: no Ed25519 private key as PKCS#8 in PEM"));
    let told = refused(&["inspect", "builtin:business-hours", "--key", "ed25519:00"]);
    assert!(told.contains("`ed25519:00` is no public key: it is written ed25519: and 64 hex digits"), "{told}");
}

// --- bench ---

#[test]
fn bench_measures_beside_a_reference() {
    let project = built();
    let told = policy(&["bench", path(project.path()), "--seconds", "0.2", "--json"]).code(0).json();
    for costs in [&told["costs"], &told["reference"]["costs"]] {
        for name in ["fresh_p50_us", "fresh_p99_us", "warm_p50_us", "warm_p99_us", "compile_us", "load_precompiled_us"]
        {
            assert!(costs[name].as_f64().unwrap() > 0.0, "{name}: {costs}");
        }
        assert!(
            costs["decisions"].as_u64().unwrap() >= 20 && costs["memory_bytes"].as_u64().unwrap() >= 65_536,
            "{costs}"
        );
        assert!(costs["fresh_p50_us"].as_f64() <= costs["fresh_p99_us"].as_f64(), "{costs}");
    }
    // What is asked is the first of its tests.
    assert_eq!(told["answer"]["reason"], "tool 'rm' deletes", "{told}");
    let text = policy(&["bench", "builtin:business-hours", "--seconds", "0.1"]).code(0).stdout;
    assert!(text.contains("  fresh p50 ") && text.contains("business-hours    ratio"), "{text}");
    assert!(refused(&["bench", "builtin:business-hours", "--seconds", "0"]).contains("give more than 0"));
    let told = refused(&["bench", path(&hostile())]);
    assert!(told.contains("(give one with --config FILE)"), "{told}");
}

// --- the documentation ---

#[test]
fn the_commands_of_the_documentation_work() {
    let document = fs::read_to_string(repository().join("docs/policies.md")).unwrap();
    let (_, block) = document.split_once("### Ask, look, measure").unwrap();
    let (_, block) = block.split_once("```sh\n").unwrap();
    let commands: Vec<&str> = block.split("```").next().unwrap().lines().collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        let _ = in_time(|| Gavel::shell(command, repository()).run()).code(0);
    }
}

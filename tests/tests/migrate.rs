//! Migration: `gavel migrate` on an installation of the older daemon (`tests/data/legacy`), by the real binary.
//!
//! What belongs here: what the commands write, refuse and report, and that every scaffold builds with the toolchains of
//! this machine. Where a language's toolchain is missing and cannot be had, its scaffolds are written and not built, and
//! a line says so. What the readers make of single texts is tested where they are.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]
#![allow(clippy::print_stderr, reason = "a toolchain that is missing is told")]

use gavel_tests::{Output, gavel, gavel_path, path, repository, scratch};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use tempfile::TempDir;

fn legacy() -> PathBuf {
    repository().join("tests/data/legacy")
}

fn migrate(args: &[&str]) -> Output {
    gavel(["migrate"].iter().chain(args))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Every file below a folder with its content.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(tree(&entry.path()));
        } else {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn every_command_has_help_with_an_example() {
    let help = migrate(&["--help"]).code(0).stdout;
    for command in ["plugins", "state", "report"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let help = migrate(&[command, "--help"]).code(0).stdout;
        let examples = help.split("Example").nth(1).unwrap_or_else(|| panic!("{command} has no example: {help}"));
        assert!(examples.contains(&format!("gavel migrate {command}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command}: a line is too long");
    }
}

// --- plugins ---

#[test]
fn plugins_writes_a_scaffold_for_each_handler() {
    let folder = folder();
    let (handlers, out) = (legacy().join("commands"), folder.path().join("out"));
    let args = ["plugins", "--json", "--handlers-dir", path(&handlers), "--output-dir", path(&out)];
    let planned = migrate(&[&args[..], &["--dry-run"]].concat()).code(0).json();
    assert!(!out.exists(), "a dry run writes nothing");
    let made = migrate(&args).code(0).json();
    assert_eq!((&planned["written"], &made["written"]), (&json!(false), &json!(true)));
    assert_eq!(planned["plugins"], made["plugins"]);
    let names: Vec<&str> = made["plugins"].as_array().unwrap().iter().map(|p| p["plugin"].as_str().unwrap()).collect();
    assert_eq!(names, ["compositions-plugin", "log-plugin", "spawn-agent-plugin"]);
    let events = |at: usize| -> Vec<&str> {
        let commands = made["plugins"][at]["commands"].as_array().unwrap();
        commands.iter().map(|command| command["event"].as_str().unwrap()).collect()
    };
    assert_eq!(events(0), ["legacy:get_compositions", "legacy:compose_prompt", "system:health"]);
    assert_eq!((events(1), events(2)), (vec!["legacy:log"], vec!["agent:spawn"]));
    assert_eq!(made["passed_over"].as_array().unwrap().len(), 1, "{:#}", made["passed_over"]);
    for plugin in made["plugins"].as_array().unwrap() {
        for file in plugin["files"].as_array().unwrap() {
            let file = Path::new(plugin["folder"].as_str().unwrap()).join(file.as_str().unwrap());
            let text = fs::read_to_string(&file).unwrap();
            let bits = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(bits & 0o100 != 0, text.starts_with("#!"), "{}", file.display());
        }
    }
    let handlers = fs::read_to_string(out.join("spawn-agent-plugin/src/handlers.rs")).unwrap();
    assert!(handlers.contains("It said of itself: Starts an agent with a profile and a task."), "{handlers}");
    assert!(handlers.contains("It read of the parameters: profile_name, task, context, model."), "{handlers}");
}

#[test]
fn plugins_overwrites_nothing() {
    let folder = folder();
    fs::create_dir(folder.path().join("notes-add-plugin")).unwrap();
    fs::write(folder.path().join("notes-add-plugin/mine"), "work").unwrap();
    let out = path(folder.path());
    let named = ["plugins", "--command", "SPAWN_AGENT", "--command", "notes:add", "--output-dir", out];
    let why = migrate(&named).code(2).stderr;
    assert!(why.contains("notes-add-plugin: the folder is not empty; nothing was written"), "{why}");
    assert_eq!(tree(folder.path()).len(), 1, "not even the other one was written");
}

#[test]
fn plugins_refuses_what_names_nothing() {
    let folder = folder();
    let out = path(folder.path());
    for (args, why) in [
        (&["--command", "a b"][..], "the name of neither a command nor an event"),
        (&["--command", "EVENT"], "whichever event"),
        (&["--handlers-dir", "/no/such/folder"], "/no/such/folder"),
        (&["--handlers-dir", out], "no handler was found"),
        (&[], "--handlers-dir"),
    ] {
        let told = migrate(&[&["plugins", "--output-dir", out], args].concat()).code(2).stderr;
        assert!(told.contains(why), "{args:?}: {told}");
    }
    assert!(tree(folder.path()).is_empty());
}

/// The component begins so; a core module has 01 00 00 00 in the second half.
const COMPONENT: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];

/// The scaffolds of every handler, and one that only a name asks for.
fn scaffolds(language: &str, folder: &Path) -> Vec<PathBuf> {
    let handlers = legacy().join("commands");
    let args = ["plugins", "--json", "--language", language, "--output-dir", path(folder)];
    let all = migrate(&[&args[..], &["--handlers-dir", path(&handlers)]].concat()).code(0).json();
    let one = migrate(&[&args[..], &["--command", "notes:add"]].concat()).code(0).json();
    let both = [all, one];
    let plugins = both.iter().flat_map(|made| made["plugins"].as_array().unwrap());
    plugins.map(|plugin| plugin["folder"].as_str().unwrap().into()).collect()
}

/// Build a scaffold by its own command; the component has the plugin's exports and Gavel's interfaces alone.
fn build(scaffold: &Path, environment: &[(String, String)]) {
    let mut command = Command::new("./build");
    command.current_dir(scaffold).env("GAVEL", gavel_path()).envs(environment.iter().cloned());
    let done = command.output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{}: {told}", scaffold.display());
    assert!(!told.contains("warning: unused"), "{told}");
    let name = scaffold.file_name().unwrap().to_string_lossy().into_owned();
    let component = fs::read(scaffold.join(format!("{name}.wasm"))).unwrap();
    assert!(component.starts_with(&COMPONENT), "{name}");
    let has = |text: &str| component.windows(text.len()).any(|part| part == text.as_bytes());
    for export in ["describe", "startup", "pre-event", "handle-event", "hear-event", "post-event", "shutdown"] {
        assert!(has(export), "{name} does not export {export}");
    }
    assert!(has("gavel:plugin/types@0.1.0") && has(&name), "{name}");
}

/// What building Rust for wasm32 needs: nothing where the target is installed, else what the guests are built by.
fn rust_environment() -> Option<Vec<(String, String)>> {
    let target = ["--print", "target-libdir", "--target", "wasm32-unknown-unknown"];
    let libraries = Command::new("rustc").args(target).output().ok()?;
    let shared = ("CARGO_TARGET_DIR".to_owned(), scratch().join("scaffolds").display().to_string());
    if Path::new(String::from_utf8_lossy(&libraries.stdout).trim()).is_dir() {
        return Some(vec![shared]);
    }
    let env = Command::new(repository().join("guest-policies/build")).arg("env").output().ok()?;
    let text = String::from_utf8_lossy(&env.stdout).into_owned();
    let assignments = text.lines().filter_map(|line| line.split_once('='));
    let mut found: Vec<_> =
        assignments.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect();
    found.push(shared);
    env.status.success().then_some(found)
}

#[test]
fn every_scaffold_in_rust_builds() {
    let folder = folder();
    let scaffolds = scaffolds("rust", folder.path());
    assert_eq!(scaffolds.len(), 4);
    let Some(environment) = rust_environment() else {
        eprintln!("NOT TESTED: that scaffolds in Rust build, because there is no toolchain for wasm32 here");
        return;
    };
    for scaffold in &scaffolds {
        build(scaffold, &environment);
    }
}

/// The packages that the JavaScript scaffolds pin: those of an earlier build of the examples, else installed.
fn packages(scaffold: &Path) -> Option<PathBuf> {
    let kept = scratch().join("scaffold-packages");
    let modules = kept.join("node_modules");
    if !modules.join(".bin/componentize-qjs").exists() {
        fs::create_dir_all(&kept).unwrap();
        for file in ["package.json", "package-lock.json"] {
            fs::copy(scaffold.join(file), kept.join(file)).unwrap();
        }
        let install = ["install", "--no-audit", "--no-fund"];
        let installed = Command::new("npm").args(install).current_dir(&kept).output().ok()?;
        installed.status.success().then_some(())?;
    }
    Some(modules)
}

#[test]
fn every_scaffold_in_javascript_builds() {
    let folder = folder();
    let scaffolds = scaffolds("javascript", folder.path());
    assert_eq!(scaffolds.len(), 4);
    let Some(modules) = packages(&scaffolds[0]) else {
        eprintln!("NOT TESTED: that scaffolds in JavaScript build, because their packages cannot be installed here");
        return;
    };
    for scaffold in &scaffolds {
        std::os::unix::fs::symlink(&modules, scaffold.join("node_modules")).unwrap();
        build(scaffold, &[]);
    }
}

// --- state ---

#[test]
fn state_says_first_and_writes_when_told_to() {
    let data = folder();
    let from = legacy().join("var/state");
    let before = tree(&from);
    let args = ["state", "--json", "--from", path(&from), "--data", path(data.path())];
    let planned = migrate(&args).code(0).json();
    assert_eq!((&planned["new"], &planned["same"], &planned["conflicts"]), (&json!(6), &json!(0), &json!(0)));
    assert_eq!((&planned["applied"], planned["problems"].as_array().unwrap().len()), (&json!(false), 0));
    assert!(planned["passed_over"][0]["file"].as_str().unwrap().ends_with("identities.json"), "{planned:#}");
    assert!(tree(data.path()).is_empty(), "a dry run writes nothing");

    let apply = [&args[..], &["--apply"]].concat();
    let first = migrate(&apply).code(0).json();
    assert_eq!(first["result"], json!({"written": 6, "overwritten": 0, "same": 0, "conflicts": 0, "verified": 6}));
    let second = migrate(&apply).code(0).json();
    assert_eq!(second["result"], json!({"written": 0, "overwritten": 0, "same": 6, "conflicts": 0, "verified": 6}));
    assert_eq!(migrate(&args).code(0).json()["same"], json!(6));
    assert_eq!(tree(&from), before, "the older daemon's files stay as they are");
}

#[test]
fn state_keeps_what_keys_have_now() {
    let (data, older) = (folder(), folder());
    let target = data.path().join("state.redb");
    let shared = older.path().join("shared_state.json");
    fs::write(&shared, r#"{"a": 1, "b": 2}"#).unwrap();
    let args = ["state", "--json", "--from", path(older.path()), "--to", path(&target)];
    let apply = [&args[..], &["--apply"]].concat();
    let _ = migrate(&apply).code(0);
    fs::write(&shared, r#"{"a": 1.0, "b": 2, "c": 3}"#).unwrap();
    let planned = migrate(&args).code(1).json();
    assert_eq!((&planned["new"], &planned["same"], &planned["conflicts"]), (&json!(1), &json!(1), &json!(1)));
    let applied = migrate(&apply).code(1).json();
    assert_eq!((&applied["result"]["written"], &applied["conflicts"][0]["key"]), (&json!(1), &json!("a")));
    let over = migrate(&[&apply[..], &["--overwrite"]].concat()).code(0).json();
    assert_eq!((&over["result"]["overwritten"], &over["result"]["verified"]), (&json!(1), &json!(3)));
    let text = migrate(&args[..1].iter().chain(&args[2..]).copied().collect::<Vec<_>>()).code(0).stdout;
    assert!(text.contains("0 new, 3 there already, 0 with another value"), "{text}");
}

#[test]
fn state_writes_nothing_when_a_file_cannot_be_read() {
    let (data, older) = (folder(), folder());
    fs::create_dir(older.path().join("sessions")).unwrap();
    fs::write(older.path().join("sessions/good.json"), "{}").unwrap();
    fs::write(older.path().join("sessions/bad.json"), r#"{"cost": NaN}"#).unwrap();
    let args = ["state", "--from", path(older.path()), "--data", path(data.path())];
    let planned = migrate(&args).code(1);
    assert!(planned.stderr.contains("bad.json: unexpected 'N'"), "{planned:?}");
    assert!(planned.stdout.contains("nothing can be before 1 problems are solved"), "{planned:?}");
    let refused = migrate(&[&args[..], &["--apply"]].concat()).code(2).stderr;
    assert!(refused.contains("nothing was written"), "{refused}");
    assert!(tree(data.path()).is_empty());
}

#[test]
fn state_tells_what_cannot_be() {
    let (older, data) = (folder(), folder());
    let (from, to) = (path(older.path()), data.path().join("state.redb"));
    assert!(migrate(&["state", "--from", from, "--to", path(&to)]).code(2).stderr.contains("neither sessions/"));
    assert!(migrate(&["state", "--from", from]).code(2).stderr.contains("--data"));
    fs::write(older.path().join("shared_state.json"), r#"{"key": "value"}"#).unwrap();
    let told = migrate(&["state", "--from", from, "--to", path(&to), "--value-bytes-max", "3"]).code(1).stderr;
    assert!(told.contains("the value of 'key' has 7 bytes, more than 3 (--value-bytes-max)"), "{told}");
    fs::write(&to, "no state").unwrap();
    let told = migrate(&["state", "--from", from, "--to", path(&to), "--apply"]).code(2).stderr;
    assert!(told.contains("the state cannot be opened"), "{told}");
    assert_eq!(fs::read(&to).unwrap(), b"no state");
}

/// A kernel that lets nobody on the bus change state.
fn closed_kernel() -> Value {
    json!({"id": "main", "policy": {"allowed_actors": ["*"], "allowed_tools": ["echo"], "require_tool_call": false}})
}

#[test]
fn state_asks_the_kernel_that_the_configuration_names() {
    let folder = folder();
    let (data, config) = (folder.path().join("data"), folder.path().join("gavel.yaml"));
    let file = json!({"kernels": [closed_kernel()], "bus": {"kernel": "main"}});
    fs::write(&config, file.to_string()).unwrap();
    let from = legacy().join("var/state");
    let args = ["state", "--from", path(&from), "--data", path(&data), "--apply"];
    let told = migrate(&[&args[..], &["--config", path(&config)]].concat()).code(2).stderr;
    assert!(told.contains("bus.state"), "{told}");
    let told = migrate(&args).code(2).stderr;
    assert!(told.contains("--config FILE"), "its kernels are other ones: {told}");
    let without = folder.path().join("without.yaml");
    fs::write(&without, json!({"kernels": [closed_kernel()]}).to_string()).unwrap();
    let told = migrate(&[&args[..], &["--config", path(&without)]].concat()).code(2).stderr;
    assert!(told.contains("there is no section `bus`"), "{told}");
}

#[test]
fn state_keeps_the_limits_of_the_configuration() {
    let folder = folder();
    let config = folder.path().join("daemon.json");
    let file = json!({"daemon": {}, "plugins": {"state_service": {"max_value_bytes": 10, "state_dir": "state"}}});
    fs::write(&config, file.to_string()).unwrap();
    let from = legacy().join("var/state");
    let args = ["state", "--from", path(&from), "--config", path(&config), "--data", path(folder.path())];
    let told = migrate(&args).code(1).stderr;
    assert!(told.contains("more than 10 (--value-bytes-max)"), "{told}");
    let more = [&args[..], &["--value-bytes-max", "100000", "--json"]].concat();
    assert_eq!(migrate(&more).code(0).json()["to"], json!(folder.path().join("state/state.redb")));
}

// --- report ---

#[test]
fn report_says_what_there_is_to_move() {
    let from = legacy();
    let report = migrate(&["report", "--json", "--from", path(&from)]).code(1).json();
    assert_eq!(
        report["left"],
        json!({"unanswered": 3, "legacy_uses": 0, "not_counted": false, "state": 6, "problems": 0})
    );
    let owner = |event: &str| {
        let commands = report["commands"].as_array().unwrap();
        commands.iter().find(|command| command["event"] == event).unwrap()["answered_by"].clone()
    };
    assert_eq!((owner("agent:spawn"), owner("legacy:log")), (json!("agent_service"), Value::Null));
    assert_eq!((&report["state"][0]["sessions"], &report["state"][0]["shared"]), (&json!(2), &json!(4)));
    let text = migrate(&["report", "--from", path(&from)]).code(1).stdout;
    assert!(text.contains("2 sessions, 4 shared keys"), "{text}");
    assert!(text.contains("nobody: gavel migrate plugins"), "{text}");
    let empty = folder();
    assert!(migrate(&["report", "--from", path(empty.path())]).code(2).stderr.contains("neither handlers"));
}

/// A host that answers each line on `events.sock` by its event, as often as it is asked.
fn host(folder: &Path, answers: BTreeMap<&'static str, Value>) {
    let listener = UnixListener::bind(folder.join("events.sock")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            let mut reader = BufReader::new(stream);
            if reader.read_line(&mut line).is_err() {
                continue;
            }
            let frame: Value = serde_json::from_str(&line).unwrap();
            let answer = answers.get(frame["event"].as_str().unwrap()).cloned();
            let answer = answer.unwrap_or_else(|| json!({"error": "nobody answers it", "code": "NO_HANDLER"}));
            // A client that has gone has its reason.
            let _ = writeln!(reader.get_mut(), "{answer}");
        }
    });
}

#[test]
fn report_asks_a_running_host_who_still_uses_commands() {
    let (sockets, from) = (folder(), legacy());
    let uses = json!([
        {"command": "GET_AGENTS", "client": "unix:1000/1", "uses": 2, "event": "agent:list"},
        {"command": "SPAWN_AGENT", "client": "unix:1000/2", "uses": 9, "event": "agent:spawn"},
    ]);
    let plugin = |commands: Value, namespaces: Value| json!({"capabilities": {"commands": commands, "event_namespaces": namespaces}});
    let plugins = json!({
        "log-plugin": plugin(json!(["legacy:log"]), json!([])),
        "compositions": plugin(json!([]), json!(["legacy"])),
        "system_service": plugin(json!([]), json!(["system"])),
    });
    let status = json!({"mode": "hybrid", "legacy_uses": uses});
    host(sockets.path(), [("transport:status", status), ("system:plugins", json!({"plugins": plugins}))].into());
    let args = ["report", "--from", path(&from), "--socket-dir", path(sockets.path())];
    let report = migrate(&[&args[..], &["--json"]].concat()).code(1).json();
    assert_eq!(
        report["left"],
        json!({"unanswered": 1, "legacy_uses": 2, "not_counted": false, "state": 6, "problems": 0}),
        "agent:spawn has no owner there"
    );
    assert_eq!(report["host"]["mode"], json!("hybrid"));
    assert_eq!(report["host"]["legacy_uses"][0]["client"], json!("unix:1000/2"), "the most frequent first");
    let text = migrate(&args).code(1).stdout;
    assert!(text.contains("unix:1000/2 sent SPAWN_AGENT 9 times: use agent:spawn"), "{text}");
    assert!(text.contains("answered by log-plugin"), "{text}");
}

#[test]
fn report_counts_state_until_it_is_moved_and_uses_only_where_they_are_counted() {
    let (folder, sockets) = (folder(), folder());
    let from = folder.path().join("older");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("shared_state.json"), r#"{"a": 1, "b": 2}"#).unwrap();
    let data = folder.path().join("data");
    let report = |more: &[&str]| migrate(&[&["report", "--from", path(&from)], more].concat());
    let told = report(&[]).code(1).stdout;
    assert!(told.contains("2 values of state") && told.contains("no server's state was looked into"), "{told}");
    assert!(report(&["--data", path(&data)]).code(1).stdout.contains("2 values of state"));
    let _ = migrate(&["state", "--from", path(&from), "--data", path(&data), "--apply"]).code(0);
    assert!(report(&["--data", path(&data)]).code(0).stdout.contains("0 values of state"));
    fs::write(from.join("shared_state.json"), r#"{"a": 1, "b": 3}"#).unwrap();
    assert!(report(&["--data", path(&data)]).code(1).stdout.contains("1 values of state"));
    fs::write(from.join("shared_state.json"), r#"{"a": 1, "b": 2}"#).unwrap();
    let status = json!({"mode": "compatibility", "legacy_uses": []});
    host(sockets.path(), [("transport:status", status), ("system:plugins", json!({"plugins": {}}))].into());
    let told = report(&["--data", path(&data), "--socket-dir", path(sockets.path())]).code(1).stdout;
    assert!(told.contains("uses are not counted by client; switch to hybrid"), "{told}");
}

#[test]
fn report_tells_when_no_host_answers() {
    let (sockets, from) = (folder(), legacy());
    let args = ["report", "--from", path(&from), "--socket-dir", path(sockets.path())];
    assert!(migrate(&args).code(2).stderr.contains("no host listens there"));
    host(sockets.path(), BTreeMap::new());
    let told = migrate(&args).code(2).stderr;
    assert!(told.contains("transport:status: nobody answers it"), "{told}");
}

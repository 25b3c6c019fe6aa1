//! The event bus's sockets on the real `gavel serve`, with the `daemon.json` of the older daemon: what its clients send, and
//! what they see when the server ends, is killed and comes back.
//!
//! Here belongs what needs the whole process: signals, files, the ledger. What single events answer is tested in
//! `host/bus/tests`.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]
#![allow(clippy::needless_pass_by_value, reason = "values are written where they are given")]

use gavel_tests::{Config, FakeServer, PATIENCE, Script, Server, Site, gavel, path};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const SOCKETS: [&str; 8] = ["control", "events", "admin", "agents", "messaging", "state", "completion", "daemon"];

/// The `daemon.json` of the deployment guide, with its folders in this one.
fn daemon(folder: &Path, mode: Value) -> Value {
    let within = |name: &str| folder.join(name);
    json!({
        "daemon": {
            "plugin_dirs": [], "max_event_history": 1000, "event_timeout": 30.0,
            "event_queue_size": 10000, "worker_threads": 4, "batch_timeout": 0.1,
        },
        "transports": {"unix": {"enabled": true, "socket_dir": within("sockets"), "compatibility_mode": mode}},
        "plugins": {
            "state_service": {"state_dir": within("state")},
            "agent_service": {"profiles_dir": within("profiles"), "identities_file": within("identities.json")},
            "completion_service": {"provider": "stub", "model": "claude-3-sonnet", "timeout": 300},
        },
    })
}

/// A folder with the older daemon's files in it.
fn site(change: impl FnOnce(&mut Value, &Path), mode: Value) -> Site {
    let site = Site::new(&Config::open());
    let folder = site.path().to_owned();
    std::fs::create_dir(folder.join("profiles")).unwrap();
    let analyst = r#"{"name": "analyst", "role": "Analysis", "model": "sonnet", "capabilities": ["data_analysis"],
        "prompt_template": "Task: {task}", "system_instructions": "Be exact."}"#;
    std::fs::write(folder.join("profiles/analyst.json"), analyst).unwrap();
    std::fs::write(folder.join("profiles/bad.json"), r#"{"capabilities": 7}"#).unwrap();
    let identities = r#"{"ann": {"agent_id": "ann", "display_name": "Ann", "stats": {"messages_sent": 42}}}"#;
    std::fs::write(folder.join("identities.json"), identities).unwrap();
    let mut file = daemon(&folder, mode);
    change(&mut file, &folder);
    site.configure(&Config::text(file.to_string()));
    site
}

fn plain() -> Site {
    site(|_, _| {}, json!(true))
}

fn socket(site: &Site, name: &str) -> PathBuf {
    site.path().join("sockets").join(format!("{name}.sock"))
}

/// A client that stays connected.
struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(site: &Site, name: &str) -> Self {
        let stream = UnixStream::connect(socket(site, name)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// An agent's connection.
    fn agent(site: &Site, id: &str) -> Self {
        let mut client = Self::connect(site, "agents");
        client.say(&json!({"command": "AGENT_CONNECTION", "parameters": {"action": "connect", "agent_id": id}}));
        assert_eq!(client.hear()["result"]["status"], "connected");
        client
    }

    fn say(&mut self, frame: &Value) {
        self.0.get_mut().write_all(format!("{frame}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line:?}: {why}"))
    }

    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// `echo LINE | nc -U SOCKET`: with `nc` where there is one, else by its half-close.
fn echo_nc(site: &Site, name: &str, line: &str) -> Value {
    let socket = socket(site, name);
    // `-N` where it is known: it shuts the socket down at the end of its input, which other kinds do by themselves.
    let help = Command::new("nc").arg("-h").output();
    let text = if let Ok(help) = help {
        let told = [help.stdout, help.stderr].concat();
        let known = String::from_utf8_lossy(&told).contains("-N");
        let mut command = Command::new("nc");
        command.args(known.then_some("-N")).arg("-U").arg(&socket);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    } else {
        let mut client = Client::connect(site, name);
        client.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        client.0.get_mut().shutdown(Shutdown::Write).unwrap();
        client.rest()
    };
    assert_eq!(text.lines().count(), 1, "{line}: {text:?}");
    serde_json::from_str(&text).unwrap()
}

fn ask(site: &Site, event: &str, data: Value) -> Value {
    echo_nc(site, "events", &json!({"event": event, "data": data}).to_string())
}

fn command(site: &Site, name: &str, parameters: Value) -> Value {
    echo_nc(site, "control", &json!({"command": name, "parameters": parameters}).to_string())
}

#[test]
fn the_lines_of_the_deployment_guide_are_answered() {
    let server = plain().serve();
    let site = server.site();
    let agents = echo_nc(site, "control", r#"{"command": "GET_AGENTS", "parameters": {}}"#);
    assert_eq!((&agents["status"], &agents["result"]), (&json!("success"), &json!({"agents": {}})));
    let status = echo_nc(site, "events", r#"{"event": "system:plugin_status"}"#);
    assert_eq!(status["plugins"]["state_service"]["errors"], 0, "{status}");
    let history = echo_nc(site, "events", r#"{"event": "system:event_history", "data": {"limit": 100}}"#);
    assert!(history["events"].as_array().unwrap().iter().any(|event| event["event_name"] == "agent:list"), "{history}");
    for name in SOCKETS {
        assert_eq!(std::fs::metadata(socket(site, name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        assert_eq!(echo_nc(site, name, r#"{"event": "system:health"}"#)["status"], "healthy", "{name}");
        let older = echo_nc(site, name, r#"{"command": "HEALTH_CHECK", "version": "2.0"}"#);
        assert_eq!(older["result"]["status"], "healthy", "{name}");
    }
    let profiles = ask(site, "agent:profiles", json!({}));
    assert!(profiles["errors"]["bad"].as_str().unwrap().contains("bad.json: `capabilities`"), "{profiles}");
    let spawned = command(site, "SPAWN_AGENT", json!({"profile_name": "analyst", "task": "Analyze data"}));
    assert_eq!(spawned["result"]["agent"]["role"], "Analysis", "{spawned}");
    let request = ask(site, "completion:request", json!({"prompt": "hello"}));
    assert_eq!((&request["response"], &request["model"]), (&json!("echo: hello"), &json!("claude-3-sonnet")));
    let _ = server.stop();
}

#[test]
fn agents_speak_with_each_other() {
    let server = plain().serve();
    let site = server.site();
    for agent in ["ann", "bob"] {
        command(site, "REGISTER_AGENT", json!({"agent_id": agent, "role": "hand"}));
    }
    let letter = json!({"from_agent": "ann", "to_agent": "bob", "content": "early"});
    assert_eq!(command(site, "SEND_MESSAGE", letter)["result"]["status"], "queued");
    let (mut ann, mut bob) = (Client::agent(site, "ann"), Client::agent(site, "bob"));
    assert_eq!(bob.hear()["content"], "early", "what was sent before it came waits for it");
    for (from, to) in [("ann", "bob"), ("bob", "ann")] {
        let subscribed = command(site, "SUBSCRIBE", json!({"agent_id": to, "event_types": ["NEWS"]}));
        assert_eq!(subscribed["status"], "success", "{subscribed}");
        let news = json!({"from_agent": from, "event_type": "NEWS", "payload": {"text": from}});
        assert_eq!(command(site, "PUBLISH", news)["result"]["delivered"], json!([to]));
    }
    assert_eq!((bob.hear()["text"].clone(), ann.hear()["text"].clone()), (json!("ann"), json!("bob")));
    // The acknowledgement is out before what came of it, each time.
    for round in 0..20 {
        let mut asking = Client::connect(site, "completion");
        let prompt = format!("p{round}");
        asking.say(&json!({"command": "COMPLETION", "parameters": {"prompt": prompt, "client_id": "ann"}}));
        let acknowledged = asking.hear();
        assert_eq!(acknowledged["result"]["status"], "processing", "{acknowledged}");
        let pushed = ann.hear();
        assert_eq!(pushed["type"], "COMPLETION_RESULT");
        assert_eq!(pushed["request_id"], acknowledged["result"]["request_id"]);
        assert_eq!(pushed["result"]["response"], format!("echo: {prompt}"));
    }
}

#[test]
fn three_modes() {
    let server = site(|_, _| {}, json!("hybrid")).serve();
    let site_of = server.site();
    for agent in ["ann", "ann", "bob"] {
        command(site_of, "GET_AGENT_KV", json!({"agent_id": agent, "key": "k"}));
    }
    let used = ask(site_of, "transport:status", json!({}));
    let counted = |client: &str, uses: u64| json!({"command": "GET_AGENT_KV", "client": client, "uses": uses, "event": "state:get"});
    assert_eq!(used["legacy_uses"], json!([counted("ann", 2), counted("bob", 1)]));
    drop(server);
    let server = site(|_, _| {}, json!(false)).serve();
    let refused = command(server.site(), "GET_AGENTS", json!({}));
    assert_eq!(refused["error"]["code"], "LEGACY_DISABLED");
    assert_eq!(refused["error"]["details"]["event"], "agent:list");
    assert_eq!(ask(server.site(), "agent:list", json!({}))["count"], 0);
}

/// Wait until the process has ended by itself: what is left of it is for its parent to read.
fn until_it_has_ended(server: &Server) {
    let until = Instant::now() + PATIENCE;
    let stat = format!("/proc/{}/stat", server.pid());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        assert!(Instant::now() < until, "it does not end: {}", server.log());
        std::thread::yield_now();
    }
}

#[test]
fn it_ends_when_it_is_asked_to_and_leaves_nothing() {
    let server = plain().serve();
    let site = server.site().clone();
    let mut waiting = Client::agent(&site, "ann");
    let ending = command(&site, "SHUTDOWN", json!({"reason": "a test"}));
    assert_eq!(ending["result"]["status"], "shutting_down");
    assert_eq!(waiting.0.read_line(&mut String::new()).unwrap(), 0, "an idle client sees the end");
    until_it_has_ended(&server);
    let (status, log) = server.terminate();
    assert!(status.success(), "{status}: {log}");
    assert!(SOCKETS.iter().all(|name| !socket(&site, name).exists()));
    let server = site.serve();
    assert_eq!(ask(&site, "agent:list", json!({"status": "active"}))["agents"]["ann"]["status"], "active");
    let site = server.stop();
    assert!(SOCKETS.iter().all(|name| !socket(&site, name).exists()), "after SIGTERM too");
}

#[test]
fn the_grace_that_it_is_asked_to_end_with_counts() {
    let slow = |file: &mut Value, _: &Path| {
        file["daemon"]["shutdown_grace"] = json!(3_600);
        file["daemon"]["event_timeout"] = json!(3_600);
        file["plugins"]["completion_service"] =
            json!({"provider": "stub", "model": "m", "stub_delay": 3_600, "timeout": 3_600});
    };
    let server = site(slow, json!(true)).serve();
    let site = server.site().clone();
    let mut waiting = Client::connect(&site, "events");
    waiting.say(&json!({"event": "completion:request", "data": {"prompt": "long"}}));
    let until = Instant::now() + PATIENCE;
    while ask(&site, "completion:status", json!({}))["running"] != 1 {
        assert!(Instant::now() < until, "it is not asked: {}", server.log());
    }
    let ending = ask(&site, "system:shutdown", json!({"reason": "a test", "grace_period": 0.5}));
    assert_eq!(ending["status"], "shutting_down");
    until_it_has_ended(&server);
    let (status, log) = server.terminate();
    assert!(status.success(), "{status}: {log}");
    assert!(SOCKETS.iter().all(|name| !socket(&site, name).exists()));
}

#[test]
fn what_was_moved_from_the_older_daemon_is_found_by_the_server_with_its_file() {
    let site = plain();
    let older = gavel_tests::repository().join("tests/data/legacy/var/state");
    let (config, data) = (site.config(), site.data());
    let args = ["migrate", "state", "--json", "--from", path(&older), "--config", path(&config), "--data", path(&data)];
    let moved = gavel(args.iter().chain(&["--apply"])).code(0).json();
    assert_eq!(moved["result"]["verified"], 6, "{moved}");
    let shared: Value = serde_json::from_slice(&std::fs::read(older.join("shared_state.json")).unwrap()).unwrap();
    let server = site.serve();
    for (key, value) in shared.as_object().unwrap() {
        assert_eq!(&ask(server.site(), "state:get", json!({"namespace": "shared", "key": key}))["value"], value);
    }
    let site = server.stop();
    assert!(!site.data().join("bus/state.redb").exists());
    assert_eq!(gavel(["verify", "--json", path(&site.ledger("bus"))]).code(0).json()["verified"], true);
}

#[test]
fn the_configuration_of_a_plugin_that_nobody_knows_is_told() {
    let misspelt = |file: &mut Value, _: &Path| file["plugins"]["completion_servise"] = json!({"provider": "stub"});
    let site = site(misspelt, json!(true));
    let told = gavel(["validate", "--config", path(&site.config())]).code(0).stdout;
    let expected = "plugins.completion_servise: there is no such plugin or service, so it counts for nothing; the nearest that there is is \
                    `completion_service`";
    assert!(told.contains(expected) && told.lines().count() == 2, "{told}");
    site.serve().wait_for_log("plugins.completion_servise: there is no such plugin");
}

#[test]
fn what_was_kept_survives_a_kill_and_is_on_record() {
    let server = plain().serve();
    let site = server.site().clone();
    assert_eq!(
        command(&site, "SET_AGENT_KV", json!({"agent_id": "ann", "key": "k", "value": {"a": 1}}))["status"],
        "success"
    );
    command(&site, "REGISTER_AGENT", json!({"agent_id": "bob", "role": "hand"}));
    command(&site, "REMOVE_IDENTITY", json!({"agent_id": "ann"}));
    command(&site, "CREATE_IDENTITY", json!({"agent_id": "bob", "role": "hand"}));
    server.kill();
    assert!(SOCKETS.iter().all(|name| socket(&site, name).exists()), "a killed process leaves its sockets");
    let server = site.serve();
    let value = command(&site, "GET_AGENT_KV", json!({"agent_id": "ann", "key": "k"}));
    assert_eq!(value["result"]["value"], json!({"a": 1}));
    assert_eq!(command(&site, "GET_AGENTS", json!({}))["result"]["agents"]["bob"]["role"], "hand");
    let gone = command(&site, "GET_IDENTITY", json!({"agent_id": "ann"}));
    assert_eq!(gone["error"]["code"], "IDENTITY_NOT_FOUND", "it is taken over once, not at each start");
    let refused =
        ask(&site, "state:set", json!({"namespace": "plugin/agent_service:agents", "key": "eve", "value": {}}));
    assert_eq!(refused["code"], "FORBIDDEN");
    let file = std::fs::read_to_string(site.path().join("identities.json")).unwrap();
    assert!(file.contains("messages_sent"), "the file stays as it is");
    let _ = server.stop();
    let ledger = site.ledger("bus");
    let verified = gavel(["verify", "--json", path(&ledger)]).code(0).json();
    assert_eq!(verified["verified"], true, "{verified}");
    let mut records = Vec::new();
    for entry in std::fs::read_dir(&ledger).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            records.extend(std::fs::read(path).unwrap());
        }
    }
    let records = String::from_utf8_lossy(&records).into_owned();
    for change in [
        "State: set 'k' of namespace 'agent:ann'",
        "State: set 'bob' of namespace 'plugin/agent_service:agents'",
        "State: set 'ann' of namespace 'plugin/agent_service:identities'",
        "State: delete 'ann' of namespace 'plugin/agent_service:identities'",
    ] {
        assert!(records.contains(change), "the ledger lacks {change:?}");
    }
}

#[test]
fn a_key_that_is_unknown_and_a_file_that_is_bad_are_named() {
    for (change, told) in [
        (json!({"transports": {"unix": {"socket": 1}}}), "socket"),
        (json!({"plugins": {"completion_service": {"api_key": "sk-secret"}}}), "api_key"),
        (json!({"plugins": {"agent_service": {"identities_file": "nowhere.json"}}}), "nowhere.json"),
        (
            json!({"plugins": {"completion_service": {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1", "api_key_env": "GAVEL_NO_SUCH_KEY"}}}),
            "GAVEL_NO_SUCH_KEY",
        ),
    ] {
        let site = site(|file, _| *file = change, json!(true));
        let refused = site.refused();
        assert!(refused.stderr.contains(told), "{told}: {}", refused.stderr);
        assert!(!refused.stderr.contains("sk-secret"), "{}", refused.stderr);
    }
}

/// A server whose completions come from this endpoint, with this key in a file.
fn with_endpoint(url: &str, key: &str) -> Server {
    let configure = |file: &mut Value, folder: &Path| {
        std::fs::write(folder.join("key"), format!("{key}\n")).unwrap();
        file["plugins"]["completion_service"] = json!({
            "provider": "openai", "model": "m", "base_url": url, "api_key_file": folder.join("key"), "timeout": 20,
        });
        file["daemon"]["log_level"] = json!("DEBUG");
        file["daemon"]["log_events"] = json!(true);
    };
    site(configure, json!(true)).serve()
}

#[test]
fn the_key_of_an_endpoint_is_told_to_nobody_else() {
    let key = "sk-4f9d8c7b6a5e4d3c2b1a";
    let answer = json!({"model": "m-1", "choices": [{"message": {"content": "Hello."}}], "usage": {"total_tokens": 3}});
    let endpoint = FakeServer::start(&[
        Script::answer(200, &answer.to_string(), &["content-type: application/json"]),
        Script::answer(401, &json!({"error": format!("Incorrect API key provided: {key}")}).to_string(), &[]),
        Script::answer(500, &format!("header was Bearer {key}"), &[]),
    ]);
    let server = with_endpoint(&endpoint.url, key);
    let site = server.site().clone();
    let mut seen = String::new();
    for code in [json!(null), json!("UNAUTHORIZED"), json!("PROVIDER_ERROR")] {
        let answer = ask(&site, "completion:request", json!({"prompt": "hello"}));
        assert_eq!(answer["code"], code, "{answer}");
        seen.push_str(&answer.to_string());
    }
    assert!(seen.contains("Hello."));
    assert!(endpoint.requests()[0].to_ascii_lowercase().contains(&format!("authorization: bearer {key}")));
    seen.push_str(&ask(&site, "system:event_history", json!({})).to_string());
    ask(&site, "state:set", json!({"key": "k", "value": 1}));
    let (_, log) = server.terminate();
    assert!(!log.contains(key) && !seen.contains(key), "{log}{seen}");
    let mut folders = vec![site.data(), site.path().join("state")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes.windows(key.len()).any(|part| part == key.as_bytes());
                assert!(!found, "{}", path.display());
            }
        }
    }
}

//! The event bus from outside: `gavel bus` on the command line, over sockets and over HTTP, and the routes below `/bus`.
//!
//! What belongs here: what an operator or an agent sees of a real server's bus by these two ways, and who may. What is
//! counted is in `bus_monitoring.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use gavel_tests::{Config, Connection, Gavel, Key, Output, PATIENCE, Server, gavel_path, path};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

fn config() -> Config {
    Config::open().with("bus", json!({"transports": {"unix": {"socket_dir": "sockets"}}}))
}

fn sockets(server: &Server) -> PathBuf {
    server.site().path().join("sockets")
}

/// `gavel bus ARGS` over the sockets.
fn bus(server: &Server, args: &[&str]) -> Output {
    let dir = sockets(server);
    Gavel::new(["bus"].iter().chain(args).chain(&["--socket-dir", path(&dir)])).run()
}

/// The same over HTTP.
fn over_http(server: &Server, args: &[&str], key: Option<&Key>) -> Output {
    let mut command = Gavel::new(["bus"].iter().chain(args).chain(&["--url", &server.url]));
    if let Some(key) = key {
        command = command.env("GAVEL_KEY", &key.secret);
    }
    command.run()
}

#[test]
fn events_are_sent_answered_and_remembered_by_both_ways() {
    let server = Server::start(&config());
    let set = |value: &str| format!(r#"{{"key": "k", "value": {value}}}"#);
    let answer = bus(&server, &["emit", "state:set", "--data", &set("1"), "--correlation-id", "c1"]).code(0).json();
    assert_eq!(answer, json!({"status": "set", "correlation_id": "c1"}));
    let answer = over_http(&server, &["emit", "state:get", "--data", r#"{"key": "k"}"#], None).code(0).json();
    assert_eq!((&answer["value"], answer["correlation_id"].is_string()), (&json!(1), true), "{answer}");
    for answer in [
        bus(&server, &["emit", "state:set", "--data", &set("2"), "--no-wait"]),
        over_http(&server, &["emit", "state:set", "--data", &set("3"), "--no-wait"], None),
    ] {
        assert_eq!(answer.code(0).json()["status"], "queued");
    }
    let args = ["history", "--pattern", "state:set", "--oldest-first", "--json"];
    let (one, other) = (bus(&server, &args).code(0).json(), over_http(&server, &args, None).code(0).json());
    assert_eq!(one["events"], other["events"]);
    let senders: Vec<&str> =
        one["events"].as_array().unwrap().iter().map(|it| it["sender"].as_str().unwrap()).collect();
    assert!(senders.len() == 3 && senders[0].starts_with("client:unix:"), "{senders:?}");
    assert_eq!(senders[2], "client:http:anyone");
    let text = bus(&server, &["history", "--limit", "1", "--pattern", "state:*"]).code(0);
    assert_eq!(text.stdout.lines().count(), 1);
    let past = ["history", "--until", "2020-01-01T00:00:00Z", "--json"];
    assert_eq!(bus(&server, &past).code(0).json()["count"], 0);
    assert_eq!(over_http(&server, &past, None).code(0).json()["count"], 0);
}

#[test]
fn data_come_from_a_file_or_standard_input() {
    let server = Server::start(&config());
    let (_folder, file) = gavel_tests::file(r#"{"key": "k", "value": "from a file"}"#);
    let _ = bus(&server, &["emit", "state:set", "--data", &format!("@{}", path(&file))]).code(0);
    let dir = sockets(&server);
    let args = ["bus", "emit", "state:get", "--data", "-", "--socket-dir", path(&dir)];
    let got = Gavel::new(args).stdin(r#"{"key": "k"}"#).run().code(0);
    assert_eq!(got.json()["value"], "from a file");
    assert!(bus(&server, &["emit", "state:get", "--data", "{"]).code(2).stderr.contains("--data is no JSON"));
}

#[test]
fn what_is_refused_is_told_with_its_code() {
    let server = Server::start(&config());
    for (name, data, code) in [
        ("nobody:home", "{}", "NO_HANDLER"),
        ("state:set", "{}", "INVALID_PARAMETERS"),
        ("state:get", r#"{"namespace": "plugin/other", "key": "k"}"#, "FORBIDDEN"),
    ] {
        for refused in
            [bus(&server, &["emit", name, "--data", data]), over_http(&server, &["emit", name, "--data", data], None)]
        {
            let refused = refused.code(1);
            assert!(refused.stderr.contains(code), "{}", refused.stderr);
            assert_eq!(refused.json()["code"], code);
        }
    }
    let gone = Gavel::new(["bus", "status", "--socket-dir", "/nowhere/at/all"]).run().code(2);
    assert!(gone.stderr.contains("no server at /nowhere/at/all/events.sock"), "{}", gone.stderr);
    assert!(bus(&server, &["plugins", "nobody"]).code(2).stderr.contains("there is no plugin 'nobody'"));
}

#[test]
fn plugins_status_and_top_are_told_by_both_ways() {
    let server = Server::start(&config());
    let _ = bus(&server, &["emit", "state:set", "--data", r#"{"key": "k", "value": 1}"#]).code(0);
    for ask in [
        |server: &Server, args: &[&str]| bus(server, args),
        |server: &Server, args: &[&str]| over_http(server, args, None),
    ] {
        let plugins = ask(&server, &["plugins", "--json"]).code(0).json();
        let named =
            |name: &str| plugins["plugins"].as_array().unwrap().iter().find(|it| it["name"] == name).cloned().unwrap();
        assert_eq!(
            (&named("state_service")["state"], &named("message_service")["state"]),
            (&json!("ready"), &json!("idle"))
        );
        assert!(named("state_service")["p99_ms"].as_f64() > Some(0.0));
        assert_eq!(ask(&server, &["plugins", "state_service"]).code(0).json()["digest"], "native");
        let text = ask(&server, &["plugins"]).code(0).stdout;
        assert!(text.contains("state_service") && text.contains("state:*"), "{text}");
        let status = ask(&server, &["status", "--json"]).code(0).json();
        assert_eq!((&status["unix"]["mode"], &status["unix"]["dropped"]), (&json!("compatibility"), &json!(0)));
        let text = ask(&server, &["status"]).code(0).stdout;
        assert!(text.contains("mode        compatibility") && text.contains(" ok"), "{text}");
        let top = ask(&server, &["top", "--once", "--json", "--sort", "name"]).code(0).json();
        assert_eq!(top["plugins"][0]["name"], "agent_service", "{top}");
        assert!(top["events_per_second"].as_f64() > Some(0.0) && top["events_total"].as_u64() >= Some(1), "{top}");
        let text = ask(&server, &["top"]).code(0).stdout;
        assert!(
            text.starts_with("gavel bus  up 00:0") && text.contains("\nPLUGIN ") && text.contains("state_service"),
            "{text}"
        );
        let lines = ask(&server, &["top", "--batch", "2", "--interval", "0.1", "--json"]).code(0).json_lines();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[1]["seconds"].as_f64() < lines[0]["seconds"].as_f64(),
            "the second counts from the first: {lines:?}"
        );
    }
}

/// `gavel bus tail`, listening.
struct Tail {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Tail {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(gavel_path())
            .args(["bus", "tail", "--json"])
            .args(args)
            .env_remove("GAVEL_URL")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
        assert!(told.starts_with("watching "), "{told}");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line:?}"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Send so many events `noise:made`, numbered, on one connection.
fn make_noise(server: &Server, events: u64) {
    let stream = UnixStream::connect(sockets(server).join("events.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    let reading = thread::spawn(move || {
        (0..events).for_each(|_| assert!(answers.next().unwrap().unwrap().contains("queued")));
    });
    let mut stream = std::io::BufWriter::new(stream);
    for number in 0..events {
        writeln!(stream, "{}", json!({"event": "noise:made", "data": {"n": number}, "wait": false})).unwrap();
    }
    stream.flush().unwrap();
    reading.join().unwrap();
}

#[test]
fn a_tail_sees_events_in_their_order_by_both_ways() {
    let server = Server::start(&config());
    let dir = sockets(&server);
    let at = [["--socket-dir", path(&dir)], ["--url", &server.url]];
    let mut tails = at.map(|at| Tail::start(&[&at[..], &["--pattern", "noise:*", "--limit", "200"]].concat()));
    let _ = bus(&server, &["emit", "agent:list"]).code(0);
    make_noise(&server, 200);
    for tail in &mut tails {
        for number in 0..200 {
            let event = tail.next();
            assert_eq!((&event["event_name"], &event["data"]["n"]), (&json!("noise:made"), &json!(number)), "{event}");
        }
        assert!(tail.child.wait().unwrap().success(), "it ends after 200");
    }
}

#[test]
fn a_tail_that_is_too_slow_says_how_many_it_missed() {
    const EVENTS: u64 = 8_000;
    let server = Server::start(&config());
    let dir = sockets(&server);
    let mut tail = Tail::start(&["--socket-dir", path(&dir), "--pattern", "noise:*"]);
    tail.signal(Signal::STOP);
    make_noise(&server, EVENTS);
    tail.signal(Signal::CONT);
    let (mut seen, mut missed, mut last) = (0, 0, None);
    while seen + missed < EVENTS {
        let told = tail.next();
        if let Some(more) = told["missed"].as_u64() {
            missed += more;
            continue;
        }
        assert!(told["data"]["n"].as_u64() > last, "{told} after {last:?}");
        (seen, last) = (seen + 1, told["data"]["n"].as_u64());
    }
    assert!(missed > 0 && seen > 0, "{seen} seen, {missed} missed");
}

#[test]
fn a_tail_ends_with_its_server_and_holds_nobody_up() {
    let server = Server::start(&config());
    let dir = sockets(&server);
    let mut tails = [Tail::start(&["--url", &server.url]), Tail::start(&["--socket-dir", path(&dir)])];
    let _ = server.stop();
    for tail in &mut tails {
        assert_eq!(tail.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn only_so_many_watch_over_http() {
    let section = json!({"daemon": {"max_tails": 1}, "transports": {"unix": {"enabled": false}}});
    let server = Server::start(&Config::open().with("bus", section));
    let tail = Tail::start(&["--url", &server.url]);
    assert!(server.get("/bus/tail").error(503).contains("daemon.max_tails"));
    drop(tail);
    let again = || server.get("/bus/status").expect(200)["bus"]["watchers"] == 0;
    let until = std::time::Instant::now() + PATIENCE;
    while !again() {
        assert!(std::time::Instant::now() < until, "its place does not come free");
    }
    drop(Tail::start(&["--url", &server.url]));
}

#[test]
fn the_routes_are_these() {
    let routes = gavel::http::ROUTES.iter().filter(|(_, path)| path.starts_with("/bus/"));
    let routes: Vec<String> = routes.map(|(method, path)| format!("{method} {path}")).collect();
    let expected = [
        "get /bus/status",
        "get /bus/plugins",
        "get /bus/plugins/{name}",
        "post /bus/plugins/{name}/reload",
        "get /bus/history",
        "post /bus/events",
        "get /bus/tail",
    ];
    assert_eq!(routes, expected);
}

#[test]
fn errors_of_the_bus_have_their_status() {
    let server = Server::start(&config());
    for (body, status, code) in [
        (json!({"event": "nobody:home"}), 404, json!("NO_HANDLER")),
        (json!({"event": "state:set"}), 422, json!("INVALID_PARAMETERS")),
        (json!({"event": "no name"}), 400, Value::Null),
        (json!({"event": "transport:watch"}), 422, json!("INVALID_PARAMETERS")),
        (json!({"event": "a:b", "sender": "host"}), 400, Value::Null),
        (json!({"data": {}}), 400, Value::Null),
    ] {
        let answer = server.post("/bus/events", &body);
        assert_eq!((answer.status, &answer.json()["code"]), (status, &code), "{body}: {}", answer.text());
    }
    let queued = server.post("/bus/events", &json!({"event": "nobody:home", "wait": false})).expect(202);
    assert_eq!((&queued["status"], &queued["queued"]), (&json!("queued"), &json!(0)));
    let answer = server.post("/bus/events", &json!({"event": "agent:list", "correlation_id": "c"})).expect(200);
    assert_eq!((&answer["correlation_id"], answer["answer"]["agents"].is_object()), (&json!("c"), true), "{answer}");
    let all = server.post("/bus/events", &json!({"event": "agent:list", "fan_out": true})).expect(200);
    assert_eq!(all["answer"]["responses"][0]["plugin"], "agent_service", "{all}");
    assert!(server.get("/bus/plugins/nobody").error(404).contains("there is no plugin 'nobody'"));
    assert!(server.get("/bus/history?limit=10001").error(400).contains("10000"));
    assert!(server.get("/bus/history?pattern=st*:set").error(400).contains("star"));
    let _ = server.post("/bus/plugins/nobody/reload", &json!({})).error(404);
    let native = server.post("/bus/plugins/state_service/reload", &json!({})).error(422);
    assert!(native.contains("is part of the host"), "{native}");
    let none = Server::start(&Config::open());
    assert!(none.get("/bus/status").error(409).contains("section `bus`"));
}

#[test]
fn a_handler_that_is_late_is_told_as_such_though_other_requests_have_less_time() {
    let section = json!({
        "daemon": {"event_timeout": 1.0}, "transports": {"unix": {"enabled": false}},
        "plugins": {"completion_service": {"provider": "stub", "stub_delay": 3_600}},
    });
    let server = Server::start(&Config::open().with("bus", section).with("limits", json!({"request_timeout_ms": 500})));
    let late = server.post("/bus/events", &json!({"event": "completion:request", "data": {"prompt": "long"}}));
    assert_eq!((late.status, &late.json()["code"]), (504, &json!("TIMEOUT")), "{}", late.text());
}

#[test]
fn each_role_may_do_its_own_and_nothing_else() {
    let agent = Key::make("agent", &["--role", "agent", "--actor", "agent-001"]);
    let auditor = Key::make("auditor", &["--role", "auditor"]);
    let operator = Key::make("operator", &["--role", "operator"]);
    let elsewhere = Key::make("elsewhere", &["--role", "operator", "--kernel", "k"]);
    let server = Server::start(&config().keys(&[&agent, &auditor, &operator, &elsewhere]));
    let status = |key: Option<&Key>, method: &str, path: &str, body: Option<Value>| {
        let header = key.map(Key::header);
        let headers: Vec<(&str, &str)> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = body.map(|body| body.to_string().into_bytes());
        let mut connection = Connection::open(server.address).unwrap();
        connection.request(method, path, &headers, body.as_deref()).unwrap().status
    };
    let (list, health) = (json!({"event": "agent:list"}), json!({"event": "system:health"}));
    for (key, sees, sends, commands) in [
        (Some(&agent), 403, 200, 403),
        (Some(&auditor), 200, 403, 403),
        (Some(&operator), 200, 200, 200),
        (Some(&elsewhere), 403, 403, 403),
        (None, 401, 401, 401),
    ] {
        for path in ["/bus/status", "/bus/plugins", "/bus/plugins/state_service", "/bus/history"] {
            assert_eq!(status(key, "GET", path, None), sees, "{path} {key:?}");
        }
        assert_eq!(status(key, "POST", "/bus/events", Some(list.clone())), sends, "{key:?}");
        assert_eq!(status(key, "POST", "/bus/events", Some(health.clone())), commands, "{key:?}");
        let reloads = if commands == 200 { 422 } else { commands };
        assert_eq!(status(key, "POST", "/bus/plugins/state_service/reload", Some(json!({}))), reloads, "{key:?}");
    }
    assert_eq!(status(Some(&agent), "GET", "/bus/tail", None), 403);
    let history =
        over_http(&server, &["history", "--pattern", "agent:list", "--oldest-first", "--json"], Some(&auditor));
    let history = history.code(0).json();
    assert_eq!(history["events"][0]["sender"], "client:http:agent", "{history}");
    let refused = over_http(&server, &["plugins"], Some(&agent)).code(2);
    assert!(refused.stderr.contains("has not the role operator or auditor"), "{}", refused.stderr);
}

//! The sockets as clients see them: real sockets, frames in, frames out.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

use futures_util::future::BoxFuture;
use gavel_bus::services::{
    Agents, Completion, CompletionLimits, Completions, Messages, Profile, Prompt, Provider, State,
};
use gavel_bus::unix::{Mode, SOCKETS, Unix, UnixError, UnixOptions};
use gavel_bus::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

/// Answers with the prompt, when it is let.
struct Stub(Arc<Semaphore>);

impl Provider for Stub {
    fn name(&self) -> String {
        "stub".to_owned()
    }

    fn complete(&self, prompt: Prompt) -> BoxFuture<'_, Result<Completion, (String, String)>> {
        Box::pin(async move {
            self.0.acquire().await.unwrap().forget();
            if prompt.prompt == "fail" {
                return Err(("OVERLOADED".to_owned(), "as it was told".to_owned()));
            }
            Ok(Completion {
                response: format!("{}!", prompt.prompt),
                model: "stub-1".to_owned(),
                ..Completion::default()
            })
        })
    }
}

struct Served {
    folder: tempfile::TempDir,
    bus: Bus,
    unix: Unix,
    /// A permit lets one completion go.
    go: Arc<Semaphore>,
}

async fn serve(mode: Mode) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::new(Options::default(), || 1_000);
    let store = Store::open(None, StoreLimits::default(), Arc::new(NoAudit)).await.unwrap();
    let go = Arc::new(Semaphore::new(0));
    let worker = Profile { role: "worker".to_owned(), capabilities: vec!["dig".to_owned()], ..Profile::default() };
    bus.register(vec![
        State::registration(&store, BTreeMap::new()),
        Messages::registration(),
        Agents::registration(&store, BTreeMap::from([("worker".to_owned(), worker)])),
        Completions::registration(Arc::new(Stub(Arc::clone(&go))), CompletionLimits::default()),
    ])
    .unwrap();
    let options = UnixOptions { mode, line_bytes_max: 4_096, ..UnixOptions::in_folder(folder.path()) };
    let unix = Unix::start(&bus, options).await.unwrap();
    Served { folder, bus, unix, go }
}

struct Client(BufReader<UnixStream>);

impl Served {
    async fn client(&self, socket: &str) -> Client {
        Client(BufReader::new(UnixStream::connect(self.folder.path().join(format!("{socket}.sock"))).await.unwrap()))
    }

    /// One frame on a connection of its own.
    async fn ask(&self, frame: Value) -> Value {
        let mut client = self.client("control").await;
        client.say(&frame.to_string()).await;
        client.hear().await
    }

    async fn command(&self, command: &str, parameters: Value) -> Value {
        self.ask(json!({ "command": command, "parameters": parameters })).await
    }
}

impl Client {
    async fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        tokio::time::timeout(Duration::from_secs(30), self.0.read_line(&mut line)).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line:?}: {why}"))
    }

    /// Whatever comes until the server closes.
    async fn rest(mut self) -> String {
        let mut rest = String::new();
        tokio::time::timeout(Duration::from_secs(30), self.0.read_to_string(&mut rest)).await.unwrap().unwrap();
        rest
    }
}

#[tokio::test]
async fn events_and_commands_are_answered_on_every_socket() {
    let served = serve(Mode::Compatibility).await;
    for socket in SOCKETS {
        let path = served.folder.path().join(format!("{socket}.sock"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = served.client(socket).await;
        client.say(r#"{"event":"state:set","data":{"key":"k","value":1},"correlation_id":"c1"}"#).await;
        assert_eq!(client.hear().await, json!({ "status": "set", "correlation_id": "c1" }));
        client.say(r#"{"event":"nobody:home","correlation_id":"c2"}"#).await;
        let answer = client.hear().await;
        assert_eq!((&answer["code"], &answer["correlation_id"]), (&json!("NO_HANDLER"), &json!("c2")));
        client.say(r#"{"command":"GET_AGENTS","unknown":1}"#).await;
        let answer = client.hear().await;
        assert_eq!(answer["status"], "success");
        assert_eq!(answer["metadata"]["timestamp"], "1970-01-01T00:00:01Z");
        assert_eq!(answer["result"], json!({ "agents": {} }));
        assert_eq!(client.rest().await, "", "after a command the server closes");
    }
}

#[tokio::test]
async fn what_is_asked_before_a_half_close_is_answered_before_the_end() {
    let served = serve(Mode::Compatibility).await;
    let mut client = served.client("events").await;
    client.say(r#"{"event":"state:get","data":{"key":"k"}}"#).await;
    client.0.get_mut().write_all(br#"{"event":"state:list"}"#).await.unwrap();
    client.0.get_mut().shutdown().await.unwrap();
    let rest = client.rest().await;
    let answers: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((answers.len(), &answers[0]["found"], &answers[1]["count"]), (2, &json!(false), &json!(0)));
}

#[tokio::test]
async fn what_is_no_frame_is_told_so() {
    let served = serve(Mode::Compatibility).await;
    let mut client = served.client("events").await;
    for (line, part) in [
        ("{", r#""code":"INVALID_JSON""#),
        ("[]", "Missing event name"),
        (r#"{"data":1}"#, "Missing event name"),
        (r#"{"event":""}"#, "Missing event name"),
        (r#"{"event":7}"#, "Missing event name"),
        (r#"{"event":"state:set","data":{"value":1}}"#, "missing field `key`"),
        (
            r#"{"event":"state:set","data":{"namespace":"plugin/agent_service:agents","key":"k","value":1}}"#,
            r#""code":"FORBIDDEN""#,
        ),
    ] {
        client.say(line).await;
        let answer = client.hear().await.to_string();
        assert!(answer.contains(part), "{line}: {answer}");
    }
    client.say(&"x".repeat(5_000)).await;
    assert!(client.hear().await["error"].as_str().unwrap().contains("longer than 4096"));
    assert_eq!(client.rest().await, "");
    assert_eq!(served.command("NOTHING", json!({})).await["error"]["code"], "UNKNOWN_COMMAND");
    let unread = served.ask(json!({ "command": 7 })).await;
    assert_eq!((&unread["command"], &unread["error"]["code"]), (&json!(""), &json!("INVALID_COMMAND")));
}

#[tokio::test]
async fn an_agent_gets_what_was_sent_to_it_before_it_came_and_after() {
    let served = serve(Mode::Compatibility).await;
    for agent in ["ann", "bob"] {
        let registered = served
            .command("REGISTER_AGENT", json!({ "agent_id": agent, "role": agent, "capabilities": ["dig"] }))
            .await;
        assert_eq!(registered["result"]["status"], "registered");
    }
    let letter = json!({ "from_agent": "ann", "to": "bob", "message": { "text": "early", "from": "the pope" } });
    assert_eq!(served.command("SEND_MESSAGE", letter.clone()).await["result"]["delivery"], "direct");
    let mut bob = served.client("agents").await;
    bob.say(r#"{"command":"AGENT_CONNECTION","parameters":{"action":"connect","agent_id":"bob"}}"#).await;
    assert_eq!(bob.hear().await["result"]["status"], "connected");
    let early = bob.hear().await;
    assert_eq!(
        (&early["type"], &early["from"], &early["text"]),
        (&json!("DIRECT_MESSAGE"), &json!("ann"), &json!("early"))
    );
    served.command("SEND_MESSAGE", letter).await;
    assert_eq!(bob.hear().await["text"], "early");
    served.command("SUBSCRIBE", json!({ "agent_id": "bob", "event_types": ["news"] })).await;
    let published =
        served.command("PUBLISH", json!({ "event_type": "news", "agent_id": "ann", "message": "hot" })).await;
    assert_eq!(published["result"]["delivered"], json!(["bob"]));
    assert_eq!(bob.hear().await["message"], "hot");
    let unknown = served.command("SEND_MESSAGE", json!({ "to": "nobody" })).await;
    assert_eq!(unknown["error"]["code"], "RECIPIENT_NOT_FOUND");
    let routed = served
        .command("ROUTE_TASK", json!({ "task": "hole", "required_capabilities": ["dig"], "preferred_role": "bob" }))
        .await;
    assert_eq!(
        (&routed["result"]["routing"]["agent_id"], &routed["result"]["routing"]["score"]),
        (&json!("bob"), &json!(10))
    );
    assert_eq!(bob.hear().await["type"], "TASK_ASSIGNMENT");
}

#[tokio::test]
async fn a_completion_is_pushed_after_its_acknowledgement() {
    let served = serve(Mode::Compatibility).await;
    let mut ann = served.client("completion").await;
    ann.say(r#"{"command":"AGENT_CONNECTION","parameters":{"action":"connect","agent_id":"ann"}}"#).await;
    ann.hear().await;
    // The answers are there at once; the acknowledgement comes first all the same.
    served.go.add_permits(20);
    for prompt in ["hello", "fail"].repeat(10) {
        let begun = served.command("COMPLETION", json!({ "prompt": prompt, "client_id": "ann" })).await;
        assert_eq!(begun["result"]["status"], "processing", "{begun}");
        let id = begun["result"]["request_id"].as_str().unwrap();
        assert!(id.starts_with("req_"), "{id}");
        let push = ann.hear().await;
        assert_eq!((push["type"].as_str(), push["request_id"].as_str()), (Some("COMPLETION_RESULT"), Some(id)));
        if prompt == "hello" {
            assert_eq!(push["result"]["response"], "hello!");
        } else {
            assert_eq!(push["result"], json!({ "error": "as it was told", "code": "OVERLOADED" }));
        }
    }
}

#[tokio::test]
async fn an_agent_is_spawned_from_a_profile_and_terminated() {
    let served = serve(Mode::Compatibility).await;
    let spawned =
        served.command("SPAWN_AGENT", json!({ "profile_name": "worker", "task": "dig", "agent_id": "w" })).await;
    let process = spawned["result"]["process_id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&spawned["result"]["agent"]["id"], &spawned["result"]["agent"]["role"]),
        (&json!("w"), &json!("worker"))
    );
    assert_eq!(served.command("GET_PROCESSES", json!({})).await["result"]["processes"][0]["process_id"], process);
    let none = served.command("SPAWN_AGENT", json!({ "profile_name": "king" })).await;
    assert_eq!(none["error"]["code"], "SPAWN_FAILED");
    served.ask(json!({ "event": "agent:terminate", "data": { "agent_id": "w" } })).await;
    assert_eq!(served.command("GET_AGENTS", json!({})).await["result"]["agents"], json!({}));
    let status = served.ask(json!({ "event": "completion:status", "data": { "request_id": process } })).await;
    assert_eq!(status["status"], "cancelled");
}

#[tokio::test]
async fn identities_live_and_end() {
    let served = serve(Mode::Compatibility).await;
    let ann = json!({ "agent_id": "ann", "display_name": "Ann" });
    assert_eq!(served.command("CREATE_IDENTITY", ann.clone()).await["result"]["identity"]["display_name"], "Ann");
    assert_eq!(served.command("CREATE_IDENTITY", ann).await["error"]["code"], "IDENTITY_EXISTS");
    let changed =
        served.command("UPDATE_IDENTITY", json!({ "agent_id": "ann", "updates": { "display_name": "Anne" } })).await;
    assert_eq!(changed["result"]["changes"], json!({ "display_name": { "before": "Ann", "after": "Anne" } }));
    assert_eq!(served.command("LIST_IDENTITIES", json!({})).await["result"]["total"], 1);
    assert_eq!(served.command("REMOVE_IDENTITY", json!({ "agent_id": "ann" })).await["result"]["deleted"], true);
    assert_eq!(
        served.command("GET_IDENTITY", json!({ "agent_id": "ann" })).await["error"]["code"],
        "IDENTITY_NOT_FOUND"
    );
}

#[tokio::test]
async fn an_operator_sees_who_still_sends_commands_and_can_switch_them_off() {
    let served = serve(Mode::Hybrid).await;
    served.command("SET_AGENT_KV", json!({ "agent_id": "ann", "key": "k", "value": 5 })).await;
    assert_eq!(served.command("GET_AGENT_KV", json!({ "agent_id": "ann", "key": "k" })).await["result"]["value"], 5);
    let status = served.ask(json!({ "event": "transport:status" })).await;
    assert_eq!(
        status["legacy_uses"][0],
        json!({ "command": "GET_AGENT_KV", "client": "ann", "uses": 1, "event": "state:get" })
    );
    let served = serve(Mode::Pure).await;
    let refused = served.command("HEALTH_CHECK", json!({})).await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["details"]["event"]),
        (&json!("LEGACY_DISABLED"), &json!("system:health"))
    );
}

#[tokio::test]
async fn a_socket_of_the_dead_is_taken_over_and_one_of_the_living_is_not() {
    let served = serve(Mode::Compatibility).await;
    let again = Bus::new(Options::default(), || 0);
    let taken = Unix::start(&again, UnixOptions::in_folder(served.folder.path())).await;
    assert!(matches!(taken.err().unwrap(), UnixError::Taken(_)));
    served.ask(json!({ "event": "state:list" })).await;
    let Served { folder, unix, bus, .. } = served;
    unix.stop().await;
    bus.shutdown().await;
    assert!(!folder.path().join("control.sock").exists());
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("control.sock")).unwrap());
    let next = Unix::start(&again, UnixOptions::in_folder(folder.path())).await.unwrap();
    assert!(UnixStream::connect(folder.path().join("control.sock")).await.is_ok());
    next.stop().await;
    std::fs::write(folder.path().join("control.sock"), "mine").unwrap();
    assert!(matches!(
        Unix::start(&again, UnixOptions::in_folder(folder.path())).await.err().unwrap(),
        UnixError::Socket { .. }
    ));
    assert_eq!(std::fs::read_to_string(folder.path().join("control.sock")).unwrap(), "mine");
}

#[tokio::test]
async fn a_watching_connection_is_pushed_the_events_it_asked_for_in_their_order() {
    let served = serve(Mode::Compatibility).await;
    let mut watcher = served.client("events").await;
    watcher.say(r#"{"event":"transport:watch","data":{"patterns":["state:*"]},"correlation_id":"w"}"#).await;
    let answer = watcher.hear().await;
    assert_eq!(answer, json!({ "status": "watching", "patterns": ["state:*"], "correlation_id": "w" }));
    for number in 0..20 {
        served.ask(json!({ "event": "state:set", "data": { "key": "k", "value": number } })).await;
        served.ask(json!({ "event": "agent:list" })).await;
    }
    for number in 0..20 {
        let push = watcher.hear().await;
        assert_eq!((&push["type"], &push["event"]["event_name"]), (&json!("EVENT"), &json!("state:set")), "{push}");
        assert_eq!(push["event"]["data"]["value"], number);
        assert_eq!(watcher.hear().await["event"]["event_name"], "state:changed");
    }
    watcher.say(r#"{"event":"transport:unwatch"}"#).await;
    assert_eq!(watcher.hear().await["status"], "stopped");
    served.ask(json!({ "event": "state:set", "data": { "key": "k", "value": 0 } })).await;
    watcher.say(r#"{"event":"agent:list","correlation_id":"after"}"#).await;
    assert_eq!(watcher.hear().await["correlation_id"], "after", "nothing is pushed any more");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_how_many_it_missed() {
    const EVENTS: u64 = 20_000;
    let served = serve(Mode::Compatibility).await;
    let mut watcher = served.client("events").await;
    watcher.say(r#"{"event":"transport:watch","data":{"patterns":["noise:*"]}}"#).await;
    watcher.hear().await;
    let text = "x".repeat(200);
    for number in 0..EVENTS {
        served.bus.emit(Sender::Host, Draft::new("noise:made", json!({ "n": number, "text": text }))).await.unwrap();
    }
    let (mut seen, mut missed, mut last) = (0, 0, None);
    while seen + missed < EVENTS {
        let push = watcher.hear().await;
        if push["type"] == "EVENTS_MISSED" {
            missed += push["missed"].as_u64().unwrap();
        } else {
            let number = push["event"]["data"]["n"].as_u64();
            assert!(number > last, "{push}");
            (seen, last) = (seen + 1, number);
        }
    }
    assert!(missed > 0 && seen > 0, "{seen} seen, {missed} missed");
    assert_eq!(served.unix.view().counts().watchers_missed, missed);
}

#[tokio::test]
async fn only_a_connection_can_watch_and_only_sound_patterns() {
    let served = serve(Mode::Compatibility).await;
    for data in [json!({ "patterns": ["st*:set"] }), json!({ "patterns": vec!["*"; 65] }), json!({ "patterns": 1 })] {
        let answer = served.ask(json!({ "event": "transport:watch", "data": data })).await;
        assert_eq!(answer["code"], "INVALID_PARAMETERS", "{answer}");
    }
    let asked = served.bus.dispatch(Sender::Client("http:key".into()), Draft::new("transport:watch", json!({}))).await;
    assert!(asked.unwrap_err().to_string().contains("only a connection"));
}

#[tokio::test]
async fn a_client_need_not_wait_for_the_answer_and_everything_is_counted() {
    let served = serve(Mode::Compatibility).await;
    let frame =
        json!({ "event": "state:set", "data": { "key": "k", "value": 1 }, "wait": false, "correlation_id": "c" });
    let mut client = served.client("control").await;
    client.say(&frame.to_string()).await;
    let answer = client.hear().await;
    assert_eq!((&answer["status"], &answer["queued"]), (&json!("queued"), &json!(1)), "{answer}");
    served.command("GET_AGENTS", json!({})).await;
    served.command("MADE_UP", json!({})).await;
    client.say(r#"{"event":"nobody:home"}"#).await;
    client.hear().await;
    // The others have hung up; the server need not have seen it yet.
    let alone = async {
        while served.unix.view().counts().connections > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), alone).await.unwrap();
    let counts = served.unix.view().counts();
    assert_eq!((counts.connections, counts.agents, counts.undelivered), (1, 0, 0), "{counts:?}");
    let uses = |name| counts.legacy.iter().find(|(known, _)| *known == name).unwrap().1;
    assert_eq!((uses("GET_AGENTS"), uses("other"), uses("HELP")), (1, 1, 0));
    let overview = served.bus.overview();
    assert_eq!((overview.answers["NO_HANDLER"], overview.emitted["ok"] >= 1), (1, true), "{overview:?}");
    let plugin = served.bus.times(&[100.0]).into_iter().find(|(name, _)| name == "agent_service").unwrap().1;
    assert_eq!(plugin.counts, [1, 0]);
}

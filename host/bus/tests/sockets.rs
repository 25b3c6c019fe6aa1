//! The sockets under bad input and bad clients: frames at every limit, clients that do not read, too many of them, hosts
//! that stop in the middle; and the folder of the sockets, with what others left in it.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

use futures_util::future::BoxFuture;
use gavel_bus::unix::{Mode, SOCKETS, Unix, UnixError, UnixOptions};
use gavel_bus::*;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

/// Answers with what it is asked; `echo:slow` when it is let.
#[derive(Clone)]
struct Echo(Arc<Semaphore>);

impl Plugin for Echo {
    fn startup(&self, _config: Value, _handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move {
            if event.name == "echo:slow" {
                self.0.acquire().await.unwrap().forget();
            }
            Ok(json!({ "data": event.data, "client": event.client_id }))
        })
    }

    fn concurrent(&self) -> bool {
        true
    }
}

struct Served {
    folder: tempfile::TempDir,
    bus: Bus,
    unix: Unix,
    go: Arc<Semaphore>,
}

fn bus() -> (Bus, Arc<Semaphore>) {
    bus_with(Options::default())
}

fn bus_with(options: Options) -> (Bus, Arc<Semaphore>) {
    let (bus, go) = (Bus::new(options, || 1_000), Arc::new(Semaphore::new(0)));
    let echo = Echo(Arc::clone(&go));
    let registration = Registration {
        metadata: Metadata { name: "echo".to_owned(), version: "1".to_owned(), ..Metadata::default() },
        capabilities: Capabilities {
            event_namespaces: vec!["echo".to_owned()],
            commands: vec!["legacy:compose_prompt".to_owned()],
            ..Capabilities::default()
        },
        config: Value::Null,
        digest: "native".to_owned(),
        factory: Arc::new(move || echo.clone()),
    };
    bus.register(vec![registration]).unwrap();
    (bus, go)
}

async fn serve(change: impl FnOnce(&mut UnixOptions)) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let mut options = UnixOptions::in_folder(folder.path());
    change(&mut options);
    let (bus, go) = bus();
    let unix = Unix::start(&bus, options).await.unwrap();
    Served { folder, bus, unix, go }
}

struct Client(BufReader<UnixStream>);

impl Served {
    async fn client(&self) -> Client {
        Client(BufReader::new(UnixStream::connect(self.folder.path().join("events.sock")).await.unwrap()))
    }
}

impl Client {
    async fn say(&mut self, line: &[u8]) {
        self.0.get_mut().write_all(line).await.unwrap();
        self.0.get_mut().write_all(b"\n").await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        tokio::time::timeout(Duration::from_mins(1), self.0.read_line(&mut line)).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line:?}: {why}"))
    }

    async fn ask(&mut self, frame: Value) -> Value {
        self.say(frame.to_string().as_bytes()).await;
        self.hear().await
    }

    /// The server closed, and took nothing back by it.
    async fn ends(&mut self) {
        let mut rest = String::new();
        tokio::time::timeout(Duration::from_mins(1), self.0.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, "");
    }
}

#[tokio::test]
async fn a_line_has_a_mebibyte_and_not_a_byte_more() {
    let served = serve(|_| {}).await;
    let line = |bytes: usize| {
        let empty = json!({ "event": "echo:x", "data": "" }).to_string().len();
        json!({ "event": "echo:x", "data": "x".repeat(bytes - empty) }).to_string()
    };
    let mut client = served.client().await;
    client.say(line(1 << 20).as_bytes()).await;
    assert!(client.hear().await["data"].as_str().unwrap().len() > 1_000_000);
    client.say(line((1 << 20) + 1).as_bytes()).await;
    assert_eq!(client.hear().await["error"], "Line longer than 1048576 bytes");
    client.ends().await;
    // One who writes much more than that has the answer all the same.
    let mut client = served.client().await;
    client.say(&vec![b'x'; 8 << 20]).await;
    assert_eq!(client.hear().await["error"], "Line longer than 1048576 bytes");
    client.ends().await;
    // And one without any end.
    let mut client = served.client().await;
    client.0.get_mut().write_all(line(1 << 20).as_bytes()).await.unwrap();
    client.0.get_mut().shutdown().await.unwrap();
    client.hear().await;
    client.ends().await;
}

#[tokio::test]
async fn what_is_no_json_is_told_so_and_the_next_frame_is_answered() {
    let served = serve(|_| {}).await;
    let mut client = served.client().await;
    let deep = format!(r#"{{"event":"echo:x","data":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for line in [&b"{\"event\":\"echo:\xff\"}"[..], b"\xc3\x28", deep.as_bytes(), b"{\"event\":\"echo:x\"} {}", b"\0"] {
        client.say(line).await;
        assert_eq!(client.hear().await["code"], "INVALID_JSON");
    }
    client.say(b" \r").await;
    assert_eq!(client.ask(json!({ "event": "echo:x", "data": "\0" })).await["data"], "\0");
    // Of two keys the last one counts, for everybody who looks at the frame.
    client.say(br#"{"event":"nobody:home","event":"echo:x"}"#).await;
    assert_eq!(client.hear().await["data"], Value::Null);
    assert!(client.ask(json!({ "event": "echo:\0" })).await["error"].as_str().unwrap().contains("letters, digits"));
}

#[tokio::test]
async fn ids_come_back_as_they_were_given_or_are_refused() {
    let served = serve(|_| {}).await;
    let mut client = served.client().await;
    for id in [json!("c"), json!(7), json!(1.5)] {
        let answer = client.ask(json!({ "event": "echo:x", "correlation_id": id })).await;
        assert_eq!(answer["correlation_id"], id);
    }
    let (events, _) = served.bus.history(&Query { limit: 2, newest_first: true, ..Query::default() });
    assert_eq!(events[1].correlation_id, "7");
    assert!(client.ask(json!({ "event": "echo:x", "correlation_id": null })).await["correlation_id"].is_string());
    for (key, value) in [
        ("correlation_id", json!({ "a": 1 })),
        ("correlation_id", json!("c".repeat(ID_BYTES_MAX + 1))),
        ("client_id", json!("c".repeat(100_000))),
    ] {
        let mut frame = json!({ "event": "echo:x" });
        frame[key] = value;
        assert!(client.ask(frame).await["error"].as_str().unwrap().contains(&key.replace('_', " ")[..5]));
    }
    assert_eq!(client.ask(json!({ "event": "echo:x", "client_id": "me" })).await["client"], "me");
}

#[tokio::test]
async fn frames_that_follow_a_command_do_not_take_its_answer_away() {
    let served = serve(|_| {}).await;
    let mut client = served.client().await;
    let follow = format!("{{\"event\":\"echo:x\",\"data\":\"{}\"}}\n", "x".repeat(50_000)).repeat(4);
    client.say(format!("{{\"command\":\"GET_COMMANDS\"}}\n{follow}").as_bytes()).await;
    assert_eq!(client.hear().await["status"], "success");
    client.ends().await;
}

#[tokio::test]
async fn several_frames_and_a_half_close_are_all_answered_in_order() {
    let served = serve(|_| {}).await;
    let mut client = served.client().await;
    for number in 0..50 {
        client.say(json!({ "event": "echo:x", "data": number }).to_string().as_bytes()).await;
    }
    client.say(br#"{"event":"echo:slow","data":50}"#).await;
    client.0.get_mut().shutdown().await.unwrap();
    served.go.add_permits(1);
    for number in 0..=50 {
        assert_eq!(client.hear().await["data"], number);
    }
    client.ends().await;
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_has_its_place_when_another_goes() {
    let served = serve(|options| options.connections_max = 2).await;
    let (mut one, mut two) = (served.client().await, served.client().await);
    one.ask(json!({ "event": "echo:x" })).await;
    two.ask(json!({ "event": "echo:x" })).await;
    let mut three = served.client().await;
    let told = three.hear().await;
    assert_eq!(
        (&told["code"], told["error"].as_str().unwrap().contains("connections_max")),
        (&json!("RATE_LIMITED"), true)
    );
    three.ends().await;
    drop(one);
    let mut answer = json!({ "code": "RATE_LIMITED" });
    for _ in 0..30_000 {
        let mut client = served.client().await;
        client.0.get_mut().write_all(b"{\"event\":\"echo:x\",\"data\":4}\n").await.unwrap_or_default();
        answer = client.hear().await;
        if answer["code"] != "RATE_LIMITED" {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(answer["data"], 4);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_its_messages_wait_for_it() {
    const MESSAGES: u64 = 600;
    let served = serve(|options| options.write_timeout = Duration::from_millis(100)).await;
    let mut deaf = served.client().await;
    deaf.ask(json!({ "event": "transport:connection", "data": { "action": "connect", "agent_id": "ann" } })).await;
    for number in 0..MESSAGES {
        let data = json!({ "to": "ann", "message": { "number": number, "text": "x".repeat(4_096) } });
        served.bus.dispatch(Sender::Host, Draft::new("transport:send", data)).await.unwrap();
    }
    let mut waiting = Value::Null;
    for _ in 0..30_000 {
        let status = served.bus.dispatch(Sender::Host, Draft::new("transport:status", json!({}))).await.unwrap().answer;
        waiting = status["waiting"]["ann"].clone();
        if status["connected"] == json!([]) && waiting.is_number() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = waiting.as_u64().unwrap();
    assert!((1..MESSAGES).contains(&waiting), "{waiting} wait, the others lie in its socket");
    // It reads what was written, sees the end, and comes again for the others.
    let mut lines = String::new();
    tokio::time::timeout(Duration::from_mins(1), deaf.0.read_to_string(&mut lines)).await.unwrap().unwrap();
    let whole = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let read = whole.map(|push| push["number"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(read, (0..MESSAGES - waiting).collect::<Vec<_>>());
    let mut ann = served.client().await;
    ann.ask(json!({ "event": "transport:connection", "data": { "action": "connect", "agent_id": "ann" } })).await;
    for number in MESSAGES - waiting..MESSAGES {
        assert_eq!(ann.hear().await["number"], number);
    }
}

#[tokio::test]
async fn what_is_kept_for_the_absent_is_bounded_in_bytes() {
    let served = serve(|options| options.undelivered_bytes_max = 10_000).await;
    for (to, number) in [("ann", 1), ("bob", 2), ("bob", 3), ("bob", 4)] {
        let data = json!({ "to": to, "message": { "number": number, "text": "x".repeat(3_000) } });
        served.bus.dispatch(Sender::Host, Draft::new("transport:send", data)).await.unwrap();
    }
    let status = served.bus.dispatch(Sender::Host, Draft::new("transport:status", json!({}))).await.unwrap().answer;
    assert_eq!((&status["waiting"], &status["dropped"]), (&json!({ "ann": 1, "bob": 1 }), &json!(2)));
    let mut bob = served.client().await;
    bob.ask(json!({ "event": "transport:connection", "data": { "action": "connect", "agent_id": "bob" } })).await;
    assert_eq!(bob.hear().await["number"], 4, "the oldest of its own made place");
}

#[tokio::test]
async fn a_host_that_stops_answers_what_is_under_way() {
    let served = serve(|_| {}).await;
    let (mut busy, mut idle) = (served.client().await, served.client().await);
    idle.ask(json!({ "event": "echo:x" })).await;
    busy.say(br#"{"event":"echo:slow","data":1}"#).await;
    let depth = || served.bus.plugins().iter().find(|plugin| plugin.metadata.name == "echo").unwrap().queue_depth;
    while depth() == 0 {
        tokio::task::yield_now().await;
    }
    let Served { unix, go, folder, .. } = served;
    let stopping = tokio::spawn(unix.stop());
    idle.ends().await;
    go.add_permits(1);
    assert_eq!(busy.hear().await["data"], 1);
    busy.ends().await;
    stopping.await.unwrap();
    assert!(SOCKETS.iter().all(|name| !folder.path().join(format!("{name}.sock")).exists()));
}

#[tokio::test]
async fn a_command_that_a_plugin_took_over_is_answered_by_it() {
    let served = serve(|_| {}).await;
    let answer = served.client().await.ask(json!({ "command": "COMPOSE_PROMPT", "parameters": { "a": 1 } })).await;
    assert_eq!((&answer["status"], &answer["command"]), (&json!("success"), &json!("COMPOSE_PROMPT")), "{answer}");
    let answer = served.client().await.ask(json!({ "command": "COMPOSE_PROMPTS" })).await;
    assert_eq!(answer["error"]["code"], "UNKNOWN_COMMAND");
    let pure = serve(|options| options.mode = Mode::Pure).await;
    let answer = pure.client().await.ask(json!({ "command": "COMPOSE_PROMPT" })).await;
    assert_eq!(answer["error"]["code"], "LEGACY_DISABLED");
    assert_eq!(answer["error"]["details"]["event"], "legacy:compose_prompt");
}

#[tokio::test]
async fn who_waits_longer_than_the_grace_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, _never) = bus_with(Options { shutdown_grace: Duration::from_millis(100), ..Options::default() });
    let unix = Unix::start(&bus, UnixOptions::in_folder(folder.path())).await.unwrap();
    let stream = UnixStream::connect(folder.path().join("events.sock")).await.unwrap();
    let mut client = Client(BufReader::new(stream));
    client.say(br#"{"event":"echo:slow","correlation_id":"c"}"#).await;
    while bus.plugins()[0].queue_depth == 0 {
        tokio::task::yield_now().await;
    }
    let stopped = tokio::spawn(unix.stop());
    let answer = client.hear().await;
    assert_eq!((&answer["code"], &answer["correlation_id"]), (&json!("TIMEOUT"), &json!("c")), "{answer}");
    client.ends().await;
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_thousand_idle_clients_keep_nobody_waiting() {
    const CLIENTS: usize = 1_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // Both ends of each are in this process.
    let wanted = (2 * CLIENTS + 200) as u64;
    if limit.current.is_some_and(|now| now < wanted) {
        let raised = rustix::process::Rlimit { current: Some(wanted), ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    }
    let served = serve(|_| {}).await;
    let mut idle = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        let mut client = served.client().await;
        assert_eq!(client.ask(json!({ "event": "echo:x", "data": number })).await["data"], number);
        idle.push(client);
    }
    let mut active = served.client().await;
    for number in 0..500 {
        assert_eq!(active.ask(json!({ "event": "echo:x", "data": number })).await["data"], number);
    }
    for (number, client) in idle.iter_mut().enumerate() {
        assert_eq!(client.ask(json!({ "event": "echo:x", "data": number })).await["data"], number);
    }
}

fn refusal(started: Result<Unix, UnixError>) -> String {
    started.err().unwrap().to_string()
}

async fn start(folder: &Path) -> Result<Unix, UnixError> {
    Unix::start(&bus().0, UnixOptions::in_folder(folder)).await
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("d".repeat(90));
    let why = refusal(start(&long).await);
    assert!(why.contains("at most 107 are possible: name a shorter socket_dir"), "{why}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let why = refusal(start(&file.join("sockets")).await);
    assert!(why.contains(file.to_str().unwrap()), "{why}");
    // What somebody else serves, who knows nothing of our lock, is not taken from them.
    let served = folder.path().join("served");
    std::fs::create_dir(&served).unwrap();
    let theirs = std::os::unix::net::UnixListener::bind(served.join("state.sock")).unwrap();
    assert!(matches!(start(&served).await.err().unwrap(), UnixError::Taken(path) if path == served.join("state.sock")));
    assert!(!served.join("control.sock").exists(), "none is left behind");
    drop(theirs);
    start(&served).await.unwrap().stop().await;
    if rustix::process::geteuid().is_root() {
        let foreign = folder.path().join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
        let why = refusal(start(&foreign).await);
        assert!(why.contains("the folder is user 65534's"), "{why}");
    }
}

#[tokio::test]
async fn sockets_and_their_folder_are_open_to_those_who_may_use_them() {
    let folder = tempfile::tempdir().unwrap();
    for (permissions, of_folder) in [(0o600, 0o700), (0o660, 0o750)] {
        let sockets = folder.path().join(format!("{permissions:o}"));
        let options = UnixOptions { permissions, ..UnixOptions::in_folder(&sockets) };
        let unix = Unix::start(&bus().0, options).await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&sockets) & !0o022, of_folder, "but for what the umask takes");
        for name in SOCKETS {
            assert_eq!(mode(&sockets.join(format!("{name}.sock"))), permissions);
        }
        assert!(!sockets.join(".new").exists());
        // A socket of a process that has died is replaced.
        unix.stop().await;
        drop(std::os::unix::net::UnixListener::bind(sockets.join("state.sock")).unwrap());
        let again = start(&sockets).await.unwrap();
        assert!(UnixStream::connect(sockets.join("state.sock")).await.is_ok());
        again.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_reads_late_has_all_its_messages_in_their_order() {
    const MESSAGES: u64 = 600;
    let served = serve(|options| options.lines_waiting_max = 4).await;
    let mut late = served.client().await;
    late.ask(json!({ "event": "transport:connection", "data": { "action": "connect", "agent_id": "ann" } })).await;
    let send = async |number: u64| {
        let data = json!({ "to": "ann", "message": { "number": number, "text": "x".repeat(4_096) } });
        served.bus.dispatch(Sender::Host, Draft::new("transport:send", data)).await.unwrap().answer["status"].clone()
    };
    let mut last = Value::Null;
    for number in 0..MESSAGES {
        last = send(number).await;
    }
    assert_eq!(last, "queued", "its queue is full");
    for number in 0..MESSAGES / 2 {
        assert_eq!(late.hear().await["number"], number);
    }
    send(MESSAGES).await;
    for number in MESSAGES / 2..=MESSAGES {
        assert_eq!(late.hear().await["number"], number);
    }
}

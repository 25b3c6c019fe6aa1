//! A bus with all its services and sockets, and how its answers are compared, for the tests of the catalogue and of the
//! older commands.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use futures_util::future::BoxFuture;
use gavel_bus::services::{
    About, Agents, Completion, CompletionLimits, Completions, Messages, Profile, ProfileSource, Profiles, Prompt,
    Provider, State, System,
};
use gavel_bus::unix::{Mode, Unix, UnixOptions};
use gavel_bus::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

pub struct Served {
    pub folder: tempfile::TempDir,
    pub bus: Bus,
    _unix: Unix,
    /// A permit lets one completion end.
    pub go: Arc<Semaphore>,
    /// Milliseconds since 1970.
    pub now: Arc<AtomicU64>,
}

/// Says the prompt back, when it is let.
struct Echo(Arc<Semaphore>);

impl Provider for Echo {
    fn name(&self) -> String {
        "echo".to_owned()
    }

    fn complete(&self, prompt: Prompt) -> BoxFuture<'_, Result<Completion, (String, String)>> {
        Box::pin(async move {
            self.0.acquire().await.unwrap().forget();
            match prompt.prompt.as_str() {
                "fail" => Err(("OVERLOADED".to_owned(), "as it was told".to_owned())),
                "panic" => panic!("as it was told"),
                _ => Ok(Completion {
                    response: prompt.prompt,
                    session_id: Some(prompt.session_id.unwrap_or_else(|| "s1".to_owned())),
                    model: if prompt.model.is_empty() { "echo-1".to_owned() } else { prompt.model },
                    usage: json!({ "total_tokens": 7 }),
                }),
            }
        })
    }
}

struct Host;

impl About for Host {
    fn version(&self) -> String {
        "1.2.3".to_owned()
    }

    fn shut_down(&self, reason: &str, _grace_seconds: f64) -> Result<(), String> {
        if reason == "no" { Err("not now".to_owned()) } else { Ok(()) }
    }

    fn reload<'a>(&'a self, plugin: &'a str) -> BoxFuture<'a, Result<(), String>> {
        let known = plugin == "mine";
        Box::pin(std::future::ready(if known { Ok(()) } else { Err(format!("no folder of '{plugin}'")) }))
    }
}

struct Team;

impl ProfileSource for Team {
    fn profiles(&self) -> BoxFuture<'_, Profiles> {
        let worker = Profile {
            role: "worker".to_owned(),
            capabilities: vec!["dig".to_owned()],
            system_prompt: "You dig.".to_owned(),
            prompt: "Do {task}".to_owned(),
            model: "echo-2".to_owned(),
        };
        Box::pin(std::future::ready(Profiles {
            good: BTreeMap::from([("worker".to_owned(), worker)]),
            bad: BTreeMap::from([("bad".to_owned(), "bad.json: `role`: it is a number".to_owned())]),
        }))
    }
}

/// A bus at half past noon, with everything on it.
pub async fn serve(mode: Mode) -> Served {
    serve_with(mode, Options::default()).await
}

pub async fn serve_with(mode: Mode, options: Options) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(45_000_000));
    let clock = Arc::clone(&now);
    let bus = Bus::new(options, move || clock.load(Ordering::SeqCst));
    let store = Store::open(None, StoreLimits::default(), Arc::new(NoAudit)).await.unwrap();
    let go = Arc::new(Semaphore::new(0));
    bus.register(vec![
        State::registration(&store, BTreeMap::new()),
        Messages::registration(),
        Agents::with_profiles(&store, Arc::new(Team)),
        Completions::registration(Arc::new(Echo(Arc::clone(&go))), CompletionLimits::default()),
        System::registration(&bus, Arc::new(Host)),
    ])
    .unwrap();
    let options = UnixOptions { mode, ..UnixOptions::in_folder(folder.path()) };
    let unix = Unix::start(&bus, options).await.unwrap();
    Served { folder, bus, _unix: unix, go, now }
}

/// A connection to a socket.
pub struct Client(BufReader<UnixStream>);

impl Served {
    pub async fn client(&self, socket: &str) -> Client {
        let path: PathBuf = self.folder.path().join(format!("{socket}.sock"));
        Client(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }
}

impl Client {
    pub async fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line.
    pub async fn hear(&mut self) -> Value {
        let mut line = String::new();
        tokio::time::timeout(Duration::from_mins(1), self.0.read_line(&mut line)).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line:?}: {why}"))
    }

    /// Whatever comes until the server closes.
    pub async fn rest(mut self) -> String {
        let mut rest = String::new();
        tokio::time::timeout(Duration::from_mins(1), self.0.read_to_string(&mut rest)).await.unwrap().unwrap();
        rest
    }
}

/// Whether a value is as expected, to the last key; `"*"` stands for anything.
pub fn fits(expected: &Value, value: &Value) -> bool {
    match (expected, value) {
        (Value::String(any), _) if any == "*" => true,
        (Value::Object(expected), Value::Object(value)) => {
            expected.len() == value.len()
                && expected.iter().all(|(key, expected)| value.get(key).is_some_and(|value| fits(expected, value)))
        }
        (Value::Array(expected), Value::Array(value)) => {
            expected.len() == value.len() && expected.iter().zip(value).all(|(expected, value)| fits(expected, value))
        }
        _ => expected == value,
    }
}

pub async fn ask(served: &Served, event: &str, data: Value) -> Value {
    let draft = Draft { client_id: Some("c1".to_owned()), ..Draft::new(event, data) };
    match served.bus.dispatch(Sender::Client("unix:7/1".into()), draft).await {
        Ok(reply) => Value::Object(reply.answer),
        Err(why) => Value::Object(why.answer()),
    }
}

pub fn refusal(code: &str) -> Value {
    json!({ "error": "*", "code": code })
}

/// Ask each in its order, and compare.
pub async fn check(served: &Served, rows: Vec<(&str, Value, Value)>) {
    for (event, data, expected) in rows {
        let answer = ask(served, event, data.clone()).await;
        assert!(fits(&expected, &answer), "{event} {data}\n     gave {answer}\n expected {expected}");
    }
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..60_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain until {what}");
}

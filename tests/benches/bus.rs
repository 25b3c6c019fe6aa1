//! What the event bus costs, each figure beside its reference in the same run: an answered event beside a message to a
//! task and back, the way over a socket beside a bare echo of the same lines. Then how many events two threads route to
//! twenty plugins, whether a plugin that panics on every event costs any other a single one, and what an idle client holds.
//!
//! What two cores do is computed from the CPU time spent, so that others on the machine do not count.
//!
//! `cargo bench --bench bus [-- EVENTS]`; 1,000,000 events beside the panicking plugin by default.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops where it cannot go on")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]

mod measure;

use gavel_bus::unix::{Unix, UnixOptions};
use gavel_bus::{
    Bus, Capabilities, Draft, Event, Fault, Handle, Metadata, Options, Pattern, Plugin, Registration, Sender,
};
use serde_json::{Value, json};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

const PLUGINS: usize = 20;
/// Letters that may wait for one plugin before the sender makes a pause: half of a mailbox.
const BEHIND_MAX: u64 = 5_000;

type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = Result<T, Fault>> + Send + 'a>>;

/// Answers with what it is asked, counts what it hears, and panics where it is told to.
#[derive(Clone, Default)]
struct Made {
    heard: Arc<AtomicU64>,
    panics: bool,
    concurrent: bool,
}

impl Plugin for Made {
    fn startup(&self, _config: Value, _handle: Handle) -> Future<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> Future<'_, Value> {
        Box::pin(async move { Ok(event.data.clone()) })
    }

    fn hear(&self, _event: Arc<Event>) -> Future<'_, ()> {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let panics = self.panics;
        Box::pin(async move {
            assert!(!panics, "as it was told");
            Ok(())
        })
    }

    fn concurrent(&self) -> bool {
        self.concurrent
    }
}

fn registration(name: &str, namespace: &str, subscribes: &[String], made: &Made) -> Registration {
    let made = made.clone();
    Registration {
        metadata: Metadata { name: name.to_owned(), version: "1".to_owned(), ..Metadata::default() },
        capabilities: Capabilities {
            event_namespaces: vec![namespace.to_owned()],
            subscribes: subscribes.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect(),
            ..Capabilities::default()
        },
        config: Value::Null,
        digest: "native".to_owned(),
        factory: Arc::new(move || made.clone()),
    }
}

fn main() {
    let events = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let run = |what: Pin<Box<dyn std::future::Future<Output = ()> + Send>>| {
        runtime.block_on(async { tokio::spawn(what).await.unwrap() });
    };
    // First: later, memory that was given back is used again, and none is seen to be taken.
    run(Box::pin(idle_clients()));
    run(Box::pin(answers()));
    run(Box::pin(routing("answered", 400_000, true)));
    run(Box::pin(routing("emitted", 400_000, false)));
    run(Box::pin(sockets()));
    std::panic::set_hook(Box::new(|_| {}));
    run(Box::pin(beside_a_crash(events)));
}

/// The times of a figure, in the order in which they came.
struct Times(Vec<Duration>);

impl Times {
    fn micros(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a sample")]
        let at = ((sorted.len() - 1) as f64 * part) as usize;
        sorted[at].as_secs_f64() * 1e6
    }

    fn print(&self, what: &str, reference: &Self) {
        let (p50, p99) = (self.micros(0.5), self.micros(0.99));
        let ratio = p50 / reference.micros(0.5);
        println!("{what:<58} p50 {p50:>8.2} us   p99 {p99:>8.2} us   {ratio:>6.2} x");
    }
}

fn payload() -> Value {
    json!({ "key": "colour", "value": { "red": 200, "name": "a reddish one" } })
}

// --- one event at a time, in the process ---

async fn answers() {
    const ROUNDS: usize = 100_000;
    let reference = message_and_back(ROUNDS).await;
    reference.print("a message to a task and back (mpsc, oneshot)", &reference);
    for (what, concurrent) in [("an event answered by a plugin", false), ("... by one for many at once", true)] {
        let bus = Bus::new(Options::default(), || 0);
        let made = Made { concurrent, ..Made::default() };
        bus.register(vec![registration("echo", "echo", &[], &made)]).unwrap();
        let mut times = Times(Vec::with_capacity(ROUNDS));
        for _ in 0..ROUNDS {
            let draft = Draft::new("echo:say", payload());
            let begin = Instant::now();
            bus.dispatch(Sender::Host, draft).await.unwrap();
            times.0.push(begin.elapsed());
        }
        times.print(&format!("{what} (goal 5 us)"), &reference);
    }
}

async fn message_and_back(rounds: usize) -> Times {
    let (sender, mut receiver) = mpsc::channel::<(Value, oneshot::Sender<Value>)>(16);
    let echo = tokio::spawn(async move {
        while let Some((value, back)) = receiver.recv().await {
            back.send(value).unwrap();
        }
    });
    let mut times = Times(Vec::with_capacity(rounds));
    for _ in 0..rounds {
        let value = payload();
        let begin = Instant::now();
        let (back, answer) = oneshot::channel();
        sender.send((value, back)).await.unwrap();
        answer.await.unwrap();
        times.0.push(begin.elapsed());
    }
    drop(sender);
    echo.await.unwrap();
    times
}

// --- many events on two threads ---

/// Each plugin owns a namespace, and hears all of its neighbour's and every error.
async fn routing(what: &str, events: u64, answered: bool) {
    let bus = Bus::new(Options::default(), || 0);
    let heard = Made::default();
    let plugins = (0..PLUGINS).map(|at| {
        let subscribes = [format!("n{}:*", (at + 1) % PLUGINS), "*:error".to_owned()];
        registration(&format!("p{at}"), &format!("n{at}"), &subscribes, &heard)
    });
    bus.register(plugins.collect()).unwrap();
    let before = spent();
    let sent = Arc::new(AtomicU64::new(0));
    let drivers: Vec<_> = (0..2)
        .map(|_| {
            let (bus, sent, heard) = (bus.clone(), Arc::clone(&sent), Arc::clone(&heard.heard));
            tokio::spawn(async move {
                for at in 0..events / 2 {
                    let draft =
                        Draft::new(&format!("n{}:say", usize::try_from(at).unwrap_or(usize::MAX) % PLUGINS), payload());
                    if answered {
                        bus.dispatch(Sender::Host, draft).await.unwrap();
                    } else {
                        assert_eq!(bus.emit(Sender::Host, draft).await.unwrap().refused, Vec::<String>::new());
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                    while sent.load(Ordering::Relaxed).saturating_sub(heard.load(Ordering::Relaxed)) > BEHIND_MAX {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for driver in drivers {
        driver.await.unwrap();
    }
    until(|| heard.heard.load(Ordering::Relaxed) == events).await;
    println!(
        "{what} events, each heard by another of {PLUGINS} plugins, on two cores: {:.0}/s (goal 100,000)",
        on_two_cores(events, before)
    );
}

/// CPU time of this process so far.
fn spent() -> Duration {
    measure::cpu_of(std::process::id())
}

/// Events a second of two busy cores, from the CPU time spent since `before`.
fn on_two_cores(events: u64, before: Duration) -> f64 {
    2.0 * events as f64 / spent().saturating_sub(before).as_secs_f64()
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One of twenty that hear every event panics each time it is told of one.
async fn beside_a_crash(events: u64) {
    let options = Options { backoff_first: Duration::ZERO, backoff_max: Duration::ZERO, ..Options::default() };
    let bus = Bus::new(options, || 0);
    let all: Vec<_> = (0..PLUGINS).map(|at| Made { panics: at == 7, ..Made::default() }).collect();
    let every = ["*".to_owned()];
    let plugins = all.iter().enumerate();
    let plugins = plugins.map(|(at, made)| registration(&format!("p{at}"), &format!("n{at}"), &every, made));
    bus.register(plugins.collect()).unwrap();
    let before = spent();
    let behind =
        |sent: u64| all.iter().any(|made| sent.saturating_sub(made.heard.load(Ordering::Relaxed)) > BEHIND_MAX);
    for sent in 0..events {
        bus.emit(Sender::Host, Draft::new("news:flash", json!({ "number": sent }))).await.unwrap();
        if sent % 64 == 0 {
            while behind(sent) {
                tokio::task::yield_now().await;
            }
        }
    }
    until(|| all.iter().all(|made| made.heard.load(Ordering::Relaxed) == events)).await;
    let rate = on_two_cores(events, before);
    let lost: u64 = all.iter().map(|made| events - made.heard.load(Ordering::Relaxed)).sum();
    let crashes = bus.plugins().iter().find(|plugin| plugin.metadata.name == "p7").unwrap().counts.errors;
    assert_eq!((lost, crashes), (0, events), "every event was heard by all, and the one panicked each time");
    println!(
        "{events} events to {PLUGINS} plugins, one of which panicked {crashes} times: {lost} lost, {rate:.0} events/s on two cores"
    );
}

// --- over a socket ---

async fn sockets() {
    const ROUNDS: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let echo = folder.path().join("echo");
    let listener = UnixListener::bind(&echo).unwrap();
    let bare = tokio::spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let mut line = String::new();
        while stream.read_line(&mut line).await.unwrap() > 0 {
            let frame: Value = serde_json::from_str(&line).unwrap();
            stream.get_mut().write_all(format!("{frame}\n").as_bytes()).await.unwrap();
            line.clear();
        }
    });
    let reference = lines_and_back(&echo, ROUNDS).await;
    reference.print("a line to a bare echo, parsed and written again", &reference);
    bare.await.unwrap();
    let bus = Bus::new(Options::default(), || 0);
    bus.register(vec![registration("echo", "echo", &[], &Made::default())]).unwrap();
    let unix = Unix::start(&bus, UnixOptions::in_folder(folder.path())).await.unwrap();
    let times = lines_and_back(&folder.path().join("events.sock"), ROUNDS).await;
    times.print("an event answered on the socket (goal 100 us)", &reference);
    unix.stop().await;
}

async fn lines_and_back(path: &Path, rounds: usize) -> Times {
    let mut stream = BufReader::new(UnixStream::connect(path).await.unwrap());
    let line = format!("{}\n", json!({ "event": "echo:say", "data": payload(), "correlation_id": "c-1" }));
    let (mut answer, mut times) = (String::new(), Times(Vec::with_capacity(rounds)));
    for _ in 0..rounds {
        let begin = Instant::now();
        stream.get_mut().write_all(line.as_bytes()).await.unwrap();
        stream.read_line(&mut answer).await.unwrap();
        times.0.push(begin.elapsed());
        assert!(answer.contains("colour"), "{answer}");
        answer.clear();
    }
    times
}

/// What clients hold that have asked once and say nothing more.
async fn idle_clients() {
    const CLIENTS: usize = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::new(Options { history_events_max: 1, ..Options::default() }, || 0);
    bus.register(vec![registration("echo", "echo", &[], &Made::default())]).unwrap();
    let unix = Unix::start(&bus, UnixOptions::in_folder(folder.path())).await.unwrap();
    let mut clients = connect(folder.path(), 50).await;
    let before = resident();
    clients.extend(connect(folder.path(), CLIENTS).await);
    let held = resident().saturating_sub(before) as f64 / CLIENTS as f64;
    let idle = lines_and_back(&folder.path().join("events.sock"), 5_000).await;
    println!("an idle client holds {:.1} KiB (of {CLIENTS})", held / 1024.0);
    idle.print("... an answer to one that is busy beside them", &idle);
    drop(clients);
    unix.stop().await;
}

async fn connect(folder: &Path, clients: usize) -> Vec<UnixStream> {
    let mut connected = Vec::with_capacity(clients);
    for _ in 0..clients {
        let mut client = UnixStream::connect(folder.join("control.sock")).await.unwrap();
        client.write_all(b"{\"event\":\"echo:say\",\"data\":{}}\n").await.unwrap();
        client.readable().await.unwrap();
        connected.push(client);
    }
    connected
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

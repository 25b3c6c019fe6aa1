//! A host of a few: a bus with one plugin, and the bridge to the others.

use crate::server::{Nats, until_or};
use futures_util::future::BoxFuture;
use gavel::bus::nats::{Bridge, NatsCounts, NatsFile};
use gavel::clock::Clock;
use gavel_bus::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What the plugin answers; given the event, its way back to the bus, and how often it was asked before.
type Answer = dyn Fn(Arc<Event>, Handle, usize) -> BoxFuture<'static, Result<Value, Fault>> + Send + Sync;

/// The events of other hosts that were handled: who sent them, their names, and what they say.
pub(crate) type Handled = Arc<Mutex<Vec<(String, String, Value)>>>;

/// Where a host lives, whether it runs or not.
pub(crate) struct Place {
    pub(crate) name: String,
    folder: TempDir,
}

/// A host that runs. Dropped, it is as a process that was killed: nothing is brought to its end.
pub(crate) struct Node {
    runtime: Option<Runtime>,
    bridge: Option<Bridge>,
    pub(crate) bus: Bus,
    pub(crate) handled: Handled,
}

/// The plugin `notes`.
#[derive(Clone)]
struct Notes {
    answer: Arc<Answer>,
    handled: Handled,
    asked: Arc<Mutex<usize>>,
    handle: Arc<Mutex<Option<Handle>>>,
}

impl Plugin for Notes {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        *self.handle.lock().unwrap() = Some(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move {
            let handle = self.handle.lock().unwrap().clone().unwrap();
            let before = std::mem::replace(&mut *self.asked.lock().unwrap(), 0);
            *self.asked.lock().unwrap() = before + 1;
            let answered = (self.answer)(Arc::clone(&event), handle, before).await;
            if answered.is_ok() && matches!(event.sender, Sender::Peer(_)) {
                let it = (event.sender.to_string(), event.name.clone(), event.data.clone());
                self.handled.lock().unwrap().push(it);
            }
            answered
        })
    }
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The key by which others know it: made by a start without a server.
    pub(crate) fn key(&self) -> String {
        let path = self.data().join("nats.pub");
        if !path.exists() {
            let alone = json!({ "url": "nats://127.0.0.1:9", "host": self.name, "publish": ["none:*"] });
            drop(self.run_with(alone, &bus_of(Options::default(), &fresh(plain()))));
        }
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// The section `bus.nats` of a host that gives and takes all notes.
    pub(crate) fn config(&self, nats: &Nats, peers: &[&Place]) -> Value {
        let mut config = json!({
            "url": nats.url(), "host": self.name, "publish": ["notes:*"],
            "limits": {"reconnect_max_ms": 200, "retry_first_ms": 10, "retry_max_ms": 50, "ack_wait_s": 2},
        });
        if !peers.is_empty() {
            config["accept"] = json!(["notes:*"]);
            let peers = peers.iter().map(|peer| json!({ "name": peer.name, "key": peer.key() }));
            config["peers"] = peers.collect();
        }
        config
    }

    /// Start it, with a plugin that says yes to everything.
    pub(crate) fn run(&self, config: Value) -> Node {
        self.run_answering(config, plain())
    }

    /// Start it, with a plugin that answers so.
    pub(crate) fn run_answering(&self, config: Value, answer: Arc<Answer>) -> Node {
        let notes = fresh(answer);
        let mut node = self.run_with(config, &bus_of(Options::default(), &notes));
        node.handled = notes.handled;
        node
    }

    fn run_with(&self, config: Value, bus: &Bus) -> Node {
        let file: NatsFile = serde_json::from_value(config).unwrap();
        file.validate().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let bridge = runtime.block_on(Bridge::start(file, bus, &self.data())).unwrap();
        Node { runtime: Some(runtime), bridge: Some(bridge), bus: bus.clone(), handled: Handled::default() }
    }
}

fn fresh(answer: Arc<Answer>) -> Notes {
    Notes { answer, handled: Handled::default(), asked: Arc::default(), handle: Arc::default() }
}

fn bus_of(options: Options, notes: &Notes) -> Bus {
    let clock = Clock::System;
    let bus = Bus::new(options, move || clock.now_ms());
    let notes = notes.clone();
    let registration = Registration {
        metadata: Metadata { name: "notes".to_owned(), version: "1".to_owned(), ..Metadata::default() },
        capabilities: Capabilities {
            event_namespaces: vec!["notes".to_owned()],
            emits: vec![Pattern::parse("*").unwrap()],
            ..Capabilities::default()
        },
        config: Value::Null,
        digest: "native".to_owned(),
        factory: Arc::new(move || notes.clone()),
    };
    bus.register(vec![registration]).unwrap();
    bus
}

/// Yes to everything.
pub(crate) fn plain() -> Arc<Answer> {
    Arc::new(|_, _, _| Box::pin(std::future::ready(Ok(json!({})))))
}

impl Node {
    pub(crate) fn counts(&self) -> NatsCounts {
        self.bridge.as_ref().unwrap().counts()
    }

    /// Send events as a client of this host, each once the one before was answered.
    pub(crate) fn send(&self, name: &str, numbers: impl IntoIterator<Item = u64>) {
        self.runtime().block_on(async {
            for number in numbers {
                let draft = Draft { correlation_id: Some(format!("c\r\n{number}")), ..Draft::new(name, json!(number)) };
                self.bus.dispatch(Sender::Client("me".into()), draft).await.unwrap();
            }
        });
    }

    /// The numbers in the handled events of a sender, as they came.
    pub(crate) fn numbers(&self, sender: &str) -> Vec<u64> {
        let handled = self.handled.lock().unwrap();
        handled.iter().filter(|(from, ..)| from == sender).map(|(.., data)| data.as_u64().unwrap()).collect()
    }

    /// Wait until so many events of a sender were handled.
    pub(crate) fn wait_for(&self, sender: &str, count: usize) {
        let end = || format!("{count} events of {sender}, {:?}", self.counts());
        until_or(end, || self.handled.lock().unwrap().iter().filter(|(from, ..)| from == sender).count() >= count);
    }

    /// Wait until the counts are so.
    pub(crate) fn wait_for_counts(&self, what: &str, holds: impl Fn(&NatsCounts) -> bool) {
        until_or(|| format!("{what}, {:?}", self.counts()), || holds(&self.counts()));
    }

    /// End as a host does.
    pub(crate) fn stop(mut self) {
        let mut bridge = self.bridge.take().unwrap();
        self.runtime().block_on(async {
            bridge.stop_receiving().await;
            self.bus.shutdown().await;
            bridge.stop().await;
        });
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its tasks are dropped where they stand.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(gavel_tests::PATIENCE);
        }
    }
}

//! Who is connected, what waits for whom, and the plugin that owns `transport:*`.

use super::view::{Open, Tally, UnixCounts};
use super::{SOCKETS, UnixOptions, legacy, watching};
use crate::bus::Bus;
use crate::event::{Draft, Event, Sender};
use crate::handle::Handle;
use crate::pattern::Pattern;
use crate::plugin::{Capabilities, Fault, Metadata, Plugin, Registration};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// The most pairs of command and client whose uses are counted apart.
const USES_MAX: usize = 10_000;
/// The most agents for whom messages are kept.
const ABSENT_MAX: usize = 10_000;
/// The most completions whose results are awaited.
const AWAITED_MAX: usize = 10_000;

/// A line on its way to a client.
pub(super) struct Out {
    pub(super) line: String,
    /// Told when it is out.
    pub(super) flushed: Option<oneshot::Sender<()>>,
}

pub(super) struct Hub {
    bus: Bus,
    options: Arc<UnixOptions>,
    state: Mutex<State>,
    numbers: AtomicU64,
    tally: Tally,
}

#[derive(Default)]
struct State {
    present: HashMap<String, (u64, mpsc::Sender<Out>)>,
    absent: BTreeMap<String, VecDeque<Value>>,
    /// Completions whose acknowledgement is not out, or whose result has not come, by correlation id.
    awaited: HashMap<String, Awaited>,
    uses: BTreeMap<(String, String), u64>,
    dropped: u64,
}

#[derive(Default)]
struct Awaited {
    client: Option<String>,
    acknowledged: bool,
    result: Option<Value>,
}

impl Hub {
    pub(super) fn new(bus: Bus, options: Arc<UnixOptions>) -> Self {
        Self { bus, options, state: Mutex::default(), numbers: AtomicU64::new(1), tally: Tally::default() }
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(super) fn options(&self) -> &UnixOptions {
        &self.options
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.bus.now_ms()
    }

    /// The plugin that answers `transport:*` and what only sockets know.
    pub(super) fn registration(hub: &Arc<Self>) -> Registration {
        let hub = Arc::clone(hub);
        let patterns = |texts: &[&str]| texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        Registration {
            metadata: Metadata {
                name: "unix_transport".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                description: "Speaks with clients over Unix sockets.".to_owned(),
                author: "gavel".to_owned(),
                ..Metadata::default()
            },
            capabilities: Capabilities {
                event_namespaces: vec!["transport".to_owned()],
                commands: vec!["system:commands".to_owned(), "system:processes".to_owned()],
                provides_services: vec!["transport".to_owned()],
                subscribes: patterns(&["completion:result", "completion:error"]),
                emits: patterns(&["agent:list"]),
                ..Capabilities::default()
            },
            config: Value::Null,
            digest: "native".to_owned(),
            factory: Arc::new(move || Transport { hub: Arc::clone(&hub), handle: std::sync::OnceLock::new() }),
        }
    }

    /// An agent is there, on this connection. What waited for it goes out.
    pub(super) fn came(&self, agent: &str, number: u64, out: mpsc::Sender<Out>) {
        let mut state = self.state();
        for message in state.absent.remove(agent).into_iter().flatten() {
            if let Err(message) = put(&out, message) {
                state.keep(agent, message, self.options.undelivered_max);
            }
        }
        state.present.insert(agent.to_owned(), (number, out));
    }

    /// An agent has gone, if it was on this connection.
    pub(super) fn left(&self, agent: &str, number: u64) {
        let mut state = self.state();
        if state.present.get(agent).is_some_and(|(on, _)| *on == number) {
            state.present.remove(agent);
        }
    }

    /// Push a message to an agent, or keep it until it comes. Says which.
    fn push(&self, agent: &str, message: Value) -> &'static str {
        let mut state = self.state();
        let message = match state.present.get(agent) {
            Some((_, out)) => match put(out, message) {
                Ok(()) => return "delivered",
                Err(message) => message,
            },
            None => message,
        };
        state.keep(agent, message, self.options.undelivered_max);
        "queued"
    }

    /// A completion is about to be asked for: what comes of it waits for [`Self::acknowledged`]. Gives its correlation id.
    pub(super) fn expect(&self, client: Option<&str>) -> String {
        let id = format!("unix-completion-{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        let mut state = self.state();
        if state.awaited.len() < AWAITED_MAX {
            let awaited = Awaited { client: client.map(str::to_owned), ..Awaited::default() };
            state.awaited.insert(id.clone(), awaited);
        }
        id
    }

    /// The acknowledgement is flushed. Without agreement nothing follows.
    pub(super) fn acknowledged(&self, id: &str, agreed: bool) {
        let mut state = self.state();
        let Some(awaited) = state.awaited.get_mut(id) else { return };
        awaited.acknowledged = true;
        let result = awaited.result.take();
        let client = awaited.client.clone();
        if !agreed || result.is_some() {
            state.awaited.remove(id);
        }
        drop(state);
        if let (Some(client), Some(result), true) = (client, result, agreed) {
            self.push(&client, result);
        }
    }

    /// A completion has ended.
    fn completed(&self, event: &Event) {
        let mut state = self.state();
        let Some(awaited) = state.awaited.get_mut(&event.correlation_id) else { return };
        let client = awaited.client.clone();
        let mut push = frame(event, "COMPLETION_RESULT", Value::Null, &Value::Null);
        push["request_id"] = event.data["request_id"].clone();
        push["client_id"] = json!(client);
        push["to"] = json!(client);
        push["result"] = event.data["result"].clone();
        if !awaited.acknowledged {
            awaited.result = Some(push);
            return;
        }
        state.awaited.remove(&event.correlation_id);
        drop(state);
        if let Some(client) = client {
            self.push(&client, push);
        }
    }

    /// Count a use of a command.
    pub(super) fn count(&self, command: &str, client: &str) {
        let mut state = self.state();
        let key = (command.to_owned(), client.to_owned());
        if state.uses.len() < USES_MAX || state.uses.contains_key(&key) {
            *state.uses.entry(key).or_default() += 1;
        }
    }

    /// A connection is there, as long as what this gives lives.
    pub(super) fn opened(&self) -> Open<'_> {
        self.tally.opened()
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What an operator counts.
    pub(super) fn counts(&self) -> UnixCounts {
        let state = self.state();
        UnixCounts {
            mode: self.options.mode,
            connections: self.tally.connections(),
            agents: state.present.len(),
            undelivered: state.absent.values().map(VecDeque::len).sum(),
            dropped: state.dropped,
            watchers_missed: self.tally.missed(),
            legacy: self.tally.legacy(),
        }
    }

    pub(super) fn status(&self) -> Value {
        let state = self.state();
        let uses: Vec<Value> = state
            .uses
            .iter()
            .map(|((command, client), uses)| json!({ "command": command, "client": client, "uses": uses, "event": legacy::event_of(command) }))
            .collect();
        json!({
            "sockets": SOCKETS.map(|name| self.options.socket_dir.join(format!("{name}.sock"))),
            "mode": self.options.mode,
            "connections": self.tally.connections(),
            "connected": state.present.keys().collect::<std::collections::BTreeSet<_>>(),
            "waiting": state.absent.iter().map(|(agent, kept)| (agent.clone(), json!(kept.len()))).collect::<Map<_, _>>(),
            "undelivered": state.absent.values().map(VecDeque::len).sum::<usize>(),
            "dropped": state.dropped,
            "legacy_uses": uses,
            "bus": self.bus.overview(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, agent: &str, message: Value, most: usize) {
        if self.absent.len() >= ABSENT_MAX && !self.absent.contains_key(agent) {
            self.dropped += 1;
            return;
        }
        let kept = self.absent.entry(agent.to_owned()).or_default();
        kept.push_back(message);
        if kept.len() > most {
            kept.pop_front();
            self.dropped += 1;
        }
    }
}

/// Put a line into a client's queue; the message back if there is no room or nobody.
fn put(out: &mpsc::Sender<Out>, message: Value) -> Result<(), Value> {
    let line = Out { line: message.to_string(), flushed: None };
    out.try_send(line).map_err(|_| message)
}

/// A push: `{"id","type","from","timestamp", …payload}`.
pub(super) fn frame(event: &Event, kind: &str, from: Value, message: &Value) -> Value {
    let mut frame = match message {
        Value::Object(payload) => payload.clone(),
        Value::Null => Map::new(),
        other => Map::from_iter([("message".to_owned(), other.clone())]),
    };
    // What the host says of a push goes before what its payload says.
    frame.insert("id".to_owned(), json!(event.event_id));
    frame.insert("type".to_owned(), json!(kind));
    frame.insert("from".to_owned(), from);
    frame.insert("timestamp".to_owned(), legacy::timestamp(event.timestamp_ms));
    Value::Object(frame)
}

struct Transport {
    hub: Arc<Hub>,
    handle: std::sync::OnceLock<Handle>,
}

impl Transport {
    async fn answer(&self, event: &Event) -> Result<Value, Fault> {
        match event.name.as_str() {
            "transport:send" => {
                let to = event.data["to"].as_str().ok_or_else(|| Fault::refused("transport:send needs `to`"))?;
                let kind = event.data["type"].as_str().unwrap_or("MESSAGE");
                // A client speaks in its own name; services speak in that of whom they serve.
                let from = match &event.sender {
                    Sender::Plugin(_) | Sender::Host => event.data["from"].clone(),
                    other => json!(other),
                };
                let push = frame(event, kind, from, &event.data["message"]);
                Ok(json!({ "to": to, "status": self.hub.push(to, push) }))
            }
            "transport:broadcast" => {
                let all: Vec<String> = self.hub.state().present.keys().cloned().collect();
                let kind = event.data["type"].as_str().unwrap_or("BROADCAST");
                for agent in &all {
                    self.hub.push(agent, frame(event, kind, json!(event.sender), &event.data["message"]));
                }
                Ok(json!({ "status": "sent", "count": all.len() }))
            }
            "transport:connection" => {
                Ok(json!({ "status": event.data["action"].as_str().map_or("connected", |action| {
                if action == "connect" { "connected" } else { "disconnected" }
            }) }))
            }
            "transport:status" => Ok(self.hub.status()),
            "transport:watch" | "transport:unwatch" => watching::answer(event),
            "system:commands" => Ok(legacy::commands()),
            "system:processes" => self.processes(event).await,
            _ => Err(Fault::Unhandled),
        }
    }

    /// The agents that are completions under way.
    async fn processes(&self, event: &Event) -> Result<Value, Fault> {
        let handle = self.handle.get().ok_or_else(|| Fault::Broken("it was not started".to_owned()))?;
        let listed = handle.call(Some(event), Draft::new("agent:list", json!({}))).await;
        let listed = listed.map_err(|why| Fault::refused(why.to_string()))?;
        let agents = listed.get("agents").and_then(Value::as_object).cloned().unwrap_or_default();
        let running: Vec<Value> = agents
            .iter()
            .filter(|(_, agent)| agent["process_id"].is_string())
            .map(|(id, agent)| json!({ "process_id": agent["process_id"], "agent_id": id, "type": "completion", "status": agent["status"] }))
            .collect();
        Ok(json!({ "total": running.len(), "processes": running }))
    }
}

impl Plugin for Transport {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        // Called once, by contract.
        let _ = self.handle.set(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move { self.answer(&event).await })
    }

    fn hear(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        self.hub.completed(&event);
        Box::pin(std::future::ready(Ok(())))
    }

    fn concurrent(&self) -> bool {
        true
    }
}

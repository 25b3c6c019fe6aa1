//! Who is connected, what waits for whom, and the plugin that owns `transport:*`.

use super::view::{Open, Tally, UnixCounts};
use super::{SOCKETS, UnixOptions, legacy, watching};
use crate::bus::Bus;
use crate::error::Error;
use crate::event::{Answer, Draft, Event, Sender, bytes_of};
use crate::handle::Handle;
use crate::pattern::Pattern;
use crate::plugin::{Capabilities, Fault, Metadata, Plugin, Registration};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};

/// What `unix_transport` answers.
pub const EVENTS: [&str; 6] = [
    "transport:connection",
    "transport:send",
    "transport:broadcast",
    "transport:status",
    "system:commands",
    "system:processes",
];

/// The most pairs of command and client whose uses are counted apart.
const USES_MAX: usize = 10_000;
/// The most agents for whom messages are kept.
const ABSENT_MAX: usize = 10_000;
/// The most completions whose results are awaited.
const AWAITED_MAX: usize = 10_000;

/// The longest part of a client's name that is kept where its uses of commands are counted.
const CLIENT_BYTES_KEPT: usize = 128;

pub(super) struct Hub {
    bus: Bus,
    options: Arc<UnixOptions>,
    state: Mutex<State>,
    numbers: AtomicU64,
    /// Random, so that what is named here differs from run to run.
    run: String,
    tally: Tally,
    /// Whether who still waits for an answer is told that it comes too late.
    cut: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    present: HashMap<String, (u64, mpsc::Sender<Value>)>,
    absent: BTreeMap<String, VecDeque<Value>>,
    /// About how many bytes all these messages have.
    absent_bytes: usize,
    /// Completions whose acknowledgement is not out, or whose result has not come, by correlation id.
    awaited: HashMap<String, Awaited>,
    /// Their ids, the oldest first: of too many, the oldest are given up.
    awaited_since: VecDeque<String>,
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
        let mut random = [0; 6];
        // Without randomness the clock tells two runs apart.
        if getrandom::fill(&mut random).is_err() {
            random.copy_from_slice(&bus.now_ms().to_be_bytes()[2..]);
        }
        let (run, numbers) = (hex::encode(random), AtomicU64::new(1));
        Self {
            bus,
            options,
            state: Mutex::default(),
            numbers,
            run,
            tally: Tally::default(),
            cut: watch::Sender::new(false),
        }
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

    /// The grace is over: who still waits is told so.
    pub(super) fn cut_off(&self) {
        self.cut.send_replace(true);
    }

    /// Ask the bus, unless the host ends before there is an answer. The event is ended all the same.
    pub(super) async fn ask(&self, sender: &Sender, draft: Draft) -> Result<Answer, Error> {
        let name = draft.name.clone();
        let mut cut = self.cut.subscribe();
        tokio::select! {
            biased;
            answered = self.bus.dispatch(sender.clone(), draft) => answered.map(|reply| reply.answer),
            _ = cut.wait_for(|cut| *cut) => {
                Err(Error::Stopping(name))
            }
        }
    }

    /// Whether an agent is there.
    pub(super) fn is_present(&self, agent: &str) -> bool {
        self.state().present.contains_key(agent)
    }

    /// An agent is there, on this connection. What waited for it goes out.
    pub(super) fn came(&self, agent: &str, number: u64, out: mpsc::Sender<Value>) {
        let mut state = self.state();
        state.present.insert(agent.to_owned(), (number, out));
        state.forward(agent);
    }

    /// A message was written to an agent: in its place goes what did not fit into its queue.
    pub(super) fn written(&self, agent: &str) {
        self.state().forward(agent);
    }

    /// An agent has gone, if it was on this connection.
    pub(super) fn left(&self, agent: &str, number: u64) {
        let mut state = self.state();
        if state.present.get(agent).is_some_and(|(on, _)| *on == number) {
            state.present.remove(agent);
        }
    }

    /// Messages that were on their way to an agent whose connection ended before they were written: they wait for it
    /// again, before what came since, or go where it is now.
    pub(super) fn undelivered(&self, agent: &str, messages: Vec<Value>) {
        let mut state = self.state();
        let since = state.take(agent);
        for message in messages.into_iter().chain(since) {
            state.keep(agent, message, &self.options);
        }
        state.forward(agent);
    }

    /// An agent has gone, wherever it was: what is sent to it waits from now on.
    pub(super) fn disconnected(&self, agent: &str) {
        self.state().present.remove(agent);
    }

    /// Push a message to an agent, or keep it until it comes. Says which.
    fn push(&self, agent: &str, message: Value) -> &'static str {
        let mut state = self.state();
        // What waits already goes before it.
        let message = match state.present.get(agent).filter(|_| !state.absent.contains_key(agent)) {
            Some((_, out)) => match put(out, message) {
                Ok(()) => return "delivered",
                Err(message) => message,
            },
            None => message,
        };
        state.keep(agent, message, &self.options);
        "queued"
    }

    /// A name for an exchange that its client gave none.
    pub(super) fn exchange(&self) -> String {
        format!("unix-{}-{:x}", self.run, self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// A completion is about to be asked for: what comes of it waits for [`Self::acknowledged`]. Gives its correlation id.
    pub(super) fn expect(&self, client: Option<&str>) -> String {
        // Not to be guessed: a result under this id goes to this client.
        let mut random = [0; 16];
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let random = getrandom::fill(&mut random).map_or_else(|_| String::new(), |()| hex::encode(random));
        let id = format!("unix-completion-{number}-{random}");
        let mut state = self.state();
        // One that was cancelled never ends: it must not take the place of others for ever.
        while state.awaited_since.len() >= AWAITED_MAX {
            let oldest = state.awaited_since.pop_front().unwrap_or_default();
            state.awaited.remove(&oldest);
        }
        state.awaited_since.push_back(id.clone());
        state.awaited.insert(id.clone(), Awaited { client: client.map(str::to_owned), ..Awaited::default() });
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
        let known = if legacy::event_of(command).is_some() { command } else { "(unknown)" };
        let client = client.get(..client.floor_char_boundary(CLIENT_BYTES_KEPT)).unwrap_or_default();
        let key = (known.to_owned(), client.to_owned());
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
    /// What waits for an agent.
    fn take(&mut self, agent: &str) -> VecDeque<Value> {
        let waited = self.absent.remove(agent).unwrap_or_default();
        self.absent_bytes -= waited.iter().map(bytes_of).sum::<usize>();
        waited
    }

    /// Put what waits for an agent into its queue, as much as there is room for.
    fn forward(&mut self, agent: &str) {
        let Some((_, out)) = self.present.get(agent) else { return };
        let Some(kept) = self.absent.get_mut(agent) else { return };
        while let Ok(place) = out.try_reserve() {
            let Some(message) = kept.pop_front() else { break };
            self.absent_bytes -= bytes_of(&message);
            place.send(message);
        }
        if kept.is_empty() {
            self.absent.remove(agent);
        }
    }

    /// Keep a message for an agent. Where there is no room, the oldest of its own make place; if there are none, it is
    /// dropped itself.
    fn keep(&mut self, agent: &str, message: Value, options: &UnixOptions) {
        let bytes = bytes_of(&message);
        let most = options.undelivered_bytes_max;
        let Self { absent, absent_bytes, dropped, .. } = self;
        if options.undelivered_max == 0 || absent.len() >= ABSENT_MAX && !absent.contains_key(agent) {
            *dropped += 1;
            return;
        }
        let kept = absent.entry(agent.to_owned()).or_default();
        while *absent_bytes + bytes > most || kept.len() >= options.undelivered_max {
            let Some(oldest) = kept.pop_front() else { break };
            *absent_bytes -= bytes_of(&oldest);
            *dropped += 1;
        }
        if *absent_bytes + bytes <= most {
            *absent_bytes += bytes;
            kept.push_back(message);
        } else {
            *dropped += 1;
        }
        if kept.is_empty() {
            absent.remove(agent);
        }
    }
}

/// Put a message into a client's queue; the message back if there is no room or nobody.
fn put(out: &mpsc::Sender<Value>, message: Value) -> Result<(), Value> {
    out.try_send(message).map_err(mpsc::error::TrySendError::into_inner)
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

/// A push, with what the host knows of who is behind it. A client speaks in its own name; services speak in that of
/// whom they serve, and say who that was.
fn push_of(event: &Event, kind: &str) -> Value {
    let (from, sender) = match &event.sender {
        Sender::Plugin(_) | Sender::Host => {
            let of = event.data.get("sender").cloned().unwrap_or_else(|| json!(event.sender));
            (event.data["from"].clone(), of)
        }
        other => (json!(other), json!(other)),
    };
    let mut push = frame(event, kind, from, &event.data["message"]);
    push["sender"] = sender;
    push
}

/// The connection itself does what is asked; this says whether it can.
fn connection(event: &Event) -> Result<Value, Fault> {
    if matches!(&event.sender, Sender::Client(name) if !name.starts_with("unix:")) {
        return Err(invalid("transport:connection: only a connection to a Unix socket can be an agent's"));
    }
    let action = event.data["action"].as_str().unwrap_or("connect");
    let agent = connecting_agent(&event.data).ok_or_else(|| invalid("transport:connection needs `agent_id`"))?;
    let status = match action {
        "connect" => "connected",
        "disconnect" => "disconnected",
        _ => return Err(invalid(&format!("action '{action}': it is `connect` or `disconnect`"))),
    };
    Ok(json!({ "status": status, "agent_id": agent, "action": action }))
}

/// Which agent a connection is to be.
pub(super) fn connecting_agent(data: &Value) -> Option<&str> {
    data["agent_id"].as_str().or_else(|| data["client_id"].as_str()).filter(|agent| !agent.is_empty())
}

fn invalid(message: &str) -> Fault {
    Fault::Refused { message: message.to_owned(), code: Some(legacy::INVALID_PARAMETERS.to_owned()) }
}

struct Transport {
    hub: Arc<Hub>,
    handle: std::sync::OnceLock<Handle>,
}

impl Transport {
    async fn answer(&self, event: &Event) -> Result<Value, Fault> {
        match event.name.as_str() {
            "transport:send" => {
                let to = event.data["to"].as_str().filter(|to| !to.is_empty());
                let to = to.ok_or_else(|| invalid("transport:send needs `to`"))?;
                let kind = event.data["type"].as_str().unwrap_or("MESSAGE");
                Ok(json!({ "to": to, "status": self.hub.push(to, push_of(event, kind)) }))
            }
            "transport:broadcast" => {
                let mut all: Vec<String> = self.hub.state().present.keys().cloned().collect();
                all.sort();
                let kind = event.data["type"].as_str().unwrap_or("BROADCAST");
                for agent in &all {
                    self.hub.push(agent, push_of(event, kind));
                }
                Ok(json!({ "status": "sent", "count": all.len(), "to": all }))
            }
            "transport:connection" => connection(event),
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
        let listed =
            listed.map_err(|why| Fault::Refused { message: why.to_string(), code: why.code().map(str::to_owned) })?;
        let agents = listed.get("agents").and_then(Value::as_object).cloned().unwrap_or_default();
        let running: Vec<Value> = agents
            .iter()
            .filter(|(_, agent)| agent["process_id"].is_string() && agent["status"] == "active")
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

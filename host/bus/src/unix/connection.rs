//! One connection: lines in, lines out, in the order of the lines that came in.

use super::hub::{Hub, connecting_agent};
use super::watching::{Watching, Wished};
use super::wire::{Line, Lines, Outlet};
use super::{Mode, legacy};
use crate::error::Error;
use crate::event::{Draft, Sender};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(super) struct Connection {
    stream: UnixStream,
    socket: &'static str,
    number: u64,
    hub: Arc<Hub>,
    stop: watch::Receiver<bool>,
}

/// Whether more lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
}

/// Serves the lines that come in.
struct Serving {
    hub: Arc<Hub>,
    socket: &'static str,
    number: u64,
    sender: Sender,
    /// Its user and program, whatever its connection: what its uses of commands are counted under.
    program: String,
    outlet: Arc<Outlet>,
    /// The agent that this connection is, once it said so.
    agent: Option<Agent>,
    /// The events that are pushed to it, once it asked for them.
    watching: Option<Watching>,
}

/// What is pushed to an agent goes through a queue of its own.
struct Agent {
    name: String,
    pushes: mpsc::Sender<Value>,
    /// Gives back what it did not write.
    writer: JoinHandle<Vec<Value>>,
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
        socket: &'static str,
        number: u64,
        hub: Arc<Hub>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self { stream, socket, number, hub, stop }
    }

    /// Serve it until the client ends it, must be cut off, or the host stops. What was answered is written before it is
    /// closed.
    pub(super) async fn serve(self) {
        let Self { stream, socket, number, hub, mut stop } = self;
        let peer = stream.peer_cred().ok();
        let user = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.uid().to_string());
        let program = format!("unix:{user}/{}", program(peer.and_then(|peer| peer.pid())));
        let counted = Arc::clone(&hub);
        let _open = counted.opened();
        let (reading, writing) = stream.into_split();
        let outlet = Arc::new(Outlet::new(writing, hub.options().write_timeout));
        let mut lines = Lines::new(reading, hub.options().line_bytes_max);
        let sender = Sender::Client(format!("unix:{user}/{number}").into());
        let mut serving = Serving { hub, socket, number, sender, program, outlet, agent: None, watching: None };
        serving.read(&mut lines, &mut stop).await;
        serving.watching = None;
        serving.leave().await;
        serving.outlet.end().await;
        drop(serving);
        if !*stop.borrow() {
            lines.linger().await;
        }
    }
}

impl Serving {
    async fn read(&mut self, lines: &mut Lines, stop: &mut watch::Receiver<bool>) {
        let outlet = Arc::clone(&self.outlet);
        loop {
            let line = tokio::select! {
                biased;
                // The sender's end, too, means that the host stops.
                _ = stop.wait_for(|stop| *stop) => return,
                () = outlet.cut() => return,
                line = lines.next() => line,
            };
            let then = match line {
                Ok(Line::End) => return,
                Ok(Line::TooLong) => {
                    let most = self.hub.options().line_bytes_max;
                    self.say(&json!({ "error": format!("Line longer than {most} bytes") })).await;
                    Then::Close
                }
                Ok(Line::Text(text)) if text.iter().all(u8::is_ascii_whitespace) => Then::GoOn,
                // What it needs is given back when it is answered: an idle client holds little.
                Ok(Line::Text(text)) => Box::pin(self.frame(text)).await,
                Err(why) => {
                    tracing::debug!(connection = self.number, "reading ended: {why}");
                    return;
                }
            };
            if then == Then::Close {
                return;
            }
        }
    }

    async fn frame(&mut self, text: Vec<u8>) -> Then {
        let frame: Value = match serde_json::from_slice(&text) {
            Ok(frame) => frame,
            Err(why) => {
                return self.unreadable(&text, &why).await;
            }
        };
        drop(text);
        match frame {
            Value::Object(frame) if frame.contains_key("event") => self.event(frame).await,
            Value::Object(frame) if frame.contains_key("command") => self.command(frame).await,
            _ => self.say(&json!({ "error": "Missing event name" })).await,
        }
    }

    /// Which kind of frame it was to be can only be guessed: by the word in it, else by whose socket this is.
    async fn unreadable(&self, text: &[u8], why: &serde_json::Error) -> Then {
        let has = |word: &[u8]| text.windows(word.len()).any(|part| part == word);
        let code = legacy::INVALID_JSON;
        let message = format!("Invalid JSON: {why}");
        let event = match (has(b"\"event\""), has(b"\"command\"")) {
            (true, false) => true,
            (false, true) => false,
            _ => self.socket == "events" || self.hub.options().mode == Mode::Pure,
        };
        if event {
            self.say(&json!({ "error": message, "code": code })).await
        } else {
            self.say(&json!({ "status": "error", "error": { "code": code, "message": message } })).await;
            self.after_command()
        }
    }

    async fn event(&mut self, mut frame: Map<String, Value>) -> Then {
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let given = frame.remove("correlation_id").filter(|id| !id.is_null());
        let correlation_id = match correlation_id(given.as_ref()) {
            Ok(id) => id.unwrap_or_else(|| self.hub.exchange()),
            Err(problem) => return self.say(&json!({ "error": problem })).await,
        };
        // As it came: a client that counts looks for its number.
        let told = given.unwrap_or_else(|| Value::from(correlation_id.as_str()));
        let draft = Draft {
            name: text(frame.remove("event")).unwrap_or_default(),
            data: frame.remove("data").unwrap_or(Value::Null),
            correlation_id: Some(correlation_id),
            client_id: text(frame.remove("client_id")),
            fan_out: frame.remove("fan_out") == Some(Value::Bool(true)),
        };
        let name = draft.name.clone();
        let connects = matches!(draft.name.as_str(), "transport:connection" | "agent:connection");
        let connecting = connects.then(|| draft.data.clone());
        let answered = if frame.remove("wait") == Some(Value::Bool(false)) {
            self.hub.bus().emit(self.sender.clone(), draft).await.map(|emitted| emitted.answer())
        } else {
            self.hub.ask(&self.sender, draft).await
        };
        let connecting = connecting.filter(|_| answered.is_ok());
        let mut answer = answered.unwrap_or_else(|why| why.answer());
        answer.insert("correlation_id".to_owned(), told);
        // From here on nothing is missed; what is pushed comes after the answer.
        let wished = Watching::wish(&name, &answer, self.hub.bus());
        let then = self.say(&Value::Object(answer)).await;
        match wished {
            Wished::Nothing => {}
            Wished::Watch(wish) => self.watching = Some(Watching::start(wish, &self.hub, &self.outlet)),
            Wished::End => self.watching = None,
        }
        if let Some(data) = connecting {
            self.connect(&data).await;
        }
        then
    }

    /// After a command, or what was to be one, the connection is closed, save an agent's.
    fn after_command(&self) -> Then {
        if self.agent.is_some() { Then::GoOn } else { Then::Close }
    }

    /// A command of the older daemon: one answer, and then the end, save for an agent that stays connected.
    async fn command(&mut self, frame: Map<String, Value>) -> Then {
        let Some(command) = frame.get("command").and_then(Value::as_str).filter(|command| !command.is_empty()) else {
            let text = "`command` is no text";
            let now_ms = self.hub.now_ms();
            self.say(&legacy::error("", legacy::INVALID_COMMAND, text, &Value::Null, now_ms)).await;
            return self.after_command();
        };
        let parameters = frame.get("parameters").cloned().unwrap_or_else(|| json!({}));
        if command == "EVENT" {
            self.hub.tally().count_legacy(command);
            return self.wrapped_event(&parameters).await;
        }
        let client = parameters.get("client_id").or_else(|| parameters.get("agent_id")).and_then(Value::as_str);
        let mode = self.hub.options().mode;
        self.hub.tally().count_legacy(command);
        if mode != Mode::Compatibility {
            self.hub.count(command, client.unwrap_or(&self.program));
        }
        let own = self.taken_over(command);
        let event = own.as_deref().or_else(|| legacy::event_of(command));
        let refused = match (event.filter(|_| mode == Mode::Pure), parameters) {
            // Whatever else is wrong with it: it is the event that must be right.
            (Some(event), parameters) => {
                let data = self.order(command, parameters.clone()).map_or(parameters, |order| order.data);
                let message = format!("commands are switched off: send the event '{event}' instead of {command}");
                let details = json!({ "event": event, "data": data });
                legacy::error(command, legacy::LEGACY_DISABLED, &message, &details, self.hub.now_ms())
            }
            (None, parameters) => match self.order(command, parameters) {
                Ok(order) => return self.carry_out(command, order).await,
                Err(refusal) => refusal.reply(command, self.hub.now_ms()),
            },
        };
        self.say(&refused).await;
        self.after_command()
    }

    fn order(&self, command: &str, parameters: Value) -> Result<legacy::Order, legacy::Refusal> {
        match self.taken_over(command) {
            Some(event) => legacy::own_order(command, event, parameters),
            None => legacy::order(command, parameters),
        }
    }

    /// A command that an installation had of its own: a plugin that was migrated answers `legacy:NAME`, in lower case.
    fn taken_over(&self, command: &str) -> Option<String> {
        if legacy::event_of(command).is_some() {
            return None;
        }
        let event = format!("legacy:{}", command.to_ascii_lowercase());
        self.hub.bus().owner(&event).is_some().then_some(event)
    }

    async fn carry_out(&mut self, command: &str, order: legacy::Order) -> Then {
        if let Some(refused) = self.absent(command, &order) {
            self.say(&refused).await;
            return self.after_command();
        }
        let connection = command == "AGENT_CONNECTION";
        let awaited = (command == "COMPLETION").then(|| self.hub.expect(order.data["client_id"].as_str()));
        let draft = Draft {
            correlation_id: awaited.clone(),
            client_id: order.data["client_id"].as_str().map(str::to_owned),
            ..Draft::new(&order.event, order.data.clone())
        };
        let answered = self.hub.ask(&self.sender, draft).await;
        let now_ms = self.hub.now_ms();
        let reply = match answered {
            Ok(answer) => {
                legacy::success(command, &legacy::result(command, &order.data, Value::Object(answer)), now_ms)
            }
            Err(why) => legacy::failure(command, &why, now_ms),
        };
        let agreed = reply["status"] == "success";
        self.say(&reply).await;
        if let Some(awaited) = awaited {
            // The acknowledgement is out: now what came of it may follow.
            self.hub.acknowledged(&awaited, agreed);
        }
        if connection && agreed {
            self.connect(&order.data).await;
        }
        self.after_command()
    }

    /// The older daemon let only agents subscribe that were connected.
    fn absent(&self, command: &str, order: &legacy::Order) -> Option<Value> {
        let agent = order.data["agent_id"].as_str().filter(|_| command == "SUBSCRIBE")?;
        let message = format!("agent '{agent}' is not connected: AGENT_CONNECTION with `connect` comes first");
        let error = || legacy::error(command, legacy::AGENT_NOT_CONNECTED, &message, &Value::Null, self.hub.now_ms());
        (!self.hub.is_present(agent)).then(error)
    }

    async fn wrapped_event(&mut self, parameters: &Value) -> Then {
        let text = |key: &str| parameters[key].as_str().map(str::to_owned);
        let id = text("correlation_id").unwrap_or_else(|| self.hub.exchange());
        let draft = Draft {
            correlation_id: Some(id.clone()),
            ..Draft::new(&text("event").unwrap_or_default(), parameters["data"].clone())
        };
        let answer = match self.hub.ask(&self.sender, draft).await {
            Ok(answer) => json!({ "status": "success", "result": answer, "id": id }),
            Err(why) => json!({ "status": "error", "error": why.answer(), "result": null, "id": id }),
        };
        self.say(&answer).await;
        self.after_command()
    }

    /// This connection is an agent's from now on: what waits for it comes, after what was answered.
    async fn connect(&mut self, data: &Value) {
        let action = data["action"].as_str().unwrap_or("connect");
        let Some(name) = connecting_agent(data) else { return };
        if action != "connect" {
            // As a rule on another connection than the agent's: a command has one of its own.
            self.hub.disconnected(name);
            if self.agent.as_ref().is_some_and(|agent| agent.name == name) {
                self.leave().await;
            }
            return;
        }
        if self.agent.as_ref().is_none_or(|agent| agent.name != name) {
            self.leave().await;
            let (pushes, messages) = mpsc::channel(self.hub.options().lines_waiting_max.max(1));
            let writer = tokio::spawn(push(Arc::clone(&self.hub), name.to_owned(), Arc::clone(&self.outlet), messages));
            self.agent = Some(Agent { name: name.to_owned(), pushes, writer });
        }
        if let Some(agent) = &self.agent {
            self.hub.came(name, self.number, agent.pushes.clone());
        }
    }

    /// It is no agent's connection any more. What was not written to it waits for the agent.
    async fn leave(&mut self) {
        let Some(Agent { name, pushes, writer }) = self.agent.take() else { return };
        self.hub.left(&name, self.number);
        drop(pushes);
        // It ends when all is written, or the client takes no more.
        let unwritten = writer.await.unwrap_or_default();
        if !unwritten.is_empty() {
            self.hub.undelivered(&name, unwritten);
        }
    }

    /// Write a line, and wait until the client has it.
    async fn say(&self, answer: &Value) -> Then {
        if self.outlet.line(answer.to_string()).await { Then::GoOn } else { Then::Close }
    }
}

/// What a process is called, for operators.
fn program(pid: Option<i32>) -> String {
    let name = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    name.map_or_else(|| "unknown".to_owned(), |name| name.trim_end().to_owned())
}

/// What a client calls an exchange: a text, or what it writes of a number.
fn correlation_id(given: Option<&Value>) -> Result<Option<String>, &'static str> {
    match given {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id.clone())),
        Some(Value::Number(id)) => Ok(Some(id.to_string())),
        Some(_) => Err("`correlation_id` is neither a text nor a number"),
    }
}

/// Write what is pushed; gives back what could not be.
async fn push(hub: Arc<Hub>, agent: String, outlet: Arc<Outlet>, mut messages: mpsc::Receiver<Value>) -> Vec<Value> {
    while let Some(message) = messages.recv().await {
        if outlet.line(message.to_string()).await {
            hub.written(&agent);
            continue;
        }
        messages.close();
        let mut unwritten = vec![message];
        while let Some(next) = messages.recv().await {
            unwritten.push(next);
        }
        return unwritten;
    }
    Vec::new()
}

/// What an [`Error`] of the bus is to an older client.
pub(super) fn legacy_code(error: &Error) -> &str {
    match error.code() {
        Some("NO_HANDLER") => legacy::UNKNOWN_COMMAND,
        Some(code) => code,
        None => legacy::INVALID_COMMAND,
    }
}

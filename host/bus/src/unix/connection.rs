//! One connection: lines in, lines out, in the order of the lines that came in.

use super::hub::{Hub, Out};
use super::watching::Watching;
use super::{Mode, legacy};
use crate::error::Error;
use crate::event::{Draft, Sender};
use serde_json::{Map, Value, json};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};

pub(super) struct Connection {
    stream: UnixStream,
    number: u64,
    hub: Arc<Hub>,
}

/// Whether more lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
}

enum Line {
    Text(Vec<u8>),
    TooLong,
    End,
}

/// The reading half, with the way to the client.
struct Serving {
    hub: Arc<Hub>,
    number: u64,
    sender: Sender,
    out: mpsc::Sender<Out>,
    /// The agent that this connection is, once it said so.
    agent: Option<String>,
    /// The events that are pushed to it, once it asked for them.
    watching: Option<Watching>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, number: u64, hub: Arc<Hub>) -> Self {
        Self { stream, number, hub }
    }

    /// Serve it until the client ends it, or must be cut off. What was answered is flushed before it is closed.
    pub(super) async fn serve(self) {
        let Self { stream, number, hub } = self;
        let user = stream.peer_cred().map_or_else(|_| "unknown".to_owned(), |peer| peer.uid().to_string());
        let counted = Arc::clone(&hub);
        let _open = counted.opened();
        let (reading, writing) = stream.into_split();
        let (out, lines) = mpsc::channel(hub.options().lines_waiting_max.max(1));
        let writer = tokio::spawn(write(writing, lines));
        let sender = Sender::Client(format!("unix:{user}/{number}").into());
        let mut serving = Serving { hub, number, sender, out, agent: None, watching: None };
        serving.read(BufReader::new(reading)).await;
        if let Some(agent) = serving.agent.take() {
            serving.hub.left(&agent, number);
        }
        drop(serving);
        // It ends when the last line is out, or the client takes no more.
        let _ = writer.await;
    }
}

impl Serving {
    async fn read(&mut self, mut reading: BufReader<OwnedReadHalf>) {
        let most = self.hub.options().line_bytes_max;
        loop {
            let line = match next_line(&mut reading, most).await {
                Ok(line) => line,
                Err(why) => {
                    tracing::debug!(connection = self.number, "reading ended: {why}");
                    return;
                }
            };
            let then = match line {
                Line::End => return,
                Line::TooLong => {
                    self.say(&json!({ "error": format!("Line longer than {most} bytes") })).await;
                    Then::Close
                }
                Line::Text(text) if text.iter().all(u8::is_ascii_whitespace) => Then::GoOn,
                Line::Text(text) => self.frame(&text).await,
            };
            if then == Then::Close {
                return;
            }
        }
    }

    async fn frame(&mut self, text: &[u8]) -> Then {
        let frame: Value = match serde_json::from_slice(text) {
            Ok(frame) => frame,
            Err(why) => {
                // Which kind of frame it was to be cannot be read; both kinds of client find their word in this.
                let code = legacy::INVALID_JSON;
                let message = format!("Invalid JSON: {why}");
                self.say(&json!({ "status": "error", "error": { "code": code, "message": message } })).await;
                return Then::GoOn;
            }
        };
        match frame {
            Value::Object(frame) if frame.contains_key("event") => self.event(frame).await,
            Value::Object(frame) if frame.contains_key("command") => self.command(frame).await,
            _ => {
                self.say(&json!({ "error": "Missing event name" })).await;
                Then::GoOn
            }
        }
    }

    async fn event(&mut self, mut frame: Map<String, Value>) -> Then {
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let correlation_id = text(frame.remove("correlation_id"));
        let draft = Draft {
            name: text(frame.remove("event")).unwrap_or_default(),
            data: frame.remove("data").unwrap_or(Value::Null),
            correlation_id: correlation_id.clone(),
            client_id: text(frame.remove("client_id")),
            fan_out: frame.remove("fan_out") == Some(Value::Bool(true)),
        };
        if draft.name == "transport:connection" {
            self.connect(&draft.data);
        }
        if frame.remove("wait") == Some(Value::Bool(false)) {
            return self.emit(draft, correlation_id).await;
        }
        let name = draft.name.clone();
        let mut answer = match self.hub.bus().dispatch(self.sender.clone(), draft).await {
            Ok(reply) => {
                let mut answer = reply.answer;
                answer.insert("correlation_id".to_owned(), Value::from(reply.correlation_id));
                answer
            }
            Err(why) => why.answer(),
        };
        if let Some(id) = correlation_id {
            answer.insert("correlation_id".to_owned(), Value::from(id));
        }
        // From here on nothing is missed; what is pushed comes after the answer.
        let wish = Watching::wish(&name, &answer, self.hub.bus());
        self.say(&Value::Object(answer)).await;
        if let Some(wish) = wish {
            self.watching = wish.map(|wish| Watching::start(wish, &self.hub, self.out.clone()));
        }
        Then::GoOn
    }

    /// An event for whose handling the client does not wait: it is told that it was queued.
    async fn emit(&self, draft: Draft, correlation_id: Option<String>) -> Then {
        let mut answer = match self.hub.bus().emit(self.sender.clone(), draft).await {
            Ok(emitted) => emitted.answer(),
            Err(why) => why.answer(),
        };
        if let Some(id) = correlation_id {
            answer.insert("correlation_id".to_owned(), Value::from(id));
        }
        self.say(&Value::Object(answer)).await;
        Then::GoOn
    }

    /// A command of the older daemon: one answer, and then the end, save for an agent that stays connected.
    async fn command(&mut self, frame: Map<String, Value>) -> Then {
        let Some(command) = frame.get("command").and_then(Value::as_str).filter(|command| !command.is_empty()) else {
            self.say(&legacy::error(
                "",
                legacy::INVALID_COMMAND,
                "`command` is no text",
                &Value::Null,
                self.hub.now_ms(),
            ))
            .await;
            return Then::Close;
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
            self.hub.count(command, client.unwrap_or(&self.sender.to_string()));
        }
        let order = match legacy::order(command, parameters) {
            Ok(order) => order,
            Err(refusal) => {
                self.say(&refusal.reply(command, self.hub.now_ms())).await;
                return Then::Close;
            }
        };
        if mode == Mode::Pure {
            let message = format!("commands are switched off: send the event '{}' instead of {command}", order.event);
            let details = json!({ "event": order.event, "data": order.data });
            self.say(&legacy::error(command, legacy::LEGACY_DISABLED, &message, &details, self.hub.now_ms())).await;
            return Then::Close;
        }
        self.carry_out(command, order).await
    }

    async fn carry_out(&mut self, command: &str, order: legacy::Order) -> Then {
        let stays = command == "AGENT_CONNECTION" && order.data["action"] == "connect";
        let awaited = (command == "COMPLETION").then(|| self.hub.expect(order.data["client_id"].as_str()));
        let draft = Draft {
            correlation_id: awaited.clone(),
            client_id: order.data["client_id"].as_str().map(str::to_owned),
            ..Draft::new(&order.event, order.data.clone())
        };
        let answered = self.hub.bus().dispatch(self.sender.clone(), draft).await;
        let now_ms = self.hub.now_ms();
        let reply = match answered {
            Ok(reply) => legacy::success(command, &legacy::result(command, Value::Object(reply.answer)), now_ms),
            Err(why) => legacy::failure(command, &why, now_ms),
        };
        let agreed = reply["status"] == "success";
        self.say(&reply).await;
        if let Some(awaited) = awaited {
            // The acknowledgement is out: now what came of it may follow.
            self.hub.acknowledged(&awaited, agreed);
        }
        if stays && agreed {
            self.connect(&order.data);
            return Then::GoOn;
        }
        Then::Close
    }

    async fn wrapped_event(&mut self, parameters: &Value) -> Then {
        let text = |key: &str| parameters[key].as_str().map(str::to_owned);
        let id = text("correlation_id");
        let draft = Draft {
            correlation_id: id.clone(),
            ..Draft::new(&text("event").unwrap_or_default(), parameters["data"].clone())
        };
        let answer = match self.hub.bus().dispatch(self.sender.clone(), draft).await {
            Ok(reply) => json!({ "status": "success", "result": reply.answer, "id": reply.correlation_id }),
            Err(why) => json!({ "status": "error", "error": why.answer(), "result": null, "id": id }),
        };
        self.say(&answer).await;
        Then::Close
    }

    /// This connection is an agent's from now on: what waits for it comes, after what was answered.
    fn connect(&mut self, data: &Value) {
        let action = data["action"].as_str().unwrap_or("connect");
        let Some(agent) = data["agent_id"].as_str().or_else(|| data["client_id"].as_str()) else { return };
        if action != "connect" {
            self.hub.left(agent, self.number);
            self.agent = None;
            return;
        }
        if let Some(before) = self.agent.replace(agent.to_owned()).filter(|before| before != agent) {
            self.hub.left(&before, self.number);
        }
        self.hub.came(agent, self.number, self.out.clone());
    }

    /// Write a line, and wait until it is flushed.
    async fn say(&self, answer: &Value) {
        let (flushed, wait) = oneshot::channel();
        let line = Out { line: answer.to_string(), flushed: Some(flushed) };
        if self.out.send(line).await.is_ok() {
            // A writer that ended says by that that the client is gone.
            let _ = wait.await;
        }
    }
}

/// The next line without its end, if it is no longer than `most`.
async fn next_line(reading: &mut BufReader<OwnedReadHalf>, most: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    loop {
        let there = reading.fill_buf().await?;
        if there.is_empty() {
            return Ok(if line.is_empty() { Line::End } else { Line::Text(line) });
        }
        let end = there.iter().position(|&byte| byte == b'\n');
        let take = end.unwrap_or(there.len());
        if line.len() + take > most {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(&there[..take]);
        reading.consume(take + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Line::Text(line));
        }
    }
}

async fn write(mut writing: tokio::net::unix::OwnedWriteHalf, mut lines: mpsc::Receiver<Out>) {
    while let Some(Out { mut line, flushed }) = lines.recv().await {
        line.push('\n');
        if writing.write_all(line.as_bytes()).await.is_err() || writing.flush().await.is_err() {
            return;
        }
        if let Some(flushed) = flushed {
            // Nobody may wait for it any more.
            let _ = flushed.send(());
        }
    }
    // The client sees the end of the answers.
    let _ = writing.shutdown().await;
}

/// What an [`Error`] of the bus is to an older client.
pub(super) fn legacy_code(error: &Error) -> &str {
    match error.code() {
        Some("NO_HANDLER") => legacy::UNKNOWN_COMMAND,
        Some(code) => code,
        None => legacy::INVALID_COMMAND,
    }
}

//! `transport:watch`: a connection on which the events of the bus are pushed as they happen.
//!
//! Asked for with `{"event":"transport:watch","data":{"patterns":["state:*"]}}` (no patterns: all events) and ended with
//! `transport:unwatch` or the connection. Each event is a push of type `EVENT`. A client that reads slowly misses events
//! and is told how many by a push of type `EVENTS_MISSED`; nobody waits for it.

use super::hub::{Hub, frame};
use super::legacy;
use super::wire::Outlet;
use crate::bus::Bus;
use crate::event::{Answer, Event, Sender};
use crate::pattern::{self, Pattern};
use crate::plugin::Fault;
use crate::services::INVALID_PARAMETERS;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

/// The most patterns of one watch.
const PATTERNS_MAX: usize = 64;

/// The events of one connection; dropped, it ends, after the line that it is at.
pub(super) struct Watching {
    _goes_on: oneshot::Sender<()>,
}

/// What is to be watched, from the moment of its making.
pub(super) struct Wish {
    patterns: Vec<Pattern>,
    events: Receiver<Arc<Event>>,
}

/// What a connection is to do about events from now on.
pub(super) enum Wished {
    /// What it does already.
    Nothing,
    /// Push these.
    Watch(Wish),
    /// Push none.
    End,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    patterns: Vec<Pattern>,
}

/// What the plugin answers. The connection acts on it when it has passed.
pub(super) fn answer(event: &Event) -> Result<Value, Fault> {
    let refused = |message: String| Err(Fault::Refused { message, code: Some(INVALID_PARAMETERS.to_owned()) });
    if !matches!(&event.sender, Sender::Client(name) if name.starts_with("unix:")) {
        return refused(format!("{}: only a connection to a Unix socket is pushed events", event.name));
    }
    if event.name == "transport:unwatch" {
        return Ok(json!({ "status": "stopped" }));
    }
    let data = if event.data.is_null() { json!({}) } else { event.data.clone() };
    match serde_json::from_value::<Asked>(data) {
        Err(why) => refused(format!("transport:watch: {why}")),
        Ok(asked) if asked.patterns.len() > PATTERNS_MAX => {
            refused(format!("transport:watch: {} patterns, at most {PATTERNS_MAX} are taken", asked.patterns.len()))
        }
        Ok(asked) => Ok(json!({ "status": "watching", "patterns": asked.patterns })),
    }
}

impl Watching {
    /// What an answered event means for its connection.
    pub(super) fn wish(name: &str, answer: &Answer, bus: &Bus) -> Wished {
        let status = answer.get("status").and_then(Value::as_str);
        match (name, status, answer.get("patterns")) {
            ("transport:watch", Some("watching"), Some(patterns)) => match Vec::deserialize(patterns) {
                Ok(patterns) => Wished::Watch(Wish { patterns, events: bus.watch() }),
                // A plugin may have put another answer in the place of the transport's.
                Err(_) => Wished::Nothing,
            },
            ("transport:unwatch", Some("stopped"), _) => Wished::End,
            _ => Wished::Nothing,
        }
    }

    pub(super) fn start(wish: Wish, hub: &Arc<Hub>, outlet: &Arc<Outlet>) -> Self {
        let (goes_on, ends) = oneshot::channel();
        tokio::spawn(push(wish, Arc::clone(hub), Arc::clone(outlet), ends));
        Self { _goes_on: goes_on }
    }
}

/// Push events as fast as the client takes them; what it does not take in time it misses.
async fn push(mut wish: Wish, hub: Arc<Hub>, outlet: Arc<Outlet>, mut ends: oneshot::Receiver<()>) {
    loop {
        let heard = tokio::select! {
            heard = wish.events.recv() => heard,
            _ = &mut ends => return,
        };
        let line = match heard {
            Ok(event) if wish.patterns.is_empty() || pattern::any(&wish.patterns, &event.name) => {
                let told = json!({ "event": event.shown() });
                frame(&event, "EVENT", json!(event.sender), &told)
            }
            Ok(_) => continue,
            Err(RecvError::Lagged(missed)) => {
                hub.tally().count_missed(missed);
                json!({ "type": "EVENTS_MISSED", "missed": missed, "timestamp": legacy::timestamp(hub.now_ms()) })
            }
            Err(RecvError::Closed) => return,
        };
        if !outlet.line(line.to_string()).await {
            return;
        }
    }
}

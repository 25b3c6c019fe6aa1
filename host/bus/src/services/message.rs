//! `message:*`: agents subscribe to kinds of messages, and messages are published to them. Delivery is the transport's:
//! it is asked to `transport:send` each, and an agent that is not connected finds its messages when it connects.

use super::{invalid, one_or_many, read, send, service};
use crate::event::{Event, Sender};
use crate::handle::Handle;
use crate::pattern::{self, Pattern};
use crate::plugin::{Fault, Plugin, Registration};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// What it answers.
pub(super) const EVENTS: [&str; 5] =
    ["message:subscribe", "message:unsubscribe", "message:subscriptions", "message:publish", "message:stats"];

/// The most agents with subscriptions, and the most subscriptions of one.
const AGENTS_MAX: usize = 10_000;
const SUBSCRIPTIONS_MAX: usize = 256;

/// The message service.
#[derive(Default)]
pub struct Messages {
    subscriptions: Mutex<BTreeMap<String, BTreeSet<String>>>,
    counts: Mutex<Counts>,
    handle: OnceLock<Handle>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    published: u64,
    delivered: u64,
    failed: u64,
}

#[derive(Deserialize)]
struct Wish {
    agent_id: String,
    #[serde(default, alias = "topics", alias = "topic", deserialize_with = "one_or_many")]
    event_types: Vec<String>,
}

#[derive(Deserialize)]
struct Publication {
    #[serde(default, alias = "from", alias = "from_agent")]
    agent_id: String,
    #[serde(alias = "topic", alias = "topics", alias = "event_types", deserialize_with = "one_or_many")]
    event_type: Vec<String>,
    #[serde(default, alias = "payload", alias = "data")]
    message: Value,
    /// Who it is really from, where another service publishes for somebody.
    #[serde(default)]
    sender: Option<String>,
}

/// Kinds of messages that name whom they are for, in `to` of the message.
const ADDRESSED: [&str; 2] = ["DIRECT_MESSAGE", "TASK_ASSIGNMENT"];

impl Messages {
    /// The service.
    #[must_use]
    pub fn registration() -> Registration {
        let description = "Brings published messages to the agents that subscribed to them.";
        let mut registration = service("message_service", "message", description, Arc::new(Self::default));
        registration.capabilities.emits = Pattern::parse("transport:send").into_iter().collect();
        registration
    }

    async fn answer(&self, event: &Event) -> Result<Value, Fault> {
        match event.name.as_str() {
            "message:subscribe" => self.subscribe(&read(event)?),
            "message:unsubscribe" => Ok(self.unsubscribe(&read(event)?)),
            "message:subscriptions" => Ok(json!({ "subscriptions": *self.subscriptions() })),
            "message:publish" => self.publish(event, read(event)?).await,
            "message:stats" => Ok(json!({ "message_bus": self.stats() })),
            _ => Err(Fault::Unhandled),
        }
    }

    fn subscribe(&self, wish: &Wish) -> Result<Value, Fault> {
        if wish.agent_id.is_empty() || wish.event_types.is_empty() {
            return Err(invalid("message:subscribe needs `agent_id` and `event_types`"));
        }
        for kind in &wish.event_types {
            // `DIRECT_MESSAGE` and `task:*` alike.
            Pattern::parse(kind).map_err(|why| invalid(&why))?;
        }
        let mut subscriptions = self.subscriptions();
        if !subscriptions.contains_key(&wish.agent_id) && subscriptions.len() >= AGENTS_MAX {
            return Err(invalid(&format!("{AGENTS_MAX} agents have subscriptions: no more are kept")));
        }
        let mut kinds = subscriptions.get(&wish.agent_id).cloned().unwrap_or_default();
        kinds.extend(wish.event_types.iter().cloned());
        if kinds.len() > SUBSCRIPTIONS_MAX {
            return Err(invalid(&format!(
                "agent '{}' would have more than {SUBSCRIPTIONS_MAX} subscriptions",
                wish.agent_id
            )));
        }
        subscriptions.insert(wish.agent_id.clone(), kinds.clone());
        drop(subscriptions);
        let subscription = json!({
            "agent_id": wish.agent_id, "event_types": kinds, "subscribed_to": wish.event_types,
            "all_subscriptions": kinds, "status": "active",
        });
        Ok(json!({ "status": "subscribed", "subscription": subscription, "message_bus": self.stats() }))
    }

    fn unsubscribe(&self, wish: &Wish) -> Value {
        let mut subscriptions = self.subscriptions();
        let before = subscriptions.get(&wish.agent_id).map_or(0, BTreeSet::len);
        if wish.event_types.is_empty() {
            subscriptions.remove(&wish.agent_id);
        } else if let Some(kinds) = subscriptions.get_mut(&wish.agent_id) {
            kinds.retain(|kind| !wish.event_types.contains(kind));
            if kinds.is_empty() {
                subscriptions.remove(&wish.agent_id);
            }
        }
        let after = subscriptions.get(&wish.agent_id).map_or(0, BTreeSet::len);
        json!({ "status": "unsubscribed", "agent_id": wish.agent_id, "removed": before - after })
    }

    async fn publish(&self, event: &Event, publication: Publication) -> Result<Value, Fault> {
        let Publication { agent_id, event_type: kinds, message, sender } = publication;
        if kinds.is_empty() || kinds.iter().any(String::is_empty) {
            return Err(invalid("message:publish needs `event_type`"));
        }
        let sender = match &event.sender {
            Sender::Plugin(_) | Sender::Host => sender.unwrap_or_else(|| event.sender.to_string()),
            other => other.to_string(),
        };
        let (mut delivered, mut queued, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (agent, kind) in self.recipients(&agent_id, &kinds, &message)? {
            let frame = json!({ "to": agent, "from": agent_id, "sender": sender, "type": kind, "message": message });
            match send(self.handle.get(), event, frame).await {
                Ok(status) => {
                    if status == "queued" {
                        queued.push(agent.clone());
                    }
                    delivered.push(agent);
                }
                Err(why) => failed.push(json!({ "agent_id": agent, "error": why.to_string() })),
            }
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.published += 1;
        counts.delivered += delivered.len() as u64;
        counts.failed += failed.len() as u64;
        drop(counts);
        let total = delivered.len() + failed.len();
        Ok(json!({
            "status": "published", "event": kinds.join(","), "delivered": delivered, "queued": queued,
            "failed": failed, "total_recipients": total, "message_bus_stats": self.stats(),
        }))
    }

    /// Whom a message goes to, each once, with the kind that it has for it: whom it names, and who subscribed.
    fn recipients(&self, from: &str, kinds: &[String], message: &Value) -> Result<BTreeMap<String, String>, Fault> {
        let mut found = BTreeMap::new();
        for kind in kinds.iter().filter(|kind| ADDRESSED.contains(&kind.as_str())) {
            match message["to"].as_str().filter(|to| !to.is_empty()) {
                Some(to) => drop(found.insert(to.to_owned(), kind.clone())),
                None if kind == "DIRECT_MESSAGE" => {
                    return Err(invalid("message:publish: a DIRECT_MESSAGE needs `to` in its message"));
                }
                None => {}
            }
        }
        for (agent, patterns) in self.subscriptions().iter().filter(|(agent, _)| *agent != from) {
            if let Some(kind) = kinds.iter().find(|kind| wants(patterns, kind)) {
                found.entry(agent.clone()).or_insert_with(|| kind.clone());
            }
        }
        Ok(found)
    }

    fn stats(&self) -> Value {
        let subscriptions = self.subscriptions();
        let (agents, kinds) = (subscriptions.len(), subscriptions.values().map(BTreeSet::len).sum::<usize>());
        drop(subscriptions);
        let counts = *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "agents": agents, "subscriptions": kinds,
            "published": counts.published, "delivered": counts.delivered, "failed": counts.failed,
        })
    }

    fn subscriptions(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wants(kinds: &BTreeSet<String>, event_type: &str) -> bool {
    let patterns: Vec<Pattern> = kinds.iter().filter_map(|kind| Pattern::parse(kind).ok()).collect();
    pattern::any(&patterns, event_type)
}

impl Plugin for Messages {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        // Called once, by contract.
        let _ = self.handle.set(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move { self.answer(&event).await })
    }

    fn concurrent(&self) -> bool {
        true
    }
}

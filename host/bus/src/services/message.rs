//! `message:*`: agents subscribe to kinds of messages, and messages are published to them. Delivery is the transport's:
//! it hears of each as `message:deliver`, and an agent that is not connected finds its messages when it connects.

use super::{invalid, read, service};
use crate::event::{Draft, Event};
use crate::handle::Handle;
use crate::pattern::{self, Pattern};
use crate::plugin::{Fault, Plugin, Registration};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    #[serde(default, alias = "from")]
    agent_id: String,
    #[serde(alias = "topic", alias = "topics")]
    event_type: String,
    #[serde(default, alias = "payload", alias = "data")]
    message: Value,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}

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
            "message:subscribe" => self.subscribe(read(event)?),
            "message:unsubscribe" => Ok(self.unsubscribe(&read(event)?)),
            "message:subscriptions" => Ok(json!({ "subscriptions": *self.subscriptions() })),
            "message:publish" => self.publish(event, read(event)?).await,
            "message:stats" => Ok(json!({ "message_bus": self.stats() })),
            _ => Err(Fault::Unhandled),
        }
    }

    fn subscribe(&self, wish: Wish) -> Result<Value, Fault> {
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
        let kinds = subscriptions.entry(wish.agent_id.clone()).or_default();
        if kinds.len() + wish.event_types.len() > SUBSCRIPTIONS_MAX {
            return Err(invalid(&format!(
                "agent '{}' would have more than {SUBSCRIPTIONS_MAX} subscriptions",
                wish.agent_id
            )));
        }
        kinds.extend(wish.event_types);
        let kinds = kinds.clone();
        drop(subscriptions);
        let subscription = json!({ "agent_id": wish.agent_id, "event_types": kinds });
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
        let Publication { agent_id, event_type, message } = publication;
        let to: Vec<String> = self
            .subscriptions()
            .iter()
            .filter(|(agent, kinds)| **agent != agent_id && wants(kinds, &event_type))
            .map(|(agent, _)| agent.clone())
            .collect();
        let handle = self.handle.get().ok_or_else(|| Fault::Broken("it was not started".to_owned()))?;
        let (mut delivered, mut failed) = (Vec::new(), Vec::new());
        for agent in to {
            let frame = json!({ "to": agent, "from": agent_id, "type": event_type, "message": message });
            match handle.emit(Some(event), Draft::new("transport:send", frame)).await {
                Ok(_) => delivered.push(agent),
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
            "status": "published", "event": event_type, "delivered": delivered, "failed": failed,
            "total_recipients": total, "message_bus_stats": self.stats(),
        }))
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

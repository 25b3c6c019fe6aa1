//! Who gets a task, and messages from one agent to others.

use super::super::{one_or_many, send};
use super::roster::Agent;
use super::{Agents, invalid};
use crate::event::{Draft, Event};
use crate::plugin::Fault;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a role that matches counts.
const ROLE_SCORE: usize = 10;

#[derive(Deserialize)]
pub(super) struct Routing {
    task: Value,
    #[serde(default)]
    required_capabilities: Vec<String>,
    #[serde(default)]
    preferred_role: Option<String>,
    #[serde(default)]
    prefer_agent_id: Option<String>,
    #[serde(default)]
    context: Value,
}

#[derive(Deserialize)]
pub(super) struct Letter {
    #[serde(default, alias = "from_agent", alias = "from")]
    from_agent_id: Option<String>,
    #[serde(default, alias = "to", alias = "to_agent", alias = "agent_id")]
    to_agent_id: Option<String>,
    #[serde(default, alias = "message_type")]
    event_type: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    event_types: Vec<String>,
    #[serde(default, alias = "payload")]
    message: Value,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    metadata: Map<String, Value>,
}

impl Routing {
    /// The greater, the better: a role that matches counts ten, else each capability of the agent counts one.
    fn score(&self, agent: &Agent) -> usize {
        let role_matches = self.preferred_role.as_ref().is_some_and(|role| *role == agent.role);
        if role_matches { ROLE_SCORE } else { agent.capabilities.len() }
    }

    fn suits(&self, agent: &Agent) -> bool {
        self.required_capabilities.iter().all(|needed| agent.capabilities.contains(needed))
    }
}

impl Letter {
    /// What the receiver finds in the message, under `kind`.
    fn frame(&self, to: &str, kind: &str, event: &Event) -> Value {
        let mut payload = match &self.message {
            Value::Object(message) => message.clone(),
            Value::Null => Map::new(),
            other => Map::from_iter([("message".to_owned(), other.clone())]),
        };
        if !self.content.is_null() {
            payload.insert("content".to_owned(), self.content.clone());
        }
        for (key, value) in &self.metadata {
            payload.entry(key).or_insert_with(|| value.clone());
        }
        json!({ "to": to, "from": self.from_agent_id, "sender": event.sender, "type": kind, "message": payload })
    }

    /// The kind of message, where the sender names none: the older form, with `content`, had a word of its own.
    fn kind(&self, otherwise: &str) -> String {
        let default = if self.content.is_null() { otherwise } else { "MESSAGE" };
        self.event_type.clone().unwrap_or_else(|| default.to_owned())
    }
}

impl Agents {
    /// The one that fits best gets the task. Only those that have all required capabilities fit; of equals, the first by
    /// name. One that is asked for by name goes first, if it fits.
    pub(super) async fn route(&self, event: &Event, wish: Routing) -> Result<Value, Fault> {
        let agents = self.roster.list(None);
        let suitable: Vec<_> = agents.iter().filter(|(_, agent)| wish.suits(agent)).collect();
        let available = suitable.iter().filter(|(_, agent)| agent.status == "active");
        let rank = |(id, agent): (&String, &Agent)| {
            (wish.prefer_agent_id.as_ref() == Some(id), wish.score(agent), std::cmp::Reverse(id.clone()))
        };
        let Some((agent_id, agent)) = available.max_by_key(|(id, agent)| rank((id, agent))) else {
            return Ok(nobody(&wish, &suitable.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), agents.len()));
        };
        let message =
            json!({ "task": wish.task, "context": wish.context, "required_capabilities": wish.required_capabilities });
        let from = event.client_id.as_deref().unwrap_or("system");
        let frame = json!({
            "to": agent_id, "from": from, "sender": event.sender, "type": "TASK_ASSIGNMENT", "message": message,
        });
        let sent = send(self.handle.get(), event, frame).await;
        let mut answer = json!({
            "status": "routed", "agent_id": agent_id, "agent_info": agent, "score": wish.score(agent),
            "task": wish.task, "context": wish.context, "required_capabilities": wish.required_capabilities,
            "delivery": if sent.is_ok() { "direct" } else { "failed" },
        });
        match sent {
            Ok(status) => answer["delivery_status"] = json!(status),
            Err(why) => answer["delivery_error"] = json!(why.to_string()),
        }
        Ok(answer)
    }

    pub(super) async fn send(&self, event: &Event, letter: Letter) -> Result<Value, Fault> {
        let missing = |who: &str, code: &str| Fault::Refused {
            message: format!("no agent '{who}': agent:register makes one known"),
            code: Some(code.to_owned()),
        };
        if let Some(from) = &letter.from_agent_id
            && !self.roster.has(from)
        {
            return Err(missing(from, "SENDER_NOT_FOUND"));
        }
        let Some(to) = &letter.to_agent_id else {
            return if letter.event_types.is_empty() {
                self.broadcast(event, letter).await
            } else {
                self.publish(event, letter).await
            };
        };
        if !self.roster.has(to) {
            return Err(missing(to, "RECIPIENT_NOT_FOUND"));
        }
        let kind = letter.kind("DIRECT_MESSAGE");
        let status = send(self.handle.get(), event, letter.frame(to, &kind, event)).await.map_err(refused)?;
        Ok(json!({ "status": status, "delivery": "direct", "from": letter.from_agent_id, "to": to, "type": kind }))
    }

    /// To those who subscribed to one of the kinds.
    async fn publish(&self, event: &Event, letter: Letter) -> Result<Value, Fault> {
        let from = letter.from_agent_id.clone().unwrap_or_default();
        let message = letter.frame("", "", event)["message"].take();
        let draft = Draft::new(
            "message:publish",
            json!({ "agent_id": from, "topics": letter.event_types, "message": message, "sender": event.sender }),
        );
        let told = self.handle()?.call(Some(event), draft).await.map_err(refused)?;
        Ok(json!({
            "status": "published", "delivery": "event_bus", "from": from, "event_types": letter.event_types,
            "total_delivered": told.get("delivered").and_then(Value::as_array).map_or(0, Vec::len),
            "details": { "delivered": told.get("delivered"), "failed": told.get("failed") },
        }))
    }

    /// To every agent that is registered, but for the one that speaks.
    pub(super) async fn broadcast(&self, event: &Event, letter: Letter) -> Result<Value, Fault> {
        let kind = letter.kind("BROADCAST");
        let (mut sent, mut failed) = (Vec::new(), Vec::new());
        for (agent_id, _) in self.roster.list(None) {
            if letter.from_agent_id.as_ref() == Some(&agent_id) {
                continue;
            }
            match send(self.handle.get(), event, letter.frame(&agent_id, &kind, event)).await {
                Ok(_) => sent.push(agent_id),
                Err(why) => failed.push(json!({ "agent_id": agent_id, "error": why.to_string() })),
            }
        }
        Ok(json!({
            "status": "sent", "delivery": "broadcast", "from": letter.from_agent_id, "type": kind,
            "count": sent.len(), "to": sent, "failed": failed,
        }))
    }
}

/// Nobody has the capabilities, or nobody who has them is at work.
fn nobody(wish: &Routing, suitable: &[&str], agents: usize) -> Value {
    let (status, reason) = if suitable.is_empty() {
        ("no_suitable_agent", "no agent has all required capabilities")
    } else {
        ("no_available_agent", "no agent that has all required capabilities is active")
    };
    json!({
        "status": status, "reason": reason, "task": wish.task, "required_capabilities": wish.required_capabilities,
        "suitable_agents": suitable, "agents": agents,
    })
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn refused(why: crate::error::Error) -> Fault {
    Fault::Refused { message: why.to_string(), code: why.code().map(str::to_owned) }
}

/// An agent's own values: the state's namespace `agent:` and its id.
#[derive(Deserialize)]
pub(super) struct Own {
    agent_id: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default, deserialize_with = "super::super::present")]
    value: Option<Value>,
    #[serde(default)]
    state: Map<String, Value>,
}

impl Agents {
    pub(super) async fn state(&self, event: &Event, own: Own) -> Result<Value, Fault> {
        /// Values that one answer gives.
        const VALUES_MAX: usize = 10_000;
        let Own { agent_id, key, value, state: mut wanted } = own;
        let namespace = format!("agent:{agent_id}");
        if event.name == "agent:get_state" {
            let (values, more) = match &key {
                Some(key) => {
                    let found = self.store.get(&namespace, key).map_err(super::roster::refused)?;
                    (found.map(|value| (key.clone(), value)).into_iter().collect(), false)
                }
                None => self.store.entries(&namespace, VALUES_MAX).map_err(super::roster::refused)?,
            };
            let values: Map<String, Value> = values.into_iter().collect();
            return Ok(json!({ "agent_id": agent_id, "state": values, "more": more }));
        }
        match (key, value) {
            (Some(key), Some(value)) => drop(wanted.insert(key, value)),
            (None, None) if !wanted.is_empty() => {}
            _ => return Err(invalid("agent:update_state needs `key` and `value`, or `state` with several")),
        }
        let keys: Vec<String> = wanted.keys().cloned().collect();
        for (key, value) in wanted {
            let told = json!({ "namespace": namespace, "key": key, "value": value, "change": "set" });
            let change = crate::Change::Set { namespace: namespace.clone(), key, value };
            self.store.change(&event.event_id, &event.sender, change).await.map_err(super::roster::refused)?;
            // The change is made; that somebody cannot be told of it does not undo it.
            if let Err(why) = self.handle()?.emit(Some(event), Draft::new("state:changed", told)).await {
                tracing::warn!("a change of an agent's state was not told: {why}");
            }
        }
        Ok(json!({ "agent_id": agent_id, "status": "updated", "keys": keys }))
    }
}

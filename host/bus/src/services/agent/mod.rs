//! `agent:*`: who the agents are (identities), which are there (the roster), and who gets a task.
//!
//! Identities and the roster are durable. An agent here is a participant of the bus, registered by a client or spawned
//! from a profile; a spawned one is a completion under way, so it needs a provider.

mod identity;
mod roster;

use super::{invalid, read, service};
use crate::event::{Draft, Event};
use crate::handle::Handle;
use crate::pattern::Pattern;
use crate::plugin::{Fault, Plugin, Registration};
use crate::store::Store;
use futures_util::future::BoxFuture;
use roster::{Agent, Roster};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The agent service.
pub struct Agents {
    store: Store,
    roster: Roster,
    profiles: Arc<BTreeMap<String, Profile>>,
    handle: OnceLock<Handle>,
}

/// What an agent is spawned from: a file of `agent_service.profiles_dir`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct Profile {
    /// What it does in the team.
    pub role: String,
    /// What it can.
    pub capabilities: Vec<String>,
    /// What it is told before its task.
    pub system_prompt: String,
    /// Which model answers for it; the provider's default if empty.
    pub model: String,
}

#[derive(Deserialize)]
struct Register {
    agent_id: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    info: Option<Info>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Info {
    role: String,
    capabilities: Vec<String>,
}

#[derive(Deserialize)]
struct Spawn {
    #[serde(alias = "profile")]
    profile_name: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    task: String,
    #[serde(default)]
    context: Value,
}

#[derive(Deserialize)]
struct Routing {
    task: Value,
    #[serde(default)]
    required_capabilities: Vec<String>,
    #[serde(default)]
    preferred_role: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    agent_id: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    value: Option<Value>,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    status: Option<String>,
}

#[derive(Deserialize)]
struct Letter {
    #[serde(default, alias = "from_agent", alias = "from")]
    from_agent_id: Option<String>,
    #[serde(default, alias = "to", alias = "to_agent", alias = "agent_id")]
    to_agent_id: Option<String>,
    #[serde(default, alias = "message_type")]
    event_type: Option<String>,
    #[serde(default, alias = "content", alias = "payload")]
    message: Value,
}

impl Agents {
    /// The service, with the profiles it may spawn from. What the store knows of agents is taken up when it starts.
    #[must_use]
    pub fn registration(store: &Store, profiles: BTreeMap<String, Profile>) -> Registration {
        let (store, profiles) = (store.clone(), Arc::new(profiles));
        let make = move || Self {
            roster: Roster::new(store.clone()),
            store: store.clone(),
            profiles: Arc::clone(&profiles),
            handle: OnceLock::new(),
        };
        let mut registration =
            service("agent_service", "agent", "Knows the agents, and who gets a task.", Arc::new(make));
        registration.capabilities.emits =
            ["transport:send", "message:publish", "completion:async", "completion:cancel", "agent:*"]
                .into_iter()
                .filter_map(|pattern| Pattern::parse(pattern).ok())
                .collect();
        registration
    }

    async fn answer(&self, event: &Event) -> Result<Value, Fault> {
        match event.name.as_str() {
            "agent:register" => self.register(event, read(event)?).await,
            "agent:unregister" => self.leave(event, &read::<Named>(event)?.agent_id, "unregistered").await,
            "agent:terminate" => self.terminate(event, &read::<Named>(event)?.agent_id).await,
            "agent:spawn" => self.spawn(event, read(event)?).await,
            "agent:restart" => self.restart(event, &read::<Named>(event)?.agent_id).await,
            "agent:list" => {
                let Listing { status } = read(event)?;
                let agents = self.roster.list(status.as_deref());
                Ok(json!({ "count": agents.len(), "agents": agents }))
            }
            "agent:profiles" => Ok(json!({ "count": self.profiles.len(), "profiles": *self.profiles })),
            "agent:route_task" => self.route(event, read(event)?).await,
            "agent:send_message" => self.send(event, read(event)?).await,
            "agent:broadcast" => self.broadcast(event, read(event)?).await,
            "agent:get_state" | "agent:update_state" => self.state(event, read(event)?).await,
            "agent:connection" => self.connection(event).await,
            name if name.ends_with("_identity") || matches!(name, "agent:identities" | "agent:list_identities") => {
                identity::answer(&self.store, event).await
            }
            _ => Err(Fault::Unhandled),
        }
    }

    async fn register(&self, event: &Event, wish: Register) -> Result<Value, Fault> {
        let Register { agent_id, mut role, mut capabilities, info } = wish;
        if let Some(info) = info {
            role = if role.is_empty() { info.role } else { role };
            capabilities = if capabilities.is_empty() { info.capabilities } else { capabilities };
        }
        let agent = Agent { role, status: "active".to_owned(), capabilities, ..Agent::default() };
        self.roster.put(event, &agent_id, agent.clone()).await?;
        Ok(
            json!({ "status": "registered", "agent_id": agent_id, "role": agent.role, "capabilities": agent.capabilities }),
        )
    }

    async fn leave(&self, event: &Event, agent_id: &str, status: &str) -> Result<Value, Fault> {
        self.roster.remove(event, agent_id).await?;
        Ok(json!({ "status": status, "agent_id": agent_id }))
    }

    async fn terminate(&self, event: &Event, agent_id: &str) -> Result<Value, Fault> {
        let agent = self.roster.find(agent_id)?;
        if let Some(process) = agent.process_id {
            // It may have ended by itself; the agent goes in any case.
            let cancel = Draft::new("completion:cancel", json!({ "request_id": process }));
            if let Err(why) = self.handle()?.call(Some(event), cancel).await {
                tracing::debug!(agent_id, "its completion could not be cancelled: {why}");
            }
        }
        self.leave(event, agent_id, "terminated").await
    }

    async fn spawn(&self, event: &Event, wish: Spawn) -> Result<Value, Fault> {
        let failed = |message: String| Fault::Refused { message, code: Some("SPAWN_FAILED".to_owned()) };
        let Spawn { profile_name, agent_id, task, context } = wish;
        let Some(profile) = self.profiles.get(&profile_name) else {
            let known: Vec<_> = self.profiles.keys().map(String::as_str).collect();
            return Err(failed(format!("no profile '{profile_name}'; there are: {}", known.join(", "))));
        };
        let agent_id = agent_id.unwrap_or_else(|| format!("{profile_name}-{}", event.event_id));
        let prompt = json!({
            "prompt": task, "system": profile.system_prompt, "model": profile.model, "context": context, "agent_id": agent_id,
        });
        let begun = self.handle()?.call(Some(event), Draft::new("completion:async", prompt)).await;
        let begun = begun.map_err(|why| failed(format!("agent '{agent_id}' was not spawned: {why}")))?;
        let process_id = begun.get("request_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let agent = Agent {
            role: profile.role.clone(),
            status: "active".to_owned(),
            capabilities: profile.capabilities.clone(),
            profile: Some(profile_name),
            process_id: Some(process_id.clone()),
            task: Some(task),
        };
        self.roster.put(event, &agent_id, agent.clone()).await?;
        let mut said = json!(agent);
        said["id"] = json!(agent_id);
        Ok(
            json!({ "agent_id": agent_id, "status": "spawned", "process_id": process_id, "agent": said, "selection": "requested" }),
        )
    }

    async fn restart(&self, event: &Event, agent_id: &str) -> Result<Value, Fault> {
        let agent = self.roster.find(agent_id)?;
        let Some(profile_name) = agent.profile.clone() else {
            return Err(invalid(&format!(
                "agent '{agent_id}' was registered, not spawned: there is nothing to restart"
            )));
        };
        self.terminate(event, agent_id).await?;
        let task = agent.task.unwrap_or_default();
        let wish = Spawn { profile_name, agent_id: Some(agent_id.to_owned()), task, context: Value::Null };
        self.spawn(event, wish).await
    }

    /// The one that fits best: a role that matches counts ten, else each capability one.
    async fn route(&self, event: &Event, wish: Routing) -> Result<Value, Fault> {
        let agents = self.roster.list(Some("active"));
        let fitting =
            |agent: &Agent| wish.required_capabilities.iter().all(|needed| agent.capabilities.contains(needed));
        let score = |agent: &Agent| {
            if wish.preferred_role.as_ref().is_some_and(|role| *role == agent.role) {
                10
            } else {
                agent.capabilities.len()
            }
        };
        // Of equals, the first by name.
        let best = agents
            .iter()
            .filter(|(_, agent)| fitting(agent))
            .max_by(|(a, x), (b, y)| score(x).cmp(&score(y)).then(b.cmp(a)));
        let Some((agent_id, agent)) = best else {
            let status = if agents.is_empty() { "no_available_agent" } else { "no_suitable_agent" };
            return Ok(
                json!({ "status": status, "task": wish.task, "required_capabilities": wish.required_capabilities }),
            );
        };
        let frame = json!({ "to": agent_id, "from": event.client_id, "type": "TASK_ASSIGNMENT", "message": wish.task });
        let sent = self.handle()?.emit(Some(event), Draft::new("transport:send", frame)).await;
        Ok(json!({
            "status": "routed", "agent_id": agent_id, "agent_info": agent, "score": score(agent), "task": wish.task,
            "delivery": if sent.is_ok() { "direct" } else { "failed" },
        }))
    }

    async fn send(&self, event: &Event, letter: Letter) -> Result<Value, Fault> {
        let missing = |who: &str, code: &str| Fault::Refused {
            message: format!("no agent '{who}'"),
            code: Some(code.to_owned()),
        };
        if let Some(from) = &letter.from_agent_id
            && !self.roster.has(from)
        {
            return Err(missing(from, "SENDER_NOT_FOUND"));
        }
        let Some(to) = letter.to_agent_id.clone() else { return self.broadcast(event, letter).await };
        if !self.roster.has(&to) {
            return Err(missing(&to, "RECIPIENT_NOT_FOUND"));
        }
        let kind = letter.event_type.unwrap_or_else(|| "DIRECT_MESSAGE".to_owned());
        let frame = json!({ "to": to, "from": letter.from_agent_id, "type": kind, "message": letter.message });
        let sent = self.handle()?.emit(Some(event), Draft::new("transport:send", frame)).await;
        sent.map_err(|why| Fault::refused(why.to_string()))?;
        Ok(json!({ "status": "sent", "delivery": "direct", "to": to }))
    }

    async fn broadcast(&self, event: &Event, letter: Letter) -> Result<Value, Fault> {
        let kind = letter.event_type.unwrap_or_else(|| "BROADCAST".to_owned());
        let mut sent = Vec::new();
        for (agent_id, _) in self.roster.list(None) {
            if letter.from_agent_id.as_ref() == Some(&agent_id) {
                continue;
            }
            let frame =
                json!({ "to": agent_id, "from": letter.from_agent_id, "type": kind, "message": letter.message });
            if self.handle()?.emit(Some(event), Draft::new("transport:send", frame)).await.is_ok() {
                sent.push(agent_id);
            }
        }
        Ok(json!({ "status": "sent", "delivery": "broadcast", "count": sent.len(), "to": sent }))
    }

    /// An agent's own values: the state's namespace `agent:` and its id.
    async fn state(&self, event: &Event, named: Named) -> Result<Value, Fault> {
        let namespace = format!("agent:{}", named.agent_id);
        if event.name == "agent:get_state" {
            let mut values = Map::new();
            let (keys, _) = self.store.keys(&namespace, "*").map_err(roster::refused)?;
            for key in keys.iter().filter(|key| named.key.as_ref().is_none_or(|wanted| wanted == *key)) {
                values.extend(
                    self.store.get(&namespace, key).map_err(roster::refused)?.map(|value| (key.clone(), value)),
                );
            }
            return Ok(json!({ "agent_id": named.agent_id, "state": values }));
        }
        let (Some(key), Some(value)) = (named.key, named.value) else {
            return Err(invalid("agent:update_state needs `key` and `value`"));
        };
        let change = crate::Change::Set { namespace, key, value };
        self.store.change(&event.event_id, &event.sender, change).await.map_err(roster::refused)?;
        Ok(json!({ "agent_id": named.agent_id, "status": "updated" }))
    }

    async fn connection(&self, event: &Event) -> Result<Value, Fault> {
        #[derive(Deserialize)]
        struct Connection {
            agent_id: String,
            action: String,
        }
        let Connection { agent_id, action } = read(event)?;
        match action.as_str() {
            "connect" => {
                if !self.roster.has(&agent_id) {
                    self.roster
                        .put(event, &agent_id, Agent { status: "active".to_owned(), ..Agent::default() })
                        .await?;
                }
                Ok(json!({ "status": "connected", "agent_id": agent_id }))
            }
            "disconnect" => Ok(json!({ "status": "disconnected", "agent_id": agent_id })),
            _ => Err(invalid(&format!("action '{action}': it is `connect` or `disconnect`"))),
        }
    }

    fn handle(&self) -> Result<&Handle, Fault> {
        self.handle.get().ok_or_else(|| Fault::Broken("it was not started".to_owned()))
    }
}

impl Plugin for Agents {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        // Called once, by contract.
        let _ = self.handle.set(handle);
        Box::pin(std::future::ready(self.roster.load()))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move { self.answer(&event).await })
    }

    fn concurrent(&self) -> bool {
        true
    }
}

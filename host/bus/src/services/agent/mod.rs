//! `agent:*`: who the agents are (identities), which are there (the roster), and who gets a task.
//!
//! Identities and the roster are durable, in namespaces that no client can write. An agent here is a participant of the
//! bus, registered by a client or spawned from a profile; a spawned one is a completion under way, so it needs a
//! provider. Its status is `active` until its completion ends; then `completed`, `failed` or `stopped`.

mod identity;
mod profile;
mod roster;
mod route;
mod spawn;

pub use identity::{Imported, import_identities};
pub use profile::{Profile, ProfileSource, Profiles};

use super::{invalid, read, service};
use crate::event::Event;
use crate::handle::Handle;
use crate::pattern::Pattern;
use crate::plugin::{Fault, Plugin, Registration};
use crate::store::Store;
use futures_util::future::BoxFuture;
use roster::{Agent, Roster};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// What it answers.
pub(super) const EVENTS: [&str; 20] = [
    "agent:register",
    "agent:unregister",
    "agent:list",
    "agent:spawn",
    "agent:terminate",
    "agent:restart",
    "agent:profiles",
    "agent:create_identity",
    "agent:update_identity",
    "agent:get_identity",
    "agent:remove_identity",
    "agent:delete_identity",
    "agent:identities",
    "agent:list_identities",
    "agent:route_task",
    "agent:send_message",
    "agent:broadcast",
    "agent:get_state",
    "agent:update_state",
    "agent:connection",
];

/// The agent service.
pub struct Agents {
    store: Store,
    roster: Roster,
    profiles: Arc<dyn ProfileSource>,
    handle: OnceLock<Handle>,
    /// Held while an identity is changed, over all instances.
    identities: Arc<tokio::sync::Mutex<()>>,
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
struct Named {
    agent_id: String,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    status: Option<String>,
}

#[derive(Deserialize)]
struct Connection {
    agent_id: String,
    action: String,
}

impl Agents {
    /// The service, with the profiles it may spawn from. What the store knows of agents is taken up when it starts.
    #[must_use]
    pub fn registration(store: &Store, profiles: BTreeMap<String, Profile>) -> Registration {
        Self::with_profiles(store, Arc::new(profiles))
    }

    /// The same, with profiles that are looked up each time one is needed.
    #[must_use]
    pub fn with_profiles(store: &Store, profiles: Arc<dyn ProfileSource>) -> Registration {
        let (store, identities) = (store.clone(), Arc::default());
        let make = move || Self {
            roster: Roster::new(store.clone()),
            store: store.clone(),
            profiles: Arc::clone(&profiles),
            handle: OnceLock::new(),
            identities: Arc::clone(&identities),
        };
        let mut registration =
            service("agent_service", "agent", "Knows the agents, and who gets a task.", Arc::new(make));
        let patterns = |texts: &[&str]| texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        registration.capabilities.emits =
            patterns(&["transport:send", "message:publish", "completion:async", "completion:cancel", "state:changed"]);
        registration.capabilities.subscribes = patterns(&["completion:result", "completion:error"]);
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
            "agent:profiles" => Ok(self.profiles.profiles().await.answer()),
            "agent:route_task" => self.route(event, read(event)?).await,
            "agent:send_message" => self.send(event, read(event)?).await,
            "agent:broadcast" => self.broadcast(event, read(event)?).await,
            "agent:get_state" | "agent:update_state" => self.state(event, read(event)?).await,
            "agent:connection" => self.connection(event).await,
            _ => identity::answer(&self.store, &self.identities, event).await,
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

    async fn connection(&self, event: &Event) -> Result<Value, Fault> {
        let Connection { agent_id, action } = read(event)?;
        let status = match action.as_str() {
            "connect" => {
                let known = self.roster.find(&agent_id).ok();
                if known.as_ref().is_none_or(|agent| agent.status != "active") {
                    // Whoever is there can be given a task.
                    let agent = Agent { status: "active".to_owned(), ..known.unwrap_or_default() };
                    self.roster.put(event, &agent_id, agent).await?;
                }
                "connected"
            }
            "disconnect" => "disconnected",
            _ => return Err(invalid(&format!("action '{action}': it is `connect` or `disconnect`"))),
        };
        Ok(json!({ "status": status, "agent_id": agent_id, "action": action }))
    }

    fn handle(&self) -> Result<&Handle, Fault> {
        self.handle.get().ok_or_else(|| Fault::Broken("it was not started".to_owned()))
    }
}

impl Plugin for Agents {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        // Called once, by contract.
        let _ = self.handle.set(handle);
        Box::pin(self.roster.load())
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move { self.answer(&event).await })
    }

    fn hear(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move { self.ended(&event).await })
    }

    fn concurrent(&self) -> bool {
        true
    }
}

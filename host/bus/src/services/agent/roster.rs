//! The agents that are there, in memory and in the store.

use super::super::INVALID_PARAMETERS;
use crate::event::Event;
use crate::plugin::Fault;
use crate::store::{Change, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most agents at once.
const AGENTS_MAX: usize = 10_000;
/// Where they are kept.
const NAMESPACE: &str = "plugin/agent_service:agents";

/// One agent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Agent {
    pub(super) role: String,
    pub(super) status: String,
    pub(super) capabilities: Vec<String>,
    /// What it was spawned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<String>,
    /// The completion that is its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) process_id: Option<String>,
    /// What it was spawned for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<String>,
}

pub(super) struct Roster {
    store: Store,
    agents: Mutex<BTreeMap<String, Agent>>,
}

impl Roster {
    pub(super) fn new(store: Store) -> Self {
        Self { store, agents: Mutex::default() }
    }

    /// Take up what the store knows.
    pub(super) fn load(&self) -> Result<(), Fault> {
        let broken = |why: &dyn std::fmt::Display| Fault::Broken(format!("the roster of agents: {why}"));
        let (ids, _) = self.store.keys(NAMESPACE, "*").map_err(|why| broken(&why))?;
        for id in ids {
            if let Some(kept) = self.store.get(NAMESPACE, &id).map_err(|why| broken(&why))? {
                let agent = serde_json::from_value(kept).map_err(|why| broken(&why))?;
                self.agents().insert(id, agent);
            }
        }
        Ok(())
    }

    pub(super) async fn put(&self, event: &Event, id: &str, agent: Agent) -> Result<(), Fault> {
        if id.is_empty() {
            return Err(super::invalid("`agent_id` is empty"));
        }
        if !self.has(id) && self.agents().len() >= AGENTS_MAX {
            return Err(super::invalid(&format!("{AGENTS_MAX} agents are registered: no more are taken")));
        }
        let value = serde_json::to_value(&agent).map_err(|why| Fault::Broken(why.to_string()))?;
        let change = Change::Set { namespace: NAMESPACE.to_owned(), key: id.to_owned(), value };
        self.store.change(&event.event_id, &event.sender, change).await.map_err(refused)?;
        self.agents().insert(id.to_owned(), agent);
        Ok(())
    }

    pub(super) async fn remove(&self, event: &Event, id: &str) -> Result<(), Fault> {
        self.find(id)?;
        let change = Change::Delete { namespace: NAMESPACE.to_owned(), key: id.to_owned() };
        self.store.change(&event.event_id, &event.sender, change).await.map_err(refused)?;
        self.agents().remove(id);
        Ok(())
    }

    pub(super) fn find(&self, id: &str) -> Result<Agent, Fault> {
        let found = self.agents().get(id).cloned();
        found.ok_or_else(|| Fault::Refused {
            message: format!("no agent '{id}'"),
            code: Some("AGENT_NOT_FOUND".to_owned()),
        })
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.agents().contains_key(id)
    }

    /// All of them, or those of one status, by id.
    pub(super) fn list(&self, status: Option<&str>) -> BTreeMap<String, Agent> {
        let wanted = |agent: &Agent| status.is_none_or(|status| agent.status == status);
        self.agents().iter().filter(|(_, agent)| wanted(agent)).map(|(id, agent)| (id.clone(), agent.clone())).collect()
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
pub(super) fn refused(why: StoreError) -> Fault {
    let code = if matches!(why, StoreError::Invalid(_)) { INVALID_PARAMETERS } else { "STATE_FAILED" };
    Fault::Refused { message: why.to_string(), code: Some(code.to_owned()) }
}

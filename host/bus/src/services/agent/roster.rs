//! The agents that are there, in memory and in the store.

use super::super::INVALID_PARAMETERS;
use crate::event::{Event, Sender};
use crate::plugin::Fault;
use crate::store::{Change, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// What it was told beside its task.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) context: Value,
    /// The model that was asked for instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
}

pub(super) struct Roster {
    store: Store,
    agents: Mutex<BTreeMap<String, Agent>>,
    /// Completions that ended before their agent was known to have begun, with its status.
    early: Mutex<VecDeque<(String, &'static str)>>,
    /// Agents that are about to begin.
    claimed: Mutex<BTreeSet<String>>,
    /// Held while an agent is changed: memory and store have the changes in one order, and what has gone does not come
    /// back.
    work: tokio::sync::Mutex<()>,
}

/// An agent's place while it begins. Dropped, it is free again.
pub(super) struct Claim<'a> {
    roster: &'a Roster,
    id: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.roster.claimed().remove(&self.id);
    }
}

impl Roster {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            agents: Mutex::default(),
            early: Mutex::default(),
            claimed: Mutex::default(),
            work: tokio::sync::Mutex::default(),
        }
    }

    /// Take up what the store knows. No completion outlives the host: agents whose work was one are `stopped`.
    pub(super) async fn load(&self) -> Result<(), Fault> {
        let broken = |why: &dyn std::fmt::Display| Fault::Broken(format!("the roster of agents: {why}"));
        let (kept, _) = self.store.entries(NAMESPACE, AGENTS_MAX).map_err(|why| broken(&why))?;
        for (id, value) in kept {
            let mut agent: Agent = serde_json::from_value(value).map_err(|why| broken(&why))?;
            if agent.status == "active" && agent.process_id.is_some() {
                "stopped".clone_into(&mut agent.status);
                self.keep("startup", &Sender::Host, &id, &agent).await.map_err(|why| broken(&why))?;
            }
            self.agents().insert(id, agent);
        }
        Ok(())
    }

    /// The place of an agent that is about to begin, or to begin again; `None` if another has it.
    pub(super) fn claim(&self, id: &str) -> Option<Claim<'_>> {
        let free = self.claimed().insert(id.to_owned());
        free.then(|| Claim { roster: self, id: id.to_owned() })
    }

    pub(super) async fn put(&self, event: &Event, id: &str, agent: Agent) -> Result<(), Fault> {
        let _alone = self.work.lock().await;
        self.set(event, id, agent).await
    }

    /// [`Self::put`], for who holds `work`.
    async fn set(&self, event: &Event, id: &str, agent: Agent) -> Result<(), Fault> {
        if id.is_empty() {
            return Err(super::invalid("`agent_id` is empty"));
        }
        if !self.has(id) && self.agents().len() >= AGENTS_MAX {
            return Err(super::invalid(&format!("{AGENTS_MAX} agents are registered: no more are taken")));
        }
        self.keep(&event.event_id, &event.sender, id, &agent).await?;
        self.agents().insert(id.to_owned(), agent);
        Ok(())
    }

    async fn keep(&self, event_id: &str, sender: &Sender, id: &str, agent: &Agent) -> Result<(), Fault> {
        let value = serde_json::to_value(agent).map_err(|why| Fault::Broken(why.to_string()))?;
        let change = Change::Set { namespace: NAMESPACE.to_owned(), key: id.to_owned(), value };
        self.store.change(event_id, sender, change).await.map_err(refused)?;
        Ok(())
    }

    /// An agent's completion has begun. It may have ended already: then its status is given.
    pub(super) async fn begun(&self, event: &Event, id: &str, agent: &Agent) -> Result<Option<String>, Fault> {
        let _alone = self.work.lock().await;
        self.set(event, id, agent.clone()).await?;
        let process = agent.process_id.as_deref().unwrap_or_default();
        let ended = self.take_early(process);
        if let Some(status) = ended {
            self.set(event, id, Agent { status: status.to_owned(), ..agent.clone() }).await?;
        }
        Ok(ended.map(str::to_owned))
    }

    /// A completion has ended; if it is an agent's, the agent has this status from now on.
    pub(super) async fn ended(&self, event: &Event, process: &str, status: &'static str) -> Result<(), Fault> {
        /// Of completions that belong to no agent, so many are remembered.
        const EARLY_MAX: usize = 1_000;
        let of = |(id, agent): (&String, &Agent)| {
            (agent.process_id.as_deref() == Some(process)).then(|| (id.clone(), agent.clone()))
        };
        let _alone = self.work.lock().await;
        // Remembered first, looked for second: an agent that begins in between finds it, or is found.
        {
            let mut early = self.early();
            if early.len() >= EARLY_MAX {
                early.pop_front();
            }
            early.push_back((process.to_owned(), status));
        }
        let found = self.agents().iter().find_map(of);
        if let Some((id, agent)) = found {
            self.take_early(process);
            self.set(event, &id, Agent { status: status.to_owned(), ..agent }).await?;
        }
        Ok(())
    }

    pub(super) async fn remove(&self, event: &Event, id: &str) -> Result<(), Fault> {
        let _alone = self.work.lock().await;
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

    fn take_early(&self, process: &str) -> Option<&'static str> {
        let mut early = self.early();
        let at = early.iter().position(|(id, _)| id == process)?;
        early.remove(at).map(|(_, status)| status)
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn early(&self) -> MutexGuard<'_, VecDeque<(String, &'static str)>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
pub(super) fn refused(why: StoreError) -> Fault {
    let code = match &why {
        StoreError::Invalid(_) => INVALID_PARAMETERS,
        StoreError::Full(_) => "RATE_LIMITED",
        StoreError::Failed(_) | StoreError::Open(_) => "STATE_FAILED",
    };
    Fault::Refused { message: why.to_string(), code: Some(code.to_owned()) }
}

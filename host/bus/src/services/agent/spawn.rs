//! Agents that the bus begins itself: each is a completion under way, begun from a profile.

use super::profile::Profiles;
use super::roster::{Agent, Claim};
use super::{Agents, invalid};
use crate::event::{Draft, Event};
use crate::plugin::Fault;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Spawn {
    #[serde(alias = "profile")]
    profile_name: Option<String>,
    agent_id: Option<String>,
    task: String,
    context: Value,
    role: Option<String>,
    capabilities: Vec<String>,
    model: Option<String>,
}

fn failed(message: String) -> Fault {
    Fault::Refused { message, code: Some("SPAWN_FAILED".to_owned()) }
}

impl Agents {
    pub(super) async fn spawn(&self, event: &Event, wish: Spawn) -> Result<Value, Fault> {
        let profiles = self.profiles.profiles().await;
        let (profile_name, selection) = select(&profiles, &wish)?;
        let agent_id =
            wish.agent_id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("{profile_name}-{}", event.event_id));
        // Held until it is in the roster: of two that are spawned at once, one is.
        let _place = self.place(&agent_id)?;
        if self.roster.has(&agent_id) {
            return Err(failed(format!("there is an agent '{agent_id}': terminate it first, or name another")));
        }
        let agent = Agent {
            profile: Some(profile_name),
            task: Some(wish.task),
            context: wish.context,
            model: wish.model.filter(|model| !model.is_empty()),
            ..Agent::default()
        };
        let agent = self.begin(event, &profiles, &agent_id, agent).await?;
        let mut said = json!(agent);
        said["id"] = json!(agent_id);
        Ok(json!({
            "agent_id": agent_id, "status": "spawned", "process_id": agent.process_id, "agent": said,
            "selection": selection,
        }))
    }

    fn place(&self, id: &str) -> Result<Claim<'_>, Fault> {
        self.roster.claim(id).ok_or_else(|| failed(format!("an agent '{id}' is being spawned: send again later")))
    }

    /// Begin an agent's work from its profile, and put it into the roster.
    async fn begin(&self, event: &Event, profiles: &Profiles, id: &str, mut agent: Agent) -> Result<Agent, Fault> {
        let profile = profiles.find(agent.profile.as_deref().unwrap_or_default()).map_err(failed)?;
        let prompt = profile.compose(agent.task.as_deref().unwrap_or_default(), &agent.context);
        let model = agent.model.as_deref().unwrap_or(&profile.model);
        let asked = json!({ "prompt": prompt, "system": profile.system_prompt, "model": model, "agent_id": id });
        agent.role.clone_from(&profile.role);
        agent.capabilities.clone_from(&profile.capabilities);
        "active".clone_into(&mut agent.status);
        // In the roster before it begins: what it ends with, however soon, finds it there.
        self.roster.put(event, id, agent.clone()).await?;
        let begun = self.handle()?.call(Some(event), Draft::new("completion:async", asked)).await;
        let problem = match begun {
            Ok(begun) => {
                agent.process_id = begun.get("request_id").and_then(Value::as_str).map(str::to_owned);
                if let Some(ended) = self.roster.begun(event, id, &agent).await? {
                    agent.status = ended;
                }
                return Ok(agent);
            }
            Err(why) => format!("agent '{id}' was not spawned: {why}"),
        };
        self.roster.remove(event, id).await?;
        Err(failed(problem))
    }

    pub(super) async fn terminate(&self, event: &Event, agent_id: &str) -> Result<Value, Fault> {
        let agent = self.roster.find(agent_id)?;
        self.stop(event, agent_id, &agent).await;
        self.leave(event, agent_id, "terminated").await
    }

    /// End its completion, if one is under way.
    async fn stop(&self, event: &Event, agent_id: &str, agent: &Agent) {
        let (Some(process), Ok(handle)) = (&agent.process_id, self.handle()) else { return };
        // It may have ended by itself; the agent goes in any case.
        let cancel = Draft::new("completion:cancel", json!({ "request_id": process }));
        if let Err(why) = handle.call(Some(event), cancel).await {
            tracing::debug!(agent_id, "its completion could not be cancelled: {why}");
        }
    }

    pub(super) async fn restart(&self, event: &Event, agent_id: &str) -> Result<Value, Fault> {
        let _place = self.place(agent_id)?;
        let mut agent = self.roster.find(agent_id)?;
        let Some(profile) = agent.profile.clone() else {
            return Err(invalid(&format!(
                "agent '{agent_id}' was registered, not spawned: there is nothing to restart"
            )));
        };
        let profiles = self.profiles.profiles().await;
        // What cannot begin again is not ended.
        profiles.find(&profile).map_err(failed)?;
        self.stop(event, agent_id, &agent).await;
        agent.process_id = None;
        let agent = self.begin(event, &profiles, agent_id, agent).await?;
        let mut said = json!(agent);
        said["id"] = json!(agent_id);
        Ok(json!({ "agent_id": agent_id, "status": "restarted", "process_id": agent.process_id, "agent": said }))
    }

    /// A completion has ended: if it was an agent's, so has the agent's work.
    pub(super) async fn ended(&self, event: &Event) -> Result<(), Fault> {
        let status = match event.data["result"]["code"].as_str() {
            None => "completed",
            Some("CANCELLED") => "stopped",
            Some(_) => "failed",
        };
        match event.data["request_id"].as_str() {
            Some(process) => self.roster.ended(event, process, status).await,
            None => Ok(()),
        }
    }
}

/// The profile that is named, or the one that fits best.
fn select(profiles: &Profiles, wish: &Spawn) -> Result<(String, Value), Fault> {
    if let Some(name) = wish.profile_name.as_deref().filter(|name| !name.is_empty()) {
        profiles.find(name).map_err(failed)?;
        return Ok((name.to_owned(), json!({ "profile": name, "by": "name" })));
    }
    if wish.role.is_none() && wish.capabilities.is_empty() {
        return Err(invalid("agent:spawn needs `profile_name`, or a `role` or `capabilities` to choose one by"));
    }
    let best = profiles.best(wish.role.as_deref(), &wish.capabilities);
    let (name, score) = best.ok_or_else(|| failed("no profile has the role or one of the capabilities".to_owned()))?;
    Ok((name.to_owned(), json!({ "profile": name, "by": "score", "score": score })))
}

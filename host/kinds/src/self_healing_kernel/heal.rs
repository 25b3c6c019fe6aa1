//! Planning a healing, ordering it, and seeing for oneself whether it helped.

use super::playbooks::{self, Choice};
use super::store::{Effect, Healing, Ordered, Seen, Status};
use super::{Healer, own_name};
use crate::redb_file::aside;
use crate::{Fault, PeerError};
use hyper::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// What would be done about a component.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) issue: &'static str,
    pub(super) because: String,
    pub(super) choices: Vec<Choice>,
    pub(super) diagnosis: Value,
}

/// Has a component alone until it is dropped.
pub(super) struct Alone {
    healer: Arc<Healer>,
    component: String,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.healer.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.component);
    }
}

/// What another kernel says is what is told here too.
pub(super) fn fault(why: &PeerError) -> Fault {
    match why {
        PeerError::Refused { status: 404, message, .. } => Fault::absent(message.clone()),
        PeerError::Refused { status: 409, message, .. } => Fault::conflict(message.clone()),
        why => Fault::unavailable(why.to_string()),
    }
}

impl Healer {
    /// What would be done: by the issue that is named, or by what the diagnosis and symptoms speak for.
    pub(super) async fn plan(
        self: &Arc<Self>,
        component: &str,
        issue: Option<&str>,
        symptoms: &[String],
    ) -> Result<Plan, Fault> {
        let path = format!("/network-healer/recommendations/{component}");
        let diagnosis = self.peers.get(&path).await.map_err(|why| fault(&why))?;
        let (issue, because) = match issue {
            Some(named) => {
                let (issue, _) = playbooks::issue(named);
                let told = named.chars().take(64).collect::<String>();
                let why = if issue == named { "it was named" } else { "is not in the table: it is only looked into" };
                (issue, if issue == named { why.to_owned() } else { format!("'{told}' {why}") })
            }
            None => playbooks::infer(symptoms, &diagnosis),
        };
        let (this, of) = (Arc::clone(self), component.to_owned());
        let effects = aside("what was done before cannot be read", move || {
            let names = playbooks::PLAYBOOKS.map(|playbook| playbook.name);
            names.into_iter().map(|name| Ok((name, this.store.effect(name, &of, issue)?))).collect()
        });
        let effects: BTreeMap<&str, Effect> = effects.await?;
        let choices = playbooks::choose(issue, &diagnosis, |name| effects.get(name).copied().unwrap_or_default());
        Ok(Plan { issue, because, choices, diagnosis })
    }

    /// Have a component alone, if its budget allows another healing.
    pub(super) async fn alone(self: &Arc<Self>, component: &str) -> Result<Alone, Fault> {
        if component == self.name || component == own_name() {
            return Err(Fault::not_accepted(format!(
                "{component} does not heal itself: ask Guardian (POST /network-healer/heal)"
            )));
        }
        {
            let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
            if active.len() >= self.settings.at_once_max && !active.contains(component) {
                let most = self.settings.at_once_max;
                return Err(Fault::too_many(format!("{most} components are being healed already (at_once_max)")));
            }
            if !active.insert(component.to_owned()) {
                return Err(Fault::conflict(format!("component '{component}' is being healed already")));
            }
        }
        let alone = Alone { healer: Arc::clone(self), component: component.to_owned() };
        let window_ms = self.settings.heals_window_ms;
        // What healings are asked for stands on the bus: one that loops would take the fleet with it.
        let most = if component == "message_bus" { 1 } else { self.settings.heals_max };
        let since = (self.clock)().saturating_sub(window_ms);
        let (this, of) = (Arc::clone(self), component.to_owned());
        let begun = aside("the budget cannot be read", move || this.store.begun_since(&of, since)).await?;
        if begun >= most {
            return Err(Fault::too_many(format!(
                "component '{component}' was healed {begun} times within {window_ms} ms, {most} may be: look at its log"
            )));
        }
        Ok(alone)
    }

    /// Begin a healing: it is on record when this returns.
    pub(super) async fn begin(
        self: &Arc<Self>,
        component: String,
        plan: Plan,
        by: String,
        force: bool,
    ) -> Result<Healing, Fault> {
        let mut healing = Healing {
            id: 0,
            component,
            issue_type: plan.issue.to_owned(),
            because: plan.because,
            by,
            force,
            status: Status::Running,
            verified: false,
            plan: plan.choices,
            before: None,
            orders: Vec::new(),
            began_ms: (self.clock)(),
            ended_ms: None,
        };
        let this = Arc::clone(self);
        aside("the healing cannot be recorded", move || {
            this.store.begin_healing(&mut healing)?;
            Ok(healing)
        })
        .await
    }

    /// Carry out a healing that was begun. What came of it is on record when this returns.
    pub(super) async fn carry_out(self: Arc<Self>, mut healing: Healing, alone: Alone) -> Result<Healing, Fault> {
        let component = healing.component.clone();
        let before = self.look(&component, true).await;
        let needless = before.well && !healing.force;
        healing.before = Some(before);
        healing.status = if needless { Status::Needless } else { Status::NotVerified };
        let choices = if needless { Vec::new() } else { healing.plan.clone() };
        for choice in choices {
            let (ordered, go_on) = self.order(&healing, &choice).await;
            let seen_well = ordered.seen.as_ref().is_some_and(|seen| seen.well);
            let acted = ordered.seen.is_some();
            let mut effect = choice.effect;
            effect.tried += 1;
            effect.verified += u64::from(seen_well);
            effect.took_ms += ordered.took_ms;
            effect.last_ms = (self.clock)();
            healing.orders.push(ordered);
            healing.verified = seen_well;
            // Until it is done it goes on, whatever came of this playbook.
            let kept = Healing { status: Status::Running, ..healing.clone() };
            let (this, playbook) = (Arc::clone(&self), choice.playbook);
            let keep = move || this.store.keep(&kept, acted.then_some((playbook.as_str(), effect)));
            aside("the healing cannot be recorded", keep).await?;
            if seen_well || !go_on {
                break;
            }
        }
        if healing.verified {
            healing.status = Status::Verified;
        }
        healing.ended_ms = Some((self.clock)());
        let (this, kept) = (Arc::clone(&self), healing.clone());
        aside("the healing cannot be recorded", move || this.store.keep(&kept, None)).await?;
        self.counts.healed(&healing);
        drop(alone);
        Ok(healing)
    }

    /// Have Guardian carry out one playbook, and look whether it helped. Gives whether to go on with the next.
    async fn order(&self, healing: &Healing, choice: &Choice) -> (Ordered, bool) {
        let begun = Instant::now();
        let order = json!({
            "component_name": healing.component, "issue_type": healing.issue_type, "severity": "medium",
            "action": choice.playbook,
        });
        let answer = self.peers.post("/network-healer/heal", &order).await;
        let took_ms = whole_ms(begun);
        let (claimed, error, go_on) = match answer {
            Ok(answer) => (answer["success"].as_bool(), None, true),
            // It did not answer in time: what it does goes on, and what comes of it can be seen.
            Err(why @ PeerError::Unreachable { .. }) => (None, Some(why.to_string()), true),
            Err(why) => (None, Some(why.to_string()), false),
        };
        let only_looks = playbooks::PLAYBOOKS.iter().any(|one| one.name == choice.playbook && one.only_looks);
        let seen = if only_looks { None } else { Some(self.look(&healing.component, false).await) };
        (Ordered { playbook: choice.playbook.clone(), claimed, error, took_ms, seen }, go_on)
    }

    /// Ask a component how it is, through the main API, until it is well so many times in a row as one and the same process,
    /// or the time is over. `at_once`: the first answer that is not well ends it.
    pub(super) async fn look(&self, component: &str, at_once: bool) -> Seen {
        let settings = &self.settings;
        let (begun, limit) = (Instant::now(), Duration::from_millis(settings.verify_ms));
        let pause = Duration::from_millis(settings.verify_every_ms);
        let (mut seen, mut in_a_row) = (Seen::default(), 0);
        loop {
            seen.asked += 1;
            match self.ask_health(component).await {
                Ok(pid) => {
                    seen.answered_well += 1;
                    if in_a_row > 0 && pid != seen.pid {
                        seen.why = Some("it was another process than before".to_owned());
                        in_a_row = 0;
                    }
                    // Of a process that nobody knows it cannot be said that it is the one of before.
                    seen.compared = pid.is_some();
                    seen.pid = pid;
                    in_a_row += 1;
                }
                Err(why) => {
                    seen.why = Some(why);
                    in_a_row = 0;
                }
            }
            seen.well = in_a_row >= settings.verify_checks;
            if seen.well || (at_once && in_a_row == 0) || begun.elapsed() + pause >= limit {
                seen.took_ms = whole_ms(begun);
                return seen;
            }
            sleep(pause).await;
        }
    }

    /// How a component says that it is, where Guardian asks it too. Gives the process that the registry knows of it.
    async fn ask_health(&self, component: &str) -> Result<Option<u64>, String> {
        let limit = Duration::from_millis(self.settings.check_timeout_ms);
        let asked = async {
            let entry = self.peers.get(&format!("/kernel-ports/port/{component}")).await;
            let entry = entry.map_err(|why| why.to_string())?;
            let path = entry["health_url"].as_str().and_then(path_of);
            let path = path.ok_or("the registry does not say where it is asked for its health")?;
            let answer = self.peers.text(Method::GET, &format!("/{component}{path}"), None).await;
            Ok::<_, String>((entry["pid"].as_u64(), answer.map_err(|why| why.to_string())?))
        };
        let answer = timeout(limit, asked).await;
        let (pid, answer) = answer.map_err(|_| format!("no answer within {} ms", limit.as_millis()))??;
        // What is well may say so in any form.
        let said: Value = serde_json::from_slice(&answer).unwrap_or_default();
        match said["status"].as_str() {
            Some(status @ ("unhealthy" | "failed" | "stopped" | "starting")) => {
                Err(format!("it says that it is {status}"))
            }
            _ => Ok(pid),
        }
    }
}

/// The path of a URL, with its query.
fn path_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.find('/').map(|at| &rest[at..])
}

fn whole_ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

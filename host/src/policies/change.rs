//! Changing what a kernel judges by. Each step is recorded before it takes effect, and takes effect
//! by one exchange.
//!
//! A candidate is compiled and tested before the lock is taken, so that a roll back never waits for
//! a compiler; if meanwhile another set came to serve, the edits are applied to that one.

use super::document::{Edit, SetDocument};
use super::health::Health;
use super::life::{Deployed, Impossible, Line, SavedLine, Trial, TrialMode};
use super::shadow::{self, Shadow};
use crate::carry::{Panicked, carry};
use crate::decide::Refused;
use crate::kernel::Kernel;
use crate::metrics::PolicyChangeLabels;
use crate::record::{self, PolicyEvent};
use anyhow::{Context, Result};
use gavel_ledger::{Draft, Kind};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A step in the life of a kernel's policies.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Make a candidate of the serving set and these edits.
    Stage {
        /// What to change.
        edits: Vec<Edit>,
        /// The order of all policies, if it is to change.
        order: Option<Vec<String>>,
        /// What the candidate does.
        mode: TrialMode,
    },
    /// Have the candidate do something else.
    Try(TrialMode),
    /// The candidate serves.
    Promote {
        /// Only if it is this one.
        expected: Option<String>,
    },
    /// What served before serves again.
    RollBack,
    /// Drop the candidate.
    Discard,
    /// Ask a policy again that was in quarantine.
    Release {
        /// The policy.
        policy: String,
    },
    /// Serve the set that the configuration names.
    Configure(SetDocument),
}

/// Who changes something, and why.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a> {
    /// The caller's name.
    pub who: &'a str,
    /// Its words.
    pub why: &'a str,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The state of the kernel's policies does not allow it.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// The candidate is not admitted.
    #[error("{0}")]
    Candidate(String),
    /// The policy is not in quarantine.
    #[error("policy {0} is not in quarantine")]
    NotQuarantined(String),
    /// The kernel is halted, or its ledger takes no record.
    #[error(transparent)]
    Kernel(#[from] Refused),
}

impl From<anyhow::Error> for ChangeError {
    fn from(why: anyhow::Error) -> Self {
        Self::Candidate(format!("{why:#}"))
    }
}

/// A step that is ready to be recorded and taken.
struct Step {
    action: &'static str,
    /// The set that the step is about.
    set: Arc<Deployed>,
    line: Line,
}

impl Kernel {
    /// Take a step, recorded first. Is carried to its end: dropping the future stops only the
    /// waiting.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed then.
    pub async fn change_policies(self: &Arc<Self>, change: Change, reason: Reason<'_>) -> Result<Value, ChangeError> {
        let (kernel, who, why) = (Arc::clone(self), reason.who.to_owned(), reason.why.to_owned());
        let work = async move { kernel.change(change, Reason { who: &who, why: &why }).await };
        let panicked =
            || Err(Refused::Ledger("a change of policies was broken off by a fault of the host".into()).into());
        carry(&self.tasks, work).await.unwrap_or_else(|Panicked| panicked())
    }

    async fn change(&self, change: Change, reason: Reason<'_>) -> Result<Value, ChangeError> {
        self.refuse_if_halted()?;
        record::check_reason(reason.why).map_err(Refused::TooLong)?;
        if let Change::Stage { edits, order, mode } = change {
            return self.stage(&edits, order.as_deref(), mode, reason).await;
        }
        let configured = match &change {
            Change::Configure(document) => {
                let line = self.life.line();
                Some(self.admission.deploy(document.clone(), &warm(&line)).await?)
            }
            _ => None,
        };
        let _changing = self.changing.lock().await;
        let line = self.life.line();
        let step = match change {
            Change::Stage { .. } => unreachable!("staged above"),
            Change::Try(mode) => self.tried(&line, mode)?,
            Change::Promote { expected } => {
                let line = line.promoted(expected.as_deref())?;
                Step { action: "promoted", set: Arc::clone(&line.serving), line }
            }
            Change::RollBack => {
                let line = line.rolled_back()?;
                Step { action: "rolled_back", set: Arc::clone(&line.serving), line }
            }
            Change::Discard => {
                let set = Arc::clone(&line.candidate("discard")?.set);
                Step { action: "discarded", set, line: line.with_trial(None) }
            }
            Change::Release { policy } => return self.release(&policy, &line, reason).await,
            Change::Configure(_) => {
                let set = configured.ok_or_else(|| ChangeError::Candidate("there is no configured set".into()))?;
                let line = Line { configured: Arc::clone(set.digest()), ..line.serve(Arc::clone(&set)) };
                Step { action: "configured", set, line }
            }
        };
        self.take(step, reason).await
    }

    async fn stage(
        &self,
        edits: &[Edit],
        order: Option<&[String]>,
        mode: TrialMode,
        reason: Reason<'_>,
    ) -> Result<Value, ChangeError> {
        loop {
            let base = self.life.line();
            let document = base.serving.document.edited(edits, order)?;
            let set = self.admission.deploy(document, &warm(&base)).await?;
            let _changing = self.changing.lock().await;
            let line = self.life.line();
            if line.serving.digest() != base.serving.digest() {
                continue;
            }
            let trial = self.trial(Arc::clone(&set), mode)?;
            let step = Step { action: action_of(mode, true), set, line: line.with_trial(Some(trial)) };
            return self.take(step, reason).await;
        }
    }

    fn tried(&self, line: &Line, mode: TrialMode) -> Result<Step, ChangeError> {
        let set = Arc::clone(&line.candidate("try")?.set);
        let trial = self.trial(Arc::clone(&set), mode)?;
        Ok(Step { action: action_of(mode, false), set, line: line.with_trial(Some(trial)) })
    }

    fn trial(&self, set: Arc<Deployed>, mode: TrialMode) -> Result<Trial, ChangeError> {
        // The same candidate goes on with what it has seen.
        let known = self.life.line().trial.as_ref().filter(|trial| trial.set.digest() == set.digest()).cloned();
        let shadow = if let Some(trial) = known {
            trial.shadow
        } else {
            let file = self.dir.as_deref().map(|dir| shadow::file_of(dir, set.digest()));
            let shadow = Shadow::new(self.admission.shadow(), file.as_deref());
            Arc::new(shadow.map_err(|why| ChangeError::Candidate(format!("differences cannot be kept: {why}")))?)
        };
        Ok(Trial { set, mode, shadow })
    }

    /// Record the step, then take it.
    async fn take(&self, step: Step, reason: Reason<'_>) -> Result<Value, ChangeError> {
        let before = self.life.line();
        let event = PolicyEvent {
            action: step.action,
            who: reason.who,
            why: reason.why,
            old_set: before.serving.digest(),
            new_set: step.set.digest(),
            policies: step.set.document.policies.iter().map(|member| (&*member.name, &*member.component)).collect(),
            policy: None,
            line: Some(step.line.to_state()),
        };
        self.record_policy_event(&event).await?;
        self.life.exchange(step.line);
        self.observe_quarantines(&before);
        tracing::info!(kernel = self.id(), action = step.action, set = %step.set.digest(), who = reason.who, "policies changed");
        Ok(self.policy_status())
    }

    /// Bring the gauges of quarantine up to date with what is judged by now.
    fn observe_quarantines(&self, before: &Line) {
        let names = |line: &Line| -> BTreeSet<String> { in_quarantine(line).map(|found| found.name).collect() };
        let (was, is) = (names(before), names(&self.life.line()));
        for name in was.union(&is) {
            self.observe_quarantine(name, is.contains(name));
        }
    }

    async fn release(&self, policy: &str, line: &Line, reason: Reason<'_>) -> Result<Value, ChangeError> {
        let Some(found) = in_quarantine(line).find(|found| found.name == policy) else {
            return Err(ChangeError::NotQuarantined(policy.to_owned()));
        };
        self.record_about("released", policy, &found.set, reason).await?;
        found.health.release();
        self.observe_quarantine(policy, false);
        Ok(self.policy_status())
    }

    /// Record that something befell one policy of a set: quarantine, release, a candidate refused. It
    /// says nothing of what requests are judged by, which it does not change.
    pub(crate) async fn record_about(
        &self,
        action: &'static str,
        policy: &str,
        set: &str,
        reason: Reason<'_>,
    ) -> Result<(), Refused> {
        self.record_policy_event(&PolicyEvent {
            action,
            who: reason.who,
            why: reason.why,
            old_set: set,
            new_set: set,
            policies: Vec::new(),
            policy: Some(policy),
            line: None,
        })
        .await
    }

    async fn record_policy_event(&self, event: &PolicyEvent<'_>) -> Result<(), Refused> {
        let draft =
            Draft { kind: Kind::Event, ts_ms: self.clock.now_ms(), meta: event.to_json(), entry: None, closes: None };
        self.append(draft).await?;
        let labels = PolicyChangeLabels { kernel: self.id().to_owned(), action: event.action };
        self.metrics.policy_changes.get_or_create(&labels).inc();
        Ok(())
    }

    /// Stand where the last process stood: what was promoted serves, unless the configuration names
    /// another set than it did then.
    ///
    /// # Errors
    /// When the set that served cannot be loaded: another one must not take its place in silence.
    pub(crate) async fn resume_policies(self: &Arc<Self>, saved: Option<SavedLine>) -> Result<()> {
        let configured = self.life.line();
        let reason = Reason { who: "gavel", why: "the configuration at start" };
        match saved {
            Some(saved) if *saved.configured == **configured.serving.digest() => self.restore(&saved).await,
            None if configured.serving.document.policies.is_empty() => Ok(()),
            _ if self.halted.get().is_some() => Ok(()),
            _ => {
                let step =
                    Step { action: "configured", set: Arc::clone(&configured.serving), line: Line::clone(&configured) };
                self.take(step, reason).await?;
                Ok(())
            }
        }
    }

    async fn restore(&self, saved: &SavedLine) -> Result<()> {
        let configured = self.life.line();
        let what = "the policy set that served when the kernel stopped";
        let serving = self.deployed(&saved.serving, &configured).await.with_context(|| {
            format!("kernel {}: {what} cannot be loaded; restore it, or change the configuration's policies", self.id())
        })?;
        let mut line = Line { serving, ..Line::clone(&configured) };
        // Without these two the kernel judges all the same.
        if let Some(digest) = &saved.previous {
            line.previous = self.spare(digest, &line).await;
        }
        if let (Some(digest), Some(mode)) = (&saved.candidate, saved.trial)
            && let Some(set) = self.spare(digest, &line).await
        {
            line.trial = self.trial(set, mode).inspect_err(|why| tracing::error!(kernel = self.id(), "{why}")).ok();
        }
        self.life.exchange(line);
        Ok(())
    }

    async fn spare(&self, digest: &str, line: &Line) -> Option<Arc<Deployed>> {
        let deployed = self.deployed(digest, line).await;
        deployed.inspect_err(|why| tracing::warn!(kernel = self.id(), set = digest, "not loaded: {why:#}")).ok()
    }

    async fn deployed(&self, digest: &str, line: &Line) -> Result<Arc<Deployed>> {
        if **line.serving.digest() == *digest {
            return Ok(Arc::clone(&line.serving));
        }
        let document = self.admission.catalogue().set(digest)?;
        let set = self.admission.deploy(document, &warm(line)).await?;
        // An older document may lack what this version writes; its digest is what ledgers know.
        Ok(Arc::new(set.under(digest)))
    }

    /// The policies in quarantine among those that are asked, each with the reason.
    pub(crate) fn quarantined(&self) -> Vec<(String, String)> {
        let line = self.life.line();
        in_quarantine(&line).filter_map(|found| Some((found.name, found.health.quarantined()?.why))).collect()
    }

    /// Everything about the kernel's policies that an operator wants to know.
    #[must_use]
    pub fn policy_status(&self) -> Value {
        let line = self.life.line();
        json!({
            "kernel_id": self.id(),
            "serving": describe(&line.serving),
            "previous": line.previous.as_deref().map(describe),
            "candidate": line.trial.as_ref().map(|trial| {
                let mut told = describe(&trial.set);
                told["trial"] = json!(trial.mode);
                told["shadow"] = json!(trial.shadow.tally());
                told
            }),
            "configured": *line.configured,
        })
    }
}

fn describe(deployed: &Deployed) -> Value {
    let policies = deployed.members().map(|(member, policy, health)| {
        let metadata = policy.metadata();
        json!({
            "name": member.name,
            "component": member.component,
            "version": metadata.version,
            "description": metadata.description,
            "bytes": policy.bytes(),
            "config": member.config,
            "limits": member.limits,
            "quarantine": member.quarantine,
            "health": health.to_value(),
        })
    });
    json!({"set": **deployed.digest(), "policies": policies.collect::<Vec<_>>()})
}

fn action_of(mode: TrialMode, new: bool) -> &'static str {
    match mode {
        TrialMode::Shadow => "shadow",
        TrialMode::Canary(_) => "canary",
        TrialMode::Staged if new => "staged",
        TrialMode::Staged => "paused",
    }
}

/// A policy in quarantine, and the set that it belongs to.
struct InQuarantine {
    name: String,
    set: Arc<str>,
    health: Arc<Health>,
}

/// The policies in quarantine among those that are asked.
fn in_quarantine(line: &Line) -> impl Iterator<Item = InQuarantine> {
    let trial = line.trial.as_ref().map(|trial| &trial.set);
    let mut found = Vec::new();
    for set in [Some(&line.serving), trial].into_iter().flatten() {
        let members = set.members().filter(|(_, _, health)| health.quarantined().is_some());
        found.extend(members.map(|(member, _, health)| InQuarantine {
            name: member.name.clone(),
            set: Arc::clone(set.digest()),
            health: Arc::clone(health),
        }));
    }
    found.into_iter()
}

/// The sets that are loaded.
fn warm(line: &Line) -> Vec<&Deployed> {
    let trial = line.trial.as_ref().map(|trial| &*trial.set);
    [Some(&*line.serving), line.previous.as_deref(), trial].into_iter().flatten().collect()
}

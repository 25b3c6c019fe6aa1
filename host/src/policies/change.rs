//! Changing what a kernel judges by. Each step is recorded before it takes effect, and takes effect
//! by one exchange.
//!
//! A candidate is compiled and tested before the lock is taken, so that a roll back never waits for
//! a compiler; if meanwhile another set came to serve, the edits are applied to that one.

use super::document::{Edit, SetDocument};
use super::health::Health;
use super::life::{Deployed, Impossible, Line, SavedLine, Trial, TrialMode};
use super::shadow::{self, Shadow};
use super::statute::{self, SavedStatute, Statute};
use crate::carry::{Panicked, carry};
use crate::decide::Refused;
use crate::kernel::Kernel;
use crate::metrics::PolicyChangeLabels;
use crate::record::{self, PolicyEvent};
use anyhow::{Context, Result};
use gavel_kernel::Jurisdiction;
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
    /// Serve the set that the configuration names, under the jurisdiction that it names.
    Configure {
        /// The set.
        document: SetDocument,
        /// The jurisdiction, if that is to change.
        jurisdiction: Option<Jurisdiction>,
    },
    /// Judge by another jurisdiction.
    Amend {
        /// The jurisdiction.
        jurisdiction: Jurisdiction,
        /// The set that its custom rules name, if those are to change.
        document: Option<SetDocument>,
    },
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
        let named = match &change {
            Change::Configure { document, .. } | Change::Amend { document: Some(document), .. } => {
                let line = self.life.line();
                Some(self.admission.deploy(document.clone(), &warm(&line)).await?)
            }
            _ => None,
        };
        let _changing = self.changing.lock().await;
        self.refuse_if_replaced()?;
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
            Change::Configure { jurisdiction, .. } => {
                let set = named.ok_or_else(|| ChangeError::Candidate("there is no configured set".into()))?;
                let mut line = Line { configured: Arc::clone(set.digest()), ..line.serve(Arc::clone(&set)) };
                if let Some(jurisdiction) = jurisdiction {
                    line.statute = line.statute.amended(jurisdiction);
                    line.statute.configured = Arc::clone(&line.statute.digest);
                }
                Step { action: "configured", set, line }
            }
            Change::Amend { jurisdiction, .. } => {
                let line = named.map_or_else(|| Line::clone(&line), |set| line.serve(set));
                let line = Line { statute: line.statute.amended(jurisdiction), ..line };
                Step { action: "jurisdiction", set: Arc::clone(&line.serving), line }
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
            self.refuse_if_replaced()?;
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
            law: (before.statute.digest != step.line.statute.digest)
                .then(|| (&before.statute.law.jurisdiction, &step.line.statute.law.jurisdiction)),
            line: Some(step.line.to_state()),
        };
        self.keep_laws(&step.line.statute)?;
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
            law: None,
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

    /// The digests that a record names must lead to the texts.
    fn keep_laws(&self, statute: &Statute) -> Result<()> {
        let jurisdictions = [Some(&statute.law.jurisdiction), statute.previous.as_deref()];
        let kept = jurisdictions
            .into_iter()
            .flatten()
            .try_for_each(|jurisdiction| self.admission.catalogue().put_jurisdiction(jurisdiction).map(drop));
        kept.context("the jurisdiction cannot be kept in the catalogue")
    }

    /// Stand where the last process stood: what was promoted serves, and the jurisdiction that was
    /// changed holds, unless the configuration names others than it did then.
    ///
    /// # Errors
    /// When the set that served cannot be loaded: another one must not take its place in silence.
    pub(crate) async fn resume_policies(self: &Arc<Self>, saved: Option<SavedLine>) -> Result<()> {
        let configured = self.life.line();
        let reason = Reason { who: "gavel", why: "the configuration at start" };
        let halted = self.halted.get().is_some();
        let Some(saved) = saved else {
            if halted || configured.serving.document.policies.is_empty() {
                return Ok(());
            }
            let step =
                Step { action: "configured", set: Arc::clone(&configured.serving), line: Line::clone(&configured) };
            self.take(step, reason).await?;
            return Ok(());
        };
        let law = saved.law.as_ref();
        let same_law = law.is_none_or(|law| law.configured == *configured.statute.configured);
        let same_set = saved.configured == **configured.serving.digest();
        let mut line = Line::clone(&configured);
        if let (Some(law), true) = (law, same_law) {
            line.statute = self.restored(law, &configured.statute)?;
        }
        if same_set {
            line = self.restore(&saved, line).await?;
        }
        if halted || (same_law && same_set) {
            self.life.exchange(line);
            return Ok(());
        }
        self.take(Step { action: "configured", set: Arc::clone(&line.serving), line }, reason).await?;
        Ok(())
    }

    /// Take over what the kernel judged by that this one replaces, as far as this one is to.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub(crate) async fn inherit_policies(&self, line: Line, reason: Reason<'_>) -> Result<(), ChangeError> {
        if line.serving.document.policies.is_empty() && line.statute.digest == line.statute.configured {
            self.life.exchange(line);
            return Ok(());
        }
        self.take(Step { action: "configured", set: Arc::clone(&line.serving), line }, reason).await.map(drop)
    }

    fn restored(&self, saved: &SavedStatute, configured: &Statute) -> Result<Statute> {
        let catalogue = self.admission.catalogue();
        let what = "the jurisdiction that was in force when the kernel stopped";
        let serving = catalogue.jurisdiction(&saved.serving).with_context(|| {
            format!("kernel {}: {what} cannot be read; restore it, or change the configuration's policy", self.id())
        })?;
        // Without this one the kernel judges all the same.
        let previous = saved.previous.as_deref().and_then(|digest| {
            let read = catalogue.jurisdiction(digest);
            read.inspect_err(|why| tracing::warn!(kernel = self.id(), jurisdiction = digest, "not read: {why:#}")).ok()
        });
        debug_assert_eq!(statute::digest(&serving), saved.serving, "the catalogue checks what it reads");
        Ok(configured.with(serving, previous.map(Arc::new)))
    }

    async fn restore(&self, saved: &SavedLine, configured: Line) -> Result<Line> {
        let what = "the policy set that served when the kernel stopped";
        let serving = self.deployed(&saved.serving, &configured).await.with_context(|| {
            format!("kernel {}: {what} cannot be loaded; restore it, or change the configuration's policies", self.id())
        })?;
        let mut line = Line { serving, ..configured };
        // Without these two the kernel judges all the same.
        if let Some(digest) = &saved.previous {
            line.previous = self.spare(digest, &line).await;
        }
        if let (Some(digest), Some(mode)) = (&saved.candidate, saved.trial)
            && let Some(set) = self.spare(digest, &line).await
        {
            line.trial = self.trial(set, mode).inspect_err(|why| tracing::error!(kernel = self.id(), "{why}")).ok();
        }
        Ok(line)
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
            "jurisdiction": *line.statute.digest,
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

//! The replacement of a kernel, while requests come in.
//!
//! 1. The definition is checked, its policies are compiled, the old ledger's chain is verified to its end.
//! 2. The new kernel is opened; its ledger begins by saying whose place it takes.
//! 3. It is IDLE and passes a smoke test.
//! 4. `DATA/kernels.json` says that it answers: from here on a crash leads to the new one.
//! 5. One store: whoever comes now is judged by it. The old one's gate is closed.
//! 6. Requests that are in the old one are carried to their end there; then it records who has its place, its evidence
//!    is archived, and its ledger is closed for good.
//!
//! Whatever fails before 4 leaves everything as it was, but for a folder with the ledger of a kernel that never served;
//! its id is not used again. Both kernels share one memory of permits and counters, so there is no moment at which a
//! request is judged without what the other counted, and nobody has to wait.

use super::definition::Definition;
use super::manifest::{Entry, Predecessor, Previous, Stage};
use super::plan::{Ask, Plan};
use super::succession::{self, Cause, Tip, Whose};
use super::{ARCHIVE, Fleet, FleetError, Slot};
use crate::carry::{Panicked, carry};
use crate::config::check_id;
use crate::evidence::verify_chain;
use crate::host::kernel_dir;
use crate::kernel::{Birth, Kernel};
use crate::policies::change::Reason;
use crate::policies::life::{Deployed, Line};
use anyhow::Context;
use gavel_kernel::State;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// Numbers that are tried for the id of a new kernel: those of replacements that were broken off are taken.
const FREE_ID_TRIES: usize = 10_000;

/// What a replacement came to.
pub(super) struct Replaced {
    pub(super) old: Arc<Kernel>,
    pub(super) new: Arc<Kernel>,
    pub(super) told: Value,
}

impl Fleet {
    /// Have another kernel answer under `name`. Is carried to its end: dropping the future stops only the waiting.
    ///
    /// # Errors
    /// [`FleetError`]; the kernel that answered goes on answering then.
    pub async fn replace(
        self: &Arc<Self>,
        name: &str,
        id: Option<&str>,
        ask: Ask,
        reason: Reason<'_>,
    ) -> Result<Value, FleetError> {
        let slot = self.slot(name)?;
        let cause = Cause { who: reason.who.to_owned(), why: reason.why.to_owned() };
        crate::record::check_reason(&cause.why).map_err(FleetError::NotAccepted)?;
        let (fleet, id) = (Arc::clone(self), id.map(str::to_owned));
        let work = async move { fleet.turn_over(&slot, id.as_deref(), ask, &cause).await };
        let panicked = || Err(FleetError::Failed("the replacement was broken off by a fault of the host".into()));
        carry(&self.tasks, work).await.unwrap_or_else(|Panicked| panicked())
    }

    async fn turn_over(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        id: Option<&str>,
        ask: Ask,
        cause: &Cause,
    ) -> Result<Value, FleetError> {
        // One after the other; the next begins when the last one's old kernel is closed.
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        let entry = self.entry(slot.name())?;
        let plan = self.plan(slot, &entry, ask)?;
        let restored = plan.restore_config()?;
        let replaced = self.exchange(slot, id, &entry, &plan, cause).await;
        let Replaced { old, new, told } = match replaced {
            Ok(replaced) => replaced,
            Err(why) => {
                if let Some(restored) = restored {
                    restored.undo();
                }
                return Err(why);
            }
        };
        slot.watch(&plan.definition, &self.workshop.checkpoints);
        if let Some(incident) = plan.incident {
            let (incidents, id) = (Arc::clone(&self.incidents), new.id().to_owned());
            let noted = tokio::task::spawn_blocking(move || incidents.recovered(&incident, &id)).await;
            if !matches!(noted, Ok(Ok(_))) {
                tracing::error!(name = slot.name(), "that the incident was recovered from is not noted in its file");
            }
        }
        tracing::info!(name = slot.name(), old = old.id(), new = new.id(), who = cause.who, "kernel replaced");
        let (fleet, slot, cause) = (Arc::clone(self), Arc::clone(slot), cause.clone());
        self.tasks.spawn(async move { fleet.retire(&slot, &old, &new, &cause, turn).await });
        Ok(told)
    }

    /// Steps 1 to 5.
    async fn exchange(
        &self,
        slot: &Slot,
        id: Option<&str>,
        entry: &Entry,
        plan: &Plan,
        cause: &Cause,
    ) -> Result<Replaced, FleetError> {
        let old = slot.kernel();
        let was = old.state();
        let id = self.new_id(slot.name(), id, entry)?;
        let tip = verified(&old).await?;
        let line = old.policies();
        let policies = self.workshop.deploy(&plan.definition, &warm(&line)).await;
        let policies = policies.map_err(|why| FleetError::NotAccepted(format!("{why:#}")))?;
        // What is promoted in the old one from here on would be lost.
        let changing = old.changing.lock().await;
        let birth = Birth {
            event: succession::replaces(plan.action, slot.name(), old.id(), &tip, cause),
            line: Some(plan.inherited(old.policies())),
            who: cause.who.clone(),
            why: cause.why.clone(),
        };
        let opened = self.workshop.open(&id, &plan.definition, policies, old.remembered.clone(), Some(birth)).await;
        let new = opened.map_err(|why| FleetError::failed(&why))?;
        let smoke = match self.tried(slot, &old, was, &new, plan, cause).await {
            Ok(smoke) => smoke,
            Err(why) => {
                new.finish().await;
                new.forget_gauges();
                return Err(why);
            }
        };
        drop(changing);
        let told = json!({
            "name": slot.name(),
            "kernel_id": new.id(),
            "kernel_state": new.state(),
            "action": plan.action,
            "replaces": old.id(),
            "evidence": tip.to_value(),
            "smoke": smoke,
        });
        Ok(Replaced { old, new, told })
    }

    /// Steps 3 to 5: try it, and if it is well let it answer.
    async fn tried(
        &self,
        slot: &Slot,
        old: &Arc<Kernel>,
        was: State,
        new: &Arc<Kernel>,
        plan: &Plan,
        cause: &Cause,
    ) -> Result<Value, FleetError> {
        let smoke = new.smoke_test().await.map_err(FleetError::NotAccepted)?;
        let declared = plan.declared.clone().or_else(|| self.declared_on_disk(slot.name()));
        let _exchange = slot.exchange.lock().await;
        if old.state() != was {
            return Err(FleetError::Conflict(format!(
                "kernel '{}' was halted while it was being replaced: it stays halted; replace it again, or recover it",
                old.id()
            )));
        }
        if was == State::Halted && plan.incident.is_none() {
            // It may have been halted in an incident since this was planned.
            self.refuse_in_incident(slot.name())?;
        }
        let now_ms = self.workshop.clock.now_ms();
        let before = predecessor(old, new.id(), now_ms, cause);
        let previous = Previous { definition: plan.left.clone(), config: self.entry(slot.name())?.config };
        let saved = self.save(|manifest| {
            let Some(entry) = manifest.names.get_mut(slot.name()) else { return };
            if !previous.definition.means_the_same(&plan.definition) {
                entry.previous = Some(previous);
            }
            if entry.declared.is_some() {
                entry.declared = declared.or(entry.declared.take());
            }
            new.id().clone_into(&mut entry.kernel_id);
            entry.definition = plan.definition.clone();
            entry.config.clone_from(&plan.config);
            entry.predecessors.push(before);
            entry.monitored_until_ms = plan.monitored_until_ms.or(entry.monitored_until_ms);
            entry.forget(now_ms);
        });
        saved.await.map_err(|why| FleetError::failed(&why))?;
        slot.current.store(Arc::clone(new));
        old.gate.close();
        Ok(smoke)
    }

    /// What the configuration file says of a name at this moment. A decision that is made now knows it.
    fn declared_on_disk(&self, name: &str) -> Option<Definition> {
        let file = crate::config::read(self.source.as_deref()?).ok()?;
        let kernel = file.kernels.iter().find(|kernel| kernel.id == name)?;
        Definition::declared(&file, kernel, &self.workshop.admission).ok()
    }

    /// An id that no kernel here has or had.
    pub(super) fn new_id(&self, name: &str, wanted: Option<&str>, entry: &Entry) -> Result<String, FleetError> {
        let is_free = |id: &str| {
            let folder = self.workshop.data.as_ref().map(|data| kernel_dir(data, id));
            let past = entry.predecessors.iter().any(|before| before.kernel_id == id);
            !past && self.find(id).is_none() && !folder.is_some_and(|folder| folder.exists())
        };
        if let Some(id) = wanted {
            check_id(id).map_err(FleetError::NotAccepted)?;
            if !is_free(id) {
                return Err(FleetError::Conflict(format!(
                    "a kernel '{id}' is or was there: a ledger is never used again"
                )));
            }
            return Ok(id.to_owned());
        }
        let first = entry.predecessors.len() + 2;
        let mut ids = (first..first + FREE_ID_TRIES).map(|number| format!("{name}-{number}"));
        let id = ids.find(|id| is_free(id)).unwrap_or_default();
        check_id(&id).map_err(|why| FleetError::NotAccepted(format!("{why}: give the new kernel an `id`")))?;
        Ok(id)
    }

    /// Step 6.
    async fn retire(
        &self,
        slot: &Slot,
        old: &Arc<Kernel>,
        new: &Arc<Kernel>,
        cause: &Cause,
        turn: OwnedMutexGuard<()>,
    ) {
        old.upkeep.stop().await;
        old.gate.emptied().await;
        old.tasks.close();
        old.tasks.wait().await;
        if let Err(why) = old.note(succession::replaced_by(slot.name(), new.id(), cause)).await {
            tracing::error!(kernel = old.id(), %why, "that it was replaced could not be recorded in its ledger");
        }
        let (kernel, archive) = (Arc::clone(old), self.workshop.folder(ARCHIVE));
        let ended = tokio::task::spawn_blocking(move || {
            let variant = kernel.variant().to_string();
            let whose = Whose { kernel_id: kernel.id(), variant: &variant, clock: &kernel.clock };
            // First, so that nothing comes after the end that is told.
            if let Err(why) = kernel.ledger.close() {
                tracing::error!(kernel = kernel.id(), %why, "the ledger was not closed cleanly");
            }
            if let Some(index) = &kernel.index {
                index.close();
            }
            succession::end_of(&kernel.ledger, whose, archive.as_deref())
        });
        let ended = ended.await.context("the archiving broke off").and_then(|ended| ended);
        old.forget_gauges();
        match ended {
            Ok(end) => {
                if let Err(why) = new.note(succession::retired(slot.name(), old.id(), &end, cause)).await {
                    tracing::error!(kernel = new.id(), %why, "the end of its predecessor could not be recorded");
                }
                let saved = self.save(|manifest| {
                    let entry = manifest.names.get_mut(slot.name());
                    if let Some(before) = entry.and_then(|entry| entry.predecessor(old.id())) {
                        (before.stage, before.end) = (Stage::Retired, Some(end));
                    }
                });
                if let Err(why) = saved.await {
                    tracing::error!(kernel = old.id(), "its end is not remembered: {why:#}");
                }
                tracing::info!(kernel = old.id(), "replaced kernel closed");
            }
            // The next start tries again.
            Err(why) => tracing::error!(kernel = old.id(), "the replaced kernel's ledger cannot be read: {why:#}"),
        }
        drop(turn);
    }
}

/// Every hash and link of the old chain, up to now.
async fn verified(old: &Arc<Kernel>) -> Result<Tip, FleetError> {
    let kernel = Arc::clone(old);
    let work = tokio::task::spawn_blocking(move || {
        let snapshot = kernel.ledger.snapshot();
        verify_chain(&kernel.ledger, &snapshot).map(|()| Tip::from(&snapshot))
    });
    let verified = work.await.map_err(|why| FleetError::Failed(why.to_string()))?;
    verified.map_err(|why| {
        FleetError::Conflict(format!(
            "the evidence of kernel '{}' does not hold, so it is not replaced: {why:#}; halt it and keep its folder as evidence",
            old.id()
        ))
    })
}

fn predecessor(old: &Kernel, new: &str, now_ms: u64, cause: &Cause) -> Predecessor {
    Predecessor {
        kernel_id: old.id().to_owned(),
        variant: old.variant().to_string(),
        stage: Stage::Draining,
        replaced_by: new.to_owned(),
        replaced_at_ms: now_ms,
        who: cause.who.clone(),
        why: cause.why.clone(),
        end: None,
    }
}

/// The sets that are loaded.
pub(super) fn warm(line: &Line) -> Vec<&Deployed> {
    let trial = line.trial.as_ref().map(|trial| &*trial.set);
    [Some(&*line.serving), line.previous.as_deref(), trial].into_iter().flatten().collect()
}

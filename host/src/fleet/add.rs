//! One name more, and another policy for one that is there.

use super::definition::Definition;
use super::manifest::Entry;
use super::plan::{effective, jurisdiction_of};
use super::succession::{self, Cause, stamp};
use super::{BACKUP, Fleet, FleetError, Slot, back_up};
use crate::carry::{Panicked, carry};
use crate::config::check_id;
use crate::host::kernel_dir;
use crate::kernel::{Birth, Kernel};
use crate::policies::change::{Change, Reason};
use crate::policies::life::Line;
use crate::policies::of_rules;
use crate::policies::statute;
use crate::remembered::Remembered;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::sync::Arc;

/// What an added kernel is to be made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Addition {
    /// The same as this one; the first if neither this nor a definition is given.
    pub like: Option<String>,
    /// This.
    pub definition: Option<Definition>,
    /// With this jurisdiction instead.
    pub policy: Option<Value>,
}

impl Fleet {
    /// Serve a kernel of another name. Is carried to its end: dropping the future stops only the waiting.
    ///
    /// # Errors
    /// [`FleetError`]; nothing was changed then.
    pub async fn add(
        self: &Arc<Self>,
        name: &str,
        addition: Addition,
        reason: Reason<'_>,
    ) -> Result<Value, FleetError> {
        crate::record::check_reason(reason.why).map_err(FleetError::NotAccepted)?;
        check_id(name).map_err(FleetError::NotAccepted)?;
        let cause = Cause { who: reason.who.to_owned(), why: reason.why.to_owned() };
        let (fleet, name) = (Arc::clone(self), name.to_owned());
        let work = async move { fleet.add_named(&name, addition, &cause).await };
        let panicked = || Err(FleetError::Failed("the addition was broken off by a fault of the host".into()));
        carry(&self.tasks, work).await.unwrap_or_else(|Panicked| panicked())
    }

    async fn add_named(&self, name: &str, addition: Addition, cause: &Cause) -> Result<Value, FleetError> {
        let _adding = self.adding.lock().await;
        self.check_room(name)?;
        let (definition, like) = self.made_of(name, addition)?;
        definition.validate().map_err(FleetError::NotAccepted)?;
        let policies = self.workshop.deploy(&definition, &[]).await;
        let policies = policies.map_err(|why| FleetError::NotAccepted(format!("{why:#}")))?;
        let birth = Birth {
            event: succession::event("added", cause, json!({"name": name, "like": like})),
            line: None,
            who: cause.who.clone(),
            why: cause.why.clone(),
        };
        let remembered = Remembered::nothing(self.workshop.limits.max_counter_keys);
        let opened = self.workshop.open(name, &definition, policies, remembered, Some(birth)).await;
        let kernel = opened.map_err(|why| FleetError::failed(&why))?;
        let entry = Entry::of(name, definition, false, None);
        match self.take_in(name, &kernel, entry).await {
            Ok(smoke) => {
                tracing::info!(name, who = cause.who, "kernel added");
                Ok(
                    json!({"name": name, "kernel_id": name, "kernel_state": kernel.state(), "like": like, "smoke": smoke}),
                )
            }
            Err(why) => {
                kernel.finish().await;
                kernel.forget_gauges();
                Err(why)
            }
        }
    }

    async fn take_in(&self, name: &str, kernel: &Arc<Kernel>, entry: Entry) -> Result<Value, FleetError> {
        let smoke = kernel.smoke_test().await.map_err(FleetError::NotAccepted)?;
        let definition = entry.definition.clone();
        let saved = self.save(|manifest| _ = manifest.names.insert(name.to_owned(), entry)).await;
        saved.map_err(|why| FleetError::failed(&why))?;
        let slot = Slot::new(name, Arc::clone(kernel));
        slot.watch(&definition, &self.workshop.checkpoints);
        self.slots.store(Arc::new(self.slots.load().with(&slot)));
        Ok(smoke)
    }

    fn check_room(&self, name: &str) -> Result<(), FleetError> {
        let conflict = |why: String| Err(FleetError::Conflict(why));
        if self.find(name).is_some() {
            return conflict(format!("there is a kernel '{name}' already"));
        }
        let (count, limit) = (self.slots().len(), self.workshop.limits.max_kernels);
        if count >= limit {
            return conflict(format!("{count} kernels are served, and that is the most (limits.max_kernels {limit})"));
        }
        let folder = self.workshop.data.as_ref().map(|data| kernel_dir(data, name));
        match folder.filter(|folder| folder.exists()) {
            Some(folder) => {
                conflict(format!("{} is there: a ledger is never used again; choose another name", folder.display()))
            }
            None => Ok(()),
        }
    }

    fn made_of(&self, name: &str, addition: Addition) -> Result<(Definition, Option<String>), FleetError> {
        let Addition { like, definition, policy } = addition;
        let (mut made_of, like) = match (definition, like) {
            (Some(_), Some(_)) => {
                return Err(FleetError::NotAccepted("give `like` or a `definition`, not both".into()));
            }
            (Some(definition), None) => {
                definition.validate_sent(None).map_err(FleetError::NotAccepted)?;
                (definition, None)
            }
            (None, like) => {
                let slot = like.map_or_else(|| Ok(self.first()), |like| self.slot(&like))?;
                let entry = self.entry(slot.name())?;
                let mut like = effective(&entry.definition, &slot.kernel().policies());
                // A folder is looked into for one kernel.
                like.kernel.watch = None;
                (like, Some(slot.name().to_owned()))
            }
        };
        if let Some(policy) = policy {
            made_of = made_of.with_jurisdiction(jurisdiction_of(policy, &made_of.jurisdiction())?);
        }
        Ok((made_of.named(name), like))
    }

    /// Serve a kernel that an edited configuration declares.
    pub(super) async fn add_declared(
        &self,
        declared: Definition,
        config: Option<String>,
        reason: Reason<'_>,
    ) -> Result<()> {
        let _adding = self.adding.lock().await;
        let name = declared.kernel.id.clone();
        ensure!(self.find(&name).is_none(), "a kernel of this id serves under another name");
        let limit = self.workshop.limits.max_kernels;
        ensure!(self.slots().len() < limit, "{limit} kernels are served, and that is the most (limits.max_kernels)");
        // It may have been declared before.
        let mut entry = self.entry(&name).ok();
        if let Some(entry) = &mut entry {
            entry.meet(declared.clone(), config.as_ref());
        }
        let mut entry = entry.unwrap_or_else(|| Entry::of(&name, declared, true, config));
        let replaced = self.manifest().replaced(&entry.kernel_id).map(str::to_owned);
        ensure!(replaced.is_none(), "kernel {} was replaced, and its ledger is never used again", entry.kernel_id);
        let (kernel, _) = self.workshop.resume_kernel(&name, &mut entry, &self.kernels()).await?;
        let cause = Cause { who: reason.who.to_owned(), why: reason.why.to_owned() };
        kernel.note(succession::event("added", &cause, json!({"name": name}))).await?;
        let definition = entry.definition.clone();
        self.save(|manifest| _ = manifest.names.insert(name.clone(), entry)).await?;
        let slot = Slot::new(&name, kernel);
        slot.watch(&definition, &self.workshop.checkpoints);
        self.slots.store(Arc::new(self.slots.load().with(&slot)));
        tracing::info!(name, "kernel added");
        Ok(())
    }

    /// Judge by another jurisdiction from now on, in the same kernel. The one before is kept in `DATA/backup`.
    ///
    /// # Errors
    /// [`FleetError`]; nothing was changed then.
    pub async fn update_policy(&self, name: &str, policy: Value, reason: Reason<'_>) -> Result<Value, FleetError> {
        let slot = self.slot(name)?;
        crate::record::check_reason(reason.why).map_err(FleetError::NotAccepted)?;
        let entry = self.entry(slot.name())?;
        let kernel = slot.kernel();
        let line = kernel.policies();
        let in_force = &line.statute.law.jurisdiction;
        let jurisdiction = jurisdiction_of(policy, in_force)?;
        let definition = entry.definition.with_jurisdiction(jurisdiction.clone());
        definition.validate().map_err(FleetError::NotAccepted)?;
        let document = (jurisdiction.custom_rules != in_force.custom_rules)
            .then(|| of_rules(&jurisdiction.custom_rules, &definition.policies, &self.workshop.admission));
        let document = document.transpose().map_err(|why| FleetError::NotAccepted(format!("{why:#}")))?;
        kernel.refuse_if_halted()?;
        let archive = self.archive_policy(slot.name(), &kernel, &line).map_err(|why| FleetError::failed(&why))?;
        let change = Change::Amend { jurisdiction: jurisdiction.clone(), document };
        slot.change_policies(change, reason).await?;
        let serving = slot.kernel();
        let now = serving.policies();
        Ok(json!({
            "name": slot.name(),
            "kernel_id": serving.id(),
            "kernel_state": serving.state(),
            // Read back from what judges, not from what was asked for.
            "policy": serving.policy(),
            "jurisdiction": *now.statute.digest,
            "previous": *line.statute.digest,
            "serves": now.statute.law.jurisdiction == jurisdiction,
            "backup": archive,
        }))
    }

    /// Keep the jurisdiction in force, and where the evidence stands, in a file of its own.
    fn archive_policy(&self, name: &str, kernel: &Kernel, line: &Line) -> Result<Option<String>> {
        let Some(folder) = self.workshop.folder(BACKUP) else { return Ok(None) };
        let statute = &line.statute;
        let mut text = serde_json::to_vec_pretty(&json!({
            "kernel_id": kernel.id(),
            "policy": statute.law.jurisdiction,
            "digest": statute::digest(&statute.law.jurisdiction),
            "policy_set": **line.serving.digest(),
            "evidence": succession::Tip::from(&kernel.ledger().snapshot()).to_value(),
        }))?;
        text.push(b'\n');
        let file = format!("policy_{name}_{}.json", stamp(&self.workshop.clock));
        back_up(&folder, &file, &text).context("the policy in force cannot be kept")?;
        Ok(Some(file))
    }
}

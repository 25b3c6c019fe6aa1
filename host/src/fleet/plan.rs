//! What a kernel is to be replaced by, and whether it may be.

use super::definition::Definition;
use super::manifest::{Entry, Previous};
use super::{BACKUP, Fleet, FleetError, Slot, back_up, config_backup};
use crate::config::{self, MONITORING_HOURS_MAX, typed};
use crate::incidents::Status;
use crate::kernel::Inherited;
use crate::policies::life::Line;
use anyhow::{Context, Result};
use gavel_kernel::{Jurisdiction, State};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a kernel is to be replaced by.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// One that is made of the same.
    Same,
    /// One with this jurisdiction. Custom rules that it does not name stay as they are.
    Policy(Value),
    /// One that is made of this.
    Definition(Box<Definition>),
    /// One that is made of what served before.
    RollBack {
        /// Put the configuration file back too.
        full: bool,
    },
    /// The one after an incident.
    Recover {
        /// The incident, which must be resolved.
        incident: String,
        /// Keys of the jurisdiction that are to change.
        policy: Option<Map<String, Value>>,
        /// How long it is watched closely; the configuration's time if not given.
        hours: Option<u64>,
    },
}

/// An [`Ask`] that may be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    /// The first word of the new ledger.
    pub(super) action: &'static str,
    /// What the new kernel is made of.
    pub(super) definition: Definition,
    /// What the old one was made of, with all that was changed while it ran.
    pub(super) left: Definition,
    /// What the configuration file says by then, where that is changed too.
    pub(super) declared: Option<Definition>,
    /// The copy of the configuration file as it stands by then.
    pub(super) config: Option<String>,
    pub(super) monitored_until_ms: Option<u64>,
    /// The incident that it ends.
    pub(super) incident: Option<String>,
    inherits_law: bool,
    restore: Option<Restore>,
}

/// A configuration file that is to be put back.
#[derive(Debug)]
struct Restore {
    path: PathBuf,
    text: String,
}

/// A configuration file that was put back, and what stood there.
pub(super) struct Restored {
    path: PathBuf,
    before: Vec<u8>,
}

impl Plan {
    fn of(action: &'static str, definition: Definition, left: Definition) -> Self {
        Self {
            action,
            definition,
            left,
            declared: None,
            config: None,
            monitored_until_ms: None,
            incident: None,
            inherits_law: false,
            restore: None,
        }
    }

    pub(super) fn inherited(&self, line: Arc<Line>) -> Inherited {
        Inherited { line, law: self.inherits_law }
    }

    /// Put the configuration file back, if that is asked for. It comes first: a crash after it leads to a start with
    /// the restored file, which is what was asked for.
    pub(super) fn restore_config(&self) -> Result<Option<Restored>, FleetError> {
        let Some(Restore { path, text }) = &self.restore else { return Ok(None) };
        let write = || -> Result<Restored> {
            let before = std::fs::read(path)?;
            write_over(path, text.as_bytes())?;
            Ok(Restored { path: path.clone(), before })
        };
        let written = write().with_context(|| format!("{} cannot be put back; nothing was changed", path.display()));
        written.map(Some).map_err(|why| FleetError::failed(&why))
    }
}

impl Restored {
    /// The kernel was not replaced: the file is as it was.
    pub(super) fn undo(&self) {
        if let Err(why) = write_over(&self.path, &self.before) {
            tracing::error!(file = %self.path.display(), "the configuration was put back, but the kernel was not: {why:#}");
        }
    }
}

impl Fleet {
    pub(super) fn plan(&self, slot: &Slot, entry: &Entry, ask: Ask) -> Result<Plan, FleetError> {
        let kernel = slot.kernel();
        let line = kernel.policies();
        let halted = kernel.state() == State::Halted;
        if !matches!(ask, Ask::Recover { .. }) && halted {
            self.refuse_in_incident(slot.name())?;
        }
        let left = effective(&entry.definition, &line);
        let mut plan = match ask {
            Ask::Same => {
                let same = entry.definition.clone();
                Plan { inherits_law: true, ..Plan::of("replaces", same.clone(), same) }
            }
            Ask::Policy(policy) => {
                let jurisdiction = jurisdiction_of(policy, &left.jurisdiction())?;
                Plan::of("replaces", left.with_jurisdiction(jurisdiction), left)
            }
            Ask::Definition(definition) => {
                let definition = definition.named(slot.name());
                definition.validate_sent(Some(&entry.definition)).map_err(FleetError::NotAccepted)?;
                Plan::of("replaces", definition, left)
            }
            Ask::RollBack { full } => self.rolled_back(slot, entry, &line, left, full)?,
            Ask::Recover { incident, policy, hours } => {
                let until_ms = self.monitored_until(hours)?;
                self.check_recovery(slot, halted, &incident)?;
                let definition = match policy {
                    Some(changes) => left.with_jurisdiction(merged(&left.jurisdiction(), changes)?),
                    None => left.clone(),
                };
                let plan = Plan::of("recovers", definition, left);
                Plan { monitored_until_ms: Some(until_ms), incident: Some(incident), ..plan }
            }
        };
        plan.definition.validate().map_err(FleetError::NotAccepted)?;
        if plan.config.is_none() {
            plan.config = self.present_config().or_else(|| entry.config.clone());
        }
        Ok(plan)
    }

    /// A copy of the configuration file as it stands.
    fn present_config(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.source.as_deref()?).ok()?;
        let kept = self.workshop.back_up_config(&text);
        kept.inspect_err(|why| tracing::warn!("no copy of the configuration is kept: {why:#}")).ok().flatten()
    }

    pub(super) fn refuse_in_incident(&self, name: &str) -> Result<(), FleetError> {
        match self.incidents.open_of(name).first() {
            None => Ok(()),
            Some(open) => Err(FleetError::Conflict(format!(
                "kernel '{name}' is halted in incident {id}, which is open: resolve it (`gavel incident resolve {id} --why …`), then `gavel recover {name} --incident {id}`",
                id = open.incident_id
            ))),
        }
    }

    fn check_recovery(&self, slot: &Slot, halted: bool, incident: &str) -> Result<(), FleetError> {
        let found = self.incidents.get(incident)?;
        let conflict = |why: String| Err(FleetError::Conflict(why));
        if found.name != slot.name() {
            return conflict(format!("incident {incident} is of kernel '{}', not of '{}'", found.name, slot.name()));
        }
        if let Some(by) = &found.recovered_by {
            return conflict(format!(
                "kernel '{}' was recovered from incident {incident} by '{by}' already",
                slot.name()
            ));
        }
        if found.status != Status::Resolved {
            return conflict(format!(
                "incident {incident} is not resolved: `gavel incident resolve {incident} --why …` says what it was"
            ));
        }
        if !halted {
            return conflict(format!("kernel '{}' is not halted, so there is nothing to recover from", slot.name()));
        }
        let others = self.incidents.open_of(slot.name());
        match others.first() {
            None => Ok(()),
            Some(open) => {
                conflict(format!("another incident of the kernel is open, {}: resolve it too", open.incident_id))
            }
        }
    }

    fn monitored_until(&self, hours: Option<u64>) -> Result<u64, FleetError> {
        let hours = hours.unwrap_or(self.monitoring.hours);
        if !(1..=MONITORING_HOURS_MAX).contains(&hours) {
            return Err(FleetError::NotAccepted(format!("hours is {hours}: give 1 to {MONITORING_HOURS_MAX}")));
        }
        Ok(self.workshop.clock.now_ms().saturating_add(hours * 3_600_000))
    }

    fn rolled_back(
        &self,
        slot: &Slot,
        entry: &Entry,
        line: &Line,
        left: Definition,
        full: bool,
    ) -> Result<Plan, FleetError> {
        // A policy that was updated while the kernel ran is the latest change.
        let to = match &line.statute.previous {
            Some(before) => Some(Previous {
                definition: left.with_jurisdiction(Jurisdiction::clone(before)),
                config: entry.config.clone(),
            }),
            None => entry.previous.clone(),
        };
        let Some(Previous { definition, config }) = to else {
            return Err(FleetError::Conflict(format!(
                "there is nothing to roll kernel '{}' back to: it was neither replaced by another definition nor was its policy updated",
                slot.name()
            )));
        };
        let plan = Plan::of("rolls_back", definition, left);
        if !full {
            return Ok(plan);
        }
        let (restore, declared) = self.config_of(slot.name(), entry, config.as_deref())?;
        Ok(Plan { declared, config, restore, ..plan })
    }

    /// The configuration file as it stood, if it stands otherwise now, and what it says of the name.
    fn config_of(
        &self,
        name: &str,
        entry: &Entry,
        config: Option<&str>,
    ) -> Result<(Option<Restore>, Option<Definition>), FleetError> {
        let conflict = |why: String| FleetError::Conflict(format!("no full roll back of kernel '{name}': {why}"));
        let path =
            self.source.clone().ok_or_else(|| conflict("the server was started without a configuration".into()))?;
        let (Some(config), Some(folder)) = (config, self.workshop.folder(BACKUP)) else {
            return Err(conflict("no copy of the configuration before is kept".into()));
        };
        let kept = folder.join(config);
        let text = std::fs::read_to_string(&kept).map_err(|why| conflict(format!("{}: {why}", kept.display())))?;
        if config_backup(&text) != config {
            return Err(conflict(format!("{} was changed", kept.display())));
        }
        let file = config::read_as(&path, text.clone()).map_err(|why| conflict(why.to_string()))?;
        let kernel = file.kernels.iter().find(|kernel| kernel.id == name);
        let declared = kernel.map(|kernel| Definition::declared(&file, kernel, &self.workshop.admission)).transpose();
        let declared = declared.map_err(|why| conflict(format!("{why:#}")))?;
        if declared.is_none() && entry.declared.is_some() {
            return Err(conflict(format!("{} declares no such kernel", kept.display())));
        }
        let present = std::fs::read_to_string(&path).map_err(|why| conflict(format!("{}: {why}", path.display())))?;
        back_up(&folder, &config_backup(&present), present.as_bytes()).map_err(|why| FleetError::failed(&why))?;
        Ok(((present != text).then_some(Restore { path, text }), declared))
    }
}

/// What a kernel is made of, with the jurisdiction in force.
pub(super) fn effective(definition: &Definition, line: &Line) -> Definition {
    if line.statute.digest == line.statute.configured {
        return definition.clone();
    }
    definition.with_jurisdiction(line.statute.law.jurisdiction.clone())
}

/// A jurisdiction as an operator wrote it. Where it says nothing of custom rules, those in force stay: leaving them
/// out by accident must not open the gate.
pub(super) fn jurisdiction_of(mut policy: Value, in_force: &Jurisdiction) -> Result<Jurisdiction, FleetError> {
    let not_accepted = |why: String| FleetError::NotAccepted(why);
    let keys = policy.as_object_mut().ok_or_else(|| not_accepted("a policy is an object of keys and values".into()))?;
    keys.entry("custom_rules").or_insert_with(|| json!(in_force.custom_rules));
    typed(Path::new("policy"), policy).map_err(|why| not_accepted(why.to_string()))
}

fn merged(in_force: &Jurisdiction, changes: Map<String, Value>) -> Result<Jurisdiction, FleetError> {
    let mut policy = json!(in_force);
    if let Value::Object(keys) = &mut policy {
        keys.extend(changes);
    }
    jurisdiction_of(policy, in_force)
}

/// Write a file whole over one that is there, with the permissions that it has.
fn write_over(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    beside.write_all(bytes)?;
    beside.as_file().set_permissions(std::fs::metadata(path)?.permissions())?;
    beside.as_file().sync_all()?;
    beside.persist(path)?;
    Ok(std::fs::File::open(folder)?.sync_all()?)
}

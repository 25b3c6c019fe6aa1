//! Who answers what: one owner for each name. Built whole from all plugins, and exchanged whole.

use crate::error::RegisterError;
use crate::event::{NAME_BYTES_MAX, name_problem, namespace};
use crate::mail::Letter;
use crate::pattern::{self, Pattern};
use crate::slot::Slot;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// For so many names is kept who takes part in their events; of more, all are looked up anew.
const PLANS_MAX: usize = 4_096;

/// The plugins by name, with what they own and hear.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) slots: BTreeMap<Arc<str>, Arc<Slot>>,
    commands: HashMap<String, Arc<Slot>>,
    namespaces: HashMap<String, Arc<Slot>>,
    /// All slots, those of the greatest priority first, then by name.
    ranked: Vec<Arc<Slot>>,
    plans: RwLock<HashMap<Box<str>, Arc<Plan>>>,
}

/// Who takes part in events of one name, those of the greatest priority first.
pub(crate) struct Plan {
    pub(crate) owner: Option<Arc<Slot>>,
    pub(crate) before: Vec<Arc<Slot>>,
    pub(crate) hear: Vec<Arc<Slot>>,
    pub(crate) after: Vec<Arc<Slot>>,
}

/// In which part of an event a plugin takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    Handle,
    Hear,
    After,
}

impl Moment {
    pub(crate) fn of(letter: &Letter) -> Self {
        match letter {
            Letter::Handle(_) => Self::Handle,
            Letter::Hear(_) => Self::Hear,
            Letter::After(..) => Self::After,
        }
    }
}

impl Routes {
    /// Give every name its owner.
    pub(crate) fn build(slots: BTreeMap<Arc<str>, Arc<Slot>>) -> Result<Self, RegisterError> {
        let mut routes = Self::default();
        for slot in slots.values() {
            check(slot)?;
            let capabilities = &slot.registration.capabilities;
            for command in &capabilities.commands {
                claim(&mut routes.commands, command, slot, "event")?;
            }
            for space in &capabilities.event_namespaces {
                claim(&mut routes.namespaces, plain_namespace(space), slot, "namespace")?;
            }
            for needed in &slot.registration.metadata.dependencies {
                if !slots.contains_key(needed.as_str()) {
                    return Err(RegisterError::Dependency { plugin: slot.name.to_string(), missing: needed.clone() });
                }
            }
        }
        routes.ranked = slots.values().cloned().collect();
        routes.ranked.sort_by_key(|slot| std::cmp::Reverse(slot.registration.metadata.priority));
        routes.slots = slots;
        Ok(routes)
    }

    /// Who answers this event: the owner of its whole name, then that of its namespace.
    pub(crate) fn owner(&self, name: &str) -> Option<&Arc<Slot>> {
        self.commands.get(name).or_else(|| self.namespaces.get(namespace(name)))
    }

    /// Who takes part in events of this name.
    pub(crate) fn plan(&self, name: &str) -> Arc<Plan> {
        if let Some(plan) = self.plans.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(plan);
        }
        let plan = Arc::new(Plan {
            owner: self.owner(name).cloned(),
            before: self.seers(name, Moment::Before),
            hear: self.seers(name, Moment::Hear),
            after: self.seers(name, Moment::After),
        });
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        // Names are the senders' choice: one who makes up many costs the others a look-up, and nobody memory.
        if plans.len() >= PLANS_MAX {
            plans.clear();
        }
        plans.insert(name.into(), Arc::clone(&plan));
        plan
    }

    /// Who takes this plugin's part in an event now: the plugin of its name, or, for an answer, the owner.
    pub(crate) fn successor(&self, gone: &Arc<Slot>, name: &str, moment: Moment) -> Option<Arc<Slot>> {
        let next = match moment {
            Moment::Handle => self.owner(name),
            _ => self.slots.get(&gone.name).filter(|slot| wants(slot, name, moment)),
        };
        next.filter(|next| !Arc::ptr_eq(next, gone)).cloned()
    }

    /// Whether this plugin is the one to be told of a letter.
    pub(crate) fn takes(&self, slot: &Arc<Slot>, letter: &Letter) -> bool {
        let name = &letter.event().name;
        match Moment::of(letter) {
            Moment::Handle => self.owner(name).is_some_and(|owner| Arc::ptr_eq(owner, slot)),
            moment => wants(slot, name, moment),
        }
    }

    fn seers(&self, name: &str, moment: Moment) -> Vec<Arc<Slot>> {
        self.ranked.iter().filter(|slot| wants(slot, name, moment)).cloned().collect()
    }
}

fn wants(slot: &Slot, name: &str, moment: Moment) -> bool {
    pattern::any(patterns(slot, moment), name)
}

fn patterns(slot: &Slot, moment: Moment) -> &[Pattern] {
    let capabilities = &slot.registration.capabilities;
    match moment {
        Moment::Before => &capabilities.before,
        Moment::Hear => &capabilities.subscribes,
        Moment::After => &capabilities.after,
        Moment::Handle => &[],
    }
}

/// Whether what a plugin says of itself can be.
fn check(slot: &Slot) -> Result<(), RegisterError> {
    let invalid = |problem: String| Err(RegisterError::Invalid { plugin: slot.name.to_string(), problem });
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if slot.name.is_empty() || slot.name.len() > NAME_BYTES_MAX || !slot.name.chars().all(legal) {
        return invalid(format!("a plugin's name has 1 to {NAME_BYTES_MAX} letters, digits, and _ - . only"));
    }
    let capabilities = &slot.registration.capabilities;
    if let Some(problem) = capabilities.commands.iter().find_map(|command| name_problem(command)) {
        return invalid(format!("a command: {problem}"));
    }
    for space in &capabilities.event_namespaces {
        let plain = plain_namespace(space);
        if name_problem(plain).is_some() || plain.contains(':') {
            return invalid(format!(
                "the namespace {space:?} has letters, digits, and _ - . / only, and no colon in it"
            ));
        }
    }
    Ok(())
}

/// Older plugins wrote `/namespace`.
pub(crate) fn plain_namespace(text: &str) -> &str {
    text.trim_start_matches('/').trim_end_matches([':', '*'])
}

fn claim(
    owners: &mut HashMap<String, Arc<Slot>>,
    name: &str,
    slot: &Arc<Slot>,
    kind: &str,
) -> Result<(), RegisterError> {
    match owners.insert(name.to_owned(), Arc::clone(slot)) {
        Some(first) if first.name != slot.name => Err(RegisterError::TwoOwners {
            first: first.name.to_string(),
            second: slot.name.to_string(),
            what: format!("{kind} '{name}'"),
        }),
        _ => Ok(()),
    }
}

//! Who answers what: one owner for each name. Built whole from all plugins, and exchanged whole.

use crate::error::RegisterError;
use crate::event::namespace;
use crate::pattern::{self, Pattern};
use crate::slot::Slot;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The plugins by name, with what they own and hear.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) slots: BTreeMap<Arc<str>, Arc<Slot>>,
    commands: HashMap<String, Arc<Slot>>,
    namespaces: HashMap<String, Arc<Slot>>,
    /// All slots, those of the greatest priority first, then by name.
    ranked: Vec<Arc<Slot>>,
}

/// At which moment of an event a plugin wants to see it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    Before,
    Hear,
    After,
}

impl Routes {
    /// Give every name its owner.
    pub(crate) fn build(slots: BTreeMap<Arc<str>, Arc<Slot>>) -> Result<Self, RegisterError> {
        let mut routes = Self::default();
        for slot in slots.values() {
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

    /// Who wants to see this event at this moment, the greatest priority first.
    pub(crate) fn seers<'a>(&'a self, name: &'a str, moment: Moment) -> impl Iterator<Item = &'a Arc<Slot>> {
        self.ranked.iter().filter(move |slot| pattern::any(patterns(slot, moment), name))
    }
}

fn patterns(slot: &Slot, moment: Moment) -> &[Pattern] {
    let capabilities = &slot.registration.capabilities;
    match moment {
        Moment::Before => &capabilities.before,
        Moment::Hear => &capabilities.subscribes,
        Moment::After => &capabilities.after,
    }
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

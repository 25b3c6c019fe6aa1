//! Commands: each is checked against the seed's stage, minima and gate when it comes, and waits for the epoch boundary.
//! What is refused changes nothing, and neither layer nor library changes before a command lands.

use crate::Error;
use crate::blueprint::{Blueprint, name_taken};
use crate::govern::{Command, Order};
use crate::layer::{Layer, lock};
use crate::lifecycle;
use crate::state::Lifecycle;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// The longest id of a command, in bytes.
pub const COMMAND_ID_BYTES_MAX: usize = 256;
/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 4_096;

/// An accepted command.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    pub(super) command_id: String,
    pub(super) to: Lifecycle,
    /// With its id; of a germination.
    pub(super) blueprint: Option<(String, Arc<Blueprint>)>,
    /// How many weights the seed will have more.
    pub(super) weights: usize,
    /// Of a germination, or where it changes with the graft.
    pub(super) strategy: Option<usize>,
    pub(super) reason: String,
}

/// Accepted commands, by seed.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Waiting {
    by_seed: BTreeMap<usize, Pending>,
    /// How many of them take a training slot.
    training: usize,
    /// How many weights they will take.
    pub(super) weights: usize,
}

impl Waiting {
    pub(super) fn insert(&mut self, seed: usize, pending: Pending) {
        self.remove(seed);
        self.training += usize::from(pending.to == Lifecycle::Training);
        self.weights += pending.weights;
        self.by_seed.insert(seed, pending);
    }

    pub(super) fn remove(&mut self, seed: usize) -> Option<Pending> {
        let removed = self.by_seed.remove(&seed)?;
        self.training -= usize::from(removed.to == Lifecycle::Training);
        self.weights -= removed.weights;
        Some(removed)
    }

    pub(super) fn take(&mut self) -> BTreeMap<usize, Pending> {
        std::mem::take(self).by_seed
    }

    pub(super) fn get(&self, seed: usize) -> Option<&Pending> {
        self.by_seed.get(&seed)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &Pending)> {
        self.by_seed.iter().map(|(&seed, pending)| (seed, pending))
    }
}

/// The ids of the last accepted commands, so that one that comes twice is done once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Remembered {
    most: usize,
    order: VecDeque<String>,
    known: HashMap<String, Known>,
}

/// What a command was, by which the same id is known to be the same command.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Known {
    pub(super) seed: usize,
    pub(super) to: Lifecycle,
    /// SHA-256 of the whole command as JSON.
    pub(super) digest: [u8; 32],
}

impl Known {
    fn of(command: &Command) -> Self {
        // Names and numbers always have a JSON form.
        let json = serde_json::to_vec(command).unwrap_or_default();
        Self { seed: command.seed, to: command.order.target(), digest: Sha256::digest(json).into() }
    }
}

impl Remembered {
    pub(super) fn new(most: usize) -> Self {
        Self { most, order: VecDeque::new(), known: HashMap::new() }
    }

    /// Remember an id, and forget the oldest beyond the limit.
    pub(super) fn add(&mut self, id: &str, known: Known) {
        if self.known.insert(id.to_owned(), known).is_none() {
            self.order.push_back(id.to_owned());
        }
        while self.order.len() > self.most {
            let oldest = self.order.pop_front();
            oldest.map(|id| self.known.remove(&id));
        }
    }

    /// Forget ids: of commands that came to nothing, which may be given once more.
    pub(super) fn forget<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        let Self { order, known, .. } = self;
        let before = known.len();
        for id in ids {
            known.remove(id);
        }
        if known.len() < before {
            order.retain(|id| known.contains_key(id));
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Known> {
        self.known.get(id).copied()
    }

    /// All, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Known)> {
        self.order.iter().filter_map(|id| self.get(id).map(|known| (id.as_str(), known)))
    }
}

impl Layer {
    /// Take a command. It is checked now and lands at the boundary, if the governor allows it. A command that was
    /// accepted before and waits or has landed is done already: nothing happens. One that was denied or lapsed may come
    /// again. A rollback by command waits for the boundary too, see [`Self::rollback`] for one at once.
    ///
    /// # Errors
    /// If there is no such seed, blueprint or strategy; if a description's name is another's; if the seed would have
    /// more weights than it may; if the seed's stage, minimum or gate forbids it; if another command for the seed waits
    /// already; if the id was used for another command; if it carries what its order has no use for. Layer and library
    /// are as before.
    pub fn command(&mut self, command: Command) -> Result<(), Error> {
        let (seed, to) = (command.seed, command.order.target());
        self.check_seed(seed)?;
        check_texts(&command.id, &command.reason)?;
        check_fields(&command)?;
        let known = Known::of(&command);
        if let Some(before) = self.remembered.get(&command.id) {
            if before == known {
                return Ok(());
            }
            let also = if (before.seed, before.to) == (seed, to) { ", but otherwise" } else { "" };
            let problem = format!("its id was used before, to send seed {} to {}{also}", before.seed, before.to);
            return Err(Error::Command { id: command.id, problem });
        }
        if let Some(waiting) = self.pending.get(seed) {
            let reason = format!("command `{}` for {} waits for the boundary already", waiting.command_id, waiting.to);
            return Err(self.refusal(seed, to, reason));
        }
        self.check_transition(seed, to, self.training_slots_free() > 0)?;
        let pending = self.resolve(command)?;
        self.remembered.add(&pending.command_id, known);
        self.pending.insert(seed, pending);
        Ok(())
    }

    /// Find what a command names.
    fn resolve(&self, command: Command) -> Result<Pending, Error> {
        let Command { id, seed, order, blueprint, blueprint_ir, strategy, reason } = command;
        let library = lock(&self.library);
        let strategy = match (strategy, order) {
            (Some(name), _) => Some(library.strategies.find(&name)?),
            (None, Order::Germinate) => Some(library.strategies.find(&self.config.strategy)?),
            (None, _) => None,
        };
        let to = order.target();
        let mut pending = Pending { command_id: id, to, blueprint: None, weights: 0, strategy, reason };
        if order == Order::Germinate {
            let found = match (blueprint_ir, blueprint) {
                (Some(description), _) => {
                    library.blueprints.check_new(&description)?;
                    Arc::new(description)
                }
                (None, Some(name)) => library.blueprints.find(&name)?,
                (None, None) => {
                    return Err(self.refusal(seed, to, "the command names no blueprint".to_owned()));
                }
            };
            let id = found.id();
            self.check_name(&found.name, &id)?;
            self.check_place(seed, &id)?;
            pending.weights = self.check_weights(seed, &found)?;
            pending.blueprint = Some((id, found));
        } else if let Some(name) = blueprint {
            let named = library.blueprints.find(&name)?.id();
            if self.store.blueprint_id(seed) != Some(named.as_str()) {
                return Err(self.refusal(seed, pending.to, format!("it does not grow blueprint `{name}`")));
            }
        }
        Ok(pending)
    }

    /// Whether no waiting command brings another description of that name.
    fn check_name(&self, name: &str, id: &str) -> Result<(), Error> {
        let mut waiting = self.pending.all().filter_map(|(_, pending)| pending.blueprint.as_ref());
        match waiting.find(|(known, blueprint)| blueprint.name == name && known != id) {
            None => Ok(()),
            Some((known, _)) => Err(name_taken(name, known, id)),
        }
    }

    /// How many weights a seed would have with a blueprint, if it may have them.
    fn check_weights(&self, seed: usize, blueprint: &Blueprint) -> Result<usize, Error> {
        let (width, most) = (self.store.chunks.width_of(seed), self.config.seed_weights_max);
        let (wanted, free) = (blueprint.function.weights(width), self.weights_free());
        let reason = if wanted > most {
            format!("a seed may have {most} (`seed_weights_max`)")
        } else if wanted > free {
            format!("of the layer's {} (`weights_max`) {free} are free", self.config.weights_max)
        } else {
            return Ok(wanted);
        };
        let name = &blueprint.name;
        let reason = format!("blueprint `{name}` has {wanted} weights on the seed's {width} columns, {reason}");
        Err(self.refusal(seed, Lifecycle::Germinated, reason))
    }

    /// How many weights neither a seed has nor a waiting command will take.
    pub(super) fn weights_free(&self) -> usize {
        self.config.weights_max.saturating_sub(self.store.held.saturating_add(self.pending.weights))
    }

    /// Whether the layer can hold a blueprint, beside those it holds and those that wait.
    fn check_place(&self, seed: usize, id: &str) -> Result<(), Error> {
        let used = self.store.state.iter().filter_map(|state| usize::try_from(state.blueprint).ok());
        let used = used.filter_map(|at| self.store.blueprint_ids.get(at).map(String::as_str));
        let waiting =
            self.pending.all().filter_map(|(_, pending)| pending.blueprint.as_ref().map(|(id, _)| id.as_str()));
        let mut held: std::collections::HashSet<&str> = waiting.collect();
        if self.store.blueprints.len() + held.len() < self.config.blueprints_max {
            return Ok(());
        }
        held.extend(used);
        held.insert(id);
        let most = self.config.blueprints_max;
        if held.len() <= most {
            return Ok(());
        }
        let reason = format!("the layer holds {most} different blueprints, as many as it may (`blueprints_max`)");
        Err(self.refusal(seed, Lifecycle::Germinated, reason))
    }

    /// Whether a seed may go to a stage now.
    pub(super) fn check_transition(&self, seed: usize, to: Lifecycle, slot_free: bool) -> Result<(), Error> {
        lifecycle::check(self.mode(), &self.config.gates, &self.facts(seed, slot_free), to)
            .map_err(|reason| self.refusal(seed, to, reason))
    }

    pub(super) fn refusal(&self, seed: usize, to: Lifecycle, reason: String) -> Error {
        Error::Transition { seed, from: self.store.stage(seed), to, reason }
    }

    /// Slots that neither a seed in TRAINING nor a waiting command takes.
    pub(super) fn training_slots_free(&self) -> usize {
        self.config.training_slots.saturating_sub(self.store.training + self.pending.training)
    }
}

/// Whether a command's texts can be kept.
pub(super) fn check_texts(id: &str, reason: &str) -> Result<(), Error> {
    let problem = if id.is_empty() {
        "it has no id, by which it would be known when it comes twice".to_owned()
    } else if id.len() > COMMAND_ID_BYTES_MAX {
        format!("its id has {} bytes, at most {COMMAND_ID_BYTES_MAX} are allowed", id.len())
    } else if reason.len() > REASON_BYTES_MAX {
        format!("its reason has {} bytes, at most {REASON_BYTES_MAX} are allowed", reason.len())
    } else {
        return Ok(());
    };
    // Enough of an id to know it by.
    Err(Error::Command { id: id.chars().take(64).collect(), problem })
}

/// Whether a command carries only what its order has a use for.
fn check_fields(command: &Command) -> Result<(), Error> {
    let order = command.order;
    let what = if command.strategy.is_some() && !matches!(order, Order::Germinate | Order::Graft) {
        "a strategy, which only a germination and a graft choose"
    } else if command.blueprint_ir.is_some() && order != Order::Germinate {
        "a description of a blueprint, which only a germination brings"
    } else {
        return Ok(());
    };
    let problem = format!("it leads to {} and carries {what}: leave that out", order.target());
    Err(Error::Command { id: command.id.clone(), problem })
}

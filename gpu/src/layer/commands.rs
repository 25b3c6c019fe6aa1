//! Commands: each is checked against the seed's stage, minima and gate when it comes, and waits for the epoch boundary.
//! What is refused changes nothing.

use crate::Error;
use crate::blueprint::Blueprint;
use crate::govern::{Command, Order};
use crate::layer::{Layer, lock};
use crate::lifecycle;
use crate::state::Lifecycle;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// An accepted command.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    pub(super) command_id: String,
    pub(super) to: Lifecycle,
    /// With its id; of a germination.
    pub(super) blueprint: Option<(String, Arc<Blueprint>)>,
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
}

impl Waiting {
    pub(super) fn insert(&mut self, seed: usize, pending: Pending) {
        self.remove(seed);
        self.training += usize::from(pending.to == Lifecycle::Training);
        self.by_seed.insert(seed, pending);
    }

    pub(super) fn remove(&mut self, seed: usize) -> Option<Pending> {
        let removed = self.by_seed.remove(&seed)?;
        self.training -= usize::from(removed.to == Lifecycle::Training);
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
    known: HashMap<String, (usize, Lifecycle)>,
}

impl Remembered {
    pub(super) fn new(most: usize) -> Self {
        Self { most, order: VecDeque::new(), known: HashMap::new() }
    }

    /// Remember an id, and forget the oldest beyond the limit.
    pub(super) fn add(&mut self, id: &str, seed: usize, to: Lifecycle) {
        if self.known.insert(id.to_owned(), (seed, to)).is_none() {
            self.order.push_back(id.to_owned());
        }
        while self.order.len() > self.most {
            let oldest = self.order.pop_front();
            oldest.map(|id| self.known.remove(&id));
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<(usize, Lifecycle)> {
        self.known.get(id).copied()
    }

    /// All, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, usize, Lifecycle)> {
        self.order.iter().filter_map(|id| self.get(id).map(|(seed, to)| (id.as_str(), seed, to)))
    }
}

impl Layer {
    /// Take a command. It is checked now and lands at the boundary, if the governor allows it. A command whose id was
    /// accepted before is done already: nothing happens. A rollback by command waits for the boundary too, see
    /// [`Self::rollback`] for one at once.
    ///
    /// # Errors
    /// If there is no such seed, blueprint or strategy; if the seed's stage, minimum or gate forbids it; if another
    /// command for the seed waits already; if the id was used for another command. The layer is as before.
    pub fn command(&mut self, command: Command) -> Result<(), Error> {
        let (seed, to) = (command.seed, command.order.target());
        self.check_seed(seed)?;
        if let Some(before) = self.remembered.get(&command.id) {
            let problem = format!("its id was used before, to send seed {} to {}", before.0, before.1);
            return if before == (seed, to) { Ok(()) } else { Err(Error::Command { id: command.id, problem }) };
        }
        if command.id.is_empty() {
            let problem = "it has no id, by which it would be known when it comes twice".to_owned();
            return Err(Error::Command { id: command.id, problem });
        }
        if let Some(waiting) = self.pending.get(seed) {
            let reason = format!("command `{}` for {} waits for the boundary already", waiting.command_id, waiting.to);
            return Err(self.refusal(seed, to, reason));
        }
        self.check_transition(seed, to, self.training_slots_free() > 0)?;
        let pending = self.resolve(command)?;
        self.remembered.add(&pending.command_id, seed, to);
        self.pending.insert(seed, pending);
        Ok(())
    }

    /// Find what a command names.
    fn resolve(&mut self, command: Command) -> Result<Pending, Error> {
        let Command { id, seed, order, blueprint, blueprint_ir, strategy, reason } = command;
        let library = self.library.clone();
        let mut library = lock(&library);
        let strategy = match (strategy, order) {
            (Some(name), _) => Some(library.strategies.find(&name)?),
            (None, Order::Germinate) => Some(library.strategies.find(&self.config.strategy)?),
            (None, _) => None,
        };
        let mut pending = Pending { command_id: id, to: order.target(), blueprint: None, strategy, reason };
        if order == Order::Germinate {
            let found = match (blueprint_ir, blueprint) {
                (Some(description), _) => {
                    description.check()?;
                    Arc::new(description)
                }
                (None, Some(name)) => library.blueprints.find(&name)?,
                (None, None) => {
                    return Err(self.refusal(seed, pending.to, "the command names no blueprint".to_owned()));
                }
            };
            let id = found.id();
            self.check_place(seed, &id)?;
            if library.blueprints.record(&id).is_none() {
                library.blueprints.add(found.as_ref().clone())?;
            }
            pending.blueprint = Some((id, found));
        } else if let Some(name) = blueprint {
            let named = library.blueprints.find(&name)?.id();
            if self.store.blueprint_id(seed) != Some(named.as_str()) {
                return Err(self.refusal(seed, pending.to, format!("it does not grow blueprint `{name}`")));
            }
        }
        Ok(pending)
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

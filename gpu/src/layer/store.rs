//! The truth of a layer, on the host: one array for each thing that a seed has. A dormant seed has an empty list in
//! each of them, so 100,000 of them cost no allocation of their own.

use crate::adam::Adam;
use crate::backend::{Backend, Changed, View};
use crate::blueprint::Blueprint;
use crate::chunks::Chunks;
use crate::layer::trail::Trail;
use crate::state::SeedState;
use crate::{Error, state::Lifecycle};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One entry of every array for each seed.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) chunks: Chunks,
    pub(crate) state: Vec<SeedState>,
    pub(crate) alpha: Vec<f32>,
    pub(crate) weights: Vec<Vec<f32>>,
    pub(crate) optimisers: Vec<Adam>,
    pub(crate) trails: Vec<Option<Box<Trail>>>,
    /// Whether weights or optimiser changed since the last checkpoint.
    pub(crate) worn: Vec<bool>,
    /// The blueprints that `state` numbers, with their ids.
    pub(crate) blueprints: Vec<Arc<Blueprint>>,
    pub(crate) blueprint_ids: Vec<String>,
    /// Seeds that are neither dormant nor in a terminal stage.
    pub(crate) active: BTreeSet<usize>,
    /// How many of them are in TRAINING.
    pub(crate) training: usize,
    /// How many weights all seeds have.
    pub(crate) held: usize,
}

impl Store {
    /// All dormant.
    pub(crate) fn new(chunks: Chunks) -> Self {
        let seeds = chunks.seeds();
        Self {
            chunks,
            state: vec![SeedState::DORMANT; seeds],
            alpha: vec![0.0; seeds],
            weights: vec![Vec::new(); seeds],
            optimisers: vec![Adam::default(); seeds],
            trails: std::iter::repeat_with(|| None).take(seeds).collect(),
            worn: vec![false; seeds],
            blueprints: Vec::new(),
            blueprint_ids: Vec::new(),
            active: BTreeSet::new(),
            training: 0,
            held: 0,
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            chunks: self.chunks,
            state: &self.state,
            alpha: &self.alpha,
            weights: &self.weights,
            blueprints: &self.blueprints,
        }
    }

    pub(crate) fn stage(&self, seed: usize) -> Lifecycle {
        self.state[seed].lifecycle()
    }

    pub(crate) fn blueprint_id(&self, seed: usize) -> Option<&str> {
        usize::try_from(self.state[seed].blueprint).ok().and_then(|at| self.blueprint_ids.get(at)).map(String::as_str)
    }

    pub(crate) fn strategy(&self, seed: usize) -> Option<usize> {
        usize::try_from(self.state[seed].strategy).ok()
    }

    pub(crate) fn blueprint(&self, seed: usize) -> Option<&Arc<Blueprint>> {
        usize::try_from(self.state[seed].blueprint).ok().and_then(|at| self.blueprints.get(at))
    }

    /// Put a seed in a stage and keep the list of active seeds.
    pub(crate) fn enter(&mut self, seed: usize, stage: Lifecycle) {
        let mut row = self.state[seed];
        row.enter(stage);
        self.put_row(seed, row);
        if stage == Lifecycle::Dormant || stage.is_terminal() {
            self.active.remove(&seed);
        } else {
            self.active.insert(seed);
        }
    }

    /// Put a row of the state tensor in place; the count of seeds in TRAINING follows.
    pub(crate) fn put_row(&mut self, seed: usize, row: SeedState) {
        self.training += usize::from(row.lifecycle() == Lifecycle::Training);
        self.training -= usize::from(self.stage(seed) == Lifecycle::Training);
        self.state[seed] = row;
    }

    /// Give a seed other weights; the count of all follows.
    pub(crate) fn put_weights(&mut self, seed: usize, weights: Vec<f32>) {
        self.held += weights.len();
        self.held -= self.weights[seed].len();
        self.weights[seed] = weights;
        self.worn[seed] = true;
    }

    /// Count an error of a seed, and let it signal for the rest of the epoch.
    pub(crate) fn fail(&mut self, seed: usize, what: &str) {
        let state = &mut self.state[seed];
        state.errors = state.errors.saturating_add(1);
        if let Some(trail) = &mut self.trails[seed] {
            trail.unstable = Some(what.to_owned());
        }
    }

    /// The number of a blueprint in this layer; a new one takes a free place.
    pub(crate) fn number_blueprint(&mut self, id: &str, blueprint: &Arc<Blueprint>, most: usize) -> Option<usize> {
        if let Some(at) = self.blueprint_ids.iter().position(|known| known == id) {
            return Some(at);
        }
        if self.blueprints.len() < most {
            self.blueprints.push(blueprint.clone());
            self.blueprint_ids.push(id.to_owned());
            return Some(self.blueprints.len() - 1);
        }
        let mut used = vec![false; self.blueprints.len()];
        for place in self.state.iter().filter_map(|state| usize::try_from(state.blueprint).ok()) {
            used[place] = true;
        }
        let at = used.iter().position(|used| !used)?;
        self.blueprints[at] = blueprint.clone();
        id.clone_into(&mut self.blueprint_ids[at]);
        Some(at)
    }
}

/// What the backend has not been told yet.
#[derive(Debug)]
pub(crate) struct Changes {
    all: bool,
    flagged: Vec<bool>,
    seeds: Vec<usize>,
}

impl Changes {
    pub(crate) fn all(seeds: usize) -> Self {
        Self { all: true, flagged: vec![false; seeds], seeds: Vec::new() }
    }

    pub(crate) fn mark(&mut self, seed: usize) {
        if !std::mem::replace(&mut self.flagged[seed], true) {
            self.seeds.push(seed);
        }
    }

    pub(crate) fn mark_all(&mut self) {
        self.all = true;
    }

    /// Tell the backend. What it could not take over is told again before the next pass.
    pub(crate) fn load(&mut self, backend: &mut dyn Backend, view: &View<'_>) -> Result<(), Error> {
        if self.all {
            backend.load(view, Changed::All)?;
        } else if self.seeds.is_empty() {
            return Ok(());
        } else {
            self.seeds.sort_unstable();
            let loaded = backend.load(view, Changed::Seeds(&self.seeds));
            // After a failure the backend may hold anything.
            self.all = loaded.is_err();
            loaded?;
        }
        self.all = false;
        for seed in self.seeds.drain(..) {
            self.flagged[seed] = false;
        }
        Ok(())
    }
}

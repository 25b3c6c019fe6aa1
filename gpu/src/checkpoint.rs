//! Rolling checkpoints: what a rollback puts back. The layer takes one at the end of every epoch and keeps the last N.
//!
//! A checkpoint holds the seeds from TRAINING to `FINE_TUNING`, the only ones that can be rolled back: their row of the
//! state tensor, alpha, weights, optimiser and trail, bit for bit. Weights and optimiser are shared with the checkpoint
//! before where no step has changed them since. So N checkpoints hold at most N times the weights of the seeds that
//! are growing, and sleeping seeds cost nothing. [`codec`] is how they, and the whole layer, become bytes.

pub(crate) mod codec;

use crate::adam::Adam;
use crate::layer::store::Store;
use crate::layer::trail::Trail;
use crate::state::SeedState;
use codec::{Reader, Writer};
use std::collections::VecDeque;
use std::sync::Arc;

/// One seed as it was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) seed: usize,
    pub(crate) row: SeedState,
    pub(crate) alpha: f32,
    pub(crate) weights: Arc<Vec<f32>>,
    pub(crate) optimiser: Arc<Adam>,
    pub(crate) trail: Trail,
}

/// All growing seeds as they were at the end of one epoch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) number: i32,
    /// By seed, ascending.
    pub(crate) seeds: Vec<Snapshot>,
}

impl Checkpoint {
    fn of(&self, seed: usize) -> Option<&Snapshot> {
        self.seeds.binary_search_by_key(&seed, |snapshot| snapshot.seed).ok().map(|at| &self.seeds[at])
    }
}

/// The last N checkpoints, newest last.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ring {
    kept: usize,
    list: VecDeque<Checkpoint>,
}

impl Ring {
    pub(crate) fn new(kept: usize) -> Self {
        Self { kept, list: VecDeque::new() }
    }

    /// Take a checkpoint of these seeds, in ascending order, and forget the oldest beyond N. `number` is written into
    /// the rows first: it is where a rollback leads.
    pub(crate) fn take(&mut self, number: i32, store: &mut Store, growing: impl Iterator<Item = usize>) {
        let before = self.list.back();
        let snapshot = |seed: usize| {
            store.state[seed].checkpoint = number;
            let trail = store.trails[seed].as_deref().cloned().unwrap_or_default();
            let shared = before.and_then(|checkpoint| checkpoint.of(seed)).filter(|_| !store.worn[seed]);
            let (weights, optimiser) = match shared.filter(|old| old.trail.germinated == trail.germinated) {
                Some(old) => (old.weights.clone(), old.optimiser.clone()),
                None => (Arc::new(store.weights[seed].clone()), Arc::new(store.optimisers[seed].clone())),
            };
            store.worn[seed] = false;
            Snapshot { seed, row: store.state[seed], alpha: store.alpha[seed], weights, optimiser, trail }
        };
        let seeds = growing.map(snapshot).collect();
        self.list.push_back(Checkpoint { number, seeds });
        while self.list.len() > self.kept {
            self.list.pop_front();
        }
    }

    /// The last checkpoint of a seed in its present life. If its values are not finite, because an instability came to
    /// light late, the last one whose values are; if there is none, the last all the same.
    pub(crate) fn last(&self, seed: usize, germinated: u64) -> Option<&Snapshot> {
        let mut lives = self.list.iter().rev().filter_map(|checkpoint| checkpoint.of(seed));
        let mut lives = lives.by_ref().filter(|snapshot| snapshot.trail.germinated == germinated);
        let last = lives.next()?;
        let finite = |snapshot: &&Snapshot| snapshot.weights.iter().all(|weight| weight.is_finite());
        Some(if finite(&last) { last } else { lives.find(finite).unwrap_or(last) })
    }

    /// All snapshots.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.list.iter().flat_map(|checkpoint| &checkpoint.seeds)
    }

    pub(crate) fn snapshots_mut(&mut self) -> impl Iterator<Item = &mut Snapshot> {
        self.list.iter_mut().flat_map(|checkpoint| &mut checkpoint.seeds)
    }

    /// Write the snapshots of seeds that are still in that life, in those stages: no other can be put back.
    /// `numbered` gives a row the numbers that it has in the file.
    pub(crate) fn write(
        &self,
        out: &mut Writer,
        alive: impl Fn(&Snapshot) -> bool,
        numbered: impl Fn(&SeedState) -> SeedState,
    ) {
        out.size(self.list.len());
        for checkpoint in &self.list {
            out.i32(checkpoint.number);
            let seeds: Vec<_> = checkpoint.seeds.iter().filter(|snapshot| alive(snapshot)).collect();
            out.list(&seeds, |out, snapshot| {
                out.size(snapshot.seed);
                write_row(out, &numbered(&snapshot.row));
                out.f32(snapshot.alpha);
                out.list(&snapshot.weights, |out, &weight| out.f32(weight));
                out.adam(&snapshot.optimiser);
                snapshot.trail.write(out);
            });
        }
    }

    /// Read what [`Self::write`] wrote; of more than `kept`, the newest.
    pub(crate) fn read(from: &mut Reader<'_>, kept: usize) -> Option<Self> {
        let list = from.list(|from| {
            let number = from.i32()?;
            let seeds = from.list(|from| {
                Some(Snapshot {
                    seed: from.size()?,
                    row: read_row(from)?,
                    alpha: from.f32()?,
                    weights: Arc::new(from.list(Reader::f32)?),
                    optimiser: Arc::new(from.adam()?),
                    trail: Trail::read(from)?,
                })
            })?;
            seeds.is_sorted_by_key(|snapshot| snapshot.seed).then_some(Checkpoint { number, seeds })
        })?;
        let mut list = VecDeque::from(list);
        list.drain(..list.len().saturating_sub(kept));
        Some(Self { kept, list })
    }
}

pub(crate) fn write_row(out: &mut Writer, row: &SeedState) {
    for number in row.row() {
        out.i32(number);
    }
}

pub(crate) fn read_row(from: &mut Reader<'_>) -> Option<SeedState> {
    let mut row = [0; 8];
    for number in &mut row {
        *number = from.i32()?;
    }
    SeedState::from_row(row)
}

//! The layer as the device wants it, kept on the host: one row for each seed, and the weights of those that compute,
//! padded to whole quads, in banks that a shader can be given at once.
//!
//! It is the copy from which a lost device is made anew.

use super::pipelines::Kernel;
use crate::Error;
use crate::backend::View;
use crate::blueprint::Function;
use crate::chunks::Chunks;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// `Seed` of `common.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Row {
    start: u32,
    width: u32,
    kind: u32,
    rank: u32,
    weights: u32,
    gradient: u32,
    alpha: f32,
    order: u32,
}

const COPY: u32 = 0;
const ADAPTER: u32 = 1;
const SCALE: u32 = 2;
const GROWN: u32 = 3;
const NONE: u32 = u32::MAX;

/// Hidden values that the wide kernel has room for.
const WIDE_RANK_MAX: usize = 16;

/// Consecutive seeds whose weights are bound together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bank {
    pub(super) seeds: Range<usize>,
    pub(super) weights: Vec<f32>,
    /// Gradients of the seeds of this bank that learn.
    pub(super) gradients: usize,
}

/// The seeds of one bank that compute the same function.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) bank: usize,
    pub(super) function: Function,
    /// Where they are in [`Table::members`].
    pub(super) members: Range<usize>,
    /// Whether any of them learns.
    pub(super) learns: bool,
    /// Whether the fused kernel holds the function, or steps compute it first.
    pub(super) fused: bool,
}

/// What the device has room for of a seed. It stays when the seed stops computing or learning, so that it may do so again.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    function: Option<Function>,
    /// Where its gradients begin in its bank's, or [`NONE`].
    gradient: u32,
    bank: usize,
}

/// The whole layer.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) chunks: Chunks,
    pub(super) kernel: Kernel,
    pub(super) rows: Vec<Row>,
    pub(super) banks: Vec<Bank>,
    pub(super) groups: Vec<Group>,
    pub(super) members: Vec<u32>,
    places: Vec<Place>,
}

impl Table {
    /// From the host's layer, in banks of at most `bank_bytes_max`.
    pub(super) fn new(layer: &View<'_>, bank_bytes_max: u64, device: &str) -> Result<Self, Error> {
        let chunks = layer.chunks;
        let kernel = Kernel::of(chunks.widest());
        let mut table = Self {
            chunks,
            kernel,
            rows: vec![Row::zeroed(); chunks.seeds()],
            banks: vec![Bank { seeds: 0..0, weights: Vec::new(), gradients: 0 }],
            groups: Vec::new(),
            members: Vec::new(),
            places: Vec::with_capacity(chunks.seeds()),
        };
        let floats_max = usize::try_from(bank_bytes_max / 4).unwrap_or(usize::MAX).min(1 << 31);
        for seed in 0..chunks.seeds() {
            layer.check(seed)?;
            table.place(layer, seed, floats_max, device)?;
            table.fill(layer, seed);
        }
        table.order();
        table.group();
        Ok(table)
    }

    /// Take over seeds that have room. Answers which rows and which places of which banks changed; nothing if one has no
    /// room, and the table must be made anew.
    pub(super) fn update(&mut self, layer: &View<'_>, seeds: &[usize]) -> Result<Option<Vec<Change>>, Error> {
        if layer.chunks != self.chunks {
            return Ok(None);
        }
        let last = self.chunks.seeds() - 1;
        for &seed in seeds {
            if seed > last {
                return Err(Error::NoSeed { layer: "(wgpu)".to_owned(), seed, last });
            }
            layer.check(seed)?;
        }
        if seeds.iter().any(|&seed| !self.stays(layer, seed)) {
            return Ok(None);
        }
        let mut changes = Vec::with_capacity(seeds.len());
        for &seed in seeds {
            let computed = self.computes(seed);
            self.fill(layer, seed);
            let start = self.rows[seed].weights as usize;
            let function = self.places[seed].function.filter(|_| self.computes(seed));
            let length = function.map_or(0, |it| self.padded(it, self.chunks.width_of(seed)));
            let rows = if self.computes(seed) == computed { seed..seed + 1 } else { self.order_around(seed) };
            changes.push(Change { rows, bank: self.places[seed].bank, weights: start..start + length });
        }
        Ok(Some(changes))
    }

    fn stays(&self, layer: &View<'_>, seed: usize) -> bool {
        let place = &self.places[seed];
        let fits = |function: Function| place.function == Some(function);
        layer.computing(seed).is_none_or(|it| fits(it.function)) && (place.gradient != NONE || !layer.learns(seed))
    }

    /// Whether a seed computes.
    pub(super) fn computes(&self, seed: usize) -> bool {
        self.rows[seed].kind != COPY
    }

    fn place(&mut self, layer: &View<'_>, seed: usize, floats_max: usize, device: &str) -> Result<(), Error> {
        let width = self.chunks.width_of(seed);
        let function = layer.computing(seed).map(|blueprint| blueprint.function);
        let length = function.map_or(0, |function| self.padded(function, width));
        if length > floats_max {
            let what = format!("the weights of seed {seed}");
            return Err(Error::OutOfMemory { device: device.to_owned(), what, bytes: 4 * length as u64 });
        }
        let full = self.banks.last().is_some_and(|bank| bank.weights.len() + length > floats_max);
        if full {
            self.banks.push(Bank { seeds: seed..seed, weights: Vec::new(), gradients: 0 });
        }
        let at = self.banks.len() - 1;
        let bank = &mut self.banks[at];
        let learns = layer.learns(seed);
        self.rows[seed] = Row {
            start: number(self.chunks.start_of(seed)),
            width: number(width),
            kind: COPY,
            rank: function
                .map_or(0, |function| if let Function::Adapter { rank } = function { number(rank) } else { 0 }),
            weights: number(bank.weights.len()),
            gradient: NONE,
            alpha: 0.0,
            order: number(seed),
        };
        let gradient = if learns { number(bank.gradients) } else { NONE };
        bank.seeds.end = seed + 1;
        bank.weights.resize(bank.weights.len() + length, 0.0);
        bank.gradients += if learns { function.map_or(0, |function| function.weights(width)) } else { 0 };
        self.places.push(Place { function, gradient, bank: at });
        Ok(())
    }

    /// Copy what a seed is and has: nothing of its weights where it does not compute.
    fn fill(&mut self, layer: &View<'_>, seed: usize) {
        let place = self.places[seed];
        let row = &mut self.rows[seed];
        let Some(function) = place.function.filter(|_| layer.computing(seed).is_some()) else {
            (row.kind, row.alpha, row.gradient) = (COPY, 0.0, NONE);
            return;
        };
        (row.kind, row.alpha) = (self.kernel.kind(function), layer.alpha[seed]);
        row.gradient = if layer.learns(seed) { place.gradient } else { NONE };
        let (width, quads) = (self.chunks.width_of(seed), self.chunks.widest().div_ceil(4));
        let rank = self.kernel.padded_rank(function);
        let start = self.rows[seed].weights as usize;
        let to = &mut self.banks[self.places[seed].bank].weights[start..];
        let from = &layer.weights[seed];
        match function {
            Function::Adapter { rank: r } => pack_adapter(from, width, r, rank, 4 * quads, to),
            Function::Mlp => to[..from.len()].copy_from_slice(from),
            Function::ResidualScale => {
                to[..width].copy_from_slice(&from[..width]);
                to[4 * quads..][..width].copy_from_slice(&from[width..]);
            }
        }
    }

    /// Floats that the weights of a function take on the device.
    fn padded(&self, function: Function, width: usize) -> usize {
        let pad = 4 * self.chunks.widest().div_ceil(4);
        match function {
            Function::Adapter { .. } => self.kernel.padded_rank(function) * (2 * pad + 1) + pad,
            Function::Mlp => function.weights(width).next_multiple_of(4),
            Function::ResidualScale => 2 * pad,
        }
    }

    /// In each tile, seeds that compute come first.
    fn order(&mut self) {
        let tile = self.kernel.tile_seeds(self.chunks.widest());
        for seeds in self.banks.iter().map(|bank| bank.seeds.clone()).collect::<Vec<_>>() {
            for first in seeds.step_by(tile) {
                self.order_around(first);
            }
        }
    }

    /// The same in the tile of one seed, whose seeds are answered.
    fn order_around(&mut self, seed: usize) -> Range<usize> {
        let tile = self.kernel.tile_seeds(self.chunks.widest());
        let bank = &self.banks[self.places[seed].bank].seeds;
        let first = bank.start + (seed - bank.start) / tile * tile;
        let seeds = first..(first + tile).min(bank.end);
        let mut order: Vec<usize> = seeds.clone().collect();
        order.sort_by_key(|&seed| !self.computes(seed));
        for (place, seed) in seeds.clone().zip(order) {
            self.rows[place].order = number(seed);
        }
        seeds
    }

    fn group(&mut self) {
        let mut found: Vec<(usize, Function, Vec<u32>, bool)> = Vec::new();
        for (seed, place) in self.places.iter().enumerate() {
            let Some(function) = place.function else { continue };
            match found.iter_mut().rev().find(|it| (it.0, it.1) == (place.bank, function)) {
                Some(group) => {
                    group.2.push(number(seed));
                    group.3 |= place.gradient != NONE;
                }
                None => found.push((place.bank, function, vec![number(seed)], place.gradient != NONE)),
            }
        }
        for (bank, function, members, learns) in found {
            let start = self.members.len();
            self.members.extend(members);
            let fused = self.kernel.kind(function) != GROWN;
            self.groups.push(Group { bank, function, members: start..self.members.len(), learns, fused });
        }
    }

    /// Where the gradients of a seed begin in its bank's, and how many there are.
    pub(super) fn gradients_of(&self, seed: usize) -> Option<(usize, Range<usize>)> {
        let (place, start) = (self.places[seed], self.rows[seed].gradient as usize);
        let function = place.function.filter(|_| self.rows[seed].gradient != NONE)?;
        Some((place.bank, start..start + function.weights(self.chunks.width_of(seed))))
    }
}

/// What changed of one seed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// Of the table.
    pub(super) rows: Range<usize>,
    pub(super) bank: usize,
    pub(super) weights: Range<usize>,
}

impl Kernel {
    fn kind(self, function: Function) -> u32 {
        match (function, self) {
            (Function::Adapter { rank }, Self::Wide) if rank > WIDE_RANK_MAX => GROWN,
            (Function::Adapter { .. }, _) => ADAPTER,
            (Function::ResidualScale, _) => SCALE,
            (Function::Mlp, _) => GROWN,
        }
    }

    /// Hidden values that are stored for an adapter.
    pub(super) fn padded_rank(self, function: Function) -> usize {
        match (function, self) {
            (Function::Adapter { rank }, Self::Wide) => rank.next_multiple_of(4).max(WIDE_RANK_MAX),
            (Function::Adapter { rank }, Self::Narrow) => rank.next_multiple_of(4),
            _ => 0,
        }
    }
}

/// For each hidden value: its weights from the input, then those to the output, each padded; then the biases.
fn pack_adapter(from: &[f32], width: usize, rank: usize, padded_rank: usize, pad: usize, to: &mut [f32]) {
    let (down, rest) = from.split_at(width * rank);
    let (down_bias, rest) = rest.split_at(rank);
    let (up, up_bias) = rest.split_at(rank * width);
    for k in 0..rank {
        let hidden = &mut to[2 * pad * k..][..2 * pad];
        for i in 0..width {
            hidden[i] = down[i * rank + k];
        }
        hidden[pad..pad + width].copy_from_slice(&up[k * width..][..width]);
    }
    let biases = &mut to[2 * pad * padded_rank..];
    biases[..rank].copy_from_slice(down_bias);
    biases[padded_rank..padded_rank + width].copy_from_slice(up_bias);
}

/// A number of the layer as the device has it: tilings and banks are checked to fit.
#[allow(clippy::cast_possible_truncation, reason = "a tiling is below 2^32 wide, and a bank has at most 2^31 floats")]
pub(super) fn number(value: usize) -> u32 {
    debug_assert!(u32::try_from(value).is_ok());
    value as u32
}

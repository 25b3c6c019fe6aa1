//! One task of a pass: a block of rows of one tile, panel by panel, forward or backward.

use super::Grown;
use super::drift::Drift;
use super::function::{self, Room};
use super::statistics::{Partial, Sums};
use super::strip::{Aligned, LANES_MAX, Stage, Strip, add, fma, mul, rows, splat, strips_mut, sum};
use super::tile::{Block, Span, Tile};
use crate::telemetry::SeedTelemetry;
use pulp::{Simd, WithSimd};

/// The bits of infinity: a value is finite if its bits, without the sign, are less.
const INFINITY_BITS: u32 = 0x7f80_0000;

/// Rows that are copied, and then looked at, together.
const COPIED_ROWS: usize = 4;

/// `y = x + alpha * f(x)`.
pub(super) struct Forward<'a> {
    pub(super) grown: &'a [Option<Box<Grown>>],
    pub(super) tile: &'a Tile,
    /// All of the input, rows × width.
    pub(super) x: &'a [f32],
    pub(super) width: usize,
    pub(super) block: Block<'a>,
    /// Whether statistics are asked for.
    pub(super) watched: bool,
}

/// What a forward task found.
pub(super) struct Found {
    partial: Option<Partial>,
    /// Seeds in whose chunk a value is not finite.
    not_finite: Vec<usize>,
    /// Bytes that the task took while it ran.
    scratch: usize,
}

impl Found {
    /// Bytes that are kept until all tasks are done, and those that were taken for the time of this task.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let partial = self.partial.as_ref().map_or(0, Partial::bytes);
        (size_of::<Self>() + partial + size_of_val(&self.not_finite[..]), self.scratch)
    }
}

impl WithSimd for Forward<'_> {
    type Output = Found;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Found {
        let mut sums = self.watched.then(|| Sums::new::<S>(self.tile));
        let computing = computing(self.grown, self.tile);
        let (mut panel, mut room) = prepare::<S>(self.tile, &computing, false);
        let mut stage = Stage::new(rows::<S>(), self.tile.widest_panel());
        let mut bits = simd.splat_u32s(0);
        let mut inputs: Vec<&[f32]> = Vec::with_capacity(rows::<S>());
        // Where nobody computes, few rows at a time: what was just copied is still in the nearest cache.
        let height = if computing.is_empty() { COPIED_ROWS } else { rows::<S>() };
        for (at, outputs) in self.block.rows.chunks_mut(height).enumerate() {
            let first = self.block.first + at * height;
            take_rows(&mut inputs, self.x, self.width, first..first + outputs.len(), self.tile);
            // Where nobody computes, statistics are gathered while rows are copied.
            let at_once = computing.is_empty() && sums.is_some();
            if !at_once {
                bits = copy_checked(simd, self.tile, &inputs, outputs, bits);
            }
            for span in self.tile.spans.iter().filter(|span| span.computes) {
                let panel = &mut strips_mut::<S>(panel.floats_mut())[..span.columns.len()];
                stage.lift(simd, &inputs, span.columns.start, panel);
                for (seed, grown) in span.computing(self.grown) {
                    let chunk = &mut panel[seed * self.tile.chunk..(seed + 1) * self.tile.chunk];
                    let f = function::forward(simd, grown.function, &grown.weights, chunk, &mut room);
                    match &mut sums {
                        Some(sums) => {
                            let drift = blend_watched(simd, chunk, f, grown.alpha);
                            let at = span.seeds.start + seed - self.tile.seeds.start;
                            sums.drift[at] += sum(simd, &drift, outputs.len());
                        }
                        None => blend(simd, chunk, f, grown.alpha),
                    }
                }
                bits = greatest(simd, panel, bits);
                stage.lower(simd, panel, outputs, span.columns.start);
            }
            if let Some(sums) = &mut sums {
                let mut read: [&[f32]; 2 * LANES_MAX] = [&[]; 2 * LANES_MAX];
                let (from, to) = if at_once {
                    (&inputs[..], outputs)
                } else {
                    read.iter_mut().zip(outputs.iter()).for_each(|(read, row)| *read = row);
                    (&read[..outputs.len()], &mut [][..])
                };
                sums.add(simd, from, to);
            }
        }
        let scratch = panel.bytes()
            + room.bytes()
            + stage.bytes()
            + sums.as_ref().map_or(0, Sums::bytes)
            + size_of_val(&computing[..]);
        let partial = sums.map(|sums| sums.finish(simd));
        self.judge(partial, finite(simd, bits), scratch)
    }
}

impl Forward<'_> {
    /// Look closer where something seemed not to be finite.
    #[inline(never)]
    fn judge(&self, mut partial: Option<Partial>, finite: bool, scratch: usize) -> Found {
        let chunk = self.tile.chunk;
        let suspects: Vec<usize> = match &partial {
            Some(partial) => partial.suspects(chunk).collect(),
            None if finite => Vec::new(),
            None => (0..self.tile.seeds.len()).collect(),
        };
        let mut not_finite = Vec::new();
        for seed in suspects {
            let range = seed * chunk..(seed + 1) * chunk;
            let columns = self.tile.start + range.start..self.tile.start + range.end;
            let outputs = self.block.rows.iter().map(|row| &row[range.clone()]);
            if outputs.clone().flatten().any(|value| !value.is_finite()) {
                not_finite.push(self.tile.seeds.start + seed);
            }
            if let Some(partial) = &mut partial {
                let inputs = self.x.chunks_exact(self.width).skip(self.block.first).map(|row| &row[columns.clone()]);
                let computes = self.grown[self.tile.seeds.start + seed].is_some();
                partial.mend(chunk, seed, computes, inputs.zip(outputs));
            }
        }
        Found { partial, not_finite, scratch }
    }
}

/// Join the blocks of a tile: the statistics of its seeds, and the seeds that are not finite.
pub(super) fn join(tile: &Tile, found: Vec<Found>) -> (Vec<SeedTelemetry>, Vec<usize>) {
    let mut all: Option<Partial> = None;
    let mut not_finite = Vec::new();
    for block in found {
        not_finite.extend(block.not_finite);
        match (&mut all, block.partial) {
            (Some(all), Some(next)) => all.merge(&next, tile.chunk),
            (none, next) => *none = next,
        }
    }
    not_finite.sort_unstable();
    not_finite.dedup();
    (all.map(|all| all.telemetry(tile.chunk).collect()).unwrap_or_default(), not_finite)
}

fn computing<'a>(grown: &'a [Option<Box<Grown>>], tile: &Tile) -> Vec<(usize, &'a Grown)> {
    let seeds = grown[tile.seeds.clone()].iter().enumerate();
    seeds.filter_map(|(at, grown)| Some((tile.seeds.start + at, grown.as_deref()?))).collect()
}

impl Span {
    /// Its seeds that compute, counted from its first.
    fn computing<'a>(&self, grown: &'a [Option<Box<Grown>>]) -> impl Iterator<Item = (usize, &'a Grown)> {
        grown[self.seeds.clone()].iter().enumerate().filter_map(|(at, grown)| Some((at, grown.as_deref()?)))
    }
}

/// A panel for the tile, and room for all of its functions; nothing where nobody computes.
fn prepare<S: Simd>(tile: &Tile, computing: &[(usize, &Grown)], backward: bool) -> (Aligned, Room) {
    let mut room = Room::default();
    let mut fitted = None;
    for (_, grown) in computing {
        if fitted != Some(grown.function) {
            room.fit::<S>(grown.function, tile.chunk, backward);
            fitted = Some(grown.function);
        }
    }
    (Aligned::zeros(tile.widest_panel() * rows::<S>()), room)
}

#[inline(always)]
fn take_rows<'x>(taken: &mut Vec<&'x [f32]>, from: &'x [f32], width: usize, rows: std::ops::Range<usize>, tile: &Tile) {
    taken.clear();
    taken.extend(from[rows.start * width..rows.end * width].chunks_exact(width).map(|row| &row[tile.columns()]));
}

/// Copy, and take the greatest magnitude in, as bits.
#[inline(always)]
fn copy_checked<S: Simd>(simd: S, tile: &Tile, from: &[&[f32]], to: &mut [&mut [f32]], mut bits: S::u32s) -> S::u32s {
    for span in tile.spans.iter().filter(|span| !span.computes) {
        for (from, to) in from.iter().zip(to.iter_mut()) {
            let (from, from_tail) = S::as_simd_f32s(&from[span.columns.clone()]);
            let (to, to_tail) = S::as_mut_simd_f32s(&mut to[span.columns.clone()]);
            for (from, to) in from.iter().zip(to) {
                *to = *from;
                bits = greater(simd, bits, *from);
            }
            if !from_tail.is_empty() {
                to_tail.copy_from_slice(from_tail);
                bits = greater(simd, bits, simd.partial_load_f32s(from_tail));
            }
        }
    }
    bits
}

#[inline(always)]
fn greater<S: Simd>(simd: S, bits: S::u32s, values: S::f32s) -> S::u32s {
    simd.max_u32s(bits, simd.transmute_u32s_f32s(simd.abs_f32s(values)))
}

#[inline(always)]
fn finite<S: Simd>(_: S, bits: S::u32s) -> bool {
    bytemuck::cast_slice::<S::u32s, u32>(&[bits]).iter().all(|&bits| bits < INFINITY_BITS)
}

/// Take a panel's greatest magnitude in, as bits.
#[inline(always)]
fn greatest<S: Simd>(simd: S, panel: &[Strip<S>], mut bits: S::u32s) -> S::u32s {
    for values in panel.as_flattened() {
        bits = greater(simd, bits, *values);
    }
    bits
}

#[inline(always)]
fn blend<S: Simd>(simd: S, chunk: &mut [Strip<S>], f: &[Strip<S>], alpha: f32) {
    let alpha = splat(simd, alpha);
    for (value, f) in chunk.iter_mut().zip(f) {
        *value = fma(simd, alpha, *f, *value);
    }
}

/// Blend, and find each row's `1 - cos(x, y)`.
#[inline(always)]
fn blend_watched<S: Simd>(simd: S, chunk: &mut [Strip<S>], f: &[Strip<S>], alpha: f32) -> Strip<S> {
    let alpha = splat(simd, alpha);
    let mut drift = Drift::new(simd);
    for (value, f) in chunk.iter_mut().zip(f) {
        let y = fma(simd, alpha, *f, *value);
        drift.add(simd, *value, y);
        *value = y;
    }
    drift.rows(simd)
}

/// From dy to dx, and to the gradients of the weights.
pub(super) struct Backward<'a> {
    pub(super) grown: &'a [Option<Box<Grown>>],
    pub(super) tile: &'a Tile,
    /// All of the input, rows × width.
    pub(super) x: &'a [f32],
    /// All of the output's gradient, rows × width.
    pub(super) dy: &'a [f32],
    pub(super) width: usize,
    pub(super) block: Block<'a>,
}

/// What a backward task found: gradients of the seeds that learn, with padding, in their order; seeds that are not finite.
pub(super) struct FoundBack {
    learnt: Vec<(usize, Vec<f32>)>,
    not_finite: Vec<usize>,
}

impl WithSimd for Backward<'_> {
    type Output = FoundBack;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> FoundBack {
        let (tile, height) = (self.tile, rows::<S>());
        let computing = computing(self.grown, tile);
        let (mut panel, mut room) = prepare::<S>(tile, &computing, true);
        let (mut gradient, mut through) = (panel.clone(), Aligned::zeros(tile.chunk * height));
        let length =
            |grown: &Grown| if grown.learns { function::sums_length::<S>(grown.function, tile.chunk) } else { 0 };
        let mut sums: Vec<Aligned> = computing.iter().map(|(_, grown)| Aligned::zeros(length(grown))).collect();
        let mut stage = Stage::new(rows::<S>(), self.tile.widest_panel());
        let mut bits = simd.splat_u32s(0);
        let (mut inputs, mut after) = (Vec::with_capacity(height), Vec::with_capacity(height));
        for (at, outputs) in self.block.rows.chunks_mut(height).enumerate() {
            let first = self.block.first + at * height;
            take_rows(&mut inputs, self.x, self.width, first..first + outputs.len(), tile);
            take_rows(&mut after, self.dy, self.width, first..first + outputs.len(), tile);
            bits = copy_checked(simd, tile, &after, outputs, bits);
            let mut sums = sums.iter_mut();
            for span in tile.spans.iter().filter(|span| span.computes) {
                let (start, width) = (span.columns.start, span.columns.len());
                let panel = &mut strips_mut::<S>(panel.floats_mut())[..width];
                let gradient = &mut strips_mut::<S>(gradient.floats_mut())[..width];
                stage.lift(simd, &inputs, start, panel);
                stage.lift(simd, &after, start, gradient);
                for ((seed, grown), sums) in span.computing(self.grown).zip(&mut sums) {
                    let range = seed * tile.chunk..(seed + 1) * tile.chunk;
                    let (x, dy) = (&panel[range.clone()], &mut gradient[range]);
                    let through = &mut strips_mut::<S>(through.floats_mut())[..tile.chunk];
                    scale(simd, dy, grown.alpha, through);
                    let sums = grown.learns.then(|| sums.floats_mut());
                    function::backward(simd, grown.function, &grown.weights, x, through, sums, &mut room);
                    for (dy, through) in dy.iter_mut().zip(through.iter()) {
                        *dy = add(simd, *dy, *through);
                    }
                }
                bits = greatest(simd, gradient, bits);
                stage.lower(simd, gradient, outputs, start);
            }
        }
        let tighten = |grown: &Grown, sums: &Aligned| function::tighten::<S>(grown.function, tile.chunk, sums.floats());
        let learnt = computing.iter().zip(&sums).filter(|((_, grown), _)| grown.learns);
        let learnt = learnt.map(|((seed, grown), sums)| (*seed, tighten(grown, sums))).collect();
        let not_finite = if finite(simd, bits) { Vec::new() } else { self.not_finite() };
        FoundBack { learnt, not_finite }
    }
}

#[inline(always)]
fn scale<S: Simd>(simd: S, from: &[Strip<S>], factor: f32, to: &mut [Strip<S>]) {
    let factor = splat(simd, factor);
    for (to, from) in to.iter_mut().zip(from) {
        *to = mul(simd, *from, factor);
    }
}

impl Backward<'_> {
    /// Seeds in whose chunk a value of dx is not finite.
    fn not_finite(&self) -> Vec<usize> {
        let found = self.tile.seeds.clone().filter(|&seed| {
            let range = self.tile.chunk_of(seed);
            self.block.rows.iter().any(|row| row[range.clone()].iter().any(|value| !value.is_finite()))
        });
        found.collect()
    }
}

/// Join the blocks of a tile: gradients are summed in the order of the rows.
pub(super) fn join_back(
    tile: &Tile,
    grown: &[Option<Box<Grown>>],
    found: Vec<FoundBack>,
) -> (Vec<(usize, Vec<f32>)>, Vec<usize>) {
    let mut not_finite = Vec::new();
    let mut all: Option<Vec<(usize, Vec<f32>)>> = None;
    for block in found {
        not_finite.extend(block.not_finite);
        match &mut all {
            None => all = Some(block.learnt),
            Some(all) => {
                for ((_, sum), (_, next)) in all.iter_mut().zip(block.learnt) {
                    sum.iter_mut().zip(next).for_each(|(sum, next)| *sum += next);
                }
            }
        }
    }
    // Of no rows, every gradient is zero.
    let all = all.unwrap_or_else(|| {
        let learning = computing(grown, tile).into_iter().filter(|(_, grown)| grown.learns);
        learning.map(|(seed, grown)| (seed, vec![0.0; grown.weights.len()])).collect()
    });
    let unbounded = all.iter().filter(|(_, gradient)| gradient.iter().any(|value| !value.is_finite()));
    not_finite.extend(unbounded.map(|(seed, _)| *seed));
    not_finite.sort_unstable();
    not_finite.dedup();
    (all, not_finite)
}

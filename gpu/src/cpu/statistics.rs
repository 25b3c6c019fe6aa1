//! Statistics of one block of rows of one tile, gathered while its values are still in the cache.
//!
//! Sums are pivoted: what is summed is the difference to the mean of the column's first values in the block, so that
//! chunks offset by large constants keep their digits. Within a block they are f32, column by column in SIMD lanes; blocks are merged
//! in f64 by Chan's rule, in the order of the rows.
//!
//! The sum of all covariances of a chunk is the variance of its row sums, so the correlation needs, beside the columns'
//! own sums, one sum over each row's chunk, squared.

use super::strip::Aligned;
use super::tile::Tile;
use crate::telemetry::{SeedTelemetry, ZERO_BELOW};
use pulp::Simd;

/// Kept for each column, in this order, one run of `stride` floats each.
const PIVOT: usize = 0;
const SUM: usize = 1;
const SQUARES: usize = 2;
const ZEROS: usize = 3;
const MIN: usize = 4;
const MAX: usize = 5;
const KINDS: usize = 6;

/// The running sums of a block.
pub(super) struct Sums {
    chunk: usize,
    width: usize,
    /// Columns, rounded up to whole groups of four vectors.
    stride: usize,
    columns: Aligned,
    /// Row sums squared, one for each seed; where chunks are of 2 or 4 columns, in the order of the shuffled lanes.
    row_squares: Aligned,
    /// Of each seed, `1 - cos` summed over rows.
    pub(super) drift: Vec<f64>,
    rows: usize,
}

/// What is known of one block of rows of a tile.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) rows: usize,
    pub(super) columns: Vec<Column>,
    pub(super) seeds: Vec<Seed>,
}

/// Of one column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    mean: f64,
    /// Sum of squared deviations from the mean.
    deviations: f32,
    /// Values that count as zero.
    zeros: u32,
}

/// Of one seed's chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed {
    min: f32,
    max: f32,
    /// Sum of squared deviations of the row sums from their mean.
    row_deviations: f64,
    drift: f64,
}

impl Sums {
    pub(super) fn new<S: Simd>(tile: &Tile) -> Self {
        let group = 4 * S::F32_LANES;
        let stride = tile.width().div_ceil(group) * group;
        let mut columns = Aligned::zeros(KINDS * stride);
        columns.floats_mut()[MIN * stride..][..stride].fill(f32::INFINITY);
        columns.floats_mut()[MAX * stride..][..stride].fill(f32::NEG_INFINITY);
        let seeds = tile.seeds.len();
        let row_squares = Aligned::zeros(seeds + group);
        Self { chunk: tile.chunk, width: tile.width(), stride, columns, row_squares, drift: vec![0.0; seeds], rows: 0 }
    }

    /// Take in some rows of the tile.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&mut self, simd: S, rows: &[&mut [f32]]) {
        if self.rows == 0 {
            self.choose_pivots(rows);
        }
        self.rows += rows.len();
        let (fours, rest) = rows.as_chunks::<4>();
        for four in fours {
            self.add_rows::<S, 4>(simd, four);
        }
        for one in rest {
            self.add_rows::<S, 1>(simd, std::array::from_ref(one));
        }
        if !matches!(self.chunk, 1 | 2 | 4) {
            self.add_row_sums(simd, rows);
        }
    }

    /// The pivots: each column's first value, moved to the mean of its first few, so that a first value far from the
    /// others costs no digits; of a column that is constant, exactly its value.
    fn choose_pivots(&mut self, rows: &[&mut [f32]]) {
        let rows = &rows[..rows.len().min(4)];
        let Some((first, others)) = rows.split_first() else { return };
        #[allow(clippy::cast_precision_loss, reason = "four at most")]
        let part = 1.0 / rows.len() as f32;
        for (at, (pivot, first)) in self.columns.floats_mut().iter_mut().zip(first.iter()).enumerate() {
            let apart: f32 = others.iter().map(|row| row[at] - first).sum();
            *pivot = first + part * apart;
        }
    }

    /// Four rows at a time: where rows lie a multiple of 4096 bytes apart, a core's cache holds eight of them.
    #[inline(always)]
    fn add_rows<S: Simd, const N: usize>(&mut self, simd: S, rows: &[&mut [f32]; N]) {
        let group = 4 * S::F32_LANES;
        let whole = self.width / group * group;
        let mut at: [&[S::f32s]; N] = [&[]; N];
        for row in 0..N {
            at[row] = S::as_simd_f32s(&rows[row][..whole]).0;
        }
        self.add_vectors(simd, &at, 0);
        if whole < self.width {
            let mut tail = Aligned::zeros(N * group);
            for (to, row) in tail.floats_mut().chunks_exact_mut(group).zip(rows) {
                to[..self.width - whole].copy_from_slice(&row[whole..]);
            }
            for row in 0..N {
                at[row] = S::as_simd_f32s(&tail.floats()[row * group..][..group]).0;
            }
            self.add_vectors(simd, &at, whole / S::F32_LANES);
        }
    }

    /// Take in whole groups of four vectors, the first being the column vector `first` of the tile.
    #[inline(always)]
    fn add_vectors<S: Simd, const N: usize>(&mut self, simd: S, rows: &[&[S::f32s]; N], first: usize) {
        let vectors = rows[0].len();
        let stride = self.stride / S::F32_LANES;
        let kept = S::as_mut_simd_f32s(self.columns.floats_mut()).0;
        let (pivots, kept) = kept.split_at_mut(stride);
        let (sums, kept) = kept.split_at_mut(stride);
        let (squares, kept) = kept.split_at_mut(stride);
        let (zeros, kept) = kept.split_at_mut(stride);
        let (mins, maxs) = kept.split_at_mut(stride);
        let row_squares = S::as_mut_simd_f32s(self.row_squares.floats_mut()).0;
        for at in (0..vectors).step_by(4) {
            let group = first + at;
            for vector in 0..4 {
                let place = group + vector;
                let mut kept = [sums[place], squares[place], zeros[place], mins[place], maxs[place]];
                add_column(simd, pivots[place], rows, at + vector, &mut kept);
                [sums[place], squares[place], zeros[place], mins[place], maxs[place]] = kept;
            }
            let pivots = [pivots[group], pivots[group + 1], pivots[group + 2], pivots[group + 3]];
            if self.chunk == 4 {
                row_squares[group / 4] = four_columns(simd, pivots, rows, at, row_squares[group / 4]);
            } else if self.chunk == 2 {
                let before = [row_squares[group / 2], row_squares[group / 2 + 1]];
                [row_squares[group / 2], row_squares[group / 2 + 1]] = two_columns(simd, pivots, rows, at, before);
            }
        }
    }

    /// Row sums of chunks of any width, one seed after the other.
    #[inline(always)]
    fn add_row_sums<S: Simd>(&mut self, simd: S, rows: &[&mut [f32]]) {
        let (columns, squares) = (self.columns.floats(), self.row_squares.floats_mut());
        for (seed, pivots) in columns[..self.width].chunks_exact(self.chunk).enumerate() {
            let start = seed * self.chunk;
            let mut total = 0.0;
            for row in rows {
                let sum = row_sum(simd, &row[start..start + self.chunk], pivots);
                total += sum * sum;
            }
            squares[seed] += total;
        }
    }
}

#[inline(always)]
fn add_column<S: Simd, const N: usize>(
    simd: S,
    pivot: S::f32s,
    rows: &[&[S::f32s]; N],
    at: usize,
    kept: &mut [S::f32s; 5],
) {
    let (small, one, none) = (simd.splat_f32s(ZERO_BELOW), simd.splat_f32s(1.0), simd.splat_f32s(0.0));
    let [mut sum, mut squares, mut zeros, mut min, mut max] = *kept;
    for row in rows {
        let y = row[at];
        let apart = simd.sub_f32s(y, pivot);
        sum = simd.add_f32s(sum, apart);
        squares = simd.mul_add_f32s(apart, apart, squares);
        let zero = simd.less_than_f32s(simd.abs_f32s(y), small);
        zeros = simd.add_f32s(zeros, simd.select_f32s(zero, one, none));
        min = simd.min_f32s(min, y);
        max = simd.max_f32s(max, y);
    }
    *kept = [sum, squares, zeros, min, max];
}

/// Row sums of chunks of four columns: the vectors of as many chunks as there are lanes, turned so that a lane is a chunk.
#[inline(always)]
fn four_columns<S: Simd, const N: usize>(
    simd: S,
    pivots: [S::f32s; 4],
    rows: &[&[S::f32s]; N],
    at: usize,
    mut squares: S::f32s,
) -> S::f32s {
    for row in rows {
        let y = &row[at..at + 4];
        let apart = [
            simd.sub_f32s(y[0], pivots[0]),
            simd.sub_f32s(y[1], pivots[1]),
            simd.sub_f32s(y[2], pivots[2]),
            simd.sub_f32s(y[3], pivots[3]),
        ];
        let [a, b, c, d] = simd.deinterleave_shfl_f32s(apart);
        let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        squares = simd.mul_add_f32s(sum, sum, squares);
    }
    squares
}

/// As [`four_columns`], for chunks of two.
#[inline(always)]
fn two_columns<S: Simd, const N: usize>(
    simd: S,
    pivots: [S::f32s; 4],
    rows: &[&[S::f32s]; N],
    at: usize,
    [mut low, mut high]: [S::f32s; 2],
) -> [S::f32s; 2] {
    for row in rows {
        let y = &row[at..at + 4];
        let first = [simd.sub_f32s(y[0], pivots[0]), simd.sub_f32s(y[1], pivots[1])];
        let second = [simd.sub_f32s(y[2], pivots[2]), simd.sub_f32s(y[3], pivots[3])];
        let ([a, b], [c, d]) = (simd.deinterleave_shfl_f32s(first), simd.deinterleave_shfl_f32s(second));
        let (first, second) = (simd.add_f32s(a, b), simd.add_f32s(c, d));
        low = simd.mul_add_f32s(first, first, low);
        high = simd.mul_add_f32s(second, second, high);
    }
    [low, high]
}

#[inline(always)]
fn row_sum<S: Simd>(simd: S, values: &[f32], pivots: &[f32]) -> f32 {
    let ((values, tail), (pivots, pivots_tail)) = (S::as_simd_f32s(values), S::as_simd_f32s(pivots));
    let mut sum = simd.splat_f32s(0.0);
    for (y, pivot) in values.iter().zip(pivots) {
        sum = simd.add_f32s(sum, simd.sub_f32s(*y, *pivot));
    }
    if !tail.is_empty() {
        let (y, pivot) = (simd.partial_load_f32s(tail), simd.partial_load_f32s(pivots_tail));
        sum = simd.add_f32s(sum, simd.sub_f32s(y, pivot));
    }
    simd.reduce_sum_f32s(sum)
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

impl Sums {
    /// Put the lanes of row sums into the order of the seeds.
    #[inline(always)]
    fn straighten<S: Simd>(&mut self, simd: S) {
        let chunk = self.chunk;
        if !matches!(chunk, 2 | 4) {
            return;
        }
        for vector in S::as_mut_simd_f32s(self.row_squares.floats_mut()).0 {
            // Each seed's sum for all its columns, as they lie; then one of them each.
            let mut wide = [simd.splat_f32s(0.0); 4];
            if chunk == 4 {
                wide = simd.interleave_shfl_f32s([*vector; 4]);
            } else {
                [wide[0], wide[1]] = simd.interleave_shfl_f32s([*vector; 2]);
            }
            let wide: &[f32] = bytemuck::cast_slice(&wide);
            let mut straight = *vector;
            let lanes: &mut [f32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut straight));
            for (lane, seed) in lanes.iter_mut().zip(wide.chunks_exact(chunk)) {
                *lane = seed[0];
            }
            *vector = straight;
        }
    }

    /// Close the block.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(mut self, simd: S) -> Partial {
        self.straighten(simd);
        let rows = count(self.rows);
        let kind = |kind: usize| &self.columns.floats()[kind * self.stride..][..self.width];
        let column = |at: usize| {
            let (sum, squares) = (f64::from(kind(SUM)[at]), f64::from(kind(SQUARES)[at]));
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count of rows of a block; f32 is enough"
            )]
            Column {
                mean: f64::from(kind(PIVOT)[at]) + sum / rows,
                deviations: (squares - sum * sum / rows).max(0.0) as f32,
                zeros: kind(ZEROS)[at] as u32,
            }
        };
        let seed = |seed: usize| {
            let range = seed * self.chunk..(seed + 1) * self.chunk;
            let sum: f64 = kind(SUM)[range.clone()].iter().copied().map(f64::from).sum();
            let squares = f64::from(self.row_squares.floats()[seed]);
            Seed {
                min: kind(MIN)[range.clone()].iter().copied().fold(f32::INFINITY, f32::min),
                max: kind(MAX)[range].iter().copied().fold(f32::NEG_INFINITY, f32::max),
                row_deviations: (squares - sum * sum / rows).max(0.0),
                drift: self.drift[seed],
            }
        };
        let seeds = (0..self.width / self.chunk).map(seed).collect();
        Partial { rows: self.rows, columns: (0..self.width).map(column).collect(), seeds }
    }
}

impl Partial {
    /// Seeds, counted from the tile's first, whose sums are not finite: a value is not, or a sum overflowed.
    pub(super) fn suspects(&self, chunk: usize) -> impl Iterator<Item = usize> {
        let sound = |column: &Column| column.mean.is_finite() && column.deviations.is_finite();
        let columns = self.columns.chunks_exact(chunk);
        let sums = columns.zip(&self.seeds).enumerate();
        sums.filter(move |(_, (columns, seed))| {
            !(columns.iter().all(sound) && seed.row_deviations.is_finite() && seed.drift.is_finite())
        })
        .map(|(seed, _)| seed)
    }

    /// Put in a seed's statistics made anew in f64, from the rows of its x and y.
    pub(super) fn mend<'a>(
        &mut self,
        chunk: usize,
        seed: usize,
        rows: impl Iterator<Item = (&'a [f32], &'a [f32])> + Clone,
    ) {
        let number = count(self.rows);
        let columns = &mut self.columns[seed * chunk..(seed + 1) * chunk];
        for (at, column) in columns.iter_mut().enumerate() {
            let values = rows.clone().map(|(_, y)| f64::from(y[at]));
            column.mean = values.clone().map(|value| value / number).sum();
            #[allow(clippy::cast_possible_truncation, reason = "beyond f32, it is infinite")]
            let deviations = values.map(|value| (value - column.mean).powi(2)).sum::<f64>() as f32;
            column.deviations = deviations;
        }
        let middle: f64 = columns.iter().map(|column| column.mean).sum();
        let wide = |row: &[f32]| row.iter().copied().map(f64::from).sum::<f64>();
        let kept = &mut self.seeds[seed];
        kept.row_deviations = rows.clone().map(|(_, y)| (wide(y) - middle).powi(2)).sum();
        if !kept.drift.is_finite() {
            kept.drift = rows.map(|(x, y)| turned(x, y)).sum();
        }
    }

    /// Take in the next block of rows, by Chan's rule.
    pub(super) fn merge(&mut self, next: &Self, chunk: usize) {
        let (ours, theirs) = (count(self.rows), count(next.rows));
        let (share, weight) = (theirs / (ours + theirs), ours * theirs / (ours + theirs));
        let columns = self.columns.chunks_exact_mut(chunk).zip(next.columns.chunks_exact(chunk));
        for ((columns, others), (seed, other)) in columns.zip(self.seeds.iter_mut().zip(&next.seeds)) {
            let mut between = 0.0;
            for (column, other) in columns.iter_mut().zip(others) {
                let apart = other.mean - column.mean;
                between += apart;
                column.mean += apart * share;
                #[allow(clippy::cast_possible_truncation, reason = "f32 is enough for it")]
                let deviations =
                    (f64::from(column.deviations) + f64::from(other.deviations) + apart * apart * weight) as f32;
                column.deviations = deviations;
                column.zeros += other.zeros;
            }
            seed.row_deviations += other.row_deviations + between * between * weight;
            seed.min = seed.min.min(other.min);
            seed.max = seed.max.max(other.max);
            seed.drift += other.drift;
        }
        self.rows += next.rows;
    }

    /// The statistics of all seeds.
    pub(super) fn telemetry(&self, chunk: usize) -> impl Iterator<Item = SeedTelemetry> {
        self.columns.chunks_exact(chunk).zip(&self.seeds).map(|(columns, seed)| self.seed(columns, seed))
    }

    #[allow(clippy::cast_possible_truncation, reason = "statistics are kept as f32")]
    fn seed(&self, columns: &[Column], seed: &Seed) -> SeedTelemetry {
        let (rows, width) = (count(self.rows), count(columns.len()));
        let mean = columns.iter().map(|column| column.mean).sum::<f64>() / width;
        let within: f64 = columns.iter().map(|column| f64::from(column.deviations)).sum();
        let between: f64 = columns.iter().map(|column| (column.mean - mean).powi(2)).sum();
        let zeros: u64 = columns.iter().map(|column| u64::from(column.zeros)).sum();
        let dead = columns.iter().filter(|column| column.zeros as usize == self.rows).count();
        let spread: f64 = columns.iter().map(|column| f64::from(column.deviations).sqrt()).sum();
        let pairs = spread * spread - within;
        // Rounding leaves a little where at most one column varies.
        let varies = pairs > 1e-12 * within;
        SeedTelemetry {
            mean: mean as f32,
            variance: ((within + rows * between) / (rows * width)) as f32,
            min: seed.min,
            max: seed.max,
            #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
            sparsity: (zeros as f64 / (rows * width)) as f32,
            dead_ratio: (count(dead) / width) as f32,
            correlation: if varies { ((seed.row_deviations - within) / pairs).clamp(-1.0, 1.0) as f32 } else { 0.0 },
            drift: (seed.drift / rows) as f32,
        }
    }
}

/// `1 - cos(x, y)`, in f64.
fn turned(x: &[f32], y: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (xx, yy) = (dot(x, x), dot(y, y));
    match (xx == 0.0, yy == 0.0) {
        (true, true) => 0.0,
        (false, false) => 1.0 - dot(x, y) / (xx.sqrt() * yy.sqrt()),
        _ => 1.0,
    }
}

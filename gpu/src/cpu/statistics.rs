//! Statistics of one block of rows of one tile, gathered while its values are still in the cache.
//!
//! Sums are pivoted: what is summed is the difference to the mean of the column's first values in the block, so that
//! chunks offset by large constants keep their digits. Within a block they are f32, column by column in SIMD lanes; blocks are merged
//! in f64 by Chan's rule, in the order of the rows.
//!
//! The correlation needs the products of all pairs of a row's values, summed. They are gathered as products, in which
//! no column's square is: as a difference between squared row sums and squares, they would lose their digits where one
//! column varies much more than the others.

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

/// Rows that are taken in together.
const ROWS: usize = 4;

/// The running sums of a block.
pub(super) struct Sums {
    chunk: usize,
    width: usize,
    /// Columns, rounded up to whole groups of four vectors.
    stride: usize,
    columns: Aligned,
    /// Products of all pairs, one for each seed; where chunks are of 2 or 4 columns, in the order of the shuffled lanes.
    pairs: Aligned,
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
    /// Products of two columns' deviations from their means, summed over rows and all pairs of columns.
    pairs: f64,
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
        let pairs = Aligned::zeros(seeds + group);
        Self { chunk: tile.chunk, width: tile.width(), stride, columns, pairs, drift: vec![0.0; seeds], rows: 0 }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.columns.bytes() + self.pairs.bytes() + size_of_val(&self.drift[..])
    }

    /// Take in some rows of the tile, and copy them where there is a place for them: what is read once is counted and
    /// written.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&mut self, simd: S, from: &[&[f32]], mut to: &mut [&mut [f32]]) {
        for from in from.chunks(ROWS) {
            let (now, later) = std::mem::take(&mut to).split_at_mut_checked(from.len()).unwrap_or_default();
            to = later;
            self.add_some(simd, from, now);
        }
    }

    /// Take in up to [`ROWS`] rows, and copy them where there is a place for them.
    #[inline(always)]
    fn add_some<S: Simd>(&mut self, simd: S, from: &[&[f32]], to: &mut [&mut [f32]]) {
        if self.rows == 0 {
            self.choose_pivots(from);
        }
        self.rows += from.len();
        if let Ok(from) = <&[&[f32]; ROWS]>::try_from(from) {
            match <&mut [&mut [f32]; ROWS]>::try_from(&mut *to) {
                Ok(to) => self.add_rows::<S, ROWS, ROWS>(simd, from, to),
                Err(_) => self.add_rows::<S, ROWS, 0>(simd, from, &mut []),
            }
        } else {
            for (at, one) in from.iter().enumerate() {
                self.add_rows::<S, 1, 0>(simd, std::array::from_ref(one), &mut []);
                if let Some(to) = to.get_mut(at) {
                    to.copy_from_slice(one);
                }
            }
        }
        if !matches!(self.chunk, 1 | 2 | 4) {
            self.add_pairs(simd, from);
        }
    }

    /// The pivots: each column's first value, moved to the mean of its first few, so that a first value far from the
    /// others costs no digits; of a column that is constant, exactly its value.
    fn choose_pivots(&mut self, rows: &[&[f32]]) {
        let rows = &rows[..rows.len().min(4)];
        let Some((first, others)) = rows.split_first() else { return };
        #[allow(clippy::cast_precision_loss, reason = "four at most")]
        let part = 1.0 / rows.len() as f32;
        for (at, (pivot, first)) in self.columns.floats_mut().iter_mut().zip(first.iter()).enumerate() {
            let apart: f32 = others.iter().map(|row| row[at] - first).sum();
            *pivot = first + part * apart;
        }
    }

    /// Some rows at a time: where rows lie a multiple of 4096 bytes apart, a core's cache holds eight of them. `C` is `N`
    /// to copy them as well, or 0.
    #[inline(always)]
    fn add_rows<S: Simd, const N: usize, const C: usize>(
        &mut self,
        simd: S,
        from: &[&[f32]; N],
        to: &mut [&mut [f32]; C],
    ) {
        let group = 4 * S::F32_LANES;
        let whole = self.width / group * group;
        let mut at: [&[S::f32s]; N] = [&[]; N];
        for row in 0..N {
            at[row] = S::as_simd_f32s(&from[row][..whole]).0;
        }
        let mut copies: [&mut [S::f32s]; C] = std::array::from_fn(|_| <&mut [S::f32s]>::default());
        for (copy, to) in copies.iter_mut().zip(to.iter_mut()) {
            *copy = S::as_mut_simd_f32s(&mut to[..whole]).0;
        }
        self.add_vectors(simd, &at, &mut copies, 0);
        if whole < self.width {
            let mut tail = Aligned::zeros(N * group);
            for (piece, row) in tail.floats_mut().chunks_exact_mut(group).zip(from) {
                piece[..self.width - whole].copy_from_slice(&row[whole..]);
            }
            for row in 0..N {
                at[row] = S::as_simd_f32s(&tail.floats()[row * group..][..group]).0;
            }
            self.add_vectors::<S, N, 0>(simd, &at, &mut [], whole / S::F32_LANES);
            for (to, from) in to.iter_mut().zip(from) {
                to[whole..].copy_from_slice(&from[whole..]);
            }
        }
    }

    /// Take in whole groups of four vectors, the first being the column vector `first` of the tile.
    #[inline(always)]
    fn add_vectors<S: Simd, const N: usize, const C: usize>(
        &mut self,
        simd: S,
        rows: &[&[S::f32s]; N],
        copies: &mut [&mut [S::f32s]; C],
        first: usize,
    ) {
        let vectors = rows[0].len();
        let stride = self.stride / S::F32_LANES;
        let kept = S::as_mut_simd_f32s(self.columns.floats_mut()).0;
        let (pivots, kept) = kept.split_at_mut(stride);
        let (sums, kept) = kept.split_at_mut(stride);
        let (squares, kept) = kept.split_at_mut(stride);
        let (zeros, kept) = kept.split_at_mut(stride);
        let (mins, maxs) = kept.split_at_mut(stride);
        let pairs = S::as_mut_simd_f32s(self.pairs.floats_mut()).0;
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
                pairs[group / 4] = four_columns(simd, pivots, rows, at, pairs[group / 4]);
            } else if self.chunk == 2 {
                let before = [pairs[group / 2], pairs[group / 2 + 1]];
                [pairs[group / 2], pairs[group / 2 + 1]] = two_columns(simd, pivots, rows, at, before);
            }
            for (copy, row) in copies.iter_mut().zip(rows) {
                copy[at..at + 4].copy_from_slice(&row[at..at + 4]);
            }
        }
    }

    /// Pairs of chunks of any width, one seed after the other.
    #[inline(always)]
    fn add_pairs<S: Simd>(&mut self, simd: S, rows: &[&[f32]]) {
        let (columns, pairs) = (self.columns.floats(), self.pairs.floats_mut());
        for (seed, pivots) in columns[..self.width].chunks_exact(self.chunk).enumerate() {
            let start = seed * self.chunk;
            let mut total = simd.splat_f32s(0.0);
            for row in rows {
                total = row_pairs(simd, &row[start..start + self.chunk], pivots, total);
            }
            pairs[seed] += simd.reduce_sum_f32s(total);
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

/// Pairs of chunks of four columns: the vectors of as many chunks as there are lanes, turned so that a lane is a chunk.
#[inline(always)]
fn four_columns<S: Simd, const N: usize>(
    simd: S,
    pivots: [S::f32s; 4],
    rows: &[&[S::f32s]; N],
    at: usize,
    mut pairs: S::f32s,
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
        pairs = simd.mul_add_f32s(a, b, pairs);
        pairs = simd.mul_add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d), pairs);
        pairs = simd.mul_add_f32s(c, d, pairs);
    }
    pairs
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
        low = simd.mul_add_f32s(a, b, low);
        high = simd.mul_add_f32s(c, d, high);
    }
    [low, high]
}

/// Add the pairs of one row: those whose two columns lie in the same lane while it goes on, those of two lanes at the end,
/// by turning the lanes' sums against themselves.
#[inline(always)]
fn row_pairs<S: Simd>(simd: S, values: &[f32], pivots: &[f32], mut pairs: S::f32s) -> S::f32s {
    let ((values, tail), (pivots, pivots_tail)) = (S::as_simd_f32s(values), S::as_simd_f32s(pivots));
    let mut sum = simd.splat_f32s(0.0);
    for (y, pivot) in values.iter().zip(pivots) {
        let apart = simd.sub_f32s(*y, *pivot);
        pairs = simd.mul_add_f32s(sum, apart, pairs);
        sum = simd.add_f32s(sum, apart);
    }
    if !tail.is_empty() {
        let apart = simd.sub_f32s(simd.partial_load_f32s(tail), simd.partial_load_f32s(pivots_tail));
        pairs = simd.mul_add_f32s(sum, apart, pairs);
        sum = simd.add_f32s(sum, apart);
    }
    for turn in 1..S::F32_LANES.div_ceil(2) {
        pairs = simd.mul_add_f32s(sum, simd.rotate_left_f32s(sum, turn), pairs);
    }
    if S::F32_LANES > 1 {
        // Turned by half, each pair meets twice.
        let half = simd.mul_f32s(sum, simd.splat_f32s(0.5));
        pairs = simd.mul_add_f32s(half, simd.rotate_left_f32s(sum, S::F32_LANES / 2), pairs);
    }
    pairs
}

/// The sum of the products of all pairs.
#[inline(always)]
fn with_pairs(values: impl Iterator<Item = f64>) -> f64 {
    let (mut before, mut pairs) = (0.0, 0.0);
    for value in values {
        pairs += before * value;
        before += value;
    }
    pairs
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

impl Sums {
    /// Put the lanes of pairs into the order of the seeds.
    #[inline(always)]
    fn straighten<S: Simd>(&mut self, simd: S) {
        let chunk = self.chunk;
        if !matches!(chunk, 2 | 4) {
            return;
        }
        for vector in S::as_mut_simd_f32s(self.pairs.floats_mut()).0 {
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
        let share = 1.0 / rows;
        let kind = |kind: usize| &self.columns.floats()[kind * self.stride..][..self.width];
        let sums = kind(PIVOT).iter().zip(kind(SUM)).zip(kind(SQUARES).iter().zip(kind(ZEROS)));
        let column = |((pivot, sum), (squares, zeros)): ((&f32, &f32), (&f32, &f32))| {
            let (sum, squares) = (f64::from(*sum), f64::from(*squares));
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count of rows of a block; f32 is enough"
            )]
            Column {
                mean: f64::from(*pivot) + sum * share,
                deviations: (squares - sum * sum * share).max(0.0) as f32,
                zeros: *zeros as u32,
            }
        };
        let columns = sums.map(column).collect();
        let (mins, maxs) = (kind(MIN).chunks_exact(self.chunk), kind(MAX).chunks_exact(self.chunk));
        let seeds = mins.zip(maxs).zip(kind(SUM).chunks_exact(self.chunk)).zip(self.pairs.floats()).zip(&self.drift);
        let seeds = seeds.map(|((((mins, maxs), sums), pairs), drift)| Seed {
            min: mins.iter().copied().fold(f32::INFINITY, f32::min),
            max: maxs.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            pairs: f64::from(*pairs) - with_pairs(sums.iter().copied().map(f64::from)) * share,
            drift: *drift,
        });
        let seeds = seeds.collect();
        Partial { rows: self.rows, columns, seeds }
    }
}

impl Partial {
    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.columns[..]) + size_of_val(&self.seeds[..])
    }

    /// Seeds, counted from the tile's first, whose sums are not finite: a value is not, or a sum overflowed.
    pub(super) fn suspects(&self, chunk: usize) -> impl Iterator<Item = usize> {
        let sound = |column: &Column| column.mean.is_finite() && column.deviations.is_finite();
        let columns = self.columns.chunks_exact(chunk);
        let sums = columns.zip(&self.seeds).enumerate();
        sums.filter(move |(_, (columns, seed))| {
            !(columns.iter().all(sound) && seed.pairs.is_finite() && seed.drift.is_finite())
        })
        .map(|(seed, _)| seed)
    }

    /// Put in a seed's statistics made anew in f64, from the rows of its x and y; its drift if it computes.
    pub(super) fn mend<'a>(
        &mut self,
        chunk: usize,
        seed: usize,
        computes: bool,
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
        let apart = |row: &'a [f32]| row.iter().zip(&*columns).map(|(&y, column)| f64::from(y) - column.mean);
        let kept = &mut self.seeds[seed];
        kept.pairs = rows.clone().map(|(_, y)| with_pairs(apart(y))).sum();
        // Always: a square that overflowed may have left a finite drift that is wrong.
        if computes {
            kept.drift = rows.map(|(x, y)| turned(x, y)).sum();
        }
    }

    /// Take in the next block of rows, by Chan's rule.
    pub(super) fn merge(&mut self, next: &Self, chunk: usize) {
        let (ours, theirs) = (count(self.rows), count(next.rows));
        let (share, weight) = (theirs / (ours + theirs), ours * theirs / (ours + theirs));
        let columns = self.columns.chunks_exact_mut(chunk).zip(next.columns.chunks_exact(chunk));
        for ((columns, others), (seed, other)) in columns.zip(self.seeds.iter_mut().zip(&next.seeds)) {
            let (mut before, mut between) = (0.0, 0.0);
            for (column, other) in columns.iter_mut().zip(others) {
                let apart = other.mean - column.mean;
                between += before * apart;
                before += apart;
                column.mean += apart * share;
                #[allow(clippy::cast_possible_truncation, reason = "f32 is enough for it")]
                let deviations =
                    (f64::from(column.deviations) + f64::from(other.deviations) + apart * apart * weight) as f32;
                column.deviations = deviations;
                column.zeros += other.zeros;
            }
            seed.pairs += other.pairs + between * weight;
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
        let spread = with_pairs(columns.iter().map(|column| f64::from(column.deviations).sqrt()));
        // Rounding leaves a little where at most one column varies.
        let varies = spread > 1e-14 * within;
        SeedTelemetry {
            mean: mean as f32,
            variance: ((within + rows * between) / (rows * width)) as f32,
            min: seed.min,
            max: seed.max,
            #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
            sparsity: (zeros as f64 / (rows * width)) as f32,
            dead_ratio: (count(dead) / width) as f32,
            correlation: if varies { (seed.pairs / spread).clamp(-1.0, 1.0) as f32 } else { 0.0 },
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

//! What is measured of every seed's chunk in the pass that computes it.

use crate::chunks::Chunks;
use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// Below this magnitude a value counts as zero: for sparsity, and for dead columns.
pub const ZERO_BELOW: f32 = 1e-6;

/// One seed's statistics over batch × chunk of the output y.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable, Serialize, Deserialize)]
#[repr(C)]
pub struct SeedTelemetry {
    /// Mean of y.
    pub mean: f32,
    /// Population variance of y.
    pub variance: f32,
    /// Least value of y.
    pub min: f32,
    /// Greatest value of y.
    pub max: f32,
    /// Share of values with |y| below [`ZERO_BELOW`].
    pub sparsity: f32,
    /// Share of columns that are below [`ZERO_BELOW`] in every row.
    pub dead_ratio: f32,
    /// How much columns move together: `Σ cov(i,j) / Σ sd(i)·sd(j)` over all pairs i ≠ j, the mean of their correlations
    /// weighted by their deviations; in [-1, 1], and 0 where no two columns vary. It needs the sums of columns and of
    /// rows only, so it costs no pass over the pairs.
    pub correlation: f32,
    /// `1 - mean cos(x, y)` over the rows, of the chunk's columns. A row whose x and y are both zero counts as cos 1, one
    /// where only one of them is as cos 0. Exactly 0 where the seed does not compute.
    pub drift: f32,
}

/// The statistics of a whole layer for one pass, or for several merged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Telemetry {
    /// How many rows they are of.
    pub rows: usize,
    /// One for each seed.
    pub seeds: Vec<SeedTelemetry>,
}

impl Telemetry {
    /// Take in another pass: as if its rows had been in the same batch, save that the dead ratio becomes the lesser of
    /// both (an upper bound) and the correlation the mean, weighted by rows.
    pub fn merge(&mut self, other: &Self, chunks: &Chunks) {
        if self.rows == 0 || self.seeds.len() != other.seeds.len() {
            self.clone_from(other);
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let (ours, theirs) = (self.rows as f64, other.rows as f64);
        for (seed, (mine, new)) in self.seeds.iter_mut().zip(&other.seeds).enumerate() {
            debug_assert!(seed < chunks.seeds());
            mine.merge(new, ours / (ours + theirs));
        }
        self.rows += other.rows;
    }
}

impl SeedTelemetry {
    /// Take in another, of which `1 - share` of all rows are. Both are of the same columns, so rows weigh as values do.
    #[allow(clippy::cast_possible_truncation, reason = "statistics are kept as f32")]
    fn merge(&mut self, other: &Self, share: f64) {
        let mix = |a: f32, b: f32| (share * f64::from(a) + (1.0 - share) * f64::from(b)) as f32;
        let apart = f64::from(other.mean) - f64::from(self.mean);
        // Chan's rule for the variance of two sets.
        let between = share * (1.0 - share) * apart * apart;
        self.variance = (f64::from(mix(self.variance, other.variance)) + between) as f32;
        self.mean = mix(self.mean, other.mean);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sparsity = mix(self.sparsity, other.sparsity);
        self.dead_ratio = self.dead_ratio.min(other.dead_ratio);
        self.correlation = mix(self.correlation, other.correlation);
        self.drift = mix(self.drift, other.drift);
    }
}

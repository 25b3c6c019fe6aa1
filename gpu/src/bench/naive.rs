//! What a pass is compared with: a plain loop over seeds, each computed by itself for all rows, as one writes it first.

use crate::blueprint::Function;
use crate::check::Sample;
use rayon::prelude::*;
use std::ops::Range;

/// A layer of adapters, seed by seed.
pub(super) struct Loop {
    width: usize,
    seeds: Vec<Seed>,
}

struct Seed {
    columns: Range<usize>,
    alpha: f32,
    rank: usize,
    weights: Vec<f32>,
}

impl Loop {
    /// The seeds that compute; adapters only.
    pub(super) fn new(sample: &Sample) -> Self {
        let view = sample.view();
        let seeds = (0..sample.chunks.seeds()).filter_map(|seed| {
            let Function::Adapter { rank } = view.computing(seed)?.function else { return None };
            let (columns, weights) = (sample.chunks.range(seed), sample.weights[seed].clone());
            Some(Seed { columns, alpha: sample.alpha[seed], rank, weights })
        });
        Self { width: sample.chunks.width(), seeds: seeds.collect() }
    }

    /// On the threads of the pool that this is called in, each with its share of the rows.
    pub(super) fn run(&self, x: &[f32], y: &mut [f32], threads: usize) {
        let rows = x.len() / self.width;
        let part = rows.div_ceil(threads).max(1) * self.width;
        y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| self.part(x, y));
    }

    fn part(&self, x: &[f32], y: &mut [f32]) {
        y.copy_from_slice(x);
        for seed in &self.seeds {
            let mut hidden = vec![0.0; seed.rank];
            for (x, y) in x.chunks_exact(self.width).zip(y.chunks_exact_mut(self.width)) {
                seed.row(&x[seed.columns.clone()], &mut y[seed.columns.clone()], &mut hidden);
            }
        }
    }
}

impl Seed {
    fn row(&self, x: &[f32], y: &mut [f32], hidden: &mut [f32]) {
        let (chunk, rank) = (x.len(), self.rank);
        let (down, rest) = self.weights.split_at(chunk * rank);
        let (down_bias, rest) = rest.split_at(rank);
        let (up, up_bias) = rest.split_at(rank * chunk);
        for (k, hidden) in hidden.iter_mut().enumerate() {
            let sum: f32 = x.iter().enumerate().map(|(i, x)| x * down[i * rank + k]).sum();
            *hidden = gelu(sum + down_bias[k]);
        }
        for (j, y) in y.iter_mut().enumerate() {
            let sum: f32 = hidden.iter().enumerate().map(|(k, hidden)| hidden * up[k * chunk + j]).sum();
            *y += self.alpha * (sum + up_bias[j]);
        }
    }
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, Mix};
    use crate::reference;

    #[test]
    fn the_loop_computes_the_same_layer() {
        let mix = Mix::Share(0.5, Function::Adapter { rank: 5 });
        let sample = Case { width: 67, seeds: 9, rows: 21, mix, offset: 0.0, random_seed: 3 }.make();
        let mut y = vec![f32::NAN; sample.x.len()];
        Loop::new(&sample).run(&sample.x, &mut y, 2);
        let right = reference::forward(&sample.view(), &sample.x, sample.rows);
        assert!(sample.off(&y, &right) < 1e-6);
    }
}

//! The reference's own gradients against finite differences of its own forward pass, in f64.

use super::*;
use crate::blueprint::Blueprint;
use crate::chunks::Chunks;
use crate::state::{Lifecycle, SeedState};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::sync::Arc;

const ROWS: usize = 5;
/// A step that f32 holds exactly beside values of this size, so small that hardly any `ReLU` bends within it.
const STEP: f32 = 1.0 / 1_048_576.0;

struct Case {
    chunks: Chunks,
    state: Vec<SeedState>,
    alpha: Vec<f32>,
    weights: Vec<Vec<f32>>,
    blueprints: Vec<Arc<Blueprint>>,
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    /// Ragged chunks with all functions at random weights: seed 3 is FOSSILIZED, 4 dormant, 5 without blend.
    fn new(random_seed: u64) -> Self {
        let chunks = Chunks::new(20, 6).unwrap();
        let functions = [Function::Adapter { rank: 5 }, Function::Mlp, Function::ResidualScale];
        let blueprints: Vec<_> = functions.map(|function| Arc::new(Blueprint::new("any", function))).into();
        let mut random = ChaCha8Rng::seed_from_u64(random_seed);
        let mut normal = |length: usize| -> Vec<f32> {
            // Multiples of 2⁻¹²: a sum with the step is exact.
            (0..length)
                .map(|_| StandardNormal.sample(&mut random))
                .map(|unit: f32| (unit * 4096.0).round() / 4096.0)
                .collect()
        };
        let mut state = vec![SeedState::DORMANT; 6];
        for (seed, row) in state.iter_mut().enumerate() {
            row.enter(
                [
                    Lifecycle::Grafting,
                    Lifecycle::Evaluating,
                    Lifecycle::FineTuning,
                    Lifecycle::Fossilized,
                    Lifecycle::Dormant,
                    Lifecycle::Grafting,
                ][seed],
            );
            row.blueprint = [0, 1, 2, 1, -1, 0][seed];
        }
        let weights = (0..6)
            .map(|seed| match usize::try_from(state[seed].blueprint) {
                Ok(at) => normal(functions[at].weights(chunks.width_of(seed))),
                Err(_) => Vec::new(),
            })
            .collect();
        let (x, dy) = (normal(ROWS * 20), normal(ROWS * 20));
        Self { chunks, state, alpha: vec![0.75, 0.5, 1.0, 0.25, 0.0, 0.0], weights, blueprints, x, dy }
    }

    /// `Σ y · dy`: what the gradients are of.
    fn value(&self) -> f64 {
        let y = forward(&self.view(), &self.x, ROWS);
        y.iter().zip(&self.dy).map(|(y, &dy)| y * f64::from(dy)).sum()
    }

    fn view(&self) -> View<'_> {
        View {
            chunks: self.chunks,
            state: &self.state,
            alpha: &self.alpha,
            weights: &self.weights,
            blueprints: &self.blueprints,
        }
    }

    /// The slope along one value, and how much it changes between the two halves: more where a `ReLU` bends.
    fn slope(&mut self, at: impl Fn(&mut Self) -> &mut f32) -> (f64, f64) {
        let kept = *at(self);
        let mut moved = |by: f32| {
            *at(self) = kept + by;
            self.value()
        };
        // The middle comes last: it puts the value back.
        let (below, above, middle) = (moved(-STEP), moved(STEP), moved(0.0));
        let step = f64::from(STEP);
        ((above - below) / (2.0 * step), (above - 2.0 * middle + below).abs() / step)
    }
}

#[test]
fn gradients_of_every_function_agree_with_finite_differences() {
    let mut bends = 0;
    let mut checked = 0;
    for random_seed in 0..3 {
        let mut case = Case::new(random_seed);
        let Backward { dx, gradients, .. } = backward(&case.view(), &case.x, ROWS, &case.dy);
        let mut check = |(expected, bend): (f64, f64), found: f64, what: &str| {
            checked += 1;
            // Across a ReLU's bend the two halves differ, and only what lies between their slopes can be asked for.
            bends += usize::from(bend > 0.05);
            let error = (found - expected).abs();
            assert!(error < 1e-6 * (1.0 + expected.abs()) + bend, "{what}: {found} against {expected}, bend {bend}");
        };
        for (at, &found) in dx.iter().enumerate() {
            check(case.slope(|case| &mut case.x[at]), found, &format!("x {at}"));
        }
        for (seed, found) in gradients.iter().enumerate() {
            assert_eq!(found.len(), if seed < 3 { case.weights[seed].len() } else { 0 }, "seed {seed}");
            for (at, &found) in found.iter().enumerate() {
                check(case.slope(|case| &mut case.weights[seed][at]), found, &format!("seed {seed}, weight {at}"));
            }
        }
    }
    assert!(checked > 1500 && bends * 100 < checked, "{bends} of {checked} values lie at a bend");
}

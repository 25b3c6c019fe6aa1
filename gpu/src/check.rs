//! Holding a backend against [`crate::reference`]: layers made from one number, and how far a backend is off.
//!
//! Not for production. Every backend's tests, the benches and `gavel kasmina bench` use it, so that all are judged alike.
//!
//! How errors are counted:
//! - of y and dx: the greatest difference in a seed's chunk, divided by the greatest magnitude of what is added up there:
//!   of x and y, or of dy and dx, and, where the seed computes, of its weights times alpha (times dy's greatest), for its
//!   biases are added too. So small values and large ones are judged alike, and where a sum cancels it is judged by what
//!   it is the sum of;
//! - of gradients: likewise in one seed's weights, where what is added up are the gradients of the rows;
//! - of telemetry: each statistic against the same statistic, in f64, of the very y that the backend gave, so that this
//!   does not count the error of y again. Mean, minimum and maximum are relative to the greatest magnitude in the chunk,
//!   variance to itself; the shares, the correlation and the drift, being of order 1, are taken as they are.

mod harness;

use crate::backend::{Backend, Changed, View};
use crate::blueprint::{Blueprint, Function};
use crate::chunks::Chunks;
use crate::reference::{self, Backward};
use crate::state::{Lifecycle, SeedState};
use crate::telemetry::{SeedTelemetry, Telemetry};
pub use harness::{Hard, agrees, changes_agree, hard};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::sync::Arc;

/// Which seeds compute, and what.
#[derive(Debug, Clone, PartialEq)]
pub enum Mix {
    /// No seed computes.
    Dormant,
    /// This share of the seeds computes this function, spread at random; the others are dormant.
    Share(f32, Function),
    /// Every seed computes this function.
    All(Function),
    /// All eleven stages, all kinds of function, alphas from 0 to 1.
    Stages,
}

/// One layer with its batch, described.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Columns of the layer.
    pub width: usize,
    /// Its seeds.
    pub seeds: usize,
    /// Rows of the batch.
    pub rows: usize,
    /// Which seeds compute.
    pub mix: Mix,
    /// What is added to all of x, times a factor from 1 to 2 for each chunk; with 0, some values and columns are zero.
    pub offset: f32,
    /// What all numbers come from.
    pub random_seed: u64,
}

/// One layer with its batch, made.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The tiling.
    pub chunks: Chunks,
    /// A row for each seed.
    pub state: Vec<SeedState>,
    /// The blend of each seed.
    pub alpha: Vec<f32>,
    /// The weights of each seed.
    pub weights: Vec<Vec<f32>>,
    /// The blueprints.
    pub blueprints: Vec<Arc<Blueprint>>,
    /// Rows of the batch.
    pub rows: usize,
    /// The input, rows × width.
    pub x: Vec<f32>,
    /// A gradient of the output, rows × width.
    pub dy: Vec<f32>,
}

/// How far a backend is off the reference, at most.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Errors {
    /// Of the output.
    pub y: f64,
    /// Of the input's gradient.
    pub dx: f64,
    /// Of the weights' gradients.
    pub gradients: f64,
    /// Of the statistics.
    pub telemetry: f64,
}

impl Errors {
    /// What every backend must keep to in the cases of [`cases`].
    pub const LIMITS: Self = Self { y: 1e-6, dx: 5e-6, gradients: 2e-5, telemetry: 1e-5 };

    /// Check against limits.
    ///
    /// # Errors
    /// Names what is beyond its limit.
    pub fn within(&self, limits: &Self) -> Result<(), String> {
        let pairs = [
            ("y", self.y, limits.y),
            ("dx", self.dx, limits.dx),
            ("gradients", self.gradients, limits.gradients),
            ("telemetry", self.telemetry, limits.telemetry),
        ];
        // Not `error > limit`: that would let a NaN pass.
        match pairs.iter().find(|(_, error, limit)| !error.le(limit)) {
            None => Ok(()),
            Some((what, error, limit)) => Err(format!("{what} is off by {error:e}, at most {limit:e} is allowed")),
        }
    }
}

/// Layers that every backend is held against: even and ragged chunks, all mixes and functions, few and many rows,
/// large offsets.
#[must_use]
pub fn cases() -> Vec<Case> {
    let case = |width, seeds, rows, mix, offset| Case { width, seeds, rows, mix, offset, random_seed: 7 };
    let adapter = |rank| Function::Adapter { rank };
    let mut cases = vec![
        case(64, 16, 64, Mix::Dormant, 0.0),
        case(1031, 97, 33, Mix::Dormant, 10_000.0),
        case(64, 16, 64, Mix::All(adapter(16)), 0.0),
        case(64, 16, 7, Mix::All(adapter(3)), 0.0),
        case(37, 8, 33, Mix::All(adapter(5)), 0.0),
        case(64, 64, 33, Mix::All(adapter(4)), 0.0),
        case(130, 4, 64, Mix::All(adapter(16)), 0.0),
        case(256, 4, 17, Mix::All(adapter(24)), 0.0),
        case(100, 25, 300, Mix::Share(0.3, adapter(16)), 0.0),
        case(4096, 1024, 64, Mix::Share(0.3, adapter(16)), 0.0),
        case(64, 16, 64, Mix::All(adapter(16)), 100.0),
        case(64, 16, 33, Mix::All(Function::Mlp), 0.0),
        case(67, 5, 33, Mix::All(Function::Mlp), 0.0),
        case(128, 4, 16, Mix::All(Function::Mlp), 0.0),
        case(64, 16, 33, Mix::All(Function::Mlp), 100.0),
        case(9, 9, 33, Mix::All(Function::Mlp), 0.0),
        case(64, 16, 64, Mix::All(Function::ResidualScale), 0.0),
        case(51, 7, 33, Mix::All(Function::ResidualScale), 1000.0),
        case(12, 1, 33, Mix::All(adapter(16)), 0.0),
    ];
    for rows in [1, 7, 33, 64, 513] {
        cases.push(case(203, 41, rows, Mix::Stages, 0.0));
    }
    for width in [44, 45, 60, 97, 131, 187, 352] {
        cases.push(case(width, 22, 33, Mix::Stages, 0.0));
        cases.push(case(width, 11, 20, Mix::Stages, 10.0));
    }
    cases
}

/// Hold a backend against the reference: forward with and without telemetry, and backward.
///
/// # Errors
/// If the backend fails, finds values that are not finite, or gives another y with telemetry than without.
pub fn compare(backend: &mut dyn Backend, case: &Case) -> Result<Errors, String> {
    let sample = case.make();
    backend.load(&sample.view(), Changed::All).map_err(|error| error.to_string())?;
    sample.compare(backend)
}

impl Case {
    /// Make the layer.
    ///
    /// # Panics
    /// If the chunks do not tile the layer.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a case that cannot be made is a mistake in a test")]
    pub fn make(&self) -> Sample {
        let chunks = Chunks::new(self.width, self.seeds).expect("chunks that tile the layer");
        let mut random = ChaCha8Rng::seed_from_u64(self.random_seed);
        let (functions, state, alpha) = self.mix.stages(self.seeds, &mut random);
        let blueprints = functions.into_iter().map(|function| Arc::new(Blueprint::new(function.kind(), function)));
        let blueprints: Vec<_> = blueprints.collect();
        let weights = (0..self.seeds).map(|seed| {
            let blueprint = usize::try_from(state[seed].blueprint).ok().map(|at| &blueprints[at]);
            blueprint.map_or_else(Vec::new, |it| grown(it.function, chunks.width_of(seed), &mut random))
        });
        let weights = weights.collect();
        let x = self.input(&chunks, &mut random);
        let dy = (0..x.len()).map(|_| StandardNormal.sample(&mut random)).collect();
        Sample { chunks, state, alpha, weights, blueprints, rows: self.rows, x, dy }
    }

    fn input(&self, chunks: &Chunks, random: &mut ChaCha8Rng) -> Vec<f32> {
        let offsets: Vec<f32> = (0..self.seeds)
            .flat_map(|seed| std::iter::repeat_n(self.offset * (1.0 + random.random::<f32>()), chunks.width_of(seed)))
            .collect();
        let dead: Vec<bool> = (0..self.width).map(|_| self.offset == 0.0 && random.random_bool(0.05)).collect();
        let mut value = |at: usize| {
            let column = at % self.width;
            let unit: f32 = StandardNormal.sample(random);
            if dead[column] || self.offset == 0.0 && unit > 1.8 { 0.0 } else { unit + offsets[column] }
        };
        (0..self.rows * self.width).map(&mut value).collect()
    }
}

impl Mix {
    fn stages(&self, seeds: usize, random: &mut ChaCha8Rng) -> (Vec<Function>, Vec<SeedState>, Vec<f32>) {
        let seed_state = |stage: Lifecycle, blueprint: i32| {
            let mut state = SeedState::DORMANT;
            state.enter(stage);
            state.blueprint = blueprint;
            state
        };
        let share = |share: f64, function: Function, random: &mut ChaCha8Rng| {
            let computing: Vec<bool> = (0..seeds).map(|_| random.random_bool(share)).collect();
            let state = computing
                .iter()
                .map(|&computes| if computes { seed_state(Lifecycle::Grafting, 0) } else { SeedState::DORMANT });
            (
                vec![function],
                state.collect(),
                computing.iter().map(|&computes| if computes { 0.5 } else { 0.0 }).collect(),
            )
        };
        match *self {
            Self::Dormant => (Vec::new(), vec![SeedState::DORMANT; seeds], vec![0.0; seeds]),
            Self::Share(part, function) => share(f64::from(part), function, random),
            Self::All(function) => share(1.0, function, random),
            Self::Stages => {
                let functions = vec![
                    Function::Adapter { rank: 16 },
                    Function::Mlp,
                    Function::ResidualScale,
                    Function::Adapter { rank: 5 },
                ];
                let state = (0..seeds).map(|seed| {
                    let stage = Lifecycle::ALL[seed % Lifecycle::ALL.len()];
                    seed_state(stage, if stage == Lifecycle::Dormant { -1 } else { random.random_range(0..4) })
                });
                let state: Vec<SeedState> = state.collect();
                let alphas = [1.0, 0.0, 0.25, 0.7];
                (functions, state, (0..seeds).map(|_| alphas[random.random_range(0..4)]).collect())
            }
        }
    }
}

/// Weights as if trained: none of them zero, of the spread that fresh matrices have.
fn grown(function: Function, width: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    #[allow(clippy::cast_precision_loss, reason = "widths are small")]
    let plain = 0.5 / (width as f32).sqrt();
    let mut weights = Vec::with_capacity(function.weights(width));
    for part in function.layout(width) {
        let spread = if part.spread == 0.0 { plain } else { part.spread };
        weights.extend((0..part.length).map(|_| {
            let unit: f32 = StandardNormal.sample(random);
            part.middle + spread * unit
        }));
    }
    weights
}

impl Sample {
    /// As a backend sees it.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            chunks: self.chunks,
            state: &self.state,
            alpha: &self.alpha,
            weights: &self.weights,
            blueprints: &self.blueprints,
        }
    }

    /// Hold a backend that has loaded this layer against the reference.
    ///
    /// # Errors
    /// As [`compare`].
    pub fn compare(&self, backend: &mut dyn Backend) -> Result<Errors, String> {
        let text = |error: crate::Error| error.to_string();
        let (mut y, mut plain, mut dx) =
            (vec![f32::NAN; self.x.len()], vec![f32::NAN; self.x.len()], vec![f32::NAN; self.x.len()]);
        let (mut telemetry, mut gradients) = (Telemetry::default(), Vec::new());
        let first = backend.forward(&self.x, self.rows, &mut y, Some(&mut telemetry)).map_err(text)?;
        let second = backend.forward(&self.x, self.rows, &mut plain, None).map_err(text)?;
        let third = backend.backward(&self.x, self.rows, &self.dy, &mut dx, &mut gradients).map_err(text)?;
        for (pass, name) in [(first, "forward with telemetry"), (second, "forward"), (third, "backward")] {
            if !pass.not_finite.is_empty() {
                return Err(format!("{name}: seeds {:?} are said not to be finite", pass.not_finite));
            }
        }
        if let Some(at) = (0..y.len()).find(|&at| y[at].to_bits() != plain[at].to_bits()) {
            return Err(format!("y[{at}] is {:e} with telemetry and {:e} without", y[at], plain[at]));
        }
        let right = reference::backward(&self.view(), &self.x, self.rows, &self.dy);
        Ok(Errors {
            y: self.off(&y, &reference::forward(&self.view(), &self.x, self.rows)),
            dx: self.off_beside(&dx, &right.dx, &self.dy, true),
            gradients: gradients_off(&gradients, &right)?,
            telemetry: self.telemetry_off(&y, &telemetry)?,
        })
    }

    /// The greatest error of an output y, as the head of this file counts it.
    #[must_use]
    pub fn off(&self, found: &[f32], right: &[f64]) -> f64 {
        self.off_beside(found, right, &self.x, false)
    }

    /// The greatest error of a buffer of rows × width, made from another; weights count `times` that one, or alone.
    fn off_beside(&self, found: &[f32], right: &[f64], beside: &[f32], times: bool) -> f64 {
        let view = self.view();
        let seeds = (0..self.chunks.seeds()).map(|seed| {
            let at = self.places(seed);
            let greatest_beside = at.clone().map(|at| f64::from(beside[at]).abs()).fold(0.0, f64::max);
            let weights = view.computing(seed).map_or(&[][..], |_| &self.weights[seed]);
            let weight = weights.iter().map(|weight| f64::from(weight.abs())).fold(0.0, f64::max);
            let added = f64::from(self.alpha[seed].abs()) * weight * if times { greatest_beside } else { 1.0 };
            let least = greatest_beside.max(added).max(f64::MIN_POSITIVE);
            let scale = at.clone().map(|at| right[at].abs()).fold(least, f64::max);
            greatest(at.map(|at| (f64::from(found[at]) - right[at]).abs() / scale))
        });
        greatest(seeds)
    }

    /// Where the values of a seed's chunk lie.
    fn places(&self, seed: usize) -> impl Iterator<Item = usize> + Clone {
        let (range, width) = (self.chunks.range(seed), self.chunks.width());
        (0..self.rows).flat_map(move |row| range.clone().map(move |column| row * width + column))
    }

    /// The greatest error of the statistics of this y.
    ///
    /// # Errors
    /// If there are not as many as there are seeds.
    pub fn telemetry_off(&self, y: &[f32], found: &Telemetry) -> Result<f64, String> {
        if (found.rows, found.seeds.len()) != (self.rows, self.chunks.seeds()) {
            return Err(format!("telemetry is of {} rows and {} seeds", found.rows, found.seeds.len()));
        }
        let wide: Vec<f64> = y.iter().map(|&value| f64::from(value)).collect();
        let right = reference::telemetry(&self.view(), &self.x, &wide, self.rows);
        let seeds = right.iter().zip(&found.seeds).enumerate().map(|(seed, (right, found))| {
            let dormant = self.view().computing(seed).is_none();
            if dormant && found.drift.to_bits() != 0 { f64::INFINITY } else { seed_off(right, found) }
        });
        Ok(greatest(seeds))
    }
}

impl Sample {
    /// The greatest error of the drifts of this y, relative to each, of those above 1e-9; infinite if none is.
    #[must_use]
    pub fn drift_off(&self, y: &[f32], found: &Telemetry) -> f64 {
        let wide: Vec<f64> = y.iter().map(|&value| f64::from(value)).collect();
        let right = reference::telemetry(&self.view(), &self.x, &wide, self.rows);
        let apart = |(right, found): (&SeedTelemetry, &SeedTelemetry)| {
            let (right, found) = (f64::from(right.drift), f64::from(found.drift));
            (right > 1e-9).then(|| (found - right).abs() / right)
        };
        right
            .iter()
            .zip(&found.seeds)
            .filter_map(apart)
            .reduce(|a, b| greatest([a, b].into_iter()))
            .unwrap_or(f64::INFINITY)
    }
}

fn seed_off(right: &SeedTelemetry, found: &SeedTelemetry) -> f64 {
    let apart = |a: f32, b: f32| (f64::from(a) - f64::from(b)).abs();
    let scale = f64::from(right.min.abs().max(right.max.abs())).max(f64::MIN_POSITIVE);
    greatest(
        [
            apart(right.mean, found.mean) / scale,
            apart(right.variance, found.variance) / f64::from(right.variance).max(f64::MIN_POSITIVE),
            apart(right.min, found.min) / scale,
            apart(right.max, found.max) / scale,
            apart(right.sparsity, found.sparsity),
            apart(right.dead_ratio, found.dead_ratio),
            apart(right.correlation, found.correlation),
            apart(right.drift, found.drift),
        ]
        .into_iter(),
    )
}

fn gradients_off(found: &[Vec<f32>], right: &Backward) -> Result<f64, String> {
    if found.len() != right.gradients.len() {
        return Err(format!("gradients of {} seeds where the layer has {}", found.len(), right.gradients.len()));
    }
    let mut worst = 0.0;
    for (seed, (found, magnitudes)) in found.iter().zip(&right.magnitudes).enumerate() {
        let right = &right.gradients[seed];
        if found.len() != right.len() {
            return Err(format!("seed {seed} has {} gradients where {} are due", found.len(), right.len()));
        }
        let scale = magnitudes.iter().copied().fold(1e-3, f64::max);
        worst = greatest(
            [worst, greatest(found.iter().zip(right).map(|(a, b)| (f64::from(*a) - b).abs() / scale))].into_iter(),
        );
    }
    Ok(worst)
}

/// The greatest, NaN being greater than all.
fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |most, value| if value.is_nan() || value > most { value } else { most })
}

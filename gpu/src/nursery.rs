//! Where TRAINING seeds learn apart from the host network: by denoising.
//!
//! A seed sees the columns of its chunk with noise on them, `x̃`, and its output `x̃ + f(x̃)` should be the clean `x`.
//! Plain reconstruction would be solved by the identity, which a fresh seed is; against noise the identity fails by
//! exactly the noise. What a seed can use to do better is what the columns of its chunk have in common, so the loss says
//! whether there is anything in the chunk for it to learn.
//!
//! The loss is `mean (x̃ + f(x̃) - x)² / v`, over batch × chunk; v is the mean of the columns' variances in the batch, each
//! about its own mean (a common offset of the columns must not make the loss small). So the identity scores the noise's
//! relative variance, a constant scores 1, and on n columns that all say the same a seed can come down to about an n-th
//! of the identity. A configuration with which the identity would pass the gate is refused ([`Denoising::check`]).
//!
//! The seeds of one step run side by side as a layer of their own on a second backend: their chunks gathered
//! ([`Chunks::select`]), their stage GRAFTING and their alpha 1. The host network's output never sees them.

use crate::Error;
use crate::adam::Adam;
use crate::backend::{Backend, Changed, Gradients, View};
use crate::blueprint::Blueprint;
use crate::chunks::Chunks;
use crate::state::{Lifecycle, SeedState};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// By what factor the identity's loss must exceed the gate: the loss of one epoch is a mean over noise that was drawn.
pub const IDENTITY_MARGIN: f64 = 1.25;

/// A chunk whose columns vary less than this (the mean of their variances) is dead: there is nothing to learn.
pub const VARIANCE_MIN: f64 = 1e-12;

/// The kinds of noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// Normal noise on every value; the size is its standard deviation, in deviations of the column.
    Gaussian,
    /// Values replaced by their column's mean; the size is the share of values, at most 1.
    Masking,
}

/// How TRAINING seeds are trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Denoising {
    /// The kind of noise.
    pub noise: Noise,
    /// Its size; what it counts depends on the kind.
    pub size: f32,
}

impl Default for Denoising {
    /// Normal noise of an eighth of the column's deviation: the identity scores 1/64 = 0.0156, so a seed has to take out
    /// more than a third of the noise to come under the specification's 0.01.
    fn default() -> Self {
        Self { noise: Noise::Gaussian, size: 0.125 }
    }
}

impl Denoising {
    /// What the identity scores: the noise's variance relative to the chunk's.
    #[must_use]
    pub fn identity_loss(&self) -> f64 {
        let size = f64::from(self.size);
        match self.noise {
            Noise::Gaussian => size * size,
            Noise::Masking => size,
        }
    }

    /// Check the noise against the gate that its loss must pass, `loss_max`.
    ///
    /// # Errors
    /// If the size is out of range, or so small that a seed would pass by doing nothing.
    pub fn check(&self, loss_max: f64) -> Result<(), Error> {
        let refuse =
            |problem: String| Err(Error::Config { key: "denoising.size", value: self.size.to_string(), problem });
        if !(self.size > 0.0 && self.size <= 1.0) {
            return refuse("it must be above 0 and at most 1".to_owned());
        }
        let least = loss_max * IDENTITY_MARGIN;
        if self.identity_loss() < least {
            return refuse(format!(
                "the identity would score {} and pass the gate of {loss_max}: choose it so that it scores {least} at least",
                self.identity_loss()
            ));
        }
        Ok(())
    }
}

/// A TRAINING seed, lent for one step.
#[derive(Debug)]
pub struct Pupil<'a> {
    /// Its number in the layer.
    pub seed: usize,
    /// What it grows.
    pub blueprint: Arc<Blueprint>,
    /// Its weights, which the step moves.
    pub weights: &'a mut Vec<f32>,
    /// Its optimiser.
    pub optimiser: &'a mut Adam,
}

/// What one step found of one seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Denoised {
    /// Its number in the layer.
    pub seed: usize,
    /// Its loss before the step; `None` for a dead chunk, which never passes, and where the output was not finite.
    pub loss: Option<f64>,
    /// Whether output and gradients were finite. If not, its weights and optimiser are as they were.
    pub finite: bool,
    /// The Euclidean norm of the gradients of its weights.
    pub gradient_norm: f64,
}

/// What is not of a seed but of the step: which batch this is.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    /// The layer's tiling.
    pub chunks: Chunks,
    /// The clean values, `rows × width` of the whole layer.
    pub x: &'a [f32],
    /// Rows of the batch; from one row alone no variance can be told, so all chunks of it are dead.
    pub rows: usize,
    /// The layer's epoch. With the step it names the noise: the same two give the same noise again.
    pub epoch: u64,
    /// The step within the epoch.
    pub step: u64,
}

/// Trains seeds by denoising.
pub struct Nursery {
    denoising: Denoising,
    random_seed: u64,
    backend: Box<dyn Backend>,
}

impl Nursery {
    /// A nursery on a backend of its own; the noise depends on `random_seed` (the layer's) and on each step's epoch and
    /// number.
    #[must_use]
    pub fn new(denoising: Denoising, random_seed: u64, backend: Box<dyn Backend>) -> Self {
        Self { denoising, random_seed, backend }
    }

    /// One step for all pupils, side by side. Each one's noise and result are the same whoever learns beside it.
    ///
    /// # Errors
    /// If x has not the lesson's shape or holds a value that is not finite in a pupil's chunk, the pupils do not ascend,
    /// or the device fails. Every pupil is then as it was.
    pub fn step(&mut self, lesson: &Lesson<'_>, pupils: &mut [Pupil<'_>]) -> Result<Vec<Denoised>, Error> {
        crate::backend::check_length("x", lesson.x.len(), lesson.rows, lesson.chunks.width())?;
        check_order(pupils)?;
        let seeds: Vec<usize> = pupils.iter().map(|pupil| pupil.seed).collect();
        let Some(chunks) = lesson.chunks.select(&seeds) else { return Ok(Vec::new()) };
        let mut bench = Bench::gather(lesson, chunks, &seeds)?;
        bench.spoil(self.denoising, &seeds, |seed| noise_source(self.random_seed, lesson, seed));
        // The weights are lent, not copied: a step over 100,000 seeds would copy all of them twice.
        let weights: Vec<Vec<f32>> = pupils.iter_mut().map(|pupil| std::mem::take(pupil.weights)).collect();
        let passed = self.pass(&mut bench, pupils, &weights);
        for (pupil, weights) in pupils.iter_mut().zip(weights) {
            *pupil.weights = weights;
        }
        let (gradients, not_finite) = passed?;
        Ok(learn(&bench, pupils, &gradients, &not_finite))
    }

    /// Forward and backward of all pupils: the gradients of their weights, and which of them were not finite.
    fn pass(
        &mut self,
        bench: &mut Bench,
        pupils: &[Pupil<'_>],
        weights: &[Vec<f32>],
    ) -> Result<(Gradients, Vec<usize>), Error> {
        let (state, blueprints) = roles(pupils);
        let alpha = vec![1.0; pupils.len()];
        let view = View { chunks: bench.chunks, state: &state, alpha: &alpha, weights, blueprints: &blueprints };
        self.backend.load(&view, Changed::All)?;
        let mut output = vec![0.0; bench.noisy.len()];
        let mut bad = self.backend.forward(&bench.noisy, bench.rows, &mut output, None)?.not_finite;
        let slope = bench.compare(&output);
        let (mut through, mut gradients) = (output, Gradients::new());
        let pass = self.backend.backward(&bench.noisy, bench.rows, &slope, &mut through, &mut gradients)?;
        bad.extend(pass.not_finite);
        Ok((gradients, bad))
    }
}

/// The chunks of the pupils side by side, and what is to be learnt of them.
struct Bench {
    chunks: Chunks,
    rows: usize,
    clean: Vec<f32>,
    noisy: Vec<f32>,
    /// Mean and variance of each column.
    columns: Vec<(f64, f64)>,
    /// The mean of the columns' variances, for each pupil.
    variance: Vec<f64>,
    loss: Vec<f64>,
}

impl Bench {
    fn gather(lesson: &Lesson<'_>, chunks: Chunks, seeds: &[usize]) -> Result<Self, Error> {
        let mut clean = Vec::with_capacity(lesson.rows * chunks.width());
        for row in lesson.x.chunks_exact(lesson.chunks.width()) {
            for &seed in seeds {
                clean.extend_from_slice(&row[lesson.chunks.range(seed)]);
            }
        }
        if let Some(at) = clean.iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                buffer: "x, as the training seeds see it",
                value: clean[at],
                row: at / chunks.width(),
                column: column_in_layer(lesson.chunks, chunks, seeds, at % chunks.width()),
            });
        }
        let columns: Vec<(f64, f64)> =
            (0..chunks.width()).map(|column| moments(clean.iter().skip(column).step_by(chunks.width()))).collect();
        let variance = (0..chunks.seeds())
            .map(|at| {
                let own = &columns[chunks.range(at)];
                own.iter().map(|(_, variance)| variance).sum::<f64>() / count(own.len())
            })
            .collect();
        let noisy = clean.clone();
        Ok(Self { chunks, rows: lesson.rows, clean, noisy, columns, variance, loss: vec![0.0; seeds.len()] })
    }

    /// Put noise on the clean values, each seed's from a source of its own.
    #[allow(clippy::cast_possible_truncation, reason = "the noise is put on f32")]
    fn spoil(&mut self, denoising: Denoising, seeds: &[usize], source: impl Fn(usize) -> ChaCha8Rng) {
        let width = self.chunks.width();
        for (at, &seed) in seeds.iter().enumerate() {
            let mut random = source(seed);
            let range = self.chunks.range(at);
            for row in self.noisy.chunks_exact_mut(width) {
                for (value, &(mean, variance)) in row[range.clone()].iter_mut().zip(&self.columns[range.clone()]) {
                    match denoising.noise {
                        Noise::Gaussian => {
                            let unit: f32 = StandardNormal.sample(&mut random);
                            *value += denoising.size * variance.sqrt() as f32 * unit;
                        }
                        Noise::Masking if random.random::<f32>() < denoising.size => *value = mean as f32,
                        Noise::Masking => {}
                    }
                }
            }
        }
    }

    /// Keep each pupil's loss; the result is its gradient with respect to the output. A dead chunk's gradient is zero.
    #[allow(clippy::cast_possible_truncation, reason = "gradients are f32")]
    fn compare(&mut self, output: &[f32]) -> Vec<f32> {
        let width = self.chunks.width();
        let mut slope = vec![0.0; output.len()];
        for at in 0..self.chunks.seeds() {
            let scale = count(self.rows * self.chunks.width_of(at)) * self.variance[at];
            if self.variance[at] < VARIANCE_MIN {
                continue;
            }
            let mut sum = 0.0;
            for row in 0..self.rows {
                for place in row * width + self.chunks.start_of(at)..row * width + self.chunks.range(at).end {
                    let error = f64::from(output[place]) - f64::from(self.clean[place]);
                    sum += error * error;
                    slope[place] = (2.0 * error / scale) as f32;
                }
            }
            self.loss[at] = sum / scale;
        }
        slope
    }
}

/// One step of Adam for every pupil whose chunk lives and whose pass was finite.
fn learn(bench: &Bench, pupils: &mut [Pupil<'_>], gradients: &Gradients, not_finite: &[usize]) -> Vec<Denoised> {
    let one = |(at, pupil): (usize, &mut Pupil<'_>)| {
        let alive = bench.variance[at] >= VARIANCE_MIN;
        let norm = gradients[at].iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let finite = !not_finite.contains(&at) && bench.loss[at].is_finite() && norm.is_finite();
        let stepped =
            alive && finite && pupil.optimiser.step(pupil.weights, &gradients[at], pupil.blueprint.denoising_rate);
        Denoised {
            seed: pupil.seed,
            loss: (alive && finite).then_some(bench.loss[at]),
            finite: finite && (stepped || !alive),
            gradient_norm: if norm.is_finite() { norm } else { 0.0 },
        }
    };
    pupils.iter_mut().enumerate().map(one).collect()
}

/// State rows and the list of blueprints for a layer of pupils alone; equal blueprints are listed once.
fn roles(pupils: &[Pupil<'_>]) -> (Vec<SeedState>, Vec<Arc<Blueprint>>) {
    let mut blueprints: Vec<Arc<Blueprint>> = Vec::new();
    let mut state = Vec::with_capacity(pupils.len());
    for pupil in pupils {
        let known = blueprints.iter().position(|known| Arc::ptr_eq(known, &pupil.blueprint));
        let number = known.unwrap_or_else(|| {
            blueprints.push(pupil.blueprint.clone());
            blueprints.len() - 1
        });
        let mut row = SeedState::DORMANT;
        row.enter(Lifecycle::Grafting);
        row.blueprint = i32::try_from(number).unwrap_or(i32::MAX);
        state.push(row);
    }
    (state, blueprints)
}

fn check_order(pupils: &[Pupil<'_>]) -> Result<(), Error> {
    match pupils.windows(2).find(|pair| pair[0].seed >= pair[1].seed) {
        None => Ok(()),
        Some(pair) => Err(Error::Weights {
            seed: pair[1].seed,
            problem: format!("it comes after seed {}: seeds in training are given in ascending order", pair[0].seed),
        }),
    }
}

/// The source of one seed's noise in one step.
fn noise_source(random_seed: u64, lesson: &Lesson<'_>, seed: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    let parts = [random_seed, lesson.epoch, lesson.step, u64::from_le_bytes(*b"denoise.")];
    for (place, part) in key.chunks_exact_mut(8).zip(parts) {
        place.copy_from_slice(&part.to_le_bytes());
    }
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(seed as u64);
    random
}

/// Where a column of the gathered layer stands in the whole one.
fn column_in_layer(layer: Chunks, gathered: Chunks, seeds: &[usize], column: usize) -> usize {
    let at = (0..seeds.len()).find(|&at| gathered.range(at).contains(&column)).unwrap_or(0);
    layer.start_of(seeds[at]) + column - gathered.start_of(at)
}

/// Mean and population variance, in two passes.
fn moments<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> (f64, f64) {
    let length = count(values.clone().count());
    let mean = values.clone().map(|&value| f64::from(value)).sum::<f64>() / length;
    (mean, values.map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / length)
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(length: usize) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests;

//! The passes of a batch: forward, backward, a step of the optimiser; and what happens when a seed's output is not
//! finite.

use crate::Error;
use crate::backend::{Pass, View, check_length};
use crate::chunks::Chunks;
use crate::layer::Layer;
use crate::layer::store::Store;
use crate::nursery::{Denoised, Lesson, Nursery, Pupil};
use crate::reference;
use crate::state::{Lifecycle, SeedState};
use crate::telemetry::SeedTelemetry;
use std::time::Instant;

impl Layer {
    /// One pass of `rows` rows of x; y gets the output. The statistics are kept, merged over the epoch. A seed whose
    /// output is not finite though x is gives `y = x` on its chunk, counts an error and signals an instability.
    ///
    /// # Errors
    /// If a length is wrong, x holds a value that is not finite, or the device fails. The layer is then as before; y
    /// may hold anything.
    pub fn forward(&mut self, x: &[f32], rows: usize, y: &mut [f32]) -> Result<(), Error> {
        self.check_lengths(rows, &[("x", x.len()), ("y", y.len())])?;
        if rows == 0 {
            return Ok(());
        }
        let begun = Instant::now();
        self.changes.load(self.backend.as_mut(), &self.store.view())?;
        let pass = self.backend.forward(x, rows, y, Some(&mut self.running.pass))?;
        let failed = self.put_through(&pass, x, rows, y)?;
        for seed in failed {
            self.store.fail(seed, "its output is not finite");
            if let Some(found) = self.running.pass.seeds.get_mut(seed) {
                *found = asleep(self.store.chunks, seed, x, rows);
            }
        }
        self.running.telemetry.merge(&self.running.pass, &self.store.chunks);
        #[allow(clippy::cast_possible_truncation, reason = "milliseconds are kept as f32")]
        let took_ms = (begun.elapsed().as_secs_f64() * 1e3) as f32;
        self.running.slowest_ms = self.running.slowest_ms.max(took_ms);
        Ok(())
    }

    /// [`Self::forward`] without statistics, and without counting errors.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn infer(&mut self, x: &[f32], rows: usize, y: &mut [f32]) -> Result<(), Error> {
        self.check_lengths(rows, &[("x", x.len()), ("y", y.len())])?;
        if rows == 0 {
            return Ok(());
        }
        self.changes.load(self.backend.as_mut(), &self.store.view())?;
        let pass = self.backend.forward(x, rows, y, None)?;
        self.put_through(&pass, x, rows, y).map(drop)
    }

    /// From the gradient `dy` of the output to `dx`, that of the input. The gradients of the seeds that learn are kept
    /// for [`Self::step`], with their norms. A seed whose gradients are not finite though x and dy are lets dy through,
    /// learns nothing from this batch, counts an error and signals an instability.
    ///
    /// # Errors
    /// If a length is wrong, x or dy holds a value that is not finite, or the device fails. The layer is then as
    /// before; dx may hold anything.
    pub fn backward(&mut self, x: &[f32], rows: usize, dy: &[f32], dx: &mut [f32]) -> Result<(), Error> {
        self.check_lengths(rows, &[("x", x.len()), ("dy", dy.len()), ("dx", dx.len())])?;
        let width = self.store.chunks.width();
        check_finite("x", x, width)?;
        check_finite("dy", dy, width)?;
        if rows == 0 {
            return Ok(());
        }
        self.changes.load(self.backend.as_mut(), &self.store.view())?;
        let incoming = &mut self.running.incoming;
        let pass = self.backend.backward(x, rows, dy, dx, incoming)?;
        incoming.resize(self.store.chunks.seeds(), Vec::new());
        for &seed in &pass.not_finite {
            copy_chunk(self.store.chunks, seed, dy, dx);
            incoming[seed].clear();
            if self.store.view().computing(seed).is_some() {
                self.store.fail(seed, "its gradients are not finite");
            }
        }
        for (seed, gradients) in incoming.iter_mut().enumerate().filter(|(_, gradients)| !gradients.is_empty()) {
            let learns = self.store.view().learns(seed);
            if learns && self.store.note_gradients(seed, gradients) {
                continue;
            }
            gradients.clear();
            if learns {
                self.store.fail(seed, "its gradients are not finite");
            }
        }
        std::mem::swap(&mut self.running.gradients, &mut self.running.incoming);
        Ok(())
    }

    /// One step of Adam for every seed that learns, with the gradients of the last [`Self::backward`], which are then
    /// used up. A seed whose gradients or weights get too great for f32 stays as it was, counts an error and signals an
    /// instability.
    ///
    /// # Errors
    /// None so far: what a seed cannot take counts as its error.
    pub fn step(&mut self) -> Result<(), Error> {
        for seed in 0..self.running.gradients.len() {
            let gradients = std::mem::take(&mut self.running.gradients[seed]);
            if gradients.is_empty() || !self.store.view().learns(seed) {
                continue;
            }
            if self.store.learn(seed, &gradients) {
                self.changes.mark(seed);
            } else {
                self.store.fail(seed, "its gradients are too great to learn from");
            }
        }
        Ok(())
    }

    /// One denoising step of all TRAINING seeds on clean x. It touches neither the output nor any other seed. A seed
    /// whose pass is not finite stays as it was, counts an error and signals an instability.
    ///
    /// # Errors
    /// If the length is wrong, x holds a value that is not finite, or the device fails. The layer is then as before.
    pub fn nourish(&mut self, x: &[f32], rows: usize) -> Result<(), Error> {
        self.check_lengths(rows, &[("x", x.len())])?;
        check_finite("x", x, self.store.chunks.width())?;
        let training = self.in_stage(Lifecycle::Training);
        if rows == 0 || training.is_empty() {
            return Ok(());
        }
        let (chunks, step) = (self.store.chunks, self.running.lesson);
        let lesson = Lesson { chunks, x, rows, epoch: self.epoch, step };
        let denoised = self.store.teach(&mut self.nursery, &lesson, &training)?;
        self.running.lesson += 1;
        for found in denoised {
            self.store.note_lesson(&found);
        }
        Ok(())
    }

    /// Blend a seed otherwise for a while, to measure the network with it and without it. Returns the alpha before;
    /// giving that back ends the trial, and so does the end of the epoch. Checkpoints hold the seed's own alpha.
    ///
    /// # Errors
    /// If there is no such seed, or alpha is not in [0, 1].
    pub fn set_alpha_for_trial(&mut self, seed: usize, alpha: f32) -> Result<f32, Error> {
        self.check_seed(seed)?;
        if !(0.0..=1.0).contains(&alpha) {
            let signal = format!("alpha {alpha} for a trial of seed {seed}");
            return Err(Error::Signal { signal, problem: "it must be in [0, 1]".to_owned() });
        }
        let before = std::mem::replace(&mut self.store.alpha[seed], alpha);
        let own = *self.trials.entry(seed).or_insert(before);
        if own.to_bits() == alpha.to_bits() {
            self.trials.remove(&seed);
        }
        self.changes.mark(seed);
        Ok(before)
    }

    /// Give every seed its own alpha again.
    pub(super) fn end_trials(&mut self) {
        for (seed, alpha) in std::mem::take(&mut self.trials) {
            self.store.alpha[seed] = alpha;
            self.changes.mark(seed);
        }
    }

    fn check_lengths(&self, rows: usize, buffers: &[(&'static str, usize)]) -> Result<(), Error> {
        buffers.iter().try_for_each(|&(name, length)| check_length(name, length, rows, self.store.chunks.width()))
    }

    /// Where a chunk of y is not finite: if x is at fault, say so; else let x through there. Returns the seeds at
    /// fault.
    fn put_through(&self, pass: &Pass, x: &[f32], rows: usize, y: &mut [f32]) -> Result<Vec<usize>, Error> {
        if pass.not_finite.is_empty() {
            return Ok(Vec::new());
        }
        let chunks = self.store.chunks;
        check_finite("x", &x[..rows * chunks.width()], chunks.width())?;
        for &seed in &pass.not_finite {
            copy_chunk(chunks, seed, x, y);
        }
        let view = self.store.view();
        Ok(pass.not_finite.iter().copied().filter(|&seed| view.computing(seed).is_some()).collect())
    }
}

impl Store {
    /// One step of a seed's optimiser. Answers whether it could be made; if not, weights and optimiser are as they were.
    fn learn(&mut self, seed: usize, gradients: &[f32]) -> bool {
        let Some(rate) = self.blueprint(seed).map(|blueprint| blueprint.task_rate) else { return false };
        let (weights, optimiser) = (&mut self.weights[seed], &mut self.optimisers[seed]);
        if gradients.len() != weights.len() || gradients.len() != optimiser.len() {
            return false;
        }
        self.worn[seed] = true;
        optimiser.step(weights, gradients, rate)
    }

    /// Lend the seeds' weights and optimisers to the nursery for one step.
    fn teach(&mut self, nursery: &mut Nursery, lesson: &Lesson<'_>, seeds: &[usize]) -> Result<Vec<Denoised>, Error> {
        let mut lent: Vec<_> = seeds
            .iter()
            .filter_map(|&seed| {
                let blueprint = self.blueprint(seed)?.clone();
                let (weights, optimiser) = (&mut self.weights[seed], &mut self.optimisers[seed]);
                Some((seed, blueprint, std::mem::take(weights), std::mem::take(optimiser)))
            })
            .collect();
        let mut pupils: Vec<_> = lent
            .iter_mut()
            .map(|(seed, blueprint, weights, optimiser)| Pupil {
                seed: *seed,
                blueprint: blueprint.clone(),
                weights,
                optimiser,
            })
            .collect();
        let denoised = nursery.step(lesson, &mut pupils);
        for (seed, _, weights, optimiser) in lent {
            self.optimisers[seed] = optimiser;
            self.weights[seed] = weights;
            self.worn[seed] = true;
        }
        denoised
    }

    fn note_lesson(&mut self, found: &Denoised) {
        let tensors = self.tensors(found.seed);
        if let Some(trail) = &mut self.trails[found.seed] {
            if let Some(loss) = found.loss {
                trail.denoising.push(loss);
            }
            trail.gradient_norm = found.gradient_norm / tensors.sqrt();
            trail.gradient_norms.push(trail.gradient_norm);
        }
        if !found.finite {
            self.fail(found.seed, "its output or gradients in training are not finite");
        }
    }

    /// How many tensors a seed's weights are; 1 at least.
    #[allow(clippy::cast_precision_loss, reason = "a handful of tensors")]
    fn tensors(&self, seed: usize) -> f64 {
        let width = self.chunks.width_of(seed);
        self.blueprint(seed).map_or(1, |blueprint| blueprint.function.layout(width).len().max(1)) as f64
    }

    /// Keep the norm of a seed's gradients. Answers whether it is finite.
    fn note_gradients(&mut self, seed: usize, gradients: &[f32]) -> bool {
        let squares: f64 = gradients.iter().map(|&gradient| f64::from(gradient).powi(2)).sum();
        let norm = (squares / self.tensors(seed)).sqrt();
        if let Some(trail) = self.trails[seed].as_mut().filter(|_| norm.is_finite()) {
            trail.gradient_norm = norm;
            trail.gradient_norms.push(norm);
        }
        norm.is_finite()
    }
}

/// # Errors
/// Names the first value, row by row, that is not finite.
pub(super) fn check_finite(buffer: &'static str, values: &[f32], width: usize) -> Result<(), Error> {
    let bad = values.iter().position(|value| !value.is_finite());
    bad.map_or(Ok(()), |at| Err(Error::NotFinite { buffer, value: values[at], row: at / width, column: at % width }))
}

fn copy_chunk(chunks: Chunks, seed: usize, from: &[f32], to: &mut [f32]) {
    let (width, range) = (chunks.width(), chunks.range(seed));
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
        to[range.clone()].copy_from_slice(&from[range.clone()]);
    }
}

/// The statistics of a chunk where `y = x`. Rare, so the plain definition will do.
fn asleep(chunks: Chunks, seed: usize, x: &[f32], rows: usize) -> SeedTelemetry {
    let Ok(one) = Chunks::new(chunks.width_of(seed), 1) else { return SeedTelemetry::default() };
    let values: Vec<f32> =
        x.chunks_exact(chunks.width()).flat_map(|row| row[chunks.range(seed)].iter().copied()).collect();
    let wide: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
    let view =
        View { chunks: one, state: &[SeedState::DORMANT], alpha: &[0.0], weights: &[Vec::new()], blueprints: &[] };
    reference::telemetry(&view, &values, &wide, rows)[0]
}

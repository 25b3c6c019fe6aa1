//! The host network of the demonstration: a small classifier with a place for a layer in its middle.
//!
//! `linear → relu → [layer] → linear → softmax`. It is trained by itself until it stops getting better, then frozen: from
//! then on no weight of it changes, and only the seeds in the layer can learn. All its sums run in one fixed order on one
//! thread, so the same input gives the same bits everywhere on one machine.

use crate::Error;
use crate::adam::Adam;
use crate::digits::{Dataset, Split};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// What of the host network is trained before it is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// The readout alone; the hidden units keep their random input weights.
    Readout,
    /// Everything.
    Everything,
}

/// How the host network is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// What of it.
    pub trained: Trained,
    /// Step size of Adam.
    pub rate: f32,
    /// Epochs at most.
    pub epochs_max: u64,
    /// How many epochs without a better validation loss end it.
    pub patience: u64,
    /// Standard deviation of the noise on every feature of a training row, drawn anew for every batch. The layer's seeds
    /// are trained on rows with the same noise: without it they learn the rows by heart.
    pub noise: f32,
}

impl Default for Training {
    fn default() -> Self {
        Self { trained: Trained::Readout, rate: 0.005, epochs_max: 400, patience: 20, noise: 0.25 }
    }
}

/// `y = x W + b`, the matrix input-major.
#[derive(Debug, Clone, PartialEq)]
struct Linear {
    inputs: usize,
    matrix: Vec<f32>,
    bias: Vec<f32>,
}

/// How a batch fared.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of rows whose greatest logit is the label's.
    pub accuracy: f64,
    /// For each row whether it was right.
    pub right: Vec<bool>,
}

/// Gradients of all weights of a [`Network`].
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkGradients {
    first: (Vec<f32>, Vec<f32>),
    second: (Vec<f32>, Vec<f32>),
}

/// The classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    first: Linear,
    second: Linear,
    frozen: bool,
}

impl Network {
    /// Fresh weights from a random seed: He's for the hidden units, with biases in (-1, 0], so that each is at rest for
    /// more than half of all inputs about 0.
    #[must_use]
    pub fn new(features: usize, hidden: usize, classes: usize, random_seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(random_seed);
        let mut first = Linear::fresh(features, hidden, 2.0, &mut random);
        for bias in &mut first.bias {
            *bias = -random.random::<f32>();
        }
        let second = Linear::fresh(hidden, classes, 1.0, &mut random);
        Self { first, second, frozen: false }
    }

    /// Whether no weight can change any more.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// All weights: to compare networks by.
    pub fn weights(&self) -> impl Iterator<Item = f32> {
        let parts = [&self.first.matrix, &self.first.bias, &self.second.matrix, &self.second.bias];
        parts.into_iter().flatten().copied()
    }

    /// The hidden activations of rows of features: what a layer gets.
    #[must_use]
    pub fn hidden(&self, x: &[f32]) -> Vec<f32> {
        let mut hidden = self.first.apply(x);
        for value in &mut hidden {
            *value = value.max(0.0);
        }
        hidden
    }

    /// The logits of hidden activations, as the layer left them.
    #[must_use]
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        self.second.apply(hidden)
    }

    /// The gradient of the hidden activations from that of the logits.
    #[must_use]
    pub fn logits_back(&self, dlogits: &[f32]) -> Vec<f32> {
        self.second.back(dlogits)
    }

    /// The gradients of all weights. `hidden` is what the layer got, `after` what it gave; `dlogits` and `dhidden` are the
    /// gradients of the logits and of `hidden`.
    #[must_use]
    pub fn gradients(
        &self,
        x: &[f32],
        hidden: &[f32],
        after: &[f32],
        dlogits: &[f32],
        dhidden: &[f32],
    ) -> NetworkGradients {
        let through: Vec<f32> =
            dhidden.iter().zip(hidden).map(|(&slope, &value)| if value > 0.0 { slope } else { 0.0 }).collect();
        NetworkGradients { first: self.first.gradients(x, &through), second: self.second.gradients(after, dlogits) }
    }

    /// Train on the training rows until the validation loss stops falling, keep the best weights, and freeze. Returns how
    /// many epochs the best took.
    ///
    /// # Errors
    /// If the network is frozen already, or a value of the training is out of range.
    pub fn train(&mut self, data: &Dataset, training: &Training, batch: usize, random_seed: u64) -> Result<u64, Error> {
        training.check()?;
        if self.frozen {
            return Err(Error::Data { name: data.name.clone(), problem: "the network is frozen already".to_owned() });
        }
        let mut optimisers = Optimisers::of(self);
        let mut best = (f64::INFINITY, 0, self.clone());
        for epoch in 1..=training.epochs_max {
            for (number, rows) in batches(data.training.rows(), batch, random_seed, epoch).iter().enumerate() {
                let (mut x, labels) = gather(&data.training, rows, data.features);
                add_noise(&mut x, training.noise, random_seed, epoch, number);
                self.learn(&x, &labels, training, &mut optimisers);
            }
            let loss = scores(&self.logits(&self.hidden(&data.validation.x)), &data.validation.labels).loss;
            if loss < best.0 {
                best = (loss, epoch, self.clone());
            } else if epoch - best.1 >= training.patience {
                break;
            }
        }
        *self = best.2;
        self.frozen = true;
        Ok(best.1)
    }

    fn learn(&mut self, x: &[f32], labels: &[u8], training: &Training, optimisers: &mut Optimisers) {
        let hidden = self.hidden(x);
        let dlogits = slope(&self.logits(&hidden), labels);
        let dhidden = self.second.back(&dlogits);
        let gradients = self.gradients(x, &hidden, &hidden, &dlogits, &dhidden);
        optimisers.second.step(&mut self.second, &gradients.second, training.rate);
        if training.trained == Trained::Everything {
            optimisers.first.step(&mut self.first, &gradients.first, training.rate);
        }
    }
}

impl Training {
    /// Check that every value is in its range.
    ///
    /// # Errors
    /// Names the value that is not.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key, value: String, problem: &str| Err(Error::Config { key, value, problem: problem.to_owned() });
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            return refuse("network.rate", self.rate.to_string(), "it must be above 0");
        }
        if !(self.noise >= 0.0 && self.noise.is_finite()) {
            return refuse("network.noise", self.noise.to_string(), "it must be 0 or above");
        }
        if self.epochs_max == 0 || self.patience == 0 {
            let value = format!("{} and {}", self.epochs_max, self.patience);
            return refuse("network.epochs_max and network.patience", value, "both must be 1 at least");
        }
        Ok(())
    }
}

struct Optimisers {
    first: Pair,
    second: Pair,
}

struct Pair {
    matrix: Adam,
    bias: Adam,
}

impl Optimisers {
    fn of(network: &Network) -> Self {
        let pair = |part: &Linear| Pair { matrix: Adam::new(part.matrix.len()), bias: Adam::new(part.bias.len()) };
        Self { first: pair(&network.first), second: pair(&network.second) }
    }
}

impl Pair {
    fn step(&mut self, part: &mut Linear, (matrix, bias): &(Vec<f32>, Vec<f32>), rate: f32) {
        self.matrix.step(&mut part.matrix, matrix, rate);
        self.bias.step(&mut part.bias, bias, rate);
    }
}

impl Linear {
    #[allow(clippy::cast_precision_loss, reason = "widths are small")]
    fn fresh(inputs: usize, outputs: usize, gain: f32, random: &mut ChaCha8Rng) -> Self {
        let spread = (gain / inputs as f32).sqrt();
        let mut normal = || -> f32 { StandardNormal.sample(random) };
        let matrix = (0..inputs * outputs).map(|_| spread * normal()).collect();
        Self { inputs, matrix, bias: vec![0.0; outputs] }
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let outputs = self.bias.len();
        let mut y = Vec::with_capacity(x.len() / self.inputs * outputs);
        for row in x.chunks_exact(self.inputs) {
            let start = y.len();
            y.extend_from_slice(&self.bias);
            for (&value, weights) in row.iter().zip(self.matrix.chunks_exact(outputs)) {
                for (y, &weight) in y[start..].iter_mut().zip(weights) {
                    *y += value * weight;
                }
            }
        }
        y
    }

    fn back(&self, dy: &[f32]) -> Vec<f32> {
        let outputs = self.bias.len();
        let one =
            |(weights, row): (&[f32], &[f32])| weights.iter().zip(row).map(|(weight, slope)| weight * slope).sum();
        dy.chunks_exact(outputs)
            .flat_map(|row| self.matrix.chunks_exact(outputs).map(move |weights| one((weights, row))))
            .collect()
    }

    fn gradients(&self, x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let outputs = self.bias.len();
        let (mut matrix, mut bias) = (vec![0.0; self.matrix.len()], vec![0.0; outputs]);
        for (row, slopes) in x.chunks_exact(self.inputs).zip(dy.chunks_exact(outputs)) {
            for (sum, &slope) in bias.iter_mut().zip(slopes) {
                *sum += slope;
            }
            for (&value, sums) in row.iter().zip(matrix.chunks_exact_mut(outputs)) {
                for (sum, &slope) in sums.iter_mut().zip(slopes) {
                    *sum += value * slope;
                }
            }
        }
        (matrix, bias)
    }
}

/// How logits fare against labels.
///
/// # Panics
/// If there are no labels, or not as many rows of logits.
#[must_use]
pub fn scores(logits: &[f32], labels: &[u8]) -> Scores {
    let (mut loss, mut right) = (0.0, Vec::with_capacity(labels.len()));
    for (row, &label) in logits.chunks_exact(classes(logits, labels)).zip(labels) {
        loss -= shares(row)[usize::from(label)].max(f64::MIN_POSITIVE).ln();
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
        right.push(best == Some(usize::from(label)) && row[usize::from(label)].is_finite());
    }
    let accuracy = count(right.iter().filter(|&&right| right).count()) / count(labels.len());
    Scores { loss: loss / count(labels.len()), accuracy, right }
}

/// The gradient of the mean cross-entropy with respect to the logits.
///
/// # Panics
/// As [`scores`].
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "gradients are f32")]
pub fn slope(logits: &[f32], labels: &[u8]) -> Vec<f32> {
    let rows = count(labels.len());
    let mut slopes = Vec::with_capacity(logits.len());
    for (row, &label) in logits.chunks_exact(classes(logits, labels)).zip(labels) {
        let share = shares(row).into_iter().enumerate();
        slopes.extend(share.map(|(k, share)| ((share - f64::from(u8::from(k == usize::from(label)))) / rows) as f32));
    }
    slopes
}

fn classes(logits: &[f32], labels: &[u8]) -> usize {
    assert!(!labels.is_empty() && logits.len().is_multiple_of(labels.len()), "one row of logits for each label");
    logits.len() / labels.len()
}

/// Softmax, with the greatest logit taken out first.
fn shares(row: &[f32]) -> Vec<f64> {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = row.iter().map(|&logit| (f64::from(logit) - f64::from(greatest)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The rows of each batch of an epoch, shuffled by the random seed and the epoch. The last batch may be smaller.
#[must_use]
pub fn batches(rows: usize, batch: usize, random_seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(random_seed);
    random.set_stream(epoch);
    let mut order: Vec<usize> = (0..rows).collect();
    // Fisher and Yates by hand, so that no version of a library decides the order.
    for last in (1..rows).rev() {
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is at most `last`")]
        order.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
    }
    order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
}

/// Some rows of a split, side by side.
#[must_use]
pub fn gather(split: &Split, rows: &[usize], features: usize) -> (Vec<f32>, Vec<u8>) {
    let x = rows.iter().flat_map(|&row| &split.x[row * features..(row + 1) * features]).copied().collect();
    (x, rows.iter().map(|&row| split.labels[row]).collect())
}

/// Put normal noise on the features of one batch, named by epoch and number.
pub fn add_noise(x: &mut [f32], deviation: f32, random_seed: u64, epoch: u64, number: usize) {
    if deviation == 0.0 {
        return;
    }
    let mut key = [0; 32];
    for (place, part) in
        key.chunks_exact_mut(8).zip([random_seed, epoch, number as u64, u64::from_le_bytes(*b"features")])
    {
        place.copy_from_slice(&part.to_le_bytes());
    }
    let mut random = ChaCha8Rng::from_seed(key);
    for value in x {
        let unit: f32 = StandardNormal.sample(&mut random);
        *value += deviation * unit;
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(length: usize) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests;

//! The nursery on the reference backend: what passes its gate, and what never must.

use super::*;
use crate::blueprint::Function;
use crate::reference::Plain;

const ROWS: usize = 96;

/// Three chunks of four columns: all columns of the first say the same, those of the second are independent, and the
/// third is constant, though its columns differ.
fn batch(step: u64) -> (Chunks, Vec<f32>) {
    let mut random = ChaCha8Rng::seed_from_u64(step);
    let mut normal = || -> f32 { StandardNormal.sample(&mut random) };
    let mut x = Vec::new();
    for _ in 0..ROWS {
        let common = normal();
        x.extend([1.0 + common, common, 2.0 - common, common]);
        x.extend([normal(), normal(), normal(), normal()]);
        x.extend([1.0, 2.0, 3.0, 4.0]);
    }
    (Chunks::new(12, 3).unwrap(), x)
}

struct Class {
    weights: Vec<Vec<f32>>,
    optimisers: Vec<Adam>,
    blueprint: Arc<Blueprint>,
    nursery: Nursery,
}

impl Class {
    fn new(denoising: Denoising) -> Self {
        let blueprint = Arc::new(Blueprint::new("adapter-8", Function::Adapter { rank: 8 }));
        let weights: Vec<_> = (0..3).map(|seed| blueprint.fresh_weights(4, seed)).collect();
        let optimisers = weights.iter().map(|weights| Adam::new(weights.len())).collect();
        Self { weights, optimisers, blueprint, nursery: Nursery::new(denoising, 7, Box::new(Plain::default())) }
    }

    fn teach(&mut self, seeds: &[usize], step: u64, x: &[f32]) -> Result<Vec<Denoised>, Error> {
        let (chunks, _) = batch(0);
        let lesson = Lesson { chunks, x, rows: x.len() / chunks.width(), epoch: 0, step };
        let mut pupils = Vec::new();
        for (seed, (weights, optimiser)) in self.weights.iter_mut().zip(&mut self.optimisers).enumerate() {
            if seeds.contains(&seed) {
                pupils.push(Pupil { seed, blueprint: self.blueprint.clone(), weights, optimiser });
            }
        }
        self.nursery.step(&lesson, &mut pupils)
    }
}

#[test]
fn the_identity_scores_the_noise_and_does_not_pass() {
    for (denoising, expected) in
        [(Denoising::default(), 1.0 / 64.0), (Denoising { noise: Noise::Masking, size: 0.05 }, 0.05)]
    {
        // Fresh weights: the seed is the identity. The mean over many batches is exact to a few per cent.
        let scores: Vec<f64> = (0..60)
            .map(|step| Class::new(denoising).teach(&[1], step, &batch(step).1).unwrap()[0].loss.unwrap())
            .collect();
        let score = scores.iter().sum::<f64>() / count(scores.len());
        assert!((score / expected - 1.0).abs() < 0.06, "{denoising:?}: {score} against {expected}");
        assert!((denoising.identity_loss() - expected).abs() < 1e-6);
        assert!(score > 0.01 * 1.2);
    }
}

#[test]
fn what_the_columns_are_offset_by_does_not_make_the_loss_small() {
    let score = |offset: f32| {
        let mut x = batch(0).1;
        x.chunks_exact_mut(12).for_each(|row| row[4] += offset);
        Class::new(Denoising::default()).teach(&[1], 0, &x).unwrap()[0].loss.unwrap()
    };
    assert!((score(1000.0) / score(0.0) - 1.0).abs() < 1e-2, "{} against {}", score(1000.0), score(0.0));
}

#[test]
fn correlated_columns_pass_the_gate_and_independent_and_dead_ones_do_not() {
    let mut class = Class::new(Denoising::default());
    let fresh = class.weights.clone();
    let mut last = Vec::new();
    for step in 0..700 {
        let results = class.teach(&[0, 1, 2], step, &batch(step).1).unwrap();
        if step >= 650 {
            last.push(results);
        }
    }
    let mean = |at: usize| last.iter().map(|results| results[at].loss.unwrap()).sum::<f64>() / count(last.len());
    assert!(mean(0) < 0.01, "correlated: {}", mean(0));
    assert!(mean(1) > 0.0125, "independent: {}", mean(1));
    assert!(last.iter().all(|results| results[2].loss.is_none()), "a dead chunk has no loss");
    assert!(class.weights[2] == fresh[2] && class.weights[0] != fresh[0]);
}

#[test]
fn who_learns_beside_a_seed_changes_nothing_for_it() {
    let (mut alone, mut together) = (Class::new(Denoising::default()), Class::new(Denoising::default()));
    for step in 0..5 {
        let x = batch(step).1;
        let one = alone.teach(&[1], step, &x).unwrap();
        let all = together.teach(&[0, 1, 2], step, &x).unwrap();
        assert_eq!(one[0], all[1]);
    }
    assert_eq!(alone.weights[1], together.weights[1]);
    assert_eq!(alone.optimisers[1], together.optimisers[1]);
}

#[test]
fn every_step_has_a_noise_of_its_own_and_the_same_step_the_same() {
    let x = batch(0).1;
    let loss = |step: u64| Class::new(Denoising::default()).teach(&[0], step, &x).unwrap()[0].loss;
    assert_eq!(loss(3), loss(3));
    assert_ne!(loss(3), loss(4));
}

#[test]
fn noise_that_lets_the_identity_pass_is_refused() {
    assert!(Denoising::default().check(0.01).is_ok());
    for (noise, size) in [(Noise::Gaussian, 0.1), (Noise::Masking, 0.01), (Noise::Gaussian, 0.0), (Noise::Masking, 1.5)]
    {
        let error = Denoising { noise, size }.check(0.01).unwrap_err().to_string();
        assert!(error.starts_with(&format!("denoising.size = {size}")), "{error}");
    }
}

#[test]
fn one_row_and_bad_values_teach_nothing() {
    let mut class = Class::new(Denoising::default());
    let fresh = class.weights.clone();
    let mut x = batch(0).1;
    assert_eq!(class.teach(&[0], 0, &x[..12]).unwrap()[0].loss, None);
    x[12 * 5 + 9] = f32::NAN;
    assert!(class.teach(&[0, 1], 0, &x[..12]).is_ok(), "a bad value in another chunk is not this seed's");
    let error = class.teach(&[0, 2], 0, &x).unwrap_err().to_string();
    assert!(error.contains("row 5, column 9"), "{error}");
    class.weights[1][0] = f32::INFINITY;
    let x = batch(0).1;
    let result = class.teach(&[0, 1], 0, &x).unwrap();
    assert!(result[0].finite && !result[1].finite && result[1].loss.is_none());
    assert_eq!(class.optimisers[1].steps(), 0);
    assert_eq!(class.weights[2], fresh[2]);
}

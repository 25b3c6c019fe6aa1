//! What every backend's tests ask of it: all cases, samples that are hard in f32, and changes of a loaded layer.

use super::{Case, Errors, Mix, Sample, cases};
use crate::backend::{Backend, Changed};
use crate::blueprint::{Blueprint, Function};
use crate::state::{Lifecycle, SeedState};
use crate::telemetry::Telemetry;
use std::sync::Arc;

/// A layer that is hard to compute in f32, and what is asked of it.
#[derive(Debug, Clone)]
pub struct Hard {
    /// What is hard.
    pub name: &'static str,
    /// The layer with its batch.
    pub sample: Sample,
    /// How far a backend may be off: [`Errors::LIMITS`], save where the name says why not.
    pub limits: Errors,
    /// How far drifts may be off relative to themselves, where that is asked for.
    pub drift: Option<f64>,
}

/// Adapters of large x: a hidden value near zero is a sum of terms of up to 1e4, known to 1e-3 only, and there GELU bends,
/// so its slope is inexact by as much.
const BENT: Errors = Errors { dx: 5e-5, gradients: 5e-5, ..Errors::LIMITS };

const ADAPTER: Function = Function::Adapter { rank: 16 };

fn case(width: usize, seeds: usize, rows: usize, mix: Mix) -> Case {
    Case { width, seeds, rows, mix, offset: 0.0, random_seed: 5 }
}

/// The layers that are hard: values far below and above 1, columns of which one varies ten thousand times as much as the
/// others, small alphas.
#[must_use]
pub fn hard() -> Vec<Hard> {
    let mut all = Vec::new();
    let strict = |name, sample| Hard { name, sample, limits: Errors::LIMITS, drift: None };
    let large = |name, limits, sample| Hard { limits, ..strict(name, sample) };
    for mix in [Mix::Dormant, Mix::Share(0.5, ADAPTER), Mix::All(Function::ResidualScale)] {
        let limits = if matches!(mix, Mix::Share(..)) { BENT } else { Errors::LIMITS };
        let sample = case(203, 41, 70, mix.clone()).make();
        all.push(strict("x and dy of 1e-4", sample.clone().times(|_| 1e-4)));
        all.push(large("x and dy of 1e4", limits, sample.times(|_| 1e4)));
        for chunk in [2, 3, 4, 7, 8, 20] {
            let wide = |column: usize| if column % chunk == chunk - 1 { 1e4 } else { 1.0 };
            let sample = case(12 * chunk, 12, 300, mix.clone()).make();
            all.push(large("a column of each chunk varies 10,000 times as much", limits, sample.times(wide)));
        }
    }
    let mut small = case(240, 60, 300, Mix::All(ADAPTER)).make();
    small.alpha.fill(1e-3);
    all.push(Hard { drift: Some(1e-4), ..strict("alphas of 0.001", small) });
    all.push(large("an adapter whose output cancels x", BENT, cancelling()));
    all
}

/// Found by chance.
fn cancelling() -> Sample {
    let random_seed = 1_329_694_036_292_139_925;
    Case { width: 81, seeds: 50, rows: 1, mix: Mix::Share(0.3, ADAPTER), offset: 50.0, random_seed }.make()
}

impl Sample {
    /// Every column of x and dy times a factor.
    fn times(mut self, factor: impl Fn(usize) -> f32) -> Self {
        let width = self.chunks.width();
        for values in [&mut self.x, &mut self.dy] {
            values.iter_mut().enumerate().for_each(|(at, value)| *value *= factor(at % width));
        }
        self
    }
}

impl Case {
    /// What a backend must keep to in this case: [`Errors::LIMITS`], save for what f32 cannot do.
    #[must_use]
    pub fn limits(&self) -> Errors {
        match self {
            // Hidden values are sums of larger terms here, so they are known less exactly where they are near zero; there
            // GELU bends, and the error shows in its slope. A layer norm divides by the small deviation of columns that
            // are nearly the same what is left of the gradient without its mean and its part along the values.
            Self { mix: Mix::Stages, offset, .. } if *offset > 0.0 => Errors { dx: 2e-5, ..Errors::LIMITS },
            _ => Errors::LIMITS,
        }
    }
}

/// Hold a backend against the reference in all of [`cases`] and [`hard`].
///
/// # Errors
/// Names the cases that fail, and how.
pub fn agrees(backend: &mut dyn Backend) -> Result<(), String> {
    let cases = cases().into_iter().map(|case| {
        let within = super::compare(backend, &case).and_then(|errors| errors.within(&case.limits()));
        within.err().map(|problem| format!("{case:?}: {problem}"))
    });
    let mut problems: Vec<String> = cases.flatten().collect();
    for hard in hard() {
        if let Err(problem) = hard.holds(backend) {
            let sample = &hard.sample;
            problems.push(format!("{}, {:?}, {} rows: {problem}", hard.name, sample.chunks, sample.rows));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

impl Hard {
    /// Hold a backend against the reference.
    fn holds(&self, backend: &mut dyn Backend) -> Result<(), String> {
        let text = |error: crate::Error| error.to_string();
        let sample = &self.sample;
        backend.load(&sample.view(), Changed::All).map_err(text)?;
        sample.compare(backend)?.within(&self.limits)?;
        let Some(limit) = self.drift else { return Ok(()) };
        let (mut y, mut telemetry) = (vec![f32::NAN; sample.x.len()], Telemetry::default());
        backend.forward(&sample.x, sample.rows, &mut y, Some(&mut telemetry)).map_err(text)?;
        let off = sample.drift_off(&y, &telemetry);
        // Not `off > limit`: that would let a NaN pass.
        if off.le(&limit) {
            Ok(())
        } else {
            Err(format!("drift is off by {off:e} of itself, at most {limit:e} is allowed"))
        }
    }
}

/// What is done to a seed.
type Change = fn(&mut Sample, usize);

/// Every way to change a seed that computes, in this order.
const CHANGES: [(&str, Change); 9] = [
    ("weights and alpha", |sample, seed| {
        sample.alpha[seed] = 0.125;
        sample.weights[seed].iter_mut().for_each(|weight| *weight *= 0.5);
    }),
    ("weights alone", |sample, seed| sample.weights[seed].iter_mut().for_each(|weight| *weight *= -1.5)),
    ("alpha to 0", |sample, seed| sample.alpha[seed] = 0.0),
    ("alpha from 0", |sample, seed| sample.alpha[seed] = 0.75),
    ("another blueprint", |sample, seed| sample.grow(seed, (sample.state[seed].blueprint + 1) % 4)),
    ("no longer learning", |sample, seed| sample.state[seed].enter(Lifecycle::Fossilized)),
    ("learning again", |sample, seed| sample.state[seed].enter(Lifecycle::FineTuning)),
    ("no longer contributing", |sample, seed| sample.state[seed].enter(Lifecycle::Training)),
    ("contributing again", |sample, seed| sample.state[seed].enter(Lifecycle::Grafting)),
];

/// Change some seeds of a loaded layer, in every way there is, and hold the backend against the reference after each.
///
/// # Errors
/// Names the change after which it fails, and how.
pub fn changes_agree(backend: &mut dyn Backend) -> Result<(), String> {
    let mut sample = case(203, 41, 20, Mix::Stages).make();
    backend.load(&sample.view(), Changed::All).map_err(|error| error.to_string())?;
    let computing: Vec<usize> = (0..41).filter(|&seed| sample.view().computing(seed).is_some()).collect();
    let seeds = &computing[1..4];
    for (name, change) in CHANGES {
        sample.hold_after(name, seeds, &change, backend)?;
    }
    let new = Function::Adapter { rank: 9 };
    sample.blueprints.push(Arc::new(Blueprint::new("new", new)));
    sample.hold_after("a blueprint that is new", seeds, &|sample, seed| sample.grow(seed, 4), backend)?;
    let dormant = (0..41).find(|&seed| sample.state[seed].blueprint < 0).ok_or("no seed is dormant")?;
    let both = [dormant.min(computing[2]), dormant.max(computing[2])];
    let swap = |sample: &mut Sample, seed: usize| {
        if seed == dormant {
            sample.state[seed].enter(Lifecycle::Grafting);
            sample.alpha[seed] = 0.5;
            sample.grow(seed, 0);
        } else {
            (sample.state[seed], sample.alpha[seed]) = (SeedState::DORMANT, 0.0);
            sample.weights[seed].clear();
        }
    };
    sample.hold_after("one that grows and one that falls dormant", &both, &swap, backend)
}

impl Sample {
    /// Change these seeds, in ascending order, load them, and hold the backend against the reference.
    fn hold_after(
        &mut self,
        name: &str,
        seeds: &[usize],
        change: &dyn Fn(&mut Self, usize),
        backend: &mut dyn Backend,
    ) -> Result<(), String> {
        let about = |problem: String| format!("after a change ({name}): {problem}");
        let held = |sample: &Self, seed: usize| {
            (sample.state[seed], sample.alpha[seed].to_bits(), sample.weights[seed].clone())
        };
        let mut changed = false;
        for &seed in seeds {
            let before = held(self, seed);
            change(self, seed);
            changed |= before != held(self, seed);
        }
        if !changed {
            return Err(about("nothing changed".to_owned()));
        }
        backend.load(&self.view(), Changed::Seeds(seeds)).map_err(|error| about(error.to_string()))?;
        self.compare(backend).and_then(|errors| errors.within(&Errors::LIMITS)).map_err(about)
    }

    /// Give a seed another blueprint, with weights for it.
    fn grow(&mut self, seed: usize, blueprint: i32) {
        let function = self.blueprints[usize::try_from(blueprint).unwrap_or(0)].function;
        let mut random = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(23);
        self.weights[seed] = super::grown(function, self.chunks.width_of(seed), &mut random);
        self.state[seed].blueprint = blueprint;
    }
}

//! Grafting strategies: how fast a seed is blended in. A strategy is asked once an epoch for every seed in GRAFTING and
//! says what to add to the progress of its ramp; the layer caps the sum at 1 and eases it into alpha
//! ([`crate::easing`]).
//!
//! A strategy keeps nothing of a seed: what it must know of the past is in its input, which the layer keeps with the
//! seed and its checkpoints. So a rollback or a restart leads to the same steps, and one strategy serves any number of
//! layers. [`Strategies`] is the registry by name; a host adds its own, for example a component.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// How many epochs' drifts a strategy is shown (`specs`: the last 5).
pub const DRIFTS_SHOWN: usize = 5;

/// What a strategy knows of a seed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StrategyInput {
    /// The seed's number.
    pub seed: usize,
    /// Progress of the ramp in [0, 1]: alpha before easing, which is alpha itself with the linear easing.
    pub alpha: f32,
    /// N: in how many plain steps a ramp is complete.
    pub steps: u32,
    /// Epochs in GRAFTING before the one that ends.
    pub epochs_in_state: u32,
    /// The task's loss in the epoch that ends.
    pub task_loss: f64,
    /// Drifts of the last epochs in GRAFTING, at most [`DRIFTS_SHOWN`], newest last. Epochs without a pass have none.
    pub drifts: Vec<f32>,
    /// `√(Σ‖∇p‖² / number of tensors)` of its own weights in the last training batch; 0 before the first one that
    /// reached it.
    pub gradient_norm: f64,
    /// The task's loss when this strategy was first asked for this seed; `None` on that first call.
    pub baseline_loss: Option<f64>,
    /// For how many epochs, this one included, the layer adds nothing, whatever the answer: an earlier pause.
    pub pause_left: u32,
}

impl StrategyInput {
    /// 1/N.
    #[must_use]
    pub fn unit(&self) -> f32 {
        #[allow(clippy::cast_precision_loss, reason = "ramps have few steps")]
        let steps = self.steps.max(1) as f32;
        1.0 / steps
    }
}

/// A strategy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StrategyStep {
    /// What to add to the progress of the ramp. What is not a finite number above 0 adds nothing.
    pub add: f32,
    /// For how many epochs after this one to add nothing.
    pub pause: u32,
}

impl StrategyStep {
    /// Add nothing.
    pub const HOLD: Self = Self { add: 0.0, pause: 0 };

    /// Add this.
    #[must_use]
    pub fn add(add: f32) -> Self {
        Self { add, pause: 0 }
    }
}

/// How fast a seed is blended in.
pub trait Strategy: Send {
    /// Its name, by which commands and configurations choose it.
    fn name(&self) -> &str;

    /// What to add for this seed in the epoch that ends. It cannot fail: what cannot say holds.
    fn step(&mut self, seed: &StrategyInput) -> StrategyStep;
}

/// All strategies that layers may use, by name and by number. A number stays its strategy's for the registry's life.
pub struct Strategies {
    list: Vec<(String, Shared)>,
}

/// A strategy taken out of its registry, to be asked without holding on to that: a strategy may take its time.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Box<dyn Strategy>>>);

impl Shared {
    /// Ask it.
    #[must_use]
    pub fn step(&self, seed: &StrategyInput) -> StrategyStep {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).step(seed)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Strategies {
    /// None yet.
    #[must_use]
    pub fn empty() -> Self {
        Self { list: Vec::new() }
    }

    /// The four of the specification.
    #[must_use]
    pub fn standard() -> Self {
        let mut all = Self::empty();
        all.add(Box::new(FixedRamp));
        all.add(Box::new(PerformanceLinked::default()));
        all.add(Box::new(DriftControlled::default()));
        all.add(Box::new(GradNormGated::default()));
        all
    }

    /// Add a strategy, or put it in the place of the one with its name. Returns its number.
    pub fn add(&mut self, strategy: Box<dyn Strategy>) -> usize {
        let name = strategy.name().to_owned();
        let strategy = Shared(Arc::new(Mutex::new(strategy)));
        if let Some(at) = self.list.iter().position(|(known, _)| *known == name) {
            self.list[at].1 = strategy;
            return at;
        }
        self.list.push((name, strategy));
        self.list.len() - 1
    }

    /// The number of the strategy with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(&self, name: &str) -> Result<usize, Error> {
        self.list.iter().position(|(known, _)| known == name).ok_or_else(|| Error::NoStrategy {
            asked: name.to_owned(),
            known: if self.list.is_empty() { "none".to_owned() } else { self.names().join(", ") },
        })
    }

    /// The name of the strategy with this number.
    #[must_use]
    pub fn name(&self, number: usize) -> Option<&str> {
        self.list.get(number).map(|(name, _)| name.as_str())
    }

    /// All names, by number.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.list.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The strategy with this number.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Shared> {
        self.list.get(number).map(|(_, strategy)| strategy.clone())
    }
}

impl Default for Strategies {
    fn default() -> Self {
        Self::standard()
    }
}

impl std::fmt::Debug for Strategies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// `fixed_ramp`: 1/N an epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct FixedRamp;

impl Strategy for FixedRamp {
    fn name(&self) -> &'static str {
        "fixed_ramp"
    }

    fn step(&mut self, seed: &StrategyInput) -> StrategyStep {
        StrategyStep::add(seed.unit())
    }
}

/// `performance_linked`: the first call only records the task's loss `L0`; then `(1/N) · clamp(2·max(0, L0-L)/L0,
/// 0.5, 3)`. Where `L0` is 0 or below there is nothing to gain on, and the least step is taken; a loss that is no
/// number holds.
#[derive(Debug, Clone, Copy)]
pub struct PerformanceLinked {
    /// How much a relative improvement of 1 weighs.
    pub weight: f64,
    /// The least step, in Nths.
    pub least: f64,
    /// The greatest step, in Nths.
    pub most: f64,
}

impl Default for PerformanceLinked {
    fn default() -> Self {
        Self { weight: 2.0, least: 0.5, most: 3.0 }
    }
}

impl Strategy for PerformanceLinked {
    fn name(&self) -> &'static str {
        "performance_linked"
    }

    fn step(&mut self, seed: &StrategyInput) -> StrategyStep {
        let Some(baseline) = seed.baseline_loss else { return StrategyStep::HOLD };
        if !baseline.is_finite() || !seed.task_loss.is_finite() {
            return StrategyStep::HOLD;
        }
        let gain = if baseline > 0.0 { (baseline - seed.task_loss).max(0.0) / baseline } else { 0.0 };
        #[allow(clippy::cast_possible_truncation, reason = "alpha is kept as f32")]
        let nths = (self.weight * gain).clamp(self.least, self.most) as f32;
        StrategyStep::add(seed.unit() * nths)
    }
}

/// `drift_controlled`: the mean of the last drifts below 0.06 adds 2/N, below 0.12 adds 1/N; from there on it holds and
/// pauses for 10 epochs. Where no drift was measured it holds: what is unknown is not small.
#[derive(Debug, Clone, Copy)]
pub struct DriftControlled {
    /// Below this drift the ramp goes at twice the pace.
    pub calm_below: f32,
    /// From this drift on it holds.
    pub hold_from: f32,
    /// For how many epochs it then pauses.
    pub pause_epochs: u32,
}

impl Default for DriftControlled {
    fn default() -> Self {
        Self { calm_below: 0.06, hold_from: 0.12, pause_epochs: 10 }
    }
}

impl Strategy for DriftControlled {
    fn name(&self) -> &'static str {
        "drift_controlled"
    }

    fn step(&mut self, seed: &StrategyInput) -> StrategyStep {
        if seed.pause_left > 0 || seed.drifts.is_empty() {
            return StrategyStep::HOLD;
        }
        #[allow(clippy::cast_precision_loss, reason = "a handful of drifts")]
        let mean = seed.drifts.iter().sum::<f32>() / seed.drifts.len() as f32;
        if mean < self.calm_below {
            StrategyStep::add(2.0 * seed.unit())
        } else if mean < self.hold_from {
            StrategyStep::add(seed.unit())
        } else {
            StrategyStep { add: 0.0, pause: self.pause_epochs }
        }
    }
}

/// `grad_norm_gated`: 1/N while the seed's gradient norm is in [0.1, 1.0], else hold. At alpha 0 no gradient reaches the
/// seed, so its first step is taken without asking; else no ramp would ever begin.
#[derive(Debug, Clone, Copy)]
pub struct GradNormGated {
    /// The least norm that lets the ramp go on.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

impl Default for GradNormGated {
    fn default() -> Self {
        Self { least: 0.1, most: 1.0 }
    }
}

impl Strategy for GradNormGated {
    fn name(&self) -> &'static str {
        "grad_norm_gated"
    }

    fn step(&mut self, seed: &StrategyInput) -> StrategyStep {
        let open = seed.alpha == 0.0 || (self.least..=self.most).contains(&seed.gradient_norm);
        if open { StrategyStep::add(seed.unit()) } else { StrategyStep::HOLD }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> StrategyInput {
        StrategyInput { alpha: 0.5, steps: 30, task_loss: 1.0, ..StrategyInput::default() }
    }

    /// What a strategy adds, in Nths.
    fn nths(strategy: &mut dyn Strategy, input: &StrategyInput) -> f32 {
        strategy.step(input).add * 30.0
    }

    fn close(found: f32, expected: f32) {
        assert!((found - expected).abs() < 1e-5, "{found} against {expected}");
    }

    #[test]
    fn a_fixed_ramp_adds_one_nth() {
        close(nths(&mut FixedRamp, &input()), 1.0);
    }

    #[test]
    fn performance_sets_the_pace_within_its_bounds() {
        let mut strategy = PerformanceLinked::default();
        assert_eq!(strategy.step(&input()), StrategyStep::HOLD, "the first call only records");
        for (baseline, loss, expected) in [
            (1.0, 1.0, 0.5),
            (1.0, 5.0, 0.5),
            (1.0, 0.75, 0.5),
            (1.0, 0.5, 1.0),
            (2.0, 0.5, 1.5),
            (1.0, 0.0, 2.0),
            (1.0, -1.0, 3.0),
            (0.0, -1.0, 0.5),
        ] {
            let seed = StrategyInput { baseline_loss: Some(baseline), task_loss: loss, ..input() };
            close(nths(&mut strategy, &seed), expected);
        }
        let unknown = StrategyInput { baseline_loss: Some(1.0), task_loss: f64::NAN, ..input() };
        assert_eq!(strategy.step(&unknown), StrategyStep::HOLD);
    }

    #[test]
    fn drift_slows_the_ramp_and_then_pauses_it() {
        let mut strategy = DriftControlled::default();
        let with = |drifts: &[f32]| StrategyInput { drifts: drifts.to_vec(), ..input() };
        close(nths(&mut strategy, &with(&[0.05, 0.06])), 2.0);
        close(nths(&mut strategy, &with(&[0.06])), 1.0);
        close(nths(&mut strategy, &with(&[0.0, 0.0, 0.0, 0.0, 0.5])), 1.0);
        assert_eq!(strategy.step(&with(&[0.12])), StrategyStep { add: 0.0, pause: 10 });
        assert_eq!(strategy.step(&with(&[])), StrategyStep::HOLD);
        let paused = StrategyInput { pause_left: 3, ..with(&[0.9]) };
        assert_eq!(strategy.step(&paused), StrategyStep::HOLD, "a pause is not made longer while it lasts");
    }

    #[test]
    fn the_gradient_norm_gates_the_ramp() {
        let mut strategy = GradNormGated::default();
        for (norm, expected) in [(0.0999, 0.0), (0.1, 1.0), (1.0, 1.0), (1.001, 0.0), (f64::NAN, 0.0)] {
            close(nths(&mut strategy, &StrategyInput { gradient_norm: norm, ..input() }), expected);
        }
        close(nths(&mut strategy, &StrategyInput { alpha: 0.0, gradient_norm: 0.0, ..input() }), 1.0);
    }

    #[test]
    fn the_registry_finds_by_name_and_replaces_in_place() {
        struct Other;
        impl Strategy for Other {
            fn name(&self) -> &'static str {
                "fixed_ramp"
            }
            fn step(&mut self, _: &StrategyInput) -> StrategyStep {
                StrategyStep::add(0.25)
            }
        }
        let mut all = Strategies::standard();
        assert_eq!(all.names(), ["fixed_ramp", "performance_linked", "drift_controlled", "grad_norm_gated"]);
        let number = all.find("fixed_ramp").unwrap();
        assert_eq!(all.add(Box::new(Other)), number);
        close(all.get(number).unwrap().step(&input()).add, 0.25);
        assert!(all.get(99).is_none());
        let error = all.find("leap").unwrap_err().to_string();
        assert!(error.contains("`leap`") && error.contains("grad_norm_gated"), "{error}");
    }
}

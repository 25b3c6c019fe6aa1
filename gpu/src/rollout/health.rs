//! Monitoring: what is measured of the models on either side of a rollout, and when the candidate is too bad to go on.
//!
//! The gates compare the candidate with the incumbent over the same time, on live models. They look at means, not at
//! single passes, and forget slowly: see [`Gates::remembered`].

use crate::Error;
use serde::{Deserialize, Serialize};

/// Latencies and metrics beyond this magnitude are no measurements: they are left out, so that no mean overflows.
pub const MEASURED_MAX: f64 = 1e100;

/// Beyond this no count can be: halving keeps it near [`Gates::remembered`].
const COUNT_MAX: f64 = 1e15;

/// One pass of one model, as the host saw it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// Whether the pass failed, or answered with a value that is not finite.
    pub failed: bool,
    /// How long the pass took, in microseconds.
    pub latency_us: f64,
}

/// What was measured of one side. Sums, so that it can be merged, halved and shown.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Passes; a real number, because old ones count for less.
    pub passes: f64,
    /// Passes that failed.
    pub errors: f64,
    /// Mean latency of the passes that did not fail, in microseconds.
    pub latency_mean_us: f64,
    /// Measurements of the metric; a real number too.
    pub metrics: f64,
    /// Their mean.
    pub metric_mean: f64,
}

/// When a candidate is worse than its incumbent. One gate is enough to revert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    /// The greatest share of failed passes by which the candidate may exceed the incumbent, in [0, 1].
    pub error_rate_excess: f64,
    /// How far the candidate's mean metric may lie below the incumbent's.
    pub metric_drop: f64,
    /// The greatest ratio of the candidate's mean latency to the incumbent's.
    pub latency_ratio: f64,
    /// Passes, or measurements of the metric, on a side before its means count, and passes before the share grows.
    /// Errors count at once: as many as would still be too many after so many passes.
    pub passes_min: u32,
    /// After so many passes the counts of a side are halved, so that what is long past does not hide what happens now.
    pub remembered: u32,
}

impl Default for Gates {
    fn default() -> Self {
        Self { error_rate_excess: 0.01, metric_drop: 0.02, latency_ratio: 1.5, passes_min: 100, remembered: 10_000 }
    }
}

impl Gates {
    /// Check that every value is in its range.
    ///
    /// # Errors
    /// Names the value that is not.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key, value: f64, problem: &str| {
            Err(Error::Config { key, value: value.to_string(), problem: problem.to_owned() })
        };
        if !(0.0..=1.0).contains(&self.error_rate_excess) {
            return wrong("gates.error_rate_excess", self.error_rate_excess, "it is a share, from 0 to 1");
        }
        if !(self.metric_drop >= 0.0 && self.metric_drop.is_finite()) {
            return wrong("gates.metric_drop", self.metric_drop, "it must be 0 or above");
        }
        if !(self.latency_ratio >= 1.0 && self.latency_ratio.is_finite()) {
            return wrong("gates.latency_ratio", self.latency_ratio, "it must be 1 or above");
        }
        if self.passes_min == 0 {
            return wrong("gates.passes_min", 0.0, "it must be at least 1");
        }
        if u64::from(self.remembered) < 2 * u64::from(self.passes_min) {
            let problem = "it must be at least twice passes_min, or a side never has enough passes";
            return wrong("gates.remembered", f64::from(self.remembered), problem);
        }
        Ok(())
    }

    /// Why the candidate must go, if it must.
    #[must_use]
    pub fn failure(&self, incumbent: &Health, candidate: &Health) -> Option<String> {
        self.too_many_errors(incumbent, candidate)
            .or_else(|| self.metric_too_low(incumbent, candidate))
            .or_else(|| self.too_slow(incumbent, candidate))
    }

    fn too_many_errors(&self, incumbent: &Health, candidate: &Health) -> Option<String> {
        // Both as if after enough passes: one early failure of the incumbent must not excuse any number of the other's.
        let rate = |health: &Health| health.errors / health.passes.max(f64::from(self.passes_min));
        let allowed = rate(incumbent) + self.error_rate_excess;
        let rate = rate(candidate);
        (rate > allowed).then(|| {
            let (errors, passes) = (candidate.errors, candidate.passes);
            format!("{errors:.0} of the candidate's {passes:.0} passes failed: at most {allowed:.4} of them may")
        })
    }

    fn metric_too_low(&self, incumbent: &Health, candidate: &Health) -> Option<String> {
        let known = incumbent.metrics.min(candidate.metrics) >= f64::from(self.passes_min);
        let (ours, theirs) = (candidate.metric_mean, incumbent.metric_mean);
        (known && theirs - ours > self.metric_drop).then(|| {
            let drop = self.metric_drop;
            format!("the candidate's metric is {ours:.4}, the incumbent's {theirs:.4}: at most {drop} below is allowed")
        })
    }

    fn too_slow(&self, incumbent: &Health, candidate: &Health) -> Option<String> {
        let least = f64::from(self.passes_min);
        let known = incumbent.passed() >= least && candidate.passed() >= least && incumbent.latency_mean_us > 0.0;
        let ratio = candidate.latency_mean_us / incumbent.latency_mean_us;
        (known && ratio > self.latency_ratio).then(|| {
            let allowed = self.latency_ratio;
            format!("the candidate takes {ratio:.2} times as long as the incumbent: at most {allowed} is allowed")
        })
    }
}

impl Health {
    /// Count a pass.
    pub fn count(&mut self, sample: &Sample, remembered: u32) {
        if self.passes >= f64::from(remembered) {
            self.passes /= 2.0;
            self.errors /= 2.0;
        }
        self.passes += 1.0;
        if sample.failed {
            self.errors += 1.0;
        } else if (0.0..=MEASURED_MAX).contains(&sample.latency_us) {
            self.latency_mean_us += (sample.latency_us - self.latency_mean_us) / self.passed().max(1.0);
        }
    }

    /// Count a measurement of a model's metric; greater is better. One that is not finite, or beyond [`MEASURED_MAX`],
    /// says nothing and is left out.
    pub fn measure(&mut self, metric: f64, remembered: u32) {
        if !(-MEASURED_MAX..=MEASURED_MAX).contains(&metric) {
            return;
        }
        if self.metrics >= f64::from(remembered) {
            self.metrics /= 2.0;
        }
        self.metrics += 1.0;
        self.metric_mean += (metric - self.metric_mean) / self.metrics;
    }

    /// Check what was read back.
    pub(super) fn check(&self, key: &'static str) -> Result<(), Error> {
        let Self { passes, errors, latency_mean_us, metrics, metric_mean } = *self;
        let counts = [passes, errors, metrics].iter().all(|count| (0.0..=COUNT_MAX).contains(count));
        let means = (0.0..=MEASURED_MAX).contains(&latency_mean_us) && metric_mean.abs() <= MEASURED_MAX;
        if counts && means && errors <= passes {
            return Ok(());
        }
        let problem = "counts must be 0 or above, errors at most the passes, and means finite".to_owned();
        Err(Error::Config { key, value: format!("{self:?}"), problem })
    }

    fn passed(&self) -> f64 {
        self.passes - self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Sample = Sample { failed: false, latency_us: 100.0 };

    fn of(passes: u32, sample: Sample, metric: f64) -> Health {
        let mut health = Health::default();
        for _ in 0..passes {
            health.count(&sample, 10_000);
            health.measure(metric, 10_000);
        }
        health
    }

    fn failure(candidate: &Health) -> String {
        Gates::default().failure(&of(200, GOOD, 0.9), candidate).unwrap_or_default()
    }

    #[test]
    fn each_gate_alone_finds_what_it_is_for() {
        assert_eq!(failure(&of(200, GOOD, 0.9)), "");
        let failing = Sample { failed: true, ..GOOD };
        assert!(failure(&of(2, failing, 0.9)).starts_with("2 of the candidate's 2 passes failed"), "before passes_min");
        assert_eq!(failure(&of(1, failing, 0.9)), "", "one error is no more than 1 % of 100 passes");
        assert!(failure(&of(100, GOOD, 0.87)).contains("metric is 0.8700, the incumbent's 0.9000"));
        assert_eq!(failure(&of(99, GOOD, 0.87)), "", "too few to say");
        let slower = Sample { latency_us: 151.0, ..GOOD };
        assert!(failure(&of(100, slower, 0.9)).contains("1.51 times as long"));
        assert_eq!(failure(&of(99, slower, 0.9)), "", "too few to say");
        assert!(of(1, GOOD, f64::NAN).metrics < 1.0);
    }

    #[test]
    fn an_incumbent_with_few_passes_excuses_nothing() {
        let failing = Sample { failed: true, ..GOOD };
        let (incumbent, candidate) = (of(1, failing, 0.9), of(50, failing, 0.9));
        let why = Gates::default().failure(&incumbent, &candidate).unwrap();
        assert!(why.starts_with("50 of the candidate's 50 passes failed"), "{why}");
    }

    #[test]
    fn metrics_without_measure_are_left_out() {
        let mut health = of(3, GOOD, 0.5);
        for metric in [f64::MAX, -f64::MAX, f64::INFINITY, f64::NAN] {
            health.measure(metric, 10_000);
            health.count(&Sample { failed: false, latency_us: metric }, 10_000);
        }
        assert!((health.metric_mean - 0.5).abs() < 1e-12 && (health.latency_mean_us - 100.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let gates = Gates { passes_min: 10, remembered: 100, ..Gates::default() };
        let (mut incumbent, mut candidate) = (Health::default(), Health::default());
        for health in [&mut incumbent, &mut candidate] {
            for _ in 0..100_000 {
                health.count(&GOOD, gates.remembered);
                health.measure(0.9, gates.remembered);
            }
        }
        let mut measured = candidate;
        let until = (1..=100).find(|_| {
            measured.measure(0.0, gates.remembered);
            gates.failure(&incumbent, &measured).is_some()
        });
        assert!(until.is_some_and(|measurements| measurements < 10), "{until:?}");
        let until = (1..=100).find(|_| {
            candidate.count(&Sample { failed: true, ..GOOD }, gates.remembered);
            gates.failure(&incumbent, &candidate).is_some()
        });
        assert!(until.is_some_and(|passes| passes < 10), "{until:?}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let default = Gates::default();
        for (gates, key) in [
            (Gates { error_rate_excess: 1.5, ..default }, "gates.error_rate_excess = 1.5"),
            (Gates { metric_drop: -0.1, ..default }, "gates.metric_drop = -0.1"),
            (Gates { latency_ratio: f64::NAN, ..default }, "gates.latency_ratio = NaN"),
            (Gates { passes_min: 0, ..default }, "gates.passes_min = 0"),
            (Gates { remembered: 199, ..default }, "gates.remembered = 199"),
            (Gates { passes_min: u32::MAX, ..default }, "gates.remembered = 10000"),
        ] {
            let error = gates.check().unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert!(default.check().is_ok());
    }

    proptest! {
        #[test]
        fn a_candidate_as_good_as_the_incumbent_passes(
            samples in proptest::collection::vec((any::<bool>(), 0.0..1.0_f64, 1.0..1e6_f64), 1..500),
            remembered in 2..200_u32,
        ) {
            let gates = Gates { passes_min: 1, remembered, ..Gates::default() };
            let mut health = Health::default();
            for (failed, metric, latency_us) in samples {
                health.count(&Sample { failed, latency_us }, remembered);
                health.measure(metric, remembered);
                prop_assert!(health.passes <= f64::from(remembered) + 1.0 && health.errors <= health.passes);
                prop_assert_eq!(gates.failure(&health, &health), None);
            }
        }

        #[test]
        fn means_are_those_of_the_samples(values in proptest::collection::vec((0.0..1.0_f64, 1.0..1e4_f64), 1..300)) {
            let mut health = Health::default();
            for &(metric, latency_us) in &values {
                health.count(&Sample { failed: false, latency_us }, u32::MAX);
                health.measure(metric, u32::MAX);
            }
            #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
            let count = values.len() as f64;
            let mean = |of: fn(&(f64, f64)) -> f64| values.iter().map(of).sum::<f64>() / count;
            prop_assert!((health.metric_mean - mean(|v| v.0)).abs() < 1e-9);
            prop_assert!((health.latency_mean_us - mean(|v| v.1)).abs() < 1e-6);
        }
    }
}

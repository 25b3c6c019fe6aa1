//! Two plans on the same data from the same random seed, and whether what differs could be chance.

use super::{EpochLine, MakeBackend, Plan, Report, count, run};
use crate::Error;
use crate::digits::Dataset;
use crate::govern::Governor;
use crate::layer::Library;
use serde::{Deserialize, Serialize};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The first plan.
    A,
    /// The second.
    B,
}

/// What became of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The first plan's run.
    pub a: Report,
    /// The second's.
    pub b: Report,
    /// Held-out accuracy of B less that of A, epoch by epoch, as far as both went.
    pub accuracy_differences: Vec<f64>,
    /// B's final held-out accuracy less A's.
    pub difference: f64,
    /// Whether the final networks differ on the held-out rows by more than chance.
    pub test: McNemar,
}

/// The exact test (`McNemar`'s) of two classifiers on the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct McNemar {
    /// Rows that only A had right.
    pub only_a: usize,
    /// Rows that only B had right.
    pub only_b: usize,
    /// How likely a split at least as uneven is if both were equally good (two-sided, binomial).
    pub p_value: f64,
}

/// Run both plans, each with a library and a standard Tamiyo of its own, B from A's random seed. The observer is told
/// whose epoch it sees.
///
/// # Errors
/// As [`run`].
pub fn compare(
    a: &Plan,
    b: &Plan,
    data: &Dataset,
    make: MakeBackend<'_>,
    governor: &mut dyn Governor,
    observer: &mut dyn FnMut(Arm, &EpochLine),
) -> Result<Comparison, Error> {
    let b = Plan { random_seed: a.random_seed, ..b.clone() };
    let mut one = |arm: Arm, plan: &Plan| {
        let library = Library::standard().shared();
        let mut tamiyo = plan.tamiyo(&library);
        run(plan, data, make, &library, &mut tamiyo, governor, &mut |line, _| observer(arm, line))
    };
    let (a, b) = (one(Arm::A, a)?, one(Arm::B, &b)?);
    let lines = a.lines.iter().zip(&b.lines);
    Ok(Comparison {
        accuracy_differences: lines.map(|(a, b)| b.accuracy - a.accuracy).collect(),
        difference: b.final_accuracy - a.final_accuracy,
        test: mcnemar(&a.right, &b.right),
        a,
        b,
    })
}

/// The exact test (`McNemar`'s) on which rows each had right.
///
/// # Panics
/// If the two lists differ in length.
#[must_use]
pub fn mcnemar(a: &[bool], b: &[bool]) -> McNemar {
    assert_eq!(a.len(), b.len(), "both were asked about the same rows");
    let only = |x: &[bool], y: &[bool]| x.iter().zip(y).filter(|&(&x, &y)| x && !y).count();
    let (only_a, only_b) = (only(a, b), only(b, a));
    McNemar { only_a, only_b, p_value: binomial_two_sided(only_a.min(only_b), only_a + only_b) }
}

/// Twice the chance of at most `few` heads in `all` throws of a fair coin, at most 1. Summed in logarithms: 2^-all would
/// underflow from a thousand throws on.
fn binomial_two_sided(few: usize, all: usize) -> f64 {
    let mut term = -count(all) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for heads in 0..=few {
        sum += term.exp();
        term += (count(all - heads) / count(heads + 1)).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_is_mcnemars() {
        let rows = |right: usize, wrong: usize| [vec![true; right], vec![false; wrong]].concat();
        // A has 10 rows right, B another 2; 5 both: p = 2 · (1 + 12 + 66) / 4096.
        let a = [rows(10, 2), rows(5, 0)].concat();
        let b = [vec![false; 10], rows(7, 0)].concat();
        let found = mcnemar(&a, &b);
        assert_eq!((found.only_a, found.only_b), (10, 2));
        assert!((found.p_value - 158.0 / 4096.0).abs() < 1e-12, "{}", found.p_value);
        assert!((mcnemar(&a, &a).p_value - 1.0).abs() < 1e-12);
        // Many rows: nothing underflows, and an even split is no evidence.
        let (odd, even): (Vec<_>, Vec<_>) = (0..4_000).map(|row| (row % 2 == 1, row % 2 == 0)).unzip();
        assert!((mcnemar(&odd, &even).p_value - 1.0).abs() < 1e-9);
    }
}

//! Adam, the optimiser of every weight in this crate: Kingma and Ba's step with bias correction.
//!
//! Its state is the number of steps and two moments for each weight. It is written and read back bit for bit, because a
//! rollback must lead to the same weights ever after.

/// How much of the mean of the gradients is kept from step to step.
const FIRST_DECAY: f32 = 0.9;
/// How much of the mean of their squares is kept.
const SECOND_DECAY: f32 = 0.999;
/// Keeps the division apart from zero.
const EPSILON: f32 = 1e-8;
/// So many steps no run makes; up to here an f64 counts them exactly.
const STEPS_END: u64 = 1 << 52;
/// Bytes before the moments: the number of steps and the number of weights, u64 little-endian each.
const HEAD_BYTES: usize = 16;

/// The optimiser of one list of weights.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adam {
    steps: u64,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    /// A fresh optimiser of `weights` weights.
    #[must_use]
    pub fn new(weights: usize) -> Self {
        Self { steps: 0, first: vec![0.0; weights], second: vec![0.0; weights] }
    }

    /// How many weights it is for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// Whether it is for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// How many steps it has made.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Move the weights one step of size `rate` down along the gradients. Returns whether it did: if a gradient, its
    /// square, or a weight that it would lead to is not finite, weights and moments stay as they are, for one bad batch
    /// would spoil the moments for thousands of steps.
    ///
    /// # Panics
    /// If there are not as many weights and gradients as the optimiser is for.
    pub fn step(&mut self, weights: &mut [f32], gradients: &[f32], rate: f32) -> bool {
        assert!(weights.len() == self.len() && gradients.len() == self.len(), "one gradient for each weight");
        let steps = self.steps.saturating_add(1);
        let (first_share, second_share) = (share(FIRST_DECAY, steps), share(SECOND_DECAY, steps));
        let one = |weight: f32, gradient: f32, first: f32, second: f32| {
            let first = FIRST_DECAY * first + (1.0 - FIRST_DECAY) * gradient;
            let second = SECOND_DECAY * second + (1.0 - SECOND_DECAY) * gradient * gradient;
            (weight - rate * (first / first_share) / ((second / second_share).sqrt() + EPSILON), first, second)
        };
        // Computed twice, so that no second copy of weights and moments is needed to go back to.
        let moments = self.first.iter().zip(&self.second);
        let sound = weights.iter().zip(gradients).zip(moments).all(|((&weight, &gradient), (&first, &second))| {
            let (weight, first, second) = one(weight, gradient, first, second);
            (gradient * gradient).is_finite() && weight.is_finite() && first.is_finite() && second.is_finite()
        });
        if !sound {
            return false;
        }
        self.steps = steps;
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((weight, &gradient), (first, second)) in weights.iter_mut().zip(gradients).zip(moments) {
            (*weight, *first, *second) = one(*weight, gradient, *first, *second);
        }
        true
    }

    /// Whether it is a state that steps can lead to: moments finite, second ones not below 0, a number of steps that can
    /// be counted on.
    #[must_use]
    pub fn sound(&self) -> bool {
        let first = self.first.iter().all(|value| value.is_finite());
        first && self.second.iter().all(|value| value.is_finite() && *value >= 0.0) && self.steps < STEPS_END
    }

    /// Append the state to `out`: steps (u64), number of weights (u64), first moments, second moments (f32), all
    /// little-endian.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.steps.to_le_bytes());
        out.extend((self.len() as u64).to_le_bytes());
        for value in self.first.iter().chain(&self.second) {
            out.extend(value.to_le_bytes());
        }
    }

    /// Read what [`Self::write`] wrote from the beginning of `bytes`, and how many bytes it took. `None` if they end
    /// too early.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let steps = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let weights = usize::try_from(u64::from_le_bytes(bytes.get(8..HEAD_BYTES)?.try_into().ok()?)).ok()?;
        let end = weights.checked_mul(8)?.checked_add(HEAD_BYTES)?;
        let mut first: Vec<f32> = bytes.get(HEAD_BYTES..end)?.chunks_exact(4).map(value).collect();
        let second = first.split_off(weights);
        Some((Self { steps, first, second }, end))
    }
}

/// How much of a moment's full weight the steps so far have given it. In f64: `decay^steps` is close to 1 at first.
#[allow(clippy::cast_possible_truncation, reason = "a share is wanted as f32")]
fn share(decay: f32, steps: u64) -> f32 {
    (1.0 - f64::from(decay).powf(steps_as_number(steps))) as f32
}

#[allow(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
fn steps_as_number(steps: u64) -> f64 {
    steps as f64
}

fn value(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_step_is_of_the_rate_whatever_the_gradient() {
        // With bias correction m/√v is the gradient's sign after one step.
        for gradient in [1e-3_f32, 5.0, -80.0] {
            let mut weights = [1.0];
            assert!(Adam::new(1).step(&mut weights, &[gradient], 0.1));
            assert!((weights[0] - (1.0 - 0.1 * gradient.signum())).abs() < 1e-5, "{gradient}: {}", weights[0]);
        }
    }

    #[test]
    fn the_second_step_follows_the_definition() {
        let (mut adam, mut weights) = (Adam::new(1), [0.0_f32]);
        adam.step(&mut weights, &[1.0], 0.1);
        adam.step(&mut weights, &[3.0], 0.1);
        let (first, second) = (0.9 * 0.1 + 0.1 * 3.0, 0.999 * 0.001 + 0.001 * 9.0);
        let expected = -0.1 - 0.1 * (first / (1.0 - 0.81)) / (second / (1.0 - 0.998_001_f64)).sqrt();
        assert!((f64::from(weights[0]) - expected).abs() < 1e-5, "{} against {expected}", weights[0]);
    }

    #[test]
    fn a_bowl_is_descended() {
        let (mut adam, mut weights) = (Adam::new(2), [3.0_f32, -2.0]);
        for _ in 0..600 {
            let gradients = [2.0 * weights[0], 20.0 * weights[1]];
            adam.step(&mut weights, &gradients, 0.05);
        }
        assert!(weights.iter().all(|weight| weight.abs() < 1e-2), "{weights:?}");
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let (mut adam, mut weights) = (Adam::new(2), [1.0, 2.0]);
        adam.step(&mut weights, &[0.5, 0.25], 0.1);
        let before = (adam.clone(), weights);
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            assert!(!adam.step(&mut weights, &[0.5, bad], 0.1));
            assert_eq!((&adam, &weights), (&before.0, &before.1));
        }
    }

    #[test]
    fn a_step_out_of_the_finite_numbers_changes_nothing() {
        let (mut adam, mut weights) = (Adam::new(2), [1.0, f32::MAX]);
        adam.step(&mut weights, &[0.5, 0.25], 0.1);
        let before = (adam.clone(), weights);
        assert!(!adam.step(&mut weights, &[0.5, -0.25], 1e38));
        assert_eq!((&adam, &weights), (&before.0, &before.1));
    }

    #[test]
    fn a_state_that_no_step_leads_to_is_told() {
        let state = |steps, first, second| Adam { steps, first: vec![0.0, first], second: vec![0.0, second] };
        assert!(state(1, -1.0, 0.5).sound());
        for forged in
            [state(1, f32::NAN, 0.5), state(1, 0.0, -0.5), state(1, 0.0, f32::INFINITY), state(1 << 52, 0.0, 0.0)]
        {
            assert!(!forged.sound(), "{forged:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_back_goes_on_to_the_same_bits(gradients in proptest::collection::vec(-1e3_f32..1e3, 1..40), cut in 1_usize..400) {
            let (mut adam, mut weights) = (Adam::new(gradients.len()), gradients.clone());
            adam.step(&mut weights, &gradients, 0.01);
            let mut bytes = Vec::new();
            adam.write(&mut bytes);
            prop_assert!(Adam::read(&bytes[..bytes.len() - cut.min(bytes.len())]).is_none());
            bytes.push(7);
            let (mut again, length) = Adam::read(&bytes).unwrap();
            prop_assert_eq!(length, bytes.len() - 1);
            let mut weights_again = weights.clone();
            adam.step(&mut weights, &gradients, 0.01);
            again.step(&mut weights_again, &gradients, 0.01);
            prop_assert_eq!(weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>(), weights_again.iter().map(|w| w.to_bits()).collect::<Vec<_>>());
        }
    }
}

//! Easing: how the progress of a ramp becomes a seed's alpha.
//!
//! A grafting strategy moves the progress, in steps of 1/N from 0 to 1; the easing maps it to the alpha that blends the
//! seed's output. With [`Easing::Linear`], the default, progress and alpha are the same number. Every easing takes 0 to 0
//! and 1 to 1 exactly and never falls, so a seed enters with alpha 0, leaves its ramp with alpha 1, and alpha only grows.

use serde::{Deserialize, Serialize};

/// Steepness of [`Easing::Sigmoid`] (`specs`: 12).
pub const SIGMOID_STEEPNESS: f64 = 12.0;

/// The curve from progress to alpha.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Easing {
    /// Alpha is the progress.
    #[default]
    Linear,
    /// Half a wave of a cosine: slow at both ends.
    Cosine,
    /// The logistic curve of steepness [`SIGMOID_STEEPNESS`] about the middle, stretched so that its ends are 0 and 1.
    Sigmoid,
}

impl Easing {
    /// The alpha at a progress; both in [0, 1], values beyond are cut off.
    #[must_use]
    pub fn alpha(self, progress: f32) -> f32 {
        // The ends are exact whatever rounding does between them.
        if progress <= 0.0 {
            return 0.0;
        }
        if progress >= 1.0 {
            return 1.0;
        }
        let t = f64::from(progress);
        let eased = match self {
            Self::Linear => return progress,
            Self::Cosine => 0.5 - 0.5 * (std::f64::consts::PI * t).cos(),
            Self::Sigmoid => (logistic(t) - logistic(0.0)) / (logistic(1.0) - logistic(0.0)),
        };
        #[allow(clippy::cast_possible_truncation, reason = "alpha is kept as f32")]
        let alpha = eased as f32;
        alpha.clamp(0.0, 1.0)
    }

    /// The most that alpha grows for each unit of progress: the slope in the middle.
    #[must_use]
    pub fn slope_max(self) -> f64 {
        match self {
            Self::Linear => 1.0,
            Self::Cosine => std::f64::consts::FRAC_PI_2,
            Self::Sigmoid => SIGMOID_STEEPNESS / 4.0 / (logistic(1.0) - logistic(0.0)),
        }
    }
}

fn logistic(t: f64) -> f64 {
    1.0 / (1.0 + (-SIGMOID_STEEPNESS * (t - 0.5)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Easing; 3] = [Easing::Linear, Easing::Cosine, Easing::Sigmoid];

    #[test]
    fn the_ends_are_exact_and_the_middle_is_half() {
        for easing in ALL {
            assert_eq!(easing.alpha(0.0).to_bits(), 0.0_f32.to_bits(), "{easing:?}");
            assert_eq!(easing.alpha(1.0).to_bits(), 1.0_f32.to_bits(), "{easing:?}");
            assert!((easing.alpha(0.5) - 0.5).abs() < 1e-6, "{easing:?}");
        }
    }

    #[test]
    fn quarters_are_as_the_formulas_say() {
        assert!((Easing::Cosine.alpha(0.25) - 0.146_446_6).abs() < 1e-6);
        // s(1/4) = 1/(1+e³) = 0.047426, s(0) = 1/(1+e⁶) = 0.002473, s(1) = 0.997527.
        assert!((Easing::Sigmoid.alpha(0.25) - 0.045_176_5).abs() < 1e-6, "{}", Easing::Sigmoid.alpha(0.25));
    }

    proptest! {
        #[test]
        fn alpha_only_grows_and_no_faster_than_its_slope(a in 0.0_f32..=1.0, b in 0.0_f32..=1.0) {
            let (low, high) = (a.min(b), a.max(b));
            for easing in ALL {
                let grown = f64::from(easing.alpha(high)) - f64::from(easing.alpha(low));
                prop_assert!(grown >= 0.0, "{easing:?}");
                prop_assert!(grown <= easing.slope_max() * f64::from(high - low) + 1e-6, "{easing:?}");
            }
        }
    }
}

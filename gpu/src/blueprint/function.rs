//! What a blueprint computes: `f` in `y = x + alpha * f(x)`, on the c columns of one chunk.
//!
//! Matrices are stored input-major: `matrix[i * outputs + k]` is the weight from input i to output k.

use serde::{Deserialize, Serialize};

/// Added to the variance of a layer norm.
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

/// The widest hidden layer of an adapter.
const RANK_MAX: usize = 256;

/// A function of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Function {
    /// `up(gelu(down(x) + b) ) + d`: c to `rank` to c.
    Adapter {
        /// Width of the hidden layer.
        rank: usize,
    },
    /// `third(relu(second(relu(first(norm(x)) + b)) + d)) + e`: c to 4c to 4c to c, on the layer norm of the chunk with
    /// its own scale and shift.
    Mlp,
    /// `scale * x + shift`, element by element.
    ResidualScale,
}

/// One tensor among a function's weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// How many values it has.
    pub length: usize,
    /// The mean of its fresh values.
    pub middle: f32,
    /// Their standard deviation.
    pub spread: f32,
}

impl Function {
    /// Its kind, as descriptions name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Adapter { .. } => "adapter",
            Self::Mlp => "mlp",
            Self::ResidualScale => "residual_scale",
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match *self {
            Self::Adapter { rank } if rank == 0 || rank > RANK_MAX => {
                Err(format!("rank = {rank}: it must be from 1 to {RANK_MAX}"))
            }
            _ => Ok(()),
        }
    }

    /// The tensors of its weights for a chunk of `width` columns, in the order in which they are stored.
    #[must_use]
    pub fn layout(&self, width: usize) -> Vec<Part> {
        let matrix = |name, inputs: usize, outputs: usize| Part {
            name,
            length: inputs * outputs,
            middle: 0.0,
            // He's initialisation.
            #[allow(clippy::cast_precision_loss, reason = "widths are small")]
            spread: (2.0 / inputs as f32).sqrt(),
        };
        let zeros = |name, length| Part { name, length, middle: 0.0, spread: 0.0 };
        match *self {
            Self::Adapter { rank } => vec![
                matrix("down", width, rank),
                zeros("down_bias", rank),
                zeros("up", rank * width),
                zeros("up_bias", width),
            ],
            Self::Mlp => {
                let hidden = 4 * width;
                vec![
                    Part { name: "norm_scale", length: width, middle: 1.0, spread: 0.0 },
                    zeros("norm_shift", width),
                    matrix("first", width, hidden),
                    zeros("first_bias", hidden),
                    matrix("second", hidden, hidden),
                    zeros("second_bias", hidden),
                    zeros("third", hidden * width),
                    zeros("third_bias", width),
                ]
            }
            Self::ResidualScale => vec![zeros("scale", width), zeros("shift", width)],
        }
    }

    /// How many weights it has for a chunk of `width` columns; `usize::MAX` where no computer could count them.
    #[must_use]
    pub fn weights(&self, width: usize) -> usize {
        let times = |factor: usize| width.saturating_mul(factor);
        match *self {
            Self::Adapter { rank } => times(2).saturating_mul(rank).saturating_add(rank).saturating_add(width),
            // Two for the norm, a bias for each of 4c + 4c + c outputs, and matrices of 4c², 16c² and 4c².
            Self::Mlp => times(24).saturating_mul(width).saturating_add(times(11)),
            Self::ResidualScale => times(2),
        }
    }

    /// Floating-point operations of the matrix products of one row forward, a multiplication with its addition counted as two.
    #[must_use]
    pub fn operations(&self, width: usize) -> usize {
        match *self {
            Self::Adapter { rank } => 4 * width * rank,
            Self::Mlp => 2 * 24 * width * width,
            Self::ResidualScale => 2 * width,
        }
    }
}

/// The square root of 2/π.
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

/// GELU in its tanh form, which every device can compute: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
#[must_use]
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (GELU_SCALE * (x + GELU_CUBIC * x * x * x)).tanh())
}

/// The derivative of [`gelu`].
#[must_use]
pub fn gelu_slope(x: f64) -> f64 {
    let t = (GELU_SCALE * (x + GELU_CUBIC * x * x * x)).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_weights_is_that_of_the_layout() {
        for function in
            [Function::Adapter { rank: 16 }, Function::Adapter { rank: 3 }, Function::Mlp, Function::ResidualScale]
        {
            for width in 1..20 {
                let sum: usize = function.layout(width).iter().map(|part| part.length).sum();
                assert_eq!(sum, function.weights(width), "{function:?} of width {width}");
            }
        }
    }
}

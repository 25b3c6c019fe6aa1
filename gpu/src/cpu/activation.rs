//! GELU on vectors, in the tanh form: `x / (1 + exp(-2u))`, `u = √(2/π) (x + 0.044715 x³)`.
//!
//! The exponential is of base 2: a whole part that goes into the exponent's bits, and a polynomial of degree 5 for the
//! rest, with a relative error of 7.5e-8 (its coefficients are Remez's). Away from it, only the rounding of f32 counts.

use super::strip::Strip;
use pulp::Simd;

/// `2 √(2/π) log2(e)`, and that times 0.044715.
const LINEAR: f32 = 2.302_208_2;
const CUBIC: f32 = 0.102_943_24;
/// `2 √(2/π)`, and that times 3 · 0.044715.
const SLOPE: f32 = 1.595_769;
const SLOPE_SQUARE: f32 = 0.214_064_46;
/// 2^f on [-1/2, 1/2], from the constant on.
const POWERS: [f32; 6] = [1.000_000_1, 0.693_146_97, 0.240_221_2, 0.055_507_133, 0.009_675_541, 0.001_327_647_2];
/// Adding this rounds to an integer, and leaves it in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Beyond it 2^-x counts as 0; the product of two such powers is still finite.
const EXPONENT_MAX: f32 = 60.0;

/// `1 + exp(-2u)`.
#[inline(always)]
fn denominator<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value| simd.splat_f32s(value);
    let square = simd.mul_f32s(x, x);
    let minus = simd.mul_f32s(x, simd.mul_add_f32s(square, splat(-CUBIC), splat(-LINEAR)));
    let power = simd.max_f32s(simd.min_f32s(minus, splat(EXPONENT_MAX)), splat(-EXPONENT_MAX));
    let rounded = simd.add_f32s(power, splat(ROUND));
    let rest = simd.sub_f32s(power, simd.sub_f32s(rounded, splat(ROUND)));
    let mut value = splat(POWERS[5]);
    for at in (0..5).rev() {
        value = simd.mul_add_f32s(value, rest, splat(POWERS[at]));
    }
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(23));
    let scaled = simd.add_u32s(simd.transmute_u32s_f32s(value), exponent);
    simd.add_f32s(splat(1.0), simd.transmute_f32s_u32s(scaled))
}

/// One over both: a single division, which costs as much as a dozen multiplications, serves the two.
#[inline(always)]
fn inverses<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> Strip<S> {
    let inverse = simd.div_f32s(simd.splat_f32s(1.0), simd.mul_f32s(a, b));
    [simd.mul_f32s(b, inverse), simd.mul_f32s(a, inverse)]
}

/// GELU in place; `room` is as long. Two loops, because one would be a chain of some ninety cycles for each strip, and
/// the processor looks ahead over too few of those.
#[inline(always)]
pub(super) fn gelu_all<S: Simd>(simd: S, values: &mut [Strip<S>], room: &mut [Strip<S>]) {
    for (below, strip) in room.iter_mut().zip(values.iter()) {
        *below = [denominator(simd, strip[0]), denominator(simd, strip[1])];
    }
    for (strip, below) in values.iter_mut().zip(room) {
        let [low, high] = inverses(simd, below[0], below[1]);
        *strip = [simd.mul_f32s(strip[0], low), simd.mul_f32s(strip[1], high)];
    }
}

/// GELU in place, and its derivative into `slopes`.
#[inline(always)]
pub(super) fn gelu_with_slope<S: Simd>(simd: S, values: &mut [Strip<S>], slopes: &mut [Strip<S>]) {
    for (value, slope) in values.iter_mut().zip(slopes) {
        let x = *value;
        let share = inverses(simd, denominator(simd, x[0]), denominator(simd, x[1]));
        *slope = [steepness(simd, x[0], share[0]), steepness(simd, x[1], share[1])];
        *value = [simd.mul_f32s(x[0], share[0]), simd.mul_f32s(x[1], share[1])];
    }
}

/// The derivative, `share` being `1 / (1 + exp(-2u))`.
#[inline(always)]
fn steepness<S: Simd>(simd: S, x: S::f32s, share: S::f32s) -> S::f32s {
    // Beyond ±16 nothing bends, and its cube must not overflow.
    let near = simd.max_f32s(simd.min_f32s(x, simd.splat_f32s(16.0)), simd.splat_f32s(-16.0));
    let steep = simd.mul_add_f32s(simd.mul_f32s(near, near), simd.splat_f32s(SLOPE_SQUARE), simd.splat_f32s(SLOPE));
    let rest = simd.sub_f32s(simd.splat_f32s(1.0), share);
    simd.mul_add_f32s(simd.mul_f32s(near, steep), simd.mul_f32s(share, rest), share)
}

/// The greater of 0 and each value; NaN stays.
#[inline(always)]
pub(super) fn relu_all<S: Simd>(simd: S, values: &mut [Strip<S>]) {
    let zero = simd.splat_f32s(0.0);
    for half in values.as_flattened_mut() {
        *half = simd.select_f32s(simd.less_than_f32s(*half, zero), zero, *half);
    }
}

/// Set gradients to zero where the value after [`relu_all`] is zero.
#[inline(always)]
pub(super) fn gate<S: Simd>(simd: S, gradients: &mut [Strip<S>], after: &[Strip<S>]) {
    let zero = simd.splat_f32s(0.0);
    for (gradient, after) in gradients.as_flattened_mut().iter_mut().zip(after.as_flattened()) {
        *gradient = simd.select_f32s(simd.greater_than_f32s(*after, zero), *gradient, zero);
    }
}

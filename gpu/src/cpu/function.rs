//! What each blueprint computes on one panel, forward and backward.

use super::activation::{gate, gelu_all, gelu_with_slope, relu_all};
use super::dense::{Sums, affine, back, outer, padded};
use super::strip::{Aligned, Strip, add, fma, mul, rows, splat, strips_mut, sub};
use crate::blueprint::{Function, LAYER_NORM_EPSILON};
use pulp::Simd;

/// Room for what is computed on the way: strips for the hidden values, and one turned gradient.
#[derive(Debug, Default)]
pub(super) struct Room {
    hidden: Aligned,
    turned: Aligned,
}

impl Room {
    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.hidden.bytes() + self.turned.bytes()
    }

    /// Make room for a function on chunks of this width, forward and, if asked, backward.
    pub(super) fn fit<S: Simd>(&mut self, function: Function, chunk: usize, backward: bool) {
        let widest = widest(function, chunk);
        let (strips, turned) = match (function, backward) {
            (Function::Adapter { rank }, false) => (2 * rank + chunk, 0),
            (Function::Adapter { rank }, true) => (3 * rank + 2 * chunk, padded::<S>(widest)),
            (Function::Mlp, false) => (10 * chunk, 0),
            (Function::Mlp, true) => (20 * chunk, padded::<S>(widest)),
            (Function::ResidualScale, _) => (2 * chunk, 0),
        };
        self.hidden.grow(strips * rows::<S>());
        self.turned.grow(turned * rows::<S>());
    }
}

fn widest(function: Function, chunk: usize) -> usize {
    match function {
        Function::Adapter { rank } => rank.max(chunk),
        Function::Mlp => 4 * chunk,
        Function::ResidualScale => chunk,
    }
}

/// Cut the next part off.
macro_rules! cut {
    ($from:ident, $length:expr) => {{
        let (head, tail) = std::mem::take(&mut $from).split_at_mut($length);
        $from = tail;
        head
    }};
}

#[inline(always)]
fn parts<const N: usize>(mut weights: &[f32], lengths: [usize; N]) -> [&[f32]; N] {
    lengths.map(|length| {
        let (head, tail) = weights.split_at(length);
        weights = tail;
        head
    })
}

/// The lengths of an mlp's tensors.
#[inline(always)]
fn mlp_lengths(c: usize) -> [usize; 8] {
    [c, c, 4 * c * c, 4 * c, 16 * c * c, 4 * c, 4 * c * c, c]
}

#[inline(always)]
fn adapter_lengths(c: usize, rank: usize) -> [usize; 4] {
    [c * rank, rank, rank * c, c]
}

/// `f(x)` on one panel; the result lies in `room`.
#[inline(always)]
pub(super) fn forward<'r, S: Simd>(
    simd: S,
    function: Function,
    weights: &[f32],
    x: &[Strip<S>],
    room: &'r mut Room,
) -> &'r [Strip<S>] {
    let c = x.len();
    let mut free = strips_mut::<S>(room.hidden.floats_mut());
    let output = cut!(free, c);
    match function {
        Function::Adapter { rank } => {
            let [down, down_bias, up, up_bias] = parts(weights, adapter_lengths(c, rank));
            let (hidden, below) = (cut!(free, rank), &mut free[..rank]);
            affine(simd, down, down_bias, x, hidden);
            gelu_all(simd, hidden, below);
            affine(simd, up, up_bias, hidden, output);
        }
        Function::Mlp => {
            let [scale, shift, first, first_bias, second, second_bias, third, third_bias] =
                parts(weights, mlp_lengths(c));
            let (scaled, one, two) = (cut!(free, c), cut!(free, 4 * c), &mut free[..4 * c]);
            normalise(simd, x, scaled);
            rescale(simd, scaled, scale, shift);
            affine(simd, first, first_bias, scaled, one);
            relu_all(simd, one);
            affine(simd, second, second_bias, one, two);
            relu_all(simd, two);
            affine(simd, third, third_bias, two, output);
        }
        Function::ResidualScale => {
            let [scale, shift] = parts(weights, [c, c]);
            output.copy_from_slice(x);
            rescale(simd, output, scale, shift);
        }
    }
    output
}

/// `values = values * scale + shift`, column by column.
#[inline(always)]
fn rescale<S: Simd>(simd: S, values: &mut [Strip<S>], scale: &[f32], shift: &[f32]) {
    for (value, (&scale, &shift)) in values.iter_mut().zip(scale.iter().zip(shift)) {
        *value = fma(simd, *value, splat(simd, scale), splat(simd, shift));
    }
}

/// Layer norm without scale and shift; returns one over the deviation. The first column is taken off first, so that
/// chunks offset by a large constant keep their digits.
#[inline(always)]
fn normalise<S: Simd>(simd: S, x: &[Strip<S>], normal: &mut [Strip<S>]) -> Strip<S> {
    let share = splat(simd, share_of(x.len()));
    let mut mean = splat(simd, 0.0);
    for (normal, x_at) in normal.iter_mut().zip(x) {
        *normal = sub(simd, *x_at, x[0]);
        mean = add(simd, mean, *normal);
    }
    mean = mul(simd, mean, share);
    let mut squares = splat(simd, 0.0);
    for normal in normal.iter_mut() {
        *normal = sub(simd, *normal, mean);
        squares = fma(simd, *normal, *normal, squares);
    }
    #[allow(clippy::cast_possible_truncation, reason = "a constant")]
    let epsilon = splat(simd, LAYER_NORM_EPSILON as f32);
    let variance = fma(simd, squares, share, epsilon);
    let inverse = [inverse_root(simd, variance[0]), inverse_root(simd, variance[1])];
    for normal in normal.iter_mut() {
        *normal = mul(simd, *normal, inverse);
    }
    inverse
}

#[inline(always)]
fn inverse_root<S: Simd>(simd: S, value: S::f32s) -> S::f32s {
    simd.div_f32s(simd.splat_f32s(1.0), simd.sqrt_f32s(value))
}

#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "widths are small")]
fn share_of(count: usize) -> f32 {
    1.0 / count as f32
}

/// How many values the sums of a function's gradients take, padded to whole vectors.
pub(super) fn sums_length<S: Simd>(function: Function, c: usize) -> usize {
    let affine = |inputs: usize, outputs: usize| (inputs + 1) * padded::<S>(outputs);
    match function {
        Function::Adapter { rank } => affine(c, rank) + affine(rank, c),
        Function::Mlp => 2 * c * rows::<S>() + affine(c, 4 * c) + affine(4 * c, 4 * c) + affine(4 * c, c),
        Function::ResidualScale => 2 * c * rows::<S>(),
    }
}

/// Take the padding out: gradients in the order of the weights.
pub(super) fn tighten<S: Simd>(function: Function, c: usize, sums: &[f32]) -> Vec<f32> {
    let mut gradients = Vec::with_capacity(function.weights(c));
    let mut rest = sums;
    let mut affine = |rest: &mut &[f32], inputs: usize, outputs: usize| {
        let (head, tail) = rest.split_at((inputs + 1) * padded::<S>(outputs));
        *rest = tail;
        head.chunks_exact(padded::<S>(outputs)).for_each(|row| gradients.extend_from_slice(&row[..outputs]));
    };
    match function {
        Function::Adapter { rank } => {
            affine(&mut rest, c, rank);
            affine(&mut rest, rank, c);
        }
        Function::Mlp => {
            let columns = rest;
            rest = &rest[2 * c * rows::<S>()..];
            affine(&mut rest, c, 4 * c);
            affine(&mut rest, 4 * c, 4 * c);
            affine(&mut rest, 4 * c, c);
            let norm = columns.chunks_exact(rows::<S>()).take(2 * c).map(|strip| strip.iter().sum());
            gradients.splice(0..0, norm.collect::<Vec<f32>>());
        }
        Function::ResidualScale => {
            gradients.extend(rest.chunks_exact(rows::<S>()).take(2 * c).map(|strip| strip.iter().sum::<f32>()));
        }
    }
    gradients
}

/// From the gradient of `f`'s output, in `through`, to that of its input, in `through` too; adds those of the weights to
/// `sums` if there are any.
#[inline(always)]
pub(super) fn backward<S: Simd>(
    simd: S,
    function: Function,
    weights: &[f32],
    x: &[Strip<S>],
    through: &mut [Strip<S>],
    sums: Option<&mut [f32]>,
    room: &mut Room,
) {
    match function {
        Function::Adapter { rank } => adapter_back(simd, rank, weights, x, through, sums, room),
        Function::Mlp => mlp_back(simd, weights, x, through, sums, room),
        Function::ResidualScale => {
            if let Some(sums) = sums {
                add_columns(simd, through, x, sums);
            }
            for (through, &scale) in through.iter_mut().zip(weights) {
                *through = mul(simd, *through, splat(simd, scale));
            }
        }
    }
}

/// The gradients of a scale and a shift by columns: lane by lane, summed over lanes at the very end.
#[inline(always)]
fn add_columns<S: Simd>(simd: S, gradient: &[Strip<S>], x: &[Strip<S>], sums: &mut [f32]) {
    let (scale, shift) = strips_mut::<S>(sums).split_at_mut(x.len());
    for (((scale, shift), gradient), x) in scale.iter_mut().zip(shift).zip(gradient).zip(x) {
        *scale = fma(simd, *gradient, *x, *scale);
        *shift = add(simd, *gradient, *shift);
    }
}

#[inline(always)]
fn adapter_back<S: Simd>(
    simd: S,
    rank: usize,
    weights: &[f32],
    x: &[Strip<S>],
    through: &mut [Strip<S>],
    sums: Option<&mut [f32]>,
    room: &mut Room,
) {
    let c = x.len();
    let [down, down_bias, up, _] = parts(weights, adapter_lengths(c, rank));
    let mut free = strips_mut::<S>(room.hidden.floats_mut());
    let (active, slope, hidden) = (cut!(free, rank), cut!(free, rank), &mut free[..rank]);
    affine(simd, down, down_bias, x, active);
    gelu_with_slope(simd, active, slope);
    back(simd, up, through, hidden);
    for (gradient, slope) in hidden.iter_mut().zip(slope.iter()) {
        *gradient = mul(simd, *gradient, *slope);
    }
    if let Some(sums) = sums {
        let turned = room.turned.floats_mut();
        let (low, high) = sums.split_at_mut((c + 1) * padded::<S>(rank));
        outer(simd, active, through, &mut Sums { values: high, padded: padded::<S>(c) }, turned);
        outer(simd, x, hidden, &mut Sums { values: low, padded: padded::<S>(rank) }, turned);
    }
    back(simd, down, hidden, through);
}

#[inline(always)]
fn mlp_back<S: Simd>(
    simd: S,
    weights: &[f32],
    x: &[Strip<S>],
    through: &mut [Strip<S>],
    sums: Option<&mut [f32]>,
    room: &mut Room,
) {
    let c = x.len();
    let [scale, shift, first, first_bias, second, second_bias, third, _] = parts(weights, mlp_lengths(c));
    let mut free = strips_mut::<S>(room.hidden.floats_mut());
    let (normal, scaled) = (cut!(free, c), cut!(free, c));
    let (one, two, d1, d2) = (cut!(free, 4 * c), cut!(free, 4 * c), cut!(free, 4 * c), &mut free[..4 * c]);
    let inverse = normalise(simd, x, normal);
    scaled.copy_from_slice(normal);
    rescale(simd, scaled, scale, shift);
    affine(simd, first, first_bias, scaled, one);
    relu_all(simd, one);
    affine(simd, second, second_bias, one, two);
    relu_all(simd, two);
    back(simd, third, through, d2);
    gate(simd, d2, two);
    back(simd, second, d2, d1);
    gate(simd, d1, one);
    let mut norm_sums = None;
    if let Some(sums) = sums {
        let turned = room.turned.floats_mut();
        let (wide, narrow) = (padded::<S>(4 * c), padded::<S>(c));
        let (norm, sums) = sums.split_at_mut(2 * c * rows::<S>());
        let (low, sums) = sums.split_at_mut((c + 1) * wide);
        let (middle, high) = sums.split_at_mut((4 * c + 1) * wide);
        outer(simd, two, through, &mut Sums { values: high, padded: narrow }, turned);
        outer(simd, one, d2, &mut Sums { values: middle, padded: wide }, turned);
        outer(simd, scaled, d1, &mut Sums { values: low, padded: wide }, turned);
        norm_sums = Some(norm);
    }
    back(simd, first, d1, through);
    if let Some(sums) = norm_sums {
        add_columns(simd, through, normal, sums);
    }
    normalise_back(simd, scale, normal, inverse, through);
}

/// Through a layer norm with its scale: `(g - mean(g) - n · mean(g n)) / deviation`, `g` being the gradient times scale.
#[inline(always)]
fn normalise_back<S: Simd>(simd: S, scale: &[f32], normal: &[Strip<S>], inverse: Strip<S>, through: &mut [Strip<S>]) {
    let share = splat(simd, share_of(normal.len()));
    let (mut mean, mut along) = (splat(simd, 0.0), splat(simd, 0.0));
    for ((through, &scale), normal) in through.iter_mut().zip(scale).zip(normal) {
        *through = mul(simd, *through, splat(simd, scale));
        mean = add(simd, mean, *through);
        along = fma(simd, *through, *normal, along);
    }
    mean = mul(simd, mean, share);
    along = mul(simd, along, share);
    for (through, normal) in through.iter_mut().zip(normal) {
        let straight = sub(simd, *through, mean);
        let bent = sub(simd, straight, mul(simd, *normal, along));
        *through = mul(simd, bent, inverse);
    }
}

//! Matrix products on panels: one weight, splat, times the two vectors of a strip; four outputs at a time, so eight sums
//! are under way in registers, as many as two multiply-adds a cycle of four cycles' latency need.
//!
//! Matrices are input-major, as [`crate::blueprint::Function`] has them: the four weights of a step lie side by side.

use super::strip::{Strip, fma, rows, splat};
use pulp::Simd;

/// `output = input · matrix + bias`.
#[inline(always)]
pub(super) fn affine<S: Simd>(simd: S, matrix: &[f32], bias: &[f32], input: &[Strip<S>], output: &mut [Strip<S>]) {
    // The sizes of the reference shape, known to the compiler: no loop remains.
    match (input.len(), bias.len()) {
        (4, 16) => return fixed::<S, 4, 16>(simd, matrix, bias, input, output),
        (16, 4) => return fixed::<S, 16, 4>(simd, matrix, bias, input, output),
        _ => {}
    }
    let outputs = bias.len();
    let (fours, rest) = output.as_chunks_mut::<4>();
    let whole = 4 * fours.len();
    for (at, out) in fours.iter_mut().enumerate() {
        *out = columns::<S, 4>(simd, matrix, bias, input, 4 * at, outputs);
    }
    for (at, out) in rest.iter_mut().enumerate() {
        [*out] = columns::<S, 1>(simd, matrix, bias, input, whole + at, outputs);
    }
}

#[inline(always)]
fn fixed<S: Simd, const I: usize, const O: usize>(
    simd: S,
    matrix: &[f32],
    bias: &[f32],
    input: &[Strip<S>],
    output: &mut [Strip<S>],
) {
    let (Some(matrix), Some(input)) = (matrix.as_chunks::<O>().0.first_chunk::<I>(), input.first_chunk::<I>()) else {
        return;
    };
    let (Some(bias), Some(output)) = (bias.first_chunk::<O>(), output.first_chunk_mut::<O>()) else { return };
    for at in (0..O).step_by(4) {
        let mut sums = [splat(simd, 0.0); 4];
        for k in 0..4 {
            sums[k] = splat(simd, bias[at + k]);
        }
        for i in 0..I {
            for k in 0..4 {
                sums[k] = fma(simd, splat(simd, matrix[i][at + k]), input[i], sums[k]);
            }
        }
        output[at..at + 4].copy_from_slice(&sums);
    }
}

#[inline(always)]
fn columns<S: Simd, const K: usize>(
    simd: S,
    matrix: &[f32],
    bias: &[f32],
    input: &[Strip<S>],
    at: usize,
    outputs: usize,
) -> [Strip<S>; K] {
    let mut sums = [splat(simd, 0.0); K];
    for k in 0..K {
        sums[k] = splat(simd, bias[at + k]);
    }
    let mut from = at;
    for x in input {
        let weights = &matrix[from..from + K];
        for k in 0..K {
            sums[k] = fma(simd, splat(simd, weights[k]), *x, sums[k]);
        }
        from += outputs;
    }
    sums
}

/// The gradient of the input from that of the output: `before = matrix · after`.
#[inline(always)]
pub(super) fn back<S: Simd>(simd: S, matrix: &[f32], after: &[Strip<S>], before: &mut [Strip<S>]) {
    let outputs = after.len();
    let (fours, rest) = before.as_chunks_mut::<4>();
    let whole = 4 * fours.len();
    for (at, out) in fours.iter_mut().enumerate() {
        *out = inputs::<S, 4>(simd, &matrix[4 * at * outputs..], after);
    }
    for (at, out) in rest.iter_mut().enumerate() {
        [*out] = inputs::<S, 1>(simd, &matrix[(whole + at) * outputs..], after);
    }
}

#[inline(always)]
fn inputs<S: Simd, const K: usize>(simd: S, matrix: &[f32], after: &[Strip<S>]) -> [Strip<S>; K] {
    let outputs = after.len();
    let mut sums = [splat(simd, 0.0); K];
    for (k, g) in after.iter().enumerate() {
        for i in 0..K {
            sums[i] = fma(simd, splat(simd, matrix[i * outputs + k]), *g, sums[i]);
        }
    }
    sums
}

/// Gradients of one matrix with its bias, summed over panels. Rows are padded to whole vectors; the bias is the last.
pub(super) struct Sums<'a> {
    /// `(inputs + 1) × padded`.
    pub(super) values: &'a mut [f32],
    /// Outputs, rounded up.
    pub(super) padded: usize,
}

/// Outputs rounded up to whole vectors.
#[inline(always)]
pub(super) const fn padded<S: Simd>(outputs: usize) -> usize {
    outputs.div_ceil(S::F32_LANES) * S::F32_LANES
}

/// Add one panel's gradients: those of the matrix are the outer product of input and gradient, summed over rows. `turned`
/// is room for the gradient, turned so that outputs lie side by side: rows × padded.
#[inline(always)]
pub(super) fn outer<S: Simd>(simd: S, input: &[Strip<S>], after: &[Strip<S>], sums: &mut Sums<'_>, turned: &mut [f32]) {
    let padded = sums.padded;
    let turned = &mut turned[..rows::<S>() * padded];
    turned.fill(0.0);
    for (k, strip) in after.iter().enumerate() {
        let values: &[f32] = bytemuck::cast_slice(strip);
        for (row, value) in turned.chunks_exact_mut(padded).zip(values) {
            row[k] = *value;
        }
    }
    let (weights, bias) = sums.values.split_at_mut(input.len() * padded);
    let (fours, rest) = input.as_chunks::<4>();
    let (whole, tail) = weights.split_at_mut(4 * fours.len() * padded);
    for (x, into) in fours.iter().zip(whole.chunks_exact_mut(4 * padded)) {
        add_rows::<S, 4>(simd, x, turned, into);
    }
    for (x, into) in rest.iter().zip(tail.chunks_exact_mut(padded)) {
        add_rows::<S, 1>(simd, std::array::from_ref(x), turned, into);
    }
    add_rows::<S, 1>(simd, &[splat(simd, 1.0)], turned, &mut bias[..padded]);
}

#[inline(always)]
fn add_rows<S: Simd, const I: usize>(simd: S, x: &[Strip<S>; I], turned: &[f32], into: &mut [f32]) {
    let padded = into.len() / I;
    let vectors = padded / S::F32_LANES;
    let into = S::as_mut_simd_f32s(into).0;
    let turned = S::as_simd_f32s(turned).0;
    let mut scalars = [&[][..]; I];
    for i in 0..I {
        scalars[i] = bytemuck::cast_slice::<Strip<S>, f32>(std::slice::from_ref(&x[i]));
    }
    for at in 0..vectors {
        let mut sums = [simd.splat_f32s(0.0); I];
        for i in 0..I {
            sums[i] = into[i * vectors + at];
        }
        for (row, g) in turned.chunks_exact(vectors).enumerate() {
            for i in 0..I {
                sums[i] = simd.mul_add_f32s(simd.splat_f32s(scalars[i][row]), g[at], sums[i]);
            }
        }
        for i in 0..I {
            into[i * vectors + at] = sums[i];
        }
    }
}

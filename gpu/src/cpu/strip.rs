//! Strips and panels: how values lie while they are computed.
//!
//! A strip holds one column's values of as many rows as two SIMD registers have lanes; a panel is the strips of
//! neighbouring columns, one after the other. So each lane is a row of its own, whatever the width of a chunk, and no
//! lane is wasted on a chunk of four columns. Panels of 16 rows (AVX2) are lifted out of row-major buffers and put back
//! by transposing blocks of 4 × 4.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

/// The values of one column in [`rows`] rows.
pub(super) type Strip<S> = [<S as Simd>::f32s; 2];

/// How many rows a strip has.
#[inline(always)]
pub(super) const fn rows<S: Simd>() -> usize {
    2 * S::F32_LANES
}

/// Floats that begin at a cache line, so that no vector crosses one.
#[derive(Debug, Clone, Default)]
pub(super) struct Aligned {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    /// So many zeros, rounded up to whole lines.
    pub(super) fn zeros(length: usize) -> Self {
        Self { lines: vec![Line::zeroed(); length.div_ceil(16)] }
    }

    /// Make room for so many; what is there stays.
    pub(super) fn grow(&mut self, length: usize) {
        let lines = length.div_ceil(16).max(self.lines.len());
        self.lines.resize(lines, Line::zeroed());
    }

    pub(super) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lines)
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

/// Floats as strips. Those left over at the end are left out.
#[inline(always)]
pub(super) fn strips<S: Simd>(floats: &[f32]) -> &[Strip<S>] {
    S::as_simd_f32s(floats).0.as_chunks().0
}

/// As [`strips`], to be written.
#[inline(always)]
pub(super) fn strips_mut<S: Simd>(floats: &mut [f32]) -> &mut [Strip<S>] {
    S::as_mut_simd_f32s(floats).0.as_chunks_mut().0
}

/// The same number in a whole strip.
#[inline(always)]
pub(super) fn splat<S: Simd>(simd: S, value: f32) -> Strip<S> {
    [simd.splat_f32s(value); 2]
}

/// `f` of both halves.
#[inline(always)]
pub(super) fn each<S: Simd>(a: Strip<S>, f: impl Fn(S::f32s) -> S::f32s) -> Strip<S> {
    [f(a[0]), f(a[1])]
}

/// `f` of both halves of two.
#[inline(always)]
pub(super) fn both<S: Simd>(a: Strip<S>, b: Strip<S>, f: impl Fn(S::f32s, S::f32s) -> S::f32s) -> Strip<S> {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// `a * b + c`.
#[inline(always)]
pub(super) fn fma<S: Simd>(simd: S, a: Strip<S>, b: Strip<S>, c: Strip<S>) -> Strip<S> {
    [simd.mul_add_f32s(a[0], b[0], c[0]), simd.mul_add_f32s(a[1], b[1], c[1])]
}

/// The sum of a strip's first `rows` values, in f64.
#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, strip: &Strip<S>, rows: usize) -> f64 {
    if rows == self::rows::<S>() {
        return f64::from(simd.reduce_sum_f32s(simd.add_f32s(strip[0], strip[1])));
    }
    let values: &[f32] = bytemuck::cast_slice(strip);
    values[..rows].iter().copied().map(f64::from).sum()
}

/// Lift columns of up to [`rows`] rows, from `start` on, into a panel. Rows that are missing are zero.
#[inline(always)]
pub(super) fn lift<S: Simd>(from: &[&[f32]], start: usize, panel: &mut [f32]) {
    let (height, width) = (rows::<S>(), panel.len() / rows::<S>());
    let whole = if from.len() == height && height % 4 == 0 { width / 4 * 4 } else { 0 };
    if whole > 0 {
        for (at, rows) in from.chunks_exact(4).enumerate() {
            let [a, b, c, d] = rows else { continue };
            let [a, b, c, d] = [a, b, c, d].map(|row| quads(&row[start..start + width]));
            let blocks = a.iter().zip(b).zip(c.iter().zip(d));
            for (block, ((a, b), (c, d))) in panel.chunks_exact_mut(4 * height).zip(blocks) {
                for (column, four) in transpose([*a, *b, *c, *d]).into_iter().enumerate() {
                    block[column * height + 4 * at..][..4].copy_from_slice(&four);
                }
            }
        }
    }
    for (column, strip) in panel.chunks_exact_mut(height).enumerate().skip(whole) {
        for (value, row) in strip.iter_mut().zip(from) {
            *value = row[start + column];
        }
        strip[from.len()..].fill(0.0);
    }
}

/// Put a panel back into columns of rows.
#[inline(always)]
pub(super) fn lower<S: Simd>(panel: &[f32], to: &mut [&mut [f32]], start: usize) {
    let (height, width) = (rows::<S>(), panel.len() / rows::<S>());
    let whole = if to.len() == height && height % 4 == 0 { width / 4 * 4 } else { 0 };
    if whole > 0 {
        for (at, rows) in to.chunks_exact_mut(4).enumerate() {
            let [a, b, c, d] = rows else { continue };
            let (a, b) = (quads_mut(&mut a[start..start + width]), quads_mut(&mut b[start..start + width]));
            let (c, d) = (quads_mut(&mut c[start..start + width]), quads_mut(&mut d[start..start + width]));
            for (block, ((a, b), (c, d))) in
                panel.chunks_exact(4 * height).zip(a.iter_mut().zip(b).zip(c.iter_mut().zip(d)))
            {
                let four = |column: usize| {
                    let at = column * height + 4 * at;
                    [block[at], block[at + 1], block[at + 2], block[at + 3]]
                };
                [*a, *b, *c, *d] = transpose([four(0), four(1), four(2), four(3)]);
            }
        }
    }
    for (column, strip) in panel.chunks_exact(height).enumerate().skip(whole) {
        for (value, row) in strip.iter().zip(to.iter_mut()) {
            row[start + column] = *value;
        }
    }
}

#[inline(always)]
fn quads(row: &[f32]) -> &[[f32; 4]] {
    row.as_chunks().0
}

#[inline(always)]
fn quads_mut(row: &mut [f32]) -> &mut [[f32; 4]] {
    row.as_chunks_mut().0
}

#[inline(always)]
fn transpose(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    let [a, b, c, d] = rows;
    [[a[0], b[0], c[0], d[0]], [a[1], b[1], c[1], d[1]], [a[2], b[2], c[2], d[2]], [a[3], b[3], c[3], d[3]]]
}

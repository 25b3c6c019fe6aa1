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

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
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
pub(super) fn strips_mut<S: Simd>(floats: &mut [f32]) -> &mut [Strip<S>] {
    S::as_mut_simd_f32s(floats).0.as_chunks_mut().0
}

/// The same number in a whole strip.
#[inline(always)]
pub(super) fn splat<S: Simd>(simd: S, value: f32) -> Strip<S> {
    [simd.splat_f32s(value); 2]
}

// No closures from here on: the compiler makes functions of them that lack the SIMD features, and may call them.

/// `a + b`.
#[inline(always)]
pub(super) fn add<S: Simd>(simd: S, a: Strip<S>, b: Strip<S>) -> Strip<S> {
    [simd.add_f32s(a[0], b[0]), simd.add_f32s(a[1], b[1])]
}

/// `a - b`.
#[inline(always)]
pub(super) fn sub<S: Simd>(simd: S, a: Strip<S>, b: Strip<S>) -> Strip<S> {
    [simd.sub_f32s(a[0], b[0]), simd.sub_f32s(a[1], b[1])]
}

/// `a * b`.
#[inline(always)]
pub(super) fn mul<S: Simd>(simd: S, a: Strip<S>, b: Strip<S>) -> Strip<S> {
    [simd.mul_f32s(a[0], b[0]), simd.mul_f32s(a[1], b[1])]
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

/// Where pieces of rows are gathered before they are lifted. Rows of a layer often lie a multiple of 4096 bytes apart,
/// and then the lines of 16 of them drive each other out of the nearest cache; here they do not.
#[derive(Debug)]
pub(super) struct Stage {
    floats: Aligned,
    stride: usize,
}

impl Stage {
    /// For so many rows of up to `width` columns.
    pub(super) fn new(rows: usize, width: usize) -> Self {
        let stride = width.div_ceil(16) * 16 + 16;
        Self { floats: Aligned::zeros(rows * stride), stride }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.floats.bytes()
    }

    /// Lift columns of some rows, from `start` on, into a panel.
    #[inline(always)]
    pub(super) fn lift<S: Simd>(&mut self, simd: S, from: &[&[f32]], start: usize, panel: &mut [Strip<S>]) {
        for (to, from) in self.floats.floats_mut().chunks_exact_mut(self.stride).zip(from) {
            to[..panel.len()].copy_from_slice(&from[start..start + panel.len()]);
        }
        let mut rows: [&[f32]; 2 * LANES_MAX] = [&[]; 2 * LANES_MAX];
        for (row, staged) in rows.iter_mut().zip(self.floats.floats().chunks_exact(self.stride)) {
            *row = staged;
        }
        lift(simd, &rows[..from.len()], 0, panel);
    }

    /// Put a panel back into columns of rows, from `start` on.
    #[inline(always)]
    pub(super) fn lower<S: Simd>(&mut self, simd: S, panel: &[Strip<S>], to: &mut [&mut [f32]], start: usize) {
        let mut rows: [&mut [f32]; 2 * LANES_MAX] = Default::default();
        for (row, staged) in rows.iter_mut().zip(self.floats.floats_mut().chunks_exact_mut(self.stride)) {
            *row = staged;
        }
        lower(simd, panel, &mut rows[..to.len()], 0);
        for (to, from) in to.iter_mut().zip(&rows) {
            to[start..start + panel.len()].copy_from_slice(&from[..panel.len()]);
        }
    }
}

/// Lift columns of up to [`rows`] rows, from `start` on, into a panel. Rows that are missing are zero.
///
/// Where all rows are there, they lie in the lanes in an order of the processor's; [`lower`] puts them back in theirs.
#[inline(always)]
fn lift<S: Simd>(simd: S, from: &[&[f32]], start: usize, panel: &mut [Strip<S>]) {
    let width = panel.len();
    let whole = if from.len() == rows::<S>() { width / 4 * 4 } else { 0 };
    let (quads, rest) = panel.split_at_mut(whole);
    for half in 0..2 {
        let mut inputs: [&[[f32; 4]]; LANES_MAX] = [&[]; LANES_MAX];
        if whole > 0 {
            for lane in 0..S::F32_LANES {
                inputs[lane] = from[half * S::F32_LANES + lane][start..start + whole].as_chunks().0;
            }
        }
        for (at, strips) in quads.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let mut block = [simd.splat_f32s(0.0); 4];
            let cells: &mut [[f32; 4]] = bytemuck::cast_slice_mut(&mut block);
            for lane in 0..S::F32_LANES {
                cells[lane] = inputs[lane][at];
            }
            let columns = simd.deinterleave_shfl_f32s(block);
            for column in 0..4 {
                strips[column][half] = columns[column];
            }
        }
    }
    for (column, strip) in rest.iter_mut().enumerate() {
        let values: &mut [f32] = bytemuck::cast_slice_mut(strip);
        values.fill(0.0);
        for (at, row) in from.iter().enumerate() {
            values[place::<S>(simd, at, from.len())] = row[start + whole + column];
        }
    }
}

/// Put a panel back into columns of rows.
#[inline(always)]
fn lower<S: Simd>(simd: S, panel: &[Strip<S>], to: &mut [&mut [f32]], start: usize) {
    let width = panel.len();
    let whole = if to.len() == rows::<S>() { width / 4 * 4 } else { 0 };
    let (quads, rest) = panel.split_at(whole);
    for (half, to) in to.chunks_exact_mut(S::F32_LANES).enumerate() {
        for (at, strips) in quads.as_chunks::<4>().0.iter().enumerate() {
            let columns = [strips[0][half], strips[1][half], strips[2][half], strips[3][half]];
            let block = simd.interleave_shfl_f32s(columns);
            let cells: &[[f32; 4]] = bytemuck::cast_slice(&block);
            for lane in 0..S::F32_LANES {
                to[lane][start + 4 * at..][..4].copy_from_slice(&cells[lane]);
            }
        }
    }
    let count = to.len();
    for (column, strip) in rest.iter().enumerate() {
        let values: &[f32] = bytemuck::cast_slice(strip);
        for (at, row) in to.iter_mut().enumerate() {
            row[start + whole + column] = values[place::<S>(simd, at, count)];
        }
    }
}

/// The widest vectors there are.
pub(super) const LANES_MAX: usize = 16;

/// In which lane of a strip a row lies.
#[inline(always)]
fn place<S: Simd>(simd: S, row: usize, count: usize) -> usize {
    if count < rows::<S>() {
        return row;
    }
    let (half, lane) = (row / S::F32_LANES, row % S::F32_LANES);
    half * S::F32_LANES + order(simd)[lane]
}

/// Which lane the processor's shuffle gives each row.
#[inline(always)]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small integers"
)]
fn order<S: Simd>(simd: S) -> [usize; LANES_MAX] {
    let mut block = [simd.splat_f32s(0.0); 4];
    let cells: &mut [[f32; 4]] = bytemuck::cast_slice_mut(&mut block);
    for (lane, cell) in cells.iter_mut().enumerate() {
        *cell = [lane as f32; 4];
    }
    let turned = simd.deinterleave_shfl_f32s(block);
    let rows: &[f32] = bytemuck::cast_slice(&turned[..1]);
    let mut order = [0; LANES_MAX];
    for (lane, row) in rows.iter().enumerate() {
        order[*row as usize] = lane;
    }
    order
}

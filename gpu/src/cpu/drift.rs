//! How far y turned from x, row by row.

use super::strip::{Strip, fma, splat, sub};
use pulp::Simd;

/// How far y turned from x, row by row: `1 - cos(x, y)`, from x and `e = y - x`, so that a small turn of a long vector
/// is not lost: `1 - cos² = (x² e² - (x e)²) / (x² y²)`. Where e is not short beside y, `1 - x y / |x| |y|` is exact enough.
/// Where a square overflows or underflows, it is NaN, and whoever asked computes it anew in f64.
pub(super) struct Drift<S: Simd> {
    xx: Strip<S>,
    xy: Strip<S>,
    xe: Strip<S>,
    ee: Strip<S>,
    yy: Strip<S>,
    /// Of all values of x, and of y, their bits joined by OR: whether all are zero.
    any_x: [S::u32s; 2],
    any_y: [S::u32s; 2],
}

impl<S: Simd> Drift<S> {
    #[inline(always)]
    pub(super) fn new(simd: S) -> Self {
        let zero = splat(simd, 0.0);
        let none = [simd.splat_u32s(0); 2];
        Self { xx: zero, xy: zero, xe: zero, ee: zero, yy: zero, any_x: none, any_y: none }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, simd: S, x: Strip<S>, y: Strip<S>) {
        let e = sub(simd, y, x);
        self.xx = fma(simd, x, x, self.xx);
        self.xy = fma(simd, x, y, self.xy);
        self.xe = fma(simd, x, e, self.xe);
        self.ee = fma(simd, e, e, self.ee);
        self.yy = fma(simd, y, y, self.yy);
        for half in 0..2 {
            self.any_x[half] = simd.or_u32s(self.any_x[half], simd.transmute_u32s_f32s(x[half]));
            self.any_y[half] = simd.or_u32s(self.any_y[half], simd.transmute_u32s_f32s(y[half]));
        }
    }

    /// `1 - cos` for each row; 0 where both are zero, 1 where one is.
    #[inline(always)]
    pub(super) fn rows(&self, simd: S) -> Strip<S> {
        [self.half(simd, 0), self.half(simd, 1)]
    }

    #[inline(always)]
    fn half(&self, simd: S, half: usize) -> S::f32s {
        let (one, zero) = (simd.splat_f32s(1.0), simd.splat_f32s(0.0));
        let (xx, yy) = (self.xx[half], self.yy[half]);
        // All relative to x², so that short vectors do not underflow.
        let inverse = simd.div_f32s(one, xx);
        let along = simd.mul_f32s(self.xy[half], inverse);
        let mixed = simd.mul_f32s(self.xe[half], inverse);
        let apart = simd.mul_f32s(self.ee[half], inverse);
        let long = simd.mul_f32s(yy, inverse);
        let cosine = simd.div_f32s(along, simd.sqrt_f32s(long));
        let across = simd.sub_f32s(apart, simd.mul_f32s(mixed, mixed));
        let sine = simd.max_f32s(across, zero);
        let near = simd.div_f32s(sine, simd.mul_f32s(long, simd.add_f32s(one, cosine)));
        let far = simd.sub_f32s(one, cosine);
        let short = simd.less_than_f32s(simd.mul_f32s(apart, simd.splat_f32s(4.0)), long);
        let turned = simd.select_f32s(short, near, far);
        // Zero where the ratio of lengths is finite, and NaN elsewhere; likewise where squares are too small to tell.
        let least = simd.splat_f32s(f32::MIN_POSITIVE);
        let lost = simd.or_m32s(simd.less_than_f32s(xx, least), simd.less_than_f32s(yy, least));
        let turned = simd.add_f32s(turned, simd.sub_f32s(long, long));
        let turned = simd.select_f32s(lost, simd.splat_f32s(f32::NAN), turned);
        let (no_x, no_y) = (none(simd, self.any_x[half]), none(simd, self.any_y[half]));
        let turned = simd.select_f32s(simd.or_m32s(no_x, no_y), one, turned);
        simd.select_f32s(simd.and_m32s(no_x, no_y), zero, turned)
    }
}

/// Where all values were 0, or -0.
#[inline(always)]
fn none<S: Simd>(simd: S, bits: S::u32s) -> S::m32s {
    simd.less_than_u32s(simd.and_u32s(bits, simd.splat_u32s(0x7fff_ffff)), simd.splat_u32s(1))
}

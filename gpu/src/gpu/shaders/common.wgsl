// What every shader begins with: the build, and `pipelines.rs`, put this text before each of the others.

// One row of the table of seeds: `table::Row` on the host.
struct Seed {
  start: u32,    // first column
  width: u32,    // columns
  kind: u32,     // COPY, ADAPTER, SCALE or GROWN
  rank: u32,     // of an adapter
  weights: u32,  // where its weights begin, in floats; a multiple of four
  gradient: u32, // where its gradients begin; NONE if it does not learn
  alpha: f32,
  order: u32,    // the seed that is served at this place: within a tile, those that compute come first
}

// The sums that one group of rows leaves of one seed: eight floats, as `PART_BYTES` says on the host.
struct Part {
  rows: f32,
  pairs: f32,    // sum over rows of the products of all pairs of columns, each less its mean in this group
  drift: f32,    // sum over rows of 1 - cos(x, y)
  least: f32,
  greatest: f32,
  zeros: f32,
  unused_a: f32,
  unused_b: f32,
}

const COPY = 0u;
const ADAPTER = 1u;
const SCALE = 2u;
const GROWN = 3u; // f was computed by steps before and stands in y
const NONE = 0xffffffffu;
const ZERO_BELOW = 1e-6;
const HUGE = 3.4028235e38;

// Compilers may assume that there is no NaN; they assume nothing of bits.
fn not_finite(value: f32) -> bool {
  return (bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u;
}

// tanh overflows on some devices, and is coarse on others: x/2 (1 + tanh(u)) is x / (1 + exp(-2u)).
fn gelu(x: vec4<f32>) -> vec4<f32> {
  let twice = 1.5957691216057308 * (x + 0.044715 * x * x * x);
  return x / (1.0 + exp(clamp(-twice, vec4(-80.0), vec4(80.0))));
}

fn gelu_slope(x: f32) -> f32 {
  let twice = 1.5957691216057308 * (x + 0.044715 * x * x * x);
  let s = 1.0 / (1.0 + exp(clamp(-twice, -80.0, 80.0)));
  // Further out the slope is 0 or 1 exactly, and the square of a huge value would be infinite.
  let near = clamp(x, -16.0, 16.0);
  return s + near * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * near * near);
}

// 1 - cos(x, y), from the sums of x·x, x·y, y·y and d·d, d being y - x. Where d is small, 1 - x·y / |x||y| would be the
// difference of two numbers that are almost one; where it is not, that is the better way.
fn row_drift(sums: vec4<f32>) -> f32 {
  if sums.x == 0.0 && sums.z == 0.0 { return 0.0; }
  if sums.x == 0.0 || sums.z == 0.0 { return 1.0; }
  let a = sqrt(sums.x);
  let b = sqrt(sums.z);
  if sums.w > 0.25 * sums.x { return 1.0 - sums.y / (a * b); }
  let apart = (sums.x - sums.z) / (a + b);
  return max(sums.w - apart * apart, 0.0) / (2.0 * a * b);
}

// Whether f32 holds the squares that these sums are of.
fn squares_hold(sums: vec4<f32>) -> bool {
  return sums.x > 1e-30 && sums.x < 1e30 && sums.z > 1e-30 && sums.z < 1e30;
}

// 1 - cos(x, y) where it does not, from the greatest magnitudes, and the sums of x·x, x·y and y·y, each divided by its own.
fn scaled_drift(greatest: vec2<f32>, sums: vec3<f32>) -> f32 {
  if greatest.x == 0.0 && greatest.y == 0.0 { return 0.0; }
  if greatest.x == 0.0 || greatest.y == 0.0 { return 1.0; }
  return max(1.0 - sums.y / sqrt(sums.x * sums.z), 0.0);
}

// A count, a mean, and the sum of squared deviations from it.
struct Moments {
  count: f32,
  mean: f32,
  moment: f32,
}

// Chan's rule: the moments of two sets together.
fn merged(a: Moments, b: Moments) -> Moments {
  let count = a.count + b.count;
  if count == 0.0 { return a; }
  let apart = b.mean - a.mean;
  let share = b.count / count;
  return Moments(count, a.mean + apart * share, a.moment + b.moment + apart * apart * a.count * share);
}

// Sums of deviations from a pivot, which keep their digits when all values lie far from zero.
struct Pivoted {
  count: f32,
  pivot: f32,
  sum: f32,
  squares: f32,
}

fn counted(sums: Pivoted, value: f32) -> Pivoted {
  var next = sums;
  if sums.count == 0.0 { next.pivot = value; }
  let apart = value - next.pivot;
  next.count += 1.0;
  next.sum += apart;
  next.squares += apart * apart;
  return next;
}

// Their mean is given from `origin`: far from zero, a mean itself would have no digits to spare.
fn moments(sums: Pivoted, origin: f32) -> Moments {
  let count = max(sums.count, 1.0);
  let mean = (sums.pivot - origin) + sums.sum / count;
  return Moments(sums.count, mean, max(sums.squares - sums.sum * sums.sum / count, 0.0));
}

// A sum, and the sum of the products of all pairs that were added: (a + b)² without a² and b². The difference of a square
// and a sum of squares would have few digits where one column varies much more than the others.
fn with_pair(sums: vec2<f32>, other: vec2<f32>) -> vec2<f32> {
  return vec2(sums.x + other.x, sums.y + other.y + sums.x * other.x);
}

// A seed's column in one group of rows: mean from the batch's pivot, and squared deviations, whose sign says that the column is dead.
fn column_part(all: Moments, zeros: f32) -> vec2<f32> {
  let dead = all.count > 0.0 && zeros == all.count;
  return vec2(all.mean, select(all.moment, bitcast<f32>(bitcast<u32>(all.moment) | 0x80000000u), dead));
}

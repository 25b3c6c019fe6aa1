// Forward for chunks of 16 columns and more. A workgroup takes one seed through 64 rows, 32 columns at a time. For the
// hidden values of an adapter, half of the threads hold eight of them for two rows each in registers; a subgroup reads
// the same weights, and each quad of weights serves eight multiplications, so that arithmetic and not reading decides.

const COLUMNS = 32u;
const ROWS = 64u;
const STRIDE = 33u;        // one more than the columns, so that the rows of a column lie in different banks
const RANK = 16u;          // hidden values that fit into `hidden`: the rank of every adapter is padded to it
const HIDDEN_STRIDE = 17u;

var<workgroup> tile: array<f32, 2112>;
var<workgroup> hidden: array<f32, 1088>;
var<workgroup> stash: array<vec4<f32>, 64>;

fn quad_at(row: u32, quad: u32) -> vec4<f32> {
  let base = row * STRIDE + quad * 4u;
  return vec4(tile[base], tile[base + 1u], tile[base + 2u], tile[base + 3u]);
}

// Bring 32 columns of x into the tile: zero beyond the chunk and the batch.
fn bring(seed: Seed, column_first: u32, row_first: u32, thread: u32) {
  let column = column_first + thread % COLUMNS;
  for (var n = 0u; n < 32u; n++) {
    let row = thread / COLUMNS + n * 2u;
    var value = 0.0;
    if column < seed.width && row_first + row < pass_.rows {
      value = x[(row_first + row) * pass_.width + seed.start + column];
    }
    tile[row * STRIDE + thread % COLUMNS] = value;
  }
}

// Add what the tile's columns give to eight hidden values of two rows.
fn gather(seed: Seed, quad_first: u32, row: u32, k_first: u32, sums: ptr<function, array<vec4<f32>, 4>>) {
  for (var q = 0u; q < 8u; q++) {
    if quad_first + q >= QUADS { break; }
    let a = quad_at(row, q);
    let b = quad_at(row + 32u, q);
    let base = hidden_at(seed, k_first) + quad_first + q;
    let w0 = weights[base];
    let w1 = weights[base + 2u * QUADS];
    let w2 = weights[base + 4u * QUADS];
    let w3 = weights[base + 6u * QUADS];
    (*sums)[0] += vec4(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
    (*sums)[1] += vec4(dot(b, w0), dot(b, w1), dot(b, w2), dot(b, w3));
    let w4 = weights[base + 8u * QUADS];
    let w5 = weights[base + 10u * QUADS];
    let w6 = weights[base + 12u * QUADS];
    let w7 = weights[base + 14u * QUADS];
    (*sums)[2] += vec4(dot(a, w4), dot(a, w5), dot(a, w6), dot(a, w7));
    (*sums)[3] += vec4(dot(b, w4), dot(b, w5), dot(b, w6), dot(b, w7));
  }
}

fn keep(row: u32, k: u32, values: vec4<f32>) {
  for (var j = 0u; j < 4u; j++) { hidden[row * HIDDEN_STRIDE + k + j] = values[j]; }
}

// f of one quad of columns, for two rows.
fn grow(seed: Seed, quad: u32, row: u32, y_at: vec2<u32>, a: vec4<f32>, b: vec4<f32>) -> array<vec4<f32>, 2> {
  var f: array<vec4<f32>, 2>;
  if seed.kind == ADAPTER {
    let bias = weights[hidden_at(seed, RANK) + RANK / 4u + quad];
    f[0] = bias;
    f[1] = bias;
    for (var k = 0u; k < RANK; k++) {
      let up = weights[hidden_at(seed, k) + QUADS + quad];
      f[0] += hidden[row * HIDDEN_STRIDE + k] * up;
      f[1] += hidden[(row + 32u) * HIDDEN_STRIDE + k] * up;
    }
  } else if seed.kind == SCALE {
    let scale = weights[seed.weights / 4u + quad];
    let shift = weights[seed.weights / 4u + QUADS + quad];
    f[0] = scale * a + shift;
    f[1] = scale * b + shift;
  } else if seed.kind == GROWN {
    for (var j = 0u; j < 4u; j++) {
      if quad * 4u + j < seed.width {
        if y_at.x != NONE { f[0][j] = y[y_at.x + quad * 4u + j]; }
        if y_at.y != NONE { f[1][j] = y[y_at.y + quad * 4u + j]; }
      }
    }
  }
  return f;
}

// What one thread gathers of its two rows a and b, in half of the columns.
struct Rows {
  a: vec4<f32>,       // sums of x·x, x·y, y·y and d·d
  b: vec4<f32>,
  pairs_a: vec2<f32>, // of y less the column's first value in this group of rows: sum, and products of pairs
  pairs_b: vec2<f32>,
}

fn serve(seed: Seed, column_first: u32, row_first: u32, thread: u32, rows: ptr<function, Rows>) {
  let row = thread % 32u;
  let base = row_first * pass_.width + seed.start;
  let y_at = vec2(
    select(NONE, base + row * pass_.width, row_first + row < pass_.rows),
    select(NONE, base + (row + 32u) * pass_.width, row_first + row + 32u < pass_.rows),
  );
  for (var n = 0u; n < 4u; n++) {
    let q = (thread / 32u) * 4u + n;
    let quad = column_first / 4u + q;
    if quad >= QUADS || quad * 4u >= seed.width { break; }
    let a = quad_at(row, q);
    let b = quad_at(row + 32u, q);
    var f = grow(seed, quad, row, y_at, a, b);
    for (var j = 0u; j < 4u; j++) {
      if quad * 4u + j >= seed.width { break; }
      let grown = vec2(f[0][j], f[1][j]);
      var result = vec2(a[j], b[j]);
      if seed.kind != COPY {
        // Said to be one operation, so that it is the same with telemetry and without.
        result = fma(vec2(seed.alpha), grown, result);
        tile[row * STRIDE + q * 4u + j] = result.x;
        tile[(row + 32u) * STRIDE + q * 4u + j] = result.y;
      }
      if TELEMETRY {
        let step = seed.alpha * grown;
        (*rows).a += vec4(a[j] * a[j], a[j] * result.x, result.x * result.x, step.x * step.x);
        (*rows).b += vec4(b[j] * b[j], b[j] * result.y, result.y * result.y, step.y * step.y);
      }
    }
  }
}

fn gather_pairs(seed: Seed, column_first: u32, thread: u32, rows: ptr<function, Rows>) {
  let row = thread % 32u;
  for (var j = (thread / 32u) * 16u; j < (thread / 32u) * 16u + 16u; j++) {
    if column_first + j >= seed.width { break; }
    let pivot = tile[j];
    (*rows).pairs_a = with_pair((*rows).pairs_a, vec2(tile[row * STRIDE + j] - pivot, 0.0));
    (*rows).pairs_b = with_pair((*rows).pairs_b, vec2(tile[(row + 32u) * STRIDE + j] - pivot, 0.0));
  }
}

@compute @workgroup_size(64)
fn wide(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let number = pass_.seed_first + group.x;
  let seed = seeds[number];
  let row_first = group.y * ROWS;
  let live = min(ROWS, pass_.rows - row_first);
  let lane = thread / COLUMNS;
  let own_row = thread % 32u;
  if seed.kind == ADAPTER {
    var sums: array<vec4<f32>, 4>;
    for (var c = 0u; c < seed.width; c += COLUMNS) {
      workgroupBarrier();
      bring(seed, c, row_first, thread);
      workgroupBarrier();
      gather(seed, c / 4u, own_row, lane * 8u, &sums);
    }
    let bias = hidden_at(seed, RANK) + lane * 2u;
    keep(own_row, lane * 8u, gelu(sums[0] + weights[bias]));
    keep(own_row, lane * 8u + 4u, gelu(sums[2] + weights[bias + 1u]));
    keep(own_row + 32u, lane * 8u, gelu(sums[1] + weights[bias]));
    keep(own_row + 32u, lane * 8u + 4u, gelu(sums[3] + weights[bias + 1u]));
  }
  var bad = false;
  var all_zeros = 0.0;
  var least = HUGE;
  var greatest = -HUGE;
  var rows: Rows;
  var means: vec2<f32>;
  for (var c = 0u; c < seed.width; c += COLUMNS) {
    workgroupBarrier();
    // What fits into the tile whole is there already.
    if seed.kind != ADAPTER || seed.width > COLUMNS { bring(seed, c, row_first, thread); }
    workgroupBarrier();
    if seed.kind != COPY { serve(seed, c, row_first, thread, &rows); }
    workgroupBarrier();
    if TELEMETRY { gather_pairs(seed, c, thread, &rows); }
    let column = c + thread % COLUMNS;
    let inside = column < seed.width;
    var values: Pivoted;
    var zeros = 0.0;
    for (var n = 0u; n < 32u; n++) {
      let row = lane + n * 2u;
      if inside && row < live {
        let value = tile[row * STRIDE + thread % COLUMNS];
        y[(row_first + row) * pass_.width + seed.start + column] = value;
        bad |= not_finite(value);
        if TELEMETRY {
          values = counted(values, value);
          zeros += select(0.0, 1.0, abs(value) < ZERO_BELOW);
          least = min(least, value);
          greatest = max(greatest, value);
        }
      }
    }
    if TELEMETRY {
      all_zeros += zeros;
      var origin = 0.0;
      if inside { origin = pivot_of(seed.start + column); }
      if inside && lane == 0u { keep_pivot(group.y, seed.start + column, origin); }
      let nearby = tile[thread % COLUMNS];
      let own = moments(values, nearby);
      stash[thread] = vec4(own.count, own.mean, own.moment, zeros);
      workgroupBarrier();
      if lane == 0u && inside {
        let other = stash[thread + COLUMNS];
        var whole = merged(own, Moments(other.x, other.y, other.z));
        stash[thread] = vec4(whole.mean, 0.0, 0.0, 0.0);
        whole.mean += nearby - origin;
        columns[(pass_.group_first + group.y) * pass_.width + seed.start + column] = column_part(whole, zeros + other.w);
      } else if lane == 0u {
        stash[thread] = vec4(0.0);
      }
      for (var half = 16u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half { stash[thread] = vec4(with_pair(stash[thread].xy, stash[thread + half].xy), 0.0, 0.0); }
      }
      workgroupBarrier();
      means = with_pair(means, stash[0].xy);
    }
  }
  if bad { flag(number); }
  if TELEMETRY { report(number, seed, group.y, thread, live, rows, means.y, vec3(least, greatest, all_zeros)); }
}

// 1 - cos(x, y) of a row whose squares f32 does not hold: both are read again.
fn far_drift(seed: Seed, row: u32) -> f32 {
  let base = row * pass_.width + seed.start;
  var greatest = vec2(0.0);
  for (var j = base; j < base + seed.width; j++) { greatest = max(greatest, abs(vec2(x[j], y[j]))); }
  var sums = vec3(0.0);
  for (var j = base; j < base + seed.width; j++) {
    let a = x[j] / greatest.x;
    let b = y[j] / greatest.y;
    sums += vec3(a * a, a * b, b * b);
  }
  return scaled_drift(greatest, sums);
}

// Bring together what 64 threads know of one seed, always in the same order.
fn report(number: u32, seed: Seed, group: u32, thread: u32, live: u32, rows: Rows, centre: f32, values: vec3<f32>) {
  // Two threads have half of the columns of the same two rows: each hands one of them over.
  let first = thread < 32u;
  let partner = (thread + 32u) % 64u;
  storageBarrier();
  workgroupBarrier();
  stash[thread] = select(rows.a, rows.b, first);
  let given = select(rows.pairs_a, rows.pairs_b, first);
  hidden[thread] = given.x;
  hidden[64u + thread] = given.y;
  workgroupBarrier();
  let whole = select(rows.b, rows.a, first) + stash[partner];
  let pairs = with_pair(select(rows.pairs_b, rows.pairs_a, first), vec2(hidden[partner], hidden[64u + partner])).y;
  workgroupBarrier();
  if thread < live {
    var drift = 0.0;
    if seed.kind != COPY {
      if squares_hold(whole) { drift = row_drift(whole); } else { drift = far_drift(seed, group * ROWS + thread); }
    }
    stash[thread] = vec4(1.0, pairs, drift, 0.0);
  } else {
    stash[thread] = vec4(0.0);
  }
  for (var half = 32u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if thread < half { stash[thread] += stash[thread + half]; }
  }
  workgroupBarrier();
  let of_rows = stash[0];
  workgroupBarrier();
  stash[thread] = vec4(values, 0.0);
  for (var half = 32u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if thread < half {
      let a = stash[thread];
      let b = stash[thread + half];
      stash[thread] = vec4(min(a.x, b.x), max(a.y, b.y), a.z + b.z, 0.0);
    }
  }
  if thread == 0u {
    let extremes = stash[0];
    parts[(pass_.group_first + group) * pass_.seeds + number] =
      Part(of_rows.x, of_rows.y - of_rows.x * centre, of_rows.z, extremes.x, extremes.y, extremes.z, 0.0, 0.0);
  }
}

// Forward for chunks of fewer than 16 columns. A workgroup takes a tile of whole seeds, at most 64 columns, through
// 128 rows: 32 rows at a time go through shared memory, so that reading and writing is by whole lines however the chunks
// lie. A subgroup of 32 threads serves one seed on 32 rows: the weights it reads are the same for all of its threads,
// and none waits for a neighbour whose seed computes while its own does not. Seeds that compute are served first.

const COLUMNS = 64u;
const ROWS = 32u;
const BLOCKS = 4u;
const THREADS = 256u;

// Seeds that each subgroup serves: the seeds of a tile, divided by the eight subgroups.
override ROUNDS: u32 = 1u;

var<workgroup> tile: array<f32, 2048>;
var<workgroup> stash: array<vec4<f32>, 256>;
// Of each column: its first value of y in this group of rows, and its mean from there.
var<workgroup> pivots: array<f32, 64>;
var<workgroup> means: array<f32, 64>;
// Of each seed: the product of all pairs of these means.
var<workgroup> centres: array<f32, 64>;

// Both a row and a column of the tile lie in 32 different banks.
fn at(row: u32, column: u32) -> u32 {
  return row * COLUMNS + (column ^ row);
}

fn load(seed: Seed, row: u32, column: u32, quad: u32) -> vec4<f32> {
  var value = vec4(0.0);
  for (var j = 0u; j < 4u; j++) {
    if quad * 4u + j < seed.width { value[j] = tile[at(row, column + quad * 4u + j)]; }
  }
  return value;
}

fn adapter(seed: Seed, row: u32, column: u32, f: ptr<function, array<vec4<f32>, 4>>) {
  var input: array<vec4<f32>, 4>;
  let rank = (seed.rank + 3u) & ~3u;
  let biases = hidden_at(seed, rank);
  for (var q = 0u; q < QUADS; q++) {
    input[q] = load(seed, row, column, q);
    (*f)[q] = weights[biases + rank / 4u + q];
  }
  for (var k = 0u; k < rank; k += 4u) {
    let first = hidden_at(seed, k);
    var hidden = weights[biases + k / 4u];
    for (var q = 0u; q < QUADS; q++) {
      hidden += vec4(
        dot(input[q], weights[first + q]),
        dot(input[q], weights[first + 2u * QUADS + q]),
        dot(input[q], weights[first + 4u * QUADS + q]),
        dot(input[q], weights[first + 6u * QUADS + q]),
      );
    }
    let active_ = gelu(hidden);
    for (var q = 0u; q < QUADS; q++) {
      (*f)[q] += active_.x * weights[first + QUADS + q]
        + active_.y * weights[first + 3u * QUADS + q]
        + active_.z * weights[first + 5u * QUADS + q]
        + active_.w * weights[first + 7u * QUADS + q];
    }
  }
}

// 1 - cos(x, y) of a row whose squares f32 does not hold: x is read again, y is in the tile.
fn far_drift(seed: Seed, row: u32, column: u32, x_at: u32) -> f32 {
  var greatest = vec2(0.0);
  for (var j = 0u; j < seed.width; j++) {
    greatest = max(greatest, abs(vec2(x[x_at + j], tile[at(row, column + j)])));
  }
  var sums = vec3(0.0);
  for (var j = 0u; j < seed.width; j++) {
    let a = x[x_at + j] / greatest.x;
    let b = tile[at(row, column + j)] / greatest.y;
    sums += vec3(a * a, a * b, b * b);
  }
  return scaled_drift(greatest, sums);
}

// y of one seed on one row, from x in the tile, which it replaces. Answers 1 - cos(x, y).
fn serve(seed: Seed, row: u32, column: u32, y_at: u32) -> f32 {
  var f: array<vec4<f32>, 4>;
  if seed.kind == ADAPTER { adapter(seed, row, column, &f); }
  var sums: vec4<f32>;
  for (var q = 0u; q < QUADS; q++) {
    let value = load(seed, row, column, q);
    if seed.kind == SCALE {
      f[q] = weights[seed.weights / 4u + q] * value + weights[seed.weights / 4u + QUADS + q];
    }
    for (var j = 0u; j < 4u; j++) {
      if q * 4u + j >= seed.width { continue; }
      if seed.kind == GROWN { f[q][j] = y[y_at + q * 4u + j]; }
      // Said to be one operation, so that it is the same with telemetry and without.
      let result = fma(seed.alpha, f[q][j], value[j]);
      tile[at(row, column + q * 4u + j)] = result;
      if TELEMETRY {
        let step = seed.alpha * f[q][j];
        sums += vec4(value[j] * value[j], value[j] * result, result * result, step * step);
      }
    }
  }
  if !TELEMETRY { return 0.0; }
  if squares_hold(sums) { return row_drift(sums); }
  return far_drift(seed, row, column, y_at);
}

// The products of all pairs of a seed's columns on one row, each less its pivot.
fn pairs_of(seed: Seed, row: u32, column: u32) -> f32 {
  var pairs = vec2(0.0);
  for (var j = 0u; j < seed.width; j++) {
    pairs = with_pair(pairs, vec2(tile[at(row, column + j)] - pivots[column + j], 0.0));
  }
  return pairs.y;
}

@compute @workgroup_size(256)
fn narrow(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = pass_.seed_first + group.x * pass_.tile_seeds;
  let count = min(pass_.tile_seeds, pass_.seed_end - first);
  let start = seeds[first].start;
  let end = seeds[first + count - 1u].start + seeds[first + count - 1u].width;
  let computes = seeds[seeds[first].order].kind != COPY;
  let column = thread % COLUMNS;
  let inside = column < end - start;
  let lane = thread / COLUMNS;
  let own_row = thread % ROWS;
  var bad = false;
  var values: Pivoted;
  var zeros = 0.0;
  var least = HUGE;
  var greatest = -HUGE;
  var pairs: array<f32, 8>;
  var drifts: array<f32, 8>;
  var rows: array<f32, 8>;

  for (var block = 0u; block < BLOCKS; block++) {
    let row_first = (group.y * BLOCKS + block) * ROWS;
    if row_first >= pass_.rows { break; }
    let live = min(ROWS, pass_.rows - row_first);
    for (var n = 0u; n < 8u; n++) {
      let row = lane + n * 4u;
      if inside && row < live { tile[at(row, column)] = x[(row_first + row) * pass_.width + start + column]; }
    }
    if TELEMETRY || computes {
      workgroupBarrier();
      for (var n = 0u; n < ROUNDS; n++) {
        let place = thread / ROWS + n * 8u;
        if place >= count || own_row >= live { continue; }
        let seed = seeds[seeds[first + place].order];
        if seed.kind == COPY { continue; }
        drifts[n] += serve(seed, own_row, seed.start - start, (row_first + own_row) * pass_.width + seed.start);
      }
      workgroupBarrier();
    }
    if TELEMETRY {
      if block == 0u && thread < end - start { pivots[thread] = tile[at(0u, thread)]; }
      workgroupBarrier();
      for (var n = 0u; n < ROUNDS; n++) {
        let place = thread / ROWS + n * 8u;
        if place >= count || own_row >= live { continue; }
        let seed = seeds[seeds[first + place].order];
        pairs[n] += pairs_of(seed, own_row, seed.start - start);
        rows[n] += 1.0;
      }
    }
    for (var n = 0u; n < 8u; n++) {
      let row = lane + n * 4u;
      if inside && row < live {
        let value = tile[at(row, column)];
        y[(row_first + row) * pass_.width + start + column] = value;
        bad |= not_finite(value);
        if TELEMETRY {
          values = counted(values, value);
          zeros += select(0.0, 1.0, abs(value) < ZERO_BELOW);
          least = min(least, value);
          greatest = max(greatest, value);
        }
      }
    }
    // Without telemetry or a seed that computes, each thread reads only what it wrote itself.
    if TELEMETRY || computes { workgroupBarrier(); }
  }
  if bad { flag_column(first, count, start + column); }
  if !TELEMETRY { return; }

  // Columns: four lanes become one.
  var origin = 0.0;
  if inside { origin = pivot_of(start + column); }
  if inside && lane == 0u { keep_pivot(group.y, start + column, origin); }
  var nearby = 0.0;
  if inside { nearby = pivots[column]; }
  let all = moments(values, nearby);
  stash[thread] = vec4(all.count, all.mean, all.moment, zeros);
  workgroupBarrier();
  let out = pass_.group_first + group.y;
  if lane == 0u && inside {
    var whole = Moments(stash[column].x, stash[column].y, stash[column].z);
    for (var n = 1u; n < 4u; n++) {
      let other = stash[column + n * COLUMNS];
      whole = merged(whole, Moments(other.x, other.y, other.z));
      zeros += other.w;
    }
    means[column] = whole.mean;
    whole.mean += nearby - origin;
    columns[out * pass_.width + start + column] = column_part(whole, zeros);
  }
  workgroupBarrier();
  stash[thread] = vec4(least, greatest, stash[thread].w, 0.0);
  workgroupBarrier();
  // Seeds: the extremes over their columns.
  var part: Part;
  if thread < count {
    let seed = seeds[first + thread];
    part.least = HUGE;
    part.greatest = -HUGE;
    for (var j = 0u; j < seed.width * 4u; j++) {
      let base = stash[(j / seed.width) * COLUMNS + seed.start - start + j % seed.width];
      part.least = min(part.least, base.x);
      part.greatest = max(part.greatest, base.y);
      part.zeros += base.z;
    }
    var pairs_of_means = vec2(0.0);
    for (var j = 0u; j < seed.width; j++) {
      pairs_of_means = with_pair(pairs_of_means, vec2(means[seed.start - start + j], 0.0));
    }
    centres[thread] = pairs_of_means.y;
    parts[out * pass_.seeds + first + thread] = part;
  }
  // And their rows: 32 threads become one, always in the same order.
  for (var n = 0u; n < ROUNDS; n++) {
    storageBarrier();
    workgroupBarrier();
    let place = thread / ROWS + n * 8u;
    stash[thread] = vec4(rows[n], pairs[n], drifts[n], 0.0);
    for (var half = 16u; half > 0u; half /= 2u) {
      workgroupBarrier();
      if own_row < half { stash[thread] += stash[thread + half]; }
    }
    if own_row == 0u && place < count {
      let seed = seeds[first + place].order;
      let to = out * pass_.seeds + seed;
      parts[to].rows = stash[thread].x;
      parts[to].pairs = stash[thread].y - stash[thread].x * centres[seed - first];
      parts[to].drift = stash[thread].z;
    }
  }
}

fn flag_column(first: u32, count: u32, column: u32) {
  for (var n = 0u; n < count; n++) {
    let seed = seeds[first + n];
    if column >= seed.start && column < seed.start + seed.width { flag(first + n); }
  }
}

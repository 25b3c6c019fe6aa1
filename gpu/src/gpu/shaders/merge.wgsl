// The telemetry of every seed, from what the groups of rows left: columns by Chan's rule over the groups, then all columns
// of a chunk. A workgroup of 64 threads serves `64 / lanes` seeds, each with `lanes` threads that share its columns.

struct Merge {
  width: u32,
  seeds: u32,
  groups: u32,
  lanes: u32,
}

@group(0) @binding(0) var<uniform> merge_: Merge;
@group(0) @binding(1) var<storage, read> seeds: array<Seed>;
@group(0) @binding(2) var<storage, read> columns: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> parts: array<Part>;
@group(0) @binding(4) var<storage, read_write> telemetry: array<array<f32, 8>>;

// What some columns of a chunk have together.
struct Columns {
  all: Moments,         // from the pivot of the first column
  means: vec2<f32>,      // sum and pairs of their means, from those of the first group of rows
  deviations: vec2<f32>, // sum and pairs of their standard deviations
  dead: f32,
}

fn together(a: Columns, b: Columns) -> Columns {
  return Columns(
    merged(a.all, b.all), with_pair(a.means, b.means), with_pair(a.deviations, b.deviations), a.dead + b.dead,
  );
}

var<workgroup> stash: array<Columns, 64>;
var<workgroup> pairs: array<f32, 64>;

fn pivot(column: u32) -> f32 {
  return columns[merge_.groups * merge_.width + column].x;
}

fn column_of(number: u32, at: u32, start: u32) -> Columns {
  var all: Moments;
  var dead = 1.0;
  for (var g = 0u; g < merge_.groups; g++) {
    let part = columns[g * merge_.width + at];
    if (bitcast<u32>(part.y) & 0x80000000u) == 0u { dead = 0.0; }
    all = merged(all, Moments(parts[g * merge_.seeds + number].rows, part.x, abs(part.y)));
  }
  let deviation = sqrt(all.moment / all.count);
  let mean = all.mean + (pivot(at) - pivot(start));
  return Columns(Moments(all.count, mean, all.moment), vec2(all.mean - columns[at].x, 0.0), vec2(deviation, 0.0), dead);
}

// The products of pairs in some groups of rows, from the means of the first group.
fn pairs_of(number: u32, seed: Seed, lane: u32) -> f32 {
  var sum = 0.0;
  for (var g = lane; g < merge_.groups; g += merge_.lanes) {
    var between = vec2(0.0);
    for (var at = seed.start; at < seed.start + seed.width; at++) {
      between = with_pair(between, vec2(columns[g * merge_.width + at].x - columns[at].x, 0.0));
    }
    let part = parts[g * merge_.seeds + number];
    sum += part.pairs + part.rows * between.y;
  }
  return sum;
}

@compute @workgroup_size(64)
fn merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let number = (group.y * groups.x + group.x) * (64u / merge_.lanes) + thread / merge_.lanes;
  let lane = thread % merge_.lanes;
  var own: Columns;
  if number < merge_.seeds {
    let seed = seeds[number];
    for (var j = lane; j < seed.width; j += merge_.lanes) {
      own = together(own, column_of(number, seed.start + j, seed.start));
    }
    pairs[thread] = pairs_of(number, seed, lane);
  }
  stash[thread] = own;
  workgroupBarrier();
  if lane == 0u && number < merge_.seeds {
    for (var n = 1u; n < merge_.lanes; n++) { 
      own = together(own, stash[thread + n]);
      pairs[thread] += pairs[thread + n];
    }
    telemetry[number] = conclude(number, own, pairs[thread]);
  }
}

fn conclude(number: u32, own: Columns, all_pairs: f32) -> array<f32, 8> {
  let seed = seeds[number];
  var whole: Part;
  whole.least = HUGE;
  whole.greatest = -HUGE;
  for (var g = 0u; g < merge_.groups; g++) {
    let part = parts[g * merge_.seeds + number];
    whole.rows += part.rows;
    whole.drift += part.drift;
    whole.zeros += part.zeros;
    whole.least = min(whole.least, part.least);
    whole.greatest = max(whole.greatest, part.greatest);
  }
  let above = all_pairs / whole.rows - own.means.y;
  let below = own.deviations.y;
  var correlation = 0.0;
  if below > 0.0 { correlation = clamp(above / below, -1.0, 1.0); }
  return array<f32, 8>(
    pivot(seed.start) + own.all.mean, own.all.moment / own.all.count, whole.least, whole.greatest,
    whole.zeros / own.all.count, own.dead / f32(seed.width), correlation,
    select(whole.drift / whole.rows, 0.0, seed.kind == COPY),
  );
}

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

// What some columns of a chunk have together. Pairs are summed as they come, for the difference of the square of a sum and
// the sum of squares has few digits where one column varies much more than the others.
struct Columns {
  all: Moments,         // from the pivot of the first column
  means: vec2<f32>,     // sum of the means from their pivots, and of the products of pairs of them
  deviations: vec2<f32>, // likewise
  dead: f32,
}

fn with_pair(sums: vec2<f32>, other: vec2<f32>) -> vec2<f32> {
  return vec2(sums.x + other.x, sums.y + other.y + sums.x * other.x);
}

fn together(a: Columns, b: Columns) -> Columns {
  return Columns(
    merged(a.all, b.all), with_pair(a.means, b.means), with_pair(a.deviations, b.deviations), a.dead + b.dead,
  );
}

var<workgroup> stash: array<Columns, 64>;

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
  return Columns(Moments(all.count, mean, all.moment), vec2(all.mean, 0.0), vec2(deviation, 0.0), dead);
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
  }
  stash[thread] = own;
  workgroupBarrier();
  if lane == 0u && number < merge_.seeds {
    for (var n = 1u; n < merge_.lanes; n++) { own = together(own, stash[thread + n]); }
    telemetry[number] = conclude(number, own);
  }
}

fn conclude(number: u32, own: Columns) -> array<f32, 8> {
  let seed = seeds[number];
  var whole: Part;
  whole.least = HUGE;
  whole.greatest = -HUGE;
  for (var g = 0u; g < merge_.groups; g++) {
    let part = parts[g * merge_.seeds + number];
    whole.rows += part.rows;
    whole.pairs += part.pairs;
    whole.drift += part.drift;
    whole.zeros += part.zeros;
    whole.least = min(whole.least, part.least);
    whole.greatest = max(whole.greatest, part.greatest);
  }
  let above = whole.pairs / whole.rows - 2.0 * own.means.y;
  let below = 2.0 * own.deviations.y;
  var correlation = 0.0;
  if below > 0.0 { correlation = clamp(above / below, -1.0, 1.0); }
  return array<f32, 8>(
    pivot(seed.start) + own.all.mean, own.all.moment / own.all.count, whole.least, whole.greatest,
    whole.zeros / own.all.count, own.dead / f32(seed.width), correlation,
    select(whole.drift / whole.rows, 0.0, seed.kind == COPY),
  );
}

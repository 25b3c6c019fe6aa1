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

var<workgroup> values: array<vec3<f32>, 64>;    // moments of all values
var<workgroup> deviations: array<vec3<f32>, 64>; // sums of deviations and of variances, count of dead columns

@compute @workgroup_size(64)
fn merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let number = (group.y * groups.x + group.x) * (64u / merge_.lanes) + thread / merge_.lanes;
  let lane = thread % merge_.lanes;
  var all: Moments;
  var spread = vec3(0.0);
  if number < merge_.seeds {
    let seed = seeds[number];
    for (var j = lane; j < seed.width; j += merge_.lanes) {
      var column: Moments;
      var dead = 1.0;
      for (var g = 0u; g < merge_.groups; g++) {
        let part = columns[g * merge_.width + seed.start + j];
        if (bitcast<u32>(part.y) & 0x80000000u) == 0u { dead = 0.0; }
        column = merged(column, Moments(parts[g * merge_.seeds + number].rows, part.x, abs(part.y)));
      }
      all = merged(all, column);
      let variance = column.moment / column.count;
      spread += vec3(sqrt(variance), variance, dead);
    }
  }
  values[thread] = vec3(all.count, all.mean, all.moment);
  deviations[thread] = spread;
  workgroupBarrier();
  if lane == 0u && number < merge_.seeds {
    for (var n = 1u; n < merge_.lanes; n++) {
      let other = values[thread + n];
      all = merged(all, Moments(other.x, other.y, other.z));
      spread += deviations[thread + n];
    }
    telemetry[number] = conclude(number, all, spread);
  }
}

fn conclude(number: u32, all: Moments, spread: vec3<f32>) -> array<f32, 8> {
  let seed = seeds[number];
  var rows: Moments;
  var drift = 0.0;
  var zeros = 0.0;
  var least = HUGE;
  var greatest = -HUGE;
  for (var g = 0u; g < merge_.groups; g++) {
    let part = parts[g * merge_.seeds + number];
    // Pivots differ between groups: what lies between them is small, while the sums themselves may be large.
    let apart = f32(seed.width) * (part.pivot - parts[number].pivot);
    rows = merged(rows, Moments(part.rows, part.row_mean + apart, part.row_moment));
    drift += part.drift;
    zeros += part.zeros;
    least = min(least, part.least);
    greatest = max(greatest, part.greatest);
  }
  // The variance of the sum of columns is the sum of all covariances.
  let above = rows.moment / rows.count - spread.y;
  let below = spread.x * spread.x - spread.y;
  var correlation = 0.0;
  if seed.width > 1u && below > 0.0 { correlation = clamp(above / below, -1.0, 1.0); }
  return array<f32, 8>(
    all.mean, all.moment / all.count, least, greatest, zeros / all.count, spread.z / f32(seed.width), correlation,
    select(drift / rows.count, 0.0, seed.kind == COPY),
  );
}

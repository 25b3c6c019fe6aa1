// Marks the seeds in whose chunk a value is not finite.

struct Check {
  width: u32,
  values: u32,
  wider: u32,  // chunks that are one column wider
  narrow: u32, // columns of the others
}

@group(0) @binding(0) var<uniform> check_: Check;
@group(0) @binding(1) var<storage, read_write> flags: array<atomic<u32>>;
@group(1) @binding(0) var<storage, read> values: array<f32>;

fn seed_of(column: u32) -> u32 {
  let edge = check_.wider * (check_.narrow + 1u);
  if column < edge { return column / (check_.narrow + 1u); }
  return check_.wider + (column - edge) / check_.narrow;
}

@compute @workgroup_size(256)
fn check(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var at = id.x; at < check_.values; at += groups.x * 256u) {
    if not_finite(values[at]) {
      let seed = seed_of(at % check_.width);
      atomicOr(&flags[seed / 32u], 1u << (seed % 32u));
    }
  }
}

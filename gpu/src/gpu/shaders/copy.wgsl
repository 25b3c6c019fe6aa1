// Copies one tensor into another by quads: what the others are measured against.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
// Not used. All copies bind it, so that each waits for the one before, as passes do, which share their marks.
@group(0) @binding(2) var<storage, read_write> shared_: array<u32>;

@compute @workgroup_size(256)
fn copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let at = id.y * groups.x * 256u + id.x;
  if at < arrayLength(&x) { y[at] = x[at]; }
}

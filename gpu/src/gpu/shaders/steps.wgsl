// The steps of which the backward pass is made, and the forward pass of what no fused kernel holds. Each serves a batch of
// seeds with the same function on a block of rows; what is between two steps lies in scratch memory. A sum is always
// taken by one thread in one order, so that it has the same bits on every run. Members that do not compute for now are
// left out.

// `steps::Step` on the host.
struct Step {
  width: u32,
  rows: u32,        // of this block
  row_first: u32,
  block_rows: u32,  // rows that scratch has for each seed
  member_first: u32,
  members: u32,
  quads: u32,       // of the widest chunk
  rank: u32,        // of the adapters, as padded
  tensor: u32,
  input: u32,       // where the input of the tensor is: TENSOR for x, or SCRATCH
  input_at: u32,
  input_stride: u32,
  activation: u32,
  gradient: u32,    // where the gradient of the tensor's output is: TENSOR for alpha * dy, or SCRATCH
  gradient_at: u32,
  gradient_stride: u32,
  output: u32,      // where the result goes: TENSOR for y or dx, or SCRATCH
  output_at: u32,
  output_stride: u32,
  slope: u32,       // the activation whose slope the result is multiplied with
  slope_at: u32,
  slope_stride: u32,
  deviation_at: u32,
  unused: u32,
}

const TENSOR = 0u;
const SCRATCH = 1u;

const PLAIN = 0u;
const GELU = 1u;
const RELU = 2u;
const NORM = 3u; // times norm_scale, plus norm_shift

const DOWN = 0u;
const UP = 1u;
const FIRST = 2u;
const SECOND = 3u;
const THIRD = 4u;

@group(0) @binding(0) var<uniform> step_: Step;
@group(0) @binding(1) var<storage, read> seeds: array<Seed>;
@group(0) @binding(2) var<storage, read> members: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> scratch: array<f32>;
@group(0) @binding(5) var<storage, read_write> gradients: array<f32>;
@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read> dy: array<f32>;
@group(1) @binding(2) var<storage, read_write> out: array<f32>;

// A matrix with its bias: where it is among the weights and among the gradients.
struct Matrix {
  inputs: u32,
  outputs: u32,
  at: u32,
  input_step: u32,
  output_step: u32,
  bias: u32,
  gradient: u32,
  gradient_bias: u32,
}

fn matrix(seed: Seed) -> Matrix {
  let c = seed.width;
  let r = seed.rank;
  let pad = 4u * step_.quads;
  let w = seed.weights;
  switch step_.tensor {
    case DOWN: {
      return Matrix(c, r, w, 1u, 2u * pad, w + step_.rank * 2u * pad, 0u, c * r);
    }
    case UP: {
      return Matrix(r, c, w + pad, 2u * pad, 1u, w + step_.rank * (2u * pad + 1u), c * r + r, 2u * c * r + r);
    }
    case FIRST: {
      let at = 2u * c;
      return Matrix(c, 4u * c, w + at, 4u * c, 1u, w + at + 4u * c * c, at, at + 4u * c * c);
    }
    case SECOND: {
      let at = 2u * c + 4u * c * c + 4u * c;
      return Matrix(4u * c, 4u * c, w + at, 4u * c, 1u, w + at + 16u * c * c, at, at + 16u * c * c);
    }
    default: {
      let at = 2u * c + 20u * c * c + 8u * c;
      return Matrix(4u * c, c, w + at, c, 1u, w + at + 4u * c * c, at, at + 4u * c * c);
    }
  }
}

fn seed_of(member: u32) -> Seed {
  return seeds[members[step_.member_first + member]];
}

fn place(at: u32, stride: u32, member: u32, row: u32) -> u32 {
  return at + (member * step_.block_rows + row) * stride;
}

// Where a seed's chunk lies in x, dy and the result.
fn chunk(seed: Seed, row: u32) -> u32 {
  return (step_.row_first + row) * step_.width + seed.start;
}

fn input_of(seed: Seed, member: u32, row: u32, i: u32) -> f32 {
  if step_.input == TENSOR { return x[chunk(seed, row) + i]; }
  let value = scratch[place(step_.input_at, step_.input_stride, member, row) + i];
  switch step_.activation {
    case GELU: { return gelu(vec4(value)).x; }
    case RELU: { return max(value, 0.0); }
    case NORM: { return value * weights[seed.weights + i] + weights[seed.weights + seed.width + i]; }
    default: { return value; }
  }
}

fn gradient_of(seed: Seed, member: u32, row: u32, k: u32) -> f32 {
  if step_.gradient == TENSOR { return seed.alpha * dy[chunk(seed, row) + k]; }
  return scratch[place(step_.gradient_at, step_.gradient_stride, member, row) + k];
}

// output = bias + input · matrix
@compute @workgroup_size(64)
fn affine(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let seed = seed_of(id.y);
  if seed.kind == COPY { return; }
  let m = matrix(seed);
  for (var at = id.x; at < step_.rows * m.outputs; at += groups.x * 64u) {
    let row = at / m.outputs;
    let k = at % m.outputs;
    var sum = weights[m.bias + k];
    for (var i = 0u; i < m.inputs; i++) {
      sum += input_of(seed, id.y, row, i) * weights[m.at + i * m.input_step + k * m.output_step];
    }
    if step_.output == TENSOR {
      out[chunk(seed, row) + k] = sum;
    } else {
      scratch[place(step_.output_at, step_.output_stride, id.y, row) + k] = sum;
    }
  }
}

// gradient of the input = gradient of the output · matrix transposed, times the slope of the input's activation
@compute @workgroup_size(64)
fn affine_back(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let seed = seed_of(id.y);
  if seed.kind == COPY { return; }
  let m = matrix(seed);
  for (var at = id.x; at < step_.rows * m.inputs; at += groups.x * 64u) {
    let row = at / m.inputs;
    let i = at % m.inputs;
    var sum = 0.0;
    for (var k = 0u; k < m.outputs; k++) {
      sum += gradient_of(seed, id.y, row, k) * weights[m.at + i * m.input_step + k * m.output_step];
    }
    if step_.slope != PLAIN {
      let before = scratch[place(step_.slope_at, step_.slope_stride, id.y, row) + i];
      if step_.slope == GELU { sum *= gelu_slope(before); } else if before <= 0.0 { sum = 0.0; }
    }
    if step_.output == TENSOR {
      out[chunk(seed, row) + i] = dy[chunk(seed, row) + i] + sum;
    } else {
      scratch[place(step_.output_at, step_.output_stride, id.y, row) + i] = sum;
    }
  }
}

// Add to the gradients of a matrix and its bias what these rows give.
@compute @workgroup_size(64)
fn gather(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let seed = seed_of(id.y);
  if seed.kind == COPY { return; }
  if seed.gradient == NONE { return; }
  let m = matrix(seed);
  for (var at = id.x; at < (m.inputs + 1u) * m.outputs; at += groups.x * 64u) {
    let i = at / m.outputs;
    let k = at % m.outputs;
    var sum = 0.0;
    for (var row = 0u; row < step_.rows; row++) {
      var value = gradient_of(seed, id.y, row, k);
      if i < m.inputs { value *= input_of(seed, id.y, row, i); }
      sum += value;
    }
    let to = seed.gradient + select(m.gradient_bias + k, m.gradient + at, i < m.inputs);
    gradients[to] += sum;
  }
}

// The layer norm of each row of a chunk, before its scale and shift; and the deviation that it was divided by.
@compute @workgroup_size(64)
fn normalise(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let seed = seed_of(id.y);
  if seed.kind == COPY { return; }
  let count = f32(seed.width);
  for (var row = id.x; row < step_.rows; row += groups.x * 64u) {
    let base = chunk(seed, row);
    let to = place(step_.output_at, step_.output_stride, id.y, row);
    // About the first value, so that a large offset costs no digits.
    let pivot = x[base];
    var sum = 0.0;
    for (var i = 0u; i < seed.width; i++) { sum += x[base + i] - pivot; }
    let middle = sum / count;
    var squares = 0.0;
    for (var i = 0u; i < seed.width; i++) {
      let apart = x[base + i] - pivot - middle;
      squares += apart * apart;
    }
    let deviation = sqrt(squares / count + 1e-5);
    for (var i = 0u; i < seed.width; i++) { scratch[to + i] = (x[base + i] - pivot - middle) / deviation; }
    scratch[place(step_.deviation_at, 1u, id.y, row)] = deviation;
  }
}

// Through the layer norm: its input is at `input`, the gradient of its scaled output at `gradient`.
@compute @workgroup_size(64)
fn normalise_back(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let seed = seed_of(id.y);
  if seed.kind == COPY { return; }
  let count = f32(seed.width);
  for (var row = id.x; row < step_.rows; row += groups.x * 64u) {
    let normal = place(step_.input_at, step_.input_stride, id.y, row);
    var mean = 0.0;
    var along = 0.0;
    for (var i = 0u; i < seed.width; i++) {
      let d = gradient_of(seed, id.y, row, i) * weights[seed.weights + i];
      mean += d;
      along += d * scratch[normal + i];
    }
    mean /= count;
    along /= count;
    let deviation = scratch[place(step_.deviation_at, 1u, id.y, row)];
    let to = chunk(seed, row);
    for (var i = 0u; i < seed.width; i++) {
      let d = gradient_of(seed, id.y, row, i) * weights[seed.weights + i];
      out[to + i] = dy[to + i] + (d - mean - scratch[normal + i] * along) / deviation;
    }
  }
}

// Add to the gradients of an elementwise scale and shift: those of a layer norm, and of the function `residual_scale`.
@compute @workgroup_size(64)
fn gather_scale(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let seed = seed_of(id.y);
  if seed.kind == COPY { return; }
  if seed.gradient == NONE { return; }
  for (var i = id.x; i < seed.width; i += groups.x * 64u) {
    var scale = 0.0;
    var shift = 0.0;
    for (var row = 0u; row < step_.rows; row++) {
      let d = gradient_of(seed, id.y, row, i);
      scale += d * input_of(seed, id.y, row, i);
      shift += d;
    }
    gradients[seed.gradient + i] += scale;
    gradients[seed.gradient + seed.width + i] += shift;
  }
}

// dx of `residual_scale`.
@compute @workgroup_size(64)
fn scale_back(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let seed = seed_of(id.y);
  if seed.kind == COPY { return; }
  for (var at = id.x; at < step_.rows * seed.width; at += groups.x * 64u) {
    let row = at / seed.width;
    let i = at % seed.width;
    let to = chunk(seed, row) + i;
    out[to] = dy[to] + gradient_of(seed, id.y, row, i) * weights[seed.weights + i];
  }
}

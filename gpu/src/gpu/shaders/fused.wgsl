// What the kernels of the forward pass share: `narrow` and `wide`.

struct Pass {
  width: u32,       // columns of the layer
  rows: u32,        // rows of this piece of the batch
  seed_first: u32,
  seed_end: u32,
  seeds: u32,       // of the whole layer
  tile_seeds: u32,  // seeds of one tile
  group_first: u32, // the number of this piece's first group of rows
  groups: u32,      // of the whole batch
}

// Quads of columns of the widest chunk: the weights of every seed are padded to them.
override QUADS: u32 = 1u;
override TELEMETRY: bool = false;

@group(0) @binding(0) var<uniform> pass_: Pass;
@group(0) @binding(1) var<storage, read> seeds: array<Seed>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> flags: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> columns: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> parts: array<Part>;
@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read_write> y: array<f32>;
// The first piece of the batch: from the values of its first row all means are counted.
@group(1) @binding(2) var<storage, read> batch: array<f32>;

fn flag(seed: u32) {
  atomicOr(&flags[seed / 32u], 1u << (seed % 32u));
}

// The value that a column's mean is counted from.
fn pivot_of(column: u32) -> f32 {
  return batch[column];
}

// Keep a pivot for `merge`, behind what the groups leave of their columns.
fn keep_pivot(group: u32, column: u32, pivot: f32) {
  if pass_.group_first + group == 0u { columns[pass_.groups * pass_.width + column] = vec2(pivot, 0.0); }
}

// Where the weights of an adapter's hidden value k begin, in quads: QUADS of `down`, then QUADS of `up`.
fn hidden_at(seed: Seed, k: u32) -> u32 {
  return seed.weights / 4u + k * 2u * QUADS;
}

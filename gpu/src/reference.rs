//! What a layer computes, in f64 and in the plainest way: the definition that the backends are held against. Slow.

mod plain;

pub use plain::Plain;

use crate::backend::View;
use crate::blueprint::{Function, LAYER_NORM_EPSILON, gelu, gelu_slope};
use crate::telemetry::{SeedTelemetry, ZERO_BELOW};

/// The output of a layer for `rows` rows of x.
///
/// # Panics
/// If x has not that many rows of the layer's width.
#[must_use]
pub fn forward(layer: &View<'_>, x: &[f32], rows: usize) -> Vec<f64> {
    let width = layer.chunks.width();
    assert_eq!(x.len(), rows * width, "x is rows × width");
    let mut y: Vec<f64> = x.iter().map(|&value| f64::from(value)).collect();
    for seed in 0..layer.chunks.seeds() {
        let Some(blueprint) = layer.computing(seed) else { continue };
        let weights = wide(&layer.weights[seed]);
        for row in y.chunks_exact_mut(width) {
            let chunk = &mut row[layer.chunks.range(seed)];
            let f = apply(blueprint.function, &weights, chunk).output;
            for (y, f) in chunk.iter_mut().zip(f) {
                *y += f64::from(layer.alpha[seed]) * f;
            }
        }
    }
    y
}

/// Gradients of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Backward {
    /// Of the input, rows × width.
    pub dx: Vec<f64>,
    /// Of the weights, by seed; none for a seed that does not learn.
    pub gradients: Vec<Vec<f64>>,
    /// Of the same weights, the sum over the rows of the magnitudes of what the gradient is the sum of.
    pub magnitudes: Vec<Vec<f64>>,
}

/// Gradients for the gradient `dy` of the output: of the input, and of the weights of the seeds that learn.
///
/// # Panics
/// If x or dy has not that many rows of the layer's width.
#[must_use]
pub fn backward(layer: &View<'_>, x: &[f32], rows: usize, dy: &[f32]) -> Backward {
    let width = layer.chunks.width();
    assert!(x.len() == rows * width && dy.len() == x.len(), "x and dy are rows × width");
    let mut dx: Vec<f64> = dy.iter().map(|&value| f64::from(value)).collect();
    let mut gradients = vec![Vec::new(); layer.chunks.seeds()];
    let mut magnitudes = gradients.clone();
    for seed in 0..layer.chunks.seeds() {
        let Some(blueprint) = layer.computing(seed) else { continue };
        let (weights, range) = (wide(&layer.weights[seed]), layer.chunks.range(seed));
        let (mut sum, mut magnitude) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        for row in 0..rows {
            let at = row * width + range.start..row * width + range.end;
            let input = wide(&x[at.clone()]);
            let df: Vec<f64> = dy[at.clone()].iter().map(|&g| f64::from(layer.alpha[seed]) * f64::from(g)).collect();
            let mut terms = vec![0.0; weights.len()];
            let through = differentiate(blueprint.function, &weights, &input, &df, &mut terms);
            for (at, term) in terms.into_iter().enumerate() {
                sum[at] += term;
                magnitude[at] += term.abs();
            }
            for (dx, through) in dx[at].iter_mut().zip(through) {
                *dx += through;
            }
        }
        if layer.learns(seed) {
            (gradients[seed], magnitudes[seed]) = (sum, magnitude);
        }
    }
    Backward { dx, gradients, magnitudes }
}

/// The statistics of y for each seed.
#[must_use]
pub fn telemetry(layer: &View<'_>, x: &[f32], y: &[f64], rows: usize) -> Vec<SeedTelemetry> {
    (0..layer.chunks.seeds()).map(|seed| seed_telemetry(layer, seed, x, y, rows)).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// What a function computed for one row, with what its gradient needs.
struct Applied {
    output: Vec<f64>,
    /// Hidden values before their activation, layer by layer.
    hidden: Vec<Vec<f64>>,
    /// The normalised input, and the deviation it was divided by.
    normal: Vec<f64>,
    deviation: f64,
}

fn apply(function: Function, weights: &[f64], x: &[f64]) -> Applied {
    let width = x.len();
    let parts = split(function, weights, width);
    let plain = |output, hidden| Applied { output, hidden, normal: Vec::new(), deviation: 1.0 };
    match function {
        Function::Adapter { .. } => {
            let hidden = affine(parts[0], parts[1], x);
            let active: Vec<f64> = hidden.iter().map(|&h| gelu(h)).collect();
            plain(affine(parts[2], parts[3], &active), vec![hidden])
        }
        Function::Mlp => {
            let (normal, deviation) = normalise(x);
            let scaled: Vec<f64> = (0..width).map(|j| normal[j] * parts[0][j] + parts[1][j]).collect();
            let first = affine(parts[2], parts[3], &scaled);
            let second = affine(parts[4], parts[5], &relu(&first));
            let output = affine(parts[6], parts[7], &relu(&second));
            Applied { output, hidden: vec![scaled, first, second], normal, deviation }
        }
        Function::ResidualScale => plain((0..width).map(|j| parts[0][j] * x[j] + parts[1][j]).collect(), Vec::new()),
    }
}

/// From the gradient of the output to that of the input; adds those of the weights to `sum`.
fn differentiate(function: Function, weights: &[f64], x: &[f64], dy: &[f64], sum: &mut [f64]) -> Vec<f64> {
    let width = x.len();
    let applied = apply(function, weights, x);
    let parts = split(function, weights, width);
    let mut sums = split_mut(function, sum, width);
    match function {
        Function::Adapter { .. } => {
            let hidden = &applied.hidden[0];
            let active: Vec<f64> = hidden.iter().map(|&h| gelu(h)).collect();
            let [down, down_bias, up, up_bias] = &mut sums[..] else { unreachable!("an adapter has four tensors") };
            let mut dh = affine_back(parts[2], &active, dy, up, up_bias);
            for (dh, &h) in dh.iter_mut().zip(hidden) {
                *dh *= gelu_slope(h);
            }
            affine_back(parts[0], x, &dh, down, down_bias)
        }
        Function::Mlp => mlp_back(&parts, &applied, dy, &mut sums),
        Function::ResidualScale => {
            for j in 0..width {
                sums[0][j] += dy[j] * x[j];
                sums[1][j] += dy[j];
            }
            (0..width).map(|j| dy[j] * parts[0][j]).collect()
        }
    }
}

fn mlp_back(parts: &[&[f64]], applied: &Applied, dy: &[f64], sums: &mut [&mut [f64]]) -> Vec<f64> {
    let [norm_scale, norm_shift, first, first_bias, second, second_bias, third, third_bias] = sums else {
        unreachable!("an mlp has eight tensors")
    };
    let gate = |gradient: &mut [f64], before: &[f64]| {
        for (gradient, &before) in gradient.iter_mut().zip(before) {
            *gradient *= f64::from(u8::from(before > 0.0));
        }
    };
    let [scaled, h1, h2] = &applied.hidden[..] else { unreachable!("an mlp keeps three") };
    let mut d2 = affine_back(parts[6], &relu(h2), dy, third, third_bias);
    gate(&mut d2, h2);
    let mut d1 = affine_back(parts[4], &relu(h1), &d2, second, second_bias);
    gate(&mut d1, h1);
    let ds = affine_back(parts[2], scaled, &d1, first, first_bias);
    let mut dn = vec![0.0; ds.len()];
    for j in 0..ds.len() {
        norm_scale[j] += ds[j] * applied.normal[j];
        norm_shift[j] += ds[j];
        dn[j] = ds[j] * parts[0][j];
    }
    let mean = mean(&dn);
    let along = dn.iter().zip(&applied.normal).map(|(d, n)| d * n).sum::<f64>() / count(dn.len());
    dn.iter().zip(&applied.normal).map(|(d, n)| (d - mean - n * along) / applied.deviation).collect()
}

fn split(function: Function, mut weights: &[f64], width: usize) -> Vec<&[f64]> {
    let cut = |part: crate::blueprint::Part| {
        let (head, tail) = weights.split_at(part.length);
        weights = tail;
        head
    };
    function.layout(width).into_iter().map(cut).collect()
}

fn split_mut(function: Function, mut weights: &mut [f64], width: usize) -> Vec<&mut [f64]> {
    let mut parts = Vec::new();
    for part in function.layout(width) {
        let (head, tail) = weights.split_at_mut(part.length);
        parts.push(head);
        weights = tail;
    }
    parts
}

fn affine(matrix: &[f64], bias: &[f64], x: &[f64]) -> Vec<f64> {
    let outputs = bias.len();
    (0..outputs).map(|k| bias[k] + (0..x.len()).map(|i| x[i] * matrix[i * outputs + k]).sum::<f64>()).collect()
}

fn affine_back(matrix: &[f64], x: &[f64], dy: &[f64], dmatrix: &mut [f64], dbias: &mut [f64]) -> Vec<f64> {
    let outputs = dy.len();
    for k in 0..outputs {
        dbias[k] += dy[k];
    }
    let mut dx = vec![0.0; x.len()];
    for i in 0..x.len() {
        for k in 0..outputs {
            dmatrix[i * outputs + k] += x[i] * dy[k];
            dx[i] += matrix[i * outputs + k] * dy[k];
        }
    }
    dx
}

fn relu(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&value| value.max(0.0)).collect()
}

fn normalise(x: &[f64]) -> (Vec<f64>, f64) {
    let middle = mean(x);
    let variance = x.iter().map(|value| (value - middle).powi(2)).sum::<f64>() / count(x.len());
    let deviation = (variance + LAYER_NORM_EPSILON).sqrt();
    (x.iter().map(|value| (value - middle) / deviation).collect(), deviation)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / count(values.len())
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(length: usize) -> f64 {
    length as f64
}

#[allow(clippy::cast_possible_truncation, reason = "statistics are kept as f32")]
fn seed_telemetry(layer: &View<'_>, seed: usize, x: &[f32], y: &[f64], rows: usize) -> SeedTelemetry {
    let (width, range) = (layer.chunks.width(), layer.chunks.range(seed));
    let row = |at: usize| at * width + range.start..at * width + range.end;
    let values: Vec<f64> = (0..rows).flat_map(|at| y[row(at)].iter().copied()).collect();
    let small = |value: &f64| value.abs() < f64::from(ZERO_BELOW);
    let columns: Vec<Vec<f64>> =
        range.clone().map(|column| (0..rows).map(|at| y[at * width + column]).collect()).collect();
    let middle = mean(&values);
    let dead = columns.iter().filter(|column| column.iter().all(small)).count();
    let drift = if layer.computing(seed).is_none() {
        0.0
    } else {
        1.0 - (0..rows).map(|at| cosine(&wide(&x[row(at)]), &y[row(at)])).sum::<f64>() / count(rows)
    };
    SeedTelemetry {
        mean: middle as f32,
        variance: (values.iter().map(|value| (value - middle).powi(2)).sum::<f64>() / count(values.len())) as f32,
        min: values.iter().copied().fold(f64::INFINITY, f64::min) as f32,
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max) as f32,
        sparsity: (count(values.iter().filter(|value| small(value)).count()) / count(values.len())) as f32,
        dead_ratio: (count(dead) / count(columns.len())) as f32,
        correlation: correlation(&columns) as f32,
        drift: drift as f32,
    }
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (aa, bb) = (dot(a, a), dot(b, b));
    match (aa == 0.0, bb == 0.0) {
        (true, true) => 1.0,
        (false, false) => dot(a, b) / (aa.sqrt() * bb.sqrt()),
        _ => 0.0,
    }
}

fn correlation(columns: &[Vec<f64>]) -> f64 {
    let means: Vec<f64> = columns.iter().map(|column| mean(column)).collect();
    let covariance = |i: usize, j: usize| {
        columns[i].iter().zip(&columns[j]).map(|(a, b)| (a - means[i]) * (b - means[j])).sum::<f64>()
            / count(columns[i].len())
    };
    let deviations: Vec<f64> = (0..columns.len()).map(|j| covariance(j, j).sqrt()).collect();
    let (mut above, mut below) = (0.0, 0.0);
    for i in 0..columns.len() {
        for j in (0..columns.len()).filter(|&j| j != i) {
            above += covariance(i, j);
            below += deviations[i] * deviations[j];
        }
    }
    if below == 0.0 { 0.0 } else { above / below }
}

#[cfg(test)]
mod tests;

//! The reference as a backend: every pass in f64, the result rounded once. Slow; for tests, and to judge the others by.

use crate::Error;
use crate::backend::{Backend, Changed, Device, Gradients, Pass, View, check_length};
use crate::blueprint::Blueprint;
use crate::chunks::Chunks;
use crate::state::SeedState;
use crate::telemetry::Telemetry;
use std::sync::Arc;

/// A backend that computes what [`super`] defines.
///
/// It keeps its own copy, and takes over of a partial [`Changed`] only what that names: a layer that forgets to say what
/// it changed gets answers from before the change.
#[derive(Debug, Clone, Default)]
pub struct Plain {
    held: Option<Held>,
}

#[derive(Debug, Clone)]
struct Held {
    chunks: Chunks,
    state: Vec<SeedState>,
    alpha: Vec<f32>,
    weights: Vec<Vec<f32>>,
    blueprints: Vec<Arc<Blueprint>>,
}

impl Held {
    fn of(layer: &View<'_>) -> Self {
        Self {
            chunks: layer.chunks,
            state: layer.state.to_vec(),
            alpha: layer.alpha.to_vec(),
            weights: layer.weights.to_vec(),
            blueprints: layer.blueprints.to_vec(),
        }
    }

    fn view(&self) -> View<'_> {
        View {
            chunks: self.chunks,
            state: &self.state,
            alpha: &self.alpha,
            weights: &self.weights,
            blueprints: &self.blueprints,
        }
    }

    fn take(&mut self, layer: &View<'_>, seeds: &[usize]) {
        self.blueprints = layer.blueprints.to_vec();
        for &seed in seeds {
            self.state[seed] = layer.state[seed];
            self.alpha[seed] = layer.alpha[seed];
            self.weights[seed].clone_from(&layer.weights[seed]);
        }
    }
}

impl Plain {
    fn held(&self) -> Result<&Held, Error> {
        self.held.as_ref().ok_or_else(|| Error::Device {
            device: "reference".to_owned(),
            problem: "a pass was asked for before a layer was loaded".to_owned(),
        })
    }
}

impl Backend for Plain {
    fn device(&self) -> Device {
        Device { backend: "reference", name: "f64".to_owned(), detail: "one thread".to_owned() }
    }

    fn load(&mut self, layer: &View<'_>, changed: Changed<'_>) -> Result<(), Error> {
        match (&mut self.held, changed) {
            (Some(held), Changed::Seeds(seeds)) if held.chunks == layer.chunks => held.take(layer, seeds),
            _ => self.held = Some(Held::of(layer)),
        }
        Ok(())
    }

    fn forward(
        &mut self,
        x: &[f32],
        rows: usize,
        y: &mut [f32],
        telemetry: Option<&mut Telemetry>,
    ) -> Result<Pass, Error> {
        let held = self.held()?;
        check_length("x", x.len(), rows, held.chunks.width())?;
        check_length("y", y.len(), rows, held.chunks.width())?;
        let exact = super::forward(&held.view(), x, rows);
        narrow(&exact, y);
        if let Some(telemetry) = telemetry {
            *telemetry = Telemetry { rows, seeds: super::telemetry(&held.view(), x, &exact, rows) };
        }
        Ok(Pass { not_finite: not_finite(held.chunks, y, &[]) })
    }

    fn backward(
        &mut self,
        x: &[f32],
        rows: usize,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<Pass, Error> {
        let held = self.held()?;
        for (name, length) in [("x", x.len()), ("dy", dy.len()), ("dx", dx.len())] {
            check_length(name, length, rows, held.chunks.width())?;
        }
        let super::Backward { dx: exact, gradients: sums, .. } = super::backward(&held.view(), x, rows, dy);
        narrow(&exact, dx);
        gradients.clear();
        for sum in sums {
            let mut one = vec![0.0; sum.len()];
            narrow(&sum, &mut one);
            gradients.push(one);
        }
        Ok(Pass { not_finite: not_finite(held.chunks, dx, gradients) })
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the result of a backend is f32")]
fn narrow(exact: &[f64], rounded: &mut [f32]) {
    for (rounded, &exact) in rounded.iter_mut().zip(exact) {
        *rounded = exact as f32;
    }
}

fn not_finite(chunks: Chunks, values: &[f32], gradients: &[Vec<f32>]) -> Vec<usize> {
    let bad = |list: &[f32]| list.iter().any(|value| !value.is_finite());
    let spoilt = |seed: &usize| {
        values.chunks_exact(chunks.width()).any(|row| bad(&row[chunks.range(*seed)]))
            || gradients.get(*seed).is_some_and(|list| bad(list))
    };
    (0..chunks.seeds()).filter(spoilt).collect()
}

//! What a device must be able to do: hold a layer, and run it forward and backward. `cpu` and `gpu` do.
//!
//! A backend keeps a copy of what it is given; the truth is the host's (`Layer`). So a device that is lost
//! is made anew from the host's state, and nothing is lost with it.
//!
//! What must always hold: every backend agrees with [`crate::reference`] within the errors that `docs/kasmina.md` names,
//! and one backend gives the same bits on every run, whatever the number of threads.

use crate::Error;
use crate::blueprint::Blueprint;
use crate::chunks::Chunks;
use crate::state::SeedState;
use crate::telemetry::Telemetry;
use std::sync::Arc;

/// A layer as a backend sees it: the host's own buffers.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The tiling.
    pub chunks: Chunks,
    /// One row for each seed.
    pub state: &'a [SeedState],
    /// The blend of each seed, in [0, 1].
    pub alpha: &'a [f32],
    /// The weights of each seed, in the order of its blueprint's [`crate::blueprint::Function::layout`]; empty without one.
    pub weights: &'a [Vec<f32>],
    /// The blueprints that `state` numbers.
    pub blueprints: &'a [Arc<Blueprint>],
}

impl View<'_> {
    /// The blueprint of a seed that computes: its stage contributes, its alpha is not zero, and it has a blueprint.
    #[must_use]
    pub fn computing(&self, seed: usize) -> Option<&Blueprint> {
        let state = &self.state[seed];
        let blueprint = usize::try_from(state.blueprint).ok().and_then(|at| self.blueprints.get(at))?;
        (state.lifecycle().contributes() && self.alpha[seed] != 0.0).then_some(blueprint)
    }

    /// Check that the lists are as long as there are seeds.
    ///
    /// # Errors
    /// If one is not.
    pub(crate) fn check_lists(&self) -> Result<(), Error> {
        let lists = [("state", self.state.len()), ("alpha", self.alpha.len()), ("weights", self.weights.len())];
        lists.iter().try_for_each(|&(buffer, found)| check_length(buffer, found, 1, self.chunks.seeds()))
    }

    /// Check what a backend is given of a seed, whether it computes or not.
    ///
    /// # Errors
    /// If its blueprint's number is not known, its weights are not as many as the blueprint needs, or one of them, or
    /// alpha, is not finite.
    pub(crate) fn check(&self, seed: usize) -> Result<(), Error> {
        let problem = |problem: String| Err(Error::Weights { seed, problem });
        let (weights, alpha) = (&self.weights[seed], self.alpha[seed]);
        if !alpha.is_finite() {
            return problem(format!("its alpha is {alpha}: it must be finite"));
        }
        let number = self.state[seed].blueprint;
        let Some(blueprint) = usize::try_from(number).ok().and_then(|at| self.blueprints.get(at)) else {
            return if number < 0 {
                Ok(())
            } else {
                problem(format!("its blueprint is number {number}, of {}", self.blueprints.len()))
            };
        };
        let due = blueprint.function.weights(self.chunks.width_of(seed));
        if weights.len() != due {
            let (name, width) = (&blueprint.name, self.chunks.width_of(seed));
            return problem(format!("there are {}, `{name}` needs {due} on a chunk of {width}", weights.len()));
        }
        weights
            .iter()
            .position(|weight| !weight.is_finite())
            .map_or(Ok(()), |at| problem(format!("number {at} is {}: every weight must be finite", weights[at])))
    }

    /// Whether the gradients of a seed's weights are asked for.
    #[must_use]
    pub fn learns(&self, seed: usize) -> bool {
        self.computing(seed).is_some() && self.state[seed].lifecycle().learns_from_task()
    }
}

/// Which seeds changed since the last [`Backend::load`].
#[derive(Debug, Clone, Copy)]
pub enum Changed<'a> {
    /// All of them, or the tiling.
    All,
    /// Only these, in ascending order.
    Seeds(&'a [usize]),
}

/// What a pass found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pass {
    /// Seeds in whose chunk a value of the result is not finite, in ascending order. The layer finds out whether the
    /// input was at fault or the seed.
    pub not_finite: Vec<usize>,
}

/// Gradients of the weights: one list for each seed, in the order of its weights; empty for seeds that do not learn.
pub type Gradients = Vec<Vec<f32>>;

/// What a backend is and runs on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Device {
    /// `cpu` or `wgpu`.
    pub backend: &'static str,
    /// The device's own name, for example `llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub name: String,
    /// What else an operator wants to know: the API, the instruction set, the number of threads.
    pub detail: String,
}

/// A device that runs a layer.
///
/// Buffers are row-major `rows × width` f32. Lengths were checked by the layer; a backend checks them again.
pub trait Backend: Send {
    /// What this is.
    fn device(&self) -> Device;

    /// Take over the layer's state. Called before the first pass, and again whenever the host's state has changed.
    ///
    /// # Errors
    /// If the device fails or has no memory; it holds then what it held before, or must be given all again.
    fn load(&mut self, layer: &View<'_>, changed: Changed<'_>) -> Result<(), Error>;

    /// `y = x + alpha * f(x)` on the chunk of every seed that computes, `y = x` elsewhere; with statistics of y for each
    /// seed in the same pass where `telemetry` is given.
    ///
    /// # Errors
    /// If a length is wrong or the device fails.
    fn forward(
        &mut self,
        x: &[f32],
        rows: usize,
        y: &mut [f32],
        telemetry: Option<&mut Telemetry>,
    ) -> Result<Pass, Error>;

    /// From the gradient `dy` of the output: the gradient `dx` of the input, and those of the weights of the seeds that
    /// learn. `gradients` is overwritten.
    ///
    /// # Errors
    /// If a length is wrong or the device fails.
    fn backward(
        &mut self,
        x: &[f32],
        rows: usize,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<Pass, Error>;
}

/// Check that a buffer is as long as its shape says.
///
/// # Errors
/// If it is not.
pub(crate) fn check_length(buffer: &'static str, found: usize, rows: usize, width: usize) -> Result<(), Error> {
    let expected = rows * width;
    if found == expected { Ok(()) } else { Err(Error::Shape { buffer, found, expected, rows, width }) }
}

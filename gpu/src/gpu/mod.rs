//! The backend that runs on a GPU, through wgpu: Vulkan, Metal or DirectX 12, with shaders in WGSL.
//!
//! # Which kernel serves a layer
//! By its widest chunk. Fewer than 16 columns: `narrow`, where a workgroup takes a tile of whole seeds, at most 64 columns,
//! through shared memory, and serves those that compute first. 16 columns and more: `wide`, one seed at a time. Both read
//! x once and write y once, with the telemetry in the same pass. Functions that neither holds (`mlp`; an `adapter` of
//! more than 16 hidden values in wide chunks) are computed into y by `steps` before, and the backward pass is all steps.
//!
//! # What must always hold
//! - The same bits on every run: no sum depends on which thread comes first; the only atomics mark seeds that are not finite.
//! - [`Gpu`] keeps a copy of the layer on the host, and from it makes a lost device anew, and runs the pass again, once.
//!   Tensors that a caller keeps on the device are lost with it, and say so.
//! - A buffer larger than the device can bind lies there in pieces, by rows.
//!
//! Telemetry is gathered by groups of rows and brought together by Chan's rule on the device. Where a batch is so large that
//! not even these sums can be bound at once, its parts are merged on the host as [`Telemetry::merge`] does.

mod backward;
mod context;
mod forward;
mod memory;
mod mend;
mod pipelines;
mod plan;
mod resident;
mod steps;
mod table;
mod tensor;
#[cfg(test)]
mod tests;
mod timing;

pub use context::{Adapter, list};
pub use tensor::Tensor;
pub use timing::Work;

use crate::Error;
use crate::backend::{Backend, Changed, Device, Gradients, Pass, View};
use crate::telemetry::Telemetry;
use context::Context;
use forward::Layer;
use memory::Pool;
use table::Table;

/// How the backend is set up. The limits' defaults suit a device of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Only an adapter whose name contains this, in any case.
    pub adapter: Option<String>,
    /// Whether an adapter may be software, as Mesa's lavapipe: right, but slower than the cpu backend.
    pub software: bool,
    /// The largest part of a buffer to bind at once, in bytes; the adapter's own limit if that is less.
    pub binding_bytes_max: Option<u64>,
    /// The most memory to take on the device, in bytes; what there is if not given.
    pub memory_bytes_max: Option<u64>,
    /// The most that waits to be copied to the device, in bytes: it takes memory there beside what it is copied into.
    pub staged_bytes_max: u64,
    /// The most memory for what lies between two steps, in bytes.
    pub scratch_bytes_max: u64,
    /// Buffers that are kept for the next pass.
    pub buffers_kept_max: usize,
    /// Batch sizes whose dispatches are kept ready.
    pub plans_kept_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            adapter: None,
            software: false,
            binding_bytes_max: None,
            memory_bytes_max: None,
            staged_bytes_max: 32 << 20,
            scratch_bytes_max: 64 << 20,
            buffers_kept_max: 32,
            plans_kept_max: 4,
        }
    }
}

/// A layer on a GPU.
#[derive(Debug)]
pub struct Gpu {
    options: Options,
    context: Context,
    /// Tensors of another connection are not of this device.
    connection: u64,
    pool: Pool,
    /// The host's copy.
    table: Option<Table>,
    /// What the device holds of it; `None` after a loss, until it is made anew.
    layer: Option<Layer>,
}

impl Gpu {
    /// Open the first adapter that suits: hardware before software.
    ///
    /// # Errors
    /// If there is none, or it cannot be opened.
    pub fn new(options: Options) -> Result<Self, Error> {
        let context = Context::new(&options)?;
        let pool = Pool::new(options.buffers_kept_max);
        Ok(Self { options, context, connection: tensor::next_connection(), pool, table: None, layer: None })
    }

    /// The adapter that is used.
    #[must_use]
    pub fn adapter(&self) -> &Adapter {
        &self.context.about
    }

    /// The kernel that serves the layer, as the head of this module names it. `None` before a layer is loaded.
    #[must_use]
    pub fn kernel(&self) -> Option<&'static str> {
        self.table.as_ref().map(|table| table.kernel.name())
    }

    /// Bytes taken on the device: by the layer, by tensors, and by what waits to be used again.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.context.memory.used()
    }

    /// Of [`Self::memory_bytes`], what the layer takes beside the tensors and the pool: table, weights, telemetry.
    #[must_use]
    pub fn layer_bytes(&self) -> u64 {
        self.layer.as_ref().map_or(0, Layer::bytes)
    }

    /// Bytes of buffers that wait to be used again.
    #[must_use]
    pub fn pool_bytes(&self) -> u64 {
        self.pool.bytes()
    }

    /// Run something; if memory is short, again without what is kept; if the device is lost, again on a new one.
    fn recovering<T>(&mut self, run: &mut dyn FnMut(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let result = self.ready().and_then(|()| run(self));
        match result {
            Err(_) if self.context.is_lost() => {
                self.reconnect()?;
                run(self)
            }
            Err(Error::OutOfMemory { .. }) if self.shrink() => run(self),
            other => other,
        }
    }

    /// Give up what is only kept for later; whether there was any.
    fn shrink(&mut self) -> bool {
        let before = self.context.memory.used();
        self.pool.clear();
        if let Some(layer) = &mut self.layer {
            layer.forget();
        }
        // The device frees buffers when it is polled.
        drop(self.context.wait("freeing memory"));
        self.context.memory.used() < before
    }

    /// Make sure that the device holds the layer.
    fn ready(&mut self) -> Result<(), Error> {
        if self.context.is_lost() {
            return self.reconnect();
        }
        if self.layer.is_none()
            && let Some(table) = &self.table
        {
            self.layer = Some(Layer::new(&self.context, table)?);
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), Error> {
        let name = self.context.about.name.clone();
        tracing::warn!(
            device = name,
            "the device was lost; it is opened anew, and the layer loaded from the host's copy"
        );
        self.layer = None;
        self.pool.clear();
        let options = Options { adapter: Some(name), ..self.options.clone() };
        self.context = Context::new(&options)?;
        self.connection = tensor::next_connection();
        self.ready()
    }

    /// The layer, which must have been loaded.
    fn layer(&self) -> Result<(&Table, &Layer), Error> {
        match (&self.table, &self.layer) {
            (Some(table), Some(layer)) => Ok((table, layer)),
            _ => Err(self.context.error("no layer is loaded: call `load` first".to_owned())),
        }
    }

    /// The same, with the pool beside it.
    fn layer_and_pool(&mut self) -> Result<(&Context, &mut Pool, &Table, &Layer), Error> {
        self.layer()?;
        match (&self.table, &self.layer) {
            (Some(table), Some(layer)) => Ok((&self.context, &mut self.pool, table, layer)),
            _ => Err(self.context.error("no layer is loaded".to_owned())),
        }
    }

    fn load_once(&mut self, view: &View<'_>, changed: Changed<'_>) -> Result<(), Error> {
        if let (Changed::Seeds(seeds), Some(table), Some(layer)) = (changed, &mut self.table, &mut self.layer)
            && let Some(changes) = table.update(view, seeds)?
        {
            layer.last = None;
            return layer.resident.update(&self.context, table, &changes);
        }
        let table = Table::new(view, self.context.binding_bytes_max, &self.context.about.name)?;
        match Layer::new(&self.context, &table) {
            Ok(layer) => (self.table, self.layer) = (Some(table), Some(layer)),
            Err(error) => {
                if self.context.is_lost() {
                    (self.table, self.layer) = (Some(table), None);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    #[cfg(test)]
    fn lose(&self) {
        self.context.device.destroy();
    }
}

impl Backend for Gpu {
    fn device(&self) -> Device {
        self.context.describe()
    }

    fn load(&mut self, layer: &View<'_>, changed: Changed<'_>) -> Result<(), Error> {
        layer.check_lists()?;
        self.recovering(&mut |gpu| gpu.load_once(layer, changed))
    }

    fn forward(
        &mut self,
        x: &[f32],
        rows: usize,
        y: &mut [f32],
        mut telemetry: Option<&mut Telemetry>,
    ) -> Result<Pass, Error> {
        self.recovering(&mut |gpu| gpu.forward_once(x, rows, y, telemetry.as_deref_mut()))
    }

    fn backward(
        &mut self,
        x: &[f32],
        rows: usize,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<Pass, Error> {
        self.recovering(&mut |gpu| gpu.backward_once(x, rows, dy, dx, gradients))
    }
}

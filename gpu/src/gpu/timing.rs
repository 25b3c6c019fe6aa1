//! How long the device takes, by its own clock.

use super::tensor::{Download, Tensor};
use super::{Context, Gpu, Layer};
use crate::Error;
use wgpu::BufferUsages as Usage;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A copy of x into y by quads: what the others are measured against.
    Copy,
    /// A forward pass.
    Forward {
        /// Whether telemetry is gathered.
        telemetry: bool,
    },
    /// Bringing the telemetry of a pass together.
    Merge,
}

impl Gpu {
    /// Seconds that the device takes for this work on each of these pairs in turn, together. `None` where it has no clock.
    ///
    /// # Errors
    /// If the tensors do not fit the layer or are not of this device, or the device fails.
    pub fn time(&mut self, work: Work, pairs: &[(&Tensor, &Tensor)]) -> Result<Option<f64>, Error> {
        for (x, y) in pairs {
            // It also checks the tensors, and makes the plan and all bindings ready.
            drop(self.encode_forward(x, y, true, false)?);
            self.bind_copy(x, y);
        }
        if !self.context.has_timestamps {
            return Ok(None);
        }
        let (context, layer) = (&self.context, self.layer()?.1);
        let set = context.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("clock"),
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let ticks = context.memory.take("clock", 16, Usage::QUERY_RESOLVE | Usage::COPY_SRC)?;
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("timed"),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &set,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            for pair in pairs {
                record(work, layer, context, &mut pass, *pair);
            }
        }
        encoder.resolve_query_set(&set, 0..2, &ticks.buffer, 0);
        let mut download = Download::default();
        download.add(&self.context, &mut self.pool, &mut encoder, &ticks.buffer, 16)?;
        self.context.queue.submit([encoder.finish()]);
        let mut clock = [0_u64; 2];
        download.read(&self.context, &mut self.pool, |_, values| {
            bytemuck::cast_slice_mut(&mut clock).copy_from_slice(values);
        })?;
        #[allow(clippy::cast_precision_loss, reason = "differences of a few seconds")]
        let elapsed = clock[1].saturating_sub(clock[0]) as f64;
        Ok(Some(elapsed * f64::from(self.context.queue.get_timestamp_period()) * 1e-9))
    }

    fn bind_copy(&mut self, x: &Tensor, y: &Tensor) {
        let Some(layer) = &mut self.layer else { return };
        for (x, y) in x.pieces.iter().zip(&y.pieces) {
            layer.bind(&self.context, &self.context.pipelines.pair_layout, &[x, y]);
        }
    }

    /// Submit a copy of x into y by quads, and return at once.
    ///
    /// # Errors
    /// As [`Self::forward_on`].
    pub fn copy_on(&mut self, x: &Tensor, y: &Tensor) -> Result<(), Error> {
        drop(self.encode_forward(x, y, false, false)?);
        self.bind_copy(x, y);
        let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.layer()?.1.record_copy(&self.context, &mut pass, (x, y));
        }
        self.context.queue.submit([encoder.finish()]);
        self.context.check("copy")
    }
}

fn record(work: Work, layer: &Layer, context: &Context, pass: &mut wgpu::ComputePass<'_>, pair: (&Tensor, &Tensor)) {
    match work {
        Work::Copy => layer.record_copy(context, pass, pair),
        Work::Forward { telemetry } => layer.record_forward(context, pass, pair, telemetry),
        Work::Merge => layer.record_merge(context, pass),
    }
}

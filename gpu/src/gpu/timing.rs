//! How long the device takes, by its own clock.

use super::tensor::{Download, Tensor};
use super::{Context, Gpu, Layer};
use crate::Error;
use crate::backend::check_length;
use wgpu::BufferUsages as Usage;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A copy of x into y by quads: what the others are measured against.
    Copy,
    /// A forward pass, as it is submitted: with the marks cleared before.
    Forward {
        /// Whether telemetry is gathered, and brought together after each pass.
        telemetry: bool,
    },
    /// Bringing the telemetry of a pass together, alone.
    Merge,
}

impl Gpu {
    /// Seconds that the device takes for this work on each of these pairs in turn, together. `None` where it has no clock.
    ///
    /// # Errors
    /// If the tensors do not fit the layer or are not of this device, or the device fails.
    pub fn time(&mut self, work: Work, pairs: &[(&Tensor, &Tensor)]) -> Result<Option<f64>, Error> {
        for pair in pairs {
            self.prepare(work, *pair)?;
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
        // Two empty passes hold the clock, so that all between them counts, also what is in no pass.
        clock(&mut encoder, &set, Some(0), None);
        for pair in pairs {
            record(work, layer, context, &mut encoder, *pair);
        }
        clock(&mut encoder, &set, None, Some(1));
        encoder.resolve_query_set(&set, 0..2, &ticks.buffer, 0);
        let mut download = Download::default();
        download.add(&self.context, &mut self.pool, &mut encoder, &ticks.buffer, 16)?;
        self.context.queue.submit([encoder.finish()]);
        let mut ticks = [0_u64; 2];
        download.read(&self.context, &mut self.pool, |_, values| {
            bytemuck::cast_slice_mut(&mut ticks).copy_from_slice(values);
        })?;
        #[allow(clippy::cast_precision_loss, reason = "differences of a few seconds")]
        let elapsed = ticks[1].saturating_sub(ticks[0]) as f64;
        Ok(Some(elapsed * f64::from(self.context.queue.get_timestamp_period()) * 1e-9))
    }

    /// Submit this work on one pair, and return at once; [`Self::result`] does not answer for it.
    ///
    /// # Errors
    /// As [`Self::forward_on`].
    pub fn submit(&mut self, work: Work, (x, y): (&Tensor, &Tensor)) -> Result<(), Error> {
        self.prepare(work, (x, y))?;
        let (context, layer) = (&self.context, self.layer()?.1);
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(work, layer, context, &mut encoder, (x, y));
        context.queue.submit([encoder.finish()]);
        context.check("a pass")
    }

    /// Check the tensors, and make ready what [`record`] needs.
    fn prepare(&mut self, work: Work, (x, y): (&Tensor, &Tensor)) -> Result<(), Error> {
        if work == Work::Copy {
            self.check_tensor("x", x)?;
            self.check_tensor("y", y)?;
            check_length("y", y.rows * y.width, x.rows, x.width)?;
            if let Some(layer) = &mut self.layer {
                layer.last = None;
                layer.prepare_copy(&self.context, (x, y));
            }
            return Ok(());
        }
        self.prepare_forward(x, y, work != Work::Forward { telemetry: false })
    }
}

/// An empty pass that writes the clock.
fn clock(encoder: &mut wgpu::CommandEncoder, set: &wgpu::QuerySet, begin: Option<u32>, end: Option<u32>) {
    drop(encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some("clock"),
        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
            query_set: set,
            beginning_of_pass_write_index: begin,
            end_of_pass_write_index: end,
        }),
    }));
}

fn record(work: Work, layer: &Layer, context: &Context, encoder: &mut wgpu::CommandEncoder, pair: (&Tensor, &Tensor)) {
    if let Work::Forward { telemetry } = work {
        return layer.record(context, encoder, pair, telemetry, telemetry);
    }
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    if work == Work::Copy {
        layer.record_copy(context, &mut pass, pair);
    } else if let Some(plan) = layer.plans.last() {
        Layer::record_merge(context, &mut pass, plan);
    }
}

//! The backward pass: dx begins as dy; the steps add what goes through each seed that computes, and gather the gradients of
//! those that learn.

use super::Gpu;
use super::forward::{add_found, marks, numbers};
use super::plan::Plan;
use super::steps::Program;
use super::tensor::{self, Download, Tensor};
use crate::Error;
use crate::backend::{Gradients, Pass, check_length};

impl Gpu {
    pub(super) fn backward_once(
        &mut self,
        x: &[f32],
        rows: usize,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<Pass, Error> {
        let (table, layer) = self.layer()?;
        let chunks = table.chunks;
        for (name, length) in [("x", x.len()), ("dy", dy.len()), ("dx", dx.len())] {
            check_length(name, length, rows, chunks.width())?;
        }
        let batch = chunks.width() * Plan::rows_max(table, layer.cut, self.context.binding_bytes_max).max(1);
        let mut marked = vec![0; chunks.seeds().div_ceil(32)];
        if let (Some(table), Some(layer)) = (&self.table, &mut self.layer) {
            layer.resident.make_gradients(&self.context, table)?;
        }
        self.clear_gradients()?;
        for ((x, dy), dx) in x.chunks(batch).zip(dy.chunks(batch)).zip(dx.chunks_mut(batch)) {
            self.backward_batch(x, dy, dx, &mut marked)?;
        }
        *gradients = self.read_gradients()?;
        let bad = |values: &Vec<f32>| values.iter().any(|value| !value.is_finite());
        for (seed, _) in gradients.iter().enumerate().filter(|(_, values)| bad(values)) {
            marked[seed / 32] |= 1 << (seed % 32);
        }
        Ok(Pass { not_finite: numbers(&marked) })
    }

    fn clear_gradients(&mut self) -> Result<(), Error> {
        let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for gradients in &self.layer()?.1.resident.gradients {
            encoder.clear_buffer(&gradients.buffer, 0, None);
        }
        self.context.queue.submit([encoder.finish()]);
        self.context.check("backward")
    }

    fn backward_batch(&mut self, x: &[f32], dy: &[f32], dx: &mut [f32], marked: &mut [u32]) -> Result<(), Error> {
        let (table, layer) = self.layer()?;
        let (cut, rows) = (layer.cut, x.len() / table.chunks.width());
        let (from, back, to) = (self.take(rows)?, self.take(rows)?, self.take(rows)?);
        tensor::upload(&self.context, &from, cut, x)?;
        tensor::upload(&self.context, &back, cut, dy)?;
        let mut encoder = self.encode_backward([&from, &back, &to])?;
        let mut download = Download::default();
        download.add_tensor(&self.context, &mut self.pool, &mut encoder, &to, cut)?;
        if let Some(layer) = &self.layer {
            add_found(&self.context, &mut self.pool, &mut encoder, &mut download, layer, marked.len())?;
        }
        self.context.queue.submit([encoder.finish()]);
        let (mut next, pieces) = (0, to.pieces.len());
        download.read(&self.context, &mut self.pool, |part, values| {
            if part < pieces {
                dx[next..next + values.len()].copy_from_slice(values);
                next += values.len();
            } else {
                marked.iter_mut().zip(marks(values)).for_each(|(all, new)| *all |= new);
            }
        })?;
        for tensor in [from, back, to] {
            self.recycle(tensor);
        }
        Ok(())
    }

    fn encode_backward(&mut self, [x, dy, dx]: [&Tensor; 3]) -> Result<wgpu::CommandEncoder, Error> {
        let (Some(table), Some(layer)) = (&self.table, &mut self.layer) else {
            return Err(self.context.error("no layer is loaded".to_owned()));
        };
        let (context, pipelines) = (&self.context, &self.context.pipelines);
        layer.last = None;
        layer.plan(context, table, x.rows, &self.options)?;
        if let Some(plan) = layer.plans.last_mut().filter(|plan| plan.backward.is_none()) {
            let scratch = self.options.scratch_bytes_max;
            plan.backward = Program::backward(context, table, &layer.resident, &plan.pieces, scratch)?;
        }
        let pieces = || x.pieces.iter().zip(&dy.pieces).zip(&dx.pieces);
        for ((x, dy), dx) in pieces() {
            layer.bind(context, &pipelines.triple_layout, &[x, dy, dx]);
            layer.bind(context, &pipelines.values_layout, &[dx]);
        }
        layer.drop_bindings(2 * x.pieces.len());
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.clear_buffer(&layer.resident.flags.buffer, 0, None);
        for ((_, dy), dx) in pieces() {
            encoder.copy_buffer_to_buffer(&dy.buffer, 0, &dx.buffer, 0, dy.bytes());
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let Some(plan) = layer.plans.last() else { return Err(context.error("no plan was made".to_owned())) };
        if let Some(program) = &plan.backward {
            for call in &program.calls {
                let buffers = [&x.pieces[call.piece], &dy.pieces[call.piece], &dx.pieces[call.piece]];
                pass.set_pipeline(pipelines.step(call.entry));
                pass.set_bind_group(0, &program.banks[call.bank], &[call.offset]);
                pass.set_bind_group(1, layer.bound(&pipelines.triple_layout, &buffers), &[]);
                pass.dispatch_workgroups(call.groups.0, call.groups.1, 1);
            }
        }
        pass.set_pipeline(&pipelines.check);
        for (piece, dx) in dx.pieces.iter().enumerate() {
            pass.set_bind_group(0, &plan.check, &[Plan::check_offset(piece)]);
            pass.set_bind_group(1, layer.bound(&pipelines.values_layout, &[dx]), &[]);
            pass.dispatch_workgroups(plan.check_groups(piece), 1, 1);
        }
        drop(pass);
        Ok(encoder)
    }

    fn read_gradients(&mut self) -> Result<Gradients, Error> {
        let (context, pool, table, layer) = self.layer_and_pool()?;
        let seeds = table.chunks.seeds();
        let places: Vec<_> = (0..seeds).map(|seed| table.gradients_of(seed)).collect();
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let (mut download, mut banks) = (Download::default(), Vec::new());
        for (at, (bank, buffer)) in table.banks.iter().zip(&layer.resident.gradients).enumerate() {
            if bank.gradients > 0 {
                let bytes = 4 * bank.gradients as u64;
                download.add(context, pool, &mut encoder, &buffer.buffer, bytes)?;
                banks.push(at);
            }
        }
        context.queue.submit([encoder.finish()]);
        let mut gradients = vec![Vec::new(); seeds];
        download.read(context, pool, |part, values| {
            for (to, place) in gradients.iter_mut().zip(&places) {
                if let Some((_, range)) = place.as_ref().filter(|(bank, _)| *bank == banks[part]) {
                    *to = values[range.clone()].to_vec();
                }
            }
        })?;
        Ok(gradients)
    }
}

//! The forward pass: with the host's buffers, and with tensors that stay on the device.

use super::context::Context;
use super::memory::{Allocation, Pool};
use super::mend::mend;
use super::pipelines::bind;
use super::plan::{Plan, plane};
use super::resident::Resident;
use super::table::Table;
use super::tensor::{self, Cut, Download, Tensor};
use super::{Gpu, Options};
use crate::Error;
use crate::backend::{Pass, check_length};
use crate::telemetry::{SeedTelemetry, Telemetry};
use std::sync::Weak;

/// Bindings of tensors that are kept ready; more where one pass needs more.
const BINDINGS_KEPT_MAX: usize = 64;

/// Bindings of some buffers, as long as all of them exist.
#[derive(Debug)]
struct Binding {
    layout: wgpu::BindGroupLayout,
    ids: Vec<u64>,
    traces: Vec<Weak<()>>,
    group: wgpu::BindGroup,
}

impl Binding {
    fn new(context: &Context, layout: &wgpu::BindGroupLayout, buffers: &[&Allocation]) -> Self {
        let plain: Vec<_> = buffers.iter().map(|it| &it.buffer).collect();
        Self {
            layout: layout.clone(),
            ids: buffers.iter().map(|it| it.id).collect(),
            traces: buffers.iter().map(|it| it.trace()).collect(),
            group: bind(&context.device, layout, None, &plain),
        }
    }
}

/// A layer on the device, with what is kept ready for its passes.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) resident: Resident,
    pub(super) cut: Cut,
    pub(super) plans: Vec<Plan>,
    /// The last used at the end.
    bindings: Vec<Binding>,
    /// Rows of the pass on tensors whose findings the device holds, and whether it gathered telemetry.
    pub(super) last: Option<(usize, bool)>,
}

impl Layer {
    pub(super) fn new(context: &Context, table: &Table) -> Result<Self, Error> {
        let (width, binding) = (table.chunks.width(), context.binding_bytes_max);
        let cut = Cut::new(width, table.kernel.group_rows(), binding).ok_or_else(|| {
            let (device, what) = (context.about.name.clone(), "one row in one binding".to_owned());
            Error::OutOfMemory { device, what, bytes: 4 * width as u64 }
        })?;
        let resident = Resident::new(context, table)?;
        Ok(Self { resident, cut, plans: Vec::new(), bindings: Vec::new(), last: None })
    }

    /// Give up what is kept ready.
    pub(super) fn forget(&mut self) {
        self.plans.clear();
        self.bindings.clear();
        self.last = None;
    }

    pub(super) fn bytes(&self) -> u64 {
        let Resident { seeds, members, weights, gradients, flags, .. } = &self.resident;
        let buffers = [seeds, members, flags].into_iter().chain(weights).chain(gradients);
        buffers.map(Allocation::bytes).sum::<u64>() + self.plans.iter().map(Plan::bytes).sum::<u64>()
    }

    /// The plan for so many rows, the last of `plans`; made if it is not there.
    pub(super) fn plan(
        &mut self,
        context: &Context,
        table: &Table,
        rows: usize,
        options: &Options,
    ) -> Result<(), Error> {
        if let Some(at) = self.plans.iter().position(|plan| plan.rows == rows) {
            let plan = self.plans.remove(at);
            self.plans.push(plan);
            return Ok(());
        }
        let plan = Plan::new(context, table, &self.resident, self.cut, rows, options.scratch_bytes_max)?;
        if self.plans.len() >= options.plans_kept_max.max(1) {
            self.plans.remove(0);
        }
        self.plans.push(plan);
        Ok(())
    }

    /// The plan of a pass that was made ready before, if it is still there.
    fn plan_of(&self, rows: usize) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.rows == rows)
    }

    /// Make sure that these buffers are bound together, until [`Self::drop_bindings`].
    pub(super) fn bind(&mut self, context: &Context, layout: &wgpu::BindGroupLayout, buffers: &[&Allocation]) {
        if let Some(at) = self.position(layout, buffers) {
            self.bindings[at..].rotate_left(1);
        } else {
            self.bindings.push(Binding::new(context, layout, buffers));
        }
    }

    /// Give up the bindings that were not used for longest, and those of buffers that are gone; the last `needed` stay.
    pub(super) fn drop_bindings(&mut self, needed: usize) {
        let kept_max = BINDINGS_KEPT_MAX.max(needed);
        if self.bindings.len() > kept_max {
            self.bindings.retain(|it| it.traces.iter().all(|trace| trace.strong_count() > 0));
            let excess = self.bindings.len().saturating_sub(kept_max);
            self.bindings.drain(..excess);
        }
    }

    fn position(&self, layout: &wgpu::BindGroupLayout, buffers: &[&Allocation]) -> Option<usize> {
        let same = |it: &Binding| it.ids.iter().copied().eq(buffers.iter().map(|it| it.id)) && it.layout == *layout;
        self.bindings.iter().rposition(same)
    }

    pub(super) fn bound(&self, layout: &wgpu::BindGroupLayout, buffers: &[&Allocation]) -> Option<&wgpu::BindGroup> {
        self.position(layout, buffers).map(|at| &self.bindings[at].group)
    }

    /// Make ready for [`Self::record_forward`] on these tensors.
    pub(super) fn prepare_forward(
        &mut self,
        context: &Context,
        table: &Table,
        options: &Options,
        (x, y): (&Tensor, &Tensor),
    ) -> Result<(), Error> {
        self.plan(context, table, x.rows, options)?;
        let staged = self.plans.last().is_some_and(|plan| plan.before.is_some());
        let Some(batch) = x.pieces.first() else { return Ok(()) };
        for (x, y) in x.pieces.iter().zip(&y.pieces) {
            self.bind(context, &context.pipelines.fused_layout, &[x, y, batch]);
            if staged {
                self.bind(context, &context.pipelines.triple_layout, &[x, x, y]);
            }
        }
        self.drop_bindings(2 * x.pieces.len());
        Ok(())
    }

    /// Record all of a pass of the last plan: the marks are cleared before, and telemetry is merged after if so wished. All
    /// must have been made ready.
    pub(super) fn record(
        &self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        pair: (&Tensor, &Tensor),
        telemetry: bool,
        merge: bool,
    ) {
        encoder.clear_buffer(&self.resident.flags.buffer, 0, None);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.record_forward(context, &mut pass, pair, telemetry);
        if merge && let Some(plan) = self.plans.last() {
            Self::record_merge(context, &mut pass, plan);
        }
    }

    fn record_forward(
        &self,
        context: &Context,
        pass: &mut wgpu::ComputePass<'_>,
        (x, y): (&Tensor, &Tensor),
        telemetry: bool,
    ) {
        let (Some(plan), Some(batch)) = (self.plans.last(), x.pieces.first()) else { return };
        for call in plan.before.iter().flat_map(|program| &program.calls) {
            let (x, y) = (&x.pieces[call.piece], &y.pieces[call.piece]);
            pass.set_pipeline(context.pipelines.step(call.entry));
            pass.set_bind_group(0, plan.before.as_ref().map(|it| &it.banks[call.bank]), &[call.offset]);
            pass.set_bind_group(1, self.bound(&context.pipelines.triple_layout, &[x, x, y]), &[]);
            pass.dispatch_workgroups(call.groups.0, call.groups.1, 1);
        }
        let fused = &self.resident.fused;
        pass.set_pipeline(if telemetry { &fused.telemetry } else { &fused.plain });
        for dispatch in &plan.dispatches {
            let (x, y) = (&x.pieces[dispatch.piece], &y.pieces[dispatch.piece]);
            pass.set_bind_group(0, &plan.banks[dispatch.bank], &[dispatch.offset]);
            pass.set_bind_group(1, self.bound(&context.pipelines.fused_layout, &[x, y, batch]), &[]);
            pass.dispatch_workgroups(dispatch.groups.0, dispatch.groups.1, 1);
        }
    }

    /// Bring the telemetry of a plan's pass together.
    pub(super) fn record_merge(context: &Context, pass: &mut wgpu::ComputePass<'_>, plan: &Plan) {
        pass.set_pipeline(&context.pipelines.merge);
        pass.set_bind_group(0, &plan.merge, &[]);
        pass.dispatch_workgroups(plan.merge_groups.0, plan.merge_groups.1, 1);
    }

    /// Make ready for [`Self::record_copy`] on these tensors.
    pub(super) fn prepare_copy(&mut self, context: &Context, (x, y): (&Tensor, &Tensor)) {
        let layout = &context.pipelines.pair_layout;
        for (x, y) in x.pieces.iter().zip(&y.pieces) {
            let buffers = [x, y, &self.resident.flags];
            match self.position(layout, &buffers) {
                Some(at) => self.bindings[at..].rotate_left(1),
                None => self.bindings.push(Binding::new(context, layout, &buffers)),
            }
        }
        self.drop_bindings(x.pieces.len());
    }

    /// Copy tensors by quads, for comparison. They must have been made ready.
    pub(super) fn record_copy(&self, context: &Context, pass: &mut wgpu::ComputePass<'_>, (x, y): (&Tensor, &Tensor)) {
        pass.set_pipeline(&context.pipelines.copy);
        for (x, y) in x.pieces.iter().zip(&y.pieces) {
            let groups = plane(usize::try_from(x.bytes() / 16).unwrap_or(usize::MAX).div_ceil(256));
            pass.set_bind_group(0, self.bound(&context.pipelines.pair_layout, &[x, y, &self.resident.flags]), &[]);
            pass.dispatch_workgroups(groups.0, groups.1, 1);
        }
    }
}

impl Gpu {
    /// A tensor of `rows` rows as wide as the layer. Its values are undefined.
    ///
    /// # Errors
    /// If no layer is loaded, or the device has no memory for it.
    pub fn tensor(&mut self, rows: usize) -> Result<Tensor, Error> {
        self.recovering(&mut |gpu| gpu.take(rows))
    }

    pub(super) fn take(&mut self, rows: usize) -> Result<Tensor, Error> {
        let cut = self.layer()?.1.cut;
        tensor::take(&self.context, &mut self.pool, cut, rows, self.connection)
    }

    /// Give a tensor back, so that its memory serves the next one.
    pub fn recycle(&mut self, tensor: Tensor) {
        if tensor.connection == self.connection {
            tensor.pieces.into_iter().for_each(|piece| self.pool.give(piece));
        }
    }

    /// Fill a tensor.
    ///
    /// # Errors
    /// If the length is wrong, the tensor is not of this device, or the device fails.
    pub fn upload(&mut self, tensor: &Tensor, values: &[f32]) -> Result<(), Error> {
        let cut = self.check_tensor("tensor", tensor)?;
        check_length("values", values.len(), tensor.rows, tensor.width)?;
        tensor::upload(&self.context, tensor, cut, values)
    }

    /// Read a tensor, when all that was submitted before is done.
    ///
    /// # Errors
    /// If the length is wrong, the tensor is not of this device, or the device fails.
    pub fn download(&mut self, tensor: &Tensor, values: &mut [f32]) -> Result<(), Error> {
        let cut = self.check_tensor("tensor", tensor)?;
        check_length("values", values.len(), tensor.rows, tensor.width)?;
        let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut download = Download::default();
        download.add_tensor(&self.context, &mut self.pool, &mut encoder, tensor, cut)?;
        self.context.queue.submit([encoder.finish()]);
        let mut next = 0;
        download.read(&self.context, &mut self.pool, |_, part| {
            values[next..next + part.len()].copy_from_slice(part);
            next += part.len();
        })
    }

    /// Submit a pass over tensors, and return at once. What it found is read by [`Self::result`].
    ///
    /// # Errors
    /// If the tensors do not fit the layer or are not of this device, or the device fails: what was lost must then be
    /// uploaded again.
    pub fn forward_on(&mut self, x: &Tensor, y: &Tensor, telemetry: bool) -> Result<(), Error> {
        let encoder = self.encode_forward(x, y, telemetry, false)?;
        self.context.queue.submit([encoder.finish()]);
        self.context.check("forward")?;
        if let Some(layer) = &mut self.layer {
            layer.last = Some((x.rows, telemetry));
        }
        Ok(())
    }

    /// What the last [`Self::forward_on`] found, when it is done; telemetry where it was asked for. Of values whose
    /// squares f32 cannot hold, beyond 10¹⁹, it may hold statistics that are not finite: x and y are not there to mend them.
    ///
    /// # Errors
    /// If there was none since the layer was loaded or another pass was made, or the device fails.
    pub fn result(&mut self) -> Result<(Pass, Option<Telemetry>), Error> {
        let (context, pool, table, layer) = self.layer_and_pool()?;
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let last = layer.last.and_then(|(rows, telemetry)| Some((rows, layer.plan_of(rows)?, telemetry)));
        let Some((rows, plan, telemetry)) = last else {
            let problem = "no pass on tensors has been submitted since a layer was loaded or another pass was made";
            return Err(context.error(problem.to_owned()));
        };
        if telemetry {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            Layer::record_merge(context, &mut pass, plan);
        }
        let (words, seeds) = (table.chunks.seeds().div_ceil(32), table.chunks.seeds());
        let mut download = Download::default();
        let flags = &layer.resident.flags.buffer;
        download.add(context, pool, &mut encoder, flags, 4 * words as u64)?;
        if telemetry {
            let bytes = (size_of::<SeedTelemetry>() * seeds) as u64;
            download.add(context, pool, &mut encoder, &plan.telemetry.buffer, bytes)?;
        }
        context.queue.submit([encoder.finish()]);
        let (mut marked, mut found) = (Vec::new(), None);
        download.read(context, pool, |part, values| match part {
            0 => marked = marks(values),
            _ => found = Some(Telemetry { rows, seeds: bytemuck::cast_slice(values).to_vec() }),
        })?;
        Ok((Pass { not_finite: numbers(&marked) }, found))
    }

    /// Wait until the device has done all that was submitted.
    ///
    /// # Errors
    /// If the device fails.
    pub fn wait(&mut self) -> Result<(), Error> {
        self.context.wait("a pass")
    }

    pub(super) fn check_tensor(&self, buffer: &'static str, tensor: &Tensor) -> Result<Cut, Error> {
        let cut = self.layer()?.1.cut;
        if tensor.connection != self.connection {
            let problem = format!("`{buffer}` was on a connection that was lost: make it anew and upload it");
            return Err(self.context.error(problem));
        }
        check_length(buffer, tensor.rows * tensor.width, tensor.rows, cut.width)?;
        if tensor.pieces.len() != cut.pieces(tensor.rows).count() {
            return Err(self.context.error(format!("`{buffer}` was made for another layer: make it anew")));
        }
        Ok(cut)
    }

    /// Check the tensors of a pass, and make ready its plan, the last of the layer's, and its bindings.
    pub(super) fn prepare_forward(&mut self, x: &Tensor, y: &Tensor, telemetry: bool) -> Result<(), Error> {
        self.check_tensor("x", x)?;
        self.check_tensor("y", y)?;
        check_length("y", y.rows * y.width, x.rows, x.width)?;
        let (Some(table), Some(layer)) = (&self.table, &mut self.layer) else {
            return Err(self.context.error("no layer is loaded".to_owned()));
        };
        layer.last = None;
        let rows_max = Plan::rows_max(table, layer.cut, self.context.binding_bytes_max);
        if telemetry && x.rows > rows_max {
            let allowed = format!("the limit on bindings allows {rows_max}");
            return Err(self.context.error(format!("{} rows at once with telemetry, where {allowed}", x.rows)));
        }
        layer.prepare_forward(&self.context, table, &self.options, (x, y))
    }

    /// Everything that a forward pass must do, ready to be submitted.
    pub(super) fn encode_forward(
        &mut self,
        x: &Tensor,
        y: &Tensor,
        telemetry: bool,
        merge: bool,
    ) -> Result<wgpu::CommandEncoder, Error> {
        self.prepare_forward(x, y, telemetry)?;
        let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.layer()?.1.record(&self.context, &mut encoder, (x, y), telemetry, merge);
        Ok(encoder)
    }

    pub(super) fn forward_once(
        &mut self,
        x: &[f32],
        rows: usize,
        y: &mut [f32],
        telemetry: Option<&mut Telemetry>,
    ) -> Result<Pass, Error> {
        let (table, layer) = self.layer()?;
        let (chunks, binding) = (table.chunks, self.context.binding_bytes_max);
        check_length("x", x.len(), rows, chunks.width())?;
        check_length("y", y.len(), rows, chunks.width())?;
        let mut rows_max = Plan::rows_max(table, layer.cut, binding);
        if telemetry.is_none() {
            rows_max = rows_max.max(layer.cut.piece_rows);
        }
        let batch = chunks.width() * rows_max;
        if batch == 0 {
            let (device, what) = (self.context.about.name.clone(), "telemetry in one binding".to_owned());
            return Err(Error::OutOfMemory { device, what, bytes: 32 * chunks.seeds() as u64 });
        }
        let mut marked = vec![0; chunks.seeds().div_ceil(32)];
        let nothing = || Telemetry { rows: 0, seeds: vec![SeedTelemetry::default(); chunks.seeds()] };
        let mut whole = telemetry.is_some().then(nothing);
        for (x, y) in x.chunks(batch).zip(y.chunks_mut(batch)) {
            self.forward_batch(x, y, &mut marked, whole.as_mut())?;
        }
        if let (Some(to), Some(whole)) = (telemetry, whole) {
            *to = whole;
        }
        Ok(Pass { not_finite: numbers(&marked) })
    }

    fn forward_batch(
        &mut self,
        x: &[f32],
        y: &mut [f32],
        marked: &mut [u32],
        mut whole: Option<&mut Telemetry>,
    ) -> Result<(), Error> {
        let (table, layer) = self.layer()?;
        let (chunks, cut) = (table.chunks, layer.cut);
        let rows = x.len() / chunks.width();
        let (from, to) = (self.take(rows)?, self.take(rows)?);
        tensor::upload(&self.context, &from, cut, x)?;
        let mut encoder = self.encode_forward(&from, &to, whole.is_some(), whole.is_some())?;
        let mut download = Download::default();
        download.add_tensor(&self.context, &mut self.pool, &mut encoder, &to, cut)?;
        let pieces = to.pieces.len();
        if let Some(layer) = &self.layer {
            add_found(&self.context, &mut self.pool, &mut encoder, &mut download, layer, marked.len())?;
            if whole.is_some()
                && let Some(plan) = layer.plans.last()
            {
                let bytes = (size_of::<SeedTelemetry>() * chunks.seeds()) as u64;
                download.add(&self.context, &mut self.pool, &mut encoder, &plan.telemetry.buffer, bytes)?;
            }
        }
        self.context.queue.submit([encoder.finish()]);
        let (mut next, mut found) = (0, Vec::new());
        let (context, pool, table, _) = self.layer_and_pool()?;
        download.read(context, pool, |part, values| {
            if part < pieces {
                y[next..next + values.len()].copy_from_slice(values);
                next += values.len();
            } else if part == pieces {
                found = marks(values);
                marked.iter_mut().zip(&found).for_each(|(all, new)| *all |= new);
            } else if let Some(whole) = whole.as_deref_mut() {
                let mut seeds = bytemuck::cast_slice(values).to_vec();
                mend(table, (x, y), &found, &mut seeds);
                whole.merge(&Telemetry { rows, seeds }, &chunks);
            }
        })?;
        self.recycle(from);
        self.recycle(to);
        Ok(())
    }
}

/// Bring the marks of what is not finite with a download.
pub(super) fn add_found(
    context: &Context,
    pool: &mut Pool,
    encoder: &mut wgpu::CommandEncoder,
    download: &mut Download,
    layer: &Layer,
    words: usize,
) -> Result<(), Error> {
    download.add(context, pool, encoder, &layer.resident.flags.buffer, 4 * words as u64)
}

/// The marks as they came.
pub(super) fn marks(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The numbers of the bits that are set, in ascending order.
pub(super) fn numbers(marks: &[u32]) -> Vec<usize> {
    (0..32 * marks.len()).filter(|at| marks[at / 32] >> (at % 32) & 1 == 1).collect()
}

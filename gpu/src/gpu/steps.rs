//! The backward pass, and the forward pass of functions that no fused kernel holds, as sequences of steps.
//!
//! A sequence serves seeds of the same function, so many at a time and so many rows at a time as scratch memory has room
//! for. `steps.wgsl` says what each step does.

use super::context::Context;
use super::memory::Allocation;
use super::pipelines::{Entry, bind};
use super::plan::{GROUPS_MAX, PARAMETERS_STRIDE, uniform};
use super::resident::Resident;
use super::table::{Group, Table, number};
use crate::Error;
use crate::blueprint::Function;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use wgpu::BufferUsages as Usage;

/// `Step` of `steps.wgsl`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Step {
    width: u32,
    rows: u32,
    row_first: u32,
    block_rows: u32,
    member_first: u32,
    members: u32,
    quads: u32,
    rank: u32,
    tensor: u32,
    input: u32,
    input_at: u32,
    input_stride: u32,
    activation: u32,
    gradient: u32,
    gradient_at: u32,
    gradient_stride: u32,
    output: u32,
    output_at: u32,
    output_stride: u32,
    slope: u32,
    slope_at: u32,
    slope_stride: u32,
    deviation_at: u32,
    unused: u32,
}

const SCRATCH: u32 = 1;

const GELU: u32 = 1;
const RELU: u32 = 2;
const NORM: u32 = 3;

const DOWN: u32 = 0;
const UP: u32 = 1;
const FIRST: u32 = 2;
const SECOND: u32 = 3;
const THIRD: u32 = 4;

/// Rows of one block, where memory allows.
const BLOCK_ROWS: usize = 1024;

/// Which pass a sequence is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Backward,
}

/// One dispatch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) entry: Entry,
    pub(super) offset: u32,
    pub(super) groups: (u32, u32),
    pub(super) bank: usize,
    pub(super) piece: usize,
}

/// All dispatches of one pass, with their memory.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) calls: Vec<Call>,
    /// For each bank: parameters, table, members, weights, scratch, gradients.
    pub(super) banks: Vec<wgpu::BindGroup>,
    kept: [Allocation; 2],
}

impl Program {
    /// What must be computed before the fused kernel; `None` if nothing must.
    pub(super) fn forward(
        context: &Context,
        table: &Table,
        resident: &Resident,
        pieces: &[Range<usize>],
        scratch_bytes_max: u64,
    ) -> Result<Option<Self>, Error> {
        let build = Build::new(table, pieces, scratch_bytes_max.min(context.binding_bytes_max));
        build.program(Way::Forward, context, resident)
    }

    /// The whole backward pass, save that dx begins as dy; `None` if no seed computes.
    pub(super) fn backward(
        context: &Context,
        table: &Table,
        resident: &Resident,
        pieces: &[Range<usize>],
        scratch_bytes_max: u64,
    ) -> Result<Option<Self>, Error> {
        let build = Build::new(table, pieces, scratch_bytes_max.min(context.binding_bytes_max));
        build.program(Way::Backward, context, resident)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.kept.iter().map(Allocation::bytes).sum()
    }
}

/// A program in the making.
struct Build<'a> {
    table: &'a Table,
    pieces: &'a [Range<usize>],
    scratch_max: usize,
    scratch: usize,
    calls: Vec<Call>,
    steps: Vec<Step>,
}

/// Where a seed's values between two steps lie in scratch.
#[derive(Debug, Clone, Copy)]
struct Slot {
    at: u32,
    stride: u32,
}

/// A step, and how many threads it can use for each seed.
type Planned = (Entry, Step, usize);

impl<'a> Build<'a> {
    fn new(table: &'a Table, pieces: &'a [Range<usize>], scratch_bytes_max: u64) -> Self {
        let scratch_max = usize::try_from(scratch_bytes_max / 4).unwrap_or(usize::MAX);
        Self { table, pieces, scratch_max, scratch: 0, calls: Vec::new(), steps: Vec::new() }
    }

    fn program(mut self, way: Way, context: &Context, resident: &Resident) -> Result<Option<Program>, Error> {
        for piece in 0..self.pieces.len() {
            for group in self.table.groups.iter().filter(|group| way == Way::Backward || !group.fused) {
                self.group(way, piece, group, context)?;
            }
        }
        if self.calls.is_empty() {
            return Ok(None);
        }
        let parameters = uniform(context, &self.steps)?;
        let scratch = context.memory.take("scratch", 4 * self.scratch as u64, Usage::STORAGE)?;
        let banks = (0..self.table.banks.len()).map(|bank| {
            // The forward pass has no gradients; something must be bound.
            let gradients = if way == Way::Backward { &resident.gradients[bank] } else { &resident.flags };
            let weights = &resident.weights[bank];
            let buffers = [&parameters, &resident.seeds, &resident.members, weights, &scratch, gradients];
            let layout = &context.pipelines.steps_layout;
            bind(&context.device, layout, Some(size_of::<Step>() as u64), &buffers.map(|it| &it.buffer))
        });
        Ok(Some(Program { banks: banks.collect(), calls: self.calls, kept: [parameters, scratch] }))
    }

    /// One group on one piece, cut so that scratch holds what each block needs.
    fn group(&mut self, way: Way, piece: usize, group: &Group, context: &Context) -> Result<(), Error> {
        let rows = self.pieces[piece].len();
        let features = features(way, group.function, self.table.chunks.widest());
        let fit = self.scratch_max / features.max(1);
        if fit == 0 {
            let what = format!("one row of `{}`", group.function.kind());
            return Err(Error::OutOfMemory { device: context.about.name.clone(), what, bytes: 4 * features as u64 });
        }
        let block_rows = rows.min(BLOCK_ROWS).min(fit);
        let batch = group.members.len().min(fit / block_rows).min(GROUPS_MAX);
        self.scratch = self.scratch.max(batch * block_rows * features);
        for first in group.members.clone().step_by(batch) {
            let members = batch.min(group.members.end - first);
            for row_first in (0..rows).step_by(block_rows) {
                let block = Block {
                    way,
                    function: group.function,
                    learns: group.learns,
                    widest: self.table.chunks.widest(),
                    base: Step {
                        width: number(self.table.chunks.width()),
                        rows: number(block_rows.min(rows - row_first)),
                        row_first: number(row_first),
                        block_rows: number(block_rows),
                        member_first: number(first),
                        members: number(members),
                        quads: number(self.table.chunks.widest().div_ceil(4)),
                        rank: number(self.table.kernel.padded_rank(group.function)),
                        ..Step::default()
                    },
                    next: 0,
                };
                for planned in block.steps() {
                    self.add(planned, group.bank, piece);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, (entry, step, threads): Planned, bank: usize, piece: usize) {
        let groups = (number(threads.div_ceil(64).clamp(1, GROUPS_MAX)), step.members);
        self.calls.push(Call { entry, offset: number(self.steps.len() * PARAMETERS_STRIDE), groups, bank, piece });
        self.steps.push(step);
    }
}

/// Scratch values for each row of each seed.
fn features(way: Way, function: Function, widest: usize) -> usize {
    let hidden = 4 * widest;
    match (function, way) {
        (Function::Adapter { rank }, Way::Forward) => rank,
        (Function::Adapter { rank }, Way::Backward) => 2 * rank,
        (Function::Mlp, Way::Forward) => widest + 1 + 2 * hidden,
        (Function::Mlp, Way::Backward) => 2 * widest + 1 + 4 * hidden,
        (Function::ResidualScale, _) => 0,
    }
}

/// Some seeds of one function on some rows.
struct Block {
    way: Way,
    function: Function,
    learns: bool,
    widest: usize,
    base: Step,
    next: u32,
}

impl Block {
    fn slot(&mut self, features: usize) -> Slot {
        let slot = Slot { at: self.next, stride: number(features) };
        self.next += slot.stride * self.base.members * self.base.block_rows;
        slot
    }

    fn steps(mut self) -> Vec<Planned> {
        match (self.function, self.way) {
            (Function::Adapter { rank }, Way::Forward) => self.adapter_forward(rank),
            (Function::Adapter { rank }, Way::Backward) => self.adapter_backward(rank),
            (Function::Mlp, Way::Forward) => self.mlp_forward(),
            (Function::Mlp, Way::Backward) => self.mlp_backward(),
            (Function::ResidualScale, Way::Forward) => Vec::new(),
            (Function::ResidualScale, Way::Backward) => self.scale_backward(),
        }
    }

    fn adapter_forward(&mut self, rank: usize) -> Vec<Planned> {
        let hidden = self.slot(rank);
        vec![
            self.step(Entry::Affine, rank).tensor(DOWN).to(hidden),
            self.step(Entry::Affine, self.widest).tensor(UP).input(hidden, GELU),
        ]
        .into_iter()
        .map(Draft::done)
        .collect()
    }

    fn adapter_backward(&mut self, rank: usize) -> Vec<Planned> {
        let (hidden, back) = (self.slot(rank), self.slot(rank));
        let mut steps = vec![
            self.step(Entry::Affine, rank).tensor(DOWN).to(hidden),
            self.step(Entry::AffineBack, rank).tensor(UP).slope(hidden, GELU).to(back),
            self.step(Entry::AffineBack, self.widest).tensor(DOWN).gradient(back),
        ];
        if self.learns {
            let matrix = (rank + 1) * (self.widest + 1);
            steps.push(self.gather(matrix).tensor(UP).input(hidden, GELU));
            steps.push(self.gather(matrix).tensor(DOWN).gradient(back));
        }
        steps.into_iter().map(Draft::done).collect()
    }

    /// The steps up to the second hidden layer, and the slots of the norm and of both layers.
    fn mlp_hidden(&mut self) -> (Vec<Draft>, [Slot; 4]) {
        let (normal, deviation) = (self.slot(self.widest), self.slot(1));
        let (first, second) = (self.slot(4 * self.widest), self.slot(4 * self.widest));
        let steps = vec![
            self.step(Entry::Normalise, 1).to(normal).deviation(deviation),
            self.step(Entry::Affine, 4 * self.widest).tensor(FIRST).input(normal, NORM).to(first),
            self.step(Entry::Affine, 4 * self.widest).tensor(SECOND).input(first, RELU).to(second),
        ];
        (steps, [normal, deviation, first, second])
    }

    fn mlp_forward(&mut self) -> Vec<Planned> {
        let (mut steps, [_, _, _, second]) = self.mlp_hidden();
        steps.push(self.step(Entry::Affine, self.widest).tensor(THIRD).input(second, RELU));
        steps.into_iter().map(Draft::done).collect()
    }

    fn mlp_backward(&mut self) -> Vec<Planned> {
        let (mut steps, [normal, deviation, first, second]) = self.mlp_hidden();
        let (c, hidden) = (self.widest, 4 * self.widest);
        let (back_second, back_first, back_norm) = (self.slot(hidden), self.slot(hidden), self.slot(c));
        steps.extend([
            self.step(Entry::AffineBack, hidden).tensor(THIRD).slope(second, RELU).to(back_second),
            self.step(Entry::AffineBack, hidden).tensor(SECOND).gradient(back_second).slope(first, RELU).to(back_first),
            self.step(Entry::AffineBack, c).tensor(FIRST).gradient(back_first).to(back_norm),
            self.step(Entry::NormaliseBack, 1).input(normal, 0).gradient(back_norm).deviation(deviation),
        ]);
        if self.learns {
            steps.extend([
                self.gather((hidden + 1) * c).tensor(THIRD).input(second, RELU),
                self.gather((hidden + 1) * hidden).tensor(SECOND).input(first, RELU).gradient(back_second),
                self.gather((c + 1) * hidden).tensor(FIRST).input(normal, NORM).gradient(back_first),
                Draft { entry: Entry::GatherScale, ..self.gather(c).input(normal, 0).gradient(back_norm) },
            ]);
        }
        steps.into_iter().map(Draft::done).collect()
    }

    fn scale_backward(&mut self) -> Vec<Planned> {
        let mut steps = vec![self.step(Entry::ScaleBack, self.widest)];
        if self.learns {
            steps.push(Draft { entry: Entry::GatherScale, ..self.gather(self.widest) });
        }
        steps.into_iter().map(Draft::done).collect()
    }

    /// A step with a thread for each row and so many results; it reads x and dy and writes y or dx unless told otherwise.
    fn step(&self, entry: Entry, results: usize) -> Draft {
        Draft { entry, step: self.base, threads: self.base.rows as usize * results }
    }

    fn gather(&self, threads: usize) -> Draft {
        Draft { entry: Entry::Gather, step: self.base, threads }
    }
}

/// A step as it is put together.
#[derive(Debug, Clone, Copy)]
struct Draft {
    entry: Entry,
    step: Step,
    threads: usize,
}

impl Draft {
    fn tensor(mut self, tensor: u32) -> Self {
        self.step.tensor = tensor;
        self
    }

    fn input(mut self, slot: Slot, activation: u32) -> Self {
        (self.step.input, self.step.input_at, self.step.input_stride) = (SCRATCH, slot.at, slot.stride);
        self.step.activation = activation;
        self
    }

    fn gradient(mut self, slot: Slot) -> Self {
        (self.step.gradient, self.step.gradient_at, self.step.gradient_stride) = (SCRATCH, slot.at, slot.stride);
        self
    }

    fn to(mut self, slot: Slot) -> Self {
        (self.step.output, self.step.output_at, self.step.output_stride) = (SCRATCH, slot.at, slot.stride);
        self
    }

    fn slope(mut self, slot: Slot, activation: u32) -> Self {
        (self.step.slope, self.step.slope_at, self.step.slope_stride) = (activation, slot.at, slot.stride);
        self
    }

    fn deviation(mut self, slot: Slot) -> Self {
        self.step.deviation_at = slot.at;
        self
    }

    fn done(self) -> Planned {
        (self.entry, self.step, self.threads)
    }
}

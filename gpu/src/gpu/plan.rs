//! What is dispatched for a batch of so many rows: made once, used for every pass.

use super::context::Context;
use super::memory::Allocation;
use super::pipelines::bind;
use super::resident::Resident;
use super::steps::Program;
use super::table::{Table, number};
use super::tensor::Cut;
use crate::Error;
use crate::telemetry::SeedTelemetry;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use wgpu::BufferUsages as Usage;

/// Bytes between two sets of parameters: the strictest alignment that a device may ask for.
pub(super) const PARAMETERS_STRIDE: usize = 256;

/// Workgroups of one dimension of a dispatch, on every device.
pub(super) const GROUPS_MAX: usize = 65_535;

/// Workgroups of a check.
const CHECK_GROUPS_MAX: usize = 4096;

/// `Pass` of `fused.wgsl`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Pass {
    width: u32,
    rows: u32,
    seed_first: u32,
    seed_end: u32,
    seeds: u32,
    tile_seeds: u32,
    group_first: u32,
    groups: u32,
}

/// `Part` of `common.wgsl`, in bytes.
const PART_BYTES: usize = 32;

/// One use of the fused kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dispatch {
    pub(super) piece: usize,
    pub(super) bank: usize,
    pub(super) offset: u32,
    pub(super) groups: (u32, u32),
}

/// Everything for batches of `rows`.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rows: usize,
    width: usize,
    pub(super) pieces: Vec<Range<usize>>,
    pub(super) dispatches: Vec<Dispatch>,
    /// For each bank: parameters, table, weights, marks, and where telemetry goes.
    pub(super) banks: Vec<wgpu::BindGroup>,
    /// The steps before the fused kernel, where a function needs them.
    pub(super) before: Option<Program>,
    /// The steps of the backward pass; made when it is first asked for.
    pub(super) backward: Option<Program>,
    pub(super) merge: wgpu::BindGroup,
    pub(super) merge_groups: (u32, u32),
    pub(super) check: wgpu::BindGroup,
    pub(super) telemetry: Allocation,
    /// Alive as long as the groups that bind them.
    kept: Vec<Allocation>,
}

impl Plan {
    /// The most rows whose telemetry is gathered at once.
    pub(super) fn rows_max(table: &Table, cut: Cut, binding_bytes_max: u64) -> usize {
        let row = (8 * cut.width).max(PART_BYTES * table.chunks.seeds());
        let groups = usize::try_from(binding_bytes_max).unwrap_or(usize::MAX) / row;
        // Behind the groups' own sums stand the pivots.
        let groups = groups.saturating_sub(1);
        let group_rows = table.kernel.group_rows();
        let piece_groups = cut.piece_rows.div_ceil(group_rows);
        // Whole pieces, or as many groups of one piece.
        if groups >= piece_groups { groups / piece_groups * cut.piece_rows } else { groups * group_rows }
    }

    pub(super) fn new(
        context: &Context,
        table: &Table,
        resident: &Resident,
        cut: Cut,
        rows: usize,
        scratch_bytes_max: u64,
    ) -> Result<Self, Error> {
        let pieces: Vec<_> = cut.pieces(rows).collect();
        let (dispatches, passes, groups) = dispatches(table, &pieces);
        let (memory, seeds) = (&context.memory, table.chunks.seeds());
        // Too many rows for telemetry at once: then they are only for passes without.
        let watched = rows <= Self::rows_max(table, cut, context.binding_bytes_max);
        let room = |bytes: usize| if watched { bytes as u64 } else { PART_BYTES as u64 };
        let columns = memory.take("telemetry of columns", room(8 * (groups + 1) * cut.width), Usage::STORAGE)?;
        let parts = memory.take("telemetry of seeds", room(PART_BYTES * groups * seeds), Usage::STORAGE)?;
        let telemetry =
            memory.take("telemetry", (size_of::<SeedTelemetry>() * seeds) as u64, Usage::STORAGE | Usage::COPY_SRC)?;
        let parameters = uniform(context, &passes)?;
        let lanes = table.chunks.widest().next_power_of_two().min(64);
        let merging = uniform(context, &[[cut.width, seeds, groups, lanes].map(number)])?;
        let checking = uniform(context, &check_parameters(table, &pieces))?;
        let (device, pipelines) = (&context.device, &context.pipelines);
        let banks = resident.weights.iter().map(|weights| {
            let buffers = [&parameters, &resident.seeds, weights, &resident.flags, &columns, &parts];
            bind(device, &pipelines.pass_layout, Some(size_of::<Pass>() as u64), &buffers.map(|it| &it.buffer))
        });
        let banks = banks.collect();
        let buffers = [&merging, &resident.seeds, &columns, &parts, &telemetry];
        let merge = bind(device, &pipelines.merge_layout, None, &buffers.map(|it| &it.buffer));
        let check = bind(device, &pipelines.check_layout, Some(16), &[&checking.buffer, &resident.flags.buffer]);
        let before = Program::forward(context, table, resident, &pieces, scratch_bytes_max)?;
        let kept = vec![columns, parts, parameters, merging, checking];
        let merge_groups = plane(seeds.div_ceil(64 / lanes));
        Ok(Self {
            rows,
            width: cut.width,
            pieces,
            dispatches,
            banks,
            before,
            backward: None,
            merge,
            merge_groups,
            check,
            telemetry,
            kept,
        })
    }

    /// Where the parameters of the check of a piece begin.
    pub(super) fn check_offset(piece: usize) -> u32 {
        number(piece * PARAMETERS_STRIDE)
    }

    /// Workgroups of the check of a piece: enough to fill a device, each of them goes on from its first values.
    pub(super) fn check_groups(&self, piece: usize) -> u32 {
        number((self.pieces[piece].len() * self.width).div_ceil(256).clamp(1, CHECK_GROUPS_MAX))
    }

    /// Bytes on the device beside the layer and the tensors.
    pub(super) fn bytes(&self) -> u64 {
        let programs = [&self.before, &self.backward].into_iter().flatten().map(Program::bytes).sum::<u64>();
        self.kept.iter().map(Allocation::bytes).sum::<u64>() + self.telemetry.bytes() + programs
    }
}

/// For every piece and bank, in order; with their parameters, and the number of groups of rows.
fn dispatches(table: &Table, pieces: &[Range<usize>]) -> (Vec<Dispatch>, Vec<Pass>, usize) {
    let (mut all, mut passes, mut group_first) = (Vec::new(), Vec::new(), 0);
    let (tile, group_rows) = (table.kernel.tile_seeds(table.chunks.widest()), table.kernel.group_rows());
    for (piece, rows) in pieces.iter().enumerate() {
        let groups = rows.len().div_ceil(group_rows);
        for (bank, seeds) in table.banks.iter().map(|bank| bank.seeds.clone()).enumerate() {
            for first in seeds.clone().step_by(tile * GROUPS_MAX) {
                let end = (first + tile * GROUPS_MAX).min(seeds.end);
                let offset = number(passes.len() * PARAMETERS_STRIDE);
                let groups = (number((end - first).div_ceil(tile)), number(groups));
                all.push(Dispatch { piece, bank, offset, groups });
                passes.push(Pass {
                    width: number(table.chunks.width()),
                    rows: number(rows.len()),
                    seed_first: number(first),
                    seed_end: number(end),
                    seeds: number(table.chunks.seeds()),
                    tile_seeds: number(tile),
                    group_first: number(group_first),
                    groups: 0,
                });
            }
        }
        group_first += groups;
    }
    for pass in &mut passes {
        pass.groups = number(group_first);
    }
    (all, passes, group_first)
}

/// `Check` of `check.wgsl`, for each piece.
fn check_parameters(table: &Table, pieces: &[Range<usize>]) -> Vec<[u32; 4]> {
    let chunks = &table.chunks;
    let of = |rows: &Range<usize>| [chunks.width(), rows.len() * chunks.width(), chunks.wider(), chunks.narrow()];
    pieces.iter().map(|rows| of(rows).map(number)).collect()
}

/// A buffer of sets of parameters, each at its own offset.
pub(super) fn uniform<T: Pod>(context: &Context, sets: &[T]) -> Result<Allocation, Error> {
    let mut bytes = vec![0_u8; PARAMETERS_STRIDE * sets.len()];
    for (to, set) in bytes.chunks_exact_mut(PARAMETERS_STRIDE).zip(sets) {
        to[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(set));
    }
    let usage = Usage::UNIFORM | Usage::COPY_DST;
    let buffer = context.memory.take("parameters", bytes.len() as u64, usage)?;
    context.write(&buffer.buffer, 0, &bytes)?;
    Ok(buffer)
}

/// So many workgroups in two dimensions.
pub(super) fn plane(groups: usize) -> (u32, u32) {
    let down = groups.div_ceil(GROUPS_MAX).max(1);
    (number(groups.div_ceil(down)), number(down))
}

//! A layer on the device: the table, the weights by banks, and the marks of what is not finite.

use super::context::Context;
use super::memory::Allocation;
use super::pipelines::Fused;
use super::table::{Change, Table};
use crate::Error;
use std::ops::Range;
use std::sync::Arc;
use wgpu::BufferUsages as Usage;

/// Gaps between changed weights that are written over rather than around, in floats: a write costs as much as this.
const GAP_MAX: usize = 4 << 10;

/// The buffers of one layer.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) seeds: Allocation,
    pub(super) members: Allocation,
    pub(super) weights: Vec<Allocation>,
    /// For each bank, as large as the gradients of the seeds that learn; none before the first backward pass.
    pub(super) gradients: Vec<Allocation>,
    /// One bit for each seed.
    pub(super) flags: Allocation,
    pub(super) fused: Arc<Fused>,
}

impl Resident {
    pub(super) fn new(context: &Context, table: &Table) -> Result<Self, Error> {
        let storage = Usage::STORAGE | Usage::COPY_DST;
        let bytes = |values: usize| 4 * values as u64;
        let take = |what: &str, bytes: u64, usage: Usage| take(context, what, bytes, usage);
        let weights: Result<Vec<_>, _> =
            table.banks.iter().map(|bank| take("weights", bytes(bank.weights.len()), storage)).collect();
        let resident = Self {
            seeds: take("the table of seeds", size_of_val(table.rows.as_slice()) as u64, storage)?,
            members: take("the list of seeds", bytes(table.members.len()), storage)?,
            weights: weights?,
            gradients: Vec::new(),
            flags: take("marks", bytes(table.chunks.seeds().div_ceil(32)), storage | Usage::COPY_SRC)?,
            fused: context.pipelines.fused(&context.device, table.kernel, table.chunks.widest()),
        };
        let write = |to: &Allocation, bytes: &[u8]| context.write(&to.buffer, 0, bytes);
        write(&resident.seeds, bytemuck::cast_slice(&table.rows))?;
        write(&resident.members, bytemuck::cast_slice(&table.members))?;
        for (to, bank) in resident.weights.iter().zip(&table.banks) {
            write(to, bytemuck::cast_slice(&bank.weights))?;
        }
        // What is written waits on the host until the next submission.
        context.queue.submit([]);
        context.check("load").inspect_err(|_| context.pipelines.forget())?;
        Ok(resident)
    }

    /// Make sure that there is room for gradients.
    pub(super) fn make_gradients(&mut self, context: &Context, table: &Table) -> Result<(), Error> {
        if self.gradients.is_empty() {
            let usage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
            let bytes = table.banks.iter().map(|bank| 4 * bank.gradients as u64);
            let gradients: Result<_, _> = bytes.map(|bytes| take(context, "gradients", bytes, usage)).collect();
            self.gradients = gradients?;
        }
        Ok(())
    }

    /// Write what changed of seeds that kept their places.
    pub(super) fn update(&self, context: &Context, table: &Table, changes: &[Change]) -> Result<(), Error> {
        let rows = joined(changes.iter().map(|change| (0, change.rows.clone())), 64);
        for (_, range) in rows {
            let at = (range.start * size_of::<super::table::Row>()) as u64;
            context.write(&self.seeds.buffer, at, bytemuck::cast_slice(&table.rows[range]))?;
        }
        let weights = changes.iter().filter(|change| !change.weights.is_empty());
        for (bank, range) in joined(weights.map(|change| (change.bank, change.weights.clone())), GAP_MAX) {
            let (to, at) = (&self.weights[bank].buffer, 4 * range.start as u64);
            context.write(to, at, bytemuck::cast_slice(&table.banks[bank].weights[range]))?;
        }
        context.check("load")
    }
}

fn take(context: &Context, what: &str, bytes: u64, usage: Usage) -> Result<Allocation, Error> {
    if bytes > context.binding_bytes_max {
        let (device, what) = (context.about.name.clone(), format!("{what} in one binding"));
        return Err(Error::OutOfMemory { device, what, bytes });
    }
    context.memory.take(what, bytes, usage)
}

/// Join ranges of the same bank, in ascending order, whose gaps are small.
fn joined(ranges: impl Iterator<Item = (usize, Range<usize>)>, gap_max: usize) -> Vec<(usize, Range<usize>)> {
    let mut all: Vec<(usize, Range<usize>)> = Vec::new();
    for (bank, range) in ranges {
        match all.last_mut() {
            Some((last, to)) if *last == bank && range.start >= to.start && range.start <= to.end + gap_max => {
                to.end = to.end.max(range.end);
            }
            _ => all.push((bank, range)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn near_ranges_are_written_at_once() {
        let ranges = [(0, 0..4), (0, 6..8), (0, 20..21), (1, 20..22), (1, 3..4)];
        assert_eq!(joined(ranges.into_iter(), 2), [(0, 0..8), (0, 20..21), (1, 20..22), (1, 3..4)]);
    }
}

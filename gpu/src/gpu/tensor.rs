//! Tensors on the device, in pieces that a shader can be given at once, and the way to and from the host.

use super::context::Context;
use super::memory::{Allocation, Pool};
use crate::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use wgpu::BufferUsages as Usage;

/// `rows × width` values on the device. Made by [`super::Gpu::tensor`]; of use only to the device that made it.
#[derive(Debug)]
pub struct Tensor {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) pieces: Vec<Allocation>,
    /// The connection that it belongs to: one that was lost had another.
    pub(super) connection: u64,
}

impl Tensor {
    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes that it takes on the device.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(Allocation::bytes).sum()
    }

    /// In how many parts it lies there.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }
}

/// A number that no other connection of this process has.
pub(super) fn next_connection() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How a batch is cut into pieces: by rows, whole groups of telemetry where they fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) width: usize,
    pub(super) piece_rows: usize,
}

impl Cut {
    pub(super) fn new(width: usize, group_rows: usize, binding_bytes_max: u64) -> Option<Self> {
        let rows = usize::try_from(binding_bytes_max / (4 * width as u64)).unwrap_or(usize::MAX);
        let whole = rows / group_rows * group_rows;
        // A dispatch has at most 65535 groups of rows.
        let piece_rows = if whole > 0 { whole.min(65_535 * group_rows) } else { rows };
        (piece_rows > 0).then_some(Self { width, piece_rows })
    }

    pub(super) fn pieces(self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        (0..rows).step_by(self.piece_rows).map(move |first| first..(first + self.piece_rows).min(rows))
    }

    fn bytes(self, rows: &Range<usize>) -> u64 {
        4 * (rows.len() * self.width) as u64
    }
}

/// Takes tensors from a pool, and moves them.
pub(super) fn take(
    context: &Context,
    pool: &mut Pool,
    cut: Cut,
    rows: usize,
    connection: u64,
) -> Result<Tensor, Error> {
    let usage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
    let piece = |rows| pool.take(&context.memory, "a tensor", cut.bytes(&rows), usage);
    let pieces: Result<Vec<_>, _> = cut.pieces(rows).map(piece).collect();
    Ok(Tensor { rows, width: cut.width, pieces: pieces?, connection })
}

pub(super) fn upload(context: &Context, tensor: &Tensor, cut: Cut, values: &[f32]) -> Result<(), Error> {
    for (piece, rows) in tensor.pieces.iter().zip(cut.pieces(tensor.rows)) {
        let values = &values[rows.start * cut.width..rows.end * cut.width];
        context.write(&piece.buffer, 0, bytemuck::cast_slice(values))?;
        context.check("upload")?;
    }
    Ok(())
}

/// What is to be brought to the host: copied with the commands of a pass, and read when they are done.
#[derive(Debug, Default)]
pub(super) struct Download {
    parts: Vec<(Allocation, u64)>,
}

impl Download {
    /// Copy the first `bytes` of a buffer after the commands so far.
    pub(super) fn add(
        &mut self,
        context: &Context,
        pool: &mut Pool,
        encoder: &mut wgpu::CommandEncoder,
        source: &wgpu::Buffer,
        bytes: u64,
    ) -> Result<(), Error> {
        let staging = pool.take(&context.memory, "a download", bytes, Usage::MAP_READ | Usage::COPY_DST)?;
        encoder.copy_buffer_to_buffer(source, 0, &staging.buffer, 0, bytes);
        self.parts.push((staging, bytes));
        Ok(())
    }

    /// Copy a whole tensor, piece by piece.
    pub(super) fn add_tensor(
        &mut self,
        context: &Context,
        pool: &mut Pool,
        encoder: &mut wgpu::CommandEncoder,
        tensor: &Tensor,
        cut: Cut,
    ) -> Result<(), Error> {
        for (piece, rows) in tensor.pieces.iter().zip(cut.pieces(tensor.rows)) {
            self.add(context, pool, encoder, &piece.buffer, cut.bytes(&rows))?;
        }
        Ok(())
    }

    /// Wait for the commands, which were submitted, and hand over each part in the order in which it was added.
    pub(super) fn read(
        self,
        context: &Context,
        pool: &mut Pool,
        mut part: impl FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        for (staging, bytes) in &self.parts {
            // A failure is seen below: the range is then not mapped.
            staging.buffer.slice(..*bytes).map_async(wgpu::MapMode::Read, |_| {});
        }
        context.wait("download")?;
        for (at, (staging, bytes)) in self.parts.into_iter().enumerate() {
            {
                let view = staging.buffer.slice(..bytes).get_mapped_range();
                let view = view.map_err(|error| context.error(format!("download: {error}")))?;
                part(at, bytemuck::cast_slice(&view));
            }
            staging.buffer.unmap();
            pool.give(staging);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_groups_where_they_fit() {
        let cut = Cut::new(100, 128, 128 << 20).unwrap();
        assert_eq!(cut.piece_rows % 128, 0);
        assert!(4 * 100 * cut.piece_rows <= 128 << 20);
        let small = Cut::new(100, 128, 10_000).unwrap();
        assert_eq!(small.pieces(60).collect::<Vec<_>>(), [0..25, 25..50, 50..60]);
        assert_eq!(Cut::new(100, 128, 399), None);
    }
}

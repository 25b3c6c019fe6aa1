//! How a pass is cut into tasks: tiles of neighbouring seeds, times blocks of rows. The cut depends on the shapes alone,
//! never on the number of threads, so results have the same bits on any number of them.

use super::Grown;
use crate::chunks::Chunks;
use std::ops::Range;

/// About how many columns a tile has: pieces of rows long enough to be read and written at the speed of memory. With a
/// quarter of it a dormant layer took nearly twice the time (`docs/kasmina-performance.md`).
const COLUMNS: usize = 2048;
/// About how many columns are lifted into a panel at once: long pieces of rows, and 16 of them in a core's own cache.
const PANEL_COLUMNS: usize = 512;
/// Rows of a block, at least and at most. Statistics are summed in f32 within a block and in f64 over blocks; what is
/// known of a block is kept until all are done, so small blocks take memory.
const BLOCK_ROWS: std::ops::RangeInclusive<usize> = 32..=256;
/// Into about so many tasks, times the columns of a layer by those of a tile: 16 at B1024 H4096, 64 at
/// B8192. Small batches have fewer, lest a task be shorter than its start.
const VALUES_OF_A_ROW_OF_BLOCKS: usize = 32_768;
/// Seeds are lifted into panels together up to so many columns, whether all of them compute or not: shorter pieces of
/// rows are read and written slowly.
const GROUP: usize = 64;

/// Seeds of the same chunk width, side by side.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    /// Which seeds.
    pub(super) seeds: Range<usize>,
    /// Its first column in the layer.
    pub(super) start: usize,
    /// Columns of each of its chunks.
    pub(super) chunk: usize,
    /// Its columns, in order: what is copied, and what is lifted into panels because seeds compute there.
    pub(super) spans: Vec<Span>,
}

/// Some seeds of a tile, side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Which seeds of the layer.
    pub(super) seeds: Range<usize>,
    /// Their columns, counted from the tile's start.
    pub(super) columns: Range<usize>,
    /// Whether one of them computes.
    pub(super) computes: bool,
}

impl Tile {
    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.seeds.len() * self.chunk
    }

    /// Its columns in the layer.
    pub(super) fn columns(&self) -> Range<usize> {
        self.start..self.start + self.width()
    }

    /// The columns of a seed, counted from the tile's start.
    pub(super) fn chunk_of(&self, seed: usize) -> Range<usize> {
        let start = (seed - self.seeds.start) * self.chunk;
        start..start + self.chunk
    }

    /// Columns of the widest span that computes.
    pub(super) fn widest_panel(&self) -> usize {
        let spans = self.spans.iter().filter(|span| span.computes);
        spans.map(|span| span.columns.len()).max().unwrap_or(0)
    }

    /// Find the spans anew.
    pub(super) fn find_spans(&mut self, grown: &[Option<Box<Grown>>]) {
        let mut spans: Vec<Span> = Vec::new();
        let mut first = self.seeds.start;
        while first < self.seeds.end {
            let end = (first + (GROUP / self.chunk).max(1)).min(self.seeds.end);
            let computes = grown[first..end].iter().any(Option::is_some);
            let columns = self.chunk_of(first).start..self.chunk_of(end - 1).end;
            match spans.last_mut() {
                Some(last) if last.computes == computes && !(computes && last.columns.len() >= PANEL_COLUMNS) => {
                    (last.seeds.end, last.columns.end) = (end, columns.end);
                }
                _ => spans.push(Span { seeds: first..end, columns, computes }),
            }
            first = end;
        }
        self.spans = spans;
    }
}

/// Cut a layer into tiles.
pub(super) fn tiles(chunks: &Chunks) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for (from, to) in [(0, chunks.wider()), (chunks.wider(), chunks.seeds())] {
        let mut first = from;
        while first < to {
            let chunk = chunks.width_of(first);
            let end = (first + (COLUMNS / chunk).max(1)).min(to);
            tiles.push(Tile { seeds: first..end, start: chunks.start_of(first), chunk, spans: Vec::new() });
            first = end;
        }
    }
    tiles
}

/// Rows of a block, of a batch of so many rows of `width` columns: whole panels.
pub(super) fn block_rows(rows: usize, width: usize) -> usize {
    let wanted = rows.saturating_mul(width) / VALUES_OF_A_ROW_OF_BLOCKS;
    wanted.clamp(*BLOCK_ROWS.start(), *BLOCK_ROWS.end()).next_multiple_of(16)
}

/// One block of rows of one tile of the output.
pub(super) struct Block<'y> {
    /// Its first row in the batch.
    pub(super) first: usize,
    /// Its rows, each of the tile's columns.
    pub(super) rows: Vec<&'y mut [f32]>,
}

/// Cut an output buffer into blocks, tile by tile.
pub(super) fn blocks<'y>(tiles: &[Tile], width: usize, buffer: &'y mut [f32]) -> Vec<Vec<Block<'y>>> {
    let rows = buffer.len() / width;
    let height = block_rows(rows, width);
    let empty = |first: usize| Block { first, rows: Vec::with_capacity(height.min(rows - first)) };
    let mut cut: Vec<Vec<Block<'y>>> = tiles.iter().map(|_| (0..rows).step_by(height).map(empty).collect()).collect();
    for (at, mut row) in buffer.chunks_exact_mut(width).enumerate() {
        for (tile, blocks) in tiles.iter().zip(&mut cut) {
            let (part, rest) = row.split_at_mut(tile.width());
            blocks[at / height].rows.push(part);
            row = rest;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_shapes_are_cut_for_many_cores() {
        let count = |rows: usize, width, seeds| {
            let tiles = tiles(&Chunks::new(width, seeds).unwrap());
            tiles.len() * rows.div_ceil(block_rows(rows, width))
        };
        assert_eq!(count(1024, 4096, 1024), 16);
        assert_eq!(count(1024, 4096, 64), 16);
        assert_eq!(count(8192, 4096, 1024), 64);
        assert_eq!((block_rows(1, 4), block_rows(1 << 40, 1 << 40)), (32, 256));
    }
}

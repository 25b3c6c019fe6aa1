//! How a pass is cut into tasks: tiles of neighbouring seeds, times blocks of rows. The cut depends on the shapes alone,
//! never on the number of threads, so results have the same bits on any number of them.

use super::Grown;
use crate::chunks::Chunks;
use std::ops::Range;

/// About how many columns a tile has. Long rows are read and written at the speed of memory; some rows of a tile fit a
/// core's own cache.
const COLUMNS: usize = 4096;
/// About how many columns are lifted into a panel at once: long pieces of rows, and 16 of them in a core's own cache.
const PANEL_COLUMNS: usize = 1024;
/// Rows of a block. Statistics are summed in f32 within a block and in f64 over blocks.
pub(super) const BLOCK_ROWS: usize = 256;
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
    let empty = |first: usize| Block { first, rows: Vec::with_capacity(BLOCK_ROWS.min(rows - first)) };
    let mut cut: Vec<Vec<Block<'y>>> =
        tiles.iter().map(|_| (0..rows).step_by(BLOCK_ROWS).map(empty).collect()).collect();
    for (at, mut row) in buffer.chunks_exact_mut(width).enumerate() {
        for (tile, blocks) in tiles.iter().zip(&mut cut) {
            let (part, rest) = row.split_at_mut(tile.width());
            blocks[at / BLOCK_ROWS].rows.push(part);
            row = rest;
        }
    }
    cut
}

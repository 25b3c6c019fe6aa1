//! How a layer is cut into chunks, one for each seed.
//!
//! The width H is split into S chunks without gap or overlap; the first `H mod S` chunks are one column wider than the
//! others. So the widths never grow with the number of the seed, and differ by one at most: a selection of seeds in
//! their order is again a tiling (see [`Chunks::select`]).

use crate::Error;
use std::ops::Range;

/// The fewest seeds of a layer (`specs`: S from 4 to H). The legacy mode has one.
pub const SEEDS_MIN: usize = 4;

/// A tiling of `width` columns by `seeds` chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    width: usize,
    seeds: usize,
}

impl Chunks {
    /// Tile `width` columns with `seeds` chunks.
    ///
    /// # Errors
    /// If there are no seeds, or more of them than columns.
    pub fn new(width: usize, seeds: usize) -> Result<Self, Error> {
        if seeds == 0 || seeds > width || u32::try_from(width).is_err() {
            return Err(Error::Tiling { width, seeds, least: 1 });
        }
        Ok(Self { width, seeds })
    }

    /// Columns of the layer (H).
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of chunks, and of seeds (S).
    #[must_use]
    pub fn seeds(&self) -> usize {
        self.seeds
    }

    /// How many chunks are one column wider than the others; they come first.
    #[must_use]
    pub fn wider(&self) -> usize {
        self.width % self.seeds
    }

    /// Columns of the narrow chunks: the least width of any.
    #[must_use]
    pub fn narrow(&self) -> usize {
        self.width / self.seeds
    }

    /// Columns of the widest chunk.
    #[must_use]
    pub fn widest(&self) -> usize {
        self.narrow() + usize::from(self.wider() > 0)
    }

    /// Columns of one chunk.
    #[must_use]
    pub fn width_of(&self, seed: usize) -> usize {
        self.narrow() + usize::from(seed < self.wider())
    }

    /// First column of one chunk.
    #[must_use]
    pub fn start_of(&self, seed: usize) -> usize {
        seed * self.narrow() + seed.min(self.wider())
    }

    /// The columns of one chunk.
    #[must_use]
    pub fn range(&self, seed: usize) -> Range<usize> {
        let start = self.start_of(seed);
        start..start + self.width_of(seed)
    }

    /// The tiling of the chunks of these seeds alone, side by side in this order. `None` if there are none.
    ///
    /// # Panics
    /// If the numbers do not ascend: the wider chunks must come first.
    #[must_use]
    pub fn select(&self, seeds: &[usize]) -> Option<Self> {
        assert!(seeds.is_sorted(), "the seeds of a selection ascend");
        let width = seeds.iter().map(|&seed| self.width_of(seed)).sum();
        Self::new(width, seeds.len()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_tile_the_layer(width in 1..5_000_usize, share in 0.0..1.0_f64, keep in proptest::collection::vec(any::<bool>(), 1..300)) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a small number")]
            let seeds = 1 + (share * (width - 1) as f64) as usize;
            let chunks = Chunks::new(width, seeds).unwrap();
            let mut next = 0;
            for seed in 0..seeds {
                prop_assert_eq!(chunks.range(seed).start, next);
                next = chunks.range(seed).end;
                prop_assert!(chunks.width_of(seed) == chunks.narrow() || seed < chunks.wider());
            }
            prop_assert_eq!(next, width);
            let chosen: Vec<_> = (0..seeds).filter(|seed| keep[seed % keep.len()]).collect();
            if let Some(part) = chunks.select(&chosen) {
                for (at, &seed) in chosen.iter().enumerate() {
                    prop_assert_eq!(part.width_of(at), chunks.width_of(seed));
                }
            }
        }
    }

    #[test]
    fn more_seeds_than_columns_do_not_tile() {
        assert!(Chunks::new(3, 4).is_err());
        assert!(Chunks::new(3, 0).is_err());
    }
}

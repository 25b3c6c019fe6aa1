//! Randomness from one seed, so that a failure can be run again.

use std::hash::{BuildHasher, RandomState};

/// `SplitMix64`: small, good enough to choose moments and operations.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From the seed in `GAVEL_TEST_SEED`, or a new one; it is printed either way.
    #[must_use]
    pub fn from_environment() -> Self {
        let given =
            std::env::var("GAVEL_TEST_SEED").ok().map(|seed| seed.parse().expect("GAVEL_TEST_SEED is a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
        eprintln!("GAVEL_TEST_SEED={seed}");
        Self(seed)
    }

    /// From this seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }
}

//! Fuzz targets: every parser of Gavel that meets bytes from outside, each with an oracle.
//!
//! A [`Target`] has seeds, which are valid inputs, and a function from bytes to nothing that panics when something does
//! not hold. Inputs and oracles are apart: [`mutate`] knows nothing of what is right, and a target nothing of how its
//! input came about. So the same targets serve two drivers:
//!
//! - [`smoke`], which mutates the seeds in a structured way, from one seed, on a stable compiler: what CI runs
//!   (`tests/smoke.rs`). `GAVEL_FUZZ_RUNS` says how many inputs for each target, `GAVEL_TEST_SEED` which ones.
//! - `cargo fuzz`, which is guided by coverage and needs a nightly compiler: `cargo +nightly fuzz run --fuzz-dir
//!   tests/fuzz/libfuzzer TARGET`. `cargo run -p gavel-fuzz -- corpus FOLDER` writes the seeds for it.
//!
//! The oracles are of two kinds. Whatever is accepted must be what it says: written again it gives the same bytes,
//! another parser agrees, the tree computed in the plainest way has the same root. And nothing that was altered may be
//! accepted as what it was not: whoever holds a root or a key gets the truth or an error.
#![allow(clippy::missing_panics_doc, reason = "an oracle speaks by panicking")]
#![allow(clippy::print_stderr, reason = "a driver says how an input is run again")]
#![allow(clippy::unwrap_used, reason = "what a target makes itself is right")]

pub mod evidence;
pub mod ledger;
pub mod mutate;
pub mod policies;
pub mod proofs;
pub mod requests;

use gavel_tests::{Random, scratch};
use mutate::Mutator;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// One thing to fuzz.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is also the file's in `fuzz_targets`.
    pub name: &'static str,
    /// Valid inputs, and some that are nearly so.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something in its inputs.
    pub words: &'static [&'static str],
    /// The oracle: panics when something does not hold.
    pub run: fn(&[u8]),
    /// One input costs about as much as so many cheap ones.
    pub cost: u64,
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    ledger::LEDGER,
    ledger::RECORD,
    proofs::NOTE,
    proofs::KEY,
    proofs::INCLUSION,
    proofs::CONSISTENCY,
    proofs::RANGE,
    evidence::EVIDENCE,
    evidence::TLOG_PROOF,
    requests::JSON,
    requests::REQUEST,
    policies::PACKAGE,
    policies::CONFIG,
];

/// Inputs for each target of cost 1, unless `GAVEL_FUZZ_RUNS` says otherwise.
const RUNS: u64 = 20_000;

/// Run the seeds of a target and mutations of them.
///
/// An input that fails is written to a file, and the message says how to run it again.
pub fn smoke(target: &Target) {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    for seed in &seeds {
        guarded(target, seed);
    }
    let runs = std::env::var("GAVEL_FUZZ_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number"));
    let mut mutator = Mutator::new(seeds, target.words, Random::from_environment());
    for _ in 0..(runs / target.cost).max(1) {
        guarded(target, mutator.input());
    }
}

/// Run one input; one that fails is kept.
fn guarded(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let path = scratch().join(format!("{}.failing", target.name));
        let written = std::fs::create_dir_all(scratch()).and_then(|()| std::fs::write(&path, input));
        eprintln!(
            "the input is in {}: {written:?}; again: cargo run -p gavel-fuzz -- {} {}",
            path.display(),
            target.name,
            path.display()
        );
        resume_unwind(panic);
    }
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

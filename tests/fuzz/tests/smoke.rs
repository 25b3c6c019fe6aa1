//! A short run of every fuzz target, on stable, from one seed that is printed.
//!
//! `GAVEL_FUZZ_RUNS=1000000 cargo test -p gavel-fuzz` runs longer; what failed is in a file that the message names.

use gavel_fuzz::{TARGETS, smoke, target};

/// One test for each target, so that they run beside each other.
macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            smoke(&target(stringify!($name)).expect("a target"));
        })*

        #[test]
        fn every_target_is_run() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

targets!(
    ledger,
    record,
    note,
    key,
    inclusion,
    consistency,
    range,
    evidence,
    tlog_proof,
    json,
    request,
    package,
    config
);

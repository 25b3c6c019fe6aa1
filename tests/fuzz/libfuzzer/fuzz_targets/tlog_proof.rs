//! Coverage-guided fuzzing of the target `tlog_proof`; see `tests/fuzz/src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (gavel_fuzz::target("tlog_proof").expect("a target").run)(input));

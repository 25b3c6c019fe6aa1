//! Coverage-guided fuzzing of the target `json`; see `tests/fuzz/src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (gavel_fuzz::target("json").expect("a target").run)(input));

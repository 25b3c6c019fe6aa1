//! Coverage-guided fuzzing of the target `config`; see `tests/fuzz/src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (gavel_fuzz::target("config").expect("a target").run)(input));

//! Kasmina's components: grafting strategies and Tamiyos as WebAssembly components, in the real sandbox.
//!
//! Here belongs what a component does to a layer and what it cannot do: the examples of `guest-examples/kasmina` against
//! the same rules computed natively ([`law`]), a real layer that a component leads through its life, and components that
//! misbehave. The Rust examples are committed as they are built (`tests/data/guests`). With `GAVEL_KASMINA_EXAMPLES`
//! naming a folder that `guest-examples/build` filled, those of every language in it are tested the same way.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

mod examples;
mod hostile;
mod law;
mod layer;
mod served;

use gavel::kasmina::component::{
    ComponentStrategy, ComponentTamiyo, StrategyFile, TamiyoFile, load_strategy, load_tamiyo,
};
use gavel_runtime::kasmina::Limits;
use gavel_runtime::{Sandbox, SandboxOptions};
use gavel_tests::repository;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The languages that `guest-examples/build` makes the examples in.
const LANGUAGES: [&str; 2] = ["js", "rust"];

/// The folders with built examples: the committed ones, and those that were built just now.
fn built() -> Vec<PathBuf> {
    let committed = repository().join("tests/data/guests");
    let fresh = std::env::var_os("GAVEL_KASMINA_EXAMPLES").map(PathBuf::from);
    let fresh = fresh.iter().flat_map(|folder| LANGUAGES.map(|language| folder.join(format!("kasmina-{language}"))));
    std::iter::once(committed).chain(fresh).collect()
}

/// What is compiled stays for the next run: a component with a language's runtime takes seconds.
fn sandbox() -> Sandbox {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kasmina-components");
    Sandbox::new(SandboxOptions { cache_dir: Some(cache), max_instances: 8, ..SandboxOptions::default() }).unwrap()
}

/// The default limits, with so much time that only what really hangs meets its deadline, however busy the machine.
fn patient() -> Limits {
    Limits { deadline_ms: 10_000, ..Limits::default() }
}

fn strategy(sandbox: &Sandbox, folder: &Path, config: Value) -> ComponentStrategy {
    let file = StrategyFile { config, limits: patient(), ..StrategyFile::at(folder.join("patient-ramp.wasm")) };
    load_strategy(sandbox, &file).unwrap()
}

fn tamiyo(sandbox: &Sandbox, folder: &Path, config: Value) -> ComponentTamiyo {
    let file = TamiyoFile { config, limits: patient(), ..TamiyoFile::at(folder.join("cautious-tamiyo.wasm")) };
    load_tamiyo(sandbox, &file).unwrap()
}

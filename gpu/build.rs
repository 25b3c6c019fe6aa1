//! Checks every shader when the crate is built, in the form in which the device gets it: a mistake stops the build with
//! naga's own message.
//!
//! A shader is `common.wgsl` and the file of its name; `narrow` and `wide` have `fused.wgsl` in between.
//! `src/gpu/pipelines.rs` puts them together in the same way.

use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::path::Path;

const SHADERS: &[(&str, &[&str])] = &[
    ("narrow", &["common", "fused", "narrow"]),
    ("wide", &["common", "fused", "wide"]),
    ("merge", &["common", "merge"]),
    ("steps", &["common", "steps"]),
    ("check", &["common", "check"]),
    ("copy", &["copy"]),
];

fn main() {
    let folder = Path::new("src/gpu/shaders");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut failed = false;
    for (name, parts) in SHADERS {
        let mut source = String::new();
        for part in *parts {
            let file = folder.join(format!("{part}.wgsl"));
            match std::fs::read_to_string(&file) {
                Ok(text) => source.push_str(&text),
                Err(error) => {
                    println!("cargo::error={}: {error}", file.display());
                    failed = true;
                }
            }
        }
        if let Err(problem) = check(&source) {
            println!("cargo::error=shader `{name}` ({}):", parts.join(" + "));
            problem.lines().for_each(|line| println!("cargo::error={line}"));
            failed = true;
        }
    }
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let part = file.file_stem().unwrap_or_default().to_string_lossy();
        if !SHADERS.iter().any(|(_, parts)| parts.contains(&part.as_ref())) {
            println!("cargo::error={}: no shader has this part, so nothing checks it", file.display());
            failed = true;
        }
    }
    if failed {
        std::process::exit(1);
    }
}

fn check(source: &str) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::default());
    validator.validate(&module).map(drop).map_err(|error| error.emit_to_string(source))
}

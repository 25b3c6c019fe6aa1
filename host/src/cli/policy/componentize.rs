//! `gavel policy componentize`: from a core module to a component.

use super::super::Outcome;
use super::super::output::{line, print_json};
use super::subject::{read_package, replace, size};
use crate::policies::componentize::{Contract, componentize};
use crate::policies::package::digest_of;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;

/// Make a component of a core WebAssembly module, as compilers for C, Rust and Go write it.
///
/// What the module asks of WASI is answered inside the component by a sealed one that has no clock, no randomness and no
/// files. The build commands of projects use this.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy componentize target/core.wasm -o target/no-deletes.wasm
  gavel policy componentize core.wasm --wit wit/policy.wit -o no-deletes.wasm
  gavel policy componentize core.wasm --world tamiyo -o cautious-tamiyo.wasm
  gavel policy componentize core.wasm --world plugin -o prompt-guard.wasm")]
pub(super) struct Args {
    /// The core module.
    core: PathBuf,
    /// The component to write. Default: over the core module.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The contract that the module is built against (WIT), where the module does not carry it. Default: Gavel's own.
    #[arg(long, value_name = "FILE")]
    wit: Option<PathBuf>,
    /// The world of Gavel's own that the module is built against, where the module does not carry it.
    #[arg(long, value_enum, default_value_t = World::Policy, conflicts_with = "wit")]
    world: World,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum World {
    /// A policy (wit/policy.wit).
    Policy,
    /// A grafting strategy (wit/kasmina/kasmina.wit).
    Strategy,
    /// A Tamiyo (wit/kasmina/kasmina.wit).
    Tamiyo,
    /// A plugin of the event bus (wit/plugin/plugin.wit).
    Plugin,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let core = read_package(&args.core)?;
    let wit = args.wit.as_ref().map(|path| std::fs::read_to_string(path).with_context(|| path.display().to_string()));
    let wit = wit.transpose()?;
    let contract = match (&wit, args.world) {
        (Some(wit), _) => Contract::Given(wit),
        (None, World::Policy) => Contract::Policy,
        (None, World::Strategy) => Contract::Strategy,
        (None, World::Tamiyo) => Contract::Tamiyo,
        (None, World::Plugin) => Contract::Plugin,
    };
    let component = componentize(&core, contract).with_context(|| args.core.display().to_string())?;
    let out = args.out.as_ref().unwrap_or(&args.core);
    replace(out, &component)?;
    if as_json {
        print_json(&json!({"file": out, "bytes": component.len(), "digest": digest_of(&component)}))?;
    } else {
        line(&format!("{}: a component of {}", out.display(), size(component.len() as u64)))?;
    }
    Ok(Outcome::Yes)
}

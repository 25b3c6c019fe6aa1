//! `gavel validate`: is this configuration, or this request, good?

use super::Outcome;
use super::output::{line, print_json};
use crate::clock::Clock;
use crate::config;
use crate::host::{Host, Storage};
use anyhow::{Context, Result};
use gavel_kernel::{Jurisdiction, Law, MemoryPermitUses, Request, Variant, Verdict, json, judge};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Check a configuration (its policies are loaded too, and its plugins) or a request file, without serving it.
///
/// Exit code 0: valid. 1: not valid, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gavel validate --config gavel.yaml\n  gavel validate --request request.json")]
pub(super) struct Args {
    /// A configuration (YAML).
    #[arg(long, value_name = "FILE", required_unless_present = "request", conflicts_with = "request")]
    config: Option<PathBuf>,
    /// A request (JSON).
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let (path, checked) = match (&args.config, &args.request) {
        (Some(path), _) => (path, check_config(path)),
        (None, Some(path)) => (path, check_request(path)),
        (None, None) => anyhow::bail!("give --config FILE or --request FILE"),
    };
    let outcome = if checked.is_ok() { Outcome::Yes } else { Outcome::No };
    let told = checked.unwrap_or_else(|why| format!("{why:#}"));
    if as_json {
        print_json(&json!({"file": path, "valid": outcome == Outcome::Yes, "message": told}))?;
    } else {
        line(&told)?;
    }
    Ok(outcome)
}

fn check_config(path: &Path) -> Result<String> {
    let file = config::read(path)?;
    let host = super::runtime()?.block_on(Host::open(file, &Storage::Volatile, Clock::System))?;
    if let Some(bus) = host.bus() {
        let broken = bus.plugins().broken();
        let told: Vec<String> =
            broken.iter().map(|(plugin, why)| format!("plugin {plugin} is left out: {why}")).collect();
        anyhow::ensure!(told.is_empty(), "{}: {}", path.display(), told.join("; "));
    }
    let policies: usize = host.kernels().iter().map(|kernel| kernel.policies().serving.document.policies.len()).sum();
    let kernels = host.kernels().len();
    let mut told = vec![format!("{}: valid, {kernels} kernels with {policies} custom rules", path.display())];
    told.extend(host.bus().into_iter().flat_map(|bus| bus.unknown_plugins()));
    Ok(told.join("\n"))
}

fn check_request(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let value = json::parse(&bytes).with_context(|| path.display().to_string())?;
    let request = Request::from_value(value, 0).with_context(|| path.display().to_string())?;
    // Whatever the jurisdiction, no kernel would take it.
    let law = Law::new(Variant::Permissive, Jurisdiction::permissive());
    if let Verdict::Denied { error, .. } = judge(&law, &request, 0, &mut MemoryPermitUses::default()).verdict {
        anyhow::bail!("{}: {error}", path.display());
    }
    Ok(format!("{}: a valid request", path.display()))
}

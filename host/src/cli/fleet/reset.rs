//! `gavel fleet reset`: forget a kernel's failures.

use super::reach::{Where, in_path, post};
use crate::cli::Outcome;
use crate::cli::output::{line, print_json, shown};
use anyhow::Result;

/// Forget a kernel's failures and restarts; one that was given up is started again.
///
/// For when the cause is mended: see it with `gavel fleet logs NAME`. Exit code 1 if the kernel is not healthy afterwards.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gavel fleet reset audit_trail")]
pub(super) struct Args {
    /// The kernel.
    name: String,
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let done = post(&args.at.client()?, &format!("/kernel-ports/reset-failures/{}", in_path(&args.name)?))?;
    let entry = &done["entry"];
    let status = entry["status"].as_str().unwrap_or("-");
    if as_json {
        print_json(&done)?;
    } else {
        let detail = entry["detail"].as_str().unwrap_or_default();
        line(format!("{}: failures forgotten, {status}  {}", args.name, shown(detail, 500)).trim_end())?;
    }
    Ok(if status == "healthy" { Outcome::Yes } else { Outcome::No })
}

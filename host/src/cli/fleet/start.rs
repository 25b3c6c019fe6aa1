//! `gavel fleet start`: start kernels that were stopped.

use super::Which;
use crate::cli::Outcome;
use anyhow::Result;

/// Start kernels that were stopped, and wait until each is well. One that runs is left as it is.
///
/// Kernels that the configuration does not start cannot be started so. Exit code 1 if one is not well afterwards.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet start audit_trail
  gavel fleet start --all")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    args.which.each("start", false, as_json)
}

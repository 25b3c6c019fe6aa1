//! `gavel fleet restart`: stop kernels, and start them.

use super::Which;
use crate::cli::Outcome;
use anyhow::Result;

/// Stop kernels and start them, and wait until each is well. Requests to them wait meanwhile; none is refused.
///
/// It does not count against their budget of restarts. Exit code 1 if one is not well afterwards.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet restart audit_trail
  gavel fleet restart --all")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    args.which.each("restart", false, as_json)
}

//! `gavel fleet stop`: stop kernels until they are started again.

use super::Which;
use crate::cli::Outcome;
use anyhow::Result;

/// Stop kernels until they are started again. Requests to them are answered 503; Guardian leaves them alone.
///
/// The fleet goes on, and is degraded, or unhealthy if it needs one of them. To end the whole fleet, end `gavel fleet up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet stop audit_trail
  gavel fleet stop --all")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    args.which.each("stop", true, as_json)
}

//! `gavel fleet`: kernels as processes on ports, behind one main API.

mod up;

use super::Outcome;
use anyhow::Result;
use clap::Subcommand;

/// Run kernels as processes of their own, behind one main API, with Guardian who heals them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet up
  gavel fleet up --config gavel.yaml --data /var/lib/gavel
  gavel fleet status
  gavel fleet restart audit_trail")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
}

pub(super) fn run(args: &Args, as_json: bool, log: Option<&str>) -> Result<Outcome> {
    match &args.command {
        Command::Up(args) => up::run(args, as_json, log),
    }
}

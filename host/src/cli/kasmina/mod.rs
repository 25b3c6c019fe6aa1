//! `gavel kasmina`: layers that grow, on the command line. One file for each command.

mod plot;
mod serve;

use super::Outcome;
use anyhow::Result;
use clap::Subcommand;

/// Serve layers whose seeds grow small networks, under the eyes of a kernel.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kasmina serve")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    match &args.command {
        Command::Serve(args) => serve::run(args, as_json),
    }
}

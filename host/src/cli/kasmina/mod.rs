//! `gavel kasmina`: layers that grow, on the command line. One file for each command.

mod bench;
mod inspect;
mod plan;
mod plot;
mod serve;
mod setting;
mod told;
mod train;
mod watch;

use super::Outcome;
use anyhow::Result;
use clap::Subcommand;

/// Layers whose seeds grow small networks, under the eyes of a kernel: train one, measure one, look at one, serve them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kasmina train --plot growth.svg
  gavel kasmina bench --backend cpu
  gavel kasmina inspect
  gavel kasmina serve")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::Args>),
    Bench(bench::Args),
    Inspect(inspect::Args),
    Serve(serve::Args),
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    match &args.command {
        Command::Train(args) => train::run(args, as_json),
        Command::Bench(args) => bench::run(args, as_json),
        Command::Inspect(args) => inspect::run(args, as_json),
        Command::Serve(args) => serve::run(args, as_json),
    }
}

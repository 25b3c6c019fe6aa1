//! `gavel migrate`: from the older daemon to plugins, events and the state.

mod plugins;
mod report;
mod state;

use super::Outcome;
use anyhow::Result;
use clap::Subcommand;

/// Move from the older daemon: its handlers, its state, its clients.
///
/// Nothing of the older daemon is run or changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel migrate report --from ~/ksi
  gavel migrate plugins --handlers-dir ~/ksi/ksi_daemon/commands --output-dir plugins --dry-run
  gavel migrate state --from ~/ksi/var/state --data /var/lib/gavel")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Plugins(plugins::Args),
    State(state::Args),
    Report(report::Args),
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    match &args.command {
        Command::Plugins(args) => plugins::run(args, as_json),
        Command::State(args) => state::run(args, as_json),
        Command::Report(args) => report::run(args, as_json),
    }
}

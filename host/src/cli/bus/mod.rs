//! `gavel bus`: the event bus of a running server, on the command line. One file for each command.

mod emit;
mod history;
mod plugins;
mod reach;
mod sockets;
mod status;
mod tail;
mod top;

use super::Outcome;
use crate::clock::rfc3339;
use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

/// The event bus of a running server: see what happens on it, and send events.
///
/// Asks over the server's Unix sockets; over HTTP with `--url`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel bus status
  gavel bus top
  gavel bus tail --pattern 'state:*' --pattern '*:error'
  gavel bus emit state:set --data '{\"key\": \"k\", \"value\": 1}'
  gavel bus history --pattern 'completion:*' --limit 20
  gavel bus plugins --url http://127.0.0.1:8080 --key \"$OPERATOR_KEY\"")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Top(top::Args),
    Tail(tail::Args),
    Emit(emit::Args),
    History(history::Args),
    Plugins(plugins::Args),
    Status(status::Args),
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    match &args.command {
        Command::Top(args) => top::run(args, as_json),
        Command::Tail(args) => tail::run(args, as_json),
        Command::Emit(args) => emit::run(args, as_json),
        Command::History(args) => history::run(args, as_json),
        Command::Plugins(args) => plugins::run(args, as_json),
        Command::Status(args) => status::run(args, as_json),
    }
}

/// Characters of an event's data on a line.
const DATA_SHOWN: usize = 200;

/// An event on one line: when, what, from whom, about whom, and its data.
fn event_line(event: &Value) -> String {
    use super::output::shown;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time since 1970")]
    let at = rfc3339((event["timestamp"].as_f64().unwrap_or_default() * 1e3).round() as u64);
    let text = |key: &str| shown(event[key].as_str().unwrap_or("-"), 64);
    let data = if event["data"].is_null() { String::new() } else { shown(&event["data"].to_string(), DATA_SHOWN) };
    format!("{at}  {:<28} {:<24} {data}", text("event_name"), text("sender")).trim_end().to_owned()
}

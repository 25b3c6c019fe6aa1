//! `gavel bus emit`: one event, and what came of it.

use super::reach::{Said, Sent, Where};
use crate::cli::Outcome;
use crate::cli::output::{note, print_json};
use anyhow::{Context, Result};
use serde_json::Value;
use std::io::Read;

/// Send an event, and print its answer (JSON).
///
/// Exit code 0 if it was answered, 1 if the bus or the handler said no (the code is on standard error and in the
/// answer), 2 if the bus could not be asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel bus emit system:health
  gavel bus emit state:set --data '{\"key\": \"k\", \"value\": [1, 2]}'
  gavel bus emit completion:async --data @prompt.json --no-wait
  echo '{\"key\": \"k\"}' | gavel bus emit state:get --data - | jq .value")]
pub(super) struct Args {
    /// The event, `namespace:name`.
    #[arg(value_name = "NAME")]
    name: String,
    /// Its data as JSON; `@FILE` from a file, `-` from standard input.
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "{}", hide_default_value = true)]
    data: String,
    /// Do not wait for an answer: the event is queued.
    #[arg(long)]
    no_wait: bool,
    /// The name of the exchange; the bus makes one if not given.
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Which client the event is about.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, _as_json: bool) -> Result<Outcome> {
    let sent = Sent {
        event: args.name.clone(),
        data: data(&args.data)?,
        correlation_id: args.correlation_id.clone(),
        client_id: args.client_id.clone(),
        wait: !args.no_wait,
    };
    match args.at.open()?.send(&sent)? {
        Said::Answer(answer) => {
            print_json(&answer)?;
            Ok(Outcome::Yes)
        }
        Said::No(answer) => {
            let code = answer["code"].as_str().map(|code| format!("{code}: ")).unwrap_or_default();
            note(&format!("gavel: {code}{}", answer["error"].as_str().unwrap_or("no reason given")));
            print_json(&answer)?;
            Ok(Outcome::No)
        }
    }
}

/// Bytes of data that are read; the bus takes less.
const DATA_BYTES_MAX: u64 = 64 << 20;

fn data(given: &str) -> Result<Value> {
    let mut text = String::new();
    match given.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| path.to_owned())?;
            file.take(DATA_BYTES_MAX).read_to_string(&mut text).with_context(|| path.to_owned())?;
        }
        None if given == "-" => {
            std::io::stdin().take(DATA_BYTES_MAX).read_to_string(&mut text).context("standard input")?;
        }
        None => given.clone_into(&mut text),
    }
    serde_json::from_str(&text).context("--data is no JSON")
}

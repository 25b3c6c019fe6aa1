//! `gavel bus tail`: events as they happen.

use super::event_line;
use super::reach::{Heard, Where};
use crate::cli::Outcome;
use crate::cli::output::{line, note};
use anyhow::Result;
use serde_json::json;

/// Print events as they happen, one on each line, until it is ended or the server ends.
///
/// The bus waits for nobody: who reads too slowly misses events and is told how many.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel bus tail
  gavel bus tail --pattern 'completion:*' --pattern '*:error'
  gavel bus tail --json | jq -r 'select(.missed | not) | .event_name'")]
pub(super) struct Args {
    /// Only events of this name: `state:set`, `state:*`, `*:error`. May be given more than once.
    #[arg(long = "pattern", value_name = "PATTERN")]
    patterns: Vec<String>,
    /// End after so many events.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let mut left = args.limit;
    let told = args.at.told();
    args.at.listen(&args.patterns, |heard| {
        match heard {
            Heard::Listening => note(&format!("watching {told}")),
            Heard::Missed(missed) if as_json => line(&json!({ "missed": missed }).to_string())?,
            Heard::Missed(missed) => {
                note(&format!("gavel: {missed} events were missed: they are not read fast enough"));
            }
            Heard::Event(event) => {
                line(&if as_json { event.to_string() } else { event_line(&event) })?;
                left = left.map(|left| left.saturating_sub(1));
            }
        }
        Ok(left != Some(0))
    })?;
    if left != Some(0) {
        note("the server ended");
    }
    Ok(Outcome::Yes)
}

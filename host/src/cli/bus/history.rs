//! `gavel bus history`: what happened.

use super::event_line;
use super::reach::{Past, Where};
use crate::cli::Outcome;
use crate::cli::output::{line, note, print_json};
use crate::clock::parse_time;
use anyhow::Result;

/// Print events that the bus still remembers, the newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel bus history
  gavel bus history --pattern 'state:*' --pattern '*:error' --limit 1000
  gavel bus history --since 2026-11-21T08:00:00Z --oldest-first --json")]
pub(super) struct Args {
    /// Only events of this name: `state:set`, `state:*`, `*:error`. May be given more than once.
    #[arg(long = "pattern", value_name = "PATTERN")]
    patterns: Vec<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    limit: usize,
    /// Only events about this client.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// From this time on, as 2026-01-05T10:00:00Z (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<u64>,
    /// Until this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<u64>,
    /// The oldest first.
    #[arg(long)]
    oldest_first: bool,
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let past = Past {
        limit: args.limit,
        patterns: args.patterns.clone(),
        client_id: args.client_id.clone(),
        since: args.since.map(seconds),
        until: args.until.map(seconds),
        newest_first: !args.oldest_first,
    };
    let mut answer = args.at.open()?.history(&past)?;
    if as_json {
        if let Some(answer) = answer.as_object_mut() {
            // What the socket's answer has beside it.
            answer.retain(|key, _| ["events", "count", "total_events"].contains(&key.as_str()));
        }
        print_json(&answer)?;
        return Ok(Outcome::Yes);
    }
    let events = answer["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().try_for_each(|event| line(&event_line(event)))?;
    let total = answer["total_events"].as_u64().unwrap_or_default();
    note(&format!("{} of {total} events since the start", events.len()));
    Ok(Outcome::Yes)
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are below 2^52")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

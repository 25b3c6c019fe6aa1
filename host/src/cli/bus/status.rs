//! `gavel bus status`: the bus as a whole.

use super::reach::Where;
use crate::cli::Outcome;
use crate::cli::output::{line, print_json};
use anyhow::Result;
use serde_json::Value;

/// Tell how the bus is: its sockets, its traffic, what waits, and who still uses the older daemon's commands.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel bus status
  gavel bus status --json --url http://127.0.0.1:8080")]
pub(super) struct Args {
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let status = args.at.open()?.status()?;
    if as_json {
        print_json(&status)?;
        return Ok(Outcome::Yes);
    }
    text(&status).iter().try_for_each(|told| line(told))?;
    Ok(Outcome::Yes)
}

fn text(status: &Value) -> Vec<String> {
    let (bus, unix) = (&status["bus"], &status["unix"]);
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let uptime = bus["uptime_seconds"].as_f64().unwrap_or_default();
    let mut lines = vec![
        format!("up          {uptime:.0} s"),
        format!(
            "events      {} ({} in the history, {} watching)",
            bus["events_total"], bus["history_events"], bus["watchers"]
        ),
        format!("answers     {}", outcomes(&bus["answers"])),
        format!("emitted     {}", outcomes(&bus["emitted"])),
    ];
    if unix.is_null() {
        lines.push("sockets     none".to_owned());
        return lines;
    }
    let agents = unix["connected"].as_array().map_or(0, Vec::len);
    lines.push(format!("mode        {}", unix["mode"].as_str().unwrap_or("-")));
    lines.push(format!("connections {} ({agents} agents)", number(&unix["connections"])));
    lines.push(format!(
        "messages    {} undelivered, {} dropped",
        number(&unix["undelivered"]),
        number(&unix["dropped"])
    ));
    let uses = unix["legacy_uses"].as_array().map(Vec::as_slice).unwrap_or_default();
    for used in uses {
        let text = |key: &str| super::super::output::shown(used[key].as_str().unwrap_or("-"), 64);
        lines.push(format!(
            "still uses  {} {}: {} times, {} instead",
            text("client"),
            text("command"),
            used["uses"],
            text("event")
        ));
    }
    lines
}

/// `12 ok, 3 NO_HANDLER`: what there was of each.
fn outcomes(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    let mut counts: Vec<_> = counts.map(|(name, count)| (count.as_u64().unwrap_or_default(), name.as_str())).collect();
    counts.retain(|(count, _)| *count > 0);
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let told: Vec<String> = counts.iter().map(|(count, name)| format!("{count} {name}")).collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

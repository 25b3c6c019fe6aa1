//! `gavel investigate`: who did what in a stretch of time.

use super::Outcome;
use super::client::Remote;
use super::output::{line, print_json, shown};
use crate::clock::{Clock, parse_time, rfc3339};
use crate::config::OperationsFile;
use crate::host::ledger_folder;
use crate::operations::investigate::{TimeRange, look};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How far back it looks if it is not told.
const DAY_MS: u64 = 24 * 3_600_000;
/// Errors that are shown to a person; `--json` has more.
const ERRORS_SHOWN: usize = 20;

/// Look into a stretch of time: who asked for which tools, what was decided, what failed, which
/// minutes were busiest, and what operators did meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel investigate
  gavel investigate --from 2026-01-05T10:00:00Z --to 2026-01-05T11:00:00Z
  gavel investigate --json --ledger /var/lib/gavel/kernels/prod-001/ledger")]
pub(super) struct Args {
    /// From this time on; default: a day before the end.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<u64>,
    /// Up to this time; default: now.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<u64>,
    /// Read this ledger's folder, which is verified, rather than ask a server.
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let end = args.to.unwrap_or_else(|| Clock::System.now_ms());
    let start = args.from.unwrap_or_else(|| end.saturating_sub(DAY_MS));
    ensure!(start <= end, "--from {} is later than --to {}", rfc3339(start), rfc3339(end));
    let found = match &args.ledger {
        Some(folder) => from_ledger(folder, TimeRange { start, end })?,
        None => args.remote.client()?.get_json(&format!("/investigate?from={start}&to={end}"))?,
    };
    if as_json {
        print_json(&found)?;
    } else {
        print(&found)?;
    }
    Ok(Outcome::Yes)
}

fn from_ledger(folder: &Path, range: TimeRange) -> Result<Value> {
    let (_, records) = gavel_ledger::read_dir(&ledger_folder(folder))?;
    Ok(json!(look(records, range, OperationsFile::default().max_findings)?))
}

fn print(found: &Value) -> Result<()> {
    let time = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), rfc3339);
    let range = &found["time_range"];
    line(&format!("{} to {}: {} entries", time(&range["start"]), time(&range["end"]), found["entry_count"]))?;
    for (title, key) in
        [("decisions", "by_decision"), ("actors", "by_actor"), ("tools", "by_tool"), ("errors", "by_error")]
    {
        print_counts(title, &found[key])?;
    }
    for minute in found["busiest_minutes"].as_array().into_iter().flatten() {
        line(&format!("  busy       {}  {} entries", time(&minute["start_ms"]), minute["entries"]))?;
    }
    for (title, key) in [("first", "first"), ("last", "last")] {
        let seen = &found[key];
        if !seen.is_null() {
            let text = |key: &str| shown(seen[key].as_str().unwrap_or("-"), 100);
            line(&format!("  {title:<10} {}  {} by {}", time(&seen["ts_ms"]), text("request_id"), text("actor")))?;
        }
    }
    for event in found["operator_events"].as_array().into_iter().flatten() {
        let text = |key: &str| shown(event[key].as_str().unwrap_or("-"), 200);
        line(&format!("  operator   {}  {} by {}: {}", time(&event["ts_ms"]), text("type"), text("who"), text("why")))?;
    }
    for error in found["errors"].as_array().into_iter().flatten().take(ERRORS_SHOWN) {
        let text = |key: &str| shown(error[key].as_str().unwrap_or("-"), 200);
        let (id, actor, why) = (text("request_id"), text("actor"), text("error"));
        line(&format!("  error      {}  {id} by {actor}: {why}", time(&error["ts_ms"])))?;
    }
    Ok(())
}

/// The most frequent first.
fn print_counts(title: &str, counts: &Value) -> Result<()> {
    let counts = counts.as_object().into_iter().flatten();
    let mut counts: Vec<(u64, &String)> =
        counts.map(|(name, count)| (count.as_u64().unwrap_or_default(), name)).collect();
    counts.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
    for (count, name) in counts.into_iter().take(ERRORS_SHOWN) {
        line(&format!("  {title:<10} {count:>8}  {}", shown(name, 200)))?;
    }
    Ok(())
}

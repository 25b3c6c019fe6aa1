//! `gavel fleet top`: the kernels of a fleet, live.

mod draw;
mod live;
mod sample;

use super::reach::Where;
use crate::cli::Outcome;
use crate::cli::output::{line, print_json};
use anyhow::Result;
use clap::ValueEnum;
use sample::{Sample, View};
use std::io::IsTerminal;
use std::time::Duration;

/// Show the kernels of a fleet and what they use, again and again.
///
/// On a terminal it is drawn in place: `q` quits, `s` sorts by the next column, `r` turns the order round, `p` pauses,
/// `+` and `-` change the interval. Elsewhere, and with `--once` or `--batch`, it prints tables (JSON lines with
/// `--json`). CPU and requests per second are of the time from one look to the next, so `--once` looks twice. Requests are
/// those that came through the main API.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet top
  gavel fleet top --sort memory --interval 0.5
  gavel fleet top --once --json
  gavel fleet top --batch 60 --interval 1 > minute.txt")]
pub(super) struct Args {
    /// Seconds from one look to the next.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = interval)]
    interval: f64,
    /// By which column to sort.
    #[arg(long, value_enum, default_value_t = Sort::Status)]
    sort: Sort,
    /// Print one table, and end.
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// Print so many tables, and end.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    #[command(flatten)]
    at: Where,
}

/// A column to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Status, the worst first.
    Status,
    /// Name, ascending.
    Name,
    /// Port, ascending.
    Port,
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Requests per second.
    Requests,
    /// Restarts.
    Restarts,
}

/// Seconds that a look at a fleet may take before it counts as gone.
const PATIENCE_SECONDS: u64 = 5;

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let tables = if args.once { Some(1) } else { args.batch };
    let plain = as_json || !std::io::stdout().is_terminal();
    match tables.or(plain.then_some(1)) {
        Some(tables) => batch(args, tables, as_json)?,
        None => live::run(&args.at.with_patience(PATIENCE_SECONDS), args.interval(), args.sort)?,
    }
    Ok(Outcome::Yes)
}

impl Args {
    fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.interval)
    }
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.1..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err(format!("{seconds} s: give 0.1 to 3600")) }
}

fn batch(args: &Args, tables: u64, as_json: bool) -> Result<()> {
    let client = args.at.client()?;
    let mut before = Sample::take(&client)?;
    for _ in 0..tables {
        std::thread::sleep(args.interval());
        let now = Sample::take(&client)?;
        let mut view = View::between(Some(&before), &now);
        view.sort(args.sort, false);
        match (as_json, tables) {
            (true, 1) => print_json(&view)?,
            (true, _) => line(&serde_json::to_string(&view)?)?,
            (false, _) => line(&view.text())?,
        }
        before = now;
    }
    Ok(())
}

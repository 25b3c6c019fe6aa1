//! `gavel bus top`: the plugins of the bus, live.

mod draw;
mod live;
mod sample;

pub(super) use sample::{Plugin, bytes, duration};

use super::reach::Where;
use crate::cli::Outcome;
use crate::cli::output::{line, print_json};
use anyhow::Result;
use clap::ValueEnum;
use sample::{Sample, View};
use std::io::IsTerminal;
use std::time::Duration;

/// Show the plugins of the bus and what they do, again and again.
///
/// On a terminal it is drawn in place: `q` quits, `s` sorts by the next column, `r` turns the order round, `p` pauses,
/// `+` and `-` change the interval. Elsewhere, and with `--once` or `--batch`, it prints tables (JSON lines with
/// `--json`). Rates of the first table count from the start of the bus, those of each further one from the one before.
/// Looking costs the bus two events each time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel bus top
  gavel bus top --sort p99 --interval 0.5
  gavel bus top --once --json
  gavel bus top --batch 60 --interval 1 > minute.txt")]
pub(super) struct Args {
    /// Seconds from one look to the next.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = interval)]
    interval: f64,
    /// By which column to sort.
    #[arg(long, value_enum, default_value_t = Sort::Rate)]
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
    /// Events per second, the most first.
    Rate,
    /// Name, ascending.
    Name,
    /// The median.
    P50,
    /// 95 of 100.
    P95,
    /// 99 of 100.
    P99,
    /// Errors.
    Errors,
    /// Events that wait.
    Queue,
    /// Memory.
    Memory,
}

/// Seconds that a look at a server may take before it counts as gone.
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
    let mut way = args.at.open()?;
    let mut before: Option<Sample> = None;
    for number in 0..tables {
        if number > 0 {
            std::thread::sleep(args.interval());
        }
        let now = Sample::take(&mut way)?;
        let mut view = View::between(before.as_ref(), &now);
        view.sort(args.sort, false);
        match (as_json, tables) {
            (true, 1) => print_json(&view)?,
            (true, _) => line(&serde_json::to_string(&view)?)?,
            (false, _) => line(&view.text())?,
        }
        before = Some(now);
    }
    Ok(())
}

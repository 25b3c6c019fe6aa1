//! `gavel bus top`: the plugins of the bus, live.

mod sample;

pub(super) use sample::{Plugin, bytes, duration};

use super::reach::{Way, Where};
use crate::cli::Outcome;
use crate::cli::top::{self, Looks, PATIENCE_SECONDS, Source};
use anyhow::Result;
use clap::ValueEnum;
use sample::{Sample, View};

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
    #[command(flatten)]
    looks: Looks,
    /// By which column to sort.
    #[arg(long, value_enum, default_value_t = Sort::Rate)]
    sort: Sort,
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

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let at = if args.looks.are_live(as_json) { args.at.with_patience(PATIENCE_SECONDS) } else { args.at.clone() };
    top::run(Bus { at, way: None, before: None }, &args.looks, args.sort, as_json)?;
    Ok(Outcome::Yes)
}

/// The bus of a server.
struct Bus {
    at: Where,
    /// The way there; none before the first look and after one that failed.
    way: Option<Way>,
    before: Option<Sample>,
}

impl Source for Bus {
    type View = View;

    const FIRST_LOOK_IS_BARE: bool = false;

    fn look(&mut self) -> Result<View> {
        let way = match &mut self.way {
            Some(way) => way,
            None => self.way.insert(self.at.open()?),
        };
        let now = Sample::take(way).inspect_err(|_| self.way = None)?;
        let view = View::between(self.before.as_ref(), &now);
        self.before = Some(now);
        Ok(view)
    }
}

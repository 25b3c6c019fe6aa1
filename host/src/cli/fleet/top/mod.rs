//! `gavel fleet top`: the kernels of a fleet, live.

mod sample;

use super::reach::Where;
use crate::cli::Outcome;
use crate::cli::client::Client;
use crate::cli::top::{self, Looks, PATIENCE_SECONDS, Source};
use anyhow::Result;
use clap::ValueEnum;
use sample::{Sample, View};

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
    #[command(flatten)]
    looks: Looks,
    /// By which column to sort.
    #[arg(long, value_enum, default_value_t = Sort::Status)]
    sort: Sort,
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

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let at = if args.looks.are_live(as_json) { args.at.with_patience(PATIENCE_SECONDS) } else { args.at.clone() };
    top::run(Kernels { client: at.client()?, before: None }, &args.looks, args.sort, as_json)?;
    Ok(Outcome::Yes)
}

/// The kernels of a fleet.
struct Kernels {
    client: Client,
    before: Option<Sample>,
}

impl Source for Kernels {
    type View = View;

    const FIRST_LOOK_IS_BARE: bool = true;

    fn look(&mut self) -> Result<View> {
        let now = Sample::take(&self.client)?;
        let view = View::between(self.before.as_ref(), &now);
        self.before = Some(now);
        Ok(view)
    }
}

//! `gavel fleet`: kernels as processes on ports, behind one main API. One file for each command.

mod logs;
pub(super) mod reach;
mod reset;
mod restart;
mod start;
mod status;
mod stop;
mod top;
mod up;

use super::Outcome;
use super::output::{line, print_json, shown};
use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

/// Run kernels as processes of their own, behind one main API, with Guardian who heals them; see and operate them.
///
/// All commands but `up` ask the main API of a fleet that runs: `--url`, else `GAVEL_FLEET_URL`, else 127.0.0.1:8000.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel fleet up
  gavel fleet up --config gavel.yaml --data /var/lib/gavel
  gavel fleet status
  gavel fleet top
  gavel fleet restart audit_trail
  gavel fleet logs governance --follow
  gavel fleet reset audit_trail")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Status(status::Args),
    Top(top::Args),
    Start(start::Args),
    Stop(stop::Args),
    Restart(restart::Args),
    Logs(logs::Args),
    Reset(reset::Args),
}

pub(super) fn run(args: &Args, as_json: bool, log: Option<&str>) -> Result<Outcome> {
    match &args.command {
        Command::Up(args) => up::run(args, as_json, log),
        Command::Status(args) => status::run(args, as_json),
        Command::Top(args) => top::run(args, as_json),
        Command::Start(args) => start::run(args, as_json),
        Command::Stop(args) => stop::run(args, as_json),
        Command::Restart(args) => restart::run(args, as_json),
        Command::Logs(args) => logs::run(args, as_json),
        Command::Reset(args) => reset::run(args, as_json),
    }
}

/// Which kernels a command is about.
#[derive(Debug, clap::Args)]
struct Which {
    /// The kernels.
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// All kernels that are processes of the fleet.
    #[arg(long, conflicts_with = "names")]
    all: bool,
    #[command(flatten)]
    at: reach::Where,
}

impl Which {
    /// Do the same with each, one after the other; `backwards`: who needs before what is needed. A kernel for which it
    /// failed stops none of the others.
    fn each(&self, action: &str, backwards: bool, as_json: bool) -> Result<Outcome> {
        let client = self.at.client()?;
        let mut names = reach::Fleet::of(&client)?.chosen(&self.names, self.all)?;
        if backwards && self.all {
            names.reverse();
        }
        let (mut told, mut outcome) = (Vec::new(), Outcome::Yes);
        for name in &names {
            let mut answer = client.post(&format!("/fleet/{}/{action}", reach::in_path(name)?), b"")?;
            if [401, 403].contains(&answer.status) {
                drop(answer.accepted()?);
                continue;
            }
            if answer.status >= 400 {
                answer.body = json!({"component": name, "success": false, "error": answer.body["error"]});
            }
            let done = answer.body;
            let success = done["success"] == true;
            if !success {
                outcome = Outcome::No;
            }
            if !as_json {
                let why = done["error"].as_str().map(|why| format!(": {}", shown(why, 500))).unwrap_or_default();
                line(&format!("{name}: {action} {}{why}", if success { "done" } else { "NOT DONE" }))?;
                reach::print_steps(&done["steps"], "  ")?;
            }
            told.push(done);
        }
        if as_json {
            print_json(&told)?;
        }
        Ok(outcome)
    }
}

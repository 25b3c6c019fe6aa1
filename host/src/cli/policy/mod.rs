//! `gavel policy`: write a policy, build it, test it, look at it, sign it.
//!
//! The author's side: nothing here reaches a server. Policies are run in the sandbox that serves, under the same limits,
//! raised to what the policy's own manifest asks for: an author sees what an operator sees who grants just that.

mod bench;
mod build;
mod componentize;
mod inspect;
mod new;
mod run;
mod sign;
mod subject;
mod test;

use super::Outcome;
use anyhow::Result;
use clap::Subcommand;

/// Write, build, test, inspect, measure and sign policies.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy new no-deletes --lang rust
  gavel policy build no-deletes
  gavel policy test no-deletes
  gavel policy inspect builtin:business-hours")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::Args),
    Build(build::Args),
    Componentize(componentize::Args),
    Test(test::Args),
    Run(run::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
    Key(sign::KeyArgs),
    Sign(sign::Args),
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    match &args.command {
        Command::New(args) => new::run(args, as_json),
        Command::Build(args) => build::run(args, as_json),
        Command::Componentize(args) => componentize::run(args, as_json),
        Command::Test(args) => test::run(args, as_json),
        Command::Run(args) => run::run(args, as_json),
        Command::Inspect(args) => inspect::run(args, as_json),
        Command::Bench(args) => bench::run(args, as_json),
        Command::Key(args) => sign::make_key(args, as_json),
        Command::Sign(args) => sign::run(args, as_json),
    }
}

//! `gavel policy`: write a policy, build it, test it, look at it, sign it.
//!
//! The author's side reaches no server; the operator's (`deploy`, `life`) does. Policies are run in the sandbox that serves, under the same limits,
//! raised to what the policy's own manifest asks for: an author sees what an operator sees who grants just that.

mod bench;
mod build;
mod componentize;
mod deploy;
mod inspect;
mod life;
mod new;
mod run;
mod sign;
pub(super) mod subject;
mod test;

use super::Outcome;
use anyhow::Result;
use clap::Subcommand;

/// Write, build, test and sign policies; bring them into service and take them back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy new no-deletes --lang rust
  gavel policy build no-deletes
  gavel policy test no-deletes
  gavel policy inspect builtin:business-hours
  gavel policy deploy no-deletes --shadow
  gavel policy rollback --why \"too strict\"")]
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
    Deploy(deploy::Args),
    Status(life::StatusArgs),
    Try(life::TryArgs),
    Differences(life::DifferencesArgs),
    Promote(life::PromoteArgs),
    Rollback(life::RollbackArgs),
    Discard(life::DiscardArgs),
    Release(life::ReleaseArgs),
    History(life::HistoryArgs),
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
        Command::Deploy(args) => deploy::run(args, as_json),
        Command::Status(args) => life::status(args, as_json),
        Command::Try(args) => life::try_candidate(args, as_json),
        Command::Differences(args) => life::differences(args, as_json),
        Command::Promote(args) => life::promote(args, as_json),
        Command::Rollback(args) => life::roll_back(args, as_json),
        Command::Discard(args) => life::discard(args, as_json),
        Command::Release(args) => life::release(args, as_json),
        Command::History(args) => life::history(args, as_json),
    }
}

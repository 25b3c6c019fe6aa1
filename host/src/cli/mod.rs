//! The command line: one file for each command.
//!
//! What a person reads goes to a terminal as text; with `--json` every command writes JSON. Results
//! go to standard output, everything else (log, progress, summaries) to standard error. Exit codes:
//! 0 done, 1 the answer is no (a denial, a difference, a damaged file), 2 it could not be done.

mod approvals;
mod bus;
mod checkpoint;
mod client;
mod conformance;
mod decide;
mod demo;
mod doctor;
mod evidence;
mod find;
mod fleet;
mod halt;
mod heal;
mod health;
mod incident;
mod info;
mod init;
mod investigate;
mod kasmina;
mod kernel;
mod kernel_run;
mod key;
mod log;
mod migrate;
mod output;
mod plugin;
mod policy;
mod preserve;
mod prove;
mod replay;
mod restart;
mod restore;
mod rotate;
mod serve;
mod smoke;
mod submit;
mod top;
mod upkeep;
mod validate;
mod verify;
mod verify_folder;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The governance runtime that AI agents' tool calls go through.
#[derive(Debug, Parser)]
#[command(name = "gavel", version, about, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Write JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// What to log, for example `info`, `debug`, `gavel=debug,policy=info`. Also: `GAVEL_LOG`.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Fleet(fleet::Args),
    Heal(heal::Args),
    Doctor(doctor::Args),
    Submit(submit::Args),
    Decide(decide::Args),
    Info(info::Args),
    Validate(validate::Args),
    Verify(verify::Args),
    Replay(replay::Args),
    Evidence(evidence::Args),
    Checkpoint(checkpoint::Args),
    Prove(prove::Args),
    Find(find::Args),
    Init(init::Args),
    Smoke(smoke::Args),
    Health(health::Args),
    Investigate(investigate::Args),
    Halt(halt::Args),
    Approvals(approvals::Args),
    Preserve(preserve::Args),
    Rotate(rotate::Args),
    Restart(restart::Args),
    Kernel(kernel::Args),
    Bus(bus::Args),
    Kasmina(kasmina::Args),
    Incident(incident::Args),
    Recover(incident::RecoverArgs),
    Key(key::Args),
    Plugin(plugin::Args),
    Migrate(migrate::Args),
    Policy(policy::Args),
    Archive(upkeep::ArchiveArgs),
    Restore(restore::Args),
    Retention(upkeep::RetentionArgs),
    Conformance(conformance::Args),
    Demo(demo::Args),
}

/// How a command ended, when it could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Done, and the answer is yes.
    Yes,
    /// Done, and the answer is no: a denial, a difference, a damaged file.
    No,
}

/// Run the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start(cli.log.as_deref(), cli.json);
    let json = cli.json;
    let ended = match &cli.command {
        Command::Serve(args) => serve::run(args, json),
        Command::Fleet(args) => fleet::run(args, json, cli.log.as_deref()),
        Command::Heal(args) => heal::run(args, json),
        Command::Doctor(args) => doctor::run(args, json),
        Command::Submit(args) => submit::run(args, json),
        Command::Decide(args) => decide::run(args),
        Command::Info(args) => info::run(args, json),
        Command::Validate(args) => validate::run(args, json),
        Command::Verify(args) => verify::run(args, json),
        Command::Replay(args) => replay::run(args, json),
        Command::Evidence(args) => evidence::run(args, json),
        Command::Checkpoint(args) => checkpoint::run(args, json),
        Command::Prove(args) => prove::run(args, json),
        Command::Find(args) => find::run(args, json),
        Command::Init(args) => init::run(args, json),
        Command::Smoke(args) => smoke::run(args, json),
        Command::Health(args) => health::run(args, json),
        Command::Investigate(args) => investigate::run(args, json),
        Command::Halt(args) => halt::run(args, json),
        Command::Approvals(args) => approvals::run(args, json),
        Command::Preserve(args) => preserve::run(args, json),
        Command::Rotate(args) => rotate::run(args, json),
        Command::Restart(args) => restart::run(args, json),
        Command::Kernel(args) => kernel::run(args, json),
        Command::Bus(args) => bus::run(args, json),
        Command::Kasmina(args) => kasmina::run(args, json),
        Command::Incident(args) => incident::run(args, json),
        Command::Recover(args) => incident::recover(args, json),
        Command::Key(args) => key::run(args, json),
        Command::Plugin(args) => plugin::run(args, json),
        Command::Migrate(args) => migrate::run(args, json),
        Command::Policy(args) => policy::run(args, json),
        Command::Archive(args) => upkeep::archive(args, json),
        Command::Restore(args) => restore::run(args, json),
        Command::Retention(args) => upkeep::retention(args, json),
        Command::Conformance(args) => conformance::run(args, json),
        Command::Demo(args) => demo::run(args, json),
    };
    match ended {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(why) => {
            output::failure(&why, json);
            ExitCode::from(2)
        }
    }
}

/// A runtime for commands that serve or judge.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("gavel-worker").build()?)
}

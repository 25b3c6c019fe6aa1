//! `gavel migrate report`: what there is to move, and who still uses the older commands.

use super::super::Outcome;
use super::super::output::{line, print_json, shown};
use crate::migrate::report::{Host, Report};
use crate::migrate::state::{BYTES_MAX, Limits};
use anyhow::Result;
use gavel_bus::StoreLimits;
use serde_json::json;
use std::path::PathBuf;

/// The most characters of a name or reason on one line.
const SHOWN_CHARS_MAX: usize = 200;

/// Say what there is to move from an older daemon's folder: handlers, state and, of a running host, legacy clients.
///
/// With --socket-dir the host there is asked which plugin answers each handler's event, and which clients still send the
/// older commands; it counts those in hybrid mode. The exit code is 1 while something is left to move.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel migrate report --from ~/ksi
  gavel migrate report --from ~/ksi --socket-dir /run/gavel --json")]
pub(super) struct Args {
    /// The older installation, or its folder of handlers or of state.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The folder of a running host's sockets.
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let limits = Limits { store: StoreLimits::default(), bytes_max: BYTES_MAX };
    let report = Report::of(&args.from, args.socket_dir.as_deref(), &limits)?;
    let unanswered = report.commands().filter(|(_, owner)| owner.is_none()).count();
    let in_use = report.host.as_ref().map_or(0, |host| host.legacy_uses.len());
    let problems: usize = report.state.iter().map(|state| state.problems.len()).sum();
    if as_json {
        let commands: Vec<_> = report
            .commands()
            .map(|(command, owner)| json!({ "command": command.command, "event": command.event, "answered_by": owner }))
            .collect();
        let mut told = json!(report);
        told["commands"] = json!(commands);
        told["left"] = json!({ "unanswered": unanswered, "legacy_uses": in_use, "problems": problems });
        print_json(&told)?;
    } else {
        tell(&report)?;
        line(&format!(
            "left: {unanswered} commands that nobody answers, {in_use} legacy uses, {problems} problems with state"
        ))?;
    }
    Ok(if unanswered + in_use + problems == 0 { Outcome::Yes } else { Outcome::No })
}

fn tell(report: &Report) -> Result<()> {
    for handlers in &report.handlers {
        let (found, passed) = (handlers.found.handlers.len(), handlers.found.passed_over.len());
        line(&format!("{}: {found} handlers, {passed} files without one", handlers.folder.display()))?;
    }
    for (command, owner) in report.commands() {
        let owner = owner.map_or("nobody: gavel migrate plugins".to_owned(), |owner| format!("answered by {owner}"));
        line(&format!("  {:24} {:28} {owner}", command.command, command.event))?;
    }
    for state in &report.state {
        line(&format!(
            "{}: {} sessions, {} shared keys, {} bytes; gavel migrate state --from {0}",
            state.folder.display(),
            state.sessions,
            state.shared,
            state.bytes
        ))?;
        for problem in &state.problems {
            line(&format!("  problem: {}: {}", problem.file.display(), shown(&problem.why, SHOWN_CHARS_MAX)))?;
        }
        for passed in &state.passed_over {
            line(&format!("  left where it is: {}: {}", passed.file.display(), passed.why))?;
        }
    }
    report.host.as_ref().map_or(Ok(()), tell_host)
}

fn tell_host(host: &Host) -> Result<()> {
    line(&format!("{}: mode {}, {} legacy uses", host.socket.display(), host.mode, host.legacy_uses.len()))?;
    for used in &host.legacy_uses {
        let event = used.event.as_deref().unwrap_or("the event itself");
        let client = shown(&used.client, SHOWN_CHARS_MAX);
        line(&format!("  {} sent {} {} times: use {event}", client, shown(&used.command, SHOWN_CHARS_MAX), used.uses))?;
    }
    Ok(())
}

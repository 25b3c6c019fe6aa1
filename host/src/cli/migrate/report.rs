//! `gavel migrate report`: what there is to move, and who still uses the older commands.

use super::super::Outcome;
use super::super::output::{line, print_json, shown};
use crate::migrate::report::{Host, Report};
use crate::migrate::state::{BYTES_MAX, Limits, ServerState};
use anyhow::Result;
use gavel_bus::StoreLimits;
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// The most characters of a name or reason on one line.
const SHOWN_CHARS_MAX: usize = 200;

/// Say what there is to move from an older daemon's folder: handlers, state and, of a running host, legacy clients.
///
/// With --socket-dir the host there is asked which plugin answers each handler's event, and which clients still send the
/// older commands; it counts those in hybrid mode. With --config or --data the state of that server is looked into, in a
/// copy; without, all state counts as left. The exit code is 1 while something is left to move.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel migrate report --from ~/ksi
  gavel migrate report --from ~/ksi --config daemon.json --data /var/lib/gavel
  gavel migrate report --from ~/ksi --socket-dir /run/gavel --json")]
pub(super) struct Args {
    /// The older installation, or its folder of handlers or of state.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The folder of a running host's sockets.
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
    /// The server's configuration, which says where its state is.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder of the server. Wins over the configuration.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What is left to move.
#[derive(Debug, Serialize)]
struct Left {
    /// Commands that nobody answers.
    unanswered: usize,
    /// Commands that clients still send, by client.
    legacy_uses: usize,
    /// Whether the host counts none of them.
    not_counted: bool,
    /// Values that are not in the state.
    state: usize,
    /// Files and values that cannot be moved.
    problems: usize,
}

impl Left {
    fn of(report: &Report) -> Self {
        Self {
            unanswered: report.commands().filter(|(_, owner)| owner.is_none()).count(),
            legacy_uses: report.host.as_ref().map_or(0, |host| host.legacy_uses.len()),
            not_counted: report.host.as_ref().is_some_and(Host::counts_nothing),
            state: report.state.iter().map(|state| state.left).sum(),
            problems: report.state.iter().map(|state| state.problems.len()).sum(),
        }
    }

    fn nothing(&self) -> bool {
        !self.not_counted && self.unanswered + self.legacy_uses + self.state + self.problems == 0
    }
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let server = ServerState::of(args.config.as_deref(), args.data.as_deref())?;
    let store = server.as_ref().map_or_else(StoreLimits::default, |server| server.limits);
    let mut report = Report::of(&args.from, args.socket_dir.as_deref(), &Limits { store, bytes_max: BYTES_MAX })?;
    if let Some(server) = &server {
        super::super::runtime()?.block_on(report.compare(server))?;
    }
    let left = Left::of(&report);
    if as_json {
        let commands: Vec<_> = report
            .commands()
            .map(|(command, owner)| json!({ "command": command.command, "event": command.event, "answered_by": owner }))
            .collect();
        let mut told = json!(report);
        told["commands"] = json!(commands);
        told["left"] = json!(left);
        print_json(&told)?;
    } else {
        tell(&report)?;
        let Left { unanswered, legacy_uses, state, problems, .. } = left;
        let uses = if left.not_counted {
            "legacy uses that are not counted".into()
        } else {
            format!("{legacy_uses} legacy uses")
        };
        line(&format!(
            "left: {unanswered} commands that nobody answers, {uses}, {state} values of state, {problems} problems with state"
        ))?;
        if state > 0 && server.is_none() {
            line("no server's state was looked into, so all of it counts as left: give --config FILE or --data DIR")?;
        }
    }
    Ok(if left.nothing() { Outcome::Yes } else { Outcome::No })
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
            "{}: {} sessions, {} shared keys, {} bytes, {} left; gavel migrate state --from {0}",
            state.folder.display(),
            state.sessions,
            state.shared,
            state.bytes,
            state.left
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
    if host.counts_nothing() {
        let socket = host.socket.display();
        return line(&format!("{socket}: mode {}: uses are not counted by client; switch to hybrid", host.mode));
    }
    line(&format!("{}: mode {}, {} legacy uses", host.socket.display(), host.mode, host.legacy_uses.len()))?;
    for used in &host.legacy_uses {
        let event = used.event.as_deref().unwrap_or("the event itself");
        let client = shown(&used.client, SHOWN_CHARS_MAX);
        line(&format!("  {} sent {} {} times: use {event}", client, shown(&used.command, SHOWN_CHARS_MAX), used.uses))?;
    }
    Ok(())
}

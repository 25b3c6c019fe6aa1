//! `gavel migrate plugins`: a plugin to begin with, for each handler of the older daemon.

use super::super::Outcome;
use super::super::output::{line, note, print_json, shown};
use crate::migrate::handlers::{Found, Handler, event_of, named, read_folder};
use crate::migrate::scaffold::{Language, files};
use crate::policies::templates::File;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The most characters of a name or reason on one line.
const SHOWN_CHARS_MAX: usize = 200;

/// Write a plugin scaffold for each handler of the older daemon, or for each command or event that is named.
///
/// A handler is a Python file with `@command_handler("NAME")`, or a class of `CommandHandler`; it is read as text and never
/// run. Each scaffold is a folder that builds as it stands: contract, code with one function for each event, manifest,
/// build command, README. An event whose function is not written is refused with `NOT_MIGRATED`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel migrate plugins --handlers-dir ksi_daemon/commands --output-dir plugins --dry-run
  gavel migrate plugins --handlers-dir ksi_daemon/commands --output-dir plugins
  gavel migrate plugins --command COMPOSE_PROMPT --command notes:add --output-dir plugins --language javascript")]
pub(super) struct Args {
    /// The folder with the handlers.
    #[arg(long, value_name = "DIR", required_unless_present = "commands")]
    handlers_dir: Option<PathBuf>,
    /// Where the scaffolds go: one folder each.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Only this command or event, whether a handler is there for it or not. May be given more than once.
    #[arg(long = "command", value_name = "NAME")]
    commands: Vec<String>,
    /// What to write them in.
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    language: Language,
    /// Write nothing; say what would be written.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let found = match &args.handlers_dir {
        Some(folder) => read_folder(folder)?,
        None => Found::default(),
    };
    let passed_over = found.passed_over;
    let handlers = distinct(chosen(found.handlers, &args.commands)?);
    ensure!(!handlers.is_empty(), "no handler was found, so there is nothing to write; name one with --command NAME");
    let mut written = Vec::new();
    for handler in handlers {
        let folder = args.output_dir.join(&handler.plugin);
        // All of them before the first is written: a refusal leaves nothing behind.
        check_empty(&folder)?;
        let files = files(&handler, args.language);
        written.push((handler, folder, files));
    }
    if !args.dry_run {
        for (_, folder, files) in &written {
            files.iter().try_for_each(|file| write(folder, file))?;
        }
    }
    if as_json {
        let scaffolds: Vec<_> = written.iter().map(|(handler, folder, files)| {
            let files: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
            json!({ "plugin": handler.plugin, "folder": folder, "from": handler.file, "commands": handler.commands, "files": files })
        }).collect();
        print_json(&json!({
            "written": !args.dry_run, "language": args.language, "plugins": scaffolds, "passed_over": passed_over,
        }))?;
        return Ok(Outcome::Yes);
    }
    let verb = if args.dry_run { "would write" } else { "wrote" };
    for (handler, folder, files) in &written {
        let events: Vec<&str> = handler.commands.iter().map(|command| command.event.as_str()).collect();
        line(&format!("{verb} {}: {} files for {}", folder.display(), files.len(), events.join(", ")))?;
        for command in &handler.commands {
            if let Some(service) = &command.answered_by {
                let end = if handler.file.is_none() { "this plugin takes it over" } else { "and keeps it" };
                line(&format!("  {}: {service} answers it, {end}", command.event))?;
            }
        }
    }
    for passed in &passed_over {
        note(&format!("passed over {}: {}", passed.file.display(), shown(&passed.why, SHOWN_CHARS_MAX)));
    }
    if !args.dry_run {
        line("next, in each folder: write src/handlers, then run GAVEL=$(command -v gavel) ./build")?;
    }
    Ok(Outcome::Yes)
}

/// Of the handlers those that were asked for; a command without a handler gets one of its own.
fn chosen(mut handlers: Vec<Handler>, commands: &[String]) -> Result<Vec<Handler>> {
    if commands.is_empty() {
        return Ok(handlers);
    }
    let mut chosen: Vec<Handler> = Vec::new();
    for name in commands {
        let event = event_of(name);
        let answers = |handler: &Handler| handler.commands.iter().any(|command| command.event == event);
        if chosen.iter().any(answers) {
            continue;
        }
        match handlers.iter().position(answers) {
            Some(at) => chosen.push(handlers.swap_remove(at)),
            None => chosen.push(named(name)?),
        }
    }
    Ok(chosen)
}

/// Handlers of the same name are numbered from the second on.
fn distinct(handlers: Vec<Handler>) -> Vec<Handler> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let number = |mut handler: Handler| {
        let count = taken.entry(handler.plugin.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count > 1 {
            handler.plugin = format!("{}-{count}", handler.plugin);
        }
        handler
    };
    handlers.into_iter().map(number).collect()
}

fn check_empty(folder: &Path) -> Result<()> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => {
            ensure!(
                entries.next().is_none(),
                "{}: the folder is not empty; nothing was written. Move it away, or name another --output-dir",
                folder.display()
            );
            Ok(())
        }
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(why) => bail!("{}: {why}", folder.display()),
    }
}

fn write(folder: &Path, file: &File) -> Result<()> {
    let path = folder.join(&file.path);
    let mode = if file.executable { 0o777 } else { 0o666 };
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        // The user's mask takes away what it takes away from other new files.
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?.write_all(&file.content)
    };
    write().with_context(|| path.display().to_string())
}

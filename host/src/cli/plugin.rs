//! `gavel plugin`: what a host would make of a plugin, before there is one.

use super::Outcome;
use super::output::{line, print_json, shown};
use crate::config::{self, BusFile, File};
use crate::host::component_cache;
use crate::plugins::admit::{Admission, Candidate};
use crate::plugins::shelf::Shelf;
use crate::plugins::{Checked, Settings, check};
use anyhow::{Context, Result};
use clap::Subcommand;
use gavel_bus::Pattern;
use gavel_runtime::{Sandbox, SandboxOptions};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Look at plugins of the event bus as a host would.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel plugin inspect prompt-guard.wasm
  gavel plugin check /etc/gavel/plugins --config gavel.yaml")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(InspectArgs),
    Check(CheckArgs),
}

/// Show what a component says of itself, and what it would be granted.
///
/// It is taken as a bare component of a plugin folder. Exit code 0: a host would take it. 1: it would not, and why.
#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// The component.
    file: PathBuf,
    /// A host's configuration, whose keys `plugins` and `daemon` count. Default: that of a host without any.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Check every plugin of a folder, each by itself.
///
/// What is known from an earlier look is not compiled again. Exit code 0: a host would take all. 1: not all, and why.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The folder, as in `daemon.plugin_dirs`.
    dir: PathBuf,
    /// A host's configuration, whose keys `plugins` and `daemon` count. Default: that of a host without any.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Characters of a component's own text that are shown.
const TEXT_CHARS_MAX: usize = 300;

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let checked = match &args.command {
        Command::Inspect(args) => {
            std::fs::metadata(&args.file).with_context(|| args.file.display().to_string())?;
            vec![inspect(&admission(args.config.as_deref())?, &args.file)]
        }
        Command::Check(args) => {
            std::fs::read_dir(&args.dir).with_context(|| args.dir.display().to_string())?;
            check(&admission(args.config.as_deref())?, &args.dir)
        }
    };
    if as_json {
        print_json(&json!({"plugins": checked.iter().map(described).collect::<Vec<_>>()}))?;
    } else {
        checked.iter().try_for_each(print)?;
    }
    let good = checked.iter().all(|plugin| plugin.outcome.is_ok());
    Ok(if good { Outcome::Yes } else { Outcome::No })
}

fn inspect(admission: &Admission, file: &Path) -> Checked {
    let outcome = admission.admit_file(file).map(Box::new).map_err(|why| format!("{why:#}"));
    let stem = || file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let name = outcome.as_ref().map_or_else(|_| stem(), |plugin| plugin.name().to_owned());
    Checked { name, place: file.to_owned(), outcome }
}

/// By the rules of a configuration. Nothing is kept but what components say of themselves, in the user's cache.
fn admission(config: Option<&Path>) -> Result<Admission> {
    let file = match config {
        Some(path) => config::read(path)?,
        None => File::new(Vec::new()),
    };
    let options = SandboxOptions {
        cache_dir: component_cache(),
        max_memory_bytes: file.limits.max_policy_memory_bytes,
        ..SandboxOptions::default()
    };
    let none = BusFile::default();
    let settings: Settings = file.bus.as_ref().unwrap_or(&none).plugin_settings(None, file.limits.max_component_bytes);
    Ok(Admission::new(Sandbox::new(options)?, settings, Shelf::of_user()))
}

fn described(checked: &Checked) -> Value {
    let mut told = json!({"name": checked.name, "place": checked.place});
    match &checked.outcome {
        Ok(plugin) => {
            told["digest"] = json!(plugin.digest);
            told["signed_by"] = json!(plugin.signers);
            told["metadata"] = json!(plugin.described.metadata);
            told["asks"] = json!(plugin.described.capabilities);
            told["granted"] = json!(plugin.capabilities);
            told["not_granted"] = json!(plugin.granted.withheld);
            told["config"] = plugin.config.clone();
        }
        Err(why) => told["broken"] = json!(why),
    }
    told
}

fn print(checked: &Checked) -> Result<()> {
    match &checked.outcome {
        Ok(plugin) => print_plugin(checked, plugin),
        Err(why) => line(&format!("{}: left out: {}", checked.name, shown(why, 4 * TEXT_CHARS_MAX))),
    }
}

fn print_plugin(checked: &Checked, plugin: &Candidate) -> Result<()> {
    let said = &plugin.described.metadata;
    let patterns = |patterns: &[Pattern]| patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ");
    let can = &plugin.capabilities;
    line(&format!("{} {}  {}", checked.name, shown(&said.version, 60), shown(&said.description, TEXT_CHARS_MAX)))?;
    let rows = [
        ("place", checked.place.display().to_string()),
        ("digest", plugin.digest.clone()),
        ("signed by", plugin.signers.join(", ")),
        ("answers", [&can.event_namespaces[..], &can.commands[..]].concat().join(", ")),
        ("needs", plugin.metadata.dependencies.join(", ")),
        ("hears", patterns(&can.subscribes)),
        ("sees before", patterns(&can.before)),
        ("sees after", patterns(&can.after)),
        ("may emit", patterns(&can.emits)),
        ("may use state", can.state.join(", ")),
        ("may ask for", can.tools.join(", ")),
        ("limits", format!("{} bytes of memory, {} ms for an event", can.memory_bytes, can.deadline_ms)),
    ];
    for (what, text) in rows.iter().filter(|(_, text)| !text.is_empty()) {
        line(&format!("  {what:<14} {}", shown(text, 4 * TEXT_CHARS_MAX)))?;
    }
    for withheld in &plugin.granted.withheld {
        line(&format!("  not granted    {}", shown(withheld, TEXT_CHARS_MAX)))?;
    }
    Ok(())
}

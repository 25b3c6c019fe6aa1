//! `gavel migrate state`: the older daemon's state files as keys of the state.

use super::super::Outcome;
use super::super::output::{line, note, print_json, shown};
use crate::bus::OfflineAudit;
use crate::config::File;
use crate::migrate::handlers::PassedOver;
use crate::migrate::state::{
    Applied, BYTES_MAX, Fate, Item, Limits, SESSIONS, SHARED, ServerState, Source, apply, fates, open_store, read,
};
use anyhow::{Context, Result};
use gavel_bus::{NoAudit, Store, StoreLimits};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most characters of a key or reason on one line.
const SHOWN_CHARS_MAX: usize = 200;
/// The most conflicts that are listed as text; JSON has them all.
const LISTED_MAX: usize = 20;

/// Move the older daemon's state: `sessions/X.json` to namespace `session`, `shared_state.json` to namespace `shared`.
///
/// Without --apply nothing is written: it says what would be. With it, everything is read first, and one file that cannot
/// be read stops it before anything is written; then every value is written and read back. A key that has another value
/// is left as it is, unless --overwrite is given. Stop the server first, and keep a copy of both folders.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel migrate state --from var/state --config daemon.json --data /var/lib/gavel
  gavel migrate state --from var/state --config daemon.json --data /var/lib/gavel --apply
  gavel migrate state --from var/state --to state.redb --apply --json")]
pub(super) struct Args {
    /// The folder that the older daemon kept its state in.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The server's configuration: where its state is, what that keeps, and which kernel records changes.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder of the server. Wins over the configuration.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["to", "config"])]
    data: Option<PathBuf>,
    /// The state itself, where it is neither in the data folder nor where the configuration says.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Write it.
    #[arg(long)]
    apply: bool,
    /// Put the older values over those that keys have now.
    #[arg(long, requires = "apply")]
    overwrite: bool,
    /// The largest value, in bytes of its JSON. Default: what the configuration says, else 1 MiB.
    #[arg(long, value_name = "BYTES")]
    value_bytes_max: Option<usize>,
    /// The longest key, in bytes. Default: what the configuration says, else 256.
    #[arg(long, value_name = "BYTES")]
    name_bytes_max: Option<usize>,
    /// The most bytes of all state files together.
    #[arg(long, value_name = "BYTES", default_value_t = BYTES_MAX)]
    bytes_max: u64,
}

/// Where it goes, and by whom it is recorded.
struct Target {
    file: PathBuf,
    limits: Limits,
    recorder: Recorder,
}

/// Who records the changes.
enum Recorder {
    /// The kernels of a server, in its data folder.
    Server(Box<File>, PathBuf),
    /// The kernel `bus` of a data folder.
    Folder(PathBuf),
    /// Nobody.
    Nobody,
}

impl Args {
    fn target(&self) -> Result<Target> {
        let server = ServerState::of(self.config.as_deref(), self.data.as_deref())?;
        let mut store = server.as_ref().map_or_else(StoreLimits::default, |server| server.limits);
        store.value_bytes_max = self.value_bytes_max.unwrap_or(store.value_bytes_max);
        store.name_bytes_max = self.name_bytes_max.unwrap_or(store.name_bytes_max);
        let limits = Limits { store, bytes_max: self.bytes_max };
        let (file, recorder) = match server {
            None => (None, Recorder::Nobody),
            Some(ServerState { file, data, config: Some(config), .. }) => {
                (Some(file), Recorder::Server(Box::new(config), data))
            }
            Some(ServerState { file, data, config: None, .. }) => (Some(file), Recorder::Folder(data)),
        };
        let file = self.to.clone().or(file).context("give --data DIR, --config FILE or --to FILE")?;
        Ok(Target { file, limits, recorder })
    }
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let target = args.target()?;
    let (limits, file) = (target.limits, target.file.clone());
    let source = read(&args.from, &limits)?;
    let runtime = super::super::runtime()?;
    if args.apply {
        let (applied, conflicts) = runtime.block_on(write(&source, target, args.overwrite))?;
        tell_applied(&source, &file, &applied, &conflicts, as_json)?;
        return Ok(if conflicts.is_empty() { Outcome::Yes } else { Outcome::No });
    }
    let fates = runtime.block_on(fates(&source.items, &file, limits.store))?;
    tell_plan(&source, &file, &fates, as_json)?;
    let clear = source.problems.is_empty() && !fates.contains(&Fate::Conflict);
    Ok(if clear { Outcome::Yes } else { Outcome::No })
}

async fn write(source: &Source, target: Target, overwrite: bool) -> Result<(Applied, Vec<Item>)> {
    let Target { file, limits, recorder } = target;
    if !source.problems.is_empty() {
        tell_problems(&source.problems);
        // It is refused; in memory, so that no file is made for nothing.
        let store = Store::open(None, limits.store, Arc::new(NoAudit)).await?;
        return apply(source, &store, overwrite).await;
    }
    let ledger = match recorder {
        Recorder::Server(config, data) => Box::pin(OfflineAudit::of_server(*config, &data)).await?,
        Recorder::Folder(data) => Box::pin(OfflineAudit::of_folder(&data)).await?,
        Recorder::Nobody => {
            note(&format!("{}: no server's data, so no ledger records the changes", file.display()));
            return apply(source, &open_store(&file, limits.store, Arc::new(NoAudit)).await?, overwrite).await;
        }
    };
    let applied = match open_store(&file, limits.store, ledger.audit()).await {
        Ok(store) => apply(source, &store, overwrite).await,
        Err(why) => Err(why),
    };
    ledger.finish().await;
    applied
}

fn tell_plan(source: &Source, file: &Path, fates: &[Fate], as_json: bool) -> Result<()> {
    let count = |fate: Fate| fates.iter().filter(|&&is| is == fate).count();
    let (new, same, conflicts) = (count(Fate::New), count(Fate::Same), count(Fate::Conflict));
    if as_json {
        let items: Vec<_> = source.items.iter().zip(fates).map(|(item, fate)| {
            json!({ "namespace": item.namespace, "key": item.key, "bytes": item.bytes, "file": item.file, "fate": fate })
        }).collect();
        return print_json(&json!({
            "applied": false, "to": file, "files": source.files, "bytes": source.bytes, "new": new, "same": same,
            "conflicts": conflicts, "items": items, "problems": source.problems, "passed_over": source.passed_over,
        }));
    }
    for namespace in [SESSIONS, SHARED] {
        let items: Vec<&Item> = source.items.iter().filter(|item| item.namespace == namespace).collect();
        let bytes: usize = items.iter().map(|item| item.bytes).sum();
        line(&format!("namespace {namespace}: {} keys, {bytes} bytes", items.len()))?;
    }
    line(&format!("{}: {new} new, {same} there already, {conflicts} with another value", file.display()))?;
    let conflicting = source.items.iter().zip(fates).filter(|(_, fate)| **fate == Fate::Conflict).map(|(item, _)| item);
    tell_conflicts(conflicting)?;
    tell_problems(&source.problems);
    tell_passed_over(&source.passed_over);
    if source.problems.is_empty() {
        line("nothing was written; --apply writes it")
    } else {
        line(&format!("nothing was written, and nothing can be before {} problems are solved", source.problems.len()))
    }
}

fn tell_applied(source: &Source, file: &Path, applied: &Applied, conflicts: &[Item], as_json: bool) -> Result<()> {
    if as_json {
        return print_json(&json!({
            "applied": true, "to": file, "files": source.files, "bytes": source.bytes, "result": applied,
            "conflicts": conflicts, "passed_over": source.passed_over,
        }));
    }
    let Applied { written, overwritten, same, verified, .. } = applied;
    line(&format!(
        "{}: {written} written ({overwritten} over another value), {same} there already; {verified} read back and compared",
        file.display()
    ))?;
    tell_passed_over(&source.passed_over);
    tell_conflicts(conflicts.iter())
}

fn tell_conflicts<'a>(conflicts: impl Iterator<Item = &'a Item>) -> Result<()> {
    let mut count = 0;
    for item in conflicts {
        count += 1;
        if count <= LISTED_MAX {
            let key = shown(&item.key, SHOWN_CHARS_MAX);
            line(&format!(
                "  kept as it is: '{key}' of {} has another value than {}",
                item.namespace,
                item.file.display()
            ))?;
        }
    }
    if count > 0 {
        line(&format!("{count} keys keep their value; --apply --overwrite puts the older ones over them"))?;
    }
    Ok(())
}

fn tell_problems(problems: &[PassedOver]) {
    for problem in problems {
        note(&format!("problem: {}: {}", problem.file.display(), shown(&problem.why, SHOWN_CHARS_MAX)));
    }
}

fn tell_passed_over(passed_over: &[PassedOver]) {
    for passed in passed_over {
        note(&format!("left where it is: {}: {}", passed.file.display(), passed.why));
    }
}

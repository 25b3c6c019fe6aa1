//! `gavel migrate state`: the older daemon's state files as keys of the state.

use super::super::Outcome;
use super::super::output::{line, note, print_json, shown};
use crate::bus::OfflineAudit;
use crate::config::BUS_KERNEL;
use crate::migrate::handlers::PassedOver;
use crate::migrate::state::{
    Applied, BYTES_MAX, Fate, Item, Limits, SESSIONS, SHARED, STATE_FILE, Source, apply, fates, open_store, read,
};
use anyhow::Result;
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
  gavel migrate state --from var/state --data /var/lib/gavel
  gavel migrate state --from var/state --data /var/lib/gavel --apply
  gavel migrate state --from var/state --to state.redb --apply --json")]
pub(super) struct Args {
    /// The folder that the older daemon kept its state in.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The data folder of the server.
    #[arg(long, value_name = "DIR", required_unless_present = "to", conflicts_with = "to")]
    data: Option<PathBuf>,
    /// The state itself, where it is not in the data folder.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// The kernel of the data folder in whose ledger every change is put; the server's `bus.kernel`.
    #[arg(long, value_name = "NAME", default_value = BUS_KERNEL)]
    kernel: String,
    /// Write it.
    #[arg(long)]
    apply: bool,
    /// Put the older values over those that keys have now.
    #[arg(long, requires = "apply")]
    overwrite: bool,
    /// The largest value, in bytes of its JSON.
    #[arg(long, value_name = "BYTES", default_value_t = StoreLimits::default().value_bytes_max)]
    value_bytes_max: usize,
    /// The longest key, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = StoreLimits::default().name_bytes_max)]
    name_bytes_max: usize,
    /// The most bytes of all state files together.
    #[arg(long, value_name = "BYTES", default_value_t = BYTES_MAX)]
    bytes_max: u64,
}

impl Args {
    fn limits(&self) -> Limits {
        let (name_bytes_max, value_bytes_max) = (self.name_bytes_max, self.value_bytes_max);
        Limits {
            store: StoreLimits { name_bytes_max, value_bytes_max, ..StoreLimits::default() },
            bytes_max: self.bytes_max,
        }
    }

    fn file(&self) -> PathBuf {
        match (&self.to, &self.data) {
            (Some(file), _) => file.clone(),
            (None, data) => data.as_deref().unwrap_or(Path::new(".")).join(STATE_FILE),
        }
    }
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let (limits, file) = (args.limits(), args.file());
    let source = read(&args.from, &limits)?;
    let runtime = super::super::runtime()?;
    if args.apply {
        let (applied, conflicts) = runtime.block_on(write(&source, args))?;
        tell_applied(&source, &file, &applied, &conflicts, as_json)?;
        return Ok(if conflicts.is_empty() { Outcome::Yes } else { Outcome::No });
    }
    let fates = runtime.block_on(fates(&source.items, &file, limits.store))?;
    tell_plan(&source, &file, &fates, as_json)?;
    let clear = source.problems.is_empty() && !fates.contains(&Fate::Conflict);
    Ok(if clear { Outcome::Yes } else { Outcome::No })
}

async fn write(source: &Source, args: &Args) -> Result<(Applied, Vec<Item>)> {
    let (file, limits) = (args.file(), args.limits().store);
    if !source.problems.is_empty() {
        tell_problems(&source.problems);
        // It is refused; in memory, so that no file is made for nothing.
        let store = Store::open(None, limits, Arc::new(NoAudit)).await?;
        return apply(source, &store, args.overwrite).await;
    }
    let Some(data) = &args.data else {
        note(&format!("{}: no server's data, so no ledger records the changes", file.display()));
        return apply(source, &open_store(&file, limits, Arc::new(NoAudit)).await?, args.overwrite).await;
    };
    let ledger = Box::pin(OfflineAudit::open(&args.kernel, data)).await?;
    let applied = match open_store(&file, limits, ledger.audit()).await {
        Ok(store) => apply(source, &store, args.overwrite).await,
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

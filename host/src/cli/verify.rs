//! `gavel verify`: does this evidence hold?

use super::Outcome;
use super::output::{line, print_json};
use crate::evidence::verify_bundle_file;
use crate::host::ledger_folder;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Verify an evidence bundle or a ledger folder: every hash, every link, every count.
///
/// Needs nothing but the file. Exit code 0: it holds. 1: it does not, and the first bad entry.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel verify evidence.json
  gavel verify ~/.local/share/gavel/kernels/default/ledger")]
pub(super) struct Args {
    /// A bundle as `gavel evidence` or the KERNELS package writes it, or a ledger's folder.
    path: PathBuf,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let path = &args.path;
    anyhow::ensure!(path.exists(), "{}: no such file or folder", path.display());
    let verified = if path.is_dir() { verify_folder(path) } else { verify_file(path) };
    let (outcome, report) = match verified {
        Ok(report) => (Outcome::Yes, report),
        Err(why) => (Outcome::No, json!({"verified": false, "error": format!("{why:#}")})),
    };
    if as_json {
        print_json(&report)?;
    } else {
        print(path, &report)?;
    }
    Ok(outcome)
}

fn verify_file(path: &Path) -> Result<Value> {
    let report = verify_bundle_file(path)?;
    let mut told = json!({"verified": true, "kernel_id": report.kernel_id, "entries": report.entries, "root_hash": report.root_hash});
    if let Some(start) = report.continues {
        // What came before is not in this file, and only the bundle of that can prove it.
        told["first_entry"] = json!(start.ledger_seq);
        told["follows"] = json!(start.prev_hash);
    }
    Ok(told)
}

fn verify_folder(path: &Path) -> Result<Value> {
    let report = gavel_ledger::verify_dir(&ledger_folder(path))?;
    Ok(json!({
        "verified": true,
        "kernel_id": report.identity.kernel_id,
        "records": report.records,
        "entries": report.entries,
        "root_hash": report.chain_head,
        "tree_root": hex::encode(report.root),
        "torn_bytes": report.torn_bytes,
    }))
}

fn print(path: &Path, report: &Value) -> Result<()> {
    if let Some(why) = report["error"].as_str() {
        return line(&format!("{}: NOT VERIFIED: {why}", path.display()));
    }
    line(&format!("{}: verified", path.display()))?;
    for (name, value) in report.as_object().into_iter().flatten().filter(|(name, _)| *name != "verified") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line(&format!("  {:<10} {value}", name.replace('_', " ")))?;
    }
    Ok(())
}

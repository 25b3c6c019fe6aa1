//! `gavel verify`: does this evidence hold?

use super::Outcome;
use super::output::{line, print_json};
use super::verify_folder;
use crate::evidence::{UNPACKED_BYTES_MAX, verify_file};
use anyhow::{Context, Result};
use gavel_proof::note::NOTE_BYTES_MAX;
use gavel_proof::report::{Outcome as Ended, Report};
use gavel_proof::trust::TrustedKey;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Verify an evidence bundle, a proof file or a ledger folder: every hash, every link, every count, every signature.
///
/// Needs nothing but the file, plain or compressed with gzip or zstd, and the key that the operator published. Exit
/// code 0: it holds. 1: it does not, and the first bad entry or record. 2: it was not examined.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel verify evidence.json
  gavel verify evidence.json.zst --key gavel/default/5f2c…+0c1d2e3f+AR…
  gavel verify req-17.proof.json --key operator.vkey
  gavel verify ~/.local/share/gavel/kernels/default/ledger
  gavel verify LEDGER_DIR --anchor kept/2026-01-05.note --from-anchor --key operator.vkey
  gavel verify s3://evidence/prod --kernel payments")]
pub(super) struct Args {
    /// A bundle as `gavel evidence` or the KERNELS package writes it, a file of `gavel prove`, a ledger's folder, or the URL
    /// of an archive.
    path: PathBuf,
    /// The key that must have signed: NAME+ID+KEY, `ed25519:HEX`, or a file with one of them. Without it, a signature
    /// proves that the evidence is whole, not whose it is.
    #[arg(long)]
    key: Option<String>,
    /// Bytes that a compressed file may unpack to.
    #[arg(long, value_name = "BYTES", default_value_t = UNPACKED_BYTES_MAX)]
    max_bytes: u64,
    #[command(flatten)]
    folder: verify_folder::Args,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let path = &args.path;
    let trusted = args.key.as_deref().map(trusted_key).transpose()?;
    let verified = if let Some(url) = path.to_str().filter(|path| path.contains("://")) {
        verify_folder::archive(url, &args.folder, trusted.as_ref())
    } else {
        anyhow::ensure!(path.exists(), "{}: no such file or folder", path.display());
        if path.is_dir() {
            verify_folder::folder(path, &args.folder, trusted.as_ref())
        } else {
            args.folder.ensure_unused()?;
            verify_file(path, trusted, args.max_bytes).and_then(|report| told(&report))
        }
    };
    let report = verified.unwrap_or_else(|why| json!({"verified": false, "error": format!("{why:#}")}));
    if as_json {
        print_json(&report)?;
    } else {
        print(path, &report)?;
    }
    Ok(if report["verified"] == true { Outcome::Yes } else { Outcome::No })
}

/// The key itself, or what a file of this name holds.
fn trusted_key(text: &str) -> Result<TrustedKey> {
    let given = text.parse::<TrustedKey>();
    if given.is_ok() || !Path::new(text).is_file() {
        return given.with_context(|| format!("--key {text:?} is neither a key nor a file"));
    }
    let mut content = String::new();
    File::open(text)
        .and_then(|file| file.take(NOTE_BYTES_MAX as u64).read_to_string(&mut content))
        .and_then(|_| content.parse().map_err(std::io::Error::other))
        .with_context(|| format!("--key {text}"))
}

/// The report for programs: what is not known is not there, and the entries are left out.
fn told(report: &Report) -> Result<Value> {
    let mut value = serde_json::to_value(report)?;
    let fields = value.as_object_mut().context("a report is an object")?;
    fields.remove("rows");
    fields.retain(|_, field| !field.is_null());
    let holds = fields.remove("holds");
    fields.insert("verified".into(), holds.unwrap_or_default());
    Ok(value)
}

fn print(path: &Path, report: &Value) -> Result<()> {
    if let Some(why) = report["error"].as_str() {
        return line(&format!("{}: NOT VERIFIED: {why}", path.display()));
    }
    line(&format!("{}: verified", path.display()))?;
    let facts = report.as_object().into_iter().flatten();
    for (name, value) in facts.filter(|(name, _)| !["checks", "subject", "verified"].contains(&name.as_str())) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line(&format!("  {:<10} {value}", name.replace('_', " ")))?;
    }
    let not_covered = json!(Ended::NotCovered);
    for check in report["checks"].as_array().into_iter().flatten().filter(|check| check["outcome"] == not_covered) {
        line(&format!("  not covered: {}", check["detail"].as_str().unwrap_or_default()))?;
    }
    Ok(())
}

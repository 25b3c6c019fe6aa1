//! `gavel verify FOLDER` and `gavel verify URL`: a whole ledger, where it lives and where it was archived.
//!
//! Segments are read side by side. What a part of a ledger cannot prove by itself, that its beginning is what came
//! before, an earlier checkpoint proves that the auditor kept.

use super::restore::segments_bar;
use crate::archive::{Archive, verify_remote};
use crate::host::ledger_folder;
use anyhow::{Context, Result, ensure};
use gavel_ledger::{Audit, Progress, VerifyReport, audit_dir};
use gavel_proof::note::{Checkpoint, NOTE_BYTES_MAX, Note};
use gavel_proof::trust::TrustedKey;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What is asked of a ledger beside its path.
#[derive(Debug, Default, clap::Args)]
// Its group would have the name of the group around it.
#[group(skip)]
pub(super) struct Args {
    /// Of a ledger: only these segments, as `3` or `3-7`. The first is believed in what it says of those before it.
    #[arg(long, value_name = "N[-M]", value_parser = segments, help_heading = "Ledgers and archives")]
    segments: Option<RangeInclusive<u32>>,
    /// Of a ledger: a checkpoint that you kept; the ledger must have grown from it.
    #[arg(long, value_name = "FILE", help_heading = "Ledgers and archives")]
    anchor: Option<PathBuf>,
    /// Begin with the segment of the anchor, which vouches for what is before it.
    #[arg(long, requires = "anchor", conflicts_with = "segments", help_heading = "Ledgers and archives")]
    from_anchor: bool,
    /// Check the signature of each checkpoint, not only of the last in each segment, which states all before it.
    #[arg(long, help_heading = "Ledgers and archives")]
    every_signature: bool,
    /// Segments that are read at a time. Default: one for each processor.
    #[arg(long, value_name = "N", help_heading = "Ledgers and archives")]
    threads: Option<usize>,
    /// Of an archive: the kernel.
    #[arg(long, value_name = "ID", help_heading = "Ledgers and archives")]
    kernel: Option<String>,
    /// Of an archive: which of the kernel's ledgers, if it has several; 32 hex digits.
    #[arg(long, value_name = "HEX", help_heading = "Ledgers and archives")]
    ledger: Option<String>,
    /// Of an archive: an option of the store, such as `aws_region=eu-central-1`.
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = super::restore::key_value, help_heading = "Ledgers and archives")]
    options: Vec<(String, String)>,
}

impl Args {
    /// Fail where something is asked that only a ledger can answer.
    pub(super) fn ensure_unused(&self) -> Result<()> {
        let used = self.segments.is_some() || self.anchor.is_some() || self.every_signature || self.threads.is_some();
        ensure!(
            !used && self.kernel.is_none(),
            "--segments, --anchor, --every-signature, --threads and --kernel are for ledgers"
        );
        Ok(())
    }
}

fn segments(text: &str) -> Result<RangeInclusive<u32>, String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("`{text}` is no segment: give 3, or 3-7"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok(first..=last) } else { Err(format!("segment {first} comes after segment {last}")) }
}

/// Verify a ledger's folder.
pub(super) fn folder(path: &Path, args: &Args, trusted: Option<&TrustedKey>) -> Result<Value> {
    ensure!(args.kernel.is_none(), "--kernel is for archives: a folder holds one ledger");
    let anchor = args.anchor.as_deref().map(|file| kept(file, trusted)).transpose()?;
    let bar = segments_bar();
    let progress = |progress: Progress| {
        bar.set_length(progress.total.into());
        bar.set_position(progress.done.into());
    };
    let audit = Audit {
        segments: args.segments.clone(),
        anchor: anchor.as_ref().map(|anchor| (anchor.size, anchor.root)),
        from_anchor: args.from_anchor,
        key: trusted.map(TrustedKey::public),
        each_signature: args.every_signature,
        threads: args.threads,
        progress: Some(&progress),
    };
    let report = audit_dir(&ledger_folder(path), &audit);
    bar.finish_and_clear();
    let report = report?;
    if let Some(anchor) = &anchor {
        let (kept, origin) = (&anchor.origin, &report.origin);
        ensure!(kept == origin, "the anchor is a checkpoint of another log: {kept}, not {origin}");
    }
    if let Some(TrustedKey::Named(key)) = trusted {
        ensure!(key.name() == report.origin, "it is the log {}, the key is that of {}", report.origin, key.name());
    }
    Ok(told(&report, anchor.as_ref()))
}

fn told(report: &VerifyReport, anchor: Option<&Checkpoint>) -> Value {
    let mut told = json!({
        "verified": true,
        "kernel_id": report.identity.kernel_id,
        "origin": report.origin,
        "segments": report.segments,
        "records": report.records,
        "entries": report.entries,
        "root_hash": report.chain_head,
        "tree_root": hex::encode(report.root),
        "torn_bytes": report.torn_bytes,
    });
    if let Some(key) = report.key {
        told["signed_by"] = json!(format!("ed25519:{}", hex::encode(key)));
    }
    if let Some(anchor) = anchor {
        told["anchored_at"] = json!(anchor.size);
    }
    told
}

/// A checkpoint from a file; signed by the trusted key, if there is one.
fn kept(path: &Path, trusted: Option<&TrustedKey>) -> Result<Checkpoint> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(NOTE_BYTES_MAX as u64 + 1).read_to_string(&mut text));
    read.with_context(|| path.display().to_string())?;
    let note = Note::parse(&text).with_context(|| format!("--anchor {}", path.display()))?;
    let checkpoint = note.checkpoint().with_context(|| format!("--anchor {}", path.display()))?;
    // A key that was rotated since has not signed it: that the ledger grew from it is proved all the same.
    if let Some(TrustedKey::Named(key)) = trusted {
        let (name, origin) = (key.name(), &checkpoint.origin);
        ensure!(
            name == origin,
            "--anchor {}: it is a checkpoint of {origin}, the key is that of {name}",
            path.display()
        );
    }
    Ok(checkpoint)
}

/// Verify a ledger where it lies in an archive.
pub(super) fn archive(url: &str, args: &Args, trusted: Option<&TrustedKey>) -> Result<Value> {
    let kernel = args.kernel.as_deref().context("say whose ledger of the archive: --kernel ID")?;
    let key = match trusted {
        None => None,
        Some(TrustedKey::Named(key)) => Some(key),
        Some(TrustedKey::Raw(_)) => {
            anyhow::bail!("of an archive give the whole key, NAME+ID+KEY: `gavel checkpoint --show-key`")
        }
    };
    let archive = Archive::at(url, args.options.iter().cloned())?;
    let bar = segments_bar();
    let seen = |done: u32, total: u32| {
        bar.set_length(total.into());
        bar.set_position(done.into());
    };
    let verified = super::runtime()?.block_on(verify_remote(&archive, kernel, args.ledger.as_deref(), key, seen));
    bar.finish_and_clear();
    let mut told = serde_json::to_value(verified?)?;
    told["verified"] = json!(true);
    Ok(told)
}

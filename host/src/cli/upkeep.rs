//! `gavel archive` and `gavel retention`: the upkeep of a ledger, done by the server that owns it.

use super::Outcome;
use super::client::{Client, Remote};
use super::output::{line, print_json};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often a run that takes its time is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bring a kernel's ledger into the archive, compressed, and verify what was written.
///
/// Sealed segments go there for good; of what came after them, a copy. The server does it while it serves; `archive.url` in its configuration says where to. What is archived already is
/// passed over, so a run that was cut off is simply started again. The run is recorded in the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel archive
  gavel archive --kernel payments --remove-local")]
pub(super) struct ArchiveArgs {
    /// Remove from the server's disk what the archive holds; `gavel restore` brings it back.
    #[arg(long)]
    remove_local: bool,
    /// How long to wait for the end of the run, in seconds.
    #[arg(long, default_value_t = 3_600, value_name = "SECONDS")]
    patience: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Erase and remove what the server's configuration says is too old; every proof still holds.
///
/// `retention.blobs_days` erases what policies were asked, where it lies in blobs; `retention.local_segments` removes
/// sealed segments that the archive holds. Each step is recorded in the ledger before it is taken. A kernel on hold
/// (`retention.hold`, or a file `hold` in its folder) is not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel retention --dry-run
  gavel retention --kernel payments")]
pub(super) struct RetentionArgs {
    /// Only tell what would be done.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for the end of the run, in seconds.
    #[arg(long, default_value_t = 3_600, value_name = "SECONDS")]
    patience: u64,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn archive(args: &ArchiveArgs, as_json: bool) -> Result<Outcome> {
    let asked = json!({"remove_local": args.remove_local});
    let report = run(&args.remote.client()?, "/archive", &asked, args.patience)?;
    if as_json {
        print_json(&report)?;
        return Ok(Outcome::Yes);
    }
    line(&format!("{} sealed segments, all in {}", report["sealed"], report["url"].as_str().unwrap_or("-")))?;
    for segment in items(&report["archived"]) {
        let existed = if segment["existed"] == json!(true) { "  (was there)" } else { "" };
        let (number, records, bytes) = (&segment["segment"], &segment["records"], &segment["bytes"]);
        line(&format!("  segment {number}: {records} records, {bytes} bytes{existed}"))?;
    }
    if let Some(tail) = report["tail"].as_object() {
        line(&format!("  after them: {} records, in {}", tail["records"], tail["url"].as_str().unwrap_or("-")))?;
    }
    removed(&report["removed"])?;
    Ok(Outcome::Yes)
}

pub(super) fn retention(args: &RetentionArgs, as_json: bool) -> Result<Outcome> {
    let report = run(&args.remote.client()?, "/retention", &json!({"dry_run": args.dry_run}), args.patience)?;
    if as_json {
        print_json(&report)?;
        return Ok(Outcome::Yes);
    }
    let (erased, kept) = (&report["blobs"], &report["blobs_kept"]);
    let would = if args.dry_run { "would be erased" } else { "erased" };
    line(&format!("blobs: {} {would} ({} bytes), {kept} kept", erased["count"], erased["bytes"]))?;
    removed(&report["segments"])?;
    for segment in items(&report["not_archived"]) {
        line(&format!("  segment {segment} stays: it is not in the archive (`gavel archive`)"))?;
    }
    Ok(Outcome::Yes)
}

fn removed(segments: &Value) -> Result<()> {
    for segment in items(segments) {
        let url = segment["url"].as_str().unwrap_or("-");
        line(&format!("  segment {} is now only in {url}", segment["segment"]))?;
    }
    Ok(())
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// Ask for a run and wait for its end; what it did.
fn run(client: &Client, route: &str, asked: &Value, patience_s: u64) -> Result<Value> {
    let until = Instant::now() + Duration::from_secs(patience_s);
    let mut run = client.post(route, asked.to_string().as_bytes())?.accepted()?;
    loop {
        match run["state"].as_str() {
            Some("done") => return Ok(run["report"].take()),
            Some("failed") => bail!("{}", run["error"].as_str().unwrap_or("no reason given")),
            Some("running") if Instant::now() < until => {}
            Some("running") => bail!("it goes on after {patience_s} s: GET {route} tells how it stands"),
            _ => return Err(anyhow::anyhow!("{run}")).context("the server answered no state of a run"),
        }
        std::thread::sleep(LOOK_EVERY);
        run = client.get_json(route)?;
    }
}

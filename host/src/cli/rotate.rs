//! `gavel rotate`: what came since the last rotation goes into the archive.

use super::Outcome;
use super::client::Remote;
use super::output::{line, print_json};
use anyhow::Result;
use serde_json::json;

/// Archive the evidence since the last rotation. The ledger goes on as it is.
///
/// Exit code 1 if nothing came since the last one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel rotate
  gavel rotate --kernel prod-001 --why 'weekly rotation'")]
pub(super) struct Args {
    /// Why; goes into the ledger.
    #[arg(long, default_value = "")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let answer = args.remote.client()?.post("/evidence/rotate", json!({"why": args.why}).to_string().as_bytes())?;
    if answer.status == 409 {
        let told = answer.body["error"].as_str().unwrap_or("nothing to rotate");
        if as_json {
            print_json(&answer.body)?;
        } else {
            line(told)?;
        }
        return Ok(Outcome::No);
    }
    let answer = answer.accepted()?;
    if as_json {
        print_json(&answer)?;
    } else {
        let text = |key: &str| answer[key].as_str().unwrap_or("-");
        let (count, first) = (&answer["entry_count"], &answer["first_ledger_seq"]);
        line(&format!("{}: {count} entries from {first} on, verified", text("archive_path")))?;
        line(&format!("  sha256     {}", text("sha256")))?;
        line(&format!("  follows    {}", text("prev_hash")))?;
        line(&format!("  root hash  {}", text("root_hash")))?;
    }
    Ok(Outcome::Yes)
}

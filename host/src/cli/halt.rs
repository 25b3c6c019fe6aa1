//! `gavel halt`: stop a kernel for good.

use super::Outcome;
use super::client::Remote;
use super::output::{line, print_json};
use anyhow::Result;
use serde_json::json;

/// Halt a kernel: from then on it decides nothing more. Halting is for good.
///
/// A halted kernel stays halted across restarts; it is replaced by a kernel of another id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gavel halt --reason 'agent-007 is sending money' --key \"$OPERATOR_KEY\"")]
pub(super) struct Args {
    /// Why; goes into the ledger.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let answer =
        args.remote.client()?.post("/halt", json!({"reason": args.reason}).to_string().as_bytes())?.accepted()?;
    if as_json {
        print_json(&answer)?;
    } else {
        line(&format!("kernel {} is halted", answer["kernel_id"].as_str().unwrap_or("-")))?;
        line(&format!("  evidence  {}", answer["evidence_hash"].as_str().unwrap_or("-")))?;
    }
    Ok(Outcome::Yes)
}

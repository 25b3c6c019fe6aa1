//! `gavel preserve`: seal the evidence for an incident.

use super::Outcome;
use super::client::Remote;
use super::output::{line, print_json};
use anyhow::Result;
use serde_json::json;

/// Preserve a kernel's evidence for an incident: one sealed file on the server, its digest beside it
/// and in the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gavel preserve INC-2026-001 --why 'asked for by security'")]
pub(super) struct Args {
    /// The incident: letters, digits, `.`, `_` and `-`.
    #[arg(value_name = "INCIDENT_ID")]
    incident: String,
    /// Why; goes into the ledger.
    #[arg(long, default_value = "")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let body = json!({"incident_id": args.incident, "why": args.why}).to_string();
    let answer = args.remote.client()?.post("/evidence/preserve", body.as_bytes())?.accepted()?;
    if as_json {
        print_json(&answer)?;
    } else {
        let text = |key: &str| answer[key].as_str().unwrap_or("-");
        line(&format!("{}: {} entries, sealed and verified", text("path"), answer["entry_count"]))?;
        line(&format!("  sha256          {}", text("sha256")))?;
        line(&format!("  integrity hash  {}", text("integrity_hash")))?;
        line(&format!("  root hash       {}", text("root_hash")))?;
        line(&format!("  recorded        in record {} of the ledger", answer["event_index"]))?;
    }
    Ok(Outcome::Yes)
}

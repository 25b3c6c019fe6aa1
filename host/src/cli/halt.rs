//! `gavel halt`: stop a kernel for good.

use super::Outcome;
use super::client::Remote;
use super::output::{line, print_json, shown};
use anyhow::Result;
use serde_json::{Value, json};

/// Halt a kernel: from then on it decides nothing more. Halting is for good.
///
/// A halted kernel stays halted across restarts; it is replaced by a kernel of another id. In an
/// emergency the evidence is exported first (on the server, for as long as `operations.halt_export_ms`
/// grants), and afterwards the incident is recorded and alerted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel halt --reason 'agent-007 is sending money' --key \"$OPERATOR_KEY\"
  gavel halt --emergency --reason 'agent-007 is sending money' --incident INC-2026-001")]
pub(super) struct Args {
    /// Why; goes into the ledger.
    #[arg(long)]
    reason: String,
    /// Evidence first, then the halt, then the record of the incident and the alert.
    #[arg(long)]
    emergency: bool,
    /// The incident's id; made of the time if not given.
    #[arg(long, value_name = "INCIDENT_ID", requires = "emergency")]
    incident: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let mut body = json!({"reason": args.reason});
    if let Some(incident) = &args.incident {
        body["incident_id"] = json!(incident);
    }
    let route = if args.emergency { "/halt/emergency" } else { "/halt" };
    let answer = args.remote.client()?.post(route, body.to_string().as_bytes())?.accepted()?;
    if as_json {
        print_json(&answer)?;
    } else {
        line(&format!("kernel {} is halted", answer["kernel_id"].as_str().unwrap_or("-")))?;
        line(&format!("  evidence  {}", answer["evidence_hash"].as_str().unwrap_or("-")))?;
        if args.emergency {
            print_incident(&answer)?;
        }
    }
    Ok(Outcome::Yes)
}

fn print_incident(answer: &Value) -> Result<()> {
    let incident = answer["incident_id"].as_str().unwrap_or("-");
    match answer["incident_index"].as_u64() {
        Some(index) => line(&format!("  incident  {incident}, in record {index} of the ledger"))?,
        None => line(&format!("  incident  {incident}, NOT RECORDED: see the server's log"))?,
    }
    if let Some(path) = answer["evidence"]["path"].as_str() {
        line(&format!("  exported  {path}, {} entries, verified", answer["evidence"]["entry_count"]))?;
    } else {
        let why = answer["pre_halt"]["evidence_export_error"].as_str().unwrap_or("-");
        line(&format!("  exported  NOT BEFORE THE HALT: {}", shown(why, 1_000)))?;
    }
    line(&format!("  alerted   {} webhooks", answer["alerted"]))
}

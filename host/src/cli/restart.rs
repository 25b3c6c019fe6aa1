//! `gavel restart`: restart a server with its evidence kept.
//!
//! The server itself exports and verifies the evidence of every kernel, then finishes what is in flight
//! and begins anew in the same process, with the program that lies at its path by then. With --unit it
//! is systemd that restarts it. Either way this command waits until every kernel is back, and looks
//! whether they are well.

use super::Outcome;
use super::client::{Client, Remote};
use super::health::{outcome_of, print};
use super::output::{line, note, print_json};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How often a server that begins anew is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Restart a server with its evidence kept: export and verify, restart, health check.
///
/// Exit code 0: every kernel is back and well. 1: one is not well. 2: the evidence could not be kept,
/// so nothing was restarted, or the server did not come back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel restart --why 'update to 0.2'
  gavel restart --unit gavel.service")]
pub(super) struct Args {
    /// Why; goes into the ledgers.
    #[arg(long, default_value = "")]
    why: String,
    /// Have systemd restart this unit, on this machine, rather than the server itself.
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// How long to wait until every kernel is back, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    // A restart is of the server, whichever kernel was named.
    let client = Remote { kernel: None, ..args.remote.clone() }.client()?;
    let body = json!({"why": args.why, "prepare_only": args.unit.is_some()});
    let answer = client.post("/restart", body.to_string().as_bytes())?.accepted()?;
    let kept = answer["evidence"].as_array().cloned().unwrap_or_default();
    ensure!(!kept.is_empty(), "the server kept no evidence");
    if !as_json {
        for file in &kept {
            let path = file["path"].as_str().unwrap_or("-");
            note(&format!("kept  {path}  {} entries, verified", file["entry_count"]));
        }
    }
    args.unit.as_deref().map_or(Ok(()), restart_unit)?;
    let until = Instant::now() + Duration::from_secs(args.wait);
    let reports = kept.iter().map(|file| back(&client, file, until)).collect::<Result<Vec<Value>>>()?;
    if as_json {
        print_json(&json!({"restarted": true, "evidence": kept, "health": reports}))?;
    } else {
        line("restarted")?;
        reports.iter().try_for_each(print)?;
    }
    let well = reports.iter().all(|report| outcome_of(report) == Outcome::Yes);
    Ok(if well { Outcome::Yes } else { Outcome::No })
}

fn restart_unit(unit: &str) -> Result<()> {
    let status = Command::new("systemctl").args(["restart", unit]).status().context("systemctl cannot be run")?;
    ensure!(status.success(), "systemctl restart {unit}: {status}");
    Ok(())
}

/// Wait until the kernel of this evidence was started again, and check its health.
fn back(client: &Client, file: &Value, until: Instant) -> Result<Value> {
    let id = file["kernel_id"].as_str().context("the server does not say whose evidence it kept")?;
    let status = loop {
        // No answer is what is to be expected while it begins anew.
        match client.get_json(&format!("/kernels/{id}/status")) {
            Ok(status) if status["started_at_ms"] != file["started_at_ms"] => break status,
            Ok(_) | Err(_) if Instant::now() < until => thread::sleep(ASK_EVERY),
            Ok(_) => bail!("kernel {id} was not restarted in time (--wait)"),
            Err(why) => return Err(why.context(format!("kernel {id} did not come back in time (--wait)"))),
        }
    };
    let (had, has) = (file["entry_count"].as_u64(), status["ledger"]["entries"].as_u64());
    ensure!(has >= had, "kernel {id} came back with {has:?} entries and had {had:?}: keep the exported evidence");
    let same = has == had && status["ledger"]["root_hash"] != file["root_hash"];
    ensure!(!same, "kernel {id} came back with another root hash: keep the exported evidence");
    client.get_json(&format!("/kernels/{id}/health/check"))
}

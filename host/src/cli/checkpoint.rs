//! `gavel checkpoint`: what a ledger says of itself, and whose signature that bears.

use super::Outcome;
use super::client::Remote;
use super::output::{line, print_json};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::io::Write;

/// Show a kernel's latest signed checkpoint, or its key; or have a new key sign from now on.
///
/// Keep both where the operator of the server cannot reach: a checkpoint that you kept is what a ledger that was rolled
/// back is caught with, and the key is what evidence is verified with. A rotation is a record of the ledger that the old
/// key still signs: whoever trusts the old key is led to the new one by `gavel verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel checkpoint > kept/2026-01-05.note
  gavel checkpoint --show-key > default.vkey
  gavel checkpoint --rotate --why 'yearly'")]
pub(super) struct Args {
    /// Print the key instead: NAME+ID+KEY.
    #[arg(long, conflicts_with = "rotate")]
    show_key: bool,
    /// Make a new key and have it sign from now on.
    #[arg(long)]
    rotate: bool,
    /// Why it is rotated; goes into the ledger.
    #[arg(long, default_value = "", requires = "rotate")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let client = args.remote.client()?;
    if args.rotate {
        let answer = client.post("/checkpoint/rotate", json!({"why": args.why}).to_string().as_bytes())?.accepted()?;
        if as_json {
            print_json(&answer)?;
        } else {
            let text = |key: &str| answer[key].as_str().unwrap_or("-").to_owned();
            line(&format!("kernel {}: a new key signs from now on", text("kernel_id")))?;
            line(&format!("  old  {}", text("old")))?;
            line(&format!("  new  {}", text("key")))?;
        }
        return Ok(Outcome::Yes);
    }
    let route = if args.show_key { "/checkpoint/key" } else { "/checkpoint" };
    let mut response = client.get(route)?;
    let text = response.body_mut().read_to_string().context("the answer broke off")?;
    ensure!(response.status().is_success(), "the server answered {}: {text}", response.status());
    if as_json {
        print_json(&if args.show_key { json!({"key": text.trim_end()}) } else { json!({"checkpoint": text}) })?;
    } else {
        std::io::stdout().lock().write_all(text.as_bytes())?;
    }
    Ok(Outcome::Yes)
}

//! `gavel key`: make a key for a caller.

use super::Outcome;
use super::output::{line, note, print_json};
use crate::config::{KeyFile, Role};
use crate::http::auth::digest_of;
use anyhow::{Result, ensure};
use serde_json::json;

/// Make a key. It is shown once; the configuration gets its hash only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel key --name agent-001 --role agent --actor agent-001
  gavel key --name on-call --role operator --role auditor")]
pub(super) struct Args {
    /// Whose key it is; appears in the record.
    #[arg(long)]
    name: String,
    /// What it may do; may be given more than once.
    #[arg(long = "role", required = true)]
    roles: Vec<Role>,
    /// The actor that an agent's key speaks for.
    #[arg(long)]
    actor: Option<String>,
    /// A kernel that it may reach; may be given more than once. Default: all.
    #[arg(long = "kernel", value_name = "ID")]
    kernels: Vec<String>,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    ensure!(
        !args.roles.contains(&Role::Agent) || args.actor.is_some(),
        "an agent's key needs --actor, the actor that it speaks for"
    );
    let key = format!("gavel_{}", random_hex(32)?);
    let entry = KeyFile {
        name: args.name.clone(),
        hash: format!("sha256:{}", hex::encode(digest_of(&key))),
        roles: args.roles.clone(),
        actor: args.actor.clone(),
        kernels: (!args.kernels.is_empty()).then(|| args.kernels.clone()),
    };
    if as_json {
        print_json(&json!({"key": key, "configuration": entry}))?;
        return Ok(Outcome::Yes);
    }
    note("The key, shown only now. Give it to its holder:");
    line(&key)?;
    note("\nIts entry for `auth.keys` in the configuration:");
    line(&format!("  - {}", serde_json::to_string(&entry)?))?;
    Ok(Outcome::Yes)
}

/// So many random bytes as hex.
pub(super) fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|why| anyhow::anyhow!("no randomness to be had: {why}"))?;
    Ok(hex::encode(random))
}

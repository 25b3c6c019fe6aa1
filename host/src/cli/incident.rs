//! `gavel incident` and `gavel recover`: what happened, whether it is over, and the kernel that comes after it.

use super::Outcome;
use super::client::Remote;
use super::kernel::{of, send, tell, text};
use super::output::{line, print_json, shown};
use super::policy::subject::read_value;
use crate::clock::rfc3339;
use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::PathBuf;

/// See, open and resolve the incidents of a running server.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel incident list
  gavel incident open --kernel prod --reason \"denials rose tenfold\"
  gavel incident resolve inc-20260105T100000Z-1 --why \"the key of agent-007 was stolen; it is revoked\"")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(ListArgs),
    Open(OpenArgs),
    Resolve(ResolveArgs),
}

/// Show the incidents, oldest first.
#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Open an incident of a kernel (`--kernel`; the server's first one if not given).
#[derive(Debug, clap::Args)]
struct OpenArgs {
    /// What was seen.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

/// Mark an incident as resolved; only then can its kernel be recovered.
#[derive(Debug, clap::Args)]
struct ResolveArgs {
    /// The incident.
    incident: String,
    /// What it was, and what was done.
    #[arg(long, value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

/// After an incident: a new kernel in the place of the halted one, tried before traffic comes to it, and watched closely.
///
/// The kernel must be halted and the incident resolved.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  gavel incident resolve inc-20260105T100000Z-1 --why \"key revoked\"
  gavel recover prod --incident inc-20260105T100000Z-1 --policy updates.yaml")]
pub(super) struct RecoverArgs {
    /// The name that clients use.
    name: String,
    /// The incident.
    #[arg(long, value_name = "ID")]
    incident: String,
    /// Keys of the jurisdiction policy that change (YAML or JSON).
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How long it is watched closely. Default: the configuration's `monitoring.hours`.
    #[arg(long)]
    hours: Option<u64>,
    /// The id of the new kernel. Default: the name and a number.
    #[arg(long)]
    id: Option<String>,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let incident = match &args.command {
        Command::List(args) => return list(&args.remote, as_json),
        Command::Open(args) => {
            let body = json!({"kernel": args.remote.kernel, "reason": args.reason});
            send(&of(&args.remote, None).client()?, "/incidents", &body)?
        }
        Command::Resolve(args) => {
            let route = format!("/incidents/{}/resolve", args.incident);
            send(&of(&args.remote, None).client()?, &route, &json!({"why": args.why}))?
        }
    };
    if as_json {
        print_json(&incident)?;
    } else {
        print(&incident)?;
    }
    Ok(Outcome::Yes)
}

pub(super) fn recover(args: &RecoverArgs, as_json: bool) -> Result<Outcome> {
    let mut body = json!({"incident": args.incident, "hours": args.hours, "id": args.id, "why": args.why});
    if let Some(path) = &args.policy {
        body["policy"] = read_value(Some(path))?;
    }
    tell(&send(&of(&args.remote, Some(&args.name)).client()?, "/recover", &body)?, as_json)
}

fn list(remote: &Remote, as_json: bool) -> Result<Outcome> {
    let told = of(remote, None).client()?.get_json("/incidents")?;
    if as_json {
        print_json(&told)?;
        return Ok(Outcome::Yes);
    }
    let incidents = told["incidents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if incidents.is_empty() {
        line("no incidents")?;
    }
    incidents.iter().try_for_each(print)?;
    Ok(Outcome::Yes)
}

fn print(incident: &Value) -> Result<()> {
    let time = incident["opened_at_ms"].as_u64().map(rfc3339).unwrap_or_default();
    let (id, status) = (text(&incident["incident_id"]), text(&incident["status"]));
    line(&format!("{id}  {status}  {}  kernel {}  {time}", text(&incident["type"]), text(&incident["kernel_id"])))?;
    line(&format!("    {}: {}", shown(text(&incident["opened_by"]), 60), shown(text(&incident["reason"]), 200)))?;
    if let Some(how) = incident["resolution"]["why"].as_str() {
        line(&format!("    {}: {}", shown(text(&incident["resolution"]["who"]), 60), shown(how, 200)))?;
    }
    Ok(())
}

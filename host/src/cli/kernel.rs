//! `gavel kernel`: the kernels of a running server, replaced, rolled back, given another policy, added.

use super::Outcome;
use super::client::{Client, Remote};
use super::kernel_run::{self, RunArgs};
use super::output::{line, print_json, shown};
use super::policy::subject::read_value;
use crate::config::{self, DIGEST_PREFIX, File};
use crate::fleet::definition::Definition;
use crate::policies::builtin;
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// See, replace, roll back, update and add the kernels of a running server.
///
/// Kernels are replaced, not restarted: another kernel, with a ledger of its own, answers under the same name. No
/// request fails meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kernel list
  gavel kernel replace prod --config gavel.yaml --why \"new limits\"
  gavel kernel rollback prod --why \"too strict\"
  gavel kernel update prod --policy policy.yaml --why \"agent-003 joins\"
  gavel kernel add prod-002 --like prod
  gavel kernel run message_bus --listen 127.0.0.1:8100     (one kernel of a fleet)")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(ListArgs),
    Replace(ReplaceArgs),
    Rollback(RollbackArgs),
    Update(UpdateArgs),
    Add(AddArgs),
    Run(RunArgs),
}

/// Show the kernels: names, which kernel answers under each, and which did before.
#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Have a new kernel answer under a name: verified, tried, and switched to without a failed request.
///
/// Without a file it is made of the same as the one that it replaces.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kernel replace prod --why \"archive the evidence\"
  gavel kernel replace prod --config gavel.yaml
  gavel kernel replace prod --policy policy.yaml --id prod-2026-07")]
struct ReplaceArgs {
    /// The name that clients use.
    name: String,
    /// Make it as this configuration (YAML) says of the name, or of its one kernel.
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    config: Option<PathBuf>,
    /// The same, but with this jurisdiction policy (YAML or JSON).
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Have a new kernel answer that is made of what served before. Twice is back where it was.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kernel rollback prod --why \"too strict\"
  gavel kernel rollback prod --full")]
struct RollbackArgs {
    /// The name that clients use.
    name: String,
    /// Put the server's configuration file back too, from the copy that was kept.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Judge by another jurisdiction policy from now on, in the same kernel and ledger.
///
/// The policy in force is kept in `backup` in the data folder. Custom rules that the file does not name stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gavel kernel update prod --policy policy.yaml --why \"agent-003 joins\"")]
struct UpdateArgs {
    /// The name that clients use.
    name: String,
    /// The jurisdiction policy (YAML or JSON).
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

/// Serve a kernel of another name, with a ledger of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kernel add prod-002 --like prod
  gavel kernel add audit --config audit.yaml")]
struct AddArgs {
    /// The name that clients will use.
    name: String,
    /// Made of the same as this one. Default: the server's first.
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    like: Option<String>,
    /// Made as this configuration (YAML) says of the name, or of its one kernel.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// With this jurisdiction policy (YAML or JSON).
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
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
    let told = match &args.command {
        Command::List(args) => return list(&args.remote, as_json),
        Command::Replace(args) => replace(args)?,
        Command::Rollback(args) => {
            let body = json!({"full": args.full, "id": args.change.id, "why": args.change.why});
            send(&of(&args.change.remote, Some(&args.name)).client()?, "/rollback", &body)?
        }
        Command::Update(args) => {
            let body = json!({"policy": read_value(Some(&args.policy))?, "why": args.why});
            send(&of(&args.remote, Some(&args.name)).client()?, "/policy", &body)?
        }
        Command::Add(args) => add(args)?,
        Command::Run(args) => return kernel_run::run(args),
    };
    tell(&told, as_json)
}

/// The server that is meant, and the kernel on it.
pub(super) fn of(remote: &Remote, name: Option<&str>) -> Remote {
    Remote { kernel: name.map(str::to_owned), ..remote.clone() }
}

pub(super) fn send(client: &Client, route: &str, body: &Value) -> Result<Value> {
    client.post(route, body.to_string().as_bytes())?.accepted()
}

fn replace(args: &ReplaceArgs) -> Result<Value> {
    let client = of(&args.change.remote, Some(&args.name)).client()?;
    let mut body = json!({"id": args.change.id, "why": args.change.why});
    if let Some(path) = &args.config {
        body["definition"] = json!(definition(&client, path, &args.name)?);
    }
    if let Some(path) = &args.policy {
        body["policy"] = read_value(Some(path))?;
    }
    send(&client, "/replace", &body)
}

fn add(args: &AddArgs) -> Result<Value> {
    let client = of(&args.remote, None).client()?;
    let mut body = json!({"name": args.name, "like": args.like, "why": args.why});
    if let Some(path) = &args.config {
        body["definition"] = json!(definition(&client, path, &args.name)?);
    }
    if let Some(path) = &args.policy {
        body["policy"] = read_value(Some(path))?;
    }
    send(&client, "/kernels", &body)
}

/// What a configuration file says of the kernel `name`; its components are uploaded.
fn definition(client: &Client, path: &Path, name: &str) -> Result<Definition> {
    let File { kernels, mut policies, .. } = config::read(path)?;
    let mut found = match (kernels.iter().find(|kernel| kernel.id == name), kernels.as_slice()) {
        (Some(found), _) | (None, [found]) => found.clone(),
        (None, all) => {
            let ids: Vec<&str> = all.iter().map(|kernel| kernel.id.as_str()).collect();
            bail!("{}: there is no kernel `{name}` in it, only {}", path.display(), ids.join(", "))
        }
    };
    if let Some(watch) = &mut found.watch {
        watch.folder = std::path::absolute(&watch.folder)?;
    }
    let rules = found.policy.as_ref().map_or(&[][..], |policy| &policy.custom_rules);
    policies.retain(|name, _| rules.contains(name));
    for (name, policy) in &mut policies {
        let Some(component) = &policy.component else { continue };
        if !component.starts_with(builtin::PREFIX) && !component.starts_with(DIGEST_PREFIX) {
            let bytes = std::fs::read(component).with_context(|| format!("policy {name}: {component}"))?;
            let answer = client.post("/policies/components", &bytes)?.accepted()?;
            let digest = answer["component"].as_str().context("the server did not say the component's digest")?;
            policy.component = Some(digest.to_owned());
        }
    }
    Ok(Definition { kernel: found, policies }.named(name))
}

fn list(remote: &Remote, as_json: bool) -> Result<Outcome> {
    let told = of(remote, None).client()?.get_json("/kernels")?;
    if as_json {
        print_json(&told)?;
        return Ok(Outcome::Yes);
    }
    for kernel in told["kernels"].as_array().into_iter().flatten() {
        let (name, id) = (text(&kernel["name"]), text(&kernel["kernel_id"]));
        line(&format!("{name:<24} {:<14} {:<8} {id}", text(&kernel["variant"]), text(&kernel["state"])))?;
        for before in kernel["predecessors"].as_array().into_iter().flatten() {
            let (id, stage) = (text(&before["kernel_id"]), text(&before["stage"]));
            let entries = before["entries"].as_u64().map(|entries| format!(", {entries} entries")).unwrap_or_default();
            line(&format!("  before: {id} ({stage}{entries}), replaced by {}", text(&before["replaced_by"])))?;
        }
    }
    Ok(Outcome::Yes)
}

pub(super) fn tell(told: &Value, as_json: bool) -> Result<Outcome> {
    if as_json {
        print_json(told)?;
        return Ok(Outcome::Yes);
    }
    let (name, id) = (text(&told["name"]), text(&told["kernel_id"]));
    line(&format!("{name} is served by kernel {id}, {}", text(&told["kernel_state"])))?;
    if let Some(old) = told["replaces"].as_str() {
        let evidence = &told["evidence"];
        line(&format!(
            "  replaces  {old}, verified: {} entries, {}",
            evidence["entries"],
            text(&evidence["root_hash"])
        ))?;
    }
    if let Some(smoke) = told["smoke"]["decision"].as_str() {
        line(&format!("  smoke     {smoke}  {}", shown(text(&told["smoke"]["error"]), 120)))?;
    }
    for (label, key) in [("policy", "jurisdiction"), ("before", "previous"), ("backup", "backup"), ("like", "like")] {
        if let Some(value) = told[key].as_str() {
            line(&format!("  {label:<9} {value}"))?;
        }
    }
    if let Some(until_ms) = told["enhanced_monitoring_until_ms"].as_u64() {
        line(&format!("  watched closely until {}", crate::clock::rfc3339(until_ms)))?;
    }
    Ok(Outcome::Yes)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

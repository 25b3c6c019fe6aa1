//! `gavel policy deploy`: a component into a running kernel.

use super::super::Outcome;
use super::super::client::{Client, Remote};
use super::super::output::{line, print_json};
use super::life::print_status;
use super::subject::{Subject, read_value};
use crate::policies::builtin;
use anyhow::{Context, Result};
use gavel_runtime::Limits;
use serde_json::json;
use std::path::PathBuf;

/// Bring a policy into a running kernel: upload, check, test, and try it.
///
/// The candidate is the serving set with this policy in it. The server checks its signature, its
/// needs and its configuration, compiles it and runs the tests it ships; what serves goes on
/// serving meanwhile. `--shadow` shows it the traffic and counts what it would decide otherwise,
/// `--canary N` lets it decide for N % of the requests, `--promote` lets it serve.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy deploy build/no-deletes.wasm --shadow --why \"deletes were not meant\"
  gavel policy deploy builtin:rate-limit --config rate.yaml --canary 10
  gavel policy deploy . --grant --promote")]
pub(super) struct Args {
    /// A component, a policy's project, or `builtin:NAME`.
    policy: String,
    /// Its name in the set. Default: the name in its manifest, or of its file.
    #[arg(long)]
    name: Option<String>,
    /// Its configuration (YAML or JSON). Default: that of the policy it replaces.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Grant what its manifest asks for. Default: the limits of the policy it replaces.
    #[arg(long)]
    grant: bool,
    /// It sees the traffic and decides nothing.
    #[arg(long, group = "trial")]
    shadow: bool,
    /// It decides for this share of the requests, in per cent.
    #[arg(long, group = "trial", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    canary: Option<u8>,
    /// It serves.
    #[arg(long, group = "trial")]
    promote: bool,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let client = args.remote.client()?;
    let subject = Subject::open(&args.policy)?;
    let component = match args.policy.strip_prefix(builtin::PREFIX) {
        // The server has it.
        Some(_) => args.policy.clone(),
        None => upload(&client, &subject.package.to_bytes())?,
    };
    let mode = match (args.shadow, args.canary) {
        (true, _) => json!("shadow"),
        (_, Some(percent)) => json!({"canary": percent}),
        _ => json!("staged"),
    };
    let mut edit = json!({"name": args.name.clone().unwrap_or_else(|| subject.name()), "component": component});
    if let Some(path) = &args.config {
        edit["config"] = read_value(Some(path))?;
    }
    if args.grant {
        edit["limits"] = json!(subject.needs().granted_over(Limits::default()));
    }
    let body = json!({"edits": [edit], "mode": mode, "why": args.why});
    let mut status = client.post("/policies/stage", body.to_string().as_bytes())?.accepted()?;
    if args.promote {
        let body = json!({"candidate": status["candidate"]["set"], "why": args.why});
        status = client.post("/policies/promote", body.to_string().as_bytes())?.accepted()?;
    }
    if as_json {
        print_json(&status)?;
        return Ok(Outcome::Yes);
    }
    print_status(&status)?;
    if !args.promote {
        line(
            "next: `gavel policy differences`, `gavel policy try --canary 10`, `gavel policy promote`, `gavel policy discard`",
        )?;
    }
    Ok(Outcome::Yes)
}

fn upload(client: &Client, bytes: &[u8]) -> Result<String> {
    let answer = client.post("/policies/components", bytes)?.accepted()?;
    let component = answer["component"].as_str().context("the server did not say the component's digest")?;
    Ok(component.to_owned())
}

//! `gavel submit`: one request to a server.

use super::client::Remote;
use super::output::{line, print_json, shown};
use super::{Outcome, output};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::Read;

/// Submit one request to a server and print its receipt.
///
/// Exit code 0: accepted. 1: denied or failed. 2: not judged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel submit --actor agent-001 --intent 'Read the notes' --tool read_file --params '{\"path\": \"notes.txt\"}'
  gavel submit request.json
  echo '{\"request_id\": \"r1\", \"actor\": \"a\", \"intent\": \"Say hello\"}' | gavel submit -")]
pub(super) struct Args {
    /// A file with the request as JSON, `-` for standard input.
    #[arg(value_name = "FILE", conflicts_with_all = ["actor", "intent", "tool", "params"])]
    file: Option<String>,
    /// Who asks.
    #[arg(long, required_unless_present = "file")]
    actor: Option<String>,
    /// What for.
    #[arg(long, required_unless_present = "file")]
    intent: Option<String>,
    /// The tool to call.
    #[arg(long)]
    tool: Option<String>,
    /// The tool's parameters, a JSON object.
    #[arg(long, requires = "tool", value_name = "JSON")]
    params: Option<String>,
    /// The request's id; made up if not given.
    #[arg(long)]
    id: Option<String>,
    /// Judge and record only, run nothing.
    #[arg(long)]
    decide: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let body = match &args.file {
        Some(path) => read_file(path)?,
        None => compose(args)?.to_string().into_bytes(),
    };
    let receipt = args.remote.client()?.post(if args.decide { "/decide" } else { "/submit" }, &body)?.accepted()?;
    let accepted = receipt["status"] == "ACCEPTED";
    if as_json {
        print_json(&receipt)?;
    } else {
        print_receipt(&receipt)?;
    }
    Ok(if accepted { Outcome::Yes } else { Outcome::No })
}

fn read_file(path: &str) -> Result<Vec<u8>> {
    if path == "-" {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body)?;
        return Ok(body);
    }
    std::fs::read(path).with_context(|| path.to_owned())
}

fn compose(args: &Args) -> Result<Value> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => format!("cli-{}", super::key::random_hex(8)?),
    };
    let mut request = json!({"request_id": id, "actor": args.actor, "intent": args.intent});
    if let Some(tool) = &args.tool {
        let params = args.params.as_deref().unwrap_or("{}");
        let params: Value = serde_json::from_str(params).context("--params is not JSON")?;
        request["tool_call"] = json!({"name": tool, "params": params});
    }
    Ok(request)
}

fn print_receipt(receipt: &Value) -> Result<()> {
    let field = |name: &str| receipt[name].as_str().unwrap_or("-").to_owned();
    line(&format!("{} {}  {}", field("decision"), field("status"), shown(&field("request_id"), 200)))?;
    if let Some(error) = receipt["error"].as_str() {
        line(&format!("  reason    {}", shown(error, 1_000)))?;
    }
    if !receipt["tool_result"].is_null() {
        line(&format!("  result    {}", output::shown(&receipt["tool_result"].to_string(), 1_000)))?;
    }
    if let Some(approval) = receipt["approval"].as_object() {
        let part = |name: &str| approval.get(name).and_then(Value::as_str).unwrap_or_default();
        let by = if part("by").is_empty() { String::new() } else { format!(" by {}", shown(part("by"), 60)) };
        let told = format!("  approval  {} {}{by} {}", part("id"), part("state"), shown(part("reason"), 200));
        line(told.trim_end())?;
    }
    line(&format!("  evidence  {}", field("evidence_hash")))
}

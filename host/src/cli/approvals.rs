//! `gavel approvals`: what waits for a human, and the human's word.

use super::Outcome;
use super::client::{Client, Remote};
use super::find::encoded;
use super::kernel::{send, text};
use super::output::{line, note, print_json, shown};
use crate::clock::rfc3339;
use anyhow::{Result, ensure};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// See, approve and reject what a policy escalated to a human.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel approvals list
  gavel approvals list --watch --actor agent-001
  gavel approvals show apr-0c4f2e9a77b1d5e38f60
  gavel approvals approve apr-0c4f2e9a77b1d5e38f60 --reason \"the invoice is in the mail of 5 May\"
  gavel approvals reject apr-0c4f2e9a77b1d5e38f60 --reason \"nobody ordered this\"")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Approve(WordArgs),
    Reject(WordArgs),
}

/// The states that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Waiting,
    Approved,
    Rejected,
    Expired,
    Used,
    All,
}

/// Show what waits, oldest first.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// In which state.
    #[arg(long, value_enum, default_value_t = State::Waiting)]
    state: State,
    /// Of this actor.
    #[arg(long)]
    actor: Option<String>,
    /// For this tool.
    #[arg(long)]
    tool: Option<String>,
    /// Go on and show each that comes, until interrupted.
    #[arg(long)]
    watch: bool,
    /// How often to look, in milliseconds.
    #[arg(long, default_value_t = 1_000, value_name = "MS", requires = "watch",
          value_parser = clap::value_parser!(u64).range(100..=600_000))]
    every_ms: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Show one, with what was asked as the ledger has it.
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The approval.
    approval: String,
    /// Wait so long for a word, in milliseconds; the server's own limit counts too.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    wait_ms: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Say a word; it is in the ledger before it counts.
#[derive(Debug, clap::Args)]
struct WordArgs {
    /// The approval.
    approval: String,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    match &args.command {
        Command::List(args) if args.watch => watch(args, as_json),
        Command::List(args) => list(args, as_json),
        Command::Show(args) => {
            let route = format!("/approvals/{}?wait_ms={}", checked(&args.approval)?, args.wait_ms);
            tell(&args.remote.client()?.get_json(&route)?, as_json)
        }
        Command::Approve(args) => say(args, "approve", as_json),
        Command::Reject(args) => say(args, "reject", as_json),
    }
}

fn say(args: &WordArgs, word: &str, as_json: bool) -> Result<Outcome> {
    let route = format!("/approvals/{}/{word}", checked(&args.approval)?);
    tell(&send(&args.remote.client()?, &route, &json!({"reason": args.reason}))?, as_json)
}

/// An id becomes a part of a path.
fn checked(approval: &str) -> Result<&str> {
    let plain = approval.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    ensure!(plain && !approval.is_empty(), "'{}' is no approval: `gavel approvals list`", shown(approval, 64));
    Ok(approval)
}

fn tell(approval: &Value, as_json: bool) -> Result<Outcome> {
    if as_json {
        print_json(approval)?;
    } else {
        print(approval)?;
        print_request(approval)?;
    }
    Ok(Outcome::Yes)
}

fn list(args: &ListArgs, as_json: bool) -> Result<Outcome> {
    let approvals = all(args, &args.remote.client()?)?;
    if as_json {
        print_json(&json!({"approvals": approvals}))?;
        return Ok(Outcome::Yes);
    }
    if approvals.is_empty() {
        line("nothing waits for an approval")?;
    }
    approvals.iter().try_for_each(print)?;
    Ok(Outcome::Yes)
}

/// Show each once in each state, as a line of JSON or as text.
fn watch(args: &ListArgs, as_json: bool) -> Result<Outcome> {
    let client = args.remote.client()?;
    note("watching; interrupt to end");
    let mut known = BTreeSet::new();
    loop {
        let mut present = BTreeSet::new();
        for approval in all(args, &client)? {
            let name = (text(&approval["id"]).to_owned(), text(&approval["state"]).to_owned());
            if !known.contains(&name) {
                if as_json {
                    line(&approval.to_string())?;
                } else {
                    print(&approval)?;
                }
            }
            present.insert(name);
        }
        known = present;
        std::thread::sleep(Duration::from_millis(args.every_ms));
    }
}

/// All pages.
fn all(args: &ListArgs, client: &Client) -> Result<Vec<Value>> {
    let (mut approvals, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let route = format!("/approvals?{}", query(args, cursor.as_deref()));
        let mut page = client.get_json(&route)?;
        approvals.extend(page["approvals"].as_array_mut().map(std::mem::take).unwrap_or_default());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(approvals);
        }
    }
}

fn query(args: &ListArgs, cursor: Option<&str>) -> String {
    let state = match args.state {
        State::All => None,
        state => state.to_possible_value().map(|value| value.get_name().to_owned()),
    };
    let asked = [
        ("state", state.as_deref()),
        ("actor", args.actor.as_deref()),
        ("tool", args.tool.as_deref()),
        ("cursor", cursor),
    ];
    let given = asked.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value?))));
    given.collect::<Vec<_>>().join("&")
}

fn print(approval: &Value) -> Result<()> {
    let time = |name: &str| approval[name].as_u64().map(rfc3339).unwrap_or_default();
    let (id, state) = (text(&approval["id"]), text(&approval["state"]));
    let void = if approval["void"] == json!(true) { ", void: the policies changed" } else { "" };
    let tool = approval["tool"].as_str().map(|tool| format!("  {}", shown(tool, 60))).unwrap_or_default();
    line(&format!("{id}  {state}{void}  {}{tool}  until {}", shown(text(&approval["actor"]), 60), time("expires_ms")))?;
    line(&format!("    intent: {}", shown(text(&approval["intent"]), 200)))?;
    for cause in approval["reasons"].as_array().into_iter().flatten() {
        line(&format!("    {}: {}", shown(text(&cause["policy"]), 60), shown(text(&cause["reason"]), 200)))?;
    }
    if let Some(word) = approval["word"].as_object() {
        let what = if word["approved"] == json!(true) { "approved" } else { "rejected" };
        line(&format!("    {what} by {}: {}", shown(text(&word["by"]), 60), shown(text(&word["reason"]), 200)))?;
    }
    Ok(())
}

fn print_request(approval: &Value) -> Result<()> {
    if let Some(why) = approval["request_not_shown"].as_str() {
        return line(&format!("    arguments are not shown ({why}), SHA-256 {}", text(&approval["arguments_digest"])));
    }
    let request = &approval["request"];
    for (label, value) in [
        ("arguments", &request["tool_call"]["params"]),
        ("params", &request["params"]),
        ("evidence", &request["evidence"]),
        ("constraints", &request["constraints"]),
    ] {
        let nothing = value.is_null() || *value == json!({}) || *value == json!([]);
        if !nothing {
            line(&format!("    {label}: {}", shown(&value.to_string(), 4_000)))?;
        }
    }
    Ok(())
}

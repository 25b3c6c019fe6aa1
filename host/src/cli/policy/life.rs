//! `gavel policy status|try|promote|rollback|discard|release|differences|history`: the operator's
//! side of the life of a policy set.

use super::super::Outcome;
use super::super::client::Remote;
use super::super::output::{line, print_json, shown};
use crate::clock::rfc3339;
use crate::host::ledger_folder;
use crate::policies::history::{Step, steps};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Show what a kernel judges by: the serving set, the one before, a candidate; with their health.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Put the candidate into the shadow, or let it decide for a share of the requests.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gavel policy try --shadow\n  gavel policy try --canary 25 --why \"no differences in a day\""
)]
pub(super) struct TryArgs {
    /// It sees the traffic and decides nothing.
    #[arg(long, required_unless_present = "canary", conflicts_with = "canary")]
    shadow: bool,
    /// It decides for this share of the requests, in per cent.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    canary: Option<u8>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Let the candidate serve. What served before stays ready for `rollback`.
#[derive(Debug, clap::Args)]
pub(super) struct PromoteArgs {
    /// Only if the candidate is the set with this digest.
    #[arg(long, value_name = "DIGEST")]
    candidate: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Let what served before serve again, at once. Twice is back where it was.
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

/// Drop the candidate.
#[derive(Debug, clap::Args)]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

/// Ask a policy again that was put into quarantine.
#[derive(Debug, clap::Args)]
pub(super) struct ReleaseArgs {
    /// The policy's name.
    policy: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Show what the candidate would have decided otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct DifferencesArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Show every step in the life of a kernel's policies: what, when, who, why, and which sets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy history
  gavel policy history --ledger ~/.local/share/gavel/kernels/default/ledger")]
pub(super) struct HistoryArgs {
    /// Read it from this ledger's folder, which is verified, rather than from a server.
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    remote: Remote,
}

/// Steps that are read from a ledger: the latest.
const STEPS_MAX: usize = 100_000;

pub(super) fn status(args: &StatusArgs, as_json: bool) -> Result<Outcome> {
    tell(&args.remote.client()?.get_json("/policies")?, as_json)
}

pub(super) fn try_candidate(args: &TryArgs, as_json: bool) -> Result<Outcome> {
    let mode = args.canary.map_or(json!("shadow"), |percent| json!({"canary": percent}));
    args.change.send("/policies/try", json!({"mode": mode}), as_json)
}

pub(super) fn promote(args: &PromoteArgs, as_json: bool) -> Result<Outcome> {
    args.change.send("/policies/promote", json!({"candidate": args.candidate}), as_json)
}

pub(super) fn roll_back(args: &RollbackArgs, as_json: bool) -> Result<Outcome> {
    args.change.send("/policies/rollback", json!({}), as_json)
}

pub(super) fn discard(args: &DiscardArgs, as_json: bool) -> Result<Outcome> {
    args.change.send("/policies/discard", json!({}), as_json)
}

pub(super) fn release(args: &ReleaseArgs, as_json: bool) -> Result<Outcome> {
    args.change.send("/policies/release", json!({"policy": args.policy}), as_json)
}

impl ChangeArgs {
    fn send(&self, route: &str, mut body: Value, as_json: bool) -> Result<Outcome> {
        body["why"] = json!(self.why);
        let status = self.remote.client()?.post(route, body.to_string().as_bytes())?.accepted()?;
        tell(&status, as_json)
    }
}

fn tell(status: &Value, as_json: bool) -> Result<Outcome> {
    if as_json {
        print_json(status)?;
    } else {
        print_status(status)?;
    }
    Ok(Outcome::Yes)
}

/// What a kernel judges by, for people.
pub(super) fn print_status(status: &Value) -> Result<()> {
    line(&format!("kernel {}", text(&status["kernel_id"])))?;
    for (role, set) in ["serving", "candidate", "previous"].map(|role| (role, &status[role])) {
        if set.is_null() {
            continue;
        }
        let trial = match &set["trial"] {
            Value::Null => String::new(),
            Value::String(mode) => format!("  ({mode})"),
            mode => format!("  (canary, {} %)", mode["canary"]),
        };
        line(&format!("  {role:<9} {}{trial}", text(&set["set"])))?;
        if let Some(seen) = set["shadow"]["seen"].as_u64().filter(|seen| *seen > 0) {
            let shadow = &set["shadow"];
            line(&format!(
                "            judged {seen} beside the serving set, {} otherwise; {} not shown",
                shadow["differing"], shadow["missed"]
            ))?;
        }
        for policy in set["policies"].as_array().into_iter().flatten().filter(|_| role != "previous") {
            print_policy(policy)?;
        }
    }
    Ok(())
}

fn print_policy(policy: &Value) -> Result<()> {
    let health = &policy["health"];
    line(&format!("    {:<24} {:<9} {}", text(&policy["name"]), text(&policy["version"]), text(&policy["component"])))?;
    if health["calls"].as_u64().is_some_and(|calls| calls > 0) {
        let verdicts = health["verdicts"].as_object().into_iter().flatten();
        let verdicts: Vec<String> = verdicts.map(|(verdict, count)| format!("{count} {verdict}")).collect();
        line(&format!(
            "      {} calls: {}; p50 {} us, p99 {} us",
            health["calls"],
            verdicts.join(", "),
            health["p50_us"],
            health["p99_us"]
        ))?;
    }
    if let Some(why) = health["quarantined"]["why"].as_str() {
        line(&format!("      IN QUARANTINE: {}", shown(why, 300)))?;
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn differences(args: &DifferencesArgs, as_json: bool) -> Result<Outcome> {
    let told = args.remote.client()?.get_json("/policies/differences")?;
    if as_json {
        print_json(&told)?;
        return Ok(Outcome::Yes);
    }
    let tally = &told["tally"];
    line(&format!(
        "candidate {}: judged {}, {} otherwise; {} not shown",
        text(&told["candidate"]),
        tally["seen"],
        tally["differing"],
        tally["missed"]
    ))?;
    for difference in told["differences"].as_array().into_iter().flatten() {
        let tool = difference["tool"].as_str().unwrap_or("(intent only)");
        let (id, actor) = (shown(text(&difference["request_id"]), 60), shown(text(&difference["actor"]), 60));
        line(&format!("  {}  {id}  {actor}  {}", time(&difference["ts_ms"]), shown(tool, 60)))?;
        for side in ["serving", "candidate"] {
            let word = &difference[side];
            line(&format!("    {side:<9}  {} {}", text(&word["decision"]), shown(text(&word["reason"]), 200)))?;
        }
    }
    Ok(Outcome::Yes)
}

pub(super) fn history(args: &HistoryArgs, as_json: bool) -> Result<Outcome> {
    let steps = match &args.ledger {
        Some(ledger) => recorded(ledger)?,
        None => told(&args.remote)?,
    };
    if as_json {
        print_json(&json!({"steps": steps}))?;
        return Ok(Outcome::Yes);
    }
    if steps.is_empty() {
        line("no policies were ever configured")?;
    }
    for step in &steps {
        print_step(step)?;
    }
    Ok(Outcome::Yes)
}

fn told(remote: &Remote) -> Result<Vec<Step>> {
    let told = remote.client()?.get_json("/policies/history")?;
    serde_json::from_value(told["steps"].clone()).context("the server's answer is no history")
}

fn recorded(ledger: &Path) -> Result<Vec<Step>> {
    ensure!(ledger.is_dir(), "{}: no such folder", ledger.display());
    let folder = ledger_folder(ledger);
    let (_, records) = gavel_ledger::read_dir(&folder).with_context(|| folder.display().to_string())?;
    Ok(steps(records, STEPS_MAX)?)
}

fn print_step(step: &Step) -> Result<()> {
    let Step { index, ts_ms, action, who, why, old_set, new_set, policies, policy } = step;
    let about = policy.as_ref().map(|policy| format!(" {}", shown(policy, 60))).unwrap_or_default();
    let why = if why.is_empty() { String::new() } else { format!("  \"{}\"", shown(why, 200)) };
    line(&format!("{}  record {index}  {action}{about}  by {}{why}", rfc3339(*ts_ms), shown(who, 60)))?;
    if old_set == new_set {
        return line(&format!("    set {new_set}"));
    }
    line(&format!("    from {old_set}\n    to   {new_set}"))?;
    for member in policies {
        line(&format!("         {:<24} {}", text(&member["name"]), text(&member["component"])))?;
    }
    Ok(())
}

fn time(ts_ms: &Value) -> String {
    ts_ms.as_u64().map(rfc3339).unwrap_or_default()
}

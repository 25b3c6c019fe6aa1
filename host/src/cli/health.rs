//! `gavel health`: the daily health check.

use super::Outcome;
use super::client::{Client, Remote};
use super::output::{line, print_json, shown};
use anyhow::Result;
use serde_json::{Value, json};

/// Check that a kernel is well and that its ledger holds.
///
/// For cron: exit code 0 if every check passes, 1 if one does not, 2 if there is no answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel health
  gavel health --json --kernel prod-001
  gavel health --all
  5 6 * * *  gavel health --all --key \"$OPERATOR_KEY\" || mail -s 'gavel is not well' on-call   (crontab)")]
pub(super) struct Args {
    /// Check every kernel of the server that the key may reach.
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let client = args.remote.client()?;
    if args.all {
        return every_kernel(&client, as_json);
    }
    let report = client.get_json("/health/check")?;
    if as_json {
        print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(outcome_of(&report))
}

fn every_kernel(client: &Client, as_json: bool) -> Result<Outcome> {
    let known = client.get_json("/kernels")?;
    let ids = known["kernels"].as_array().into_iter().flatten().filter_map(|kernel| kernel["kernel_id"].as_str());
    let reports = ids.map(|id| client.get_json(&format!("/kernels/{id}/health/check")));
    let reports = reports.collect::<Result<Vec<Value>>>()?;
    let well = !reports.is_empty() && reports.iter().all(|report| outcome_of(report) == Outcome::Yes);
    if as_json {
        print_json(&json!({"all_passed": well, "kernels": reports}))?;
    } else {
        reports.iter().try_for_each(print)?;
    }
    Ok(if well { Outcome::Yes } else { Outcome::No })
}

/// Yes if every check passed.
pub(super) fn outcome_of(report: &Value) -> Outcome {
    if report["all_passed"] == true { Outcome::Yes } else { Outcome::No }
}

/// A report as lines, one for each check.
pub(super) fn print(report: &Value) -> Result<()> {
    let (kernel, at) = (report["kernel_id"].as_str().unwrap_or("-"), report["timestamp"].as_str().unwrap_or("-"));
    let word = if report["all_passed"] == true { "well" } else { "NOT WELL" };
    line(&format!("kernel {kernel} is {word}  ({at})"))?;
    for check in report["checks"].as_array().into_iter().flatten() {
        let word = if check["passed"] == true { "ok    " } else { "FAILED" };
        let name = check["name"].as_str().unwrap_or("-");
        let seen = check.as_object().into_iter().flatten();
        let seen = seen.filter(|(key, value)| !["name", "passed"].contains(&key.as_str()) && !is_nothing(value));
        let seen: Vec<String> =
            seen.map(|(key, value)| format!("{} {}", key.replace('_', " "), plain(value))).collect();
        line(format!("  {word}  {name:<22} {}", seen.join(", ")).trim_end())?;
    }
    Ok(())
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text, 500),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

//! `gavel heal`: have Guardian heal a kernel, and see what it did.

use super::Outcome;
use super::client::Answer;
use super::fleet::reach::{Where, duration_ms, in_path, print_steps};
use super::output::{line, print_json, shown};
use anyhow::Result;
use serde_json::{Value, json};

/// Heal a kernel of a fleet: the playbooks of the issue, in order, until one is seen to have helped.
///
/// Issues: `port_not_listening` (look, restart; the default), `connection_timeout` (look, clear, restart),
/// `connection_refused` (restart, clear), `port_conflict` (clear, rebind), `process_crashed` (restart),
/// `network_unreachable` and any other (look). Exit code 0 if the kernel was seen to be well at the end of a playbook, 1 if
/// not; a look alone never heals.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel heal audit_trail
  gavel heal audit_trail --issue port_conflict
  gavel heal audit_trail --playbook diagnose_network")]
pub(super) struct Args {
    /// The kernel.
    name: String,
    /// What is wrong with it. Default: `port_not_listening`.
    #[arg(long, value_name = "TYPE")]
    issue: Option<String>,
    /// This playbook and no other: `restart_component`, `clear_port`, `diagnose_network`, `rebind_port`.
    #[arg(long, value_name = "NAME")]
    playbook: Option<String>,
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let mut order = json!({"component_name": in_path(&args.name)?});
    for (key, value) in [("issue_type", &args.issue), ("action", &args.playbook)] {
        if let Some(value) = value {
            order[key] = json!(value);
        }
    }
    let client = args.at.client()?;
    let healing = client.post("/network-healer/heal", order.to_string().as_bytes()).and_then(Answer::accepted)?;
    if as_json {
        print_json(&healing)?;
    } else {
        print(&healing)?;
    }
    Ok(if healing["success"] == true { Outcome::Yes } else { Outcome::No })
}

fn print(healing: &Value) -> Result<()> {
    let text = |value: &Value| shown(value.as_str().unwrap_or("-"), 100);
    let result = &healing["healing_result"];
    line(&format!("{} on port {}: {}", text(&healing["component"]), healing["port"], text(&result["issue"]["type"])))?;
    for played in result["results"].as_array().into_iter().flatten() {
        let word = match (played["success"] == true, played["diagnosis"].is_object()) {
            (true, _) => "it is well",
            (false, true) => "looked",
            (false, false) => "did not help",
        };
        let took = duration_ms(played["took_ms"].as_f64().unwrap_or_default());
        line(&format!("  {}: {word}  ({took})", text(&played["playbook"])))?;
        print_steps(&played["steps"], "    ")?;
        for advice in played["recommendations"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            line(&format!("    -> {}", shown(advice, 500)))?;
        }
    }
    line(if healing["success"] == true { "healed" } else { "NOT HEALED" })
}

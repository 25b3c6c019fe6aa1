//! `gavel bus plugins`: who answers on the bus, and how well.

use super::reach::Where;
use super::top::{Plugin, bytes, duration};
use crate::cli::Outcome;
use crate::cli::output::{line, print_json, shown};
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// List the plugins of the bus; with a name, tell all about one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel bus plugins
  gavel bus plugins state_service
  gavel bus plugins --json | jq -r '.plugins[] | select(.state == \"circuit_open\") | .name'")]
pub(super) struct Args {
    /// Only this one, with everything that it says of itself.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    at: Where,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let plugins = args.at.open()?.plugins()?;
    let Some(name) = &args.name else {
        return if as_json { print_json(&json!({ "plugins": plugins })) } else { list(&plugins) }
            .map(|()| Outcome::Yes);
    };
    let Some(plugin) = plugins.iter().find(|plugin| plugin["name"] == **name) else {
        let names: Vec<&str> = plugins.iter().filter_map(|plugin| plugin["name"].as_str()).collect();
        bail!("there is no plugin '{name}'; there are {}", names.join(", "));
    };
    print_json(plugin)?;
    Ok(Outcome::Yes)
}

fn list(plugins: &[Value]) -> Result<()> {
    line(&format!(
        "{:<24} {:<10} {:<13} {:>10} {:>9} {:>9} {:>8} {:>10}  OWNS",
        "NAME", "VERSION", "STATE", "EVENTS", "P50", "P99", "ERRORS", "MEMORY"
    ))?;
    for plugin in plugins {
        let read = Plugin::read(plugin)?;
        let capabilities = &plugin["capabilities"];
        let names = |key: &str| capabilities[key].as_array().cloned().unwrap_or_default();
        let spaces = names("event_namespaces").into_iter().filter_map(|it| it.as_str().map(|it| format!("{it}:*")));
        let commands = names("commands").into_iter().filter_map(|it| it.as_str().map(str::to_owned));
        let owns: Vec<String> = spaces.chain(commands).collect();
        line(&format!(
            "{:<24} {:<10} {:<13} {:>10} {:>9} {:>9} {:>8} {:>10}  {}",
            shown(&read.name, 24),
            shown(plugin["version"].as_str().unwrap_or("-"), 10),
            read.state,
            read.events,
            duration(read.p50_ms),
            duration(read.p99_ms),
            read.errors,
            bytes(read.memory_bytes),
            shown(&owns.join(" "), 60),
        ))?;
    }
    Ok(())
}

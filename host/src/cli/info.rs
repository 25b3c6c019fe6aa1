//! `gavel info`: what this build is, or what a server is doing.

use super::Outcome;
use super::client::Remote;
use super::output::{line, print_json};
use crate::policies::builtin;
use crate::{host, tools};
use anyhow::Result;
use serde_json::{Value, json};

/// Show this build, or with --server a server's status.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gavel info\n  gavel info --server --kernel prod-001")]
pub(super) struct Args {
    /// Ask the server at --url.
    #[arg(long)]
    server: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let info = if args.server { args.remote.client()?.get_json("/status")? } else { build() };
    if as_json {
        print_json(&info)?;
    } else {
        print(&info, 0)?;
    }
    Ok(Outcome::Yes)
}

fn build() -> Value {
    let data = host::default_data_dir().map_or_else(|why| why.to_string(), |dir| dir.display().to_string());
    let names: Vec<&str> = builtin::names().collect();
    json!({
        "name": "gavel",
        "version": env!("CARGO_PKG_VERSION"),
        "contract": "gavel:policy@0.1.0",
        "variants": ["strict", "permissive", "evidence-first", "dual-channel"],
        "builtin_policies": names,
        "tools": tools::Toolbox::all_names(),
        "data_dir": data,
    })
}

/// An object as aligned lines, objects within it indented.
fn print(value: &Value, depth: usize) -> Result<()> {
    for (name, value) in value.as_object().into_iter().flatten() {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(_) => {
                line(&format!("{indent}{name}"))?;
                print(value, depth + 1)?;
            }
            Value::Array(items) => {
                let items: Vec<String> =
                    items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect();
                line(&format!("{indent}{name:<18} {}", items.join(", ")))?;
            }
            Value::String(text) => line(&format!("{indent}{name:<18} {text}"))?,
            Value::Null => line(&format!("{indent}{name:<18} -"))?,
            other => line(&format!("{indent}{name:<18} {other}"))?,
        }
    }
    Ok(())
}

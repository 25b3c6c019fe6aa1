//! `gavel init`: everything that a first deployment needs, in one folder.
//!
//! A commented configuration, keys for the operator and each agent, a systemd unit and an example of a
//! reverse proxy. Nothing that is there is written over.

use super::Outcome;
use super::key::random_hex;
use super::output::{line, print_json};
use crate::config::{self, KeyFile, Role};
use crate::http::auth::digest_of;
use anyhow::{Context, Result};
use serde_json::json;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const UNIT: &str = include_str!("../../../docs/deploy/gavel.service");
const PROXY: &str = include_str!("../../../docs/deploy/nginx.conf");
const CONFIGURATION: &str = include_str!("../../assets/deployment.yaml");

/// Write what a first deployment needs: gavel.yaml, keys, gavel.service, nginx.conf.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel init deployment
  gavel init deployment --kernel-id prod-001 --actor agent-001 --actor agent-002 --tool read_file --tool search")]
pub(super) struct Args {
    /// The folder, made if it is not there.
    dir: PathBuf,
    /// The kernel's id.
    #[arg(long, default_value = "prod-001", value_name = "ID")]
    kernel_id: String,
    /// An actor that may act; may be given more than once.
    #[arg(long = "actor", value_name = "NAME", default_values = ["agent-001", "agent-002"])]
    actors: Vec<String>,
    /// A tool that may be called; may be given more than once.
    #[arg(long = "tool", value_name = "NAME", default_values = ["read_file", "write_file", "search"])]
    tools: Vec<String>,
    /// Make no keys: then every caller on this machine has every role.
    #[arg(long)]
    no_keys: bool,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let keys = if args.no_keys { Vec::new() } else { make_keys(args)? };
    let text = configuration(args, &keys)?;
    let path = args.dir.join("gavel.yaml");
    // What is written must be what `gavel serve` takes.
    config::parse(&path, &text)?;
    DirBuilder::new().recursive(true).create(&args.dir).with_context(|| args.dir.display().to_string())?;
    let mut files = vec![(path, text, 0o640)];
    files.push((args.dir.join("gavel.service"), UNIT.to_owned(), 0o644));
    files.push((args.dir.join("nginx.conf"), PROXY.to_owned(), 0o644));
    let folder = args.dir.join("keys");
    for (key, secret) in &keys {
        files.push((folder.join(format!("{}.key", key.name)), format!("{secret}\n"), 0o600));
    }
    if !keys.is_empty() {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).with_context(|| folder.display().to_string())?;
    }
    for (path, _, _) in &files {
        anyhow::ensure!(!path.exists(), "{} is there already: nothing was written", path.display());
    }
    files.iter().try_for_each(|(path, text, mode)| write_new(path, text, *mode))?;
    report(&args.dir, &files.iter().map(|(path, _, _)| path.as_path()).collect::<Vec<_>>(), as_json)?;
    Ok(Outcome::Yes)
}

fn report(dir: &Path, files: &[&Path], as_json: bool) -> Result<()> {
    if as_json {
        return print_json(&json!({"files": files}));
    }
    files.iter().try_for_each(|path| line(&format!("  {}", path.display())))?;
    let config = dir.join("gavel.yaml");
    line("next:")?;
    line(&format!("  gavel smoke --config {0}\n  gavel serve --config {0}", config.display()))
}

/// The operator's key, and one for each actor.
fn make_keys(args: &Args) -> Result<Vec<(KeyFile, String)>> {
    let operator = ("operator".to_owned(), vec![Role::Operator, Role::Auditor], None);
    let agents = args.actors.iter().filter(|actor| *actor != "*");
    let agents = agents.map(|actor| (actor.clone(), vec![Role::Agent], Some(actor.clone())));
    let made = std::iter::once(operator).chain(agents).map(|(name, roles, actor)| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        anyhow::ensure!(
            plain && !name.starts_with('.'),
            "actor `{name}` cannot name a file: make its key by `gavel key`"
        );
        let secret = format!("gavel_{}", random_hex(32)?);
        let hash = format!("sha256:{}", hex::encode(digest_of(&secret)));
        Ok((KeyFile { name, hash, roles, actor, kernels: None }, secret))
    });
    made.collect()
}

fn configuration(args: &Args, keys: &[(KeyFile, String)]) -> Result<String> {
    let list = |names: &[String]| {
        let lines = names.iter().map(|name| format!("        - {}", json!(name)));
        lines.collect::<Vec<_>>().join("\n")
    };
    let entries = keys.iter().map(|(key, _)| Ok(format!("    - {}", serde_json::to_string(key)?)));
    let entries = entries.collect::<Result<Vec<_>>>()?.join("\n");
    let auth = if keys.is_empty() { "#auth:\n#  keys: []".to_owned() } else { format!("auth:\n  keys:\n{entries}") };
    Ok(CONFIGURATION
        .replace("{kernel_id}", &json!(args.kernel_id).to_string())
        .replace("{actors}", &list(&args.actors))
        .replace("{tools}", &list(&args.tools))
        .replace("{auth}", &auth))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| drop(fs::remove_file(path)))?;
    Ok(())
}

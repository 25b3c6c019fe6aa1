//! `gavel demo`: real agents' tool calls, real attacks on them, a real server.

use super::Outcome;
use super::client::Client;
use super::evidence::export;
use super::output::{line, note, print_json, shown};
use crate::clock::Clock;
use crate::config;
use crate::host::{Host, Storage};
use crate::http;
use anyhow::{Context, Result};
use gavel_kernel::Decision;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

/// Put recorded tool calls of real agents, and attacks on them, through a running server.
///
/// The calls are those of the AgentDojo benchmark's workspace and banking suites (MIT): what a
/// correct agent does for a user's task, and what a prompt injection wants done inside that user's
/// session. The policies are in the demo's own configuration (`--show-config`); they know nothing
/// of the sessions. Then the evidence is exported and verified.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gavel demo\n  gavel demo --show-config\n  gavel demo --config my.yaml --evidence ./bundles"
)]
pub(super) struct Args {
    /// Print the demo's configuration and stop.
    #[arg(long)]
    show_config: bool,
    /// Another configuration, with kernels named `workspace` and `banking`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the evidence bundles in this folder.
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
}

const CONFIG: &str = include_str!("../../assets/demo.yaml");
const CALLS: &str = include_str!("../../../tests/data/agentdojo/workspace-banking.jsonl");

/// Tools whose names begin so only look; every other call has effects.
const READING: [&str; 4] = ["get_", "list_", "read_", "search_"];

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    if args.show_config {
        line(CONFIG.trim_end())?;
        return Ok(Outcome::Yes);
    }
    super::runtime()?.block_on(demo(args, as_json))
}

async fn demo(args: &Args, as_json: bool) -> Result<Outcome> {
    let file = match &args.config {
        Some(path) => config::read(path)?,
        None => config::parse(Path::new("(demo)"), CONFIG)?,
    };
    let temporary = tempfile::tempdir().context("no temporary folder")?;
    let server = http::Server::bind(([127, 0, 0, 1], 0).into(), None, false).await?;
    let url = format!("http://{}", server.address);
    let host = Host::open(file, &Storage::Folder(temporary.path().join("data")), Clock::System).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(http::serve(server, host.app(), async { drop(stopped.await) }));
    if !as_json {
        note(&format!("a server is running on {url}; {} recorded calls go through it", CALLS.lines().count()));
    }
    let bundles = args.evidence.clone().unwrap_or_else(|| temporary.path().join("evidence"));
    std::fs::create_dir_all(&bundles).with_context(|| bundles.display().to_string())?;
    let client_url = url.clone();
    let told = tokio::task::spawn_blocking(move || play(&client_url, &bundles)).await??;
    drop(stop);
    serving.await?;
    host.finish().await;
    if as_json {
        print_json(&told.as_json())?;
    } else {
        told.print()?;
    }
    Ok(Outcome::Yes)
}

/// A recorded call, with what it is.
#[derive(Debug, Deserialize)]
struct Call {
    expect: Expect,
    suite: String,
    session: String,
    request: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Benign,
    Attack,
}

impl Call {
    fn tool(&self) -> &str {
        self.request["tool_call"]["name"].as_str().unwrap_or_default()
    }

    fn has_effects(&self) -> bool {
        !READING.iter().any(|prefix| self.tool().starts_with(prefix))
    }
}

/// What came of the demo.
#[derive(Debug, Default)]
struct Told {
    suites: BTreeMap<String, Suite>,
}

#[derive(Debug, Default)]
struct Suite {
    benign: u64,
    benign_allowed: u64,
    attacks: u64,
    attacks_allowed: u64,
    /// Attack sessions with a call that has effects, and those of them in which one was stopped.
    sessions: BTreeSet<String>,
    sessions_stopped: BTreeSet<String>,
    /// Reason → how many benign, how many attack calls it stopped, and one of them.
    reasons: BTreeMap<String, (u64, u64, String)>,
    entries: u64,
    root_hash: String,
    bundle: PathBuf,
}

/// Send every call to the kernel of its suite, then export and verify each kernel's evidence.
fn play(url: &str, bundles: &Path) -> Result<Told> {
    let mut told = Told::default();
    let mut clients: BTreeMap<String, Client> = BTreeMap::new();
    for (number, text) in CALLS.lines().enumerate() {
        let call: Call = serde_json::from_str(text).with_context(|| format!("recorded call {}", number + 1))?;
        let client = clients
            .entry(call.suite.clone())
            .or_insert_with(|| Client::plain(&format!("{url}/kernels/{}", call.suite)));
        let receipt = client.post("/decide", call.request.to_string().as_bytes())?.accepted()?;
        let allowed = receipt["decision"] == Decision::Allow.as_str();
        told.suites.entry(call.suite.clone()).or_default().count(
            &call,
            allowed,
            receipt["error"].as_str().unwrap_or_default(),
        );
    }
    for (id, client) in &clients {
        let path = bundles.join(format!("{id}.json"));
        let report = export(client, &path).with_context(|| format!("the evidence of kernel {id}"))?;
        let suite = told.suites.entry(id.clone()).or_default();
        (suite.entries, suite.root_hash, suite.bundle) = (report.entries, report.root_hash, path);
    }
    Ok(told)
}

impl Suite {
    fn count(&mut self, call: &Call, allowed: bool, error: &str) {
        let (all, passed) = match call.expect {
            Expect::Benign => (&mut self.benign, &mut self.benign_allowed),
            Expect::Attack => (&mut self.attacks, &mut self.attacks_allowed),
        };
        *all += 1;
        *passed += u64::from(allowed);
        if call.expect == Expect::Attack && call.has_effects() {
            self.sessions.insert(call.session.clone());
            if !allowed {
                self.sessions_stopped.insert(call.session.clone());
            }
        }
        if !allowed {
            let example = format!("{} {}", call.tool(), call.request["tool_call"]["params"]);
            let (benign, attack, shown) = self.reasons.entry(class_of(error)).or_insert((0, 0, example.clone()));
            match call.expect {
                Expect::Benign => *benign += 1,
                Expect::Attack => {
                    // The example is of an attack, if there is one.
                    if *attack == 0 {
                        *shown = example;
                    }
                    *attack += 1;
                }
            }
        }
    }
}

/// A reason without what differs from call to call: everything quoted.
fn class_of(error: &str) -> String {
    error.split('\'').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "'…'" }).collect()
}

impl Told {
    fn as_json(&self) -> Value {
        self.suites
            .iter()
            .map(|(name, suite)| (name.clone(), suite.as_json()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn print(&self) -> Result<()> {
        for (name, suite) in &self.suites {
            suite.print(name)?;
        }
        Ok(())
    }
}

impl Suite {
    fn as_json(&self) -> Value {
        let reasons: Vec<Value> = self
            .reasons
            .iter()
            .map(|(reason, (benign, attack, example))| json!({"reason": reason, "benign": benign, "attack": attack, "example": example}))
            .collect();
        json!({
            "benign_calls": self.benign,
            "benign_allowed": self.benign_allowed,
            "attack_calls": self.attacks,
            "attack_calls_allowed": self.attacks_allowed,
            "attack_sessions": self.sessions.len(),
            "attack_sessions_stopped": self.sessions_stopped.len(),
            "reasons": reasons,
            "evidence": {"entries": self.entries, "root_hash": self.root_hash, "verified": true},
        })
    }

    fn print(&self, name: &str) -> Result<()> {
        line(&format!("\n{name}"))?;
        line(&format!(
            "  what the user's agent did       {:>4} calls   {:>4} allowed",
            self.benign, self.benign_allowed
        ))?;
        line(&format!(
            "  what attackers had it attempt   {:>4} calls   {:>4} stopped, {} only looked or passed",
            self.attacks,
            self.attacks - self.attacks_allowed,
            self.attacks_allowed
        ))?;
        let percent = 100 * self.sessions_stopped.len() / self.sessions.len().max(1);
        line(&format!(
            "  attack sessions                 {:>4}         {:>4} stopped before doing harm ({percent} %)",
            self.sessions.len(),
            self.sessions_stopped.len()
        ))?;
        line("  why, and how often (attack / benign):")?;
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, (benign, attack, _))| std::cmp::Reverse(benign + attack));
        for (reason, (benign, attack, example)) in reasons {
            line(&format!("    {attack:>4} / {benign:<3}  {}", shown(reason, 100)))?;
            line(&format!("                for example {}", shown(example, 90)))?;
        }
        line(&format!("  evidence   {} entries, verified; root {}", self.entries, self.root_hash))
    }
}

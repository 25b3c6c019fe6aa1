//! `gavel demo`: real agents' tool calls, real attacks on them, a real server.
//!
//! The calls go over HTTP, one after the other, to the kernel of their suite. What became of them is told by the
//! receipts and, where it matters whether a human was asked for, by the ledger: a receipt says DENY to both.

mod told;

use super::Outcome;
use super::client::Client;
use super::evidence::export;
use super::output::{line, note, print_json};
use crate::clock::Clock;
use crate::config;
use crate::host::{Host, Storage};
use crate::http;
use crate::replay::asked_for_a_human;
use anyhow::{Context, Result};
use gavel_kernel::Decision;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;
use told::{Answer, Call, Told};

/// Put recorded tool calls of real agents, and attacks on them, through a running server.
///
/// The calls are those of the AgentDojo benchmark's workspace and banking suites (MIT): what a
/// correct agent does for a user's task, and what a prompt injection wants done inside that user's
/// session. The policies are in the scenario's own configuration (`--show-config`); they know
/// nothing of the sessions. Then the evidence is exported and verified.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gavel demo\n  gavel demo least-privilege\n  gavel demo agentdojo --show-config\n  gavel demo --config my.yaml --evidence ./bundles"
)]
pub(super) struct Args {
    /// Which policies judge the calls.
    #[arg(value_enum, default_value = "agentdojo")]
    scenario: Scenario,
    /// Print the scenario's configuration and stop.
    #[arg(long)]
    show_config: bool,
    /// Another configuration, with kernels named `workspace` and `banking`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the evidence bundles in this folder.
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Scenario {
    /// All tools, bound to what the user's prompt names; what is in doubt is for a human.
    Agentdojo,
    /// Few tools, bounded by patterns, whatever the prompt says.
    LeastPrivilege,
}

impl Scenario {
    fn config(self) -> &'static str {
        match self {
            Scenario::Agentdojo => include_str!("../../../assets/agentdojo.yaml"),
            Scenario::LeastPrivilege => include_str!("../../../assets/least-privilege.yaml"),
        }
    }
}

const CALLS: &str = include_str!("../../../../tests/data/agentdojo/workspace-banking.jsonl");

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    if args.show_config {
        line(args.scenario.config().trim_end())?;
        return Ok(Outcome::Yes);
    }
    super::runtime()?.block_on(demo(args, as_json))
}

async fn demo(args: &Args, as_json: bool) -> Result<Outcome> {
    let file = match &args.config {
        Some(path) => config::read(path)?,
        None => config::parse(Path::new("(demo)"), args.scenario.config())?,
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
    let played = tokio::task::spawn_blocking(move || play(&url, &bundles)).await??;
    drop(stop);
    serving.await?;
    let told = tell(&played, &escalations(&host)?);
    host.finish().await;
    if as_json {
        print_json(&told.as_json())?;
    } else {
        told.print()?;
    }
    Ok(Outcome::Yes)
}

/// The recorded calls with the receipts that came back, and the verified bundles by kernel.
struct Played {
    receipts: Vec<(Call, Value)>,
    bundles: BTreeMap<String, (u64, String)>,
}

/// Send every call to the kernel of its suite, then export and verify each kernel's evidence.
fn play(url: &str, bundles: &Path) -> Result<Played> {
    let mut played = Played { receipts: Vec::new(), bundles: BTreeMap::new() };
    let mut clients: BTreeMap<String, Client> = BTreeMap::new();
    for (number, text) in CALLS.lines().enumerate() {
        let call: Call = serde_json::from_str(text).with_context(|| format!("recorded call {}", number + 1))?;
        let client = clients
            .entry(call.suite.clone())
            .or_insert_with(|| Client::plain(&format!("{url}/kernels/{}", call.suite)));
        let receipt = client.post("/decide", call.request.to_string().as_bytes())?.accepted()?;
        played.receipts.push((call, receipt));
    }
    for (id, client) in &clients {
        let path = bundles.join(format!("{id}.json"));
        let report = export(client, &path).with_context(|| format!("the evidence of kernel {id}"))?;
        played.bundles.insert(id.clone(), (report.entries, report.root_hash.unwrap_or_default()));
    }
    Ok(played)
}

/// The hashes of the entries by which a policy asked for a human.
fn escalations(host: &Host) -> Result<BTreeSet<String>> {
    let mut escalated = BTreeSet::new();
    for kernel in host.kernels() {
        for record in kernel.ledger().records(&kernel.ledger().snapshot()) {
            let record = record.with_context(|| format!("the ledger of kernel {}", kernel.id()))?;
            let Some(entry) = record.entry() else { continue };
            if asked_for_a_human(&record) {
                escalated.insert(entry.entry_hash.to_owned());
            }
        }
    }
    Ok(escalated)
}

fn tell(played: &Played, escalated: &BTreeSet<String>) -> Told {
    let mut told = Told::default();
    for (call, receipt) in &played.receipts {
        let error = receipt["error"].as_str().unwrap_or_default();
        let is_escalated = receipt["evidence_hash"].as_str().is_some_and(|hash| escalated.contains(hash));
        let answer = match &receipt["decision"] {
            decision if decision == Decision::Allow.as_str() => Answer::Passed,
            _ if is_escalated => Answer::Escalated(error),
            _ => Answer::Denied(error),
        };
        told.count(call, answer);
    }
    for (id, (entries, root_hash)) in &played.bundles {
        told.verified(id, *entries, root_hash);
    }
    told
}

//! `gavel smoke`: does a server do what it is for?
//!
//! Six steps: it answers and says its version; a request that is allowed; one that is denied; both are
//! in the evidence, which verifies; the kernel is IDLE. What is sent is chosen by the kernel's own
//! jurisdiction, and runs nothing but `echo` or `add`: where these are not allowed it only judges.

use super::Outcome;
use super::client::{Client, Remote};
use super::evidence::export;
use super::key::random_hex;
use super::output::{line, print_json, shown};
use crate::clock::Clock;
use crate::config;
use crate::evidence::open_plain;
use crate::host::{Host, Storage};
use crate::http;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

/// Try a server out: an allowed request, a denied one, evidence that verifies, and a kernel at rest.
///
/// Without --server it starts one of its own, in a temporary folder, and stops it. Exit code 0: every
/// step passed. 1: one did not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel smoke
  gavel smoke --config gavel.yaml
  gavel smoke --server --kernel prod-001 --actor agent-001")]
pub(super) struct Args {
    /// Try the server at --url.
    #[arg(long, conflicts_with = "config")]
    server: bool,
    /// The configuration of the temporary server; its keys do not count there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who asks; default: the first actor that the kernel allows by name. A key that is bound to an
    /// actor needs that one.
    #[arg(long)]
    actor: Option<String>,
    /// The agent's key, where --key is the operator's.
    #[arg(long, env = "GAVEL_AGENT_KEY", hide_env_values = true, value_name = "KEY")]
    agent_key: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let steps = if args.server {
        let agent = Remote { key: args.agent_key.clone().or_else(|| args.remote.key.clone()), ..args.remote.clone() };
        Smoke { operator: args.remote.client()?, agent: agent.client()?, actor: args.actor.clone() }.play()
    } else {
        super::runtime()?.block_on(temporary(args))?
    };
    let passed = steps.iter().all(|step| step.outcome.is_ok());
    if as_json {
        print_json(&json!({"passed": passed, "steps": steps.iter().map(Step::to_value).collect::<Vec<_>>()}))?;
    } else {
        steps.iter().try_for_each(Step::print)?;
        line(if passed { "smoke test passed" } else { "smoke test FAILED" })?;
    }
    Ok(if passed { Outcome::Yes } else { Outcome::No })
}

/// Serve for as long as the test takes.
async fn temporary(args: &Args) -> Result<Vec<Step>> {
    let mut file = config::read_or_default(args.config.as_deref())?;
    // Nobody but this process knows where it listens, and it has no key to show.
    file.auth.keys.clear();
    file.alerts.clear();
    file.tools.workspace = None;
    let kernel = args.remote.kernel.clone().unwrap_or_else(|| file.kernels[0].id.clone());
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let server = http::Server::bind(([127, 0, 0, 1], 0).into(), None, false).await?;
    let url = format!("http://{}/kernels/{kernel}", server.address);
    let host = Host::open(file, &Storage::Folder(folder.path().to_owned()), Clock::System).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(http::serve(server, host.app(), async { drop(stopped.await) }));
    let smoke = Smoke { operator: Client::plain(&url), agent: Client::plain(&url), actor: args.actor.clone() };
    let steps = tokio::task::spawn_blocking(move || smoke.play()).await?;
    drop(stop);
    serving.await?;
    host.finish().await;
    Ok(steps)
}

/// One step, and what came of it.
pub(super) struct Step {
    name: &'static str,
    outcome: Result<String>,
}

/// A kernel that is tried out.
struct Smoke {
    operator: Client,
    agent: Client,
    actor: Option<String>,
}

impl Smoke {
    /// Every step; one that fails does not keep the others from being tried.
    fn play(&self) -> Vec<Step> {
        let (mut allowed, mut denied) = (None, None);
        vec![
            Step { name: "info", outcome: self.info() },
            Step { name: "health", outcome: self.health() },
            Step { name: "allowed", outcome: self.allowed().map(|found| told(&found, &mut allowed)) },
            Step { name: "denied", outcome: self.denied().map(|found| told(&found, &mut denied)) },
            Step { name: "evidence", outcome: self.evidence([allowed, denied]) },
            Step { name: "state", outcome: self.state() },
        ]
    }

    fn info(&self) -> Result<String> {
        let name = self.operator.get_json("")?;
        let version = name["version"].as_str().context("the server does not say its version")?;
        Ok(format!("gavel {version}, kernel {}", name["kernel_id"].as_str().unwrap_or("-")))
    }

    fn health(&self) -> Result<String> {
        let health = self.operator.get_json("/health")?;
        ensure!(health["status"] == "healthy", "the server says {health}");
        Ok("healthy".into())
    }

    fn allowed(&self) -> Result<Value> {
        let policy = self.agent.get_json("/policy")?;
        let (route, request) = allowed_request(&policy, self.actor.as_deref())?;
        let receipt = self.send(route, &request)?;
        ensure!(receipt["decision"] == "ALLOW", "{} was denied: {}", request["request_id"], receipt["error"]);
        Ok(receipt)
    }

    fn denied(&self) -> Result<Value> {
        let policy = self.agent.get_json("/policy")?;
        let request = denied_request(&policy, self.actor.as_deref())?;
        let receipt = self.send("/decide", &request)?;
        ensure!(receipt["decision"] == "DENY", "{} was allowed", request["request_id"]);
        Ok(receipt)
    }

    fn send(&self, route: &str, request: &Value) -> Result<Value> {
        self.agent.post(route, request.to_string().as_bytes())?.accepted()
    }

    /// The bundle verifies, and the receipts' entries are in it.
    fn evidence(&self, receipts: [Option<String>; 2]) -> Result<String> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let path = folder.path().join("evidence.json");
        let report = export(&self.operator, &path)?;
        for hash in receipts.into_iter().flatten() {
            ensure!(holds(&path, &hash)?, "the evidence does not hold the entry {hash}, which a receipt names");
        }
        Ok(format!("{} entries verified, root hash {}", report.entries, report.root_hash.unwrap_or_default()))
    }

    fn state(&self) -> Result<String> {
        let status = self.operator.get_json("/status")?;
        ensure!(status["state"] == "IDLE", "the kernel is {}", status["state"]);
        Ok("IDLE".into())
    }
}

/// Remember a receipt's entry, and tell what it says.
fn told(receipt: &Value, hash: &mut Option<String>) -> String {
    *hash = receipt["evidence_hash"].as_str().map(str::to_owned);
    let why = receipt["error"].as_str().map(|why| format!(": {}", shown(why, 200))).unwrap_or_default();
    format!("{}{why}", receipt["decision"].as_str().unwrap_or("-"))
}

/// Whether a file has this text, read piece by piece.
fn holds(path: &Path, text: &str) -> Result<bool> {
    let (mut file, mut held, mut piece) = (open_plain(path)?, Vec::new(), vec![0; 64 << 10]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(false);
        }
        held.extend_from_slice(&piece[..read]);
        if held.windows(text.len()).any(|window| window == text.as_bytes()) {
            return Ok(true);
        }
        held.drain(..held.len().saturating_sub(text.len()));
    }
}

fn names(policy: &Value, key: &str) -> Vec<String> {
    let names = policy[key].as_array().into_iter().flatten();
    names.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}

fn request(policy: &Value, actor: Option<&str>) -> Result<Value> {
    let named = names(policy, "allowed_actors").into_iter().find(|name| name != "*");
    let actor = actor.map(str::to_owned).or(named).unwrap_or_else(|| "agent-001".into());
    let id = format!("smoke-{}", random_hex(8)?);
    Ok(json!({"request_id": id, "actor": actor, "intent": "Smoke test of this server"}))
}

/// A request that the jurisdiction allows, and the route that runs nothing it should not.
fn allowed_request(policy: &Value, actor: Option<&str>) -> Result<(&'static str, Value)> {
    let mut request = request(policy, actor)?;
    let tools = names(policy, "allowed_tools");
    let allows = |name: &str| tools.iter().any(|tool| tool == "*" || tool == name);
    let call = [("echo", json!({"text": "smoke"})), ("add", json!({"a": 1, "b": 2}))];
    if let Some((name, params)) = call.into_iter().find(|(name, _)| allows(name)) {
        request["tool_call"] = json!({"name": name, "params": params});
        return Ok(("/submit", request));
    }
    if policy["require_tool_call"] == true {
        let Some(tool) = tools.first() else { bail!("the kernel allows no tool and demands one: nothing is allowed") };
        request["tool_call"] = json!({"name": tool, "params": {"path": "smoke.txt", "query": "smoke", "content": ""}});
    }
    Ok(("/decide", request))
}

/// A request that the jurisdiction denies; in one that allows everything, one that is no request.
fn denied_request(policy: &Value, actor: Option<&str>) -> Result<Value> {
    let mut request = request(policy, actor)?;
    if !names(policy, "allowed_actors").iter().any(|name| name == "*") {
        request["actor"] = json!("smoke-test-nobody");
    } else if !names(policy, "allowed_tools").iter().any(|name| name == "*") {
        request["tool_call"] = json!({"name": "smoke_test_nothing", "params": {}});
    } else {
        request["intent"] = json!("");
    }
    Ok(request)
}

impl Step {
    fn to_value(&self) -> Value {
        let told = self.outcome.as_ref().map_or_else(|why| format!("{why:#}"), Clone::clone);
        json!({"name": self.name, "passed": self.outcome.is_ok(), "detail": told})
    }

    fn print(&self) -> Result<()> {
        match &self.outcome {
            Ok(told) => line(&format!("  ok      {:<9} {told}", self.name)),
            Err(why) => line(&format!("  FAILED  {:<9} {}", self.name, shown(&format!("{why:#}"), 1_000))),
        }
    }
}

//! `gavel policy run`: what does the policy say to one request?

use super::super::Outcome;
use super::super::output::{line, print_json, shown};
use super::subject::{Subject, ms, print_logs, read_value};
use crate::config;
use crate::policies::cases::Answer;
use crate::policies::suite::TestRequest;
use anyhow::{Result, anyhow};
use gavel_runtime::{Error, WindowedCounters};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Ask a policy about one request, with empty counters.
///
/// The request is written as in tests: every field may be left out. Exit code 0: allow or abstain. 1: deny, escalate, or
/// a failure (which denies).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  echo '{\"tool_call\": {\"name\": \"read_file\"}}' | gavel policy run --request -
  gavel policy run builtin:business-hours --request request.yaml --now 2026-01-05T20:00:00Z
  gavel policy run target/no-deletes.wasm --request request.json --config config.yaml")]
pub(super) struct Args {
    /// A project's folder, a package's file, or builtin:NAME.
    #[arg(default_value = ".")]
    policy: String,
    /// The request (YAML or JSON); `-` for standard input.
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// The policy's configuration (YAML or JSON). Default: none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The kernel's time, instead of the request's, as 2026-01-05T10:00:00Z.
    #[arg(long, value_name = "TIME")]
    now: Option<String>,
}

/// Characters of a reason that are shown.
const REASON_CHARS_MAX: usize = 4_096;

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let subject = Subject::open(&args.policy)?;
    let mut request = read_request(&args.request)?;
    if let Some(now) = &args.now {
        (request.now, request.now_ms) = (Some(now.clone()), None);
    }
    let config = read_value(args.config.as_deref())?;
    let answer = super::super::runtime()?.block_on(ask(&subject, config, &request))?;
    if as_json {
        let mut shown = json!(answer);
        shown["policy"] = json!(subject.name());
        shown["digest"] = json!(subject.package.digest);
        print_json(&shown)?;
    } else {
        let reason =
            answer.reason.as_ref().map_or_else(String::new, |text| format!("  {}", shown(text, REASON_CHARS_MAX)));
        line(&format!("{}{reason}", answer.verdict))?;
        print_logs(&answer, "  ")?;
        line(&format!("  {}", ms(answer.elapsed)))?;
    }
    Ok(if matches!(answer.verdict, "allow" | "abstain") { Outcome::Yes } else { Outcome::No })
}

/// A policy that does not take its configuration, with what gives it another one.
pub(super) fn without_config(why: Error) -> anyhow::Error {
    match why {
        Error::Configuration { .. } => anyhow!("{why} (give one with --config FILE)"),
        _ => why.into(),
    }
}

/// A request as tests write it.
pub(super) fn read_request(path: &Path) -> Result<TestRequest> {
    let request = match read_value(Some(path))? {
        // An empty file leaves everything out.
        Value::Null => TestRequest::default(),
        value => config::typed(path, value)?,
    };
    request.read().map_err(|why| anyhow!("{}: {why}", path.display()))?;
    Ok(request)
}

async fn ask(subject: &Subject, config: Value, request: &TestRequest) -> Result<Answer> {
    let sandbox = subject.sandbox()?;
    let policy = sandbox.load(subject.source(config)).await.map_err(without_config)?;
    let request = request.read().map_err(|why| anyhow!("{why}"))?;
    let left = Duration::from_millis(policy.limits().deadline_ms);
    Ok(policy.evaluate(Arc::new(request), WindowedCounters::new(1_000).into(), left).await.into())
}

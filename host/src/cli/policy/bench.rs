//! `gavel policy bench`: what does the policy cost?
//!
//! Times on a machine that does other things too say little; a ratio to a policy that is measured in the same run, in
//! turns, says more. The reference is the builtin `business-hours`.

use super::super::Outcome;
use super::super::output::{line, print_json, shown};
use super::run::{read_request, without_config};
use super::subject::{Subject, read_value, sandbox, size};
use crate::policies::builtin;
use crate::policies::cases::Answer;
use crate::policies::suite::TestRequest;
use anyhow::{Context, Result, anyhow};
use gavel_runtime::{Counters, Isolation, Limits, Policy, PolicySource, Request, Sandbox, WindowedCounters};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measure a policy: a decision in a fresh and in a kept instance, compiling, loading, memory.
///
/// Asked is the first request of the policy's own tests, or --request. Every figure also comes as a ratio to the builtin
/// business-hours, measured in the same run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy bench target/no-deletes.wasm
  gavel policy bench builtin:path-allow-list --request request.json --seconds 5")]
pub(super) struct Args {
    /// A project's folder, a package's file, or builtin:NAME.
    #[arg(default_value = ".")]
    policy: String,
    /// The request (YAML or JSON), as tests write it; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The policy's configuration (YAML or JSON). Default: that of the first test, else none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long to measure decisions.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
}

const REFERENCE: &str = "business-hours";
/// Decisions in one turn of a policy, and how many of them at the beginning do not count.
const TURN_DECISIONS: usize = 20;
const FIRST_DECISIONS: usize = 20;
/// Decisions that are measured of one policy.
const DECISIONS_MAX: usize = 20_000;
/// Loads that are measured.
const LOADS: usize = 5;
const SECONDS_MAX: f64 = 600.0;

/// What one policy cost.
struct Costs {
    compile: Duration,
    precompiled: Duration,
    fresh: Vec<Duration>,
    warm: Vec<Duration>,
    memory_bytes: u64,
    answer: Option<Answer>,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let subject = Subject::open(&args.policy)?;
    let first = subject.tests.as_ref().and_then(|tests| Some((tests, tests.cases.first()?)));
    let request = match (&args.request, first) {
        (Some(path), _) => read_request(path)?,
        (None, Some((_, case))) => case.steps().into_iter().next().map(|step| step.request).unwrap_or_default(),
        (None, None) => TestRequest::default(),
    };
    let config = match (&args.config, first) {
        (Some(path), _) => read_value(Some(path))?,
        (None, Some((tests, case))) => case.config(tests).clone(),
        (None, None) => Value::Null,
    };
    let request = Arc::new(request.read().map_err(|why| anyhow!("the request: {why}"))?);
    let reference = builtin::find(REFERENCE).context("the reference is built in")?;
    let sources = [subject.source(config), PolicySource::new(REFERENCE, reference.to_vec())];
    let [costs, reference] = super::super::runtime()?.block_on(measure(&subject, sources, &request, args.seconds))?;
    if as_json {
        let mut shown = json!({"policy": subject.name(), "digest": subject.package.digest, "answer": costs.answer});
        shown["costs"] = costs.as_json();
        shown["reference"] = json!({"policy": format!("{}{REFERENCE}", builtin::PREFIX), "costs": reference.as_json()});
        print_json(&shown)?;
    } else {
        print(&subject, &costs, &reference)?;
    }
    Ok(Outcome::Yes)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|why| format!("{why}"))?;
    if seconds > 0.0 && seconds <= SECONDS_MAX {
        return Ok(seconds);
    }
    Err(format!("give more than 0 and at most {SECONDS_MAX} seconds"))
}

async fn measure(
    subject: &Subject,
    sources: [PolicySource; 2],
    request: &Arc<Request>,
    seconds: f64,
) -> Result<[Costs; 2]> {
    let cache = tempfile::tempdir()?;
    let (uncached, cached) =
        (sandbox(&subject.needs(), None)?, sandbox(&subject.needs(), Some(cache.path().join("components")))?);
    let mut costs = Vec::new();
    let mut policies = Vec::new();
    for source in sources {
        costs.push(loading(&uncached, &cached, &source).await?);
        for isolation in [Isolation::Fresh, Isolation::Warm] {
            let limits = Limits { isolation, ..source.limits.clone() };
            policies.push(cached.load(PolicySource { limits, ..source.clone() }).await?);
        }
    }
    let [mut costs, mut reference] = <[Costs; 2]>::try_from(costs).map_err(|_| anyhow!("two policies were loaded"))?;
    let counters: Arc<dyn Counters> = WindowedCounters::new(1_000).into();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut first = FIRST_DECISIONS;
    while Instant::now() < until && costs.fresh.len() < DECISIONS_MAX {
        let times = [&mut costs.fresh, &mut costs.warm, &mut reference.fresh, &mut reference.warm];
        for (times, policy) in times.into_iter().zip(&policies) {
            decide(policy, request, &counters, TURN_DECISIONS + first, times).await;
            times.drain(..first);
        }
        first = 0;
    }
    for (costs, policy) in [(&mut costs, &policies[0]), (&mut reference, &policies[2])] {
        let evaluation = policy.evaluate(Arc::clone(request), Arc::clone(&counters), whole(policy)).await;
        costs.memory_bytes = evaluation.memory_bytes;
        costs.answer = Some(evaluation.into());
    }
    Ok([costs, reference])
}

/// What it takes to make the policy ready: once by compiling, then from the cache, the median of some loads.
async fn loading(uncached: &Sandbox, cached: &Sandbox, source: &PolicySource) -> Result<Costs> {
    let started = Instant::now();
    uncached.load(source.clone()).await.map_err(without_config)?;
    let compile = started.elapsed();
    cached.load(source.clone()).await?;
    let mut loads = Vec::with_capacity(LOADS);
    for _ in 0..LOADS {
        let started = Instant::now();
        cached.load(source.clone()).await?;
        loads.push(started.elapsed());
    }
    let precompiled = percentile(&loads, 50);
    Ok(Costs { compile, precompiled, fresh: Vec::new(), warm: Vec::new(), memory_bytes: 0, answer: None })
}

async fn decide(
    policy: &Policy,
    request: &Arc<Request>,
    counters: &Arc<dyn Counters>,
    count: usize,
    times: &mut Vec<Duration>,
) {
    for _ in 0..count {
        let started = Instant::now();
        let evaluation = policy.evaluate(Arc::clone(request), Arc::clone(counters), whole(policy)).await;
        drop(evaluation);
        times.push(started.elapsed());
    }
}

fn whole(policy: &Policy) -> Duration {
    Duration::from_millis(policy.limits().deadline_ms)
}

/// The smallest time that so many per cent of `times` do not exceed; zero of none.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

impl Costs {
    /// Every time by its name, in microseconds.
    fn times(&self) -> [(&'static str, f64); 6] {
        let us = |duration: Duration| duration.as_secs_f64() * 1e6;
        [
            ("fresh_p50_us", us(percentile(&self.fresh, 50))),
            ("fresh_p99_us", us(percentile(&self.fresh, 99))),
            ("warm_p50_us", us(percentile(&self.warm, 50))),
            ("warm_p99_us", us(percentile(&self.warm, 99))),
            ("compile_us", us(self.compile)),
            ("load_precompiled_us", us(self.precompiled)),
        ]
    }

    fn as_json(&self) -> Value {
        let mut costs = json!({"decisions": self.fresh.len(), "memory_bytes": self.memory_bytes});
        for (name, us) in self.times() {
            costs[name] = json!((us * 10.0).round() / 10.0);
        }
        costs
    }
}

/// A time in the unit that suits it.
fn shown_us(us: f64) -> String {
    if us < 1_000.0 { format!("{us:.1} us") } else { format!("{:.1} ms", us / 1_000.0) }
}

fn print(subject: &Subject, costs: &Costs, reference: &Costs) -> Result<()> {
    let package = &subject.package;
    line(&format!("{}  {}  {}", subject.name(), package.digest, size(package.component.len() as u64)))?;
    line(&format!("  {:<20} {:>12} {:>16} {:>8}", "", "this policy", REFERENCE, "ratio"))?;
    for ((name, us), (_, base)) in costs.times().into_iter().zip(reference.times()) {
        let name = name.trim_end_matches("_us").replace('_', " ");
        let ratio = if base > 0.0 { us / base } else { 0.0 };
        line(&format!("  {name:<20} {:>12} {:>16} {ratio:>8.2}", shown_us(us), shown_us(base)))?;
    }
    let [memory, base] = [costs, reference].map(|costs| size(costs.memory_bytes));
    line(&format!("  {:<20} {memory:>12} {base:>16}", "memory"))?;
    let answer = costs.answer.as_ref();
    let verdict = answer.map_or("-", |answer| answer.verdict);
    let reason = answer
        .and_then(|answer| answer.reason.as_ref())
        .map_or_else(String::new, |text| format!(": {}", shown(text, 200)));
    line(&format!("  {} decisions of each kind; the answer was {verdict}{reason}", costs.fresh.len()))
}

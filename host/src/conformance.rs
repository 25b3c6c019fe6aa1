//! Recorded runs of the public KERNELS package, replayed through the real kernel.
//!
//! A scenario goes the whole way that a request goes in a server ([`crate::decide`]), with the
//! recorded clock, the package's two tools and a ledger in memory; then the evidence is exported
//! and compared field by field. Nothing is judged by other code than in production.

use crate::clock::Clock;
use crate::config::{self, KernelFile, PermitsFile, RecordRequests, TlogAccess};
use crate::decide::Principal;
use crate::evidence::Export;
use crate::kernel::{Kernel, Memory, Parts};
use crate::metrics::Metrics;
use crate::policies::admit::Admission;
use crate::policies::catalogue::Catalogue;
use crate::policies::life::Deployed;
use crate::remembered::Remembered;
use crate::tools::Toolbox;
use anyhow::{Context, Result};
use gavel_kernel::{Jurisdiction, Request, Variant};
use gavel_runtime::{Sandbox, SandboxOptions};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

/// How the replay of some files went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Scenarios replayed.
    pub scenarios: u64,
    /// Requests and halts in them.
    pub steps: u64,
    /// Values that were not as recorded.
    pub differences: u64,
    /// The first of them, in readable form.
    pub first: Option<String>,
}

impl Report {
    /// Add what came of another file or scenario.
    pub fn add(&mut self, other: Self) {
        self.scenarios += other.scenarios;
        self.steps += other.steps;
        self.differences += other.differences;
        if self.first.is_none() {
            self.first = other.first;
        }
    }

    /// Compare one value; note a difference.
    fn compare(&mut self, place: &dyn Fn() -> String, recorded: &Value, ours: &Value) {
        if recorded == ours {
            return;
        }
        self.differences += 1;
        if self.first.is_none() {
            self.first = Some(format!("{}\n  recorded  {recorded}\n  ours      {ours}", place()));
        }
    }
}

#[derive(Debug, Deserialize)]
struct Scenario {
    name: String,
    kernel_id: String,
    variant: Variant,
    policy: Option<Jurisdiction>,
    config: Limits,
    keyring: Option<BTreeMap<String, String>>,
    steps: Vec<Step>,
    evidence: Value,
}

#[derive(Debug, Deserialize)]
struct Limits {
    max_intent_length: usize,
}

#[derive(Debug, Deserialize)]
struct Step {
    clock_ms: u64,
    request: Option<Value>,
    permit: Option<Value>,
    halt: Option<String>,
    receipt: Value,
}

/// Replay the scenarios of a file, one as JSON on each line.
///
/// # Errors
/// When the file cannot be read, or a line is no scenario.
pub async fn run_file(path: &Path) -> Result<Report> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut report = Report::default();
    let admission = no_policies()?;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let place = || format!("{} line {}", path.display(), number + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let scenario: Scenario = serde_json::from_str(&line).with_context(|| format!("{}: no scenario", place()))?;
        report.add(run(&scenario, &admission).await.with_context(place)?);
    }
    Ok(report)
}

/// The recorded kernels had no policies, and get none.
fn no_policies() -> Result<Arc<Admission>> {
    let sandbox = Sandbox::new(SandboxOptions { max_instances: 1, ..SandboxOptions::default() })?;
    Ok(Arc::new(Admission::new(&config::read_or_default(None)?, sandbox, Catalogue::in_memory())))
}

async fn run(scenario: &Scenario, admission: &Arc<Admission>) -> Result<Report> {
    let clock = Clock::manual(0);
    let kernel = open(scenario, &clock, admission).await?;
    let mut report = Report { scenarios: 1, ..Report::default() };
    for (number, step) in scenario.steps.iter().enumerate() {
        clock.set(step.clock_ms);
        let receipt = take(&kernel, step).await?;
        report.steps += 1;
        let place = |field: &str| format!("scenario {}, step {number}, receipt.{field}", scenario.name);
        compare_objects(&mut report, &place, &step.receipt, &receipt);
    }
    let last_ms = scenario.steps.last().map_or(0, |step| step.clock_ms);
    clock.set(last_ms + 1);
    compare_evidence(scenario, &kernel, &mut report)?;
    kernel.ledger().close()?;
    Ok(report)
}

async fn open(scenario: &Scenario, clock: &Clock, admission: &Arc<Admission>) -> Result<Arc<Kernel>> {
    let file = KernelFile {
        id: scenario.kernel_id.clone(),
        variant: scenario.variant,
        policy: scenario.policy.clone(),
        max_intent_length: scenario.config.max_intent_length,
        permits: scenario.keyring.clone().map(|keyring| PermitsFile { keyring, jurisdiction: "default".into() }),
        watch: None,
        record_requests: RecordRequests::default(),
        tlog: TlogAccess::default(),
    };
    let parts = Parts {
        name: scenario.kernel_id.clone(),
        policies: Arc::new(Deployed::empty()),
        admission: Arc::clone(admission),
        tools: Toolbox::without_files(),
        clock: clock.clone(),
        metrics: Metrics::default(),
        remembered: Remembered::nothing(1),
        approvals: Arc::default(),
        max_ledger_queue: 16,
        max_index_cache_bytes: 1 << 20,
        key_is_lost: false,
        birth: None,
        upkeep: crate::upkeep::Settings::default(),
    };
    Kernel::open(&file, Memory::Volatile, parts).await
}

/// Do what the step did; the receipt, or the refusal, as JSON.
async fn take(kernel: &Arc<Kernel>, step: &Step) -> Result<Value> {
    let principal = Principal::unbound("conformance");
    let receipt = match (&step.request, &step.halt) {
        (Some(request), None) => {
            let mut request = request.clone();
            if let Some(permit) = &step.permit {
                request["permit"] = permit.clone();
            }
            let request = Request::from_value(request, step.clock_ms)?;
            kernel.submit(request, principal).await
        }
        (None, Some(reason)) => kernel.halt(reason, &principal).await,
        _ => anyhow::bail!("a step has either a request or a halt"),
    };
    Ok(receipt.map_or_else(|refused| json!({"refused": refused.to_string()}), |receipt| json!(receipt)))
}

fn compare_evidence(scenario: &Scenario, kernel: &Kernel, report: &mut Report) -> Result<()> {
    let mut bytes = Vec::new();
    Export::entries(kernel).write(kernel, &mut bytes)?;
    let mut ours: Value = serde_json::from_slice(&bytes)?;
    let nothing = Vec::new();
    let recorded_entries = scenario.evidence["ledger_entries"].as_array().unwrap_or(&nothing);
    let our_entries = ours["ledger_entries"].take();
    let our_entries = our_entries.as_array().unwrap_or(&nothing);
    let place = |what: &str| format!("scenario {}, evidence.{what}", scenario.name);
    report.compare(&|| place("ledger_entries (how many)"), &json!(recorded_entries.len()), &json!(our_entries.len()));
    for (seq, (recorded, ours)) in recorded_entries.iter().zip(our_entries).enumerate() {
        let place = |field: &str| format!("scenario {}, ledger entry {seq}, {field}", scenario.name);
        compare_objects(report, &place, recorded, ours);
    }
    for field in ["root_hash", "exported_at_ms", "kernel_id", "variant"] {
        report.compare(&|| place(field), &scenario.evidence[field], &ours[field]);
    }
    Ok(())
}

/// Compare two objects key by key, keys that only one of them has included.
fn compare_objects(report: &mut Report, place: &dyn Fn(&str) -> String, recorded: &Value, ours: &Value) {
    let (Some(recorded), Some(ours)) = (recorded.as_object(), ours.as_object()) else {
        return report.compare(&|| place("(as a whole)"), recorded, ours);
    };
    let only_ours = ours.keys().filter(|key| !recorded.contains_key(*key));
    let absent = json!("(absent)");
    for key in recorded.keys().chain(only_ours) {
        report.compare(&|| place(key), recorded.get(key).unwrap_or(&absent), ours.get(key).unwrap_or(&absent));
    }
}

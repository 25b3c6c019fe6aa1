//! Running a policy's tests: each case in the real sandbox, under the real limits.
//!
//! What always holds: a case begins with empty counters and every request gets a fresh instance; nothing of one case
//! reaches the next. What a guest said for itself (its log, a panic's text) is in the report, within the sandbox's limits.
//! A machine under load can make a policy late that is not: a case that failed by a deadline which it did not expect is
//! run once more, and the report says so.

use super::suite::{Case, Expectation, Step, Suite};
use gavel_runtime::{Counters, Error, Evaluation, FailedClosed, Level, Policy, PolicySource, Sandbox};
use gavel_runtime::{Verdict, WindowedCounters};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keys that a case's counters may have.
const COUNTER_KEYS_MAX: usize = 10_000;

/// What came of a suite.
#[derive(Debug, Serialize)]
pub struct Report {
    /// One for each case, in order.
    pub cases: Vec<CaseReport>,
    /// How many cases came out as expected.
    pub passed: usize,
    /// How many did not.
    pub failed: usize,
    /// Wall time of everything, loading included.
    #[serde(rename = "elapsed_ms", serialize_with = "as_ms")]
    pub elapsed: Duration,
}

/// What came of one case.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// Its name in the suite.
    pub name: String,
    /// Whether every step came out as expected.
    pub passed: bool,
    /// Why nothing could be asked: the policy does not take the case's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// One for each step, up to the first that did not come out as expected.
    pub steps: Vec<StepReport>,
    /// Whether it was run a second time, because it was late the first time.
    pub retried: bool,
    /// Wall time of its evaluations.
    #[serde(rename = "elapsed_ms", serialize_with = "as_ms")]
    pub elapsed: Duration,
}

/// What came of one request.
#[derive(Debug, Serialize)]
pub struct StepReport {
    /// Whether it is what was expected.
    pub passed: bool,
    /// What was expected.
    pub expected: Expectation,
    /// Text that the reason was to contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_reason: Option<String>,
    /// What was answered.
    pub answer: Answer,
}

/// What a policy answered to one request.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// `allow`, `deny`, `abstain`, `escalate`, or the limit or fault by which it failed.
    pub verdict: &'static str,
    /// Its reason, or how it failed.
    pub reason: Option<String>,
    /// Whether it failed.
    pub failed: bool,
    /// What it logged.
    pub logs: Vec<Line>,
    /// Lines beyond `max_log_lines`.
    pub logs_dropped: u64,
    /// Wall time, from asking for an instance to the verdict.
    #[serde(rename = "elapsed_ms", serialize_with = "as_ms")]
    pub elapsed: Duration,
}

/// A line that a policy logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// The text.
    pub message: String,
}

/// How much of what a policy can say its tests reached.
#[derive(Debug, Serialize)]
pub struct Coverage {
    /// Answers of each kind, in the order of the contract; failures by their name.
    pub verdicts: Vec<(&'static str, usize)>,
    /// The manifest's reasons, each with how many answers fit it.
    pub reasons: Vec<(String, usize)>,
    /// Reasons that were given and fit none of the manifest's; empty where it lists none.
    pub unlisted: Vec<String>,
}

/// Run `suite` on the policy of `source`; its configuration is each case's own.
///
/// # Errors
/// Why the policy cannot be loaded at all. A configuration that it does not take is a failure of the case.
pub async fn run(suite: &Suite, sandbox: &Sandbox, source: &PolicySource) -> Result<Report, Error> {
    let started = Instant::now();
    let mut loaded = Loaded { sandbox, source, policy: None };
    let mut cases = Vec::with_capacity(suite.cases.len());
    for case in &suite.cases {
        cases.push(match loaded.with(case.config(suite)).await {
            Ok(policy) => run_case(case, &policy).await,
            Err(why @ Error::Configuration { .. }) => CaseReport::unasked(case, why.to_string()),
            Err(why) => return Err(why),
        });
    }
    let passed = cases.iter().filter(|case| case.passed).count();
    Ok(Report { failed: cases.len() - passed, cases, passed, elapsed: started.elapsed() })
}

/// A policy that is compiled once, whatever configurations it is given.
struct Loaded<'a> {
    sandbox: &'a Sandbox,
    source: &'a PolicySource,
    policy: Option<Policy>,
}

impl Loaded<'_> {
    async fn with(&mut self, config: &Value) -> Result<Policy, Error> {
        let policy = match &self.policy {
            Some(policy) => policy.with_config(config)?,
            None => self.sandbox.load(PolicySource { config: config.clone(), ..self.source.clone() }).await?,
        };
        Ok(self.policy.insert(policy).clone())
    }
}

async fn run_case(case: &Case, policy: &Policy) -> CaseReport {
    let first = attempt(case, policy).await;
    let late = |step: &StepReport| step.answer.verdict == Expectation::Deadline.as_str();
    if first.passed || !first.steps.last().is_some_and(late) {
        return first;
    }
    CaseReport { retried: true, ..attempt(case, policy).await }
}

async fn attempt(case: &Case, policy: &Policy) -> CaseReport {
    let counters: Arc<dyn Counters> = WindowedCounters::new(COUNTER_KEYS_MAX).into();
    let mut report = CaseReport::new(case);
    for step in case.steps() {
        let request = match step.request.read() {
            Ok(request) => Arc::new(request),
            Err(why) => return CaseReport::unasked(case, why),
        };
        let left = Duration::from_millis(policy.limits().deadline_ms);
        let answer = Answer::from(policy.evaluate(request, Arc::clone(&counters), left).await);
        report.elapsed += answer.elapsed;
        report.steps.push(StepReport::new(step, answer));
        if !report.steps.last().is_some_and(|step| step.passed) {
            report.passed = false;
            break;
        }
    }
    report
}

impl CaseReport {
    fn new(case: &Case) -> Self {
        Self {
            name: case.name.clone(),
            passed: true,
            problem: None,
            steps: Vec::new(),
            retried: false,
            elapsed: Duration::ZERO,
        }
    }

    fn unasked(case: &Case, problem: String) -> Self {
        Self { passed: false, problem: Some(problem), ..Self::new(case) }
    }
}

impl StepReport {
    fn new(step: Step, answer: Answer) -> Self {
        let fits = step.reason.as_ref().is_none_or(|wanted| answer.reason.iter().any(|given| given.contains(wanted)));
        Self {
            passed: answer.verdict == step.expect.as_str() && fits,
            expected: step.expect,
            expected_reason: step.reason,
            answer,
        }
    }
}

impl From<Evaluation> for Answer {
    fn from(evaluation: Evaluation) -> Self {
        let (verdict, reason, failed) = match evaluation.verdict {
            Ok(Verdict::Allow) => ("allow", None, false),
            Ok(Verdict::Abstain) => ("abstain", None, false),
            Ok(Verdict::Deny(reason)) => ("deny", Some(reason), false),
            Ok(Verdict::Escalate(reason)) => ("escalate", Some(reason), false),
            // A suite knows one deadline, whichever of the two was the shorter.
            Err(why @ FailedClosed::DecisionDeadline { .. }) => ("deadline", Some(why.to_string()), true),
            Err(why) => (why.as_label(), Some(why.to_string()), true),
        };
        let logs = evaluation.logs.into_iter();
        let logs = logs.map(|line| Line { level: level_name(line.level), message: line.message }).collect();
        let (logs_dropped, elapsed) = (evaluation.logs_dropped, evaluation.elapsed);
        Self { verdict, reason, failed, logs, logs_dropped, elapsed }
    }
}

impl Report {
    /// How much of what the policy can say was reached; `reasons` are the manifest's patterns.
    #[must_use]
    pub fn coverage(&self, reasons: &[String]) -> Coverage {
        const KINDS: [&str; 4] = ["allow", "deny", "abstain", "escalate"];
        let answers: Vec<&Answer> = self.cases.iter().flat_map(|case| &case.steps).map(|step| &step.answer).collect();
        let mut verdicts: Vec<(&'static str, usize)> = KINDS.map(|kind| (kind, 0)).into();
        for answer in &answers {
            match verdicts.iter_mut().find(|(kind, _)| *kind == answer.verdict) {
                Some((_, count)) => *count += 1,
                None => verdicts.push((answer.verdict, 1)),
            }
        }
        let given: Vec<&String> =
            answers.iter().filter(|answer| !answer.failed).filter_map(|answer| answer.reason.as_ref()).collect();
        let count = |pattern: &String| given.iter().filter(|reason| fits(pattern, reason)).count();
        let listed = |reason: &str| reasons.is_empty() || reasons.iter().any(|pattern| fits(pattern, reason));
        let mut unlisted: Vec<String> =
            given.iter().filter(|reason| !listed(reason)).map(ToString::to_string).collect();
        unlisted.sort();
        unlisted.dedup();
        Coverage {
            verdicts,
            reasons: reasons.iter().map(|pattern| (pattern.clone(), count(pattern))).collect(),
            unlisted,
        }
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The earliest place of each part leaves the most for those after it.
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn as_ms<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Whole microseconds: what is beyond them is noise.
    #[allow(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
    serializer.serialize_f64(duration.as_micros() as f64 / 1_000.0)
}

#[cfg(test)]
mod tests;

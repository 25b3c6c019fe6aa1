//! `gavel policy test`: do the policy's tests hold?

use super::super::Outcome;
use super::super::output::{line, print_json, shown};
use super::subject::{Subject, ms, print_logs, read_suite};
use crate::policies::cases::{self, CaseReport, Coverage, Report, StepReport};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;

/// Run a policy's tests in the real sandbox, under the limits that its manifest asks for.
///
/// What a failing policy said of itself (a panic, a traceback) is shown. Exit code 0: all passed. 1: some did not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy test
  gavel policy test target/no-deletes.wasm
  gavel policy test builtin:business-hours --tests tests.yaml")]
pub(super) struct Args {
    /// A project's folder, a package's file, or builtin:NAME.
    #[arg(default_value = ".")]
    policy: String,
    /// These tests instead of those that it ships (YAML or JSON).
    #[arg(long, value_name = "FILE")]
    tests: Option<PathBuf>,
}

/// Characters of a name and of a reason that are shown.
const NAME_CHARS_MAX: usize = 100;
const REASON_CHARS_MAX: usize = 400;
/// Reasons of which no test was expected that are shown.
const UNLISTED_SHOWN_MAX: usize = 10;

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let subject = Subject::open(&args.policy)?;
    let suite = match &args.tests {
        Some(path) => read_suite(path)?,
        None => subject.tests.clone().with_context(|| {
            format!(
                "{}: it ships no tests; name them in `tests` of its policy.yaml, or give --tests FILE",
                subject.label
            )
        })?,
    };
    let sandbox = subject.sandbox()?;
    let source = subject.source(serde_json::Value::Null);
    let report = super::super::runtime()?.block_on(cases::run(&suite, &sandbox, &source))?;
    let coverage = report.coverage(subject.manifest.as_ref().map_or(&[], |manifest| &manifest.reasons));
    if as_json {
        print_json(&json!({
            "policy": subject.name(), "digest": subject.package.digest, "passed": report.passed,
            "failed": report.failed, "cases": report.cases, "coverage": as_json_of(&coverage),
        }))?;
    } else {
        print(&subject, &report, &coverage)?;
    }
    Ok(if report.failed == 0 { Outcome::Yes } else { Outcome::No })
}

fn as_json_of(coverage: &Coverage) -> serde_json::Value {
    let reasons: Vec<_> =
        coverage.reasons.iter().map(|(reason, answers)| json!({"reason": reason, "answers": answers})).collect();
    let verdicts: serde_json::Map<String, serde_json::Value> =
        coverage.verdicts.iter().map(|(kind, answers)| ((*kind).to_owned(), json!(answers))).collect();
    json!({"verdicts": verdicts, "reasons": reasons, "unlisted": coverage.unlisted})
}

fn print(subject: &Subject, report: &Report, coverage: &Coverage) -> Result<()> {
    line(&format!("{}  {}", shown(&subject.name(), NAME_CHARS_MAX), subject.package.digest))?;
    for case in &report.cases {
        print_case(case)?;
    }
    let verdict = if report.failed == 0 { "all passed" } else { "NOT PASSED" };
    line(&format!("{} passed, {} failed: {verdict} ({})", report.passed, report.failed, ms(report.elapsed)))?;
    print_coverage(coverage)
}

fn print_case(case: &CaseReport) -> Result<()> {
    let again = if case.retried { "  (second try: it was late the first time)" } else { "" };
    let word = if case.passed { "ok  " } else { "FAIL" };
    line(&format!("  {word}  {}  {}{again}", shown(&case.name, NAME_CHARS_MAX), ms(case.elapsed)))?;
    if let Some(problem) = &case.problem {
        return line(&format!("          {}", shown(problem, REASON_CHARS_MAX)));
    }
    match case.steps.last().filter(|_| !case.passed) {
        Some(step) => print_failure(step, case.steps.len()),
        None => Ok(()),
    }
}

fn print_failure(step: &StepReport, number: usize) -> Result<()> {
    let reason = step.expected_reason.as_ref();
    let wanted =
        reason.map_or_else(String::new, |text| format!(", the reason containing: {}", shown(text, REASON_CHARS_MAX)));
    let at = if number > 1 { format!(" (step {number})") } else { String::new() };
    line(&format!("          expected{at}  {}{wanted}", step.expected))?;
    let given = step.answer.reason.as_ref();
    let given = given.map_or_else(String::new, |text| format!(": {}", shown(text, REASON_CHARS_MAX)));
    line(&format!("          got{at}       {}{given}", step.answer.verdict))?;
    print_logs(&step.answer, "          ")
}

fn print_coverage(coverage: &Coverage) -> Result<()> {
    let verdicts: Vec<String> = coverage.verdicts.iter().map(|(kind, answers)| format!("{kind} {answers}")).collect();
    line(&format!("verdicts: {}", verdicts.join(", ")))?;
    if coverage.reasons.is_empty() {
        return line("reasons: the manifest lists none (`reasons`), so nothing tells which were not reached");
    }
    let never: Vec<&String> =
        coverage.reasons.iter().filter(|(_, answers)| *answers == 0).map(|(reason, _)| reason).collect();
    line(&format!("reasons: {} of {} reached", coverage.reasons.len() - never.len(), coverage.reasons.len()))?;
    for reason in never {
        line(&format!("  never: {}", shown(reason, REASON_CHARS_MAX)))?;
    }
    for reason in coverage.unlisted.iter().take(UNLISTED_SHOWN_MAX) {
        line(&format!("  not in the manifest: {}", shown(reason, REASON_CHARS_MAX)))?;
    }
    Ok(())
}

//! Play 3.1, the health check: is this kernel well, and does its ledger hold?
//!
//! The four checks of the seeds, in their keys, and three more: the ledger takes records, no policy is
//! in quarantine, there is room on the disk. What fails for the first time is alerted, and so is what
//! recovered; what goes on failing is not.
//!
//! Told apart: `/health` says whether the kernel is up, and `/readyz` whether to send traffic.

use super::alerts::Alert;
use super::integrity::{Bounds, Checked};
use super::{Inner, Operations, Played};
use crate::clock::rfc3339;
use crate::config::Severity;
use crate::kernel::Kernel;
use anyhow::Context;
use gavel_kernel::State;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

const HOUR_MS: u64 = 3_600_000;

/// What a health check found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When, as RFC 3339 writes it.
    pub timestamp: String,
    /// Of which kernel.
    pub kernel_id: String,
    /// Whether every check passed.
    pub all_passed: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whether it passed.
    pub passed: bool,
    /// What was looked at.
    #[serde(flatten)]
    pub seen: Map<String, Value>,
    #[serde(skip)]
    failures: Failures,
}

/// What fails: a key that stays the same as long as it goes on, and a message.
type Failures = BTreeMap<String, String>;

/// What fails at this moment, by kernel and check.
#[derive(Debug, Default)]
pub(super) struct Edges(Mutex<HashMap<(String, &'static str), Failures>>);

impl Operations {
    /// Check a kernel. What changed since the last time is alerted.
    ///
    /// # Errors
    /// When the host is too broken to look.
    pub async fn health(&self, kernel: &Arc<Kernel>) -> Played<Report> {
        let (operations, looked_at) = (self.clone(), Arc::clone(kernel));
        let checks = self.read(move || Ok(operations.inner.checks(&looked_at))).await.context("the health check")?;
        let report = Report {
            timestamp: rfc3339(self.inner.clock.now_ms()),
            kernel_id: kernel.id().to_owned(),
            all_passed: checks.iter().all(|check| check.passed),
            checks,
        };
        self.alert_changes(kernel, &report.checks);
        Ok(report)
    }

    /// Alert what fails since this look, and what no longer does.
    pub(super) fn alert_changes(&self, kernel: &Kernel, checks: &[Check]) {
        for check in checks {
            let (new, gone) = self.inner.edges.exchange(kernel.id(), check);
            for message in new {
                self.inner.alerts.send(&alert(kernel, check, &message));
            }
            for message in gone {
                self.inner.alerts.send(&Alert {
                    severity: Severity::Info,
                    event: "RECOVERED",
                    kernel_id: kernel.id().to_owned(),
                    message: format!("Kernel {}: {} is well again; it was: {message}", kernel.id(), check.name),
                    details: json!({"check": check.name}),
                });
            }
        }
    }
}

fn alert(kernel: &Kernel, check: &Check, message: &str) -> Alert {
    let (event, severity) = match check.name {
        "ledger_accepts" => ("LEDGER_POISONED", Severity::Critical),
        "policies_in_service" => ("POLICY_QUARANTINED", Severity::Critical),
        "audit_integrity" => ("HEALTH_CHECK_FAILED", Severity::Critical),
        _ => ("HEALTH_CHECK_FAILED", Severity::Warning),
    };
    Alert {
        severity,
        event,
        kernel_id: kernel.id().to_owned(),
        message: format!("Kernel {}: {}: {message}", kernel.id(), check.name),
        details: json!({"check": check}),
    }
}

impl Inner {
    /// Every check. Blocks.
    fn checks(&self, kernel: &Kernel) -> Vec<Check> {
        let now_ms = self.clock.now_ms();
        let again_after_ms = self.limits.verify_again_hours.saturating_mul(HOUR_MS);
        let bounds = Bounds { max_bytes: self.limits.max_verify_bytes, again_after_ms };
        let checked = self.passes.check(kernel, bounds, now_ms);
        let last_ms = checked.last_activity_ms(kernel);
        let mut checks = vec![state(kernel), integrity(&checked), distribution(&checked)];
        checks.extend(last_ms.map(|last_ms| self.activity(last_ms, now_ms)));
        checks.extend([ledger(kernel), policies(kernel), self.disk()]);
        checks
    }

    /// The checks that cost nothing.
    pub(super) fn quick_checks(&self, kernel: &Kernel) -> Vec<Check> {
        vec![ledger(kernel), policies(kernel), self.disk()]
    }

    fn activity(&self, last_ms: u64, now_ms: u64) -> Check {
        let age_ms = now_ms.saturating_sub(last_ms);
        let limit = self.limits.recent_activity_hours;
        let hours = round(age_ms, HOUR_MS);
        let seen = json!({"last_activity_hours": hours, "limit_hours": limit});
        let late = age_ms >= limit.saturating_mul(HOUR_MS);
        Check::of("recent_activity", seen, late.then(|| format!("nothing was decided for {hours} hours")))
    }

    fn disk(&self) -> Check {
        let limit = self.limits.min_free_bytes;
        let (seen, failure) = match rustix::fs::statvfs(&self.data) {
            Ok(found) => {
                let free = found.f_bavail.saturating_mul(found.f_frsize);
                let low = free < limit;
                let told = || format!("less than {limit} bytes are free in {}", self.data.display());
                (json!({"free_bytes": free, "min_free_bytes": limit}), low.then(told))
            }
            Err(why) => (json!({"error": why.to_string()}), Some(format!("{}: {why}", self.data.display()))),
        };
        Check::of("disk_space", seen, failure)
    }
}

fn state(kernel: &Kernel) -> Check {
    // A kernel is there when it has booted; of the states of the seeds it has these two.
    let state = kernel.state();
    let well = matches!(state, State::Idle | State::Halted);
    Check::of("kernel_state", json!({"value": state}), (!well).then(|| format!("it is {state:?}")))
}

fn integrity(checked: &Checked) -> Check {
    let errors: Vec<&String> = checked.error.iter().collect();
    let seen = json!({
        "errors": errors,
        "verified_records": checked.verified,
        "records": checked.records,
        "signed": checked.pass.signed,
        "complete": checked.error.is_none() && checked.verified >= checked.records,
    });
    Check::of("audit_integrity", seen, checked.error.clone())
}

fn distribution(checked: &Checked) -> Check {
    let (allow, deny) = (checked.pass.allow, checked.pass.deny);
    let ratio = round(allow, deny.max(1));
    Check::of("decision_distribution", json!({"allow": allow, "deny": deny, "ratio": ratio}), None)
}

fn ledger(kernel: &Kernel) -> Check {
    let error = kernel.poisoned();
    let failure = error.as_ref().map(|why| format!("the ledger takes no more records: {why}"));
    Check::of("ledger_accepts", json!({"error": error}), failure)
}

fn policies(kernel: &Kernel) -> Check {
    let quarantined = kernel.quarantined();
    let names: Vec<&String> = quarantined.iter().map(|(name, _)| name).collect();
    let mut check = Check::of("policies_in_service", json!({"quarantined": names}), None);
    check.passed = quarantined.is_empty();
    let told = |(name, why): (String, String)| (name.clone(), format!("policy {name} is in quarantine: {why}"));
    check.failures = quarantined.into_iter().map(told).collect();
    check
}

/// A quotient with two digits.
#[expect(clippy::cast_precision_loss, reason = "two digits of it are shown")]
fn round(value: u64, unit: u64) -> f64 {
    (value as f64 / unit as f64 * 100.0).round() / 100.0
}

impl Checked {
    /// When something was decided last: exactly, once the pass has come to the end.
    fn last_activity_ms(&self, kernel: &Kernel) -> Option<u64> {
        if self.verified >= self.records {
            return self.pass.last_entry_ms;
        }
        let snapshot = kernel.ledger().snapshot();
        (snapshot.entries > 0).then_some(snapshot.last_ts_ms)
    }
}

impl Check {
    pub(super) fn of(name: &'static str, seen: Value, failure: Option<String>) -> Self {
        let seen = match seen {
            Value::Object(seen) => seen,
            _ => Map::new(),
        };
        let passed = failure.is_none();
        Self { name, passed, seen, failures: failure.map(|why| (String::new(), why)).into_iter().collect() }
    }
}

impl Edges {
    /// What fails now and did not before, and what did and no longer does.
    fn exchange(&self, kernel: &str, check: &Check) -> (Vec<String>, Vec<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert((kernel.to_owned(), check.name), check.failures.clone()).unwrap_or_default();
        let only = |these: &Failures, others: &Failures| {
            let only = these.iter().filter(|(key, _)| !others.contains_key(*key));
            only.map(|(_, message)| message.clone()).collect::<Vec<_>>()
        };
        (only(&check.failures, &before), only(&before, &check.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_an_edge() {
        let edges = Edges::default();
        let check = |failing: &[&str]| {
            let mut check = Check::of("policies_in_service", json!({}), None);
            check.failures = failing.iter().map(|name| ((*name).to_owned(), format!("{name} fails"))).collect();
            check
        };
        let look = |kernel, failing: &[&str]| edges.exchange(kernel, &check(failing));
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(look("k", &[]), (texts(&[]), texts(&[])));
        assert_eq!(look("k", &["a"]), (texts(&["a fails"]), texts(&[])));
        assert_eq!(look("k", &["a", "b"]), (texts(&["b fails"]), texts(&[])));
        assert_eq!(look("other", &["a"]), (texts(&["a fails"]), texts(&[])));
        assert_eq!(look("k", &["b"]), (texts(&[]), texts(&["a fails"])));
        assert_eq!(look("k", &["b"]), (texts(&[]), texts(&[])));
    }

    #[test]
    fn ratios_have_two_digits() {
        assert!((round(2, 3) - 0.67).abs() < 1e-9);
        assert!((round(7, 1) - 7.0).abs() < 1e-9);
    }
}

//! How a policy is doing: calls, verdicts, failures, latency; and the quarantine of one that keeps
//! failing.
//!
//! A failure is a trap or a limit that was hit, never a denial. What a busy host did (no instance to
//! be had, the decision's time used up by others) does not count towards quarantine. A policy in quarantine is no longer
//! asked; every decision that would ask it is denied, which is what its failures did too, only
//! without the wait. It comes out when an operator releases it or when the host starts anew.
//!
//! Health belongs to a component with its configuration and limits. It goes with the policy from
//! set to set as long as these stay the same, and is never shared with a candidate that replaces
//! one of them: a candidate that fails cannot bring the policy that serves into quarantine.

use crate::config::Quarantine;
use crate::record::verdict_label;
use gavel_runtime::{Evaluation, FailedClosed};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The health of one policy.
#[derive(Debug)]
pub struct Health {
    /// Looked at by every decision, so not behind the lock.
    in_quarantine: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Debug)]
struct Notes {
    calls: u64,
    verdicts: BTreeMap<&'static str, u64>,
    /// Microseconds.
    latency: Histogram<u64>,
    last_failure: Option<(u64, String)>,
    /// When it failed, as far back as its quarantine looks.
    failures: VecDeque<u64>,
    quarantined: Option<Quarantined>,
}

/// Why a policy is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Since when, by the kernel's clock.
    pub since_ms: u64,
    /// Why, for the caller and the record.
    pub why: String,
}

impl Notes {
    fn new() -> Self {
        // 1 µs to 100 s with two significant digits: some 20 KiB.
        let latency = Histogram::new_with_bounds(1, 100_000_000, 2);
        Self {
            calls: 0,
            verdicts: BTreeMap::new(),
            latency: latency.unwrap_or_else(|_| unreachable!("the bounds are right")),
            last_failure: None,
            failures: VecDeque::new(),
            quarantined: None,
        }
    }

    fn note(&mut self, evaluation: &Evaluation, now_ms: u64) {
        self.calls += 1;
        *self.verdicts.entry(verdict_label(&evaluation.verdict)).or_default() += 1;
        self.latency.saturating_record(micros(evaluation.elapsed));
        if let Err(why) = &evaluation.verdict {
            self.last_failure = Some((now_ms, why.to_string()));
        }
    }

    /// Count a failure against `limit`; true if it is one too many.
    fn fails(&mut self, limit: Quarantine, now_ms: u64) -> bool {
        self.failures.push_back(now_ms);
        let start = now_ms.saturating_sub(limit.within_ms);
        while self.failures.front().is_some_and(|at| *at < start) {
            self.failures.pop_front();
        }
        self.failures.len() >= limit.failures as usize
    }

    fn to_value(&self) -> Value {
        let failures: u64 = self.verdicts.iter().filter(|(label, _)| !is_verdict(label)).map(|(_, count)| count).sum();
        json!({
            "calls": self.calls,
            "verdicts": self.verdicts,
            "failures": failures,
            "traps": self.verdicts.get("trap").copied().unwrap_or(0),
            "deadlines": self.verdicts.get("deadline").copied().unwrap_or(0),
            "p50_us": self.latency.value_at_quantile(0.5),
            "p99_us": self.latency.value_at_quantile(0.99),
            "last_failure": self.last_failure.as_ref().map(|(at, why)| json!({"ts_ms": at, "error": why})),
            "quarantined": self.quarantined.as_ref().map(|found| json!({"since_ms": found.since_ms, "why": found.why})),
        })
    }
}

fn is_verdict(label: &str) -> bool {
    ["allow", "deny", "abstain", "escalate"].contains(&label)
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1)
}

impl Default for Health {
    fn default() -> Self {
        Self { in_quarantine: AtomicBool::new(false), notes: Mutex::new(Notes::new()) }
    }
}

impl Health {
    /// Count what the policy did; the quarantine, if this failure was one too many.
    pub fn note(&self, evaluation: &Evaluation, limit: Option<Quarantine>, now_ms: u64) -> Option<Quarantined> {
        let mut notes = self.notes();
        notes.note(evaluation, now_ms);
        let (Err(failure), Some(limit)) = (&evaluation.verdict, limit) else { return None };
        // What others used up is no fault of this policy.
        if matches!(failure, FailedClosed::Instances { .. } | FailedClosed::DecisionDeadline { .. }) {
            return None;
        }
        if !notes.fails(limit, now_ms) || notes.quarantined.is_some() {
            return None;
        }
        let why = format!("{} failures within {} ms, the last: {failure}", limit.failures, limit.within_ms);
        notes.quarantined = Some(Quarantined { since_ms: now_ms, why });
        self.in_quarantine.store(true, Ordering::SeqCst);
        notes.quarantined.clone()
    }

    /// Whether, and why, it is in quarantine.
    #[must_use]
    pub fn quarantined(&self) -> Option<Quarantined> {
        if !self.in_quarantine.load(Ordering::SeqCst) {
            return None;
        }
        self.notes().quarantined.clone()
    }

    /// Let it out of quarantine.
    pub fn release(&self) {
        let mut notes = self.notes();
        notes.failures.clear();
        notes.quarantined = None;
        self.in_quarantine.store(false, Ordering::SeqCst);
    }

    /// For an operator to read.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.notes().to_value()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_runtime::Verdict;

    const LIMIT: Option<Quarantine> = Some(Quarantine { failures: 3, within_ms: 100 });

    fn evaluation(verdict: Result<Verdict, FailedClosed>) -> Evaluation {
        Evaluation {
            policy: "p".into(),
            verdict,
            logs: Vec::new(),
            logs_dropped: 0,
            counters: Vec::new(),
            memory_bytes: 0,
            elapsed: Duration::from_micros(20),
        }
    }

    fn failed() -> Evaluation {
        evaluation(Err(FailedClosed::Trap("oops".into())))
    }

    #[test]
    fn failures_close_together_lead_to_quarantine_once() {
        let health = Health::default();
        let at = |now_ms| health.note(&failed(), LIMIT, now_ms).is_some();
        assert_eq!([at(0), at(90), at(150), at(200)], [false, false, false, false]);
        assert_eq!([at(210), at(211)], [true, false]);
        assert_eq!(health.quarantined().unwrap().why, "3 failures within 100 ms, the last: trap: oops");
        health.release();
        assert_eq!(health.quarantined(), None);
        assert!(!at(212), "it begins anew");
    }

    #[test]
    fn denials_are_no_failures_and_without_a_limit_there_is_no_quarantine() {
        let health = Health::default();
        for now_ms in 0..10 {
            assert_eq!(health.note(&evaluation(Ok(Verdict::Deny("no".into()))), LIMIT, now_ms), None);
            assert_eq!(health.note(&failed(), None, now_ms), None);
            let busy = evaluation(Err(FailedClosed::Instances { why: "all taken".into() }));
            assert_eq!(health.note(&busy, LIMIT, now_ms), None);
        }
        let told = health.to_value();
        assert_eq!((&told["calls"], &told["failures"], &told["traps"]), (&json!(30), &json!(20), &json!(10)));
        assert_eq!(told["verdicts"], json!({"deny": 10, "instances": 10, "trap": 10}));
    }
}

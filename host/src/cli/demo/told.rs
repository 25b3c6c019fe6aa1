//! What came of the demo: counts by suite, and the reasons with an example of each.

use crate::cli::output::{line, shown};
use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A recorded call, with what it is.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    pub(super) expect: Expect,
    pub(super) suite: String,
    pub(super) session: String,
    pub(super) request: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Benign,
    Attack,
}

/// What the server made of a call, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer<'r> {
    Passed,
    Escalated(&'r str),
    Denied(&'r str),
}

/// Tools whose names begin so only look; every other call has effects.
const READING: [&str; 4] = ["get_", "list_", "read_", "search_"];

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
pub(super) struct Told {
    suites: BTreeMap<String, Suite>,
}

#[derive(Debug, Default)]
struct Suite {
    benign: Counts,
    attack: Counts,
    /// Attack sessions with a call that has effects, and those of them in which one was stopped.
    sessions: BTreeSet<String>,
    sessions_stopped: BTreeSet<String>,
    reasons: BTreeMap<String, Reason>,
    entries: u64,
    root_hash: String,
}

#[derive(Debug, Default)]
struct Counts {
    calls: u64,
    passed: u64,
    escalated: u64,
    denied: u64,
}

/// How many calls a reason stopped, and one of them: of an attack, if there is one.
#[derive(Debug, Default)]
struct Reason {
    benign: u64,
    attack: u64,
    example: String,
}

impl Told {
    pub(super) fn count(&mut self, call: &Call, answer: Answer<'_>) {
        self.suites.entry(call.suite.clone()).or_default().count(call, answer);
    }

    /// The evidence of a suite's kernel was exported and verified.
    pub(super) fn verified(&mut self, suite: &str, entries: u64, root_hash: &str) {
        let suite = self.suites.entry(suite.to_owned()).or_default();
        (suite.entries, suite.root_hash) = (entries, root_hash.to_owned());
    }

    pub(super) fn as_json(&self) -> Value {
        let suites = self.suites.iter().map(|(name, suite)| (name.clone(), suite.as_json()));
        suites.collect::<serde_json::Map<_, _>>().into()
    }

    pub(super) fn print(&self) -> Result<()> {
        self.suites.iter().try_for_each(|(name, suite)| suite.print(name))
    }
}

impl Counts {
    fn count(&mut self, answer: Answer<'_>) {
        self.calls += 1;
        match answer {
            Answer::Passed => self.passed += 1,
            Answer::Escalated(_) => self.escalated += 1,
            Answer::Denied(_) => self.denied += 1,
        }
    }
}

impl Suite {
    fn count(&mut self, call: &Call, answer: Answer<'_>) {
        match call.expect {
            Expect::Benign => self.benign.count(answer),
            Expect::Attack => self.attack.count(answer),
        }
        if call.expect == Expect::Attack && call.has_effects() {
            self.sessions.insert(call.session.clone());
            if answer != Answer::Passed {
                self.sessions_stopped.insert(call.session.clone());
            }
        }
        let (Answer::Escalated(why) | Answer::Denied(why)) = answer else { return };
        let reason = self.reasons.entry(class_of(why)).or_default();
        let example = || format!("{} {}", call.tool(), call.request["tool_call"]["params"]);
        match call.expect {
            Expect::Benign => {
                if reason.example.is_empty() {
                    reason.example = example();
                }
                reason.benign += 1;
            }
            Expect::Attack => {
                if reason.attack == 0 {
                    reason.example = example();
                }
                reason.attack += 1;
            }
        }
    }

    fn as_json(&self) -> Value {
        let reason = |(reason, told): (&String, &Reason)| json!({"reason": reason, "benign": told.benign, "attack": told.attack, "example": told.example});
        json!({
            "benign_calls": self.benign.calls,
            "benign_allowed": self.benign.passed,
            "benign_escalated": self.benign.escalated,
            "benign_denied": self.benign.denied,
            "attack_calls": self.attack.calls,
            "attack_calls_allowed": self.attack.passed,
            "attack_calls_escalated": self.attack.escalated,
            "attack_calls_denied": self.attack.denied,
            "attack_sessions": self.sessions.len(),
            "attack_sessions_stopped": self.sessions_stopped.len(),
            "reasons": self.reasons.iter().map(reason).collect::<Vec<_>>(),
            "evidence": {"entries": self.entries, "root_hash": self.root_hash, "verified": true},
        })
    }

    fn print(&self, name: &str) -> Result<()> {
        let (benign, attack) = (&self.benign, &self.attack);
        line(&format!("\n{name}"))?;
        line(&format!(
            "  attack sessions                {:>4}         {:>4} stopped before doing harm ({})",
            self.sessions.len(),
            self.sessions_stopped.len(),
            percent(self.sessions_stopped.len() as u64, self.sessions.len() as u64)
        ))?;
        line(&format!(
            "  what attackers had it attempt  {:>4} calls   {:>4} stopped ({} for a human to decide, {} denied); {} only looked or passed",
            attack.calls,
            attack.escalated + attack.denied,
            attack.escalated,
            attack.denied,
            attack.passed
        ))?;
        line(&format!(
            "  what the user's agent did      {:>4} calls   {:>4} passed ({}); {} for a human to decide, {} denied",
            benign.calls,
            benign.passed,
            percent(benign.passed, benign.calls),
            benign.escalated,
            benign.denied
        ))?;
        self.print_reasons()?;
        line(&format!("  evidence   {} entries, verified; root {}", self.entries, self.root_hash))
    }

    fn print_reasons(&self) -> Result<()> {
        line("  why, and how often (attack / benign):")?;
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, told)| std::cmp::Reverse(told.benign + told.attack));
        for (reason, told) in reasons {
            line(&format!("    {:>4} / {:<3}  {}", told.attack, told.benign, shown(reason, 120)))?;
            line(&format!("                for example {}", shown(&told.example, 90)))?;
        }
        Ok(())
    }
}

/// With one decimal, rounded down: 99.9 % is not all.
fn percent(part: u64, whole: u64) -> String {
    let tenths = 1_000 * part / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// A reason without what differs from call to call: everything quoted, and further findings.
fn class_of(error: &str) -> String {
    let class: String =
        error.split('\'').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "'…'" }).collect();
    class.split("; ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart_by_what_is_not_quoted() {
        let why = |address: &str, more: &str| format!("tool 'send': 'to': email '{address}' has no ground{more}");
        let class = "tool '…': '…': email '…' has no ground";
        assert_eq!(class_of(&why("a@x.com", "")), class);
        assert_eq!(class_of(&why("b@x.com", "; 'cc': email 'c@x.com' has no ground")), class);
    }

    #[test]
    fn percentages_round_down() {
        assert_eq!((percent(238, 240), percent(999_999, 1_000_000)), ("99.1 %".into(), "99.9 %".into()));
        assert_eq!((percent(7, 7), percent(0, 0)), ("100.0 %".into(), "0.0 %".into()));
    }

    #[test]
    fn an_example_of_an_attack_is_preferred() {
        let call = |expect, tool: &str| Call {
            expect,
            suite: "s".into(),
            session: "t".into(),
            request: json!({"tool_call": {"name": tool, "params": {}}}),
        };
        let mut suite = Suite::default();
        suite.count(&call(Expect::Benign, "first"), Answer::Escalated("no"));
        suite.count(&call(Expect::Attack, "second"), Answer::Denied("no"));
        suite.count(&call(Expect::Attack, "get_third"), Answer::Passed);
        let told = &suite.reasons["no"];
        assert_eq!((told.benign, told.attack, told.example.as_str()), (1, 1, "second {}"));
        assert_eq!((suite.sessions.len(), suite.sessions_stopped.len()), (1, 1));
        assert_eq!((suite.benign.escalated, suite.attack.denied, suite.attack.passed), (1, 1, 1));
    }
}

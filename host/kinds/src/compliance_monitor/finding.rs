//! Findings: that a control did not hold, with the evidence, and what was done about it.

use super::control::{Control, Severity};
use super::judge::{Evidence, Violation};
use crate::fault::Fault;
use crate::following::Source;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Steps that a finding can take.
const STEPS_MAX: usize = 100;

/// Where a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Standing {
    Open,
    Acknowledged,
    Resolved,
}

impl Standing {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }
}

/// What somebody did about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) state: Standing,
    pub(super) who: String,
    pub(super) when_ms: u64,
    pub(super) why: String,
}

/// That a control did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    pub(super) id: String,
    /// Its place in the order in which findings were made.
    pub(super) seq: u64,
    pub(super) control: String,
    pub(super) title: String,
    pub(super) references: Vec<String>,
    pub(super) severity: Severity,
    pub(super) source: String,
    pub(super) message: String,
    pub(super) evidence: Vec<Evidence>,
    pub(super) found_ms: u64,
    pub(super) state: Standing,
    pub(super) steps: Vec<Step>,
}

impl Finding {
    pub(super) fn of(control: &Control, source: &str, violation: Violation, seq: u64, now_ms: u64) -> Self {
        Self {
            id: violation.id(&control.id, source),
            seq,
            control: control.id.clone(),
            title: control.title.clone(),
            references: control.references.clone(),
            severity: control.severity,
            source: source.to_owned(),
            message: violation.message,
            evidence: violation.evidence,
            found_ms: now_ms,
            state: Standing::Open,
            steps: Vec::new(),
        }
    }

    /// Take a step.
    pub(super) fn step(&mut self, step: Step) -> Result<(), Fault> {
        let id = &self.id;
        if self.state >= step.state {
            return Err(Fault::conflict(format!("finding {id} is {} already", self.state.name())));
        }
        if self.steps.len() >= STEPS_MAX {
            return Err(Fault::conflict(format!("finding {id} has taken {STEPS_MAX} steps already")));
        }
        self.state = step.state;
        self.steps.push(step);
        Ok(())
    }

    /// As it is shown: each piece of evidence with the place of its proof.
    pub(super) fn shown(&self) -> Value {
        let source = Source::named(&self.source);
        let evidence = self.evidence.iter().map(|record| {
            let proof = source.as_ref().map(|source| source.proof(record.index));
            json!({"source": self.source, "index": record.index, "hash": record.hash, "ts_ms": record.ts_ms, "proof": proof})
        });
        let evidence: Vec<Value> = evidence.collect();
        json!({
            "id": self.id,
            "seq": self.seq,
            "control": self.control,
            "title": self.title,
            "references": self.references,
            "severity": self.severity,
            "source": self.source,
            "message": self.message,
            "evidence": evidence,
            "found_ms": self.found_ms,
            "state": self.state,
            "steps": self.steps,
        })
    }
}

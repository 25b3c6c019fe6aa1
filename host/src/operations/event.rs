//! Events of the operator in a kernel's ledger: what was done, who did it, and why.
//!
//! Told apart: the events of policies (`record::PolicyEvent`) also say what is judged by from then on;
//! these change nothing that a decision depends on, and can be appended after a halt too.

use crate::decide::Refused;
use crate::kernel::Kernel;
use crate::record;
use gavel_kernel::json;
use gavel_ledger::{Draft, Kind, RecordView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Who operates, and why.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name of the caller's key.
    pub who: String,
    /// Its words.
    pub why: String,
}

/// What begins the `meta` of an event of an operator, and of nothing else.
const OPERATOR_EVENT: &str = "\"event\":\"operator\"";

/// Something that an operator did, as its record tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorEvent {
    /// The record's place in the ledger.
    #[serde(default)]
    pub index: u64,
    /// When, by the kernel's clock.
    #[serde(default)]
    pub ts_ms: u64,
    /// What: `EMERGENCY_HALT`, `EVIDENCE_EXPORTED`, `EVIDENCE_PRESERVED`, `EVIDENCE_ROTATED`,
    /// `RESTART`.
    #[serde(rename = "type")]
    pub what: String,
    /// Who did it.
    pub who: String,
    /// Why.
    pub why: String,
    /// Files, digests, counts.
    pub details: Value,
}

/// The event of this record, if it is one of an operator.
pub(crate) fn event_of(record: &RecordView) -> Option<OperatorEvent> {
    // Quickly no for most; the text of an author cannot hold an unescaped quote.
    if record.kind() != "event" || !record.meta().contains(OPERATOR_EVENT) {
        return None;
    }
    let event: OperatorEvent = serde_json::from_str(record.meta()).ok()?;
    Some(OperatorEvent { index: record.index(), ts_ms: record.ts_ms(), ..event })
}

impl Kernel {
    /// Record what an operator did; the record's place.
    ///
    /// # Errors
    /// When the reason is too long for a record, or the ledger takes none.
    pub(crate) async fn record_operator(
        &self,
        what: &'static str,
        operator: &Operator,
        details: Value,
    ) -> Result<u64, Refused> {
        record::check_reason(&operator.why).map_err(Refused::TooLong)?;
        let meta = json::canonical(&json!({
            "event": "operator",
            "type": what,
            "who": operator.who,
            "why": operator.why,
            "details": details,
        }));
        let draft = Draft { kind: Kind::Event, ts_ms: self.clock.now_ms(), meta, entry: None, closes: None };
        let committed = self.append(draft).await?;
        tracing::info!(kernel = self.id(), what, who = operator.who, why = operator.why, "operated");
        Ok(committed.index)
    }
}

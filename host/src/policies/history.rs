//! The history of a kernel's policies, as its ledger tells it.

use crate::record;
use gavel_ledger::{Error, RecordView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;

/// One step, from its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The record's place in the ledger.
    #[serde(default)]
    pub index: u64,
    /// When, by the kernel's clock.
    #[serde(default)]
    pub ts_ms: u64,
    /// What was done: `configured`, `staged`, `shadow`, `canary`, `paused`, `promoted`,
    /// `rolled_back`, `discarded`, `quarantined`, `released`, `refused`, `jurisdiction`.
    pub action: String,
    /// Who did it.
    pub who: String,
    /// Why.
    pub why: String,
    /// The set that served before.
    pub old_set: String,
    /// The set that the step is about.
    pub new_set: String,
    /// The policies of that set, `name` and `component` each.
    #[serde(default)]
    pub policies: Vec<Value>,
    /// The one policy that the step is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// The last `max` steps among `records`, oldest first.
///
/// # Errors
/// When a record cannot be read.
pub fn steps(records: impl Iterator<Item = Result<RecordView, Error>>, max: usize) -> Result<Vec<Step>, Error> {
    let mut steps = VecDeque::new();
    for record in records {
        let record = record?;
        if record.kind() == "event"
            && record::is_policy_event(record.meta())
            && let Ok(step) = serde_json::from_str::<Step>(record.meta())
        {
            if steps.len() == max {
                steps.pop_front();
            }
            steps.push_back(Step { index: record.index(), ts_ms: record.ts_ms(), ..step });
        }
    }
    Ok(steps.into())
}

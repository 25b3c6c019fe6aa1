//! The receipt: what the caller gets back, and the words in it.
//!
//! A receipt is a copy for the caller; what counts is the entry, whose hash it carries as `evidence_hash`.

use crate::entry::Entry;
pub use crate::state::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Decision {
    /// The request may run.
    Allow,
    /// It may not, or its tool failed.
    Deny,
    /// The kernel was halted.
    Halt,
}

impl Decision {
    /// The word in receipts and entries: `ALLOW`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Halt => "HALT",
        }
    }
}

/// What became of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It was allowed and, if it asked for a tool, the tool ran.
    Accepted,
    /// It was denied.
    Rejected,
    /// It was allowed, but its tool failed; the decision recorded is DENY.
    Failed,
}

impl Status {
    /// The word in receipts: `ACCEPTED`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "ACCEPTED",
            Self::Rejected => "REJECTED",
            Self::Failed => "FAILED",
        }
    }
}

/// How a request stands with the humans that a policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalState {
    /// Nobody has said a word yet. The same request may be sent again when somebody has.
    Waiting,
    /// It was approved, and is yet to be used.
    Approved,
    /// It was rejected; the same request is not asked about again before that expires.
    Rejected,
    /// Nobody said a word in time, or it was not used in time.
    Expired,
    /// It allowed a request, once.
    Used,
    /// Nobody is asked: too much waits already, or the one who approved it is the one who would use it.
    Refused,
}

/// What a receipt says of the approval that its request needs, or was allowed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalNote {
    /// The approval; none where nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How it stands.
    pub state: ApprovalState,
    /// When it is void, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Who approved or rejected it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Their words, or why nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ApprovalState {
    /// The word in receipts, records and lists: `waiting`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::Refused => "refused",
        }
    }
}

/// The answer to one request. In JSON every key is present, null when absent; only `approval` is left out where no human
/// is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The request's name, as the caller gave it.
    pub request_id: String,
    /// What became of it.
    pub status: Status,
    /// The kernel's state before.
    pub state_from: State,
    /// The kernel's state after.
    pub state_to: State,
    /// When, by the kernel's clock, in Unix milliseconds.
    pub ts_ms: u64,
    /// What was decided.
    pub decision: Decision,
    /// Why it was denied or failed.
    pub error: Option<String>,
    /// The hash of the entry that records it. Not to be confused with the entry's own `evidence_hash`.
    pub evidence_hash: Option<String>,
    /// What the tool returned.
    pub tool_result: Option<Value>,
    /// The approval that it needs, or was allowed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Box<ApprovalNote>>,
}

impl Receipt {
    /// The receipt for what `entry` records.
    #[must_use]
    pub fn for_entry(entry: &Entry, status: Status, tool_result: Option<Value>) -> Self {
        Self {
            request_id: entry.data.request_id.clone(),
            status,
            state_from: entry.data.state_from,
            state_to: entry.data.state_to,
            ts_ms: entry.data.ts_ms,
            decision: entry.data.decision,
            error: entry.data.error.clone(),
            evidence_hash: Some(entry.entry_hash.clone()),
            tool_result,
            approval: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryData, GENESIS_HASH};
    use serde_json::json;

    #[test]
    fn words_agree_with_serde() {
        for decision in [Decision::Allow, Decision::Deny, Decision::Halt] {
            assert_eq!(json!(decision), decision.as_str());
        }
        for status in [Status::Accepted, Status::Rejected, Status::Failed] {
            assert_eq!(json!(status), status.as_str());
        }
    }

    #[test]
    fn the_words_of_an_approval_agree_with_serde() {
        use ApprovalState::{Approved, Expired, Refused, Rejected, Used, Waiting};
        for state in [Waiting, Approved, Rejected, Expired, Used, Refused] {
            assert_eq!(json!(state), state.as_str());
        }
        let note = ApprovalNote { id: None, state: Refused, expires_ms: None, by: None, reason: Some("full".into()) };
        assert_eq!(json!(note), json!({"state": "refused", "reason": "full"}));
    }

    #[test]
    fn every_key_is_present() {
        let entry = EntryData::halt("operator stop", 7).seal(0, GENESIS_HASH);
        let receipt = Receipt::for_entry(&entry, Status::Accepted, None);
        let value = json!(receipt);
        assert_eq!(
            value,
            json!({
                "request_id": "HALT", "status": "ACCEPTED", "state_from": "IDLE", "state_to": "HALTED", "ts_ms": 7,
                "decision": "HALT", "error": null, "evidence_hash": entry.entry_hash, "tool_result": null,
            })
        );
        let back: Receipt = serde_json::from_value(value).expect("reads back");
        assert_eq!(back, receipt);
    }
}

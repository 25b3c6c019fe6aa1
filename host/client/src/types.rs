//! What is sent and what comes back.
//!
//! Words that a newer server may add become `Other`, fields that it adds are let by: an old client
//! goes on working. What matters is not guessed: a receipt without a decision is no receipt.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// One request for a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Request {
    /// The caller's name for it; the record has it.
    pub request_id: String,
    /// Who asks. A key that is bound to an actor speaks for no other.
    pub actor: String,
    /// What for, in words; best the user's own prompt.
    pub intent: String,
    /// Unix milliseconds; the server's clock if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts_ms: Option<u64>,
    /// The tool to run, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<ToolCall>,
    /// The request's own parameters; the tool never sees them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Map<String, Value>>,
    /// What justifies it; required by a kernel that is evidence-first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Vec<String>>,
    /// What it keeps to; required by a kernel that is dual-channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Value>,
    /// A signed permit, where the kernel demands one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<Value>,
}

impl Request {
    /// A request that states an intent and nothing else.
    #[must_use]
    pub fn new(request_id: impl Into<String>, actor: impl Into<String>, intent: impl Into<String>) -> Self {
        Self {
            request_id: request_id.into(),
            actor: actor.into(),
            intent: intent.into(),
            ts_ms: None,
            tool_call: None,
            params: None,
            evidence: None,
            constraints: None,
            permit: None,
        }
    }

    /// With a tool to run.
    #[must_use]
    pub fn tool_call(mut self, call: ToolCall) -> Self {
        self.tool_call = Some(call);
        self
    }

    /// With a parameter of its own.
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.params.get_or_insert_default().insert(name.into(), value.into());
        self
    }

    /// With a piece of evidence more.
    #[must_use]
    pub fn evidence(mut self, piece: impl Into<String>) -> Self {
        self.evidence.get_or_insert_default().push(piece.into());
        self
    }

    /// With constraints.
    #[must_use]
    pub fn constraints(mut self, constraints: impl Into<Value>) -> Self {
        self.constraints = Some(constraints.into());
        self
    }

    /// With a permit.
    #[must_use]
    pub fn permit(mut self, permit: impl Into<Value>) -> Self {
        self.permit = Some(permit.into());
        self
    }
}

/// The tool that a request wants run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// What it is given.
    #[serde(default)]
    pub params: Map<String, Value>,
}

impl ToolCall {
    /// A call without parameters.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), params: Map::new() }
    }

    /// With a parameter.
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum Decision {
    /// It may run.
    Allow,
    /// It may not, or its tool failed.
    Deny,
    /// The kernel was halted.
    Halt,
    /// A word that this client does not know; certainly no permission.
    #[serde(other)]
    Other,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum Status {
    /// It was allowed and, if it asked for a tool, the tool ran.
    Accepted,
    /// It was denied.
    Rejected,
    /// It was allowed, but its tool failed.
    Failed,
    /// A word that this client does not know.
    #[serde(other)]
    Other,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The request's name.
    pub request_id: String,
    /// What became of it.
    pub status: Status,
    /// What was decided.
    pub decision: Decision,
    /// The kernel's state before.
    pub state_from: String,
    /// The kernel's state after.
    pub state_to: String,
    /// When, by the kernel's clock, in Unix milliseconds.
    pub ts_ms: u64,
    /// Why it was denied or failed.
    #[serde(default)]
    pub error: Option<String>,
    /// The hash of the entry that records it.
    #[serde(default)]
    pub evidence_hash: Option<String>,
    /// What the tool returned.
    #[serde(default)]
    pub tool_result: Option<Value>,
    /// The approval that it needs, or was allowed by; absent where no human is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Box<Approval>>,
}

/// How a request stands with the humans that a policy asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Approval {
    /// The approval; none where nobody is asked.
    #[serde(default)]
    pub id: Option<String>,
    /// `waiting`, `rejected`, `used` or `refused`.
    pub state: String,
    /// When it is void, in Unix milliseconds. Until then the same request may be sent again, once it is approved.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// Who approved or rejected it.
    #[serde(default)]
    pub by: Option<String>,
    /// Their words, or why nobody is asked.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Receipt {
    /// Whether it was allowed, and its tool, if it asked for one, ran.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow && self.status == Status::Accepted
    }
}

/// How a kernel is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Health {
    /// `healthy`, `halted` or `unhealthy`.
    pub status: String,
    /// The kernel's state.
    pub kernel_state: String,
}

impl Health {
    /// Whether it accepts requests.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status == "healthy"
    }
}

/// A kernel's status.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct KernelStatus {
    /// The kernel.
    pub kernel_id: String,
    /// `strict`, `permissive`, `evidence-first` or `dual-channel`.
    pub variant: String,
    /// Its state.
    pub state: String,
    /// Why it was halted, if it was.
    #[serde(default)]
    pub halt_reason: Option<String>,
    /// When it was started, in Unix milliseconds.
    pub started_at_ms: u64,
    /// The digest of the policies that judge.
    pub policy_set: String,
    /// The tools that it can run.
    pub tools: Vec<String>,
    /// Its ledger.
    pub ledger: LedgerStatus,
}

/// What a ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct LedgerStatus {
    /// Entries of the evidence chain.
    pub entries: u64,
    /// The hash of the last one.
    pub root_hash: String,
    /// Records, those between entries too.
    pub records: u64,
    /// Why it takes no records, if so.
    #[serde(default)]
    pub error: Option<String>,
}

/// What a kernel judges by.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Policy {
    /// The kernel's variant.
    pub variant: String,
    /// Who may ask; `*` is everybody.
    pub allowed_actors: Vec<String>,
    /// Which tools may run; `*` is every one.
    pub allowed_tools: Vec<String>,
    /// Whether a request without a tool call is denied.
    pub require_tool_call: bool,
    /// Fields that must not be empty.
    pub required_fields: Vec<String>,
    /// Bytes of canonical `params`.
    pub max_param_bytes: u64,
    /// Characters of an intent.
    pub max_intent_length: u64,
    /// The policies that are asked, in this order.
    pub custom_rules: Vec<String>,
    /// The digest of the policies that judge.
    pub policy_set: String,
}

/// What halting a kernel came to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Halted {
    /// The kernel.
    pub kernel_id: String,
    /// `HALTED`.
    pub kernel_state: String,
    /// The reason that is recorded.
    pub reason: String,
    /// The hash of the entry that records it.
    pub evidence_hash: String,
    /// When, by the kernel's clock, in Unix milliseconds.
    pub ts_ms: u64,
}

/// An evidence bundle.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Evidence {
    /// The kernel.
    pub kernel_id: String,
    /// Its variant.
    pub variant: String,
    /// When it was exported, in Unix milliseconds.
    pub exported_at_ms: u64,
    /// How many entries there are.
    pub entry_count: u64,
    /// The hash of the last one.
    pub root_hash: String,
    /// The entries of the chain.
    pub ledger_entries: Vec<LedgerEntry>,
}

/// An entry of the evidence chain. Only what a program asks for as a rule is typed; a bundle that is
/// to be verified is streamed to a file, byte for byte.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct LedgerEntry {
    /// Its place, from 0.
    pub ledger_seq: u64,
    /// The hash of the one before.
    pub prev_hash: String,
    /// Its own hash.
    pub entry_hash: String,
    /// When, in Unix milliseconds.
    pub ts_ms: u64,
    /// The request's name.
    pub request_id: String,
    /// Who asked.
    pub actor: String,
    /// What for.
    pub intent: String,
    /// What was decided.
    pub decision: Decision,
    /// The tool, if one was asked for.
    #[serde(default)]
    pub tool_name: Option<String>,
    /// Why it was denied or failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// A batch, as it is sent.
#[derive(Serialize)]
pub(crate) struct Batch<'a> {
    pub(crate) requests: &'a [Request],
}

/// A batch, as it is answered.
#[derive(Deserialize)]
pub(crate) struct BatchAnswer {
    pub(crate) results: Vec<OneAnswer>,
}

/// One answer of a batch.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum OneAnswer {
    Judged { receipt: Receipt },
    Refused(RefusedOne),
}

/// A request of a batch that was refused.
#[derive(Deserialize)]
pub(crate) struct RefusedOne {
    pub(crate) status: u16,
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) kernel_state: Option<String>,
    #[serde(default)]
    pub(crate) retry_after_s: Option<u64>,
}

impl From<OneAnswer> for Result<Receipt, crate::Refusal> {
    fn from(answer: OneAnswer) -> Self {
        match answer {
            OneAnswer::Judged { receipt } => Ok(receipt),
            OneAnswer::Refused(refused) => Err(crate::Refusal {
                status: refused.status,
                message: refused.error,
                kernel_state: refused.kernel_state,
                retry_after: refused.retry_after_s.map(Duration::from_secs),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_holds_what_was_said_and_nothing_else() {
        let bare = Request::new("r1", "a", "Look");
        assert_eq!(json!(bare), json!({"request_id": "r1", "actor": "a", "intent": "Look"}));
        let full = bare
            .tool_call(ToolCall::new("add").param("a", 1).param("b", 2))
            .param("scope", "x")
            .evidence("e-1")
            .constraints(json!({"scope": "y"}))
            .permit(json!({"id": 1}));
        let value = json!({
            "request_id": "r1", "actor": "a", "intent": "Look",
            "tool_call": {"name": "add", "params": {"a": 1, "b": 2}},
            "params": {"scope": "x"}, "evidence": ["e-1"], "constraints": {"scope": "y"}, "permit": {"id": 1},
        });
        assert_eq!(json!(full), value);
        assert_eq!(serde_json::from_value::<Request>(value).unwrap(), full);
    }

    fn receipt() -> Value {
        json!({"request_id": "r1", "status": "ACCEPTED", "decision": "ALLOW", "state_from": "IDLE",
            "state_to": "IDLE", "ts_ms": 5, "error": null, "evidence_hash": null, "tool_result": 3, "result": 3})
    }

    #[test]
    fn a_receipt_is_read_with_what_a_newer_server_adds() {
        let mut newer = receipt();
        newer["trace"] = json!({"x": [1, 2]});
        let read: Receipt = serde_json::from_value(newer.clone()).unwrap();
        assert!(read.is_allowed());
        newer["decision"] = json!("DEFER");
        let read: Receipt = serde_json::from_value(newer).unwrap();
        assert_eq!(read.decision, Decision::Other);
        assert!(!read.is_allowed(), "what is not understood is no permission");
    }

    #[test]
    fn a_receipt_without_a_decision_is_none() {
        for field in ["request_id", "status", "decision", "ts_ms"] {
            let mut cut = receipt();
            cut.as_object_mut().unwrap().remove(field);
            assert!(serde_json::from_value::<Receipt>(cut).is_err(), "{field}");
        }
    }

    #[test]
    fn answers_of_a_batch_are_told_apart() {
        let answer = json!({"results": [{"receipt": receipt()}, {"status": 409, "error": "x", "kernel_state": "HALTED"},
            {"status": 503, "error": "y", "retry_after_s": 1}]});
        let read: BatchAnswer = serde_json::from_value(answer).unwrap();
        let results: Vec<Result<Receipt, crate::Refusal>> = read.results.into_iter().map(Into::into).collect();
        assert!(results[0].as_ref().unwrap().is_allowed());
        assert!(results[1].as_ref().unwrap_err().is_halted());
        assert_eq!(results[2].as_ref().unwrap_err().retry_after, Some(Duration::from_secs(1)));
    }
}

//! What a ledger says of approvals: which were asked for, what was said of them, which were used.
//!
//! Three records make an approval, each an ordinary one: the decision that denied because a policy escalated (it says that
//! the request waits), an event with the word of a human, and the decision that it allowed (it says that it is used). The
//! book is the same after every record whether it was built while they were written or read again, which is what makes a
//! restart harmless.

use gavel_kernel::ApprovalState;
use gavel_kernel::json;
use gavel_ledger::{Kind, RecordView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Approvals that are used, rejected or expired and still shown: the latest.
const FINISHED_MAX: usize = 1_000;
/// Characters of an intent that are kept; the record has all of it.
const INTENT_CHARS_MAX: usize = 1_000;

/// A request that waits for a human, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its name.
    pub id: String,
    /// Its place among all of its kernel.
    pub number: u64,
    /// The first record that says that it waits; what the policies were asked stands there.
    pub record: u64,
    /// The request by which it was asked for.
    pub request_id: String,
    /// The key by which it was asked for.
    pub caller: String,
    /// `submit` or `decide`.
    pub mode: String,
    /// What it is for.
    #[serde(flatten)]
    pub bound: Bound,
    /// The tool that is to run.
    pub tool: Option<String>,
    /// What for, in the agent's words; shortened.
    pub intent: String,
    /// SHA-256 of the tool's parameters.
    pub arguments_digest: String,
    /// Why a human is asked: policy and reason.
    pub reasons: Vec<Cause>,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it is void.
    pub expires_ms: u64,
    /// The word of a human.
    pub word: Option<Given>,
    /// What it allowed.
    pub used: Option<Use>,
}

/// What an approval is bound to. Whatever of it differs, the approval is for something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Who asks.
    pub actor: String,
    /// SHA-256 of everything that the policies see of the request but its id and its times.
    pub request_digest: String,
    /// The set of policies that escalated.
    pub policy_set: String,
    /// The digest of the jurisdiction that it was judged under.
    pub jurisdiction: String,
}

/// Why a human is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The policy that escalated.
    pub policy: String,
    /// Its reason; the first one's as in the receipt's error.
    pub reason: String,
}

/// The word of a human.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Approved, or rejected.
    pub approved: bool,
    /// By whom: the name of a key, or `webhook:NAME`.
    pub by: String,
    /// Whether `by` is a key's name, so that it can be told apart from another.
    pub keyed: bool,
    /// Why.
    pub reason: String,
    /// When.
    pub ts_ms: u64,
    /// The record of it.
    pub record: u64,
}

/// The decision that an approval allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The request.
    pub request_id: String,
    /// The key that sent it.
    pub caller: String,
    /// When.
    pub ts_ms: u64,
    /// The record of the decision.
    pub record: u64,
}

/// What follows from the records of a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    /// By id.
    pub(crate) approvals: BTreeMap<String, Approval>,
    /// The number of the next one.
    pub(crate) next: u64,
}

/// What the `meta` of a decision says of an approval, under `approval`.
#[derive(Deserialize)]
struct Noted {
    state: ApprovalState,
    id: Option<String>,
    #[serde(default)]
    number: u64,
    #[serde(default)]
    request_digest: String,
    #[serde(default)]
    arguments_digest: String,
    #[serde(default)]
    jurisdiction: String,
    #[serde(default)]
    reasons: Vec<Cause>,
    #[serde(default)]
    created_ms: u64,
    #[serde(default)]
    expires_ms: u64,
}

#[derive(Deserialize)]
struct Decision {
    approval: Option<Noted>,
    caller: String,
    mode: String,
    policy_set: String,
    tool_name: Option<String>,
    request: Option<Asking>,
}

/// Who asked for what: in the entry of a record that closes its request, else in its `meta`.
#[derive(Deserialize)]
struct Asking {
    request_id: String,
    actor: String,
    intent: String,
}

/// The `meta` of the word of a human.
#[derive(Deserialize)]
struct WordEvent {
    event: String,
    id: String,
    approved: bool,
    who: String,
    why: String,
    keyed: bool,
}

/// The word under `event` in the record of a human's word.
const EVENT: &str = "approval";

/// Whether a record may say something of approvals: quickly no for most.
fn about_approvals(meta: &str) -> bool {
    meta.contains("\"approval\":{") || meta.contains("\"event\":\"approval\"")
}

impl Approval {
    /// How it stands at a time.
    #[must_use]
    pub fn state(&self, now_ms: u64) -> ApprovalState {
        match (&self.used, &self.word) {
            (Some(_), _) => ApprovalState::Used,
            (None, Some(word)) if !word.approved => ApprovalState::Rejected,
            _ if self.expires_ms <= now_ms => ApprovalState::Expired,
            (None, Some(_)) => ApprovalState::Approved,
            (None, None) => ApprovalState::Waiting,
        }
    }

    /// Whether it still decides about requests, and so takes a place.
    #[must_use]
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.used.is_none() && now_ms < self.expires_ms
    }

    /// What a decision's record says of it while it waits. Every one says all of it: whichever is durable first makes it.
    pub(crate) fn waiting(&self) -> Value {
        json!({
            "state": ApprovalState::Waiting,
            "id": self.id,
            "number": self.number,
            "request_digest": self.bound.request_digest,
            "arguments_digest": self.arguments_digest,
            "jurisdiction": self.bound.jurisdiction,
            "reasons": self.reasons,
            "created_ms": self.created_ms,
            "expires_ms": self.expires_ms,
        })
    }

    /// What the record of the decision says that it allowed.
    pub(crate) fn using(&self) -> Value {
        let (by, word) = self.word.as_ref().map(|word| (word.by.as_str(), word.record)).unzip();
        json!({"state": ApprovalState::Used, "id": self.id, "by": by, "word": word})
    }

    /// The `meta` of the record of a human's word.
    pub(crate) fn word_event(&self, approved: bool, (by, keyed): (&str, bool), reason: &str) -> String {
        json::canonical(&json!({
            "event": EVENT,
            "id": self.id,
            "approved": approved,
            "who": by,
            "keyed": keyed,
            "why": reason,
            "record": self.record,
            "tool": self.tool,
            "request_digest": self.bound.request_digest,
            "arguments_digest": self.arguments_digest,
            "policy_set": self.bound.policy_set,
        }))
    }
}

impl Book {
    /// Goes on by a record.
    pub(crate) fn take(&mut self, record: &RecordView) {
        if !about_approvals(record.meta()) {
            return;
        }
        // What says nothing of an approval that is known changes nothing.
        let _ = match record.known_kind() {
            Some(Kind::Decision) => self.take_decision(record),
            Some(Kind::Event) => self.take_word(record),
            _ => None,
        };
    }

    fn take_decision(&mut self, record: &RecordView) -> Option<()> {
        let Decision { approval, caller, mode, policy_set, tool_name, request } =
            serde_json::from_str(record.meta()).ok()?;
        let noted = approval?;
        let id = noted.id?;
        let asking = match record.entry() {
            Some(entry) => serde_json::from_str(entry.data).ok()?,
            None => request?,
        };
        let Asking { request_id, actor, intent } = asking;
        if noted.state == ApprovalState::Used {
            let used = Use { request_id, caller, ts_ms: record.ts_ms(), record: record.index() };
            self.approvals.get_mut(&id)?.used.get_or_insert(used);
        } else if noted.state == ApprovalState::Waiting {
            self.next = self.next.max(noted.number + 1);
            self.approvals.entry(id.clone()).or_insert_with(|| Approval {
                id,
                number: noted.number,
                record: record.index(),
                request_id,
                caller,
                mode,
                bound: Bound {
                    actor,
                    request_digest: noted.request_digest,
                    policy_set,
                    jurisdiction: noted.jurisdiction,
                },
                tool: tool_name,
                intent: shortened(&intent),
                arguments_digest: noted.arguments_digest,
                reasons: noted.reasons,
                created_ms: noted.created_ms,
                expires_ms: noted.expires_ms,
                word: None,
                used: None,
            });
        }
        Some(())
    }

    fn take_word(&mut self, record: &RecordView) -> Option<()> {
        let WordEvent { event, id, approved, who, why, keyed } = serde_json::from_str(record.meta()).ok()?;
        let approval = self.approvals.get_mut(&id).filter(|_| event == EVENT)?;
        let (ts_ms, record) = (record.ts_ms(), record.index());
        approval.word.get_or_insert(Given { approved, by: who, keyed, reason: why, ts_ms, record });
        Some(())
    }

    /// Forgets the oldest of those that decide about nothing any more. Whether one expired is seen by `now_ms`.
    pub(crate) fn forget_finished(&mut self, now_ms: u64) {
        if self.approvals.len() <= FINISHED_MAX {
            return;
        }
        let finished = self.approvals.values().filter(|approval| !approval.is_live(now_ms));
        let mut finished: Vec<(u64, String)> = finished.map(|found| (found.number, found.id.clone())).collect();
        finished.sort_unstable();
        let surplus = finished.len().saturating_sub(FINISHED_MAX);
        for (_, id) in &finished[..surplus] {
            self.approvals.remove(id);
        }
    }
}

/// An intent as it is kept.
pub(crate) fn shortened(intent: &str) -> String {
    intent.chars().take(INTENT_CHARS_MAX).collect()
}

//! Past decisions as a ledger tells them: what was asked, by which set it was judged, and what its
//! policies said.

use crate::policies::shadow::Word;
use gavel_kernel::{ApprovalState, json};
use gavel_ledger::{BlobError, Blobs, Error, RecordView, Records};
use gavel_runtime::{CounterAnswer, CounterOperation, Request, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// A decision that can be judged again.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The record.
    pub index: u64,
    /// What the policies were asked.
    pub request: Arc<Request>,
    /// The digest of the set that judged.
    pub set: String,
    /// What each policy said, in order, up to the one that denied or failed, if one did.
    pub said: Vec<Said>,
    /// What came of it.
    pub word: Word,
    /// Whether it was allowed because a human had approved what a policy escalated.
    pub approved: bool,
}

/// What one policy said.
#[derive(Debug, Clone, Deserialize)]
pub struct Said {
    /// The policy.
    pub name: String,
    /// Its verdict or failure in one word.
    pub verdict: String,
    /// What the host's counters answered it.
    #[serde(default)]
    pub counters: Vec<Counted>,
}

/// An answer of a counter, as it is recorded.
#[derive(Debug, Clone, Deserialize)]
pub struct Counted {
    key: String,
    window_ms: u64,
    answer: u64,
    added: Option<u64>,
}

impl From<Counted> for CounterAnswer {
    fn from(counted: Counted) -> Self {
        let operation = counted.added.map_or(CounterOperation::Read, CounterOperation::Add);
        Self { operation, key: counted.key, window_ms: counted.window_ms, answer: counted.answer }
    }
}

/// The word of a policy that asks for a human.
pub(super) const ESCALATE: &str = "escalate";

/// Why a decision cannot be judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// It was denied before any policy was asked.
    BeforePolicies,
    /// The record does not hold what was asked (`record_requests: false`, or larger than a blob may
    /// be).
    NotRecorded,
    /// It lay in a blob that was erased on purpose.
    Erased,
    /// It should lie in a blob that is not there.
    BlobMissing,
    /// It lies in a blob whose bytes are not what was stored.
    BlobDamaged,
    /// It was denied for what the machine did at that moment, not for what a policy said.
    OfItsMoment,
}

impl Skipped {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BeforePolicies => "denied before any policy was asked",
            Self::NotRecorded => "what was asked is not recorded",
            Self::Erased => "erased: what was asked is gone on purpose",
            Self::BlobMissing => "the blob with what was asked is missing",
            Self::BlobDamaged => "the blob with what was asked is damaged",
            Self::OfItsMoment => "denied for lateness, want of instances, or quarantine",
        }
    }
}

/// The decisions of a ledger, oldest first.
pub struct Past {
    records: Records,
    blobs: Blobs,
}

#[derive(Deserialize)]
struct Meta {
    asked: Option<Asked>,
    asked_blob: Option<AskedBlob>,
    policy_set: String,
    #[serde(default)]
    policies: Vec<Said>,
    request: Option<Named>,
    stage: Option<String>,
    tool_name: Option<String>,
    approval: Option<Approval>,
}

#[derive(Deserialize)]
struct Approval {
    state: ApprovalState,
}

#[derive(Deserialize)]
struct Asked {
    now_ms: u64,
    ts_ms: u64,
    params: Map<String, Value>,
    tool_params: Option<Map<String, Value>>,
    #[serde(default)]
    evidence: Vec<String>,
    constraints: Option<Value>,
}

/// Where it lies what was asked, if not in the record.
#[derive(Deserialize)]
struct AskedBlob {
    sha256: String,
}

#[derive(Deserialize)]
struct Named {
    request_id: String,
    actor: String,
    intent: String,
    error: Option<String>,
}

impl Past {
    /// The decisions among `records`, which are of the ledger in the folder `ledger`.
    #[must_use]
    pub fn new(records: Records, ledger: &Path) -> Self {
        Self { records, blobs: Blobs::of_ledger(ledger) }
    }
}

impl Iterator for Past {
    type Item = Result<Result<Recorded, Skipped>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.find(|record| record.as_ref().map_or(true, |record| record.kind() == "decision"))?;
        Some(record.map(|record| read(&record, &self.blobs)))
    }
}

/// What was asked, from the record or from the blob that it names.
fn asked(meta: &mut Meta, blobs: &Blobs) -> Result<Asked, Skipped> {
    if let Some(asked) = meta.asked.take() {
        return Ok(asked);
    }
    let Some(AskedBlob { sha256 }) = &meta.asked_blob else { return Err(Skipped::NotRecorded) };
    let id = sha256.parse().map_err(|_| Skipped::NotRecorded)?;
    let payload = blobs.get(id).map_err(|why| match why {
        BlobError::Erased { .. } => Skipped::Erased,
        BlobError::Missing { .. } => Skipped::BlobMissing,
        _ => Skipped::BlobDamaged,
    })?;
    serde_json::from_slice(&payload).map_err(|_| Skipped::BlobDamaged)
}

/// Who decided that a request may not pass, of policies that did not all let it pass: the last one, unless that only
/// escalated or less; then the first that escalated.
fn decider(said: &[Said]) -> Option<&Said> {
    let objection = said.last().filter(|last| !["allow", "abstain", "escalate"].contains(&last.verdict.as_str()));
    objection.or_else(|| said.iter().find(|said| said.verdict == ESCALATE))
}

/// Whether the policies that a record names came to asking a human.
pub(crate) fn asked_for_a_human(record: &RecordView) -> bool {
    let meta = serde_json::from_str::<Meta>(record.meta());
    meta.is_ok_and(|meta| decider(&meta.policies).is_some_and(|said| said.verdict == ESCALATE))
}

/// What the policies were asked before a decision.
///
/// # Errors
/// Why the record does not tell.
pub(crate) fn recorded_request(record: &RecordView, blobs: &Blobs) -> Result<Arc<Request>, &'static str> {
    read(record, blobs).map(|recorded| recorded.request).map_err(Skipped::as_str)
}

fn read(record: &RecordView, blobs: &Blobs) -> Result<Recorded, Skipped> {
    let mut meta: Meta = serde_json::from_str(record.meta()).map_err(|_| Skipped::NotRecorded)?;
    let named = match record.entry() {
        Some(entry) => serde_json::from_str(entry.data).ok(),
        None => meta.request.take(),
    };
    let by_policy = meta.stage.as_deref() == Some("policy");
    if meta.stage.as_deref().is_some_and(|stage| stage != "policy" && stage != "execution") {
        return Err(Skipped::BeforePolicies);
    }
    let last = meta.policies.last();
    let late = |said: &Said| ["deadline", "decision_deadline", "instances"].contains(&said.verdict.as_str());
    if by_policy && last.is_none_or(late) {
        return Err(Skipped::OfItsMoment);
    }
    let asked = asked(&mut meta, blobs)?;
    let named = named.ok_or(Skipped::NotRecorded)?;
    let word = match decider(&meta.policies).filter(|_| by_policy) {
        None => Word::Allow,
        Some(said) => Word::Deny {
            policy: said.name.clone(),
            reason: named.error.unwrap_or_default(),
            escalated: said.verdict == "escalate",
        },
    };
    let approved = meta.approval.as_ref().is_some_and(|approval| approval.state == ApprovalState::Used);
    let object = |map: Map<String, Value>| json::canonical(&Value::Object(map));
    let request = Arc::new(Request {
        id: named.request_id,
        now_ms: asked.now_ms,
        ts_ms: asked.ts_ms,
        actor: named.actor,
        intent: named.intent,
        tool_call: meta
            .tool_name
            .zip(asked.tool_params)
            .map(|(name, params)| ToolCall { name, params: object(params) }),
        params: object(asked.params),
        evidence: asked.evidence,
        constraints: asked.constraints.map(|constraints| json::canonical(&constraints)),
    });
    Ok(Recorded { index: record.index(), request, set: meta.policy_set, said: meta.policies, word, approved })
}

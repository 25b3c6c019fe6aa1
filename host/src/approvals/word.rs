//! The word of a human: recorded first, then in force. And what those see who ask for one.

use super::book::{Approval, Given};
use super::queue::Wanted;
use crate::carry::{Panicked, carry};
use crate::decide::Refused;
use crate::kernel::Kernel;
use crate::replay::recorded_request;
use anyhow::{Context, ensure};
use gavel_kernel::ApprovalState;
use gavel_ledger::{Draft, Kind};
use gavel_runtime::Request;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Characters of a reason.
const REASON_CHARS_MAX: usize = 1_000;

/// What a human says of an approval.
#[derive(Debug, Clone)]
pub struct Word {
    /// Approved, or rejected.
    pub approve: bool,
    /// Who says it: the name of a key, or `webhook:NAME`.
    pub by: String,
    /// Whether that is a key's name.
    pub keyed: bool,
    /// Why.
    pub reason: String,
}

/// Why a word does not count. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WordError {
    /// There is no such approval, or none any more.
    #[error("there is no approval '{0}'")]
    Absent(String),
    /// It no longer waits, or nobody could use it.
    #[error("{0}")]
    Conflict(String),
    /// Whoever asks cannot approve.
    #[error("key '{by}' asked for approval {id}: another must approve it (approvals.self_approval)")]
    Own {
        /// The approval.
        id: String,
        /// The key.
        by: String,
    },
    /// The reason is too long.
    #[error("the reason has {chars} characters, a record keeps {max} of it")]
    TooLong {
        /// So many.
        chars: usize,
        /// So many may be.
        max: usize,
    },
    /// The kernel is halted or replaced, or its ledger takes no record.
    #[error(transparent)]
    Kernel(#[from] Refused),
}

impl Kernel {
    /// Approve or reject what waits; the approval after it. Is carried to its end: dropping the future stops only the
    /// waiting.
    ///
    /// # Errors
    /// [`WordError`]; nothing was changed then.
    pub async fn give_word(self: &Arc<Self>, id: &str, word: Word) -> Result<Value, WordError> {
        let pass = self.gate.enter().ok_or_else(|| Refused::Replaced(self.id().to_owned()))?;
        let (kernel, id) = (Arc::clone(self), id.to_owned());
        let recorded = async move {
            let _inside = pass;
            kernel.record_word(&id, word).await
        };
        let panicked = || Err(Refused::Ledger("an approval was broken off by a fault of the host".into()).into());
        carry(&self.tasks, recorded).await.unwrap_or_else(|Panicked| panicked())
    }

    async fn record_word(&self, id: &str, word: Word) -> Result<Value, WordError> {
        self.refuse_if_halted()?;
        let chars = word.reason.chars().count();
        if chars > REASON_CHARS_MAX {
            return Err(WordError::TooLong { chars, max: REASON_CHARS_MAX });
        }
        let _deciding = self.approvals.deciding.lock().await;
        let ts_ms = self.now_ms();
        let (approval, state) = self.approvals.get(id, ts_ms).ok_or_else(|| WordError::Absent(shown(id)))?;
        self.check_word(&approval, state, &word)?;
        let meta = approval.word_event(word.approve, (&word.by, word.keyed), &word.reason);
        let draft = Draft { kind: Kind::Event, ts_ms, meta, entry: None, closes: None };
        let record = self.append(draft).await?.index;
        let Word { approve: approved, by, keyed, reason } = word;
        tracing::info!(kernel = self.id(), approval = id, approved, by, "a human decided");
        let said = self.approvals.said(id, Given { approved, by, keyed, reason, ts_ms, record });
        said.map(|approval| self.describe_approval(&approval, ts_ms)).ok_or_else(|| WordError::Absent(shown(id)))
    }

    fn check_word(&self, approval: &Approval, state: ApprovalState, word: &Word) -> Result<(), WordError> {
        let id = &approval.id;
        if state != ApprovalState::Waiting {
            let by = approval.word.as_ref().map(|word| format!(" by {}", word.by)).unwrap_or_default();
            return Err(WordError::Conflict(format!("approval {id} does not wait: it is {}{by}", state.as_str())));
        }
        if !word.approve {
            return Ok(());
        }
        if word.keyed && word.by == approval.caller && !self.approvals.limits().self_approval {
            return Err(WordError::Own { id: id.clone(), by: word.by.clone() });
        }
        if self.is_void(approval) {
            let why = "the policies changed since it was asked for: have the agent ask again";
            return Err(WordError::Conflict(format!("approval {id} is void: {why}")));
        }
        Ok(())
    }

    /// Whether nothing is judged any more by what the approval is bound to.
    fn is_void(&self, approval: &Approval) -> bool {
        let line = self.policies();
        let bound = &approval.bound;
        let trial = line.trial.as_ref().map(|trial| &trial.set);
        let judged_by = |set: &str| std::iter::once(&line.serving).chain(trial).any(|known| **known.digest() == *set);
        *line.statute.digest != *bound.jurisdiction || !judged_by(&bound.policy_set)
    }

    /// The approvals that are wanted, oldest first.
    #[must_use]
    pub fn approvals(&self, wanted: &Wanted) -> Value {
        let now_ms = self.now_ms();
        let page = self.approvals.page(wanted, now_ms);
        let next = page.approvals.last().filter(|_| page.more).map(|(approval, _)| approval.number.to_string());
        let shown: Vec<Value> =
            page.approvals.iter().map(|(approval, _)| self.describe_approval(approval, now_ms)).collect();
        json!({"approvals": shown, "next_cursor": next, "waiting": page.waiting})
    }

    /// An approval, with what was asked as the ledger has it. Blocks.
    #[must_use]
    pub fn approval(&self, id: &str) -> Option<Value> {
        let now_ms = self.now_ms();
        let (approval, _) = self.approvals.get(id, now_ms)?;
        let mut told = self.describe_approval(&approval, now_ms);
        match self.request_of(&approval) {
            Ok(request) => told["request"] = request,
            Err(why) => told["request_not_shown"] = json!(format!("{why:#}")),
        }
        Some(told)
    }

    /// The actor that an approval is for.
    #[must_use]
    pub fn approval_actor(&self, id: &str) -> Option<String> {
        self.approvals.get(id, self.now_ms()).map(|(approval, _)| approval.bound.actor)
    }

    /// When an approval is void.
    #[must_use]
    pub fn approval_expires_ms(&self, id: &str) -> Option<u64> {
        self.approvals.get(id, self.now_ms()).map(|(approval, _)| approval.expires_ms)
    }

    /// Wait until an approval no longer waits, but not longer than `limit`.
    pub async fn wait_for_word(&self, id: &str, limit: Duration) {
        self.approvals.wait(id, limit, || self.now_ms()).await;
    }

    /// An approval as people see it.
    pub(crate) fn describe_approval(&self, approval: &Approval, now_ms: u64) -> Value {
        let mut told = json!(approval);
        let state = approval.state(now_ms);
        told["state"] = json!(state);
        told["kernel"] = json!(self.name);
        told["kernel_id"] = json!(self.id());
        let matters = matches!(state, ApprovalState::Waiting | ApprovalState::Approved);
        told["void"] = json!(matters && self.is_void(approval));
        told
    }

    /// What was asked, as the record holds it, which must be what the approval is bound to.
    fn request_of(&self, approval: &Approval) -> anyhow::Result<Value> {
        let record = crate::index::source::record(self.ledger(), approval.record)?;
        let blobs = self.blobs.as_ref().context("a kernel in memory keeps no requests")?;
        let request = recorded_request(&record, blobs).map_err(anyhow::Error::msg)?;
        ensure!(
            super::ask::request_digest(&request) == approval.bound.request_digest,
            "record {} holds another request than the one that waits",
            approval.record
        );
        Ok(shape(&request))
    }
}

/// A request as a caller sends it.
fn shape(request: &Request) -> Value {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| json!(text));
    json!({
        "actor": request.actor,
        "intent": request.intent,
        "tool_call": request.tool_call.as_ref().map(|call| json!({"name": call.name, "params": read(&call.params)})),
        "params": read(&request.params),
        "evidence": request.evidence,
        "constraints": request.constraints.as_deref().map(read),
    })
}

fn shown(id: &str) -> String {
    id.chars().take(64).collect()
}

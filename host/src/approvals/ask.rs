//! The way of a request through the queue: what a policy escalated is asked about, and what was approved is used.

use super::book::{Approval, Bound, Cause, Use, shortened};
use crate::decide::{Principal, Refused};
use crate::kernel::Kernel;
use crate::policies::life::Line;
use gavel_kernel::{ApprovalNote, ApprovalState, Request as Submitted, json};
use gavel_ledger::Committed;
use gavel_runtime::{Evaluation, Request, Verdict};
use serde_json::{Value, json};
use std::fmt::Write;

/// Characters of the reason of the first policy that escalated.
const REASON_CHARS_MAX: usize = 1_024;
/// Characters of the reasons of the others.
const FURTHER_REASON_CHARS_MAX: usize = 128;
/// So many policies are named.
const REASONS_MAX: usize = 5;
/// Bytes of an intent beside which a record has room for more reasons than one.
const INTENT_BYTES_MAX: usize = 4_096;

/// How a request stands that a policy escalated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was approved, and nobody else has this approval.
    Allowed(Approval),
    /// A human must decide.
    Waits(Approval),
    /// A human said no.
    Rejected(Approval),
    /// The one who asks is the one who approved it.
    Own(Approval),
    /// So much waits already; the limit.
    Full(&'static str),
}

/// A request that a policy escalated.
pub(crate) struct Escalated<'a> {
    pub(crate) request: &'a Submitted,
    pub(crate) principal: &'a Principal,
    pub(crate) mode: &'static str,
    pub(crate) asked: &'a Request,
    pub(crate) evaluations: &'a [Evaluation],
    pub(crate) policy_set: &'a str,
    pub(crate) now_ms: u64,
}

impl Asked {
    /// What the `meta` of the decision says of it.
    pub(crate) fn to_meta(&self) -> Value {
        match self {
            Self::Allowed(approval) => approval.using(),
            Self::Waits(approval) => approval.waiting(),
            Self::Rejected(approval) => json!({"state": ApprovalState::Rejected, "id": approval.id}),
            Self::Own(approval) => json!({"state": ApprovalState::Refused, "id": approval.id}),
            Self::Full(limit) => json!({"state": ApprovalState::Refused, "why": limit}),
        }
    }

    /// What the receipt says of it.
    pub(crate) fn note(&self) -> ApprovalNote {
        let of = |approval: &Approval, state| ApprovalNote {
            id: Some(approval.id.clone()),
            state,
            expires_ms: Some(approval.expires_ms),
            by: approval.word.as_ref().map(|word| word.by.clone()),
            reason: approval.word.as_ref().map(|word| word.reason.clone()),
        };
        match self {
            Self::Allowed(approval) => of(approval, ApprovalState::Used),
            Self::Waits(approval) => of(approval, ApprovalState::Waiting),
            Self::Rejected(approval) => of(approval, ApprovalState::Rejected),
            Self::Own(approval) => ApprovalNote {
                reason: Some("the key that approved it cannot use it (approvals.self_approval)".into()),
                ..of(approval, ApprovalState::Refused)
            },
            Self::Full(limit) => ApprovalNote {
                id: None,
                state: ApprovalState::Refused,
                expires_ms: None,
                by: None,
                reason: Some(format!("too many approvals wait already ({limit})")),
            },
        }
    }
}

impl Kernel {
    /// Ask about a request that a policy escalated. `None` where there is no queue.
    pub(crate) fn ask_for_approval(&self, escalated: &Escalated<'_>, line: &Line) -> Option<Asked> {
        // Without a ledger on disk nothing can wait, and nothing be spent for good.
        self.dir.as_ref()?;
        let Escalated { request, principal, asked, now_ms, .. } = escalated;
        let bound = Bound {
            actor: asked.actor.clone(),
            request_digest: request_digest(asked),
            policy_set: escalated.policy_set.to_owned(),
            jurisdiction: line.statute.digest.to_string(),
        };
        let arguments = asked.tool_call.as_ref().map_or(&asked.params, |call| &call.params);
        let told = self.approvals.ask(&bound, &principal.name, *now_ms, |number, now_ms| Approval {
            id: self.approval_id(number, now_ms, &bound),
            number,
            record: 0,
            request_id: request.request_id().to_owned(),
            caller: principal.name.clone(),
            mode: escalated.mode.to_owned(),
            bound: bound.clone(),
            tool: asked.tool_call.as_ref().map(|call| call.name.clone()),
            intent: shortened(request.intent()),
            arguments_digest: json::sha256_hex(arguments.as_bytes()),
            reasons: reasons(escalated.evaluations, request.intent()),
            created_ms: now_ms,
            expires_ms: now_ms.saturating_add(self.approvals.limits().expiry_ms),
            word: None,
            used: None,
        });
        if let Asked::Full(limit) = told {
            tracing::warn!(kernel = self.id(), actor = asked.actor, limit, "nobody is asked: too many approvals wait");
        }
        Some(told)
    }

    /// Short enough to be typed, and of this kernel and this request only.
    fn approval_id(&self, number: u64, now_ms: u64, bound: &Bound) -> String {
        let of = json!([self.id(), number, now_ms, bound.actor, bound.request_digest]);
        format!("apr-{}", &json::sha256_hex(json::canonical(&of).as_bytes())[..20])
    }

    /// The decision of a request that asked was recorded, or could not be.
    pub(crate) fn settle_approval(
        &self,
        asked: Option<&Asked>,
        (request, principal, now_ms): (&Submitted, &Principal, u64),
        recorded: &Result<Committed, Refused>,
    ) {
        let Some(asked) = asked else { return };
        match recorded {
            Ok(committed) => {
                let used = Use {
                    request_id: request.request_id().to_owned(),
                    caller: principal.name.clone(),
                    ts_ms: now_ms,
                    record: committed.index,
                };
                self.approvals.recorded(asked, used);
            }
            Err(Refused::Overloaded | Refused::Halted { .. }) => self.approvals.not_recorded(asked, true),
            Err(_) => self.approvals.not_recorded(asked, false),
        }
    }
}

/// SHA-256 of everything that the policies see of a request but its id and its times.
pub(super) fn request_digest(asked: &Request) -> String {
    let text = |text: &str| json::canonical(&Value::from(text));
    let mut said = String::from("{");
    // Writing to a string cannot fail. What is JSON in a request is canonical already.
    let _ = write!(said, "\"actor\":{},", text(&asked.actor));
    if let Some(constraints) = &asked.constraints {
        let _ = write!(said, "\"constraints\":{constraints},");
    }
    let _ =
        write!(said, "\"evidence\":{},\"intent\":{},", json::canonical(&json!(asked.evidence)), text(&asked.intent));
    let _ = write!(said, "\"params\":{}", asked.params);
    if let Some(call) = &asked.tool_call {
        let _ = write!(said, ",\"tool\":{},\"tool_params\":{}", text(&call.name), call.params);
    }
    said.push('}');
    json::sha256_hex(said.as_bytes())
}

/// Why a human is asked. The first reason is that of the receipt's error; the others are shortened.
fn reasons(evaluations: &[Evaluation], intent: &str) -> Vec<Cause> {
    let escalations = evaluations.iter().filter_map(|evaluation| match &evaluation.verdict {
        Ok(Verdict::Escalate(reason)) => Some((&*evaluation.policy, reason.as_str())),
        _ => None,
    });
    let roomy = intent.len() <= INTENT_BYTES_MAX;
    let causes = escalations.take(if roomy { REASONS_MAX } else { 1 }).enumerate().map(|(at, (policy, reason))| {
        let chars = if at == 0 && roomy { REASON_CHARS_MAX } else { FURTHER_REASON_CHARS_MAX };
        Cause { policy: policy.to_owned(), reason: reason.chars().take(chars).collect() }
    });
    causes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_runtime::ToolCall;

    fn asked() -> Request {
        Request {
            id: "r".into(),
            now_ms: 1,
            ts_ms: 1,
            actor: "a".into(),
            intent: "i".into(),
            tool_call: Some(ToolCall { name: "t".into(), params: r#"{"n":1}"#.into() }),
            params: "{}".into(),
            evidence: vec!["e".into()],
            constraints: None,
        }
    }

    #[test]
    fn the_digest_is_of_everything_but_the_id_and_the_times() {
        let digest = request_digest(&asked());
        assert_eq!(request_digest(&Request { id: "r-2".into(), now_ms: 2, ts_ms: 3, ..asked() }), digest);
        let tool = |name: &str, params: &str| Some(ToolCall { name: name.into(), params: params.into() });
        for other in [
            Request { actor: "b".into(), ..asked() },
            Request { intent: "j".into(), ..asked() },
            Request { tool_call: tool("t", r#"{"n":2}"#), ..asked() },
            Request { tool_call: tool("u", r#"{"n":1}"#), ..asked() },
            Request { tool_call: None, ..asked() },
            Request { params: r#"{"x":1}"#.into(), ..asked() },
            Request { evidence: vec!["e".into(), "f".into()], ..asked() },
            Request { evidence: Vec::new(), ..asked() },
            Request { constraints: Some("{}".into()), ..asked() },
        ] {
            assert_ne!(request_digest(&other), digest, "{other:?}");
        }
    }
}

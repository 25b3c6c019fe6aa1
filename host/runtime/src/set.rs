//! An ordered set of policies that judges as one.

use crate::{Counters, Evaluation, FailedClosed, Policy, Request, Verdict};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Policies in the order in which they are asked. The first that denies or fails decides, and the rest are not asked.
/// One that escalates is no end: a human is asked only for what no other policy denies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PolicySet {
    policies: Arc<[Policy]>,
    digest: Arc<str>,
    deadline: Duration,
}

/// What the policies of a set said to one request, in order, up to the one that denied or failed, if one did.
#[derive(Debug)]
pub struct Judged {
    /// One evaluation for each policy that was asked.
    pub evaluations: Vec<Evaluation>,
}

/// Why a set does not let a request pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The name of the policy that decided.
    pub policy: Arc<str>,
    /// Its reason, or `failed closed: ` and the limit.
    pub reason: String,
    /// The limit or fault, when the policy failed.
    pub failure: Option<FailedClosed>,
    /// Whether the policy asks for a human.
    pub escalated: bool,
}

impl PolicySet {
    /// A set of these policies. Its digest covers names, components, configurations and limits.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut digest = Sha256::new();
        for policy in &policies {
            let limits = format!("{:?}", policy.limits());
            for part in [policy.name(), policy.digest(), policy.config(), &limits] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
        }
        let deadline = policies.first().map_or(50, |policy| policy.inner.sandbox.inner.options.decision_deadline_ms);
        Self {
            digest: format!("sha256:{}", hex::encode(digest.finalize())).into(),
            policies: policies.into(),
            deadline: Duration::from_millis(deadline),
        }
    }

    /// The same set under a digest of the owner's making, which must change whenever a judgement of
    /// the set could.
    #[must_use]
    pub fn with_digest(self, digest: impl Into<Arc<str>>) -> Self {
        Self { digest: digest.into(), ..self }
    }

    /// `sha256:` and a digest that changes whenever a judgement of the set could.
    #[must_use]
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// The policies, in order.
    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Ask the policies in order until one denies or fails.
    pub async fn judge(&self, request: Arc<Request>, counters: Arc<dyn Counters>) -> Judged {
        self.judge_until(request, counters, objects).await
    }

    /// Ask the policies in order until one denies, escalates or fails: how it was done before a human could be asked, for
    /// judging decisions of that time again.
    pub async fn judge_until_escalation(&self, request: Arc<Request>, counters: Arc<dyn Counters>) -> Judged {
        self.judge_until(request, counters, |verdict| objects(verdict) || matches!(verdict, Ok(Verdict::Escalate(_))))
            .await
    }

    async fn judge_until(
        &self,
        request: Arc<Request>,
        counters: Arc<dyn Counters>,
        ends: impl Fn(&Result<Verdict, FailedClosed>) -> bool,
    ) -> Judged {
        let started = Instant::now();
        let mut judged = Judged { evaluations: Vec::with_capacity(self.policies.len()) };
        for policy in self.policies.iter() {
            let left = self.deadline.saturating_sub(started.elapsed());
            let mut evaluation = policy.evaluate(Arc::clone(&request), Arc::clone(&counters), left).await;
            self.blame_the_decision(&mut evaluation, policy, left);
            let last = ends(&evaluation.verdict);
            judged.evaluations.push(evaluation);
            if last {
                break;
            }
        }
        judged
    }

    /// Where the decision's deadline cut a policy short of its own, name that limit instead.
    fn blame_the_decision(&self, evaluation: &mut Evaluation, policy: &Policy, left: Duration) {
        let short = left < Duration::from_millis(policy.limits().deadline_ms);
        if short && matches!(evaluation.verdict, Err(FailedClosed::Deadline { .. })) {
            let limit_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
            evaluation.verdict = Err(FailedClosed::DecisionDeadline { limit_ms });
        }
    }
}

impl Judged {
    /// Why the request may not pass; `None` when every policy allowed or abstained. A denial counts more than an
    /// escalation before it; of several escalations the first is named.
    #[must_use]
    pub fn denial(&self) -> Option<Denial> {
        let objection = self.evaluations.last().filter(|last| objects(&last.verdict));
        let decided = objection.or_else(|| self.escalations().next())?;
        let (reason, failure, escalated) = match &decided.verdict {
            Ok(Verdict::Allow | Verdict::Abstain) => return None,
            Ok(Verdict::Deny(reason)) => (reason.clone(), None, false),
            Ok(Verdict::Escalate(reason)) => (reason.clone(), None, true),
            Err(why) => (format!("failed closed: {why}"), Some(why.clone()), false),
        };
        Some(Denial { policy: Arc::clone(&decided.policy), reason, failure, escalated })
    }

    fn escalations(&self) -> impl Iterator<Item = &Evaluation> {
        self.evaluations.iter().filter(|evaluation| matches!(evaluation.verdict, Ok(Verdict::Escalate(_))))
    }
}

/// Whether a request may not pass whatever anybody else says.
fn objects(verdict: &Result<Verdict, FailedClosed>) -> bool {
    matches!(verdict, Ok(Verdict::Deny(_)) | Err(_))
}

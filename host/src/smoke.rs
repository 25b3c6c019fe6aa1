//! The smoke test of a kernel before traffic comes to it: does it judge, do its policies answer, does its ledger
//! record?
//!
//! The request is nobody's: the actor is SYSTEM, which no jurisdiction needs to know, so a denial is as good an answer
//! as any. It touches no counter and no permit of those that count. Its record says that it is one.

use crate::decide::Principal;
use crate::kernel::Kernel;
use crate::record::{self, Mode, verdict_label};
use gavel_kernel::{Request, State};
use gavel_runtime::{Counters, FailedClosed, WindowedCounters};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Keys that one policy may count under while it is tried.
const COUNTER_KEYS: usize = 1_024;

impl Kernel {
    /// Try the kernel; what it answered.
    ///
    /// # Errors
    /// Why no traffic should come to it.
    pub(crate) async fn smoke_test(self: &Arc<Self>) -> Result<Value, String> {
        if self.state() != State::Idle {
            return Err(format!("kernel {} is {}, not IDLE", self.id(), self.state()));
        }
        let now_ms = self.clock.now_ms();
        let request = json!({
            "request_id": format!("SMOKE-{}", self.id()),
            "actor": "SYSTEM",
            "intent": "Smoke test before traffic",
        });
        let request = Request::from_value(request, now_ms).map_err(|why| format!("smoke test: {why}"))?;
        let policies = self.try_policies(&request, now_ms).await?;
        let before = self.ledger.snapshot();
        let receipt = self.carry(request, Principal::unbound("gavel"), Mode::Smoke).await;
        let receipt = receipt.map_err(|why| format!("kernel {} does not judge: {why}", self.id()))?;
        let after = self.ledger.snapshot();
        if after.entries != before.entries + 1 || receipt.evidence_hash.as_ref() != Some(&after.chain_head) {
            return Err(format!(
                "kernel {} judged, but its ledger went from {} to {} entries and ends in {}, not in the receipt's {}",
                self.id(),
                before.entries,
                after.entries,
                after.chain_head,
                receipt.evidence_hash.unwrap_or_default()
            ));
        }
        Ok(json!({
            "decision": receipt.decision,
            "error": receipt.error,
            "evidence_hash": receipt.evidence_hash,
            "policies": policies,
        }))
    }

    /// Ask each policy by itself. What only a busy machine did is told, and is no reason to refuse.
    async fn try_policies(&self, request: &Request, now_ms: u64) -> Result<Vec<Value>, String> {
        let asked = Arc::new(record::guest_request(request, now_ms));
        let serving = Arc::clone(&self.life.line().serving);
        let mut told = Vec::new();
        for (_, policy, health) in serving.members() {
            if health.quarantined().is_some() {
                told.push(json!({"name": policy.name(), "verdict": "quarantined"}));
                continue;
            }
            let counters: Arc<dyn Counters> = WindowedCounters::new(COUNTER_KEYS).into();
            let limit = Duration::from_millis(policy.limits().deadline_ms);
            let evaluation = policy.evaluate(Arc::clone(&asked), counters, limit).await;
            if let Err(why) = &evaluation.verdict
                && !is_of_the_moment(why)
            {
                return Err(format!("kernel {}: policy {} fails its smoke test: {why}", self.id(), policy.name()));
            }
            told.push(json!({"name": policy.name(), "verdict": verdict_label(&evaluation.verdict)}));
        }
        Ok(told)
    }
}

fn is_of_the_moment(why: &FailedClosed) -> bool {
    matches!(
        why,
        FailedClosed::Deadline { .. } | FailedClosed::DecisionDeadline { .. } | FailedClosed::Instances { .. }
    )
}

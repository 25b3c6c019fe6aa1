//! A loaded policy, and how it is asked.

use crate::bindings::PolicyPre;
use crate::evaluate::{Call, Guest, Instance};
use crate::{Counters, Evaluation, FailedClosed, Limits, Metadata, Request, Sandbox};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Decisions after which a warm instance is replaced, so that a slow leak in a guest ends.
const WARM_CALLS_MAX: u32 = 10_000;
/// Warm instances of one policy that are kept while idle.
const WARM_INSTANCES_MAX: usize = 16;

/// A policy component with its configuration and limits, compiled and linked. Cheap to clone.
#[derive(Clone)]
pub struct Policy {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) name: Arc<str>,
    pub(crate) digest: String,
    pub(crate) bytes: usize,
    pub(crate) config: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) metadata: Metadata,
    pub(crate) sandbox: Sandbox,
    pub(crate) pre: PolicyPre<Guest>,
    pub(crate) warm: Mutex<Vec<(Instance, u32)>>,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.inner.name)
            .field("digest", &self.inner.digest)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// The name that the operator gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// `sha256:` and the hex digest of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// The component's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.bytes
    }

    /// What the policy says of itself.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Its configuration as the guest gets it: JSON text, `null` for none.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.inner.config
    }

    /// Ask the policy, within its own deadline or what is `left` of the decision's, whichever is
    /// less. Never fails: what goes wrong is in [`Evaluation::verdict`].
    ///
    /// Must be called within a tokio runtime that has its timer.
    pub async fn evaluate(&self, request: Arc<Request>, counters: Arc<dyn Counters>, left: Duration) -> Evaluation {
        let limits = self.inner.limits.clone();
        let deadline = Duration::from_millis(limits.deadline_ms).min(left);
        let (name, config) = (Arc::clone(&self.inner.name), Arc::clone(&self.inner.config));
        let call = Call::evaluate(name, config, limits, counters, request.now_ms, deadline);
        let (started, until, late) = (call.started(), call.until(), call.late());
        let Some(slot) = self.slot(until).await else {
            let why = "all instance slots are taken (max_instances)".into();
            return self.unanswered(started, FailedClosed::Instances { why });
        };
        let asked = {
            let policy = self.clone();
            async move {
                let _slot = slot;
                let _running = policy.inner.sandbox.inner.ticker.enter();
                policy.ask(call, &request).await
            }
        };
        let answered = self.inner.sandbox.inner.lane.run(asked, until).await;
        answered.unwrap_or_else(|| self.unanswered(started, late))
    }

    /// A slot of the instance pool; `None` if none came free in time.
    async fn slot(&self, until: Instant) -> Option<OwnedSemaphorePermit> {
        let slots = &self.inner.sandbox.inner.slots;
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            return Some(slot);
        }
        tokio::time::timeout_at(until.into(), Arc::clone(slots).acquire_owned()).await.ok()?.ok()
    }

    fn unanswered(&self, started: Instant, why: FailedClosed) -> Evaluation {
        Evaluation {
            policy: Arc::clone(&self.inner.name),
            verdict: Err(why),
            logs: Vec::new(),
            logs_dropped: 0,
            counters: Vec::new(),
            memory_bytes: 0,
            elapsed: started.elapsed(),
        }
    }

    async fn ask(&self, call: Call, request: &Request) -> Evaluation {
        let (mut instance, calls) = match self.instance(call).await {
            Ok(ready) => ready,
            Err((why, mut guest)) => return guest.conclude(Err(why)),
        };
        let verdict = instance.evaluate(request).await;
        let failed = verdict.is_err();
        let evaluation = instance.store.data_mut().conclude(verdict);
        if self.inner.limits.warm() && !failed && calls < WARM_CALLS_MAX {
            self.keep(instance, calls + 1);
        }
        evaluation
    }

    /// An instance for `call`: a kept one if the policy is warm and one is free, else a new one.
    async fn instance(&self, call: Call) -> Result<(Instance, u32), (FailedClosed, Box<Guest>)> {
        let kept = if self.inner.limits.warm() { self.warm().pop() } else { None };
        match kept {
            Some((mut instance, calls)) => {
                instance.reuse(call);
                Ok((instance, calls))
            }
            None => Ok((Instance::fresh(&self.inner.sandbox, &self.inner.pre, call).await?, 0)),
        }
    }

    fn keep(&self, instance: Instance, calls: u32) {
        let mut warm = self.warm();
        if warm.len() < WARM_INSTANCES_MAX {
            warm.push((instance, calls));
        }
    }

    fn warm(&self) -> std::sync::MutexGuard<'_, Vec<(Instance, u32)>> {
        self.inner.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The configuration as text for the guest.
pub(crate) fn configuration_text(config: &Value) -> String {
    config.to_string()
}

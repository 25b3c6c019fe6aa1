//! A loaded policy, and how it is asked.

use crate::ahead::Stock;
use crate::bindings::PolicyPre;
use crate::evaluate::{Call, Guest, Terms};
use crate::instance::Instance;
use crate::lanes::{Pace, Run};
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
    pub(crate) terms: Arc<Terms>,
    pub(crate) digest: String,
    pub(crate) bytes: usize,
    pub(crate) metadata: Metadata,
    pub(crate) sandbox: Sandbox,
    pub(crate) pre: PolicyPre<Guest>,
    #[allow(clippy::vec_box, reason = "an instance is large and goes from hand to hand")]
    pub(crate) warm: Mutex<Vec<Box<Instance>>>,
    pub(crate) stock: Stock,
    /// In which lane its evaluations begin.
    pub(crate) pace: Pace,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.inner.terms.name)
            .field("digest", &self.inner.digest)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// The name that the operator gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.terms.name
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
        &self.inner.terms.limits
    }

    /// Its configuration as the guest gets it: JSON text, `null` for none.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.inner.terms.config
    }

    /// Ask the policy, within its own deadline or what is `left` of the decision's, whichever is
    /// less. Never fails: what goes wrong is in [`Evaluation::verdict`].
    ///
    /// Must be called within a tokio runtime that has its timer.
    pub async fn evaluate(&self, request: Arc<Request>, counters: Arc<dyn Counters>, left: Duration) -> Evaluation {
        let call = Call::evaluate(Arc::clone(&self.inner.terms), counters, request.now_ms, left);
        let (started, until) = (call.started(), call.until());
        let place = match self.place() {
            Some(place) => place,
            // Boxed, because it is rare: callers carry no room for it.
            None => match Box::pin(self.inner.sandbox.slot(until)).await {
                Some(slot) => Place::Empty(slot),
                None => return self.unanswered(started, FailedClosed::no_slot()),
            },
        };
        let late = call.late();
        let asked = Box::pin(self.clone().ask(place, call, request));
        let answered = match self.inner.sandbox.inner.lane.run(asked, until, &self.inner.pace) {
            Run::Done(evaluation) => return evaluation,
            Run::Moved(rest) => rest.await,
        };
        answered.unwrap_or_else(|| self.unanswered(started, late))
    }

    /// An instance that is ready, kept or made ahead, or else a slot for a new one.
    fn place(&self) -> Option<Place> {
        let ready = if self.inner.terms.limits.warm() { self.warm().pop() } else { self.take_ahead() };
        ready.map(Place::Ready).or_else(|| self.inner.sandbox.free_slot().map(Place::Empty))
    }

    fn unanswered(&self, started: Instant, why: FailedClosed) -> Evaluation {
        Evaluation {
            policy: Arc::clone(&self.inner.terms.name),
            verdict: Err(why),
            logs: Vec::new(),
            logs_dropped: 0,
            counters: Vec::new(),
            memory_bytes: 0,
            elapsed: started.elapsed(),
        }
    }

    async fn ask(self, place: Place, call: Call, request: Arc<Request>) -> Evaluation {
        let sandbox = &self.inner.sandbox;
        let _running = sandbox.inner.ticker.enter();
        let mut instance = match place {
            Place::Ready(mut instance) => {
                instance.begin(call);
                instance
            }
            // Boxed: an instance that is ready has no need of the room that making one takes.
            Place::Empty(slot) => match Box::pin(Instance::fresh(sandbox, &self.inner.pre, call, slot)).await {
                Ok(instance) => instance,
                Err(failed) => {
                    let (why, mut guest) = *failed;
                    return guest.conclude(Err(why));
                }
            },
        };
        let evaluation = instance.evaluate(&request).await;
        self.put_away(instance, evaluation.verdict.is_err());
        evaluation
    }

    /// Keep an instance that has answered, hand it back, or drop it.
    fn put_away(&self, mut instance: Box<Instance>, failed: bool) {
        if instance.made_ahead() {
            return self.hand_back(instance);
        }
        let keep = self.inner.terms.limits.warm() && !failed && instance.calls() < WARM_CALLS_MAX;
        if keep && instance.may_idle(&self.inner.sandbox) {
            let mut warm = self.warm();
            if warm.len() < WARM_INSTANCES_MAX {
                warm.push(instance);
            }
        }
    }

    #[allow(clippy::vec_box, reason = "as the field")]
    fn warm(&self) -> std::sync::MutexGuard<'_, Vec<Box<Instance>>> {
        self.inner.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a call goes.
enum Place {
    /// To an instance that is ready.
    Ready(Box<Instance>),
    /// Into a new one, for which there is a slot.
    Empty(OwnedSemaphorePermit),
}

/// The configuration as text for the guest.
pub(crate) fn configuration_text(config: &Value) -> String {
    config.to_string()
}

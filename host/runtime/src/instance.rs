//! An instance of a policy's component: made under the policy's limits, asked one call at a time.
//!
//! It holds its slot of the pool for as long as it lives, and gives it back only after the pool
//! has the instance back: so a slot that is free is one that can be had.

use crate::bindings::{Policy as World, PolicyPre};
use crate::evaluate::{Call, Guest};
use crate::lanes::{Pace, Run};
use crate::limits::TRANSFER_BYTES_MAX;
use crate::{Evaluation, FailedClosed, Metadata, Request, Sandbox, Verdict};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;

/// An instance with its store. Dropped in the order of its fields: the store before the permits.
pub(crate) struct Instance {
    store: Store<Guest>,
    world: World,
    /// Calls that it has answered.
    calls: u32,
    /// Whether it lay ready before there was a call.
    made_ahead: bool,
    _slot: OwnedSemaphorePermit,
    /// The permission to lie idle, when it has it.
    idle: Option<OwnedSemaphorePermit>,
}

impl Instance {
    /// Make an instance for `call`. Instantiation runs guest code too, so it is under its limits.
    /// A failure comes with what the guest said before.
    pub(crate) async fn fresh(
        sandbox: &Sandbox,
        pre: &PolicyPre<Guest>,
        call: Call,
        slot: OwnedSemaphorePermit,
    ) -> Result<Box<Self>, Box<(FailedClosed, Guest)>> {
        let mut store = sandbox.store(call);
        match pre.instantiate_async(&mut store).await {
            Ok(world) => Ok(Box::new(Self { store, world, calls: 0, made_ahead: false, _slot: slot, idle: None })),
            Err(why) => {
                let why = store.data_mut().failure(&why);
                Err(Box::new((why, store.into_data())))
            }
        }
    }

    /// Make an instance before there is a call for it. `idle` is its permission to wait.
    pub(crate) async fn ahead(
        sandbox: &Sandbox,
        pre: &PolicyPre<Guest>,
        call: Call,
        (slot, idle): (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Result<Box<Self>, FailedClosed> {
        let mut made = Self::fresh(sandbox, pre, call, slot).await.map_err(|failed| failed.0)?;
        made.made_ahead = true;
        made.idle = Some(idle);
        Ok(made)
    }

    /// Ask a new instance to describe itself; a failure comes with what the guest last said of it.
    pub(crate) async fn describe(
        sandbox: &Sandbox,
        pre: &PolicyPre<Guest>,
        call: Call,
    ) -> Result<Metadata, (FailedClosed, Option<String>)> {
        let (until, late) = (call.until(), call.late());
        let Some(slot) = sandbox.slot(until).await else { return Err((FailedClosed::no_slot(), None)) };
        let asked = {
            let (sandbox, pre) = (sandbox.clone(), pre.clone());
            async move {
                let _running = sandbox.inner.ticker.enter();
                let mut instance = match Self::fresh(&sandbox, &pre, call, slot).await {
                    Ok(instance) => instance,
                    Err(failed) => return Err((failed.0, failed.1.words())),
                };
                let described = instance.world.call_describe(&mut instance.store).await;
                described.map_err(|why| (instance.failure(&why), instance.store.data().words()))
            }
        };
        let run: Run<_> = sandbox.inner.lane.run(Box::pin(asked), until, &Pace::default());
        run.ended().await.unwrap_or(Err((late, None)))
    }

    /// Ready the instance for a call: limits of time count from here.
    pub(crate) fn begin(&mut self, call: Call) {
        self.store.data_mut().begin(call);
        self.store.set_epoch_deadline(FIRST_SLICE_TICKS);
    }

    /// Ask. What the guest logged and counted comes with the verdict.
    pub(crate) async fn evaluate(&mut self, request: &Request) -> Evaluation {
        self.calls += 1;
        let verdict = match self.world.call_evaluate(&mut self.store, request).await {
            Ok(verdict) => self.checked(verdict),
            Err(why) => Err(self.failure(&why)),
        };
        self.store.data_mut().conclude(verdict)
    }

    fn checked(&self, verdict: Verdict) -> Result<Verdict, FailedClosed> {
        let limit = self.store.data().max_output_bytes();
        match &verdict {
            Verdict::Deny(text) | Verdict::Escalate(text) if text.len() as u64 > limit => {
                Err(FailedClosed::Output { limit })
            }
            _ => Ok(verdict),
        }
    }

    fn failure(&mut self, why: &wasmtime::Error) -> FailedClosed {
        self.store.data_mut().failure(why)
    }

    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }

    pub(crate) fn made_ahead(&self) -> bool {
        self.made_ahead
    }

    /// Whether it may lie idle, with a permission taken now if it has none yet.
    pub(crate) fn may_idle(&mut self, sandbox: &Sandbox) -> bool {
        if self.idle.is_none() {
            self.idle = Arc::clone(&sandbox.inner.idle).try_acquire_owned().ok();
        }
        self.idle.is_some()
    }
}

/// Between 0.5 and 1 ms until a guest is moved to the slow lane.
const FIRST_SLICE_TICKS: u64 = 2;

impl Sandbox {
    /// A store for one instance, under the limits of `call`.
    pub(crate) fn store(&self, call: Call) -> Store<Guest> {
        let mut store = Store::new(&self.inner.engine, Guest::new(call, self.inner.options.max_stack_bytes));
        store.limiter(|guest| guest);
        store.set_hostcall_fuel(TRANSFER_BYTES_MAX);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().next_slice()));
        store.set_epoch_deadline(FIRST_SLICE_TICKS);
        store
    }

    /// A slot of the instance pool, if one is free.
    pub(crate) fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.slots).try_acquire_owned().ok()
    }

    /// A slot of the instance pool; `None` if none came free in time.
    pub(crate) async fn slot(&self, until: Instant) -> Option<OwnedSemaphorePermit> {
        let slots = Arc::clone(&self.inner.slots);
        tokio::time::timeout_at(until.into(), slots.acquire_owned()).await.ok()?.ok()
    }
}

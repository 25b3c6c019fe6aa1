//! Instances made before they are asked for, each used once.
//!
//! Making an instance and taking it down is most of what a fresh one costs. A policy with
//! `instances_ahead` has a stock of ready ones; its callers take one each, and hand it back used,
//! to be taken down. Both happen in the slow lane, in the background. What always holds:
//!
//! - A caller never waits for the stock: where it is empty, or just being touched, it makes its own
//!   instance, as without a stock. On a machine with no time to spare the stock stays empty.
//! - An instance in the stock, ready or used, holds its slot of the pool and one of the permits for
//!   idle ones. Both are bounded, so a stock cannot keep another policy from being asked.
//! - An instance begins its deadline when it is asked. Making it is under the policy's limits, too;
//!   a guest that uses counters meanwhile is not made ahead, because no decision could record them.
//! - The background holds a policy only while it works for it: a dropped policy drops its stock.

use crate::epoch::TICK;
use crate::evaluate::Call;
use crate::instance::Instance;
use crate::lanes::next_turn;
use crate::policy::{Inner, Policy};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// Callers that find the stock empty before it is tried again, where there was no room.
const REST_WITHOUT_ROOM: u32 = 64;
/// The same after a guest failed while it was made ahead: twice as many each time, up to this.
const REST_AFTER_FAILURE_MAX: u32 = 1 << 12;

/// The instances of one policy that wait, new or used.
#[derive(Default)]
pub(crate) struct Stock {
    target: usize,
    #[allow(clippy::vec_box, reason = "an instance is large and goes from hand to hand")]
    ready: Mutex<Vec<Box<Instance>>>,
    /// Used ones, to be taken down.
    #[allow(clippy::vec_box, reason = "as above")]
    used: Mutex<Vec<Box<Instance>>>,
    /// Whether the slow lane is at it.
    filling: AtomicBool,
    /// Callers to pass by before the next try.
    rest: AtomicU32,
    /// Guests that failed in a row while they were made.
    failures: AtomicU32,
}

impl Stock {
    pub(crate) fn new(instances_ahead: u64) -> Self {
        Self { target: usize::try_from(instances_ahead).unwrap_or(usize::MAX), ..Self::default() }
    }

    /// A ready instance. A lock that is taken counts as an empty stock: its holder may be a thread
    /// of low priority that is not running just now.
    fn take(&self) -> Option<Box<Instance>> {
        self.ready.try_lock().ok()?.pop()
    }

    /// Lay a used instance aside; `true` when there are enough to be worth a turn of the lane.
    fn lay_aside(&self, instance: Box<Instance>) -> bool {
        match self.used.try_lock() {
            Ok(mut used) if used.len() < self.target => {
                used.push(instance);
                used.len() * 2 >= self.target
            }
            // The lane does not keep up: whoever used the instance takes it down, by dropping it here.
            _ => true,
        }
    }

    /// Whether enough used ones wait.
    fn is_worth_a_turn(&self) -> bool {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).len() * 2 >= self.target
    }

    fn last_used(&self) -> Option<Box<Instance>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn lacks(&self) -> bool {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).len() < self.target
    }

    fn add(&self, instance: Box<Instance>) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
    }

    /// Whether a caller that found the stock empty should have it filled: not while it rests.
    fn is_due(&self) -> bool {
        let passed = self.rest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        passed.is_err()
    }
}

impl Policy {
    /// Instances that are made and wait for their one use.
    #[must_use]
    pub fn instances_ready(&self) -> usize {
        self.inner.stock.ready.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// An instance from the stock, if the policy has one and it is not empty.
    pub(crate) fn take_ahead(&self) -> Option<Box<Instance>> {
        let stock = &self.inner.stock;
        if stock.target == 0 {
            return None;
        }
        let ready = stock.take();
        if ready.is_none() && stock.is_due() {
            self.restock();
        }
        ready
    }

    /// Hand back what was taken from the stock.
    pub(crate) fn hand_back(&self, instance: Box<Instance>) {
        if self.inner.stock.lay_aside(instance) {
            self.restock();
        }
    }

    /// Have the stock filled and its used instances taken down, in the background.
    pub(crate) fn restock(&self) {
        let stock = &self.inner.stock;
        if stock.target > 0 && !stock.filling.swap(true, Ordering::AcqRel) {
            self.inner.sandbox.inner.lane.spawn(fill(Arc::downgrade(&self.inner)));
        }
    }

    /// One piece of work for the stock; `false` when there is none, or none that can be done.
    async fn restock_one(&self) -> bool {
        let (stock, sandbox) = (&self.inner.stock, &self.inner.sandbox);
        if let Some(used) = stock.last_used() {
            drop(used);
            return true;
        }
        if !stock.lacks() {
            return false;
        }
        let permits = sandbox.has_room().then(|| {
            let idle = Arc::clone(&sandbox.inner.idle).try_acquire_owned().ok()?;
            Some((sandbox.free_slot()?, idle))
        });
        let Some(permits) = permits.flatten() else {
            stock.rest.store(REST_WITHOUT_ROOM, Ordering::Relaxed);
            return false;
        };
        let _running = sandbox.inner.ticker.enter();
        let call = Call::ahead(Arc::clone(&self.inner.terms));
        match Instance::ahead(sandbox, &self.inner.pre, call, permits).await {
            Ok(made) => {
                stock.failures.store(0, Ordering::Relaxed);
                stock.add(made);
                true
            }
            Err(why) => {
                let failures = stock.failures.fetch_add(1, Ordering::Relaxed);
                stock.rest.store((1 << failures.min(31)).min(REST_AFTER_FAILURE_MAX), Ordering::Relaxed);
                tracing::debug!(policy = self.name(), %why, "no instance made ahead");
                false
            }
        }
    }
}

/// Work for a stock until there is none, a tick at a time.
async fn fill(policy: Weak<Inner>) {
    let mut turn = Instant::now();
    while let Some(inner) = policy.upgrade() {
        let policy = Policy { inner };
        if !policy.restock_one().await {
            policy.inner.stock.filling.store(false, Ordering::Release);
            // What was laid aside since the look and the store found `filling` set, and asked nobody.
            if !policy.inner.stock.is_worth_a_turn() || policy.inner.stock.filling.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        drop(policy);
        if turn.elapsed() >= TICK {
            next_turn().await;
            turn = Instant::now();
        }
    }
}

//! Which requests are in which state of the KERNELS machine: each walks its own, and a kernel counts them.

use gavel_kernel::State;
use gavel_kernel::state::RequestProgress;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests are in which state at this moment.
#[derive(Debug, Default)]
pub struct States {
    validating: AtomicUsize,
    arbitrating: AtomicUsize,
    executing: AtomicUsize,
    auditing: AtomicUsize,
}

impl States {
    fn counter(&self, state: State) -> Option<&AtomicUsize> {
        match state {
            State::Validating => Some(&self.validating),
            State::Arbitrating => Some(&self.arbitrating),
            State::Executing => Some(&self.executing),
            State::Auditing => Some(&self.auditing),
            _ => None,
        }
    }

    pub(crate) fn counts(&self) -> Value {
        let load = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        json!({
            "validating": load(&self.validating),
            "arbitrating": load(&self.arbitrating),
            "executing": load(&self.executing),
            "auditing": load(&self.auditing),
        })
    }
}

/// One request's walk through the states; counted as long as it lives.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    states: &'a States,
    progress: RequestProgress,
}

impl<'a> Walk<'a> {
    /// Begin in VALIDATING.
    pub(crate) fn begin(states: &'a States) -> Self {
        let mut walk = Self { states, progress: RequestProgress::new() };
        walk.to(State::Validating);
        walk
    }

    /// Go on to `next`, which must be a transition of the state machine.
    pub(crate) fn to(&mut self, next: State) {
        self.leave();
        let went = self.progress.advance(next);
        debug_assert_eq!(went, Ok(()));
        if let Some(counter) = self.states.counter(self.progress.state()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leave(&self) {
        if let Some(counter) = self.states.counter(self.progress.state()) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

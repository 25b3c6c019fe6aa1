//! The ticker: what lets the host interrupt a guest that does not return.
//!
//! wasmtime's compiled code compares a counter of the engine with the store's deadline at every
//! loop head and function entry. A thread advances that counter every [`TICK`]. While nothing has
//! been evaluated for a while the thread sleeps, so that an idle host wakes no core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use wasmtime::Engine;

/// How often a running guest can be interrupted.
pub(crate) const TICK: Duration = Duration::from_micros(500);

/// Ticks without an evaluation after which the ticker goes to sleep: 50 ms.
const IDLE_TICKS: u32 = 100;

/// Advances the engine's epoch while evaluations are going on. Stops when dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Evaluations started and ended so far. Unequal: something is running.
    started: AtomicU64,
    ended: AtomicU64,
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// Held while an evaluation runs; the ticker does not sleep before it is dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<Shared>);

/// Held while what runs waits for something else; meanwhile it does not keep the ticker awake.
#[derive(Debug)]
pub(crate) struct Paused<'a>(&'a Ticker);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.begin();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}

impl Ticker {
    /// Start the thread.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new().name("gavel-epoch".into()).spawn(move || tick(&engine, &seen))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Note that an evaluation begins, and wake the ticker if it sleeps.
    pub(crate) fn enter(&self) -> Running {
        self.begin();
        Running(Arc::clone(&self.shared))
    }

    /// Let what holds a [`Running`] wait for something that is no guest.
    pub(crate) fn pause(&self) -> Paused<'_> {
        self.shared.ended.fetch_add(1, Ordering::Release);
        Paused(self)
    }

    fn begin(&self) {
        // Sequentially consistent together with the ticker's `asleep` store and re-check: either
        // the ticker sees this start, or this sees that it is asleep.
        self.shared.started.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic; if it did, there is nothing left to do at this point.
            let _ = thread.join();
        }
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    let mut idle = 0;
    let mut seen = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        let started = shared.started.load(Ordering::SeqCst);
        let running = started != shared.ended.load(Ordering::Acquire);
        idle = if running || started != seen { 0 } else { idle + 1 };
        seen = started;
        if idle >= IDLE_TICKS {
            shared.asleep.store(true, Ordering::SeqCst);
            if shared.started.load(Ordering::SeqCst) == seen && !shared.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
        thread::sleep(TICK);
        engine.increment_epoch();
    }
}

//! One plugin's place on the bus: made when it is first needed, called one event at a time, made anew after it broke.
//!
//! What must always hold: an instance that broke, or whose call was given up half way, is never called again; whoever
//! waits for a plugin has an answer by its deadline; a failing plugin costs its callers an error and nobody else anything.

use crate::error::Error;
use crate::event::Event;
use crate::handle::Handle;
use crate::mail::Mail;
use crate::options::Options;
use crate::plugin::{Fault, Plugin, Registration};
use crate::stats::Stats;
use crate::waits::{Holder, Waits};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// What came of a question: in time or not, without a panic or with one, and the plugin's own answer.
type Answered<T> = Result<Result<Result<T, Fault>, Box<dyn std::any::Any + Send>>, tokio::time::error::Elapsed>;

/// A registered plugin.
pub(crate) struct Slot {
    pub(crate) name: Arc<str>,
    pub(crate) registration: Registration,
    pub(crate) stats: Stats,
    /// What it is to be told of, in order.
    pub(crate) mail: Mail,
    handle: Handle,
    options: Arc<Options>,
    /// The instance, held while it is called unless it is concurrent.
    instance: tokio::sync::Mutex<Option<Arc<dyn Plugin>>>,
    /// The chain that holds the instance.
    pub(crate) holder: Holder,
    waits: Arc<Waits>,
    circuit: Mutex<Circuit>,
    /// Calls that wait or run.
    inside: AtomicUsize,
    left: Notify,
}

/// Failures in a row, and until when the plugin rests.
#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    rests_until: Option<Instant>,
    last: String,
}

/// What a plugin is doing, for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// Registered; no event has needed it yet, so it has no instance.
    Idle,
    /// It has an instance.
    Ready,
    /// It failed, and rests before it is made anew.
    BackingOff,
    /// It failed so often in a row that its circuit is open.
    CircuitOpen,
}

impl Slot {
    pub(crate) fn new(registration: Registration, handle: Handle, options: Arc<Options>, waits: Arc<Waits>) -> Self {
        Self {
            name: registration.metadata.name.as_str().into(),
            registration,
            stats: Stats::default(),
            handle,
            options,
            instance: tokio::sync::Mutex::new(None),
            holder: Holder::default(),
            waits,
            mail: Mail::default(),
            circuit: Mutex::default(),
            inside: AtomicUsize::new(0),
            left: Notify::new(),
        }
    }

    /// Ask the plugin something about an event, before the event's time is up, for the chain of `root`.
    pub(crate) async fn ask<T, F>(self: &Arc<Self>, event: &Event, root: &Arc<str>, question: F) -> Result<T, Error>
    where
        F: FnOnce(Arc<dyn Plugin>) -> BoxFuture<'static, Result<T, Fault>>,
    {
        let _inside = self.enter()?;
        self.may_be_asked()?;
        let until = event.until;
        let late = || self.late(event);
        let mut held = self.hold(root, until, late).await?;
        let holder = self.holder.set(root);
        let plugin = match &*held {
            Some(plugin) => Arc::clone(plugin),
            None => Arc::clone(held.insert(self.start(until).await?)),
        };
        let begun = Instant::now();
        let asked = AssertUnwindSafe(question(Arc::clone(&plugin))).catch_unwind();
        let answered = if plugin.concurrent() {
            drop(held);
            drop(holder);
            let answered = timeout_at(until, asked).await;
            held = self.instance.lock().await;
            answered
        } else {
            timeout_at(until, asked).await
        };
        self.stats.asked(begun.elapsed());
        self.conclude(answered, &plugin, &mut held, late)
    }

    /// The instance for this chain alone. A chain that would wait for itself, through other plugins, is told so.
    async fn hold(
        self: &Arc<Self>,
        root: &Arc<str>,
        until: Instant,
        late: impl Fn() -> Error,
    ) -> Result<tokio::sync::MutexGuard<'_, Option<Arc<dyn Plugin>>>, Error> {
        if let Ok(held) = self.instance.try_lock() {
            return Ok(held);
        }
        let Some(_waiting) = self.waits.begin(root, self) else {
            return Err(Error::Forbidden(format!(
                "plugin '{}' is already at work on what this event is part of: plugins that call each other in a circle would wait for ever",
                self.name
            )));
        };
        timeout_at(until, self.instance.lock()).await.map_err(|_| late())
    }

    fn conclude<T>(
        &self,
        answered: Answered<T>,
        plugin: &Arc<dyn Plugin>,
        held: &mut Option<Arc<dyn Plugin>>,
        late: impl Fn() -> Error,
    ) -> Result<T, Error> {
        let why = match answered {
            Ok(Ok(Ok(answer))) => {
                self.succeeded();
                return Ok(answer);
            }
            Ok(Ok(Err(Fault::Refused { message, code }))) => {
                self.succeeded();
                self.stats.refused();
                return Err(Error::Refused { message, code });
            }
            Ok(Ok(Err(Fault::Unhandled))) => {
                self.succeeded();
                return Err(Error::NoHandler(String::new()));
            }
            // A plugin for many at once outlives a slow answer; one for a single event was left half way.
            Err(_) if plugin.concurrent() => {
                self.stats.failed();
                return Err(late());
            }
            Err(_) => None,
            Ok(Ok(Err(Fault::Broken(why)))) => Some(why),
            Ok(Err(panic)) => Some(panic_text(panic.as_ref())),
        };
        // Another call may have put a new one in its place already.
        if held.as_ref().is_some_and(|current| Arc::ptr_eq(current, plugin)) {
            *held = None;
        }
        let error = why.map_or_else(late, |problem| self.broken(problem));
        self.failed(&error.to_string());
        Err(error)
    }

    /// Make the instance and start it, unless it is there: what a replacement does before it takes over.
    pub(crate) async fn warm(&self, until: Instant) -> Result<(), Error> {
        let mut held = self.instance.lock().await;
        if held.is_none() {
            *held = Some(self.start(until).await?);
        }
        Ok(())
    }

    async fn start(&self, until: Instant) -> Result<Arc<dyn Plugin>, Error> {
        let started = async {
            let plugin = self.registration.factory.make().await?;
            plugin.startup(self.registration.config.clone(), self.handle.clone()).await?;
            Ok::<_, Fault>(plugin)
        };
        let problem = match timeout_at(until, AssertUnwindSafe(started).catch_unwind()).await {
            Ok(Ok(Ok(plugin))) => {
                self.stats.started();
                return Ok(plugin);
            }
            Ok(Ok(Err(fault))) => format!("it did not start: {fault}"),
            Ok(Err(panic)) => format!("it did not start: {}", panic_text(panic.as_ref())),
            Err(_) => "it did not start in time".to_owned(),
        };
        let error = self.broken(problem);
        self.failed(&error.to_string());
        Err(error)
    }

    /// End it, once all that are inside have left. What it does not finish in its grace is given up.
    pub(crate) async fn end(&self) {
        loop {
            let left = self.left.notified();
            if self.depth() == 0 {
                break;
            }
            left.await;
        }
        if let Some(plugin) = self.instance.lock().await.take() {
            let ended = AssertUnwindSafe(plugin.shutdown()).catch_unwind();
            match tokio::time::timeout(self.options.shutdown_grace, ended).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(fault))) => tracing::warn!(plugin = %self.name, "it did not shut down: {fault}"),
                Ok(Err(panic)) => {
                    tracing::warn!(plugin = %self.name, "its shutdown panicked: {}", panic_text(panic.as_ref()));
                }
                Err(_) => {
                    tracing::warn!(plugin = %self.name, "it did not shut down in {:?}", self.options.shutdown_grace);
                }
            }
        }
    }

    /// Calls that wait or run, and letters that wait.
    pub(crate) fn depth(&self) -> usize {
        self.inside.load(Ordering::SeqCst) + self.mail.waiting()
    }

    /// A letter was taken out and dealt with.
    pub(crate) fn letter_done(&self) {
        self.mail.done();
        self.left.notify_waiters();
    }

    pub(crate) fn state(&self) -> PluginState {
        let circuit = self.circuit();
        match circuit.rests_until {
            Some(until) if until > Instant::now() && circuit.failures >= self.options.failures_max => {
                PluginState::CircuitOpen
            }
            Some(until) if until > Instant::now() => PluginState::BackingOff,
            _ if self.instance.try_lock().is_ok_and(|held| held.is_none()) => PluginState::Idle,
            _ => PluginState::Ready,
        }
    }

    /// What it holds in memory; 0 while it is idle. `None` while it is being called.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.instance.try_lock().ok().map(|held| held.as_ref().map_or(0, |plugin| plugin.memory_bytes()))
    }

    pub(crate) fn last_failure(&self) -> String {
        self.circuit().last.clone()
    }

    pub(crate) fn event_timeout(&self) -> std::time::Duration {
        self.options.event_timeout
    }

    fn enter(&self) -> Result<Inside<'_>, Error> {
        let before = self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        if before >= self.options.queue_events_max {
            self.stats.turned_away();
            let limit = self.options.queue_events_max;
            let text = format!("{limit} events wait for plugin '{}' (event_queue_size): send again later", self.name);
            return Err(Error::RateLimited(text));
        }
        Ok(inside)
    }

    fn may_be_asked(&self) -> Result<(), Error> {
        let circuit = self.circuit();
        match circuit.rests_until {
            Some(until) if until > Instant::now() => {
                let ms = until.duration_since(Instant::now()).as_millis();
                let what =
                    if circuit.failures >= self.options.failures_max { "its circuit is open" } else { "it rests" };
                Err(self.broken(format!(
                    "{what} for {ms} ms more after {} failures in a row: {}",
                    circuit.failures, circuit.last
                )))
            }
            _ => Ok(()),
        }
    }

    fn succeeded(&self) {
        let mut circuit = self.circuit();
        circuit.failures = 0;
        circuit.rests_until = None;
    }

    fn failed(&self, why: &str) {
        self.stats.failed();
        let mut circuit = self.circuit();
        circuit.failures = circuit.failures.saturating_add(1);
        let opened = circuit.failures >= self.options.failures_max;
        let doubled = self.options.backoff_first.saturating_mul(1 << (circuit.failures - 1).min(20));
        let rest = if opened { self.options.backoff_max } else { doubled.min(self.options.backoff_max) };
        circuit.rests_until = Some(Instant::now() + rest);
        why.clone_into(&mut circuit.last);
        tracing::warn!(plugin = %self.name, failures = circuit.failures, rest_ms = rest.as_millis(), "{why}");
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, problem: String) -> Error {
        Error::PluginFailed { plugin: self.name.to_string(), problem }
    }

    fn late(&self, event: &Event) -> Error {
        Error::Timeout { event: event.name.clone(), seconds: self.options.event_timeout.as_secs_f64() }
    }
}

/// A call that waits or runs.
struct Inside<'a>(&'a Slot);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_else(|| "without a text".to_owned()))
}

//! One plugin's place on the bus: made when it is first needed, called one event at a time, made anew after it broke.
//!
//! What must always hold: an instance that broke, or whose call was given up half way, is never called again; whoever
//! waits for a plugin has an answer by its deadline; a failing plugin costs its callers an error and nobody else anything.

use crate::error::Error;
use crate::event::{Event, Root};
use crate::handle::Handle;
use crate::mail::{Letter, Mail};
use crate::options::Options;
use crate::plugin::{Fault, Plugin, Registration};
use crate::stats::Stats;
use crate::waits::{Holder, Waits};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// What came of a question: in time or not, without a panic or with one, and the plugin's own answer.
type Answered<T> = Result<Result<Result<T, Fault>, Box<dyn std::any::Any + Send>>, tokio::time::error::Elapsed>;

/// The instance, for one caller alone.
type Held<'a> = tokio::sync::MutexGuard<'a, Option<Arc<dyn Plugin>>>;

/// A registered plugin.
pub(crate) struct Slot {
    pub(crate) name: Arc<str>,
    pub(crate) registration: Registration,
    pub(crate) stats: Stats,
    /// What it is to be told of, in order.
    pub(crate) mail: Arc<Mail>,
    handle: Handle,
    options: Arc<Options>,
    /// The instance, held while it is called unless it is concurrent.
    instance: tokio::sync::Mutex<Option<Arc<dyn Plugin>>>,
    /// The instance again, if it is concurrent: nobody waits for another to ask it.
    shared: RwLock<Option<Arc<dyn Plugin>>>,
    /// The chain that holds the instance.
    pub(crate) holder: Holder,
    waits: Arc<Waits>,
    circuit: Mutex<Circuit>,
    /// Whether it failed since it last answered: what the circuit says need not be looked up otherwise.
    ailing: AtomicBool,
    /// Calls that wait or run.
    inside: AtomicUsize,
    /// Nobody comes in any more: another is in its place, or nobody.
    closing: AtomicBool,
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
    pub(crate) fn new(
        registration: Registration,
        handle: Handle,
        mail: Mail,
        options: Arc<Options>,
        waits: Arc<Waits>,
    ) -> Self {
        Self {
            name: registration.metadata.name.as_str().into(),
            registration,
            stats: Stats::default(),
            handle,
            options,
            instance: tokio::sync::Mutex::new(None),
            shared: RwLock::default(),
            holder: Holder::default(),
            waits,
            mail: Arc::new(mail),
            circuit: Mutex::default(),
            ailing: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            left: Notify::new(),
        }
    }

    /// Come in, to ask it something.
    pub(crate) fn enter(self: &Arc<Self>) -> Entry {
        let before = self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(Arc::clone(self));
        // Whoever closes it looks who is inside after that: one of the two sees the other.
        if self.closing.load(Ordering::SeqCst) {
            return Entry::Closed;
        }
        if before >= self.options.queue_events_max {
            self.stats.turned_away();
            let limit = self.options.queue_events_max;
            let text = format!("{limit} events wait for plugin '{}' (event_queue_size): send again later", self.name);
            return Entry::Full(Error::RateLimited(text));
        }
        Entry::Inside(inside)
    }

    /// Come in with a letter that was in its mailbox: it ends what it took in.
    pub(crate) fn enter_with_letter(self: &Arc<Self>) -> Inside {
        self.inside.fetch_add(1, Ordering::SeqCst);
        Inside(Arc::clone(self))
    }

    /// Ask the plugin something about an event, before the event's time is up.
    async fn ask<T, F>(self: &Arc<Self>, event: &Event, question: F) -> Result<T, Error>
    where
        F: FnOnce(Arc<dyn Plugin>) -> BoxFuture<'static, Result<T, Fault>>,
    {
        self.may_be_asked()?;
        let late = || self.late(event);
        if let Some(plugin) = self.shared() {
            return self.ask_shared(plugin, event.until, question, late).await;
        }
        let mut held = self.hold(event.root, event.until, late).await?;
        let holder = self.holder.set(event.root);
        let plugin = match &*held {
            Some(plugin) => Arc::clone(plugin),
            None => Arc::clone(held.insert(self.start(event.until).await?)),
        };
        if let Some(plugin) = self.shared() {
            drop(holder);
            drop(held);
            return self.ask_shared(plugin, event.until, question, late).await;
        }
        let mut alone = Alone { held, midway: true };
        let begun = Instant::now();
        let asked = AssertUnwindSafe(question(plugin)).catch_unwind();
        let answered = timeout_at(event.until, asked).await;
        let took = begun.elapsed();
        alone.midway = false;
        self.stats.asked(took);
        let (concluded, unfit) = self.conclude(answered, took, late);
        if unfit {
            *alone.held = None;
        }
        concluded
    }

    async fn ask_shared<T, F>(
        &self,
        plugin: Arc<dyn Plugin>,
        until: Instant,
        question: F,
        late: impl Fn() -> Error,
    ) -> Result<T, Error>
    where
        F: FnOnce(Arc<dyn Plugin>) -> BoxFuture<'static, Result<T, Fault>>,
    {
        let begun = Instant::now();
        let asked = AssertUnwindSafe(question(Arc::clone(&plugin))).catch_unwind();
        let answered = timeout_at(until, asked).await;
        let took = begun.elapsed();
        self.stats.asked(took);
        if answered.is_err() {
            // A plugin for many at once outlives a slow answer.
            self.stats.failed();
            return Err(late());
        }
        let (concluded, unfit) = self.conclude(answered, took, late);
        if unfit {
            let mut held = self.instance.lock().await;
            // Another call may have put a new one in its place already.
            if held.as_ref().is_some_and(|current| Arc::ptr_eq(current, &plugin)) {
                *held = None;
                *self.shared.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        concluded
    }

    fn shared(&self) -> Option<Arc<dyn Plugin>> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The instance for this chain alone. A chain that would wait for itself, through other plugins, is told so.
    async fn hold(self: &Arc<Self>, root: Root, until: Instant, late: impl Fn() -> Error) -> Result<Held<'_>, Error> {
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

    /// What an answer means for the caller, and whether the instance must not be used again.
    fn conclude<T>(&self, answered: Answered<T>, took: Duration, late: impl Fn() -> Error) -> (Result<T, Error>, bool) {
        let why = match answered {
            Ok(Ok(Ok(answer))) => {
                self.succeeded();
                return (Ok(answer), false);
            }
            Ok(Ok(Err(Fault::Refused { message, code }))) => {
                self.succeeded();
                self.stats.refused();
                return (Err(Error::Refused { message, code }), false);
            }
            Ok(Ok(Err(Fault::Unhandled))) => {
                self.succeeded();
                return (Err(Error::NoHandler(String::new())), false);
            }
            // Left half way.
            Err(_) => None,
            Ok(Ok(Err(Fault::Broken(why)))) => Some(why),
            Ok(Err(panic)) => Some(panic_text(panic.as_ref())),
        };
        let in_time = why.is_some();
        let error = why.map_or_else(late, |problem| self.broken(problem));
        if in_time || self.had_its_time(took) {
            self.failed(&error.to_string());
        } else {
            self.stats.failed();
        }
        (Err(error), true)
    }

    /// Whether a plugin that is late had at least half of the time that an event has: another may have used it up, and
    /// one plugin must not open the circuit of another by asking it too late.
    fn had_its_time(&self, took: Duration) -> bool {
        took >= self.options.event_timeout / 2
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
            let shared = plugin.concurrent().then(|| Arc::clone(&plugin));
            Ok::<_, Fault>((plugin, shared))
        };
        let begun = Instant::now();
        let problem = match timeout_at(until, AssertUnwindSafe(started).catch_unwind()).await {
            Ok(Ok(Ok((plugin, shared)))) => {
                self.stats.started();
                *self.shared.write().unwrap_or_else(PoisonError::into_inner) = shared;
                return Ok(plugin);
            }
            Ok(Ok(Err(fault))) => format!("it did not start: {fault}"),
            Ok(Err(panic)) => format!("it did not start: {}", panic_text(panic.as_ref())),
            Err(_) if !self.had_its_time(begun.elapsed()) => {
                self.stats.failed();
                return Err(self.broken("it could not be started in the time that was left".to_owned()));
            }
            Err(_) => "it did not start in time".to_owned(),
        };
        let error = self.broken(problem);
        self.failed(&error.to_string());
        Err(error)
    }

    /// Let nobody in any more, and give up the letters that its successor is to be told of.
    pub(crate) fn close(&self, given_up: impl Fn(&Letter) -> bool) -> VecDeque<Letter> {
        self.closing.store(true, Ordering::SeqCst);
        self.mail.close(given_up)
    }

    /// End it, once all that are inside have left, or `within` is over. What it does not finish in its grace is given up.
    pub(crate) async fn end(&self, within: Option<Duration>) {
        match within {
            None => self.empty().await,
            Some(within) => {
                if tokio::time::timeout(within, self.empty()).await.is_err() {
                    let (inside, letters) = (self.inside.load(Ordering::SeqCst), self.mail.waiting());
                    tracing::warn!(plugin = %self.name, inside, letters, "its last events did not end in {within:?}");
                    self.mail.close(|_| true);
                }
            }
        }
        let grace = self.options.shutdown_grace;
        let shutdown = async {
            let plugin = match self.shared() {
                // One that hangs in an event does not keep it from ending.
                Some(plugin) => Some(plugin),
                None => self.instance.lock().await.take(),
            };
            let Some(plugin) = plugin else { return Ok(Ok(())) };
            AssertUnwindSafe(plugin.shutdown()).catch_unwind().await
        };
        match tokio::time::timeout(grace, AssertUnwindSafe(shutdown).catch_unwind()).await {
            Ok(Ok(Ok(Ok(())))) => {}
            Ok(Ok(Ok(Err(fault)))) => tracing::warn!(plugin = %self.name, "it did not shut down: {fault}"),
            Ok(Ok(Err(panic)) | Err(panic)) => {
                tracing::warn!(plugin = %self.name, "its shutdown panicked: {}", panic_text(panic.as_ref()));
            }
            Err(_) => tracing::warn!(plugin = %self.name, "it did not shut down in {grace:?}"),
        }
        self.handle.revoke();
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Ok(mut held) = self.instance.try_lock() {
            *held = None;
        }
    }

    /// Wait until nobody is inside and no letter waits.
    async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.depth() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Wait until it has rested after a failure. A plugin whose circuit is open is not waited for.
    pub(crate) async fn rested(&self) {
        while self.ailing.load(Ordering::Acquire) && !self.closing.load(Ordering::SeqCst) {
            let until = {
                let circuit = self.circuit();
                circuit.rests_until.filter(|_| circuit.failures < self.options.failures_max)
            };
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
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

    fn may_be_asked(&self) -> Result<(), Error> {
        if !self.ailing.load(Ordering::Acquire) {
            return Ok(());
        }
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
        if !self.ailing.load(Ordering::Acquire) {
            return;
        }
        let mut circuit = self.circuit();
        self.ailing.store(false, Ordering::Release);
        circuit.failures = 0;
        circuit.rests_until = None;
    }

    fn failed(&self, why: &str) {
        self.stats.failed();
        let mut circuit = self.circuit();
        self.ailing.store(true, Ordering::Release);
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

impl Drop for Slot {
    fn drop(&mut self) {
        // Whoever empties it ends.
        self.mail.close(|_| true);
    }
}

/// What came of coming in.
pub(crate) enum Entry {
    Inside(Inside),
    /// Too many wait.
    Full(Error),
    /// It is being replaced or taken away.
    Closed,
}

/// A call that waits or runs.
pub(crate) struct Inside(Arc<Slot>);

impl Inside {
    /// Ask the plugin something about an event, before the event's time is up, for the event's chain.
    pub(crate) async fn ask<T, F>(self, event: &Event, question: F) -> Result<T, Error>
    where
        F: FnOnce(Arc<dyn Plugin>) -> BoxFuture<'static, Result<T, Fault>>,
    {
        self.0.ask(event, question).await
    }
}

/// The instance while it is called. Given up in the middle, it is never called again.
struct Alone<'a> {
    held: Held<'a>,
    midway: bool,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if self.midway {
            *self.held = None;
        }
    }
}

impl Drop for Inside {
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

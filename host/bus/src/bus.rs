//! The way of an event: stamped, kept, shown to those before, handled by its owner, told to those who listen.

use crate::error::{Error, RegisterError};
use crate::event::{Answer, Draft, Event, Sender, answer_of, name_problem};
use crate::handle::{Emitted, Handle};
use crate::history::{History, Query};
use crate::mail::Letter;
use crate::options::Options;
use crate::plugin::{Before, Capabilities, Metadata, Registration};
use crate::routes::{Moment, Routes};
use crate::slot::{PluginState, Slot};
use crate::stats::Counts;
use crate::waits::Waits;
use arc_swap::ArcSwap;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

/// The bus. Cheap to clone; all clones are the same bus.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: Arc<Options>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    routes: ArcSwap<Routes>,
    /// Held while the routes are built anew.
    changing: Mutex<()>,
    history: History,
    waits: Arc<Waits>,
    /// Random, so that ids of two runs differ.
    run: String,
    numbers: AtomicU64,
}

/// An answered event.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What the handler said.
    pub answer: Answer,
    /// The exchange.
    pub correlation_id: String,
    /// The event's id.
    pub event_id: String,
}

/// One plugin, for an operator.
#[derive(Debug, Clone, Serialize)]
pub struct PluginStatus {
    /// What it says of itself.
    pub metadata: Metadata,
    /// What it does and needs.
    pub capabilities: Capabilities,
    /// The digest of its code.
    pub digest: String,
    /// What it is doing.
    pub state: PluginState,
    /// Events that wait for it or are with it.
    pub queue_depth: usize,
    /// What it holds in memory; absent while it is at work.
    pub memory_bytes: Option<u64>,
    /// Why it failed last; empty if it never did.
    pub last_failure: String,
    /// What was counted of it.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Bus {
    /// A bus without plugins. `clock` gives milliseconds since 1970.
    #[must_use]
    pub fn new(options: Options, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let mut random = [0; 6];
        // Without randomness the clock tells two runs apart.
        if getrandom::fill(&mut random).is_err() {
            random.copy_from_slice(&clock().to_be_bytes()[2..]);
        }
        let inner = Inner {
            history: History::new(options.history_events_max, options.history_data_bytes_max),
            options: Arc::new(options),
            clock: Box::new(clock),
            routes: ArcSwap::default(),
            changing: Mutex::default(),
            waits: Arc::default(),
            run: hex::encode(random),
            numbers: AtomicU64::new(1),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Its limits.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Bring plugins, all or none: they may depend on each other. Nothing of them is made before an event needs it.
    ///
    /// # Errors
    /// If one claims what another owns, has a name that is taken, or needs one that is not there.
    pub fn register(&self, plugins: Vec<Registration>) -> Result<(), RegisterError> {
        self.change(|slots| {
            for plugin in plugins {
                let slot = self.slot(plugin);
                if slots.contains_key(&slot.name) {
                    return Err(RegisterError::Exists(slot.name.to_string()));
                }
                slots.insert(Arc::clone(&slot.name), slot);
            }
            Ok(())
        })
    }

    /// Put a plugin in the place of the one of its name. It is started first; events that are under way end with the old
    /// one, which is shut down when the last has left.
    ///
    /// # Errors
    /// If it does not start or claims what another owns; the old one stays.
    pub async fn replace(&self, plugin: Registration) -> Result<(), RegisterError> {
        let slot = self.slot(plugin);
        let name = Arc::clone(&slot.name);
        if !self.inner.routes.load().slots.contains_key(&name) {
            return Err(RegisterError::Unknown(name.to_string()));
        }
        let until = Instant::now() + self.options().event_timeout;
        slot.warm(until)
            .await
            .map_err(|why| RegisterError::Startup { plugin: name.to_string(), problem: why.to_string() })?;
        let mut old = None;
        let changed = self.change(|slots| {
            old = slots.insert(Arc::clone(&name), Arc::clone(&slot));
            Ok(())
        });
        match changed {
            Ok(()) => retire(old),
            Err(_) => retire(Some(slot)),
        }
        changed
    }

    /// Take a plugin away. Events that are under way end with it.
    ///
    /// # Errors
    /// If there is none of this name, or another depends on it.
    pub fn unregister(&self, name: &str) -> Result<(), RegisterError> {
        let mut old = None;
        self.change(|slots| {
            old = slots.remove(name);
            if old.is_none() { Err(RegisterError::Unknown(name.to_owned())) } else { Ok(()) }
        })?;
        retire(old);
        Ok(())
    }

    /// End all plugins, each within its grace, side by side.
    pub async fn shutdown(&self) {
        let routes = self.inner.routes.swap(Arc::default());
        let ended = routes.slots.values().map(|slot| {
            let grace = self.options().shutdown_grace;
            async move {
                if tokio::time::timeout(grace.saturating_mul(2), slot.end()).await.is_err() {
                    tracing::warn!(plugin = %slot.name, "its last events did not end in {:?}", grace * 2);
                }
            }
        });
        futures_util::future::join_all(ended).await;
    }

    /// Ask for the answer to an event.
    ///
    /// # Errors
    /// Always with an answer for the wire; see [`Error::answer`].
    pub async fn dispatch(&self, sender: Sender, draft: Draft) -> Result<Reply, Error> {
        self.dispatch_in(sender, None, draft).await
    }

    /// Ask for the answer to an event of another host's bus, which has gone from host to host `hops` times. What is
    /// emitted while it is handled says so too, so that a bridge can end a circle of hosts.
    ///
    /// # Errors
    /// As [`Self::dispatch`].
    pub async fn dispatch_of_peer(&self, peer: Arc<str>, hops: u32, draft: Draft) -> Result<Reply, Error> {
        let fan_out = draft.fan_out;
        let event = self.stamp(Sender::Peer(peer), None, draft)?;
        self.dispatch_stamped(Arc::new(Event { hops, ..Event::clone(&event) }), fan_out).await
    }

    /// Tell of an event; nobody is waited for.
    ///
    /// # Errors
    /// If its name cannot be one, a plugin before it cancels it, or its owner's mailbox is full.
    pub async fn emit(&self, sender: Sender, draft: Draft) -> Result<Emitted, Error> {
        self.emit_in(sender, None, draft).await
    }

    /// What there is of a query in the history, and how many events there were in all.
    #[must_use]
    pub fn history(&self, query: &Query) -> (Vec<Arc<Event>>, u64) {
        self.inner.history.find(query)
    }

    /// All events from now on. A watcher that is slow is told how many it missed.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.history.watch()
    }

    /// The host's clock, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.inner.clock)()
    }

    /// How many events there were.
    #[must_use]
    pub fn events_total(&self) -> u64 {
        self.inner.history.total()
    }

    /// All plugins, by name.
    #[must_use]
    pub fn plugins(&self) -> Vec<PluginStatus> {
        self.inner.routes.load().slots.values().map(|slot| status(slot)).collect()
    }

    /// Who answers an event of this name, if anybody does.
    #[must_use]
    pub fn owner(&self, event: &str) -> Option<String> {
        self.inner.routes.load().owner(event).map(|slot| slot.name.to_string())
    }

    // --- inside ---

    pub(crate) async fn dispatch_in(
        &self,
        sender: Sender,
        cause: Option<&Event>,
        draft: Draft,
    ) -> Result<Reply, Error> {
        let fan_out = draft.fan_out;
        let event = self.stamp(sender, cause, draft)?;
        self.dispatch_stamped(event, fan_out).await
    }

    async fn dispatch_stamped(&self, event: Arc<Event>, fan_out: bool) -> Result<Reply, Error> {
        let routes = self.inner.routes.load_full();
        let event = self.show_before(&routes, event).await?;
        self.inner.history.add(&event);
        let answered =
            if fan_out { self.ask_all(&routes, &event).await } else { self.ask_owner(&routes, &event).await };
        self.tell(&routes, &event, answered.as_ref().ok());
        let answer = answer_of(answered?);
        Ok(Reply { answer, correlation_id: event.correlation_id.clone(), event_id: event.event_id.clone() })
    }

    pub(crate) async fn emit_in(&self, sender: Sender, cause: Option<&Event>, draft: Draft) -> Result<Emitted, Error> {
        let event = self.stamp(sender, cause, draft)?;
        let routes = self.inner.routes.load_full();
        let event = self.show_before(&routes, event).await?;
        // Nobody waits for what follows: it is a chain, and has a time, of its own.
        let until = Instant::now() + self.options().event_timeout;
        let event = Arc::new(Event { root: event.event_id.as_str().into(), until, ..Event::clone(&event) });
        self.inner.history.add(&event);
        let mut emitted = Emitted { event_id: event.event_id.clone(), queued: 0, refused: Vec::new() };
        if let Some(owner) = routes.owner(&event.name) {
            if !self.post(owner, Letter::Handle(Arc::clone(&event))) {
                let text = format!(
                    "the queue of plugin '{}' is full (event_queue_size): send '{}' again later",
                    owner.name, event.name
                );
                return Err(Error::RateLimited(text));
            }
            emitted.queued += 1;
        }
        for slot in routes.seers(&event.name, Moment::Hear) {
            if self.post(slot, Letter::Hear(Arc::clone(&event))) {
                emitted.queued += 1;
            } else {
                emitted.refused.push(slot.name.to_string());
            }
        }
        Ok(emitted)
    }

    fn stamp(&self, sender: Sender, cause: Option<&Event>, draft: Draft) -> Result<Arc<Event>, Error> {
        if let Some(problem) = name_problem(&draft.name) {
            return Err(Error::Invalid(problem));
        }
        let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        let event_id = format!("{}-{number:x}", self.inner.run);
        let mut chain = cause.map(|cause| cause.chain.clone()).unwrap_or_default();
        if let Sender::Plugin(name) = &sender {
            chain.push(Arc::clone(name));
        }
        let until = Instant::now() + self.options().event_timeout;
        Ok(Arc::new(Event {
            root: cause.map_or_else(|| event_id.as_str().into(), |cause| Arc::clone(&cause.root)),
            until: cause.map_or(until, |cause| cause.until.min(until)),
            correlation_id: draft
                .correlation_id
                .or_else(|| cause.map(|cause| cause.correlation_id.clone()))
                .unwrap_or_else(|| event_id.clone()),
            client_id: draft.client_id.or_else(|| cause.and_then(|cause| cause.client_id.clone())),
            event_id,
            name: draft.name,
            data: draft.data,
            timestamp_ms: self.now_ms(),
            sender,
            chain,
            hops: cause.map_or(0, |cause| cause.hops),
        }))
    }

    /// Show the event to those before its handler. One that fails is as one that cancels: it may be there to forbid.
    async fn show_before(&self, routes: &Routes, mut event: Arc<Event>) -> Result<Arc<Event>, Error> {
        let name = event.name.clone();
        for slot in routes.seers(&name, Moment::Before) {
            let shown = Arc::clone(&event);
            match slot.ask(&event, &event.root, |plugin| Box::pin(async move { plugin.before(shown).await })).await? {
                Before::Pass => {}
                Before::Replace(data) => event = Arc::new(Event { data, ..Event::clone(&event) }),
                Before::Cancel(why) => {
                    return Err(Error::Forbidden(format!("plugin '{}' cancelled event '{name}': {why}", slot.name)));
                }
            }
        }
        Ok(event)
    }

    async fn ask_owner(&self, routes: &Routes, event: &Arc<Event>) -> Result<Value, Error> {
        if let Some(owner) = routes.owner(&event.name) {
            return ask(owner, event).await;
        }
        match routes.seers(&event.name, Moment::Hear).count() {
            0 => Err(Error::NoHandler(event.name.clone())),
            subscribers => Ok(json!({ "status": "published", "subscribers": subscribers })),
        }
    }

    /// The owner and all who listen, side by side.
    async fn ask_all(&self, routes: &Routes, event: &Arc<Event>) -> Result<Value, Error> {
        let owner = routes.owner(&event.name);
        let others =
            routes.seers(&event.name, Moment::Hear).filter(|slot| owner.is_none_or(|owner| owner.name != slot.name));
        let asked: Vec<_> = owner.into_iter().chain(others).collect();
        if asked.is_empty() {
            return Err(Error::NoHandler(event.name.clone()));
        }
        let answers = asked.iter().map(|slot| async move {
            let answered = match ask(slot, event).await {
                Ok(value) => answer_of(value),
                Err(why) => why.answer(),
            };
            let mut answered = answered;
            answered.insert("plugin".to_owned(), Value::from(&*slot.name));
            Value::Object(answered)
        });
        Ok(json!({ "responses": futures_util::future::join_all(answers).await }))
    }

    /// Tell those who listen, and those who want the answer.
    fn tell(&self, routes: &Routes, event: &Arc<Event>, answer: Option<&Value>) {
        for slot in routes.seers(&event.name, Moment::Hear) {
            self.post(slot, Letter::Hear(Arc::clone(event)));
        }
        if let Some(answer) = answer {
            self.show_after(routes, event, answer);
        }
    }

    fn show_after(&self, routes: &Routes, event: &Arc<Event>, answer: &Value) {
        let mut shared = None;
        for slot in routes.seers(&event.name, Moment::After) {
            let answer = shared.get_or_insert_with(|| Arc::new(answer.clone()));
            self.post(slot, Letter::After(Arc::clone(event), Arc::clone(answer)));
        }
    }

    /// Put a letter into a plugin's mailbox; `false`, and counted, if it is full.
    fn post(&self, slot: &Arc<Slot>, letter: Letter) -> bool {
        let put = slot.mail.put(letter, self.options().queue_events_max, |letters| {
            tokio::spawn(deliver(Arc::downgrade(&self.inner), Arc::downgrade(slot), letters));
        });
        if !put {
            slot.stats.turned_away();
            tracing::warn!(plugin = %slot.name, "its queue is full (event_queue_size): it does not hear of an event");
        }
        put
    }

    fn slot(&self, plugin: Registration) -> Arc<Slot> {
        let handle = Handle::new(
            Arc::downgrade(&self.inner),
            &plugin.metadata.name,
            &plugin.capabilities.emits,
            self.options().plugin_events_per_second,
        );
        Arc::new(Slot::new(plugin, handle, Arc::clone(&self.inner.options), Arc::clone(&self.inner.waits)))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<Arc<str>, Arc<Slot>>) -> Result<(), RegisterError>,
    ) -> Result<(), RegisterError> {
        let _alone = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slots = self.inner.routes.load().slots.clone();
        change(&mut slots)?;
        self.inner.routes.store(Arc::new(Routes::build(slots)?));
        Ok(())
    }
}

/// End a plugin that is no longer routed to, when the last that is inside has left.
fn retire(slot: Option<Arc<Slot>>) {
    if let Some(slot) = slot {
        tokio::spawn(async move { slot.end().await });
    }
}

async fn ask(slot: &Arc<Slot>, event: &Arc<Event>) -> Result<Value, Error> {
    let asked = Arc::clone(event);
    let answered = slot.ask(event, &event.root, |plugin| Box::pin(async move { plugin.handle(asked).await })).await;
    match answered {
        Err(Error::NoHandler(_)) => Err(Error::NoHandler(event.name.clone())),
        answered => answered,
    }
}

/// Empty a mailbox, until its plugin is gone.
async fn deliver(bus: std::sync::Weak<Inner>, slot: std::sync::Weak<Slot>, mut letters: mpsc::Receiver<Letter>) {
    while let Some(letter) = letters.recv().await {
        let Some(slot) = slot.upgrade() else { return };
        let event = Arc::clone(letter.event());
        // A letter has its time from when it is taken out: that it waited is not its plugin's fault.
        let timeout = slot.event_timeout();
        let event =
            Arc::new(Event { until: Instant::now() + timeout, root: letter_root(&event), ..Event::clone(&event) });
        let told = match letter {
            Letter::Handle(_) => match ask(&slot, &event).await {
                Ok(answer) => {
                    if let Some(bus) = bus.upgrade().map(Bus::from_inner) {
                        let routes = bus.inner.routes.load_full();
                        bus.show_after(&routes, &event, &answer);
                    }
                    Ok(())
                }
                Err(why) => Err(why),
            },
            Letter::Hear(_) => {
                let heard = Arc::clone(&event);
                slot.ask(&event, &event.root, |plugin| Box::pin(async move { plugin.hear(heard).await })).await
            }
            Letter::After(_, answer) => {
                let seen = Arc::clone(&event);
                slot.ask(&event, &event.root, |plugin| Box::pin(async move { plugin.after(seen, answer).await })).await
            }
        };
        if let Err(why) = told {
            tracing::debug!(plugin = %slot.name, event = %event.name, "nobody waited for this failure: {why}");
        }
        slot.letter_done();
    }
}

/// A letter's handling is a chain of its own: whoever sent it does not wait.
fn letter_root(event: &Event) -> Arc<str> {
    format!("{}+", event.event_id).into()
}

fn status(slot: &Slot) -> PluginStatus {
    PluginStatus {
        metadata: slot.registration.metadata.clone(),
        capabilities: slot.registration.capabilities.clone(),
        digest: slot.registration.digest.clone(),
        state: slot.state(),
        queue_depth: slot.depth(),
        memory_bytes: slot.memory_bytes(),
        last_failure: slot.last_failure(),
        counts: slot.stats.counts(),
    }
}

//! The way of an event: stamped, kept, shown to those before, handled by its owner, told to those who listen.

mod delivery;

use crate::error::{Error, RegisterError};
use crate::event::{Answer, Draft, Event, Root, Sender, Stamped, answer_of, id_problem, name_problem};
use crate::handle::{Emitted, Handle};
use crate::history::{History, Query};
use crate::mail::{Letter, Mail};
use crate::options::Options;
use crate::plugin::{Before, Registration};
use crate::routes::{Moment, Plan, Routes};
use crate::services::tellers;
use crate::slot::{Entry, Inside, Slot};
use crate::status::{PluginStatus, status};
use crate::to_the_end::ToTheEnd;
use crate::traffic::Traffic;
use crate::waits::Waits;
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;

/// The bus. Cheap to clone; all clones are the same bus.
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: Arc<Options>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) routes: ArcSwap<Routes>,
    /// Held while the routes are built anew.
    changing: Mutex<()>,
    ended: AtomicBool,
    /// Taken by who tells a plugin what is in its mailbox.
    turns: Semaphore,
    pub(crate) history: History,
    pub(crate) traffic: Traffic,
    pub(crate) started: Instant,
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
            clock: Box::new(clock),
            routes: ArcSwap::default(),
            traffic: Traffic::default(),
            started: Instant::now(),
            changing: Mutex::default(),
            ended: AtomicBool::new(false),
            turns: Semaphore::new(options.deliveries_max.clamp(1, Semaphore::MAX_PERMITS)),
            waits: Arc::default(),
            run: hex::encode(random),
            numbers: AtomicU64::new(1),
            options: Arc::new(options),
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
                let slot = self.slot(plugin, Mail::default());
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
        let slot = self.slot(plugin, Mail::held());
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
            // It may have been taken away while the new one was started.
            old = Some(slots.insert(Arc::clone(&name), Arc::clone(&slot)));
            old.as_ref().and_then(Option::as_ref).map(|_| ()).ok_or_else(|| RegisterError::Unknown(name.to_string()))
        });
        match (&changed, old.flatten()) {
            (Ok(()), Some(old)) => self.hand_over(old, &slot),
            _ => retire(slot),
        }
        changed
    }

    /// Give the letters of one that was replaced to the one in its place, and end it.
    fn hand_over(&self, old: Arc<Slot>, new: &Arc<Slot>) {
        let routes = self.inner.routes.load_full();
        let letters = old.close(|letter| routes.takes(new, letter));
        if new.mail.inherit(letters) {
            self.begin_delivery(new);
        }
        retire(old);
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
        if let Some(old) = old {
            old.close(|_| false);
            retire(old);
        }
        Ok(())
    }

    /// End all plugins, side by side: events that are under way, and those in mailboxes, have the grace of
    /// [`Options::shutdown_grace`] to end, and after that each plugin has the same to shut down. The bus takes no more
    /// events and no more plugins.
    pub async fn shutdown(&self) {
        let routes = {
            let _alone = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
            self.inner.ended.store(true, Ordering::SeqCst);
            self.inner.routes.swap(Arc::default())
        };
        let ended = routes.slots.values().map(|slot| async {
            slot.close(|_| false);
            slot.end(Some(self.options().shutdown_grace)).await;
        });
        futures_util::future::join_all(ended).await;
    }

    /// Ask for the answer to an event.
    ///
    /// # Errors
    /// Always with an answer for the wire; see [`Error::answer`].
    pub async fn dispatch(&self, sender: Sender, draft: Draft) -> Result<Reply, Error> {
        self.dispatch_counted(sender, None, draft).await
    }

    /// Ask for the answer to an event of another host's bus, which has gone from host to host `hops` times. What is
    /// emitted while it is handled says so too, so that a bridge can end a circle of hosts.
    ///
    /// # Errors
    /// As [`Self::dispatch`].
    pub async fn dispatch_of_peer(&self, peer: Arc<str>, hops: u32, draft: Draft) -> Result<Reply, Error> {
        let fan_out = draft.fan_out;
        let stamped = self.stamp(Sender::Peer(peer), None, draft).map(|event| Arc::new(event.with_hops(hops)));
        let answered = match stamped {
            Ok(event) => ToTheEnd::new(self.clone().answer(event, fan_out)).await,
            Err(why) => Err(why),
        };
        self.inner.traffic.answered(answered.as_ref().err());
        answered
    }

    /// Tell of an event; nobody is waited for.
    ///
    /// # Errors
    /// If its name cannot be one, a plugin before it cancels it, or its owner's mailbox is full.
    pub async fn emit(&self, sender: Sender, draft: Draft) -> Result<Emitted, Error> {
        self.emit_counted(sender, None, draft).await
    }

    /// What there is of a query in the history, and how many events there were in all.
    #[must_use]
    pub fn history(&self, query: &Query) -> (Vec<Arc<Event>>, u64) {
        self.inner.history.find(query)
    }

    /// All events from now on, as the history keeps them: without data that are larger than
    /// [`Options::history_data_bytes_max`]. A watcher that is slow is told how many it missed.
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
        ToTheEnd::new(self.clone().answer(event, fan_out)).await
    }

    async fn answer(self, event: Arc<Event>, fan_out: bool) -> Result<Reply, Error> {
        let plan = self.plan(&event.name);
        let event = self.show_before(&plan, event, None).await?;
        self.note(&event);
        let answered = if fan_out {
            self.ask_all(&plan, &event).await
        } else {
            let answered = self.ask_owner(&plan, &event).await;
            for slot in &plan.hear {
                self.post(slot, Letter::Hear(Arc::clone(&event)));
            }
            answered
        };
        if let Ok(answer) = &answered {
            self.show_after(&plan, &event, answer);
        }
        let answer = answer_of(answered?);
        Ok(Reply { answer, correlation_id: event.correlation_id.clone(), event_id: event.event_id.clone() })
    }

    pub(crate) async fn emit_in(&self, sender: Sender, cause: Option<&Event>, draft: Draft) -> Result<Emitted, Error> {
        let mut event = self.stamp(sender, cause, draft)?;
        if cause.is_some() {
            // News of what took long comes when the time of its cause is up: it has its own.
            let until = Instant::now() + self.options().event_timeout;
            let root = Root(self.inner.numbers.fetch_add(1, Ordering::Relaxed));
            event = Arc::new(event.apart(until, root));
        }
        ToTheEnd::new(self.clone().spread(event, cause.map(|cause| cause.root))).await
    }

    async fn spread(self, event: Arc<Event>, within: Option<Root>) -> Result<Emitted, Error> {
        let plan = self.plan(&event.name);
        let event = self.show_before(&plan, event, within).await?;
        self.note(&event);
        let mut emitted = Emitted { event_id: event.event_id.clone(), queued: 0, refused: Vec::new() };
        if let Some(owner) = &plan.owner {
            if !self.post(owner, Letter::Handle(Arc::clone(&event))) {
                let text = format!(
                    "the queue of plugin '{}' is full (event_queue_size): send '{}' again later",
                    owner.name, event.name
                );
                return Err(Error::RateLimited(text));
            }
            emitted.queued += 1;
        }
        for slot in &plan.hear {
            if self.post(slot, Letter::Hear(Arc::clone(&event))) {
                emitted.queued += 1;
            } else {
                emitted.refused.push(slot.name.to_string());
            }
        }
        Ok(emitted)
    }

    fn plan(&self, name: &str) -> Arc<Plan> {
        self.inner.routes.load().plan(name)
    }

    /// Keep the event for those who look back, show it to those who watch, and log it where that is wanted.
    fn note(&self, event: &Arc<Event>) {
        self.inner.history.add(event);
        if self.options().log_events {
            tracing::info!(
                event = %event.name, id = %event.event_id, sender = %event.sender,
                correlation_id = %event.correlation_id, "event"
            );
        }
    }

    /// Come in to a plugin for its part in an event, or to the one in its place. `None`: nobody has that part any more.
    fn enter(&self, slot: &Arc<Slot>, name: &str, moment: Moment) -> Result<Option<Inside>, Error> {
        let mut next = Arc::clone(slot);
        loop {
            match next.enter() {
                Entry::Inside(inside) => return Ok(Some(inside)),
                Entry::Full(why) => return Err(why),
                Entry::Closed => {}
            }
            // A plugin is closed after the routes lead elsewhere.
            let Some(found) = self.inner.routes.load().successor(&next, name, moment) else { return Ok(None) };
            next = found;
        }
    }

    fn stamp(&self, sender: Sender, cause: Option<&Event>, draft: Draft) -> Result<Arc<Event>, Error> {
        if let Some(problem) = name_problem(&draft.name) {
            return Err(Error::Invalid(problem));
        }
        let ids = [("correlation id", &draft.correlation_id), ("client id", &draft.client_id)];
        if let Some(problem) = ids.into_iter().find_map(|(what, id)| id_problem(what, id.as_ref())) {
            return Err(Error::Invalid(problem));
        }
        if self.inner.ended.load(Ordering::SeqCst) {
            let text = format!("the host is shutting down: send '{}' again when it is back", draft.name);
            return Err(Error::Forbidden(text));
        }
        self.inner.traffic.event(&draft.name);
        self.may_tell(&sender, &draft.name)?;
        let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        let event_id = format!("{}-{number:x}", self.inner.run);
        let mut chain = cause.map(|cause| cause.chain.clone()).unwrap_or_default();
        if let Sender::Plugin(name) = &sender {
            chain.push(Arc::clone(name));
        }
        let until = Instant::now() + self.options().event_timeout;
        let until = cause.map_or(until, |cause| cause.until.min(until));
        let root = cause.map_or(Root(number), |cause| cause.root);
        let stamped = Stamped {
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
            data_bytes: 0,
        };
        Ok(Arc::new(Event::new(stamped, until, root)))
    }

    /// What a service tells of what it did is believed: nobody else says it.
    fn may_tell(&self, sender: &Sender, name: &str) -> Result<(), Error> {
        let Some(owners_of) = tellers(name) else { return Ok(()) };
        let routes = self.inner.routes.load();
        let allowed = match sender {
            Sender::Host => true,
            Sender::Plugin(plugin) => {
                owners_of.iter().any(|event| routes.owner(event).is_some_and(|owner| owner.name == *plugin))
            }
            Sender::Client(_) | Sender::Peer(_) => false,
        };
        let text = || format!("{sender} may not send '{name}': only the host's services say that");
        if allowed { Ok(()) } else { Err(Error::Forbidden(text())) }
    }

    /// Show the event to those before its handler. One that fails is as one that cancels: it may be there to forbid. A
    /// plugin is not shown what it sends itself. `within`: the chain whose caller waits for this, where the event has
    /// another one.
    async fn show_before(&self, plan: &Plan, mut event: Arc<Event>, within: Option<Root>) -> Result<Arc<Event>, Error> {
        for slot in &plan.before {
            if matches!(&event.sender, Sender::Plugin(sender) if *sender == slot.name) {
                continue;
            }
            let Some(inside) = self.enter(slot, &event.name, Moment::Before)? else { continue };
            let shown = Arc::clone(&event);
            // One that may be at work on what this is part of would be waited for by itself.
            let within = within.filter(|_| event.chain.contains(&slot.name));
            let asked = within.map(|root| event.apart(event.until, root));
            match inside
                .ask(asked.as_ref().unwrap_or(&event), |plugin| Box::pin(async move { plugin.before(shown).await }))
                .await?
            {
                Before::Pass => {}
                Before::Replace(data) => event = Arc::new(event.with_data(data)),
                Before::Cancel(why) => {
                    let text = format!("plugin '{}' cancelled event '{}': {why}", slot.name, event.name);
                    return Err(Error::Forbidden(text));
                }
            }
        }
        Ok(event)
    }

    async fn ask_owner(&self, plan: &Plan, event: &Arc<Event>) -> Result<Value, Error> {
        if let Some(owner) = &plan.owner {
            return self.ask(owner, event, Moment::Handle).await;
        }
        match plan.hear.len() {
            0 => Err(Error::NoHandler(event.name.clone())),
            subscribers => Ok(json!({ "status": "published", "subscribers": subscribers })),
        }
    }

    async fn ask(&self, slot: &Arc<Slot>, event: &Arc<Event>, moment: Moment) -> Result<Value, Error> {
        match self.enter(slot, &event.name, moment)? {
            Some(inside) => ask(inside, event).await,
            None => Err(Error::NoHandler(event.name.clone())),
        }
    }

    /// The owner and all who listen, side by side. Who listens and has no answer hears of it, as does an owner who
    /// listens too: each is told once in each of its parts.
    async fn ask_all(&self, plan: &Plan, event: &Arc<Event>) -> Result<Value, Error> {
        let owner = plan.owner.as_ref();
        let others = plan.hear.iter().filter(|slot| owner.is_none_or(|owner| owner.name != slot.name));
        let asked: Vec<_> = owner.map(|owner| (owner, Moment::Handle)).into_iter().collect();
        let asked: Vec<_> = asked.into_iter().chain(others.map(|slot| (slot, Moment::Hear))).collect();
        if asked.is_empty() {
            return Err(Error::NoHandler(event.name.clone()));
        }
        let answers = asked.into_iter().map(|(slot, moment)| async move {
            let asked = self.ask(slot, event, moment).await;
            let hears = match moment {
                Moment::Hear => matches!(asked, Err(Error::NoHandler(_))),
                _ => plan.hear.iter().any(|hears| hears.name == slot.name),
            };
            if hears {
                self.post(slot, Letter::Hear(Arc::clone(event)));
            }
            let mut answered = match asked {
                Ok(value) => answer_of(value),
                Err(why) => why.answer(),
            };
            answered.insert("plugin".to_owned(), Value::from(&*slot.name));
            Value::Object(answered)
        });
        Ok(json!({ "responses": futures_util::future::join_all(answers).await }))
    }

    fn slot(&self, plugin: Registration, mail: Mail) -> Arc<Slot> {
        let handle = Handle::new(
            Arc::downgrade(&self.inner),
            &plugin.metadata.name,
            &plugin.capabilities.emits,
            self.options().plugin_events_per_second,
        );
        Arc::new(Slot::new(plugin, handle, mail, Arc::clone(&self.inner.options), Arc::clone(&self.inner.waits)))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<Arc<str>, Arc<Slot>>) -> Result<(), RegisterError>,
    ) -> Result<(), RegisterError> {
        let _alone = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner.ended.load(Ordering::SeqCst) {
            return Err(RegisterError::Ended);
        }
        let mut slots = self.inner.routes.load().slots.clone();
        change(&mut slots)?;
        let routes = Routes::build(slots)?;
        self.inner.traffic.learn(routes.slots.values().map(|slot| &slot.registration.capabilities));
        self.inner.routes.store(Arc::new(routes));
        Ok(())
    }
}

/// End a plugin that is no longer routed to, when the last that is inside has left.
fn retire(slot: Arc<Slot>) {
    slot.close(|_| false);
    tokio::spawn(async move { slot.end(None).await });
}

async fn ask(inside: Inside, event: &Arc<Event>) -> Result<Value, Error> {
    let asked = Arc::clone(event);
    match inside.ask(event, |plugin| Box::pin(async move { plugin.handle(asked).await })).await {
        Err(Error::NoHandler(_)) => Err(Error::NoHandler(event.name.clone())),
        answered => answered,
    }
}

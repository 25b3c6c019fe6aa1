//! The event bus: what happens in this host, told to whoever listens.
//!
//! Told apart: the ledger is the truth and loses nothing; the bus is news, bounded in every direction. An event has an
//! [`Envelope`] that the host stamps: its id, who sent it, when. A sender cannot choose its name or its time.
//!
//! What always holds:
//! - Nobody who publishes waits for anybody who listens. A subscriber that lags is told how many events it missed; it holds
//!   numbers of events, and the history holds the events, so that who lags costs no memory.
//! - The history is bounded by number and by bytes; whoever asks for more is told how many are gone.
//! - Data above a limit is stored by its digest, and the event carries `{"ref": SHA-256, "bytes": N}` instead.
//! - Delivery to a handler is at least once: a handler that acts remembers ids ([`Seen`]).
//!
//! Absent so far: routing to plugins, other processes, delivery across a restart.

mod payloads;
mod seen;
pub mod topic;

pub use payloads::{PayloadError, Payloads};
pub use seen::{Noted, Seen};

use crate::clock::Clock;
use crate::config::EventsFile;
use serde::Serialize;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

/// Who sent an event, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Envelope {
    /// Unique, also across restarts.
    pub event_id: String,
    /// The host's name for the sender: a part of the host, or the name of a caller's key.
    pub sender_id: String,
    /// The host's clock, in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp: u64,
    /// The same for all events that follow from one cause.
    pub trace_id: String,
}

/// Something that happened.
#[derive(Debug)]
pub struct Event {
    /// Its place in this run of the host, from 1.
    pub seq: u64,
    /// Who and when.
    pub envelope: Envelope,
    /// What about: one of [`topic::ALL`].
    pub topic: &'static str,
    /// All of it as JSON.
    pub text: String,
}

/// What a sender says of an event.
#[derive(Debug, Clone, Copy)]
pub struct News<'a> {
    /// The host's name for the sender.
    pub sender: &'a str,
    /// What about.
    pub topic: &'static str,
    /// The schema of the data, with its version.
    pub schema: &'static str,
    /// What it follows from; a new trace begins without.
    pub trace: Option<&'a str>,
}

/// A part of the history.
#[derive(Debug)]
pub struct Page {
    /// In their order.
    pub events: Vec<Arc<Event>>,
    /// What to ask for next.
    pub next: u64,
    /// Events of any topic that were asked for and are no longer kept.
    pub missed: u64,
    /// Names this run of the host: numbers of another one mean nothing here.
    pub run: String,
}

/// What a subscriber hears.
#[derive(Debug)]
pub enum Heard {
    /// An event.
    Event(Arc<Event>),
    /// It lagged: so many events, of any topic, it will not hear.
    Missed(u64),
}

/// Why there is no subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// There are as many as there may be.
    #[error("{0} subscribers listen already (events.subscribers_max)")]
    TooMany(usize),
    /// One caller has as many as it may have.
    #[error("{0} subscribers of this caller listen already (events.subscribers_per_caller_max)")]
    TooManyOfCaller(usize),
    /// The host stops.
    #[error("the host is stopping")]
    Closed,
}

/// The bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    run: String,
    ids: AtomicU64,
    clock: Clock,
    limits: EventsFile,
    payloads: Payloads,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seq: u64,
    history: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Gone when the host stops.
    listeners: Option<broadcast::Sender<u64>>,
    /// Who listens, and how often.
    callers: HashMap<String, usize>,
}

impl Bus {
    /// A bus whose large data lies in `folder`, or in memory without one.
    ///
    /// # Errors
    /// When the folder cannot be made or read, or there is no randomness.
    pub fn open(folder: Option<&Path>, limits: &EventsFile, clock: Clock) -> anyhow::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|why| anyhow::anyhow!("no randomness to be had: {why}"))?;
        let listeners = Some(broadcast::Sender::new(limits.queue));
        let inner = Inner {
            run: hex::encode(random),
            ids: AtomicU64::new(0),
            payloads: Payloads::open(folder, limits.payloads_bytes_max, limits.payloads_age_s, clock.clone())?,
            clock,
            limits: limits.clone(),
            state: Mutex::new(State { seq: 0, history: VecDeque::new(), bytes: 0, listeners, callers: HashMap::new() }),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Tell everybody. The event's id is new, its time the host's.
    ///
    /// # Errors
    /// When large data could not be stored; then nobody is told.
    pub fn publish(&self, news: News<'_>, data: &impl Serialize) -> Result<Arc<Event>, PayloadError> {
        let written = |why: serde_json::Error| PayloadError::Unwritten(why.to_string());
        self.publish_text(news, serde_json::to_string(data).map_err(written)?)
    }

    /// The same with data that is JSON already.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_text(&self, news: News<'_>, data: String) -> Result<Arc<Event>, PayloadError> {
        let data = self.carried(data)?;
        let mut state = self.state();
        let seq = state.seq + 1;
        let event_id = format!("{}-{seq}", self.inner.run);
        let envelope = Envelope {
            sender_id: news.sender.to_owned(),
            timestamp: self.inner.clock.now_ms(),
            trace_id: news.trace.unwrap_or(&event_id).to_owned(),
            event_id,
        };
        let (told, topic, schema) = (json!(envelope), json!(news.topic), json!(news.schema));
        let text =
            format!("{{\"seq\":{seq},\"envelope\":{told},\"topic\":{topic},\"schema\":{schema},\"data\":{data}}}");
        let event = Arc::new(Event { seq, envelope, topic: news.topic, text });
        state.keep(Arc::clone(&event), &self.inner.limits);
        if let Some(listeners) = &state.listeners {
            // Nobody may be listening.
            let _ = listeners.send(seq);
        }
        Ok(event)
    }

    /// An id for a message that came without one; unique as those of events are.
    #[must_use]
    pub fn fresh_id(&self) -> String {
        format!("{}-m{}", self.inner.run, self.inner.ids.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The data itself, or where it lies.
    fn carried(&self, data: String) -> Result<String, PayloadError> {
        let bytes = data.len();
        if bytes <= self.inner.limits.reference_above_bytes {
            return Ok(data);
        }
        let digest = self.inner.payloads.put(data.into_bytes())?;
        Ok(json!({"ref": digest, "bytes": bytes}).to_string())
    }

    /// The data that an event refers to, if it is still kept.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was stored.
    pub fn payload(&self, digest: &str) -> Result<Option<Vec<u8>>, PayloadError> {
        self.inner.payloads.get(digest)
    }

    /// At most `limit` events after the one with the number `since`, of `topic` or of all.
    #[must_use]
    pub fn history(&self, topic: Option<&str>, since: u64, limit: usize) -> Page {
        let state = self.state();
        let oldest = state.history.front().map_or(state.seq + 1, |event| event.seq);
        let wanted = state.history.iter().filter(|event| event.seq > since);
        let wanted = wanted.filter(|event| topic.is_none_or(|topic| topic == event.topic));
        let events: Vec<_> = wanted.take(limit).cloned().collect();
        // A page that is not full has seen all there is.
        let next = if events.len() < limit { state.seq } else { events.last().map_or(since, |event| event.seq) };
        let missed = oldest.saturating_sub(since + 1);
        Page { events, next: next.max(since), missed, run: self.inner.run.clone() }
    }

    /// Have `caller` listen from now on, to `topic` or to all.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn subscribe(&self, topic: Option<&'static str>, caller: &str) -> Result<Subscriber, SubscribeError> {
        let EventsFile { subscribers_max, subscribers_per_caller_max, .. } = self.inner.limits;
        let mut state = self.state();
        let receiver = state.listeners.as_ref().ok_or(SubscribeError::Closed)?.subscribe();
        if state.callers.values().sum::<usize>() >= subscribers_max {
            return Err(SubscribeError::TooMany(subscribers_max));
        }
        let of_caller = state.callers.entry(caller.to_owned()).or_default();
        if *of_caller >= subscribers_per_caller_max {
            return Err(SubscribeError::TooManyOfCaller(subscribers_per_caller_max));
        }
        *of_caller += 1;
        Ok(Subscriber { receiver, topic, caller: caller.to_owned(), bus: Arc::downgrade(&self.inner) })
    }

    /// How long a stream may wait for its listener.
    #[must_use]
    pub fn stream_stall(&self) -> Duration {
        Duration::from_millis(self.inner.limits.stream_stall_ms)
    }

    /// Subscribers hear what is on its way to them, and then the end.
    pub fn close(&self) {
        self.state().listeners = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The event of this number, if it is still kept: numbers follow one another.
    fn event(&self, seq: u64) -> Option<Arc<Event>> {
        let oldest = self.history.front()?.seq;
        let at = usize::try_from(seq.checked_sub(oldest)?).ok()?;
        self.history.get(at).cloned()
    }

    fn keep(&mut self, event: Arc<Event>, limits: &EventsFile) {
        self.seq = event.seq;
        self.bytes += event.text.len();
        self.history.push_back(event);
        while self.history.len() > limits.history || (self.bytes > limits.history_bytes_max && self.history.len() > 1) {
            self.bytes -= self.history.pop_front().map_or(0, |gone| gone.text.len());
        }
    }
}

/// Somebody who listens.
#[derive(Debug)]
pub struct Subscriber {
    receiver: broadcast::Receiver<u64>,
    topic: Option<&'static str>,
    caller: String,
    bus: Weak<Inner>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let Some(bus) = self.bus.upgrade() else { return };
        let mut state = bus.state();
        if let Some(listening) = state.callers.get_mut(&self.caller) {
            *listening -= 1;
            if *listening == 0 {
                state.callers.remove(&self.caller);
            }
        }
    }
}

impl Subscriber {
    /// What comes next; `None` when the bus is closed.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.receiver.recv().await {
                Ok(seq) => match self.bus.upgrade()?.state().event(seq) {
                    Some(event) if self.topic.is_none_or(|topic| topic == event.topic) => {
                        return Some(Heard::Event(event));
                    }
                    Some(_) => {}
                    None => return Some(Heard::Missed(1)),
                },
                Err(broadcast::error::RecvError::Lagged(missed)) => return Some(Heard::Missed(missed)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn bus(limits: &EventsFile) -> Bus {
        Bus::open(None, limits, Clock::manual(7)).unwrap()
    }

    fn tell(bus: &Bus, topic: &'static str, data: &Value) -> Arc<Event> {
        bus.publish(News { sender: "layer a", topic, schema: "test/1", trace: None }, data).unwrap()
    }

    #[test]
    fn an_event_is_stamped_by_the_host_and_begins_a_trace() {
        let event = tell(&bus(&EventsFile::default()), topic::EPOCH, &json!({"epoch": 3}));
        let Envelope { event_id, sender_id, timestamp, trace_id } = &event.envelope;
        assert_eq!((sender_id.as_str(), *timestamp, trace_id), ("layer a", 7, event_id));
        let told: Value = serde_json::from_str(&event.text).unwrap();
        assert_eq!((&told["data"]["epoch"], &told["topic"]), (&json!(3), &json!("system.events.epoch")));
        assert_eq!(told["envelope"]["event_id"], json!(event_id));
    }

    #[test]
    fn the_history_is_bounded_and_says_what_is_gone() {
        let bus = bus(&EventsFile { history: 3, ..EventsFile::default() });
        for number in 0..5 {
            tell(&bus, if number % 2 == 0 { topic::EPOCH } else { topic::ROLLBACK }, &json!(number));
        }
        let numbers = |page: &Page| page.events.iter().map(|event| event.seq).collect::<Vec<_>>();
        let all = bus.history(None, 0, 10);
        assert_eq!((numbers(&all), all.missed, all.next), (vec![3, 4, 5], 2, 5));
        let one = bus.history(Some(topic::EPOCH), 2, 1);
        assert_eq!((numbers(&one), one.missed, one.next), (vec![3], 0, 3));
        let rest = bus.history(Some(topic::EPOCH), one.next, 10);
        assert_eq!((numbers(&rest), rest.missed), (vec![5], 0));
        assert_eq!(numbers(&bus.history(None, 5, 10)), Vec::<u64>::new());
    }

    #[test]
    fn the_history_is_bounded_by_bytes_too() {
        let bus = bus(&EventsFile { history_bytes_max: 400, ..EventsFile::default() });
        for _ in 0..4 {
            tell(&bus, topic::EPOCH, &json!("x".repeat(100)));
        }
        assert_eq!(bus.history(None, 0, 10).events.len(), 1);
    }

    #[tokio::test]
    async fn a_subscriber_that_lags_is_told_how_many_it_missed() {
        let bus = bus(&EventsFile { queue: 2, subscribers_max: 1, ..EventsFile::default() });
        let mut slow = bus.subscribe(Some(topic::EPOCH), "a").unwrap();
        assert_eq!(bus.subscribe(None, "b").err(), Some(SubscribeError::TooMany(1)));
        for number in 0..5 {
            tell(&bus, topic::EPOCH, &json!(number));
        }
        tell(&bus, topic::ROLLBACK, &json!(5));
        assert!(matches!(slow.next().await, Some(Heard::Missed(4))));
        assert!(
            matches!(slow.next().await, Some(Heard::Event(event)) if event.seq == 5),
            "and nothing of other topics"
        );
        bus.close();
        assert!(slow.next().await.is_none());
        drop(slow);
        assert_eq!(bus.subscribe(None, "a").err(), Some(SubscribeError::Closed));
    }

    #[tokio::test]
    async fn what_the_history_forgot_is_missed_and_a_caller_has_its_share() {
        let bus = bus(&EventsFile { history: 2, subscribers_per_caller_max: 1, ..EventsFile::default() });
        let mut slow = bus.subscribe(None, "a").unwrap();
        assert_eq!(bus.subscribe(None, "a").err(), Some(SubscribeError::TooManyOfCaller(1)));
        assert!(bus.subscribe(None, "b").is_ok(), "another caller has its own");
        for number in 0..3 {
            tell(&bus, topic::EPOCH, &json!(number));
        }
        assert!(matches!(slow.next().await, Some(Heard::Missed(1))));
        assert!(matches!(slow.next().await, Some(Heard::Event(event)) if event.seq == 2));
        drop(slow);
        let again = bus.subscribe(None, "a").unwrap();
        drop(bus);
        assert!({ again }.next().await.is_none(), "the bus is gone");
    }

    #[test]
    fn large_data_goes_by_reference() {
        let folder = tempfile::tempdir().unwrap();
        let limits = EventsFile { reference_above_bytes: 100, ..EventsFile::default() };
        let bus = Bus::open(Some(folder.path()), &limits, Clock::manual(7)).unwrap();
        let large = json!({"text": "x".repeat(200)});
        let event = tell(&bus, topic::SEED_HEALTH, &large);
        let told: Value = serde_json::from_str(&event.text).unwrap();
        assert_eq!(told["data"]["bytes"], json!(large.to_string().len()));
        let digest = told["data"]["ref"].as_str().unwrap();
        assert_eq!(bus.payload(digest).unwrap(), Some(large.to_string().into_bytes()));
        assert_eq!(bus.payload(&"0".repeat(64)).unwrap(), None);
    }
}

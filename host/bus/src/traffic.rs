//! What is counted of all events: by name, and by what came of them.
//!
//! Names that plugins declared are counted apart, all others together: senders choose names, and must not choose how
//! much is counted. Counting costs an event two look-ups and takes no lock.

use crate::bus::{Bus, Reply};
use crate::error::Error;
use crate::event::{Draft, Event, Sender, namespace};
use crate::handle::Emitted;
use crate::pattern::Pattern;
use crate::plugin::Capabilities;
use crate::routes::plain_namespace;
use crate::stats::Times;
use arc_swap::ArcSwap;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most names that are counted apart; those of plugins that come later are counted with their namespace.
const NAMES_MAX: usize = 1_000;

/// What can come of an event: an answer, or one of the codes of [`Error`]. `INVALID` is one that cannot be read as an
/// event, `REFUSED` the handler's own no, whatever code it gave.
pub const OUTCOMES: [&str; 8] =
    ["ok", "INVALID", "NO_HANDLER", "TIMEOUT", "FORBIDDEN", "RATE_LIMITED", "PLUGIN_FAILED", "REFUSED"];

/// The name under which everything is counted that nobody declared.
const OTHER: &str = "other";

#[derive(Default)]
pub(crate) struct Traffic {
    known: ArcSwap<Known>,
    other: AtomicU64,
    answered: Outcomes,
    emitted: Outcomes,
}

#[derive(Default, Clone)]
struct Known {
    names: HashMap<Box<str>, Arc<AtomicU64>>,
    namespaces: HashMap<Box<str>, Arc<AtomicU64>>,
}

/// One count for each of [`OUTCOMES`].
#[derive(Default)]
struct Outcomes([AtomicU64; OUTCOMES.len()]);

/// How many events of one name there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventCount {
    /// Its namespace; `other` where no plugin owns or names it.
    pub namespace: String,
    /// What follows in its name; `other` for all that no plugin names.
    pub event: String,
    /// How many, those included that were cancelled or refused.
    pub count: u64,
}

/// The bus as a whole, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// Since the bus was made, in seconds.
    pub uptime_seconds: f64,
    /// Events that were kept or could have been: all but those that were cancelled or could not be read.
    pub events_total: u64,
    /// Events by name.
    pub events: Vec<EventCount>,
    /// What came of events that somebody waited for, by [`OUTCOMES`].
    pub answers: BTreeMap<&'static str, u64>,
    /// What came of events that nobody waited for: `ok` is that they were queued.
    pub emitted: BTreeMap<&'static str, u64>,
    /// Events that the history holds now.
    pub history_events: usize,
    /// Those who watch events live.
    pub watchers: usize,
}

impl Traffic {
    /// An event came.
    pub(crate) fn event(&self, name: &str) {
        let known = self.known.load();
        let counter = known.names.get(name).or_else(|| known.namespaces.get(namespace(name)));
        counter.map_or(&self.other, |counter| &**counter).fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody waited for it, and this is what came.
    pub(crate) fn answered(&self, error: Option<&Error>) {
        self.answered.count(error);
    }

    /// Nobody waited for it.
    pub(crate) fn emitted(&self, error: Option<&Error>) {
        self.emitted.count(error);
    }

    /// Count from now on what these plugins declare. What was counted stays.
    pub(crate) fn learn<'a>(&self, plugins: impl Iterator<Item = &'a Capabilities>) {
        let mut known = Known::clone(&self.known.load());
        for plugin in plugins {
            let patterns = [&plugin.subscribes, &plugin.emits, &plugin.before, &plugin.after];
            let literal = patterns.into_iter().flatten().map(Pattern::as_str).filter(|text| !text.contains('*'));
            let names: Vec<&str> = plugin.commands.iter().map(String::as_str).chain(literal).collect();
            let spaces = plugin.event_namespaces.iter().map(|space| plain_namespace(space));
            for space in spaces.chain(names.iter().map(|name| namespace(name))) {
                add(&mut known.namespaces, space);
            }
            for name in names {
                add(&mut known.names, name);
            }
        }
        self.known.store(Arc::new(known));
    }

    fn counts(&self) -> Vec<EventCount> {
        let known = self.known.load();
        let named = known.names.iter().map(|(name, count)| {
            let space = namespace(name);
            (space, name.get(space.len() + 1..).unwrap_or(space), &**count)
        });
        let spaced = known.namespaces.iter().map(|(space, count)| (&**space, OTHER, &**count));
        let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (space, event, count) in named.chain(spaced).chain([(OTHER, OTHER, &self.other)]) {
            *sums.entry((space, event)).or_default() += count.load(Ordering::Relaxed);
        }
        let told = sums.into_iter();
        told.map(|((namespace, event), count)| EventCount { namespace: namespace.into(), event: event.into(), count })
            .collect()
    }
}

fn add(counters: &mut HashMap<Box<str>, Arc<AtomicU64>>, name: &str) {
    if counters.len() < NAMES_MAX && !counters.contains_key(name) {
        counters.insert(name.into(), Arc::default());
    }
}

impl Outcomes {
    fn count(&self, error: Option<&Error>) {
        let outcome = match error {
            None => "ok",
            Some(Error::Invalid(_)) => "INVALID",
            Some(Error::Refused { .. }) => "REFUSED",
            Some(other) => other.code().unwrap_or("REFUSED"),
        };
        let at = OUTCOMES.iter().position(|known| *known == outcome).unwrap_or(OUTCOMES.len() - 1);
        self.0[at].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        OUTCOMES.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }
}

impl Bus {
    /// [`Self::dispatch_in`], counted.
    pub(crate) async fn dispatch_counted(
        &self,
        sender: Sender,
        cause: Option<&Event>,
        draft: Draft,
    ) -> Result<Reply, Error> {
        let answered = self.dispatch_in(sender, cause, draft).await;
        self.inner.traffic.answered(answered.as_ref().err());
        answered
    }

    /// [`Self::emit_in`], counted.
    pub(crate) async fn emit_counted(
        &self,
        sender: Sender,
        cause: Option<&Event>,
        draft: Draft,
    ) -> Result<Emitted, Error> {
        let emitted = self.emit_in(sender, cause, draft).await;
        self.inner.traffic.emitted(emitted.as_ref().err());
        emitted
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    /// The bus as a whole.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let (traffic, history) = (self.traffic(), &self.inner.history);
        Overview {
            uptime_seconds: self.inner.started.elapsed().as_secs_f64(),
            events_total: self.events_total(),
            events: traffic.counts(),
            answers: traffic.answered.counts(),
            emitted: traffic.emitted.counts(),
            history_events: history.depth(),
            watchers: history.watchers(),
        }
    }

    /// How long each plugin took for its events, in classes with these upper bounds, in seconds and ascending.
    #[must_use]
    pub fn times(&self, bounds: &[f64]) -> Vec<(String, Times)> {
        let routes = self.inner.routes.load();
        routes.slots.values().map(|slot| (slot.name.to_string(), slot.stats.times(bounds))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(traffic: &Traffic, namespace: &str, event: &str) -> u64 {
        let counts = traffic.counts();
        counts.iter().find(|count| (&*count.namespace, &*count.event) == (namespace, event)).map_or(0, |it| it.count)
    }

    #[test]
    fn only_declared_names_are_counted_apart() {
        let traffic = Traffic::default();
        let plugin = Capabilities {
            event_namespaces: vec!["/state".to_owned()],
            commands: vec!["completion:async".to_owned(), "plain".to_owned()],
            emits: ["state:changed", "message:*"].map(|text| Pattern::parse(text).unwrap()).to_vec(),
            ..Capabilities::default()
        };
        traffic.event("state:set");
        traffic.learn([&plugin].into_iter());
        for name in ["state:set", "state:get", "state:changed", "completion:async", "completion:x", "plain", "a:b"] {
            traffic.event(name);
        }
        let counted = |namespace, event| count(&traffic, namespace, event);
        assert_eq!((counted("state", "other"), counted("state", "changed")), (2, 1));
        assert_eq!((counted("completion", "async"), counted("completion", "other")), (1, 1));
        assert_eq!((counted("plain", "plain"), counted("other", "other")), (1, 2), "one came before anybody was known");
        let kinds = traffic.counts().len();
        (0..10_000).for_each(|number| traffic.event(&format!("made-up-{number}:x")));
        assert_eq!((traffic.counts().len(), counted("other", "other")), (kinds, 10_002));
    }

    #[test]
    fn every_error_has_its_outcome() {
        let outcomes = Outcomes::default();
        outcomes.count(None);
        for error in [
            Error::Invalid(String::new()),
            Error::NoHandler(String::new()),
            Error::Timeout { event: String::new(), seconds: 1.0 },
            Error::Forbidden(String::new()),
            Error::RateLimited(String::new()),
            Error::PluginFailed { plugin: String::new(), problem: String::new() },
            Error::Refused { message: String::new(), code: Some("MADE_UP".to_owned()) },
        ] {
            outcomes.count(Some(&error));
        }
        assert!(outcomes.counts().values().all(|count| *count == 1), "{:?}", outcomes.counts());
    }
}

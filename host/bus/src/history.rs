//! The last events, for whoever asks what happened, and the live stream for whoever watches.

use crate::event::Event;
use crate::pattern::{self, Pattern};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// How many events a watcher may be behind before it loses some, and is told so.
const WATCHER_EVENTS_MAX: usize = 1_024;

pub(crate) struct History {
    events: Mutex<Ring>,
    live: broadcast::Sender<Arc<Event>>,
    events_max: usize,
    data_bytes_max: usize,
}

#[derive(Default)]
struct Ring {
    kept: VecDeque<Arc<Event>>,
    total: u64,
}

/// What to look for in the history.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// At most so many.
    pub limit: usize,
    /// Names; all of them where there is none.
    pub patterns: Vec<Pattern>,
    /// Events of this client.
    pub client_id: Option<String>,
    /// From this time on, in milliseconds.
    pub since_ms: Option<u64>,
    /// Until this time, included.
    pub until_ms: Option<u64>,
    /// The newest first.
    pub newest_first: bool,
}

impl History {
    pub(crate) fn new(events_max: usize, data_bytes_max: usize) -> Self {
        Self { events: Mutex::default(), live: broadcast::channel(WATCHER_EVENTS_MAX).0, events_max, data_bytes_max }
    }

    pub(crate) fn add(&self, event: &Arc<Event>) {
        let kept = self.kept_form(event);
        // Without watchers this fails, and that is well. A watcher that does not read holds no more than this form.
        let _ = self.live.send(Arc::clone(&kept));
        let mut ring = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        ring.total += 1;
        if self.events_max == 0 {
            return;
        }
        let oldest = if ring.kept.len() == self.events_max { ring.kept.pop_front() } else { None };
        ring.kept.push_back(kept);
        drop(ring);
        // It may have much in it: nobody waits while that is given back.
        drop(oldest);
    }

    /// As it is kept: without its data where they are large.
    fn kept_form(&self, event: &Arc<Event>) -> Arc<Event> {
        if event.data_bytes <= self.data_bytes_max {
            return Arc::clone(event);
        }
        let note = format!("more than {} bytes (history_data_bytes_max)", self.data_bytes_max);
        Arc::new(event.with_data(serde_json::json!({ "left_out": note })))
    }

    /// What there is of a query, and how many events there were in all.
    pub(crate) fn find(&self, query: &Query) -> (Vec<Arc<Event>>, u64) {
        let ring = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |event: &&Arc<Event>| {
            (query.patterns.is_empty() || pattern::any(&query.patterns, &event.name))
                && query.client_id.as_ref().is_none_or(|client| event.client_id.as_ref() == Some(client))
                && query.since_ms.is_none_or(|since| event.timestamp_ms >= since)
                && query.until_ms.is_none_or(|until| event.timestamp_ms <= until)
        };
        let found: Vec<_> = if query.newest_first {
            ring.kept.iter().rev().filter(wanted).take(query.limit).cloned().collect()
        } else {
            ring.kept.iter().filter(wanted).take(query.limit).cloned().collect()
        };
        (found, ring.total)
    }

    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<Event>> {
        self.live.subscribe()
    }

    /// How many events it holds now.
    pub(crate) fn depth(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).kept.len()
    }

    pub(crate) fn watchers(&self) -> usize {
        self.live.receiver_count()
    }

    pub(crate) fn total(&self) -> u64 {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

//! What readers see of the topics: what is durable, and a bell that rings when there is more.

use super::record::Topic;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use tokio::sync::watch;

/// The topics as of the last commit.
#[derive(Default)]
pub(super) struct Shared {
    topics: RwLock<BTreeMap<String, Seen>>,
}

struct Seen {
    topic: Topic,
    /// Says where the topic ends. Closed when the topic is removed.
    bell: watch::Sender<u64>,
}

impl Shared {
    /// A topic as it is now, or that it is gone.
    pub(super) fn update(&self, name: &str, topic: Option<&Topic>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let Some(topic) = topic else {
            topics.remove(name);
            return;
        };
        match topics.get_mut(name) {
            // One of the same name that was made anew is another: who listens to the old one must be told.
            Some(seen) if seen.topic.id == topic.id => {
                seen.topic = topic.clone();
                seen.bell.send_replace(topic.next);
            }
            _ => {
                let bell = watch::Sender::new(topic.next);
                topics.insert(name.to_owned(), Seen { topic: topic.clone(), bell });
            }
        }
    }

    /// A topic.
    pub(super) fn topic(&self, name: &str) -> Option<Topic> {
        self.read(|topics| topics.get(name).map(|seen| seen.topic.clone()))
    }

    /// A topic, and its bell, which rings for what comes after.
    pub(super) fn listen(&self, name: &str) -> Option<(Topic, watch::Receiver<u64>)> {
        self.read(|topics| topics.get(name).map(|seen| (seen.topic.clone(), seen.bell.subscribe())))
    }

    /// Ring for those who wait for a topic, without a message: something of a group has come back.
    pub(super) fn ring(&self, name: &str) {
        self.read(|topics| {
            if let Some(seen) = topics.get(name) {
                seen.bell.send_modify(|_| {});
            }
        });
    }

    /// Some topics, by name, after this one; and whether there are more.
    pub(super) fn page(&self, after: &str, limit: usize) -> (Vec<(String, Topic)>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        self.read(|topics| {
            let mut rest = topics.range::<str, _>((Excluded(after), Unbounded));
            let page = rest.by_ref().take(limit).map(|(name, seen)| (name.clone(), seen.topic.clone())).collect();
            (page, rest.next().is_some())
        })
    }

    /// How many topics, messages and bytes there are.
    pub(super) fn totals(&self) -> (usize, u64, u64) {
        self.read(|topics| {
            let messages = topics.values().map(|seen| seen.topic.messages()).sum();
            (topics.len(), messages, topics.values().map(|seen| seen.topic.all_bytes()).sum())
        })
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<String, Seen>) -> T) -> T {
        look(&self.topics.read().unwrap_or_else(PoisonError::into_inner))
    }
}

//! What is written down: topics, messages, groups, and what a group has in its hands.

use super::settings::{Retention, Settings};
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `counters`: what must never be given twice.
pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// Topics by name.
pub(super) const TOPICS: TableDefinition<'_, &str, &str> = TableDefinition::new("topics");
/// Messages by topic and offset, each with its time.
pub(super) const MESSAGES: TableDefinition<'_, (u64, u64), (u64, &str)> = TableDefinition::new("messages");
/// Idempotency keys by topic and `SENDER\0KEY`: offset, time, digest of what was published.
pub(super) const KEYS: TableDefinition<'_, (u64, &str), (u64, u64, &[u8])> = TableDefinition::new("keys");
/// The same keys by topic and offset, so that the oldest is forgotten first.
pub(super) const KEY_ORDER: TableDefinition<'_, (u64, u64), &str> = TableDefinition::new("key_order");
/// Groups by topic and name.
pub(super) const GROUPS: TableDefinition<'_, (u64, &str), &str> = TableDefinition::new("groups");
/// What a group has leased and not acknowledged, by group and offset.
pub(super) const PENDING: TableDefinition<'_, (u64, u64), &str> = TableDefinition::new("pending");
/// Of what a group has leased, the messages that the topic may no longer have, by group and offset: apart, so that who looks
/// through what is pending need not read them.
pub(super) const COPIES: TableDefinition<'_, (u64, u64), &str> = TableDefinition::new("copies");
/// What a group gave up, by group and offset, each with when.
pub(super) const DEAD: TableDefinition<'_, (u64, u64), (u64, &str)> = TableDefinition::new("dead_letters");
/// Topics whose messages are still to be removed.
pub(super) const REMOVED: TableDefinition<'_, u64, ()> = TableDefinition::new("removed");

/// Longest name of a topic or a group.
const NAME_BYTES_MAX: usize = 128;
/// Longest name of an event: that of the event bus.
const EVENT_BYTES_MAX: usize = gavel_bus::NAME_BYTES_MAX;
/// Longest idempotency key.
pub(super) const KEY_BYTES_MAX: usize = 256;

/// What must never be given twice.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    /// Random, so that the messages of two stores differ.
    pub(super) store: String,
    /// The next topic's id.
    pub(super) topic: u64,
    /// The next group's id.
    pub(super) group: u64,
    /// Where the offsets of new topics begin: after those of every topic that was deleted, so that a reader who comes back
    /// to a topic made anew is told that it is elsewhere, and never takes another message for one that it has seen.
    pub(super) floor: u64,
}

/// A topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Topic {
    pub(super) id: u64,
    /// Who made it.
    pub(super) by: String,
    pub(super) created_ms: u64,
    /// The oldest message that is kept.
    pub(super) first: u64,
    /// The next message.
    pub(super) next: u64,
    pub(super) bytes: u64,
    /// Of the dead letters of its groups, and of those that were given to them once more.
    #[serde(default)]
    pub(super) dead_bytes: u64,
    /// No dead letter of its groups is older; nothing if there is none.
    #[serde(default)]
    pub(super) dead_oldest_ms: u64,
    /// Idempotency keys.
    pub(super) keys: u64,
    /// When the oldest message was published; nothing if there is none.
    pub(super) oldest_ms: u64,
    /// When the last one was: times never go back within a topic, so the oldest stand first.
    pub(super) last_ms: u64,
    pub(super) retention: Retention,
}

impl Topic {
    pub(super) fn messages(&self) -> u64 {
        self.next - self.first
    }

    /// Whether its oldest message is to go.
    pub(super) fn is_over(&self, settings: &Settings, now_ms: u64) -> bool {
        let kept = &self.retention;
        let age_ms = kept.age_ms.unwrap_or(settings.age_ms);
        self.messages() > kept.messages_max.unwrap_or(settings.messages_max)
            || self.bytes > kept.bytes_max.unwrap_or(settings.bytes_max)
            || (age_ms > 0 && self.messages() > 0 && self.oldest_ms.saturating_add(age_ms) < now_ms)
    }

    /// Whether some dead letter is to go.
    pub(super) fn has_old_letters(&self, settings: &Settings, now_ms: u64) -> bool {
        let age_ms = settings.dead_letters_age_ms;
        age_ms > 0 && self.dead_oldest_ms > 0 && self.dead_oldest_ms.saturating_add(age_ms) < now_ms
    }

    /// Everything that it has in the store.
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes + self.dead_bytes
    }

    /// As it is told.
    pub(super) fn shown(&self, name: &str, settings: &Settings) -> Value {
        let kept = &self.retention;
        serde_json::json!({
            "topic": name,
            "first": self.first,
            "next": self.next,
            "messages": self.messages(),
            "bytes": self.bytes,
            "dead_bytes": self.dead_bytes,
            "keys": self.keys,
            "by": self.by,
            "created_ms": self.created_ms,
            "last_ms": (self.last_ms > 0).then_some(self.last_ms),
            "retention": {
                "messages_max": kept.messages_max.unwrap_or(settings.messages_max),
                "bytes_max": kept.bytes_max.unwrap_or(settings.bytes_max),
                "age_ms": kept.age_ms.unwrap_or(settings.age_ms),
            },
        })
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) offset: u64,
    pub(super) id: String,
    pub(super) event: String,
    pub(super) sender: String,
    pub(super) ts_ms: u64,
    pub(super) data: Value,
}

/// What the sender is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Receipt {
    pub(super) topic: String,
    pub(super) offset: u64,
    pub(super) id: String,
    pub(super) sender: String,
    pub(super) ts_ms: u64,
    /// Its key was known: this is what was told the first time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) duplicate: bool,
}

/// Consumers that share the messages of a topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) id: u64,
    pub(super) created_ms: u64,
    /// The first message that nobody has leased yet.
    pub(super) next: u64,
    /// Leases so far: the number of each is part of its name.
    pub(super) leases: u64,
    pub(super) pending: u64,
    pub(super) dead: u64,
    /// Bytes of its dead letters, and of those that were given to it once more.
    #[serde(default)]
    pub(super) dead_bytes: u64,
    pub(super) acked: u64,
    /// Messages that retention removed before they were acknowledged.
    pub(super) missed: u64,
}

/// A message in the hands of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Until then nobody else has it.
    pub(super) until_ms: u64,
    pub(super) deliveries: u32,
    /// Who leased it last.
    pub(super) holder: String,
    /// Its lease.
    pub(super) lease: String,
    /// Why it was given back, or that its time was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// A message that a group gave up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) message: Message,
    pub(super) deliveries: u32,
    pub(super) holder: String,
    pub(super) reason: String,
    pub(super) dead_ms: u64,
}

/// What is wrong with the name of a topic, if anything is.
pub(super) fn topic_problem(name: &str) -> Option<String> {
    name_problem("topic", name)
}

/// What is wrong with a name, if anything is.
pub(super) fn name_problem(what: &str, name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("the name of a {what} has {} bytes, at most {NAME_BYTES_MAX} are allowed", name.len()));
    }
    let sound = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(legal);
    (!sound).then(|| {
        format!("{what} {name:?}: a name begins with a letter or a digit, and has letters, digits, and _ - . only")
    })
}

/// What is wrong with the name of an event, if anything is.
pub(super) fn event_problem(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '.' | '/');
    if name.is_empty() || name.len() > EVENT_BYTES_MAX {
        return Some(format!("the name of an event has {} bytes, 1 to {EVENT_BYTES_MAX} are allowed", name.len()));
    }
    (!name.chars().all(legal)).then(|| format!("event {name:?} may have letters, digits, and : _ - . / only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_one_segment_of_a_path() {
        for good in ["fleet", "a", "jobs.v2", "0-x_y"] {
            assert_eq!(topic_problem(good), None);
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", "a\0b", &"x".repeat(129)] {
            assert!(topic_problem(bad).is_some(), "{bad:?}");
        }
        assert!(
            event_problem("fleet:healed").is_none() && event_problem("").is_some() && event_problem("a b").is_some()
        );
    }
}

//! What an operator may set of a message bus, and what a topic keeps.

use crate::kind::{SettingsError, settings};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The settings of a message bus.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Topics that are there from the start, each with what it keeps.
    pub(super) topics: BTreeMap<String, Retention>,
    /// Topics on which only parts of the fleet publish, so that nobody can speak as Guardian.
    pub(super) fleet_topics: Vec<String>,
    /// Whether publishing to a topic that is not there makes it.
    pub(super) publish_makes_topics: bool,
    pub(super) topics_max: usize,
    /// Bytes of one message's event and data.
    pub(super) message_bytes_max: usize,
    /// Messages that a topic keeps, where it says nothing else.
    pub(super) messages_max: u64,
    /// Bytes that a topic keeps, where it says nothing else.
    pub(super) bytes_max: u64,
    /// How long a topic keeps a message, where it says nothing else; 0: for ever.
    pub(super) age_ms: u64,
    /// Bytes of all messages together.
    pub(super) store_bytes_max: u64,
    /// Idempotency keys that are remembered for each topic.
    pub(super) keys_max: u64,
    /// How long one is remembered.
    pub(super) key_age_ms: u64,
    pub(super) groups_max: usize,
    /// Messages of one group that are leased, or wait to be leased again.
    pub(super) in_flight_max: u64,
    /// After so many deliveries without an acknowledgement a message is a dead letter.
    pub(super) deliveries_max: u32,
    /// How long a lease is, where none says.
    pub(super) lease_ms: u64,
    pub(super) lease_ms_max: u64,
    /// Dead letters of one group; of more, the oldest go.
    pub(super) dead_letters_max: u64,
    /// Bytes of these.
    pub(super) dead_letters_bytes_max: u64,
    /// How long one is kept; 0: for ever.
    pub(super) dead_letters_age_ms: u64,
    /// Messages in one answer.
    pub(super) page_messages_max: usize,
    /// Bytes in one answer; a single message may be more.
    pub(super) page_bytes_max: usize,
    pub(super) wait_ms_max: u64,
    /// Streams and waiting reads at the same time.
    pub(super) readers_max: usize,
    /// Of these, those of one sender that is no part of the fleet.
    pub(super) readers_per_sender_max: usize,
    /// Bytes in one piece of a stream; a single message may be more.
    pub(super) stream_bytes_max: usize,
    /// How long a stream waits for a listener that takes nothing.
    pub(super) stream_stall_ms: u64,
    /// Changes that wait to be written.
    pub(super) queue_max: usize,
    /// Bytes in them.
    pub(super) queue_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            topics: BTreeMap::from([("fleet".to_owned(), Retention::default())]),
            fleet_topics: vec!["fleet".to_owned()],
            publish_makes_topics: true,
            topics_max: 1_000,
            message_bytes_max: 256 << 10,
            messages_max: 100_000,
            bytes_max: 256 << 20,
            age_ms: 7 * 24 * 3_600_000,
            store_bytes_max: 4 << 30,
            keys_max: 10_000,
            key_age_ms: 24 * 3_600_000,
            groups_max: 32,
            in_flight_max: 1_000,
            deliveries_max: 5,
            lease_ms: 30_000,
            lease_ms_max: 3_600_000,
            dead_letters_max: 1_000,
            dead_letters_bytes_max: 16 << 20,
            dead_letters_age_ms: 30 * 24 * 3_600_000,
            page_messages_max: 1_000,
            page_bytes_max: 4 << 20,
            wait_ms_max: 10_000,
            readers_max: 256,
            readers_per_sender_max: 64,
            stream_bytes_max: 256 << 10,
            stream_stall_ms: 30_000,
            queue_max: 1_024,
            queue_bytes_max: 32 << 20,
        }
    }
}

/// What a topic keeps; what it does not say is as for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retention {
    /// Messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) messages_max: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_max: Option<u64>,
    /// How long; 0: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) age_ms: Option<u64>,
}

/// The greatest that a topic may be set to keep.
const MESSAGES_TOP: u64 = 100_000_000;
const BYTES_TOP: u64 = 1 << 40;
const MS_TOP: u64 = 10 * 365 * 24 * 3_600_000;

impl Settings {
    /// Read and check them.
    pub(super) fn read(value: &Value) -> Result<Self, SettingsError> {
        let read: Self = settings(value)?;
        read.check().map_err(SettingsError)?;
        Ok(read)
    }

    fn check(&self) -> Result<(), String> {
        let message = self.message_bytes_max as u64;
        crate::ranges::check(&[
            ("topics_max", self.topics_max as u64, 1, 100_000),
            ("message_bytes_max", message, 1, 16 << 20),
            ("messages_max", self.messages_max, 1, MESSAGES_TOP),
            ("bytes_max", self.bytes_max, message, BYTES_TOP),
            ("age_ms", self.age_ms, 0, MS_TOP),
            ("store_bytes_max", self.store_bytes_max, message, BYTES_TOP),
            ("keys_max", self.keys_max, 1, 1_000_000),
            ("key_age_ms", self.key_age_ms, 1, MS_TOP),
            ("groups_max", self.groups_max as u64, 0, 1_000),
            ("in_flight_max", self.in_flight_max, 1, 100_000),
            ("deliveries_max", self.deliveries_max.into(), 1, 1_000),
            ("lease_ms", self.lease_ms, 1, self.lease_ms_max),
            ("lease_ms_max", self.lease_ms_max, 1, MS_TOP),
            ("dead_letters_max", self.dead_letters_max, 1, 100_000),
            ("dead_letters_bytes_max", self.dead_letters_bytes_max, message, BYTES_TOP),
            ("dead_letters_age_ms", self.dead_letters_age_ms, 0, MS_TOP),
            ("page_messages_max", self.page_messages_max as u64, 1, 10_000),
            ("page_bytes_max", self.page_bytes_max as u64, 1 << 10, 64 << 20),
            ("wait_ms_max", self.wait_ms_max, 0, 60_000),
            ("readers_max", self.readers_max as u64, 1, 10_000),
            ("readers_per_sender_max", self.readers_per_sender_max as u64, 1, 10_000),
            ("stream_bytes_max", self.stream_bytes_max as u64, 1 << 10, 64 << 20),
            ("stream_stall_ms", self.stream_stall_ms, 1, 600_000),
            ("queue_max", self.queue_max as u64, 1, 100_000),
            ("queue_bytes_max", self.queue_bytes_max as u64, message, 1 << 30),
        ])?;
        if self.topics.len() > self.topics_max {
            return Err(format!("topics: {} are more than topics_max {}", self.topics.len(), self.topics_max));
        }
        for (name, retention) in &self.topics {
            super::record::topic_problem(name).map_or(Ok(()), Err)?;
            self.check_retention(retention).map_err(|why| format!("topics.{name}.{why}"))?;
        }
        Ok(())
    }

    /// Bytes up to which somebody may publish: a tenth is the fleet's alone, so that Guardian can tell what it did when
    /// others have filled the bus.
    pub(super) fn bytes_for(&self, of_the_fleet: bool) -> u64 {
        let most = self.store_bytes_max;
        if of_the_fleet { most } else { most - most / 10 }
    }

    /// Streams and waiting reads that may be open before somebody's is refused: a tenth is the fleet's alone.
    pub(super) fn readers_for(&self, of_the_fleet: bool) -> usize {
        let most = self.readers_max;
        if of_the_fleet { most } else { most - most / 10 }
    }

    /// Whether a topic may keep so much.
    pub(super) fn check_retention(&self, retention: &Retention) -> Result<(), String> {
        // Less than one message would keep nothing.
        let message = self.message_bytes_max as u64;
        crate::ranges::check(&[
            ("messages_max", retention.messages_max.unwrap_or(1), 1, MESSAGES_TOP),
            ("bytes_max", retention.bytes_max.unwrap_or(message), message, BYTES_TOP),
            ("age_ms", retention.age_ms.unwrap_or(0), 0, MS_TOP),
        ])
    }
}

//! The writing side: topics made and removed, messages published, and what a topic no longer keeps.
//!
//! What must always hold: an offset is given once. It comes from the topic's record, which is written in the same commit as
//! the message; what retention removes leaves that record as it is.

use super::record::{
    COPIES, Counters, DEAD, GROUPS, Group, KEY_ORDER, KEYS, MESSAGES, META, Message, PENDING, REMOVED, Receipt, TOPICS,
    Topic,
};
use super::settings::{Retention, Settings};
use super::shared::Shared;
use crate::fault::Fault;
use crate::kind::Clock;
use crate::redb_file::begin;
use crate::writer::{Book, Named, Stop, decoded, encoded, lacks};
use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// So many rows are removed in one commit at most, besides what is published in it.
const PIECE: usize = 512;

/// What the writing thread knows.
pub(super) struct Desk {
    pub(super) settings: Arc<Settings>,
    pub(super) clock: Clock,
    shared: Arc<Shared>,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) counters: Counters,
    /// Topics that this transaction changed.
    dirty: BTreeSet<String>,
    /// Topics whose messages are still to be removed, by id.
    removed: BTreeSet<u64>,
    bytes: u64,
    /// Some topic holds more than it keeps.
    untidy: bool,
}

/// What is to be published.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) sender: String,
    pub(super) of_the_fleet: bool,
    pub(super) event: String,
    pub(super) data: Value,
    pub(super) key: Option<String>,
}

impl Draft {
    /// By which a second message under the same key is known to be another.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.event.as_bytes());
        digest.update([0]);
        digest.update(self.data.to_string().as_bytes());
        digest.finalize().into()
    }

    fn scoped_key(&self) -> Option<String> {
        self.key.as_ref().map(|key| format!("{}\0{key}", self.sender))
    }
}

impl Desk {
    /// Read what the file has, and make the topics that the settings name.
    pub(super) fn open(
        database: &Database,
        settings: Arc<Settings>,
        clock: Clock,
        shared: Arc<Shared>,
    ) -> Result<Self, redb::Error> {
        let mut desk = Self {
            settings,
            clock,
            shared,
            topics: BTreeMap::new(),
            counters: Counters::default(),
            dirty: BTreeSet::new(),
            removed: BTreeSet::new(),
            bytes: 0,
            untidy: false,
        };
        make_tables(database)?;
        desk.restore(database)?;
        desk.prepare(database)?;
        desk.look();
        Ok(desk)
    }

    /// Write what is missing, if anything is.
    fn prepare(&mut self, database: &Database) -> Result<(), redb::Error> {
        let new = self.counters.store.is_empty();
        if self.counters.store.is_empty() {
            let mut random = [0; 6];
            // Without randomness the clock tells two stores apart.
            if getrandom::fill(&mut random).is_err() {
                random.copy_from_slice(&(self.clock)().to_be_bytes()[2..]);
            }
            self.counters.store = hex::encode(random);
        }
        for (name, retention) in self.settings.topics.clone() {
            if !self.topics.contains_key(&name) {
                self.make(&name, "settings", retention);
            }
        }
        if !new && self.dirty.is_empty() {
            return Ok(());
        }
        let write = begin(database)?;
        self.flush(&write)?;
        write.commit()?;
        self.committed();
        Ok(())
    }

    fn make(&mut self, name: &str, by: &str, retention: Retention) {
        let topic = Topic {
            id: self.counters.topic,
            by: by.to_owned(),
            created_ms: (self.clock)(),
            first: self.counters.floor,
            next: self.counters.floor,
            bytes: 0,
            dead_bytes: 0,
            dead_oldest_ms: 0,
            keys: 0,
            oldest_ms: 0,
            last_ms: 0,
            retention,
        };
        self.counters.topic += 1;
        self.topics.insert(name.to_owned(), topic);
        self.dirty.insert(name.to_owned());
    }

    /// The topic, or 404.
    pub(super) fn topic(&self, name: &str) -> Result<&Topic, Fault> {
        self.topics.get(name).ok_or_else(|| super::no_topic(name))
    }

    fn check_room_for_topic(&self, name: &str) -> Result<(), Fault> {
        let most = self.settings.topics_max;
        if self.topics.contains_key(name) || self.topics.len() < most {
            return Ok(());
        }
        Err(Fault::too_many(format!("topic '{name}' is not made: there are {most} already (topics_max)")))
    }

    /// Say what a topic keeps; it is made if it is not there.
    pub(super) fn set(&mut self, name: &str, by: &str, retention: Retention) -> Result<Value, Stop> {
        self.check_room_for_topic(name)?;
        match self.topics.get_mut(name) {
            Some(topic) => topic.retention = retention,
            None => self.make(name, by, retention),
        }
        self.dirty.insert(name.to_owned());
        self.untidy = true;
        Ok(self.topic(name)?.shown(name, &self.settings))
    }

    /// Remove a topic: its name at once, its messages in pieces.
    pub(super) fn remove(&mut self, write: &WriteTransaction, name: &str) -> Result<u64, Stop> {
        let (id, next, messages, bytes) = {
            let topic = self.topic(name)?;
            (topic.id, topic.next, topic.messages(), topic.all_bytes())
        };
        write.open_table(REMOVED)?.insert(id, ())?;
        self.removed.insert(id);
        self.counters.floor = self.counters.floor.max(next);
        self.bytes -= bytes;
        self.topics.remove(name);
        self.dirty.insert(name.to_owned());
        Ok(messages)
    }

    /// How many bytes the dead letters of a group may have, which has so many now: what the store has room for.
    pub(super) fn room_for_letters(&self, its: u64) -> u64 {
        (self.settings.bytes_for(false) + its).saturating_sub(self.bytes)
    }

    /// The dead letters of a group had so many bytes, and have so many now; the latest that was added came then.
    pub(super) fn count_letters(&mut self, topic: &str, before: u64, now: u64, added_ms: Option<u64>) {
        self.bytes = (self.bytes + now).saturating_sub(before);
        let Some(known) = self.topics.get_mut(topic) else { return };
        if before == now && added_ms.is_none() {
            return;
        }
        known.dead_bytes = (known.dead_bytes + now).saturating_sub(before);
        if let Some(added_ms) = added_ms.filter(|_| known.dead_oldest_ms == 0) {
            known.dead_oldest_ms = added_ms;
        }
        self.dirty.insert(topic.to_owned());
    }

    /// Publish a message, or tell what was told the first time that its key came.
    pub(super) fn publish(&mut self, write: &WriteTransaction, name: &str, draft: Draft) -> Result<Receipt, Stop> {
        if let Some(receipt) = self.known(write, name, &draft)? {
            return Ok(receipt);
        }
        let now_ms = (self.clock)();
        let digest = draft.digest();
        let key = draft.scoped_key();
        if !self.topics.contains_key(name) {
            self.check_may_make(name)?;
        }
        let size = (draft.event.len() + draft.sender.len() + draft.data.to_string().len()) as u64;
        let most = self.settings.bytes_for(draft.of_the_fleet);
        if self.bytes + size > most {
            let held = self.bytes;
            return Err(Fault::unavailable(format!(
                "nothing was published: the topics hold {held} bytes of {most} (store_bytes_max); keep less, or delete some"
            ))
            .into());
        }
        if !self.topics.contains_key(name) {
            self.make(name, &draft.sender, Retention::default());
        }
        let Some(topic) = self.topics.get_mut(name) else { return Err(super::no_topic(name).into()) };
        let (offset, ts_ms) = (topic.next, now_ms.max(topic.last_ms));
        let id = message_id(&self.counters.store, topic.id, offset);
        let message =
            Message { offset, id: id.clone(), event: draft.event, sender: draft.sender, ts_ms, data: draft.data };
        let text = encoded(&message)?;
        write.open_table(MESSAGES)?.insert((topic.id, offset), (ts_ms, text.as_str()))?;
        if topic.messages() == 0 {
            topic.oldest_ms = ts_ms;
        }
        topic.next += 1;
        topic.last_ms = ts_ms;
        topic.bytes += text.len() as u64;
        self.bytes += text.len() as u64;
        if let Some(key) = key {
            remember(write, topic, &key, (offset, ts_ms, &digest))?;
            forget(write, topic, &self.settings, now_ms)?;
        }
        self.dirty.insert(name.to_owned());
        self.tidy(write, name, now_ms)?;
        Ok(Receipt { topic: name.to_owned(), offset, id, sender: message.sender, ts_ms, duplicate: false })
    }

    fn check_may_make(&self, name: &str) -> Result<(), Fault> {
        if !self.settings.publish_makes_topics {
            return Err(super::no_topic(name));
        }
        self.check_room_for_topic(name)
    }

    /// What was told of this key, if it is known.
    fn known(&self, write: &WriteTransaction, name: &str, draft: &Draft) -> Result<Option<Receipt>, Stop> {
        let (Some(topic), Some(key)) = (self.topics.get(name), draft.scoped_key()) else { return Ok(None) };
        let keys = write.open_table(KEYS)?;
        let Some(found) = keys.get((topic.id, key.as_str()))? else { return Ok(None) };
        let (offset, ts_ms, digest) = found.value();
        if ts_ms.saturating_add(self.settings.key_age_ms) < (self.clock)() {
            return Ok(None);
        }
        if digest != draft.digest() {
            let key = draft.key.as_deref().unwrap_or_default();
            return Err(Fault::conflict(format!(
                "key '{key}' was used on topic '{name}' for another message, at offset {offset}: use another key"
            ))
            .into());
        }
        let id = message_id(&self.counters.store, topic.id, offset);
        let sender = draft.sender.clone();
        Ok(Some(Receipt { topic: name.to_owned(), offset, id, sender, ts_ms, duplicate: true }))
    }

    /// Remove what a topic no longer keeps, up to a piece.
    fn tidy(&mut self, write: &WriteTransaction, name: &str, now_ms: u64) -> Result<(), redb::Error> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        if !topic.is_over(&self.settings, now_ms) {
            return Ok(());
        }
        let mut messages = write.open_table(MESSAGES)?;
        for _ in 0..PIECE {
            if !topic.is_over(&self.settings, now_ms) {
                break;
            }
            let freed = messages.remove((topic.id, topic.first))?.map_or(0, |row| row.value().1.len() as u64);
            topic.bytes = topic.bytes.saturating_sub(freed);
            self.bytes = self.bytes.saturating_sub(freed);
            topic.first += 1;
            topic.oldest_ms = messages.get((topic.id, topic.first))?.map_or(0, |row| row.value().0);
        }
        self.untidy |= topic.is_over(&self.settings, now_ms);
        self.dirty.insert(name.to_owned());
        Ok(())
    }

    /// Remove a piece of a topic that was deleted; whether that was the last.
    fn clear(write: &WriteTransaction, id: u64) -> Result<bool, redb::Error> {
        let mut left = PIECE;
        let mut groups = write.open_table(GROUPS)?;
        // A group's rows are bounded by the settings, and it is one group at a time.
        if let Some(name) = first_group(&groups, id)? {
            drop_group(write, &mut groups, id, &name)?;
            return Ok(false);
        }
        let mut messages = write.open_table(MESSAGES)?;
        let rows = messages.extract_from_if((id, 0)..=(id, u64::MAX), |_, _| true)?;
        for row in rows.take(left) {
            row?;
            left -= 1;
        }
        let mut order = write.open_table(KEY_ORDER)?;
        let mut keys = write.open_table(KEYS)?;
        for row in order.extract_from_if((id, 0)..=(id, u64::MAX), |_, _| true)?.take(left) {
            let (_, key) = row?;
            keys.remove((id, key.value()))?;
            left -= 1;
        }
        Ok(left > 0)
    }
}

/// The tables, in a file that lacks some.
fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let all: [&dyn Named; 10] =
        [&META, &TOPICS, &MESSAGES, &KEYS, &KEY_ORDER, &GROUPS, &PENDING, &COPIES, &DEAD, &REMOVED];
    if !lacks(database, &all)? {
        return Ok(());
    }
    let write = begin(database)?;
    write.open_table(META)?;
    write.open_table(TOPICS)?;
    write.open_table(MESSAGES)?;
    write.open_table(KEYS)?;
    write.open_table(KEY_ORDER)?;
    write.open_table(GROUPS)?;
    write.open_table(PENDING)?;
    write.open_table(COPIES)?;
    write.open_table(DEAD)?;
    write.open_table(REMOVED)?;
    Ok(write.commit()?)
}

/// The name of a topic's first group.
fn first_group(
    groups: &Table<'_, (u64, &'static str), &'static str>,
    topic: u64,
) -> Result<Option<String>, redb::Error> {
    let Some(row) = groups.range((topic, "")..)?.next() else { return Ok(None) };
    let (place, _) = row?;
    let (its_topic, name) = place.value();
    Ok((its_topic == topic).then(|| name.to_owned()))
}

/// Remove a group with all that it has in its hands.
pub(super) fn drop_group(
    write: &WriteTransaction,
    groups: &mut Table<'_, (u64, &'static str), &'static str>,
    topic: u64,
    name: &str,
) -> Result<bool, redb::Error> {
    let Some(text) = groups.remove((topic, name))?.map(|row| row.value().to_owned()) else { return Ok(false) };
    let group: Group = decoded("group", &text)?;
    let all = (group.id, 0)..=(group.id, u64::MAX);
    write.open_table(PENDING)?.retain_in(all.clone(), |_, _| false)?;
    write.open_table(COPIES)?.retain_in(all.clone(), |_, _| false)?;
    write.open_table(DEAD)?.retain_in(all, |_, _| false)?;
    Ok(true)
}

fn message_id(store: &str, topic: u64, offset: u64) -> String {
    format!("{store}-{topic}-{offset}")
}

/// Remember under which key a message came.
fn remember(
    write: &WriteTransaction,
    topic: &mut Topic,
    key: &str,
    told: (u64, u64, &[u8; 32]),
) -> Result<(), redb::Error> {
    let (offset, ts_ms, digest) = told;
    write.open_table(KEYS)?.insert((topic.id, key), (offset, ts_ms, digest.as_slice()))?;
    write.open_table(KEY_ORDER)?.insert((topic.id, offset), key)?;
    topic.keys += 1;
    Ok(())
}

/// Forget the oldest keys, where there are too many or they are too old.
fn forget(write: &WriteTransaction, topic: &mut Topic, settings: &Settings, now_ms: u64) -> Result<(), redb::Error> {
    let mut order = write.open_table(KEY_ORDER)?;
    let mut keys = write.open_table(KEYS)?;
    for _ in 0..PIECE {
        let Some(row) = order.range((topic.id, 0)..=(topic.id, u64::MAX))?.next() else { break };
        let (offset, key) = row.map(|(place, key)| (place.value().1, key.value().to_owned()))?;
        let told = keys.get((topic.id, key.as_str()))?.map(|row| (row.value().0, row.value().1));
        // A key that came again after its time stands for a later message.
        let replaced = told.is_none_or(|(at, _)| at != offset);
        let old = told.is_some_and(|(_, ts_ms)| ts_ms.saturating_add(settings.key_age_ms) < now_ms);
        if !(replaced || old || topic.keys > settings.keys_max) {
            break;
        }
        order.remove((topic.id, offset))?;
        if !replaced {
            keys.remove((topic.id, key.as_str()))?;
        }
        topic.keys = topic.keys.saturating_sub(1);
    }
    Ok(())
}

impl Book for Desk {
    fn flush(&mut self, write: &WriteTransaction) -> Result<(), redb::Error> {
        let mut topics = write.open_table(TOPICS)?;
        for name in &self.dirty {
            match self.topics.get(name) {
                Some(topic) => topics.insert(name.as_str(), encoded(topic)?.as_str())?,
                None => topics.remove(name.as_str())?,
            };
        }
        write.open_table(META)?.insert("counters", encoded(&self.counters)?.as_str())?;
        Ok(())
    }

    fn committed(&mut self) {
        for name in std::mem::take(&mut self.dirty) {
            self.shared.update(&name, self.topics.get(&name));
        }
    }

    fn restore(&mut self, database: &Database) -> Result<(), redb::Error> {
        let read = database.begin_read()?;
        let mut topics = BTreeMap::new();
        for row in read.open_table(TOPICS)?.iter()? {
            let (name, text) = row?;
            topics.insert(name.value().to_owned(), decoded::<Topic>("topic", text.value())?);
        }
        self.bytes = topics.values().map(Topic::all_bytes).sum();
        // Readers are told of all: also of those that were there before and are no more.
        self.dirty = self.topics.keys().chain(topics.keys()).cloned().collect();
        self.topics = topics;
        self.removed.clear();
        for row in read.open_table(REMOVED)?.iter()? {
            self.removed.insert(row?.0.value());
        }
        let counters = read.open_table(META)?.get("counters")?.map(|text| text.value().to_owned());
        self.counters = counters.map(|text| decoded("counters", &text)).transpose()?.unwrap_or_default();
        self.committed();
        Ok(())
    }

    fn look(&mut self) {
        let now_ms = (self.clock)();
        let settings = &self.settings;
        let is_untidy = |topic: &Topic| topic.is_over(settings, now_ms) || topic.has_old_letters(settings, now_ms);
        self.untidy = self.topics.values().any(is_untidy);
    }

    fn has_work(&self) -> bool {
        self.untidy || !self.removed.is_empty()
    }

    fn work(&mut self, write: &WriteTransaction) -> Result<(), redb::Error> {
        if let Some(&id) = self.removed.first()
            && Self::clear(write, id)?
        {
            write.open_table(REMOVED)?.remove(id)?;
            self.removed.remove(&id);
        }
        let now_ms = (self.clock)();
        self.untidy = false;
        let over = self.topics.iter().find(|(_, topic)| topic.is_over(&self.settings, now_ms));
        if let Some(name) = over.map(|(name, _)| name.clone()) {
            self.tidy(write, &name, now_ms)?;
            // There may be others.
            self.untidy = true;
            return Ok(());
        }
        let old = self.topics.iter().find(|(_, topic)| topic.has_old_letters(&self.settings, now_ms));
        if let Some(name) = old.map(|(name, _)| name.clone()) {
            self.age_letters(write, &name, PIECE)?;
            self.dirty.insert(name);
            self.untidy = true;
        }
        Ok(())
    }
}

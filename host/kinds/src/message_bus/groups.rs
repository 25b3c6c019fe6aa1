//! Consumer groups: messages that are leased, and acknowledged, given back, or given up.
//!
//! A message is given to one member of a group at a time. A lease ends by the clock; what was not acknowledged then is given
//! to the next who asks, and after `deliveries_max` deliveries it is a dead letter of the group, with a copy of the message,
//! so that retention does not take it until the group has too many, too large or too old ones. A member may acknowledge what it holds, and nobody else may.

use super::book::{Desk, drop_group};
use super::record::{COPIES, DEAD, GROUPS, Group, Letter, MESSAGES, Message, PENDING, Pending};
use super::settings::Settings;
use crate::fault::Fault;
use crate::writer::{Stop, decoded, encoded};
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};
use serde::Serialize;

/// What somebody asks for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) who: String,
    pub(super) max: usize,
    pub(super) lease_ms: u64,
    /// Where a group that is made now begins; the oldest message if not said.
    pub(super) from: Option<u64>,
}

/// A message in somebody's hands.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Leased {
    pub(super) offset: u64,
    pub(super) id: String,
    pub(super) event: String,
    pub(super) sender: String,
    pub(super) ts_ms: u64,
    pub(super) data: serde_json::Value,
    /// This one included.
    pub(super) deliveries: u32,
}

/// Messages in somebody's hands.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Handed {
    /// To be said when they are acknowledged.
    pub(super) lease: String,
    pub(super) until_ms: u64,
    pub(super) messages: Vec<Leased>,
    /// Messages that retention took before this group had done with them, since it began.
    pub(super) missed: u64,
    /// Messages that became dead letters instead.
    #[serde(skip)]
    pub(super) buried: u64,
}

/// What somebody did with what it holds.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    pub(super) who: String,
    /// May settle what others hold.
    pub(super) operates: bool,
    pub(super) offsets: Vec<u64>,
    pub(super) lease: Option<String>,
}

/// What became of that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    pub(super) done: Vec<u64>,
    /// Of the done, those that are dead letters now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) dead: Vec<u64>,
    /// Not in the caller's hands: acknowledged already, leased to another since, or never leased.
    pub(super) not_held: Vec<u64>,
}

/// The rows of a group, open for one change.
struct Shelf<'t> {
    id: u64,
    topic: u64,
    pending: Table<'t, (u64, u64), &'static str>,
    copies: Table<'t, (u64, u64), &'static str>,
    dead: Table<'t, (u64, u64), (u64, &'static str)>,
    messages: Table<'t, (u64, u64), (u64, &'static str)>,
    settings: &'t Settings,
    now_ms: u64,
    /// Up to so many bytes the group's dead letters may have: what the store has room for.
    room: u64,
    /// No dead letter that was added here is older; nothing if none was.
    oldest_ms: u64,
}

impl Shelf<'_> {
    /// What the group holds that may be given to somebody, the oldest first.
    fn due(&self, most: usize) -> Result<Vec<(u64, Pending)>, redb::Error> {
        let mut due = Vec::new();
        let mut bytes = 0;
        for row in self.pending.range((self.id, 0)..=(self.id, u64::MAX))? {
            let (place, text) = row?;
            let pending: Pending = decoded("pending message", text.value())?;
            if pending.until_ms <= self.now_ms {
                due.push((place.value().1, pending));
                bytes += text.value().len();
            }
            if due.len() >= most || bytes >= self.settings.page_bytes_max {
                break;
            }
        }
        Ok(due)
    }

    fn get(&self, offset: u64) -> Result<Option<Pending>, redb::Error> {
        let text = self.pending.get((self.id, offset))?.map(|text| text.value().to_owned());
        Ok(text.map(|text| decoded("pending message", &text)).transpose()?)
    }

    fn put(&mut self, offset: u64, pending: &Pending) -> Result<(), redb::Error> {
        self.pending.insert((self.id, offset), encoded(pending)?.as_str())?;
        Ok(())
    }

    /// A message of the topic, or the copy of one that it no longer has.
    fn message(&self, offset: u64) -> Result<Option<Message>, redb::Error> {
        let text = match self.copies.get((self.id, offset))? {
            Some(text) => Some(text.value().to_owned()),
            None => self.messages.get((self.topic, offset))?.map(|row| row.value().1.to_owned()),
        };
        Ok(text.map(|text| decoded("message", &text)).transpose()?)
    }

    /// Nobody of the group has it in hand any more; with its copy, if it has one.
    fn let_go(&mut self, group: &mut Group, offset: u64) -> Result<(), redb::Error> {
        self.pending.remove((self.id, offset))?;
        group.pending = group.pending.saturating_sub(1);
        let freed = self.copies.remove((self.id, offset))?.map_or(0, |text| text.value().len() as u64);
        group.dead_bytes = group.dead_bytes.saturating_sub(freed);
        Ok(())
    }

    /// Take a message out of the group's hands, as a dead letter; not one that nobody has any more. Gives its bytes.
    fn bury(&mut self, group: &mut Group, offset: u64, pending: Pending) -> Result<usize, redb::Error> {
        let message = self.message(offset)?;
        self.let_go(group, offset)?;
        let Some(message) = message else {
            group.missed += 1;
            return Ok(0);
        };
        let letter = encoded(&Letter {
            message,
            deliveries: pending.deliveries,
            holder: pending.holder,
            reason: pending.reason.unwrap_or_else(|| "its lease ended without an acknowledgement".to_owned()),
            dead_ms: self.now_ms,
        })?;
        self.drop_letter(group, offset)?;
        self.dead.insert((self.id, offset), (self.now_ms, letter.as_str()))?;
        group.dead += 1;
        group.dead_bytes += letter.len() as u64;
        self.oldest_ms = self.now_ms;
        let most = self.settings.dead_letters_bytes_max.min(self.room);
        while group.dead > self.settings.dead_letters_max || group.dead_bytes > most {
            let oldest = self.dead.range((self.id, 0)..=(self.id, u64::MAX))?.next().transpose()?;
            let Some(oldest) = oldest.map(|(place, _)| place.value().1) else { break };
            self.drop_letter(group, oldest)?;
            tracing::warn!(offset = oldest, "the oldest dead letter of a group is dropped: there are too many");
        }
        Ok(letter.len())
    }

    /// Take a dead letter away, if it is there.
    fn drop_letter(&mut self, group: &mut Group, offset: u64) -> Result<Option<Letter>, redb::Error> {
        let Some(text) = self.dead.remove((self.id, offset))?.map(|row| row.value().1.to_owned()) else {
            return Ok(None);
        };
        group.dead = group.dead.saturating_sub(1);
        group.dead_bytes = group.dead_bytes.saturating_sub(text.len() as u64);
        Ok(Some(decoded("dead letter", &text)?))
    }

    /// Give a dead letter back, with a copy of its message; whether it was there.
    fn raise(&mut self, group: &mut Group, offset: u64) -> Result<bool, redb::Error> {
        let Some(letter) = self.drop_letter(group, offset)? else { return Ok(false) };
        let copy = encoded(&letter.message)?;
        self.copies.insert((self.id, offset), copy.as_str())?;
        group.dead_bytes += copy.len() as u64;
        let (holder, lease) = (String::new(), String::new());
        self.put(offset, &Pending { until_ms: 0, deliveries: 0, holder, lease, reason: None })?;
        group.pending += 1;
        Ok(true)
    }

    /// Take away dead letters that are too old, some at most: how many, and when the oldest that is left came.
    fn age(&mut self, group: &mut Group, most: usize) -> Result<(usize, Option<u64>), redb::Error> {
        let (mut old, mut oldest) = (Vec::new(), None);
        for row in self.dead.range((self.id, 0)..=(self.id, u64::MAX))? {
            let (place, row) = row?;
            let dead_ms = row.value().0;
            if old.len() < most && dead_ms.saturating_add(self.settings.dead_letters_age_ms) < self.now_ms {
                old.push(place.value().1);
            } else {
                oldest = Some(oldest.map_or(dead_ms, |oldest: u64| oldest.min(dead_ms)));
            }
        }
        for &offset in &old {
            self.drop_letter(group, offset)?;
        }
        Ok((old.len(), oldest))
    }
}

impl Desk {
    /// Handed messages: first those that came back, then new ones. A group that is not there is made.
    pub(super) fn lease(
        &mut self,
        write: &WriteTransaction,
        topic_name: &str,
        name: &str,
        wish: &Wish,
    ) -> Result<Handed, Stop> {
        let topic = self.topic(topic_name)?.clone();
        let known = read_group(&write.open_table(GROUPS)?, topic.id, name)?;
        let mut group = match known {
            Some(group) => group,
            None => self.found(write, topic.id, wish.from.unwrap_or(topic.first).clamp(topic.first, topic.next))?,
        };
        group.leases += 1;
        let until_ms = (self.clock)().saturating_add(wish.lease_ms);
        let mut lease = Handed {
            lease: format!("{}-{}", group.id, group.leases),
            until_ms,
            messages: Vec::new(),
            missed: 0,
            buried: 0,
        };
        let before = group.dead_bytes;
        let mut rows = self.shelf(write, topic.id, &group)?;
        let mut room = self.settings.page_bytes_max;
        hand_again(&mut rows, &mut group, wish, &mut lease, &mut room)?;
        group.missed += topic.first.saturating_sub(group.next);
        group.next = group.next.max(topic.first);
        while lease.messages.len() < wish.max && group.pending < self.settings.in_flight_max && group.next < topic.next
        {
            let Some(message) = rows.message(group.next)? else { break };
            if !take(&mut room, &message) {
                break;
            }
            rows.put(group.next, &lent(wish, &lease))?;
            lease.messages.push(leased(message, 1));
            group.next += 1;
            group.pending += 1;
        }
        lease.missed = group.missed;
        let oldest_ms = rows.oldest_ms;
        drop(rows);
        self.close(write, (topic_name, topic.id), (name, &group), (before, oldest_ms))?;
        Ok(lease)
    }

    /// A new group.
    fn found(&mut self, write: &WriteTransaction, topic: u64, next: u64) -> Result<Group, Stop> {
        let most = self.settings.groups_max;
        let groups = write.open_table(GROUPS)?;
        let mut count = 0;
        for row in groups.range((topic, "")..)? {
            if row?.0.value().0 != topic {
                break;
            }
            count += 1;
        }
        if count >= most {
            return Err(Fault::too_many(format!(
                "the topic has {count} groups, at most {most} are allowed (groups_max)"
            ))
            .into());
        }
        let id = self.counters.group;
        self.counters.group += 1;
        let created_ms = (self.clock)();
        Ok(Group { id, created_ms, next, leases: 0, pending: 0, dead: 0, dead_bytes: 0, acked: 0, missed: 0 })
    }

    /// Write a group, and count the bytes of its dead letters, of which there were so many, in its topic and in all.
    fn close(
        &mut self,
        write: &WriteTransaction,
        (topic, id): (&str, u64),
        (name, group): (&str, &Group),
        (before, oldest_ms): (u64, u64),
    ) -> Result<(), redb::Error> {
        write_group(write, id, name, group)?;
        self.count_letters(topic, before, group.dead_bytes, Some(oldest_ms).filter(|oldest_ms| *oldest_ms > 0));
        Ok(())
    }

    /// Take away some of the dead letters of a topic that are too old.
    pub(super) fn age_letters(
        &mut self,
        write: &WriteTransaction,
        topic: &str,
        most: usize,
    ) -> Result<(), redb::Error> {
        let Some(id) = self.topics.get(topic).map(|topic| topic.id) else { return Ok(()) };
        let mut groups = Vec::new();
        for row in write.open_table(GROUPS)?.range((id, "")..)? {
            let (place, text) = row?;
            if place.value().0 != id {
                break;
            }
            let group: Group = decoded("group", text.value())?;
            groups.extend((group.dead > 0).then(|| (place.value().1.to_owned(), group)));
        }
        let (mut left, mut oldest) = (most, None);
        for (name, mut group) in groups {
            let before = group.dead_bytes;
            let mut rows = self.shelf(write, id, &group)?;
            let (gone, its) = rows.age(&mut group, left)?;
            drop(rows);
            left -= gone;
            oldest = oldest.into_iter().chain(its).min();
            self.close(write, (topic, id), (&name, &group), (before, 0))?;
        }
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.dead_oldest_ms = oldest.unwrap_or(0);
        }
        Ok(())
    }

    fn shelf<'t>(&'t self, write: &'t WriteTransaction, topic: u64, group: &Group) -> Result<Shelf<'t>, redb::Error> {
        Ok(Shelf {
            id: group.id,
            topic,
            pending: write.open_table(PENDING)?,
            copies: write.open_table(COPIES)?,
            dead: write.open_table(DEAD)?,
            messages: write.open_table(MESSAGES)?,
            settings: &self.settings,
            now_ms: (self.clock)(),
            room: self.room_for_letters(group.dead_bytes),
            oldest_ms: 0,
        })
    }

    /// Acknowledge: these are done with.
    pub(super) fn ack(
        &mut self,
        write: &WriteTransaction,
        topic: &str,
        name: &str,
        settled: &Settled,
    ) -> Result<Outcome, Stop> {
        let (id, mut group) = self.group(write, topic, name)?;
        let before = group.dead_bytes;
        let mut rows = self.shelf(write, id, &group)?;
        let mut outcome = Outcome::default();
        for &offset in &settled.offsets {
            if rows.get(offset)?.is_some_and(|pending| holds(settled, &pending)) {
                rows.let_go(&mut group, offset)?;
                group.acked += 1;
                outcome.done.push(offset);
            } else {
                outcome.not_held.push(offset);
            }
        }
        let oldest_ms = rows.oldest_ms;
        drop(rows);
        self.close(write, (topic, id), (name, &group), (before, oldest_ms))?;
        Ok(outcome)
    }

    /// Give back: somebody else may have these after `delay_ms`. What had its deliveries is a dead letter.
    pub(super) fn nack(
        &mut self,
        write: &WriteTransaction,
        topic: &str,
        name: &str,
        settled: &Settled,
        (delay_ms, reason): (u64, Option<String>),
    ) -> Result<Outcome, Stop> {
        let (id, mut group) = self.group(write, topic, name)?;
        let before = group.dead_bytes;
        let mut rows = self.shelf(write, id, &group)?;
        let mut outcome = Outcome::default();
        for &offset in &settled.offsets {
            let Some(pending) = rows.get(offset)?.filter(|pending| holds(settled, pending)) else {
                outcome.not_held.push(offset);
                continue;
            };
            outcome.done.push(offset);
            let until_ms = rows.now_ms.saturating_add(delay_ms);
            // Without its lease nobody holds it any more.
            let back = Pending { until_ms, lease: String::new(), reason: reason.clone(), ..pending };
            if back.deliveries >= self.settings.deliveries_max {
                rows.bury(&mut group, offset, back)?;
                outcome.dead.push(offset);
            } else {
                rows.put(offset, &back)?;
            }
        }
        let oldest_ms = rows.oldest_ms;
        drop(rows);
        self.close(write, (topic, id), (name, &group), (before, oldest_ms))?;
        Ok(outcome)
    }

    /// Give dead letters to the group once more, with all their deliveries.
    pub(super) fn revive(
        &mut self,
        write: &WriteTransaction,
        topic: &str,
        name: &str,
        offsets: &[u64],
    ) -> Result<Outcome, Stop> {
        let (id, mut group) = self.group(write, topic, name)?;
        let before = group.dead_bytes;
        let mut rows = self.shelf(write, id, &group)?;
        let mut outcome = Outcome::default();
        for &offset in offsets {
            if rows.raise(&mut group, offset)? {
                outcome.done.push(offset);
            } else {
                outcome.not_held.push(offset);
            }
        }
        let oldest_ms = rows.oldest_ms;
        drop(rows);
        self.close(write, (topic, id), (name, &group), (before, oldest_ms))?;
        Ok(outcome)
    }

    /// Remove a group.
    pub(super) fn disband(&mut self, write: &WriteTransaction, topic: &str, name: &str) -> Result<(), Stop> {
        let (id, group) = self.group(write, topic, name)?;
        drop_group(write, &mut write.open_table(GROUPS)?, id, name)?;
        self.count_letters(topic, group.dead_bytes, 0, None);
        Ok(())
    }

    /// A topic's id and a group of it, or 404.
    fn group(&self, write: &WriteTransaction, topic: &str, name: &str) -> Result<(u64, Group), Stop> {
        let id = self.topic(topic)?.id;
        let group = read_group(&write.open_table(GROUPS)?, id, name)?;
        Ok((id, group.ok_or_else(|| super::no_group(topic, name))?))
    }
}

/// Hand what came back once more; what had its deliveries is buried.
fn hand_again(
    rows: &mut Shelf<'_>,
    group: &mut Group,
    wish: &Wish,
    lease: &mut Handed,
    room: &mut usize,
) -> Result<(), redb::Error> {
    for (offset, pending) in rows.due(wish.max)? {
        // What is buried is copied, which takes as long as to hand it out.
        if *room == 0 {
            break;
        }
        if pending.deliveries >= rows.settings.deliveries_max {
            *room = room.saturating_sub(rows.bury(group, offset, pending)?);
            lease.buried += 1;
            continue;
        }
        let Some(message) = rows.message(offset)? else {
            rows.let_go(group, offset)?;
            group.missed += 1;
            continue;
        };
        if !take(room, &message) {
            break;
        }
        let deliveries = pending.deliveries + 1;
        rows.put(offset, &Pending { deliveries, ..lent(wish, lease) })?;
        lease.messages.push(leased(message, deliveries));
    }
    Ok(())
}

/// Whether the answer has room for it; the first always has.
fn take(room: &mut usize, message: &Message) -> bool {
    let size = message.data.to_string().len() + message.event.len() + message.sender.len();
    if *room == 0 {
        return false;
    }
    *room = room.saturating_sub(size);
    true
}

fn lent(wish: &Wish, lease: &Handed) -> Pending {
    Pending {
        until_ms: lease.until_ms,
        deliveries: 1,
        holder: wish.who.clone(),
        lease: lease.lease.clone(),
        reason: None,
    }
}

fn leased(message: Message, deliveries: u32) -> Leased {
    let Message { offset, id, event, sender, ts_ms, data } = message;
    Leased { offset, id, event, sender, ts_ms, data, deliveries }
}

fn holds(settled: &Settled, pending: &Pending) -> bool {
    !pending.lease.is_empty()
        && (settled.operates || settled.who == pending.holder)
        && settled.lease.as_ref().is_none_or(|lease| *lease == pending.lease)
}

/// A group of a topic.
pub(super) fn read_group(
    groups: &impl ReadableTable<(u64, &'static str), &'static str>,
    topic: u64,
    name: &str,
) -> Result<Option<Group>, redb::Error> {
    let text = groups.get((topic, name))?.map(|text| text.value().to_owned());
    Ok(text.map(|text| decoded("group", &text)).transpose()?)
}

fn write_group(write: &WriteTransaction, topic: u64, name: &str, group: &Group) -> Result<(), redb::Error> {
    write.open_table(GROUPS)?.insert((topic, name), encoded(group)?.as_str())?;
    Ok(())
}

/// Whether a lease would find anything, and if not, when one of the leases that are out ends. A look costs no commit.
pub(super) fn anything(
    read: &ReadTransaction,
    (topic, end): (u64, u64),
    name: &str,
    (in_flight_max, now_ms): (u64, u64),
) -> Result<(bool, Option<u64>), redb::Error> {
    let Some(group) = read_group(&read.open_table(GROUPS)?, topic, name)? else { return Ok((true, None)) };
    let mut soonest = None;
    for row in read.open_table(PENDING)?.range((group.id, 0)..=(group.id, u64::MAX))? {
        let pending: Pending = decoded("pending message", row?.1.value())?;
        if pending.until_ms <= now_ms {
            return Ok((true, None));
        }
        soonest = Some(soonest.map_or(pending.until_ms, |soonest: u64| soonest.min(pending.until_ms)));
    }
    Ok((group.next < end && group.pending < in_flight_max, soonest))
}

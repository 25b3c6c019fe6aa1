//! Reading from an offset on, at once or when there is something.

use super::Station;
use super::readers::Reader;
use super::record::{MESSAGES, Message};
use crate::fault::Fault;
use crate::writer::{decoded, reading};
use gavel_bus::{Pattern, any_pattern};
use redb::ReadableDatabase;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A filter may pass over so many messages in one look, that a thread is not busy for long.
const PASSED_MAX: usize = 10_000;

/// Messages of a topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Page {
    pub(super) messages: Vec<Message>,
    /// From where to read on.
    pub(super) next: u64,
    /// Of those asked for, so many are no longer kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) missed: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What somebody wants to read.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) limit: usize,
    /// Bytes; a single message may be more.
    pub(super) bytes_max: usize,
    /// None means everything.
    pub(super) events: Arc<Vec<Pattern>>,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// At the oldest message that is kept.
    Oldest,
    /// After the newest.
    End,
    /// At an offset.
    Offset(u64),
}

impl From {
    /// As a query says it.
    pub(super) fn read(text: Option<&str>) -> Result<Self, Fault> {
        match text {
            None => Ok(Self::Oldest),
            Some("end") => Ok(Self::End),
            Some(number) => number.parse().map(Self::Offset).map_err(|_| {
                Fault::unreadable(format!("from={number}: give an offset, or `end` for what is published from now on"))
            }),
        }
    }
}

/// The patterns in `fleet:*,jobs:failed`; none means everything.
pub(super) fn patterns(text: Option<&str>) -> Result<Vec<Pattern>, Fault> {
    let parts = text.unwrap_or_default().split(',').filter(|part| !part.is_empty());
    parts.map(|part| Pattern::parse(part).map_err(Fault::unreadable)).collect()
}

impl Station {
    /// The offset that is meant. One after the end is of another store, or of nothing.
    pub(super) fn begin(&self, name: &str, from: From) -> Result<u64, Fault> {
        let topic = self.shared.topic(name).ok_or_else(|| super::no_topic(name))?;
        match from {
            From::Oldest => Ok(topic.first),
            From::End => Ok(topic.next),
            From::Offset(offset) if offset > topic.next => Err(Fault::not_accepted(format!(
                "from={offset} is after the end of topic '{name}', whose next message will be at {}",
                topic.next
            ))),
            From::Offset(offset) => Ok(offset),
        }
    }

    /// Messages from an offset on; if there are none, those that come within `wait`.
    pub(super) async fn read(
        &self,
        name: &str,
        from: u64,
        wanted: &Wanted,
        (wait, reader): (Duration, &Reader),
    ) -> Result<Page, Fault> {
        let until = Instant::now() + wait;
        let mut place = None;
        let mut next = from;
        let mut missed = 0;
        loop {
            let (topic, mut bell) = self.shared.listen(name).ok_or_else(|| super::no_topic(name))?;
            let page = self.page((topic.id, topic.first, topic.next), next, wanted.clone()).await?;
            missed += page.missed;
            let page = Page { missed, ..page };
            if !page.messages.is_empty() || wait.is_zero() {
                return Ok(page);
            }
            next = page.next;
            if next < topic.next {
                continue;
            }
            if place.is_none() {
                place = Some(self.readers.place(reader, &self.settings)?);
            }
            tokio::select! {
                // It is closed when the topic is removed; the next look says so.
                _ = bell.changed() => {}
                () = tokio::time::sleep_until(until) => return Ok(page),
                () = self.stop.cancelled() => return Ok(page),
            }
        }
    }

    /// What is there now, of the topic with this id, first and next offset.
    async fn page(&self, (topic, first, end): (u64, u64, u64), from: u64, wanted: Wanted) -> Result<Page, Fault> {
        if from >= end {
            return Ok(Page { messages: Vec::new(), next: from, missed: 0 });
        }
        let database = Arc::clone(&self.database);
        let Wanted { limit, bytes_max, events } = wanted;
        reading(move || {
            let messages = database.begin_read()?.open_table(MESSAGES)?;
            let start = from.max(first);
            let mut page = Page { messages: Vec::new(), next: start, missed: start - from };
            let mut bytes = 0;
            for (passed, row) in messages.range((topic, start)..(topic, end))?.enumerate() {
                if page.messages.len() >= limit || bytes >= bytes_max || passed >= PASSED_MAX {
                    break;
                }
                let (place, value) = row?;
                let offset = place.value().1;
                // Retention was faster than this look.
                page.missed += offset - page.next;
                page.next = offset + 1;
                let text = value.value().1;
                let message: Message = decoded("message", text)?;
                if events.is_empty() || any_pattern(&events, &message.event) {
                    bytes += text.len();
                    page.messages.push(message);
                }
            }
            Ok(page)
        })
        .await
    }
}

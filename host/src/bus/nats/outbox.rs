//! The outbox: events that the stream has not acknowledged yet, in a file of this host.
//!
//! An event has its number from here, and keeps it until the stream has it: however often it is sent, it is known again.
//! What was acknowledged is taken out without waiting for the disk; after a crash it may be sent once more.
//!
//! Where the file is gone a new one begins a new count, which its peers know by its epoch: the time, and in any case more
//! than that of the one before, which stands in a small file beside it.

use super::NatsError;
use super::counts::Counters;
use super::envelope::Envelope;
use crate::policies::catalogue::write_whole;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// When the outbox was made.
const EPOCH: &str = "epoch";
/// The number of the next event.
const NEXT: &str = "next";

/// How much waits at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutboxLimits {
    pub(super) events_max: u64,
    pub(super) bytes_max: u64,
}

/// The file.
pub(super) struct Outbox {
    database: Database,
    path: PathBuf,
    limits: OutboxLimits,
    epoch: u64,
    size: Mutex<Size>,
    counters: Arc<Counters>,
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    events: u64,
    bytes: u64,
}

impl Outbox {
    /// Open the file, or make it at `now_ms`.
    pub(super) fn open(
        path: &Path,
        now_ms: u64,
        limits: OutboxLimits,
        counters: Arc<Counters>,
    ) -> Result<Self, NatsError> {
        let told = |why: redb::Error| NatsError::outbox(path, &why);
        let database = Database::create(path).map_err(|why| NatsError::outbox(path, &why))?;
        let last = read_epoch(path)?;
        let epoch = prepare(&database, last.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)))).map_err(told)?;
        // Before the first event has it. One that is not above the last is of a file that was put back.
        if last.is_none_or(|last| last < epoch) {
            let file = epoch_file(path);
            write_whole(&file, format!("{epoch}\n").as_bytes()).map_err(|why| NatsError::outbox(&file, &why))?;
        }
        let size = weigh(&database).map_err(told)?;
        let outbox = Self { database, path: path.to_owned(), limits, epoch, size: Mutex::new(size), counters };
        outbox.tell(size);
        Ok(outbox)
    }

    /// Put events in, each with its number, and wait for the disk. Gives how many there was no room for.
    pub(super) fn append(&self, events: Vec<Envelope>) -> Result<u64, NatsError> {
        self.append_all(events).map_err(|why| NatsError::outbox(&self.path, &why))
    }

    /// The first events, so many at most.
    pub(super) fn first(&self, count: usize) -> Result<Vec<Envelope>, NatsError> {
        let read = || -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(EVENTS)?;
            let mut found = Vec::new();
            for entry in table.iter()?.take(count) {
                found.push(entry?.1.value().to_vec());
            }
            Ok(found)
        };
        let texts = read().map_err(|why| NatsError::outbox(&self.path, &why))?;
        let events = texts.iter().map(|text| serde_json::from_slice(text));
        events.collect::<Result<_, _>>().map_err(|why| NatsError::outbox(&self.path, &why))
    }

    /// Take out what has a number up to this.
    pub(super) fn remove(&self, up_to: u64) -> Result<(), NatsError> {
        self.remove_all(up_to).map_err(|why| NatsError::outbox(&self.path, &why))
    }

    fn append_all(&self, events: Vec<Envelope>) -> Result<u64, redb::Error> {
        let mut size = self.size();
        let (mut grown, mut refused) = (*size, 0);
        let transaction = self.database.begin_write()?;
        {
            let (mut table, mut meta) = (transaction.open_table(EVENTS)?, transaction.open_table(META)?);
            let mut next = meta.get(NEXT)?.map_or(1, |next| next.value());
            for event in events {
                let event = Envelope { epoch: self.epoch, number: next, ..event };
                // An envelope is plain data: it is always JSON.
                let text = serde_json::to_vec(&event).unwrap_or_default();
                let bytes = grown.bytes + text.len() as u64;
                if grown.events >= self.limits.events_max || bytes > self.limits.bytes_max {
                    refused += 1;
                    continue;
                }
                table.insert(next, text.as_slice())?;
                grown = Size { events: grown.events + 1, bytes };
                next += 1;
            }
            meta.insert(NEXT, next)?;
        }
        transaction.commit()?;
        *size = grown;
        self.tell(grown);
        Ok(refused)
    }

    fn remove_all(&self, up_to: u64) -> Result<(), redb::Error> {
        let mut size = self.size();
        let mut left = *size;
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        transaction.open_table(EVENTS)?.retain_in(..=up_to, |_, text| {
            left = Size { events: left.events - 1, bytes: left.bytes - text.len() as u64 };
            false
        })?;
        transaction.commit()?;
        *size = left;
        self.tell(left);
        Ok(())
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, size: Size) {
        self.counters.outbox_depth.set(size.events);
        self.counters.outbox_bytes.set(size.bytes);
    }
}

/// The file with the last epoch: beside the outbox, with another ending.
fn epoch_file(path: &Path) -> PathBuf {
    path.with_extension("epoch")
}

fn read_epoch(path: &Path) -> Result<Option<u64>, NatsError> {
    let file = epoch_file(path);
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let told = "it holds no number: take it away, if the clock of this host did not go back";
            text.trim().parse().map(Some).map_err(|_| NatsError::outbox(&file, &told))
        }
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(NatsError::outbox(&file, &why)),
    }
}

/// Make the tables where there are none; gives when they were made.
fn prepare(database: &Database, now_ms: u64) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let epoch = {
        transaction.open_table(EVENTS)?;
        let mut meta = transaction.open_table(META)?;
        let known = meta.get(EPOCH)?.map(|epoch| epoch.value());
        if known.is_none() {
            meta.insert(EPOCH, now_ms)?;
        }
        known.unwrap_or(now_ms)
    };
    transaction.commit()?;
    Ok(epoch)
}

fn weigh(database: &Database) -> Result<Size, redb::Error> {
    let table = database.begin_read()?.open_table(EVENTS)?;
    let mut size = Size { events: 0, bytes: 0 };
    for entry in table.iter()? {
        size = Size { events: size.events + 1, bytes: size.bytes + entry?.1.value().len() as u64 };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(text: &str) -> Envelope {
        Envelope {
            host: "a".to_owned(),
            epoch: 0,
            number: 0,
            floor: 0,
            hops: 1,
            event_id: text.to_owned(),
            event_name: "notes:new".to_owned(),
            sender: "host".to_owned(),
            correlation_id: text.to_owned(),
            client_id: None,
            time_ms: 1,
            data: json!(text),
        }
    }

    fn open(path: &Path, events_max: u64) -> (Outbox, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let limits = OutboxLimits { events_max, bytes_max: 10_000 };
        (Outbox::open(path, 5, limits, Arc::clone(&counters)).unwrap(), counters)
    }

    #[test]
    fn numbers_go_on_after_a_restart_even_where_all_was_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let (outbox, _) = open(&path, 10);
        assert_eq!(outbox.append(vec![event("x"), event("y")]).unwrap(), 0);
        outbox.remove(2).unwrap();
        assert_eq!(outbox.append(vec![event("z")]).unwrap(), 0);
        drop(outbox);
        let (outbox, counters) = open(&path, 10);
        assert_eq!(counters.outbox_depth.get(), 1);
        outbox.append(vec![event("a")]).unwrap();
        let found: Vec<_> = outbox.first(9).unwrap().into_iter().map(|event| (event.epoch, event.number)).collect();
        assert_eq!(found, [(5, 3), (5, 4)]);
    }

    #[test]
    fn a_new_outbox_has_a_higher_epoch_even_if_the_clock_went_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.redb");
        let epoch_at = |now_ms: u64| {
            let limits = OutboxLimits { events_max: 1, bytes_max: 10_000 };
            Outbox::open(&path, now_ms, limits, Arc::default()).unwrap().epoch
        };
        assert_eq!((epoch_at(50), epoch_at(90)), (50, 50));
        std::fs::remove_file(&path).unwrap();
        assert_eq!((epoch_at(7), epoch_at(7)), (51, 51));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(epoch_at(90), 90);
        std::fs::write(path.with_extension("epoch"), "x").unwrap();
        let limits = OutboxLimits { events_max: 1, bytes_max: 10_000 };
        let told = Outbox::open(&path, 5, limits, Arc::default()).err().unwrap().to_string();
        assert!(told.contains("it holds no number"), "{told}");
    }

    #[test]
    fn one_more_than_there_is_room_for_is_refused_and_what_was_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (outbox, counters) = open(&folder.path().join("outbox"), 2);
        assert_eq!(outbox.append(vec![event("1"), event("2"), event("3")]).unwrap(), 1);
        assert_eq!(outbox.append(vec![event("4")]).unwrap(), 1);
        assert_eq!(outbox.first(1).unwrap()[0].event_id, "1");
        outbox.remove(1).unwrap();
        assert_eq!(outbox.append(vec![event("5"), event(&"6".repeat(10_000))]).unwrap(), 1);
        let ids: Vec<_> = outbox.first(9).unwrap().into_iter().map(|event| event.event_id).collect();
        assert_eq!((ids, counters.outbox_depth.get()), (vec!["2".to_owned(), "5".to_owned()], 2));
        outbox.remove(9).unwrap();
        assert_eq!((counters.outbox_depth.get(), counters.outbox_bytes.get()), (0, 0));
    }
}

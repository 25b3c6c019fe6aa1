//! Where spans and logs lie: one redb file.
//!
//! | table | key | value |
//! |---|---|---|
//! | spans | trace (16), span (8), hash of the sender (8) | the span, JSON |
//! | traces | trace (16) | what is known of the whole trace, JSON |
//! | `trace_times` | start in ms (8), trace (16) | |
//! | logs | time in ms (8), number (8) | the record, JSON |
//! | `log_traces` | trace (16), time (8), number (8) | |
//! | arrivals | number | when it came (8), bytes (8), `s` or `l`, the key of what came |
//! | meta | `bytes` | of all that is kept |
//!
//! The sender is part of a span's key, so that nobody can replace what another sent; a span that is sent twice by one
//! sender is there once, and counts as taken. What is removed is removed in the order in which it came: the times that a
//! payload claims decide nothing.

use super::item::{Log, Span, SpanId, TraceId, id};
use crate::redb_file::{begin, corrupt};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(super) const SPANS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("spans");
pub(super) const TRACES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("traces");
pub(super) const TRACE_TIMES: TableDefinition<'_, &[u8], ()> = TableDefinition::new("trace_times");
pub(super) const LOGS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("logs");
pub(super) const LOG_TRACES: TableDefinition<'_, &[u8], ()> = TableDefinition::new("log_traces");
const ARRIVALS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("arrivals");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// What the keys and the tree cost for each item, about.
const ITEM_BYTES: usize = 160;
/// Names of services that are kept of a trace.
const SERVICES_MAX: usize = 32;
/// Items that one commit removes for their age; the next goes on.
const AGED_MAX: usize = 10_000;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes_max: u64,
    pub(super) keep_ms: u64,
    pub(super) trace_spans_max: u64,
    pub(super) trace_bytes_max: u64,
}

/// What is kept with one commit.
#[derive(Debug)]
pub(super) enum Batch {
    Spans(Vec<Span>),
    Logs(Vec<Log>),
    /// Nothing: only what is too old is removed.
    Sweep {
        now_ms: u64,
    },
}

/// What came of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) kept: u64,
    /// Their trace is full.
    pub(super) rejected: u64,
}

/// What is known of a whole trace.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
    /// Of the span without a parent, or else of the first that came.
    pub(super) name: String,
    pub(super) service: String,
    pub(super) rooted: bool,
    /// Services that took part, the first 32.
    pub(super) services: BTreeSet<String>,
    pub(super) senders: BTreeSet<String>,
    pub(super) spans: u64,
    pub(super) errors: u64,
    pub(super) bytes: u64,
}

/// The file.
pub(super) struct Store {
    pub(super) database: Database,
    keep: Limits,
    bytes: AtomicU64,
    /// When the oldest item came; 0 if there is none.
    oldest_ms: AtomicU64,
    removed: AtomicU64,
    broken: std::sync::Mutex<Option<String>>,
}

impl Store {
    pub(super) fn open(database: Database, keep: Limits) -> Result<Self, redb::Error> {
        let write = begin(&database)?;
        let (bytes, oldest) = {
            let tables = Tables::open(&write)?;
            (tables.bytes()?, tables.oldest_ms()?)
        };
        write.commit()?;
        let (bytes, oldest_ms) = (AtomicU64::new(bytes), AtomicU64::new(oldest));
        Ok(Self { database, keep, bytes, oldest_ms, removed: AtomicU64::new(0), broken: std::sync::Mutex::default() })
    }

    /// Bytes of all that is kept, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Items that were removed since the start, for their age or for room.
    pub(super) fn removed(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// Why the last commit failed, if it did.
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether something is older than it may be.
    pub(super) fn has_aged(&self, now_ms: u64) -> bool {
        let oldest = self.oldest_ms.load(Relaxed);
        oldest > 0 && oldest.saturating_add(self.keep.keep_ms) < now_ms
    }

    /// Keep all of these, or none.
    pub(super) fn commit(&self, batches: Vec<Batch>) -> Result<Vec<Taken>, redb::Error> {
        let done = self.try_commit(batches);
        let why = done.as_ref().err().map(ToString::to_string);
        *self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = why;
        done
    }

    fn try_commit(&self, batches: Vec<Batch>) -> Result<Vec<Taken>, redb::Error> {
        let write = begin(&self.database)?;
        let (mut all, mut now_ms) = (Vec::with_capacity(batches.len()), 0);
        let (bytes, oldest, removed);
        {
            let mut tables = Tables::open(&write)?;
            for batch in batches {
                let mut taken = Taken::default();
                match batch {
                    Batch::Spans(spans) => {
                        for span in spans {
                            now_ms = now_ms.max(span.received_ms);
                            let kept = tables.add_span(&span, &self.keep)?;
                            *(if kept { &mut taken.kept } else { &mut taken.rejected }) += 1;
                        }
                    }
                    Batch::Logs(logs) => {
                        for log in logs {
                            now_ms = now_ms.max(log.received_ms);
                            tables.add_log(&log)?;
                            taken.kept += 1;
                        }
                    }
                    Batch::Sweep { now_ms: now } => now_ms = now_ms.max(now),
                }
                all.push(taken);
            }
            removed = tables.remove_old(&self.keep, now_ms)?;
            tables.meta.insert("bytes", tables.total)?;
            (bytes, oldest) = (tables.total, tables.oldest_ms()?);
        }
        write.commit()?;
        self.bytes.store(bytes, Relaxed);
        self.oldest_ms.store(oldest, Relaxed);
        self.removed.fetch_add(removed, Relaxed);
        Ok(all)
    }
}

/// All tables, while they are written.
struct Tables<'t> {
    spans: Table<'t, &'static [u8], &'static [u8]>,
    traces: Table<'t, &'static [u8], &'static [u8]>,
    trace_times: Table<'t, &'static [u8], ()>,
    logs: Table<'t, &'static [u8], &'static [u8]>,
    log_traces: Table<'t, &'static [u8], ()>,
    arrivals: Table<'t, u64, &'static [u8]>,
    meta: Table<'t, &'static str, u64>,
    total: u64,
    next: u64,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let meta = write.open_table(META)?;
        let arrivals = write.open_table(ARRIVALS)?;
        // Numbers go on even when all that had one is gone: the key of a log record is made of one.
        let next = meta.get("next")?.map_or(0, |next| next.value());
        let total = meta.get("bytes")?.map_or(0, |bytes| bytes.value());
        Ok(Self {
            spans: write.open_table(SPANS)?,
            traces: write.open_table(TRACES)?,
            trace_times: write.open_table(TRACE_TIMES)?,
            logs: write.open_table(LOGS)?,
            log_traces: write.open_table(LOG_TRACES)?,
            arrivals,
            meta,
            total,
            next,
        })
    }

    fn bytes(&self) -> Result<u64, redb::Error> {
        Ok(self.meta.get("bytes")?.map_or(0, |bytes| bytes.value()))
    }

    fn oldest_ms(&self) -> Result<u64, redb::Error> {
        Ok(self.arrivals.first()?.map_or(0, |(_, arrival)| be64(arrival.value(), 0)))
    }

    fn arrived(&mut self, form: u8, received_ms: u64, bytes: u64, key: &[u8]) -> Result<(), redb::Error> {
        let mut arrival = Vec::with_capacity(17 + key.len());
        arrival.extend_from_slice(&received_ms.to_be_bytes());
        arrival.extend_from_slice(&bytes.to_be_bytes());
        arrival.push(form);
        arrival.extend_from_slice(key);
        self.arrivals.insert(self.next, arrival.as_slice())?;
        self.next += 1;
        self.meta.insert("next", self.next)?;
        self.total += bytes;
        Ok(())
    }

    /// Gives whether it is kept: not if its trace is full.
    fn add_span(&mut self, span: &Span, keep: &Limits) -> Result<bool, redb::Error> {
        let Some((trace, key)) = span_key(span) else { return Ok(false) };
        if self.spans.get(key.as_slice())?.is_some() {
            return Ok(true);
        }
        let value = json(span)?;
        let bytes = (value.len() + ITEM_BYTES) as u64;
        let before = self.summary(&trace)?;
        let mut summary = before.clone().unwrap_or_default();
        if summary.spans >= keep.trace_spans_max || summary.bytes + bytes > keep.trace_bytes_max {
            return Ok(false);
        }
        summary.add(span, bytes);
        if before.as_ref().is_none_or(|before| before.start_ms != summary.start_ms) {
            if let Some(before) = before {
                self.trace_times.remove(time_key(before.start_ms, &trace).as_slice())?;
            }
            self.trace_times.insert(time_key(summary.start_ms, &trace).as_slice(), ())?;
        }
        self.spans.insert(key.as_slice(), value.as_slice())?;
        self.traces.insert(trace.as_slice(), json(&summary)?.as_slice())?;
        self.arrived(b's', span.received_ms, bytes, &key)?;
        Ok(true)
    }

    fn add_log(&mut self, log: &Log) -> Result<(), redb::Error> {
        let value = json(log)?;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&log.ts_ms.to_be_bytes());
        key[8..].copy_from_slice(&self.next.to_be_bytes());
        if let Some(trace) = log.trace_id.as_deref().and_then(id::<16>) {
            self.log_traces.insert([&trace[..], &key[..]].concat().as_slice(), ())?;
        }
        self.logs.insert(key.as_slice(), value.as_slice())?;
        self.arrived(b'l', log.received_ms, (value.len() + ITEM_BYTES) as u64, &key)
    }

    fn summary(&self, trace: &[u8]) -> Result<Option<Summary>, redb::Error> {
        let found = self.traces.get(trace)?;
        found.map(|found| serde_json::from_slice(found.value()).map_err(|why| corrupt("a trace", &why))).transpose()
    }

    /// Remove what there is no room for, and what is too old. Gives how many items.
    fn remove_old(&mut self, keep: &Limits, now_ms: u64) -> Result<u64, redb::Error> {
        let (mut removed, mut aged) = (0, 0);
        loop {
            let oldest = self.arrivals.first()?.map(|(number, arrival)| (number.value(), arrival.value().to_vec()));
            let Some((number, arrival)) = oldest else { return Ok(removed) };
            let too_old = be64(&arrival, 0).saturating_add(keep.keep_ms) < now_ms && aged < AGED_MAX;
            if self.total <= keep.bytes_max && !too_old {
                return Ok(removed);
            }
            aged += usize::from(too_old);
            self.arrivals.remove(number)?;
            let bytes = be64(&arrival, 8);
            self.total = self.total.saturating_sub(bytes);
            match arrival.get(16) {
                Some(b's') => self.remove_span(&arrival[17..], bytes)?,
                _ => self.remove_log(arrival.get(17..).unwrap_or_default())?,
            }
            removed += 1;
        }
    }

    fn remove_span(&mut self, key: &[u8], bytes: u64) -> Result<(), redb::Error> {
        self.spans.remove(key)?;
        let trace = &key[..16];
        let Some(mut summary) = self.summary(trace)? else { return Ok(()) };
        summary.spans = summary.spans.saturating_sub(1);
        summary.bytes = summary.bytes.saturating_sub(bytes);
        if summary.spans > 0 {
            self.traces.insert(trace, json(&summary)?.as_slice())?;
            return Ok(());
        }
        self.traces.remove(trace)?;
        self.trace_times.remove(time_key(summary.start_ms, trace).as_slice())?;
        Ok(())
    }

    fn remove_log(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let Some(value) = self.logs.remove(key)?.map(|value| value.value().to_vec()) else { return Ok(()) };
        let log: Log = serde_json::from_slice(&value).map_err(|why| corrupt("a log record", &why))?;
        if let Some(trace) = log.trace_id.as_deref().and_then(id::<16>) {
            self.log_traces.remove([&trace[..], key].concat().as_slice())?;
        }
        Ok(())
    }
}

impl Summary {
    fn add(&mut self, span: &Span, bytes: u64) {
        let (start, end) = (span.start_unix_nano / 1_000_000, span.end_unix_nano.div_ceil(1_000_000));
        let first = self.spans == 0;
        let root = span.parent_span_id.is_none();
        if first || (root && !self.rooted) {
            self.name.clone_from(&span.name);
            self.service.clone_from(&span.service);
        }
        self.rooted |= root;
        self.start_ms = if first { start } else { self.start_ms.min(start) };
        self.end_ms = self.end_ms.max(end);
        for (names, name) in [(&mut self.services, &span.service), (&mut self.senders, &span.sender)] {
            if names.len() < SERVICES_MAX {
                names.insert(name.clone());
            }
        }
        self.spans += 1;
        self.errors += u64::from(span.failed());
        self.bytes += bytes;
    }

    /// Whether a service may have taken part.
    pub(super) fn may_have(&self, service: &str) -> bool {
        self.services.len() >= SERVICES_MAX || self.services.contains(service)
    }
}

fn span_key(span: &Span) -> Option<(TraceId, [u8; 32])> {
    let trace: TraceId = id(&span.trace_id)?;
    let of_trace: SpanId = id(&span.span_id)?;
    let mut key = [0; 32];
    key[..16].copy_from_slice(&trace);
    key[16..24].copy_from_slice(&of_trace);
    key[24..].copy_from_slice(&Sha256::digest(span.sender.as_bytes())[..8]);
    Some((trace, key))
}

fn time_key(ms: u64, trace: &[u8]) -> Vec<u8> {
    [&ms.to_be_bytes()[..], trace].concat()
}

/// Eight bytes of a key as a number; what is not there is 0.
pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn json<T: Serialize>(item: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(item).map_err(|why| corrupt("an item", &why))
}

/// What is read while nothing is written.
pub(super) fn reading(store: &Store) -> Result<redb::ReadTransaction, redb::Error> {
    Ok(store.database.begin_read()?)
}

//! Looking for traces and logs, the latest first.
//!
//! A look is bounded by how many entries it reads and how large its answer is; one that stops before its end says so, and
//! gives the place where the next goes on.

use super::item::{Log, Span, TraceId, id};
use super::store::{LOG_TRACES, LOGS, SPANS, Store, Summary, TRACE_TIMES, TRACES, be64, reading};
use crate::redb_file::corrupt;
use redb::ReadOnlyTable;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Entries that one look reads.
const READS_MAX: usize = 50_000;
/// Bytes of one answer, about.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Which traces: those with a span that has all that is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct TracesWanted {
    pub(super) service: Option<String>,
    pub(super) name: Option<String>,
    pub(super) min_duration_ns: u64,
}

/// Which records.
#[derive(Debug, Clone, Default)]
pub(super) struct LogsWanted {
    /// The lowest.
    pub(super) severity: Option<u8>,
    pub(super) service: Option<String>,
    /// In lower case.
    pub(super) text: Option<String>,
    pub(super) trace: Option<TraceId>,
}

/// From when until when, how many, and where the look before stopped.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    pub(super) limit: usize,
    pub(super) before: Option<Vec<u8>>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) items: Vec<Value>,
    /// Where the next look goes on; none if this one came to its end.
    pub(super) next: Option<Vec<u8>>,
}

impl Page {
    /// The keys to look at, below `end`, where keys begin with `prefix` and a time.
    fn bounds(&self, prefix: &[u8], rest: usize) -> (Vec<u8>, Vec<u8>) {
        let first = [prefix, &self.from_ms.to_be_bytes(), &vec![0; rest]].concat();
        // Above every key of its last millisecond.
        let last = [prefix, &self.to_ms.to_be_bytes(), &vec![0xff; rest + 1]].concat();
        let last = self.before.clone().map_or(last.clone(), |before| before.min(last));
        (first, last)
    }
}

/// Traces.
pub(super) fn traces(store: &Store, wanted: &TracesWanted, page: &Page) -> Result<Found, redb::Error> {
    let read = reading(store)?;
    let (times, all, spans) = (read.open_table(TRACE_TIMES)?, read.open_table(TRACES)?, read.open_table(SPANS)?);
    let (first, last) = page.bounds(&[], 16);
    let (mut found, mut reads, mut bytes) = (Found::default(), 0, 0);
    if first >= last {
        return Ok(found);
    }
    let mut seen: Option<Vec<u8>> = None;
    for entry in times.range::<&[u8]>(first.as_slice()..last.as_slice())?.rev() {
        let key = entry?.0.value().to_vec();
        if found.items.len() >= page.limit || reads >= READS_MAX || bytes >= ANSWER_BYTES_MAX {
            found.next = seen;
            return Ok(found);
        }
        reads += 1;
        let trace = key[8..].to_vec();
        seen = Some(key);
        let Some(value) = all.get(trace.as_slice())? else { continue };
        let summary: Summary = serde_json::from_slice(value.value()).map_err(|why| corrupt("a trace", &why))?;
        if !matches(&spans, &trace, &summary, wanted, &mut reads)? {
            continue;
        }
        bytes += value.value().len();
        found.items.push(told(&trace, &summary));
    }
    Ok(found)
}

fn told(trace: &[u8], summary: &Summary) -> Value {
    json!({
        "trace_id": hex::encode(trace), "name": summary.name, "service": summary.service, "start_ms": summary.start_ms,
        "duration_ms": summary.end_ms.saturating_sub(summary.start_ms), "spans": summary.spans, "errors": summary.errors,
        "services": summary.services, "senders": summary.senders, "root_seen": summary.rooted,
    })
}

type Items = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn matches(
    spans: &Items,
    trace: &[u8],
    summary: &Summary,
    wanted: &TracesWanted,
    reads: &mut usize,
) -> Result<bool, redb::Error> {
    let TracesWanted { service, name, min_duration_ns } = wanted;
    if service.as_deref().is_some_and(|service| !summary.may_have(service)) {
        return Ok(false);
    }
    if service.is_none() && name.is_none() && *min_duration_ns == 0 {
        return Ok(true);
    }
    for span in of_trace(spans, trace)? {
        let span = span?;
        *reads += 1;
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        if same(service, &span.service) && same(name, &span.name) && span.duration_ns() >= *min_duration_ns {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The spans of a trace.
fn of_trace(spans: &Items, trace: &[u8]) -> Result<impl Iterator<Item = Result<Span, redb::Error>>, redb::Error> {
    let (first, last) = ([trace, &[0; 16]].concat(), [trace, &[0xff; 17]].concat());
    Ok(spans.range::<&[u8]>(first.as_slice()..last.as_slice())?.map(|entry| {
        let (_, value) = entry?;
        serde_json::from_slice(value.value()).map_err(|why| corrupt("a span", &why))
    }))
}

/// A whole trace, or none: its spans as a reader goes through the tree, each with its depth.
pub(super) fn trace(store: &Store, trace: &TraceId) -> Result<Option<Value>, redb::Error> {
    let read = reading(store)?;
    let value = read.open_table(TRACES)?.get(trace.as_slice())?.map(|value| value.value().to_vec());
    let Some(value) = value else { return Ok(None) };
    let summary: Summary = serde_json::from_slice(&value).map_err(|why| corrupt("a trace", &why))?;
    let spans = of_trace(&read.open_table(SPANS)?, trace)?.collect::<Result<Vec<_>, _>>()?;
    let mut whole = told(trace, &summary);
    let ordered = in_order(&spans).into_iter().map(|(at, depth)| {
        let mut span = json!(spans[at]);
        span["depth"] = json!(depth);
        span["duration_ns"] = json!(spans[at].duration_ns().to_string());
        span
    });
    whole["tree"] = Value::Array(ordered.collect());
    Ok(Some(whole))
}

/// The places of spans in the order of their tree, children by their start, each with its depth. A span whose parent is
/// not there is a root; so is one of each circle. It goes round without calling itself: a trace may be as deep as it is long.
pub(super) fn in_order(spans: &[Span]) -> Vec<(usize, usize)> {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut by_start: Vec<usize> = (0..spans.len()).collect();
    by_start.sort_by_key(|at| spans[*at].start_unix_nano);
    let mut roots = Vec::new();
    for at in &by_start {
        match spans[*at].parent_span_id.as_deref().filter(|parent| ids.contains(parent)) {
            Some(parent) => children.entry(parent).or_default().push(*at),
            None => roots.push(*at),
        }
    }
    let (mut ordered, mut placed) = (Vec::with_capacity(spans.len()), vec![false; spans.len()]);
    // After the roots come those that no root leads to.
    for root in roots.into_iter().chain(by_start) {
        let mut waiting = vec![(root, 0)];
        while let Some((at, depth)) = waiting.pop() {
            if std::mem::replace(&mut placed[at], true) {
                continue;
            }
            ordered.push((at, depth));
            let below = children.remove(spans[at].span_id.as_str()).unwrap_or_default();
            waiting.extend(below.into_iter().rev().map(|child| (child, depth + 1)));
        }
    }
    ordered
}

/// Log records.
pub(super) fn logs(store: &Store, wanted: &LogsWanted, page: &Page) -> Result<Found, redb::Error> {
    let read = reading(store)?;
    let records = read.open_table(LOGS)?;
    let (first, last) = page.bounds(wanted.trace.as_ref().map_or(&[], |trace| &trace[..]), 8);
    if first >= last {
        return Ok(Found::default());
    }
    let mut look = Look { found: Found::default(), reads: 0, bytes: 0, seen: None, wanted, limit: page.limit };
    if wanted.trace.is_some() {
        for entry in read.open_table(LOG_TRACES)?.range::<&[u8]>(first.as_slice()..last.as_slice())?.rev() {
            let key = entry?.0.value().to_vec();
            if look.is_over() {
                break;
            }
            if let Some(value) = records.get(&key[16..])? {
                look.at(&key, value.value())?;
            }
        }
    } else {
        for entry in records.range::<&[u8]>(first.as_slice()..last.as_slice())?.rev() {
            let (key, value) = entry?;
            if look.is_over() {
                break;
            }
            look.at(key.value(), value.value())?;
        }
    }
    Ok(look.found)
}

struct Look<'a> {
    found: Found,
    reads: usize,
    bytes: usize,
    seen: Option<Vec<u8>>,
    wanted: &'a LogsWanted,
    limit: usize,
}

impl Look<'_> {
    /// Asked when there is another entry: if it is over, that entry is where the next look begins.
    fn is_over(&mut self) -> bool {
        let over = self.found.items.len() >= self.limit || self.reads >= READS_MAX || self.bytes >= ANSWER_BYTES_MAX;
        if over {
            self.found.next = self.seen.take();
        }
        over
    }

    fn at(&mut self, key: &[u8], value: &[u8]) -> Result<(), redb::Error> {
        self.reads += 1;
        self.seen = Some(key.to_vec());
        let log: Log = serde_json::from_slice(value).map_err(|why| corrupt("a log record", &why))?;
        if !wants(self.wanted, &log) {
            return Ok(());
        }
        self.bytes += value.len();
        let mut told = json!(log);
        told["id"] = json!(be64(key, key.len().saturating_sub(8)));
        self.found.items.push(told);
        Ok(())
    }
}

fn wants(wanted: &LogsWanted, log: &Log) -> bool {
    let LogsWanted { severity, service, text, trace } = wanted;
    severity.is_none_or(|lowest| log.severity >= lowest)
        && service.as_deref().is_none_or(|service| service == log.service)
        && trace.is_none_or(|trace| log.trace_id.as_deref().and_then(id::<16>) == Some(trace))
        && text.as_deref().is_none_or(|text| {
            log.message.to_lowercase().contains(text)
                || log.fields.iter().any(|(_, value)| match value {
                    Value::String(value) => value.to_lowercase().contains(text),
                    value => value.to_string().to_lowercase().contains(text),
                })
        })
}

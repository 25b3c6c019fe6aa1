//! OTLP in its JSON encoding: lowerCamelCase names, ids in hexadecimal, 64-bit numbers as text or number, enums as numbers.
//!
//! Fields that are not known are ignored. A request that is no such document is refused as a whole; in one that is, each
//! item that cannot be taken is counted, with the reason of the first, and the others are taken.

use super::item::{Caps, Link, Log, Moment, Span, SpanId, TraceId, cut, fitted, id, level_of, severity_of};
use serde_json::{Map, Value, json};
use std::rc::Rc;

/// What a request held.
#[derive(Debug, Default)]
pub(super) struct Decoded<T> {
    pub(super) items: Vec<T>,
    pub(super) rejected: u64,
    /// Why the first of them was.
    pub(super) why: Option<String>,
}

impl<T> Decoded<T> {
    /// Read one, while there is room.
    fn take(&mut self, items_max: usize, read: impl FnOnce() -> Result<T, String>) {
        if self.items.len() >= items_max {
            return self.reject(1, format!("a request may hold {items_max} of them: send smaller ones"));
        }
        match read() {
            Ok(item) => self.items.push(item),
            Err(why) => self.reject(1, why),
        }
    }

    /// Count what is not taken.
    pub(super) fn reject(&mut self, count: u64, why: String) {
        self.rejected += count;
        if count > 0 {
            self.why.get_or_insert(why);
        }
    }
}

/// Who sends, when, and how much of it is kept.
pub(super) struct Frame<'a> {
    pub(super) caps: &'a Caps,
    pub(super) sender: &'a str,
    pub(super) now_ms: u64,
}

/// The deepest value that an attribute may be.
const DEPTH_MAX: usize = 8;

/// The spans of an `ExportTraceServiceRequest`.
pub(super) fn spans(body: &Value, frame: &Frame<'_>) -> Result<Decoded<Span>, String> {
    let mut decoded = Decoded::default();
    for (around, scope, span) in items(body, "resourceSpans", "scopeSpans", "spans", frame.caps)? {
        decoded.take(frame.caps.spans_max, || read_span(&around, scope, span, frame));
    }
    Ok(decoded)
}

/// The records of an `ExportLogsServiceRequest`.
pub(super) fn logs(body: &Value, frame: &Frame<'_>) -> Result<Decoded<Log>, String> {
    let mut decoded = Decoded::default();
    for (around, _, record) in items(body, "resourceLogs", "scopeLogs", "logRecords", frame.caps)? {
        decoded.take(frame.caps.logs_max, || Ok(read_log(&around, record, frame)));
    }
    Ok(decoded)
}

/// The resource of items: its attributes, how many of them were left out, and its service.
struct Around {
    attributes: Map<String, Value>,
    dropped: u64,
    service: String,
}

type Item<'a> = (Rc<Around>, &'a str, &'a Value);

/// Bytes of a resource. It is kept with every item that it is of, so a large one would be multiplied.
const RESOURCE_BYTES_MAX: usize = 4 << 10;

/// All items, each with its resource and its scope.
fn items<'a>(body: &'a Value, outer: &str, middle: &str, inner: &str, caps: &Caps) -> Result<Vec<Item<'a>>, String> {
    if !body.is_object() {
        return Err("the body is not an object".to_owned());
    }
    let mut found = Vec::new();
    for resource in list(body, outer)? {
        let (mut attributes, mut dropped) = attributes(&resource["resource"], caps)?;
        let mut bytes = 0;
        attributes.retain(|key, value| {
            bytes += key.len() + value.to_string().len();
            let fits = bytes <= RESOURCE_BYTES_MAX;
            dropped += u64::from(!fits);
            fits
        });
        let service = attributes.get("service.name").and_then(Value::as_str).unwrap_or("unknown_service");
        let service = cut(service, caps.name_bytes_max).to_owned();
        let around = Rc::new(Around { attributes, dropped, service });
        for scope in list(resource, middle)? {
            let name = cut(text(&scope["scope"]["name"]), caps.name_bytes_max);
            found.extend(list(scope, inner)?.iter().map(|item| (Rc::clone(&around), name, item)));
        }
    }
    Ok(found)
}

/// An array, which may be missing or null.
fn list<'a>(of: &'a Value, name: &str) -> Result<&'a [Value], String> {
    match &of[name] {
        Value::Null => Ok(&[]),
        Value::Array(all) => Ok(all),
        _ => Err(format!("{name} is not an array")),
    }
}

fn read_span(around: &Around, scope: &str, span: &Value, frame: &Frame<'_>) -> Result<Span, String> {
    let caps = frame.caps;
    let trace_id: TraceId = id(text(&span["traceId"])).ok_or("a span has no traceId of 32 hexadecimal digits")?;
    let span_id: SpanId = id(text(&span["spanId"])).ok_or("a span has no spanId of 16 hexadecimal digits")?;
    let parent: Option<SpanId> = id(text(&span["parentSpanId"]));
    let start_unix_nano = whole(&span["startTimeUnixNano"]).ok_or("a span has no startTimeUnixNano")?;
    let end_unix_nano = whole(&span["endTimeUnixNano"]).ok_or("a span has no endTimeUnixNano")?;
    let (attributes, mut dropped) = attributes(span, caps)?;
    dropped += around.dropped + whole(&span["droppedEventsCount"]).unwrap_or(0);
    dropped += whole(&span["droppedLinksCount"]).unwrap_or(0);
    let (events, links) = (list(span, "events")?, list(span, "links")?);
    dropped += count(events.len().saturating_sub(caps.events_max)) + count(links.len().saturating_sub(caps.links_max));
    let mut kept = Span {
        trace_id: hex::encode(trace_id),
        span_id: hex::encode(span_id),
        parent_span_id: parent.map(hex::encode),
        name: cut(text(&span["name"]), caps.name_bytes_max).to_owned(),
        kind: kind(&span["kind"]).to_owned(),
        service: around.service.clone(),
        scope: scope.to_owned(),
        start_unix_nano,
        end_unix_nano,
        status: status(&span["status"]["code"]).to_owned(),
        status_message: cut(text(&span["status"]["message"]), caps.attribute_bytes_max).to_owned(),
        attributes,
        resource: around.attributes.clone(),
        sender: frame.sender.to_owned(),
        received_ms: frame.now_ms,
        ..Span::default()
    };
    for event in events.iter().take(caps.events_max) {
        let (attributes, lost) = self::attributes(event, caps)?;
        dropped += lost;
        let name = cut(text(&event["name"]), caps.name_bytes_max).to_owned();
        kept.events.push(Moment { time_unix_nano: whole(&event["timeUnixNano"]).unwrap_or(0), name, attributes });
    }
    for link in links.iter().take(caps.links_max) {
        let (attributes, lost) = self::attributes(link, caps)?;
        dropped += lost;
        let trace = id(text(&link["traceId"])).map(|id: TraceId| hex::encode(id)).unwrap_or_default();
        let span = id(text(&link["spanId"])).map(|id: SpanId| hex::encode(id)).unwrap_or_default();
        kept.links.push(Link { trace_id: trace, span_id: span, attributes });
    }
    kept.dropped = dropped;
    Ok(kept)
}

fn read_log(around: &Around, record: &Value, frame: &Frame<'_>) -> Log {
    let caps = frame.caps;
    let (fields, lost) = attributes(record, caps).unwrap_or_else(|_| (Map::new(), 1));
    let said = whole(&record["severityNumber"]).and_then(|number| u8::try_from(number).ok()).unwrap_or(0);
    let severity = match said {
        1..=24 => said,
        _ => severity_of(text(&record["severityText"])).unwrap_or(0),
    };
    let body = any_value(&record["body"], 0);
    let body =
        body.as_str().map_or_else(|| if body.is_null() { String::new() } else { body.to_string() }, str::to_owned);
    let message = cut(&body, caps.message_bytes_max).to_owned();
    let time = |name: &str| whole(&record[name]).filter(|time| *time > 0).map(|time| time / 1_000_000);
    Log {
        ts_ms: time("timeUnixNano").or_else(|| time("observedTimeUnixNano")).unwrap_or(frame.now_ms),
        level: level_of(severity).to_owned(),
        severity,
        dropped: around.dropped + lost + u64::from(message.len() < body.len()),
        message,
        service: around.service.clone(),
        fields,
        resource: around.attributes.clone(),
        trace_id: id(text(&record["traceId"])).map(|id: TraceId| hex::encode(id)),
        span_id: id(text(&record["spanId"])).map(|id: SpanId| hex::encode(id)),
        sender: frame.sender.to_owned(),
        received_ms: frame.now_ms,
    }
}

/// The attributes of something, and how many were left out or cut, here or before.
fn attributes(of: &Value, caps: &Caps) -> Result<(Map<String, Value>, u64), String> {
    let pairs = list(of, "attributes")?;
    let pairs = pairs.iter().map(|pair| (text(&pair["key"]).to_owned(), any_value(&pair["value"], 0)));
    let (kept, dropped) = fitted(pairs, caps);
    Ok((kept, dropped + whole(&of["droppedAttributesCount"]).unwrap_or(0)))
}

/// An `AnyValue` as plain JSON. What is too deep or of no known form is null.
fn any_value(value: &Value, depth: usize) -> Value {
    let Some((form, held)) = value.as_object().and_then(|forms| forms.iter().find(|(form, _)| form.ends_with("Value")))
    else {
        return Value::Null;
    };
    match form.as_str() {
        "stringValue" => json!(text(held)),
        "boolValue" => json!(held.as_bool()),
        "intValue" => whole_signed(held).map_or(Value::Null, |number| json!(number)),
        "doubleValue" if held.is_number() || held.is_string() => held.clone(),
        "bytesValue" => json!({"base64": text(held)}),
        "arrayValue" if depth < DEPTH_MAX => {
            let all = held["values"].as_array().map(Vec::as_slice).unwrap_or_default();
            Value::Array(all.iter().map(|one| any_value(one, depth + 1)).collect())
        }
        "kvlistValue" if depth < DEPTH_MAX => {
            let all = held["values"].as_array().map(Vec::as_slice).unwrap_or_default();
            let pairs = all.iter().map(|pair| (text(&pair["key"]).to_owned(), any_value(&pair["value"], depth + 1)));
            Value::Object(pairs.collect())
        }
        _ => Value::Null,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number from 0, as a number or as text.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn whole_signed(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn kind(value: &Value) -> &'static str {
    match whole(value) {
        Some(1) => "internal",
        Some(2) => "server",
        Some(3) => "client",
        Some(4) => "producer",
        Some(5) => "consumer",
        _ => "unspecified",
    }
}

fn status(value: &Value) -> &'static str {
    match whole(value) {
        Some(1) => "ok",
        Some(2) => "error",
        _ => "unset",
    }
}

//! Spans and log records as they are kept: cut to size, with their sender beside what they claim.
//!
//! `service` and all attributes are what the payload says. `sender` is who sent it, by the key that was shown.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How large the parts of an item may be. What is larger is cut or left out, and counted in the item.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names, reason = "they are called what the settings call them")]
pub(super) struct Caps {
    pub(super) spans_max: usize,
    pub(super) logs_max: usize,
    pub(super) attributes_max: usize,
    pub(super) attribute_bytes_max: usize,
    pub(super) name_bytes_max: usize,
    pub(super) message_bytes_max: usize,
    pub(super) events_max: usize,
    pub(super) links_max: usize,
}

/// The id of a trace.
pub(super) type TraceId = [u8; 16];
/// The id of a span.
pub(super) type SpanId = [u8; 8];

/// A span.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_field_names, reason = "they are called what OpenTelemetry calls them")]
pub(super) struct Span {
    pub(super) trace_id: String,
    pub(super) span_id: String,
    pub(super) parent_span_id: Option<String>,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) service: String,
    pub(super) scope: String,
    #[serde(with = "nanos")]
    pub(super) start_unix_nano: u64,
    #[serde(with = "nanos")]
    pub(super) end_unix_nano: u64,
    pub(super) status: String,
    pub(super) status_message: String,
    pub(super) attributes: Map<String, Value>,
    pub(super) resource: Map<String, Value>,
    pub(super) events: Vec<Moment>,
    pub(super) links: Vec<Link>,
    /// Attributes, events and links that were left out or cut, here or before they came here.
    pub(super) dropped: u64,
    pub(super) sender: String,
    pub(super) received_ms: u64,
}

/// Something that happened in a span.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moment {
    #[serde(with = "nanos")]
    pub(super) time_unix_nano: u64,
    pub(super) name: String,
    pub(super) attributes: Map<String, Value>,
}

/// Another span that a span refers to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) trace_id: String,
    pub(super) span_id: String,
    pub(super) attributes: Map<String, Value>,
}

impl Span {
    /// Its length. A clock that was put back in between makes it 0.
    pub(super) fn duration_ns(&self) -> u64 {
        self.end_unix_nano.saturating_sub(self.start_unix_nano)
    }

    pub(super) fn failed(&self) -> bool {
        self.status == "error"
    }
}

/// A log record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Log {
    /// When it was, by whoever wrote it.
    pub(super) ts_ms: u64,
    pub(super) level: String,
    /// 1 to 24 as in OpenTelemetry; 0 if it is not known.
    pub(super) severity: u8,
    pub(super) message: String,
    pub(super) service: String,
    pub(super) fields: Map<String, Value>,
    pub(super) resource: Map<String, Value>,
    pub(super) trace_id: Option<String>,
    pub(super) span_id: Option<String>,
    pub(super) dropped: u64,
    pub(super) sender: String,
    pub(super) received_ms: u64,
}

/// Names of levels, with the lowest severity of each.
const LEVELS: [(&str, u8); 8] = [
    ("trace", 1),
    ("debug", 5),
    ("info", 9),
    ("warn", 13),
    ("warning", 13),
    ("error", 17),
    ("fatal", 21),
    ("critical", 21),
];

/// The severity of a level's name, in any case.
pub(super) fn severity_of(level: &str) -> Option<u8> {
    LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(level)).map(|(_, severity)| *severity)
}

/// The level of a severity.
pub(super) fn level_of(severity: u8) -> &'static str {
    match severity {
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        21..=24 => "fatal",
        _ => "unspecified",
    }
}

/// An id in hexadecimal. One of zeros only is none.
pub(super) fn id<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut id = [0; N];
    hex::decode_to_slice(text, &mut id).ok()?;
    (id != [0; N]).then_some(id)
}

/// The beginning of a text, as far as it has room.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Attributes with their caps. Gives how many were left out or cut.
pub(super) fn fitted(all: impl IntoIterator<Item = (String, Value)>, caps: &Caps) -> (Map<String, Value>, u64) {
    let (mut kept, mut dropped) = (Map::new(), 0);
    for (key, value) in all {
        if kept.len() >= caps.attributes_max || key.is_empty() || key.len() > caps.name_bytes_max {
            dropped += 1;
            continue;
        }
        match value {
            Value::String(text) if text.len() > caps.attribute_bytes_max => {
                dropped += 1;
                kept.insert(key, cut(&text, caps.attribute_bytes_max).into());
            }
            Value::Array(_) | Value::Object(_) if value.to_string().len() > caps.attribute_bytes_max => dropped += 1,
            value => {
                kept.insert(key, value);
            }
        }
    }
    (kept, dropped)
}

/// Nanoseconds as text, as OTLP has them: many readers of JSON cannot hold them as a number.
mod nanos {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

//! What a telemetry service may be told, with its defaults and limits.

use super::item::Caps;
use super::store::Limits;
use crate::SettingsError;
use serde::Deserialize;

/// Its settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Bytes of all that is kept, about; the oldest goes first. Default 256 MiB.
    pub(super) keep_bytes_max: u64,
    /// How long anything is kept. Default 7 days.
    pub(super) keep_ms: u64,
    /// Requests that wait to be written. Default 64.
    pub(super) queue_requests_max: usize,
    /// Bytes of those. Default 4 MiB.
    pub(super) queue_bytes_max: u32,
    /// Spans of a request. Default 2,000.
    pub(super) request_spans_max: usize,
    /// Log records of a request. Default 2,000.
    pub(super) request_logs_max: usize,
    /// Spans of a trace. Default 5,000.
    pub(super) trace_spans_max: u64,
    /// Bytes of a trace. Default 4 MiB.
    pub(super) trace_bytes_max: u64,
    /// Attributes of an item. Default 64.
    pub(super) attributes_max: usize,
    /// Bytes of the value of an attribute. Default 2 KiB.
    pub(super) attribute_bytes_max: usize,
    /// Bytes of a name. Default 256.
    pub(super) name_bytes_max: usize,
    /// Bytes of a message. Default 16 KiB.
    pub(super) message_bytes_max: usize,
    /// Events of a span. Default 32.
    pub(super) events_max: usize,
    /// Links of a span. Default 16.
    pub(super) links_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_bytes_max: 256 << 20,
            keep_ms: 7 * 24 * 3_600_000,
            queue_requests_max: 64,
            queue_bytes_max: 4 << 20,
            request_spans_max: 2_000,
            request_logs_max: 2_000,
            trace_spans_max: 5_000,
            trace_bytes_max: 4 << 20,
            attributes_max: 64,
            attribute_bytes_max: 2 << 10,
            name_bytes_max: 256,
            message_bytes_max: 16 << 10,
            events_max: 32,
            links_max: 16,
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let ranges = [
            ("keep_bytes_max", self.keep_bytes_max, 1 << 20, 1 << 40),
            ("keep_ms", self.keep_ms, 60_000, 10 * 366 * 24 * 3_600_000),
            ("queue_requests_max", wide(self.queue_requests_max), 1, 10_000),
            ("queue_bytes_max", u64::from(self.queue_bytes_max), 64 << 10, 1 << 28),
            ("request_spans_max", wide(self.request_spans_max), 1, 100_000),
            ("request_logs_max", wide(self.request_logs_max), 1, 100_000),
            ("trace_spans_max", self.trace_spans_max, 1, 100_000),
            ("trace_bytes_max", self.trace_bytes_max, 64 << 10, 1 << 26),
            ("attributes_max", wide(self.attributes_max), 1, 1_000),
            ("attribute_bytes_max", wide(self.attribute_bytes_max), 16, 1 << 20),
            ("name_bytes_max", wide(self.name_bytes_max), 16, 4 << 10),
            ("message_bytes_max", wide(self.message_bytes_max), 16, 1 << 20),
            ("events_max", wide(self.events_max), 0, 1_000),
            ("links_max", wide(self.links_max), 0, 1_000),
        ];
        crate::ranges::check(&ranges).map_err(SettingsError)
    }

    pub(super) fn keep(&self) -> Limits {
        Limits {
            bytes_max: self.keep_bytes_max,
            keep_ms: self.keep_ms,
            trace_spans_max: self.trace_spans_max,
            trace_bytes_max: self.trace_bytes_max,
        }
    }

    pub(super) fn caps(&self) -> Caps {
        Caps {
            spans_max: self.request_spans_max,
            logs_max: self.request_logs_max,
            attributes_max: self.attributes_max,
            attribute_bytes_max: self.attribute_bytes_max,
            name_bytes_max: self.name_bytes_max,
            message_bytes_max: self.message_bytes_max,
            events_max: self.events_max,
            links_max: self.links_max,
        }
    }
}

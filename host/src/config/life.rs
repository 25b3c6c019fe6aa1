//! The keys of the configuration file that are about what is kept, for how long, and where.

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Whether records hold what policies were asked, and where it lies. In a file: `true`, `false`, or these keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRequests {
    /// Record it at all. Default true.
    pub enabled: bool,
    /// What is larger lies in a blob beside the log, in bytes. Default 16,384.
    pub inline_max_bytes: usize,
    /// Put all of it into blobs, so that all of it can be erased. Default false.
    pub erasable: bool,
    /// Bytes of one blob; what is larger is not recorded. Default 16 MiB.
    pub blob_bytes_max: u64,
}

impl Default for RecordRequests {
    fn default() -> Self {
        Self {
            enabled: true,
            inline_max_bytes: 16 << 10,
            erasable: false,
            blob_bytes_max: gavel_ledger::BLOB_BYTES_MAX,
        }
    }
}

impl RecordRequests {
    /// Whether a payload of so many bytes stands in the record itself, which has `room` for so many.
    #[must_use]
    pub fn inline(&self, bytes: usize, room: usize) -> bool {
        !self.erasable && bytes <= self.inline_max_bytes.min(room)
    }
}

impl<'de> Deserialize<'de> for RecordRequests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecordRequestsForm)
    }
}

impl Serialize for RecordRequests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.enabled {
            return serializer.serialize_bool(false);
        }
        let Self { inline_max_bytes, erasable, blob_bytes_max, .. } = *self;
        RecordRequestsKeys { inline_max_bytes, erasable, blob_bytes_max }.serialize(serializer)
    }
}

struct RecordRequestsForm;

/// The long form.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RecordRequestsKeys {
    inline_max_bytes: usize,
    erasable: bool,
    blob_bytes_max: u64,
}

impl Default for RecordRequestsKeys {
    fn default() -> Self {
        let RecordRequests { inline_max_bytes, erasable, blob_bytes_max, .. } = RecordRequests::default();
        Self { inline_max_bytes, erasable, blob_bytes_max }
    }
}

impl<'de> Visitor<'de> for RecordRequestsForm {
    type Value = RecordRequests;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("true, false, or the keys inline_max_bytes, erasable, blob_bytes_max")
    }

    fn visit_bool<E: de::Error>(self, enabled: bool) -> Result<RecordRequests, E> {
        Ok(RecordRequests { enabled, ..RecordRequests::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RecordRequests, A::Error> {
        let keys = RecordRequestsKeys::deserialize(MapAccessDeserializer::new(map))?;
        let RecordRequestsKeys { inline_max_bytes, erasable, blob_bytes_max } = keys;
        Ok(RecordRequests { enabled: true, inline_max_bytes, erasable, blob_bytes_max })
    }
}

/// Where sealed segments and evidence go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveFile {
    /// `file:///FOLDER`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
    pub url: String,
    /// Options of the store, such as `aws_endpoint` or `aws_region`. They win over the environment's `AWS_*`,
    /// `GOOGLE_*` and `AZURE_*`, where credentials belong.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// What a call to the store may take.
    #[serde(default)]
    pub limits: ArchiveLimits,
}

/// What a call to the store may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveLimits {
    /// Time to reach the store, in milliseconds. Default 5,000.
    pub connect_timeout_ms: u64,
    /// Time for one request, its body included, in milliseconds. Default 60,000.
    pub request_timeout_ms: u64,
    /// How often a failed request is sent again. Default 4.
    pub max_retries: usize,
    /// Time after which it is not sent again any more, in milliseconds. Default 60,000.
    pub retry_timeout_ms: u64,
    /// Bytes of one part of an upload; an object of fewer goes in one request. Default 8 MiB, at least 5 MiB.
    pub part_bytes: usize,
    /// How hard segments are compressed: 1 to 19. Default 3.
    pub zstd_level: i32,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            request_timeout_ms: 60_000,
            max_retries: 4,
            retry_timeout_ms: 60_000,
            part_bytes: 8 << 20,
            zstd_level: 3,
        }
    }
}

/// How long things are kept. Nothing is erased or removed that no key names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionFile {
    /// Days after which blobs are erased. Default: never.
    pub blobs_days: Option<u64>,
    /// Sealed segments that stay on the disk, the latest; older ones that the archive holds go. Default: all.
    pub local_segments: Option<u64>,
    /// What is not touched, whatever the other keys say.
    pub hold: Vec<HoldFile>,
}

/// A legal hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldFile {
    /// The kernel whose blobs and segments stay.
    pub kernel: String,
    /// Why; it is told to whoever asks for retention.
    pub why: String,
}

impl ArchiveFile {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.limits.validate()?;
        crate::archive::check_url(&self.url, &self.options).map_err(|why| format!("archive: {why:#}"))
    }
}

impl ArchiveLimits {
    /// Fewer bytes than that no cloud takes as a part.
    const PART_BYTES_MIN: usize = 5 << 20;

    fn validate(&self) -> Result<(), String> {
        let checks = [
            ("connect_timeout_ms", self.connect_timeout_ms > 0, "at least 1"),
            ("request_timeout_ms", self.request_timeout_ms > 0, "at least 1"),
            ("part_bytes", self.part_bytes >= Self::PART_BYTES_MIN, "at least 5242880 (5 MiB)"),
            ("zstd_level", (1..=19).contains(&self.zstd_level), "1 to 19"),
        ];
        match checks.iter().find(|(_, holds, _)| !holds) {
            Some((name, _, what)) => Err(format!("archive.limits.{name}: must be {what}")),
            None => Ok(()),
        }
    }
}

impl RetentionFile {
    pub(super) fn validate(&self, kernels: &HashSet<&String>) -> Result<(), String> {
        if self.blobs_days == Some(0) {
            return Err("retention.blobs_days is 0: blobs would go before anyone could look; give at least 1".into());
        }
        match self.hold.iter().find(|hold| !kernels.contains(&hold.kernel)) {
            Some(hold) => Err(format!("retention.hold: there is no kernel `{}`", hold.kernel)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_back() {
        let read = |value: serde_json::Value| serde_json::from_value::<RecordRequests>(value);
        assert_eq!(read(json!(true)).unwrap(), RecordRequests::default());
        for value in [json!(true), json!(false), json!({"erasable": true}), json!({"inline_max_bytes": 7})] {
            let requests = read(value.clone()).unwrap();
            assert_eq!(read(json!(requests)).unwrap(), requests, "{value}");
        }
        let told = read(json!({"inline_max": 7})).unwrap_err().to_string();
        assert!(told.contains("`inline_max_bytes`"), "{told}");
        assert!(read(json!("yes")).unwrap_err().to_string().contains("true, false, or the keys"));
    }
}

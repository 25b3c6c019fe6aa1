//! What the archive says of one segment, in a small object beside it.
//!
//! It is there so that a segment can be found, compared and named without being fetched. It proves nothing: whoever
//! restores or verifies reads the segment itself and holds it against this.

use super::ArchiveError;
use gavel_ledger::SegmentReport;
use serde::{Deserialize, Serialize};

/// The form that is written here.
const FORMAT: &str = "gavel-segment/1";

/// One archived segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `gavel-segment/1`.
    pub format: String,
    /// Whose ledger it is.
    pub kernel_id: String,
    /// The kernel's variant when the ledger was created.
    pub variant: String,
    /// The ledger: the first half of the leaf hash of its record 0, in hex.
    pub ledger_id: String,
    /// Its number, from 0.
    pub segment: u32,
    /// It is full; otherwise this is a copy of what there was of the newest one.
    pub sealed: bool,
    /// The index of its first record.
    pub first_index: u64,
    /// Its records.
    pub records: u64,
    /// Entries of the KERNELS chain in the ledger up to its end.
    pub entries: u64,
    /// Root of the tree over all records of the ledger up to its end, in hex.
    pub root: String,
    /// `entry_hash` of the last entry up to its end, or 64 zeros.
    pub chain_head: String,
    /// The signed checkpoint at its end.
    pub checkpoint: Option<String>,
    /// Its bytes as they were written.
    pub bytes: u64,
    /// Their SHA-256 in hex.
    pub sha256: String,
    /// Where it is: the object's URL.
    pub url: String,
    /// Bytes of the object.
    pub object_bytes: u64,
    /// Their SHA-256 in hex.
    pub object_sha256: String,
}

impl Manifest {
    /// The manifest of a segment that was verified, as the object at `url`.
    #[must_use]
    pub fn new(report: &SegmentReport, sealed: bool, url: String, object_bytes: u64, object_sha256: String) -> Self {
        Self {
            format: FORMAT.to_owned(),
            kernel_id: report.identity.kernel_id.clone(),
            variant: report.identity.variant.clone(),
            ledger_id: hex::encode(report.ledger_id),
            segment: report.segment,
            sealed,
            first_index: report.first_index,
            records: report.records,
            entries: report.entries,
            root: hex::encode(report.root),
            chain_head: report.chain_head.clone(),
            checkpoint: report.checkpoint.clone(),
            bytes: report.bytes,
            sha256: hex::encode(report.sha256),
            url,
            object_bytes,
            object_sha256,
        }
    }

    /// Read a manifest that was found at `url`.
    ///
    /// # Errors
    /// [`ArchiveError::Altered`].
    pub fn read(url: &str, bytes: &[u8]) -> Result<Self, ArchiveError> {
        let altered = |what: String| ArchiveError::Altered { url: url.to_owned(), what };
        let found: Self =
            serde_json::from_slice(bytes).map_err(|why| altered(format!("it is no manifest of a segment: {why}")))?;
        if found.format != FORMAT {
            return Err(altered(format!("its format is `{}`, this program reads {FORMAT}", found.format)));
        }
        Ok(found)
    }

    /// As it is written: indented, since people look at it.
    ///
    /// # Errors
    /// None that a manifest can cause.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArchiveError> {
        let altered = |why: serde_json::Error| ArchiveError::Altered { url: self.url.clone(), what: why.to_string() };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(altered)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// What of a segment that was read and verified is not what this says, with both values.
    #[must_use]
    pub fn differs_from(&self, report: &SegmentReport) -> Option<String> {
        let found = Self::new(report, self.sealed, self.url.clone(), self.object_bytes, self.object_sha256.clone());
        let pairs = [
            ("kernel_id", &self.kernel_id, &found.kernel_id),
            ("variant", &self.variant, &found.variant),
            ("ledger_id", &self.ledger_id, &found.ledger_id),
            ("sha256", &self.sha256, &found.sha256),
            ("root", &self.root, &found.root),
            ("chain_head", &self.chain_head, &found.chain_head),
        ];
        if let Some((name, ours, theirs)) = pairs.iter().find(|(_, ours, theirs)| ours != theirs) {
            return Some(format!("its manifest says {name} {ours}, the segment has {theirs}"));
        }
        let numbers = [
            ("segment", u64::from(self.segment), u64::from(found.segment)),
            ("first_index", self.first_index, found.first_index),
            ("records", self.records, found.records),
            ("entries", self.entries, found.entries),
            ("bytes", self.bytes, found.bytes),
        ];
        if let Some((name, ours, theirs)) = numbers.iter().find(|(_, ours, theirs)| ours != theirs) {
            return Some(format!("its manifest says {name} {ours}, the segment has {theirs}"));
        }
        (self.checkpoint != found.checkpoint).then(|| "its manifest has another checkpoint than the segment".to_owned())
    }
}

impl Manifest {
    /// The object that this describes.
    pub(super) fn object(&self) -> String {
        let folder = folder(&self.kernel_id, &self.ledger_id);
        if self.sealed {
            object_name(&folder, self.segment)
        } else {
            tail_name(&folder, self.segment, self.first_index + self.records, "log.zst")
        }
    }
}

/// The folder of a ledger in the archive.
pub(super) fn folder(kernel_id: &str, ledger_id: &str) -> String {
    format!("{kernel_id}/{ledger_id}")
}

/// The object of a segment.
pub(super) fn object_name(folder: &str, segment: u32) -> String {
    format!("{folder}/{}", gavel_ledger::compressed_file(segment))
}

/// The manifest of a segment.
pub(super) fn manifest_name(folder: &str, segment: u32) -> String {
    format!("{folder}/segment-{segment:06}.json")
}

/// The object, or the manifest, of a copy of the newest segment when the ledger had `size` records.
pub(super) fn tail_name(folder: &str, segment: u32, size: u64, extension: &str) -> String {
    format!("{folder}/tail-{segment:06}-{size}.{extension}")
}

/// The segment and the size in the name of such a copy's manifest, if it is one.
pub(super) fn tail_numbers(name: &str) -> Option<(u32, u64)> {
    let file = name.rsplit('/').next()?;
    let (segment, size) = file.strip_prefix("tail-")?.strip_suffix(".json")?.split_once('-')?;
    let (segment, size) = (segment.parse().ok()?, size.parse().ok()?);
    (tail_name("", segment, size, "json") == format!("/{file}")).then_some((segment, size))
}

/// The number in a manifest's name, if it is one.
pub(super) fn manifest_number(name: &str) -> Option<u32> {
    let file = name.rsplit('/').next()?;
    let number: u32 = file.strip_prefix("segment-")?.strip_suffix(".json")?.parse().ok()?;
    (manifest_name("", number) == format!("/{file}")).then_some(number)
}

//! Sealed segments on their way: compressed, archived, and from this disk.

use super::retention::RetentionReport;
use super::{UpkeepError, on_disk};
use crate::archive::{Archive, Manifest, archived_file};
use crate::kernel::{Kernel, LEDGER};
use gavel_ledger::{Form, SEGMENT_RECORDS, SealedSegment, SegmentReport, compressed_file};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Segments that one event names: some 300 bytes each, so that the event stays well below a record's 64 KiB.
const SEGMENTS_PER_EVENT: usize = 100;

/// What a run of archiving did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveReport {
    /// Where to.
    pub url: String,
    /// Sealed segments of the ledger, wherever they are.
    pub sealed: u64,
    /// Those that were put into the archive, or found there.
    pub archived: Vec<Archived>,
    /// The copy of what is committed after the last sealed one.
    pub tail: Option<Archived>,
    /// Those that left this disk.
    pub removed: Vec<Removed>,
    /// The records that say so.
    pub events: Vec<u64>,
}

/// A segment in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archived {
    /// Its number.
    pub segment: u32,
    /// The index of its first record.
    pub first_index: u64,
    /// Its records.
    pub records: u64,
    /// Where it is.
    pub url: String,
    /// SHA-256 of its bytes as they were written.
    pub sha256: String,
    /// Bytes of the object.
    pub bytes: u64,
    /// It was there before this run.
    pub existed: bool,
}

/// A segment that left this disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its number.
    pub segment: u32,
    /// Where it is.
    pub url: String,
    /// SHA-256 of its bytes as they were written.
    pub sha256: String,
}

impl Archived {
    fn of(manifest: Manifest, existed: bool) -> Self {
        Self {
            segment: manifest.segment,
            first_index: manifest.first_index,
            records: manifest.records,
            url: manifest.url,
            sha256: manifest.sha256,
            bytes: manifest.object_bytes,
            existed,
        }
    }
}

impl Removed {
    fn of(manifest: &Manifest) -> Self {
        Self { segment: manifest.segment, url: manifest.url.clone(), sha256: manifest.sha256.clone() }
    }
}

/// Archive every sealed segment that is on this disk.
pub(super) async fn archive(kernel: &Arc<Kernel>, remove_local: bool, who: &str) -> Result<ArchiveReport, UpkeepError> {
    let dir = kernel.dir.clone().ok_or_else(|| UpkeepError::Volatile(kernel.id.clone()))?;
    if remove_local {
        kernel.held(&dir)?;
    }
    let (dir, archive) = (dir.join(LEDGER), kernel.archive()?);
    let sealed = sealed(&dir).await?;
    let mut report =
        ArchiveReport { url: archive.url().to_owned(), sealed: sealed.len() as u64, ..ArchiveReport::default() };
    let mut archived = Vec::new();
    let mut ended = Ok(());
    for segment in &sealed {
        match archive_one(kernel, &archive, &dir, *segment).await {
            Ok(Some((manifest, existed))) => archived.push((manifest, existed)),
            Ok(None) => {}
            Err(why) => {
                ended = Err(why);
                break;
            }
        }
    }
    // What was archived is recorded, also if it did not come to the end.
    let news: Vec<Value> =
        archived.iter().filter(|(_, existed)| !existed).map(|(manifest, _)| told(manifest)).collect();
    for segments in news.chunks(SEGMENTS_PER_EVENT) {
        let what = json!({"action": "archived", "url": archive.url(), "segments": segments});
        report.events.push(kernel.record_upkeep("archive", who, what).await?);
    }
    ended?;
    if remove_local {
        let local: Vec<Manifest> = archived.iter().map(|(manifest, _)| manifest.clone()).collect();
        let (removed, events) = remove(kernel, &archive, &dir, &local, "archive", who).await?;
        report.removed = removed;
        report.events.extend(events);
    }
    report.archived = archived.into_iter().map(|(manifest, existed)| Archived::of(manifest, existed)).collect();
    report.tail = Some(copy_tail(kernel, &archive, &dir).await?);
    Ok(report)
}

/// Put a copy of what is committed after the last sealed segment into the archive. It is no event: that would be
/// something new to copy each time.
async fn copy_tail(kernel: &Arc<Kernel>, archive: &Archive, dir: &Path) -> Result<Archived, UpkeepError> {
    kernel.upkeep.check_going_on()?;
    let (folder, level) = (dir.to_owned(), archive.zstd_level());
    let (scratch, report) = on_disk(move || {
        let told = |why: gavel_ledger::Error| UpkeepError::Ledger(why.to_string());
        let scratch = tempfile::tempdir().map_err(|why| UpkeepError::Ledger(why.to_string()))?;
        let packed = scratch.path().join("newest");
        let segment = gavel_ledger::pack_newest(&folder, &packed, level).map_err(told)?;
        let report = gavel_ledger::verify_segment(&packed, segment).map_err(told)?;
        Ok((scratch, report))
    })
    .await?;
    let (manifest, existed) = archive.put_tail(&scratch.path().join("newest"), &report).await?;
    Ok(Archived::of(manifest, existed))
}

/// Let all sealed segments but the latest `kept` leave this disk, if the archive holds them.
pub(super) async fn remove_older(
    kernel: &Arc<Kernel>,
    dir: &Path,
    kept: u64,
    who: &str,
    report: &mut RetentionReport,
) -> Result<(), UpkeepError> {
    let sealed = sealed(dir).await?;
    let older = sealed.len().saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
    let local: Vec<u32> =
        sealed[..older].iter().filter(|segment| segment.form != Form::Remote).map(|segment| segment.segment).collect();
    if local.is_empty() {
        return Ok(());
    }
    let Ok(archive) = kernel.archive() else {
        report.not_archived = local;
        return Ok(());
    };
    let mut due = Vec::new();
    for segment in local {
        match archive.noted(dir, segment).await? {
            Some(manifest) => due.push(manifest),
            None => report.not_archived.push(segment),
        }
    }
    if report.dry_run {
        report.segments = due.iter().map(Removed::of).collect();
        return Ok(());
    }
    let (removed, events) = remove(kernel, &archive, dir, &due, "retention", who).await?;
    report.segments = removed;
    report.events.extend(events);
    Ok(())
}

async fn sealed(dir: &Path) -> Result<Vec<SealedSegment>, UpkeepError> {
    let dir = dir.to_owned();
    on_disk(move || gavel_ledger::sealed_segments(&dir).map_err(|why| UpkeepError::Ledger(why.to_string()))).await
}

/// Compress a segment, verify it, and put it into the archive. `None` if it is only there already.
async fn archive_one(
    kernel: &Arc<Kernel>,
    archive: &Archive,
    dir: &Path,
    segment: SealedSegment,
) -> Result<Option<(Manifest, bool)>, UpkeepError> {
    kernel.upkeep.check_going_on()?;
    if segment.form == Form::Remote {
        return Ok(None);
    }
    if let Some(manifest) = archive.noted(dir, segment.segment).await? {
        return Ok(Some((manifest, true)));
    }
    let (folder, level) = (dir.to_owned(), archive.zstd_level());
    let report = on_disk(move || compressed(&folder, segment, level)).await?;
    Ok(Some(archive.put_segment(dir, &report).await?))
}

fn compressed(dir: &Path, segment: SealedSegment, level: i32) -> Result<SegmentReport, UpkeepError> {
    let told = |why: gavel_ledger::Error| UpkeepError::Ledger(why.to_string());
    if segment.form == Form::Plain {
        gavel_ledger::compress_segment(dir, segment.segment, level).map_err(told)?;
    }
    gavel_ledger::verify_segment(&dir.join(compressed_file(segment.segment)), segment.segment).map_err(told)
}

/// Let segments leave this disk: each is read back from the archive, then all are recorded, then they go.
async fn remove(
    kernel: &Arc<Kernel>,
    archive: &Archive,
    dir: &Path,
    segments: &[Manifest],
    event: &'static str,
    who: &str,
) -> Result<(Vec<Removed>, Vec<u64>), UpkeepError> {
    let (mut removed, mut events) = (Vec::new(), Vec::new());
    // A decision that is still open is read when the ledger is opened: its segment stays.
    let open = kernel.ledger.snapshot().oldest_open.map_or(u64::MAX, |index| index / SEGMENT_RECORDS);
    let segments: Vec<Manifest> = segments.iter().filter(|found| u64::from(found.segment) < open).cloned().collect();
    for batch in segments.chunks(SEGMENTS_PER_EVENT) {
        for manifest in batch {
            kernel.upkeep.check_going_on()?;
            archive.check_segment(manifest).await?;
        }
        let named: Vec<Value> = batch.iter().map(told).collect();
        let what = json!({"action": "remove_local", "url": archive.url(), "segments": named});
        events.push(kernel.record_upkeep(event, who, what).await?);
        for manifest in batch {
            let (dir, segment) = (dir.to_owned(), manifest.segment);
            let left = move || gavel_ledger::leave_segment(&dir, segment, &archived_file(segment));
            on_disk(move || left().map_err(|why| UpkeepError::Ledger(why.to_string()))).await?;
            removed.push(Removed::of(manifest));
        }
    }
    Ok((removed, events))
}

fn told(manifest: &Manifest) -> Value {
    json!({
        "segment": manifest.segment,
        "first_index": manifest.first_index,
        "records": manifest.records,
        "root": manifest.root,
        "sha256": manifest.sha256,
        "object_sha256": manifest.object_sha256,
    })
}

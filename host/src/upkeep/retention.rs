//! Retention: what is too old is erased or leaves this disk, and every proof still holds.
//!
//! Blobs are erased: of what they held only the salted digest is left, in the record. Sealed segments leave only if
//! the archive holds them, read back and digested a moment before. Nothing else is touched, and nothing at all of a
//! kernel that is on hold.

use super::segments::{self, Removed};
use super::{UpkeepError, on_disk};
use crate::kernel::{Kernel, LEDGER};
use gavel_ledger::{BlobId, BlobState, Blobs};
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

const DAY_MS: u64 = 86_400_000;
/// Digests in one event: 64 hex digits each, so that the event stays well below a record's 64 KiB.
const DIGESTS_PER_EVENT: usize = 512;
/// Digests that a report shows; all are in the events.
const DIGESTS_SHOWN: usize = 100;

/// What a run of retention did, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RetentionReport {
    /// Nothing was done.
    pub dry_run: bool,
    /// Blobs that are kept.
    pub blobs_kept: u64,
    /// Blobs that were erased, or would be.
    pub blobs: Erased,
    /// Segments that left this disk, or would.
    pub segments: Vec<Removed>,
    /// Sealed segments that should leave and are not in the archive: archive them first.
    pub not_archived: Vec<u32>,
    /// The records that say so.
    pub events: Vec<u64>,
}

/// Blobs that were erased.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// How many.
    pub count: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// Do what the configuration says, or only tell what would be done.
pub(super) async fn retain(kernel: &Arc<Kernel>, dry_run: bool, who: &str) -> Result<RetentionReport, UpkeepError> {
    let dir = kernel.dir.clone().ok_or_else(|| UpkeepError::Volatile(kernel.id.clone()))?;
    kernel.held(&dir)?;
    let mut report = RetentionReport { dry_run, ..RetentionReport::default() };
    if let Some(days) = kernel.upkeep.settings.retention.blobs_days {
        erase_blobs(kernel, &dir, days, who, &mut report).await?;
    }
    if let Some(kept) = kernel.upkeep.settings.retention.local_segments {
        segments::remove_older(kernel, &dir.join(LEDGER), kept, who, &mut report).await?;
    }
    Ok(report)
}

async fn erase_blobs(
    kernel: &Arc<Kernel>,
    dir: &Path,
    days: u64,
    who: &str,
    report: &mut RetentionReport,
) -> Result<(), UpkeepError> {
    let Some(blobs) = kernel.blobs.clone() else { return Ok(()) };
    let before_ms = kernel.clock.now_ms().saturating_sub(days.saturating_mul(DAY_MS));
    let (due, kept) = on_disk({
        let blobs = blobs.clone();
        move || due(&blobs, before_ms)
    })
    .await?;
    report.blobs_kept = kept;
    for batch in due.chunks(DIGESTS_PER_EVENT) {
        kernel.upkeep.check_going_on()?;
        // A hold may have come meanwhile.
        kernel.held(dir)?;
        if !report.dry_run {
            let digests: Vec<String> = batch.iter().map(|(id, _)| id.to_string()).collect();
            let what =
                json!({"action": "erase_blobs", "older_than_days": days, "count": batch.len(), "blobs": digests});
            report.events.push(kernel.record_upkeep("retention", who, what).await?);
            let (kernel, blobs, batch) = (Arc::clone(kernel), blobs.clone(), batch.to_vec());
            on_disk(move || erase(&kernel, &blobs, &batch)).await?;
        }
        let erased = &mut report.blobs;
        erased.count += batch.len() as u64;
        erased.bytes += batch.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let room = DIGESTS_SHOWN - erased.first.len();
        erased.first.extend(batch.iter().take(room).map(|(id, _)| id.to_string()));
    }
    Ok(())
}

/// The blobs that are older than `before_ms`, and how many are not.
fn due(blobs: &Blobs, before_ms: u64) -> Result<(Vec<(BlobId, u64)>, u64), UpkeepError> {
    let told = |why: gavel_ledger::BlobError| UpkeepError::Ledger(why.to_string());
    let (mut due, mut kept) = (Vec::new(), 0);
    for entry in blobs.entries().map_err(told)? {
        let entry = entry.map_err(told)?;
        match entry.state {
            BlobState::Erased => {}
            // Its erasure was ordered and recorded: all that is left is to finish it.
            BlobState::HalfErased => due.push((entry.id, entry.bytes)),
            BlobState::Whole | BlobState::Damaged if entry.stored_ms < before_ms => due.push((entry.id, entry.bytes)),
            BlobState::Whole | BlobState::Damaged => kept += 1,
        }
    }
    due.sort_unstable();
    Ok((due, kept))
}

fn erase(kernel: &Kernel, blobs: &Blobs, batch: &[(BlobId, u64)]) -> Result<(), UpkeepError> {
    for (id, _) in batch {
        kernel.upkeep.check_going_on()?;
        blobs.erase(*id, kernel.clock.now_ms()).map_err(|why| UpkeepError::Ledger(why.to_string()))?;
    }
    Ok(())
}

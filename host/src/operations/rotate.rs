//! Play 5.2, the rotation of evidence: what came since the last rotation goes into the archive.
//!
//! The ledger goes on as it is; rotation takes nothing out of it. Each archived bundle says what it
//! follows, and each rotation's event where the next one begins, so that the archive is one chain.

use super::event::Operator;
use super::file::{EvidenceFile, PRIVATE, write_evidence};
use super::reading::last_event;
use super::{OperationError, Operations, Played};
use crate::evidence::write_bundle_from;
use crate::kernel::Kernel;
use anyhow::Context;
use gavel_kernel::{ChainStart, GENESIS_HASH};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The type of the event of a rotation.
const ROTATED: &str = "EVIDENCE_ROTATED";

/// What was rotated.
#[derive(Debug, Clone, Serialize)]
pub struct Rotated {
    /// The bundle, as it lies in the data folder.
    #[serde(flatten)]
    pub file: EvidenceFile,
    /// `ledger_seq` of its first entry.
    pub first_ledger_seq: u64,
    /// What the first entry follows.
    pub prev_hash: String,
    /// Where it was put for the long term.
    pub archive_path: String,
    /// The record of it in the ledger.
    pub event_index: u64,
}

impl Operations {
    /// Archive what came since the last rotation.
    ///
    /// # Errors
    /// When nothing did, or when the bundle cannot be written, verified, put or recorded.
    pub async fn rotate(&self, kernel: &Arc<Kernel>, operator: &Operator) -> Played<Rotated> {
        // Two at the same time would archive the same entries.
        let _rotating = self.inner.rotating.lock().await;
        let now_ms = self.inner.clock.now_ms();
        let (folder, from) = (self.inner.data.join("archive"), Arc::clone(kernel));
        let name = format!("evidence_{}_{now_ms}.json.zst", kernel.id());
        let written = self.read({
            let name = name.clone();
            move || {
                let snapshot = from.ledger().snapshot();
                let start = start_of(last_event(&from, &snapshot, ROTATED)?.map(|event| event.details))?;
                if start.ledger_seq >= snapshot.entries {
                    return Ok(Err(start));
                }
                let file = write_evidence(&folder, &name, PRIVATE, |mut out| {
                    write_bundle_from(&from, &snapshot, &start, &mut out)
                })?;
                Ok(Ok((file, start)))
            }
        });
        let (file, start) = written.await.context("the evidence was not rotated")?.map_err(|start| {
            let told = format!("kernel '{}': nothing to rotate: entry {} would be next", kernel.id(), start.ledger_seq);
            OperationError::Conflict(told)
        })?;
        let put = self.inner.archive.put(&file.path, &name).await;
        let archive_path = put.with_context(|| format!("{} was not put into the archive", file.path.display()))?;
        let details = json!({
            "kernel_id": kernel.id(),
            "entry_count": file.entry_count,
            "root_hash": file.root_hash,
            "archive_path": archive_path,
            "sha256": file.sha256,
            "first_ledger_seq": start.ledger_seq,
            "next_ledger_seq": start.ledger_seq + file.entry_count,
        });
        let event_index = kernel.record_operator(ROTATED, operator, details).await?;
        let ChainStart { ledger_seq: first_ledger_seq, prev_hash } = start;
        Ok(Rotated { file, first_ledger_seq, prev_hash, archive_path, event_index })
    }
}

/// Where a rotation begins, given what the last one recorded.
fn start_of(last: Option<Value>) -> anyhow::Result<ChainStart> {
    let Some(last) = last else { return Ok(ChainStart { ledger_seq: 0, prev_hash: GENESIS_HASH.to_owned() }) };
    let next = last["next_ledger_seq"].as_u64().zip(last["root_hash"].as_str());
    let (ledger_seq, root) = next.context("the last rotation's event does not say where it ended")?;
    Ok(ChainStart { ledger_seq, prev_hash: root.to_owned() })
}

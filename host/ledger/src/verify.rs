//! Reads a whole ledger and checks everything that the ledger alone can prove. Changes nothing, and
//! needs no lock.

use crate::error::Error;
use crate::file::open_read_only;
use crate::frames::Frames;
use crate::ledger::{Identity, Records};
use crate::recover::recorded_identity;
use crate::scan::scan;
use crate::tail::{MarkFound, judge};
use gavel_proof::tree::Hash;
use std::path::Path;
use std::sync::Arc;

/// A ledger that is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Whose it is.
    pub identity: Identity,
    /// Committed records.
    pub records: u64,
    /// Entries of the KERNELS chain among them.
    pub entries: u64,
    /// Commit frames.
    pub batches: u64,
    /// Root of the tree.
    pub root: Hash,
    /// `entry_hash` of the last entry in hex, or 64 zeros.
    pub chain_head: String,
    /// Bytes up to the end of the last commit frame.
    pub bytes: u64,
    /// Bytes after it: a batch that a crash tore, or that is being written right now. None of it
    /// was acknowledged.
    pub torn_bytes: u64,
    /// A halt is among the records.
    pub halted: bool,
    /// Decisions that nothing closed.
    pub open_decisions: u64,
    /// The latest `ts_ms` of any record.
    pub last_ts_ms: u64,
    /// Records that the mark vouches for; `None` if it is absent or damaged.
    pub acknowledged: Option<u64>,
}

/// Verifies the ledger in `dir`: header, checksums, every leaf, the root in every commit frame,
/// every link of the chain, the rules of the log, and the mark.
///
/// # Errors
/// Names the first byte and record that are not as they should be.
pub fn verify_dir(dir: &Path) -> Result<VerifyReport, Error> {
    read_dir(dir).map(|(report, _)| report)
}

/// Verifies the ledger in `dir` as [`verify_dir`] does, and reads what was verified: every
/// committed record, from the first on, in bounded memory.
///
/// # Errors
/// As for [`verify_dir`].
pub fn read_dir(dir: &Path) -> Result<(VerifyReport, Records), Error> {
    let (source, mark) = open_read_only(dir)?;
    let mark = MarkFound::of(&mark);
    let place = dir.display().to_string();
    let length = source.log_bytes().map_err(Error::io("measure", &place))?;

    let mut found = scan(&source, &place, length, mark.good(), &mut |_| {})?;
    if let Some(broken) = found.broken.take() {
        judge(&*source, &place, length, &found.extent, found.state.records(), &broken, mark)?;
        // Only what is committed counts, so the state must not include the torn batch.
        found = scan(&source, &place, found.extent.end, mark.good(), &mut |_| {})?;
    }
    let first = found.first.as_ref().ok_or_else(|| Error::damaged(0, 0, "the first record is missing"))?;
    let records = Records::new(Frames::new(Arc::clone(&source), found.extent.end), place, found.extent.size);
    let report = VerifyReport {
        identity: recorded_identity(first)?,
        records: found.extent.size,
        entries: found.extent.entries,
        batches: found.extent.batches,
        root: found.state.tree.root(),
        chain_head: found.state.chain.head_hex.as_str().to_owned(),
        bytes: found.extent.end,
        torn_bytes: length - found.extent.end,
        halted: found.state.halted,
        open_decisions: found.state.open.len() as u64,
        last_ts_ms: found.state.last_ts_ms,
        acknowledged: mark.good().map(|mark| mark.size),
    };
    Ok((report, records))
}

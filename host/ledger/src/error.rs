//! What can go wrong. [`enum@Error`] is about a ledger as a whole, [`AppendError`] about one
//! append.
//!
//! Every message gives the values at hand and, where somebody must act, what to do. None of them is
//! ever answered by a silent repair: the only thing that is cut away is a last batch which was
//! never acknowledged.

use gavel_proof::state::Rule;
use std::io;
use std::path::{Path, PathBuf};

/// Why a ledger cannot be opened, read or closed cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {place}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        place: String,
        /// The answer.
        source: io::Error,
    },
    /// Another owner has the directory.
    #[error("{} is in use by process {holder}: stop it, or let it serve this kernel", dir.display())]
    Locked {
        /// The ledger's directory.
        dir: PathBuf,
        /// The pid in the lock file, or `unknown`.
        holder: String,
    },
    /// The ledger belongs to another kernel.
    #[error(
        "{place} is the ledger of kernel `{found}`, not of `{expected}`: open it as its own kernel, or choose another directory"
    )]
    Identity {
        /// The log.
        place: String,
        /// The kernel that was to be opened.
        expected: String,
        /// The kernel that the ledger names.
        found: String,
    },
    /// A segment is only in an archive.
    #[error("{place}: segment {segment} is only in the archive, at {url}: bring it back with `{}`", restore_command(place, *segment, url))]
    Remote {
        /// The folder.
        place: String,
        /// The segment.
        segment: u32,
        /// The object that it is in the archive.
        url: String,
    },
    /// A segment is nowhere.
    #[error(
        "{place}: segment {segment} is missing, though later ones are here: restore the file from a copy or from the archive"
    )]
    Missing {
        /// The folder.
        place: String,
        /// The segment.
        segment: u32,
    },
    /// The ledger's checkpoints are signed by a key that is not at hand.
    #[error(
        "{place}: its checkpoints are signed by the key ed25519:{expected}, which is not at hand: restore the key file, or give the key up with `gavel serve --key-lost KERNEL`"
    )]
    KeyMissing {
        /// The folder.
        place: String,
        /// The public key in force, in hex.
        expected: String,
    },
    /// The ledger did not grow from an earlier checkpoint.
    #[error(
        "the earlier checkpoint states {size} records, but {what}: the ledger was rolled back, or the checkpoint is of another log"
    )]
    Anchor {
        /// The records of the checkpoint.
        size: u64,
        /// What the ledger says instead.
        what: String,
    },
    /// The ledger's checkpoints are signed by another key than the one given.
    #[error("the key in force is ed25519:{found}, not ed25519:{expected}: give the key of this ledger")]
    OtherKey {
        /// The key given.
        expected: String,
        /// The key of the ledger, or `none`.
        found: String,
    },
    /// There is no such record, or no tree so large.
    #[error("there is no record {index}: the ledger has {records}, counted from 0")]
    NoSuchRecord {
        /// The record asked for.
        index: u64,
        /// The records there are.
        records: u64,
    },
    /// There is no ledger to read.
    #[error("no ledger in {}: there is no segment-NNNNNN.log", dir.display())]
    Absent {
        /// The directory looked at.
        dir: PathBuf,
    },
    /// The log was written by a later version.
    #[error(
        "segment {segment}: format version {found} is newer than {supported}, the newest this program reads: use the program that wrote it, or a later one"
    )]
    Newer {
        /// The segment.
        segment: u32,
        /// Its version.
        found: u16,
        /// The version that this program writes.
        supported: u16,
    },
    /// Bytes that were once right no longer are; nothing was changed.
    #[error(
        "segment {segment}: byte {byte}: record {index}: {what}; nothing was changed: restore the file from a copy, or keep it as evidence and start a new ledger"
    )]
    Damaged {
        /// The segment.
        segment: u32,
        /// The first byte of the frame that is wrong.
        byte: u64,
        /// The first record that cannot be trusted.
        index: u64,
        /// What is wrong.
        what: String,
    },
    /// Records that were acknowledged are gone, or others stand in their place.
    #[error(
        "the mark says that {acknowledged} records were acknowledged, but {what}; nothing was changed: restore both files from the same copy"
    )]
    RolledBack {
        /// The records that the mark vouches for.
        acknowledged: u64,
        /// What the log says instead.
        what: String,
    },
    /// An option is out of its range.
    #[error("option {name}: {what}")]
    Options {
        /// The option.
        name: &'static str,
        /// What it must be.
        what: &'static str,
    },
    /// The ledger stopped after an I/O error.
    #[error("the ledger stopped: {why}; check the disk, then open it again")]
    Poisoned {
        /// The first failure.
        why: String,
    },
}

/// What brings a segment back that is at `ARCHIVE/KERNEL/LEDGER/FILE`.
fn restore_command(place: &str, segment: u32, url: &str) -> String {
    let mut parts = url.rsplitn(4, '/').skip(2);
    let (kernel, archive) = (parts.next().unwrap_or("ID"), parts.next().unwrap_or("URL"));
    format!("gavel restore --from {archive} --kernel {kernel} --into {place} --segment {segment}")
}

impl Error {
    pub(crate) fn io(action: &'static str, place: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let place = place.into();
        move |source| Self::Io { action, place, source }
    }

    pub(crate) fn io_at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(action, path.display().to_string())
    }

    pub(crate) fn damaged(segment: u32, byte: u64, index: u64, what: impl Into<String>) -> Self {
        Self::Damaged { segment, byte, index, what: what.into() }
    }
}

/// Why a record was not appended. Only after [`AppendError::Poisoned`] may it be found in the log
/// all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The queue is full: the disk is slower than the callers.
    #[error("the ledger is overloaded: {queued} appends of {bytes} bytes are waiting; try again later")]
    Overloaded {
        /// The appends that wait.
        queued: usize,
        /// The bytes of their texts.
        bytes: usize,
    },
    /// The ledger was closed.
    #[error("the ledger is closed: open it again")]
    Closed,
    /// An I/O error stopped the ledger. Whether this record reached the disk is unknown until the
    /// ledger is opened again.
    #[error("the ledger stopped: {why}; check the disk, then open it again")]
    Poisoned {
        /// The first failure.
        why: String,
    },
    /// The record would exceed [`MAX_RECORD_BYTES`](crate::MAX_RECORD_BYTES).
    #[error("a record of {size} bytes exceeds the {limit} allowed: store the payload elsewhere and record its digest")]
    TooLarge {
        /// The bytes that it would have, or at least the bytes of its texts.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A halt stands before it in the log.
    #[error("the ledger is halted: no decision and no second halt follow a halt; start a new kernel")]
    Halted,
    /// An outcome for something that is not an open decision.
    #[error("record {decision_index} is not an open decision: it is no decision, or it is closed already")]
    NotOpen {
        /// The record that was to be closed.
        decision_index: u64,
    },
    /// The draft breaks the form of its kind.
    #[error("not a record: {what}")]
    Invalid {
        /// The rule that it breaks.
        what: String,
    },
}

impl AppendError {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

impl From<Rule> for AppendError {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Halted => Self::Halted,
            Rule::NotOpen { decision_index } => Self::NotOpen { decision_index },
            Rule::Form(what) => Self::invalid(what),
            other => Self::invalid(other.to_string()),
        }
    }
}

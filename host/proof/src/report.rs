//! What verifying found: each check with its outcome, what was not covered, and the first fault.

use crate::chain::ChainError;
use crate::items::Misplaced;
use crate::note::NoteError;
use crate::tree::ProofError;
use serde::Serialize;

/// Why evidence does not hold. It names the first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The file is something else, or not whole.
    #[error("not an evidence bundle: {0}")]
    NotABundle(String),
    /// The file is something else, or not whole.
    #[error("not a proof file: {0}")]
    NotAProofFile(String),
    /// The file is something else, or not whole.
    #[error("not a consistency file: {0}")]
    NotAConsistencyFile(String),
    /// One checkpoint is not the beginning of the other.
    #[error("the log of {new} records does not begin with that of {old} records: {source}")]
    Inconsistent {
        /// The records of the earlier checkpoint.
        old: u64,
        /// The records of the later checkpoint.
        new: u64,
        /// Why.
        source: ProofError,
    },
    /// The chain of entries is broken.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A record is not as the ledger writes them, or may not stand where it stands.
    #[error("record {index}{}: {fault}", of_request(request_id.as_ref()))]
    Record {
        /// Which.
        index: u64,
        /// The request that it is about, if it says so.
        request_id: Option<String>,
        /// What is wrong.
        fault: String,
    },
    /// The bundle shows an entry that its records do not carry.
    #[error("entry {ledger_seq}{}: {fault}", of_request(request_id.as_ref()))]
    Disagreement {
        /// The entry's place in the chain.
        ledger_seq: u64,
        /// Its request.
        request_id: Option<String>,
        /// How they differ.
        fault: String,
    },
    /// The records are not those of the checkpoint.
    #[error("records {first} to {last} are not those that the checkpoint signs: {source}")]
    Tree {
        /// The first record.
        first: u64,
        /// The last record.
        last: u64,
        /// Why.
        source: ProofError,
    },
    /// A record of a proof file is not that of its proof.
    #[error("record {index}{} is not proved: {fault}", of_request(request_id.as_ref()))]
    Unproved {
        /// The record.
        index: u64,
        /// The request that it is about, if it says so.
        request_id: Option<String>,
        /// Why.
        fault: String,
    },
    /// The checkpoint is of no use.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// The checkpoint is that of another log.
    #[error("the checkpoint is that of another log: it is of {origin}, but {other}")]
    OtherLog {
        /// The origin in the checkpoint.
        origin: String,
        /// What says otherwise.
        other: String,
    },
    /// The key that the evidence carries is unreadable.
    #[error("`key`: {0}")]
    Key(NoteError),
    /// Someone else's signature.
    #[error(
        "the checkpoint is not signed by the key that you gave ({given}), and the rotations in the file do not lead \
         from it to the key that did sign: {signers}"
    )]
    OtherKey {
        /// The key given.
        given: String,
        /// Who signed.
        signers: String,
    },
    /// A rotation does not hold.
    #[error("rotation {number} of the key: {fault}")]
    Rotation {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        fault: String,
    },
    /// A key was given, but there is nothing that it could have signed.
    #[error("nothing here is signed: {0}; export the bundle with its records, or verify without a key")]
    Unsigned(&'static str),
}

impl EvidenceError {
    /// The check that finds it.
    fn check(&self) -> &'static str {
        match self {
            Self::NotABundle(_) | Self::NotAProofFile(_) | Self::NotAConsistencyFile(_) => "form",
            Self::Chain(_) => "chain",
            Self::Record { .. } => "records",
            Self::Disagreement { .. } => "agreement",
            Self::OtherLog { .. } => "log",
            Self::Tree { .. } | Self::Unproved { .. } | Self::Inconsistent { .. } => "tree",
            Self::Checkpoint(_) | Self::Unsigned(_) => "signature",
            Self::Key(_) | Self::OtherKey { .. } | Self::Rotation { .. } => "key",
        }
    }
}

fn of_request(request_id: Option<&String>) -> String {
    request_id.map_or_else(String::new, |id| format!(" (request {id:?})"))
}

impl From<Misplaced> for EvidenceError {
    fn from(why: Misplaced) -> Self {
        Self::NotABundle(why.to_string())
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// Another check failed before, so that this one was not made.
    NotReached,
    /// The evidence does not cover it, or was not asked to.
    NotCovered,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is checked, in one or two words; the same in every report.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// With values: what holds, what does not, or what would be needed.
    pub detail: String,
}

/// An entry, or a record, for a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The entry's place in the chain, or the record's in the log.
    pub number: u64,
    /// When, by the kernel's clock.
    pub ts_ms: u64,
    /// The request.
    pub request_id: String,
    /// Who asked.
    pub actor: String,
    /// What for.
    pub intent: String,
    /// What was decided.
    pub decision: String,
    /// The tool that ran.
    pub tool_name: Option<String>,
    /// Why it was denied or failed.
    pub error: Option<String>,
}

/// What the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// An evidence bundle.
    Bundle,
    /// A proof file.
    ProofFile,
    /// A consistency file.
    ConsistencyFile,
}

/// All that verifying found.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What the file is.
    pub subject: Subject,
    /// Whether nothing failed. What was not covered is among the checks.
    pub holds: bool,
    /// The first fault, as a message.
    pub error: Option<String>,
    /// Whose evidence it says it is.
    pub kernel_id: String,
    /// Entries whose hashes were computed.
    pub entries: u64,
    /// The hash of the last of them, 64 zeros for a chain without any.
    pub root_hash: Option<String>,
    /// The number of the first entry, if the bundle continues another one.
    pub first_entry: Option<u64>,
    /// What that entry follows, as the bundle itself says: only the bundle before can prove it.
    pub follows: Option<String>,
    /// The records: the first and the last.
    pub records: Option<(u64, u64)>,
    /// The log in the signed checkpoint.
    pub origin: Option<String>,
    /// The leaves in the signed checkpoint.
    pub tree_size: Option<u64>,
    /// The root in the signed checkpoint, in hex.
    pub tree_root: Option<String>,
    /// The key that signed, as a vkey.
    pub signed_by: Option<String>,
    /// The checks, in the order in which they are made.
    pub checks: Vec<Check>,
    /// The first entries, or the records proved.
    pub rows: Vec<Row>,
}

impl Report {
    /// A report on which nothing stands yet.
    pub(crate) fn new(subject: Subject) -> Self {
        Self {
            subject,
            holds: true,
            error: None,
            kernel_id: String::new(),
            entries: 0,
            root_hash: None,
            first_entry: None,
            follows: None,
            records: None,
            origin: None,
            tree_size: None,
            tree_root: None,
            signed_by: None,
            checks: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn holds(&mut self, name: &'static str, detail: impl Into<String>) {
        self.checks.push(Check { name, outcome: Outcome::Holds, detail: detail.into() });
    }

    pub(crate) fn not_covered(&mut self, name: &'static str, detail: impl Into<String>) {
        self.checks.push(Check { name, outcome: Outcome::NotCovered, detail: detail.into() });
    }

    /// The check that found `why` failed, and those of `order` that were not made yet never are.
    pub(crate) fn fails(&mut self, why: &EvidenceError, order: &[&'static str]) {
        (self.holds, self.error) = (false, Some(why.to_string()));
        let mut made = std::mem::take(&mut self.checks);
        for name in order {
            let at = made.iter().position(|check| check.name == *name);
            let unmade =
                || Check { name, outcome: Outcome::NotReached, detail: "not examined: see the fault".to_owned() };
            self.checks.push(match at {
                _ if *name == why.check() => Check { name, outcome: Outcome::Fails, detail: why.to_string() },
                Some(at) => made.remove(at),
                None => unmade(),
            });
        }
    }

    /// The details of what was not covered.
    pub fn not_covered_details(&self) -> impl Iterator<Item = &str> {
        let open = self.checks.iter().filter(|check| check.outcome == Outcome::NotCovered);
        open.map(|check| check.detail.as_str())
    }
}

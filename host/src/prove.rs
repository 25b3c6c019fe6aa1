//! Proof files: some records, or an earlier checkpoint, each proved against the ledger's latest signed checkpoint.
//!
//! A file needs nothing beside it but the ledger's public key. Everything in it is read from one view of the ledger and
//! verified, as the auditor will, before it is given away.

use crate::index::{Facts, PageLimits, Query, scan};
use crate::kernel::Kernel;
use crate::tlog::log::{self, Signed};
use anyhow::{Context, anyhow};
use gavel_ledger::{RecordView, View};
use gavel_proof::consistency_file::ConsistencyFile;
use gavel_proof::note::Note;
use gavel_proof::proof_file::{PROOFS_MAX, ProofFile, Proved, TlogProof};
use gavel_proof::report::Report;
use gavel_proof::trust::ROTATIONS_MAX;
use gavel_proof::verify::Verifier;
use std::path::Path;

/// Records of one proof file.
pub const RECORDS_MAX: usize = if PROOFS_MAX < 1_000 { PROOFS_MAX } else { 1_000 };
/// Bytes of the records of one proof file.
const RECORDS_BYTES_MAX: usize = 16 << 20;

/// What is to be proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// All records of a request: its decision, and the outcome if a tool ran.
    Request(String),
    /// One record.
    Record(u64),
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// There is nothing of that name.
    #[error("{0}")]
    Absent(String),
    /// It cannot be proved so.
    #[error("{0}")]
    NotAccepted(String),
    /// The ledger or its index cannot be read.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl From<gavel_ledger::Error> for ProveError {
    fn from(why: gavel_ledger::Error) -> Self {
        Self::Failed(why.into())
    }
}

/// A ledger at one moment, with a signed checkpoint.
pub struct Prover {
    view: View,
    kernel_id: String,
    signed: Signed,
    rotations: Vec<Proved>,
}

impl Prover {
    /// Of a kernel that serves.
    ///
    /// # Errors
    /// When no checkpoint was signed, or the ledger cannot be read.
    pub fn of_kernel(kernel: &Kernel) -> Result<Self, ProveError> {
        let signed = log::checkpoint(kernel.ledger())?;
        let keys = Query { kind: Some(log::KEY.to_owned()), ..Query::default() };
        let keys = kernel.find_surely(&keys, PageLimits { records: ROTATIONS_MAX, bytes: usize::MAX })?;
        Self::new(kernel.ledger().view(), kernel.id().to_owned(), signed, keys.records)
    }

    /// Of a ledger's folder, which is verified.
    ///
    /// # Errors
    /// As for [`Prover::of_kernel`].
    pub fn of_folder(folder: &Path) -> Result<Self, ProveError> {
        let (kernel_id, signed, view) = log::open(folder)?;
        let mut keys = Vec::new();
        for record in view.records_between(0, view.records()) {
            let record = record?;
            if record.kind() == log::KEY {
                keys.push(record);
            }
        }
        Self::new(view, kernel_id, signed, keys)
    }

    fn new(
        view: View,
        kernel_id: String,
        signed: Option<Signed>,
        mut keys: Vec<RecordView>,
    ) -> Result<Self, ProveError> {
        let unsigned = "the ledger has no signed checkpoint, so nothing can be proved of it to others";
        let signed = signed.ok_or_else(|| ProveError::NotAccepted(unsigned.into()))?;
        keys.retain(|key| key.index() < signed.checkpoint.size);
        keys.sort_by_key(RecordView::index);
        // The first names the key that the log began with; each of the others replaced the one before.
        let rotations = keys.iter().skip(1).map(|record| rotation(&view, record)).collect::<Result<_, _>>()?;
        Ok(Self { view, kernel_id, signed, rotations })
    }

    /// The records that replaced the key, oldest first, each in a tree that the key before has signed.
    #[must_use]
    pub fn rotations(&self) -> &[Proved] {
        &self.rotations
    }

    /// The records of `subject` in a ledger's folder, oldest first.
    ///
    /// # Errors
    /// When there are none, or too many.
    pub fn records(&self, subject: &Subject) -> Result<Vec<RecordView>, ProveError> {
        match subject {
            Subject::Record(index) => Ok(vec![record(&self.view, *index)?]),
            Subject::Request(id) => {
                let all = self.view.records_between(0, self.signed.checkpoint.size);
                enough(id, scan(all, &Query::request(id), LIMITS)?)
            }
        }
    }

    /// The file that proves `subject`.
    ///
    /// # Errors
    /// When there is no such record, or a proof does not hold.
    pub fn file(&self, subject: &Subject) -> Result<ProofFile, ProveError> {
        let request_id = match subject {
            Subject::Request(id) => Some(id.clone()),
            Subject::Record(_) => None,
        };
        self.prove(self.records(subject)?, request_id)
    }

    /// The file that proves these records.
    ///
    /// # Errors
    /// When one is not in the tree of the checkpoint, or a proof does not hold.
    pub fn prove(&self, records: Vec<RecordView>, request_id: Option<String>) -> Result<ProofFile, ProveError> {
        let Signed { note, checkpoint, key } = &self.signed;
        let size = checkpoint.size;
        let proved = |record: RecordView| {
            let hashes = self.view.inclusion(record.index(), size)?;
            let proof = TlogProof { extra: None, index: record.index(), hashes, checkpoint: note.clone() };
            Ok(Proved { record, proof })
        };
        let proofs = records.into_iter().map(proved).collect::<Result<_, gavel_ledger::Error>>()?;
        let (kernel_id, key, rotations) = (self.kernel_id.clone(), Some(key.clone()), self.rotations.clone());
        let file = ProofFile { kernel_id, request_id, key, proofs, rotations };
        holds(verified(&file.to_json()))?;
        Ok(file)
    }

    /// The file that proves that the ledger begins with the tree of an earlier checkpoint, given its size or its note.
    ///
    /// # Errors
    /// When the earlier one is larger, or empty; with a note also when it is of another log or another history.
    pub fn consistency(&self, old: u64, note: Option<String>) -> Result<ConsistencyFile, ProveError> {
        let Signed { note: new, checkpoint, key } = &self.signed;
        let size = checkpoint.size;
        if old == 0 || old > size {
            return Err(ProveError::NotAccepted(format!(
                "the ledger has {size} records, a checkpoint of {old} is none of its beginnings: it is that of another ledger, or this one was put back to an older state"
            )));
        }
        let hashes = self.view.consistency(old, size)?;
        let (kernel_id, key, rotations) = (self.kernel_id.clone(), Some(key.clone()), self.rotations.clone());
        Ok(ConsistencyFile { kernel_id, key, old: note, new: new.clone(), hashes, rotations })
    }
}

const LIMITS: PageLimits = PageLimits { records: RECORDS_MAX, bytes: RECORDS_BYTES_MAX };

/// A record that replaced the key, in the tree that the key before it signed.
fn rotation(view: &View, record: &RecordView) -> Result<Proved, ProveError> {
    let index = record.index();
    let note = view.checkpoint_after(index)?.with_context(|| format!("record {index}: no checkpoint states it"))?;
    let size = Note::parse(&note).and_then(|note| note.checkpoint()).context("a checkpoint")?.size;
    let hashes = view.inclusion(index, size)?;
    Ok(Proved { record: record.clone(), proof: TlogProof { extra: None, index, hashes, checkpoint: note } })
}

fn record(view: &View, index: u64) -> Result<RecordView, ProveError> {
    let records = view.records();
    if index >= records {
        return Err(ProveError::Absent(format!("there is no record {index}: the ledger has {records}, from 0 on")));
    }
    Ok(view.record(index)?)
}

/// All records of a request, oldest first.
fn enough(id: &str, page: crate::index::Page) -> Result<Vec<RecordView>, ProveError> {
    let shown = id.escape_debug();
    if page.next.is_some() {
        return Err(ProveError::NotAccepted(format!(
            "request '{shown}' has more than {RECORDS_MAX} records, or {RECORDS_BYTES_MAX} bytes of them: prove single ones by their index, which `gavel find` tells"
        )));
    }
    let mut records = page.records;
    if records.is_empty() {
        return Err(ProveError::Absent(format!("there is no record of request '{shown}'")));
    }
    records.sort_by_key(RecordView::index);
    Ok(records)
}

impl Kernel {
    /// The file that proves `subject` to others.
    ///
    /// # Errors
    /// When there is no such record, or no signed checkpoint, or the ledger cannot be read.
    pub fn prove(&self, subject: &Subject) -> Result<ProofFile, ProveError> {
        // Found first, so that the checkpoint is of all that is found.
        let (records, request_id) = match subject {
            Subject::Record(_) => (None, None),
            Subject::Request(id) => {
                (Some(enough(id, self.find_surely(&Query::request(id), LIMITS)?)?), Some(id.clone()))
            }
        };
        let prover = Prover::of_kernel(self)?;
        let records = records.map_or_else(|| prover.records(subject), Ok)?;
        prover.prove(records, request_id)
    }

    /// The file, but for the earlier checkpoint's note, that proves what the ledger was when it had `old` records.
    ///
    /// # Errors
    /// As for [`Prover::consistency`].
    pub fn prove_consistency(&self, old: u64) -> Result<ConsistencyFile, ProveError> {
        Prover::of_kernel(self)?.consistency(old, None)
    }
}

/// What an auditor without a key finds in a file.
pub fn verified(text: &str) -> Report {
    let mut verifier = Verifier::new(None);
    verifier.push(text.as_bytes());
    verifier.finish()
}

fn holds(report: Report) -> Result<(), ProveError> {
    match report.error {
        None => Ok(()),
        Some(why) => Err(ProveError::Failed(anyhow!("the proof does not hold: {why}"))),
    }
}

/// The request that all of `records` are about, if there is one.
#[must_use]
pub fn request_of(records: &[RecordView]) -> Option<String> {
    let first = Facts::of(records.first()?).request_id?;
    records.iter().all(|record| Facts::of(record).request_id.as_deref() == Some(&first)).then_some(first)
}

//! Proofs for others, in the files that `gavel verify` and `docs/verify.html` read (`docs/formats/proof.md`).
//!
//! A file needs nothing beside it but the log's public key. It is verified, as the auditor will, before it is given away.

use super::log::Log;
use crate::fault::Fault;
use gavel_ledger::{Error, View};
use gavel_proof::consistency_file::ConsistencyFile;
use gavel_proof::note::{Checkpoint, Note, VerifyingKey};
use gavel_proof::proof_file::{ProofFile, Proved, TlogProof};
use gavel_proof::trust::ROTATIONS_MAX;
use gavel_proof::verify::Verifier;

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproved {
    /// It is not there, or cannot be read.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// It cannot be proved so.
    #[error("{0}")]
    NotAccepted(String),
    /// What was put together does not hold.
    #[error("the proof does not hold: {0}")]
    Wrong(String),
}

impl From<Unproved> for Fault {
    fn from(why: Unproved) -> Self {
        match why {
            Unproved::Ledger(why @ Error::NoSuchRecord { .. }) => Self::absent(why.to_string()),
            Unproved::NotAccepted(why) => Self::not_accepted(why),
            why => {
                tracing::error!(%why, "no proof can be made");
                Self::broken(why.to_string())
            }
        }
    }
}

/// The log at one moment, with its signed checkpoint.
struct Signed {
    view: View,
    note: String,
    checkpoint: Checkpoint,
    key: VerifyingKey,
}

impl Signed {
    fn of(log: &Log) -> Result<Self, Unproved> {
        let snapshot = log.snapshot();
        let (Some(note), Some(key)) = (snapshot.checkpoint, snapshot.key) else {
            return Err(Unproved::NotAccepted(
                "the log has no signed checkpoint, so nothing can be proved of it".into(),
            ));
        };
        let wrong = |why: gavel_proof::note::NoteError| Unproved::Wrong(why.to_string());
        let checkpoint = Note::parse(&note).and_then(|note| note.checkpoint()).map_err(wrong)?;
        let key = VerifyingKey::new(&checkpoint.origin, &key).map_err(wrong)?;
        // Taken after the checkpoint, so it holds all that this states.
        Ok(Self { view: log.ledger.view(), note: note.to_string(), checkpoint, key })
    }
}

/// The latest signed checkpoint, a C2SP note.
pub(super) fn checkpoint(log: &Log) -> Result<String, Unproved> {
    Signed::of(log).map(|signed| signed.note)
}

/// The public key that signs the checkpoints, a C2SP vkey.
pub(super) fn key(log: &Log) -> Result<String, Unproved> {
    Signed::of(log).map(|signed| signed.key.to_string())
}

/// The file that proves one record against the latest checkpoint.
pub(super) fn inclusion(log: &Log, index: u64) -> Result<String, Unproved> {
    let Signed { view, note, checkpoint, key } = Signed::of(log)?;
    let size = checkpoint.size;
    if index >= size {
        return Err(Error::NoSuchRecord { index, records: size }.into());
    }
    let record = view.record(index)?;
    let proof = TlogProof { extra: None, index, hashes: view.inclusion(index, size)?, checkpoint: note };
    let file = ProofFile {
        kernel_id: log.name.clone(),
        request_id: None,
        key: Some(key),
        proofs: vec![Proved { record, proof }],
        rotations: rotations(log, &view, size)?,
    };
    verified(file.to_json())
}

/// The file that proves that the first `to` records begin with the first `from`; `to` is the latest checkpoint's if absent.
/// Both must be sizes that a checkpoint states.
pub(super) fn consistency(log: &Log, from: u64, to: Option<u64>) -> Result<String, Unproved> {
    let Signed { view, note, checkpoint, key } = Signed::of(log)?;
    let size = checkpoint.size;
    let to = to.unwrap_or(size);
    if from == 0 || from > to || to > size {
        return Err(Unproved::NotAccepted(format!(
            "from {from} to {to}: they must be at least 1, in this order, and at most {size}, the records of the log: a larger checkpoint is of another log, or this one was put back to an older state"
        )));
    }
    let old = stating(&view, from)?;
    let new = if to == size { note } else { stating(&view, to)? };
    let hashes = view.consistency(from, to)?;
    let rotations = rotations(log, &view, size)?;
    let file = ConsistencyFile { kernel_id: log.name.clone(), key: Some(key), old: Some(old), new, hashes, rotations };
    verified(file.to_json())
}

/// The note of exactly `size` records.
fn stating(view: &View, size: u64) -> Result<String, Unproved> {
    let unstated = |next: &str| {
        Unproved::NotAccepted(format!(
            "no checkpoint states exactly {size} records{next}: ask for a size that an append or a checkpoint told"
        ))
    };
    let Some(note) = view.checkpoint_after(size - 1)? else { return Err(unstated("")) };
    let parsed = Note::parse(&note).and_then(|note| note.checkpoint());
    let stated = parsed.map_err(|why| Unproved::Wrong(why.to_string()))?.size;
    if stated == size { Ok(note) } else { Err(unstated(&format!(", the next one states {stated}"))) }
}

/// The records that replaced the key of the checkpoints, each in the first tree that states it.
fn rotations(log: &Log, view: &View, size: u64) -> Result<Vec<Proved>, Unproved> {
    // The first names the key that the log began with.
    let replaced = log.key_records().into_iter().skip(1).filter(|index| *index < size).take(ROTATIONS_MAX);
    let proved = |index: u64| {
        let missing = || Unproved::Wrong(format!("record {index}: no checkpoint states it"));
        let note = view.checkpoint_after(index)?.ok_or_else(missing)?;
        let stated = Note::parse(&note).and_then(|note| note.checkpoint());
        let stated = stated.map_err(|why| Unproved::Wrong(why.to_string()))?.size;
        let hashes = view.inclusion(index, stated)?;
        Ok(Proved { record: view.record(index)?, proof: TlogProof { extra: None, index, hashes, checkpoint: note } })
    };
    replaced.map(proved).collect()
}

fn verified(file: String) -> Result<String, Unproved> {
    let mut verifier = Verifier::new(None);
    verifier.push(file.as_bytes());
    match verifier.finish().error {
        None => Ok(file),
        Some(why) => Err(Unproved::Wrong(why)),
    }
}

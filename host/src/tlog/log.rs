//! How the ledger's tree and checkpoints are read: the only file beside `index::source` that knows how.

use anyhow::{Context, Result};
use gavel_ledger::{Ledger, View, read_dir};
use gavel_proof::note::{Checkpoint, Note, VerifyingKey};
use std::path::Path;

/// The kind of the records that name a key.
pub(crate) const KEY: &str = "key";

/// A signed checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    /// The note.
    pub(crate) note: String,
    /// What it says.
    pub(crate) checkpoint: Checkpoint,
    /// The key that signed it.
    pub(crate) key: VerifyingKey,
}

impl Signed {
    fn new(note: &str, key: &[u8; 32]) -> Result<Self> {
        let parsed = Note::parse(note).context("the ledger's checkpoint")?;
        let checkpoint = parsed.checkpoint().context("the ledger's checkpoint")?;
        let key = VerifyingKey::new(&checkpoint.origin, key).context("the ledger's key")?;
        Ok(Self { note: note.to_owned(), checkpoint, key })
    }
}

/// The latest signed checkpoint, if the ledger has a key.
pub(crate) fn checkpoint(ledger: &Ledger) -> Result<Option<Signed>> {
    let snapshot = ledger.snapshot();
    let (Some(note), Some(key)) = (&snapshot.checkpoint, &snapshot.key) else { return Ok(None) };
    Signed::new(note, key).map(Some)
}

/// A ledger's folder, verified: whose it is, its latest signed checkpoint, and what it holds.
pub(crate) fn open(folder: &Path) -> Result<(String, Option<Signed>, View)> {
    let (report, _) = read_dir(folder)?;
    let signed = match (&report.checkpoint, &report.key) {
        (Some(note), Some(key)) => Some(Signed::new(note, key)?),
        _ => None,
    };
    let (_, view) = View::open(folder)?;
    Ok((report.identity.kernel_id, signed, view))
}

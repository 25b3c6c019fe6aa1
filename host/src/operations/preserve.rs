//! Play 4.2, the preservation of evidence for an incident.
//!
//! One file, sealed (mode 0400), `DATA/preserved/ID_TS.json.zst`:
//!
//! ```text
//! {"incident_id": ID, "preserved_at": TIME, "kernel_id": K, "evidence": {…bundle…}, "integrity_hash": H}
//! ```
//!
//! H is the SHA-256 of every byte of that text before `, "integrity_hash"`. The SHA-256 of the file
//! itself stands beside it in `ID_TS.json.zst.sha256`, as `sha256sum -c` wants it, and in the ledger.

use super::event::Operator;
use super::file::{EvidenceFile, SEALED, write_evidence};
use super::{OperationError, Operations, Played};
use crate::clock::rfc3339;
use crate::evidence::{open_plain, write_bundle};
use crate::kernel::Kernel;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands before the hash in a preserved file.
const INTEGRITY: &[u8] = b", \"integrity_hash\": \"";
/// What follows it.
const END: &[u8] = b"\"}\n";
/// Bytes of the end of a preserved file, which the hash does not cover.
const TAIL_BYTES: usize = INTEGRITY.len() + 64 + END.len();
/// Characters of an incident's id.
const INCIDENT_CHARS_MAX: usize = 64;

/// Evidence that was preserved.
#[derive(Debug, Clone, Serialize)]
pub struct Preserved {
    /// For which incident.
    pub incident_id: String,
    /// The sealed file; its `sha256` is also in `FILE.sha256` beside it.
    #[serde(flatten)]
    pub file: EvidenceFile,
    /// The hash within the file, over everything before it.
    pub integrity_hash: String,
    /// The record of it in the ledger.
    pub event_index: u64,
}

/// Check that an incident's id can be part of a file's name.
///
/// # Errors
/// What it must be.
pub fn check_incident(id: &str) -> Played<()> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain && (1..=INCIDENT_CHARS_MAX).contains(&id.len()) && !id.starts_with(['.', '-']) {
        return Ok(());
    }
    let shown: String = id.chars().take(INCIDENT_CHARS_MAX).collect();
    Err(OperationError::Invalid(format!(
        "incident id `{}`: use 1 to {INCIDENT_CHARS_MAX} letters, digits, `.`, `_` or `-`, not starting with a dot or dash",
        shown.escape_debug()
    )))
}

impl Operations {
    /// Preserve everything that a kernel's ledger holds now, for an incident.
    ///
    /// # Errors
    /// When the id is none, or the file cannot be written, sealed and verified, or not be recorded.
    pub async fn preserve(&self, kernel: &Arc<Kernel>, incident: &str, operator: &Operator) -> Played<Preserved> {
        check_incident(incident)?;
        let now_ms = self.inner.clock.now_ms();
        let (folder, from, incident_id) = (self.inner.data.join("preserved"), Arc::clone(kernel), incident.to_owned());
        let sealed = self.read(move || seal(&folder, &from, &incident_id, now_ms)).await;
        let (file, integrity_hash) = sealed.context("the evidence was not preserved")?;
        let details = json!({
            "incident_id": incident,
            "filename": file.path,
            "sha256": file.sha256,
            "integrity_hash": integrity_hash,
            "entry_count": file.entry_count,
            "root_hash": file.root_hash,
        });
        let event_index = kernel.record_operator("EVIDENCE_PRESERVED", operator, details).await?;
        Ok(Preserved { incident_id: incident.to_owned(), file, integrity_hash, event_index })
    }
}

fn seal(folder: &Path, kernel: &Kernel, incident: &str, now_ms: u64) -> Result<(EvidenceFile, String)> {
    let snapshot = kernel.ledger().snapshot();
    let name = format!("{incident}_{now_ms}.json.zst");
    let mut integrity = String::new();
    let file = write_evidence(folder, &name, SEALED, |out| {
        let mut hashed = Hashed { out, sha256: Sha256::new() };
        let (id, at, whose) = (json!(incident), json!(rfc3339(now_ms)), json!(kernel.id()));
        write!(hashed, "{{\"incident_id\": {id}, \"preserved_at\": {at}, \"kernel_id\": {whose}, \"evidence\": ")?;
        write_bundle(kernel, &snapshot, &mut hashed)?;
        integrity = hex::encode(hashed.sha256.finalize());
        [INTEGRITY, integrity.as_bytes(), END].into_iter().try_for_each(|part| out.write_all(part))
    })?;
    ensure!(
        integrity_of(&file.path)? == integrity,
        "{}: the content read back has another integrity_hash than was written",
        file.path.display()
    );
    write_beside(&file)?;
    Ok((file, integrity))
}

/// The line that `sha256sum -c` checks, in a file that is sealed too.
fn write_beside(file: &EvidenceFile) -> Result<()> {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let beside = PathBuf::from(format!("{}.sha256", file.path.display()));
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(SEALED).open(&beside);
    let mut out = opened.with_context(|| beside.display().to_string())?;
    writeln!(out, "{}  {name}", file.sha256)?;
    Ok(out.sync_all()?)
}

/// The hash over the content of a preserved file, recomputed, if the file says the same.
fn integrity_of(path: &Path) -> Result<String> {
    let mut content = open_plain(path)?;
    let (mut sha256, mut held) = (Sha256::new(), Vec::new());
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = content.read(&mut piece)?;
        if read == 0 {
            break;
        }
        held.extend_from_slice(&piece[..read]);
        // The tail is told apart only at the end.
        let certain = held.len().saturating_sub(TAIL_BYTES);
        sha256.update(&held[..certain]);
        held.drain(..certain);
    }
    let found = hex::encode(sha256.finalize());
    let expected = [INTEGRITY, found.as_bytes(), END].concat();
    ensure!(held == expected, "{}: its content has integrity_hash {found}, it says otherwise", path.display());
    Ok(found)
}

struct Hashed<'a> {
    out: &'a mut dyn Write,
    sha256: Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_name() {
        for id in ["INC-2026-001", "a", "x.y_z-1"] {
            assert!(check_incident(id).is_ok(), "{id}");
        }
        let long = "x".repeat(65);
        for id in ["", "..", "../x", "a/b", ".hidden", "-rf", "a b", "ä", "a\0b", &long] {
            assert!(matches!(check_incident(id), Err(OperationError::Invalid(_))), "{id}");
        }
    }

    #[test]
    fn the_hash_covers_every_byte_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content = "{\"evidence\": 5";
        let hash = hex::encode(Sha256::digest(content));
        std::fs::write(&path, format!("{content}, \"integrity_hash\": \"{hash}\"}}\n")).unwrap();
        assert_eq!(integrity_of(&path).unwrap(), hash);
        std::fs::write(&path, format!("{}, \"integrity_hash\": \"{hash}\"}}\n", content.replace('5', "6"))).unwrap();
        assert!(integrity_of(&path).unwrap_err().to_string().contains("it says otherwise"));
        std::fs::write(&path, "short").unwrap();
        assert!(integrity_of(&path).is_err());
    }
}

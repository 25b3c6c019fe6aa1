//! Evidence in a file: written beside, synced, named when it is whole, read back and verified.
//!
//! Compressed by zstd. The digest is that of the file as it lies, so that `sha256sum` says the same.
//! A name that is taken is never written over.

use crate::evidence::verify_bundle_file;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How hard to compress: most of what can be had, at the speed of a disk.
const ZSTD_LEVEL: i32 = 3;

/// Who may read a file of evidence: whoever runs the host.
pub(super) const PRIVATE: u32 = 0o600;
/// The same, and nobody writes to it again.
pub(super) const SEALED: u32 = 0o400;

/// A file of evidence that was written, read back and verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EvidenceFile {
    /// Where it lies.
    pub path: PathBuf,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// Entries in the bundle.
    pub entry_count: u64,
    /// `entry_hash` of the last.
    pub root_hash: String,
}

/// Write what `write` writes into `folder` under `name`, and verify it.
pub(super) fn write_evidence(
    folder: &Path,
    name: &str,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<EvidenceFile> {
    let path = folder.join(name);
    let written = store(folder, &path, mode, write).with_context(|| format!("{} was not written", path.display()))?;
    let (sha256, bytes) = digest_of(&path)?;
    ensure!(
        sha256 == written,
        "{}: the file read back has SHA-256 {sha256}, written was {written}; the disk is not to be trusted",
        path.display()
    );
    let report = verify_bundle_file(&path).with_context(|| format!("{} does not hold", path.display()))?;
    let root_hash = report.root_hash.unwrap_or_default();
    Ok(EvidenceFile { path, sha256, bytes, entry_count: report.entries, root_hash })
}

/// The digest of what was written.
fn store(
    folder: &Path,
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<String> {
    make_private(folder)?;
    let aside = tempfile::NamedTempFile::new_in(folder)?;
    let hashing = Hashing { out: BufWriter::with_capacity(1 << 20, aside), sha256: Sha256::new() };
    let mut packed = zstd::Encoder::new(hashing, ZSTD_LEVEL)?;
    write(&mut packed)?;
    let Hashing { out, sha256 } = packed.finish()?;
    let aside = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    aside.as_file().set_permissions(Permissions::from_mode(mode))?;
    aside.as_file().sync_all()?;
    aside.persist_noclobber(path)?;
    File::open(folder)?.sync_all()?;
    Ok(hex::encode(sha256.finalize()))
}

/// A folder that only whoever runs the host can look into.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// SHA-256 of a file in hex, and its length.
pub(super) fn digest_of(path: &Path) -> Result<(String, u64)> {
    let mut sha256 = Sha256::new();
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let bytes = io::copy(&mut file, &mut HashOnly(&mut sha256)).with_context(|| path.display().to_string())?;
    Ok((hex::encode(sha256.finalize()), bytes))
}

struct Hashing<W> {
    out: W,
    sha256: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct HashOnly<'a>(&'a mut Sha256);

impl Write for HashOnly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = r#"{"ledger_entries":[],"root_hash":"0000000000000000000000000000000000000000000000000000000000000000","kernel_id":"k","entry_count":0}"#;

    #[test]
    fn a_file_is_private_verified_and_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("incident");
        let write =
            |text: &'static str| write_evidence(&inner, "a.json.zst", SEALED, |out| out.write_all(text.as_bytes()));
        let file = write(EMPTY).unwrap();
        assert_eq!(file.entry_count, 0);
        assert_eq!(std::fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(std::fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(digest_of(&file.path).unwrap(), (file.sha256.clone(), file.bytes));
        let why = format!("{:#}", write(EMPTY).unwrap_err());
        assert!(why.contains("a.json.zst was not written"), "{why}");
        assert_eq!(digest_of(&file.path).unwrap().0, file.sha256);
    }

    #[test]
    fn what_does_not_verify_is_said_to_be_bad() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = EMPTY.replace("\"entry_count\":0", "\"entry_count\":1");
        let why = write_evidence(folder.path(), "b", PRIVATE, |out| out.write_all(wrong.as_bytes())).unwrap_err();
        assert!(format!("{why:#}").contains("does not hold: entry_count is 1"), "{why:#}");
    }
}

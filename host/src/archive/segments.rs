//! Bringing one sealed segment into the archive.

use super::manifest::{Manifest, folder, manifest_name, object_name, tail_name, tail_numbers};
use super::store::digest_file;
use super::{Archive, ArchiveError, Stored};
use gavel_ledger::{SegmentReport, compressed_file};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;

/// The note beside a segment on this disk that the archive holds it: the manifest as it is there.
#[must_use]
pub fn archived_file(segment: u32) -> String {
    format!("segment-{segment:06}.archived")
}

impl Archive {
    /// Put a compressed segment of the ledger in `dir`, which was verified and came to `report`, into the archive with
    /// its manifest, and note beside it that it is there.
    ///
    /// An upload that broke off between the two objects is taken up, also if this program's zstd compresses otherwise
    /// than the one before: what counts are the bytes of the segment.
    ///
    /// # Errors
    /// [`ArchiveError::Conflict`] if the archive has another segment in its place.
    pub async fn put_segment(&self, dir: &Path, report: &SegmentReport) -> Result<(Manifest, bool), ArchiveError> {
        let folder = folder(&report.identity.kernel_id, &hex::encode(report.ledger_id));
        let name = object_name(&folder, report.segment);
        let path = dir.join(compressed_file(report.segment));
        let stored = match self.put_file(&name, &path).await {
            Err(conflict @ ArchiveError::Conflict { .. }) => self.adopt(&name, report).await?.ok_or(conflict)?,
            stored => stored?,
        };
        let manifest = Manifest::new(report, true, stored.url, stored.bytes, stored.sha256);
        let name = manifest_name(&folder, report.segment);
        let existed = self.put_bytes(&name, manifest.to_bytes()?).await?.existed;
        note(dir, &manifest)?;
        Ok((manifest, existed))
    }

    /// Put a copy of what is committed of a ledger's newest segment, verified and packed in the file `packed`, into the
    /// archive. Copies of fewer records of this segment, and of those before it, are of no use then and go; one that
    /// cannot be removed stays.
    ///
    /// # Errors
    /// As for [`Archive::put_file`].
    pub async fn put_tail(&self, packed: &Path, report: &SegmentReport) -> Result<(Manifest, bool), ArchiveError> {
        let folder = folder(&report.identity.kernel_id, &hex::encode(report.ledger_id));
        let size = report.first_index + report.records;
        let manifest = tail_name(&folder, report.segment, size, "json");
        if self.size(&manifest).await?.is_some() {
            return Ok((Manifest::read(&self.url_of(&manifest), &self.get_bytes(&manifest).await?)?, true));
        }
        let object = tail_name(&folder, report.segment, size, "log.zst");
        let stored = match self.put_file(&object, packed).await {
            Err(conflict @ ArchiveError::Conflict { .. }) => self.adopt(&object, report).await?.ok_or(conflict)?,
            stored => stored?,
        };
        let described = Manifest::new(report, false, stored.url, stored.bytes, stored.sha256);
        self.put_bytes(&manifest, described.to_bytes()?).await?;
        for name in self.list(&folder).await? {
            let older = tail_numbers(&name).filter(|(_, older)| *older < size);
            if let Some((segment, older)) = older {
                // The manifest first: an object without one is nothing.
                for name in [name, tail_name(&folder, segment, older, "log.zst")] {
                    if let Err(why) = self.remove(&name).await {
                        tracing::warn!(%why, "an older copy of the newest segment stays in the archive");
                    }
                }
            }
        }
        Ok((described, false))
    }

    /// The manifest that is noted beside a segment, if the archive still holds what it says; that is only looked up.
    ///
    /// # Errors
    /// What the store or the disk said.
    pub async fn noted(&self, dir: &Path, segment: u32) -> Result<Option<Manifest>, ArchiveError> {
        let path = dir.join(archived_file(segment));
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(ArchiveError::io("read", &path)(why)),
        };
        // A note that cannot be read is none: the segment is archived again, which changes nothing there.
        let Ok(manifest) = Manifest::read(&path.display().to_string(), &bytes) else { return Ok(None) };
        let name = manifest.object();
        let here = manifest.url == self.url_of(&name) && self.size(&name).await? == Some(manifest.object_bytes);
        Ok(here.then_some(manifest))
    }

    /// Read an archived segment back and hold it against what is noted of it.
    ///
    /// # Errors
    /// [`ArchiveError::Altered`] or [`ArchiveError::Absent`].
    pub async fn check_segment(&self, manifest: &Manifest) -> Result<(), ArchiveError> {
        let found = self.fetch(&manifest.object(), &mut std::io::sink()).await?;
        if found.sha256 == manifest.object_sha256 {
            return Ok(());
        }
        let what = format!("it has sha256 {}, its manifest says {}", found.sha256, manifest.object_sha256);
        Err(ArchiveError::Altered { url: found.url, what })
    }

    /// The object that is there under another digest, if it holds the same segment.
    async fn adopt(&self, name: &str, report: &SegmentReport) -> Result<Option<Stored>, ArchiveError> {
        let scratch =
            tempfile::NamedTempFile::new().map_err(ArchiveError::io("create a file in", &std::env::temp_dir()))?;
        let there = self.fetch(name, &mut scratch.as_file()).await?;
        let path = scratch.path().to_owned();
        let digest = tokio::task::spawn_blocking(move || digest_unpacked(&path)).await;
        let same = matches!(digest, Ok(Ok(digest)) if digest == report.sha256);
        Ok(same.then_some(there))
    }
}

/// SHA-256 of what a compressed file holds.
fn digest_unpacked(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut digest = Digesting(Sha256::new());
    zstd::stream::copy_decode(std::fs::File::open(path)?, &mut digest)?;
    Ok(digest.0.finalize().into())
}

struct Digesting(Sha256);

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Written beside and renamed when whole.
fn note(dir: &Path, manifest: &Manifest) -> Result<(), ArchiveError> {
    let path = dir.join(archived_file(manifest.segment));
    let written = || -> std::io::Result<()> {
        let mut beside = tempfile::NamedTempFile::new_in(dir)?;
        beside.write_all(&manifest.to_bytes().map_err(std::io::Error::other)?)?;
        beside.as_file().sync_all()?;
        beside.persist(&path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    written().map_err(ArchiveError::io("write", &path))
}

/// Check a file that was fetched against its manifest's digest of the object.
pub(super) async fn check_object(path: &Path, manifest: &Manifest) -> Result<(), ArchiveError> {
    let (sha256, bytes) = digest_file(path).await?;
    if (&sha256, bytes) == (&manifest.object_sha256, manifest.object_bytes) {
        return Ok(());
    }
    let what = format!(
        "it has {bytes} bytes with sha256 {sha256}, its manifest says {} bytes with {}",
        manifest.object_bytes, manifest.object_sha256
    );
    Err(ArchiveError::Altered { url: manifest.url.clone(), what })
}

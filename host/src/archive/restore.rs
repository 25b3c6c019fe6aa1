//! Back from the archive: a whole ledger into a new folder, or single segments into the one they left.
//!
//! Nothing is overwritten. A whole ledger is built beside its place and gets its name when every segment was verified;
//! a single one is put back only if its bytes are those that left.

use super::manifest::Manifest;
use super::walk::{ArchivedLedger, Walk, fetch, manifests};
use super::{Archive, archived_file};
use anyhow::{Context, Result, bail, ensure};
use gavel_ledger::{compressed_file, remote_file, segment_file};
use gavel_proof::note::VerifyingKey;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Which ledger, and who must have signed it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The kernel.
    pub kernel_id: &'a str,
    /// One of its ledgers; needed only if there are several.
    pub ledger_id: Option<&'a str>,
    /// The key that must have signed the last checkpoint.
    pub key: Option<&'a VerifyingKey>,
}

/// Rebuild a ledger from the archive in the new folder `into`: every sealed segment and the copy of what came after,
/// each verified; `seen` is called after each with how many are done and how many there are.
///
/// What was recorded after the last run of archiving is not there: a kernel that goes on from it tells another story
/// than those who keep later checkpoints know, and they will say so. Blobs are not in an archive either.
///
/// # Errors
/// The first segment that is missing or not as it should be; then `into` is not made. Also if it exists.
pub async fn restore_ledger(
    archive: &Archive,
    wanted: Wanted<'_>,
    into: &Path,
    mut seen: impl FnMut(u32, u32),
) -> Result<ArchivedLedger> {
    refuse_occupied(into)?;
    let manifests = manifests(archive, wanted.kernel_id, wanted.ledger_id).await?;
    let parent = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(|| parent.display().to_string())?;
    let beside = tempfile::Builder::new().prefix(".restoring-").tempdir_in(parent);
    let beside = beside.with_context(|| format!("a folder in {}", parent.display()))?;
    let (mut walk, count) = (Walk::default(), u32::try_from(manifests.len())?);
    for (done, manifest) in (1..).zip(&manifests) {
        let path = beside.path().join(compressed_file(manifest.segment));
        walk.step(archive, manifest, &path).await?;
        if manifest.sealed {
            keep_note(beside.path(), manifest)?;
        }
        if done == count {
            // The newest segment is the one that is appended to, or begun after.
            unpack(&path, &beside.path().join(segment_file(manifest.segment)))?;
        }
        seen(done, count);
    }
    let restored = walk.finish(&manifests, wanted.key)?;
    File::open(beside.path())?.sync_all()?;
    // Whoever made it meanwhile keeps it: a folder is not renamed over one that holds something.
    fs::rename(beside.path(), into).with_context(|| into.display().to_string())?;
    File::open(parent)?.sync_all()?;
    Ok(restored)
}

/// Put single segments back into the ledger's folder `dir`, which they left for the archive. Their bytes must be
/// those that left, whatever the archive says now. A server may be using the folder.
///
/// # Errors
/// The first segment that cannot be put back; those before it are.
pub async fn restore_segments(archive: &Archive, dir: &Path, segments: &[u32]) -> Result<Vec<Manifest>> {
    let mut restored = Vec::new();
    for &segment in segments {
        let manifest = restore_segment(archive, dir, segment).await.with_context(|| format!("segment {segment}"))?;
        restored.push(manifest);
    }
    Ok(restored)
}

async fn restore_segment(archive: &Archive, dir: &Path, segment: u32) -> Result<Manifest> {
    for file in [segment_file(segment), compressed_file(segment)] {
        ensure!(!dir.join(&file).exists(), "{file} is in {} already: nothing was overwritten", dir.display());
    }
    let left = dir.join(remote_file(segment));
    if !left.exists() {
        bail!("{} does not exist: the segment never left this folder", left.display());
    }
    let bytes = fs::read(&left).with_context(|| left.display().to_string())?;
    let manifest = Manifest::read(&left.display().to_string(), &bytes)?;
    let scratch = tempfile::Builder::new().prefix(".restoring-").tempdir_in(dir);
    let scratch = scratch.with_context(|| format!("a folder in {}", dir.display()))?;
    let path = scratch.path().join("segment");
    fetch(archive, &manifest, &path).await?;
    fs::rename(&path, dir.join(compressed_file(segment)))?;
    fs::rename(&left, dir.join(archived_file(segment)))?;
    File::open(dir)?.sync_all()?;
    Ok(manifest)
}

fn refuse_occupied(into: &Path) -> Result<()> {
    match fs::read_dir(into) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why).with_context(|| into.display().to_string()),
        Ok(mut entries) => {
            ensure!(
                entries.next().is_none(),
                "{} is not empty: nothing is overwritten, give a new folder",
                into.display()
            );
            Ok(())
        }
    }
}

fn keep_note(dir: &Path, manifest: &Manifest) -> Result<()> {
    let path = dir.join(archived_file(manifest.segment));
    fs::write(&path, manifest.to_bytes()?).with_context(|| path.display().to_string())
}

fn unpack(packed: &Path, plain: &Path) -> Result<()> {
    let mut out = File::create_new(plain).with_context(|| plain.display().to_string())?;
    zstd::stream::copy_decode(File::open(packed)?, &mut out).with_context(|| packed.display().to_string())?;
    out.sync_all()?;
    fs::remove_file(packed)?;
    Ok(())
}

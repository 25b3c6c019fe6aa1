//! A ledger in the archive, from its first segment to its last: each fetched, read and held against its manifest and
//! the one before.

use super::manifest::{Manifest, folder, manifest_name, manifest_number, tail_name, tail_numbers};
use super::segments::check_object;
use super::{Archive, ArchiveError};
use anyhow::{Context, Result, bail, ensure};
use gavel_ledger::SegmentReport;
use gavel_proof::note::{Note, VerifyingKey};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// What an archived ledger came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchivedLedger {
    /// Whose it is.
    pub kernel_id: String,
    /// Which of the kernel's ledgers.
    pub ledger_id: String,
    /// Sealed segments, all of them there.
    pub segments: usize,
    /// There is also a copy of what came after them.
    pub tail: bool,
    /// Records in them.
    pub records: u64,
    /// Entries of the KERNELS chain among them.
    pub entries: u64,
    /// Root of the tree over them, in hex.
    pub root: String,
    /// The last entry's hash.
    pub chain_head: String,
    /// The signed checkpoint at their end.
    pub checkpoint: Option<String>,
    /// The key that was given has signed it.
    pub signed: bool,
}

/// Verify a whole ledger where it lies in an archive, one segment at a time on this disk; `seen` is called after each
/// with how many are done and how many there are.
///
/// # Errors
/// The first segment that is missing or not as it should be, by its number and URL.
pub async fn verify_remote(
    archive: &Archive,
    kernel_id: &str,
    ledger_id: Option<&str>,
    key: Option<&VerifyingKey>,
    mut seen: impl FnMut(u32, u32),
) -> Result<ArchivedLedger> {
    let manifests = manifests(archive, kernel_id, ledger_id).await?;
    let scratch = tempfile::tempdir().context("no room for a segment in the folder of temporary files")?;
    let mut walk = Walk::default();
    let count = u32::try_from(manifests.len())?;
    for (done, manifest) in (1..).zip(&manifests) {
        let path = scratch.path().join("segment");
        walk.step(archive, manifest, &path).await?;
        std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        seen(done, count);
    }
    walk.finish(&manifests, key)
}

/// The manifests of a ledger, complete from segment 0 on.
pub(super) async fn manifests(archive: &Archive, kernel_id: &str, ledger_id: Option<&str>) -> Result<Vec<Manifest>> {
    let ledger_id = match ledger_id {
        Some(ledger_id) => ledger_id.to_owned(),
        None => only_ledger(archive, kernel_id).await?,
    };
    let folder = folder(kernel_id, &ledger_id);
    let names = archive.list(&folder).await?;
    let numbers: BTreeSet<u32> = names.iter().filter_map(|name| manifest_number(name)).collect();
    // The copy of the newest segment that has the most records.
    let tail = names.iter().filter_map(|name| tail_numbers(name)).max_by_key(|(_, size)| *size);
    let sealed = numbers.last().map(|last| last + 1);
    let tail = tail.filter(|(segment, _)| sealed.is_none_or(|sealed| *segment >= sealed));
    let Some(last) = tail.map(|(segment, _)| segment).or(numbers.last().copied()) else {
        bail!("{} holds no archived segment", archive.url_of(&folder));
    };
    let missing: Vec<String> =
        (0..last).filter(|number| !numbers.contains(number)).take(20).map(|number| number.to_string()).collect();
    ensure!(
        missing.is_empty(),
        "{}: the manifest of segment {} is missing, though segment {last} is there: nothing was changed",
        archive.url_of(&folder),
        missing.join(", ")
    );
    let mut described: Vec<(u32, String)> =
        numbers.into_iter().map(|number| (number, manifest_name(&folder, number))).collect();
    described.extend(tail.map(|(segment, size)| (segment, tail_name(&folder, segment, size, "json"))));
    let mut manifests = Vec::with_capacity(described.len());
    for (number, name) in described {
        let manifest = Manifest::read(&archive.url_of(&name), &archive.get_bytes(&name).await?)?;
        let right = (manifest.kernel_id.as_str(), manifest.ledger_id.as_str(), manifest.segment);
        ensure!(
            right == (kernel_id, ledger_id.as_str(), number),
            "{}: it is the manifest of segment {} of ledger {} of kernel {}: it was moved here",
            archive.url_of(&name),
            manifest.segment,
            manifest.ledger_id,
            manifest.kernel_id
        );
        ensure!(
            names.binary_search(&manifest.object()).is_ok(),
            "segment {number} is missing: {} is not in the archive, though its manifest is",
            archive.url_of(&manifest.object())
        );
        manifests.push(manifest);
    }
    Ok(manifests)
}

/// The kernel's ledger, if the archive holds one of it.
async fn only_ledger(archive: &Archive, kernel_id: &str) -> Result<String> {
    let names = archive.list(kernel_id).await?;
    let ledgers: BTreeSet<&str> = names
        .iter()
        .filter(|name| manifest_number(name).is_some() || tail_numbers(name).is_some())
        .filter_map(|name| name.split('/').nth(1))
        .collect();
    let ledgers: Vec<&str> = ledgers.into_iter().collect();
    match ledgers[..] {
        [only] => Ok(only.to_owned()),
        [] => bail!("{} holds nothing of kernel '{kernel_id}'", archive.url()),
        _ => bail!(
            "{} holds {} ledgers of kernel '{kernel_id}': choose one of {}",
            archive.url(),
            ledgers.len(),
            ledgers.join(", ")
        ),
    }
}

/// Where a walk through the segments stands.
#[derive(Debug, Default)]
pub(super) struct Walk {
    before: Option<SegmentReport>,
}

impl Walk {
    /// Fetch a segment into `path`, verify it, and hold it against its manifest and the segment before.
    pub(super) async fn step(&mut self, archive: &Archive, manifest: &Manifest, path: &Path) -> Result<()> {
        let number = manifest.segment;
        let report = fetch(archive, manifest, path).await.with_context(|| format!("segment {number}"))?;
        if let Some(before) = &self.before {
            ensure!(
                (report.first_index, report.root_before, &report.chain_head_before)
                    == (before.first_index + before.records, before.root, &before.chain_head),
                "segment {number}: {}: it follows {} records with root {}, but the segment before ends after {} with root {}: they are of two histories",
                manifest.url,
                report.first_index,
                hex::encode(report.root_before),
                before.first_index + before.records,
                hex::encode(before.root)
            );
        }
        self.before = Some(report);
        Ok(())
    }

    /// What all of it came to; with a key: whether that has signed the last checkpoint.
    pub(super) fn finish(self, manifests: &[Manifest], key: Option<&VerifyingKey>) -> Result<ArchivedLedger> {
        let last = self.before.context("there is no segment")?;
        if let Some(key) = key {
            let checkpoint = last.checkpoint.as_deref().context("the last segment holds no signed checkpoint")?;
            Note::parse(checkpoint)
                .and_then(|note| note.verify(key))
                .with_context(|| format!("segment {}: its last checkpoint", last.segment))?;
        }
        Ok(ArchivedLedger {
            kernel_id: last.identity.kernel_id.clone(),
            ledger_id: hex::encode(last.ledger_id),
            segments: manifests.iter().filter(|manifest| manifest.sealed).count(),
            tail: manifests.last().is_some_and(|manifest| !manifest.sealed),
            records: last.first_index + last.records,
            entries: last.entries,
            root: hex::encode(last.root),
            chain_head: last.chain_head,
            checkpoint: last.checkpoint,
            signed: key.is_some(),
        })
    }
}

/// Fetch the segment that a manifest describes, durably, and verify it.
pub(super) async fn fetch(archive: &Archive, manifest: &Manifest, path: &Path) -> Result<SegmentReport> {
    let name = manifest.object();
    let mut file = File::create_new(path).with_context(|| path.display().to_string())?;
    archive.fetch(&name, &mut file).await?;
    file.sync_all().with_context(|| path.display().to_string())?;
    check_object(path, manifest).await?;
    let (path, number) = (path.to_owned(), manifest.segment);
    let read = tokio::task::spawn_blocking(move || gavel_ledger::verify_segment(&path, number)).await?;
    let report = read.with_context(|| archive.url_of(&name))?;
    match manifest.differs_from(&report) {
        None => Ok(report),
        Some(what) => Err(ArchiveError::Altered { url: archive.url_of(&name), what }.into()),
    }
}

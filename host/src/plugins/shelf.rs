//! What a host keeps of plugins, by the digest of their code.
//!
//! ```text
//! DATA/bus/plugins/components/HEX.wasm   the components in service, as they were admitted
//! DATA/bus/plugins/metadata/HEX.json     what components said of themselves
//! ```
//!
//! The metadata are why listing plugins, and starting with known ones, compiles nothing. The components are why a plugin
//! in service goes on when its file in the folder is replaced by a broken one. A file is whole or absent, and what is
//! read is checked against its name; what cannot be read is as if it were not there.

use crate::host::user_cache;
use crate::policies::catalogue::write_whole;
use crate::policies::package::{Package, digest_of};
use anyhow::{Context, Result, ensure};
use gavel_runtime::plugin::Described;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What components said of themselves, of so many at most; the oldest are forgotten.
const METADATA_MAX: usize = 4_096;

/// The contract that a component was asked under: one of another version is asked again.
const CONTRACT: &str = "gavel:plugin@0.1.0";

/// A folder of what is known.
#[derive(Debug, Clone)]
pub struct Shelf {
    metadata: Option<PathBuf>,
    components: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Noted {
    contract: String,
    gavel: String,
    digest: String,
    described: Described,
}

impl Shelf {
    /// In this folder, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        let [metadata, components] = ["metadata", "components"].map(|folder| root.join(folder));
        for folder in [&metadata, &components] {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(Self { metadata: Some(metadata), components: Some(components) })
    }

    /// The metadata only, in this user's cache: components are read from where they lie. Without a home directory every
    /// component is asked again.
    #[must_use]
    pub fn of_user() -> Self {
        let metadata = user_cache().map(|cache| cache.join("plugins"));
        let made = metadata.filter(|folder| std::fs::create_dir_all(folder).is_ok());
        Self { metadata: made, components: None }
    }

    /// What the component of this digest said of itself, if it was asked before.
    #[must_use]
    pub fn described(&self, digest: &str) -> Option<Described> {
        let text = std::fs::read(path(self.metadata.as_deref(), digest, "json")?).ok()?;
        let noted: Noted = serde_json::from_slice(&text).ok()?;
        let known = noted.contract == CONTRACT && noted.gavel == env!("CARGO_PKG_VERSION") && noted.digest == digest;
        known.then_some(noted.described)
    }

    /// Keep what a component said. Where that fails it is asked again after the next start.
    pub fn note(&self, digest: &str, described: &Described) {
        let Some(path) = path(self.metadata.as_deref(), digest, "json") else { return };
        let noted = Noted {
            contract: CONTRACT.to_owned(),
            gavel: env!("CARGO_PKG_VERSION").to_owned(),
            digest: digest.to_owned(),
            described: described.clone(),
        };
        let written = serde_json::to_vec(&noted).map_err(std::io::Error::from);
        if let Err(why) = written.and_then(|text| write_whole(&path, &text)) {
            tracing::warn!(file = %path.display(), %why, "what a plugin said of itself cannot be kept");
        }
    }

    /// Keep a component that comes into service.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, digest: &str, component: &[u8]) -> Result<()> {
        let Some(path) = path(self.components.as_deref(), digest, "wasm") else { return Ok(()) };
        // One that was damaged is written anew.
        if std::fs::read(&path).is_ok_and(|kept| digest_of(&kept) == digest) {
            return Ok(());
        }
        write_whole(&path, component).with_context(|| path.display().to_string())
    }

    /// The component of this digest; `place` is where it was found, for a host that keeps nothing.
    ///
    /// # Errors
    /// When it is not there, or is not what its digest says.
    pub fn component(&self, digest: &str, place: &Path) -> Result<Vec<u8>> {
        let path = path(self.components.as_deref(), digest, "wasm").unwrap_or_else(|| place.to_owned());
        let mut bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        if self.components.is_none() {
            // Where it lies its signatures are part of the file.
            bytes = Package::read(&bytes).with_context(|| path.display().to_string())?.component;
        }
        let found = digest_of(&bytes);
        ensure!(found == digest, "{} is {found}, not {digest}: it was changed", path.display());
        Ok(bytes)
    }

    /// Forget all components but those in service and those that wait to be, and the oldest metadata where there are too many.
    pub fn tidy(&self, needed: &BTreeSet<String>) {
        for (path, hex) in self.components.iter().flat_map(|folder| files(folder)) {
            if !needed.contains(&format!("sha256:{hex}")) {
                remove(&path);
            }
        }
        let mut notes: Vec<_> = self.metadata.iter().flat_map(|folder| files(folder)).collect();
        if notes.len() > METADATA_MAX {
            notes.sort_by_key(|(path, _)| std::fs::metadata(path).and_then(|found| found.modified()).ok());
            notes[..notes.len() - METADATA_MAX].iter().for_each(|(path, _)| remove(path));
        }
    }
}

/// Where a digest's file lies. What is no digest has none.
fn path(folder: Option<&Path>, digest: &str, ending: &str) -> Option<PathBuf> {
    let hex = digest.strip_prefix("sha256:")?;
    let plain = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    Some(folder.filter(|_| plain)?.join(format!("{hex}.{ending}")))
}

fn files(folder: &Path) -> impl Iterator<Item = (PathBuf, String)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let path = entry.path();
        let stem = path.file_stem()?.to_str()?.to_owned();
        Some((path, stem))
    })
}

fn remove(path: &Path) {
    if let Err(why) = std::fs::remove_file(path) {
        tracing::warn!(file = %path.display(), %why, "what is no longer needed cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_component_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path()).unwrap();
        let digest = digest_of(b"code");
        let file = path(shelf.components.as_deref(), &digest, "wasm").unwrap();
        let nowhere = Path::new("nowhere");
        shelf.keep(&digest, b"code").unwrap();
        std::fs::write(&file, "cod").unwrap();
        assert!(shelf.component(&digest, nowhere).unwrap_err().to_string().contains("it was changed"));
        shelf.keep(&digest, b"code").unwrap();
        assert_eq!(shelf.component(&digest, nowhere).unwrap(), b"code");
        shelf.tidy(&[digest.clone()].into());
        assert!(file.exists());
        shelf.tidy(&BTreeSet::new());
        assert!(!file.exists());
    }
}

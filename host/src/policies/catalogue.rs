//! The catalogue: every policy component and every policy set that ever judged, by its digest.
//!
//! ```text
//! DATA/policies/components/HEX.wasm   a package as it came, signatures included
//! DATA/policies/sets/HEX.json         a policy set (`document`)
//! DATA/policies/laws/HEX.json         a jurisdiction (`statute`)
//! DATA/policies/tested/HEX            components whose shipped tests passed here
//! ```
//!
//! What always holds: a file is whole or absent (written aside, synced, renamed), and what is read
//! is checked against its name. Nothing is ever removed, and nothing changes but that signatures
//! are added: a ledger's digests lead here, and a recorded decision is judged again with what lies
//! here.
//!
//! Offline batches keep the same in memory.

use super::document::SetDocument;
use super::package::{Package, digest_of};
use super::statute;
use anyhow::{Context, Result, bail, ensure};
use gavel_kernel::Jurisdiction;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where components and sets are kept.
#[derive(Debug)]
pub struct Catalogue {
    store: Store,
}

#[derive(Debug)]
enum Store {
    Folder {
        root: PathBuf,
        /// Bytes of all components.
        used: AtomicU64,
        max_bytes: u64,
    },
    Memory(Mutex<BTreeMap<(Kind, String), Vec<u8>>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Component,
    Set,
    Law,
    Tested,
}

impl Kind {
    /// Subfolder, and what comes behind the digest in a file's name.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Component => ("components", ".wasm"),
            Self::Set => ("sets", ".json"),
            Self::Law => ("laws", ".json"),
            Self::Tested => ("tested", ""),
        }
    }
}

impl Catalogue {
    /// The catalogue in `root`, made if it is not there. Its components may have `max_bytes` bytes.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(root: &Path, max_bytes: u64) -> Result<Self> {
        let mut used = 0;
        for kind in [Kind::Component, Kind::Set, Kind::Law, Kind::Tested] {
            let folder = root.join(kind.place().0);
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            if kind == Kind::Component {
                for file in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                    used += file.and_then(|file| file.metadata()).map_or(0, |found| found.len());
                }
            }
        }
        Ok(Self { store: Store::Folder { root: root.to_owned(), used: AtomicU64::new(used), max_bytes } })
    }

    /// The catalogue in `root`, only to be read.
    #[must_use]
    pub fn read_only(root: &Path) -> Self {
        Self { store: Store::Folder { root: root.to_owned(), used: AtomicU64::new(0), max_bytes: 0 } }
    }

    /// One that ends with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { store: Store::Memory(Mutex::default()) }
    }

    /// Keep a component.
    ///
    /// # Errors
    /// When the catalogue is full or cannot be written.
    pub fn put(&self, package: &Package) -> Result<()> {
        if self.contains(&package.digest) {
            return self.add_signatures(package);
        }
        let bytes = package.to_bytes();
        if let Store::Folder { used, max_bytes, .. } = &self.store {
            let size = bytes.len() as u64;
            let before = used.fetch_add(size, Ordering::SeqCst);
            if before.saturating_add(size) > *max_bytes {
                used.fetch_sub(size, Ordering::SeqCst);
                bail!(
                    "the catalogue of policies holds {before} bytes and {size} more would pass its limit of {max_bytes} (limits.max_catalogue_bytes)"
                );
            }
        }
        self.write(Kind::Component, &package.digest, &bytes)
    }

    /// The same component may come again with more signatures.
    fn add_signatures(&self, package: &Package) -> Result<()> {
        let mut known = self.component(&package.digest)?;
        let before = known.signatures.len();
        for signature in &package.signatures {
            if !known.signatures.contains(signature) {
                known.add_signature(signature.clone())?;
            }
        }
        if known.signatures.len() == before {
            return Ok(());
        }
        self.write(Kind::Component, &package.digest, &known.to_bytes())
    }

    /// Whether the component is here.
    #[must_use]
    pub fn contains(&self, digest: &str) -> bool {
        self.has(Kind::Component, digest)
    }

    /// The component with this digest.
    ///
    /// # Errors
    /// When it is not here, or is not what its name says.
    pub fn component(&self, digest: &str) -> Result<Package> {
        let bytes = self.read(Kind::Component, digest)?;
        let package = Package::read(&bytes).with_context(|| format!("component {digest} in the catalogue"))?;
        ensure!(package.digest == digest, "component {digest} in the catalogue is {}: it was changed", package.digest);
        Ok(package)
    }

    /// Keep a set, and give its digest.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn put_set(&self, set: &SetDocument) -> Result<String> {
        let text = set.to_json();
        let digest = digest_of(text.as_bytes());
        if !self.has(Kind::Set, &digest) {
            self.write(Kind::Set, &digest, text.as_bytes())?;
        }
        Ok(digest)
    }

    /// The set with this digest.
    ///
    /// # Errors
    /// When it is not here, or is not what its name says.
    pub fn set(&self, digest: &str) -> Result<SetDocument> {
        let bytes = self.read(Kind::Set, digest)?;
        let found = digest_of(&bytes);
        ensure!(found == digest, "policy set {digest} in the catalogue is {found}: it was changed");
        let text = String::from_utf8(bytes).with_context(|| format!("policy set {digest}"))?;
        SetDocument::from_json(&text).with_context(|| format!("policy set {digest}"))
    }

    /// Keep a jurisdiction, and give its digest.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn put_jurisdiction(&self, jurisdiction: &Jurisdiction) -> Result<String> {
        let text = statute::to_json(jurisdiction);
        let digest = digest_of(text.as_bytes());
        if !self.has(Kind::Law, &digest) {
            self.write(Kind::Law, &digest, text.as_bytes())?;
        }
        Ok(digest)
    }

    /// The jurisdiction with this digest.
    ///
    /// # Errors
    /// When it is not here, or is not what its name says.
    pub fn jurisdiction(&self, digest: &str) -> Result<Jurisdiction> {
        let bytes = self.read(Kind::Law, digest)?;
        let found = digest_of(&bytes);
        ensure!(found == digest, "jurisdiction {digest} in the catalogue is {found}: it was changed");
        let text = String::from_utf8(bytes).with_context(|| format!("jurisdiction {digest}"))?;
        statute::from_json(&text).with_context(|| format!("jurisdiction {digest}"))
    }

    /// Note that the shipped tests of a component passed under `circumstances`: the version of
    /// Gavel and the limits.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn note_tested(&self, digest: &str, circumstances: &str) -> Result<()> {
        self.write(Kind::Tested, digest, circumstances.as_bytes())
    }

    /// Whether [`Catalogue::note_tested`] said so.
    #[must_use]
    pub fn is_tested(&self, digest: &str, circumstances: &str) -> bool {
        self.read(Kind::Tested, digest).is_ok_and(|noted| noted == circumstances.as_bytes())
    }

    fn has(&self, kind: Kind, digest: &str) -> bool {
        match &self.store {
            Store::Folder { root, .. } => path(root, kind, digest).is_ok_and(|path| path.is_file()),
            Store::Memory(kept) => locked(kept).contains_key(&(kind, digest.to_owned())),
        }
    }

    fn read(&self, kind: Kind, digest: &str) -> Result<Vec<u8>> {
        let what = match kind {
            Kind::Set => "policy set",
            Kind::Law => "jurisdiction",
            Kind::Component | Kind::Tested => "policy component",
        };
        match &self.store {
            Store::Folder { root, .. } => {
                let path = path(root, kind, digest)?;
                std::fs::read(&path)
                    .with_context(|| format!("{what} {digest} is not in the catalogue: {}", path.display()))
            }
            Store::Memory(kept) => locked(kept)
                .get(&(kind, digest.to_owned()))
                .cloned()
                .with_context(|| format!("{what} {digest} is not in the catalogue")),
        }
    }

    fn write(&self, kind: Kind, digest: &str, bytes: &[u8]) -> Result<()> {
        match &self.store {
            Store::Folder { root, .. } => {
                let path = path(root, kind, digest)?;
                write_whole(&path, bytes).with_context(|| path.display().to_string())
            }
            Store::Memory(kept) => {
                locked(kept).insert((kind, digest.to_owned()), bytes.to_owned());
                Ok(())
            }
        }
    }
}

type Kept = BTreeMap<(Kind, String), Vec<u8>>;

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a digest's file lies. Digests come from callers too: what is none is no path.
fn path(root: &Path, kind: Kind, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    let plain = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    ensure!(plain, "`{digest}` is no digest: it is written sha256: and 64 hex digits");
    let (folder, suffix) = kind.place();
    Ok(root.join(folder).join(format!("{hex}{suffix}")))
}

/// Why a file was not written, and what lies in its place.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// What lay there before.
    Untouched(std::io::Error),
    /// The new file, but it is not sure to be there after a power failure.
    Unsynced(std::io::Error),
}

impl From<Unwritten> for std::io::Error {
    fn from(why: Unwritten) -> Self {
        let (Unwritten::Untouched(why) | Unwritten::Unsynced(why)) = why;
        why
    }
}

/// Write a file that is whole or absent, and on disk when this returns.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    Ok(replace_whole(path, bytes)?)
}

/// [`write_whole`] for whoever must know what lies there when it fails.
pub(crate) fn replace_whole(path: &Path, bytes: &[u8]) -> Result<(), Unwritten> {
    // The parent of a bare name is empty, which is no folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let renamed = || -> std::io::Result<()> {
        let mut aside = tempfile::NamedTempFile::new_in(folder)?;
        aside.write_all(bytes)?;
        aside.as_file().sync_all()?;
        aside.persist(path).map(drop).map_err(|why| why.error)
    };
    renamed().map_err(Unwritten::Untouched)?;
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(Unwritten::Unsynced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::builtin;

    fn package() -> Package {
        Package::read(builtin::find("business-hours").unwrap()).unwrap()
    }

    #[test]
    fn what_is_put_is_found_by_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        for catalogue in [Catalogue::open(folder.path(), 1 << 20).unwrap(), Catalogue::in_memory()] {
            let package = package();
            assert!(!catalogue.contains(&package.digest));
            catalogue.put(&package).unwrap();
            catalogue.put(&package).unwrap();
            assert_eq!(catalogue.component(&package.digest).unwrap().to_bytes(), package.to_bytes());
            let set = SetDocument::default();
            assert_eq!(catalogue.set(&catalogue.put_set(&set).unwrap()).unwrap(), set);
            assert!(!catalogue.is_tested(&package.digest, "1"));
            catalogue.note_tested(&package.digest, "1").unwrap();
            assert!(catalogue.is_tested(&package.digest, "1") && !catalogue.is_tested(&package.digest, "2"));
        }
        assert!(Catalogue::open(folder.path(), 1 << 20).unwrap().contains(&package().digest));
    }

    #[test]
    fn what_was_changed_on_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(folder.path(), 1 << 20).unwrap();
        let package = package();
        catalogue.put(&package).unwrap();
        let path = path(folder.path(), Kind::Component, &package.digest).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(format!("{:#}", catalogue.component(&package.digest).unwrap_err()).contains("catalogue"));
        let set = catalogue.put_set(&SetDocument::default()).unwrap();
        let hex = set.strip_prefix("sha256:").unwrap();
        std::fs::write(folder.path().join("sets").join(format!("{hex}.json")), "{}").unwrap();
        assert!(catalogue.set(&set).unwrap_err().to_string().contains("it was changed"));
    }

    #[test]
    fn it_is_bounded_and_no_digest_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let full = Catalogue::open(folder.path(), 10).unwrap().put(&package()).unwrap_err().to_string();
        assert!(full.contains("limits.max_catalogue_bytes"), "{full}");
        let catalogue = Catalogue::open(folder.path(), 10).unwrap();
        for digest in ["sha256:../../etc/passwd", "", "sha256:", &"0".repeat(64)] {
            assert!(catalogue.component(digest).unwrap_err().to_string().contains("is no digest"), "{digest}");
        }
    }
}

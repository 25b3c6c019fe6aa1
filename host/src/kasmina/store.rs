//! Where layers lie in the data folder: `kasmina/layers/ID/definition.json` says what a layer is, `boundary` beside it is
//! the layer as it was after its last epoch boundary; `kasmina/blueprints.json` is the library, `kasmina/rollout.json` the
//! rollout.
//!
//! What always holds: a file is whole or absent, and on disk before anybody hears that it was written. A folder with a
//! definition and no boundary is a layer that never ended an epoch. A folder takes its layer's name when the layer is on
//! record; until then it is `.new-ID`, which no start takes for a layer.

use crate::policies::catalogue::{Unwritten, replace_whole, write_whole};
use gavel_kernel::json::sha256_hex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const DEFINITION: &str = "definition.json";
const BOUNDARY: &str = "boundary";
/// What begins the name of a folder that is being removed.
const REMOVED: &str = ".removed-";
/// What begins the name of a folder whose layer is not yet on record.
const NEW: &str = ".new-";

/// The folder of all layers; a host without a data folder has none, and its layers end with it.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: Option<PathBuf>,
}

/// The folder of one layer.
#[derive(Debug, Clone)]
pub(super) struct LayerFolder {
    path: Option<PathBuf>,
}

/// Why a boundary was not kept, and what lies on the disk.
#[derive(Debug)]
pub(super) enum Unkept {
    /// What lay there, or the layer as it was before; then with its digest.
    AsBefore { why: io::Error, written: Option<String> },
    /// The one or the other.
    Unknown(io::Error),
}

impl Store {
    /// The store below a data folder; what a removal left half done is gone.
    pub(super) fn open(data: Option<&Path>) -> io::Result<Self> {
        let store = Self { root: data.map(|data| data.join("kasmina")) };
        if let Some(layers) = store.layers() {
            fs::create_dir_all(&layers)?;
            for name in names(&layers)?.iter().filter(|name| name.starts_with(REMOVED)) {
                fs::remove_dir_all(layers.join(name))?;
            }
        }
        Ok(store)
    }

    fn layers(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join("layers"))
    }

    /// The ids of all layers that lie here, in order.
    pub(super) fn ids(&self) -> io::Result<Vec<String>> {
        let Some(layers) = self.layers() else { return Ok(Vec::new()) };
        let mut ids = names(&layers)?;
        ids.retain(|name| !name.starts_with('.') && layers.join(name).join(DEFINITION).is_file());
        ids.sort();
        Ok(ids)
    }

    /// The ids of layers whose making was not finished.
    pub(super) fn unfinished(&self) -> io::Result<Vec<String>> {
        let Some(layers) = self.layers() else { return Ok(Vec::new()) };
        Ok(names(&layers)?.iter().filter_map(|name| name.strip_prefix(NEW)).map(str::to_owned).collect())
    }

    pub(super) fn layer(&self, id: &str) -> LayerFolder {
        LayerFolder { path: self.layers().map(|layers| layers.join(id)) }
    }

    /// The library as it was kept.
    pub(super) fn library<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let Some(root) = &self.root else { return Ok(None) };
        read_json(&root.join("blueprints.json"))
    }

    pub(super) fn keep_library(&self, library: &impl Serialize) -> io::Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        write_whole(&root.join("blueprints.json"), &serde_json::to_vec_pretty(library)?)
    }

    /// The rollout as it was kept.
    pub(super) fn rollout<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let Some(root) = &self.root else { return Ok(None) };
        read_json(&root.join("rollout.json"))
    }

    pub(super) fn keep_rollout(&self, rollout: &impl Serialize) -> io::Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        write_whole(&root.join("rollout.json"), &serde_json::to_vec_pretty(rollout)?)
    }
}

impl LayerFolder {
    /// Another folder beside this one, and the folder of both.
    fn beside(&self, prefix: &str) -> Option<(&Path, PathBuf, &Path)> {
        let path = self.path.as_ref()?;
        let (layers, name) = (path.parent()?, path.file_name()?);
        Some((path, layers.join(format!("{prefix}{}", name.to_string_lossy())), layers))
    }

    /// Make the folder, with what the layer is, under a name that is not yet the layer's.
    pub(super) fn create(&self, definition: &impl Serialize) -> io::Result<()> {
        let Some((_, new, layers)) = self.beside(NEW) else { return Ok(()) };
        fs::create_dir_all(&new)?;
        write_whole(&new.join(DEFINITION), &serde_json::to_vec_pretty(definition)?)?;
        fs::File::open(layers)?.sync_all()
    }

    /// Give the folder its name: the layer is on record.
    pub(super) fn confirm(&self) -> io::Result<()> {
        let Some((path, new, layers)) = self.beside(NEW) else { return Ok(()) };
        fs::rename(new, path)?;
        fs::File::open(layers)?.sync_all()
    }

    /// Remove what [`Self::create`] made, where it was not confirmed.
    pub(super) fn discard(&self) -> io::Result<()> {
        let Some((_, new, layers)) = self.beside(NEW) else { return Ok(()) };
        found(fs::remove_dir_all(new))?;
        fs::File::open(layers)?.sync_all()
    }

    pub(super) fn definition<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        self.path.as_ref().map_or(Ok(None), |path| read_json(&path.join(DEFINITION)))
    }

    /// Keep the layer as it is after a boundary; its digest. Where that fails, it is on disk as it was `before`, if that
    /// is at all possible.
    pub(super) fn keep(&self, layer: &[u8], before: &[u8]) -> Result<String, Unkept> {
        match &self.path {
            Some(path) => keep_with(layer, before, |bytes| replace_whole(&path.join(BOUNDARY), bytes)),
            None => Ok(sha256_hex(layer)),
        }
    }

    /// The layer after its last boundary.
    pub(super) fn boundary(&self) -> io::Result<Option<Vec<u8>>> {
        self.path.as_ref().map_or(Ok(None), |path| found(fs::read(path.join(BOUNDARY))))
    }

    /// Remove all of it: by a new name first, so that half of it is never taken for a layer.
    pub(super) fn remove(&self) -> io::Result<()> {
        let Some((path, aside, layers)) = self.beside(REMOVED) else { return Ok(()) };
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        if found(fs::rename(path, &aside))?.is_none() {
            return Ok(());
        }
        fs::File::open(layers)?.sync_all()?;
        fs::remove_dir_all(aside)
    }
}

fn keep_with(
    layer: &[u8],
    before: &[u8],
    mut write: impl FnMut(&[u8]) -> Result<(), Unwritten>,
) -> Result<String, Unkept> {
    match write(layer) {
        Ok(()) => Ok(sha256_hex(layer)),
        Err(Unwritten::Untouched(why)) => Err(Unkept::AsBefore { why, written: None }),
        Err(Unwritten::Unsynced(why)) => match write(before) {
            Ok(()) => Err(Unkept::AsBefore { why, written: Some(sha256_hex(before)) }),
            Err(_) => Err(Unkept::Unknown(why)),
        },
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = found(fs::read(path))? else { return Ok(None) };
    let read = serde_json::from_slice::<serde_json::Value>(&bytes).and_then(serde_json::from_value);
    read.map(Some).map_err(|why| io::Error::other(format!("{}: {why}", path.display())))
}

/// What is there, if it is.
fn found<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_kept_and_found_and_removed() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(Some(data.path())).unwrap();
        let folder = store.layer("a");
        folder.create(&"what it is").unwrap();
        assert_eq!(store.ids().unwrap(), Vec::<String>::new(), "it is not on record yet");
        assert_eq!(store.unfinished().unwrap(), ["a"]);
        folder.discard().unwrap();
        assert_eq!(store.unfinished().unwrap(), Vec::<String>::new());
        folder.create(&"what it is").unwrap();
        folder.confirm().unwrap();
        assert_eq!(store.unfinished().unwrap(), Vec::<String>::new());
        assert_eq!(folder.boundary().unwrap(), None, "it never ended an epoch");
        let digest = folder.keep(b"one", b"").unwrap();
        assert_eq!(digest, sha256_hex(b"one"));
        folder.keep(b"two", b"one").unwrap();
        let again = Store::open(Some(data.path())).unwrap();
        assert_eq!(again.ids().unwrap(), ["a"]);
        assert_eq!(again.layer("a").definition::<String>().unwrap().as_deref(), Some("what it is"));
        assert_eq!(again.layer("a").boundary().unwrap().as_deref(), Some(b"two".as_slice()));
        again.layer("a").remove().unwrap();
        again.layer("a").remove().unwrap();
        assert_eq!(again.ids().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn where_a_boundary_is_not_kept_the_one_before_lies_there_or_nobody_knows() {
        let no = || io::Error::other("no");
        let mut asked = Vec::new();
        let mut kept = |answers: [Result<(), Unwritten>; 2]| {
            let mut answers = answers.into_iter();
            asked.clear();
            let kept = keep_with(b"new", b"old", |bytes| {
                asked.push(bytes.to_owned());
                answers.next().unwrap()
            });
            (kept, asked.clone())
        };
        let (full, asked) = kept([Err(Unwritten::Untouched(no())), Ok(())]);
        assert!(matches!(full, Err(Unkept::AsBefore { written: None, .. })), "{full:?}");
        assert_eq!(asked, [b"new"], "what lies there is not touched");
        let (undone, asked) = kept([Err(Unwritten::Unsynced(no())), Ok(())]);
        assert!(matches!(undone, Err(Unkept::AsBefore { written: Some(_), .. })), "{undone:?}");
        assert_eq!(asked, [b"new", b"old"]);
        for second in [Unwritten::Untouched(no()), Unwritten::Unsynced(no())] {
            let (unknown, _) = kept([Err(Unwritten::Unsynced(no())), Err(second)]);
            assert!(matches!(unknown, Err(Unkept::Unknown(_))), "{unknown:?}");
        }
    }

    #[test]
    fn what_a_removal_left_is_gone_at_the_next_start() {
        let data = tempfile::tempdir().unwrap();
        let left = data.path().join("kasmina/layers/.removed-a");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join(DEFINITION), "{}").unwrap();
        assert_eq!(Store::open(Some(data.path())).unwrap().ids().unwrap(), Vec::<String>::new());
        assert!(!left.exists());
    }
}

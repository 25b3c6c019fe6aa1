//! Where evidence goes for the long term, once it was rotated out.
//!
//! One narrow door, so that a folder and an object store look alike to who rotates: a file that is
//! whole, and the name that it is to have there.

use crate::archive::Archive;
use crate::config::ArchiveFile;
use anyhow::{Context, Result};
use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

/// What [`ArchiveTarget::put`] returns: where the file lies, as a path or a URL.
pub type Put<'a> = Pin<Box<dyn Future<Output = Result<String>> + Send + 'a>>;

/// A place for archived evidence.
pub trait ArchiveTarget: Debug + Send + Sync {
    /// Put `file`, which is whole and synced, there under `name` (`/` separates folders). Done only
    /// when it is durable there. Nothing of that name is ever overwritten by something else.
    fn put<'a>(&'a self, file: &'a Path, name: &'a str) -> Put<'a>;
}

/// A folder of this machine, or one that is mounted.
#[derive(Debug, Clone)]
pub struct LocalFolder {
    root: PathBuf,
}

impl LocalFolder {
    /// The folder `root`, made when the first file comes.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

/// The archive that the configuration names, below `evidence/`. It is opened for each file: evidence is rotated once in a
/// while, and credentials may change meanwhile.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    file: ArchiveFile,
}

impl ObjectStore {
    /// The archive of this configuration.
    #[must_use]
    pub fn new(file: ArchiveFile) -> Self {
        Self { file }
    }
}

impl ArchiveTarget for ObjectStore {
    fn put<'a>(&'a self, file: &'a Path, name: &'a str) -> Put<'a> {
        Box::pin(async move {
            let archive = Archive::open(&self.file)?;
            Ok(archive.put(&format!("evidence/{name}"), file).await?)
        })
    }
}

impl ArchiveTarget for LocalFolder {
    fn put<'a>(&'a self, file: &'a Path, name: &'a str) -> Put<'a> {
        let (from, to) = (file.to_owned(), self.root.join(name));
        Box::pin(async move {
            let place = to.display().to_string();
            tokio::task::spawn_blocking(move || copy(&from, &to)).await?.with_context(|| place.clone())?;
            Ok(place)
        })
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    if to.exists() && from.canonicalize()? == to.canonicalize()? {
        return Ok(());
    }
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    std::io::copy(&mut std::fs::File::open(from)?, &mut aside)?;
    aside.as_file().sync_all()?;
    aside.persist_noclobber(to)?;
    Ok(std::fs::File::open(folder)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_put_once_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "evidence").unwrap();
        let target = LocalFolder::new(folder.path().join("archive"));
        let place = target.put(&file, "k/a").await.unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"evidence");
        assert!(target.put(&file, "k/a").await.is_err(), "there is one of that name");
        // What lies there already is there.
        assert_eq!(target.put(Path::new(&place), "k/a").await.unwrap(), place);
    }
}

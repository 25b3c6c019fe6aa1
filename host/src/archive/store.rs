//! Putting objects into an archive and getting them back, each digested on both ways.

use super::{ArchiveError, connect};
use crate::config::ArchiveFile;
use axum::body::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// Objects below one name that are listed at most: segments of 65,536 records, so some 65 thousand million of them.
const LISTED_MAX: usize = 1 << 20;
/// Parts of an upload that are on their way at the same time.
const PARTS_IN_FLIGHT: usize = 4;
/// Bytes of an object that is read into memory: a manifest.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// An open archive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    /// Where in the store it begins.
    root: ObjectPath,
    url: String,
    part_bytes: usize,
    zstd_level: i32,
}

/// An object that was read back, or found to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Where it is.
    pub url: String,
    /// Its bytes.
    pub bytes: u64,
    /// Their SHA-256 in hex.
    pub sha256: String,
    /// It was there before, with the same bytes.
    pub existed: bool,
}

impl Archive {
    /// Ready the archive that `file` names. No store is asked anything yet; a local folder is made.
    ///
    /// # Errors
    /// [`ArchiveError::Url`] or [`ArchiveError::Option`], or the folder cannot be made.
    pub fn open(file: &ArchiveFile) -> Result<Self, ArchiveError> {
        let (store, root) = connect::connect(file)?;
        let url = file.url.trim_end_matches('/').to_owned();
        Ok(Self { store, root, url, part_bytes: file.limits.part_bytes, zstd_level: file.limits.zstd_level })
    }

    /// The archive at a URL, with the environment's credentials and the default limits.
    ///
    /// # Errors
    /// As for [`Archive::open`].
    pub fn at(url: &str, options: impl IntoIterator<Item = (String, String)>) -> Result<Self, ArchiveError> {
        let options = options.into_iter().collect();
        Self::open(&ArchiveFile { url: url.to_owned(), options, limits: crate::config::ArchiveLimits::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How hard segments are compressed.
    #[must_use]
    pub fn zstd_level(&self) -> i32 {
        self.zstd_level
    }

    /// The URL of an object.
    #[must_use]
    pub fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Put a file into the archive under `name` and read it back. An object that is there already with the same bytes
    /// counts as put.
    ///
    /// # Errors
    /// [`ArchiveError::Conflict`] if it is there with others; else what the store or the disk said.
    pub async fn put_file(&self, name: &str, path: &Path) -> Result<Stored, ArchiveError> {
        let (sha256, bytes) = digest_file(path).await?;
        if let Some(there) = self.found(name, &sha256).await? {
            return Ok(there);
        }
        if bytes < self.part_bytes as u64 {
            let whole = tokio::fs::read(path).await.map_err(ArchiveError::io("read", path))?;
            self.create(name, whole.into()).await?;
        } else {
            self.upload(name, path).await?;
        }
        self.read_back(name, &sha256).await
    }

    /// Put a file under `name` and tell its URL: what a rotation of evidence needs.
    ///
    /// # Errors
    /// As for [`Archive::put_file`].
    pub async fn put(&self, name: &str, path: &Path) -> Result<String, ArchiveError> {
        self.put_file(name, path).await.map(|stored| stored.url)
    }

    /// Put a small object, as [`Archive::put_file`] puts a file.
    ///
    /// # Errors
    /// As for [`Archive::put_file`].
    pub async fn put_bytes(&self, name: &str, bytes: Vec<u8>) -> Result<Stored, ArchiveError> {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        if let Some(there) = self.found(name, &sha256).await? {
            return Ok(there);
        }
        self.create(name, bytes.into()).await?;
        self.read_back(name, &sha256).await
    }

    /// A small object.
    ///
    /// # Errors
    /// [`ArchiveError::Absent`], [`ArchiveError::Altered`] if it is not small, or what the store said.
    pub async fn get_bytes(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.size(name).await?.ok_or_else(|| ArchiveError::Absent { url: self.url_of(name) })?;
        if bytes > SMALL_BYTES_MAX {
            let what = format!("it has {bytes} bytes, at most {SMALL_BYTES_MAX} make sense here");
            return Err(ArchiveError::Altered { url: self.url_of(name), what });
        }
        let mut all = Vec::new();
        self.fetch(name, &mut all).await?;
        Ok(all)
    }

    /// Write an object to `out` as it comes, and tell what came.
    ///
    /// # Errors
    /// [`ArchiveError::Absent`], or what the store or `out` said.
    pub async fn fetch(&self, name: &str, out: &mut (impl Write + Send)) -> Result<Stored, ArchiveError> {
        let url = self.url_of(name);
        let bytes = self.size(name).await?.ok_or_else(|| ArchiveError::Absent { url: url.clone() })?;
        let mut digest = Sha256::new();
        let mut at = 0;
        // Part by part, each a request with a time limit and retries of its own.
        while at < bytes {
            let end = bytes.min(at + self.part_bytes as u64);
            let read = self.store.get_range(&self.path(name)?, at..end).await;
            let part = read.map_err(|source| ArchiveError::Store { action: "read", url: url.clone(), source })?;
            if part.len() as u64 != end - at {
                let what = format!("{} bytes came where bytes {at} to {end} were asked for", part.len());
                return Err(ArchiveError::Altered { url, what });
            }
            digest.update(&part);
            out.write_all(&part).map_err(ArchiveError::io("write what was read of", Path::new(&url)))?;
            at = end;
        }
        Ok(Stored { url, bytes, sha256: hex::encode(digest.finalize()), existed: true })
    }

    /// The names of all objects below `folder`, sorted, each from the archive's beginning.
    ///
    /// # Errors
    /// What the store said, or if there are too many.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let url = self.url_of(folder);
        let failed = |source| ArchiveError::Store { action: "list", url: url.clone(), source };
        let path = self.path(folder)?;
        let mut found = self.store.list(Some(&path));
        let mut names = Vec::new();
        while let Some(object) = found.try_next().await.map_err(failed)? {
            if names.len() == LISTED_MAX {
                let what = format!("it holds more than {LISTED_MAX} objects");
                return Err(ArchiveError::Altered { url: url.clone(), what });
            }
            let parts = object.location.prefix_match(&self.root);
            names.extend(parts.map(|parts| parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Bytes of an object; `None` if it is not there.
    ///
    /// # Errors
    /// What the store said.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, ArchiveError> {
        match self.store.head(&self.path(name)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(ArchiveError::Store { action: "look for", url: self.url_of(name), source }),
        }
    }

    /// Remove an object that is of no use any more.
    pub(super) async fn remove(&self, name: &str) -> Result<(), ArchiveError> {
        let removed = self.store.delete(&self.path(name)?).await;
        removed.map_err(|source| ArchiveError::Store { action: "remove", url: self.url_of(name), source })
    }

    /// The object under this name, if it is there and has this digest.
    async fn found(&self, name: &str, sha256: &str) -> Result<Option<Stored>, ArchiveError> {
        if self.size(name).await?.is_none() {
            return Ok(None);
        }
        let there = self.fetch(name, &mut std::io::sink()).await?;
        if there.sha256 == sha256 { Ok(Some(there)) } else { Err(conflict(there, sha256)) }
    }

    /// Write an object in one request, if nobody else did since we looked.
    async fn create(&self, name: &str, bytes: Bytes) -> Result<(), ArchiveError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(name)?, bytes.into(), options).await {
            // Somebody else did; reading it back tells whether it is the same.
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(source) => Err(ArchiveError::Store { action: "write", url: self.url_of(name), source }),
        }
    }

    /// Write an object in parts; nobody sees it before all of them are there.
    async fn upload(&self, name: &str, path: &Path) -> Result<(), ArchiveError> {
        let url = self.url_of(name);
        let failed = |source| ArchiveError::Store { action: "write", url: url.clone(), source };
        let upload = self.store.put_multipart(&self.path(name)?).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, self.part_bytes);
        match self.send(&mut upload, path).await {
            Ok(()) => upload.finish().await.map(drop).map_err(failed),
            Err(why) => {
                // The parts that were sent are of no use; a store that cannot be told drops them by its own rules.
                let _ = upload.abort().await;
                Err(match why {
                    Sending::Store(source) => failed(source),
                    Sending::Io(source) => ArchiveError::Io { action: "read", path: path.to_owned(), source },
                })
            }
        }
    }

    async fn send(&self, upload: &mut WriteMultipart, path: &Path) -> Result<(), Sending> {
        let mut file = File::open(path).await.map_err(Sending::Io)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut piece).await.map_err(Sending::Io)?;
            if count == 0 {
                return Ok(());
            }
            upload.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(Sending::Store)?;
            upload.write(&piece[..count]);
        }
    }

    async fn read_back(&self, name: &str, sha256: &str) -> Result<Stored, ArchiveError> {
        let there = self.fetch(name, &mut std::io::sink()).await?;
        if there.sha256 == sha256 { Ok(Stored { existed: false, ..there }) } else { Err(conflict(there, sha256)) }
    }

    fn path(&self, name: &str) -> Result<ObjectPath, ArchiveError> {
        let refused =
            |why: object_store::path::Error| ArchiveError::Url { url: self.url_of(name), why: why.to_string() };
        let name = ObjectPath::parse(name).map_err(refused)?;
        Ok(self.root.parts().chain(name.parts()).collect())
    }
}

enum Sending {
    Store(object_store::Error),
    Io(std::io::Error),
}

fn conflict(there: Stored, ours: &str) -> ArchiveError {
    ArchiveError::Conflict { url: there.url, ours: ours.to_owned(), theirs: there.sha256 }
}

/// SHA-256 of a file in hex, and its length.
pub(super) async fn digest_file(path: &Path) -> Result<(String, u64), ArchiveError> {
    let failed = || ArchiveError::io("read", path);
    let mut file = File::open(path).await.map_err(failed())?;
    let (mut digest, mut piece, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let count = file.read(&mut piece).await.map_err(failed())?;
        if count == 0 {
            return Ok((hex::encode(digest.finalize()), bytes));
        }
        digest.update(&piece[..count]);
        bytes += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> (tempfile::TempDir, Archive) {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::at(&format!("file://{}/deep/archive", folder.path().display()), []).unwrap();
        (folder, archive)
    }

    #[tokio::test]
    async fn what_is_put_comes_back_and_is_listed() {
        let (folder, archive) = archive();
        let file = folder.path().join("file");
        std::fs::write(&file, vec![7; 100_000]).unwrap();
        let first = archive.put_file("k/l/a.zst", &file).await.unwrap();
        assert!(!first.existed && first.bytes == 100_000 && first.url.ends_with("/deep/archive/k/l/a.zst"));
        let again = archive.put_file("k/l/a.zst", &file).await.unwrap();
        assert!(again.existed && again.sha256 == first.sha256);
        archive.put_bytes("k/l/a.json", b"{}".to_vec()).await.unwrap();
        assert_eq!(archive.list("k/l").await.unwrap(), ["k/l/a.json", "k/l/a.zst"]);
        assert_eq!(archive.list("elsewhere").await.unwrap(), [""; 0]);
        assert_eq!(archive.get_bytes("k/l/a.json").await.unwrap(), b"{}");
        let told = archive.get_bytes("k/l/b.json").await.unwrap_err().to_string();
        assert!(told.ends_with("k/l/b.json is not in the archive"), "{told}");
    }

    #[tokio::test]
    async fn other_bytes_under_a_name_are_a_conflict_that_names_both() {
        let (folder, archive) = archive();
        let kept = archive.put_bytes("k/a", b"first".to_vec()).await.unwrap();
        let told = archive.put_bytes("k/a", b"second".to_vec()).await.unwrap_err().to_string();
        let second = hex::encode(Sha256::digest(b"second"));
        assert!(told.contains(&kept.sha256) && told.contains(&second) && told.contains("nothing was overwritten"));
        assert_eq!(std::fs::read(folder.path().join("deep/archive/k/a")).unwrap(), b"first");
    }

    #[tokio::test]
    async fn a_large_file_goes_in_parts() {
        let (folder, mut archive) = archive();
        archive.part_bytes = 5 << 20;
        let file = folder.path().join("file");
        let bytes: Vec<u8> = (0..12 << 20).map(|at: u32| (at % 251) as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        archive.put_file("large", &file).await.unwrap();
        let mut back = Vec::new();
        archive.fetch("large", &mut back).await.unwrap();
        assert!(back == bytes);
    }
}

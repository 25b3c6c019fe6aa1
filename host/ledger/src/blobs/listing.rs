//! What a store holds: every blob by its header, for retention and for counting.

use super::form::{HEADER_BYTES, Header};
use super::{BlobError, BlobId, Blobs, NEW, io_error};
use std::fs::{self, File, ReadDir};
use std::io;
use std::path::PathBuf;

/// One blob, as its header tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// Its name.
    pub id: BlobId,
    /// What became of it.
    pub state: BlobState,
    /// Bytes of the payload; when it was erased: those it had.
    pub bytes: u64,
    /// When it was stored, in milliseconds since 1970; of a damaged one: 0.
    pub stored_ms: u64,
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobState {
    /// It is there. Whether its digest holds is found out by reading it.
    Whole,
    /// It was erased.
    Erased,
    /// A crash interrupted its erasure: erase it again.
    HalfErased,
    /// Its header cannot be read.
    Damaged,
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlobTotals {
    /// Blobs that are there.
    pub whole: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Blobs that were erased.
    pub erased: u64,
}

impl Blobs {
    /// Every blob, in no order. A store that was never written to has none.
    ///
    /// # Errors
    /// [`BlobError::Io`] where the store cannot be listed; each item likewise.
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<BlobEntry, BlobError>>, BlobError> {
        let mut folders = Vec::new();
        match fs::read_dir(&self.dir) {
            Ok(found) => {
                for folder in found {
                    let path = folder.map_err(io_error("list", &self.dir))?.path();
                    if path.is_dir() && path.file_name().is_some_and(|name| name != NEW) {
                        folders.push(path);
                    }
                }
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => return Err(io_error("list", &self.dir)(why)),
        }
        Ok(Entries { folders, files: None })
    }

    /// How much there is.
    ///
    /// # Errors
    /// As for [`Blobs::entries`].
    pub fn totals(&self) -> Result<BlobTotals, BlobError> {
        self.entries()?.try_fold(BlobTotals::default(), |mut totals, entry| {
            let entry = entry?;
            match entry.state {
                BlobState::Whole => {
                    totals.whole += 1;
                    totals.bytes += entry.bytes;
                }
                BlobState::Erased => totals.erased += 1,
                BlobState::HalfErased | BlobState::Damaged => {}
            }
            Ok(totals)
        })
    }
}

struct Entries {
    folders: Vec<PathBuf>,
    files: Option<(PathBuf, ReadDir)>,
}

impl Iterator for Entries {
    type Item = Result<BlobEntry, BlobError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((folder, files)) = &mut self.files {
                match files.next() {
                    Some(Ok(file)) => match entry(&file.path()) {
                        Some(entry) => return Some(entry),
                        None => continue,
                    },
                    Some(Err(why)) => return Some(Err(io_error("list", folder)(why))),
                    None => self.files = None,
                }
            }
            let folder = self.folders.pop()?;
            match fs::read_dir(&folder) {
                Ok(files) => self.files = Some((folder, files)),
                Err(why) => return Some(Err(io_error("list", &folder)(why))),
            }
        }
    }
}

/// The blob in this file; `None` if its name is none of a blob.
fn entry(path: &std::path::Path) -> Option<Result<BlobEntry, BlobError>> {
    let id: BlobId = path.file_name()?.to_str()?.parse().ok()?;
    let read = || -> io::Result<BlobEntry> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(match Header::read(&mut file)? {
            Err(_) => BlobEntry { id, state: BlobState::Damaged, bytes: length, stored_ms: 0 },
            Ok(Header { erased, bytes, stored_ms, .. }) => {
                let state = match (erased, length == HEADER_BYTES as u64) {
                    (false, _) => BlobState::Whole,
                    (true, true) => BlobState::Erased,
                    (true, false) => BlobState::HalfErased,
                };
                BlobEntry { id, state, bytes, stored_ms }
            }
        })
    };
    Some(read().map_err(io_error("read", path)))
}

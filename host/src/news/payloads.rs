//! Data that is too large for an event: stored by its SHA-256, bounded by bytes and by age; the oldest goes first.

use crate::clock::Clock;
use crate::policies::catalogue::write_whole;
use anyhow::Context;
use gavel_kernel::json::sha256_hex;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

/// Why data is not stored, or cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// More than all room.
    #[error("the data has {bytes} bytes, all data together may have {max} (events.payloads_bytes_max)")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The room.
        max: u64,
    },
    /// The disk, or the form of the data.
    #[error("the data of an event could not be stored: {0}")]
    Unwritten(String),
    /// It is there and cannot be read, or was changed.
    #[error("the data {digest} cannot be read: {why}")]
    Unreadable {
        /// Its digest.
        digest: String,
        /// Why.
        why: String,
    },
}

/// The store.
#[derive(Debug)]
pub struct Payloads {
    folder: Option<PathBuf>,
    bytes_max: u64,
    age_ms: u64,
    clock: Clock,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By age, the oldest first.
    order: VecDeque<(String, u64)>,
    entries: HashMap<String, Entry>,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// Where there is no folder.
    content: Option<Arc<[u8]>>,
}

impl Payloads {
    /// Open the store in `folder`, with what lies there; without a folder it is in memory.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(super) fn open(folder: Option<&Path>, bytes_max: u64, age_s: u64, clock: Clock) -> anyhow::Result<Self> {
        let mut kept = Kept::default();
        if let Some(folder) = folder {
            let told = || format!("the folder of events' data {}", folder.display());
            std::fs::create_dir_all(folder).with_context(told)?;
            kept = found_in(folder).with_context(told)?;
        }
        let (folder, kept) = (folder.map(Path::to_owned), Mutex::new(kept));
        let payloads = Self { folder, bytes_max, age_ms: age_s.saturating_mul(1_000), clock, kept };
        payloads.make_room(&mut payloads.kept(), 0);
        Ok(payloads)
    }

    /// Store it; its digest. What is there already is as new.
    pub(super) fn put(&self, content: Vec<u8>) -> Result<String, PayloadError> {
        let bytes = content.len() as u64;
        if bytes > self.bytes_max {
            return Err(PayloadError::TooLarge { bytes, max: self.bytes_max });
        }
        let digest = sha256_hex(&content);
        let stored_ms = self.clock.now_ms();
        let mut kept = self.kept();
        if kept.entries.contains_key(&digest) {
            kept.order.retain(|(known, _)| *known != digest);
            self.remove(&mut kept, &digest);
        }
        self.make_room(&mut kept, bytes);
        if let Some(folder) = &self.folder {
            write_whole(&folder.join(&digest), &content).map_err(|why| PayloadError::Unwritten(why.to_string()))?;
        }
        let content = self.folder.is_none().then(|| Arc::from(content));
        kept.bytes += bytes;
        kept.order.push_back((digest.clone(), stored_ms));
        kept.entries.insert(digest.clone(), Entry { bytes, content });
        Ok(digest)
    }

    /// What has this digest, if it is still kept.
    pub(super) fn get(&self, digest: &str) -> Result<Option<Vec<u8>>, PayloadError> {
        // Whoever stores something does not wait for the reading.
        let Some(held) = self.kept().entries.get(digest).map(|entry| entry.content.clone()) else { return Ok(None) };
        let unreadable = |why: String| PayloadError::Unreadable { digest: digest.to_owned(), why };
        let content = match (held, &self.folder) {
            (Some(content), _) => content.to_vec(),
            (None, Some(folder)) => match std::fs::read(folder.join(digest)) {
                Ok(content) => content,
                // It was the oldest, and went.
                Err(_) if !self.kept().entries.contains_key(digest) => return Ok(None),
                Err(why) => return Err(unreadable(why.to_string())),
            },
            (None, None) => return Ok(None),
        };
        if sha256_hex(&content) == digest {
            Ok(Some(content))
        } else {
            Err(unreadable("its bytes were changed".to_owned()))
        }
    }

    /// Remove the oldest until `bytes` more have room, and all that is too old.
    fn make_room(&self, kept: &mut Kept, bytes: u64) {
        let now_ms = self.clock.now_ms();
        while let Some((digest, stored_ms)) = kept.order.front().cloned() {
            let too_old = now_ms.saturating_sub(stored_ms) > self.age_ms;
            if !too_old && kept.bytes + bytes <= self.bytes_max {
                return;
            }
            kept.order.pop_front();
            self.remove(kept, &digest);
        }
    }

    fn remove(&self, kept: &mut Kept, digest: &str) {
        let Some(entry) = kept.entries.remove(digest) else { return };
        kept.bytes -= entry.bytes;
        if let Some(folder) = &self.folder
            && let Err(why) = std::fs::remove_file(folder.join(digest))
        {
            tracing::warn!(digest, %why, "data of an event could not be removed");
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lies in a folder: files whose names are digests.
fn found_in(folder: &Path) -> std::io::Result<Kept> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        let metadata = entry.metadata()?;
        let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        found.push((u64::try_from(since.as_millis()).unwrap_or(u64::MAX), name, metadata.len()));
    }
    found.sort();
    let mut kept = Kept::default();
    for (stored_ms, digest, bytes) in found {
        kept.bytes += bytes;
        kept.order.push_back((digest.clone(), stored_ms));
        kept.entries.insert(digest, Entry { bytes, content: None });
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_000);
        let store = Payloads::open(Some(folder.path()), 250, 60, clock.clone()).unwrap();
        let put = |byte: u8| store.put(vec![byte; 100]).unwrap();
        let (first, second) = (put(1), put(2));
        clock.set(2_000);
        assert_eq!(put(1), first, "it is new again");
        let third = put(3);
        assert_eq!(files(folder.path()), 2);
        assert_eq!(store.get(&second).unwrap(), None);
        assert_eq!(store.get(&first).unwrap(), Some(vec![1; 100]));
        assert_eq!(store.get(&third).unwrap(), Some(vec![3; 100]));
        assert!(matches!(store.put(vec![0; 251]), Err(PayloadError::TooLarge { bytes: 251, max: 250 })));
    }

    #[test]
    fn what_is_too_old_goes_and_what_is_not_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = |clock: Clock| Payloads::open(Some(folder.path()), 1_000, 60, clock).unwrap();
        let digest = open(Clock::System).put(vec![7; 100]).unwrap();
        assert_eq!(open(Clock::System).get(&digest).unwrap(), Some(vec![7; 100]));
        std::fs::write(folder.path().join(&digest), [8; 100]).unwrap();
        assert!(matches!(open(Clock::System).get(&digest), Err(PayloadError::Unreadable { .. })));
        let later = Clock::manual(Clock::System.now_ms() + 61_000);
        assert_eq!(open(later).get(&digest).unwrap(), None);
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn no_digest_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        let store = Payloads::open(Some(folder.path()), 1_000, 60, Clock::System).unwrap();
        assert_eq!(store.get("secret").unwrap(), None);
        assert_eq!(store.get("../secret").unwrap(), None);
    }
}

//! Payloads beside the log: too large for a record, or meant to be erased one day.
//!
//! A record holds the payload's *salted* digest and nothing of the payload itself. So a blob can be erased and every
//! proof still holds; and without the salt, which goes with the payload, nobody can find out from the digest what a
//! short payload was by trying all of them.
//!
//! Told apart: a blob is *missing* (never there, or the folder was not copied along), *erased* (a tombstone says when),
//! or *damaged*. Two blobs with the same payload have two salts and two digests: nothing is shared, so nothing that is
//! erased lives on in another record's blob.
//!
//! Erasing writes over the bytes where they lie. On a file system that writes elsewhere (copy on write), on a disk that
//! remaps, and in backups they may live on: there, encrypt the disk.
//!
//! The bytes are described in `docs/formats/ledger.md`.

mod form;
mod listing;

pub use listing::{BlobEntry, BlobState, BlobTotals};

use form::{HEADER_BYTES, Header, SALT_BYTES};
use gavel_proof::Hash;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The folder of the blobs in a ledger's.
pub const BLOBS: &str = "blobs";
/// Bytes of one payload, unless configured otherwise: more than a request's body may have.
pub const BLOB_BYTES_MAX: u64 = 16 << 20;

/// What is digested before salt and payload, so that the digest is good for nothing else.
const CONTEXT: &[u8] = b"gavel-blob/1\n";
/// Where a blob is written before it gets its name.
const NEW: &str = "new";
/// As for the log: payloads are for their owner's eyes.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Zeros that an erased payload is written over with, at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The name of a blob: SHA-256 of `gavel-blob/1` and a line feed, the salt, and the payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(Hash);

/// Why a blob cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// There is no such blob.
    #[error("blob {id} is not in {}: copy the folder `blobs` along with its ledger", dir.display())]
    Missing {
        /// The blob.
        id: BlobId,
        /// The store looked at.
        dir: PathBuf,
    },
    /// It was erased on purpose; only its digest is left, in the record.
    #[error("blob {id} was erased at {erased_ms} ms; its digest in the record still holds")]
    Erased {
        /// The blob.
        id: BlobId,
        /// When, in milliseconds since 1970.
        erased_ms: u64,
    },
    /// Its bytes are not what was stored.
    #[error("blob {id} is damaged: {what}; restore {} from a copy", path.display())]
    Damaged {
        /// The blob.
        id: BlobId,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The payload is larger than the store takes.
    #[error("a payload of {bytes} bytes is larger than the {limit} allowed")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// There is no randomness for a salt.
    #[error("no randomness for a salt: {0}")]
    NoRandomness(String),
    /// A text is no name of a blob.
    #[error("`{0}` names no blob: a blob's name is 64 hex digits in lower case")]
    NotAName(String),
}

/// The blobs of one ledger. Readers need nothing else; who owns the ledger alone may [`Blobs::put`] and
/// [`Blobs::erase`].
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
    bytes_max: u64,
}

/// A payload with what its digest was made of: enough for anyone to check the digest in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The salt.
    pub salt: [u8; SALT_BYTES],
    /// The payload.
    pub payload: Vec<u8>,
    /// When it was stored, in milliseconds since 1970.
    pub stored_ms: u64,
}

impl Blob {
    /// The digest that a record of this payload holds.
    #[must_use]
    pub fn id(&self) -> BlobId {
        BlobId(digest(&self.salt, &self.payload))
    }
}

impl Blobs {
    /// The blobs of the ledger in `dir`, for reading. Touches no disk; there may be none.
    #[must_use]
    pub fn of_ledger(dir: &Path) -> Self {
        Self { dir: dir.join(BLOBS), bytes_max: BLOB_BYTES_MAX }
    }

    /// The same for the ledger's owner, who may also write: clears away what a crash left unfinished, which no record
    /// names.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, BlobError> {
        let blobs = Self { bytes_max, ..Self::of_ledger(dir) };
        let new = blobs.dir.join(NEW);
        let unfinished = match fs::read_dir(&new) {
            Ok(unfinished) => unfinished,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(blobs),
            Err(why) => return Err(io_error("list", &new)(why)),
        };
        for file in unfinished {
            let path = file.map_err(io_error("list", &new))?.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        sync_dir(&new)?;
        Ok(blobs)
    }

    /// Stores `payload` durably under a fresh salt. When this returns, a record may name it.
    ///
    /// # Errors
    /// [`BlobError`]: then no blob has the name, and no record should.
    pub fn put(&self, payload: &[u8], now_ms: u64) -> Result<BlobId, BlobError> {
        let bytes = payload.len() as u64;
        if bytes > self.bytes_max {
            return Err(BlobError::TooLarge { bytes, limit: self.bytes_max });
        }
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|why| BlobError::NoRandomness(why.to_string()))?;
        let header = Header::of(payload, salt, now_ms);
        let id = BlobId(digest(&salt, payload));
        let (new, path) = (self.dir.join(NEW).join(id.to_string()), self.path(id));
        let folder = path.parent().unwrap_or(&self.dir);
        make_dir(&self.dir.join(NEW))?;
        make_dir(folder)?;
        let written = write_new(&new, &header.encode(), payload).and_then(|()| {
            fs::rename(&new, &path).map_err(io_error("name", &path))?;
            sync_dir(folder)
        });
        if written.is_err() {
            // It has no name that anyone will ask for; what cannot be removed now goes at the next opening.
            let _ = fs::remove_file(&new);
        }
        written.map(|()| id)
    }

    /// The payload, its digest checked.
    ///
    /// # Errors
    /// [`BlobError`], which tells missing, erased and damaged apart.
    pub fn get(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        self.disclose(id).map(|blob| blob.payload)
    }

    /// The payload with its salt, for who must check the digest in a record elsewhere.
    ///
    /// # Errors
    /// As for [`Blobs::get`].
    pub fn disclose(&self, id: BlobId) -> Result<Blob, BlobError> {
        let path = self.path(id);
        let damaged = |what: String| BlobError::Damaged { id, path: path.clone(), what };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing { id, dir: self.dir.clone() });
            }
            Err(why) => return Err(io_error("open", &path)(why)),
        };
        let header = Header::read(&mut file).map_err(io_error("read", &path))?.map_err(damaged)?;
        if header.erased {
            return Err(BlobError::Erased { id, erased_ms: header.erased_ms });
        }
        let mut payload = Vec::new();
        // One byte more than it should have: a longer file is seen to be wrong.
        file.take(header.bytes.saturating_add(1)).read_to_end(&mut payload).map_err(io_error("read", &path))?;
        header.check(&payload).map_err(damaged)?;
        let blob = Blob { salt: header.salt, payload, stored_ms: header.stored_ms };
        let found = blob.id();
        if found == id { Ok(blob) } else { Err(damaged(format!("its bytes digest to {found}"))) }
    }

    /// Erases a payload and its salt where they lie, and leaves a tombstone of [`HEADER_BYTES`] bytes. Erasing again
    /// finishes what a crash interrupted, and is otherwise nothing.
    ///
    /// # Errors
    /// [`BlobError::Missing`], or [`BlobError::Io`]: then erase it again.
    pub fn erase(&self, id: BlobId, now_ms: u64) -> Result<(), BlobError> {
        let path = self.path(id);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing { id, dir: self.dir.clone() });
            }
            Err(why) => return Err(io_error("open", &path)(why)),
        };
        let length = file.metadata().map_err(io_error("measure", &path))?.len();
        // A header that cannot be read hinders nobody from erasing what it heads.
        let header = Header::read(&mut &file).map_err(io_error("read", &path))?.ok();
        if header.as_ref().is_some_and(|header| header.erased) && length == HEADER_BYTES as u64 {
            return Ok(());
        }
        let tombstone = Header::tombstone(header.as_ref(), length, now_ms);
        wipe(&file, &tombstone.encode(), length).map_err(io_error("erase", &path))
    }

    fn path(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.dir.join(&name[..2]).join(name)
    }
}

fn digest(salt: &[u8; SALT_BYTES], payload: &[u8]) -> Hash {
    Sha256::new().chain_update(CONTEXT).chain_update(salt).chain_update(payload).finalize().into()
}

/// The tombstone first: once it is durable the salt is gone, and with it every way to check a guess. Then the payload,
/// then its room.
fn wipe(file: &File, tombstone: &[u8; HEADER_BYTES], length: u64) -> io::Result<()> {
    file.write_all_at(tombstone, 0)?;
    let mut at = HEADER_BYTES as u64;
    while at < length {
        let count = (length - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..usize::try_from(count).unwrap_or(ZEROS.len())], at)?;
        at += count;
    }
    file.sync_all()?;
    // Only when the zeros are on the disk may the room be given back: else they need never get there.
    file.set_len(HEADER_BYTES as u64)?;
    file.sync_all()
}

fn write_new(path: &Path, header: &[u8], payload: &[u8]) -> Result<(), BlobError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path).map_err(io_error("create", path))?;
    file.write_all(header).and_then(|()| file.write_all(payload)).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

/// Makes a folder and what is missing above it, each name durable.
fn make_dir(dir: &Path) -> Result<(), BlobError> {
    if dir.is_dir() {
        return Ok(());
    }
    let missing: Vec<&Path> = dir.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(io_error("create", dir))?;
    missing
        .iter()
        .filter_map(|made| made.parent())
        .filter(|parent| !parent.as_os_str().is_empty())
        .try_for_each(sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), BlobError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { action, path, source }
}

impl fmt::Display for BlobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(gavel_proof::hash::HexHash::of(&self.0).as_str())
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = BlobError;

    fn from_str(text: &str) -> Result<Self, BlobError> {
        let refused = || BlobError::NotAName(text.chars().take(80).collect());
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| refused())?;
        let mut hash = Hash::default();
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| high << 4 | low).ok_or_else(refused)?;
        }
        Ok(Self(hash))
    }
}

/// Lower case alone, so that a blob has one name.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

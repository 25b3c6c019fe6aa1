//! The bytes of a blob's file: a header with checksums of its own, then the payload.

use std::io::{self, Read};

/// Bytes of the header, all in one sector: it is written whole or not at all.
pub(super) const HEADER_BYTES: usize = 80;
/// Bytes of a salt: as many as the digest has, so that it hides the payload as well as the digest binds it.
pub(super) const SALT_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"GAVELBLB";
const VERSION: u16 = 1;
const ERASED: u16 = 1;
/// Where the checksum of the header stands.
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

/// What stands before a payload; or alone, when that was erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) erased: bool,
    /// crc32 of the payload; 0 when it was erased.
    pub(super) checksum: u32,
    /// Bytes of the payload; when it was erased: those it had.
    pub(super) bytes: u64,
    pub(super) stored_ms: u64,
    pub(super) erased_ms: u64,
    pub(super) salt: [u8; SALT_BYTES],
}

impl Header {
    pub(super) fn of(payload: &[u8], salt: [u8; SALT_BYTES], stored_ms: u64) -> Self {
        let (checksum, bytes) = (crc32fast::hash(payload), payload.len() as u64);
        Self { erased: false, checksum, bytes, stored_ms, erased_ms: 0, salt }
    }

    /// What is left of a file of `length` bytes with this header, as far as it could be read.
    pub(super) fn tombstone(before: Option<&Self>, length: u64, erased_ms: u64) -> Self {
        let bytes = before.map_or(length.saturating_sub(HEADER_BYTES as u64), |header| header.bytes);
        let stored_ms = before.map_or(0, |header| header.stored_ms);
        // An erasure that is only being finished keeps its time.
        let erased_ms = before.filter(|header| header.erased).map_or(erased_ms, |header| header.erased_ms);
        Self { erased: true, checksum: 0, bytes, stored_ms, erased_ms, salt: [0; SALT_BYTES] }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(if self.erased { ERASED } else { 0 }).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.stored_ms.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.erased_ms.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.salt);
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header that a file begins with: the outer error is the disk's, the inner says what is wrong with it.
    pub(super) fn read(file: &mut impl Read) -> io::Result<Result<Self, String>> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        file.take(HEADER_BYTES as u64).read_to_end(&mut bytes)?;
        let short = format!("it ends after {} bytes, within its header", bytes.len());
        Ok(<&[u8; HEADER_BYTES]>::try_from(&bytes[..]).map_err(|_| short).and_then(Self::decode))
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        if &bytes[..8] != MAGIC {
            return Err("it does not begin as a blob does".to_owned());
        }
        if u32_at(bytes, CHECKSUM_AT) != crc32fast::hash(&bytes[..CHECKSUM_AT]) {
            return Err("the checksum of its header does not hold".to_owned());
        }
        let (version, flags) = (u16_at(bytes, 8), u16_at(bytes, 10));
        if version != VERSION || flags > ERASED {
            return Err(format!("version {version} with flags {flags} is of a later program"));
        }
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&bytes[40..72]);
        Ok(Self {
            erased: flags == ERASED,
            checksum: u32_at(bytes, 12),
            bytes: u64_at(bytes, 16),
            stored_ms: u64_at(bytes, 24),
            erased_ms: u64_at(bytes, 32),
            salt,
        })
    }

    /// Whether this is the payload that the header was written for.
    pub(super) fn check(&self, payload: &[u8]) -> Result<(), String> {
        let found = payload.len() as u64;
        if found > self.bytes {
            return Err(format!("its file is longer than the {} bytes of its payload", self.bytes));
        }
        if found < self.bytes {
            return Err(format!("its payload ends after {found} of {} bytes", self.bytes));
        }
        let checksum = crc32fast::hash(payload);
        if checksum == self.checksum { Ok(()) } else { Err("the checksum of its payload does not hold".to_owned()) }
    }
}

fn u16_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

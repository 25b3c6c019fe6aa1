//! The bytes of a segment: header, record frame, commit frame, and the mark beside it. All integers
//! little-endian.
//!
//! `docs/formats/ledger.md` describes them to the byte, with the reasons. The one that shapes
//! everything here: each fixed part carries its own checksum, so that recovery can tell "the file
//! ends within this frame", which a crash explains, from "this length is wrong", which it does not.
//! Encoders and decoders stand side by side; both assert.

use gavel_proof::record::{Kind, MAX_RECORD_BYTES};
use gavel_proof::tree::Hash;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// The only segment, until segments roll.
pub(crate) const SEGMENT: u32 = 0;

/// Bytes of the segment header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of a record frame before its payload.
pub(crate) const RECORD_BYTES: usize = 20;
/// Bytes of a commit frame before its note.
pub(crate) const COMMIT_BYTES: usize = 128;
/// Bytes of the mark.
pub(crate) const MARK_BYTES: usize = 64;

const HEADER_MAGIC: &[u8; 8] = b"GAVELLOG";
pub(crate) const RECORD_MAGIC: &[u8; 4] = b"GREC";
pub(crate) const COMMIT_MAGIC: &[u8; 8] = b"GAVELCMT";
const MARK_MAGIC: &[u8; 8] = b"GAVELMRK";

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) segment: u32,
    pub(crate) first_index: u64,
    /// The first half of the leaf hash of record 0: ties every segment to the ledger it belongs to.
    pub(crate) ledger_id: [u8; 16],
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(&'static str),
    Newer(u16),
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, HEADER_MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &self.segment.to_le_bytes());
        put(&mut bytes, 16, &self.first_index.to_le_bytes());
        put(&mut bytes, 24, &self.ledger_id);
        seal(&mut bytes);
        debug_assert_eq!(Self::decode(&bytes), Ok(*self));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderFault> {
        if !bytes.starts_with(HEADER_MAGIC) {
            return Err(HeaderFault::Damaged("the header does not begin with GAVELLOG"));
        }
        if !is_sealed(bytes) {
            return Err(HeaderFault::Damaged("the checksum of the header is wrong"));
        }
        let version = u16_at(bytes, 8);
        if version > FORMAT_VERSION {
            return Err(HeaderFault::Newer(version));
        }
        // What a flag or a reserved byte will mean is not known yet, so it cannot be passed over.
        if version == 0 || u16_at(bytes, 10) != 0 || bytes[40..60].iter().any(|&byte| byte != 0) {
            return Err(HeaderFault::Damaged("the header uses flags that version 1 does not have"));
        }
        Ok(Self { segment: u32_at(bytes, 12), first_index: u64_at(bytes, 16), ledger_id: array_at(bytes, 24) })
    }
}

/// The fixed part of a record frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) payload_bytes: usize,
    /// Repeats the kind in the payload, so that a reader may skip without parsing; codes beyond
    /// ours are passed over.
    pub(crate) kind_code: u8,
    pub(crate) payload_crc: u32,
}

impl RecordHead {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        put(&mut bytes, 0, RECORD_MAGIC);
        put(&mut bytes, 4, &low32(self.payload_bytes as u64).to_le_bytes());
        bytes[8] = self.kind_code;
        put(&mut bytes, 12, &self.payload_crc.to_le_bytes());
        seal(&mut bytes);
        debug_assert_eq!(Self::decode(&bytes), Ok(self));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Self, &'static str> {
        if !is_sealed(bytes) {
            return Err("the checksum of the record frame is wrong");
        }
        let payload_bytes = u32_at(bytes, 4) as usize;
        if payload_bytes == 0 || payload_bytes > MAX_RECORD_BYTES || bytes[9..12] != [0; 3] {
            return Err("the record frame is not one of version 1");
        }
        Ok(Self { payload_bytes, kind_code: bytes[8], payload_crc: u32_at(bytes, 12) })
    }

    pub(crate) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes && crc32fast::hash(payload) == self.payload_crc
    }
}

/// Appends a frame whose payload `write` produces, and returns the payload's length.
/// The caller takes the frame back if the payload turns out longer than [`MAX_RECORD_BYTES`].
pub(crate) fn push_record(out: &mut Vec<u8>, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> usize {
    let frame_at = out.len();
    out.extend_from_slice(&[0; RECORD_BYTES]);
    write(out);
    let payload = &out[frame_at + RECORD_BYTES..];
    let payload_bytes = payload.len();
    if payload_bytes <= MAX_RECORD_BYTES {
        let head = RecordHead { payload_bytes, kind_code: kind.code(), payload_crc: crc32fast::hash(payload) };
        put(out, frame_at, &head.encode());
    }
    payload_bytes
}

/// The end of a batch: what the ledger is after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Records in the ledger.
    pub(crate) size: u64,
    /// Root of the tree over them.
    pub(crate) root: Hash,
    /// Head of the KERNELS chain.
    pub(crate) chain_head: Hash,
    /// Entries in the chain.
    pub(crate) chain_len: u64,
    /// Offset of the batch's first frame.
    pub(crate) batch_start: u64,
    /// Offset of the commit frame before, 0 for the first.
    pub(crate) predecessor: u64,
    pub(crate) note_bytes: u16,
    pub(crate) note_crc: u32,
}

impl Commit {
    pub(crate) fn encode(&self) -> [u8; COMMIT_BYTES] {
        let mut bytes = [0; COMMIT_BYTES];
        put(&mut bytes, 0, COMMIT_MAGIC);
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &self.root);
        put(&mut bytes, 48, &self.chain_head);
        put(&mut bytes, 80, &self.chain_len.to_le_bytes());
        put(&mut bytes, 88, &self.batch_start.to_le_bytes());
        put(&mut bytes, 96, &self.predecessor.to_le_bytes());
        put(&mut bytes, 104, &self.note_bytes.to_le_bytes());
        put(&mut bytes, 108, &self.note_crc.to_le_bytes());
        seal(&mut bytes);
        debug_assert_eq!(Self::decode(&bytes), Ok(*self));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; COMMIT_BYTES]) -> Result<Self, &'static str> {
        if !bytes.starts_with(COMMIT_MAGIC) || !is_sealed(bytes) {
            return Err("the checksum of the commit frame is wrong");
        }
        if bytes[106..108] != [0; 2] || bytes[112..124] != [0; 12] {
            return Err("the commit frame is not one of version 1");
        }
        Ok(Self {
            size: u64_at(bytes, 8),
            root: array_at(bytes, 16),
            chain_head: array_at(bytes, 48),
            chain_len: u64_at(bytes, 80),
            batch_start: u64_at(bytes, 88),
            predecessor: u64_at(bytes, 96),
            note_bytes: u16_at(bytes, 104),
            note_crc: u32_at(bytes, 108),
        })
    }
}

/// The mark: a commit that was acknowledged, kept in a file of its own. It is a lower bound: see
/// the format document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Records that were acknowledged.
    pub(crate) size: u64,
    /// The root over them.
    pub(crate) root: Hash,
    /// The offset just after their commit frame.
    pub(crate) end: u64,
}

impl Mark {
    pub(crate) fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        put(&mut bytes, 0, MARK_MAGIC);
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &self.root);
        put(&mut bytes, 48, &self.end.to_le_bytes());
        put(&mut bytes, 56, &SEGMENT.to_le_bytes());
        seal(&mut bytes);
        debug_assert_eq!(Self::decode(&bytes), Some(*self));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
        let ours = bytes.starts_with(MARK_MAGIC) && is_sealed(bytes) && u32_at(bytes, 56) == SEGMENT;
        ours.then(|| Self { size: u64_at(bytes, 8), root: array_at(bytes, 16), end: u64_at(bytes, 48) })
    }
}

/// Puts the checksum of all that precedes it into the last four bytes.
fn seal(bytes: &mut [u8]) {
    let body = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..body]);
    put(bytes, body, &crc.to_le_bytes());
}

fn is_sealed(bytes: &[u8]) -> bool {
    let body = bytes.len() - 4;
    crc32fast::hash(&bytes[..body]) == u32_at(bytes, body)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The first `N` bytes from `at`, which must be there.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn low32(value: u64) -> u32 {
    debug_assert!(u32::try_from(value).is_ok());
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every fixed part must notice any single changed bit of itself.
    fn every_flip_is_noticed<const N: usize>(good: [u8; N], accepts: impl Fn(&[u8; N]) -> bool) {
        assert!(accepts(&good));
        for bit in 0..N * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!accepts(&bytes), "bit {bit} of {N} bytes");
        }
    }

    #[test]
    fn no_flip_goes_unnoticed() {
        let header = Header { segment: 0, first_index: 0, ledger_id: [7; 16] };
        every_flip_is_noticed(header.encode(), |bytes| Header::decode(bytes).is_ok());
        let head = RecordHead { payload_bytes: 300, kind_code: 2, payload_crc: 9 };
        every_flip_is_noticed(head.encode(), |bytes| {
            bytes.starts_with(RECORD_MAGIC) && RecordHead::decode(bytes).is_ok()
        });
        let commit = Commit {
            size: 3,
            root: [1; 32],
            chain_head: [2; 32],
            chain_len: 2,
            batch_start: 64,
            predecessor: 0,
            note_bytes: 0,
            note_crc: 0,
        };
        every_flip_is_noticed(commit.encode(), |bytes| Commit::decode(bytes).is_ok());
        let mark = Mark { size: 3, root: [1; 32], end: 700 };
        every_flip_is_noticed(mark.encode(), |bytes| Mark::decode(bytes).is_some());
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = Header { segment: 0, first_index: 0, ledger_id: [7; 16] }.encode();
        put(&mut bytes, 8, &9u16.to_le_bytes());
        seal(&mut bytes);
        assert_eq!(Header::decode(&bytes), Err(HeaderFault::Newer(9)));
    }
}

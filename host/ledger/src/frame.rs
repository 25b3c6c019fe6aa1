//! The bytes of a segment: header, record frame, commit frame, and the mark beside it. All integers
//! little-endian.
//!
//! `docs/formats/ledger.md` describes them to the byte, with the reasons. The one that shapes
//! everything here: each fixed part carries its own checksum, so that recovery can tell "the file
//! ends within this frame", which a crash explains, from "this length is wrong", which it does not.
//! Encoders and decoders stand side by side; both assert.

use crate::identity::Identity;
use gavel_proof::record::{Kind, MAX_RECORD_BYTES};
use gavel_proof::state::State;
use gavel_proof::tree::{Frontier, Hash};

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 2;
/// The first format, of one segment without carry and notes. It is read, and a segment begun in it is filled in it.
pub(crate) const FORMAT_1: u16 = 1;

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
    pub(crate) version: u16,
    pub(crate) segment: u32,
    pub(crate) first_index: u64,
    /// The first half of the leaf hash of record 0: ties every segment to the ledger it belongs to.
    pub(crate) ledger_id: LedgerId,
    /// Bytes of the carry that follows; none in segment 0.
    pub(crate) carry_bytes: u32,
    pub(crate) carry_crc: u32,
}

/// The first half of the leaf hash of record 0.
pub(crate) type LedgerId = [u8; 16];

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(&'static str),
    Newer(u16),
}

impl Header {
    /// The header of the first segment of a new ledger.
    pub(crate) fn first(ledger_id: LedgerId) -> Self {
        let carry_crc = crc32fast::hash(&[]);
        Self { version: FORMAT_VERSION, segment: 0, first_index: 0, ledger_id, carry_bytes: 0, carry_crc }
    }

    /// The header of a later segment, before this carry.
    pub(crate) fn later(segment: u32, first_index: u64, ledger_id: LedgerId, carry: &[u8]) -> Self {
        let (carry_bytes, carry_crc) = (low32(carry.len() as u64), crc32fast::hash(carry));
        Self { version: FORMAT_VERSION, segment, first_index, ledger_id, carry_bytes, carry_crc }
    }

    /// The offset of the first frame.
    pub(crate) fn frames_at(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.carry_bytes)
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, HEADER_MAGIC);
        put(&mut bytes, 8, &self.version.to_le_bytes());
        put(&mut bytes, 12, &self.segment.to_le_bytes());
        put(&mut bytes, 16, &self.first_index.to_le_bytes());
        put(&mut bytes, 24, &self.ledger_id);
        if self.version > FORMAT_1 {
            put(&mut bytes, 40, &self.carry_bytes.to_le_bytes());
            put(&mut bytes, 44, &self.carry_crc.to_le_bytes());
        }
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
        let reserved = if version > FORMAT_1 { 48..60 } else { 40..60 };
        // What a flag or a reserved byte will mean is not known yet, so it cannot be passed over.
        if version == 0 || u16_at(bytes, 10) != 0 || bytes[reserved].iter().any(|&byte| byte != 0) {
            return Err(HeaderFault::Damaged("the header uses flags that its version does not have"));
        }
        let (segment, first_index, ledger_id) = (u32_at(bytes, 12), u64_at(bytes, 16), array_at(bytes, 24));
        let carry = if version > FORMAT_1 { (u32_at(bytes, 40), u32_at(bytes, 44)) } else { (0, crc32fast::hash(&[])) };
        let (carry_bytes, carry_crc) = carry;
        if carry_bytes > CARRY_BYTES_MAX || (segment == 0) != (carry_bytes == 0) {
            return Err(HeaderFault::Damaged("the first segment, and no other, begins without a carry"));
        }
        Ok(Self { version, segment, first_index, ledger_id, carry_bytes, carry_crc })
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

/// Appends a frame around a payload that was framed before.
pub(crate) fn push_payload(out: &mut Vec<u8>, kind_code: u8, payload: &[u8]) {
    let head = RecordHead { payload_bytes: payload.len(), kind_code, payload_crc: crc32fast::hash(payload) };
    out.extend_from_slice(&head.encode());
    out.extend_from_slice(payload);
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

/// The most bytes of a carry: room for a million open decisions, far more than requests that can run at a time.
const CARRY_BYTES_MAX: u32 = 16 << 20;
/// Bytes of a carry before its lists.
const CARRY_FIXED_BYTES: usize = 112;

/// What the ledger is before the first record of a segment, so that a reader can begin there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Carry {
    pub(crate) state: State,
    /// Whose ledger it is.
    pub(crate) identity: Identity,
    /// Bytes of all segments before.
    pub(crate) bytes_before: u64,
}

impl Carry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let State { tree, chain, open, halted, key, last_ts_ms } = &self.state;
        let mut bytes = vec![0; CARRY_FIXED_BYTES];
        put(&mut bytes, 0, &tree.size().to_le_bytes());
        put(&mut bytes, 8, &chain.len.to_le_bytes());
        put(&mut bytes, 16, &chain.head);
        put(&mut bytes, 48, &last_ts_ms.to_le_bytes());
        bytes[56] = u8::from(*halted);
        bytes[57] = u8::from(key.is_some());
        put(&mut bytes, 60, &low32(tree.subtrees().len() as u64).to_le_bytes());
        put(&mut bytes, 64, &key.unwrap_or_default());
        put(&mut bytes, 96, &(open.len() as u64).to_le_bytes());
        put(&mut bytes, 104, &self.bytes_before.to_le_bytes());
        for subtree in tree.subtrees() {
            bytes.extend_from_slice(subtree);
        }
        for index in open {
            bytes.extend_from_slice(&index.to_le_bytes());
        }
        for text in [&self.identity.kernel_id, &self.identity.variant] {
            bytes.extend_from_slice(&low32(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        debug_assert_eq!(Self::decode(&bytes).as_ref(), Some(self));
        bytes
    }

    /// `None` if it is not a carry of this version. Its checksum is the header's affair.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, lists) = bytes.split_first_chunk::<CARRY_FIXED_BYTES>()?;
        let (subtrees, opens) = (u32_at(fixed, 60) as usize, usize::try_from(u64_at(fixed, 96)).ok()?);
        let (subtrees, rest) = lists.split_at_checked(subtrees.checked_mul(32)?)?;
        let (opens, rest) = rest.split_at_checked(opens.checked_mul(8)?)?;
        let (kernel_id, rest) = text(rest)?;
        let (variant, rest) = text(rest)?;
        if !rest.is_empty() {
            return None;
        }
        let subtrees = subtrees.chunks_exact(32).map(|hash| array_at(hash, 0)).collect();
        let key = match (fixed[57], array_at(fixed, 64)) {
            (0, key) if key == [0; 32] => None,
            (1, key) => Some(key),
            _ => return None,
        };
        if fixed[56] > 1 || fixed[58..60] != [0; 2] {
            return None;
        }
        let state = State {
            tree: Frontier::from_subtrees(u64_at(fixed, 0), subtrees)?,
            chain: State::chain_of(u64_at(fixed, 8), array_at(fixed, 16)),
            open: opens.chunks_exact(8).map(|index| u64_at(index, 0)).collect(),
            halted: fixed[56] == 1,
            key,
            last_ts_ms: u64_at(fixed, 48),
        };
        // An open decision is one of the records before.
        if state.open.last().is_some_and(|index| *index >= state.records()) {
            return None;
        }
        let identity = Identity { kernel_id, variant };
        Some(Self { state, identity, bytes_before: u64_at(fixed, 104) })
    }
}

/// A text behind its length, and what follows it.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((str::from_utf8(text).ok()?.to_owned(), rest))
}

/// The mark: a commit that was acknowledged, kept in a file of its own. It is a lower bound: see
/// the format document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Records that were acknowledged.
    pub(crate) size: u64,
    /// The root over them.
    pub(crate) root: Hash,
    /// The offset just after their commit frame, in its segment.
    pub(crate) end: u64,
    /// The segment.
    pub(crate) segment: u32,
}

impl Mark {
    pub(crate) fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        put(&mut bytes, 0, MARK_MAGIC);
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &self.root);
        put(&mut bytes, 48, &self.end.to_le_bytes());
        put(&mut bytes, 56, &self.segment.to_le_bytes());
        seal(&mut bytes);
        debug_assert_eq!(Self::decode(&bytes), Some(*self));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
        let ours = bytes.starts_with(MARK_MAGIC) && is_sealed(bytes);
        let (size, root, end, segment) = (u64_at(bytes, 8), array_at(bytes, 16), u64_at(bytes, 48), u32_at(bytes, 56));
        ours.then_some(Self { size, root, end, segment })
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
        let header = Header::first([7; 16]);
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
        let mark = Mark { size: 3, root: [1; 32], end: 700, segment: 1 };
        every_flip_is_noticed(mark.encode(), |bytes| Mark::decode(bytes).is_some());
    }

    #[test]
    fn a_carry_reads_back_and_nothing_shorter_or_longer() {
        let mut state = State { halted: true, key: Some([3; 32]), last_ts_ms: 9, ..State::new() };
        (0..6).for_each(|leaf| state.tree.push([leaf; 32]));
        state.open.extend([2, 4]);
        let identity = Identity { kernel_id: "k".into(), variant: "strict".into() };
        let carry = Carry { state, identity, bytes_before: 900 };
        let bytes = carry.encode();
        assert_eq!(Carry::decode(&bytes), Some(carry));
        assert!((0..bytes.len()).all(|end| Carry::decode(&bytes[..end]).is_none()));
        assert_eq!(Carry::decode(&[bytes.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = Header::first([7; 16]).encode();
        put(&mut bytes, 8, &9u16.to_le_bytes());
        seal(&mut bytes);
        assert_eq!(Header::decode(&bytes), Err(HeaderFault::Newer(9)));
    }
}

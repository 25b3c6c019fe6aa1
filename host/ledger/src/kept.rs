//! The state that the owner of a ledger derived from its first records, so that it need not read them
//! again: one small file beside the segments, replaced whole.
//!
//! ```text
//! magic GAVELSTA, version u16, zeros u16 u32, ledger id 16, records u64, root over them 32, crc32 of the state, crc32 of all before; the state
//! ```
//!
//! The root ties it to the history that it was derived from. It is never the truth: without it, or with one that does
//! not fit, the owner reads its records from the first.

use crate::frame::{LedgerId, array_at};
use crate::frames::read_exact_at;
use crate::storage::Reader;
use gavel_proof::tree::Hash;
use std::io;

const FILE: &str = "state";
const MAGIC: &[u8; 8] = b"GAVELSTA";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 80;
/// The most that is read: a file that claims more was not written by an owner.
const STATE_BYTES_MAX: u64 = 1 << 30;

fn header(ledger_id: &LedgerId, size: u64, root: &Hash, state_crc: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(16, ledger_id);
    put(32, &size.to_le_bytes());
    put(40, root);
    put(72, &state_crc.to_le_bytes());
    let crc = crc32fast::hash(&header[..76]);
    header[76..].copy_from_slice(&crc.to_le_bytes());
    header
}

pub(crate) fn write(reader: &dyn Reader, ledger_id: &LedgerId, size: u64, root: &Hash, state: &[u8]) -> io::Result<()> {
    let header = header(ledger_id, size, root, crc32fast::hash(state));
    reader.keep_derived(FILE, &[header.as_slice(), state].concat())
}

/// The number of records, the root over them, and the state; `None` if there is none of this ledger.
pub(crate) fn read(reader: &dyn Reader, ledger_id: &LedgerId) -> Option<(u64, Hash, Vec<u8>)> {
    let file = reader.derived(FILE).ok()??;
    let length = file.log_bytes().ok().filter(|length| *length <= STATE_BYTES_MAX)?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    read_exact_at(&*file, &mut bytes, 0).ok()?;
    let (found, state) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (size, root) = (u64::from_le_bytes(array_at(found, 32)), array_at(found, 40));
    (*found == header(ledger_id, size, &root, crc32fast::hash(state))).then(|| (size, root, state.to_vec()))
}

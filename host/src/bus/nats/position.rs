//! How far a peer's messages were handled: one small file for each peer.
//!
//! Written after each event and before its message is acknowledged. A write is seen by the next process however this one
//! ends; that it is on the disk is awaited once for many, before they are acknowledged. So a killed process repeats at
//! most the event that it was handling, and a machine without power those that were not acknowledged yet.
//!
//! The file has two slots that are written in turn, each with a digest: a torn write leaves the other.

use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"GAVELNP1";
/// Magic, turn, epoch, number.
const BODY_BYTES: usize = 32;
const SLOT_BYTES: usize = BODY_BYTES + 32;
/// Each slot in a sector of its own.
const SLOT_AT: [u64; 2] = [0, 4_096];

/// The last message of a peer that was handled. Nothing was: the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    /// Which of the peer's outboxes numbered it.
    pub(super) epoch: u64,
    /// Its number.
    pub(super) number: u64,
}

/// The file.
#[derive(Debug)]
pub(super) struct PositionFile {
    file: Arc<File>,
    turn: u64,
}

impl PositionFile {
    /// Open it, or make it. A file without a sound slot that is not empty is an error: it would mean to handle all again.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Position)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        let slots = SLOT_AT.map(|at| usize::try_from(at).ok().and_then(|at| bytes.get(at..)).and_then(read_slot));
        let found = slots.into_iter().flatten().max();
        if found.is_none() && !bytes.is_empty() {
            let told = "neither of its slots is sound: take the file away to handle again what the stream still has";
            return Err(io::Error::new(ErrorKind::InvalidData, told));
        }
        let (turn, position) = found.unwrap_or_default();
        Ok((Self { file: Arc::new(file), turn }, position))
    }

    /// Write down how far it went.
    pub(super) fn set(&mut self, position: Position) -> io::Result<()> {
        self.turn += 1;
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend_from_slice(MAGIC);
        for number in [self.turn, position.epoch, position.number] {
            slot.extend_from_slice(&number.to_le_bytes());
        }
        let digest = Sha256::digest(&slot);
        slot.extend_from_slice(&digest);
        self.file.write_all_at(&slot, SLOT_AT[usize::from(self.turn % 2 == 1)])
    }

    /// Wait until it is on the disk.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || file.sync_data()).await.map_err(io::Error::other)?
    }
}

fn read_slot(bytes: &[u8]) -> Option<(u64, Position)> {
    let slot = bytes.get(..SLOT_BYTES)?;
    let (body, digest) = slot.split_at(BODY_BYTES);
    if &body[..8] != MAGIC || Sha256::digest(body)[..] != *digest {
        return None;
    }
    let number = |at: usize| body[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    Some((number(8)?, Position { epoch: number(16)?, number: number(24)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_position_is_found_and_a_torn_write_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer");
        let (mut file, position) = PositionFile::open(&path).unwrap();
        assert_eq!(position, Position::default());
        for number in 1..=3 {
            file.set(Position { epoch: 9, number }).unwrap();
        }
        file.sync().await.unwrap();
        drop(file);
        assert_eq!(PositionFile::open(&path).unwrap().1, Position { epoch: 9, number: 3 });
        let mut bytes = std::fs::read(&path).unwrap();
        // The third write went to the second slot.
        bytes[4_096 + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(PositionFile::open(&path).unwrap().1, Position { epoch: 9, number: 2 });
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(PositionFile::open(&path).unwrap_err().to_string().contains("neither of its slots"));
    }
}

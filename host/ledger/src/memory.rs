//! A log in memory that can be told to fail: the disk of the tests, and of kernels that keep no
//! evidence.
//!
//! It distinguishes what was written (what another process would read, the page cache) from what
//! was synced (what a loss of power leaves), and models the disk of the format document: a 512-byte
//! sector is written whole or not at all, and a sector that was never written reads as zeros.

use crate::storage::{Form, ReadAt, Reader, Storage};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The atomic unit of the simulated disk.
pub const SECTOR_BYTES: usize = 512;

/// The files of a ledger, as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The segments before the newest.
    pub sealed: Vec<Vec<u8>>,
    /// The newest segment; empty if there is none.
    pub log: Vec<u8>,
    /// The mark; empty if there is none.
    pub mark: Vec<u8>,
}

/// A failure to come, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The write to the log after `after` good ones stores only `keep` bytes, then fails with
    /// `kind`.
    Write {
        /// Good writes before it.
        after: u32,
        /// Bytes stored all the same.
        keep: usize,
        /// The error.
        kind: io::ErrorKind,
    },
    /// The sync of the log after `after` good ones fails with `kind`.
    Sync {
        /// Good syncs before it.
        after: u32,
        /// The error.
        kind: io::ErrorKind,
    },
    /// The next write of the mark fails with `kind`.
    Mark {
        /// The error.
        kind: io::ErrorKind,
    },
}

#[derive(Debug, Default)]
struct Disk {
    written: Image,
    /// What the log was, from some offset on, when it was last synced; `None` if nothing changed
    /// since. Only the difference is kept: a log in memory should not cost its size twice.
    before: Option<(usize, Vec<u8>)>,
    /// What a failed sync left unwritten. As in Linux, a later sync passes over it, unless it was
    /// written again.
    forgotten: Option<Range<usize>>,
    synced_mark: Vec<u8>,
    fault: Option<Fault>,
    derived: BTreeMap<String, Arc<[u8]>>,
}

/// A log in memory. Clones are handles to the same bytes, so that a test can watch them and fail
/// them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryStorage {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds `image`, all of it synced.
    #[must_use]
    pub fn from_image(image: Image) -> Self {
        let disk = Disk { synced_mark: image.mark.clone(), written: image, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// What was written: what remains when only the process dies.
    #[must_use]
    pub fn image(&self) -> Image {
        self.lock().written.clone()
    }

    /// What remains when the power fails: all that was synced, and of the rest those sectors of the
    /// log, and the mark if asked for sector `u64::MAX`, for which `survives` says so.
    #[must_use]
    pub fn power_loss(&self, mut survives: impl FnMut(u64) -> bool) -> Image {
        let disk = self.lock();
        let synced = disk.synced_log();
        let sealed = disk.written.sealed.clone();
        let mut left = Image { sealed, log: synced.clone(), mark: disk.synced_mark.clone() };
        for (sector, bytes) in disk.written.log.chunks(SECTOR_BYTES).enumerate() {
            let start = sector * SECTOR_BYTES;
            let end = start + bytes.len();
            if synced.get(start..end) != Some(bytes) && survives(sector as u64) {
                left.log.resize(left.log.len().max(end), 0);
                left.log[start..end].copy_from_slice(bytes);
            }
        }
        if disk.written.mark != disk.synced_mark && survives(u64::MAX) {
            left.mark.clone_from(&disk.written.mark);
        }
        left
    }

    /// Arranges for a failure.
    pub fn fail(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn synced_log(&self) -> Vec<u8> {
        match &self.before {
            None => self.written.log.clone(),
            Some((from, tail)) => [&self.written.log[..*from], tail].concat(),
        }
    }

    /// Must come before any change to the log at or after `offset`.
    fn remember(&mut self, offset: usize) {
        let from = offset.min(self.written.log.len());
        match &mut self.before {
            None => self.before = Some((from, self.written.log[from..].to_vec())),
            Some((first, tail)) if from < *first => {
                tail.splice(0..0, self.written.log[from..*first].iter().copied());
                *first = from;
            }
            Some(_) => {}
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        self.remember(start);
        let end = start.saturating_add(bytes.len());
        self.forgotten = self.forgotten.take().filter(|range| range.start < start || end < range.end);
        let log = &mut self.written.log;
        log.resize(log.len().max(end), 0);
        log[start..end].copy_from_slice(bytes);
    }
}

impl Storage for MemoryStorage {
    fn place(&self) -> String {
        "the log in memory".to_owned()
    }

    fn newest_segment(&self) -> io::Result<Option<u32>> {
        let disk = self.lock();
        let Image { sealed, log, .. } = &disk.written;
        let newest = sealed.len() + usize::from(!log.is_empty());
        Ok(u32::try_from(newest).ok().and_then(|segments| segments.checked_sub(1)))
    }

    fn create_segment(&mut self, segment: u32, first: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        let filled = std::mem::replace(&mut disk.written.log, first.to_vec());
        if !filled.is_empty() {
            disk.written.sealed.push(filled);
        }
        debug_assert_eq!(disk.written.sealed.len(), segment as usize, "segments follow one another");
        disk.before = None;
        Ok(())
    }

    fn write_log(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        match disk.fault {
            Some(Fault::Write { after: 0, keep, kind }) => {
                disk.write(offset, &bytes[..keep.min(bytes.len())]);
                disk.fault = None;
                return Err(kind.into());
            }
            Some(Fault::Write { after, keep, kind }) => {
                disk.fault = Some(Fault::Write { after: after - 1, keep, kind });
            }
            _ => {}
        }
        disk.write(offset, bytes);
        Ok(())
    }

    fn sync_log(&mut self) -> io::Result<()> {
        let mut disk = self.lock();
        match disk.fault {
            Some(Fault::Sync { after: 0, kind }) => {
                disk.fault = None;
                disk.forgotten = disk.before.as_ref().map(|(from, _)| *from..disk.written.log.len());
                return Err(kind.into());
            }
            Some(Fault::Sync { after, kind }) => disk.fault = Some(Fault::Sync { after: after - 1, kind }),
            _ => {}
        }
        if disk.forgotten.is_none() {
            disk.before = None;
        }
        Ok(())
    }

    fn truncate_log(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut disk = self.lock();
        disk.remember(bytes);
        disk.written.log.truncate(bytes);
        Ok(())
    }

    fn read_mark(&self) -> io::Result<Vec<u8>> {
        Ok(self.lock().written.mark.clone())
    }

    fn write_mark(&mut self, mark: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        if let Some(Fault::Mark { kind }) = disk.fault {
            disk.fault = None;
            return Err(kind.into());
        }
        disk.written.mark = mark.to_vec();
        Ok(())
    }

    fn sync_mark(&mut self) -> io::Result<()> {
        let mut disk = self.lock();
        let Disk { written, synced_mark, .. } = &mut *disk;
        synced_mark.clone_from(&written.mark);
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.clone())
    }
}

impl Reader for MemoryStorage {
    fn place(&self) -> String {
        Storage::place(self)
    }

    fn form(&self, segment: u32) -> io::Result<Form> {
        let newest = self.newest_segment()?;
        Ok(if newest.is_some_and(|newest| segment <= newest) { Form::Plain } else { Form::Absent })
    }

    fn open(&self, segment: u32) -> io::Result<Arc<dyn ReadAt>> {
        match self.form(segment)? {
            Form::Absent => Err(io::Error::new(io::ErrorKind::NotFound, "there is no such segment")),
            _ => Ok(Arc::new(MemorySegment { storage: self.clone(), segment: segment as usize })),
        }
    }

    fn derived(&self, name: &str) -> io::Result<Option<Arc<dyn ReadAt>>> {
        let bytes = self.lock().derived.get(name).cloned();
        Ok(bytes.map(|bytes| Arc::new(Bytes(bytes)) as Arc<dyn ReadAt>))
    }

    fn keep_derived(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.lock().derived.insert(name.to_owned(), bytes.into());
        Ok(())
    }
}

struct MemorySegment {
    storage: MemoryStorage,
    segment: usize,
}

impl MemorySegment {
    fn with<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        let disk = self.storage.lock();
        read(disk.written.sealed.get(self.segment).unwrap_or(&disk.written.log))
    }
}

impl ReadAt for MemorySegment {
    fn log_bytes(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.with(|bytes| copy_at(bytes, buffer, offset)))
    }
}

struct Bytes(Arc<[u8]>);

impl ReadAt for Bytes {
    fn log_bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(copy_at(&self.0, buffer, offset))
    }
}

fn copy_at(bytes: &[u8], buffer: &mut [u8], offset: u64) -> usize {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let count = buffer.len().min(bytes.len() - start);
    buffer[..count].copy_from_slice(&bytes[start..start + count]);
    count
}

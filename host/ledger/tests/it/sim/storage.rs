//! The simulated disk as the ledger sees it, and the hold on it that makes batches the same each time.
//!
//! Derived data is written by threads of their own, at whatever time, so it must not touch the dice: it is kept beside
//! the disk and gone after each life, and every opening makes it again from the segments.

use crate::sim::disk::Disk;
use gavel_ledger::{Form, ReadAt, Reader, Storage, segment_file};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const MARK: &str = "mark";

/// Handles to one disk, for one life.
#[derive(Debug, Clone)]
pub(crate) struct SimStorage {
    disk: Arc<Mutex<Disk>>,
    gate: Arc<Gate>,
    derived: Arc<Mutex<BTreeMap<String, Arc<[u8]>>>>,
}

/// Where the writer waits before it writes, while it is closed.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    /// Somebody waits.
    reached: bool,
}

/// Keeps the writer at the gate until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold<'a>(&'a Gate);

impl Hold<'_> {
    /// The writer has come to the disk.
    pub(crate) fn is_reached(&self) -> bool {
        lock(&self.0.state).reached
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        *lock(&self.0.state) = GateState::default();
        self.0.opened.notify_all();
    }
}

impl Gate {
    fn pass(&self) {
        let mut state = lock(&self.state);
        state.reached = state.closed;
        drop(self.opened.wait_while(state, |state| state.closed).unwrap_or_else(PoisonError::into_inner));
    }
}

impl SimStorage {
    pub(crate) fn new(disk: Disk) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)), gate: Arc::default(), derived: Arc::default() }
    }

    /// The same disk for another life.
    pub(crate) fn next_life(&self) -> Self {
        Self { disk: Arc::clone(&self.disk), gate: Arc::default(), derived: Arc::default() }
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    /// Until the guard is dropped, nothing is written to the log.
    pub(crate) fn hold(&self) -> Hold<'_> {
        lock(&self.gate.state).closed = true;
        Hold(&self.gate)
    }

    pub(crate) fn tell(&self, what: &str) {
        self.disk().trace.push(format!("- {what}"));
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.disk().trace.clone()
    }

    fn newest(&self) -> io::Result<u32> {
        self.newest_segment()?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for SimStorage {
    fn place(&self) -> String {
        "the simulated disk".to_owned()
    }

    fn newest_segment(&self) -> io::Result<Option<u32>> {
        let disk = self.disk();
        disk.alive()?;
        let segments = disk
            .names()
            .into_iter()
            .filter_map(|name| name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok());
        Ok(segments.max())
    }

    fn create_segment(&mut self, segment: u32, first: &[u8]) -> io::Result<()> {
        self.gate.pass();
        self.disk().create(&segment_file(segment), first)
    }

    fn write_log(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.gate.pass();
        let newest = self.newest()?;
        self.disk().write(&segment_file(newest), offset, bytes)
    }

    fn sync_log(&mut self) -> io::Result<()> {
        let newest = self.newest()?;
        self.disk().sync(&segment_file(newest))
    }

    fn truncate_log(&mut self, bytes: u64) -> io::Result<()> {
        let newest = self.newest()?;
        self.disk().truncate(&segment_file(newest), bytes)
    }

    fn read_mark(&self) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        let mut mark = vec![0; usize::try_from(disk.len(MARK)?.unwrap_or(0)).unwrap()];
        if !mark.is_empty() {
            disk.read(MARK, 0, &mut mark)?;
        }
        Ok(mark)
    }

    fn write_mark(&mut self, mark: &[u8]) -> io::Result<()> {
        self.disk().write(MARK, 0, mark)
    }

    fn sync_mark(&mut self) -> io::Result<()> {
        self.disk().sync(MARK)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.clone())
    }
}

impl Reader for SimStorage {
    fn place(&self) -> String {
        Storage::place(self)
    }

    fn form(&self, segment: u32) -> io::Result<Form> {
        let there = self.disk().len(&segment_file(segment))?.is_some();
        Ok(if there { Form::Plain } else { Form::Absent })
    }

    fn open(&self, segment: u32) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(SimFile { storage: self.clone(), name: segment_file(segment) }))
    }

    fn derived(&self, name: &str) -> io::Result<Option<Arc<dyn ReadAt>>> {
        let bytes = lock(&self.derived).get(name).cloned();
        Ok(bytes.map(|bytes| Arc::new(Bytes(bytes)) as Arc<dyn ReadAt>))
    }

    fn keep_derived(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        lock(&self.derived).insert(name.to_owned(), bytes.into());
        Ok(())
    }
}

struct SimFile {
    storage: SimStorage,
    name: String,
}

impl ReadAt for SimFile {
    fn log_bytes(&self) -> io::Result<u64> {
        self.storage.disk().len(&self.name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.disk().read(&self.name, offset, buffer)
    }
}

struct Bytes(Arc<[u8]>);

impl ReadAt for Bytes {
    fn log_bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap().min(self.0.len());
        let count = buffer.len().min(self.0.len() - start);
        buffer[..count].copy_from_slice(&self.0[start..start + count]);
        Ok(count)
    }
}

/// Locks what a test that panics leaves as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The simulated disk as the ledger sees it, and the hold on it that makes batches the same each time.

use crate::sim::disk::Disk;
use gavel_ledger::{ReadAt, Storage};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const LOG: &str = "segment-000000.log";
const MARK: &str = "mark";

/// Handles to one disk.
#[derive(Debug, Clone)]
pub(crate) struct SimStorage {
    disk: Arc<Mutex<Disk>>,
    gate: Arc<Gate>,
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
        self.0.lock().reached
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        *self.0.lock() = GateState::default();
        self.0.opened.notify_all();
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) {
        let mut state = self.lock();
        state.reached = state.closed;
        drop(self.opened.wait_while(state, |state| state.closed).unwrap_or_else(PoisonError::into_inner));
    }
}

impl SimStorage {
    pub(crate) fn new(disk: Disk) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)), gate: Arc::default() }
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the guard is dropped, nothing is written to the log.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.gate.lock().closed = true;
        Hold(&self.gate)
    }

    pub(crate) fn tell(&self, what: &str) {
        self.disk().trace.push(format!("- {what}"));
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.disk().trace.clone()
    }
}

impl Storage for SimStorage {
    fn place(&self) -> String {
        "the simulated disk".to_owned()
    }

    fn log_bytes(&self) -> io::Result<u64> {
        Ok(self.disk().len(LOG)?.unwrap_or(0))
    }

    fn create_log(&mut self, first: &[u8]) -> io::Result<()> {
        self.disk().create(LOG, first)
    }

    fn write_log(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.gate.pass();
        self.disk().write(LOG, offset, bytes)
    }

    fn sync_log(&mut self) -> io::Result<()> {
        self.disk().sync(LOG)
    }

    fn truncate_log(&mut self, bytes: u64) -> io::Result<()> {
        self.disk().truncate(LOG, bytes)
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

    fn source(&self) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(SimFile { storage: self.clone(), name: LOG }))
    }
}

struct SimFile {
    storage: SimStorage,
    name: &'static str,
}

impl ReadAt for SimFile {
    fn log_bytes(&self) -> io::Result<u64> {
        Ok(self.storage.disk().len(self.name)?.unwrap_or(0))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.disk().read(self.name, offset, buffer)
    }
}

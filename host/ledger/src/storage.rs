//! Where the bytes live: the narrow waist between the log and the disk.
//!
//! The log knows nothing of files. It writes at an offset, syncs, and believes only what a sync
//! confirmed. Two things are stored: the log itself, and the mark, 64 bytes rewritten in place.
//! [`FileStorage`](crate::FileStorage) puts them on a disk; [`MemoryStorage`](crate::MemoryStorage)
//! keeps them in memory and fails on demand.

use std::io;
use std::sync::Arc;

/// The owner's side of a log: one writer.
pub trait Storage: Send {
    /// A name for messages, such as the path of the log.
    fn place(&self) -> String;

    /// The length of the log; 0 if there is none.
    ///
    /// # Errors
    /// As the operating system has it.
    fn log_bytes(&self) -> io::Result<u64>;

    /// Creates the log with `first` as its content, durably, and all or nothing: after a crash it
    /// is whole or absent.
    ///
    /// # Errors
    /// As the operating system has it.
    fn create_log(&mut self, first: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, extending the log. An error may leave a part behind.
    ///
    /// # Errors
    /// As the operating system has it.
    fn write_log(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when all that was written to the log would survive a loss of power.
    ///
    /// # Errors
    /// After an error nothing is known of what was written since the last sync, and no retry can
    /// tell.
    fn sync_log(&mut self) -> io::Result<()>;

    /// Cuts the log to `bytes`. Not durable before the next [`Storage::sync_log`].
    ///
    /// # Errors
    /// As the operating system has it.
    fn truncate_log(&mut self, bytes: u64) -> io::Result<()>;

    /// The content of the mark; empty if it was never written.
    ///
    /// # Errors
    /// As the operating system has it.
    fn read_mark(&self) -> io::Result<Vec<u8>>;

    /// Replaces the mark, which always has the same length. It must survive the process, not a loss
    /// of power.
    ///
    /// # Errors
    /// As the operating system has it.
    fn write_mark(&mut self, mark: &[u8]) -> io::Result<()>;

    /// Makes the mark durable.
    ///
    /// # Errors
    /// As the operating system has it.
    fn sync_mark(&mut self) -> io::Result<()>;

    /// A handle for readers, independent of the writer. The log must exist.
    ///
    /// # Errors
    /// As the operating system has it.
    fn source(&self) -> io::Result<Arc<dyn ReadAt>>;
}

/// The readers' side of a log; any number of them, at any time.
pub trait ReadAt: Send + Sync {
    /// The length of the log.
    ///
    /// # Errors
    /// As the operating system has it.
    fn log_bytes(&self) -> io::Result<u64>;

    /// Reads at `offset` into `buffer` and returns how much; 0 at the end.
    ///
    /// # Errors
    /// As the operating system has it.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

//! Where the bytes live: the narrow waist between the log and the disk.
//!
//! The log knows nothing of files. It writes at an offset of its newest segment, syncs, and believes
//! only what a sync confirmed. Stored are the segments; the mark, 64 bytes rewritten in place; and
//! derived data, which can always be made again. [`FileStorage`](crate::FileStorage) puts them on a
//! disk; [`MemoryStorage`](crate::MemoryStorage) keeps them in memory and fails on demand.

use std::io;
use std::sync::Arc;

/// The owner's side of a log: one writer.
pub trait Storage: Send {
    /// A name for messages, such as the path of the folder.
    fn place(&self) -> String;

    /// The newest segment, if there is any.
    ///
    /// # Errors
    /// As the operating system has it.
    fn newest_segment(&self) -> io::Result<Option<u32>>;

    /// Creates the segment after the newest with `first` as its content, durably, and all or nothing:
    /// after a crash it is whole or absent. It is the newest from then on.
    ///
    /// # Errors
    /// As the operating system has it.
    fn create_segment(&mut self, segment: u32, first: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset` of the newest segment, extending it. An error may leave a
    /// part behind.
    ///
    /// # Errors
    /// As the operating system has it.
    fn write_log(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when all that was written to the newest segment would survive a loss of power.
    ///
    /// # Errors
    /// After an error nothing is known of what was written since the last sync, and no retry can
    /// tell.
    fn sync_log(&mut self) -> io::Result<()>;

    /// Cuts the newest segment to `bytes`. Not durable before the next [`Storage::sync_log`].
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

    /// A handle for readers, independent of the writer.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// The readers' side of a log; any number of them, at any time.
pub trait Reader: Send + Sync {
    /// A name for messages.
    fn place(&self) -> String;

    /// The form in which a segment is here.
    ///
    /// # Errors
    /// As the operating system has it.
    fn form(&self, segment: u32) -> io::Result<Form>;

    /// Opens a segment for reading, whatever its form. One that is not here is `NotFound`.
    ///
    /// # Errors
    /// As the operating system has it.
    fn open(&self, segment: u32) -> io::Result<Arc<dyn ReadAt>>;

    /// Opens a piece of derived data, if it is there.
    ///
    /// # Errors
    /// As the operating system has it.
    fn derived(&self, name: &str) -> io::Result<Option<Arc<dyn ReadAt>>>;

    /// Keeps a piece of derived data, replacing what had its name, all or nothing.
    ///
    /// # Errors
    /// As the operating system has it.
    fn keep_derived(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// The form of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// As it was written.
    Plain,
    /// Compressed with zstd.
    Compressed,
    /// Only in an archive.
    Remote,
    /// Nowhere.
    Absent,
}

/// Bytes that can be read at any offset.
pub trait ReadAt: Send + Sync {
    /// How many there are.
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

//! A ledger directory: `segment-000000.log`, `mark` and `lock`, owned by one process at a time.
//!
//! The lock is `flock(2)` on the `lock` file: the kernel drops it when its holder dies, however
//! that happens, so a crash never leaves a lock behind. The pid inside only serves the message to
//! whoever comes second.

use crate::error::Error;
use crate::frame::MARK_BYTES;
use crate::storage::{ReadAt, Storage};
use crate::tail::MarkFound;
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOG: &str = "segment-000000.log";
const NEXT_LOG: &str = "segment-000001.log";
const NEW_LOG: &str = "segment-000000.log.new";
const MARK: &str = "mark";
const LOCK: &str = "lock";

/// Two writes of the mark are a sync apart, a read is a microsecond: one more is enough, and these are plenty.
const MARK_READS_MAX: usize = 8;

/// Evidence is for its owner's eyes.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A log on a file system. Dropping it releases the directory.
#[derive(Debug)]
pub struct FileStorage {
    dir: PathBuf,
    /// Absent until the log is created.
    log: Option<File>,
    mark: File,
    _lock: Lock,
}

impl FileStorage {
    /// Takes ownership of `dir`, creating it when absent.
    ///
    /// # Errors
    /// [`Error::Locked`] if someone else owns it, [`Error::Newer`] if it holds what a later version
    /// wrote.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        create_dir(dir).map_err(Error::io_at("create", dir))?;
        let lock = Lock::acquire(dir)?;
        refuse_later_segments(dir)?;
        let mark = open_or_create(&dir.join(MARK))?;
        let log = match OpenOptions::new().read(true).write(true).open(dir.join(LOG)) {
            Ok(log) => Some(log),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io_at("open", &dir.join(LOG))(error)),
        };
        // The names of lock and mark must outlive a crash as the log does.
        sync_dir(dir).map_err(Error::io_at("sync", dir))?;
        Ok(Self { dir: dir.to_owned(), log, mark, _lock: lock })
    }

    fn log(&self) -> io::Result<&File> {
        self.log.as_ref().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the log was not created yet"))
    }
}

impl Storage for FileStorage {
    fn place(&self) -> String {
        self.dir.join(LOG).display().to_string()
    }

    fn log_bytes(&self) -> io::Result<u64> {
        self.log.as_ref().map_or(Ok(0), |log| Ok(log.metadata()?.len()))
    }

    fn create_log(&mut self, first: &[u8]) -> io::Result<()> {
        let new = self.dir.join(NEW_LOG);
        let mut log =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
        log.write_all(first)?;
        log.sync_all()?;
        // Only a whole, durable file ever gets the name, so a log without header or first commit is
        // always damage.
        fs::rename(&new, self.dir.join(LOG))?;
        sync_dir(&self.dir)?;
        self.log = Some(log);
        Ok(())
    }

    fn write_log(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.log()?.write_all_at(bytes, offset)
    }

    fn sync_log(&mut self) -> io::Result<()> {
        self.log()?.sync_data()
    }

    fn truncate_log(&mut self, bytes: u64) -> io::Result<()> {
        self.log()?.set_len(bytes)
    }

    fn read_mark(&self) -> io::Result<Vec<u8>> {
        read_whole_mark(&self.mark)
    }

    fn write_mark(&mut self, mark: &[u8]) -> io::Result<()> {
        self.mark.write_all_at(mark, 0)
    }

    fn sync_mark(&mut self) -> io::Result<()> {
        self.mark.sync_data()
    }

    fn source(&self) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(FileSource(File::open(self.dir.join(LOG))?)))
    }
}

struct FileSource(File);

impl ReadAt for FileSource {
    fn log_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
}

/// The log in `dir` and the bytes of its mark, for reading only; needs no lock and leaves no trace.
pub(crate) fn open_read_only(dir: &Path) -> Result<(Arc<dyn ReadAt>, Vec<u8>), Error> {
    refuse_later_segments(dir)?;
    // The mark first: it then vouches for no more than the log, read after it, holds.
    let mark = match File::open(dir.join(MARK)) {
        Ok(mark) => read_moving_mark(&mark).map_err(Error::io_at("read", &dir.join(MARK)))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io_at("open", &dir.join(MARK))(error)),
    };
    match File::open(dir.join(LOG)) {
        Ok(log) => Ok((Arc::new(FileSource(log)), mark)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Absent { dir: dir.to_owned() }),
        Err(error) => Err(Error::io_at("open", &dir.join(LOG))(error)),
    }
}

/// This version writes one segment; more of them would be passed over in silence.
fn refuse_later_segments(dir: &Path) -> Result<(), Error> {
    match fs::exists(dir.join(NEXT_LOG)) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::Newer { segment: 1, found: 2, supported: crate::frame::FORMAT_VERSION }),
        Err(error) => Err(Error::io_at("look for", &dir.join(NEXT_LOG))(error)),
    }
}

/// The owner may be rewriting the mark right now, and a read beside a write can see half of each.
fn read_moving_mark(mark: &File) -> io::Result<Vec<u8>> {
    let mut bytes = read_whole_mark(mark)?;
    for _ in 0..MARK_READS_MAX {
        if MarkFound::of(&bytes) != MarkFound::Damaged {
            break;
        }
        bytes = read_whole_mark(mark)?;
    }
    Ok(bytes)
}

fn read_whole_mark(mark: &File) -> io::Result<Vec<u8>> {
    // One byte more than it should have, so that a longer file is seen to be wrong.
    let mut bytes = vec![0; MARK_BYTES + 1];
    let mut filled = 0;
    while filled < bytes.len() {
        match mark.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn open_or_create(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    options.open(path).map_err(Error::io_at("open", path))
}

/// Creates `dir` and what is missing above it, each name durable: a log is lost if the way to it
/// is.
fn create_dir(dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    let missing: Vec<&Path> = dir.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(&dir)?;
    missing.iter().filter_map(|created| created.parent()).try_for_each(sync_dir)
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Held as long as the directory is owned.
#[derive(Debug)]
struct Lock {
    file: File,
}

impl Lock {
    fn acquire(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(LOCK);
        let mut file = open_or_create(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Locked { dir: dir.to_owned(), holder: holder(&mut file) });
            }
            Err(errno) => return Err(Error::io_at("lock", &path)(errno.into())),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all_at(pid.as_bytes(), 0)).map_err(Error::io_at("write", &path))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A pid left behind would name the wrong process for the instant before the next holder
        // writes its own. Nothing depends on it, so a failure is passed over.
        let _ = self.file.set_len(0);
    }
}

fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut pid));
    match (read, pid.trim()) {
        (Ok(_), trimmed) if !trimmed.is_empty() => trimmed.to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_look() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("kernels/k/ledger");
        let mut storage = FileStorage::open(&dir).unwrap();
        storage.create_log(b"first").unwrap();
        assert_eq!(mode(&dir), DIR_MODE);
        for name in [LOG, MARK, LOCK] {
            assert_eq!(mode(&dir.join(name)), FILE_MODE, "{name}");
        }
        assert!(!dir.join(NEW_LOG).exists());
    }

    #[test]
    fn a_second_owner_is_told_who_is_first() {
        let root = tempfile::tempdir().unwrap();
        let first = FileStorage::open(root.path()).unwrap();
        let message = FileStorage::open(root.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(first);
        FileStorage::open(root.path()).unwrap();
    }

    #[test]
    fn a_later_segment_is_not_passed_over() {
        let root = tempfile::tempdir().unwrap();
        File::create(root.path().join(NEXT_LOG)).unwrap();
        assert!(matches!(FileStorage::open(root.path()), Err(Error::Newer { .. })));
    }
}

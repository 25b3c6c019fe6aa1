//! A ledger directory: `segment-NNNNNN.log`, `mark` and `lock`, owned by one process at a time.
//!
//! The lock is `flock(2)` on the `lock` file: the kernel drops it when its holder dies, however
//! that happens, so a crash never leaves a lock behind. The pid inside only serves the message to
//! whoever comes second.
//!
//! Whoever reads needs no lock: a segment is only appended to, and its other forms get their names
//! when they are whole.

use crate::error::Error;
use crate::frame::MARK_BYTES;
use crate::storage::{Form, ReadAt, Reader, Storage};
use crate::tail::MarkFound;
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const MARK: &str = "mark";
const LOCK: &str = "lock";

/// Two writes of the mark are a sync apart, a read is a microsecond: one more is enough, and these are plenty.
const MARK_READS_MAX: usize = 8;

/// Evidence is for its owner's eyes.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The file of a segment as it was written.
#[must_use]
pub fn segment_file(segment: u32) -> String {
    format!("segment-{segment:06}.log")
}

/// The file of a segment compressed with zstd.
#[must_use]
pub fn compressed_file(segment: u32) -> String {
    format!("segment-{segment:06}.log.zst")
}

/// The file that says where a segment is, when it is only in an archive.
#[must_use]
pub fn remote_file(segment: u32) -> String {
    format!("segment-{segment:06}.remote")
}

/// A log on a file system. Dropping it releases the directory.
#[derive(Debug)]
pub struct FileStorage {
    dir: PathBuf,
    newest: Option<(u32, File)>,
    mark: File,
    _lock: Lock,
}

impl FileStorage {
    /// Takes ownership of `dir`, creating it when absent.
    ///
    /// # Errors
    /// [`Error::Locked`] if someone else owns it.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        create_dir(dir).map_err(Error::io_at("create", dir))?;
        let lock = Lock::acquire(dir)?;
        crate::migrate::resume(dir)?;
        let mark = open_or_create(&dir.join(MARK))?;
        let newest = match newest_segment(dir).map_err(Error::io_at("list", dir))? {
            Some(segment) => {
                let path = dir.join(segment_file(segment));
                let log = OpenOptions::new().read(true).write(true).open(&path).map_err(Error::io_at("open", &path))?;
                Some((segment, log))
            }
            None => None,
        };
        // The names of lock and mark must outlive a crash as the log does.
        sync_dir(dir).map_err(Error::io_at("sync", dir))?;
        Ok(Self { dir: dir.to_owned(), newest, mark, _lock: lock })
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks again which segment is the newest, after files were moved.
    pub(crate) fn look_again(&mut self) -> io::Result<()> {
        self.newest = match newest_segment(&self.dir)? {
            Some(segment) => {
                let path = self.dir.join(segment_file(segment));
                Some((segment, OpenOptions::new().read(true).write(true).open(path)?))
            }
            None => None,
        };
        Ok(())
    }

    fn log(&self) -> io::Result<&File> {
        let log = self.newest.as_ref().map(|(_, log)| log);
        log.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the log was not created yet"))
    }
}

/// The newest segment of which there is a file in any form. It must be a plain one, as only sealed ones change their
/// form.
fn newest_segment(dir: &Path) -> io::Result<Option<u32>> {
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let segment = name.to_str().and_then(|name| name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok());
        newest = newest.max(segment.filter(|segment| *name == *segment_file(*segment)));
    }
    Ok(newest)
}

impl Storage for FileStorage {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn newest_segment(&self) -> io::Result<Option<u32>> {
        Ok(self.newest.as_ref().map(|(segment, _)| *segment))
    }

    fn create_segment(&mut self, segment: u32, first: &[u8]) -> io::Result<()> {
        // Only a whole, durable file ever gets the name, so a log without header or first commit is
        // always damage.
        let log = write_whole(&self.dir.join(segment_file(segment)), first)?;
        self.newest = Some((segment, log));
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

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(FolderReader { dir: self.dir.clone(), is_owner: true })
    }
}

/// Writes a file that is whole and durable as soon as it has its name.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_dir)?;
    Ok(file)
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

/// A ledger's folder, for reading only: it needs no lock and leaves no trace.
#[derive(Debug, Clone)]
pub(crate) struct FolderReader {
    dir: PathBuf,
    /// Only the owner writes what is derived; who reads changes nothing.
    is_owner: bool,
}

impl FolderReader {
    /// The folder, its newest segment, and the bytes of its mark.
    pub(crate) fn open(dir: &Path) -> Result<(Self, u32, Vec<u8>), Error> {
        // The mark first: it then vouches for no more than the log, read after it, holds.
        let mark = match File::open(dir.join(MARK)) {
            Ok(mark) => read_moving_mark(&mark).map_err(Error::io_at("read", &dir.join(MARK)))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io_at("open", &dir.join(MARK))(error)),
        };
        let newest = match newest_segment(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io_at("list", dir)(error)),
            newest => newest.ok().flatten(),
        };
        let newest = newest.ok_or_else(|| Error::Absent { dir: dir.to_owned() })?;
        Ok((Self { dir: dir.to_owned(), is_owner: false }, newest, mark))
    }
}

impl Reader for FolderReader {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn form(&self, segment: u32) -> io::Result<Form> {
        let forms = [
            (segment_file(segment), Form::Plain),
            (compressed_file(segment), Form::Compressed),
            (remote_file(segment), Form::Remote),
        ];
        for (name, form) in forms {
            if fs::exists(self.dir.join(name))? {
                return Ok(form);
            }
        }
        Ok(Form::Absent)
    }

    fn open(&self, segment: u32) -> io::Result<Arc<dyn ReadAt>> {
        match File::open(self.dir.join(segment_file(segment))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Arc::new(FileSource(decompressed(&self.dir.join(compressed_file(segment)))?)))
            }
            log => Ok(Arc::new(FileSource(log?))),
        }
    }

    fn derived(&self, name: &str) -> io::Result<Option<Arc<dyn ReadAt>>> {
        match File::open(self.dir.join(name)) {
            Ok(file) => Ok(Some(Arc::new(FileSource(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keep_derived(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.is_owner {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "only the ledger's owner writes in its folder",
            ));
        }
        write_whole(&self.dir.join(name), bytes).map(drop)
    }
}

/// A segment's file wherever it lies, plain or compressed: how it begins tells.
pub(crate) fn opened_segment(path: &Path) -> io::Result<Arc<dyn ReadAt>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let (file, mut begin) = (File::open(path)?, [0; 4]);
    let packed = file.read_at(&mut begin, 0)? == begin.len() && begin == ZSTD;
    Ok(Arc::new(FileSource(if packed { decompressed(path)? } else { file })))
}

/// The content of a compressed segment, in a file that has no name and goes when it is closed: a segment can have
/// four gigabytes.
fn decompressed(path: &Path) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let compressed = File::open(path)?;
    let name = format!("gavel-segment-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let scratch = std::env::temp_dir().join(name);
    let mut plain = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(&scratch)?;
    fs::remove_file(&scratch)?;
    zstd::stream::copy_decode(compressed, &mut plain)?;
    Ok(plain)
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
        storage.create_segment(0, b"first").unwrap();
        assert_eq!(mode(&dir), DIR_MODE);
        for name in [&segment_file(0), MARK, LOCK] {
            assert_eq!(mode(&dir.join(name)), FILE_MODE, "{name}");
        }
        assert!(!dir.join("segment-000000.log.new").exists());
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
    fn a_compressed_segment_reads_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(root.path()).unwrap();
        let plain = b"as it was".repeat(1000);
        fs::write(root.path().join(compressed_file(0)), zstd::encode_all(plain.as_slice(), 0).unwrap()).unwrap();
        let reader = storage.reader();
        assert_eq!((reader.form(0).unwrap(), reader.form(1).unwrap()), (Form::Compressed, Form::Absent));
        let mut bytes = vec![0; plain.len()];
        assert_eq!(reader.open(0).unwrap().read_at(&mut bytes, 0).unwrap(), plain.len());
        assert_eq!(bytes, plain);
    }
}

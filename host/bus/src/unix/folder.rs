//! The folder of the sockets: ours alone while it is served, each socket with its permissions before it has its name.

use super::UnixError;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// The longest path of a socket that Linux takes, in bytes.
const PATH_BYTES_MAX: usize = 107;
/// Held by the process that serves the folder.
const LOCK: &str = ".lock";
/// Where a socket is made, closed to everybody else.
const NEW: &str = ".new";

/// A folder whose sockets are ours; they are removed with it.
pub(super) struct Folder {
    path: PathBuf,
    permissions: u32,
    made: Vec<PathBuf>,
    /// Held until the sockets are removed, so that none of a next process is removed with them.
    _lock: File,
}

impl Folder {
    /// Make the folder, if it is not there, and be the only one to serve it.
    pub(super) fn open(path: &Path, permissions: u32) -> Result<Self, UnixError> {
        let failed = |why| UnixError::Socket { path: path.to_owned(), why };
        // Who may use the sockets may go into their folder.
        let open_to = |bits: u32, mode: u32| if permissions & bits == 0 { 0 } else { mode };
        let mode = 0o700 | open_to(0o060, 0o050) | open_to(0o006, 0o005);
        DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)?;
        let owner = std::fs::metadata(path).map_err(failed)?.uid();
        let us = rustix::process::geteuid().as_raw();
        if owner != us && owner != 0 {
            let text = format!("the folder is user {owner}'s, who could put sockets of theirs in the place of ours");
            return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, text)));
        }
        let lock = path.join(LOCK);
        let failed = |why| UnixError::Socket { path: lock.clone(), why };
        let file = File::options().write(true).create(true).truncate(false).open(&lock).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(UnixError::Taken(path.to_owned())),
            Err(std::fs::TryLockError::Error(why)) => return Err(failed(why)),
        }
        Ok(Self { path: path.to_owned(), permissions, made: Vec::new(), _lock: file })
    }

    /// Bind a socket. What a process that has died left there is replaced; nothing else is.
    pub(super) async fn listen(&mut self, name: &str) -> Result<UnixListener, UnixError> {
        let path = self.path.join(format!("{name}.sock"));
        let failed = |why| UnixError::Socket { path: path.clone(), why };
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            let text =
                format!("its path has {bytes} bytes, at most {PATH_BYTES_MAX} are possible: name a shorter socket_dir");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        may_be_replaced(&path).await?;
        let listener = self.bind_at(&path).map_err(failed)?;
        self.made.push(path);
        Ok(listener)
    }

    /// Nobody can connect before the permissions are set: until then the socket is where only we come in.
    fn bind_at(&self, path: &Path) -> io::Result<UnixListener> {
        let private = self.path.join(NEW);
        match DirBuilder::new().mode(0o700).create(&private) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
            // One that a process left that died here is emptied.
            _ => std::fs::set_permissions(&private, Permissions::from_mode(0o700))?,
        }
        let new = private.join("s");
        match std::fs::remove_file(&new) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, Permissions::from_mode(self.permissions))?;
        std::fs::rename(&new, path)?;
        std::fs::remove_dir(&private)?;
        Ok(listener)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for path in &self.made {
            // A file that is gone is gone. That of the lock stays: who waits for it would hold one that has no name.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether there is nothing at a path, or a socket that nobody serves.
async fn may_be_replaced(path: &Path) -> Result<(), UnixError> {
    let failed = |why| UnixError::Socket { path: path.to_owned(), why };
    let there = match std::fs::symlink_metadata(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there.map_err(failed)?,
    };
    if !there.file_type().is_socket() {
        let text = "there is a file of that name that is no socket";
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, text)));
    }
    match UnixStream::connect(path).await {
        Err(why) if matches!(why.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        // Served, or by somebody who is too busy to answer or whom we may not speak to.
        _ => Err(UnixError::Taken(path.to_owned())),
    }
}

//! Small files that are replaced whole: after a crash a reader finds the old one or the new one, never a part of either.
//!
//! Only the owner of the folder may read them (mode 0600), because some hold private keys.

use std::fs::{File, OpenOptions, remove_file, rename};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a file is called until it is whole.
const UNFINISHED: &str = "new";

/// Why a file was not replaced for certain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    /// The old file is as it was.
    #[error("{path}: {why}; nothing was changed", path = .path.display())]
    Before {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The new file has its name, and whether it keeps it after a loss of power is not known.
    #[error("{path}: it was replaced, but its folder could not be synced: {why}", path = .path.display())]
    After {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
}

/// Replaces the file `path`, or makes it, and returns when that survives a loss of power.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), NotKept> {
    let unfinished = unfinished(path);
    let written = write_new(&unfinished, bytes).and_then(|()| rename(&unfinished, path));
    if let Err(why) = written {
        // What is left of it is removed at the next opening, if not now.
        let _ = remove_file(&unfinished);
        return Err(NotKept::Before { path: path.to_owned(), why });
    }
    sync_folder_of(path).map_err(|why| NotKept::After { path: path.to_owned(), why })
}

/// Makes what was removed from, or named in, the folder of `path` survive a loss of power.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Removes what a crash left of a file that never got its name.
pub(crate) fn remove_unfinished(path: &Path) -> io::Result<()> {
    match remove_file(unfinished(path)) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// Whether this is the name of a file that never became whole.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == UNFINISHED)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that was left may have another mode.
    match remove_file(path) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(unfinished(&path), "what a crash left").unwrap();
        for text in ["one", "another, longer"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!unfinished(&path).exists());
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent/keys.json");
        let why = replace(&path, b"text").unwrap_err();
        assert!(matches!(&why, NotKept::Before { .. }), "{why}");
        assert!(why.to_string().contains("nothing was changed"), "{why}");
    }
}

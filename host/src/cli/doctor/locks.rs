//! Who holds a lock file, found out without locking it.

use rustix::fs::{Stat, stat};
use std::fs;
use std::path::Path;

/// A process that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Who has locked this file; `None` if nobody has, or it is not there.
///
/// The file names who locked it last, and stays when that has gone; so a process counts that has the file open, or, where
/// that cannot be read, for which the system lists a lock on it.
pub(super) fn holder(path: &Path) -> Option<Holder> {
    let path = path.canonicalize().ok()?;
    let named = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let inode = stat(&path).ok().map(|Stat { st_ino, .. }| st_ino);
    let listed: Vec<u32> = inode.map(lockers).unwrap_or_default();
    let mut candidates = named.into_iter().chain(listed.iter().copied());
    let pid = candidates.find(|pid| has_open(*pid, &path).unwrap_or_else(|| listed.contains(pid)))?;
    Some(Holder { pid, name: name(pid) })
}

/// A process's name, as `ps` shows it.
pub(super) fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}

/// Whether a process has a file open; `None` if that cannot be read.
fn has_open(pid: u32, path: &Path) -> Option<bool> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    Some(targets.any(|target| target == path))
}

/// Processes that the system lists as holders of a lock on a file with this number.
fn lockers(inode: u64) -> Vec<u32> {
    // `1: FLOCK  ADVISORY  WRITE 1234 00:3b:4711 0 EOF`, proc_locks(5).
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields[..] else { return None };
        (file.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok())?
    };
    fs::read_to_string("/proc/locks").unwrap_or_default().lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};

    #[test]
    fn who_holds_a_lock_is_found_and_who_held_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder(&path), None);
        let me = std::process::id();
        fs::write(&path, me.to_string()).unwrap();
        assert_eq!(holder(&path), None, "it is only named");
        let file = fs::File::open(&path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(holder(&path).map(|holder| holder.pid), Some(me));
        fs::write(&path, "4194305").unwrap();
        assert_eq!(holder(&path).map(|holder| holder.pid), Some(me), "the system lists it");
        drop(file);
        assert_eq!(holder(&path), None);
    }
}

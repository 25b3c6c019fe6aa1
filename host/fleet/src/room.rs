//! Room on the disk: who cannot write is not helped by a restart.

use rustix::fs::statvfs;
use rustix::process::geteuid;
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks at a disk that is full.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The file system on which the kernels write.
#[derive(Debug)]
pub(crate) struct Room {
    /// A folder on it.
    pub(crate) folder: PathBuf,
    /// Bytes that must be free on it; 0: it is not looked at.
    pub(crate) free_bytes_min: u64,
}

impl Room {
    /// That there is too little, and how little. `None` if there is enough, or nobody can tell.
    pub(crate) fn lack(&self) -> Option<String> {
        let seen = statvfs(&self.folder).ok()?;
        // The last blocks of some file systems are root's.
        let blocks = if geteuid().is_root() { seen.f_bfree } else { seen.f_bavail };
        let (free, least) = (blocks.saturating_mul(seen.f_frsize), self.free_bytes_min);
        let folder = self.folder.display();
        (free < least).then(|| {
            format!(
                "the disk of {folder} has {} KiB left, less than {} KiB (disk_free_bytes_min)",
                free >> 10,
                least >> 10
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_lacks_room_below_its_least_and_one_that_is_not_there_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let of = |free_bytes_min| Room { folder: folder.path().to_owned(), free_bytes_min };
        assert_eq!(of(0).lack(), None);
        let told = of(u64::MAX).lack().unwrap();
        assert!(told.contains("KiB left, less than 18014398509481983 KiB (disk_free_bytes_min)"), "{told}");
        let gone = Room { folder: folder.path().join("gone"), free_bytes_min: u64::MAX };
        assert_eq!(gone.lack(), None);
    }
}

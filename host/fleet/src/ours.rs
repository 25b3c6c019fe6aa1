//! Which processes are ours, kept on disk, so that the next fleet on this data knows what a killed one left behind.

use crate::holder::Identity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The processes of a fleet, and the file that names them.
#[derive(Debug)]
pub(crate) struct Ours {
    file: PathBuf,
    known: Mutex<Known>,
}

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    /// Of which start of the machine it speaks: after another one the same numbers are other processes.
    boot: String,
    processes: BTreeMap<String, Owned>,
}

/// A process of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owned {
    /// Which.
    #[serde(flatten)]
    pub identity: Identity,
    /// Its port.
    pub port: u16,
}

/// The processes that a fleet's file names, by their components; of those some may have ended. None if there is no file.
///
/// # Errors
/// If the file cannot be read, or does not hold what a fleet writes.
pub fn recorded(file: &Path) -> io::Result<BTreeMap<String, Identity>> {
    let known = read(file)?;
    Ok(known.processes.into_iter().map(|(name, owned)| (name, owned.identity)).collect())
}

/// What the file says of this start of the machine.
fn read(file: &Path) -> io::Result<Known> {
    let boot = boot_id();
    let known: Known = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Known { boot, processes: BTreeMap::new() }),
        Err(why) => return Err(why),
    };
    let processes = if known.boot == boot { known.processes } else { BTreeMap::new() };
    Ok(Known { boot, processes })
}

/// Another one after each start of the machine; nothing where the system does not tell.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Ours {
    /// Those that the file names. A file that says nothing (a full disk, a power cut) is set aside: what it knew is lost, and
    /// no reason not to start.
    ///
    /// # Errors
    /// If the file cannot be read, nor set aside.
    pub(crate) fn open(file: &Path) -> io::Result<Self> {
        let known = read(file).or_else(|why| {
            let aside = file.with_extension("unreadable");
            fs::rename(file, &aside)?;
            let (file, aside) = (file.display(), aside.display());
            tracing::warn!(
                "{file} is set aside as {aside} ({why}): what an earlier fleet left running is not known, nor ended"
            );
            Ok::<_, io::Error>(Known { boot: boot_id(), processes: BTreeMap::new() })
        })?;
        Ok(Self { file: file.to_owned(), known: Mutex::new(known) })
    }

    /// Remember, or forget, the process of a component.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn set(&self, name: &str, owned: Option<Owned>) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match owned {
            Some(owned) => known.processes.insert(name.to_owned(), owned),
            None => known.processes.remove(name),
        };
        let beside = self.file.with_extension("new");
        let mut written = File::create(&beside)?;
        written.write_all(&serde_json::to_vec(&*known)?)?;
        // Before it takes the other's place, lest a power cut leave neither.
        written.sync_all()?;
        fs::rename(&beside, &self.file)
    }

    /// The process of this number, if it is one of ours that still lives.
    #[must_use]
    pub(crate) fn find(&self, pid: u32) -> Option<(String, Owned)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.processes.iter().find(|(_, owned)| owned.identity.pid == pid && owned.identity.lives());
        found.map(|(name, owned)| (name.clone(), owned.clone()))
    }

    /// All of ours of which anything is left.
    #[must_use]
    pub(crate) fn left(&self) -> Vec<(String, Owned)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let left = known.processes.iter().filter(|(_, owned)| owned.identity.is_there());
        left.map(|(name, owned)| (name.clone(), owned.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Owned {
        Owned { identity: Identity::of(std::process::id()).unwrap(), port: 1 }
    }

    #[test]
    fn what_was_noted_is_found_again_and_only_in_this_life_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("processes.json");
        assert!(recorded(&file).unwrap().is_empty());
        Ours::open(&file).unwrap().set("a", Some(me())).unwrap();
        assert_eq!(Ours::open(&file).unwrap().left(), [("a".to_owned(), me())]);
        assert_eq!(recorded(&file).unwrap()["a"], me().identity);
        let other = fs::read_to_string(&file).unwrap().replace(&boot_id(), "another-boot");
        fs::write(&file, other).unwrap();
        let ours = Ours::open(&file).unwrap();
        assert!(ours.left().is_empty() && ours.find(me().identity.pid).is_none());
        ours.set("b", Some(me())).unwrap();
        assert_eq!(Ours::open(&file).unwrap().left(), [("b".to_owned(), me())]);
    }

    #[test]
    fn a_file_that_says_nothing_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("processes.json");
        for nothing in ["", "{", "[]"] {
            fs::write(&file, nothing).unwrap();
            assert!(recorded(&file).is_err());
            assert!(Ours::open(&file).unwrap().left().is_empty());
            assert!(!file.exists());
            assert_eq!(fs::read_to_string(file.with_extension("unreadable")).unwrap(), nothing);
        }
    }
}

//! A disk in memory that fails in every way in which disks fail, from one seed.
//!
//! It holds files by name and knows three states of each 512-byte sector: what a process reads (the page cache), what
//! was written since the last sync (any version of it, or none, may be on the medium), and what the medium holds. A
//! [`Fault`] strikes at one operation, chosen beforehand. When the machine goes down, [`Disk::reboot`] decides for
//! every unsynced sector by itself which version arrived: so writes are lost and reordered as on real disks.

use crate::sim::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The atomic unit.
pub(crate) const SECTOR_BYTES: usize = 512;

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies within the operation; what it wrote so far stays readable.
    Kill,
    /// The machine loses power within the operation.
    PowerLoss,
    /// As `PowerLoss`, and one sector that was being written arrives in part.
    TornSector,
    /// A write or a sync fails, with whatever part of it done.
    Error,
    /// A write finds no room.
    NoSpace,
    /// A sync is confirmed, but one sector is not on the medium.
    LostWrite,
    /// A sync is confirmed, but one sector went to another place.
    MisdirectedWrite,
}

impl Fault {
    /// Whether the disk breaks its promises. Any other fault is a crash, or an error that is told, and must be
    /// survived without a word from the operator.
    pub(crate) fn is_damage(self) -> bool {
        matches!(self, Self::TornSector | Self::LostWrite | Self::MisdirectedWrite)
    }
}

/// What happens to a disk at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decay {
    /// A sector cannot be read any more.
    LatentError,
    /// A bit of a sector is another.
    Rot,
    /// A sector reads as zeros.
    Zeros,
    /// A file ends too early.
    Shortened,
    /// A file is gone.
    Removed,
}

/// One file.
#[derive(Debug, Clone, Default)]
struct File {
    /// What a process reads.
    cached: Vec<u8>,
    /// What the medium holds.
    medium: Vec<u8>,
    /// Every version of each sector that was written since it was last synced.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Sectors that cannot be read.
    bad: BTreeSet<usize>,
}

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    files: BTreeMap<String, File>,
    dice: Dice,
    /// What strikes, and after how many operations more.
    plan: Option<(u32, Fault)>,
    /// The fault that struck since the last restart.
    struck: Option<Fault>,
    /// Nothing works until the restart.
    dead: bool,
    /// What was done, for the message of a seed that fails.
    pub(crate) trace: Vec<String>,
}

/// What an operation is to do.
enum Course {
    Well,
    Strikes(Fault),
}

impl Disk {
    pub(crate) fn new(dice: Dice) -> Self {
        Self { files: BTreeMap::new(), dice, plan: None, struck: None, dead: false, trace: Vec::new() }
    }

    /// Arranges for a fault after so many good operations.
    pub(crate) fn plan(&mut self, after: u32, fault: Fault) {
        self.plan = Some((after, fault));
    }

    /// What struck since the last restart.
    pub(crate) fn struck(&self) -> Option<Fault> {
        self.struck
    }

    /// From now on nothing works: the process is gone.
    pub(crate) fn die(&mut self) {
        self.dead = true;
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    /// What a process would read.
    pub(crate) fn content(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|file| file.cached.as_slice())
    }

    /// All files, as a process would read them.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.files.iter().map(|(name, file)| (name.clone(), file.cached.clone())).collect()
    }

    // --- operations of a process ---

    pub(crate) fn len(&self, name: &str) -> io::Result<Option<u64>> {
        self.alive()?;
        Ok(self.files.get(name).map(|file| file.cached.len() as u64))
    }

    pub(crate) fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.alive()?;
        let file = self.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).unwrap().min(file.cached.len());
        let count = buffer.len().min(file.cached.len() - start);
        if file.bad.range(start / SECTOR_BYTES..(start + count).div_ceil(SECTOR_BYTES)).next().is_some() {
            return Err(input_output_error());
        }
        buffer[..count].copy_from_slice(&file.cached[start..start + count]);
        Ok(count)
    }

    /// Writes in place or at the end; may leave a part behind when it fails.
    pub(crate) fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let course = self.next(&format!("write {name} at {offset}: {} bytes", bytes.len()))?;
        let start = usize::try_from(offset).unwrap();
        let file = self.files.entry(name.to_owned()).or_default();
        let Course::Strikes(fault) = course else {
            file.write(start, bytes);
            return Ok(());
        };
        let part = self.dice.below(bytes.len() + 1);
        file.write(start, &bytes[..part]);
        self.strike(fault)
    }

    /// Confirms what was written.
    pub(crate) fn sync(&mut self, name: &str) -> io::Result<()> {
        let course = self.next(&format!("sync {name}"))?;
        let file = self.files.entry(name.to_owned()).or_default();
        match course {
            Course::Well => file.sync(|_| true),
            Course::Strikes(Fault::Error | Fault::NoSpace) => {
                // As Linux does: pages that could not be written are called clean, and a later sync passes over them.
                let dice = &mut self.dice;
                file.sync(|_| dice.coin());
            }
            Course::Strikes(Fault::LostWrite) => {
                let lost = file.unsynced.keys().copied().nth(self.dice.below(file.unsynced.len().max(1)));
                file.sync(|sector| Some(sector) != lost);
            }
            Course::Strikes(Fault::MisdirectedWrite) => self.misdirect(name),
            // What is in flight when power fails is decided at the restart.
            Course::Strikes(Fault::Kill | Fault::PowerLoss | Fault::TornSector) => {}
        }
        match course {
            Course::Well => Ok(()),
            Course::Strikes(fault) => self.strike(fault),
        }
    }

    pub(crate) fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let course = self.next(&format!("truncate {name} to {bytes}"))?;
        if let Course::Strikes(fault) = course
            && self.dice.coin()
        {
            return self.strike(fault);
        }
        let bytes = usize::try_from(bytes).unwrap();
        let file = self.files.entry(name.to_owned()).or_default();
        file.cached.truncate(bytes);
        // The cut goes to the medium at once or, where it matters, is not seen before the sync: a crash in between
        // leaves a longer file, which is that of a crash before the cut.
        file.unsynced.retain(|&sector, _| sector * SECTOR_BYTES < bytes);
        file.bad.retain(|&sector| sector * SECTOR_BYTES < bytes);
        match course {
            Course::Well => Ok(()),
            Course::Strikes(fault) => self.strike(fault),
        }
    }

    /// A new file with this content, durable, all or nothing.
    pub(crate) fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let course = self.next(&format!("create {name}: {} bytes", bytes.len()))?;
        let done = matches!(course, Course::Well) || self.dice.coin();
        if done {
            let file = File { cached: bytes.to_vec(), medium: bytes.to_vec(), ..File::default() };
            self.files.insert(name.to_owned(), file);
        }
        match course {
            Course::Well => Ok(()),
            Course::Strikes(fault) => self.strike(fault),
        }
    }

    pub(crate) fn alive(&self) -> io::Result<()> {
        if self.dead { Err(input_output_error()) } else { Ok(()) }
    }

    /// What the next operation is to do.
    fn next(&mut self, what: &str) -> io::Result<Course> {
        self.alive()?;
        let strikes = match &mut self.plan {
            Some((0, fault)) => Some(*fault),
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        };
        self.trace.push(strikes.map_or_else(|| what.to_owned(), |fault| format!("{what} <- {fault:?}")));
        let Some(fault) = strikes else { return Ok(Course::Well) };
        // Only a sync can lie about what it wrote; the fault waits for one.
        if matches!(fault, Fault::LostWrite | Fault::MisdirectedWrite) && !what.starts_with("sync") {
            self.trace.push("... waits for a sync".to_owned());
            return Ok(Course::Well);
        }
        self.plan = None;
        self.struck = Some(fault);
        Ok(Course::Strikes(fault))
    }

    /// What the process is told, if it is still there.
    fn strike(&mut self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::LostWrite | Fault::MisdirectedWrite => Ok(()),
            Fault::Error => Err(input_output_error()),
            Fault::NoSpace => Err(io::ErrorKind::StorageFull.into()),
            Fault::Kill | Fault::PowerLoss | Fault::TornSector => {
                self.dead = true;
                Err(input_output_error())
            }
        }
    }

    /// One sector of what is synced goes to another place, of this file or another.
    fn misdirect(&mut self, name: &str) {
        let names = self.names();
        let target_name = names[self.dice.below(names.len())].clone();
        let Some(file) = self.files.get_mut(name) else { return };
        let sector = file.unsynced.keys().copied().nth(self.dice.below(file.unsynced.len().max(1)));
        file.sync(|written| Some(written) != sector);
        let Some(sector) = sector else { return };
        let content = file.sector(sector).to_vec();
        let Some(target) = self.files.get_mut(&target_name) else { return };
        let sectors = target.medium.len().div_ceil(SECTOR_BYTES).max(1);
        let at = self.dice.below(sectors);
        self.trace.push(format!("... sector {sector} of {name} went to {at} of {target_name}"));
        target.put(at, &content);
    }

    // --- what happens while no process runs ---

    /// The process is started again: only it was gone.
    pub(crate) fn restart(&mut self) {
        self.trace.push("-- restart".to_owned());
        self.dead = false;
        self.plan = None;
        self.struck = None;
    }

    /// The machine is started again: of what was not synced, some sectors arrived in some version.
    pub(crate) fn reboot(&mut self) {
        self.trace.push("-- reboot".to_owned());
        let torn = self.struck == Some(Fault::TornSector);
        for (name, file) in &mut self.files {
            let mut tear = torn && !file.unsynced.is_empty();
            for (sector, versions) in std::mem::take(&mut file.unsynced) {
                let Some(version) = self.dice.below(versions.len() + 1).checked_sub(1) else { continue };
                let mut content = versions[version].clone();
                if std::mem::take(&mut tear) {
                    let old = file.medium.get(sector * SECTOR_BYTES..).unwrap_or_default();
                    let old = old.iter().copied().chain(std::iter::repeat(0));
                    let at = self.dice.below(content.len());
                    content.iter_mut().zip(old).skip(at).for_each(|(byte, old)| *byte = old);
                    self.trace.push(format!("... sector {sector} of {name} is torn at byte {at}"));
                }
                file.put(sector, &content);
            }
            // A file that grew may have its new length before its new content.
            if file.medium.len() < file.cached.len() && self.dice.coin() {
                file.medium.resize(file.cached.len(), 0);
            }
            file.cached.clone_from(&file.medium);
        }
        self.dead = false;
        self.plan = None;
        self.struck = None;
    }

    /// Something happens to a file at rest; what, for messages.
    pub(crate) fn decay(&mut self, decay: Decay) -> String {
        let names: Vec<String> =
            self.files.iter().filter(|(_, file)| !file.cached.is_empty()).map(|(name, _)| name.clone()).collect();
        let name = names[self.dice.below(names.len())].clone();
        let file = self.files.get_mut(&name).unwrap();
        let at = self.dice.below(file.cached.len());
        let sector = at / SECTOR_BYTES;
        match decay {
            Decay::LatentError => _ = file.bad.insert(sector),
            Decay::Rot => file.medium[at] ^= 1 << self.dice.below(8),
            Decay::Zeros => {
                let end = ((sector + 1) * SECTOR_BYTES).min(file.medium.len());
                file.medium[sector * SECTOR_BYTES..end].fill(0);
            }
            Decay::Shortened => file.medium.truncate(at),
            Decay::Removed => _ = self.files.remove(&name),
        }
        if let Some(file) = self.files.get_mut(&name) {
            file.cached.clone_from(&file.medium);
        }
        let what = format!("{decay:?} at byte {at} of {name}");
        self.trace.push(format!("-- {what}"));
        what
    }
}

impl File {
    fn sector(&self, sector: usize) -> &[u8] {
        let start = (sector * SECTOR_BYTES).min(self.cached.len());
        &self.cached[start..(start + SECTOR_BYTES).min(self.cached.len())]
    }

    fn write(&mut self, start: usize, bytes: &[u8]) {
        let end = start + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[start..end].copy_from_slice(bytes);
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let content = self.sector(sector).to_vec();
            self.unsynced.entry(sector).or_default().push(content);
        }
    }

    /// Puts all that is unsynced on the medium where `arrives` says so.
    fn sync(&mut self, mut arrives: impl FnMut(usize) -> bool) {
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            if arrives(sector) {
                let content = self.sector(sector).to_vec();
                self.put(sector, &content);
            }
        }
        // The length is metadata, and goes with any sync.
        self.medium.resize(self.cached.len(), 0);
    }

    /// Puts a sector on the medium.
    fn put(&mut self, sector: usize, content: &[u8]) {
        let start = sector * SECTOR_BYTES;
        let end = start + content.len();
        if self.medium.len() < end {
            self.medium.resize(end, 0);
        }
        self.medium[start..end].copy_from_slice(content);
    }
}

fn input_output_error() -> io::Error {
    // EIO, which has no kind of its own.
    io::Error::from_raw_os_error(5)
}

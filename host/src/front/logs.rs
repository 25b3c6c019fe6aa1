//! What the kernels write: each line to the fleet's own output under the kernel's name, and to a file of that kernel.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Lines that may wait for one who follows; who is slower misses some, and is told so.
const FOLLOWED_LINES: usize = 1_024;

/// The logs of a fleet's kernels.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
    bytes_max: u64,
    files: Mutex<BTreeMap<String, Written>>,
    /// Kernels whose log could not be written.
    failing: Mutex<BTreeSet<String>>,
    told: broadcast::Sender<Line>,
}

/// One line of a kernel.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) kernel: String,
    pub(super) text: String,
}

#[derive(Debug)]
struct Written {
    file: File,
    bytes: u64,
}

impl Logs {
    pub(super) fn open(folder: &Path, bytes_max: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let (told, _) = broadcast::channel(FOLLOWED_LINES);
        Ok(Self { folder: folder.to_owned(), bytes_max, files: Mutex::default(), failing: Mutex::default(), told })
    }

    /// Take a line. A log that cannot be written is told on the fleet's own, and stops nothing.
    pub(super) fn take(&self, kernel: &str, text: &str) {
        let mut err = std::io::stderr().lock();
        let _ = writeln!(err, "{kernel:>18} | {text}");
        drop(err);
        let written = self.write(kernel, text);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        // Told once, not for each line: what is told is read by those who look for why.
        if let Err(why) = written {
            if failing.insert(kernel.to_owned()) {
                let path = self.path(kernel);
                tracing::error!(kernel, "its log {} cannot be written, so lines are lost: {why}", path.display());
            }
        } else if failing.remove(kernel) {
            tracing::warn!(kernel, "its log is written again; lines are missing");
        }
        drop(failing);
        // Nobody need follow.
        let _ = self.told.send(Line { kernel: kernel.to_owned(), text: text.to_owned() });
    }

    fn write(&self, kernel: &str, text: &str) -> std::io::Result<()> {
        let mut files = self.lock();
        let path = self.path(kernel);
        if !files.contains_key(kernel) {
            files.insert(kernel.to_owned(), Written::open(&path)?);
        }
        let Some(written) = files.get_mut(kernel) else { return Ok(()) };
        if written.bytes >= self.bytes_max {
            std::fs::rename(&path, self.former(kernel))?;
            *written = Written::open(&path)?;
        }
        writeln!(written.file, "{text}")?;
        written.bytes += text.len() as u64 + 1;
        Ok(())
    }

    /// The last lines of a kernel, the oldest first.
    pub(super) fn last(&self, kernel: &str, most: usize) -> std::io::Result<Vec<String>> {
        let mut lines = std::collections::VecDeque::new();
        for path in [self.former(kernel), self.path(kernel)] {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => continue,
                Err(why) => return Err(why),
            };
            for line in BufReader::new(file).split(b'\n') {
                lines.push_back(String::from_utf8_lossy(&line?).into_owned());
                if lines.len() > most {
                    lines.pop_front();
                }
            }
        }
        Ok(lines.into())
    }

    /// What comes from now on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Line> {
        self.told.subscribe()
    }

    pub(super) fn flush(&self) {
        for (kernel, written) in self.lock().iter() {
            if let Err(why) = written.file.sync_all() {
                tracing::warn!(kernel, "its log could not be synced: {why}");
            }
        }
    }

    fn path(&self, kernel: &str) -> PathBuf {
        self.folder.join(format!("{kernel}.log"))
    }

    fn former(&self, kernel: &str) -> PathBuf {
        self.folder.join(format!("{kernel}.log.1"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Written>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_over_a_turn_of_the_file_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path(), 40).unwrap();
        for line in 0..10 {
            logs.take("a", &format!("line {line} of ten"));
        }
        assert_eq!(logs.last("a", 2).unwrap(), ["line 8 of ten", "line 9 of ten"]);
        let kept: u64 =
            ["a.log", "a.log.1"].iter().map(|name| folder.path().join(name).metadata().unwrap().len()).sum();
        assert!(kept < 120, "{kept}");
        assert!(logs.last("b", 2).unwrap().is_empty());
    }
}

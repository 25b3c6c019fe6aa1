//! What the kernels write: each line to the fleet's own output under the kernel's name, and to a file of that kernel.
//!
//! Those who gather the lines wait for no disk and no terminal: two threads write, one the files and one the fleet's output, each
//! behind a queue with an end. What does not fit is dropped there, counted, and told.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Lines that may wait for one who follows; who is slower misses some, and is told so.
const FOLLOWED_LINES: usize = 1_024;
/// Lines that may wait to be written. They are at most 16 KiB each.
const WAITING_LINES: usize = 4_096;
/// How long those who read a log wait for what was taken before to be written.
const READ_PATIENCE: Duration = Duration::from_millis(500);
/// How long the end of the fleet waits for the last lines to be written.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The logs of a fleet's kernels.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
    files: Queue,
    output: Queue,
    told: broadcast::Sender<Line>,
}

/// One line of a kernel.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) kernel: String,
    pub(super) text: String,
}

/// What a thread that writes is asked for.
enum Task {
    Write(Line),
    /// Tell that what was asked for before is done.
    Tell(SyncSender<()>),
    /// The same, and have it synced.
    Sync(SyncSender<()>),
}

/// The way to a thread that writes.
#[derive(Debug)]
struct Queue {
    tasks: SyncSender<Task>,
    dropped: Arc<AtomicU64>,
}

/// Where lines are written to.
trait Sink: Send + 'static {
    fn write(&mut self, line: Line);
    /// Tell of lines that are missing here.
    fn missing(&mut self, lines: u64);
    fn sync(&mut self);
}

impl Queue {
    fn to(name: &str, sink: impl Sink, most: usize) -> std::io::Result<Self> {
        let (tasks, comes) = sync_channel(most);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name(name.to_owned()).spawn(move || write_all(sink, &comes, &counted))?;
        Ok(Self { tasks, dropped })
    }

    /// Have a line written, unless too many wait.
    fn give(&self, line: Line) {
        if self.tasks.try_send(Task::Write(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wait until what was given before is written, and this task after it is done; says whether it is.
    fn settle(&self, task: impl FnOnce(SyncSender<()>) -> Task, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let (done, is_done) = sync_channel(1);
        let mut task = task(done);
        while let Err(full) = self.tasks.try_send(task) {
            match full {
                TrySendError::Full(back) if Instant::now() < until => task = back,
                _ => return false,
            }
            thread::sleep(FULL_PAUSE);
        }
        is_done.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok()
    }
}

/// Between two tries to have a place in a queue that is full.
const FULL_PAUSE: Duration = Duration::from_millis(5);

fn write_all(mut sink: impl Sink, tasks: &Receiver<Task>, dropped: &AtomicU64) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Write(line) => sink.write(line),
            Task::Tell(done) => tell(&done),
            Task::Sync(done) => {
                sink.sync();
                tell(&done);
            }
        }
        let missing = dropped.swap(0, Ordering::Relaxed);
        if missing > 0 {
            sink.missing(missing);
        }
    }
}

fn tell(done: &SyncSender<()>) {
    // Who waited for it may have gone.
    let _ = done.try_send(());
}

/// The fleet's own output.
struct Output<W>(W);

impl<W: Write + Send + 'static> Sink for Output<W> {
    fn write(&mut self, line: Line) {
        // Nobody is there to be told that it cannot be written to.
        let _ = writeln!(self.0, "{:>18} | {}", line.kernel, line.text);
    }

    fn missing(&mut self, lines: u64) {
        let _ = writeln!(self.0, "{:>18} | {lines} lines of kernels were dropped here: they came too fast", "gavel");
    }

    fn sync(&mut self) {
        let _ = self.0.flush();
    }
}

/// The kernels' files.
struct Files {
    folder: PathBuf,
    bytes_max: u64,
    open: BTreeMap<String, Written>,
    /// Kernels whose log could not be written.
    failing: BTreeSet<String>,
    told: broadcast::Sender<Line>,
}

struct Written {
    file: File,
    bytes: u64,
}

impl Sink for Files {
    /// A log that cannot be written is told on the fleet's own, and stops nothing.
    fn write(&mut self, line: Line) {
        let kernel = line.kernel.as_str();
        // Told once, not for each line: what is told is read by those who look for why.
        if let Err(why) = self.append(&line) {
            if self.failing.insert(kernel.to_owned()) {
                let path = path(&self.folder, kernel);
                tracing::error!(kernel, "its log {} cannot be written, so lines are lost: {why}", path.display());
            }
        } else if self.failing.remove(kernel) {
            tracing::warn!(kernel, "its log is written again; lines are missing");
        }
        // Nobody need follow.
        let _ = self.told.send(line);
    }

    fn missing(&mut self, lines: u64) {
        tracing::warn!(
            lines,
            "lines of kernels are missing in their logs: they came faster than they could be written"
        );
    }

    fn sync(&mut self) {
        for (kernel, written) in &self.open {
            if let Err(why) = written.file.sync_data() {
                tracing::warn!(kernel, "its log could not be synced: {why}");
            }
        }
    }
}

impl Files {
    fn append(&mut self, line: &Line) -> std::io::Result<()> {
        let kernel = line.kernel.as_str();
        let path = path(&self.folder, kernel);
        if !self.open.contains_key(kernel) {
            self.open.insert(kernel.to_owned(), Written::open(&path)?);
        }
        let Some(written) = self.open.get_mut(kernel) else { return Ok(()) };
        if written.bytes >= self.bytes_max {
            std::fs::rename(&path, former(&self.folder, kernel))?;
            *written = Written::open(&path)?;
        }
        // At once, so that nobody reads a part of a line.
        written.file.write_all(format!("{}\n", line.text).as_bytes())?;
        written.bytes += line.text.len() as u64 + 1;
        Ok(())
    }
}

fn path(folder: &Path, kernel: &str) -> PathBuf {
    folder.join(format!("{kernel}.log"))
}

fn former(folder: &Path, kernel: &str) -> PathBuf {
    folder.join(format!("{kernel}.log.1"))
}

impl Logs {
    pub(super) fn open(folder: &Path, bytes_max: u64) -> Result<Self> {
        Self::with(folder, bytes_max, Output(std::io::stderr()), WAITING_LINES)
    }

    fn with(folder: &Path, bytes_max: u64, output: impl Sink, most: usize) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let (told, _) = broadcast::channel(FOLLOWED_LINES);
        let (open, failing) = (BTreeMap::new(), BTreeSet::new());
        let files = Files { folder: folder.to_owned(), bytes_max, open, failing, told: told.clone() };
        let files = Queue::to("fleet-logs", files, most).context("no thread can be had for the logs")?;
        let output = Queue::to("fleet-output", output, most).context("no thread can be had for the output")?;
        Ok(Self { folder: folder.to_owned(), files, output, told })
    }

    /// Take a line, at once.
    pub(super) fn take(&self, kernel: &str, text: &str) {
        let line = Line { kernel: kernel.to_owned(), text: text.to_owned() };
        self.output.give(line.clone());
        self.files.give(line);
    }

    /// The last lines of a kernel, the oldest first.
    pub(super) fn last(&self, kernel: &str, most: usize) -> std::io::Result<Vec<String>> {
        // If the disk is that slow, it is the last ones that there are.
        self.files.settle(Task::Tell, READ_PATIENCE);
        let mut lines = std::collections::VecDeque::new();
        for path in [former(&self.folder, kernel), path(&self.folder, kernel)] {
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

    /// Wait until what was taken is written and synced, within limits: what nobody reads must not keep the fleet from ending.
    pub(super) fn flush(&self) {
        let (files, output) =
            (self.files.settle(Task::Sync, END_PATIENCE), self.output.settle(Task::Sync, END_PATIENCE));
        if !files {
            tracing::warn!("the last lines of the kernels' logs could not be written in time");
        }
        if files && !output {
            tracing::debug!("the last lines of the kernels could not be shown in time");
        }
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

    /// An output that takes nothing until it is let go.
    struct Blocked(Receiver<()>, SyncSender<String>);

    impl Sink for Blocked {
        fn write(&mut self, line: Line) {
            let _ = self.0.recv();
            self.1.send(line.text).unwrap();
        }

        fn missing(&mut self, lines: u64) {
            self.1.send(format!("{lines} missing")).unwrap();
        }

        fn sync(&mut self) {}
    }

    #[test]
    fn an_output_that_is_blocked_stops_nobody_and_what_it_misses_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let ((release, held), (tell, told)) = (sync_channel(1), sync_channel(1_000));
        let logs = Logs::with(folder.path(), 1 << 20, Blocked(held, tell), 10).unwrap();
        for line in 0..100 {
            logs.take("a", &format!("line {line}"));
            assert_eq!(logs.last("a", 1).unwrap(), [format!("line {line}")], "the file has it all the same");
        }
        assert!(!logs.output.settle(Task::Tell, Duration::ZERO), "it takes nothing");
        drop(release);
        assert!(logs.output.settle(Task::Tell, Duration::from_mins(1)));
        drop(logs);
        let told: Vec<String> = told.iter().collect();
        let missing = told.iter().filter_map(|line| line.strip_suffix(" missing")?.parse::<usize>().ok());
        let missing: usize = missing.sum();
        let shown = told.iter().filter(|line| line.starts_with("line ")).count();
        assert!(missing >= 89 && shown + missing == 100, "{told:?}");
    }
}

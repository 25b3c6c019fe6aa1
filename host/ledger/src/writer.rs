//! The way of a batch: built, written, synced, and only then told.
//!
//! Two threads take turns, each carrying its batch from the queue to the callbacks through three
//! stations in a row: the stage, the disk, the telling. Each station admits one thread, and a
//! thread enters the next before it leaves the one behind, so batches cannot overtake each other.
//! While one thread waits for the disk, the other hashes the next batch: at some 2,000 records a
//! batch, building takes as long as syncing, and doing both at once doubles what gets through. A
//! single append meets no handover: whoever wakes up for it takes it all the way.
//!
//! At the disk, each step is taken only if the one before succeeded: write the log, sync it, write
//! the mark, publish the snapshot. The first I/O error is the end: from then on everything is
//! refused (after a failed fsync, nothing that a later one says about these bytes can be believed).
//! The threads own the storage, and with it the lock on the directory, until the ledger is closed,
//! poisoned or not.

use crate::error::AppendError;
use crate::frame::Mark;
use crate::ledger::{Committed, Snapshot, Stats, SyncMode};
use crate::queue::{Done, Job, Queue, Taken};
use crate::stage::{Batch, Stage};
use crate::storage::Storage;
use crate::store::Store;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One thread builds while the other syncs; a third would find no station free.
pub(crate) const THREADS: usize = 2;

/// Jobs from which on building takes long enough (some 2 us each) to be worth hiding behind the
/// sync before.
const BUILT_AHEAD_MIN: usize = 64;

/// What the writer shares with the callers.
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) store: Arc<Store>,
    committed: Mutex<Snapshot>,
    counters: Counters,
}

impl Shared {
    pub(crate) fn new(queue: Queue, store: Arc<Store>, committed: Snapshot) -> Self {
        Self { queue, store, committed: Mutex::new(committed), counters: Counters::default() }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        lock(&self.committed).clone()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.counters.read(self.queue.depth())
    }
}

/// Counted by the writer alone, read by anyone.
#[derive(Default)]
struct Counters {
    appended: AtomicU64,
    refused: AtomicU64,
    batches: AtomicU64,
    syncs: AtomicU64,
    bytes: AtomicU64,
    batch_records_max: AtomicU64,
    sync_ns_total: AtomicU64,
    callback_panics: AtomicU64,
}

impl Counters {
    fn read(&self, queue_depth: usize) -> Stats {
        Stats {
            appended: self.appended.load(Relaxed),
            refused: self.refused.load(Relaxed),
            batches: self.batches.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            batch_records_max: self.batch_records_max.load(Relaxed),
            sync_ns_total: self.sync_ns_total.load(Relaxed),
            callback_panics: self.callback_panics.load(Relaxed),
            queue_depth: queue_depth as u64,
        }
    }

    fn count(&self, batch: &Batch) {
        let records = batch.leaves.len() as u64;
        self.appended.fetch_add(records, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.bytes.fetch_add(batch.bytes.len() as u64, Relaxed);
        self.batch_records_max.fetch_max(records, Relaxed);
    }

    fn count_sync(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Relaxed);
        self.sync_ns_total.fetch_add(took_ns, Relaxed);
    }

    fn tell(&self, done: Done, fate: Result<Committed, AppendError>) {
        if fate.is_err() {
            self.refused.fetch_add(1, Relaxed);
        }
        // A caller's panic must not take the other callers' records with it.
        if catch_unwind(AssertUnwindSafe(|| done(fate))).is_err() {
            self.callback_panics.fetch_add(1, Relaxed);
        }
    }
}

const PANICKED: &str = "the writer panicked; this is a bug: please report it";

/// How the writer goes about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) sync: SyncMode,
    pub(crate) batch_bytes_max: usize,
    pub(crate) mark_sync_after: Duration,
}

/// The three stations, in the order in which a batch passes them.
pub(crate) struct Writer {
    stage: Mutex<Entrance>,
    disk: Mutex<Disk>,
    telling: Mutex<()>,
    pace: Pace,
    shared: Arc<Shared>,
}

/// The first station.
struct Entrance {
    stage: Stage,
    /// A batch passed since the mark was last synced: worth waking up for when nothing else is to
    /// be done.
    mark_due: bool,
}

struct Disk {
    storage: Box<dyn Storage>,
    mark: MarkState,
    poisoned: Option<String>,
}

/// How far the mark is behind the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MarkState {
    Synced,
    Written,
    /// The log was not synced up to here, so the mark must not be written yet.
    Behind(Mark),
}

impl Writer {
    pub(crate) fn new(storage: Box<dyn Storage>, stage: Stage, pace: Pace, shared: Arc<Shared>) -> Self {
        Self {
            stage: Mutex::new(Entrance { stage, mark_due: false }),
            disk: Mutex::new(Disk { storage, mark: MarkState::Synced, poisoned: None }),
            telling: Mutex::new(()),
            pace,
            shared,
        }
    }

    /// Starts the threads. They end when the queue is closed and everything is done.
    pub(crate) fn start(self) -> io::Result<Vec<JoinHandle<()>>> {
        let writer = Arc::new(self);
        let mut threads = Vec::new();
        for number in 0..THREADS {
            let its_writer = Arc::clone(&writer);
            let builder = thread::Builder::new().name(format!("ledger-{number}"));
            match builder.spawn(move || its_writer.run()) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    // Those that did start must not stay behind with the lock on the directory.
                    writer.shared.queue.close();
                    return Err(error);
                }
            }
        }
        Ok(threads)
    }

    fn run(&self) {
        let mut batch = Batch::default();
        while catch_unwind(AssertUnwindSafe(|| self.serve(&mut batch))).is_err() {
            // A station that was left by a panic poisons the ledger when it is entered; this one
            // may have been left in between.
            let mut disk = self.enter_disk();
            self.poison(&mut disk, PANICKED.to_owned());
            self.tell(&mut batch, disk);
        }
    }

    fn serve(&self, batch: &mut Batch) {
        let mut jobs = Vec::new();
        loop {
            let mut entrance = self.enter_stage();
            let patience = entrance.mark_due.then_some(self.pace.mark_sync_after);
            match self.shared.queue.take(&mut jobs, self.pace.batch_bytes_max, patience) {
                Taken::Jobs => self.carry(entrance, &mut jobs, batch),
                Taken::Idle => {
                    self.attempt(&mut self.enter_disk(), "sync the mark of", sync_mark);
                    entrance.mark_due = false;
                }
                Taken::Closed => {
                    // Whoever else had a batch has left the disk when this thread enters it:
                    // nothing comes after.
                    self.attempt(&mut self.enter_disk(), "finish", |disk| self.finish(disk));
                    self.shared.store.finish_sealing();
                    return;
                }
            }
        }
    }

    /// Takes `jobs` through all stations.
    ///
    /// A few jobs wait for the disk before they are built: they cannot be written sooner, and what
    /// comes until then shares their sync. Many are built while the disk is still busy.
    fn carry(&self, mut entrance: MutexGuard<'_, Entrance>, jobs: &mut Vec<Job>, batch: &mut Batch) {
        let free = (jobs.len() < BUILT_AHEAD_MIN).then(|| self.enter_disk());
        if free.is_some() {
            self.shared.queue.take_more(jobs, self.pace.batch_bytes_max);
        }
        entrance.stage.build(jobs, batch);
        // What the segment had no room for begins the next one. Whoever takes it passes this station later.
        self.shared.queue.put_back(jobs);
        entrance.mark_due = true;
        let mut disk = free.unwrap_or_else(|| self.enter_disk());
        drop(entrance);
        self.attempt(&mut disk, "append to", |disk| self.commit(disk, batch));
        self.tell(batch, disk);
    }

    /// What a panic left in the stage is not what the log is, so nothing may come of it any more.
    fn enter_stage(&self) -> MutexGuard<'_, Entrance> {
        self.stage.lock().unwrap_or_else(|broken| {
            self.poison(&mut self.enter_disk(), PANICKED.to_owned());
            broken.into_inner()
        })
    }

    /// After a panic at the disk a batch is missing there, and the next one would leave a hole
    /// before it.
    fn enter_disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(|broken| {
            let mut disk = broken.into_inner();
            self.poison(&mut disk, PANICKED.to_owned());
            disk
        })
    }

    /// Makes the batch part of the log.
    fn commit(&self, disk: &mut Disk, batch: &Batch) -> io::Result<()> {
        let Some(after) = &batch.after else { return Ok(()) };
        if batch.offset == 0 {
            // The end of the segment before must be on the disk before anything follows it.
            self.sync_log(disk)?;
            disk.storage.create_segment(batch.segment, &batch.bytes)?;
        } else {
            disk.storage.write_log(batch.offset, &batch.bytes)?;
        }
        disk.mark = MarkState::Behind(after.mark);
        if self.pace.sync == SyncMode::Durable {
            self.sync_log(disk)?;
        }
        self.shared.counters.count(batch);
        // Before anyone can ask for what the snapshot states.
        self.shared.store.extend(&batch.leaves);
        if batch.seals {
            self.shared.store.seal(batch.segment);
        }
        lock(&self.shared.committed).clone_from(&after.snapshot);
        Ok(())
    }

    /// Makes the log durable, and lets the mark say so.
    fn sync_log(&self, disk: &mut Disk) -> io::Result<()> {
        if let MarkState::Behind(mark) = disk.mark {
            let begin = Instant::now();
            disk.storage.sync_log()?;
            self.shared.counters.count_sync(begin.elapsed());
            disk.storage.write_mark(&mark.encode())?;
            disk.mark = MarkState::Written;
        }
        Ok(())
    }

    /// The last steps before closing: whatever the pace was, everything is durable afterwards.
    fn finish(&self, disk: &mut Disk) -> io::Result<()> {
        self.sync_log(disk)?;
        sync_mark(disk)
    }

    /// Does something to the disk, unless an earlier attempt failed; a failure is the last attempt.
    fn attempt(&self, disk: &mut Disk, action: &str, step: impl FnOnce(&mut Disk) -> io::Result<()>) {
        if disk.poisoned.is_none()
            && let Err(error) = step(disk)
        {
            let why = format!("could not {action} {}: {error}", disk.storage.place());
            self.poison(disk, why);
        }
    }

    /// The first reason stays, everywhere.
    fn poison(&self, disk: &mut Disk, why: String) {
        if disk.poisoned.is_none() {
            self.shared.queue.poison(&why);
            lock(&self.shared.committed).poisoned = Some(why.clone());
            disk.poisoned = Some(why);
        }
    }

    /// Tells the callers. The disk is free for the next batch meanwhile, but that one's callers
    /// must wait for these.
    fn tell(&self, batch: &mut Batch, disk: MutexGuard<'_, Disk>) {
        let telling = lock(&self.telling);
        let poisoned = disk.poisoned.clone();
        drop(disk);
        for (done, fate) in batch.fates(poisoned) {
            self.shared.counters.tell(done, fate);
        }
        drop(telling);
    }
}

fn sync_mark(disk: &mut Disk) -> io::Result<()> {
    if disk.mark == MarkState::Written {
        disk.storage.sync_mark()?;
        disk.mark = MarkState::Synced;
    }
    Ok(())
}

/// Locks what no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

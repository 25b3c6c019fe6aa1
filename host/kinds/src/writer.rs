//! One thread that writes the store of a kernel, so that changes which wait at the same time share one durable commit.
//!
//! A change is a function over a [`Book`] (what the kernel keeps in memory about its store) and a transaction. Changes are
//! made one after the other, in the order in which they came; each is answered after the commit that holds it, never
//! before. If the file fails, none of those that share the commit is made, and the book is read anew.
//!
//! Every commit is such that a file whose process was killed opens at once ([`crate::redb_file::begin`]).
//!
//! The rule for who writes such a function: refuse first ([`Stop::Refused`]), then change. What a refused change had changed
//! already would be committed with its neighbours.

use crate::fault::Fault;
use crate::redb_file::begin;
use anyhow::Context;
use redb::{Database, ReadableDatabase, TableHandle, WriteTransaction};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// So many changes share a commit at most: the first of them waits for the last.
const TOGETHER_MAX: usize = 256;
/// How often a book is asked whether time alone has made work.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What redb may keep in memory. Its own default is 1 GiB.
const CACHE_BYTES: usize = 16 << 20;

/// What a kernel keeps in memory about its store; only the writing thread touches it.
pub(crate) trait Book: Send + 'static {
    /// Write what the changes of this transaction left to be written once.
    fn flush(&mut self, write: &WriteTransaction) -> Result<(), redb::Error>;

    /// The transaction is durable: tell those who read.
    fn committed(&mut self);

    /// The transaction was given up: be again what the file says.
    fn restore(&mut self, database: &Database) -> Result<(), redb::Error>;

    /// Some time has passed: see whether that alone has made work.
    fn look(&mut self) {}

    /// Whether there is work that nobody asked for.
    fn has_work(&self) -> bool {
        false
    }

    /// Do a piece of that work, so small that those who ask do not feel it.
    fn work(&mut self, _write: &WriteTransaction) -> Result<(), redb::Error> {
        Ok(())
    }
}

/// Why a change is not made.
pub(crate) enum Stop {
    /// This change alone: nothing of it was written.
    Refused(Fault),
    /// The file: nothing that shares the commit is made.
    Failed(redb::Error),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

impl From<redb::StorageError> for Stop {
    fn from(why: redb::StorageError) -> Self {
        Self::Failed(why.into())
    }
}

impl From<redb::TableError> for Stop {
    fn from(why: redb::TableError) -> Self {
        Self::Failed(why.into())
    }
}

impl From<redb::Error> for Stop {
    fn from(why: redb::Error) -> Self {
        Self::Failed(why)
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    /// Changes.
    pub(crate) changes_max: usize,
    /// Bytes in them.
    pub(crate) bytes_max: usize,
}

type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;
/// Makes a change, or gives it up where there is nothing to make it in; says whom to answer, and whether the file failed.
type Deed<B> = Box<dyn FnOnce(Option<(&mut B, &WriteTransaction)>) -> (Answer, Result<(), redb::Error>) + Send>;

struct Job<B> {
    deed: Deed<B>,
    bytes: usize,
}

#[derive(Default)]
struct State {
    waiting_bytes: AtomicUsize,
    commits: AtomicU64,
    /// Why the last commit failed, or why the thread ended.
    broken: Mutex<Option<String>>,
}

/// The writing thread. Dropping it makes what waits, and waits for that.
pub(crate) struct Writer<B: Book> {
    jobs: Option<SyncSender<Job<B>>>,
    thread: Option<JoinHandle<()>>,
    state: Arc<State>,
    queue: Queue,
}

/// Open the store in this file; make it if there is none.
pub(crate) fn open_store(file: &Path) -> Result<Database, redb::Error> {
    Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create(file)?)
}

/// Whether the file lacks one of these tables. A file that has them all is opened without a write, so that what is in it can
/// be read while the disk is full.
pub(crate) fn lacks(database: &Database, tables: &[&dyn Named]) -> Result<bool, redb::Error> {
    let read = database.begin_read()?;
    let there: BTreeSet<String> = read.list_tables()?.map(|table| table.name().to_owned()).collect();
    Ok(tables.iter().any(|table| !there.contains(table.table())))
}

/// A table of any type.
pub(crate) trait Named {
    /// Its name.
    fn table(&self) -> &str;
}

impl<T: TableHandle> Named for T {
    fn table(&self) -> &str {
        self.name()
    }
}

/// A stored record as its type. That it cannot be read means that the file is not what was written.
pub(crate) fn decoded<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, redb::StorageError> {
    serde_json::from_str(text).map_err(|why| redb::StorageError::Corrupted(format!("{what}: {why}")))
}

/// A record as it is stored.
pub(crate) fn encoded<T: serde::Serialize>(record: &T) -> Result<String, redb::StorageError> {
    serde_json::to_string(record)
        .map_err(|why| redb::StorageError::Corrupted(format!("a record cannot be written as JSON: {why}")))
}

/// Read from the store in a thread that may block.
pub(crate) async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(read).await;
    let done = done.map_err(|why| Fault::broken(format!("the store could not be read: {why}")))?;
    done.map_err(|why| {
        tracing::error!(%why, "the store cannot be read");
        Fault::broken(format!("the store cannot be read: {why}"))
    })
}

impl<B: Book> Writer<B> {
    /// Open the store in this file, or make it, read its book, and start to write it. `name` is what is in it.
    pub(crate) async fn open(
        name: &'static str,
        file: PathBuf,
        queue: Queue,
        book: impl FnOnce(&Database) -> Result<B, redb::Error> + Send + 'static,
    ) -> anyhow::Result<(Arc<Database>, Self)> {
        let shown = file.display().to_string();
        let opened = tokio::task::spawn_blocking(move || {
            let database = open_store(&file)?;
            let book = book(&database)?;
            Ok::<_, redb::Error>((Arc::new(database), book))
        });
        let (database, book) = opened.await?.with_context(|| format!("the {name} in {shown} cannot be opened"))?;
        let writer = Self::start(name, Arc::clone(&database), book, queue)?;
        Ok((database, writer))
    }

    /// Start to write this store.
    fn start(name: &str, database: Arc<Database>, book: B, queue: Queue) -> std::io::Result<Self> {
        let (jobs, waiting) = sync_channel(queue.changes_max);
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // A panic ends the thread: health must say so.
            let guard = Ended(Arc::clone(&theirs));
            write(&database, book, &waiting, &theirs);
            drop(guard);
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), state, queue })
    }

    /// Make a change, with about so many bytes of data; the answer comes when it is durable.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        bytes: usize,
        deed: impl FnOnce(&mut B, &WriteTransaction) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Fault> {
        let (done, told) = oneshot::channel();
        let deed: Deed<B> = Box::new(move |place| {
            let (outcome, state) = match place.map(|(book, write)| deed(book, write)) {
                Some(Ok(value)) => (Ok(value), Ok(())),
                Some(Err(Stop::Refused(fault))) => (Err(fault), Ok(())),
                Some(Err(Stop::Failed(why))) => (Err(unmade()), Err(why)),
                None => (Err(unmade()), Ok(())),
            };
            let answer: Answer = Box::new(move |written| {
                // Whoever asked may have gone; the change is made all the same. A refusal, too, counts only if the commit
                // does: it may be for what a neighbour changed.
                let _ = done.send(written.and(outcome));
            });
            (answer, state)
        });
        self.enqueue(Job { deed, bytes })?;
        told.await.unwrap_or_else(|_| {
            let why = self.broken().unwrap_or_else(|| "the writer has ended".to_owned());
            Err(Fault::unavailable(format!("nothing was written: {why}")))
        })
    }

    fn enqueue(&self, job: Job<B>) -> Result<(), Fault> {
        let bytes = job.bytes;
        let before = self.state.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let full = if before > 0 && before + bytes > self.queue.bytes_max {
            Some(format!("{before} bytes wait to be written already, at most {} may", self.queue.bytes_max))
        } else {
            match self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
                Some(Ok(())) => None,
                Some(Err(TrySendError::Full(_))) => {
                    Some(format!("{} changes wait to be written already", self.queue.changes_max))
                }
                Some(Err(TrySendError::Disconnected(_))) | None => Some("the writer has ended".to_owned()),
            }
        };
        let Some(why) = full else { return Ok(()) };
        self.state.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(Fault::unavailable(format!("nothing was written: {why}; send it again later")))
    }

    /// Why nothing can be written, if so.
    pub(crate) fn broken(&self) -> Option<String> {
        self.state.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many commits there were.
    pub(crate) fn commits(&self) -> u64 {
        self.state.commits.load(Ordering::Relaxed)
    }
}

impl<B: Book> Drop for Writer<B> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was told when it came.
            let _ = thread.join();
        }
    }
}

struct Ended(Arc<State>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut broken = self.0.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert_with(|| "the writer has ended".to_owned());
    }
}

/// When a book looks at the clock again: also while there is always something to write.
struct Looks {
    last: Instant,
}

impl Looks {
    /// How long nothing needs to be done, as of now.
    fn patience(&self, now: Instant) -> Duration {
        LOOK_EVERY.saturating_sub(now.saturating_duration_since(self.last))
    }

    /// Whether it is time; the next time is counted from now then.
    fn are_due(&mut self, now: Instant) -> bool {
        let due = self.patience(now).is_zero();
        if due {
            self.last = now;
        }
        due
    }
}

fn write<B: Book>(database: &Database, mut book: B, jobs: &Receiver<Job<B>>, state: &State) {
    let mut looks = Looks { last: Instant::now() };
    loop {
        let mut batch = Vec::new();
        let patience = if book.has_work() { Duration::ZERO } else { looks.patience(Instant::now()) };
        match jobs.recv_timeout(patience) {
            Ok(job) => batch.push(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if looks.are_due(Instant::now()) {
            book.look();
        }
        while batch.len() < TOGETHER_MAX
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        if batch.is_empty() && !book.has_work() {
            continue;
        }
        let bytes: usize = batch.iter().map(|job| job.bytes).sum();
        let outcome = commit(database, &mut book, batch);
        state.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if !settle(database, &mut book, outcome, state) {
            return;
        }
    }
}

/// What came of a batch: all who asked, and why its commit failed, if it did.
type Outcome = (Vec<Answer>, Result<(), redb::Error>);

fn commit<B: Book>(database: &Database, book: &mut B, batch: Vec<Job<B>>) -> Outcome {
    let (write, mut state) = match begin(database) {
        Ok(write) => (Some(write), Ok(())),
        Err(why) => (None, Err(why)),
    };
    let mut answers = Vec::with_capacity(batch.len());
    for job in batch {
        // After the first that failed, none of the others is made; they are answered as it is.
        let place = write.as_ref().filter(|_| state.is_ok()).map(|write| (&mut *book, write));
        let (answer, made) = (job.deed)(place);
        answers.push(answer);
        state = state.and(made);
    }
    (answers, state.and_then(|()| write.map_or(Ok(()), |write| finish(book, write))))
}

fn finish<B: Book>(book: &mut B, write: WriteTransaction) -> Result<(), redb::Error> {
    if book.has_work() {
        book.work(&write)?;
    }
    book.flush(&write)?;
    Ok(write.commit()?)
}

fn unmade() -> Fault {
    Fault::broken("the change was not made: another that shared its commit failed")
}

/// Tell everybody; whether it can go on.
fn settle<B: Book>(database: &Database, book: &mut B, outcome: Outcome, state: &State) -> bool {
    let set = |why: Option<String>| *state.broken.lock().unwrap_or_else(PoisonError::into_inner) = why;
    let (answers, written) = outcome;
    let Err(why) = written else {
        state.commits.fetch_add(1, Ordering::Relaxed);
        set(None);
        book.committed();
        for answer in answers {
            answer(Ok(()));
        }
        return true;
    };
    tracing::error!(%why, "the store cannot be written");
    set(Some(format!("the store cannot be written: {why}")));
    // Part of a commit that failed may be on disk all the same: who asks again must expect to find it made.
    let fault = Fault::broken(format!("the store cannot be written: {why}; whether the change was made is not known"));
    for answer in answers {
        answer(Err(fault.clone()));
    }
    if let Err(why) = book.restore(database) {
        tracing::error!(%why, "the store cannot be read after a failed commit: this kernel must start again");
        set(Some(format!("the store cannot be read after a failed commit: {why}")));
        return false;
    }
    // Where the disk is full, trying at once again would only heat the machine.
    std::thread::sleep(Duration::from_millis(100));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::TableDefinition;

    const NUMBERS: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

    /// Counts what it was told.
    #[derive(Default)]
    struct Tally {
        unflushed: u64,
        commits: Arc<AtomicU64>,
    }

    impl Book for Tally {
        fn flush(&mut self, _: &WriteTransaction) -> Result<(), redb::Error> {
            self.unflushed = 0;
            Ok(())
        }

        fn committed(&mut self) {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }

        fn restore(&mut self, _: &Database) -> Result<(), redb::Error> {
            self.unflushed = 0;
            Ok(())
        }
    }

    fn put(number: u64) -> impl FnOnce(&mut Tally, &WriteTransaction) -> Result<u64, Stop> {
        move |book, write| {
            if number == 13 {
                return Err(Fault::conflict("13 is refused").into());
            }
            book.unflushed += 1;
            write.open_table(NUMBERS)?.insert(number, number)?;
            Ok(number)
        }
    }

    fn started(folder: &Path, queue: Queue) -> (Arc<Database>, Writer<Tally>) {
        let database = Arc::new(open_store(&folder.join("numbers.redb")).unwrap());
        let writer = Writer::start("numbers", Arc::clone(&database), Tally::default(), queue).unwrap();
        (database, writer)
    }

    #[tokio::test]
    async fn changes_that_wait_together_share_a_commit_and_a_refused_one_harms_none() {
        let folder = tempfile::tempdir().unwrap();
        let (database, writer) = started(folder.path(), Queue { changes_max: 64, bytes_max: 1 << 20 });
        // While this one holds the thread, the others come to wait.
        let (go, held) = std::sync::mpsc::sync_channel::<()>(0);
        let first = writer.change(1, move |_, _| {
            let _ = held.recv();
            Ok(())
        });
        let others = futures_util::future::join_all((0..20).map(|number| writer.change(1, put(number))));
        let release = async {
            // Polled last: by now all others are queued.
            go.send(()).unwrap();
        };
        let (_, others, ()) = tokio::join!(first, others, release);
        assert_eq!(others[13], Err(Fault::conflict("13 is refused")));
        assert_eq!(others.iter().filter(|made| made.is_ok()).count(), 19);
        assert!(writer.commits() <= 2, "{} commits for 21 changes", writer.commits());
        let numbers = database.begin_read().unwrap().open_table(NUMBERS).unwrap();
        assert!(numbers.get(12).unwrap().is_some() && numbers.get(13).unwrap().is_none());
    }

    /// Memory that outlives whoever has it open, and does not grow when it is told so, as a full disk.
    #[derive(Debug, Default, Clone)]
    struct Disk {
        memory: Arc<redb::backends::InMemoryBackend>,
        full: Arc<std::sync::atomic::AtomicBool>,
    }

    impl Disk {
        fn check(&self) -> std::io::Result<()> {
            if self.full.load(Ordering::SeqCst) {
                return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
            }
            Ok(())
        }
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> std::io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.check()?;
            self.memory.set_len(len)
        }

        fn sync_data(&self) -> std::io::Result<()> {
            self.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.memory.write(offset, data)
        }
    }

    const TEXTS: TableDefinition<'_, u64, &str> = TableDefinition::new("texts");

    /// More than a small file has room for.
    fn put_much(number: u64) -> impl FnOnce(&mut Tally, &WriteTransaction) -> Result<(), Stop> {
        move |_, write| {
            write.open_table(TEXTS)?.insert(number, "x".repeat(8 << 20).as_str())?;
            Ok(())
        }
    }

    fn on(disk: &Disk) -> (Arc<Database>, Writer<Tally>) {
        let database = Arc::new(Database::builder().create_with_backend(disk.clone()).unwrap());
        let queue = Queue { changes_max: 64, bytes_max: 1 << 20 };
        let writer = Writer::start("numbers", Arc::clone(&database), Tally::default(), queue).unwrap();
        (database, writer)
    }

    #[tokio::test]
    async fn a_full_disk_acknowledges_nothing_and_what_opens_again_reads_and_writes_once_there_is_space() {
        let disk = Disk::default();
        let (database, writer) = on(&disk);
        assert!(lacks(&database, &[&NUMBERS]).unwrap());
        assert_eq!(writer.change(1, put(1)).await, Ok(1));
        assert_eq!(writer.broken(), None);
        disk.full.store(true, Ordering::SeqCst);
        assert!(writer.change(1, put_much(0)).await.unwrap_err().status.is_server_error());
        assert!(writer.broken().unwrap().contains("store cannot be"), "{:?}", writer.broken());
        assert!(writer.change(1, put(3)).await.unwrap_err().status.is_server_error());
        drop((database, writer));
        let (database, writer) = on(&disk);
        assert!(!lacks(&database, &[&NUMBERS]).unwrap(), "it need not be written to be opened");
        let numbers = || database.begin_read().unwrap().open_table(NUMBERS).unwrap();
        assert!(numbers().get(1).unwrap().is_some() && numbers().get(3).unwrap().is_none());
        disk.full.store(false, Ordering::SeqCst);
        writer.change(1, put_much(0)).await.unwrap();
        assert_eq!(writer.change(1, put(3)).await, Ok(3));
        assert!(numbers().get(3).unwrap().is_some() && writer.broken().is_none());
    }

    #[tokio::test]
    async fn all_who_share_a_commit_that_fails_are_told_why() {
        let folder = tempfile::tempdir().unwrap();
        let (_database, writer) = started(folder.path(), Queue { changes_max: 64, bytes_max: 1 << 20 });
        let (go, held) = std::sync::mpsc::sync_channel::<()>(0);
        let first = writer.change(1, move |_, _| {
            let _ = held.recv();
            Ok(())
        });
        let before = writer.change(1, put(1));
        let fails = writer.change(1, |_, _| Err::<(), _>(redb::Error::Corrupted("a page".to_owned()).into()));
        let after = writer.change(1, put(2));
        let release = async { go.send(()).unwrap() };
        let (_, before, failed, after, ()) = tokio::join!(first, before, fails, after, release);
        for told in [before.unwrap_err(), failed.unwrap_err(), after.unwrap_err()] {
            assert!(told.message.contains("a page"), "{told}");
        }
        assert!(writer.broken().is_some_and(|why| why.contains("a page")));
        assert_eq!(writer.change(1, put(4)).await, Ok(4));
    }

    #[test]
    fn a_look_is_due_though_there_is_always_something_to_write() {
        let begun = Instant::now();
        let mut looks = Looks { last: begun };
        let due: Vec<bool> = (1..=25).map(|second| looks.are_due(begun + Duration::from_secs(second))).collect();
        assert_eq!(due.iter().filter(|due| **due).count(), 2);
        assert!(due[9] && due[19]);
        assert_eq!(looks.patience(begun + Duration::from_secs(25)), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (_database, writer) = started(folder.path(), Queue { changes_max: 4, bytes_max: 100 });
        let (go, held) = std::sync::mpsc::sync_channel::<()>(0);
        let first = writer.change(90, move |_, _| {
            let _ = held.recv();
            Ok(())
        });
        let second = async {
            let refused = writer.change(20, put(1)).await;
            go.send(()).unwrap();
            refused
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first, Ok(()));
        let fault = second.unwrap_err();
        assert_eq!(fault.status, axum::http::StatusCode::SERVICE_UNAVAILABLE);
        assert!(fault.message.contains("90 bytes wait"), "{}", fault.message);
        assert_eq!(writer.change(20, put(1)).await, Ok(1), "there is room again");
    }
}

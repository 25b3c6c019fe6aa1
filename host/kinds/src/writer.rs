//! One thread that writes the store of a kernel, so that changes which wait at the same time share one durable commit.
//!
//! A change is a function over a [`Book`] (what the kernel keeps in memory about its store) and a transaction. Changes are
//! made one after the other, in the order in which they came; each is answered after the commit that holds it, never
//! before. If the file fails, none of those that share the commit is made, and the book is read anew.
//!
//! The rule for who writes such a function: refuse first ([`Stop::Refused`]), then change. What a refused change had changed
//! already would be committed with its neighbours.

use crate::fault::Fault;
use redb::{Database, WriteTransaction};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
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

    /// Nothing was asked for a while: see whether time alone has made work.
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
type Deed<B> = Box<dyn FnOnce(&mut B, &WriteTransaction) -> Result<Answer, redb::Error> + Send>;

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
    /// Start to write this store.
    pub(crate) fn start(name: &str, database: Arc<Database>, book: B, queue: Queue) -> std::io::Result<Self> {
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
        let deed: Deed<B> = Box::new(move |book, write| {
            let outcome = match deed(book, write) {
                Ok(value) => Ok(value),
                Err(Stop::Refused(fault)) => Err(fault),
                Err(Stop::Failed(why)) => return Err(why),
            };
            Ok(Box::new(move |written| {
                // Whoever asked may have gone; the change is made all the same.
                let _ = done.send(outcome.and_then(|value| written.map(|()| value)));
            }))
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

fn write<B: Book>(database: &Database, mut book: B, jobs: &Receiver<Job<B>>, state: &State) {
    let mut batch = Vec::new();
    loop {
        let patience = if book.has_work() { Duration::ZERO } else { LOOK_EVERY };
        match jobs.recv_timeout(patience) {
            Ok(job) => batch.push(job),
            Err(RecvTimeoutError::Timeout) => book.look(),
            Err(RecvTimeoutError::Disconnected) => return,
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
        let outcome = commit(database, &mut book, batch.drain(..));
        state.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if !settle(database, &mut book, outcome, state) {
            return;
        }
    }
}

/// What came of a batch: those to answer, and why its commit failed, if it did.
type Outcome = Result<(Vec<Answer>, Result<(), redb::Error>), redb::Error>;

fn commit<B: Book>(database: &Database, book: &mut B, batch: impl Iterator<Item = Job<B>>) -> Outcome {
    let write = database.begin_write().map_err(redb::Error::from)?;
    let mut answers = Vec::new();
    for job in batch {
        answers.push((job.deed)(book, &write)?);
    }
    if book.has_work() {
        book.work(&write)?;
    }
    book.flush(&write)?;
    Ok((answers, write.commit().map_err(redb::Error::from)))
}

/// Tell everybody; whether it can go on.
fn settle<B: Book>(database: &Database, book: &mut B, outcome: Outcome, state: &State) -> bool {
    let set = |why: Option<String>| *state.broken.lock().unwrap_or_else(PoisonError::into_inner) = why;
    let (answers, why) = match outcome {
        Ok((answers, Ok(()))) => {
            state.commits.fetch_add(1, Ordering::Relaxed);
            set(None);
            book.committed();
            for answer in answers {
                answer(Ok(()));
            }
            return true;
        }
        Ok((answers, Err(why))) => (answers, why),
        Err(why) => (Vec::new(), why),
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
    use redb::{ReadableDatabase, TableDefinition};

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

    /// Memory that fails when it is told to, as a full disk does.
    #[derive(Debug, Default)]
    struct Disk {
        memory: redb::backends::InMemoryBackend,
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
            self.check()?;
            self.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.check()?;
            self.memory.write(offset, data)
        }
    }

    #[tokio::test]
    async fn a_full_disk_acknowledges_nothing_and_health_says_so() {
        let disk = Disk::default();
        let full = Arc::clone(&disk.full);
        let database = Arc::new(Database::builder().create_with_backend(disk).unwrap());
        let queue = Queue { changes_max: 4, bytes_max: 100 };
        let writer = Writer::start("numbers", database, Tally::default(), queue).unwrap();
        assert_eq!(writer.change(1, put(1)).await, Ok(1));
        assert_eq!(writer.broken(), None);
        full.store(true, Ordering::SeqCst);
        assert!(writer.change(1, put(2)).await.unwrap_err().status.is_server_error());
        assert!(writer.broken().unwrap().contains("store cannot be"), "{:?}", writer.broken());
        assert!(writer.change(1, put(3)).await.unwrap_err().status.is_server_error());
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

//! The door: open a ledger, append to it, read it, close it.

use crate::draft::Draft;
use crate::error::{AppendError, Error};
use crate::file::FileStorage;
use crate::identity::{IDENTITY_BYTES_MAX, Identity};
use crate::memory::MemoryStorage;
use crate::migrate;
use crate::queue::{Job, KeyChange, Limits, Queue};
use crate::recover::{Opened, recover};
use crate::stage::{Stage, snapshot_of};
use crate::storage::Storage;
use crate::view::{Records, View};
use crate::writer::{Pace, Shared, Writer};
use gavel_proof::hash::HexHash;
use gavel_proof::note::CheckpointKey;
use gavel_proof::record::{Kind, RecordView};
use gavel_proof::tree::Hash;
use std::fmt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// When an append counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// When fdatasync has returned.
    #[default]
    Durable,
    /// When it was written: survives the process, but not a loss of power, after which the ledger
    /// may refuse to open. For tests and for work that can be repeated. Closing syncs.
    None,
}

/// How to open a ledger.
///
/// More options may come: write `Options { sync: SyncMode::None, ..Options::new(identity, now_ms)
/// }`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose ledger it is; no default.
    pub identity: Identity,
    /// The clock, for the first record of a new ledger; no default.
    pub now_ms: u64,
    /// When an append counts as done; default [`SyncMode::Durable`].
    pub sync: SyncMode,
    /// Appends that may wait before [`AppendError::Overloaded`]; default 65,536.
    pub queue_max: usize,
    /// Bytes of text that may wait before [`AppendError::Overloaded`]; default 64 MiB.
    pub queue_bytes_max: usize,
    /// Bytes of text in one batch, though always at least one record; default 1 MiB, which a disk
    /// writes in about a millisecond: more would add latency and hardly any throughput.
    pub batch_bytes_max: usize,
    /// After this long without appends the mark is made durable; default 50 ms, beyond which no
    /// append of a busy ledger ever waits for it.
    pub mark_sync_after_ms: u64,
    /// The keys at hand for signing checkpoints. The one in force is used; a ledger without any gets the first.
    /// Default: none, so that checkpoints stay unsigned, and a ledger that has signed ones does not open.
    pub keys: Vec<CheckpointKey>,
    /// The key in force is lost: the first of `keys` takes its place, unsigned by its predecessor, and the ledger says
    /// so for ever. Default: false.
    pub key_is_lost: bool,
    /// Records of a segment, a power of two. Only tests want another number than the default, 65,536: two levels of
    /// tiles.
    pub segment_records: u64,
}

/// Records of a segment.
pub const SEGMENT_RECORDS: u64 = 65_536;

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(identity: Identity, now_ms: u64) -> Self {
        Self {
            identity,
            now_ms,
            sync: SyncMode::Durable,
            queue_max: 65_536,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 1 << 20,
            mark_sync_after_ms: 50,
            keys: Vec::new(),
            key_is_lost: false,
            segment_records: SEGMENT_RECORDS,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let named = |text: &str| (1..=IDENTITY_BYTES_MAX).contains(&text.len());
        let checks = [
            ("identity.kernel_id", named(&self.identity.kernel_id), "must have 1 to 256 bytes"),
            ("identity.variant", named(&self.identity.variant), "must have 1 to 256 bytes"),
            ("queue_max", self.queue_max > 0, "must be at least 1"),
            ("queue_bytes_max", self.queue_bytes_max > 0, "must be at least 1"),
            ("batch_bytes_max", (1..=1 << 30).contains(&self.batch_bytes_max), "must be from 1 to 1073741824"),
            (
                "segment_records",
                (2..=1 << 20).contains(&self.segment_records) && self.segment_records.is_power_of_two(),
                "must be a power of two from 2 to 1048576",
            ),
            ("mark_sync_after_ms", self.mark_sync_after_ms > 0, "must be at least 1"),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((name, _, what)) => Err(Error::Options { name, what }),
            None => Ok(()),
        }
    }
}

/// What was found when a ledger was opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// There was none before.
    pub created: bool,
    /// Whose it is, as its first record says; the variant may differ from the one asked for.
    pub identity: Identity,
    /// Bytes of a torn batch that were cut off. None of its records had been acknowledged.
    pub cut_bytes: u64,
    /// Why they were cut, if they were.
    pub cut_reason: Option<String>,
    /// Records in the ledger.
    pub records: u64,
    /// Entries of the KERNELS chain among them.
    pub entries: u64,
    /// The kernel was halted.
    pub halted: bool,
    /// Decisions whose outcome is missing, oldest first: their tools may or may not have run.
    pub open_decisions: Vec<OpenDecision>,
    /// What [`Ledger::keep_state`] kept last, and the number of records that it was derived from.
    pub kept: Option<(u64, Vec<u8>)>,
}

/// A decision that nothing closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDecision {
    /// Its index, for [`Draft::closes`].
    pub index: u64,
    /// The decision itself.
    pub record: RecordView,
}

/// An append that is part of the log for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The record's index.
    pub index: u64,
    /// Its entry's place in the KERNELS chain, if it has one.
    pub chain: Option<ChainPosition>,
    /// Records in the ledger at the commit that made it durable.
    pub size: u64,
}

/// A place in the KERNELS chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPosition {
    /// The entry's number, from 0.
    pub ledger_seq: u64,
    /// The entry's hash in hex.
    pub entry_hash: String,
}

/// What is committed, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Records; the size of the tree.
    pub records: u64,
    /// Entries of the KERNELS chain.
    pub entries: u64,
    /// Root of the tree.
    pub root: Hash,
    /// `entry_hash` of the last entry in hex, or 64 zeros.
    pub chain_head: String,
    /// Length of the log, all segments together.
    pub bytes: u64,
    /// A halt is among the records.
    pub halted: bool,
    /// Decisions whose outcome is still to come.
    pub open_decisions: u64,
    /// The oldest of them: its record is read when the ledger is opened.
    pub oldest_open: Option<u64>,
    /// The latest `ts_ms` of any record.
    pub last_ts_ms: u64,
    /// The signed note that states these records (C2SP tlog-checkpoint); absent without a key.
    pub checkpoint: Option<Arc<str>>,
    /// The public key that signs them.
    pub key: Option<[u8; 32]>,
    /// Why the ledger stopped, if it did.
    pub poisoned: Option<String>,
}

/// Counts since the ledger was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Records appended.
    pub appended: u64,
    /// Appends that the writer refused; those refused before they were queued are not counted.
    pub refused: u64,
    /// Batches committed.
    pub batches: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Bytes written to the log.
    pub bytes: u64,
    /// Records in the largest batch.
    pub batch_records_max: u64,
    /// Nanoseconds spent in syncs of the log.
    pub sync_ns_total: u64,
    /// Callbacks that panicked; each is a bug of its caller.
    pub callback_panics: u64,
    /// Appends that wait now.
    pub queue_depth: u64,
}

/// One kernel's ledger. All methods take `&self`: share it in an `Arc`.
pub struct Ledger {
    shared: Arc<Shared>,
    view: View,
    place: String,
    /// Empty once they were joined.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ledger {
    /// Opens the ledger in `dir`, creating it when absent, and owns the directory until it is
    /// closed or dropped. A ledger of format 1 that is longer than a segment is cut into segments first; its file is
    /// kept beside them.
    ///
    /// # Errors
    /// If the directory has another owner, the ledger is another kernel's, its key is not at hand, or anything in it is
    /// not as it was acknowledged.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one ledger and used up by opening it")]
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovered), Error> {
        options.check()?;
        let mut storage = FileStorage::open(dir)?;
        let opened = match recover(&mut storage, &options)? {
            Opened::TooLong => {
                migrate::split(&mut storage, options.segment_records)?;
                recover(&mut storage, &options)?
            }
            ready @ Opened::Ready(_) => ready,
        };
        Self::start(Box::new(storage), &options, opened)
    }

    /// A ledger in memory, with the same code and no disk.
    ///
    /// # Errors
    /// If an option is out of range or no thread can be started.
    #[expect(clippy::needless_pass_by_value, reason = "as for `open`")]
    pub fn in_memory(options: Options) -> Result<Self, Error> {
        options.check()?;
        Self::open_storage(Box::new(MemoryStorage::new()), &options).map(|(ledger, _)| ledger)
    }

    /// Opens a ledger over any storage.
    ///
    /// # Errors
    /// As for [`Ledger::open`], and if it is of format 1 and too long.
    pub fn open_storage(mut storage: Box<dyn Storage>, options: &Options) -> Result<(Self, Recovered), Error> {
        options.check()?;
        let opened = recover(&mut *storage, options)?;
        Self::start(storage, options, opened)
    }

    fn start(storage: Box<dyn Storage>, options: &Options, opened: Opened) -> Result<(Self, Recovered), Error> {
        let Opened::Ready(ready) = opened else {
            return Err(Error::Options { name: "segment_records", what: "is less than this ledger's one segment has" });
        };
        let place = storage.place();
        let limits = Limits { jobs_max: options.queue_max, bytes_max: options.queue_bytes_max };
        let snapshot = snapshot_of(&ready.state, ready.bytes_before + ready.place.end, ready.note.clone());
        let shared = Arc::new(Shared::new(Queue::new(limits), Arc::clone(&ready.store), snapshot));
        let how = Pace {
            sync: options.sync,
            batch_bytes_max: options.batch_bytes_max,
            mark_sync_after: Duration::from_millis(options.mark_sync_after_ms),
        };
        let stage = Stage::new(&ready, options.segment_records);
        let writer = Writer::new(storage, stage, how, Arc::clone(&shared));
        let threads = writer.start().map_err(Error::io("start the threads that write", &place))?;
        let view = View::new(Arc::clone(&ready.store), &ready.state, ready.recovered.identity.clone(), ready.ledger_id);
        let ledger = Self { shared, view, place, threads: Mutex::new(threads) };
        if let Some(key) = options.keys.first().filter(|_| ready.key.is_none()) {
            let lost = ready.state.key.is_some();
            let changed = ledger.change_key(key.clone(), lost, options.now_ms);
            changed.map_err(|why| Error::Poisoned { why: why.to_string() })?;
        }
        Ok((ledger, ready.recovered))
    }

    /// Has checkpoints signed by another key from now on. The checkpoint that says so is signed by both, so that
    /// whoever trusts the old key comes to trust the new one.
    ///
    /// # Errors
    /// As [`AppendError`] says. The key must not be given away before this has returned.
    pub fn rotate_key(&self, key: CheckpointKey, now_ms: u64) -> Result<Committed, AppendError> {
        self.change_key(key, false, now_ms)
    }

    fn change_key(&self, key: CheckpointKey, lost: bool, now_ms: u64) -> Result<Committed, AppendError> {
        let public = HexHash::of(&key.public());
        let lost_text = if lost { ",\"lost\":true" } else { "" };
        let meta = format!("{{\"key\":\"{}\"{lost_text}}}", public.as_str());
        let draft = Draft { kind: Kind::Key, ts_ms: now_ms, meta, entry: None, closes: None };
        let (sender, receiver) = sync_channel(1);
        let done = move |result| {
            // The receiver waits below and cannot be gone.
            let _ = sender.send(result);
        };
        self.shared.queue.push(Job { draft, done: Box::new(done), key: Some(KeyChange { key, lost }) });
        receiver.recv().unwrap_or_else(|_| Err(AppendError::Poisoned { why: "the writer panicked".to_owned() }))
    }

    /// Keeps what its owner derived from the first `size` records, for the next time that the ledger is opened. Only
    /// the last state is kept.
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] where there are fewer records, else as the disk has it.
    pub fn keep_state(&self, size: u64, state: &[u8]) -> Result<(), Error> {
        self.view().keep_state(size, state)
    }

    /// The public key that signs the checkpoints now, if one does.
    #[must_use]
    pub fn key(&self) -> Option<[u8; 32]> {
        self.snapshot().key
    }

    /// What is committed now, for reading.
    #[must_use]
    pub fn view(&self) -> View {
        let snapshot = self.snapshot();
        self.view.at(snapshot.records, snapshot.root)
    }

    /// Appends a record without ever blocking; `done` learns its fate, once.
    ///
    /// `done` runs in a thread of the writer, after the record is durable and in the order of the
    /// log, so it must be quick: all later ones wait for it. It runs at once, in the caller's
    /// thread, if the draft breaks a rule of form or the queue cannot take it. Only if the writer
    /// itself panics can it be dropped unheard.
    pub fn append(&self, draft: Draft, done: impl FnOnce(Result<Committed, AppendError>) + Send + 'static) {
        match draft.check() {
            Ok(()) => self.shared.queue.push(Job { draft, done: Box::new(done), key: None }),
            Err(error) => done(Err(error)),
        }
    }

    /// Appends a record and waits until it is durable. Must not be called in a `done`, which the
    /// wait would stop.
    ///
    /// # Errors
    /// As [`AppendError`] says.
    pub fn append_wait(&self, draft: Draft) -> Result<Committed, AppendError> {
        let (sender, receiver) = sync_channel(1);
        self.append(draft, move |result| {
            // The receiver waits below and cannot be gone.
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or_else(|_| Err(AppendError::Poisoned { why: "the writer panicked".to_owned() }))
    }

    /// What is committed now. Touches no disk.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// The records up to `snapshot`, which must be of this ledger, from the first on; read in
    /// bounded memory, and while appends go on. Ends after the first error.
    #[must_use]
    pub fn records(&self, snapshot: &Snapshot) -> Records {
        self.view.at(snapshot.records, snapshot.root).records_between(0, snapshot.records)
    }

    /// Counts for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Refuses further appends, waits until those that wait are durable, and gives the directory
    /// free. Later calls do nothing. Called in a `done`, it does not wait.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if not everything could be written.
    pub fn close(&self) -> Result<(), Error> {
        self.shared.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // The last handle may be dropped by a callback, that is in one of the threads, which cannot
        // wait for itself.
        if threads.iter().all(|writer| writer.thread().id() != thread::current().id()) {
            for thread in threads {
                // Threads of the writer catch their panics and poison the ledger, which is reported
                // below.
                let _ = thread.join();
            }
        }
        match self.snapshot().poisoned {
            Some(why) => Err(Error::Poisoned { why }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ledger").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.close();
    }
}

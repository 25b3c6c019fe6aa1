//! The thread that follows a ledger and keeps its index.
//!
//! It is woken by commits, gathers for a moment so that a busy ledger is indexed in batches, and reads what
//! is committed in pieces of bounded size. Its writes are not synced, except now and then and at the end: what
//! a crash takes is indexed again. An error or a panic of the database sets the file aside, once; after a second
//! one in a row there is no index until the next start, and that is said.

use super::source;
use super::store::{Extent, Store};
use anyhow::{Context, Result, anyhow};
use gavel_ledger::tree::leaf_hash;
use gavel_ledger::{Ledger, RecordView};
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Records that are indexed at a time.
const BATCH_RECORDS: u64 = 4_096;
/// Bytes of records after which a batch is full.
const BATCH_BYTES: usize = 4 << 20;
/// How long commits are gathered while nobody asks.
const GATHER: Duration = Duration::from_millis(20);
/// How often the ledger is looked at though nobody told of a commit.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long what was indexed may be lost by a crash; it is indexed again then.
const SYNC_EVERY: Duration = Duration::from_secs(30);
/// Records after which the index is synced though less time has passed.
const SYNC_RECORDS: u64 = 262_144;

/// The handle of the thread.
pub(super) struct Follower {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the thread was told already that something was committed.
    told: AtomicBool,
}

#[derive(Default)]
struct State {
    store: Option<Arc<Store>>,
    indexed: u64,
    /// How far somebody who waits wants it to be.
    wanted: u64,
    /// Why the file must be made anew.
    distrusted: Option<String>,
    /// Why there is no index.
    broken: Option<String>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    pub(super) fn start(path: PathBuf, ledger: Arc<Ledger>, cache_bytes: usize) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), told: AtomicBool::new(false) });
        let work = Work { shared: Arc::clone(&shared), path, ledger, cache_bytes };
        let thread = thread::Builder::new().name("gavel-index".into()).spawn(move || work.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn notify(&self) {
        // Only the first of many commits pays for waking the thread.
        if !self.shared.told.swap(true, Ordering::AcqRel) {
            // Taken, so that it does not fall between the thread's look and its sleep.
            drop(self.shared.lock());
            self.shared.changed.notify_all();
        }
    }

    pub(super) fn indexed(&self) -> u64 {
        self.shared.lock().indexed
    }

    /// The store, or why there is none.
    pub(super) fn store(&self) -> Result<Arc<Store>> {
        let state = self.shared.lock();
        match (&state.store, &state.broken) {
            (_, Some(why)) => Err(anyhow!("there is no index: {why}")),
            (Some(store), None) => Ok(Arc::clone(store)),
            (None, None) if state.stop => Err(anyhow!("the index is closed")),
            (None, None) => Err(anyhow!("the index is being opened: ask again")),
        }
    }

    /// Wait until `records` are indexed, but not longer than `patience`; how many are.
    pub(super) fn wait_for(&self, records: u64, patience: Duration) -> u64 {
        let mut state = self.shared.lock();
        if state.indexed < records || state.store.is_none() {
            state.wanted = state.wanted.max(records);
            self.shared.changed.notify_all();
            let behind = |state: &mut State| {
                (state.indexed < records || state.store.is_none()) && state.broken.is_none() && !state.stop
            };
            state = self
                .shared
                .changed
                .wait_timeout_while(state, patience, behind)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.indexed
    }

    /// The file does not fit the ledger: make it anew.
    pub(super) fn distrust(&self, why: &str) {
        self.shared.lock().distrusted = Some(why.to_owned());
        self.shared.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that keeps an index ended in a panic");
        }
        // The file is free for the next who opens it.
        self.shared.lock().store = None;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the thread works with.
struct Work {
    shared: Arc<Shared>,
    path: PathBuf,
    ledger: Arc<Ledger>,
    cache_bytes: usize,
}

impl Work {
    /// Follow until told to stop; begin anew with another file where one fails, but not twice without having got on.
    fn run(&self) {
        let mut failed_at = None;
        loop {
            let ended = catch_unwind(AssertUnwindSafe(|| self.follow()));
            let why = match ended {
                Ok(Ok(())) => return,
                Ok(Err(why)) => format!("{why:#}"),
                Err(_) => "the database panicked".to_owned(),
            };
            let mut state = self.shared.lock();
            let reached = state.indexed;
            (state.store, state.indexed, state.distrusted) = (None, 0, None);
            let again = failed_at.is_none_or(|failed_at| reached > failed_at);
            failed_at = Some(reached);
            let aside = if again { self.set_aside(&why) } else { Err(anyhow!("{why}")) };
            if let Err(why) = aside {
                let path = self.path.display();
                tracing::error!(%path, "there is no index until the next start: {why:#}; `gavel find --ledger` reads the ledger itself");
                state.broken = Some(format!("{why:#}"));
                self.shared.changed.notify_all();
                return;
            }
        }
    }

    /// The file out of the way, under a name that is kept until the next one.
    fn set_aside(&self, why: &str) -> Result<()> {
        let aside = self.path.with_extension("redb.aside");
        if self.path.exists() {
            std::fs::rename(&self.path, &aside)
                .with_context(|| format!("{why}; and it cannot be renamed to {}", aside.display()))?;
        }
        tracing::warn!(path = %self.path.display(), aside = %aside.display(), why, "the index is set aside and made anew; the ledger is not affected");
        Ok(())
    }

    fn follow(&self) -> Result<()> {
        let (store, mut next) = self.open()?;
        self.publish(&store, next);
        let (mut synced, mut synced_at) = (next, Instant::now());
        loop {
            let stop = self.wait(next)?;
            let committed = self.ledger.snapshot().records;
            while next < committed && !self.shared.lock().stop {
                let records = self.read(next, committed)?;
                store.add(&records, false)?;
                next += records.len() as u64;
                self.publish(&store, next);
                if next - synced >= SYNC_RECORDS {
                    store.add(&[], true)?;
                    (synced, synced_at) = (next, Instant::now());
                }
            }
            if next > synced && (stop || synced_at.elapsed() >= SYNC_EVERY) {
                store.add(&[], true)?;
                (synced, synced_at) = (next, Instant::now());
            }
            if stop {
                return Ok(());
            }
        }
    }

    /// The store, and the next record that it lacks. A file that does not fit is set aside.
    fn open(&self) -> Result<(Arc<Store>, u64)> {
        let id = source::ledger_id(&self.ledger)?;
        let opened = Store::open(&self.path, self.cache_bytes, &id).and_then(|(store, extent)| {
            self.check(&extent)?;
            Ok((store, extent))
        });
        let (store, extent) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                self.set_aside(&format!("{why:#}"))?;
                Store::open(&self.path, self.cache_bytes, &id).with_context(|| self.path.display().to_string())?
            }
        };
        let behind = self.ledger.snapshot().records - extent.next;
        if behind > SYNC_RECORDS {
            tracing::info!(path = %self.path.display(), records = behind, "indexing the ledger");
        }
        Ok((Arc::new(store), extent.next))
    }

    /// Whether the ledger has the last record of the index where the index has it.
    fn check(&self, extent: &Extent) -> Result<()> {
        let Some(last) = extent.last else { return Ok(()) };
        let committed = self.ledger.snapshot().records;
        anyhow::ensure!(extent.next <= committed, "it holds {} records, the ledger {committed}", extent.next);
        let record = source::record(&self.ledger, extent.next - 1)?;
        anyhow::ensure!(
            leaf_hash(record.as_str().as_bytes()) == last,
            "its record {} is not the ledger's",
            extent.next - 1
        );
        Ok(())
    }

    fn read(&self, start: u64, committed: u64) -> Result<Vec<RecordView>> {
        let end = committed.min(start + BATCH_RECORDS);
        let (mut records, mut bytes) = (Vec::new(), 0);
        for record in source::between(&self.ledger, start, end) {
            let record = record?;
            bytes += record.as_str().len();
            records.push(record);
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        anyhow::ensure!(!records.is_empty(), "the ledger gives no record {start}");
        Ok(records)
    }

    fn publish(&self, store: &Arc<Store>, indexed: u64) {
        let mut state = self.shared.lock();
        state.indexed = indexed;
        state.store.get_or_insert_with(|| Arc::clone(store));
        self.shared.changed.notify_all();
    }

    /// Wait until there may be something to do; whether to stop.
    fn wait(&self, indexed: u64) -> Result<bool> {
        let idle = |state: &mut State| {
            let asked = state.stop || state.wanted > indexed || state.distrusted.is_some();
            !asked && !self.shared.told.load(Ordering::Acquire)
        };
        let gathering = |state: &mut State| !(state.stop || state.wanted > indexed || state.distrusted.is_some());
        let mut state = self.shared.lock();
        if self.ledger.snapshot().records == indexed {
            let waited = self.shared.changed.wait_timeout_while(state, LOOK_AGAIN, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let waited = self.shared.changed.wait_timeout_while(state, GATHER, gathering);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        self.shared.told.store(false, Ordering::Release);
        state.wanted = if state.wanted > indexed { state.wanted } else { 0 };
        match state.distrusted.take() {
            Some(why) => Err(anyhow!(why)),
            None => Ok(state.stop),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Nobody waits for a thread that is gone.
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

/// For the tests: where a file goes that is set aside.
#[cfg(test)]
pub(super) fn aside(path: &Path) -> PathBuf {
    path.with_extension("redb.aside")
}

//! The log: a ledger that holds entries, and who waits for it.
//!
//! An append never waits in a thread: it is queued, and the ledger's writer, which commits all that waits with one sync,
//! answers it. Reading and proving touch the disk and run where that may block.

use super::entry::{self, Entry, leaf_of};
use super::memory::{Claim, KeyName, Memory};
use super::settings::Settings;
use crate::fault::Fault;
use crate::kind::{Clock, Seed};
use crate::private_key;
use anyhow::{Context, Result};
use gavel_ledger::note::CheckpointKey;
use gavel_ledger::{AppendError, Committed, Draft, Error, Identity, Kind, Ledger, Options, Snapshot, View};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// Where the ledger lies in the kernel's folder: `gavel verify FOLDER` looks there.
const LEDGER: &str = "ledger";
/// The private key that signs its checkpoints, beside it.
const KEY_FILE: &str = "checkpoint.key";
/// What the first record says of the ledger.
const VARIANT: &str = "immutable_log";

/// An open log.
pub(super) struct Log {
    pub(super) name: String,
    pub(super) ledger: Ledger,
    pub(super) settings: Settings,
    memory: Arc<Shared>,
    clock: Clock,
}

/// What the ledger's writer touches too.
struct Shared {
    memory: Mutex<Memory>,
    /// Notified when what is remembered should be kept, and when the log is gone.
    keep: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry that is part of the log for good.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) index: u64,
    pub(super) ts_ms: u64,
    pub(super) leaf_hash: String,
    /// It was appended before, with the same key.
    pub(super) repeated: bool,
}

/// A key that is being appended; given up when it is dropped.
struct Claimed {
    shared: Arc<Shared>,
    name: Option<KeyName>,
}

impl Claimed {
    fn used(mut self, index: u64) {
        if let Some(name) = self.name.take() {
            self.shared.lock().settle(name, Some(index));
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.shared.lock().settle(name, None);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.memory.keep.notify_one();
    }
}

impl Log {
    /// Opens the log in the seed's folder, or makes it, and recovers what a crash left. Blocks.
    pub(super) fn open(seed: &Seed, settings: Settings) -> Result<Self> {
        let folder = &seed.folder;
        let identity = Identity { kernel_id: seed.name.clone(), variant: VARIANT.to_owned() };
        let options = Options {
            queue_max: settings.appends_waiting_max,
            queue_bytes_max: settings.append_bytes_waiting_max,
            keys: checkpoint_keys(folder, settings.checkpoint_key_is_lost)?,
            key_is_lost: settings.checkpoint_key_is_lost,
            ..Options::new(identity, (seed.clock)())
        };
        let (ledger, recovered) = Ledger::open(&folder.join(LEDGER), options).map_err(|why| match why {
            why @ Error::KeyMissing { .. } => anyhow::Error::new(why).context(format!(
                "restore {KEY_FILE} from a copy, or give the key up with the setting checkpoint_key_is_lost"
            )),
            why => why.into(),
        })?;
        if let Some(why) = &recovered.cut_reason {
            let bytes = recovered.cut_bytes;
            tracing::warn!(kernel = seed.name, bytes, why, "a torn batch that nobody was told of was cut off");
        }
        Self::of(seed, settings, ledger, recovered.kept)
    }

    /// The log of an open ledger, and what was kept beside it.
    pub(super) fn of(seed: &Seed, settings: Settings, ledger: Ledger, kept: Option<(u64, Vec<u8>)>) -> Result<Self> {
        let memory = recall(&ledger.view(), kept, settings.keys_max)?;
        let memory = Arc::new(Shared { memory: Mutex::new(memory), keep: Notify::new() });
        Ok(Self { name: seed.name.clone(), ledger, settings, memory, clock: Arc::clone(&seed.clock) })
    }

    /// Keeps what is remembered whenever much is new, as long as the log lives.
    pub(super) fn keep_in_background(self: &Arc<Self>) {
        let (log, shared) = (Arc::downgrade(self), Arc::clone(&self.memory));
        tokio::spawn(async move {
            loop {
                shared.keep.notified().await;
                let Some(log) = log.upgrade() else { return };
                // A panic in there is told by the panic itself, and costs the next opening some time.
                let _ = tokio::task::spawn_blocking(move || log.keep()).await;
            }
        });
    }

    fn keep(&self) {
        let (records, kept) = self.memory.lock().take_kept();
        if let Err(why) = self.ledger.keep_state(records, &kept) {
            tracing::warn!(kernel = self.name, %why, "the idempotency keys were not kept; the next opening reads more");
        }
    }

    /// Keeps what is remembered, and waits for the appends that wait. Blocks.
    pub(super) fn close(&self) {
        self.keep();
        if let Err(why) = self.ledger.close() {
            tracing::error!(kernel = self.name, %why, "the log was not closed cleanly");
        }
    }

    /// Appends an entry; returns when it is durable.
    pub(super) async fn append(self: &Arc<Self>, by: &str, entry: &Entry) -> Result<Appended, Fault> {
        let meta = entry.meta(by);
        let Some(key) = &entry.key else { return self.append_new(meta, None).await };
        let name = KeyName::of(by, key);
        loop {
            let claim = self.memory.lock().claim(name);
            match claim {
                Claim::Used(index) => return self.repeat(index, meta, key).await,
                // Never notified, only closed: then it was used or given up.
                Claim::Wait(mut waiting) => drop(waiting.changed().await),
                Claim::Yours => return self.append_new(meta, Some(name)).await,
            }
        }
    }

    async fn append_new(&self, meta: String, name: Option<KeyName>) -> Result<Appended, Fault> {
        let ts_ms = (self.clock)();
        let draft = Draft { kind: Kind::Event, ts_ms, meta: meta.clone(), entry: None, closes: None };
        let (sender, receiver) = oneshot::channel();
        let claimed = Claimed { shared: Arc::clone(&self.memory), name };
        let bytes = meta.len() as u64;
        self.ledger.append(draft, move |result: Result<Committed, AppendError>| {
            if let Ok(committed) = &result {
                // Together, so that what is kept never lacks a key of the records that it follows from.
                let shared = Arc::clone(&claimed.shared);
                claimed.used(committed.index);
                if shared.lock().advance(committed.index, bytes) {
                    shared.keep.notify_one();
                }
            }
            // Whoever asked may have gone.
            let _ = sender.send(result);
        });
        let gone = || AppendError::Poisoned { why: "the writer ended".to_owned() };
        let committed = receiver.await.unwrap_or_else(|_| Err(gone())).map_err(|why| refused(&self.name, &why))?;
        let index = committed.index;
        Ok(Appended { index, ts_ms, leaf_hash: leaf_of(index, ts_ms, &meta), repeated: false })
    }

    /// The entry that was appended with the same key before, if it is the same.
    async fn repeat(self: &Arc<Self>, index: u64, meta: String, key: &str) -> Result<Appended, Fault> {
        let record = self.read(move |log| log.ledger.view().record(index)).await?;
        if record.meta() != meta {
            return Err(Fault::conflict(format!(
                "key `{}` was used for entry {index}, which has another kind or other data: use another key",
                key.escape_debug()
            )));
        }
        let ts_ms = record.ts_ms();
        Ok(Appended { index, ts_ms, leaf_hash: leaf_of(index, ts_ms, &meta), repeated: true })
    }

    /// Reads something where that may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Fault> {
        let log = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || read(&log)).await;
        match read {
            Ok(read) => read.map_err(|why| unread(&self.name, &why)),
            Err(_) => Err(Fault::broken("reading the log broke off in a panic; the kernel's own log says more")),
        }
    }

    /// Where the log changed its own key.
    pub(super) fn key_records(&self) -> Vec<u64> {
        self.memory.lock().key_records().to_vec()
    }

    /// Idempotency keys that are remembered.
    pub(super) fn keys(&self) -> usize {
        self.memory.lock().keys()
    }

    /// Some of its entries, from `from` on: at most `limit`, only those of `kind` where one is given. `next` is where to go
    /// on, also where nothing was found so far.
    pub(super) fn page(&self, from: u64, limit: usize, kind: Option<&str>) -> Result<Value, Error> {
        let view = self.ledger.view();
        let size = view.records();
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, from.min(size));
        let end = from.saturating_add(self.settings.page_scan_max);
        for record in view.records_between(next, end) {
            let record = record?;
            if kind.is_none_or(|kind| entry::is_of_kind(&record, kind)) {
                bytes += record.as_str().len();
                if !entries.is_empty() && bytes > self.settings.page_bytes_max {
                    break;
                }
                entries.push(entry::told(&record));
            }
            next = record.index() + 1;
            if entries.len() == limit {
                break;
            }
        }
        Ok(json!({"entries": entries, "next": next, "size": size}))
    }

    /// What is durable now.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.ledger.snapshot()
    }
}

/// What follows from the records: what was kept, and the records since.
fn recall(view: &View, kept: Option<(u64, Vec<u8>)>, keys_max: usize) -> Result<Memory> {
    let kept = kept.and_then(|(records, bytes)| Memory::of_kept(records, &bytes, keys_max));
    let mut memory = kept.unwrap_or_else(|| Memory::new(keys_max));
    for record in view.records_between(memory.records(), view.records()) {
        memory.observe(&record?);
    }
    Ok(memory)
}

/// The keys at hand. One is made where there is no ledger yet, or its own is lost; a ledger that misses its key gets none.
fn checkpoint_keys(folder: &Path, is_lost: bool) -> Result<Vec<CheckpointKey>> {
    let path = folder.join(KEY_FILE);
    crate::durable::remove_unfinished(&path).with_context(|| path.display().to_string())?;
    if !path.exists() {
        let has_ledger = fs::read_dir(folder.join(LEDGER)).is_ok_and(|mut files| files.next().is_some());
        let is_signed = has_ledger && View::open(&folder.join(LEDGER)).is_ok_and(|(report, _)| report.key.is_some());
        if is_signed && !is_lost {
            return Ok(Vec::new());
        }
        private_key::keep(&path, &private_key::generate()?)?;
    }
    Ok(vec![CheckpointKey::from_seed(private_key::read(&path)?.as_bytes())])
}

fn refused(name: &str, why: &AppendError) -> Fault {
    match why {
        AppendError::Overloaded { .. } | AppendError::Closed => Fault::unavailable(why.to_string()),
        AppendError::TooLarge { .. } => Fault::too_large(why.to_string()),
        AppendError::Invalid { .. } => Fault::not_accepted(why.to_string()),
        _ => {
            tracing::error!(kernel = name, %why, "an entry was not appended");
            Fault::broken(format!("{why}; whether the entry was appended shows a repetition with the same key"))
        }
    }
}

fn unread(name: &str, why: &Error) -> Fault {
    if matches!(why, Error::NoSuchRecord { .. }) {
        return Fault::absent(why.to_string());
    }
    tracing::error!(kernel = name, %why, "the log cannot be read");
    Fault::broken(format!("the log cannot be read: {why}"))
}

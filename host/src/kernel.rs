//! A running kernel: the law, its policies, its tools and its ledger under one id.
//!
//! Told apart: the crate `gavel-kernel` is the law, pure; this is one kernel that applies it. The
//! way of a request through it is `decide.rs`; here are its birth, its state and its halt.
//!
//! Kernels are replaced, not restarted: the name that clients use stays, the kernel that answers under it changes (`fleet`).
//!
//! A kernel is BOOTING while its ledger is opened, IDLE while it accepts requests, and HALTED from
//! the moment that its ledger holds a halt record: for ever, across restarts. It serves many
//! requests at once; each walks the states of its own, counted in [`States`].

use crate::approvals::{Desk, Queue};
use crate::checkpoint_key;
use crate::clock::{Clock, Watch};
use crate::config::{KernelFile, RecordRequests, TlogAccess};
use crate::decide::Refused;
use crate::gate::Gate;
use crate::index::Index;
use crate::metrics::{KernelLabels, Metrics, PolicyTimeLabels};
use crate::operations::Operator;
use crate::past::Past;
use crate::policies::admit::Admission;
use crate::policies::change::Reason;
use crate::policies::life::{Deployed, Life, Line, SavedLine};
use crate::policies::statute::Statute;
use crate::record;
use crate::remembered::Remembered;
pub use crate::states::States;
pub(crate) use crate::states::Walk;
use crate::tools::Toolbox;
use crate::upkeep::{Settings, Upkeep};
use anyhow::{Context, Result};
use gavel_kernel::{EntryData, Jurisdiction, Keyring, Law, State, Variant};
use gavel_ledger::note::VerifyingKey;
use gavel_ledger::{Blobs, Draft, Identity, Kind, Ledger, OpenDecision, Options, Snapshot, SyncMode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

/// One kernel that serves requests. Shared as `Arc<Kernel>`.
pub struct Kernel {
    pub(crate) id: String,
    /// The name that clients use for it, and for those before and after it.
    pub(crate) name: String,
    pub(crate) variant: Variant,
    /// What it judges by.
    pub(crate) life: Life,
    /// Held while that is changed.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// How policies come in.
    pub(crate) admission: Arc<Admission>,
    /// Whether records hold what policies were asked.
    pub(crate) record_requests: RecordRequests,
    /// Where it lies what records have no room for; a kernel in memory has no such place.
    pub(crate) blobs: Option<Blobs>,
    /// Whether everybody may read its log as a tlog.
    pub(crate) tlog_is_public: bool,
    /// Its folder, if it has one.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) tools: Toolbox,
    pub(crate) ledger: Arc<Ledger>,
    /// Where records are found; a kernel without a folder has none.
    pub(crate) index: Option<Index>,
    pub(crate) clock: Clock,
    /// Knows the latest time that the clock, or a record, has shown.
    pub(crate) watch: Watch,
    /// Permits used and counters; shared with the kernel that it replaced and the one that replaces it.
    pub(crate) remembered: Remembered,
    /// What waits for a human.
    pub(crate) approvals: Queue,
    pub(crate) states: States,
    /// Requests that were allowed and denied since it was opened.
    pub(crate) decided: [AtomicU64; 2],
    pub(crate) metrics: Metrics,
    /// The reason of the halt, once there is one.
    pub(crate) halted: OnceLock<String>,
    /// What follows from the records, as far as it was kept.
    past: Mutex<Past>,
    /// Notified when a segment of the ledger is full.
    pub(crate) segment_full: Arc<Notify>,
    pub(crate) started_ms: u64,
    /// Requests that are being carried to their end.
    pub(crate) tasks: TaskTracker,
    /// Closed when another kernel takes its place.
    pub(crate) gate: Arc<Gate>,
    /// Its archiving and its retention.
    pub(crate) upkeep: Upkeep,
}

/// What a kernel is made of, beside its file.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The name that clients use for it.
    pub name: String,
    /// The policy set that its custom rules name.
    pub policies: Arc<Deployed>,
    /// How other policies come in.
    pub admission: Arc<Admission>,
    /// The tools it may run.
    pub tools: Toolbox,
    /// Its time.
    pub clock: Clock,
    /// Where it counts.
    pub metrics: Metrics,
    /// The permits used and the counters of those before it under the same name.
    pub remembered: Remembered,
    /// What the approval queues of all kernels have in common.
    pub approvals: Arc<Desk>,
    /// Records that may wait for the disk.
    pub max_ledger_queue: usize,
    /// Bytes of its index that are kept in memory.
    pub max_index_cache_bytes: usize,
    /// Where its sealed segments go, and how long things are kept.
    pub upkeep: Settings,
    /// The key of its checkpoints is lost, and another takes its place.
    pub key_is_lost: bool,
    /// What stands first in its ledger, if that is new.
    pub birth: Option<Birth>,
}

/// Whose place a new kernel takes.
#[derive(Debug, Clone)]
pub struct Birth {
    /// The `meta` of the first event in its ledger.
    pub(crate) event: String,
    /// What it takes over of what the other judged by; `None` where it judges by its own definition only.
    pub(crate) line: Option<Inherited>,
    /// Who made it.
    pub(crate) who: String,
    /// And why.
    pub(crate) why: String,
}

/// What a kernel takes over.
#[derive(Debug, Clone)]
pub struct Inherited {
    /// What the other judged by.
    pub(crate) line: Arc<Line>,
    /// Its jurisdiction, if that was changed while it ran.
    pub(crate) law: bool,
}

/// Where the ledger lies in a kernel's folder.
pub const LEDGER: &str = "ledger";

/// Where a kernel keeps its ledger.
#[derive(Debug, Clone, Copy)]
pub enum Memory<'a> {
    /// In this folder, durable; the ledger lies in `ledger` below it.
    Durable(&'a Path),
    /// In this process only: offline batches, recorded scenarios.
    Volatile,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("id", &self.id).field("variant", &self.variant).finish_non_exhaustive()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // The task that waits for full segments ends when it finds the kernel gone.
        self.segment_full.notify_one();
    }
}

impl Kernel {
    /// Open the kernel's ledger, recover what a crash left, and make it ready.
    ///
    /// # Errors
    /// When the ledger is damaged, held by another process, or belongs to another kernel, or when
    /// the policies that served last cannot be loaded.
    pub async fn open(file: &KernelFile, memory: Memory<'_>, parts: Parts) -> Result<Arc<Self>> {
        let statute = Statute::of(law_of(file)?);
        let now_ms = parts.clock.now_ms();
        let options = options(file, memory, &parts, now_ms)?;
        let (ledger, open_decisions, kept, is_new) = match memory {
            Memory::Durable(dir) => Ledger::open(&dir.join(LEDGER), options)
                .map(|(ledger, recovered)| (ledger, recovered.open_decisions, recovered.kept, recovered.created)),
            Memory::Volatile => Ledger::in_memory(options).map(|ledger| (ledger, Vec::new(), None, true)),
        }
        .with_context(|| format!("kernel {}", file.id))?;
        if let Memory::Durable(dir) = memory {
            checkpoint_key::settle(dir, ledger.key())?;
        }
        let dir = match memory {
            Memory::Durable(dir) => Some(dir.to_owned()),
            Memory::Volatile => None,
        };
        let ledger = Arc::new(ledger);
        let index = dir.as_deref().map(|dir| Index::open(dir, &ledger, parts.max_index_cache_bytes));
        let index = index.transpose().with_context(|| format!("kernel {}: its index", file.id))?;
        let watch = Watch::from(ledger.snapshot().last_ts_ms);
        let kernel = Self {
            id: file.id.clone(),
            name: parts.name,
            variant: file.variant,
            life: Life::new(Line::of(parts.policies, statute)),
            changing: tokio::sync::Mutex::default(),
            admission: parts.admission,
            record_requests: file.record_requests.clone(),
            blobs: dir.as_deref().map(|dir| open_blobs(dir, file)).transpose()?,
            tlog_is_public: file.tlog == TlogAccess::Public,
            dir,
            tools: parts.tools,
            ledger,
            index,
            clock: parts.clock,
            watch,
            remembered: parts.remembered,
            approvals: Queue::new(parts.approvals, &file.id, parts.metrics.clone()),
            states: States::default(),
            decided: Default::default(),
            metrics: parts.metrics,
            halted: OnceLock::new(),
            past: Mutex::default(),
            segment_full: Arc::default(),
            started_ms: now_ms,
            tasks: TaskTracker::new(),
            gate: Arc::default(),
            upkeep: Upkeep::new(parts.upkeep),
        };
        let line = kernel.recall(kept)?;
        let _ = kernel.now_ms();
        close_open_decisions(&kernel.ledger, &kernel.id, &kernel.clock, &open_decisions)?;
        kernel.observe();
        let kernel = Arc::new(kernel);
        if let Some(birth) = parts.birth.filter(|_| is_new) {
            kernel.take_place(birth).await.with_context(|| format!("kernel {}", kernel.id))?;
        } else if matches!(memory, Memory::Durable(_)) {
            let saved: Option<SavedLine> = line.as_deref().and_then(record::line_of);
            kernel.resume_policies(saved).await?;
        }
        if matches!(memory, Memory::Durable(_)) {
            kernel.remember_segments();
        }
        Ok(kernel)
    }

    /// Begin in the place of another: record whose, and judge by what is taken over.
    async fn take_place(&self, birth: Birth) -> Result<()> {
        self.note(birth.event).await?;
        let own = self.life.line();
        let reason = Reason { who: &birth.who, why: &birth.why };
        let line = birth.line.map_or_else(|| Line::clone(&own), |inherited| own.inheriting(&inherited));
        Ok(self.inherit_policies(line, reason).await?)
    }

    /// Record an event.
    pub(crate) async fn note(&self, meta: String) -> Result<(), Refused> {
        let draft = Draft { kind: Kind::Event, ts_ms: self.clock.now_ms(), meta, entry: None, closes: None };
        self.append(draft).await.map(drop)
    }

    /// Read back from the ledger what must outlive a restart, so that a crash opens no gate: the
    /// halt, the permits used, what the policies counted, and what waits for a human. Returns the last step in the life of the policies.
    fn recall(&self, kept: Option<(u64, Vec<u8>)>) -> Result<Option<String>> {
        let past = Past::of(&self.ledger.view(), kept, self.clock.now_ms())?;
        past.tell(&self.remembered)?;
        self.approvals.recall(past.approvals().clone(), self.clock.now_ms().max(self.ledger.snapshot().last_ts_ms));
        if let Some(reason) = past.halted() {
            let _ = self.halted.set(reason.to_owned());
        }
        let line = past.line().map(str::to_owned);
        *self.past.lock().unwrap_or_else(PoisonError::into_inner) = past;
        Ok(line)
    }

    /// Keep what must be remembered beside the ledger, so that the next start need not read all of it. Where that
    /// fails, the next start reads more.
    pub(crate) fn remember(&self) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = past.go_on(&self.ledger.view()).and_then(|()| past.keep(&self.ledger, self.clock.now_ms()));
        if let Err(why) = kept {
            tracing::warn!(kernel = self.id, %why, "what follows from the records was not kept");
        }
    }

    /// Keep it whenever a segment is full, in the background, as long as the kernel lives.
    fn remember_segments(self: &Arc<Self>) {
        let (kernel, full) = (Arc::downgrade(self), Arc::clone(&self.segment_full));
        tokio::spawn(async move {
            loop {
                full.notified().await;
                let Some(kernel) = kernel.upgrade() else { return };
                // A panic in there is told by the panic itself, and costs the next start some time.
                let _ = tokio::task::spawn_blocking(move || kernel.remember()).await;
            }
        });
    }

    /// The kernel's clock; a jump backward is told.
    pub(crate) fn now_ms(&self) -> u64 {
        let now_ms = self.clock.now_ms();
        // The times of a recorded batch are what they are.
        if matches!(self.clock, Clock::System) {
            self.watch.look(&self.id, now_ms);
        }
        now_ms
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its variant.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Its ledger, for reading.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What it judges by at this moment.
    #[must_use]
    pub fn policies(&self) -> Arc<Line> {
        self.life.line()
    }

    /// IDLE while it accepts requests, else HALTED. (BOOTING is over when there is a `Kernel`.)
    #[must_use]
    pub fn state(&self) -> State {
        if self.halted.get().is_some() { State::Halted } else { State::Idle }
    }

    /// How many requests it allowed and how many it denied since it was opened.
    #[must_use]
    pub fn decided(&self) -> (u64, u64) {
        (self.decided[0].load(Ordering::Relaxed), self.decided[1].load(Ordering::Relaxed))
    }

    /// Why the ledger takes no more records, if so.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.ledger.snapshot().poisoned
    }

    /// What an operator wants to know at a glance.
    #[must_use]
    pub fn status(&self) -> Value {
        let Snapshot { records, entries, root, chain_head, bytes, last_ts_ms, poisoned, .. } = self.ledger.snapshot();
        json!({
            "kernel_id": self.id,
            "variant": self.variant,
            "state": self.state(),
            "halt_reason": self.halted.get(),
            "requests": self.states.counts(),
            "started_at_ms": self.started_ms,
            "policy_set": **self.life.line().serving.digest(),
            "tools": self.tools.names(),
            "ledger": {
                "entries": entries,
                "root_hash": chain_head,
                "records": records,
                "tree_root": hex::encode(root),
                "bytes": bytes,
                "last_record_ms": last_ts_ms,
                "error": poisoned,
            },
        })
    }

    /// The jurisdiction, in the seeds' keys, and the policies that stand behind `custom_rules`.
    #[must_use]
    pub fn policy(&self) -> Value {
        let line = self.life.line();
        let mut policy = serde_json::to_value(&line.statute.law.jurisdiction).unwrap_or_default();
        policy["variant"] = json!(self.variant);
        let serving = Arc::clone(&line.serving);
        policy["policy_set"] = json!(**serving.digest());
        policy["policies"] = serving.set.policies().iter().map(describe).collect();
        policy
    }

    /// The public key that signs the checkpoints now, under the name of this log.
    #[must_use]
    pub fn checkpoint_key(&self) -> Option<VerifyingKey> {
        VerifyingKey::new(&self.ledger.view().origin(), &self.ledger.key()?).ok()
    }

    /// Have the checkpoints signed by a new key from now on. The ledger says so in a record that the old key still signs,
    /// so that whoever trusts the old key is led to the new one.
    ///
    /// # Errors
    /// When no key can be made or the ledger takes no records; the old key is in force then.
    pub(crate) async fn rotate_checkpoint_key(self: &Arc<Self>, operator: &Operator) -> Result<Value, Refused> {
        let Some(dir) = self.dir.clone() else {
            return Err(Refused::Ledger("a kernel in memory has no key of its own".into()));
        };
        // One at a time, as every change of what the kernel is.
        let _changing = self.changing.lock().await;
        self.refuse_if_replaced()?;
        let old = self.checkpoint_key().map(|key| key.to_string());
        let kernel = Arc::clone(self);
        let rotated =
            tokio::task::spawn_blocking(move || checkpoint_key::rotate(&dir, &kernel.ledger, kernel.now_ms()));
        let rotated = rotated.await.map_err(|why| Refused::Ledger(why.to_string()))?;
        rotated.map_err(|why| Refused::Ledger(format!("{why:#}")))?;
        let told = json!({"old": old, "new": self.checkpoint_key().map(|key| key.to_string())});
        let index = self.record_operator("CHECKPOINT_KEY_ROTATED", operator, told.clone()).await?;
        Ok(json!({"kernel_id": self.id, "old": told["old"], "key": told["new"], "event_index": index}))
    }

    /// Wait for the requests that are being carried to their end, then close the ledger.
    pub async fn finish(&self) {
        self.upkeep.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(index) = &self.index {
            index.close();
        }
        if self.dir.is_some() {
            self.remember();
        }
        if let Err(why) = self.ledger.close() {
            tracing::error!(kernel = self.id, %why, "the ledger was not closed cleanly");
        }
    }

    /// Bring the gauge of a policy's quarantine up to date.
    pub(crate) fn observe_quarantine(&self, policy: &str, quarantined: bool) {
        let labels = PolicyTimeLabels { kernel: self.id.clone(), policy: policy.to_owned() };
        self.metrics.policy_quarantined.get_or_create(&labels).set(i64::from(quarantined));
    }

    /// Bring the gauges up to date.
    pub fn observe(&self) {
        let labels = KernelLabels { kernel: self.id.clone() };
        let snapshot = self.ledger.snapshot();
        let set = |family: &prometheus_client::metrics::family::Family<_, prometheus_client::metrics::gauge::Gauge>,
                   value: u64| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.metrics.ledger_records, snapshot.records);
        set(&self.metrics.ledger_bytes, snapshot.bytes);
        set(&self.metrics.ledger_syncs, self.ledger.stats().syncs);
        set(&self.metrics.index_records, self.index.as_ref().map_or(0, Index::indexed));
        set(&self.metrics.accepting, u64::from(self.state() == State::Idle));
        set(&self.metrics.ledger_poisoned, u64::from(snapshot.poisoned.is_some()));
        self.approvals.observe(self.clock.now_ms());
    }

    /// Another kernel has its place: its gauges say nothing any more.
    pub(crate) fn forget_gauges(&self) {
        let labels = KernelLabels { kernel: self.id.clone() };
        let metrics = &self.metrics;
        for gauge in [
            &metrics.ledger_records,
            &metrics.ledger_bytes,
            &metrics.ledger_syncs,
            &metrics.accepting,
            &metrics.ledger_poisoned,
            &metrics.approvals_waiting,
        ] {
            gauge.remove(&labels);
        }
    }
}

/// A decision without an outcome was made before a crash: whether its tool ran is not known.
pub(crate) fn close_open_decisions(ledger: &Ledger, kernel: &str, clock: &Clock, open: &[OpenDecision]) -> Result<()> {
    for open in open {
        let now_ms = clock.now_ms();
        let request = record::request_of(&open.record).context("an open decision does not name its request")?;
        let entry = EntryData::failed(&request, now_ms, record::OUTCOME_UNKNOWN);
        ledger.append_wait(Draft {
            kind: Kind::Outcome,
            ts_ms: now_ms,
            meta: record::outcome_unknown(open.index),
            entry: Some(entry.canonical()),
            closes: Some(open.index),
        })?;
        tracing::warn!(kernel, request = request.request_id(), "closed a decision whose outcome is unknown");
    }
    Ok(())
}

fn describe(policy: &gavel_runtime::Policy) -> Value {
    let metadata = policy.metadata();
    json!({
        "name": policy.name(),
        "digest": policy.digest(),
        "bytes": policy.bytes(),
        "component": {"name": metadata.name, "version": metadata.version, "description": metadata.description},
        "config": serde_json::from_str::<Value>(policy.config()).unwrap_or_default(),
        "limits": policy.limits(),
    })
}

/// The ledger is open by now, so nobody else writes here.
fn open_blobs(dir: &Path, file: &KernelFile) -> Result<Blobs> {
    let opened = Blobs::open(&dir.join(LEDGER), file.record_requests.blob_bytes_max);
    opened.with_context(|| format!("kernel {}", file.id))
}

/// The jurisdiction of a kernel as its definition says it.
pub(crate) fn jurisdiction_of(file: &KernelFile) -> Jurisdiction {
    file.policy.clone().unwrap_or_else(|| match file.variant {
        Variant::Permissive => Jurisdiction::permissive(),
        _ => Jurisdiction::default(),
    })
}

/// How the kernel's ledger is opened.
fn options(file: &KernelFile, memory: Memory<'_>, parts: &Parts, now_ms: u64) -> Result<Options> {
    let keys = match memory {
        Memory::Durable(dir) => {
            checkpoint_key::keys(dir, parts.key_is_lost).with_context(|| format!("kernel {}", file.id))?
        }
        Memory::Volatile => Vec::new(),
    };
    Ok(Options {
        queue_max: parts.max_ledger_queue,
        sync: if matches!(memory, Memory::Durable(_)) { SyncMode::Durable } else { SyncMode::None },
        keys,
        key_is_lost: parts.key_is_lost,
        ..Options::new(Identity { kernel_id: file.id.clone(), variant: file.variant.to_string() }, now_ms)
    })
}

fn law_of(file: &KernelFile) -> Result<Law> {
    let keyring = file.permits.as_ref().map(|permits| {
        Keyring::from_hex(permits.keyring.iter().map(|(id, secret)| (id.as_str(), secret.as_str())))
            .with_context(|| format!("kernel {}: permits.keyring", file.id))
    });
    Ok(Law {
        variant: file.variant,
        jurisdiction: jurisdiction_of(file),
        max_intent_length: file.max_intent_length,
        keyring: keyring.transpose()?,
        permit_jurisdiction: file
            .permits
            .as_ref()
            .map_or_else(|| "default".into(), |permits| permits.jurisdiction.clone()),
    })
}

//! The kernels of a host, by the names that clients use.
//!
//! Kernels are replaced, not restarted. A *name* (a [`Slot`]) stays; the *kernel* that answers under it, with an id, a
//! folder and a ledger of its own, may change while requests come in. `replace` is how, `succession` what the ledgers
//! say of it, `manifest` what survives a crash, `definition` what a kernel is made of, `plan` where that comes from,
//! `start` how all of it begins, `monitor` the closer look after an incident.
//!
//! What always holds:
//! - A request is judged by one kernel, the one that answered when it came in, and carried to its end there.
//! - A kernel is exchanged by one store; nobody enters the old one afterwards, and it is closed when it is empty.
//! - What is remembered of permits and counters belongs to the name: no replacement gives any of it a new start.
//! - A halt is never lost to a replacement: one of the two sees the other ([`Slot::halt`]).

mod add;
mod closed;
pub mod definition;
mod incidents;
pub(crate) mod manifest;
mod monitor;
mod plan;
mod replace;
mod start;
pub(crate) mod succession;

pub use add::Addition;
pub use plan::Ask;
pub(crate) use start::Means;

use crate::approvals::Desk;
use crate::carry::{Panicked, carry};
use crate::checkpoints;
use crate::clock::Clock;
use crate::config::{CheckpointsFile, File, Limits, MonitoringFile};
use crate::decide::{Effect, Principal, Refused};
use crate::host::kernel_dir;
use crate::incidents::{IncidentError, Incidents};
use crate::kernel::{Birth, Kernel, Memory, Parts};
use crate::metrics::Metrics;
use crate::policies::admit::Admission;
use crate::policies::change::{Change, ChangeError, Reason};
use crate::policies::life::Deployed;
use crate::policies::watch;
use crate::record::Mode;
use crate::remembered::Remembered;
use crate::tools::Toolbox;
use crate::upkeep::Settings;
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use definition::Definition;
use gavel_kernel::{Receipt, Request, State};
use manifest::{Entry, Manifest};
use monitor::Look;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Where copies of configurations and policies lie in a data folder, and where evidence does.
const BACKUP: &str = "backup";
const ARCHIVE: &str = "archive";

/// The kernels of a host. Shared as `Arc<Fleet>`.
#[derive(Debug)]
pub struct Fleet {
    slots: ArcSwap<Slots>,
    workshop: Workshop,
    /// What `DATA/kernels.json` says, or would say.
    manifest: Mutex<Manifest>,
    /// Held while that is written.
    saving: tokio::sync::Mutex<()>,
    /// Held while a name is added.
    adding: tokio::sync::Mutex<()>,
    incidents: Arc<Incidents>,
    /// The configuration file, if there is one.
    source: Option<PathBuf>,
    monitoring: MonitoringFile,
    tasks: TaskTracker,
    monitor: Mutex<Option<JoinHandle<()>>>,
    closed: closed::Closed,
}

/// All names.
#[derive(Debug, Default)]
struct Slots {
    /// In the configuration's order, then as they were added.
    order: Vec<Arc<Slot>>,
    by_name: BTreeMap<String, Arc<Slot>>,
}

/// A name that clients use, and the kernel that answers under it.
#[derive(Debug)]
pub struct Slot {
    name: String,
    current: ArcSwap<Kernel>,
    /// Held from the beginning of a replacement until the replaced kernel is closed.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held for the moment of the exchange, and while a halt looks whether it came too late for one.
    exchange: tokio::sync::Mutex<()>,
    watching: Mutex<Vec<JoinHandle<()>>>,
    /// Halts under way.
    halting: TaskTracker,
    look: Mutex<Look>,
}

/// What every kernel of the host is made with.
#[derive(Debug)]
struct Workshop {
    data: Option<PathBuf>,
    admission: Arc<Admission>,
    tools: Toolbox,
    clock: Clock,
    metrics: Metrics,
    limits: Limits,
    approvals: Arc<Desk>,
    upkeep: Settings,
    checkpoints: CheckpointsFile,
    lost_keys: Vec<String>,
}

/// Why a kernel was not replaced, added or recovered. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// There is no such name.
    #[error("there is no kernel '{0}'")]
    NoKernel(String),
    /// Not in this state.
    #[error("{0}")]
    Conflict(String),
    /// What was asked for is not accepted.
    #[error("{0}")]
    NotAccepted(String),
    /// An incident is not as it must be.
    #[error(transparent)]
    Incident(#[from] IncidentError),
    /// The kernel's policies could not be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The disk, or a fault of the host.
    #[error("{0}")]
    Failed(String),
}

impl FleetError {
    fn failed(why: &anyhow::Error) -> Self {
        Self::Failed(format!("{why:#}"))
    }
}

impl From<Refused> for FleetError {
    fn from(why: Refused) -> Self {
        Self::Change(why.into())
    }
}

impl Slot {
    fn new(name: &str, kernel: Arc<Kernel>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            current: ArcSwap::new(kernel),
            turn: Arc::default(),
            exchange: tokio::sync::Mutex::default(),
            watching: Mutex::default(),
            halting: TaskTracker::new(),
            look: Mutex::default(),
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel that answers at this moment.
    #[must_use]
    pub fn kernel(&self) -> Arc<Kernel> {
        self.current.load_full()
    }

    /// [`Kernel::submit`] to the kernel that answers.
    ///
    /// # Errors
    /// As there.
    pub async fn submit(&self, request: Request, principal: Principal) -> Result<Receipt, Refused> {
        self.judged(request, principal, Mode::Submit, None).await
    }

    /// The same for the host itself, whose request does something else than to run a tool.
    ///
    /// # Errors
    /// As there.
    pub async fn submit_with(
        &self,
        request: Request,
        principal: Principal,
        effect: Arc<dyn Effect>,
    ) -> Result<Receipt, Refused> {
        self.judged(request, principal, Mode::Submit, Some(effect)).await
    }

    /// [`Kernel::decide`] by the kernel that answers.
    ///
    /// # Errors
    /// As there.
    pub async fn decide(&self, request: Request, principal: Principal) -> Result<Receipt, Refused> {
        self.judged(request, principal, Mode::Decide, None).await
    }

    async fn judged(
        &self,
        request: Request,
        principal: Principal,
        mode: Mode,
        effect: Option<Arc<dyn Effect>>,
    ) -> Result<Receipt, Refused> {
        loop {
            let kernel = self.kernel();
            // A gate is closed only after another kernel took the place, so the next look finds that one.
            if let Some(pass) = kernel.gate.enter() {
                return kernel.carry_in(pass, request, principal, mode, effect).await;
            }
        }
    }

    /// Halt the kernel that answers. If another takes its place at this moment, that one is halted too: who halts a
    /// name means what runs under it.
    ///
    /// # Errors
    /// As for [`Kernel::halt`].
    pub async fn halt(
        self: &Arc<Self>,
        reason: &str,
        principal: &Principal,
    ) -> Result<(Arc<Kernel>, Receipt), Refused> {
        let (slot, reason, principal) = (Arc::clone(self), reason.to_owned(), principal.clone());
        // To its end, whether or not somebody waits: half of it would halt the kernel that was replaced, and no other.
        let work = async move { slot.halt_all(&reason, &principal).await };
        carry(&self.halting, work).await.unwrap_or_else(|Panicked| Err(Refused::Ledger("the halt broke off".into())))
    }

    async fn halt_all(&self, reason: &str, principal: &Principal) -> Result<(Arc<Kernel>, Receipt), Refused> {
        let mut kernel = self.kernel();
        let mut receipt = kernel.halt(reason, principal).await?;
        loop {
            let _exchange = self.exchange.lock().await;
            let now = self.kernel();
            if Arc::ptr_eq(&now, &kernel) || now.state() == State::Halted {
                return Ok((kernel, receipt));
            }
            receipt = now.halt(reason, principal).await?;
            kernel = now;
        }
    }

    /// [`Kernel::change_policies`] of the kernel that answers.
    ///
    /// # Errors
    /// As there.
    pub async fn change_policies(&self, change: Change, reason: Reason<'_>) -> Result<Value, ChangeError> {
        loop {
            match self.kernel().change_policies(change.clone(), reason).await {
                Err(ChangeError::Kernel(Refused::Replaced(_))) => {}
                told => return told,
            }
        }
    }

    /// Look into the folder that the kernel's definition names, if it names one, and bring its checkpoints to whom the
    /// configuration names.
    fn watch(&self, definition: &Definition, checkpoints: &CheckpointsFile) {
        self.stop_watching();
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &definition.kernel.watch {
            watching.push(tokio::spawn(watch::watch(self.kernel(), folder.clone())));
        }
        if !checkpoints.push.is_empty() {
            let push = checkpoints::push(self.kernel(), checkpoints.clone());
            watching.push(tokio::spawn(async move {
                if let Err(why) = push.await {
                    tracing::error!("checkpoints are not pushed: {why:#}");
                }
            }));
        }
    }

    fn stop_watching(&self) {
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.drain(..).for_each(|watching| watching.abort());
    }
}

impl Slots {
    fn with(&self, slot: &Arc<Slot>) -> Self {
        let mut slots = Self { order: self.order.clone(), by_name: self.by_name.clone() };
        slots.order.push(Arc::clone(slot));
        slots.by_name.insert(slot.name.clone(), Arc::clone(slot));
        slots
    }
}

impl Workshop {
    /// Open the kernel `id` as `definition` says.
    async fn open(
        &self,
        id: &str,
        definition: &Definition,
        policies: Arc<Deployed>,
        remembered: Remembered,
        birth: Option<Birth>,
    ) -> Result<Arc<Kernel>> {
        let parts = Parts {
            name: definition.kernel.id.clone(),
            policies,
            admission: Arc::clone(&self.admission),
            tools: self.tools.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            remembered,
            approvals: Arc::clone(&self.approvals),
            max_ledger_queue: self.limits.max_ledger_queue,
            max_index_cache_bytes: self.limits.max_index_cache_bytes,
            upkeep: self.upkeep.clone(),
            key_is_lost: self.lost_keys.iter().any(|lost| lost == id),
            birth,
        };
        let dir = self.data.as_ref().map(|data| kernel_dir(data, id));
        let memory = dir.as_deref().map_or(Memory::Volatile, Memory::Durable);
        Kernel::open(&definition.named(id).kernel, memory, parts).await
    }

    async fn deploy(&self, definition: &Definition, warm: &[&Deployed]) -> Result<Arc<Deployed>> {
        let document = definition.document(&self.admission)?;
        Ok(Arc::new(self.admission.deploy(document, warm).await?.apart()))
    }

    fn folder(&self, name: &str) -> Option<PathBuf> {
        self.data.as_ref().map(|data| data.join(name))
    }

    /// Keep a copy of a configuration file; its name. The same text is kept once.
    fn back_up_config(&self, text: &str) -> Result<Option<String>> {
        let Some(folder) = self.folder(BACKUP) else { return Ok(None) };
        let name = config_backup(text);
        back_up(&folder, &name, text.as_bytes())?;
        Ok(Some(name))
    }
}

/// `config_` and the first digits of the text's digest.
fn config_backup(text: &str) -> String {
    format!("config_{}.yaml", &gavel_kernel::json::sha256_hex(text.as_bytes())[..16])
}

fn back_up(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    if path.is_file() {
        return Ok(());
    }
    let write = std::fs::create_dir_all(folder).and_then(|()| crate::policies::catalogue::write_whole(&path, bytes));
    write.with_context(|| path.display().to_string())
}

impl Fleet {
    /// The name, or the one under which the kernel of this id answers.
    #[must_use]
    pub fn find(&self, named: &str) -> Option<Arc<Slot>> {
        let slots = self.slots.load();
        let known = slots.by_name.get(named);
        known.or_else(|| slots.order.iter().find(|slot| slot.current.load().id() == named)).cloned()
    }

    /// The one that is meant where none is named: the configuration's first.
    ///
    /// # Panics
    /// When there is none; a fleet is opened with at least one.
    #[must_use]
    pub fn first(&self) -> Arc<Slot> {
        Arc::clone(self.slots.load().order.first().expect("a validated configuration has at least one kernel"))
    }

    /// What the approval queues of the kernels have in common.
    #[must_use]
    pub fn approvals(&self) -> &Arc<Desk> {
        &self.workshop.approvals
    }

    /// All of them, in order.
    #[must_use]
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.load().order.clone()
    }

    /// The kernels that answer, in order.
    #[must_use]
    pub fn kernels(&self) -> Vec<Arc<Kernel>> {
        self.slots.load().order.iter().map(|slot| slot.kernel()).collect()
    }

    /// The incidents of the host.
    #[must_use]
    pub fn incidents(&self) -> &Arc<Incidents> {
        &self.incidents
    }

    fn slot(&self, name: &str) -> Result<Arc<Slot>, FleetError> {
        self.find(name).ok_or_else(|| FleetError::NoKernel(name.chars().take(64).collect()))
    }

    fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a name.
    fn entry(&self, name: &str) -> Result<Entry, FleetError> {
        self.manifest().names.get(name).cloned().ok_or_else(|| FleetError::NoKernel(name.to_owned()))
    }

    /// Change what survives a crash; it is on disk when this returns.
    async fn save(&self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let _saving = self.saving.lock().await;
        let mut next = self.manifest().clone();
        change(&mut next);
        if let Some(data) = self.workshop.data.clone() {
            let written = next.clone();
            tokio::task::spawn_blocking(move || written.write(&data)).await.context("the writing broke off")??;
        }
        *self.manifest() = next;
        Ok(())
    }

    /// What clients see of a name in a list.
    #[must_use]
    pub fn describe(&self, slot: &Slot) -> Value {
        let kernel = slot.kernel();
        let entry = self.entry(slot.name()).ok();
        let predecessors = entry.iter().flat_map(|entry| &entry.predecessors);
        let predecessors: Vec<Value> = predecessors
            .map(|found| {
                json!({
                    "kernel_id": found.kernel_id,
                    "stage": found.stage,
                    "replaced_by": found.replaced_by,
                    "replaced_at_ms": found.replaced_at_ms,
                    "entries": found.end.as_ref().map(|end| end.entries),
                    "records": found.end.as_ref().map(|end| end.records),
                    "root_hash": found.end.as_ref().map(|end| &end.root_hash),
                    "archive": found.end.as_ref().and_then(|end| end.archive.as_ref()),
                })
            })
            .collect();
        json!({
            "name": slot.name(),
            "kernel_id": kernel.id(),
            "variant": kernel.variant(),
            "state": kernel.state(),
            "predecessors": predecessors,
        })
    }

    /// What an operator wants to know of a name at a glance.
    #[must_use]
    pub fn status(&self, slot: &Slot) -> Value {
        let mut status = slot.kernel().status();
        let until_ms = self.entry(slot.name()).ok().and_then(|entry| entry.monitored_until_ms);
        let until_ms = until_ms.filter(|until_ms| *until_ms > self.workshop.clock.now_ms());
        status["name"] = json!(slot.name());
        status["enhanced_monitoring_until_ms"] = json!(until_ms);
        status["monitoring"] = until_ms.map_or(Value::Null, |_| slot.last_look());
        status
    }

    /// Begin to watch the folders that definitions name, and the kernels that came after an incident.
    pub fn watch(self: &Arc<Self>) {
        for slot in self.slots() {
            if let Ok(entry) = self.entry(slot.name()) {
                slot.watch(&entry.definition, &self.workshop.checkpoints);
            }
        }
        let monitor = tokio::spawn(monitor::run(Arc::downgrade(self), self.monitoring.every_ms));
        *self.monitor.lock().unwrap_or_else(PoisonError::into_inner) = Some(monitor);
    }

    /// Wait for what is under way, then close the ledgers.
    pub async fn finish(&self) {
        if let Some(monitor) = self.monitor.lock().unwrap_or_else(PoisonError::into_inner).take() {
            monitor.abort();
        }
        let slots = self.slots();
        for slot in &slots {
            slot.stop_watching();
        }
        self.tasks.close();
        self.tasks.wait().await;
        // A replacement that ended meanwhile began to watch again.
        self.slots().iter().for_each(|slot| slot.stop_watching());
        for slot in slots {
            slot.kernel().finish().await;
        }
    }

    /// Take what a configuration that was read again says of policies and jurisdictions, and its new kernels.
    /// Everything else in it counts from the next start.
    ///
    /// # Errors
    /// Which kernel's policies are not admitted, and why; those of the kernels before it are in service then.
    pub async fn reconfigure(self: &Arc<Self>, file: &File) -> Result<()> {
        let reason = Reason { who: "configuration", why: "the configuration was read again" };
        let config = match &file.source {
            Some(source) => self.workshop.back_up_config(&source.text)?,
            None => None,
        };
        for kernel in &file.kernels {
            let declared = Definition::declared(file, kernel, &self.workshop.admission)?;
            let Some(slot) = self.slots.load().by_name.get(&kernel.id).cloned() else {
                let added = self.add_declared(declared, config.clone(), reason).await;
                added.with_context(|| format!("kernel {}", kernel.id))?;
                continue;
            };
            let mut entry = self.entry(slot.name())?;
            if !entry.meet(declared.clone(), config.as_ref()) {
                continue;
            }
            let document = entry.definition.document(&self.workshop.admission)?;
            let jurisdiction = Some(entry.definition.jurisdiction());
            let changed = slot.change_policies(Change::Configure { document, jurisdiction }, reason).await;
            changed.with_context(|| format!("kernel {}", slot.name()))?;
            // The entry itself, not the copy: another kernel may answer under the name since.
            let saved = self.save(|manifest| {
                if let Some(live) = manifest.names.get_mut(slot.name()) {
                    live.meet(declared, config.as_ref());
                }
            });
            saved.await?;
        }
        Ok(())
    }
}

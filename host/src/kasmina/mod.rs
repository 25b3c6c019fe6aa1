//! Kasmina in this host: layers that are served, governed by a kernel, kept on disk, and told of on the bus.
//!
//! The crate `kasmina` computes and knows nothing of all that; here is what stands around it:
//! - `governor`: every transition is a request to a kernel, recorded before it lands.
//! - `handle`, `worker`: each layer on its own thread, behind a bounded queue; the epoch boundary.
//! - `store`, `library`: what outlives a restart.
//! - `rollout`: which layer serves which model.
//! - `message`: what goes over the bus and over HTTP.
//! - `component`: strategies and Tamiyos that are WebAssembly components.
//! - `standalone`: a kernel for one command (`gavel kasmina train`), with a ledger that can be verified afterwards.
//! - `tamiyo`: who commands, by name.
//!
//! What always holds:
//! - No seed changes its stage without an ALLOW on disk. Restoring a whole layer is such a change too.
//! - A layer is on disk as it was after its last boundary, whole; a restart continues there, bit for bit.
//! - No pass runs on a worker of the runtime; no layer waits for another.

pub mod component;
mod convert;
mod definition;
mod device;
mod error;
mod governor;
mod handle;
mod library;
pub mod message;
pub mod metrics;
pub mod rollout;
mod serving;
pub mod standalone;
mod store;
pub mod tamiyo;
mod worker;

pub use definition::Definition;
pub use error::KasminaError;
pub use governor::{ACTOR, Bounds, KernelGovernor, RESTORE, TRANSITION};
pub use serving::Values;
pub use worker::{Boundary, EpochSignals};

use crate::clock::Clock;
use crate::config::KasminaFile;
use crate::fleet::{Fleet, Slot};
use crate::news::{Bus, Seen};
use crate::operations::event::Operator;
use anyhow::{Context, Result};
use component::ComponentStrategy;
use gavel_kernel::json::sha256_hex;
use handle::Handle;
use kasmina::layer::Layer;
use library::SharedLibrary;
use metrics::LayerMetrics;
use rollout::Rollouts;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use store::{LayerFolder, Store};
use tamiyo::Tamiyos;
use worker::Worker;

/// The layers of a host.
#[derive(Debug)]
pub struct Kasmina {
    limits: KasminaFile,
    slot: Arc<Slot>,
    store: Store,
    library: SharedLibrary,
    tamiyos: Arc<Tamiyos>,
    bus: Bus,
    clock: Clock,
    metrics: LayerMetrics,
    rollouts: Arc<Rollouts>,
    layers: RwLock<BTreeMap<String, Arc<Served>>>,
    /// Held while layers are made and removed.
    changing: tokio::sync::Mutex<()>,
}

/// A layer that is served.
#[derive(Debug)]
struct Served {
    definition: Option<Definition>,
    handle: Handle,
    /// Commands that it was given.
    seen: Mutex<Seen>,
}

/// What Kasmina is made of, beside its configuration.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The kernels.
    pub fleet: &'a Fleet,
    /// Where layers are kept; without, they end with the process.
    pub data: Option<&'a Path>,
    /// Where news go.
    pub bus: Bus,
    /// Who may command.
    pub tamiyos: Tamiyos,
    /// Grafting strategies beside those of the crate.
    pub strategies: Vec<ComponentStrategy>,
    /// Its time.
    pub clock: Clock,
    /// Where it counts.
    pub metrics: LayerMetrics,
}

/// What came of a command that was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// Its id.
    pub command_id: String,
    /// It came before, and was not given to the layer again.
    pub duplicate: bool,
}

type Done<T> = Result<T, KasminaError>;

impl Kasmina {
    /// Where the layers' news are told.
    #[must_use]
    pub fn news(&self) -> &Bus {
        &self.bus
    }

    /// Take up the layers that lie in the data folder. One that cannot be taken up is out of service, and the others
    /// serve.
    ///
    /// # Errors
    /// When the data folder or the library cannot be read, or there is no such kernel.
    pub async fn open(limits: &KasminaFile, parts: Parts<'_>) -> Result<Self> {
        let slot = match &limits.kernel {
            Some(name) => {
                parts.fleet.find(name).with_context(|| format!("kasmina.kernel: there is no kernel `{name}`"))?
            }
            None => parts.fleet.first(),
        };
        let store = Store::open(parts.data).context("the folder of layers")?;
        let library = SharedLibrary::open(store.clone(), limits.blueprints_max).context("the library of blueprints")?;
        // Before the layers, whose seeds may name them.
        for strategy in parts.strategies {
            library.add_strategy(Box::new(strategy.counted(&parts.metrics)));
        }
        let rollouts = Rollouts::open(Arc::clone(&slot), store.clone(), parts.clock.clone());
        let kasmina = Self {
            limits: limits.clone(),
            rollouts,
            slot,
            library,
            store,
            tamiyos: Arc::new(parts.tamiyos),
            bus: parts.bus,
            clock: parts.clock,
            metrics: parts.metrics,
            layers: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
        };
        for id in kasmina.store.unfinished().context("the folder of layers")? {
            kasmina.clear_away(&id, "the host stopped while it was made").await;
        }
        for id in kasmina.store.ids().context("the folder of layers")? {
            kasmina.take_up(&id).await;
        }
        Ok(kasmina)
    }

    /// Put away what is left of a layer that was not made to the end. It may be on record as made, so that it is put on
    /// record as gone.
    async fn clear_away(&self, id: &str, why: &str) {
        let details = json!({"layer_id": id, "epoch": null});
        let recorded = self.record("LAYER_REMOVED", "gavel", why, details).await;
        let cleared = recorded.map_err(|why| why.to_string());
        if let Err(why) = cleared.and_then(|()| self.store.layer(id).discard().map_err(|why| why.to_string())) {
            tracing::error!(layer = id, why, "what is left of a layer that was never served stays");
        }
    }

    async fn take_up(&self, id: &str) {
        let definition = self.store.layer(id).definition::<Definition>();
        let begun = match &definition {
            Ok(Some(definition)) => self.begin(definition).await.map_err(|why| why.to_string()),
            Ok(None) => Err("its definition is gone".to_owned()),
            Err(why) => Err(why.to_string()),
        };
        let handle = begun.unwrap_or_else(|why| {
            tracing::error!(layer = id, why, "the layer is out of service: it could not be taken up");
            Handle::out_of_service(id, why)
        });
        self.put(id, definition.ok().flatten(), handle);
        if let Ok(told) = self.status(id).await {
            let details = json!({"layer_id": id, "epoch": told["epoch"], "boundary_sha256": told["boundary_sha256"]});
            if let Err(why) = self.record("LAYER_RESUMED", "gavel", "the host started", details).await {
                tracing::error!(layer = id, %why, "it is not on record at which boundary the layer was taken up");
            }
        }
    }

    /// Start a layer's thread.
    async fn begin(&self, definition: &Definition) -> Done<Handle> {
        let id = definition.config.id.clone();
        let (definition, folder) = (definition.clone(), self.store.layer(&id));
        let config = definition.layer(&self.limits);
        let bounds = Bounds {
            transitions_max: self.limits.transitions_max,
            ruling_timeout: Duration::from_millis(self.limits.ruling_timeout_ms),
        };
        let governor = KernelGovernor::new(Arc::clone(&self.slot), tokio::runtime::Handle::current(), bounds);
        let (library, tamiyos, backend) = (self.library.clone(), Arc::clone(&self.tamiyos), self.limits.backend);
        let threads = self.limits.cpu_threads;
        let (bus, clock, metrics) = (self.bus.clone(), self.clock.clone(), self.metrics.clone());
        let open = move || {
            let backend = device::backend(definition.device(backend), threads)?;
            let mut layer = Layer::new(config, Arc::clone(&library.shared), backend, device::nursery())?;
            let kept = folder.boundary().map_err(|why| KasminaError::NotKept {
                layer: definition.config.id.clone(),
                why: format!("its boundary cannot be read: {why}"),
            })?;
            let boundary = kept.as_deref().map(sha256_hex);
            if let Some(kept) = kept {
                layer.restore(&kept)?;
            }
            let tamiyo = tamiyos.make(&definition.tamiyo, &library.shared)?;
            let (health, told) = (None, Vec::new());
            let worker = Worker {
                layer,
                definition,
                tamiyo,
                governor,
                folder,
                library,
                bus,
                clock,
                metrics,
                boundary,
                health,
                told,
            };
            worker.observe();
            Ok(worker)
        };
        Handle::start(&id, self.limits.queue, open).await
    }

    fn put(&self, id: &str, definition: Option<Definition>, handle: Handle) {
        let seen = Mutex::new(Seen::new(self.limits.commands_remembered));
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.insert(id.to_owned(), Arc::new(Served { definition, handle, seen }));
        self.metrics.layers.set(i64::try_from(layers.len()).unwrap_or(i64::MAX));
    }

    /// Record what was done with a layer as a whole.
    async fn record(&self, what: &'static str, who: &str, why: &str, details: Value) -> Done<()> {
        let operator = Operator { who: who.to_owned(), why: why.to_owned() };
        Ok(self.slot.kernel().record_operator(what, &operator, details).await.map(drop)?)
    }

    fn served(&self, id: &str) -> Done<Arc<Served>> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.get(id).cloned().ok_or_else(|| KasminaError::NoLayer(id.chars().take(64).collect()))
    }

    /// Make a layer, record that, and serve it.
    ///
    /// # Errors
    /// When it is there already, a value is not accepted, or it cannot be kept or recorded; then there is none.
    pub async fn create(&self, definition: Definition, who: &str) -> Done<Value> {
        let definition = definition.with_flags();
        let _changing = self.changing.lock().await;
        let id = definition.config.id.clone();
        definition.check(&self.limits)?;
        if self.served(&id).is_ok() {
            return Err(KasminaError::Exists(id));
        }
        let count = self.layers.read().unwrap_or_else(PoisonError::into_inner).len();
        if count >= self.limits.layers_max {
            return Err(KasminaError::Limit(format!("{count} layers are served already (kasmina.layers_max)")));
        }
        let handle = self.begin(&definition).await?;
        let made = self.keep_new(&id, &definition, who).await;
        if let Err(why) = made {
            handle.close(self.finish_timeout()).await;
            self.metrics.forget(&id);
            return Err(why);
        }
        self.put(&id, Some(definition), handle);
        self.status(&id).await
    }

    /// On disk under another name, then on record, then under its own.
    async fn keep_new(&self, id: &str, definition: &Definition, who: &str) -> Done<()> {
        let kept = definition.clone();
        self.on_disk(id, move |folder| folder.create(&kept)).await?;
        let recorded = self.record("LAYER_CREATED", who, "", json!({"layer_id": id, "definition": definition})).await;
        if recorded.is_err() {
            let _ = self.on_disk(id, LayerFolder::discard).await;
            return recorded;
        }
        let confirmed = self.on_disk(id, LayerFolder::confirm).await;
        if let Err(why) = &confirmed {
            self.clear_away(id, &why.to_string()).await;
        }
        confirmed
    }

    /// Do something with a layer's folder, away from the runtime's workers.
    async fn on_disk(
        &self,
        id: &str,
        work: impl FnOnce(&LayerFolder) -> std::io::Result<()> + Send + 'static,
    ) -> Done<()> {
        let folder = self.store.layer(id);
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        let done = done.unwrap_or_else(|why| Err(std::io::Error::other(why)));
        done.map_err(|why| KasminaError::NotKept { layer: id.to_owned(), why: why.to_string() })
    }

    fn finish_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.finish_timeout_ms)
    }

    /// Remove a layer with all that is kept of it, once it has ended and that is recorded.
    ///
    /// # Errors
    /// When there is none, its last job does not end, or the removal cannot be recorded or done. Where it could not be
    /// recorded, the layer is taken up again at its last boundary.
    pub async fn remove(&self, id: &str, who: &str) -> Done<()> {
        let _changing = self.changing.lock().await;
        let served = self.served(id)?;
        if let Some(why) = self.needed_by_rollout(id) {
            return Err(KasminaError::Conflict(why));
        }
        let epoch = self.status(id).await.map_or(Value::Null, |told| told["epoch"].clone());
        if !served.handle.close(self.finish_timeout()).await {
            let max = self.limits.finish_timeout_ms;
            return Err(KasminaError::Conflict(format!(
                "layer '{id}' takes no more jobs and is still at work after {max} ms (kasmina.finish_timeout_ms): \
                 ask again to remove it"
            )));
        }
        if let Err(why) = self.record("LAYER_REMOVED", who, "", json!({"layer_id": id, "epoch": epoch})).await {
            self.take_up(id).await;
            return Err(why);
        }
        {
            let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
            layers.remove(id);
            self.metrics.layers.set(i64::try_from(layers.len()).unwrap_or(i64::MAX));
        }
        self.metrics.forget(id);
        self.on_disk(id, LayerFolder::remove).await
    }

    /// The layers' ids, and why one is out of service.
    #[must_use]
    pub fn list(&self) -> Value {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let told = layers.iter().map(|(id, served)| {
            let width = served.definition.as_ref().map(|definition| definition.config.width);
            let seeds = served.definition.as_ref().map(|definition| definition.config.seeds);
            json!({"layer_id": id, "width": width, "seeds": seeds, "out_of_service": served.handle.failed()})
        });
        json!({"layers": told.collect::<Vec<_>>(), "kernel": self.slot.name()})
    }

    /// What a layer is.
    ///
    /// # Errors
    /// When there is none, or it is out of service.
    pub async fn status(&self, id: &str) -> Done<Value> {
        self.ask(id, |worker| Ok(worker.status())).await
    }

    /// Have a layer do something on its thread.
    async fn ask<T: Send + 'static>(
        &self,
        id: &str,
        job: impl FnOnce(&mut Worker) -> Done<T> + Send + 'static,
    ) -> Done<T> {
        self.served(id)?.handle.ask(job).await
    }
}

//! The engine of a process: one compiler, one pool of instances, one ticker, two lanes; and, once there are plugins, an
//! engine of their own beside it.

use crate::bindings::{Policy as World, strategy};
use crate::cache::Cache;
use crate::epoch::Ticker;
use crate::evaluate::Guest;
use crate::lanes::SlowLane;
use crate::plugin::Home;
use crate::{Error, SandboxOptions};
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// A process has one of these; policies and the components of growing layers are loaded into it. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
    /// What the worlds of a growing layer offer: less than a policy has.
    pub(crate) growth: Linker<Guest>,
    pub(crate) options: SandboxOptions,
    /// One permit for each instance slot of the pool.
    pub(crate) slots: Arc<Semaphore>,
    /// One permit for each instance that may be kept or made ahead; it holds a slot as well.
    pub(crate) idle: Arc<Semaphore>,
    pub(crate) lane: SlowLane,
    pub(crate) ticker: Ticker,
    cache: Option<Cache>,
    plugins: OnceLock<Result<Arc<Home>, String>>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Set up the engine.
    ///
    /// # Errors
    /// [`Error::Engine`] when the machine cannot run it: no address space, no threads.
    pub fn new(options: SandboxOptions) -> Result<Self, Error> {
        let told = |why: &dyn std::fmt::Display| Error::Engine(why.to_string());
        let mut config = config(&options);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&options)));
        let engine = Engine::new(&config).map_err(|why| told(&why))?;
        let mut linker = Linker::new(&engine);
        World::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest).map_err(|why| told(&why))?;
        let mut growth = Linker::new(&engine);
        strategy::Strategy::add_to_linker::<_, HasSelf<Guest>>(&mut growth, |guest| guest).map_err(|why| told(&why))?;
        let inner = Inner {
            linker,
            growth,
            slots: Arc::new(Semaphore::new(options.max_instances as usize)),
            idle: Arc::new(Semaphore::new(options.idle_instances_max())),
            lane: SlowLane::start(options.slow_lane_threads).map_err(|why| told(&why))?,
            ticker: Ticker::start(engine.clone()).map_err(|why| told(&why))?,
            cache: options.cache_dir.as_deref().and_then(Cache::open),
            plugins: OnceLock::new(),
            engine,
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the pool can give an instance without coming close to its end. A component may
    /// take many memories and tables; what is made ahead must not use up those of the others.
    pub(crate) fn has_room(&self) -> bool {
        let enough = |used: usize, per_slot: u32| {
            used as u64 * 4 < u64::from(self.inner.options.max_instances) * u64::from(per_slot) * 3
        };
        let pool = self.inner.engine.pooling_allocator_metrics();
        pool.is_none_or(|pool| enough(pool.memories(), MEMORIES_PER_SLOT) && enough(pool.tables(), TABLES_PER_SLOT))
    }

    /// Compile a component for `engine`, or take it from the cache.
    pub(crate) fn compile(&self, engine: &Engine, bytes: &[u8]) -> Result<Component, wasmtime::Error> {
        match &self.inner.cache {
            Some(cache) => cache.component(engine, bytes),
            None => Component::new(engine, bytes),
        }
    }

    /// Where plugins live; set up when the first is brought.
    pub(crate) fn plugins(&self) -> Result<&Arc<Home>, Error> {
        let set_up = || Home::new(&self.inner.options).map_err(|why| why.to_string());
        self.inner.plugins.get_or_init(set_up).as_ref().map_err(|why| Error::Engine(why.clone()))
    }
}

/// Core instances, memories and tables in one component. Guests in C, Rust, JavaScript, Python and
/// Go have 1 to 30 core modules (shims and adapters), one memory and a few tables.
pub(crate) const CORE_INSTANCES_PER_COMPONENT: u32 = 64;
pub(crate) const MEMORIES_PER_COMPONENT: u32 = 4;
pub(crate) const TABLES_PER_COMPONENT: u32 = 16;

/// Memories and tables in the pool, for each instance slot. Few components have more than one.
const MEMORIES_PER_SLOT: u32 = 2;
const TABLES_PER_SLOT: u32 = 4;

/// Memory kept resident in a free slot and cleared by hand: for a small guest that is everything
/// it touches, and clearing 256 KiB at most costs less than the page faults it saves.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// What holds for every guest, wherever its instances lie.
pub(crate) fn config(options: &SandboxOptions) -> Config {
    let stack = usize::try_from(options.max_stack_bytes).unwrap_or(usize::MAX);
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(None)
        .max_wasm_stack(stack)
        // Host functions run on the same stack, above the guest's part of it.
        .async_stack_size(stack.saturating_add(512 << 10))
        .memory_init_cow(true);
    config
}

fn pool(options: &SandboxOptions) -> PoolingAllocationConfig {
    let slots = options.max_instances;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        // A number that bounds, and reserves nothing: component instances are what is counted.
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(slots.saturating_mul(MEMORIES_PER_SLOT))
        .total_tables(slots.saturating_mul(TABLES_PER_SLOT))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .table_elements(usize::try_from(options.max_table_elements).unwrap_or(usize::MAX))
        .max_memory_size(usize::try_from(options.max_memory_bytes).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(64 << 10);
    pool
}

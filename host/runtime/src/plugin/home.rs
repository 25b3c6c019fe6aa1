//! Where plugins live: an engine beside that of the policies.
//!
//! The policies' engine keeps a pool of slots that are taken for microseconds; an instance that lives for days would hold
//! one for as long. Here every instance gets memory of its own from the system, and gives it back when it ends.

use super::guest::Guest;
use crate::bindings::plugin::{Plugin as World, PluginPre};
use crate::epoch::Ticker;
use crate::limits::TRANSFER_BYTES_MAX;
use crate::load::wrong_types;
use crate::world::PLUGIN;
use crate::{Error, Sandbox, SandboxOptions};
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Engine, InstanceAllocationStrategy, Store};

/// Components that were described and are kept compiled until they are loaded: as many as one folder of plugins has.
const DESCRIBED_KEPT_MAX: usize = 32;

/// Between 0.5 and 1 ms until a plugin that works lets others have a turn for the first time.
pub(super) const FIRST_SLICE_TICKS: u64 = 2;

/// The engine of plugins, with what their world offers.
pub(crate) struct Home {
    engine: Engine,
    linker: Linker<Guest>,
    pub(super) ticker: Ticker,
    pub(super) max_stack_bytes: u64,
    /// By digest, the oldest first.
    described: Mutex<Vec<(String, PluginPre<Guest>)>>,
}

impl Home {
    pub(crate) fn new(options: &SandboxOptions) -> wasmtime::Result<Arc<Self>> {
        let mut config = crate::sandbox::config(options);
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        World::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
        let ticker = Ticker::start(engine.clone())?;
        let max_stack_bytes = options.max_stack_bytes;
        Ok(Arc::new(Self { engine, linker, ticker, max_stack_bytes, described: Mutex::default() }))
    }

    /// A store for one instance.
    pub(super) fn store(&self, guest: Guest) -> Store<Guest> {
        let transfer = usize::try_from(guest.max_output_bytes()).unwrap_or(usize::MAX);
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| guest);
        store.set_hostcall_fuel(transfer.max(TRANSFER_BYTES_MAX));
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().next_slice()));
        store.set_epoch_deadline(FIRST_SLICE_TICKS);
        store
    }

    /// Keep what was compiled to be described, for it is loaded next as a rule.
    pub(super) fn keep(&self, digest: String, pre: PluginPre<Guest>) {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        described.retain(|(kept, _)| *kept != digest);
        if described.len() >= DESCRIBED_KEPT_MAX {
            described.remove(0);
        }
        described.push((digest, pre));
    }

    /// What was kept under a digest; it is then the caller's.
    pub(super) fn take(&self, digest: &str) -> Option<PluginPre<Guest>> {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        let at = described.iter().position(|(kept, _)| kept == digest)?;
        Some(described.remove(at).1)
    }
}

impl Sandbox {
    /// The component of these bytes, compiled and linked, if it is a plugin's.
    pub(super) fn plugin_pre(&self, home: &Home, name: &str, bytes: &[u8]) -> Result<PluginPre<Guest>, Error> {
        let (component, _) = self.fitting(&home.engine, &PLUGIN, name, bytes)?;
        let told = |why| wrong_types(&PLUGIN, name, &why);
        PluginPre::new(home.linker.instantiate_pre(&component).map_err(told)?).map_err(told)
    }
}

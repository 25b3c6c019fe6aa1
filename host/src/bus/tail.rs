//! Listeners of the bus over HTTP: so many at once, each told how many events it was too slow to hear.

use crate::config::DaemonFile;
use gavel_bus::{Bus, Event};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

/// All that happens on a bus from one moment on, for one listener.
#[derive(Debug)]
pub struct Tail {
    /// The events. The bus waits for no listener: one that lags is told so.
    pub events: broadcast::Receiver<Arc<Event>>,
    /// Cancelled when the server ends.
    pub ending: CancellationToken,
    /// How long it may take nothing.
    pub stall: Duration,
    _place: OwnedSemaphorePermit,
}

/// The places of listeners.
pub(super) struct Tails {
    places: Arc<Semaphore>,
    places_max: usize,
    stall: Duration,
    ending: CancellationToken,
}

impl Tails {
    pub(super) fn new(file: &DaemonFile) -> Self {
        Self {
            places: Arc::new(Semaphore::new(file.max_tails)),
            places_max: file.max_tails,
            // It was checked when the configuration was read.
            stall: Duration::try_from_secs_f64(file.tail_stall).unwrap_or_default(),
            ending: CancellationToken::new(),
        }
    }

    pub(super) fn begin(&self, bus: &Bus) -> Result<Tail, String> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            format!("{} watch the bus over HTTP already (daemon.max_tails); try again later", self.places_max)
        })?;
        Ok(Tail { events: bus.watch(), ending: self.ending.clone(), stall: self.stall, _place: place })
    }

    pub(super) fn end(&self) {
        self.ending.cancel();
    }
}

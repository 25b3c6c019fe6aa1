//! The HTTP API: axum routes and wire types. Nothing below this knows the API's field names.
//!
//! Every answer is JSON, errors too (`{"error": MESSAGE}`). A body that cannot be read as a request
//! is answered with a 4xx, counted, and leaves no record; a request that is judged is answered 200,
//! whatever the decision, because judging it succeeded.

mod approvals;
pub mod auth;
mod batch;
mod bus;
pub(crate) mod error;
mod events;
mod evidence;
mod fleet;
mod guard;
mod kasmina;
mod operations;
mod passes;
mod policies;
mod prove;
mod rate;
mod records;
mod rollout;
mod routes;
mod serve;
mod tlog;
mod tls;
mod upkeep;
mod values;

pub use error::ApiError;
pub use routes::{ROUTES, router};
pub(crate) use serve::{Peer, serve_router};
pub use serve::{Server, serve};

use crate::bus::BusHost;
use crate::config::Limits;
use crate::decide::Refused;
use crate::fleet::{Fleet, Slot};
use crate::kasmina::Kasmina;
use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::operations::Operations;
use auth::Keys;
use rate::RateLimit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// What the routes serve. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fleet: Arc<Fleet>,
    keys: Keys,
    limits: Limits,
    metrics: Metrics,
    rate: RateLimit,
    in_flight: Arc<Semaphore>,
    stopping: AtomicBool,
    /// The plays of the operator, where there is a data folder for them.
    operations: OnceLock<Operations>,
    /// The layers, where there are any.
    kasmina: OnceLock<Arc<Kasmina>>,
    /// The event bus, where there is one.
    bus: OnceLock<Arc<BusHost>>,
    /// Room for bodies with values, in KiB.
    bodies: OnceLock<Arc<Semaphore>>,
    /// Tells the process to restart, if it can.
    restart: OnceLock<CancellationToken>,
}

impl App {
    /// An app that serves the kernels of `fleet`; the first one is meant where a route names none.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, keys: Keys, limits: Limits, metrics: Metrics) -> Self {
        let inner = Inner {
            fleet,
            keys,
            rate: RateLimit::new(limits.max_requests_per_second, limits.max_rate_callers),
            in_flight: Arc::new(Semaphore::new(limits.max_in_flight)),
            limits,
            metrics,
            stopping: AtomicBool::new(false),
            operations: OnceLock::new(),
            kasmina: OnceLock::new(),
            bus: OnceLock::new(),
            bodies: OnceLock::new(),
            restart: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// With the plays of the operator; without, their routes answer 409.
    #[must_use]
    pub fn with_operations(self, operations: Operations) -> Self {
        // A second one changes nothing.
        let _ = self.inner.operations.set(operations);
        self
    }

    /// With layers; without, their routes answer 409.
    #[must_use]
    pub fn with_kasmina(self, kasmina: Arc<Kasmina>) -> Self {
        // A second one changes nothing.
        let _ = self.inner.kasmina.set(kasmina);
        self
    }

    /// With an event bus; without, its routes answer 409.
    #[must_use]
    pub fn with_bus(self, bus: Arc<BusHost>) -> Self {
        // A second one changes nothing.
        let _ = self.inner.bus.set(bus);
        self
    }

    fn bus(&self) -> Result<&Arc<BusHost>, ApiError> {
        let none = "this server has no event bus: give its configuration a section `bus`";
        self.inner.bus.get().ok_or_else(|| ApiError::Conflict(none.into()))
    }

    fn kasmina(&self) -> Result<&Arc<Kasmina>, ApiError> {
        let none =
            "this server serves no layers: give its configuration a section `kasmina`, or use `gavel kasmina serve`";
        self.inner.kasmina.get().ok_or_else(|| ApiError::Conflict(none.into()))
    }

    /// Room for a body with values, until it is dropped. Nobody waits for it: whoever waits has sent half of it already.
    fn room_for(&self, bytes: usize, bytes_max: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        // Of whole KiB, at most what a semaphore can count.
        let kib = |bytes: usize| u32::try_from(bytes.div_ceil(1024).clamp(1, 1 << 28)).unwrap_or(1 << 28);
        let all = kib(bytes_max);
        let bodies = self.inner.bodies.get_or_init(|| Arc::new(Semaphore::new(all as usize)));
        Arc::clone(bodies).try_acquire_many_owned(kib(bytes).min(all)).map_err(|_| {
            let why = format!("bodies in flight fill {bytes_max} bytes already (kasmina.bodies_bytes_max); try again");
            ApiError::Unavailable(why)
        })
    }

    /// The process can restart itself: when this is cancelled, it is asked to.
    #[must_use]
    pub fn restartable(&self) -> CancellationToken {
        self.inner.restart.get_or_init(CancellationToken::new).clone()
    }

    fn operations(&self) -> Result<&Operations, ApiError> {
        let none = || ApiError::Conflict("this server has no data folder, so it cannot be operated".into());
        self.inner.operations.get().ok_or_else(none)
    }

    /// The kernels that answer.
    fn kernels(&self) -> Vec<Arc<Kernel>> {
        self.inner.fleet.kernels()
    }

    /// The kernel of this name, or the first one.
    fn slot(&self, name: Option<&str>) -> Result<Arc<Slot>, ApiError> {
        let Some(name) = name else { return Ok(self.inner.fleet.first()) };
        self.inner.fleet.find(name).ok_or_else(|| ApiError::NoKernel(name.chars().take(64).collect()))
    }

    /// Count a body that could not be read as a request.
    fn count_unreadable(&self) {
        self.inner.metrics.unreadable.inc();
    }

    /// What a caller is told whose request the kernel refused. One that no record has room for was
    /// not judged either, so it is counted with those that could not be read.
    fn refused(&self, why: Refused) -> ApiError {
        if matches!(why, Refused::TooLong(_)) {
            self.count_unreadable();
        }
        why.into()
    }

    /// What a caller is told that has to wait so long for its next request.
    fn too_often(&self, wait: Duration) -> ApiError {
        let per_second = self.inner.limits.max_requests_per_second;
        ApiError::Rate { per_second, retry_after_s: wait.as_secs() + 1 }
    }

    /// From now on `/readyz` answers 503.
    pub(crate) fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        // Those who listen would hold up the end.
        if let Some(kasmina) = self.inner.kasmina.get() {
            kasmina.bus().close();
        }
        if let Some(bus) = self.inner.bus.get() {
            bus.end_tails();
        }
        self.inner.fleet.kernels().iter().for_each(|kernel| kernel.approvals.end_waits());
    }

    /// Wait until the requests in flight are done, at most for as long as the limits grant. Also
    /// those whose callers went away: they are being carried to their end.
    pub(crate) async fn idle(&self) {
        let grace = Duration::from_millis(self.inner.limits.shutdown_grace_ms);
        let all = u32::try_from(self.inner.limits.max_in_flight).unwrap_or(u32::MAX);
        if tokio::time::timeout(grace, self.inner.in_flight.acquire_many(all)).await.is_err() {
            tracing::warn!(
                grace_ms = grace.as_millis(),
                "requests were still in flight when the grace ended (limits.shutdown_grace_ms)"
            );
        }
    }

    /// Why no traffic should be sent here, if so.
    fn not_ready(&self) -> Option<String> {
        if self.inner.stopping.load(Ordering::SeqCst) {
            return Some("stopping".into());
        }
        let poisoned = self.inner.fleet.kernels().into_iter().find(|kernel| kernel.poisoned().is_some());
        poisoned.map(|kernel| format!("the ledger of kernel '{}' takes no records", kernel.id()))
    }
}

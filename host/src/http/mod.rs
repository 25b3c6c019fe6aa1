//! The HTTP API: axum routes and wire types. Nothing below this knows the API's field names.
//!
//! Every answer is JSON, errors too (`{"error": MESSAGE}`). A body that cannot be read as a request
//! is answered with a 4xx, counted, and leaves no record; a request that is judged is answered 200,
//! whatever the decision, because judging it succeeded.

pub mod auth;
mod error;
mod evidence;
mod guard;
mod operations;
mod policies;
mod rate;
mod routes;
mod serve;
mod tls;

pub use error::ApiError;
pub use routes::{ROUTES, router};
pub use serve::{Server, serve};

use crate::config::Limits;
use crate::decide::Refused;
use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::operations::Operations;
use auth::Keys;
use rate::RateLimit;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What the routes serve. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kernels: BTreeMap<String, Arc<Kernel>>,
    /// The kernel that the routes without an id mean: the first of the configuration.
    first: String,
    keys: Keys,
    limits: Limits,
    metrics: Metrics,
    rate: RateLimit,
    in_flight: Arc<Semaphore>,
    stopping: AtomicBool,
    /// The plays of the operator, where there is a data folder for them.
    operations: OnceLock<Operations>,
    /// Tells the process to restart, if it can.
    restart: OnceLock<CancellationToken>,
}

impl App {
    /// An app that serves `kernels`; the first one is meant where a route names none.
    ///
    /// # Panics
    /// When there is no kernel; a validated configuration has at least one.
    #[must_use]
    pub fn new(kernels: Vec<Arc<Kernel>>, keys: Keys, limits: Limits, metrics: Metrics) -> Self {
        assert!(!kernels.is_empty(), "a validated configuration has at least one kernel");
        let first = kernels[0].id().to_owned();
        let inner = Inner {
            first,
            kernels: kernels.into_iter().map(|kernel| (kernel.id().to_owned(), kernel)).collect(),
            keys,
            rate: RateLimit::new(limits.max_requests_per_second, limits.max_rate_callers),
            in_flight: Arc::new(Semaphore::new(limits.max_in_flight)),
            limits,
            metrics,
            stopping: AtomicBool::new(false),
            operations: OnceLock::new(),
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

    /// The process can restart itself: when this is cancelled, it is asked to.
    #[must_use]
    pub fn restartable(&self) -> CancellationToken {
        self.inner.restart.get_or_init(CancellationToken::new).clone()
    }

    fn operations(&self) -> Result<&Operations, ApiError> {
        let none = || ApiError::Conflict("this server has no data folder, so it cannot be operated".into());
        self.inner.operations.get().ok_or_else(none)
    }

    fn kernel(&self, id: Option<&str>) -> Result<&Arc<Kernel>, ApiError> {
        let id = id.unwrap_or(&self.inner.first);
        self.inner.kernels.get(id).ok_or_else(|| ApiError::NoKernel(id.chars().take(64).collect()))
    }

    fn kernels(&self) -> impl Iterator<Item = &Arc<Kernel>> {
        self.inner.kernels.values()
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

    /// From now on `/readyz` answers 503.
    fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
    }

    /// Why no traffic should be sent here, if so.
    fn not_ready(&self) -> Option<String> {
        if self.inner.stopping.load(Ordering::SeqCst) {
            return Some("stopping".into());
        }
        let poisoned = self.kernels().find(|kernel| kernel.poisoned().is_some());
        poisoned.map(|kernel| format!("the ledger of kernel '{}' takes no records", kernel.id()))
    }
}

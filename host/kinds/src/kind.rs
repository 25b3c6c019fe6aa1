//! What a kind of kernel is, what it is made of, and what it becomes.

use crate::doors::Doors;
use crate::peers::Peers;
use axum::Router;
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Milliseconds since 1970, by the clock that everybody shares.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A kind of kernel.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name; as a rule also that of the one kernel of it.
    pub name: &'static str,
    /// What it does, in one line.
    pub purpose: &'static str,
    /// Kernels that must be healthy before it starts, where a configuration names no others.
    pub needs: &'static [&'static str],
    /// Checks settings when a configuration is read.
    pub check: fn(&Value) -> Result<(), SettingsError>,
    /// Opens a kernel of this kind.
    pub open: fn(Seed) -> Opened,
}

/// A kernel that is being opened.
pub type Opened = BoxFuture<'static, anyhow::Result<Kernel>>;

/// What a kernel is made of.
pub struct Seed {
    /// Its name.
    pub name: String,
    /// Its folder, which is there, and nobody else's.
    pub folder: PathBuf,
    /// Its settings: an object, checked by [`Kind::check`].
    pub settings: Value,
    /// The clock.
    pub clock: Clock,
    /// The other kernels of its fleet.
    pub peers: Peers,
    /// Cancelled when it is to end: what streams must end then.
    pub stop: CancellationToken,
    /// Where it counts. Names get the prefix `gavel_`.
    pub metrics: Registry,
}

/// Whether a kernel is well: details for people if it is, or why it is not.
pub type Well = Arc<dyn Fn() -> Result<Map<String, Value>, String> + Send + Sync>;

/// A kernel, open.
pub struct Kernel {
    pub(crate) face: Face,
    pub(crate) well: Well,
    pub(crate) metrics: Registry,
    pub(crate) finish: BoxFuture<'static, ()>,
}

/// How a kernel answers.
pub(crate) enum Face {
    /// Behind routes that whoever serves it guards.
    Doors { router: Router, document: Map<String, Value> },
    /// With a whole API of its own, `/health`, `/metrics` and guard included.
    Whole(Router),
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    /// A kernel behind these doors, which counts in this registry.
    #[must_use]
    pub fn new(doors: Doors, metrics: Registry) -> Self {
        let (router, document) = doors.into_parts();
        let face = Face::Doors { router, document };
        Self { face, well: Arc::new(|| Ok(Map::new())), metrics, finish: Box::pin(std::future::ready(())) }
    }

    /// A kernel that brings a whole API: it guards its routes itself, and answers `/health` and `/metrics`.
    #[must_use]
    pub fn whole(router: Router) -> Self {
        let well: Well = Arc::new(|| Ok(Map::new()));
        let finish = Box::pin(std::future::ready(()));
        Self { face: Face::Whole(router), well, metrics: Registry::default(), finish }
    }

    /// With an eye on how it is.
    #[must_use]
    pub fn with_health(self, well: impl Fn() -> Result<Map<String, Value>, String> + Send + Sync + 'static) -> Self {
        Self { well: Arc::new(well), ..self }
    }

    /// With something to do after the last request. What it acknowledged must not depend on it.
    #[must_use]
    pub fn with_finish(self, finish: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { finish: Box::pin(finish), ..self }
    }
}

/// Why settings are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

impl From<String> for SettingsError {
    fn from(why: String) -> Self {
        Self(why)
    }
}

/// Settings as their type; a kind's struct denies unknown fields and has defaults.
///
/// # Errors
/// Which key is wrong, and why.
pub fn settings<T: DeserializeOwned>(value: &Value) -> Result<T, SettingsError> {
    let value = if value.is_null() { Value::Object(Map::new()) } else { value.clone() };
    serde_path_to_error::deserialize(value).map_err(|why| {
        let place = if why.path().to_string() == "." { String::new() } else { format!("{}: ", why.path()) };
        SettingsError(format!("{place}{}", why.inner()))
    })
}

/// [`Kind::check`] of a kind that has no settings.
///
/// # Errors
/// If there are any.
pub fn no_settings(value: &Value) -> Result<(), SettingsError> {
    match value.as_object() {
        Some(keys) if !keys.is_empty() => Err(SettingsError("this kind of kernel has no settings".to_owned())),
        _ => Ok(()),
    }
}

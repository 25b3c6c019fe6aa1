//! What clients ask of the host through the bus: to end, and to look at a plugin's files again.

use crate::plugins::Plugins;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_bus::services::About;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// A wish that the host should end.
#[derive(Debug, Clone, PartialEq)]
pub struct Shutdown {
    /// Why, in the client's words.
    pub reason: String,
    /// Seconds that it may take.
    pub grace_seconds: f64,
}

/// The shortest time that a host takes to end: the one who asked for it is to have its answer.
const GRACE_LEAST: Duration = Duration::from_millis(100);

impl Shutdown {
    /// How long it may take.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::try_from_secs_f64(self.grace_seconds).unwrap_or_default().max(GRACE_LEAST)
    }
}

/// What clients asked of the host, for whoever can do it.
pub struct Wishes {
    shutdown: watch::Sender<Option<Shutdown>>,
    plugins: OnceLock<Weak<Plugins>>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { shutdown: watch::Sender::new(None), plugins: OnceLock::new() }
    }
}

impl std::fmt::Debug for Wishes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wishes").field("shutdown", &self.shutdown.borrow()).finish_non_exhaustive()
    }
}

impl Wishes {
    /// Completes when a client asked the host to end.
    pub async fn shutdown_wished(&self) -> Shutdown {
        let mut wished = self.shutdown.subscribe();
        match wished.wait_for(Option::is_some).await.map(|wish| wish.clone()) {
            Ok(Some(wish)) => wish,
            // The sender is this.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Who loads plugins, and knows why one is not there. Said once.
    pub(super) fn plugins_are(&self, plugins: &Arc<Plugins>) {
        if self.plugins.set(Arc::downgrade(plugins)).is_err() {
            tracing::error!("who loads plugins was said twice");
        }
    }

    fn plugins(&self) -> Option<Arc<Plugins>> {
        self.plugins.get().and_then(Weak::upgrade)
    }
}

impl About for Wishes {
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn shut_down(&self, reason: &str, grace_seconds: f64) -> Result<(), String> {
        tracing::warn!(reason, grace_seconds, "a client of the bus asks the host to end");
        self.shutdown.send_replace(Some(Shutdown { reason: reason.to_owned(), grace_seconds }));
        Ok(())
    }

    fn reload<'a>(&'a self, plugin: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            match self.plugins() {
                Some(plugins) => plugins.reload(plugin).await,
                None => Err("the host is beginning or ending: no plugin is loaded anew".to_owned()),
            }
        }
        .boxed()
    }

    fn broken(&self) -> BTreeMap<String, String> {
        self.plugins().map(|plugins| plugins.broken()).unwrap_or_default()
    }

    fn facts(&self, plugin: &str) -> Map<String, Value> {
        self.plugins().map(|plugins| plugins.facts(plugin)).unwrap_or_default()
    }
}

//! What clients ask of the host through the bus: to end, and to look at a plugin's files again.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_bus::services::About;
use std::sync::OnceLock;
use tokio::sync::watch;

/// Looks at a plugin's files again, by its name.
pub type Reload = Box<dyn Fn(String) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A wish that the host should end.
#[derive(Debug, Clone, PartialEq)]
pub struct Shutdown {
    /// Why, in the client's words.
    pub reason: String,
    /// Seconds that it may take.
    pub grace_seconds: f64,
}

/// What clients asked of the host, for whoever can do it.
pub struct Wishes {
    shutdown: watch::Sender<Option<Shutdown>>,
    reload: OnceLock<Reload>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { shutdown: watch::Sender::new(None), reload: OnceLock::new() }
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

    /// Who loads plugins anew. Said once.
    pub fn reload_with(&self, reload: Reload) {
        if self.reload.set(reload).is_err() {
            tracing::error!("who loads plugins anew was said twice");
        }
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
        if let Some(reload) = self.reload.get() {
            return reload(plugin.to_owned());
        }
        let why = format!("plugin '{plugin}' does not come from a folder: there is nothing to load anew");
        std::future::ready(Err(why)).boxed()
    }
}

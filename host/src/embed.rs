//! Kernels in one's own axum application.
//!
//! `gavel serve` is one way to reach a kernel; the other is to mount the same API, with the same
//! keys and limits, below a prefix of an application that is there already. [`Governance`] is that:
//! open it, nest its router, close it when the application has stopped serving.
//!
//! ```
//! use gavel::config::{File, KernelFile};
//! use gavel::embed::Governance;
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let mut kernel = KernelFile::new("prod-001");
//! kernel.policy = Some(serde_json::from_str(r#"{"allowed_actors": ["agent-001"], "allowed_tools": ["echo"]}"#)?);
//! let governance = Governance::of(File::new(vec![kernel])).without_keys().volatile().open().await?;
//!
//! let app: axum::Router = axum::Router::new()
//!     .route("/", axum::routing::get(|| async { "my own page" }))
//!     .nest("/governance", governance.router());
//! // … serve `app` …
//! # drop(app);
//! governance.close().await; // every acknowledged record is on disk
//! # anyhow::Ok(())
//! # })?;
//! # anyhow::Ok(())
//! ```
//!
//! What is the application's own affair, because the sockets are: TLS, the number of connections
//! (`limits.max_connections`), and the time that a head may take (`limits.header_timeout_ms`). An
//! application that serves with `into_make_service_with_connect_info::<SocketAddr>()` lets the rate
//! limit tell callers without keys apart. The prefix must be a plain path without parameters.

use crate::clock::Clock;
use crate::config::{self, File};
use crate::host::{self, Host, Storage};
use crate::http::{self, App};
use crate::kernel::Kernel;
use anyhow::{Result, ensure};
use axum::Router;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Kernels that are open, and their API.
#[derive(Debug)]
pub struct Governance {
    host: Host,
    app: App,
}

/// How to open a [`Governance`].
#[derive(Debug)]
#[must_use = "nothing is opened before `open`"]
pub struct Opening {
    file: File,
    storage: Option<Storage>,
    clock: Clock,
    keyless: bool,
}

impl Governance {
    /// By a configuration that is built in code; it is validated as one that is read.
    pub fn of(file: File) -> Opening {
        Opening { file, storage: None, clock: Clock::System, keyless: false }
    }

    /// By a configuration file. Its `listen` and `tls` mean nothing here.
    ///
    /// # Errors
    /// [`config::ConfigError`], which says what is wrong and where.
    pub fn configured(path: &Path) -> Result<Opening, config::ConfigError> {
        config::read(path).map(Self::of)
    }

    /// The whole API, to be nested under a prefix. Every call gives the same.
    pub fn router(&self) -> Router {
        http::router(self.app.clone())
    }

    /// The kernels, in the configuration's order, for an application that submits without HTTP.
    #[must_use]
    pub fn kernels(&self) -> Vec<Arc<Kernel>> {
        self.host.kernels()
    }

    /// Take the policies of another configuration into service, as `gavel serve` does on SIGHUP.
    ///
    /// # Errors
    /// As [`Host::reconfigure`].
    pub async fn reconfigure(&self, file: &File) -> Result<()> {
        self.host.reconfigure(file).await
    }

    /// Finish what is in flight and close the ledgers. To be called once the application serves no
    /// more; what still comes is answered 503. A `Governance` that is dropped instead loses no
    /// acknowledged record, but waits for nothing.
    pub async fn close(self) {
        self.app.stop();
        self.app.idle().await;
        self.host.finish().await;
    }
}

impl Opening {
    /// Keep ledgers and workspace in this folder. Wins over the configuration's `data`; without
    /// either it is `gavel` in the user's data directory.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.storage = Some(Storage::Folder(folder.into()));
        self
    }

    /// Keep everything in memory: for tests and trials, because nothing outlives the process.
    pub fn volatile(mut self) -> Self {
        self.storage = Some(Storage::Volatile);
        self
    }

    /// Take the time from this clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Accept that there are no keys: whoever reaches the router has every role. As with
    /// `gavel serve` it then answers only requests that name the host `localhost` or an address,
    /// that no web page made, and that come from this machine as far as it is told where they come from.
    pub fn without_keys(mut self) -> Self {
        self.keyless = true;
        self
    }

    /// Load the policies and open the kernels. Needs a tokio runtime, as the router does.
    ///
    /// # Errors
    /// When the configuration is not valid or has no keys, when a policy cannot be loaded, or when
    /// a ledger cannot be opened.
    pub async fn open(self) -> Result<Governance> {
        let file = config::checked(self.file)?;
        ensure!(
            self.keyless || !file.auth.keys.is_empty(),
            "no keys are configured, so whoever reaches the router would have every role: \
             configure `auth.keys` (`gavel key --help`), or accept that by `without_keys()`"
        );
        let storage = match (self.storage, &file.data) {
            (Some(storage), _) => storage,
            (None, Some(data)) => Storage::Folder(data.clone()),
            (None, None) => Storage::Folder(host::default_data_dir()?),
        };
        let host = Box::pin(Host::open(file, &storage, self.clock)).await?;
        host.watch();
        let app = host.app();
        Ok(Governance { host, app })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KernelFile;

    #[tokio::test]
    async fn without_keys_it_opens_only_if_that_is_accepted() {
        let file = || File::new(vec![KernelFile::new("k")]);
        let told = Governance::of(file()).volatile().open().await.unwrap_err().to_string();
        assert!(told.starts_with("no keys are configured"), "{told}");
        let opened = Governance::of(file()).volatile().without_keys().open().await.unwrap();
        assert_eq!(opened.kernels()[0].id(), "k");
        opened.close().await;
    }

    #[tokio::test]
    async fn a_configuration_in_code_is_validated() {
        let twice = File::new(vec![KernelFile::new("k"), KernelFile::new("k")]);
        let told = Governance::of(twice).volatile().without_keys().open().await.unwrap_err().to_string();
        assert!(told.contains("kernel `k` is there twice"), "{told}");
    }
}

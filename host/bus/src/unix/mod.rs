//! The Unix sockets that clients speak to: newline-delimited JSON, events and the older daemon's commands alike.
//!
//! What always holds: every frame is answered; an answer is flushed before a half-closed connection ends; a push that
//! belongs to a command comes after that command's acknowledgement; no client waits for another.

mod connection;
mod hub;
mod legacy;
mod view;
mod watching;

pub use view::{UnixCounts, UnixView};

use crate::bus::Bus;
use crate::error::RegisterError;
use connection::Connection;
use hub::Hub;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The sockets, all alike: `control` and `events` of the newer clients, the others of the older ones.
pub const SOCKETS: [&str; 8] = ["control", "events", "admin", "agents", "messaging", "state", "completion", "daemon"];

/// Which frames are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Commands and events.
    #[default]
    Compatibility,
    /// Both, and each use of a command is counted, so that an operator sees who still needs it.
    Hybrid,
    /// Events only; a command is answered with the event to use instead.
    Pure,
}

/// How the sockets are served.
#[derive(Debug, Clone, PartialEq)]
pub struct UnixOptions {
    /// The folder of the sockets; made if it is not there.
    pub socket_dir: PathBuf,
    /// Which frames are taken.
    pub mode: Mode,
    /// The longest line; a longer one is answered with an error, and the connection closed.
    pub line_bytes_max: usize,
    /// Connections at once, over all sockets.
    pub connections_max: usize,
    /// Lines that wait to be written to one client; a client that reads no more is cut off.
    pub lines_waiting_max: usize,
    /// Messages that are kept for an agent that is not connected; of more, the oldest are dropped and counted.
    pub undelivered_max: usize,
    /// Permissions of the sockets.
    pub permissions: u32,
}

impl UnixOptions {
    /// The defaults, in this folder.
    #[must_use]
    pub fn in_folder(socket_dir: impl Into<PathBuf>) -> Self {
        Self {
            socket_dir: socket_dir.into(),
            mode: Mode::default(),
            line_bytes_max: 1 << 20,
            connections_max: 4_096,
            lines_waiting_max: 1_024,
            undelivered_max: 1_000,
            permissions: 0o600,
        }
    }
}

/// Why the sockets are not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixError {
    /// A socket could not be made.
    #[error("socket {}: {why}", path.display())]
    Socket {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// Somebody serves there already.
    #[error("socket {}: another process serves it: stop that one, or name another socket_dir", .0.display())]
    Taken(PathBuf),
    /// The transport's own plugin was refused.
    #[error(transparent)]
    Plugin(#[from] RegisterError),
}

/// Sockets that are served until [`Self::stop`].
pub struct Unix {
    hub: Arc<Hub>,
    tasks: JoinSet<()>,
    paths: Vec<PathBuf>,
}

impl Unix {
    /// Serve a bus on the sockets of a folder, and register the plugin that owns `transport:*`.
    ///
    /// # Errors
    /// If a socket is taken or cannot be made; none is left behind then.
    pub async fn start(bus: &Bus, options: UnixOptions) -> Result<Self, UnixError> {
        let options = Arc::new(options);
        let hub = Arc::new(Hub::new(bus.clone(), Arc::clone(&options)));
        let mut served = Self { hub: Arc::clone(&hub), tasks: JoinSet::new(), paths: Vec::new() };
        let dir_error = |why| UnixError::Socket { path: options.socket_dir.clone(), why };
        std::fs::create_dir_all(&options.socket_dir).map_err(dir_error)?;
        let mut listeners = Vec::new();
        for name in SOCKETS {
            let path = options.socket_dir.join(format!("{name}.sock"));
            listeners.push(listen(&path, options.permissions).await?);
            served.paths.push(path);
        }
        bus.register(vec![Hub::registration(&hub)])?;
        let slots = Arc::new(Semaphore::new(options.connections_max));
        for listener in listeners {
            served.tasks.spawn(accept(listener, Arc::clone(&hub), Arc::clone(&slots)));
        }
        Ok(served)
    }

    /// What an operator sees of it, while it is served and after.
    #[must_use]
    pub fn view(&self) -> UnixView {
        UnixView::new(&self.hub)
    }

    /// Take no more connections, end those that there are, and remove the sockets.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        for path in &self.paths {
            // Another process may have taken its place; a file that is gone is gone.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Bind a socket. What a process that has died left there is removed; nothing else is.
async fn listen(path: &Path, permissions: u32) -> Result<UnixListener, UnixError> {
    let failed = |why| UnixError::Socket { path: path.to_owned(), why };
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(failed(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file of that name that is no socket",
            )));
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(UnixError::Taken(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(permissions)).map_err(failed)?;
    Ok(listener)
}

/// Numbers connections over all sockets of the process.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

async fn accept(listener: UnixListener, hub: Arc<Hub>, slots: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
                let hub = Arc::clone(&hub);
                connections.spawn(async move {
                    Connection::new(stream, number, hub).serve().await;
                    drop(slot);
                });
            }
            Err(why) => {
                // As a rule no more descriptors: those that are open will be closed.
                tracing::warn!("a connection could not be accepted: {why}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

//! The Unix sockets that clients speak to: newline-delimited JSON, events and the older daemon's commands alike.
//!
//! What always holds: every frame is answered; an answer is flushed before a half-closed connection ends; a push that
//! belongs to a command comes after that command's acknowledgement; no client waits for another.

mod connection;
mod folder;
mod hub;
mod legacy;
mod view;
mod watching;
mod wire;

pub use hub::EVENTS;
pub(crate) use legacy::timestamp;
pub use view::{UnixCounts, UnixView};

use crate::bus::Bus;
use crate::error::RegisterError;
use connection::Connection;
use folder::Folder;
use hub::Hub;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// The sockets, all alike: `control` and `events` of the newer clients, the others of the older ones.
pub const SOCKETS: [&str; 8] = ["control", "events", "admin", "agents", "messaging", "state", "completion", "daemon"];

/// The event that a command of the older daemon leads to, if there is such a command. `EVENT` leads to whichever event it
/// names: the text is empty.
#[must_use]
pub fn legacy_event(command: &str) -> Option<&'static str> {
    legacy::event_of(command)
}

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
    /// Connections at once, over all sockets; one more is told so, and closed.
    pub connections_max: usize,
    /// Messages that wait to be written to one agent; what comes then waits as for one that is not connected.
    pub lines_waiting_max: usize,
    /// How long a client may take to read a line; one that reads no more is cut off.
    pub write_timeout: Duration,
    /// Messages that are kept for an agent that is not connected; of more, the oldest are dropped and counted.
    pub undelivered_max: usize,
    /// About how many bytes of messages are kept for all agents that are not connected.
    pub undelivered_bytes_max: usize,
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
            write_timeout: Duration::from_secs(30),
            undelivered_max: 1_000,
            undelivered_bytes_max: 64 << 20,
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
    stop: watch::Sender<bool>,
    grace: Duration,
    /// Removes the sockets, last of all.
    _folder: Folder,
}

impl Unix {
    /// Serve a bus on the sockets of a folder, and register the plugin that owns `transport:*`.
    ///
    /// # Errors
    /// If a socket is taken or cannot be made; none is left behind then.
    pub async fn start(bus: &Bus, options: UnixOptions) -> Result<Self, UnixError> {
        let options = Arc::new(options);
        let hub = Arc::new(Hub::new(bus.clone(), Arc::clone(&options)));
        let mut folder = Folder::open(&options.socket_dir, options.permissions)?;
        let mut listeners = Vec::new();
        for name in SOCKETS {
            listeners.push((name, folder.listen(name).await?));
        }
        bus.register(vec![Hub::registration(&hub)])?;
        let slots = Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS)));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (name, listener) in listeners {
            tasks.spawn(accept((name, listener), Arc::clone(&hub), Arc::clone(&slots), stopped.clone()));
        }
        Ok(Self { hub, tasks, stop, grace: bus.options().shutdown_grace, _folder: folder })
    }

    /// What an operator sees of it, while it is served and after.
    #[must_use]
    pub fn view(&self) -> UnixView {
        UnixView::new(&self.hub)
    }

    /// Take no more connections, answer what is under way, end the connections, and remove the sockets. What does not
    /// end within the grace of the bus is cut off; an event that is with a plugin is ended by the bus all the same.
    pub async fn stop(mut self) {
        // Without connections nobody listens, and that is well.
        let _ = self.stop.send(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.grace, ended).await.is_err() {
            tracing::warn!("connections that did not end in {:?} are told so, and cut off", self.grace);
            self.hub.cut_off();
            let told = async { while self.tasks.join_next().await.is_some() {} };
            drop(tokio::time::timeout(LAST_WORDS, told).await);
        }
        self.tasks.shutdown().await;
    }
}

/// How long clients may take to read that their answer comes too late.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Numbers connections over all sockets of the process.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

async fn accept(
    (socket, listener): (&'static str, UnixListener),
    hub: Arc<Hub>,
    slots: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(why) => {
                // As a rule no more descriptors: those that are open will be closed.
                tracing::warn!("a connection could not be accepted: {why}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            turn_away(&stream, hub.options().connections_max);
            continue;
        };
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let (hub, stop) = (Arc::clone(&hub), stop.clone());
        connections.spawn(async move {
            Connection::new(stream, socket, number, hub, stop).serve().await;
            drop(slot);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Tell a client that there are too many. A socket that is new has room for a line.
fn turn_away(stream: &UnixStream, most: usize) {
    let text = format!("{most} connections are open (connections_max): close one, or try again later");
    let line = format!("{}\n", serde_json::json!({ "error": text, "code": "RATE_LIMITED" }));
    if let Err(why) = stream.try_write(line.as_bytes()) {
        tracing::debug!("one client too many is gone: {why}");
    }
}

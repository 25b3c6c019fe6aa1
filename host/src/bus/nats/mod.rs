//! The bridge: events of this host's bus go to other hosts, and theirs come here, through a stream of NATS JetStream.
//!
//! What must always hold:
//!
//! - **The bus never waits for the server.** Events wait in an outbox on disk, or are counted as not kept.
//! - **Nobody can be another host.** Each host signs its messages; a receiver knows its peers by their keys, and the
//!   sender of an event that came is [`gavel_bus::Sender::Peer`], whatever the event says.
//! - **From the outbox on nothing is lost, and nothing is handled twice.** Messages are numbered without gaps, and
//!   acknowledged after they were handled and that was written down. What repeats is in `docs/decisions`.
//! - **In order.** The events of one peer are handled one after the other, as they were sent.
//! - **What the stream has lost is said.** A gap in the numbers is counted as missed.
//!
//! It carries events, not answers: who publishes is not told what a peer made of it.

mod connect;
mod counts;
mod envelope;
mod export;
mod import;
mod order;
mod outbox;
mod position;
mod settings;
mod strangers;

pub use counts::NatsCounts;
pub(crate) use export::NATS_BRIDGE;
pub use settings::{NatsFile, NatsLimits, PeerFile};

use crate::signing::{PublicKey, SigningError, SigningKey};
use connect::Server;
use counts::Counters;
use export::{Keeper, Publisher};
use gavel_bus::{Bus, RegisterError};
use import::Importer;
use outbox::{Outbox, OutboxLimits};
use position::PositionFile;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The private key that signs this host's messages, in the bridge's folder.
const KEY_FILE: &str = "nats.key";
/// The public half, for those who configure the peers.
const PUBLIC_KEY_FILE: &str = "nats.pub";
const OUTBOX_FILE: &str = "nats-outbox.redb";

/// Why there is no bridge, or why it has to try again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// A folder or file of the bridge cannot be made, read or written.
    #[error("{path}: {why}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no key to sign with.
    #[error(transparent)]
    Key(#[from] SigningError),
    /// The bus does not take the bridge's plugin.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// What the server said, or that it said nothing.
    #[error("the NATS server: {0}")]
    Server(String),
}

impl NatsError {
    fn file(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }

    fn outbox(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self::file(path, why)
    }

    fn secret(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self::file(path, why)
    }

    fn position(peer: &str, why: &dyn std::fmt::Display) -> Self {
        Self::file(Path::new(&position_file(peer)), why)
    }
}

/// The bridge, at work until it is stopped or dropped.
pub struct Bridge {
    counters: Arc<Counters>,
    public: PublicKey,
    /// Those that receive end first.
    receivers: (CancellationToken, JoinSet<()>),
    senders: (CancellationToken, JoinSet<()>),
    grace: Duration,
}

/// What can be seen of a bridge from outside. Cheap to clone; it outlives the bridge.
#[derive(Debug, Clone)]
pub struct NatsMonitor {
    counters: Arc<Counters>,
    public: PublicKey,
}

impl NatsMonitor {
    /// What was counted, and how it stands.
    #[must_use]
    pub fn counts(&self) -> NatsCounts {
        self.counters.counts()
    }

    /// The key by which peers know this host's messages.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public
    }
}

impl Bridge {
    /// Start the bridge of a bus. Its key, its outbox and what it handled are in `folder`, which is made. The server need
    /// not be there yet: events wait for it. `file` has been validated.
    ///
    /// # Errors
    /// If something in the folder cannot be used, a secret cannot be read, or the bus has a plugin `nats_bridge`.
    pub async fn start(file: NatsFile, bus: &Bus, folder: &Path) -> Result<Self, NatsError> {
        let key = Arc::new(key(folder)?);
        let public = key.public();
        let file = Arc::new(file);
        let counters = Arc::new(Counters::default());
        let server = connect::connect(&file, &counters).await?;
        let receivers = receive(&file, bus, folder, &server, &counters)?;
        let senders = send(&file, bus, folder, server, key, &counters)?;
        tracing::info!(host = %file.host, key = %public, "the bridge to NATS is at work");
        Ok(Self { counters, public, receivers, senders, grace: bus.options().shutdown_grace })
    }

    /// What was counted, and how it stands.
    #[must_use]
    pub fn counts(&self) -> NatsCounts {
        self.counters.counts()
    }

    /// The same for those who look while the bridge is at work.
    #[must_use]
    pub fn monitor(&self) -> NatsMonitor {
        NatsMonitor { counters: Arc::clone(&self.counters), public: self.public }
    }

    /// The key by which peers know this host's messages.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Receive no more. What is being handled is handled to its end, if that is within the
    /// grace of the bus; what was not comes at the next start. Before the bus
    /// is shut down, since a bus without plugins answers that nobody handles an event.
    pub async fn stop_receiving(&mut self) {
        end(&mut self.receivers, self.grace).await;
    }

    /// End. After the bus was shut down, so that what it still tells of goes into the outbox: it is sent at the next start.
    pub async fn stop(mut self) {
        end(&mut self.receivers, self.grace).await;
        end(&mut self.senders, self.grace).await;
    }
}

/// What does not end in its grace is given up: an event that was being handled comes again at the next start.
async fn end((stop, tasks): &mut (CancellationToken, JoinSet<()>), grace: Duration) {
    stop.cancel();
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(why) = ended {
                tracing::error!("a task of the bridge to NATS broke: {why}");
            }
        }
    };
    if tokio::time::timeout(grace, all).await.is_err() {
        tracing::warn!(
            "the bridge to NATS did not end in {grace:?}: what it was doing is done again at the next start"
        );
        tasks.shutdown().await;
    }
}

/// One task for each peer, and one that looks for strangers.
fn receive(
    file: &Arc<NatsFile>,
    bus: &Bus,
    folder: &Path,
    server: &Server,
    counters: &Arc<Counters>,
) -> Result<(CancellationToken, JoinSet<()>), NatsError> {
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let (context, connected) = (&server.context, &server.connected);
    for peer in &file.peers {
        let path = folder.join(position_file(&peer.name));
        let handled = PositionFile::open(&path).map_err(|why| NatsError::file(&path, &why))?;
        let (file, counters) = (Arc::clone(file), Arc::clone(counters));
        let importer = Importer::new(file, peer.clone(), bus.clone(), counters, handled, stop.clone());
        tasks.spawn(importer.run(context.clone(), connected.clone()));
    }
    let (file, counters) = (Arc::clone(file), Arc::clone(counters));
    tasks.spawn(strangers::watch(file, context.clone(), connected.clone(), counters, stop.clone()));
    Ok((stop, tasks))
}

/// One task that fills the outbox, and one that empties it.
fn send(
    file: &Arc<NatsFile>,
    bus: &Bus,
    folder: &Path,
    server: Server,
    key: Arc<SigningKey>,
    counters: &Arc<Counters>,
) -> Result<(CancellationToken, JoinSet<()>), NatsError> {
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    if file.publish.is_empty() {
        return Ok((stop, tasks));
    }
    let limits = OutboxLimits { events_max: file.limits.outbox_max_events, bytes_max: file.limits.outbox_max_bytes };
    let outbox = Outbox::open(&folder.join(OUTBOX_FILE), bus.now_ms(), limits, Arc::clone(counters))?;
    let (outbox, wake) = (Arc::new(outbox), Arc::new(Notify::new()));
    let (jobs, waiting) = mpsc::channel(file.limits.outbox_max_waiting);
    bus.register(vec![export::registration(file, jobs, counters)])?;
    let keeper = Keeper {
        file: Arc::clone(file),
        outbox: Arc::clone(&outbox),
        wake: Arc::clone(&wake),
        counters: Arc::clone(counters),
    };
    tasks.spawn(keeper.run(waiting, stop.clone()));
    let publisher = Publisher { file: Arc::clone(file), key, outbox, wake, counters: Arc::clone(counters) };
    tasks.spawn(publisher.run(server, stop.clone()));
    Ok((stop, tasks))
}

/// The key of this host; made at the first start, for its owner's eyes only, with its public half beside it.
fn key(folder: &Path) -> Result<SigningKey, NatsError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|why| NatsError::file(folder, &why))?;
    let path = folder.join(KEY_FILE);
    let key = match SigningKey::create(&path) {
        Err(SigningError::File { why, .. }) if why.kind() == ErrorKind::AlreadyExists => SigningKey::read(&path),
        made => made,
    }?;
    let public = folder.join(PUBLIC_KEY_FILE);
    std::fs::write(&public, format!("{}\n", key.public())).map_err(|why| NatsError::file(&public, &why))?;
    Ok(key)
}

fn position_file(peer: &str) -> String {
    format!("nats-from-{peer}")
}

/// What waits for the disk does so in a thread of its own.
async fn in_thread<T: Send + 'static>(
    outbox: &Arc<Outbox>,
    work: impl FnOnce(&Outbox) -> Result<T, NatsError> + Send + 'static,
) -> Result<T, NatsError> {
    let outbox = Arc::clone(outbox);
    let done = tokio::task::spawn_blocking(move || work(&outbox)).await;
    done.map_err(|why| NatsError::Server(format!("the outbox was given up: {why}")))?
}

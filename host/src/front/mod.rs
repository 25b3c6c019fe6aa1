//! The main process of a fleet: one API in front of all kernels, Guardian behind it, and the reports of both.
//!
//! It holds no ledger and no sandbox. Every kernel is a process of its own (`gavel kernel run NAME`), started, watched and
//! healed by `gavel-fleet`; here are the routes that clients know, who may use them, and where what happened is kept. If
//! this process is killed, its kernels end with it; what they acknowledged is on their disks, and the next one starts them.

mod api;
mod counts;
mod door;
mod healer;
mod health;
mod logs;
mod openapi;
mod operate;
mod ports;
mod preflight;
mod reports;

pub use api::router;

use crate::config::File;
use crate::http::Server;
use crate::http::auth::Keys;
use crate::kinds::process;
use crate::service;
use anyhow::{Context, Result};
use counts::Counts;
use gavel_fleet::{Entry, Fleet, Guardian, HealError, Healing, Order, Parts, Place, Program, Proxy, Status, Step};
use gavel_kinds::Peers;
use logs::Logs;
use reports::Reports;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::File as Opened;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The main process of a fleet. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    inner: Arc<Inner>,
}

struct Inner {
    fleet: Fleet,
    proxy: Proxy,
    keys: Keys,
    /// What its parts show each other.
    token: String,
    /// Whether kernels on other machines have it too.
    token_is_shared: bool,
    logs: Arc<Logs>,
    reports: Arc<Reports>,
    counts: Counts,
    /// What was found before anything was started.
    looked: OnceLock<Vec<Step>>,
    folder: PathBuf,
    stop: CancellationToken,
    /// Held as long as the fleet lives: nobody else has its data.
    _lock: Opened,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("fleet", &self.inner.fleet).finish_non_exhaustive()
    }
}

/// How the kernels' program is called.
#[derive(Debug, Clone)]
pub struct Calls {
    /// This program.
    pub program: PathBuf,
    /// The configuration, if it is of a file.
    pub config: Option<PathBuf>,
    /// What to log.
    pub log: Option<String>,
}

impl Front {
    /// A fleet in which nothing runs yet. Its own kernels reach its API by `inner_door`, on this machine and without TLS,
    /// whatever it is served as to others.
    ///
    /// # Errors
    /// If its data is another fleet's, or cannot be used.
    pub fn open(file: &File, data: &Path, inner_door: &Server, calls: Calls) -> Result<(Self, Guardian)> {
        let folder = data.join("fleet");
        std::fs::create_dir_all(&folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let lock = lock(&folder)?;
        let (token, token_is_shared) = match file.fleet.token().map_err(anyhow::Error::msg)? {
            Some(shared) => (shared, true),
            None => (random_token()?, false),
        };
        let door = format!("http://{}", inner_door.address);
        let logs = Arc::new(Logs::open(&folder.join("logs"), file.fleet.log_bytes_max)?);
        let plan = file.fleet.plan().map_err(anyhow::Error::msg)?;
        let is_there = |name: &str| plan.find(name).is_some_and(|kernel| kernel.place != Place::NotStarted);
        let peers = Peers::of_guardian(&door, &token);
        let reports = Arc::new(Reports::open(&folder.join("reports"), file.fleet.reports_max, peers, is_there)?);
        let lines = Arc::clone(&logs);
        let (fleet, guardian) = Fleet::new(Parts {
            plan,
            programs: programs(calls, data, &door, &token),
            lines: Arc::new(move |kernel, line| lines.take(kernel, line)),
            witness: Arc::clone(&reports) as Arc<dyn gavel_fleet::Witness>,
            processes_file: folder.join("processes.json"),
        })
        .with_context(|| format!("{} cannot be used", folder.join("processes.json").display()))?;
        // The kernels close connections on which nothing is asked for `header_timeout_ms`.
        let idle_max = Duration::from_millis(file.limits.header_timeout_ms / 2).min(IDLE_MAX);
        let proxy = Proxy::new(fleet.clone(), idle_max);
        let keys = Keys::new(&file.auth).with_token(Some(&token));
        let stop = CancellationToken::new();
        let counts = Counts::default();
        let inner = Inner {
            fleet,
            proxy,
            keys,
            token,
            token_is_shared,
            logs,
            reports,
            counts,
            looked: OnceLock::new(),
            folder,
            stop,
            _lock: lock,
        };
        Ok((Self { inner: Arc::new(inner) }, guardian))
    }

    /// The kernels.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.inner.fleet
    }

    /// Heal a kernel, to the end, also if who asked has gone.
    ///
    /// # Errors
    /// [`HealError`]: nothing was done then.
    async fn heal(&self, name: &str, order: Order) -> Result<Arc<Healing>, HealError> {
        let name = name.to_owned();
        let done = self.carry(|fleet| async move { fleet.heal(&name, order).await }).await;
        done.unwrap_or(Err(HealError::Stopping))
    }

    /// Heal all that do not answer, to the end.
    async fn heal_all(&self, by: &str) -> Vec<(Entry, Result<Arc<Healing>, HealError>)> {
        let by = by.to_owned();
        self.carry(|fleet| async move { fleet.heal_all(&by).await }).await.unwrap_or_default()
    }

    /// Do something with the fleet to its end, also if who asked has gone.
    async fn carry<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        what: impl FnOnce(Fleet) -> F,
    ) -> Option<T> {
        tokio::spawn(what(self.inner.fleet.clone())).await.ok()
    }

    /// Start everything, in its order, and set Guardian and the delivery of reports to work.
    pub async fn boot(&self, guardian: Guardian) -> Vec<(String, Status)> {
        let mut beat = service::Beat::new();
        tokio::spawn(guardian.watch(beat.every(), move || beat.beat()));
        let front = self.clone();
        let looked = move || preflight::look(front.fleet().plan(), &front.inner.folder);
        if let Ok(looked) = tokio::task::spawn_blocking(looked).await {
            // A fleet is started once.
            let _ = self.inner.looked.set(looked);
        }
        tokio::spawn(Arc::clone(&self.inner.reports).deliver(self.inner.stop.clone()));
        self.inner.fleet.boot().await
    }

    /// Stop everything, who needs before what is needed. What could not be delivered waits on disk for the next start.
    pub async fn finish(&self) {
        self.inner.stop.cancel();
        self.inner.fleet.stop().await;
        let logs = Arc::clone(&self.inner.logs);
        // It waits, so not here; it tells itself what it could not do.
        let _ = tokio::task::spawn_blocking(move || logs.flush()).await;
    }
}

/// How long a connection to a kernel is kept that is not used.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Have this fleet's folder alone.
fn lock(folder: &Path) -> Result<Opened> {
    let path = folder.join("lock");
    let shown = path.display().to_string();
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("{shown} cannot be opened"))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim();
        let who = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
        anyhow::bail!(
            "{} is the data of a fleet that runs already ({who}): stop that one, or give this one other data (--data)",
            folder.display()
        );
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

/// 256 random bits, known to the parts of this fleet, and forgotten with it.
fn random_token() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(hex::encode(bytes))
}

fn programs(calls: Calls, data: &Path, door: &str, token: &str) -> gavel_fleet::Programs {
    let env = BTreeMap::from([
        (process::DOOR_VARIABLE.to_owned(), door.to_owned()),
        (process::TOKEN_VARIABLE.to_owned(), token.to_owned()),
        (process::PID_VARIABLE.to_owned(), std::process::id().to_string()),
    ]);
    let data = data.to_string_lossy().into_owned();
    Box::new(move |component| {
        let mut args: Vec<String> = calls.log.iter().flat_map(|log| ["--log".to_owned(), log.clone()]).collect();
        args.extend(["kernel", "run", &component.name, "--data", &data].map(str::to_owned));
        if let Some(config) = &calls.config {
            args.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
        }
        Program { path: calls.program.clone(), args, env: env.clone() }
    })
}

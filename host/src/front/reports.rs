//! What Guardian did, for the record: on disk at once, then with the kernels that keep and tell it.
//!
//! A healing is on record when its file here is synced, also if the kernel that was healed is the one that keeps records.
//! It is delivered, in order and at least once, to the immutable log (an entry of kind `healing`), to the message bus (topic
//! `fleet`) and, if a kernel was given up, to the alert service; keys make a second delivery the same entry. Changes of
//! status are events only: those that find no bus are not kept.

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use gavel_fleet::{News, Witness};
use gavel_kinds::{PeerError, Peers};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The topic of a fleet's own events.
const TOPIC: &str = "fleet";
/// Changes of status that may wait for the bus.
const STATUS_EVENTS_MAX: usize = 256;
/// Between two tries to deliver.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Keeps reports, and delivers them.
#[derive(Debug)]
pub(super) struct Reports {
    folder: PathBuf,
    reports_max: usize,
    peers: Peers,
    /// Kernels that are part of this fleet.
    places: BTreeSet<Place>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Numbers of the reports on disk, the oldest first.
    waiting: VecDeque<u64>,
    next: u64,
    statuses: VecDeque<Value>,
    /// Where the oldest report was delivered already.
    delivered: BTreeSet<Place>,
}

/// A report as it lies on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Report {
    /// The same for every delivery.
    key: String,
    /// `healing`, or `given_up`.
    kind: String,
    data: Value,
}

/// Where reports go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Log,
    Bus,
    Alerts,
}

impl Place {
    fn kernel(self) -> &'static str {
        match self {
            Self::Log => "immutable_log",
            Self::Bus => "message_bus",
            Self::Alerts => "alert_service",
        }
    }
}

impl Reports {
    /// With what waited when the one before ended. `is_there` says which kernels are part of the fleet.
    pub(super) fn open(
        folder: &Path,
        reports_max: usize,
        peers: Peers,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let shown = folder.display();
        fs::create_dir_all(folder).with_context(|| format!("the folder {shown} cannot be made"))?;
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(folder).with_context(|| format!("{shown} cannot be read"))? {
            let name = entry.with_context(|| format!("{shown} cannot be read"))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        let next = numbers.last().map_or(0, |last| last + 1);
        let state = State { waiting: numbers.into_iter().collect(), next, ..State::default() };
        let places =
            [Place::Log, Place::Bus, Place::Alerts].into_iter().filter(|place| is_there(place.kernel())).collect();
        let (folder, state) = (folder.to_owned(), Mutex::new(state));
        Ok(Self { folder, reports_max, peers, places, state, wake: Notify::new() })
    }

    /// The kernels, as Guardian asks them.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Reports that wait for the kernels that keep them.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Deliver what waits, until `stop`.
    pub(super) async fn deliver(self: Arc<Self>, stop: CancellationToken) {
        let (first, most) = RETRY_PAUSES;
        let mut pause = first;
        loop {
            let delivered = tokio::select! {
                () = stop.cancelled() => return,
                delivered = self.deliver_waiting() => delivered,
            };
            let again = async {
                match &delivered {
                    Ok(()) => self.wake.notified().await,
                    Err(_) => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = again => {}
            }
            pause = match delivered {
                Ok(()) => first,
                Err(why) => {
                    tracing::debug!(%why, "a report waits");
                    (pause * 2).min(most)
                }
            };
        }
    }

    async fn deliver_waiting(&self) -> Result<(), PeerError> {
        loop {
            let status = self.lock().statuses.pop_front();
            let Some(status) = status else { break };
            if !self.places.contains(&Place::Bus) {
                continue;
            }
            if let Err(why) = self.peers.publish(TOPIC, "fleet:status", &status).await {
                tracing::debug!(%why, "a change of status found no bus");
            }
        }
        loop {
            let number = self.lock().waiting.front().copied();
            let Some(number) = number else { return Ok(()) };
            match self.read(number) {
                Ok(report) => self.deliver_one(&report).await?,
                Err(why) => tracing::error!(number, "a report cannot be read, and is left where it is: {why}"),
            }
            self.done_with(number);
        }
    }

    async fn deliver_one(&self, report: &Report) -> Result<(), PeerError> {
        let Report { key, kind, data } = report;
        let event = if kind == "healing" { "fleet:healed" } else { "fleet:given_up" };
        let entry = json!({"kind": kind, "data": data, "key": key});
        self.at(Place::Log, "/immutable_log/append", &entry).await?;
        let message = json!({"event": event, "data": data, "key": key});
        self.at(Place::Bus, &format!("/message_bus/topics/{TOPIC}/messages"), &message).await?;
        if kind == "given_up" {
            let name = data["name"].as_str().unwrap_or_default();
            let alert = json!({
                "severity": "critical",
                "source": "guardian",
                "name": "kernel_given_up",
                "message": format!("kernel {name} is down until it is reset: {}", data["detail"].as_str().unwrap_or_default()),
                "labels": {"kernel": name},
                "dedupe_key": format!("kernel_given_up:{name}"),
            });
            self.at(Place::Alerts, "/alert_service/alerts", &alert).await?;
        }
        Ok(())
    }

    /// Deliver to one place, unless it has it. What is not part of this fleet gets nothing.
    async fn at(&self, place: Place, path: &str, body: &Value) -> Result<(), PeerError> {
        if !self.places.contains(&place) || self.lock().delivered.contains(&place) {
            return Ok(());
        }
        match self.peers.post(path, body).await {
            Ok(_) => {}
            Err(PeerError::Refused { status, message, .. }) if !may_change(status) => {
                tracing::error!(path, status, message, "a report is refused, and not sent there again");
            }
            Err(why) => return Err(why),
        }
        self.lock().delivered.insert(place);
        Ok(())
    }

    fn read(&self, number: u64) -> Result<Report> {
        Ok(serde_json::from_slice(&fs::read(self.path(number))?)?)
    }

    fn done_with(&self, number: u64) {
        let mut state = self.lock();
        if state.waiting.front() != Some(&number) {
            return;
        }
        state.waiting.pop_front();
        state.delivered.clear();
        drop(state);
        let path = self.path(number);
        let removed = match self.read(number) {
            Ok(_) => fs::remove_file(&path),
            Err(_) => fs::rename(&path, path.with_extension("unreadable")),
        };
        if let Err(why) = removed {
            tracing::warn!("{}: a delivered report cannot be removed: {why}", path.display());
        }
    }

    /// Put a report on disk.
    fn keep(&self, kind: &str, data: Value) -> Result<()> {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            state.next - 1
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let key = format!("{kind}-{number}-{}", hex::encode(random));
        let report = Report { key, kind: kind.to_owned(), data };
        let (path, new) = (self.path(number), self.path(number).with_extension("new"));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&report)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()?;
        self.queue(number);
        Ok(())
    }

    fn queue(&self, number: u64) {
        let mut state = self.lock();
        state.waiting.push_back(number);
        let dropped = if state.waiting.len() > self.reports_max { state.waiting.pop_front() } else { None };
        if dropped.is_some() {
            state.delivered.clear();
        }
        drop(state);
        if let Some(number) = dropped {
            tracing::error!(number, "more reports wait than may (fleet.reports_max): the oldest is dropped");
            let _ = fs::remove_file(self.path(number));
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:012}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Reports {
    fn record(&self, news: News) -> BoxFuture<'_, ()> {
        let kept = match news {
            News::Status(entry) => {
                let mut state = self.lock();
                if state.statuses.len() == STATUS_EVENTS_MAX {
                    state.statuses.pop_front();
                }
                state.statuses.push_back(json!(entry));
                Ok(())
            }
            News::Healed(healing) => self.keep("healing", json!(*healing)),
            News::GivenUp(entry) => self.keep("given_up", json!(entry)),
        };
        if let Err(why) = kept {
            tracing::error!("what was done could not be recorded: {why:#}");
        }
        self.wake.notify_one();
        Box::pin(std::future::ready(()))
    }
}

/// Whether the same report may be taken the next time: a kernel that is down, starting or busy answers 5xx; one that is not
/// part of this fleet, 404.
fn may_change(status: u16) -> bool {
    status >= 500 || status == 429
}

//! The compliance monitor: controls that are checked continuously over the ledgers, and findings with their evidence.
//!
//! It follows every ledger from its first record on and judges each record once, by each control that is about it. A
//! finding names the records that it is about, by number and hash, and where their proof is; its id follows from that
//! evidence alone, so nothing is found twice, whatever is killed or judged again. What was judged and how far are one
//! transaction. New findings go to the alert service and to the topic `compliance`, and stay in an outbox until both took
//! them.
//!
//! Deliberately absent: stopping anything. That is for policies; this only finds, and tells.

mod chain;
mod control;
mod deliver;
mod finding;
mod judge;
mod routes;
mod store;
#[cfg(test)]
mod tests;

use crate::following::{Follower, Pace, Sink, Source};
use crate::kind::{Clock, Kernel, Kind, Opened, Seed, SettingsError, settings};
use crate::peers::Peers;
use chain::Checked;
use control::{Check, Control, default_controls};
use prometheus_client::metrics::counter::Counter;
use serde::Deserialize;
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use tokio_util::sync::CancellationToken;

/// Controls of one monitor.
const CONTROLS_MAX: usize = 256;

/// The kind.
pub(crate) const KIND: Kind = Kind {
    name: "compliance_monitor",
    purpose: "Check controls over all ledgers, continuously, and keep what is found with its evidence",
    needs: &["message_bus", "immutable_log"],
    check: |value| settings::<Settings>(value)?.check(),
    open: |seed| open(seed),
};

/// How it is set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// How often the ledgers are asked for what is new while nobody asks.
    follow_every_ms: u64,
    /// Records of a page that is asked for.
    page_records: usize,
    /// How long `/report` and `/check` wait until what is committed now was judged.
    catch_up_ms: u64,
    /// How often the checkpoint of each ledger is compared.
    chain_every_ms: u64,
    /// What must hold.
    controls: Vec<Control>,
    /// Findings that are kept; then the oldest that is resolved makes room.
    findings_max: u64,
    /// Records of a source that a control waits for something to follow on.
    pending_max: usize,
    /// Findings of one answer.
    page_max: usize,
    /// Bytes of the database that are kept in memory.
    cache_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            follow_every_ms: 2_000,
            page_records: 500,
            catch_up_ms: 2_000,
            chain_every_ms: 60_000,
            controls: default_controls(),
            findings_max: 10_000,
            pending_max: 2_000,
            page_max: 200,
            cache_bytes: 2 << 20,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        crate::ranges::check(&[
            ("follow_every_ms", self.follow_every_ms, 1_000, 3_600_000),
            ("page_records", self.page_records as u64, 1, 1_000),
            ("catch_up_ms", self.catch_up_ms, 0, 60_000),
            ("chain_every_ms", self.chain_every_ms, 1_000, 86_400_000),
            ("findings_max", self.findings_max, 1, 1_000_000),
            ("pending_max", self.pending_max as u64, 1, 100_000),
            ("page_max", self.page_max as u64, 1, 1_000),
            ("cache_bytes", self.cache_bytes as u64, 1 << 20, 1 << 30),
            ("controls", self.controls.len() as u64, 1, CONTROLS_MAX as u64),
        ])?;
        let mut seen = BTreeSet::new();
        for control in &self.controls {
            control.check().map_err(|why| SettingsError(format!("controls: {why}")))?;
            if !seen.insert(&control.id) {
                return Err(SettingsError(format!("controls: there are two with the id {}", control.id)));
            }
        }
        Ok(())
    }
}

/// What the routes and the task in the background share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Monitor {
    name: Arc<str>,
    store: Arc<Store>,
    controls: Arc<Vec<Control>>,
    follower: Follower,
    peers: Peers,
    clock: Clock,
    settings: Arc<Settings>,
    /// The last comparison of each ledger.
    chains: Arc<Mutex<BTreeMap<String, ChainSeen>>>,
    /// Held while checkpoints are compared and findings are sent, so that none is twice at once.
    looking: Arc<tokio::sync::Mutex<()>>,
    /// Why findings could not be sent.
    undelivered: Arc<Mutex<Option<String>>>,
    sent: Counter,
}

/// How the checkpoint of a ledger was the last time that it was compared.
#[derive(Debug, Clone)]
pub(super) struct ChainSeen {
    at_ms: u64,
    /// Of how many records it was; none where it could not be compared.
    size: Option<u64>,
    /// Why it could not.
    why: Option<String>,
}

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let settings = Arc::new(settings::<Settings>(&seed.settings)?);
        let controls = Arc::new(settings.controls.clone());
        let (folder, clock, shared) = (seed.folder.clone(), Arc::clone(&seed.clock), Arc::clone(&settings));
        let judged_by = Arc::clone(&controls);
        let opening = tokio::task::spawn_blocking(move || Store::open(&folder, judged_by, shared, clock));
        let store = Arc::new(opening.await??);
        let pace = Pace { every: Duration::from_millis(settings.follow_every_ms), page_records: settings.page_records };
        let sink: Arc<dyn Sink> = Arc::clone(&store) as _;
        let follower = Follower::start(seed.peers.clone(), sink, pace, Arc::clone(&seed.clock), seed.stop.clone());
        let (mut metrics, sent) = (seed.metrics, Counter::default());
        metrics.register("gavel_compliance_findings_sent", "Findings that were sent as alerts", sent.clone());
        let monitor = Monitor {
            name: seed.name.into(),
            store,
            controls,
            follower,
            peers: seed.peers,
            clock: seed.clock,
            settings,
            chains: Arc::default(),
            looking: Arc::default(),
            undelivered: Arc::default(),
            sent,
        };
        tokio::spawn(monitor.clone().watch(seed.stop));
        let watched = monitor.clone();
        let well = move || {
            let told = [("behind", watched.follower.seen().behind()), ("undelivered", json!(watched.undelivered()))];
            Ok(told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
        };
        Ok(Kernel::new(routes::doors().with_state(monitor), metrics).with_health(well))
    })
}

impl Monitor {
    /// After each round: compare checkpoints that are due, and send what was found.
    async fn watch(self, stop: CancellationToken) {
        let mut rounds = self.follower.watch();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = rounds.changed() => if changed.is_err() { return },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look(false) => {}
            }
        }
    }

    /// Compare checkpoints, all of them or those that are due, and send what was found.
    pub(super) async fn look(&self, all: bool) {
        let _one = self.looking.lock().await;
        self.compare(all).await;
        let why = match deliver::deliver(&self.name, &self.peers, &self.store).await {
            Ok(sent) => {
                self.sent.inc_by(sent as u64);
                None
            }
            Err(why) => Some(why),
        };
        let mut undelivered = self.undelivered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.as_ref().filter(|why| undelivered.as_ref() != Some(*why)) {
            tracing::warn!("findings cannot be sent now, they are kept until they can be: {why}");
        }
        *undelivered = why;
    }

    pub(super) fn undelivered(&self) -> Option<String> {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn compare(&self, all: bool) {
        let watched = |source: &String| {
            self.controls.iter().any(|control| matches!(control.check, Check::Chain(_)) && control.is_about(source))
        };
        let reading = Arc::clone(&self.store);
        let Ok(coverage) = blocking(move || Ok(reading.coverage())).await else { return };
        for name in coverage.into_keys().filter(watched) {
            let now_ms = (self.clock)();
            let fresh = |seen: &ChainSeen| now_ms < seen.at_ms.saturating_add(self.settings.chain_every_ms);
            if !all && self.chains().get(&name).is_some_and(fresh) {
                continue;
            }
            let Some(source) = Source::named(&name) else { continue };
            let (size, why) = match self.compare_one(&source).await {
                Ok(Ok(size)) => (Some(size), None),
                Ok(Err(why)) | Err(why) => (None, Some(why)),
            };
            let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
            chains.insert(name, ChainSeen { at_ms: now_ms, size, why });
        }
    }

    /// The records of the checkpoint; or why there is nothing to compare.
    async fn compare_one(&self, source: &Source) -> Result<Result<u64, String>, String> {
        let (reading, name) = (Arc::clone(&self.store), source.name.clone());
        let kept = blocking(move || reading.kept(&name)).await?;
        let (seen, rewritten) = match chain::check(&self.peers, source, kept.as_ref()).await? {
            Checked::NotCovered(why) => return Ok(Err(why)),
            Checked::Holds(seen) => (seen, None),
            Checked::Rewritten(why, seen) => (seen, Some(why)),
        };
        let size = seen.size;
        if kept.as_ref() != Some(&seen) || rewritten.is_some() {
            let (writing, name) = (Arc::clone(&self.store), source.name.clone());
            blocking(move || writing.keep(&name, Some(&seen), rewritten.as_deref())).await?;
        }
        Ok(Ok(size))
    }

    pub(super) fn chains(&self) -> BTreeMap<String, ChainSeen> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Do what reads and writes files, where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|why| format!("{why:#}")),
        Err(_) => Err("the work on the findings broke off in a panic".to_owned()),
    }
}

//! Asking every healthy kernel of the fleet what it counts.

use super::row::{Point, grown};
use super::series::Series;
use super::store::Harvest;
use super::text::{self, Form, Sample};
use super::{Aggregator, Arc};
use crate::redb_file;
use crate::{Fault, PeerError};
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Weak;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How the main API is called here.
const FRONT: &str = "front";

/// By how much the clock may be put back without numbers being kept at earlier times.
const CLOCK_STEP_MAX_MS: u64 = 60_000;

/// What one scrape needs of the one before.
#[derive(Debug, Default)]
pub(super) struct Before {
    at_ms: u64,
    last: HashMap<String, HashMap<u32, f64>>,
    /// Instances of which some series found no room: those that appear later need not be new.
    cut: BTreeSet<String>,
    /// Series that are known and not on disk yet.
    unwritten: Vec<Series>,
    gone: Vec<u32>,
}

impl Before {
    pub(super) fn of(at_ms: u64, rows: BTreeMap<String, Vec<Point>>) -> Self {
        let values = |points: Vec<Point>| points.into_iter().map(|point| (point.id, point.value)).collect();
        let last = rows.into_iter().map(|(instance, points)| (instance, values(points))).collect();
        Self { at_ms, last, ..Self::default() }
    }
}

/// How an instance was when it was last asked.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Target {
    pub(super) at_ms: u64,
    pub(super) ok: bool,
    pub(super) samples: usize,
    /// Samples of series for which there was no room.
    pub(super) dropped: usize,
    pub(super) error: Option<String>,
}

/// Scrape again and again, until `stop`.
pub(super) async fn run(aggregator: Weak<Aggregator>, every: Duration, stop: CancellationToken) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(aggregator) = aggregator.upgrade() else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            done = aggregator.scrape() => {
                if let Err(why) = done {
                    tracing::warn!("nothing was kept of this scrape: {why}");
                }
            }
        }
    }
}

impl Aggregator {
    /// Ask everybody once, keep what they say, and look at the objectives.
    pub(super) async fn scrape(self: &Arc<Self>) -> Result<Value, Fault> {
        let mut before = self.before.lock().await;
        let now_ms = (self.clock)();
        let mut targets = vec![(FRONT.to_owned(), "/metrics".to_owned())];
        match self.healthy().await {
            Ok(names) => targets.extend(names.into_iter().map(|name| (name.clone(), format!("/{name}/metrics")))),
            Err(why) => tracing::warn!("which kernels there are cannot be found out: {why}"),
        }
        let mut asked = BTreeMap::new();
        let mut found = Vec::new();
        for (instance, path) in targets {
            let target = match self.ask(&path).await {
                Ok(samples) => {
                    let target = Target { at_ms: now_ms, ok: true, samples: samples.len(), ..Target::default() };
                    found.push((instance.clone(), samples));
                    target
                }
                Err(why) => Target { at_ms: now_ms, error: Some(why), ..Target::default() },
            };
            asked.insert(instance, target);
        }
        // Two scrapes at one time would be one. A clock that was put back by more is believed.
        let late_ms = before.at_ms.saturating_sub(now_ms);
        let row_ms = if now_ms <= before.at_ms && late_ms < CLOCK_STEP_MAX_MS { before.at_ms + 1 } else { now_ms };
        let harvest = self.harvest(found, &mut before, &mut asked, row_ms);
        let told = json!({"at_ms": now_ms, "targets": asked});
        self.counts.after_scrape(&asked, self.catalogue().len());
        let kept = self.keep(harvest, &mut before).await;
        // Told as scraped only when it is on disk.
        *self.targets() = asked;
        kept?;
        drop(before);
        self.watch_objectives(now_ms).await?;
        Ok(told)
    }

    async fn healthy(&self) -> Result<Vec<String>, PeerError> {
        let answer = self.peers.get("/kernel-ports/assignments").await?;
        let all = answer["assignments"].as_array().map(Vec::as_slice).unwrap_or_default();
        let healthy = all.iter().filter(|entry| entry["status"] == "healthy");
        let names = healthy.filter_map(|entry| entry["name"].as_str());
        let safe = names.filter(|name| name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c)));
        Ok(safe.take(self.settings.targets_max).map(str::to_owned).collect())
    }

    async fn ask(&self, path: &str) -> Result<Vec<Sample>, String> {
        let limit = Duration::from_millis(self.settings.scrape_timeout_ms);
        let answer = timeout(limit, self.peers.text(Method::GET, path, None)).await;
        let body = answer.map_err(|_| format!("{path}: no answer within {} ms", limit.as_millis()))?;
        let body = body.map_err(|why| why.to_string())?;
        if body.len() > self.settings.scrape_bytes_max {
            return Err(format!("{path}: {} bytes, more than scrape_bytes_max allows", body.len()));
        }
        let body = std::str::from_utf8(&body).map_err(|why| format!("{path}: {why}"))?;
        text::parse(body).map_err(|why| format!("{path}: {why}"))
    }

    fn harvest(
        &self,
        found: Vec<(String, Vec<Sample>)>,
        before: &mut Before,
        targets: &mut BTreeMap<String, Target>,
        now_ms: u64,
    ) -> Harvest {
        let mut catalogue = self.catalogue();
        if catalogue.len() >= self.settings.series_max {
            before.gone.extend(catalogue.forget_before(now_ms.saturating_sub(self.settings.series_idle_ms)));
        }
        let mut harvest = Harvest { now_ms, ..Harvest::default() };
        for (instance, samples) in found {
            let last = before.last.get(&instance);
            let was_whole = last.is_some() && !before.cut.contains(&instance);
            let (mut points, mut dropped) = (BTreeMap::new(), 0);
            for sample in samples {
                let known = catalogue.find_or_add(&sample, &instance, now_ms, self.settings.series_max);
                let Some((id, new)) = known else {
                    dropped += 1;
                    continue;
                };
                let value = sample.value;
                let grown = match sample.form {
                    Form::Counter => grown(last.and_then(|last| last.get(&id)).copied(), value, was_whole),
                    Form::Gauge => 0.0,
                };
                before.unwritten.extend(new);
                points.insert(id, Point { id, value, grown });
            }
            if dropped > 0 {
                before.cut.insert(instance.clone());
                tracing::debug!(instance, dropped, "series find no room (series_max)");
            } else {
                before.cut.remove(&instance);
            }
            if let Some(target) = targets.get_mut(&instance) {
                target.dropped = dropped;
            }
            harvest.points.insert(instance, points.into_values().collect());
        }
        harvest.new.clone_from(&before.unwritten);
        harvest.gone.clone_from(&before.gone);
        harvest
    }

    async fn keep(self: &Arc<Self>, harvest: Harvest, before: &mut Before) -> Result<(), Fault> {
        let this = Arc::clone(self);
        let kept = redb_file::aside("what was scraped cannot be kept", move || {
            let forms: HashMap<u32, Form> = this.catalogue().forms().collect();
            let form = |id: u32| forms.get(&id).copied();
            while this.store.keep(&harvest, &form)? {}
            Ok(harvest)
        });
        let kept = kept.await.inspect_err(|why| *self.broken() = Some(why.to_string()))?;
        *self.broken() = None;
        before.at_ms = kept.now_ms;
        before.unwritten.clear();
        before.gone.clear();
        for (instance, points) in kept.points {
            // What is missing once is not new when it comes again.
            let last = before.last.entry(instance).or_default();
            last.extend(points.into_iter().map(|point| (point.id, point.value)));
            last.retain(|id, _| !kept.gone.contains(id));
        }
        Ok(())
    }
}

//! What the kernels of the fleet count: scraped, rolled up, queried, and held against objectives.
//!
//! What was scraped is on disk before anything is made of it; minutes, hours and days are made of what is on disk, so a kill
//! loses at most the scrape that was under way. Series are bounded: those that find no room are counted and told, not kept.
//!
//! Deliberately absent: a query language (one selector, one function), writing from outside, and scraping of anything that
//! is not part of the fleet.

mod objectives;
mod query;
mod row;
mod scrape;
mod series;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod text;

use crate::{
    Body, Caller, Clock, Door, Doors, Fault, Kernel, Kind, OPERATING, Opened, Params, Peers, SEEING, Seed,
    SettingsError, redb_file, settings as read_settings,
};
use anyhow::Context;
use axum::Json;
use axum::extract::{Path, State};
use objectives::Objective;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use query::{Asked, Function};
use scrape::{Before, Target};
use serde_json::{Map, Value, json};
use series::{Catalogue, Selector};
use settings::Settings;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use store::{OBJECTIVES, STATES, Store};

pub(crate) const KIND: Kind = Kind {
    name: "metrics_aggregator",
    purpose: "what the kernels count: scraped, rolled up, and held against objectives",
    needs: &["message_bus", "immutable_log"],
    check,
    open,
};

/// Bytes of the file that are held in memory.
const CACHE_BYTES: usize = 4 << 20;

fn check(value: &Value) -> Result<(), SettingsError> {
    read_settings::<Settings>(value)?.check()
}

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let settings: Settings = read_settings(&seed.settings)?;
        let (folder, keep_ms, now_ms) = (seed.folder.clone(), settings.keep_ms(), (seed.clock)());
        let opened = tokio::task::spawn_blocking(move || {
            let database = redb_file::open(&folder, "metrics.redb", CACHE_BYTES)?;
            read_all(Store::open(database, keep_ms)?, now_ms).context("metrics.redb cannot be read")
        });
        let Held { store, catalogue, last, objectives, states } = opened.await??;
        let mut metrics = seed.metrics;
        let every = Duration::from_millis(settings.scrape_every_ms);
        let aggregator = Arc::new(Aggregator {
            store,
            settings,
            clock: seed.clock,
            counts: Counts::register(&mut metrics),
            catalogue: Mutex::new(catalogue),
            objectives: Mutex::new(objectives),
            states: Mutex::new(states),
            targets: Mutex::default(),
            broken: Mutex::default(),
            before: tokio::sync::Mutex::new(last),
            peers: seed.peers,
        });
        if aggregator.peers.are_there() {
            tokio::spawn(scrape::run(Arc::downgrade(&aggregator), every, seed.stop));
        }
        let well = Arc::downgrade(&aggregator);
        Ok(Kernel::new(doors().with_state(aggregator), metrics).with_health(move || health(&well)))
    })
}

/// What is on disk when a kernel is opened.
struct Held {
    store: Store,
    catalogue: Catalogue,
    last: Before,
    objectives: BTreeMap<String, Objective>,
    states: BTreeMap<String, objectives::State>,
}

fn read_all(store: Store, now_ms: u64) -> anyhow::Result<Held> {
    let (series, next) = store.series()?;
    let mut catalogue = Catalogue::starting_at(next);
    for one in series {
        catalogue.add(one, now_ms);
    }
    store.begin_with(OBJECTIVES, &objectives::usual())?;
    let (at_ms, rows) = store.last()?;
    let last = Before::of(at_ms, rows);
    let (objectives, states) = (store.named(OBJECTIVES)?, store.named(STATES)?);
    Ok(Held { store, catalogue, last, objectives, states })
}

struct Aggregator {
    store: Store,
    settings: Settings,
    clock: Clock,
    counts: Counts,
    catalogue: Mutex<Catalogue>,
    objectives: Mutex<BTreeMap<String, Objective>>,
    states: Mutex<BTreeMap<String, objectives::State>>,
    targets: Mutex<BTreeMap<String, Target>>,
    /// Why nothing could be kept of the last scrape.
    broken: Mutex<Option<String>>,
    /// Whoever holds it scrapes.
    before: tokio::sync::Mutex<Before>,
    peers: Peers,
}

type Shared = State<Arc<Aggregator>>;

fn held<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Aggregator {
    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        held(&self.catalogue)
    }

    fn objectives(&self) -> MutexGuard<'_, BTreeMap<String, Objective>> {
        held(&self.objectives)
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<String, objectives::State>> {
        held(&self.states)
    }

    fn targets(&self) -> MutexGuard<'_, BTreeMap<String, Target>> {
        held(&self.targets)
    }

    fn broken(&self) -> MutexGuard<'_, Option<String>> {
        held(&self.broken)
    }

    async fn set_state(self: &Arc<Self>, name: String, state: objectives::State) -> Result<(), Fault> {
        let (this, kept, of) = (Arc::clone(self), state.clone(), name.clone());
        redb_file::aside("an objective's state cannot be kept", move || this.store.set(STATES, &of, Some(&kept)))
            .await?;
        self.states().insert(name, state);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Counts {
    scrapes: Counter,
    failed: Counter,
    dropped: Counter,
    series: Gauge,
}

impl Counts {
    fn register(metrics: &mut Registry) -> Self {
        let counts = Self::default();
        let Self { scrapes, failed, dropped, series } = &counts;
        metrics.register("gavel_metrics_scrapes", "Kernels that were asked", scrapes.clone());
        metrics.register("gavel_metrics_scrapes_failed", "Kernels that were asked in vain", failed.clone());
        metrics.register("gavel_metrics_samples_dropped", "Samples of series without room", dropped.clone());
        metrics.register("gavel_metrics_series", "Series that are known", series.clone());
        counts
    }

    fn after_scrape(&self, targets: &BTreeMap<String, Target>, series: usize) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.scrapes.inc_by(count(targets.len()));
        self.failed.inc_by(count(targets.values().filter(|target| !target.ok).count()));
        self.dropped.inc_by(targets.values().map(|target| count(target.dropped)).sum());
        self.series.set(i64::try_from(series).unwrap_or(i64::MAX));
    }
}

fn health(aggregator: &Weak<Aggregator>) -> Result<Map<String, Value>, String> {
    let Some(aggregator) = aggregator.upgrade() else { return Err("it is stopping".to_owned()) };
    if let Some(why) = aggregator.broken().clone() {
        return Err(why);
    }
    let dropped: usize = aggregator.targets().values().map(|target| target.dropped).sum();
    Ok(Map::from_iter([
        ("series".to_owned(), json!(aggregator.catalogue().len())),
        ("series_max".to_owned(), json!(aggregator.settings.series_max)),
        ("series_dropped".to_owned(), json!(dropped)),
    ]))
}

const SHOWS: Door = Door { roles: SEEING, summary: "", query: &[], body: "", answer: "" };
const ACTS: Door = Door { roles: OPERATING, ..SHOWS };
const LABELS: (&str, &str) = ("LABEL", "any other name: a label that the series has, `*` for any text");
const OF_SERIES: &[(&str, &str)] =
    &[("match", "the name, `*` for any text"), ("limit", "at most so many; 1000"), LABELS];
const OF_QUERY: &[(&str, &str)] = &[
    ("name", "the name of a metric, `*` for any text; of a histogram its name without `_bucket`"),
    ("fn", "rate, increase (counters); avg, min, max (gauges); p50, p90, p99 (histograms)"),
    ("from", "from this time, in ms since 1970; the last hour where nothing is said"),
    ("to", "until this time, in ms since 1970; until now where nothing is said"),
    ("step", "how long a step is, in ms; 60000 where nothing is said"),
    ("merge", "true: one series of all"),
    LABELS,
];

fn doors() -> Doors<Arc<Aggregator>> {
    let objective = r#"{"good": {"name": "gavel_fleet_requests_total", "not": {"status": "5*"}}, "total": {"name": "gavel_fleet_requests_total"}, "target": 0.999, "window_ms": 2592000000}"#;
    let points = r#"{"name": "gavel_fleet_requests_total", "fn": "rate", "step": 60000, "grain": "minute", "series": [{"labels": {"kernel": "audit_trail"}, "points": [[1700000000000, 2.5]]}]}"#;
    Doors::new()
        .get("/targets", Door { summary: "Who was asked last, and what came of it", ..SHOWS }, targets)
        .post("/scrape", Door { summary: "Ask everybody now", ..ACTS }, scrape_now)
        .get("/series", Door { summary: "The series that are known", query: OF_SERIES, ..SHOWS }, find_series)
        .get("/query", Door { summary: "Numbers over time", query: OF_QUERY, answer: points, ..SHOWS }, ask)
        .get("/objectives", Door { summary: "All objectives, and how they stand", ..SHOWS }, all_objectives)
        .get(
            "/objectives/{name}",
            Door { summary: "An objective: compliance, budget, burn rates", ..SHOWS },
            one_objective,
        )
        .put("/objectives/{name}", Door { summary: "Set an objective", body: objective, ..ACTS }, put_objective)
        .delete("/objectives/{name}", Door { summary: "Drop an objective", ..ACTS }, drop_objective)
}

async fn targets(State(aggregator): Shared) -> Json<Value> {
    let settings = &aggregator.settings;
    let (targets, series) = (aggregator.targets().clone(), aggregator.catalogue().len());
    let limits =
        json!({"series": series, "series_max": settings.series_max, "scrape_every_ms": settings.scrape_every_ms});
    Json(json!({"targets": targets, "limits": limits}))
}

async fn scrape_now(State(aggregator): Shared) -> Result<Json<Value>, Fault> {
    if !aggregator.peers.are_there() {
        return Err(Fault::conflict("this kernel runs alone: there is nobody to ask"));
    }
    // Broken off between keeping and remembering, it would count the same growth twice: it goes on when whoever asked for
    // it has gone.
    let scrape = tokio::spawn(async move { aggregator.scrape().await });
    scrape.await.map_err(|why| Fault::broken(format!("the scrape broke off: {why}")))?.map(Json)
}

/// What is asked for, taken apart: the known names, and labels.
struct Query(BTreeMap<String, String>);

impl Query {
    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(text) = self.0.remove(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Fault::unreadable(format!("{name} is no whole number")))
    }

    /// What is left are labels.
    fn selector(self, name: String) -> Selector {
        Selector { name, labels: self.0, not: BTreeMap::new() }
    }
}

/// Series of an answer of `/series`.
const SERIES_LISTED_MAX: usize = 1_000;

async fn find_series(
    State(aggregator): Shared,
    Params(asked): Params<BTreeMap<String, String>>,
) -> Result<Json<Value>, Fault> {
    let mut asked = Query(asked);
    let limit = asked.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(SERIES_LISTED_MAX);
    let name = asked.take("match").unwrap_or_else(|| "*".to_owned());
    let chosen = aggregator.catalogue().chosen(&asked.selector(name));
    let shown: Vec<Value> = chosen
        .iter()
        .take(limit.min(SERIES_LISTED_MAX))
        .map(|series| json!({"name": series.name, "labels": series.labels, "type": series.form}))
        .collect();
    let dropped: usize = aggregator.targets().values().map(|target| target.dropped).sum();
    let max = aggregator.settings.series_max;
    Ok(Json(json!({
        "total": chosen.len(), "complete": shown.len() == chosen.len(), "series": shown, "series_max": max,
        "dropped": dropped,
    })))
}

async fn ask(State(aggregator): Shared, Params(asked): Params<BTreeMap<String, String>>) -> Result<Json<Value>, Fault> {
    let mut asked = Query(asked);
    let name = asked.take("name").ok_or_else(|| Fault::unreadable("name is missing: which metric?"))?;
    let named = asked
        .take("fn")
        .ok_or_else(|| Fault::unreadable("fn is missing: rate, increase, avg, min, max, p50, p90, p99"))?;
    let function = Function::named(&named).ok_or_else(|| {
        Fault::unreadable("there is no such fn: it is rate, increase, avg, min, max, p50, p90 or p99")
    })?;
    let now_ms = (aggregator.clock)();
    let to = asked.number("to")?.unwrap_or(now_ms + 1);
    let from = asked.number("from")?.unwrap_or_else(|| to.saturating_sub(3_600_000));
    let step_ms = asked.number("step")?.unwrap_or(60_000);
    let merge = asked.take("merge").is_some_and(|merge| merge == "true");
    let settings = &aggregator.settings;
    if step_ms < 1_000 || from >= to || (to - from) / step_ms > settings.points_max {
        let most = settings.points_max;
        return Err(Fault::unreadable(format!(
            "from {from} to {to} in steps of {step_ms} ms: 1 to {most} steps of 1 s or more"
        )));
    }
    let metric = if matches!(function, Function::Quantile(_)) { format!("{name}_bucket") } else { name.clone() };
    let chosen = aggregator.catalogue().chosen(&asked.selector(metric));
    let of: Vec<_> = chosen.iter().filter(|series| series.form == function.form()).cloned().collect();
    if let (true, Some(other)) = (of.is_empty(), chosen.first()) {
        let (other, form) = (&other.name, function.form());
        return Err(Fault::not_accepted(
            format!("{other} is no {form:?}: {named} cannot be made of it").to_lowercase(),
        ));
    }
    if of.len() > settings.query_series_max {
        let (found, most) = (of.len(), settings.query_series_max);
        return Err(Fault::not_accepted(format!("{found} series are asked for, {most} may be: name more labels")));
    }
    let asked = Asked { function, times: from - from % step_ms..to, step_ms, merge, now_ms };
    let answered =
        redb_file::aside("the numbers cannot be read", move || query::answer(&aggregator.store, &of, &asked));
    let (grain, series) = answered.await?;
    Ok(Json(
        json!({"name": name, "fn": named, "from": from, "to": to, "step": step_ms, "grain": grain, "series": series}),
    ))
}

async fn all_objectives(State(aggregator): Shared) -> Result<Json<Value>, Fault> {
    let now_ms = (aggregator.clock)();
    let told = redb_file::aside("the objectives cannot be read", move || {
        let objectives = aggregator.objectives().clone();
        let all = objectives.iter().map(|(name, one)| aggregator.standing(name, one, now_ms));
        all.collect::<Result<Vec<_>, _>>()
    });
    Ok(Json(json!({"objectives": told.await?})))
}

async fn one_objective(State(aggregator): Shared, Path(name): Path<String>) -> Result<Json<Value>, Fault> {
    let now_ms = (aggregator.clock)();
    let objective = aggregator.objectives().get(&name).cloned().ok_or_else(|| no_objective(&name))?;
    let told = redb_file::aside("the objective cannot be read", move || aggregator.standing(&name, &objective, now_ms));
    told.await.map(Json)
}

fn no_objective(name: &str) -> Fault {
    Fault::absent(format!("there is no objective '{}'", name.chars().take(64).collect::<String>()))
}

async fn put_objective(
    State(aggregator): Shared,
    caller: Caller,
    Path(name): Path<String>,
    Body(objective): Body<Objective>,
) -> Result<Json<Value>, Fault> {
    let settings = &aggregator.settings;
    let named =
        (1..=64).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    if !named {
        return Err(Fault::not_accepted("the name of an objective has 1 to 64 letters, digits, '-', '_' and '.'"));
    }
    objective.check(settings.hour_keep_ms).map_err(|why| Fault::not_accepted(why.to_string()))?;
    let is_new = !aggregator.objectives().contains_key(&name);
    if is_new && aggregator.objectives().len() >= settings.objectives_max {
        let most = settings.objectives_max;
        return Err(Fault::conflict(format!("there are {most} objectives already: drop one first")));
    }
    let (this, of, kept) = (Arc::clone(&aggregator), name.clone(), objective.clone());
    redb_file::aside("the objective cannot be kept", move || this.store.set(OBJECTIVES, &of, Some(&kept))).await?;
    tracing::info!(objective = name, by = caller.sender(), "objective set");
    aggregator.objectives().insert(name.clone(), objective.clone());
    Ok(Json(json!({"name": name, "objective": objective, "new": is_new})))
}

async fn drop_objective(
    State(aggregator): Shared,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Fault> {
    if !aggregator.objectives().contains_key(&name) {
        return Err(no_objective(&name));
    }
    // Nobody would resolve it later.
    let state = aggregator.states().get(&name).cloned().unwrap_or_default();
    let ended = aggregator.tell_the_end(state, "the objective was dropped").await;
    ended.map_err(|why| Fault::unavailable(format!("nothing was dropped: its alert cannot be resolved: {why}")))?;
    let (this, of) = (Arc::clone(&aggregator), name.clone());
    let was = redb_file::aside("the objective cannot be dropped", move || {
        this.store.set::<()>(STATES, &of, None)?;
        this.store.set::<()>(OBJECTIVES, &of, None)
    });
    if !was.await? {
        return Err(no_objective(&name));
    }
    tracing::info!(objective = name, by = caller.sender(), "objective dropped");
    aggregator.objectives().remove(&name);
    aggregator.states().remove(&name);
    Ok(Json(json!({"name": name, "dropped": true})))
}

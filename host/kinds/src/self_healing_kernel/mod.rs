//! Guardian's playbooks as a service: it chooses them, has Guardian carry them out, and sees for itself whether they helped.
//!
//! It acts on nothing by itself. `verified` is what it saw of the component's health through the main API after the act, never
//! what somebody claims. Each healing is on record before its first order, and what it was told stays there.
//!
//! Deliberately absent: starting, stopping and signalling processes (Guardian does that, and nobody else), and healing that
//! nobody asked for: rules only tell.

mod heal;
mod playbooks;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use crate::{
    Body, Caller, Clock, Door, Doors, Fault, Kernel, Kind, OPERATING, Opened, Params, Peers, SEEING, Seed,
    SettingsError, redb_file, settings as read_settings,
};
use anyhow::Context;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{Effect, Healing, Status, Store};
use tokio::sync::Notify;
use watch::{Rule, Wanted, is_name};

pub(crate) const KIND: Kind = Kind {
    name: "self_healing_kernel",
    purpose: "chooses playbooks, has Guardian carry them out, and verifies them",
    needs: &["message_bus", "immutable_log"],
    check,
    open,
};

fn own_name() -> &'static str {
    KIND.name
}

/// Bytes of the file that are held in memory.
const CACHE_BYTES: usize = 1 << 20;

/// Its settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// How long it is looked whether a playbook helped. Default 10 s.
    verify_ms: u64,
    /// Between two looks. Default 500 ms.
    verify_every_ms: u64,
    /// Good answers in a row that count as well. Default 3.
    verify_checks: u32,
    /// How long one answer may take. Default 2 s.
    check_timeout_ms: u64,
    /// Healings of one component within `heals_window_ms`; of the message bus it is always 1. Default 3.
    heals_max: usize,
    /// Default 10 minutes.
    heals_window_ms: u64,
    /// Components that are healed at the same time. Default 2.
    at_once_max: usize,
    /// How long an order to heal is waited for before the answer is 202. Default 8 s.
    answer_within_ms: u64,
    /// Healings that are remembered. Default 10,000.
    healings_max: u64,
    /// Rules. Default 100.
    rules_max: usize,
    /// How long the message bus may wait for an event. Default 8 s.
    watch_wait_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            verify_ms: 10_000,
            verify_every_ms: 500,
            verify_checks: 3,
            check_timeout_ms: 2_000,
            heals_max: 3,
            heals_window_ms: 600_000,
            at_once_max: 2,
            answer_within_ms: 8_000,
            healings_max: 10_000,
            rules_max: 100,
            watch_wait_ms: 8_000,
        }
    }
}

fn check(value: &Value) -> Result<(), SettingsError> {
    let settings: Settings = read_settings(value)?;
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    crate::ranges::check(&[
        ("verify_ms", settings.verify_ms, 100, 120_000),
        ("verify_every_ms", settings.verify_every_ms, 10, settings.verify_ms),
        ("verify_checks", u64::from(settings.verify_checks), 1, 100),
        // All that is asked for must find room in the time.
        (
            "verify_checks times verify_every_ms",
            u64::from(settings.verify_checks) * settings.verify_every_ms,
            10,
            settings.verify_ms,
        ),
        ("check_timeout_ms", settings.check_timeout_ms, 10, 10_000),
        ("heals_max", wide(settings.heals_max), 1, 100),
        ("heals_window_ms", settings.heals_window_ms, 1_000, 86_400_000),
        ("at_once_max", wide(settings.at_once_max), 1, 32),
        ("answer_within_ms", settings.answer_within_ms, 10, 60_000),
        ("healings_max", settings.healings_max, 10, 1_000_000),
        ("rules_max", wide(settings.rules_max), 1, 1_000),
        // An answer from another kernel is waited for 10 s, and that of the bus has to come in that time.
        ("watch_wait_ms", settings.watch_wait_ms, 100, 8_000),
    ])
    .map_err(SettingsError)
}

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let settings: Settings = read_settings(&seed.settings)?;
        let (folder, healings_max, now_ms) = (seed.folder.clone(), settings.healings_max, (seed.clock)());
        let store = tokio::task::spawn_blocking(move || {
            let database = redb_file::open(&folder, "healings.redb", CACHE_BYTES)?;
            Store::open(database, healings_max, now_ms).context("healings.redb cannot be read")
        });
        let mut metrics = seed.metrics;
        let changed = Arc::new(Notify::new());
        let healer = Arc::new(Healer {
            name: seed.name,
            store: store.await??,
            settings,
            clock: seed.clock,
            peers: seed.peers,
            active: Mutex::default(),
            counts: Counts::register(&mut metrics),
            watch_error: Mutex::default(),
            changed: Arc::clone(&changed),
        });
        if healer.peers.are_there() {
            tokio::spawn(watch::run(Arc::downgrade(&healer), changed, seed.stop));
        }
        let well = Arc::downgrade(&healer);
        Ok(Kernel::new(doors().with_state(healer), metrics).with_health(move || {
            let healer = well.upgrade().ok_or("it is stopping")?;
            let active = healer.active.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            let watch_error = healer.watch_error();
            Ok(Map::from_iter([("healing".to_owned(), json!(active)), ("watch_error".to_owned(), json!(watch_error))]))
        }))
    })
}

struct Healer {
    name: String,
    store: Store,
    settings: Settings,
    clock: Clock,
    peers: Peers,
    /// Components that are being healed.
    active: Mutex<BTreeSet<String>>,
    counts: Counts,
    /// Why events could not be read, or alerts not handed over, the last time.
    watch_error: Mutex<Option<String>>,
    /// A rule came or went.
    changed: Arc<Notify>,
}

type Shared = State<Arc<Healer>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealingLabels {
    status: &'static str,
}

#[derive(Debug, Default)]
struct Counts {
    healings: Family<HealingLabels, Counter>,
}

impl Counts {
    fn register(metrics: &mut Registry) -> Self {
        let counts = Self::default();
        metrics.register("gavel_self_healing_healings", "Healings that ended, by status", counts.healings.clone());
        counts
    }

    fn healed(&self, healing: &Healing) {
        let status = match healing.status {
            Status::Verified => "verified",
            Status::Needless => "needless",
            _ => "not_verified",
        };
        self.healings.get_or_create(&HealingLabels { status }).inc();
    }
}

const SHOWS: Door = Door { roles: SEEING, summary: "", query: &[], body: "", answer: "" };
const ACTS: Door = Door { roles: OPERATING, ..SHOWS };
const OF_HEALINGS: &[(&str, &str)] = &[
    ("component", "only of this one"),
    ("limit", "at most so many; 50 where nothing is said"),
    ("before", "only those with a smaller id"),
];

fn doors() -> Doors<Arc<Healer>> {
    let plan = r#"{"component": "audit_trail", "symptoms": ["connection timed out"]}"#;
    let order = r#"{"component": "audit_trail", "issue_type": "connection_timeout", "dry_run": false}"#;
    let rule =
        r#"{"name": "audit", "component": "audit_trail", "times": 3, "within_ms": 600000, "severity": "warning"}"#;
    Doors::new()
        .get("/playbooks", Door { summary: "What can be done, and what it did so far", ..SHOWS }, show_playbooks)
        .post("/plan", Door { summary: "What would be done, in which order, and why", body: plan, ..SHOWS }, plan_only)
        .post("/heal", Door { summary: "Have a component healed, and verify it", body: order, ..ACTS }, heal_one)
        .get("/healings", Door { summary: "Healings, the latest first", query: OF_HEALINGS, ..SHOWS }, all_healings)
        .get("/healings/{id}", Door { summary: "A healing, with its orders and what was seen", ..SHOWS }, one_healing)
        .get("/watch", Door { summary: "Rules, and what they counted", ..SHOWS }, all_rules)
        .post(
            "/watch",
            Door { summary: "Set a rule: tell when a component keeps failing", body: rule, ..ACTS },
            set_rule,
        )
        .delete("/watch/{name}", Door { summary: "Drop a rule", ..ACTS }, drop_rule)
}

async fn show_playbooks(State(healer): Shared) -> Result<Json<Value>, Fault> {
    let effects = redb_file::aside("what was done cannot be read", move || healer.store.effects()).await?;
    let shown = playbooks::PLAYBOOKS.map(|playbook| {
        let (mut total, mut measured) = (Effect::default(), Vec::new());
        for ((_, component, issue), effect) in effects.iter().filter(|((name, ..), _)| name == playbook.name) {
            total.tried += effect.tried;
            total.verified += effect.verified;
            total.took_ms += effect.took_ms;
            total.last_ms = total.last_ms.max(effect.last_ms);
            measured.push(json!({"component": component, "issue_type": issue, "effect": effect}));
        }
        json!({
            "name": playbook.name, "must_do": playbook.must_do, "must_never": playbook.must_never,
            "only_looks": playbook.only_looks, "total": total, "measured": measured,
        })
    });
    let issues = playbooks::ISSUES.map(|(issue, of)| {
        let of: Vec<&str> = of.iter().map(|playbook| playbook.name).collect();
        json!({"issue_type": issue, "playbooks": of})
    });
    Ok(Json(json!({"playbooks": shown, "issues": issues})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanAsked {
    component: String,
    issue_type: Option<String>,
    #[serde(default)]
    symptoms: Vec<String>,
}

fn component(name: &str) -> Result<(), Fault> {
    if is_name(name) {
        Ok(())
    } else {
        Err(Fault::not_accepted("component: it has 1 to 64 letters, digits, '-' and '_'"))
    }
}

async fn plan_only(State(healer): Shared, Body(asked): Body<PlanAsked>) -> Result<Json<Value>, Fault> {
    component(&asked.component)?;
    let plan = healer.plan(&asked.component, asked.issue_type.as_deref(), &asked.symptoms).await?;
    Ok(Json(planned(&asked.component, &plan)))
}

fn planned(component: &str, plan: &heal::Plan) -> Value {
    json!({
        "component": component, "issue_type": plan.issue, "because": plan.because, "playbooks": plan.choices,
        "diagnosis": plan.diagnosis,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    component: String,
    issue_type: Option<String>,
    #[serde(default)]
    symptoms: Vec<String>,
    #[serde(default)]
    dry_run: bool,
    /// Also if it is well.
    #[serde(default)]
    force: bool,
}

async fn heal_one(
    State(healer): Shared,
    caller: Caller,
    Body(order): Body<Order>,
) -> Result<(StatusCode, Json<Value>), Fault> {
    component(&order.component)?;
    if order.dry_run {
        let plan = healer.plan(&order.component, order.issue_type.as_deref(), &order.symptoms).await?;
        let mut told = planned(&order.component, &plan);
        told["dry_run"] = json!(true);
        return Ok((StatusCode::OK, Json(told)));
    }
    let by = caller.sender().to_owned();
    let limit = Duration::from_millis(healer.settings.answer_within_ms);
    let (tell_id, begun) = tokio::sync::oneshot::channel();
    // It goes on when whoever asked for it has gone.
    let task = tokio::spawn(async move {
        let alone = healer.alone(&order.component).await?;
        let plan = healer.plan(&order.component, order.issue_type.as_deref(), &order.symptoms).await?;
        let healing = healer.begin(order.component, plan, by, order.force).await?;
        // Who asked may have gone.
        let _ = tell_id.send(healing.id);
        healer.carry_out(healing, alone).await
    });
    // Before it is on record there is no id to answer with. If it never is, the task has ended and says why.
    let (id, limit) = begun.await.map_or((None, Duration::MAX), |id| (Some(id), limit));
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(done)) => Ok((StatusCode::OK, Json(json!(done?)))),
        Ok(Err(why)) => Err(Fault::broken(format!("the healing broke off: {why}"))),
        Err(_) => {
            let see = id.map(|id| format!("/healings/{id}"));
            Ok((StatusCode::ACCEPTED, Json(json!({"id": id, "status": Status::Running, "see": see}))))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealingsAsked {
    component: Option<String>,
    limit: Option<usize>,
    before: Option<u64>,
}

/// Healings of an answer where nothing is said, and at most.
const LIMITS: (usize, usize) = (50, 500);

async fn all_healings(State(healer): Shared, Params(asked): Params<HealingsAsked>) -> Result<Json<Value>, Fault> {
    let (usual, most) = LIMITS;
    let limit = asked.limit.unwrap_or(usual).clamp(1, most);
    let before = asked.before.unwrap_or(u64::MAX);
    let found = redb_file::aside("healings cannot be read", move || {
        healer.store.healings(asked.component.as_deref(), before, limit)
    });
    let healings = found.await?;
    let next = if healings.len() == limit { healings.last().map(|healing| healing.id) } else { None };
    Ok(Json(json!({"healings": healings, "next": next})))
}

async fn one_healing(State(healer): Shared, Path(id): Path<u64>) -> Result<Json<Healing>, Fault> {
    let found = redb_file::aside("the healing cannot be read", move || healer.store.healing(id)).await?;
    found.map(Json).ok_or_else(|| Fault::absent(format!("there is no healing {id} here, or no more")))
}

async fn all_rules(State(healer): Shared) -> Result<Json<Value>, Fault> {
    let error = healer.watch_error();
    let read = redb_file::aside("rules cannot be read", move || Ok((healer.store.rules()?, healer.store.offset()?)));
    let (rules, offset) = read.await?;
    Ok(Json(json!({"rules": rules.into_values().collect::<Vec<Rule>>(), "offset": offset, "error": error})))
}

async fn set_rule(State(healer): Shared, caller: Caller, Body(wanted): Body<Wanted>) -> Result<Json<Value>, Fault> {
    let rule = wanted.rule(caller.sender().to_owned(), (healer.clock)())?;
    let (this, kept, most) = (Arc::clone(&healer), rule.clone(), healer.settings.rules_max);
    let set = redb_file::aside("the rule cannot be kept", move || {
        let rules = this.store.rules()?;
        if rules.len() >= most && !rules.contains_key(&kept.name) {
            return Ok(false);
        }
        this.store.set_rule(&kept.name, Some(&kept))?;
        Ok(true)
    });
    if !set.await? {
        return Err(Fault::conflict(format!("there are {most} rules already: drop one first")));
    }
    healer.changed.notify_one();
    Ok(Json(json!(rule)))
}

async fn drop_rule(State(healer): Shared, Path(name): Path<String>) -> Result<Json<Value>, Fault> {
    let of = name.clone();
    if !redb_file::aside("the rule cannot be dropped", move || healer.store.set_rule(&of, None)).await? {
        return Err(Fault::absent(format!("there is no rule '{}'", name.chars().take(64).collect::<String>())));
    }
    Ok(Json(json!({"name": name, "dropped": true})))
}

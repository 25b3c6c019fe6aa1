//! `/kernel-ports/`: which kernel is where, and how it is.

use super::{Front, health};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gavel_fleet::table::Tier;
use gavel_fleet::{Entry, HealError, Status};
use gavel_kinds::{ANY, Door, Doors, Fault, OPERATING, Params, SEEING};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const SEES: Door = Door { roles: ANY, summary: "", query: &[], body: "", answer: "" };
const MEASURES: Door = Door { roles: SEEING, ..SEES };

pub(super) fn doors(doors: Doors<Front>) -> Doors<Front> {
    let tier = &[("tier", "only kernels of this tier")];
    doors
        .get("/kernel-ports/assignments", Door { summary: "The registry", query: tier, ..SEES }, assignments)
        .get("/kernel-ports/port-map", Door { summary: "Each kernel's port", ..SEES }, port_map)
        .get("/kernel-ports/port/{name}", Door { summary: "A kernel's line of the registry", ..SEES }, port)
        .get("/kernel-ports/by-tier/{tier}", Door { summary: "The kernels of a tier", ..SEES }, by_tier)
        .get("/kernel-ports/health-check", Door { summary: "Ask every kernel now how it is", ..SEES }, health_check)
        .get("/kernel-ports/status", Door { summary: "The whole fleet, with its registry", ..SEES }, status)
        .get("/kernel-ports/metrics", Door { summary: "Restarts, failures and healings", ..MEASURES }, metrics)
        .post(
            "/kernel-ports/reset-failures/{name}",
            Door { roles: OPERATING, summary: "Forget a kernel's failures; one that was given up is started", ..SEES },
            reset_failures,
        )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    tier: Option<String>,
}

/// An error as these routes' clients know it, and as all others do.
pub(super) fn told(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"detail": message, "error": message}))).into_response()
}

pub(super) fn refused(why: &HealError) -> Response {
    let status = match why {
        HealError::Unknown(_) => StatusCode::NOT_FOUND,
        HealError::Busy(_) | HealError::GivenUp(_) | HealError::NotOurs { .. } => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    told(status, &why.to_string())
}

fn unknown_tier(name: &str) -> Response {
    let tiers: Vec<&str> = Tier::ALL.iter().map(|tier| tier.name()).collect();
    told(StatusCode::BAD_REQUEST, &format!("Unknown tier '{name}'; there are: {}", tiers.join(", ")))
}

async fn assignments(State(front): State<Front>, Params(wanted): Params<Wanted>) -> Response {
    let tier = match wanted.tier.as_deref().map(|name| Tier::named(name).ok_or(name)) {
        Some(Err(name)) => return unknown_tier(name),
        Some(Ok(tier)) => Some(tier),
        None => None,
    };
    let entries: Vec<Entry> =
        front.fleet().entries().into_iter().filter(|entry| tier.is_none_or(|tier| entry.tier == tier)).collect();
    Json(json!({"total": entries.len(), "tier_filter": tier, "assignments": entries})).into_response()
}

async fn port_map(State(front): State<Front>) -> Json<Value> {
    let ports: Map<String, Value> =
        front.fleet().entries().into_iter().map(|entry| (entry.name, json!(entry.port))).collect();
    Json(json!({"total": ports.len(), "port_map": ports}))
}

async fn port(State(front): State<Front>, Path(name): Path<String>) -> Response {
    match front.fleet().entry(&name) {
        Some(entry) => Json(json!(entry)).into_response(),
        None => refused(&HealError::Unknown(name.chars().take(64).collect())),
    }
}

async fn by_tier(State(front): State<Front>, Path(name): Path<String>) -> Response {
    let Some(tier) = Tier::named(&name) else { return unknown_tier(&name) };
    let kernels: Vec<Entry> = front.fleet().entries().into_iter().filter(|entry| entry.tier == tier).collect();
    let first = front.fleet().plan().first_port;
    let ports = tier.offsets().map(|offset| gavel_fleet::port_at(first, offset));
    let (low, high) = (ports.clone().min(), ports.max());
    Json(json!({"tier": tier, "port_range": [low, high], "total": kernels.len(), "kernels": kernels})).into_response()
}

/// How many are well, are not, and are not started.
#[derive(Default)]
struct Count {
    total: u64,
    healthy: u64,
    not_started: u64,
}

impl Count {
    fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        entries.fold(Self::default(), |count, entry| Self {
            total: count.total + 1,
            healthy: count.healthy + u64::from(entry.status == Status::Healthy),
            not_started: count.not_started + u64::from(entry.status == Status::NotStarted),
        })
    }

    fn told(&self, total: &'static str) -> Value {
        let unhealthy = self.total - self.healthy - self.not_started;
        json!({
            total: self.total, "healthy": self.healthy, "unhealthy": unhealthy, "not_started": self.not_started,
        })
    }
}

async fn health_check(State(front): State<Front>) -> Json<Value> {
    front.fleet().check_now().await;
    let entries = front.fleet().entries();
    let mut told = Count::of(entries.iter()).told("total_kernels");
    let of_tiers = Tier::ALL.into_iter().map(|tier| {
        let count = Count::of(entries.iter().filter(|entry| entry.tier == tier));
        (tier.name().to_owned(), count.told("total"))
    });
    told["by_tier"] = Value::Object(of_tiers.collect());
    let well = [Status::Healthy, Status::NotStarted];
    let failed: Vec<Value> = entries
        .iter()
        .filter(|entry| !well.contains(&entry.status))
        .map(|entry| json!({"component": entry.name, "port": entry.port, "status": entry.status, "detail": entry.detail}))
        .collect();
    told["failed_components"] = json!(failed);
    Json(told)
}

async fn status(State(front): State<Front>) -> Json<Value> {
    let (fleet, entries) = (front.fleet(), front.fleet().entries());
    let limits = &fleet.plan().limits;
    Json(json!({
        "status": health::overall(&entries),
        "guardian": {
            "check_every_ms": limits.check_every.as_millis(),
            "failures_max": limits.failures_max,
            "restarts_max": limits.restarts_max,
            "healing": fleet.active(),
            "reports_waiting": front.inner.reports.waiting(),
        },
        "pid": std::process::id(),
        "boot": front.inner.looked.get(),
        "kernels": entries,
    }))
}

async fn metrics(State(front): State<Front>) -> Json<Value> {
    let kernels: Map<String, Value> = front
        .fleet()
        .entries()
        .into_iter()
        .filter(|entry| entry.status != Status::NotStarted)
        .map(|entry| {
            let numbers = json!({
                "healthy": entry.status == Status::Healthy, "failures": entry.failures, "restarts": entry.restarts,
                "metrics_url": entry.metrics_url,
            });
            (entry.name, numbers)
        })
        .collect();
    let history = front.fleet().history(None);
    let healed = history.iter().filter(|healing| healing.overall_success).count();
    Json(json!({"kernels": kernels, "healings": history.len(), "healed": healed}))
}

async fn reset_failures(State(front): State<Front>, Path(name): Path<String>) -> Response {
    let done = front.carry(|fleet| async move { (fleet.reset_failures(&name).await, name) }).await;
    match done {
        Some((Ok(entry), name)) => Json(json!({"component": name, "reset": true, "entry": entry})).into_response(),
        Some((Err(why), _)) => refused(&why),
        None => Fault::broken("it broke off; the log says why").into_response(),
    }
}

//! The health of the whole.

use super::Front;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use gavel_fleet::{Entry, Status};
use serde_json::{Value, json};

/// How a fleet is: `healthy`, `degraded` while something that is not required is down, `unhealthy` while something required is.
pub(super) fn overall(entries: &[Entry]) -> &'static str {
    let down = |entry: &&Entry| !matches!(entry.status, Status::Healthy | Status::NotStarted);
    if entries.iter().filter(down).any(|entry| entry.required) {
        "unhealthy"
    } else if entries.iter().any(|entry| down(&entry)) {
        "degraded"
    } else {
        "healthy"
    }
}

pub(super) async fn system(State(front): State<Front>) -> (StatusCode, Json<Value>) {
    let mut entries = front.inner.fleet.entries();
    let status = overall(&entries);
    // The worst first: what is to be done something about.
    entries.sort_by_key(|entry| (std::cmp::Reverse(entry.status), entry.port));
    let kernels: Vec<Value> = entries
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name, "status": entry.status, "port": entry.port, "tier": entry.tier,
                "required": entry.required, "detail": entry.detail, "since": entry.since.to_string(),
            })
        })
        .collect();
    let code = if status == "unhealthy" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(json!({"status": status, "version": env!("CARGO_PKG_VERSION"), "kernels": kernels})))
}

pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "alive"}))
}

pub(super) async fn ready(State(front): State<Front>) -> (StatusCode, Json<Value>) {
    let entries = front.inner.fleet.entries();
    let waits: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.required && entry.status != Status::Healthy)
        .map(|entry| entry.name.as_str())
        .collect();
    if waits.is_empty() {
        return (StatusCode::OK, Json(json!({"status": "ready"})));
    }
    let error = format!("these kernels are required and not healthy: {}", waits.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": error})))
}

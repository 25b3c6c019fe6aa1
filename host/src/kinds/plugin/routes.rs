//! The doors of a plugin.

use super::stand::Stand;
use crate::http::error::ApiError;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use gavel_kinds::{ANY, Body, Caller, Door, Doors, Fault, OPERATING, Params, SEEING};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Events that one answer holds.
const EVENTS_MAX: usize = 1_000;

pub(super) fn doors() -> Doors<Arc<Stand>> {
    Doors::new()
        .get("/describe", describe_door(), describe)
        .get("/status", status_door(), status)
        .get("/events", history_door(), history)
        .post("/events/{name}", event_door(), event)
        .post("/reload", reload_door(), reload)
}

fn describe_door() -> Door {
    Door {
        roles: ANY,
        summary: "What the plugin is, and which events it answers, looks at and hears",
        query: &[],
        body: "",
        answer: r#"{"plugin": "prompt-guard", "version": "0.1.0", "events": {"answers": ["prompt_guard:stats"]}}"#,
    }
}

fn status_door() -> Door {
    Door {
        roles: SEEING,
        summary: "How the plugin does: instance, counts, times, and why it is not as its files are",
        query: &[],
        body: "",
        answer: r#"{"plugin": "prompt-guard", "status": {"state": "ready", "events": 1}, "broken": {}}"#,
    }
}

fn history_door() -> Door {
    Door {
        roles: SEEING,
        summary: "The latest events of the plugin's bus, the newest first",
        query: &[("limit", "how many, at most 1000; 100 if it is left out")],
        body: "",
        answer: r#"{"events": [], "total_events": 0}"#,
    }
}

fn event_door() -> Door {
    Door {
        roles: ANY,
        summary: "Ask for the plugin's answer; of an event that it only looks at, for what it lets pass",
        query: &[],
        body: r#"{"data": {"prompt": "hello"}}"#,
        answer: r#"{"event": "completion:request", "event_id": "…", "answer": {"passed": true, "data": {}}}"#,
    }
}

fn reload_door() -> Door {
    Door {
        roles: OPERATING,
        summary: "Look at the plugin's files now, and put what is there in its place",
        query: &[],
        body: "",
        answer: r#"{"plugin": "prompt-guard", "broken": {}}"#,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    data: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    #[serde(default = "hundred")]
    limit: usize,
}

fn hundred() -> usize {
    100
}

async fn describe(State(stand): State<Arc<Stand>>) -> Result<Json<Value>, Fault> {
    // It reads the manifest.
    let described = tokio::task::spawn_blocking(move || stand.describe()).await;
    described.map(Json).map_err(|why| Fault::broken(format!("the description broke off: {why}")))
}

async fn status(State(stand): State<Arc<Stand>>) -> Json<Value> {
    Json(stand.status())
}

async fn history(State(stand): State<Arc<Stand>>, Params(asked): Params<Limit>) -> Result<Json<Value>, Fault> {
    match asked.limit {
        1..=EVENTS_MAX => Ok(Json(stand.history(asked.limit))),
        limit => Err(Fault::unreadable(format!("limit={limit}: give 1 to {EVENTS_MAX}"))),
    }
}

async fn event(
    State(stand): State<Arc<Stand>>,
    Path(name): Path<String>,
    caller: Caller,
    Body(asked): Body<Asked>,
) -> Response {
    // A task of its own: a plugin that is left half way, because a caller hung up, would have to be made anew.
    let event = name.clone();
    let asked = tokio::spawn(async move { stand.ask(&event, asked.data, &caller).await }).await;
    match asked {
        Ok(Ok(reply)) => {
            Json(json!({"event": name, "event_id": reply.event_id, "answer": reply.answer})).into_response()
        }
        Ok(Err(why)) => ApiError::from(why).into_response(),
        Err(_) => Fault::broken("the event broke off by a fault of the host").into_response(),
    }
}

async fn reload(State(stand): State<Arc<Stand>>) -> Result<Json<Value>, Fault> {
    let done = tokio::spawn(async move { stand.reload().await }).await;
    let done = done.map_err(|_| Fault::broken("the reload broke off by a fault of the host"))?;
    done.map(Json).map_err(Fault::not_accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_json() {
        let doors = [describe_door(), status_door(), history_door(), event_door(), reload_door()];
        for example in doors.iter().flat_map(|door| [door.body, door.answer]).filter(|text| !text.is_empty()) {
            serde_json::from_str::<Value>(example).unwrap_or_else(|why| panic!("{example}: {why}"));
        }
    }
}

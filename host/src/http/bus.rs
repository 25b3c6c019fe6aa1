//! The routes of the event bus: its plugins, its history, a live stream, and a way in for events.
//!
//! Seeing needs the role operator or auditor; sending an event the role agent or operator, and one of `system:` the role
//! operator, because those end the host or load code. The sender is the key, whatever the body says.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::kasmina::asked;
use super::policies::read_object;
use super::routes::{Answer, SEEING};
use crate::bus::{BusHost, Tail};
use crate::config::Role;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use gavel_bus::services::About;
use gavel_bus::{Draft, Event, Pattern, PluginStatus, Sender, any_pattern, namespace};
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// Events of the history whose number was not asked for, and the most.
const EVENTS: usize = 100;
const EVENTS_MAX: usize = 10_000;

/// The most patterns of one question.
const PATTERNS_MAX: usize = 64;

/// A stream with nothing to say says so, or middlemen would close it.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Where events are sent.
pub(super) const EVENTS_ROUTE: &str = "/bus/events";

/// What it takes beside the handler of an event until the answer is out: the plugins before it, the mailbox, the body.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// How long the answer to an event may take over HTTP, in milliseconds: longer than the bus lets its handler take.
pub(super) fn answer_time_ms(bus: &BusHost) -> u64 {
    let time = bus.bus().options().event_timeout.saturating_add(ANSWER_MARGIN);
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// All routes below `/bus`.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/bus/status", get(status))
        .route("/bus/plugins", get(plugins))
        .route("/bus/plugins/{name}", get(plugin))
        .route("/bus/plugins/{name}/reload", post(reload))
        .route("/bus/history", get(history))
        .route(EVENTS_ROUTE, post(send))
        .route("/bus/tail", get(tail))
}

/// The bus, for a caller that has one of `roles` for the kernel that records its state.
fn reached(app: &App, caller: &Caller, roles: &[Role]) -> Answer<Arc<BusHost>> {
    caller.require(roles, None)?;
    let bus = Arc::clone(app.bus()?);
    caller.require(roles, Some(bus.kernel()))?;
    Ok(bus)
}

async fn status(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Json<Value>> {
    Ok(Json(reached(&app, &caller, &SEEING)?.status()))
}

async fn plugins(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Json<Value>> {
    let bus = reached(&app, &caller, &SEEING)?;
    let plugins: Vec<Value> = bus.bus().plugins().iter().map(about).collect();
    Ok(Json(json!({"plugins": plugins})))
}

async fn plugin(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let bus = reached(&app, &caller, &SEEING)?;
    let found = bus.bus().plugins().into_iter().find(|plugin| plugin.metadata.name == name);
    found.map(|plugin| Json(about(&plugin))).ok_or_else(|| absent(&name))
}

fn about(plugin: &PluginStatus) -> Value {
    let mut about = plugin.shown();
    about["name"] = json!(plugin.metadata.name);
    about
}

fn absent(name: &str) -> ApiError {
    ApiError::Absent(format!("there is no plugin '{}'", name.chars().take(64).collect::<String>()))
}

async fn reload(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let bus = reached(&app, &caller, &[Role::Operator])?;
    if !bus.bus().plugins().iter().any(|plugin| plugin.metadata.name == name) {
        return Err(absent(&name));
    }
    tracing::info!(plugin = name, caller = caller.name(), "a plugin is to be loaded anew");
    let (wishes, plugin) = (Arc::clone(bus.wishes()), name.clone());
    // It goes on even if the caller goes away: half of it would be a plugin that is neither old nor new.
    let done = tokio::spawn(async move { wishes.reload(&plugin).await }).await;
    done.map_err(|why| ApiError::Unrecorded(why.to_string()))?.map_err(ApiError::NotAccepted)?;
    Ok(Json(json!({"status": "reloaded", "plugin": name})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    limit: Option<usize>,
    #[serde(default)]
    pattern: String,
    since: Option<f64>,
    until: Option<f64>,
    client_id: Option<String>,
    #[serde(default = "yes")]
    reverse: bool,
}

fn yes() -> bool {
    true
}

/// Patterns with commas between them, which no name of an event can have in it.
fn patterns(text: &str) -> Answer<Vec<Pattern>> {
    let texts: Vec<&str> = text.split(',').filter(|text| !text.is_empty()).collect();
    if texts.len() > PATTERNS_MAX {
        return Err(ApiError::Unreadable(format!("{} patterns: give at most {PATTERNS_MAX}", texts.len())));
    }
    texts.into_iter().map(|text| Pattern::parse(text).map_err(ApiError::Unreadable)).collect()
}

async fn history(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    past: Result<Query<Past>, QueryRejection>,
) -> Answer<Json<Value>> {
    let bus = reached(&app, &caller, &SEEING)?;
    let Past { limit, pattern, since, until, client_id, reverse } = asked(past)?;
    let limit = limit.unwrap_or(EVENTS);
    if limit > EVENTS_MAX {
        return Err(ApiError::Unreadable(format!("limit={limit}: at most {EVENTS_MAX} events are given")));
    }
    let query = gavel_bus::Query {
        limit,
        patterns: patterns(&pattern)?,
        client_id,
        since_ms: since.map(milliseconds),
        until_ms: until.map(milliseconds),
        newest_first: reverse,
    };
    let (events, total) = bus.bus().history(&query);
    let events: Vec<Value> = events.iter().map(|event| event.shown()).collect();
    Ok(Json(json!({"events": events, "count": events.len(), "total_events": total})))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what is no time is cut off")]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1e3) as u64
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    event: String,
    #[serde(default)]
    data: Value,
    correlation_id: Option<String>,
    client_id: Option<String>,
    /// Whether the answer is waited for.
    #[serde(default = "yes")]
    wait: bool,
    #[serde(default)]
    fan_out: bool,
}

async fn send(State(app): State<App>, Extension(caller): Extension<Caller>, body: Body) -> Answer<Response> {
    let bus = reached(&app, &caller, &[Role::Agent, Role::Operator])?;
    let Sent { event, data, correlation_id, client_id, wait, fan_out } = read_object(&app, body).await?;
    if namespace(&event) == "system" {
        reached(&app, &caller, &[Role::Operator])?;
    }
    let sender = Sender::Client(format!("http:{}", caller.name()).into());
    let draft = Draft { name: event, data, correlation_id, client_id, fan_out };
    let bus = bus.bus().clone();
    // A task of its own: a plugin that is left half way, because a caller hung up, would have to be made anew.
    let sent = tokio::spawn(async move {
        if wait {
            let reply = bus.dispatch(sender, draft).await?;
            let said = json!({
                "answer": reply.answer, "correlation_id": reply.correlation_id, "event_id": reply.event_id,
            });
            return Ok((StatusCode::OK, said));
        }
        bus.emit(sender, draft).await.map(|emitted| (StatusCode::ACCEPTED, Value::Object(emitted.answer())))
    });
    let sent: Result<(StatusCode, Value), gavel_bus::Error> =
        sent.await.map_err(|_| ApiError::Unrecorded("the event broke off by a fault of the host".into()))?;
    let (status, said) = sent?;
    Ok((status, Json(said)).into_response())
}

impl From<gavel_bus::Error> for ApiError {
    fn from(why: gavel_bus::Error) -> Self {
        use gavel_bus::Error;
        let status = match &why {
            Error::NoHandler(_) => StatusCode::NOT_FOUND,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::PluginFailed { .. } => StatusCode::BAD_GATEWAY,
            Error::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            // A service that ends its work before the bus would says so by the code.
            Error::Refused { .. } if why.code() == Some("TIMEOUT") => StatusCode::GATEWAY_TIMEOUT,
            Error::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::Bus { status: status.as_u16(), message: why.to_string(), code: why.code().map(str::to_owned) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    pattern: String,
}

async fn tail(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Response> {
    let bus = reached(&app, &caller, &SEEING)?;
    let patterns = patterns(&asked(wanted)?.pattern)?;
    let tail = bus.tail().map_err(ApiError::Unavailable)?;
    let (pieces, taken) = mpsc::channel(1);
    tokio::spawn(tell(tail, patterns, pieces));
    let pieces = futures_util::stream::unfold(taken, |mut taken| async move {
        Some((Ok::<_, Infallible>(taken.recv().await?), taken))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Tell a listener what happens, until it goes away, the server ends, or it takes nothing for so long that somebody else
/// may have its place.
async fn tell(mut tail: Tail, patterns: Vec<Pattern>, pieces: mpsc::Sender<Bytes>) {
    // So that who asks knows that it listens from now on.
    let mut piece = ": listening\n\n".to_owned();
    while let Ok(Ok(())) = tokio::time::timeout(tail.stall, pieces.send(Bytes::from(piece))).await {
        let next = tokio::select! {
            next = next(&mut tail, &patterns) => next,
            () = pieces.closed() => return,
        };
        let Some(next) = next else { return };
        piece = next;
    }
}

/// What the stream says next; `None` at its end.
async fn next(tail: &mut Tail, patterns: &[Pattern]) -> Option<String> {
    let wanted = |event: &Event| patterns.is_empty() || any_pattern(patterns, &event.name);
    let quiet = tokio::time::sleep(SIGN_OF_LIFE);
    tokio::pin!(quiet);
    loop {
        let heard = tokio::select! {
            heard = tail.events.recv() => heard,
            () = &mut quiet => return Some(": alive\n\n".to_owned()),
            () = tail.ending.cancelled() => return None,
        };
        match heard {
            Ok(event) if wanted(&event) => {
                return Some(format!("id: {}\nevent: event\ndata: {}\n\n", event.event_id, event.shown()));
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => {
                return Some(format!("event: missed\ndata: {{\"missed\":{missed}}}\n\n"));
            }
            Err(RecvError::Closed) => return None,
        }
    }
}

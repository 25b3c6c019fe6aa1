//! What is around every kernel: who calls, how much, how long, and how it is.

use crate::caller::Caller;
use crate::fault::Fault;
use crate::kind::{Face, Kernel, Well};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Finds out who sent these headers.
pub type Identify = Arc<dyn Fn(&HeaderMap) -> Result<Caller, Fault> + Send + Sync>;

/// How much a kernel takes.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Bytes of a body.
    pub body_bytes_max: usize,
    /// Requests at the same time.
    pub in_flight_max: usize,
    /// How long the beginning of an answer may take. What streams may go on for longer.
    pub timeout: Duration,
}

struct Around {
    name: String,
    identify: Identify,
    room: Arc<Semaphore>,
    bounds: Bounds,
    well: Well,
    metrics: Registry,
    document: Value,
}

/// A kernel as it is served, and what it does last.
pub fn router(name: &str, kernel: Kernel, identify: Identify, bounds: Bounds) -> (Router, BoxFuture<'static, ()>) {
    let Kernel { face, well, metrics, finish } = kernel;
    let (routes, paths) = match face {
        Face::Whole(router) => return (router, finish),
        Face::Doors { router, document } => (router, document),
    };
    let limit = bounds.body_bytes_max;
    let around = Arc::new(Around {
        name: name.to_owned(),
        identify,
        room: Arc::new(Semaphore::new(bounds.in_flight_max)),
        bounds,
        well,
        metrics,
        document: document(name, &paths),
    });
    let metrics = Router::new().route("/metrics", get(measured)).with_state(Arc::clone(&around));
    let guarded = routes
        .merge(metrics)
        .fallback(|| async { Fault::absent("Not found") })
        .method_not_allowed_fallback(|| async {
            Fault { status: StatusCode::METHOD_NOT_ALLOWED, message: "Method not allowed".into(), retry_after_s: None }
        })
        .layer(DefaultBodyLimit::max(limit))
        .layer(from_fn_with_state(Arc::clone(&around), admit));
    // Whether it is well must also be known of a kernel that is busy.
    let open = Router::new().route("/health", get(health)).route("/openapi.json", get(openapi));
    (open.with_state(around).merge(guarded), finish)
}

/// The OpenAPI document of a kernel's routes.
#[must_use]
pub fn document(name: &str, paths: &Map<String, Value>) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {"title": format!("Gavel: {name}"), "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
    })
}

async fn admit(State(around): State<Arc<Around>>, mut request: Request, next: Next) -> Response {
    let caller = match (around.identify)(request.headers()) {
        Ok(caller) => caller,
        Err(fault) => return fault.into_response(),
    };
    let Ok(_room) = Arc::clone(&around.room).try_acquire_owned() else {
        let most = around.bounds.in_flight_max;
        return Fault::unavailable(format!("{most} requests are being served already")).into_response();
    };
    request.extensions_mut().insert(caller);
    let limit = around.bounds.timeout;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Fault::broken(format!("no answer within {} ms", limit.as_millis())).into_response(),
    }
}

async fn health(State(around): State<Arc<Around>>) -> Response {
    let (code, status, details) = match (around.well)() {
        Ok(details) => (StatusCode::OK, "healthy", details),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", Map::from_iter([("error".to_owned(), json!(why))])),
    };
    let mut body = json!({"status": status, "kernel": around.name, "pid": std::process::id()});
    if let Some(body) = body.as_object_mut() {
        body.extend(details);
    }
    (code, Json(body)).into_response()
}

async fn openapi(State(around): State<Arc<Around>>) -> Json<Value> {
    Json(around.document.clone())
}

async fn measured(State(around): State<Arc<Around>>, caller: Caller) -> Response {
    if let Err(fault) = caller.require(crate::SEEING) {
        return fault.into_response();
    }
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &around.metrics).is_err() {
        return Fault::broken("the metrics cannot be written").into_response();
    }
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

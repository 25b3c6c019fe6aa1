//! The routes, and what each answers.

use super::auth::Caller;
use super::error::ApiError;
use super::{App, evidence, guard, operations, policies};
use crate::config::Role;
use crate::decide::{Principal, Refused};
use crate::kernel::Kernel;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use gavel_kernel::{Receipt, Request, json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Every route that there is: method and path. `/openapi.json` describes exactly these; a test
/// compares.
pub const ROUTES: [(&str, &str); 52] = [
    ("get", "/"),
    ("get", "/health"),
    ("get", "/status"),
    ("get", "/evidence"),
    ("get", "/policy"),
    ("post", "/submit"),
    ("post", "/decide"),
    ("post", "/halt"),
    ("get", "/policies"),
    ("post", "/policies/components"),
    ("post", "/policies/stage"),
    ("post", "/policies/try"),
    ("post", "/policies/promote"),
    ("post", "/policies/rollback"),
    ("post", "/policies/discard"),
    ("post", "/policies/release"),
    ("get", "/policies/differences"),
    ("get", "/policies/history"),
    ("get", "/health/check"),
    ("get", "/investigate"),
    ("post", "/halt/emergency"),
    ("post", "/evidence/preserve"),
    ("post", "/evidence/rotate"),
    ("post", "/restart"),
    ("get", "/kernels"),
    ("get", "/kernels/{id}"),
    ("get", "/kernels/{id}/health"),
    ("get", "/kernels/{id}/status"),
    ("get", "/kernels/{id}/evidence"),
    ("get", "/kernels/{id}/policy"),
    ("post", "/kernels/{id}/submit"),
    ("post", "/kernels/{id}/decide"),
    ("post", "/kernels/{id}/halt"),
    ("get", "/kernels/{id}/policies"),
    ("post", "/kernels/{id}/policies/components"),
    ("post", "/kernels/{id}/policies/stage"),
    ("post", "/kernels/{id}/policies/try"),
    ("post", "/kernels/{id}/policies/promote"),
    ("post", "/kernels/{id}/policies/rollback"),
    ("post", "/kernels/{id}/policies/discard"),
    ("post", "/kernels/{id}/policies/release"),
    ("get", "/kernels/{id}/policies/differences"),
    ("get", "/kernels/{id}/policies/history"),
    ("get", "/kernels/{id}/health/check"),
    ("get", "/kernels/{id}/investigate"),
    ("post", "/kernels/{id}/halt/emergency"),
    ("post", "/kernels/{id}/evidence/preserve"),
    ("post", "/kernels/{id}/evidence/rotate"),
    ("get", "/metrics"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/openapi.json"),
];

pub(super) const SEEING: [Role; 2] = [Role::Operator, Role::Auditor];
const ANY: [Role; 3] = [Role::Agent, Role::Operator, Role::Auditor];

/// The whole API, to be served or mounted.
pub fn router(app: App) -> Router {
    let of_a_kernel = Router::new()
        .route("/", get(name))
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/evidence", get(export))
        .route("/policy", get(policy))
        .route("/submit", post(submit))
        .route("/decide", post(decide))
        .route("/halt", post(halt))
        .merge(policies::router())
        .merge(operations::router());
    Router::new()
        .merge(of_a_kernel.clone())
        .nest("/kernels/{id}", of_a_kernel)
        .route("/kernels", get(list))
        .route("/restart", post(operations::restart))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/openapi.json", get(openapi))
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::Method })
        .layer(axum::middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

/// The kernel of a path; `None` on the routes that mean the first one.
pub(super) struct Id(pub(super) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Named {
            id: Option<String>,
        }
        // What is not UTF-8 names no kernel.
        let named = Path::<Named>::from_request_parts(parts, state).await.map_err(|_| ApiError::NotFound)?;
        Ok(Self(named.0.id))
    }
}

pub(super) type Answer<T> = Result<T, ApiError>;

async fn name(State(app): State<App>, Id(id): Id) -> Answer<Json<Value>> {
    let kernel = app.kernel(id.as_deref())?;
    Ok(Json(json!({"name": "gavel", "version": env!("CARGO_PKG_VERSION"), "kernel_id": kernel.id()})))
}

async fn health(State(app): State<App>, Id(id): Id) -> Answer<Response> {
    let kernel = app.kernel(id.as_deref())?;
    let state = kernel.state();
    let (code, status) = match (state, kernel.poisoned()) {
        (_, Some(_)) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (gavel_kernel::State::Halted, None) => (StatusCode::SERVICE_UNAVAILABLE, "halted"),
        _ => (StatusCode::OK, "healthy"),
    };
    Ok((code, Json(json!({"status": status, "kernel_state": state}))).into_response())
}

async fn status(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Value>> {
    let kernel = permitted(&app, &caller, id.as_deref(), &ANY)?;
    Ok(Json(kernel.status()))
}

async fn policy(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Value>> {
    let kernel = permitted(&app, &caller, id.as_deref(), &ANY)?;
    Ok(Json(kernel.policy()))
}

async fn export(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Response> {
    let kernel = permitted(&app, &caller, id.as_deref(), &SEEING)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], evidence::stream(kernel)).into_response())
}

/// A receipt as `/submit` and `/decide` answer it: with the tool's result also under `result`,
/// where the seeds' clients look.
#[derive(Serialize)]
struct Submitted {
    #[serde(flatten)]
    receipt: Receipt,
    result: Option<Value>,
}

async fn submit(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Submitted>> {
    let (kernel, request) = asked(&app, &caller, id.as_deref(), body).await?;
    answer(&app, kernel.submit(request, principal(&caller)).await)
}

async fn decide(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Submitted>> {
    let (kernel, request) = asked(&app, &caller, id.as_deref(), body).await?;
    answer(&app, kernel.decide(request, principal(&caller)).await)
}

/// What an agent asks, and of which kernel.
async fn asked<'a>(app: &'a App, caller: &Caller, id: Option<&str>, body: Body) -> Answer<(&'a Arc<Kernel>, Request)> {
    let kernel = permitted(app, caller, id, &[Role::Agent])?;
    Ok((kernel, read_request(app, kernel, body).await?))
}

fn answer(app: &App, judged: Result<Receipt, Refused>) -> Answer<Json<Submitted>> {
    let receipt = judged.map_err(|why| app.refused(why))?;
    Ok(Json(Submitted { result: receipt.tool_result.clone(), receipt }))
}

async fn halt(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let kernel = permitted(&app, &caller, id.as_deref(), &[Role::Operator])?;
    let reason = read_reason(&app, body).await.inspect_err(|_| app.count_unreadable())?;
    let receipt = kernel.halt(&reason, &principal(&caller)).await.map_err(|why| app.refused(why))?;
    tracing::warn!(kernel = kernel.id(), reason, caller = caller.name(), "kernel halted");
    Ok(Json(json!({
        "status": "halted",
        "kernel_state": receipt.state_to,
        "kernel_id": kernel.id(),
        "reason": reason,
        "evidence_hash": receipt.evidence_hash,
        "ts_ms": receipt.ts_ms,
    })))
}

async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Json<Value>> {
    caller.require(&ANY, None)?;
    let reachable = app.kernels().filter(|kernel| caller.require(&ANY, Some(kernel.id())).is_ok());
    let kernels: Vec<Value> = reachable
        .map(|kernel| json!({"kernel_id": kernel.id(), "variant": kernel.variant(), "state": kernel.state()}))
        .collect();
    Ok(Json(json!({"kernels": kernels})))
}

async fn metrics(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Response> {
    caller.require(&SEEING, None)?;
    app.kernels().for_each(|kernel| kernel.observe());
    let text = app.inner.metrics.text();
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}

async fn livez() -> Json<Value> {
    Json(json!({"status": "alive"}))
}

async fn readyz(State(app): State<App>) -> Answer<Json<Value>> {
    match app.not_ready() {
        None => Ok(Json(json!({"status": "ready"}))),
        Some(why) => Err(ApiError::Unavailable(why)),
    }
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

pub(super) fn permitted<'a>(
    app: &'a App,
    caller: &Caller,
    id: Option<&str>,
    roles: &[Role],
) -> Answer<&'a Arc<Kernel>> {
    caller.require(roles, None)?;
    let kernel = app.kernel(id)?;
    caller.require(roles, Some(kernel.id()))?;
    Ok(kernel)
}

fn principal(caller: &Caller) -> Principal {
    Principal { name: caller.name().to_owned(), actor: caller.actor().map(str::to_owned) }
}

/// Read a body as a request. What cannot be read is counted and leaves no record.
async fn read_request(app: &App, kernel: &Kernel, body: Body) -> Answer<Request> {
    let read = async {
        let bytes = read_body(body, app.inner.limits.max_body_bytes, "limits.max_body_bytes").await?;
        let value = json::parse(&bytes)
            .map_err(|why| ApiError::Unreadable(format!("the body is not a JSON request: {why}")))?;
        Request::from_value(value, kernel.clock.now_ms()).map_err(|why| ApiError::Unreadable(why.to_string()))
    };
    read.await.inspect_err(|_| app.count_unreadable())
}

/// A body of at most `limit` bytes; `name` is the limit's in the configuration.
pub(super) async fn read_body(body: Body, limit: usize, name: &str) -> Answer<Bytes> {
    let too_large = || ApiError::TooLarge(format!("the body is larger than {limit} bytes ({name})"));
    // A body that says that it is too large is not waited for.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    axum::body::to_bytes(body, limit).await.map_err(|why| {
        let too_long = std::error::Error::source(&why)
            .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        if too_long { too_large() } else { ApiError::Unreadable(format!("the body did not arrive whole: {why}")) }
    })
}

/// The seeds' `kernel.halt()` gives no reason: an empty body or object is accepted.
async fn read_reason(app: &App, body: Body) -> Answer<String> {
    let bytes = read_body(body, app.inner.limits.max_body_bytes, "limits.max_body_bytes").await?;
    if bytes.is_empty() {
        return Ok("halted by operator".into());
    }
    let value = json::parse(&bytes).map_err(|why| ApiError::Unreadable(format!("the body is not JSON: {why}")))?;
    match (value.is_object(), value.get("reason")) {
        (true, None | Some(Value::Null)) => Ok("halted by operator".into()),
        (true, Some(Value::String(reason))) if !reason.trim().is_empty() => Ok(reason.clone()),
        _ => Err(ApiError::Unreadable("the body must be an object whose `reason` is a text that is not empty".into())),
    }
}

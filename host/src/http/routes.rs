//! The routes, and what each answers.

use super::auth::Caller;
use super::error::ApiError;
use super::{
    App, approvals, batch, bus, evidence, fleet, guard, kasmina, operations, policies, prove, records, rollout, tlog,
    upkeep,
};
use crate::config::Role;
use crate::decide::{Principal, Refused};
use crate::evidence::Export;
use crate::fleet::Slot;
use crate::kernel::Kernel;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, NestedPath, Path, Query, State};
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
pub const ROUTES: &[(&str, &str)] = &[
    ("get", "/"),
    ("get", "/health"),
    ("get", "/status"),
    ("get", "/evidence"),
    ("get", "/policy"),
    ("post", "/submit"),
    ("post", "/submit/batch"),
    ("post", "/decide"),
    ("post", "/halt"),
    ("post", "/policy"),
    ("post", "/replace"),
    ("post", "/rollback"),
    ("post", "/recover"),
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
    ("get", "/records"),
    ("get", "/records/{index}"),
    ("get", "/prove"),
    ("get", "/prove/{request_id}"),
    ("get", "/consistency"),
    ("get", "/checkpoint"),
    ("get", "/checkpoint/key"),
    ("post", "/checkpoint/rotate"),
    ("get", "/tile/entries/{path}"),
    ("get", "/tile/{level}/{path}"),
    ("get", "/health/check"),
    ("get", "/investigate"),
    ("post", "/halt/emergency"),
    ("post", "/evidence/preserve"),
    ("post", "/evidence/rotate"),
    ("post", "/restart"),
    ("get", "/archive"),
    ("post", "/archive"),
    ("get", "/retention"),
    ("post", "/retention"),
    ("get", "/approvals"),
    ("get", "/approvals/{approval}"),
    ("post", "/approvals/{approval}/approve"),
    ("post", "/approvals/{approval}/reject"),
    ("post", "/approvals/{approval}/decide"),
    ("get", "/kernels"),
    ("post", "/kernels"),
    ("get", "/kernels/{id}"),
    ("get", "/kernels/{id}/health"),
    ("get", "/kernels/{id}/status"),
    ("get", "/kernels/{id}/evidence"),
    ("get", "/kernels/{id}/policy"),
    ("post", "/kernels/{id}/submit"),
    ("post", "/kernels/{id}/submit/batch"),
    ("post", "/kernels/{id}/decide"),
    ("post", "/kernels/{id}/halt"),
    ("post", "/kernels/{id}/policy"),
    ("post", "/kernels/{id}/replace"),
    ("post", "/kernels/{id}/rollback"),
    ("post", "/kernels/{id}/recover"),
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
    ("get", "/kernels/{id}/records"),
    ("get", "/kernels/{id}/records/{index}"),
    ("get", "/kernels/{id}/prove"),
    ("get", "/kernels/{id}/prove/{request_id}"),
    ("get", "/kernels/{id}/consistency"),
    ("get", "/kernels/{id}/checkpoint"),
    ("get", "/kernels/{id}/checkpoint/key"),
    ("post", "/kernels/{id}/checkpoint/rotate"),
    ("get", "/kernels/{id}/tile/entries/{path}"),
    ("get", "/kernels/{id}/tile/{level}/{path}"),
    ("get", "/kernels/{id}/health/check"),
    ("get", "/kernels/{id}/investigate"),
    ("post", "/kernels/{id}/halt/emergency"),
    ("post", "/kernels/{id}/evidence/preserve"),
    ("post", "/kernels/{id}/evidence/rotate"),
    ("get", "/incidents"),
    ("post", "/incidents"),
    ("post", "/incidents/{incident}/resolve"),
    ("get", "/kernels/{id}/archive"),
    ("post", "/kernels/{id}/archive"),
    ("get", "/kernels/{id}/retention"),
    ("post", "/kernels/{id}/retention"),
    ("get", "/kernels/{id}/approvals"),
    ("get", "/kernels/{id}/approvals/{approval}"),
    ("post", "/kernels/{id}/approvals/{approval}/approve"),
    ("post", "/kernels/{id}/approvals/{approval}/reject"),
    ("post", "/kernels/{id}/approvals/{approval}/decide"),
    ("get", "/kasmina/layers"),
    ("post", "/kasmina/layers"),
    ("get", "/kasmina/layers/{layer}"),
    ("delete", "/kasmina/layers/{layer}"),
    ("get", "/kasmina/layers/{layer}/seeds"),
    ("get", "/kasmina/layers/{layer}/seeds/{seed}"),
    ("post", "/kasmina/layers/{layer}/forward"),
    ("post", "/kasmina/layers/{layer}/backward"),
    ("post", "/kasmina/layers/{layer}/epoch"),
    ("post", "/kasmina/layers/{layer}/commands"),
    ("get", "/kasmina/layers/{layer}/telemetry"),
    ("get", "/kasmina/layers/{layer}/checkpoint"),
    ("post", "/kasmina/layers/{layer}/checkpoint"),
    ("get", "/kasmina/blueprints"),
    ("post", "/kasmina/blueprints"),
    ("get", "/kasmina/strategies"),
    ("get", "/kasmina/rollout"),
    ("put", "/kasmina/rollout"),
    ("post", "/kasmina/rollout/promote"),
    ("post", "/kasmina/rollout/revert"),
    ("get", "/kasmina/models/{model}"),
    ("post", "/kasmina/models/{model}/forward"),
    ("post", "/kasmina/models/{model}/metric"),
    ("get", "/kasmina/events"),
    ("get", "/kasmina/events/stream"),
    ("get", "/kasmina/payloads/{digest}"),
    ("get", "/bus/status"),
    ("get", "/bus/plugins"),
    ("get", "/bus/plugins/{name}"),
    ("post", "/bus/plugins/{name}/reload"),
    ("get", "/bus/history"),
    ("post", "/bus/events"),
    ("get", "/bus/tail"),
    ("get", "/metrics"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/openapi.json"),
    ("get", "/verify.html"),
];

pub(super) const SEEING: [Role; 2] = [Role::Operator, Role::Auditor];
pub(super) const ANY: [Role; 3] = [Role::Agent, Role::Operator, Role::Auditor];

/// The whole API, to be served or mounted.
pub fn router(app: App) -> Router {
    let of_a_kernel = Router::new()
        .route("/", get(name))
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/evidence", get(export))
        .route("/policy", get(policy))
        .route("/submit", post(submit))
        .route("/submit/batch", post(batch::submit))
        .route("/decide", post(decide))
        .route("/halt", post(halt))
        .merge(policies::router())
        .merge(operations::router())
        .merge(fleet::of_a_kernel())
        .merge(records::router())
        .merge(prove::router())
        .merge(tlog::router())
        .merge(upkeep::router())
        .merge(approvals::router());
    Router::new()
        .merge(of_a_kernel.clone())
        .nest("/kernels/{id}", of_a_kernel)
        .route("/kernels", get(list).post(fleet::add))
        .route("/restart", post(operations::restart))
        .merge(fleet::router())
        .merge(kasmina::router())
        .merge(rollout::router())
        .merge(bus::router())
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/openapi.json", get(openapi))
        .route("/verify.html", get(verifier))
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
    let kernel = app.slot(id.as_deref())?.kernel();
    Ok(Json(json!({"name": "gavel", "version": env!("CARGO_PKG_VERSION"), "kernel_id": kernel.id()})))
}

async fn health(State(app): State<App>, Id(id): Id) -> Answer<Response> {
    let kernel = app.slot(id.as_deref())?.kernel();
    let state = kernel.state();
    let (code, status) = match (state, kernel.poisoned()) {
        (_, Some(_)) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (gavel_kernel::State::Halted, None) => (StatusCode::SERVICE_UNAVAILABLE, "halted"),
        _ => (StatusCode::OK, "healthy"),
    };
    Ok((code, Json(json!({"status": status, "kernel_state": state}))).into_response())
}

async fn status(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Value>> {
    let slot = permitted(&app, &caller, id.as_deref(), &ANY)?;
    Ok(Json(app.inner.fleet.status(&slot)))
}

async fn policy(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Value>> {
    Ok(Json(permitted(&app, &caller, id.as_deref(), &ANY)?.kernel().policy()))
}

/// Which evidence is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    records: bool,
    from: Option<u64>,
    to: Option<u64>,
}

async fn export(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Response> {
    let kernel = permitted(&app, &caller, id.as_deref(), &SEEING)?.kernel();
    let Query(Wanted { records, from, to }) = wanted.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let export = match (records, from, to) {
        (true, from, to) => Export::with_records(&kernel, from, to),
        (false, None, None) => Ok(Export::entries(&kernel)),
        (false, ..) => Err("`from` and `to` name records: they need records=true".to_owned()),
    };
    let export = export.map_err(ApiError::Unreadable)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], evidence::stream(&kernel, export)).into_response())
}

/// A receipt as `/submit` and `/decide` answer it: with the tool's result also under `result`,
/// where the seeds' clients look.
#[derive(Serialize)]
pub(super) struct Submitted {
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
    let (slot, request) = asked(&app, &caller, id.as_deref(), body).await?;
    answer(&app, slot.submit(request, principal(&caller)).await)
}

async fn decide(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Submitted>> {
    let (slot, request) = asked(&app, &caller, id.as_deref(), body).await?;
    answer(&app, slot.decide(request, principal(&caller)).await)
}

/// What an agent asks, and under which name. Which kernel answers is decided when the body has come.
async fn asked(app: &App, caller: &Caller, id: Option<&str>, body: Body) -> Answer<(Arc<Slot>, Request)> {
    let slot = permitted(app, caller, id, &[Role::Agent])?;
    let request = read_request(app, &slot.kernel(), body).await?;
    Ok((slot, request))
}

fn answer(app: &App, judged: Result<Receipt, Refused>) -> Answer<Json<Submitted>> {
    judged.map(|receipt| Json(receipt.into())).map_err(|why| app.refused(why))
}

impl From<Receipt> for Submitted {
    fn from(receipt: Receipt) -> Self {
        Self { result: receipt.tool_result.clone(), receipt }
    }
}

async fn halt(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let slot = permitted(&app, &caller, id.as_deref(), &[Role::Operator])?;
    let reason = read_reason(&app, body).await.inspect_err(|_| app.count_unreadable())?;
    let (kernel, receipt) = slot.halt(&reason, &principal(&caller)).await.map_err(|why| app.refused(why))?;
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
    let fleet = &app.inner.fleet;
    let slots = fleet.slots();
    let reachable = slots.iter().filter(|slot| caller.require(&ANY, Some(slot.name())).is_ok());
    let kernels: Vec<Value> = reachable.map(|slot| fleet.describe(slot)).collect();
    Ok(Json(json!({"kernels": kernels})))
}

async fn metrics(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Response> {
    caller.require(&SEEING, None)?;
    app.inner.fleet.kernels().iter().for_each(|kernel| kernel.observe());
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

/// The document counts its paths from where the API is mounted, and says where that is.
async fn openapi(prefix: Option<Extension<NestedPath>>) -> Response {
    let document = include_str!("openapi.json");
    let document = match prefix {
        None => document.to_owned(),
        Some(Extension(prefix)) => {
            let servers = json!([{"url": prefix.as_str().trim_end_matches('/')}]);
            document.replacen('{', &format!("{{\n \"servers\": {servers},"), 1)
        }
    };
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// The page that verifies evidence in a browser, which is told once more that it needs nothing from anywhere.
async fn verifier() -> Response {
    let page = include_str!("../../../docs/verify.html");
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], page)
        .into_response()
}

/// The kernel's name, which the caller may reach in one of `roles`.
pub(super) fn permitted(app: &App, caller: &Caller, id: Option<&str>, roles: &[Role]) -> Answer<Arc<Slot>> {
    caller.require(roles, None)?;
    let slot = app.slot(id)?;
    caller.require(roles, Some(slot.name()))?;
    Ok(slot)
}

pub(super) fn principal(caller: &Caller) -> Principal {
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

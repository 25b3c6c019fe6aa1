//! The routes of layers. Seeing needs the role operator or auditor, commanding the role operator; a pass also the role
//! agent, for the host network that a layer is part of.
//!
//! A job that takes longer than `limits.request_timeout_ms` is answered 408 and is done all the same.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::policies::read_object;
use super::records::json_of;
use super::routes::{Answer, SEEING, read_body};
use super::{events, passes};
use crate::config::Role;
use crate::kasmina::message::PostedCommand;
use crate::kasmina::{Boundary, Definition, EpochSignals, Kasmina, KasminaError};
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use kasmina::blueprint::Blueprint;
use kasmina::observe::{Evaluation, TaskSignals};
use kasmina::state::Lifecycle;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All routes below `/kasmina`.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/kasmina/layers", get(list).post(create))
        .route("/kasmina/layers/{layer}", get(status).delete(remove))
        .route("/kasmina/layers/{layer}/seeds", get(seeds))
        .route("/kasmina/layers/{layer}/seeds/{seed}", get(seed))
        .route("/kasmina/layers/{layer}/forward", post(passes::forward))
        .route("/kasmina/layers/{layer}/backward", post(passes::backward))
        .route("/kasmina/layers/{layer}/epoch", post(end_epoch))
        .route("/kasmina/layers/{layer}/commands", post(command))
        .route("/kasmina/layers/{layer}/telemetry", get(telemetry))
        .route("/kasmina/layers/{layer}/checkpoint", get(checkpoint).post(restore))
        .route("/kasmina/blueprints", get(blueprints).post(add_blueprint))
        .route("/kasmina/strategies", get(strategies))
        .merge(events::router())
}

const SEES: &[Role] = &SEEING;
const OPERATES: &[Role] = &[Role::Operator];
const RUNS: &[Role] = &[Role::Agent, Role::Operator];

/// The layers, for a caller that has one of some roles for the kernel that governs them.
pub(super) struct Reached {
    pub(super) kasmina: Arc<Kasmina>,
    pub(super) caller: Caller,
}

impl Reached {
    fn by(app: &App, caller: Caller, roles: &[Role]) -> Answer<Self> {
        caller.require(roles, None)?;
        let kasmina = Arc::clone(app.kasmina()?);
        caller.require(roles, Some(kasmina.kernel()))?;
        Ok(Self { kasmina, caller })
    }
}

macro_rules! reached {
    ($name:ident, $roles:expr, $doc:literal) => {
        #[doc = $doc]
        pub(super) struct $name(pub(super) Reached);

        impl FromRequestParts<App> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
                // Every request passes the guard, which says who calls; whoever did not is nobody.
                let caller = parts.extensions.get::<Caller>().cloned().unwrap_or(Caller::Unknown);
                Reached::by(app, caller, $roles).map(Self)
            }
        }
    };
}

reached!(Seeing, SEES, "A caller that may see.");
reached!(Operating, OPERATES, "A caller that may command.");
reached!(Running, RUNS, "A caller that may run a pass.");

/// The layer of a path.
#[derive(Deserialize)]
pub(super) struct Place {
    pub(super) layer: String,
}

#[derive(Deserialize)]
struct SeedPlace {
    layer: String,
    seed: usize,
}

pub(super) fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Answer<T> {
    query.map(|Query(asked)| asked).map_err(|why| ApiError::Unreadable(why.body_text()))
}

async fn list(Seeing(reached): Seeing) -> Json<Value> {
    Json(reached.kasmina.list())
}

async fn create(State(app): State<App>, Operating(reached): Operating, body: Body) -> Answer<Response> {
    let definition: Definition = read_object(&app, body).await?;
    let Reached { kasmina, caller } = reached;
    let told = to_its_end(async move { kasmina.create(definition, caller.name()).await }).await?;
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

/// Half of it would be a layer that is recorded and not served: it goes on even if the caller goes away.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, KasminaError>> + Send + 'static,
) -> Answer<T> {
    let done = tokio::spawn(work).await;
    Ok(done.map_err(|_| ApiError::Unrecorded("it broke off by a fault of the host; the log says where".into()))??)
}

async fn status(Seeing(reached): Seeing, Path(Place { layer }): Path<Place>) -> Answer<Json<Value>> {
    Ok(Json(reached.kasmina.status(&layer).await?))
}

async fn remove(Operating(reached): Operating, Path(Place { layer }): Path<Place>) -> Answer<Json<Value>> {
    let (Reached { kasmina, caller }, id) = (reached, layer.clone());
    to_its_end(async move { kasmina.remove(&id, caller.name()).await }).await?;
    Ok(Json(json!({"status": "removed", "layer_id": layer})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    stage: Option<Lifecycle>,
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
}

async fn seeds(
    Seeing(reached): Seeing,
    Path(Place { layer }): Path<Place>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Which { stage, from, limit } = asked(which)?;
    Ok(Json(reached.kasmina.seeds(&layer, stage, from, limit).await?))
}

async fn seed(Seeing(reached): Seeing, place: Result<Path<SeedPlace>, PathRejection>) -> Answer<Json<Value>> {
    let Path(SeedPlace { layer, seed }) = place.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    Ok(Json(reached.kasmina.seed(&layer, seed).await?))
}

/// What the host network says at the end of an epoch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndOfEpoch {
    loss: f64,
    metric: f64,
    #[serde(default)]
    evaluations: BTreeMap<usize, Evaluation>,
}

async fn end_epoch(
    State(app): State<App>,
    Operating(reached): Operating,
    Path(Place { layer }): Path<Place>,
    body: Body,
) -> Answer<Json<Boundary>> {
    let EndOfEpoch { loss, metric, evaluations } = read_object(&app, body).await?;
    let signals = EpochSignals { task: TaskSignals { loss, metric }, evaluations };
    Ok(Json(reached.kasmina.end_epoch(&layer, signals).await?))
}

async fn command(
    State(app): State<App>,
    Operating(reached): Operating,
    Path(Place { layer }): Path<Place>,
    body: Body,
) -> Answer<Response> {
    let posted: PostedCommand = read_object(&app, body).await?;
    let posted = reached.kasmina.post(&layer, posted, reached.caller.name())?;
    let told = json!({"command_id": posted.command_id, "duplicate": posted.duplicate});
    Ok((StatusCode::ACCEPTED, Json(told)).into_response())
}

async fn telemetry(Seeing(reached): Seeing, Path(Place { layer }): Path<Place>) -> Answer<Response> {
    Ok(json_of(reached.kasmina.telemetry(&layer).await?.to_string()))
}

async fn checkpoint(Seeing(reached): Seeing, Path(Place { layer }): Path<Place>) -> Answer<Response> {
    let bytes = reached.kasmina.checkpoint(&layer).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

async fn restore(Operating(reached): Operating, Path(Place { layer }): Path<Place>, body: Body) -> Answer<Json<Value>> {
    let limit = reached.kasmina.limits().body_bytes_max;
    let bytes = read_body(body, limit, "kasmina.body_bytes_max").await?;
    Ok(Json(reached.kasmina.restore(&layer, bytes.into(), reached.caller.name()).await?))
}

async fn blueprints(Seeing(reached): Seeing) -> Answer<Json<Value>> {
    Ok(Json(json!({"blueprints": reached.kasmina.blueprints().await?})))
}

async fn add_blueprint(State(app): State<App>, Operating(reached): Operating, body: Body) -> Answer<Response> {
    let blueprint: Blueprint = read_object(&app, body).await?;
    let name = blueprint.name.clone();
    let id = reached.kasmina.add_blueprint(blueprint).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id, "name": name}))).into_response())
}

async fn strategies(Seeing(reached): Seeing) -> Answer<Json<Value>> {
    Ok(Json(json!({"strategies": reached.kasmina.strategies().await?})))
}

impl From<KasminaError> for ApiError {
    fn from(why: KasminaError) -> Self {
        let told = why.to_string();
        match why {
            KasminaError::NoLayer(_) | KasminaError::Absent(_) | KasminaError::Layer(kasmina::Error::NoSeed { .. }) => {
                Self::Absent(told)
            }
            KasminaError::Layer(kasmina::Error::Transition { .. } | kasmina::Error::Command { .. })
            | KasminaError::Exists(_)
            | KasminaError::Conflict(_)
            | KasminaError::Denied(_) => Self::Conflict(told),
            KasminaError::Layer(kasmina::Error::OutOfMemory { .. } | kasmina::Error::Device { .. })
            | KasminaError::Busy { .. }
            | KasminaError::Failed { .. }
            | KasminaError::NotKept { .. }
            | KasminaError::Payload(_) => {
                tracing::error!(why = told, "a layer could not do what it was asked for");
                Self::Unavailable(told)
            }
            KasminaError::Lost { .. } | KasminaError::Half { .. } => {
                tracing::error!(why = told, "it is not known what a layer did, or it did half of it");
                Self::Unrecorded(told)
            }
            KasminaError::Layer(_) | KasminaError::Limit(_) | KasminaError::Invalid(_) => Self::NotAccepted(told),
            KasminaError::Kernel(refused) => refused.into(),
        }
    }
}

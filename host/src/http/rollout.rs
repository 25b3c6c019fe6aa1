//! The routes of the rollout: which layer serves which model. Changing needs the role operator, and the kernel's ALLOW.

use super::App;
use super::kasmina::{Operating, Running, Seeing, asked, to_its_end};
use super::passes::Pass;
use super::policies::read_object;
use super::routes::{Answer, principal};
use crate::kasmina::rollout::Asked;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/kasmina/rollout", get(rollout).put(roll_out))
        .route("/kasmina/rollout/promote", post(promote))
        .route("/kasmina/rollout/revert", post(revert))
        .route("/kasmina/models/{model}", get(model))
        .route("/kasmina/models/{model}/forward", post(forward))
        .route("/kasmina/models/{model}/metric", post(metric))
}

async fn rollout(Seeing(reached): Seeing) -> Answer<Json<Value>> {
    Ok(Json(json!({"rollout": reached.kasmina.rollout()?})))
}

async fn roll_out(State(app): State<App>, Operating(reached): Operating, body: Body) -> Answer<Json<Value>> {
    let asked: Asked = read_object(&app, body).await?;
    let (kasmina, principal) = (reached.kasmina, principal(&reached.caller));
    let rollout = to_its_end(async move { kasmina.roll_out(asked, principal).await }).await?;
    Ok(Json(json!({"rollout": rollout})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    #[serde(default)]
    why: String,
}

async fn promote(State(app): State<App>, Operating(reached): Operating, body: Body) -> Answer<Json<Value>> {
    let Why { why } = read_object(&app, body).await?;
    let rollout = reached.kasmina.promote(&why, principal(&reached.caller)).await?;
    Ok(Json(json!({"rollout": rollout})))
}

async fn revert(State(app): State<App>, Operating(reached): Operating, body: Body) -> Answer<Json<Value>> {
    let Why { why } = read_object(&app, body).await?;
    let rollout = reached.kasmina.revert(&why, principal(&reached.caller)).await?;
    Ok(Json(json!({"rollout": rollout})))
}

#[derive(Deserialize)]
struct ModelPlace {
    model: String,
}

async fn model(Seeing(reached): Seeing, Path(ModelPlace { model }): Path<ModelPlace>) -> Answer<Json<Value>> {
    let layer = reached.kasmina.layer_of(&model)?;
    Ok(Json(json!({"model": model, "layer_id": layer})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForwardAsked {
    rows: Option<usize>,
    /// `false`: without telemetry. It counts for the rollout all the same.
    #[serde(default = "yes")]
    telemetry: bool,
}

fn yes() -> bool {
    true
}

async fn forward(
    State(app): State<App>,
    Running(reached): Running,
    Path(ModelPlace { model }): Path<ModelPlace>,
    query: Result<Query<ForwardAsked>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let ForwardAsked { rows, telemetry } = asked(query)?;
    let layer = reached.kasmina.layer_of(&model)?;
    let pass = Pass::of(reached.kasmina.width_for_model(&layer)?, &headers, rows)?;
    let ([x, _], _room) = pass.read(&app, &reached.kasmina, body, false).await?;
    let y = reached.kasmina.forward_of(&layer, x, telemetry).await?;
    pass.answer("y", y).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    metric: f64,
}

async fn metric(
    State(app): State<App>,
    Running(reached): Running,
    Path(ModelPlace { model }): Path<ModelPlace>,
    body: Body,
) -> Answer<Json<Value>> {
    let Metric { metric } = read_object(&app, body).await?;
    let layer = reached.kasmina.measure(&model, metric)?;
    Ok(Json(json!({"model": model, "layer_id": layer})))
}

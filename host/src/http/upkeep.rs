//! The routes of a kernel's upkeep: archive and retention.
//!
//! Asking for a run needs the role operator, seeing how it stands operator or auditor. A run may take longer than an
//! answer may: what is not done within [`WAIT`] is answered 202, and is seen by GET.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::routes::{Answer, Id, SEEING, permitted, read_body};
use crate::config::Role;
use crate::upkeep::{Run, Task, UpkeepError};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Json, Router};
use gavel_kernel::json;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer waits for the end of a run: well within `limits.request_timeout_ms`.
const WAIT: Duration = Duration::from_secs(5);

/// The routes below a kernel's.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/archive", get(archive_state).post(archive))
        .route("/retention", get(retention_state).post(retention))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Archive {
    remove_local: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Retention {
    dry_run: bool,
}

type Told = (StatusCode, Json<Run>);

async fn archive(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id, body: Body) -> Answer<Told> {
    let kernel = permitted(&app, &caller, id.as_deref(), &[Role::Operator])?.kernel();
    let Archive { remove_local } = read(&app, body).await?;
    begin(&kernel, Task::Archive { remove_local }, caller.name()).await
}

async fn retention(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Told> {
    let kernel = permitted(&app, &caller, id.as_deref(), &[Role::Operator])?.kernel();
    let Retention { dry_run } = read(&app, body).await?;
    begin(&kernel, Task::Retention { dry_run }, caller.name()).await
}

async fn archive_state(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Run>> {
    let kernel = permitted(&app, &caller, id.as_deref(), &SEEING)?.kernel();
    Ok(Json(kernel.upkeep(Task::Archive { remove_local: false })))
}

async fn retention_state(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
) -> Answer<Json<Run>> {
    let kernel = permitted(&app, &caller, id.as_deref(), &SEEING)?.kernel();
    Ok(Json(kernel.upkeep(Task::Retention { dry_run: false })))
}

async fn begin(kernel: &Arc<crate::kernel::Kernel>, task: Task, who: &str) -> Answer<Told> {
    let mut run = kernel.begin_upkeep(task, who)?;
    let ended = tokio::time::timeout(WAIT, run.wait_for(|run| !matches!(run, Run::Running { .. }))).await;
    let run = match ended {
        Ok(Ok(run)) => run.clone(),
        // It goes on, or the host stops.
        Ok(Err(_)) | Err(_) => kernel.upkeep(task),
    };
    match run {
        Run::Failed { error, .. } => Err(ApiError::Unavailable(error)),
        Run::Running { .. } => Ok((StatusCode::ACCEPTED, Json(run))),
        run => Ok((StatusCode::OK, Json(run))),
    }
}

/// An empty body is an empty object.
async fn read<T: DeserializeOwned>(app: &App, body: Body) -> Answer<T> {
    let bytes = read_body(body, app.inner.limits.max_body_bytes, "limits.max_body_bytes").await?;
    let value = if bytes.is_empty() { Ok(json!({})) } else { json::parse(&bytes) };
    let value = value.map_err(|why| ApiError::Unreadable(format!("the body is not JSON: {why}")))?;
    serde_path_to_error::deserialize(value).map_err(|why| ApiError::Unreadable(format!("the body: {why}")))
}

impl From<UpkeepError> for ApiError {
    fn from(why: UpkeepError) -> Self {
        match why {
            UpkeepError::Refused(refused) => refused.into(),
            UpkeepError::Stopping => Self::Unavailable(why.to_string()),
            why => Self::Conflict(why.to_string()),
        }
    }
}

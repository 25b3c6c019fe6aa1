//! The routes of a kernel's policies: see what judges, upload, try, promote, roll back.
//!
//! Seeing needs the role operator or auditor, changing the role operator. Each change answers what
//! the kernel judges by then.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::routes::{Answer, Id, SEEING, permitted, read_body};
use crate::config::Role;
use crate::kernel::Kernel;
use crate::policies::change::{Change, ChangeError, Reason};
use crate::policies::document::Edit;
use crate::policies::history::steps;
use crate::policies::life::TrialMode;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use gavel_kernel::json;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// Steps that one answer holds: the latest.
const STEPS_MAX: usize = 1_000;

/// The routes below a kernel's.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/policies", get(status))
        .route("/policies/components", post(upload))
        .route("/policies/stage", post(stage))
        .route("/policies/try", post(try_candidate))
        .route("/policies/promote", post(promote))
        .route("/policies/rollback", post(roll_back))
        .route("/policies/discard", post(discard))
        .route("/policies/release", post(release))
        .route("/policies/differences", get(differences))
        .route("/policies/history", get(history))
}

async fn status(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Value>> {
    Ok(Json(permitted(&app, &caller, id.as_deref(), &SEEING)?.policy_status()))
}

async fn differences(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Value>> {
    let line = permitted(&app, &caller, id.as_deref(), &SEEING)?.policies();
    let told = line.trial.as_ref().map(|trial| {
        json!({
            "candidate": **trial.set.digest(),
            "trial": trial.mode,
            "tally": trial.shadow.tally(),
            "differences": trial.shadow.recent(),
        })
    });
    told.map(Json).ok_or_else(|| ApiError::Conflict("there is no candidate on trial".into()))
}

async fn history(State(app): State<App>, Extension(caller): Extension<Caller>, Id(id): Id) -> Answer<Json<Value>> {
    let kernel = Arc::clone(permitted(&app, &caller, id.as_deref(), &SEEING)?);
    let read = tokio::task::spawn_blocking(move || {
        let snapshot = kernel.ledger().snapshot();
        steps(kernel.ledger().records(&snapshot), STEPS_MAX)
    });
    let unreadable = |why: String| {
        tracing::error!(why, "the history of the policies cannot be read");
        ApiError::Unavailable("the ledger cannot be read".into())
    };
    let steps = read.await.map_err(|why| unreadable(why.to_string()))?.map_err(|why| unreadable(why.to_string()))?;
    Ok(Json(json!({"steps": steps})))
}

/// A component into the catalogue. It decides nothing until it is part of a set that serves.
async fn upload(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let kernel = operated(&app, &caller, id.as_deref())?;
    let limit = usize::try_from(kernel.admission.max_component_bytes()).unwrap_or(usize::MAX);
    let bytes = read_body(body, limit, "limits.max_component_bytes").await?;
    let admission = Arc::clone(&kernel.admission);
    let kept = tokio::task::spawn_blocking(move || {
        let package = admission.keep("the component", &bytes)?;
        let signers = admission.signers(&package)?;
        anyhow::Ok((package, signers))
    });
    let kept = kept.await.map_err(|why| ApiError::Unavailable(why.to_string()))?;
    let (package, signers) = kept.map_err(|why| ApiError::NotAccepted(format!("{why:#}")))?;
    Ok(Json(json!({
        "component": package.digest,
        "bytes": package.component.len(),
        "name": package.manifest.as_ref().map(|manifest| &manifest.name),
        "version": package.manifest.as_ref().map(|manifest| &manifest.version),
        "needs": package.manifest.as_ref().map(|manifest| &manifest.needs),
        "tests": package.tests.as_ref().map_or(0, |suite| suite.cases.len()),
        "signed_by": signers,
    })))
}

/// What every change may say.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Why {
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    edits: Vec<Edit>,
    #[serde(default)]
    order: Option<Vec<String>>,
    #[serde(default = "staged")]
    mode: TrialMode,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Try {
    mode: TrialMode,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Promote {
    candidate: Option<String>,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    policy: String,
    #[serde(default)]
    why: String,
}

fn staged() -> TrialMode {
    TrialMode::Staged
}

async fn stage(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let (kernel, asked) = asked::<Stage>(&app, &caller, id.as_deref(), body).await?;
    check(asked.mode)?;
    let edits = asked.edits.into_iter().map(|edit| resolved(kernel, edit)).collect::<Result<_, _>>()?;
    change(kernel, Change::Stage { edits, order: asked.order, mode: asked.mode }, &caller, &asked.why).await
}

async fn try_candidate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let (kernel, asked) = asked::<Try>(&app, &caller, id.as_deref(), body).await?;
    check(asked.mode)?;
    change(kernel, Change::Try(asked.mode), &caller, &asked.why).await
}

async fn promote(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let (kernel, asked) = asked::<Promote>(&app, &caller, id.as_deref(), body).await?;
    change(kernel, Change::Promote { expected: asked.candidate }, &caller, &asked.why).await
}

async fn roll_back(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let (kernel, asked) = asked::<Why>(&app, &caller, id.as_deref(), body).await?;
    change(kernel, Change::RollBack, &caller, &asked.why).await
}

async fn discard(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let (kernel, asked) = asked::<Why>(&app, &caller, id.as_deref(), body).await?;
    change(kernel, Change::Discard, &caller, &asked.why).await
}

async fn release(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Value>> {
    let (kernel, asked) = asked::<Release>(&app, &caller, id.as_deref(), body).await?;
    change(kernel, Change::Release { policy: asked.policy }, &caller, &asked.why).await
}

async fn change(kernel: &Arc<Kernel>, change: Change, caller: &Caller, why: &str) -> Answer<Json<Value>> {
    Ok(Json(kernel.change_policies(change, Reason { who: caller.name(), why }).await?))
}

fn operated<'a>(app: &'a App, caller: &Caller, id: Option<&str>) -> Answer<&'a Arc<Kernel>> {
    permitted(app, caller, id, &[Role::Operator])
}

/// What an operator asks, and of which kernel. An empty body is an empty object.
async fn asked<'a, T: DeserializeOwned>(
    app: &'a App,
    caller: &Caller,
    id: Option<&str>,
    body: Body,
) -> Answer<(&'a Arc<Kernel>, T)> {
    let kernel = operated(app, caller, id)?;
    let bytes = read_body(body, app.inner.limits.max_body_bytes, "limits.max_body_bytes").await?;
    let value = if bytes.is_empty() { Ok(json!({})) } else { json::parse(&bytes) };
    let value = value.map_err(|why| ApiError::Unreadable(format!("the body is not JSON: {why}")))?;
    let asked =
        serde_path_to_error::deserialize(value).map_err(|why| ApiError::Unreadable(format!("the body: {why}")))?;
    Ok((kernel, asked))
}

fn check(mode: TrialMode) -> Answer<()> {
    match mode {
        TrialMode::Canary(percent) if !(1..=99).contains(&percent) => {
            Err(ApiError::Unreadable(format!("a canary of {percent} per cent: give 1 to 99")))
        }
        _ => Ok(()),
    }
}

/// `builtin:NAME` becomes the digest of that policy.
fn resolved(kernel: &Kernel, mut edit: Edit) -> Answer<Edit> {
    let builtin = edit.component.as_deref().and_then(|named| named.strip_prefix(crate::policies::builtin::PREFIX));
    if let Some(name) = builtin {
        let kept = kernel.admission.keep_builtin(name).map_err(|why| ApiError::NotAccepted(format!("{why:#}")))?;
        edit.component = Some(kept.digest);
    }
    Ok(edit)
}

impl From<ChangeError> for ApiError {
    fn from(why: ChangeError) -> Self {
        match why {
            ChangeError::Kernel(refused) => refused.into(),
            ChangeError::Candidate(why) => Self::NotAccepted(why),
            why => Self::Conflict(why.to_string()),
        }
    }
}

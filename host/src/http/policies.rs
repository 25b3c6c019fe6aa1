//! The routes of a kernel's policies: see what judges, upload, try, promote, roll back.
//!
//! Seeing needs the role operator or auditor, changing the role operator. Each change answers what
//! the kernel judges by then.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::routes::{Answer, Id, SEEING, permitted, read_body};
use crate::config::Role;
use crate::fleet::Slot;
use crate::kernel::Kernel;
use crate::policies::change::{Change, ChangeError, Reason};
use crate::policies::document::Edit;
use crate::policies::history::steps;
use crate::policies::life::TrialMode;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Json, Router};
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

/// A kernel whose policies the caller may see.
struct Seen(Arc<Kernel>);

impl FromRequestParts<App> for Seen {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        Ok(Self(reached(parts, app, &SEEING).await?.0.kernel()))
    }
}

/// A kernel that the caller operates, and what it asks for.
pub(super) struct Asked<T> {
    /// The name that it was called by.
    pub(super) slot: Arc<Slot>,
    /// The kernel that answers under it at this moment.
    pub(super) kernel: Arc<Kernel>,
    pub(super) caller: Caller,
    pub(super) body: T,
}

impl<T: DeserializeOwned> FromRequest<App> for Asked<T> {
    type Rejection = ApiError;

    /// An empty body is an empty object.
    async fn from_request(request: Request, app: &App) -> Answer<Self> {
        let (mut parts, body) = request.into_parts();
        let (slot, caller) = reached(&mut parts, app, &[Role::Operator]).await?;
        let body = read_object(app, body).await?;
        Ok(Self { kernel: slot.kernel(), slot, caller, body })
    }
}

/// What a body asks for; an empty one is an empty object.
pub(super) async fn read_object<T: DeserializeOwned>(app: &App, body: Body) -> Answer<T> {
    let bytes = read_body(body, app.inner.limits.max_body_bytes, "limits.max_body_bytes").await?;
    let value = if bytes.is_empty() { Ok(json!({})) } else { json::parse(&bytes) };
    let value = value.map_err(|why| ApiError::Unreadable(format!("the body is not JSON: {why}")))?;
    serde_path_to_error::deserialize(value).map_err(|why| ApiError::Unreadable(format!("the body: {why}")))
}

impl<T> Asked<T> {
    /// Take the step, and tell what the kernel judges by then.
    async fn take(&self, change: Change, why: &str) -> Answer<Json<Value>> {
        Ok(Json(self.slot.change_policies(change, Reason { who: self.caller.name(), why }).await?))
    }
}

/// The kernel of a path and who calls, who must have one of `roles`.
pub(super) async fn reached(parts: &mut Parts, app: &App, roles: &[Role]) -> Answer<(Arc<Slot>, Caller)> {
    let Id(id) = Id::from_request_parts(parts, app).await?;
    // Every request passes the guard, which says who calls; whoever did not is nobody.
    let caller = parts.extensions.get::<Caller>().cloned().unwrap_or(Caller::Unknown);
    Ok((permitted(app, &caller, id.as_deref(), roles)?, caller))
}

async fn status(Seen(kernel): Seen) -> Json<Value> {
    Json(kernel.policy_status())
}

async fn differences(Seen(kernel): Seen) -> Answer<Json<Value>> {
    let line = kernel.policies();
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

async fn history(Seen(kernel): Seen) -> Answer<Json<Value>> {
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
async fn upload(State(app): State<App>, request: Request) -> Answer<Json<Value>> {
    let (mut parts, body) = request.into_parts();
    let kernel = reached(&mut parts, &app, &[Role::Operator]).await?.0.kernel();
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

async fn stage(asked: Asked<Stage>) -> Answer<Json<Value>> {
    let Stage { edits, order, mode, why } = &asked.body;
    check(*mode)?;
    let edits = edits.iter().map(|edit| resolved(&asked.slot.kernel(), edit.clone())).collect::<Result<_, _>>()?;
    asked.take(Change::Stage { edits, order: order.clone(), mode: *mode }, why).await
}

async fn try_candidate(asked: Asked<Try>) -> Answer<Json<Value>> {
    check(asked.body.mode)?;
    asked.take(Change::Try(asked.body.mode), &asked.body.why).await
}

async fn promote(asked: Asked<Promote>) -> Answer<Json<Value>> {
    let expected = asked.body.candidate.clone();
    asked.take(Change::Promote { expected }, &asked.body.why).await
}

async fn roll_back(asked: Asked<Why>) -> Answer<Json<Value>> {
    asked.take(Change::RollBack, &asked.body.why).await
}

async fn discard(asked: Asked<Why>) -> Answer<Json<Value>> {
    asked.take(Change::Discard, &asked.body.why).await
}

async fn release(asked: Asked<Release>) -> Answer<Json<Value>> {
    let policy = asked.body.policy.clone();
    asked.take(Change::Release { policy }, &asked.body.why).await
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

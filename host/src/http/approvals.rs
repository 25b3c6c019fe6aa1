//! The routes of the approval queue: see what waits, wait for a word, approve, reject.
//!
//! Operators and auditors see all of it, an agent what its own actor asked for; operators decide. Whoever has a link with
//! a token decides without a key, once.

use super::App;
use super::auth::{Caller, Refusal};
use super::error::ApiError;
use super::policies::Asked;
use super::records::reading;
use super::routes::{ANY, Answer, Id, SEEING, permitted};
use crate::approvals::link::decision;
use crate::approvals::{Wanted, Word, WordError};
use crate::kernel::Kernel;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use gavel_kernel::ApprovalState;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Approvals of a page whose size was not asked for.
const PAGE: usize = 100;

/// The routes below a kernel's.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/approvals", get(list))
        .route("/approvals/{approval}", get(show))
        .route("/approvals/{approval}/approve", post(approve))
        .route("/approvals/{approval}/reject", post(reject))
        .route("/approvals/{approval}/decide", post(decide))
}

/// What may be asked for; everything that is given must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Listed {
    state: Option<ApprovalState>,
    actor: Option<String>,
    tool: Option<String>,
    limit: Option<usize>,
    cursor: Option<u64>,
}

#[derive(Deserialize)]
struct Named {
    approval: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Waits {
    wait_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Why {
    reason: String,
}

/// What a link says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    decision: String,
    expires_ms: u64,
    token: String,
}

/// The kernel, and the only actor whose approvals the caller may see, if it may not see all.
fn seen(app: &App, caller: &Caller, id: Option<&str>) -> Answer<(Arc<Kernel>, Option<String>)> {
    let slot = permitted(app, caller, id, &ANY)?;
    let all = caller.require(&SEEING, Some(slot.name())).is_ok();
    let own = if all { None } else { Some(caller.actor().unwrap_or_default().to_owned()) };
    Ok((slot.kernel(), own))
}

async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    asked: Result<Query<Listed>, QueryRejection>,
) -> Answer<Json<Value>> {
    let (kernel, own) = seen(&app, &caller, id.as_deref())?;
    let Query(asked) = asked.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let max = app.inner.limits.max_page_records;
    let limit = match asked.limit.unwrap_or(PAGE) {
        0 => return Err(ApiError::Unreadable(format!("limit=0: a page has 1 to {max} approvals"))),
        limit => limit.min(max),
    };
    if let (Some(own), Some(actor)) = (&own, &asked.actor)
        && own != actor
    {
        return Err(Refusal::Actor { key: caller.name().to_owned(), actor: own.clone() }.into());
    }
    let actor = own.or(asked.actor);
    Ok(Json(kernel.approvals(&Wanted { state: asked.state, actor, tool: asked.tool, after: asked.cursor, limit })))
}

async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    named: Result<Path<Named>, PathRejection>,
    asked: Result<Query<Waits>, QueryRejection>,
) -> Answer<Json<Value>> {
    let (kernel, own) = seen(&app, &caller, id.as_deref())?;
    let approval = name(named)?;
    let Query(Waits { wait_ms }) = asked.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let actor = kernel.approval_actor(&approval);
    // Whose it is not does not learn that it is there.
    if own.is_some_and(|own| actor.as_deref() != Some(own.as_str())) {
        return Err(absent(&approval).into());
    }
    if wait_ms > 0 {
        // The answer must come before the time for it ends.
        let max = app.inner.fleet.approvals().limits().wait_ms_max.min(app.inner.limits.request_timeout_ms / 10 * 9);
        kernel.wait_for_word(&approval, Duration::from_millis(wait_ms.min(max))).await;
    }
    let wanted = approval.clone();
    let shown = reading(&kernel, move |kernel| Ok(kernel.approval(&wanted))).await?;
    shown.map(Json).ok_or_else(|| absent(&approval).into())
}

async fn approve(named: Result<Path<Named>, PathRejection>, asked: Asked<Why>) -> Answer<Json<Value>> {
    by_key(name(named)?, asked, true).await
}

async fn reject(named: Result<Path<Named>, PathRejection>, asked: Asked<Why>) -> Answer<Json<Value>> {
    by_key(name(named)?, asked, false).await
}

async fn by_key(approval: String, asked: Asked<Why>, approve: bool) -> Answer<Json<Value>> {
    let Asked { kernel, caller, body: Why { reason }, .. } = asked;
    let keyed = matches!(caller, Caller::Key(_));
    let word = Word { approve, by: caller.name().to_owned(), keyed, reason };
    Ok(Json(kernel.give_word(&approval, word).await?))
}

async fn decide(
    State(app): State<App>,
    Id(id): Id,
    named: Result<Path<Named>, PathRejection>,
    link: Result<Query<Link>, QueryRejection>,
) -> Answer<Json<Value>> {
    let kernel = app.slot(id.as_deref())?.kernel();
    let approval = name(named)?;
    let Query(link) = link.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let approve = [true, false].into_iter().find(|approve| decision(*approve) == link.decision);
    let approve = approve.ok_or_else(|| ApiError::Unreadable("decision: give `approve` or `reject`".into()))?;
    let by = kernel.follow_link(&approval, approve, link.expires_ms, &link.token).ok_or(Refusal::Link)?;
    let word = Word { approve, by, keyed: false, reason: "by a link in an alert".into() };
    Ok(Json(kernel.give_word(&approval, word).await?))
}

fn name(named: Result<Path<Named>, PathRejection>) -> Answer<String> {
    let Path(Named { approval }) = named.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    Ok(approval)
}

fn absent(approval: &str) -> WordError {
    WordError::Absent(approval.chars().take(64).collect())
}

impl From<WordError> for ApiError {
    fn from(why: WordError) -> Self {
        match why {
            WordError::Absent(_) => Self::Absent(why.to_string()),
            WordError::Conflict(why) => Self::Conflict(why),
            WordError::Own { id, by } => Refusal::OwnApproval { key: by, approval: id }.into(),
            WordError::TooLong { .. } => Self::TooLarge(why.to_string()),
            WordError::Kernel(why) => why.into(),
        }
    }
}

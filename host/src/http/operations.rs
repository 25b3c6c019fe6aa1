//! The routes of the operator's plays. The role operator, for each of them.
//!
//! A play that takes longer than `limits.request_timeout_ms` is answered 408 and goes on all the same;
//! its event in the ledger tells its end.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::policies::{Asked, reached};
use super::routes::Answer;
use crate::clock::{Clock, parse_time};
use crate::config::Role;
use crate::decide::Refused;
use crate::kernel::Kernel;
use crate::operations::health::Report;
use crate::operations::investigate::{Findings, TimeRange};
use crate::operations::{OperationError, Operations, Operator, Played};
use crate::record;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;

/// How far back an investigation looks that is not told.
const DAY_MS: u64 = 24 * 3_600_000;

/// The routes below a kernel's.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/health/check", get(health_check))
        .route("/investigate", get(investigate))
        .route("/halt/emergency", post(emergency_halt))
        .route("/evidence/preserve", post(preserve))
        .route("/evidence/rotate", post(rotate))
}

/// A kernel that the caller operates.
struct Operated(Arc<Kernel>);

impl FromRequestParts<App> for Operated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        Ok(Self(reached(parts, app, &[Role::Operator]).await?.0.kernel()))
    }
}

async fn health_check(State(app): State<App>, Operated(kernel): Operated) -> Answer<Json<Report>> {
    Ok(Json(app.operations()?.health(&kernel).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    from: Option<String>,
    to: Option<String>,
}

async fn investigate(
    State(app): State<App>,
    Operated(kernel): Operated,
    query: Result<Query<When>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<Findings>> {
    let Query(when) = query.map_err(|why| ApiError::Unreadable(format!("give from=TIME&to=TIME: {why}")))?;
    let range = range_of(&when, &kernel.clock)?;
    Ok(Json(app.operations()?.investigate(&kernel, range).await?))
}

/// Times as RFC 3339 writes them, or in milliseconds as the seeds' scripts have them.
fn range_of(when: &When, clock: &Clock) -> Answer<TimeRange> {
    let read = |name: &str, text: &str| match text.parse() {
        Ok(ms) => Ok(ms),
        // A query's `+` is a space.
        Err(_) => parse_time(&text.replace(' ', "+")).map_err(|why| ApiError::Unreadable(format!("{name}: {why}"))),
    };
    let end = when.to.as_deref().map_or(Ok(clock.now_ms()), |to| read("to", to))?;
    let start = when.from.as_deref().map_or(Ok(end.saturating_sub(DAY_MS)), |from| read("from", from))?;
    if start > end {
        return Err(ApiError::Unreadable(format!("from ({start} ms) is later than to ({end} ms)")));
    }
    Ok(TimeRange { start, end })
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Halt {
    reason: String,
    incident_id: Option<String>,
}

impl Default for Halt {
    fn default() -> Self {
        Self { reason: "halted by operator in an emergency".into(), incident_id: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preserve {
    incident_id: String,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Rotate {
    why: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Restart {
    why: String,
    /// Keep the evidence; somebody else restarts the process.
    prepare_only: bool,
}

async fn emergency_halt(State(app): State<App>, asked: Asked<Halt>) -> Answer<Json<Value>> {
    let Asked { slot, kernel, caller, body: Halt { reason, incident_id } } = asked;
    if reason.trim().is_empty() {
        return Err(ApiError::Unreadable("the body must have a `reason` that is not empty, or none".into()));
    }
    let operator = operator(&caller, reason)?;
    let halted = {
        let (fleet, operator) = (Arc::clone(&app.inner.fleet), operator.clone());
        play(&app, move |operations| async move {
            operations.emergency_halt(&fleet, &slot, incident_id.as_deref(), &operator).await
        })
        .await?
    };
    tracing::warn!(kernel = kernel.id(), reason = operator.why, caller = operator.who, "kernel halted in an emergency");
    Ok(Json(json!({
        "status": "halted",
        "kernel_state": halted.receipt.state_to,
        "kernel_id": halted.kernel_id,
        "reason": operator.why,
        "evidence_hash": halted.receipt.evidence_hash,
        "ts_ms": halted.receipt.ts_ms,
        "incident_id": halted.id,
        "incident_index": halted.index,
        "pre_halt": halted.pre_halt,
        "evidence": halted.evidence,
        "alerted": halted.alerted,
    })))
}

async fn preserve(State(app): State<App>, asked: Asked<Preserve>) -> Answer<Json<Value>> {
    let Asked { kernel, caller, body: Preserve { incident_id, why }, .. } = asked;
    let operator = operator(&caller, why)?;
    let preserved =
        play(&app, move |operations| async move { operations.preserve(&kernel, &incident_id, &operator).await });
    Ok(Json(json!(preserved.await?)))
}

async fn rotate(State(app): State<App>, asked: Asked<Rotate>) -> Answer<Json<Value>> {
    let Asked { kernel, caller, body: Rotate { why }, .. } = asked;
    let operator = operator(&caller, why)?;
    let rotated = play(&app, move |operations| async move { operations.rotate(&kernel, &operator).await });
    Ok(Json(json!(rotated.await?)))
}

/// Keep the evidence of every kernel, then have the process restart. Of the host, not of a kernel.
pub(super) async fn restart(State(app): State<App>, asked: Asked<Restart>) -> Answer<Json<Value>> {
    let Asked { caller, body: Restart { why, prepare_only }, .. } = asked;
    for slot in app.inner.fleet.slots() {
        caller.require(&[Role::Operator], Some(slot.name()))?;
    }
    let restart = app.inner.restart.get().filter(|_| !prepare_only).cloned();
    if restart.is_none() && !prepare_only {
        return Err(ApiError::Conflict("this server runs in a process that is not its own to restart".into()));
    }
    let (operator, kernels) = (operator(&caller, why)?, app.kernels());
    let kept = play(&app, move |operations| async move { operations.before_restart(&kernels, &operator).await });
    let kept = kept.await?.into_iter().map(|(kernel, file)| {
        let mut told = json!(file);
        told["kernel_id"] = json!(kernel.id());
        told["started_at_ms"] = json!(kernel.started_ms);
        told
    });
    let kept: Vec<Value> = kept.collect();
    if let Some(restart) = &restart {
        restart.cancel();
    }
    Ok(Json(json!({"status": if prepare_only { "prepared" } else { "restarting" }, "evidence": kept})))
}

/// Who operates, with words that a record has room for.
pub(super) fn operator(caller: &Caller, why: String) -> Answer<Operator> {
    record::check_reason(&why).map_err(Refused::TooLong)?;
    Ok(Operator { who: caller.name().to_owned(), why })
}

/// Play to the end, whether or not the caller still waits for it.
async fn play<T, F>(app: &App, play: impl FnOnce(Operations) -> F) -> Answer<T>
where
    T: Send + 'static,
    F: Future<Output = Played<T>> + Send + 'static,
{
    let operations = app.operations()?;
    let played = operations.carry(play(operations.clone())).await;
    Ok(played.map_err(OperationError::from)??)
}

impl From<OperationError> for ApiError {
    fn from(why: OperationError) -> Self {
        match why {
            OperationError::Kernel(refused) => refused.into(),
            OperationError::Conflict(why) => Self::Conflict(why),
            OperationError::Invalid(why) => Self::NotAccepted(why),
            // Only operators come here, and they must know what to mend.
            OperationError::Failed(why) => {
                tracing::error!("a play failed: {why:#}");
                Self::Unavailable(format!("{why:#}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(from: Option<&str>, to: Option<&str>) -> Result<(u64, u64), String> {
        let when = When { from: from.map(str::to_owned), to: to.map(str::to_owned) };
        let range = range_of(&when, &Clock::manual(100 * DAY_MS));
        range.map(|range| (range.start, range.end)).map_err(|why| why.to_string())
    }

    #[test]
    fn times_are_given_as_text_or_in_milliseconds_or_not_at_all() {
        assert_eq!(told(None, None), Ok((99 * DAY_MS, 100 * DAY_MS)));
        assert_eq!(told(Some("5"), Some("6")), Ok((5, 6)));
        assert_eq!(told(Some("1970-01-01T00:00:01Z"), Some("1970-01-01T01:00:02 01:00")), Ok((1_000, 2_000)));
        assert!(told(Some("6"), Some("5")).unwrap_err().contains("later"));
        assert!(told(Some("yesterday"), None).unwrap_err().starts_with("from: `yesterday`"));
    }
}

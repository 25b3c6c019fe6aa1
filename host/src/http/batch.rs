//! Several requests in one: each is judged, recorded and answered as if it had come alone.
//!
//! A batch spares its caller the round trips and nothing else: there is no all or nothing, no order
//! among the requests, and each counts against the caller's rate. Requests of one batch are judged
//! at the same time as far as there is room among those in flight, so that a batch cannot crowd out
//! other callers. The answers come in the order of the requests.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::rate::Who;
use super::routes::{Answer, Id, Submitted, permitted, principal, read_body};
use crate::config::Role;
use crate::fleet::Slot;
use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use futures_util::StreamExt;
use gavel_kernel::{Request, json};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

/// What came of a batch.
#[derive(Serialize)]
pub(super) struct Answers {
    results: Vec<One>,
}

/// What came of one request of it.
#[derive(Serialize)]
#[serde(untagged)]
enum One {
    Judged { receipt: Box<Submitted> },
    Refused(Value),
}

pub(super) async fn submit(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(who): Extension<Who>,
    Id(id): Id,
    body: Body,
) -> Answer<Json<Answers>> {
    let slot = permitted(&app, &caller, id.as_deref(), &[Role::Agent])?;
    let requests = read(&app, body).await.inspect_err(|_| app.count_unreadable())?;
    if requests.len() > 1 {
        let admitted = app.inner.rate.admit_rest(who, requests.len(), Instant::now());
        admitted.map_err(|wait| app.too_often(wait))?;
    }
    let places = places(&app, requests.len());
    let judged = requests.into_iter().map(|request| judge(&app, &slot, &caller, request));
    let results = futures_util::stream::iter(judged).buffered(1 + places.len()).collect().await;
    Ok(Json(Answers { results }))
}

/// The requests of a batch, not yet looked into.
async fn read(app: &App, body: Body) -> Answer<Vec<Value>> {
    let limits = &app.inner.limits;
    let bytes = read_body(body, limits.max_body_bytes, "limits.max_body_bytes").await?;
    let value =
        json::parse(&bytes).map_err(|why| ApiError::Unreadable(format!("the body is not a JSON batch: {why}")))?;
    let requests = match value {
        Value::Object(mut fields) => fields.remove("requests"),
        _ => None,
    };
    let Some(Value::Array(requests)) = requests else {
        return Err(ApiError::Unreadable("the body must be an object whose `requests` is a list of requests".into()));
    };
    let most = limits.max_batch_requests;
    if requests.len() > most {
        let told = format!("the batch holds {} requests, at most {most} (limits.max_batch_requests)", requests.len());
        return Err(ApiError::TooLarge(told));
    }
    Ok(requests)
}

/// Places in flight for the requests beyond the first, which has that of the batch: as many as are
/// free and useful.
fn places(app: &App, requests: usize) -> Vec<OwnedSemaphorePermit> {
    let useful = requests.min(app.inner.limits.max_batch_concurrency).saturating_sub(1);
    std::iter::repeat_with(|| Arc::clone(&app.inner.in_flight).try_acquire_owned().ok())
        .take(useful)
        .map_while(|place| place)
        .collect()
}

async fn judge(app: &App, slot: &Slot, caller: &Caller, request: Value) -> One {
    let judged = match Request::from_value(request, slot.kernel().clock.now_ms()) {
        Ok(request) => slot.submit(request, principal(caller)).await.map_err(|why| app.refused(why)),
        Err(why) => {
            app.count_unreadable();
            Err(ApiError::Unreadable(why.to_string()))
        }
    };
    match judged {
        Ok(receipt) => One::Judged { receipt: Box::new(receipt.into()) },
        Err(why) => One::Refused(told(&why)),
    }
}

/// An error as it would have been answered, its status and `Retry-After` beside it.
fn told(why: &ApiError) -> Value {
    let mut told = why.body();
    told["status"] = json!(why.status().as_u16());
    if let Some(seconds) = why.retry_after_s() {
        told["retry_after_s"] = json!(seconds);
    }
    told
}

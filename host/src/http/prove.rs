//! The routes of proofs. What they answer is a file that stands for itself: `gavel verify` needs nothing else.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::records::{Log, json_of, whose};
use super::routes::{Answer, Id, SEEING, permitted};
use crate::kernel::Kernel;
use crate::prove::{ProveError, Prover, Subject};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query as Asks, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use std::sync::Arc;

/// The routes below a kernel's.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/prove", get(prove))
        .route("/prove/{request_id}", get(prove_request))
        .route("/consistency", get(consistency))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    request_id: Option<String>,
    index: Option<u64>,
    of: Option<String>,
}

async fn prove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    asked: Result<Asks<Asked>, QueryRejection>,
) -> Answer<Response> {
    let Asks(asked) = asked.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let log = whose(&app, &caller, id.as_deref(), asked.of.as_deref())?;
    let subject = match (asked.request_id, asked.index) {
        (Some(request_id), None) => Subject::Request(request_id),
        (None, Some(index)) => Subject::Record(index),
        _ => return Err(ApiError::Unreadable("say what to prove: `request_id` or `index`, one of them".into())),
    };
    match log {
        Log::Of(kernel) => file(&kernel, move |kernel| Ok(kernel.prove(&subject)?.to_json())).await,
        Log::Closed(id, folder) => made(id, move || Ok(Prover::of_folder(&folder)?.file(&subject)?.to_json())).await,
    }
}

#[derive(Deserialize)]
struct Request {
    request_id: String,
}

async fn prove_request(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    request: Result<Path<Request>, PathRejection>,
) -> Answer<Response> {
    let kernel = &permitted(&app, &caller, id.as_deref(), &SEEING)?.kernel();
    let Path(Request { request_id }) = request.map_err(|_| ApiError::NotFound)?;
    file(kernel, move |kernel| Ok(kernel.prove(&Subject::Request(request_id))?.to_json())).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Earlier {
    old: u64,
}

async fn consistency(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    asked: Result<Asks<Earlier>, QueryRejection>,
) -> Answer<Response> {
    let kernel = &permitted(&app, &caller, id.as_deref(), &SEEING)?.kernel();
    let Asks(Earlier { old }) = asked.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    file(kernel, move |kernel| Ok(kernel.prove_consistency(old)?.to_json())).await
}

/// Make a file where it holds up nobody.
async fn file(
    kernel: &Arc<Kernel>,
    make: impl FnOnce(&Kernel) -> Result<String, ProveError> + Send + 'static,
) -> Answer<Response> {
    let kernel = Arc::clone(kernel);
    made(kernel.id().to_owned(), move || make(&kernel)).await
}

async fn made(
    kernel_id: String,
    make: impl FnOnce() -> Result<String, ProveError> + Send + 'static,
) -> Answer<Response> {
    let proof = tokio::task::spawn_blocking(move || {
        make().inspect_err(|why| {
            if let ProveError::Failed(why) = why {
                tracing::error!(kernel = kernel_id, "a proof cannot be made: {why:#}");
            }
        })
    });
    // The cause may name files: it is for the log, not for the caller.
    let unreadable = || ApiError::Unavailable("the proof cannot be made now; the server's log says why".into());
    let text = proof.await.map_err(|_| unreadable())?.map_err(|why| match why {
        ProveError::Absent(why) => ApiError::Absent(why),
        ProveError::NotAccepted(why) => ApiError::NotAccepted(why),
        ProveError::Failed(_) => unreadable(),
    })?;
    Ok(json_of(text))
}

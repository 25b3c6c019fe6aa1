//! The routes that find records. What is answered is read from the ledger, byte for byte.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::routes::{Answer, Id, SEEING, permitted};
use crate::config::Limits;
use crate::index::{Page, PageLimits, Query, Upward, source};
use crate::kernel::Kernel;
use axum::extract::{Path, Query as Asks, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use gavel_ledger::RecordView;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// Records of a page whose size was not asked for.
const PAGE_RECORDS: usize = 100;

/// The routes below a kernel's.
pub(super) fn router() -> Router<App> {
    Router::new().route("/records", get(find)).route("/records/{index}", get(one))
}

/// What may be asked for; everything that is given must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    kind: Option<String>,
    request_id: Option<String>,
    actor: Option<String>,
    tool: Option<String>,
    decision: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    from_index: Option<u64>,
}

impl Asked {
    fn query(&self) -> Result<Query, String> {
        let time = |text: &Option<String>| text.as_deref().map(Query::time).transpose();
        Ok(Query {
            kind: self.kind.clone(),
            request_id: self.request_id.clone(),
            actor: self.actor.clone(),
            tool: self.tool.clone(),
            decision: self.decision.as_deref().map(Query::decision).transpose()?,
            from_ms: time(&self.from)?,
            to_ms: time(&self.to)?,
            cursor: self.cursor.as_deref().map(str::parse).transpose()?,
        })
    }

    /// Where to begin to read upward, if that is what is asked for.
    fn upward(&self) -> Result<Option<u64>, String> {
        let Self { kind, request_id, actor, tool, decision, from, to, limit: _, cursor, from_index } = self;
        let others = [kind, request_id, actor, tool, decision, from, to, cursor];
        if from_index.is_some() && others.iter().any(|other| other.is_some()) {
            return Err("from_index reads the log as it stands: it goes with `limit` and nothing else".to_owned());
        }
        Ok(*from_index)
    }

    fn limits(&self, limits: &Limits) -> Result<PageLimits, String> {
        let max = limits.max_page_records;
        match self.limit.unwrap_or(PAGE_RECORDS) {
            0 => Err(format!("limit=0: a page has 1 to {max} records (limits.max_page_records)")),
            records => Ok(PageLimits { records: records.min(max), bytes: limits.max_page_bytes }),
        }
    }
}

async fn find(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    asked: Result<Asks<Asked>, axum::extract::rejection::QueryRejection>,
) -> Answer<Response> {
    let kernel = &permitted(&app, &caller, id.as_deref(), &SEEING)?.kernel();
    let Asks(asked) = asked.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let query = asked.query().map_err(ApiError::Unreadable)?;
    let limits = asked.limits(&app.inner.limits).map_err(ApiError::Unreadable)?;
    if let Some(start) = asked.upward().map_err(ApiError::Unreadable)? {
        let page = reading(kernel, move |kernel| kernel.upward(start, limits)).await?;
        return Ok(json_of(upward_text(kernel.id(), &page)));
    }
    let page = reading(kernel, move |kernel| kernel.find(&query, limits)).await?;
    Ok(json_of(page_text(&page)))
}

async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    place: Result<Path<Place>, axum::extract::rejection::PathRejection>,
) -> Answer<Response> {
    let kernel = &permitted(&app, &caller, id.as_deref(), &SEEING)?.kernel();
    let Path(Place { index }) = place.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let record = record(kernel, index).await?;
    Ok(json_of(record.as_str().to_owned()))
}

#[derive(Deserialize)]
struct Place {
    index: u64,
}

/// The record at `index`, which a caller named.
pub(super) async fn record(kernel: &Arc<Kernel>, index: u64) -> Answer<RecordView> {
    let records = kernel.ledger().snapshot().records;
    if index >= records {
        return Err(ApiError::Absent(format!("there is no record {index}: the ledger has {records}, from 0 on")));
    }
    reading(kernel, move |kernel| Ok(source::record(kernel.ledger(), index)?)).await
}

/// Do what reads files, where it holds up nobody.
pub(super) async fn reading<T: Send + 'static>(
    kernel: &Arc<Kernel>,
    work: impl FnOnce(&Kernel) -> anyhow::Result<T> + Send + 'static,
) -> Answer<T> {
    let kernel = Arc::clone(kernel);
    let read = tokio::task::spawn_blocking(move || {
        work(&kernel).inspect_err(|why| tracing::error!(kernel = kernel.id(), "records cannot be read: {why:#}"))
    });
    // The cause may name files: it is for the log, not for the caller.
    let unreadable = || ApiError::Unavailable("the records cannot be read now; the server's log says why".into());
    read.await.map_err(|_| unreadable())?.map_err(|_| unreadable())
}

pub(super) fn json_of(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A page of the log in its own order: of the same form, with whose it is and the place where the next one begins. Under a
/// name another kernel may answer than before.
fn upward_text(kernel_id: &str, page: &Upward) -> String {
    let kernel_id = json!(kernel_id);
    let Upward { records, next, committed } = page;
    let records = texts(records);
    format!(
        "{{\"kernel_id\":{kernel_id},\"records\":[{records}],\"next_cursor\":null,\"next_index\":{next},\"complete\":true,\"indexed\":{committed},\"committed\":{committed}}}"
    )
}

/// Records are canonical JSON and go out as they are.
fn texts(records: &[RecordView]) -> String {
    records.iter().map(RecordView::as_str).collect::<Vec<_>>().join(",")
}

fn page_text(page: &Page) -> String {
    let records = texts(&page.records);
    let next = json!(page.next.map(|next| next.to_string()));
    let Page { indexed, committed, .. } = page;
    let complete = indexed == committed;
    format!(
        "{{\"records\":[{records}],\"next_cursor\":{next},\"complete\":{complete},\"indexed\":{indexed},\"committed\":{committed}}}"
    )
}

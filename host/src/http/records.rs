//! The routes that find records. What is answered is read from the ledger, byte for byte.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::routes::{Answer, Id, SEEING, permitted};
use crate::config::Limits;
use crate::index::{Page, PageLimits, Query, Upward, source, upward};
use crate::kernel::Kernel;
use axum::extract::{Path, Query as Asks, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use gavel_ledger::{RecordView, View};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
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
    of: Option<String>,
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
        let Self { kind, request_id, actor, tool, decision, from, to, limit: _, cursor, from_index, of: _ } = self;
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
    let Asks(asked) = asked.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let log = whose(&app, &caller, id.as_deref(), asked.of.as_deref())?;
    let query = asked.query().map_err(ApiError::Unreadable)?;
    let limits = asked.limits(&app.inner.limits).map_err(ApiError::Unreadable)?;
    let start = asked.upward().map_err(ApiError::Unreadable)?;
    match (log, start) {
        (Log::Of(kernel), None) => {
            let page = reading(&kernel, move |kernel| kernel.find(&query, limits)).await?;
            Ok(json_of(page_text(&page)))
        }
        (Log::Of(kernel), Some(start)) => {
            let page = reading(&kernel, move |kernel| kernel.upward(start, limits)).await?;
            Ok(json_of(upward_text(kernel.id(), &page)))
        }
        (Log::Closed(id, folder), Some(start)) => {
            let page = reading_closed(&app, &id, folder, move |view| Ok(upward(view, start, limits)?)).await?;
            if page.next >= page.committed {
                app.inner.fleet.leave_closed(&id);
            }
            Ok(json_of(upward_text(&id, &page)))
        }
        (Log::Closed(id, _), None) => Err(ApiError::Unreadable(format!(
            "kernel '{id}' was replaced, and nothing is found in its ledger any more: read it upward, with from_index"
        ))),
    }
}

async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    place: Result<Path<Place>, axum::extract::rejection::PathRejection>,
    asked: Result<Asks<Whose>, axum::extract::rejection::QueryRejection>,
) -> Answer<Response> {
    let Asks(Whose { of }) = asked.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let log = whose(&app, &caller, id.as_deref(), of.as_deref())?;
    let Path(Place { index }) = place.map_err(|why| ApiError::Unreadable(why.body_text()))?;
    let record = match log {
        Log::Of(kernel) => record(&kernel, index).await?,
        Log::Closed(id, folder) => {
            let read = move |view: &View| {
                let held = view.records();
                Ok(if index < held { Ok(view.record(index)?) } else { Err(no_record(index, held)) })
            };
            reading_closed(&app, &id, folder, read).await??
        }
    };
    Ok(json_of(record.as_str().to_owned()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Whose {
    of: Option<String>,
}

/// Whose log is asked for.
pub(super) enum Log {
    /// That of a kernel that answers.
    Of(Arc<Kernel>),
    /// That of a kernel that was replaced: its id, and the ledger's folder.
    Closed(String, PathBuf),
}

/// The log that is meant by a name or id in the path, and by the id of a kernel that answers under that name or did.
pub(super) fn whose(app: &App, caller: &Caller, id: Option<&str>, of: Option<&str>) -> Answer<Log> {
    let fleet = &app.inner.fleet;
    // Under the id of a kernel that was replaced nobody is found, unless it is a name too.
    let name = id.filter(|id| fleet.find(id).is_none()).and_then(|id| fleet.name_of_replaced(id));
    let slot = permitted(app, caller, name.as_deref().or(id), &SEEING)?;
    let kernel = slot.kernel();
    let of = of.or_else(|| name.is_some().then_some(id).flatten());
    let Some(of) = of.filter(|of| *of != kernel.id()) else { return Ok(Log::Of(kernel)) };
    let absent = || {
        let why = "there is no ledger of a kernel of this id that answers under this name or was replaced under it";
        ApiError::Absent(format!("'{}': {why}", of.chars().take(64).collect::<String>()))
    };
    let folder = fleet.closed_folder(&slot, of).ok_or_else(absent)?;
    Ok(Log::Closed(of.to_owned(), folder))
}

fn no_record(index: u64, records: u64) -> ApiError {
    ApiError::Absent(format!("there is no record {index}: the ledger has {records}, from 0 on"))
}

/// The same as [`reading`] of the ledger of a kernel that was replaced.
async fn reading_closed<T: Send + 'static>(
    app: &App,
    kernel_id: &str,
    folder: PathBuf,
    work: impl FnOnce(&View) -> anyhow::Result<T> + Send + 'static,
) -> Answer<T> {
    let (fleet, id) = (Arc::clone(&app.inner.fleet), kernel_id.to_owned());
    blocking(kernel_id, move || work(&fleet.closed_ledger(&id, &folder)?)).await
}

#[derive(Deserialize)]
struct Place {
    index: u64,
}

/// The record at `index`, which a caller named.
pub(super) async fn record(kernel: &Arc<Kernel>, index: u64) -> Answer<RecordView> {
    let records = kernel.ledger().snapshot().records;
    if index >= records {
        return Err(no_record(index, records));
    }
    reading(kernel, move |kernel| Ok(source::record(kernel.ledger(), index)?)).await
}

/// Do what reads files, where it holds up nobody.
pub(super) async fn reading<T: Send + 'static>(
    kernel: &Arc<Kernel>,
    work: impl FnOnce(&Kernel) -> anyhow::Result<T> + Send + 'static,
) -> Answer<T> {
    let (kernel, id) = (Arc::clone(kernel), kernel.id().to_owned());
    blocking(&id, move || work(&kernel)).await
}

async fn blocking<T: Send + 'static>(
    kernel_id: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Answer<T> {
    let id = kernel_id.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        work().inspect_err(|why| tracing::error!(kernel = id, "records cannot be read: {why:#}"))
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

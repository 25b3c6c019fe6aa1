//! The routes.

use super::answers::{Failed, Reading};
use super::question::Asked;
use super::{Trail, export};
use crate::SEEING;
use crate::doors::{Door, Doors, Params};
use crate::fault::Fault;
use crate::following::Seen;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const FILTERS: &[(&str, &str)] = &[
    ("q", "Words that must be in the record: `term`, `\"a phrase\"`, `field:value`, `AND`, `OR`, `NOT`, brackets."),
    ("source", "`governance.ID` or `immutable_log`."),
    ("kind", "The kind of record."),
    ("actor", "Who asked, or who appended."),
    ("tool", "The tool that was asked for."),
    ("decision", "ALLOW, DENY or HALT."),
    ("request_id", "The request."),
    ("policy", "The policy that decided."),
    ("from", "Not before this time: RFC 3339, or milliseconds since 1970."),
    ("to", "Not after this time."),
    ("limit", "/search, /records: how many; default 50."),
    ("offset", "/search: how many to pass over."),
    ("cursor", "/records: the `next_cursor` of the page before."),
    ("format", "/export: jsonl or csv."),
];

const HIT: &str = r#"{"hits": [{"source": "governance.k", "index": 7, "ts_ms": 1, "hash": "00ff", "proof": "/kernels/k/prove?index=7&of=k", "score": 1.5, "highlights": [{"text": "a rocket", "words": [[2, 8]]}], "record": {}}], "total": 1, "next_offset": null, "behind": []}"#;
const PAGE: &str = r#"{"records": [{"source": "governance.k", "index": 7, "ts_ms": 1, "hash": "00ff", "proof": "/kernels/k/prove?index=7&of=k", "record": {}}], "next_cursor": 6, "behind": []}"#;
const SUMMARY: &str = r#"{"records": 1, "actors": {"values": [{"value": "a", "records": 1}], "others": 0}, "tools": {"values": [], "others": 0}, "decisions": {"values": [], "others": 0}, "kinds": {"values": [], "others": 0}, "days": [{"day": "2026-01-05", "records": 1}], "behind": []}"#;
const RECORD: &str = r#"{"source": "governance.k", "index": 7, "ts_ms": 1, "hash": "00ff", "proof": "/kernels/k/prove?index=7&of=k", "behind": [], "record": {}}"#;
const SOURCES: &str = r#"{"sources": [{"source": "governance.k", "next": 8, "missed": 0, "holds": 8}], "behind": []}"#;

/// All of them.
pub(super) fn doors() -> Doors<Trail> {
    let door = |summary, query, answer| Door { roles: SEEING, summary, query, body: "", answer };
    Doors::new()
        .get("/search", door("Find records by words, best first; without words the latest first", FILTERS, HIT), search)
        .get(
            "/records",
            door("All records that match, page by page, the last that was taken first", FILTERS, PAGE),
            records,
        )
        .get("/export", door("Everything that matches, as a stream of lines", FILTERS, ""), exported)
        .get("/summary", door("How many records by actor, tool, decision, kind and day", FILTERS, SUMMARY), summary)
        .get("/record/{source}/{index}", door("One record, and where its proof is", &[], RECORD), record)
        .get("/sources", door("The ledgers, and how far each was read", &[], SOURCES), sources)
}

async fn search(State(trail): State<Trail>, Params(asked): Params<Asked>) -> Result<Response, Fault> {
    answer(trail, move |reading, behind| reading.search(&asked, behind)).await
}

async fn records(State(trail): State<Trail>, Params(asked): Params<Asked>) -> Result<Response, Fault> {
    answer(trail, move |reading, behind| reading.records(&asked, behind)).await
}

async fn summary(State(trail): State<Trail>, Params(asked): Params<Asked>) -> Result<Response, Fault> {
    answer(trail, move |reading, behind| reading.summary(&asked, behind)).await
}

async fn record(State(trail): State<Trail>, Path((source, index)): Path<(String, String)>) -> Result<Response, Fault> {
    let number = index.parse().map_err(|_| {
        let shown: String = index.chars().take(40).collect();
        Fault::unreadable(format!("`{}` is no number of a record", shown.escape_debug()))
    })?;
    answer(trail, move |reading, behind| reading.record(&source, number, behind)).await
}

async fn exported(State(trail): State<Trail>, Params(asked): Params<Asked>) -> Result<Response, Fault> {
    let most = trail.settings.exports_max;
    let permit = Arc::clone(&trail.exports).try_acquire_owned().map_err(|_| {
        Fault::too_many(format!("{most} exports are going on already (exports_max): wait until one is done"))
    })?;
    let behind = caught_up(&trail).await.behind();
    let asked_of = trail.clone();
    let mut response = blocking(&trail, move || export::begin(asked_of, &asked, permit)).await?;
    // What streams has no place for it.
    if behind != json!([])
        && let Ok(told) = HeaderValue::from_str(&behind.to_string())
    {
        response.headers_mut().insert("gavel-behind", told);
    }
    Ok(response)
}

async fn sources(State(trail): State<Trail>) -> Json<Value> {
    let seen = caught_up(&trail).await;
    let positions = trail.store.extent().positions;
    let sources = positions.iter().map(|(source, position)| {
        let holds = seen.holds().get(source);
        json!({"source": source, "next": position.next, "missed": position.missed, "holds": holds})
    });
    Json(json!({"sources": sources.collect::<Vec<_>>(), "behind": seen.behind()}))
}

async fn caught_up(trail: &Trail) -> Seen {
    trail.asked.inc();
    trail.follower.caught_up(Duration::from_millis(trail.settings.catch_up_ms)).await
}

async fn answer(
    trail: Trail,
    work: impl FnOnce(&Reading<'_>, &Value) -> Result<String, Failed> + Send + 'static,
) -> Result<Response, Fault> {
    let behind = caught_up(&trail).await.behind();
    let of = trail.clone();
    let text = blocking(&trail, move || work(&Reading::of(&of.store, &of.settings), &behind)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// Read where it holds up nobody. If the index turns out to be damaged, it is made anew.
async fn blocking<T: Send + 'static>(
    trail: &Trail,
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Fault> {
    let why = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(Failed::Asked(fault))) => return Err(fault),
        Ok(Err(Failed::Index(why))) => why,
        Err(_) => "a search broke off in a panic".to_owned(),
    };
    tracing::error!("the index of the audit trail cannot be read: {why}");
    let store = Arc::clone(&trail.store);
    match tokio::task::spawn_blocking(move || store.suspect()).await {
        Ok(Ok(true)) => Err(Fault::unavailable("the index was damaged and is being made anew: ask again")),
        _ => Err(Fault::broken("the index cannot be read; the log of the kernel says why")),
    }
}

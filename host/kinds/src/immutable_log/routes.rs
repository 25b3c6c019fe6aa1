//! The routes of an immutable log.

use super::entry::{self, Entry};
use super::log::Log;
use super::measures::Measures;
use super::prove::{self, Unproved};
use crate::caller::{Caller, Role};
use crate::doors::{Door, Doors, Params};
use crate::fault::Fault;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State as Shared};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use gavel_ledger::RecordView;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Entries of a page where no number is asked for.
const PAGE_ENTRIES: usize = 100;

/// What the routes share.
#[derive(Clone)]
pub(super) struct State {
    pub(super) log: Arc<Log>,
    pub(super) measures: Measures,
}

const APPEND: Door = Door {
    roles: &[Role::Agent, Role::Operator],
    summary: "Append an entry; the answer comes when it is durable. A repetition with the same `key` and content is answered with the first entry, one with other content is a conflict (409). Entries of the kinds `healing` and `given_up` are appended by Guardian and the kernels of the fleet only (403)",
    query: &[],
    body: r#"{"kind": "healing", "data": {"kernel": "audit_trail", "verified": true}, "key": "heal-17"}"#,
    answer: r#"{"index": 2, "ts_ms": 1760000000000, "by": "kernel:self_healing_kernel", "leaf_hash": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", "size": 3, "root": "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35", "repeated": false}"#,
};
const ENTRIES: Door = Door {
    roles: crate::SEEING,
    summary: "Entries in their order, a page at a time; go on at `next` until it is `size`, also where a page is empty",
    query: &[
        ("from", "the first index, 0 if absent"),
        ("limit", "entries of the page, 100 if absent; more than `page_entries_max` are never given"),
        ("kind", "only entries of this kind; one page looks at `page_scan_max` records at most"),
    ],
    body: "",
    answer: r#"{"entries": [{"index": 2, "ts_ms": 1760000000000, "by": "kernel:self_healing_kernel", "kind": "healing", "data": {"kernel": "audit_trail"}, "key": "heal-17", "leaf_hash": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"}], "next": 3, "size": 3}"#,
};
const ENTRY: Door = Door {
    roles: crate::ANY,
    summary: "One entry, and the text of its record, whose leaf hash is SHA-256(0x00, text). An agent sees its own entries only",
    query: &[],
    body: "",
    answer: r#"{"index": 2, "ts_ms": 1760000000000, "by": "agent-7", "kind": "note", "data": 1, "leaf_hash": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", "record": "{\"index\":2,\"kind\":\"event\",\"meta\":{\"by\":\"agent-7\",\"data\":1,\"kind\":\"note\"},\"ts_ms\":1760000000000}"}"#,
};
const PROVE: Door = Door {
    roles: crate::ANY,
    summary: "A file that proves one entry against the latest signed checkpoint, for `gavel verify`. An agent gets its own entries only",
    query: &[],
    body: "",
    answer: r#"{"format": "gavel-proof/1", "kernel_id": "immutable_log", "key": "gavel/immutable_log/00ff00ff00ff00ff+0a0b0c0d+AQ==", "proofs": [{"record": {}, "proof": "c2sp.org/tlog-proof@v1"}], "rotations": []}"#,
};
const CONSISTENCY: Door = Door {
    roles: crate::ANY,
    summary: "A file that proves that the log of one checkpoint begins with that of an earlier one, for `gavel verify`",
    query: &[("from", "records of the earlier checkpoint"), ("to", "records of the later one, the latest if absent")],
    body: "",
    answer: r#"{"format": "gavel-consistency/1", "kernel_id": "immutable_log", "key": "gavel/immutable_log/00ff00ff00ff00ff+0a0b0c0d+AQ==", "old": "NOTE", "new": "NOTE", "consistency": ["BASE64"], "rotations": []}"#,
};
const CHECKPOINT: Door = Door {
    roles: crate::ANY,
    summary: "The latest signed checkpoint, as text: a C2SP note with the origin, the number of records and the root",
    query: &[],
    body: "",
    answer: "",
};
const KEY: Door = Door {
    roles: crate::ANY,
    summary: "The public key that signs the checkpoints, as text: a C2SP vkey, for `gavel verify --key`",
    query: &[],
    body: "",
    answer: "",
};

pub(super) fn doors() -> Doors<State> {
    Doors::new()
        .post("/append", APPEND, append)
        .get("/entries", ENTRIES, entries)
        .get("/entries/{index}", ENTRY, one)
        .get("/prove/{index}", PROVE, inclusion)
        .get("/consistency", CONSISTENCY, consistency)
        .get("/checkpoint", CHECKPOINT, checkpoint)
        .get("/checkpoint/key", KEY, key)
}

async fn append(
    Shared(State { log, measures }): Shared<State>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Fault> {
    let appended = async {
        let body = body.map_err(|why| Fault { status: why.status(), message: why.body_text(), retry_after_s: None })?;
        let entry = Entry::read(&body)?;
        entry.may_be_of(&caller)?;
        log.append(caller.sender(), &entry).await
    };
    let appended = appended.await.inspect_err(|_| measures.count("refused"))?;
    measures.count(if appended.repeated { "repeated" } else { "appended" });
    // What is committed now holds the entry.
    let snapshot = log.snapshot();
    Ok(Json(json!({
        "index": appended.index,
        "ts_ms": appended.ts_ms,
        "by": caller.sender(),
        "leaf_hash": appended.leaf_hash,
        "size": snapshot.records,
        "root": hex::encode(snapshot.root),
        "repeated": appended.repeated,
    })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Page {
    from: u64,
    limit: Option<usize>,
    kind: Option<String>,
}

async fn entries(
    Shared(State { log, .. }): Shared<State>,
    Params(Page { from, limit, kind }): Params<Page>,
) -> Result<Json<Value>, Fault> {
    let most = log.settings.page_entries_max;
    let limit = limit.unwrap_or(PAGE_ENTRIES.min(most));
    if limit == 0 {
        return Err(Fault::not_accepted(format!("limit: 0 is not from 1 to {most}")));
    }
    let limit = limit.min(most);
    kind.as_deref().map_or(Ok(()), entry::check_kind)?;
    log.read(move |log| log.page(from, limit, kind.as_deref())).await.map(Json)
}

async fn one(
    Shared(State { log, .. }): Shared<State>,
    caller: Caller,
    Path(index): Path<String>,
) -> Result<Json<Value>, Fault> {
    let record = readable(&log, &caller, &index).await?;
    let mut told = entry::told(&record);
    told["record"] = json!(record.as_str());
    Ok(Json(told))
}

async fn inclusion(
    Shared(State { log, .. }): Shared<State>,
    caller: Caller,
    Path(index): Path<String>,
) -> Result<Response, Fault> {
    let index = readable(&log, &caller, &index).await?.index();
    Ok(file(proving(&log, move |log| prove::inclusion(log, index)).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Between {
    from: u64,
    #[serde(default)]
    to: Option<u64>,
}

async fn consistency(
    Shared(State { log, .. }): Shared<State>,
    Params(Between { from, to }): Params<Between>,
) -> Result<Response, Fault> {
    Ok(file(proving(&log, move |log| prove::consistency(log, from, to)).await?))
}

async fn checkpoint(Shared(State { log, .. }): Shared<State>) -> Result<Response, Fault> {
    Ok(text(prove::checkpoint(&log)?))
}

async fn key(Shared(State { log, .. }): Shared<State>) -> Result<Response, Fault> {
    Ok(text(format!("{}\n", prove::key(&log)?)))
}

/// The record of a path, if the caller may see it.
async fn readable(log: &Arc<Log>, caller: &Caller, index: &str) -> Result<RecordView, Fault> {
    let number = index.parse::<u64>();
    let number = number.map_err(|_| Fault::absent(format!("there is no entry `{}`", index.escape_debug())))?;
    let record = log.read(move |log| log.ledger.view().record(number)).await?;
    let sees_all = caller.require(crate::SEEING).is_ok();
    if sees_all || entry::sender_of(&record).as_deref() == Some(caller.sender()) {
        return Ok(record);
    }
    let sender = caller.sender();
    Err(Fault::forbidden(format!(
        "entry {number} was not appended by '{sender}': others are for operators and auditors"
    )))
}

async fn proving(
    log: &Arc<Log>,
    prove: impl FnOnce(&Log) -> Result<String, Unproved> + Send + 'static,
) -> Result<String, Fault> {
    Ok(log.read(move |log| Ok(prove(log))).await??)
}

fn file(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

fn text(text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}

//! Traces and logs of what runs beside the fleet: taken as OTLP/HTTP in JSON or as plain lines, kept on disk, found again.
//!
//! What is answered with a success is on disk. What is too much is turned away (429) before it is queued, so senders keep it
//! and come again. Whatever a payload claims of itself, the caller that sent it stands beside it as `sender`.
//!
//! Deliberately absent: OTLP in protobuf and over gRPC, metrics (see the metrics aggregator), sampling, and the erasing of
//! secrets from what is sent.

mod item;
mod otlp;
mod query;
mod settings;
mod store;
mod take;
#[cfg(test)]
mod tests;
mod writer;

use crate::{
    ANY, Body, Caller, Clock, Door, Doors, Fault, Kernel, Kind, Opened, Params, SEEING, Seed, SettingsError, redb_file,
    settings as read_settings,
};
use anyhow::Context;
use axum::Json;
use axum::extract::{Path, State};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use query::{Found, LogsWanted, Page, TracesWanted};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use settings::Settings;
use std::sync::{Arc, Weak};
use std::time::Duration;
use store::{Batch, Store};
use tokio_util::sync::CancellationToken;
use writer::Writer;

pub(crate) const KIND: Kind = Kind {
    name: "telemetry_service",
    purpose: "traces and logs, taken as OTLP in JSON, kept and found again",
    needs: &["message_bus", "immutable_log"],
    check,
    open,
};

/// Between two looks for what has become too old.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Bytes of the file that are held in memory.
const CACHE_BYTES: usize = 4 << 20;

fn check(value: &Value) -> Result<(), SettingsError> {
    read_settings::<Settings>(value)?.check()
}

fn open(seed: Seed) -> Opened {
    Box::pin(async move {
        let settings: Settings = read_settings(&seed.settings)?;
        let kept = settings.clone();
        let folder = seed.folder.clone();
        let store = tokio::task::spawn_blocking(move || {
            let database = redb_file::open(&folder, "telemetry.redb", CACHE_BYTES)?;
            Store::open(database, kept.keep()).context("telemetry.redb cannot be read")
        });
        let store = Arc::new(store.await??);
        let (requests, bytes) = (settings.queue_requests_max, settings.queue_bytes_max);
        let writer = Writer::start(Arc::clone(&store), requests, bytes).context("no thread for writing")?;
        let mut metrics = seed.metrics;
        let counts = Counts::register(&mut metrics);
        let service = Arc::new(Service { store, writer, settings, clock: seed.clock, counts });
        tokio::spawn(sweep(Arc::downgrade(&service), seed.stop));
        let well = Arc::downgrade(&service);
        Ok(Kernel::new(doors().with_state(service), metrics).with_health(move || health(&well)))
    })
}

struct Service {
    store: Arc<Store>,
    writer: Writer,
    settings: Settings,
    clock: Clock,
    counts: Counts,
}

type Shared = State<Arc<Service>>;

#[derive(Debug, Default)]
struct Counts {
    spans: Counter,
    logs: Counter,
    rejected: Counter,
    turned_away: Counter,
    removed: Gauge,
    bytes: Gauge,
}

impl Counts {
    fn register(metrics: &mut Registry) -> Self {
        let counts = Self::default();
        let Self { spans, logs, rejected, turned_away, removed, bytes } = &counts;
        metrics.register("gavel_telemetry_spans", "Spans kept", spans.clone());
        metrics.register("gavel_telemetry_logs", "Log records kept", logs.clone());
        metrics.register("gavel_telemetry_rejected", "Items of a request that could not be taken", rejected.clone());
        metrics.register("gavel_telemetry_turned_away", "Requests for which there was no room", turned_away.clone());
        metrics.register("gavel_telemetry_removed", "Items removed for age or room since the start", removed.clone());
        metrics.register_with_unit("gavel_telemetry_kept", "Of all that is kept, about", Unit::Bytes, bytes.clone());
        counts
    }

    fn after_commit(&self, store: &Store) {
        self.bytes.set(i64::try_from(store.bytes()).unwrap_or(i64::MAX));
        self.removed.set(i64::try_from(store.removed()).unwrap_or(i64::MAX));
    }
}

fn health(service: &Weak<Service>) -> Result<Map<String, Value>, String> {
    let Some(service) = service.upgrade() else { return Err("it is stopping".to_owned()) };
    if let Some(why) = service.store.broken() {
        return Err(format!("the last commit failed: {why}"));
    }
    Ok(Map::from_iter([
        ("kept_bytes".to_owned(), json!(service.store.bytes())),
        ("kept_bytes_max".to_owned(), json!(service.settings.keep_bytes_max)),
    ]))
}

/// Removes what has become too old while nothing comes; what comes removes it on its way.
async fn sweep(service: Weak<Service>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        let Some(service) = service.upgrade() else { return };
        let now_ms = (service.clock)();
        if service.store.has_aged(now_ms)
            && let Err(why) = service.writer.keep(Batch::Sweep { now_ms }, 0).await
        {
            tracing::debug!("what is too old stays for now: {why}");
        }
        service.counts.after_commit(&service.store);
    }
}

const TAKES: Door = Door { roles: ANY, summary: "", query: &[], body: "", answer: "" };
const SHOWS: Door = Door { roles: SEEING, ..TAKES };

const FROM: (&str, &str) = ("from", "from this time, in ms since 1970");
const TO: (&str, &str) = ("to", "until this time, in ms since 1970");
const LIMIT: (&str, &str) = ("limit", "at most so many; 100 where nothing is said");
const BEFORE: (&str, &str) = ("before", "go on where an answer's `next` says");
const SERVICE: (&str, &str) = ("service", "what the payload says of its service");
const OF_TRACES: &[(&str, &str)] = &[
    SERVICE,
    ("name", "with a span of this name"),
    ("min_duration_ms", "with a span that took as long"),
    FROM,
    TO,
    LIMIT,
    BEFORE,
];
const OF_LOGS: &[(&str, &str)] = &[
    ("level", "this level and those above: trace, debug, info, warn, error, fatal"),
    SERVICE,
    ("q", "a part of the message or of a field, in any case"),
    ("trace_id", "of this trace"),
    FROM,
    TO,
    LIMIT,
    BEFORE,
];

fn doors() -> Doors<Arc<Service>> {
    let traces = r#"{"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}, "scopeSpans": [{"spans": [{"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "checkout", "kind": 2, "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000"}]}]}]}"#;
    let logs = r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "1544712660000000000", "severityNumber": 9, "body": {"stringValue": "sold"}}]}]}]}"#;
    let line = r#"{"level": "info", "message": "sold", "fields": {"sum": 12}, "trace_id": "5b8efff798038103d269b633813fc60c", "service": "shop"}"#;
    Doors::new()
        .post(
            "/v1/traces",
            Door { summary: "Take spans: OTLP/HTTP in JSON", body: traces, answer: "{}", ..TAKES },
            take::traces,
        )
        .post(
            "/v1/logs",
            Door { summary: "Take log records: OTLP/HTTP in JSON", body: logs, answer: "{}", ..TAKES },
            take::logs,
        )
        .post(
            "/logs",
            Door { summary: "Take one log record", body: line, answer: r#"{"kept": 1}"#, ..TAKES },
            take::line,
        )
        .get("/traces", Door { summary: "Traces, the latest first", query: OF_TRACES, ..SHOWS }, find_traces)
        .get("/traces/{trace_id}", Door { summary: "A whole trace, in the order of its tree", ..SHOWS }, show_trace)
        .get("/logs", Door { summary: "Log records, the latest first", query: OF_LOGS, ..SHOWS }, find_logs)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TracesAsked {
    service: Option<String>,
    name: Option<String>,
    min_duration_ms: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    limit: Option<usize>,
    before: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsAsked {
    level: Option<String>,
    service: Option<String>,
    q: Option<String>,
    trace_id: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    limit: Option<usize>,
    before: Option<String>,
}

/// Items of an answer where nothing is said, and at most.
const LIMITS: (usize, usize) = (100, 1_000);

fn page(from: Option<u64>, to: Option<u64>, limit: Option<usize>, before: Option<&str>) -> Result<Page, Fault> {
    let (usual, most) = LIMITS;
    let limit = limit.unwrap_or(usual);
    if !(1..=most).contains(&limit) {
        return Err(Fault::unreadable(format!("limit is {limit}: it may be 1 to {most}")));
    }
    let before = before.map(hex::decode).transpose();
    let before = before.map_err(|_| Fault::unreadable("before is not what an answer gave as `next`"))?;
    Ok(Page { from_ms: from.unwrap_or(0), to_ms: to.unwrap_or(u64::MAX), limit, before })
}

fn answer(name: &str, found: Found) -> Json<Value> {
    let next = found.next.map(hex::encode);
    Json(json!({name: found.items, "complete": next.is_none(), "next": next}))
}

async fn find_traces(State(service): Shared, Params(asked): Params<TracesAsked>) -> Result<Json<Value>, Fault> {
    let page = page(asked.from, asked.to, asked.limit, asked.before.as_deref())?;
    let min_duration_ns = asked.min_duration_ms.unwrap_or(0).saturating_mul(1_000_000);
    let wanted = TracesWanted { service: asked.service, name: asked.name, min_duration_ns };
    let store = Arc::clone(&service.store);
    let found = redb_file::aside("traces cannot be read", move || query::traces(&store, &wanted, &page)).await?;
    Ok(answer("traces", found))
}

async fn find_logs(State(service): Shared, Params(asked): Params<LogsAsked>) -> Result<Json<Value>, Fault> {
    let page = page(asked.from, asked.to, asked.limit, asked.before.as_deref())?;
    let severity = asked.level.map(|level| {
        item::severity_of(&level)
            .ok_or_else(|| Fault::unreadable(format!("there is no level '{}'", item::cut(&level, 32))))
    });
    let trace = asked.trace_id.map(|trace| trace_id(&trace));
    let wanted = LogsWanted {
        severity: severity.transpose()?,
        service: asked.service,
        text: asked.q.map(|text| text.to_lowercase()),
        trace: trace.transpose()?,
    };
    let store = Arc::clone(&service.store);
    let found = redb_file::aside("logs cannot be read", move || query::logs(&store, &wanted, &page)).await?;
    Ok(answer("logs", found))
}

async fn show_trace(State(service): Shared, Path(asked): Path<String>) -> Result<Json<Value>, Fault> {
    let trace = trace_id(&asked)?;
    let store = Arc::clone(&service.store);
    let found = redb_file::aside("the trace cannot be read", move || query::trace(&store, &trace)).await?;
    found.map(Json).ok_or_else(|| Fault::absent(format!("there is no trace {asked} here, or no more")))
}

fn trace_id(text: &str) -> Result<item::TraceId, Fault> {
    item::id(text).ok_or_else(|| Fault::unreadable("the id of a trace is 32 hexadecimal digits, and not zero"))
}

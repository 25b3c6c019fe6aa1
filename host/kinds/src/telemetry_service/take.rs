//! Taking what is sent.

use super::item::{Log, SpanId, TraceId, cut, fitted, id, level_of, severity_of};
use super::otlp::{self, Decoded, Frame};
use super::store::{Batch, Taken};
use super::{Arc, Body, Caller, Fault, Service, Shared};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(super) async fn traces(State(service): Shared, caller: Caller, headers: HeaderMap, body: Bytes) -> Response {
    let took = async {
        let decoded = decoded(&service, &caller, &headers, &body, otlp::spans)?;
        keep(&service, decoded, body.len(), Batch::Spans).await
    };
    match took.await {
        Ok((kept, decoded)) => {
            service.counts.spans.inc_by(kept);
            answered("rejectedSpans", &decoded)
        }
        Err(fault) => refused(&fault),
    }
}

pub(super) async fn logs(State(service): Shared, caller: Caller, headers: HeaderMap, body: Bytes) -> Response {
    let took = async {
        let decoded = decoded(&service, &caller, &headers, &body, otlp::logs)?;
        keep(&service, decoded, body.len(), Batch::Logs).await
    };
    match took.await {
        Ok((kept, decoded)) => {
            service.counts.logs.inc_by(kept);
            answered("rejectedLogRecords", &decoded)
        }
        Err(fault) => refused(&fault),
    }
}

type Decode<T> = fn(&Value, &Frame<'_>) -> Result<Decoded<T>, String>;

fn decoded<T>(
    service: &Service,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    decode: Decode<T>,
) -> Result<Decoded<T>, Fault> {
    let said = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let form = said(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if !form.is_empty() && !form.eq_ignore_ascii_case("application/json") {
        let form = cut(form, 64);
        return Err(unsupported(format!("'{form}' is not taken: send application/json (OTLP/HTTP in JSON)")));
    }
    let coding = said(header::CONTENT_ENCODING);
    if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") {
        return Err(unsupported(format!("a body in '{}' is not taken: send it as it is", cut(coding, 64))));
    }
    let body: Value =
        serde_json::from_slice(body).map_err(|why| Fault::unreadable(format!("the body is not JSON: {why}")))?;
    let frame = Frame { caps: &service.settings.caps(), sender: caller.sender(), now_ms: (service.clock)() };
    decode(&body, &frame).map_err(Fault::unreadable)
}

fn unsupported(message: String) -> Fault {
    Fault { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, message, retry_after_s: None }
}

/// Keep what could be read. Gives how many are kept, and what could not be taken.
async fn keep<T>(
    service: &Service,
    decoded: Decoded<T>,
    bytes: usize,
    batch: impl FnOnce(Vec<T>) -> Batch,
) -> Result<(u64, Decoded<()>), Fault> {
    let mut rest = Decoded { items: Vec::new(), rejected: decoded.rejected, why: decoded.why };
    let mut taken = Taken::default();
    if !decoded.items.is_empty() {
        taken = service.writer.keep(batch(decoded.items), bytes).await.inspect_err(|_| {
            service.counts.turned_away.inc();
        })?;
        service.counts.after_commit(&service.store);
    }
    rest.reject(taken.rejected, "a trace is full (trace_spans_max, trace_bytes_max)".to_owned());
    service.counts.rejected.inc_by(rest.rejected);
    Ok((taken.kept, rest))
}

/// As OTLP has it: a success says nothing, a partial one how many were not taken, and why.
fn answered(name: &str, decoded: &Decoded<()>) -> Response {
    if decoded.rejected == 0 {
        return Json(json!({})).into_response();
    }
    let why = decoded.why.clone().unwrap_or_default();
    // A 64-bit number is text in protobuf's JSON.
    Json(json!({"partialSuccess": {name: decoded.rejected.to_string(), "errorMessage": why}})).into_response()
}

/// The `google.rpc.Status` that OTLP demands, with the same message as everywhere else.
fn refused(fault: &Fault) -> Response {
    let code = match fault.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        status if status.is_server_error() => 13,
        _ => 3,
    };
    let body = json!({"code": code, "message": fault.message, "error": fault.message});
    let mut response = (fault.status, Json(body)).into_response();
    if let Some(seconds) = fault.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// One record, without ceremony.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    #[serde(default = "info")]
    level: String,
    message: String,
    #[serde(default)]
    fields: Map<String, Value>,
    trace_id: Option<String>,
    span_id: Option<String>,
    service: Option<String>,
    ts_ms: Option<u64>,
}

fn info() -> String {
    "info".to_owned()
}

pub(super) async fn line(State(service): Shared, caller: Caller, Body(line): Body<Line>) -> Result<Json<Value>, Fault> {
    let service: Arc<Service> = service;
    let caps = service.settings.caps();
    let level = cut(&line.level, 32);
    let severity = severity_of(level).ok_or_else(|| {
        Fault::not_accepted(format!(
            "level: there is no level '{level}'; there are trace, debug, info, warn, error, fatal"
        ))
    })?;
    let wrong =
        |name: &str, digits| Fault::not_accepted(format!("{name}: it is {digits} hexadecimal digits, and not zero"));
    let trace = line.trace_id.map(|text| id::<16>(&text).ok_or_else(|| wrong("trace_id", 32))).transpose()?;
    let span = line.span_id.map(|text| id::<8>(&text).ok_or_else(|| wrong("span_id", 16))).transpose()?;
    let (fields, dropped) = fitted(line.fields, &caps);
    let message = cut(&line.message, caps.message_bytes_max).to_owned();
    let now_ms = (service.clock)();
    let log = Log {
        ts_ms: line.ts_ms.unwrap_or(now_ms),
        level: level_of(severity).to_owned(),
        severity,
        dropped: dropped + u64::from(message.len() < line.message.len()),
        service: cut(line.service.as_deref().unwrap_or(caller.sender()), caps.name_bytes_max).to_owned(),
        fields,
        resource: Map::new(),
        trace_id: trace.map(|id: TraceId| hex::encode(id)),
        span_id: span.map(|id: SpanId| hex::encode(id)),
        sender: caller.sender().to_owned(),
        received_ms: now_ms,
        message,
    };
    let bytes = line.message.len() + 256;
    let decoded = Decoded { items: vec![log], rejected: 0, why: None };
    let (kept, _) = keep(&service, decoded, bytes, Batch::Logs).await?;
    service.counts.logs.inc_by(kept);
    Ok(Json(json!({"kept": kept})))
}

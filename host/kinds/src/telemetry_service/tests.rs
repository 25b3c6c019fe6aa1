//! The telemetry service through its router, and over kills.

use super::KIND;
use super::item::{Log, Span};
use super::query::in_order;
use super::store::{Batch, Limits, Store};
use super::writer::{TOGETHER_MAX, Writer};
use crate::trial::{Hands, Trial, live};
use crate::{Peers, redb_file};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const NOW: u64 = 1_700_000_000_000;
const TRACE: &str = "5b8efff798038103d269b633813fc60c";

async fn open(folder: &Path, settings: Value, hands: &Hands) -> Trial {
    Trial::open(&KIND, folder, settings, hands, Peers::none(KIND.name)).await
}

fn span(id: u64, parent: u64, name: &str, start_ms: u64, took_ms: u64) -> Value {
    let parent = if parent == 0 { String::new() } else { format!("{parent:016x}") };
    json!({
        "traceId": TRACE, "spanId": format!("{id:016X}"), "parentSpanId": parent, "name": name, "kind": 2,
        "startTimeUnixNano": ((NOW + start_ms) * 1_000_000).to_string(),
        "endTimeUnixNano": (NOW + start_ms + took_ms) * 1_000_000,
        "status": {"code": if name == "pay" { 2 } else { 0 }},
        "attributes": [
            {"key": "size", "value": {"intValue": "12"}},
            {"key": "tags", "value": {"arrayValue": {"values": [{"boolValue": true}, {"doubleValue": 0.5}]}}},
        ],
        "somethingNew": {"is": "ignored"},
    })
}

fn traces(service: &str, spans: &Value) -> Value {
    let attributes = json!([{"key": "service.name", "value": {"stringValue": service}}]);
    json!({"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"scope": {"name": "lib"}, "spans": spans}]}]})
}

#[test]
fn traces_are_kept_over_a_kill_and_found_by_what_is_in_them() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::at(NOW));
    live(async {
        let trial = open(folder.path(), json!({}), &hands).await;
        let shop = json!([span(3, 2, "pay", 20, 30), span(1, 0, "checkout", 0, 100), span(2, 1, "cart", 10, 80)]);
        assert_eq!(trial.call("shop-key", "POST /v1/traces", &traces("shop", &shop)).await, (200, json!({})));
        let bank = json!([span(4, 3, "book", 25, 5)]);
        assert_eq!(trial.call("bank-key", "POST /v1/traces", &traces("bank", &bank)).await, (200, json!({})));
    });
    live(async {
        let trial = open(folder.path(), json!({}), &hands).await;
        let whole = trial.ask(&format!("GET /traces/{TRACE}"), &Value::Null).await;
        let tree: Vec<_> =
            whole["tree"].as_array().unwrap().iter().map(|span| (&span["name"], &span["depth"])).collect();
        let wanted =
            [("checkout", 0), ("cart", 1), ("pay", 2), ("book", 3)].map(|(name, depth)| (json!(name), json!(depth)));
        assert_eq!(tree, wanted.iter().map(|(name, depth)| (name, depth)).collect::<Vec<_>>());
        assert_eq!(whole["duration_ms"], 100);
        assert_eq!(whole["errors"], 1);
        assert_eq!(whole["senders"], json!(["bank-key", "shop-key"]));
        let pay = &whole["tree"][2];
        assert_eq!(
            (&pay["sender"], &pay["service"], &pay["status"]),
            (&json!("shop-key"), &json!("shop"), &json!("error"))
        );
        assert_eq!(pay["attributes"], json!({"size": 12, "tags": [true, 0.5]}));
        for (query, found) in [
            ("service=shop", 1),
            ("service=bank&name=book", 1),
            ("service=bank&name=pay", 0),
            ("min_duration_ms=100", 1),
            ("min_duration_ms=101", 0),
            ("service=bank&min_duration_ms=6", 0),
            (&format!("from={NOW}"), 1),
            (&format!("from={}", NOW + 1), 0),
            (&format!("to={}", NOW - 1), 0),
        ] {
            let answer = trial.ask(&format!("GET /traces?{query}"), &Value::Null).await;
            assert_eq!(answer["traces"].as_array().unwrap().len(), found, "{query}: {answer}");
        }
        let (status, _) = trial.call("shop-key", "GET /traces", &Value::Null).await;
        assert_eq!(status, 403, "who sends may not read");
        assert_eq!(trial.call("auditor", "GET /traces/00", &Value::Null).await.0, 400);
        assert_eq!(
            trial.call("auditor", &format!("GET /traces/{}", TRACE.replace('5', "6")), &Value::Null).await.0,
            404
        );
    });
}

#[test]
fn nobody_replaces_the_span_of_another_and_a_repeated_one_is_there_once() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::at(NOW));
    live(async {
        let trial = open(folder.path(), json!({}), &hands).await;
        for (who, name) in [("a", "first"), ("a", "again"), ("b", "other")] {
            let body = traces("shop", &json!([span(1, 0, name, 0, 1)]));
            assert_eq!(trial.call(who, "POST /v1/traces", &body).await, (200, json!({})));
        }
        let whole = trial.ask(&format!("GET /traces/{TRACE}"), &Value::Null).await;
        let mut told: Vec<_> = whole["tree"]
            .as_array()
            .unwrap()
            .iter()
            .map(|span| format!("{} {}", span["sender"], span["name"]))
            .collect();
        told.sort();
        assert_eq!(told, ["\"a\" \"first\"", "\"b\" \"other\""]);
    });
}

#[test]
fn what_cannot_be_taken_is_counted_and_the_rest_is_taken() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::at(NOW));
    live(async {
        let trial = open(folder.path(), json!({"request_spans_max": 3, "trace_spans_max": 2}), &hands).await;
        let mut bad = span(9, 0, "bad", 0, 1);
        bad["traceId"] = json!("nothing");
        let spans =
            json!([bad, span(1, 0, "a", 0, 1), span(2, 1, "b", 0, 1), span(3, 1, "c", 0, 1), span(4, 1, "d", 0, 1)]);
        let (status, answer) = trial.call("a", "POST /v1/traces", &traces("shop", &spans)).await;
        let why = "a span has no traceId of 32 hexadecimal digits";
        // One without an id, one more than a request may hold, one more than a trace may hold.
        assert_eq!((status, answer), (200, json!({"partialSuccess": {"rejectedSpans": "3", "errorMessage": why}})));
        let whole = trial.ask(&format!("GET /traces/{TRACE}"), &Value::Null).await;
        assert_eq!(whole["spans"], 2);
        let (status, answer) = trial.send("a", "POST /v1/traces", "application/x-protobuf", vec![10_u8, 0]).await;
        assert_eq!((status, &answer["code"]), (415, &json!(3)));
        let (status, answer) = trial.send("a", "POST /v1/traces", "application/json", "{").await;
        assert_eq!((status, &answer["code"]), (400, &json!(3)), "{answer}");
        let (status, _) = trial.call("a", "POST /v1/traces", &json!({"resourceSpans": 1})).await;
        assert_eq!(status, 400);
        assert_eq!(trial.call("a", "POST /v1/traces", &json!({})).await, (200, json!({})));
        let (status, _) = trial.call("a", "POST /logs", &json!({"level": "loud", "message": "x"})).await;
        assert_eq!(status, 422);
    });
}

#[test]
fn logs_are_found_by_level_text_service_and_trace_page_by_page() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::at(NOW));
    live(async {
        let trial = open(folder.path(), json!({}), &hands).await;
        for n in 0..25_u64 {
            hands.forward(1);
            let level = if n % 5 == 0 { "error" } else { "info" };
            let line = json!({"level": level, "message": format!("Sold number {n}"), "fields": {"who": "Ada"}, "service": "shop"});
            assert_eq!(trial.call("shop-key", "POST /logs", &line).await, (200, json!({"kept": 1})));
        }
        let record = json!({
            "timeUnixNano": (NOW * 1_000_000).to_string(), "severityNumber": 13, "traceId": TRACE,
            "body": {"kvlistValue": {"values": [{"key": "a", "value": {"stringValue": "Deep"}}]}},
        });
        let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]});
        assert_eq!(trial.call("bank-key", "POST /v1/logs", &body).await, (200, json!({})));
    });
    live(async {
        let trial = open(folder.path(), json!({}), &hands).await;
        let (mut seen, mut next) = (Vec::new(), String::new());
        loop {
            let answer = trial.ask(&format!("GET /logs?service=shop&limit=7{next}"), &Value::Null).await;
            seen.extend(answer["logs"].as_array().unwrap().iter().map(|log| log["message"].clone()));
            let Some(before) = answer["next"].as_str() else { break };
            next = format!("&before={before}");
        }
        let wanted: Vec<_> = (0..25).rev().map(|n| json!(format!("Sold number {n}"))).collect();
        assert_eq!(seen, wanted, "the latest first, each once");
        for (query, found) in [
            ("level=error", 5),
            ("level=warn", 6),
            ("q=NUMBER%2012", 1),
            ("q=ada", 25),
            ("q=deep", 1),
            ("service=bank", 0),
        ] {
            let answer = trial.ask(&format!("GET /logs?{query}"), &Value::Null).await;
            assert_eq!(answer["logs"].as_array().unwrap().len(), found, "{query}");
        }
        let answer = trial.ask(&format!("GET /logs?trace_id={TRACE}"), &Value::Null).await;
        assert_eq!(answer["logs"].as_array().unwrap().len(), 1);
        let log = &answer["logs"][0];
        assert_eq!(
            (&log["level"], &log["sender"], &log["message"]),
            (&json!("warn"), &json!("bank-key"), &json!("{\"a\":\"Deep\"}"))
        );
    });
}

#[test]
fn what_is_too_old_or_too_much_goes_in_the_order_in_which_it_came() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::at(NOW));
    let settings = json!({"keep_bytes_max": 1 << 20, "keep_ms": 60_000, "message_bytes_max": 1 << 20});
    live(async {
        let trial = open(folder.path(), settings.clone(), &hands).await;
        let big = "x".repeat(200_000);
        trial.ask("POST /v1/traces", &traces("shop", &json!([span(1, 0, "a", 0, 1)]))).await;
        for n in 0..8_u64 {
            // What it claims of its time decides nothing.
            let line = json!({"message": format!("{n} {big}"), "ts_ms": NOW - n * 1_000_000, "trace_id": TRACE});
            trial.ask("POST /logs", &line).await;
        }
        let health = trial.ask("GET /health", &Value::Null).await;
        assert!(health["kept_bytes"].as_u64().unwrap() <= 1 << 20, "{health}");
        let logs = trial.ask(&format!("GET /logs?trace_id={TRACE}"), &Value::Null).await;
        let left: Vec<_> = logs["logs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|log| log["message"].as_str().unwrap().chars().next().unwrap())
            .collect();
        assert_eq!(left, ['3', '4', '5', '6', '7'], "the oldest by arrival went, the latest claimed times come first");
        assert_eq!(trial.call("auditor", &format!("GET /traces/{TRACE}"), &Value::Null).await.0, 404);
    });
    hands.forward(60_001);
    live(async {
        let trial = open(folder.path(), settings, &hands).await;
        trial.ask("POST /logs", &json!({"message": "new"})).await;
        let logs = trial.ask("GET /logs", &Value::Null).await;
        let left: Vec<_> = logs["logs"].as_array().unwrap().iter().map(|log| log["message"].clone()).collect();
        assert_eq!(left, ["new"]);
    });
}

#[test]
fn a_full_queue_turns_away_at_once_and_what_waited_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let database = redb_file::open(folder.path(), "telemetry.redb", 1 << 20).unwrap();
    let keep = Limits { bytes_max: 1 << 20, keep_ms: 60_000, trace_spans_max: 10, trace_bytes_max: 1 << 20 };
    let store = Arc::new(Store::open(database, keep).unwrap());
    let writer = Arc::new(Writer::start(Arc::clone(&store), 2, 1_000).unwrap());
    live(async {
        let log = || Batch::Logs(vec![Log { message: "x".into(), received_ms: NOW, ts_ms: NOW, ..Log::default() }]);
        assert_eq!(writer.keep(log(), 1_001).await.unwrap_err().status.as_u16(), 413);
        // Nothing is written while somebody else writes: the thread waits with what it took, and the queue fills up.
        let other = store.database.begin_write().unwrap();
        let mut waiting = Vec::new();
        let turned_away = loop {
            let mut asked = Box::pin(writer.keep(log(), 1));
            match asked.as_mut().now_or_never() {
                Some(answer) => break answer.unwrap_err(),
                None => waiting.push(asked),
            }
        };
        assert_eq!(turned_away.status.as_u16(), 429, "{turned_away}");
        assert!((2..=2 + TOGETHER_MAX).contains(&waiting.len()), "{} wait", waiting.len());
        other.abort().unwrap();
        for asked in waiting {
            assert_eq!(asked.await.unwrap().kept, 1);
        }
    });
}

#[test]
fn every_span_has_its_place_in_circles_and_deep_chains() {
    let one = |id: usize, parent: Option<usize>| Span {
        span_id: format!("{id:016x}"),
        parent_span_id: parent.map(|parent| format!("{parent:016x}")),
        ..Span::default()
    };
    let circle = [one(1, Some(3)), one(2, Some(1)), one(3, Some(2)), one(4, Some(99))];
    let chain: Vec<_> = (0..50_000).map(|id| one(id, id.checked_sub(1))).collect();
    let twins = [one(1, None), one(1, None), one(2, Some(1))];
    for spans in [&circle[..], &chain, &twins] {
        let ordered = in_order(spans);
        assert_eq!(ordered.len(), spans.len());
        assert_eq!(ordered.iter().map(|(at, _)| at).collect::<BTreeSet<_>>().len(), spans.len());
    }
    assert_eq!(in_order(&chain).last(), Some(&(49_999, 49_999)));
}

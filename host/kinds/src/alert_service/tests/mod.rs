//! The alert service through its doors, and after a kill.

mod delivery;
mod receiver;

use super::KIND;
use super::record::{ALERTS, KEYS};
use crate::Peers;
use crate::trial::{Hands, Trial};
use axum::http::StatusCode;
use redb::{ReadableDatabase, ReadableTableMetadata};
use serde_json::{Value, json};
use std::path::Path;

const AGENT: &str = "agent-1 agent";
const OPERATOR: &str = "ops operator";
const GUARDIAN: &str = "guardian fleet";
const KERNEL: &str = "kernel:audit_trail fleet";

fn something(severity: &str, name: &str) -> Value {
    json!({"severity": severity, "source": "guardian", "name": name, "message": "m", "labels": {"kernel": "x"}})
}

async fn open(folder: &Path, settings: &Value, hands: &Hands) -> Trial {
    Trial::open(&KIND, folder, settings.clone(), hands, Peers::none(KIND.name)).await
}

async fn raise(alerts: &Trial, who: &str, body: Value) -> Value {
    let (status, answer) = alerts.post(who, "/alerts", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// The receivers that an alert was told to, in their order, with why.
fn told(alert: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let notifications = alert["notifications"].as_array().unwrap();
    notifications.iter().map(|told| (text(&told["receiver"]), text(&told["reason"]))).collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(receiver, reason)| ((*receiver).to_owned(), (*reason).to_owned())).collect()
}

#[tokio::test]
async fn the_same_alert_is_counted_while_it_is_open_and_a_while_after() {
    let folder = tempfile::tempdir().unwrap();
    let hands = Hands::at(1_000);
    let settings = json!({"dedupe_window_ms": 1_000});
    let alerts = open(folder.path(), &settings, &hands).await;
    let first = raise(&alerts, GUARDIAN, something("warning", "n")).await;
    assert_eq!((&first["id"], &first["status"], &first["count"]), (&json!("a0"), &json!("open"), &json!(1)));
    hands.forward(50);
    let again = raise(&alerts, KERNEL, something("warning", "n")).await;
    assert_eq!((&again["id"], &again["status"], &again["count"]), (&json!("a0"), &json!("deduplicated"), &json!(2)));
    assert_eq!((&again["first_ms"], &again["last_ms"]), (&json!(1_000), &json!(1_050)));
    let other = raise(&alerts, AGENT, something("warning", "n")).await;
    assert_eq!((&other["id"], &other["status"]), (&json!("a1"), &json!("open")), "nobody hides another's alert");
    alerts.kill();
    let alerts = open(folder.path(), &settings, &hands).await;
    assert_eq!(raise(&alerts, GUARDIAN, something("info", "n")).await["count"], 3);
    assert_eq!(alerts.post(OPERATOR, "/alerts/a0/resolve", json!({"note": "done"})).await.1["status"], "resolved");
    hands.forward(999);
    let late = raise(&alerts, GUARDIAN, something("warning", "n")).await;
    assert_eq!((&late["id"], &late["status"], &late["count"]), (&json!("a0"), &json!("open"), &json!(4)), "reopened");
    let (_, alert) = alerts.get(OPERATOR, "/alerts/a0").await;
    assert_eq!((&alert["status"], &alert["resolved"]), (&json!("open"), &Value::Null));
    assert_eq!(told(&alert), pairs(&[("log", "opened"), ("log", "resolved"), ("log", "reopened")]));
    assert_eq!(raise(&alerts, GUARDIAN, something("warning", "n")).await["status"], "deduplicated");
    alerts.post(OPERATOR, "/alerts/a0/resolve", json!({})).await;
    hands.forward(1_000);
    assert_eq!(raise(&alerts, GUARDIAN, something("warning", "n")).await["id"], "a2");
    let keyed =
        |name: &str| json!({"severity": "info", "source": "s", "name": name, "message": "m", "dedupe_key": "k"});
    assert_eq!(raise(&alerts, AGENT, keyed("a")).await["id"], "a3");
    assert_eq!(raise(&alerts, AGENT, keyed("b")).await["id"], "a3");
}

#[tokio::test]
async fn what_gets_worse_begins_its_way_anew() {
    let folder = tempfile::tempdir().unwrap();
    let alerts = open(folder.path(), &json!({}), &Hands::at(1_000)).await;
    raise(&alerts, GUARDIAN, something("warning", "n")).await;
    let (_, acknowledged) = alerts.post(OPERATOR, "/alerts/a0/acknowledge", json!({})).await;
    assert_eq!((&acknowledged["status"], &acknowledged["acknowledged"]["by"]), (&json!("acknowledged"), &json!("ops")));
    assert_eq!(raise(&alerts, GUARDIAN, something("warning", "n")).await["alert_status"], "acknowledged");
    let worse = raise(&alerts, GUARDIAN, something("critical", "n")).await;
    assert_eq!((&worse["status"], &worse["alert_status"]), (&json!("deduplicated"), &json!("open")));
    let (_, alert) = alerts.get(OPERATOR, "/alerts/a0").await;
    assert_eq!(told(&alert), pairs(&[("log", "opened"), ("log", "raised")]));
    alerts.post(OPERATOR, "/alerts/a0/resolve", json!({})).await;
    assert_eq!(alerts.post(OPERATOR, "/alerts/a0/acknowledge", json!({})).await.0, StatusCode::CONFLICT);
    assert_eq!(alerts.post(OPERATOR, "/alerts/a0/resolve", json!({})).await.0, StatusCode::OK, "once more is the same");
    raise(&alerts, GUARDIAN, something("info", "mild")).await;
    alerts.post(OPERATOR, "/alerts/a1/resolve", json!({})).await;
    let worse = raise(&alerts, GUARDIAN, something("critical", "mild")).await;
    assert_eq!((&worse["id"], &worse["status"]), (&json!("a2"), &json!("open")), "worse than what was resolved is new");
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        json!({"open_max": 3, "open_per_sender_max": 2, "alerts_max": 4, "message_bytes_max": 10, "labels_max": 1});
    let alerts = open(folder.path(), &settings, &Hands::at(1)).await;
    let mut long = something("info", "n");
    long["message"] = json!("x".repeat(11));
    let mut labelled = something("info", "n");
    labelled["labels"] = json!({"a": "1", "b": "2"});
    let mut claims = something("info", "n");
    claims["by"] = json!("guardian");
    for (who, body, status) in [
        ("", something("info", "n"), 401),
        ("eye auditor", something("info", "n"), 403),
        (AGENT, something("bad", "n"), 422),
        (AGENT, something("info", ""), 422),
        (AGENT, claims, 422),
        (AGENT, labelled, 422),
        (AGENT, long, 413),
        (AGENT, something("info", "a"), 200),
        (AGENT, something("info", "b"), 200),
        (AGENT, something("info", "c"), 429),
        ("agent-2 agent", something("info", "c"), 503),
        (GUARDIAN, something("info", "c"), 200),
        (GUARDIAN, something("info", "d"), 503),
    ] {
        let (got, answer) = alerts.post(who, "/alerts", body).await;
        assert_eq!(got, status, "{who}: {answer}");
    }
    assert_eq!(alerts.get(AGENT, "/alerts").await.0, StatusCode::FORBIDDEN);
    for path in ["/alerts/a0/acknowledge", "/alerts/a0/resolve", "/silences"] {
        assert_eq!(alerts.post(AGENT, path, json!({})).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    for path in ["/alerts/a9", "/alerts/a01", "/alerts/9"] {
        assert_eq!(alerts.get(OPERATOR, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn alerts_are_filtered_paged_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"open_max": 5, "open_per_sender_max": 5, "alerts_max": 6});
    let alerts = open(folder.path(), &settings, &Hands::at(1)).await;
    let ids = |page: &Value| -> Vec<String> {
        page["alerts"].as_array().unwrap().iter().map(|alert| alert["id"].as_str().unwrap().to_owned()).collect()
    };
    for (n, severity) in ["info", "critical", "warning", "critical"].iter().enumerate() {
        raise(&alerts, GUARDIAN, something(severity, &format!("n{n}"))).await;
    }
    alerts.post(OPERATOR, "/alerts/a1/resolve", json!({})).await;
    alerts.post(OPERATOR, "/alerts/a2/acknowledge", json!({})).await;
    for (query, wanted) in [
        ("", vec!["a3", "a2", "a1", "a0"]),
        ("?status=open", vec!["a3", "a0"]),
        ("?status=open,acknowledged&severity=critical,warning", vec!["a3", "a2"]),
        ("?name=n1&source=guard*", vec!["a1"]),
        ("?source=other", vec![]),
    ] {
        let (_, page) = alerts.get(OPERATOR, &format!("/alerts{query}")).await;
        assert_eq!(ids(&page), wanted, "{query}");
    }
    let (_, page) = alerts.get(OPERATOR, "/alerts?limit=3").await;
    assert_eq!((ids(&page), &page["next"]), (vec!["a3".into(), "a2".into(), "a1".into()], &json!("a1")));
    let (_, page) = alerts.get(OPERATOR, "/alerts?limit=3&before=a1").await;
    assert_eq!((ids(&page), &page["next"]), (vec!["a0".into()], &json!(null)));
    assert_eq!(alerts.get(OPERATOR, "/alerts?status=bad").await.0, StatusCode::BAD_REQUEST);
    for n in 4..8 {
        raise(&alerts, GUARDIAN, something("info", &format!("n{n}"))).await;
        alerts.post(OPERATOR, &format!("/alerts/a{n}/resolve"), json!({})).await;
    }
    let (_, page) = alerts.get(OPERATOR, "/alerts").await;
    assert_eq!(ids(&page), ["a7", "a6", "a5", "a3", "a2", "a0"], "the oldest resolved ones are forgotten");
    alerts.kill();
    let alerts = open(folder.path(), &settings, &Hands::at(1)).await;
    assert_eq!(alerts.get("", "/health").await.1["open"], 3);
    assert_eq!(raise(&alerts, GUARDIAN, something("info", "n1")).await["id"], "a8");
    alerts.kill();
    let database = crate::trial::let_go(&folder.path().join("alerts.redb")).await;
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(ALERTS).unwrap().len().unwrap(), 6);
    assert_eq!(read.open_table(KEYS).unwrap().len().unwrap(), 6, "what is forgotten leaves nothing");
}

#[tokio::test]
async fn routes_are_put_checked_kept_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({
        "receivers": {"ops": "log", "boss": "log"},
        "routes": [{"name": "all", "steps": [{"receivers": ["ops"]}]}],
    });
    let alerts = open(folder.path(), &settings, &Hands::at(1)).await;
    let (_, routes) = alerts.get(OPERATOR, "/routes").await;
    assert_eq!((&routes["from"], &routes["routes"][0]["name"]), (&json!("settings"), &json!("all")));
    for bad in [
        json!({"routes": [{"steps": [{"receivers": ["nobody"]}]}]}),
        json!({"routes": [{"steps": []}]}),
        json!({"routes": [{"match": {"name": "a*b"}, "steps": [{"receivers": ["ops"]}]}]}),
        json!({"routes": [{"match": {"colour": "red"}, "steps": [{"receivers": ["ops"]}]}]}),
    ] {
        assert_eq!(alerts.put(OPERATOR, "/routes", bad.clone()).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    let own = json!({"routes": [
        {"name": "bad", "match": {"severity_min": "warning", "labels": {"kernel": "x*"}}, "steps": [{"receivers": ["boss", "ops"]}]},
    ]});
    assert_eq!(alerts.put(OPERATOR, "/routes", own).await.0, StatusCode::OK);
    alerts.kill();
    let alerts = open(folder.path(), &settings, &Hands::at(1)).await;
    assert_eq!(raise(&alerts, GUARDIAN, something("critical", "a")).await["route"], "bad");
    assert_eq!(raise(&alerts, GUARDIAN, something("info", "b")).await["route"], "default");
    let (_, alert) = alerts.get(OPERATOR, "/alerts/a0").await;
    assert_eq!(told(&alert), pairs(&[("boss", "opened"), ("ops", "opened")]));
    let (_, routes) = alerts.delete(OPERATOR, "/routes").await;
    assert_eq!(routes["from"], "settings");
    assert_eq!(raise(&alerts, GUARDIAN, something("info", "c")).await["route"], "all");
}

#[tokio::test]
async fn every_door_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let alerts = open(folder.path(), &json!({}), &Hands::at(1)).await;
    alerts.check_document().await;
}

#[test]
fn settings_out_of_range_are_refused_by_name_and_without_their_secrets() {
    for (settings, told) in [
        (json!({"alert_max": 1}), "unknown field"),
        (json!({"open_max": 10, "alerts_max": 10}), "alerts_max: 10"),
        (json!({"receivers": {"a b": "log"}}), "a b"),
        (json!({"receivers": {"x": {"webhook": {"url": "hidden"}}}}), "receivers.x.webhook.url"),
        (json!({"default_route": [{"receivers": ["x"]}]}), "default_route.steps.0"),
        (json!({"routes": [{"steps": [{"receivers": ["log"]}, {"receivers": ["log"]}]}]}), "after_ms"),
    ] {
        let why = (KIND.check)(&settings).unwrap_err().to_string();
        assert!(why.contains(told) && !why.contains("hidden"), "{settings}: {why}");
    }
    assert!((KIND.check)(&json!(null)).is_ok());
}

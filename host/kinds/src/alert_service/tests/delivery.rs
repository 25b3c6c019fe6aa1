//! Telling, trying again, escalating, keeping silent.

use super::receiver::Receiver;
use super::{GUARDIAN, OPERATOR, open, pairs, raise, something, told};
use crate::trial::{Hands, let_go};
use axum::http::StatusCode;
use serde_json::{Value, json};

fn to(receiver: &Receiver) -> Value {
    json!({
        "receivers": {"hook": receiver.settings()},
        "default_route": [{"receivers": ["hook"]}],
        "tries_max": 5,
        "pause_ms": 100,
    })
}

fn state(alert: &Value, at: usize) -> Value {
    alert["notifications"][at]["state"].clone()
}

#[tokio::test]
async fn a_receiver_that_fails_twice_gets_the_same_a_third_time() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, hands) = (Receiver::start(&[500, 503]).await, Hands::at(1_000));
    let alerts = open(folder.path(), &to(&receiver), &hands).await;
    raise(&alerts, GUARDIAN, something("critical", "n")).await;
    receiver.called(1).await;
    alerts.until(OPERATOR, "/alerts/a0", |alert| alert["notifications"][0]["tries"] == 1).await;
    hands.forward(100);
    receiver.called(2).await;
    let alert = alerts.until(OPERATOR, "/alerts/a0", |alert| alert["notifications"][0]["tries"] == 2).await;
    assert_eq!(
        (state(&alert, 0), &alert["notifications"][0]["why"]),
        (json!("pending"), &json!("503 Service Unavailable"))
    );
    hands.forward(200);
    let taken = receiver.taken(1).await;
    assert_eq!((&taken[0]["reason"], &taken[0]["alert"]["id"]), (&json!("opened"), &json!("a0")));
    assert_eq!(taken[0]["alert"]["severity"], "critical");
    let alert = alerts.until(OPERATOR, "/alerts/a0", |alert| state(alert, 0) == "delivered").await;
    assert_eq!((&alert["notifications"][0]["tries"], receiver.calls()), (&json!(3), 3));
    assert_eq!(alert["notifications"][0]["id"], taken[0]["id"]);
    alerts.post(OPERATOR, "/alerts/a0/resolve", json!({"note": "back"})).await;
    let taken = receiver.taken(2).await;
    assert_eq!((&taken[1]["reason"], &taken[1]["alert"]["resolved"]["note"]), (&json!("resolved"), &json!("back")));
}

#[tokio::test]
async fn what_was_accepted_is_told_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, hands) = (Receiver::start(&[]).await, Hands::at(1_000));
    receiver.answers_always(Some(500));
    let alerts = open(folder.path(), &to(&receiver), &hands).await;
    raise(&alerts, GUARDIAN, something("critical", "n")).await;
    raise(&alerts, GUARDIAN, something("critical", "m")).await;
    alerts.kill();
    // Until then, what was on its way may still be written down as not taken, by the clock of that moment.
    drop(let_go(&folder.path().join("alerts.redb")).await);
    receiver.answers_always(None);
    hands.forward(10_000);
    let alerts = open(folder.path(), &to(&receiver), &hands).await;
    let taken = receiver.taken(2).await;
    let mut names: Vec<&str> = taken.iter().map(|body| body["alert"]["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["m", "n"]);
    alerts.until(OPERATOR, "/receivers", |all| all["receivers"][0]["waiting"] == 0).await;
    let (_, answer) = alerts.get(OPERATOR, "/receivers").await;
    let (_, health) = alerts.get(OPERATOR, "/health").await;
    assert!(!format!("{answer}{health}").contains("hidden"), "{answer}{health}");
    assert_eq!(answer["receivers"][0]["signed"], true);
}

#[tokio::test]
async fn what_is_never_taken_is_given_up_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, hands) = (Receiver::start(&[400]).await, Hands::at(1_000));
    receiver.answers_always(Some(500));
    let mut settings = to(&receiver);
    settings["tries_max"] = json!(2);
    settings["pending_max"] = json!(1);
    let alerts = open(folder.path(), &settings, &hands).await;
    raise(&alerts, GUARDIAN, something("info", "refused")).await;
    let alert = alerts.until(OPERATOR, "/alerts/a0", |alert| state(alert, 0) == "given_up").await;
    assert_eq!((&alert["notifications"][0]["tries"], receiver.calls()), (&json!(1), 1), "400 stays 400");
    raise(&alerts, GUARDIAN, something("info", "failing")).await;
    receiver.called(2).await;
    alerts.until(OPERATOR, "/alerts/a1", |alert| alert["notifications"][0]["tries"] == 1).await;
    raise(&alerts, GUARDIAN, something("info", "too many")).await;
    let (_, alert) = alerts.get(OPERATOR, "/alerts/a2").await;
    assert_eq!(state(&alert, 0), "dropped");
    hands.forward(100);
    alerts.until(OPERATOR, "/alerts/a1", |alert| state(alert, 0) == "given_up").await;
    alerts.kill();
    // Whoever is no longer named is not waited for.
    let alerts = open(folder.path(), &json!({}), &hands).await;
    assert_eq!(alerts.get(OPERATOR, "/health").await.1["notifications_waiting"], 0);
}

fn stairs() -> Value {
    json!({
        "receivers": {"first": "log", "second": "log", "third": "log"},
        "default_route": [
            {"receivers": ["first"], "after_ms": 60_000},
            {"receivers": ["second"], "after_ms": 60_000},
            {"receivers": ["third"]},
        ],
    })
}

#[tokio::test]
async fn what_nobody_acknowledges_goes_to_the_next_also_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let hands = Hands::at(1_000);
    let alerts = open(folder.path(), &stairs(), &hands).await;
    raise(&alerts, GUARDIAN, something("critical", "left")).await;
    raise(&alerts, GUARDIAN, something("critical", "seen")).await;
    hands.forward(59_999);
    let (_, alert) = alerts.get(OPERATOR, "/alerts/a0").await;
    assert_eq!((told(&alert), &alert["due_ms"]), (pairs(&[("first", "opened")]), &json!(61_000)));
    alerts.post(OPERATOR, "/alerts/a1/acknowledge", json!({"note": "mine"})).await;
    hands.forward(1);
    alerts.until(OPERATOR, "/alerts/a0", |alert| alert["step"] == 2).await;
    alerts.kill();
    hands.forward(60_000);
    let alerts = open(folder.path(), &stairs(), &hands).await;
    let alert = alerts.until(OPERATOR, "/alerts/a0", |alert| alert["step"] == 3).await;
    assert_eq!(told(&alert), pairs(&[("first", "opened"), ("second", "escalated"), ("third", "escalated")]));
    assert_eq!(alert["due_ms"], json!(null), "that was the last");
    let (_, seen) = alerts.get(OPERATOR, "/alerts/a1").await;
    assert_eq!(told(&seen), pairs(&[("first", "opened")]));
}

#[tokio::test]
async fn a_silence_holds_back_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let hands = Hands::at(1_000);
    let alerts = open(folder.path(), &stairs(), &hands).await;
    for bad in [
        json!({"match": {}, "for_ms": 10, "why": "w"}),
        json!({"match": {"name": "a"}, "why": "w"}),
        json!({"match": {"name": "a"}, "for_ms": 0, "why": "w"}),
        json!({"match": {"name": "a"}, "until_ms": 999, "why": "w"}),
        json!({"match": {"name": "a"}, "for_ms": 10, "why": ""}),
    ] {
        assert_eq!(alerts.post(OPERATOR, "/silences", bad.clone()).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    let (_, short) =
        alerts.post(OPERATOR, "/silences", json!({"match": {"name": "a*"}, "for_ms": 500, "why": "w"})).await;
    assert_eq!((&short["id"], &short["until_ms"], &short["by"]), (&json!("s0"), &json!(1_500), &json!("ops")));
    let long = json!({"match": {"name": "b"}, "until_ms": 9_000, "why": "moving"});
    assert_eq!(alerts.post(OPERATOR, "/silences", long).await.0, StatusCode::OK);
    assert_eq!(raise(&alerts, GUARDIAN, something("critical", "a1")).await["silenced"], true);
    assert_eq!(raise(&alerts, GUARDIAN, something("critical", "b")).await["silenced"], true);
    assert_eq!(raise(&alerts, GUARDIAN, something("critical", "c")).await["silenced"], false);
    alerts.kill();
    hands.forward(500);
    let alerts = open(folder.path(), &stairs(), &hands).await;
    let alert = alerts.until(OPERATOR, "/alerts/a0", |alert| alert["step"] == 1).await;
    assert_eq!((told(&alert), &alert["silence"]), (pairs(&[("first", "opened")]), &json!(null)));
    let (_, held) = alerts.get(OPERATOR, "/alerts/a1").await;
    assert_eq!((told(&held), &held["silence"]), (pairs(&[]), &json!("s1")));
    let (_, active) = alerts.get(OPERATOR, "/silences").await;
    assert_eq!(active["silences"].as_array().unwrap().len(), 1);
    assert_eq!(active["silences"][0]["why"], "moving");
    assert_eq!(alerts.delete(OPERATOR, "/silences/s1").await.1["told"], 1);
    alerts.until(OPERATOR, "/alerts/a1", |alert| told(alert) == pairs(&[("first", "opened")])).await;
    assert_eq!(alerts.delete(OPERATOR, "/silences/s1").await.0, StatusCode::NOT_FOUND);
}

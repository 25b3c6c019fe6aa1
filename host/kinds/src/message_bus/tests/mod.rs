//! The bus through its doors, and after a kill.

mod groups;
mod law;
mod stream;

use super::KIND;
use crate::Peers;
use crate::trial::{Hands, Trial};
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::path::Path;

const AGENT: &str = "agent-1 agent";
const OPERATOR: &str = "ops operator";
const AUDITOR: &str = "eye auditor";

async fn open(folder: &Path, settings: &Value, hands: &Hands) -> Trial {
    Trial::open(&KIND, folder, settings.clone(), hands, Peers::none(KIND.name)).await
}

async fn publish(bus: &Trial, who: &str, topic: &str, event: &str, data: Value) -> Value {
    let (status, receipt) =
        bus.post(who, &format!("/topics/{topic}/messages"), json!({"event": event, "data": data})).await;
    assert_eq!(status, StatusCode::OK, "{receipt}");
    receipt
}

fn offsets(page: &Value) -> Vec<u64> {
    page["messages"].as_array().unwrap().iter().map(|message| message["offset"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn what_is_published_is_read_with_the_sender_that_called() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({}), &Hands::at(1_000)).await;
    let receipt = publish(&bus, AGENT, "jobs", "job:done", json!({"n": 123_456_789_012_345_678_u64})).await;
    assert_eq!(receipt["offset"], 0);
    assert_eq!((&receipt["sender"], &receipt["ts_ms"]), (&json!("agent-1"), &json!(1_000)));
    publish(&bus, OPERATOR, "jobs", "job:failed", json!(null)).await;
    let (_, page) = bus.get(AUDITOR, "/topics/jobs/messages?from=0").await;
    assert_eq!(offsets(&page), [0, 1]);
    assert_eq!(page["next"], 2);
    assert_eq!(page["messages"][0]["data"], json!({"n": 123_456_789_012_345_678_u64}));
    assert_eq!(page["messages"][0]["id"], receipt["id"]);
    let (_, page) = bus.get(AGENT, "/topics/jobs/messages?events=*:failed").await;
    assert_eq!(offsets(&page), [1]);
    let (_, page) = bus.get(AGENT, "/topics/jobs/messages?limit=1").await;
    assert_eq!((offsets(&page), &page["next"]), (vec![0], &json!(1)));
    let (_, topics) = bus.get(AGENT, "/topics").await;
    assert_eq!(topics["total"], 2);
    assert_eq!((&topics["topics"][1]["topic"], &topics["topics"][1]["messages"]), (&json!("jobs"), &json!(2)));
    let (_, topics) = bus.get(AGENT, "/topics?after=fleet&limit=1").await;
    assert_eq!((&topics["topics"][0]["topic"], &topics["more"]), (&json!("jobs"), &json!(false)));
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({"message_bytes_max": 1_000, "topics_max": 2}), &Hands::at(1)).await;
    let messages = |topic: &str| format!("/topics/{topic}/messages");
    let good = json!({"event": "a:b", "data": 1});
    for (who, path, body, status) in [
        ("", messages("jobs"), good.clone(), 401),
        (AUDITOR, messages("jobs"), good.clone(), 403),
        (AGENT, messages("fleet"), good.clone(), 403),
        (OPERATOR, messages("fleet"), good.clone(), 403),
        ("kernel:x fleet", messages("fleet"), good.clone(), 200),
        (AGENT, messages("-jobs"), good.clone(), 422),
        (AGENT, messages("a%2Fb"), good.clone(), 422),
        (AGENT, messages("jobs"), json!({"event": "a b"}), 422),
        (AGENT, messages("jobs"), json!({"event": "a:b", "sender": "guardian"}), 422),
        (AGENT, messages("jobs"), json!({"event": "a:b", "data": "x".repeat(1_000)}), 413),
        (AGENT, messages("jobs"), json!({"event": "a:b", "key": ""}), 422),
        (AGENT, messages("jobs"), good.clone(), 200),
        (AGENT, messages("more"), good.clone(), 429),
    ] {
        let (got, answer) = bus.post(who, &path, body).await;
        assert_eq!(got, status, "{who} {path}: {answer}");
    }
    assert_eq!(bus.put(AGENT, "/topics/jobs", json!({})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(bus.delete(AGENT, "/topics/jobs").await.0, StatusCode::FORBIDDEN);
    assert_eq!(bus.put(OPERATOR, "/topics/jobs", json!({"bytes_max": 10})).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(bus.get(AGENT, "/topics/none/messages").await.0, StatusCode::NOT_FOUND);
    let (status, answer) = bus.get(AGENT, "/topics/jobs/messages?from=7").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer["error"].as_str().unwrap().contains("next message will be at 1"), "{answer}");
    let mut deep = json!(1);
    for _ in 0..65 {
        deep = json!([deep]);
    }
    let (status, _) = bus.post(AGENT, &messages("jobs"), json!({"event": "a", "data": deep})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_key_publishes_once_also_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, hands) = (json!({"key_age_ms": 10_000}), Hands::at(1_000));
    let bus = open(folder.path(), &settings, &hands).await;
    let path = "/topics/jobs/messages";
    let body = json!({"event": "job:done", "data": {"job": 7}, "key": "job-7"});
    let (_, first) = bus.post(AGENT, path, body.clone()).await;
    bus.kill();
    hands.forward(5_000);
    let bus = open(folder.path(), &settings, &hands).await;
    let (_, again) = bus.post(AGENT, path, body.clone()).await;
    assert_eq!(again["duplicate"], true);
    for member in ["topic", "offset", "id", "sender", "ts_ms"] {
        assert_eq!(first[member], again[member], "{member}");
    }
    let (status, _) = bus.post(AGENT, path, json!({"event": "job:done", "data": {"job": 8}, "key": "job-7"})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (_, other) = bus.post("agent-2 agent", path, body.clone()).await;
    assert_eq!(other["offset"], 1, "a key is its sender's");
    hands.forward(5_001);
    let (_, late) = bus.post(AGENT, path, body.clone()).await;
    assert_eq!((&late["offset"], &late["duplicate"]), (&json!(2), &Value::Null), "it is forgotten by then");
    let (_, again) = bus.post(AGENT, path, body).await;
    assert_eq!((&again["offset"], &again["duplicate"]), (&json!(2), &json!(true)));
}

#[tokio::test]
async fn keys_are_remembered_within_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({"keys_max": 2}), &Hands::at(1)).await;
    let keyed = |key: &str| json!({"event": "e", "key": key});
    for key in ["a", "b", "c"] {
        bus.post(AGENT, "/topics/t/messages", keyed(key)).await;
    }
    let (_, topic) = bus.get(AGENT, "/topics/t").await;
    assert_eq!(topic["keys"], 2);
    assert_eq!(bus.post(AGENT, "/topics/t/messages", keyed("c")).await.1["duplicate"], true);
    assert_eq!(bus.post(AGENT, "/topics/t/messages", keyed("a")).await.1["offset"], 3, "the oldest is forgotten");
}

#[tokio::test]
async fn a_key_that_came_again_is_not_forgotten_with_its_older_self() {
    let folder = tempfile::tempdir().unwrap();
    let hands = Hands::at(1_000);
    let bus = open(folder.path(), &json!({"keys_max": 2, "key_age_ms": 10}), &hands).await;
    let keyed = |key: &str| json!({"event": "e", "key": key});
    assert_eq!(bus.post(AGENT, "/topics/t/messages", keyed("a")).await.1["offset"], 0);
    hands.forward(11);
    assert_eq!(bus.post(AGENT, "/topics/t/messages", keyed("a")).await.1["offset"], 1);
    assert_eq!(bus.post(AGENT, "/topics/t/messages", keyed("b")).await.1["offset"], 2);
    let (_, again) = bus.post(AGENT, "/topics/t/messages", keyed("a")).await;
    assert_eq!((&again["offset"], &again["duplicate"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn an_offset_is_given_once_whatever_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let hands = Hands::at(1_000);
    let bus = open(folder.path(), &json!({}), &hands).await;
    for n in 0..10 {
        publish(&bus, AGENT, "t", "e", json!(n)).await;
    }
    let (status, told) = bus.put(OPERATOR, "/topics/t", json!({"messages_max": 3})).await;
    assert_eq!((status, &told["retention"]["messages_max"]), (200, &json!(3)));
    bus.until(OPERATOR, "/topics/t", |topic| topic["messages"] == 3).await;
    let (_, page) = bus.get(AGENT, "/topics/t/messages?from=0").await;
    assert_eq!((offsets(&page), &page["missed"]), (vec![7, 8, 9], &json!(7)));
    hands.forward(100);
    bus.put(OPERATOR, "/topics/t", json!({"age_ms": 50})).await;
    bus.until(OPERATOR, "/topics/t", |topic| topic["messages"] == 0 && topic["bytes"] == 0).await;
    bus.kill();
    let bus = open(folder.path(), &json!({}), &hands).await;
    assert_eq!(publish(&bus, AGENT, "t", "e", json!(0)).await["offset"], 10);
    let (_, gone) = bus.delete(OPERATOR, "/topics/t").await;
    assert_eq!((&gone["messages"], &gone["deleted"]), (&json!(1), &json!(true)));
    assert_eq!(bus.get(AGENT, "/topics/t").await.0, StatusCode::NOT_FOUND);
    bus.kill();
    let bus = open(folder.path(), &json!({}), &hands).await;
    let (_, anew) = bus.put(OPERATOR, "/topics/t", json!({})).await;
    assert_eq!((&anew["first"], &anew["messages"]), (&json!(11), &json!(0)));
    assert_eq!(publish(&bus, AGENT, "t", "e", json!(0)).await["offset"], 11);
}

#[tokio::test]
async fn bytes_are_bounded_for_a_topic_and_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"message_bytes_max": 1_000, "bytes_max": 2_000, "store_bytes_max": 3_700});
    let bus = open(folder.path(), &settings, &Hands::at(1)).await;
    for _ in 0..5 {
        publish(&bus, AGENT, "a", "e", json!("x".repeat(800))).await;
    }
    let (_, topic) = bus.get(AGENT, "/topics/a").await;
    assert_eq!(topic["messages"], 2, "{topic}");
    publish(&bus, AGENT, "b", "e", json!("x".repeat(800))).await;
    let (status, answer) = bus.post(AGENT, "/topics/c/messages", json!({"event": "e", "data": "x".repeat(800)})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer["error"].as_str().unwrap().contains("store_bytes_max"), "{answer}");
    assert_eq!(bus.get(AGENT, "/topics/c").await.0, StatusCode::NOT_FOUND, "nothing was made");
    publish(&bus, "guardian fleet", "fleet", "fleet:healed", json!("x".repeat(800))).await;
}

#[tokio::test]
async fn who_waits_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({"wait_ms_max": 30_000}), &Hands::at(1)).await;
    publish(&bus, AGENT, "t", "first", json!(0)).await;
    let waiting = bus.get(AGENT, "/topics/t/messages?from=end&events=good:*&wait_ms=30000");
    let publishing = async {
        bus.until(OPERATOR, "/health", |health| health["readers"] == 1).await;
        publish(&bus, AGENT, "t", "bad:one", json!(1)).await;
        publish(&bus, AGENT, "t", "good:one", json!(2)).await;
    };
    let ((status, page), ()) = tokio::join!(waiting, publishing);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(offsets(&page), [2]);
    let (status, _) = bus.get(AGENT, "/topics/t/messages?wait_ms=30001").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn publishers_at_the_same_time_share_commits_and_get_an_offset_each() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({}), &Hands::at(1)).await;
    let all = (0..50).map(|n| publish(&bus, AGENT, "t", "e", json!(n)));
    let receipts = futures_util::future::join_all(all).await;
    let mut given: Vec<u64> = receipts.iter().map(|receipt| receipt["offset"].as_u64().unwrap()).collect();
    given.sort_unstable();
    assert_eq!(given, (0..50).collect::<Vec<u64>>());
    let (_, health) = bus.get("", "/health").await;
    assert!(health["commits"].as_u64().unwrap() < 50, "{health}");
    bus.kill();
    let bus = open(folder.path(), &json!({}), &Hands::at(1)).await;
    assert_eq!(offsets(&bus.get(AGENT, "/topics/t/messages").await.1).len(), 50);
}

#[tokio::test]
async fn every_door_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({}), &Hands::at(1)).await;
    bus.check_document().await;
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    for (settings, told) in [
        (json!({"topic_max": 1}), "unknown field"),
        (json!({"topics_max": 0}), "topics_max: 0"),
        (json!({"bytes_max": 10}), "bytes_max: 10"),
        (json!({"lease_ms": 10, "lease_ms_max": 5}), "lease_ms: 10"),
        (json!({"topics": {"a b": {}}}), "a b"),
        (json!({"topics": {"a": {"messages_max": 0}}}), "topics.a.messages_max"),
    ] {
        let why = (KIND.check)(&settings).unwrap_err().to_string();
        assert!(why.contains(told), "{settings}: {why}");
    }
    assert!((KIND.check)(&json!(null)).is_ok());
}

//! Consumer groups through their doors.

use super::{AGENT, AUDITOR, OPERATOR, offsets, open, publish};
use crate::trial::{Hands, Trial};
use axum::http::StatusCode;
use serde_json::{Value, json};

const OTHER: &str = "agent-2 agent";
const GROUP: &str = "/topics/t/groups/g";

async fn lease(bus: &Trial, who: &str, max: usize) -> Value {
    let (status, leased) = bus.post(who, &format!("{GROUP}/lease"), json!({"max": max, "lease_ms": 1_000})).await;
    assert_eq!(status, StatusCode::OK, "{leased}");
    leased
}

async fn ack(bus: &Trial, who: &str, body: Value) -> Value {
    bus.post(who, &format!("{GROUP}/ack"), body).await.1
}

async fn filled(folder: &std::path::Path, settings: &Value, hands: &Hands, messages: usize) -> Trial {
    let bus = open(folder, settings, hands).await;
    for n in 0..messages {
        publish(&bus, AGENT, "t", "job", json!(n)).await;
    }
    bus
}

#[tokio::test]
async fn members_share_the_messages_and_settle_only_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let hands = Hands::at(1_000);
    let bus = filled(folder.path(), &json!({}), &hands, 4).await;
    let mine = lease(&bus, AGENT, 2).await;
    let theirs = lease(&bus, OTHER, 5).await;
    assert_eq!((offsets(&mine), offsets(&theirs)), (vec![0, 1], vec![2, 3]));
    assert_eq!((&mine["until_ms"], &mine["messages"][0]["deliveries"]), (&json!(2_000), &json!(1)));
    assert!(offsets(&lease(&bus, AGENT, 5).await).is_empty());
    let outcome = ack(&bus, AGENT, json!({"offsets": [0, 2, 9]})).await;
    assert_eq!(outcome, json!({"done": [0], "not_held": [2, 9]}));
    let outcome = ack(&bus, AGENT, json!({"offsets": [1], "lease": theirs["lease"]})).await;
    assert_eq!(outcome["not_held"], json!([1]), "that is another lease");
    assert_eq!(bus.post(AUDITOR, &format!("{GROUP}/lease"), json!({})).await.0, StatusCode::FORBIDDEN);
    bus.kill();
    let bus = open(folder.path(), &json!({}), &hands).await;
    assert!(offsets(&lease(&bus, AGENT, 5).await).is_empty(), "leases outlive a kill");
    let outcome = ack(&bus, OPERATOR, json!({"offsets": [1, 2, 3]})).await;
    assert_eq!(outcome["done"], json!([1, 2, 3]), "operators may settle what others hold");
    let (_, groups) = bus.get(AUDITOR, "/topics/t/groups").await;
    let group = &groups["groups"][0];
    assert_eq!((&group["acked"], &group["pending"], &group["waiting"]), (&json!(4), &json!(0), &json!(0)));
}

#[tokio::test]
async fn a_lease_ends_by_the_clock_and_a_message_given_too_often_is_a_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, hands) = (json!({"deliveries_max": 2, "messages_max": 5}), Hands::at(1_000));
    let bus = filled(folder.path(), &settings, &hands, 1).await;
    let first = lease(&bus, AGENT, 5).await;
    hands.forward(1_000);
    let second = lease(&bus, OTHER, 5).await;
    assert_eq!((offsets(&second), &second["messages"][0]["deliveries"]), (vec![0], &json!(2)));
    let outcome = ack(&bus, AGENT, json!({"offsets": [0], "lease": first["lease"]})).await;
    assert_eq!(outcome["not_held"], json!([0]), "it is in other hands by now");
    hands.forward(1_000);
    assert!(offsets(&lease(&bus, AGENT, 5).await).is_empty());
    for n in 0..9 {
        publish(&bus, AGENT, "t", "later", json!(n)).await;
    }
    bus.kill();
    let bus = open(folder.path(), &settings, &hands).await;
    let (_, dead) = bus.get(AGENT, &format!("{GROUP}/dead")).await;
    assert_eq!(dead["total"], 1);
    let letter = &dead["dead"][0];
    assert_eq!((&letter["message"]["offset"], &letter["deliveries"]), (&json!(0), &json!(2)));
    assert_eq!(letter["holder"], "agent-2");
    let (status, _) = bus.post(AGENT, &format!("{GROUP}/dead/retry"), json!({"offsets": [0]})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (_, again) = bus.post(OPERATOR, &format!("{GROUP}/dead/retry"), json!({"offsets": [0, 1]})).await;
    assert_eq!(again, json!({"done": [0], "not_held": [1]}));
    let leased = lease(&bus, AGENT, 1).await;
    assert_eq!(offsets(&leased), [0], "though the topic no longer keeps it");
    assert_eq!(leased["messages"][0]["data"], 0);
}

#[tokio::test]
async fn what_is_given_back_comes_again_after_its_delay() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, hands) = (json!({"deliveries_max": 2}), Hands::at(1_000));
    let bus = filled(folder.path(), &settings, &hands, 1).await;
    lease(&bus, AGENT, 1).await;
    let nack = json!({"offsets": [0], "delay_ms": 500, "reason": "out of paper"});
    let (_, outcome) = bus.post(AGENT, &format!("{GROUP}/nack"), nack.clone()).await;
    assert_eq!(outcome, json!({"done": [0], "not_held": []}));
    assert_eq!(ack(&bus, AGENT, json!({"offsets": [0]})).await["not_held"], json!([0]), "it was given back");
    assert!(offsets(&lease(&bus, OTHER, 1).await).is_empty());
    hands.forward(500);
    assert_eq!(offsets(&lease(&bus, OTHER, 1).await), [0]);
    let (_, outcome) = bus.post(OTHER, &format!("{GROUP}/nack"), nack).await;
    assert_eq!(outcome["dead"], json!([0]));
    let (_, dead) = bus.get(AGENT, &format!("{GROUP}/dead")).await;
    assert_eq!(dead["dead"][0]["reason"], "out of paper");
    assert_eq!(bus.delete(OPERATOR, GROUP).await.0, StatusCode::OK);
    assert_eq!(bus.get(AGENT, &format!("{GROUP}/dead")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_member_waits_for_a_message_and_has_no_more_in_hand_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let hands = Hands::at(1_000);
    let bus =
        filled(folder.path(), &json!({"in_flight_max": 2, "wait_ms_max": 30_000, "groups_max": 1}), &hands, 0).await;
    publish(&bus, AGENT, "t", "job", json!(0)).await;
    bus.put(OPERATOR, "/topics/t", json!({})).await;
    let late = json!({"from": 1, "wait_ms": 30_000, "max": 5});
    let path = format!("{GROUP}/lease");
    let publishing = async {
        bus.until(OPERATOR, "/health", |health| health["readers"] == 1).await;
        publish(&bus, AGENT, "t", "job", json!(1)).await;
    };
    let ((_, leased), ()) = tokio::join!(bus.post(AGENT, &path, late), publishing);
    assert_eq!(offsets(&leased), [1], "this group begins at 1");
    publish(&bus, AGENT, "t", "job", json!(2)).await;
    publish(&bus, AGENT, "t", "job", json!(3)).await;
    assert_eq!(offsets(&lease(&bus, AGENT, 5).await), [2], "two are in hand");
    assert!(offsets(&lease(&bus, AGENT, 5).await).is_empty());
    ack(&bus, AGENT, json!({"offsets": [1]})).await;
    assert_eq!(offsets(&lease(&bus, AGENT, 5).await), [3]);
    let (status, _) = bus.post(AGENT, "/topics/t/groups/second/lease", json!({})).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
}

/// The dead letters of the group after `count` more messages have had their one delivery.
async fn buried(bus: &Trial, hands: &Hands, count: usize) -> Value {
    for _ in 0..count {
        publish(bus, AGENT, "t", "job", json!("x".repeat(600))).await;
    }
    assert_eq!(lease(bus, AGENT, count).await["messages"].as_array().unwrap().len(), count);
    hands.forward(1_000);
    assert!(offsets(&lease(bus, AGENT, count).await).is_empty());
    bus.get(AGENT, &format!("{GROUP}/dead")).await.1
}

fn buried_offsets(dead: &Value) -> Vec<u64> {
    dead["dead"].as_array().unwrap().iter().map(|letter| letter["message"]["offset"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn dead_letters_are_bounded_in_bytes_counted_and_aged() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"deliveries_max": 1, "message_bytes_max": 1_000, "dead_letters_bytes_max": 2_000,
        "dead_letters_age_ms": 5_000, "page_bytes_max": 1_024});
    let hands = Hands::at(1_000);
    let bus = open(folder.path(), &settings, &hands).await;
    publish(&bus, AGENT, "t", "job", json!("x".repeat(600))).await;
    lease(&bus, AGENT, 1).await;
    bus.post(AGENT, &format!("{GROUP}/ack"), json!({"offsets": [0]})).await;
    assert_eq!(buried_offsets(&buried(&bus, &hands, 1).await), [1]);
    assert_eq!(buried_offsets(&buried(&bus, &hands, 1).await), [1, 2]);
    assert_eq!(buried_offsets(&buried(&bus, &hands, 1).await), [2, 3], "the oldest is dropped");
    let (_, topic) = bus.get(AGENT, "/topics/t").await;
    let dead_bytes = topic["dead_bytes"].as_u64().unwrap();
    assert!((1_200..=2_000).contains(&dead_bytes), "{topic}");
    assert_eq!(bus.get("", "/health").await.1["bytes"], topic["bytes"].as_u64().unwrap() + dead_bytes);
    let (_, page) = bus.get(AGENT, &format!("{GROUP}/dead?limit=1")).await;
    assert_eq!((buried_offsets(&page), &page["next"]), (vec![2], &json!(3)));
    bus.post(OPERATOR, &format!("{GROUP}/dead/retry"), json!({"offsets": [3]})).await;
    assert_eq!(offsets(&lease(&bus, AGENT, 1).await), [3]);
    ack(&bus, AGENT, json!({"offsets": [3]})).await;
    hands.forward(10_000);
    bus.kill();
    let bus = open(folder.path(), &settings, &hands).await;
    let topic = bus.until(AGENT, "/topics/t", |topic| topic["dead_bytes"] == 0).await;
    assert_eq!(bus.get("", "/health").await.1["bytes"], topic["bytes"]);
    assert_eq!(bus.get(AGENT, &format!("{GROUP}/dead")).await.1["total"], 0, "the last was too old");
}

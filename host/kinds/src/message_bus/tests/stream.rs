//! The stream of a topic.

use super::{AGENT, OPERATOR, open, publish};
use crate::trial::{Hands, PATIENCE, Trial};
use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use serde_json::{Value, json};

async fn listen(bus: &Trial, path: &str, headers: &[(&str, &str)]) -> Body {
    let response = bus.answer(AGENT, &format!("GET {path}"), headers, "").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    assert_eq!(piece(&mut body).await.unwrap(), ": listening\n\n");
    body
}

/// What comes next; nothing at the end of the stream.
async fn piece(body: &mut Body) -> Option<String> {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap()?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

/// The ids in a piece.
fn ids(piece: &str) -> Vec<u64> {
    piece.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
}

#[tokio::test]
async fn a_listener_that_comes_back_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({}), &Hands::at(1)).await;
    for n in 0..3 {
        publish(&bus, AGENT, "t", "a:b", json!({"n": n, "text": "two\nlines"})).await;
    }
    let mut body = listen(&bus, "/topics/t/stream?from=1", &[]).await;
    let first = piece(&mut body).await.unwrap();
    assert_eq!(ids(&first), [1, 2]);
    let data = first.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let message: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&message["event"], &message["data"]["text"]), (&json!("a:b"), &json!("two\nlines")));
    publish(&bus, AGENT, "t", "a:c", json!(3)).await;
    assert_eq!(ids(&piece(&mut body).await.unwrap()), [3]);
    drop(body);
    publish(&bus, AGENT, "t", "a:d", json!(4)).await;
    let mut body = listen(&bus, "/topics/t/stream?from=0", &[("last-event-id", "3")]).await;
    assert_eq!(ids(&piece(&mut body).await.unwrap()), [4]);
    bus.until(OPERATOR, "/health", |health| health["readers"] == 1).await;
}

#[tokio::test]
async fn a_listener_chooses_by_pattern_and_is_told_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({"readers_max": 2}), &Hands::at(1)).await;
    publish(&bus, AGENT, "t", "x:y", json!(0)).await;
    let mut some = listen(&bus, "/topics/t/stream?from=end&events=good:*", &[]).await;
    let mut all = listen(&bus, "/topics/fleet/stream", &[]).await;
    let third = bus.answer(AGENT, "GET /topics/t/stream", &[], "").await;
    assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
    publish(&bus, AGENT, "t", "bad:one", json!(1)).await;
    publish(&bus, AGENT, "t", "good:one", json!(2)).await;
    assert_eq!(ids(&piece(&mut some).await.unwrap()), [2]);
    bus.delete(OPERATOR, "/topics/t").await;
    assert_eq!(piece(&mut some).await.unwrap(), "event: gone\ndata: {}\n\n");
    assert_eq!(piece(&mut some).await, None);
    bus.stop();
    assert_eq!(piece(&mut all).await, None, "the kernel ends, and so do its streams");
}

#[tokio::test]
async fn what_retention_took_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &json!({"messages_max": 2}), &Hands::at(1)).await;
    for n in 0..5 {
        publish(&bus, AGENT, "t", "e", json!(n)).await;
    }
    let mut body = listen(&bus, "/topics/t/stream?from=1", &[]).await;
    let piece = piece(&mut body).await.unwrap();
    assert!(piece.starts_with("event: missed\ndata: {\"missed\":2}\n\n"), "{piece}");
    assert_eq!(ids(&piece), [3, 4]);
}

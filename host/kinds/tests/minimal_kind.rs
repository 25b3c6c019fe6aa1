//! The kind that the documentation shows: it is what stands there, it serves, and it keeps what it answered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "minimal/tally.rs"]
mod tally;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use gavel_kinds::{Bounds, Caller, Peers, Seed};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

const PAGE: &str = include_str!("../../../docs/fleet/adding-a-kind.md");

async fn opened(folder: &Path) -> Router {
    let seed = Seed {
        name: "apples".into(),
        folder: folder.to_owned(),
        settings: json!({"name_bytes_max": 16}),
        clock: Arc::new(|| 0),
        peers: Peers::none("apples"),
        stop: CancellationToken::new(),
        metrics: Registry::default(),
    };
    (tally::KIND.check)(&seed.settings).unwrap();
    let kernel = (tally::KIND.open)(seed).await.unwrap();
    let bounds = Bounds { body_bytes_max: 1 << 10, in_flight_max: 8, timeout: Duration::from_mins(1) };
    gavel_kinds::router("apples", kernel, Arc::new(|_| Ok(Caller::trusted("anyone"))), bounds).0
}

async fn post(router: &mut Router, path: &str, body: &Value) -> (StatusCode, Value) {
    let request = Request::post(path).body(Body::from(body.to_string())).unwrap();
    let answer = router.call(request).await.unwrap();
    let status = answer.status();
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn the_page_shows_the_kind_that_is_tested() {
    assert!(
        PAGE.contains(include_str!("minimal/tally.rs")),
        "copy tests/minimal/tally.rs into docs/fleet/adding-a-kind.md"
    );
}

#[tokio::test]
async fn it_counts_and_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let mut router = opened(folder.path()).await;
    let told = post(&mut router, "/counts/red", &json!({"amount": 2})).await;
    assert_eq!(told, (StatusCode::OK, json!({"name": "red", "count": 2})));
    drop(router);
    let mut router = opened(folder.path()).await;
    let told = post(&mut router, "/counts/red", &json!({"amount": 1})).await;
    assert_eq!(told, (StatusCode::OK, json!({"name": "red", "count": 3})));
    let long = post(&mut router, "/counts/a-name-that-is-too-long", &json!({"amount": 1})).await;
    assert_eq!(long.0, StatusCode::UNPROCESSABLE_ENTITY, "{}", long.1);
    assert!((tally::KIND.check)(&json!({"name_bytes_max": 0})).is_err());
}

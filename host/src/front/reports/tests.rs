//! What reports promise: each at each of its places, in order, whatever else is down, and never twice anew.

use super::*;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::{Json, Router};
use http_body_util::BodyExt;
use std::collections::BTreeSet;
use std::fs;

/// Stands for the main API: kernels that are down answer 503, the others take what they are told.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    down: BTreeSet<String>,
    told: Vec<(String, Value)>,
}

async fn take(State(door): State<Door>, request: Request) -> (StatusCode, Json<Value>) {
    let kernel = request.uri().path().split('/').nth(1).unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut taken = door.0.lock().unwrap();
    if taken.down.contains(&kernel) {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({})));
    }
    taken.told.push((kernel, serde_json::from_slice(&body).unwrap()));
    (StatusCode::OK, Json(json!({})))
}

impl Door {
    /// With these kernels down, and reports that go through it.
    async fn open(down: &[&str], folder: &Path, reports_max: usize) -> (Self, Arc<Reports>) {
        let door = Self::default();
        door.0.lock().unwrap().down = down.iter().map(|kernel| (*kernel).to_owned()).collect();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(take).with_state(door.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let reports = Reports::open(folder, reports_max, Peers::of_guardian(&url, "token"), |_| true).unwrap();
        (door, Arc::new(reports))
    }

    fn told(&self, kernel: &str) -> Vec<Value> {
        let taken = self.0.lock().unwrap();
        taken.told.iter().filter(|(to, _)| to == kernel).map(|(_, body)| body.clone()).collect()
    }

    fn all_up(&self) {
        self.0.lock().unwrap().down.clear();
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

async fn give_up(reports: &Reports, name: &str) {
    reports.book.keep("given_up", json!({"name": name, "detail": "d"})).await.unwrap();
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_place_that_is_down_keeps_nothing_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (door, reports) = Door::open(&["immutable_log", "message_bus"], folder.path(), 10).await;
    give_up(&reports, "a").await;
    assert_eq!(files(folder.path()), 1, "it is on disk before it is delivered");
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&reports).deliver(stop.clone()));
    until("the first alert comes", || door.told("alert_service").len() == 1).await;
    give_up(&reports, "a").await;
    until("the second alert comes", || door.told("alert_service").len() == 2).await;
    let alerts = door.told("alert_service");
    assert_ne!(alerts[0]["dedupe_key"], alerts[1]["dedupe_key"], "the second is told though the first is resolved");
    assert!(door.told("immutable_log").is_empty() && reports.waiting() == 2);

    door.all_up();
    until("the others have them too", || reports.waiting() == 0 && files(folder.path()) == 0).await;
    for kernel in ["immutable_log", "message_bus", "alert_service"] {
        assert_eq!(door.told(kernel).len(), 2, "{kernel}");
    }
    stop.cancel();
}

#[tokio::test]
async fn one_that_is_dropped_takes_no_other_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (door, reports) = Door::open(&["immutable_log"], folder.path(), 1).await;
    tokio::spawn(Arc::clone(&reports).deliver(CancellationToken::new()));
    give_up(&reports, "a").await;
    until("the bus has the first", || door.told("message_bus").len() == 1).await;
    give_up(&reports, "b").await;
    until("the bus has the second", || door.told("message_bus").len() == 2).await;
    door.all_up();
    until("the log has the second", || reports.waiting() == 0).await;
    let logged: Vec<Value> = door.told("immutable_log").iter().map(|entry| entry["data"]["name"].clone()).collect();
    assert_eq!(logged, ["b"]);
}

#[tokio::test]
async fn what_is_no_report_is_put_aside_and_what_cannot_be_read_waits() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("000000000003.json"), "{").unwrap();
    let unread = folder.path().join("000000000004.json");
    fs::create_dir(&unread).unwrap();
    let (door, reports) = Door::open(&[], folder.path(), 10).await;
    give_up(&reports, "a").await;
    tokio::spawn(Arc::clone(&reports).deliver(CancellationToken::new()));
    until("the good one is delivered", || reports.waiting() == 1 && door.told("alert_service").len() == 1).await;
    assert!(folder.path().join("000000000003.unreadable").exists() && unread.exists());
    fs::remove_dir(&unread).unwrap();
    fs::write(&unread, json!({"key": "k", "kind": "healing", "data": {}}).to_string()).unwrap();
    until("it is read once it can be", || reports.waiting() == 0).await;
    assert_eq!(door.told("immutable_log").len(), 2);
}

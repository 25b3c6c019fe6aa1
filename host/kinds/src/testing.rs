//! A kernel as its tests see it: through its router, with a clock that they set, and a folder that they open again.

use crate::caller::{Caller, Role};
use crate::kind::{Kind, Seed};
use crate::peers::Peers;
use crate::serving::{Bounds, router};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// How long something may take that a machine does at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A clock that tests set.
#[derive(Clone)]
pub(crate) struct Hands(Arc<AtomicU64>);

impl Hands {
    pub(crate) fn at(now_ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now_ms)))
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> crate::Clock {
        let hands = Arc::clone(&self.0);
        Arc::new(move || hands.load(Ordering::SeqCst))
    }
}

/// An open kernel.
pub(crate) struct Opened {
    pub(crate) router: Router,
    pub(crate) stop: CancellationToken,
}

/// Open a kernel of this kind in this folder; while another process, or task, lets go of it, again.
pub(crate) async fn open(kind: Kind, folder: &Path, settings: &Value, hands: &Hands) -> Opened {
    (kind.check)(settings).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let stop = CancellationToken::new();
        let seed = Seed {
            name: kind.name.to_owned(),
            folder: folder.to_owned(),
            settings: settings.clone(),
            clock: hands.clock(),
            peers: Peers::none(kind.name),
            stop: stop.clone(),
            metrics: Registry::default(),
        };
        match (kind.open)(seed).await {
            Ok(kernel) => {
                let bounds = Bounds { body_bytes_max: 2 << 20, in_flight_max: 64, timeout: PATIENCE };
                let (router, _finish) =
                    router(kind.name, kernel, Arc::new(|headers: &HeaderMap| Ok(identify(headers))), bounds);
                return Opened { router, stop };
            }
            Err(why) => {
                let locked = why.chain().any(|why| why.to_string().contains("already open"));
                assert!(locked && Instant::now() < until, "{why:#}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// A store, once the kernel that had it open has let it go.
pub(crate) async fn let_go(file: &Path) -> redb::Database {
    let until = Instant::now() + PATIENCE;
    loop {
        match crate::writer::open_store(file) {
            Ok(database) => return database,
            Err(why) => assert!(Instant::now() < until, "{why}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The caller in the header `as`: `NAME agent`, `NAME operator`, `NAME auditor`, or `NAME fleet` for a part of the fleet.
fn identify(headers: &HeaderMap) -> Caller {
    let text = headers.get("as").and_then(|text| text.to_str().ok()).unwrap_or_default();
    let Some((name, role)) = text.split_once(' ') else { return Caller::unknown() };
    let roles = match role {
        "agent" => vec![Role::Agent],
        "operator" => vec![Role::Operator],
        "auditor" => vec![Role::Auditor],
        _ => return Caller::of_the_fleet(name),
    };
    Caller::with_key(name, None, roles)
}

impl Opened {
    /// What a killed process leaves: nothing is finished, and what works by itself stops where it is.
    pub(crate) fn kill(self) {
        self.stop.cancel();
    }

    pub(crate) async fn ask(
        &self,
        who: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path).header("as", who);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        tokio::time::timeout(PATIENCE * 2, self.router.clone().call(request)).await.unwrap().unwrap()
    }

    async fn json(&self, who: &str, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let response = self.ask(who, method, path, &[], body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(crate) async fn get(&self, who: &str, path: &str) -> (StatusCode, Value) {
        self.json(who, Method::GET, path, "").await
    }

    pub(crate) async fn post(&self, who: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.json(who, Method::POST, path, &body.to_string()).await
    }

    pub(crate) async fn put(&self, who: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.json(who, Method::PUT, path, &body.to_string()).await
    }

    pub(crate) async fn delete(&self, who: &str, path: &str) -> (StatusCode, Value) {
        self.json(who, Method::DELETE, path, "").await
    }

    /// Every route has a summary, and every example is JSON.
    pub(crate) async fn check_document(&self) {
        let (_, document) = self.get("", "/openapi.json").await;
        let paths = document["paths"].as_object().unwrap();
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
                for content in [&operation["requestBody"]["content"], &operation["responses"]["200"]["content"]] {
                    let example = &content["application/json"]["example"];
                    assert!(example.is_null() || example.is_object(), "{method} {path}: {example}");
                }
            }
        }
        assert!(paths.len() > 3, "{document}");
    }

    /// Ask until the answer is as it is to be.
    pub(crate) async fn until(&self, who: &str, path: &str, good: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let (_, answer) = self.get(who, path).await;
            if good(&answer) {
                return answer;
            }
            assert!(Instant::now() < until, "{path} is still {answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

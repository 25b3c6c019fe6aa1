//! A kernel as its callers see it, for tests: through its router, without a port.

use crate::{Bounds, Caller, Kind, Peers, Role, Seed, router};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// The header in which tests say who calls: `ROLE:NAME`.
const WHO: &str = "who";
pub(crate) const NOW_MS: u64 = 1_760_000_000_000;

/// A kernel that was opened for a test.
pub(crate) struct Called {
    router: Router,
    finish: BoxFuture<'static, ()>,
}

impl Called {
    pub(crate) async fn open(kind: &Kind, folder: &Path, settings: Value) -> anyhow::Result<Self> {
        Self::open_beside(kind, folder, settings, Peers::none(kind.name)).await
    }

    pub(crate) async fn open_beside(kind: &Kind, folder: &Path, settings: Value, peers: Peers) -> anyhow::Result<Self> {
        (kind.check)(&settings)?;
        let kernel = (kind.open)(seed(kind, folder, settings, peers)).await?;
        let bounds = Bounds { body_bytes_max: 1 << 20, in_flight_max: 256, timeout: Duration::from_mins(1) };
        let (router, finish) = router(kind.name, kernel, Arc::new(|headers| Ok(identify(headers))), bounds);
        Ok(Self { router, finish })
    }

    /// Ends it as a clean stop does.
    pub(crate) async fn end(self) {
        drop(self.router);
        self.finish.await;
    }

    pub(crate) async fn get(&self, who: &str, path: &str) -> (u16, Value) {
        let (status, text) = self.text("GET", who, path, String::new()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn post(&self, who: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.text("POST", who, path, body.to_string()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn text(&self, method: &str, who: &str, path: &str, body: String) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).header(WHO, who).body(Body::from(body)).unwrap();
        let Ok(response) = self.router.clone().call(request).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }
}

/// A kernel that is to be opened.
pub(crate) fn seed(kind: &Kind, folder: &Path, settings: Value, peers: Peers) -> Seed {
    Seed {
        name: kind.name.to_owned(),
        folder: folder.to_owned(),
        settings,
        clock: Arc::new(|| NOW_MS),
        peers,
        stop: CancellationToken::new(),
        metrics: Registry::default(),
    }
}

fn identify(headers: &HeaderMap) -> Caller {
    let who = headers.get(WHO).and_then(|who| who.to_str().ok()).unwrap_or_default();
    let Some((role, name)) = who.split_once(':') else { return Caller::unknown() };
    let roles = match role {
        "agent" => vec![Role::Agent],
        "operator" => vec![Role::Operator],
        "auditor" => vec![Role::Auditor],
        _ => Vec::new(),
    };
    Caller::with_key(name, None, roles)
}

/// Every example of a kernel's document is JSON, and every operation says what it is for.
pub(crate) fn check_document(document: &Value) {
    let paths = document["paths"].as_object().unwrap();
    assert!(!paths.is_empty());
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            let examples = [
                &operation["requestBody"]["content"]["application/json"]["example"],
                &operation["responses"]["200"]["content"]["application/json"]["example"],
            ];
            // An example that is no JSON is shown as a text.
            for example in examples {
                assert!(!example.is_string(), "{method} {path}: {example}");
            }
        }
    }
}

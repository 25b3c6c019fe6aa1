//! For tests of kinds: a kernel behind its router in a life that ends without a clean end, and a main API that is played.

use crate::{Bounds, Caller, Clock, Identify, Kind, Peers, Role, Seed, router};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// A life that takes longer waits for what never comes.
const LIFE_MAX: Duration = Duration::from_mins(5);

/// Run this in a runtime of its own, and end all that it began, as a kill does.
pub(crate) fn live<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIFE_MAX, work).await.expect("it waits for what never comes") })
}

/// A clock that a test moves.
#[derive(Clone)]
pub(crate) struct Hands(Arc<AtomicU64>);

impl Hands {
    pub(crate) fn at(now_ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now_ms)))
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn forward(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let hands = self.clone();
        Arc::new(move || hands.now())
    }
}

/// A kernel, open.
#[derive(Clone)]
pub(crate) struct Trial {
    router: Router,
}

impl Trial {
    pub(crate) async fn open(kind: &Kind, folder: &Path, settings: Value, hands: &Hands, peers: Peers) -> Self {
        (kind.check)(&settings).unwrap();
        let seed = Seed {
            name: kind.name.to_owned(),
            folder: folder.to_owned(),
            settings,
            clock: hands.clock(),
            peers,
            stop: CancellationToken::new(),
            metrics: Registry::default(),
        };
        let kernel = (kind.open)(seed).await.unwrap();
        let identify: Identify = Arc::new(|headers| Ok(caller(headers)));
        let bounds = Bounds { body_bytes_max: 8 << 20, in_flight_max: 64, timeout: Duration::from_mins(1) };
        let (router, _) = router(kind.name, kernel, identify, bounds);
        Self { router }
    }

    /// What is answered to `GET /path`, asked by somebody: the status, and the body if it is JSON, or else as text.
    pub(crate) async fn call(&self, who: &str, what: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(who, what, "application/json", body).await
    }

    pub(crate) async fn send(&self, who: &str, what: &str, form: &str, body: impl Into<Body>) -> (u16, Value) {
        let (method, path) = what.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {who}")).header(header::CONTENT_TYPE, form);
        let answer = self.router.clone().call(request.body(body.into()).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }

    /// The same, where a success is expected.
    pub(crate) async fn ask(&self, what: &str, body: &Value) -> Value {
        let (status, answer) = self.call("operator", what, body).await;
        assert!((200..300).contains(&status), "{what}: {status}: {answer}");
        answer
    }
}

/// The key is the name; `operator` may do everything, `auditor` see everything, all others work.
fn caller(headers: &HeaderMap) -> Caller {
    let name = headers.get(header::AUTHORIZATION).and_then(|key| key.to_str().ok()?.strip_prefix("Bearer "));
    let Some(name) = name else { return Caller::unknown() };
    let role = match name {
        "operator" => return Caller::trusted(name),
        "auditor" => Role::Auditor,
        _ => Role::Agent,
    };
    Caller::with_key(name, None, vec![role])
}

/// Answers `GET /path?query` and a body with a status and a text.
pub(crate) type Play = Arc<dyn Fn(&str, &Value) -> (u16, String) + Send + Sync>;

/// A main API that answers as it is told.
pub(crate) async fn main_api(kernel: &str, play: Play) -> Peers {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(move |request: Request| {
        let play = Arc::clone(&play);
        async move {
            let what = format!("{} {}", request.method(), request.uri());
            let body: Bytes = request.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, text) = play(&what, &body);
            (StatusCode::from_u16(status).unwrap(), text).into_response()
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Peers::behind(kernel, &url, "token")
}

/// Wait until something is there.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

//! For tests of kinds: a kernel behind its router in a life that ends without a clean end, a clock that the test moves, and a
//! main API that is played.

use crate::{Bounds, Caller, Clock, Identify, Kind, Peers, Role, Seed, router};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::borrow::Borrow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// How long something may take that a machine does at once.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// A life that takes longer waits for what never comes.
const LIFE_MAX: Duration = Duration::from_mins(5);
/// The time in tests that do not care which.
pub(crate) const NOW_MS: u64 = 1_760_000_000_000;

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
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn forward(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let hands = self.clone();
        Arc::new(move || hands.now())
    }
}

/// A kernel that is to be opened.
pub(crate) fn seed(kind: &Kind, folder: &Path, settings: Value, hands: &Hands, peers: Peers) -> Seed {
    Seed {
        name: kind.name.to_owned(),
        folder: folder.to_owned(),
        settings,
        clock: hands.clock(),
        peers,
        stop: CancellationToken::new(),
        metrics: Registry::default(),
    }
}

/// A kernel, open. A test that drops it has killed it, once its runtime has ended.
pub(crate) struct Trial {
    router: Router,
    stop: CancellationToken,
    finish: BoxFuture<'static, ()>,
}

impl Trial {
    /// One that must open; while another life lets go of its folder, it is tried again.
    pub(crate) async fn open(kind: &Kind, folder: &Path, settings: Value, hands: &Hands, peers: Peers) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            match Self::try_open(seed(kind, folder, settings.clone(), hands, peers.clone()), kind).await {
                Ok(open) => return open,
                Err(why) => {
                    let locked = why.chain().any(|why| why.to_string().contains("already open"));
                    assert!(locked && Instant::now() < until, "{why:#}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    /// One that knows nobody and needs no certain time.
    pub(crate) async fn alone(kind: &Kind, folder: &Path, settings: Value) -> anyhow::Result<Self> {
        Self::try_open(seed(kind, folder, settings, &Hands::at(NOW_MS), Peers::none(kind.name)), kind).await
    }

    async fn try_open(seed: Seed, kind: &Kind) -> anyhow::Result<Self> {
        (kind.check)(&seed.settings)?;
        let stop = seed.stop.clone();
        let kernel = (kind.open)(seed).await?;
        let identify: Identify = Arc::new(|headers| Ok(caller(headers)));
        let bounds = Bounds { body_bytes_max: 8 << 20, in_flight_max: 256, timeout: PATIENCE };
        let (router, finish) = router(kind.name, kernel, identify, bounds);
        Ok(Self { router, stop, finish })
    }

    /// Tell it to stop, as a kernel is told that is asked to end.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// What a killed process leaves: nothing is finished, and what works by itself stops where it is.
    pub(crate) fn kill(self) {
        self.stop();
    }

    /// End it as a clean stop does.
    pub(crate) async fn end(self) {
        drop(self.router);
        self.finish.await;
    }

    /// What is answered to `GET /path`, asked by somebody ([`caller`]).
    pub(crate) async fn answer(
        &self,
        who: &str,
        what: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response {
        let (method, path) = what.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::AUTHORIZATION, format!("Bearer {who}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        tokio::time::timeout(PATIENCE * 2, self.router.clone().call(request)).await.unwrap().unwrap()
    }

    /// The same: the status, and the body as text.
    pub(crate) async fn text(&self, who: &str, what: &str, body: impl Into<Body>) -> (u16, String) {
        said(self.answer(who, what, &[], body).await).await
    }

    /// The same with a body of this form: the status, and the body if it is JSON, or else as text.
    pub(crate) async fn send(&self, who: &str, what: &str, form: &str, body: impl Into<Body>) -> (u16, Value) {
        let (status, text) = said(self.answer(who, what, &[("content-type", form)], body).await).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn call(&self, who: &str, what: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(who, what, "application/json", body).await
    }

    /// The same by `operator`, where a success is expected.
    pub(crate) async fn ask(&self, what: &str, body: &Value) -> Value {
        let (status, answer) = self.call("operator", what, body).await;
        assert!((200..300).contains(&status), "{what}: {status}: {answer}");
        answer
    }

    pub(crate) async fn get(&self, who: &str, path: &str) -> (u16, Value) {
        self.call(who, &format!("GET {path}"), &Value::Null).await
    }

    pub(crate) async fn post(&self, who: &str, path: &str, body: impl Borrow<Value>) -> (u16, Value) {
        self.call(who, &format!("POST {path}"), body.borrow()).await
    }

    pub(crate) async fn put(&self, who: &str, path: &str, body: impl Borrow<Value>) -> (u16, Value) {
        self.call(who, &format!("PUT {path}"), body.borrow()).await
    }

    pub(crate) async fn delete(&self, who: &str, path: &str) -> (u16, Value) {
        self.call(who, &format!("DELETE {path}"), &Value::Null).await
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

    /// Its document, of which every operation says what it is for, and every example is JSON.
    pub(crate) async fn check_document(&self) -> Value {
        let (_, document) = self.get("", "/openapi.json").await;
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() > 3, "{document}");
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
                for content in [&operation["requestBody"]["content"], &operation["responses"]["200"]["content"]] {
                    let example = &content["application/json"]["example"];
                    // An example that is no JSON is shown as a text.
                    assert!(!example.is_string(), "{method} {path}: {example}");
                }
            }
        }
        document
    }
}

async fn said(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// The key says who it is: `NAME ROLE`, where the role may be `fleet` for a part of the fleet, and another than these is
/// none; or the name alone: `operator` may do everything, `auditor` see everything, all others work; or nothing.
fn caller(headers: &HeaderMap) -> Caller {
    let key = headers.get(header::AUTHORIZATION).and_then(|key| key.to_str().ok()?.strip_prefix("Bearer "));
    let key = key.unwrap_or_default();
    let (name, role) = key.split_once(' ').unwrap_or((key, key));
    let roles = match role {
        "" => return Caller::unknown(),
        "fleet" => return Caller::of_the_fleet(name),
        "operator" if name == role => return Caller::trusted(name),
        "operator" => vec![Role::Operator],
        "auditor" => vec![Role::Auditor],
        "nothing" => Vec::new(),
        _ => vec![Role::Agent],
    };
    Caller::with_key(name, None, roles)
}

/// A store, once the kernel that had it open has let it go.
pub(crate) async fn let_go(file: &Path) -> redb::Database {
    until("the store is let go", || async { crate::writer::open_store(file).ok() }).await
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
        assert!(begun.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

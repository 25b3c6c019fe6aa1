//! A receiver of webhooks, as somebody else would write it.

use crate::trial::PATIENCE;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) const SECRET: &str = "hidden-key";

/// What came, and what is answered.
pub(super) struct Receiver {
    address: std::net::SocketAddr,
    got: Arc<Mutex<Got>>,
}

#[derive(Default)]
struct Got {
    /// The answers to the next calls; after them 200.
    answers: Vec<u16>,
    always: Option<u16>,
    taken: Vec<Value>,
    calls: usize,
    wrong: Vec<String>,
}

impl Receiver {
    /// One that answers so first, and then takes all.
    pub(super) async fn start(answers: &[u16]) -> Self {
        let got = Arc::new(Mutex::new(Got { answers: answers.to_vec(), ..Got::default() }));
        let app = Router::new().route("/hidden-path", post(take)).with_state(Arc::clone(&got));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, got }
    }

    /// The settings that name it.
    pub(super) fn settings(&self) -> Value {
        json!({"webhook": {"url": format!("http://{}/hidden-path", self.address), "secret": SECRET}})
    }

    pub(super) fn answers_always(&self, status: Option<u16>) {
        self.got.lock().unwrap().always = status;
    }

    pub(super) fn calls(&self) -> usize {
        self.got.lock().unwrap().calls
    }

    /// What it took, once it is so many.
    pub(super) async fn taken(&self, count: usize) -> Vec<Value> {
        self.when(|got| (got.taken.len() >= count).then(|| got.taken.clone())).await
    }

    /// Wait until it was called so often.
    pub(super) async fn called(&self, count: usize) {
        self.when(|got| (got.calls >= count).then_some(())).await;
    }

    async fn when<T>(&self, look: impl Fn(&Got) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            {
                let got = self.got.lock().unwrap();
                assert!(got.wrong.is_empty(), "{:?}", got.wrong);
                if let Some(found) = look(&got) {
                    return found;
                }
                assert!(Instant::now() < until, "it got {} calls, and took {:?}", got.calls, got.taken);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn take(State(got): State<Arc<Mutex<Got>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut got = got.lock().unwrap();
    got.calls += 1;
    let mut key = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    key.update(&body);
    let wanted = format!("sha256={}", hex::encode(key.finalize().into_bytes()));
    if headers.get("gavel-signature").and_then(|text| text.to_str().ok()) != Some(&wanted) {
        got.wrong.push(format!("a signature is wrong: {headers:?}"));
    }
    let status = if got.answers.is_empty() { got.always.unwrap_or(200) } else { got.answers.remove(0) };
    if status == 200 {
        got.taken.push(serde_json::from_slice(&body).unwrap());
    }
    StatusCode::from_u16(status).unwrap()
}

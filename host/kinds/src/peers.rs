//! The other kernels of the fleet, through its one door.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::time::Duration;

/// The header in which a kernel of the fleet says its name. It counts only beside the fleet's own token.
pub const KERNEL_HEADER: &str = "gavel-kernel";
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept that is not used: less than the main API keeps it (`limits.header_timeout_ms`), or else a
/// question is now and then written to one that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Asks other kernels. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    /// Guardian has none.
    kernel: Option<String>,
    door: Option<Door>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Where the main API is, and what is shown there.
#[derive(Clone)]
struct Door {
    url: String,
    authorization: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It is not part of a fleet.
    #[error("this kernel runs alone: there is no other to ask for {0}")]
    Alone(String),
    /// It did not come through, or not in time. Whether anything was done is not known.
    #[error("{path}: {why}")]
    Unreachable {
        /// What was asked for.
        path: String,
        /// Why.
        why: String,
    },
    /// The other kernel said no.
    #[error("{path}: {status}: {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The status, from 400 upwards.
        status: u16,
        /// What it said.
        message: String,
    },
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("door", &self.door.as_ref().map(|door| &door.url)).finish_non_exhaustive()
    }
}

impl Peers {
    /// The kernels behind the main API at `url` (`http://HOST:PORT`), for the kernel `kernel`, which shows the fleet's `token`.
    #[must_use]
    pub fn behind(kernel: &str, url: &str, token: &str) -> Self {
        let authorization = HeaderValue::from_str(&format!("Bearer {token}")).ok();
        let door = Some(Door { url: url.trim_end_matches('/').to_owned(), authorization });
        Self { kernel: Some(kernel.to_owned()), door, client: client() }
    }

    /// The same for the main process of the fleet itself, which is known as `guardian`.
    #[must_use]
    pub fn of_guardian(url: &str, token: &str) -> Self {
        Self { kernel: None, ..Self::behind("", url, token) }
    }

    /// None: the kernel runs alone.
    #[must_use]
    pub fn none(kernel: &str) -> Self {
        Self { kernel: Some(kernel.to_owned()), door: None, client: client() }
    }

    /// The same on behalf of a caller, who showed this: the others see that caller, not this kernel, and refuse what it
    /// may not do.
    #[must_use]
    pub fn acting_for(&self, authorization: Option<&HeaderValue>) -> Self {
        let shown = |door: &Door| Door { authorization: authorization.cloned(), ..door.clone() };
        Self { kernel: None, door: self.door.as_ref().map(shown), client: self.client.clone() }
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.door.is_some()
    }

    /// GET a path of the main API (`/alert_service/alerts`), as JSON.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn get(&self, path: &str) -> Result<Value, PeerError> {
        self.ask(Method::GET, path, None).await
    }

    /// POST to a path of the main API, as JSON.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, PeerError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// POST bytes that are no JSON to a path of the main API; the answer is JSON.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Result<Value, PeerError> {
        let text = self.send(Method::POST, path, "application/octet-stream", body.into()).await?;
        parsed(path, &text)
    }

    /// Publish an event on a durable topic of the message bus.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn publish(&self, topic: &str, event: &str, data: &Value) -> Result<Value, PeerError> {
        self.post(&format!("/message_bus/topics/{topic}/messages"), &json!({"event": event, "data": data})).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, PeerError> {
        let text = self.text(method, path, body).await?;
        parsed(path, &text)
    }

    /// What a path of the main API answers, as it stands.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn text(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, PeerError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(method, path, "application/json", body.into()).await
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<Bytes, PeerError> {
        let Some(Door { url, authorization }) = &self.door else { return Err(PeerError::Alone(path.to_owned())) };
        let unreachable = |why: String| PeerError::Unreachable { path: path.to_owned(), why };
        let mut request =
            Request::builder().method(method).uri(format!("{url}{path}")).header(header::CONTENT_TYPE, kind);
        if let Some(shown) = authorization {
            request = request.header(header::AUTHORIZATION, shown);
        }
        if let Some(kernel) = &self.kernel {
            request = request.header(KERNEL_HEADER, kernel);
        }
        let request = request.body(Full::from(body)).map_err(|why| unreachable(why.to_string()))?;
        let asked = async {
            let answer = self.client.request(request).await.map_err(|why| unreachable(told(&why)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(|why| unreachable(why.to_string()))?.to_bytes();
            Ok((status, body))
        };
        let (status, body) = tokio::time::timeout(ANSWER_TIMEOUT, asked)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))??;
        if status.is_success() { Ok(body) } else { Err(refused(path, status, &body)) }
    }
}

fn parsed(path: &str, text: &[u8]) -> Result<Value, PeerError> {
    let unreadable = |why: serde_json::Error| PeerError::Unreachable {
        path: path.to_owned(),
        why: format!("its answer is not JSON: {why}"),
    };
    serde_json::from_slice(text).map_err(unreadable)
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_MAX).build_http()
}

fn refused(path: &str, status: StatusCode, body: &[u8]) -> PeerError {
    let said = serde_json::from_slice::<Value>(body).ok();
    let said = said.as_ref().and_then(|said| said["error"].as_str().or(said["detail"].as_str()));
    let message = said.map_or_else(|| String::from_utf8_lossy(body).chars().take(200).collect(), str::to_owned);
    PeerError::Refused { path: path.to_owned(), status: status.as_u16(), message }
}

/// An error with its causes.
fn told(why: &dyn std::error::Error) -> String {
    why.source().map_or_else(|| why.to_string(), |cause| format!("{why}: {}", told(cause)))
}

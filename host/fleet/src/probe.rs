//! Asking a component how it is.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// What a component says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It is well: 200.
    Well,
    /// It answers that it is not: the status and the beginning of the answer.
    Unwell(String),
    /// It does not answer: why.
    Silent(Silence),
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// Nobody listens.
    Refused,
    /// No answer in time.
    Late,
    /// Anything else.
    Other(String),
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Well => f.write_str("it is well"),
            Self::Unwell(said) => write!(f, "it answers {said}"),
            Self::Silent(Silence::Refused) => f.write_str("nobody listens on its port"),
            Self::Silent(Silence::Late) => f.write_str("it does not answer in time"),
            Self::Silent(Silence::Other(why)) => write!(f, "it cannot be asked: {why}"),
        }
    }
}

/// Asks. Every question has a connection of its own, so that a component that holds on to an old one is found out.
#[derive(Debug, Clone)]
pub struct Probe {
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Characters of an unwell answer that are told.
const SHOWN_CHARS_MAX: usize = 200;

impl Default for Probe {
    fn default() -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Self { client }
    }
}

impl Probe {
    /// Ask at this address, which ends in `/health`.
    pub async fn ask(&self, url: &str, patience: Duration) -> Health {
        let Ok(request) = Request::get(url).body(Empty::new()) else {
            return Health::Silent(Silence::Other(format!("`{url}` is no address")));
        };
        match tokio::time::timeout(patience, self.answer(request)).await {
            Ok(health) => health,
            Err(_) => Health::Silent(Silence::Late),
        }
    }

    async fn answer(&self, request: Request<Empty<Bytes>>) -> Health {
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(why) if refused(&why) => return Health::Silent(Silence::Refused),
            Err(why) => return Health::Silent(Silence::Other(why.to_string())),
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = match body {
            Ok(body) => body.to_bytes(),
            Err(why) => return Health::Silent(Silence::Other(why.to_string())),
        };
        if status.is_success() {
            return Health::Well;
        }
        let said: String = String::from_utf8_lossy(&body).chars().take(SHOWN_CHARS_MAX).collect();
        Health::Unwell(format!("{status} {said}").trim_end().to_owned())
    }
}

/// Whether nobody listened.
fn refused(why: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(why);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

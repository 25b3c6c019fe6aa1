//! The client for async code; the blocking one drives this.

use crate::options::{Settings, chain};
use crate::retry::Retries;
use crate::types::{Batch, BatchAnswer};
use crate::{Error, Evidence, Halted, Health, KernelStatus, Options, Policy, Receipt, Refusal, Request};
use reqwest::{Method, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// A client of one kernel, for async code on tokio. Cheap to clone; its clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    settings: Arc<Settings>,
}

/// One call.
struct Call {
    method: Method,
    url: String,
    body: Option<Vec<u8>>,
    /// Whether it does nothing but read.
    only_reads: bool,
}

impl Client {
    /// A client of the first kernel of the server at `url`, everything else by default.
    ///
    /// # Errors
    /// [`Error::Misused`] when the URL cannot be used.
    pub fn new(url: &str) -> Result<Self, Error> {
        Options::new(url).client()
    }

    /// The options of a client of the server at `url`.
    pub fn options(url: &str) -> Options {
        Options::new(url)
    }

    pub(crate) fn of(http: reqwest::Client, settings: Settings) -> Self {
        Self { http, settings: Arc::new(settings) }
    }

    /// Where the kernel's routes begin.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.settings.base
    }

    /// Have a request judged and, if it is allowed, its tool run. A denial is a receipt, not an error.
    ///
    /// # Errors
    /// [`Error`]: the request was not judged, or it is not known what came of it.
    pub async fn submit(&self, request: &Request) -> Result<Receipt, Error> {
        self.read(&self.post("/submit", request)?).await
    }

    /// Have several requests judged, each as if it had come alone, in no order among them. The
    /// answers come in the order of the requests; one that was refused has its own refusal.
    ///
    /// # Errors
    /// As [`Client::submit`], about the batch as a whole: `limits.max_batch_requests`, for example.
    pub async fn submit_batch(&self, requests: &[Request]) -> Result<Vec<Result<Receipt, Refusal>>, Error> {
        let call = self.post("/submit/batch", &Batch { requests })?;
        let answer: BatchAnswer = self.read(&call).await?;
        if answer.results.len() != requests.len() {
            let why = format!("{} results to {} requests", answer.results.len(), requests.len());
            return Err(Error::Malformed { url: call.url, status: 200, why });
        }
        Ok(answer.results.into_iter().map(Into::into).collect())
    }

    /// How the kernel is. A halted or unhealthy kernel is an answer, not an error.
    ///
    /// # Errors
    /// [`Error`]: nobody knows.
    pub async fn health(&self) -> Result<Health, Error> {
        self.read(&self.get("/health")).await
    }

    /// The kernel's status.
    ///
    /// # Errors
    /// [`Error`], as for every call.
    pub async fn status(&self) -> Result<KernelStatus, Error> {
        self.read(&self.get("/status")).await
    }

    /// What the kernel judges by.
    ///
    /// # Errors
    /// [`Error`], as for every call.
    pub async fn policy(&self) -> Result<Policy, Error> {
        self.read(&self.get("/policy")).await
    }

    /// The kernel's evidence in memory; see [`Client::evidence_to`] for one that is large.
    ///
    /// # Errors
    /// [`Error`], as for every call.
    pub async fn evidence(&self) -> Result<Evidence, Error> {
        self.read(&self.get("/evidence")).await
    }

    /// Write the kernel's evidence bundle out as it comes, byte for byte; how many bytes it has.
    /// What is written when this fails is no whole bundle.
    ///
    /// # Errors
    /// [`Error`], as for every call; [`Error::Output`] when it cannot be written.
    pub async fn evidence_to(&self, out: &mut (impl AsyncWrite + Unpin)) -> Result<u64, Error> {
        let mut pieces = self.evidence_pieces().await?;
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await? {
            out.write_all(&piece).await?;
            bytes += piece.len() as u64;
        }
        out.flush().await?;
        Ok(bytes)
    }

    /// Halt the kernel, for good.
    ///
    /// # Errors
    /// [`Error`]; [`Refusal::is_halted`] when it is halted already.
    pub async fn halt(&self, reason: &str) -> Result<Halted, Error> {
        self.read(&self.post("/halt", &json!({"reason": reason}))?).await
    }

    /// The evidence, piece by piece. Tried again until the answer begins, not after.
    pub(crate) async fn evidence_pieces(&self) -> Result<Pieces, Error> {
        let call = self.get("/evidence");
        let mut tries = self.tries(&call);
        loop {
            match self.evidence_begun(&call, tries.deadline).await {
                Ok(response) => return Ok(Pieces { response, url: call.url, patience: self.settings.timeout }),
                Err(why) => tries.again(why).await?,
            }
        }
    }

    async fn evidence_begun(&self, call: &Call, deadline: Instant) -> Result<Response, Error> {
        let response = self.begin(call, deadline).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(call, response, deadline).await) }
    }

    fn get(&self, route: &str) -> Call {
        let url = format!("{}{route}", self.settings.base);
        Call { method: Method::GET, url, body: None, only_reads: true }
    }

    fn post(&self, route: &str, body: &impl Serialize) -> Result<Call, Error> {
        let url = format!("{}{route}", self.settings.base);
        let body = serde_json::to_vec(body).map_err(|why| Error::Misused(format!("the request is not JSON: {why}")))?;
        Ok(Call { method: Method::POST, url, body: Some(body), only_reads: false })
    }

    /// Make a call and read its answer.
    async fn read<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        let mut tries = self.tries(call);
        loop {
            match self.read_once(call, tries.deadline).await {
                Ok(answer) => return Ok(answer),
                Err(why) => tries.again(why).await?,
            }
        }
    }

    fn tries(&self, call: &Call) -> Tries {
        let deadline = Instant::now() + self.settings.timeout;
        Tries { retries: self.settings.retries, only_reads: call.only_reads, deadline, tried: 0 }
    }

    async fn read_once<T: DeserializeOwned>(&self, call: &Call, deadline: Instant) -> Result<T, Error> {
        let response = self.begin(call, deadline).await?;
        // A halted kernel answers 503 to the question how it is; so does a server too busy to say.
        let told_unwell = call.url.ends_with("/health") && response.status() == StatusCode::SERVICE_UNAVAILABLE;
        if !response.status().is_success() && !told_unwell {
            return Err(self.refused(call, response, deadline).await);
        }
        let (status, retry_after) = (response.status(), retry_after(&response));
        let body = self.body(call, response, deadline).await?;
        match serde_json::from_slice(&body) {
            Ok(answer) => Ok(answer),
            Err(_) if told_unwell => Err(refusal(call, status, retry_after, &body)),
            Err(why) => Err(malformed(call, status, format!("not what was expected ({why})"))),
        }
    }

    /// Send it, and wait until the answer begins.
    async fn begin(&self, call: &Call, deadline: Instant) -> Result<Response, Error> {
        let mut request = self.http.request(call.method.clone(), &call.url);
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let sent = timeout_at(deadline, request.send()).await.map_err(|_| self.late(call))?;
        sent.map_err(|why| {
            if !why.is_connect() {
                return interrupted(&call.url, why);
            }
            Error::Unreachable { url: call.url.clone(), why: chain(&why.without_url()) }
        })
    }

    /// Read the body, which must come within the deadline and fit.
    async fn body(&self, call: &Call, mut response: Response, deadline: Instant) -> Result<Vec<u8>, Error> {
        let (status, most) = (response.status(), self.settings.answer_bytes_max);
        let mut body = Vec::new();
        loop {
            let piece = timeout_at(deadline, response.chunk()).await.map_err(|_| self.late(call))?;
            let Some(piece) = piece.map_err(|why| interrupted(&call.url, why))? else { return Ok(body) };
            if body.len() + piece.len() > most {
                return Err(malformed(call, status, format!("more than {most} bytes (answer_bytes_max)")));
            }
            body.extend_from_slice(&piece);
        }
    }

    async fn refused(&self, call: &Call, response: Response, deadline: Instant) -> Error {
        let (status, retry_after) = (response.status(), retry_after(&response));
        match self.body(call, response, deadline).await {
            Ok(body) => refusal(call, status, retry_after, &body),
            Err(why) => why,
        }
    }

    fn late(&self, call: &Call) -> Error {
        Error::TimedOut { url: call.url.clone(), waited: self.settings.timeout }
    }
}

/// The tries of one call, which share its time.
struct Tries {
    retries: Retries,
    only_reads: bool,
    deadline: Instant,
    tried: u32,
}

impl Tries {
    /// Wait for the next try; the failure itself if there must be none, or no time is left for one.
    async fn again(&mut self, why: Error) -> Result<(), Error> {
        self.tried += 1;
        match self.retries.wait(self.tried, self.only_reads, &why) {
            Some(wait) if Instant::now() + wait < self.deadline => {
                sleep(wait).await;
                Ok(())
            }
            _ => Err(why),
        }
    }
}

/// An answer that comes piece by piece.
pub(crate) struct Pieces {
    response: Response,
    url: String,
    patience: Duration,
}

impl Pieces {
    pub(crate) async fn next(
        &mut self,
    ) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, Error> {
        let piece = timeout(self.patience, self.response.chunk()).await;
        let late = || Error::TimedOut { url: self.url.clone(), waited: self.patience };
        piece.map_err(|_| late())?.map_err(|why| interrupted(&self.url, why))
    }
}

/// What an answer says that is no success.
fn refusal(call: &Call, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Error {
    let told = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let Some(message) = told["error"].as_str() else {
        let begins: String = String::from_utf8_lossy(body).chars().take(80).collect();
        return malformed(call, status, format!("no error of Gavel's: {begins:?}"));
    };
    Error::Refused(Refusal {
        status: status.as_u16(),
        message: message.to_owned(),
        kernel_state: told["kernel_state"].as_str().map(str::to_owned),
        retry_after,
    })
}

/// `Retry-After` in whole seconds, as Gavel sends it.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn malformed(call: &Call, status: StatusCode, why: String) -> Error {
    Error::Malformed { url: call.url.clone(), status: status.as_u16(), why }
}

fn interrupted(url: &str, why: reqwest::Error) -> Error {
    Error::Interrupted { url: url.to_owned(), why: chain(&why.without_url()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be sent to another thread cannot be spawned on tokio's usual runtime.
    #[test]
    fn every_call_can_be_spawned() {
        fn spawned(_: impl Future + Send) {}
        let client = Client::new("http://localhost").unwrap();
        let request = Request::new("r", "a", "i");
        spawned(client.submit(&request));
        spawned(client.submit_batch(std::slice::from_ref(&request)));
        spawned(client.health());
        spawned(client.evidence());
        spawned(client.evidence_to(&mut Vec::new()));
        spawned(client.halt("why"));
    }

    #[test]
    fn a_client_is_shared_by_threads() {
        fn shared<T: Send + Sync + Clone>() {}
        shared::<Client>();
        shared::<crate::blocking::Client>();
    }
}

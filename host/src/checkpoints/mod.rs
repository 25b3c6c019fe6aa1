//! Checkpoints to others, so that a ledger which is put back to an older day, or told in two ways, is found out.
//!
//! One task for each kernel. In each round it takes the latest checkpoint and brings it to all targets that
//! lack it: a webhook gets the signed note, a witness ([`witness`]) is shown that its tree grew from the one it saw last
//! and cosigns it. What witnesses signed is kept beside the ledger ([`cosigned`]).
//!
//! Nobody who decides waits for any of this, and what fails is tried again later; a witness that saw another history
//! is an alarm, which only people can answer.

pub mod cosigned;
mod witness;

use crate::config::{CheckpointsFile, PushFile, PushKind};
use crate::kernel::Kernel;
use crate::metrics::{PushLabels, PushedLabels};
use crate::tlog::log::{self, Signed};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use gavel_proof::cosignature::WitnessKey;
use reqwest::{Client, Response, redirect};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use witness::Witness;

/// How long after a first failure a target is tried again; twice as long after each further one.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest time until a target that failed is tried again.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(10);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a push came to nothing.
#[derive(Debug, thiserror::Error)]
enum PushError {
    /// There was no answer, or none that could be read.
    #[error("{0}")]
    Unreachable(String),
    /// The answer was no.
    #[error("{0}")]
    Refused(String),
    /// The target saw another history of this ledger.
    #[error("{0}")]
    Forked(String),
    /// The ledger could not be read.
    #[error("{0}")]
    Ledger(String),
}

impl PushError {
    fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Forked(_) => "forked",
            Self::Ledger(_) => "ledger",
        }
    }
}

/// Somebody who gets checkpoints.
struct Target {
    /// For messages and metrics: the URL may hold a secret.
    name: String,
    url: String,
    witness: Option<Witness>,
    /// The size of the last checkpoint that it took.
    taken: Option<u64>,
    failures: u32,
    due: Instant,
}

/// Push checkpoints of `kernel` for ever.
///
/// # Errors
/// When no client can be made; otherwise it does not return.
pub async fn push(kernel: Arc<Kernel>, file: CheckpointsFile) -> Result<()> {
    let client = client(Duration::from_secs(file.timeout_s))?;
    let mut targets: Vec<Target> = file.push.iter().map(Target::new).collect::<Result<_>>()?;
    let started = Instant::now();
    loop {
        let Some(due) = targets.iter().map(|target| target.due).min() else { return Ok(()) };
        sleep_until(due).await;
        let next = next_round(started, Instant::now(), Duration::from_secs(file.every_s));
        round(&kernel, file.min_growth, &client, &mut targets, next).await;
    }
}

/// Whole periods after the start: who was late in one round is back in step in the next, so that all witnesses sign the
/// same checkpoint.
fn next_round(started: Instant, now: Instant, every: Duration) -> Instant {
    let rounds = now.duration_since(started).as_nanos() / every.as_nanos() + 1;
    started + every.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}

fn client(timeout: Duration) -> Result<Client> {
    // There is one already where something else in this process made one first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().timeout(timeout).redirect(redirect::Policy::none());
    builder.user_agent(concat!("gavel/", env!("CARGO_PKG_VERSION"))).build().context("no HTTP client can be made")
}

/// Bring the latest checkpoint to all that are due and lack it.
async fn round(kernel: &Arc<Kernel>, min_growth: u64, client: &Client, targets: &mut [Target], next: Instant) {
    let now = Instant::now();
    let latest = log::checkpoint(kernel.ledger()).unwrap_or_else(|why| {
        tracing::error!(kernel = kernel.id(), "there is no checkpoint to push: {why:#}");
        None
    });
    let mut pushes = Vec::new();
    for target in targets.iter_mut().filter(|target| target.due <= now) {
        match &latest {
            Some(latest) if target.lacks(latest.checkpoint.size, min_growth) => {
                pushes.push(target.push(kernel, client, latest, next));
            }
            _ => target.due = next,
        }
    }
    let cosignatures: Vec<String> = join_all(pushes).await.into_iter().flatten().collect();
    if let (Some(latest), Some(dir), false) = (latest, &kernel.dir, cosignatures.is_empty())
        && let Err(why) = cosigned::add(dir, &latest.note, &cosignatures)
    {
        tracing::error!(kernel = kernel.id(), "the cosigned checkpoint cannot be kept: {why:#}");
    }
}

impl Target {
    fn new(file: &PushFile) -> Result<Self> {
        let key: Option<WitnessKey> = file.key.as_deref().map(str::parse).transpose()?;
        let witness = key.filter(|_| file.kind == PushKind::Witness).map(Witness::new);
        let (url, name) = (file.url.clone(), file.name());
        Ok(Self { name, url, witness, taken: None, failures: 0, due: Instant::now() })
    }

    fn lacks(&self, size: u64, min_growth: u64) -> bool {
        self.taken.is_none_or(|taken| size >= taken.saturating_add(min_growth))
    }

    /// Push, and say when it is due again; the lines that a witness signed.
    async fn push(&mut self, kernel: &Arc<Kernel>, client: &Client, latest: &Signed, next: Instant) -> Vec<String> {
        let pushed = match &mut self.witness {
            Some(witness) => witness.add_checkpoint(kernel, client, &self.url, latest).await,
            None => webhook(client, &self.url, &latest.note).await,
        };
        let now = Instant::now();
        let (kernel_id, target) = (kernel.id().to_owned(), self.name.clone());
        let outcome = pushed.as_ref().map_or_else(PushError::label, |_| "ok");
        let labels = PushLabels { kernel: kernel_id.clone(), target: target.clone(), outcome };
        kernel.metrics.checkpoint_pushes.get_or_create(&labels).inc();
        match pushed {
            Ok(lines) => {
                let size = latest.checkpoint.size;
                (self.taken, self.failures, self.due) = (Some(size), 0, next);
                let pushed =
                    kernel.metrics.checkpoint_pushed.get_or_create(&PushedLabels { kernel: kernel_id, target });
                pushed.set(i64::try_from(size).unwrap_or(i64::MAX));
                lines
            }
            Err(why) => {
                self.failed(&kernel_id, latest.checkpoint.size, &why, now);
                Vec::new()
            }
        }
    }

    /// Say so, and when it is tried again.
    fn failed(&mut self, kernel: &str, size: u64, why: &PushError, now: Instant) {
        let pause = RETRY_AFTER.saturating_mul(1 << self.failures.min(16)).min(RETRY_AFTER_MAX);
        (self.failures, self.due) = (self.failures.saturating_add(1), now + pause);
        let (target, retry_s) = (&self.name, pause.as_secs());
        if let PushError::Forked(_) = why {
            tracing::error!(kernel, target, size, retry_s, %why, "a witness saw another history of this ledger");
        } else {
            tracing::warn!(kernel, target, size, retry_s, %why, "a checkpoint was not taken");
        }
    }
}

/// The signed note, as it is.
async fn webhook(client: &Client, url: &str, note: &str) -> Result<Vec<String>, PushError> {
    let response = post(client, url, note.to_owned()).await?;
    match response.status() {
        status if status.is_success() => Ok(Vec::new()),
        status => Err(PushError::Refused(format!("it answered {status}"))),
    }
}

async fn post(client: &Client, url: &str, body: String) -> Result<Response, PushError> {
    let request = client.post(url).header("content-type", "text/plain; charset=utf-8").body(body);
    // Without the URL, which may hold a secret.
    request.send().await.map_err(|why| PushError::Unreachable(causes(&why.without_url())))
}

/// An answer's body, or the beginning of it.
async fn body_of(mut response: Response) -> Result<String, PushError> {
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|why| PushError::Unreachable(causes(&why.without_url())))?;
        let Some(chunk) = chunk.filter(|_| body.len() <= ANSWER_BYTES_MAX) else { break };
        body.extend_from_slice(&chunk);
    }
    body.truncate(ANSWER_BYTES_MAX);
    String::from_utf8(body).map_err(|_| PushError::Unreachable("its answer is not UTF-8".into()))
}

fn causes(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut cause = why.source();
    while let Some(why) = cause {
        text = format!("{text}: {why}");
        cause = why.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_whole_periods_after_the_start() {
        let (start, every) = (Instant::now(), Duration::from_mins(1));
        let after = |ms: u64| next_round(start, start + Duration::from_millis(ms), every) - start;
        for (ms, seconds) in [(0, 60), (1, 60), (59_999, 60), (60_000, 120), (61_000, 120), (150_000, 180)] {
            assert_eq!(after(ms), Duration::from_secs(seconds), "{ms}");
        }
    }
}

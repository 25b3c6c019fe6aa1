//! Telling people: alerts by webhook.
//!
//! An alert never makes anything wait. Each webhook has a bounded queue and a task of its own, so that
//! one that does not answer delays no other; it tries again with growing pauses, and gives an alert up
//! after its tries, which is logged. A receiver may see an alert twice, when its answer got lost: the
//! `id` tells.

use crate::clock::{Clock, rfc3339};
use crate::config::{AlertFile, OperationsFile, Severity};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::task::TaskTracker;

/// Where a receiver that knows the secret finds the HMAC-SHA256 of the body.
const SIGNATURE: &str = "gavel-signature";

/// Something that people must know.
#[derive(Debug, Clone)]
pub struct Alert {
    /// How bad it is.
    pub severity: Severity,
    /// What: `EMERGENCY_HALT`, `LEDGER_POISONED`, `POLICY_QUARANTINED`, `HEALTH_CHECK_FAILED`, `RECOVERED`,
    /// `APPROVAL_WANTED`, `APPROVAL_DECIDED`.
    pub event: &'static str,
    /// Of which kernel.
    pub kernel_id: String,
    /// For people.
    pub message: String,
    /// For programs.
    pub details: Value,
}

/// The webhooks of a host.
#[derive(Debug)]
pub struct Alerts {
    clock: Clock,
    targets: Mutex<Vec<Target>>,
    tasks: TaskTracker,
    count: AtomicU64,
}

#[derive(Debug)]
struct Target {
    url: String,
    severity_min: Severity,
    queue: Sender<Body>,
}

type Body = Vec<u8>;

/// A webhook for the log: what stands behind its host is often a secret.
fn shown(url: &str) -> String {
    url.split('/').take(3).collect::<Vec<_>>().join("/")
}

impl Alerts {
    /// Ready to send to these webhooks.
    pub(super) fn start(files: &[AlertFile], limits: &OperationsFile, clock: Clock) -> Self {
        let tasks = TaskTracker::new();
        let targets = files.iter().filter_map(|file| {
            let webhook = Webhook::new(file, limits)?;
            let (queue, waiting) = mpsc::channel(limits.max_alerts);
            tasks.spawn(webhook.run(waiting));
            Some(Target { url: shown(&file.url), severity_min: file.severity_min, queue })
        });
        let targets = Mutex::new(targets.collect());
        Self { clock, targets, tasks, count: AtomicU64::new(0) }
    }

    /// Send an alert; to how many webhooks.
    pub fn send(&self, alert: &Alert) -> usize {
        let Alert { severity, event, kernel_id, message, details } = alert;
        match severity {
            Severity::Info => tracing::info!(kernel = kernel_id, event, "alert: {message}"),
            Severity::Warning => tracing::warn!(kernel = kernel_id, event, "alert: {message}"),
            Severity::Critical => tracing::error!(kernel = kernel_id, event, "alert: {message}"),
        }
        let now_ms = self.clock.now_ms();
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let body = json!({
            "id": format!("{}-{now_ms}-{count}", std::process::id()),
            "severity": severity,
            "event": event,
            "kernel_id": kernel_id,
            "message": message,
            "ts_ms": now_ms,
            "timestamp": rfc3339(now_ms),
            "details": details,
        });
        let body = body.to_string().into_bytes();
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = targets.iter().filter(|target| *severity >= target.severity_min);
        wanted.filter(|target| target.queue(&body)).count()
    }

    /// Take no more, and wait for those on their way, but not longer than `grace`.
    pub(super) async fn finish(&self, grace: Duration) {
        // Without senders the tasks end when their queues are empty.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::error!(
                grace_ms = grace.as_millis(),
                "alerts were still waiting for their webhooks; they are lost"
            );
        }
    }
}

impl Target {
    fn queue(&self, body: &[u8]) -> bool {
        let queued = self.queue.try_send(body.to_owned());
        if queued.is_err() {
            tracing::error!(
                url = self.url,
                "an alert is dropped: too many wait for this webhook (operations.max_alerts)"
            );
        }
        queued.is_ok()
    }
}

struct Webhook {
    client: reqwest::Client,
    file: AlertFile,
    limits: OperationsFile,
    headers: HeaderMap,
    key: Option<Hmac<Sha256>>,
}

/// What became of one try.
enum Tried {
    Delivered,
    /// Another try may help.
    Again(String),
    /// It will not take this one.
    Never(String),
}

impl Webhook {
    /// `None`, and a line in the log, where no client can be made: a host serves without alerts too.
    fn new(file: &AlertFile, limits: &OperationsFile) -> Option<Self> {
        // Another part of the process may have chosen a provider; then it is used here too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(limits.alert_timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("gavel/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client
            .inspect_err(|why| tracing::error!(url = shown(&file.url), %why, "no alerts to this webhook"))
            .ok()?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        for (name, value) in &file.headers {
            // Both were checked when the configuration was read.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        // A key of any length will do.
        let key = file.secret.as_ref().and_then(|secret| Hmac::new_from_slice(secret.as_bytes()).ok());
        Some(Self { client, file: file.clone(), limits: limits.clone(), headers, key })
    }

    async fn run(self, mut waiting: Receiver<Body>) {
        while let Some(body) = waiting.recv().await {
            self.deliver(body).await;
        }
    }

    async fn deliver(&self, body: Body) {
        for made in 1..=self.limits.alert_tries {
            let why = match self.attempt(body.clone()).await {
                Tried::Delivered => return,
                Tried::Again(why) if made < self.limits.alert_tries => why,
                Tried::Again(why) | Tried::Never(why) => {
                    tracing::error!(url = shown(&self.file.url), tries = made, why, "an alert is given up");
                    return;
                }
            };
            let pause = self.limits.backoff(made);
            tracing::warn!(url = shown(&self.file.url), why, pause_ms = pause.as_millis(), "an alert is tried again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, body: Body) -> Tried {
        let mut request = self.client.post(&self.file.url).headers(self.headers.clone());
        if let Some(key) = &self.key {
            let signed = key.clone().chain_update(&body).finalize().into_bytes();
            request = request.header(SIGNATURE, format!("sha256={}", hex::encode(signed)));
        }
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => Tried::Delivered,
            Ok(answer) if may_change(answer.status().as_u16()) => Tried::Again(answer.status().to_string()),
            Ok(answer) => Tried::Never(answer.status().to_string()),
            // The URL may hold a token, and the log has it already.
            Err(why) => Tried::Again(chain(&why.without_url())),
        }
    }
}

/// Whether the receiver may answer otherwise the next time.
fn may_change(status: u16) -> bool {
    status >= 500 || [404, 408, 409, 425, 429].contains(&status)
}

fn chain(why: &dyn std::error::Error) -> String {
    match why.source() {
        Some(source) => format!("{why}: {}", chain(source)),
        None => why.to_string(),
    }
}

//! `completion:*`: texts from a model. Which model, and where, is a [`Provider`]'s; the service keeps the queue, the
//! time limits and the events. An error is told as one, never as a success.

use super::{invalid, read, service};
use crate::event::{Draft, Event};
use crate::handle::Handle;
use crate::pattern::Pattern;
use crate::plugin::{Fault, Plugin, Registration};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What a provider is asked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Prompt {
    /// The text.
    pub prompt: String,
    /// What the model is told before it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Which model; the provider's default if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// A conversation to go on with, as an earlier answer named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Whatever else the caller gave.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

/// What a provider answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Completion {
    /// The text.
    pub response: String,
    /// The conversation.
    pub session_id: Option<String>,
    /// Which model answered.
    pub model: String,
    /// What it cost, in the provider's own terms.
    pub usage: Value,
}

/// Where texts come from.
pub trait Provider: Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> String;

    /// Answer a prompt.
    ///
    /// # Errors
    /// A word for programs, and what went wrong.
    fn complete(&self, prompt: Prompt) -> BoxFuture<'_, Result<Completion, (String, String)>>;
}

/// What the service may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompletionLimits {
    /// How long a provider has for one answer.
    pub timeout: Duration,
    /// Prompts that are with the provider at once.
    pub running_max: usize,
    /// Prompts that wait.
    pub waiting_max: usize,
    /// Finished ones whose status is kept.
    pub finished_kept: usize,
}

impl Default for CompletionLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_mins(5), running_max: 4, waiting_max: 1_000, finished_kept: 1_000 }
    }
}

/// The completion service.
pub struct Completions {
    inner: Arc<Inner>,
}

struct Inner {
    provider: Arc<dyn Provider>,
    limits: CompletionLimits,
    slots: Semaphore,
    numbers: AtomicU64,
    requests: Mutex<Requests>,
    handle: OnceLock<Handle>,
}

#[derive(Default)]
struct Requests {
    by_id: BTreeMap<String, Request>,
    finished: VecDeque<String>,
}

struct Request {
    status: &'static str,
    result: Option<Value>,
    client_id: Option<String>,
    abort: Option<AbortHandle>,
}

#[derive(Deserialize)]
struct Which {
    request_id: String,
}

impl Completions {
    /// The service with this provider.
    #[must_use]
    pub fn registration(provider: Arc<dyn Provider>, limits: CompletionLimits) -> Registration {
        let make = move || Self {
            inner: Arc::new(Inner {
                provider: Arc::clone(&provider),
                limits,
                slots: Semaphore::new(limits.running_max.max(1)),
                numbers: AtomicU64::new(1),
                requests: Mutex::default(),
                handle: OnceLock::new(),
            }),
        };
        let mut registration = service("completion_service", "completion", "Gets texts from a model.", Arc::new(make));
        registration.capabilities.emits = ["completion:started", "completion:result", "completion:error"]
            .into_iter()
            .filter_map(|pattern| Pattern::parse(pattern).ok())
            .collect();
        // These are news, not requests: they are heard, and owned by nobody.
        registration.capabilities.event_namespaces.clear();
        registration.capabilities.commands =
            ["request", "async", "status", "cancel"].map(|name| format!("completion:{name}")).to_vec();
        registration
    }

    async fn answer(&self, event: &Arc<Event>) -> Result<Value, Fault> {
        match event.name.as_str() {
            "completion:request" => self.at_once(event).await,
            "completion:async" => self
                .begin(event)
                .map(|(id, position)| json!({ "request_id": id, "status": "processing", "queue_position": position })),
            "completion:status" => self.status(&read::<Which>(event)?.request_id),
            "completion:cancel" => self.cancel(&read::<Which>(event)?.request_id),
            _ => Err(Fault::Unhandled),
        }
    }

    async fn at_once(&self, event: &Arc<Event>) -> Result<Value, Fault> {
        let prompt = prompt_of(event)?;
        let id = self.inner.new_id(event);
        let _slot = self.inner.slots.acquire().await.map_err(|why| Fault::refused(why.to_string()))?;
        match self.inner.ask(event, &id, prompt).await {
            Ok(mut result) => {
                result["status"] = json!("completed");
                result["request_id"] = json!(id);
                Ok(result)
            }
            Err((code, message)) => Err(Fault::Refused { message, code: Some(code) }),
        }
    }

    /// Put a prompt into the queue: its id, and how many are before it.
    fn begin(&self, event: &Arc<Event>) -> Result<(String, usize), Fault> {
        let prompt = prompt_of(event)?;
        let id = self.inner.new_id(event);
        let mut requests = self.inner.requests();
        let open = requests.by_id.len() - requests.finished.len();
        if open >= self.inner.limits.running_max + self.inner.limits.waiting_max {
            let message = format!("{open} prompts are under way (completion.waiting_max): send again later");
            return Err(Fault::Refused { message, code: Some("RATE_LIMITED".to_owned()) });
        }
        let client_id = event.client_id.clone();
        requests.by_id.insert(id.clone(), Request { status: "processing", result: None, client_id, abort: None });
        let (inner, event, begun) = (Arc::clone(&self.inner), Arc::clone(event), id.clone());
        let task = tokio::spawn(async move { inner.carry_out(&event, &begun, prompt).await });
        if let Some(request) = requests.by_id.get_mut(&id) {
            request.abort = Some(task.abort_handle());
        }
        Ok((id, (open + 1).saturating_sub(self.inner.limits.running_max)))
    }

    fn status(&self, id: &str) -> Result<Value, Fault> {
        let requests = self.inner.requests();
        let request = requests.by_id.get(id).ok_or_else(|| unknown(id))?;
        Ok(
            json!({ "request_id": id, "status": request.status, "client_id": request.client_id, "result": request.result }),
        )
    }

    fn cancel(&self, id: &str) -> Result<Value, Fault> {
        let mut requests = self.inner.requests();
        let request = requests.by_id.get_mut(id).ok_or_else(|| unknown(id))?;
        let open = request.status == "processing";
        if open {
            request.status = "cancelled";
            if let Some(abort) = request.abort.take() {
                abort.abort();
            }
            requests.finish(id, self.inner.limits.finished_kept);
        }
        Ok(json!({ "request_id": id, "status": if open { "cancelled" } else { "finished" }, "cancelled": open }))
    }
}

fn unknown(id: &str) -> Fault {
    Fault::Refused {
        message: format!("no completion '{id}', or it ended long ago"),
        code: Some("NOT_FOUND".to_owned()),
    }
}

fn prompt_of(event: &Event) -> Result<Prompt, Fault> {
    let prompt: Prompt = read(event)?;
    if prompt.prompt.is_empty() { Err(invalid("completion: `prompt` is empty")) } else { Ok(prompt) }
}

impl Requests {
    /// A request has ended: of those only the last are kept.
    fn finish(&mut self, id: &str, kept: usize) {
        self.finished.push_back(id.to_owned());
        while self.finished.len() > kept {
            if let Some(oldest) = self.finished.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }
}

impl Inner {
    fn new_id(&self, event: &Event) -> String {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        format!("req_{}_{number}", event.event_id)
    }

    async fn carry_out(&self, event: &Event, id: &str, prompt: Prompt) {
        let Ok(_slot) = self.slots.acquire().await else { return };
        let asked = self.ask(event, id, prompt).await;
        let mut requests = self.requests();
        if let Some(request) = requests.by_id.get_mut(id) {
            (request.status, request.result) = match asked {
                Ok(result) => ("completed", Some(result)),
                Err((code, message)) => ("failed", Some(json!({ "error": message, "code": code }))),
            };
            request.abort = None;
        }
        requests.finish(id, self.limits.finished_kept);
    }

    /// Ask the provider, and tell how it went.
    async fn ask(&self, event: &Event, id: &str, prompt: Prompt) -> Result<Value, (String, String)> {
        let about = json!({ "request_id": id, "client_id": event.client_id, "provider": self.provider.name() });
        self.tell(event, "completion:started", about.clone()).await;
        let begun = Instant::now();
        let late = || {
            (
                "TIMEOUT".to_owned(),
                format!("no answer from '{}' within {:?}", self.provider.name(), self.limits.timeout),
            )
        };
        let asked = tokio::time::timeout(self.limits.timeout, self.provider.complete(prompt)).await;
        let duration_ms = begun.elapsed().as_secs_f64() * 1e3;
        let mut told = about;
        match asked.unwrap_or_else(|_| Err(late())) {
            Ok(completion) => {
                let mut result = json!(completion);
                result["duration_ms"] = json!(duration_ms);
                told["result"] = result.clone();
                self.tell(event, "completion:result", told).await;
                Ok(result)
            }
            Err((code, message)) => {
                told["result"] = json!({ "error": message, "code": code });
                self.tell(event, "completion:error", told).await;
                Err((code, message))
            }
        }
    }

    async fn tell(&self, cause: &Event, name: &str, data: Value) {
        let Some(handle) = self.handle.get() else { return };
        if let Err(why) = handle.emit(Some(cause), Draft::new(name, data)).await {
            tracing::warn!(event = name, "it was not told: {why}");
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plugin for Completions {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        // Called once, by contract.
        let _ = self.inner.handle.set(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move { self.answer(&event).await })
    }

    fn concurrent(&self) -> bool {
        true
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), Fault>> {
        for request in self.inner.requests().by_id.values_mut() {
            if let Some(abort) = request.abort.take() {
                abort.abort();
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

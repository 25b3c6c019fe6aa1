//! `completion:*`: texts from a model. Which model, and where, is a [`Provider`]'s; the service keeps the queue, the
//! time limits and the events. An error is told as one, never as a success.

use super::{invalid, read, service};
use crate::event::{Draft, Event};
use crate::handle::Handle;
use crate::pattern::Pattern;
use crate::plugin::{Fault, Plugin, Registration};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// What it answers.
pub(super) const EVENTS: [&str; 4] =
    ["completion:request", "completion:async", "completion:status", "completion:cancel"];
/// The code of a provider that failed.
const PROVIDER_ERROR: &str = "PROVIDER_ERROR";
/// The code of a completion that was given up because somebody asked for that.
const CANCELLED: &str = "CANCELLED";

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
    /// Who waits for the end, where somebody does.
    waiting: Option<oneshot::Sender<Outcome>>,
    /// What was asked, for the news of its end.
    event: Arc<Event>,
}

/// A result, or a code and what went wrong.
type Outcome = Result<Value, (String, String)>;

#[derive(Deserialize)]
struct Which {
    request_id: String,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    request_id: Option<String>,
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
        registration.capabilities.commands = EVENTS.map(str::to_owned).to_vec();
        registration
    }

    async fn answer(&self, event: &Arc<Event>) -> Result<Value, Fault> {
        match event.name.as_str() {
            "completion:request" => self.at_once(event).await,
            "completion:async" => self
                .begin(event, None)
                .map(|(id, position)| json!({ "request_id": id, "status": "processing", "queue_position": position })),
            "completion:status" => match read::<Asked>(event)?.request_id {
                Some(id) => self.status(&id),
                None => Ok(self.overview()),
            },
            "completion:cancel" => self.cancel(&read::<Which>(event)?.request_id).await,
            _ => Err(Fault::Unhandled),
        }
    }

    /// Begin, and wait for the end. The bus gives up on an answer after its own time-out; what has not ended shortly
    /// before that is ended here, so that the provider does not work on for nobody.
    async fn at_once(&self, event: &Arc<Event>) -> Result<Value, Fault> {
        let (ended, wait) = oneshot::channel();
        let (id, _) = self.begin(event, Some(ended))?;
        let left = event.until.saturating_duration_since(Instant::now());
        let outcome = if let Ok(ended) = timeout_at(event.until - left / 20, wait).await {
            ended.unwrap_or_else(|_| Err((CANCELLED.to_owned(), "the service ended".to_owned())))
        } else {
            let why = "no answer before the event's time was up (daemon.event_timeout): ask with completion:async";
            let outcome = Err(("TIMEOUT".to_owned(), why.to_owned()));
            self.inner.conclude(&id, outcome.clone(), "failed").await;
            outcome
        };
        match outcome {
            Ok(mut result) => {
                result["status"] = json!("completed");
                result["request_id"] = json!(id);
                Ok(result)
            }
            Err((code, message)) => Err(Fault::Refused { message, code: Some(code) }),
        }
    }

    /// Put a prompt into the queue: its id, and how many are before it.
    fn begin(&self, event: &Arc<Event>, waiting: Option<oneshot::Sender<Outcome>>) -> Result<(String, usize), Fault> {
        let prompt = prompt_of(event)?;
        let id = self.inner.new_id(event);
        let mut requests = self.inner.requests();
        let open = requests.open();
        let most = self.inner.limits.running_max + self.inner.limits.waiting_max;
        if open >= most {
            let message =
                format!("{open} prompts are under way, at most {most} are taken (max_waiting): send again later");
            return Err(Fault::Refused { message, code: Some("RATE_LIMITED".to_owned()) });
        }
        let (inner, begun) = (Arc::clone(&self.inner), id.clone());
        let cause = Arc::clone(event);
        // It asks for the lock that is held here before it does anything.
        let task = tokio::spawn(async move { inner.carry_out(&cause, &begun, prompt).await });
        let request = Request {
            status: "processing",
            result: None,
            client_id: event.client_id.clone(),
            abort: Some(task.abort_handle()),
            waiting,
            event: Arc::clone(event),
        };
        requests.by_id.insert(id.clone(), request);
        Ok((id, (open + 1).saturating_sub(self.inner.limits.running_max)))
    }

    fn status(&self, id: &str) -> Result<Value, Fault> {
        let requests = self.inner.requests();
        let request = requests.by_id.get(id).ok_or_else(|| unknown(id))?;
        Ok(
            json!({ "request_id": id, "status": request.status, "client_id": request.client_id, "result": request.result }),
        )
    }

    /// Of the service as a whole.
    fn overview(&self) -> Value {
        let requests = self.inner.requests();
        let (open, limits) = (requests.open(), self.inner.limits);
        json!({
            "status": "ready",
            "provider": self.inner.provider.name(),
            "running": open.min(limits.running_max),
            "waiting": open.saturating_sub(limits.running_max),
            "finished": requests.finished.len(),
        })
    }

    async fn cancel(&self, id: &str) -> Result<Value, Fault> {
        let known = self.inner.requests().by_id.contains_key(id);
        if !known {
            return Err(unknown(id));
        }
        let outcome = Err((CANCELLED.to_owned(), "it was cancelled".to_owned()));
        let open = self.inner.conclude(id, outcome, "cancelled").await;
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
    /// Those that have not ended.
    fn open(&self) -> usize {
        self.by_id.len() - self.finished.len()
    }

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
        self.tell(event, "completion:started", self.about(event, id)).await;
        let outcome = self.ask(prompt).await;
        let status = if outcome.is_ok() { "completed" } else { "failed" };
        self.conclude(id, outcome, status).await;
    }

    /// Ask the provider.
    async fn ask(&self, prompt: Prompt) -> Outcome {
        let begun = Instant::now();
        let asked = AssertUnwindSafe(self.provider.complete(prompt)).catch_unwind();
        let completion = match tokio::time::timeout(self.limits.timeout, asked).await {
            Ok(Ok(answered)) => answered?,
            Ok(Err(_)) => return Err((PROVIDER_ERROR.to_owned(), format!("'{}' panicked", self.provider.name()))),
            Err(_) => {
                let why =
                    format!("no answer from '{}' within {:?} (timeout)", self.provider.name(), self.limits.timeout);
                return Err(("TIMEOUT".to_owned(), why));
            }
        };
        let mut result = json!(completion);
        result["duration_ms"] = json!(begun.elapsed().as_secs_f64() * 1e3);
        Ok(result)
    }

    /// A request has ended, unless it had before: kept, told as news, and told to who waits. Says whether it ended now.
    async fn conclude(&self, id: &str, outcome: Outcome, status: &'static str) -> bool {
        let result = match &outcome {
            Ok(result) => result.clone(),
            Err((code, message)) => json!({ "error": message, "code": code }),
        };
        let Some((event, abort, waiting)) = self.end(id, status, &result) else { return false };
        let mut told = self.about(&event, id);
        told["result"] = result;
        let news = if outcome.is_ok() { "completion:result" } else { "completion:error" };
        self.tell(&event, news, told).await;
        if let Some(waiting) = waiting {
            // Who waited may have given up.
            let _ = waiting.send(outcome);
        }
        // Last, for it may be this very task.
        if let Some(abort) = abort {
            abort.abort();
        }
        true
    }

    /// Write down that a request has ended; `None` if it had before.
    #[allow(clippy::type_complexity, reason = "what a request leaves, taken apart at once")]
    fn end(
        &self,
        id: &str,
        status: &'static str,
        result: &Value,
    ) -> Option<(Arc<Event>, Option<AbortHandle>, Option<oneshot::Sender<Outcome>>)> {
        let mut requests = self.requests();
        let request = requests.by_id.get_mut(id).filter(|request| request.status == "processing")?;
        request.status = status;
        request.result = Some(result.clone());
        let left = (Arc::clone(&request.event), request.abort.take(), request.waiting.take());
        requests.finish(id, self.limits.finished_kept);
        Some(left)
    }

    /// What every piece of news of a request begins with.
    fn about(&self, event: &Event, id: &str) -> Value {
        json!({ "request_id": id, "client_id": event.client_id, "provider": self.provider.name() })
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

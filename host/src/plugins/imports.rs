//! What a plugin's component can do: everything that it asks of the host comes out here, and is stamped with its name.
//!
//! Events go to the bus through the plugin's own handle, which knows what it was granted; they are part of the chain of
//! the event that is being handled. Its own namespace of the state is private: nobody is told of a change but the audit.
//! A namespace that it shares is used through `state:*` events, as everybody uses it.

use super::admit::{Admission, Candidate};
use super::tools;
use crate::fleet::Slot;
use futures_util::future::BoxFuture;
use gavel_bus::{Answer, Change, Draft, Error, Event, Handle, Sender, Store, StoreError};
use gavel_runtime::plugin::{Imports, Level, Refusal};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Where a plugin's own namespace begins.
const PLUGINS_OWN: &str = "plugin/";

/// What all plugins of a host share.
pub(super) struct Surroundings {
    pub(super) admission: Admission,
    pub(super) store: Store,
    /// The kernel that judges their tool calls; none where a host has none to ask.
    pub(super) kernel: Option<Arc<Slot>>,
    /// How long a tool call has that no event waits for.
    pub(super) event_timeout: Duration,
}

/// One instance's way out.
pub(super) struct Desk {
    name: Arc<str>,
    /// What the component calls itself: a namespace of that name is its own.
    own_name: String,
    /// The namespace of the state that is its own.
    own_space: String,
    shared: Vec<String>,
    tools: Vec<String>,
    surroundings: Arc<Surroundings>,
    handle: OnceLock<Handle>,
    /// The event that it is at work on.
    current: Mutex<Option<Arc<Event>>>,
    /// Numbers its tool calls.
    calls: AtomicU64,
}

/// While this lives, what the plugin asks for belongs to an event.
pub(super) struct AtWork<'a>(&'a Desk);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Desk {
    pub(super) fn new(candidate: &Candidate, surroundings: Arc<Surroundings>) -> Self {
        Self {
            name: candidate.name().into(),
            own_name: candidate.described.metadata.name.clone(),
            own_space: format!("{PLUGINS_OWN}{}", candidate.name()),
            shared: candidate.granted.state.clone(),
            tools: candidate.granted.tools.clone(),
            surroundings,
            handle: OnceLock::new(),
            current: Mutex::default(),
            calls: AtomicU64::new(0),
        }
    }

    /// Give it the way back to the bus.
    pub(super) fn open(&self, handle: Handle) {
        // Called once, by the contract of a plugin.
        let _ = self.handle.set(handle);
    }

    /// From now on it works on this event, until the guard is dropped.
    pub(super) fn work_on(&self, event: Option<&Arc<Event>>) -> AtWork<'_> {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = event.cloned();
        AtWork(self)
    }

    fn current(&self) -> Option<Arc<Event>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn handle(&self) -> Result<&Handle, Refusal> {
        self.handle.get().ok_or_else(|| forbidden("the plugin has not begun: it can ask for nothing yet"))
    }

    /// Where a namespace, as the component names it, lies.
    fn space(&self, namespace: &str) -> Result<Space, Refusal> {
        if namespace == &*self.name || namespace == self.own_name || namespace == self.own_space {
            return Ok(Space::Own);
        }
        if self.shared.iter().any(|granted| granted == namespace) {
            return Ok(Space::Shared);
        }
        let granted = if self.shared.is_empty() { "no other".to_owned() } else { self.shared.join(", ") };
        let name = &self.name;
        Err(forbidden(&format!(
            "plugin '{name}' may not use the namespace '{namespace}' of the state: it has its own, '{name}', and is granted {granted}"
        )))
    }

    /// Ask the state service, as everybody does.
    async fn ask_state(&self, event: &str, data: Value) -> Result<Answer, Refusal> {
        let cause = self.current();
        self.handle()?.ask_service(cause.as_deref(), Draft::new(event, data)).await.map_err(told)
    }

    /// Change its own namespace; gives how many keys there were of what is named.
    async fn change_own(&self, change: Change) -> Result<usize, Refusal> {
        self.handle()?.take().map_err(told)?;
        let event_id = self.current().map_or_else(|| "startup".to_owned(), |event| event.event_id.clone());
        let sender = Sender::Plugin(Arc::clone(&self.name));
        self.surroundings.store.change(&event_id, &sender, change).await.map_err(of_store)
    }

    async fn get(&self, namespace: String, key: String) -> Result<Option<String>, Refusal> {
        let found = match self.space(&namespace)? {
            Space::Own => self.surroundings.store.get(&self.own_space, &key).map_err(of_store)?,
            Space::Shared => {
                let answer = self.ask_state("state:get", json!({"namespace": namespace, "key": key})).await?;
                let found = answer.get("found").and_then(Value::as_bool) == Some(true);
                found.then(|| answer.get("value").cloned().unwrap_or(Value::Null))
            }
        };
        Ok(found.map(|value| value.to_string()))
    }

    async fn set(&self, namespace: String, key: String, value: String) -> Result<(), Refusal> {
        let space = self.space(&namespace)?;
        let value = json_of(&value, "the value")?;
        match space {
            Space::Own => {
                let change = Change::Set { namespace: self.own_space.clone(), key, value };
                self.change_own(change).await.map(drop)
            }
            Space::Shared => {
                let data = json!({"namespace": namespace, "key": key, "value": value});
                self.ask_state("state:set", data).await.map(drop)
            }
        }
    }

    async fn delete(&self, namespace: String, key: String) -> Result<bool, Refusal> {
        match self.space(&namespace)? {
            Space::Own => {
                let change = Change::Delete { namespace: self.own_space.clone(), key };
                self.change_own(change).await.map(|found| found > 0)
            }
            Space::Shared => {
                let answer = self.ask_state("state:delete", json!({"namespace": namespace, "key": key})).await?;
                Ok(answer.get("status").and_then(Value::as_str) == Some("deleted"))
            }
        }
    }

    async fn keys(&self, namespace: String, pattern: String) -> Result<Vec<String>, Refusal> {
        match self.space(&namespace)? {
            Space::Own => {
                let keys = self.surroundings.store.keys(&self.own_space, &pattern);
                keys.map(|(keys, _)| keys).map_err(of_store)
            }
            Space::Shared => {
                let data = json!({"namespace": namespace, "pattern": pattern});
                let mut answer = self.ask_state("state:list", data).await?;
                Ok(answer.remove("keys").and_then(|keys| serde_json::from_value(keys).ok()).unwrap_or_default())
            }
        }
    }

    async fn tool(&self, tool: String, params: String, intent: String) -> Result<String, Refusal> {
        if !self.tools.contains(&tool) {
            let granted = if self.tools.is_empty() { "none".to_owned() } else { self.tools.join(", ") };
            let name = &self.name;
            return Err(forbidden(&format!(
                "plugin '{name}' may not ask for the tool '{tool}': it is granted {granted}"
            )));
        }
        let Some(kernel) = &self.surroundings.kernel else {
            return Err(forbidden("this host has no kernel that could judge a tool call"));
        };
        self.handle()?.take().map_err(told)?;
        let params = json_of(&params, "the parameters")?;
        let current = self.current();
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let call = tools::Call {
            plugin: &self.name,
            event: current.as_deref(),
            number,
            tool: &tool,
            params,
            intent: &intent,
            no_longer_than: self.surroundings.event_timeout,
        };
        tools::ask(kernel, call).await
    }
}

/// Whose a namespace is.
enum Space {
    Own,
    Shared,
}

impl Imports for Desk {
    fn emit(&self, name: String, data: String) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async move {
            let (draft, cause) = (Draft::new(&name, json_of(&data, "the data")?), self.current());
            let emitted = self.handle()?.emit(cause.as_deref(), draft).await.map_err(told)?;
            Ok(emitted.event_id)
        })
    }

    fn call(&self, name: String, data: String) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async move {
            let (draft, cause) = (Draft::new(&name, json_of(&data, "the data")?), self.current());
            let answer = self.handle()?.call(cause.as_deref(), draft).await.map_err(told)?;
            Ok(Value::Object(answer).to_string())
        })
    }

    fn state_get(&self, namespace: String, key: String) -> BoxFuture<'_, Result<Option<String>, Refusal>> {
        Box::pin(self.get(namespace, key))
    }

    fn state_set(&self, namespace: String, key: String, value: String) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.set(namespace, key, value))
    }

    fn state_delete(&self, namespace: String, key: String) -> BoxFuture<'_, Result<bool, Refusal>> {
        Box::pin(self.delete(namespace, key))
    }

    fn state_keys(&self, namespace: String, pattern: String) -> BoxFuture<'_, Result<Vec<String>, Refusal>> {
        Box::pin(self.keys(namespace, pattern))
    }

    fn tool_call(&self, name: String, params: String, intent: String) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(self.tool(name, params, intent))
    }

    fn log(&self, level: Level, line: &str) {
        // The guest's own text: what could drive a terminal is shown, not obeyed.
        let (plugin, line) = (&*self.name, line.escape_debug());
        match level {
            Level::Debug => tracing::debug!(target: "plugin", plugin, "{line}"),
            Level::Info => tracing::info!(target: "plugin", plugin, "{line}"),
            Level::Warn => tracing::warn!(target: "plugin", plugin, "{line}"),
            Level::Error => tracing::error!(target: "plugin", plugin, "{line}"),
        }
    }
}

pub(super) fn forbidden(message: &str) -> Refusal {
    coded(message, "FORBIDDEN")
}

pub(super) fn coded(message: &str, code: &str) -> Refusal {
    Refusal { message: message.to_owned(), code: Some(code.to_owned()) }
}

fn json_of(text: &str, what: &str) -> Result<Value, Refusal> {
    serde_json::from_str(text).map_err(|why| coded(&format!("{what} is no JSON: {why}"), "INVALID_PARAMETERS"))
}

/// What the bus says, as the plugin hears it.
#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn told(why: Error) -> Refusal {
    Refusal { message: why.to_string(), code: why.code().map(str::to_owned) }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn of_store(why: StoreError) -> Refusal {
    let code = match &why {
        StoreError::Invalid(_) => "INVALID_PARAMETERS",
        StoreError::Full(_) => "RATE_LIMITED",
        _ => "STATE_FAILED",
    };
    coded(&why.to_string(), code)
}

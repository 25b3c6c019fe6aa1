//! What the tests of plugins share: the plugin itself, a sandbox, events, and a host that notes what it is asked.

use gavel_runtime::plugin::{
    BoxFuture, Component, Described, Event, Imports, Instance, Level, Limits, Refusal, Source,
};
use gavel_runtime::{Sandbox, SandboxOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

pub(crate) const PLUGIN: &[u8] = include_bytes!("../../../../tests/data/guests/plugin.wasm");

/// What the plugin asks its host for, and what it gets.
#[derive(Default)]
pub(crate) struct Host {
    /// What was asked, in order.
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) lines: Mutex<Vec<(Level, String)>>,
    pub(crate) state: Mutex<BTreeMap<String, String>>,
    /// How long a call takes; `None`: for ever.
    pub(crate) call_takes: Option<Duration>,
    /// Told when a call has come.
    pub(crate) called: Notify,
}

impl Host {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_calls_of(Some(Duration::ZERO))
    }

    pub(crate) fn with_calls_of(call_takes: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { call_takes, ..Self::default() })
    }

    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub(crate) fn take_lines(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

fn at_once<T: Send + 'static>(answer: Result<T, Refusal>) -> BoxFuture<'static, Result<T, Refusal>> {
    Box::pin(std::future::ready(answer))
}

impl Imports for Host {
    fn emit(&self, name: String, data: String) -> BoxFuture<'_, Result<String, Refusal>> {
        self.note(format!("emit {name} {data}"));
        at_once(Ok("event-1".into()))
    }

    fn call(&self, name: String, data: String) -> BoxFuture<'_, Result<String, Refusal>> {
        self.note(format!("call {name} {data}"));
        Box::pin(async move {
            self.called.notify_one();
            match self.call_takes {
                Some(Duration::ZERO) => {}
                // Time that passes in the host is what this is about; nobody waits for it otherwise.
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
            match data.as_str() {
                "deny" => Err(Refusal { message: "nobody answers that".into(), code: Some("NO_HANDLER".into()) }),
                _ => Ok(data),
            }
        })
    }

    fn state_get(&self, namespace: String, key: String) -> BoxFuture<'_, Result<Option<String>, Refusal>> {
        at_once(Ok(self.state.lock().unwrap().get(&format!("{namespace}/{key}")).cloned()))
    }

    fn state_set(&self, namespace: String, key: String, value: String) -> BoxFuture<'_, Result<(), Refusal>> {
        self.state.lock().unwrap().insert(format!("{namespace}/{key}"), value);
        at_once(Ok(()))
    }

    fn state_delete(&self, namespace: String, key: String) -> BoxFuture<'_, Result<bool, Refusal>> {
        at_once(Ok(self.state.lock().unwrap().remove(&format!("{namespace}/{key}")).is_some()))
    }

    fn state_keys(&self, namespace: String, pattern: String) -> BoxFuture<'_, Result<Vec<String>, Refusal>> {
        self.note(format!("keys {namespace} {pattern}"));
        at_once(Ok(self.state.lock().unwrap().keys().cloned().collect()))
    }

    fn tool_call(&self, name: String, params: String, intent: String) -> BoxFuture<'_, Result<String, Refusal>> {
        self.note(format!("tool {name} {params} {intent}"));
        at_once(Err(Refusal { message: "policy p: no".into(), code: Some("DENIED".into()) }))
    }

    fn log(&self, level: Level, line: &str) {
        self.lines.lock().unwrap().push((level, line.to_owned()));
    }
}

pub(crate) fn sandbox() -> Sandbox {
    let options = SandboxOptions { max_instances: 2, decision_deadline_ms: 10_000, ..SandboxOptions::default() };
    Sandbox::new(options).unwrap()
}

/// The default limits, with time for a busy machine: a test of a deadline sets its own.
pub(crate) fn patient() -> Limits {
    Limits { deadline_ms: 30_000, ..Limits::default() }
}

pub(crate) fn described(sandbox: &Sandbox) -> Described {
    sandbox.describe_plugin("p", PLUGIN).unwrap()
}

pub(crate) fn source(config: Value, limits: Limits) -> Source {
    Source { name: "p".into(), bytes: PLUGIN.to_vec(), config, limits }
}

pub(crate) fn load(sandbox: &Sandbox, limits: Limits) -> Component {
    sandbox.load_plugin(source(json!({"n": 1}), limits), &described(sandbox)).unwrap()
}

/// An instance of its own, under these limits, and its host.
pub(crate) async fn instance(limits: Limits) -> (Instance, Arc<Host>) {
    let host = Host::new();
    let component = load(&sandbox(), limits);
    (component.instantiate(Arc::clone(&host) as _).await.unwrap(), host)
}

/// The event `test:DEED`.
pub(crate) fn event(deed: &str, data: &str) -> Event {
    Event {
        id: "e-1".into(),
        name: format!("test:{deed}"),
        data: data.into(),
        sender: "client:unix:1000/17".into(),
        timestamp_ms: 1_700_000_000_000,
        correlation_id: "c-1".into(),
        client_id: Some("中😀".into()),
    }
}

/// What an instance answers that is well.
pub(crate) async fn answer(instance: &mut Instance, deed: &str, data: &str) -> Result<Option<String>, Refusal> {
    instance.handle_event(&event(deed, data)).await.unwrap()
}

//! What a plugin is to the bus: what it says of itself, what it can do, and how one is made.
//!
//! Native services and WebAssembly components are the same here. The bus never knows which it has.

use crate::event::Event;
use crate::handle::Handle;
use crate::pattern::Pattern;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Lower case, with hyphens or underscores.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// Who made it.
    #[serde(default)]
    pub author: String,
    /// Names of plugins that must be registered too.
    #[serde(default)]
    pub dependencies: Vec<String>,
    /// Who goes first where several see one event: the greater number.
    #[serde(default)]
    pub priority: i32,
}

/// What a plugin answers, hears, and must be granted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Namespaces whose events it answers, without the colon; `/ns`, as older plugins wrote, is `ns`.
    pub event_namespaces: Vec<String>,
    /// Single events that it answers, before the owner of their namespace.
    pub commands: Vec<String>,
    /// Services that it provides, for `system:plugins`.
    pub provides_services: Vec<String>,
    /// Events of which it hears after they were answered.
    pub subscribes: Vec<Pattern>,
    /// Events that it sees before they are handled, and may replace or cancel.
    pub before: Vec<Pattern>,
    /// Events whose answers it sees.
    pub after: Vec<Pattern>,
    /// Events that it may emit or call. The operator may grant fewer.
    pub emits: Vec<Pattern>,
    /// Namespaces of the state that it may read and write; its own is always among them.
    pub state: Vec<String>,
    /// Governed tools that it may ask for.
    pub tools: Vec<String>,
    /// Memory that it needs, in bytes; 0: the default.
    pub memory_bytes: u64,
    /// Time that it needs for one event, in milliseconds; 0: the default.
    pub deadline_ms: u64,
}

/// What a plugin makes of an event that it sees before its handler.
#[derive(Debug, Clone, PartialEq)]
pub enum Before {
    /// Let it pass as it is.
    Pass,
    /// Let it pass with this data.
    Replace(Value),
    /// It is not handled; the text says why.
    Cancel(String),
}

/// Why a plugin did not answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// It does not know this event: the bus says that nobody handles it.
    #[error("not handled")]
    Unhandled,
    /// It answers with an error: the plugin is well, the request was not. The code, where there is one, is for the
    /// caller.
    #[error("{message}")]
    Refused {
        /// What was wrong.
        message: String,
        /// A word for programs.
        code: Option<String>,
    },
    /// It broke: trapped, ran out of memory, overran its deadline. Its instance must not be used again.
    #[error("{0}")]
    Broken(String),
}

impl Fault {
    /// A refusal without a code.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), code: None }
    }
}

/// A running plugin.
///
/// The bus calls it for one event at a time, unless it is [`concurrent`](Self::concurrent).
pub trait Plugin: Send + Sync + 'static {
    /// Begin, with its configuration. Called once, before anything else.
    fn startup(&self, config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>>;

    /// Answer an event that it owns.
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>>;

    /// See an event before its handler; asked only where [`Capabilities::before`] matches.
    fn before(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<Before, Fault>> {
        Box::pin(std::future::ready(Ok(Before::Pass)))
    }

    /// Hear of an event that it subscribes to.
    fn hear(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// See the answer to an event; asked only where [`Capabilities::after`] matches.
    fn after(&self, _event: Arc<Event>, _answer: Arc<Value>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// End: what must be kept is written down.
    fn shutdown(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether it may be called for several events at once.
    fn concurrent(&self) -> bool {
        false
    }

    /// What it holds in memory, in bytes, as far as that is known.
    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// How a plugin is made. Cheap until it is asked to make one: an idle plugin has no instance.
pub trait Factory: Send + Sync + 'static {
    /// Make an instance.
    fn make(&self) -> BoxFuture<'_, Result<Arc<dyn Plugin>, Fault>>;
}

impl<F, P> Factory for F
where
    F: Fn() -> P + Send + Sync + 'static,
    P: Plugin,
{
    fn make(&self) -> BoxFuture<'_, Result<Arc<dyn Plugin>, Fault>> {
        let plugin: Arc<dyn Plugin> = Arc::new(self());
        Box::pin(std::future::ready(Ok(plugin)))
    }
}

/// A plugin as it is brought to the bus.
#[derive(Clone)]
pub struct Registration {
    /// What it says of itself.
    pub metadata: Metadata,
    /// What it does and needs.
    pub capabilities: Capabilities,
    /// Its configuration.
    pub config: Value,
    /// What identifies its code: the digest of a component, `native` for what is built in.
    pub digest: String,
    /// How it is made.
    pub factory: Arc<dyn Factory>,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("metadata", &self.metadata)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

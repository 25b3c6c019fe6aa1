//! `state:*`: values by namespace and key, durable and audited. Each change is told as `state:changed`.
//!
//! Namespaces that begin with `plugin/` are the plugins' own: only the plugin of that name, and those that were granted
//! it, may use one.

use super::{invalid, present, read, service};
use crate::event::{Draft, Event, Sender};
use crate::handle::Handle;
use crate::pattern::Pattern;
use crate::plugin::{Fault, Plugin, Registration};
use crate::store::{Change, Store, StoreError};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// What it answers.
pub(super) const EVENTS: [&str; 6] =
    ["state:set", "state:get", "state:delete", "state:list", "state:clear", "state:load"];

/// Where a plugin's own namespace begins.
const PLUGINS_OWN: &str = "plugin/";

/// Namespaces that plugins were granted beside their own. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct StateGrants(Arc<RwLock<BTreeMap<String, Vec<String>>>>);

impl StateGrants {
    /// From now on the plugin may use these.
    pub fn grant(&self, plugin: &str, namespaces: Vec<String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(plugin.to_owned(), namespaces);
    }

    /// From now on the plugin may use none but its own.
    pub fn revoke(&self, plugin: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(plugin);
    }

    fn has(&self, plugin: &str, namespace: &str) -> bool {
        let grants = self.0.read().unwrap_or_else(PoisonError::into_inner);
        grants.get(plugin).is_some_and(|granted| granted.iter().any(|space| space == namespace))
    }
}

impl From<BTreeMap<String, Vec<String>>> for StateGrants {
    fn from(grants: BTreeMap<String, Vec<String>>) -> Self {
        Self(Arc::new(RwLock::new(grants)))
    }
}

/// The state service.
pub struct State {
    store: Store,
    grants: StateGrants,
    handle: OnceLock<Handle>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default = "global")]
    namespace: String,
    key: String,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default = "global")]
    namespace: String,
    #[serde(default = "everything")]
    pattern: String,
}

/// What is removed is named, always.
#[derive(Deserialize)]
struct Clearing {
    namespace: String,
    #[serde(default)]
    confirm: bool,
}

fn global() -> String {
    "global".to_owned()
}

fn everything() -> String {
    "*".to_owned()
}

impl State {
    /// The service over this store. `grants`: which namespaces each plugin may use beside its own.
    #[must_use]
    pub fn registration(store: &Store, grants: impl Into<StateGrants>) -> Registration {
        let (store, grants) = (store.clone(), grants.into());
        let make = move || Self { store: store.clone(), grants: grants.clone(), handle: OnceLock::new() };
        let description = "Keeps values by namespace and key, durable and audited.";
        let mut registration = service("state_service", "state", description, Arc::new(make));
        registration.capabilities.emits = Pattern::parse("state:changed").into_iter().collect();
        registration
    }

    async fn answer(&self, event: &Event) -> Result<Value, Fault> {
        match event.name.as_str() {
            "state:get" => {
                let Place { namespace, key, .. } = read(event)?;
                self.may(event, &namespace)?;
                let value = self.store.get(&namespace, &key).map_err(refused)?;
                Ok(json!({ "namespace": namespace, "key": key, "found": value.is_some(), "value": value }))
            }
            "state:set" => {
                let Place { namespace, key, value } = read(event)?;
                let value =
                    value.ok_or_else(|| invalid("state:set: `value` is missing; `state:delete` removes a key"))?;
                self.change(event, Change::Set { namespace, key, value }).await?;
                Ok(json!({ "status": "set" }))
            }
            "state:delete" => {
                let Place { namespace, key, .. } = read(event)?;
                let there = self.change(event, Change::Delete { namespace, key }).await?;
                Ok(json!({ "status": if there > 0 { "deleted" } else { "not_found" } }))
            }
            "state:list" => {
                let Whole { namespace, pattern } = read(event)?;
                self.may(event, &namespace)?;
                let (keys, more) = self.store.keys(&namespace, &pattern).map_err(refused)?;
                Ok(json!({ "namespace": namespace, "count": keys.len(), "keys": keys, "more": more }))
            }
            "state:clear" => {
                let Clearing { namespace, confirm } = read(event)?;
                if !confirm {
                    return Err(invalid("state:clear removes all of a namespace: say `\"confirm\": true`"));
                }
                let cleared = self.change(event, Change::Clear { namespace }).await?;
                Ok(json!({ "status": "cleared", "cleared": cleared }))
            }
            "state:load" => {
                let Whole { namespace, pattern } = read(event)?;
                self.may(event, &namespace)?;
                let (keys, more) = self.store.keys(&namespace, &pattern).map_err(refused)?;
                Ok(
                    json!({ "status": "loaded", "message": "state is durable and always loaded", "state_keys": keys, "more": more }),
                )
            }
            _ => Err(Fault::Unhandled),
        }
    }

    async fn change(&self, event: &Event, change: Change) -> Result<usize, Fault> {
        self.may(event, change.namespace())?;
        let told = match &change {
            Change::Set { namespace, key, value } => {
                json!({ "namespace": namespace, "key": key, "value": value, "change": "set" })
            }
            Change::Delete { namespace, key } => json!({ "namespace": namespace, "key": key, "change": "delete" }),
            Change::Clear { namespace } => json!({ "namespace": namespace, "change": "clear" }),
        };
        let found = self.store.change(&event.event_id, &event.sender, change).await.map_err(refused)?;
        if let Some(handle) = self.handle.get() {
            // The change is made; that somebody cannot be told of it does not undo it.
            if let Err(why) = handle.emit(Some(event), Draft::new("state:changed", told)).await {
                tracing::warn!("a change of state was not told: {why}");
            }
        }
        Ok(found)
    }

    /// Whether the sender may use the namespace.
    fn may(&self, event: &Event, namespace: &str) -> Result<(), Fault> {
        let own = namespace.strip_prefix(PLUGINS_OWN);
        let allowed = match &event.sender {
            Sender::Host => true,
            Sender::Plugin(plugin) => own == Some(&**plugin) || self.grants.has(plugin, namespace),
            Sender::Client(_) | Sender::Peer(_) => own.is_none(),
        };
        if allowed {
            return Ok(());
        }
        let message = format!("{} may not use the namespace '{namespace}' of the state", event.sender);
        Err(Fault::Refused { message, code: Some("FORBIDDEN".to_owned()) })
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn refused(why: StoreError) -> Fault {
    let code = match &why {
        StoreError::Invalid(_) => super::INVALID_PARAMETERS,
        StoreError::Full(_) => "RATE_LIMITED",
        StoreError::Failed(_) | StoreError::Open(_) => "STATE_FAILED",
    };
    Fault::Refused { message: why.to_string(), code: Some(code.to_owned()) }
}

impl Plugin for State {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        // Called once, by contract.
        let _ = self.handle.set(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move { self.answer(&event).await })
    }

    fn concurrent(&self) -> bool {
        true
    }
}

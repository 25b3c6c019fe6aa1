//! `system:*`: what the bus is, what it has in it, and what happened on it.

use super::{invalid, one_or_many, read, service};
use crate::bus::Bus;
use crate::event::Event;
use crate::handle::Handle;
use crate::history::Query;
use crate::pattern::Pattern;
use crate::plugin::{Fault, Plugin, Registration};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// What it answers; `system:commands` and `system:processes` are the transport's.
pub(super) const EVENTS: [&str; 7] = [
    "system:health",
    "system:shutdown",
    "system:plugins",
    "system:plugin_status",
    "system:event_history",
    "system:cleanup",
    "system:reload_module",
];

/// The longest list of events that one answer gives.
const EVENTS_LISTED_MAX: usize = 10_000;

/// The longest grace that a shutdown is given.
const GRACE_SECONDS_MAX: f64 = 3_600.0;

/// What the host does when it is asked to end, or to load a plugin anew.
pub trait About: Send + Sync + 'static {
    /// The host's version.
    fn version(&self) -> String;

    /// End the host within so many seconds.
    ///
    /// # Errors
    /// If it does not let itself be ended this way.
    fn shut_down(&self, reason: &str, grace_seconds: f64) -> Result<(), String>;

    /// Look at a plugin's files again, and put what is there now in its place.
    fn reload<'a>(&'a self, plugin: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Plugins that are left out, or do not serve as their files are, and why.
    fn broken(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// What the host knows of a plugin beside what it says itself: its digest, who signed it, what it was not granted.
    fn facts(&self, _plugin: &str) -> Map<String, Value> {
        Map::new()
    }
}

/// The system service.
pub struct System {
    bus: Bus,
    about: Arc<dyn About>,
    since: Instant,
}

#[derive(Deserialize)]
struct Past {
    #[serde(default = "hundred")]
    limit: usize,
    #[serde(default, deserialize_with = "one_or_many")]
    event_patterns: Vec<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    since: Option<f64>,
    #[serde(default)]
    until: Option<f64>,
    #[serde(default = "yes")]
    reverse: bool,
}

fn hundred() -> usize {
    100
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Shutdown {
    #[serde(default)]
    reason: String,
    #[serde(default = "five")]
    grace_period: f64,
}

fn five() -> f64 {
    5.0
}

#[derive(Deserialize)]
struct Cleanup {
    #[serde(default = "all")]
    cleanup_type: String,
}

/// What the older daemon could be asked to clean up.
const CLEANUP_TYPES: [&str; 4] = ["logs", "sessions", "sockets", "all"];

fn all() -> String {
    "all".to_owned()
}

#[derive(Deserialize)]
struct Reload {
    #[serde(alias = "module_name", alias = "module")]
    plugin: String,
}

impl System {
    /// The service of this bus.
    #[must_use]
    pub fn registration(bus: &Bus, about: Arc<dyn About>) -> Registration {
        let (bus, since) = (bus.clone(), Instant::now());
        let make = move || Self { bus: bus.clone(), about: Arc::clone(&about), since };
        service("system_service", "system", "Says what the bus has in it and what happened on it.", Arc::new(make))
    }

    async fn answer(&self, event: &Event) -> Result<Value, Fault> {
        match event.name.as_str() {
            "system:health" => Ok(self.health(in_short)),
            "system:plugins" => Ok(json!({ "plugins": self.plugins(), "broken": self.about.broken() })),
            "system:plugin_status" => Ok(self.health(crate::PluginStatus::shown)),
            "system:event_history" => self.past(event),
            "system:cleanup" => cleanup(event),
            "system:shutdown" => {
                let Shutdown { reason, grace_period } = read(event)?;
                let grace_period = grace_period.clamp(0.0, GRACE_SECONDS_MAX);
                self.about.shut_down(&reason, grace_period).map_err(Fault::refused)?;
                Ok(json!({ "status": "shutting_down", "reason": reason, "grace_period": grace_period }))
            }
            "system:reload_module" => {
                let Reload { plugin } = read(event)?;
                self.about.reload(&plugin).await.map_err(Fault::refused)?;
                Ok(json!({ "status": "reloaded", "module": plugin }))
            }
            _ => Err(Fault::Unhandled),
        }
    }

    /// The state of the whole, with what `about` says of each plugin.
    fn health(&self, about: impl Fn(&crate::PluginStatus) -> Value) -> Value {
        let mut plugins = Map::new();
        let mut worst = "healthy";
        for plugin in self.bus.plugins() {
            if plugin.state == crate::PluginState::CircuitOpen {
                worst = "degraded";
            }
            plugins.insert(plugin.metadata.name.clone(), about(&plugin));
        }
        json!({
            "status": worst,
            "uptime": self.since.elapsed().as_secs_f64(),
            "version": self.about.version(),
            "plugins": plugins,
        })
    }

    fn plugins(&self) -> Map<String, Value> {
        let about = |plugin: crate::PluginStatus| {
            let mut said = self.about.facts(&plugin.metadata.name);
            said.insert("version".to_owned(), json!(plugin.metadata.version));
            said.insert("description".to_owned(), json!(plugin.metadata.description));
            said.insert("capabilities".to_owned(), json!(plugin.capabilities));
            (plugin.metadata.name, Value::Object(said))
        };
        self.bus.plugins().into_iter().map(about).collect()
    }

    fn past(&self, event: &Event) -> Result<Value, Fault> {
        let past: Past = read(event)?;
        if past.limit > EVENTS_LISTED_MAX {
            return Err(invalid(&format!("limit = {}: at most {EVENTS_LISTED_MAX} events are given", past.limit)));
        }
        let patterns: Result<Vec<_>, _> = past.event_patterns.iter().map(|text| Pattern::parse(text)).collect();
        let query = Query {
            limit: past.limit,
            patterns: patterns.map_err(|why| invalid(&format!("event_patterns: {why}")))?,
            client_id: past.client_id.clone(),
            since_ms: past.since.map(milliseconds),
            until_ms: past.until.map(milliseconds),
            newest_first: past.reverse,
        };
        let (events, total) = self.bus.history(&query);
        let shown: Vec<Value> = events.iter().map(|event| event.shown()).collect();
        let asked = json!({
            "limit": past.limit, "event_patterns": past.event_patterns, "client_id": past.client_id,
            "since": past.since, "until": past.until, "reverse": past.reverse,
        });
        Ok(json!({ "events": shown, "count": shown.len(), "total_events": total, "query": asked }))
    }
}

/// What a client needs of a plugin.
fn in_short(plugin: &crate::PluginStatus) -> Value {
    json!({
        "version": plugin.metadata.version,
        "status": plugin.state,
        "namespaces": plugin.capabilities.event_namespaces,
    })
}

fn cleanup(event: &Event) -> Result<Value, Fault> {
    let Cleanup { cleanup_type } = read(event)?;
    if !CLEANUP_TYPES.contains(&cleanup_type.as_str()) {
        return Err(invalid(&format!("cleanup_type '{cleanup_type}': it is one of {}", CLEANUP_TYPES.join(", "))));
    }
    let details = "nothing to remove: queues, history and logs are bounded, sockets are removed when the host ends";
    Ok(json!({ "status": "cleaned", "cleanup_type": cleanup_type, "details": details }))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time that is no number of milliseconds is cut off"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1e3) as u64
}

impl Plugin for System {
    fn startup(&self, _config: Value, _handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move { self.answer(&event).await })
    }

    fn concurrent(&self) -> bool {
        true
    }
}

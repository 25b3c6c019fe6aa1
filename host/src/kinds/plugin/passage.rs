//! What lies behind an event that the plugin looks at before its handler and does not answer itself: a handler that says
//! back what came through.
//!
//! On the bus of a host another plugin or a service would answer such an event (`completion:request`, for example). Here
//! the question is what the plugin makes of it: it is cancelled, or it passes, perhaps changed.

use futures_util::future::BoxFuture;
use gavel_bus::{Bus, Capabilities, Event, Fault, Handle, Metadata, Plugin, PluginStatus, RegisterError, Registration};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The name that it is registered by.
pub(super) const PASSAGE: &str = "passage";

/// What it owns: namespaces, and single events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Claims {
    spaces: BTreeSet<String>,
    events: BTreeSet<String>,
}

/// The handler behind a plugin, which follows what that looks at.
#[derive(Debug, Default)]
pub(super) struct Passage {
    claims: tokio::sync::Mutex<Claims>,
}

struct SaysBack;

impl Plugin for SaysBack {
    fn startup(&self, _config: Value, _handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(std::future::ready(Ok(json!({"passed": true, "data": event.data}))))
    }

    fn concurrent(&self) -> bool {
        true
    }
}

impl Passage {
    /// Own what `plugin` looks at now and nobody else answers.
    pub(super) async fn follow(&self, bus: &Bus, plugin: Option<&PluginStatus>) {
        let wanted = plugin.map(|plugin| claims(&plugin.capabilities, &bus.plugins())).unwrap_or_default();
        let mut now = self.claims.lock().await;
        if *now == wanted {
            return;
        }
        match change(bus, &now, &wanted).await {
            Ok(()) => *now = wanted,
            Err(why) => tracing::error!("what the plugin looks at cannot be asked for: {why}"),
        }
    }
}

async fn change(bus: &Bus, now: &Claims, wanted: &Claims) -> Result<(), RegisterError> {
    let none = Claims::default();
    match (*now == none, *wanted == none) {
        (true, _) => bus.register(vec![registration(wanted)]),
        (false, true) => bus.unregister(PASSAGE),
        (false, false) => bus.replace(registration(wanted)).await,
    }
}

fn registration(claims: &Claims) -> Registration {
    Registration {
        metadata: Metadata {
            name: PASSAGE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Says back what came through the plugin.".to_owned(),
            ..Metadata::default()
        },
        capabilities: Capabilities {
            event_namespaces: claims.spaces.iter().cloned().collect(),
            commands: claims.events.iter().cloned().collect(),
            ..Capabilities::default()
        },
        config: Value::Null,
        digest: PASSAGE.to_owned(),
        factory: Arc::new(|| SaysBack),
    }
}

/// What a plugin looks at and none of the others owns. A pattern that begins with a star is of all namespaces, and of none
/// that could be owned here.
fn claims(plugin: &Capabilities, all: &[PluginStatus]) -> Claims {
    let others: Vec<&Capabilities> =
        all.iter().filter(|other| other.metadata.name != PASSAGE).map(|other| &other.capabilities).collect();
    let has_space =
        |space: &str| others.iter().any(|other| other.event_namespaces.iter().any(|own| plain(own) == space));
    let has_event = |event: &str| others.iter().any(|other| other.commands.iter().any(|own| own == event));
    let mut claims = Claims::default();
    for pattern in &plugin.before {
        match pattern.as_str().split_once(':') {
            Some(("*", _)) => {}
            Some((space, _)) if has_space(space) => {}
            Some((space, "*")) => drop(claims.spaces.insert(space.to_owned())),
            Some(_) if !has_event(pattern.as_str()) => drop(claims.events.insert(pattern.as_str().to_owned())),
            Some(_) | None => {}
        }
    }
    claims
}

/// A namespace without what older plugins wrote around it.
fn plain(space: &str) -> &str {
    space.trim_start_matches('/').trim_end_matches([':', '*'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_bus::Pattern;

    #[test]
    fn it_owns_what_is_looked_at_and_nobody_answers() {
        let before = ["completion:*", "mine:*", "chat:send", "*:error", "*"];
        let plugin = Capabilities {
            event_namespaces: vec!["/mine:*".into()],
            before: before.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            ..Capabilities::default()
        };
        let bus = Bus::new(gavel_bus::Options::default(), || 0);
        let mut registration = registration(&Claims::default());
        registration.metadata.name = "plugin".into();
        registration.capabilities = plugin.clone();
        bus.register(vec![registration]).unwrap();
        let claims = claims(&plugin, &bus.plugins());
        assert_eq!(claims.spaces, BTreeSet::from(["completion".to_owned()]));
        assert_eq!(claims.events, BTreeSet::from(["chat:send".to_owned()]));
    }

    #[tokio::test]
    async fn it_follows_the_plugin() {
        let bus = Bus::new(gavel_bus::Options::default(), || 0);
        let plugin = |patterns: &[&str]| {
            let mut registration = registration(&Claims::default());
            registration.metadata.name = "plugin".into();
            registration.capabilities.before = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
            registration
        };
        bus.register(vec![plugin(&["a:*"])]).unwrap();
        let passage = Passage::default();
        let follow = async || {
            let plugin = bus.plugins().into_iter().find(|plugin| plugin.metadata.name == "plugin");
            passage.follow(&bus, plugin.as_ref()).await;
        };
        follow().await;
        assert_eq!(bus.owner("a:x").as_deref(), Some(PASSAGE));
        bus.replace(plugin(&["b:*"])).await.unwrap();
        follow().await;
        assert_eq!((bus.owner("a:x"), bus.owner("b:x").as_deref()), (None, Some(PASSAGE)));
        bus.unregister("plugin").unwrap();
        follow().await;
        assert_eq!(bus.owner("b:x"), None);
    }
}

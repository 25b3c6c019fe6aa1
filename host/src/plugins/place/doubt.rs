//! What a changed configuration takes from plugins, whatever their files have become: their service, where nobody trusts
//! them any more, and what they are no longer granted.

use super::{Candidate, Hall, NATIVE, Waiting};
use futures_util::future::BoxFuture;
use gavel_bus::{Capabilities, Event, Fault, Handle, Metadata, Plugin, Registration};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Takes the place of one that cannot be taken away yet: those that depend on each other in a circle go one by one.
struct Inert;

impl Plugin for Inert {
    fn startup(&self, _: Value, _: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, _: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(std::future::ready(Err(Fault::Unhandled)))
    }
}

impl Hall {
    /// Take those away that are no longer trusted. Who depends on one waits from then on.
    pub(in crate::plugins) async fn expel(&mut self) {
        let admission = &self.surroundings.admission;
        let doubted = self.standing.values().filter_map(|it| Some((Arc::clone(it), admission.distrust(it)?)));
        let doubted: Vec<_> = doubted.collect();
        let unknown = self.waiting.iter().filter_map(|(place, it)| {
            let why = admission.distrust(&it.candidate)?;
            Some((place.clone(), it.candidate.name().to_owned(), why))
        });
        let unknown: Vec<(PathBuf, String, String)> = unknown.collect();
        for (place, name, why) in unknown {
            self.refuse(&place, &name, why);
        }
        for (candidate, why) in doubted {
            self.take_down(&candidate, why).await;
        }
    }

    /// Take from those that serve what they are no longer granted. Most have it by then: they were admitted anew.
    pub(in crate::plugins) async fn narrow(&mut self) {
        let admission = &self.surroundings.admission;
        for waiting in self.waiting.values_mut() {
            if let Some(new) = admission.granted_now(&waiting.candidate) {
                waiting.candidate = Arc::new(new);
            }
        }
        let changed = self.standing.values().filter_map(|it| Some((Arc::clone(it), admission.granted_now(it)?)));
        for (old, new) in changed.collect::<Vec<_>>() {
            let (name, new) = (old.name().to_owned(), Arc::new(new));
            if !self.standing.contains_key(&name) {
                continue;
            }
            self.grants.grant(&name, new.granted.state.clone());
            match self.bus.replace(self.registration(&new)).await {
                Ok(()) => {
                    tracing::info!(plugin = name, "it is granted something else now");
                    self.standing.insert(name, new);
                }
                Err(why) => self.take_down(&old, format!("with what it is granted now it cannot be: {why}")).await,
            }
        }
    }

    /// Take a plugin out of service at once, and all that depend on it.
    async fn take_down(&mut self, candidate: &Candidate, why: String) {
        let mut down = self.with_dependents(candidate.name());
        while self.let_go(&mut down) {}
        for name in &down {
            let inert = Registration {
                metadata: Metadata { name: name.clone(), version: String::new(), ..Metadata::default() },
                capabilities: Capabilities::default(),
                config: Value::Null,
                digest: NATIVE.to_owned(),
                factory: Arc::new(|| Inert),
            };
            if let Err(why) = self.bus.replace(inert).await {
                tracing::error!(plugin = name, %why, "it cannot be taken out of service");
            }
        }
        while self.let_go(&mut down) {}
        tracing::error!(plugin = candidate.name(), "taken out of service: {why}");
        self.refuse(&candidate.place, candidate.name(), why);
    }

    /// A plugin and all that depend on it, directly or through others.
    fn with_dependents(&self, name: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::from([name.to_owned()]);
        loop {
            let needs = |it: &&Arc<Candidate>| it.metadata.dependencies.iter().any(|needed| names.contains(needed));
            let more: Vec<String> = self.standing.values().filter(needs).map(|it| it.name().to_owned()).collect();
            let before = names.len();
            names.extend(more);
            if names.len() == before {
                return names;
            }
        }
    }

    /// Take those of them away on whom nobody depends; they wait. True if one went.
    fn let_go(&mut self, down: &mut BTreeSet<String>) -> bool {
        let before = down.len();
        down.retain(|name| {
            let Some(candidate) = self.standing.get(name).map(Arc::clone) else { return false };
            if self.unregister(name).is_err() {
                return true;
            }
            let narrowed = self.surroundings.admission.granted_now(&candidate).map(Arc::new);
            let why = "what it depends on was taken out of service".to_owned();
            let waiting = || Waiting { candidate: narrowed.unwrap_or_else(|| Arc::clone(&candidate)), why };
            self.waiting.entry(candidate.place.clone()).or_insert_with(waiting);
            false
        });
        down.len() < before
    }
}

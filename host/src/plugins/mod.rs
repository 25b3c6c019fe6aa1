//! Plugins that are WebAssembly components: found in folders, verified, registered on the bus, and replaced while they
//! serve.
//!
//! What belongs together: [`manifest`] is what stands beside a component and [`grants`] what it gets of what it asks;
//! `folder` sees what lies in the plugin folders, and `files` reads it; [`admit`] stands between a file and a plugin; [`shelf`] keeps what is
//! known by digest; `place` brings plugins to the bus in the order in which they need each other; `component` is a
//! plugin to the bus, and `imports` and `tools` are what it may do there.
//!
//! What always holds:
//! - A plugin that cannot be taken is left out, with the reason, and nobody else suffers ([`Plugins::broken`]).
//! - What serves goes on serving until what replaces it has started.
//! - A component is compiled for its first event, and asked what it is once in its life.
//! - Nothing is granted that the operator did not grant.

pub mod admit;
mod component;
mod files;
mod folder;
pub mod grants;
mod imports;
pub mod manifest;
mod place;
mod settings;
pub mod shelf;
mod tools;

pub use settings::{Only, Settings};

use crate::fleet::Slot;
use admit::{Admission, Candidate};
use anyhow::Result;
use folder::{Found, Look, News, Seen};
use gavel_bus::services::StateGrants;
use gavel_bus::{Bus, Store};
use imports::Surroundings;
use place::Hall;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// What plugins are made with.
pub struct Parts {
    /// What stands between a file and a plugin.
    pub admission: Admission,
    /// Where they are registered.
    pub bus: Bus,
    /// Their state.
    pub store: Store,
    /// Which namespaces of it they share; the state service asks this.
    pub grants: StateGrants,
    /// The kernel that judges their tool calls.
    pub kernel: Option<Arc<Slot>>,
}

/// The plugins of a host that are components.
pub struct Plugins {
    surroundings: Arc<Surroundings>,
    bus: Bus,
    /// Held while what was seen is brought to the bus.
    changing: tokio::sync::Mutex<State>,
    shown: Mutex<Shown>,
}

struct State {
    seen: Seen,
    hall: Hall,
    /// What the last look found wrong with the folders.
    unseen: BTreeMap<PathBuf, String>,
}

/// What an operator is told, as of the last change.
#[derive(Debug, Default, Clone)]
struct Shown {
    /// Plugins that are not as their files are, and why.
    broken: BTreeMap<String, String>,
    facts: BTreeMap<String, Map<String, Value>>,
}

impl Plugins {
    /// The plugins of the folders, registered as far as they can be. None of them is started.
    pub async fn open(parts: Parts) -> Arc<Self> {
        let Parts { admission, bus, store, grants, kernel } = parts;
        let event_timeout = bus.options().event_timeout;
        let surroundings = Arc::new(Surroundings { admission, store, kernel, event_timeout });
        let hall = Hall::new(bus.clone(), grants, Arc::clone(&surroundings));
        let plugins = Arc::new(Self {
            surroundings,
            bus,
            changing: tokio::sync::Mutex::new(State { seen: Seen::default(), hall, unseen: BTreeMap::new() }),
            shown: Mutex::default(),
        });
        plugins.look(true).await;
        plugins
    }

    /// Look into the folders again and again, until the task is aborted.
    pub fn watch(self: &Arc<Self>) -> JoinHandle<()> {
        let plugins = Arc::clone(self);
        tokio::spawn(async move {
            let every = plugins.settings().every;
            if every.is_zero() {
                return;
            }
            let mut tick = tokio::time::interval(every);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                plugins.look(false).await;
            }
        })
    }

    /// Look into the folders, and take what is new. `at_once`: what is seen for the first time too.
    pub async fn look(&self, at_once: bool) {
        let mut state = self.changing.lock().await;
        self.look_and_take(&mut state, at_once).await;
    }

    async fn look_and_take(&self, state: &mut State, at_once: bool) {
        match self.see().await {
            Ok(look) => {
                let news = state.seen.news(&look, at_once);
                self.take(state, look, news).await;
            }
            Err(why) => tracing::error!(why, "the plugin folders were not looked at"),
        }
    }

    /// Look at a plugin's files again, and put what is there now in its place, be it the same. A name that is not
    /// registered is looked for in the folders.
    ///
    /// # Errors
    /// Why it is not in service as its files are; what served goes on.
    pub async fn reload(&self, name: &str) -> Result<(), String> {
        let mut state = self.changing.lock().await;
        let look = self.see().await?;
        let placed = state.hall.place_of(name);
        let of_label = || look.found.iter().find(|(_, found)| found.label == name).map(|(place, _)| place.clone());
        let Some(place) = placed.or_else(of_label) else {
            let native = self.bus.plugins().into_iter().any(|plugin| plugin.metadata.name == name);
            return Err(if native {
                format!("plugin '{name}' is part of the host: restart the host to load it anew")
            } else {
                format!("there is no plugin '{name}', neither registered nor in the plugin folders")
            });
        };
        if look.hides(&place) {
            let folder = place.parent().and_then(|folder| look.broken.get(folder));
            let why = look.broken.get(&place).or(folder).cloned();
            return Err(why.unwrap_or_else(|| format!("{}: it cannot be looked at", place.display())));
        }
        state.hall.begin_anew(&place);
        let changed = look.found.get(&place).map(|found| (place.clone(), found.clone()));
        let gone = if changed.is_none() { vec![place.clone()] } else { Vec::new() };
        self.take(&mut state, look, News { changed: changed.into_iter().collect(), gone }).await;
        state.hall.trouble(&place).map_or(Ok(()), Err)
    }

    /// Plugins that are left out, or do not serve as their files are, and why.
    #[must_use]
    pub fn broken(&self) -> BTreeMap<String, String> {
        self.shown().broken
    }

    /// What there is to say of a plugin beside what it says itself: where it lies, its digest, who signed it, and what it
    /// asked for and was not granted. Empty for what is no component.
    #[must_use]
    pub fn facts(&self, plugin: &str) -> Map<String, Value> {
        self.shown().facts.remove(plugin).unwrap_or_default()
    }

    /// Take another configuration, and look at all plugins again: what is the same goes on as it is. What is no longer
    /// trusted ends, and what is no longer granted is taken, whatever the files have become. How often the folders are
    /// looked at counts from the next start.
    pub async fn reconfigure(&self, settings: Settings) {
        let mut state = self.changing.lock().await;
        self.surroundings.admission.reconfigure(settings);
        state.hall.expel().await;
        state.seen.look_at_all_again();
        self.look_and_take(&mut state, true).await;
        state.hall.narrow().await;
        state.hall.settle().await;
        self.show(&state);
    }

    /// What the host is told about plugins.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.surroundings.admission.settings()
    }

    fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn see(&self) -> Result<Look, String> {
        let settings = self.settings();
        let look = move || match &settings.only {
            Some(only) => folder::look_at(&only.place),
            None => folder::look(&settings.folders),
        };
        tokio::task::spawn_blocking(look).await.map_err(|why| why.to_string())
    }

    /// Bring to the bus what is new.
    async fn take(&self, state: &mut State, look: Look, news: News) {
        for place in &news.gone {
            state.hall.leave(place);
        }
        for (place, found) in &news.changed {
            match self.admit(place.clone(), found.clone()).await {
                Ok(candidate) => state.hall.enter(candidate),
                Err(why) => state.hall.refuse(place, &found.label, format!("{why:#}")),
            }
        }
        if !news.changed.is_empty() || !news.gone.is_empty() || state.hall.waits() {
            state.hall.settle().await;
        }
        for (place, found) in &news.changed {
            state.seen.done(place, found.stamp);
        }
        for place in news.gone.iter().filter(|place| !state.hall.has(place)) {
            state.seen.forget(place);
        }
        state.unseen = look.broken;
        self.show(state);
    }

    /// Verifying hashes and describing compiles: not on a thread that serves.
    async fn admit(&self, place: PathBuf, found: Found) -> Result<Candidate> {
        let surroundings = Arc::clone(&self.surroundings);
        tokio::task::spawn_blocking(move || surroundings.admission.admit(&place, &found)).await?
    }

    /// Keep what an operator is told, and log what is new in it.
    fn show(&self, state: &State) {
        let mut broken = state.hall.broken();
        broken.extend(state.unseen.iter().map(|(place, why)| (place.display().to_string(), why.clone())));
        let facts: BTreeMap<String, Map<String, Value>> =
            state.hall.in_service().map(|candidate| (candidate.name().to_owned(), facts(candidate))).collect();
        let digests = state.hall.digests();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (plugin, why) in broken.iter().filter(|(plugin, why)| shown.broken.get(*plugin) != Some(why)) {
            let what = if facts.contains_key(plugin) { "it goes on as it is" } else { "left out" };
            tracing::error!(plugin, "{what}: {why}");
        }
        let changed = shown.facts != facts;
        *shown = Shown { broken, facts };
        drop(shown);
        if changed {
            self.surroundings.admission.shelf.tidy(&digests);
        }
    }
}

fn facts(candidate: &Candidate) -> Map<String, Value> {
    let told = json!({
        "place": candidate.place,
        "digest": candidate.digest,
        "signed_by": candidate.signers,
        "not_granted": candidate.granted.withheld,
    });
    match told {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// A plugin of a folder, as a host would take it, or why it would not.
#[derive(Debug)]
pub struct Checked {
    /// What it is called.
    pub name: String,
    /// Where it lies.
    pub place: PathBuf,
    /// The plugin, or why it would be left out.
    pub outcome: Result<Box<Candidate>, String>,
}

/// What a host would say of the plugins of a folder, each by itself: whether they can be there together is not asked.
#[must_use]
pub fn check(admission: &Admission, folder: &Path) -> Vec<Checked> {
    let look = folder::look(&[folder.to_owned()]);
    let broken = look.broken.into_iter().map(|(place, why)| {
        let name = place.display().to_string();
        Checked { name, place, outcome: Err(why) }
    });
    let found = look.found.into_iter().map(|(place, found)| {
        let outcome = admission.admit(&place, &found).map(Box::new).map_err(|why| format!("{why:#}"));
        let name = outcome.as_ref().map_or_else(|_| found.label.clone(), |it| it.name().to_owned());
        Checked { name, place, outcome }
    });
    found.chain(broken).collect()
}

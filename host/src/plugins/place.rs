//! Bringing plugins to the bus, and taking them from it.
//!
//! Plugins may need each other, so they come in the order in which they do, those that need each other in a circle at
//! once. One that cannot come waits, with the reason, and is tried again when something else has changed. A new version
//! takes the place of the old one when it has started; until then, and if it does not, the old one serves.

mod doubt;

use super::admit::Candidate;
use super::component::ComponentFactory;
use super::grants::plain;
use super::imports::Surroundings;
use crate::bus::nats::NATS_BRIDGE;
use gavel_bus::services::StateGrants;
use gavel_bus::{Bus, RegisterError, Registration, namespace};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What belongs to the host without a plugin of its own, or with one that begins when the others are there.
const RESERVED_NAMESPACES: [&str; 2] = ["news", "transport"];
const RESERVED_NAMES: [&str; 2] = ["unix_transport", NATS_BRIDGE];

/// What identifies the code of a plugin that is part of the host.
const NATIVE: &str = "native";

/// The plugins of a host that are components: those that serve, and those that would.
pub(super) struct Hall {
    bus: Bus,
    grants: StateGrants,
    surroundings: Arc<Surroundings>,
    /// In service, by name.
    standing: BTreeMap<String, Arc<Candidate>>,
    /// Admitted and not in service, by place, with the reason.
    waiting: BTreeMap<PathBuf, Waiting>,
    /// Not admitted, by place: what it is called, and why.
    refused: BTreeMap<PathBuf, (String, String)>,
    /// Their files are gone: by place, why they still serve.
    leaving: BTreeMap<PathBuf, String>,
    /// To be made anew even if nothing changed.
    anew: BTreeSet<PathBuf>,
}

struct Waiting {
    candidate: Arc<Candidate>,
    why: String,
}

impl Hall {
    pub(super) fn new(bus: Bus, grants: StateGrants, surroundings: Arc<Surroundings>) -> Self {
        Self {
            bus,
            grants,
            surroundings,
            standing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            refused: BTreeMap::new(),
            leaving: BTreeMap::new(),
            anew: BTreeSet::new(),
        }
    }

    /// Where the plugin of this name lies.
    pub(super) fn place_of(&self, name: &str) -> Option<PathBuf> {
        let waiting = self.waiting.values().map(|waiting| &waiting.candidate);
        let mut known = self.standing.values().chain(waiting);
        known.find(|candidate| candidate.name() == name).map(|candidate| candidate.place.clone())
    }

    /// Whether a plugin of this place serves.
    pub(super) fn has(&self, place: &Path) -> bool {
        self.at(place).is_some()
    }

    /// Whether something may come of trying again.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty() || !self.leaving.is_empty()
    }

    /// The digests of the code that is needed: of those that serve, and of those that may yet.
    pub(super) fn digests(&self) -> BTreeSet<String> {
        let waiting = self.waiting.values().map(|waiting| &waiting.candidate);
        self.standing.values().chain(waiting).map(|candidate| candidate.digest.clone()).collect()
    }

    pub(super) fn in_service(&self) -> impl Iterator<Item = &Arc<Candidate>> {
        self.standing.values()
    }

    /// What enters next from this place is made anew even if it is the same.
    pub(super) fn begin_anew(&mut self, place: &Path) {
        self.anew.insert(place.to_owned());
    }

    /// A plugin that was admitted.
    pub(super) fn enter(&mut self, candidate: Candidate) {
        let place = candidate.place.clone();
        self.forget(&place);
        let why = "it is about to be registered".to_owned();
        self.waiting.insert(place, Waiting { candidate: Arc::new(candidate), why });
    }

    /// A plugin that was not.
    pub(super) fn refuse(&mut self, place: &Path, label: &str, why: String) {
        self.forget(place);
        self.refused.insert(place.to_owned(), (label.to_owned(), why));
    }

    /// A plugin whose files are gone.
    pub(super) fn leave(&mut self, place: &Path) {
        self.forget(place);
        if self.has(place) {
            self.leaving.insert(place.to_owned(), String::new());
        }
    }

    fn forget(&mut self, place: &Path) {
        self.waiting.remove(place);
        self.refused.remove(place);
        self.leaving.remove(place);
    }

    fn at(&self, place: &Path) -> Option<&Arc<Candidate>> {
        self.standing.values().find(|candidate| candidate.place == place)
    }

    /// What an operator is told, by the plugin's name as far as it is known.
    pub(super) fn broken(&self) -> BTreeMap<String, String> {
        let refused = self.refused.iter().map(|(place, (label, why))| match self.at(place) {
            Some(old) => (old.name().to_owned(), format!("{why}; version {} goes on serving", old.metadata.version)),
            None => (label.clone(), why.clone()),
        });
        let waiting = self.waiting.iter().map(|(place, waiting)| {
            let name = waiting.candidate.name();
            let taken = self.standing.get(name).is_some_and(|standing| standing.place != *place);
            (if taken { place.display().to_string() } else { name.to_owned() }, waiting.why.clone())
        });
        let leaving = self.leaving.iter().filter_map(|(place, why)| {
            Some((self.at(place)?.name().to_owned(), format!("its files are gone, and it goes on serving: {why}")))
        });
        refused.chain(waiting).chain(leaving).collect()
    }

    /// Why a place's plugin is not as its files are.
    pub(super) fn trouble(&self, place: &Path) -> Option<String> {
        let refused = self.refused.get(place).map(|(_, why)| why.clone());
        let waiting = || self.waiting.get(place).map(|waiting| waiting.why.clone());
        refused.or_else(waiting).or_else(|| self.leaving.get(place).cloned())
    }

    /// Bring and take what can be, until nothing more can.
    pub(super) async fn settle(&mut self) {
        loop {
            let left = self.let_leave();
            let renamed = self.rename();
            let replaced = self.replace().await;
            let registered = self.register();
            if !left && !renamed && !replaced && !registered {
                break;
            }
        }
        self.anew.clear();
    }

    /// Take those away whose files are gone. True if one was taken.
    fn let_leave(&mut self) -> bool {
        let places: Vec<PathBuf> = self.leaving.keys().cloned().collect();
        let mut some = false;
        for place in places {
            let Some(name) = self.at(&place).map(|candidate| candidate.name().to_owned()) else { continue };
            match self.unregister(&name) {
                Ok(()) => {
                    tracing::info!(plugin = name, "removed: its files are gone");
                    self.leaving.remove(&place);
                    some = true;
                }
                Err(why) => self.keep_waiting(&place, &why.to_string()),
            }
        }
        some
    }

    fn unregister(&mut self, name: &str) -> Result<(), RegisterError> {
        self.bus.unregister(name)?;
        self.standing.remove(name);
        self.grants.revoke(name);
        Ok(())
    }

    /// Let those go by another name that have one now. One that cannot come under its new name serves under the old one.
    /// True if one was renamed.
    fn rename(&mut self) -> bool {
        let renamed = self.waiting.iter().filter_map(|(place, waiting)| {
            let old = self.at(place)?;
            let new = Arc::clone(&waiting.candidate);
            (old.name() != new.name()).then(|| (place.clone(), Arc::clone(old), new))
        });
        let mut some = false;
        for (place, old, new) in renamed.collect::<Vec<_>>() {
            match self.rename_one(&place, &old, &new) {
                Ok(()) => {
                    tracing::info!(plugin = new.name(), before = old.name(), "renamed");
                    some = true;
                }
                Err(why) => self.keep_waiting(&place, &why),
            }
        }
        some
    }

    /// What is known to stand in the way is asked before the old one goes.
    fn rename_one(&mut self, place: &Path, old: &Arc<Candidate>, new: &Candidate) -> Result<(), String> {
        let name = new.name();
        self.clash(new)?;
        if self.bus.plugins().iter().any(|plugin| plugin.metadata.name == name) {
            return Err(format!("a plugin '{name}' is there already"));
        }
        if new.metadata.dependencies.iter().any(|needed| needed == old.name()) {
            return Err(format!("plugin '{name}' depends on '{}', which is itself under another name", old.name()));
        }
        self.needs(place)?;
        self.rival(old.name(), new)?;
        self.unregister(old.name()).map_err(|why| why.to_string())?;
        self.register_with_needs(place).inspect_err(|why| {
            self.come_back(old);
            // It would fail again, and each time the old one would go: it is tried when its files change.
            self.refuse(place, name, why.clone());
        })
    }

    /// Another than `old` that owns what a plugin claims.
    fn rival(&self, old: &str, new: &Candidate) -> Result<(), String> {
        let (name, claims) = (new.name(), &new.capabilities);
        for other in self.bus.plugins().iter().filter(|plugin| plugin.metadata.name != old) {
            let (second, owns) = (&other.metadata.name, &other.capabilities);
            let mut spaces = claims.event_namespaces.iter().map(|space| plain(space));
            if let Some(space) = spaces.find(|space| owns.event_namespaces.iter().any(|own| plain(own) == *space)) {
                return Err(format!("plugins '{second}' and '{name}' both own namespace '{space}'"));
            }
            if let Some(event) = claims.commands.iter().find(|command| owns.commands.contains(command)) {
                return Err(format!("plugins '{second}' and '{name}' both own event '{event}'"));
            }
        }
        Ok(())
    }

    /// Bring one back that had to go for another that then could not come.
    fn come_back(&mut self, old: &Arc<Candidate>) {
        let name = old.name();
        self.grants.grant(name, old.granted.state.clone());
        match self.bus.register(vec![self.registration(old)]) {
            Ok(()) => drop(self.standing.insert(name.to_owned(), Arc::clone(old))),
            Err(why) => {
                self.grants.revoke(name);
                tracing::error!(plugin = name, %why, "it cannot come back");
            }
        }
    }

    fn keep_waiting(&mut self, place: &Path, why: &str) {
        if let Some(leaving) = self.leaving.get_mut(place) {
            why.clone_into(leaving);
        }
        if let Some(waiting) = self.waiting.get_mut(place) {
            why.clone_into(&mut waiting.why);
        }
    }

    /// Put new versions in the place of old ones. True if one was.
    async fn replace(&mut self) -> bool {
        let versions = self.waiting.iter().filter_map(|(place, waiting)| {
            let old = self.standing.get(waiting.candidate.name())?;
            (old.place == *place).then(|| (place.clone(), Arc::clone(old), Arc::clone(&waiting.candidate)))
        });
        let versions: Vec<_> = versions.collect();
        let mut some = false;
        for (place, old, new) in versions {
            if old.fingerprint() == new.fingerprint() && !self.anew.contains(&place) {
                self.waiting.remove(&place);
                self.standing.insert(new.name().to_owned(), new);
                continue;
            }
            if let Err(why) = self.clash(&new) {
                self.keep_waiting(&place, &why);
                continue;
            }
            some |= self.replace_one(&place, &old, new).await;
        }
        some
    }

    async fn replace_one(&mut self, place: &Path, old: &Candidate, new: Arc<Candidate>) -> bool {
        let name = new.name().to_owned();
        // While the new one starts the old one serves.
        self.grants.grant(&name, [&old.granted.state[..], &new.granted.state[..]].concat());
        let replaced = self.bus.replace(self.registration(&new)).await;
        let serves = if replaced.is_ok() { &new.granted } else { &old.granted };
        self.grants.grant(&name, serves.state.clone());
        match replaced {
            Ok(()) => {
                tracing::info!(plugin = name, version = new.metadata.version, digest = new.digest, "replaced");
                self.waiting.remove(place);
                self.standing.insert(name, new);
                return true;
            }
            // It would fail again: it is tried when its files change.
            Err(why @ RegisterError::Startup { .. }) => self.refuse(place, &name, why.to_string()),
            Err(why) => self.keep_waiting(place, &why.to_string()),
        }
        false
    }

    /// Register those that are new. True if one was.
    fn register(&mut self) -> bool {
        let mut some = false;
        for place in self.in_the_order_of_folders() {
            let Some(waiting) = self.waiting.get(&place) else { continue };
            let name = waiting.candidate.name().to_owned();
            if let Some(standing) = self.standing.get(&name) {
                if standing.place != place {
                    let why = format!("a plugin '{name}' is there already, from {}", standing.place.display());
                    self.keep_waiting(&place, &why);
                }
                continue;
            }
            if self.has(&place) {
                // It goes by another name now, and cannot come under that yet.
                continue;
            }
            match self.register_with_needs(&place) {
                Ok(()) => some = true,
                Err(why) => self.keep_waiting(&place, &why),
            }
        }
        some
    }

    /// The places of those that wait, those in the first folder first.
    fn in_the_order_of_folders(&self) -> Vec<PathBuf> {
        let settings = self.surroundings.admission.settings();
        let folder = |place: &PathBuf| settings.folders.iter().position(|folder| place.parent() == Some(folder));
        let mut places: Vec<PathBuf> = self.waiting.keys().cloned().collect();
        places.sort_by_key(|place| folder(place).unwrap_or(usize::MAX));
        places
    }

    /// Register a plugin with those that it needs and that wait too.
    fn register_with_needs(&mut self, place: &Path) -> Result<(), String> {
        let group = self.needs(place)?;
        group.iter().try_for_each(|candidate| self.clash(candidate))?;
        let registrations = group.iter().map(|candidate| self.registration(candidate)).collect();
        for candidate in &group {
            self.grants.grant(candidate.name(), candidate.granted.state.clone());
        }
        if let Err(why) = self.bus.register(registrations) {
            for candidate in &group {
                self.grants.revoke(candidate.name());
            }
            return Err(why.to_string());
        }
        for candidate in group {
            let (name, version, digest) = (candidate.name(), &candidate.metadata.version, &candidate.digest);
            tracing::info!(plugin = name, version, digest, "registered; it starts with its first event");
            for withheld in &candidate.granted.withheld {
                tracing::warn!(plugin = name, "it asks for what it is not granted: {withheld}");
            }
            self.waiting.remove(&candidate.place);
            self.standing.insert(name.to_owned(), candidate);
        }
        Ok(())
    }

    /// A plugin and all that wait and that it needs, directly or through others.
    fn needs(&self, place: &Path) -> Result<Vec<Arc<Candidate>>, String> {
        let there: BTreeSet<String> = self.bus.plugins().into_iter().map(|plugin| plugin.metadata.name).collect();
        let first = self.waiting.get(place).map(|waiting| Arc::clone(&waiting.candidate));
        let mut group: Vec<Arc<Candidate>> = first.into_iter().collect();
        let mut at = 0;
        while let Some(candidate) = group.get(at).cloned() {
            at += 1;
            for needed in &candidate.metadata.dependencies {
                if there.contains(needed) || group.iter().any(|known| known.name() == needed) {
                    continue;
                }
                let mut waiting = self.waiting.values().map(|waiting| &waiting.candidate);
                match waiting.find(|waiting| waiting.name() == needed) {
                    Some(found) => group.push(Arc::clone(found)),
                    None => return Err(self.missing(candidate.name(), needed)),
                }
            }
        }
        Ok(group)
    }

    fn missing(&self, plugin: &str, needed: &str) -> String {
        let why = self.refused.values().find(|(label, _)| label == needed);
        let why = why.map_or_else(|| "which is not there".to_owned(), |(_, why)| format!("which is left out: {why}"));
        format!("plugin '{plugin}' depends on '{needed}', {why}")
    }

    /// A single event of the host's own services is theirs: to own it would be to stand in their place. So is what belongs
    /// to a service that begins after the plugins.
    fn clash(&self, candidate: &Candidate) -> Result<(), String> {
        let name = candidate.name();
        if RESERVED_NAMES.contains(&name) {
            return Err(format!("the name '{name}' is the host's: give the plugin another"));
        }
        let spaces = candidate.capabilities.event_namespaces.iter().map(|space| plain(space));
        let names = spaces.chain(candidate.capabilities.commands.iter().map(|command| namespace(command)));
        if let Some(space) = names.into_iter().find(|space| RESERVED_NAMESPACES.contains(space)) {
            return Err(format!("plugin '{name}' claims namespace '{space}', which is the host's: let it give it up"));
        }
        let plugins = self.bus.plugins();
        let native = plugins.iter().filter(|plugin| plugin.digest == NATIVE);
        for plugin in native {
            let spaces = &plugin.capabilities.event_namespaces;
            let own = |command: &&String| spaces.iter().any(|space| space == namespace(command));
            if let Some(command) = candidate.capabilities.commands.iter().find(own) {
                let native = &plugin.metadata.name;
                return Err(format!(
                    "plugins '{native}' and '{name}' both own event '{command}', and '{native}' is part of the host: let '{name}' give it up"
                ));
            }
        }
        Ok(())
    }

    fn registration(&self, candidate: &Arc<Candidate>) -> Registration {
        Registration {
            metadata: candidate.metadata.clone(),
            capabilities: candidate.capabilities.clone(),
            config: candidate.config.clone(),
            digest: candidate.digest.clone(),
            factory: Arc::new(ComponentFactory::new(Arc::clone(candidate), Arc::clone(&self.surroundings))),
        }
    }
}

//! What a plugin stands on here: a bus with the state service and nothing else, a durable state, and a kernel on whose
//! ledger every change of it stands first.
//!
//! ```text
//! FOLDER/kernels/bus/ledger   the changes of the state (`gavel verify` reads it)
//! FOLDER/bus/state.redb       the state
//! FOLDER/bus/plugins          components by digest, and what they said of themselves
//! ```

use super::Settings;
use super::passage::{PASSAGE, Passage};
use crate::bus::{OfflineAudit, collector, own_kernel, state_file};
use crate::config::{self, BUS_KERNEL, File, StateServiceFile};
use crate::plugins::admit::Admission;
use crate::plugins::manifest::Manifest;
use crate::plugins::shelf::Shelf;
use crate::plugins::{self, Only, Parts, Plugins};
use anyhow::{Context, Result, bail};
use gavel_bus::services::{State, StateGrants};
use gavel_bus::{Bus, Draft, Error, Options, PluginStatus, Query, Reply, Sender, Store, any_pattern};
use gavel_kinds::{Caller, Seed};
use prometheus_client::collector::Collector;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The service that is on the bus beside the plugin.
const STATE: &str = "state_service";

/// A plugin, and what it stands on.
pub(super) struct Stand {
    place: PathBuf,
    bus: Bus,
    store: Store,
    plugins: Arc<Plugins>,
    passage: Passage,
    watching: Mutex<Option<JoinHandle<()>>>,
    audit: Mutex<Option<OfflineAudit>>,
}

impl Stand {
    /// Open the plugin of these settings, with what it needs in the kernel's folder.
    ///
    /// # Errors
    /// If it is not admitted, or its state or the ledger cannot be opened.
    pub(super) async fn open(settings: &Settings, file: &File, seed: &Seed) -> Result<Self> {
        let folder = &seed.folder;
        let mut own = File::new(vec![own_kernel(BUS_KERNEL)]);
        own.limits = file.limits.clone();
        // It is looked at whenever a configuration is; this one was.
        own.fleet = file.fleet.clone();
        let audit = Box::pin(OfflineAudit::open(config::checked(own)?, BUS_KERNEL, folder)).await?;
        let sandbox = audit.host().fleet.first().kernel().admission.sandbox().clone();
        let service = StateServiceFile::default();
        let path = state_file(&service, folder);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("the state's folder {}", parent.display()))?;
        }
        let store = Store::open(Some(&path), service.limits(), audit.audit()).await?;
        let clock = Arc::clone(&seed.clock);
        let bus = Bus::new(options(settings), move || clock());
        let grants = StateGrants::default();
        bus.register(vec![State::registration(&store, grants.clone())])?;
        let shelf = Shelf::open(&folder.join("bus").join("plugins"))?;
        let admission = Admission::new(sandbox, told(settings, file)?, shelf);
        let parts = Parts { admission, bus: bus.clone(), store: store.clone(), grants, kernel: None };
        let plugins = Plugins::open(parts).await;
        let stand = Self {
            place: settings.folder.clone(),
            bus,
            store,
            plugins,
            passage: Passage::default(),
            watching: Mutex::default(),
            audit: Mutex::new(Some(audit)),
        };
        if stand.plugin().is_none() {
            bail!(stand.why_not());
        }
        *stand.watching.lock().unwrap_or_else(PoisonError::into_inner) = Some(stand.plugins.watch());
        Ok(stand)
    }

    /// The plugin, as it is now; none when its files were taken away.
    fn plugin(&self) -> Option<PluginStatus> {
        self.bus.plugins().into_iter().find(|plugin| ![STATE, PASSAGE].contains(&plugin.metadata.name.as_str()))
    }

    /// Why there is no plugin.
    fn why_not(&self) -> String {
        let why = self.broken().into_values().next();
        let why = why.unwrap_or_else(|| "there is no plugin.yaml and no component".to_owned());
        format!("the plugin in {}: {why}", self.place.display())
    }

    fn broken(&self) -> BTreeMap<String, String> {
        self.plugins.broken()
    }

    /// Ask the plugin for the answer to an event.
    ///
    /// # Errors
    /// [`Error::NoHandler`] if the event is none of the plugin's; and what the plugin or the bus says.
    pub(super) async fn ask(&self, event: &str, data: Value, caller: &Caller) -> Result<Reply, Error> {
        let plugin = self.plugin();
        self.passage.follow(&self.bus, plugin.as_ref()).await;
        let answered = self.bus.owner(event).is_some_and(|owner| owner != STATE);
        let heard = || plugin.is_some_and(|plugin| any_pattern(&plugin.capabilities.subscribes, event));
        if !answered && !heard() {
            return Err(Error::NoHandler(event.to_owned()));
        }
        let sender = Sender::Client(format!("http:{}", caller.sender()).into());
        self.bus.dispatch(sender, Draft::new(event, data)).await
    }

    /// Look at its files now.
    ///
    /// # Errors
    /// Why it is not in service as its files are; what served goes on.
    pub(super) async fn reload(&self) -> Result<Value, String> {
        if let Some(plugin) = self.plugin() {
            self.plugins.reload(&plugin.metadata.name).await?;
            return Ok(self.status());
        }
        self.plugins.look(true).await;
        if self.plugin().is_none() {
            return Err(self.why_not());
        }
        Ok(self.status())
    }

    /// What it is, and which events it is asked for.
    pub(super) fn describe(&self) -> Value {
        let Some(plugin) = self.plugin() else { return json!({"plugin": null, "place": self.place}) };
        let (said, does) = (&plugin.metadata, &plugin.capabilities);
        let spaces =
            does.event_namespaces.iter().map(|space| space.trim_start_matches('/').trim_end_matches([':', '*']));
        let answers: Vec<String> = spaces.map(|space| format!("{space}:*")).chain(does.commands.clone()).collect();
        json!({
            "plugin": said.name,
            "version": said.version,
            "description": said.description,
            "author": said.author,
            "digest": plugin.digest,
            "facts": self.plugins.facts(&said.name),
            "manifest": manifest(&self.place),
            "events": {
                "answers": answers,
                "before": does.before,
                "hears": does.subscribes,
                "after": does.after,
                "emits": does.emits,
            },
            "granted": {
                "state": does.state,
                "memory_bytes": does.memory_bytes,
                "deadline_ms": does.deadline_ms,
            },
            "tools": "none: a plugin on a port of its own has no kernel that could rule on them",
        })
    }

    /// How it does.
    pub(super) fn status(&self) -> Value {
        let plugin = self.plugin();
        json!({
            "plugin": plugin.as_ref().map(|plugin| &plugin.metadata.name),
            "place": self.place,
            "status": plugin.as_ref().map(PluginStatus::shown),
            "broken": self.broken(),
            "state": self.store.counts(),
            "bus": self.bus.overview(),
        })
    }

    /// The latest events of its bus, those that it emitted among them; the newest first.
    pub(super) fn history(&self, limit: usize) -> Value {
        let query = Query { limit, newest_first: true, ..Query::default() };
        let (events, total) = self.bus.history(&query);
        json!({"events": events.iter().map(|event| event.shown()).collect::<Vec<_>>(), "total_events": total})
    }

    /// Whether it is there. One that rests after failures is: it is made anew without a restart.
    pub(super) fn health(&self) -> Result<Map<String, Value>, String> {
        let Some(plugin) = self.plugin() else {
            return Err(format!("the plugin is gone: put it back into {}", self.place.display()));
        };
        let told = [
            ("plugin", json!(plugin.metadata.name)),
            ("version", json!(plugin.metadata.version)),
            ("state", json!(plugin.state)),
            ("as_its_files_are", json!(self.broken().is_empty())),
        ];
        Ok(told.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// What is counted.
    pub(super) fn collector(&self) -> Box<dyn Collector> {
        collector(&self.bus, &self.store)
    }

    /// Let what is under way end, shut the plugin down, and close the ledger.
    pub(super) async fn finish(&self) {
        if let Some(watching) = self.watching.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watching.abort();
        }
        self.bus.shutdown().await;
        let audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(audit) = audit {
            audit.finish().await;
        }
    }
}

fn options(settings: &Settings) -> Options {
    Options {
        event_timeout: Duration::from_millis(settings.event_timeout_ms),
        history_events_max: settings.events_max,
        ..Options::default()
    }
}

/// What the plugins of this host are told: that there is one.
fn told(settings: &Settings, file: &File) -> Result<plugins::Settings> {
    let of_bus = || file.bus.as_ref().map(|bus| bus.daemon.plugin_signatures.clone());
    Ok(plugins::Settings {
        folders: Vec::new(),
        plugins: BTreeMap::new(),
        signatures: settings.signatures.clone().or_else(of_bus).unwrap_or_default(),
        every: Duration::from_millis(settings.watch_every_ms),
        component_bytes_max: file.limits.max_component_bytes,
        only: Some(Only { place: settings.folder.clone(), says: settings.says()? }),
    })
}

/// What its manifest says as it lies there now, or why it cannot be read.
fn manifest(place: &Path) -> Value {
    let path = place.join(plugins::manifest::FILE);
    if !path.exists() {
        return Value::Null;
    }
    match Manifest::read(&path) {
        Ok(manifest) => json!({
            "component": manifest.component,
            "name": manifest.name,
            "grants": manifest.grants,
            "digest": manifest.digest,
        }),
        Err(why) => json!({"error": why.to_string()}),
    }
}

//! A plugin on a port of its own: one component on a small bus, asked over HTTP.
//!
//! It is opened as the bus of a host opens it: found in its folder, verified, granted, compiled for its first event, and
//! replaced while it serves. `stand` is what it stands on, `passage` what lies behind an event that it only looks at, and
//! `routes` are the doors.
//!
//! What always holds:
//! - Nothing is granted that its manifest or the kernel's settings do not grant.
//! - Every change of its state is on the ledger of the kernel `bus` in this kernel's own folder before it is made.
//! - What it emits stays on its own bus: there is nobody else on it.
//!
//! Deliberately absent: governed tools. There is no kernel here that could rule on them and run them; a plugin that needs
//! tools belongs on the bus of the governance kernel.

mod passage;
mod routes;
mod stand;

use super::process::Surroundings;
use crate::config::SignaturesFile;
use crate::plugins::grants::Grants;
use gavel_kinds::{Kernel, Kind, Opened, Seed, SettingsError};
use serde::Deserialize;
use serde_json::{Map, Value};
use stand::Stand;
use std::path::PathBuf;
use std::sync::Arc;

/// One plugin.
pub(super) const KIND: Kind = Kind {
    name: "plugin",
    purpose: "one plugin component in the sandbox, asked over HTTP on a port of its own",
    needs: &["message_bus", "immutable_log"],
    check,
    open,
};

/// The plugin's key that is no key of its configuration.
const GRANTS: &str = "grants";

/// Which plugin, and what it gets.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The plugin's folder, with its `plugin.yaml`; or a bare component.
    folder: PathBuf,
    /// Its configuration; wins over the manifest's, key by key.
    #[serde(default)]
    config: Map<String, Value>,
    /// What it is granted; wins over the manifest's, key by key.
    #[serde(default)]
    grants: Grants,
    /// Whose signatures count. Default: those of `bus.daemon.plugin_signatures`.
    #[serde(default)]
    signatures: Option<SignaturesFile>,
    /// Between two looks at its files, in milliseconds; 0: only when asked. Default 2,000.
    #[serde(default = "watch_every_ms")]
    watch_every_ms: u64,
    /// How long an event may take, in milliseconds. Default 30,000.
    #[serde(default = "event_timeout_ms")]
    event_timeout_ms: u64,
    /// Events that are remembered. Default 1,000.
    #[serde(default = "events_max")]
    events_max: usize,
}

fn watch_every_ms() -> u64 {
    2_000
}

fn event_timeout_ms() -> u64 {
    30_000
}

fn events_max() -> usize {
    1_000
}

impl Settings {
    fn read(value: &Value) -> Result<Self, SettingsError> {
        let settings: Self = gavel_kinds::settings(value)?;
        settings.in_range()?;
        Ok(settings)
    }

    fn in_range(&self) -> Result<(), SettingsError> {
        let refused = |why: String| Err(SettingsError(why));
        if self.folder.as_os_str().is_empty() {
            return refused("folder is empty: give the folder of the plugin, with its plugin.yaml".to_owned());
        }
        if self.config.contains_key(GRANTS) {
            return refused("config.grants: `grants` stand beside `config`, not in it".to_owned());
        }
        let (watch, time) = (self.watch_every_ms, self.event_timeout_ms);
        if watch != 0 && !(1_000..=3_600_000).contains(&watch) {
            return refused(format!("watch_every_ms is {watch}, it must be 0 or lie in 1000 to 3600000"));
        }
        if !(1..=3_600_000).contains(&time) {
            return refused(format!("event_timeout_ms is {time}, it must lie in 1 to 3600000"));
        }
        if self.events_max > 100_000 {
            return refused(format!("events_max is {}, at most 100000 are remembered", self.events_max));
        }
        Ok(())
    }

    /// As the overlay over its manifest is written.
    fn says(&self) -> Result<Value, SettingsError> {
        let grants = serde_json::to_value(&self.grants).map_err(|why| SettingsError(format!("grants: {why}")))?;
        let mut says = self.config.clone();
        says.insert(GRANTS.to_owned(), grants);
        Ok(Value::Object(says))
    }
}

fn check(value: &Value) -> Result<(), SettingsError> {
    Settings::read(value).map(drop)
}

fn open(mut seed: Seed) -> Opened {
    Box::pin(async move {
        let Surroundings { file, .. } = Surroundings::of_this_process()?;
        let settings = Settings::read(&seed.settings)?;
        let stand = Arc::new(Box::pin(Stand::open(&settings, &file, &seed)).await?);
        seed.metrics.sub_registry_with_prefix("gavel").register_collector(stand.collector());
        let (asked, ending) = (Arc::clone(&stand), Arc::clone(&stand));
        let kernel = Kernel::new(routes::doors().with_state(stand), seed.metrics);
        Ok(kernel.with_health(move || asked.health()).with_finish(async move { ending.finish().await }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_checked_before_anything_is_opened() {
        let refused = |value: Value| Settings::read(&value).unwrap_err().to_string();
        assert!(refused(json!({})).contains("missing field `folder`"));
        assert!(refused(json!({"folder": ""})).contains("folder is empty"));
        assert!(refused(json!({"folder": "p", "config": {"grants": {}}})).contains("stand beside"));
        assert!(refused(json!({"folder": "p", "watch_every_ms": 10})).contains("1000 to 3600000"));
        assert!(refused(json!({"folder": "p", "grants": {"all": true}})).contains("unknown field `all`"));
        let settings = Settings::read(&json!({"folder": "p", "config": {"a": 1}, "grants": {"tools": []}})).unwrap();
        assert_eq!(settings.says().unwrap(), json!({"a": 1, "grants": {"tools": []}}));
    }
}

//! Named policies with versions: kept, swapped while they answer, and asked without anything being decided.
//!
//! What belongs together: `book` is what is known of one policy, as it lies on disk; `engine` holds the books and changes
//! them; `load` brings components in and makes them ready; `judge` asks them; `deploy` hands one to the kernel that decides;
//! `routes` are the doors.
//!
//! What always holds:
//! - A component judges here under the same rules as for a kernel: signature, grant, shipped tests ([`Admission`]).
//! - Whoever is being judged is judged to the end by the versions that were active when it began.
//! - A change is on disk before it is acknowledged, and whole or not made.
//! - Every evaluation has an instance of its own and counters of its own; nothing of it is kept.
//!
//! Deliberately absent: decisions, their ledger, tools. Those are the governance kernel's.

mod book;
mod deploy;
mod engine;
mod judge;
mod load;
mod routes;

use super::process::Surroundings;
use crate::host;
use crate::policies::admit::Admission;
use crate::policies::catalogue::Catalogue;
use engine::{Engine, Parts};
use gavel_kinds::{Kernel, Kind, Opened, Seed, SettingsError};
use gavel_runtime::Sandbox;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Evaluates, keeps versions, swaps.
pub(super) const KIND: Kind = Kind {
    name: "policy_engine",
    purpose: "named policies with versions: evaluated without a decision, compared, swapped while they answer",
    needs: &["message_bus", "immutable_log"],
    check,
    open,
};

/// What a policy engine may use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_field_names, reason = "limits end so, here and in every configuration")]
pub(super) struct Settings {
    /// Policies by name. Default 256.
    policies_max: usize,
    /// Versions of one policy. Default 200.
    versions_max: usize,
    /// Steps in the history of one policy; the oldest are forgotten first. Default 1,000.
    steps_max: usize,
    /// Versions that are not active and stay compiled in memory. Default 16.
    warm_max: usize,
    /// Requests in one batch or comparison. Default 100.
    requests_max: usize,
    /// Requests of one batch that are judged at the same time. Default 4.
    concurrent_max: usize,
    /// Bytes of one version's configuration. Default 64 KiB.
    config_bytes_max: usize,
    /// Keys that the counters of one evaluation may have. Default 1,000.
    counter_keys_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policies_max: 256,
            versions_max: 200,
            steps_max: 1_000,
            warm_max: 16,
            requests_max: 100,
            concurrent_max: 4,
            config_bytes_max: 64 << 10,
            counter_keys_max: 1_000,
        }
    }
}

impl Settings {
    fn read(value: &Value) -> Result<Self, SettingsError> {
        let settings: Self = gavel_kinds::settings(value)?;
        settings.in_range()?;
        Ok(settings)
    }

    fn in_range(&self) -> Result<(), SettingsError> {
        let ranges = [
            ("policies_max", self.policies_max, 1, 10_000),
            ("versions_max", self.versions_max, 2, 10_000),
            ("steps_max", self.steps_max, 1, 10_000),
            ("warm_max", self.warm_max, 0, 1_000),
            ("requests_max", self.requests_max, 1, 10_000),
            ("concurrent_max", self.concurrent_max, 1, 64),
            ("config_bytes_max", self.config_bytes_max, 2, 1 << 20),
            ("counter_keys_max", self.counter_keys_max, 1, 100_000),
        ];
        match ranges.iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
            Some((name, value, least, most)) => {
                Err(SettingsError(format!("{name} is {value}, it must lie in {least} to {most}")))
            }
            None => Ok(()),
        }
    }
}

fn check(value: &Value) -> Result<(), SettingsError> {
    Settings::read(value).map(drop)
}

fn open(mut seed: Seed) -> Opened {
    Box::pin(async move {
        let Surroundings { file, .. } = Surroundings::of_this_process()?;
        let settings = Settings::read(&seed.settings)?;
        let sandbox = Sandbox::new(host::sandbox_options(&file))?;
        let catalogue = Catalogue::open(&seed.folder.join("catalogue"), file.limits.max_catalogue_bytes)?;
        let admission = Admission::new(&file, sandbox, catalogue);
        let parts = Parts { admission, settings, clock: seed.clock.clone(), peers: seed.peers.clone() };
        let engine = Arc::new(Engine::open(&seed.folder, parts, &mut seed.metrics).await?);
        let asked = Arc::clone(&engine);
        let doors = routes::doors().with_state(engine);
        Ok(Kernel::new(doors, seed.metrics).with_health(move || Ok(asked.health())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_have_defaults_and_ranges() {
        assert_eq!(Settings::read(&Value::Null).unwrap(), Settings::default());
        assert_eq!(Settings::read(&json!({"warm_max": 0})).unwrap().warm_max, 0);
        let refused = |value: Value| Settings::read(&value).unwrap_err().to_string();
        assert_eq!(refused(json!({"requests_max": 0})), "requests_max is 0, it must lie in 1 to 10000");
        assert!(refused(json!({"concurrent_max": 65})).starts_with("concurrent_max is 65"));
        assert!(refused(json!({"requests": 1})).contains("unknown field"));
    }
}

//! The keys of the configuration file that are about policies.

use super::file::PolicyFile;
use crate::policies::builtin;
use crate::signing::PublicKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Whose signatures on policy components count. Built-in policies need none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignaturesFile {
    /// Refuse components that none of the keys signed. Default: signatures are optional.
    pub required: bool,
    /// Key by the name that its signatures are shown under: `ed25519:` and 64 hex digits.
    pub keys: BTreeMap<String, PublicKey>,
}

/// When a policy that keeps failing is no longer asked. Its decisions are denied all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Failures (traps and limits hit; not denials) that are too many.
    pub failures: u32,
    /// The time in which they count, in milliseconds.
    pub within_ms: u64,
}

/// A folder of components that are taken into service when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchFile {
    /// `NAME.wasm` in it is the component of policy NAME; `NAME.yaml` beside it may hold `config`,
    /// `limits` and `quarantine`.
    pub folder: PathBuf,
    /// What happens to a set with a changed component. Default: it is promoted.
    #[serde(default)]
    pub mode: WatchMode,
    /// With `mode: canary`: the share of requests that it decides, in per cent.
    #[serde(default)]
    pub percent: Option<u8>,
    /// How often the folder is looked at, in milliseconds. Default 1,000.
    #[serde(default = "every_second")]
    pub every_ms: u64,
}

/// What happens to a candidate that a watched folder gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchMode {
    /// It serves at once.
    #[default]
    Promote,
    /// It sees traffic and decides nothing.
    Shadow,
    /// It decides a share of the requests.
    Canary,
}

fn every_second() -> u64 {
    1_000
}

impl PolicyFile {
    pub(crate) fn validate(&self, name: &str) -> Result<(), String> {
        let component = self.component.as_deref().unwrap_or(name);
        let wanted = component.strip_prefix(builtin::PREFIX).or_else(|| self.component.is_none().then_some(name));
        if let Some(wanted) = wanted.filter(|wanted| builtin::find(wanted).is_none()) {
            return Err(format!(
                "policy `{name}`: no builtin policy is named `{wanted}` (there are: {}); a component of your own is given by `component: PATH`",
                builtin::names().collect::<Vec<_>>().join(", "),
            ));
        }
        self.quarantine.map_or(Ok(()), |quarantine| quarantine.validate(name))
    }
}

impl Quarantine {
    /// The most failures that are remembered for one policy.
    const FAILURES_MAX: u32 = 1_000;

    pub(crate) fn validate(self, policy: &str) -> Result<(), String> {
        if (1..=Self::FAILURES_MAX).contains(&self.failures) && self.within_ms > 0 {
            return Ok(());
        }
        Err(format!(
            "policy `{policy}`: quarantine after {} failures within {} ms: give 1 to {} failures and at least 1 ms",
            self.failures,
            self.within_ms,
            Self::FAILURES_MAX
        ))
    }
}

impl WatchFile {
    pub(super) fn validate(&self, kernel: &str) -> Result<(), String> {
        let at = format!("kernel `{kernel}`: watch");
        if self.every_ms == 0 {
            return Err(format!("{at}.every_ms is 0: give at least 1"));
        }
        match (self.mode, self.percent) {
            (WatchMode::Canary, Some(1..=99)) | (WatchMode::Promote | WatchMode::Shadow, None) => Ok(()),
            (WatchMode::Canary, _) => Err(format!("{at}.percent must be 1 to 99 with `mode: canary`")),
            (_, Some(_)) => Err(format!("{at}.percent is only for `mode: canary`")),
        }
    }
}

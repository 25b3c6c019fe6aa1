//! The keys of `checkpoints`: who gets the checkpoints of the ledgers.

use gavel_proof::cosignature::WitnessKey;
use serde::Deserialize;

/// Who gets the checkpoints of all kernels, and how often.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointsFile {
    /// Who gets them. Default: nobody.
    pub push: Vec<PushFile>,
    /// How often, in seconds. Default 60.
    pub every_s: u64,
    /// Only when the ledger has so many more records. Default 1.
    pub min_growth: u64,
    /// Time for one answer, in seconds. Default 10.
    pub timeout_s: u64,
}

impl Default for CheckpointsFile {
    fn default() -> Self {
        Self { push: Vec::new(), every_s: 60, min_growth: 1, timeout_s: 10 }
    }
}

/// Somebody who gets checkpoints.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushFile {
    /// Where: the webhook itself, or a witness's submission prefix.
    pub url: String,
    /// How.
    pub kind: PushKind,
    /// A witness's public key: `NAME+ID+BASE64`, of type 4.
    #[serde(default)]
    pub key: Option<String>,
}

/// How a checkpoint is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushKind {
    /// POST of the signed note.
    Webhook,
    /// C2SP tlog-witness.
    Witness,
}

/// Targets that there may be.
const TARGETS_MAX: usize = 16;

impl CheckpointsFile {
    pub(super) fn validate(&self) -> Result<(), String> {
        for (name, value) in [("every_s", self.every_s), ("min_growth", self.min_growth), ("timeout_s", self.timeout_s)]
        {
            if !(1..=86_400 * 366).contains(&value) {
                return Err(format!("checkpoints.{name} is {value}: give 1 to {}", 86_400 * 366));
            }
        }
        if self.push.len() > TARGETS_MAX {
            return Err(format!(
                "checkpoints.push has {} targets, at most {TARGETS_MAX} are possible",
                self.push.len()
            ));
        }
        self.push
            .iter()
            .enumerate()
            .try_for_each(|(at, push)| push.validate().map_err(|why| format!("checkpoints.push[{at}]: {why}")))
    }
}

impl PushFile {
    /// What it is called in the log and in metrics: the host, because the rest of the URL may hold a secret.
    pub(crate) fn name(&self) -> String {
        let host = reqwest::Url::parse(&self.url).ok().and_then(|url| {
            let host = url.host_str()?.to_owned();
            Some(url.port().map_or(host.clone(), |port| format!("{host}:{port}")))
        });
        host.unwrap_or_else(|| "unknown".to_owned())
    }

    fn validate(&self) -> Result<(), String> {
        let url = reqwest::Url::parse(&self.url).map_err(|why| format!("`url` is no URL: {why}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("`url` must begin with http:// or https:// and name a host".into());
        }
        match (self.kind, &self.key) {
            (PushKind::Witness, Some(key)) => {
                key.parse::<WitnessKey>().map(drop).map_err(|why| format!("`key`: {why}"))
            }
            (PushKind::Witness, None) => {
                Err("a witness needs its `key`, without which its cosignatures mean nothing".into())
            }
            (PushKind::Webhook, None) => Ok(()),
            (PushKind::Webhook, Some(_)) => Err("`key` is only for `kind: witness`".into()),
        }
    }
}

//! The keys of the host's own services, in `plugins`.

use super::in_range;
use gavel_bus::StoreLimits;
use serde::Deserialize;
use std::path::PathBuf;

/// `plugins.state_service`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateServiceFile {
    /// The folder of the state. Default: `bus` in the data folder.
    pub state_dir: Option<PathBuf>,
    /// Bytes of a namespace's or a key's name. Default 256.
    pub max_name_bytes: usize,
    /// Bytes of one value. Default 1 MiB.
    pub max_value_bytes: usize,
    /// Keys of one answer. Default 10,000.
    pub max_keys_listed: usize,
    /// Changes that wait to be written. Default 1,024.
    pub max_waiting: usize,
}

impl Default for StateServiceFile {
    fn default() -> Self {
        let StoreLimits { name_bytes_max, value_bytes_max, keys_listed_max, waiting_max } = StoreLimits::default();
        Self {
            state_dir: None,
            max_name_bytes: name_bytes_max,
            max_value_bytes: value_bytes_max,
            max_keys_listed: keys_listed_max,
            max_waiting: waiting_max,
        }
    }
}

impl StateServiceFile {
    /// As the store has them.
    #[must_use]
    pub fn limits(&self) -> StoreLimits {
        StoreLimits {
            name_bytes_max: self.max_name_bytes,
            value_bytes_max: self.max_value_bytes,
            keys_listed_max: self.max_keys_listed,
            waiting_max: self.max_waiting,
        }
    }
}

/// `plugins.agent_service`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentServiceFile {
    /// The folder of profiles, `NAME.json` or `NAME.yaml`. Default: none.
    pub profiles_dir: Option<PathBuf>,
    /// Identities of the older daemon, taken over at the start where the state does not have them. Default: none.
    pub identities_file: Option<PathBuf>,
}

/// Where completions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// Nowhere: each is answered with an error that says what to configure.
    #[default]
    None,
    /// The prompt is said back, for tests and demonstrations.
    Stub,
    /// An endpoint that speaks `OpenAI`'s `/v1/chat/completions`.
    OpenAi,
}

/// `plugins.completion_service`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompletionServiceFile {
    /// Where completions come from: `none`, `stub` or `openai`. Default `none`.
    pub provider: ProviderKind,
    /// The model that is asked where a prompt names none; `openai` needs it.
    pub model: Option<String>,
    /// Where the endpoint is, for example `https://api.openai.com/v1`; `openai` needs it.
    pub base_url: Option<String>,
    /// The variable of the environment that holds the endpoint's key. Default: no key is sent.
    pub api_key_env: Option<String>,
    /// The file that holds the endpoint's key.
    pub api_key_file: Option<PathBuf>,
    /// The longest answer of the endpoint, in bytes. Default 4 MiB.
    pub max_response_bytes: usize,
    /// Conversations that are kept, the last used ones. Default 1,000.
    pub max_sessions: usize,
    /// Bytes of one conversation. Default 1 MiB.
    pub max_session_bytes: usize,
    /// Seconds that the stub thinks. Default 0.
    pub stub_delay: f64,
    /// Every so-manieth request to the stub fails; 0: none. Default 0.
    pub stub_fail_every: u64,
    /// Seconds that a provider has for one answer. Default 300.
    pub timeout: f64,
    /// Prompts that are with the provider at once. Default 4.
    pub max_running: usize,
    /// Prompts that wait. Default 1,000.
    pub max_waiting: usize,
    /// Finished ones whose status is kept. Default 1,000.
    pub max_finished: usize,
}

impl Default for CompletionServiceFile {
    fn default() -> Self {
        Self {
            provider: ProviderKind::None,
            model: None,
            base_url: None,
            api_key_env: None,
            api_key_file: None,
            max_response_bytes: 4 << 20,
            max_sessions: 1_000,
            max_session_bytes: 1 << 20,
            stub_delay: 0.0,
            stub_fail_every: 0,
            timeout: 300.0,
            max_running: 4,
            max_waiting: 1_000,
            max_finished: 1_000,
        }
    }
}

impl CompletionServiceFile {
    pub(super) fn validate(&self) -> Result<(), String> {
        let at = "plugins.completion_service";
        in_range(&format!("{at}.timeout"), self.timeout, 0.001, 86_400.0)?;
        in_range(&format!("{at}.stub_delay"), self.stub_delay, 0.0, 86_400.0)?;
        if self.max_running == 0 {
            return Err(format!("{at}.max_running is 0: no prompt could be answered"));
        }
        if self.api_key_env.is_some() && self.api_key_file.is_some() {
            return Err(format!("{at}: api_key_env and api_key_file name two keys: leave one out"));
        }
        let needed = [("base_url", self.base_url.is_some()), ("model", self.model.is_some())];
        match needed.iter().find(|(_, there)| self.provider == ProviderKind::OpenAi && !there) {
            Some((key, _)) => Err(format!("{at}.{key} is missing: the provider openai needs it")),
            None => Ok(()),
        }
    }
}

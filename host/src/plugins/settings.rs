//! What a host is told about plugins.

use crate::config::SignaturesFile;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where plugins lie, whom to trust, and what the host's configuration says of single ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The folders, the first first: of two plugins that cannot both be there, the earlier one is.
    pub folders: Vec<PathBuf>,
    /// What the host's configuration says under `plugins`, by plugin: its configuration, and `grants`.
    pub plugins: BTreeMap<String, Value>,
    /// Whose signatures count, and whether one is required.
    pub signatures: SignaturesFile,
    /// How often the folders are looked at; zero: at the start and when asked.
    pub every: Duration,
    /// Bytes of a component.
    pub component_bytes_max: u64,
    /// One plugin and no other, whatever the folders hold.
    pub only: Option<Only>,
}

/// The one plugin of a host that has no other.
#[derive(Debug, Clone, PartialEq)]
pub struct Only {
    /// Its folder, or its bare component.
    pub place: PathBuf,
    /// Its configuration, and `grants`, whatever it is called.
    pub says: Value,
}

impl Settings {
    /// What the host's configuration says of a plugin.
    #[must_use]
    pub fn says_of(&self, plugin: &str) -> &Value {
        let said = match &self.only {
            Some(only) => Some(&only.says),
            None => self.plugins.get(plugin),
        };
        said.unwrap_or(&Value::Null)
    }
}

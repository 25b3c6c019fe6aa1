//! Configuration: a YAML file, parsed once into validated types.
//!
//! The file says what it means or is refused: an unknown key is an error that names the nearest
//! known one, a value out of range is an error with the range. `docs/configuration.md` describes
//! every key; [`File`] is the same in code. The seeds' `policy.yaml`, which holds nothing but a
//! jurisdiction policy, is accepted as it stands and means one strict kernel ([`shorthand`]).

mod approvals;
mod bus;
mod checkpoints;
mod file;
mod fleet;
mod kasmina;
mod life;
mod monitoring;
mod operations;
mod policies;
mod shorthand;
mod token;

pub use approvals::ApprovalsFile;
pub use bus::{
    AGENT_SERVICE, AgentServiceFile, BUS_KERNEL, BusFile, COMPLETION_SERVICE, CompletionServiceFile, DaemonFile,
    LogLevel, ProviderKind, SERVICES, STATE_SERVICE, StateServiceFile, TransportsFile, UnixFile,
};
pub use checkpoints::{CheckpointsFile, PushFile, PushKind};
pub use file::{
    AuthFile, File, KernelFile, KeyFile, Limits, PermitsFile, PolicyFile, Role, Source, TlogAccess, TlsFile,
    ToolLimits, ToolsFile,
};
pub(crate) use file::{DIGEST_PREFIX, check_id};
pub use fleet::{FleetFile, FleetKernelFile};
pub use kasmina::{BackendChoice, EventsFile, KasminaFile};
pub(crate) use monitoring::MONITORING_HOURS_MAX;
pub use monitoring::MonitoringFile;
pub use operations::{AlertFile, OperationsFile, Severity};

pub use life::{ArchiveFile, ArchiveLimits, HoldFile, RecordRequests, RetentionFile};
pub use policies::{Quarantine, SignaturesFile, WatchFile, WatchMode};

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Bytes of a configuration file.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Why a configuration is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The text is no YAML, or not of the expected shape.
    #[error("{path}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// A key that means nothing here.
    #[error("{path}: unknown key `{key}`{at}{hint}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
        /// Where, as ` in kernels[0].policy`; empty at the top.
        at: String,
        /// The nearest known key and all that are known there.
        hint: String,
    },
    /// Values that contradict each other or are out of range.
    #[error("{path}: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with values.
        why: String,
    },
}

/// Read and validate a configuration file. Relative paths in it count from its folder.
///
/// # Errors
/// [`ConfigError`], which says what is wrong and where.
pub fn read(path: &Path) -> Result<File, ConfigError> {
    let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
    let size = std::fs::metadata(path).map_err(|why| unreadable(why.to_string()))?.len();
    if size > CONFIG_BYTES_MAX {
        return Err(unreadable(format!("{size} bytes, a configuration may have {CONFIG_BYTES_MAX}")));
    }
    let bytes = std::fs::read(path).map_err(|why| unreadable(why.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|why| unreadable(why.to_string()))?;
    read_as(path, text)
}

/// The configuration that `text` would be as the file `path`.
///
/// # Errors
/// As [`read`].
pub fn read_as(path: &Path, text: String) -> Result<File, ConfigError> {
    let mut file = parse(path, &text)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    file.resolve_paths(folder);
    file.source = Some(Source { path: path.to_owned(), text });
    Ok(file)
}

/// Read `path`, or without one what `gavel serve` serves by default.
///
/// # Errors
/// As [`read`].
pub fn read_or_default(path: Option<&Path>) -> Result<File, ConfigError> {
    path.map_or_else(|| parse(Path::new("(default)"), ""), read)
}

/// Parse and validate the text of a configuration; `path` is for messages.
///
/// # Errors
/// [`ConfigError`], which says what is wrong and where.
pub fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let malformed = |why: String| ConfigError::Malformed { path: path.to_owned(), why };
    let invalid = |why: String| ConfigError::Invalid { path: path.to_owned(), why };
    let value: Value = serde_saphyr::from_str(text).map_err(|why| malformed(why.to_string()))?;
    let value = match value {
        Value::Null => shorthand::expand(serde_json::Map::new()).map_err(invalid)?,
        Value::Object(keys) => shorthand::expand(keys).map_err(invalid)?,
        _ => return Err(malformed("a configuration is a mapping of keys to values".into())),
    };
    let mut file: File = typed(path, value)?;
    file.add_bus_kernel();
    file.validate().map_err(invalid)?;
    Ok(file)
}

/// Validate a configuration that was built in code.
///
/// # Errors
/// [`ConfigError::Invalid`], which says what is wrong.
pub fn checked(mut file: File) -> Result<File, ConfigError> {
    file.add_bus_kernel();
    match file.validate() {
        Ok(()) => Ok(file),
        Err(why) => Err(ConfigError::Invalid { path: "(configuration)".into(), why }),
    }
}

/// A value of a file of ours as what it means; `path` is for messages.
///
/// # Errors
/// [`ConfigError`]: an unknown key names the nearest known one.
pub(crate) fn typed<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|why| explain(path, &why))
}

/// Turn serde's message into ours. For an unknown key serde lists what it expected, in backticks
/// (a form pinned by a test below); the nearest of those is what was probably meant.
fn explain(path: &Path, why: &serde_path_to_error::Error<serde_json::Error>) -> ConfigError {
    let message = why.inner().to_string();
    let at = why.path().to_string();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(key), true) = (quoted.next(), message.starts_with("unknown field")) else {
        let place = if at == "." { String::new() } else { format!("{at}: ") };
        return ConfigError::Malformed { path: path.to_owned(), why: format!("{place}{message}") };
    };
    let known: Vec<&str> = quoted.collect();
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(key, name));
    let hint = match nearest {
        Some(nearest) => format!("; the nearest known key is `{nearest}`, all are: {}", known.join(", ")),
        None => "; no keys are known here".to_owned(),
    };
    let place = at.strip_suffix(key).unwrap_or(&at).trim_end_matches('.');
    let at = if place.is_empty() { String::new() } else { format!(" in {place}") };
    ConfigError::UnknownKey { path: path.to_owned(), key: key.to_owned(), at, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        parse(Path::new("gavel.yaml"), text).map_or_else(|why| why.to_string(), |_| "accepted".into())
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let text = "kernels:\n  - id: a\n    policy: {allowed_actor: [x]}\n";
        let told = told(text);
        assert!(
            told.starts_with("gavel.yaml: unknown key `allowed_actor` in kernels[0].policy; the nearest known key is `allowed_actors`"),
            "{told}"
        );
        assert!(super::tests::told("listn: 1").contains("the nearest known key is `listen`"));
    }

    #[test]
    fn the_seeds_policy_file_is_one_strict_kernel() {
        let text = "allowed_actors:\n  - agent-001\n  - agent-002\nallowed_tools:\n  - read_file\n  - write_file\n  - search\nrequire_tool_call: true\nmax_intent_length: 1000\n";
        let file = parse(Path::new("policy.yaml"), text).unwrap();
        assert_eq!(file.kernels.len(), 1);
        assert_eq!(file.kernels[0].variant.to_string(), "strict");
        let policy = file.kernels[0].policy.as_ref().unwrap();
        assert_eq!(policy.allowed_actors, ["agent-001", "agent-002"]);
        assert!(policy.require_tool_call);
        assert_eq!(policy.max_intent_length, 1000);
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(told("allowed_actors: [a]\nkernels: []\n").contains("allowed_actors"));
        assert!(told("kernels: []\n").contains("at least one kernel"));
        assert!(told("kernels: [{id: a}, {id: a}]\n").contains("twice"));
        assert!(told("kernels: [{id: ../x}]\n").contains("../x"));
        assert!(told("kernels: [{id: a, policy: {custom_rules: [nope]}}]\n").contains("nope"));
        assert!(told("- a\n").contains("mapping"));
        assert!(told("a: [\n").contains("gavel.yaml"));
        assert!(told("limits: {max_body_bytes: -1}\n").contains("limits.max_body_bytes"));
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(told(""), "accepted");
    }
}

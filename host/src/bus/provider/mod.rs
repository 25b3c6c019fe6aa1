//! Where completions come from, and what agents are spawned from.

use crate::config::CompletionServiceFile;
use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_bus::services::{Completion, CompletionLimits, Profile, Prompt, Provider};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The provider of a configuration, and what the service may use.
///
/// # Errors
/// When the provider cannot be made.
pub fn of(file: &CompletionServiceFile) -> Result<(Arc<dyn Provider>, CompletionLimits)> {
    let limits = CompletionLimits {
        timeout: Duration::try_from_secs_f64(file.timeout).context("plugins.completion_service.timeout")?,
        running_max: file.max_running,
        waiting_max: file.max_waiting,
        finished_kept: file.max_finished,
    };
    Ok((Arc::new(Nobody), limits))
}

/// The profiles of a folder, by the names of their files.
///
/// # Errors
/// When the folder or a file in it cannot be read.
pub fn profiles(folder: &Path) -> Result<BTreeMap<String, Profile>> {
    let mut profiles = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("profiles_dir {}", folder.display()))? {
        let path = entry?.path();
        let known = path.extension().is_some_and(|end| ["json", "yaml", "yml"].iter().any(|known| end == *known));
        let Some(name) = path.file_stem().filter(|_| known) else { continue };
        let text = std::fs::read_to_string(&path).with_context(|| format!("profile {}", path.display()))?;
        let profile = serde_saphyr::from_str(&text).with_context(|| format!("profile {}", path.display()))?;
        profiles.insert(name.to_string_lossy().into_owned(), profile);
    }
    Ok(profiles)
}

/// No provider is configured.
struct Nobody;

impl Provider for Nobody {
    fn name(&self) -> String {
        "none".to_owned()
    }

    fn complete(&self, _prompt: Prompt) -> BoxFuture<'_, Result<Completion, (String, String)>> {
        let why = "no provider of completions is configured: set plugins.completion_service.provider";
        std::future::ready(Err(("NO_PROVIDER".to_owned(), why.to_owned()))).boxed()
    }
}

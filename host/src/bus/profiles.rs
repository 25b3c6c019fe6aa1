//! The profiles that agents are spawned from: the files of a folder, read each time they are needed, so that a change
//! counts from the next agent on.

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_bus::services::{Profile, ProfileSource, Profiles};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The largest file of a profile, in bytes.
const PROFILE_BYTES_MAX: u64 = 256 << 10;
/// The most profiles of a folder; what comes after them by name is not read.
const PROFILES_MAX: usize = 1_000;
/// How the file of a profile ends.
const ENDS: [&str; 3] = ["json", "yaml", "yml"];

/// A folder of profiles: `NAME.json`, `NAME.yaml` or `NAME.yml`.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let _ = files(path).with_context(|| format!("plugins.agent_service.profiles_dir {}", path.display()))?;
        let folder = Self(path.to_owned());
        for problem in folder.read().bad.values() {
            tracing::warn!("a profile cannot be used: {problem}");
        }
        Ok(folder)
    }

    fn read(&self) -> Profiles {
        let mut profiles = Profiles::default();
        let files = files(&self.0).unwrap_or_else(|why| {
            tracing::error!(folder = %self.0.display(), "the profiles cannot be read: {why}");
            Vec::new()
        });
        for path in files {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match profile(&path) {
                _ if profiles.good.contains_key(&name) || profiles.bad.contains_key(&name) => {
                    profiles.good.remove(&name);
                    let folder = self.0.display();
                    profiles.bad.insert(name.clone(), format!("{folder} holds several files for '{name}': keep one"));
                }
                Ok(profile) => drop(profiles.good.insert(name, profile)),
                Err(why) => drop(profiles.bad.insert(name, format!("{}: {why}", path.display()))),
            }
        }
        profiles
    }
}

impl ProfileSource for Folder {
    fn profiles(&self) -> BoxFuture<'_, Profiles> {
        let folder = self.clone();
        let read = tokio::task::spawn_blocking(move || folder.read());
        read.map(Result::unwrap_or_default).boxed()
    }
}

/// The files of profiles in a folder, by name.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| ENDS.iter().any(|known| end == *known)) {
            files.push(path);
        }
    }
    files.sort();
    if files.len() > PROFILES_MAX {
        tracing::warn!(folder = %folder.display(), files = files.len(), "more than {PROFILES_MAX} profiles: the last are left out");
        files.truncate(PROFILES_MAX);
    }
    Ok(files)
}

/// Keys that a profile has beside those of [`Profile`] are the older daemon's, and are let be.
fn profile(path: &Path) -> Result<Profile, String> {
    let bytes = std::fs::metadata(path).map_err(|why| why.to_string())?.len();
    if bytes > PROFILE_BYTES_MAX {
        return Err(format!("{bytes} bytes are more than {PROFILE_BYTES_MAX}"));
    }
    let text = std::fs::read_to_string(path).map_err(|why| why.to_string())?;
    let value: Value = serde_saphyr::from_str(&text).map_err(|why| why.to_string())?;
    if !value.is_object() {
        return Err("a profile is an object with role, capabilities, system_prompt, prompt and model".to_owned());
    }
    serde_path_to_error::deserialize(value).map_err(|why| format!("`{}`: {}", why.path(), why.inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_profile_is_named_with_its_key_and_the_others_work() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "analyst.json",
                r#"{"name": "analyst", "role": "Analysis", "model": "m", "tools": [], "capabilities": ["a"],
                "prompt_template": "Do {task}", "system_instructions": "Be exact."}"#,
            ),
            ("coder.yaml", "role: coding\ncapabilities:\n  - rust\n"),
            ("wrong.json", r#"{"role": "x", "capabilities": "all"}"#),
            ("list.json", "[1]"),
            ("broken.json", "{"),
            ("twice.json", "{}"),
            ("twice.yml", "{}"),
            ("notes.txt", "no profile"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let profiles = Folder::open(folder.path()).unwrap().read();
        assert_eq!(profiles.good.keys().collect::<Vec<_>>(), ["analyst", "coder"]);
        let analyst = &profiles.good["analyst"];
        assert_eq!((analyst.prompt.as_str(), analyst.system_prompt.as_str()), ("Do {task}", "Be exact."));
        assert_eq!(profiles.good["coder"].capabilities, ["rust"]);
        assert_eq!(profiles.bad.keys().collect::<Vec<_>>(), ["broken", "list", "twice", "wrong"]);
        let wrong = &profiles.bad["wrong"];
        assert!(wrong.contains("wrong.json: `capabilities`: "), "{wrong}");
        assert!(Folder::open(&folder.path().join("nowhere")).is_err());
    }
}

//! A folder whose components come into service when they change.
//!
//! `NAME.wasm` is the component of the policy NAME; `NAME.yaml` beside it may hold its `config`,
//! `limits` and `quarantine`. What changed is taken when it has stood still for one look, so that a
//! file that is still being copied is not read. A candidate that is not admitted leaves what serves
//! as it was; it is told in the log and in the ledger, once, until its files change again. A file
//! that goes away changes nothing: to remove a policy, say so.
//!
//! What was taken is remembered across restarts (`watched.json` in the kernel's folder), so that a
//! policy which an operator rolled back or replaced does not come back by itself.
//!
//! Looking once a second costs nothing and works on every file system, which watching does not.

use super::catalogue::write_whole;
use super::change::{Change, ChangeError, Reason};
use super::document::Edit;
use super::life::TrialMode;
use super::package::digest_of;
use super::read_package;
use crate::config::{Quarantine, WatchFile, WatchMode, typed};
use crate::kernel::Kernel;
use anyhow::{Context, Result};
use gavel_runtime::Limits;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::MissedTickBehavior;

/// Policies that one folder may hold; more are not looked at.
const FILES_MAX: usize = 256;

/// Who a change by a folder is recorded as.
const WHO: &str = "watch";

/// Where a kernel's folder remembers what was taken.
const TAKEN: &str = "watched.json";

/// What tells that a file changed: time and size, of the component and of the file beside it.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// What may stand beside a component.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Beside {
    config: Option<Value>,
    limits: Option<Limits>,
    quarantine: Option<Quarantine>,
}

/// A folder and what was seen in it.
struct Watched {
    folder: PathBuf,
    seen: BTreeMap<String, Stamp>,
    done: BTreeMap<String, Stamp>,
}

/// What was taken from the folder: a digest over both files, by policy.
struct Taken {
    file: Option<PathBuf>,
    digests: BTreeMap<String, String>,
}

/// Look into the folder for ever.
pub async fn watch(kernel: Arc<Kernel>, file: WatchFile) {
    let mut watched = Watched { folder: file.folder.clone(), seen: BTreeMap::new(), done: BTreeMap::new() };
    let mut taken = Taken::read(kernel.dir.as_deref());
    let mut tick = tokio::time::interval(Duration::from_millis(file.every_ms));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let changed = match watched.look() {
            Ok(changed) => changed,
            Err(why) => {
                tracing::error!(kernel = kernel.id(), folder = %file.folder.display(), "cannot be watched: {why:#}");
                continue;
            }
        };
        if changed.is_empty() || kernel.state() != gavel_kernel::State::Idle {
            continue;
        }
        if take(&kernel, &file, &changed, &mut taken).await {
            watched.done.extend(changed);
        }
    }
}

impl Taken {
    fn read(dir: Option<&Path>) -> Self {
        let file = dir.map(|dir| dir.join(TAKEN));
        let text = file.as_deref().and_then(|file| std::fs::read(file).ok());
        let digests = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, digests }
    }

    fn is(&self, name: &str, digest: &str) -> bool {
        self.digests.get(name).is_some_and(|known| known == digest)
    }

    /// Remember; where that fails, the folder is taken again after the next start.
    fn note(&mut self, names: &[(String, String)]) {
        self.digests.extend(names.iter().cloned());
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec(&self.digests).map_err(std::io::Error::from);
        if let Err(why) = written.and_then(|text| write_whole(file, &text)) {
            tracing::error!(file = %file.display(), %why, "what was taken from a folder cannot be remembered");
        }
    }
}

impl Watched {
    /// What is new since it was last taken, and has not changed since the last look.
    fn look(&mut self) -> Result<BTreeMap<String, Stamp>> {
        let mut found = BTreeMap::new();
        for file in std::fs::read_dir(&self.folder).with_context(|| self.folder.display().to_string())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "wasm")
                && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
                && found.len() < FILES_MAX
            {
                found.insert(name.to_owned(), [stamp(&path), stamp(&path.with_extension("yaml"))]);
            }
        }
        let still =
            |name: &String, stamp: &Stamp| self.seen.get(name) == Some(stamp) && self.done.get(name) != Some(stamp);
        let changed =
            found.iter().filter(|(name, stamp)| still(name, stamp)).map(|(name, stamp)| (name.clone(), *stamp));
        let changed = changed.collect();
        self.seen = found;
        Ok(changed)
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

/// Bring what changed into service as the configuration says. False: try again at the next look.
async fn take(kernel: &Arc<Kernel>, file: &WatchFile, changed: &BTreeMap<String, Stamp>, taken: &mut Taken) -> bool {
    let (mut edits, mut names) = (Vec::new(), Vec::new());
    for name in changed.keys() {
        match edit(kernel, &file.folder, name) {
            Ok((_, digest)) if taken.is(name, &digest) => {}
            Ok((edit, digest)) => {
                edits.push(edit);
                names.push((name.clone(), digest));
            }
            Err(why) => refuse(kernel, name, &format!("{why:#}")).await,
        }
    }
    if edits.is_empty() {
        return true;
    }
    match serve(kernel, file, edits, &names).await {
        Ok(()) => taken.note(&names),
        // The host is busy, not the policy wrong.
        Err(ChangeError::Kernel(why)) => {
            tracing::warn!(kernel = kernel.id(), %why, "a changed policy waits");
            return false;
        }
        Err(why) => {
            let policies: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
            refuse(kernel, &policies.join(", "), &why.to_string()).await;
        }
    }
    true
}

async fn serve(
    kernel: &Arc<Kernel>,
    file: &WatchFile,
    edits: Vec<Edit>,
    names: &[(String, String)],
) -> Result<(), ChangeError> {
    let policies: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    let why = format!("changed in {}: {}", file.folder.display(), policies.join(", "));
    let reason = Reason { who: WHO, why: &why };
    let line = kernel.policies();
    if line.serving.document.edited(&edits, None)? == line.serving.document {
        return Ok(());
    }
    let mode = match (file.mode, file.percent) {
        (WatchMode::Promote, _) => TrialMode::Staged,
        (WatchMode::Shadow, _) => TrialMode::Shadow,
        (WatchMode::Canary, percent) => TrialMode::Canary(percent.unwrap_or(1)),
    };
    let staged = kernel.change_policies(Change::Stage { edits, order: None, mode }, reason).await?;
    if file.mode == WatchMode::Promote {
        let expected = staged["candidate"]["set"].as_str().map(str::to_owned);
        kernel.change_policies(Change::Promote { expected }, reason).await?;
    }
    Ok(())
}

/// What the files of a policy ask for, and the digest over both.
fn edit(kernel: &Kernel, folder: &Path, name: &str) -> Result<(Edit, String)> {
    let what = format!("policy {name}");
    let package = read_package(&what, &folder.join(format!("{name}.wasm")), &kernel.admission)?;
    let beside = folder.join(format!("{name}.yaml"));
    let text = if beside.is_file() {
        std::fs::read_to_string(&beside).with_context(|| beside.display().to_string())?
    } else {
        String::new()
    };
    let asked: Beside = if text.trim().is_empty() {
        Beside::default()
    } else {
        typed(&beside, serde_saphyr::from_str(&text).with_context(|| beside.display().to_string())?)?
    };
    let digest = digest_of(format!("{}\n{text}", package.digest).as_bytes());
    let edit = Edit {
        name: name.to_owned(),
        component: Some(package.digest),
        config: asked.config,
        limits: asked.limits,
        quarantine: asked.quarantine,
        remove: false,
    };
    Ok((edit, digest))
}

async fn refuse(kernel: &Arc<Kernel>, policies: &str, why: &str) {
    tracing::error!(kernel = kernel.id(), policies, why, "a changed policy is not taken; what served goes on serving");
    let serving = Arc::clone(kernel.policies().serving.digest());
    if let Err(error) = kernel.record_about("refused", policies, &serving, Reason { who: WHO, why }).await {
        tracing::error!(kernel = kernel.id(), %error, "that could not be recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_when_it_stands_still_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut watched = Watched { folder: folder.path().to_owned(), seen: BTreeMap::new(), done: BTreeMap::new() };
        let look = |watched: &mut Watched| watched.look().unwrap().into_keys().collect::<Vec<_>>();
        std::fs::write(folder.path().join("a.wasm"), "1").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "1").unwrap();
        assert!(look(&mut watched).is_empty());
        std::fs::write(folder.path().join("a.wasm"), "12").unwrap();
        assert!(look(&mut watched).is_empty(), "it is still being written");
        let changed = watched.look().unwrap();
        assert_eq!(changed.keys().collect::<Vec<_>>(), ["a"]);
        watched.done.extend(changed);
        assert!(look(&mut watched).is_empty());
        std::fs::write(folder.path().join("a.yaml"), "config: 1").unwrap();
        assert!(look(&mut watched).is_empty());
        assert_eq!(look(&mut watched), ["a"]);
        std::fs::remove_file(folder.path().join("a.wasm")).unwrap();
        assert!(look(&mut watched).is_empty());
    }
}
